"""The demo as a user runs it: what it shows, and that nothing of it is left, however it ends."""

import fcntl
import os
import re
import signal
import sqlite3
import subprocess
import sys
import urllib.request
import uuid
from contextlib import closing, suppress
from pathlib import Path

import pytest

from tests.harness import ROOT, wait_until

MARK = "DEMO_UNDER_TEST"
WORKER = re.compile(r"as (worker-\d), pid (\d+)")


class Demo:
    """A demo in a directory of its own; all that it starts carries its mark in the environment."""

    def __init__(self, home: Path, *options: str) -> None:
        self.home = home
        self.mark = uuid.uuid4().hex
        self.printed = home.with_suffix(".txt")
        with self.printed.open("w") as out:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "workers.demo", str(home), *options],
                cwd=ROOT,
                env=os.environ | {MARK: self.mark},
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def text(self) -> str:
        return self.printed.read_text()

    def wait_for(self, words: str) -> None:
        def is_there() -> bool:
            assert self.process.poll() is None, self.text()
            return words in self.text()

        wait_until(is_there, words, timeout=60)

    def ends_with(self, code: int, *, within: float) -> str:
        """Wait for the end and return what was printed."""
        assert self.process.wait(within) == code, self.text()
        return self.text()

    def processes(self) -> dict[int, str]:
        """Every living process that carries the mark, by id."""
        mark, found = f"{MARK}={self.mark}".encode(), {}
        for entry in Path("/proc").glob("[0-9]*"):
            try:
                if mark in (entry / "environ").read_bytes():
                    found[int(entry.name)] = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode()
            except OSError:  # it ended in between, or is somebody else's
                continue
        return found


@pytest.fixture
def demo(tmp_path):
    running = Demo(tmp_path / "demo")
    yield running
    if running.process.poll() is None:
        running.process.kill()
        running.process.wait()
    for pid in running.processes():  # of a failed test, one by one
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def test_it_shows_a_run_and_a_refusal_and_leaves_nothing_running(demo):
    text = demo.ends_with(0, within=100)

    # the table, with a line for the rest, and the branch
    header, *rows = text[text.index("package  ") :].splitlines()[:25]
    assert header.split()[-1] == "findings"
    assert all(re.search(r"\S+ +\S+ +\d+ +\d+\.\d +(\d+\.\d|-) +\d+  \S", row) for row in rows), text
    assert "\nall 24 of the sample " in text
    assert re.search(r"\(\d+ more are installed", text)
    assert re.search(r"The branch that was taken: (review list\n  \w+|clean bill)", text)

    # the timeline, in which the limiter made lanes wait and the locked database cost an attempt
    timeline = text[text.index("TIMELINE of run 1") :]
    assert re.search(r"^inspect-disk +\d+\.\d\ds +\d+\.\d\ds +\| *#+ *\| +1 attempt$", timeline, re.MULTILINE)
    assert re.search(r"^time-imports-\d .*\| *\.+#+ *\| +1 attempt, \d\.\d\d s for a token$", timeline, re.MULTILINE)
    assert re.search(r"^store-rows .*\| *[#~]+ *\| +\d attempts, \d\.\d\d s for a retry$", timeline, re.MULTILINE)
    assert "waiting for a token of interpreter-starts" in text
    assert re.search(r"store-rows +retrying in \d+ ms\n +packages.sqlite was locked", text)

    # the compensation, told by the history and by the database
    second = text[text.index("RUN 2") :]
    assert re.search(
        r"check-policy +failed\n.*run-ending failed\n.*remove-rows +started\n.*remove-rows +succeeded", second
    )
    assert "Run 2 failed: check-policy: the strict policy refuses" in second
    (removed,) = re.findall(r"^  run 2, (\S+): 0$", second, re.MULTILINE)
    (kept,) = re.findall(r"^  run 1, (\S+): 24$", second, re.MULTILINE)
    with closing(sqlite3.connect(demo.home / "packages.sqlite")) as database:
        stored = database.execute("SELECT run_id, COUNT(*) FROM packages GROUP BY run_id").fetchall()
        verdicts = database.execute("SELECT run_id FROM verdicts").fetchall()
    assert (stored, verdicts) == ([(kept, 24)], [(kept,)])
    assert removed != kept

    assert demo.processes() == {}


@pytest.mark.chaos_long
def test_it_leaves_flower_open_until_it_is_stopped(tmp_path):
    demo = Demo(tmp_path / "demo", "--keep")
    try:
        demo.wait_for("Ctrl-C ends Flower")
        (page,) = re.findall(r"^Run 1: +(http://127\.0\.0\.1:\d+/flows/run/\S+)$", demo.text(), re.MULTILINE)
        with urllib.request.urlopen(page, timeout=20) as answer:
            shown = answer.read().decode()
        assert "inspect-packages" in shown
        assert 'data-node="store-rows"' in shown
        demo.process.send_signal(signal.SIGINT)
        assert "everything that was started has ended" in demo.ends_with(0, within=20)
        assert demo.processes() == {}
    finally:
        if demo.process.poll() is None:
            demo.process.kill()
            demo.process.wait()


@pytest.mark.chaos_long
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_in_the_middle_stops_everything(demo, number):
    demo.wait_for("waiting for a token")
    assert len(demo.processes()) >= 8, "the demo, a server, two workers with two children each"
    demo.process.send_signal(number)
    text = demo.ends_with(1, within=20)
    assert f"The demo failed: stopped by {number.name}\nEverything that it started has ended." in text
    assert demo.processes() == {}


@pytest.mark.chaos_long
def test_a_signal_before_the_workers_are_up_stops_them_too(demo):
    demo.wait_for("as worker-2, pid")
    demo.process.send_signal(signal.SIGINT)
    assert "stopped by SIGINT" in demo.ends_with(1, within=20)
    assert demo.processes() == {}


@pytest.mark.chaos_long
def test_a_worker_that_dies_ends_the_demo_with_the_end_of_its_log(demo):
    demo.wait_for("choose-sample     started")
    name, pid = WORKER.findall(demo.text())[1]
    os.kill(int(pid), signal.SIGKILL)
    text = demo.ends_with(1, within=20)
    assert f"The demo failed: {name} (pid {pid}) ended by SIGKILL. The end of its log, {demo.home}/{name}.log:" in text
    assert f"{name}@" in text[text.index("The end of its log") :]
    assert demo.processes() == {}


def test_a_demo_that_is_killed_takes_everything_with_it(demo):
    demo.wait_for("waiting for a token")
    demo.process.kill()
    demo.process.wait()
    wait_until(lambda: demo.processes() == {}, "the end of all that the demo started", timeout=10)


def test_a_directory_belongs_to_one_demo_at_a_time(tmp_path):
    (tmp_path / "demo").mkdir()
    with (tmp_path / "demo" / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        second = Demo(tmp_path / "demo")
        assert f"another demo runs in {second.home}; give a directory" in second.ends_with(1, within=20)
