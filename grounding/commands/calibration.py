"""What the calibration commands share: their samples, and the check of the output path."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from grounding.errors import OutputError, UsageError
from grounding.files import check_writable

if TYPE_CHECKING:
    from grounding.models.base import VLM
    from grounding.steering.samples import Source


def read_sources(manifest: Path | None, scenes: int | None, seed: int) -> list[Source]:
    """Read the samples of a calibration.

    Args:
        manifest: JSON lines file; see `grounding.steering.samples.manifest_samples`.
        scenes: number of drawn scenes, instead of a manifest.
        seed: seed of the scenes.

    Returns:
        One source per sample; a sample is opened when its source is called.

    Raises:
        UsageError: both or none of manifest and scenes are given, or a number is out of range.
        ManifestError: the manifest cannot be read or a line of it is wrong.
    """
    from grounding.scenes.samples import scene_samples
    from grounding.steering.samples import manifest_samples

    if manifest is not None and scenes is not None:
        raise UsageError("--manifest and --scenes were both given: choose one")
    if manifest is not None:
        return manifest_samples(manifest)
    if scenes is None:
        raise UsageError("no samples were given: choose --manifest FILE.jsonl or --scenes N")
    if scenes < 1 or seed < 0:
        raise UsageError(f"--scenes {scenes} with seed {seed} was given, expected at least 1 scene and a seed from 0")
    return scene_samples(scenes, seed)


def check_sources(vlm: VLM, scenes: int | None) -> None:
    """Refuse a model that the samples of a calibration say nothing to.

    Raises:
        ModelError: the samples are drawn scenes, whose words the model does not know.
    """
    from grounding.scenes.known_words import check_scene_words

    if scenes is not None:
        check_scene_words(vlm)


def check_out(out: Path) -> None:
    """Refuse an output path that is a folder or cannot be written, before anything is measured.

    Raises:
        OutputError: see `grounding.files.check_writable`.
    """
    if out.is_dir():
        raise OutputError(f"--out {out} is a folder: name a YAML file in it")
    check_writable(out)
