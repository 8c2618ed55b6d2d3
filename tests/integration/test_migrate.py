"""Migrations: any number at once, never twice, never backwards, and as plain SQL for a DBA."""

from __future__ import annotations

import os
import subprocess
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import psycopg
import pytest
from alembic import command

from orchestrator.errors import DatabaseUnavailable, SchemaMismatch
from orchestrator.store import leadership, migrate
from orchestrator.store.names import LOCK_CLASS, MIGRATION_LOCK
from orchestrator.store.sql import run
from orchestrator.store.status import Schema
from tests.conftest import Server
from tests.support.stage import Stage
from tests.support.waiting import PATIENCE_S, until

CALLERS = 10

CATALOG = """
    select 'column', table_name || '.' || column_name, data_type || ' ' || is_nullable,
           coalesce(column_default, '')
      from information_schema.columns where table_schema = 'orchestrator'
    union all
    select 'index', indexname, indexdef, '' from pg_indexes where schemaname = 'orchestrator'
    union all
    select 'constraint', conrelid::regclass::text || '.' || conname, pg_get_constraintdef(oid), ''
      from pg_constraint where connamespace = 'orchestrator'::regnamespace
    union all
    select 'trigger', tgrelid::regclass::text || '.' || tgname, pg_get_triggerdef(oid), ''
      from pg_trigger where not tgisinternal
    union all
    select 'function', proname, pg_get_functiondef(oid), ''
      from pg_proc where pronamespace = 'orchestrator'::regnamespace
    union all
    select 'sequence', sequencename, min_value::text || ' ' || max_value, start_value::text
      from pg_sequences where schemaname = 'orchestrator'
    order by 1, 2, 3"""


def catalog(dsn: str) -> list[tuple[object, ...]]:
    with psycopg.connect(dsn) as connection:
        return connection.execute(CATALOG).fetchall()


def test_ten_replicas_that_start_at_once_migrate_once(empty_dsn: str) -> None:
    together = Barrier(CALLERS)

    def start() -> bool:
        together.wait(PATIENCE_S)
        return migrate.upgrade(empty_dsn)

    with ThreadPoolExecutor(CALLERS) as threads:
        started = [threads.submit(start) for _ in range(CALLERS)]
        migrated = [future.result(PATIENCE_S) for future in started]
    assert sorted(migrated) == [False] * (CALLERS - 1) + [True]
    migrate.check(empty_dsn)
    with psycopg.connect(empty_dsn) as connection:
        versions = connection.execute("select version_num from orchestrator.schema_version")
        assert versions.fetchall() == [(migrate.head(),)]
        assert [queue.name for queue in run(connection, leadership.queues())] == ["default"]


def test_migrating_again_changes_nothing(dsn: str) -> None:
    before = catalog(dsn)
    assert migrate.upgrade(dsn) is False
    migrate.check(dsn)
    assert catalog(dsn) == before


def test_a_newer_schema_is_refused_and_left_alone(stage: Stage) -> None:
    stage.do("update orchestrator.schema_version set version_num = '9999', oldest = '9998'")
    for verb in (migrate.upgrade, migrate.check):
        with pytest.raises(SchemaMismatch, match=r"9999.*newer.*upgrade orchestrator"):
            verb(stage.dsn)
    assert stage.one("select version_num from orchestrator.schema_version") == "9999"


def test_code_that_a_newer_schema_suits_runs_on_it_and_migrates_nothing(stage: Stage) -> None:
    stage.do("update orchestrator.schema_version set version_num = '9999'")
    migrate.check(stage.dsn)
    assert migrate.upgrade(stage.dsn) is False
    assert stage.one("select version_num from orchestrator.schema_version") == "9999"


def test_code_that_knows_none_of_what_a_schema_asks_for_is_refused() -> None:
    Schema(("0009",), ("0001", "0002"), "0002").demand()
    with pytest.raises(SchemaMismatch, match="upgrade orchestrator"):
        Schema(("0009",), ("0001", "0002"), "0003").demand()
    # From before a schema said so.
    with pytest.raises(SchemaMismatch, match="upgrade orchestrator"):
        Schema(("0009",), ("0001", "0002"), None).demand()


