"""No piece of work is taken for another: pictures, weights, manifest lines, processes and COCO's ids."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from grounding.cli import main
from grounding.io import decode_mask


def save_noise(file: Path, size: tuple[int, int], seed: int) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    Image.fromarray(pixels).save(file)
    return file


def write_manifest(file: Path, *lines: dict) -> Path:
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return file


def lines_of(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "results.jsonl").read_text().splitlines()]


@pytest.fixture
def segment(tiny_model, tiny_segmenter, tmp_path, capsys):
    """`grounding segment` with the tiny models into one folder: (exit code, stderr)."""

    def run(*words, model=tiny_model, segmenter=tiny_segmenter, out=tmp_path / "out", formats="coco"):
        models = ["--model", str(model), "--segmenter", str(segmenter), "--method", "plain-mean"]
        code = main(["segment", *map(str, words), *models, "--out", str(out), "--formats", formats])
        return code, capsys.readouterr().err

    return run


def test_pictures_of_one_name_in_two_folders_are_two_pieces_of_work(segment, tmp_path):
    for name, size in (("a", (60, 40)), ("b", (44, 70))):
        save_noise(tmp_path / name / "1.png", size, len(name))
        write_manifest(tmp_path / name / "list.jsonl", {"image": "1.png", "expression": "the red dog"})
    segment("--manifest", tmp_path / "a" / "list.jsonl")
    code, said = segment("--manifest", tmp_path / "b" / "list.jsonl")
    assert code == 0
    assert "already" not in said
    assert [line["image_size"] for line in lines_of(tmp_path / "out")] == [[60, 40], [44, 70]]


@pytest.mark.parametrize("by_manifest", [True, False])
def test_a_picture_replaced_in_place_is_done_again_and_its_old_line_is_gone(segment, tmp_path, by_manifest):
    picture = save_noise(tmp_path / "1.png", (60, 40), 1)
    manifest = write_manifest(tmp_path / "list.jsonl", {"image": "1.png", "expression": "dog"})
    words = ("--manifest", manifest) if by_manifest else (picture, "dog")
    segment(*words)
    save_noise(picture, (60, 40), 2)  # same name and size, other pixels
    _, said = segment(*words, out=tmp_path / "out")
    assert "already" not in said
    (line,) = lines_of(tmp_path / "out")
    segment(*words, out=tmp_path / "fresh")
    assert [line] == lines_of(tmp_path / "fresh")


def test_a_weight_changed_in_the_middle_is_another_model_and_another_segmenter(
    segment, pictures, tmp_path, tiny_model, tiny_segmenter
):
    """Both folders keep their names, sizes and the two ends of every file."""
    manifest = write_manifest(tmp_path / "list.jsonl", {"image": str(pictures / "a.png"), "expression": "dog"})
    segment("--manifest", manifest)
    for kind, folder in (("model", tiny_model), ("segmenter", tiny_segmenter)):
        changed = tmp_path / kind / folder.name
        shutil.copytree(folder, changed)
        weights = changed / "model.safetensors"
        content = bytearray(weights.read_bytes())
        content[len(content) // 2] ^= 1
        weights.write_bytes(bytes(content))
        code, said = segment("--manifest", manifest, **{kind: changed})
        assert code == 0
        assert "1 done" in said
        assert "already" not in said


def test_every_line_of_a_manifest_has_a_result_with_its_present_fields(segment, pictures, tmp_path):
    image, manifest = str(pictures / "a.png"), tmp_path / "list.jsonl"

    def say(*refs: int | None) -> list[int | None]:
        lines = [{"image": image, "expression": "the red dog"} | ({"ref_id": ref} if ref else {}) for ref in refs]
        segment("--manifest", write_manifest(manifest, *lines))
        return [line.get("manifest", {}).get("ref_id") for line in lines_of(tmp_path / "out")]

    assert say(11, 12) == [11, 12]
    before = lines_of(tmp_path / "out")
    assert before[0]["segments"] == before[1]["segments"]
    assert len({line["key"] for line in before}) == 2
    assert say(999, 12) == [999, 12]
    assert say(12, 999, 999) == [12, 999, 999]
    assert say(12) == [12]
    assert say(None) == [None]


def test_a_changed_field_does_not_compute_the_mask_again(segment, pictures, tmp_path, monkeypatch):
    image, manifest = str(pictures / "a.png"), tmp_path / "list.jsonl"
    segment("--manifest", write_manifest(manifest, {"image": image, "expression": "dog", "ref_id": 1}))
    (before,) = lines_of(tmp_path / "out")

    def fail(self):
        raise AssertionError("the model was loaded")

    monkeypatch.setattr("pipelines.options.ModelOptions.load", fail)
    segment("--manifest", write_manifest(manifest, {"image": image, "expression": "dog", "ref_id": 2}))
    (after,) = lines_of(tmp_path / "out")
    assert after["manifest"] == {"ref_id": 2}
    assert after["segments"] == before["segments"]


def test_equal_words_of_two_manifests_keep_the_lines_of_both(segment, pictures, tmp_path):
    for number in (11, 12):
        line = {"image": str(pictures / "a.png"), "expression": "dog", "ref_id": number}
        segment("--manifest", write_manifest(tmp_path / f"{number}.jsonl", line))
    assert [line["manifest"]["ref_id"] for line in lines_of(tmp_path / "out")] == [11, 12]


@pytest.mark.slow
def test_two_processes_at_once_lose_no_line(segment, tiny_model, tiny_segmenter, pictures, tmp_path):
    """The second process is refused while the first works, and goes on from where it is when that was killed."""
    words = [f"dog {word}" for word in ("one", "two", "three", "four", "five", "six")]
    first, second = (
        write_manifest(
            tmp_path / f"{name}.jsonl", *({"image": str(pictures / "a.png"), "expression": one} for one in part)
        )
        for name, part in (("first", words[:3]), ("second", words[3:]))
    )
    script = f"""
