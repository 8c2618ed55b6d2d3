"""What bodies are made of, checked strictly: a number is no string, a true is no 1."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any

from fastapi import Response
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field
from pydantic_core import to_json
from starlette.convertors import Convertor, register_url_convertor

from orchestrator.model import NAME_MAX_CHARS


class NameConvertor(Convertor[str]):
    """What a path names: as `path`, and a new line is a character of it like any other."""

    regex = "(?s:.*)"

    def convert(self, value: str) -> str:
        """Return it as it is."""
        return value

    def to_string(self, value: str) -> str:
        """Return it as it is."""
        return value


register_url_convertor("name", NameConvertor())


class Body(BaseModel):
    """The body of a request: strangers are refused, nothing is converted."""

    model_config = ConfigDict(extra="forbid", strict=True, hide_input_in_errors=True)

    def given(self) -> dict[str, Any]:
        """Return the fields that were given, as they are."""
        values = self.__dict__
        return {name: values[name] for name in self.model_fields_set}


class Answer(BaseModel):
    """The body of an answer."""

    model_config = ConfigDict(from_attributes=True)


def answered(value: object, status: int = 200) -> Response:
    """Return the answer that says `value`, unchecked: long ones would take milliseconds."""
    return Response(to_json(value), status, media_type="application/json")


def _instant(value: object) -> object:
    if not isinstance(value, str):
        raise ValueError("give an instant as text, such as 2026-05-01T09:30:00Z")
    try:
        at = datetime.fromisoformat(value)
    except ValueError as error:
        raise ValueError("give an instant such as 2026-05-01T09:30:00Z") from error
    if at.tzinfo is None:
        raise ValueError("the instant has no time zone: add Z or an offset such as +02:00")
    return at


def _storable(text: str) -> str:
    if "\0" in text:
        raise ValueError("it contains a NUL character, which PostgreSQL cannot store")
    return text


Name = Annotated[str, Field(min_length=1, max_length=NAME_MAX_CHARS), AfterValidator(_storable)]
Instant = Annotated[datetime, BeforeValidator(_instant)]
Count = Annotated[int, Field(ge=1)]
