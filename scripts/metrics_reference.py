"""Write the table of docs/metrics.md anew, from the names and helps in the code."""

from __future__ import annotations

from pathlib import Path

from orchestrator.telemetry.reference import rewritten

PAGE = Path(__file__).parents[1] / "docs" / "metrics.md"

if __name__ == "__main__":
    PAGE.write_text(rewritten(PAGE.read_text()))
