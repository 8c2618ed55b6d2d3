"""Spans from enqueue to handler: within one process, and across two over a receiver of ours."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
from opentelemetry import trace
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind

from orchestrator import AsyncClient, Client, InvalidInput
from orchestrator.client import producing
from orchestrator.config import LimitsSettings
from orchestrator.model import TaskSpec
from orchestrator.telemetry import tracing
from orchestrator.worker.app import App, Task
from tests.acceptance.cli import Shell
from tests.support.stage import Stage
from tests.support.waiting import until
from tests.support.worker import until_ended, working

SECRET = "4111-1111-1111-1111"


@pytest.fixture
def spans() -> Iterator[InMemorySpanExporter]:
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    tracing.enable(provider=provider)
    yield exporter
    tracing.disable()
    provider.shutdown()


def named(spans: InMemorySpanExporter, name: str) -> list[ReadableSpan]:
    return [span for span in spans.get_finished_spans() if span.name == name]


def app(seen: list[int]) -> App:
    made = App()

    @made.task("charge")
    def charge(task: Task) -> None:
        seen.append(trace.get_current_span().get_span_context().span_id)
        if task.attempt == 1 and task.headers.get("first") == "fails":
            raise ValueError(f"no such card: {task.payload}")

    @made.task("send")
    async def send(task: Task) -> None:
        await asyncio.sleep(0)
        seen.append(trace.get_current_span().get_span_context().span_id)

    return made


@pytest.mark.usefixtures("replica")
def test_a_handler_runs_below_the_span_of_its_enqueue(
    dsn: str, stage: Stage, spans: InMemorySpanExporter
) -> None:
    seen: list[int] = []
    with Client(dsn) as client, working(app(seen), dsn):
        task = client.enqueue("charge", SECRET, org="a", headers={"first": "fails"})
        many = client.enqueue_many([TaskSpec(name="send", org="b") for _ in range(2)])
        until_ended(stage, [each.id for each in many])
        until(lambda: named(spans, "handle charge"), "the first attempt has ended")
        stage.do("update orchestrator.scheduled_queue set run_at = now()")
        until_ended(stage, [task.id])
    (enqueue,) = named(spans, "enqueue charge")
    assert enqueue.kind is SpanKind.PRODUCER
    first, second = named(spans, "handle charge")
    for attempt, handle in ((1, first), (2, second)):
        assert handle.kind is SpanKind.CONSUMER
        assert handle.parent is not None
        assert handle.parent.span_id == enqueue.context.span_id
        assert handle.context.trace_id == enqueue.context.trace_id
        assert dict(handle.attributes or {}) == {
            "messaging.system": "orchestrator",
            "messaging.operation.type": "process",
            "messaging.destination.name": "default",
            "messaging.message.id": str(task.id),
            "orchestrator.org": "a",
            "orchestrator.attempt": attempt,
            **({"error.type": "ValueError"} if attempt == 1 else {}),
        }
    assert (first.status.is_ok, second.status.is_ok) == (False, True)
    (batch,) = named(spans, "enqueue send")
    handled = named(spans, "handle send")
    assert {h.parent.span_id for h in handled if h.parent} == {batch.context.span_id}
    assert sorted(seen) == sorted(h.context.span_id for h in [first, second, *handled])
    told = json.dumps([span.to_json() for span in spans.get_finished_spans()])
    assert SECRET not in told
    assert "first" not in told


@pytest.mark.usefixtures("replica")
def test_a_trace_that_the_caller_began_is_continued(
    dsn: str, stage: Stage, spans: InMemorySpanExporter
) -> None:
    theirs = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"

    async def enqueue() -> list[int]:
        async with AsyncClient(dsn) as client:
            made = [
                await client.enqueue("charge", org="a", headers={"traceparent": text})
                for text in (theirs, "nonsense")
            ]
            return [each.id for each in made]

    ids = asyncio.run(enqueue())
    with working(app([]), dsn):
        until_ended(stage, ids)
    handled = {
        str((h.attributes or {})["messaging.message.id"]): h for h in named(spans, "handle charge")
    }
    continued, begun = (handled[str(task_id)] for task_id in ids)
    assert f"{continued.context.trace_id:x}" == "af7651916cd43dd8448eb211c80319c"
    assert continued.parent is not None
    assert f"{continued.parent.span_id:x}" == "b7ad6b7169203331"
    assert begun.parent is None


def test_spans_are_off_unless_they_are_switched_on(dsn: str, stage: Stage) -> None:
    assert not tracing.is_on()
    with Client(dsn) as client:
        task = client.enqueue("charge", org="a")
        client.enqueue_many([TaskSpec(name="send", org="b")])
    assert stage.rows("select headers from orchestrator.task where headers is not null") == []
    assert task.created


class Receiver(HTTPServer):
    """Takes what an exporter sends."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Taking)
        self.bodies: list[bytes] = []

    def found(self) -> list[tuple[str, bytes, bytes, bytes]]:
        """Return (name, trace, span, parent) of each span that came."""
        return [
            (span.name, span.trace_id, span.span_id, span.parent_span_id)
            for body in self.bodies
            for resource in ExportTraceServiceRequest.FromString(body).resource_spans
            for scope in resource.scope_spans
            for span in scope.spans
        ]


