"""`grounding eval chair` on the command line, and everything wrong that it may be given."""

from __future__ import annotations

import gc
import json
import pickle
import weakref
from dataclasses import replace
from pathlib import Path

import pytest
from chair_files import CAPTIONS, write_captions
from extras import needs_extra

from evals.chair import words
from evals.chair.score import iter_captions
from evals.chair.scoring import score_captions
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
        options.setdefault("pipeline", "rules")
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
        pipeline="rules",
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
        pipeline="rules",
        double_words="standalone",
    )
    assert command.run() == 0
    out = capsys.readouterr().out
    assert "text by rules, double words standalone" in out
    assert "CHAIR_S" in out
    assert "cut after k words" in out


@needs_extra("nltk", "eval")
@pytest.mark.usefixtures("nltk_data")
def test_the_published_pipeline_is_the_default_where_its_data_is(files, capsys):
    for as_object in (True, False):
        command = replace(as_json(files), pipeline="auto", json=as_object)
        assert command.run() == 0
        out, err = capsys.readouterr()
        assert err == ""
        assert '"pipeline": "nltk"' in out if as_object else "text by nltk" in out


def test_without_its_data_the_rules_are_taken_with_one_loud_line(files, capsys, monkeypatch):
    monkeypatch.setattr(words, "why_not_nltk", lambda: "NLTK is installed without its data")
    words._warn.cache_clear()
    for as_object in (True, False):
        assert replace(as_json(files), pipeline="auto", json=as_object).run() == 0
    out, err = capsys.readouterr()
    assert '"pipeline": "rules"' in out
    assert "text by rules" in out
    assert err.count("NOT THE PUBLISHED TEXT PIPELINE: NLTK is installed without its data") == 1
    words._warn.cache_clear()


@pytest.mark.parametrize(
    "names", [["COCO_val2014_000000000001.jpg", "COCO_train2014_000000000002.jpg"], ["000000000001.jpg", "2"]]
)
@pytest.mark.parametrize("key", ["image_id", "image"])
def test_ids_as_they_are_published(names, key, files, capsys):
    rows = [{key: name, "caption": row["caption"]} for name, row in zip(names, CAPTIONS, strict=False)]
    write_captions(files / "captions.jsonl", rows)
    assert replace(as_json(files), samples=files / "samples.jsonl").run() == 0
    lines = (files / "samples.jsonl").read_text().split("\n")
    assert [json.loads(line)["image_id"] for line in lines if line] == [1, 2]
    assert json.loads(capsys.readouterr().out)["n"] == 2


def test_ground_truth_by_picture_names(files, capsys):
    truth = json.loads((files / "truth.json").read_text())
    (files / "truth.json").write_text(json.dumps({f"COCO_val2014_{int(key):012d}.jpg": truth[key] for key in truth}))
    assert as_json(files).run() == 0
    assert json.loads(capsys.readouterr().out)["chair_s"] == 50


LAYOUTS = {
    "one after another": "".join(json.dumps(row) for row in CAPTIONS),
    "spread over lines": "\n".join(json.dumps(row, indent=2) for row in CAPTIONS),
    "two on a line": "\n".join(" ".join(json.dumps(row) for row in CAPTIONS[at : at + 2]) for at in (0, 2)),
    "an array": json.dumps(CAPTIONS, indent=1),
    "blank lines, a byte order mark": "\ufeff\n" + "\n\n".join(map(json.dumps, CAPTIONS)),
    "carriage returns": "\r\n".join(map(json.dumps, CAPTIONS)),
}


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
def test_layouts_of_json(layout, files, capsys):
    (files / "captions.jsonl").write_text(layout, encoding="utf-8")
    assert as_json(files).run() == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["n"], found["chair_s"]) == (4, 50)


def test_raw_line_separators_of_unicode_do_not_end_a_line(files, capsys):
    rows = [{**row, "caption": row["caption"].replace(" ", "\u2028", 1) + "\u2029\x85"} for row in CAPTIONS]
    (files / "captions.jsonl").write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    assert as_json(files).run() == 0
    assert json.loads(capsys.readouterr().out)["n"] == 4


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ('{"image_id": 1, "caption": "a"}{"image_id": 2, ', "line 1 of"),
        ('{"image_id": 1, "caption": "a"}\n{"image_id": 2,\n oops}', "line 2 of"),
        ('{"image_id": "a.png", "caption": "a"}', "expected a whole number or a picture's name that ends in one"),
        ('{"image_id": "\u00b2", "caption": "a"}', "expected a whole number or a picture's name"),
        ('{"image_id": ' + "9" * 30 + ', "caption": "a"}', "more than 18 digits"),
        ('{"a":' * 100_000, "cannot be read: it is nested too deeply"),
        ('{"image_id": ' + "9" * 5000 + ', "caption": "a"}', "it holds a whole number of more than 4,300 digits"),
    ],
)
def test_broken_rows(content, said, refused, files):
    (files / "captions.jsonl").write_text(content, encoding="utf-8")
    assert said in refused()


def test_captions_none_of_which_has_a_word_get_no_score(refused, files):
    write_captions(files / "captions.jsonl", [{**row, "caption": " "} for row in CAPTIONS])
    said = refused()
    assert "none of the 4 captions of captions has a word, so no score is made of them" in said
    assert "float16" in said


def test_the_table_says_how_many_captions_are_empty(files, capsys):
    write_captions(files / "captions.jsonl", [*CAPTIONS[:3], {"image_id": 4, "caption": ""}])
    assert replace(as_json(files), json=False).run() == 0
    assert "1 of 4 captions are empty; they name nothing, which lowers CHAIR and recall" in capsys.readouterr().out


def test_captions_are_let_go_as_they_are_scored(files, resources):
    held: list[weakref.ref] = []

    def watched():
        for one in resources.scores(iter_captions(files / "captions.jsonl"), "here"):
            held.append(weakref.ref(one))
            yield one
            del one
            gc.collect()
            # The loop that scores still holds the caption that it was given last.
            assert [ref() for ref in held[:-1]] == [None] * (len(held) - 1)

    found = score_captions(watched(), resources.lexicon, "here", (2,), {"pipeline": "rules", "double_words": ""}, {}, 0)
    assert (found.data["n"], len(held)) == (4, 4)
    assert [row["image_id"] for row in found.details] == [1, 2, 3, 4]


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
    assert rows[1]["named"] == {"cat": ["kitten"]}
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
