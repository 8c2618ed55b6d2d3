"""The transaction of a tick: fence, floors, admissions, cut and commit, in one round trip.

The plan was made before the fence, from what the feeds told. So the statement that moves and saves
(`tick` of `store/admission.sql`) looks again at what the plan stands on, after the fence, and
changes nothing where any of it does not hold any more; then there is nothing to commit, either.

Its commit does not wait for the disk. Others see it at once, and what they commit after having seen
it waits for both, because the log of the server is written in order: a claim is not answered before
the tick it stands on is durable. A tick that a crash of the server loses has told nobody anything;
the leader's session, and all that it believes, ends with that server, and the next term loads the
cut that survived.

Where very many orgs changed at once, they are saved in portions before it, in the same transaction,
and its end is sent apart.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from psycopg import Connection
from psycopg.errors import NotNullViolation

from orchestrator.errors import LeadershipLost
from orchestrator.leader.admissions import key_step
from orchestrator.leader.cut import Cut
from orchestrator.leader.fence import begin, refused
from orchestrator.store import admission
from orchestrator.store.admission import (
    BEGIN,
    COMMIT,
    NO_WAIT,
    ROLLBACK,
    Moved,
    Portion,
    TickLine,
    Wanted,
)
from orchestrator.store.leadership import Term
from orchestrator.store.lean import lean
from orchestrator.store.sql import Call, Operation, batch, just, run

# A version of the configuration, and how often any of it was deleted.
Version = tuple[int, int]
_NO_LINE = TickLine(0, 0, 0, 0, 0, "")
_MOVED = "the persisted state was moved or deleted by others"


class Transaction:
    """What a leader commits during one term, over its session."""

    def __init__(self, connection: Connection[Any], term: Term, cut: Cut) -> None:
        self._connection = connection
        self._term = term
        self._cut = cut

    def move(
        self,
        wanted: Sequence[Wanted],
        version: Version,
        line: TickLine,
        floors: Sequence[Call] = (),
        *,
        told: bool = True,
    ) -> Moved | None:
        """Admit what is wanted and save the cut: all of it or, unless `done`, nothing.

        `version` is that of the configuration under which it was planned. None: a task was
        cancelled under our eyes. Unless `told`, what is wanted is what no feed has told of yet.
        Raises `LeadershipLost` where the term is over, or where others moved the row of the queue.
        """
        *early, last = self._cut.saving()
        statement = self._statement(last, version, wanted, line, told=told)
        try:
            if not early:
                # All that could call for a rollback is the statement's own business.
                fence = admission.fence(self._term)
                calls = [BEGIN, NO_WAIT, fence, *floors, statement, COMMIT]
                *_, rows, _ = self._run(batch(calls))
                moved = admission.moved(rows)
                if moved.done:
                    self._cut.saved(moved)
            else:
                probe = begin(self._connection, self._term)
                self._save(early, (probe.config_version, probe.config_deletes))
                *_, rows = self._run(batch([*floors, statement]))
                moved = admission.moved(rows)
                if moved.done:
                    self._commit(moved)
                else:
                    self._run(just(ROLLBACK))
        except NotNullViolation as error:
            if error.diag.column_name != "admitted":
                raise LeadershipLost(_MOVED) from error
            self._run(just(ROLLBACK))
            return None
        if not moved.leads:
            raise refused(self._term)
        return moved

    def save(self, version: Version) -> None:
        """Save the cut in the fenced transaction that is open, and commit it; `version` is that of
        the configuration as read in it.
        """
        *early, last = self._cut.saving()
        self._save(early, version)
        self._commit(admission.moved(self._run(just(self._statement(last, version)))))

    def save_changes(self) -> None:
        """Save the cut in a fenced transaction of its own, if any of it changed."""
        if self._cut.scheduler.dirty:
            probe = begin(self._connection, self._term)
            self.save((probe.config_version, probe.config_deletes))

    def _save(self, portions: Sequence[Portion], version: Version) -> None:
        """Save portions that are not the last; none of it counts before the commit."""
        for portion in portions:
            self._cut.alive()
            self._run(just(self._statement(portion, version, early=True)))

    def _commit(self, moved: Moved) -> None:
        if not moved.place:
            raise LeadershipLost(_MOVED)
        self._run(just(COMMIT))
        self._cut.saved(moved)

    def _statement(
        self,
        portion: Portion,
        version: Version,
        wanted: Sequence[Wanted] = (),
        line: TickLine = _NO_LINE,
        *,
        early: bool = False,
        told: bool = True,
    ) -> Call:
        row, overran = self._cut.row, self._cut.settled_overruns
        tick = admission.tick(
            self._term,
            # The row of the queue is written once, with the last portion.
            replace(row, place=None) if early else row,
            version,
            wanted,
            key_step(row.kappa),
            portion,
            overran,
            line,
            told=told,
        )
        return lean(tick, wanted, overran)

    def _run(self, operation: Operation) -> Any:
        return run(self._connection, operation)