class _Taking(BaseHTTPRequestHandler):
    server: Receiver

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.bodies.append(body)
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the library's name
        """Say nothing."""


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with Receiver() as made:
        thread = threading.Thread(target=made.serve_forever)
        thread.start()
        yield made
        made.shutdown()
        thread.join()


@pytest.mark.usefixtures("replica")
def test_a_trace_goes_from_one_process_to_another(
    dsn: str, tmp_path: Path, receiver: Receiver
) -> None:
    (tmp_path / "shop.py").write_text(
        "from orchestrator import App\napp = App()\n"
        '@app.task("charge")\ndef charge(task):\n    assert task.payload\n'
    )
    shell = Shell(dsn, tmp_path)
    shell.environment |= {
        "ORCHESTRATOR_TRACING_ENABLED": "true",
        "ORCHESTRATOR_TRACING_ENDPOINT": f"http://127.0.0.1:{receiver.server_port}/v1/traces",
        "OTEL_BSP_SCHEDULE_DELAY": "100",
        "NO_PROXY": "127.0.0.1",
    }
    worker = shell.start("worker", "shop:app")
    try:
        shell.cold("enqueue", "charge", "--org", "a", "--payload", f'"{SECRET}"')
        until(lambda: len(receiver.found()) >= 2, "both spans have come", patience_s=60)
    finally:
        worker.terminate()
        worker.communicate(timeout=30)
    spans = {name: (trace_id, span, parent) for name, trace_id, span, parent in receiver.found()}
    enqueue, handle = spans["enqueue charge"], spans["handle charge"]
    assert handle[0] == enqueue[0]
    assert handle[2] == enqueue[1]
    told = b"".join(receiver.bodies)
    assert b"orchestrator" in told
    assert SECRET.encode() not in told
    assert b"dbname" not in told
    assert b"test_" not in told  # nor any part of the DSN


@pytest.mark.usefixtures("spans")
def test_what_a_span_adds_to_a_large_batch_counts_for_no_bound(
    dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(producing, "STREAM_ITEMS", 3)
    most = LimitsSettings().headers_bytes_max
    full = {"h": "x" * (most - len(json.dumps({"h": ""})))}
    items = [TaskSpec(name="send", org="acme", headers=full) for _ in range(7)]
    with Client(dsn) as client:
        assert len(client.enqueue_many(items)) == 7
        items[5] = TaskSpec(name="send", org="acme", headers={"h": full["h"] + "x"})
        with pytest.raises(InvalidInput, match="item 5: headers have"):
            client.enqueue_many(items)
