"""Database roles: create them and give them what `privileges` says, no more and no less.

A grant is a list of statements that follow from a few facts, so that it can be printed for a DBA as
well as run. Those that a server may refuse to whoever runs them (`Step.optional`) stand last, each
on its own: what it refuses is reported, and the rest holds.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import psycopg
from psycopg import Connection

from orchestrator.errors import InvalidInput, OrchestratorError, PrivilegeMissing
from orchestrator.store.orgs import SQL as ORGS
from orchestrator.store.orgs import check_name
from orchestrator.store.privileges import (
    ADVISORY,
    PINNED,
    SEES_SESSIONS,
    TASK_IDS,
    DatabaseRole,
    functions,
    sequence_privileges,
    table_grants,
)
from orchestrator.store.sql import PINS, Operation, Statements, explained, run

SQL = Statements("roles")

# PostgreSQL cuts longer names silently, and two roles would be one.
ROLE_BYTES_MAX = 63
# A grant waits for a busy table no longer than this: whoever comes after it would wait too.
_LOCK_TIMEOUT = "5s"


class Step(NamedTuple):
    """One statement of a grant; an optional one may be refused, and says what is lacking then."""

    sql: str
    optional: str | None = None


@dataclass(frozen=True, slots=True)
class Facts:
    """What the statements of a grant depend on."""

    database: str
    session_user: str
    owner: str
    exists: bool
    superuser: bool
    connects: bool
    sees_sessions: bool
    kept: list[str]  # settings of the role in this database, as name=value
    advisory_is_public: bool


def grant(
    connection: Connection[object],
    name: str,
    roles: Sequence[DatabaseRole],
    *,
    pins: bool = True,
    harden: bool = False,
    actor: str,
) -> list[str]:
    """Give the database role `name` what `roles` need and nothing else; create it if it is missing.

    Returns what the server refused to do, a sentence each. Raises `InvalidInput` where privileges
    cannot bind the role, and `PrivilegeMissing` where this session may not grant.
    """
    refused = []
    try:
        with connection.transaction():
            run(connection, _lock())
            for step in run(connection, steps(name, roles, pins=pins, harden=harden)):
                if not _done(connection, step) and step.optional not in refused:
                    refused.append(str(step.optional))
            run(connection, _note(name, roles, actor))
    except (psycopg.errors.InsufficientPrivilege, PrivilegeMissing) as error:
        reason = str(error.__cause__ or error).strip().partition("\n")[0]
        raise PrivilegeMissing(
            f"this session may not grant that ({reason}): run it as a superuser, or as the "
            "schema's owner with CREATEROLE, or hand the statements of --sql to your DBA"
        ) from error
    except psycopg.errors.LockNotAvailable as error:
        raise OrchestratorError("a busy table could not be had in 5 s: try again") from error
    except psycopg.Error as error:
        raise explained(error) from error
    return refused


def steps(
    name: str, roles: Sequence[DatabaseRole], *, pins: bool = True, harden: bool = False
) -> Operation:
    """Return the statements of a grant, from what is in the database now."""
    kinds = _checked(name, roles)
    rows = yield SQL.call("facts", name=name)
    if not rows:
        raise OrchestratorError("the schema is missing: run `orchestrator migrate` first")
    facts = Facts(*rows[0])
    _check_binds(name, kinds, facts)
    others = {each: set(given) for each, given in (yield SQL.call("grantees")) if each != name}
    objects = yield SQL.call("objects")
    advisory = [row[0] for row in (yield SQL.call("advisory_functions"))]
    if kinds == {DatabaseRole.OWNER}:
        made = _owner_steps(name, facts, objects, others)
    else:
        made = [*_role(name, facts), *object_steps(name, kinds, facts.owner, objects)]
        made += _pins(name, facts, pins=pins and bool(kinds.intersection(PINNED)))
    made += _server_steps(name, kinds, facts)
    if harden or not facts.advisory_is_public:
        keep = {each for each, given in others.items() if ADVISORY.intersection(given)}
        keep |= {facts.owner, *([name] if ADVISORY.intersection(kinds) else [])}
        made += _hardening(facts.database, advisory, sorted(keep), revoke=harden)
    return made


def object_steps(
    name: str, kinds: Iterable[str], owner: str, objects: Sequence[Sequence[str]]
) -> list[Step]:
    """Return what gives `name` exactly the privileges of `kinds` on the objects of the schema."""
    role, kinds = quoted(name), list(kinds)
    made = [f"revoke all on all {each} in schema orchestrator from {role}" for each in _CLASSES]
    made.append(f"revoke all on schema orchestrator from {role}")
    made.append(f"grant usage on schema orchestrator to {role}")
    there = {qualified for _, qualified in objects}
    for table, privilege, columns in table_grants(kinds):
        if f"orchestrator.{table}" in there:
            of = f" ({', '.join(columns)})" if columns else ""
            made.append(f"grant {privilege}{of} on orchestrator.{table} to {role}")
    usual = ", ".join(sorted(sequence_privileges(kinds)))
    made.append(f"grant {usual} on all sequences in schema orchestrator to {role}")
    drawn = ", ".join(sorted(sequence_privileges(kinds, TASK_IDS)))
    made.append(f"grant {drawn} on sequence orchestrator.{TASK_IDS} to {role}")
    made += [
        f"grant execute on function orchestrator.{function} to {role}"
        for function in functions(kinds)
    ]
    return [Step(text) for text in [*made, *_defaults(name, kinds, owner)]]


def regrant(connection: Connection[object]) -> None:
    """Give everybody who was granted something what it means in the schema as it is now."""
    for name, kinds in run(connection, _grantees()):
        rows = run(connection, _facts_and_objects(name))
        for step in object_steps(name, kinds, rows[0].owner, rows[1]):
            connection.execute(step.sql.encode())


def quoted(identifier: str) -> str:
    """Return `identifier` as SQL."""
    return '"' + identifier.replace('"', '""') + '"'


# privilege_not_revoked, privilege_not_granted
_NOT_DONE = ("01006", "01007")
_CLASSES = ("tables", "sequences", "functions")


def _checked(name: str, roles: Sequence[DatabaseRole]) -> set[DatabaseRole]:
    check_name("the role's name", name)
    if len(name.encode()) > ROLE_BYTES_MAX:
        raise InvalidInput(f"a role's name has at most {ROLE_BYTES_MAX} bytes, not {len(name)}")
    if name.lower() == "public" or name.lower().startswith("pg_"):
        raise InvalidInput(
            f"{name!r} is no role of yours: name one that an application signs in as"
        )
    kinds = set(roles)
    if not kinds:
        raise InvalidInput("no role is named: give --role, several if it does several things")
    if DatabaseRole.OWNER in kinds and len(kinds) > 1:
        raise InvalidInput("an owner may do everything: name no other role beside it")
    return kinds


def _check_binds(name: str, kinds: set[DatabaseRole], facts: Facts) -> None:
    if DatabaseRole.OWNER in kinds:
        return
    if facts.superuser:
        raise InvalidInput(f"{name!r} is a superuser, whom no privilege binds: name another role")
    if facts.owner == name:
        raise InvalidInput(
            f"{name!r} owns the schema, and no privilege binds an owner: make another role the "
            "owner first (--role owner NAME)"
        )


def _role(name: str, facts: Facts) -> list[Step]:
    return [] if facts.exists else [Step(f"create role {quoted(name)} login")]


def _defaults(name: str, kinds: Iterable[str], owner: str) -> list[str]:
    """Return what covers the sequences of queues that are yet to be made."""
    usual = ", ".join(sorted(sequence_privileges(kinds)))
    ahead = f"alter default privileges for role {quoted(owner)} in schema orchestrator"
    return [
        f"{ahead} revoke all on sequences from {quoted(name)}",
        f"{ahead} grant {usual} on sequences to {quoted(name)}",
    ]


def _pins(name: str, facts: Facts, *, pins: bool) -> list[Step]:
    role = f"alter role {quoted(name)} in database {quoted(facts.database)}"
    why = (
        f"the plan settings kept in the role {name} stay as they are: changing them takes "
        "CREATEROLE and ADMIN on the role"
    )
    wanted = PINS if pins else {}
    there = dict(each.split("=", 1) for each in facts.kept)
    made = [f"set {key} = {value}" for key, value in wanted.items() if there.get(key) != value]
    made += [f"reset {key}" for key in PINS if key in there and key not in wanted]
    return [Step(f"{role} {each}", why) for each in made]


def _owner_steps(
    name: str, facts: Facts, objects: Sequence[Sequence[str]], others: dict[str, set[str]]
) -> list[Step]:
    role = quoted(name)
    made = _role(name, facts)
    made.append(Step(f"grant create on database {quoted(facts.database)} to {role}"))
    if facts.owner == name:
        return made
    made.append(Step(f"set local lock_timeout = '{_LOCK_TIMEOUT}'"))
    made.append(Step(f"alter schema orchestrator owner to {role}"))
    for kind, qualified in objects:
        made.append(Step(f"alter {kind} {qualified} owner to {role}"))
    for other, kinds in others.items():
        made += map(Step, _defaults(other, kinds, name))
    return made


def _server_steps(name: str, kinds: set[DatabaseRole], facts: Facts) -> list[Step]:
    made = []
    if not facts.connects and facts.exists:
        made.append(
            Step(
                f"grant connect on database {quoted(facts.database)} to {quoted(name)}",
                f"{name} may not connect to {facts.database}: its owner must grant it",
            )
        )
    if kinds & SEES_SESSIONS and not facts.sees_sessions:
        made.append(
            Step(
                f"grant pg_read_all_stats to {quoted(name)}",
                f"{name} is no member of pg_read_all_stats, which takes a superuser: `status` and "
                "`leader` cannot tell when a leader of another role was last heard of",
            )
        )
    return made


def _hardening(
    database: str, advisory: Sequence[str], keep: Sequence[str], *, revoke: bool
) -> list[Step]:
    made = []
    why = "the server's advisory lock functions stay everybody's: revoking takes a superuser"
    every = ", ".join(advisory)
    if revoke:
        made.append(Step(f"revoke execute on function {every} from public", why))
        made.append(
            Step(
                f"revoke temporary on database {quoted(database)} from public",
                f"everybody may still make temporary tables in {database}: only its owner can "
                "revoke that",
            )
        )
    who = ", ".join(map(quoted, keep))
    if not revoke:
        why = (
            f"{who} may not take advisory locks, and so not lead or migrate: that takes a superuser"
        )
    made.append(Step(f"grant execute on function {every} to {who}", why))
    return made


def _lock() -> Operation:
    yield SQL.call("lock")


def _grantees() -> Operation:
    return (yield SQL.call("grantees"))


def _facts_and_objects(name: str) -> Operation:
    rows = yield SQL.call("facts", name=name)
    return Facts(*rows[0]), (yield SQL.call("objects"))


def _note(name: str, roles: Sequence[DatabaseRole], actor: str) -> Operation:
    yield SQL.call("forget", name=name)
    kept = sorted({str(role) for role in roles} - {DatabaseRole.OWNER})
    yield SQL.call("remember", name=name, roles=kept)
    change = json.dumps({"roles": sorted(map(str, roles))})
    yield ORGS.call("audit", actor=actor, verb="grant", object=name, change=change)


def _done(connection: Connection[object], step: Step) -> bool:
    """Run a step; tell whether it was done, or raise where it is not optional.

    Who may not grant or revoke is told so in a warning only, if it holds any privilege itself.
    """
    warnings: list[str] = []

    def heard(notice: psycopg.errors.Diagnostic) -> None:
        if notice.sqlstate in _NOT_DONE:
            warnings.append(notice.message_primary or "")

    connection.add_notice_handler(heard)
    try:
        with connection.transaction():
            connection.execute(step.sql.encode())
    except psycopg.errors.InsufficientPrivilege:
        if step.optional is None:
            raise
        return False
    finally:
        connection.remove_notice_handler(heard)
    if warnings and step.optional is None:
        raise PrivilegeMissing(warnings[0])
    return not warnings
