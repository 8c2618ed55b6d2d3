"""What deploy/ promises: its files are sound; a replica needs no root and no place to write."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from scripts import check_deploy
from tests.acceptance.cli import Shell
from tests.support.waiting import until

# Every file system read-only, a user that is not root, and no capability left.
_LOCKED_UP = """
set -e
mount --make-rprivate /
while read -r _ place kind _; do
    case $kind in ext*|xfs|btrfs|overlay|tmpfs) mount -o remount,bind,ro "$place" ;; esac
done </proc/self/mounts
exec unshare --user --map-user=65532 --map-group=65532 \
    setpriv --no-new-privs --inh-caps=-all --ambient-caps=-all "$@"
"""


def test_everything_in_deploy_is_sound(capsys: pytest.CaptureFixture[str]) -> None:
    assert check_deploy.main() == 0, capsys.readouterr().err


@pytest.mark.parametrize(
    ("file", "sound", "broken", "named"),
    [
        ("Containerfile", "USER 65532:65532", "USER root", "may be root"),
        ("Containerfile", '["orchestrator"]', "orchestrator", "swallows SIGTERM"),
        ("kubernetes/replica.yaml", "drop: [ALL]", "drop: [NET_RAW]", "keeps capabilities"),
        ("kubernetes/replica.yaml", "path: /livez", "path: /health", "nothing that is served"),
        ("kubernetes/worker.yaml", "PeriodSeconds: 45", "PeriodSeconds: 30", "is killed before"),
        ("kubernetes/worker.yaml", "replicas: 2", "replica: 2", "replica"),
        ("kubernetes/config.yaml", "LOG_FORMAT", "LOG_FROMAT", "no setting is called"),
        ("systemd/orchestrator-worker@.service", "TimeoutStopSec=45s", "TimeoutStopSec=9s", "kill"),
    ],
)
def test_what_is_unsound_is_named(
    file: str, sound: str, broken: str, named: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = tmp_path / "deploy"
    shutil.copytree(check_deploy.DEPLOY, copy)
    text = (copy / file).read_text()
    assert sound in text
    (copy / file).write_text(text.replace(sound, broken))
    monkeypatch.setattr(check_deploy, "DEPLOY", copy)
    checks: dict[str, Callable[[], Iterator[str]]] = {
        "Containerfile": check_deploy.containerfile,
        "kubernetes": check_deploy.manifests,
        "systemd": check_deploy.units,
    }

    faults = list(checks[file.split("/", maxsplit=1)[0]]())

    assert any(named in fault for fault in faults), faults


def test_a_replica_leads_without_root_and_without_a_place_to_write(
    dsn: str, tmp_path: Path
) -> None:
    probe = ["unshare", "--mount", "sh", "-c", _LOCKED_UP, "sh"]
    where = tmp_path / "writable"
    tried = subprocess.run(
        [*probe, "touch", str(where)], capture_output=True, text=True, check=False
    )
    if os.geteuid() != 0 or "Read-only file system" not in tried.stderr:
        pytest.skip(f"read-only mounts of one's own need root: {tried.stderr.strip()}")
    shell = Shell(dsn, tmp_path)
    command = [*probe, sys.executable, "-m", "orchestrator", "run"]
    environment = shell.environment | {"PYTHONDONTWRITEBYTECODE": "1", "HOME": "/nonexistent"}
    replica = subprocess.Popen(
        command,
        env=environment,
        cwd="/",
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
    )
    try:
        until(lambda: shell("leader", "--json").json["leaders"][0]["alive"], "a leader")
        status = Path(f"/proc/{replica.pid}/status").read_text()
        replica.terminate()
        _, said = replica.communicate(timeout=30)
    finally:
        replica.kill()
        replica.wait()
    assert replica.returncode == 0, said
    assert "CapEff:\t0000000000000000" in status
    events = [json.loads(line)["event"] for line in said.splitlines() if line.startswith("{")]
    assert "leader.resigned" in events
