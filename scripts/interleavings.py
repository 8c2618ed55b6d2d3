"""Play every order of the pairs that must not disturb one another; write docs/interleavings.md.

`make test` plays a sample of those pairs that have more orders than it has time for. This plays
them all, and writes down how many there were. `--log` writes the page from a log of an earlier run.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "interleavings.md"
LOG = ROOT / ".cache" / "interleavings.jsonl"
# A test that plays hundreds of orders takes minutes.
TIMEOUT_S = 1_800

_HELD = "tests/race/test_ends.py::test_a_held_claim_ends_once_and_everybody_is_told_so"
_LOST = "tests/race/test_ends.py::test_a_lost_claim_ends_once_and_everybody_is_told_so"
_ALONG = "test_a_cancellation_is_not_left_in_a_lease_that_only_others_keep_standing"
_REPLAN = "test_a_tick_that_rolls_back_and_plans_again_hides_nothing_below_its_floor"
_TICKS = "tests/race/test_ticks.py"
_WAITING = "tests/race/test_waiting.py"
_CLAIMS = "tests/race/test_claimers.py"
_CLAIM_TWICE = "test_two_claims_in_every_order_of_their_statements"
_FOLD = "test_two_who_fold_beside_an_election_leave_what_the_leader_believed"
_MIGRATE = "test_a_claim_beside_a_migration_gets_its_tasks_or_is_told_to_run_again"

# What goes on at the same time, and the test that plays it.
PAIRS = [
    (
        "tick, tick of an older term",
        f"{_TICKS}::test_of_two_ticks_only_that_of_the_younger_term_admits",
    ),
    (
        "tick, election",
        f"{_TICKS}::test_a_tick_beside_an_election_is_known_to_the_next_term_or_refused",
    ),
    (
        "tick, configuration change",
        f"{_TICKS}::test_a_cap_that_was_lowered_before_the_fence_is_kept_by_that_tick",
    ),
    (
        "tick, replay of a dead letter",
        f"{_TICKS}::test_a_replayed_task_beside_a_tick_is_admitted_once",
    ),
    ("tick with its floor, insert and rollback, cancel", f"{_TICKS}::{_REPLAN}[cancel]"),
    ("tick with its floor and insert, claim", f"{_TICKS}::{_REPLAN}[claim]"),
    ("tick, cancel", f"{_WAITING}::test_cancel_and_tick"),
    ("claim, claim", f"{_CLAIMS}::{_CLAIM_TWICE}[many]"),
    ("claim, claim, of few, with their records", f"{_CLAIMS}::{_CLAIM_TWICE}[few]"),
    ("claim, cancel", f"{_WAITING}::test_cancel_and_claim"),
    ("claim, passed deadline", f"{_WAITING}::test_a_passed_deadline_and_a_rival[claim]"),
    ("cancel, passed deadline", f"{_WAITING}::test_a_passed_deadline_and_a_rival[cancel]"),
    ("cancel, cancel", f"{_WAITING}::test_two_cancellations"),
    ("ack, nack", f"{_HELD}[ack | nack]"),
    ("ack in an open transaction of the caller, nack", f"{_HELD}[ack along | nack]"),
    ("ack that is rolled back, nack", f"{_HELD}[ack in vain | nack]"),
    ("nack, nack", f"{_HELD}[nack | nack too]"),
    ("ack, cancel", f"{_HELD}[ack | cancel]"),
    ("ack in an open transaction of the caller, cancel", f"{_HELD}[ack along | cancel]"),
    ("nack, cancel", f"{_HELD}[nack | cancel]"),
    ("nack, cancel in a transaction of several", f"{_HELD}[nack | cancel and more]"),
    ("nack, extend", f"{_HELD}[nack | extend]"),
    ("ack, extend, nack", f"{_HELD}[ack | extend | nack]"),
    (
        "ack, cancel, in a lease of several tasks",
        f"tests/race/test_ends.py::{_ALONG}[ack | cancel]",
    ),
    (
        "nack, cancel, in a lease of several tasks",
        f"tests/race/test_ends.py::{_ALONG}[nack | cancel]",
    ),
    (
        "nack, cancel in a transaction of several, in a lease of several tasks",
        f"tests/race/test_ends.py::{_ALONG}[nack | cancel and more]",
    ),
    ("ack, reap", f"{_LOST}[ack | reap]"),
    ("ack in an open transaction of the caller, reap", f"{_LOST}[ack along | reap]"),
    ("ack that is rolled back, reap", f"{_LOST}[ack in vain | reap]"),
    ("nack, reap", f"{_LOST}[nack | reap]"),
    ("reap, reap", f"{_LOST}[reap | reap too]"),
    ("cancel, reap", f"{_LOST}[cancel | reap]"),
    ("cancel in a transaction of several, reap", f"{_LOST}[cancel and more | reap]"),
    ("ack, extend, reap", f"{_LOST}[ack | extend | reap]"),
    ("retry, retry", f"{_WAITING}::test_of_two_retries_exactly_one_wins"),
    ("retry, enqueue with its key", f"{_WAITING}::test_a_retry_and_an_enqueue_with_its_key"),
    ("enqueue, enqueue with one key", f"{_WAITING}::test_two_enqueues_with_one_key_store_one_task"),
    (
        "enqueue, enqueue with one key and another payload",
        f"{_WAITING}::test_two_enqueues_with_one_key_and_other_payloads_conflict",
    ),
    (
        "ack, enqueue with the key of its task",
        f"{_WAITING}::test_an_ack_and_an_enqueue_with_the_key_of_its_task",
    ),
    ("fold, fold, election", f"tests/race/test_journal.py::{_FOLD}[committed]"),
    (
        "fold that is rolled back, fold, election",
        f"tests/race/test_journal.py::{_FOLD}[rolled back]",
    ),
    ("claim, migration", f"tests/race/test_migrating.py::{_MIGRATE}[committed]"),
    (
        "claim, migration that is rolled back",
        f"tests/race/test_migrating.py::{_MIGRATE}[rolled back]",
    ),
]

PREAMBLE = """\
# Interleavings

