"""What a producer may send: checked here, at the edge, before anything is stored.

Whatever passes can be stored by PostgreSQL and decoded again by a worker. A checked spec holds
plain values only (a `str`, not a `StrEnum`; UTC), because the items of a batch become arrays, and
an array has one type.

What nearly every task looks like is recognised at a glance: plain types, no option that few use, a
payload without nesting. Whatever is not so recognised, or looks wrong, goes through the complete
check, which alone refuses and says why.
"""

from __future__ import annotations

import difflib
import json
import reprlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import MISSING, fields
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any, NamedTuple, cast

from orchestrator.config import LimitsSettings
from orchestrator.errors import InvalidInput, OrchestratorError
from orchestrator.model import (
    MAX_ATTEMPTS_MAX,
    PRIORITY_DEFAULT,
    PRIORITY_MAX,
    PRIORITY_MIN,
    TaskSpec,
    Urgency,
)
from orchestrator.store.orgs import TEXT_MAX_CHARS, check_name
from orchestrator.text import kind_of, said

# Workers decode with a recursive decoder; what people nest on purpose is far from this.
DEPTH_MAX = 100
# Python refuses to decode integers of more than 4,300 digits; this many bits have fewer.
INT_BITS_MAX = 14_000
# Ten years: a longer one is a slip of the unit, and `now + delay` must stay a timestamp.
SECONDS_MAX = 3650 * 86400.0
# A timeout shorter than a clock can tell is no timeout.
TIMEOUT_S_MIN = 0.001
# Nor is that a time to live.
TTL_S_MIN = 0.001
# Within these, every time zone's reading is a timestamp to Python and to PostgreSQL.
YEAR_MIN, YEAR_MAX = 1970, 9000

# Made once: `json.dumps` makes one for each call. What is checked holds no circles.
_JSON = json.JSONEncoder(
    allow_nan=False, check_circular=False, ensure_ascii=False, separators=(",", ":")
)
_FIELDS = {field.name: field for field in fields(TaskSpec)}
_REQUIRED = {name: field for name, field in _FIELDS.items() if field.default is MISSING}

# Names repeat: orgs, queues, workloads, and what the tasks are called.
_NAMES_KEPT = 2_048
_TEXT = frozenset({str})
_SCALARS = frozenset({str, int, float, bool, type(None)})
# JSON of fewer bytes than this holds no integer of more than INT_BITS_MAX bits, which has 4,215
# digits at least, and so needs no look at each of them.
_SHORT_BYTES = 4_000
# How JSON writes the one character that PostgreSQL cannot store; also part of a text about it.
_NUL = "\\u0000"


class Ready(NamedTuple):
    """A spec that was checked, and its payload as JSON."""

    spec: TaskSpec
    payload: str


def ready(spec: TaskSpec, limits: LimitsSettings) -> Ready:
    """Return `spec` with plain values and its payload encoded; raise `InvalidInput`."""
    checked = spec if _is_usual(spec) else _checked(spec, limits)
    return Ready(checked, encode(spec.payload, limits.payload_bytes_max))


def _is_usual(spec: TaskSpec) -> bool:
    """Tell whether `spec` is as most are: plain already, within bounds, without rare options."""
    key, timeout = spec.idempotency_key, spec.timeout_s
    try:
        return (
            type(spec) is TaskSpec
            and type(spec.name) is str
            and type(spec.org) is str
            and type(spec.queue) is str
            and type(spec.workload) is str
            and (
                spec.priority is PRIORITY_DEFAULT
                or (type(spec.priority) is int and PRIORITY_MIN <= spec.priority <= PRIORITY_MAX)
            )
            and type(spec.max_attempts) is int
            and 1 <= spec.max_attempts <= MAX_ATTEMPTS_MAX
            and spec.run_at is None
            and spec.delay is None
            and spec.expires_at is None
            and spec.expires_in is None
            and spec.urgency is None
            and spec.headers is None
            and spec.critical is False
            and _known_name(spec.name)
            and _known_name(spec.org)
            and _known_name(spec.queue)
            and _known_name(spec.workload)
            # Keys do not repeat: kept, they would drive out the names that do.
            and (key is None or (type(key) is str and bool(check_name("key", key))))
            and (
                timeout is None
                or (type(timeout) is float and TIMEOUT_S_MIN <= timeout <= SECONDS_MAX)
            )
        )
    except InvalidInput:  # the complete check says which field it is
        return False


