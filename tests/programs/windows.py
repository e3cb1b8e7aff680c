"""A client where Python has what it has on Windows: no fork, no signals to interrupt or to kill, no locks on files.

The standard library and Celery are imported before: they have their own ways on Windows.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import signal
import subprocess
import sys
import tempfile
import uuid

import celery.bin.celery
import celery.concurrency.asynpool
import redis
from celery import Celery
from celery.contrib.testing.worker import start_worker
from celery.worker import WorkController
from kombu.transport import redis as transport

LOADED = (asyncio, multiprocessing, subprocess, tempfile, uuid, celery.bin.celery, redis, transport)
for name in ("fork", "register_at_fork", "mkfifo", "set_blocking", "waitid", "WNOHANG", "getuid", "killpg"):
    if hasattr(os, name):
        delattr(os, name)
for name in ("SIGALRM", "SIGKILL", "SIGHUP", "SIGQUIT", "SIGUSR1", "setitimer", "ITIMER_REAL", "pthread_sigmask"):
    delattr(signal, name)
for name in ("fcntl", "resource", "termios", "pwd", "grp"):
    sys.modules[name] = None  # type: ignore[assignment]
sys.platform = "win32"

from orchestrator import FlowBuilder, Node, Orchestrator, manual  # noqa: E402 - where all that is missing

URL = os.environ["TEST_REDIS_URL"]


def make(name: str, *, eager: bool) -> Orchestrator:
    """An app with a flow of two nodes."""
    app = Celery(name, broker=URL, backend=URL)
    app.conf.task_always_eager = eager
    orchestrator = Orchestrator(app)
    first, last = Node("first", lambda: 1), Node("last", lambda: 2)
    orchestrator.register(FlowBuilder(name).triggered_by(manual("test")).then(first).then(last).build())
    return orchestrator


client = make("client", eager=False)
run = client.start("client")
sys.stdout.write(f"{run.status}\n")
with start_worker(client.app, pool="threads", concurrency=2, perform_ping_check=False, shutdown_timeout=20):
    sys.stdout.write(f"{run.result(int, timeout=30)}\n")
sys.stdout.write(f"{make('eager', eager=True).start('eager').result(int, timeout=30)}\n")
try:
    WorkController(client.app, pool="prefork")
except Exception as error:  # noqa: BLE001 - whatever it is, it is told
    sys.stdout.write(f"{type(error).__name__}: {error}\n")
