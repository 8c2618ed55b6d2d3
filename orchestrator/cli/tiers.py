"""`tier` and `workload`: the classes of orgs and of their own work."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from orchestrator.cli import output, values
from orchestrator.cli.setup import Setup, actor
from orchestrator.cli.verb import AsJson, group, verb

if TYPE_CHECKING:
    from orchestrator.model import Tier, Workload


def register(app: typer.Typer) -> None:
    """Add the two groups to `app`."""
    tier = group("tier", "Classes of orgs (L1): weight, rank, default burst_max.", into=app)
    verb(tier, "list", "orchestrator tier list")(list_tiers)
    verb(
        tier,
        "set",
        "orchestrator tier set premium --weight 5 --rank 2",
        "orchestrator tier set free --burst-max 50",
    )(set_tier)
    workload = group("workload", "Classes of an org's own work (L2): share, rank.", into=app)
    verb(workload, "list", "orchestrator workload list")(list_workloads)
    verb(
        workload,
        "set",
        "orchestrator workload set reports --share 1 --rank 3",
        "orchestrator workload set chat --express --express-max 2s",
    )(set_workload)


def list_tiers(setup: Setup, as_json: AsJson = False) -> None:
    """List the tiers, best rank first."""
    from orchestrator.store import orgs
    from orchestrator.store.sql import run

    with setup.connection() as connection:
        _show_tiers(run(connection, orgs.tiers()), as_json)


def set_tier(
    setup: Setup,
    name: Annotated[str, typer.Argument(metavar="NAME")],
    weight: Annotated[
        int | None,
        typer.Option(help="Part of its orgs under the weighted policy; a new tier has 1."),
    ] = None,
    rank: Annotated[
        int | None, typer.Option(help="Who goes first under the strict policy: 1 before 2.")
    ] = None,
    burst_max: Annotated[
        str | None, typer.Option(metavar="N|none", help="Most tasks in flight of each of its orgs.")
    ] = None,
    backlog_max: Annotated[
        str | None,
        typer.Option(metavar="N|none", help="Most tasks of each of its orgs that wait in a queue."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Create or change a tier; what is not given stays as it is."""
    from orchestrator.store import orgs
    from orchestrator.store.sql import run

    cap = values.given("--burst-max", burst_max, values.number_or_none)
    most = values.given("--backlog-max", backlog_max, values.number_or_none)
    with setup.connection() as connection, connection.transaction():
        operation = orgs.set_tier(
            name, weight=weight, rank=rank, burst_max=cap, backlog_max=most, actor=actor()
        )
        tier = run(connection, operation)
    _show_tiers([tier], as_json)


def list_workloads(setup: Setup, as_json: AsJson = False) -> None:
    """List the workloads, best rank first."""
    from orchestrator.store import orgs
    from orchestrator.store.sql import run

    with setup.connection() as connection:
        _show_workloads(run(connection, orgs.workloads()), as_json)


def set_workload(
    setup: Setup,
    name: Annotated[str, typer.Argument(metavar="NAME")],
    share: Annotated[
        int | None, typer.Option(help="Part of an org's own work; a new workload has 1.")
    ] = None,
    rank: Annotated[
        int | None, typer.Option(help="Who goes first under the strict policy: 1 before 2.")
    ] = None,
    express: Annotated[
        bool | None, typer.Option(help="Short work, for which each queue keeps slots free.")
    ] = None,
    express_max: Annotated[
        str | None,
        typer.Option(
            metavar="TIME|none",
            help="An org whose tasks take longer on average is not express any more.",
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Create or change a workload; what is not given stays as it is."""
    from orchestrator.store import orgs
    from orchestrator.store.sql import run

    max_s = values.given("--express-max", express_max, values.duration_or_none)
    with setup.connection() as connection, connection.transaction():
        operation = orgs.set_workload(
            name, share=share, rank=rank, express=express, express_max_s=max_s, actor=actor()
        )
        workload = run(connection, operation)
    _show_workloads([workload], as_json)


def _show_tiers(tiers: list[Tier], as_json: bool) -> None:
    if as_json:
        output.document({"tiers": tiers})
        return
    rows = [(t.name, t.weight, t.rank, t.burst_max, t.backlog_max) for t in tiers]
    output.table(("tier", "weight", "rank", "burst_max", "backlog_max"), rows)


def _show_workloads(workloads: list[Workload], as_json: bool) -> None:
    if as_json:
        output.document({"workloads": workloads})
        return
    rows = [
        (
            w.name,
            w.share,
            w.rank,
            w.express,
            None if w.express_max_s is None else output.age(w.express_max_s),
        )
        for w in workloads
    ]
    output.table(("workload", "share", "rank", "express", "express_max"), rows)
