"""An append-only log of records in a JSON-lines file, one record per key.

A record is on the disk when `add` returns, as one whole line. A line that a killed process left unfinished is ignored
when the file is read and removed when the next record is added, so a run can be resumed from any byte.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Sequence
from pathlib import Path
from typing import Any, Generic, TypeVar

from grounding.files import append_jsonl, read_jsonl, to_json, utf8, write_bytes

R = TypeVar("R")


class RecordLog(Generic[R]):
    """Read and extend one file of records. Of several lines with one key the last counts.

    Args:
        file: the JSON-lines file; nothing is written before the first `add`.
        parse: a record from a line's JSON value and its place ("line 3 of FILE"); raises for a value of another kind.
        key: a record's key.
        plain: a record's JSON value.

    Attributes:
        file: as given.
        records: by key, in the order of the lines.

    Raises:
        OutputError: the file cannot be read, or a line before the last is not JSON.
    """

    def __init__(
        self, file: Path, parse: Callable[[Any, str], R], key: Callable[[R], str], plain: Callable[[R], Any]
    ) -> None:
        self.file = file
        self._key = key
        self._plain = plain
        self.records: dict[str, R] = {}
        for number, value in enumerate(read_jsonl(file), start=1):
            self._take(parse(value, f"line {number} of {file}"))

    def add(self, record: R) -> None:
        """Append a record, which replaces an earlier one of its key.

        Raises:
            OutputError: the file cannot be written, or the record holds what JSON cannot.
        """
        append_jsonl(self.file, self._plain(record))
        self._take(record)

    def settle(self, records: Sequence[R], gone: Container[str] = ()) -> None:
        """Rewrite the file with one line per key: these records last and in this order, all others before them.

        Args:
            records: of one run, in the order of its items.
            gone: keys of other records to leave out.

        Raises:
            OutputError: the file cannot be written.
        """
        last = {self._key(record): record for record in records}
        kept = {key: one for key, one in self.records.items() if key not in last and key not in gone}
        write_records(self.file, [self._plain(record) for record in (*kept.values(), *last.values())])
        self.records = {**kept, **last}

    def _take(self, record: R) -> None:
        key = self._key(record)
        self.records.pop(key, None)
        self.records[key] = record


def write_records(file: Path, values: Iterable[Any]) -> None:
    """Write JSON values as the lines of a file, whole or not at all; a file with these bytes is not touched.

    Raises:
        OutputError: the file cannot be written, or a value holds what JSON cannot.
    """
    content = utf8("".join(to_json(value, str(file)) + "\n" for value in values))
    if not file.exists() or file.read_bytes() != content:
        write_bytes(file, content)
