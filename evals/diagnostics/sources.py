"""Inputs of diagnostics: pictures with a question, drawn scenes, or the samples of a run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from evals.chair.lexicon import Lexicon, make_lexicon
from evals.chair.spans import mention_spans
from evals.diagnostics.summary import ObjectWord
from grounding.errors import EvalDataError

if TYPE_CHECKING:
    from PIL import Image

    from evals.folder import Folder


@dataclass(frozen=True)
class PictureQuestion:
    """One picture to describe.

    Attributes:
        id: name of the item.
        question: the question; empty for the model's own request for a description.
        open: returns the RGB picture, or raises ImageError.
        truth: the objects in the picture; None where not known.
        lexicon: words by the objects they name.
    """

    id: str
    question: str
    open: Callable[[], Image.Image] = field(repr=False)
    truth: frozenset[str] | None = None
    lexicon: Lexicon | None = field(default=None, repr=False)

    def words(self, text: str) -> tuple[ObjectWord, ...]:
        """Mentions of objects in a text; none where the truth is not known."""
        if self.truth is None or self.lexicon is None:
            return ()
        return tuple(
            ObjectWord(one.object, one.start, one.end, one.object in self.truth)
            for one in mention_spans(text, self.lexicon)
        )


def from_images(paths: Sequence[Path], question: str) -> list[PictureQuestion]:
    """Pictures from files, without truth."""
    return [PictureQuestion(path.name, question, partial(_open, path)) for path in paths]


def from_scenes(count: int, seed: int, question: str = "") -> list[PictureQuestion]:
    """Drawn scenes outside the starters' training data, with the shapes in them."""
    from grounding.scenes.drawing import draw_scene
    from grounding.scenes.files import scene_seed
    from grounding.scenes.language import PLURALS

    lexicon = make_lexicon("\n".join(f"{shape}, {plural}" for shape, plural in PLURALS.items()))
    items = []
    for index in range(count):
        scene = draw_scene(scene_seed(seed, index))
        truth = frozenset(thing.kind.shape for thing in scene.objects)
        items.append(PictureQuestion(f"scene {index}", question, partial(_same, scene.image), truth, lexicon))
    return items


def from_run(run: Folder, lexicon: Lexicon | None = None) -> list[PictureQuestion]:
    """Samples of a run that have a picture and no error, with the truth from their scores.

    Args:
        run: the folder.
        lexicon: words by the objects they name; the words that the run's lines say were counted where None.

    Raises:
        EvalDataError: no sample has both a picture and a question.
    """
    usable = [one for one in run.samples if one.image is not None and one.question and not one.error]
    if not usable:
        raise EvalDataError(
            f"no sample of {run.path} names an image and a question: give the folder of a run of a model"
        )
    known = lexicon or run.counted
    return [
        PictureQuestion(one.id, one.question, partial(_open, one.image), one.truth, known)
        for one in usable
        if one.image
    ]


def _open(path: Path) -> Image.Image:
    from grounding.images import open_image

    return open_image(path)


def _same(image: Image.Image) -> Image.Image:
    return image
