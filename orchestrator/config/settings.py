"""The settings themselves: defaults, units, bounds, and how they depend on one another."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from decimal import Decimal
from enum import StrEnum
from typing import Annotated, Final, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PrivateAttr,
    StringConstraints,
    model_validator,
)
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from orchestrator.config.address import parse_address
from orchestrator.config.dsn import redact
from orchestrator.model import DEFAULT_QUEUE, NAME_MAX_CHARS

# Decimal, so that 35ms is 0.035 to the last digit.
_UNIT_S: Mapping[str, Decimal] = {
    "ms": Decimal("0.001"),
    "s": Decimal(1),
    "m": Decimal(60),
    "h": Decimal(3600),
    "d": Decimal(86400),
}
_DURATION = re.compile(r"(?P<number>\d+(?:\.\d*)?|\.\d+)\s*(?P<unit>ms|s|m|h|d)?", re.ASCII)
# Ten years: a longer one is a slip of the unit.
_DURATION_MAX_S = 3650 * 86400


def _seconds(value: object) -> float:
    """Return a duration in seconds, from a number of seconds or text such as `5m`."""
    match = _DURATION.fullmatch(value.strip()) if isinstance(value, str) else None
    if match:
        value = float(Decimal(match["number"]) * _UNIT_S[match["unit"] or "s"])
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError("give seconds, or a duration such as 250ms, 30s, 5m, 2h, 1d")
    if not 0 <= value <= _DURATION_MAX_S:  # nor is nan in between
        raise ValueError("give a duration from 0 to 3650d")
    return float(value)


def _no_bool(value: object) -> object:
    if isinstance(value, bool):  # which Python counts as 0 or 1
        raise ValueError("give a whole number")
    return value


def _split(value: object) -> object:
    if not isinstance(value, str):
        return value
    return [part for part in map(str.strip, value.split(",")) if part]


def _unique(names: tuple[str, ...]) -> tuple[str, ...]:
    if len(set(names)) < len(names):
        raise ValueError("name each queue once")
    return names


def _address(text: str) -> str:
    parse_address(text)
    return text


def _lower(value: object) -> object:
    return value.lower() if isinstance(value, str) else value


Duration = Annotated[float, BeforeValidator(_seconds)]
# A pause or period of zero would be a busy loop.
Period = Annotated[Duration, Field(ge=0.001)]
# PostgreSQL takes whole milliseconds and reads 0 as "never".
ServerTimeout = Annotated[Duration, Field(ge=0.1, le=3600)]
Count = Annotated[int, BeforeValidator(_no_bool), Field(ge=1)]
Name = Annotated[
    str, StringConstraints(strip_whitespace=True, min_length=1, max_length=NAME_MAX_CHARS)
]
Names = Annotated[tuple[Name, ...], BeforeValidator(_split), AfterValidator(_unique)]
ListenAddress = Annotated[str, StringConstraints(strip_whitespace=True), AfterValidator(_address)]


class _Section(BaseModel):
    """One table of the file: frozen, and strangers refused."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", hide_input_in_errors=True, use_attribute_docstrings=True
    )


class DatabaseSettings(_Section):
    """Where the database is and how it is reached."""

    url: Annotated[str, StringConstraints(strip_whitespace=True, min_length=1)] | None = None
    """PostgreSQL to work on, as a URL or as key=value pairs. It has no default: a forgotten one
    must not lead to an empty database. Usually given as DATABASE_URL, so that the password stays
    out of files."""
    pool_size: Annotated[Count, Field(le=1000)] = 10
    """Connections one process may hold in its pool, besides one for each queue it leads."""
    connect_timeout_s: Annotated[Duration, Field(ge=1, le=600)] = 5.0
    """How long to wait for a connection. libpq counts whole seconds."""

    def __repr_args__(self) -> Iterator[tuple[str | None, object]]:
        for name, value in super().__repr_args__():
            yield name, redact(str(value)) if name == "url" and value else value


