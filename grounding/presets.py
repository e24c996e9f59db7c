"""Find YAML files: packaged ones under `configs/` by name, a user's own by path."""

from __future__ import annotations

from collections.abc import Callable
from importlib import resources
from pathlib import Path
from typing import TypeVar

from grounding.errors import MethodError

T = TypeVar("T")


def shipped_names(*folder: str) -> tuple[str, ...]:
    """List the YAML files in a folder of `configs`: sorted names without the suffix."""
    files = resources.files("configs").joinpath(*folder).iterdir()
    return tuple(sorted(Path(file.name).stem for file in files if file.name.endswith(".yaml")))


def read_shipped(
    name_or_path: str | Path, folder: tuple[str, ...], what: str, parse: Callable[[str, str, str], T]
) -> T:
    """Read and parse one YAML file.

    Args:
        name_or_path: the name of a packaged file, or a path; a string is a path if it ends in .yaml or .yml or contains
            a slash.
        folder: folder of the packaged files, below `configs`.
        what: kind of the file, for the message ("method").
        parse: called with the file's text, its name without suffix, and its name in messages.

    Raises:
        MethodError: the name is unknown (the message lists the known ones), or the file cannot be read.
    """
    text = str(name_or_path)
    if isinstance(name_or_path, Path) or text.endswith((".yaml", ".yml")) or "/" in text:
        path = Path(text)
        try:
            return parse(path.read_text(encoding="utf-8"), path.stem, str(path))
        except (OSError, UnicodeDecodeError) as wrong:
            reason = wrong.strerror if isinstance(wrong, OSError) and wrong.strerror else "not UTF-8 text"
            raise MethodError(
                f"the {what} file {path} cannot be read ({reason}): give the path of a YAML file"
            ) from wrong
    known = shipped_names(*folder)
    if text not in known:
        raise MethodError(
            f"{what} {text!r} is unknown: the shipped ones are {', '.join(known)}; a file of your own is given by its "
            "path, ending in .yaml"
        )
    file = resources.files("configs").joinpath(*folder, f"{text}.yaml")
    return parse(file.read_text(encoding="utf-8"), text, f"{text}.yaml")
