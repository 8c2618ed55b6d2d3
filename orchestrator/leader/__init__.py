"""The life of a replica: it stands for election, leads, and lets go.

## The protocol

**Who is authoritative.** PostgreSQL, never this process's memory or clock. A replica leads a queue
while three things hold: its session owns the queue's advisory lock; the row of `orchestrator_lock`
carries its (epoch, term); its transaction holds that row. Only the third one lets it admit.

**States of a replica, per queue.** *standing* (polls the lock on a candidate session) -> *leading*
(that session has become the leadership session of the queue; ticks run on it) -> *standing* again.

**Election.** (1) `guard`: a writable primary, no pooler between, every server-side timeout as asked
for. (2) the advisory lock, polled, because a blocked waiter would pin the xmin horizon. (3) in its
own transaction, epoch + 1 and a new random term: from that commit on, whatever an older leader
still sends is refused by the fence. (4) the floor is found anew by a full scan, and the cut that
the last
tick persisted is loaded.

**A tick.** See `tick.py`.

**Failure cases.**
- *The process dies:* the server closes the session, the lock is free at once.
- *It is stopped (SIGSTOP), or its machine is gone:* the server ends a silent session after
  `idle_session_timeout` or `idle_in_transaction_session_timeout`; half-open links end by
  `tcp_user_timeout`. No clock of a client decides anything.
- *It is stopped in the middle of a pipeline, or while an answer is sent to it:* none of those
  timeouts runs there. Whoever finds the lock taken ends the leader's session when the server has
  waited for its client for as long as `idle_session_timeout`. Where all who stand by are cut off
  too, servers since PostgreSQL 17 end it by `transaction_timeout`, after as long as the watchdog.
- *It wakes up late:* its session is gone; and were it not, its epoch would be old, and the fence
  returns no row.
- *The outcome of a commit is unknown, or anything raises:* the session is closed, everything in
  memory is dropped, and the replica stands for election again. Nothing is repaired by guessing.
- *Ticks stall* (a hung system call): the watchdog ends the process.
- *SIGTERM:* the term ends between two ticks, the lock is given back, another replica takes over
  within its poll interval.

**Spreading.** A replica that leads nothing polls faster than one that leads, so that queues spread.
"""
