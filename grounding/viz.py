"""Pictures of a result: points, heat map and masks over the image.

Drawn with Pillow; matplotlib provides the colour maps and the DejaVu font, and no figure is created.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import matplotlib
import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont
from scipy import ndimage

from grounding.types import BoolArray, FloatArray, Heatmap, PointPrompts, Segment

Colour = tuple[int, int, int]

INK: Colour = (24, 26, 31)
QUIET: Colour = (110, 116, 128)
PAPER: Colour = (255, 255, 255)
POSITIVE: Colour = (22, 163, 74)
NEGATIVE: Colour = (220, 38, 38)
MASKS: tuple[Colour, ...] = ((255, 122, 0), (0, 150, 255), (190, 60, 220), (0, 170, 120), (235, 60, 90))
"""Colours of masks, used in turn; distinguishable with most kinds of colour blindness."""

_TINT = 0.45  # opacity of a mask
_APART = 0.1  # in OKLab, where black and white are 1 apart
_SAMPLED = 4096  # pixels that are looked at for the choice of a colour
_NARROWEST = 220  # pixels that a panel's caption has at least, however narrow the picture
_BLANKS = {ord(end): " " for end in "\n\r\x1c\x1d\x1e\x85\u2029"}  # for line ends
_TO_LMS = np.array(
    [
        [0.4122214708, 0.5363325363, 0.0514459929],
        [0.2119034982, 0.6806995451, 0.1073969566],
        [0.0883024619, 0.2817188376, 0.6299787005],
    ]
)
_TO_OKLAB = np.array(
    [
        [0.2104542553, 0.7936177850, -0.0040720468],
        [1.9779984951, -2.4285922050, 0.4505937099],
        [0.0259040371, 0.7827717662, -0.8086757660],
    ]
)


def overlay(
    image: Image.Image,
    heatmap: Heatmap,
    segments: Segment | Sequence[Segment] = (),
    title: str = "",
    notes: Sequence[str] = (),
    *,
    side: int = 480,
    colours: str = "turbo",
) -> Image.Image:
    """Draw a result as three panels side by side: image with points, heat map, masks.

    Args:
        image: the original image.
        heatmap: map over the same image.
        segments: masks with their points; the third panel is the bare image if there are none.
        title: caption, such as the referring expression.
        notes: sentences below the panels.
        side: longer side of a panel in pixels.
        colours: name of a matplotlib colour map.

    Returns:
        An RGB image.
    """
    found = [segments] if isinstance(segments, Segment) else list(segments)
    scale = side / max(image.size)
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    small = image.convert("RGB").resize(size, Image.Resampling.LANCZOS if scale < 1 else Image.Resampling.BICUBIC)
    frame = (size[0] / image.width, size[1] / image.height)
    with_points, with_map, with_masks = small.copy(), blend_map(small, heatmap, colours), small.copy()
    free = MASKS
    for segment in found:
        draw_points(with_points, segment.points, frame)
        colour = contrasting(small, segment.mask, free)
        free = tuple(one for one in free if one != colour) or MASKS
        with_masks = blend_mask(with_masks, segment.mask, colour)
        draw_points(with_map, segment.points, frame)
    captions = ["image and points", "heat map", _mask_note(found)]
    return _strip([with_points, with_map, with_masks], captions, title, notes)


def blend_map(image: Image.Image, heatmap: Heatmap, colours: str = "turbo", strength: float = 0.75) -> Image.Image:
    """Blend a heat map over an image, more opaque where the map is larger.

    Args:
        image: RGB image with the original's aspect ratio, at any size.
        heatmap: map over it.
        colours: name of a matplotlib colour map.
        strength: opacity at the map's largest value, in [0, 1].

    Returns:
        An RGB image of the same size.
    """
    values = _resize(heatmap.values, image.size)
    painted = matplotlib.colormaps[colours](values)[..., :3] * 255
    base = np.asarray(image, np.float64)
    # The background loses most of its colour, or a red object would look like a hot spot.
    grey = base.mean(axis=2, keepdims=True)
    background = 0.35 * base + 0.65 * grey
    opacity = (0.15 + (strength - 0.15) * np.sqrt(values))[..., None]
    return _to_image(background * (1 - opacity) + painted * opacity)


def blend_mask(image: Image.Image, mask: BoolArray, colour: Colour, strength: float = _TINT) -> Image.Image:
    """Tint a mask over an image, with a bright contour, and dim the rest a little.

    Args:
        image: RGB image with the mask's aspect ratio, at any size.
        mask: bool [H, W] in the original image's size.
        colour: colour of the tint.
        strength: opacity of the tint, in [0, 1].

    Returns:
        An RGB image of the same size.
    """
    # Drawn at twice the size and reduced, for a smooth contour.
    large = (2 * image.width, 2 * image.height)
    share = np.asarray(Image.fromarray(mask.astype(np.float32)).resize(large, Image.Resampling.BILINEAR))
    inside = share >= 0.5
    base = np.asarray(image.resize(large, Image.Resampling.BILINEAR), np.float64)
    tint = np.array(colour, np.float64)
    result = np.where(inside[..., None], base * (1 - strength) + tint * strength, base * 0.82 + 0.18 * 255 * 0.35)
    width = max(1, round(max(large) / 240))
    far = ndimage.distance_transform_edt(~inside)
    result[(far > 0) & (far <= 2 * width)] = 255
    result[(far > 0.5 * width) & (far <= 1.5 * width)] = tint
    return _to_image(result).resize(image.size, Image.Resampling.LANCZOS)


def contrasting(
    image: Image.Image, mask: BoolArray, colours: Sequence[Colour] = MASKS, strength: float = _TINT
) -> Colour:
    """Choose the colour of a mask's tint, so that the tinted thing looks like neither the bare thing nor the rest.

    Args:
        image: RGB image with the mask's aspect ratio, at any size.
        mask: bool [H, W] in the original image's size.
        colours: to choose from, in order of preference.
        strength: opacity of the tint, in [0, 1].

    Returns:
        The first colour that moves all but a fifth of the pixels on the mask far enough in OKLab, and whose mean tint
        is as far from all but a fifth of those off it; the best in that where none is. The first of an empty mask.

    Notes:
        OKLab is Ottosson's (2020); the distance that is enough, and the fifth, are our choice.
    """
    pixels = np.asarray(image, np.float32)
    on = np.asarray(Image.fromarray(mask).resize(image.size, Image.Resampling.NEAREST))
    if not on.any():
        return colours[0]
    thing, rest = (side[:: len(side) // _SAMPLED + 1] for side in (pixels[on], pixels[~on]))
    apart = []
    for colour in colours:
        tinted = thing * (1 - strength) + np.array(colour, np.float32) * strength
        found = [_oklab(tinted) - _oklab(thing)]
        if len(rest):
            found.append(_oklab(tinted.mean(axis=0)) - _oklab(rest))
        apart.append(min(float(np.quantile(np.linalg.norm(one, axis=-1), 0.2)) for one in found))
    return next((one for one, far in zip(colours, apart, strict=True) if far >= _APART), colours[int(np.argmax(apart))])


def draw_points(image: Image.Image, points: PointPrompts, frame: tuple[float, float] = (1.0, 1.0)) -> None:
    """Draw points as discs with a plus (on the object) or a minus (off it), and the box if there is one, in place.

    Args:
        image: RGB image.
        points: point prompts in pixels of the original image.
        frame: pixels of `image` per pixel of the original, (x, y).
    """
    radius = max(5.0, max(image.size) / 48)
    over = 4  # drawn at four times the size and reduced, for smooth edges
    layer = Image.new("RGBA", (image.width * over, image.height * over))
    pen = ImageDraw.Draw(layer)
    if points.box_xyxy is not None:
        corners = [value * frame[index % 2] * over for index, value in enumerate(points.box_xyxy)]
        for width, colour in ((radius * 0.7, PAPER), (radius * 0.35, POSITIVE)):
            pen.rectangle(corners, outline=colour, width=max(over, round(width * over)))
    # In reverse, so that the best point is on top.
    for (x, y), label in zip(points.xy[::-1], points.label[::-1], strict=True):
        at = np.array([x * frame[0], y * frame[1]]) * over
        for reach, fill in ((radius + 2, PAPER), (radius, POSITIVE if label else NEGATIVE)):
            pen.ellipse([*(at - reach * over), *(at + reach * over)], fill=fill)
        arm, half = radius * 0.6 * over, max(1.0, radius * 0.15) * over
        pen.rectangle([at[0] - arm, at[1] - half, at[0] + arm, at[1] + half], fill=PAPER)
        if label:
            pen.rectangle([at[0] - half, at[1] - arm, at[0] + half, at[1] + arm], fill=PAPER)
    layer = layer.resize(image.size, Image.Resampling.LANCZOS)
    image.paste(layer, (0, 0), layer)


def _strip(
    panels: Sequence[Image.Image], captions: Sequence[str], title: str, notes: Sequence[str] = ()
) -> Image.Image:
    width, height = panels[0].size
    margin, cell = 16, max(width, _NARROWEST)
    total = margin + (cell + margin) * len(panels)
    heading, small = font(22, bold=True), font(14)
    lines = wrap(title, heading, total - 2 * margin) if title else []
    below = [wrap(caption, small, cell) for caption in captions]
    foot = [line for note in notes for line in wrap(note, small, total - 2 * margin)]
    line_height, note_height = 30, 18
    top = margin + line_height * len(lines) + (6 if lines else 0)
    under = top + height + note_height * max(map(len, below)) + 12
    strip = Image.new("RGB", (total, under + note_height * len(foot) + 6), PAPER)
    pen = ImageDraw.Draw(strip)
    for number, line in enumerate(lines):
        pen.text((margin, margin + number * line_height - 4), line, INK, heading)
    for number, line in enumerate(foot):
        pen.text((margin, under + number * note_height), line, NEGATIVE, small)
    for number, (panel, words) in enumerate(zip(panels, below, strict=True)):
        left = margin + number * (cell + margin)
        strip.paste(panel, (left, top))
        pen.rectangle([left - 1, top - 1, left + width, top + height], outline=(214, 218, 226))
        for row, line in enumerate(words):
            pen.text((left, top + height + 7 + row * note_height), line, QUIET, small)
    return strip


def _mask_note(segments: Sequence[Segment]) -> str:
    if not segments:
        return "no mask"
    if len(segments) > 1:
        return f"{len(segments)} masks"
    only = segments[0]
    share = f"mask, {only.mask.mean():.1%} of the image"
    return share if only.agreement is None else f"{share}, agreement {only.agreement:.2f}"


def _resize(values: FloatArray, size: tuple[int, int]) -> FloatArray:
    """Interpolate a map [h, w] at every pixel of an image of `size` (W, H), bilinear between cell centres."""
    return np.clip(np.asarray(Image.fromarray(values).resize(size, Image.Resampling.BILINEAR)), 0, 1)


def _oklab(colours: npt.ArrayLike) -> FloatArray:
    """OKLab coordinates [..., 3] of sRGB colours [..., 3] from 0 to 255; equal distances look about equally far."""
    srgb = np.asarray(colours, np.float32) / 255
    linear = np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4)
    return np.asarray(np.cbrt(linear @ _TO_LMS.T) @ _TO_OKLAB.T, np.float32)


def _to_image(pixels: FloatArray) -> Image.Image:
    return Image.fromarray(np.clip(np.rint(pixels), 0, 255).astype(np.uint8))


@lru_cache(maxsize=8)
def font(size: int, bold: bool = False) -> ImageFont.FreeTypeFont:
    """Load DejaVu Sans, which comes with matplotlib, at a size in pixels."""
    name = "DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf"
    return ImageFont.truetype(str(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / name), size)


def wrap(text: str, font: ImageFont.FreeTypeFont, width: float, most: int = 3) -> list[str]:
    """Break a text into lines of at most `width` pixels; an ellipsis stands for what does not fit into `most` lines."""
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if lines[-1] and font.getlength(longer) > width:
            lines.append(word)
        else:
            lines[-1] = longer
    if len(lines) > most:
        lines[most - 1 :] = [" ".join(lines[most - 1 :])]
    return [fit(line, font, width) for line in lines]


def one_line(text: str) -> str:
    """Put blanks for line ends, which text layout refuses; the text keeps its length."""
    return text.translate(_BLANKS)


def fit(text: str, font: ImageFont.FreeTypeFont, width: float) -> str:
    """Put a text on one line, shortened with an ellipsis until it is at most `width` pixels wide."""
    text = one_line(text)
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(text + "…") > width:
        text = text[:-1]
    return text + "…"
