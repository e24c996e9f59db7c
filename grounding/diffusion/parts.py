"""Check and load the parts of a diffusers pipeline that it would load without a word where they are incomplete."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from grounding.errors import ModelError
from grounding.model_files import PIPELINE, explained


def refuse_missing_parts(index: Mapping[str, Any], required: tuple[str, ...], name: str, folder: Path) -> None:
    """Check that a pipeline names every part that maps need, and that a local folder holds it.

    Args:
        index: the content of `model_index.json`.
        required: parts that the family needs.
        name: the model as the user wrote it.
        folder: the pipeline's folder; parts of a hub id, which is none, are found when they are loaded.

    Raises:
        ModelError: a part is missing.
    """
    for part in required:
        entry = index.get(part) or [None, None]
        named = isinstance(entry, list | tuple) and bool(entry) and entry[0] is not None
        if not named or (folder.is_dir() and not (folder / part).is_dir()):
            what = "text encoder" if "text_encoder" in part else "tokenizer" if "tokenizer" in part else "part"
            seen = f"{PIPELINE} names none" if not named else f"the folder {folder / part} is missing"
            raise ModelError(
                f"{name} has no {what} {part!r} ({seen}), without which no word can be found in it: get the complete "
                "pipeline"
            )


def refuse_quantised(source: str, name: str) -> None:
    """Refuse a checkpoint whose transformer is stored quantised, before anything is loaded.

    Args:
        source: the pipeline's folder or hub id.
        name: the model as the user wrote it.

    Raises:
        ModelError: it is, or its config cannot be read.
    """
    from diffusers import AutoModel

    with explained(name, "its transformer's config"):
        config = AutoModel.load_config(source, subfolder="transformer")
        found = config.get("quantization_config")
    if found:
        raise ModelError(quantised(name, found))


def quantised(name: str, config: Any = None) -> str:
    """The sentence about a quantised transformer."""
    method = f" ({config['quant_method']})" if isinstance(config, Mapping) and config.get("quant_method") else ""
    return (
        f"the transformer of {name} is quantised{method}, which maps have not been checked against: load it in "
        "float32, bfloat16 or float16"
    )


def load_text_encoders(index: Mapping[str, Any], source: str, name: str, dtype: torch.dtype) -> dict[str, Any]:
    """Load the text encoders of a pipeline, all of whose tensors must be there.

    Args:
        index: the content of `model_index.json`.
        source: the pipeline's folder or hub id.
        name: the model as the user wrote it.
        dtype: the number format.

    Returns:
        The models by the names of the pipeline's parts.

    Raises:
        ModelError: a tensor is missing, which transformers would draw at random with no more than a warning.
    """
    import transformers

    found = {}
    for part, entry in index.items():
        if not part.startswith("text_encoder") or not isinstance(entry, list | tuple) or entry[0] != "transformers":
            continue
        model, report = getattr(transformers, entry[1]).from_pretrained(
            source, subfolder=part, dtype=dtype, output_loading_info=True
        )
        refuse_missing_weights(model, sorted(report["missing_keys"]), name)
        found[part] = model
    return found


def refuse_missing_weights(part: Any, missing: Sequence[str], name: str) -> None:
    """Refuse a part whose checkpoint lacks tensors.

    Args:
        part: the loaded module.
        missing: names of the tensors.
        name: the model as the user wrote it.

    Raises:
        ModelError: there are some.
    """
    if missing:
        raise ModelError(
            f"the weights of {name} lack {len(missing)} tensors, {missing[0]} among them: expected every tensor of "
            f"{type(part).__name__}; get the complete model"
        )


@contextmanager
def explain_packages(name: str) -> Iterator[None]:
    """Re-raise the lack of a package that a part needs, such as one for quantised weights, as one sentence.

    Raises:
        ModelError: naming it.
    """
    try:
        yield
    except ImportError as error:
        first = " ".join(str(error).split())
        raise ModelError(
            f"{name} cannot be loaded: a part of it needs a package that is not installed ({first[:200]}): install it, "
            "or get the model in float32, bfloat16 or float16"
        ) from error
