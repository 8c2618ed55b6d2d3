"""The documentation says what is: commands, options, links, settings, defaults, snippets, tests."""

from __future__ import annotations

import ast
import inspect
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from typer.main import get_command

import orchestrator
from orchestrator import AsyncClient, Client
from orchestrator.cli import app
from orchestrator.config import KEYS, Settings, load
from orchestrator.model import QueueConfig
from orchestrator.store.sql import PINS

ROOT = Path(__file__).parents[2]
PAGES = sorted([ROOT / "README.md", ROOT / "CHANGELOG.md", *(ROOT / "docs").glob("*.md")])
GUARANTEES = ROOT / "docs" / "guarantees.md"

_FENCED = re.compile(r"^( *)```(\w*)\n(.*?)^ *```$", re.MULTILINE | re.DOTALL)
_INLINE = re.compile(r"`([^`\n]+)`")
_LINK = re.compile(r"\]\(([^)\s]+)\)")
_HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)
_SECTIONS = "|".join(sorted({key.partition(".")[0] for key in KEYS}))
_SETTING = re.compile(rf"(?:{_SECTIONS})\.[a-z_]+")
_QUEUE_SETTING = re.compile(r"queue\.([a-z_]+)")
_EVENT = re.compile(r"(?!queue\.)[a-z]+\.(?!py$)[a-z_]+")
_ROW = re.compile(r"^\| `([a-z]+\.[a-z_]+)` \| (.+?) \|", re.MULTILINE)


class Found(NamedTuple):
    """A piece of a page; its name is what a failing test shows."""

    page: str
    text: str

    def __str__(self) -> str:
        return f"{self.page}: {' '.join(self.text.split()):.60}"


def blocks(language: str) -> list[Found]:
    found = []
    for page in PAGES:
        for indent, kind, text in _FENCED.findall(page.read_text()):
            if kind == language:
                found.append(Found(page.name, re.sub(rf"^{indent}", "", text, flags=re.MULTILINE)))
    return found


def inline() -> list[Found]:
    return [
        Found(page.name, text)
        for page in PAGES
        for text in _INLINE.findall(_FENCED.sub("", page.read_text()))
    ]


def commands(program: str) -> list[Found]:
    """Return the command lines of `program` in the pages, without the name of the program."""
    lines = [
        Found(block.page, line)
        for block in blocks("sh")
        for line in block.text.replace("\\\n", " ").splitlines()
    ]
    prefix = re.compile(rf"(?:[A-Z_]+=\S+ )*{program} (?=[a-z])")
    return sorted(
        {
            Found(page, line[match.end() :].strip())
            for page, line in [*lines, *inline()]
            if (match := prefix.match(line))
        }
    )


