"""`run` and `worker`: the processes that stay until they are told to go."""

from __future__ import annotations

import gc
import importlib
import os
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import TYPE_CHECKING, Annotated, Protocol

import typer

from orchestrator.cli import output
from orchestrator.cli.migrate import await_server, bring_up_to_date
from orchestrator.cli.setup import Setup, demand_schema
from orchestrator.cli.verb import verb
from orchestrator.errors import InvalidInput, UnknownQueue

if TYPE_CHECKING:
    from orchestrator.leader.replica import Replica
    from orchestrator.server.process import ServerProcess
    from orchestrator.telemetry.health import Health
    from orchestrator.telemetry.listener import Collect
    from orchestrator.worker import App

# How long `run --migrate` waits for a server that starts together with it.
_SERVER_PATIENCE_S = 30.0


MetricsOption = Annotated[
    str | None,
    typer.Option(metavar="HOST:PORT", help="Serve /metrics, /livez and /readyz here."),
]


class _Process(Protocol):
    health: Health

    def run(self) -> None: ...

    def stop(self) -> None: ...


def register(app: typer.Typer) -> None:
    """Add both verbs to `app`."""
    verb(
        app,
        "run",
        "orchestrator run",
        "orchestrator run --queue default --queue renders --migrate",
        "orchestrator run --http 127.0.0.1:8080",
    )(run)
    verb(
        app,
        "worker",
        "orchestrator worker shop.tasks:app",
        "orchestrator worker shop.tasks:app --queue renders --concurrency 4",
    )(worker)


def run(
    setup: Setup,
    queue: Annotated[
        list[str] | None, typer.Option(help="Stand for this queue only; may be repeated.")
    ] = None,
    migrate: Annotated[
        bool, typer.Option("--migrate", help="Bring the schema up to date first.")
    ] = False,
    http: Annotated[
        str | None,
        typer.Option(metavar="HOST:PORT", help="Serve the HTTP API there, from a child process."),
    ] = None,
    metrics: MetricsOption = None,
) -> None:
    """Run a replica, which admits tasks while it leads.

    Any number may run; they stand for election, and one leads each queue. SIGTERM or Ctrl-C hand
    the queues over and end it, a second one ends it at once. Logs go to stderr. The HTTP API is
    plain HTTP: TLS is a reverse proxy's.
    """
    from orchestrator.leader.replica import Replica

    setup.override(leader_queues=queue or None, server_http=http, metrics_listen=metrics)
    with setup.database() as dsn:
        if migrate:
            await_server(setup, dsn, _SERVER_PATIENCE_S)
            bring_up_to_date(dsn)
        _demand_queues(setup, dsn, setup.settings.leader.queues)
        replica = Replica(dsn, setup.settings)
        address = setup.settings.server.http
        if address is None:
            _stay(replica, setup, replica.board.collect)
            return
        served = _served(address, replica, dsn, setup)
        _stay(served, setup, replica.board.collect, served.collect)


def worker(
    setup: Setup,
    app: Annotated[
        str, typer.Argument(metavar="MODULE:APP", help="Where the App is, such as shop.tasks:app.")
    ],
    queue: Annotated[
        list[str] | None, typer.Option(help="Claim from this queue; may be repeated.")
    ] = None,
    concurrency: Annotated[
        int | None, typer.Option(help="Tasks that run at the same time.")
    ] = None,
    metrics: MetricsOption = None,
) -> None:
    """Run a worker, which hands tasks to the handlers of an App.

    The working directory is importable. SIGTERM or Ctrl-C let running tasks finish for a while and
    give back the others; a second one ends the process at once. Logs go to stderr.
    """
    from orchestrator.worker import Worker

    setup.override(
        worker_queues=queue or None, worker_concurrency=concurrency, metrics_listen=metrics
    )
    handlers = load_app(app)
    with setup.database() as dsn:
        _demand_queues(setup, dsn, setup.settings.worker.queues)
        made = Worker(handlers, dsn, setup.settings)
        _stay(made, setup, made.collect)


