from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.stats import spearmanr
from transformers.models.llama import modeling_llama

from grounding.attention.sinks import SinkRule
from grounding.cli import main
from grounding.errors import ExpressionError, ImageError, MethodError
from grounding.models.base import VLM
from grounding.models.llava import Llava
from grounding.models.load import load
from grounding.models.qwen_vl import QwenVL
from grounding.models.tiny import tiny_llava_gqa, tiny_qwen2_5_vl
from grounding.scenes.samples import scene_samples
from grounding.steering.decoding import Decoding
from grounding.steering.generate import generate
from grounding.steering.heads import HeadChoice
from grounding.steering.measure import calibrate, head_values
from grounding.steering.method import load_steering
from grounding.steering.samples import CalibrationSample, manifest_samples
from grounding.steering.sensitivity import load_sensitivity
from grounding.steering.teacher_forcing import AnswerForward, TeacherForcedSample


@pytest.fixture(scope="module")
def vlm() -> Llava:
    return Llava(*tiny_llava_gqa(), name="tiny")


@pytest.fixture(scope="module")
def starter() -> VLM:
    return load("starter", "cpu")


@pytest.fixture(scope="module")
def sample() -> CalibrationSample:
    pixels = np.random.default_rng(0).integers(0, 255, (56, 56, 3), dtype=np.uint8)
    mask = np.zeros((56, 56), dtype=bool)
    mask[:28, :14] = True
    return CalibrationSample(Image.fromarray(pixels), "what is it?", "a red dog.", "dog", mask)


def log_probability(vlm: VLM, forced: TeacherForcedSample) -> torch.Tensor:
    with torch.no_grad():
        logits = vlm.model(**forced.inputs).logits[0].log_softmax(-1)
    ids = forced.inputs["input_ids"][0]
    return torch.stack([logits[t - 1, ids[t]] for t in forced.targets]).mean()


def test_targets_are_the_tokens_of_the_word(vlm: Llava, sample: CalibrationSample) -> None:
    forced = TeacherForcedSample.of(vlm, sample)
    ids = forced.inputs["input_ids"][0]
    assert vlm.tokenizer.decode(ids[list(forced.targets)]).strip() == "dog"
    whole = TeacherForcedSample.of(vlm, CalibrationSample(sample.image, sample.question, sample.answer))
    assert vlm.tokenizer.decode(ids[list(whole.targets)]).strip() == "a red dog."
    with pytest.raises(ExpressionError, match="'do' is not in the answer"):
        TeacherForcedSample.of(vlm, CalibrationSample(sample.image, sample.question, sample.answer, "do"))


@pytest.mark.parametrize("build", ["llava", "qwen"])
def test_the_answer_on_cached_keys_equals_the_full_pass(build: str, vlm: Llava, sample: CalibrationSample) -> None:
    one = vlm if build == "llava" else QwenVL(*tiny_qwen2_5_vl(), name="tiny")
    forced = TeacherForcedSample.of(one, sample)
    with torch.no_grad():
        found = AnswerForward(forced).log_probability(copies=3)
    torch.testing.assert_close(found, log_probability(one, forced).expand(3), atol=2e-5, rtol=0)


