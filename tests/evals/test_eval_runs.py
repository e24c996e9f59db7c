"""Runs of a task: cut off and gone on with, divided and joined, with samples that fail."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from evals.commands.chair import EvalChairCommand
from evals.commands.compare import EvalCompareCommand
from evals.commands.run import EvalJoinCommand
from evals.runs import RunFolder
from grounding.errors import EvalDataError, GroundingError, OutputError, UsageError
from grounding.runs.lock import hold

SAME = ("samples.jsonl", "scores.json", "details.jsonl")
COUNT = 9


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    """Nine pictures, the fifth broken, with a truth and synonyms."""
    folder = tmp_path_factory.mktemp("data")
    (folder / "pics").mkdir()
    generator = np.random.default_rng(0)
    for number in range(COUNT):
        pixels = generator.integers(0, 256, (56, 56, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / "pics" / f"photo_{number}.png")
    (folder / "pics" / "photo_4.png").write_bytes(b"no picture")
    (folder / "truth.json").write_text(json.dumps({str(number): ["dog"] for number in range(COUNT)}))
    (folder / "words.txt").write_text("dog, puppy\ncat, kitten\n")
    return folder


@pytest.fixture(scope="module")
def options(data, tiny_model):
    """What every run here has in common; draws tokens, so that seeds matter."""
    return {
        "model": str(tiny_model),
        "data": str(data / "pics"),
        "ground_truth": str(data / "truth.json"),
        "synonyms": str(data / "words.txt"),
        "batch_size": 2,
        "max_new_tokens": 12,
        "do_sample": True,
        "device": "cpu",
    }


@pytest.fixture(scope="module")
def whole(options, tmp_path_factory) -> Path:
    """The folder of a run that nothing disturbed."""
    out = tmp_path_factory.mktemp("runs") / "whole"
    assert EvalChairCommand(**options, out=out).run() == 1  # one sample fails
    return out


def same(one: Path, other: Path) -> None:
    for name in SAME:
        assert (one / name).read_bytes() == (other / name).read_bytes(), name


def words(options, out: Path) -> list[str]:
    """The options as on the command line."""
    found = ["eval", "chair", "--out", str(out)]
    for name, value in options.items():
        found += [f"--{name.replace('_', '-')}"] + ([] if value is True else [str(value)])
    return found


def test_what_a_run_leaves(whole, data):
    folder = RunFolder(whole)
    manifest, scores = folder.manifest(), folder.scores()
    answers = list(folder.answers().values())
    assert [one.id for one in answers] == [str(number) for number in range(COUNT)]
    assert [one.error is None for one in answers] == [number != 4 for number in range(COUNT)]
    assert "photo_4.png is not an image" in str(answers[4].error)
    assert all(0 < one.tokens <= 12 for one in answers if one.error is None)
    assert folder.image(answers[0]) == data / "pics" / "photo_0.png"
    assert (scores["samples"], scores["failed"], scores["n"]) == (COUNT, 1, COUNT - 1)
    assert scores["config_hash"] == manifest["config_hash"]
    assert manifest["prompts"]["first"] == "Please describe this image in detail."
    assert manifest["start"] <= manifest["end"]
    assert {"torch", "transformers", "grounding"} <= set(manifest["versions"])
    timings = [json.loads(line) for line in (whole / "timings.jsonl").read_text().splitlines()]
    assert [one["batch"] for one in timings] == [0, 1, 2, 3, 4]
    assert sum(one["tokens"] for one in timings) == sum(one.tokens for one in answers)
    assert len({one.text for one in answers}) > 5  # so equal bytes say something


@pytest.mark.slow
def test_a_killed_run_goes_on_and_ends_with_the_same_bytes(options, tmp_path):
    slow = {**options, "batch_size": 1, "max_new_tokens": 100}
    out, calm = tmp_path / "killed", tmp_path / "calm"
    process = subprocess.Popen([sys.executable, "-m", "grounding", *words(slow, out)], stderr=subprocess.DEVNULL)
    samples = out / "samples.jsonl"
    while process.poll() is None and not (samples.exists() and b"\n" in samples.read_bytes()):
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert 1 <= len((out / "samples.jsonl").read_bytes().splitlines()) < COUNT
    assert not (out / "scores.json").exists()
    EvalChairCommand(**slow, out=out).run()
    EvalChairCommand(**slow, out=calm).run()
    same(out, calm)


@pytest.mark.parametrize("kept", [0, 1, 60, 0.3, 0.5, 0.77, 0.999])
def test_lines_that_were_cut_anywhere(kept, options, whole, tmp_path):
    content = (whole / "samples.jsonl").read_bytes()
    out = tmp_path / "cut"
    out.mkdir()
    (out / "manifest.json").write_bytes((whole / "manifest.json").read_bytes())
    (out / "samples.jsonl").write_bytes(content[: kept if isinstance(kept, int) else int(kept * len(content))])
    EvalChairCommand(**options, out=out).run()
    same(out, whole)


def test_a_finished_run_is_left_alone(options, tmp_path, capsys):
    few = {**options, "limit": 3, "seed": 1}
    out = tmp_path / "few"
    assert EvalChairCommand(**few, out=out).run() == 0
    before = [
        ((out / name).read_bytes(), (out / name).stat().st_mtime_ns) for name in ("samples.jsonl", "details.jsonl")
    ]
    manifest = (out / "manifest.json").read_bytes()
    assert "eval chair" in capsys.readouterr().err
    EvalChairCommand(**few, out=out).run()
    assert [
        ((out / name).read_bytes(), (out / name).stat().st_mtime_ns) for name in ("samples.jsonl", "details.jsonl")
    ] == before
    assert (out / "manifest.json").read_bytes() == manifest
    assert "eval chair" not in capsys.readouterr().err  # no bar: no model was loaded


def test_a_mended_picture_is_asked_about_by_the_same_command(options, whole, data, tmp_path):
    broken = data / "pics" / "photo_4.png"
    content = broken.read_bytes()
    out = tmp_path / "mended"
    EvalChairCommand(**options, out=out).run()
    same(out, whole)
    try:
        Image.new("RGB", (56, 56)).save(broken)
        assert EvalChairCommand(**options, out=out).run() == 0
        assert RunFolder(out).scores()["failed"] == 0
        calm = tmp_path / "calm"
        assert EvalChairCommand(**options, out=calm).run() == 0
        same(out, calm)
    finally:
        broken.write_bytes(content)


def repainted(data: Path, folder: Path, number: int) -> Path:
    """The data in another folder, with the same names and truth and one other picture."""
    shutil.copytree(data, folder)
    Image.new("RGB", (56, 56), "teal").save(folder / "pics" / f"photo_{number}.png")
    return folder


def test_answers_about_other_pictures_are_not_taken_for_those_of_a_run(options, whole, data, tmp_path):
    before = (whole / "samples.jsonl").read_bytes()
    other = {**options, "data": str(repainted(data, tmp_path / "data", 2) / "pics")}
    with pytest.raises(OutputError, match=r"holds answers about other pictures: photo_2.png of the sample 2"):
        EvalChairCommand(**other, out=whole).run()
    assert (whole / "samples.jsonl").read_bytes() == before
    EvalChairCommand(**other, out=tmp_path / "other").run()
    with pytest.raises(EvalDataError, match="the sample 2 was asked about another picture"):
        EvalCompareCommand(a=whole, b=tmp_path / "other").run()


def test_pictures_that_are_gone_do_not_undo_the_answers_about_them(options, whole, data, tmp_path):
    out = tmp_path / "out"
    shutil.copytree(whole, out)
    moved = repainted(data, tmp_path / "data", 4)  # the broken one is mended
    gone = {**options, "data": str(moved / "pics")}
    names = [file.name for file in sorted((moved / "pics").iterdir())]
    (moved / "pics" / "metadata.jsonl").write_text("".join(json.dumps({"file_name": name}) + "\n" for name in names))
    (moved / "pics" / "photo_0.png").unlink()
    assert EvalChairCommand(**gone, out=out).run() == 0
    answers = RunFolder(out).answers()
    assert answers["0"] == RunFolder(whole).answers()["0"]
    assert answers["4"].error is None


@pytest.mark.parametrize(("mine", "other", "free"), [("", "samples", False), ("0/2", "samples.1-of-2", True)])
def test_two_processes_write_to_one_folder_only_as_different_workers(mine, other, free, options, tmp_path):
    out = tmp_path / "out"
    with hold(out, other):
        if free:
            assert EvalChairCommand(**options, out=out, shard=mine).run() == 0
        else:
            with pytest.raises(OutputError, match="is being written to by another process"):
                EvalChairCommand(**options, out=out, shard=mine).run()
    assert out.exists() == free


@pytest.mark.slow
def test_two_processes_answer_like_one(options, whole, tmp_path):
    out = tmp_path / "two"
    # --multi_gpu is the launcher for several processes; without GPUs they run on the CPU.
    launch = "-m accelerate.commands.launch --multi_gpu --num_processes 2 --main_process_port 0 -m grounding".split()
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, *launch, *words(options, out)], capture_output=True, text=True, env=environment
    )
    assert done.returncode == 0, done.stderr
    same(out, whole)
    timings = [json.loads(line) for line in (out / "timings.jsonl").read_text().splitlines()]
    assert {(one["worker"], one["batch"]) for one in timings} == {(0, 0), (1, 1), (0, 2), (1, 3), (0, 4)}
    assert not list(out.glob("*-of-*"))


def test_shards_join_by_themselves_in_one_folder(options, whole, tmp_path, capsys):
    out = tmp_path / "shards"
    for part in (2, 0):
        assert EvalChairCommand(**options, out=out, shard=f"{part}/3").run() == 0
        assert not (out / "scores.json").exists()
    assert "samples are left to other processes or shards" in capsys.readouterr().err
    EvalChairCommand(**options, out=out, shard="1/3").run()
    same(out, whole)
    assert not list(out.glob("*-of-*"))


def test_shards_of_folders_of_their_own_are_joined(options, whole, tmp_path, capsys):
    shards = [tmp_path / f"shard-{part}" for part in (0, 1)]
    for part, out in enumerate(shards):
        EvalChairCommand(**options, out=out, shard=f"{part}/2").run()
    with pytest.raises(EvalDataError, match="the 1 folders have answers to 5 of 9 samples"):
        EvalJoinCommand(folders=(shards[0],), out=tmp_path / "half").run()
    assert not (tmp_path / "half").exists()
    capsys.readouterr()
    assert EvalJoinCommand(folders=tuple(shards), out=tmp_path / "joined", json=True).run() == 1
    assert json.loads(capsys.readouterr().out) == json.loads((whole / "scores.json").read_text())
    same(tmp_path / "joined", whole)


def test_folders_of_another_configuration_are_refused(options, whole, tmp_path):
    before = (whole / "samples.jsonl").read_bytes()
    with pytest.raises(OutputError, match="another configuration, which differs in decoding: choose another folder"):
        EvalChairCommand(**{**options, "max_new_tokens": 13}, out=whole).run()
    with pytest.raises(OutputError, match="which differs in samples"):
        EvalChairCommand(**{**options, "words": "What is this?"}, out=whole).run()
    assert (whole / "samples.jsonl").read_bytes() == before
    EvalChairCommand(**{**options, "batch_size": 3}, out=tmp_path / "three", shard="0/2").run()
    with pytest.raises(OutputError, match="differs in batch_size"):
        EvalJoinCommand(folders=(whole, tmp_path / "three"), out=tmp_path / "joined").run()
    (tmp_path / "strange").mkdir()
    (tmp_path / "strange" / "samples.jsonl").write_text("{}\n")
    with pytest.raises(OutputError, match=r"holds samples.jsonl but no manifest.json"):
        EvalChairCommand(**options, out=tmp_path / "strange").run()


def test_other_ways_of_scoring_need_no_new_answers(options, whole, tmp_path, capsys):
    out = tmp_path / "scored"
    out.mkdir()
    for name in ("manifest.json", "samples.jsonl"):
        (out / name).write_bytes((whole / name).read_bytes())
    EvalChairCommand(**{**options, "double_words": "standalone"}, out=out).run()
    assert (out / "samples.jsonl").read_bytes() == (whole / "samples.jsonl").read_bytes()
    assert RunFolder(out).scores()["variant"]["double_words"] == "standalone"
    assert RunFolder(out).manifest()["task"]["options"]["double_words"] == "standalone"


def test_runs_are_compared_image_by_image(options, whole, tmp_path, capsys):
    other = tmp_path / "other"
    EvalChairCommand(**{**options, "seed": 5, "max_new_tokens": 30}, out=other).run()
    capsys.readouterr()
    EvalCompareCommand(a=whole, b=other, json=True).run()
    found = json.loads(capsys.readouterr().out)
    length = found["differences"]["length"]
    assert (found["n"], found["of"]) == (COUNT - 1, "chair")
    assert length["difference"] == pytest.approx(length["b"] - length["a"], abs=1e-5)
    assert length["a"] == RunFolder(whole).scores()["length"]
    assert set(found["runs"]) == {"a", "b"}
    with pytest.raises(UsageError, match="are a file and a folder"):
        EvalCompareCommand(a=whole, b=whole / "samples.jsonl").run()
    with pytest.raises(EvalDataError, match=r"is no run folder, manifest.json is missing"):
        EvalCompareCommand(a=whole, b=tmp_path).run()
    with pytest.raises(UsageError, match=r"there is neither a file nor a folder .*nowhere"):
        EvalCompareCommand(a=whole, b=tmp_path / "nowhere").run()


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"captions": Path("x")}, "both --captions and --model were given"),
        ({"model": ""}, "neither --captions nor --model was given"),
        ({"out": None}, "--out is missing"),
        ({"data": ""}, "--data is missing"),
        ({"steer": "nothing-such.yaml"}, "the steering method file nothing-such.yaml cannot be read"),
        ({"batch_size": 0}, "batch size 0"),
        ({"max_new_tokens": -1}, "max_new_tokens -1"),
        ({"seed": -1}, "--seed -1"),
        ({"shard": "3/2"}, "--shard 3/2"),
        ({"lengths": (0,)}, "--lengths 0"),
        ({"model": "no/such/folder"}, "there is no model folder"),
        ({"ground_truth": "nowhere.json"}, "there is no file nowhere.json"),
    ],
)
def test_what_cannot_be_run_is_refused_before_anything_is_written(changes, said, options, tmp_path):
    with pytest.raises(GroundingError) as refusal:
        EvalChairCommand(**{**options, "out": tmp_path / "out", **changes}).run()
    assert said in str(refusal.value)
    assert not (tmp_path / "out").exists()
