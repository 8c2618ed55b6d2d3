"""What a process writes down about itself, line by line, so that it survives its death."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any


def write(path: str | Path, event: str, **fields: Any) -> None:
    """Append one line; a line is written as a whole or not at all."""
    line = json.dumps({"event": event, "at": time.time(), "pid": os.getpid(), **fields})
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    try:
        os.write(descriptor, line.encode() + b"\n")
    finally:
        os.close(descriptor)


def read(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the lines of a journal; a process may have been killed while it wrote the last one."""
    if path.exists():
        for line in path.read_text().splitlines():
            if line.endswith("}"):
                yield json.loads(line)
