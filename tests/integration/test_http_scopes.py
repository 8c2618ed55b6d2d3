"""Every operation of the API's description: closed to strangers, open to the scopes it names.

The operations come from docs/openapi.json and the scopes from the table of docs/http.md: whoever
adds one without the other is told here.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import pytest

from orchestrator import Client
from tests.support.http import Served, problem, serving

DOCS = Path(__file__).parents[2] / "docs"
SCOPES = ("producer", "worker", "reader", "admin")
NOBODYS = 999_999_999
STRANGERS: tuple[dict[str, str], ...] = (
    {},
    {"Authorization": "Bearer"},
    {"Authorization": "Bearer " + "x" * 43},
    {"Authorization": "Bearer ' or '1'='1"},
    {"Authorization": "Bearer " + "a" * 5_000},
    {"Authorization": "Basic YWRtaW46YWRtaW4="},
    {"Cookie": "session=1"},
)
_ROW = re.compile(r"^\| `(GET|PUT|POST|DELETE|PATCH) (/v1/\S+)` \| ([a-z, ]+) \|", re.MULTILINE)


class Operation(NamedTuple):
    """One line of the description."""

    method: str
    path: str

    def send(self, client: httpx.Client, task: int = NOBODYS, **request: Any) -> httpx.Response:
        """Send it with its path filled in and a body that no operation would act on."""
        path = self.path.replace("{id}", str(task))
        path = re.sub(r"\{\w+\}", "acme", path)
        return client.request(self.method, path, **({"json": {"unknown": 1}} | request))


OPERATIONS = [
    Operation(method.upper(), path)
    for path, methods in json.loads((DOCS / "openapi.json").read_text())["paths"].items()
    for method in methods
]


def documented() -> dict[Operation, set[str]]:
    """Return who may do what, by the table of docs/http.md; an admin may do everything."""
    rows = _ROW.findall((DOCS / "http.md").read_text())
    return {
        Operation(method, path): {*scopes.split(", "), "admin"} for method, path, scopes in rows
    }


@pytest.fixture
def served(dsn: str) -> Iterator[Served]:
    with serving(dsn, rate_per_s=10_000) as served:
        yield served


def test_the_table_of_scopes_has_every_operation() -> None:
    table = documented()
    assert sorted(table) == sorted(OPERATIONS)
    assert set().union(*table.values()) == set(SCOPES)


def test_no_operation_is_open_to_strangers(served: Served) -> None:
    stranger = served.client()
    for operation in OPERATIONS:
        for headers in STRANGERS:
            answer = operation.send(stranger, headers=headers)
            problem(answer, 401, "unauthorized")
            assert answer.headers["www-authenticate"].lower().startswith("bearer")


def test_each_operation_is_open_to_its_scopes_and_to_no_other(served: Served) -> None:
    table = documented()
    for scope in SCOPES:
        client = served.client(scope)
        may = set()
        for operation in OPERATIONS:
            answer = operation.send(client)
            assert answer.status_code < 500, f"{operation}: {answer.text}"
            if answer.status_code == 403:
                problem(answer, 403, "forbidden")
            else:
                may.add(operation)
        assert may == {operation for operation, scopes in table.items() if scope in scopes}, scope


def test_another_orgs_task_answers_as_one_that_does_not_exist(served: Served, dsn: str) -> None:
    with Client(dsn) as client:
        theirs = client.enqueue("keep", {"secret": 1}, org="theirs", delay=3600).id
        mine = client.enqueue("keep", org="ours", delay=3600).id
    ours = served.client("producer", "reader", org="ours")
    operations = [operation for operation in OPERATIONS if "{id}" in operation.path]
    assert operations
    for operation in operations:
        answers = []
        for task in (theirs, NOBODYS):
            answer = operation.send(ours, task, json=None)
            problem(answer, 404, "task-not-found")
            answers.append(answer.text.replace(str(task), "ID"))
        assert answers[0] == answers[1]
        assert operation.send(ours, mine, json=None).status_code != 404
    with Client(dsn) as client:
        assert client.get(theirs).history == ()


def test_a_bound_token_sees_and_changes_nothing_that_all_orgs_share(served: Served) -> None:
    ours = served.client("producer", "reader", org="ours")
    for operation in OPERATIONS:
        if not operation.path.startswith("/v1/tasks") and operation.path != "/v1/orgs":
            assert operation.send(ours).status_code == 403, operation
    answer = ours.post("/v1/tasks", json={"name": "keep", "org": "theirs"})
    problem(answer, 403, "forbidden")
