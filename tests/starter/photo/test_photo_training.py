from __future__ import annotations

import functools
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_photos import tiny_spec, write_photos
from torch import nn

from grounding.errors import ExpressionError, OutputError
from grounding.models.load import load
from grounding.models.maps import record_maps
from grounding.models.probing.family import probe
from grounding.photos import read_photos
from grounding.record_spec import RecordSpec
from grounding.starter.packing import NO_LABEL, pack
from grounding.starter.photo import export as export_module
from grounding.starter.photo.alignment import Alignment, concepts_of
from grounding.starter.photo.export import export
from grounding.starter.photo.features import cached_levels
from grounding.starter.photo.model import build_model, build_processor
from grounding.starter.photo.stages import Album, PhotoReader, looks, talks
from grounding.starter.training import Schedule, train_stage

CELLS = 16


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_photos(tmp_path_factory.mktemp("made") / "photos")


def make(folder: Path, features: Path, classifier: tuple[torch.Tensor, torch.Tensor] | None):
    """A tiny model, its processor, its album and its reader."""
    spec = tiny_spec()
    model, processor = build_model(spec, seed=1), build_processor(spec.words, spec.shape)
    model.model.vision_tower.requires_grad_(False)
    photos = read_photos(folder).train
    levels = cached_levels(model.model.vision_tower.backbone, processor, photos, features)
    concepts = concepts_of(photos, spec.words, min_photos=2)
    present = np.stack([concepts.present(photo) for photo in photos])
    album = Album(photos, levels, concepts, present, processor.tokenizer)
    return model, processor, album, PhotoReader(model, Alignment(concepts, processor.tokenizer.get_vocab(), classifier))


@pytest.fixture
def made(folder: Path, tmp_path: Path):
    """All of a tiny model, with a random classifier in place of ImageNet's."""
    return make(folder, tmp_path / "features", (torch.randn(1000, 24) * 5, torch.zeros(1000)))


def test_features_are_those_of_the_tower_and_are_computed_once(made, folder: Path, tmp_path: Path):
    model, processor, album, _ = made
    photo = album.photos[2]
    with torch.inference_mode():
        pixels = processor.image_processor(Image.open(photo.file), return_tensors="pt")["pixel_values"]
        whole = model.model.vision_tower(pixels).last_hidden_state
        fine, coarse = album.levels.batch(np.array([2]), np.array([False]))
        torch.testing.assert_close(model.model.vision_tower.join(fine, coarse), whole, atol=2e-2, rtol=2e-2)
    mirrored, _ = album.levels.batch(np.array([2]), np.array([True]))
    assert torch.equal(mirrored.flip(-1), fine)
    backbone = model.model.vision_tower.backbone
    with pytest.raises(ValueError, match="other photos"):
        cached_levels(backbone, processor, album.photos[:3], tmp_path / "features")
    file = tmp_path / photo.file.name
    Image.new("RGB", photo.size).save(file)
    replaced = (*album.photos[:2], replace(photo, file=file), *album.photos[3:])
    with pytest.raises(ValueError, match="other photos"):
        cached_levels(backbone, processor, replaced, tmp_path / "features")
    first = next(backbone.parameters())
    with torch.no_grad():
        first.view(-1)[first.numel() // 2] += 1
    with pytest.raises(ValueError, match="another backbone"):
        cached_levels(backbone, processor, album.photos, tmp_path / "features")


def test_a_packed_question_is_answered_as_if_it_were_asked_alone(made):
    """The logits at the answers equal those of the whole model fed one conversation through its chat template."""
    model, processor, album, reader = made
    model.eval()
    pairs = [("describe the image .", "a man ."), ("is there a dog in the image ?", "yes")]
    packed = pack([pairs], album.encoder(), CELLS, CELLS + 60)
    picture = Image.open(album.photos[0].file)
    with torch.inference_mode():
        pixels = processor.image_processor(picture, return_tensors="pt")["pixel_values"]
        projected = reader.projector(model.model.vision_tower(pixels).last_hidden_state)
        embeddings = reader.language_model.embed_tokens(packed.tokens)
        hidden = reader.language_model(
            inputs_embeds=torch.cat([embeddings[:, :2], projected, embeddings[:, 2 + CELLS :]], 1),
            attention_mask=packed.mask,
            position_ids=packed.positions,
        ).last_hidden_state
        for number, (question, answer) in enumerate(pairs, start=1):
            content = [{"type": "image"}, {"type": "text", "text": question}]
            prompt = processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)
            inputs = processor(text=[f"{prompt} {answer}"], images=[picture], return_tensors="pt")
            alone = model(**inputs).logits[0]
            here = (packed.block[0] == number) & (packed.labels[0] != NO_LABEL)
            assert int(here.sum()) == len(answer.split()) + 1
            torch.testing.assert_close(model.lm_head(hidden)[0][here], alone[-int(here.sum()) :], atol=1e-4, rtol=1e-4)


