"""Every verb that asks or changes something, each as a process on a real database."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote

import psycopg
import pytest
from psycopg import Connection

from orchestrator.store.migrate import head
from tests.acceptance.cli import Shell, database
from tests.conftest import Server, roomy_memory

HOSTILE = "\x1b]0;owned\x07\u202e[red]"


@pytest.fixture(scope="module")
def shell(
    server: Server, template: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Shell]:
    """Yield a shell whose database the tests of this module share, each with orgs of its own."""
    with database(server, template) as dsn:
        yield Shell(dsn, tmp_path_factory.mktemp("cli"))


@pytest.fixture(scope="module")
def db(shell: Shell) -> Iterator[Connection[Any]]:
    assert shell.dsn is not None
    with psycopg.connect(shell.dsn, autocommit=True) as connection:
        yield connection


def staged(db: Connection[Any], org: str) -> int:
    statement = "select count(*) from orchestrator.staging_queue where org_id = %s"
    return int(scalar(db, statement, org))


def scalar(db: Connection[Any], statement: str, *parameters: object) -> Any:
    row = db.execute(statement.encode(), parameters).fetchone()
    assert row is not None
    return row[0]


# enqueue


def test_enqueue_stores_a_task_with_all_that_was_said(shell: Shell, db: Connection[Any]) -> None:
    shell.file("payload.json", '{"image": 17}')
    options = (
        "--workload api --priority 9 --delay 1h --expires-at 2100-01-01T00:00:00+02:00 --critical "
        "--max-attempts 2 --timeout 5m --header trace=a=b --idempotency-key k --with-depth"
    )
    told = shell(
        "enqueue",
        "resize",
        "--org",
        "one",
        "--payload",
        "@payload.json",
        *options.split(),
        "--json",
    ).json
    assert told == {"id": told["id"], "created": True, "depth": 0}
    task = shell("task", "show", str(told["id"]), "--json").json["task"]
    assert task["payload"] == {"image": 17}
    assert (task["name"], task["org"], task["workload"]) == ("resize", "one", "api")
    assert (task["priority"], task["max_attempts"], task["timeout_s"]) == (9, 2, 300.0)
    assert (task["place"], task["status"], task["headers"]) == ("scheduled", None, {"trace": "a=b"})
    assert task["expires_at"] == "2099-12-31T22:00:00.000Z"
    assert scalar(db, "select critical from orchestrator.task where id = %s", told["id"]) is True
    due = datetime.fromisoformat(task["run_at"]) - datetime.now(UTC)
    assert 3500 < due.total_seconds() <= 3600


def test_the_same_key_is_one_task_and_another_request_under_it_fails(shell: Shell) -> None:
    enqueue = ("enqueue", "report", "--org", "keyed", "--idempotency-key", "may")
    first = shell(*enqueue, "--payload", "-", "--json", stdin="[1]").json
    assert f"unfinished task {first['id']}" in shell(*enqueue, "--payload", "[1]").out
    line = shell.refused(*enqueue, "--payload", "[2]", code=1)
    assert f"task {first['id']}" in line
    assert "another key" in line


def test_an_unknown_queue_and_workload_fail_and_say_how_to_create_them(shell: Shell) -> None:
    line = shell.refused("enqueue", "a", "--org", "b", "--queue", "nope", code=1)
    assert "orchestrator queue set nope" in line
    line = shell.refused("enqueue", "a", "--org", "b", "--workload", "nope", code=1)
    assert "orchestrator workload set nope" in line


# enqueue --from


def test_a_file_is_stored_whole_with_defaults_from_the_options(
    shell: Shell, db: Connection[Any]
) -> None:
    lines: list[dict[str, object]] = [{"payload": n} for n in range(2_500)]
    lines[7] = {"name": "other", "org": "filed-too", "delay": "5m"}
    shell.file("tasks.jsonl", "".join(json.dumps(line) + "\n\n" for line in lines))
    options = ("--from", "tasks.jsonl", "--org", "filed", "--priority", "3")
    dry = shell("enqueue", "bulk", *options, "--dry-run")
    assert dry.out == "2,500 tasks of tasks.jsonl are fine; nothing was stored\n"
    assert staged(db, "filed") == 0
    assert shell("enqueue", "bulk", *options, "--delay", "0").out == (
        "enqueued 2,500 tasks from tasks.jsonl\n"
    )
    assert staged(db, "filed") == 2_499
    statement = "select name, priority from orchestrator.task where org_id = 'filed-too'"
    assert db.execute(statement.encode()).fetchall() == [("other", 3)]


def test_a_bad_line_is_named_its_chunk_is_not_stored_and_skip_goes_on(
    shell: Shell, db: Connection[Any]
) -> None:
    lines = [json.dumps({"name": "n", "org": "broken-file"})] * 1_500
    lines[1_200] = '{"name": "n", "org": "broken-file", "priority": 11}'
    shell.file("broken.jsonl", "\n".join(lines))
    line = shell.refused("enqueue", "--from", "broken.jsonl", code=2)
    assert "broken.jsonl, line 1201: priority" in line
    assert "1,000 tasks were stored" in line
    assert "--skip 1000" in line
    assert staged(db, "broken-file") == 1_000
    lines[1_200] = lines[0]
    shell.file("broken.jsonl", "\n".join(lines))
    told = shell("enqueue", "--from", "broken.jsonl", "--skip", "1000", "--json").json
    assert told == {"dry_run": False, "created": 500, "existing": 0, "checked": 500}
    assert staged(db, "broken-file") == 1_500


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ('{"name":', "not valid JSON"),
        ("[1]", "give an object"),
        ('{"name": "n", "org": "o", "payload": NaN}', "NaN"),
        ('{"name": "n", "org": "o", "prio": 3}', "did you mean priority?"),
    ],
)
def test_each_kind_of_bad_line_is_named(shell: Shell, line: str, said: str) -> None:
    told = shell.refused("enqueue", "--from", "-", "--dry-run", code=2, stdin=f"\n{line}\n")
    assert "standard input, line 2: " in told
    assert said in told


def test_a_terminal_shows_a_progress_bar(shell: Shell, db: Connection[Any]) -> None:
    shell.file("bar.jsonl", '{"name": "n", "org": "watched"}\n' * 1_500)
    ran = shell.on_terminal("enqueue", "--from", "bar.jsonl")
    assert (ran.code, ran.out) == (0, "enqueued 1,500 tasks from bar.jsonl\n")
    assert "enqueuing" in ran.err
    assert staged(db, "watched") == 1_500


def test_a_line_the_database_refuses_tells_its_chunk(shell: Shell) -> None:
    lines = ['{"name": "n", "org": "o"}', '{"name": "n", "org": "o", "queue": "nope"}']
    told = shell.refused("enqueue", "--from", "-", code=1, stdin="\n".join(lines))
    assert "lines 1-2" in told
    assert "no queue 'nope'" in told
    assert "nothing was stored" in told


# task


def test_tasks_are_listed_by_page_shown_cancelled_and_retried(
    shell: Shell, db: Connection[Any]
) -> None:
    for number in range(3):
        shell("enqueue", "ride", "--org", "tripper", "--payload", str(number))
    listed = shell("task", "list", "--org", "tripper", "--limit", "2", "--json").json
    assert [task["place"] for task in listed["tasks"]] == ["staged", "staged"]
    before = str(listed["next_before"])
    rest = shell("task", "list", "--org", "tripper", "--before", before, "--json").json
    assert len(rest["tasks"]) == 1
    assert rest["next_before"] is None
    task_id = str(rest["tasks"][0]["id"])

    cancelled = shell("task", "cancel", task_id, "--reason", "no longer needed")
    assert cancelled.out == "1 cancelled, 0 running asked to stop, 0 had ended\n"
    again = shell("task", "cancel", task_id, "--json").json
    assert again == {"cancelled": 0, "requested": 0, "ended": 1, "unknown": 0}
    shown = shell("task", "show", task_id).out
    assert "cancelled" in shown
    assert "no longer needed" in shown

    assert shell("task", "retry", task_id).out == "1 staged again, 0 refused\n"
    assert staged(db, "tripper") == 3
    assert "has not ended" in shell("task", "retry", task_id, code=1).err


def test_a_task_that_does_not_exist_fails_in_one_line(shell: Shell) -> None:
    assert "no task 987654321" in shell.refused("task", "show", "987654321", code=1)


def test_tasks_are_cancelled_and_retried_by_what_they_have_in_common(
    shell: Shell, db: Connection[Any]
) -> None:
    items = [{"name": name, "org": "flooder"} for name in ("bad", "good") for _ in range(1_200)]
    items += [{"name": "bad", "org": "flooder", "delay": "1h"}] * 5
    items += [{"name": "bad", "org": "bystander"}] * 3
    shell("enqueue", "--from", "-", stdin="\n".join(map(json.dumps, items)))
    chosen = ("--org", "flooder", "--name", "bad")

    assert "would cancel 1,205 tasks" in shell("task", "cancel", *chosen, "--dry-run").out
    assert staged(db, "flooder") == 2_400
    assert "--yes" in shell.refused("task", "cancel", *chosen, code=2)
    told = shell("task", "cancel", *chosen, "--yes", "--json").json
    assert told == {"cancelled": 1_205, "requested": 0, "ended": 0, "unknown": 0}
    assert staged(db, "flooder") == 1_200
    assert staged(db, "bystander") == 3

    dry = shell("task", "retry", *chosen, "--status", "cancelled", "--dry-run", "--json").json
    assert dry["count"] == 1_205
    assert shell("task", "retry", *chosen, "--yes").out == "0 staged again, 0 refused\n"  # no dead
    told = shell("task", "retry", *chosen, "--status", "cancelled", "--yes", "--json").json
    assert told == {"staged": 1_205, "refused": 0}
    assert staged(db, "flooder") == 2_405


def test_on_a_terminal_a_batch_asks_first(shell: Shell, db: Connection[Any]) -> None:
    shell("enqueue", "n", "--org", "asked")
    ran = shell.on_terminal("task", "cancel", "--org", "asked", typed="n\n")
    assert (ran.code, ran.out) == (0, "")
    assert "cancel 1 tasks? [y/N]" in ran.err
    assert staged(db, "asked") == 1
    ran = shell.on_terminal("task", "cancel", "--org", "asked", typed="y\n")
    assert ran.out == "1 cancelled, 0 running asked to stop, 0 had ended\n"
    assert staged(db, "asked") == 0


# org


def test_an_org_is_configured_shown_paused_and_resumed(shell: Shell) -> None:
    told = shell("org", "set", "acme", "--tier", "premium", "--burst-max", "7", "--json").json[
        "org"
    ]
    assert (told["tier"], told["weight"], told["burst_max"]) == ("premium", None, 7)
    shell("org", "set", "acme", "--burst-max", "none", "--weight", "3")
    shell("org", "pause", "acme", "--reason", "unpaid")
    shown = shell("org", "show", "acme", "--json").json
    assert (shown["org"]["weight"], shown["org"]["burst_max"]) == (3, None)
    assert shown["org"]["paused_reason"] == "unpaid"
    assert {"queue": "default", "staged": 0, "ready": 0, "claimed": 0} in shown["queues"]
    listed = shell("org", "list", "--paused", "--json").json["orgs"]
    assert [org["org"] for org in listed] == ["acme"]
    shell("org", "resume", "acme")
    assert "unpaid" not in shell("org", "show", "acme").out


def test_what_an_org_cannot_have_is_refused_with_the_reason(shell: Shell) -> None:
    assert "pause the org" in shell.refused("org", "set", "a", "--burst-max", "0", code=2)
    assert "enterprise" in shell.refused("org", "set", "a", "--tier", "gold", code=1)
    assert "never paused" in shell.refused("org", "resume", "nobody", code=1)


def test_an_import_shows_what_it_changes_before_and_while_it_does(shell: Shell) -> None:
    shell("org", "set", "imp-1", "--tier", "free", "--weight", "4")
    shell("org", "set", "imp-2", "--tier", "premium")
    shell.file(
        "orgs.csv",
        "org,tier,weight,burst_max\nimp-1,premium,,20\nimp-2,premium,,\nimp, 3,free,5,\n",
    )
    assert "line 4" in shell.refused("org", "import", "orgs.csv", code=2)
    shell.file(
        "orgs.csv", 'org,tier,weight,burst_max\nimp-1,premium,,20\nimp-2,premium,,\n"imp, 3",,5,\n'
    )
    dry = shell("org", "import", "orgs.csv", "--dry-run").out.splitlines()
    assert dry == [
        "~ imp-1: tier free -> premium, weight 4 -> -, burst_max - -> 20",
        "+ imp, 3: tier standard, weight 5",
        "1 orgs would be added, 1 would be changed, 1 as they are",
    ]
    told = shell("org", "import", "orgs.csv", "--json").json
    assert (told["added"], told["changed"], told["unchanged"]) == (1, 1, 1)
    assert told["changes"][0]["differences"]["weight"] == [4, None]
    again = shell("org", "import", "orgs.csv").out
    assert again == "0 orgs added, 0 changed, 3 as they are\n"


@pytest.mark.parametrize(
    ("name", "text", "code", "said"),
    [
        ("a.jsonl", '{"org": "x1"}\n{"org": "x1"}\n', 2, "line 2: org 'x1' stands on line 1"),
        ("b.jsonl", '{"org": "x1"}\n{"org": "x2", "tier": "gold"}\n', 2, "line 2: no tier 'gold'"),
        ("c.jsonl", '{"org": "x1"}\n{"org": "x2", "cap": 4}\n', 2, "line 2: unknown column 'cap'"),
        ("d.jsonl", '{"org": "x1"}\n{"org": 5}\n', 2, "line 2: org must be"),
        ("e.csv", "org,weight\nx1,\nx2,many\n", 2, "line 3: weight must be"),
        ("f.csv", "tenant\nx1\n", 2, "line 1: unknown column 'tenant'"),
    ],
)
def test_an_import_with_any_wrong_line_changes_nothing(
    shell: Shell, db: Connection[Any], name: str, text: str, code: int, said: str
) -> None:
    shell.file(name, text)
    assert said in shell.refused("org", "import", name, code=code)
    assert scalar(db, "select count(*) from orchestrator.org_config where org_id = 'x1'") == 0


# tier, workload, queue


def test_tiers_and_workloads_are_created_changed_and_listed(shell: Shell) -> None:
    shell("tier", "set", "gold", "--weight", "20", "--rank", "1", "--burst-max", "9")
    told = shell("tier", "set", "gold", "--burst-max", "none", "--json").json
    gold = {"name": "gold", "weight": 20, "rank": 1, "burst_max": None, "backlog_max": None}
    assert told == {"tiers": [gold]}
    listed = [tier["name"] for tier in shell("tier", "list", "--json").json["tiers"]]
    assert listed == ["enterprise", "gold", "premium", "standard", "free"]
    shell("workload", "set", "reports", "--share", "3", "--rank", "4")
    listed = shell("workload", "list", "--json").json["workloads"]
    reports = {"name": "reports", "share": 3, "rank": 4, "express": False, "express_max_s": None}
    assert reports in listed
    shell("workload", "set", "reports", "--express", "--express-max", "2s")
    (told,) = shell("workload", "set", "reports", "--json").json["workloads"]
    assert told == reports | {"express": True, "express_max_s": 2.0}
    shell("workload", "set", "reports", "--no-express", "--express-max", "none")
    assert reports in shell("workload", "list", "--json").json["workloads"]
    line = shell.refused("workload", "set", "reports", "--express-max", "0s", code=2)
    assert "express_max_s must be a number above 0" in line


def test_a_queue_is_created_changed_paused_and_resumed(shell: Shell) -> None:
    options = "--policy strict --capacity 64 --ready-max 8 --kappa 50 --max-wait 15m"
    options += " --cost-mode count --headroom 2.5 --express-reserve 4"
    told = shell("queue", "set", "lane", *options.split(), "--json").json["queues"]
    assert told == [
        {
            "name": "lane",
            "policy": "strict",
            "cost_mode": "count",
            "capacity": 64,
            "headroom": 2.5,
            "express_reserve": 4,
            "ready_max": 8,
            "kappa": 50,
            "max_wait_s": 900.0,
            "paused": False,
        }
    ]
    line = shell.refused("queue", "set", "lane", "--capacity", "none", code=2)
    assert "headroom is a part of what the capacity leaves" in line
    shell("queue", "set", "lane", "--headroom", "none", "--express-reserve", "none")
    shell("queue", "set", "lane", "--capacity", "none", "--max-wait", "none")
    shell("queue", "pause", "lane")
    (lane,) = [q for q in shell("queue", "list", "--json").json["queues"] if q["name"] == "lane"]
    assert (lane["paused"], lane["capacity"], lane["max_wait_s"]) == (True, None, None)
    assert (lane["headroom"], lane["express_reserve"]) == (None, None)
    assert (lane["ready"], lane["claimed"]) == (0, 0)
    assert shell("queue", "resume", "lane").out.splitlines()[-1].split()[-1] == "no"
    assert "no queue" in shell.refused("queue", "pause", "nope", code=1)


def test_a_drain_waits_until_nothing_is_in_flight(shell: Shell, db: Connection[Any]) -> None:
    shell("queue", "set", "drained")
    queue = scalar(db, "select id from orchestrator.queue where name = 'drained'")
    assert "drained" in shell("queue", "drain", "drained").out
    db.execute(
        b"""insert into orchestrator.task_queue (queue, dispatch_key, task_id, org_id, workload,
              priority, attempt, lost, expires_at, charged_us, weight, share, reserved)
            values (%s, 1, 1, 'o', 'etl', 5, 0, 0, 'infinity', 1, 1, 1, false)""",
        [queue],
    )
    line = shell.refused("queue", "drain", "drained", "--timeout", "0", code=1)
    assert "1 tasks of queue 'drained' are still in flight" in line
    process = shell.start("queue", "drain", "drained", "--json")
    assert process.stderr is not None
    assert "1 ready and 0 claimed" in process.stderr.readline()
    db.execute(b"delete from orchestrator.task_queue where queue = %s", [queue])
    out, _ = process.communicate(timeout=30)
    assert process.returncode == 0
    assert json.loads(out)["drained"] is True


# schedule


def test_a_schedule_is_set_listed_and_removed(shell: Shell) -> None:
    told = shell(
        *("schedule", "set", "nightly", "--cron", "30 2 * * *", "--timezone", "Europe/Berlin"),
        *("--task", "report", "--org", "acme", "--payload", '{"kind": "daily"}', "--json"),
    ).json["schedule"]
    assert told["payload"] == {"kind": "daily"}
    assert told["disabled_at"] is None
    (listed,) = shell("schedule", "list", "--json").json["schedules"]
    assert listed == told
    assert "Europe/Berlin" in shell("schedule", "list").out
    assert shell("schedule", "remove", "nightly").out == "removed schedule nightly\n"
    assert "no schedule 'nightly'" in shell.refused("schedule", "remove", "nightly", code=1)


def test_a_schedule_that_could_never_fire_is_refused(shell: Shell) -> None:
    line = shell.refused(
        *("schedule", "set", "never", "--cron", "0 0 30 2 *", "--task", "t", "--org", "o"), code=2
    )
    assert "never fire" in line


# leader, hostile names, pipes


def test_without_a_replica_nobody_leads_and_nobody_can_resign(shell: Shell) -> None:
    (leader, *_) = shell("leader", "--queue", "default", "--json").json["leaders"]
    assert (leader["queue"], leader["alive"], leader["holder"]) == ("default", False, None)
    assert "orchestrator run" in shell.refused("leader", "--resign", code=1)
    assert "no queue" in shell.refused("leader", "--queue", "nope", code=1)


def test_a_name_cannot_command_the_terminal(shell: Shell) -> None:
    task_id = shell("enqueue", HOSTILE, "--org", HOSTILE, "--json").json["id"]
    shell("org", "pause", HOSTILE, "--reason", HOSTILE)
    for verb in (
        ("task", "list", "--org", HOSTILE),
        ("task", "show", str(task_id)),
        ("org", "list"),
        ("status", "--top", "100"),
    ):
        out = shell(*verb).out
        assert r"\x1b]0;owned\x07\u202e[red]" in out
        assert "\x1b" not in out
    line = shell.refused("enqueue", "n", "--org", "o", "--queue", HOSTILE, code=1)
    assert "\x1b" not in line
    listed = shell("task", "list", "--org", HOSTILE, "--json")
    assert listed.json["tasks"][0]["org"] == HOSTILE
    assert listed.out.isascii()


def test_a_reader_that_leaves_early_is_no_error(shell: Shell) -> None:
    process = shell.start("org", "list", "--json")
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.close()
    with process.stderr:
        assert process.stderr.read() == ""
    assert process.wait(timeout=30) == 0


# embedded


def test_an_embedded_database_is_brought_up_to_date_and_kept() -> None:
    with tempfile.TemporaryDirectory(prefix="t-", dir=roomy_memory()) as name:
        home = Path(name)
        home.chmod(0o711)  # the server runs as another user where we are root
        shell = Shell(None, home)
        env = {"XDG_DATA_HOME": name}
        first = shell("enqueue", "n", "--org", "o", "--embedded", "--json", env=env).json
        assert first == {"id": 1, "created": True, "depth": None}
        listed = shell("task", "list", "--embedded", "--json", env=env).json["tasks"]
        assert [task["id"] for task in listed] == [1]
        assert "already at" in shell("migrate", "--embedded", env=env).out


# migrate


def test_migrations_lead_from_nothing_to_a_schema_that_fits(server: Server, tmp_path: Path) -> None:
    with database(server, None) as dsn:
        shell = Shell(dsn, tmp_path)
        for verb in ("status", "run", "org list", "enqueue n --org o"):
            line = shell.refused(*verb.split(), code=1)
            assert "the schema is missing: run `orchestrator migrate`" in line
        processes = [shell.start("migrate") for _ in range(2)]
        told = sorted(process.communicate(timeout=60)[0] for process in processes)
        assert told == [f"the schema is {was} at {head()}\n" for was in ("already", "now")]
        shell("status")
        with psycopg.connect(dsn, autocommit=True) as connection:
            connection.execute(
                b"update orchestrator.schema_version set version_num = '9999', oldest = '9999'"
            )
        for verb in ("status", "run", "migrate"):
            line = shell.refused(*verb.split(), code=1)
            assert "newer than this version knows" in line
            assert "upgrade orchestrator" in line


def test_migrate_prints_sql_without_a_database(tmp_path: Path, db: Connection[Any]) -> None:
    script = Shell(None, tmp_path)("migrate", "--sql").out
    assert "create table orchestrator.staging_queue" in script
    assert "insert into orchestrator.schema_version" in script.lower()


def test_migrate_waits_for_a_server_that_is_starting(server: Server, tmp_path: Path) -> None:
    with database(server, None) as dsn:
        sockets = psycopg.conninfo.conninfo_to_dict(dsn)["host"]
        later = tmp_path / "later"
        shell = Shell(dsn.replace(quote(str(sockets)), quote(str(later))), tmp_path)
        process = shell.start("migrate", "--wait", "60s")
        assert process.stderr is not None
        assert "waiting up to 1m" in process.stderr.readline()
        later.symlink_to(str(sockets))
        out, _ = process.communicate(timeout=60)
        assert process.returncode == 0
        assert "now at" in out
