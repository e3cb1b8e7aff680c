"""Triggers: values that never refuse, and what `build()` hears of a schedule that cannot fire."""

from datetime import timedelta

import pytest

from orchestrator.definition.triggers import ManualTrigger, ScheduleTrigger, cron_problem, manual, schedule


def test_the_defaults_are_those_of_the_api():
    assert manual("api") == ManualTrigger("api")
    assert schedule("0 * * * *") == ScheduleTrigger(
        cron="0 * * * *", timezone="UTC", overlap="skip", catch_up=timedelta(0), input=None
    )


@pytest.mark.parametrize(
    "cron",
    [
        "0 */4 * * *",
        "* * * * *",
        "@daily",
        "@hourly",
        "@weekly",
        "@yearly",
        "0 9 * * mon-fri",
        "0 0 29 2 *",
        "0 0 L * *",
    ],
)
def test_a_schedule_that_fires_has_no_problem(cron):
    assert cron_problem(schedule(cron, timezone="Europe/Vienna", catch_up=timedelta(hours=1))) is None


@pytest.mark.parametrize(
    ("cron", "reason"),
    [
        ("", "0 fields"),
        ("* * * *", "4 fields"),
        ("0 * * * * *", "6 fields"),
        ("0 0 0 * * * *", "7 fields"),
        ("61 * * * *", "never fires"),
        ("*/0 * * * *", "never fires"),
        ("0 0 30 2 *", "never fires"),
        ("0 0 31 4,6,9,11 *", "never fires"),
        ("@reboot", "never fires"),
        ("@every 5m", "never fires"),
        ("every day at nine o'clock", "never fires"),
        ("R R * * *", "random"),
        ("0 1,r(2-4) * * *", "random"),
        ("H H * * *", "never fires"),
        ("\ud800 * * * *", "never fires"),
        ("٣ * * * *", "never fires"),
        (None, "not a str"),
        (5, "not a str"),
        (b"* * * * *", "not a str"),
    ],
)
def test_a_cron_that_never_fires_is_explained(cron, reason):
    problem = cron_problem(schedule(cron))
    assert problem is not None
    assert reason in problem


@pytest.mark.parametrize(
    "zone", ["Mars/Phobos", "", "../etc/passwd", "/etc/passwd", "a\0b", "\ud800", "Europe", "A" * 5000, None, 5]
)
def test_an_unknown_time_zone_is_explained(zone):
    problem = cron_problem(schedule("@daily", timezone=zone))
    assert problem is not None
    assert "time zone" in problem
    assert len(problem) < 300


def test_other_options_are_checked():
    assert cron_problem(schedule("@daily", overlap="allow")) is None
    assert "overlap" in str(cron_problem(schedule("@daily", overlap="often")))  # type: ignore[arg-type]
    assert "catch_up" in str(cron_problem(schedule("@daily", catch_up=timedelta(seconds=-1))))
    assert "catch_up" in str(cron_problem(schedule("@daily", catch_up=60)))  # type: ignore[arg-type]
    assert cron_problem(schedule("@daily", priority=9)) is None
    assert "the priority is -1" in str(cron_problem(schedule("@daily", priority=-1)))
