"""Hashes of files: every byte counts, and no file is read twice without a reason."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import pytest

from grounding.runs import content
from grounding.runs.content import file_hash, files_hash, folder_hash, picture_hash


@pytest.fixture(autouse=True)
def own_list(monkeypatch, tmp_path) -> Path:
    """A list of large files of the test's own; files of a kilobyte count as large."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(content, "_LARGE", 1000)
    monkeypatch.setattr(content, "_known", {})
    return tmp_path / "cache" / "vlm-grounding" / "content.json"


@pytest.fixture
def reads(monkeypatch) -> list[str]:
    """The files that were read."""
    found, plain = [], content.hashlib.file_digest

    def digest(stream, name):
        found.append(Path(stream.name).name)
        return plain(stream, name)

    monkeypatch.setattr(content.hashlib, "file_digest", digest)
    return found


def aged(file: Path, data: bytes, monkeypatch) -> Path:
    """A file that was written a while ago, as the clock has it."""
    file.write_bytes(data)
    later = time.time_ns() + 10_000_000_000
    monkeypatch.setattr(content.time, "time_ns", lambda: later)
    return file


def test_a_changed_byte_anywhere_is_another_folder(tmp_path):
    (tmp_path / "model").mkdir()
    weights = tmp_path / "model" / "model.safetensors"
    found = set()
    for at in (0, 99_999, 100_000, 199_999):
        weights.write_bytes(bytes(at) + b"1" + bytes(199_999 - at))
        found.add(folder_hash(tmp_path / "model"))
    assert len(found) == 4
    (tmp_path / "model" / "README.md").write_text("notes")
    assert folder_hash(tmp_path / "model") in found


def test_a_folder_is_known_by_what_it_holds_and_not_by_its_path(tmp_path):
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "model.safetensors").write_bytes(bytes(2000))
    assert folder_hash(tmp_path / "one") == folder_hash(tmp_path / "two")
    os.rename(tmp_path / "two" / "model.safetensors", tmp_path / "two" / "other.safetensors")
    assert folder_hash(tmp_path / "one") != folder_hash(tmp_path / "two")


def test_parts_in_folders_count_where_the_kind_of_model_keeps_them_there(tmp_path):
    part = tmp_path / "model" / "transformer" / "weights.safetensors"
    part.parent.mkdir(parents=True)
    found = []
    for data in (b"1", b"2"):
        part.write_bytes(data)
        found.append(folder_hash(tmp_path / "model"))
    assert len(set(found)) == 1  # a checkpoint's folder of older states, for instance
    (tmp_path / "model" / "model_index.json").write_text("{}")
    for data in (b"1", b"2"):
        part.write_bytes(data)
        found.append(folder_hash(tmp_path / "model"))
    assert len(set(found)) == 3


def test_a_file_is_read_once_while_it_stays_as_it_is(tmp_path, monkeypatch, reads):
    file = aged(tmp_path / "small.png", b"1" * 10, monkeypatch)
    assert file_hash(file) == file_hash(file)
    assert reads == ["small.png"]
    before = file.stat()
    file.write_bytes(b"2" * 10)
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))  # the same size and the same time of change
    file_hash(file)
    assert reads == ["small.png"] * 2


def test_a_file_that_was_just_written_is_read_again(tmp_path, reads):
    """Its next change could bear the same time."""
    file = tmp_path / "a.png"
    file.write_bytes(b"1")
    assert file_hash(file) == file_hash(file)
    assert reads == ["a.png"] * 2


def test_large_files_are_remembered_by_later_processes(tmp_path, monkeypatch, reads, own_list):
    file = aged(tmp_path / "model.safetensors", b"1" * 2000, monkeypatch)
    aged(tmp_path / "small.json", b"1", monkeypatch)
    for _ in range(3):
        files_hash(tmp_path, [file, tmp_path / "small.json"])
        content._known.clear()  # as a new process begins
    assert sorted(reads) == ["model.safetensors", "small.json", "small.json", "small.json"]
    assert list(json.loads(own_list.read_text())) == [str(file)]


def test_a_list_that_is_broken_or_cannot_be_written_only_costs_time(tmp_path, monkeypatch, own_list):
    file = aged(tmp_path / "model.safetensors", b"1" * 2000, monkeypatch)
    expected = file_hash(file)
    for text in ("{", "[]", '{"a": 3}'):
        content._known.clear()
        own_list.write_text(text)
        assert file_hash(file) == expected
    own_list.unlink()
    own_list.mkdir()
    content._known.clear()
    assert file_hash(file) == expected


def test_a_picture_that_cannot_be_read_has_no_hash(tmp_path):
    assert picture_hash(tmp_path / "none.png") is None
    assert picture_hash(tmp_path) is None
    assert picture_hash("a\0b.png") is None
    (tmp_path / "a.png").write_bytes(b"1")
    assert len(picture_hash(tmp_path / "a.png")) == 16
