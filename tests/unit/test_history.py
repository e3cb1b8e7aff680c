"""History as it is stored: short texts of this version, the stream of 0.1.0, and both of one run."""

from __future__ import annotations

from orchestrator.store.history import Entry, read_entries


def test_a_text_has_an_instant_an_event_an_attempt_a_node_and_a_detail():
    assert read_entries([b"1790000000001|waiting|2|ship[3]|limit|with|bars", b"1790000000002|run-succeeded|0||"]) == [
        Entry(1790000000001, "waiting", "ship[3]", 2, "limit|with|bars"),
        Entry(1790000000002, "run-succeeded", "", 0, ""),
    ]


def test_an_attempt_that_failed_has_its_process_and_its_error():
    texts = [b"1|retrying|1|a|8000|w1/77|builtins.OSError: a|b", b"2|retrying|2|a|8000", b"3|failed|3|a|"]
    found = [(entry.detail, entry.holder, entry.error) for entry in read_entries(texts)]
    assert found == [("8000", "w1/77", "builtins.OSError: a|b"), ("8000", "", ""), ("", "", "")]


def test_one_text_stands_for_all_that_a_commit_did():
    entries = read_entries([b"5|>|1|a b|c d", b"6|>|1|c d|"])
    assert [(entry.event, entry.node, entry.attempt) for entry in entries] == [
        ("succeeded", "a", 1),
        ("succeeded", "b", 1),
        ("started", "c", 1),
        ("started", "d", 1),
        ("succeeded", "c", 1),
        ("succeeded", "d", 1),
    ]


def test_a_text_that_was_cut_within_a_letter_is_read():
    assert read_entries([b"5|cursor-kept|0|n|caf\xc3"])[0].detail == "caf�"


def test_what_an_older_version_wrote_comes_in_its_place():
    older = [
        (b"4-0", {b"event": b"run-started", b"node": b"", b"attempt": b"0"}),
        (b"7-0", {b"succeeded": b'["a"]', b"started": b'["b", "c"]'}),
    ]
    entries = read_entries([b"6|retrying|1|a|100"], older)
    assert [(entry.at_ms, entry.event, entry.node, entry.detail) for entry in entries] == [
        (4, "run-started", "", ""),
        (6, "retrying", "a", "100"),
        (7, "succeeded", "a", ""),
        (7, "started", "b", ""),
        (7, "started", "c", ""),
    ]
    assert entries[0].at.tzinfo is not None
