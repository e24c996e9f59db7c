"""Refuse a model that does not know the words of drawn scenes, before anything is asked of it."""

from __future__ import annotations

from grounding.ensemble import Ensemble
from grounding.errors import ModelError
from grounding.models.base import VLM
from grounding.scenes.drawing import COLOURS, PATTERNS, SHAPES, SIZES
from grounding.source import MapSource


def check_scene_words(source: MapSource) -> None:
    """Check that a vision-language model's vocabulary, or each one's of an ensemble, has the words of drawn things.

    Raises:
        ModelError: the vocabulary is closed and lacks some of them.
    """
    if isinstance(source, Ensemble):
        for member in source.members:
            check_scene_words(member.source)
    if not isinstance(source, VLM):
        return
    tokenizer = source.tokenizer
    unknown = tokenizer.unk_token_id
    words = (*SHAPES, *COLOURS, *SIZES, *PATTERNS)
    missing = [word for word in words if unknown in tokenizer(word, add_special_tokens=False).input_ids]
    if unknown is not None and missing:
        raise ModelError(
            f"{source.name} cannot be asked about drawn scenes, because its vocabulary lacks {', '.join(missing)}: "
            "give a model that knows them, for example --model starter, or use pictures of your own"
        )
