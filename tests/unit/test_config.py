"""Where settings come from, what is refused and in which words, and what is never shown."""

from __future__ import annotations

import re
import tomllib
import traceback
from collections.abc import Mapping
from pathlib import Path

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from pydantic import ValidationError

from orchestrator.config import KEYS, Origin, Settings, describe, load, redact, variable
from orchestrator.errors import ConfigError

EXAMPLE = Path(__file__).parents[2] / "config.example.toml"


@pytest.fixture(autouse=True)
def _in_an_empty_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def refusal(
    env: Mapping[str, str] | None = None,
    overrides: Mapping[str, object] | None = None,
    *,
    toml: str | None = None,
) -> str:
    """Return the words in which settings are refused."""
    path = None
    if toml is not None:
        path = Path("some.toml")
        path.write_text(toml)
    with pytest.raises(ConfigError) as caught:
        load(path, env or {}, overrides or {})
    assert "\n" not in str(caught.value)
    return str(caught.value)


def origins(settings: Settings) -> dict[str, Origin]:
    """Return the origins of what does not have its default."""
    return {each.key: each.origin for each in describe(settings) if each.origin != Origin.DEFAULT}


# Sources and their order


def test_with_nothing_given_every_setting_has_its_default() -> None:
    settings = load(env={})
    assert settings == Settings()
    assert origins(settings) == {}
    assert [each.key for each in describe(settings)] == list(KEYS)
    assert settings.worker.concurrency == 10
    assert settings.database.url is None


def test_the_command_line_beats_the_environment_beats_the_file_beats_the_default() -> None:
    Path("orchestrator.toml").write_text(
        "[worker]\nconcurrency = 2\nlease_s = 20\nack_batch = 200\n[log]\nlevel = 'debug'\n"
    )
    env = {"ORCHESTRATOR_WORKER_CONCURRENCY": "3", "ORCHESTRATOR_WORKER_LEASE_S": "30s"}
    settings = load(env=env, overrides={"worker.concurrency": 4, "worker.lease_s": None})
    assert settings.worker.concurrency == 4
    assert settings.worker.lease_s == 30
    assert settings.worker.ack_batch == 200
    assert settings.worker.prefetch_max == 500
    assert origins(settings) == {
        "worker.concurrency": Origin.CLI,
        "worker.lease_s": Origin.ENVIRONMENT,
        "worker.ack_batch": Origin.FILE,
        "log.level": Origin.FILE,
    }


def test_each_setting_can_be_given_in_each_way() -> None:
    """The example's values, one at a time, so that no name is lost between the sources."""
    for key, value in _example().items():
        section, name = key.split(".")
        text = ",".join(value) if isinstance(value, list) else str(value)
        Path("one.toml").write_text(f"[{section}]\n{name} = {_toml(value)}\n")
        ways = {
            Origin.CLI: load(env={}, overrides={key: value}),
            Origin.ENVIRONMENT: load(env={variable(key): text}),
            Origin.FILE: load(Path("one.toml"), env={}),
        }
        for origin, settings in ways.items():
            assert origins(settings) == {key: origin}
            assert settings.model_dump() == ways[Origin.CLI].model_dump()


