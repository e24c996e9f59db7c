"""Every command that takes a model, on every packaged model, with its defaults: no option but those it requires.

The data are small and made here, in the models' own words; nothing is told to a command about how a model is asked.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import entry_points
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from evals.tasks.registry import TASKS
from grounding.cli import main
from grounding.command import ENTRY_POINTS
from grounding.model_files import PIPELINE, STARTERS, starter_folder
from grounding.scenes.drawing import draw_scene

VLMS = [name for name in STARTERS if (starter_folder(name) / "config.json").is_file()]
PIPELINES = [name for name in STARTERS if (starter_folder(name) / PIPELINE).is_file()]
SCENES = "cannot be asked about drawn scenes, because its vocabulary lacks triangle"
PHOTOS = "is outside the vocabulary of starter, which knows 63 words"
TAKE_PIPELINES = ("calibrate confidence", "eval candidates", "eval scenes", "segment")
REFUSED = {
    # The made photos are noise, where no mask is right.
    ("calibrate confidence", "starter-photo"): "a confidence needs right and wrong ones",
    # Whose subject the model has no words for: one sentence, before anything is written.
    ("eval scenes", "starter-photo"): SCENES,
    ("eval run discover", "starter-photo"): SCENES,
    ("eval run scenes-hallucination", "starter-photo"): SCENES,
    ("lab", "starter-photo"): SCENES,
    ("eval photos", "starter"): PHOTOS,
}


@dataclass(frozen=True)
class Data:
    """Small data in a model's words.

    Attributes:
        folder: with `pictures`, and the files of every data set.
        model: the model's name.
        thing: what the first picture shows.
        other: what it does not show.
        answer: a true description of it.
    """

    folder: Path
    model: str
    thing: str
    other: str
    answer: str

    def write(self, name: str, content: object) -> Path:
        """Write JSON, or text as it is."""
        file = self.folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(content if isinstance(content, str) else json.dumps(content))
        return file

    def path(self, *parts: str) -> str:
        return str(self.folder.joinpath(*parts))


def made(folder: Path, model: str) -> Data:
    """Write the data sets that commands read."""
    if model == "starter":
        pictures = [draw_scene(seed).image for seed in (7_300_000, 7_300_001)]
        data = Data(folder, model, "star", "circle", "a red star .")
    else:
        pixels = np.random.default_rng(0).integers(0, 256, (2, 6, 8, 3), dtype=np.uint8)
        pictures = [Image.fromarray(one).resize((160, 120)) for one in pixels]
        data = Data(folder, model, "dog", "car", "a brown dog on the grass .")
    (folder / "pictures").mkdir(parents=True)
    for number, picture in enumerate(pictures, 1):
        picture.save(folder / "pictures" / f"COCO_val2014_{number:012d}.jpg")
    image = "COCO_val2014_000000000001.jpg"
    asked = f"Is there a {data.thing} in the image?"
    data.write("words.txt", f"{data.thing}, {data.thing}s\n{data.other}, {data.other}s\n")
    data.write("classes.txt", "dog\ncar\nperson, man, people\nbench\n")
    data.write("truth.json", {"1": [data.thing], "2": [data.other]})
    data.write("coco_pope_random.json", {"question_id": 1, "image": image, "text": asked, "label": "yes"})
    data.write("samples.jsonl", {"image": f"pictures/{image}", "answer": data.answer})
    looked = {"expression": f"the {data.thing}", "other": f"the {data.other}"}
    data.write("expressions.jsonl", {"image": f"pictures/{image}"} | looked)
    data.write("amber/annotations.json", [{"id": 1, "type": "generative", "truth": [data.thing], "hallu": []}])
    data.write("amber/query_all.json", [{"id": 1, "image": image, "query": "Describe this image."}])
    data.write("amber/relation.json", {data.thing: [], data.other: []})
    data.write("amber/safe_words.txt", "image\n")
    row = {"category": "VD", "subcategory": "figure", "set_id": "0", "figure_id": "1", "question_id": "0"}
    row |= {"visual_input": "1", "gt_answer": "1", "filename": f"pictures/{image}", "question": asked}
    data.write("HallusionBench.json", [row])
    row = {"question_type": "attribute", "image_content": [data.thing], "gt_answer": "yes", "question": asked}
    data.write("pictures/response_template.json", [row | {"image_src": f"https://example.org/{image}"}])
    return data


def plan(data: Data) -> str:
    """A lab's plan of one setting."""
    text = "validation_scenes: 2\nvalidation_seed: 1\ntest_scenes: 2\ntest_seed: 4\nbudget: 1\nrecall_loss: 1.0\n"
    text += (
        f"model: {data.model}\nlength_change: 5.0\ncuts: [10]\ncontenders: [{{name: PAI, steering: pai, grid: {{}}}}]\n"
    )
    return str(data.write("plan.yaml", text))


