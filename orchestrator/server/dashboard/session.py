"""Who looks: a cookie that a token opened, and the proof that a form comes from a page of ours.

The cookie holds the SHA-256 of the token, until when it opens anything, and a random number; all of
it is signed with a key of this process, so that it can neither be made nor changed, and gives the
token away to nobody. What the token may do is looked up at every request, as for the API: a revoked
one opens nothing after seconds. The session ends with the process that began it.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
import time
from base64 import urlsafe_b64decode, urlsafe_b64encode
from binascii import Error as Base64Error
from dataclasses import dataclass
from typing import NamedTuple

from starlette.requests import Request

from orchestrator.server.auth import Principal
from orchestrator.store.tokens import Scope

COOKIE = "orchestrator_session"
# Where the browser keeps it for this host alone, over TLS alone.
SECURE_COOKIE = "__Host-orchestrator_session"
SESSION_S = 12 * 3600
_NONCE_BYTES = 16
_DIGEST_BYTES = 32
_MAC_BYTES = 32
_COOKIE_MAX_CHARS = 400


class Ticket(NamedTuple):
    """What a cookie holds."""

    digest: bytes
    expires_at: int
    nonce: bytes


@dataclass(frozen=True, slots=True)
class Session:
    """Somebody who has logged in."""

    principal: Principal
    ticket: Ticket
    csrf: str

    @property
    def is_admin(self) -> bool:
        """Tell whether what is shown may be changed."""
        return self.principal.may(Scope.ADMIN)


class Seals:
    """Signs cookies and forms with a key that never leaves the process."""

    def __init__(self) -> None:
        self._key = secrets.token_bytes(32)

    def cookie(self, digest: bytes, now: float | None = None) -> tuple[str, Ticket]:
        """Return a new cookie for the token with this digest, and what it holds."""
        expires_at = int(time.time() if now is None else now) + SESSION_S
        ticket = Ticket(digest, expires_at, secrets.token_bytes(_NONCE_BYTES))
        body = digest + expires_at.to_bytes(8, "big") + ticket.nonce
        return urlsafe_b64encode(body + self._mac(b"session", body)).decode(), ticket

    def ticket(self, cookie: str | None, now: float | None = None) -> Ticket | None:
        """Return what a cookie of ours holds, None if it is forged or its time is over."""
        if not cookie or len(cookie) > _COOKIE_MAX_CHARS:
            return None
        try:
            raw = urlsafe_b64decode(cookie.encode("ascii"))
        except (ValueError, Base64Error):
            return None
        body, mac = raw[:-_MAC_BYTES], raw[-_MAC_BYTES:]
        if len(body) != _DIGEST_BYTES + 8 + _NONCE_BYTES:
            return None
        if not hmac.compare_digest(mac, self._mac(b"session", body)):
            return None
        expires_at = int.from_bytes(body[_DIGEST_BYTES : _DIGEST_BYTES + 8], "big")
        if expires_at <= (time.time() if now is None else now):
            return None
        return Ticket(body[:_DIGEST_BYTES], expires_at, body[_DIGEST_BYTES + 8 :])

    def form(self, nonce: bytes) -> str:
        """Return the proof that a form was made for the session with this number."""
        return urlsafe_b64encode(self._mac(b"form", nonce)).decode()

    def is_form(self, proof: object, nonce: bytes) -> bool:
        """Tell whether a form carries the proof for this session."""
        return isinstance(proof, str) and hmac.compare_digest(
            proof.encode("utf-8", "surrogatepass"), self.form(nonce).encode()
        )

    def _mac(self, purpose: bytes, body: bytes) -> bytes:
        return hmac.digest(self._key, purpose + b"\0" + body, hashlib.sha256)


def is_secure(request: Request) -> bool:
    """Tell whether the browser came over TLS, as the proxy in front says it did.

    Anybody may say so: who does gets a cookie that is kept more strictly, and nothing else.
    """
    return "https" in (request.url.scheme, request.headers.get("x-forwarded-proto"))


def cookie_name(request: Request) -> str:
    """Return the name of the session's cookie; over TLS one that no other host can set."""
    return SECURE_COOKIE if is_secure(request) else COOKIE


def is_same_origin(request: Request) -> bool:
    """Tell whether a browser says that this request comes from a page of this host.

    `Sec-Fetch-Site` cannot be set by a page; `Origin` is for browsers that do not send it. A
    request with neither comes from no browser, and needs the form's proof all the same.
    """
    site = request.headers.get("sec-fetch-site")
    if site is not None and site != "same-origin":
        return False
    origin = request.headers.get("origin")
    return origin is None or origin.partition("://")[2] == request.headers.get("host")
