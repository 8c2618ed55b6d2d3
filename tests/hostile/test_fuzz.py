"""What nobody thought of, drawn by Hypothesis: it comes back as it was sent, or it is refused with
an error of ours and leaves nothing behind.

The clients enqueue, a leader that is driven by hand admits, and a worker's verbs claim, all on a
real PostgreSQL. With HYPOTHESIS_PROFILE=nightly it draws far more, and each time something else.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import fields
from typing import Any, NamedTuple

import httpx
import pytest
from hypothesis import HealthCheck, Phase, example, given, settings
from hypothesis import strategies as st

from orchestrator import Claim, Client, TaskSpec, UnknownQueue, UnknownWorkload
from orchestrator.store import orgs
from orchestrator.store.sql import run
from tests.acceptance.cli import database
from tests.conftest import NIGHTLY, Server
from tests.hostile.drawn import (
    JSON,
    LARGE,
    NAMES,
    PAYLOADS,
    TEXTS,
    is_name,
    is_payload,
    is_text,
    same,
)
from tests.hostile.living import SEEN, Living, refused, stored
from tests.hostile.test_http import refused as refused_by_http
from tests.hostile.test_http import send
from tests.support.http import Served
from tests.support.stage import Stage
from tests.support.stepping import SteppedLeader
from tests.support.worker import until_ended

pytestmark = [
    pytest.mark.timeout(3 * 3600 if NIGHTLY else 120),
    # It is the replica and the worker, on threads of theirs, while something is being drawn.
    pytest.mark.filterwarnings("ignore:Do not use the .random. module"),
]
HEADERS_BYTES_MAX = 16 * 1024


def drawing(examples: int) -> settings:
    """Return how hard to try, as a gate and at night."""
    return settings(
        max_examples=100 * examples if NIGHTLY else examples,
        deadline=None,
        derandomize=not NIGHTLY,
        phases=(Phase.explicit, Phase.reuse, Phase.generate, Phase.shrink),
        suppress_health_check=list(HealthCheck),
    )


class Line(NamedTuple):
    """A database with a leader that admits when it is told to."""

    stage: Stage
    client: Client
    leader: SteppedLeader

    def clear(self) -> None:
        """End what an example left that failed, lest every later one fails of it."""
        self.leader.drain_ticks()
        for left in self.client.claim(limit=1_000):
            self.client.discard(left)

    def carried(self, task: int, queue: str = "default") -> Claim:
        """Admit, claim and end the only task there is; return its claim."""
        assert self.leader.drain_ticks() == 1
        (claim,) = self.client.claim(queue, limit=10)
        assert claim.id == task
        self.client.ack(claim)
        return claim

    def leaves_nothing(self, call: Callable[[], object], complaint: str = "") -> None:
        """Check that a call is refused and stores nothing."""
        before = stored(self.stage)
        refused(call, complaint)
        assert stored(self.stage) == before


@pytest.fixture(scope="module")
def line(server: Server, template: str) -> Iterator[Line]:
    with database(server, template) as dsn, Stage(dsn) as stage, Client(dsn) as client:
        yield Line(stage, client, stage.leader())


@pytest.mark.parametrize(
    ("payloads", "examples"), [(PAYLOADS, 120), (LARGE, 12)], ids=["of any shape", "large"]
)
def test_any_payload_comes_back_as_json_means_it_or_is_refused(
    line: Line, payloads: st.SearchStrategy[Any], examples: int
) -> None:
    met: Counter[bool] = Counter()

    @drawing(examples)
    @given(payloads)
    def each(payload: Any) -> None:
        line.clear()
        met[accepted := is_payload(payload)] += 1
        if not accepted:
            line.leaves_nothing(lambda: line.client.enqueue("t", payload, org="a"), "payload")
            return
        task = line.client.enqueue("t", payload, org="a").id
        assert same(payload, line.carried(task).payload)
        assert same(payload, json.loads(line.client.get(task).payload_text))

    each()
    assert min(met[True], met[False]) > examples // 20


def test_any_name_comes_back_as_it_was_sent_or_is_refused(line: Line) -> None:
    met: Counter[bool] = Counter()

    @drawing(60)
    # Names whose every character is shown as ten.
    @example("t", "\U000c131a" * 200, "\U000c131a" * 200, {})
    @given(NAMES, NAMES, NAMES, st.dictionaries(NAMES, TEXTS, max_size=2))
    def each(name: str, org: str, key: str, headers: dict[str, str]) -> None:
        line.clear()
        sent: dict[str, Any] = {"org": org, "idempotency_key": key, "headers": headers}
        met[accepted := all(map(is_name, (name, org, key))) and are_headers(headers)] += 1
        if not accepted:
            line.leaves_nothing(lambda: line.client.enqueue(name, 1, **sent))
            return
        first = line.client.enqueue(name, 1, **sent)
        again = line.client.enqueue(name, 1, **sent)
        assert (again.id, again.created) == (first.id, False)
        line.leaves_nothing(lambda: line.client.enqueue(name, 2, **sent), "key")
        claim = line.carried(first.id)
        assert (claim.name, claim.org, claim.headers) == (name, org, headers)
        info = line.client.get(first.id)
        assert (info.name, info.org, info.idempotency_key) == (name, org, key)
        assert first.id in {task.id for task in line.client.tasks(org=org, name=name)}

    each()
    assert min(met[True], met[False]) > 10


def are_headers(headers: dict[str, str]) -> bool:
    """Tell whether these may go with a task."""
    if not all(is_name(name) and is_text(text) for name, text in headers.items()):
        return False
    return len(json.dumps(headers, ensure_ascii=False).encode()) <= HEADERS_BYTES_MAX


def test_any_name_of_a_queue_or_workload_is_its_own_or_is_refused(line: Line) -> None:
    made: set[str] = {"default", "api", "etl"}

    @drawing(15)
    @given(NAMES)
    def each(name: str) -> None:
        sent: dict[str, Any] = {"org": "a", "queue": name, "workload": name}
        if not is_name(name):
            line.leaves_nothing(lambda: line.client.enqueue("t", **sent))
            for make in (orgs.set_queue, orgs.set_workload):
                line.leaves_nothing(lambda make=make: configured(line, make, name))  # type: ignore[misc]
            return
        if name in made:
            return
        made.add(name)
        with pytest.raises(UnknownQueue):
            line.client.enqueue("t", org="a", queue=name)
        with pytest.raises(UnknownWorkload):
            line.client.enqueue("t", org="a", workload=name)
        queue = configured(line, orgs.set_queue, name)
        configured(line, orgs.set_workload, name)
        task = line.client.enqueue("t", **sent).id
        leader = line.stage.leader(queue=queue.id)
        claim = line._replace(leader=leader).carried(task, name)
        leader.close()
        assert (claim.queue, claim.workload) == (name, name)

    each()
    assert len(made) > 5


def configured(line: Line, make: Callable[..., Any], name: str) -> Any:
    """Make a queue or a workload as an operator does."""
    with line.stage.db.transaction():
        return run(line.stage.db, make(name, actor="test"))


def test_a_batch_with_anything_in_it_is_stored_whole_or_not_at_all(line: Line) -> None:
    met: Counter[bool] = Counter()
    item = st.fixed_dictionaries({"name": NAMES, "org": NAMES, "payload": st.one_of(JSON, TEXTS)})
    fine = st.fixed_dictionaries(
        {"name": NAMES.filter(is_name), "org": NAMES.filter(is_name), "payload": JSON}
    )
    # What is drawn depends on what else was imported: one kind is wrong whatever it is.
    spoiled = st.tuples(
        st.lists(fine, max_size=3),
        item.filter(lambda drawn: not is_task(drawn)),
        st.lists(fine, max_size=2),
    ).map(lambda parts: [*parts[0], parts[1], *parts[2]])
    mixed = st.lists(st.one_of(fine, item), max_size=6)
    batch = st.one_of(st.lists(fine, max_size=6), mixed, spoiled)

    @drawing(40)
    @given(batch)
    def each(items: list[dict[str, Any]]) -> None:
        line.clear()
        met[accepted := all(map(is_task, items))] += 1
        if not accepted:
            line.leaves_nothing(lambda: line.client.enqueue_many(items), "item ")
            return
        ids = [each.id for each in line.client.enqueue_many(items)]
        assert line.leader.drain_ticks() == len(items)
        claims = {claim.id: claim for claim in line.client.claim(limit=10)}
        assert sorted(claims) == sorted(ids)
        for task, sent in zip(ids, items, strict=True):
            claim = claims[task]
            assert (claim.name, claim.org) == (sent["name"], sent["org"])
            assert same(sent["payload"], claim.payload)
        if claims:
            line.client.ack(claims.values())

    each()
    assert min(met[True], met[False]) > 5


def is_task(item: dict[str, Any]) -> bool:
    """Tell whether an item of a batch may be enqueued."""
    return is_name(item["name"]) and is_name(item["org"]) and is_payload(item["payload"])


# Over HTTP

# What is refused in a body, for whatever reason.
REFUSED = (400, 409, 413, 415, 422)
GOOD: st.SearchStrategy[dict[str, Any]] = st.fixed_dictionaries(
    {"name": st.just("keep"), "org": NAMES.filter(is_name)},
    optional={
        "payload": JSON,
        "priority": st.integers(1, 10),
        "workload": st.sampled_from(["default", "api", "etl"]),
        "idempotency_key": NAMES.filter(is_name),
        "max_attempts": st.integers(1, 1_000),
        "headers": st.dictionaries(NAMES.filter(is_name), st.just("\u00fc"), max_size=3),
        "critical": st.booleans(),
    },
)
# Of what is accepted with nothing but these the worker makes short work.
_AT_ONCE = {"name", "org", "payload", "priority", "workload", "idempotency_key", "headers"}
_FIELDS = st.sampled_from(["tasks", *(field.name for field in fields(TaskSpec))])
_CHUNKS = st.one_of(st.binary(max_size=4), st.sampled_from([*b'{}[]",:\\0-.eE'])).map(
    lambda chunk: bytes([chunk]) if isinstance(chunk, int) else chunk
)


@st.composite
def mutants(draw: st.DrawFn) -> dict[str, Any]:
    """Draw a task of which some fields hold, or are, something else."""
    body = dict(draw(GOOD))
    for _ in range(draw(st.integers(0, 2))):
        body[draw(st.one_of(_FIELDS, _FIELDS, TEXTS))] = draw(st.one_of(JSON, TEXTS))
    if draw(st.integers(0, 4)) == 0:
        body.pop(draw(st.sampled_from(sorted(body))))
    return body


@st.composite
def bodies(draw: st.DrawFn, batch: bool) -> bytes:
    """Draw the bytes of a body: JSON of any shape, a mutant of what is right, or anything."""
    kind = draw(st.sampled_from(["mutant", "mutant", "mutant", "broken", "broken", "json", "any"]))
    if kind == "any":
        return draw(st.binary())
    value: Any = draw(JSON if kind == "json" else mutants())
    if batch and kind != "json":
        value = {"tasks": [value, *draw(st.lists(GOOD, max_size=3))]}
    text = json.dumps(value, ensure_ascii=draw(st.booleans()))
    body = text.encode("utf-8", "surrogatepass")
    if kind == "broken":
        at, end = sorted(draw(st.tuples(*[st.integers(0, len(body))] * 2)))
        body = body[:at] + draw(_CHUNKS) + body[min(end, at + 4) :]
    return body


@pytest.mark.parametrize("path", ["/v1/tasks", "/v1/tasks/batch"])
def test_any_body_is_stored_as_it_means_or_refused_with_a_problem(
    living: Living, producer: httpx.Client, path: str
) -> None:
    met: Counter[int] = Counter()
    due: dict[int, dict[str, Any]] = {}

    @drawing(120)
    @given(bodies(batch="batch" in path))
    def each(body: bytes) -> None:
        before = tasks(living)
        answer = send(producer, body, path)
        met[answer.status_code] += 1
        if answer.status_code not in (200, 201):
            refused_by_http(answer, *REFUSED, said=repr(body))
            assert tasks(living) == before
            living.after_each()
            return
        said, sent = answer.json(), json.loads(body)
        pairs = (
            zip(said["tasks"], sent["tasks"], strict=True) if "tasks" in sent else [(said, sent)]
        )
        for enqueued, task in pairs:
            shown = producer.get(f"/v1/tasks/{enqueued['id']}").json()
            assert (shown["name"], shown["org"]) == (task["name"], task["org"])
            assert same(task.get("payload"), shown["payload"])
            if task["name"] == "keep" and task.keys() <= _AT_ONCE:
                due[enqueued["id"]] = task

    each()
    until_ended(living.stage, list(due))
    for task, sent in due.items():
        org, payload = SEEN.pop(task)
        assert org == sent["org"]
        assert same(sent.get("payload"), payload)
    assert len(due) > 5
    assert min(met[400], met[422]) > 5
    living.sing()


def tasks(living: Living) -> int:
    """Return how many tasks there are beside canaries."""
    return int(living.stage.one("select count(*) from orchestrator.task where name <> 'canary'"))


WORKERS = ["/v1/claim", "/v1/heartbeat", "/v1/extend", "/v1/ack", "/v1/nack", "/v1/release"]


def test_any_body_of_a_worker_is_answered(living: Living, served: Served) -> None:
    worker = served.client("worker")

    @drawing(60)
    @given(st.sampled_from(WORKERS), st.one_of(st.binary(), JSON.map(json.dumps)))
    def each(path: str, body: bytes | str) -> None:
        answer = send(worker, body, path)
        if answer.status_code != 200:
            refused_by_http(answer, *REFUSED, said=f"{path} {body!r}")

    with living.unharmed():
        each()
