"""The queues that ours is measured beside, each driven through its own public API.

A peer is a *driver*: a program in the peer's own language and environment (none is a dependency of
the product), run as `DRIVER VERB [options]` with the database in `DATABASE_URL`. Verbs:

`version`
    Print `{"version": "procrastinate 3.10.0"}`.
`setup`
    Create whatever the peer needs in an empty database.
`enqueue --tasks N --orgs K [--org NAME] [--clients C] [--bulk [--batch B]] [--gap-ms G]`
`        [--pad BYTES] [--fair]`
    Enqueue N no-op tasks, org `org{i % K}` (or NAME for all), from C clients (default 1), one call
    each or, with `--bulk`, through the peer's bulk path if it has one: B tasks a call, or as many
    as the driver finds best. With `--gap-ms`, call number i (over all clients, which take the calls
    in turn) is due G * i milliseconds after the first: an open schedule, in which a call that is
    late is not skipped. The payload of each task is `{"org": …, "n": number of the task, "sent_ns":
    CLOCK_MONOTONIC when its call began, "pad": "x" * BYTES}`. Connecting is not timed. Print
    `{"seconds": S, "returned_ns": […]}`: from the first call to the return of the last; and, with
    `--gap-ms`, when each call returned, in the order in which they were due, else nothing.
`work --report FILE [--fast] [--trace] [--fair] [--batch B] [--linger-ms L]`
    Be one worker process until SIGTERM. `--fast` is the peer's recommended batching and
    concurrency, without it its default configuration. `--batch` (ours and those written by hand
    alone: raw, staged, seed-shape) is the size of claims and acks, `--linger-ms` (ours alone) for
    how long an ack waits for others. Each handler notes when it was started, and does nothing else.
    FILE gets one JSON line when the process is ready to take tasks, `{"ready": true}`; every 100 ms
    while tasks come `{"handled": so far, "first_ns": …, "last_ns": …}` (CLOCK_MONOTONIC of the
    first and of the latest start), and the same once more at the end with, if `--trace`, `"starts":
    [[org, n, started_ns, sent_ns], …]`. Every line is flushed.
`lead`
    Ours and staged alone: be the process that admits, or moves, until SIGTERM. It is started when
    the workers are ready.
`pending`
    Print `{"pending": N}`: tasks that are not finished and acknowledged.

`--fair` switches on the peer's own fairness feature, if it has one (`Peer.fair` names it), and goes
with `enqueue` and `work` alike. All instants are of CLOCK_MONOTONIC in nanoseconds: Python's
`time.monotonic_ns()`, Node's `process.hrtime.bigint()`; they can be compared across the processes
of one machine. An error is a line on stderr and an exit status other than 0.
"""