def photo_set(data: Data) -> str:
    from tiny_photos import write_photos

    folder = data.folder / "photo-set"
    return str(folder if folder.exists() else write_photos(folder))


def chair(data: Data) -> tuple[str, ...]:
    return ("--ground-truth", data.path("truth.json"), "--synonyms", data.path("words.txt"), *on_pictures(data))


def things(data: Data) -> tuple[str, ...]:
    return ("--scenes", "2") if data.thing == "star" else ("--data", photo_set(data), "--no-absent")


def on_pictures(data: Data) -> tuple[str, ...]:
    return ("--data", data.path("pictures"))


def pope(data: Data) -> tuple[str, ...]:
    return ("--questions", data.path("coco_pope_random.json"), *on_pictures(data))


def amber(data: Data) -> tuple[str, ...]:
    return ("--data", data.path("amber"), "--images", data.path("pictures"))


def hallusion(data: Data) -> tuple[str, ...]:
    return ("--data", data.path("HallusionBench.json"))


def mmhal(data: Data) -> tuple[str, ...]:
    return ("--data", data.path("pictures", "response_template.json"))


def picture(data: Data) -> str:
    return data.path("pictures", "COCO_val2014_000000000001.jpg")


OPTIONS: dict[str, Callable[[Data], tuple[str, ...]]] = {
    "calibrate confidence": lambda data: (*things(data), "--out", data.path("method.yaml")),
    "calibrate gains": lambda data: ("--manifest", data.path("samples.jsonl"), "--out", data.path("gains.yaml")),
    "calibrate heads": lambda data: ("--data", data.path("expressions.jsonl"), "--out", data.path("found.yaml")),
    "calibrate sensitivity": lambda data: ("--manifest", data.path("samples.jsonl"), "--out", data.path("heads.yaml")),
    "describe": lambda data: (picture(data),),
    "discover": lambda data: (picture(data),),
    "doctor": lambda data: (),
    "eval amber": amber,
    "eval candidates": lambda data: (*things(data), "--part", "all"),
    "eval chair": chair,
    "eval diagnose": lambda data: (picture(data),),
    "eval hallusion": hallusion,
    "eval mmhal": mmhal,
    "eval photos": lambda data: ("--data", photo_set(data), "--synonyms", data.path("classes.txt")),
    "eval pope": pope,
    "eval run amber": amber,
    "eval run chair": chair,
    "eval run discover": lambda data: ("--scenes", "1"),
    "eval run hallusion": hallusion,
    "eval run mmhal": mmhal,
    "eval run pope": pope,
    "eval run scenes-hallucination": lambda data: ("--scenes", "2"),
    "eval scenes": lambda data: ("--limit", "1"),
    "lab": lambda data: ("--plan", plan(data)),
    "look": lambda data: (picture(data),),
    "segment": lambda data: (picture(data), f"the {data.thing}"),
}
SMALL = {
    # Numbers that are for hours of work, made small; how a model is asked stays as it is.
    "calibrate gains": ("--passes", "1"),
    "eval candidates": ("--limit", "1"),
    "doctor": ("--no-weights",),
    "eval photos": ("--limit", "1"),
}


@pytest.fixture(scope="module", params=VLMS)
def data(request, tmp_path_factory) -> Data:
    return made(tmp_path_factory.mktemp(request.param), request.param)


pytestmark = pytest.mark.usefixtures("loaded_once")


def test_both_small_models_are_here() -> None:
    assert {"starter", "starter-photo"} <= set(VLMS)


def test_no_command_with_a_model_is_left_out() -> None:
    with_model = {
        entry.name.replace(".", " ")
        for entry in entry_points(group=ENTRY_POINTS)
        if "model" in {field.name for field in dataclasses.fields(entry.load().load())}
    }
    tasks = {f"eval run {name}" for name in TASKS}
    assert set(OPTIONS) == with_model - {"eval run"} | tasks


