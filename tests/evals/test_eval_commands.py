"""The suite's commands as pyproject.toml registers them, called as people call them."""

from __future__ import annotations

import dataclasses
import json
import tomllib
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

from evals.tasks.registry import TASKS
from grounding import cli
from grounding.command import ENTRY_POINTS

PYPROJECT = Path(__file__).resolve().parents[2] / "pyproject.toml"
ENTRIES = [
    EntryPoint(name, target, ENTRY_POINTS)
    for name, target in tomllib.loads(PYPROJECT.read_text())["project"]["entry-points"][ENTRY_POINTS].items()
    if name.startswith("eval.")
]


@pytest.fixture
def call(monkeypatch, capsys):
    """`grounding eval ...` with the commands of pyproject.toml, installed or not: (exit code, stdout, stderr)."""
    monkeypatch.setattr(cli, "entry_points", lambda group: ENTRIES)

    def run(*words):
        code = cli.main(["eval", *map(str, words)])
        return code, *capsys.readouterr()

    return run


@pytest.fixture
def chair_files(tmp_path):
    (tmp_path / "words.txt").write_text("dog, puppy\ncat, kitten\n")
    (tmp_path / "truth.json").write_text('{"1": ["dog"]}')
    (tmp_path / "captions.jsonl").write_text('{"image_id": 1, "caption": "A puppy and a cat."}\n')
    return tmp_path


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: entry.name)
def test_every_command_has_json_and_a_help(entry, call):
    kind = entry.load().load()
    assert "json" in {field.name for field in dataclasses.fields(kind)}
    code, out, _ = call(entry.name.removeprefix("eval."), "--help")
    assert code == 0
    assert f"usage: grounding {entry.name.replace('.', ' ')}" in out


@pytest.mark.parametrize("task", TASKS)
def test_every_task_can_be_run(task, call):
    code, out, _ = call("run", task, "--help")
    assert code == 0
    assert f"usage: grounding eval run {task}" in out
    assert "--steer" in out
    code, _, err = call("run", task, "--model", "starter")
    assert code == 2
    assert "--out is missing" in err or "are required" in err or "Required" in err


def test_chair_from_the_command_line(call, chair_files):
    flags = ["--ground-truth", chair_files / "truth.json", "--synonyms", chair_files / "words.txt", "--json"]
    code, out, _ = call("chair", "--captions", chair_files / "captions.jsonl", *flags)
    assert code == 0
    found = json.loads(out)
    assert (found["n"], found["chair_s"], found["chair_i"], found["recall"]) == (1, 100.0, 50.0, 100.0)
    code, out, _ = call("compare", chair_files / "captions.jsonl", chair_files / "captions.jsonl", *flags)
    assert code == 0
    assert json.loads(out)["differences"]["chair_s"]["difference"] == 0


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("truth.json", b"\x80\x04}\x94.", "is a pickle, which can run code when it is read"),
        ("truth.json", b"[]", "expected an object of image ids"),
        ("captions.jsonl", b'{"caption": "A dog."}', "has no 'image_id'"),
        ("captions.jsonl", b'{"image_id": 1, "caption": ""}\n' * 2, "more than once"),
        ("captions.jsonl", b'{"image_id": 7, "caption": ""}\n', "1 of 1 image ids are not in the ground truth (7)"),
        ("captions.jsonl", b"", "is empty"),
        ("captions.jsonl", b"\xff\xfe\x00", "is no UTF-8 text"),
        ("words.txt", b"[1]", "is no synonym list"),
    ],
)
def test_bad_input_is_one_sentence_and_exit_code_2(name, content, said, call, chair_files):
    (chair_files / name).write_bytes(content)
    flags = ["--ground-truth", chair_files / "truth.json", "--synonyms", chair_files / "words.txt"]
    code, out, err = call("chair", "--captions", chair_files / "captions.jsonl", *flags)
    assert (code, out) == (2, "")
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert said in err


@pytest.mark.parametrize(
    "words",
    [
        "chair --captions x --ground-truth x --synonyms x",
        "compare x x --ground-truth x --synonyms x",
        "pope --questions x --answers x",
        "amber --responses x --data x",
        "hallusion --responses x",
        "mmhal --responses x --out x",
    ],
)
def test_a_seed_below_0_is_refused_before_anything_is_read(words, call):
    code, out, err = call(*words.split(), "--seed", "-1")
    assert (code, out) == (2, "")
    assert "--seed -1 was given, expected a seed from 0" in err


def test_scoring_needs_no_torch(chair_files):
    import subprocess
    import sys

    code = (
        "import sys; from evals.commands.chair import EvalChairCommand as C; from pathlib import Path; "
        f"d = Path({str(chair_files)!r}); "
        "C(captions=d / 'captions.jsonl', ground_truth=str(d / 'truth.json'), synonyms=str(d / 'words.txt')).run(); "
        "print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "False"
