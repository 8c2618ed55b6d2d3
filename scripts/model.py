"""Check the model of docs/model exhaustively, and that each broken variant of it breaks.

The model as it is must hold in every reachable state of every size listed; a variant that breaks
nothing, or a rule that was not reached, proves nothing and fails. Needs spin and a C compiler;
without them it says so and leaves with 0.
"""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[1]
MODEL = ROOT / "docs" / "model" / "orchestrator.pml"
PAGE = ROOT / "docs" / "model" / "README.md"
WORK = ROOT / ".cache" / "model"
NEEDED = ("spin", "gcc")
TIMEOUT_S = 1_800
_MARKS = ("<!-- results -->\n", "<!-- end of results -->\n")
_STATES = re.compile(r"(\d+) states, stored")
_TRAIL_STEPS = re.compile(r"trail ends after (\d+) steps")
_BROKEN_AT = re.compile(r"orchestrator\.pml:(\d+), Error: assertion violated")
# A search that missed states, and says so.
_CUT_SHORT = ("max search depth too small", "out of memory", "memory exceeded")
_RULE = re.compile(r"/\* RULE (.*?) \*/")


class Size(NamedTuple):
    """How many of each there are."""

    leaders: int
    workers: int
    tasks: int
    attempts: int
    terms: int
    losses: int

    def flags(self) -> list[str]:
        """Return the definitions that give the model this size."""
        return [f"-D{name.upper()}={value}" for name, value in self._asdict().items()]

    def __str__(self) -> str:
        return " ".join(str(value) for value in self)


class Check(NamedTuple):
    """A size in which the model must hold; `when`: quick, full or nightly."""

    what: str
    size: Size
    when: str
    liveness: bool = False


class Variant(NamedTuple):
    """A mistake, by the definition that makes it, and the smallest size that shows it."""

    flag: str
    what: str
    size: Size


class Result(NamedTuple):
    """What the search said: `broken` is a rule and the number of steps to it, or None."""

    states: int
    seconds: float
    broken: tuple[str, int] | None


DELIVERY = Size(leaders=1, workers=2, tasks=2, attempts=2, terms=1, losses=0)
SUCCESSION = Size(leaders=2, workers=2, tasks=1, attempts=2, terms=2, losses=1)
SHARED_CAP = Size(leaders=2, workers=1, tasks=2, attempts=1, terms=2, losses=1)
FAILOVER = SHARED_CAP._replace(losses=2)
SMALL = Size(leaders=1, workers=1, tasks=2, attempts=2, terms=1, losses=0)

CHECKS = [
    Check("delivery and succession of one task", SUCCESSION, "quick"),
    Check("two tasks, two workers, one leader", DELIVERY, "full"),
    Check("two tasks under one cap, two leaders", SHARED_CAP, "full"),
    Check("three terms, two losses", SUCCESSION._replace(terms=3, losses=2), "nightly"),
    Check("every task ends, under weak fairness", SMALL, "quick", liveness=True),
    Check("every task ends, under weak fairness", SUCCESSION, "full", liveness=True),
]
VARIANTS = [
    Variant("NO_EPOCH_CHECK", "the fence locks its row and compares nothing", SHARED_CAP),
    Variant("FENCE_APART", "the fence in a transaction of its own", SHARED_CAP),
    Variant("MERGED_FENCE", "the configuration read by the statement that locks", SHARED_CAP),
    Variant("MERGED_ELECTION", "the cut read by the statement that elects", SHARED_CAP),
    Variant("EPOCH_KEPT", "an election leaves epoch and term as they are", SHARED_CAP),
    Variant("TERM_IGNORED", "epochs compared without the term", FAILOVER),
    Variant("COUNT_APART", "counts saved after the admission's commit", SHARED_CAP),
    Variant("MEMORY_KEPT", "memory kept after a commit of unknown outcome", SHARED_CAP),
    Variant("SLOT_TWICE", "the feed tells of an ended attempt twice", SMALL),
    Variant("SLOT_NEVER", "a nack that writes no removal down", SMALL),
    Variant("CLAIM_UNLOCKED", "the claim picks rows without a lock", SUCCESSION),
    Variant("LEASE_APART", "the lease in a transaction after the claim", SMALL),
    Variant("ATTEMPT_AT_FAILURE", "attempts counted by the nack, not by the claim", SUCCESSION),
    Variant("ACK_BY_ID", "an ack ends the task whoever holds it", SUCCESSION),
    Variant("REVIVE", "extend moves the end of an expired lease", SUCCESSION),
    Variant("REAP_UNLOCKED", "the reaper takes what it read without a lock", SUCCESSION),
    Variant("LEASE_DROPPED", "the reaper drops the lease of a row it skipped", SUCCESSION),
]


def missing() -> list[str]:
    """Return the programs that are needed and are not there."""
    return [program for program in NEEDED if shutil.which(program) is None]


