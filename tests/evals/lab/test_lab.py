import json
import re
import shutil
from dataclasses import replace

import pytest

from evals.commands.lab import LabCommand
from evals.lab.compare import Figures, Trial, best_trial
from evals.lab.plan import LabCandidate, load_plan, with_value
from evals.lab.report import truncated_at
from grounding.errors import EvalDataError, MethodError
from grounding.steering.head_gains import HeadGains
from grounding.steering.method import Steering, load_steering, parse_steering

PLAN = """
model: starter
validation_scenes: 3
validation_seed: 1
test_scenes: 4
test_seed: 2
budget: 2
recall_loss: 1.0
length_change: 5.0
cuts: [4, 10]
contenders:
  - name: guidance
    steering: pai-guidance
    grid:
      text-guidance.gamma: [1.1, 1.5]
"""


@pytest.fixture
def plan(tmp_path):
    file = tmp_path / "plan.yaml"
    file.write_text(PLAN)
    return file


def tried(name, chair_i, f1, *, allowed):
    return Trial(name, Figures(chair_i, 0.9, 20.0, f1), allowed)


@pytest.mark.slow
def test_a_lab_from_end_to_end_and_once_more_from_its_folders(plan, tmp_path, capsys):
    out = tmp_path / "lab"
    assert LabCommand(plan=plan, out=out, json=True).run() == 0
    printed = capsys.readouterr()
    first = json.loads(printed.out)
    asked = sum(file.read_bytes().count(b"\n") for file in out.rglob("samples.jsonl"))
    assert re.search(rf"lab .* {asked}/{asked} [\d.]+ per s, 0:00:00 left", printed.err)
    assert list(first["entries"]) == ["unsteered", "guidance", "truncation"]
    assert len(first["entries"]["guidance"]["tried"]) == 2
    assert first["entries"]["unsteered"]["recall"] > first["entries"]["truncation"]["recall"] - 1e-9
    assert {"chair_i", "recall", "length", "pope_adversarial"} <= set(first["entries"]["guidance"]["difference"])
    assert (out / "lab.png").read_bytes().startswith(b"\x89PNG")
    answers = {file: file.stat().st_mtime_ns for file in out.rglob("samples.jsonl")}
    assert len(answers) == 5  # two unsteered, two candidates, one test
    assert LabCommand(plan=plan, out=out, json=True).run() == 0
    again = json.loads(capsys.readouterr().out)
    assert again["entries"] == first["entries"]
    assert {file: file.stat().st_mtime_ns for file in answers} == answers


def test_a_lab_whose_model_is_not_made_says_how(tmp_path, monkeypatch, capsys):
    from importlib.util import find_spec

    from grounding.cli import main

    monkeypatch.chdir(tmp_path)
    made_by = load_plan().made_by
    assert main(["lab"]) == 2
    assert f"the lab's model runs/habits/model is not there: make it first, in some minutes, with '{made_by}'" in (
        capsys.readouterr().err
    )
    assert list(tmp_path.iterdir()) == []
    assert main(["lab", "--help"]) == 0
    assert made_by in " ".join(capsys.readouterr().out.split())
    python, flag, module, option, folder = made_by.split()
    assert (python, flag, option) == ("python", "-m", "--out")
    assert find_spec(module) is not None
    assert load_plan().model == f"{folder}/model"


def test_the_shipped_plan_is_within_its_own_budget_and_names_shipped_methods():
    plan = load_plan()
    fitted = Steering("fitted", "", "", (HeadGains(image=((2.0,),)),))
    for contender in plan.contenders:
        assert 1 <= len(contender.settings(fitted if contender.fit else None)) <= plan.budget


