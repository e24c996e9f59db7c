"""Models and processors of transformers, and where the hub keeps them."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor


def hub_commit(name: str, file: str = "config.json") -> str:
    """Return the commit of a hub model that would be loaded now; only one of its files is fetched.

    Without a network the local cache decides.

    Raises:
        OSError: the hub does not know the model, or cannot be reached and the model is not in the local cache.
    """
    from transformers.utils.hub import cached_file

    return Path(str(cached_file(name, file))).parent.name  # .../snapshots/COMMIT/FILE


@contextmanager
def hub_offline() -> Iterator[None]:
    """Let huggingface_hub, and the libraries that fetch through it, use its cache alone inside the block.

    Its environment variable does the same, but is read once, when the package is imported.
    """
    from huggingface_hub import constants

    before = constants.HF_HUB_OFFLINE
    constants.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = before


def reports_replacements(processor: Any) -> bool:
    """Whether a transformers processor can report what it wrote in place of image tokens."""
    from transformers import processing_utils

    known = "return_text_replacement_offsets" in inspect.getsource(processing_utils.ProcessorMixin.__call__)
    return known and isinstance(processor, processing_utils.ProcessorMixin)


def last_logits() -> Tensor:
    """Return the `logits_to_keep` of a pass that gives the last position's logits and runs each layer over the prompt.

    Given the number 1 instead, models whose last layers use the keys of earlier ones run those layers over the last
    position alone (Gemma 3n and 4).
    """
    return torch.tensor([-1])


def last_logits_option(model: Any) -> dict[str, Tensor]:
    """Return `last_logits` as an option of `model.generate`; none where the model always gives all logits."""
    return {"logits_to_keep": last_logits()} if "logits_to_keep" in inspect.signature(model.forward).parameters else {}


def text_model(model: Any) -> Any:
    """Return what goes on with a text without its picture: the model, or the language model within.

    BLIP-2 and InstructBLIP demand pixels at every pass, and generate with their language model.
    """
    pixels = inspect.signature(model.forward).parameters.get("pixel_values")
    demanded = pixels is not None and pixels.default is inspect.Parameter.empty
    return model.language_model if demanded else model


def decoder_attentions(output: Any) -> tuple[Tensor, ...]:
    """Return the attention weights of a language model in its own output or in that of the model around it.

    BLIP-2 and InstructBLIP return the output of their language model as a part of theirs.
    """
    own: tuple[Tensor, ...] | None = getattr(output, "attentions", None)
    return output.language_model_outputs.attentions if own is None else own


def install_output_capture(model: Any) -> None:
    """Install transformers' hooks that capture hidden states and attentions on a model and all its parts, once.

    They are installed at the first pass that asks for any. Where a vision tower has asked for its own before the whole
    model does, the tower is hooked twice and takes its features from the wrong layer, or from none (transformers 5.24).
    """
    from transformers.utils import output_capturing

    install = getattr(output_capturing, "maybe_install_capturing_hooks", None)
    if install is not None:
        install(model)


def complete_llama4_output(model: Any) -> None:
    """Give what Llama 4's language model returns the attribute `image_outputs`, once for each model.

    `Llama4ForConditionalGeneration.forward` of transformers 5.24 reads it from an output that lacks it, so that every
    pass fails.
    """
    language_model = model.language_model
    if complete_llama4_output_hook not in language_model._forward_hooks.values():
        language_model.register_forward_hook(complete_llama4_output_hook)


def complete_llama4_output_hook(module: Any, args: Any, output: Any) -> None:
    """Set `image_outputs` of a model output that has none to None."""
    if not isinstance(output, tuple) and not hasattr(output, "image_outputs"):
        output.image_outputs = None