@lru_cache(_NAMES_KEPT)
def _known_name(name: str) -> bool:
    """Return True if `name`, a plain string, can be a name; raise, which is not kept, if not."""
    check_name("name", name)
    return True


def _checked(spec: TaskSpec, limits: LimitsSettings) -> TaskSpec:
    if spec.run_at is not None and spec.delay is not None:
        raise InvalidInput("run_at and delay exclude each other: give one of them")
    if spec.expires_at is not None and spec.expires_in is not None:
        raise InvalidInput("expires_at and expires_in exclude each other: give one of them")
    key, delay, timeout = spec.idempotency_key, spec.delay, spec.timeout_s
    expires_in = spec.expires_in
    priority, critical = _urgency(spec)
    return TaskSpec(
        name=plain_name("name", spec.name),
        payload=spec.payload,
        org=plain_name("org", spec.org),
        queue=plain_name("queue", spec.queue),
        workload=plain_name("workload", spec.workload),
        priority=priority,
        run_at=_instant("run_at", spec.run_at),
        delay=None if delay is None else seconds("delay", delay),
        expires_at=_instant("expires_at", spec.expires_at),
        idempotency_key=None if key is None else plain_name("idempotency_key", key),
        max_attempts=whole("max_attempts", spec.max_attempts, 1, MAX_ATTEMPTS_MAX),
        timeout_s=None if timeout is None else seconds("timeout_s", timeout, TIMEOUT_S_MIN),
        headers=_headers(spec.headers, limits.headers_bytes_max),
        critical=critical,
        expires_in=None if expires_in is None else seconds("expires_in", expires_in, TTL_S_MIN),
    )


def _urgency(spec: TaskSpec) -> tuple[int, bool]:
    """Return the priority of a task and whether it is critical, however that was said."""
    critical = _flag("critical", spec.critical)
    given = spec.priority is not PRIORITY_DEFAULT
    if spec.urgency is None:
        if not given:
            return (PRIORITY_MAX if critical else spec.priority), critical
        return whole("priority", spec.priority, PRIORITY_MIN, PRIORITY_MAX), critical
    if given:
        raise InvalidInput("urgency and priority exclude each other: give one of them")
    urgency = _known_urgency(spec.urgency)
    if critical and urgency is not Urgency.CRITICAL:
        raise InvalidInput(f"urgency {urgency} is not critical: give one of them")
    return urgency.priority, urgency is Urgency.CRITICAL


def _known_urgency(value: object) -> Urgency:
    for urgency in Urgency:
        if value == urgency.value or (type(value) is int and value == urgency.level):
            return urgency
    known = ", ".join(f"{urgency} ({urgency.level})" for urgency in Urgency)
    raise InvalidInput(f"urgency is one of {known}, not {shown(value)}")


def all_ready(items: Iterable[TaskSpec | Mapping[str, Any]], limits: LimitsSettings) -> list[Ready]:
    """Return every item `ready`; raise `InvalidInput` that names the index of a bad one."""
    specs = all_checked(all_given(items, limits), limits)
    return list(map(Ready, specs, all_encoded(specs, limits)))


def all_given(
    items: Iterable[TaskSpec | Mapping[str, Any]], limits: LimitsSettings
) -> list[TaskSpec]:
    """Return every item as a spec that nobody has checked; raise `InvalidInput` where there are too
    many, or one is no spec at all.
    """
    given: list[TaskSpec] = []
    for item in items:
        if len(given) == limits.batch_max:
            raise InvalidInput(
                f"more than {limits.batch_max} items: enqueue them in several batches"
            )
        try:
            given.append(item if isinstance(item, TaskSpec) else _from_mapping(item))
        except OrchestratorError:
            with numbered(len(given)):
                raise
    return given


def all_checked(
    given: Sequence[TaskSpec], limits: LimitsSettings, at: Sequence[int] | None = None
) -> list[TaskSpec]:
    """Return every spec with plain values, its payload not looked at; raise `InvalidInput` that
    names the first bad one by its index, or by that in `at`.
    """
    checked: list[TaskSpec] = []
    for spec in given:
        try:
            checked.append(spec if _is_usual(spec) else _checked(spec, limits))
        except OrchestratorError:
            with numbered(at[len(checked)] if at else len(checked)):
                raise
    return checked


def all_encoded(
    specs: Sequence[TaskSpec], limits: LimitsSettings, at: Sequence[int] | None = None
) -> list[str]:
    """Return the payloads of specs as JSON; raise `InvalidInput` that names the first bad one by
    its index, or by that in `at`.
    """
    encoded: list[str] = []
    for spec in specs:
        try:
            encoded.append(encode(spec.payload, limits.payload_bytes_max))
        except OrchestratorError:
            with numbered(at[len(encoded)] if at else len(encoded)):
                raise
    return encoded


