"""From a heat map to one mask: who proposes, how the attention chooses, and how sure the answer is."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from grounding.candidates.base import Candidate, RankedCandidate
from grounding.candidates.choose import rank
from grounding.candidates.confidence import Signals, signals_of
from grounding.candidates.propose import from_concepts, from_grid, from_prompts, of_prompt
from grounding.methods import Method
from grounding.segmenters.mask_selection import predict_candidates, select_mask, selected_segment
from grounding.segmenters.specks import without_specks
from grounding.source import fingerprint
from grounding.text.order import Order, order_of
from grounding.types import Heatmap, PointPrompts, Segment, Word
from pipelines.verify import Verified, presence, verify

if TYPE_CHECKING:
    import torch

    from grounding.candidates.rule import Kind
    from grounding.segmenters.automatic import ProposedMask
    from grounding.segmenters.base import MaskCandidates, Segmenter
    from grounding.segmenters.sam3_concept import Sam3Concepts
    from grounding.source import MapSource


@dataclass(frozen=True, eq=False)
class Asked:
    """What is asked of one picture.

    Attributes:
        image: RGB.
        expression: the words.
        words: of the expression, in order; their head noun and spatial words are read.
        heatmap: where the words attend.
        points: the method's point prompts.
    """

    image: Image.Image
    expression: str
    words: tuple[Word, ...]
    heatmap: Heatmap
    points: PointPrompts

    @property
    def noun(self) -> str:
        """The head noun, or the whole expression where none was found."""
        return " ".join(word.text for word in self.words if word.is_head) or self.expression

    @property
    def order(self) -> Order:
        """What the expression says about which one."""
        return order_of(sorted(self.words, key=lambda word: word.span))


@dataclass(frozen=True, eq=False)
class ChosenAnswer:
    """The mask that was chosen, and what it was chosen from.

    Attributes:
        segment: the mask; None where nothing fits.
        ranking: the candidates, best first; empty where none was proposed.
        confidence: the probability that the best one is right; None where no confidence was fitted for this model,
            segmenter and kind of candidates.
        signals: what the confidence is made of; None without candidates.
        predicted: the segmenter's masks of the method's points, where the candidates are those.
        notes: why there is no answer, and where the method's weights do not hold; one sentence each.
        verified: what the model said of the regions it was shown again; None where it was not asked.
    """

    segment: Segment | None
    ranking: tuple[RankedCandidate, ...]
    confidence: float | None
    signals: Signals | None
    predicted: MaskCandidates | None = None
    notes: tuple[str, ...] = ()
    verified: Verified | None = None


class Chooser:
    """Propose candidates with one segmenter, and choose. Keeps the masks of the last picture's grid.

    Args:
        segmenter: has the picture set before `answer` is called, unless SAM 3 proposes.
        concepts: SAM 3's detector, for methods whose candidates are its instances.
        encode: sets the segmenter's image, unless it is the last one set.
    """

    def __init__(
        self, segmenter: Segmenter, concepts: Sam3Concepts | None, encode: Callable[[Image.Image], None]
    ) -> None:
        self._segmenter = segmenter
        self._concepts = concepts
        self._encode = encode
        self._grid: tuple[bytes, object, tuple[ProposedMask, ...]] | None = None
        self._shown: bytes | None = None

    def prepare(self, image: Image.Image, method: Method) -> None:
        """Encode a picture for the model that proposes; nothing is done twice for one picture."""
        if method.candidates.kind != "sam3":
            self._encode(image)
        elif (key := fingerprint(image)) != self._shown:
            self._shown = None
            self._detector().set_image(image)
            self._shown = key

    def answer(self, asked: Asked, method: Method, source: MapSource) -> ChosenAnswer:
        """Choose a mask.

        Weights that were fitted with another model, segmenter or kind of candidates are not used: the default ones
        choose, and a note says so.

        Args:
            asked: picture, words and map.
            method: its candidates, mask rule and confidence.
            source: the model, asked again where the method verifies; weights and confidence hold for its name.

        Raises:
            SegmenterError: out of memory, or the method needs SAM 3 and there is none.
            ModelError: the method verifies, and the model cannot be asked.
        """
        self.prepare(asked.image, method)
        if method.candidates.kind == "points":
            answer = self._by_points(asked, method, source)
        else:
            answer = self._by_weights(asked, method, source)
        verifies = method.candidates.verify and answer.segment is not None and answer.ranking
        return self._verified(answer, asked, method, source) if verifies else answer

    def _by_weights(self, asked: Asked, method: Method, source: MapSource) -> ChosenAnswer:
        rule, names = method.candidates, (source.name, self._segmenter.name)
        answer = self._by_candidates(asked, replace(method, candidates=rule.holding_for(*names)), source)
        note = rule.why_default(*names)
        return answer if note is None else replace(answer, notes=(note, *answer.notes))

    def _by_candidates(self, asked: Asked, method: Method, source: MapSource) -> ChosenAnswer:
        candidates = self._proposed(asked, method)
        if not candidates:
            note = f"no candidate was found by --candidates {method.candidates.kind}"
            return ChosenAnswer(None, (), None, None, notes=(note,))
        ranked = rank(candidates, asked.heatmap, method.candidates, asked.order)
        return self._sure(_segment(ranked[0], asked, method), ranked, asked, method, source)

    def _by_points(self, asked: Asked, method: Method, source: MapSource) -> ChosenAnswer:
        rule = method.mask
        predicted = predict_candidates(self._segmenter, asked.points, asked.heatmap, rule)
        segment = selected_segment(predicted, asked.points, asked.heatmap, rule, asked.expression)
        candidates = of_prompt(predicted, asked.points, "the method's points")
        if not candidates:
            return ChosenAnswer(segment, (), None, None, predicted)
        ranked = _as_chosen(candidates, predicted, asked.heatmap, method)
        return replace(self._sure(segment, ranked, asked, method, source), predicted=predicted)

    def _sure(
        self, segment: Segment, ranked: tuple[RankedCandidate, ...], asked: Asked, method: Method, source: MapSource
    ) -> ChosenAnswer:
        """Say how sure an answer is, and take it back where it is not sure enough."""
        rule, signals = method.candidates, signals_of(ranked, asked.heatmap)
        fitted = method.confidence
        if fitted is None or not fitted.holds_for(source.name, self._segmenter.name, rule.kind):
            return ChosenAnswer(segment, ranked, None, signals)
        if fitted.asks:
            signals = with_presence(signals, ranked, asked, method, source)
        confidence = fitted(signals)
        if confidence < rule.least_confidence:
            note = f"nothing fits: the best candidate's confidence is {confidence:.2f}, below {rule.least_confidence:g}"
            return ChosenAnswer(None, ranked, confidence, signals, notes=(note,))
        return ChosenAnswer(replace(segment, confidence=confidence), ranked, confidence, signals)

    def _verified(self, answer: ChosenAnswer, asked: Asked, method: Method, source: MapSource) -> ChosenAnswer:
        """Ask the model about the candidates, best first, and take the first that it accepts."""
        how = method.verification
        found = verify(source, asked.image, answer.ranking, asked.expression, asked.noun, how)
        if found.accepted is None:
            shares = ", ".join(f"{share:.2f}" for share in found.shares)
            note = f"nothing fits: shown again, the model accepts none of the candidates (share of yes {shares})"
            return replace(answer, segment=None, notes=(*answer.notes, note), verified=found)
        if found.accepted == 0:
            return replace(answer, verified=found)
        ranking = answer.ranking[found.accepted :] + answer.ranking[: found.accepted]
        # The confidence is that of the best by the rule; none was fitted for one that the model preferred.
        segment = _segment(ranking[0], asked, method)
        return replace(answer, segment=segment, ranking=ranking, confidence=None, verified=found)

    def _proposed(self, asked: Asked, method: Method) -> tuple[Candidate, ...]:
        rule = method.candidates
        if rule.kind == "boxes":
            return from_prompts(self._segmenter, asked.heatmap, asked.points, rule)
        if rule.kind == "auto":
            return from_grid(self._of_grid(asked.image, method))
        return from_concepts(self._detector().instances(asked.noun, rule.least_concept), asked.noun)

    def _of_grid(self, image: Image.Image, method: Method) -> tuple[ProposedMask, ...]:
        settings, key = method.candidates.grid, fingerprint(image)
        if self._grid is None or self._grid[:2] != (key, settings):
            self._grid = (key, settings, settings(self._segmenter, image.size))
        return self._grid[2]

    def _detector(self) -> Sam3Concepts:
        from grounding.errors import SegmenterError

        if self._concepts is None:
            raise SegmenterError(
                "the method's candidates are SAM 3's instances, and no SAM 3 was given: load the pipeline with "
                "from_pretrained, or give it `concepts`"
            )
        return self._concepts


def with_candidates(
    method: Method, kind: Kind | None = None, least_confidence: float | None = None, verify: bool | None = None
) -> Method:
    """A method with other candidates, another bar of confidence or with verification; unchanged where all are None.

    Raises:
        MethodError: the kind is unknown or the bar is outside [0, 1].
    """
    rule = method.candidates
    return replace(
        method,
        candidates=replace(
            rule,
            kind=rule.kind if kind is None else kind,
            least_confidence=rule.least_confidence if least_confidence is None else least_confidence,
            verify=rule.verify if verify is None else verify,
        ),
    )


def load_concepts(method: Method, device: str | torch.device, dtype: str | torch.dtype) -> Sam3Concepts | None:
    """Load SAM 3's detector where the method's candidates are its instances; else None.

    Raises:
        SegmenterError: it cannot be loaded.
    """
    if method.candidates.kind != "sam3":
        return None
    from grounding.devices import resolve_device, resolve_dtype
    from grounding.segmenters.sam3_concept import Sam3Concepts

    place = resolve_device(device)
    return Sam3Concepts.load(method.candidates.concepts, place, resolve_dtype(dtype, place))


def with_presence(
    signals: Signals, ranked: Sequence[RankedCandidate], asked: Asked, method: Method, source: MapSource
) -> Signals:
    """The signals with the model's own answers about the picture and the best candidate."""
    whole, crop = presence(source, asked.image, ranked[0], asked.expression, asked.noun, method.verification)
    return replace(signals, presence=whole, crop=crop)


def _segment(one: RankedCandidate, asked: Asked, method: Method) -> Segment:
    return Segment(
        mask=without_specks(one.candidate.mask, method.mask.specks),
        score=one.candidate.score,
        points=one.candidate.prompt,
        label=asked.expression,
        agreement=one.features["agreement"],
    )


def _as_chosen(
    candidates: Sequence[Candidate], predicted: MaskCandidates, heatmap: Heatmap, method: Method
) -> tuple[RankedCandidate, ...]:
    """The masks of one prompt in the order of the method's mask rule."""
    filled = np.asarray(predicted.masks.any(axis=(1, 2)))
    scores = method.mask.scores(predicted, heatmap)[filled]
    best = select_mask(predicted, heatmap, method.mask)
    place = int(filled[:best].sum())  # of the chosen one among those that are not empty
    measured = rank(candidates, heatmap, method.candidates)
    by_candidate = {id(one.candidate): one for one in measured}
    ranked = [
        replace(by_candidate[id(one)], score=float(score), why=f"score {score:.2f} by the method's mask rule")
        for one, score in zip(candidates, scores, strict=True)
    ]
    order = sorted(range(len(ranked)), key=lambda index: (index != place, -ranked[index].score))
    return tuple(ranked[index] for index in order)
