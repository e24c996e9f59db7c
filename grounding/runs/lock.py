"""One process at a time in a run folder.

The lock is the system's own on an open file (`flock`, or its like on Windows), so a process that is killed leaves none
behind. Taking it also shows, before anything is computed, that the folder can be written to.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from grounding.errors import OutputError
from grounding.files import folder_if_used, refusal


@contextmanager
def hold(folder: Path, part: str = "", wait: bool = False) -> Iterator[None]:
    """Keep other processes out of a folder, or of a part of its files, inside the block.

    The folder is made where it is missing, and is gone again after the block if nothing was written to it.

    Args:
        folder: the run folder.
        part: what is written: workers that write different files of one folder hold different parts.
        wait: wait for the other process instead of refusing.

    Raises:
        OutputError: the folder cannot be written to, or another process holds it.
    """
    file = folder / f".{part}.lock"
    with folder_if_used(folder):
        lock = FileLock(file)
        _take(lock, file, wait, folder)
        try:
            yield
        finally:
            with contextlib.suppress(OSError):  # while it is held, so that no other process holds a file that is gone
                file.unlink()
            lock.release()


def _take(lock: FileLock, file: Path, wait: bool, folder: Path) -> None:
    while True:
        try:
            lock.acquire(timeout=-1 if wait else 0)
        except Timeout as busy:
            raise OutputError(
                f"{folder} is being written to by another process: wait until it ends, or choose another --out"
            ) from busy
        except OSError as wrong:
            raise refusal(file, wrong) from wrong
        if file.exists():
            return
        lock.release()  # its last holder has removed the file meanwhile
