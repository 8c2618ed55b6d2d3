"""The frame around the benchmarks of speed: result files, the document, failures, exit statuses."""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path
from types import ModuleType
from xml.etree import ElementTree

import pytest

from benchmarks.__main__ import main
from benchmarks.estimates import Bar, Estimate, exact
from benchmarks.speed import (
    document,
    drain,
    figures,
    inflight,
    latency,
    noisy,
    orgs,
    record,
    suite,
    xmin,
)
from benchmarks.speed.record import Record, Surroundings
from benchmarks.speed.result import Key, Result
from benchmarks.speed.suite import BenchmarkFailed, measure_all, measure_apart
from benchmarks.speed.tables import tables

SURROUNDINGS = Surroundings(
    {"PostgreSQL": "18.1", "Python": "3.13.1"},
    {"fsync": "on", "synchronous_commit": "on", "shared_buffers": "512MB"},
    {"cores": 2.0, "memory_gb": 8.0, "fdatasync_ms": 0.4, "load_before": 0.1},
)
RATE = Estimate(5, 18_000.0, 17_200.0, 18_900.0, 18_950.0)
MET = Bar("drain / best peer", Estimate(5, 1.1, 1.02, 1.2, 1.25), 1.0, True)
MISSED = Bar("drain / raw", Estimate(5, 0.7, 0.66, 0.74, 0.75), 0.8, True, "the disk is the limit")
DRAIN = Result(
    "drain",
    "Staged work to its end",
    "50,000 tasks of 20 orgs",
    {
        Key("1 process", "ours", "tasks/s"): RATE,
        Key("1 process", "raw", "tasks/s"): Estimate(5, 21_000.0, 20_000.0, 22_000.0, 22_500.0),
        Key("sustained", "ours", "p50, ms"): exact(4.2),
        Key("sustained", "ours", "p99, ms"): exact(math.inf),
    },
    [MET, MISSED],
    ["oban: not installed"],
)
IDLE = Result(
    "idle",
    "What an idle queue costs",
    "One queue, one worker, two replicas",
    {Key("a minute", "ours", "statements/s"): exact(3.0)},
    [Bar("statements/s", exact(3.0), 5.0)],
)


def recorded(result: Result, at: str = "2026-03-01T10:00:00+00:00") -> Record:
    return Record(result, SURROUNDINGS, at, seconds=90.0, quick=False)