def test_the_process_environment_is_the_default_environment(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("ORCHESTRATOR_LOG_FORMAT", "JSON")
    assert load().log.format == "json"
    assert load(env={}).log.format == "auto"


def test_settings_alone_read_no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABASE", '{"pool_size": 3}')
    monkeypatch.setenv("ORCHESTRATOR_DATABASE_POOL_SIZE", "3")
    assert Settings().database.pool_size == 10


def test_database_url_is_read_unless_ours_is_set() -> None:
    env = {"DATABASE_URL": "postgresql://theirs/db"}
    assert load(env=env).database.url == "postgresql://theirs/db"
    env["ORCHESTRATOR_DATABASE_URL"] = "postgresql://ours/db"
    assert load(env=env).database.url == "postgresql://ours/db"
    assert origins(load(env=env)) == {"database.url": Origin.ENVIRONMENT}


def test_an_empty_url_in_the_environment_is_none() -> None:
    Path("orchestrator.toml").write_text("[database]\nurl = 'postgresql://file/db'\n")
    settings = load(env={"DATABASE_URL": "", "ORCHESTRATOR_DATABASE_URL": ""})
    assert settings.database.url == "postgresql://file/db"


def test_lists_are_given_with_commas() -> None:
    settings = load(env={"ORCHESTRATOR_WORKER_QUEUES": " mail, etl ,"})
    assert settings.worker.queues == ("mail", "etl")
    assert load(env={"ORCHESTRATOR_LEADER_QUEUES": ""}).leader.queues == ()


# The file


def test_a_named_file_wins_over_the_variable_which_wins_over_the_default_file() -> None:
    for number, name in enumerate(["orchestrator.toml", "named.toml", "given.toml"], start=1):
        Path(name).write_text(f"[worker]\nconcurrency = {number}\n")
    env = {"ORCHESTRATOR_CONFIG": "named.toml"}
    assert load(env={}).worker.concurrency == 1
    assert load(env={"ORCHESTRATOR_CONFIG": ""}).worker.concurrency == 1
    assert load(env=env).worker.concurrency == 2
    assert load(Path("given.toml"), env).worker.concurrency == 3


def test_a_named_file_that_is_missing_is_refused() -> None:
    assert "no file absent.toml" in refusal({"ORCHESTRATOR_CONFIG": "absent.toml"})
    with pytest.raises(ConfigError, match=r"no file gone\.toml: create it"):
        load(Path("gone.toml"), {})


def test_a_file_that_cannot_be_read_is_refused() -> None:
    Path("folder.toml").mkdir()
    assert "cannot read folder.toml: Is a directory" in refusal(
        {"ORCHESTRATOR_CONFIG": "folder.toml"}
    )
    assert "some.toml is not valid TOML" in refusal(toml="[worker\n")
    Path("latin.toml").write_bytes(b"# caf\xe9\n")
    assert "latin.toml is not valid TOML" in refusal({"ORCHESTRATOR_CONFIG": "latin.toml"})


def test_a_byte_order_mark_is_passed_over() -> None:
    Path("orchestrator.toml").write_text("[worker]\nconcurrency = 2\n", encoding="utf-8-sig")
    assert load(env={}).worker.concurrency == 2


# Names nobody knows


@pytest.mark.parametrize(
    ("toml", "words"),
    [
        ("[worker]\nconcurency = 1", "worker.concurency in some.toml: did you mean worker.conc"),
        ("[workers]\nconcurrency = 1", "did you mean worker.concurrency?"),
        ("[workers]", "unknown key workers in some.toml: did you mean worker?"),
        ("concurrency = 1", "unknown key concurrency in some.toml: did you mean worker.conc"),
        ("worker = 1", "write [worker], its keys below it"),
        ("zzz = 1", "`orchestrator config show` lists all settings"),
        ("[worker.queues]\nx = 1", "worker.queues in some.toml = {'x': 1}: should be a"),
    ],
)  # fmt: skip
def test_an_unknown_key_is_refused_with_the_nearest_one(toml: str, words: str) -> None:
    assert words in refusal(toml=toml)


def test_an_empty_section_says_nothing() -> None:
    Path("orchestrator.toml").write_text("[worker]\n")
    assert origins(load(env={})) == {}


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("ORCHESTRATOR_WORKER_CONCURENCY", "did you mean ORCHESTRATOR_WORKER_CONCURRENCY?"),
        ("ORCHESTRATOR_CONCURRENCY", "did you mean ORCHESTRATOR_WORKER_CONCURRENCY?"),
        ("ORCHESTRATOR_CONFIGURATION", "did you mean ORCHESTRATOR_CONFIG?"),
        ("ORCHESTRATOR_", "unknown environment variable ORCHESTRATOR_:"),
        ("ORCHESTRATOR_PORT", "unknown environment variable ORCHESTRATOR_PORT:"),
    ],
)
def test_an_unknown_variable_is_refused_with_the_nearest_one(name: str, words: str) -> None:
    assert words in refusal({name: "8080"})