def slug(heading: str) -> str:
    """Return the anchor that the common renderers make of a heading."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-")


# Commands ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("line", commands("orchestrator"), ids=str)
def test_every_command_exists_with_its_options(line: Found) -> None:
    command: Any = get_command(app)
    words = shlex.split(line.text, comments=True)
    while hasattr(command, "commands"):
        assert words, f"{line.text!r} stops at a group"
        assert words[0] in command.commands, f"no verb {words[0]!r}"
        command = command.commands[words.pop(0)]
    known = {option for parameter in command.params for option in parameter.opts}
    for word in words:
        if word.startswith("-") and word != "-":
            assert word.partition("=")[0] in known | {"--help"}


@pytest.mark.parametrize("line", commands("make"), ids=str)
def test_every_make_target_exists(line: Found) -> None:
    targets = re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert shlex.split(line.text, comments=True)[0] in targets


# Links ------------------------------------------------------------------------------------------


def links() -> Iterator[tuple[Path, str]]:
    for page in PAGES:
        for target in _LINK.findall(_FENCED.sub("", page.read_text())):
            if "://" not in target:
                yield page, target


@pytest.mark.parametrize(
    ("page", "target"), list(links()), ids=lambda part: getattr(part, "name", part)
)
def test_every_link_leads_somewhere(page: Path, target: str) -> None:
    name, _, anchor = target.partition("#")
    file = page.parent / name if name else page
    assert file.is_file()
    if anchor:
        assert anchor in {slug(heading) for heading in _HEADING.findall(file.read_text())}


# Settings ---------------------------------------------------------------------------------------


def test_the_pages_name_only_settings_and_events_that_exist() -> None:
    sources = "".join(path.read_text() for path in (ROOT / "orchestrator").rglob("*.py"))
    named = {found.text for found in inline() if _SETTING.fullmatch(found.text)}
    assert "worker.lease_s" in named
    # A log event looks like a setting: `leader.elected`.
    named |= {
        found.text
        for found in inline()
        if found.page == "operations.md" and _EVENT.fullmatch(found.text)
    }
    assert "task.lost" in named
    assert [name for name in sorted(named - set(KEYS)) if f'"{name}"' not in sources] == []


def test_the_pages_name_only_columns_of_a_queue_that_exist() -> None:
    named = {m[1] for found in inline() if (m := _QUEUE_SETTING.fullmatch(found.text))}
    assert {"kappa", "capacity"} <= named
    assert sorted(named - set(QueueConfig.__dataclass_fields__)) == []


def test_the_defaults_in_the_table_of_the_readme_are_those_of_the_code() -> None:
    rows = _ROW.findall((ROOT / "README.md").read_text())
    assert len(rows) > 10
    for key, cell in rows:
        assert key in KEYS
        section, _, name = key.partition(".")
        default = getattr(getattr(Settings(), section), name)
        if text := _INLINE.fullmatch(cell):
            given = load(env={}, overrides={key: text[1]})
            assert getattr(getattr(given, section), name) == default, key
        else:
            assert (cell, default) in [("none", None), ("all", ())], key


def test_the_settings_for_a_role_behind_a_pooler_are_those_of_a_direct_session() -> None:
    text = (ROOT / "docs" / "how-to.md").read_text()
    assert dict(re.findall(r"alter role \w+ set (\w+) = (\w+);", text)) == PINS


# Snippets ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("snippet", blocks("python"), ids=str)
def test_every_snippet_uses_what_there_is(snippet: Found) -> None:
    tree = ast.parse(snippet.text)
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module == "orchestrator":
            assert [a.name for a in node.names if not hasattr(orchestrator, a.name)] == []
        if isinstance(node, ast.Call) and ast.unparse(node.func).startswith("client."):
            verb = ast.unparse(node.func).removeprefix("client.")
            assert hasattr(AsyncClient, verb)
            known = inspect.signature(getattr(Client, verb)).parameters
            assert [word.arg for word in node.keywords if word.arg not in known] == []


# Guarantees -------------------------------------------------------------------------------------


def test_the_tests_that_the_guarantees_name_exist() -> None:
    named = re.findall(r"`(tests/[\w/]+\.py)`", GUARANTEES.read_text())
    assert named
    assert [path for path in named if not (ROOT / path).is_file()] == []


@pytest.mark.parametrize("number", range(1, 10))
def test_each_promise_says_what_shows_it(number: int) -> None:
    text = GUARANTEES.read_text()
    _, _, section = text.partition(f"\n## P{number} ")
    shown = section.partition("\n## ")[0].partition("*Shown by*")[2]
    assert "tests/" in shown or "decisions.md" in shown


def test_every_test_that_the_documents_name_exists() -> None:
    named = {
        (path.name, *found)
        for path in (ROOT / "docs").glob("*.md")
        for found in re.findall(r"`(tests/[\w/]+\.py)(?:::(\w+))?`", path.read_text())
    }
    assert len(named) > 50
    for document, file, test in sorted(named):
        assert (ROOT / file).is_file(), f"{document}: {file}"
        assert not test or f"def {test}(" in (ROOT / file).read_text(), f"{document}: {test}"


def test_no_feature_of_the_three_systems_is_left_out() -> None:
    text = (ROOT / "docs" / "coverage.md").read_text()
    rows = re.findall(r"^\| (\d+) \| .+ \| [UMA] \| (.+) \|$", text, re.MULTILINE)
    assert [int(number) for number, _ in rows] == list(range(1, 55))
    # Each is shown by a test, or says why it need not be.
    assert [number for number, shown in rows if "`tests/" not in shown] == []
