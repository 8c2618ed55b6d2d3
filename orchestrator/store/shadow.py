"""Shadow policies: what is set, what it comes to beside the live one, what was reported."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime

from orchestrator.errors import InvalidInput
from orchestrator.fairness import WorkloadClass
from orchestrator.fairness.shadowing.comparison import Difference, ShadowReport
from orchestrator.fairness.simulation.policy import OrgSetting, SimPolicy
from orchestrator.model import OrgConfig, QueueConfig, Tier, Workload
from orchestrator.policyfile import Draft, Override, apply, parse_override
from orchestrator.store import orgs
from orchestrator.store.sql import Operation, Statements
from orchestrator.text import shown as quoted

SQL = Statements("shadow")


@dataclass(frozen=True, slots=True)
class ShadowPolicy:
    """A candidate as it was set: `settings` are `KEY=VALUE`, as `simulate --set` takes them."""

    settings: tuple[str, ...]
    set_at: datetime
    set_by: str


@dataclass(frozen=True, slots=True)
class Reported:
    """What the leader said last; `failure` is why there will be no more."""

    started_at: datetime
    updated_at: datetime
    report: ShadowReport | None
    failure: str | None


def set_policy(queue: QueueConfig, overrides: Sequence[Override], *, actor: str) -> Operation:
    """Let a candidate shadow `queue`; return it as `ShadowPolicy`; needs a transaction.

    Raises `InvalidInput` where beside the live configuration it makes no sense.
    """
    if not overrides:
        raise InvalidInput("nothing to compare: give --policy FILE or --set KEY=VALUE")
    yield from _check(queue, overrides)
    settings = [text_of(override) for override in overrides]
    return (yield from _set(queue, settings, "shadow.set", actor))


def clear(queue: QueueConfig, *, actor: str) -> Operation:
    """Let nothing shadow `queue` any more, and forget its report; return whether anything did."""
    before = yield from policy(queue.id)
    if before is not None:
        yield from _set(queue, [], "shadow.clear", actor)
    return before is not None


def policy(queue: int) -> Operation:
    """Return the `ShadowPolicy` of a queue, None where there is none."""
    rows = yield SQL.call("policy", queue=queue)
    return _policy(*rows[0]) if rows else None


def reported(queue: int) -> Operation:
    """Return what the leader has `Reported` of the policy that is set; None if nothing yet."""
    rows = yield SQL.call("report", queue=queue)
    if not rows:
        return None
    started_at, updated_at, text, failure = rows[0]
    return Reported(started_at, updated_at, None if text is None else _report(text), failure)


def record(
    queue: int,
    set_at: datetime,
    *,
    elapsed_s: float,
    report: ShadowReport | None = None,
    failure: str | None = None,
) -> Operation:
    """Write down how the comparison stands, or why it ended, if that policy is still set."""
    text = None if report is None else json.dumps(asdict(report))
    yield SQL.call(
        "record", queue=queue, set_at=set_at, elapsed_s=elapsed_s, report=text, failure=failure
    )


# What a candidate comes to ------------------------------------------------------------------------


def proposed(
    queue: QueueConfig,
    tiers: Iterable[Tier],
    workloads: Iterable[Workload],
    named: Mapping[str, OrgSetting],
    overrides: Sequence[Override],
) -> Draft:
    """Return the live configuration with `overrides`; `named` are the orgs that those name.

    Raises `InvalidInput` where the whole makes no sense, such as headroom without a capacity.
    """
    live = SimPolicy(
        capacity=queue.capacity,
        express_reserve=queue.express_reserve,
        headroom=queue.headroom,
        tiers={tier.name: tier for tier in tiers},
        orgs=named,
        workloads={workload.name: workload_class(workload) for workload in workloads},
    )
    return apply(Draft(live, queue.policy, queue.cost_mode), overrides)


def workload_class(workload: Workload) -> WorkloadClass:
    """Return a workload as the scheduler knows it."""
    max_s = workload.express_max_s
    express_max_us = None if max_s is None else round(max_s * 1e6)
    return WorkloadClass(workload.share, workload.rank, workload.express, express_max_us)


def org_names(overrides: Iterable[Override]) -> list[str]:
    """Return the orgs that overrides name."""
    return list(dict.fromkeys(each.name for each in overrides if each.kind == "org"))


def text_of(override: Override) -> str:
    """Return an override as `KEY=VALUE`, which `parse_override` reads."""
    field, value = override.field, override.value
    if field == "express_max_us":
        field = "express_max_s"
        value = value if value is None else int(str(value)) / 1e6
    if value is None or isinstance(value, bool):
        value = "none" if value is None else str(value).lower()
    if override.kind == "queue":
        return f"queue.{field}={value}"
    return f"{override.kind}:{override.name}.{field}={value}"


def _check(queue: QueueConfig, overrides: Sequence[Override]) -> Operation:
    for each in overrides:
        if each.kind == "" or each.field == "kappa":
            raise InvalidInput(
                f"{each.where}: a shadow compares admission, which this does not change:"
                " leave it out, or `orchestrator simulate` it"
            )
    tiers: list[Tier] = yield from orgs.tiers()
    workloads: list[Workload] = yield from orgs.workloads()
    configs: list[OrgConfig] = yield from orgs.orgs_named(org_names(overrides))
    named = {
        config.org: OrgSetting(
            config.tier, config.weight, config.burst_max, config.paused_at is not None
        )
        for config in configs
    }
    draft = proposed(queue, tiers, workloads, named, overrides)
    used = {tier.name for tier in tiers} | {each.tier for each in draft.policy.orgs.values()}
    known = {"tier": used, "workload": {workload.name for workload in workloads}}
    for each in overrides:
        if each.name not in known.get(each.kind, {each.name}):
            raise InvalidInput(
                f"{each.where}: no {each.kind} {quoted(each.name)} in use:"
                f" known are {', '.join(sorted(known[each.kind]))}"
            )
    # What is stored is read again, by the leader: better it fails here.
    proposed(queue, tiers, workloads, named, [parse_override(text_of(each)) for each in overrides])


def _set(queue: QueueConfig, settings: list[str], verb: str, actor: str) -> Operation:
    rows = yield SQL.call(
        "set", queue=queue.id, name=queue.name, settings=settings, verb=verb, actor=actor
    )
    return _policy(*rows[0])


def _policy(settings: list[str], set_at: datetime, set_by: str) -> ShadowPolicy:
    return ShadowPolicy(tuple(settings), set_at, set_by)


def _report(text: str) -> ShadowReport:
    fields = json.loads(text)
    fields["total"] = Difference(**fields["total"])
    for name in ("tiers", "orgs"):
        fields[name] = tuple(Difference(**each) for each in fields[name])
    return ShadowReport(**fields)
