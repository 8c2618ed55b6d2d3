"""Settings: every default and its unit, once.

A value comes from the first of these that has it: the command line, the environment, the TOML file,
the default. The names follow from one another:

    worker.lease_s                 in Python, and in `orchestrator config show`
    ORCHESTRATOR_WORKER_LEASE_S    in the environment (database.url also as DATABASE_URL)
    [worker] lease_s = "30s"       in the file

Names ending in `_s` are durations in seconds, also written `30s`, `5m`, `250ms`, `2h` or `1d`.
A name nobody knows is an error, never ignored: a misspelt setting must not silently be a default.
"""

from orchestrator.config.address import Address, parse_address
from orchestrator.config.dsn import redact
from orchestrator.config.settings import (
    KEYS,
    DatabaseSettings,
    LeaderSettings,
    LimitsSettings,
    LogSettings,
    MetricsSettings,
    Origin,
    RedisSettings,
    RetentionSettings,
    ServerSettings,
    Settings,
    TracingSettings,
    WorkerSettings,
)
from orchestrator.config.sources import Setting, describe, load, variable

__all__ = [
    "KEYS",
    "Address",
    "DatabaseSettings",
    "LeaderSettings",
    "LimitsSettings",
    "LogSettings",
    "MetricsSettings",
    "Origin",
    "RedisSettings",
    "RetentionSettings",
    "ServerSettings",
    "Setting",
    "Settings",
    "TracingSettings",
    "WorkerSettings",
    "describe",
    "load",
    "parse_address",
    "redact",
    "variable",
]
