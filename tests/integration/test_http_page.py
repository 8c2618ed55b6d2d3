"""The commands of docs/http.md work as they are written, one after the other."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path
from typing import Any, NamedTuple

import httpx

from orchestrator import Client
from tests.support.http import serving
from tests.support.stage import Stage

PAGE = Path(__file__).parents[2] / "docs" / "http.md"
_BLOCK = re.compile(r"```sh\n(.*?)```", re.DOTALL)
_ID = "4711"  # the task of the page


class Curl(NamedTuple):
    """What a command asks."""

    method: str
    url: str
    headers: dict[str, str]
    body: str | None


def commands() -> list[list[str]]:
    """Return the words of each curl command of the page."""
    text = "\n".join(_BLOCK.findall(PAGE.read_text())).replace("\\\n", " ")
    return [shlex.split(line) for line in text.splitlines() if line.startswith("curl ")]


def parsed(words: list[str]) -> Curl:
    """Return what `curl` would make of these words; others than these options are a mistake."""
    method, url, headers, body = None, "", {}, None
    rest = iter(words[1:])
    for word in rest:
        if word == "-X":
            method = next(rest)
        elif word == "-H":
            name, _, value = next(rest).partition(": ")
            headers[name] = value
        elif word == "-d":
            body = next(rest)
        elif word != "-s":
            assert not word.startswith("-"), word
            url = word
    return Curl(method or ("GET" if body is None else "POST"), url, headers, body)


def test_every_command_of_the_page_does_what_it_says(stage: Stage, client: Client) -> None:
    with serving(stage.dsn) as served:
        scopes = {"$TOKEN": "producer", "$WORKER": "worker", "$ADMIN": "admin"}
        secrets = {name: served.token(scope) for name, scope in scopes.items()}
        asked, task = _follow(stage, served.url, secrets)
    assert {"tasks", "claim", "ack", f"tasks/{_ID}/explain", "queues/default/pause"} <= asked
    # Acked, and then retried.
    found = client.get(task)
    assert found.place == "staged"
    assert [each.status for each in found.history] == ["succeeded"]


def _follow(stage: Stage, url: str, secrets: dict[str, str]) -> tuple[set[str], int]:
    """Do what the page says; return what was asked, and the task of it."""
    leader = stage.leader()
    task: int | None = None
    claims: list[dict[str, Any]] = []
    asked = []
    for words in commands():
        curl = parsed(words)
        here = curl.url.replace("http://127.0.0.1:8080", url).replace(f"/{_ID}", f"/{task}")
        headers = {name: _filled(value, secrets) for name, value in curl.headers.items()}
        body = curl.body
        if here.endswith("/v1/ack"):
            # The page shows which fields are enough.
            (shown,) = json.loads(body or "")["claims"]
            body = json.dumps({"claims": [{name: claims[0][name] for name in shown}]})
        answer = httpx.request(curl.method, here, headers=headers, content=body, timeout=60)
        assert answer.is_success, f"{shlex.join(words)}: {answer.status_code} {answer.text}"
        asked.append(curl.url.partition("/v1/")[2])
        if asked[-1] == "tasks":
            task = answer.json()["id"]
            leader.drain_ticks()
        elif asked[-1] == "claim":
            claims = answer.json()["claims"]
            assert [each["id"] for each in claims] == [task]
    assert task is not None
    return set(asked), task


def _filled(value: str, tokens: dict[str, str]) -> str:
    for name, secret in tokens.items():
        value = value.replace(name, secret)
    return value
