"""Load a VLM from a hub id, a folder, or a packaged starter model."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

from grounding.errors import ModelError
from grounding.files import user_path
from grounding.models.registry import family_class

if TYPE_CHECKING:
    import torch

    from grounding.models.base import VLM
    from grounding.text.parse import NounFinder

STARTERS = {"starter": "grounding.starter", "starter-photo": "grounding.starter.photo"}
# `vision_config.model_type` of the starters: the module that registers the class with transformers.
_TOWERS = {
    "grounding_starter_tower": "grounding.starter.tower",
    "grounding_photo_tower": "grounding.starter.photo.tower",
}
_SMALLER = "choose a smaller model, --dtype bfloat16, another --device, or spread it with --device-map auto"


def starter_folder(name: str = "starter") -> Path:
    """Return the folder of a starter model's weights inside the installed package."""
    return Path(str(files(STARTERS[name]))) / "weights"


def source_of(name: str) -> str:
    """Resolve a model's name to what transformers' `from_pretrained` takes.

    Args:
        name: `starter`, `starter-photo`, a folder, or a hub id such as `llava-hf/llava-1.5-7b-hf`.

    Returns:
        An existing folder's path, or the hub id.

    Raises:
        ModelError: a folder that does not exist or has no config.json.
    """
    if name in STARTERS:
        folder = starter_folder(name)
        if not (folder / "config.json").is_file():
            raise ModelError(
                f"the weights of {name} are missing from this installation ({folder}): install the package "
                f"again, or make them with python -m {STARTERS[name]}.train"
            )
        return str(folder)
    path = user_path(name)
    if name.strip() and path.is_dir():
        if not (path / "config.json").is_file():
            raise ModelError(
                f"the folder {name!r} has no config.json: expected a folder written by save_pretrained, with "
                "config.json, weights and processor files"
            )
        return str(path)
    looks_like_path = name.startswith((".", "~", os.sep)) or name.count("/") > 1 or "\\" in name or path.exists()
    if looks_like_path or not name.strip():
        raise ModelError(
            f"there is no model folder {name!r}: give a folder written by save_pretrained, a hub id such as "
            f"llava-hf/llava-1.5-7b-hf, or one of {', '.join(STARTERS)}"
        )
    return name


def load_config(name: str) -> Any:
    """Load the transformers config of a model, without its weights.

    A starter's vision tower is registered with transformers' auto classes only if the config names it.

    Raises:
        ModelError: the model cannot be found or its config cannot be read.
    """
    source = source_of(name)
    from transformers import AutoConfig, PretrainedConfig

    with _explained(name, "its config"):
        stored, _ = PretrainedConfig.get_config_dict(source)
        vision = stored.get("vision_config")
        tower = _TOWERS.get(vision.get("model_type", "")) if isinstance(vision, dict) else None
        if tower is not None:
            import_module(tower)
        return AutoConfig.from_pretrained(source)


def load(
    name_or_folder: str,
    device: str | torch.device = "auto",
    dtype: str | torch.dtype = "auto",
    device_map: str | dict[str, Any] | None = None,
    finder: NounFinder | None = None,
) -> VLM:
    """Load a model and its processor.

    Args:
        name_or_folder: `starter` or `starter-photo` (packaged), a folder written by `save_pretrained`, or a hub id.
        device: `auto`, `cpu`, `cuda`, `cuda:1` or `mps`; not used where `device_map` is given.
        dtype: `auto`, `float32`, `bfloat16` or `float16`.
        device_map: accelerate's placement over several devices, for example `auto`; None uses `device` alone.
        finder: finds the head noun of an expression; None uses the built-in rules.

    Returns:
        The VLM, its model in eval mode with the sdpa kernel.

    Raises:
        ModelError: unknown model type, no hub, no such model, a folder with missing or broken files, an unknown device
            or dtype, or out of memory.
    """
    from grounding.devices import resolve_device, resolve_dtype

    target = resolve_device("auto" if device_map is not None else device)
    number_format = resolve_dtype(dtype, target)
    config = load_config(name_or_folder)
    vlm = family_class(config.model_type, name_or_folder)
    source = source_of(name_or_folder)
    from transformers import AutoModelForImageTextToText, AutoProcessor

    from grounding.memory import explain_out_of_memory

    with explain_out_of_memory(f"loading {name_or_folder} on {target}", _SMALLER):
        with _explained(name_or_folder, "its processor"):
            processor = AutoProcessor.from_pretrained(source)
        with _explained(name_or_folder, "its weights"):
            model, report = AutoModelForImageTextToText.from_pretrained(
                source,
                config=config,
                dtype=number_format,
                device_map=device_map,
                attn_implementation="sdpa",
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
def _explained(name: str, part: str) -> Iterator[None]:
    from huggingface_hub import errors as hub
    from safetensors import SafetensorError

    try:
        yield
    except (OSError, ValueError, KeyError, TypeError, hub.HfHubHTTPError, SafetensorError) as error:
        chain = list(_chain(error))
        if any(isinstance(e, hub.GatedRepoError) for e in chain):
            message = "its owner asks you to accept terms first: do so on its hub page and log in with 'hf auth login'"
        elif any(isinstance(e, hub.RepositoryNotFoundError | hub.HFValidationError) for e in chain):
            message = (
                "the hub has no such model, or it is private: check the id's spelling (owner/model), or give a folder"
            )
        elif not Path(source_of(name)).is_dir() and any(_is_connection(e) for e in chain):
            message = (
                "the hub cannot be reached and the model is not in the local cache: check the network, pass a local "
                "folder written by save_pretrained, or use --model starter, which needs no hub"
            )
        else:
            first = " ".join(str(error).split()) or type(error).__name__
            message = f"{part} cannot be read ({first[:300]}): get the complete model, or another one"
        raise ModelError(f"{name} cannot be loaded: {message}") from error


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _is_connection(error: BaseException) -> bool:
    from huggingface_hub import errors as hub

    known = (hub.LocalEntryNotFoundError, hub.OfflineModeIsEnabled, ConnectionError, TimeoutError)
    module = type(error).__module__
    return isinstance(error, known) or module.startswith(("httpx", "httpcore", "requests")) or "connect" in str(error)