class LeaderSettings(_Section):
    """How a replica stands for election, and what it does while it leads."""

    queues: Names = ()
    """Queues this replica stands for; none named means all of them."""
    election_poll_s: Period = 0.5
    """How often a replica that does not lead a queue asks for its lock. It bounds the failover
    after a crash; polled, because a blocked waiter would hold back vacuum."""
    idle_session_timeout_s: ServerTimeout = 3.0
    """After this silence the server ends the leader's session and frees its lock: how long a paused
    or unreachable leader can hold up its successor."""
    statement_timeout_s: ServerTimeout = 5.0
    """Longest statement of the leader; the server ends what takes longer."""
    lock_timeout_s: ServerTimeout = 2.0
    """Longest wait of the leader for a lock. Shorter than the statement timeout, else it says
    nothing."""
    idle_in_transaction_timeout_s: ServerTimeout = 3.0
    """After this silence inside a transaction the server ends the leader's session: a leader paused
    in a tick holds its rows no longer than this."""
    tcp_user_timeout_s: ServerTimeout = 3.0
    """How long the server waits for the leader's host to acknowledge data before it ends the
    session: this finds a half-open link, keepalives do not."""
    connection_check_interval_s: ServerTimeout = 0.5
    """How often the server looks, during a statement, whether the leader is still connected: how
    soon a leader killed in mid-statement frees its lock."""
    batch_max: Annotated[Count, Field(le=10_000)] = 1000
    """Admissions in one tick. It bounds how long a tick takes, and so how long a newcomer waits."""
    busy_poll_s: Period = 0.003
    """Pause between ticks while there is work."""
    awake_s: Duration = 1.0
    """How long the leader keeps the busy pace after the last of much work (some 500 tasks a
    second), so that the producers of a steady stream need not wake it. While little comes, they
    do."""
    idle_poll_s: Period = 1.0
    """Pause between looks of a sleeping leader: what a lost wake-up costs at most, and what keeps
    its session from timing out. At most half the idle session timeout."""
    floor_interval_s: Period = 0.05
    """How often, while there is work, the leader publishes where claims start to look. Longer means
    more ended rows to walk when a long transaction holds back vacuum."""
    sweep_interval_s: Period = 30.0
    """How often everything is counted afresh, deadlines are enforced and drift is repaired."""
    watchdog_s: Annotated[Duration, Field(ge=1)] = 10.0
    """After this time without a finished tick the process ends itself. Longer than the statement
    timeout, which has to have its chance first."""

    @model_validator(mode="after")
    def _timeouts_leave_room(self) -> Self:
        if self.idle_poll_s > self.idle_session_timeout_s / 2:
            raise ValueError(
                f"leader.idle_poll_s ({self.idle_poll_s:g}) must be at most half of "
                f"leader.idle_session_timeout_s ({self.idle_session_timeout_s:g}), "
                "or the server ends the session of a leader that has nothing to do"
            )
        if self.busy_poll_s > self.idle_poll_s:
            raise ValueError(
                f"leader.busy_poll_s ({self.busy_poll_s:g}) must be at most "
                f"leader.idle_poll_s ({self.idle_poll_s:g})"
            )
        if self.lock_timeout_s >= self.statement_timeout_s:
            raise ValueError(
                f"leader.lock_timeout_s ({self.lock_timeout_s:g}) must be less than "
                f"leader.statement_timeout_s ({self.statement_timeout_s:g})"
            )
        if self.watchdog_s <= self.statement_timeout_s:
            raise ValueError(
                f"leader.watchdog_s ({self.watchdog_s:g}) must be more than "
                f"leader.statement_timeout_s ({self.statement_timeout_s:g})"
            )
        return self


