"""Hashes of what files hold, so that no piece of work is taken for another one of the same name.

Every byte is read: a picture, a changed weight in the middle of a checkpoint. SHA-256 reads 1 to 2 GB a second on
processors with instructions for it. A file is read once as long as its place, size and times of change stay the same:
within a process, and for large files also across processes, by a list in the user's cache folder.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import threading
import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from grounding.errors import OutputError
from grounding.files import cache_folder, utf8, write_text

_LARGE = 1 << 28  # bytes; a smaller file is read again in a fraction of a second
_SETTLED = 2_000_000_000  # ns; a file changed within the last two seconds may change again without another time
_WEIGHTS = (".bin", ".jinja", ".json", ".model", ".safetensors", ".tiktoken", ".txt")
_NESTED = ("model_index.json", "meta.json")  # diffusers and spaCy keep their parts in folders below these

_Stamp = tuple[int, ...]
_known: dict[str, tuple[_Stamp, str]] = {}
_writing = threading.Lock()


def file_hash(path: str | Path) -> str:
    """Hash a file's content; 64 hexadecimal digits.

    Raises:
        OSError: the file cannot be read.
    """
    place = os.path.realpath(path)
    stamp = _stamp(place)
    known = _known.get(place) or (_read_list().get(place) if stamp[0] >= _LARGE else None)
    if known is not None and known[0] == stamp:
        _known[place] = known
        return known[1]
    started = time.time_ns()
    with open(place, "rb") as stream:
        found = hashlib.file_digest(stream, "sha256").hexdigest()
    if _stamp(place) == stamp and started - max(stamp[1:3]) > _SETTLED:
        _known[place] = stamp, found
        if stamp[0] >= _LARGE:
            _add_to_list(place)
    return found


def picture_hash(path: str | Path) -> str | None:
    """The first 16 digits of `file_hash`; None for a file that cannot be read, which says so when it is opened."""
    try:
        return file_hash(path)[:16]
    except (OSError, ValueError):
        return None


def files_hash(folder: Path, files: Iterable[Path]) -> str:
    """Hash the names, relative to a folder, and the whole content of files in it; 16 hexadecimal digits.

    Raises:
        OSError: a file cannot be read.
    """
    ordered = sorted(files)
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:  # hashing releases the interpreter's lock
        hashes = list(pool.map(file_hash, ordered))
    digest = hashlib.sha256()
    for file, found in zip(ordered, hashes, strict=True):
        digest.update(utf8(f"{file.relative_to(folder).as_posix()}\0{found}\0"))
    return digest.hexdigest()[:16]


def folder_hash(folder: Path) -> str:
    """Hash the weights, settings and tokenizer files of a model folder; 16 hexadecimal digits.

    Files of other kinds, a README for instance, do not count. Folders inside it count where its kind of model keeps
    parts there.

    Raises:
        OSError: a file cannot be read.
    """
    if any((folder / name).is_file() for name in _NESTED):
        seen = (file for file in folder.rglob("*") if not str(file.relative_to(folder)).startswith("."))
        return files_hash(folder, (file for file in seen if file.is_file() and file.suffix != ".md"))
    return files_hash(folder, (file for file in folder.iterdir() if file.suffix in _WEIGHTS and file.is_file()))


def _stamp(place: str) -> _Stamp:
    """Size, times of the last change of content and of anything, and the file's number."""
    found = os.stat(place)
    return found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino


def _list_file() -> Path:
    return cache_folder() / "content.json"


def _read_list() -> dict[str, tuple[_Stamp, str]]:
    """The large files hashed by earlier processes; empty where there is no list or it is broken."""
    try:
        found = json.loads(_list_file().read_bytes())
        return {str(place): (tuple(stamp), str(text)) for place, (stamp, text) in found.items()}
    except (OSError, ValueError, TypeError, AttributeError, RuntimeError):  # RuntimeError: the user has no home
        return {}


def _add_to_list(place: str) -> None:
    """Add a file to the list and leave out files that are gone; a list that cannot be written only costs time."""
    with _writing, contextlib.suppress(OutputError, OSError, RuntimeError):
        kept = {**_read_list(), place: _known[place]}
        write_text(_list_file(), json.dumps({one: entry for one, entry in kept.items() if os.path.exists(one)}))
