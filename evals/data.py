"""Read image data sets from a folder, JSON, parquet or the hub; each row has a picture, opened when needed.

JSON and folders need no package; parquet and the hub need `datasets`.
"""

from __future__ import annotations

import hashlib
import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evals.inputs import field as field_of
from evals.inputs import listed, read_rows
from evals.task import Picture
from grounding import hub
from grounding.errors import EvalDataError, MissingExtraError, UsageError
from grounding.files import PICTURE_ENDINGS, user_path
from grounding.runs.content import picture_hash

if TYPE_CHECKING:
    from PIL import Image

IMAGE_NAMES = ("image", "file_name", "image_path", "filename", "img")
LISTS = ("metadata.jsonl", "images.json", "instances.json")
SUBFOLDER = "images"
_COCO_NAME = re.compile(r"^COCO_(?:train|val|test)\d{4}_(\d{12}\.jpg)$")


@dataclass(frozen=True)
class DataRow:
    """One row of a data set.

    Attributes:
        name: of the picture: a file name, or "row 3" if it has none.
        picture: the picture.
        fields: its other columns.
    """

    name: str
    picture: Picture = field(repr=False)
    fields: Mapping[str, Any]


def read_data(source: str, split: str = "", what: str = "the data") -> tuple[DataRow, ...]:
    """Read the rows of a data set.

    Args:
        source: a folder of pictures, optionally with `metadata.jsonl`, `images.json` or COCO's `instances.json`; a
            file of JSON or JSON lines with picture paths relative to it; a parquet file or a folder of them; or a hub
            id such as `owner/name` or `owner/name:configuration`.
        split: of a hub data set; `test` if empty. Parquet files have none.
        what: what the data is, for messages.

    Raises:
        UsageError: none was given.
        EvalDataError: it cannot be found or read, or has no rows or no pictures.
        MissingExtraError: `datasets` is needed and not installed.
    """
    if not source:
        raise UsageError(f"--data is missing: a model needs {what} as a folder, a file, or a hub id")
    place = user_path(source)
    if place.is_dir():
        listing = next((place / name for name in LISTS if (place / name).is_file()), None)
        if listing is not None:
            return _from_json(listing, what)
        files = sorted(file for file in _inside(place).iterdir() if file.suffix.lower() in PICTURE_ENDINGS)
        if files:
            return tuple(DataRow(file.name, file, {}) for file in files)
        parquet = sorted(place.rglob("*.parquet"))
        if not parquet:
            raise EvalDataError(
                f"the folder {place} has neither pictures nor {', '.join(LISTS)} nor parquet files: give {what} as one "
                "of these, as JSON, or as a hub id"
            )
        return _from_datasets(
            "parquet", {"data_files": [str(file) for file in parquet], "split": "train"}, source, what
        )
    if place.suffix.lower() in (".json", ".jsonl"):
        return _from_json(place, what)
    if place.suffix.lower() == ".parquet":
        if not place.is_file():
            raise EvalDataError(f"there is no file {place}: give the path of {what}")
        return _from_datasets("parquet", {"data_files": [str(place)], "split": "train"}, source, what)
    name, _, configuration = source.partition(":")
    if name.count("/") != 1 or name.startswith((".", "/", "~")) or place.exists():
        raise EvalDataError(
            f"there is no folder {source}: give {what} as a folder of pictures, a .json, .jsonl or .parquet file, or a "
            "hub id (owner/name)"
        )
    options = {"split": split or "test"} | ({"name": configuration} if configuration else {})
    return _from_datasets(name, options, source, what)


def picture_in(folder: str, name: str) -> Path:
    """The path of a picture in a folder or in its subfolder `images`, by name.

    COCO numbers its photos alike in every release but names them differently: a name of 2014
    (COCO_val2014_000000000139.jpg) also finds the file under its name of 2017 (000000000139.jpg).

    Returns:
        The first path that exists; else the path in `images` if there is such a folder. A picture that is missing is
        reported when it is opened.
    """
    place = user_path(folder)
    folders = (place, place / SUBFOLDER)
    names = (name, _COCO_NAME.sub(r"\1", name))
    found = next((file for one in names for inside in folders if (file := inside / one).exists()), None)
    return found or folders[folders[1].is_dir()] / name


def _inside(folder: Path) -> Path:
    return folder / SUBFOLDER if (folder / SUBFOLDER).is_dir() else folder


