"""A run can begin later, and many can be started at once."""

from datetime import timedelta

from orchestrator import FlowBuilder, FlowState, InvalidInput, Node, manual


def number(state: FlowState) -> int:
    return state.input(int)


def double(number: int) -> int:
    return 2 * number


flow = (
    FlowBuilder("doubles").takes(int).triggered_by(manual("guide")).then(Node("double", double, input_func=number))
).build()


def test_a_delayed_run_is_stored_at_once_and_begins_later(orchestrator):
    """Until then it is `pending`, a row in Redis, and can be cancelled. `at=` takes an aware instant."""
    run = orchestrator.start(flow, 21, delay=timedelta(days=1))
    assert run.status == "pending"
    run.cancel()
    assert run.wait(timeout=30) == "cancelled"
    soon = orchestrator.start(flow, 21, delay=timedelta(milliseconds=100))
    assert soon.result(int, timeout=30) == 42


def test_many_runs_are_started_in_few_round_trips(orchestrator):
    """Each start is atomic alone: an input that does not fit costs its own run. With keys all is safe to repeat."""
    keys = [f"number {each}" for each in range(3)]
    runs = orchestrator.start_many(flow, [1, "two", 3], keys=keys)
    assert isinstance(runs[1], InvalidInput)
    assert [run.result(int, timeout=30) for run in runs if not isinstance(run, InvalidInput)] == [2, 6]
    again = orchestrator.start_many(flow, [1, 2, 3], keys=keys)
    assert [run.id for run in (again[0], again[2])] == [run.id for run in (runs[0], runs[2])]
