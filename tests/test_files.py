from __future__ import annotations

import errno
import json
import os
import stat

import numpy as np
import pytest

from grounding.errors import EvalDataError, OutputError
from grounding.files import (
    append_jsonl,
    make_folder,
    parse_jsonl,
    read_json,
    read_jsonl,
    write_bytes,
    write_json,
    write_text,
)


def test_files_are_written_whole_and_folders_made(tmp_path):
    path = write_bytes(tmp_path / "a" / "b" / "c.bin", b"one")
    write_bytes(path, b"two")
    assert path.read_bytes() == b"two"
    assert os.listdir(path.parent) == ["c.bin"]
    write_text(path, "größer")
    assert path.read_text(encoding="utf-8") == "größer"


def test_a_new_file_has_the_users_ordinary_permissions(tmp_path):
    (tmp_path / "plain").touch()
    ordinary = stat.S_IMODE((tmp_path / "plain").stat().st_mode)
    assert stat.S_IMODE(write_bytes(tmp_path / "new", b"").stat().st_mode) == ordinary


def test_a_failed_write_leaves_the_old_file_and_no_litter(tmp_path, monkeypatch):
    path = write_bytes(tmp_path / "a.bin", b"old")

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OutputError, match="the disk is full: free some space"):
        write_bytes(path, b"new")
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["a.bin"]
    with pytest.raises(OutputError, match="the disk is full"):
        append_jsonl(tmp_path / "lines.jsonl", {"a": 1})


def test_places_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(OutputError, match="a file is where a folder is needed"):
        write_bytes(tmp_path / "file" / "a.bin", b"")
    with pytest.raises(OutputError, match="a file is where a folder is needed"):
        make_folder(tmp_path / "file")
    (tmp_path / "folder").mkdir()
    with pytest.raises(OutputError, match="a folder of that name is in the way"):
        write_bytes(tmp_path / "folder", b"")
    with pytest.raises(OutputError, match="a folder of that name"):
        append_jsonl(tmp_path / "folder", {})
    with pytest.raises(OutputError, match="too long"):
        write_bytes(tmp_path / ("a" * 300), b"")


@pytest.mark.parametrize("code", [errno.EACCES, errno.EROFS])
def test_no_permission(tmp_path, monkeypatch, code):
    def refuse(*_: object, **__: object) -> int:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(OutputError, match="choose another folder"):
        write_bytes(tmp_path / "a", b"")
    with pytest.raises(OutputError, match="choose another folder"):
        append_jsonl(tmp_path / "a", {})


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="this user may write everywhere")
def test_a_folder_without_permission(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(OutputError, match="no permission"):
        write_bytes(tmp_path / "a", b"")


def test_json_takes_numpy_and_refuses_nan(tmp_path):
    data = {"a": np.float32(0.5), "b": np.arange(3), "c": tmp_path, "d": np.bool_(True)}
    path = write_json(tmp_path / "a.json", data)
    assert json.loads(path.read_text()) == {"a": 0.5, "b": [0, 1, 2], "c": str(tmp_path), "d": True}
    for wrong in (float("nan"), object()):
        with pytest.raises(OutputError, match="cannot be written as JSON"):
            write_json(path, {"a": wrong})
    assert json.loads(path.read_text())["a"] == 0.5


def test_lines_are_added_and_read_back(tmp_path):
    path = tmp_path / "runs" / "results.jsonl"
    assert read_jsonl(path) == []
    for number in range(3):
        append_jsonl(path, {"n": number, "text": "zwei\nZeilen"})
    assert [record["n"] for record in read_jsonl(path)] == [0, 1, 2]
    assert len(path.read_bytes().splitlines()) == 3


@pytest.mark.parametrize("torn", [b'{"n": 2, "te', b"{", b'{"n": 1}garbage', b"\xff"])
def test_a_torn_last_line_is_left_out_and_then_replaced(tmp_path, torn):
    path = tmp_path / "a.jsonl"
    append_jsonl(path, {"n": 0})
    path.write_bytes(path.read_bytes() + torn)
    assert read_jsonl(path) == [{"n": 0}]
    append_jsonl(path, {"n": 1})
    assert read_jsonl(path) == [{"n": 0}, {"n": 1}]


def test_a_whole_last_line_without_its_newline_is_kept(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text('{"n": 0}\n{"n": 1}')
    assert read_jsonl(path) == [{"n": 0}, {"n": 1}]
    append_jsonl(path, {"n": 2})
    assert read_jsonl(path) == [{"n": 0}, {"n": 1}, {"n": 2}]


def test_a_broken_line_in_the_middle_is_an_error_with_its_number(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text('{"n": 0}\n{"n": \n\n{"n": 2}\n')
    with pytest.raises(OutputError, match="line 2 of"):
        read_jsonl(path)
    with pytest.raises(OutputError, match="cannot be read"):
        read_jsonl(tmp_path)


def test_json_that_cannot_be_read_is_refused_as_the_caller_says(tmp_path):
    def refuse(wrong):
        return EvalDataError(type(wrong).__name__)

    (tmp_path / "good.json").write_bytes('\ufeff{"a": ["\u2028"]}'.encode())
    assert read_json(tmp_path / "good.json", refuse) == {"a": ["\u2028"]}
    with pytest.raises(EvalDataError, match="FileNotFoundError"):
        read_json(tmp_path / "none.json", refuse)
    for content, error in ((b"{", "JSONDecodeError"), (b'"\xff"', "UnicodeDecodeError"), (b"", "JSONDecodeError")):
        (tmp_path / "bad.json").write_bytes(content)
        with pytest.raises(EvalDataError, match=error):
            read_json(tmp_path / "bad.json", refuse)


@pytest.mark.parametrize("encode", [str, str.encode])
def test_json_lines_are_numbered_as_an_editor_does(encode):
    def refuse(number, wrong):
        return EvalDataError(f"line {number}")

    lines = parse_jsonl(encode('\n{"a": "\u2028"}\r\n  \n3\n[\n'), refuse)
    assert next(lines) == (2, {"a": "\u2028"})
    assert next(lines) == (4, 3)
    with pytest.raises(EvalDataError, match="line 5"):
        next(lines)
