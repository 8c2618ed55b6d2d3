"""Proposals for a simulation: what a policy file, or `KEY=VALUE` on a command line, changes.

Both name what operators set, in the words they set it by. A file, in TOML:

    slots = 32
    yield_s = 0.5

    [queue]
    policy = "strict"

    [tier.free]
    weight = 2
    burst_max = 20

    [workload.chat]
    express = true
    express_max_s = "2s"

    [org.acme]
    tier = "premium"
    burst_max = "none"

and the same as text: `slots=32`, `queue.policy=strict`, `tier:free.weight=2`,
`workload:chat.express=true`, `org:acme.tier=premium`. What is not named stays. `none` clears what
may be absent. A tier or workload that does not exist yet is created with what `tier set` and
`workload set` would give it.
"""

from __future__ import annotations

import math
import tomllib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from orchestrator.errors import InvalidInput
from orchestrator.fairness import WorkloadClass
from orchestrator.fairness.simulation.baselines import rule_of
from orchestrator.fairness.simulation.policy import YIELD_US_MIN, OrgSetting, SimPolicy
from orchestrator.model import (
    BURST_MAX_MIN,
    DEFAULT_TIER,
    NAME_MAX_CHARS,
    WEIGHT_MAX,
    WEIGHT_MIN,
    CostMode,
    Policy,
    Tier,
)
from orchestrator.text import shown

NONE = "none"
# Where `tier set` and `workload set` put a new one.
_NEW_RANK = 5
_INT_MAX = 2**31 - 1
_NEW_TIER = Tier("", weight=1, rank=_NEW_RANK, burst_max=None)

# The tiers and workloads of a new database; a test pins them to the schema.
SEEDED = SimPolicy(
    tiers={
        "enterprise": Tier("enterprise", weight=10, rank=1, burst_max=None),
        "premium": Tier("premium", weight=5, rank=2, burst_max=None),
        DEFAULT_TIER: Tier(DEFAULT_TIER, weight=2, rank=5, burst_max=None),
        "free": Tier("free", weight=1, rank=9, burst_max=50),
    },
    workloads={"api": WorkloadClass(share=8, rank=1), "etl": WorkloadClass(share=2, rank=2)},
)


@dataclass(frozen=True, slots=True)
class Draft:
    """A policy to simulate, and the two settings of the queue that its rule follows from."""

    policy: SimPolicy = SEEDED
    order: Policy = Policy.WEIGHTED
    cost_mode: CostMode = CostMode.TIME

    @property
    def settled(self) -> SimPolicy:
        """Return the policy with the rule that the queue's settings ask for."""
        return replace(self.policy, rule=rule_of(self.order, self.cost_mode))


class Override(NamedTuple):
    """One setting: `field` of the `name` of a `kind`; `where` is how errors name it."""

    kind: str
    name: str
    field: str
    value: Any
    where: str


def parse_overrides(text: str) -> list[Override]:
    """Return what a policy file says; raise `InvalidInput` where it is no TOML, or no policy."""
    try:
        document = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise InvalidInput(f"is no TOML: {error}") from error
    found: list[Override] = []
    for key, value in document.items():
        if key in _FIELDS[""]:
            found.append(_checked("", "", key, value, key))
        elif key == "queue":
            found += _section(key, "", value, key)
        elif key and key in _FIELDS:
            for name, fields in _table(value, key).items():
                found += _section(key, name, fields, f"{key}.{name}")
        else:
            known = "slots, yield_s, [queue], [org.NAME], [tier.NAME], [workload.NAME]"
            raise InvalidInput(f"unknown key {shown(key)}: a policy has {known}")
    if not found:
        raise InvalidInput(
            'sets nothing: write [tier.free], for example, and below it "weight = 2"'
        )
    return found


def parse_override(text: str) -> Override:
    """Return what `KEY=VALUE` says; raise `InvalidInput` naming the known keys."""
    path, equals, value = text.rpartition("=")
    if not equals:
        raise InvalidInput(f"{shown(text)} has no value: write KEY=VALUE, {_EXAMPLES}")
    if path in _FIELDS[""]:
        return _checked("", "", path, value, path)
    if path.startswith("queue."):
        return _checked("queue", "", path.removeprefix("queue."), value, path)
    kind, colon, rest = path.partition(":")
    name, dot, field = rest.rpartition(".")
    if kind not in _FIELDS or not kind or kind == "queue" or not colon or not dot:
        raise InvalidInput(f"unknown key {shown(path)}: write {_EXAMPLES}")
    return _checked(kind, name, field, value, path)


def apply(draft: Draft, overrides: Sequence[Override]) -> Draft:
    """Return `draft` with `overrides` applied in their order; raise `InvalidInput`."""
    tiers, workloads = dict(draft.policy.tiers), dict(draft.policy.workloads)
    orgs = dict(draft.policy.orgs)
    whole: dict[str, Any] = {}
    queue: dict[str, Any] = {}
    for kind, name, field, value, _ in overrides:
        change: dict[str, Any] = {field: value}
        if kind == "tier":
            tiers[name] = replace(tiers.get(name, replace(_NEW_TIER, name=name)), **change)
        elif kind == "workload":
            workloads[name] = workloads.get(name, WorkloadClass(rank=_NEW_RANK))._replace(**change)
        elif kind == "org":
            orgs[name] = orgs.get(name, OrgSetting())._replace(**change)
        elif kind == "queue" and field in ("policy", "cost_mode"):
            whole["order" if field == "policy" else field] = value
        else:
            queue[field] = value
    policy = replace(draft.policy, tiers=tiers, workloads=workloads, orgs=orgs, **queue)
    return replace(draft, policy=policy, **whole)


