from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from PIL import Image

from grounding.errors import ModelError
from grounding.models.geometry import viewed_box

SIDE = 56


def processor(backend: str, settings: dict[str, Any]) -> Any:
    transformers = pytest.importorskip("transformers")
    name = {"torchvision": "CLIPImageProcessor", "pil": "CLIPImageProcessorPil", "llava": "LlavaImageProcessor"}[
        backend
    ]
    if not hasattr(transformers, name):
        pytest.skip(f"{name} is not in this transformers")
    return getattr(transformers, name)(
        **{"crop_size": {"height": SIDE, "width": SIDE}, "do_normalize": False, "image_mean": [0, 0, 0], **settings}
    )


def bright_centre(pixels: np.ndarray) -> tuple[float, float]:
    """(x, y) of the weighted centre of a [3, h, w] picture, pixel centres at +0.5."""
    light = pixels.mean(0).clip(0)
    y, x = np.mgrid[: light.shape[0], : light.shape[1]] + 0.5
    return float((x * light).sum() / light.sum()), float((y * light).sum() / light.sum())


CROP = {"size": {"shortest_edge": SIDE}, "do_center_crop": True}
EXACT = {"size": {"height": SIDE, "width": SIDE}, "do_center_crop": False}
EXACT_OBLONG = {"size": {"height": 42, "width": 70}, "do_center_crop": False}
PADDED = {"size": {"shortest_edge": 28}, "do_center_crop": True, "crop_size": {"height": 57, "width": 57}}
NOT_RESIZED = {"do_resize": False, "do_center_crop": True}
PLAIN = {"do_resize": False, "do_center_crop": False}
BOTH_EDGES = {"size": {"shortest_edge": 40, "longest_edge": 60}, "do_center_crop": True}
TO_SQUARE = {"size": {"shortest_edge": SIDE}, "do_center_crop": True, "do_pad": True}


@pytest.mark.parametrize("size", [(160, 90), (90, 161), (64, 64), (203, 120)])
@pytest.mark.parametrize(
    ("backend", "settings"),
    [
        *((backend, s) for backend in ("torchvision", "pil") for s in (CROP, EXACT, EXACT_OBLONG, PADDED, BOTH_EDGES)),
        *((backend, s) for backend in ("torchvision", "pil") for s in (NOT_RESIZED, PLAIN)),
        ("llava", TO_SQUARE),
        ("llava", CROP),
    ],
)
def test_a_spot_in_the_models_pixels_is_found_in_the_original(
    backend: str, settings: dict[str, Any], size: tuple[int, int]
) -> None:
    width, height = size
    spot = (width // 2 - 5, height // 2 - 6, width // 2 + 9, height // 2 + 4)  # off the centre, in view after a crop
    picture = np.zeros((height, width, 3), dtype=np.uint8)
    picture[spot[1] : spot[3], spot[0] : spot[2]] = 255
    made = processor(backend, settings)
    pixels = np.asarray(made(Image.fromarray(picture), return_tensors="np")["pixel_values"][0])
    seen_hw = (pixels.shape[1], pixels.shape[2])
    x0, y0, x1, y1 = viewed_box(size, made, seen_hw, seen_hw)
    x, y = bright_centre(pixels)
    found = (x0 + x / seen_hw[1] * (x1 - x0), y0 + y / seen_hw[0] * (y1 - y0))
    one_pixel = max((x1 - x0) / seen_hw[1], (y1 - y0) / seen_hw[0])
    assert found == pytest.approx(((spot[0] + spot[2]) / 2, (spot[1] + spot[3]) / 2), abs=0.25 * one_pixel)


def test_the_crop_of_a_wide_picture_is_its_middle() -> None:
    box = viewed_box((200, 100), processor("torchvision", CROP), (SIDE, SIDE), (SIDE, SIDE))
    assert box == pytest.approx((50, 0, 150, 100))


def test_patches_that_do_not_fill_the_picture_leave_its_right_and_bottom_out() -> None:
    box = viewed_box((SIDE, SIDE), processor("torchvision", CROP), (SIDE, SIDE), (48, 48))
    assert box == (0, 0, 48, 48)


def test_padding_to_a_square_reaches_over_the_border() -> None:
    box = viewed_box((100, 50), processor("llava", TO_SQUARE), (SIDE, SIDE), (SIDE, SIDE))
    assert box == pytest.approx((0, -25, 100, 75))


def test_a_processor_that_does_something_else_is_refused() -> None:
    with pytest.raises(ModelError, match="made 30x20 pixels of a 200x100 picture, but its settings say 56x56"):
        viewed_box((200, 100), processor("torchvision", CROP), (20, 30), (20, 30))


def test_an_unknown_way_of_resizing_is_refused() -> None:
    made = processor("torchvision", {**CROP, "size": {"max_height": 20, "max_width": 30}})
    with pytest.raises(ModelError, match="expected a shortest edge, or a height"):
        viewed_box((200, 100), made, (SIDE, SIDE), (SIDE, SIDE))
