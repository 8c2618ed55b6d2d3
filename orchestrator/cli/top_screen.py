"""What `top` shows of an overview: on a terminal, and as a document."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from orchestrator.cli import output
from orchestrator.cli.leader import describe, heard
from orchestrator.store.loads import OrgLoad
from orchestrator.store.overview import Alarm, AlarmKind, Overview
from orchestrator.store.status import Waiting
from orchestrator.text import printable

_BLOCKS = " ▁▂▃▄▅▆▇█"
_BAR = 20
# Lines that the five numbers, the pace and the headings take, and the line of keys at the end.
_LINES = 14
_KEYS = "q quit   n next queue   s sort   ↑ ↓ scroll   space hold"
_GRAVE = {AlarmKind.NO_LEADER, AlarmKind.LEADER_SILENT, AlarmKind.FAIRNESS, AlarmKind.NO_WORKERS}


@dataclass(slots=True)
class View:
    """How a picture is looked at: what the keys have changed."""

    sort: int = 0
    # The first org that is shown.
    first: int = 0
    held: bool = False
    # Why the last look failed.
    trouble: str | None = None
    alarms: int = 0

    @property
    def rows_above(self) -> int:
        """Return how many lines are taken by what is not an org."""
        return _LINES + 2 * self.alarms + (self.trouble is not None)

    def press(self, key: str) -> bool:
        """Obey a key; return whether the picture changes by it."""
        if key == "s":
            self.sort, self.first = (self.sort + 1) % len(_ORDERS), 0
        elif key == " ":
            self.held = not self.held
        elif key in ("up", "down"):
            self.first = max(0, self.first + (1 if key == "down" else -1))
        else:
            return False
        return True


# The columns by which orgs are sorted, as the key goes through them.
_Order = Callable[[Overview, OrgLoad], float]
_ORDERS: Sequence[tuple[str, _Order]] = (
    ("slots", lambda _, org: -org.in_flight),
    ("staged", lambda _, org: -org.staged),
    ("oldest", lambda found, org: -found.oldest_by_org.get(org.org, 0.0)),
    ("short of its share", lambda _, org: org.share - org.fair_share),
)


def picture(found: Overview, view: View, *, rows: int) -> RenderableType:
    """Return the whole picture, with as many orgs as fit into `rows`."""
    alarms = found.alarms
    view.alarms = len(alarms)
    orgs = sorted(found.status.orgs, key=lambda org: _ORDERS[view.sort][1](found, org))
    view.first = min(view.first, max(0, len(orgs) - rows))
    shown = orgs[view.first : view.first + rows]
    parts: list[RenderableType] = [_head(found, view), *(map(_alarm, alarms)), _numbers(found)]
    parts += [_pace(found), Text(), _orgs(found, shown, view)]
    if len(shown) < len(orgs):
        last = view.first + len(shown)
        parts.append(Text(f"orgs {view.first + 1:,} to {last:,} of {len(orgs):,}", style="dim"))
    parts.append(Text(_KEYS, style="dim"))
    return Group(*parts)


def _head(found: Overview, view: View) -> Text:
    queue = found.status.queue
    text = Text.assemble(
        (f"queue {printable(queue.name)}", "bold"),
        f"   {queue.policy}",
        "   PAUSED" if queue.paused else "",
        f"   {output.instant(found.at)}",
        ("   held still", "bold") if view.held else "",
        no_wrap=True,
    )
    if view.trouble is not None:
        text.append(f"\nno newer picture: {printable(view.trouble)}", style="bold red")
    return text


def _alarm(alarm: Alarm) -> Text:
    style = "bold red" if alarm.kind in _GRAVE else "bold yellow"
    return Text.assemble((f"! {printable(alarm.text)}", style), f"\n  {printable(alarm.unblock)}")


def _numbers(found: Overview) -> Table:
    status, leader = found.status, found.leader
    capacity = "" if status.queue.capacity is None else f" of {status.queue.capacity:,}"
    claimed = found.in_flight - found.ready
    grid = Table.grid(padding=(0, 2))
    for name, value, more in (
        ("oldest of quiet orgs", *_waits(status.oldest_quiet)),
        ("oldest waiting", *_waits(status.oldest)),
        ("slots held", f"{found.in_flight:,}{capacity}", f"{found.ready:,} ready, {claimed:,} run"),
        (
            "in / out",
            f"{found.admitted_per_s:,.1f} / {found.ended_per_s:,.1f}",
            f"admitted and ended a second; {status.backlog:,} staged",
        ),
        (
            "leader",
            f"epoch {leader.epoch}" if leader.alive else "NOBODY",
            f"heard {heard(leader)}; ticks {found.ticks.p50_ms:.1f} ms, "
            f"99th percentile {found.ticks.p99_ms:.1f} ms",
        ),
    ):
        grid.add_row(Text(name, style="dim"), Text(value, style="bold"), Text(more))
    return grid


def _waits(task: Waiting | None) -> tuple[str, str]:
    if task is None:
        return "-", "nothing waits"
    return output.age(task.age_s), printable(f"task {task.id} {task.name} of {task.org}")


def _pace(found: Overview) -> Text:
    """Return two lines of blocks: what was admitted and what ended, over ten minutes."""
    admitted = [step.admitted_per_s for step in found.pace]
    ended = [step.ended_per_s for step in found.pace]
    top = max(*admitted, *ended, 1e-9)
    text = Text()
    for name, values in (("admitted", admitted), ("ended", ended)):
        text.append(f"\n{name:<10}", style="dim")
        text.append(sparkline(values, top), style="cyan" if name == "admitted" else "green")
    text.append(f"\nthe last ten minutes; the highest is {top:,.1f} a second", style="dim")
    return text


def sparkline(values: Sequence[float], top: float, width: int = 60) -> str:
    """Return `values` as `width` blocks, each the mean of its stretch; `top` fills a whole one."""
    size = max(1, len(values) // width)
    means = [
        sum(values[at : at + size]) / len(values[at : at + size])
        for at in range(0, len(values), size)
    ]
    # Anything at all is shown: an empty block says that nothing happened.
    return "".join(
        _BLOCKS[max(1, min(8, round(mean / top * 8)))] if mean > 0 else _BLOCKS[0] for mean in means
    )


def _orgs(found: Overview, shown: Sequence[OrgLoad], view: View) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    table.add_column("org", overflow="ellipsis", max_width=24, no_wrap=True)
    table.add_column("weight", justify="right")
    table.add_column("slots", justify="right", no_wrap=True)
    table.add_column("share, fair share |", no_wrap=True)
    table.add_column("", justify="right", no_wrap=True)
    table.add_column("staged", justify="right", no_wrap=True)
    table.add_column("oldest", justify="right", no_wrap=True)
    table.add_column(f"by {_ORDERS[view.sort][0]}", style="dim", no_wrap=True)
    for org in shown:
        cap = "" if org.burst_max is None else f" / {org.burst_max:,}"
        waits = found.oldest_by_org.get(org.org)
        full = org.burst_max is not None and org.in_flight >= org.burst_max
        table.add_row(
            Text(printable(org.org)),
            Text(f"{org.weight:,}"),
            Text(f"{org.in_flight:,}{cap}", style="yellow" if full else ""),
            bar(org.share, org.fair_share),
            Text(f"{org.share:.0%} / {org.fair_share:.0%}"),
            Text(f"{'' if org.staged_exact else '~'}{org.staged:,}"),
            Text("-" if waits is None else output.age(waits)),
            Text("paused" if org.paused else "" if org.is_quiet else "noisy", style="yellow"),
        )
    return table


def bar(share: float, fair: float) -> Text:
    """Return a bar of the slots an org holds, with a mark where its fair share ends."""
    filled, mark = (min(_BAR, round(part * _BAR)) for part in (share, fair))
    text = Text("".join("█" if at < filled else "·" for at in range(_BAR)), style="cyan")
    if fair > 0:
        at = max(0, mark - 1)
        text = Text.assemble(text[:at], ("|", "bold"), text[at + 1 :])
    return text


def document(found: Overview) -> dict[str, Any]:
    """Return the overview for machines."""
    status = found.status
    return {
        "queue": status.queue.name,
        "at": found.at,
        "paused": status.queue.paused,
        "oldest_waiting_of_quiet_orgs": status.oldest_quiet,
        "oldest_waiting": status.oldest,
        "slots": {
            "ready": found.ready,
            "in_flight": found.in_flight,
            "capacity": status.queue.capacity,
        },
        "backlog": {"staged": status.backlog, "exact": status.backlog_exact},
        "admitted_per_s": found.admitted_per_s,
        "ended_per_s": found.ended_per_s,
        "leader": describe(found.leader),
        "elections_last_hour": found.elections,
        "ticks_last_minute": found.ticks,
        "workers": found.workers,
        "alarms": [asdict(alarm) for alarm in found.alarms],
        "pace": list(found.pace),
        "orgs": [
            {
                "org": org.org,
                "tier": org.tier,
                "weight": org.weight,
                "burst_max": org.burst_max,
                "paused": org.paused,
                "quiet": org.is_quiet,
                "in_flight": org.in_flight,
                "share": org.share,
                "fair_share": org.fair_share,
                "staged": org.staged,
                "staged_exact": org.staged_exact,
                "oldest_s": found.oldest_by_org.get(org.org),
            }
            for org in status.orgs
        ],
    }
