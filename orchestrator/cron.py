"""When a schedule fires: cron(5) expressions in a time zone.

An expression is parsed here into plain sets of numbers, and APScheduler's `CronTrigger` walks them.
Two things of `CronTrigger` are deliberately not used:

* its `from_crontab`, which reads weekday 0 as Monday, refuses 7, and demands that day of month
  *and* day of week match where cron(5) asks for either;
* its time zones. In 3.11 a daily job inside the repeated hour of autumn fires twice, and a job due
  soon after midnight can be missed on the day after the clocks went forward (a test pins both).

So the trigger walks *wall times* (labelled UTC, where no hour is missing or doubled), and this
module turns wall times into instants by the rule of cron(5):

* **Every-hour schedules** (all 24 hours allowed: `*/15 * * * *`, `@hourly`) follow elapsed time.
  A skipped hour holds no firing, a repeated hour holds its firings twice: `*/15` stays 15 minutes.
* **All others** name a time of day and fire once for each wall time. Where the clocks skip that
  time, they fire at the instant of the jump (several skipped times make one firing); where the
  clocks repeat it, they fire at its first occurrence only.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo, available_timezones

from apscheduler.triggers.base import BaseTrigger
from apscheduler.triggers.combining import OrTrigger
from apscheduler.triggers.cron import CronTrigger

from orchestrator.errors import InvalidInput

# Longer than any sensible list of values; keeps error messages and parsing bounded.
_EXPRESSION_MAX_CHARS = 500
# A leap year: the 29th of February does come, the 30th never does.
_DAYS_IN_MONTH = (31, 29, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31)
_MINUTE = timedelta(minutes=1)
_ALL: frozenset[int] = frozenset()

_ALIASES: Mapping[str, str] = {
    "@hourly": "0 * * * *",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@weekly": "0 0 * * 0",
    "@monthly": "0 0 1 * *",
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
}
_PART = re.compile(
    r"(?:(?P<star>\*)|(?P<first>[0-9]{1,9}|[a-z]{3})(?:-(?P<last>[0-9]{1,9}|[a-z]{3}))?)"
    r"(?:/(?P<step>[0-9]{1,9}))?"
)


@dataclass(frozen=True, slots=True)
class _Field:
    """One of the five fields: the numbers and names it takes, and an example for messages."""

    name: str
    low: int
    high: int
    example: str
    names: tuple[str, ...] = ()


_MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
_WEEKDAYS = ("sun", "mon", "tue", "wed", "thu", "fri", "sat")
_FIELDS = (
    _Field("minute", 0, 59, "*/15"),
    _Field("hour", 0, 23, "9-17"),
    _Field("day of month", 1, 31, "1,15"),
    _Field("month", 1, 12, "JAN-MAR", _MONTHS),
    # 7 is Sunday as well, so that 5-7 can be written.
    _Field("day of week", 0, 7, "MON-FRI", _WEEKDAYS),
)


@dataclass(frozen=True, slots=True)
class Cron:
    """A parsed schedule; equal when expression and time zone are."""

    expression: str
    timezone: str
    _zone: ZoneInfo = field(repr=False, compare=False)
    _walls: BaseTrigger = field(repr=False, compare=False)
    every_hour: bool = field(repr=False, compare=False)

    def next_after(self, instant: datetime) -> datetime | None:
        """Return the first firing strictly after an instant, in UTC; None past the last year.

        `instant` is aware, of any zone; a naive one raises `InvalidInput`. Around changes of the
        clock the module's docstring says what fires.
        """
        if instant.tzinfo is None:
            raise InvalidInput(
                f"cannot tell what follows {instant.isoformat()}: give an aware datetime, "
                "such as datetime.now(timezone.utc)"
            )
        start = instant.astimezone(UTC)
        try:
            return self._next_elapsed(start) if self.every_hour else self._next_wall(start)
        except OverflowError:  # the calendar ends with year 9999
            return None

    def _next_wall(self, start: datetime) -> datetime | None:
        """Return the first instant after `start` to which a matching wall time resolves.

        Resolving keeps order, so no wall time before that of `start` can resolve to later than it.
        The loop ends: only wall times inside one repeated stretch can resolve to before `start`.
        """
        for wall in self._walls_from(self._wall_at(start)):
            found = self._resolve(wall)
            if found > start:
                return found
        return None

    def _next_elapsed(self, start: datetime) -> datetime | None:
        """Return the first instant after `start` whose wall time matches, stretch by stretch.

        A stretch is a time without a change of the clock. Inside one, wall time is elapsed time.
        """
        begin = start.replace(second=0, microsecond=0) + _MINUTE
        while True:
            offset = self._offset_at(begin)
            wall = next(self._walls_from(_naive(begin) + offset), None)
            if wall is None:
                return None
            found = (wall - offset).replace(tzinfo=UTC)
            if self._offset_at(found) == offset:
                return found
            begin = self._change_between(begin, found)

    def _walls_from(self, wall: datetime) -> Iterator[datetime]:
        """Yield the matching wall times (naive) at or after a wall time, in order."""
        while True:
            found = self._walls.get_next_fire_time(None, wall.replace(tzinfo=UTC))
            if found is None:
                return
            wall = found.replace(tzinfo=None)
            yield wall
            wall += _MINUTE

    def _resolve(self, wall: datetime) -> datetime:
        """Return the instant of a wall time: the first of two; the jump where there is none."""
        first = wall.replace(tzinfo=self._zone, fold=0).astimezone(UTC)
        if self._wall_at(first) == wall:
            return first
        # A skipped wall time, read with the offset from before the jump, lies after the jump;
        # read with the offset from after it (fold=1), it lies before.
        return self._change_between(wall.replace(tzinfo=self._zone, fold=1).astimezone(UTC), first)

    def _change_between(self, before: datetime, after: datetime) -> datetime:
        """Return the first minute with another offset than `before`, which `after` must have."""
        offset = self._offset_at(before)
        minutes, known = 0, (after - before) // _MINUTE
        while known - minutes > 1:
            middle = (minutes + known) // 2
            if self._offset_at(before + middle * _MINUTE) == offset:
                minutes = middle
            else:
                known = middle
        return before + known * _MINUTE

    def _wall_at(self, instant: datetime) -> datetime:
        return _naive(instant.astimezone(self._zone))

    def _offset_at(self, instant: datetime) -> timedelta:
        return self._wall_at(instant) - _naive(instant)


def parse(expression: str, timezone: str) -> Cron:
    """Parse a cron(5) expression; raise `InvalidInput` naming the field that is wrong.

    Five fields: minute, hour, day of month, month, day of week. Each is a list of `*`, numbers,
    ranges, and steps over `*` or a range; months and weekdays also by their first three letters, in
    any case. Weekdays 0 and 7 are Sunday. Also `@hourly`, `@daily`, `@midnight`, `@weekly`,
    `@monthly`, `@yearly`, `@annually`.

    Where day of month and day of week are both restricted, either of them fires; a field that
    starts with `*` is not restricted, so `*/2` there narrows the other field instead.

    An expression that can never fire is refused, and so is a zone that is not in the time zone
    database.
    """
    zone = _zone(timezone)
    texts = _fields_of(expression)
    minutes, hours, days, months, weekdays = (
        _parse_field(spec, text, expression) for spec, text in zip(_FIELDS, texts, strict=True)
    )
    either = not (texts[2].startswith("*") or texts[4].startswith("*"))
    triggers = []
    # A day that never comes is left out: CronTrigger would look for it up to the year 9999.
    if any(min(days) <= _DAYS_IN_MONTH[month - 1] for month in months):
        triggers.append(_trigger(minutes, hours, days, months, _ALL if either else weekdays))
    if either:
        triggers.append(_trigger(minutes, hours, _ALL, months, weekdays))
    if not triggers:
        raise InvalidInput(
            f"cron expression {expression!r}, day of month: no such day in the months it names, "
            "so it would never fire; for example '0 0 28 2 *'"
        )
    return Cron(expression, timezone, zone, OrTrigger(triggers), every_hour=len(hours) == 24)


def _trigger(
    minutes: frozenset[int],
    hours: frozenset[int],
    days: frozenset[int],
    months: frozenset[int],
    weekdays: frozenset[int],
) -> BaseTrigger:
    """Return a trigger over wall times that match all of its fields; `_ALL` is no restriction."""
    return CronTrigger(
        minute=_listed(minutes),
        hour=_listed(hours),
        day=_listed(days),
        month=_listed(months),
        # Of CronTrigger's weekdays, Monday is 0.
        day_of_week=_listed(frozenset((number - 1) % 7 for number in weekdays)),
        timezone=UTC,
    )


def _zone(name: str) -> ZoneInfo:
    try:
        return ZoneInfo(name)
    except (LookupError, ValueError, OSError) as error:  # no zone, no zone name, a folder of zones
        near = difflib.get_close_matches(name, available_timezones(), n=1)
        hint = f"did you mean {near[0]!r}?" if near else "use a name such as 'Europe/Berlin'"
        raise InvalidInput(f"unknown time zone {name!r}: {hint}") from error


def _fields_of(expression: str) -> list[str]:
    """Return the five fields in lower case, aliases written out."""
    if len(expression) > _EXPRESSION_MAX_CHARS:
        raise InvalidInput(
            f"cron expression of {len(expression)} characters: at most {_EXPRESSION_MAX_CHARS}"
        )
    text = expression.strip().lower()
    if text.startswith("@") and text not in _ALIASES:
        raise InvalidInput(f"unknown cron alias {expression!r}: use one of {', '.join(_ALIASES)}")
    texts = _ALIASES.get(text, text).split()
    if len(texts) != len(_FIELDS):
        raise InvalidInput(
            f"cron expression {expression!r} has {len(texts)} fields instead of 5: give minute, "
            "hour, day of month, month, day of week, such as '30 9 * * MON-FRI'"
        )
    return texts


def _parse_field(spec: _Field, text: str, expression: str) -> frozenset[int]:
    """Return the numbers one field allows."""
    try:
        return frozenset(number for part in text.split(",") for number in _parse_part(spec, part))
    except ValueError as error:
        raise InvalidInput(
            f"cron expression {expression!r}, {spec.name}: {error}; for example {spec.example!r}"
        ) from error


def _parse_part(spec: _Field, part: str) -> range:
    """Return the numbers of one list item; raise ValueError saying what is wrong with it."""
    match = _PART.fullmatch(part)
    if match is None:
        raise ValueError(f"{part!r} is not a number, a name, a range or a step")
    if match["star"]:
        first, last = spec.low, spec.high
    else:
        first = _number(spec, match["first"])
        last = first if match["last"] is None else _number(spec, match["last"])
        if last == 0 < first and spec.names is _WEEKDAYS:
            last = 7  # FRI-SUN
    if last < first:
        raise ValueError(
            f"{part!r} runs backwards, write "
            f"'{match['first']}-{spec.high},{spec.low}-{match['last']}'"
        )
    if match["step"] is None:
        return range(first, last + 1)
    if match["first"] and not match["last"]:
        raise ValueError(
            f"{part!r} steps over one value, write '{first}-{spec.high}/{match['step']}'"
        )
    step, step_max = int(match["step"]), max(last - first, 1)
    if not 1 <= step <= step_max:
        raise ValueError(f"step {step} of {part!r} is not in 1-{step_max}")
    return range(first, last + 1, step)


def _number(spec: _Field, text: str) -> int:
    if text in spec.names:
        return spec.names.index(text) + spec.low
    if text.isalpha():
        known = f"one of {', '.join(spec.names).upper()}" if spec.names else "a number"
        raise ValueError(f"{text!r} is not {known}")
    number = int(text)
    if not spec.low <= number <= spec.high:
        raise ValueError(f"{number} is not in {spec.low}-{spec.high}")
    return number


def _listed(numbers: frozenset[int]) -> str:
    return ",".join(str(number) for number in sorted(numbers)) or "*"


def _naive(instant: datetime) -> datetime:
    return instant.replace(tzinfo=None, fold=0)
