"""The README followed word by word: its commands and its Python run, in order, in a folder with the files it names.

A comment above a snippet, `tested with: A = B`, says what the test puts in the place of A: a packaged or tiny model for
one from a hub, a file for one that would be fetched.
"""

from __future__ import annotations

import json
import re
import shlex
from dataclasses import dataclass
from pathlib import Path

import pytest
from command_mentions import PROJECT, ROOT, is_command, mentions
from PIL import Image

from grounding.cli import main

README = (ROOT / "README.md").read_text(encoding="utf-8")
MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8")
_SNIPPET = re.compile(r"(?:<!-- tested with:(?P<instead>[^>]*)-->\n)?```(?P<language>\w*)\n(?P<text>.*?)```", re.DOTALL)
LANGUAGES = ("sh", "python")


@dataclass(frozen=True)
class Snippet:
    """One fenced block, with what the test puts in place of what."""

    language: str
    text: str
    instead: tuple[tuple[str, str], ...]

    @property
    def tested(self) -> str:
        text = self.text
        for name, other in self.instead:
            assert name in text, f"the comment speaks of {name}, which the snippet does not have"
            text = text.replace(name, other)
        return text

    @property
    def commands(self) -> list[list[str]]:
        """The words of every line of a shell snippet."""
        lines = self.tested.replace("\\\n", " ").splitlines()
        return [words for line in lines if (words := shlex.split(line, comments=True))]


def _snippet(found: re.Match[str]) -> Snippet:
    pairs = (found["instead"] or "").replace("\n", " ").split(",")
    instead = tuple(tuple(part.strip() for part in pair.split(" = ")) for pair in pairs if pair.strip())
    return Snippet(found["language"], found["text"], instead)  # type: ignore[arg-type]


SNIPPETS = [_snippet(found) for found in _SNIPPET.finditer(README)]


def test_every_snippet_is_found_and_says_its_language() -> None:
    assert README.count("```") == 2 * len(SNIPPETS)
    assert {one.language for one in SNIPPETS} == set(LANGUAGES)


def test_what_is_tested_in_place_of_something_is_said_above_a_snippet() -> None:
    assert README.count("tested with:") == sum(bool(one.instead) for one in SNIPPETS)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """The files that the README names."""
    import skimage.data
    from transformers import LlamaConfig, LlamaForCausalLM

    from grounding.models.tiny import TINY
    from grounding.starter.model import build_tokenizer

    here = tmp_path_factory.mktemp("readme")
    photo = Image.fromarray(skimage.data.coffee())
    photo.save(here / "kitchen.jpg")
    (here / "pairs.jsonl").write_text('{"image": "kitchen.jpg", "expression": "the cup"}\n')
    (here / "described.jsonl").write_text('{"image": "kitchen.jpg", "answer": "a cup of coffee on a table ."}\n')
    (here / "synonyms.txt").write_text("cup, mug\ndining table, table\n")
    (here / "val2014").mkdir()
    name, images = "COCO_val2014_000000000001.jpg", [{"id": 1}]
    Image.fromarray(skimage.data.astronaut()).save(here / "val2014" / name)
    (here / "annotations").mkdir()
    seen = {
        "images": images,
        "categories": [{"id": 47, "name": "cup"}],
        "annotations": [{"image_id": 1, "category_id": 47}],
    }
    said = {"images": images, "annotations": [{"image_id": 1, "caption": "a cup on a table"}]}
    (here / "annotations" / "instances_val2014.json").write_text(json.dumps(seen))
    (here / "annotations" / "captions_val2014.json").write_text(json.dumps(said))
    tokenizer = build_tokenizer(["the", "cat", "sat", "on", "mat"])
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=16, intermediate_size=16, num_hidden_layers=2, num_attention_heads=2
    )
    tokenizer.save_pretrained(here / "tiny-llama")
    LlamaForCausalLM(config).save_pretrained(here / "tiny-llama")
    for part in TINY["qwen3_vl"]():
        part.save_pretrained(here / "tiny-qwen3-vl")
    return here


# The packaged segmenter encodes pictures of 1,024 px, which takes these tests some seconds each.
@pytest.mark.usefixtures("loaded_once")
@pytest.mark.parametrize("number", [i for i, one in enumerate(SNIPPETS) if one.language == "sh"])
def test_the_commands_of_a_snippet_run(number, folder, monkeypatch, capsys) -> None:
    monkeypatch.chdir(folder)
    for words in SNIPPETS[number].commands:
        match words:
            case ["make", target]:
                assert re.search(rf"^{target}:", MAKEFILE, re.MULTILINE), words
            case ["source", file]:
                assert file == re.search(r"^VENV \?= (.*)", MAKEFILE, re.MULTILINE)[1] + "/bin/activate"
            case ["grounding", *rest]:
                extra = ["--passes", "1"] if rest[:2] == ["calibrate", "gains"] else []  # of thirty; takes minutes
                assert main([*rest, *extra]) == 0, (words, capsys.readouterr().err)
            case _:
                pytest.fail(f"nothing here runs {words[0]!r}: teach the test, or leave it out of the README")


@pytest.mark.usefixtures("loaded_once")
@pytest.mark.parametrize("number", [i for i, one in enumerate(SNIPPETS) if one.language == "python"])
def test_the_python_of_a_snippet_runs_and_its_comments_are_true(number, folder, monkeypatch) -> None:
    monkeypatch.chdir(folder)
    names: dict[str, object] = {}
    exec(compile(SNIPPETS[number].tested, f"README.md, snippet {number}", "exec"), names)
    if "recording" in names:
        assert names["recording"].prefill[0].shape == (2, 2, 2, 6)  # of the tiny model: layers, heads, rows, keys
    if "result" in names:
        result = names["result"]
        assert result.segments[0].mask.shape == result.image.size[::-1]
        assert 0 <= result.map.values.min() <= result.map.values.max() <= 1
        assert (folder / "out").is_dir()


def test_every_command_that_the_readme_mentions_exists() -> None:
    text = README.replace("`", " ` ")
    assert [words for words in mentions(text) if not is_command(words)] == []
    for row in re.findall(r"^\| \w[\w ]+ \| (`.*) \|$", README.split("## Commands")[1].split("##")[0], re.MULTILINE):
        group = ""
        for name in re.findall(r"`([a-z][\w -]*)`", row):
            # A name behind `eval chair` may leave the group out.
            assert is_command(name.split()) or is_command([group, name]), name
            group = name.split()[0] if " " in name else group


def test_every_target_extra_file_and_address_within_the_project_exists() -> None:
    for target in re.findall(r"`make ([\w-]+)`", README):
        assert re.search(rf"^{target}:", MAKEFILE, re.MULTILINE), target
    for extra in re.findall(r"extra `(\w+)`", README):
        assert extra in PROJECT["optional-dependencies"], extra
    for place in re.findall(r"\]\(([^)#]+)\)", README):
        assert place.startswith("https://") or (ROOT / place).exists(), place


def test_the_package_is_installed_from_the_checkout() -> None:
    assert re.findall(r"pip install ([^`\n]+)", README) == ["-e '.[starter]'", "-e '.[starter,diffusion]'"]


def test_make_says_how_to_activate() -> None:
    (said,) = re.findall(r"^ACTIVATE = (.*)", MAKEFILE, re.MULTILINE)
    assert "source $(BIN)/activate" in said
    for target in ("setup", "demo"):
        recipe = MAKEFILE.split(f"\n{target}: ")[1].split("\n\n")[0]
        assert '@echo "$(ACTIVATE)"' in recipe
