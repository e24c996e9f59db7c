from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from grounding.errors import ExpressionError, ImageError, ModelError, OutputError, RecordingError, UsageError
from pipelines.batch import Job, finish, parse_formats, run_batch, run_job
from pipelines.manifest import items_from_manifest
from pipelines.provenance import RunConfig
from pipelines.runs import open_results

CONFIG = RunConfig(
    model="tiny",
    weights="abc",
    segmenter="tiny-sam",
    segmenter_weights="def",
    method="plain-mean",
    method_text="",
    dtype="float32",
    seed=0,
)
WORDS = (("a", "dog"), ("b", "red"), ("a", "the red dog"), ("missing", "dog"), ("c", "left image"), ("b", " "))


@pytest.fixture
def manifest(pictures, tmp_path) -> Path:
    """Six items on three pictures and a missing one; two of them must fail."""
    file = tmp_path / "list.jsonl"
    lines = [
        {"image": str(pictures / f"{name}.png"), "expression": words, "image_id": number}
        for number, (name, words) in enumerate(WORDS)
    ]
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return file


def job_of(manifest: Path, out: Path, **changes) -> Job:
    job = Job(items_from_manifest(manifest), out, ("npz", "coco"), CONFIG, batch_size=2, resume=True)
    return replace(job, **changes)


def work(job: Job, pipe) -> tuple[list[dict], list[str]]:
    """The job's lines, and the expressions that were worked on."""
    lines, told = open_results(job.out), []
    run_job(job, pipe, lines, job.batches(job.done(lines)), lambda item, outcome: told.append(item.expression))
    return finish(job, lines), told


def contents(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in sorted(folder.iterdir())}


def test_every_item_has_its_line_in_order_and_failures_say_why(make_pipe, manifest, tmp_path):
    records, told = work(job_of(manifest, tmp_path / "out"), make_pipe())
    assert [record["expression"] for record in records] == [words for _, words in WORDS]
    assert len(told) == 6
    errors = [record["error"] and record["error"]["kind"] for record in records]
    assert errors == [None, None, None, "ImageError", None, "ExpressionError"]
    assert "there is no image at" in records[3]["error"]["sentence"]
    on_disk = [json.loads(line) for line in (tmp_path / "out" / "results.jsonl").read_text().splitlines()]
    assert on_disk == records
    for record in records:
        assert record["manifest"]["image_id"] == WORDS.index((Path(record["image"]).stem, record["expression"]))
        assert all((tmp_path / "out" / name).is_file() for name in record.get("files", ()))
    coco = json.loads((tmp_path / "out" / "coco_results.json").read_text())
    assert [entry["image_id"] for entry in coco] == [0, 1, 2, 4]
    runs = json.loads((tmp_path / "out" / "run.json").read_text())["runs"]
    assert runs[CONFIG.hash]["config"]["method"] == "plain-mean"
    assert "torch" in runs[CONFIG.hash]["versions"]


def test_a_second_run_tries_what_failed_and_nothing_else(make_pipe, manifest, tmp_path):
    job = job_of(manifest, tmp_path / "out")
    work(job, make_pipe())
    before = contents(job.out)
    _, told = work(job, make_pipe())
    assert sorted(told) == [" ", "dog"]
    assert contents(job.out) == before


@pytest.mark.parametrize("share", [0.0, 0.03, 0.3, 0.55, 0.8, 0.999])
def test_a_run_cut_off_at_any_byte_ends_in_the_same_files(share, make_pipe, manifest, tmp_path):
    job = job_of(manifest, tmp_path / "out")
    work(job, make_pipe())
    whole = contents(job.out)
    # While a run works its lines stand in the order of work, so the cut is made in a file of that kind.
    lines = open_results(tmp_path / "cut")
    cut = job_of(manifest, tmp_path / "cut")
    run_job(cut, make_pipe(), lines, cut.batches(cut.done(lines)), lambda item, outcome: None)
    text = lines.file.read_bytes()
    lines.file.write_bytes(text[: int(share * len(text))])
    work(cut, make_pipe())
    assert contents(cut.out) == whole


def test_a_lost_picture_is_made_again(make_pipe, manifest, tmp_path):
    job = job_of(manifest, tmp_path / "out")
    records, _ = work(job, make_pipe())
    before = contents(job.out)
    (job.out / records[4]["files"][0]).unlink()
    _, told = work(job, make_pipe())
    assert sorted(told) == [" ", "dog", "left image"]
    assert contents(job.out) == before


