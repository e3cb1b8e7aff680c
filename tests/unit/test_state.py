"""FlowState: what may be read, what is loaded for it, and what is refused."""

import json
from collections.abc import Collection
from dataclasses import dataclass, field
from datetime import UTC, datetime, time, timezone
from typing import Annotated, Any

import pytest
from pydantic import BaseModel, BeforeValidator, SecretStr

from orchestrator.definition.codecs import codec_of
from orchestrator.definition.node import Node
from orchestrator.definition.state import FlowState, RunStatus
from orchestrator.errors import HiddenDependencyError, InvalidInput, MissingOutputError, NodeFailure


class Issue(BaseModel):
    id: str
    votes: int = 0


class Login(BaseModel):
    password: SecretStr


@dataclass
class Stored:
    """Outputs and failures as a store would have them, and what was asked of it."""

    outputs: dict[str, Any] = field(default_factory=dict)
    failed: dict[str, NodeFailure] = field(default_factory=dict)
    items: dict[str, dict[int, NodeFailure]] = field(default_factory=dict)
    asked: list[Any] = field(default_factory=list)

    def load(self, keys: Collection[str] | None):
        self.asked.append(None if keys is None else sorted(keys))
        return {key: json.dumps(value).encode() for key, value in self.outputs.items() if keys is None or key in keys}

    def load_failure(self, name):
        self.asked.append(f"failure {name}")
        return self.failed[name].model_dump_json().encode() if name in self.failed else None

    def load_failures(self, name):
        self.asked.append(f"failures {name}")
        return {index: each.model_dump_json().encode() for index, each in self.items.get(name, {}).items()}

    def state(self, **options):
        defaults = {"run_id": "r1", "flow_name": "enrich", "input": None, "input_codec": None}
        return FlowState(
            **(defaults | options),
            load=self.load,
            load_failure=self.load_failure,
            load_failures=self.load_failures,
        )


def failure(message="no"):
    return NodeFailure(flow_name="enrich", node_name="n", attempt=1, type="a.B", message=message)


def fetch_issue() -> Issue:
    return Issue(id="I-1")


fetch = Node("fetch", fetch_issue).as_("issue")


def test_get_validates_against_the_readers_type():
    state = Stored({"issue": {"id": "I-1", "votes": 3}}).state()
    assert state.get("issue", Issue) == Issue(id="I-1", votes=3)
    assert state.get("issue") == {"id": "I-1", "votes": 3}
    assert state.get("issue", dict[str, Any]) == {"id": "I-1", "votes": 3}
    assert state.get("issue", Annotated[dict[str, Any], ["not hashable"]]) == {"id": "I-1", "votes": 3}


def test_a_time_is_read_with_the_zone_class_of_the_standard_library():
    state = Stored({"at": "2026-03-29T01:30:00Z", "all": [{"at": "01:30:00+05:45"}]}).state()
    assert state.get("at", datetime).tzinfo is UTC
    assert type(state.get("all", list[dict[str, time]])[0]["at"].tzinfo) is timezone


def test_a_node_stands_in_place_of_a_key():
    stored = Stored({"issue": {"id": "I-1"}}, failed={"fetch": failure()})
    state = stored.state()
    assert state.get(fetch) == Issue(id="I-1")
    assert state.get(fetch, dict[str, str]) == {"id": "I-1"}
    assert state.get_or(fetch, Issue, None) == Issue(id="I-1")
    assert state.has(fetch)
    assert state.failure(fetch) == failure()


def test_what_was_read_can_be_changed_without_changing_the_state():
    state = Stored({"a": [1]}).state()
    state.get("a").append(2)
    assert state.get("a") == [1]


def test_a_missing_output_names_the_key_and_those_that_are_there():
    state = Stored({"b": 1, "a": 2}).state()
    with pytest.raises(MissingOutputError, match=r"no output 'c'; there are: a, b.*flow enrich, run r1"):
        state.get("c", int)
    with pytest.raises(MissingOutputError, match="there are: none"):
        Stored().state().get("c")


def test_get_or_gives_the_default_only_for_what_is_absent():
    state = Stored({"a": "x", "nothing": None}).state()
    assert state.get_or("b", int, 7) == 7
    assert state.get_or("b", int, default=None) is None
    assert state.get_or(fetch, default=None) is None
    assert state.get_or("a", str, "y") == "x"
    assert state.get_or("nothing", Any, 7) is None
    with pytest.raises(InvalidInput, match="output 'a'"):
        state.get_or("a", int, 7)
    with pytest.raises(TypeError, match="needs a default"):
        state.get_or("a", int)


def test_a_wrong_type_is_named_with_the_path_and_without_the_value():
    state = Stored({"issues": [{"id": "I-1"}, {"id": "I-2", "votes": "hunter2"}]}).state()
    with pytest.raises(InvalidInput, match=r"output 'issues': does not fit list\[.*Issue\]: 1\.votes: ") as caught:
        state.get("issues", list[Issue])
    assert "hunter2" not in str(caught.value)
    assert caught.value.run_id == "r1"


def test_a_validator_of_the_reader_may_raise_anything():
    def refuse(_value: object) -> object:
        raise RuntimeError("not a ValueError")

    with pytest.raises(InvalidInput, match=r"output 'a': cannot be checked, .*not a ValueError"):
        Stored({"a": 1}).state().get("a", Annotated[int, BeforeValidator(refuse)])


def test_the_union_that_is_asked_for_is_the_one_that_reads():
    class One(BaseModel):
        a: int

    class Two(BaseModel):
        a: int

    state = Stored({"x": {"a": 1}}).state()
    assert type(state.get("x", One | Two)) is One
    assert type(state.get("x", Two | One)) is Two


