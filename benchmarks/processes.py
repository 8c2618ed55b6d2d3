"""What processes hold in memory, as /proc tells."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

_PROC = Path("/proc")


class Memory(NamedTuple):
    """What a process has in memory, in bytes: now, at its peak, and its part of what is shared."""

    rss: int
    peak: int
    pss: int


def memory(pid: int) -> Memory:
    """Return the `Memory` of a process; raise `FileNotFoundError` if there is none."""
    status = _bytes(_PROC / str(pid) / "status")
    rollup = _bytes(_PROC / str(pid) / "smaps_rollup")
    return Memory(status["VmRSS"], status["VmHWM"], rollup["Pss"])


def _bytes(file: Path) -> dict[str, int]:
    lines = (line.split() for line in file.read_text().splitlines())
    return {words[0][:-1]: int(words[1]) * 1024 for words in lines if words[-1] == "kB"}
