"""Proposals: what may be said, in a file and as text, and what comes of it."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest

from orchestrator.errors import InvalidInput
from orchestrator.fairness import WorkloadClass
from orchestrator.fairness.simulation.baselines import Rule
from orchestrator.fairness.simulation.policy import OrgSetting
from orchestrator.model import CostMode, Policy, Tier
from orchestrator.policyfile import Draft, apply, demand_used, parse_override, parse_overrides

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "docs" / "examples" / "policy.toml"


def changed(*settings: str, draft: Draft | None = None) -> Draft:
    return apply(draft or Draft(), [parse_override(each) for each in settings])


def refusal(text: str) -> str:
    """Return why `text` is refused as a policy file."""
    with pytest.raises(InvalidInput) as error:
        parse_overrides(text)
    return str(error.value)


def test_a_setting_changes_what_it_names_and_nothing_else() -> None:
    before = Draft()
    after = changed("org:acme.burst_max=20", draft=before)
    assert after.policy.orgs == {"acme": OrgSetting(burst_max=20)}
    assert replace(after.policy, orgs={}) == before.policy
    assert before.policy.orgs == {}


def test_everything_an_operator_sets_can_be_set() -> None:
    policy = changed(
        "slots=32",
        "yield_s=500ms",
        "queue.capacity=64",
        "queue.headroom=2",
        "queue.express_reserve=0",
        "queue.kappa=7",
        "tier:free.weight=3",
        "tier:free.rank=4",
        "tier:free.burst_max=none",
        "workload:api.share=5",
        "workload:api.express=true",
        "workload:api.express_max_s=250ms",
        "org:acme.tier=premium",
        "org:acme.weight=9",
        "org:acme.paused=true",
    ).policy
    assert (policy.slots, policy.capacity, policy.headroom) == (32, 64, 2.0)
    assert policy.yield_us == 500_000
    assert changed("yield_s=none", draft=Draft(policy)).policy.yield_us is None
    assert (policy.express_reserve, policy.kappa) == (0, 7)
    assert policy.tiers["free"] == Tier("free", weight=3, rank=4, burst_max=None)
    assert policy.workloads["api"] == WorkloadClass(5, 1, True, 250_000)
    assert policy.orgs["acme"] == OrgSetting("premium", 9, None, True)


def test_a_name_may_hold_dots_and_equals_signs() -> None:
    orgs = changed("org:acme.eu=west.burst_max=3").policy.orgs
    assert orgs == {"acme.eu=west": OrgSetting(burst_max=3)}


def test_none_clears_an_override_and_the_later_setting_wins() -> None:
    draft = changed("org:a.weight=5", "org:a.burst_max=2", "org:a.weight=6")
    assert draft.policy.orgs["a"] == OrgSetting(weight=6, burst_max=2)
    assert changed("org:a.weight=none", draft=draft).policy.orgs["a"] == OrgSetting(burst_max=2)


@pytest.mark.parametrize(
    ("settings", "rule"),
    [
        ([], Rule.WEIGHTED),
        (["queue.policy=strict"], Rule.STRICT),
        (["queue.cost_mode=count"], Rule.COUNT),
        (["queue.cost_mode=count", "queue.policy=strict"], Rule.STRICT),
    ],
)
def test_the_rule_follows_from_the_settings_of_the_queue(settings: list[str], rule: Rule) -> None:
    assert changed(*settings).settled.rule is rule


def test_a_queue_that_turns_from_strict_keeps_its_cost_mode() -> None:
    strict = Draft(order=Policy.STRICT, cost_mode=CostMode.COUNT)
    assert changed("queue.policy=weighted", draft=strict).settled.rule is Rule.COUNT


def test_a_new_class_has_what_setting_it_would_give_it() -> None:
    policy = changed("tier:gold.weight=4", "workload:chat.express=true").policy
    assert policy.tiers["gold"] == Tier("gold", weight=4, rank=5, burst_max=None)
    assert policy.workloads["chat"] == WorkloadClass(share=1, rank=5, express=True)


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ("org:acme.burst_max", "has no value"),
        ("burst_max=3", "for example org:acme.burst_max=20"),
        ("org:acme=3", "for example org:acme.burst_max=20"),
        ("queue:default.capacity=3", "unknown key"),
        ("customer:acme.weight=3", "unknown key"),
        (":acme.slots=3", "unknown key"),
        ("org:.weight=3", "a name of 1 to 200 characters"),
        ("org:acme.brust_max=3", "known are tier, weight, burst_max, paused"),
        ("queue.ready=3", "known are policy, cost_mode, capacity, headroom"),
        ("org:acme.burst_max=0", "pause the org instead"),
        ("org:acme.burst_max=many", "must be a whole number in 1..2147483647, not 'many'"),
        ("org:acme.weight=1000001", "in 1..1000000"),
        ("org:acme.paused=yes", "must be true or false"),
        ("slots=0", "in 1..2147483647"),
        ("yield_s=0.0001", "must be at least 0.001 s"),
        ("yield_s=soon", "yield_s"),
        ("queue.policy=fifo", "must be weighted or strict"),
        ("queue.headroom=nan", "above 0"),
        ("workload:api.express_max_s=soon", "workload:api.express_max_s"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line_with_what_can(setting: str, said: str) -> None:
    with pytest.raises(InvalidInput, match=re.escape(said)) as error:
        parse_override(setting)
    assert "\n" not in str(error.value)


def test_what_does_not_fit_together_is_refused() -> None:
    with pytest.raises(InvalidInput, match="set capacity too"):
        changed("queue.headroom=2")
    with pytest.raises(InvalidInput, match="unknown tier 'gold'"):
        changed("org:acme.tier=gold")


def test_a_class_that_nothing_is_of_is_a_slip_of_the_pen() -> None:
    def check(*settings: str) -> None:
        overrides = [parse_override(each) for each in settings]
        demand_used(Draft(), apply(Draft(), overrides), overrides, ["etl", "chat"])

    check("tier:free.weight=2", "tier:gold.weight=2", "org:a.tier=gold", "workload:chat.share=2")
    with pytest.raises(InvalidInput, match="no org is of the tier 'fre': known are enterprise"):
        check("tier:fre.weight=2")
    with pytest.raises(InvalidInput, match="no task is of the workload 'cat': known are api, etl"):
        check("workload:cat.share=2")


def test_a_file_says_the_same_as_text() -> None:
    text = """
    slots = 32
    [queue]
    policy = "strict"
    capacity = 64
    [tier.free]
    burst_max = "none"
    [workload.chat]
    express = true
    express_max_s = 2.5
    [org."acme.eu"]
    weight = 5
    """
    said = apply(Draft(), parse_overrides(text))
    assert said == changed(
        "slots=32",
        "queue.policy=strict",
        "queue.capacity=64",
        "tier:free.burst_max=none",
        "workload:chat.express=true",
        "workload:chat.express_max_s=2.5s",
        "org:acme.eu.weight=5",
    )


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("slots = ", "is no TOML"),
        ("", "sets nothing"),
        ("slot = 3", "unknown key 'slot': a policy has slots, yield_s, [queue], [org.NAME]"),
        ("org = 3", "org must be a table"),
        ("[org]\nacme = 3", "org.acme must be a table: write [org.acme]"),
        ("[org.acme]\nwait = 3", "org.acme.wait: unknown field 'wait'"),
        ("[org.acme]\nweight = true", "org.acme.weight must be a whole number"),
        ("[tier.free]\nweight = 'none'", "tier.free.weight must be a whole number"),
        ('[""]\nslots = 3', "unknown key ''"),
    ],
)
def test_a_file_that_is_no_policy_is_refused_with_what_would_be_one(text: str, said: str) -> None:
    assert said in refusal(text)


def test_the_example_names_every_field_there_is() -> None:
    text = EXAMPLE.read_text()
    assert parse_overrides(text)
    whole = text.replace("# headroom", "headroom").replace("# kappa", "kappa")
    whole = whole.replace('capacity = "none"', "capacity = 64")
    policy = apply(Draft(), parse_overrides(whole)).settled
    assert policy.orgs["acme"] == OrgSetting("premium", 8, 40, False)
    named = {(each.kind, each.field) for each in parse_overrides(whole)}
    fields = {
        "": ["slots", "yield_us"],
        "queue": ["policy", "cost_mode", "capacity", "headroom", "express_reserve", "kappa"],
        "org": list(OrgSetting._fields),
        "tier": ["weight", "burst_max"],
        "workload": list(WorkloadClass._fields),
    }
    assert named == {(kind, field) for kind, names in fields.items() for field in names}