import sys, time
from grounding.cli import main
from pipelines import batch
plain = batch.run_batch
def slow(pipe, items):
    found = plain(pipe, items)
    print("ready", flush=True)
    time.sleep(600)
    return found
batch.run_batch = slow
main(["segment", "--manifest", {str(first)!r}, "--model", {str(tiny_model)!r}, "--segmenter", {str(tiny_segmenter)!r},
    "--method", "plain-mean", "--out", {str(tmp_path / "out")!r}, "--formats", "coco"])
"""
    process = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        code, said = segment("--manifest", second)
        assert code == 2
        assert "is being written to by another process" in said
        assert "Traceback" not in said
    finally:
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        process.stdout.close()
    for manifest in (first, second):
        assert segment("--manifest", manifest)[0] == 0
    assert [line["expression"] for line in lines_of(tmp_path / "out")] == words
    assert not list((tmp_path / "out").glob("*.lock"))


def test_an_out_that_cannot_be_written_is_refused_before_the_model_is_loaded(segment, pictures, tmp_path, monkeypatch):
    def fail(self):
        raise AssertionError("the model was loaded")

    monkeypatch.setattr("pipelines.options.ModelOptions.load", fail)
    (tmp_path / "lines" / "results.jsonl").mkdir(parents=True)
    # Neither can be found out by asking for permissions, least of all as root.
    for out in (Path("/proc/out"), tmp_path / ("long" * 100), tmp_path / "lines"):
        code, said = segment(pictures / "a.png", "dog", out=out)
        assert code == 2
        assert "cannot be written" in said


def test_a_loop_over_pictures_gathers_all_masks_for_coco(segment, pictures, tmp_path):
    for name in "abc":
        segment(pictures / f"{name}.png", "dog")
    found = COCO(str(tmp_path / "out" / "coco_images.json"))
    results = found.loadRes(str(tmp_path / "out" / "coco_results.json"))
    named = {image["file_name"]: image["id"] for image in found.dataset["images"]}
    assert list(named) == [str(pictures / f"{name}.png") for name in "abc"]
    assert [entry["image_id"] for entry in results.dataset["annotations"]] == list(named.values())
    assert all(isinstance(number, int) for number in named.values())
    before = (tmp_path / "out" / "coco_results.json").read_bytes()
    segment(pictures / "b.png", "dog")  # the ids stay
    again = json.loads((tmp_path / "out" / "coco_results.json").read_text())
    assert sorted(map(str, json.loads(before))) == sorted(map(str, again))


@pytest.mark.parametrize("given", [True, False])
def test_results_are_scored_by_pycocotools_against_the_users_ground_truth(segment, tmp_path, given):
    """By the manifest's ids, or by those in COCO's file names; the ground truth is one of the masks themselves."""
    names = ["COCO_val2014_000000000139.jpg", "000000000285.jpg"]
    images = [
        {"id": number, "file_name": name, "width": 60, "height": 44}
        for number, name in zip((139, 285), names, strict=True)
    ]
    lines = []
    for image in images:
        file = f"pic{image['id']}.jpg" if given else image["file_name"]
        save_noise(tmp_path / file, (60, 44), image["id"])
        lines.append(
            {"image": file, "expression": "dog", "category_id": 18} | ({"image_id": image["id"]} if given else {})
        )
    segment("--manifest", write_manifest(tmp_path / "list.jsonl", *lines))
    masks = [line["segments"][0] for line in lines_of(tmp_path / "out")]
    truth = {
        "info": {},
        "images": images,
        "categories": [{"id": 18, "name": "dog"}],
        "annotations": [
            {
                "id": number,
                "image_id": image["id"],
                "category_id": 18,
                "iscrowd": 0,
                "segmentation": mask["segmentation"],
                "bbox": mask["bbox"],
                "area": mask["area"],
            }
            for number, (image, mask) in enumerate(zip(images, masks, strict=True), 1)
        ],
    }
    (tmp_path / "truth.json").write_text(json.dumps(truth))
    ground_truth = COCO(str(tmp_path / "truth.json"))
    results = ground_truth.loadRes(str(tmp_path / "out" / "coco_results.json"))
    for entry, mask in zip(results.dataset["annotations"], masks, strict=True):
        assert entry["area"] == mask["area"] == decode_mask(mask["segmentation"]).sum()
    scores = COCOeval(ground_truth, results, "segm")
    scores.evaluate()
    scores.accumulate()
    assert scores.eval["precision"].max() == 1.0


@pytest.mark.parametrize(
    ("given", "expected"),
    [(7, 7), ("000000000139", 139), ("COCO_val2014_000000000139.jpg", 139), (4.0, 4), ("scene-b", "scene-b")],
)
def test_image_ids_of_a_manifest(segment, pictures, tmp_path, given, expected):
    line = {"image": str(pictures / "a.png"), "expression": "dog", "image_id": given}
    segment("--manifest", write_manifest(tmp_path / "list.jsonl", line))
    (entry,) = json.loads((tmp_path / "out" / "coco_results.json").read_text())
    assert entry["image_id"] == expected
    assert type(entry["image_id"]) is type(expected)