@pytest.mark.slow
def test_fitted_gains_are_contenders_and_fitted_once(plan, tmp_path, capsys):
    plan.write_text(
        PLAN.partition("  - name: guidance")[0].replace("budget: 2", "budget: 2\ncalibration_scenes: 3")
        + "  - name: head-wise\n    fit: {passes: 2, batch: 2}\n    grid: {head-gains.strength: [0.5, 1.0]}\n"
    )
    assert LabCommand(plan=plan, out=tmp_path / "lab", json=True).run() == 0
    entry = json.loads(capsys.readouterr().out)["entries"]["head-wise"]
    (file,) = (tmp_path / "lab" / "fits").iterdir()
    written = load_steering(file).steps[0]
    chosen = parse_steering(entry["steering"], "chosen", "lab.json").steps[0]
    assert chosen == replace(written, strength=chosen.strength)
    assert chosen.strength in (0.5, 1.0)
    assert any(gain != 1 for row in written.image for gain in row)
    made = file.stat().st_mtime_ns
    assert LabCommand(plan=plan, out=tmp_path / "lab", json=True).run() == 0
    assert file.stat().st_mtime_ns == made


def test_gains_of_other_weights_of_the_same_name_are_not_those_of_a_model(plan, tmp_path):
    from grounding.model_files import starter_folder
    from grounding.steering.fit_settings import FitSettings

    folder = tmp_path / "starter"
    shutil.copytree(starter_folder(), folder)
    candidate = LabCandidate("head-wise", {}, fit=FitSettings(passes=1))

    def stored(lab):
        return LabCommand(out=tmp_path / "lab").fit_file(lab, candidate)

    lab = replace(load_plan(plan), model=str(folder))
    before = stored(lab)
    weights = folder / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[len(content) // 2] ^= 1
    weights.write_bytes(bytes(content))
    assert stored(lab) != before


@pytest.mark.parametrize("line", ["", "    steering: pai\n    fit: {}\n"])
def test_a_contender_is_a_method_or_a_fit(plan, line):
    plan.write_text(PLAN + f"  - name: odd\n{line}    grid: {{}}\n")
    with pytest.raises(EvalDataError, match="odd: give a steering method or a fit"):
        load_plan(plan)


def test_chosen_is_the_lowest_chair_among_the_allowed():
    found = [
        tried("a", 0.01, 0.9, allowed=False),
        tried("b", 0.05, 0.8, allowed=True),
        tried("c", 0.04, 0.7, allowed=True),
    ]
    assert best_trial(found).name == "c"
    assert best_trial([*found[:1], tried("d", 0.2, 0.95, allowed=False)]).name == "d"


def test_a_grid_over_the_budget_is_refused(plan):
    plan.write_text(PLAN.replace("[1.1, 1.5]", "[1.1, 1.3, 1.5]"))
    with pytest.raises(EvalDataError, match="3 candidates"):
        load_plan(plan)


def test_tuning_on_the_test_scenes_is_refused(plan):
    plan.write_text(PLAN.replace("test_seed: 2", "test_seed: 1"))
    with pytest.raises(EvalDataError, match="share the seed"):
        load_plan(plan)


def test_candidates_differ_in_the_grid_alone():
    one, other = LabCandidate("g", {"text-guidance.gamma": (1.1, 2.0)}, "pai-guidance").settings()
    assert one.steps[0].gamma == 1.1
    assert with_value(one, "text-guidance.gamma", 2.0).steps == other.steps


def test_an_unknown_step_or_field_is_refused():
    steering = load_steering("pai-guidance")
    with pytest.raises(MethodError, match="no step 'nothing'"):
        with_value(steering, "nothing.gamma", 1.0)
    with pytest.raises(MethodError, match="gama"):
        with_value(steering, "text-guidance.gama", 1.0)


def test_truncation_is_compared_at_no_less_recall():
    data = {"truncation_curve": [{"recall": 40.0, "chair_i": 1.0}, {"recall": 60.0, "chair_i": 5.0}]}
    assert truncated_at(data, 45.0) == 5.0
    assert truncated_at(data, 40.0) == 1.0
    assert truncated_at(data, 80.0) == 5.0
