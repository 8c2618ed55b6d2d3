"""Every text finds a place: a database that cannot hold it is refused, whatever is said of it."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count
from pathlib import Path

import psycopg
import pytest
from psycopg import sql

from orchestrator import App, Client
from orchestrator.errors import ConfigError
from orchestrator.store import migrate
from tests.acceptance.cli import Shell
from tests.conftest import Server
from tests.support.stage import Stage
from tests.support.worker import history, until_ended, working

UNFIT = ["LATIN1", "SQL_ASCII"]
TEXT = "中文 €"

_numbers = count(1)


@pytest.fixture(params=UNFIT)
def unfit(server: Server, request: pytest.FixtureRequest) -> Iterator[str]:
    """Yield the DSN of a database of another encoding."""
    name = sql.Identifier(f"unfit_{next(_numbers)}")
    create = sql.SQL("create database {} encoding {} locale 'C' template template0")
    with psycopg.connect(server.dsn, autocommit=True) as connection:
        connection.execute(create.format(name, request.param))
        yield server.database(name._obj[0])
        connection.execute(sql.SQL("drop database {} with (force)").format(name))


def test_a_database_that_cannot_hold_every_text_is_refused_and_left_as_it_was(unfit: str) -> None:
    for look in (migrate.upgrade, migrate.check):
        with pytest.raises(ConfigError, match="--encoding=UTF8 --template=template0"):
            look(unfit)
    with psycopg.connect(unfit) as connection:
        query = "select count(*) from pg_namespace where nspname = 'orchestrator'"
        assert connection.execute(query).fetchall() == [(0,)]


def test_the_command_line_says_in_one_line_what_to_do_about_it(unfit: str, tmp_path: Path) -> None:
    shell = Shell(unfit, tmp_path)
    for verb in (["migrate"], ["run"], ["status"]):
        said = shell(*verb, code=2)
        assert said.err.count("\n") == 1
        assert "createdb --encoding=UTF8" in said.err
    [told] = shell("doctor", code=1).out.splitlines()
    assert told.split()[:2] == ["fail", "encoding"]
    assert "--encoding=UTF8" in told


def test_texts_do_not_depend_on_what_the_environment_says_of_encodings(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PGCLIENTENCODING", "LATIN1")
    app = App()

    @app.task("fails")
    def fails(task: object) -> None:
        raise ValueError(TEXT)

    with Client(stage.dsn) as client:
        stored = client.enqueue("fails", {"x": TEXT}, org=TEXT, max_attempts=1)
    leader = stage.leader()
    assert leader.tick().admitted == 1
    with working(app, stage.dsn):
        until_ended(stage, [stored.id])
    [line] = history(stage, stored.id)
    assert line.error is not None
    assert TEXT in line.error
    # What was ended is settled under the org's name.
    assert leader.tick().settled == 1