def load_app(target: str) -> App:
    """Import `MODULE:APP`, from the working directory as well; raise `InvalidInput`."""
    from orchestrator.worker import App

    module_name, _, path = target.partition(":")
    if not module_name or not path:
        raise InvalidInput(f"{target!r} names no App: write MODULE:APP, such as shop.tasks:app")
    sys.path.insert(0, os.getcwd())  # noqa: PTH109 - sys.path holds strings
    try:
        found: object = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module_name}.".startswith(f"{error.name}."):
            raise InvalidInput(
                f"module {module_name!r} imports what is missing: {error}"
            ) from error
        raise InvalidInput(
            f"no module {module_name!r}: run this where it can be imported, or set PYTHONPATH"
        ) from error
    except (Exception, SystemExit) as error:
        reason = f"{type(error).__name__}: {error}"
        raise InvalidInput(
            f"module {module_name!r} cannot be imported: {reason} (--debug shows where)"
        ) from error
    for name in path.split("."):
        found = getattr(found, name, None)
    if not isinstance(found, App):
        what = "is missing" if found is None else f"is a {type(found).__name__}, not an App"
        raise InvalidInput(f"{path!r} {what} in module {module_name!r}")
    return found


class _Served:
    """A replica that serves HTTP besides."""

    def __init__(self, replica: Replica, server: ServerProcess) -> None:
        self.health = replica.health
        self.collect = server.relay.collect
        self._replica = replica
        self._server = server

    def run(self) -> None:
        self._server.start()
        try:
            self._replica.run()
        finally:
            self._server.stop()

    def stop(self) -> None:
        self._replica.stop()


def _served(address: str, replica: Replica, dsn: str, setup: Setup) -> _Served:
    """Return the replica with the server beside it; say where that serves."""
    from orchestrator.server import process

    process.demand_libraries()
    server = process.ServerProcess(address, dsn, setup.settings)
    output.note(
        f"HTTP API on {server.url}/v1, for whoever has a token: "
        "`orchestrator token create NAME --scope producer` makes one"
    )
    return _Served(replica, server)


def _demand_queues(setup: Setup, dsn: str, names: Sequence[str]) -> None:
    """Return if the schema fits and every queue exists: later it would be logged for ever."""
    from orchestrator.store import leadership
    from orchestrator.store.sql import run as run_operation

    with setup.connect(dsn) as connection:
        demand_schema(connection)
        known = {each.name for each in run_operation(connection, leadership.queues())}
    for name in names:
        if name not in known:
            raise UnknownQueue(
                f"no queue {name!r}: create it with `orchestrator queue set {name}`, "
                f"or use one of {', '.join(sorted(known))}"
            )


def _stay(process: _Process, setup: Setup, *collects: Collect) -> None:
    from orchestrator import log

    log.configure(setup.settings.log)
    _calm_collector()
    with _signals(process.stop), _listening(process.health, setup, collects):
        process.run()


@contextmanager
def _listening(health: Health, setup: Setup, collects: Sequence[Collect]) -> Iterator[None]:
    """Serve health and metrics meanwhile, where the settings say so."""
    listen = setup.settings.metrics.listen
    if listen is None:
        yield
        return
    from orchestrator.config import parse_address
    from orchestrator.telemetry.listener import Listener

    listener = Listener(*parse_address(listen), health, *collects)
    listener.start()
    try:
        yield
    finally:
        listener.stop()


def _calm_collector() -> None:
    """Let the cycle collector look less often, and last of all at what the process began with.

    Tasks come and go by the thousand and are freed by their reference counts; a leader of 100,000
    orgs holds millions of objects for good, which every full collection would walk. (Measured: a
    worker's fetcher used a quarter less processor time.)
    """
    gc.freeze()
    gc.set_threshold(20_000, 50, 100)


@contextmanager
def _signals(stop: Callable[[], None]) -> Iterator[None]:
    """Call `stop` at the first SIGTERM or SIGINT, and end the process at the second."""
    seen = False

    def handle(number: int, _frame: FrameType | None) -> None:
        nonlocal seen
        if seen:
            os._exit(128 + number)
        seen = True
        if sys.stderr.isatty():
            # Past Python's buffers, which the signal may have interrupted.
            os.write(2, b"stopping; once more ends the process at once\n")
        stop()

    before = {number: signal.signal(number, handle) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