def test_ablation_equals_eager_attention_with_weights_set_to_zero(
    vlm: Llava, sample: CalibrationSample, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = head_values(vlm, sample, "ablation")
    model, processor = tiny_llava_gqa()
    model.set_attn_implementation("eager")
    eager = Llava(model, processor, name="tiny")
    forced = TeacherForcedSample.of(eager, sample)
    image = forced.prepared.layouts[0].image.tolist()
    layers = model.get_decoder().layers
    removed: list[tuple[int, int]] = []

    def attention(module, query, key, value, attention_mask, scaling, **options):
        groups = query.shape[1] // key.shape[1]
        key, value = key.repeat_interleave(groups, 1), value.repeat_interleave(groups, 1)
        logits = query @ key.transpose(-1, -2) * scaling
        count = query.shape[2]
        weights = logits.masked_fill(torch.ones(count, count).triu(1).bool(), -torch.inf).softmax(-1)
        for layer, head in removed:
            if layers[layer].self_attn is module:
                rows = torch.arange(forced.start, count)
                weights[0, head, rows[:, None], torch.tensor(image)] = 0.0
        return (weights @ value).transpose(1, 2), weights

    monkeypatch.setattr(modeling_llama, "eager_attention_forward", attention)
    whole = log_probability(eager, forced)
    for layer in range(found.shape[0]):
        for head in range(found.shape[1]):
            removed[:] = [(layer, head)]
            expected = float(whole - log_probability(eager, forced))
            assert abs(expected - found[layer, head]) < 2e-5
    assert np.abs(found).max() > 1e-4, "the heads must matter for this test to mean anything"


def test_gradient_is_the_slope_of_removing_a_little(vlm: Llava, sample: CalibrationSample) -> None:
    """Compare the measure with finite differences of a modulation with gain 1 - e on the same rows."""
    from grounding.steering.apply import apply
    from grounding.steering.base import GenerationContext
    from grounding.steering.editor import ModulationEditor
    from grounding.steering.modulation import Values

    found = head_values(vlm, sample, "gradient")
    forced = TeacherForcedSample.of(vlm, sample)
    context = GenerationContext(vlm, [sample.image], [sample.question], forced.prepared, Decoding())
    gap = 0.05
    for layer, head in ((0, 0), (0, 5), (1, 2), (1, 7)):
        ends = []
        for gain in (1 + gap, 1 - gap):
            editor = ModulationEditor(
                Values(gain=gain, heads=HeadChoice(listed=((layer, head),)), prefill="text"), context
            )
            editor._starts, editor._first = torch.tensor([forced.start]), forced.start
            with apply(vlm.model, editor, forced.prepared.length, 1):
                ends.append(log_probability(vlm, forced).double())
        slope = float((ends[0] - ends[1]) / (2 * gap))
        assert abs(slope - found[layer, head]) < 3e-5 + 0.05 * abs(slope)


def test_gradient_ranks_heads_as_ablation_does_on_the_starter(starter: VLM) -> None:
    sources = scene_samples(3, seed=5)
    exact = calibrate(starter, sources, "ablation", seed=5)
    quick = calibrate(starter, sources, "gradient", seed=5)
    assert exact.data_sha256 == quick.data_sha256
    assert spearmanr(exact.array().ravel(), quick.array().ravel()).statistic > 0.6
    assert (np.sign(exact.array()) == np.sign(quick.array())).mean() > 0.6


def test_mass_and_agreement_equal_eager_rows(vlm: Llava, sample: CalibrationSample) -> None:
    model, processor = tiny_llava_gqa()
    model.set_attn_implementation("eager")
    forced = TeacherForcedSample.of(Llava(model, processor, name="tiny"), sample)
    image = forced.prepared.layouts[0].image.tolist()
    with torch.no_grad():
        attentions = model(**forced.inputs, output_attentions=True).attentions
    rows = torch.stack([a[0] for a in attentions])[:, :, list(forced.rows)][..., image]  # [L, H, R, 16]
    np.testing.assert_allclose(head_values(vlm, sample, "mass"), rows.sum(-1).mean(-1), atol=2e-6)
    on = rows[..., [0, 4]].sum(-1) / rows.sum(-1)  # the upper half of the first of four columns
    np.testing.assert_allclose(head_values(vlm, sample, "agreement"), on.mean(-1), atol=2e-6)
    assert not head_values(vlm, sample, "mass", sinks=SinkRule(1e-6, skip_layers=0)).any()
    with pytest.raises(ImageError, match="needs a mask"):
        head_values(vlm, CalibrationSample(sample.image, "what?", "a dog"), "agreement")


def test_a_bad_sample_is_reported_and_left_out(vlm: Llava, sample: CalibrationSample) -> None:
    left_out: list[int] = []
    wrong = CalibrationSample(sample.image, sample.question, sample.answer, "cat")
    both = calibrate(vlm, [lambda: wrong, lambda: sample], "mass", left_out=lambda index, why: left_out.append(index))
    assert (both.n, left_out) == (1, [0])

    def odd() -> CalibrationSample:
        raise ZeroDivisionError

    both = calibrate(vlm, [odd, lambda: sample], "mass", left_out=lambda index, why: left_out.append(index))
    assert (both.n, left_out) == (1, [0, 0])
    assert both == calibrate(vlm, [lambda: sample], "mass")
    with pytest.raises(MethodError, match="none of 1 samples could be measured; of the first one: the word 'cat'"):
        calibrate(vlm, [lambda: wrong], "mass")


def test_the_command_writes_what_a_steering_file_uses(tmp_path: Path, starter: VLM, capsys) -> None:
    out = tmp_path / "heads.yaml"
    assert (
        main(["calibrate", "sensitivity", "--scenes", "2", "--seed", "3", "--kind", "gradient", "--out", str(out)]) == 0
    )
    found = load_sensitivity(out)
    assert (found.model, found.kind, found.n, found.seed) == ("starter", "gradient", 2, 3)
    assert found.array().shape == (starter.layer_count, starter.head_count)
    assert "on 2 samples (0 left out)" in capsys.readouterr().out
    file = tmp_path / "mine.yaml"
    file.write_text(
        "description: d\nsource: s\nsteps:\n- step: renormalise\n  gain: 3.0\n"
        f"  heads: {{sensitivity: {out}, rule: top, count: 2}}\n"
    )
    scene = scene_samples(1, 3)[0]()
    (text,) = generate(starter, [scene.image], [scene.question], load_steering(str(file)), Decoding(max_new_tokens=4))
    assert text.text


def test_the_command_reads_a_manifest(tmp_path: Path, starter: VLM, capsys) -> None:
    scene = scene_samples(1, 3)[0]()
    scene.image.save(tmp_path / "a.png")
    Image.fromarray(scene.mask).save(tmp_path / "mask.png")
    good = {"image": "a.png", "question": scene.question, "answer": scene.answer, "mask": "mask.png"}
    manifest, out = tmp_path / "samples.jsonl", tmp_path / "heads.yaml"
    manifest.write_text(json.dumps(good) + "\n" + json.dumps(good | {"image": "gone.png"}) + "\n")
    options = ["calibrate", "sensitivity", "--kind", "agreement", "--manifest", str(manifest), "--out", str(out)]
    assert main(options) == 1
    assert "sample 2 is left out: there is no image at" in capsys.readouterr().err
    expected = head_values(starter, manifest_samples(manifest)[0](), "agreement")
    np.testing.assert_allclose(load_sensitivity(out).array(), expected, atol=1e-5)
    out.unlink()
    manifest.write_text(json.dumps(good | {"anser": "x"}) + "\n")
    assert main(options) == 2
    assert "unknown key 'anser' (did you mean 'answer'?)" in capsys.readouterr().err
    assert main([*options, "--scenes", "2"]) == 2
    assert not out.exists()
