"""A database restored to a point in time: what is there then goes on, under the same caps."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from orchestrator import Client
from orchestrator.embedded import persistent
from orchestrator.store import migrate
from tests.support.stage import Stage
from tests.support.waiting import until

pytestmark = pytest.mark.faults


@pytest.fixture
def homes() -> Iterator[Path]:
    # Not pytest's own: its names are too long for a socket.
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        yield Path(folder)


def ask(dsn: str, query: str, *params: object) -> Any:
    with psycopg.connect(dsn, autocommit=True) as connection:
        row = connection.execute(query.encode(), params).fetchone()
    return None if row is None else row[0]


def back_up(dsn: str, data: Path, copy: Path) -> None:
    """Copy a running server's files as `pg_basebackup` would."""
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute("select pg_backup_start('test', true)")
        leave = shutil.ignore_patterns("postmaster.*", "pg_wal", "pg_replslot")
        shutil.copytree(data, copy, ignore=leave)
        row = connection.execute("select labelfile from pg_backup_stop(false)").fetchone()
    assert row is not None
    (copy / "backup_label").write_text(row[0])
    for name in ("pg_wal", "pg_replslot"):
        (copy / name).mkdir(mode=0o700)


def is_archived(dsn: str, segment: str) -> bool:
    last = ask(dsn, "select last_archived_wal from pg_stat_archiver")
    return last is not None and last >= segment


@pytest.mark.timeout(180)
def test_a_queue_goes_on_from_a_point_in_time(homes: Path) -> None:
    archive, first, second = homes / "wal", homes / "a", homes / "b"
    archive.mkdir()
    archiving = {"archive_mode": "on", "archive_command": f"cp %p {archive}/%f"}
    with persistent(first, settings=archiving) as dsn:
        migrate.upgrade(dsn)
        with Stage(dsn) as stage, Client(dsn) as client:
            client.set_org("acme", burst_max=3)
            kept = [client.enqueue("t", n, org="acme").id for n in range(6)]
            leader = stage.leader()
            leader.drain_ticks()
            running, done, _ = client.claim(limit=3)
            client.ack([done])
        (second).mkdir(mode=0o700)
        back_up(dsn, first / "data", second / "data")
        (second / "lock").touch()
        with Client(dsn) as client:
            kept.append(client.enqueue("t", "after the backup", org="acme").id)
            target = ask(dsn, "select clock_timestamp()")
            lost = client.enqueue("t", "after the target", org="acme").id
            client.ack([running])
        segment = ask(dsn, "select pg_walfile_name(pg_switch_wal())")
        until(lambda: is_archived(dsn, segment), "the log is archived")

    (second / "data" / "recovery.signal").touch()
    recovering = {
        "restore_command": f"cp {archive}/%f %p",
        "recovery_target_time": str(target),
        "recovery_target_action": "promote",
    }
    with persistent(second, settings=recovering) as dsn:
        until(lambda: not ask(dsn, "select pg_is_in_recovery()"), "the server is promoted")
        with Stage(dsn) as stage, Client(dsn) as client:
            assert [client.get(task).id for task in kept] == kept
            assert stage.rows("select id from orchestrator.task where id = %s", lost) == []
            stage.expire_leases()
            leader = stage.leader()
            # As of the target the acked one has ended, and the two others hold their slots.
            ended = 1
            most = 0
            while ended < len(kept):
                leader.step()
                leader.drain_ticks()
                most = max(most, stage.one("select count(*) from orchestrator.task_queue"))
                for claim in client.claim(limit=10):
                    client.ack([claim])
                    ended += 1
            assert most == 3
            assert leader.sweep() == []
            epochs = stage.rows(
                "select epoch, timeline from orchestrator.leadership_log order by id"
            )
            assert [epoch for epoch, _ in epochs] == [1, 2]
            assert epochs[0][1] < epochs[1][1]
            assert {client.get(task).status for task in kept} == {"succeeded"}
