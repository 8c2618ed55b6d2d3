"""Configuration: tiers, workloads, queues and orgs, each change with its line in the audit log.

Bounds are checked here, in Python, with a message for people, and again by the CHECK constraints.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from orchestrator.errors import InvalidInput, UnknownOrg, UnknownQueue, UnknownTier
from orchestrator.model import (
    BURST_MAX_MIN,
    NAME_MAX_CHARS,
    WEIGHT_MAX,
    WEIGHT_MIN,
    CostMode,
    OrgConfig,
    Policy,
    QueueConfig,
    Tier,
    Workload,
)
from orchestrator.store.leadership import queue_config, queues
from orchestrator.store.sql import Operation, Statements
from orchestrator.text import shown

SQL = Statements("orgs")

# Texts for people: why an org is paused, why a task was cancelled.
TEXT_MAX_CHARS = 4_000

_PAGE = 10_000


class Unset:
    """The type of `UNSET`: leave this as it is (None means: clear it)."""


UNSET = Unset()


class ConfigVersion(NamedTuple):
    """Which configuration is in force, and the snapshot before which all of it is read."""

    version: int
    deletes: int
    snapshot: str


class OrgRow(NamedTuple):
    """What the leader needs of an org's configuration."""

    org: str
    tier: str
    weight: int | None
    burst_max: int | None
    paused: bool


def check_name(kind: str, value: object) -> str:
    """Return `value` if it can be a name of an org, queue, workload, task or tier."""
    if not isinstance(value, str) or not value:
        raise InvalidInput(f"{kind} must be a non-empty string, not {shown(value)}")
    if len(value) > NAME_MAX_CHARS:
        raise InvalidInput(f"{kind} has {len(value)} characters; at most {NAME_MAX_CHARS}")
    _check_storable(kind, value)
    return value


def _check_storable(kind: str, value: str) -> None:
    try:
        value.encode("utf-8")
    except UnicodeEncodeError as error:
        raise InvalidInput(f"{kind} is not valid Unicode text (lone surrogate)") from error
    if "\0" in value:
        raise InvalidInput(f"{kind} contains a NUL character, which PostgreSQL cannot store")


def check_text(kind: str, value: str | None) -> str | None:
    """Return `value` if it is None or a text that can be kept for people to read."""
    if value:
        if len(value) > TEXT_MAX_CHARS:
            raise InvalidInput(f"{kind} has {len(value)} characters; at most {TEXT_MAX_CHARS}")
        _check_storable(kind, value)
    return value


def check_int(kind: str, value: object, low: int, high: int, hint: str = "") -> int:
    """Return `value` if it is an int in low..high; bool is not an int here."""
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise InvalidInput(f"{kind} must be an integer in {low}..{high}, not {shown(value)}{hint}")
    return value


def check_weight(value: object) -> int:
    """Return `value` if it can be a weight or a share."""
    return check_int("weight", value, WEIGHT_MIN, WEIGHT_MAX)


def check_burst_max(value: object) -> int:
    """Return `value` if it can be a burst_max."""
    hint = ": pause the org instead" if value == 0 else ""
    return check_int("burst_max", value, BURST_MAX_MIN, 2**31 - 1, hint)


def tiers() -> Operation:
    """Return all `Tier`s, best rank first."""
    rows = yield SQL.call("tiers")
    return [Tier(*row) for row in rows]


def workloads() -> Operation:
    """Return all `Workload`s, best rank first."""
    rows = yield SQL.call("workloads")
    return [Workload(*row) for row in rows]


def config_version() -> Operation:
    """Return the `ConfigVersion` in force; read it before the configuration itself."""
    rows = yield SQL.call("config_version")
    return ConfigVersion(*rows[0])


def orgs_changed(snapshot: str) -> Operation:
    """Return (snapshot of this read, the `OrgRow`s written since `snapshot`)."""
    rows = yield SQL.call("orgs_changed", prev=snapshot)
    return rows[0][0], [OrgRow(*row[1:]) for row in rows if row[1] is not None]


def all_orgs() -> Operation:
    """Return every configured org as `OrgConfig`, read in chunks."""
    loaded: list[OrgConfig] = []
    while True:
        after = loaded[-1].org if loaded else ""
        rows = yield SQL.call("orgs_page", after=after, limit=_PAGE)
        loaded.extend(OrgConfig(*row) for row in rows)
        if len(rows) < _PAGE:
            return loaded


def orgs_page(after: str, limit: int) -> Operation:
    """Return up to `limit` configured orgs as `OrgConfig`, by name, those after `after`."""
    rows = yield SQL.call("orgs_page", after=after, limit=limit)
    return [OrgConfig(*row) for row in rows]


def get_org(org: str) -> Operation:
    """Return the `OrgConfig` of `org`; one that is not configured has the default tier."""
    rows = yield SQL.call("org", org=check_name("org", org))
    return OrgConfig(*rows[0]) if rows else OrgConfig(org)


