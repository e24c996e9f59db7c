from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip("diffusers")

from diffusers import FluxPipeline

from grounding.scenes.drawing import draw_scene
from grounding.scenes.language import SceneTexts
from grounding.starter.dit import train as training
from grounding.starter.dit.captions import long_captions, place, short_captions
from grounding.starter.dit.data import CONFIG, FIRST_SEED, SHORT_TOKENS, CaptionedScenes, render
from grounding.starter.dit.measure import held_out, image_to_text, text_use
from grounding.starter.dit.model import CELLS, IMAGE_SIZE, LATENTS, DitShape, build
from grounding.starter.dit.stages import Captioned, Denoising, Reconstruction, TextDenoiser, mix, pack, to_model
from grounding.starter.dit.words import MAX_TOKENS, build_t5_tokenizer
from grounding.starter.training import Schedule

TINY = DitShape(
    double_blocks=1,
    single_blocks=1,
    heads=2,
    head_width=16,
    text_width=32,
    text_layers=1,
    pooled_width=32,
    pooled_layers=1,
    vae_channels=(8, 16, 16),
)


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> CaptionedScenes:
    return render(tmp_path_factory.mktemp("scenes"), 4, FIRST_SEED, workers=1)


@pytest.fixture
def pipe() -> FluxPipeline:
    return build(0, TINY)


def shaken(pipe: FluxPipeline) -> FluxPipeline:
    """Give the parameters that start at zero random values, so that every block matters."""
    torch.manual_seed(1)
    for parameter in pipe.transformer.parameters():
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=0.1)
    return pipe


def batch(scenes: CaptionedScenes, *, short: bool = True) -> Captioned:
    torch.manual_seed(0)
    coverage = torch.from_numpy(scenes.coverage).flatten(2).float() / 255
    ids = torch.from_numpy((scenes.short if short else scenes.long)[:, 0]).long()
    named = coverage[torch.arange(4), torch.from_numpy(scenes.named[:, 0]).long()] if short else None
    return Captioned(torch.randn(4, 4, LATENTS, LATENTS), coverage.sum(dim=1).clamp(max=1), named, ids, 0.6)


def test_scenes_hold_what_was_drawn(scenes: CaptionedScenes):
    t5 = build_t5_tokenizer()
    for row in range(4):
        scene = draw_scene(FIRST_SEED + row, CONFIG)
        assert (scenes.pixels[row] == np.asarray(scene.image)).all()
        for index, thing in enumerate(scene.objects):
            covered = scenes.coverage[row, index].astype(float).sum() / 255 * (IMAGE_SIZE // CELLS) ** 2
            assert covered == pytest.approx(thing.mask.sum(), rel=0.02)
        assert not scenes.coverage[row, len(scene.objects) :].any()
        for ids, index in zip(scenes.short[row], scenes.named[row], strict=True):
            assert scene.objects[index].kind.shape in t5.decode(ids)
        shapes = sorted(thing.kind.shape for thing in scene.objects)
        for ids in scenes.long[row]:
            words = t5.decode(ids, skip_special_tokens=True).split()
            assert sorted(word for word in words if word in set(shapes)) == shapes


def test_captions_fit_their_tokens():
    t5 = build_t5_tokenizer()
    for seed in range(60):
        scene, rng = draw_scene(seed, CONFIG), np.random.default_rng(seed)
        assert all(len(ids) <= MAX_TOKENS for ids in t5(long_captions(scene.objects, rng)).input_ids)
        short = [text for text, _ in short_captions(scene.objects, rng)]
        short += [expression.text for expression in SceneTexts(scene).expressions]
        assert all(len(ids) <= SHORT_TOKENS for ids in t5(short).input_ids)


def test_places_are_ninths_of_the_picture():
    places = {place(thing) for seed in range(60) for thing in draw_scene(seed, CONFIG).objects}
    assert places >= {"in the middle", "on the left", "at the top", "at the bottom right"}
    assert len(places) == 9


def test_latents_are_packed_as_by_the_pipeline():
    latents = torch.randn(2, 4, LATENTS, LATENTS)
    assert (pack(latents) == FluxPipeline._pack_latents(latents, 2, 4, LATENTS, LATENTS)).all()


def test_the_denoiser_sees_what_the_pipeline_makes(pipe: FluxPipeline):
    """The captions' ids give the same text states, pooled vector and positions as the pipeline's prompts."""
    model, text = TextDenoiser(shaken(pipe)), "a Red circle , at the top left ."
    ids = torch.tensor([pipe.tokenizer_2(text, padding="max_length", max_length=MAX_TOKENS).input_ids])
    noisy, levels = torch.randn(1, 4, LATENTS, LATENTS), torch.tensor([0.7])
    states, pooled, text_ids = pipe.encode_prompt(text, max_sequence_length=MAX_TOKENS)
    image_ids = pipe._prepare_latent_image_ids(1, CELLS, CELLS, torch.device("cpu"), torch.float32)
    with torch.no_grad():
        theirs = pipe.transformer(
            hidden_states=pack(noisy),
            encoder_hidden_states=states,
            pooled_projections=pooled,
            timestep=levels,
            img_ids=image_ids,
            txt_ids=text_ids,
        ).sample
        torch.testing.assert_close(model(noisy, levels, ids), theirs)


def test_looking_changes_nothing_and_equals_the_recorded_attention(pipe: FluxPipeline, scenes: CaptionedScenes):
    model, example = TextDenoiser(shaken(pipe)), batch(scenes)
    levels = torch.tensor([0.2, 0.5, 0.7, 0.9])
    with torch.no_grad(), image_to_text(SHORT_TOKENS) as maps:
        plain = model(example.latents, levels, example.ids)
    with torch.no_grad():
        output, attention = model.look(example.latents, levels, example.ids, example.ids)
    torch.testing.assert_close(output, plain)
    assert len(maps) == 2
    torch.testing.assert_close(attention, torch.stack(maps).mean(dim=0))
    torch.testing.assert_close(attention.sum(dim=-1), torch.ones(4, CELLS**2))


def test_head_words_are_those_of_the_first_noun_phrase(pipe: FluxPipeline):
    words = "the small red circle left of the blue square".split()
    ids = torch.tensor([pipe.tokenizer_2(" ".join(words), padding="max_length", max_length=SHORT_TOKENS).input_ids])
    marked = TextDenoiser(pipe).head_words(ids)[0]
    assert [words[i] for i in marked.nonzero().flatten().tolist()] == ["small", "red", "circle"]


def test_steps_on_one_batch_lower_both_losses(pipe: FluxPipeline, scenes: CaptionedScenes):
    denoising, example = Denoising(pipe, alignment=1.0), batch(scenes)
    optimizer = torch.optim.AdamW(denoising.trained.parameters(), lr=3e-3)
    losses, aligned = [], []
    for step in range(30):
        torch.manual_seed(step % 2)  # two draws of noise
        loss, figures = denoising(example)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item() - figures["aligned"].item())
        aligned.append(figures["aligned"].item())
    assert np.mean(losses[-4:]) < 0.95 * np.mean(losses[:4])
    assert np.mean(aligned[-4:]) < 0.9 * np.mean(aligned[:4])


