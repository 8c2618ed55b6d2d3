"""The verbs of the command line as the database roles that are meant to run them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
from typer.main import get_command

from orchestrator.cli import app
from orchestrator.store.privileges import DatabaseRole
from tests.acceptance.cli import Shell, database
from tests.conftest import Server
from tests.support.console import Said, say, workplace
from tests.support.roles import SINGLE, drop, dsn_of, granted, named

PRODUCER, WORKER, READER, ORCHESTRATOR, OWNER = DatabaseRole

LOOKS = [
    "status", "status --json", "top", "leader", "task list", "task show 1", "explain 1", "org list",
    "org show acme", "tier list", "workload list", "queue list", "schedule list", "shadow show",
    "simulate --from-history 1h --slots 4", "token list",
]  # fmt: skip
STEERS = [
    "task cancel 1", "task retry 1", "task cancel --org acme --yes", "task retry --org acme --yes",
    "org set acme --weight 3", "org pause acme", "org resume acme", "org import orgs.csv",
    "tier set gold --weight 4", "workload set mail --share 2", "queue set mail --capacity 9",
    "queue pause mail", "queue resume mail", "queue drain mail --timeout 5s",
    "schedule set nightly --cron @daily --task t --org acme", "schedule remove nightly",
    "shadow set --set queue.capacity=20", "shadow clear", "token create mona --scope reader",
    "token revoke mona",
]  # fmt: skip
# What needs no role of a database, lives in processes (tested beside this), or is the owner's.
ELSEWHERE = {
    "demo", "run", "worker", "migrate", "grant", "doctor", "enqueue", "config show", "config check",
}  # fmt: skip


@pytest.fixture(scope="module")
def shells(
    server: Server, template: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[str, Shell]]:
    """Yield a shell for each role, all of one database and one directory."""
    directory = tmp_path_factory.mktemp("roles")
    with database(server, template) as dsn, granted(dsn, server, *SINGLE):
        yield {role: Shell(dsn_of(dsn, role), directory) for role in SINGLE} | {
            OWNER: Shell(dsn, directory)
        }


def test_every_verb_is_somebodys() -> None:
    named_here = {
        " ".join(line.split()[:2]) if " ".join(line.split()[:2]) in VERBS else line.split()[0]
        for line in (*LOOKS, *STEERS)
    }
    assert set(VERBS) - named_here - ELSEWHERE == set(), "as which database role is it run?"


def _verbs(command: Any, path: str = "") -> Iterator[str]:
    for name, each in getattr(command, "commands", {}).items():
        below = list(_verbs(each, f"{path}{name} "))
        yield from below or [f"{path}{name}"]


VERBS = sorted(_verbs(get_command(app)))


def test_each_role_runs_its_verbs_and_no_others(shells: dict[str, Shell]) -> None:
    dsns = {role: str(shell.dsn) for role, shell in shells.items()}
    shells[OWNER].file("orgs.csv", "org,tier\nacme,premium\n")

    def run(role: str, line: str, code: int) -> Said:
        said = say(dsns[role], *line.split())
        assert said.code == code, f"{line}: {said}"
        return said

    with workplace(shells[OWNER].directory):
        assert "1" in run(PRODUCER, "enqueue t --org acme", 0).out
        run(ORCHESTRATOR, "org set acme --weight 2", 0)
        for line in LOOKS:
            run(READER, line, 0)
            assert "orchestrator grant" in run(PRODUCER, line, 1).err, line
        for line in STEERS:
            if not line.startswith("task retry"):
                assert "permission denied" in run(READER, line, 1).err, line
            run(ORCHESTRATOR, line, 0)


def test_the_examination_passes_for_who_may_lead(shells: dict[str, Shell]) -> None:
    checks = shells[ORCHESTRATOR]("doctor", "--json").json["checks"]
    assert {check["verdict"] for check in checks} <= {"ok", "warn"}


def test_grant_makes_a_role_and_says_what_it_is(shells: dict[str, Shell], server: Server) -> None:
    owner = shells[OWNER]
    assert owner.dsn is not None
    try:
        printed = owner("grant", "--role", "worker", "hands; drop", "--sql").out
        assert 'create role "hands; drop" login;' in printed.splitlines()
        said = owner("grant", "--role", "worker", "--role", "producer", "hands; drop").out
        assert said == "hands; drop is producer and worker, and nothing else\n"
        with psycopg.connect(server.dsn) as connection:
            found = connection.execute(
                "select rolsuper, rolcreaterole, rolcanlogin from pg_roles where rolname = %s",
                ["hands; drop"],
            )
            assert found.fetchone() == (False, False, True)
        assert "superuser" in owner.refused("grant", "--role", "worker", "postgres", code=2)
        assert "--role" in owner.refused("grant", "x", code=2)
        why = shells[READER].refused("grant", "--role", "owner", named(READER), code=1)
        assert "DBA" in why
    finally:
        drop(owner.dsn, server, "hands; drop")
