"""Rank a model's heads over a set of samples.

- `entropy`, `share`: by attention and spatial entropy, without labels; see `grounding.localization.ranking`.
- `contrast`: by what changes when the words name something else; see `grounding.localization.contrast`.
- `agreement`: by the share of their image attention on masks.
- `causal`: by the fall of a true answer's log-probability when what the head reads from the cells of the mask is taken
  out of its output (`grounding.steering.measure.mask_effects`).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field

import numpy as np
import torch
from scipy import stats

from grounding.errors import ExpressionError, GroundingError, ImageError, MethodError
from grounding.localization.contrast import contrast_scores
from grounding.localization.ranking import EntropyRule, Ranked, by_entropy, ranked
from grounding.localization.samples import HeadSample, Source
from grounding.localization.scores import HeadScores, Row, head_scores
from grounding.maps.head_ranking import HeadRanking, HeadRule
from grounding.models.base import VLM
from grounding.record_spec import RecordSpec
from grounding.steering.measure import mask_effects
from grounding.steering.samples import CalibrationSample
from grounding.types import FloatArray


@dataclass(frozen=True)
class HeadSettings:
    """How heads are ranked.

    Attributes:
        rule: see the module.
        row: the row of attention that is judged: the prompt's `last` token, as in the paper, or the content `words`.
        entropy: numbers of the rule `entropy`.
    """

    rule: HeadRule = "entropy"
    row: Row = "last"
    entropy: EntropyRule = field(default_factory=EntropyRule)


@dataclass(frozen=True)
class RankedHeads:
    """A ranking and what is known of it.

    Attributes:
        ranking: to be stored.
        spearman: rank correlation of the ranked heads' order with their agreement with the masks; None without masks,
            of fewer than three heads, and where all scores are equal. The paper reports above 0.7 with the IoU.
    """

    ranking: HeadRanking
    spearman: float | None


def rank_heads(
    vlm: VLM,
    sources: Sequence[Source],
    settings: HeadSettings,
    *,
    seed: int | None = None,
    left_out: Callable[[int, GroundingError], None] = lambda index, why: None,
    advance: Callable[[], None] = lambda: None,
) -> RankedHeads:
    """Rank the heads of a model.

    Args:
        vlm: the model.
        sources: the samples, opened one at a time.
        settings: how heads are ranked.
        seed: of generated samples; stored in the result.
        left_out: called with the index of a sample that cannot be used, and the error.
        advance: called after every sample.

    Raises:
        MethodError: no sample could be used, or the rule leaves no head.
    """
    scores: list[HeadScores] = []
    own: list[FloatArray] = []
    data, reason = hashlib.sha256(), ""
    for index, source in enumerate(sources):
        try:
            sample = source()
            found, table = _measured(vlm, sample, settings)
        except GroundingError as why:
            reason = reason or str(why)
            left_out(index, why)
        else:
            scores.append(found)
            own.append(table)
            data.update(sample.digest())
        advance()
    if not scores:
        raise MethodError(f"none of {len(sources)} samples could be used; of the first one: {reason}")
    order = _order(scores, own, settings)
    if not order:
        raise MethodError("the rule leaves no head: lower min_share or choose another cut")
    stored = asdict(settings.entropy) if settings.rule == "entropy" else {}
    ranking = HeadRanking(
        vlm.name,
        settings.rule,
        len(scores),
        data.hexdigest(),
        vlm.layer_count,
        vlm.head_count,
        order,
        {"row": settings.row, **stored},
        seed,
    )
    return RankedHeads(ranking, _spearman(order, scores))


def _measured(vlm: VLM, sample: HeadSample, settings: HeadSettings) -> tuple[HeadScores, FloatArray]:
    """Scores by the maps, and the rule's own [L, H] where it has one beyond them."""
    if settings.rule in ("agreement", "causal") and sample.mask is None:
        raise ImageError(f"the rule {settings.rule} needs a mask of what the expression names: give every sample one")
    if settings.rule == "contrast":
        own, maps = contrast_scores(vlm, sample, settings.row)
    else:
        with torch.inference_mode():
            (maps,) = vlm.maps([sample.image], [sample.expression], RecordSpec())
        own = np.zeros(maps.values.shape[1:3], np.float32)
    if settings.rule == "causal":
        if sample.answer is None:
            raise ExpressionError("the rule causal needs an answer that names the thing: give every sample one")
        asked = CalibrationSample(sample.image, sample.question, sample.answer, sample.word, sample.mask)
        own = mask_effects(vlm, asked)[list(maps.layers)]
    return head_scores(maps, settings.row, sample.mask), own


def _order(scores: Sequence[HeadScores], own: Sequence[FloatArray], settings: HeadSettings) -> Ranked:
    layers, share = scores[0].layers, np.mean([one.share for one in scores], axis=0)
    if settings.rule == "entropy":
        return by_entropy(scores, settings.entropy)
    if settings.rule == "share":
        return ranked(layers, share, share)
    if settings.rule == "agreement":
        on = np.mean([one.agreement for one in scores if one.agreement is not None], axis=0)
        return ranked(layers, on, share)
    return ranked(layers, np.mean(own, axis=0), share)


def _spearman(order: Ranked, scores: Sequence[HeadScores]) -> float | None:
    masked = [one.agreement for one in scores if one.agreement is not None]
    if not masked or len(order) < 3:
        return None
    mean, row_of_layer = np.mean(masked, axis=0), {layer: row for row, layer in enumerate(scores[0].layers)}
    mine = [score for _, _, score in order]
    theirs = [mean[row_of_layer[layer], head] for layer, head, _ in order]
    if len(set(mine)) == 1 or len(set(theirs)) == 1:
        return None  # no order to correlate
    return float(stats.spearmanr(mine, theirs).statistic)