@contextmanager
def numbered(index: int) -> Iterator[None]:
    """Say in our errors which item of a batch they are about."""
    try:
        yield
    except OrchestratorError as error:
        raise type(error)(f"item {index}: {error}") from error


def encode(payload: Any, bytes_max: int) -> str:
    """Return `payload` as JSON that can be stored and decoded again; raise `InvalidInput`."""
    if _is_flat(payload):
        try:
            text = _JSON.encode(payload)
            size = len(text) if text.isascii() else len(text.encode())
            if size < _SHORT_BYTES and size <= bytes_max and _NUL not in text:
                return text
        except ValueError:  # NaN, an infinity, a huge integer, a lone surrogate
            pass
    return _encode_checked(payload, bytes_max)


def _is_flat(payload: Any) -> bool:
    """Tell whether `payload` is a scalar, or an object or a list of nothing but scalars."""
    if type(payload) is dict:
        return _TEXT.issuperset(map(type, payload)) and _SCALARS.issuperset(
            map(type, payload.values())
        )
    if type(payload) is list:
        return _SCALARS.issuperset(map(type, payload))
    return type(payload) in _SCALARS


def _encode_checked(payload: Any, bytes_max: int) -> str:
    """Do what `encode` does for whatever it may be given."""
    _check_tree(payload, bytes_max)
    try:
        encoded = _JSON.encode(payload)
        size = len(encoded.encode())
    except UnicodeEncodeError as error:
        raise InvalidInput(
            "payload has text that is not valid Unicode (a lone surrogate)"
        ) from error
    except ValueError as error:
        raise InvalidInput("payload has NaN or an infinity, which JSON does not know") from error
    if size > bytes_max:
        raise InvalidInput(
            f"payload has {size} bytes as JSON, more than {bytes_max} (limits.payload_bytes_max): "
            "store it elsewhere and send its address"
        )
    return encoded


def _check_tree(payload: Any, bytes_max: int) -> None:
    """Walk the payload level by level, so that neither depth nor sharing of parts can hurt."""
    level = [payload]
    for _ in range(DEPTH_MAX):
        below: list[Any] = []
        for value in level:
            if isinstance(value, str):
                _check_nul(value)
            elif isinstance(value, dict):
                for key in value:
                    _check_key(key)
                below.extend(value.values())
            elif isinstance(value, list | tuple):
                below.extend(value)
            else:
                _check_scalar(value)
            if len(below) > bytes_max:  # every value takes a byte at least
                raise InvalidInput(
                    f"payload has more than {bytes_max} values (limits.payload_bytes_max): "
                    "store it elsewhere and send its address"
                )
        if not below:
            return
        level = below
    raise InvalidInput(f"payload is nested deeper than {DEPTH_MAX} levels: flatten it")


def _check_key(key: object) -> None:
    # json.dumps would turn 1 and None into "1" and "null", and the worker would look in vain.
    if not isinstance(key, str):
        raise InvalidInput(
            f"payload has a key of type {type(key).__name__}: keys are strings, convert it"
        )
    _check_nul(key)


def _check_nul(text: str) -> None:
    if "\0" in text:
        raise InvalidInput("payload has a NUL character, which PostgreSQL cannot store: remove it")


def _check_scalar(value: object) -> None:
    if value is None or isinstance(value, float):
        return
    if not isinstance(value, int):
        raise InvalidInput(
            f"payload has a value of type {type(value).__name__}, which JSON does not know: "
            "convert it, for example to a string"
        )
    if value.bit_length() > INT_BITS_MAX:
        raise InvalidInput("payload has an integer of thousands of digits: send it as a string")


def plain_name(kind: str, value: object) -> str:
    """Return `value` as a plain string if it can be a name; raise `InvalidInput`."""
    if not isinstance(value, str):
        raise InvalidInput(f"{kind} must be a string, not {shown(value)}")
    return str.__str__(check_name(kind, value))


def whole(kind: str, value: object, low: int, high: int) -> int:
    """Return `value` as a plain int if it lies in `low`..`high`; raise `InvalidInput`."""
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise InvalidInput(f"{kind} must be an integer in {low}..{high}, not {shown(value)}")
    return int(value)