def test_an_unknown_override_is_refused_with_the_nearest_one() -> None:
    words = "unknown setting worker.leas_s: did you mean worker.lease_s?"
    assert words in refusal(overrides={"worker.leas_s": None})


def test_variables_of_others_are_none_of_our_business() -> None:
    assert load(env={"ORCHESTRATE_X": "1", "orchestrator_x": "1", "PATH": "/bin"}) == Settings()


def _service_links(service: str) -> dict[str, str]:
    """Return what Kubernetes sets in every pod for a service with one TCP port."""
    return {
        f"{service}_SERVICE_HOST": "10.0.0.11",
        f"{service}_SERVICE_PORT": "8080",
        f"{service}_SERVICE_PORT_HTTP": "8080",
        f"{service}_PORT": "tcp://10.0.0.11:8080",
        f"{service}_PORT_8080_TCP": "tcp://10.0.0.11:8080",
        f"{service}_PORT_8080_TCP_PROTO": "tcp",
        f"{service}_PORT_8080_TCP_PORT": "8080",
        f"{service}_PORT_8080_TCP_ADDR": "10.0.0.11",
    }


@pytest.mark.parametrize("service", ["ORCHESTRATOR", "ORCHESTRATOR_WORKER", "ORCHESTRATOR_2"])
def test_service_links_of_kubernetes_are_ignored(service: str) -> None:
    assert load(env=_service_links(service)) == Settings()


def test_no_setting_takes_the_name_of_a_service_link() -> None:
    # Sections could be services: `orchestrator-worker` is a likely name for one.
    services = ["ORCHESTRATOR", *(variable(section) for section in Settings.model_fields)]
    taken = {name for service in services for name in _service_links(service)}
    assert taken.isdisjoint(map(variable, KEYS))
    shaped = re.compile(r".*_(PORT|SERVICE)(_.*)?")
    assert [key for key in KEYS if shaped.fullmatch(variable(key))] == []


def test_no_two_settings_share_a_variable() -> None:
    assert len(set(map(variable, KEYS))) == len(KEYS)


# Values


@pytest.mark.parametrize(
    ("given", "seconds"),
    [
        (20, 20), (2.5, 2.5), ("20", 20), ("20s", 20), (" 20 s ", 20), ("5m", 300), ("1.5h", 5400),
        ("1d", 86400), ("35000ms", 35), ("2300ms", 2.3), ("1.", 1),
    ],
)  # fmt: skip
def test_a_duration_is_a_number_of_seconds_or_has_a_unit(given: object, seconds: float) -> None:
    lease_s = load(env={}, overrides={"worker.lease_s": given}).worker.lease_s
    assert lease_s == seconds
    assert isinstance(lease_s, float)


@pytest.mark.parametrize("given", ["", "s", "5 minutes", "1h30m", "-5s", "1e3", "٣s", True, [1]])
def test_what_is_not_a_duration_is_refused_with_examples(given: object) -> None:
    words = refusal(overrides={"worker.lease_s": given})
    assert "worker.lease_s on the command line" in words
    assert "give seconds, or a duration such as 250ms, 30s, 5m, 2h, 1d" in words


@pytest.mark.parametrize("given", [-1, float("nan"), float("inf"), 10**400, "9" * 400, "3651d"])
def test_a_duration_out_of_all_bounds_is_refused(given: object) -> None:
    assert "from 0 to 3650d" in refusal(overrides={"retention.task_s": given})


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("worker.lease_s", "500ms", "= '500ms': should be greater than or equal to 1 (seconds)"),
        ("worker.concurrency", "0", "= '0': should be greater than or equal to 1"),
        ("worker.concurrency", "ten", "should be a valid integer"),
        ("worker.queues", ",", "should have at least 1 item"),
        ("worker.queues", "a,b,a", "name each queue once"),
        ("worker.queues", "x" * 201, "should have at most 200 characters"),
        ("worker.listen", "perhaps", "should be a valid boolean"),
        ("leader.tcp_user_timeout_s", "0", "greater than or equal to 0.1 (seconds)"),
        ("leader.busy_poll_s", "0", "greater than or equal to 0.001 (seconds)"),
        ("log.level", "loud", "'debug', 'info', 'warning', 'error' or 'critical'"),
        ("database.url", " ", "ORCHESTRATOR_DATABASE_URL: String should have at least 1"),
    ],
)
def test_a_value_out_of_bounds_is_refused_where_it_was_given(
    key: str, value: str, words: str
) -> None:
    message = refusal({variable(key): value})
    assert message.startswith(variable(key))
    assert words in message