def test_a_missing_schema_is_named_with_what_to_do(empty_dsn: str) -> None:
    with pytest.raises(SchemaMismatch, match=r"missing.*orchestrator migrate"):
        migrate.check(empty_dsn)
    with (
        psycopg.connect(empty_dsn, autocommit=True) as connection,
        pytest.raises(SchemaMismatch, match="orchestrator migrate"),
    ):
        run(connection, leadership.queues())


def test_a_server_that_is_not_there_is_unavailable(server: Server) -> None:
    with pytest.raises(DatabaseUnavailable):
        migrate.upgrade(server.database("nowhere"))


def test_whoever_comes_second_waits_for_the_migration_under_way(empty_dsn: str) -> None:
    with psycopg.connect(empty_dsn, autocommit=True) as other:
        other.execute("select pg_advisory_lock(%s, %s)", [LOCK_CLASS, MIGRATION_LOCK])
        with ThreadPoolExecutor(1) as threads:
            migrated = threads.submit(migrate.upgrade, empty_dsn)
            asked = (
                "select count(*) from pg_stat_activity where datname = current_database()"
                " and pid <> pg_backend_pid() and query like '%pg_try_advisory_xact_lock%'"
            )
            until(lambda: other.execute(asked).fetchone() != (0,), "it asks for the lock")
            assert not migrated.done()
            other.execute("select pg_advisory_unlock(%s, %s)", [LOCK_CLASS, MIGRATION_LOCK])
            assert migrated.result(PATIENCE_S) is True


def test_a_migration_that_cannot_have_a_table_lets_go_and_tries_again(empty_dsn: str) -> None:
    with migrate._connected(empty_dsn) as connection:
        command.upgrade(migrate._config(connection), "0007")
        connection.commit()
    waiting = (
        "select pid from pg_stat_activity"
        " where datname = current_database() and wait_event_type = 'Lock'"
    )
    with (
        psycopg.connect(empty_dsn) as busy,
        psycopg.connect(empty_dsn, autocommit=True) as watch,
        ThreadPoolExecutor(1) as threads,
    ):
        busy.execute("lock table orchestrator.tier in row exclusive mode")
        migrated = threads.submit(migrate.upgrade, empty_dsn)
        tried: set[int] = set()

        def tried_again() -> bool:
            tried.update(pid for (pid,) in watch.execute(waiting))
            return len(tried) > 1

        until(tried_again, "a second session waits for the table")
        busy.rollback()
        assert migrated.result(PATIENCE_S) is True


def test_a_migration_that_fails_leaves_nothing(empty_dsn: str) -> None:
    with psycopg.connect(empty_dsn, autocommit=True) as connection:
        # In the way of the very last table.
        connection.execute("create schema orchestrator")
        connection.execute("create view orchestrator.audit_log as select 1 as id")
        with pytest.raises(Exception, match="audit_log"):
            migrate.upgrade(empty_dsn)
        left = "select relname from pg_class where relnamespace = 'orchestrator'::regnamespace"
        assert connection.execute(left).fetchall() == [("audit_log",)]
        connection.execute("drop view orchestrator.audit_log")
    assert migrate.upgrade(empty_dsn) is True


def test_the_printed_sql_makes_the_same_schema(empty_dsn: str, dsn: str, server: Server) -> None:
    psql = [str(server.binaries / "psql"), "--no-psqlrc", "--set=ON_ERROR_STOP=1", "--quiet"]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PG")}
    subprocess.run(
        [*psql, "--dbname", empty_dsn],
        input=migrate.script(),
        env=environment,
        text=True,
        capture_output=True,
        check=True,
    )
    migrate.check(empty_dsn)
    assert migrate.upgrade(empty_dsn) is False
    assert catalog(empty_dsn) == catalog(dsn)
    with Stage(empty_dsn) as stage:
        stage.enqueue(2)
        assert stage.leader().drain_ticks() == 2


def test_a_new_queue_brings_all_that_its_leader_needs(stage: Stage) -> None:
    stage.do("insert into orchestrator.queue (name, kappa) values ('mail', 7)")
    queue_id = stage.one("select id from orchestrator.queue where name = 'mail'")
    leader = stage.leader(queue=queue_id)
    assert leader.tick().admitted == 0
    assert leader.reign.cut.row.kappa == 7
