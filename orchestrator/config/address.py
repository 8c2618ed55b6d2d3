"""An address to listen on, as people write it."""

from __future__ import annotations

import re
from typing import NamedTuple

_ADDRESS = re.compile(
    r"(?:\[(?P<v6>[0-9A-Fa-f:.%\w]+)\]|(?P<name>[^\s:\[\]/@]+)):(?P<port>\d{1,5})", re.ASCII
)
_PORT_MAX = 65535


class Address(NamedTuple):
    """A host and a port; port 0 lets the system choose one."""

    host: str
    port: int


def parse_address(text: str) -> Address:
    """Return the address that `HOST:PORT` or `[IPV6]:PORT` names; raise ValueError."""
    match = _ADDRESS.fullmatch(text.strip())
    if match is None or int(match["port"]) > _PORT_MAX:
        raise ValueError("give HOST:PORT, such as 127.0.0.1:9090, 0.0.0.0:9090 or [::]:9090")
    return Address(match["v6"] or match["name"], int(match["port"]))