def test_without_alignment_the_attention_is_no_target(pipe: FluxPipeline, scenes: CaptionedScenes):
    _, figures = Denoising(pipe)(batch(scenes))
    assert "aligned" not in figures
    _, figures = Denoising(pipe, alignment=1.0)(batch(scenes, short=False))
    assert "aligned" not in figures


def test_one_step_lowers_the_reconstruction_loss(pipe: FluxPipeline, scenes: CaptionedScenes):
    reconstruction = Reconstruction(pipe.vae)
    pixels = to_model(scenes.pixels, torch.device("cpu"))
    optimizer = torch.optim.SGD(pipe.vae.parameters(), lr=0.01)
    losses = []
    for _ in range(2):
        torch.manual_seed(0)
        loss, _ = reconstruction(pixels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[1] < losses[0]


def test_the_path_runs_from_latents_to_noise():
    latents, noise = torch.zeros(3, 1, 2, 2), torch.ones(3, 1, 2, 2)
    mixed = mix(latents, noise, torch.tensor([0.0, 0.25, 1.0]))
    assert mixed[:, 0, 0, 0].tolist() == [0.0, 0.25, 1.0]


def test_figures_of_text_use(pipe: FluxPipeline):
    (use,) = text_use(TextDenoiser(shaken(pipe)), held_out(pipe.vae, 3), [0.5])
    assert use.scenes == 3
    assert len(use.head_by_block) == 2
    assert use.right != use.shuffled != use.empty
    assert use.long_right != use.long_shuffled
    assert 0 <= use.pointing <= 1


def test_a_run_resumes_and_writes_a_pipeline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("grounding.starter.dit.export.HELD_SCENES", 2)
    monkeypatch.setattr("grounding.starter.dit.export._WATCHED_SCENES", 2)

    def run(steps: int) -> Path:
        return training.train(
            training.DitTrainConfig(
                out=tmp_path,
                scenes=4,
                shape=TINY,
                vae=Schedule(steps=2, warmup=1),
                vae_batch=2,
                vae_scenes=4,
                flow=Schedule(steps=steps, matrix_lr=1e-3, warmup=1),
                flow_batch=2,
                device="cpu",
                threads=1,
                workers=1,
            )
        )

    run(2)
    folder = run(4)
    curves = json.loads((folder / "curve.json").read_text())
    assert [point["step"] for point in curves["flow"]] == [2, 4]
    loaded = FluxPipeline.from_pretrained(folder)
    loaded.set_progress_bar_config(disable=True)
    assert {
        p.dtype
        for name in ("vae", "transformer", "text_encoder", "text_encoder_2")
        for p in getattr(loaded, name).parameters()
    } == {torch.float32}
    picture = loaded("a red circle", height=IMAGE_SIZE, width=IMAGE_SIZE, num_inference_steps=1, max_sequence_length=16)
    assert picture.images[0].size == (IMAGE_SIZE, IMAGE_SIZE)
    assert "no attention map was a target" in (folder / "README.md").read_text()
