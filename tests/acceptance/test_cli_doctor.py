"""What `doctor` judges, by its rules alone and on real servers."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import psycopg
import pytest

from orchestrator.cli import doctor
from orchestrator.cli.doctor import Verdict
from orchestrator.errors import SchemaMismatch
from orchestrator.store.status import Schema, Server, known_revisions
from tests.acceptance.cli import Shell, database
from tests.conftest import Server as Running
from tests.support.pooler import pooling

NOW = datetime(2026, 5, 1, tzinfo=UTC)
HEALTHY = Server(
    version=160003,
    version_text="16.3",
    in_recovery=False,
    read_only=False,
    backend_pid=1,
    local=True,
    autovacuum=True,
    connections_max=97,
    connections=3,
    clock=NOW,
)


# The rules


@pytest.mark.parametrize(
    ("number", "verdict"),
    [
        (140011, Verdict.FAIL),
        (149999, Verdict.FAIL),
        (150000, Verdict.OK),
        (180004, Verdict.OK),
        (190000, Verdict.WARN),
    ],
)
def test_a_server_before_15_is_too_old(number: int, verdict: Verdict) -> None:
    check = doctor.version(number, "text")
    assert check.verdict is verdict
    assert (check.advice is None) is (verdict is Verdict.OK)


def test_a_standby_and_a_read_only_server_fail_with_advice() -> None:
    assert doctor.writable(HEALTHY).verdict is Verdict.OK
    standby = doctor.writable(HEALTHY._replace(in_recovery=True, read_only=True))
    assert (standby.verdict, standby.found) == (Verdict.FAIL, "a standby")
    assert doctor.writable(HEALTHY._replace(read_only=True)).verdict is Verdict.FAIL


def test_another_backend_than_announced_is_a_pooler() -> None:
    assert doctor.pooler(7, 7).verdict is Verdict.OK
    assert doctor.pooler(7, 8).verdict is Verdict.WARN


@pytest.mark.parametrize(
    ("server_s", "verdict"),
    [(0, Verdict.OK), (3, Verdict.OK), (6, Verdict.OK), (-3, Verdict.WARN), (7.5, Verdict.WARN)],
)
def test_a_clock_is_judged_with_the_round_trip_allowed_for(
    server_s: float, verdict: Verdict
) -> None:
    answered = NOW + timedelta(seconds=5)
    assert doctor.clock(NOW + timedelta(seconds=server_s), NOW, answered).verdict is verdict


def test_without_autovacuum_or_room_for_connections_something_is_said() -> None:
    assert doctor.autovacuum(HEALTHY).verdict is Verdict.OK
    assert doctor.autovacuum(HEALTHY._replace(autovacuum=False)).verdict is Verdict.FAIL
    assert doctor.headroom(HEALTHY).verdict is Verdict.OK
    assert doctor.headroom(HEALTHY._replace(connections=80)).verdict is Verdict.WARN


def test_a_server_that_cannot_notice_vanished_hosts_is_accepted_and_told() -> None:
    assert doctor.half_open(local=True, timeout_ms=0).verdict is Verdict.OK
    assert doctor.half_open(local=False, timeout_ms=3000).verdict is Verdict.OK
    assert doctor.half_open(local=False, timeout_ms=0).verdict is Verdict.WARN


@pytest.mark.parametrize(
    ("found", "said"),
    [
        ((), "missing"),
        (("0001",), "at 0001, this version needs 0002"),
        (("0002", "0009"), "newer than this version knows"),
    ],
)
def test_a_schema_that_does_not_fit_says_what_to_do(found: tuple[str, ...], said: str) -> None:
    Schema(("0002",), ("0001", "0002")).demand()
    with pytest.raises(SchemaMismatch, match=said):
        Schema(found, ("0001", "0002")).demand()


def test_the_revisions_known_here_are_those_that_migrate_would_apply() -> None:
    from orchestrator.store.migrate import head

    assert known_revisions()[-1] == head()


# On real servers


def test_a_fit_server_passes_every_check(dsn: str, tmp_path: Path) -> None:
    checks = Shell(dsn, tmp_path)("doctor", "--json").json["checks"]
    assert [(check["name"], check["verdict"]) for check in checks] == [
        ("encoding", "ok"),
        ("version", "ok"),
        ("writable", "ok"),
        ("schema", "ok"),
        ("direct connection", "ok"),
        ("clock", "ok"),
        ("autovacuum", "ok"),
        ("connections", "ok"),
        ("LISTEN", "ok"),
        ("leader session", "ok"),
        ("tcp_user_timeout", "ok"),
    ]


def test_a_missing_schema_fails_and_the_rest_is_still_checked(
    server: Running, tmp_path: Path
) -> None:
    with database(server, None) as dsn:
        told = Shell(dsn, tmp_path)("doctor", code=1)
    lines = told.out.splitlines()
    assert [line.split()[0] for line in lines].count("fail") == 1
    assert "run `orchestrator migrate`" in lines[3]
    assert len(lines) == 11
    assert told.err == ""


def test_a_read_only_database_fails(dsn: str, tmp_path: Path) -> None:
    read_only = psycopg.conninfo.make_conninfo(dsn, options="-c default_transaction_read_only=on")
    checks = Shell(read_only, tmp_path)("doctor", "--json", code=1).json["checks"]
    assert [check["name"] for check in checks if check["verdict"] == "fail"] == ["writable"]


def test_behind_a_pooler_only_the_leaders_session_fails(dsn: str, tmp_path: Path) -> None:
    with pooling(dsn) as pooler:
        checks = Shell(pooler.dsn, tmp_path)("doctor", "--json", code=1).json["checks"]
        Shell(pooler.dsn, tmp_path)("enqueue", "n", "--org", "o")
    (failed,) = [check for check in checks if check["verdict"] == "fail"]
    assert failed["name"] == "leader session"
    assert "direct DSN" in failed["found"]
