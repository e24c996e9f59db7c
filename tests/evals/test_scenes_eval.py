from __future__ import annotations

import itertools
import json
from dataclasses import replace

import numpy as np
import pytest

from evals.ablation import ablations, joins, ladder
from evals.asked_once import AskedOnce
from evals.commands.bench import print_measurement
from evals.metrics import Outcome, best_point_hits, gave_up, judge
from evals.recordings import shared_recordings
from evals.report import change, score, score_table, unanswered
from evals.scenes import CENTRE, FULL, OTHER, TRUTH, answer_samples, draw_samples
from evals.variants import contrasts, refinements
from grounding.cli import main
from grounding.maps.text_sinks import TextSinks
from grounding.methods import load_method
from grounding.record_spec import RecordSpec
from grounding.scenes.drawing import draw_scene
from grounding.scenes.files import scene_seed
from grounding.scenes.language import SceneTexts
from grounding.types import PointPrompts, Segment


def points(*entries: tuple[float, float, int, float]) -> PointPrompts:
    table = np.array(entries, np.float32).reshape(-1, 4)
    return PointPrompts(table[:, :2], table[:, 2].astype(np.int64), table[:, 3], None if entries else (0, 0, 1, 1))


@pytest.fixture
def truth():
    mask = np.zeros((10, 20), bool)
    mask[2:6, 4:12] = True
    return mask


@pytest.mark.parametrize(
    ("entries", "hit"),
    [
        ([(4.5, 2.5, 1, 1.0)], True),
        ([(3.9, 2.5, 1, 1.0)], False),
        ([(11.99, 5.99, 1, 1.0)], True),
        ([(12.0, 5.0, 1, 1.0)], False),
        ([(0, 0, 1, 0.2), (5, 3, 1, 0.9)], True),
        ([(5, 3, 1, 0.2), (0, 0, 1, 0.9)], False),
        ([(5, 3, 0, 1.0), (0, 0, 1, 0.1)], False),
        ([(5, 3, 0, 1.0)], False),
        ([(20, 10, 1, 1.0)], False),
        ([], False),
    ],
)
def test_the_heaviest_point_on_the_object_decides(entries, hit, truth):
    assert best_point_hits(points(*entries), truth) is hit


def test_outcomes_count_pixels(truth):
    mask = np.zeros_like(truth)
    mask[2:6, 8:16] = True
    outcome = judge(points((5, 3, 1, 1)), Segment(mask, 0.9, points((5, 3, 1, 1))), truth)
    assert outcome == Outcome(hit=True, intersection=16, union=48)
    assert outcome.iou == pytest.approx(1 / 3)
    assert gave_up(truth) == Outcome(hit=False, intersection=0, union=32, failed=True)


def test_scores_are_means_and_ratios_of_sums():
    outcomes = [Outcome(True, 10, 10), None, Outcome(False, 0, 90, failed=True)]
    found = score(outcomes, [0, 1, 2])
    assert (found.n, found.failed) == (2, 1)
    assert (found.pointing.value, found.miou.value, found.oiou.value) == (0.5, 0.5, 0.1)
    lost = change([outcomes[0], outcomes[0], outcomes[2]], [outcomes[0], outcomes[0], outcomes[0]], [0, 1, 2])
    assert lost.pointing.value == pytest.approx(-1 / 3)
    table = score_table({"full": found, "less": found}, {"less": lost})
    assert len({line.find("[") for line in table.splitlines()[1:]}) == 1
    assert table.splitlines()[2].rstrip().endswith("+0.000]")
    (said,) = unanswered({"full": (0, 2), "less": (1, 2)})
    assert said.startswith("less gave no answer to 1 of 2 questions")


