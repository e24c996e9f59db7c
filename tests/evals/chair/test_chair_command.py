"""`grounding eval chair` on the command line, and everything wrong that it may be given."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import pytest
from chair_files import CAPTIONS, write_captions
from extras import needs_extra

from evals.commands.chair import EvalChairCommand
from grounding.errors import EvalDataError, GroundingError


@pytest.fixture
def refused(files, capsys):
    """The sentence of a run that must be refused and say nothing on stdout."""

    def run(**changed):
        options = {"captions": files / "captions.jsonl", **changed}
        for name in ("truth", "synonyms"):
            options.setdefault("ground_truth" if name == "truth" else name, str(files / f"{name}.json"))
        options["synonyms"] = changed.get("synonyms", str(files / "synonyms.txt"))
        with pytest.raises(GroundingError) as refusal:
            EvalChairCommand(**options).run()
        assert capsys.readouterr().out == ""
        said = str(refusal.value)
        assert "\n" not in said
        return said

    return run


def as_json(files: Path) -> EvalChairCommand:
    return EvalChairCommand(
        captions=files / "captions.jsonl",
        ground_truth=str(files / "truth.json"),
        synonyms=str(files / "synonyms.txt"),
        json=True,
    )


def test_json_has_the_promised_keys(files, capsys):
    assert as_json(files).run() == 0
    out = capsys.readouterr().out
    assert out.count("\n") == 1
    found = json.loads(out)
    assert (found["n"], found["chair_s"], found["chair_i"], found["recall"]) == (4, 50.0, 25.0, 80.0)
    assert {"precision", "f1", "length", "distinct_4", "repeated_sentences", "cut_off", "chair_i_distinct"} <= set(
        found
    )
    assert [point["k"] for point in found["truncation_curve"]] == [20, 30, 40, 50, 64, 80, 100, 120]
    assert found["higher_is_better"]["recall"] is True
    assert found["higher_is_better"]["chair_i"] is False
    assert found["variant"] == {"pipeline": "rules", "double_words": "original"}


def test_tables_name_the_variant(files, capsys):
    command = EvalChairCommand(
        captions=files / "captions.jsonl",
        ground_truth=str(files / "truth.json"),
        synonyms=str(files / "synonyms.txt"),
        double_words="standalone",
    )
    assert command.run() == 0
    out = capsys.readouterr().out
    assert "text by rules, double words standalone" in out
    assert "CHAIR_S" in out
    assert "cut after k words" in out


def test_samples_say_what_was_counted(files, capsys):
    command = EvalChairCommand(
        captions=files / "captions.jsonl",
        ground_truth=str(files / "truth.json"),
        synonyms=str(files / "synonyms.txt"),
        samples=files / "out" / "samples.jsonl",
    )
    assert command.run() == 0
    rows = [json.loads(line) for line in (files / "out" / "samples.jsonl").read_text().splitlines()]
    assert [row["image_id"] for row in rows] == [1, 2, 3, 4]
    assert rows[0]["mentions"] == ["person", "dog", "dog", "bench"]
    assert rows[0]["hallucinated"] == ["bench"]
    assert rows[2]["missed"] == ["bench"]
    assert rows[2]["cut_off"] is True


def test_captions_without_ids(refused, files):
    write_captions(files / "captions.jsonl", [*CAPTIONS, {"caption": "A dog."}])
    said = refused()
    assert "row 5" in said
    assert "has no 'image_id'" in said


@pytest.mark.parametrize("wrong", [None, "one", 1.5, True])
def test_ids_that_are_none(wrong, refused, files):
    write_captions(files / "captions.jsonl", [{"image_id": wrong, "caption": "A dog."}])
    assert "expected a whole number" in refused()


def test_captions_without_texts(refused, files):
    write_captions(files / "captions.jsonl", [{"image_id": 1}])
    assert "has no 'caption'" in refused()


def test_double_ids(refused, files):
    write_captions(files / "captions.jsonl", [*CAPTIONS, CAPTIONS[1]])
    said = refused()
    assert "has 1 image ids more than once, the first is 2 in rows 2 and 5" in said
    assert "keep one row of each" in said


def test_unknown_image_ids(refused, files):
    write_captions(files / "captions.jsonl", [*CAPTIONS, {"image_id": 77, "caption": "A dog."}])
    said = refused()
    assert "1 of 5 image ids are not in the ground truth (77)" in said


def test_empty_captions_are_counted_and_said(files, capsys):
    write_captions(files / "captions.jsonl", [*CAPTIONS[:3], {"image_id": 4, "caption": ""}])
    assert as_json(files).run() == 0
    out, err = capsys.readouterr()
    assert json.loads(out)["empty"] == 1
    assert "1 of 4 captions are empty" in err


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("[1, 2]", "holds a list"),
        ("{}", "expected an object of image ids"),
        ('{"a.png": ["dog"]}', "has the key 'a.png'"),
        ('{"1": "dog"}', "image 1 has 'dog'"),
        ('{"images": [], "annotations": []}', "is one COCO annotation file"),
        ('{"1": ["unicorn"]}', "names classes that no line of the synonyms begins with (unicorn)"),
        ("", "is empty"),
        ("image,class", "is not JSON"),
    ],
)
def test_ground_truth_of_the_wrong_kind(content, said, refused, files):
    (files / "truth.json").write_text(content)
    assert said in refused()


@pytest.mark.parametrize("name", ["chair.pkl", "truth.json"])
@pytest.mark.parametrize("protocol", [0, 2, 5])
def test_a_pickle_is_refused_and_never_read(name, protocol, refused, files):
    class Bomb:
        def __reduce__(self):
            return (open, (str(files / "went-off"), "w"))

    (files / name).write_bytes(pickle.dumps(Bomb(), protocol=protocol))
    said = refused(ground_truth=str(files / name))
    assert not (files / "went-off").exists()
    if name.endswith("pkl") or protocol:
        assert "is a pickle, which can run code" in said


def test_files_that_are_not_there(refused, files):
    assert "there is no file" in refused(captions=files / "none.jsonl")
    assert "there is no file" in refused(ground_truth=str(files / "none.json"))
    assert "there is no file" in refused(synonyms=str(files / "none.txt"))


def test_an_address_without_a_hash(refused):
    assert "is an address without a hash" in refused(ground_truth="https://example.org/truth.json")


def test_lengths_that_make_no_sense(refused):
    assert "expected lengths of at least 1" in refused(lengths=(0,))


@needs_extra("pooch", "eval")
def test_what_was_fetched_is_checked_by_its_hash(files, monkeypatch):
    import pooch

    from evals.fetch import local_file

    address = "https://example.org/words.txt#sha256=" + 64 * "0"
    asked = []

    def retrieve(url, known_hash, progressbar):
        asked.append((url, known_hash))
        return str(files / "synonyms.txt")

    monkeypatch.setattr(pooch, "retrieve", retrieve)
    assert local_file(address, "the synonyms") == files / "synonyms.txt"
    assert asked == [("https://example.org/words.txt", "sha256:" + 64 * "0")]

    def changed(url, known_hash, progressbar):
        raise ValueError("SHA256 hash of downloaded file does not match")

    monkeypatch.setattr(pooch, "retrieve", changed)
    with pytest.raises(EvalDataError, match="has another SHA-256"):
        local_file(address, "the synonyms")


def test_ground_truth_from_coco_annotations(tmp_path):
    from evals.chair.lexicon import make_lexicon
    from evals.chair.truth import read_truth
    from evals.chair.words import by_rules

    images = [{"id": 1}, {"id": 2}, {"id": 3}]
    instances = {
        "images": images,
        "categories": [{"id": 18, "name": "dog"}],
        "annotations": [{"image_id": 1, "category_id": 18}],
    }
    captions = {
        "images": images,
        "annotations": [{"image_id": 1, "caption": "A cat."}, {"image_id": 2, "caption": "Cats."}],
    }
    (tmp_path / "instances_val2014.json").write_text(json.dumps(instances))
    lexicon = make_lexicon("dog, puppy\ncat, kitten\n")
    with pytest.raises(EvalDataError, match=r"1 files instances_\*.json and 0 captions_\*.json"):
        read_truth(tmp_path, lexicon, by_rules)
    (tmp_path / "captions_val2014.json").write_text(json.dumps(captions))
    found = read_truth(tmp_path, lexicon, by_rules)
    assert found == {1: frozenset({"dog", "cat"}), 2: frozenset({"cat"}), 3: frozenset()}
    (tmp_path / "captions_val2014.json").write_text("{}")
    with pytest.raises(EvalDataError, match="is no COCO annotation file"):
        read_truth(tmp_path, lexicon, by_rules)
