"""Draw scenes of shapes with exact masks, for training, demonstrations and measurement.

A scene has one to six objects, each a shape with a colour, a size and a pattern, over a textured background with some
overlap and noise. The same seed and configuration give the same pixels and masks. Needs NumPy and Pillow only. Sizes
and positions are fractions of the image's side, except for masks and boxes, which are in pixels.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from PIL import Image, ImageDraw

from grounding.geometry import Box, tight_box
from grounding.types import BoolArray

SHAPES = ("circle", "square", "triangle", "star", "heart", "cross")
COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (212, 38, 38),
    "orange": (242, 132, 18),
    "yellow": (244, 214, 36),
    "green": (38, 150, 58),
    "cyan": (44, 192, 204),
    "blue": (38, 68, 204),
    "purple": (132, 48, 172),
    "pink": (242, 122, 182),
}
SIZES: dict[str, tuple[float, float]] = {"small": (0.070, 0.088), "large": (0.125, 0.160)}
PATTERNS = ("plain", "striped")

_SUPERSAMPLING = 4  # shapes are drawn this much larger and averaged down
_STRIPE_SHADE = 0.62  # factor on the object's colour


@dataclass(frozen=True)
class Prior:
    """A planted co-occurrence: if `given` is present, `then` is added with this probability."""

    given: str
    then: str
    probability: float


@dataclass(frozen=True)
class SceneConfig:
    """Settings of the drawing.

    Attributes:
        size: side of the square image in pixels.
        objects: smallest and largest number of objects.
        min_visible: smallest visible share of an object.
        noise: largest amplitude of the per-pixel noise, in grey levels.
        priors: planted co-occurrences.
        in_order: place the objects from left to right in the order of their drawing; a prior then applies to the next
            object on the right.
    """

    size: int = 384
    objects: tuple[int, int] = (1, 6)
    min_visible: float = 0.65
    noise: int = 8
    priors: tuple[Prior, ...] = ()
    in_order: bool = False


@dataclass(frozen=True)
class ObjectKind:
    """Appearance of an object, in words of the closed vocabulary."""

    shape: str
    colour: str
    size: str
    pattern: str


@dataclass(frozen=True)
class SceneObject:
    """One drawn object.

    Attributes:
        kind: its shape, colour, size and pattern.
        centre: (x, y) of the drawn shape as fractions of the side.
        mask: bool [H, W], its visible pixels.
    """

    kind: ObjectKind
    centre: tuple[float, float]
    mask: BoolArray = field(repr=False)

    @property
    def box_xyxy(self) -> Box:
        """The tightest box around the visible pixels."""
        return tight_box(self.mask)


@dataclass(frozen=True)
class Scene:
    """An image and what is in it; `grounding.scenes.language.SceneTexts` has the true sentences about it."""

    seed: int
    image: Image.Image = field(repr=False)
    objects: tuple[SceneObject, ...]


def draw_scene(seed: int, config: SceneConfig | None = None) -> Scene:
    """Draw the scene of a seed; the same seed and configuration give the same scene."""
    config = config or SceneConfig()
    rng = np.random.default_rng((seed, 0))
    kinds = _choose_kinds(rng, config)
    canvas = _background(rng, config.size)
    placed: list[tuple[ObjectKind, tuple[float, float]]] = []
    masks: list[BoolArray] = []
    full_areas: list[int] = []
    for number, kind in enumerate(kinds):
        for _ in range(24):
            radius = float(rng.uniform(*SIZES[kind.size]))
            x, y = (float(v) for v in rng.uniform(radius + 0.01, 0.99 - radius, size=2))
            if config.in_order:
                share = (x - radius - 0.01) / (0.98 - 2 * radius)
                x = min(max((number + share) / len(kinds), radius + 0.01), 0.99 - radius)
                if placed and x <= placed[-1][1][0]:
                    continue
            alpha, left, top = _draw_shape(kind.shape, radius, (x, y), float(rng.uniform(-14, 14)), config.size)
            stamp = np.zeros((config.size, config.size), dtype=bool)
            stamp[top : top + alpha.shape[0], left : left + alpha.shape[1]] = alpha >= 0.5
            remaining = [mask & ~stamp for mask in masks]
            visible = all(m.sum() >= config.min_visible * area for m, area in zip(remaining, full_areas, strict=True))
            # Overlapping objects of one colour have no visible edge between them, so their masks would be ambiguous.
            merged = any(
                other.colour == kind.colour and (m & stamp).any() for (other, _), m in zip(placed, masks, strict=True)
            )
            if visible and not merged:
                _paint(canvas, alpha, left, top, kind, rng)
                masks = [*remaining, stamp]
                full_areas.append(int(stamp.sum()))
                placed.append((kind, (x, y)))
                break
    noise = int(rng.integers(0, config.noise + 1))
    canvas += rng.integers(-noise, noise + 1, size=canvas.shape, dtype=np.int16)
    image = Image.fromarray(np.clip(canvas, 0, 255).astype(np.uint8))
    objects = tuple(SceneObject(kind, centre, mask) for (kind, centre), mask in zip(placed, masks, strict=True))
    return Scene(seed, image, objects)


def _choose_kinds(rng: np.random.Generator, config: SceneConfig) -> list[ObjectKind]:
    count = int(rng.integers(config.objects[0], config.objects[1] + 1))
    shapes = [SHAPES[i] for i in rng.integers(0, len(SHAPES), size=count)]
    for prior in config.priors:
        if config.in_order:
            for i in range(len(shapes) - 1):
                if shapes[i] == prior.given and rng.random() < prior.probability:
                    shapes[i + 1] = prior.then
        elif prior.given in shapes and prior.then not in shapes and rng.random() < prior.probability:
            free = [i for i, shape in enumerate(shapes) if shape != prior.given]
            if free:
                shapes[free[0]] = prior.then
            elif len(shapes) < config.objects[1]:
                shapes.append(prior.then)
    kinds = [_random_kind(rng, shape) for shape in shapes]
    # Half of the scenes with several objects have a near twin of the first one, so that shape and colour alone do not
    # identify it and expressions need attributes, positions and relations.
    if len(kinds) > 1 and rng.random() < 0.5:
        first, other = kinds[0], kinds[1]
        twin = ObjectKind(first.shape, first.colour if rng.random() < 0.5 else other.colour, other.size, other.pattern)
        if not config.priors:
            kinds[1] = twin
    return kinds


def _random_kind(rng: np.random.Generator, shape: str) -> ObjectKind:
    colour = tuple(COLOURS)[rng.integers(len(COLOURS))]
    size = tuple(SIZES)[rng.integers(len(SIZES))]
    pattern = PATTERNS[1] if rng.random() < 0.35 else PATTERNS[0]
    return ObjectKind(shape, colour, size, pattern)


def _background(rng: np.random.Generator, size: int) -> np.ndarray:
    """Draw a background, int16 [H, W, 3]: a muted colour, slow changes of light and one of four faint textures."""
    base = rng.integers(60, 225) + rng.integers(-14, 15, size=3)
    slow = Image.fromarray(rng.integers(0, 256, size=(5, 5, 3), dtype=np.uint8)).resize(
        (size, size), Image.Resampling.BICUBIC
    )
    canvas = base + (np.asarray(slow, dtype=np.int16) - 128) // 6
    amplitude = int(rng.integers(4, 13))
    period = float(rng.uniform(0.02, 0.08))
    y, x = np.mgrid[0:size, 0:size] / size
    texture = rng.integers(4)
    wave: np.ndarray
    if texture == 0:
        grain = Image.fromarray(rng.integers(0, 256, size=(48, 48), dtype=np.uint8)).resize(
            (size, size), Image.Resampling.BILINEAR
        )
        wave = (np.asarray(grain, dtype=np.int16) - 128) * amplitude // 128
    elif texture == 1:
        wave = amplitude * (np.floor(x / period) % 2 == np.floor(y / period) % 2)
    elif texture == 2:
        angle = rng.uniform(0, np.pi)
        wave = amplitude * np.sin((x * np.cos(angle) + y * np.sin(angle)) * 2 * np.pi / period)
    else:
        wave = np.zeros((size, size))
    return (canvas + wave[:, :, None].astype(np.int16)).astype(np.int16)


def _outline(shape: str) -> np.ndarray:
    """Return the corners of a shape inside the unit circle, [N, 2], y down."""
    turn = 2 * np.pi
    if shape == "circle":
        angles = np.linspace(0, turn, 72, endpoint=False)
        return np.stack([np.cos(angles), np.sin(angles)], axis=1)
    if shape == "square":
        return np.array([(-1, -1), (1, -1), (1, 1), (-1, 1)]) * 0.82
    if shape == "triangle":
        return np.array([(0, -1), (1, 0.8), (-1, 0.8)])
    if shape == "star":
        angles = np.arange(10) * turn / 10 - turn / 4
        radii = np.where(np.arange(10) % 2 == 0, 1.05, 0.46)
        return np.stack([np.cos(angles) * radii, np.sin(angles) * radii], axis=1)
    if shape == "cross":
        arm = 0.36
        quarter = np.array([(arm, -1), (arm, -arm), (1, -arm)])
        rotations = [np.array([[np.cos(a), -np.sin(a)], [np.sin(a), np.cos(a)]]) for a in np.arange(4) * turn / 4]
        return np.concatenate([quarter @ rotation.T for rotation in rotations])
    t = np.linspace(0, turn, 80, endpoint=False)
    heart = np.stack(
        [16 * np.sin(t) ** 3, -(13 * np.cos(t) - 5 * np.cos(2 * t) - 2 * np.cos(3 * t) - np.cos(4 * t))], axis=1
    )
    return (heart / 16.5) + (0, -0.1)


def _draw_shape(
    shape: str, radius: float, centre: tuple[float, float], degrees: float, size: int
) -> tuple[np.ndarray, int, int]:
    """Draw a shape that lies inside the image: (alpha [h, w] in [0, 1], left, top)."""
    angle = np.deg2rad(degrees)
    rotation = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    corners_px = (_outline(shape) @ rotation.T * radius + centre) * size
    left, top = (max(int(v), 0) for v in np.floor(corners_px.min(axis=0)))
    right, bottom = (min(int(v), size) for v in np.ceil(corners_px.max(axis=0)))
    large = Image.new("L", ((right - left) * _SUPERSAMPLING, (bottom - top) * _SUPERSAMPLING))
    polygon = [(float(x), float(y)) for x, y in (corners_px - (left, top)) * _SUPERSAMPLING]
    ImageDraw.Draw(large).polygon(polygon, fill=255)
    return np.asarray(large.reduce(_SUPERSAMPLING), dtype=np.float32) / 255, left, top


def _paint(
    canvas: np.ndarray, alpha: np.ndarray, left: int, top: int, kind: ObjectKind, rng: np.random.Generator
) -> None:
    height, width = alpha.shape
    colour = np.array(COLOURS[kind.colour]) + rng.integers(-12, 13, size=3)
    fill = np.broadcast_to(colour, (height, width, 3)).astype(np.float32)
    if kind.pattern == "striped":
        y, x = np.mgrid[0:height, 0:width] / canvas.shape[0]
        angle = rng.uniform(0, np.pi)
        stripe = np.floor((x * np.cos(angle) + y * np.sin(angle)) / 0.02 + rng.uniform(0, 2)) % 2 == 0
        fill = np.where(stripe[:, :, None], fill, fill * _STRIPE_SHADE)
    patch = canvas[top : top + height, left : left + width]
    patch[:] = (alpha[:, :, None] * fill + (1 - alpha[:, :, None]) * patch).astype(np.int16)
