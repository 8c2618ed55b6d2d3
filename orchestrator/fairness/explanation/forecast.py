"""When a task may be expected to start, and how sure that is.

What is known: how many starts come first (`standing`), how fast the queue's tasks started lately,
and how fast the org's own were admitted while it had work all the time. Two estimates are blended:

- *The model*: the work ahead of the task, over the worker time that the queue spends in a second.
  It needs no history of the org, so it serves newcomers.
- *The measurement*: the tasks of the org ahead of this one, over the org's own rate. It knows what
  the model does not: others that come and go, caps, tasks that are slower than they were.

A rate is a Gamma distribution: the model is worth a few observed starts, each observed one adds to
it. So a newcomer is told what the model says, and an org that floods is told what was measured. The
time until the k-th start is the ratio of two Gamma variables; its logarithm has a variance near
`1/k + 1/n` (delta method), times the dispersion of the counts in sub-windows: starts come in
batches and orgs by turns, which a Poisson process would not know. The interval is that of a
log-normal distribution with this variance.

Sources: Gamma-Poisson conjugacy and its predictive distribution (Gelman et al., Bayesian Data
Analysis, section 2.6); the index of dispersion as a quasi-likelihood correction (McCullagh and
Nelder, Generalized Linear Models, section 4.5).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import NormalDist
from typing import NamedTuple

from orchestrator.fairness.costs import COUNT_COST_US
from orchestrator.fairness.explanation.facts import Facts, Pulse
from orchestrator.fairness.explanation.standing import Standing, standing
from orchestrator.fairness.slots import reserve_of
from orchestrator.fairness.state import Lane
from orchestrator.model import EXPECTED_PROBABILITY, Place

_Z = NormalDist().inv_cdf((1 + EXPECTED_PROBABILITY) / 2)
# A tick, its commit, the notification and the claim, where a worker is free.
_LATENCY_S = 0.02
_LATENCY_MAX_S = 0.25
# How many starts the model is worth against those that were measured: of a queue, where only the
# workers and the mean cost are known; of an org, whose place in line is known.
_QUEUE_PRIOR = 4.0
_ORG_PRIOR = 6.0
# No forecast is surer than this: what comes is never quite like what was (log scale).
_DRIFT = 0.1
# What the model says of the line is a forecast itself.
_MODEL_ERROR = 0.15
# A window looks back for this many times the wait it is to foretell, within these bounds.
_LOOK_BACK = 2.0
_WINDOW_MIN_S, _WINDOW_MAX_S = 3.0, 60.0
_BUCKETS = 8
_DISPERSION_MIN, _DISPERSION_MAX = 0.5, 25.0
# Others that come and go take at most so much of the queue.
_PASSING_MAX = 0.9
# A window counts as filled from here on.
_FULL = 0.9
# Beyond this the answer is "not soon".
_HORIZON_MAX_S = 30 * 86_400.0


class Rate(NamedTuple):
    """Starts per second: the mean, how many observations it is worth, and their dispersion."""

    per_s: float
    worth: float
    dispersion: float = 1.0


class Forecast(NamedTuple):
    """Seconds from the snapshot until the start: the middle and the ends of the interval."""

    median_s: float
    low_s: float
    high_s: float
    rate_per_s: float
    starts_ahead: int


def forecast(facts: Facts) -> Forecast | None:
    """Return when the task may start; None where it has, is shut out, or nothing tells."""
    task, queue = facts.task, facts.queue
    if task.place is Place.READY:
        return _of_ready(facts)
    if task.place not in (Place.STAGED, Place.SCHEDULED):
        return None
    if facts.org.paused or queue.paused_at is not None or queue.leader is None:
        return None
    lanes = [_of_lane(facts, Lane.MAIN)]
    if facts.flow.express and (queue.express_reserve is None or queue.express_reserve > 0):
        lanes.append(_of_lane(facts, Lane.EXPRESS))
    told = [each for each in lanes if each is not None]
    soonest = min(told, key=lambda each: each.median_s, default=None)
    if soonest is None or task.due_in_s <= 0:
        return soonest
    due = task.due_in_s
    return soonest._replace(
        median_s=due + soonest.median_s, low_s=due + soonest.low_s, high_s=due + soonest.high_s
    )


def _of_ready(facts: Facts) -> Forecast | None:
    lane = Lane.EXPRESS if facts.flow.express else Lane.MAIN
    waits = facts.task.claimed_first + 1 - _idle(facts, lane)
    rate = _queue_rate(facts, _window(facts, max(1, waits)))
    return _timed(facts, waits, rate, None, 0)


def _of_lane(facts: Facts, lane: Lane) -> Forecast | None:
    first = standing(facts, lane)
    ready = facts.queue.express_ready
    if lane is Lane.MAIN:
        ready += facts.queue.ready
    waits = ready + first.tasks + 1 - _idle(facts, lane)
    rate = _queue_rate(facts, _window(facts, max(1, waits)))
    return _timed(facts, waits, rate, first, ready)


def _timed(
    facts: Facts, waits: int, queue: Rate | None, first: Standing | None, ready: int
) -> Forecast | None:
    """Return the forecast of a task that goes after `waits` starts of the queue."""
    if queue is None:
        return None
    stuck_s = _capped_s(facts, first)
    if waits <= 0 and stuck_s <= 0:
        return Forecast(_LATENCY_S, 0.0, _LATENCY_MAX_S, queue.per_s, 0)
    waits = max(1, waits)
    if first is None:
        return _spread(waits / queue.per_s, _noise(waits, queue), queue.per_s, waits, facts)
    ready_s = min(ready, waits - 1) / queue.per_s
    model_s = max((waits - min(ready, waits - 1)) / queue.per_s * _weight_of(facts, first), stuck_s)
    own = first.own_tasks + 1
    rate = _blended(_own_rate(facts, model_s), own / model_s)
    admitted_s = own / rate.per_s
    error = _MODEL_ERROR**2 * _ORG_PRIOR / rate.worth
    variance = admitted_s**2 * (_noise(own, rate) + error) + ready_s**2 * _noise(ready + 1, queue)
    total_s = admitted_s + ready_s
    told = rate if rate.worth > 2 * _ORG_PRIOR else queue
    return _spread(total_s, variance / total_s**2, told.per_s, waits - 1, facts)


def _spread(middle_s: float, variance: float, per_s: float, ahead: int, facts: Facts) -> Forecast:
    """Return the interval around `middle_s`, of which `variance` is the relative variance; tasks
    start in batches, and each end gives half a batch.
    """
    middle_s = min(max(middle_s, _LATENCY_S), _HORIZON_MAX_S)
    factor = math.exp(_Z * math.sqrt(math.log1p(variance + _DRIFT**2)))
    batch_s = _batch_s(facts) / 2
    low_s = max(0.0, middle_s / factor - batch_s)
    high_s = min(middle_s * factor + batch_s, _HORIZON_MAX_S)
    return Forecast(middle_s, low_s, high_s, per_s, ahead)


def _noise(count: int, rate: Rate) -> float:
    """Return the relative variance of the time that `count` starts take."""
    return rate.dispersion * (1 / count + 1 / rate.worth)


# Rates --------------------------------------------------------------------------------------------


def _queue_rate(facts: Facts, window_s: float) -> Rate | None:
    """Return how fast tasks of the queue start while there is work for every free worker."""
    prior_per_s = facts.queue.workers / (_mean_cost_us(facts) / 1e6)
    pulses = _busy(facts, window_s)
    if len(pulses) < 2:
        return Rate(prior_per_s, _QUEUE_PRIOR) if prior_per_s else _last_resort(facts)
    oldest = pulses[-1]
    # What was claimed since: admissions, less by how much the window has grown.
    claimed = sum(pulse.admitted for pulse in pulses[:-1])
    claimed += oldest.ready + oldest.admitted - facts.queue.ready - facts.queue.express_ready
    claimed = max(0, claimed)
    prior = _QUEUE_PRIOR if prior_per_s else 0.0
    span_s = oldest.ago_s + (prior / prior_per_s if prior else 0.0)
    if claimed + prior <= 0 or span_s <= 0:
        return None
    counts = _counts(pulses, [pulse.admitted for pulse in pulses], oldest.ago_s)
    return Rate((claimed + prior) / span_s, claimed + prior, _dispersion(counts))


def _last_resort(facts: Facts) -> Rate | None:
    """Return what was admitted lately, over all the time seen: no worker announces itself."""
    admitted = sum(pulse.admitted for pulse in facts.pulses)
    if not admitted:
        return None
    return Rate(admitted / max(1.0, facts.pulses[-1].ago_s), admitted, 4.0)


def _own_rate(facts: Facts, model_s: float) -> tuple[int, float, float]:
    """Return how many tasks of the org were admitted while it had work, in how long, and their
    dispersion.

    From its first admission in the window on: before it, the org may just have waited for the
    others to catch up, which the model knows and a rate does not.
    """
    window_s = min(facts.task.waiting_s, _clamped(_LOOK_BACK * model_s))
    pulses = [pulse for pulse in facts.pulses if pulse.ago_s <= window_s]
    while pulses and not pulses[-1].own:
        pulses.pop()
    if len(pulses) < 2:
        return 0, 0.0, 1.0
    span_s = pulses[-1].ago_s
    counts = _counts(pulses, [pulse.own for pulse in pulses], span_s)
    return sum(pulse.own for pulse in pulses[:-1]), span_s, _dispersion(counts)


def _blended(measured: tuple[int, float, float], model_per_s: float) -> Rate:
    """Return the org's rate: the model's word, corrected by what was measured."""
    admitted, span_s, dispersion = measured
    worth = _ORG_PRIOR + admitted
    return Rate(worth / (_ORG_PRIOR / model_per_s + span_s), worth, dispersion)


def _window(facts: Facts, waits: int) -> float:
    """Return how far to look back for a wait of that many starts."""
    lately = [pulse for pulse in facts.pulses if pulse.ago_s <= _WINDOW_MIN_S]
    admitted = sum(pulse.admitted for pulse in lately)
    return _clamped(_LOOK_BACK * waits * _WINDOW_MIN_S / admitted) if admitted else _WINDOW_MAX_S


def _busy(facts: Facts, window_s: float) -> Sequence[Pulse]:
    """Return the latest ticks up to one that left slots free, as far back as `window_s`: before
    it the rate is that of the arrivals, not of the workers.
    """
    capacity = facts.queue.capacity
    found: list[Pulse] = []
    for pulse in facts.pulses:
        full = pulse.ready + pulse.admitted >= _FULL * pulse.window
        held = capacity is not None and pulse.in_flight >= _FULL * capacity
        if not (full or held) or pulse.ago_s > window_s:
            break
        found.append(pulse)
    return found


def _counts(pulses: Sequence[Pulse], counts: Sequence[int], span_s: float) -> list[int]:
    """Return the counts of the pulses by sub-window of equal length."""
    buckets = [0] * _BUCKETS
    for pulse, count in zip(pulses, counts, strict=True):
        buckets[min(_BUCKETS - 1, int(_BUCKETS * pulse.ago_s / max(span_s, 1e-9)))] += count
    return buckets


def _dispersion(counts: Sequence[int]) -> float:
    """Return variance over mean of counts: 1 for a Poisson process."""
    mean = sum(counts) / len(counts)
    if mean < 1:
        return 1.0
    variance = sum((count - mean) ** 2 for count in counts) / (len(counts) - 1)
    return min(max(variance / mean, _DISPERSION_MIN), _DISPERSION_MAX)


# What stands between a count and a time -----------------------------------------------------------


def _idle(facts: Facts, lane: Lane) -> int:
    """Return how many more tasks the workers could run at once, now; they too keep a part of
    themselves for express work.
    """
    queue, kept = facts.queue, 0
    if lane is Lane.MAIN and queue.has_express:
        kept = reserve_of(queue.workers, queue.express_reserve)
    return max(0, queue.workers - kept - queue.claimed)


def _mean_cost_us(facts: Facts) -> float:
    """Return the mean cost of the tasks that were admitted lately."""
    guess = facts.queue.cost_us or COUNT_COST_US
    admitted = sum(flow.admitted for flow in facts.recent)
    if not admitted:
        return guess
    return sum(flow.admitted * (flow.cost_us or guess) for flow in facts.recent) / admitted


def _weight_of(facts: Facts, first: Standing) -> float:
    """Return how much longer than as many tasks of the late mix those in front take, and what
    others who come meanwhile add.
    """
    mean_us = _mean_cost_us(facts)
    mix = first.work_us / (first.tasks * mean_us) if first.tasks else 1.0
    standing_now = {facts.org.org, *(org.org for org in facts.line)}
    total = sum(flow.admitted * (flow.cost_us or mean_us) for flow in facts.recent)
    passing = sum(
        flow.admitted * (flow.cost_us or mean_us)
        for flow in facts.recent
        if flow.org not in standing_now
    )
    return mix / (1 - min(_PASSING_MAX, passing / total if total else 0.0))


def _capped_s(facts: Facts, first: Standing | None) -> float:
    """Return how long the org's own `burst_max` holds the task up: slots come free as tasks end."""
    cap = facts.org.burst_max
    if cap is None or first is None:
        return 0.0
    over = facts.org.in_flight + first.own_tasks + 1 - cap
    cost_us = facts.flow.cost_us or facts.queue.cost_us or COUNT_COST_US
    return max(0, over) * cost_us / 1e6 / cap


def _batch_s(facts: Facts) -> float:
    """Return the mean time between two ticks that admitted something."""
    lately = [p for p in facts.pulses if p.admitted and p.ago_s <= _WINDOW_MIN_S]
    return lately[-1].ago_s / len(lately) if lately else 0.0


def _clamped(window_s: float) -> float:
    return min(max(window_s, _WINDOW_MIN_S), _WINDOW_MAX_S)
