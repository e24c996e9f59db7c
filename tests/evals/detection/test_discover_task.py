from __future__ import annotations

import json

import pytest
from extras import needs_extra

from evals.commands.run import EvalRunCommand
from evals.runs import RunFolder, rebuild_task
from evals.tasks.discover import DiscoverTask
from grounding.errors import OutputError, UsageError
from grounding.scenes.files import write_scenes

pytestmark = pytest.mark.usefixtures("loaded_once")
needs_evaluator = needs_extra("faster_coco_eval", "eval")


@pytest.fixture
def run(tiny_segmenter, tmp_path, capsys):
    """The task with the starter and the tiny SAM on two scenes: (exit code, stdout)."""

    def call(out="run", **options):
        task = DiscoverTask(segmenter=str(tiny_segmenter), rounds=1, **{"scenes": 2, "seed": 31} | options)
        code = EvalRunCommand(task=task, model="starter", device="cpu", out=tmp_path / out, json=True).run()
        return code, capsys.readouterr().out

    return call


@needs_evaluator
def test_scenes_are_scored_and_scored_again_from_the_folder(run, tmp_path):
    code, out = run()
    assert code == 0
    scores = json.loads(out)
    assert scores == json.loads((tmp_path / "run" / "scores.json").read_text())
    assert {"AP", "AP50", "fixed_AP", "AR_100", "AR_small", "mAR"} <= set(scores["bbox"]) == set(scores["segm"])
    assert scores["runs_per_image"]["model"] == 2.0
    assert scores["tokens"] > 2
    manifest = json.loads((tmp_path / "run" / "manifest.json").read_text())
    assert manifest["config"]["pipeline"]["settings"]["peeling"]["rounds"] == 1
    assert rebuild_task(manifest, "here") == DiscoverTask(**manifest["task"]["options"])
    assert json.loads(run()[1]) == scores
    assert len(RunFolder(tmp_path / "run").answers()) == 2


@needs_evaluator
def test_another_setting_does_not_go_on_with_a_run(run):
    run()
    with pytest.raises(OutputError, match="differs in pipeline"):
        run(multi_scale=True)


@needs_evaluator
def test_written_annotations_give_the_scores_of_the_scenes_that_they_are_of(run, tmp_path):
    write_scenes(tmp_path / "data", 31, 1)
    scenes, written = json.loads(run("a", scenes=1)[1]), json.loads(run("b", data=str(tmp_path / "data"))[1])
    for kind in ("bbox", "segm"):
        assert written[kind] == scenes[kind]
    assert written["data"] == str(tmp_path / "data")


@needs_evaluator
def test_ensembles_take_more_runs_and_are_counted(run):
    scores = json.loads(run(multi_scale=True, scenes=1)[1])
    assert scores["runs_per_image"]["model"] > 5
    assert scores["runs_per_image"]["encoder"] > 1


def test_numbers_out_of_range_are_refused():
    with pytest.raises(UsageError, match="at least one scene"):
        DiscoverTask(scenes=0)
