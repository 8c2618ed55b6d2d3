"""Passwords and tokens are said nowhere: not by processes that do well, nor by those that fail.

Real processes, with secrets that nothing else resembles, through a refused password and a server
that is gone; then everything that they and their monitors, the API, the command line and the
database showed is searched.
"""

from __future__ import annotations

import json
import re
import signal
import socket
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from urllib.parse import quote

import httpx
import pytest
from psycopg import Connection, sql

from orchestrator.store.migrate import upgrade
from tests.acceptance.cli import Shell
from tests.acceptance.test_cli_processes import WORKSHOP, Staying, staying
from tests.acceptance.test_http_process import children
from tests.acceptance.test_metrics_processes import LISTEN, is_ok, monitor
from tests.faults.chaos.server import Server
from tests.support.waiting import until

ROLE = "leaky"
# What is looked for, inside of what has to be escaped in a URL.
IN_DSN, IN_REDIS = "hushdsn8d2f", "hushredis8d2f"
PASSWORD = f"a@b/{IN_DSN}?c#d"
HARMLESS = "another"
_SESSIONS = "select application_name, query from pg_stat_activity"
LOOKS = ["status", "leader", "doctor", "token list", "org list", "queue list"]


class Watched:
    """Two processes of one database, and all that is shown of them."""

    def __init__(self, shell: Shell, db: Connection[object], token: str) -> None:
        self.shell, self.db, self.token = shell, db, token
        self.shown: dict[str, str] = {}

    def note(self, what: str, text: str) -> None:
        """Keep what was shown."""
        self.shown[f"{len(self.shown)} {what}"] = text

    def look(self, api: httpx.Client, *monitors: httpx.Client, code: int) -> None:
        """Ask everything there is to ask; verbs end with `code`."""
        for client in monitors:
            for path in ("/metrics", "/readyz", "/livez"):
                self.note(path, client.get(path).text)
        for path in ("/v1/tasks", f"/v1/tasks?token={self.token}", "/v1/orgs", "/metrics"):
            for headers in ({}, {"Authorization": f"Basic {self.token}"}):
                answer = api.get(path, headers=headers)
                self.note(path, f"{answer.headers} {answer.text}")
        # What fails fails in the same place for all.
        for verb in LOOKS if code == 0 else LOOKS[:1]:
            ran = self.shell(*verb.split(), "--json", code=code)
            self.note(verb, ran.out + ran.err)
        self.note("config show", self.shell("config", "show").out)

    def look_at_sessions(self, *processes: Staying) -> None:
        """Note what the database and the system show of the processes."""
        self.note("sessions", str(self.db.execute(_SESSIONS).fetchall()))
        for process in processes:
            for pid in (process.process.pid, *children(process.process.pid)):
                self.note("ps", Path(f"/proc/{pid}/cmdline").read_text())


def said(lines: list[str], word: str) -> bool:
    return any(word in line for line in lines)


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    """Run a server that asks one of its roles for a password."""
    with Server() as server:
        upgrade(server.dsn())
        hba = server.data / "pg_hba.conf"
        hba.write_text(f"local all {ROLE} scram-sha-256\n{hba.read_text()}")
        with server.connect() as db:
            role = sql.Identifier(ROLE)
            db.execute(sql.SQL("create role {} superuser login").format(role))
            db.execute("select pg_reload_conf()")
            let_in(db, PASSWORD)
        yield server


def let_in(db: Connection[object], password: str) -> None:
    """Let the role in with this password alone, and hang up on its sessions."""
    change = sql.SQL("alter role {} password {}")
    db.execute(change.format(sql.Identifier(ROLE), sql.Literal(password)))
    db.execute("select pg_terminate_backend(pid) from pg_stat_activity where usename = %s", [ROLE])


@pytest.fixture
def shell(server: Server, tmp_path: Path) -> Shell:
    dsn = server.dsn().replace("postgres@", f"{ROLE}:{quote(PASSWORD, safe='')}@")
    shell = Shell(dsn, tmp_path)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    shell.environment |= {
        "ORCHESTRATOR_LOG_LEVEL": "debug",
        "ORCHESTRATOR_LOG_FORMAT": "json",
        "ORCHESTRATOR_METRICS_INTERVAL_S": "1s",
        "ORCHESTRATOR_LEADER_ELECTION_POLL_S": "100ms",
        # Nobody is there, which is to be told.
        "ORCHESTRATOR_REDIS_URL": f"redis://me:a%2F{IN_REDIS}@127.0.0.1:{port}/0",
    }
    return shell


