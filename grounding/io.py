"""Write and read masks, maps and results: COCO run-length masks and results, npz heat maps, safetensors attention."""

from __future__ import annotations

import dataclasses
import io
import json
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypedDict

import numpy as np
import numpy.typing as npt
from pycocotools import mask as coco_mask
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save as save_tensors

from grounding.attention_flow import AttentionFlow
from grounding.errors import OutputError
from grounding.files import to_json, write_bytes, write_json
from grounding.layout import ImageGrid
from grounding.types import (  # fmt: skip
    AttentionMaps,
    BoolArray,
    Direction,
    Heatmap,
    Segment,
    StageReport,
    Word,
    WordKind,
)


class Rle(TypedDict):
    """A mask in COCO's compressed run-length form: `size` is [height, width], runs go down the columns."""

    size: list[int]
    counts: str


class CocoResult(TypedDict):
    """One entry of a COCO results file; `bbox` is [x, y, width, height] in pixels."""

    image_id: int | str
    category_id: int
    segmentation: Rle
    bbox: list[float]
    score: float


def encode_mask(mask: BoolArray) -> Rle:
    """Encode a bool mask [H, W] as COCO run lengths, with the counts as text for JSON."""
    code = coco_mask.encode(np.asfortranarray(mask, dtype=np.uint8))
    return {"size": [int(side) for side in code["size"]], "counts": code["counts"].decode("ascii")}


def decode_mask(rle: Rle) -> BoolArray:
    """Decode COCO run lengths to a bool mask [H, W].

    Raises:
        OutputError: the runs do not add up to the size. (pycocotools decodes some such masks to arbitrary pixels.)
    """
    try:
        height, width = (int(side) for side in rle["size"])
        counts = rle["counts"].encode("ascii") if isinstance(rle["counts"], str) else bytes(rle["counts"])
        runs = _runs(counts)
    except (KeyError, TypeError, ValueError, AttributeError) as wrong:
        raise OutputError("a mask needs 'size' [height, width] and 'counts' in COCO's compressed form") from wrong
    if min(height, width) < 1 or min(runs, default=0) < 0 or sum(runs) != height * width:
        raise OutputError(f"a mask of {height}x{width} has run lengths that do not add up to it: the file is broken")
    return np.asarray(coco_mask.decode({"size": [height, width], "counts": counts}), dtype=bool)


def coco_result(segment: Segment, image_id: int | str, category_id: int = 1) -> CocoResult:
    """Describe a segment as an entry of a COCO results file.

    Args:
        segment: the mask with its score.
        image_id: the image's id in the annotations, or its file name where there are none.
        category_id: the category; a referring expression has none, and 1 is customary.
    """
    x0, y0, x1, y1 = segment.box_xyxy
    return {
        "image_id": image_id,
        "category_id": category_id,
        "segmentation": encode_mask(segment.mask),
        "bbox": [x0, y0, x1 - x0, y1 - y0],
        "score": float(segment.score),
    }


def write_coco(path: str | Path, results: Sequence[CocoResult]) -> Path:
    """Write a COCO results file, which `COCO.loadRes` reads.

    Raises:
        OutputError: it cannot be written.
    """
    return write_json(path, list(results), indent=None)


_OLD_DIRECTIONS: dict[str, Direction] = {"keys": "word-to-image", "text": "image-to-word"}
"""By the key `axis` of files written before maps had a step axis."""


def save_heatmap(path: str | Path, heatmap: Heatmap) -> Path:
    """Write a heat map as npz: `values` [h, w], `image_size` (width, height), `stages` as JSON text.

    Raises:
        OutputError: it cannot be written.
    """
    stages = to_json([dataclasses.asdict(report) for report in heatmap.stages], str(path))
    stream = io.BytesIO()
    np.savez_compressed(
        stream, values=heatmap.values, image_size=np.array(heatmap.image_size, np.int64), stages=np.array(stages)
    )
    return write_bytes(path, stream.getvalue())


def save_heatmaps(path: str | Path, heatmaps: Mapping[str, Heatmap]) -> Path:
    """Write several heat maps as npz: under each name its values [h, w] over the whole picture.

    Args:
        path: the file.
        heatmaps: by names, which become the arrays' names.

    Raises:
        OutputError: it cannot be written.
    """
    stream = io.BytesIO()
    np.savez_compressed(stream, **{name.replace("/", "-"): one.values for name, one in heatmaps.items()})  # type: ignore[arg-type]
    return write_bytes(path, stream.getvalue())


def load_heatmap(path: str | Path) -> Heatmap:
    """Read what `save_heatmap` wrote.

    Raises:
        OutputError: the file is missing or holds no heat map.
    """
    try:
        with np.load(path, allow_pickle=False) as data:
            width, height = data["image_size"].tolist()
            stages = tuple(_report(fields) for fields in json.loads(str(data["stages"])))
            return Heatmap(data["values"].astype(np.float32), (int(width), int(height)), stages)
    except (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile, zlib.error) as wrong:
        raise OutputError(f"no heat map can be read from {path} ({_reason(wrong)}): write it again") from wrong


def _report(fields: dict[str, Any]) -> StageReport:
    """A report from its JSON, which has text as keys and lists as tuples; files of older versions have fewer fields."""
    dropped = {int(index): why for index, why in fields.pop("dropped", {}).items()}
    return StageReport(**{**fields, "dropped": dropped, "weights": tuple(fields.get("weights", ()))})


