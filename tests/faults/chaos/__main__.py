"""`python -m tests.faults.chaos`: play one schedule, or many; append the counts to a table."""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from pathlib import Path

from tests.faults.chaos.run import Outcome, stage
from tests.faults.chaos.schedule import draw
from tests.faults.chaos.table import TABLE, append, next_seed


def main() -> int:
    """Play what the arguments ask for; return 1 if anything was violated."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, help="play this one schedule, and print it")
    parser.add_argument("--first", type=int, default=1, help="the first of many seeds")
    parser.add_argument("--count", type=int, default=20, help="how many schedules")
    parser.add_argument(
        "--resume", action="store_true", help="go on where the table ends, and append"
    )
    parser.add_argument("--part", type=int, default=25, help="schedules in one line of the table")
    parser.add_argument("--table", type=Path, default=TABLE)
    given = parser.parse_args()
    if given.seed is not None:
        _say(str(draw(given.seed)))
        seeds = range(given.seed, given.seed + 1)
    else:
        first = next_seed(given.table) if given.resume else given.first
        seeds = range(first, first + given.count)
    red = 0
    for start in range(seeds.start, seeds.stop, given.part):
        # A fresh server now and then: nothing of an old one can help or hide.
        with stage() as on:
            part = []
            for seed in range(start, min(start + given.part, seeds.stop)):
                outcome = on.play(seed)
                part.append(outcome)
                red += bool(outcome.violations)
                _tell(outcome)
        if given.resume:
            append(given.table, part)
    return 1 if red else 0


def _tell(outcome: Outcome) -> None:
    faults = ", ".join(f"{kind} {count}" for kind, count in sorted(outcome.faults.items()))
    counts = ", ".join(f"{count} {kind}" for kind, count in sorted(Counter(outcome.counts).items()))
    verdict = "ok" if not outcome.violations else "VIOLATED"
    _say(f"seed {outcome.seed}: {verdict} in {outcome.seconds:.1f} s ({faults}; {counts})")
    for violation in outcome.violations[:10]:
        _say(f"  {violation}")
    if outcome.home is not None:
        _say(f"  what it left is in {outcome.home}; again: make chaos SEED={outcome.seed}")


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
