"""A process that has loaded everything and forks into a verb for each line on its standard input.

A line is a JSON object: arguments, directory, environment, and the files that become standard
input, output and error. The answer is a line with the exit code.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import sys
from typing import Any

import orchestrator.cli

LOADED = (
    "orchestrator.cli.comparison",
    "orchestrator.cli.traces",
    "orchestrator.client",
    "orchestrator.leader.session",
    "orchestrator.store.batch",
    "orchestrator.store.migrate",
    "orchestrator.store.schedules",
    "orchestrator.store.shadow",
    "orchestrator.store.status",
    "orchestrator.store.tokens",
    "orchestrator.worker",
    "rich.console",
    "rich.table",
    "tenacity",
)


def main() -> None:
    """Serve until standard input ends."""
    for name in LOADED:
        importlib.import_module(name)
    gc.freeze()
    while line := sys.stdin.readline():
        child = os.fork()
        if child == 0:
            _become(json.loads(line))
        _, status = os.waitpid(child, 0)
        sys.stdout.write(f"{os.waitstatus_to_exitcode(status)}\n")
        sys.stdout.flush()


def _become(request: dict[str, Any]) -> None:
    """Turn this process into the verb that was asked for; does not return."""
    for number, path in enumerate(request["streams"]):
        flags = os.O_RDONLY if number == 0 else os.O_WRONLY | os.O_CREAT | os.O_TRUNC
        os.dup2(os.open(path, flags), number)
    sys.stdin, sys.stdout, sys.stderr = open(0), open(1, "w"), open(2, "w", buffering=1)  # noqa: SIM115
    os.chdir(request["directory"])
    os.environ.clear()
    os.environ.update(request["environment"])
    sys.argv = ["orchestrator", *request["arguments"]]
    try:
        orchestrator.cli.main()
    except SystemExit as done:
        sys.stdout.flush()
        # At once: to put away all that was loaded for others takes longer than the verb.
        os._exit(int(done.code or 0))


main()
