"""The three packages depend on each other in one direction only."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import evals
import grounding
import pipelines

FOLDERS = {module.__name__: Path(str(module.__file__)).parent for module in (grounding, pipelines, evals)}


def imported(file: Path) -> set[str]:
    """Top-level names of everything a file imports, wherever in the file."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module.split(".")[0])
    return names


@pytest.mark.parametrize(
    ("package", "above"), [("grounding", {"pipelines", "evals", "tests"}), ("pipelines", {"evals", "tests"})]
)
def test_arrows_point_down(package, above):
    files = sorted(FOLDERS[package].rglob("*.py"))
    assert len(files) > 5
    wrong = {str(file): names for file in files if (names := imported(file) & above)}
    assert wrong == {}
