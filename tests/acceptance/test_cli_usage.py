"""What is said when something is wrong, by which code it ends, and what `--help` teaches."""

from __future__ import annotations

import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.main import get_command

from orchestrator.cli import app, explain, invoke
from orchestrator.errors import (
    ConfigError,
    DatabaseUnavailable,
    InvalidInput,
    LeadershipRefused,
    OrchestratorError,
    SchemaMismatch,
    TaskNotFound,
)
from orchestrator.text import printable
from tests.acceptance.cli import ROOT, Shell, why

# Every verb with arguments that are complete, so that only the missing database is in its way.
NEED_A_DATABASE = [
    "run",
    "worker json:App",
    "migrate",
    "enqueue resize --org acme",
    "task list",
    "task show 1",
    "task cancel 1",
    "task retry 1",
    "explain 1",
    "simulate --from-history 24h",
    "shadow show",
    "org list",
    "org show acme",
    "org set acme",
    "org pause acme",
    "org resume acme",
    "tier list",
    "tier set gold",
    "workload list",
    "workload set reports",
    "queue list",
    "queue set renders",
    "queue pause renders",
    "queue resume renders",
    "queue drain renders",
    "schedule list",
    "schedule set nightly --cron @daily --task report --org acme",
    "schedule remove nightly",
    "leader",
    "status",
    "doctor",
    "grant --role worker resizer",
]
NEED_NONE = ["config show", "config check", "migrate --sql"]


