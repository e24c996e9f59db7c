"""Masks in a colour that stands out from the thing, and captions that are read to their end."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image, ImageDraw

from grounding.types import Heatmap, PointPrompts, Segment
from grounding.viz import MASKS, PAPER, QUIET, contrasting, font, overlay, wrap
from grounding.viz_nouns import NounPanel, noun_sheet


def thing(colour, size=(120, 80)) -> tuple[Image.Image, Segment]:
    """A disc of one colour on grey, and its mask."""
    image = Image.new("RGB", size, (128, 128, 128))
    box = [size[0] // 4, size[1] // 4, 3 * size[0] // 4, 3 * size[1] // 4]
    ImageDraw.Draw(image).ellipse(box, fill=colour)
    mask = (np.asarray(image) == colour).all(axis=2)
    points = PointPrompts(np.array([[size[0] / 2, size[1] / 2]], np.float32), np.array([1]), np.ones(1, np.float32))
    return image, Segment(mask, 0.97, points, agreement=0.71)


def heat(image: Image.Image) -> Heatmap:
    values = np.zeros((8, 12), np.float32)
    values[4, 6] = 1
    return Heatmap(values, image.size)


@pytest.mark.parametrize("colour", MASKS)
def test_a_thing_in_a_masks_colour_has_a_mask_of_another(colour):
    image, segment = thing(colour)
    chosen = contrasting(image, segment.mask)
    assert chosen != colour
    assert chosen in MASKS


def test_a_thing_of_two_colours_of_masks_has_a_mask_of_a_third():
    image = Image.new("RGB", (100, 100), MASKS[0])
    image.paste(MASKS[1], (0, 0, 100, 50))
    assert contrasting(image, np.ones((100, 100), bool)) not in MASKS[:2]


@pytest.mark.parametrize("colour", [(40, 90, 40), (30, 40, 90), (250, 250, 250), (5, 5, 5)])
def test_where_it_stands_out_the_first_colour_is_kept(colour):
    image, segment = thing(colour)
    assert contrasting(image, segment.mask) == MASKS[0]


def test_a_mask_without_pixels_and_a_picture_at_another_size():
    image, segment = thing(MASKS[0])
    assert contrasting(image, np.zeros((80, 120), bool)) == MASKS[0]
    assert contrasting(image.resize((30, 20)), segment.mask) != MASKS[0]
    assert contrasting(image, segment.mask, MASKS[:1]) == MASKS[0]  # where there is no other


def test_an_orange_mask_on_an_orange_thing_is_not_what_a_strip_shows():
    image, segment = thing(MASKS[0], (480, 320))
    strip = overlay(image, heat(image), segment)
    middle = np.asarray(strip)[16 + 160 - 60, 16 + 2 * (480 + 16) + 240].astype(int)
    assert np.abs(middle - MASKS[0]).max() > 60


def test_several_masks_have_colours_of_their_own():
    image, segment = thing(MASKS[0], (480, 320))
    one, two = overlay(image, heat(image), [segment]), overlay(image, heat(image), [segment, segment])
    assert one.tobytes() != two.tobytes()


@pytest.mark.parametrize("size", [(300, 1200), (3, 700), (120, 80), (400, 400)])
def test_captions_are_whole_under_portrait_pictures_too(size):
    """The letters of every caption are drawn: as many dark pixels as the text has alone, within a few."""
    image, segment = thing((40, 90, 40), size)
    strip = overlay(image, heat(image), segment, "the small green thing beside the other one")
    alone = Image.new("RGB", (2000, 40), PAPER)
    text = f"mask, {segment.mask.mean():.1%} of the image, agreement 0.71"
    for number, words in enumerate(("image and points", "heat map", text)):
        ImageDraw.Draw(alone).text((20 + 600 * number, 5), words, QUIET, font(14))
    pixels = np.asarray(strip)
    frames = (pixels == (214, 218, 226)).all(axis=2).sum(axis=1)
    below = pixels[int(np.flatnonzero(frames > 2).max()) + 1 :]
    drawn, expected = (int((one.min(axis=2) < 160).sum()) for one in (below, np.asarray(alone)))
    assert drawn == pytest.approx(expected, rel=0.05)


def test_lines_are_wrapped_and_what_is_left_out_is_marked():
    letters = font(14)
    whole = wrap("one two three four", letters, 60)
    assert " ".join(whole) == "one two three four"
    assert all(letters.getlength(line) <= 60 for line in whole)
    short = wrap("one two three four five six seven eight nine ten", letters, 60, 2)
    assert len(short) == 2
    assert short[-1].endswith("…")
    assert all(letters.getlength(line) <= 60 for line in short)


def test_notes_of_nouns_are_whole():
    image, segment = thing(MASKS[0], (260, 180))
    note = "support 0.52: gaze 0.61, sharp 0.44, mask 0.53 and more words"

    def letters(below: str) -> int:
        panel = NounPanel(((2, 7),), "thing", below, False, heat(image), segment.points, None)
        pixels = np.asarray(noun_sheet(image, "a thing", [panel, panel])).astype(int)
        return int((np.abs(pixels - QUIET).max(axis=2) < 12).sum()) - bare

    bare = 0
    bare = letters("")
    halves = note.split(" gaze ")
    assert letters(note) > 0.9 * (letters(halves[0]) + letters("gaze " + halves[1]))
