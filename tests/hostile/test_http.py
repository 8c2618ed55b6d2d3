"""Hostile requests to the HTTP API: a problem that says what is wrong, and nothing stored."""

from __future__ import annotations

import json
from typing import Any
from urllib.parse import quote, urlencode

import httpx
import pytest

from tests.hostile.cases import BAD_JSON, CASES, GOOD_JSON, Case
from tests.hostile.living import SEEN, Living
from tests.support.hostile import STORED, XSS
from tests.support.http import Served
from tests.support.worker import until_ended

REFUSED = (400, 413, 422)
FIELDS = sorted({case.field for case in CASES if case.verb == "enqueue"})
# A key of JSON is always text; and written out, what is shared would fill the memory.
NOT_OF_JSON = {"number_key", "null_key", "shared_2_to_the_40"}
# No address is that long, and Python writes no number of so many digits.
TOO_LONG = {"a_million", "thousands_of_digits"}
# A limit of 0 asks for nothing, and one that is large for what there is; an org may be named 1.
FINE = {
    ("claim", "limit", "zero"), ("claim", "limit", "a_billion"), ("claim", "wait_s", "true"),
    ("tasks", "limit", "digits"), ("tasks", "queue", "number"), ("tasks", "org", "number"),
    ("tasks", "name", "number"),
}  # fmt: skip
VERBS = {
    "claim": ("post", "/v1/claim"),
    "heartbeat": ("post", "/v1/heartbeat"),
    "set_org": ("put", "/v1/orgs/acme"),
    "pause_org": ("post", "/v1/orgs/acme/pause"),
}


def refused(response: httpx.Response, *statuses: int, said: str = "") -> dict[str, Any]:
    """Check that an answer is a problem with one of these statuses; return its body."""
    found = f"{said} {response.status_code}: {response.text:.500}"
    assert response.status_code in statuses, found
    assert response.headers["content-type"] == "application/problem+json"
    body: dict[str, Any] = response.json()
    assert body["status"] == response.status_code
    assert body["detail"]
    assert len(response.content) < 10_000
    assert "Traceback" not in response.text
    return body


def send(
    client: httpx.Client, text: str | bytes, path: str = "/v1/tasks", method: str = "post"
) -> httpx.Response:
    """Send a body as it is, whatever it is."""
    content = text if isinstance(text, bytes) else text.encode("utf-8", "surrogatepass")
    headers = {"Content-Type": "application/json"}
    return client.request(method, path, content=content, headers=headers)


def written(case: Case, body: dict[str, Any]) -> str | None:
    """Return a body as JSON; None where the value has none; what is nearly JSON is `BAD_JSON`."""
    if case.name in NOT_OF_JSON:
        return None
    try:
        return json.dumps(body)
    except (TypeError, ValueError, RecursionError):
        return None


@pytest.mark.parametrize("field", FIELDS)
def test_each_value_of_a_task_is_refused_alone_and_in_a_batch(
    living: Living, producer: httpx.Client, field: str
) -> None:
    good = {"name": "keep", "org": "acme"}
    sent = 0
    with living.unharmed():
        for case in (case for case in CASES if (case.verb, case.field) == ("enqueue", field)):
            text = written(case, good | {field: case.value})
            if text is None:
                continue
            sent += 1
            refused(send(producer, text), *REFUSED)
            batch = f'{{"tasks": [{json.dumps(good)}, {text}]}}'
            refused(send(producer, batch, "/v1/tasks/batch"), *REFUSED)
            living.after_each()
    assert sent


@pytest.mark.parametrize("verb", VERBS)
def test_each_value_of_the_other_bodies_is_refused(
    living: Living, served: Served, verb: str
) -> None:
    client = served.client("worker", "admin")
    method, path = VERBS[verb]
    sent = 0
    with living.unharmed():
        for case in (case for case in CASES if case.verb == verb and case.field != "org"):
            body = {case.field: case.value}
            if case.field == "queue":
                body = {"queues": [case.value]}
            text = written(case, body)
            if text is None or (verb, case.field, case.name) in FINE:
                continue
            sent += 1
            refused(send(client, text, path, method), *REFUSED, said=str(case))
            living.after_each()
    assert sent


@pytest.mark.parametrize("field", sorted({case.field for case in CASES if case.verb == "tasks"}))
def test_each_value_of_a_query_is_refused(
    living: Living, producer: httpx.Client, field: str
) -> None:
    with living.unharmed():
        for case in (case for case in CASES if (case.verb, case.field) == ("tasks", field)):
            if not isinstance(case.value, str | int | float) or case.name in TOO_LONG:
                continue
            if ("tasks", field, case.name) in FINE or case.name == "none_like":
                continue
            value = str(case.value).encode("utf-8", "surrogatepass")
            response = producer.get(f"/v1/tasks?{urlencode({field: value})}")
            refused(response, *REFUSED, 404, said=str(case))


@pytest.mark.parametrize("name", BAD_JSON)
def test_what_is_no_json_is_refused(living: Living, producer: httpx.Client, name: str) -> None:
    with living.unharmed():
        bare = BAD_JSON[name]
        refused(send(producer, bare), *REFUSED)
        inside = '{"name": "keep", "org": "acme", "payload": ' + bare + "}"
        refused(send(producer, inside), *REFUSED)


