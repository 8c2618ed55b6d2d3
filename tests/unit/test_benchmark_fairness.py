"""The fairness benchmark: bars, intervals, its own FIFO, and a short run of the pure part."""

from __future__ import annotations

import json
import random
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.estimates import Bar, Estimate, Sample, collected, estimate, exact
from benchmarks.fairness import QUICK_SEEDS, ablations, backlog, flood, gaming, reclaim
from benchmarks.fairness.document import Findings, section, write_json, write_markdown
from benchmarks.fairness.running import LAG, NAMES
from orchestrator.fairness.simulation.baselines import Rule
from orchestrator.fairness.simulation.simulate import simulate


def test_an_interval_holds_the_mean_and_is_the_same_each_time() -> None:
    values = [1.0, 2.0, 3.0, 4.0, 10.0]
    found = estimate(values)
    assert found == estimate(values)
    assert found.low < found.mean == 4.0 < found.high <= found.worst == 10.0


def test_a_bar_is_missed_only_where_the_whole_interval_misses_it() -> None:
    touching = Estimate(10, mean=1.3, low=1.1, high=1.5, worst=1.6)
    beyond = touching._replace(low=1.21)
    assert Bar("a", touching, 1.2).passed
    assert not Bar("a", beyond, 1.2).passed
    assert Bar("a", touching, 1.4, at_least=True).passed
    assert not Bar("a", touching, 1.6, at_least=True).passed


def test_the_fast_fifo_starts_what_the_simulated_one_starts() -> None:
    trace = backlog.trace(3, 500)
    run = simulate(trace, replace(backlog.POLICY, rule=Rule.FIFO))
    assert list(run.start_us) == list(backlog.fifo_starts(trace, backlog.SLOTS))


def test_only_the_backlog_differs_between_the_cases_of_a_seed() -> None:
    small, large = (backlog.trace(5, size) for size in (0, 200))
    assert len(large) == len(small) + 200
    new = [[a for a in trace if a.org != backlog.NOISY] for trace in (small, large)]
    assert new[0] == new[1]


@pytest.mark.parametrize("experiment", [flood, gaming, reclaim])
def test_every_rule_is_measured_in_the_same_cases(experiment: object) -> None:
    samples = experiment.EXPERIMENT.sample(1, True)  # type: ignore[attr-defined]
    ours = {(s.case, s.metric) for s in samples if s.rule == NAMES[Rule.WEIGHTED]}
    compared = {s.case for s in samples if s.rule != NAMES[Rule.WEIGHTED]}
    for name in NAMES.values():
        theirs = {(s.case, s.metric) for s in samples if s.rule == name}
        assert {pair for pair in ours if pair[0] in compared and pair[1] != LAG} <= theirs


def test_each_part_taken_out_makes_shares_worse() -> None:
    samples = ablations.sample(random.Random(7).randrange(100), True)
    off = {(s.case, s.rule): abs(s.value - 50) for s in samples if s.metric == ablations.SHARE}
    for case in ("clip", "refund", "refresh", "forgiving"):
        assert off[case, f"without {case}"] > off[case, ablations.WHOLE]


def test_the_documents_hold_the_bars(tmp_path: Path) -> None:
    experiment = reclaim.EXPERIMENT
    measures = collected(experiment.sample(seed, True) for seed in QUICK_SEEDS)
    bars = [Bar("held", exact(0.5), 1.0), Bar("not held", exact(2.0), 1.0)]
    found = Findings(QUICK_SEEDS, True, 1.0, 1.0, [section(experiment, measures)], bars, [])
    write_json(tmp_path / "fairness.json", found)
    write_markdown(tmp_path / "FAIRNESS.md", found)
    written = json.loads((tmp_path / "fairness.json").read_text())
    assert [(bar["name"], bar["passed"]) for bar in written["bars"]] == [
        ("held", True),
        ("not held", False),
    ]
    (part,) = written["experiments"]
    assert part["code"] == "E7"
    assert {measure["of"] for measure in part["measures"]} == {len(QUICK_SEEDS)}
    assert (
        "| not held | at most 1 | 2 | 2 to 2 | **missed** |"
        in (tmp_path / "FAIRNESS.md").read_text()
    )


def test_samples_of_one_measure_come_together() -> None:
    found = collected([[Sample("c", "r", "m", 1.0)], [Sample("c", "r", "m", 3.0)]])
    ((key, measured),) = found.items()
    assert tuple(key) == ("c", "r", "m")
    assert (measured.of, measured.mean) == (2, 2.0)
