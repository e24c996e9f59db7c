"""Result files: a picture to look at, masks as COCO results, a heat map as arrays."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal, get_args

from PIL import Image

from grounding.files import make_folder, write_bytes
from grounding.io import coco_result, save_heatmap, write_coco
from grounding.types import Heatmap, Segment

if TYPE_CHECKING:
    from grounding.viz_nouns import NounPanel

Format = Literal["png", "coco", "npz"]
FORMATS: tuple[Format, ...] = get_args(Format)
_ENDINGS: dict[Format, str] = {"png": ".png", "coco": ".coco.json", "npz": ".npz"}


def file_name(stem: str, form: Format) -> str:
    """Name a result's file in one format."""
    return stem + _ENDINGS[form]


def write_result(
    folder: Path,
    stem: str,
    formats: Sequence[Format],
    image: Image.Image,
    heatmap: Heatmap,
    segments: Sequence[Segment],
    title: str,
    notes: Sequence[str] = (),
) -> tuple[Path, ...]:
    """Write a heat map and its masks in each format.

    Args:
        folder: created where it is missing.
        stem: the files' name without ending.
        formats: `png`: the image with map, points and masks; `coco`: a list of COCO results with RLE masks; `npz`: the
            map with what each stage removed.
        image: RGB.
        heatmap: [h, w] in [0, 1] over the whole image.
        segments: masks of the image's size.
        title: above the picture.
        notes: below it.

    Returns:
        The files, in the order of `formats`.

    Raises:
        OutputError: the folder cannot be written to.
    """
    make_folder(folder)
    return tuple(
        _write(folder / file_name(stem, form), form, image, heatmap, segments, title, notes) for form in formats
    )


def write_noun_sheet(file: Path, image: Image.Image, text: str, panels: Sequence[NounPanel], title: str) -> Path:
    """Write the picture of a text and its nouns; see `grounding.viz_nouns.noun_sheet`.

    Raises:
        OutputError: the file cannot be written.
    """
    from grounding.viz_nouns import noun_sheet  # imports matplotlib, which is slow

    return write_bytes(file, _png(noun_sheet(image, text, panels, title)))


def _write(
    file: Path,
    form: Format,
    image: Image.Image,
    heatmap: Heatmap,
    segments: Sequence[Segment],
    title: str,
    notes: Sequence[str],
) -> Path:
    if form == "npz":
        return save_heatmap(file, heatmap)
    if form == "coco":
        return write_coco(file, [coco_result(segment, file.name) for segment in segments])
    from grounding.viz import overlay  # imports matplotlib, which is slow

    return write_bytes(file, _png(overlay(image, heatmap, segments, title, notes)))


def _png(image: Image.Image) -> bytes:
    stream = io.BytesIO()
    image.save(stream, "PNG")
    return stream.getvalue()