def test_samples_are_those_of_the_scenes_on_disk_and_answers_are_true():
    samples = list(draw_samples(seed=4, limit=5))
    assert [sample.scene for sample in samples] == [0, 1, 2, 3, 4]
    for sample in samples:
        scene = draw_scene(scene_seed(4, sample.scene))
        matching = [e for e in SceneTexts(scene).expressions if e.text == sample.expression]
        assert len(matching) == 1
        assert (scene.objects[matching[0].target_index].mask == sample.truth).all()
        assert matching[0].kind == sample.kind
        if sample.other is not None:
            other = next(e for e in SceneTexts(scene).expressions if e.text == sample.other)
            assert other.target_index != matching[0].target_index
    assert [sample.expression for sample in draw_samples(4, 3)] == [sample.expression for sample in samples[:3]]
    several = list(draw_samples(seed=4, limit=7, per_scene=3))
    assert len(several) == 7
    assert max(sum(s.scene == one.scene for s in several) for one in several) <= 3


def test_a_set_of_scenes_never_meets_another_or_the_training_scenes():
    assert scene_seed(0, 0) > 1 << 32
    assert scene_seed(0, (1 << 24) - 1) < scene_seed(1, 0)
    with pytest.raises(ValueError, match="got -1 and 0"):
        scene_seed(-1, 0)


@pytest.mark.parametrize("name", ["default", "starter", "relative", "vl-sam-points", "plain-mean"])
def test_every_part_of_a_method_can_be_switched_off(name):
    method = load_method(name)
    found = ablations(method)
    assert sum(key.startswith("without ") for key in found) >= len(method.stages)
    for key, variant in found.items():
        changed = [f for f in ("stages", "points", "mask") if getattr(variant, f) != getattr(method, f)]
        assert len(changed) == 1, key
        assert replace(variant, **{changed[0]: getattr(method, changed[0])}, name=method.name) == method
    (recording,) = shared_recordings({"full": method} | found, layer_count=6)
    spec = recording.spec
    for variant in (method, *found.values()):
        needed = variant.record_spec(6)
        assert spec.layers is None or (needed.layers is not None and set(needed.layers) <= set(spec.layers))
        assert set(needed.head_statistics) <= set(spec.head_statistics)
        assert spec.residual_sinks >= needed.residual_sinks
        assert spec.reduce in ("none", needed.reduce)
    behind = {spec.background_prompt for spec in recording.backgrounds.values()}
    assert behind == ({method.background_prompt} if method.background_prompt else set())
    assert not spec.has_background


def test_the_ladder_adds_a_stage_at_a_time():
    method = load_method("refam")
    rungs = ladder(method)
    assert list(rungs) == ["raw map of all words", "+ stop words dropped", "+ sinks out", "+ magnets", "+ head noun"]
    stages = [[stage.name for stage in rung.stages] for rung in (*rungs.values(), method)]
    added = ["stop-words", "text-sinks", "magnets", "head-noun", "spatial-bias"]
    assert [set(b) - set(a) for a, b in itertools.pairwise(stages)] == [{name} for name in added]
    assert stages[0] == ["layers-select", "heads-mean", "combine", "layers-mean"]
    assert ladder(load_method("default")) == {}


def test_methods_with_other_magnets_get_a_recording_of_their_own():
    method = load_method("refam")
    methods = {"full": method} | ablations(method)
    recordings = shared_recordings(methods, layer_count=8)
    assert [one.spec.magnets for one in recordings] == [method.record_spec(8).magnets, None]
    with_magnets, without_magnets = (one.methods for one in recordings)
    assert set(with_magnets) | set(without_magnets) == set(methods)
    assert {"without magnets", "raw map of all words", "+ stop words dropped", "+ sinks out"} == set(without_magnets)


def test_edits_of_sinks_are_recorded_apart_and_need_their_magnets():
    plain = load_method("refam")
    stages = [replace(s, handling="redirect") if isinstance(s, TextSinks) else s for s in plain.stages]
    method = replace(plain, stages=tuple(stages))
    found = ablations(method)
    assert "without magnets" not in found
    assert {"without text-sinks", "raw map of all words", "+ stop words dropped", "+ magnets"} <= set(found)
    recordings = shared_recordings({"full": method} | found, layer_count=8)
    edited = [(one.spec.sinks is not None, one.spec.magnets is not None) for one in recordings]
    assert edited == [(True, True), (False, True), (False, False)]


