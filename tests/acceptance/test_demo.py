"""The demonstration as a user runs it, and what is left of it however it ends."""

import json
import os
import signal
import subprocess
import sys
import tempfile
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.waiting import until

pytestmark = pytest.mark.timeout(180)


class Run:
    """One demonstration whose processes carry a mark, and whose files go to a folder of its own."""

    def __init__(self, folder: Path, *args: str) -> None:
        self.folder = folder
        self.mark = f"mark-{uuid.uuid4()}"
        self.process = subprocess.Popen(
            [
                sys.executable,
                "-m",
                "orchestrator",
                "demo",
                "--figure",
                str(folder / "f.svg"),
                *args,
            ],
            env=os.environ | {"TMPDIR": str(folder), "DEMO_MARK": self.mark},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def relatives(self) -> list[int]:
        """Return the processes of this run: marked, or working in its folder."""
        return [pid for pid in _pids() if self._is_ours(pid)]

    def _is_ours(self, pid: int) -> bool:
        try:
            process = Path(f"/proc/{pid}")
            seen = (process / "environ").read_bytes() + (process / "cmdline").read_bytes()
        except OSError:  # it ended meanwhile
            return False
        return self.mark.encode() in seen or str(self.folder).encode() in seen

    def leftovers(self) -> list[Path]:
        """Return what lies in its folder beside the figure."""
        return [path for path in self.folder.iterdir() if path.suffix != ".svg"]


def _pids() -> list[int]:
    return [int(path.name) for path in Path("/proc").iterdir() if path.name.isdigit()]


@pytest.fixture
def start() -> Iterator[Callable[..., Run]]:
    """Start demonstrations that are gone at the end of the test, whatever it found."""
    runs: list[Run] = []
    with tempfile.TemporaryDirectory(prefix="d", dir="/tmp") as folder:
        # Whoever runs the private server must be able to enter.
        Path(folder).chmod(0o755)

        def started(*args: str) -> Run:
            runs.append(Run(Path(folder), *args))
            return runs[-1]

        yield started
        for run in runs:
            run.process.kill()
            run.process.communicate()


def test_the_demo_ends_with_nothing_lost_nothing_twice_and_nothing_over_its_cap(
    start: Callable[..., Run],
) -> None:
    run = start("--seconds", "6", "--json")
    out, err = run.process.communicate()
    assert run.process.returncode == 0, err
    summary = json.loads(out.strip().splitlines()[-1])
    assert (summary["lost"], summary["duplicated"], summary["over_cap"]) == (0, 0, 0)
    assert summary["failover_s"] < 10
    assert set(summary["orgs"]) == {"acme", "globex", "initech", "umbrella"}
    for org in summary["orgs"].values():
        assert {"dwell_p50_s", "dwell_p95_s", "share", "fair_share"} <= set(org)
    assert summary["orgs"]["acme"]["dwell_p95_s"] < summary["orgs"]["umbrella"]["dwell_p95_s"]
    assert "<svg" in (run.folder / "f.svg").read_text()[:2000]
    assert run.leftovers() == []
    until(lambda: run.relatives() == [], "its processes to end")


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_nothing_is_left_behind_when_the_demo_is_interrupted(
    start: Callable[..., Run], how: signal.Signals
) -> None:
    run = start("--seconds", "20")
    assert run.process.stdout is not None
    # Its first standings: everything is running.
    for line in run.process.stdout:
        if "backlog" in line:
            break
    run.process.send_signal(how)
    run.process.communicate()
    until(lambda: run.relatives() == [], "its processes to end")
    until(lambda: run.leftovers() == [], "its files to go")
