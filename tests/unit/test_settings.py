"""Settings: defaults, environment variables and refusals."""

import dataclasses
import inspect
import os
from datetime import timedelta
from typing import Any

import pytest

from orchestrator.errors import ConfigurationError
from orchestrator.settings import Settings


@pytest.fixture(autouse=True)
def _no_variables(monkeypatch):
    for name in [name for name in os.environ if name.startswith("ORCHESTRATOR_")]:
        monkeypatch.delenv(name)


def test_the_defaults_are_those_of_the_api():
    settings = Settings()
    assert settings.lease == timedelta(seconds=30)
    assert settings.reconcile_every == timedelta(seconds=1)
    assert settings.retention == timedelta(days=7)
    assert settings.max_payload_bytes == 1_048_576
    assert settings.prefix == "orchestrator"
    assert settings.history_limit == 1000
    assert settings.shutdown_grace == timedelta(seconds=25)
    assert settings.max_throttle == timedelta(hours=24)
    assert settings.claim_patience == timedelta(seconds=10)
    assert settings.socket_timeout == timedelta(seconds=5)


def test_every_field_is_in_the_docstring():
    text = inspect.getdoc(Settings)
    assert text is not None
    assert all(f"    {field.name}: " in text for field in dataclasses.fields(Settings))


def test_the_environment_has_the_last_word(monkeypatch):
    monkeypatch.setenv("ORCHESTRATOR_LEASE", "12.5")
    monkeypatch.setenv("ORCHESTRATOR_MAX_PAYLOAD_BYTES", "2048")
    monkeypatch.setenv("ORCHESTRATOR_PREFIX", "shop.1")
    monkeypatch.setenv("ORCHESTRATOR_RETENTION", "")
    settings = Settings(lease=timedelta(seconds=99))
    assert settings.lease == timedelta(seconds=12.5)
    assert settings.max_payload_bytes == 2048
    assert settings.prefix == "shop.1"
    assert settings.retention == timedelta(days=7)


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("LEASE", "soon"),
        ("LEASE", "nan"),
        ("LEASE", "inf"),
        ("LEASE", "-1"),
        ("LEASE", "0"),
        ("LEASE", "1e300"),
        ("MAX_PAYLOAD_BYTES", "1.5"),
        ("MAX_PAYLOAD_BYTES", "0"),
        ("HISTORY_LIMIT", "-3"),
    ],
)
def test_a_bad_variable_is_named(monkeypatch, variable, value):
    monkeypatch.setenv(f"ORCHESTRATOR_{variable}", value)
    with pytest.raises(ConfigurationError, match=f"ORCHESTRATOR_{variable}"):
        Settings()


@pytest.mark.parametrize("prefix", ["", "a b", "a:b", "{}", "{a", "a}", "{a}{b}", "x" * 51, "a\n", "\ud800", "ä"])
def test_a_bad_prefix_is_refused(prefix):
    with pytest.raises(ConfigurationError, match="prefix"):
        Settings(prefix=prefix)


@pytest.mark.parametrize("policy", ["", "ignore", "WARN"])
def test_a_bad_word_is_refused(policy):
    with pytest.raises(ConfigurationError, match="evicting_store: must be 'warn' or 'refuse'"):
        Settings(evicting_store=policy)


def test_tags_become_labels_only_where_they_are_indexed_and_may_be_shown():
    assert Settings(indexed_tags=("a", "b"), metric_tags=("b",)).metric_tags == ("b",)
    with pytest.raises(ConfigurationError, match="metric_tags: 'b' is none of indexed_tags"):
        Settings(indexed_tags=("a",), metric_tags=("a", "b"))
    with pytest.raises(ConfigurationError, match="metric_tags: redact says that values of 'Card'"):
        Settings(indexed_tags=("Card",), metric_tags=("Card",), redact=("card",))


@pytest.mark.parametrize(("text", "fused"), [("1", True), ("0", False), ("", False)])
def test_a_yes_or_no_is_one_or_zero_in_the_environment(monkeypatch, text, fused):
    monkeypatch.setenv("ORCHESTRATOR_FUSED", text)
    assert Settings().fused is fused
    monkeypatch.setenv("ORCHESTRATOR_FUSED", "yes")
    with pytest.raises(ConfigurationError, match="ORCHESTRATOR_FUSED='yes': must be 1 or 0"):
        Settings()


@pytest.mark.parametrize("prefix", ["a", "A-b_c.9", "x" * 50, "{a}", "shop.{a}-1"])
def test_a_good_prefix_is_taken(prefix):
    assert Settings(prefix=prefix).prefix == prefix


@pytest.mark.parametrize("field", [field.name for field in dataclasses.fields(Settings)])
@pytest.mark.parametrize("value", [None, True, 0, -1, "", [], timedelta(0), timedelta(seconds=-1), float("nan")])
def test_a_value_of_a_wrong_kind_is_refused(field, value):
    if value is True and field in {"fused", "accept_json", "allow_eviction", "http_callbacks"}:
        given: dict[str, Any] = {field: value}
        assert getattr(Settings(**given), field)
        return
    with pytest.raises(ConfigurationError, match=field):
        Settings(**{field: value})


def test_every_bad_value_is_reported_at_once():
    with pytest.raises(ConfigurationError, match=r"lease.*history_limit"):
        Settings(lease=5, history_limit=0)  # type: ignore[arg-type]


def test_a_lease_shorter_than_four_looks_is_refused():
    with pytest.raises(ConfigurationError, match="4 x reconcile_every"):
        Settings(lease=timedelta(seconds=3.9))
    assert Settings(lease=timedelta(seconds=4)).lease == timedelta(seconds=4)
    with pytest.raises(ConfigurationError, match="4 x reconcile_every"):
        Settings(reconcile_every=timedelta.max)


def test_settings_are_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        Settings().lease = timedelta(seconds=1)  # type: ignore[misc]
