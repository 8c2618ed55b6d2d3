"""What a stretch of work cost, in counters that are stable where times are noisy.

WAL bytes and transaction ids are exact at once. What sessions count (commits, blocks, dead rows,
full-page images, statements) reaches the shared statistics when a session ends, when it has been
idle for ten seconds, or by `pg_stat_force_next_flush()` in that session: so read the second time
after the processes have ended, or flush.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import psycopg
from psycopg import Connection, sql

STATEMENTS_SETTINGS = {"shared_preload_libraries": "pg_stat_statements"}
_TICK_S = 1 / os.sysconf("SC_CLK_TCK")
_PROC = Path("/proc")


class Counters(NamedTuple):
    """Running totals, or what was added to them; None where this machine or server cannot tell."""

    # Exact: the distance between two places in the log.
    wal_bytes: int
    # Blocks that WAL holds as a whole, because they were changed first after a checkpoint.
    full_page_images: int
    # Transactions that wrote; each waits for the disk at its commit.
    transaction_ids: int
    # All commits of this database, also of what only read.
    commits: int
    heap_blocks: int
    index_blocks: int
    toast_blocks: int
    dead_tuples: int
    # Processor time of the server and all its sessions, also of those that ended.
    server_cpu_s: float | None
    # Processor time of the watched processes with their children.
    processes_cpu_s: float | None
    # Without this module's own; None without pg_stat_statements.
    statements: int | None

    @property
    def blocks(self) -> int:
        """Return how many blocks of the watched tables were looked at, in memory or not."""
        return self.heap_blocks + self.index_blocks + self.toast_blocks


class Statement(NamedTuple):
    """What the calls of one statement cost."""

    query: str
    calls: int
    total_ms: float
    blocks: int
    wal_bytes: int


class Meter:
    """Reads the counters of one database, over an autocommit connection of its own.

    Blocks and dead rows are those of `tables` with their partitions, or of every table if none is
    named; `pids` are the processes whose processor time counts.
    """

    def __init__(
        self, connection: Connection[Any], *, tables: Sequence[str] = (), pids: Sequence[int] = ()
    ) -> None:
        self._connection = connection
        self._tables = list(tables)
        self._pids = list(pids)
        self._counts_statements = _has_statements(connection)

    def read(self) -> Counters:
        """Return the totals of this moment."""
        wal, images, ids, commits = map(int, self._one(_TOTALS, []))
        tables = self._one(_TABLES, [self._tables, self._tables])
        heap, index, toast, dead = map(int, tables)
        server = _server_cpu_s(self._connection.info.backend_pid)
        watched = [cpu_s(pid) for pid in self._pids]
        known = [value for value in watched if value is not None]
        return Counters(
            wal,
            images,
            ids,
            commits,
            heap,
            index,
            toast,
            dead,
            server_cpu_s=server,
            processes_cpu_s=sum(known) if len(known) == len(watched) else None,
            statements=int(self._one(_CALLS, [])[0]) if self._counts_statements else None,
        )

    def since(self, before: Counters) -> Counters:
        """Return what was added since `before`."""
        now = self.read()
        return Counters(*map(_difference, now, before))

    def flush(self) -> None:
        """Hand on what this meter's own session has counted."""
        flush(self._connection)

    def _one(self, query: sql.SQL, params: Sequence[object]) -> tuple[Any, ...]:
        row = self._connection.execute(query, params).fetchone()
        assert row is not None
        return tuple(row)


def flush(connection: Connection[Any]) -> None:
    """Make the session of `connection` hand on all it has counted by now."""
    # Handed on when the session turns idle, which is after its answer: the next one comes later.
    connection.execute("select /* meter */ pg_stat_force_next_flush()")
    connection.execute("select /* meter */")


def enable_statements(connection: Connection[Any]) -> bool:
    """Create pg_stat_statements in this database; return False where the server lacks it.

    The server must have been started with `STATEMENTS_SETTINGS`.
    """
    try:
        connection.execute("create extension if not exists pg_stat_statements")
    except psycopg.Error:
        return False
    return _has_statements(connection)


