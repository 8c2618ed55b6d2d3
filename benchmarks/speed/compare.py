"""What the comparisons share: a round of measurements, what was found in each, and their ratios."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import psycopg

from benchmarks.estimates import Bar, Estimate, median, ratio
from benchmarks.peers.peer import Load, Peer, PeerFailed, Work, enqueue, pending, setup, working
from benchmarks.peers.registry import EVERY, OURS, absent
from benchmarks.speed.result import Key
from benchmarks.stage import SETTINGS
from orchestrator.embedded import throwaway

# Pairs of measurements behind a bar, and how many where the ratio is close to it.
PAIRS, CLOSE_PAIRS = 5, 10
_CLOSE = 0.2
# A measurement that has not ended by then is given up; what was handled until then counts.
PATIENCE_S = 20.0
# Of a drain; the count of commits includes the few of the measurement itself.
_COSTS = """
select (pg_current_wal_insert_lsn() - '0/0')::float8, xact_commit
  from pg_stat_database where datname = current_database()
"""


class Entrant(NamedTuple):
    """A peer in one configuration; `tasks` as many as it can do in a few seconds."""

    peer: Peer
    work: Work
    tasks: int
    processes: int = 1

    @property
    def system(self) -> str:
        """Return how tables call it."""
        work = self.work
        batch = f", batches of {work.batch}" if work.batch else ""
        linger = f", linger {work.linger_ms:g} ms" if work.linger_ms else ""
        return f"{self.peer.name}, {'fast' if work.fast else 'default'}{batch}{linger}"


class Ledger:
    """Values by what they are of and by the round they were measured in, and what went wrong."""

    def __init__(self) -> None:
        self._values: dict[Key, dict[int, float]] = {}
        self._failed: dict[str, str] = {each.name: each.reason for each in absent()}
        self.remarks: list[str] = []

    def runs(self, peer: Peer) -> bool:
        """Tell whether the peer is there and has not failed so far."""
        return peer.name not in self._failed

    @contextmanager
    def forgiving(self, peer: Peer) -> Iterator[None]:
        """Note the failure of a peer, which is left out from then on; ours is not forgiven."""
        try:
            yield
        except PeerFailed as error:
            if peer is OURS:
                raise
            self._failed[peer.name] = str(error)

    def put(self, key: Key, turn: int, value: float) -> None:
        """Note what was measured in round `turn`."""
        self._values.setdefault(key, {})[turn] = value

    def median(self, key: Key) -> float:
        """Return the median of what was measured; 0 if nothing was."""
        found = self._values.get(key)
        return median(list(found.values())).mean if found else 0.0

    def ratio(self, mine: Key, other: Key) -> Estimate | None:
        """Return the median ratio over the rounds that have both; None without such a round."""
        ours, theirs = self._values.get(mine, {}), self._values.get(other, {})
        both = sorted(turn for turn in ours.keys() & theirs.keys() if theirs[turn])
        if not both:
            return None
        return ratio([ours[turn] for turn in both], [theirs[turn] for turn in both])

    def compare(self, mine: Key, other: Key) -> None:
        """Note the ratio of each round that has both, as a measure of its own: it is no bar."""
        pair = f"{_peer_name(mine)} against {_peer_name(other)}"
        key = Key(mine.case, pair, f"ratio of {mine.metric.split()[0]}")
        ours, theirs = self._values.get(mine, {}), self._values.get(other, {})
        for turn in sorted(ours.keys() & theirs.keys()):
            if theirs[turn]:
                self.put(key, turn, ours[turn] / theirs[turn])

    def estimates(self) -> dict[Key, Estimate]:
        """Return the median of each measure with its interval, in the order of the peers; ratios
        come last.
        """
        place = {peer.name: number for number, peer in enumerate(EVERY)}
        cases = list(dict.fromkeys(key.case for key in self._values))
        ordered = sorted(
            self._values,
            key=lambda key: (cases.index(key.case), place.get(_peer_name(key), len(place))),
        )
        return {key: median(list(self._values[key].values())) for key in ordered}

    def notes(self) -> list[str]:
        """Return who could not be measured and why, then the remarks."""
        failed = [f"{name} was not measured: {why}." for name, why in self._failed.items()]
        systems = {_peer_name(key) for key in self._values}
        known = [f"{p.name}: {p.note}." for p in EVERY if p.note and p.name in systems]
        return failed + known + list(dict.fromkeys(self.remarks))


def _peer_name(key: Key) -> str:
    return key.system.partition(",")[0]


def bar(
    name: str, measured: Estimate | None, limit: float, *, at_least: bool, why: str = ""
) -> list[Bar]:
    """Return the bar, or none where the other side could not be measured: a note says so."""
    return [] if measured is None else [Bar(name, measured, limit, at_least, why)]


def close(measured: Estimate | None, limit: float) -> bool:
    """Tell whether a ratio is so near its bar that it takes more pairs."""
    return measured is not None and abs(measured.mean / limit - 1) < _CLOSE


def extended(pairs: int, play: Callable[[int], object], is_close: Callable[[], bool]) -> int:
    """Play `pairs` rounds, and twice as many where it is close then; return how many there were."""
    for turn in range(pairs):
        play(turn)
    if pairs < PAIRS or not is_close():
        return pairs
    for turn in range(pairs, CLOSE_PAIRS):
        play(turn)
    return CLOSE_PAIRS


@contextmanager
def server() -> Iterator[tuple[str, Path]]:
    """Yield the DSN of a fresh durable server, and a directory for reports."""
    with (
        throwaway(settings=SETTINGS) as dsn,
        tempfile.TemporaryDirectory(prefix="benchmark-") as directory,
    ):
        yield dsn, Path(directory)


class Drained(NamedTuple):
    """One drain: its rate, what it cost, and what was odd about it."""

    per_s: float
    wal_bytes: float
    commits: float
    remark: str = ""


def drain(entrant: Entrant) -> Drained:
    """Preload, drain with workers of a fresh server, and see that nothing is left."""
    peer, tasks = entrant.peer, entrant.tasks
    with server() as (dsn, directory):
        setup(peer, dsn)
        enqueue(peer, dsn, preload(peer, tasks))
        before = _costs(dsn)
        with working(peer, dsn, directory) as workers:
            workers.start(entrant.work, entrant.processes)
            complete = workers.wait(tasks, PATIENCE_S)
            workers.stop()
        after = _costs(dsn)
        remark = _odd(entrant, workers.handled, pending(peer, dsn)) if complete else ""
        if not workers.handled:
            raise PeerFailed(f"{peer.name} work: started no task in {PATIENCE_S:g} s")
        return Drained(
            workers.rate.per_s,
            (after[0] - before[0]) / workers.handled,
            (after[1] - before[1]) / workers.handled,
            remark,
        )


def preload(peer: Peer, tasks: int, org: str = "") -> Load:
    """Return how to enqueue many tasks before a measurement: in bulk if there is a way."""
    return Load(tasks, org=org, bulk=peer.bulk, clients=1 if peer.bulk else 16)


def percentile(values: Sequence[float], part: float) -> float:
    """Return the value below which `part` of them are, by nearest rank."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(part * len(ordered)))]


def _costs(dsn: str) -> tuple[float, float]:
    with psycopg.connect(dsn, autocommit=True) as connection:
        row = connection.execute(_COSTS).fetchone()
    assert row is not None
    return float(row[0]), float(row[1])


def _odd(entrant: Entrant, handled: int, left: int) -> str:
    """Return what is wrong with a complete drain: tasks that ran twice or were not acknowledged."""
    again = handled - entrant.tasks
    if not again and not left:
        return ""
    return f"{entrant.system}: of {entrant.tasks} tasks {again} ran again, {left} were left."
