"""The page on the model tells of what `make model` checks."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest

from scripts import model

ROOT = Path(__file__).parents[2]


def test_every_mistake_of_the_model_is_checked_and_told_of() -> None:
    planted = set(re.findall(r"\b(?:ifdef|ifndef|defined\()\s*([A-Z_]+)", model_text()))
    sizes = {"LEADERS", "WORKERS", "TASKS", "ATTEMPTS", "TERMS", "LOSSES", "CAP", "LIVENESS"}
    variants = {variant.flag for variant in model.VARIANTS}
    assert planted - sizes == variants
    page = (ROOT / "docs" / "model" / "README.md").read_text()
    assert set(re.findall(r"`([A-Z_]{5,})`:", page)) == variants
    assert page.count(" holds |") == len(model.CHECKS)


def model_text() -> str:
    return (ROOT / "docs" / "model" / "orchestrator.pml").read_text()


@pytest.mark.skipif(
    shutil.which("spin") is None or shutil.which("gcc") is None, reason="needs spin and gcc"
)
def test_an_ack_that_ignores_the_claim_breaks_the_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(model, "WORK", tmp_path)
    (mistake,) = [variant for variant in model.VARIANTS if variant.flag == "ACK_BY_ID"]
    result = model.search("broken", [*mistake.size.flags(), "-DACK_BY_ID"])
    assert result.broken is not None
    assert result.broken[0] == "what is accepted carries the current claim"
