"""The options of `work` that only some drivers have."""

from __future__ import annotations

import argparse
import sys


def work_option(name: str) -> float:
    """Take `--NAME NUMBER` of the verb `work` off the command line; return 0 if it is not given."""
    if sys.argv[1:2] != ["work"]:
        return 0
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument(f"--{name}", type=float, default=0.0, dest="value")
    options, sys.argv[1:] = parser.parse_known_args(sys.argv[1:])
    return float(options.value)
