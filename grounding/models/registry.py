"""Model families by `config.model_type`, imported on use.

To add a family, write one file with a `VLM` subclass and add its model types here.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from grounding.errors import ModelError

if TYPE_CHECKING:
    from grounding.models.base import VLM

FAMILIES: dict[str, str] = {
    "llava": "grounding.models.llava:Llava",
    "qwen2_5_vl": "grounding.models.qwen2_5_vl:Qwen25VL",
}


def family_class(model_type: str, name: str = "") -> type[VLM]:
    """The adapter class of a model type.

    Args:
        model_type: `config.model_type` of a transformers model.
        name: the model as the user named it, for the error's sentence.

    Returns:
        The family's class; its module is imported by this call.

    Raises:
        ModelError: no family has this model type.
    """
    if model_type not in FAMILIES:
        subject = f"{name} is of model type {model_type!r}" if name else f"the model type is {model_type!r}"
        raise ModelError(f"{subject}, which no family here knows: known types are {', '.join(sorted(FAMILIES))}")
    module, _, attribute = FAMILIES[model_type].partition(":")
    return getattr(import_module(module), attribute)
