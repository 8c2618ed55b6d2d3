"""What happens in one run, drawn from its seed and from nothing else: the load, the faults, the
knobs.

The same seed gives the same schedule. What the processes make of it (the interleaving) is theirs.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

# The load and the faults fall into this time; then everything is repaired and left to drain.
LOAD_S = 2.2
REPLICAS, WORKERS, PRODUCERS = 3, 4, 2
CONCURRENCY = 4
CLASSES = ("leader", "worker", "producer")

# The chance of a kind relative to the others, and how it is drawn.
LEADER_FAULTS = {
    "kill leader": 4,
    "kill leader in its tick": 3,
    "stop leader": 4,
    "stop leader in its tick": 4,
    "terminate leader": 3,
    "usurp": 4,
    "resign": 2,
}
OTHER_FAULTS = {
    "kill standby": 1,
    "terminate sessions": 3,
    "kill backend": 1,
    "stop server": 1,
    "delay": 2,
    "trickle": 1,
    "cut": 3,
    "lose one way": 3,
    "lose reply": 7,
    "kill worker": 3,
    "stop worker": 3,
    "end worker": 2,
    "lower caps": 3,
    "raise caps": 2,
    "pause org": 2,
    "pause queue": 1,
    "weigh": 1,
    "kappa": 1,
    "cancel": 4,
    "retry": 3,
}
KINDS = (*LEADER_FAULTS, *OTHER_FAULTS)


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing that is done to the processes, the server, the network or the configuration."""

    at_s: float
    kind: str
    args: Mapping[str, Any]

    def __str__(self) -> str:
        args = " ".join(f"{name}={value}" for name, value in self.args.items())
        return f"{self.at_s:5.2f} s  {self.kind} {args}".rstrip()


@dataclass(frozen=True, slots=True)
class Call:
    """One call of a producer: how it enqueues, and what."""

    at_s: float
    how: str  # one, many, or transaction
    tasks: Sequence[Mapping[str, Any]]


@dataclass(frozen=True, slots=True)
class Org:
    """An org and its configuration at the beginning."""

    name: str
    weight: int
    burst_max: int | None


@dataclass(frozen=True, slots=True)
class Schedule:
    """One run."""

    seed: int
    orgs: Sequence[Org]
    cost_mode: str
    settings: Mapping[str, str]
    calls: Sequence[Sequence[Call]]  # for each producer
    faults: Sequence[Fault]

    def __str__(self) -> str:
        orgs = ", ".join(
            f"{org.name} (weight {org.weight}, cap {org.burst_max})" for org in self.orgs
        )
        tasks = sum(len(call.tasks) for calls in self.calls for call in calls)
        lines = [
            f"seed {self.seed}: {tasks} tasks of {orgs}; cost by {self.cost_mode}",
            *(f"  {name}={value}" for name, value in self.settings.items()),
            *(f"  {fault}" for fault in self.faults),
        ]
        return "\n".join(lines)


def draw(seed: int) -> Schedule:
    """Return the schedule of `seed`."""
    dice = random.Random(f"chaos {seed}")
    orgs = [
        Org(f"org-{number}", dice.choice((1, 1, 2, 5)), dice.choice((None, 1, 2, 3, 6, 12)))
        for number in range(dice.randint(3, 6))
    ]
    calls = [_calls(dice, orgs, producer) for producer in range(PRODUCERS)]
    return Schedule(
        seed=seed,
        orgs=orgs,
        cost_mode=dice.choice(("time", "count")),
        settings=_settings(dice),
        calls=calls,
        faults=_faults(dice, orgs),
    )


def _settings(dice: random.Random) -> dict[str, str]:
    """Return short timeouts, so that a run is short; now and then tiny ones."""
    tiny = dice.random() < 0.15
    return {
        "ORCHESTRATOR_LEADER_ELECTION_POLL_S": "0.1",
        "ORCHESTRATOR_LEADER_IDLE_SESSION_TIMEOUT_S": "0.6",
        "ORCHESTRATOR_LEADER_IDLE_IN_TRANSACTION_TIMEOUT_S": "0.6",
        "ORCHESTRATOR_LEADER_TCP_USER_TIMEOUT_S": "0.6",
        "ORCHESTRATOR_LEADER_CONNECTION_CHECK_INTERVAL_S": "0.1",
        "ORCHESTRATOR_LEADER_STATEMENT_TIMEOUT_S": "0.3" if tiny else "1.2",
        "ORCHESTRATOR_LEADER_LOCK_TIMEOUT_S": "0.1" if tiny else "0.5",
        "ORCHESTRATOR_LEADER_IDLE_POLL_S": "0.1",
        "ORCHESTRATOR_LEADER_BUSY_POLL_S": dice.choice(("0.005", "0.01", "0.03")),
        "ORCHESTRATOR_LEADER_AWAKE_S": dice.choice(("0.1", "0.5")),
        "ORCHESTRATOR_LEADER_BATCH_MAX": dice.choice(("3", "20", "1000")),
        "ORCHESTRATOR_LEADER_SWEEP_INTERVAL_S": "0.5",
        "ORCHESTRATOR_LEADER_WATCHDOG_S": "3",
        "ORCHESTRATOR_WORKER_LEASE_S": "1",
        "ORCHESTRATOR_WORKER_POLL_MAX_S": "0.15",
        "ORCHESTRATOR_WORKER_DRAIN_TIMEOUT_S": "1",
        "ORCHESTRATOR_WORKER_PREFETCH_MAX": dice.choice(("1", "10", "100")),
        "ORCHESTRATOR_DATABASE_CONNECT_TIMEOUT_S": "2",
    }