class WorkerSettings(_Section):
    """How a worker process claims and runs tasks."""

    queues: Annotated[Names, Field(min_length=1)] = (DEFAULT_QUEUE,)
    """Queues this worker claims from."""
    concurrency: Annotated[Count, Field(le=10_000)] = 10
    """Tasks that run in this process at the same time."""
    lease_s: Annotated[Duration, Field(ge=1, le=86400)] = 30.0
    """How long a claim holds without a heartbeat. A crashed worker's tasks run again after this;
    heartbeats come several times within it."""
    prefetch_max: Annotated[Count, Field(le=10_000)] = 500
    """Tasks claimed ahead of those that run, at most; the worker holds fewer when tasks are
    slow."""
    poll_max_s: Period = 1.0
    """Longest pause between claims that find nothing: what a lost notification costs at most."""
    drain_timeout_s: Duration = 30.0
    """How long running tasks may finish after SIGTERM. Tasks not yet started are given back at
    once."""
    ack_batch: Annotated[Count, Field(le=10_000)] = 500
    """Finished tasks acknowledged in one statement, at most."""
    ack_linger_s: Annotated[Duration, Field(le=1)] = 0.005
    """How long a finished task waits for others to be acknowledged with it, up to four times that
    while thousands end each second. Its org's slot is held meanwhile."""
    listen: bool = True
    """Wake up on notifications. Off where a connection pooler in transaction mode is in between;
    then polling alone finds work."""


class RetentionSettings(_Section):
    """How long what has ended is kept."""

    task_s: Annotated[Duration, Field(ge=1)] = 7 * 86400.0
    """Ended tasks with their payloads, counted from their end."""
    attempt_s: Annotated[Duration, Field(ge=1)] = 7 * 86400.0
    """The history of attempts."""
    tick_log_s: Annotated[Duration, Field(ge=1)] = 86400.0
    """What each tick saw and decided: `explain` and replay reach back this far."""
    leadership_log_s: Annotated[Duration, Field(ge=1)] = 30 * 86400.0
    """Who led which queue, and why it ended."""
    audit_log_s: Annotated[Duration, Field(ge=1)] = 90 * 86400.0
    """Who changed which configuration."""


class LimitsSettings(_Section):
    """What a producer may send at most; more is refused before anything is stored."""

    payload_bytes_max: Annotated[Count, Field(le=256 * 1024**2)] = 1024**2
    """Bytes of one payload as JSON. Bigger things belong in an object store, with their address in
    the payload."""
    headers_bytes_max: Annotated[Count, Field(le=1024**2)] = 16 * 1024
    """Bytes of one task's headers as JSON."""
    batch_max: Annotated[Count, Field(le=1_000_000)] = 100_000
    """Tasks in one enqueue_many. A batch is one transaction, and its tasks are visible together."""


class ServerSettings(_Section):
    """What `orchestrator run --http` serves, and what it refuses."""

    http: ListenAddress | None = None
    """Where a replica serves HTTP, as HOST:PORT; not given, it serves none. Plain HTTP: whatever
    faces a network belongs behind a reverse proxy that speaks TLS."""
    pool_size: Annotated[Count, Field(le=1000)] = 10
    """Connections the server process may hold in its pool, besides those of the replica that
    started it."""
    body_bytes_max: Annotated[Count, Field(le=1024**3)] = 8 * 1024**2
    """Bytes of one request's body."""
    header_bytes_max: Annotated[Count, Field(ge=1024, le=1024**2)] = 16 * 1024
    """Bytes of one request's line and headers."""
    batch_max: Annotated[Count, Field(le=100_000)] = 1000
    """Tasks in one batch, and in one page of a list."""
    requests_max: Annotated[Count, Field(le=100_000)] = 2000
    """Requests under way at once, long polls among them; one more is refused with 503."""
    rate_per_s: Annotated[Count, Field(le=1_000_000)] = 2000
    """Requests a second of one token, in each server process; a burst of twice as many is let
    through."""
    header_timeout_s: Period = 10.0
    """How long a client may take to send the headers of a request."""
    body_timeout_s: Period = 30.0
    """How long a client may take to send the body of a request."""
    request_timeout_s: Annotated[Duration, Field(ge=1, le=3600)] = 60.0
    """How long a request may take in all; longer than the longest wait of a claim, 30 s."""
    drain_timeout_s: Duration = 10.0
    """How long requests under way may finish once the replica is told to end."""


