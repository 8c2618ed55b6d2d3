"""The experiments on fairness: `python -m benchmarks fairness [--quick] [--json]`.

Each experiment is a module: what it measures for one seed, and the bars it is held against. Seeds
are shared out over two processes; what runs on a real database comes after them, alone.
"""

from __future__ import annotations

import multiprocessing
import resource
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

from benchmarks.estimates import Bar, Experiment, Sample, collected, exact
from benchmarks.fairness import (
    ablations,
    backlog,
    crowd,
    express,
    failover,
    figures,
    flood,
    gaming,
    reclaim,
    shares,
    ticks,
)
from benchmarks.fairness.document import (
    Findings,
    Section,
    section,
    write_json,
    write_markdown,
)
from benchmarks.fairness.running import LAG
from benchmarks.text import bar_values

SEEDS = tuple(range(1, 11))
QUICK_SEEDS = (1, 2)
HOME = Path(__file__).parents[1]
_PROCESSES = 2
SIMULATED: Sequence[Experiment] = (
    flood.EXPERIMENT,
    backlog.EXPERIMENT,
    shares.EXPERIMENT,
    crowd.EXPERIMENT,
    reclaim.EXPERIMENT,
    express.EXPERIMENT,
    gaming.EXPERIMENT,
    ablations.EXPERIMENT,
)
# Where the measures on the database belong among the others.
_ORDER = ("E1", "E2", "E5", "E6", "E7", "E8", "E9", "E10", "E12")


def run(quick: bool) -> dict[str, object]:
    """Measure everything, write the figures and tables, and return the bars."""
    home = Path(tempfile.mkdtemp(prefix="fairness-")) if quick else HOME
    findings = measure(home, quick=quick)
    missed = [bar.name for bar in findings.bars if not bar.passed]
    return {
        "seeds": list(findings.seeds),
        "seconds": round(findings.seconds, 1),
        "cpu_s": round(findings.cpu_s, 1),
        "missed": missed,
        "document": str(home / "FAIRNESS.md"),
        "values": str(home / "figures" / "fairness.json"),
        "bars": [bar_values(bar) for bar in findings.bars],
    }


def measure(home: Path, *, quick: bool) -> Findings:
    """Measure everything, write it below `home`, and return it."""
    began, used = time.monotonic(), _cpu_s()
    seeds = QUICK_SEEDS if quick else SEEDS
    sections, bars = _simulated(seeds, quick)
    real = _real(quick)
    for part, held in real:
        sections.append(part)
        bars += held
    everything = {key: found for part in sections for key, found in part.measures.items()}
    drawn = figures.draw(home / "figures", everything, quick=quick)
    sections.sort(key=lambda part: _ORDER.index(part.code))
    seconds, cpu_s = time.monotonic() - began, _cpu_s() - used
    findings = Findings(seeds, quick, seconds, cpu_s, sections, bars, drawn)
    write_json(home / "figures" / "fairness.json", findings)
    write_markdown(home / "FAIRNESS.md", findings)
    return findings


def _simulated(seeds: Sequence[int], quick: bool) -> tuple[list[Section], list[Bar]]:
    """Run the simulated experiments; return what they measured, and the bars."""
    sections, bars, lags = [], [], [0.0]
    # Fresh processes: what forks a process with threads may hang.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(_PROCESSES, mp_context=context) as pool:
        for experiment in SIMULATED:
            by_seed = list(pool.map(experiment.sample, seeds, [quick] * len(seeds)))
            measures = collected(by_seed)
            sections.append(section(experiment, measures))
            bars += experiment.bars(measures)
            lags += _lags(by_seed)
    return sections, [*bars, Bar(f"{LAG}, all runs", exact(max(lags)), 1.0)]


def _lags(by_seed: Sequence[Sequence[Sample]]) -> list[float]:
    return [sample.value for found in by_seed for sample in found if sample.metric == LAG]


def _real(quick: bool) -> list[tuple[Section, list[Bar]]]:
    """Run what needs PostgreSQL."""
    tick_measures, tick_bars = ticks.measure(quick)
    killed_measures, killed_bars = failover.measure(quick)
    return [
        (Section("E6", ticks.TITLE, ticks.SETTING, tick_measures), tick_bars),
        (Section("E10", failover.TITLE, failover.SETTING, killed_measures), killed_bars),
    ]


def _cpu_s() -> float:
    """Return the processor time of this process and of those that it waited for."""
    who = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    usages = [resource.getrusage(each) for each in who]
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)