def search(name: str, flags: list[str], *, liveness: bool = False) -> Result:
    """Search all states in a folder of its own; the trail to what broke is left there."""
    folder = WORK / name
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    # Compiled from a copy: the trail bears the name of the file, and lies beside it.
    shutil.copy(MODEL, folder)
    modelled = [*flags, *(["-DLIVENESS"] if liveness else [])]
    _run(folder, ["spin", "-a", *modelled, MODEL.name])
    kind = ["-DNFAIR=3"] if liveness else ["-DSAFETY", "-DNOFAIR"]
    _run(folder, ["gcc", "-w", "-O2", "-DCOLLAPSE", "-DMEMLIM=8000", *kind, "-o", "pan", "pan.c"])
    started = time.monotonic()
    said = _run(folder, ["./pan", "-m200000", *(["-a", "-f"] if liveness else [])])
    seconds = time.monotonic() - started
    states = _STATES.search(said)
    cut_short = any(text in said for text in _CUT_SHORT)
    if states is None or cut_short:
        raise SystemExit(f"model: the search for {name} did not end:\n{said}")
    broken = None
    if "errors: 0" not in said:
        broken = _told(folder, modelled, liveness=liveness)
    return Result(int(states[1]), seconds, broken)


def _told(folder: Path, flags: list[str], *, liveness: bool) -> tuple[str, int]:
    """Play the trail again; return the rule it breaks and how many steps it takes."""
    trail = f"{MODEL.name}.trail"
    said = _run(folder, ["spin", "-t", "-k", trail, "-p", "-g", *flags, MODEL.name])
    (folder / "trail.txt").write_text(said)
    steps = _TRAIL_STEPS.search(said)
    count = int(steps[1]) if steps else 0
    at = _BROKEN_AT.search(said)
    if at is None:
        return ("every task ends" if liveness else "nobody is stuck"), count
    rule = _RULE.search(MODEL.read_text().splitlines()[int(at[1]) - 1])
    return (rule[1] if rule else f"line {at[1]}"), count


def _run(folder: Path, command: list[str]) -> str:
    done = subprocess.run(
        command, cwd=folder, capture_output=True, text=True, timeout=TIMEOUT_S, check=False
    )
    if done.returncode and command[0] != "./pan":
        raise SystemExit(f"model: {' '.join(command)} failed:\n{done.stdout}{done.stderr}")
    return done.stdout


def chosen_checks(when: str) -> list[Check]:
    """Return the checks of this length and the shorter ones."""
    lengths = ["quick", "full", "nightly"]
    return [check for check in CHECKS if lengths.index(check.when) <= lengths.index(when)]


def report(text: str) -> None:
    """Print one line at once."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def main() -> int:
    """Check what was asked for; return 0 if the model holds and every variant breaks."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="the small sizes alone (a minute)")
    parser.add_argument("--nightly", action="store_true", help="the largest size, too")
    parser.add_argument("--only", metavar="FLAG", action="append", help="these variants alone")
    parser.add_argument("--write", action="store_true", help="write the table of docs/model")
    asked = parser.parse_args()
    if missing():
        report(f"model: not checked, {' and '.join(missing())} not installed")
        return 0
    when = "quick" if asked.quick else "nightly" if asked.nightly else "full"
    checks = [] if asked.only else chosen_checks(when)
    variants = [v for v in VARIANTS if not asked.only or v.flag in asked.only]
    rows, failed = [], 0
    for number, check in enumerate(checks):
        result = search(f"holds-{number}", check.size.flags(), liveness=check.liveness)
        failed += result.broken is not None
        said = "holds" if result.broken is None else "BROKEN: " + result.broken[0]
        rows.append(_row(check.what, check.size, result, said))
        report(f"{check.what:<52} {result.states:>10} states {result.seconds:6.1f} s  {said}")
    for variant in variants:
        result = search(variant.flag, [*variant.size.flags(), f"-D{variant.flag}"])
        failed += result.broken is None
        said = "HOLDS" if result.broken is None else f"{result.broken[0]} ({result.broken[1]})"
        rows.append(_row(f"`{variant.flag}`: {variant.what}", variant.size, result, said))
        report(f"{variant.flag:<52} {result.states:>10} states {result.seconds:6.1f} s  {said}")
    if asked.write:
        _write(rows)
    report(f"{len(rows) - failed} of {len(rows)} as they should be")
    return 1 if failed else 0


def _row(what: str, size: Size, result: Result, said: str) -> str:
    return f"| {what} | {size} | {result.states:,} | {said} |\n"


def _write(rows: list[str]) -> None:
    head = "| what | size | states | outcome |\n| --- | --- | --: | --- |\n"
    before, _, rest = PAGE.read_text().partition(_MARKS[0])
    _, _, after = rest.partition(_MARKS[1])
    PAGE.write_text(before + _MARKS[0] + "\n" + head + "".join(rows) + "\n" + _MARKS[1] + after)


if __name__ == "__main__":
    sys.exit(main())