def _from_json(file: Path, what: str) -> tuple[DataRow, ...]:
    rows = read_rows(file, what)
    if len(rows) == 1 and "images" in rows[0]:
        # COCO's files, and others in their format, are one object that lists the pictures under "images".
        rows = rows[0]["images"]
        if not isinstance(rows, list) or not rows or not all(isinstance(row, dict) for row in rows):
            raise EvalDataError(
                f"{file} holds no list of objects, but {what} must be one, or COCO's object with 'images': give "
                "another file"
            )
    found = []
    for number, row in enumerate(rows, 1):
        name = _coco_file(row, file.parent) or field_of(row, IMAGE_NAMES, str, f"row {number} of {file}")
        found.append(DataRow(name, picture_in(str(file.parent), name), dict(row)))
    return tuple(found)


def _coco_file(row: Mapping[str, Any], folder: Path) -> str | None:
    """COCO's file name for a row that has an id and no file name, if the folder holds that file."""
    number = row.get("id")
    if any(name in row for name in IMAGE_NAMES) or isinstance(number, bool) or not isinstance(number, int):
        return None
    name = f"{number:012d}.jpg"
    return name if picture_in(str(folder), name).is_file() else None


def _from_datasets(name: str, options: Mapping[str, Any], source: str, what: str) -> tuple[DataRow, ...]:
    try:
        import datasets
    except ImportError as missing:
        raise MissingExtraError("datasets", "eval", f"reading {source}") from missing
    datasets.disable_progress_bars()
    # The name of a builder ("parquet") is no repository, and its files are on this machine.
    local = source if "data_files" in options else name
    try:
        with hub.without_waiting(local):
            table = datasets.load_dataset(name, **options)
        # In a parquet file that `datasets` did not write, a picture is a dict of bytes and path, not an Image feature.
        column = next(
            key
            for key, kind in table.features.items()
            if isinstance(kind, datasets.Image) or (isinstance(kind, dict) and "bytes" in kind)
        )
        table = table.cast_column(column, datasets.Image(decode=False))
        rows = [dict(row) for row in table.remove_columns(column)]
    except StopIteration:
        raise EvalDataError(
            f"{source} has no column of pictures, only {listed(table.features)}: give {what} with pictures"
        ) from None
    except ConnectionError as wrong:
        raise EvalDataError(
            f"{source} cannot be read as {what}: {hub.unreachable(name, 'dataset')}: check the network, or give a "
            "folder or a file"
        ) from wrong
    except Exception as wrong:  # the loaders raise many kinds, from bad ids to pyarrow's
        reason = " ".join(str(wrong).split())[:200] or type(wrong).__name__
        raise EvalDataError(
            f"{source} cannot be read as {what} ({reason}): check the id, its configuration and the split, or give a "
            "folder or a file"
        ) from wrong
    if not rows:
        raise EvalDataError(f"{source} has no rows, but {what} must have at least one: give another")
    return tuple(
        DataRow(_name(row, number), _Embedded(table, number, column, source), row) for number, row in enumerate(rows)
    )


def _name(row: Mapping[str, Any], number: int) -> str:
    """A name shared by the rows of one picture, if the data has one."""
    for key in ("image_source", "file_name", "image_id", "filename"):
        if isinstance(row.get(key), (str, int)):
            return str(row[key])
    return f"row {number}"


@dataclass(frozen=True)
class _Embedded:
    """A picture stored inside a data set.

    Attributes:
        table: the data set's rows.
        number: of the row.
        column: of the picture: an object with `bytes` or `path`.
        source: the data set, for messages.
    """

    table: Sequence[Mapping[str, Any]]
    number: int
    column: str
    source: str

    def __call__(self) -> Image.Image:
        """Decode the picture.

        Raises:
            ImageError: it is missing or broken.
        """
        import warnings

        from PIL import Image

        from grounding.errors import ImageError
        from grounding.images import as_rgb, open_image

        held = self._held()
        where = f"the image of row {self.number} of {self.source}"
        if not held.get("bytes"):
            if held.get("path"):
                return open_image(held["path"])
            raise ImageError(f"{where} is missing: get the data set again")
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", Image.DecompressionBombWarning)
                return as_rgb(Image.open(io.BytesIO(held["bytes"])), where)
        except (OSError, Image.DecompressionBombError) as wrong:
            raise ImageError(f"{where} is not a picture that Pillow reads ({type(wrong).__name__})") from wrong

    def image_hash(self) -> str | None:
        """16 hexadecimal digits of the hash of the bytes; None where they are missing."""
        held = self._held()
        if held.get("bytes"):
            return hashlib.sha256(held["bytes"]).hexdigest()[:16]
        return picture_hash(held["path"]) if held.get("path") else None

    def _held(self) -> Mapping[str, Any]:
        return self.table[self.number][self.column] or {}