def test_true_is_not_a_number() -> None:
    assert "give a whole number" in refusal(toml="[worker]\nconcurrency = true")


def test_of_several_mistakes_the_first_is_told_and_the_others_are_counted() -> None:
    words = refusal(overrides={"worker.lease_s": 0, "worker.concurrency": 0, "log.level": "x"})
    assert words.startswith("worker.concurrency on the command line = 0: ")
    assert words.endswith("(and 2 more)")


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        ({"leader.idle_poll_s": 1.6}, "leader.idle_poll_s (1.6) must be at most half of"),
        ({"leader.idle_session_timeout_s": 1.9}, "leader.idle_session_timeout_s (1.9)"),
        ({"leader.busy_poll_s": 1.1}, "leader.busy_poll_s (1.1) must be at most"),
        ({"leader.lock_timeout_s": 5}, "leader.lock_timeout_s (5) must be less than"),
        ({"leader.watchdog_s": 5}, "leader.watchdog_s (5) must be more than"),
    ],
)
def test_timeouts_that_defeat_one_another_are_refused(
    overrides: dict[str, object], words: str
) -> None:
    assert words in refusal(overrides=overrides)


def test_timeouts_at_their_bounds_are_accepted() -> None:
    leader = load(
        env={},
        overrides={
            "leader.idle_poll_s": 1.5,
            "leader.busy_poll_s": 1.5,
            "leader.lock_timeout_s": 4.9,
            "leader.watchdog_s": 5.1,
        },
    ).leader
    assert (leader.idle_poll_s, leader.watchdog_s) == (1.5, 5.1)


def test_settings_are_frozen() -> None:
    settings = load(env={})
    with pytest.raises(ValidationError):
        settings.worker.concurrency = 2  # type: ignore[misc]
    with pytest.raises(ValidationError):
        settings.worker = settings.worker  # type: ignore[misc]


# Passwords


@pytest.mark.parametrize(
    ("dsn", "shown"),
    [
        ("postgresql://u:secret@h:5432/db", "postgresql://u:***@h:5432/db"),
        ("postgres://u:secret@h1,h2:5433/db", "postgres://u:***@h1,h2:5433/db"),
        ("postgresql+psycopg://u:se@cr/et?@h/db", "postgresql+psycopg://u:***@h/db"),
        ("postgresql://:secret@h/db", "postgresql://:***@h/db"),
        ("postgresql://u@h:5432/db", "postgresql://u@h:5432/db"),
        ("postgresql://h:5432/db?connect_timeout=3", "postgresql://h:5432/db?connect_timeout=3"),
        ("postgresql:///db?user=u&password=secret&host=h", "postgresql:///db?user=u&password=***&host=h"),
        ("postgresql://u@h/db?sslPassword=secret", "postgresql://u@h/db?sslPassword=***"),
        ("postgresql://h/db?user=a@b&password=secret", "postgresql://h/db?user=a@b&password=***"),
        ("host=h password=secret user=u", "host=h password=*** user=u"),
        ("host=h password = 'sec ret' user=u", "host=h password = *** user=u"),
        (r"password='se\'cr et' host=h", "password=*** host=h"),
        (r"password=se\ cret host=h", "password=*** host=h"),
        ("password='se\\\ncret' host=h", "password=*** host=h"),
        ("password='secret", "password=***"),
        ("password=a://secret@b host=h", "password=*** host=h"),
        ("sslpassword=secret scram_server_key=secret", "sslpassword=*** scram_server_key=***"),
        ("failed to resolve host 'cr'et@h': no", "failed to resolve host '***@h': no"),
        ('could not translate host name "cret@h"', 'could not translate host name "***@h"'),
        (
            'invalid integer value "cr"et" for connection option "port"',
            'invalid integer value "***" for connection option "port"',
        ),
        ('invalid port number: "cr"et"', 'invalid port number: "***"'),
        ("failed to resolve host 'h': no", "failed to resolve host 'h': no"),
        ("", ""),
        ("not a dsn", "not a dsn"),
    ],
)  # fmt: skip
def test_redact_hides_passwords_and_nothing_else(dsn: str, shown: str) -> None:
    assert redact(dsn) == shown