def set_org(
    org: str,
    *,
    tier: str | None = None,
    weight: int | Unset | None = UNSET,
    burst_max: int | Unset | None = UNSET,
    backlog_max: int | Unset | None = UNSET,
    actor: str,
) -> Operation:
    """Set tier, weight and bounds of `org` (None clears an override); return its `OrgConfig`."""
    check_name("org", org)
    if not isinstance(weight, Unset) and weight is not None:
        check_weight(weight)
    if not isinstance(burst_max, Unset) and burst_max is not None:
        check_burst_max(burst_max)
    _check_backlog_max(backlog_max)
    if tier is not None:
        yield from _check_tiers([check_name("tier", tier)])
    rows = yield SQL.call(
        "set_org",
        org=org,
        tier=tier,
        weight=_value(weight),
        set_weight=weight is not UNSET,
        burst_max=_value(burst_max),
        set_burst_max=burst_max is not UNSET,
        backlog_max=_value(backlog_max),
        set_backlog_max=backlog_max is not UNSET,
    )
    change = {
        "tier": tier,
        "weight": weight,
        "burst_max": burst_max,
        "backlog_max": backlog_max,
    }
    yield from audit(actor, "org.set", org, change)
    return OrgConfig(*rows[0])


def pause_org(org: str, reason: str | None, *, actor: str) -> Operation:
    """Admit nothing more of `org` until it is resumed; return its `OrgConfig`."""
    check_text("reason", reason)
    rows = yield SQL.call("pause_org", org=check_name("org", org), reason=reason)
    yield from audit(actor, "org.pause", org, {"reason": reason})
    return OrgConfig(*rows[0])


def resume_org(org: str, *, actor: str) -> Operation:
    """Admit `org` again; return its `OrgConfig`; raise `UnknownOrg` where it was never
    configured.
    """
    rows = yield SQL.call("resume_org", org=check_name("org", org))
    if not rows:
        raise UnknownOrg(f"org {org!r} is not configured, so it was never paused")
    yield from audit(actor, "org.resume", org, {})
    return OrgConfig(*rows[0])


def import_orgs(configs: Sequence[OrgConfig], *, actor: str) -> Operation:
    """Set many orgs at once; needs a transaction; raises before it writes where a line is wrong."""
    for config in configs:
        check_name("org", config.org)
        if config.weight is not None:
            check_weight(config.weight)
        if config.burst_max is not None:
            check_burst_max(config.burst_max)
    yield from _check_tiers(sorted({config.tier for config in configs}))
    ordered = sorted(configs, key=lambda config: config.org)
    yield SQL.call(
        "import_orgs",
        orgs=[config.org for config in ordered],
        tiers=[config.tier for config in ordered],
        weights=[config.weight for config in ordered],
        burst_maxes=[config.burst_max for config in ordered],
    )
    yield from audit(actor, "org.import", f"{len(ordered)} orgs", {})


def orgs_named(orgs: Sequence[str]) -> Operation:
    """Return the `OrgConfig`s of those of `orgs` that are configured."""
    rows = yield SQL.call("orgs_named", orgs=list(orgs))
    return [OrgConfig(*row) for row in rows]


def set_tier(
    name: str,
    *,
    weight: int | None = None,
    rank: int | None = None,
    burst_max: int | Unset | None = UNSET,
    backlog_max: int | Unset | None = UNSET,
    actor: str,
) -> Operation:
    """Create or change a tier; return it as `Tier`."""
    check_name("tier", name)
    if weight is not None:
        check_weight(weight)
    if rank is not None:
        check_int("rank", rank, 0, 10_000)
    if not isinstance(burst_max, Unset) and burst_max is not None:
        check_burst_max(burst_max)
    _check_backlog_max(backlog_max)
    rows = yield SQL.call(
        "set_tier",
        name=name,
        weight=weight,
        rank=rank,
        burst_max=_value(burst_max),
        set_burst_max=burst_max is not UNSET,
        backlog_max=_value(backlog_max),
        set_backlog_max=backlog_max is not UNSET,
    )
    change = {"weight": weight, "rank": rank, "burst_max": burst_max, "backlog_max": backlog_max}
    yield from audit(actor, "tier.set", name, change)
    return Tier(*rows[0])


def set_workload(
    name: str,
    *,
    share: int | None = None,
    rank: int | None = None,
    express: bool | None = None,
    express_max_s: float | Unset | None = UNSET,
    actor: str,
) -> Operation:
    """Create or change a workload; return it as `Workload`."""
    check_name("workload", name)
    if share is not None:
        check_int("share", share, WEIGHT_MIN, WEIGHT_MAX)
    if rank is not None:
        check_int("rank", rank, 0, 10_000)
    _check_positive("express_max_s", express_max_s)
    rows = yield SQL.call(
        "set_workload",
        name=name,
        share=share,
        rank=rank,
        express=express,
        express_max_s=_value(express_max_s),
        set_express_max_s=express_max_s is not UNSET,
    )
    change = {"share": share, "rank": rank, "express": express, "express_max_s": express_max_s}
    yield from audit(actor, "workload.set", name, change)
    return Workload(*rows[0])


