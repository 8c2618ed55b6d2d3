"""Plant each mistake of mutants.toml in a copy of the project; the tests named must notice it.

A mutant is killed when a test fails. One that survives is a property nobody checks: exit 1. A text
that is not found exactly once, a test that does not run, or one that fails in the unchanged copy,
proves nothing: exit 2.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
import tomllib
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[1]
TABLE = ROOT / "docs" / "mutants.md"
# What the tests need; never the environment or a cache.
PARTS = ("orchestrator", "tests", "schema", "pyproject.toml", "config.example.toml", "docs")
# A mutant under which the tests hang is noticed, too. All of them together take longer.
TIMEOUT_S = 300
UNCHANGED_TIMEOUT_S = 1_800
_FAILED = re.compile(r"^FAILED (\S+)", re.MULTILINE)

PREAMBLE = """\
# Planted mistakes

Each row is a mistake that was planted in a copy of the project, one at a time, and the first test
that noticed it. `make mutants` plants them all again; one that survives fails it. This table is
written by `scripts/mutants.py --write` from `scripts/mutants.toml`.

| mistake | what it would do | planted in | noticed by |
| --- | --- | --- | --- |
"""


class Mutant(NamedTuple):
    """One text that stands exactly once in a file, what replaces it, and who should notice."""

    name: str
    why: str
    file: str
    before: str
    after: str
    tests: list[str]


class Verdict(NamedTuple):
    """What the tests said: `killed_by` is a test, None where all of them passed."""

    mutant: Mutant
    killed_by: str | None
    seconds: float


class Unproven(Exception):
    """A run that proves nothing, and why."""


def mutants() -> list[Mutant]:
    """Return the mutants in their order."""
    listed = tomllib.loads(Path(__file__).with_suffix(".toml").read_text())
    return [Mutant(**fields) for fields in listed["mutant"]]


def planted(mutant: Mutant, project: Path) -> str:
    """Return the file with the mistake; raise `Unproven` unless its place is found exactly once."""
    text = (project / mutant.file).read_text()
    found = text.count(mutant.before)
    if found != 1:
        raise Unproven(f"{mutant.name}: its text stands {found} times in {mutant.file}")
    return text.replace(mutant.before, mutant.after)


def copy(project: Path) -> None:
    """Copy what the tests need to `project`."""
    ignored = shutil.ignore_patterns("__pycache__", ".cache", ".hypothesis")
    for part in PARTS:
        source = ROOT / part
        if source.is_dir():
            shutil.copytree(source, project / part, ignore=ignored)
        else:
            shutil.copy(source, project / part)


def run_python(
    project: Path, *args: str, timeout_s: float = TIMEOUT_S
) -> subprocess.CompletedProcess[str]:
    """Run this Python in `project`, so that it imports the copy."""
    environment = os.environ | {
        "PYTHONPATH": str(project),
        "PYTHONDONTWRITEBYTECODE": "1",
        "HYPOTHESIS_PROFILE": "mutants",
    }
    return subprocess.run(
        [sys.executable, *args],
        cwd=project,
        env=environment,
        capture_output=True,
        text=True,
        timeout=timeout_s,
        check=False,
    )


def check_import(project: Path) -> None:
    """Raise `Unproven` unless the package that is imported is the copy."""
    said = run_python(project, "-c", "import orchestrator; print(orchestrator.__file__)").stdout
    if Path(said.strip()).parent != project / "orchestrator":
        raise Unproven(f"the package is imported from {said.strip() or 'nowhere'}, not the copy")


def first_failure(project: Path, tests: Iterable[str], timeout_s: float = TIMEOUT_S) -> str | None:
    """Return the first test that fails in `project`, None if all pass."""
    options = ("-x", "-q", "-p", "no:xdist", f"--rootdir={project}")
    try:
        done = run_python(project, "-m", "pytest", *options, *tests, timeout_s=timeout_s)
    except subprocess.TimeoutExpired:
        return f"tests that took more than {timeout_s} s"
    if done.returncode == 0:
        return None
    failed = _FAILED.search(done.stdout)
    if done.returncode != 1 or failed is None:
        raise Unproven(
            f"pytest exited with {done.returncode}:\n{done.stdout[-2_000:]}{done.stderr}"
        )
    return failed[1]


def judge(mutant: Mutant) -> Verdict:
    """Plant one mutant in a copy of its own and run its tests."""
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="mutant-") as folder:
        project = Path(folder).resolve()
        copy(project)
        (project / mutant.file).write_text(planted(mutant, project))
        check_import(project)
        killed_by = first_failure(project, mutant.tests)
    return Verdict(mutant, killed_by, time.monotonic() - started)


def check_unchanged(chosen: Iterable[Mutant]) -> None:
    """Raise `Unproven` if a test of these mutants fails where nothing was planted."""
    with tempfile.TemporaryDirectory(prefix="mutant-none-") as folder:
        project = Path(folder).resolve()
        copy(project)
        check_import(project)
        tests = dict.fromkeys(test for mutant in chosen for test in mutant.tests)
        failed = first_failure(project, tests, UNCHANGED_TIMEOUT_S)
    if failed is not None:
        raise Unproven(f"{failed} fails where nothing was planted")


def table(verdicts: Iterable[Verdict]) -> str:
    """Return the page of the documentation."""
    rows = [
        f"| {mutant.name} | {mutant.why} | `{mutant.file}` | {_told(killed_by)} |\n"
        for mutant, killed_by, _ in verdicts
    ]
    return PREAMBLE + "".join(rows)


def _told(killed_by: str | None) -> str:
    if killed_by is None:
        return "**nobody**"
    path, _, test = killed_by.partition("::")
    return f"`{path}`: `{test.split('[')[0]}`" if test else killed_by


def report(verdicts: list[Verdict], *, as_json: bool) -> None:
    """Print what became of each mutant."""
    for mutant, killed_by, seconds in verdicts:
        if as_json:
            fields = {"name": mutant.name, "file": mutant.file, "killed_by": killed_by}
            line = json.dumps(fields | {"seconds": round(seconds, 1)})
        else:
            line = f"{mutant.name:<44} {seconds:6.1f} s  {killed_by or 'SURVIVED'}"
        sys.stdout.write(line + "\n")


def parse() -> argparse.Namespace:
    """Return the options of the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--list", action="store_true", help="name the mutants and stop")
    parser.add_argument("--only", metavar="NAME", action="append", help="these alone")
    parser.add_argument("--jobs", type=int, default=2, help="at the same time")
    parser.add_argument("--json", action="store_true", help="one JSON line for each")
    parser.add_argument("--write", action="store_true", help=f"write {TABLE.relative_to(ROOT)}")
    asked = parser.parse_args()
    if asked.write and asked.only:
        parser.error("--write needs all of them: a part would be taken for the whole")
    return asked


def main() -> int:
    """Judge the mutants asked for; return 0 if all were killed."""
    asked = parse()
    chosen = [mutant for mutant in mutants() if not asked.only or mutant.name in asked.only]
    if asked.list:
        sys.stdout.writelines(f"{mutant.name}: {mutant.why}\n" for mutant in chosen)
        return 0
    verdicts: list[Verdict] = []
    try:
        if not chosen:
            raise Unproven("no mutant has this name; --list names them")
        for mutant in chosen:
            planted(mutant, ROOT)
        check_unchanged(chosen)
        with ThreadPoolExecutor(asked.jobs) as pool:
            for verdict in pool.map(judge, chosen):
                verdicts.append(verdict)
                report([verdict], as_json=asked.json)
                sys.stdout.flush()
    except Unproven as error:
        sys.stderr.write(f"mutants: {error}\n")
        return 2
    if asked.write:
        TABLE.write_text(table(verdicts))
    survived = sum(verdict.killed_by is None for verdict in verdicts)
    sys.stderr.write(f"{len(verdicts) - survived} of {len(verdicts)} mutants were noticed\n")
    return 1 if survived else 0


if __name__ == "__main__":
    sys.exit(main())
