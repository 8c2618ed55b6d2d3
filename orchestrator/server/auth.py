"""Who asks: a bearer token, what it may do, and the org it is bound to.

A token is looked up by the SHA-256 of its secret, and what was found is trusted for `TRUST_S`: a
revoked or expired one opens nothing after that. So is a miss, in a store of its own that strangers
may fill without driving out who is known; of secrets that were never known, only so many a second
are looked up. The org of a bound token comes from the token: a body that names another is refused,
and another org's task is one that does not exist.
"""

from __future__ import annotations

import asyncio
import hmac
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Annotated

from fastapi import Depends, Request, Security
from fastapi.security import HTTPBearer

from orchestrator.errors import TaskNotFound
from orchestrator.server.problems import Problem, forbidden, rate_limited, unauthorized
from orchestrator.server.rates import Rates
from orchestrator.store.tokens import Holder, Scope, digest

# Revocation is promised within 5 s; the rest is for a slow answer of the database.
TRUST_S = 3.0
# Each is a statement: whoever makes secrets up shall not keep the database busy with them.
STRANGERS_PER_S = 200
# Tokens kept in mind, known and unknown ones each.
_KEPT = 10_000
_SECRET_MAX_CHARS = 200

_NO_TOKEN = "send a token as `Authorization: Bearer TOKEN`: `orchestrator token create` makes one"
_BAD_TOKEN = "this token is unknown, expired or revoked"  # says so, is none


@dataclass(frozen=True, slots=True)
class Principal:
    """Whom a request comes from."""

    name: str
    scopes: frozenset[Scope]
    org: str | None = None

    @property
    def actor(self) -> str:
        """Return how the audit log names it."""
        return f"token {self.name}"

    def may(self, *scopes: Scope) -> bool:
        """Tell whether it has one of these scopes; an admin has all."""
        return Scope.ADMIN in self.scopes or not self.scopes.isdisjoint(scopes)

    def acting_for(self, org: str | None) -> str:
        """Return the org of what it sends; raise a `Problem` where that is another's, or none."""
        if self.org is None:
            if org is None:
                raise Problem(422, "invalid-input", "org is missing: this token is bound to none")
            return org
        if org not in (None, self.org):
            raise forbidden("this token is bound to another org: leave org out")
        return self.org

    def seeing(self, org: str | None) -> str | None:
        """Return the org whose things it asks for, None for all; raise for another's."""
        return org if self.org is None else self.acting_for(org)

    def check_unbound(self) -> None:
        """Raise a 403 `Problem` where what all orgs share is not for this token."""
        if self.org is not None:
            raise forbidden(
                "this token is bound to an org: this is for tokens that see all of them"
            )

    def check_sees_task(self, task_id: int, org: str) -> None:
        """Raise `TaskNotFound`, as for a task that does not exist, where the task is another's."""
        if self.org not in (None, org):
            raise TaskNotFound(f"no task {task_id}")


class Tokens:
    """Finds the principal of a secret."""

    def __init__(
        self,
        look_up: Callable[[bytes], Awaitable[Holder | None]],
        clock: Callable[[], float] = time.monotonic,
        strangers_per_s: int = STRANGERS_PER_S,
    ) -> None:
        self._look_up = look_up
        self._clock = clock
        self._strangers = Rates(strangers_per_s, clock)
        self._known: OrderedDict[bytes, tuple[float, Holder | None]] = OrderedDict()
        self._unknown: OrderedDict[bytes, tuple[float, Holder | None]] = OrderedDict()
        self._asking: dict[bytes, asyncio.Future[Holder | None]] = {}

    async def principal(self, authorization: str | None) -> Principal:
        """Return whom an `Authorization` header stands for; raise a 401 `Problem`."""
        kind, _, secret = (authorization or "").partition(" ")
        secret = secret.strip()
        if kind.lower() != "bearer" or not secret:
            raise unauthorized(_NO_TOKEN)
        found = None
        if len(secret) <= _SECRET_MAX_CHARS:
            found = await self.holder(digest(secret))
        if found is None:
            raise unauthorized(_BAD_TOKEN)
        return Principal(found.name, found.scopes, found.org)

    async def holder(self, key: bytes) -> Holder | None:
        """Return the `Holder` of the secret with this SHA-256, None where it opens nothing.

        Raises a 429 `Problem` where too many that were never known are asked for.
        """
        now = self._clock()
        for kept in (self._known, self._unknown):
            if key in kept and now - kept[key][0] < TRUST_S:
                return kept[key][1]
        asking = self._asking.get(key)
        if asking is None:
            if key not in self._known and (wait_s := self._strangers.wait_s("")) > 0:
                raise rate_limited("too many requests with tokens that are new here", wait_s)
            asking = self._asking[key] = asyncio.ensure_future(self._ask(key, now))
            asking.add_done_callback(lambda _: self._asking.pop(key, None))
        # Shielded: who hangs up must not take the answer from the others that wait for it.
        return await asyncio.shield(asking)

    async def _ask(self, key: bytes, now: float) -> Holder | None:
        found = await self._look_up(key)
        if found is not None and not hmac.compare_digest(found.digest, key):
            found = None
        kept, other = (
            (self._unknown, self._known) if found is None else (self._known, self._unknown)
        )
        other.pop(key, None)
        # The answer is as old as the question.
        kept[key] = (now, found)
        kept.move_to_end(key)
        if len(kept) > _KEPT:
            kept.popitem(last=False)
        return found


_bearer = HTTPBearer(auto_error=False, description="A token of `orchestrator token create`.")


def require(*scopes: Scope) -> Callable[..., Awaitable[Principal]]:
    """Return the dependency on a principal with one of these scopes; it raises a 401 or 403."""

    async def principal(
        request: Request, _token: Annotated[object, Security(_bearer)]
    ) -> Principal:
        # Found before the body was read, so that strangers cannot send any.
        found = request.scope.get("state", {}).get("principal")
        if not isinstance(found, Principal):
            raise unauthorized(_NO_TOKEN)
        if not found.may(*scopes):
            needed = " or ".join(scopes)
            raise forbidden(f"this takes a token with the scope {needed} (or admin)")
        return found

    return principal


Producer = Annotated[Principal, Depends(require(Scope.PRODUCER))]
WorkerPrincipal = Annotated[Principal, Depends(require(Scope.WORKER))]
# Who produces tasks may see what became of them.
Viewer = Annotated[Principal, Depends(require(Scope.READER, Scope.PRODUCER))]
Reader = Annotated[Principal, Depends(require(Scope.READER))]
Admin = Annotated[Principal, Depends(require(Scope.ADMIN))]
