"""The client: enqueue, claim, finish and steer tasks from Python.

    with Client() as client:
        client.enqueue("resize", {"image": 7}, org="acme")

`Client` blocks and `AsyncClient` awaits; each verb is written once, in `producing`, `claiming`,
`operating` or `explaining`, and says there what it raises. `steps` tells how that works.
"""

from typing import TYPE_CHECKING, Any

from orchestrator.client.sync import Client

if TYPE_CHECKING:
    from orchestrator.client.aio import AsyncClient

__all__ = ["AsyncClient", "Client"]


def __getattr__(name: str) -> Any:
    # SQLAlchemy's asynchronous half is slow to import, and blocking programs never need it.
    if name == "AsyncClient":
        from orchestrator.client.aio import AsyncClient

        return AsyncClient
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
