"""With what something was fitted: it holds for nothing else."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class FittedWith:
    """A model, a segmenter and a kind of candidates.

    Attributes:
        model: name of the model.
        segmenter: name of the segmenter.
        candidates: the kind of candidates; see `grounding.candidates.rule.CandidateRule`.
    """

    model: str
    segmenter: str
    candidates: str

    def holds_for(self, model: str, segmenter: str, candidates: str) -> bool:
        """Whether something was fitted with this model, segmenter and kind of candidates."""
        return (self.model, self.segmenter, self.candidates) == (model, segmenter, candidates)
