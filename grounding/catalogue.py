"""The families of models that are known here, and what tests verify of each.

What is verified is what tests run on a tiny random model of the real class. The tests are named; a test of this module
holds that they exist and run over every family that claims them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

Property = Literal["recording", "steering", "geometry", "compiled"]
PROPERTIES: tuple[Property, ...] = ("recording", "steering", "geometry", "compiled")

_FAMILY = "tests/contract/test_family.py"
_COMPILED, _DIFFUSION = "tests/attention/test_compiled.py", "tests/diffusion/test_diffusion_families.py"
MODEL_TESTS: Mapping[Property, tuple[str, ...]] = {
    "recording": (
        f"{_FAMILY}::test_rows_equal_eager_attention",
        f"{_FAMILY}::test_logits_are_bit_equal_under_recording",
        f"{_FAMILY}::test_prefill_and_decode_equal_eager_generation",
    ),
    "steering": (f"{_FAMILY}::test_a_gain_of_one_is_bit_identical_and_another_equals_the_formula",),
    "geometry": (
        f"{_FAMILY}::test_cells_are_the_image_tokens_and_cover_the_picture",
        f"{_FAMILY}::test_a_bright_patch_moves_the_cells_that_cover_it_and_no_other",
        f"{_FAMILY}::test_a_mirrored_picture_mirrors_the_grid",
    ),
}
"""Tests that run over every model type of this project."""
COMPILED: Mapping[str, tuple[str, ...]] = {
    "llava": (
        f"{_COMPILED}::test_rows_and_logits_equal_those_of_the_uncompiled_model",
        f"{_COMPILED}::test_steered_texts_equal_those_of_the_uncompiled_model",
    ),
}
"""Tests of compiled code by model type. Other types run the same way and are not tested."""
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
    """

    name: str
    kind: Literal["vision-language", "diffusion"]
    model_class: str | None
    attention: tuple[str, ...]
    verified: Mapping[Property, tuple[str, ...]]


def catalogue() -> list[Family]:
    """All families, vision-language models first; those of other distributions have nothing verified here."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES as TEXT_CLASSES
    from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES as CLASSES

    from grounding.diffusion.registry import PIPELINES
    from grounding.models.registry import FAMILIES

    rows = []
    for name in FAMILIES:
        tests = dict(MODEL_TESTS) if FAMILIES.is_own(name) else {}
        if name in COMPILED:
            tests["compiled"] = COMPILED[name]
        model_class = CLASSES.get(name) or TEXT_CLASSES.get(name)
        rows.append(Family(name, "vision-language", model_class, _model_attention(name), tests))
    for name in PIPELINES:
        tests = dict(DIFFUSION_TESTS) if PIPELINES.is_own(name) else {}
        rows.append(Family(name, "diffusion", name, (_JOINT[PIPELINES.get(name).attention],), tests))
    return rows


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
