"""Run the command line in a child process that ends when its parent does, however that happens.

The parent holds the other end of this process's standard input; when the parent is gone, also by
kill -9, the kernel closes it, and the read below returns.
"""

from __future__ import annotations

import os
import sys
import threading


def _end_with_parent() -> None:
    while os.read(0, 4096):
        pass
    os._exit(0)


def main() -> None:
    """Run `orchestrator ARGS…` until it ends or the parent does."""
    threading.Thread(target=_end_with_parent, name="parent", daemon=True).start()
    from orchestrator.cli import main as cli

    cli(sys.argv[1:])


if __name__ == "__main__":
    main()
