from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from grounding.cli import main
from grounding.commands.calibration import check_out, read_sources
from grounding.errors import OutputError, UsageError
from grounding.steering.method import load_steering
from grounding.text import parse
from grounding.types import Word


@dataclass(frozen=True)
class NoNouns:
    """A finder for which no text has a noun."""

    def head(self, text: str, words: Sequence[Word]) -> tuple[int, ...]:
        return ()

    def phrases(self, text: str, words: Sequence[Word]) -> tuple[tuple[int, int], ...]:
        return ()


@pytest.mark.parametrize(
    ("manifest", "scenes", "seed", "sentence"),
    [
        (None, None, 0, "no samples were given"),
        (Path("a.jsonl"), 3, 0, "both given"),
        (None, 0, 0, "at least 1 scene"),
        (None, 2, -1, "a seed from 0"),
    ],
)
def test_wrong_samples_are_a_usage_error(manifest, scenes, seed, sentence) -> None:
    with pytest.raises(UsageError, match=sentence):
        read_sources(manifest, scenes, seed)


def test_scenes_are_drawn_by_their_seed() -> None:
    one, again, other = (read_sources(None, 2, seed)[1]() for seed in (5, 5, 6))
    assert one.image.tobytes() == again.image.tobytes()
    assert one.image.tobytes() != other.image.tobytes()


def test_a_folder_is_no_output_file(tmp_path) -> None:
    check_out(tmp_path / "new.yaml")
    with pytest.raises(OutputError, match="name a YAML file in it"):
        check_out(tmp_path)


@pytest.mark.parametrize("command", ["gains", "sensitivity"])
def test_an_output_that_cannot_be_written_is_refused_before_the_model_is_loaded(command, monkeypatch, capsys) -> None:
    def fail(*_: object, **__: object) -> None:
        raise AssertionError("the model was loaded")

    monkeypatch.setattr("grounding.models.load.load", fail)
    assert main(["calibrate", command, "--out", "/proc/nowhere/file.yaml", "--scenes", "2"]) == 2
    assert "cannot be written" in capsys.readouterr().err


def test_the_noun_finder_decides_which_tokens_weigh_more(tmp_path, monkeypatch, capsys) -> None:
    file = tmp_path / "gains.yaml"
    order = ["calibrate", "gains", "--out", str(file), "--scenes", "2", "--passes", "1", "--json"]
    assert main(order) == 0
    rules = json.loads(capsys.readouterr().out)
    assert rules["nouns"] == "rules"
    assert "with nouns by" not in load_steering(file).source
    monkeypatch.setattr(parse, "load_spacy", lambda model: model)
    monkeypatch.setattr(parse, "SpacyNounFinder", lambda pipeline: NoNouns())
    assert main([*order, "--nouns", "spacy:mine"]) == 0
    none = json.loads(capsys.readouterr().out)
    assert none["curve"] != rules["curve"]  # the mean is weighted by nouns
    assert "with nouns by spacy:mine" in load_steering(file).source


def test_unknown_and_missing_finders_are_one_sentence(tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.setitem(sys.modules, "spacy", None)
    order = ["calibrate", "gains", "--out", str(tmp_path / "g.yaml"), "--scenes", "1", "--nouns"]
    for name, sentence in (("nltk", "choose rules, spacy or spacy:MODEL"), ("spacy", "python -m spacy download")):
        assert main([*order, name]) == 2
        err = capsys.readouterr().err
        assert sentence in err
        assert err.startswith("error: ")
    assert not (tmp_path / "g.yaml").exists()


def test_a_sink_threshold_out_of_range(tmp_path, capsys) -> None:
    order = ["calibrate", "sensitivity", "--out", str(tmp_path / "s.yaml"), "--scenes", "1", "--sink-tau", "0"]
    assert main(order) == 2
    assert "--sink-tau 0.0 was given" in capsys.readouterr().err
