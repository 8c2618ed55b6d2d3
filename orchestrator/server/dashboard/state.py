"""What the dashboard of a process keeps, and who a request is from."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated

from fastapi import Depends, Request
from starlette.datastructures import FormData

from orchestrator.server.auth import Principal
from orchestrator.server.dashboard.feed import Feeds
from orchestrator.server.dashboard.pages import LoginNeeded
from orchestrator.server.dashboard.session import (
    Seals,
    Session,
    Ticket,
    cookie_name,
    is_same_origin,
)
from orchestrator.server.dashboard.whatif import Jobs
from orchestrator.server.problems import forbidden
from orchestrator.server.services import services
from orchestrator.store.tokens import Scope

_AGAIN = "your session is over: log in again"


@dataclass(frozen=True, slots=True)
class Dashboard:
    """The key, the feeds and the simulations of this process."""

    seals: Seals = field(default_factory=Seals)
    feeds: Feeds = field(default_factory=Feeds)
    jobs: Jobs = field(default_factory=Jobs)

    def drain(self) -> None:
        """Let go of everybody who watches, and of what is simulated: the process ends."""
        self.feeds.drain()
        self.jobs.drain()


def dashboard(request: Request) -> Dashboard:
    """Return the dashboard of the app that serves this request."""
    found: Dashboard = request.app.state.dashboard
    return found


async def principal_of(request: Request, ticket: Ticket) -> Principal | None:
    """Return whom the token of a session stands for now, None if it opens nothing any more."""
    holder = await services(request).tokens.holder(ticket.digest)
    if holder is None:
        return None
    principal = Principal(holder.name, holder.scopes, holder.org)
    return principal if principal.org is None and principal.may(Scope.READER) else None


async def find_session(request: Request) -> Session | None:
    """Return the session of a request, None without one."""
    seals = dashboard(request).seals
    ticket = seals.ticket(request.cookies.get(cookie_name(request)))
    principal = None if ticket is None else await principal_of(request, ticket)
    if ticket is None or principal is None:
        return None
    return Session(principal, ticket, seals.form(ticket.nonce))


async def _looker(request: Request) -> Session:
    session = await find_session(request)
    if session is None:
        raise LoginNeeded(_AGAIN if request.cookies.get(cookie_name(request)) else "")
    return session


@dataclass(frozen=True, slots=True)
class Sent:
    """A form of ours that a session sent."""

    session: Session
    form: FormData

    def text(self, name: str) -> str:
        """Return a field as text, empty where it is missing."""
        value = self.form.get(name)
        return value.strip() if isinstance(value, str) else ""


async def _sender(request: Request) -> Sent:
    """Return the form; raise where another site sent it, or it was not made for this session."""
    session = await _looker(request)
    form = await request.form(max_files=0, max_fields=50)
    if not is_same_origin(request):
        raise forbidden("another site sent this form: nothing was changed")
    if not dashboard(request).seals.is_form(form.get("csrf"), session.ticket.nonce):
        raise forbidden("this form is too old or not ours: open the page again; nothing changed")
    return Sent(session, form)


async def _changer(sent: Annotated[Sent, Depends(_sender)]) -> Sent:
    if not sent.session.is_admin:
        raise forbidden("your token may look, not change: log in with an admin token")
    return sent


# Everybody who is logged in may look, and send what changes nothing; an admin may change.
Looker = Annotated[Session, Depends(_looker)]
Sender = Annotated[Sent, Depends(_sender)]
Changer = Annotated[Sent, Depends(_changer)]
