"""The invariants, each a function from a history to what breaks it; `judge` applies them all.

Every rule is sound: where the history leaves something open (an unknown outcome, an instant between
a statement and its commit) it gives the benefit of the doubt. So what it reports is a fault.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Mapping
from itertools import pairwise

from tests.faults.judge.history import Attempt, Change, History, Tick, Violations, shown

# Between reading a clock and what it stands for.
_EPSILON_S = 0.005
_NEVER = float("inf")
# A tick under way at a loss may still be written down so much later.
_GRACE_S = 0.2
_DESCRIPTORS_MAX = 16
_RSS_MAX = 64 * 2**20


def judge(history: History) -> Violations:
    """Return every violation, each with the name of the invariant it breaks."""
    return [
        f"{name}: {found}" for name, rule in RULES.items() for found in dict.fromkeys(rule(history))
    ]


def nothing_lost(history: History) -> Violations:
    """S1: what was acknowledged is somewhere, or has ended; what was refused was not stored."""
    by_id = {task.id: task for task in history.tasks}
    ended = {attempt.task for attempt in history.attempts if attempt.final}
    found: Violations = []
    acked: set[tuple[str, str]] = set()
    for answer in history.answers:
        if answer.outcome != "ack":
            continue
        acked.update(answer.tokens)
        for (token, org), (task_id, _) in zip(answer.tokens, answer.ids, strict=True):
            task = by_id.get(task_id)
            if task is None:
                found.append(f"task {task_id} was acknowledged and has no record")
            elif (task.token, task.org) != (token, org):
                found.append(f"task {task_id} is {task.token!r}, acknowledged as {token!r}")
            elif task_id not in ended and not history.places.get(task_id):
                found.append(f"task {task_id} was acknowledged, is nowhere and has not ended")
    maybe = {
        token for each in history.answers if each.outcome == "unknown" for token in each.tokens
    }
    # A producer that never heard anything (it was ended) may have been served.
    heard = Counter((each.producer, each.call) for each in history.answers)
    asked = Counter((each.producer, each.call) for each in history.asks)
    for ask in history.asks:
        if asked[ask.producer, ask.call] > heard[ask.producer, ask.call]:
            maybe.update(ask.tokens)
    stored = Counter((task.token, task.org) for task in history.tasks if task.key is None)
    for known, count in stored.items():
        if count > 1:
            found.append(f"{known} was stored {count} times")
        if known not in acked | maybe:
            found.append(f"{known} was stored and its producer was told that it was not")
    effects = set(history.effects)
    wholes = {(task.token, task.org) for task in history.tasks}
    for ask in history.asks:
        if ask.effect is not None:
            there = {token in wholes for token in ask.tokens if token in stored}
            if (ask.effect in effects) != any(there) and any(t in stored for t in ask.tokens):
                found.append(f"{ask.effect}: the effect and its tasks are not one")
    return found


def one_place(history: History) -> Violations:
    """S2: at every commit a task is in exactly one place."""
    found = []
    for sample in history.samples:
        if sample.doubled:
            found.append(f"in several places: {shown(sample.doubled)}")
        if sample.nowhere:
            found.append(f"in no place, and not ended: {shown(sample.nowhere)}")
    found += [
        f"task {task} is in {places}" for task, places in history.places.items() if len(places) > 1
    ]
    return found


def finished_once(history: History) -> Violations:
    """S3: a task ends at most once in each of its lives; a removal is written down once."""
    lives = Counter(retry.task for retry in history.retries if retry.outcome != "refused")
    finals = Counter(attempt.task for attempt in history.attempts if attempt.final)
    found = [
        f"task {task} ended {count} times"
        for task, count in finals.items()
        if count > 1 + lives[task]
    ]
    for task, places in history.places.items():
        if finals[task] and finals[task] + len(places) > 1 + lives[task]:
            found.append(f"task {task} ended, and is {places}")
    keys = Counter(attempt.key for attempt in history.attempts if attempt.key is not None)
    found += [
        f"dispatch key {key} was removed {count} times" for key, count in keys.items() if count > 1
    ]
    return found


def attempts_bounded(history: History) -> Violations:
    """S4: no more attempts than allowed, and no more starts than claims."""
    most = {task.id: task.max_attempts for task in history.tasks}
    lives = Counter(retry.task for retry in history.retries if retry.outcome != "refused")
    claims: Counter[int] = Counter()
    counted: Counter[int] = Counter()
    found = []
    for attempt in history.attempts:
        allowed = most.get(attempt.task)
        if allowed is not None and attempt.attempt > allowed:
            found.append(f"task {attempt.task}: attempt {attempt.attempt} of {allowed}")
        if attempt.claimed_at is not None:
            claims[attempt.task] += 1
            if attempt.status not in ("released", "snoozed"):
                counted[attempt.task] += 1
    for task, count in counted.items():
        if task in most and count > most[task] * (1 + lives[task]):
            found.append(f"task {task}: {count} attempts counted of {most[task]}")
    starts = Counter(start.task for start in history.starts)
    for task, count in starts.items():
        held = sum(place == "claimed" for place in history.places.get(task, ()))
        if count > claims[task] + held:
            found.append(f"task {task}: {count} starts of {claims[task] + held} claims")
    found += [
        f"task {attempt.task}: dead after attempt {attempt.attempt}"
        for attempt in history.attempts
        if attempt.status == "dead" and attempt.attempt < most.get(attempt.task, 0)
    ]
    return found


def caps_kept(history: History) -> Violations:
    """S5: no admission lifts an org above the cap in force, and no sample shows it above."""
    changes = _by_org(history)
    found = []
    ended: dict[str, list[float]] = defaultdict(list)
    for attempt in history.attempts:
        if attempt.key is not None:
            ended[attempt.org].append(attempt.ended_at)
    held: Counter[str] = Counter()
    for tick in sorted(history.ticks, key=lambda each: each.seq):
        held.update(tick.admitted)
        for org in tick.admitted:
            # What had ended by then may not have been committed: the true count is this or more.
            least = held[org] - sum(at <= tick.at + _EPSILON_S for at in ended[org])
            cap = _loosest(changes[org], tick.at - tick.took_s - _EPSILON_S, tick.at + _EPSILON_S)
            if cap is not None and least > cap:
                found.append(f"{org}: {least} in flight of {cap} at admission {tick.seq}")
    for before, after in pairwise(history.samples):
        for org, seen in after.orgs.items():
            known = before.orgs.get(org)
            cap = _loosest(changes[org], before.at - _EPSILON_S, after.at + _EPSILON_S)
            if cap is not None and seen.in_flight > max(cap, known.in_flight if known else 0):
                found.append(f"{org}: a sample shows {seen.in_flight} in flight of {cap}")
    return found


def _by_org(history: History) -> Mapping[str, list[Change]]:
    changes: dict[str, list[Change]] = defaultdict(list)
    for change in sorted(history.changes, key=lambda each: each.asked_at):
        changes[change.org].append(change)
    return changes


def _loosest(changes: list[Change], since: float, until: float) -> int | None:
    """Return the largest cap that may have been in force in this time; None: no cap."""
    possible: list[int | None] = []
    settled = False
    for change in reversed(changes):
        if change.asked_at > until:
            continue
        possible.append(change.burst_max)
        if change.done_at is not None and change.done_at <= since:
            settled = True
            break
    if not settled or None in possible:
        return None
    return max(cap for cap in possible if cap is not None)


def epochs_in_order(history: History) -> Violations:
    """S6: admissions never go back to an older term; one term for each epoch of a timeline."""
    found = []
    admitting = sorted((tick for tick in history.ticks if tick.admitted), key=lambda each: each.seq)
    for before, after in pairwise(admitting):
        if after.epoch < before.epoch:
            found.append(
                f"admission {after.seq} of epoch {after.epoch} after one of {before.epoch}"
            )
        if after.seq == before.seq:
            found.append(f"two ticks admitted up to {after.seq}")
    terms: dict[tuple[int, int], set[str]] = defaultdict(set)
    for term in history.terms:
        terms[term.timeline, term.epoch].add(term.term)
    for (_, epoch), of_it in terms.items():
        if len(of_it) > 1:
            found.append(f"epoch {epoch} has {len(of_it)} terms")
    begun = sorted((term.epoch, term.at) for term in history.terms)
    for tick in admitting:
        later = [epoch for epoch, at in begun if epoch > tick.epoch and at < tick.at - _EPSILON_S]
        if later:
            found.append(f"epoch {tick.epoch} admitted after epoch {later[0]} was elected")
        if not any(epoch == tick.epoch for epoch, _ in begun):
            found.append(f"epoch {tick.epoch} admitted and was never elected")
    for sample, then in pairwise(history.samples):
        if then.epoch < sample.epoch or (then.epoch == sample.epoch and then.term != sample.term):
            found.append(f"the fence went from epoch {sample.epoch} to {then.epoch}")
    return found


def leases_disjoint(history: History) -> Violations:
    """S7: valid leases on a task never overlap; what was accepted carries the current claim."""
    found = []
    for sample in history.samples:
        if sample.shared:
            found.append(f"two valid leases on task {shown(sample.shared)}")
        if sample.unleased:
            found.append(f"claimed without a lease: {shown(sample.unleased)}")
    claims: dict[int, list[Attempt]] = defaultdict(list)
    for attempt in history.attempts:
        if attempt.claimed_at is not None:
            claims[attempt.task].append(attempt)
    for task, of_it in claims.items():
        of_it.sort(key=lambda each: each.claimed_at or 0.0)
        for before, after in pairwise(of_it):
            if after.claimed_at is not None and after.claimed_at < before.ended_at:
                found.append(f"task {task} was claimed before its attempt {before.attempt} ended")
    started = {(s.task, s.attempt, pid) for s in history.starts for pid in (s.pid, s.parent)}
    for attempt in history.attempts:
        if attempt.status == "succeeded" and attempt.worker is not None:
            pid = int(attempt.worker.split(":")[1])
            if (attempt.task, attempt.attempt, pid) not in started:
                found.append(f"task {attempt.task}: attempt {attempt.attempt} succeeded unstarted")
    return found


def keys_unique(history: History) -> Violations:
    """S8: one unfinished task for each (org, key), and all callers get its id."""
    found = [f"held twice: {shown(sample.keys)}" for sample in history.samples if sample.keys]
    ends: dict[int, list[float]] = defaultdict(list)
    for attempt in history.attempts:
        if attempt.final:
            ends[attempt.task].append(attempt.ended_at)
    retried = {retry.task for retry in history.retries if retry.outcome != "refused"}
    lives: dict[tuple[str, str], list[tuple[float, float, int]]] = defaultdict(list)
    for task in history.tasks:
        if task.key is not None and task.id not in retried:
            end = (
                float("inf")
                if history.places.get(task.id)
                else min(ends[task.id], default=float("inf"))
            )
            lives[task.org, task.key].append((task.created_at, end, task.id))
    for (org, key), of_it in lives.items():
        for before, after in pairwise(sorted(of_it)):
            if after[0] < before[1]:
                found.append(f"{org} {key}: task {after[2]} beside unfinished task {before[2]}")
    keyed = {task.id: (task.token, task.org) for task in history.tasks if task.key is not None}
    created = Counter(
        task_id
        for answer in history.answers
        for task_id, new in answer.ids
        if new and task_id in keyed
    )
    found += [
        f"task {task} was created {count} times" for task, count in created.items() if count > 1
    ]
    return found


def orgs_apart(history: History) -> Violations:
    """S9: a handler is never given another org's payload."""
    return [
        f"task {start.task} of {start.org} carries a payload of {start.payload_org}"
        for start in history.starts
        if start.org != start.payload_org
    ]


