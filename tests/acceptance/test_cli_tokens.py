"""`token`: made, listed, revoked; the secret is shown once."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.acceptance.cli import Shell


@pytest.fixture
def shell(dsn: str, tmp_path: Path) -> Shell:
    return Shell(dsn, tmp_path)


def test_a_token_is_created_listed_and_revoked(shell: Shell) -> None:
    made = shell("token", "create", "shop", "--scope", "producer", "--expires", "90d")
    (secret,) = made.out.splitlines()
    assert secret.startswith("orch_")
    assert len(secret) >= len("orch_") + 43
    assert "shop: producer until 2" in made.err
    bound = shell(
        *("token", "create", "acme", "--scope", "reader", "--scope", "producer"),
        *("--org", "acme", "--json"),
    ).json
    assert (bound["token"]["scopes"], bound["token"]["org"]) == (["producer", "reader"], "acme")
    listed = shell("token", "list", "--json")
    assert secret not in listed.out
    assert [token["name"] for token in listed.json["tokens"]] == ["shop", "acme"]
    taken = shell("token", "create", "shop", "--scope", "reader", code=1)
    assert "a token 'shop' is in use" in taken.err
    revoked = shell("token", "revoke", "shop", "--json").json["token"]
    assert revoked["revoked_at"]
    assert "no token 'shop' is in use" in shell("token", "revoke", "shop", code=1).err
    # The name is free again.
    shell("token", "create", "shop", "--scope", "reader")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "a token needs a scope: producer, worker, admin, reader"),
        (["--scope", "king"], "scope is one of producer, worker, admin, reader, not 'king'"),
        (["--scope", "worker", "--org", "acme"], "a token bound to an org can be producer or read"),
        (["--scope", "admin", "--org", "acme"], "a token bound to an org can be producer or read"),
        (["--scope", "reader", "--expires", "0s"], "after more than 0 seconds"),
        (["--scope", "reader", "--expires", "soon"], "--expires 'soon': "),
    ],
)
def test_what_makes_no_sense_is_refused(shell: Shell, arguments: list[str], words: str) -> None:
    refused = shell("token", "create", "t", *arguments, code=2)
    assert words in refused.err
    assert len(refused.err.splitlines()) == 1
    assert shell("token", "list", "--json").json["tokens"] == []


def test_backlog_max_is_set_and_shown(shell: Shell) -> None:
    shell("org", "set", "acme", "--backlog-max", "7")
    assert shell("org", "show", "acme", "--json").json["org"]["backlog_max"] == 7
    assert "backlog_max" in shell("org", "list").out
    shell("org", "set", "acme", "--backlog-max", "none")
    assert shell("org", "show", "acme", "--json").json["org"]["backlog_max"] is None
    tiers = shell("tier", "set", "free", "--backlog-max", "1000", "--json").json["tiers"]
    assert tiers[0]["backlog_max"] == 1000
