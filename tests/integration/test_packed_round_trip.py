"""Columns packed at once arrive at a server as they were, in any encoding it asks for."""

import random
from typing import Any

import psycopg
import pytest

from orchestrator.store.packed import Int8s, Texts

INTEGERS: list[list[int]] = [
    [],
    [0],
    [-1, 1, 127, 128, 255, 256, -(2**31), 2**31, -(2**63), 2**63 - 1],
    [random.Random(n).randrange(-(2**63), 2**63) for n in range(5_000)],
]
TEXTS: list[list[str | None]] = [
    [],
    [""],
    [None],
    [None, "", "null", "NULL", '"', "\\", "{}", ",", "é", "\N{PILE OF POO}", "\x01", "a" * 70_000],
    [None if n % 3 else f"org {n}" for n in range(5_000)],
]


@pytest.mark.parametrize("values", INTEGERS, ids=len)
@pytest.mark.parametrize("binary", [True, False])
def test_integers_arrive(dsn: str, values: list[int], binary: bool) -> None:
    assert echoed(dsn, "select %s::bigint[]", Int8s(values), binary=binary) == values


@pytest.mark.parametrize("values", TEXTS, ids=len)
@pytest.mark.parametrize("binary", [True, False])
def test_texts_arrive(dsn: str, values: list[str | None], binary: bool) -> None:
    assert echoed(dsn, "select %s::text[]", Texts(values), binary=binary) == values


def test_columns_of_different_types_make_rows(dsn: str) -> None:
    with psycopg.connect(dsn) as connection:
        rows = connection.execute(
            "select * from unnest(%s::bigint[], %s::text[])", [Int8s([1, 2]), Texts(["a", None])]
        ).fetchall()
    assert rows == [(1, "a"), (2, None)]


def test_texts_arrive_over_a_connection_of_another_encoding(dsn: str) -> None:
    with psycopg.connect(dsn, client_encoding="latin1") as connection:
        [(texts,)] = connection.execute("select %s::text[]", [Texts(["é", None])]).fetchall()
    assert texts == ["é", None]


def echoed(dsn: str, query: str, value: Any, *, binary: bool) -> Any:
    with psycopg.connect(dsn) as connection:
        [(answer,)] = connection.execute(query.encode(), [value], binary=binary).fetchall()
    return answer
