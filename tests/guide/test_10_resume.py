"""A failed run goes on where it failed, once its cause is mended."""

from pathlib import Path

from orchestrator import FlowBuilder, FlowState, Node, RetryPolicy, manual

ONCE = RetryPolicy(maximum_attempts=1)


def path(state: FlowState) -> str:
    return state.input(str)


def download() -> str:
    return "the data"


def read_settings(path: str) -> str:
    return Path(path).read_text()


flow = (
    FlowBuilder("import")
    .takes(str)
    .triggered_by(manual("guide"))
    .then(Node("download", download))
    .then(Node("settings", read_settings, input_func=path, retry=ONCE))
    .build()
)


def test_a_resumed_run_repeats_only_what_is_missing(orchestrator, tmp_path):
    """`error` says which node failed and why. `resume` gives it fresh attempts and keeps every output that is stored.

    Given an idempotency key, `start` finds the run that the key has started, instead of starting a second one.
    """
    settings = tmp_path / "settings"
    run = orchestrator.start(flow, str(settings), idempotency_key="import of today")
    assert run.wait(timeout=30) == "failed"
    assert (run.error.node_name, run.error.type) == ("settings", "builtins.FileNotFoundError")

    settings.write_text("mended")
    same = orchestrator.start(flow, str(settings), idempotency_key="import of today")
    assert same.id == run.id
    same.resume()
    assert same.result(str, timeout=30) == "mended"
    assert [event.node for event in run.history() if event.event == "started"] == ["download", "settings", "settings"]
