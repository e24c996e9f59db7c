"""Result files: pictures to look at, the mask and the object alone, masks as COCO results, a heat map as arrays."""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal, get_args

import numpy as np
from PIL import Image

from grounding.files import make_folder, to_json, write_bytes, write_text
from grounding.io import coco_result, save_heatmap, write_coco
from grounding.types import Heatmap, Segment

if TYPE_CHECKING:
    from grounding.explanation import Explanation
    from grounding.viz_nouns import NounPanel

Format = Literal["png", "mask", "cutout", "coco", "npz", "explain"]
FORMATS: tuple[Format, ...] = get_args(Format)
_ENDINGS: dict[Format, tuple[str, ...]] = {
    "png": (".png",),
    "mask": (".mask.png",),
    "cutout": (".cutout.png",),
    "coco": (".coco.json",),
    "npz": (".npz",),
    "explain": (".explain.png", ".explain.json"),
}


def file_names(stem: str, form: Format) -> tuple[str, ...]:
    """Name a result's files in one format."""
    return tuple(stem + ending for ending in _ENDINGS[form])


def write_result(
    folder: Path,
    stem: str,
    formats: Sequence[Format],
    image: Image.Image,
    heatmap: Heatmap,
    segments: Sequence[Segment],
    title: str,
    image_id: int = 1,
    notes: Sequence[str] = (),
    explanation: Explanation | None = None,
) -> tuple[Path, ...]:
    """Write a heat map and its masks in each format.

    Args:
        folder: created where it is missing.
        stem: the files' name without ending.
        formats: `png`: the image with map, points and masks; `mask`: 255 on the masks and 0 off them, in the image's
            size; `cutout`: the image, transparent off the masks; `coco`: a list of COCO results with RLE masks; `npz`:
            the map with what each stage removed; `explain`: the explanation as a picture and as JSON.
        image: RGB.
        heatmap: [h, w] in [0, 1] over the whole image.
        segments: masks of the image's size.
        title: above the picture.
        image_id: of the COCO results.
        notes: below the picture.
        explanation: for `explain`, which needs it.

    Returns:
        The files, in the order of `formats`.

    Raises:
        OutputError: the folder cannot be written to.
    """
    make_folder(folder)

    def content(form: Format) -> Image.Image:
        if form == "png":
            from grounding.viz import overlay  # imports matplotlib, which is slow

            return overlay(image, heatmap, segments, title, notes)
        mask = mask_image(image.size, segments)
        return mask if form == "mask" else cut_out(image, mask)

    files = []
    for form in formats:
        file = folder / file_names(stem, form)[0]
        if form == "npz":
            files.append(save_heatmap(file, heatmap))
        elif form == "coco":
            files.append(write_coco(file, [coco_result(segment, image_id) for segment in segments]))
        elif form == "explain":
            if explanation is None:
                raise ValueError("the format 'explain' needs an explanation")
            files += _write_explanation(folder, stem, image, explanation, notes)
        else:
            files.append(write_bytes(file, png(content(form))))
    return tuple(files)


def _write_explanation(
    folder: Path, stem: str, image: Image.Image, explanation: Explanation, notes: Sequence[str]
) -> list[Path]:
    from grounding.viz_explanation import explanation_sheet  # imports matplotlib, which is slow

    picture, data = (folder / name for name in file_names(stem, "explain"))
    text = to_json(explanation.to_json(), str(data), indent=2)
    # A list of numbers stands on one line. No text can be mistaken for one: in JSON a text holds no line break.
    text = re.sub(r"\[\n[\s\d.,eE+-]*\]", lambda found: f"[{' '.join(found[0][1:-1].split())}]", text)
    return [write_bytes(picture, png(explanation_sheet(image, explanation, notes))), write_text(data, text + "\n")]


def mask_image(size: tuple[int, int], segments: Sequence[Segment]) -> Image.Image:
    """Make a grey picture of the image's size (W, H), 255 on any of the masks and 0 off them."""
    on = np.zeros((size[1], size[0]), bool)
    for segment in segments:
        on |= segment.mask
    return Image.fromarray(on.astype(np.uint8) * 255)


def cut_out(image: Image.Image, mask: Image.Image) -> Image.Image:
    """Make an RGBA picture of an RGB image, opaque where the mask is white; its transparent pixels are black.

    (Their colours are not kept, or a program that leaves transparency out would show the whole image.)
    """
    cut = Image.new("RGBA", image.size)
    cut.paste(image, mask=mask)
    return cut


def write_noun_sheet(file: Path, image: Image.Image, text: str, panels: Sequence[NounPanel], title: str) -> Path:
    """Write the picture of a text and its nouns; see `grounding.viz_nouns.noun_sheet`.

    Raises:
        OutputError: the file cannot be written.
    """
    from grounding.viz_nouns import noun_sheet  # imports matplotlib, which is slow

    return write_bytes(file, png(noun_sheet(image, text, panels, title)))


def png(image: Image.Image) -> bytes:
    """Encode a picture as PNG."""
    stream = io.BytesIO()
    image.save(stream, "PNG")
    return stream.getvalue()
