"""Options of every command and task that scores captions by CHAIR."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from evals.chair.resources import ChairResources


@dataclass(frozen=True, kw_only=True)
class ChairOptions:
    """Ground truth, synonyms and text pipeline of CHAIR.

    Attributes:
        ground_truth: JSON object of image ids and class lists, a photo set's images.json, or a folder with COCO's
            instances_*.json and captions_*.json; a path, or https://...#sha256=HASH.
        synonyms: the synonym list, one class per line; a path, https://...#sha256=HASH, or `chair-synonyms`, which
            fetches the published list.
        pipeline: `rules` needs no package; `nltk` is that of the published scripts.
        double_words: `original` is the first release's list; `standalone` adds "train track", as OPERA, PAI and others.
    """

    ground_truth: str
    synonyms: str
    pipeline: Literal["rules", "nltk"] = "rules"
    double_words: Literal["original", "standalone"] = "original"

    def resources(self) -> ChairResources:
        """Load the tables, the text pipeline and the ground truth."""
        from evals.chair.resources import load_chair_resources

        return load_chair_resources(self.ground_truth, self.synonyms, self.pipeline, self.double_words)

    @property
    def variant(self) -> dict[str, Any]:
        """Settings that change the metrics, to be reported with them."""
        return {"pipeline": self.pipeline, "double_words": self.double_words}
