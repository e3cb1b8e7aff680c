"""A run can wait for a time: for a while, or until an instant that it computes."""

from datetime import UTC, datetime, timedelta

from orchestrator import FlowBuilder, FlowState, Node, manual, sleep, sleep_until

A_MOMENT = timedelta(milliseconds=100)


def opening(state: FlowState) -> datetime:
    return state.input(datetime)


def look_around() -> str:
    return "it is open"


flow = (
    FlowBuilder("opening")
    .takes(datetime)
    .triggered_by(manual("guide"))
    .then(sleep("coffee", A_MOMENT))
    .then(sleep_until("opening", opening))
    .then(Node("enter", look_around))
    .build()
)


def test_whoever_sleeps_holds_no_worker(orchestrator):
    """A sleep is a row in Redis, for a second or for a year. The instant is computed once; one in the past is now."""
    opens_at = datetime.now(UTC) + 2 * A_MOMENT
    run = orchestrator.start(flow, opens_at)
    assert run.result(str, timeout=30) == "it is open"
    (entered,) = [event.at for event in run.history() if (event.event, event.node) == ("started", "enter")]
    assert entered >= opens_at.replace(microsecond=0)