def counts_kept(history: History) -> Violations:
    """S10: what the leader's cut says of slots is what the tables hold; nothing to repair."""
    return [f"repaired: {repair}" for repair in history.repairs] + [
        f"{org}: {seen.in_flight} in flight, kept as {seen.kept}"
        for sample in history.samples
        for org, seen in sample.orgs.items()
        if seen.kept is not None and seen.kept != seen.in_flight
    ]


def sessions_bounded(history: History) -> Violations:
    """S11: nobody stays idle in a transaction; nobody but the leader keeps the lock."""
    found = []
    for sample in history.samples:
        found += [
            f"{name} has been idle in a transaction for more than {history.idle_bound_s:g} s"
            for name, seconds in sample.idle
            if seconds > history.idle_bound_s
        ]
    since: dict[int, float] = {}
    for sample in history.samples:
        # One that holds it now and did at the last look has held it all the time between.
        since = {pid: since.get(pid, sample.at) for pid in sample.locks}
        found += [
            f"session {pid} holds the lock and has not led for {history.lock_bound_s:g} s"
            for pid, at in since.items()
            if sample.at - at > history.lock_bound_s
        ]
    return found


def takeovers_bounded(history: History) -> Violations:
    """LV1: after a loss the next epoch admits within the bound, where somebody waits."""
    found = []
    for loss in history.losses:
        admitting = [tick for tick in history.ticks if tick.admitted and tick.at > loss.at]
        # One that was stopped so briefly that its term went on was not lost.
        if any(tick.epoch == loss.epoch and tick.at > loss.at + _GRACE_S for tick in admitting):
            continue
        after = [tick.at for tick in admitting if tick.epoch > loss.epoch]
        first = min(after, default=float("inf"))
        limit = loss.at + history.takeover_bound_s
        if first <= limit:
            continue
        seen = [sample for sample in history.samples if loss.at <= sample.at <= min(first, limit)]
        waited = bool(seen) and all(_somebody_waits(sample.orgs.values()) for sample in seen)
        if waited and seen[-1].at - loss.at > history.takeover_bound_s * 0.9:
            found.append(f"{loss.kind} of epoch {loss.epoch}: nothing admitted within the bound")
    return found


