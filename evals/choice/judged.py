"""Answer questions with known masks by one or more kinds of candidates, and judge every candidate."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
from PIL import Image

from evals.choice.questions import MaskQuestion
from grounding.candidates.base import RankedCandidate
from grounding.candidates.choose import rank_measured
from grounding.candidates.confidence import Signals, signals_of
from grounding.candidates.features import FEATURES
from grounding.candidates.rule import Kind
from grounding.errors import FATAL, EmptyMapError, GroundingError
from grounding.methods import Method, run_stages
from grounding.run_lengths import PackedMask, overlaps, pack
from grounding.segmenters.specks import without_specks
from grounding.text.order import order_of
from grounding.text.parse import parse
from grounding.types import Heatmap
from pipelines.choosing import ChosenAnswer, with_candidates
from pipelines.referring import ReferringSegmentation


@dataclass(frozen=True, eq=False)
class Judged:
    """One answer against the truth.

    Attributes:
        picture: see `Question`.
        words: the expression.
        truth: the true mask; None where the picture has no such thing.
        heatmap: the map that candidates were compared with; None where it is empty.
        ranking: all candidates, best first.
        ious: [N] of each with the truth, specks included; 0 where there is no such thing.
        iou: of the answer's mask, specks removed; 0 without an answer and where there is no such thing.
        confidence: of the best candidate; None where none was fitted.
        signals: what a confidence is made of; None without candidates.
        image: opens the picture; None where it is not asked about again.
    """

    picture: int
    words: str
    truth: PackedMask | None
    heatmap: Heatmap | None
    ranking: tuple[RankedCandidate, ...]
    ious: npt.NDArray[np.float32]
    iou: float
    confidence: float | None
    signals: Signals | None
    image: Callable[[], Image.Image] | None = None

    @property
    def present(self) -> bool:
        """Whether the picture has such a thing."""
        return self.truth is not None

    @property
    def estimate(self) -> float | None:
        """The segmenter's own estimate of the best candidate; None without candidates."""
        return self.ranking[0].candidate.score if self.ranking else None

    @property
    def features(self) -> npt.NDArray[np.float32]:
        """[N, len(FEATURES)] of all candidates, best first."""
        rows = [[one.features[name] for name in FEATURES] for one in self.ranking]
        return np.array(rows, np.float32).reshape(len(rows), len(FEATURES))


def judge_kinds(
    pipe: ReferringSegmentation,
    questions: Iterable[MaskQuestion],
    kinds: Sequence[Kind],
    advance: Callable[[int], None] = lambda count: None,
    failed: Callable[[MaskQuestion, GroundingError], None] = lambda question, error: None,
) -> dict[Kind, list[Judged]]:
    """Answer every question once for each kind of candidates; the model and the segmenter's encoder run once.

    Args:
        pipe: the pipeline; its bar of confidence is not used, so that every answer is judged.
        questions: with their truth.
        kinds: of candidates.
        advance: called with 1 after every question.
        failed: called with a question that model or segmenter refuse; it is left out.

    Returns:
        The answers by kind, in the order of the questions.
    """
    methods = {kind: with_candidates(pipe.method, kind, 0.0) for kind in kinds}
    found: dict[Kind, list[Judged]] = {kind: [] for kind in kinds}
    for question in questions:
        try:
            answers = _answers(pipe, question, methods)
        except FATAL:
            raise
        except GroundingError as error:
            failed(question, error)
        else:
            for kind, (answer, heatmap) in answers.items():
                found[kind].append(_judged(question, answer, heatmap))
        advance(1)
    return found


def _answers(
    pipe: ReferringSegmentation, question: MaskQuestion, methods: dict[Kind, Method]
) -> dict[Kind, tuple[ChosenAnswer, Heatmap | None]]:
    image = question.image()
    maps = pipe.record_maps([(image, question.words)])[0]
    try:
        heatmap = run_stages(pipe.method, maps)
        points = pipe.method.points(heatmap)
    except EmptyMapError:
        return {kind: (ChosenAnswer(None, (), None, None), None) for kind in methods}
    return {
        kind: (pipe.ask(image, question.words, maps, heatmap, points, method), heatmap)
        for kind, method in methods.items()
    }


def _judged(question: MaskQuestion, answer: ChosenAnswer, heatmap: Heatmap | None) -> Judged:
    truth = None if question.truth is None else pack(question.truth)
    return Judged(
        picture=question.picture,
        words=question.words,
        truth=truth,
        heatmap=heatmap,
        ranking=answer.ranking,
        ious=_ious(truth, [one.candidate.packed for one in answer.ranking]),
        iou=0.0 if answer.segment is None else float(_ious(truth, [pack(answer.segment.mask)])[0]),
        confidence=answer.confidence,
        signals=answer.signals,
        image=question.image,
    )


def _ious(truth: PackedMask | None, masks: Sequence[PackedMask]) -> npt.NDArray[np.float32]:
    if truth is None:
        return np.zeros(len(masks), np.float32)
    return np.asarray(overlaps([truth, *masks])[0, 1:], np.float32)


def ranked_again(answers: Sequence[Judged], method: Method) -> list[Judged]:
    """The same candidates in the order of a method's weights, and judged by its first."""
    return [_ranked_again(one, method) for one in answers]


def _ranked_again(one: Judged, method: Method) -> Judged:
    if one.heatmap is None or not one.ranking:
        return one
    order = order_of(parse(one.words))
    ranking = rank_measured([other.candidate for other in one.ranking], one.features, method.candidates, order)
    best = without_specks(ranking[0].candidate.mask, method.mask.specks)
    return replace(
        one,
        ranking=ranking,
        ious=_ious(one.truth, [other.candidate.packed for other in ranking]),
        iou=float(_ious(one.truth, [pack(best)])[0]),
        signals=signals_of(ranking, one.heatmap),
    )


def with_confidence(answers: Sequence[Judged], method: Method) -> list[Judged]:
    """The answers with the confidences of a method's fitted confidence."""
    fitted = method.confidence
    return [
        replace(one, confidence=None if fitted is None or one.signals is None else fitted(one.signals))
        for one in answers
    ]
