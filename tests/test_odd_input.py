"""Odd but real input: one item that nobody can use is recorded, and the others are done."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from grounding.cli import main
from grounding.console import write_any_text
from grounding.errors import FATAL
from grounding.files import file_stem, slug

CHINESE = "画" * 47


@pytest.fixture
def manifest(tmp_path, pictures):
    """Write a manifest beside copies of the pictures."""
    for file in pictures.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())

    def write(*lines, start=b""):
        file = tmp_path / "list.jsonl"
        file.write_bytes(start + "\n".join(one if isinstance(one, str) else json.dumps(one) for one in lines).encode())
        return file

    return write


@pytest.fixture
def segment(tiny_model, tiny_segmenter, tmp_path, capsys):
    """`grounding segment` with the tiny models: (exit code, stdout, stderr, lines of the folder)."""

    def run(*words):
        models = ["--model", str(tiny_model), "--segmenter", str(tiny_segmenter), "--method", "plain-mean"]
        code = main(["segment", *map(str, words), *models, "--out", str(tmp_path / "out")])
        lines = tmp_path / "out" / "results.jsonl"
        records = [json.loads(line) for line in lines.read_text().splitlines()] if lines.exists() else []
        return code, *capsys.readouterr(), records

    return run


def line(image="a.png", expression="dog", **more):
    return {"image": image, "expression": expression, **more}


def test_half_a_surrogate_pair_fails_its_own_item(segment, manifest):
    file = manifest(
        line(), line(expression="d\ud800og"), line(image="a\ud800.png"), line(expression="cat", note="\udcff"),
        line(image="a\0.png"), line(expression="red"),
    )  # fmt: skip
    code, out, err, records = segment("--manifest", file, "--json")
    assert code == 1
    assert "Traceback" not in err
    errors = [None if one["error"] is None else one["error"]["kind"] for one in records]
    assert errors == [None, "ExpressionError", "ImageError", None, "ImageError", None]
    assert "lone surrogate" in records[1]["error"]["sentence"]
    assert "no file can have that name" in records[2]["error"]["sentence"]
    assert records[3]["manifest"] == {"note": "\udcff"}
    assert [json.loads(one)["error"] for one in out.splitlines()] == [one["error"] for one in records]
    assert segment("--manifest", file)[3] == records  # the folder is read again


def test_long_pictures_go_through(segment, manifest, tmp_path, tiny_model, capsys):
    Image.new("RGB", (1500, 20), "red").save(tmp_path / "wide.png")
    Image.new("RGB", (4, 400), "red").save(tmp_path / "tall.png")
    file = manifest(line(image="wide.png"), line(), line(image="tall.png"))
    code, _, err, records = segment("--manifest", file)
    assert (code, [one["error"] for one in records]) == (0, [None] * 3), err
    names = [str(tmp_path / name) for name in ("wide.png", "a.png", "tall.png")]
    assert main(["describe", *names, "--model", str(tiny_model), "--max-new-tokens", "3", "--json"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 3


@pytest.fixture(scope="session")
def tiny_qwen(tmp_path_factory):
    """A folder with a tiny random Qwen2.5-VL, which refuses pictures of more than 200 to 1."""
    from grounding.models.tiny import tiny_qwen2_5_vl

    folder = tmp_path_factory.mktemp("tiny-qwen")
    for part in tiny_qwen2_5_vl():
        part.save_pretrained(folder)
    return folder


def test_a_picture_that_a_model_refuses_is_recorded_by_every_command(
    segment, manifest, tmp_path, tiny_qwen, tiny_segmenter, capsys
):
    Image.new("RGB", (4100, 20), "red").save(tmp_path / "wide.png")
    file = manifest(line(image="wide.png"), line())
    model = ["--model", str(tiny_qwen)]
    masks = ["--segmenter", str(tiny_segmenter), "--method", "plain-mean"]
    assert main(["segment", "--manifest", str(file), *model, *masks, "--out", str(tmp_path / "s"), "--json"]) == 1
    lines = [json.loads(one)["error"] for one in capsys.readouterr().out.splitlines()]
    assert [one and one["kind"] for one in lines] == ["ImageError", None]

    names = [str(tmp_path / "wide.png"), str(tmp_path / "a.png")]
    assert main(["describe", *names, *model, "--max-new-tokens", "3", "--json"]) == 1
    lines = [json.loads(one)["error"] for one in capsys.readouterr().out.splitlines()]
    assert [one and one["kind"] for one in lines] == ["ImageError", None]

    out = tmp_path / "d"
    assert main(["eval", "diagnose", *names, *model, "--max-new-tokens", "3", "--out", str(out)]) == 1
    said = capsys.readouterr()
    assert "wide.png is left out: a picture of 4100x20 px is too long" in said.err
    assert "1 texts of" in said.out

    questions = tmp_path / "pope.jsonl"
    rows = [{"image": Path(name).name, "text": "Is there a dog?", "label": "yes"} for name in names]
    questions.write_text("\n".join(json.dumps({"question_id": i, **row}) for i, row in enumerate(rows)))
    run = ["eval", "run", "pope", "--questions", str(questions), "--data", str(tmp_path), *model]
    assert main([*run, "--max-new-tokens", "3", "--out", str(tmp_path / "e")]) == 1
    assert "1 of 2 samples failed" in capsys.readouterr().err
    assert main([*run, "--max-new-tokens", "3", "--out", str(tmp_path / "e")]) == 1


def test_a_fault_that_one_item_brings_to_light_does_not_cost_the_others(segment, manifest, monkeypatch):
    from pipelines.results import ReferringResult

    save = ReferringResult.save

    def fails_on_cats(self, *args, **kwargs):
        if self.expression == "cat":
            raise ZeroDivisionError("by zero")
        return save(self, *args, **kwargs)

    monkeypatch.setattr(ReferringResult, "save", fails_on_cats)
    code, _, err, records = segment("--manifest", manifest(line(), line(expression="cat"), line(expression="red")))
    assert code == 1
    assert [one["error"] and one["error"]["kind"] for one in records] == [None, "UnexpectedError", None]
    assert "an unexpected ZeroDivisionError (by zero)" in err


def test_a_fault_on_a_single_item_keeps_its_traceback(segment, pictures, monkeypatch):
    from pipelines.referring import ReferringSegmentation

    def broken(self, pairs):
        raise ZeroDivisionError("by zero")

    monkeypatch.setattr(ReferringSegmentation, "_batch", broken)
    from grounding.errors import UnexpectedError

    with pytest.raises(UnexpectedError) as caught:
        segment(pictures / "a.png", "dog")
    assert isinstance(caught.value.__cause__, ZeroDivisionError)
    assert UnexpectedError not in FATAL


def test_names_of_files_are_cut_by_bytes_and_stay_apart(segment, manifest, tmp_path):
    Image.new("RGB", (40, 30), "red").save(tmp_path / f"{CHINESE}.png")
    image = f"{CHINESE}.png"
    words = ["左" * 40, "左" * 39 + "右"]
    file = manifest(*(line(image=image, expression=one) for one in words))
    code, _, err, records = segment("--manifest", file, "--formats", "png,npz")
    assert (code, [one["error"] for one in records]) == (0, [None, None]), err
    names = [name for one in records for name in one["files"]]
    assert len(set(names)) == 4
    assert all(len(os.fsencode(name)) < 230 and (tmp_path / "out" / name).is_file() for name in names)


@pytest.mark.parametrize("text", ["画" * 99, "a" * 99, "é" * 59, "😀 cat " * 20, "ab" * 30])
def test_slugs_fit_and_stems_differ_where_slugs_were_cut(text):
    assert len(slug(text)) <= 60
    assert len(slug(text).encode()) <= 90
    assert slug(text).encode().decode() == slug(text)
    if slug(text) == slug(text + "x"):
        assert file_stem(text) != file_stem(text + "x")


def test_results_of_the_longest_name_are_written(tmp_path):
    from grounding.files import write_bytes

    assert write_bytes(tmp_path / ("a" * 251 + ".png"), b"x").read_bytes() == b"x"


@pytest.mark.parametrize("encoding", ["cp1252", "ascii"])
def test_every_encoding_of_stdout_gets_valid_json_and_readable_text(encoding, segment, tmp_path, monkeypatch):
    Image.fromarray(np.eye(40, dtype=np.uint8) * 255).save(tmp_path / "狗.png")
    for option in ([], ["--json"]):
        stream, errors = (io.TextIOWrapper(io.BytesIO(), encoding=encoding, errors="strict") for _ in range(2))
        monkeypatch.setattr(sys, "stdout", stream)
        monkeypatch.setattr(sys, "stderr", errors)
        assert segment(tmp_path / "狗.png", tmp_path / "none画.png", "the red 狗 \udcff"[:-1], *option)[0] == 1
        for one in (stream, errors):
            one.flush()
        text = stream.buffer.getvalue().decode(encoding)
        assert b"none" in errors.buffer.getvalue()
        if option:
            first, second = map(json.loads, text.splitlines())
            assert first["image"] == str(tmp_path / "狗.png")
            assert "none画.png" in second["error"]["sentence"]
        else:
            assert "狗" in text or "\\u72d7" in text


def test_a_process_whose_streams_are_not_utf8(pictures):
    """Errors too, in a process of its own."""
    environment = os.environ | {"PYTHONIOENCODING": "ascii", "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, "-m", "grounding", "画"], env=environment, capture_output=True, check=False)
    assert (done.returncode, done.stdout) == (2, b"")
    assert b"has no command '\\u753b'" in done.stderr


def test_streams_that_are_no_files_are_left_alone(monkeypatch):
    monkeypatch.setattr(sys, "stdout", io.StringIO())
    write_any_text()


def deep(depth):
    return '{"image": "a.png", "expression": "dog", "note": ' + "[" * depth + "]" * depth + "}"


@pytest.mark.parametrize(
    ("odd", "sentence"),
    [
        (deep(10_000), "cannot be read: it is nested too deeply"),
        (deep(100), "is nested more than 64 deep"),
        (
            '{"image": "a.png", "expression": "dog", "id": ' + "9" * 5000 + "}",
            "cannot be read: it holds a whole number of more than 4,300 digits",
        ),
        ('{"image": "a.png", "expression": "dog", "score": NaN}', "holds nan, which is no number of JSON"),
        ('{"image": "a.png", "expression": "dog", "score": 1e999}', "holds inf, which is no number of JSON"),
    ],
)
def test_a_line_that_no_result_could_hold_is_named(odd, sentence, segment, manifest, tmp_path):
    code, _, err, _ = segment("--manifest", manifest(line(), odd))
    assert code == 2
    assert "line 2 of the manifest" in err
    assert sentence in err
    assert not (tmp_path / "out").exists()
    assert segment("--manifest", manifest(line(), deep(40), line(expression="cat", id=9**40)))[0] == 0


@pytest.mark.parametrize("id", ["²", "9" * 5000, "٣", " ", "1.0", "-1"])
def test_ids_that_are_no_numbers_are_refused_in_one_sentence(id, tmp_path):
    from evals.inputs import whole_number
    from grounding.errors import EvalDataError

    with pytest.raises(EvalDataError, match=r"row 1 of x: 'id' is .*, expected a whole number"):
        whole_number({"id": id}, ["id"], "row 1 of x")
    assert whole_number({"id": " 000139 "}, ["id"], "x") == 139


@pytest.mark.parametrize("content", ["[" * 1200, '{"a": ' + "9" * 5000 + "}", "\ufeff[{}"])
def test_odd_json_is_refused_by_every_reader(content, tmp_path):
    from evals.inputs import read_json, read_rows
    from evals.lab.plan import load_plan
    from grounding.errors import EvalDataError, ManifestError, MethodError, OutputError
    from grounding.files import read_jsonl
    from grounding.methods import load_method
    from grounding.photos import read_json as read_photo_json
    from grounding.steering.method import load_steering
    from grounding.steering.sensitivity import load_sensitivity

    file = tmp_path / "odd.yaml"
    file.write_text(content + "\n{}\n", encoding="utf-8")
    for reader, error in (
        (lambda: read_json(file, "it"), EvalDataError),
        (lambda: read_rows(file, "it"), EvalDataError),
        (lambda: read_photo_json(file), ManifestError),
        (lambda: read_jsonl(file), OutputError),
        (lambda: load_method(file), MethodError),
        (lambda: load_steering(file), MethodError),
        (lambda: load_sensitivity(file), MethodError),
        (lambda: load_plan(file), EvalDataError),
    ):
        with pytest.raises(error):
            reader()


def test_half_a_pair_in_a_data_set_becomes_the_replacement_character(tmp_path):
    from evals.inputs import read_json, read_rows

    file = tmp_path / "rows.jsonl"
    file.write_text('{"id": 1, "text": ["a \\ud83d dog", "\\ud83d\\udc15 é"]}\n{"id": 2}\n', encoding="utf-8")
    assert read_rows(file, "it") == [{"id": 1, "text": ["a \ufffd dog", "\U0001f415 é"]}, {"id": 2}]
    file.write_text('"\\udc15"', encoding="utf-8")
    assert read_json(file, "it") == "\ufffd"


MARK = b"\xef\xbb\xbf"


def test_a_manifest_may_begin_with_a_byte_order_mark(segment, manifest):
    code, _, err, records = segment("--manifest", manifest(line(), start=MARK))
    assert (code, len(records)) == (0, 1), err


def test_every_text_reader_skips_a_byte_order_mark(tmp_path):
    from importlib import resources

    from evals.inputs import read_json, read_rows
    from evals.lab.plan import load_plan
    from grounding.files import read_jsonl
    from grounding.methods import load_method
    from grounding.photos import read_json as read_photo_json
    from grounding.steering.method import load_steering

    def marked(content: bytes, name="a.json"):
        (tmp_path / name).write_bytes(MARK + content)
        return tmp_path / name

    configs = resources.files("configs")
    for reader in (lambda file: read_json(file, "it"), read_photo_json, lambda file: read_jsonl(file)[0]):
        assert reader(marked(b'{"a": 1}')) == {"a": 1}
    for content in (b'[{"a": 1}]', b'{"a": 1}\n'):
        assert read_rows(marked(content), "it") == [{"a": 1}]
    assert load_method(marked(configs.joinpath("methods", "default.yaml").read_bytes(), "m.yaml")).stages
    assert load_steering(marked(configs.joinpath("methods", "steering", "pai.yaml").read_bytes(), "s.yaml")).steps
    assert load_plan(marked(configs.joinpath("evals", "lab.yaml").read_bytes(), "l.yaml")).model


def test_a_manifest_comes_from_stdin(segment, pictures, monkeypatch):
    content = MARK + json.dumps(line(image="a.png")).encode()
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content)))
    monkeypatch.chdir(pictures)
    code, _, err, records = segment("--manifest", "-")
    assert (code, [one["image"] for one in records]) == (0, ["a.png"]), err
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"\nno")))
    assert "line 2 of the manifest on stdin is not JSON" in segment("--manifest", "-")[2]


def test_samples_of_a_calibration_come_from_stdin(monkeypatch, pictures):
    from grounding.steering.samples import manifest_samples

    content = json.dumps({"image": "a.png", "question": "what is it", "answer": "a dog"}).encode()
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content)))
    monkeypatch.chdir(pictures)
    (source,) = manifest_samples(Path("-"))
    assert source().answer == "a dog"


def test_values_on_one_line_of_a_manifest_are_read_one_after_another(segment, manifest):
    both = "".join(json.dumps(line(expression=one)) for one in ("dog", "cat"))
    code, out, _, _ = segment("--manifest", manifest(both + "  " + json.dumps(line(expression="can"))))
    assert code == 0, out
