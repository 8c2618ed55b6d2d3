"""Spans from enqueue to handler, for OpenTelemetry; nothing at all unless they are switched on.

The producer's span writes its W3C trace context into the task's header `traceparent`; the worker
reads it and opens its span below, in whatever process and however much later that is. A header that
the caller gave is left as it is, so a producer that traces itself, in any language, is continued.

Spans carry ids and names: queue, task id and name, org, attempt. Never a payload, another header, a
DSN, or the text of an error, which may hold any of them.

Off is the default and costs a look at a global. `configure` switches it on: with the extra `otel`
and `tracing.enabled`. A program that has set up OpenTelemetry itself keeps its own provider.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from orchestrator.config import TracingSettings
from orchestrator.errors import ConfigError
from orchestrator.model import Claim, TaskSpec

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.trace import Span, Tracer

TRACEPARENT = "traceparent"
TRACESTATE = "tracestate"
_SYSTEM = "orchestrator"

_OFF = nullcontext()


class _Switch:
    """Where spans come from; None = off."""

    tracer: Tracer | None = None


def configure(settings: TracingSettings) -> None:
    """Switch spans on if the settings say so; raise `ConfigError` where the extra is missing."""
    if settings.enabled:
        enable(settings.endpoint)


def enable(endpoint: str | None = None, provider: TracerProvider | None = None) -> None:
    """Switch spans on: over this provider, else the one that the program has set, else over one
    that sends to `endpoint`.
    """
    if _Switch.tracer is not None:
        return
    try:
        from opentelemetry import trace
        from opentelemetry.sdk.trace import TracerProvider
    except ModuleNotFoundError as error:
        raise ConfigError(
            "tracing.enabled is set, but the library is missing: install orchestrator[otel], "
            "or unset it"
        ) from error
    if provider is None and not isinstance(trace.get_tracer_provider(), TracerProvider):
        trace.set_tracer_provider(_provider(endpoint))
    _Switch.tracer = trace.get_tracer("orchestrator", tracer_provider=provider)


def disable() -> None:
    """Switch spans off; the provider stays."""
    _Switch.tracer = None


def is_on() -> bool:
    """Tell whether spans are made."""
    return _Switch.tracer is not None


def producing(specs: Sequence[TaskSpec]) -> AbstractContextManager[Sequence[TaskSpec]]:
    """Open the span of an enqueue; yield the specs with the headers that carry it."""
    return nullcontext(specs) if _Switch.tracer is None else _producing(_Switch.tracer, specs)


@contextmanager
def _producing(tracer: Tracer, specs: Sequence[TaskSpec]) -> Iterator[Sequence[TaskSpec]]:
    name = specs[0].name if len({spec.name for spec in specs}) == 1 else "many"
    from opentelemetry.trace import SpanKind, set_span_in_context
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    attributes: dict[str, str | int] = {
        "messaging.system": _SYSTEM,
        "messaging.operation.type": "send",
        "messaging.destination.name": ", ".join(sorted({spec.queue for spec in specs})),
        "messaging.batch.message_count": len(specs),
    }
    span = tracer.start_span(f"enqueue {name}", kind=SpanKind.PRODUCER, attributes=attributes)
    carrier: dict[str, str] = {}
    TraceContextTextMapPropagator().inject(carrier, set_span_in_context(span))
    try:
        yield [_carrying(spec, carrier) for spec in specs]
    except BaseException as error:
        _failed(span, error)
        raise
    finally:
        span.end()


def handling(claim: Claim) -> AbstractContextManager[None]:
    """Open the span of an attempt below the one its task was enqueued in, current meanwhile."""
    return _OFF if _Switch.tracer is None else _handling(_Switch.tracer, claim)


@contextmanager
def _handling(tracer: Tracer, claim: Claim) -> Iterator[None]:
    from opentelemetry.trace import SpanKind
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    headers = claim.headers
    carried = {key: headers[key] for key in (TRACEPARENT, TRACESTATE) if key in headers}
    # What is no trace context begins a trace of its own.
    parent = TraceContextTextMapPropagator().extract(carried)
    attributes: dict[str, str | int] = {
        "messaging.system": _SYSTEM,
        "messaging.operation.type": "process",
        "messaging.destination.name": claim.queue,
        "messaging.message.id": str(claim.id),
        "orchestrator.org": claim.org,
        "orchestrator.attempt": claim.attempt,
    }
    with tracer.start_as_current_span(
        f"handle {claim.name}",
        context=parent,
        kind=SpanKind.CONSUMER,
        attributes=attributes,
        record_exception=False,
        set_status_on_exception=False,
    ) as span:
        try:
            yield
        except BaseException as error:
            _failed(span, error)
            raise


def _carrying(spec: TaskSpec, carrier: Mapping[str, str]) -> TaskSpec:
    headers = spec.headers or {}
    if TRACEPARENT in headers:
        return spec
    return replace(spec, headers={**carrier, **headers})


def _failed(span: Span, error: BaseException) -> None:
    """Mark a span as failed, by the kind of the error: its text may hold a payload."""
    from opentelemetry.trace import Status, StatusCode

    span.set_status(Status(StatusCode.ERROR, type(error).__name__))
    span.set_attribute("error.type", type(error).__qualname__)


def _provider(endpoint: str | None) -> Any:
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    # OTEL_SERVICE_NAME and OTEL_RESOURCE_ATTRIBUTES go before our name.
    said = Resource.create()
    own = Resource({"service.name": _SYSTEM})
    unnamed = str(said.attributes.get("service.name", "")).startswith("unknown_service")
    provider = TracerProvider(resource=said.merge(own) if unnamed else said)
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(endpoint=endpoint)))
    return provider