@pytest.mark.slow
def test_no_process_tells_a_password_or_a_token_whatever_fails(
    server: Server, shell: Shell
) -> None:
    token = shell("token", "create", "shop", "--scope", "producer", "--scope", "reader").out.strip()
    with (
        staying(shell, "run", "--http", "127.0.0.1:0", *LISTEN) as replica,
        staying(shell, "worker", WORKSHOP, *LISTEN) as worker,
        monitor(replica) as of_replica,
        monitor(worker) as of_worker,
        server.connect() as db,
    ):
        until(lambda: replica.said("HTTP API on"), "it serves")
        (url,) = re.findall(r"HTTP API on (http://[\d.:]+)", "\n".join(replica.lines))
        monitors = (of_replica, of_worker)
        headers = {"Authorization": f"Bearer {token}"}
        with httpx.Client(base_url=url, headers=headers, timeout=60) as api:
            watched = Watched(shell, db, token)
            watch(watched, server, api, monitors, (replica, worker))
        for process in (replica, worker):
            assert process.signalled(signal.SIGTERM) == 0
            assert process.process.stdout is not None
            watched.note("stdout", process.process.stdout.read())
            watched.note("stderr", "\n".join(process.lines))
    for what, text in watched.shown.items():
        for secret in (IN_DSN, IN_REDIS, token):
            assert secret not in text, what
    logged = "".join(text for what, text in watched.shown.items() if "stderr" in what)
    # What was to fail did, and was told.
    for event in ("password authentication failed", "No such file", "redis"):
        assert event in logged


def watch(
    watched: Watched,
    server: Server,
    api: httpx.Client,
    monitors: tuple[httpx.Client, ...],
    processes: tuple[Staying, ...],
) -> None:
    """Look while all is well, while a password is refused, and while the server is gone."""

    def until_ready() -> None:
        for client in monitors:
            until(partial(is_ok, client, "/readyz"), "each is ready", patience_s=60)

    def until_told(text: str) -> None:
        for process in processes:
            until(partial(process.said, text), "it is told", patience_s=60)
        watched.look(api, *monitors, code=3)

    until_ready()
    assert api.post("/v1/tasks", json={"name": "note", "org": "acme"}).status_code == 201
    watched.look_at_sessions(*processes)
    watched.look(api, *monitors, code=0)

    let_in(watched.db, HARMLESS)
    until_told("password authentication failed")

    let_in(watched.db, PASSWORD)
    until_ready()
    server.stop()
    until_told("No such file")
    server.start()
    until_ready()


# Each with the code that a verb ends with: 2 where it cannot be read, 3 where nobody answers.
DSNS = {
    "no port": (3, f"postgresql://me:{IN_DSN}@host.invalid:port/db"),
    "not escaped": (3, f"postgresql://me:a@b/{IN_DSN}@/db?host=/nonexistent"),
    "at": (3, f"postgresql://me:a@{IN_DSN}@host.invalid/db"),
    "slash": (3, f"postgresql://me:{IN_DSN}/{IN_DSN}@/db?host=/nonexistent"),
    "parameter": (3, f"postgresql:///db?host=/nonexistent&password={IN_DSN}"),
    "pairs": (3, f"host=/nonexistent password={IN_DSN}"),
    "wrong parameter": (2, f"postgresql:///db?pasword={IN_DSN}"),
    "bracket": (2, f"postgresql://me:{IN_DSN}@[::1/db"),
    "open quote": (2, f"host=/nonexistent password='{IN_DSN}"),
    "wrong pair": (2, f"host=/nonexistent password={IN_DSN} pasword={IN_DSN}"),
    "escape": (2, f"postgresql://me:%zz{IN_DSN}@/db?host=/nonexistent"),
    "scheme": (2, f"mysql://me:{IN_DSN}@host/db"),
}


@pytest.mark.parametrize(("code", "dsn"), DSNS.values(), ids=DSNS)
def test_a_dsn_that_does_not_work_is_told_without_its_password(
    tmp_path: Path, code: int, dsn: str
) -> None:
    shell = Shell(None, tmp_path)
    shell.file("my.toml", f"[database]\nurl = {json.dumps(dsn)}\n")
    for words in ("status", f"worker {WORKSHOP}", "run", "migrate --wait 0"):
        assert IN_DSN not in shell.refused(*words.split(), code=code, env={"DATABASE_URL": dsn})
    assert IN_DSN not in shell.refused("task", "list", "--dsn", dsn, code=code)
    assert IN_DSN not in shell.refused("doctor", "--config", "my.toml", code=code)


@pytest.mark.parametrize(
    "url",
    [
        f"redis://:{IN_REDIS}/b@127.0.0.1",
        f"rdis://me:{IN_REDIS}@host",
        f"redis://me:{IN_REDIS}@[host",
        f"redis://host?password={IN_REDIS}&socket_timeout={IN_REDIS}",
    ],
)
def test_an_address_of_redis_that_cannot_be_read_is_told_without_its_password(
    server: Server, tmp_path: Path, url: str
) -> None:
    refused = Shell(server.dsn(), tmp_path).refused(
        *("run", "--http", "127.0.0.1:0"), code=2, env={"ORCHESTRATOR_REDIS_URL": url}
    )
    assert refused.startswith("orchestrator: redis.url: ")
    assert IN_REDIS not in refused
