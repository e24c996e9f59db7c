"""Read and write JSON, JSON lines and bytes.

A file is written whole or not at all, so a reader never sees half of it. A line is appended as one whole line, so an
interrupted run can be resumed.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import re
import secrets
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from grounding.errors import GroundingError, OutputError

PICTURE_ENDINGS = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff")
"""Endings of pictures that are looked for in a folder."""
BYTE_ORDER_MARK = "\ufeff"
_NAME_LENGTH, _NAME_BYTES = 60, 90


def user_path(path: str | Path) -> Path:
    """The path with a leading `~` replaced by the user's home; unchanged where there is no such user."""
    try:
        return Path(path).expanduser()
    except RuntimeError:
        return Path(path)


def cache_folder() -> Path:
    """The user's folder of what can be computed again; it need not exist.

    Raises:
        RuntimeError: the user has no home.
    """
    base = os.environ.get("XDG_CACHE_HOME") or os.environ.get("LOCALAPPDATA") or "~/.cache"
    return Path(base).expanduser() / "vlm-grounding"


def make_folder(path: str | Path) -> Path:
    """Make a folder and the folders above it.

    Raises:
        OutputError: the folder cannot be made.
    """
    folder = Path(path)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as wrong:
        raise refusal(folder, wrong) from wrong
    return folder


@contextmanager
def folder_if_used(folder: Path) -> Iterator[None]:
    """Make a folder for the block; after it, it is gone again if it is new and nothing was written to it.

    Raises:
        OutputError: the folder cannot be made.
    """
    made = [path for path in (folder, *folder.parents) if not os.path.exists(path)]
    try:
        make_folder(folder)
        yield
    finally:
        with contextlib.suppress(OSError):  # one that holds something stays
            for path in made:
                path.rmdir()


def check_writable(path: str | Path) -> None:
    """Refuse a file that could not be written, before anything is computed for it; nothing is left behind.

    Raises:
        OutputError: see `write_bytes`, whose steps are tried.
    """
    file = Path(path)
    if file.is_dir():
        raise refusal(file, IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR)))
    with folder_if_used(file.parent):
        try:
            with tempfile.TemporaryFile(dir=file.parent, prefix=f".{file.name}."):
                pass
        except OSError as wrong:
            raise refusal(file, wrong) from wrong


def write_bytes(path: str | Path, data: bytes) -> Path:
    """Write a file whole or not at all: to a temporary file beside it, synced, then renamed.

    Args:
        path: the file; folders above it are made.
        data: the content.

    Returns:
        The path.

    Raises:
        OutputError: the file cannot be written; an earlier file is left as it was.
    """
    file = Path(path)
    make_folder(file.parent)
    beside = file.parent / f".{os.getpid()}-{secrets.token_hex(4)}.tmp"  # the file's own name may fill the limit
    try:
        with os.fdopen(os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666), "wb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(beside, file)
        _sync_folder(file.parent)
    except OSError as wrong:
        raise refusal(file, wrong) from wrong
    finally:
        with contextlib.suppress(OSError):
            beside.unlink(missing_ok=True)
    return file


def write_text(path: str | Path, text: str) -> Path:
    """Write UTF-8 text whole or not at all; see `write_bytes` and `utf8`."""
    return write_bytes(path, utf8(text))


def write_json(path: str | Path, data: Any, indent: int | None = 2) -> Path:
    """Write JSON whole or not at all; NumPy numbers and arrays become numbers and lists.

    Raises:
        OutputError: the file cannot be written, or the data holds what JSON cannot, such as NaN.
    """
    return write_text(path, to_json(data, str(path), indent) + "\n")


def append_jsonl(path: str | Path, record: Any) -> None:
    """Append one line to a JSON-lines file, synced to the disk before this returns.

    An unfinished last line of an interrupted run is removed first. Only one process may write at a time.

    Raises:
        OutputError: the file cannot be written, or the record holds what JSON cannot, such as NaN.
    """
    file = Path(path)
    line = utf8(to_json(record, str(file), None)) + b"\n"
    make_folder(file.parent)
    try:
        with open(os.open(file, os.O_RDWR | os.O_CREAT, 0o666), "r+b") as stream:
            _finish_last_line(stream)
            stream.write(line)
            stream.flush()
            os.fsync(stream.fileno())
    except OSError as wrong:
        raise refusal(file, wrong) from wrong


def read_json(path: str | Path, refuse: Callable[[OSError | ValueError], GroundingError]) -> Any:
    """Read a JSON file.

    Args:
        path: the file.
        refuse: the error for a file that cannot be read (`OSError`) or is not JSON in UTF-8 (`ValueError`).

    Raises:
        GroundingError: what `refuse` gives.
    """
    try:
        return parse_json(Path(path).read_bytes())
    except (OSError, ValueError) as wrong:
        raise refuse(wrong) from wrong


def parse_json(content: str | bytes) -> Any:
    """Parse JSON text; a byte order mark before it is skipped.

    Raises:
        ValueError: it is not JSON, not UTF-8, nested deeper than Python's stack, or holds a number of too many digits;
            see `json_fault`.
    """
    with _explained():
        return json.loads(content.removeprefix(BYTE_ORDER_MARK) if isinstance(content, str) else content)


def parse_json_at(text: str, at: int) -> tuple[Any, int]:
    """Parse the JSON value that begins at an index of a text, whatever follows it.

    Returns:
        The value, and the index behind it.

    Raises:
        ValueError: see `parse_json`.
    """
    with _explained():
        return json.JSONDecoder().raw_decode(text, at)


