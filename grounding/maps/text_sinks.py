"""Find text tokens that every cell and every word attends to alike, and take them out of the map or the network."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar, Literal

import numpy as np

from grounding.errors import MethodError
from grounding.joint_spec import EditedQueries, SinkEdit, TextSinkRule
from grounding.layers import share_of
from grounding.maps.base import Part, Stage, image_columns, keep_words, lost_share
from grounding.record_spec import RecordSpec
from grounding.types import AttentionMaps, BoolArray, Direction, EditedSinks, FloatArray, StageReport, WordKind


@dataclass(frozen=True)
class TextSinks(Stage):
    """Drop the global attention sinks among text tokens (RefAM, arXiv 2509.22650).

    A sink draws much attention from all cells and all words alike, and says nothing about either. A word is one when
    all three hold, per token of it, on the mean over steps, heads and the deepest layers:

    1. its mean weight over cells is at least `share` times that of equal weights, 1 / number of text tokens;
    2. its weight hardly changes over cells: standard deviation / mean <= `variation`;
    3. other words attend to it: its mean weight from other words is at least `between` times the median word's.

    A content word that is a sink is kept where no content word would be left. Place the stage before those that drop
    words, because all tokens are the evidence.

    Attributes:
        share: least ratio to equal weights.
        variation: largest coefficient of variation over cells.
        between: least ratio to the median of weights from other words; 0 turns this test off, as cross attention needs.
        start: where the deepest layers begin, as a share of the depth. Layers that do not reach the stage do not count;
            where none of the deepest does, all that are there count.
        handling: `drop`: leave the sinks out. `renormalise`: leave them out of every cell's softmax too, which is what
            masking their logits in the recorded layers gives with all states held. `mask`: their logits are minus
            infinity while the model runs, so that all states behind change. `redirect`: while the model runs, the
            magnets have the attention that sinks had, in proportion to their own, and no other weight changes; a magnet
            that is a sink keeps its attention. Under both, sinks are left out of the map too.
        strongest: for `mask` and `redirect`, take as sinks in place of the three tests the number of text keys per head
            that the image attends to most; see the notes.
        queries: for `mask` and `redirect`, whose attention is changed: the `image`'s or that of `all`.
        edit_start: for `mask` and `redirect`, where the layers that are changed begin; `start` where None.

    Notes:
        RefAM defines sinks in words only; it gives no rule and no thresholds. These separate the tokens of its figures
        and are our choice. Its page shows sinks left out of the sum; to change the network is ours.

        `mask` and `redirect` by the tests run the model twice on the same noise, first as it is to find the sinks, and
        once where there are none: the maps are then those of the first run. With `strongest` it runs once, and every
        changed layer computes its whole rows once more. That rule is of "Attention Sinks in Diffusion Transformers: A
        Causal Analysis" (arXiv 2605.09313), which takes the keys with the largest mean weight over image queries, one a
        head, anew in every layer and step; there an image's keys count too.
    """

    name: ClassVar[str] = "text-sinks"
    requires: ClassVar[frozenset[Part]] = frozenset({"words", "background"})
    before: ClassVar[frozenset[str]] = frozenset({"magnets", "stop-words", "head-noun"})
    directions: ClassVar[frozenset[Direction]] = frozenset({"image-to-word"})
    share: float = 1.7
    variation: float = 0.20
    between: float = 3.0
    start: float = 0.67
    handling: Literal["drop", "renormalise", "mask", "redirect"] = "drop"
    strongest: int = 0
    queries: EditedQueries = "image"
    edit_start: float | None = None

    def __post_init__(self) -> None:
        if self.share <= 0 or self.variation < 0 or self.between < 0 or not 0 <= self.start < 1:
            raise MethodError("stage 'text-sinks' needs share > 0, variation and between >= 0, and start in [0, 1)")
        if self.strongest < 0 or not 0 <= (self.edit_start or 0) < 1:
            raise MethodError("stage 'text-sinks' needs strongest >= 0, and edit_start in [0, 1)")
        if not self.edits and (self.strongest, self.queries, self.edit_start) != (0, "image", None):
            raise MethodError(
                "stage 'text-sinks' has strongest, queries and edit_start for handling 'mask' and 'redirect' alone"
            )

    @property
    def edits(self) -> bool:
        """Whether sinks are handled inside the network."""
        return self.handling in ("mask", "redirect")

    @property
    def rule(self) -> TextSinkRule:
        """The three tests."""
        return TextSinkRule(self.share, self.variation, self.between, self.start)

    def needs(self, layer_count: int | None) -> RecordSpec:
        """Attention between words, where it is a test; the edit, where there is one."""
        if self.handling not in ("mask", "redirect"):
            return RecordSpec(text_to_text=self.between > 0)
        start = self.start if self.edit_start is None else self.edit_start
        return RecordSpec(sinks=SinkEdit(self.handling, self.rule, self.strongest, self.queries, start))

    def apply(self, maps: AttentionMaps) -> tuple[AttentionMaps, StageReport]:
        """Drop the sinks.

        Raises:
            MethodError: attention between words is a test and was not recorded, or the network was to be edited and
                was not.
        """
        if not self.edits:
            evidence = measure(maps, self.rule)
            flagged, dropped = find_sinks(maps, self.rule, evidence)
        elif maps.sinks is None:
            raise MethodError(
                f"stage 'text-sinks' handles sinks by {self.handling!r} while the model runs, but these maps were "
                "recorded without: record them to this method's record_spec()"
            )
        else:
            return self._report_edit(maps, maps.sinks)
        values = maps.values
        if self.handling == "renormalise":
            left = 1 - values[:, :, :, flagged].sum(axis=3, keepdims=True)
            values = np.divide(values, left, out=np.zeros_like(values), where=left > 1e-6)
        return self._without(maps, replace(maps, values=values), flagged, dropped, evidence)

    def _report_edit(self, maps: AttentionMaps, sinks: EditedSinks) -> tuple[AttentionMaps, StageReport]:
        """Drop the rows of words that were edited as a whole; the evidence is that of the unedited run."""
        if sinks.evidence is None:
            often = {word.text: round(float(s), 3) for word, s in zip(maps.words, sinks.edited, strict=True) if s}
            detail = f"{self.strongest} text keys a head were taken as sinks in every layer"
            return maps, StageReport(self.name, 0.0, detail, {"edited": often})
        flagged, dropped = find_sinks(maps, self.rule, sinks.evidence)
        return self._without(maps, maps, flagged, dropped, sinks.evidence)

    def _without(
        self, before: AttentionMaps, maps: AttentionMaps, flagged: BoolArray, dropped: BoolArray, evidence: FloatArray
    ) -> tuple[AttentionMaps, StageReport]:
        """The maps without the dropped rows, and the report on what was found."""
        result = keep_words(maps, np.flatnonzero(~dropped).tolist())
        lost = lost_share(float(before.values.sum(dtype=float)), float(result.values.sum(dtype=float)))
        sinks = [word.text for word, sink in zip(maps.words, flagged, strict=True) if sink]
        detail = f"{len(sinks)} of {len(maps.words)} words are sinks" + (f": {' '.join(sinks)}" if sinks else "")
        table = [
            {
                "text": word.text,
                "kind": str(word.kind),
                "share": round(float(evidence[i, 0]), 4),
                "variation": round(float(evidence[i, 1]), 4),
                "between": round(float(evidence[i, 2]), 4) if self.between else None,
                "sink": bool(flagged[i]),
                "dropped": bool(dropped[i]),
            }
            for i, word in enumerate(maps.words)
        ]
        why = {int(i): "sink" for i in np.flatnonzero(dropped)}
        return result, StageReport(self.name, lost, detail, {"words": table}, why)


def find_sinks(maps: AttentionMaps, rule: TextSinkRule, evidence: FloatArray) -> tuple[BoolArray, BoolArray]:
    """Find the words that are sinks.

    Args:
        maps: tell the kinds of the words.
        rule: the thresholds.
        evidence: [T, 3] as `measure` gives it.

    Returns:
        ([T] words that are sinks, [T] those of them that are to go: all, but for the content words where no content
        word would be left).
    """
    share, variation, between = evidence.T
    flagged = (share >= rule.share) & (variation <= rule.variation) & (between >= rule.between)
    content = np.array([word.kind is WordKind.CONTENT for word in maps.words])
    spared = content if not (content & ~flagged).any() else np.zeros_like(content)
    return flagged, flagged & ~spared


def measure(maps: AttentionMaps, rule: TextSinkRule) -> FloatArray:
    """Measure words as a rule for sinks looks at them.

    Args:
        maps: with text-to-text attention, where the rule tests it.
        rule: says which layers count, and whether attention between words does.

    Returns:
        [T, 3] per word: share over equal weights; variation over cells; weight from other words over the median's.

    Raises:
        MethodError: attention between words is a test and was not recorded.
    """
    deep = _deepest(maps, rule.start)
    tokens = np.array([max(len(word.positions), 1) for word in maps.words])
    cells = maps.values[:, deep][..., image_columns(maps)].mean(axis=(0, 1, 2), dtype=float)  # [T, X]
    mean = cells.mean(axis=1)
    share = mean / tokens * tokens.sum()
    variation = np.divide(cells.std(axis=1), mean, out=np.full_like(mean, np.inf), where=mean > 0)
    if not rule.between:
        return np.stack([share, variation, np.zeros_like(share)], axis=1)
    if maps.text_to_text is None:
        raise MethodError(
            "stage 'text-sinks' needs attention between words, but the maps carry none: record with "
            "text_to_text=True, or set between: 0"
        )
    weights = maps.text_to_text[:, deep].mean(axis=(0, 1, 2), dtype=float) / tokens  # [T, T]
    np.fill_diagonal(weights, 0)
    column = weights.sum(axis=0) / max(len(weights) - 1, 1)
    middle = float(np.median(column))
    relative = np.divide(column, middle, out=np.zeros_like(column), where=middle > 0)
    return np.stack([share, variation, relative], axis=1)


def _deepest(maps: AttentionMaps, start: float) -> list[int]:
    """Entries of the layer axis that count."""
    everything = list(range(maps.values.shape[1]))
    if not maps.layers:
        return everything
    first = share_of(start, maps.layer_count or max(maps.layers) + 1)
    return [i for i, layer in enumerate(maps.layers) if layer >= first] or everything
