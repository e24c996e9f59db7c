from __future__ import annotations

import json
from pathlib import Path

import pytest

from grounding.errors import ManifestError, MethodError, UsageError
from grounding.scenes.drawing import draw_scene
from pipelines.commands.discover import DiscoverCommand

pytestmark = pytest.mark.usefixtures("loaded_once")


@pytest.fixture(scope="module")
def scenes(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("scenes")
    for number, seed in enumerate((7_600_000, 7_600_001)):
        draw_scene(seed).image.save(folder / f"{number}.png")
    (folder / "list.jsonl").write_text(
        "".join(json.dumps({"image": f"{name}.png", "image_id": name}) + "\n" for name in ("0", "missing", "1"))
    )
    return folder


@pytest.fixture
def discover(tiny_segmenter, tmp_path, capsys):
    def run(*images, out=None, **options):
        command = DiscoverCommand(
            images=tuple(map(str, images)),
            model="starter",
            segmenter=str(tiny_segmenter),
            device="cpu",
            out=out or tmp_path / "out",
            **options,
        )
        return command.run(), *capsys.readouterr()

    return run


def lines(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "results.jsonl").read_text().splitlines()]


def contents(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in sorted(folder.iterdir())}


def test_one_image_becomes_one_line_with_its_instances(discover, scenes, tmp_path):
    code, out, err = discover(scenes / "0.png", formats=("png", "coco", "explain"))
    assert code == 0
    assert "1 done in" in err
    assert "model runs" in out
    (line,) = lines(tmp_path / "out")
    assert "expression" not in line
    assert line["answers"][0]["question"] == "describe the image ."
    assert set(line["runs"]) == {"model", "answers", "maps", "encoder", "prompts"}
    one = line["segments"][0]
    assert set(one) >= {"name", "words", "score", "segmentation", "bbox", "points", "view", "round"}
    assert all((tmp_path / "out" / name).is_file() for name in line["files"])
    entries = json.loads((tmp_path / "out" / "coco_results.json").read_text())
    described = json.loads((tmp_path / "out" / "coco_images.json").read_text())
    names = {row["id"]: row["name"] for row in described["categories"]}
    assert [names[entry["category_id"]] for entry in entries] == [one["name"] for one in line["segments"]]
    assert [entry["score"] for entry in entries] == [one["score"] for one in line["segments"]]


def test_a_manifest_records_what_fails_and_resumes_to_the_same_bytes(discover, scenes, tmp_path):
    options = {"manifest": scenes / "list.jsonl", "formats": ("coco", "npz")}
    code, _, err = discover(**options)
    assert code == 1
    assert "failed: missing.png" in err
    first = contents(tmp_path / "out")
    assert [line["error"] is None for line in lines(tmp_path / "out")] == [True, False, True]
    code, _, err = discover(**options)
    assert (code, "2 were there already" in err) == (1, True)
    assert contents(tmp_path / "out") == first
    kept = (tmp_path / "out" / "results.jsonl").read_text().splitlines(keepends=True)
    (tmp_path / "out" / "results.jsonl").write_text(kept[0])
    assert discover(**options)[0] == 1
    assert contents(tmp_path / "out") == first
    entries = json.loads(first["coco_results.json"])
    assert {entry["image_id"] for entry in entries} == {0, 1}


def test_another_setting_is_another_piece_of_work(discover, scenes, tmp_path):
    discover(scenes / "0.png", formats=("coco",))
    discover(scenes / "0.png", formats=("coco",), rounds=1)
    assert len({line["config"] for line in lines(tmp_path / "out")}) == 2
    runs = json.loads((tmp_path / "out" / "run.json").read_text())["runs"]
    assert sorted(run["config"]["settings"]["peeling"]["rounds"] for run in runs.values()) == [1, 4]


def test_a_vocabulary_names_the_categories(discover, scenes, tmp_path):
    list_of = tmp_path / "list.json"
    list_of.write_text(json.dumps({"categories": [{"id": 40, "name": "figure", "synonyms": ["star", "heart"]}]}))
    code, out, _ = discover(scenes / "0.png", vocabulary=list_of, json=True)
    assert code == 0
    record = json.loads(out)
    assert {(one["name"], one["category_id"]) for one in record["segments"]} <= {
        ("figure", 40), ("circle", None), ("square", None), ("triangle", None), ("cross", None),
    }  # fmt: skip
    entries = json.loads((tmp_path / "out" / "coco_results.json").read_text())
    assert {entry["category_id"] for entry in entries} <= {40}


def test_a_vocabulary_with_doubles_is_refused_before_anything_is_written(discover, scenes, tmp_path):
    list_of = tmp_path / "list.txt"
    list_of.write_text("star\nheart\nStars\n")
    with pytest.raises(UsageError, match="has the name 'star' twice"):
        discover(scenes / "0.png", vocabulary=list_of)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("options", "error", "said"),
    [
        ({"answers": 2}, MethodError, "without sampling"),
        ({"overlap": 3.0}, MethodError, "expected"),
        ({"question": "what is the colour of the moon ?"}, Exception, "outside the vocabulary"),
        ({"embedder": "x"}, UsageError, "without --vocabulary"),
        ({"top_categories": 0}, UsageError, "--top-categories"),
        ({"formats": ("gif",)}, UsageError, "format 'gif'"),
    ],
)
def test_wrong_options_are_refused_in_one_sentence(discover, scenes, tmp_path, monkeypatch, options, error, said):
    monkeypatch.setattr("pipelines.commands.discover.embedder_identity", lambda name: name)
    with pytest.raises(error, match=said):
        discover(scenes / "0.png", **options)
    assert not (tmp_path / "out" / "results.jsonl").exists()


def test_images_or_a_manifest_but_not_both_and_not_none(discover, scenes, tmp_path):
    with pytest.raises(UsageError, match="no image was given"):
        discover()
    with pytest.raises(UsageError, match="both --manifest and"):
        discover(scenes / "0.png", manifest=scenes / "list.jsonl")
    bad = tmp_path / "bad.jsonl"
    bad.write_text('{"picture": "0.png"}\n')
    with pytest.raises(ManifestError, match="has image = None"):
        discover(manifest=bad)
