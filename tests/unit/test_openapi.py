"""The committed description of the HTTP API is that of the code."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from orchestrator.server import openapi

ROOT = Path(__file__).parents[2]
DOCUMENT = ROOT / "docs" / "openapi.json"


def operations() -> dict[str, dict[str, Any]]:
    paths = json.loads(DOCUMENT.read_text())["paths"]
    return {
        f"{method.upper()} {path}": operation
        for path, methods in paths.items()
        for method, operation in methods.items()
    }


def test_the_committed_document_is_that_of_the_code() -> None:
    assert DOCUMENT.read_text() == openapi.text(), "run `make openapi`"


def test_every_operation_has_an_id_words_security_and_problems() -> None:
    found = operations()
    ids = [operation["operationId"] for operation in found.values()]
    assert len(set(ids)) == len(ids)
    for path, operation in found.items():
        assert re.fullmatch(r"[a-z][A-Za-z]*", operation["operationId"]), path
        assert operation["description"], path
        assert operation["security"] == [{"HTTPBearer": []}], path
        for status in ("401", "403", "422", "429", "503"):
            content = operation["responses"][status]["content"]
            assert list(content) == ["application/problem+json"], path


def test_the_guide_names_every_path() -> None:
    guide = (ROOT / "docs" / "http.md").read_text()
    for path in operations():
        assert f"`{path}`" in guide, path
