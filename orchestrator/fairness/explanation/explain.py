"""Why a task waits: typed reasons in the order in which they bind, from one snapshot of facts.

What shuts a task out altogether (not due, paused, a cap, no leader) comes before its place in the
line (its org's own tasks, the orgs that go first), and that before what is left when its turn has
come (the ready window, a worker). The first reason is the one to look at.
"""

from __future__ import annotations

from collections.abc import Iterator

from orchestrator.fairness.explanation.facts import Facts
from orchestrator.fairness.explanation.forecast import forecast
from orchestrator.fairness.explanation.standing import Standing, standing
from orchestrator.fairness.explanation.words import (
    at,
    counted,
    goes,
    listed,
    saying,
    since,
    span,
    written,
)
from orchestrator.fairness.slots import reserve_of
from orchestrator.fairness.state import Lane
from orchestrator.model import (
    DEPTH_MAX,
    AttemptStatus,
    Explanation,
    Place,
    Policy,
    Reason,
    ReasonKind,
    after,
)

# Orgs that are named, where many go first.
_NAMED_MAX = 10
_WEIGHT = "more weight would speed its org up"
_FAILURES = (AttemptStatus.FAILED, AttemptStatus.LOST, AttemptStatus.DEAD)


def explained(facts: Facts) -> Explanation:
    """Return the `Explanation` that `facts` amount to."""
    task, expected = facts.task, forecast(facts)
    explanation = {
        Place.ENDED: _ended,
        Place.CLAIMED: _claimed,
        Place.READY: _ready,
        Place.SCHEDULED: _scheduled,
        Place.STAGED: _staged,
    }[task.place]
    return Explanation(
        id=task.id,
        org=task.org,
        queue=facts.queue.name,
        workload=task.workload,
        place=task.place,
        at=facts.at,
        line_at=facts.line_at,
        reasons=(*explanation(facts), *_last_failure(facts)),
        expected_start_at=expected and after(facts.at, expected.median_s),
        expected_start_low_at=expected and after(facts.at, expected.low_s),
        expected_start_high_at=expected and after(facts.at, expected.high_s),
        rate_per_s=expected and expected.rate_per_s,
        starts_ahead=expected and expected.starts_ahead,
    )


def _ended(facts: Facts) -> Iterator[Reason]:
    task = facts.task
    how = f"as {task.status}" if task.status else "before its history was dropped"
    again = (
        "retry it by hand" if task.status in (AttemptStatus.DEAD, AttemptStatus.CANCELLED) else None
    )
    error = task.last.error if task.last else None
    yield Reason(
        kind=ReasonKind.ENDED,
        text=f"It ended {how}{at(task.ended_at)}{saying(error)}.",
        unblock=again and f"Only {again}: `orchestrator task retry {task.id}`.",
        since=task.ended_at,
        worker=task.last.worker if task.last else None,
        attempt=task.attempt,
        status=task.status,
        error=error,
    )


def _claimed(facts: Facts) -> Iterator[Reason]:
    task = facts.task
    worker = task.worker or "a worker"
    until = f" until {written(task.lease_expires_at)}" if task.lease_expires_at else ""
    yield Reason(
        kind=ReasonKind.LEASED,
        text=f"{worker} has claimed it and holds its lease{until}.",
        unblock="It ends, or its lease does: a worker that lives extends it.",
        since=task.claimed_at,
        until=task.lease_expires_at,
        worker=task.worker,
        attempt=task.attempt,
    )


def _ready(facts: Facts) -> Iterator[Reason]:
    first, workers = facts.task.claimed_first, facts.queue.workers
    yield Reason(
        kind=ReasonKind.WAITING_FOR_WORKER,
        text=f"It is admitted and waits for a worker, behind {counted(first)}.",
        unblock=_a_worker(facts),
        count=first,
        limit=workers,
    )


def _scheduled(facts: Facts) -> Iterator[Reason]:
    task = facts.task
    why = "is tried again" if task.last and task.last.status in _FAILURES else "is due"
    yield Reason(
        kind=ReasonKind.NOT_DUE,
        text=f"It {why} at {written(task.run_at)}, in {span(task.due_in_s)}.",
        unblock="Its time comes.",
        until=task.run_at,
    )
    yield from _pauses(facts)
    yield from _leader_absent(facts)


def _staged(facts: Facts) -> Iterator[Reason]:
    shut = [*_pauses(facts), *_burst_max(facts), *_full(facts), *_headroom(facts)]
    shut += _leader_absent(facts)
    first = _standing(facts)
    line = [*_behind_own(facts, first), *_behind_orgs(facts, first), *_window(facts)]
    yield from shut
    yield from line
    if not shut and not line:
        yield Reason(
            kind=ReasonKind.NEXT_TICK,
            text="Nothing holds it back: the leader admits it in its next tick.",
        )
    yield from _demoted(facts)


