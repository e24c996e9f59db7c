"""What decides how open-ended segmentation lists, finds and ranks objects, apart from the method and the decoding."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, get_args

from grounding.errors import MethodError
from grounding.points import MaxMinPair, PointRule
from grounding.segmenters.instance_suppression import Overlap
from grounding.segmenters.peeling import Peeling
from grounding.text.names import Merge, Stuff

if TYPE_CHECKING:
    from grounding.methods import Method
    from grounding.models.own_words import OwnWords

QuestionEnsemble = Literal["off", "fixed", "written"]
MapsFrom = Literal["answer", "question"]
Points = Literal["pair", "method"]
Rank = Literal["attention", "agreement", "iou"]
OverlapBy = Literal["name", "all"]

LIST_QUESTIONS = (
    "List every object in this image, as names with commas between them.",
    "What objects can be seen in this image?",
    "Which small objects are in this image?",
    "Which objects are in the background of this image?",
    "Which objects are at the edges of this image?",
    "Are there people or animals in this image? Name them.",
    "Which vehicles, tools or devices are in this image?",
    "Which furniture, dishes or food are in this image?",
    "Which plants, buildings or signs are in this image?",
    "What unusual objects are in this image?",
)
"""Questions for models that declare none of their own; the first is the one without an ensemble."""
WRITE_QUESTIONS = (
    "If we want you to list all possible objects in the given image, what questions should we ask? Please give 10 "
    "questions you prefer."
)
"""VL-SAM's request for the questions of the ensemble (arXiv 2410.05963), verbatim."""
_MOST_WRITTEN = 10


@dataclass(frozen=True)
class DiscoverySettings:
    """How objects are listed, found and ranked.

    Attributes:
        question: the question for the objects; where None the model's own, else the first of `LIST_QUESTIONS`.
        question_ensemble: `off` asks one question; `fixed` asks all of the model's own questions, or of
            `LIST_QUESTIONS`; `written` has the model write up to ten questions about the picture and asks these.
        multi_scale: look at the four quarters of the picture too, each as a picture of its own.
        answers: to each question; more than one need a decoding that samples.
        maps: `answer` reads the map of a name where the model wrote it; `question` asks for each name with the
            method's prompt, which takes one more run per name.
        merge: which mentions in an answer are one object; see `grounding.text.names`.
        stuff: what becomes of nouns like "sky"; see `grounding.text.names`.
        max_names: most names of one answer.
        points: `pair`: one point on the object and one off it (`grounding.points.MaxMinPair`); `method`: the method's
            own rule.
        cascade: refine every mask in three calls; see `grounding.segmenters.mask_selection.refine_masks`.
        peeling: when the search on one map ends.
        rank: score of an instance, the segmenter's estimate of the mask times: `attention`, the map's mean on the mask;
            `agreement`, the correlation of mask and map; `iou`, nothing.
        overlap: instances of a larger IoU with a better one are left out; 1 keeps all.
        overlap_of: IoU of masks or of boxes.
        overlap_by: `name`: only instances of one name rival each other; `all`: any two do.

    Raises:
        MethodError: a number is out of range.

    Notes:
        VL-SAM lists objects, takes one point pair per map, refines with PerSAM's cascade, repeats on the masked map,
        runs five views and ten questions, and suppresses what overlaps. Its question, thresholds, score, stopping
        rule, and the overlap and its kind are not in the paper; ours are here. That views and questions are merged by
        suppression alone is our reading.
    """

    question: str | None = None
    question_ensemble: QuestionEnsemble = "off"
    multi_scale: bool = False
    answers: int = 1
    maps: MapsFrom = "answer"
    merge: Merge = "phrases"
    stuff: Stuff = "one"
    max_names: int = 40
    points: Points = "pair"
    cascade: bool = True
    peeling: Peeling = field(default_factory=Peeling)
    rank: Rank = "attention"
    overlap: float = 0.5
    overlap_of: Overlap = "mask"
    overlap_by: OverlapBy = "all"

    def __post_init__(self) -> None:
        if self.answers < 1 or self.max_names < 1 or not 0 <= self.overlap <= 1:
            raise MethodError(
                f"answers {self.answers}, max_names {self.max_names} and overlap {self.overlap} were given, expected "
                "at least 1 of the first two, and an IoU in [0, 1]"
            )
        if self.question is not None and not self.question.strip():
            raise MethodError("the question is empty: leave it out, or ask for the objects in words")
        if self.question is not None and self.question_ensemble != "off":
            raise MethodError(
                f"one question and the question ensemble {self.question_ensemble!r} were given: leave one of them out"
            )
        for name, choice, known in (
            ("question_ensemble", self.question_ensemble, QuestionEnsemble),
            ("maps", self.maps, MapsFrom),
            ("merge", self.merge, Merge),
            ("stuff", self.stuff, Stuff),
            ("points", self.points, Points),
            ("rank", self.rank, Rank),
            ("overlap_of", self.overlap_of, Overlap),
            ("overlap_by", self.overlap_by, OverlapBy),
        ):
            if choice not in get_args(known):
                raise MethodError(f"{name} {choice!r} is not known: choose {', '.join(get_args(known))}")

    def questions(self, own: OwnWords) -> tuple[str, ...]:
        """The questions that are known without the model's answer: one, or all of a fixed ensemble."""
        fixed = own.listing or LIST_QUESTIONS
        if self.question is not None:
            return (self.question,)
        return fixed if self.question_ensemble == "fixed" else fixed[:1]

    def point_rule(self, method: Method) -> PointRule:
        """What turns maps into prompts."""
        return MaxMinPair() if self.points == "pair" else method.points


def written_questions(text: str) -> tuple[str, ...]:
    """The questions of a list that a model wrote, at most ten, each once and without its number."""
    lines = (
        re.sub(r"^\s*(?:[-*\u2022]|\(?\d{1,2}[.):])\s*", "", line).strip().strip('"') for line in text.splitlines()
    )
    asked = (line for line in lines if line.endswith(("?", "\uff1f")))
    return tuple(dict.fromkeys(asked))[:_MOST_WRITTEN]