@pytest.fixture
def shell(tmp_path: Path) -> Shell:
    return Shell(None, tmp_path)


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shell: Shell) -> Path:
    """Run in this process as `shell` runs others: in an empty directory, with no database named."""
    monkeypatch.chdir(tmp_path)
    for name in ("DATABASE_URL", "ORCHESTRATOR_CONFIG", "ORCHESTRATOR_DATABASE_URL"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


def one_line(capsys: pytest.CaptureFixture[str]) -> str:
    """Return the one line on stderr; nothing may be on stdout."""
    out, err = capsys.readouterr()
    assert out == ""
    assert len(err.splitlines()) == 1
    return err


# Help


@pytest.mark.parametrize("line", [*NEED_A_DATABASE, *NEED_NONE, "org import orgs.csv", "demo"])
def test_the_help_of_every_verb_shows_an_example(
    line: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TERMINAL_WIDTH", "100")
    group_or_verb, second = [*line.split(), ""][:2]
    groups = "task org tier workload queue schedule shadow token config"
    grouped = group_or_verb in groups.split()
    verb = [group_or_verb, second] if grouped else [group_or_verb]
    assert invoke([*verb, "--help"]) == 0
    out = capsys.readouterr().out
    example = out.partition("Examples:")[2]
    assert f"orchestrator {' '.join(verb)}" in example or f"{verb[0]} --from" in example


def test_the_reference_names_every_verb_and_option() -> None:
    reference = (ROOT / "docs" / "cli.md").read_text()
    verbs = list(_verbs("", get_command(app)))
    assert len(verbs) > len(NEED_A_DATABASE)
    for path, command in verbs:
        assert f"`{path}" in reference, path
        for parameter in command.params:
            named = parameter.param_type_name == "argument" or parameter.opts[0] in reference
            assert named or getattr(parameter, "hidden", False), (path, parameter.opts)


def _verbs(path: str, command: Any) -> Iterator[tuple[str, Any]]:
    below = getattr(command, "commands", None)
    if below is None:
        yield path, command
        return
    for name, each in below.items():
        yield from _verbs(f"{path} {name}".strip(), each)


def test_help_loads_nothing_that_takes_long(shell: Shell) -> None:
    """Two tenths of a second instead of two: what a verb needs, it imports when it runs."""
    heavy = (
        "psycopg sqlalchemy alembic pydantic pydantic_settings structlog apscheduler rich stamina"
    )
    code = (
        "import sys; from orchestrator.cli import invoke; invoke(['--help']);"
        f"print('loaded:', *[name for name in {heavy.split()!r} if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        cwd=shell.directory,
        env=shell.environment,
        check=True,
    )
    assert "Commands:" in done.stdout
    assert done.stdout.splitlines()[-1] == "loaded:"


def test_without_a_verb_the_help_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    assert invoke([]) == 0
    assert "Commands:" in capsys.readouterr().out


# No database, or the wrong one


def test_no_database_named_names_both_ways_to_name_one(shell: Shell) -> None:
    line = why(shell.cold("status", code=2))
    assert "DATABASE_URL" in line
    assert "--embedded" in line
    assert list(shell.directory.iterdir()) == []  # above all, no server was started


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize("line", NEED_A_DATABASE)
def test_every_verb_refuses_to_guess_a_database(
    line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    verb = line.replace("worker json:App", "worker tests.acceptance.workshop:app")
    assert invoke(verb.split()) == 2
    assert "no database named" in one_line(capsys)


@pytest.mark.usefixtures("here")
def test_org_import_refuses_to_guess_a_database(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (here / "orgs.csv").write_text("org\nacme\n")
    assert invoke(["org", "import", "orgs.csv"]) == 2
    assert "no database named" in one_line(capsys)


def test_a_closed_port_ends_with_3_and_hides_the_password(shell: Shell) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    dsn = f"postgresql://me:s3cret@127.0.0.1:{port}/app"
    line = shell.refused("status", code=3, env={"DATABASE_URL": dsn})
    assert f"me:***@127.0.0.1:{port}/app" in line
    assert "refused" in line
    assert "s3cret" not in line


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize("verb", ["doctor", "migrate --wait 0", "task list", "run"])
def test_unreachable_is_3_for_every_kind_of_verb(
    verb: str, capsys: pytest.CaptureFixture[str]
) -> None:
    code = invoke([*verb.split(), "--dsn", "host=/nonexistent user=me password=s3cret"])
    assert code == 3
    assert "s3cret" not in one_line(capsys)


@pytest.mark.usefixtures("here")
def test_a_dsn_that_cannot_be_read_is_not_repeated(capsys: pytest.CaptureFixture[str]) -> None:
    assert invoke(["status", "--dsn", "postgres//me:s3cret@host/db"]) == 2
    line = one_line(capsys)
    assert "postgresql://user:password@host:5432/database" in line
    assert "s3cret" not in line


@pytest.mark.usefixtures("here")
def test_dsn_and_embedded_exclude_each_other(capsys: pytest.CaptureFixture[str]) -> None:
    assert invoke(["status", "--dsn", "postgresql://host/db", "--embedded"]) == 2
    assert "exclude each other" in one_line(capsys)


# Configuration


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[worker]\nlease = '30s'\n", "worker.lease_s"),
        ("[worker]\nlease_s = '30 parsecs'\n", "lease_s"),
        ("[worker\n", "not valid TOML"),
    ],
)
@pytest.mark.usefixtures("here")
def test_a_wrong_settings_file_is_named_with_its_key(
    text: str, said: str, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (here / "my.toml").write_text(text)
    assert invoke(["config", "check", "--config", "my.toml"]) == 2
    line = one_line(capsys)
    assert "my.toml" in line
    assert said in line


def test_a_missing_settings_file_is_named(shell: Shell) -> None:
    assert "no file none.toml" in shell.refused("config", "check", "--config", "none.toml", code=2)


def test_an_unknown_variable_is_named_with_the_nearest(shell: Shell) -> None:
    line = shell.refused("status", code=2, env={"ORCHESTRATOR_WORKER_LEAS_S": "30s"})
    assert "ORCHESTRATOR_WORKER_LEAS_S" in line
    assert "did you mean ORCHESTRATOR_WORKER_LEASE_S?" in line


def test_config_show_tells_values_and_origins_and_hides_the_password(shell: Shell) -> None:
    shell.file("orchestrator.toml", "[worker]\nlease_s = '1m'\n")
    env = {"DATABASE_URL": "postgresql://me:s3cret@db/app", "ORCHESTRATOR_LOG_LEVEL": "debug"}
    shown = shell("config", "show", "--json", env=env)
    assert shown.json["database.url"] == {
        "value": "postgresql://me:***@db/app",
        "origin": "environment",
    }
    assert shown.json["worker.lease_s"] == {"value": 60.0, "origin": "file"}
    assert shown.json["log.level"] == {"value": "debug", "origin": "environment"}
    assert shown.json["worker.concurrency"] == {"value": 10, "origin": "default"}


@pytest.mark.usefixtures("here")
def test_config_show_for_people_names_the_variable(capsys: pytest.CaptureFixture[str]) -> None:
    assert invoke(["config", "show", "--dsn", "postgresql://me:s3cret@db/app"]) == 0
    out = capsys.readouterr().out
    (line,) = [line for line in out.splitlines() if line.startswith("database.url")]
    assert line.split() == [
        "database.url",
        "postgresql://me:***@db/app",
        "cli",
        "ORCHESTRATOR_DATABASE_URL",
    ]


@pytest.mark.usefixtures("here")
def test_config_check_is_content_without_a_database(capsys: pytest.CaptureFixture[str]) -> None:
    assert invoke(["config", "check"]) == 0
    out, err = capsys.readouterr()
    assert out == "the settings are fine\n"
    assert "no database is named yet" in err


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
@pytest.mark.parametrize(("verb", "code"), [("config check", 0), ("no such verb", 2)])
def test_a_closed_stream_is_in_nobodys_way(shell: Shell, closed: str, verb: str, code: int) -> None:
    ran = subprocess.run(
        ["sh", "-c", f"{sys.executable} -m orchestrator {verb} {closed}"],
        cwd=shell.directory,
        env=shell.environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == code, ran.stderr
    assert "Traceback" not in ran.stderr


def test_the_example_configuration_passes_the_check(shell: Shell) -> None:
    example = str(ROOT / "config.example.toml")
    assert shell("config", "check", "--config", example, "--json").json == {
        "ok": True,
        "database_named": False,
    }


# Arguments


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("bogus", "bogus"),
        ("task", "Missing command"),
        ("task show", "ID"),
        ("task show first", "integer"),
        ("task list --status lost", "lost"),
        ("task cancel", "by id, or with --org"),
        ("task cancel 1 --org acme", "not both"),
        ("task cancel --status dead", "cannot be cancelled"),
        ("task retry --status staged", "only what has ended"),
        ("enqueue resize", "needs its org"),
        ("enqueue --org acme", "needs its name"),
        ("enqueue a --org b --payload {", "not valid JSON"),
        ("enqueue a --org b --payload NaN", "NaN"),
        ("enqueue a --org b --payload @none.json", "no file none.json"),
        ("enqueue a --org b --delay 5x", "5m"),
        ("enqueue a --org b --run-at soon", "2026-05-01T09:30:00Z"),
        ("enqueue a --org b --run-at 2026-05-01T09:30:00", "time zone"),
        ("enqueue a --org b --header trace", "KEY=VALUE"),
        ("enqueue a --org b --dry-run", "--from"),
        ("enqueue --from none.jsonl", "no file none.jsonl"),
        ("enqueue --from - --idempotency-key k", "on each line"),
        ("org set acme --weight much", "'much'"),
        ("org import orgs.xlsx", ".csv or .jsonl"),
        ("org import none.csv", "no file none.csv"),
        ("queue set renders --max-wait long", "'long'"),
        ("queue drain renders --timeout -1s", "-1s"),
        ("worker tasks", "MODULE:APP"),
        ("worker no_such_module:app", "no module 'no_such_module'"),
        ("worker tests.acceptance.workshop:nothing", "missing"),
        ("worker tests.acceptance.workshop:NO_APP", "not an App"),
    ],
)
def test_wrong_usage_is_2_and_one_line_that_says_what_to_do(
    line: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert invoke(line.split()) == 2
    assert said in one_line(capsys)


def test_a_module_that_fails_to_import_is_blamed_in_one_line(shell: Shell) -> None:
    shell.file("broken.py", "import nothing_of_that_name\n")
    shell.file("worse.py", "1 / 0\n")
    line = shell.refused("worker", "broken:app", code=2)
    assert "nothing_of_that_name" in line
    assert "ZeroDivisionError" in shell.refused("worker", "worse:app", code=2)


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (OrchestratorError("it"), 1),
        (TaskNotFound("it"), 1),
        (SchemaMismatch("it"), 1),
        (LeadershipRefused("it"), 1),
        (RuntimeError("it"), 1),
        (ConfigError("it"), 2),
        (InvalidInput("it"), 2),
        (DatabaseUnavailable("it"), 3),
    ],
)
def test_each_kind_of_error_has_its_code(error: Exception, code: int) -> None:
    assert explain(error)[0] == code


def test_debug_shows_where_an_error_came_from(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert list(here.iterdir()) == []
    assert invoke(["status", "--debug"]) == 2
    assert "Traceback" in capsys.readouterr().err


# Terminals


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain", "plain"),
        ("Müller & Söhne 株式会社 🙂", "Müller & Söhne 株式会社 🙂"),
        ("\x1b[31mred\x1b[0m", r"\x1b[31mred\x1b[0m"),
        ("two\nlines\r\ttab", r"two\nlines\r\ttab"),
        ("evil\u202egnp.exe", r"evil\u202egnp.exe"),
        ("bell\x07 \x9b31m", r"bell\x07 \x9b31m"),
    ],
)
def test_what_could_command_a_terminal_is_escaped(text: str, shown: str) -> None:
    assert printable(text) == shown