def test_unknown_words_are_read_but_never_asked_for(made):
    album = made[2]
    packed = pack([[("describe the image .", "a zyzzyva on the grass .")]], album.encoder(), CELLS, CELLS + 40)
    unknown = album.tokenizer.unk_token_id
    assert unknown in packed.tokens
    assert unknown not in packed.labels
    assert int((packed.labels != NO_LABEL).sum()) == 6


def test_the_concepts_are_what_is_said_and_shown(made):
    album = made[2]
    names = album.concepts.names
    for photo, row in zip(album.photos, album.present, strict=True):
        assert {names[i] for i in np.flatnonzero(row[:80])} == set(photo.objects)
        assert row[names.index("man")]
    assert "dog" not in names[80:]  # a class already


def test_the_odds_of_looking_at_the_picture_are_those_of_the_first_layers_attention(made):
    """As the real layer computes them for a word two places behind the picture, which is where questions have it."""
    _, _, album, reader = made
    words, opening = reader.language_model.embed_tokens.weight, reader.alignment.opening
    dog = album.tokenizer.get_vocab()["dog"]
    with torch.inference_mode():
        projected = torch.randn(1, CELLS, words.shape[1])
        tokens = torch.cat([words[opening], projected[0], words[[dog]]])[None]
        places = torch.tensor([*range(2 + CELLS), 2 + CELLS + 2])[None]
        layer = reader.language_model.layers[0]
        waves = reader.language_model.rotary_emb(tokens, places)
        hidden = layer.input_layernorm(tokens)
        layer.self_attn.config._attn_implementation = "eager"
        _, shares = layer.self_attn(hidden, waves, None)
        layer.self_attn.config._attn_implementation = "sdpa"
        look = reader._first_look(projected, words)
        odds = reader.alignment.picture_odds(look)[0, album.concepts.names.index("dog")]
    heads = look.words.shape[1]
    before, there = shares[0, :heads, -1, :2].sum(dim=-1), shares[0, :heads, -1, 2 : 2 + CELLS].sum(dim=-1)
    torch.testing.assert_close(odds.exp(), there / before, atol=1e-5, rtol=1e-4)


def test_a_yes_weighs_more_than_a_word(made):
    album = made[2]
    ids = album.tokenizer.get_vocab()
    weights = album.answer_weights()
    assert weights[ids["yes"]] > weights[ids["no"]] > weights[ids["dog"]] == 1
    assert int((weights != 1).sum()) == 2


def test_a_photo_told_left_from_right_is_not_mirrored(made, monkeypatch: pytest.MonkeyPatch):
    album = made[2]
    seen = []
    monkeypatch.setattr("grounding.starter.photo.stages.dialogue", lambda *args: [("where ?", "on the left")])
    monkeypatch.setattr(type(album.levels), "batch", lambda self, rows, flipped: seen.append(flipped) or _zeros(rows))
    for _, _ in zip(range(8), talks(album, CELLS, 4, 0, 0), strict=False):
        pass
    assert not np.any(seen)