def forget_statements(connection: Connection[Any]) -> None:
    """Let the counts of all statements begin at zero."""
    connection.execute("select pg_stat_statements_reset()")


def statements(connection: Connection[Any], most: int = 20) -> list[Statement]:
    """Return the `most` statements that took the longest in all, longest first."""
    rows = connection.execute(_DEAREST, [most]).fetchall()
    return [Statement(*row) for row in rows]


def cpu_s(pid: int) -> float | None:
    """Return the processor time of a process and of its children that ended; None if unknown."""
    fields = _stat(pid)
    return None if fields is None else sum(map(int, fields[11:15])) * _TICK_S


def _server_cpu_s(backend_pid: int) -> float | None:
    """Return the processor time of the server: the parent of a session, and all its children."""
    session = _stat(backend_pid)
    if session is None:
        return None
    postmaster = session[1]
    total_s = cpu_s(int(postmaster)) or 0.0
    for place in _PROC.iterdir():
        fields = _stat(int(place.name)) if place.name.isdigit() else None
        if fields is not None and fields[1] == postmaster:
            total_s += sum(map(int, fields[11:13])) * _TICK_S
    return total_s


def _stat(pid: int) -> list[str] | None:
    """Return the fields of /proc/PID/stat from the state on; None if there is no such file."""
    try:
        text = (_PROC / str(pid) / "stat").read_text()
    except OSError:
        return None
    # The name comes before, in parentheses, and may hold anything.
    return text.rpartition(")")[2].split()


def _difference(now: Any, before: Any) -> Any:
    return None if now is None or before is None else now - before


def _has_statements(connection: Connection[Any]) -> bool:
    row = connection.execute(
        "select exists (select from pg_extension where extname = 'pg_stat_statements')"
        " and current_setting('shared_preload_libraries') like '%pg_stat_statements%'"
    ).fetchone()
    return row is not None and bool(row[0])


# The comment marks what this module asks, so that it does not count itself.
_TOTALS = sql.SQL("""
select /* meter */ pg_current_wal_insert_lsn() - '0/0'::pg_lsn,
       (select wal_fpi from pg_stat_wal),
       pg_snapshot_xmax(pg_current_snapshot())::text::bigint,
       (select xact_commit from pg_stat_database where datname = current_database())
""")
# A table's partitions count with it.
_TABLES = sql.SQL("""
with /* meter */ watched as (
  select oid from pg_class where oid = any (%s::text[]::regclass[]::oid[])
   union select inhrelid from pg_inherits where inhparent = any (%s::text[]::regclass[]::oid[])
)
select coalesce(sum(coalesce(io.heap_blks_hit, 0) + coalesce(io.heap_blks_read, 0)), 0),
       coalesce(sum(coalesce(io.idx_blks_hit, 0) + coalesce(io.idx_blks_read, 0)), 0),
       coalesce(sum(coalesce(io.toast_blks_hit, 0) + coalesce(io.toast_blks_read, 0)
                    + coalesce(io.tidx_blks_hit, 0) + coalesce(io.tidx_blks_read, 0)), 0),
       coalesce(sum(t.n_dead_tup), 0)
  from pg_statio_user_tables io
  join pg_stat_user_tables t using (relid)
 where relid in (select oid from watched) or not exists (select from watched)
""")
_CALLS = sql.SQL("""
select /* meter */ coalesce(sum(calls), 0) from pg_stat_statements
 where dbid = (select oid from pg_database where datname = current_database())
   and query not like '%%/* meter */%%'
""")
_DEAREST = sql.SQL("""
select /* meter */ query, calls, total_exec_time,
       shared_blks_hit + shared_blks_read, wal_bytes::bigint
  from pg_stat_statements
 where dbid = (select oid from pg_database where datname = current_database())
   and query not like '%%/* meter */%%'
 order by total_exec_time desc limit %s
""")
