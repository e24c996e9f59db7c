"""What `grounding eval photos` measures."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal


@dataclass(frozen=True)
class PhotoPlan:
    """What to measure on which photos.

    Attributes:
        data: folder of photos, see `grounding.photos`.
        synonyms: CHAIR's synonym list; needed for captions only.
        parts: some of nouns, expressions, pope, captions.
        ablate: measure nouns also with each part of the method switched off.
        limit: most questions of each part; None for all.
        seed: of the controls and the bootstrap.
        methods: other methods to measure nouns with; see `evals.variants.compared`.
        vary: variants of the method to measure nouns with.
    """

    data: Path
    synonyms: Path | None
    parts: tuple[str, ...]
    ablate: bool = False
    limit: int | None = None
    seed: int = 0
    methods: tuple[str, ...] = ()
    vary: tuple[Literal["contrasts", "refinements"], ...] = ()
