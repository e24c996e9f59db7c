"""Map words to tokens; both are spans of characters in the same string."""

from __future__ import annotations

from collections.abc import Sequence

Span = tuple[int, int]


def align(words: Sequence[Span], tokens: Sequence[Span]) -> tuple[tuple[int, ...], ...]:
    """Assign every token to the word it overlaps most.

    Args:
        words: character spans of the words, disjoint and in order.
        tokens: character spans of the tokens in the same string. Empty spans (padding, start of text) belong to no
            word. Several tokens may share a span, as the bytes of one letter do. A token may begin with a blank.

    Returns:
        Per word the indices of its tokens in ascending order. No token belongs to two words. A word gets no tokens only
        if it is part of another word's token or is dropped by the tokenizer.
    """
    found: list[list[int]] = [[] for _ in words]
    first = 0
    for index, (start, end) in enumerate(tokens):
        if start >= end:
            continue
        while first < len(words) and words[first][1] <= start:
            first += 1
        best, most = None, 0
        for candidate in range(first, len(words)):
            if words[candidate][0] >= end:
                break
            overlap = min(end, words[candidate][1]) - max(start, words[candidate][0])
            if overlap > most:
                best, most = candidate, overlap
        if best is not None:
            found[best].append(index)
    return tuple(tuple(indices) for indices in found)