def _somebody_waits(orgs: object) -> bool:
    return any(
        org.staged and not org.paused and (org.cap is None or org.in_flight < org.cap)
        for org in orgs  # type: ignore[attr-defined]
    )


def all_ends(history: History) -> Violations:
    """LV2: everything ends, or is a dead letter."""
    if history.drained:
        return []
    left = sorted(history.places)
    return [f"after {history.drain_s:.0f} s {len(left)} tasks had not ended: {shown(left)}"]


def nobody_starves(history: History) -> Violations:
    """LV3: while an org may be served and is not, no other gets more than two rounds.

    Where every task costs the same. Judged between samples that all show it waiting with room.
    """
    if not history.fair_by_count:
        return []
    found = []
    orgs = {org for sample in history.samples for org in sample.orgs}
    ticks = sorted(history.ticks, key=lambda each: each.at)
    for org in orgs:
        served = [tick.at for tick in ticks if tick.admitted.get(org)]
        unseen = _uncommitted(org, ticks)
        run: list[float] = []
        weights: Mapping[str, int] = {}
        for sample in history.samples:
            seen = sample.orgs.get(org)
            waits = seen is not None and _somebody_waits([seen])
            now = {name: each.weight for name, each in sample.orgs.items()}
            fed = any(run and run[-1] < at <= sample.at for at in served)
            hidden = any(since <= sample.at <= until for since, until in unseen)
            if not waits or now != weights or fed or hidden:
                run = []
            weights = now
            if waits and not hidden:
                run.append(sample.at)
            found += _unfair(org, run, ticks, weights)
    return found


