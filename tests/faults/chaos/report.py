"""`python -m tests.faults.chaos.report`: write the counts of the table into docs/reliability.md."""

from __future__ import annotations

import json
from pathlib import Path

from tests.faults.chaos.table import TABLE, totals

PAGE = TABLE.with_name("reliability.md")
FAILOVER = TABLE.with_name("failover.json")
BEGIN, END = "<!-- figures of make chaos and make failover -->\n", "<!-- end of figures -->\n"
CONFIDENCE_95 = 3  # -ln(0.05)


def figures() -> str:
    """Return the tables of the page."""
    counts, faults = totals(TABLE)
    schedules, tasks = counts["schedules"], counts["tasks"]
    named = {
        "schedules played": schedules,
        "schedules in which anything was violated": counts["violated"],
        "task lifecycles checked": tasks,
        "attempts": counts["attempts"],
        "snapshots judged": counts["samples"],
        "leader losses": counts["losses"],
        "terms": counts["terms"],
        "ticks": counts["ticks"],
        "stale ticks refused by the fence": counts["stale by fence"],
        "stale leaders refused because their session had ended": counts["stale by session"],
        "stale admissions": 0 if not counts["violated"] else counts["violated"],
        "leases lost": counts["lost"],
        "dead letters": counts["dead"],
        "replies lost after the work was done (leader, worker, producer)": (
            f"{counts['lost reply leader']}, {counts['lost reply worker']},"
            f" {counts['lost reply producer']}"
        ),
        "enqueues of unknown outcome; of them settled by their key": (
            f"{counts['unknown']}; {counts['resolved']}"
        ),
        "repairs by the leader's sweep": counts["leader.repaired"],
    }
    lines = ["| counted | |", "| --- | --- |"]
    lines += [f"| {name} | {shown(value)} |" for name, value in named.items()]
    lines += ["", "| fault | times done |", "| --- | --- |"]
    lines += [f"| {kind} | {faults[kind]} |" for kind in sorted(faults)]
    lines += [
        "",
        f"No violation in {shown(schedules)} schedules bounds the chance that one of them violates"
        f" something at {bound(schedules)}, with 95% confidence (about 3/n); of"
        f" {shown(tasks)} task lifecycles, at {bound(tasks)}. That is of schedules as these are"
        " drawn, on one machine; it says nothing of faults that are not in the list.",
    ]
    return "\n".join(lines) + "\n"


def failover() -> str:
    """Return the table of leader losses with the default settings."""
    found = json.loads(FAILOVER.read_text())
    lines = ["| leader | times | p50, s | p99, s | max, s |", "| --- | --- | --- | --- | --- |"]
    for kind in ("killed", "paused"):
        each = found[kind]
        lines.append(
            f"| {kind} | {each['count']} | {each['p50']} | {each['p99']} | {each['max']} |"
        )
    return "\n".join(lines) + "\n"


def bound(count: int) -> str:
    """Return what zero failures in `count` runs prove, as a part."""
    return f"{CONFIDENCE_95 / count:.2g}" if count else "nothing"


def shown(value: object) -> str:
    """Return a number with separators."""
    return f"{value:,}" if isinstance(value, int) else str(value)


def filled(page: str) -> str:
    """Return the page with the figures of today, chaos first and failover second."""
    for part in (figures(), failover()):
        before, _, rest = page.partition(BEGIN)
        _, _, after = rest.partition(END)
        page = f"{before}\x00{part}\x01{after}"
    return page.replace("\x00", BEGIN).replace("\x01", END)


def main(page: Path = PAGE) -> None:
    """Write the figures into the page."""
    page.write_text(filled(page.read_text()))


if __name__ == "__main__":
    main()
