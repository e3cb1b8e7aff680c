"""Crons in words, and nothing where words would be wrong."""

from __future__ import annotations

import pytest

from orchestrator.web.cron_words import cron_words


@pytest.mark.parametrize(
    ("cron", "words"),
    [
        ("* * * * *", "every minute"),
        ("*/5 * * * *", "every 5 minutes"),
        ("0 * * * *", "every hour"),
        ("15 * * * *", "every hour at minute 15"),
        ("5,35 * * * *", "every hour at minutes 5 and 35"),
        ("0 */4 * * *", "every 4 hours"),
        ("30 2 * * *", "every day at 02:30"),
        ("0 8,12 * * *", "every day at 08:00 and 12:00"),
        ("0 9-17 * * *", "every hour from 09:00 to 17:00"),
        ("*/10 8-17 * * 1-5", "every 10 minutes from 08:00 to 17:50 on Monday to Friday"),
        ("0,30 9-17 * * mon-fri", "every hour at minutes 0 and 30 from 09:00 to 17:30 on Monday to Friday"),
        ("* 9 * * *", "every minute from 09:00 to 09:59"),
        ("0 9 * * SAT,SUN", "at 09:00 on Saturday and Sunday"),
        ("0 9 * * 5-7", "at 09:00 on Friday to Sunday"),
        ("0 0 * * 1,3,5", "at 00:00 on Monday, Wednesday and Friday"),
        ("0 9 * * 1#2", "at 09:00 on the second Monday of the month"),
        ("0 9 * * L5", "at 09:00 on the last Friday of the month"),
        ("0 0 1 * *", "at 00:00 on day 1 of the month"),
        ("0 0 1-7 * *", "at 00:00 on days 1 to 7 of the month"),
        ("0 0 L * *", "at 00:00 on the last day of the month"),
        ("0 9 1 * 1", "at 09:00 on day 1 of the month or on Monday"),
        ("0 9 * jun-aug *", "every day at 09:00 in June, July and August"),
        ("@daily", "every day at 00:00"),
    ],
)
def test_a_cron_in_words(cron, words):
    assert cron_words(cron) == words


@pytest.mark.parametrize(
    "cron",
    [
        "*/7 * * * *",
        "0 */5 * * *",
        "15 3 */2 * *",
        "5 0-23/2 * * *",
        "@reboot",
        "0 0 0 * *",
        "0 9 * * 1,l5",
        "",
        "R * * * *",
    ],
)
def test_no_words_rather_than_wrong_ones(cron):
    assert cron_words(cron) == ""
