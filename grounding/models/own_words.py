"""The words that a model is asked in, where a checkpoint or its family declares some of its own."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

REGION = "Please provide the bounding box coordinate of the region this sentence describes: <ref>{expression}</ref>"
"""The prompt that InternVL is evaluated with on RefCOCO (github.com/OpenGVLab/InternVL,
internvl_chat/eval/refcoco/evaluate_grounding.py), which MiniCPM-V's cookbook uses too."""


@dataclass(frozen=True)
class OwnWords:
    """What a model declares about the wording of its questions; None where it takes everybody's.

    A model with a closed vocabulary, or trained on one wording alone, cannot be asked in a benchmark's words. Commands
    ask it in its own unless the user gives others.

    Attributes:
        prompt: prompt of a referring expression, with `{expression}`; the config's `grounding_prompt`.
        describe: request for a description; the config's `grounding_describe`.
        brief: what stands behind a question to get a short answer, instead of the suffix of a benchmark's protocol;
            empty for nothing, where the model answers shortly by itself; the config's `grounding_brief`.
        listing: questions for the objects in a picture, the most useful one first; the config's `grounding_list`; empty
            where it takes everybody's.
    """

    prompt: str | None = None
    describe: str | None = None
    brief: str | None = None
    listing: tuple[str, ...] = ()

    @classmethod
    def of(cls, config: Any, family: OwnWords) -> OwnWords:
        """Read a checkpoint's words from its transformers config, and take its family's where it has none."""
        return cls(
            prompt=getattr(config, "grounding_prompt", None) or family.prompt,
            describe=getattr(config, "grounding_describe", None) or family.describe,
            brief=getattr(config, "grounding_brief", family.brief),
            listing=tuple(getattr(config, "grounding_list", None) or family.listing),
        )