# What shuts it out --------------------------------------------------------------------------------


def _pauses(facts: Facts) -> Iterator[Reason]:
    org, queue = facts.task.org, facts.queue
    if facts.org.paused:
        yield Reason(
            kind=ReasonKind.ORG_PAUSED,
            text=f"Org {org} is paused{since(facts.paused_at)}{saying(facts.paused_reason)}.",
            unblock=f"Resume it: `orchestrator org resume {org}`.",
            orgs=(org,),
            since=facts.paused_at,
        )
    if queue.paused_at is not None:
        yield Reason(
            kind=ReasonKind.QUEUE_PAUSED,
            text=f"Queue {queue.name} is paused{since(queue.paused_at)}.",
            unblock=f"Resume it: `orchestrator queue resume {queue.name}`.",
            since=queue.paused_at,
        )


def _burst_max(facts: Facts) -> Iterator[Reason]:
    org = facts.org
    if org.burst_max is None or org.in_flight < org.burst_max:
        return
    yield Reason(
        kind=ReasonKind.BURST_MAX,
        text=f"Org {org.org} holds {org.in_flight} of burst_max {org.burst_max} slots: "
        f"tasks {listed(facts.holders, org.in_flight)}{_asked(facts)}.",
        unblock=f"One of those ends, {_yields(facts)}or the cap is raised: `orchestrator org set "
        f"{org.org} --burst-max N`.",
        count=org.in_flight,
        limit=org.burst_max,
        tasks=facts.holders,
        orgs=(org.org,),
    )


def _asked(facts: Facts) -> str:
    """Tell which of the org's running tasks are asked to make room."""
    if not facts.asked:
        return ""
    some = "task" if len(facts.asked) == 1 else "tasks"
    return f"; {some} {listed(facts.asked, len(facts.asked))} asked to yield"


def _yields(facts: Facts) -> str:
    if not facts.task.critical:
        return ""
    return "or yields (of those that run, one of a lower priority is asked to), "


def _full(facts: Facts) -> Iterator[Reason]:
    """Tell that the queue holds what it may, or that what is free is kept for express work."""
    queue = facts.queue
    if queue.capacity is None:
        return
    kept = reserve_of(queue.capacity, queue.express_reserve if queue.has_express else 0)
    in_flight, exact = queue.in_flight
    main = in_flight - queue.express_in_flight
    raise_it = f"`orchestrator queue set {queue.name} --capacity N`"
    if in_flight >= queue.capacity:
        yield Reason(
            kind=ReasonKind.QUEUE_FULL,
            text=f"Queue {queue.name} is full: {in_flight} of capacity {queue.capacity} slots are "
            "held.",
            unblock=f"An admitted task of any org ends, or the capacity is raised: {raise_it}.",
            count=in_flight,
            count_exact=exact,
            limit=queue.capacity,
        )
    elif main >= queue.capacity - kept and not facts.flow.express:
        yield Reason(
            kind=ReasonKind.EXPRESS_RESERVE,
            text=f"All {queue.capacity - kept} ordinary slots of queue {queue.name} are held; the "
            f"other {kept} are kept for express work.",
            unblock="An ordinary task ends, or the reserve is made smaller.",
            count=main,
            count_exact=exact,
            limit=queue.capacity - kept,
        )


def _headroom(facts: Facts) -> Iterator[Reason]:
    queue, org = facts.queue, facts.org
    if queue.headroom is None or queue.capacity is None:
        return
    limit = queue.headroom * (queue.capacity - queue.in_flight.tasks)
    if 0 < limit <= org.in_flight:
        yield Reason(
            kind=ReasonKind.HEADROOM,
            text=f"Org {org.org} holds {org.in_flight} slots, and may hold {queue.headroom:g} "
            f"times the {queue.capacity - queue.in_flight.tasks} that are free.",
            unblock="One of its own tasks ends, or other orgs free slots.",
            count=org.in_flight,
            limit=int(limit),
            tasks=facts.holders,
        )


def _leader_absent(facts: Facts) -> Iterator[Reason]:
    if facts.queue.leader is not None:
        return
    until = facts.queue.led_until
    last = f"; the last sign of a leader is of {written(until)}" if until else ""
    yield Reason(
        kind=ReasonKind.LEADER_ABSENT,
        text=f"Nobody leads queue {facts.queue.name}{last}.",
        unblock="A replica is elected: `orchestrator run` where none runs.",
        since=until,
    )


# Its place in the line ----------------------------------------------------------------------------


def _standing(facts: Facts) -> Standing:
    """Return what goes before it in the lane where less does."""
    lanes = [Lane.MAIN]
    if facts.flow.express and facts.queue.express_reserve != 0:
        lanes.append(Lane.EXPRESS)
    return min((standing(facts, lane) for lane in lanes), key=lambda each: each.tasks)


