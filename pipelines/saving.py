"""A result as files: a picture for people, run-length masks for evaluation tools, numbers for further work."""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal, get_args

from grounding.errors import OutputError
from grounding.files import make_folder, write_bytes
from grounding.io import coco_result, save_heatmap, write_coco

if TYPE_CHECKING:
    from pipelines.referring import ReferringResult

Format = Literal["png", "coco", "npz"]
FORMATS: tuple[Format, ...] = get_args(Format)
_ENDINGS: dict[Format, str] = {"png": ".png", "coco": ".coco.json", "npz": ".npz"}
_NAME_LENGTH = 60


def save_result(result: ReferringResult, folder: Path, name: str | None, formats: Sequence[Format]) -> tuple[Path, ...]:
    """Write one result; see `ReferringResult.save`."""
    unknown = [one for one in formats if one not in FORMATS]
    if unknown:
        raise OutputError(f"format {unknown[0]!r} is not known: choose among {', '.join(FORMATS)}")
    stem = slug(result.expression) if name is None else name
    make_folder(folder)
    return tuple(_write(result, one, folder / file_name(stem, one)) for one in formats)


def file_name(stem: str, form: Format) -> str:
    """The name of a result's file in one format."""
    return stem + _ENDINGS[form]


def slug(text: str) -> str:
    """Text as a part of a file name: lower case letters and digits of any script, joined by hyphens."""
    return re.sub(r"[\W_]+", "-", text.lower()).strip("-")[:_NAME_LENGTH].rstrip("-") or "result"


def _write(result: ReferringResult, form: Format, file: Path) -> Path:
    if form == "npz":
        return save_heatmap(file, result.map)
    if form == "coco":
        return write_coco(file, [coco_result(segment, file.name) for segment in result.segments])
    from grounding.viz import overlay  # matplotlib's colours take a while to import

    stream = io.BytesIO()
    overlay(result.image, result.map, result.segments, result.expression).save(stream, "PNG")
    return write_bytes(file, stream.getvalue())
