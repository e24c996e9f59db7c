from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import yaml
from made_maps import made_maps
from PIL import Image

from grounding.cli import main
from grounding.errors import ExpressionError, ImageError, MethodError
from grounding.localization.calibrate import HeadSettings, rank_heads
from grounding.localization.contrast import contrast_scores
from grounding.localization.ranking import EntropyRule, by_entropy, mean_rank, ranked, sharpest_bend
from grounding.localization.samples import HeadSample, manifest_samples
from grounding.localization.scores import HeadScores, head_scores, row_of
from grounding.maps.head_ranking import HeadRanking, load_ranking
from grounding.maps.selection import HeadsFixed
from grounding.methods import Method, parse_method
from grounding.models.llava import Llava
from grounding.models.tiny import tiny_llava

RANKING = HeadRanking("tiny", "entropy", 5, "00", 3, 2, ((2, 1, 0.9), (1, 0, 0.5), (2, 0, 0.1)))


@pytest.fixture(scope="module")
def vlm() -> Llava:
    return Llava(*tiny_llava(), name="tiny")


def sample(seed: int = 0, **more) -> HeadSample:
    pixels = np.random.default_rng(seed).integers(0, 256, (48, 64, 3), dtype=np.uint8)
    mask = np.zeros((48, 64), bool)
    mask[:24, :32] = True
    fields = {"other": "a dog", "mask": mask, "question": "is there a star ?", "answer": "yes"} | more
    return HeadSample(Image.fromarray(pixels), "the red star", **fields)


# -- rules


def test_the_cut_is_a_value_where_the_shares_bend() -> None:
    shares = np.concatenate([np.linspace(0, 0.1, 20), np.linspace(0.15, 1, 10)])
    assert 0.08 < sharpest_bend(shares) < 0.2
    assert sharpest_bend(np.random.default_rng(0).permutation(shares)) == sharpest_bend(shares)
    assert sharpest_bend(np.full(5, 0.3)) == 0.3
    for cut, kept in (("none", 30), ("curvature", 11), ("chord", 11)):
        assert abs((shares >= EntropyRule(cut).least(shares)).sum() - kept) <= 1


def test_heads_are_ranked_by_how_often_they_are_among_the_sharpest_that_look() -> None:
    share = np.array([[0.9, 0.9], [0.9, 0.01], [0.8, 0.7]], np.float32)
    one = HeadScores((0, 1, 2), share, np.array([[0, 0], [1.0, 0.1], [2.0, 3.0]], np.float32))
    two = HeadScores((0, 1, 2), share, np.array([[0, 0], [5.0, 0.1], [2.0, 3.0]], np.float32))
    rule = EntropyRule(min_share=0.5, skip_layers=1, marked=1)
    assert by_entropy([one, two], rule) == ((1, 0, 0.5), (2, 0, 0.5))  # 1.1 hardly looks; of equals the larger share
    assert by_entropy([one, two], replace(rule, skip_layers=0, marked=2))[:2] == ((0, 0, 1.0), (0, 1, 1.0))
    assert by_entropy([one, two], replace(rule, marked=9)) == ((1, 0, 0.5), (2, 0, 0.5))  # at most half of three
    with pytest.raises(MethodError, match="lower skip_layers"):
        by_entropy([one], replace(rule, skip_layers=3))


def test_ranks_are_averaged_over_scores() -> None:
    tables = [np.array([[1.0, 2.0], [3.0, 4.0]]), np.array([[40.0, 10.0], [20.0, 30.0]])]
    np.testing.assert_allclose(mean_rank(tables), [[0.5, 1 / 6], [0.5, 5 / 6]])
    assert ranked((4, 7), tables[0], tables[0])[0] == (7, 1, 4.0)
    assert [at[:2] for at in ranked((0, 1), mean_rank(tables), tables[0])] == [(1, 1), (1, 0), (0, 0), (0, 1)]


def test_scores_are_those_of_the_row_that_is_judged() -> None:
    maps = made_maps()
    mask = np.zeros((80, 120), bool)
    mask[:, :60] = True
    for row, rows in (("last", [4]), ("words", [1, 2])):
        values = maps.values[0][:, :, rows].mean(axis=2)
        np.testing.assert_array_equal(row_of(maps, row), values)
        scores = head_scores(maps, row, mask)
        cells = values[..., 4:].reshape(4, 3, 4, 6)
        np.testing.assert_allclose(scores.share, cells.sum(axis=(2, 3)), rtol=1e-5)
        np.testing.assert_allclose(scores.agreement, cells[..., :3].sum(axis=(2, 3)) / scores.share, rtol=1e-5)
    with pytest.raises(ImageError, match="no pixel"):
        head_scores(maps, "last", np.zeros((80, 120), bool))


# -- on a model


def test_what_heads_add_makes_up_what_attention_adds(vlm) -> None:
    """The heads' parts sum to the change of the attention block's output at the last row."""
    import torch

    from grounding.attention.introspect import output_projection
    from grounding.localization import contrast

    seen = {}
    layer = vlm.decoder.layers[1]
    hook = output_projection(layer).register_forward_hook(lambda module, args, out: seen.update(ins=args[0], out=out))
    with torch.inference_mode():
        one = sample()
        prepared = vlm.prepare([one.image] * 2, [one.expression, one.other])
        vlm.model(**prepared.inputs)
    hook.remove()
    parts = contrast._parts(vlm, layer, seen["ins"][:, -1].float())
    change = (seen["out"][0, -1] - seen["out"][1, -1]).float()
    np.testing.assert_allclose(parts.sum(dim=0).numpy(), change.numpy(), atol=1e-5)


