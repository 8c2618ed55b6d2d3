"""Tokens of the HTTP API: 256 random bits, of which the database knows the SHA-256 alone."""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from orchestrator.errors import InvalidInput, TokenExists, UnknownToken
from orchestrator.store.orgs import audit, check_name
from orchestrator.store.sql import Operation, Statements

SQL = Statements("tokens")

# Lets a scanner of leaked secrets recognise ours.
PREFIX = "orch_"
_SECRET_BYTES = 32


class Scope(StrEnum):
    """What a token may do; `admin` may do everything."""

    PRODUCER = "producer"
    WORKER = "worker"
    ADMIN = "admin"
    READER = "reader"


# A worker gets tasks of every org and an admin configures all of them: no org can bound that.
_BOUND = frozenset({Scope.PRODUCER, Scope.READER})


@dataclass(frozen=True, slots=True)
class ApiToken:
    """A token as people see it; its secret was shown once and is known to nobody here."""

    id: int
    name: str
    scopes: tuple[Scope, ...]
    org: str | None
    created_at: datetime
    expires_at: datetime | None
    revoked_at: datetime | None


@dataclass(frozen=True, slots=True)
class Holder:
    """Whom a valid secret stands for."""

    name: str
    digest: bytes
    scopes: frozenset[Scope]
    org: str | None


def new_secret() -> str:
    """Return a secret nobody can guess."""
    return PREFIX + secrets.token_urlsafe(_SECRET_BYTES)


def digest(secret: str) -> bytes:
    """Return what is stored of a secret; it has 256 bits of chance, so it needs no salt."""
    return hashlib.sha256(secret.encode("utf-8", "surrogatepass")).digest()


def create(
    name: str,
    secret: str,
    scopes: Collection[str],
    *,
    org: str | None = None,
    expires_in_s: float | None = None,
    actor: str,
) -> Operation:
    """Store a token; return its `ApiToken`; needs a transaction.

    Raises `TokenExists` where an unrevoked token has this name.
    """
    check_name("name", name)
    chosen = _scopes(scopes)
    if org is not None:
        check_name("org", org)
        if not chosen <= _BOUND:
            raise InvalidInput(
                "a token bound to an org can be producer or reader: workers and admins see every "
                "org, so leave the org out or the scope"
            )
    if expires_in_s is not None and not expires_in_s > 0:
        raise InvalidInput("a token must expire after more than 0 seconds")
    rows = yield SQL.call(
        "create_token",
        name=name,
        digest=digest(secret),
        scopes=sorted(chosen),
        org=org,
        expires_in_s=expires_in_s,
    )
    if not rows:
        raise TokenExists(
            f"a token {name!r} is in use: choose another name, or revoke that one first"
        )
    yield from audit(actor, "token.create", name, {"scopes": sorted(chosen), "org": org})
    return _token(rows[0])


def holder(secret_digest: bytes) -> Operation:
    """Return the `Holder` of the secret with this digest, None where it is not valid (any more)."""
    rows = yield SQL.call("token", digest=secret_digest)
    if not rows:
        return None
    name, stored, scopes, org = rows[0]
    return Holder(name, bytes(stored), frozenset(map(Scope, scopes)), org)


def tokens() -> Operation:
    """Return every `ApiToken`, oldest first, revoked ones among them."""
    rows = yield SQL.call("tokens")
    return [_token(row) for row in rows]


def revoke(name: str, *, actor: str) -> Operation:
    """Let a token open nothing any more; return its `ApiToken`; needs a transaction.

    Raises `UnknownToken`.
    """
    rows = yield SQL.call("revoke_token", name=check_name("name", name))
    if not rows:
        raise UnknownToken(
            f"no token {name!r} is in use: `orchestrator token list` shows which are"
        )
    yield from audit(actor, "token.revoke", name, {})
    return _token(rows[0])


def _scopes(scopes: Collection[str]) -> frozenset[Scope]:
    known = ", ".join(Scope)
    if not scopes:
        raise InvalidInput(f"a token needs a scope: {known}")
    for scope in scopes:
        if scope not in list(Scope):
            raise InvalidInput(f"scope is one of {known}, not {scope!r}")
    return frozenset(map(Scope, scopes))


def _token(row: tuple[object, ...]) -> ApiToken:
    id_, name, scopes, *rest = row
    return ApiToken(id_, name, tuple(map(Scope, scopes)), *rest)  # type: ignore[arg-type, call-overload]
