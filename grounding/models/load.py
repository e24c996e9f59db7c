"""Load a VLM from a hub id, a folder, or a packaged starter model."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from grounding import hub
from grounding.errors import ModelError
from grounding.model_files import PIPELINE, explained, is_pipeline, source_of
from grounding.models.own_words import OwnWords
from grounding.models.registry import family_class, refuse_unsupported

if TYPE_CHECKING:
    import torch

    from grounding.models.base import VLM
    from grounding.text.parse import NounFinder

# `vision_config.model_type` of the starters: the module that registers the class with transformers.
_TOWERS = {
    "grounding_starter_tower": "grounding.starter.tower",
    "grounding_photo_tower": "grounding.starter.photo.tower",
}
_SMALLER = "choose a smaller model, --dtype bfloat16, another --device, or spread it with --device-map auto"


def load_config(name: str) -> Any:
    """Load the transformers config of a model, without its weights.

    A starter's vision tower is registered with transformers' auto classes only if the config names it.

    Raises:
        ModelError: the model cannot be found or its config cannot be read, or it is a diffusion pipeline.
    """
    source = source_of(name)
    if Path(source).is_dir() and is_pipeline(name):
        raise ModelError(
            f"{name} is a diffusion pipeline ({PIPELINE}), and this needs a vision-language model, which answers in "
            "words: give another model, or use grounding segment, which takes both"
        )
    from transformers import AutoConfig, PretrainedConfig

    with hub.without_waiting(source), explained(name, "its config"):
        stored, _ = PretrainedConfig.get_config_dict(source)
        refuse_unsupported(str(stored.get("model_type")), name)
        vision = stored.get("vision_config")
        tower = _TOWERS.get(vision.get("model_type", "")) if isinstance(vision, dict) else None
        if tower is not None:
            import_module(tower)
        return AutoConfig.from_pretrained(source)


def own_words(name: str, family: str | None = None) -> OwnWords:
    """Read the words that a model is asked in, without its weights.

    Args:
        name: see `load`.
        family: see `load`.

    Raises:
        ModelError: the model cannot be found, its config cannot be read, or no family supports its type.
    """
    config = load_config(name)
    return OwnWords.of(config, family_class(config.model_type, name, family).family_words)


def load(
    name_or_folder: str,
    device: str | torch.device = "auto",
    dtype: str | torch.dtype = "auto",
    device_map: str | dict[str, Any] | None = None,
    finder: NounFinder | None = None,
    family: str | None = None,
) -> VLM:
    """Load a model and its processor.

    Args:
        name_or_folder: `starter` or `starter-photo` (packaged), a folder written by `save_pretrained`, or a hub id.
        device: `auto`, `cpu`, `cuda`, `cuda:1` or `mps`; not used where `device_map` is given.
        dtype: `auto`, `float32`, `bfloat16` or `float16`.
        device_map: accelerate's placement over several devices, for example `auto`; None uses `device` alone.
        finder: finds the head noun of an expression; None uses the built-in rules.
        family: `probe` for a model that has no family here (see `grounding.models.probing.family`), or a known model
            type to read it as; its own if None.

    Returns:
        The VLM, its model in eval mode with the sdpa kernel, or the eager one where its logits are soft-capped.

    Raises:
        ModelError: unknown model type, no hub, no such model, a folder with missing or broken files, an unknown device
            or dtype, or out of memory.
    """
    from grounding.devices import resolve_device, resolve_dtype

    target = resolve_device("auto" if device_map is not None else device)
    number_format = resolve_dtype(dtype, target)
    source = source_of(name_or_folder)
    with hub.without_waiting(source):
        return _loaded(name_or_folder, source, target, number_format, device_map, finder, family)


def _loaded(
    name_or_folder: str,
    source: str,
    target: torch.device,
    number_format: torch.dtype,
    device_map: str | dict[str, Any] | None,
    finder: NounFinder | None,
    family: str | None,
) -> VLM:
    import transformers

    from grounding.memory import explain_out_of_memory

    config = load_config(name_or_folder)
    vlm = family_class(config.model_type, name_or_folder, family)
    with explain_out_of_memory(f"loading {name_or_folder} on {target}", _SMALLER):
        with explained(name_or_folder, "its processor"):
            processor = transformers.AutoProcessor.from_pretrained(source)
        with explained(name_or_folder, "its weights"), _of_one_class(name_or_folder, config):
            model, report = getattr(transformers, vlm.auto_class).from_pretrained(
                source,
                config=config,
                dtype=number_format,
                device_map=device_map,
                attn_implementation=_kernel(config),
                output_loading_info=True,
            )
        if missing := sorted(report["missing_keys"]):
            # transformers would initialise them randomly and only warn.
            raise ModelError(
                f"the weights of {name_or_folder} lack {len(missing)} tensors, {missing[0]} among them: expected "
                f"every tensor of {type(model).__name__}; get the complete model"
            )
        if device_map is None:
            model = model.to(target)
    return vlm(model.eval(), processor, name_or_folder, finder)


@contextmanager
def _of_one_class(name: str, config: Any) -> Iterator[None]:
    """Say that weights are of another shape than the config's class has them."""
    try:
        yield
    except RuntimeError as error:
        if "mismatch" not in str(error):
            raise
        raise ModelError(
            f"the weights of {name} have other shapes than its config asks for, which is of model type "
            f"{config.model_type!r}: they belong to another class or size; get config and weights of one model"
        ) from error


def _kernel(config: Any) -> str:
    """The attention kernel of a config; torch's does not cap logits."""
    capped = getattr(config.get_text_config(), "attn_logit_softcapping", None) is not None
    return "eager" if capped else "sdpa"
