"""What CHAIR needs beside captions, as options of a command or a task."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from evals.chair.resources import ChairResources


@dataclass(frozen=True, kw_only=True)
class ChairOptions:
    """What CHAIR needs beside captions.

    Attributes:
        ground_truth: JSON object of image ids and class lists, or a folder with COCO's instances_*.json and
            captions_*.json; a path, or https://...#sha256=HASH.
        synonyms: the synonym list, one class a line; a path, https://...#sha256=HASH, or `chair-synonyms`, which
            fetches the published list.
        pipeline: `rules` needs nothing installed; `nltk` is the published scripts' way.
        double_words: `original` is the first release's list; `standalone` adds "train track" as OPERA, PAI and others.
    """

    ground_truth: str
    synonyms: str
    pipeline: Literal["rules", "nltk"] = "rules"
    double_words: Literal["original", "standalone"] = "original"

    def resources(self) -> ChairResources:
        """The tables, the text pipeline and the ground truth."""
        from evals.chair.resources import load_chair_resources

        return load_chair_resources(self.ground_truth, self.synonyms, self.pipeline, self.double_words)

    @property
    def variant(self) -> dict[str, Any]:
        """What figures depend on, to be said beside them."""
        return {"pipeline": self.pipeline, "double_words": self.double_words}