def test_another_configuration_keeps_the_first_ones_lines(make_pipe, manifest, tmp_path):
    job = job_of(manifest, tmp_path / "out")
    first, _ = work(job, make_pipe())
    other = replace(job, config=replace(CONFIG, method="relative"))
    second, told = work(other, make_pipe("relative"))
    assert len(told) == 6
    on_disk = [json.loads(line) for line in (job.out / "results.jsonl").read_text().splitlines()]
    assert on_disk == first + second
    assert len(json.loads((job.out / "run.json").read_text())["runs"]) == 2


def test_memory_that_runs_out_for_one_batch_is_tried_item_by_item(make_pipe, pictures, manifest, monkeypatch):
    pipe = make_pipe()
    forward = type(pipe.source.model).forward

    def small_batches_only(self, *args, **kwargs):
        if len(kwargs["input_ids"]) > 1:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return forward(self, *args, **kwargs)

    monkeypatch.setattr(type(pipe.source.model), "forward", small_batches_only)
    good = [item for item in items_from_manifest(manifest) if item.path.is_file() and item.expression.strip()]
    assert all(outcome.segments for outcome in run_batch(pipe, good[:2]))


def test_memory_that_runs_out_always_is_written_down(make_pipe, manifest, tmp_path, monkeypatch):
    pipe = make_pipe()

    def never(self, *args, **kwargs):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(type(pipe.source.model), "forward", never)
    outcomes = run_batch(pipe, items_from_manifest(manifest))
    assert [type(outcome) for outcome in outcomes] == [ModelError] * 3 + [ImageError, ModelError, ExpressionError]
    assert "out of memory while running" in str(outcomes[0])


def test_what_every_item_would_meet_ends_the_run(make_pipe, manifest, tmp_path, monkeypatch):
    pipe = make_pipe()

    def refuse(pairs):
        raise RecordingError("this model's attention cannot be recorded")

    monkeypatch.setattr(pipe, "_run", refuse)
    with pytest.raises(RecordingError):
        work(job_of(manifest, tmp_path / "out"), pipe)
    assert not (tmp_path / "out").exists()


def test_a_strict_job_writes_nothing_when_it_fails(make_pipe, manifest, tmp_path):
    items = items_from_manifest(manifest)[3:4]
    with pytest.raises(ImageError):
        work(job_of(manifest, tmp_path / "out", items=items, strict=True), make_pipe())
    assert not (tmp_path / "out").exists()


def test_lines_of_something_else_are_left_alone(tmp_path):
    (tmp_path / "results.jsonl").write_text('{"name": "another tool"}\n')
    with pytest.raises(OutputError, match=r"line 1 of .* is not a result of this command"):
        open_results(tmp_path)


def test_formats_are_words_or_lists():
    assert parse_formats(("npz", "png")) == ("png", "npz")
    assert parse_formats(("coco,png",)) == ("png", "coco")
    assert parse_formats(()) == ()
    with pytest.raises(UsageError, match=r"format 'a\.png' is not known"):
        parse_formats(("png", "a.png"))


@pytest.mark.slow
def test_kill_9_and_again_gives_the_same_file(tiny_model, tiny_segmenter, pictures, tmp_path):
    """A real process is killed in the middle; the same command then ends in the bytes of an undisturbed run."""
    lines = [
        {"image": str(pictures / f"{name}.png"), "expression": words}
        for name in "abc"
        for words in ("dog", "red", "the image", "on the red dog")
    ]
    manifest = tmp_path / "list.jsonl"
    manifest.write_text("".join(json.dumps(line) + "\n" for line in lines))
    from grounding.cli import main

    def arguments(out: str) -> list[str]:
        models = ["--model", str(tiny_model), "--segmenter", str(tiny_segmenter), "--method", "plain-mean"]
        return ["segment", "--manifest", str(manifest), *models, "--out", str(tmp_path / out), "--formats", "npz"]

    assert main(arguments("whole")) == 0
    code = f"from grounding.cli import main; main({arguments('killed')!r})"
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    results = tmp_path / "killed" / "results.jsonl"
    give_up = time.monotonic() + 300
    while process.poll() is None and time.monotonic() < give_up:
        if results.exists() and results.read_bytes().count(b"\n") >= 3:
            break
        time.sleep(0.002)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert 3 <= results.read_bytes().count(b"\n") < len(lines)
    assert main(arguments("killed")) == 0
    left = {name: data for name, data in contents(tmp_path / "killed").items() if not name.endswith(".tmp")}
    assert left == contents(tmp_path / "whole")
