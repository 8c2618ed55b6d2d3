"""A worker: claims tasks of its queues and runs their handlers, until it is stopped."""

from __future__ import annotations

import os
import socket
import threading
import uuid
from collections.abc import Callable, Sequence

import structlog
from prometheus_client import Metric

from orchestrator.config import Settings
from orchestrator.errors import ConfigError
from orchestrator.store import staging
from orchestrator.store.names import control_channel, worker_application
from orchestrator.telemetry import metrics, tracing
from orchestrator.telemetry.health import TURN_MAX_S, Health
from orchestrator.wakeup.listener import Listener
from orchestrator.wakeup.waker import Waker
from orchestrator.worker.acks import Acks
from orchestrator.worker.app import App
from orchestrator.worker.attempt import released
from orchestrator.worker.buffer import Buffer, Calls
from orchestrator.worker.fetcher import Fetcher
from orchestrator.worker.heartbeat import Heartbeat
from orchestrator.worker.job import Job
from orchestrator.worker.leases import Leases
from orchestrator.worker.loop import Loop
from orchestrator.worker.session import Session
from orchestrator.worker.source import Source
from orchestrator.worker.threads import Threads

log = structlog.get_logger()

# How long a part of the worker may take to end; each ends at once unless the database is away.
_STOP_MAX_S = 10.0
# How long an attempt that was aborted may take to end.
_ABORT_MAX_S = 1.0


