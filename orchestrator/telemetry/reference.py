"""The table of `docs/metrics.md`, made from the names and helps themselves."""

from __future__ import annotations

from collections.abc import Iterator

from orchestrator.telemetry.metrics import CATALOGUE

BEGIN = "<!-- generated: scripts/metrics_reference.py -->"
END = "<!-- end -->"


def table() -> Iterator[str]:
    """Yield the lines of the table."""
    yield "| metric | kind | labels | shown by | what |"
    yield "|---|---|---|---|---|"
    for metric in sorted(CATALOGUE):
        labels = ", ".join(f"`{label}`" for label in metric.labels)
        yield (
            f"| `{metric.name}` | {metric.kind} | {labels} | {metric.shown_by} | {metric.help} |"
        )


def rewritten(page: str) -> str:
    """Return the page with the table as it should be."""
    before, _, rest = page.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n\n" + "\n".join(table()) + f"\n\n{END}{after}"
