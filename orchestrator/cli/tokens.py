"""`token`: who may use the HTTP API."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from orchestrator.cli import output, values
from orchestrator.cli.setup import Setup, actor
from orchestrator.cli.verb import AsJson, group, verb

if TYPE_CHECKING:
    from orchestrator.store.tokens import ApiToken

TokenName = Annotated[str, typer.Argument(metavar="NAME")]


def register(app: typer.Typer) -> None:
    """Add the group to `app`."""
    token = group("token", "Tokens of the HTTP API: who may do what.", into=app)
    verb(
        token,
        "create",
        "orchestrator token create shop --scope producer --expires 90d",
        "orchestrator token create acme-app --scope producer --scope reader --org acme",
    )(create)
    verb(token, "list", "orchestrator token list --json")(list_tokens)
    verb(token, "revoke", "orchestrator token revoke shop")(revoke)


def create(
    setup: Setup,
    name: TokenName,
    scope: Annotated[
        list[str] | None,
        typer.Option(help="producer, worker, reader or admin (everything); may be repeated."),
    ] = None,
    org: Annotated[
        str | None, typer.Option(help="Bind it to this org: it sees and enqueues nothing else.")
    ] = None,
    expires: Annotated[
        str | None, typer.Option(metavar="TIME", help="Let it end after so long.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Create a token and show its secret, which is shown only now."""
    from orchestrator.store import tokens
    from orchestrator.store.sql import run

    expires_in_s = values.duration("--expires", expires)
    secret = tokens.new_secret()
    with setup.connection() as connection, connection.transaction():
        operation = tokens.create(
            name,
            secret,
            scope or (),
            org=org,
            expires_in_s=expires_in_s,
            actor=actor(),
        )
        token: ApiToken = run(connection, operation)
    if as_json:
        output.document({"token": token, "secret": secret})
        return
    bound = "" if token.org is None else f" of org {token.org}"
    until = "" if token.expires_at is None else f" until {output.instant(token.expires_at)}"
    output.note(f"token {token.name}: {', '.join(token.scopes)}{bound}{until}; shown only now:")
    output.say(secret)


def list_tokens(setup: Setup, as_json: AsJson = False) -> None:
    """List the tokens, also those that are revoked or have expired; never their secrets."""
    from orchestrator.store import tokens
    from orchestrator.store.sql import run

    with setup.connection() as connection:
        found: list[ApiToken] = run(connection, tokens.tokens())
    if as_json:
        output.document({"tokens": found})
    else:
        _show(found)


def revoke(setup: Setup, name: TokenName, as_json: AsJson = False) -> None:
    """Let a token open nothing any more; servers know it within 5 seconds."""
    from orchestrator.store import tokens
    from orchestrator.store.sql import run

    with setup.connection() as connection, connection.transaction():
        token: ApiToken = run(connection, tokens.revoke(name, actor=actor()))
    if as_json:
        output.document({"token": token})
    else:
        _show([token])


def _show(tokens: list[ApiToken]) -> None:
    output.table(
        ("token", "scopes", "org", "created", "expires", "revoked"),
        [
            (t.name, " ".join(t.scopes), t.org, t.created_at, t.expires_at, t.revoked_at)
            for t in tokens
        ],
    )
