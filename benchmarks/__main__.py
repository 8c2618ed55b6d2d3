"""`python -m benchmarks NAME [--quick] [--json]`: measure, and show what was found."""

from __future__ import annotations

import argparse
import contextlib
import importlib
import json
import signal
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from benchmarks.speed.suite import BENCHMARKS

# Modules of `benchmarks` with `run(quick)`, which have no bars of their own in RESULTS.md.
OTHERS: Mapping[str, str] = {
    "calibration": "whether tasks start when `explain` says they will",
    "fairness": "the experiments on fairness: writes FAIRNESS.md (7 minutes)",
    "newcomer": "what an org that comes late waits at full speed",
    "simulate": "time and memory of `orchestrator simulate` over a large trace",
}
ALL, COMPOSE = "all", "compose"
_COMMANDS = {
    ALL: "all benchmarks of speed, one after the other",
    COMPOSE: "measure nothing; write RESULTS.md and its figures again",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what the command line names; return the exit status."""
    parser = _parser()
    given = parser.parse_args(arguments)
    if given.only and given.name != ALL:
        parser.error(f"--only goes with {ALL}")
    run = {ALL: _all, COMPOSE: _compose, **dict.fromkeys(OTHERS, _other)}.get(given.name, _one)
    try:
        return run(given)
    except KeyboardInterrupt:
        _tell("interrupted; the result files of what was measured to its end are kept")
        return 130


def _one(given: argparse.Namespace) -> int:
    """Measure one benchmark of speed in this process."""
    from benchmarks.speed import document, record, screen, suite

    with contextlib.redirect_stdout(sys.stderr):  # the document alone belongs there
        found = suite.measure(given.name, quick=given.quick)
    home = _home(given)
    if home is not None:
        record.write(home / "results" / f"{given.name}.json", found)
        path = document.compose(home)
        _tell(f"written: {path}")
    if given.json:
        _print_json(record.values(found))
    else:
        screen.show(found, screen.console())
    return 0


def _all(given: argparse.Namespace) -> int:
    """Measure all, or those that --only names, each in a process of its own."""
    from benchmarks.speed import record, screen, suite

    options = ["--quick"] if given.quick else []
    if given.out:
        options += ["--out", str(given.out.resolve())]
    outcomes = suite.measure_all(
        [name for name in BENCHMARKS if name in (given.only or BENCHMARKS)],
        lambda name: suite.measure_apart(name, options=options),
        _tell,
    )
    if given.json:
        found = {o.name: record.values(o.record) for o in outcomes if o.record}
        failed = {o.name: o.error for o in outcomes if not o.record}
        _print_json({"benchmarks": found, "failed": failed})
    else:
        screen.show_all(outcomes, screen.console())
    return int(any(outcome.record is None for outcome in outcomes))


def _compose(given: argparse.Namespace) -> int:
    from benchmarks.speed import document

    _say(str(document.compose(given.out or document.HOME)))
    return 0


def _other(given: argparse.Namespace) -> int:
    figures = importlib.import_module(f"benchmarks.{given.name}").run(given.quick)
    if given.json:
        _print_json(figures)
    else:
        for name, value in figures.items():
            _say(f"{name:32} {value}")
    return 0


def _home(given: argparse.Namespace) -> Path | None:
    """Return where results go; nowhere if the run was quick and no folder was named."""
    from benchmarks.speed import document

    if given.out:
        return Path(given.out)
    return None if given.quick else document.HOME


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")


def _tell(text: str) -> None:
    """Report progress, beside what was asked for."""
    sys.stderr.write(f"{text}\n")
    sys.stderr.flush()


def _print_json(values: Mapping[str, object]) -> None:
    """Write one document on one line, as the last of the output."""
    _say(json.dumps(values))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        usage="python -m benchmarks NAME [--quick] [--json] [--out DIR] [--only NAME,NAME]",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    names = [*BENCHMARKS, *_COMMANDS, *OTHERS]
    parser.add_argument("name", metavar="NAME", choices=sorted(names), help="one of the above")
    parser.add_argument("--quick", action="store_true", help="a small version, for a first look")
    parser.add_argument("--json", action="store_true", help="one JSON document instead of tables")
    parser.add_argument(
        "--out",
        metavar="DIR",
        type=Path,
        help="where results/NAME.json, RESULTS.md and figures/ go, also those of a quick run"
        " (benchmarks of speed only; default: benchmarks/ of the checkout, nothing if --quick)",
    )
    parser.add_argument(
        "--only",
        metavar="NAME,NAME",
        type=_chosen,
        help=f"with {ALL}: these benchmarks only",
    )
    return parser


def _chosen(text: str) -> list[str]:
    names = [name.strip() for name in text.split(",")]
    for name in names:
        if name not in BENCHMARKS:
            raise argparse.ArgumentTypeError(f"{name!r} is none of {', '.join(BENCHMARKS)}")
    return names


def _listed(title: str, names: Mapping[str, str]) -> str:
    return "\n".join([title, *(f"  {name:12} {text}" for name, text in names.items())])


_DESCRIPTION = f"""Measure the product, beside other queues where they can be compared.

{_listed("benchmarks of speed and of flat costs:", BENCHMARKS)}

{_listed("all of these:", _COMMANDS)}

{_listed("others:", OTHERS)}"""

_EPILOG = """A full run of a benchmark of speed writes benchmarks/results/NAME.json and composes
benchmarks/RESULTS.md and its figures again, so one can be measured again alone. A quick run writes
nothing. Other queues take part once `make peers` has installed them; one that cannot run is named
with the reason. Let the machine do nothing else meanwhile.

Exit status: 0 measured (also if a bar was missed), 1 a benchmark failed, 2 wrong usage.
docs/benchmarks.md tells how to read the results.

  python -m benchmarks drain --quick       a first look at one
  python -m benchmarks all                 everything, as `make bench` does
  python -m benchmarks all --only drain,enqueue"""


def _stop(signal_number: int, frame: object) -> None:
    """Leave as on Ctrl-C, so that servers and processes are stopped; once, not in the middle."""
    signal.signal(signal_number, lambda *_: None)
    raise KeyboardInterrupt


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, _stop)
    sys.exit(main())
