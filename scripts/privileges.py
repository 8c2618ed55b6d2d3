"""Write docs/privileges.md from what `orchestrator.store.privileges` declares."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from orchestrator.store.privileges import (
    FUNCTIONS,
    SEQUENCES,
    TABLES,
    TASK_ID_SEQUENCE,
    TASK_IDS,
    DatabaseRole,
)

PAGE = Path(__file__).parents[1] / "docs" / "privileges.md"
ROLES = [role for role in DatabaseRole if role is not DatabaseRole.OWNER]

HEAD = """\
# Privileges

<!-- Made by scripts/privileges.py from orchestrator/store/privileges.py; a test compares. -->

`orchestrator grant --role ROLE NAME` gives the database role `NAME` exactly these, and takes what
an earlier grant gave ([how to](security.md#database-roles)). Several `--role` add up. Columns stand
in brackets. Whoever owns the schema (`--role owner`) may do everything in it, and alone migrates,
grants and reads `grantee`. Partitions are reached through their parents.
`tests/security/test_privileges.py` holds a server to this page, runs every verb as its role, and
shows that no role can do what is another's.

"""


def page() -> str:
    """Return the text of the page."""
    parts = [HEAD, _heading("table")]
    parts += [_row(f"`{table}`", roles) for table, roles in TABLES.items()]
    parts += [
        "\n",
        _heading("sequence"),
        _row("every sequence, those of later queues too", SEQUENCES),
    ]
    parts.append(_row(f"`{TASK_IDS}`", TASK_ID_SEQUENCE))
    parts += ["\n", _heading("function")]
    parts += [
        _row(f"`{function}`", dict.fromkeys(allowed, "execute"))
        for function, allowed in FUNCTIONS.items()
    ]
    return "".join(parts)


def _heading(kind: str) -> str:
    return f"| {kind} | {' | '.join(ROLES)} |\n|{'---|' * (len(ROLES) + 1)}\n"


def _row(name: str, roles: Mapping[str, str]) -> str:
    cells = [roles.get(role, "").replace(",", ", ").replace("(", " (") for role in ROLES]
    return f"| {name} | {' | '.join(cells)} |\n"


if __name__ == "__main__":
    PAGE.write_text(page())