def demand_used(
    before: Draft, after: Draft, overrides: Sequence[Override], workloads: Sequence[str]
) -> None:
    """Raise `InvalidInput` for a tier or workload that `overrides` create and nothing is of."""
    used: Mapping[str, set[str]] = {
        "tier": {setting.tier for setting in after.policy.orgs.values()} | {DEFAULT_TIER},
        "workload": set(workloads),
    }
    known: Mapping[str, Mapping[str, object]] = {
        "tier": before.policy.tiers,
        "workload": before.policy.workloads,
    }
    for kind, name, _, _, where in overrides:
        if kind in used and name not in used[kind] and name not in known[kind]:
            raise InvalidInput(
                f"{where}: no {'org' if kind == 'tier' else 'task'} is of the {kind}"
                f" {shown(name)}: known are {', '.join(sorted(known[kind]))}"
            )


# Values -----------------------------------------------------------------------------------------


def _whole(low: int, high: int = _INT_MAX) -> Callable[[object], int]:
    def parse(value: object) -> int:
        number = value
        if isinstance(value, str):
            number = int(value) if value.removeprefix("-").isdecimal() else None
        if isinstance(number, bool) or not isinstance(number, int) or not low <= number <= high:
            raise InvalidInput(f"must be a whole number in {low}..{high}, not {shown(value)}")
        return number

    return parse


def _cap(value: object) -> int:
    if value in (0, "0"):
        raise InvalidInput("must be at least 1, not 0: pause the org instead")
    return _whole(BURST_MAX_MIN)(value)


def _number(value: object) -> float:
    number = math.nan
    if isinstance(value, str | int | float) and not isinstance(value, bool):
        with suppress(ValueError, OverflowError):
            number = float(value)
    if not (math.isfinite(number) and number > 0):
        raise InvalidInput(f"must be a number above 0, not {shown(value)}")
    return number


def _flag(value: object) -> bool:
    if isinstance(value, bool):
        return value
    if value not in ("true", "false"):
        raise InvalidInput(f"must be true or false, not {shown(value)}")
    return value == "true"


def _name(value: object) -> str:
    if not isinstance(value, str) or not 1 <= len(value) <= NAME_MAX_CHARS:
        raise InvalidInput(f"must be a name of 1 to {NAME_MAX_CHARS} characters")
    return value


def _microseconds(value: object) -> int:
    from pydantic import TypeAdapter, ValidationError

    from orchestrator.config.settings import Duration

    try:
        seconds: float = TypeAdapter(Duration).validate_python(value)
    except ValidationError as error:
        raise InvalidInput(error.errors()[0]["msg"].removeprefix("Value error, ")) from error
    return round(_number(seconds) * 1e6)


def _yield(value: object) -> int:
    yield_us = _microseconds(value)
    if yield_us < YIELD_US_MIN:
        raise InvalidInput(f"must be at least {YIELD_US_MIN / 1e6:g} s, not {shown(value)}")
    return yield_us


def _choice(kind: type[Policy] | type[CostMode]) -> Callable[[object], Policy | CostMode]:
    def parse(value: object) -> Policy | CostMode:
        if value not in list(kind):
            raise InvalidInput(f"must be {' or '.join(kind)}, not {shown(value)}")
        return kind(str(value))

    return parse


def _or_none(parse: Callable[[object], Any]) -> Callable[[object], Any]:
    return lambda value: None if value == NONE else parse(value)


_WEIGHT = _whole(WEIGHT_MIN, WEIGHT_MAX)
_RANK = _whole(-_INT_MAX)
_FIELDS: Mapping[str, Mapping[str, Callable[[object], Any]]] = {
    "": {"slots": _whole(1), "yield_s": _or_none(_yield)},
    "queue": {
        "policy": _choice(Policy),
        "cost_mode": _choice(CostMode),
        "capacity": _or_none(_whole(1)),
        "headroom": _or_none(_number),
        "express_reserve": _or_none(_whole(0)),
        "kappa": _whole(0, 1_000_000),
    },
    "org": {
        "tier": _name,
        "weight": _or_none(_WEIGHT),
        "burst_max": _or_none(_cap),
        "paused": _flag,
    },
    "tier": {"weight": _WEIGHT, "rank": _RANK, "burst_max": _or_none(_cap)},
    "workload": {
        "share": _WEIGHT,
        "rank": _RANK,
        "express": _flag,
        "express_max_s": _or_none(_microseconds),
    },
}
# Where a policy has another name or unit for it.
_STORED_AS = {"express_max_s": "express_max_us", "yield_s": "yield_us"}
_EXAMPLES = (
    "slots=N, queue.FIELD=…, org:NAME.FIELD=…, tier:NAME.FIELD=… or workload:NAME.FIELD=…,"
    " for example org:acme.burst_max=20"
)


def _checked(kind: str, name: str, field: str, value: object, where: str) -> Override:
    fields = _FIELDS[kind]
    if field not in fields:
        known = ", ".join(fields)
        raise InvalidInput(f"{where}: unknown field {shown(field)}: known are {known}")
    try:
        if kind not in ("", "queue"):
            _name(name)
        return Override(kind, name, _STORED_AS.get(field, field), fields[field](value), where)
    except InvalidInput as error:
        raise InvalidInput(f"{where} {error}") from error


def _section(kind: str, name: str, value: object, where: str) -> Iterator[Override]:
    for field, each in _table(value, where).items():
        yield _checked(kind, name, field, each, f"{where}.{field}")


def _table(value: object, where: str) -> Mapping[str, object]:
    if not isinstance(value, dict):
        raise InvalidInput(f"{where} must be a table: write [{where}] above its fields")
    return value
