"""Attention rows of one generated text summed into what a person can look at, row by row while the model writes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from grounding.types import FloatArray, IntArray

SEGMENTS = ("system", "image", "instruction", "generated")


@dataclass(frozen=True)
class Spans:
    """Which keys of one prompt belong to what; the segments cover every key that is no padding exactly once.

    Attributes:
        image: positions that hold image tokens.
        padding: how many positions before the first real one.
        length: N, the prompt's length, padding included; keys from there on are generated tokens.
    """

    image: IntArray
    padding: int
    length: int

    def columns(self) -> tuple[IntArray, IntArray, IntArray]:
        """Positions of the system's, the image's and the instruction's keys.

        The system segment is all that stands before the first image token, the instruction all of the rest of the
        prompt, separators between tiles included.
        """
        first = int(self.image.min())
        rest = np.setdiff1d(np.arange(first, self.length), self.image)
        return np.arange(self.padding, first), self.image, rest


class ShareTally:
    """Takes one text's rows one after the other and keeps sums: [T, L, H] numbers instead of [T, L, H, K].

    Args:
        spans: whose keys are whose.
    """

    def __init__(self, spans: Spans) -> None:
        self._spans = spans
        self._columns = spans.columns()
        self._segments: list[FloatArray] = []
        self._first: list[FloatArray] = []
        self._image: npt.NDArray[np.float64] = np.zeros(())

    def add(self, rows: FloatArray, *, before: bool = False) -> None:
        """Take the row that a token was predicted from.

        Args:
            rows: [L, H, K] weights over all keys so far, K at least the prompt's length.
            before: whether the token comes before all that were taken; the prompt's own row is known last.
        """
        parts = [rows[..., columns].sum(axis=-1) for columns in self._columns]
        parts.append(rows[..., self._spans.length :].sum(axis=-1))
        place = 0 if before else len(self._segments)
        self._segments.insert(place, np.stack(parts, axis=-1))
        self._first.insert(place, rows[..., self._spans.padding].copy())
        self._image = self._image + rows[..., self._spans.image].astype(np.float64)

    def segments(self) -> FloatArray:
        """[T, L, H, 4] shares in [0, 1], in the order of `SEGMENTS`; they sum to 1."""
        return np.stack(self._segments).astype(np.float32)

    def first_key(self) -> FloatArray:
        """[T, L, H] share of the first real token."""
        return np.stack(self._first).astype(np.float32)

    def image_keys(self) -> FloatArray:
        """[L, H, n] mean weight on every image key."""
        return (self._image / len(self._segments)).astype(np.float32)