def test_the_same_words_change_nothing_and_other_words_are_needed(vlm) -> None:
    scores, maps = contrast_scores(vlm, sample(), "last")
    assert scores.shape == maps.values.shape[1:3]
    assert 0 <= scores.min() < scores.max() <= 1
    with pytest.raises(ExpressionError, match="an 'other'"):
        contrast_scores(vlm, sample(other=None), "last")


@pytest.mark.parametrize("rule", ["entropy", "share", "contrast", "agreement", "causal"])
def test_every_rule_ranks_and_is_stored(vlm, rule, tmp_path) -> None:
    settings = HeadSettings(rule, entropy=EntropyRule(skip_layers=0, marked=4))
    sources = [lambda: sample(0), lambda: sample(1), lambda: sample(2, mask=None, other=None, answer=None)]
    missed = []
    found = rank_heads(vlm, sources, settings, seed=3, left_out=lambda index, why: missed.append(index))
    assert missed == ([2] if rule in ("contrast", "agreement", "causal") else [])
    ranking = found.ranking
    assert ranking.n == 3 - len(missed)
    scores = [score for _, _, score in ranking.ranking]
    assert scores == sorted(scores, reverse=True)
    assert found.spearman is None or -1 <= found.spearman <= 1
    ranking.save(tmp_path / "heads.yaml")
    again = load_ranking(tmp_path / "heads.yaml")
    assert again.top(2) == ranking.top(2)
    assert again.data_sha256 == ranking.data_sha256
    other = rank_heads(vlm, sources[:1], settings).ranking
    assert other.data_sha256 != ranking.data_sha256


def test_no_usable_sample_is_one_sentence(vlm) -> None:
    with pytest.raises(MethodError, match="none of 1 samples could be used; of the first one: the rule agreement"):
        rank_heads(vlm, [lambda: sample(mask=None)], HeadSettings("agreement"))


# -- files


def test_a_stage_reads_the_best_heads_of_a_file(tmp_path) -> None:
    path = tmp_path / "heads.yaml"
    RANKING.save(path)
    stage = HeadsFixed(heads=str(path), count=2)
    assert stage.pairs == ((2, 1), (1, 0))
    assert stage.needs(3).layers == (1, 2)
    maps = made_maps(layers=(0, 1, 2), heads=2)
    np.testing.assert_array_equal(stage(maps)[0].values, HeadsFixed(pairs=((2, 1), (1, 0)))(maps)[0].values)
    with pytest.raises(MethodError, match="those of tiny, which has 3 layers, but the model has 7"):
        stage.needs(7)
    with pytest.raises(MethodError, match="4 heads were asked for, but 3 are ranked"):
        HeadsFixed(heads=str(path), count=4)
    with pytest.raises(MethodError, match="keep one of both"):
        HeadsFixed(pairs=((0, 0),), heads=str(path), count=2)


def test_a_method_with_a_heads_file_reads_back_equal(tmp_path) -> None:
    path = tmp_path / "heads.yaml"
    RANKING.save(path)
    text = yaml.safe_dump(
        {"description": "d", "source": "s", "stages": [{"stage": "heads-fixed", "heads": str(path), "count": 1}]}
    )
    method = parse_method(text, "mine", "mine.yaml")
    assert isinstance(method, Method)
    assert parse_method(method.to_yaml(), "mine", "mine.yaml") == method
    assert "2\n" in method.to_yaml()  # the heads themselves are in it


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"ranking": []}, "at least one head"),
        ({"ranking": [[0, 0, 1.0], [0, 0, 0.5]]}, "each once"),
        ({"ranking": [[9, 0, 1.0]]}, "head 0 of layer 9"),
        ({"rule": "luck"}, "rule: got 'luck'"),
    ],
)
def test_a_wrong_heads_file_is_one_sentence(tmp_path, change, said) -> None:
    path = tmp_path / "heads.yaml"
    RANKING.save(path)
    path.write_text(yaml.safe_dump(yaml.safe_load(path.read_text()) | change))
    with pytest.raises(MethodError, match=said):
        load_ranking(path)
    with pytest.raises(MethodError, match="written by grounding calibrate heads"):
        HeadsFixed(heads=str(tmp_path / "none.yaml"))


def test_a_line_without_another_expression_takes_the_next_different_one(tmp_path) -> None:
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    lines = [
        {"image": "a.png", "expression": "dog"},
        {"image": "a.png", "expression": "dog", "other": "bus"},
        {"image": "a.png", "expression": "cat"},
    ]
    (tmp_path / "data.jsonl").write_text("\n".join(map(json.dumps, lines)))
    assert [source().other for source in manifest_samples(tmp_path / "data.jsonl")] == ["cat", "bus", "dog"]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ([], "one of --data FILE.jsonl and --scenes N"),
        (["--scenes", "2", "--data", "x.jsonl"], "one of --data"),
        (["--scenes", "0"], "at least 1 scene"),
        (["--scenes", "2", "--marked", "0"], "marked >= 1"),
        (["--data", "/nowhere.jsonl"], "cannot be read"),
    ],
)
def test_the_command_refuses_before_it_loads_a_model(options, said, tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.setattr("grounding.models.load.load", lambda *a: pytest.fail("the model was loaded"))
    assert main(["calibrate", "heads", "--out", str(tmp_path / "h.yaml"), *options]) == 2
    assert said in capsys.readouterr().err


def test_the_command_ranks_the_starter_on_scenes(tmp_path, capsys) -> None:
    out = tmp_path / "heads.yaml"
    assert main(["calibrate", "heads", "--out", str(out), "--scenes", "4", "--marked", "5", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["n"] == 4
    assert load_ranking(out).layers == 5
    assert all(layer >= 2 for layer, _ in load_ranking(out).top(4))
