"""Write drawn scenes as a data set: PNG images, masks in COCO format, referring expressions as a manifest."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from grounding.files import to_json, write_bytes, write_json, write_text
from grounding.io import encode_mask
from grounding.scenes.drawing import SHAPES, Scene, draw_scene
from grounding.scenes.language import SceneTexts

IMAGES = "images"
INSTANCES = "instances.json"
EXPRESSIONS = "expressions.jsonl"

_FIRST_SEED = 1 << 40  # above every seed that a packaged model was trained on
_SCENES_PER_SEED = 1 << 24


@dataclass(frozen=True)
class SceneSet:
    """A written data set.

    Attributes:
        folder: folder with `images/`, `instances.json` and `expressions.jsonl`.
        scenes: number of images.
        objects: number of annotated objects.
        expressions: number of expressions.
    """

    folder: Path
    scenes: int
    objects: int
    expressions: int


def scene_seed(seed: int, index: int) -> int:
    """Return the seed of a measuring scene, which is never a training scene of a packaged model.

    Args:
        seed: seed of the set, from 0.
        index: index of the scene in the set, from 0 to 16,777,215.
    """
    if seed < 0 or not 0 <= index < _SCENES_PER_SEED:
        raise ValueError(f"seed must be 0 or more and index below {_SCENES_PER_SEED}, got {seed} and {index}")
    return _FIRST_SEED + seed * _SCENES_PER_SEED + index


def write_scenes(folder: Path, seed: int, count: int, advance: Callable[[], None] = lambda: None) -> SceneSet:
    """Draw scenes and write them.

    `expressions.jsonl` has one line per expression, with `image` (relative to the folder), `expression`, `image_id`,
    `annotation_id` (in `instances.json`) and `kind`, so it is a manifest for `grounding segment`.

    Args:
        folder: output folder; created if missing.
        seed: seed of the set; the same seed gives the same bytes, and a larger count the same first scenes.
        count: number of scenes.
        advance: called after each scene.

    Raises:
        OutputError: the folder cannot be written to.
    """
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    lines: list[dict[str, Any]] = []
    for index in range(count):
        scene = draw_scene(scene_seed(seed, index))
        name = f"{index + 1:06d}.png"
        write_bytes(folder / IMAGES / name, _png(scene))
        images.append({"id": index + 1, "file_name": name, "width": scene.image.width, "height": scene.image.height})
        first = len(annotations) + 1
        annotations += scene_annotations(scene, index + 1, first)
        lines += _lines(scene, f"{IMAGES}/{name}", index + 1, first)
        advance()
    write_json(folder / INSTANCES, scene_instances(images, annotations, seed), indent=None)
    write_text(folder / EXPRESSIONS, "".join(to_json(line, EXPRESSIONS) + "\n" for line in lines))
    return SceneSet(folder, count, len(annotations), len(lines))


def _png(scene: Scene) -> bytes:
    stream = io.BytesIO()
    scene.image.save(stream, "PNG")
    return stream.getvalue()


def scene_annotations(scene: Scene, image_id: int, first: int) -> list[dict[str, Any]]:
    """COCO annotations of a scene's objects, numbered from `first`."""
    found = []
    for number, thing in enumerate(scene.objects, start=first):
        x0, y0, x1, y1 = thing.box_xyxy
        found.append(
            {
                "id": number,
                "image_id": image_id,
                "category_id": SHAPES.index(thing.kind.shape) + 1,
                "segmentation": encode_mask(thing.mask),
                "area": int(thing.mask.sum()),
                "bbox": [x0, y0, x1 - x0, y1 - y0],
                "iscrowd": 0,
                "attributes": asdict(thing.kind),
            }
        )
    return found


def _lines(scene: Scene, image: str, image_id: int, first: int) -> list[dict[str, Any]]:
    return [
        {
            "image": image,
            "expression": expression.text,
            "image_id": image_id,
            "annotation_id": first + expression.target_index,
            "kind": expression.kind,
        }
        for expression in SceneTexts(scene).expressions
    ]


def scene_instances(images: Sequence[Any], annotations: Sequence[Any], seed: int) -> dict[str, Any]:
    """COCO's annotation file of a set of scenes; the categories are the shapes."""
    return {
        "info": {"description": "drawn scenes with exact masks", "seed": seed},
        "licenses": [],
        "categories": [{"id": number, "name": shape} for number, shape in enumerate(SHAPES, start=1)],
        "images": list(images),
        "annotations": list(annotations),
    }