def set_queue(
    name: str,
    *,
    policy: Policy | None = None,
    cost_mode: CostMode | None = None,
    capacity: int | Unset | None = UNSET,
    headroom: float | Unset | None = UNSET,
    express_reserve: int | Unset | None = UNSET,
    ready_max: int | Unset | None = UNSET,
    kappa: int | None = None,
    max_wait_s: float | Unset | None = UNSET,
    actor: str,
) -> Operation:
    """Create or change a queue; return it as `QueueConfig`; needs a transaction."""
    check_name("queue", name)
    for kind, value, least in (
        ("capacity", capacity, 1),
        ("ready_max", ready_max, 1),
        ("express_reserve", express_reserve, 0),
    ):
        if not isinstance(value, Unset) and value is not None:
            check_int(kind, value, least, 2**31 - 1)
    if kappa is not None:
        check_int("kappa", kappa, 0, 1_000_000)
    _check_positive("max_wait_s", max_wait_s)
    _check_positive("headroom", headroom)
    yield from _check_headroom(name, capacity, headroom)
    rows = yield SQL.call(
        "set_queue",
        name=name,
        policy=policy and str(policy),
        cost_mode=cost_mode and str(cost_mode),
        headroom=_value(headroom),
        set_headroom=headroom is not UNSET,
        express_reserve=_value(express_reserve),
        set_express_reserve=express_reserve is not UNSET,
        capacity=_value(capacity),
        set_capacity=capacity is not UNSET,
        ready_max=_value(ready_max),
        set_ready_max=ready_max is not UNSET,
        kappa=kappa,
        max_wait_s=_value(max_wait_s),
        set_max_wait_s=max_wait_s is not UNSET,
    )
    change = {
        "policy": policy,
        "cost_mode": cost_mode,
        "capacity": capacity,
        "headroom": headroom,
        "express_reserve": express_reserve,
        "ready_max": ready_max,
        "kappa": kappa,
        "max_wait_s": max_wait_s,
    }
    yield from audit(actor, "queue.set", name, change)
    return queue_config(rows[0])


def pause_queue(name: str, *, paused: bool, actor: str) -> Operation:
    """Stop or resume admission to a queue; what is admitted runs on; return its `QueueConfig`."""
    rows = yield SQL.call("pause_queue", name=name, paused=paused)
    if not rows:
        raise UnknownQueue(f"no queue {name!r}: `orchestrator queue list` names them")
    yield from audit(actor, "queue.pause" if paused else "queue.resume", name, {})
    return queue_config(rows[0])


def queue_in_flight(queue: QueueConfig) -> Operation:
    """Return how many tasks of the queue are (ready, claimed)."""
    rows = yield SQL.call("queue_in_flight", queue=queue.id)
    return rows[0]


def _check_backlog_max(value: int | Unset | None) -> None:
    if not isinstance(value, Unset) and value is not None:
        check_int("backlog_max", value, 1, 2**31 - 1)


def _check_positive(kind: str, value: float | Unset | None) -> None:
    if not isinstance(value, Unset) and value is not None and not value > 0:
        raise InvalidInput(f"{kind} must be a number above 0, not {value!r}")


def _check_headroom(
    name: str, capacity: int | Unset | None, headroom: float | Unset | None
) -> Operation:
    """Raise `InvalidInput` where the queue would have headroom and no capacity."""
    rows = yield from queues([name])
    before = rows[0] if rows else None
    if capacity is UNSET:
        capacity = before.capacity if before else None
    if headroom is UNSET:
        headroom = before.headroom if before else None
    if headroom is not None and capacity is None:
        raise InvalidInput(
            "headroom is a part of what the capacity leaves: set a capacity too, or headroom none"
        )


def _check_tiers(names: Sequence[str]) -> Operation:
    rows = yield SQL.call("tiers")
    known = [row[0] for row in rows]
    for name in names:
        if name not in known:
            raise UnknownTier(f"no tier {name!r}: use one of {', '.join(known)}, or create it")


def audit(actor: str, verb: str, thing: str, change: Mapping[str, Any]) -> Operation:
    """Note in the audit log who did what to which thing; what is UNSET did not change."""
    said = {key: value for key, value in change.items() if value is not UNSET}
    yield SQL.call("audit", actor=actor, verb=verb, object=thing, change=json.dumps(said))


def _value(value: Any) -> Any:
    return None if value is UNSET else value
