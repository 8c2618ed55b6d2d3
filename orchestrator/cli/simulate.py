"""`simulate`: the scheduler over a trace, under several policies side by side."""

from __future__ import annotations

import gc
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NamedTuple

import typer

from orchestrator.cli import output, values
from orchestrator.cli.setup import Setup
from orchestrator.cli.verb import AsJson, verb
from orchestrator.errors import InvalidInput
from orchestrator.model import DEFAULT_QUEUE

if TYPE_CHECKING:
    from orchestrator.cli.traces import Step
    from orchestrator.fairness.simulation.compare import Column
    from orchestrator.fairness.simulation.policy import SimPolicy
    from orchestrator.fairness.simulation.trace import Trace
    from orchestrator.policyfile import Draft, Override

_CURRENT, _PROPOSED = "current", "proposed"


class _Asked(NamedTuple):
    """What the command line proposes, read before anything that takes long."""

    files: list[tuple[str, list[Override]]]
    settings: list[Override]
    baselines: list[str]


def register(app: typer.Typer) -> None:
    """Add the verb to `app`."""
    verb(
        app,
        "simulate",
        "orchestrator simulate --from-history 24h --set org:acme.burst_max=20",
        "orchestrator simulate --from-history 24h --policy proposed.toml --figure dwell.svg",
        "orchestrator simulate --from-history 7d --export trace.jsonl",
        "orchestrator simulate trace.jsonl --set tier:free.weight=2 --set slots=32 --baseline fifo",
        "orchestrator simulate trace.jsonl --set workload:chat.express=true --json",
        "orchestrator simulate trace.jsonl --set yield_s=0.5",
    )(simulate)


def simulate(
    setup: Setup,
    file: Annotated[
        str | None,
        typer.Argument(metavar="FILE", help="Trace in JSON lines, or - for standard input."),
    ] = None,
    from_history: Annotated[
        str | None,
        typer.Option(metavar="TIME", help="Instead of a file: what arrived in the last 24h."),
    ] = None,
    queue: Annotated[
        str, typer.Option(help="Whose history and configuration to take.")
    ] = DEFAULT_QUEUE,
    policy: Annotated[
        list[Path] | None,
        typer.Option(metavar="FILE", help="A policy in TOML; one column each."),
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Together one column, `proposed`."),
    ] = None,
    baseline: Annotated[
        list[str] | None,
        typer.Option(metavar="RULE", help="fifo, max-min, sqs, count, strict or weighted."),
    ] = None,
    slots: Annotated[
        int | None,
        typer.Option(min=1, help="Tasks run at once; else what the trace says or was measured."),
    ] = None,
    yield_after: Annotated[
        str | None,
        typer.Option(
            metavar="TIME",
            help="Running tasks yield to a critical one so soon after being asked; else never.",
        ),
    ] = None,
    export: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write the trace there, as JSON lines.")
    ] = None,
    figure: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Draw the dwell there, as SVG.")
    ] = None,
    top: Annotated[int, typer.Option(min=0, help="How many orgs to show.")] = 10,
    as_json: AsJson = False,
) -> None:
    """Show what would happen under another policy: the leader's own scheduler over a trace.

    The first column is `current`: what is in force in the database, or what a new database has
    where none is named. The others change what they name of it. --set takes the same names as a
    policy file: slots, yield_s, queue.policy, queue.cost_mode, queue.capacity, queue.headroom,
    queue.express_reserve, org:NAME.tier, .weight, .burst_max, .paused, tier:NAME.weight, .rank,
    .burst_max, workload:NAME.share, .rank, .express, .express_max_s.

    A line of a trace: {"at": 0.25, "org": "acme", "workload": "etl", "priority": 5,
    "duration_s": 1.5}; the first may be {"slots": 16}. "critical": true is a critical task: it goes
    before all other work of its org. Running tasks make room for one only where yield_s (or
    --yield-after) says how soon they do, once they are asked.
    """
    from orchestrator.cli import comparison, traces
    from orchestrator.policyfile import apply

    if (file is None) == (from_history is None):
        raise InvalidInput("give a trace: either FILE or --from-history 24h")
    for path in filter(None, (export, figure)):
        if not path.parent.is_dir():
            raise InvalidInput(f"no directory {path.parent}: give {path.name} another path")
    asked = _asked(policy or [], settings or [], baseline or [])
    everywhere = _everywhere(yield_after)
    with _progress() as step, _no_collection():
        source, draft = traces.read(setup, file, from_history, queue, step)
        source = traces.with_slots(source, slots)
        if export is not None:
            traces.export(export, source.trace)
        named = _columns(apply(draft, everywhere), asked, source.trace)
        columns = [_run(source.trace, name, each, step) for name, each in named]
    if figure is not None:
        from orchestrator.cli.dwell_figure import draw

        draw(figure, columns, top)
    if as_json:
        output.document(comparison.document(source, columns, top))
    else:
        comparison.show(source, columns, top)


