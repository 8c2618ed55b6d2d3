"""What database roles may do is what `privileges` declares, and what their verbs need."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from orchestrator import Client, PrivilegeMissing, TaskSpec
from orchestrator.config import Settings
from orchestrator.errors import IdempotencyConflict, InvalidInput
from orchestrator.leader.chores import Chores
from orchestrator.store import migrate, retention, roles
from orchestrator.store.privileges import (
    FUNCTIONS,
    TABLES,
    DatabaseRole,
    sequence_privileges,
    table_grants,
)
from orchestrator.store.sql import PINS, Call, Operation, Statements, run
from scripts.privileges import page
from tests.conftest import Server
from tests.support.replica import replica_thread
from tests.support.roles import SINGLE, drop, dsn_of, granted, named
from tests.support.stage import Stage
from tests.support.waiting import until
from tests.support.worker import until_ended, working
from tests.support.worker_handlers import app

ROOT = Path(__file__).parents[2]
DECLARE = "declare it in orchestrator/store/privileges.py: for each role, what its verbs need"
PRODUCER, WORKER, READER, ORCHESTRATOR, OWNER = DatabaseRole
PARTITION = re.compile(r"task(_attempt)?_p\d+")
TABLE_PRIVILEGES = ("select", "insert", "update", "delete", "truncate", "references", "trigger")
COLUMN_PRIVILEGES = ("select", "insert", "update", "references")


@pytest.fixture
def world(stage: Stage, server: Server) -> Iterator[Stage]:
    """Yield a database with a role of each kind."""
    with granted(stage.dsn, server, *SINGLE):
        yield stage


# The declaration against the catalog ------------------------------------------------------------


def test_every_table_and_function_is_declared(stage: Stage) -> None:
    tables = stage.rows(
        "select relname from pg_class where relnamespace = 'orchestrator'::regnamespace"
        " and relkind in ('r', 'p', 'v', 'm', 'f')"
    )
    found = {name for (name,) in tables if not PARTITION.fullmatch(name)}
    assert found == set(TABLES), DECLARE
    signatures = stage.rows(
        "select proname || '(' || pg_get_function_identity_arguments(oid) || ')' from pg_proc"
        " where pronamespace = 'orchestrator'::regnamespace"
    )
    kinds = {re.sub(r"(\w+) (bigint)", r"\2", text) for (text,) in signatures}
    assert kinds == set(FUNCTIONS), DECLARE


def test_every_statement_of_the_store_is_covered_by_who_leads_and_operates() -> None:
    held = {(grant.object, grant.privilege) for grant in table_grants([ORCHESTRATOR])}
    verbs = {
        "select": r"(?:from|join) orchestrator\.(\w+)",
        "insert": r"insert into orchestrator\.(\w+)",
        "update": r"update orchestrator\.(\w+)",
        "delete": r"delete from orchestrator\.(\w+)",
    }
    seen = 0
    for file in sorted((ROOT / "orchestrator" / "store").glob("*.sql")):
        if file.stem == "roles":  # the owner's
            continue
        statements = Statements(file.stem)
        for name in statements:
            text = re.sub(r"--[^\n]*", "", statements[name].decode())
            for privilege, pattern in verbs.items():
                for table in re.findall(pattern, text):
                    seen += 1
                    assert (table, privilege) in held, f"{file.name}: {name}: {DECLARE}"
    assert seen > 200


def test_the_page_about_privileges_is_made_from_the_declaration() -> None:
    written = (ROOT / "docs" / "privileges.md").read_text()
    assert written == page(), "run `.venv/bin/python -m scripts.privileges`"


def test_each_role_has_exactly_what_is_declared(world: Stage) -> None:
    # A queue and a partition that came after the grant, made by those who may.
    with psycopg.connect(dsn_of(world.dsn, ORCHESTRATOR), autocommit=True) as connection:
        connection.execute("insert into orchestrator.queue (name) values ('later')")
        connection.execute("select orchestrator.create_partition(5000000, 5000001)")
    for role in SINGLE:
        assert actual_tables(world, role) == declared_tables(world, role), role
        for (sequence,) in sequences(world):
            actual = privileges(world, "sequence", role, sequence, ("select", "usage", "update"))
            expected = sequence_privileges([role], sequence.removeprefix("orchestrator."))
            assert actual == expected, f"{role}: {sequence}"
        for function, allowed in FUNCTIONS.items():
            may = privileges(world, "function", role, f"orchestrator.{function}", ("execute",))
            assert bool(may) == (role in allowed), f"{role}: {function}"
        assert privileges(world, "schema", role, "orchestrator", ("usage", "create")) == {"usage"}


def sequences(world: Stage) -> list[tuple[Any, ...]]:
    rows = world.rows(
        "select oid::regclass::text from pg_class"
        " where relnamespace = 'orchestrator'::regnamespace and relkind = 'S'"
    )
    assert {"orchestrator.floor_2", "orchestrator.doze_2"} <= {name for (name,) in rows}
    return rows


def privileges(world: Stage, kind: str, role: str, name: str, asked: tuple[str, ...]) -> set[str]:
    query = f"select has_{kind}_privilege(%s, %s, %s)"
    return {each for each in asked if world.one(query, named(role), name, each)}


def actual_tables(world: Stage, role: str) -> set[tuple[str, str, str]]:
    """Return (table, column, privilege), column '' for what is held on all of a table."""
    whole = world.rows(
        "select relname, '', p from pg_class, unnest(%s::text[]) p"
        " where relnamespace = 'orchestrator'::regnamespace and relkind in ('r', 'p', 'v')"
        "   and has_table_privilege(%s, pg_class.oid, p)",
        list(TABLE_PRIVILEGES),
        named(role),
    )
    columns = world.rows(
        "select relname, attname, p from pg_class, pg_attribute, unnest(%s::text[]) p"
        " where relnamespace = 'orchestrator'::regnamespace and relkind in ('r', 'p', 'v')"
        "   and attrelid = pg_class.oid and attnum > 0 and not attisdropped"
        "   and has_column_privilege(%s, pg_class.oid, attnum, p)"
        "   and not has_table_privilege(%s, pg_class.oid, p)",
        list(COLUMN_PRIVILEGES),
        named(role),
        named(role),
    )
    return {(table, column, privilege) for table, column, privilege in [*whole, *columns]}


def declared_tables(world: Stage, role: str) -> set[tuple[str, str, str]]:
    return {
        (grant.object, column, grant.privilege)
        for grant in table_grants([role])
        for column in (grant.columns or ("",))
    }


# Every verb as its role -------------------------------------------------------------------------


def enqueue_all(client: Client) -> list[int]:
    """Use every verb of a producer, and every option that takes another path."""
    ids = [client.enqueue("mark", {}, org="a", with_depth=True).id]
    ids.append(client.enqueue("t", org="a", delay=3600, idempotency_key="k", headers={"a": "b"}).id)
    assert not client.enqueue(
        "t", org="a", delay=3600, idempotency_key="k", headers={"a": "b"}
    ).created
    with pytest.raises(IdempotencyConflict):
        client.enqueue("other", org="a", idempotency_key="k")
    spec = TaskSpec(name="t", org="b", priority=9)
    ids += [each.id for each in client.enqueue_many([spec, {"name": "t", "org": "c"}])]
    return ids


def test_a_producer_a_worker_and_a_reader_do_all_of_theirs(world: Stage) -> None:
    with Client(dsn_of(world.dsn, PRODUCER)) as producer:
        enqueue_all(producer)
        producer.enqueue_many([TaskSpec(name="t", org="a")] * 20)
    leader = world.leader()
    leader.drain_ticks()
    with Client(dsn_of(world.dsn, WORKER)) as worker:
        claims = worker.claim(limit=20, wait_s=0.05)
        assert len(claims) == 20
        worker.extend(claims, 60)
        assert not worker.heartbeat(claims[:1], spare=1).lost
        worker.ack(claims[:2])
        assert worker.nack(claims[2], ValueError("no")) == "failed"
        assert worker.nack(claims[3], "no", delay=0) == "failed"
        assert worker.snooze(claims[4], 60) == "snoozed"
        worker.release(claims[5:7])
        worker.discard(claims[7], "nobody wants it")
        with psycopg.connect(dsn_of(world.dsn, WORKER)) as own:
            worker.ack(claims[8], connection=own)
        worker.ack(claims[9:])
    with Client(dsn_of(world.dsn, READER)) as reader:
        assert reader.get(claims[0].id).history[0].status == "succeeded"
        assert len(reader.tasks(org="a", limit=3)) == 3
        waiting = reader.tasks(place="scheduled")[0]
        assert reader.explain(waiting.id).reasons
    leader.close()


def test_an_operator_does_all_of_its(world: Stage) -> None:
    first, second, third = world.enqueue(3)
    with Client(dsn_of(world.dsn, ORCHESTRATOR)) as operator:
        assert operator.cancel(first) == "cancelled"
        operator.retry(first)
        operator.set_org("a", tier="premium", weight=3, burst_max=2)
        operator.pause_org("a", "unpaid")
        operator.resume_org("a")
        enqueue_all(operator)
        world.leader().drain_ticks()
        (claimed,) = operator.claim()
        assert operator.cancel(claimed.id) == "requested"
        assert operator.nack(claimed, "no") == "cancelled"
    assert {first, second, third}


def test_a_replica_and_workers_live_with_their_roles_alone(world: Stage) -> None:
    world.do("create table mark (task_id bigint, attempt integer, pid integer, note text)")
    world.do("grant insert on mark to public")
    replica = dsn_of(world.dsn, ORCHESTRATOR)
    with replica_thread(replica, Settings()):
        payload = {"dsn": dsn_of(world.dsn, WORKER)}
        with Client(dsn_of(world.dsn, PRODUCER)) as producer:
            with psycopg.connect(replica, autocommit=True) as operator:
                operator.execute("insert into orchestrator.queue (name) values ('later')")
            ids = [
                producer.enqueue("mark", payload, org="a", queue=queue, timeout_s=timeout_s).id
                for queue, timeout_s in itertools.product(("default", "later"), (None, 30.0))
            ]
            ids.append(producer.enqueue("raise", payload, org="a", max_attempts=1).id)
            ids.append(producer.enqueue("discard", payload, org="a").id)
            with working(app, dsn_of(world.dsn, WORKER), queues=["default", "later"]):
                ended = until_ended(world, ids)
    statuses = [lines[-1].status for lines in ended]
    assert statuses == ["succeeded"] * 4 + ["dead", "discarded"]


def test_the_chores_of_a_replica_need_no_more_than_its_role(world: Stage) -> None:
    for low in (0, 1_000_000, 2_000_000):
        world.do("select orchestrator.drop_partition(%s)", low)
    ids = world.enqueue(25)
    world.do(
        "insert into orchestrator.schedule (name, cron, task_name, org_id, payload)"
        " values ('s', '* * * * *', 't', 'a', '{}')"
    )
    chores = Chores(dsn_of(world.dsn, ORCHESTRATOR), Settings(), lambda: [1])
    with psycopg.connect(dsn_of(world.dsn, ORCHESTRATOR), autocommit=True) as connection:
        (first, *_) = run(connection, retention.create_ahead(10))
        run(connection, roles_free_ids(first.high))
    chores.fire_schedules()
    assert world.one("select next_run_at is not null from orchestrator.schedule")
    chores.create_partitions()
    chores.trim_logs()
    partitions = "select count(*) from pg_inherits where inhparent = 'orchestrator.task'::regclass"
    before = world.one(partitions)
    chores.drop_partitions()
    assert world.one(partitions) == before - 1
    chores._disconnect()
    assert ids


def roles_free_ids(high: int) -> Operation:
    """Move the ids past the first partition, which then has nothing in it and may go."""
    yield Call(b"select setval('orchestrator.task_id', %(high)s)", {"high": high})


# What each role is denied -----------------------------------------------------------------------

VERBS: dict[str, Callable[[Client], object]] = {
    "enqueue": lambda c: c.enqueue("t", org="a"),
    "enqueue_many": lambda c: c.enqueue_many([{"name": "t", "org": "a", "idempotency_key": "n"}]),
    "claim": lambda c: c.claim(),
    "get": lambda c: c.get(1),
    "tasks": lambda c: c.tasks(),
    "explain": lambda c: c.explain(1),
    "cancel": lambda c: c.cancel(1),
    "retry": lambda c: c.retry(2),
    "set_org": lambda c: c.set_org("a", weight=2),
    "pause_org": lambda c: c.pause_org("a"),
    "resume_org": lambda c: c.resume_org("a"),
}
ALLOWED = {
    PRODUCER: {"enqueue", "enqueue_many"},
    WORKER: {"claim"},
    READER: {"get", "tasks", "explain"},
    ORCHESTRATOR: set(VERBS),
}


def test_no_role_can_do_what_is_anothers(world: Stage) -> None:
    world.enqueue(2)
    world.set_org("a", weight=1)
    with Client(world.dsn) as owner:
        owner.cancel(2)
    for role in SINGLE:
        with Client(dsn_of(world.dsn, role)) as client:
            for verb, call in VERBS.items():
                if verb in ALLOWED[role]:
                    call(client)
                else:
                    with pytest.raises(PrivilegeMissing, match="orchestrator grant"):
                        call(client)


DENIED = [
    "drop table orchestrator.task",
    "create table orchestrator.mine (id integer)",
    "truncate orchestrator.task_queue",
    "alter table orchestrator.task add column mine text",
    "select digest from orchestrator.api_token",
    "select * from orchestrator.grantee",
    "insert into orchestrator.grantee values ('me', 'reader')",
    "select * from orchestrator.task_p0",
    "select * from orchestrator.task_attempt_default",
    "create trigger mine after insert on orchestrator.task_queue for each row"
    " execute function orchestrator.config_changed()",
]


def test_what_is_the_owners_alone_is_denied_to_all(world: Stage) -> None:
    for role in SINGLE:
        with psycopg.connect(dsn_of(world.dsn, role), autocommit=True) as connection:
            for statement in DENIED:
                if role is ORCHESTRATOR and "digest" in statement:
                    continue  # who serves the API looks tokens up
                with pytest.raises(psycopg.errors.InsufficientPrivilege):
                    connection.execute(statement.encode())
            if role is not ORCHESTRATOR:
                for function in (
                    "drop_partition(0)",
                    "lock_partition(0)",
                    "create_partition(1, 2)",
                ):
                    with pytest.raises(psycopg.errors.InsufficientPrivilege):
                        connection.execute(f"select orchestrator.{function}".encode())


def test_a_producer_reads_no_payload_and_a_worker_no_history(world: Stage) -> None:
    world.enqueue(1)
    with psycopg.connect(dsn_of(world.dsn, PRODUCER), autocommit=True) as connection:
        for column in ("payload", "headers", "name", "org_id"):
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                connection.execute(f"select {column} from orchestrator.task".encode())
    with psycopg.connect(dsn_of(world.dsn, WORKER), autocommit=True) as connection:
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            connection.execute("select error from orchestrator.task_attempt")
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            connection.execute("update orchestrator.task_queue set org_id = 'mine'")


# Granting ---------------------------------------------------------------------------------------


def test_granting_again_changes_nothing_and_another_role_replaces_the_first(
    world: Stage, server: Server
) -> None:
    before = {role: actual_tables(world, role) for role in SINGLE}
    for role in SINGLE:
        assert roles.grant(world.db, named(role), [role], actor="test") == []
    assert {role: actual_tables(world, role) for role in SINGLE} == before
    roles.grant(world.db, named(PRODUCER), [READER, WORKER], actor="test")
    both = actual_tables(world, PRODUCER)
    assert both == {
        (grant.object, column, grant.privilege)
        for grant in table_grants([READER, WORKER])
        for column in grant.columns or ("",)
        if not column or (grant.object, "", grant.privilege) not in both
    }
    assert not any(privilege == "insert" and table == "task" for table, _, privilege in both)
    noted = world.rows("select role from orchestrator.grantee where name = %s", named(PRODUCER))
    assert sorted(noted) == [("reader",), ("worker",)]
    verbs = "select count(*) from orchestrator.audit_log where verb = 'grant' and object = %s"
    assert world.one(verbs, named(PRODUCER)) == 3


def test_a_migration_grants_what_it_brings(world: Stage) -> None:
    world.do(
        f'revoke all on orchestrator.task from "{named(WORKER).replace(chr(34), chr(34) * 2)}"'
    )
    world.do("insert into orchestrator.grantee values ('gone meanwhile', 'reader')")
    roles.regrant(world.db)
    assert actual_tables(world, WORKER) == declared_tables(world, WORKER)


def test_queue_connections_keep_their_plans_behind_a_pooler_and_applications_keep_theirs(
    world: Stage,
) -> None:
    for role in SINGLE:
        with psycopg.connect(dsn_of(world.dsn, role), autocommit=True) as connection:
            shown = {name: connection.execute(f"show {name}".encode()).fetchone() for name in PINS}
            pinned = all(shown[name] == (value,) for name, value in PINS.items())
            assert pinned == (role in (WORKER, ORCHESTRATOR)), role
    roles.grant(world.db, named(WORKER), [WORKER], pins=False, actor="test")
    with psycopg.connect(dsn_of(world.dsn, WORKER), autocommit=True) as connection:
        assert connection.execute("show enable_seqscan").fetchone() == ("on",)


def test_hardening_takes_locks_and_temporary_tables_from_everybody_else(
    stage: Stage, server: Server
) -> None:
    with granted(stage.dsn, server, PRODUCER, ORCHESTRATOR, harden=True):
        with psycopg.connect(dsn_of(stage.dsn, PRODUCER), autocommit=True) as connection:
            for statement in (
                "select pg_advisory_lock(1869767528, 1)",
                "select pg_try_advisory_lock_shared(1869767528)",
                "select pg_advisory_xact_lock(1)",
                "create temporary table mine (id integer)",
            ):
                with pytest.raises(psycopg.errors.InsufficientPrivilege):
                    connection.execute(statement.encode())
        with replica_thread(dsn_of(stage.dsn, ORCHESTRATOR), Settings(), holder="little"):
            led = "select count(*) from orchestrator.orchestrator_lock where holder = 'little'"
            until(lambda: stage.one(led) == 1, "the replica leads")


def test_who_may_not_grant_is_told_and_nothing_is_done(world: Stage) -> None:
    with (
        psycopg.connect(dsn_of(world.dsn, ORCHESTRATOR), autocommit=True) as connection,
        pytest.raises(PrivilegeMissing, match="schema's owner"),
    ):
        roles.grant(connection, "somebody", [READER], actor="test")
    assert world.one("select count(*) from pg_roles where rolname = 'somebody'") == 0


@pytest.mark.parametrize(
    ("name", "wanted", "complaint"),
    [
        ("", [READER], "non-empty"),
        ("a\0b", [READER], "NUL"),
        ("\ud800", [READER], "surrogate"),
        ("é" * 32, [READER], "63 bytes"),
        ("public", [READER], "no role of yours"),
        ("pg_monitor", [READER], "no role of yours"),
        ("somebody", [], "no role is named"),
        ("somebody", [OWNER, READER], "no other role beside"),
        ("postgres", [READER], "superuser"),
    ],
)
def test_a_role_that_cannot_be_granted_is_refused(
    stage: Stage, name: str, wanted: list[DatabaseRole], complaint: str
) -> None:
    with pytest.raises(InvalidInput, match=complaint):
        roles.grant(stage.db, name, wanted, actor="test")


def test_an_owner_without_superuser_runs_it_all(world: Stage, server: Server) -> None:
    roles.grant(world.db, named(OWNER), [OWNER], actor="test")
    try:
        owner = dsn_of(world.dsn, OWNER)
        assert migrate.upgrade(owner) is False
        with psycopg.connect(owner, autocommit=True) as connection:
            connection.execute("create table orchestrator.brought_by_a_migration (id integer)")
            connection.execute("drop table orchestrator.brought_by_a_migration")
            # It owns what it grants, but may create no role and touch nothing of the server's.
            refused = roles.grant(connection, named(READER), [READER], harden=True, actor="test")
            with pytest.raises(InvalidInput, match="owns the schema"):
                roles.grant(connection, named(OWNER), [READER], actor="test")
        assert [line.partition(",")[0].partition(":")[0] for line in refused] == [
            "the server's advisory lock functions stay everybody's",
            f"everybody may still make temporary tables in {world.db.info.dbname}",
        ]
        with psycopg.connect(dsn_of(world.dsn, ORCHESTRATOR), autocommit=True) as connection:
            connection.execute("insert into orchestrator.queue (name) values ('later')")
            connection.execute("select orchestrator.create_partition(7000000, 7000001)")
        for role in SINGLE:
            expected = sequence_privileges([role])
            name = "orchestrator.doze_2"
            asked = ("select", "usage", "update")
            assert privileges(world, "sequence", role, name, asked) == expected, role
    finally:
        drop(world.dsn, server, named(OWNER))


def test_what_is_printed_does_the_same(stage: Stage, server: Server) -> None:
    steps = run(stage.db, roles.steps(named(WORKER), [WORKER]))
    try:
        assert stage.one("select count(*) from pg_roles where rolname = %s", named(WORKER)) == 0
        stage.do(";\n".join(step.sql for step in steps))
        assert actual_tables(stage, WORKER) == declared_tables(stage, WORKER)
    finally:
        drop(stage.dsn, server, named(WORKER))
