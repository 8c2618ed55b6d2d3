"""`org`: what operators set for the tenants."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from orchestrator.cli import output, values
from orchestrator.cli.setup import Setup, actor
from orchestrator.cli.verb import AsJson, group, verb

if TYPE_CHECKING:
    from orchestrator.model import OrgConfig

OrgName = Annotated[str, typer.Argument(metavar="ORG")]


def register(app: typer.Typer) -> None:
    """Add the group to `app`."""
    org = group("org", "Tenants: tier, overrides, pauses.", into=app)
    verb(org, "list", "orchestrator org list --tier premium")(list_orgs)
    verb(org, "show", "orchestrator org show acme")(show)
    verb(
        org,
        "set",
        "orchestrator org set acme --tier premium --burst-max 200",
        "orchestrator org set acme --burst-max none   # the tier's again",
    )(set_org)
    verb(org, "pause", "orchestrator org pause acme --reason 'unpaid invoice'")(pause)
    verb(org, "resume", "orchestrator org resume acme")(resume)
    verb(
        org,
        "import",
        "orchestrator org import orgs.csv --dry-run   # columns: org,tier,weight,burst_max",
        'orchestrator org import orgs.jsonl           # {"org": "acme", "tier": "premium"}',
    )(import_file)


def list_orgs(
    setup: Setup,
    tier: Annotated[str | None, typer.Option(help="Only those of this tier.")] = None,
    paused: Annotated[bool, typer.Option("--paused", help="Only those that are paused.")] = False,
    as_json: AsJson = False,
) -> None:
    """List the orgs that are configured; all others are admitted under the default tier."""
    from orchestrator.store import orgs
    from orchestrator.store.sql import run

    with setup.connection() as connection:
        configs: list[OrgConfig] = run(connection, orgs.all_orgs())
    chosen = [
        config
        for config in configs
        if tier in (None, config.tier) and (config.paused_at is not None or not paused)
    ]
    if as_json:
        output.document({"orgs": chosen})
        return
    output.table(
        ("org", "tier", "weight", "burst_max", "backlog_max", "paused since", "reason"),
        [
            (c.org, c.tier, c.weight, c.burst_max, c.backlog_max, c.paused_at, c.paused_reason)
            for c in chosen
        ],
    )


def show(setup: Setup, org: OrgName, as_json: AsJson = False) -> None:
    """Show one org: its configuration, and what it has in each queue."""
    from orchestrator.model import DEPTH_MAX
    from orchestrator.store import orgs, status
    from orchestrator.store.sql import run

    with setup.connection() as connection:
        config: OrgConfig = run(connection, orgs.get_org(org))
        places: list[status.OrgPlaces] = run(connection, status.org_places(org))
    if as_json:
        output.document({"org": config, "queues": places})
        return
    _show(config)
    output.table(
        ("queue", "staged", "ready", "claimed"),
        [
            (p.queue, f"{p.staged:,}{'+' if p.staged >= DEPTH_MAX else ''}", p.ready, p.claimed)
            for p in places
        ],
    )


def set_org(
    setup: Setup,
    org: OrgName,
    tier: Annotated[str | None, typer.Option(help="Its tier.")] = None,
    weight: Annotated[
        str | None, typer.Option(metavar="N|none", help="Instead of the tier's weight.")
    ] = None,
    burst_max: Annotated[
        str | None, typer.Option(metavar="N|none", help="Instead of the tier's burst_max.")
    ] = None,
    backlog_max: Annotated[
        str | None, typer.Option(metavar="N|none", help="Instead of the tier's backlog_max.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Set what an org gets; what is not given stays as it is, `none` returns to the tier's."""
    from orchestrator.store import orgs
    from orchestrator.store.sql import run

    own_weight = values.given("--weight", weight, values.number_or_none)
    cap = values.given("--burst-max", burst_max, values.number_or_none)
    most = values.given("--backlog-max", backlog_max, values.number_or_none)
    with setup.connection() as connection, connection.transaction():
        operation = orgs.set_org(
            org,
            tier=tier,
            weight=own_weight,
            burst_max=cap,
            backlog_max=most,
            actor=actor(),
        )
        config = run(connection, operation)
    _report(config, as_json)


def pause(
    setup: Setup,
    org: OrgName,
    reason: Annotated[str | None, typer.Option(help="Why, for whoever asks later.")] = None,
    as_json: AsJson = False,
) -> None:
    """Admit nothing more of an org; what is admitted runs on, what is enqueued waits."""
    from orchestrator.store import orgs
    from orchestrator.store.sql import run

    with setup.connection() as connection, connection.transaction():
        config = run(connection, orgs.pause_org(org, reason, actor=actor()))
    _report(config, as_json)


def resume(setup: Setup, org: OrgName, as_json: AsJson = False) -> None:
    """Admit an org again."""
    from orchestrator.store import orgs
    from orchestrator.store.sql import run

    with setup.connection() as connection, connection.transaction():
        config = run(connection, orgs.resume_org(org, actor=actor()))
    _report(config, as_json)


def import_file(
    setup: Setup,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="Ends in .csv or .jsonl.")],
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show what would change, change nothing.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Set many orgs from a file: all of it or, if any line is wrong, none.

    The file decides tier, weight and burst_max of each org it names; what a line leaves out
    becomes the default tier, or the tier's own value. Pauses, and orgs that are not named, stay.
    """
    from orchestrator.cli import org_import

    configs = org_import.parse(file)
    with setup.connection() as connection:
        changes = org_import.compare(connection, file, configs)
        if not dry_run and changes:
            org_import.apply(connection, changes)
    org_import.report(changes, len(configs), dry_run=dry_run, as_json=as_json)


def _report(config: OrgConfig, as_json: bool) -> None:
    if as_json:
        output.document({"org": config})
    else:
        _show(config)


def _show(config: OrgConfig) -> None:
    output.facts(
        {
            "org": config.org,
            "tier": config.tier,
            "weight": "the tier's" if config.weight is None else config.weight,
            "burst_max": "the tier's" if config.burst_max is None else config.burst_max,
            "backlog_max": "the tier's" if config.backlog_max is None else config.backlog_max,
            "paused since": config.paused_at,
            "reason": config.paused_reason,
        }
    )