def test_an_ensemble_is_measured_beside_each_of_its_models(tiny_model, tiny_segmenter):
    from grounding.ensemble import Ensemble, Member
    from grounding.segmenters.load import load_segmenter
    from grounding.sources import load_source
    from pipelines.referring import ReferringSegmentation

    source, segmenter = load_source(str(tiny_model), "cpu"), load_segmenter(str(tiny_segmenter), "cpu")
    methods = [load_method("plain-mean"), load_method("relative")]
    pair = Ensemble([Member(source, method) for method in methods])
    answers = answer_samples(
        ReferringSegmentation(pair, segmenter, load_method("ensemble")), draw_samples(0, 2), ablate=True
    )
    names = [f"{name} alone" for name in pair.member_names]
    assert {*names, "without ensemble", "joined by ranks"} < set(answers.outcomes)
    alone = joins(load_method("ensemble"), pair.member_names)
    [maps] = pair.maps([next(draw_samples(0, 1)).image], ["dog"], RecordSpec())
    for index, name in enumerate(names):
        joined, _ = alone[name].stages[0](maps)
        order = np.argsort(maps.values[0, 0, 0, index], kind="stable")
        np.testing.assert_array_equal(np.argsort(joined.values[0, 0, 0, 0], kind="stable"), order)
    assert joins(load_method("refam"), ()) == {}


@pytest.fixture(scope="module")
def pipe(tiny_model, tiny_segmenter):
    from pipelines.referring import ReferringSegmentation

    return ReferringSegmentation.from_pretrained(str(tiny_model), str(tiny_segmenter), "relative", "cpu", batch_size=2)


def test_variants_share_the_recording_and_the_encoding(pipe, monkeypatch):
    passes, encoded = [], []
    prepare, encode = pipe.source.prepare, pipe.segmenter.set_image

    def counted(images, expressions, prompt=None):
        passes.append(len(images))
        return prepare(images, expressions, prompt)

    monkeypatch.setattr(pipe.source, "prepare", counted)
    monkeypatch.setattr(pipe.segmenter, "set_image", lambda image: encoded.append(1) or encode(image))
    told = []
    answers = answer_samples(pipe, draw_samples(0, 3), ablate=True, advance=told.append)
    assert set(answers.outcomes) == {FULL, CENTRE, OTHER, TRUTH, *ablations(pipe.method)}
    assert all(len(found) == 3 for found in answers.outcomes.values())
    others = sum(outcome is not None for outcome in answers.outcomes[OTHER])
    assert sum(passes) == 3 + 3 + others  # the words, the generic prompt once an image, the words for another object
    assert len(encoded) == 3
    assert told == [2, 1]
    assert all(outcome.hit for outcome in answers.outcomes[TRUTH])


def test_a_shared_recording_changes_no_answer(pipe):
    alone = answer_samples(pipe, draw_samples(1, 2))
    shared = answer_samples(pipe, draw_samples(1, 2), ablate=True)
    assert alone.outcomes[FULL] == shared.outcomes[FULL]
    assert alone.outcomes[OTHER] == shared.outcomes[OTHER]