def words_of(command: str, data: Data, out: Path) -> list[str]:
    words = [*command.split(), *OPTIONS[command](data), *SMALL.get(command, ()), "--model", data.model]
    return (
        words if "--out" in words or command in ("doctor", "eval scenes", "describe") else [*words, "--out", str(out)]
    )


@pytest.mark.parametrize("command", OPTIONS)
def test_a_command_runs_with_a_packaged_model(command, data, tmp_path, capsys) -> None:
    if command == "eval run discover":
        pytest.importorskip("faster_coco_eval", reason="the extra `eval` is not installed")
    code = main(words_of(command, data, tmp_path / "out"))
    out, err = capsys.readouterr()
    refusal = REFUSED.get((command, data.model))
    if refusal is None:
        assert (code, "failed" in err, "left out" in err) == (0, False, False), err
        assert out
    else:
        assert (code, out) == (2, "")
        assert refusal in err.splitlines()[-1]
        assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("model", PIPELINES)
@pytest.mark.parametrize("command", [name for name in OPTIONS if name not in TAKE_PIPELINES])
def test_a_packaged_pipeline_is_refused_where_a_model_is_to_answer(command, model, tmp_path, capsys) -> None:
    if command == "eval run discover":
        pytest.importorskip("faster_coco_eval", reason="the extra `eval` is not installed")
    data = dataclasses.replace(made(tmp_path / "data", "starter"), model=model)
    assert main(words_of(command, data, tmp_path / "out")) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert "is a diffusion pipeline" in err.splitlines()[-1]


@pytest.mark.slow
@pytest.mark.parametrize("model", PIPELINES)
@pytest.mark.parametrize("command", TAKE_PIPELINES)
def test_a_packaged_pipeline_runs_where_maps_are_enough(command, model, tmp_path, capsys) -> None:
    pytest.importorskip("diffusers", reason="the extra `diffusion` is not installed")
    data = dataclasses.replace(made(tmp_path / "data", "starter"), model=model)
    code = main(words_of(command, data, tmp_path / "out"))
    out, err = capsys.readouterr()
    assert (code, "failed" in err) == (0, False), err
    assert out


@pytest.mark.parametrize("protocol", ["official", "llava", "vcd", "vaf"])
def test_a_protocols_suffix_gives_way_to_the_models_own_words(protocol, data, tmp_path, capsys) -> None:
    words = ["eval", "run", "pope", *pope(data), "--model", data.model, "--out", str(tmp_path)]
    assert main([*words, "--protocol", protocol]) == 0
    err = capsys.readouterr().err
    assert (f"note: {data.model} is asked in words of its own, as with --prompt ''" in err) is (protocol != "official")
    (line,) = (tmp_path / "samples.jsonl").read_text().splitlines()
    assert json.loads(line)["question"] == f"Is there a {data.thing} in the image?"
    assert main([*words, "--protocol", protocol]) == 0  # resumes: the same words, the same run
    assert main(["eval", "join", str(tmp_path)]) == 0


def test_a_run_that_failed_on_everything_leaves_its_folder_to_the_corrected_command(data, tmp_path, capsys) -> None:
    words = ["eval", "run", "chair", *chair(data), "--model", data.model, "--out", str(tmp_path)]
    assert main([*words, "--prompt", "Please describe this image in detail."]) == 2
    assert "none of the 2 samples was answered; the first: the word 'Please'" in capsys.readouterr().err
    assert main(words) == 0
    assert "note: " in capsys.readouterr().err
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    assert manifest["prompts"]["first"] == "describe the image ."
    assert [json.loads(line)["error"] for line in (tmp_path / "samples.jsonl").read_text().splitlines()] == [None, None]
    # A run with answers is not given away.
    assert main([*words, "--prompt", "what is in the image ?"]) == 2
    assert "holds a run of another configuration" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["calibrate gains", "calibrate heads", "calibrate sensitivity"])
def test_a_calibration_on_scenes_needs_their_words(command, data, tmp_path, capsys) -> None:
    words = [*command.split(), "--scenes", "2", *SMALL.get(command, ()), "--out", str(tmp_path / "out.yaml")]
    code = main([*words, "--model", data.model])
    assert (code, SCENES in capsys.readouterr().err) == ((0, False) if data.model == "starter" else (2, True))
    assert (tmp_path / "out.yaml").exists() is (code == 0)
