"""What was measured, as JSON and as the table in `FAIRNESS.md`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from benchmarks.estimates import Bar, Experiment, Measures
from benchmarks.text import bar_lines, bar_values, estimate_values, interval, number


class Section(NamedTuple):
    """One experiment and what it measured."""

    code: str
    title: str
    setting: str
    measures: Measures


class Findings(NamedTuple):
    """The whole run."""

    seeds: Sequence[int]
    quick: bool
    seconds: float
    cpu_s: float
    sections: Sequence[Section]
    bars: Sequence[Bar]
    figures: Sequence[str]


# The figure of each section, if it has one.
_FIGURES = {
    "E1": "flood.svg",
    "E2": "newcomer.svg",
    "E5": "shares.svg",
    "E8": "express.svg",
    "E9": "gaming.svg",
    "E10": "failover.svg",
    "E12": "ablations.svg",
}


def section(experiment: Experiment, measures: Measures) -> Section:
    """Return what `experiment` measured."""
    return Section(experiment.code, experiment.title, experiment.setting, measures)


def write_json(path: Path, findings: Findings) -> None:
    """Write everything that was measured into one file."""
    found = {
        "seeds": list(findings.seeds),
        "quick": findings.quick,
        "seconds": round(findings.seconds, 1),
        "cpu_s": round(findings.cpu_s, 1),
        "interval": "95%, percentile bootstrap of the mean over seeds",
        "bars": [bar_values(bar) for bar in findings.bars],
        "experiments": [
            {
                "code": section.code,
                "title": section.title,
                "setting": section.setting,
                "measures": [
                    {**key._asdict(), **estimate_values(measured)}
                    for key, measured in section.measures.items()
                ],
            }
            for section in findings.sections
        ],
        "figures": list(findings.figures),
    }
    path.write_text(json.dumps(found, indent=1) + "\n")


def write_markdown(path: Path, findings: Findings) -> None:
    """Write the tables for people."""
    text = [_INTRODUCTION.format(**_head(findings)), *bar_lines(findings.bars), ""]
    for part in findings.sections:
        text += _section_lines(part)
    path.write_text("\n".join(text).rstrip() + "\n")


def _head(findings: Findings) -> dict[str, str]:
    first, last = findings.seeds[0], findings.seeds[-1]
    return {
        "seeds": f"{first} to {last}",
        "minutes": f"{findings.seconds / 60:.0f}",
        "cpu_minutes": f"{findings.cpu_s / 60:.0f}",
    }


def _section_lines(part: Section) -> list[str]:
    lines = [f"## {part.code} {part.title}", "", f"{part.setting}.", ""]
    if part.code in _FIGURES:
        lines += [f"![{part.title}](figures/{_FIGURES[part.code]})", ""]
    lines += ["| case | rule | measure | mean | interval | n |", "|---|---|---|---|---|---|"]
    for key, found in part.measures.items():
        lines.append(
            f"| {key.case} | {key.rule} | {key.metric} | {number(found.mean)} |"
            f" {interval(found)} | {found.of} |"
        )
    return [*lines, ""]


_INTRODUCTION = """# Fairness, measured

Written by `python -m benchmarks fairness`; the same numbers are in
[figures/fairness.json](figures/fairness.json). `--quick` takes a look at a smaller version and
leaves these files alone.

Every experiment but E10 and the real ticks of E6 runs in the simulator of `orchestrator simulate`,
which drives the scheduler that leaders use; the rules beside it run on the same arrivals. Seeds
{seeds}: they decide arrivals and durations. Intervals are 95%, percentile bootstrap of the mean
over seeds; where seeds do not apply, over blocks or turns of the run, as each section says. `n` is
how many values there are. A bar is missed only where the whole interval misses it. The run took
{minutes} minutes on a machine with two cores that was busy otherwise too ({cpu_minutes} minutes of
processor time).

The rules: *weighted* is ours. *Count-stride* shares tasks, whatever they take, as Temporal's
fairness does. *Slot max-min* gives a free slot to whoever holds fewest for its weight. *SQS rule*
is an emulation of what is published of fair queues of Amazon SQS. *Strict tiers* serves the upper
tier first and round robin inside it. *FIFO* is the queue that most systems are. The bound of *worst
lag / bound* is the published one (docs/guarantees.md); at 1 a promise would be broken.
"""