def _zeros(rows: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.zeros(len(rows), 12, 4, 4), torch.zeros(len(rows), 24, 2, 2)


def test_both_stages_learn_and_the_weights_travel(made, tmp_path: Path):
    model, _, album, reader = made
    quick = Schedule(steps=60, warmup=5, peak_lr=5e-3, matrix_lr=5e-3, save_every=60)
    first = train_stage("alignment", reader.aligned(), quick, functools.partial(looks, album, 4, 0), reader, tmp_path)
    batches = functools.partial(talks, album, CELLS, 4, 0)
    modules = nn.ModuleDict({"reader": reader})
    untrained, _ = reader(next(iter(talks(album, CELLS, 4, 0, 0))))
    second = train_stage("language", modules, quick, batches, reader, tmp_path)
    assert {"presence", "rivalry", "evidence"} <= set(first[0])
    assert second[-1]["loss"] < 0.7 * untrained.item()
    folder = export(model.eval(), tiny_spec(), tmp_path, {"alignment": first, "language": second}, 0, 1)
    assert "94 %" in (folder / "README.md").read_text()
    vlm = load(str(folder), device="cpu")
    assert "hub model" in str(vlm.notice)
    (maps,) = record_maps(vlm, vlm.prepare([Image.open(album.photos[0].file)], ["the brown dog"]), RecordSpec())
    assert maps.grids[0].shape == (4, 4)
    assert np.isfinite(maps.values).all()


def test_an_unknown_word_is_refused_with_known_ones_beside_it(made):
    model, processor, album, _ = made
    from grounding.models.llava import Llava

    vlm = Llava(model.eval(), processor, "starter-photo")
    with pytest.raises(ExpressionError, match=r"'grasss'.*grass.*--model"):
        vlm.prepare([Image.open(album.photos[0].file)], ["the grasss"])


def test_probing_finds_the_cells_of_a_tower_of_convolutions(made):
    model, processor, *_ = made
    from grounding.models.llava import Llava

    torch.manual_seed(0)
    for parameter in (*model.model.vision_tower.parameters(), *model.model.multi_modal_projector.parameters()):
        if parameter.ndim > 1:
            torch.nn.init.kaiming_normal_(parameter)  # as built the tower's features are nearly 0
    vlm, size = Llava(model.eval(), processor, "starter-photo"), (90, 60)
    (layout,) = vlm.prepare([Image.new("RGB", size)], ["the brown dog"]).layouts
    (claimed,) = layout.grids
    (found,), _ = probe(vlm, size, bands=32)
    assert found.shape == claimed.shape == (4, 4)
    cell = np.tile([size[0] / 4, size[1] / 4], 2)
    assert (np.abs(np.subtract(found.box_xyxy, claimed.box_xyxy)) < 0.3 * cell).all()
    np.testing.assert_array_equal(found.positions, np.arange(16))


def test_an_interrupted_stage_ends_with_the_same_weights(folder: Path, tmp_path: Path):
    def run(out: Path, *stops: int) -> list[torch.Tensor]:
        out.mkdir()
        for steps in stops:
            *_, album, reader = make(folder, out / "features", None)
            schedule = Schedule(steps=8, warmup=2, matrix_lr=1e-3, save_every=4)

            def upto(first: int, steps: int = steps, album: Album = album):
                return (batch for _, batch in zip(range(first, steps), talks(album, CELLS, 4, 0, first), strict=False))

            train_stage("language", nn.ModuleDict({"reader": reader}), schedule, upto, reader, out)
        return [p.detach() for p in reader.parameters()]

    for one, two in zip(run(tmp_path / "whole", 8), run(tmp_path / "resumed", 4, 8), strict=True):
        torch.testing.assert_close(one, two)


def test_weights_too_large_to_ship_are_refused(made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(export_module, "LARGEST", 1000)
    with pytest.raises(OutputError, match="at most 1,000"):
        export(made[0], tiny_spec(), tmp_path, {}, 0, 1)
