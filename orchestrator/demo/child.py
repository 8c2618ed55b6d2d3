"""Run the command line in a child process that ends when its parent does, however that happens.

The parent holds the other end of this process's standard input; when the parent is gone, also by
kill -9, the kernel closes it, and the read below returns.
"""

from __future__ import annotations

import os
import runpy
import threading


def _end_with_parent() -> None:
    while os.read(0, 4096):
        pass
    os._exit(0)


def main() -> None:
    """Run `python -m orchestrator ARGS…` until it ends or the parent does."""
    threading.Thread(target=_end_with_parent, name="parent", daemon=True).start()
    runpy.run_module("orchestrator", run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
