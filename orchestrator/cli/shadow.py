"""`shadow`: a candidate policy beside the live one, and where it would admit differently."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from orchestrator.cli import output, values
from orchestrator.cli.setup import Setup, actor
from orchestrator.cli.verb import AsJson, group, verb
from orchestrator.errors import InvalidInput, UnknownQueue
from orchestrator.model import DEFAULT_QUEUE

if TYPE_CHECKING:
    from collections.abc import Sequence

    from psycopg import Connection

    from orchestrator.fairness.shadowing.comparison import Difference, ShadowReport
    from orchestrator.model import QueueConfig
    from orchestrator.policyfile import Override
    from orchestrator.store.shadow import Reported, ShadowPolicy

QueueOption = Annotated[str, typer.Option("--queue", help="Whose policy to try.")]


def register(app: typer.Typer) -> None:
    """Add the group to `app`."""
    shadow = group("shadow", "A policy beside the live one: compared, never applied.", into=app)
    verb(
        shadow,
        "set",
        "orchestrator shadow set --policy proposed.toml",
        "orchestrator shadow set --queue renders --set org:acme.burst_max=20",
    )(set_shadow)
    verb(shadow, "show", "orchestrator shadow show", "orchestrator shadow show --json")(show)
    verb(shadow, "clear", "orchestrator shadow clear --queue renders")(clear)


def set_shadow(
    setup: Setup,
    queue: QueueOption = DEFAULT_QUEUE,
    policy: Annotated[
        Path | None, typer.Option(metavar="FILE", help="A policy in TOML, as `simulate` takes it.")
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="One setting; after those of the file."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Let a candidate shadow a queue: the live configuration with what is given here.

    It replaces the candidate before it, and begins from where the live policy stands. --set takes
    queue.policy, queue.cost_mode, queue.capacity, queue.headroom, queue.express_reserve,
    org:NAME.tier, .weight, .burst_max, .paused, tier:NAME.weight, .rank, .burst_max,
    workload:NAME.share, .rank, .express, .express_max_s.
    """
    from orchestrator.store import shadow
    from orchestrator.store.sql import run

    overrides = _overrides(policy, settings or [])
    with setup.connection() as connection, connection.transaction():
        config = _queue(connection, queue)
        stored = run(connection, shadow.set_policy(config, overrides, actor=actor()))
    _show(queue, stored, None, as_json)


def show(setup: Setup, queue: QueueOption = DEFAULT_QUEUE, as_json: AsJson = False) -> None:
    """Show what shadows a queue, and how it compares so far."""
    from orchestrator.store import shadow
    from orchestrator.store.sql import run

    with setup.connection() as connection, connection.transaction():
        config = _queue(connection, queue)
        policy: ShadowPolicy | None = run(connection, shadow.policy(config.id))
        reported: Reported | None = run(connection, shadow.reported(config.id))
    _show(queue, policy, reported, as_json)


def clear(setup: Setup, queue: QueueOption = DEFAULT_QUEUE, as_json: AsJson = False) -> None:
    """Let nothing shadow a queue any more, and forget its report."""
    from orchestrator.store import shadow
    from orchestrator.store.sql import run

    with setup.connection() as connection, connection.transaction():
        config = _queue(connection, queue)
        cleared: bool = run(connection, shadow.clear(config, actor=actor()))
    if as_json:
        output.document({"queue": queue, "cleared": cleared})
    else:
        output.say(
            f"queue {queue}: cleared" if cleared else f"queue {queue}: nothing was shadowing it"
        )


def _overrides(policy: Path | None, settings: Sequence[str]) -> list[Override]:
    from orchestrator.policyfile import parse_override, parse_overrides

    overrides: list[Override] = []
    if policy is not None:
        text = values.read(policy)
        try:
            overrides += parse_overrides(text)
        except InvalidInput as error:
            raise InvalidInput(f"{policy}: {error}") from error
    try:
        return overrides + [parse_override(text) for text in settings]
    except InvalidInput as error:
        raise InvalidInput(f"--set {error}") from error


def _queue(connection: Connection[Any], name: str) -> QueueConfig:
    from orchestrator.store import leadership
    from orchestrator.store.sql import run

    found: list[QueueConfig] = run(connection, leadership.queues([name]))
    if not found:
        raise UnknownQueue(f"no queue {name!r}: `orchestrator queue list` names them")
    return found[0]


def _show(
    queue: str, policy: ShadowPolicy | None, reported: Reported | None, as_json: bool
) -> None:
    if as_json:
        output.document({"queue": queue, "policy": policy, **_reported(reported)})
    elif policy is None:
        output.say(f"nothing shadows queue {queue}: `orchestrator shadow set --help`")
    else:
        facts: dict[str, object] = {"queue": queue, "candidate": ", ".join(policy.settings)}
        output.facts(facts | {"set at": policy.set_at, "set by": policy.set_by})
        _tell(reported)


def _reported(reported: Reported | None) -> dict[str, Any]:
    return {
        "since": reported and reported.started_at,
        "updated_at": reported and reported.updated_at,
        "failure": reported and reported.failure,
        "report": reported and reported.report,
    }


def _tell(reported: Reported | None) -> None:
    if reported is None:
        output.say("no report yet: the leader writes one every 10 s in which it admitted something")
        return
    if reported.report is not None:
        _tell_report(reported, reported.report)
    if reported.failure is not None:
        output.say(
            f"the comparison failed: {reported.failure}: set it again, the leader's log has more"
        )


def _tell_report(reported: Reported, report: ShadowReport) -> None:
    total = report.total
    moved = f" ({report.moved / total.live:.1%})" if total.live else ""
    output.facts(
        {
            "since": reported.started_at,
            "updated at": reported.updated_at,
            "rounds": report.rounds,
            "admitted live": total.live,
            "by the candidate": total.shadow,
            "to another org": f"{report.moved:,}{moved}",
            "earlier": report.earlier,
            "later": report.later,
            "dwell change": _change(total.dwell_change_s),
            "Jain live": _index(report.jain_live),
            "Jain candidate": _index(report.jain_shadow),
        }
    )
    output.say("")
    output.table(_columns("tier"), [_row(tier) for tier in report.tiers])
    output.say("")
    output.table(_columns("org"), [_row(org) for org in report.orgs])


def _columns(first: str) -> list[str]:
    return [first, "live", "candidate", "dwell change", "share live", "share candidate"]


def _row(difference: Difference) -> list[object]:
    return [
        difference.name or "-",
        difference.live,
        difference.shadow,
        _change(difference.dwell_change_s),
        f"{difference.live_share:.1%}",
        f"{difference.shadow_share:.1%}",
    ]


def _change(seconds: float) -> str:
    """Return a change of dwell with its sign: plus is a longer wait."""
    if abs(seconds) < 0.0005:
        return "0s"
    return f"{'+' if seconds > 0 else '-'}{_span(abs(seconds))}"


def _span(seconds: float) -> str:
    return f"{seconds:.3f}s" if seconds < 1 else output.age(seconds)


def _index(index: float | None) -> str:
    return "-" if index is None else f"{index:.3f}"