class LogSettings(_Section):
    """What is logged and how it looks."""

    level: Annotated[
        Literal["debug", "info", "warning", "error", "critical"], BeforeValidator(_lower)
    ] = "info"
    """Least severe level that is logged: debug, info, warning, error or critical."""
    format: Annotated[Literal["auto", "console", "json"], BeforeValidator(_lower)] = "auto"
    """console for people, json for machines; auto is console on a terminal and json elsewhere."""


class MetricsSettings(_Section):
    """What a replica or worker tells a monitor."""

    listen: ListenAddress | None = None
    """Where to serve /metrics, /livez and /readyz, as HOST:PORT; not at all unless it is said. The
    listener asks nobody who they are: keep it inside."""
    interval_s: Annotated[Duration, Field(ge=1, le=3600)] = 15.0
    """How often the leader reads the figures of its queues; less often where that takes long."""
    orgs_max: Annotated[Count, Field(le=1000)] = 20
    """Orgs that are shown by name in each queue, those that hold or want most; the others are shown
    together."""


class TracingSettings(_Section):
    """Spans from enqueue to handler, for OpenTelemetry."""

    enabled: bool = False
    """Make spans, and carry them from the producer to the handler in the header `traceparent`.
    Needs the extra `otel`."""
    endpoint: Annotated[str, StringConstraints(strip_whitespace=True, min_length=1)] | None = None
    """Where to send them: the URL of an OTLP receiver over HTTP, such as
    http://localhost:4318/v1/traces. By default what OTEL_EXPORTER_OTLP_ENDPOINT says."""


class RedisSettings(_Section):
    """Where API processes share what they know of empty queues; one process does not need it."""

    url: Annotated[str, StringConstraints(strip_whitespace=True, min_length=1)] | None = None
    """Redis or Valkey, as redis://user:password@host:6379/0, rediss://... or unix:///path. None is
    used unless this is set. It decides nothing: what it does not tell, the database is asked."""
    prefix: Name = "orchestrator"
    """What the names of all keys begin with. Databases are told apart anyway; copies of one
    database need different prefixes."""
    verdict_ttl_s: Annotated[Duration, Field(ge=0.1, le=30)] = 30.0
    """How long a queue is believed to be empty without another look: what new work waits at most
    after Redis lost the news of it."""

    def __repr_args__(self) -> Iterator[tuple[str | None, object]]:
        for name, value in super().__repr_args__():
            yield name, redact(str(value)) if name == "url" and value else value


class Origin(StrEnum):
    """Where the value of a setting came from; an earlier one wins."""

    CLI = "cli"
    ENVIRONMENT = "environment"
    FILE = "file"
    DEFAULT = "default"


class Settings(BaseSettings):
    """Every setting, checked and frozen; `load` reads them, `Settings()` has the defaults alone."""

    model_config = SettingsConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    database: DatabaseSettings = DatabaseSettings()
    leader: LeaderSettings = LeaderSettings()
    worker: WorkerSettings = WorkerSettings()
    retention: RetentionSettings = RetentionSettings()
    limits: LimitsSettings = LimitsSettings()
    server: ServerSettings = ServerSettings()
    log: LogSettings = LogSettings()
    metrics: MetricsSettings = MetricsSettings()
    tracing: TracingSettings = TracingSettings()
    redis: RedisSettings = RedisSettings()

    _origins: dict[str, Origin] = PrivateAttr(default_factory=dict)

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Take what is passed in and nothing else: `load` reads the environment and the file.

        The sources that come with the library pass over unknown variables, and do not tell which
        of them a value came from.
        """
        return (init_settings,)


KEYS: Final = tuple(f"{section}.{name}" for section, part in Settings() for name, _ in part)
