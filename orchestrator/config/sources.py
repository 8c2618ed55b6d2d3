"""Where settings come from: command line, environment, file, default; the first that has it wins.

Each source is read into dotted keys, each with its raw value and the place its user would look for.
"""

from __future__ import annotations

import difflib
import os
import re
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Final, NamedTuple

from pydantic import ValidationError

from orchestrator.config.dsn import redact
from orchestrator.config.settings import KEYS, Origin, Settings
from orchestrator.errors import ConfigError

DEFAULT_FILE: Final = Path("orchestrator.toml")
PREFIX: Final = "ORCHESTRATOR_"
FILE_VARIABLE: Final = "ORCHESTRATOR_CONFIG"
URL_VARIABLE: Final = "DATABASE_URL"
# Values that may hold a password.
SECRET: Final = frozenset({"database.url", "redis.url"})

# Kubernetes describes every service of a namespace to its pods: for one called `orchestrator` or
# `orchestrator-worker` under names that look like ours. No setting may take such a name.
_SERVICE_LINK = re.compile(
    r"ORCHESTRATOR_(?:(?:PORT|SERVICE)_\w+"
    r"|\w+_(?:SERVICE_HOST|SERVICE_PORT(?:_\w+)?|PORT_\d+_(?:TCP|UDP|SCTP)(?:_\w+)?))"
)


class Setting(NamedTuple):
    """One setting as `config show` prints it: passwords are redacted."""

    key: str
    value: object
    origin: Origin


class _Given(NamedTuple):
    """A raw value, and what its user calls the place it was given in."""

    value: object
    origin: Origin
    where: str


def load(
    path: Path | None = None,
    env: Mapping[str, str] | None = None,
    overrides: Mapping[str, object] = MappingProxyType({}),
) -> Settings:
    """Read all settings; raise `ConfigError`, one line that says what to change, if any is wrong.

    `path`, else `ORCHESTRATOR_CONFIG`, names a file that must exist; with neither,
    `./orchestrator.toml` is read if it is there. `env` is the process's environment unless given.
    `overrides` come from the command line, by dotted key; None means that the option was not used.
    """
    env = os.environ if env is None else env
    given = _from_file(path, env) | _from_environment(env) | _from_overrides(overrides)
    sections: dict[str, dict[str, object]] = {}
    for key, each in given.items():
        section, _, name = key.partition(".")
        sections.setdefault(section, {})[name] = each.value
    try:
        settings = Settings.model_validate(sections)
    except ValidationError as error:
        raise ConfigError(_complaint(error, given)) from error
    settings._origins.update((key, each.origin) for key, each in given.items())
    return settings


def describe(settings: Settings) -> list[Setting]:
    """Return every setting with its value, passwords redacted, and where the value came from."""
    return [
        Setting(
            key := f"{section}.{name}",
            redact(value) if key in SECRET and value else value,
            settings._origins.get(key, Origin.DEFAULT),
        )
        for section, part in settings
        for name, value in part
    ]


def variable(key: str) -> str:
    """Return the environment variable of a setting: ORCHESTRATOR_WORKER_LEASE_S."""
    return PREFIX + key.replace(".", "_").upper()


def _from_file(path: Path | None, env: Mapping[str, str]) -> dict[str, _Given]:
    """Return what the file says, by dotted key; nothing where the default file does not exist."""
    named = path or env.get(FILE_VARIABLE)
    file = Path(named) if named else DEFAULT_FILE
    try:
        table = tomllib.loads(file.read_text("utf-8-sig"))
    except FileNotFoundError as error:
        if not named:
            return {}
        raise ConfigError(f"no file {file}: create it, or name another one") from error
    except OSError as error:
        raise ConfigError(f"cannot read {file}: {error.strerror}") from error
    except ValueError as error:  # not TOML, or not even UTF-8
        raise ConfigError(f"{file} is not valid TOML: {error}") from error
    known = (*KEYS, *Settings.model_fields)
    given = {}
    for key, value in _dotted(table):
        if key in Settings.model_fields:
            raise ConfigError(f"{key} in {file} is a section: write [{key}], its keys below it")
        if key not in KEYS:
            raise ConfigError(f"unknown key {key} in {file}: {_nearest(key, known)}")
        given[key] = _Given(value, Origin.FILE, f"{key} in {file}")
    return given


def _dotted(table: Mapping[str, object]) -> Iterator[tuple[str, object]]:
    """Yield a file's keys as section.key; a key outside of all sections as it stands."""
    for section, content in table.items():
        if isinstance(content, dict) and (content or section in Settings.model_fields):
            yield from ((f"{section}.{name}", value) for name, value in content.items())
        else:
            yield section, content


def _from_environment(env: Mapping[str, str]) -> dict[str, _Given]:
    """Return what the environment says, by dotted key."""
    given = {}
    if url := env.get(URL_VARIABLE):
        given["database.url"] = _Given(url, Origin.ENVIRONMENT, URL_VARIABLE)
    keys = {variable(key): key for key in KEYS}
    for name, value in sorted(env.items()):
        if not name.startswith(PREFIX) or name == FILE_VARIABLE or _is_service_link(name, value):
            continue
        if name not in keys:
            known = _nearest(name, (*keys, FILE_VARIABLE))
            raise ConfigError(f"unknown environment variable {name}: {known}")
        # An empty URL is what `DATABASE_URL=${DATABASE_URL:-}` leaves behind.
        if value or keys[name] != "database.url":
            given[keys[name]] = _Given(value, Origin.ENVIRONMENT, name)
    return given


def _is_service_link(name: str, value: str) -> bool:
    return bool(_SERVICE_LINK.fullmatch(name)) or (name.endswith("_PORT") and "://" in value)


def _from_overrides(overrides: Mapping[str, object]) -> dict[str, _Given]:
    """Return what the command line says, by dotted key."""
    given = {}
    for key, value in overrides.items():
        if key not in KEYS:
            raise ConfigError(f"unknown setting {key}: {_nearest(key, KEYS)}")
        if value is not None:
            given[key] = _Given(value, Origin.CLI, f"{key} on the command line")
    return given


def _nearest(name: str, known: Iterable[str]) -> str:
    """Say which known name was probably meant."""
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    return f"did you mean {near[0]}?" if near else "`orchestrator config show` lists all settings"


def _complaint(error: ValidationError, given: Mapping[str, _Given]) -> str:
    """Return one line about the first thing that is wrong, and where it was given."""
    first, *more = error.errors(include_url=False)
    text = first["msg"].removeprefix("Value error, ").replace("Input should", "should")
    key = ".".join(map(str, first["loc"][:2]))
    if key in given:
        unit = " (seconds)" if key.endswith("_s") and text.startswith("should") else ""
        shown = "" if key in SECRET else f" = {given[key].value!r:.80}"
        text = f"{given[key].where}{shown}: {text}{unit}"
    return f"{text} (and {len(more)} more)" if more else text