def save_maps(path: str | Path, maps: AttentionMaps) -> Path:
    """Write attention maps, their background included, as safetensors with words and grids in the metadata.

    Raises:
        OutputError: it cannot be written.
    """
    tensors: dict[str, npt.NDArray[Any]] = {}
    described = _pack(maps, "", tensors)
    return write_bytes(path, save_tensors(tensors, metadata={"maps": to_json(described, str(path))}))


def load_maps(path: str | Path) -> AttentionMaps:
    """Read what `save_maps` wrote.

    Files written before maps had a step axis hold values [L, H, T, K]; they are read as one step.

    Raises:
        OutputError: the file is missing or holds no attention maps.
    """
    try:
        with safe_open(path, framework="numpy") as file:
            described = json.loads((file.metadata() or {})["maps"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
        return _unpack(described, "", tensors)
    except (OSError, ValueError, KeyError, TypeError, SafetensorError) as wrong:
        raise OutputError(f"no attention maps can be read from {path} ({_reason(wrong)}): record them again") from wrong


def _pack(maps: AttentionMaps, prefix: str, tensors: dict[str, npt.NDArray[Any]]) -> dict[str, Any]:
    arrays = {"values": maps.values, "keys": maps.keys}
    arrays |= {f"positions.{index}": grid.positions for index, grid in enumerate(maps.grids)}
    arrays |= {f"statistic.{name}": table for name, table in maps.head_statistics.items()}
    if maps.residual_sinks is not None:
        arrays["residual_sinks"] = maps.residual_sinks
    if maps.text_to_text is not None:
        arrays["text_to_text"] = maps.text_to_text
    if maps.features is not None:
        arrays["features"] = maps.features
    if maps.logits is not None:
        arrays["logits"] = maps.logits
    tensors |= {prefix + name: np.ascontiguousarray(array) for name, array in arrays.items()}
    return {
        "layers": maps.layers,
        "words": [dataclasses.asdict(word) for word in maps.words],
        "grids": [
            {"shape": grid.shape, "box_xyxy": grid.box_xyxy, "picture": grid.picture, "frame": grid.frame}
            for grid in maps.grids
        ],
        "image_size": maps.image_size,
        "direction": maps.direction,
        "signed": maps.signed,
        "head_statistics": sorted(maps.head_statistics),
        "residual_sinks": maps.residual_sinks is not None,
        "flow": None if maps.flow is None else dataclasses.asdict(maps.flow),
        "layer_count": maps.layer_count,
        "skipped_layers": maps.skipped_layers,
        "background": None if maps.background is None else _pack(maps.background, prefix + "background.", tensors),
    }


def _unpack(described: dict[str, Any], prefix: str, tensors: dict[str, npt.NDArray[Any]]) -> AttentionMaps:
    behind = described["background"]
    values = tensors[prefix + "values"]
    direction = described["direction"] if "direction" in described else _OLD_DIRECTIONS[described["axis"]]
    return AttentionMaps(
        values=values[None] if values.ndim == 4 else values,
        layers=tuple(described["layers"]),
        words=tuple(
            Word(
                word["text"], (word["span"][0], word["span"][1]), tuple(word["positions"]), WordKind(word["kind"]),
                word["is_head"],
            )
            for word in described["words"]
        ),
        keys=tensors[prefix + "keys"],
        grids=tuple(
            ImageGrid(
                tensors[f"{prefix}positions.{index}"], (grid["shape"][0], grid["shape"][1]), tuple(grid["box_xyxy"]),
                grid.get("picture", 0), grid.get("frame"),
            )
            for index, grid in enumerate(described["grids"])
        ),
        image_size=(described["image_size"][0], described["image_size"][1]),
        direction=direction,
        signed=described.get("signed", False),
        head_statistics={name: tensors[f"{prefix}statistic.{name}"] for name in described["head_statistics"]},
        residual_sinks=tensors[prefix + "residual_sinks"] if described["residual_sinks"] else None,
        text_to_text=tensors.get(prefix + "text_to_text"),
        features=tensors.get(prefix + "features"),
        logits=tensors.get(prefix + "logits"),
        background=None if behind is None else _unpack(behind, prefix + "background.", tensors),
        flow=AttentionFlow(**described["flow"]) if described.get("flow") else None,
        layer_count=described["layer_count"],
        skipped_layers=tuple(described.get("skipped_layers", ())),
    )  # fmt: skip


def _runs(counts: bytes) -> list[int]:
    """Run lengths of COCO's text: five bits per character, low first, a sixth bit if more follow, and from the third
    run on the difference to the run two before.
    """
    runs: list[int] = []
    value = shift = 0
    for code in counts:
        chunk = code - 48
        if not 0 <= chunk < 64:
            raise ValueError("not a run length character")
        value |= (chunk & 31) << shift
        shift += 5
        if chunk & 32:
            continue
        if chunk & 16:
            value -= 1 << shift
        runs.append(value + runs[-2] if len(runs) > 2 else value)
        value = shift = 0
    if shift:
        raise ValueError("the last run length is cut off")
    return runs


def _reason(wrong: Exception) -> str:
    if isinstance(wrong, OSError) and wrong.strerror:
        return wrong.strerror
    return " ".join(str(wrong).split())[:120] or type(wrong).__name__
