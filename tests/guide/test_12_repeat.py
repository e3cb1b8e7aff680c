"""A node can be called again with its own output, until that is good."""

from datetime import timedelta

from pydantic import BaseModel

from orchestrator import FlowBuilder, Node, NodeContext, manual


class Job(BaseModel):
    name: str
    looked: int = 0
    is_done: bool = False


def look_after(ctx: NodeContext, job: Job) -> Job:
    """Ask somebody else's system how far it is; here it is done at the third look."""
    return Job(name=job.name, looked=ctx.iteration + 1, is_done=ctx.iteration == 2)


def is_done(job: Job) -> bool:
    return job.is_done


flow = (
    FlowBuilder("other-job")
    .triggered_by(manual("guide"))
    .then(Node("look", look_after, Job(name="export")).with_repeat(until=is_done, every=timedelta(milliseconds=100)))
    .build()
)


def test_each_iteration_is_stored_and_nothing_is_held_between_two(orchestrator):
    """A crash repeats one iteration at most; between two of them there is one row in Redis and no busy worker."""
    run = orchestrator.start(flow)
    assert run.result(Job, timeout=30) == Job(name="export", looked=3, is_done=True)
