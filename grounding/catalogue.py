"""The families of models that are known here, what tests verify of each, and the model types that are refused.

What is verified is what tests run on a tiny random model of the real class. The tests are named; a test of this module
holds that they exist and run over every family that claims them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

Property = Literal["recording", "steering", "geometry", "compiled", "clips"]
PROPERTIES: tuple[Property, ...] = ("recording", "steering", "geometry", "compiled")
"""Columns of the table; `clips` stands in the JSON alone."""

_CONTRACT, _DIFFUSION = "tests/contract/test_family", "tests/diffusion/test_diffusion_families.py"
MODEL_TESTS: Mapping[Property, tuple[str, ...]] = {
    "recording": (
        f"{_CONTRACT}_recording.py::test_rows_equal_eager_attention",
        f"{_CONTRACT}_recording.py::test_logits_are_bit_equal_under_recording",
        f"{_CONTRACT}_recording.py::test_prefill_and_decode_equal_eager_generation",
    ),
    "steering": (f"{_CONTRACT}_steering.py::test_a_gain_of_one_is_bit_identical_and_another_equals_the_formula",),
    "geometry": (
        f"{_CONTRACT}_geometry.py::test_cells_are_the_image_tokens_and_cover_the_picture",
        f"{_CONTRACT}_geometry.py::test_a_bright_patch_moves_the_cells_that_cover_it_and_no_other",
        f"{_CONTRACT}_geometry.py::test_a_mirrored_picture_mirrors_the_grid",
    ),
    "compiled": (
        f"{_CONTRACT}_compiled.py::test_a_prompt_is_recorded_in_compiled_code",
        f"{_CONTRACT}_compiled.py::test_a_decode_step_is_steered_in_compiled_code",
    ),
}
"""Tests that run over every model type of this project. Compiled is the language model, whole; not the vision tower."""
UNVERIFIED: Mapping[str, Mapping[Property, str]] = {
    "phi4_multimodal": {
        "compiled": "its decoder decides by the prompt's token ids whether to place a picture's features, which the "
        "compiler cannot trace as one graph"
    },
}
"""Per model type of this project the properties that those tests do not verify, with the reason."""
CLIP_TESTS = (
    "tests/contract/test_clips.py::test_rows_equal_eager_attention_in_a_left_padded_batch",
    "tests/contract/test_clips.py::test_a_bright_patch_moves_the_cells_that_cover_it_in_time_and_space",
)
"""Tests that run over every model type of this project that reads clips."""
DIFFUSION_TESTS: Mapping[Property, tuple[str, ...]] = {
    "recording": (
        f"{_DIFFUSION}::test_maps_equal_a_softmax_written_out",
        f"{_DIFFUSION}::test_the_transformers_output_is_bit_identical",
    ),
    "geometry": (
        f"{_DIFFUSION}::test_grids_cover_the_whole_original_picture",
        f"{_DIFFUSION}::test_a_cell_is_the_query_of_its_own_latents",
    ),
}
"""Tests that run over every diffusion pipeline of this project."""
_JOINT = {"text-first": "joint, text first", "image-first": "joint, image first", "cross": "cross"}


@dataclass(frozen=True)
class Family:
    """One row of the catalogue.

    Attributes:
        name: the model type; of a diffusion family the pipeline's class.
        kind: what the model is.
        model_class: the class of transformers or diffusers; None where the installed version has none.
        attention: kinds of attention that the class has by default.
        verified: per property the tests that verify it; a property without tests is missing.
        prompt: what a vision-language model is asked for an expression, where neither the checkpoint nor a method says
            otherwise; None of a diffusion pipeline, and of another distribution's family, which is not imported here.
    """

    name: str
    kind: Literal["vision-language", "diffusion"]
    model_class: str | None
    attention: tuple[str, ...]
    verified: Mapping[Property, tuple[str, ...]]
    prompt: str | None = None


def catalogue() -> list[Family]:
    """All families, vision-language models first; those of other distributions have nothing verified here."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES as TEXT_CLASSES
    from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES as CLASSES

    from grounding.diffusion.registry import PIPELINES
    from grounding.models.base import DEFAULT_PROMPT
    from grounding.models.registry import FAMILIES

    rows = []
    for name in FAMILIES:
        tests, unverified, prompt = {}, UNVERIFIED.get(name, {}), None
        if FAMILIES.is_own(name):
            tests = {one: those for one, those in MODEL_TESTS.items() if one not in unverified}
            family = FAMILIES.get(name)
            prompt = family.family_words.prompt or DEFAULT_PROMPT
            if getattr(family, "clip_reader_class", None) is not None:
                tests["clips"] = CLIP_TESTS
        model_class = CLASSES.get(name) or TEXT_CLASSES.get(name)
        rows.append(Family(name, "vision-language", model_class, _model_attention(name), tests, prompt))
    for name in PIPELINES:
        tests = dict(DIFFUSION_TESTS) if PIPELINES.is_own(name) else {}
        rows.append(Family(name, "diffusion", name, (_JOINT[PIPELINES.get(name).attention],), tests))
    return rows


@dataclass(frozen=True)
class Refusal:
    """A model type that is refused.

    Attributes:
        name: the model type.
        model_class: its class in the installed transformers; None where it has none.
        reason: why it cannot be used here.
    """

    name: str
    model_class: str | None
    reason: str


def refusals() -> list[Refusal]:
    """The vision-language model types that are refused; not those for which another distribution has a family."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES as CLASSES

    from grounding.models.registry import FAMILIES, UNSUPPORTED

    return [Refusal(name, CLASSES.get(name), UNSUPPORTED[name]) for name in sorted(UNSUPPORTED) if name not in FAMILIES]


def refusal_table(rows: list[Refusal]) -> str:
    """The refused model types as a table in Markdown."""
    lines = ["| refused type | class | reason |", "|---|---|---|"]
    for row in rows:
        lines.append(f"| `{row.name}` | {f'`{row.model_class}`' if row.model_class else ''} | {row.reason} |")
    return "\n".join(lines)


def matrix(rows: list[Family]) -> str:
    """The catalogue as a table in Markdown."""
    lines = [f"| family | class | attention | {' | '.join(PROPERTIES)} |", "|---|---|---|" + "---|" * len(PROPERTIES)]
    for row in rows:
        marks = ("yes" if one in row.verified else "" for one in PROPERTIES)
        cells = (f"`{row.name}`", f"`{row.model_class}`" if row.model_class else "", ", ".join(row.attention), *marks)
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _model_attention(model_type: str) -> tuple[str, ...]:
    """Kinds of attention in the decoder that transformers builds by default; empty for an unknown type."""
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    if model_type not in CONFIG_MAPPING:
        return ()
    config = CONFIG_MAPPING[model_type]()
    kinds = attention_kinds(config.get_text_config())
    return (*kinds, "Q-Former") if hasattr(config, "qformer_config") else kinds


def attention_kinds(config: Any) -> tuple[str, ...]:
    """The kinds of attention that a decoder's config asks for.

    Args:
        config: the text config of a transformers model.
    """
    names = {"full_attention": "full", "sliding_attention": "sliding window", "linear_attention": "linear"}
    types = dict.fromkeys(getattr(config, "layer_types", None) or ["full_attention"])
    kinds = [names.get(one, one.replace("_", " ")) for one in sorted(types)]
    if getattr(config, "cross_attention_layers", None):
        kinds.append("cross")
    if getattr(config, "kv_lora_rank", None):
        kinds.append("latent (MLA)")
    if getattr(config, "attn_logit_softcapping", None):
        kinds.append("soft-capped")
    return tuple(kinds)
