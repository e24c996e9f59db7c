"""Refine a map by features that know nothing of the words: what looks alike belongs together."""

from __future__ import annotations

from grounding.maps.refine.cut import BiasedCut
from grounding.maps.refine.propagate import Propagate

__all__ = ["BiasedCut", "Propagate"]
