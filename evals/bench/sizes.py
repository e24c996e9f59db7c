"""Refuse sizes of a random decoder that no model can have, before a child process tries to build one."""

from __future__ import annotations

from grounding.errors import UsageError


def refuse_decoder(*, layers: int, hidden: int, heads: int, kv_heads: int) -> None:
    """Check the sizes of a random Qwen2.5-VL.

    Raises:
        UsageError: a size is out of range, or the width does not divide among the heads.
    """
    refuse_below_one(layers=layers, hidden=hidden, heads=heads, kv_heads=kv_heads)
    if heads % kv_heads:
        raise UsageError(
            f"--heads {heads} cannot share --kv-heads {kv_heads}: give a number of heads that kv-heads divides"
        )
    if hidden % (8 * heads):
        raise UsageError(
            f"--hidden {hidden} does not divide among --heads {heads}, each of a width that is a multiple of 8: give a "
            f"multiple of {8 * heads}"
        )


def refuse_below_one(**sizes: int) -> None:
    """Check that sizes, by option, are at least 1.

    Raises:
        UsageError: one is not.
    """
    for name, value in sizes.items():
        if value < 1:
            raise UsageError(f"--{name.replace('_', '-')} {value} was given, expected at least 1")
