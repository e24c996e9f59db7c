"""The two kinds of run folder, and the checks before anything is computed for one."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from grounding.errors import OutputError
from grounding.runs.lock import hold


@dataclass(frozen=True)
class FolderKind:
    """A kind of run folder.

    Attributes:
        made_by: the commands that write it.
        description: file that says what the run was made with; written before the first record.
        records: file with one line per item.
    """

    made_by: str
    description: str
    records: str

    def holds(self, folder: Path) -> bool:
        """Whether a folder has both files of this kind."""
        return os.path.exists(folder / self.description) and os.path.exists(folder / self.records)

    @contextmanager
    def hold(self, folder: Path, part: str = "") -> Iterator[None]:
        """Check a folder, and keep other processes out of it inside the block; see `grounding.runs.lock.hold`.

        Raises:
            OutputError: see `check`; or another process holds the folder.
        """
        self.check(folder)
        with hold(folder, part):
            yield

    def check(self, folder: Path) -> None:
        """Refuse a folder that this kind of run cannot go into. The folder is not created.

        A folder that holds files of both kinds is accepted, so that a run in it can be resumed.

        Raises:
            OutputError: the folder, or the nearest existing folder above it, is a file or is not writable; or it holds
                a run of the other kind.
        """
        existing = next(path for path in (folder, *folder.absolute().parents) if os.path.exists(path))
        if not existing.is_dir():
            raise OutputError(
                f"{folder} cannot be written: {existing} is a file where a folder is needed: choose another --out"
            )
        if not os.access(existing, os.W_OK | os.X_OK):
            raise OutputError(f"{folder} cannot be written: no permission in {existing}: choose another --out")
        for file in (folder / self.description, folder / self.records):
            if os.path.exists(file) and not (file.is_file() and os.access(file, os.R_OK | os.W_OK)):
                raise OutputError(
                    f"{file} cannot be written: it is no file, or one without permission to read and write: choose "
                    "another --out"
                )
        other = next((kind for kind in KINDS if kind != self and kind.holds(folder)), None)
        if other is not None and not os.path.exists(folder / self.description):
            raise OutputError(
                f"{folder} holds a run of {other.made_by} ({other.records}), expected a new folder or one of "
                f"{self.made_by}: choose another --out"
            )


RESULTS = FolderKind("'grounding segment', 'grounding discover' or 'grounding describe'", "run.json", "results.jsonl")
EVALUATION = FolderKind("'grounding eval'", "manifest.json", "samples.jsonl")
KINDS = (RESULTS, EVALUATION)
