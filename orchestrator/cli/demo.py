"""`demo`: a noisy neighbour on a private PostgreSQL, and a leader that is killed halfway."""

from __future__ import annotations

import json
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from orchestrator.errors import OrchestratorError

if TYPE_CHECKING:
    from orchestrator.demo import Summary

_HELP = """Show fair admission on a private, throw-away PostgreSQL.

Four orgs of different tiers: one floods 20,000 tasks, the others trickle. Halfway the leader is
killed with SIGKILL. At the end the database says whether anything was lost, done twice or over its
cap, and a figure shows the dwell of each org beside plain FIFO. Nothing is left behind.

\b
Examples:
  orchestrator demo
  orchestrator demo --seconds 10 --json
"""


def register(app: typer.Typer) -> None:
    """Add the verb to `app`."""
    app.command("demo", help=_HELP)(demo)


def demo(
    seconds: Annotated[float, typer.Option(min=2, max=3600, help="How long it plays.")] = 30.0,
    as_json: Annotated[
        bool, typer.Option("--json", help="End with one JSON line; progress goes to stderr.")
    ] = False,
    figure: Annotated[Path, typer.Option(metavar="FILE", help="Where the SVG goes.")] = Path(
        "orchestrator-demo.svg"
    ),
) -> None:
    """Run the demonstration; see `_HELP`."""
    from orchestrator.demo import Demo

    # A plain kill ends it as Ctrl-C does: through the blocks that put everything away.
    signal.signal(signal.SIGTERM, _interrupt)
    stream = sys.stderr if as_json else sys.stdout
    if not figure.parent.is_dir():
        raise OrchestratorError(f"no directory {figure.parent}: give --figure another path")
    summary = Demo(seconds, figure, stream).run()
    if as_json:
        print(json.dumps(summary.as_json()))  # noqa: T201 - the document that was asked for
    else:
        _print(summary)
    if not summary.good:
        raise OrchestratorError("a promise was broken: see the summary above")


def _interrupt(signum: int, frame: object) -> None:
    raise KeyboardInterrupt


def _print(summary: Summary) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console()
    table = Table(title="what the database says; dwell is from enqueue to start")
    table.add_column("org")
    for column in ("tasks", "dwell p50", "dwell p95", "FIFO p95", "share", "fair"):
        table.add_column(column, justify="right")
    for name, org in summary.orgs.items():
        table.add_row(
            f"{name} ({org.tier})",
            f"{org.tasks:,}",
            f"{org.dwell_p50_s:.2f} s",
            f"{org.dwell_p95_s:.2f} s",
            f"{org.fifo_dwell_p95_s:.2f} s",
            f"{org.share:.1%}",
            f"{org.fair_share:.1%}",
        )
    console.print(table)
    console.print(
        f"{summary.enqueued:,} tasks: {summary.lost} lost, {summary.duplicated} done twice, "
        f"worst over-cap {summary.over_cap}; failover {summary.failover_s} s",
        highlight=False,
    )
    console.print(f"figure: {summary.figure}", highlight=False, soft_wrap=True)
