"""A client of the HTTP API that costs next to nothing, so that it is the server that is measured.

One request at a time on each connection, HTTP/1.1, answers with a length.
"""

from __future__ import annotations

import asyncio
import json
from types import TracebackType
from typing import Any, Self
from urllib.parse import urlsplit


class Wire:
    """One connection that is kept."""

    def __init__(self, url: str, token: str) -> None:
        address = urlsplit(url)
        self._host, self._port = address.hostname or "", address.port or 80
        self._head = f"host: x\r\nauthorization: Bearer {token}\r\ncontent-type: application/json"

    async def __aenter__(self) -> Self:
        self._reader, self._writer = await asyncio.open_connection(self._host, self._port)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._writer.close()

    async def post(self, path: str, body: dict[str, Any]) -> Any:
        """Return the answer's JSON; raise `RuntimeError` for a status that is no success."""
        sent = json.dumps(body)
        request = f"POST {path} HTTP/1.1\r\n{self._head}\r\ncontent-length: {len(sent)}\r\n\r\n"
        self._writer.write((request + sent).encode())
        head = await self._reader.readuntil(b"\r\n\r\n")
        status, *lines = head.decode().lower().split("\r\n")
        fields = dict(line.split(": ", 1) for line in lines if line)
        answer = await self._reader.readexactly(int(fields["content-length"]))
        if status.split()[1][0] != "2":
            raise RuntimeError(answer.decode())
        return json.loads(answer)
