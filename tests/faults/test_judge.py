"""The judge is judged: a history in which all is well passes, and each way to break it does not."""

from __future__ import annotations

import ast
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.faults.judge.history import (
    Answer,
    Ask,
    Attempt,
    Change,
    History,
    Loss,
    OrgSeen,
    Retry,
    Sample,
    Start,
    Task,
    Term,
    Tick,
    Usage,
)
from tests.faults.judge.rules import RULES, judge

JUDGE = Path(__file__).parent / "judge"
WORKER = "host:77:abc"


def start(at: float, task: int, attempt: int, **fields: Any) -> Start:
    given: dict[str, Any] = {"pid": 77, "parent": 1, "org": "a", "payload_org": "a"} | fields
    return Start(
        at, given["pid"], given["parent"], task, attempt, given["org"], given["payload_org"]
    )


def ended(task: int, attempt: int, status: str, key: int, times: tuple[float, float]) -> Attempt:
    final = status in ("succeeded", "dead", "discarded", "cancelled")
    return Attempt(task, attempt, status, final, key, "a", times[0], times[1], WORKER)


def seen(at: float, staged: int, in_flight: int, **fields: Any) -> Sample:
    orgs = {
        "a": OrgSeen(staged, in_flight, 2, False, 1, in_flight),
        "b": OrgSeen(0, 0, None, False),
    }
    return Sample(at=at, **{"orgs": orgs, "epoch": 1, "term": "t1", **fields})


# Three tasks: one succeeds at once, one after a lost lease in the second term, one is unfinished.
# The last holds a key, asked for twice.
GOOD = History(
    asks=[
        Ask("p", 0, 1.0, [("x", "a"), ("y", "a")], effect="e"),
        Ask("p", 1, 1.5, [("k", "a")]),
        Ask("q", 0, 1.6, [("k", "a")]),
    ],
    answers=[
        Answer("p", 0, 1.1, "ack", [("x", "a"), ("y", "a")], [(1, True), (2, True)]),
        Answer("p", 1, 1.55, "ack", [("k", "a")], [(3, True)]),
        Answer("q", 0, 1.65, "ack", [("k", "a")], [(3, False)]),
    ],
    starts=[start(2.2, 1, 1), start(2.2, 2, 1), start(4.2, 2, 2)],
    changes=[Change("a", 2, 0.1, 0.2)],
    tasks=[
        Task(1, "a", None, "x", 5, 1.05),
        Task(2, "a", None, "y", 2, 1.05),
        Task(3, "a", "key", "k", 5, 1.52),
    ],
    attempts=[
        ended(1, 1, "succeeded", 10, (2.1, 2.5)),
        ended(2, 1, "lost", 11, (2.1, 3.5)),
        ended(2, 2, "succeeded", 12, (4.1, 4.5)),
    ],
    places={3: ["claimed"]},
    ticks=[
        Tick(2, 1, 2.0, 0.01, {"a": 2}),
        Tick(4, 2, 4.0, 0.01, {"a": 2}),
    ],
    terms=[Term(1, "t1", 1, 0.5), Term(2, "t2", 1, 3.8)],
    effects=["e"],
    samples=[seen(1.9, 3, 0), seen(2.1, 1, 2), seen(4.1, 0, 2, epoch=2, term="t2")],
    losses=[Loss(3.0, 1, "kill")],
    usages=[Usage("worker 0", (20, 22), (100, 200))],
)


def attempts(*more: Attempt) -> list[Attempt]:
    return [*GOOD.attempts, *more]


WAITS = {"a": OrgSeen(1, 0, 2, False, 1, 0), "b": OrgSeen(5, 1, None, False, 1, 1)}
UNSERVED = {
    "fair_by_count": True,
    "samples": [Sample(at=5.0 + n / 10, orgs=WAITS, epoch=2, term="t2") for n in range(8)],
    "ticks": [*GOOD.ticks, *(Tick(9 + n, 2, 5.05 + n / 20, 0.01, {"b": 1}) for n in range(12))],
}