def _uncommitted(org: str, ticks: list[Tick]) -> list[tuple[float, float]]:
    """Return the times in which an admission of the org was written and perhaps not committed.

    It was once the next tick began.
    """
    return [
        (tick.at, after.at - after.took_s)
        for tick, after in zip(ticks, [*ticks[1:], Tick(0, 0, _NEVER, 0.0, {})], strict=True)
        if tick.admitted.get(org)
    ]


def _unfair(
    org: str, run: list[float], ticks: list[Tick], weights: Mapping[str, int]
) -> Violations:
    if len(run) < 2:
        return []
    others: Counter[str] = Counter()
    for tick in ticks:
        # A tick that began before the first sample may not have known of the org.
        if run[0] < tick.at - tick.took_s and tick.at <= run[-1]:
            others.update(tick.admitted)
    return [
        f"{org} waited while {other} got {count}"
        for other, count in others.items()
        if count > 2 * (weights.get(other, 1) / weights[org] + 1)
    ]


def nothing_leaks(history: History) -> Violations:
    """R1: descriptors and memory of processes that lived on, and sessions, are back where they
    were.
    """
    found = []
    for usage in history.usages:
        more = usage.descriptors[1] - usage.descriptors[0]
        if more > _DESCRIPTORS_MAX:
            found.append(f"{usage.name} holds {more} descriptors more")
        if usage.rss[1] - usage.rss[0] > _RSS_MAX:
            found.append(f"{usage.name} grew by {(usage.rss[1] - usage.rss[0]) >> 20} MiB")
    if history.sessions_left:
        found.append(f"{history.sessions_left} sessions outlived every process")
    return found


RULES: Mapping[str, Callable[[History], Violations]] = {
    "S1": nothing_lost,
    "S2": one_place,
    "S3": finished_once,
    "S4": attempts_bounded,
    "S5": caps_kept,
    "S6": epochs_in_order,
    "S7": leases_disjoint,
    "S8": keys_unique,
    "S9": orgs_apart,
    "S10": counts_kept,
    "S11": sessions_bounded,
    "LV1": takeovers_bounded,
    "LV2": all_ends,
    "LV3": nobody_starves,
    "R1": nothing_leaks,
}
