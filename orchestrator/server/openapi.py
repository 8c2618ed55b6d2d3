"""The description of the API, as docs/openapi.json has it: `make openapi` writes it."""

from __future__ import annotations

import json
import sys
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from orchestrator.config import Settings
from orchestrator.server import problems

_METHODS = frozenset({"get", "put", "post", "delete", "patch"})


def describe(app: FastAPI) -> dict[str, Any]:
    """Return the OpenAPI document of `app`, made once."""
    if app.openapi_schema is None:
        document = get_openapi(
            title=app.title,
            version=app.version,
            description=app.description,
            routes=app.routes,
        )
        for path in document["paths"].values():
            for method in _METHODS & path.keys():
                _as_problems(path[method]["responses"])
        app.openapi_schema = document
    return app.openapi_schema


def _as_problems(responses: dict[str, Any]) -> None:
    """Name the media type that errors really have."""
    for status, response in responses.items():
        if int(status) >= 400 and "content" in response:
            content = response["content"]
            content[problems.MEDIA_TYPE] = content.pop("application/json")


def text() -> str:
    """Return the document of the app with its default settings."""
    from orchestrator.server.app import create_app

    return json.dumps(describe(create_app(Settings())), indent=2) + "\n"


if __name__ == "__main__":
    sys.stdout.write(text())