BROKEN: list[tuple[str, str, dict[str, Any]]] = [
    ("S1", "an acknowledged task has no record", {"tasks": GOOD.tasks[1:]}),
    ("S1", "an acknowledged task is nowhere", {"places": {}}),
    (
        "S1",
        "an id stands for another task",
        {"tasks": [GOOD.tasks[0]._replace(token="z"), *GOOD.tasks[1:]]},
    ),
    (
        "S1",
        "a refused task is stored",
        {"answers": [Answer("p", 0, 1.1, "refused", GOOD.asks[0].tokens), *GOOD.answers[1:]]},
    ),
    (
        "S1",
        "one request is stored twice",
        {
            "tasks": [*GOOD.tasks, Task(4, "a", None, "x", 5, 1.05)],
            "places": {3: ["claimed"], 4: ["staged"]},
        },
    ),
    ("S1", "the effect is there without its tasks", {"tasks": GOOD.tasks[2:], "effects": ["e"]}),
    ("S1", "the tasks are there without the effect", {"effects": []}),
    ("S2", "a snapshot shows a task in two places", {"samples": [seen(2.0, 1, 1, doubled=[2])]}),
    ("S2", "a snapshot shows a task in no place", {"samples": [seen(2.0, 1, 1, nowhere=[2])]}),
    ("S2", "at the end a task is in two places", {"places": {3: ["claimed", "staged"]}}),
    (
        "S3",
        "a task finished twice",
        {"attempts": attempts(ended(1, 1, "succeeded", 13, (2.6, 2.7)))},
    ),
    ("S3", "a task finished and is still there", {"places": {3: ["claimed"], 1: ["staged"]}}),
    (
        "S3",
        "one removal was written twice",
        {"attempts": attempts(ended(1, 1, "released", 10, (2.6, 2.7)))},
    ),
    (
        "S4",
        "an attempt beyond the last",
        {"attempts": attempts(ended(2, 3, "failed", 13, (4.6, 4.7)))},
    ),
    ("S4", "a handler started without a claim", {"starts": [*GOOD.starts, start(2.3, 1, 1)]}),
    (
        "S4",
        "a dead letter before its time",
        {"attempts": [ended(1, 1, "dead", 10, (2.1, 2.5)), *GOOD.attempts[1:]]},
    ),
    (
        "S4",
        "more attempts than allowed without counting them",
        {"attempts": attempts(ended(2, 2, "failed", 14, (4.6, 4.7)))},
    ),
    ("S5", "an admission beyond the cap", {"ticks": [Tick(3, 1, 2.0, 0.01, {"a": 3})]}),
    (
        "S5",
        "a cap was lowered, acknowledged and ignored",
        {"changes": [*GOOD.changes, Change("a", 1, 3.6, 3.7)]},
    ),
    ("S5", "a snapshot shows more than the cap", {"samples": [seen(2.0, 1, 1), seen(2.1, 1, 3)]}),
    (
        "S6",
        "an old term admits after a newer one",
        {"ticks": [*GOOD.ticks, Tick(5, 1, 4.2, 0.01, {"a": 0, "b": 1})]},
    ),
    (
        "S6",
        "an old term admits after the next election",
        {"terms": [GOOD.terms[0], Term(2, "t2", 1, 1.0)]},
    ),
    ("S6", "two terms share an epoch", {"terms": [*GOOD.terms, Term(2, "t3", 1, 3.9)]}),
    ("S6", "two ticks took one number", {"ticks": [*GOOD.ticks, Tick(4, 2, 4.1, 0.01, {"b": 1})]}),
    ("S6", "a term admits that nobody elected", {"terms": GOOD.terms[:1]}),
    (
        "S6",
        "the fence went back",
        {"samples": [seen(2.0, 1, 1, epoch=2), seen(2.1, 1, 1, epoch=1)]},
    ),
    ("S7", "two valid leases on a task", {"samples": [seen(2.0, 1, 1, shared=[2])]}),
    ("S7", "a claimed task without a lease", {"samples": [seen(2.0, 1, 1, unleased=[2])]}),
    (
        "S7",
        "a claim before the last one ended",
        {"attempts": [*GOOD.attempts[:2], ended(2, 2, "succeeded", 12, (3.0, 4.5))]},
    ),
    (
        "S7",
        "an ack of a claim that somebody else held",
        {"starts": [start(2.2, 1, 1, pid=78), *GOOD.starts[1:]]},
    ),
    ("S8", "two unfinished tasks hold one key", {"samples": [seen(2.0, 1, 1, keys=["key"])]}),
    (
        "S8",
        "a key was taken before it was free",
        {
            "tasks": [*GOOD.tasks, Task(4, "a", "key", "k", 5, 1.9)],
            "places": {3: ["claimed"], 4: ["staged"]},
        },
    ),
    (
        "S8",
        "two callers were told that they created it",
        {"answers": [*GOOD.answers[:2], Answer("q", 0, 1.65, "ack", [("k", "a")], [(3, True)])]},
    ),
    (
        "S9",
        "a payload of another org",
        {"starts": [*GOOD.starts[1:], start(2.2, 1, 1, payload_org="b")]},
    ),
    (
        "S10",
        "a slot leaked",
        {"samples": [seen(2.0, 1, 1, orgs={"a": OrgSeen(0, 1, 2, False, 1, 2)})]},
    ),
    ("S10", "a leader had to repair", {"repairs": ["in-flight of org 'a' was 2, is 1"]}),
    (
        "S11",
        "a session idles in a transaction",
        {"samples": [seen(2.0, 1, 1, idle=[("leader", 9.0)])]},
    ),
    (
        "S11",
        "a lock is held by one that does not lead",
        {"samples": [seen(2.0 + n, 1, 1, locks=[9]) for n in range(5)]},
    ),
    (
        "LV1",
        "nobody admits after a loss",
        {
            "ticks": GOOD.ticks[:1],
            "samples": [seen(3.0 + n / 10, 1, 0) for n in range(90)],
        },
    ),
    ("LV2", "tasks are left", {"drained": False}),
    ("LV3", "an org with room waits while another is served", UNSERVED),
    ("R1", "descriptors leak", {"usages": [Usage("worker 0", (20, 90), (1, 1))]}),
    ("R1", "memory grows", {"usages": [Usage("worker 0", (20, 20), (1, 2**30))]}),
    ("R1", "sessions outlive their processes", {"sessions_left": 1}),
]


