"""Statements of which some parts are not sent, because they have nothing to do this time.

Of what a statement about a single task costs the server, most is to set up the plan, node by node,
whether there will be a row for it or not. A part stands between `-- part NAME:` and `-- end part`;
parts do not lie within one another. The statement with all of its parts is a statement, too.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from typing import Any

from orchestrator.store.sql import Call, Statements

_PART = re.compile(rb"^-- part (\w+):\n(.*?)^-- end part\n", re.MULTILINE | re.DOTALL)


class Parted:
    """One named statement, in every choice of parts that may be sent; each text is made once."""

    def __init__(self, statements: Statements, name: str, *choices: tuple[str, ...]) -> None:
        whole = statements.call(name)
        self._name = name
        self._calls = {kept: _with_only(whole, kept) for kept in choices}

    def call(self, kept: tuple[str, ...], **params: Any) -> Call:
        """Return the statement with these parts, one of the choices, and its parameters."""
        return self._calls[kept]._replace(params=params)

    def texts(self) -> Mapping[str, bytes]:
        """Return all that may be sent, by a name of what it is."""
        named = {}
        for kept, call in self._calls.items():
            name = f"{self._name} with {', '.join(kept) or 'no part'}"
            named[name] = call.statement
            if call.older is not None:
                named[f"{name}, before 17"] = call.older
        return named


def _with_only(whole: Call, kept: Collection[str]) -> Call:
    def part(found: re.Match[bytes]) -> bytes:
        return found[2] if found[1].decode() in kept else b""

    older = None if whole.older is None else _PART.sub(part, whole.older)
    return Call(_PART.sub(part, whole.statement), {}, older)
