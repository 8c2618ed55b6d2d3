"""A producer in a process of its own: it writes down what it asks, and what it is told.

An outcome that is unknown is settled by asking again where a key makes that safe, and left alone
where not; then nobody knows, and the task may exist or not.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import psycopg

from orchestrator.client import Client
from orchestrator.errors import DatabaseUnavailable
from tests.faults.chaos import journal

_DEADLINE_S = 12.0


def main(dsn: str, plan: str, path: str, begin_at: str) -> None:
    """Make the calls of a plan (a file), each at its time."""
    calls: list[dict[str, Any]] = json.loads(Path(plan).read_text())
    begun = float(begin_at)
    with Client(dsn) as client:
        for number, call in enumerate(calls):
            time.sleep(max(0.0, begun + call["at_s"] - time.time()))
            _make(client, dsn, path, number, call)
    journal.write(path, "finished")


def _make(client: Client, dsn: str, path: str, number: int, call: Mapping[str, Any]) -> None:
    """Make one call until its outcome is known, as far as that is safe."""
    tasks: Sequence[dict[str, Any]] = call["tasks"]
    tokens = [[task["payload"]["token"], task["org"]] for task in tasks]
    keyed = all("idempotency_key" in task for task in tasks) and call["how"] != "transaction"
    way: Callable[[], list[Any]] = {
        "one": lambda: [client.enqueue(**tasks[0])],
        "many": lambda: client.enqueue_many(tasks),
        "transaction": lambda: _with_effect(client, dsn, tasks, f"{path}:{number}"),
    }[call["how"]]
    give_up_at = time.monotonic() + _DEADLINE_S
    doubtful = False
    while True:
        journal.write(path, "ask", call=number, tokens=tokens, effect=_effect(call, path, number))
        try:
            stored = way()
        except (DatabaseUnavailable, psycopg.Error) as error:
            unknown = _is_unknown(error)
            doubtful = doubtful or unknown
            event = "unknown" if unknown else "refused"
            journal.write(path, event, call=number, tokens=tokens, error=str(error))
            if (unknown and not keyed) or time.monotonic() > give_up_at:
                return
            time.sleep(0.05)
            continue
        answers = [[one.id, one.created] for one in stored]
        journal.write(path, "ack", call=number, tokens=tokens, answers=answers, resolved=doubtful)
        return


def _effect(call: Mapping[str, Any], path: str, number: int) -> str | None:
    return f"{path}:{number}" if call["how"] == "transaction" else None


def _with_effect(
    client: Client, dsn: str, tasks: Sequence[dict[str, Any]], effect: str
) -> list[Any]:
    """Enqueue in a transaction of our own, beside something else that is written there."""
    connection = psycopg.connect(dsn, connect_timeout=2)
    try:
        stored = [client.enqueue(**task, connection=connection) for task in tasks]
        connection.execute("insert into effect (name) values (%s)", [effect])
    except BaseException:
        connection.close()
        raise
    try:
        connection.commit()
    except psycopg.Error as error:
        raise DatabaseUnavailable("the commit: what happened is unknown") from error
    finally:
        connection.close()
    return stored


def _is_unknown(error: Exception) -> bool:
    return "what happened is unknown" in str(error)


if __name__ == "__main__":
    main(*sys.argv[1:])