def _behind_own(facts: Facts, first: Standing) -> Iterator[Reason]:
    if not first.own_tasks:
        return
    others = [flow for flow in facts.org.flows if flow.workload != facts.task.workload]
    exact = facts.task.ahead.exact and all(flow.critical < DEPTH_MAX for flow in others)
    least = "" if exact else "About "
    parts = ", ".join(f"{flow.tasks:,} in {flow.workload}" for flow in first.own)
    tasks = f"{counted(first.own_tasks)} of its own org {facts.org.org}"
    yield Reason(
        kind=ReasonKind.BEHIND_OWN_TASKS,
        text=f"{least}{tasks} {goes(first.own_tasks)} first: {parts}{_critical(first)}.",
        unblock=_own_turn(facts, first),
        count=first.own_tasks,
        count_exact=exact,
        orgs=(facts.org.org,),
    )


def _critical(first: Standing) -> str:
    """Tell how many of the org's own tasks in front are critical."""
    if not first.own_critical:
        return ""
    number = "all" if first.own_critical == first.own_tasks else f"{first.own_critical:,}"
    return f"; {number} of them critical"


def _own_turn(facts: Facts, first: Standing) -> str:
    """Tell what would put the task before its org's own: for critical ones their order is all."""
    if facts.task.critical:
        of = "workload" if facts.queue.policy is Policy.STRICT else "org"
        return f"Its turn comes, before all of its {of} that is not critical; {_WEIGHT}."
    if first.own_critical == first.own_tasks:
        return f"Its turn comes: only critical tasks of its org are in front; {_WEIGHT}."
    return (
        f"Its turn comes. A higher priority would put it before others of its workload, {_WEIGHT}."
    )


def _behind_orgs(facts: Facts, first: Standing) -> Iterator[Reason]:
    orgs = first.orgs
    if not orgs:
        return
    tasks = sum(flow.tasks for flow in first.others)
    strict = facts.queue.policy is Policy.STRICT
    by = "by the rank of their tiers" if strict else "by virtual time"
    named = ", ".join(orgs[:_NAMED_MAX]) + (" …" if len(orgs) > _NAMED_MAX else "")
    yield Reason(
        kind=ReasonKind.BEHIND_ORGS,
        text=f"{len(orgs)} other org{'s' * (len(orgs) > 1)} {goes(len(orgs))} first {by}, with "
        f"about {counted(tasks)}: {named}.",
        unblock="Their turns come first; a better tier would give its org more turns.",
        count=len(orgs),
        count_exact=facts.line_exact,
        orgs=orgs[:_NAMED_MAX],
    )


def _window(facts: Facts) -> Iterator[Reason]:
    """Tell that enough is admitted for the workers there are."""
    if not facts.pulses:
        return
    ready, window = facts.queue.ready, facts.pulses[0].window
    if not ready or ready < window:
        return
    yield Reason(
        kind=ReasonKind.READY_WINDOW,
        text=f"The ready window is full: {counted(ready)} admitted, and no worker free for them.",
        unblock=_a_worker(facts),
        count=ready,
        limit=window,
    )


# What else there is to know -----------------------------------------------------------------------


def _demoted(facts: Facts) -> Iterator[Reason]:
    if not facts.workload_express or facts.flow.express or facts.express_max_us is None:
        return
    takes, most = facts.flow.cost_us / 1e6, facts.express_max_us / 1e6
    yield Reason(
        kind=ReasonKind.EXPRESS_DEMOTED,
        text=f"Workload {facts.task.workload} is express, but tasks of org {facts.org.org} in it "
        f"take {takes:.3g} s, more than the {most:.3g} s it promises: the express reserve is "
        "closed to them.",
        unblock="They get shorter, or move to a workload of their own.",
    )


def _last_failure(facts: Facts) -> Iterator[Reason]:
    task = facts.task
    last = task.last
    if last is None or last.status not in _FAILURES or task.place is Place.ENDED:
        return
    retry = f"the next is due at {written(task.run_at)}" if task.run_at else "it is tried again"
    yield Reason(
        kind=ReasonKind.LAST_FAILURE,
        text=f"Attempt {last.attempt} of {task.max_attempts} ended as {last.status}"
        f"{at(last.ended_at)}{saying(last.error)}; {retry}.",
        since=last.ended_at,
        until=task.run_at,
        worker=last.worker,
        attempt=last.attempt,
        status=last.status,
        error=last.error,
    )


def _a_worker(facts: Facts) -> str:
    if facts.queue.workers or facts.queue.claimed:
        return "A worker becomes free."
    return f"Start a worker for queue {facts.queue.name}: none announces itself."