# What is asked ----------------------------------------------------------------------------------


def _asked(files: Sequence[Path], settings: Sequence[str], baselines: Sequence[str]) -> _Asked:
    from orchestrator.fairness.simulation.baselines import Rule
    from orchestrator.policyfile import parse_override

    for rule in baselines:
        if rule not in list(Rule):
            raise InvalidInput(f"no rule {rule!r}: --baseline takes {', '.join(Rule)}")
    try:
        overrides = [parse_override(text) for text in settings]
    except InvalidInput as error:
        raise InvalidInput(f"--set {error}") from error
    names = [path.name for path in files]
    if len(set(names)) < len(names):
        names = [str(path) for path in files]
    columns = [_CURRENT, *names, *([_PROPOSED] if overrides else []), *baselines]
    for name in columns:
        if columns.count(name) > 1:
            raise InvalidInput(f"two columns would be called {name!r}: name each policy once")
    parsed = [(name, _policy_file(path)) for name, path in zip(names, files, strict=True)]
    return _Asked(parsed, overrides, list(baselines))


def _everywhere(yield_after: str | None) -> list[Override]:
    """Return what is said of the workers in all columns."""
    from orchestrator.policyfile import parse_override

    if yield_after is None:
        return []
    try:
        return [parse_override(f"yield_s={yield_after}")]
    except InvalidInput as error:
        raise InvalidInput(str(error).replace("yield_s", "--yield-after", 1)) from error


def _policy_file(path: Path) -> list[Override]:
    from orchestrator.policyfile import parse_overrides

    text = values.read(path)
    try:
        return parse_overrides(text)
    except InvalidInput as error:
        raise InvalidInput(f"{path}: {error}") from error


def _columns(draft: Draft, asked: _Asked, trace: Trace) -> list[tuple[str, SimPolicy]]:
    """Return each column's name and policy, current first."""
    from orchestrator.fairness.simulation.baselines import Rule
    from orchestrator.policyfile import apply, demand_used

    assert trace.slots is not None
    draft = replace(draft, policy=replace(draft.policy, slots=trace.slots))
    columns = [(_CURRENT, draft.settled)]
    proposals = [*asked.files, *([(_PROPOSED, asked.settings)] if asked.settings else [])]
    for name, overrides in proposals:
        where = "--set " if overrides is asked.settings else f"{name}: "
        try:
            changed = apply(draft, overrides)
            demand_used(draft, changed, overrides, trace.workloads)
            policy = changed.settled
        except InvalidInput as error:
            raise InvalidInput(f"{where}{error}") from error
        _notice_absent(where, overrides, trace)
        columns.append((name, policy))
    columns += [(rule, replace(draft.settled, rule=Rule(rule))) for rule in asked.baselines]
    return columns


def _notice_absent(where: str, overrides: Sequence[Override], trace: Trace) -> None:
    """Say which orgs of a proposal have no task in the trace: nothing is changed for them."""
    present = set(trace.orgs)
    for org in dict.fromkeys(each.name for each in overrides if each.kind == "org"):
        if org not in present:
            output.note(f"{where}org {org!r} has no task in the trace: check its name")


# Running --------------------------------------------------------------------------------------


def _run(trace: Trace, name: str, policy: SimPolicy, step: Step) -> Column:
    from orchestrator.fairness.simulation.compare import Column
    from orchestrator.fairness.simulation.report import report_of
    from orchestrator.fairness.simulation.simulate import simulate as run

    return Column(name, policy, report_of(run(trace, policy, progress=step)))


@contextmanager
def _no_collection() -> Iterator[None]:
    """Do not look for cycles: there are millions of small values, and none is part of one.

    It took a sixth of the time.
    """
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


@contextmanager
def _progress() -> Iterator[Step]:
    """Yield what is told how far we are: a bar on a terminal, nothing elsewhere."""
    if not sys.stderr.isatty():
        yield lambda _done, _total: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    shown = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    with Progress(*shown, console=Console(stderr=True), transient=True) as progress:
        bar = progress.add_task("reading", total=None)

        def step(done: int, total: int | None) -> None:
            doing = "reading" if total is None else "simulating"
            progress.update(bar, description=f"{doing} {done:,}", completed=done, total=total)

        yield step
