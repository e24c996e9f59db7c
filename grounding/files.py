"""Writing so that a reader never sees half a file, and a run that was cut off goes on where it stopped."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import secrets
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from grounding.errors import OutputError


def make_folder(path: str | Path) -> Path:
    """Make a folder and those above it.

    Raises:
        OutputError: it cannot be made.
    """
    folder = Path(path)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as wrong:
        raise _refusal(folder, wrong) from wrong
    return folder


def write_bytes(path: str | Path, data: bytes) -> Path:
    """Write a file whole or not at all: into a neighbour, onto the disk, then in place of the old one.

    Args:
        path: where to; folders above it are made.
        data: the content.

    Returns:
        The path.

    Raises:
        OutputError: it cannot be written; what was there before is left as it was.
    """
    file = Path(path)
    make_folder(file.parent)
    beside = file.parent / f".{file.name}.{os.getpid()}-{secrets.token_hex(4)}.tmp"
    try:
        with os.fdopen(os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666), "wb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(beside, file)
        _sync_folder(file.parent)
    except OSError as wrong:
        raise _refusal(file, wrong) from wrong
    finally:
        with contextlib.suppress(OSError):
            beside.unlink(missing_ok=True)
    return file


def write_text(path: str | Path, text: str) -> Path:
    """Write UTF-8 text whole or not at all; see `write_bytes`."""
    return write_bytes(path, text.encode("utf-8"))


def write_json(path: str | Path, data: Any, indent: int | None = 2) -> Path:
    """Write JSON whole or not at all; NumPy numbers and arrays are written as numbers and lists.

    Raises:
        OutputError: it cannot be written, or the data holds what JSON cannot (NaN among them).
    """
    return write_text(path, to_json(data, str(path), indent) + "\n")


def append_jsonl(path: str | Path, record: Any) -> None:
    """Add one line to a JSON-lines file, on the disk when this returns.

    A last line that a cut-off run left unfinished is taken away first. One process writes at a time.

    Raises:
        OutputError: it cannot be written, or the record holds what JSON cannot.
    """
    file = Path(path)
    line = to_json(record, str(file), None).encode("utf-8") + b"\n"
    make_folder(file.parent)
    try:
        with open(os.open(file, os.O_RDWR | os.O_CREAT, 0o666), "r+b") as stream:
            _finish_last_line(stream)
            stream.write(line)
            stream.flush()
            os.fsync(stream.fileno())
    except OSError as wrong:
        raise _refusal(file, wrong) from wrong


def read_jsonl(path: str | Path) -> list[Any]:
    """The records of a JSON-lines file; a missing file has none, and an unfinished last line is left out.

    Raises:
        OutputError: it cannot be read, or a line before the last is not JSON.
    """
    file = Path(path)
    try:
        content = file.read_bytes()
    except FileNotFoundError:
        return []
    except OSError as wrong:
        raise _refusal(file, wrong, "read") from wrong
    records = []
    for number, line in enumerate(content[: _whole_length(content)].split(b"\n"), 1):
        if line.strip():
            try:
                records.append(json.loads(line))
            except ValueError as wrong:
                raise OutputError(
                    f"line {number} of {file} is not JSON: mend or remove it, or write to another folder"
                ) from wrong
    return records


def to_json(data: Any, where: str, indent: int | None = None) -> str:
    """JSON text of plain data, NumPy numbers and arrays.

    Raises:
        OutputError: the data holds what JSON cannot, such as NaN.
    """
    try:
        return json.dumps(data, indent=indent, allow_nan=False, ensure_ascii=False, default=_from_numpy)
    except (TypeError, ValueError) as wrong:
        raise OutputError(f"{where} cannot be written as JSON: {wrong}") from wrong


def _from_numpy(value: Any) -> Any:
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, np.ndarray):
        return value.tolist()
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    raise TypeError(f"a {type(value).__name__} has no JSON form")


def _whole_length(content: bytes) -> int:
    """Bytes up to the end of the last finished line; a last line without a newline counts if it is a whole object."""
    end = content.rfind(b"\n") + 1
    try:
        whole = isinstance(json.loads(content[end:]), dict)
    except ValueError:
        whole = False
    return len(content) if whole else end


def _finish_last_line(stream: BinaryIO) -> None:
    """Leave the stream at its end, after a newline."""
    length = stream.seek(0, os.SEEK_END)
    if length == 0:
        return
    stream.seek(length - 1)
    if stream.read(1) == b"\n":
        return
    stream.seek(0)
    content = stream.read()
    stream.seek(_whole_length(content))
    stream.truncate()
    if stream.tell() > 0 and not content[: stream.tell()].endswith(b"\n"):
        stream.write(b"\n")


def _sync_folder(folder: Path) -> None:
    """Make a rename durable, where the system lets folders be opened."""
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def _refusal(path: Path, wrong: OSError, verb: str = "written") -> OutputError:
    remedies = {
        errno.EACCES: "no permission: choose another folder or change its permissions",
        errno.EPERM: "no permission: choose another folder or change its permissions",
        errno.EROFS: "the disk is read-only: choose another folder",
        errno.ENOSPC: "the disk is full: free some space or choose another disk",
        errno.EDQUOT: "the disk quota is used up: free some space or choose another disk",
        errno.ENOTDIR: "a file is where a folder is needed: choose another folder",
        errno.EEXIST: "a file is where a folder is needed: choose another folder",
        errno.EISDIR: "a folder of that name is in the way: choose another name",
        errno.ENAMETOOLONG: "the name is too long: choose a shorter one",
    }
    reason = remedies.get(wrong.errno or 0, f"{wrong.strerror or wrong}: choose another place")
    return OutputError(f"{path} cannot be {verb}: {reason}")
