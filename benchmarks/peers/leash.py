"""Run a command that ends when whoever started it does: `python leash.py COMMAND …`.

A driver knows nothing of the harness; without this, one whose harness was killed would go on asking
a database that is gone. The kernel keeps the promise across `exec`, so that the command takes the
place of this process: same process id, nothing in between.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1


def main() -> None:
    """Become the command; where the kernel cannot promise anything, become it all the same."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if str(os.getppid()) != os.environ.get("LEASH_PARENT"):
            sys.exit("whoever started this is gone already")
    try:
        os.execvp(sys.argv[1], sys.argv[1:])
    except OSError as error:
        sys.exit(f"{sys.argv[1]}: {error.strerror}")


if __name__ == "__main__":
    main()
