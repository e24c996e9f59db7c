"""Contrast the maps with a background on the same cells: keep what the words add.

What they are compared with (`background`): a generic prompt (ViCrop, DecAF), the prompt without its expression (LASER),
a blank picture, the picture moved around itself, or the other words of the text (TAM). How (`stages`): by ratio,
difference or least squares.
"""

from __future__ import annotations

from grounding.maps.contrast.layer import LayerByContrast
from grounding.maps.contrast.stages import Difference, LeastSquares, Ratio
from grounding.maps.contrast.words import OtherWords

__all__ = ["Difference", "LayerByContrast", "LeastSquares", "OtherWords", "Ratio"]
