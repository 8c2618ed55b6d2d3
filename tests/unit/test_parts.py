"""Which parts of a statement are sent."""

from __future__ import annotations

import pytest

from orchestrator.store import lean, queue
from orchestrator.store.parts import Parted

PARTED = [queue.CLAIM, queue.FINISH, lean.TICK]


@pytest.mark.parametrize("parted", PARTED)
def test_no_text_that_is_sent_shows_where_parts_are(parted: Parted) -> None:
    texts = list(parted.texts().values())
    assert len(set(texts)) == len(texts)
    for text in texts:
        assert b"-- part " not in text
        assert b"-- end" not in text


def test_a_claim_leases_with_its_records_and_without() -> None:
    for kept, reads in (("records",), True), (("apart",), False):
        call = queue.CLAIM.call(kept, queue=1)
        assert call.params == {"queue": 1}
        assert call.statement.count(b"insert into orchestrator.lease") == 1
        assert (b"orchestrator.task where" in call.statement) is reads


def test_a_choice_that_was_not_announced_is_not_sent() -> None:
    with pytest.raises(KeyError):
        queue.CLAIM.call(("records", "apart"))