@contextmanager
def _explained() -> Iterator[None]:
    """Say what Python cannot read although it is JSON."""
    try:
        yield
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    except (json.JSONDecodeError, UnicodeDecodeError):
        raise
    except ValueError:
        raise ValueError(f"it holds a whole number of more than {sys.get_int_max_str_digits():,} digits") from None


def json_fault(wrong: ValueError) -> str:
    """Say what is wrong with JSON that `parse_json` refuses, as a predicate: "is not JSON (...)"."""
    if isinstance(wrong, json.JSONDecodeError):
        return f"is not JSON ({wrong.msg})"
    return "is not JSON (it is not UTF-8)" if isinstance(wrong, UnicodeDecodeError) else f"cannot be read: {wrong}"


def utf8(text: str) -> bytes:
    r"""Encode text.

    Half of a surrogate pair, which UTF-8 cannot hold, becomes its escape (`\ud800`), as JSON writes it. Python has
    such halves in file names that are not UTF-8 and in JSON text with such an escape.
    """
    return text.encode("utf-8", "backslashreplace")


def parse_jsonl(content: str | bytes, refuse: Callable[[int, ValueError], GroundingError]) -> Iterator[tuple[int, Any]]:
    """Parse JSON lines one by one; blank lines are skipped, and values that stand one after another on a line are read.

    Args:
        content: the lines. Only a line feed ends a line: JSON text may hold U+2028 and other Unicode line ends.
        refuse: the error for a line that is not JSON, from its number, counted from 1.

    Yields:
        Each line's number and value.

    Raises:
        GroundingError: what `refuse` gives.
    """
    lines: Sequence[str | bytes] = content.split("\n") if isinstance(content, str) else content.split(b"\n")
    for number, line in enumerate(lines, 1):
        if line.strip():
            try:
                values = _values(line)
            except ValueError as wrong:
                raise refuse(number, wrong) from wrong
            for value in values:
                yield number, value


def _values(line: str | bytes) -> list[Any]:
    """Parse the values of a line, one as a rule.

    Raises:
        ValueError: see `parse_json`.
    """
    try:
        return [parse_json(line)]
    except json.JSONDecodeError as wrong:
        # A value ends where the parser finds more: cut there, and go on.
        text = line if isinstance(line, str) else line.decode()
        text = text.removeprefix(BYTE_ORDER_MARK)
        if wrong.msg != "Extra data" or not text[wrong.pos :].startswith(("{", "[")):
            raise
        return [parse_json(text[: wrong.pos]), *_values(text[wrong.pos :])]


def read_jsonl(path: str | Path) -> list[Any]:
    """Read the records of a file written by `append_jsonl`.

    A missing file has no records, and an unfinished last line of an interrupted run is ignored.

    Raises:
        OutputError: the file cannot be read, or a line before the last is not JSON.
    """
    file = Path(path)
    try:
        content = file.read_bytes()
    except FileNotFoundError:
        return []
    except OSError as wrong:
        raise refusal(file, wrong, "read") from wrong

    def refuse(number: int, wrong: ValueError) -> OutputError:
        return OutputError(
            f"line {number} of {file} {json_fault(wrong)}: mend or remove it, or write to another folder"
        )

    return [value for _, value in parse_jsonl(content[: _whole_length(content)], refuse)]


def slug(text: str) -> str:
    """Turn text into a part of a file name: lower-case letters and digits of any script, joined by hyphens.

    Returns:
        1 to 60 characters of at most 90 bytes, so that two of them with a hash and an ending stay below the 255 bytes
        that file systems allow; `result` where the text has no letter and no digit.
    """
    return shortened(_hyphenated(text), _NAME_LENGTH, _NAME_BYTES)


def file_stem(text: str) -> str:
    """Turn text into the name of a file of its own: its slug, with a hash of the text where the slug is cut short."""
    return (
        slug(text) if slug(text) == _hyphenated(text) else f"{slug(text)}-{hashlib.sha256(utf8(text)).hexdigest()[:8]}"
    )


def shortened(slug: str, length: int, size: int) -> str:
    """Cut a slug to at most `length` characters and `size` bytes of UTF-8, between letters."""
    return slug[:length].encode("utf-8")[:size].decode("utf-8", "ignore").rstrip("-")


def _hyphenated(text: str) -> str:
    return re.sub(r"[\W_]+", "-", text.lower()).strip("-") or "result"


def to_json(data: Any, where: str, indent: int | None = None) -> str:
    """Encode plain data, NumPy numbers and NumPy arrays as JSON text.

    Raises:
        OutputError: the data holds what JSON cannot, such as NaN.
    """
    try:
        return json.dumps(data, indent=indent, allow_nan=False, ensure_ascii=False, default=_from_numpy)
    except (TypeError, ValueError, RecursionError) as wrong:
        raise OutputError(f"{where} cannot be written as JSON: {wrong}") from wrong


def refusal(path: Path, wrong: OSError, verb: str = "written") -> OutputError:
    """The error of a file or folder that cannot be written, or read: the path, the reason, what to do."""
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


def _from_numpy(value: Any) -> Any:
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, np.ndarray):
        return value.tolist()
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    raise TypeError(f"a {type(value).__name__} has no JSON form")


def _whole_length(content: bytes) -> int:
    """Bytes up to the end of the last whole line; a last line without a line feed counts if it is a JSON object."""
    end = content.rfind(b"\n") + 1
    try:
        whole = isinstance(parse_json(content[end:]), dict)
    except ValueError:
        whole = False
    return len(content) if whole else end


def _finish_last_line(stream: BinaryIO) -> None:
    """Remove an unfinished last line; leave the stream at its end, after a line feed."""
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
    """Make a rename durable, on systems that can open folders."""
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