def test_the_command_prints_one_object_or_a_table(tiny_model, tiny_segmenter, capsys):
    arguments = ["eval", "scenes", "--limit", "3", "--seed", "9", "--method", "plain-mean"]
    arguments += ["--model", str(tiny_model), "--segmenter", str(tiny_segmenter)]
    assert main([*arguments, "--ablate", "--json"]) == 0
    out = capsys.readouterr().out
    assert out.count("\n") == 1
    found = json.loads(out)
    assert (found["n"], found["seed"], found["method"]) == (3, 9, "plain-mean")
    for name in ("pointing_accuracy", "miou", "oiou"):
        low, high = found["intervals"][name]
        assert 0 <= low <= found[name] <= high <= 1
    assert sum(kind["n"] for kind in found["kinds"].values()) == 3
    assert set(found["ablations"]) == {"without heads-mean", "without rows", "without layers-mean"}
    assert len(found["config_hash"]) == 12
    assert "torch" in found["versions"]
    assert main(arguments) == 0
    table = capsys.readouterr().out
    assert "full method" in table
    assert "by kind of expression" in table
    assert main([*arguments, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["miou"] == found["miou"]


def test_a_measurement_for_people_has_one_number_a_line(capsys):
    print_measurement({"name": "mobile-sam", "miou": 0.81234, "miou_large": float("nan")}, as_json=False)
    assert capsys.readouterr().out.splitlines() == ["name        mobile-sam", "miou        0.8123", "miou_large  None"]


def test_bench_segmenter_measures_drawn_scenes(tiny_segmenter, tmp_path, capsys):
    assert main(["scenes", "--n", "1", "--out", str(tmp_path)]) == 0
    capsys.readouterr()
    options = ["--data", str(tmp_path), "--segmenter", str(tiny_segmenter), "--limit", "2", "--min-area", "1", "--json"]
    assert main(["bench", "segmenter", *options]) == 0
    found = json.loads(capsys.readouterr().out)
    assert 0 <= found["miou"] <= 1
    assert found["images"] == 1


def test_methods_and_variants_are_compared_on_one_recording(tiny_model, tiny_segmenter, capsys):
    arguments = ["eval", "scenes", "--limit", "2", "--seed", "9", "--method", "plain-mean"]
    arguments += ["--model", str(tiny_model), "--segmenter", str(tiny_segmenter)]
    assert main([*arguments, "--methods", "last-layer", "refam", "relative", "--vary", "contrasts", "--json"]) == 0
    out, err = capsys.readouterr()
    found = json.loads(out)["ablations"]
    assert {"last-layer", "difference from a blank picture", "least squares on earlier words"} <= set(found)
    assert "refam" not in found
    assert "left out: method refam" in err
    for one in found.values():
        low, high = one["change"]["intervals"]["pointing_accuracy"]
        assert low <= one["change"]["pointing_accuracy"] <= high
    assert main([*arguments, "--methods", "no-such"]) == 2
    assert "method 'no-such' is unknown" in capsys.readouterr().err


def test_contrasts_stand_in_the_place_of_the_methods_own():
    method = load_method("default")
    found = contrasts(method, "not used")
    names = [stage.name for stage in method.stages]
    assert "difference from a generic prompt" not in found  # that is the method itself
    for name, variant in found.items():
        own = [stage.name for stage in variant.stages]
        added = [stage for stage in own if stage.startswith("contrast")]
        assert len(added) == (name != "no contrast")
        assert [stage for stage in own if stage not in added] == names[:-1]
        if name.startswith("ratio"):
            assert own[-1] == "contrast-ratio"
    assert found["ratio to a generic prompt"].stages[-1].prompt == "Describe the image."
    plain = contrasts(load_method("starter"), "say .")
    assert "no contrast" not in plain
    assert plain["difference from a generic prompt"].background_prompt == "say ."


def test_refinements_come_last_and_each_once():
    for name, variant in refinements(load_method("starter-photo")).items():
        own = [stage.name for stage in variant.stages]
        assert len(set(own)) == len(own)
        assert own[-1].startswith(("refine", "smooth-ranks")), name


def test_equal_prompts_are_asked_once():
    class Counting:
        name, asked = "counting", 0

        def set_image(self, image):
            pass

        def predict(self, prompts, *, mask_input=None, multimask_output=True):
            self.asked += 1
            return object()

    counting = Counting()
    once = AskedOnce(counting)
    for _ in range(2):
        once.predict(points((1, 2, 1, 0.5)))
        once.predict(points((1, 2, 1, 0.9)))  # weights do not reach a segmenter
    once.predict(points((1, 2, 0, 0.5)))
    once.predict(points((1, 2, 1, 0.5)), multimask_output=False)
    assert counting.asked == 3
    once.set_image(None)
    once.predict(points((1, 2, 1, 0.5)))
    assert counting.asked == 4