def test_a_history_in_which_all_is_well_passes() -> None:
    assert judge(GOOD) == []


@pytest.mark.parametrize(("rule", "how", "change"), BROKEN, ids=[how for _, how, _ in BROKEN])
def test_a_broken_history_is_rejected(rule: str, how: str, change: dict[str, Any]) -> None:
    found = judge(replace(GOOD, **change))
    assert rule in {violation.partition(":")[0] for violation in found}, how


def test_every_invariant_has_a_history_that_breaks_it() -> None:
    assert {rule for rule, _, _ in BROKEN} == set(RULES)


def test_what_is_open_is_given_the_benefit_of_the_doubt() -> None:
    # An unknown outcome: stored or not, both are well. A replayed task may end twice.
    unknown = Answer("p", 0, 1.1, "unknown", GOOD.asks[0].tokens)
    assert judge(replace(GOOD, answers=[unknown, *GOOD.answers[1:]])) == []
    again = replace(
        GOOD,
        retries=[Retry(1, 2.6, "unknown")],
        attempts=attempts(ended(1, 1, "succeeded", 13, (2.7, 2.9))),
        starts=[*GOOD.starts, start(2.8, 1, 1)],
    )
    assert judge(again) == []
    # A cap whose change nobody knows the outcome of: the looser one may be in force.
    maybe = [*GOOD.changes, Change("a", 1, 3.6, None)]
    assert judge(replace(GOOD, changes=maybe)) == []


def test_an_admission_that_a_snapshot_did_not_see_yet_is_no_starving() -> None:
    # It fills the org up to its cap; the sample in between still shows room.
    full = {"a": OrgSeen(1, 2, 2, False, 1, 2), "b": OrgSeen(5, 1, None, False, 1, 1)}
    samples = [Sample(at=at, orgs=WAITS, epoch=2, term="t2") for at in (5.0, 5.11)]
    samples.append(Sample(at=5.3, orgs=WAITS, epoch=2, term="t2"))
    samples.append(Sample(at=5.4, orgs=full, epoch=2, term="t2"))
    ticks = [*GOOD.ticks, Tick(6, 2, 5.1, 0.01, {"a": 2}), Tick(20, 2, 5.2, 0.01, {"b": 9})]
    caps = [Change("a", 20, 0.1, 0.2)]
    seen = replace(GOOD, samples=samples, ticks=ticks, changes=caps, fair_by_count=True)
    assert judge(seen) == []


def test_the_judge_imports_nothing_of_the_product() -> None:
    for path in JUDGE.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [each.name for each in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and node.module:
                names.append(node.module)
            for name in names:
                top = name.partition(".")[0]
                ours = name.startswith("tests.faults.judge")
                assert ours or top == "psycopg" or top in sys.stdlib_module_names, f"{path}: {name}"
