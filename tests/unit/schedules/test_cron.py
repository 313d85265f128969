"""``crontab``: what its fields mean, and what is refused."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from zmqtasks.errors import ConfigError
from zmqtasks.schedules import crontab, fields
from zmqtasks.schedules.fields import Field

START = datetime(2027, 1, 1, tzinfo=UTC)  # a Friday


def due(found: crontab, count: int, start: datetime = START) -> list[str]:
    """The next moments, as ``01-31 08:00``."""
    result = []
    moment: datetime | None = start
    for _ in range(count):
        assert moment is not None
        moment = found.next_after(moment)
        assert moment is not None
        result.append(f"{moment:%m-%d %H:%M}")
    return result


@pytest.mark.parametrize(
    ("field", "value", "expected"),
    [
        (fields.MINUTE, 7, (7,)),
        (fields.MINUTE, "*", tuple(range(60))),
        (fields.MINUTE, "*/15", (0, 15, 30, 45)),
        (fields.MINUTE, "1,13,30-33,50-59/4", (1, 13, 30, 31, 32, 33, 50, 54, 58)),
        (fields.MINUTE, range(0, 60, 20), (0, 20, 40)),
        (fields.MINUTE, {45, 5}, (5, 45)),
        (fields.MINUTE, ["0-2", 30], (0, 1, 2, 30)),
        (fields.HOUR, "8-17/2", (8, 10, 12, 14, 16)),
        (fields.HOUR, "22-4/2", (0, 2, 4, 22)),
        (fields.HOUR, "22-1", (0, 1, 22, 23)),
        (fields.DAY_OF_WEEK, "mon-fri", (1, 2, 3, 4, 5)),
        (fields.DAY_OF_WEEK, "Sat, Sunday", (0, 6)),
        (fields.DAY_OF_WEEK, "fri-mon", (0, 1, 5, 6)),
        (fields.DAY_OF_WEEK, ["tue", "thursday"], (2, 4)),
        (fields.DAY_OF_MONTH, "*/10", (1, 11, 21, 31)),
        (fields.MONTH_OF_YEAR, "*/3", (1, 4, 7, 10)),
        (fields.MONTH_OF_YEAR, "2-12/2", (2, 4, 6, 8, 10, 12)),
        (fields.MONTH_OF_YEAR, "jan,JUL-september", (1, 7, 8, 9)),
    ],
)
def test_a_field_means_what_it_does_in_celery(
    field: Field, value: Any, expected: tuple[int, ...]
) -> None:
    assert fields.numbers(field, fields.as_text(field, value)) == expected


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"minute": 60}, "minute='60': 60 is not from 0 to 59"),
        ({"minute": -1}, "minute='-1': '-1' cannot be read"),
        ({"hour": "8-24"}, "hour='8-24': 24 is not from 0 to 23"),
        ({"hour": "noon"}, "hour='noon': 'noon' is no number"),
        ({"minute": "5/3"}, "a step needs '\\*' or a range before it: '5-59/3'"),
        ({"minute": "*/0"}, "the step '0' is no number above 0"),
        ({"minute": "*/x"}, "the step 'x' is no number above 0"),
        ({"minute": "1,,2"}, "there is nothing between two commas"),
        ({"minute": ""}, "minute='': there is nothing"),
        ({"minute": "9" * 5000}, "is not from 0 to 59"),
        ({"minute": "*/" + "9" * 5000}, "is no number above 0"),
        ({"minute": "²"}, "'²' is no number"),
        ({"minute": True}, "minute=True: it is a number, a text or a list"),
        ({"minute": 1.5}, "minute=1.5: it is"),
        ({"minute": None}, "minute=None: it is"),
        ({"minute": []}, r"minute=\[\]: it is"),
        ({"minute": [1.5]}, r"minute=\[1.5\]: it is"),
        ({"minute": b"5"}, "minute=b'5': it is"),
        ({"day_of_week": 7}, "7 is not from 0 to 6; Sunday is 0"),
        ({"day_of_week": "someday"}, "'someday' is no number or name; there are sun, mon"),
        ({"month_of_year": "mon"}, "'mon' is no number or name; there are jan, feb"),
        ({"month_of_year": 0}, "0 is not from 1 to 12"),
        ({"day_of_month": 30, "month_of_year": 2}, "never due: no such month has so many days"),
        ({"day_of_month": 31, "month_of_year": "4,jun"}, "never due"),
        ({"timezone": "Mars/Olympus"}, "crontab: timezone 'Mars/Olympus' is not known here"),
        ({"timezone": 2}, "crontab: timezone is a text or a tzinfo, not 2"),
    ],
)
def test_what_means_nothing_is_refused_with_the_field_the_value_and_the_reason(
    given: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        crontab(**given)


def test_without_fields_it_is_due_every_minute() -> None:
    assert due(crontab(), 2) == ["01-01 00:01", "01-01 00:02"]


def test_the_next_moment_is_never_the_one_that_was_asked_about() -> None:
    midnight = crontab(0, 0)
    assert due(midnight, 1) == ["01-02 00:00"]
    assert due(midnight, 1, START - timedelta(microseconds=1)) == ["01-01 00:00"]


def test_positional_fields_are_in_the_order_of_celery() -> None:
    assert crontab(1, 2, 3, 4, 5) == crontab(
        minute=1, hour=2, day_of_week=3, day_of_month=4, month_of_year=5
    )


def test_a_day_must_match_both_the_week_and_the_month() -> None:
    friday_13 = crontab(0, 0, day_of_week="fri", day_of_month=13)
    assert due(friday_13, 2) == ["08-13 00:00", "10-13 00:00"]


def test_short_months_have_no_last_days() -> None:
    assert due(crontab(0, 0, day_of_month="29-31"), 6, START + timedelta(days=30)) == [
        "03-29 00:00",
        "03-30 00:00",
        "03-31 00:00",
        "04-29 00:00",
        "04-30 00:00",
        "05-29 00:00",
    ]


def test_february_29_comes_in_leap_years_only() -> None:
    leap_day = crontab(0, 0, day_of_month=29, month_of_year=2)
    assert leap_day.next_after(START) == datetime(2028, 2, 29, tzinfo=UTC)
    assert leap_day.next_after(datetime(2096, 3, 1, tzinfo=UTC)) == datetime(
        2104, 2, 29, tzinfo=UTC
    )


def test_the_rarest_day_is_found_over_a_century_without_leap_day() -> None:
    rare = crontab(0, 0, day_of_week="mon", day_of_month=29, month_of_year="feb")
    assert rare.next_after(datetime(2072, 3, 1, tzinfo=UTC)) == datetime(2112, 2, 29, tzinfo=UTC)


def test_at_the_end_of_the_calendar_there_is_no_next_moment() -> None:
    end = datetime(9999, 12, 31, 23, 59, 30, tzinfo=UTC)
    for found in (crontab(), crontab(0, 0, day_of_month=1), crontab(timezone="Pacific/Apia")):
        assert found.next_after(end) is None
    assert crontab(0, 0, 0, 1, 1).next_after(datetime(9999, 6, 1, tzinfo=UTC)) is None


def test_an_answer_is_in_utc_whatever_zone_the_question_is_in() -> None:
    morning = crontab(0, 8, timezone="Europe/Berlin")
    berlin = morning.timezone
    assert berlin is not None
    answer = morning.next_after(START.astimezone(berlin))
    assert answer == datetime(2027, 1, 1, 7, tzinfo=UTC)
    assert answer.tzinfo is UTC


def test_a_line_of_cron_has_its_days_in_another_order() -> None:
    line = crontab.from_string(" 0  8 1-7 */2  mon ", timezone="Europe/Berlin")
    assert line == crontab(0, 8, "mon", "1-7", "*/2", timezone="Europe/Berlin")
    with pytest.raises(ConfigError, match="'0 8 \\* \\*' has 4 fields, not 5"):
        crontab.from_string("0 8 * *")


def test_the_timezone_of_an_application_does_not_replace_its_own() -> None:
    own = crontab(0, 8, timezone="Europe/Berlin")
    assert own.in_zone(UTC) is own
    assert crontab(0, 8).in_zone(UTC).timezone is UTC


@pytest.mark.parametrize(
    ("same", "other"),
    [([15, 0], "0,15"), ("mon - fri", "MON-FRI"), ({5}, 5), (iter([1, 2]), (2, 1))],
)
def test_equal_ones_compare_and_hash_alike_however_they_are_written(same: Any, other: Any) -> None:
    name = "day_of_week" if "fri" in str(same) else "minute"
    left, right = crontab(**{name: same}), crontab(**{name: other})
    assert left == right
    assert hash(left) == hash(right)


@pytest.mark.parametrize(
    ("found", "words"),
    [
        (crontab(), "every minute (UTC)"),
        (crontab("*/5"), "every 5 min (UTC)"),
        (crontab("*/5", "8-17"), "every 5 min of hour 8-17 (UTC)"),
        (crontab(30), "at minute 30 of every hour (UTC)"),
        (crontab(0, 8, "mon-fri", timezone="Europe/Berlin"), "at 08:00 on mon-fri (Europe/Berlin)"),
        (crontab("0,30", "8,9"), "at 08:00, 08:30, 09:00, 09:30 (UTC)"),
        (crontab(0, 0, "*", 1, "jan"), "at 00:00 on day 1 of the month in month jan (UTC)"),
    ],
)
def test_it_is_described_in_words(found: crontab, words: str) -> None:
    assert found.describe() == words
