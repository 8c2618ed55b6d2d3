"""Ask the advisory service about every locked dependency; advisory, and no part of the tests.

Ends with 0 where nothing is known, 1 where something is, 2 where the service could not be asked.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

LOCK = Path(__file__).parents[1] / "requirements.lock"
# What pip-audit prints once it has asked.
_ASKED = ("No known vulnerabilities found", "known vulnerabilit", "known vulnerability")


def main(arguments: list[str]) -> int:
    """Run pip-audit on the lock; say in one line where it could not ask."""
    command = [
        *(sys.executable, "-m", "pip_audit", "--requirement", str(LOCK)),
        *("--require-hashes", "--disable-pip", "--progress-spinner", "off", *arguments),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if not any(text in done.stderr for text in _ASKED):
        reason = (done.stderr.strip().splitlines() or ["it said nothing"])[-1]
        sys.stderr.write(
            "audit: the advisory service could not be asked, so nothing is known either way: "
            f"try again with a network ({reason[:300]})\n"
        )
        return 2
    sys.stdout.write(done.stdout + done.stderr)
    return done.returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
