"""Options of every command and task that scores captions by CHAIR."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from evals.chair.resources import ChairResources
    from evals.chair.words import Pipeline


@dataclass(frozen=True, kw_only=True)
class ChairOptions:
    """Ground truth, synonyms and text pipeline of CHAIR.

    Attributes:
        ground_truth: JSON object of image ids and class lists, a photo set's images.json, or a folder with COCO's
            instances_*.json and captions_*.json; a path, or https://...#sha256=HASH.
        synonyms: the synonym list, one class per line; a path, https://...#sha256=HASH, or `chair-synonyms`, which
            fetches the published list.
        pipeline: `nltk` is that of the published scripts; `rules` needs no package; `auto` is `nltk` where package and
            data are there (`grounding eval nltk-data` brings the data), else `rules`.
        double_words: `original` is the list of the first release, `standalone` that of the port on which OPERA, PAI and
            others build; the two hold the same pairs.
    """

    ground_truth: str
    synonyms: str
    pipeline: Literal["auto", "rules", "nltk"] = "auto"
    double_words: Literal["original", "standalone"] = "original"

    def resources(self) -> ChairResources:
        """Load the tables, the text pipeline and the ground truth."""
        from evals.chair.resources import load_chair_resources

        return load_chair_resources(self.ground_truth, self.synonyms, self.settled, self.double_words)

    @cached_property
    def settled(self) -> Pipeline:
        """The pipeline that scores, `auto` settled."""
        from evals.chair.words import settle

        return settle(self.pipeline)

    @property
    def variant(self) -> dict[str, Any]:
        """Settings that change the metrics, to be reported with them."""
        return {"pipeline": self.settled, "double_words": self.double_words}
