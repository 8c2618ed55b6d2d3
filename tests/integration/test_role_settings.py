"""Whatever a role or a database was set to, every session of ours works by the same rules."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import psycopg
import pytest

from orchestrator import App, Client
from orchestrator.client.connections import Access
from orchestrator.client.sync import connect
from orchestrator.config import DatabaseSettings
from orchestrator.leader.session import open_session
from orchestrator.worker.session import Session
from tests.support.stage import Stage
from tests.support.stepping import PATIENT
from tests.support.worker import until_ended, working

# What the database is set to, and what a session of ours finds.
STRANGE = {
    "default_transaction_isolation": ("serializable", "read committed"),
    "standard_conforming_strings": ("off", "on"),
    "array_nulls": ("off", "on"),
    "datestyle": ("German, DMY", "ISO, MDY"),
    "timezone": ("Asia/Kathmandu", "UTC"),
}


@pytest.fixture
def strange(stage: Stage) -> Stage:
    """Return the stage, on a database whose new sessions find strange settings."""
    name = stage.one("select current_database()")
    for setting, (value, _) in STRANGE.items():
        stage.do(f"alter database {name} set {setting} = '{value}'")
    return stage


@pytest.fixture
def sessions(strange: Stage) -> Iterator[dict[str, psycopg.Connection[Any]]]:
    """Yield a session of each kind that decides anything."""
    worker = Session(strange.dsn, "w", pooled=False, connect_timeout_s=5.0)
    opened = {
        "leader": open_session(strange.dsn, PATIENT, holder="h"),
        "worker": worker._connected(),
        "client": connect(Access(strange.dsn, DatabaseSettings(), prepare_threshold=None)),
    }
    yield opened
    for session in opened.values():
        session.close()


def test_every_session_has_plain_settings(sessions: dict[str, psycopg.Connection[Any]]) -> None:
    for session in sessions.values():
        found = {name: session.execute(f"show {name}".encode()).fetchone() for name in STRANGE}
        assert found == {name: (plain,) for name, (_, plain) in STRANGE.items()}


def test_a_task_with_a_key_is_enqueued_once_and_done(strange: Stage) -> None:
    app = App()

    @app.task("t")
    def handle(task: object) -> None:
        del task

    with Client(strange.dsn) as client:
        given: dict[str, Any] = {"org": "o", "idempotency_key": r"back\slash 'k'"}
        first = client.enqueue("t", {"n": None}, **given)
        again = client.enqueue("t", {"n": None}, **given)
        assert (again.id, again.created) == (first.id, False)
        client.enqueue_many([{"name": "t", "org": "o"}, {"name": "t", "org": "o", "timeout_s": 9}])
        leader = strange.leader()
        assert leader.tick().admitted == 3
        with working(app, strange.dsn):
            until_ended(strange, [first.id])
        assert client.get(first.id).created_at.utcoffset() == timedelta(0)
    assert leader.tick().settled >= 1
