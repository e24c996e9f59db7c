"""Find a model's files by name, and say in one sentence why they cannot be read."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from importlib.resources import files
from pathlib import Path

from grounding import hub
from grounding.errors import ModelError
from grounding.files import user_path

STARTERS = {
    "starter": "grounding.starter",
    "starter-photo": "grounding.starter.photo",
    "starter-dit": "grounding.starter.dit",
}
"""Models that ship with the project: name to the package that holds their `weights` folder."""

PACKAGED = "starter-photo (for photographs) or starter (for drawn scenes), which need no hub"

PIPELINE = "model_index.json"
"""File that makes a folder a diffusers pipeline."""


def starter_folder(name: str = "starter") -> Path:
    """Return the folder of a starter model's weights inside the installed package."""
    root, *inside = STARTERS[name].split(".")  # the starter itself is not imported
    return Path(str(files(root))).joinpath(*inside, "weights")


def model_names(name: str) -> tuple[str, ...]:
    """The names of an ensemble's models, which `+` joins; the name itself where it is one model.

    A folder whose own name holds a `+` is one model.

    Raises:
        ModelError: a name before or behind a `+` is missing.
    """
    if "+" not in name or user_path(name).is_dir():
        return (name,)
    names = tuple(part.strip() for part in name.split("+"))
    if not all(names):
        raise ModelError(f"the ensemble {name!r} lacks a model's name beside a +: write it like starter+starter-dit")
    return names


def source_of(name: str) -> str:
    """Resolve a model's name to what `from_pretrained` takes.

    Args:
        name: a starter's name, a folder, or a hub id such as `llava-hf/llava-1.5-7b-hf`.

    Returns:
        An existing folder's path, or the hub id.

    Raises:
        ModelError: a folder that does not exist, or that holds neither a transformers model nor a diffusers pipeline,
            the misspelt name of a packaged model, or several models.
    """
    if len(model_names(name)) > 1:
        raise ModelError(f"{name!r} are several models, and this needs one: give one of them")
    if name in STARTERS:
        folder = starter_folder(name)
        if not _is_model(folder):
            raise ModelError(
                f"the weights of {name} are missing from this installation ({folder}): install the package "
                f"again, or make them with python -m {STARTERS[name]}.train"
            )
        return str(folder)
    path = user_path(name)
    if name.strip() and path.is_dir():
        if not _is_model(path):
            raise ModelError(
                f"the folder {name!r} has no config.json (nor {PIPELINE}): expected a folder written by "
                "save_pretrained, with configuration, weights and processor files"
            )
        return str(path)
    near_folder = hub.did_you_mean(name, models_beside(name))
    looks_like_path = (
        near_folder or name.startswith((".", "~", os.sep)) or name.count("/") > 1 or "\\" in name or path.exists()
    )
    # A hub's model has an owner, but for a few old ones of other kinds; so the nearest packaged name is what was meant.
    near = "" if "/" in name else hub.did_you_mean(name, tuple(STARTERS))
    if looks_like_path or near or not name.strip():
        raise ModelError(
            f"there is no model {'' if near else 'folder '}{name!r}{near or near_folder}: give a folder written by "
            f"save_pretrained, a hub id such as llava-hf/llava-1.5-7b-hf, or {PACKAGED}"
        )
    return name


def is_pipeline(name: str) -> bool:
    """Whether a model is a diffusers pipeline: its folder, or its repository on the hub, holds `model_index.json`.

    A repository that cannot be reached counts as none.

    Raises:
        ModelError: see `source_of`.
    """
    source = source_of(name)
    return (Path(source) / PIPELINE).is_file() if Path(source).is_dir() else _is_pipeline_on_hub(source)


@cache
def _is_pipeline_on_hub(repository: str) -> bool:
    from huggingface_hub import errors, hf_hub_download

    try:
        with hub.without_waiting(repository):
            hf_hub_download(repository, PIPELINE)
    except (OSError, ValueError, errors.HfHubHTTPError):
        return False
    return True


def hub_commit(name: str) -> str:
    """The commit of a hub model that loading would use now; see `grounding.compat.hub_commit`.

    Raises:
        ModelError: the hub does not know the model, or cannot be reached and the model is not in the local cache.
    """
    from grounding import compat  # imports torch, which no help needs

    with explained(name, "its config"), hub.without_waiting(name):
        return compat.hub_commit(name, PIPELINE if is_pipeline(name) else "config.json")


def models_beside(name: str) -> tuple[str, ...]:
    """The folders of models where a name of the form `folder/model` would stand; none for a cached hub id."""
    path = user_path(name)
    if name.count("/") != 1 or name in hub.cached() or not path.parent.is_dir():
        return ()
    return tuple(sorted(str(path.parent / one.name) for one in path.parent.iterdir() if _is_model(one)))


def _is_model(folder: Path) -> bool:
    return (folder / "config.json").is_file() or (folder / PIPELINE).is_file()


@contextmanager
def explained(name: str, part: str) -> Iterator[None]:
    """Re-raise errors of reading a model's files as one sentence.

    Args:
        name: the model as the user wrote it.
        part: subject of the sentence, such as "its weights".

    Raises:
        ModelError: a file is missing or broken, or the hub has no such model or cannot be reached.
    """
    from huggingface_hub import errors, is_offline_mode
    from safetensors import SafetensorError

    try:
        yield
    except (OSError, ValueError, KeyError, TypeError, errors.HfHubHTTPError, SafetensorError) as error:
        chain = list(_chain(error))
        if any(isinstance(e, errors.GatedRepoError) for e in chain):
            message = "its owner asks you to accept terms first: do so on its hub page and log in with 'hf auth login'"
        elif any(isinstance(e, errors.RepositoryNotFoundError | errors.HFValidationError) for e in chain):
            message = (
                f"the hub has no such model{hub.did_you_mean(name, (*STARTERS, *hub.cached()))}, or it is private: "
                "check the id's spelling (owner/model), or give a folder"
            )
        elif not Path(source_of(name)).is_dir() and (is_offline_mode() or any(_is_connection(e) for e in chain)):
            message = (
                f"{hub.unreachable(name)}: check the network, give a folder written by save_pretrained, or use "
                f"{PACKAGED}"
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
    from huggingface_hub import errors

    known = (errors.LocalEntryNotFoundError, errors.OfflineModeIsEnabled, ConnectionError, TimeoutError)
    module = type(error).__module__
    return isinstance(error, known) or module.startswith(("httpx", "httpcore", "requests")) or "connect" in str(error)