Each row is two or three things that happen at the same time on a real PostgreSQL, and the test that
plays them in every order of their statements: one statement of one session, then one of whichever
session is next; one that waits for a lock is left waiting, and goes on when it may. After each
order the rules of `tests/support/invariants.py` are checked, and what everybody was told.

A test plays all orders where they are few, and a sample of the others, the same each time;
`make interleavings` plays them all and writes this table. A tick counts as five steps: its
feeds, its fence, its probe, moving rows, its commit.

| at the same time | test | orders |
| --- | --- | --: |
"""


def play() -> int:
    """Play everything; return what pytest said."""
    LOG.parent.mkdir(exist_ok=True)
    LOG.unlink(missing_ok=True)
    environment = os.environ | {"INTERLEAVINGS": "all", "INTERLEAVINGS_LOG": str(LOG)}
    tests = sorted({test.partition("[")[0] for _, test in PAIRS})
    command = [sys.executable, "-m", "pytest", "-q", "-o", f"timeout={TIMEOUT_S}", *tests]
    return subprocess.run(command, cwd=ROOT, env=environment, check=False).returncode


def page(logs: Sequence[Path]) -> str:
    """Return the page; raise `SystemExit` unless the pairs are what was played. The last word
    counts.
    """
    played = {}
    for line in "".join(log.read_text() for log in logs).splitlines():
        entry = json.loads(line)
        played[entry["test"]] = (entry["played"], entry["of"])
    missing = [test for _, test in PAIRS if test not in played]
    if missing:
        raise SystemExit(f"interleavings: not played: {missing[0]}")
    unknown = sorted(played.keys() - {test for _, test in PAIRS})
    if unknown:
        raise SystemExit(f"interleavings: played, but in no row: {unknown[0]}")
    rows = [f"| {what} | `{_shown(test)}` | {_told(*played[test])} |\n" for what, test in PAIRS]
    total = sum(played[test][0] for _, test in PAIRS)
    return PREAMBLE + "".join(rows) + f"\n{len(PAIRS)} rows, {total:,} orders played.\n"


def _shown(test: str) -> str:
    return test.rpartition("/")[2].replace("|", "\\|")


def _told(played: int, of: int) -> str:
    return f"all {of:,}" if played == of else f"{played:,} of {of:,}"


def main() -> int:
    """Play and write the page."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument(
        "--log", type=Path, action="append", help="write the page from these logs, play nothing"
    )
    asked = parser.parse_args()
    if asked.log is None and (failed := play()):
        return failed
    PAGE.write_text(page(asked.log or [LOG]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
