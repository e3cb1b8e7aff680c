"""A run survives the death of the process that works on it."""

import os
import signal

from orchestrator import FlowBuilder, Node, NodeContext, manual


def prepare() -> int:
    return os.getpid()


def die_at_first(ctx: NodeContext) -> int:
    if ctx.attempt == 1:
        os.kill(os.getpid(), signal.SIGKILL)  # as the kernel does when there is no memory left
    return os.getpid()


flow = (
    FlowBuilder("crash")
    .triggered_by(manual("guide"))
    .then(Node("prepare", prepare))
    .then(Node("die", die_at_first))
    .build()
)


def test_only_the_node_that_was_running_is_repeated(orchestrator):
    """What is stored is done. The killed attempt counts as one, and the next one is made at once by another process."""
    run = orchestrator.start(flow)
    assert run.wait(timeout=30) == "succeeded"
    history = [(event.event, event.node) for event in run.history() if event.event in {"started", "lost"}]
    assert history == [("started", "prepare"), ("started", "die"), ("lost", "die"), ("started", "die")]
