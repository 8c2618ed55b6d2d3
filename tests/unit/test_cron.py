"""Schedules against a brute-force oracle that walks every minute, and the rules one by one."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, timezone
from functools import cache
from itertools import pairwise
from zoneinfo import ZoneInfo

import pytest
from apscheduler.triggers.cron import CronTrigger
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.cron import Cron, parse
from orchestrator.errors import InvalidInput
from tests.conftest import NIGHTLY

MINUTE = timedelta(minutes=1)
BERLIN = ZoneInfo("Europe/Berlin")


def utc(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


def firings(cron: Cron, start: datetime, count: int) -> list[datetime]:
    """Return the next `count` firings after `start`."""
    found: list[datetime] = []
    for _ in range(count):
        start = cron.next_after(start) or pytest.fail("a schedule ended")
        found.append(start)
    return found


def locally(cron: Cron, start: str, count: int) -> list[str]:
    """Return the next firings after a UTC time, as local day, time and offset."""
    zone = ZoneInfo(cron.timezone)
    return [
        each.astimezone(zone).strftime("%d %H:%M%z") for each in firings(cron, utc(start), count)
    ]


def weekdays(expression: str) -> str:
    """Return the weekdays of the firings of one week that begins on a Sunday."""
    start = utc("2024-06-01T23:59")
    found = firings(parse(expression, "UTC"), start, 7)
    return " ".join(each.strftime("%a") for each in found if each < start + timedelta(days=7))


# The oracle. It is given sets of numbers, not text, and asks each minute of a stretch of real time
# whether it fires; the only thing it shares with the code under test is zoneinfo.


@dataclass(frozen=True)
class Written:
    """A field as text and, said independently, the numbers it means."""

    text: str
    numbers: frozenset[int]


@dataclass(frozen=True)
class Expression:
    minute: Written
    hour: Written
    day: Written
    month: Written
    weekday: Written

    def __str__(self) -> str:
        parts = (self.minute, self.hour, self.day, self.month, self.weekday)
        return " ".join(part.text for part in parts)

    def matches(self, wall: datetime) -> bool:
        day = wall.day in self.day.numbers
        # Sunday is 0 in cron and 7 in ISO.
        weekday = wall.isoweekday() % 7 in self.weekday.numbers
        starred = self.day.text[0] == "*" or self.weekday.text[0] == "*"
        return (
            wall.minute in self.minute.numbers
            and wall.hour in self.hour.numbers
            and wall.month in self.month.numbers
            and (day and weekday if starred else day or weekday)
        )


@cache
def minutes(zone: str, first: datetime, days: int) -> tuple[tuple[datetime, datetime], ...]:
    """Return every minute of a stretch as (instant, wall time)."""
    instants = (first + number * MINUTE for number in range(days * 24 * 60))
    return tuple((each, each.astimezone(ZoneInfo(zone)).replace(tzinfo=None)) for each in instants)


def oracle(expression: Expression, zone: str, first: datetime, days: int) -> list[datetime]:
    """Return what fires, by walking minutes and remembering which wall times were seen."""
    every_hour = len(expression.hour.numbers) == 24
    found: list[datetime] = []
    seen: set[datetime] = set()
    previous = None
    for instant, wall in minutes(zone, first, days):
        walls = {wall} if every_hour else {wall} - seen
        if not every_hour and previous is not None:
            skipped = range(1, max(0, (wall - previous) // MINUTE))
            walls |= {previous + number * MINUTE for number in skipped} - seen
        seen |= walls
        if any(expression.matches(each) for each in walls):
            found.append(instant)
        previous = wall
    return found


def items(low: int, high: int) -> st.SearchStrategy[Written]:
    """Generate `*`, numbers, ranges and steps."""
    number = st.integers(low, high)
    step = st.integers(1, high - low)
    pair = st.tuples(number, number).map(sorted)

    def stepped(ends: Iterable[int], step: int) -> Written:
        first, last = ends
        step = min(step, max(last - first, 1))
        return Written(f"{first}-{last}/{step}", frozenset(range(first, last + 1, step)))

    return st.one_of(
        number.map(lambda one: Written(str(one), frozenset({one}))),
        pair.map(
            lambda ends: Written(f"{ends[0]}-{ends[1]}", frozenset(range(ends[0], ends[1] + 1)))
        ),
        st.builds(stepped, pair, step),
        step.map(lambda one: Written(f"*/{one}", frozenset(range(low, high + 1, one)))),
    )


def fields(low: int, high: int) -> st.SearchStrategy[Written]:
    """Generate `*` half of the time, else a list of one to three items."""
    everything = Written("*", frozenset(range(low, high + 1)))
    several = st.lists(items(low, high), min_size=1, max_size=3).map(
        lambda parts: Written(
            ",".join(part.text for part in parts),
            frozenset[int]().union(*(part.numbers for part in parts)),
        )
    )
    return st.just(everything) | several


def sundays(written: Written) -> Written:
    return Written(written.text, frozenset(number % 7 for number in written.numbers))


EXPRESSIONS = st.builds(
    Expression,
    minute=fields(0, 59),
    hour=fields(0, 23),
    day=fields(1, 31),
    month=st.just(Written("*", frozenset(range(1, 13)))),
    weekday=fields(0, 7).map(sundays),
)
# Zones whose clocks jump in that week: by an hour, by half an hour, at midnight, by a whole day.
STRETCHES = st.sampled_from(
    [
        ("Europe/Berlin", utc("2024-03-29T00:00")),
        ("Europe/Berlin", utc("2024-10-25T00:00")),
        ("America/New_York", utc("2024-03-08T00:00")),
        ("America/New_York", utc("2024-11-01T00:00")),
        ("Australia/Lord_Howe", utc("2024-04-05T00:00")),
        ("Australia/Lord_Howe", utc("2024-10-04T00:00")),
        ("America/Santiago", utc("2024-04-05T00:00")),
        ("America/Santiago", utc("2024-09-06T00:00")),
        ("Pacific/Apia", utc("2011-12-28T00:00")),
        ("Asia/Kolkata", utc("2024-02-27T00:00")),
        ("UTC", utc("2024-12-30T00:00")),
    ]
)
DAYS = 4


@settings(max_examples=1_000 if NIGHTLY else 100)
@given(expression=EXPRESSIONS, stretch=STRETCHES, data=st.data())
def test_every_firing_is_the_one_found_by_walking_the_minutes(
    expression: Expression, stretch: tuple[str, datetime], data: st.DataObject
) -> None:
    zone, first = stretch
    expected = oracle(expression, zone, first, DAYS)
    cron = parse(str(expression), zone)
    # The oracle knows nothing of what came before its first minute.
    start = first + data.draw(st.integers(1, (DAYS - 1) * 24 * 60), label="minutes in") * MINUTE
    following = [each for each in expected if each > start][:40]
    for instant in following:
        found = cron.next_after(start)
        assert found == instant
        start = instant
    if len(following) < 40:
        last = cron.next_after(start)
        assert last is None or last >= first + timedelta(days=DAYS)


@given(
    expression=EXPRESSIONS,
    instant=st.datetimes(utc("2000-01-01T00:00").replace(tzinfo=None), timezones=st.just(UTC)),
)
def test_a_firing_is_after_the_instant_asked_for_on_a_whole_minute_and_in_utc(
    expression: Expression, instant: datetime
) -> None:
    found = parse(str(expression), "Europe/Berlin").next_after(instant)
    assert found is None or (found > instant and found.second == found.microsecond == 0)
    assert found is None or found.tzinfo is UTC
    assert found is not None or instant.year == 9999


@given(st.text(max_size=60) | st.text("0123456789*/-,@ monLW#?", max_size=30))
@settings(max_examples=5_000 if NIGHTLY else 200)
def test_any_text_is_parsed_or_refused_as_invalid_input(text: str) -> None:
    try:
        cron = parse(text, "UTC")
    except InvalidInput:
        return
    assert cron.next_after(utc("2024-01-01T00:00")) is not None


@pytest.mark.parametrize(
    ("field", "expected"),
    [
        ("0", "Sun"),
        ("7", "Sun"),
        ("1", "Mon"),
        ("sun", "Sun"),
        ("Mon,WED", "Mon Wed"),
        ("1-5", "Mon Tue Wed Thu Fri"),
        ("5-7", "Sun Fri Sat"),
        ("FRI-SUN", "Sun Fri Sat"),
        ("SUN-TUE", "Sun Mon Tue"),
        ("*/2", "Sun Tue Thu Sat"),
        ("1-6/2", "Mon Wed Fri"),
        ("0-7", "Sun Mon Tue Wed Thu Fri Sat"),
        ("*", "Sun Mon Tue Wed Thu Fri Sat"),
    ],
)
def test_weekdays_count_from_sunday_as_0_and_7(field: str, expected: str) -> None:
    assert weekdays(f"0 0 * * {field}") == expected


@pytest.mark.parametrize(
    ("alias", "expected"),
    [
        ("@hourly", "2024-06-05T13:00"),
        ("@daily", "2024-06-06T00:00"),
        ("@midnight", "2024-06-06T00:00"),
        ("@weekly", "2024-06-09T00:00"),
        ("@monthly", "2024-07-01T00:00"),
        ("@yearly", "2025-01-01T00:00"),
        ("@annually", "2025-01-01T00:00"),
        (" @Daily ", "2024-06-06T00:00"),
    ],
)
def test_aliases_stand_for_their_expressions(alias: str, expected: str) -> None:
    assert parse(alias, "UTC").next_after(utc("2024-06-05T12:34")) == utc(expected)


def test_months_are_named_or_numbered() -> None:
    names, numbers = parse("0 0 1 jan,OCT-Dec *", "UTC"), parse("0 0 1 1,10-12 *", "UTC")
    start = utc("2024-01-01T00:00")
    assert firings(names, start, 9) == firings(numbers, start, 9)
    assert [each.month for each in firings(names, start, 4)] == [10, 11, 12, 1]


def test_a_day_of_month_or_a_weekday_fires_where_both_are_restricted() -> None:
    days = firings(parse("0 0 13 * FRI", "UTC"), utc("2024-09-01T00:00"), 5)
    assert [each.day for each in days] == [6, 13, 20, 27, 4]
    days = firings(parse("0 0 12 * FRI", "UTC"), utc("2024-09-01T00:00"), 5)
    assert [each.day for each in days] == [6, 12, 13, 20, 27]


def test_a_starred_day_field_narrows_the_other_one() -> None:
    days = firings(parse("0 0 */2 * MON", "UTC"), utc("2024-09-01T00:00"), 3)
    assert [each.day for each in days] == [9, 23, 7]  # Mondays on odd days


def test_the_29th_of_february_waits_for_a_leap_year() -> None:
    assert parse("0 0 29 2 *", "UTC").next_after(utc("2096-03-01T00:00")) == utc("2104-02-29T00:00")


def test_a_firing_at_the_instant_asked_for_is_past() -> None:
    cron = parse("30 9 * * *", "UTC")
    assert cron.next_after(utc("2024-06-05T09:29:59.999999")) == utc("2024-06-05T09:30")
    assert cron.next_after(utc("2024-06-05T09:30")) == utc("2024-06-06T09:30")


def test_an_instant_of_another_zone_is_understood() -> None:
    instant = datetime(2024, 6, 5, 11, 0, tzinfo=timezone(timedelta(hours=2)))
    assert parse("30 9 * * *", "UTC").next_after(instant) == utc("2024-06-05T09:30")


def test_after_the_last_year_nothing_fires() -> None:
    for expression in ("0 0 1 1 *", "0 * * * *", "59 23 31 12 *"):
        assert parse(expression, "America/New_York").next_after(utc("9999-12-31T23:59")) is None


def test_a_time_of_day_skipped_by_the_clocks_fires_at_the_jump() -> None:
    cron = parse("30 2 * * *", "Europe/Berlin")
    assert locally(cron, "2024-03-29T12:00", 3) == [
        "30 02:30+0100",
        "31 03:00+0200",
        "01 02:30+0200",
    ]
    several = parse("*/10 2 * * *", "Europe/Berlin")
    assert locally(several, "2024-03-30T12:00", 2) == ["31 03:00+0200", "01 02:00+0200"]


def test_a_time_of_day_repeated_by_the_clocks_fires_the_first_time_only() -> None:
    cron = parse("30 2 * * *", "Europe/Berlin")
    assert locally(cron, "2024-10-26T12:00", 2) == ["27 02:30+0200", "28 02:30+0100"]
    between = "2024-10-27T01:10"  # 02:10 for the second time
    assert locally(cron, between, 1) == ["28 02:30+0100"]


def test_an_every_hour_schedule_keeps_its_pace_when_the_clocks_change() -> None:
    cron = parse("*/20 * * * *", "Europe/Berlin")
    for change in ("2024-03-31T00:00", "2024-10-27T00:00"):
        found = firings(cron, utc(change), 12)
        assert {b - a for a, b in pairwise(found)} == {timedelta(minutes=20)}


def test_the_jump_is_found_to_the_minute_from_either_side() -> None:
    jump, hourly = utc("2024-03-31T01:00"), parse("@hourly", "Europe/Berlin")
    for minute in range(60):
        assert hourly.next_after(jump - (minute + 1) * MINUTE) == jump
        skipped = parse(f"{minute} 2 * * *", "Europe/Berlin")
        assert skipped.next_after(utc("2024-03-30T12:00")) == jump


def test_the_reason_wall_times_are_resolved_here_still_holds() -> None:
    def ask(trigger: CronTrigger, after: str) -> datetime:
        found = trigger.get_next_fire_time(None, utc(after).astimezone(BERLIN))
        assert isinstance(found, datetime)
        return found.astimezone(UTC)

    daily = CronTrigger(hour=2, minute=30, timezone=BERLIN)
    assert ask(daily, "2024-10-27T00:31") == utc("2024-10-27T01:30")  # a second time that day
    early = CronTrigger(hour=0, minute=30, timezone=BERLIN)
    assert ask(early, "2024-03-31T00:10") == utc("2024-04-01T22:30")  # a day is missed
    ours = parse("30 0 * * *", "Europe/Berlin")
    assert ours.next_after(utc("2024-03-31T00:10")) == utc("2024-03-31T22:30")


@pytest.mark.parametrize(
    ("expression", "words"),
    [
        ("61 * * * *", ["minute", "61 is not in 0-59", "'*/15'"]),
        ("* 24 * * *", ["hour", "24 is not in 0-23", "'9-17'"]),
        ("* * 0 * *", ["day of month", "0 is not in 1-31", "'1,15'"]),
        ("* * * 13 *", ["month", "13 is not in 1-12", "'JAN-MAR'"]),
        ("* * * * 8", ["day of week", "8 is not in 0-7", "'MON-FRI'"]),
        ("* * * FOO *", ["month", "'foo' is not one of JAN, FEB"]),
        ("* * * * MONDAY", ["day of week", "'monday'", "'MON-FRI'"]),
        ("MON * * * *", ["minute", "'mon' is not a number"]),
        ("* 22-4 * * *", ["hour", "backwards", "'22-23,0-4'"]),
        ("* * * NOV-FEB *", ["month", "backwards", "'nov-12,1-feb'"]),
        ("5/10 * * * *", ["minute", "'5-59/10'"]),
        ("*/0 * * * *", ["minute", "step 0", "1-59"]),
        ("*/60 * * * *", ["minute", "step 60", "1-59"]),
        ("1,,2 * * * *", ["minute", "'' is not a number"]),
        ("-1 * * * *", ["minute", "'-1'"]),
        ("* * L * *", ["day of month", "'l'"]),
        ("* * ? * *", ["day of month", "'?'"]),
        ("* * * * 5#2", ["day of week", "'5#2'"]),
        ("0 0 30 2 *", ["day of month", "never fire", "'0 0 28 2 *'"]),
        ("0 0 31 2,4,6,9,11 *", ["day of month", "never fire"]),
        ("0 0 12 * * MON", ["6 fields", "'30 9 * * MON-FRI'"]),
        ("* * * *", ["4 fields"]),
        ("", ["0 fields"]),
        ("@reboot", ["'@reboot'", "@daily"]),
        ("1," * 400 + "1 * * * *", ["characters", "500"]),
    ],
)
def test_a_bad_expression_is_refused_by_name_with_a_right_example(
    expression: str, words: list[str]
) -> None:
    with pytest.raises(InvalidInput) as caught:
        parse(expression, "UTC")
    assert [word for word in words if word not in str(caught.value)] == []


def test_what_a_refusal_proposes_is_accepted() -> None:
    for expression in (
        "* 22-23,0-4 * * *", "* * * nov-12,1-feb *", "5-59/10 * * * *", "0 0 28 2 *",
        "30 9 * * MON-FRI", "*/15 9-17 1,15 JAN-MAR MON-FRI",
    ):  # fmt: skip
        assert parse(expression, "UTC").expression == expression


def test_an_impossible_day_beside_a_weekday_leaves_the_weekday() -> None:
    found = firings(parse("0 0 30 2 MON", "UTC"), utc("2024-02-01T00:00"), 5)
    assert [(each.month, each.day) for each in found] == [(2, 5), (2, 12), (2, 19), (2, 26), (2, 3)]


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("Europe/Berln", "did you mean 'Europe/Berlin'?"),
        ("Nowhere at all", "use a name such as 'Europe/Berlin'"),
        ("", "unknown time zone ''"),
        ("America", "unknown time zone 'America'"),
        ("../etc/passwd", "unknown time zone"),
        ("a\0b", "unknown time zone"),
        ("x" * 5000, "unknown time zone"),
    ],
)
def test_an_unknown_time_zone_is_refused(name: str, words: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        parse("@daily", name)
    assert words in str(caught.value)


def test_a_naive_instant_is_refused() -> None:
    with pytest.raises(InvalidInput, match="aware"):
        parse("@daily", "UTC").next_after(datetime(2024, 1, 1))  # noqa: DTZ001


def test_schedules_are_equal_when_their_words_are() -> None:
    assert parse("@daily", "UTC") == parse("@daily", "UTC") != parse("@daily", "Europe/Berlin")
    assert repr(parse("@daily", "UTC")) == "Cron(expression='@daily', timezone='UTC')"