@pytest.mark.parametrize(
    "body",
    [
        '{"name": "keep", "org": "acme", "org": "other"}',
        '{"name": "keep", "org": "acme", "payload": {"a": 1, "a": 2}}',
        '{"name": "keep", "org": "acme", "__proto__": {}}',
        '{"name": "keep", "org": "acme", "id": 1}',
        '[{"name": "keep", "org": "acme"}]',
        "null",
        '"text"',
        b"\xff\xfe{}",
        b'{"name": "\xff"}',
        b"\x1f\x8b\x08\x00garbage",
        b"x" * 5_000_000,
    ],
    ids=[
        "org_twice", "key_twice", "proto", "id", "list", "null", "text", "utf16", "latin", "gzip",
        "five_megabytes",
    ],
)  # fmt: skip
def test_bodies_that_two_readers_would_read_apart_are_refused(
    living: Living, producer: httpx.Client, body: str | bytes
) -> None:
    with living.unharmed():
        refused(send(producer, body), *REFUSED)


@pytest.mark.parametrize("name", GOOD_JSON)
def test_good_json_comes_back_as_it_means(
    living: Living, producer: httpx.Client, name: str
) -> None:
    text, meant = GOOD_JSON[name]
    body = '{"name": "keep", "org": "acme", "payload": ' + text + "}"
    response = send(producer, body)
    assert response.status_code == 201, response.text
    task = response.json()["id"]
    until_ended(living.stage, [task])
    assert SEEN.pop(task) == ("acme", meant)
    assert producer.get(f"/v1/tasks/{task}").json()["payload"] == meant


def test_every_text_of_the_corpus_is_stored_as_it_is_and_answered_as_json(
    living: Living, producer: httpx.Client
) -> None:
    ids = []
    for text in STORED.values():
        sent = {"name": "keep", "org": text, "payload": {text: text}, "idempotency_key": text}
        response = producer.post("/v1/tasks", json=sent)
        assert response.status_code == 201, response.text
        ids.append(response.json()["id"])
    until_ended(living.stage, ids)
    for text, task in zip(STORED.values(), ids, strict=True):
        response = producer.get(f"/v1/tasks/{task}")
        assert response.headers["content-type"] == "application/json"
        assert response.json()["org"] == text
        assert SEEN.pop(task) == (text, {text: text})


def test_every_name_of_the_corpus_can_stand_in_a_path(served: Served) -> None:
    admin = served.client("admin")
    for text in STORED.values():
        path = f"/v1/orgs/{quote(text, safe='')}"
        for answer in (admin.put(path, json={"weight": 2}), admin.get(path)):
            assert answer.status_code == 200, f"{text!r}: {answer.text}"
            assert answer.json()["org"] == text
        for verb in ("pause", "resume"):
            assert admin.post(f"{path}/{verb}").json()["org"] == text


@pytest.mark.parametrize("name", ["%ED%A0%80", "%ff", "a%C3", "%00"])
def test_paths_that_are_no_text_name_no_org(living: Living, served: Served, name: str) -> None:
    admin = served.client("admin")
    with living.unharmed():
        refused(admin.put(f"/v1/orgs/{name}", json={"weight": 2}), *REFUSED)


@pytest.mark.parametrize(
    "path",
    [
        "/v1/tasks/0", "/v1/tasks/-1", "/v1/tasks/9223372036854775808", "/v1/tasks/1e3",
        "/v1/tasks/" + "9" * 5_000, "/v1/tasks/1%00", "/v1/tasks/%F0%9F%98%80", "/v1/tasks/\uff11",
        "/v1/tasks/true", "/v1/tasks/1;drop table", "/v1/tasks/..%2f..%2fetc%2fpasswd",
        *(f"/v1/tasks/{httpx.QueryParams({'x': text})}"[:2_000] for text in list(XSS.values())[:4]),
    ],
    ids=lambda path: path[10:40],
)  # fmt: skip
def test_paths_that_name_no_task_are_refused(producer: httpx.Client, path: str) -> None:
    refused(producer.get(path), 404, 422)


def test_no_log_has_a_payload_a_header_or_a_token(served: Served, living: Living) -> None:
    secret = "canary-of-a-secret"
    token = served.token("producer", "reader")
    client = served.client()
    client.headers["Authorization"] = f"Bearer {token}"
    for body in (
        {"name": "keep", "org": "acme", "payload": {secret: secret}, "headers": {"k": secret}},
        {"name": "raise by key", "org": "acme", "payload": secret, "max_attempts": 1},
        {"name": "keep", "org": "acme", "payload": secret, "priority": 11},
        {"name": "keep", "org": "acme", "payload": secret, "idempotency_key": "k", "queue": "none"},
    ):
        response = client.post("/v1/tasks", json=body)
        if response.status_code == 201 and body["name"] == "keep":
            until_ended(living.stage, [response.json()["id"]])
    client.get("/v1/tasks/1", headers={"Authorization": f"Bearer {secret}"})
    said = living.log.getvalue()
    assert "http.request" in said
    assert secret not in said
    assert token not in said
