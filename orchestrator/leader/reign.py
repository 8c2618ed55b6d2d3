"""One term from election to its end: tick while there is work, doze while there is none.

While little comes, it dozes: it says so in a sequence, producers notify it, and it answers at once.
While much comes, it is awake and looks every few milliseconds, so that producers need not notify
anybody: a notification takes a lock that every commit of the database needs. After a second without
work it dozes again, and then waits for a notification or for the next poll: an idle queue costs one
statement a second.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict
from enum import IntEnum
from functools import partial
from typing import Any

import structlog
from psycopg import Connection

from orchestrator.config import LeaderSettings
from orchestrator.errors import DatabaseUnavailable, LeadershipLost
from orchestrator.leader import cut as cuts
from orchestrator.leader.folding import Folding
from orchestrator.leader.keeper import Keeper
from orchestrator.leader.rota import PATIENCE_S
from orchestrator.leader.shadow import ShadowedConfiguration, Shadowing
from orchestrator.leader.tick import Tick, Ticked
from orchestrator.model import QueueConfig
from orchestrator.store import admission, fairness, leadership
from orchestrator.store import cut as stored_cut
from orchestrator.store.admission import Parked
from orchestrator.store.leadership import Term
from orchestrator.store.names import staged_channel
from orchestrator.store.sql import run
from orchestrator.telemetry import metrics
from orchestrator.wakeup.bumper import Bumper
from orchestrator.wakeup.hint import Hint, hint_of
from orchestrator.wakeup.notices import Notices
from orchestrator.wakeup.waker import Waker

log = structlog.get_logger()

# Looking at other sessions costs more than a tick; workers park and leave in seconds.
_PARKED_INTERVAL_S = 1.0
# Long enough that orgs which wait together are served many times, short enough to notice.
FAIRNESS_WINDOW_S = 10.0
# So many tasks staged in a moment, or in the few before it, are much: some 500 a second.
_TORRENT, _MOMENT_S = 64, 0.1
# While something happens: how often to look at what nobody notifies of.
_HOUSE_S = 0.05
# How long a transaction may take from its enqueue to its commit without its work being found late.
_SETTLING_S = 0.1


class Doze(IntEnum):
    """Who should wake the leader."""

    AWAKE = 1
    FOR_WORK = 2
    FOR_SLOTS_TOO = 3


class Reign:
    """Leads one queue over one session until `stop`, or until the term is over."""

    def __init__(
        self,
        connection: Connection[Any],
        queue: QueueConfig,
        settings: LeaderSettings,
        *,
        holder: str,
        stopping: Callable[[], bool],
        alive: Callable[[], None],
        elected: Callable[[Term, Callable[[], int]], None] = lambda term, staged: None,
        bumper: Bumper | None = None,
        folding: Folding | None = None,
    ) -> None:
        self._connection = connection
        self._queue = queue
        self._settings = settings
        self._holder = holder
        self._stopping = stopping
        # Called at every step: the watchdog ends the process when it is not called any more.
        self._alive = alive
        # Called once the term is open and the cut is loaded, with how many tasks are believed to be
        # staged at any time.
        self._elected = elected
        # Told after each commit that made work claimable, where such news is shared.
        self._bumper = bumper
        # Brings the tables of the cut up to its journal; without it, the reign does so as it ends.
        self._folding = folding
        self._doze = Doze.AWAKE
        self._dozed_at = 0.0
        # The last sleep ended with a notification; what it told of, until that is done.
        self._heard = False
        self._hint: Hint | None = None
        self._notices = Notices(connection)
        # When it last looked who listens, and what there is to keep in the house.
        self._learnt_at = self._looked_at = 0.0
        self._staged = 0.0
        self._staged_at = 0.0
        self._reported_at = time.monotonic()
        self.waker = Waker()
        self.waker.add(connection.fileno())
        self.term: Term | None = None

    def lead(self) -> None:
        """Open a term and lead until asked to stop; the caller holds the advisory lock.

        Raises `LeadershipLost` where the term ended otherwise.
        """
        term = self.open()
        log.info("leader.elected", queue=self._queue.name, epoch=term.epoch)
        # Asked of the cut: under another policy it has another scheduler.
        self._elected(term, lambda: self.cut.scheduler.backlog)
        self._loop()
        self._resign(term)

    def open(self) -> Term:
        """Open a term: from its commit on, older leaders admit nothing; then load the cut."""
        # The election itself folds what is left of the journal, without a sign of life.
        self.fold()
        with self._connection.transaction():
            term: Term = run(self._connection, leadership.elect(self._queue.id, self._holder))
        self._alive()
        self._connection.execute(f"listen {staged_channel(self._queue.id)}".encode())
        self.cut = cuts.load(self._connection, self._queue, term, self._alive)
        self.shadow = Shadowing(self.cut)
        configuration = ShadowedConfiguration(self.cut, self.shadow)
        bump = self._bump()
        self.tick = Tick(
            self._connection,
            term,
            self.cut,
            configuration,
            batch_max=self._settings.batch_max,
            floor_interval_s=self._settings.floor_interval_s,
            shadow=self.shadow,
            bump=bump,
        )
        self.tick.begin_term()
        # The leader before may have died between a commit and its bump.
        bump()
        self.keeper = Keeper(self._connection, self.cut, configuration)
        self.term = term
        return term

    def _bump(self) -> Callable[[], None]:
        """Return how to say that work became claimable."""
        if self._bumper is None:
            return lambda: None
        database = run(self._connection, leadership.database_id())
        return partial(self._bumper.bump, database, self._queue.id)

    def _loop(self) -> None:
        settings = self._settings
        run(self._connection, admission.set_doze(self._queue.id, Doze.AWAKE))
        self.learn_who_listens()
        worked_at = torrent_at = swept_at = time.monotonic()
        # The first look is a whole tick: work that was loaded is told of by no feed any more.
        ticked = Ticked(blocked=True)
        while not self._stopping():
            self._alive()
            now = time.monotonic()
            worked, ticked = self._turn(ticked, now)
            if worked:
                worked_at = now
            if self._folding is not None:
                self._have_folded(self._folding)
            if self._is_torrent(ticked, now):
                torrent_at = now
                if self._doze is not Doze.AWAKE:
                    self._set_doze(Doze.AWAKE)
            active = self._doze is Doze.AWAKE or now - worked_at < settings.awake_s
            if active and now - self._learnt_at >= _PARKED_INTERVAL_S:
                self.learn_who_listens()
            if now - self._reported_at >= FAIRNESS_WINDOW_S:
                self._report_fairness(now)
            if now - swept_at >= settings.sweep_interval_s:
                self.sweep()
                swept_at = now
            if self.cut.scheduler.overdue:
                raise LeadershipLost("the virtual time is due for renormalisation")
            if not ticked.more:
                self._pause(now - worked_at, now - torrent_at, ticked)

    def fold(self) -> None:
        """Bring the tables of the cut up to its journal."""
        last = 0
        while (last := run(self._connection, stored_cut.fold(self._queue.id, last))) is not None:
            self._alive()

    def _have_folded(self, folding: Folding) -> None:
        """Have what was saved folded; where that gets nowhere, fold a stretch between two ticks."""
        folding.note(self.cut.saves)
        if not folding.stalled:
            return
        try:
            if run(self._connection, stored_cut.fold(self._queue.id)) is None:
                log.warning("fold.stalled", queue=self._queue.name)
                folding.catch_up()
        except DatabaseUnavailable as error:
            self._note_unfolded(error)
            folding.excuse()

    def _note_unfolded(self, error: DatabaseUnavailable) -> None:
        """Go on without having folded, unless there is no session left to go on with."""
        if self._connection.closed:
            raise error
        log.warning("fold.failed", queue=self._queue.name, error=str(error))

    def learn_who_listens(self) -> None:
        """Read which workers listen: how much to keep ready, and whom to wake."""
        parked: list[Parked] = run(self._connection, admission.parked(self._queue.id))
        self.tick.window.parked = sum(worker.concurrency for worker in parked)
        self._learnt_at = time.monotonic()
        self.tick.rota.learn(parked, self._learnt_at)

    def _turn(self, before: Ticked, now: float) -> tuple[bool, Ticked]:
        """Tick at once where there is reason to, and keep house after it if that is due; else look
        for a reason.
        """
        if not (self._heard or before.busy or before.more or _waits(before)):
            self._looked_at = now
            return self.step(before)
        hint, self._hint = self._hint, None
        ticked = self.tick.answer(hint) if hint is not None else None
        ticked, kept = ticked or self.tick.tick(), False
        if now - self._looked_at >= _HOUSE_S:
            # Not before it: somebody waits for the tick, and a look costs a millisecond.
            self._looked_at = now
            kept, found = self._look()
            ticked.more |= found
        return kept or ticked.busy, ticked

    def step(self, before: Ticked) -> tuple[bool, Ticked]:
        """Look, keep house, and tick if there is anything to tick for."""
        kept, found = self._look()
        if found or _waits(before):
            ticked = self.tick.tick()
            return kept or ticked.busy, ticked
        self.tick.look_beside()
        return kept, Ticked(blocked=before.blocked)

    def _look(self) -> tuple[bool, bool]:
        """Look and keep house; return whether that made work, and whether there is any to tick
        for.
        """
        peek = run(
            self._connection, admission.peek(self._queue.id, self.cut.row, self.keeper.since)
        )
        kept = self.keeper.keep(peek)
        return kept, kept or peek.attempts or peek.staged or self._dirty(peek)

    def _dirty(self, peek: admission.Peek) -> bool:
        return peek.config_version != self.tick.config_version

    def _is_torrent(self, ticked: Ticked, now: float) -> bool:
        """Tell whether so much comes that notifications would cost more than looking."""
        faded = self._staged * 0.5 ** ((now - self._staged_at) / _MOMENT_S)
        self._staged, self._staged_at = faded + ticked.staged, now
        return self._staged >= _TORRENT

    def _pause(self, idle_s: float, calm_s: float, ticked: Ticked) -> None:
        settings = self._settings
        # Whom it called for what stands ready may be dead: then others are to be called.
        longest_s = PATIENCE_S if ticked.standing else settings.idle_poll_s
        if idle_s < settings.awake_s:
            if self._doze is Doze.AWAKE and calm_s >= settings.awake_s:
                self._fall_asleep(Doze.FOR_WORK)
            # Of slots that end, nobody tells who dozes for work alone.
            heard = self._doze is not Doze.AWAKE and not ticked.blocked and self._is_settled()
            self._sleep(min(longest_s, _HOUSE_S if heard else settings.busy_poll_s))
            return
        wanted = Doze.FOR_SLOTS_TOO if ticked.blocked else Doze.FOR_WORK
        if self._doze is not wanted:
            self._fall_asleep(wanted)
        self._sleep(longest_s if self._is_settled() else settings.busy_poll_s)

    def _fall_asleep(self, doze: Doze) -> None:
        """Say who should wake the leader; it looks on for a moment."""
        self.tick.publish_floor()
        self._set_doze(doze)
        self._dozed_at = time.monotonic()

    def _is_settled(self) -> bool:
        """Tell whether whoever read "awake" has committed by now."""
        return time.monotonic() - self._dozed_at > _SETTLING_S

    def _sleep(self, timeout_s: float) -> None:
        """Sleep until notified, woken, or for `timeout_s`; one that came with an answer counts
        too.
        """
        self._heard = self._notified()
        if not self._heard:
            self.waker.wait(timeout_s)
            self._heard = self._notified()

    def _notified(self) -> bool:
        said = self._notices.take()
        self._hint = hint_of(said)
        return bool(said)

    def _set_doze(self, doze: Doze) -> None:
        run(self._connection, admission.set_doze(self._queue.id, doze))
        self._doze = doze

    def _report_fairness(self, now: float) -> None:
        """Write the window of the fairness signal down, if anything happened in it."""
        window = self.tick.fairness
        window_s, self._reported_at = now - self._reported_at, now
        report = window.close(self.cut.scheduler, window_s)
        if (said := self.shadow.report(report, window_s)) is not None:
            run(self._connection, said)
        if report is None:
            return
        run(self._connection, fairness.record(self._queue.id, report))
        if report.bound_broken or report.starved:
            log.error("fairness.broken", queue=self._queue.name, **asdict(report))

    def sweep(self) -> None:
        """Repair what the feeds may have missed, and write down what no admission has."""
        for repair in self.keeper.sweep():
            log.error("leader.repaired", queue=self._queue.name, repair=repair)
            metrics.REPAIRS.labels(self._queue.name).inc()
            assert self.term is not None
            run(self._connection, leadership.log_event(self.term, "repaired", repair))
            self.shadow.restart()
        # Where nothing is admitted for long, the history by which the next term would learn of the
        # last ends may be gone by then.
        self.tick.save()

    def _resign(self, term: Term) -> None:
        try:
            self.fold()
        except DatabaseUnavailable as error:
            # The next election does it.
            self._note_unfolded(error)
        with self._connection.transaction():
            run(self._connection, leadership.log_event(term, "resigned", "asked to stop"))
        run(self._connection, leadership.unlock(self._queue.id))
        log.info("leader.resigned", queue=self._queue.name, epoch=term.epoch)


def _waits(ticked: Ticked) -> bool:
    """Tell whether a tick has left anything for the next one, whatever happens."""
    return ticked.blocked or ticked.standing