@given(st.text())
def test_redact_takes_any_text(text: str) -> None:
    assert isinstance(redact(text), str)


@given(st.text(st.characters(codec="utf-8"), min_size=4))
def test_no_password_survives_redaction(password: str) -> None:
    quoted = password.replace("\\", "\\\\").replace("'", "\\'")
    shapes = {
        f"postgresql://user:{password}@host/name": "postgresql://user:***@host/name",
        f"host=host password='{quoted}' dbname=name": "host=host password=*** dbname=name",
    }
    for dsn, shown in shapes.items():
        assert redact(dsn) == shown
    assume(not set(password) & set("&#@"))  # which must be escaped there
    assert (
        redact(f"postgresql://h/n?password={password}&a=b") == "postgresql://h/n?password=***&a=b"
    )


def test_neither_settings_nor_their_description_show_the_password() -> None:
    settings = load(env={"DATABASE_URL": "postgresql://u:secret@h/db"})
    shown = f"{settings} {settings!r} {settings.database} {describe(settings)}"
    assert "secret" not in shown
    assert shown.count("postgresql://u:***@h/db") == 4
    assert settings.database.url == "postgresql://u:secret@h/db"


def test_no_refusal_shows_the_password() -> None:
    for toml in (
        "[database]\nurl = ['postgresql://u:secret@h/db']",
        "[database]\nurl = 'postgresql://u:secret@h/db'\npool_size = 0",
        "database = 'postgresql://u:secret@h/db'",
        "[database]\nuri = 'postgresql://u:secret@h/db'",
        "[redis]\nurl = ['redis://:secret@h:6379/0']",
    ):
        Path("some.toml").write_text(toml)
        with pytest.raises(ConfigError) as caught:
            load(Path("some.toml"), {})
        assert "secret" not in "".join(traceback.format_exception(caught.value))


# The example


# What has no default is commented out.
_COMMENTED = re.compile(r'^# (\w+ = ")', re.MULTILINE)
UNSET = {"database.url", "redis.url", "server.http", "metrics.listen", "tracing.endpoint"}


def _uncommented() -> str:
    return _COMMENTED.sub(r"\1", EXAMPLE.read_text())


def _example() -> dict[str, object]:
    """Return the settings of the example by dotted key, those without a default among them."""
    tables = tomllib.loads(_uncommented())
    return {f"{table}.{name}": v for table, part in tables.items() for name, v in part.items()}


def _toml(value: object) -> str:
    if isinstance(value, list):
        return "[" + ", ".join(map(_toml, value)) + "]"
    return f'"{value}"' if isinstance(value, str) else str(value).lower()


def test_the_example_has_every_setting_in_order_at_its_default() -> None:
    assert tuple(_example()) == KEYS
    settings = load(EXAMPLE, env={})
    assert settings.model_dump() == Settings().model_dump()
    assert origins(settings) == {key: Origin.FILE for key in KEYS if key not in UNSET}


def test_the_example_says_of_each_setting_what_the_code_says() -> None:
    described = {
        f"{section}.{name}": " ".join((field.description or "").split())
        for section, part in Settings()
        for name, field in type(part).model_fields.items()
    }
    assert [key for key, text in described.items() if not text] == []
    comments: dict[str, str] = {}
    comment: list[str] = []
    section = ""
    for line in _uncommented().splitlines():
        if line.startswith("#"):
            comment.append(line.removeprefix("# "))
            continue
        if line.startswith("["):
            section = line.strip("[]")
        elif line:
            comments[f"{section}.{line.partition(' ')[0]}"] = " ".join(comment)
        comment = []
    assert comments == described
