"""The dashboard: pages for the people who watch the system and help it.

Rendered here, complete without JavaScript; with it, what changes is replaced as it changes. Every
page and stream takes a session, which a token opens; nothing changes but by a POST that carries a
proof that a page of ours sent it, and every change names its token in the audit log.

    session    who looks: the signed cookie, and the proof that a form is ours
    pages      how a page answers: templates, headers, errors as pages
    words      how numbers, spans of time and names are written
    chart      curves of what came and went, as SVG
    feed       one read of the database for all who look at the same queue
    live       screens as streams of what changed
    screens    Now, Orgs, Queues, Leader
    org        one org, and what may be changed of it
    task       one task: its history, why it waits, cancel and retry
    whatif     Simulate: a change of the configuration over a stretch of the past
    login      the door
"""

from __future__ import annotations

from orchestrator.server.dashboard.mounting import mount

__all__ = ["mount"]