def seconds(kind: str, value: object, low: float = 0.0, high: float = SECONDS_MAX) -> float:
    """Return `value` as a float if it is a number in `low`..`high`; raise `InvalidInput`."""
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not number or not low <= value <= high:  # type: ignore[operator]  # NaN is not in between
        raise InvalidInput(
            f"{kind} must be a number of seconds in {low:g}..{high:.0f}, not {shown(value)}"
        )
    return float(value)  # type: ignore[arg-type]


def optional_text(kind: str, value: object) -> str | None:
    """Return `value` if it is None or a text people may read later; raise `InvalidInput`."""
    if value is None:
        return None
    if not isinstance(value, str) or len(value) > TEXT_MAX_CHARS:
        raise InvalidInput(f"{kind} must be a text of at most {TEXT_MAX_CHARS} characters")
    return storable(value)


def error_text(error: object) -> str:
    """Return what to store of an error: bounded, printable by PostgreSQL, never raising itself."""
    # By its type: `isinstance` would ask the exception, which may answer anything.
    if issubclass(type(error), str):
        return storable(str.__str__(cast(str, error)))
    if not issubclass(type(error), BaseException):
        raise InvalidInput(f"error must be a text or an exception, not {shown(error)}")
    text = said(cast(BaseException, error))
    return storable(f"{kind_of(error)}: {text[:TEXT_MAX_CHARS]}")


def storable(value: str) -> str:
    """Return `value` cut to 4,000 characters, with what PostgreSQL cannot store replaced."""
    cut = value[:TEXT_MAX_CHARS].replace("\0", "\N{REPLACEMENT CHARACTER}")
    return cut.encode("utf-8", "replace").decode()


def shown(value: object) -> str:
    """Return a short `repr` for messages."""
    try:
        return reprlib.repr(value)
    except ValueError:  # an int too long to print
        return f"a huge {type(value).__name__}"


def _instant(kind: str, value: object) -> datetime | None:
    if value is None:
        return None
    if not isinstance(value, datetime):
        raise InvalidInput(f"{kind} must be a datetime, not {shown(value)}")
    if value.utcoffset() is None:
        raise InvalidInput(
            f"{kind} has no time zone: use datetime.now(UTC), or attach the zone you mean"
        )
    if not YEAR_MIN <= value.year <= YEAR_MAX:
        raise InvalidInput(f"{kind} must lie in the years {YEAR_MIN}..{YEAR_MAX}, not {value.year}")
    utc = value.astimezone(UTC)
    day, clock = utc.timetuple()[:3], (utc.hour, utc.minute, utc.second, utc.microsecond)
    return datetime(*day, *clock, tzinfo=UTC)


def _headers(value: object, bytes_max: int) -> Mapping[str, str] | None:
    if value is None:
        return None
    if not isinstance(value, Mapping):
        raise InvalidInput(f"headers must map strings to strings, not {shown(value)}")
    plain = {plain_name("a header's name", key): _header(key, each) for key, each in value.items()}
    try:
        size = len(json.dumps(plain, ensure_ascii=False).encode())
    except UnicodeEncodeError as error:
        raise InvalidInput("a header is not valid Unicode text (lone surrogate)") from error
    if size > bytes_max:
        raise InvalidInput(
            f"headers have {size} bytes as JSON, more than {bytes_max} (limits.headers_bytes_max)"
        )
    return plain


def _header(key: str, value: object) -> str:
    if not isinstance(value, str):
        raise InvalidInput(f"header {shown(key)} must be a string, not {shown(value)}")
    if "\0" in value:
        raise InvalidInput(f"header {shown(key)} has a NUL character: remove it")
    return str.__str__(value)


def _flag(kind: str, value: object) -> bool:
    if not isinstance(value, bool):
        raise InvalidInput(f"{kind} must be True or False, not {shown(value)}")
    return value


def _from_mapping(item: object) -> TaskSpec:
    if type(item) is dict and item.keys() <= _FIELDS.keys() and _REQUIRED.keys() <= item.keys():
        return TaskSpec(**item)
    if not isinstance(item, Mapping):
        raise InvalidInput(f"a task is a TaskSpec or a mapping, not {shown(item)}")
    for key in item:
        if key not in _FIELDS:
            near = difflib.get_close_matches(str(key), _FIELDS, n=1)
            meant = f"did you mean {near[0]}?" if near else f"the keys are {', '.join(_FIELDS)}"
            raise InvalidInput(f"unknown key {shown(key)}: {meant}")
    for required in _REQUIRED:
        if required not in item:
            raise InvalidInput(f"{required} is missing")
    return TaskSpec(**item)
