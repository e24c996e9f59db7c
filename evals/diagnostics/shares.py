"""Shares of attention by part of the sequence, summed row by row while a text is generated."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from grounding.layout import TokenLayout
from grounding.types import FloatArray

SEGMENTS = ("system", "image", "instruction", "generated")  # the parts of a sequence; together all unpadded keys


class ShareTally:
    """Sums of one text's attention rows: [T, L, H] numbers instead of [T, L, H, K].

    Args:
        layout: of the prompt; keys behind it are generated tokens.
    """

    def __init__(self, layout: TokenLayout) -> None:
        self._layout = layout
        self._columns = (layout.system, layout.image, layout.instruction)
        self._segments: list[FloatArray] = []
        self._first: list[FloatArray] = []
        self._image: npt.NDArray[np.float64] = np.zeros(())

    def add(self, rows: FloatArray, *, before: bool = False) -> None:
        """Add the row that one token was predicted from.

        Args:
            rows: [L, H, K] weights over all keys so far, K at least the prompt's length.
            before: whether the token precedes all tokens added so far; the first token's row is complete last.
        """
        parts = [rows[..., columns].sum(axis=-1) for columns in self._columns]
        parts.append(rows[..., self._layout.length :].sum(axis=-1))
        index = 0 if before else len(self._segments)
        self._segments.insert(index, np.stack(parts, axis=-1))
        self._first.insert(index, rows[..., self._layout.padding].copy())
        self._image = self._image + rows[..., self._layout.image].astype(np.float64)

    def segments(self) -> FloatArray:
        """[T, L, H, 4] shares in [0, 1], in the order of `SEGMENTS`; they sum to 1."""
        return np.stack(self._segments).astype(np.float32)

    def first_key(self) -> FloatArray:
        """[T, L, H] share of the first real token."""
        return np.stack(self._first).astype(np.float32)

    def image_keys(self) -> FloatArray:
        """[L, H, n] mean weight on every image key."""
        return (self._image / len(self._segments)).astype(np.float32)