class Worker:
    """Runs the handlers of an app in this process; `run` once, `stop` from anywhere."""

    def __init__(
        self,
        app: App,
        dsn: str,
        settings: Settings,
        *,
        queues: Sequence[str] | None = None,
        concurrency: int | None = None,
    ) -> None:
        """Prepare to work on `queues` with `concurrency` slots, by default as the settings say."""
        self._app = app
        self._dsn = dsn
        self._settings = settings.worker
        self._tracing = settings.tracing
        self._connect_timeout_s = settings.database.connect_timeout_s
        # Each queue once, in the order given.
        self._queues = list(dict.fromkeys(queues or settings.worker.queues))
        self._slots = concurrency or settings.worker.concurrency
        self.name = f"{socket.gethostname()}:{os.getpid()}:{uuid.uuid4().hex[:8]}"
        self._waker = Waker()
        self._stopping = False
        self._failure: BaseException | None = None
        self.health = Health()
        self._counts: Callable[[], tuple[int, int]] = lambda: (0, 0)

    def run(self) -> None:
        """Work until `stop`, then drain: see the package's docstring.

        Raises `ConfigError` for an app without handlers, `UnknownQueue`, `DatabaseUnavailable` if
        the database cannot be reached at the start.
        """
        try:
            self._build()
            self._start()
            while not self._stopping:
                self._waker.wait(None)
            self._drain()
        finally:
            self._waker.close()
        if self._failure is not None:
            raise self._failure

    def stop(self) -> None:
        """Ask the worker to drain and return from `run`; safe in a signal handler."""
        self._stopping = True
        self._waker.wake()

    def collect(self) -> list[Metric]:
        """Return how many slots there are, and how many are taken, for a monitor."""
        running, waiting = self._counts()
        return [
            metrics.WORKER_SLOTS.family([((), self._slots)]),
            metrics.WORKER_RUNNING.family([((), running)]),
            metrics.WORKER_WAITING.family([((), waiting)]),
        ]

    def _build(self) -> None:
        tracing.configure(self._tracing)
        handlers = self._app.handlers
        if not handlers:
            raise ConfigError('the app has no handlers: register one with @app.task("name")')
        settings = self._settings
        fetching = self._session("fetcher")
        sources = self._sources(fetching)
        self._leases = Leases()
        self._acks = Acks(self._session("acks"), self._leases, settings, worker=self.name)
        self._threads = Threads(self._acks, self._spawn)
        self._loop = Loop(self._acks, self._spawn)
        self._buffer = Buffer(
            self._slots, Calls(self._threads.add, self._loop.wake, self._make_room)
        )
        self._counts = self._buffer.counts
        self._fetcher = Fetcher(
            fetching,
            sources,
            handlers,
            settings,
            slots=self._slots,
            listener=self._listener(sources),
            buffer=self._buffer,
            leases=self._leases,
            acks=self._acks,
            loop=self.health.loop(
                "fetcher", TURN_MAX_S + settings.poll_max_s, awaits=lambda: fetching.asks
            ),
        )
        channels = [control_channel(source.queue) for source in sources]
        beating = self._session("heartbeat", channels if settings.listen else ())
        beat = self.health.loop(
            "heartbeat", TURN_MAX_S + settings.lease_s, awaits=lambda: beating.asks
        )
        # It has nothing to say before there are leases.
        beat.works()
        self._heartbeat = Heartbeat(
            beating,
            self._leases,
            self._buffer,
            self._acks,
            lease_s=settings.lease_s,
            loop=beat,
        )

    def _start(self) -> None:
        self._ack_thread = self._spawn("acks", self._acks.run)
        self._heartbeat_thread = self._spawn("heartbeat", self._heartbeat.run)
        self._threads.serve(self._buffer)
        self._loop.serve(self._buffer)
        self._fetch_thread = self._spawn("fetcher", self._fetcher.run)
        log.info("worker.started", worker=self.name, queues=self._queues, concurrency=self._slots)

    def _drain(self) -> None:
        """End every part, the acks after those whose endings they tell."""
        self.health.drain()
        self._release(self._buffer.close())
        self._fetcher.stop()
        running = self._buffer.running()
        log.info("worker.stopping", worker=self.name, running=len(running))
        for job in running:
            job.drain()
        self._fetch_thread.join(_STOP_MAX_S)
        if not self._buffer.wait_idle(self._settings.drain_timeout_s):
            self._abort()
        self._threads.join(_ABORT_MAX_S)
        self._loop.stop(_ABORT_MAX_S)
        self._acks.stop(_STOP_MAX_S)
        self._ack_thread.join(2 * _STOP_MAX_S)
        self._heartbeat.stop()
        self._heartbeat_thread.join(_STOP_MAX_S)
        log.info("worker.stopped", worker=self.name)

    def _abort(self) -> None:
        """End what can be ended; leave the rest to its lease: it may be about to finish."""
        for job in self._buffer.running():
            job.stop()
        if not self._buffer.wait_idle(_ABORT_MAX_S):
            for job in self._buffer.running():
                log.warning("task.left", task=job.claim.id, name=job.claim.name)

    def _make_room(self) -> None:
        self._fetcher.make_room()

    def _release(self, jobs: Sequence[Job]) -> None:
        for job in jobs:
            self._acks.put(job.lease, released(job.claim))

    def _session(self, part: str, channels: Sequence[str] = ()) -> Session:
        return Session(
            self._dsn,
            f"orchestrator {part} {self.name}"[:63],
            pooled=not self._settings.listen,
            connect_timeout_s=self._connect_timeout_s,
            channels=channels,
        )

    def _sources(self, session: Session) -> list[Source]:
        sources = []
        for name in self._queues:
            queue = session.run(staging.queue_id(name))
            source = Source(queue, name, lease_s=self._settings.lease_s, worker=self.name)
            source.learn(session)
            sources.append(source)
        return sources

    def _listener(self, sources: Sequence[Source]) -> Listener:
        applications = {
            source.queue: worker_application(source.queue, self._slots) for source in sources
        }
        return Listener(
            self._dsn,
            applications if self._settings.listen else {},
            connect_timeout_s=self._connect_timeout_s,
        )

    def _spawn(self, name: str, target: Callable[[], None]) -> threading.Thread:
        """Start a thread of the worker; its failure ends the worker, which would limp otherwise."""

        def guarded() -> None:
            try:
                target()
            except BaseException as error:  # raised again by `run`
                log.critical("worker.failed", thread=name, exc_info=True)
                self._failure = error
                self.stop()

        # A daemon: a handler that never returns must not keep the process from ending.
        thread = threading.Thread(target=guarded, name=f"{name} of {self.name}", daemon=True)
        thread.start()
        return thread
