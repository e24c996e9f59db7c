"""The record log: lines that survive an interruption at any byte."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from grounding.errors import OutputError
from grounding.runs.records import RecordLog, write_records

RECORDS = [{"key": "a", "n": 0}, {"key": "b", "text": "Hund\u2028grün\n"}, {"key": "a", "n": 1}, {"key": "c"}]


def open_log(file: Path) -> RecordLog[dict]:
    return RecordLog(file, lambda value, where: value, lambda record: record["key"], lambda record: record)


def test_of_several_lines_with_one_key_the_last_counts(tmp_path):
    log = open_log(tmp_path / "sub" / "lines.jsonl")
    assert log.records == {}
    assert not log.file.parent.exists()
    for record in RECORDS:
        log.add(record)
    assert list(log.records.values()) == [RECORDS[1], RECORDS[2], RECORDS[3]]
    assert open_log(log.file).records == log.records
    assert log.file.read_bytes().count(b"\n") == 4


def test_settled_lines_are_in_their_order_others_come_first_and_some_are_left_out(tmp_path):
    log = open_log(tmp_path / "lines.jsonl")
    for record in RECORDS:
        log.add(record)
    by_key = log.records
    log.settle([by_key["c"], by_key["a"]])
    assert [json.loads(line)["key"] for line in log.file.read_bytes().split(b"\n")[:-1]] == ["b", "c", "a"]
    assert list(log.records) == ["b", "c", "a"]
    before = log.file.stat().st_mtime_ns
    open_log(log.file).settle([by_key["c"], by_key["a"]])
    assert log.file.stat().st_mtime_ns == before
    log.settle([by_key["c"]], {"b", "c"})
    assert list(log.records) == ["a", "c"]


@settings(max_examples=40, deadline=None)
@given(cut=st.integers(0, 120), tail=st.sampled_from([b"", b"\xff", b'{"key": "x']))
def test_a_log_cut_off_at_any_byte_can_be_extended(cut, tail, tmp_path_factory):
    file = tmp_path_factory.mktemp("cut") / "lines.jsonl"
    for record in RECORDS:
        open_log(file).add(record)
    content = file.read_bytes()
    file.write_bytes(content[:cut] + tail)
    kept = open_log(file).records
    open_log(file).add({"key": "new"})
    assert open_log(file).records == {**kept, "new": {"key": "new"}}
    assert all(json.loads(line) for line in file.read_bytes().splitlines())


def test_a_line_of_another_kind_is_named(tmp_path):
    (tmp_path / "lines.jsonl").write_text('{"key": "a"}\n[1]\n')

    def parse(value, where):
        if not isinstance(value, dict):
            raise OutputError(f"{where} is not a record")
        return value

    with pytest.raises(OutputError, match=r"line 2 of .*lines.jsonl is not a record"):
        RecordLog(tmp_path / "lines.jsonl", parse, lambda record: record["key"], lambda record: record)


def test_lines_are_written_whole_or_not_at_all(tmp_path):
    file = tmp_path / "lines.jsonl"
    write_records(file, [{"a": 1}])
    with pytest.raises(OutputError, match="cannot be written as JSON"):
        write_records(file, [{"a": 2}, {"a": float("nan")}])
    assert file.read_text() == '{"a": 1}\n'
    write_records(file, [])
    assert file.read_bytes() == b""