def test_has_and_keys():
    state = Stored({"a": 1, "b": None}).state()
    assert state.has("a")
    assert state.has("b")
    assert not state.has("c")
    assert state.keys() == {"a", "b"}


def test_each_key_is_loaded_once():
    stored = Stored({"a": 1})
    state = stored.state()
    for _ in range(2):
        state.get("a")
        state.has("b")
    assert stored.asked == [["a"], ["b"]]
    state.keys()
    state.keys()
    state.has("c")
    assert stored.asked == [["a"], ["b"], None]


def test_what_was_prefetched_is_not_loaded():
    stored = Stored()
    state = stored.state(prefetched={"a": b"1", "b": None}, visible=frozenset("ab"))
    assert state.get("a", int) == 1
    assert not state.has("b")
    assert state.keys() == {"a"}
    assert stored.asked == []


def test_keys_loads_what_is_visible_and_not_yet_known():
    stored = Stored({"a": 1, "b": 2, "c": 3})
    state = stored.state(prefetched={"a": b"1"}, visible=frozenset({"a", "b"}))
    assert state.keys() == {"a", "b"}
    assert stored.asked == [["b"]]


def test_what_is_not_visible_is_absent():
    stored = Stored({"later": 1})
    state = stored.state(visible=frozenset({"a"}), prefetched={"later": b"1"})
    assert not state.has("later")
    assert state.get_or("later", int, 0) == 0
    with pytest.raises(MissingOutputError):
        state.get("later")
    assert state.keys() == set()


@pytest.mark.parametrize(
    "read",
    [
        lambda state: state.get("user"),
        lambda state: state.get("user", str),
        lambda state: state.get("create-user", str),
        lambda state: state.get_or("user", str, ""),
        lambda state: state.has("user"),
        lambda state: state.has("create-user"),
        lambda state: state.failure("create-user"),
        lambda state: state.failures("create-user"),
        lambda state: state.get(Node("create-user", fetch_issue).as_("user")),
        lambda state: state.failure(Node("create-user", fetch_issue).as_("user")),
    ],
)
def test_reading_a_sibling_in_any_way_is_refused_every_time(read):
    stored = Stored({"user": "u-1", "before": 1}, failed={"create-user": failure()})
    state = stored.state(visible=frozenset({"before"}), hidden={"user": "create-user", "create-user": "create-user"})
    for _ in range(2):
        with pytest.raises(HiddenDependencyError, match="'create-user'"):
            read(state)
    assert stored.asked == []


def test_keys_leaves_siblings_out():
    state = Stored({"user": "u-1", "before": 1}).state(
        visible=frozenset({"before"}), hidden={"user": "create-user", "create-user": "create-user"}
    )
    assert state.keys() == {"before"}


def test_an_earlier_output_under_a_siblings_name_can_be_read():
    hidden = {"b": "a", "a": "a"}  # the sibling is node `a` with key `b`; an earlier node wrote key `a`
    state = Stored({"a": 1}).state(visible=frozenset({"a"}), hidden=hidden)
    assert state.get("a", int) == 1
    assert state.failure("b") is None  # an earlier node may be named `b`
    with pytest.raises(HiddenDependencyError):
        state.get("b")


def test_the_input_is_validated_against_the_type_of_takes_or_the_one_asked_for():
    state = Stored().state(input=b'{"id": "I-1"}', input_codec=codec_of(Issue))
    assert state.input() == Issue(id="I-1")
    assert state.input(dict[str, str]) == {"id": "I-1"}
    with pytest.raises(InvalidInput, match="the run's input: does not fit int"):
        state.input(int)


def test_an_input_without_takes_is_plain_json():
    assert Stored().state(input=b'{"a": [1]}').input() == {"a": [1]}


def test_a_run_without_input_has_none():
    state = Stored().state(input_codec=None)
    assert state.input() is None
    assert state.input(int | None) is None
    with pytest.raises(InvalidInput):
        state.input(int)
    with pytest.raises(InvalidInput):
        Stored().state(input_codec=codec_of(Issue)).input()


def test_failures_are_loaded_once():
    stored = Stored(failed={"n": failure()})
    state = stored.state()
    for _ in range(2):
        assert state.failure("n") == failure()
        assert state.failure("m") is None
    assert stored.asked == ["failure n", "failure m"]


def test_failures_of_a_map_are_by_index():
    stored = Stored(items={"n": {3: failure("c"), 1: failure("a")}})
    state = stored.state()
    assert list(state.failures("n").items()) == [(1, failure("a")), (3, failure("c"))]
    assert state.failures("n")
    assert state.failures("m") == {}
    assert stored.asked == ["failures n", "failures m"]
    assert (
        FlowState(
            run_id="r",
            flow_name="f",
            input=None,
            input_codec=None,
            load=stored.load,
            load_failure=stored.load_failure,
        ).failures("n")
        == {}
    )


def test_secrets_do_not_show():
    state = Stored({"login": {"password": ["hunter2"]}}).state(input=b'"hunter2"')
    assert "hunter2" not in repr(state)
    with pytest.raises(InvalidInput) as caught:
        state.get("login", Login)
    seen: BaseException | None = caught.value
    while seen is not None:
        assert "hunter2" not in str(seen)
        assert seen.__suppress_context__ or seen.__context__ is None
        seen = seen.__cause__


def test_state_knows_its_run():
    state = Stored().state()
    assert (state.run_id, state.flow_name) == ("r1", "enrich")
    with pytest.raises(AttributeError):
        state.run_id = "x"
    assert repr(state) == "FlowState(flow_name='enrich', run_id='r1')"


def test_four_states_are_final():
    final = {status for status in RunStatus if status.is_final}
    assert final == {"succeeded", "failed", "cancelled", "compensation_failed"}
    assert {str(status) for status in RunStatus} - final == {"pending", "running", "paused", "compensating"}