def written(home: Path, *results: Result) -> None:
    for result in results:
        record.write(home / "results" / f"{result.name}.json", recorded(result))


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Stand for the folder of the checkout that full runs write into."""
    monkeypatch.setattr(document, "HOME", tmp_path)
    return tmp_path


@pytest.fixture
def measurable(monkeypatch: pytest.MonkeyPatch) -> None:
    """Put a benchmark that takes no time where `drain` is."""
    module = ModuleType("benchmarks.speed.drain")
    module.measure = lambda quick: DRAIN  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, module.__name__, module)


# Result files ------------------------------------------------------------------------------------


def test_a_record_is_read_as_it_was_written(tmp_path: Path) -> None:
    record.write(tmp_path / "drain.json", recorded(DRAIN))
    assert record.read(tmp_path / "drain.json") == recorded(DRAIN)


def test_a_result_file_is_json_for_every_reader(tmp_path: Path) -> None:
    def refuse(constant: str) -> None:
        raise AssertionError(constant)

    record.write(tmp_path / "drain.json", recorded(DRAIN))
    found = json.loads((tmp_path / "drain.json").read_text(), parse_constant=refuse)
    assert [bar["passed"] for bar in found["bars"]] == [True, False]
    assert found["measures"][0] == {
        "case": "1 process",
        "system": "ours",
        "metric": "tasks/s",
        "of": 5,
        "mean": 18_000,
        "low": 17_200,
        "high": 18_900,
        "worst": 18_950,
    }


# The document ------------------------------------------------------------------------------------


def test_the_document_is_composed_of_the_files_that_are_there(tmp_path: Path) -> None:
    written(tmp_path, IDLE, DRAIN)
    text = document.compose(tmp_path).read_text()
    assert text.index("\n## drain\n") < text.index("\n## idle\n")
    assert "## latency" not in text
    assert "| 1 process | ours | 18,000 (17,200 to 18,900) |" in text
    assert "| sustained | ours | 4.2 | never |" in text
    assert "- oban: not installed" in text
    assert "`fsync` on" in text
    assert "fdatasync of one page 0.4 ms" in text


def test_what_a_note_quotes_is_shown_as_it_is(tmp_path: Path) -> None:
    written(tmp_path, DRAIN._replace(notes=["`a*b`: select count(*) from x where a < b * 2"]))
    text = document.compose(tmp_path).read_text()
    assert r"- `a*b`: select count(\*) from x where a \< b \* 2" in text


def test_a_missed_bar_is_said_to_be_missed_and_why(tmp_path: Path) -> None:
    written(tmp_path, DRAIN, IDLE)
    text = document.compose(tmp_path).read_text()
    assert "Bars: 2 met, 1 missed." in text
    row = "| drain / raw | at least 0.8 | 0.7 | 0.66 to 0.74 | **missed** |"
    assert row in text
    assert "- drain / raw: the disk is the limit.\n" in text
    assert "| drain / best peer | at least 1 | 1.1 | 1.02 to 1.2 | met |" in text


def test_a_benchmark_that_is_run_again_replaces_its_part_alone(tmp_path: Path) -> None:
    written(tmp_path, DRAIN, IDLE)
    before = document.compose(tmp_path).read_text()
    written(tmp_path, IDLE._replace(title="Measured again"))
    after = document.compose(tmp_path).read_text()
    assert after == before.replace(IDLE.title, "Measured again")


def test_a_document_about_nothing_says_so(tmp_path: Path) -> None:
    assert "No benchmark has been run." in document.compose(tmp_path).read_text()


def test_cases_with_the_same_measures_share_a_table() -> None:
    rates, latencies = tables(DRAIN)
    assert rates.columns == ["case", "system", "tasks/s"]
    assert [row[1] for row in rates.rows] == ["ours", "raw"]
    assert latencies.columns == ["case", "system", "p50, ms", "p99, ms"]


def test_a_table_with_many_measures_has_a_row_for_each() -> None:
    many = {Key("a minute", "ours", f"measure {n}"): exact(n) for n in range(9)}
    (table,) = tables(IDLE._replace(measures=many))
    assert table.columns == ["case", "system", "measure", "measured"]
    assert len(table.rows) == 9


# The figures -------------------------------------------------------------------------------------


def figured() -> list[Result]:
    """Return results with the names of cases, systems and metrics that the benchmarks give."""
    drained = {
        Key(drain.BESIDE, "ours, fast, batches of 500", drain.RATE): exact(20_000.0),
        Key(drain.ONE, "pg-boss, fast", drain.RATE): exact(16_000.0),
        Key(drain.ONE, "pg-boss, default", drain.RATE): exact(12_345.0),
        Key(drain.TWO, "ours, fast, batches of 500", drain.RATE): exact(27_000.0),
    }
    waited = {
        Key(case, system, metric): exact(value)
        for case, system, metric, value in (
            (latency.FIRST, "pgqueuer, fast", latency.P50, 9.25),
            (latency.FIRST, "pgqueuer, fast", latency.P99, 10.0),
            (latency.FIRST, "pgqueuer, default", latency.P50, 4.5),
            (latency.FIRST, "pgqueuer, default", latency.P99, 31.5),
            (latency.BESIDE, "staged, default", latency.P50, 1.75),
            (latency.BESIDE, "staged, default", latency.P99, 6.25),
            (latency.BESIDE, "ours, default", latency.P50, 3.5),
            (latency.BESIDE, "ours, default", latency.P99, 8.5),
        )
    }
    behind = {
        Key(noisy.CASE, system, metric): exact(value)
        for system, of, ahead in (("ours", 50_000.0, 0.0), ("oban", 5_000.0, 4_960.0))
        for metric, value in ((noisy.LEFT, of), (noisy.AHEAD, ahead))
    }
    held = {
        Key(xmin.decile_case(xmin.HELD, part), "ours", xmin.RATE): exact(10_000.0 + part)
        for part in range(1, xmin.DECILES + 1)
    }
    leased = {Key(inflight.leased_case(1_000), "raw", inflight.AGAINST_NONE): exact(0.5)}
    ticked = {
        Key(orgs.orgs_case(count), "ours", metric): exact(5.0)
        for count in (10, 1_000)
        for metric in (orgs.P50, orgs.P99)
    }
    by_name = {"drain": drained, "latency": waited, "noisy": behind}
    by_name |= {"xmin": held, "inflight": leased, "orgs": ticked}
    return [DRAIN._replace(name=name, measures=found) for name, found in by_name.items()]


def test_each_figure_is_drawn_and_shown(tmp_path: Path) -> None:
    written(tmp_path, *figured())
    text = document.compose(tmp_path).read_text()
    for result in figured():
        file = f"figures/speed-{result.name}.svg"
        assert f"]({file})" in text
        ElementTree.parse(tmp_path / file)


def test_a_figure_has_the_right_values(tmp_path: Path) -> None:
    figures.draw(tmp_path, [recorded(result) for result in figured()])
    drained = (tmp_path / "speed-drain.svg").read_text()
    assert all(f">{value}<" in drained for value in ("20,000", "16,000", "27,000"))
    assert ">12,345<" not in drained
    waited = (tmp_path / "speed-latency.svg").read_text()
    assert all(f">{value}<" in waited for value in ("3.5", "8.5", "4.5", "31.5", "1.75"))
    assert ">9.25<" not in waited
    behind = (tmp_path / "speed-noisy.svg").read_text()
    assert all(f">{text}<" in behind for text in ("oban, of 5,000", "4,960", "0"))


def test_figures_are_the_same_each_time(tmp_path: Path) -> None:
    records = [recorded(result) for result in figured()]
    for folder in ("one", "other"):
        figures.draw(tmp_path / folder, records)
    for path in (tmp_path / "one").iterdir():
        assert path.read_bytes() == (tmp_path / "other" / path.name).read_bytes()


def test_what_cannot_be_drawn_leaves_no_figure(tmp_path: Path) -> None:
    figures.draw(tmp_path, [recorded(result) for result in figured()])
    empty = [recorded(result._replace(measures={})) for result in figured()]
    assert figures.draw(tmp_path, empty) == {}
    assert list(tmp_path.iterdir()) == []


# Runs --------------------------------------------------------------------------------------------


def test_a_failing_benchmark_does_not_stop_the_others() -> None:
    told: list[str] = []

    def measure_one(name: str) -> Record:
        if name == "drain":
            raise TimeoutError("waited 30 s in vain for a leader")
        return recorded(IDLE)

    failed, found = measure_all(["drain", "idle"], measure_one, told.append)
    assert (failed.record, failed.error) == (None, "waited 30 s in vain for a leader")
    assert found.record == recorded(IDLE)
    assert "FAILED" in told[1]
    assert told[3].endswith("1 of 1 bars met")


def test_a_failing_benchmark_makes_all_exit_1(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def apart(name: str, options: object) -> Record:
        if name == "drain":
            raise BenchmarkFailed("ended with status 1 (see above)")
        return recorded(IDLE)

    monkeypatch.setattr(suite, "measure_apart", apart)
    assert main(["all", "--only", "idle,drain", "--json"]) == 1
    shown = capsys.readouterr()
    found = json.loads(shown.out)
    assert list(found["benchmarks"]) == ["idle"]
    assert found["failed"] == {"drain": "ended with status 1 (see above)"}
    assert "FAILED" in shown.err
    assert main(["all", "--only", "idle"]) == 0


def test_a_process_that_ends_badly_is_a_failed_benchmark() -> None:
    with pytest.raises(BenchmarkFailed, match="status 2"):
        measure_apart("nothing-of-this-name")


@pytest.mark.parametrize(
    "arguments", [["nothing"], ["all", "--only", "nothing"], ["drain", "--only", "idle"], []]
)
def test_an_unknown_name_is_wrong_usage(arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2


@pytest.mark.usefixtures("measurable")
def test_a_quick_run_writes_nothing(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["drain", "--quick", "--json"]) == 0
    assert list(home.iterdir()) == []
    found = json.loads(capsys.readouterr().out)
    assert found["quick"] is True
    assert found["server"]["fsync"] == found["server"]["synchronous_commit"] == "on"
    assert found["machine"]["fdatasync_ms"] > 0


@pytest.mark.usefixtures("measurable")
def test_a_full_run_writes_its_file_and_the_document(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["drain"]) == 0
    assert record.read(home / "results" / "drain.json").result == DRAIN
    text = (home / "RESULTS.md").read_text()
    assert "## drain" in text
    assert "quick runs" not in text
    shown = capsys.readouterr().out
    assert shown.index("tasks/s") < shown.index("missed")
    assert "the disk is the limit" in shown


@pytest.mark.usefixtures("measurable")
def test_a_quick_run_writes_where_it_is_told_to(home: Path, tmp_path: Path) -> None:
    out = tmp_path / "elsewhere"
    assert main(["drain", "--quick", "--out", str(out)]) == 0
    assert "quick runs, too small to judge" in (out / "RESULTS.md").read_text()
    assert list(home.iterdir()) == [out]