_TASKS = {
    "ok": 60,
    "aok": 25,
    "flaky": 6,
    "fail": 3,
    "snooze": 4,
    "discard": 2,
    "exit": 1,
    "poison": 0.5,
    "hang": 2,
}


def _calls(dice: random.Random, orgs: Sequence[Org], producer: int) -> list[Call]:
    calls = []
    for number in range(dice.randint(14, 26)):
        how = dice.choices(("one", "many", "transaction"), (5, 4, 2))[0]
        count = {"one": 1, "transaction": 2}.get(how) or dice.randint(2, 14)
        at_s = round(dice.uniform(0, LOAD_S), 3)
        tasks = [_task(dice, orgs, f"{producer}.{number}.{n}") for n in range(count)]
        calls.append(Call(at_s, how, tasks))
    return sorted(calls, key=lambda call: call.at_s)


def _task(dice: random.Random, orgs: Sequence[Org], token: str) -> dict[str, Any]:
    name = dice.choices(list(_TASKS), list(_TASKS.values()))[0]
    # The first org is the noisy one.
    org = dice.choices(orgs, [4, *[1] * (len(orgs) - 1)])[0].name
    task: dict[str, Any] = {
        "name": name,
        "org": org,
        "workload": dice.choice(("api", "etl", "etl")),
        "priority": dice.choice((1, 5, 5, 5, 10)),
        "max_attempts": {"ok": 5, "aok": 5}.get(name, 2),
        "payload": {"token": token, "org": org, "ms": dice.choice((1, 5, 20, 20, 60, 200))},
    }
    if name == "hang":
        task["timeout_s"] = 0.15
    if dice.random() < 0.3:
        # Few keys, so that both producers meet; the same key is the same request.
        key = f"key-{dice.randint(1, 8)}"
        task |= {"idempotency_key": key, "name": "ok", "priority": 5, "workload": "etl"}
        task |= {"max_attempts": 5, "payload": {"token": key, "org": org, "ms": 20}}
        task.pop("timeout_s", None)
    elif dice.random() < 0.08:
        task["delay"] = round(dice.uniform(0.05, 0.8), 3)
    return task


def _faults(dice: random.Random, orgs: Sequence[Org]) -> list[Fault]:
    kinds = dice.choices(list(LEADER_FAULTS), list(LEADER_FAULTS.values()), k=dice.randint(2, 4))
    kinds += dice.choices(list(OTHER_FAULTS), list(OTHER_FAULTS.values()), k=dice.randint(4, 8))
    dice.shuffle(kinds)
    times = sorted(round(dice.uniform(0.15, LOAD_S), 3) for _ in kinds)
    return [
        Fault(at_s, kind, _args(dice, kind, orgs)) for at_s, kind in zip(times, kinds, strict=True)
    ]


def _args(dice: random.Random, kind: str, orgs: Sequence[Org]) -> dict[str, Any]:
    def span(least: float, most: float) -> float:
        return round(dice.uniform(least, most), 3)

    if kind in ("stop leader", "stop leader in its tick"):
        return {"for_s": dice.choice((span(0.1, 0.5), span(0.7, 1.6), span(0.7, 1.6)))}
    if kind == "stop worker":
        return {
            "for_s": dice.choice((span(0.1, 0.8), span(1.1, 1.8))),
            "which": dice.randrange(WORKERS),
        }
    if kind in ("kill worker", "end worker"):
        return {"which": dice.randrange(WORKERS)}
    if kind == "delay":
        return {"of": dice.choice(CLASSES), "by_s": span(0.02, 0.2), "for_s": span(0.3, 0.8)}
    if kind == "trickle":
        return {"of": dice.choice(CLASSES), "for_s": span(0.2, 0.5)}
    if kind == "lose one way":
        of, way = dice.choice(CLASSES), dice.choice(("up", "down"))
        return {"of": of, "way": way, "for_s": span(0.2, 1.2)}
    if kind in ("cut", "lose reply"):
        return {"of": dice.choice(CLASSES)}
    if kind in ("lower caps", "raise caps"):
        caps = (1, 2) if kind == "lower caps" else (4, 8, 20)
        return {"org": dice.choice(orgs).name, "to": dice.choice(caps)}
    if kind in ("pause org", "weigh"):
        return {"org": dice.choice(orgs).name, "for_s": span(0.1, 0.6), "to": dice.choice((1, 7))}
    if kind == "pause queue":
        return {"for_s": span(0.1, 0.4)}
    if kind == "kappa":
        return {"to": dice.choice((0, 3, 100, 1000))}
    if kind in ("cancel", "retry"):
        return {"tasks": dice.randint(1, 5), "dice": dice.randrange(2**31)}
    if kind == "terminate sessions":
        return {"part": span(0.1, 0.6), "dice": dice.randrange(2**31)}
    if kind == "kill backend":
        return {"dice": dice.randrange(2**31)}
    return {}
