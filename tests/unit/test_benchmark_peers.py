"""How the benchmarks read what drivers report, and that a driver which fails is named with why."""

import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.peers.peer import (
    REPOSITORY,
    Load,
    Peer,
    PeerFailed,
    Work,
    enqueue,
    pending,
    setup,
    working,
)
from benchmarks.peers.registry import OURS, PUBLISHED, RAW, SEED_SHAPE, STAGED, absent, peers
from benchmarks.peers.report import MalformedReport, Point, Report, Start, rate
from tests.support.waiting import until
from tests.support.worker import is_alive

NOWHERE = "postgresql://nobody@/none?host=/nowhere&port=1"
READY = '{"ready": true}\n'


def progress(handled: int, first_ns: int, last_ns: int) -> str:
    return f'{{"handled": {handled}, "first_ns": {first_ns}, "last_ns": {last_ns}}}\n'


def written(path: Path, *lines: str) -> Report:
    path.write_text("".join(lines))
    report = Report(path)
    report.refresh()
    return report


def test_a_report_that_is_not_there_yet_says_nothing(tmp_path: Path) -> None:
    report = Report(tmp_path / "report")
    report.refresh()
    assert (report.ready, report.handled, report.first_ns) == (False, 0, None)


def test_a_report_is_read_as_it_grows_and_no_line_before_it_is_complete(tmp_path: Path) -> None:
    report = written(tmp_path / "report", READY, progress(3, 10, 30)[:20])
    assert report.ready
    assert report.handled == 0
    with (tmp_path / "report").open("a") as file:
        file.write(progress(3, 10, 30)[20:] + progress(7, 10, 50))
    report.refresh()
    assert report.points == [Point(30, 3), Point(50, 7)]
    assert report.first_ns == 10


def test_the_last_line_of_a_traced_worker_has_every_start(tmp_path: Path) -> None:
    last = '{"handled": 1, "first_ns": 5, "last_ns": 5, "starts": [["org1", 1, 5, 2]]}\n'
    report = written(tmp_path / "report", READY, last)
    assert report.starts == [Start("org1", 1, 5, 2)]


def test_a_worker_that_never_had_a_task_reports_no_instants(tmp_path: Path) -> None:
    last = '{"handled": 0, "first_ns": null, "last_ns": null, "starts": []}\n'
    report = written(tmp_path / "report", READY, last)
    assert (report.handled, report.first_ns, report.starts) == (0, None, [])
    assert rate([report]).per_s == 0


@pytest.mark.parametrize("line", ["oops\n", "[]\n", '{"handled": "many"}\n', "{}\n"])
def test_a_line_that_the_contract_does_not_know_is_refused(tmp_path: Path, line: str) -> None:
    with pytest.raises(MalformedReport, match="not a line of a report"):
        written(tmp_path / "report", READY, line)


def test_the_rate_of_one_worker_is_from_its_first_start_to_its_last(tmp_path: Path) -> None:
    second = 1_000_000_000
    report = written(tmp_path / "report", progress(101, second, 3 * second))
    assert rate([report]).per_s == pytest.approx(50)


def test_the_rate_of_two_workers_leaves_out_what_one_did_before_the_other(tmp_path: Path) -> None:
    second = 1_000_000_000
    early = written(tmp_path / "early", progress(1, 0, 0), progress(301, 0, 3 * second))
    late = written(
        tmp_path / "late", progress(1, second, second), progress(201, second, 3 * second)
    )
    found = rate([early, late])
    assert found.span_s == pytest.approx(2)
    assert found.handled == pytest.approx(200 + 200)


def test_a_driver_that_cannot_reach_its_database_is_named_with_the_reason() -> None:
    with pytest.raises(PeerFailed, match=r"^raw setup: .*connection.*/nowhere.*failed"):
        setup(RAW, NOWHERE)
    with pytest.raises(PeerFailed, match=r"^raw enqueue: "):
        enqueue(RAW, NOWHERE, Load(1))


def test_a_worker_that_ends_by_itself_is_named_with_the_reason(tmp_path: Path) -> None:
    with (
        working(RAW, NOWHERE, tmp_path) as workers,
        pytest.raises(PeerFailed, match=r"^raw work: .*connection.*failed"),
    ):
        workers.start(Work(fast=True))


def test_a_driver_that_does_not_come_to_an_end_is_given_up_and_killed() -> None:
    hanging = Peer("hanging", (sys.executable, "-c", "import time; time.sleep(60)"))
    with pytest.raises(PeerFailed, match=r"^hanging enqueue: no end after 0.2 s$"):
        enqueue(hanging, NOWHERE, Load(1), patience_s=0.2)


def test_a_driver_that_answers_something_else_is_refused() -> None:
    chatty = Peer("chatty", (sys.executable, "-c", "print('hello')"))
    with pytest.raises(PeerFailed, match=r"^chatty pending: answered 'hello'$"):
        pending(chatty, NOWHERE)


def test_a_command_that_is_not_there_makes_a_peer_absent_with_the_reason() -> None:
    assert Peer("gone", ("/nowhere/python",)).missing == "python is not installed"
    half = Peer("half", (sys.executable,), needs=(Path("/nowhere/driver.mjs"),))
    assert half.missing == "driver.mjs is not installed (scripts/peers.sh)"


def test_every_peer_is_there_or_absent_with_a_reason_and_our_own_are_there() -> None:
    there, gone = {peer.name for peer in peers()}, {each.name for each in absent()}
    assert there.isdisjoint(gone)
    assert there | gone >= {peer.name for peer in PUBLISHED}
    assert {OURS.name, RAW.name, STAGED.name, SEED_SHAPE.name} <= there
    assert all(each.reason for each in absent())


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a child of its parent's end")
def test_no_driver_outlives_a_harness_that_was_killed(tmp_path: Path) -> None:
    beginning = (
        "import sys; from pathlib import Path\n"
        "from benchmarks.peers.peer import Peer, Work, working\n"
        "sleeping = Peer('sleeping', (sys.executable, '-c', 'import time; time.sleep(60)'))\n"
        f"with working(sleeping, '', Path({str(tmp_path)!r})) as workers:\n"
        "    workers.start(Work())\n"
    )
    harness = subprocess.Popen([sys.executable, "-c", beginning], cwd=REPOSITORY)
    try:
        until(lambda: _children(harness.pid), "the driver is started")
        (driver,) = _children(harness.pid)
        harness.kill()
        until(lambda: not is_alive(driver), "the driver is gone")
    finally:
        harness.kill()
        harness.wait()


def _children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
