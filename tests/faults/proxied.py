"""The server behind a network that can be made bad."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import parse_qs, urlsplit

from tests.faults.chaos.proxy import Proxy
from tests.support.stage import Stage


@contextmanager
def proxied(stage: Stage) -> Iterator[tuple[Proxy, str]]:
    """Yield a proxy before the server, and the DSN through it."""
    url = urlsplit(stage.dsn)
    proxy = Proxy(f"{parse_qs(url.query)['host'][0]}/.s.PGSQL.5432", ["all"])
    options = "sslmode=disable&gssencmode=disable"
    try:
        yield proxy, f"postgresql://postgres@127.0.0.1:{proxy.ports['all']}{url.path}?{options}"
    finally:
        proxy.close()
