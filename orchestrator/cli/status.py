"""`status`: what an operator wants to know first.

In this order: who waits, who holds the slots, how much comes and goes, who leads, what was lost,
what is dead.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from orchestrator.cli import output
from orchestrator.cli.leader import describe, heard
from orchestrator.cli.setup import Setup
from orchestrator.cli.verb import AsJson, verb
from orchestrator.errors import UnknownQueue
from orchestrator.model import DEPTH_MAX, AttemptStatus

if TYPE_CHECKING:
    from psycopg import Connection

    from orchestrator.model import QueueConfig
    from orchestrator.store.fairness import Window
    from orchestrator.store.leadership import Leadership
    from orchestrator.store.loads import OrgLoad
    from orchestrator.store.status import Flow, QueueStatus, Waiting


def register(app: typer.Typer) -> None:
    """Add the verb to `app`."""
    verb(app, "status", "orchestrator status", "orchestrator status --queue default --json")(status)


def status(
    setup: Setup,
    queue: Annotated[str | None, typer.Option(help="Only this queue.")] = None,
    top: Annotated[int, typer.Option(min=1, help="How many orgs to show of each queue.")] = 10,
    as_json: AsJson = False,
) -> None:
    """Show who waits, who holds the slots, and what comes and goes.

    A task waits while it is staged or ready and its org is not paused. An org is quiet while it
    has fewer than 100 staged tasks: what those wait for is not their own backlog. Rates are those
    of the last 60 seconds.
    """
    with setup.connection() as connection:
        found, leaders = _ask(connection, queue)
    if as_json:
        output.document(
            {"queues": [_document(each, leaders[each.queue.id], top) for each in found]}
        )
        return
    for number, each in enumerate(found):
        if number:
            output.say("")
        _show(each, leaders[each.queue.id], top)


def _ask(
    connection: Connection[Any], only: str | None
) -> tuple[list[QueueStatus], dict[int, Leadership]]:
    from psycopg import IsolationLevel

    from orchestrator.store import leadership
    from orchestrator.store.sql import run
    from orchestrator.store.status import queue_status

    queues: list[QueueConfig] = run(connection, leadership.queues([only] if only else None))
    if not queues:
        raise UnknownQueue(f"no queue {only!r}: `orchestrator queue list` names them")
    # One snapshot for each queue, so that its numbers fit each other.
    connection.isolation_level = IsolationLevel.REPEATABLE_READ
    found = []
    for queue in queues:
        with connection.transaction():
            found.append(run(connection, queue_status(queue)))
    return found, {each.queue: each for each in run(connection, leadership.leaders())}


def _show(each: QueueStatus, leader: Leadership, top: int) -> None:
    paused = "  PAUSED: nothing is admitted" if each.queue.paused else ""
    output.say(f"queue {each.queue.name}{paused}")
    output.say(f"  oldest waiting        {_waits(each.oldest)}")
    output.say(f"  oldest of quiet orgs  {_waits(each.oldest_quiet)}")
    output.say(f"  backlog               {_backlog(each)}")
    output.say(f"  slots                 {_slots(each)}")
    _show_orgs(each, top)
    output.say(f"  in / out              {_rates(each.flow)}")
    output.say(f"  fairness              {_fair(each.fairness)}")
    for alarm in each.alarms:
        output.say(f"  ALARM                 {alarm}")
    output.say(f"  leader                {_leads(each, leader)}")
    lost = each.flow.by_status.get(AttemptStatus.LOST, 0)
    output.say(
        f"  expired leases        {each.expired_leases:,} to be taken back, of {each.leases:,} "
        f"running; tasks lost {lost:,}, retried {each.flow.retried:,} in {_window(each.flow)}"
    )
    dead = each.flow.by_status.get(AttemptStatus.DEAD, 0)
    output.say(
        f"  dead letters          {dead:,} in {_window(each.flow)}"
        f"; `orchestrator task list --status dead --queue {each.queue.name}` names all"
    )


def _waits(task: Waiting | None) -> str:
    if task is None:
        return "nothing waits"
    return f"{output.age(task.age_s)}: task {task.id} {task.name!r} of {task.org!r}"


def _backlog(each: QueueStatus) -> str:
    waiting = sum(org.staged > 0 for org in each.orgs)
    paused = sum(org.staged > 0 and org.paused for org in each.orgs)
    more = "+" if each.scheduled >= DEPTH_MAX else ""
    due = "" if each.next_due_at is None else f", the next at {output.instant(each.next_due_at)}"
    return (
        f"{'' if each.backlog_exact else 'about '}{each.backlog:,} staged by {waiting:,} orgs"
        f"{f' ({paused:,} paused)' if paused else ''}; {each.scheduled:,}{more} scheduled{due}"
    )


def _slots(each: QueueStatus) -> str:
    ready, claimed = (
        sum(getattr(org, place) for org in each.orgs) for place in ("ready", "claimed")
    )
    capacity = "" if each.queue.capacity is None else f" of {each.queue.capacity:,}"
    return f"{ready + claimed:,}{capacity} held: {ready:,} ready, {claimed:,} claimed"


def _show_orgs(each: QueueStatus, top: int) -> None:
    if not each.orgs:
        return
    output.table(
        ("    org", "tier", "ready", "claimed", "burst_max", "share", "fair share", "staged"),
        [
            (
                f"    {org.org}{' (paused)' if org.paused else ''}",
                org.tier,
                org.ready,
                org.claimed,
                org.burst_max,
                f"{org.share:.0%}",
                f"{org.fair_share:.0%}",
                f"{'' if org.staged_exact else '~'}{org.staged:,}",
            )
            for org in each.orgs[:top]
        ],
    )
    if len(each.orgs) > top:
        output.say(f"    … and {len(each.orgs) - top:,} more orgs (--top)")


def _rates(flow: Flow) -> str:
    enqueued, ended = flow.enqueued / flow.window_s, flow.ended / flow.window_s
    return (
        f"{enqueued:,.1f}/s enqueued, {ended:,.1f}/s ended over {_window(flow)}: "
        f"the backlog {'grows' if enqueued > ended else 'does not grow'}"
    )


def _fair(window: Window | None) -> str:
    if window is None:
        return "nothing to compare in the last minute"
    report = window.report
    if report.compared < 2:
        told = f"{report.served:,} orgs served; fewer than two waited all the time"
    else:
        index = "none" if report.jain is None else f"{report.jain:.3f}"
        told = (
            f"Jain index {index} of {report.compared:,} orgs that waited all the time; "
            f"worst lag {report.lag:.3g} {report.lag_unit}, bound {report.lag_bound:.3g}; "
            f"{report.starved:,} starved"
        )
    idle = f"; {report.idle_slot_s:.1f} slot-seconds idle" if report.idle_slot_s else ""
    return f"{told}{idle} ({report.window_s:.0f} s, {output.age(window.ago_s)} ago)"


def _leads(each: QueueStatus, leader: Leadership) -> str:
    if not leader.alive:
        return "NOBODY: `orchestrator run` starts a replica"
    tick = each.last_tick
    did = "none with work yet" if tick is None else f"{output.age(tick.ago_s)} ago"
    return (
        f"{leader.holder}, epoch {leader.epoch}, heard {heard(leader)}; last tick with work {did}"
    )


def _window(flow: Flow) -> str:
    return f"the last {flow.window_s:.0f} s"


def _document(each: QueueStatus, leader: Leadership, top: int) -> dict[str, Any]:
    return {
        "queue": each.queue.name,
        "paused": each.queue.paused,
        "oldest_waiting": each.oldest,
        "oldest_waiting_of_quiet_orgs": each.oldest_quiet,
        "backlog": {"staged": each.backlog, "exact": each.backlog_exact},
        "scheduled": {
            "tasks": each.scheduled,
            "exact": each.scheduled < DEPTH_MAX,
            "next_due_at": each.next_due_at,
        },
        "slots": {
            "ready": sum(org.ready for org in each.orgs),
            "claimed": sum(org.claimed for org in each.orgs),
            "capacity": each.queue.capacity,
        },
        "orgs": [_org_document(org) for org in each.orgs[:top]],
        "orgs_total": len(each.orgs),
        "flow": {
            "window_s": each.flow.window_s,
            "enqueued_per_s": each.flow.enqueued / each.flow.window_s,
            "ended_per_s": each.flow.ended / each.flow.window_s,
            "retried": each.flow.retried,
            "attempts": {
                str(status): each.flow.by_status.get(status, 0) for status in AttemptStatus
            },
        },
        "leader": describe(leader),
        "fairness": None if each.fairness is None else _fairness_document(each.fairness),
        "alarms": list(each.alarms),
        "last_tick": each.last_tick,
        "leases": {"running": each.leases, "expired": each.expired_leases},
    }


def _fairness_document(window: Window) -> dict[str, Any]:
    report = window.report
    return {
        **asdict(report),
        "lag_ratio": report.lag / report.lag_bound if report.lag_bound else 0.0,
        "ended_at": window.ended_at,
        "ago_s": window.ago_s,
    }


def _org_document(org: OrgLoad) -> dict[str, Any]:
    return {
        "org": org.org,
        "tier": org.tier,
        "weight": org.weight,
        "burst_max": org.burst_max,
        "paused": org.paused,
        "quiet": org.is_quiet,
        "ready": org.ready,
        "claimed": org.claimed,
        "staged": org.staged,
        "staged_exact": org.staged_exact,
        "share": org.share,
        "fair_share": org.fair_share,
    }
