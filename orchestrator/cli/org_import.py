"""`org import`: a file of orgs, checked whole, compared with what is there, then set at once."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orchestrator.cli import output, values
from orchestrator.cli.setup import actor
from orchestrator.errors import InvalidInput
from orchestrator.model import DEFAULT_TIER, OrgConfig

if TYPE_CHECKING:
    from psycopg import Connection

_COLUMNS = ("org", "tier", "weight", "burst_max")
_NUMBERS = ("weight", "burst_max")
# Lines printed for people; --json prints all.
_SHOWN_MAX = 50
_CHUNK = 10_000


@dataclass(frozen=True, slots=True)
class Change:
    """What the file makes of one org; `before` is None where it is not configured yet."""

    before: OrgConfig | None
    after: OrgConfig

    def differences(self) -> dict[str, list[Any]]:
        """Return the changed columns, each with its value before and after."""
        before = self.before
        pairs = {
            name: [before and getattr(before, name), getattr(self.after, name)]
            for name in _COLUMNS[1:]
        }
        return {name: pair for name, pair in pairs.items() if pair[0] != pair[1]}


def parse(file: Path) -> dict[int, OrgConfig]:
    """Return the orgs of `file` by line; raise `InvalidInput` naming the first wrong line."""
    from orchestrator.store import orgs

    readers = {".csv": _csv_lines, ".jsonl": _json_lines, ".ndjson": _json_lines}
    reader = readers.get(file.suffix.lower())
    if reader is None:
        raise InvalidInput(f"cannot tell the format of {file}: name it .csv or .jsonl")
    configs: dict[int, OrgConfig] = {}
    seen: dict[str, int] = {}
    for number, row in reader(file, values.read(file)):
        with _at(file, number):
            config = OrgConfig(
                org=orgs.check_name("org", row.get("org")),
                tier=orgs.check_name("tier", row.get("tier") or DEFAULT_TIER),
                weight=_checked(row.get("weight"), orgs.check_weight),
                burst_max=_checked(row.get("burst_max"), orgs.check_burst_max),
            )
            if config.org in seen:
                raise InvalidInput(f"org {config.org!r} stands on line {seen[config.org]} already")
        seen[config.org] = number
        configs[number] = config
    return configs


def compare(
    connection: Connection[Any], file: Path, configs: Mapping[int, OrgConfig]
) -> list[Change]:
    """Return what differs from the database; raise `InvalidInput` for a tier that it lacks."""
    from orchestrator.store import orgs
    from orchestrator.store.sql import run

    tiers = [tier.name for tier in run(connection, orgs.tiers())]
    for number, config in configs.items():
        if config.tier not in tiers:
            raise InvalidInput(
                f"{file}, line {number}: no tier {config.tier!r}: use one of {', '.join(tiers)}, "
                "or create it with `orchestrator tier set`"
            )
    named = [config.org for config in configs.values()]
    before: dict[str, OrgConfig] = {}
    for start in range(0, len(named), _CHUNK):
        found = run(connection, orgs.orgs_named(named[start : start + _CHUNK]))
        before.update((config.org, config) for config in found)
    changes = [Change(before.get(config.org), config) for config in configs.values()]
    return [change for change in changes if change.before is None or change.differences()]


def apply(connection: Connection[Any], changes: Sequence[Change]) -> None:
    """Set what changed in one transaction."""
    from orchestrator.store import orgs
    from orchestrator.store.sql import run

    with connection.transaction():
        run(connection, orgs.import_orgs([change.after for change in changes], actor=actor()))


def report(changes: Sequence[Change], total: int, *, dry_run: bool, as_json: bool) -> None:
    """Print what changed, or would."""
    added = sum(change.before is None for change in changes)
    if as_json:
        output.document(
            {
                "dry_run": dry_run,
                "added": added,
                "changed": len(changes) - added,
                "unchanged": total - len(changes),
                "changes": [
                    {
                        "org": change.after.org,
                        "new": change.before is None,
                        "differences": change.differences(),
                    }
                    for change in changes
                ],
            }
        )
        return
    for change in changes[:_SHOWN_MAX]:
        what = ", ".join(
            f"{name} {output.cell(old)} -> {output.cell(new)}" if change.before else f"{name} {new}"
            for name, (old, new) in change.differences().items()
        )
        output.say(f"{'~' if change.before else '+'} {change.after.org}: {what}")
    if len(changes) > _SHOWN_MAX:
        output.say(f"… and {len(changes) - _SHOWN_MAX:,} more")
    would = "would be " if dry_run else ""
    output.say(
        f"{added:,} orgs {would}added, {len(changes) - added:,} {would}changed, "
        f"{total - len(changes):,} as they are"
    )


@contextmanager
def _at(file: Path, number: int) -> Iterator[None]:
    """Name file and line in whatever is wrong inside."""
    try:
        yield
    except InvalidInput as error:
        raise InvalidInput(f"{file}, line {number}: {error}") from error


def _csv_lines(file: Path, text: str) -> Iterator[tuple[int, Mapping[str, Any]]]:
    reader = csv.DictReader(io.StringIO(text, newline=""), strict=True)
    _refuse_strangers(file, 1, reader.fieldnames or ())
    if "org" not in (reader.fieldnames or ()):
        raise InvalidInput(f"{file}, line 1: name the columns first: {','.join(_COLUMNS)}")
    try:
        for row in reader:
            if None in row or None in row.values():
                raise InvalidInput(
                    f"{file}, line {reader.line_num}: as many values as columns are needed"
                )
            yield reader.line_num, {name: _number(name, value) for name, value in row.items()}
    except csv.Error as error:
        raise InvalidInput(f"{file}, line {reader.line_num}: {error}") from error


def _number(name: str, text: str) -> Any:
    """Return a CSV value as JSON would have it; what is no number is refused later, by name."""
    if not text.strip():
        return None
    number = name in _NUMBERS and text.strip().lstrip("-").isdecimal()
    return int(text) if number else text


def _json_lines(file: Path, text: str) -> Iterator[tuple[int, Mapping[str, Any]]]:
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise InvalidInput(f"{file}, line {number}: not valid JSON: {error}") from error
        if not isinstance(row, dict):
            raise InvalidInput(f'{file}, line {number}: give an object such as {{"org": "acme"}}')
        _refuse_strangers(file, number, row)
        yield number, row


def _refuse_strangers(file: Path, number: int, names: Sequence[str] | Mapping[str, Any]) -> None:
    for name in names:
        if name not in _COLUMNS:
            raise InvalidInput(
                f"{file}, line {number}: unknown column {name!r}: use {', '.join(_COLUMNS)}"
            )


def _checked(value: Any, check: Any) -> int | None:
    return None if value is None else int(check(value))
