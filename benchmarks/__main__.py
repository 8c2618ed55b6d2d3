"""`python -m benchmarks NAME [--quick] [--json]`."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Mapping

from benchmarks import calibration, drain, fairness, newcomer, simulate

BENCHMARKS: Mapping[str, Callable[[bool], dict[str, object]]] = {
    "calibration": calibration.run,
    "drain": drain.run,
    "fairness": fairness.run,
    "newcomer": newcomer.run,
    "simulate": simulate.run,
}


def main() -> None:
    """Run the named benchmark and print what it measured."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("name", choices=sorted(BENCHMARKS))
    parser.add_argument(
        "--quick", action="store_true", help="a tenth of the work, for a first look"
    )
    parser.add_argument("--json", action="store_true", help="one JSON document")
    given = parser.parse_args()
    figures = BENCHMARKS[given.name](given.quick)
    if given.json:
        json.dump(figures, sys.stdout)
        sys.stdout.write("\n")
        return
    for name, value in figures.items():
        sys.stdout.write(f"{name:32} {value}\n")


if __name__ == "__main__":
    main()
