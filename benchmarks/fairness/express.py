"""E8: what the express reserve buys and costs, beside etl tasks of ten minutes."""

from __future__ import annotations

import random
from dataclasses import replace

from benchmarks.estimates import Experiment, Sample
from benchmarks.fairness.running import NAMES, SECOND_US, p99, under_all
from orchestrator.fairness.simulation.baselines import Rule
from orchestrator.fairness.simulation.report import report_of
from orchestrator.fairness.simulation.scenarios import express_and_etl

SLOTS = 40
RESERVES = (0, 1, 2, 4, 8)
SPAN_US = 1_200 * SECOND_US
API = "api dwell p99, s"
ETL = "worker time of etl, % of all slots"


def case_of(reserve: int) -> str:
    """Return how the case is called."""
    return f"reserve {reserve} of {SLOTS}"


def sample(seed: int, quick: bool) -> list[Sample]:
    """Return dwell of api tasks and worker time of etl by reserve; other rules without one."""
    samples: list[Sample] = []
    span_us = SPAN_US // (3 if quick else 1)
    scenario = express_and_etl(random.Random(seed), span_us=span_us, slots=SLOTS)
    for reserve in RESERVES:
        policy = replace(scenario.policy, express_reserve=reserve)
        rules = iter(NAMES) if reserve == 0 else iter([Rule.WEIGHTED])
        runs = under_all(scenario.trace, policy, until_us=span_us, rules=rules)
        for rule, run in runs:
            etl = next(org for org in report_of(run).orgs if org.org == "batch")
            used = 100 * etl.worker_s / (SLOTS * run.until_us / SECOND_US)
            samples += [
                Sample(case_of(reserve), NAMES[rule], API, p99(run, lambda org: org == "web")),
                Sample(case_of(reserve), NAMES[rule], ETL, used),
            ]
    return samples


EXPERIMENT = Experiment(
    "E8",
    "What the express reserve buys",
    f"{SLOTS} slots, etl tasks of ten minutes for all of them at once, 5 api tasks of 20 ms a"
    f" second; {SPAN_US // 60 // SECOND_US} minutes",
    sample,
)
