from __future__ import annotations

import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from made_maps import WORDS, made_maps, suited, with_background

from grounding.errors import ExpressionError, MethodError
from grounding.joint_spec import Readout
from grounding.maps.combine import Combine
from grounding.maps.compose import Compose
from grounding.maps.contrast import Difference, Ratio
from grounding.maps.flow import Flow
from grounding.maps.head_noun import HeadNoun
from grounding.maps.heads import HeadMaxImage, HeadMean, HeadMeanMax
from grounding.maps.layers import LayerChoice, LayerMean
from grounding.maps.linear import LinearLayers, Unsigned
from grounding.maps.magnets import PRESETS, Magnets
from grounding.maps.selection import HeadsByEntropy, HeadsFixed
from grounding.maps.sinks import ColumnOutliers, ResidualSinks
from grounding.maps.smooth import Smooth
from grounding.maps.spatial_bias import SpatialBias
from grounding.maps.text_sinks import TextSinks
from grounding.maps.words import Rows, StopWords
from grounding.methods import STAGES, Method, load_method, method_names, parse_method, run_stages, without
from grounding.points import RULES, ArgMax, MaxMinPair, OtsuBox, SpreadPoints
from grounding.record_spec import RecordSpec
from grounding.segmenters.mask_selection import MaskRule
from grounding.types import WordKind

SHIPPED = ("decaf", "default", "plain-mean", "relative", "starter", "vl-sam", "vl-sam-points")
HEAD = "description: d\nsource: s\n"


shares = st.floats(0, 1, allow_subnormal=False)
some_stages = [
    st.builds(StopWords, kinds=st.sets(st.sampled_from(["stop", "spatial", "magnet"]), min_size=1).map(
        lambda kinds: tuple(WordKind(kind) for kind in sorted(kinds))
    )),
    st.builds(Rows, words=shares, head=shares, last=st.floats(0.1, 3), normalise=st.booleans()),
    st.builds(LayerChoice, start=st.floats(0, 0.4), stop=st.floats(0.6, 1), skip=st.integers(0, 3)),
    st.builds(LayerChoice, indices=st.lists(st.integers(-9, 9), min_size=1, max_size=4).map(tuple)),
    st.builds(Flow, head_weights=st.sampled_from(["mean", "max_all", "max_image"]), residual=st.none() | shares),
    st.builds(LayerMean), st.builds(HeadMean), st.builds(HeadMeanMax), st.builds(HeadMaxImage),
    st.builds(HeadsFixed, pairs=st.just(((2, 1), (5, 0))), join=st.sampled_from(["mean", "geometric"])),
    st.builds(HeadsByEntropy, count=st.integers(1, 5), min_share=st.none() | shares),
    st.builds(ColumnOutliers, factor=st.floats(0.1, 9), fill=st.sampled_from(["zero", "neighbours"])),
    st.builds(ResidualSinks, tau=st.floats(1, 30), skip_layers=st.integers(0, 4)),
    st.builds(Ratio, prompt=st.sampled_from(["Describe.", "no: 'quotes' #"]), epsilon=shares),
    st.builds(Difference, prompt=st.just("Décrire"), strength=st.floats(0.1, 2), match=st.just("none")),
    st.builds(Smooth, sigma=st.floats(0.1, 3)),
    st.builds(Magnets, preset=st.sampled_from(sorted(PRESETS)), encoding=st.sampled_from(["separate", "inline"])),
    st.builds(Magnets, words=st.just(("a", "no: 'quotes' #")), skip_content=st.booleans()),
    st.builds(TextSinks, share=st.floats(0.1, 9), handling=st.sampled_from(["drop", "renormalise"])),
    st.builds(TextSinks, handling=st.just("mask"), strongest=st.integers(0, 3), queries=st.just("all"),
              edit_start=st.none() | st.floats(0, 0.9)),
    st.builds(HeadNoun, keep=st.sampled_from(["noun", "phrase"])), st.builds(SpatialBias, floor=shares),
    st.builds(Combine, how=st.sampled_from(["sum", "mean", "max"])),
]  # fmt: skip
method_stages = st.lists(st.one_of(some_stages), max_size=4)
rules = st.one_of(
    st.just(ArgMax()), st.builds(MaxMinPair, threshold=st.just("otsu") | st.floats(0.1, 1)),
    st.builds(SpreadPoints, count=st.integers(1, 9), margin=shares), st.builds(OtsuBox, with_point=st.booleans()),
)  # fmt: skip
masks = st.builds(
    MaskRule, st.sampled_from(["iou", "agreement", "both"]), st.sampled_from(["pearson", "soft_iou", "consistency"]),
    st.booleans(), shares, shares, st.booleans(),
)  # fmt: skip

readouts = st.sampled_from([
    Readout(), Readout(levels=(0.2, 0.5), draws=2), Readout("outputs", temperature=2.0, unit=True),
    Readout("outputs", concepts="stream", background=("floor", "no: 'quotes' #"), pooled="zero"),
])  # fmt: skip


def method(*stages, **fields) -> Method:
    return Method(name="m", description="d", source="s", stages=stages, **fields)


def test_the_shipped_methods_are_found():
    assert set(SHIPPED) <= set(method_names())


@pytest.mark.parametrize("name", method_names())
def test_every_shipped_method_runs_and_gives_points(name):
    loaded = load_method(name)
    maps = with_background(made_maps(layers=tuple(range(6))))
    pairs = [pair for stage in loaded.stages if isinstance(stage, HeadsFixed) for pair in stage.pairs]
    if pairs:  # such a method belongs to one model: give the maps its heads
        layers = tuple(range(max(layer for layer, _ in pairs) + 1))
        maps = with_background(made_maps(layers=layers, heads=max(head for _, head in pairs) + 1))
    maps = suited(maps, *loaded.stages)
    heatmap = run_stages(loaded, maps)
    assert [report.stage for report in heatmap.stages] == [stage.name for stage in loaded.stages]
    assert all(0 <= report.removed <= 1 and report.detail for report in heatmap.stages)
    assert heatmap.values.max() == 1
    assert heatmap.image_size == maps.image_size
    assert (loaded.points(heatmap).label == 1).any()


@pytest.mark.parametrize("name", method_names())
def test_a_method_written_as_yaml_reads_back_equal(name):
    loaded = load_method(name)
    assert parse_method(loaded.to_yaml(), name, "again.yaml") == loaded


def _reduced(table, spec):
    return table.mean(2, keepdims=True) if spec.reduce == "heads" else table


@pytest.mark.parametrize("name", method_names())
def test_what_a_method_asks_for_is_enough(name):
    """Maps that hold only what the spec names, of a model deeper than what was recorded, give the same heat map."""
    loaded = load_method(name)
    depth = 30
    spec = loaded.record_spec(depth)
    full = with_background(made_maps(layers=tuple(range(depth)), heads=8))
    full = replace(full, layer_count=depth, background=replace(full.background, layer_count=depth))
    full = suited(full, *loaded.stages)

    def recorded(maps):
        if spec.flow is not None:  # a flow is recorded as such
            return replace(maps, background=maps.background if spec.background_prompt else None)
        at = list(spec.layers if spec.layers is not None else range(depth))
        return replace(
            maps,
            values=_reduced(maps.values[:, at], spec),
            layers=tuple(at),
            head_statistics={key: maps.head_statistics[key][at] for key in spec.head_statistics},
            residual_sinks=maps.residual_sinks[at] if spec.residual_sinks else None,
            text_to_text=_reduced(maps.text_to_text[:, at], spec) if spec.text_to_text else None,
            features=maps.features if spec.features else None,
            logits=maps.logits if spec.logits else None,
            background=recorded(maps.background) if spec.has_background and maps.background is not None else None,
        )

    # The sink test reads every recorded layer, so it may see more in the full maps; it has its own tests.
    if "sinks-columns" in [stage.name for stage in loaded.stages]:
        loaded = without(loaded, "sinks-columns")
    np.testing.assert_allclose(run_stages(loaded, recorded(full)).values, run_stages(loaded, full).values, atol=1e-4)


def test_the_spec_follows_the_stages():
    spec = load_method("default").record_spec(28)
    assert spec.layers == tuple(range(14, 28))
    assert spec.head_statistics == ("max_image",)
    assert spec.residual_sinks
    assert spec.reduce == "none"
    assert spec.background_prompt == load_method("default").background_prompt == "Describe the image."
    assert load_method("default").record_spec().layers is None
    assert method(HeadMeanMax()).record_spec().head_statistics == ("max_all",)
    assert method(HeadMean()).record_spec(9).reduce == "heads"
    assert method(HeadsFixed(pairs=((7, 1), (3, 0)))).record_spec().layers == (3, 7)
    with pytest.raises(MethodError, match="another model"):
        method(HeadsFixed(pairs=((7, 1),))).record_spec(6)


def test_without_leaves_one_stage_out():
    loaded = load_method("default")
    names = [stage.name for stage in loaded.stages]
    for name in names:
        left = without(loaded, name)
        assert [stage.name for stage in left.stages] == [other for other in names if other != name]
        assert left.name == f"default-without-{name}"
        assert run_stages(left, with_background(made_maps())).values.max() == 1
    assert without(loaded, "contrast-difference").background_prompt is None
    with pytest.raises(MethodError, match="it has sinks-columns, layers-select"):
        without(loaded, "flow")


def test_a_file_of_ones_own(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text(HEAD + "stages: [{stage: layers-select, indices: [-1]}]\npoints: {rule: otsu-box}\n")
    mine = load_method(path)
    assert (mine.name, mine.stages, mine.points) == ("mine", (LayerChoice(indices=(-1,)),), OtsuBox())
    assert load_method(str(path)) == mine
    with pytest.raises(MethodError, match=r"gone\.yaml cannot be read"):
        load_method(tmp_path / "gone.yaml")
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(MethodError, match="not UTF-8"):
        load_method(path)


@pytest.mark.parametrize("name", ["defualt", "", "default.", "DEFAULT"])
def test_an_unknown_method_names_the_known_ones(name):
    known = ", ".join(method_names())
    assert {"decaf", "default", "diffusion", "ensemble", "plain-mean", "refam"} <= set(known.split(", "))
    with pytest.raises(MethodError, match=known):
        load_method(name)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a: [", "mine.yaml is not YAML"),
        ("- a", "expected keys and values"),
        ("stages: []", "description and source must be given"),
        (HEAD + "stages: []\nstage: x", "unknown key 'stage' (did you mean 'stages'?)"),
        (HEAD + "stages: heads-mean", "stages must be a list"),
        (HEAD + "stages: [heads-mean]", "expected keys and values, got 'heads-mean'"),
        (
            HEAD + "stages: [{stage: smoth}]",
            "stage 'smoth' is unknown (did you mean 'smooth'?): the known ones are stop-words",
        ),
        (HEAD + "stages: [{stage: [smooth]}]", "stage ['smooth'] is unknown"),
        (HEAD + "stages: [{sigma: 1}]", "a stage needs 'stage: NAME', got the keys sigma"),
        (
            HEAD + "stages: [{stage: layers-select, stop: 5}]",
            "stop 5 is not a share of the depth in [0, 1]: name",
        ),
        (HEAD + "stages: [{stage: layers-select, start: 2}]", "leave out the first ones with 'skip: 2'"),
        (HEAD + "stages: [{stage: smooth, sigm: 1}]", "unknown key 'sigm' (did you mean 'sigma'?)"),
        (HEAD + "stages: [{stage: heads-mean, a: 1}]", "the known ones are none at all"),
        (HEAD + "stages: [{stage: smooth, sigma: '1'}]", "mine.yaml: stage 'smooth': sigma: got '1'"),
        (HEAD + "stages: [{stage: smooth, sigma: true}]", "sigma: got True"),
        (HEAD + "stages: [{stage: smooth, sigma: -1}]", "mine.yaml: stage 'smooth' needs sigma > 0"),
        (HEAD + "stages: [{stage: contrast-ratio}]", "prompt must be given"),
        (HEAD + "stages: [{stage: heads-fixed, pairs: [[1]]}]", "pairs: got [[1]]"),
        (HEAD + "stages: []\npoints: {rule: best}", "points rule 'best' is unknown: the known ones are argmax"),
        (HEAD + "stages: []\npoints: {rule: spread, count: 1.5}", "count: got 1.5"),
        (HEAD + "stages: []\npoints: {rule: spread, threshold: half}", "threshold: got 'half'"),
        (HEAD + "stages: []\nmask: {choice: best}", "mask: choice: got 'best'"),
        (HEAD + "stages: []\nmask: {whole_share: 2}", "mask: whole_share, whole_penalty and specks are shares"),
        (HEAD + "stages: []\ncompose: {upscale: 0}", "mine.yaml: compose needs upscale >= 1"),
        (HEAD + "stages: []\nprompt: 3", "prompt must be text"),
        (HEAD + "stages: []\nreadout: {what: inputs}", "readout: what: got 'inputs'"),
        (HEAD + "stages: []\nreadout: {level: [0.5]}", "unknown key 'level' (did you mean 'levels'?)"),
        (HEAD + "stages: []\nreadout: {levels: [1.5]}", "noise levels must lie between 0 (clean) and 1 (noise)"),
        (HEAD + "stages: []\nreadout: {concepts: stream}", "are those of attention outputs: write 'what: outputs'"),
        (HEAD + "stages: []\nreadout: {what: outputs, background: [floor]}", "write 'concepts: stream'"),
        (HEAD + "stages: [{stage: text-sinks, strongest: 1}]", "for handling 'mask' and 'redirect' alone"),
        (HEAD + "stages: [{stage: text-sinks, handling: redirect}]", "sinks can only be redirected onto magnets"),
        (HEAD + "stages: []\nprompt: Where is it?", "no {expression} in it"),
    ],
)
def test_a_wrong_file_is_one_clear_sentence(text, said):
    with pytest.raises(MethodError) as caught:
        parse_method(text, "mine", "mine.yaml")
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("stages", "said"),
    [
        ((LayerMean(), LayerChoice()), "'layers-select' must come before 'layers-mean'"),
        ((LayerMean(), ResidualSinks()), "'sinks-residual' must come before 'layers-mean'"),
        ((LayerMean(), HeadMaxImage()), "'heads-max-image' must come before 'layers-mean'"),
        ((LayerMean(), HeadsByEntropy()), "'heads-entropy' must come before 'layers-mean'"),
        ((HeadsByEntropy(), ResidualSinks()), "'sinks-residual' must come before 'heads-entropy'"),
        ((Rows(last=1), StopWords()), "'stop-words' must come before 'rows'"),
        ((Ratio("x"), LayerMean()), "'layers-mean' must come before 'contrast-ratio'"),
        ((Difference("x"), HeadMean()), "'heads-mean' must come before 'contrast-difference'"),
        ((HeadMean(), HeadMeanMax()), "two ways to join heads"),
        ((Ratio("x"), Difference("x")), "two contrasts"),
        ((LayerMean(), LayerMean()), "'layers-mean' occurs twice"),
    ],
)
def test_the_order_of_stages_is_checked(stages, said):
    with pytest.raises(MethodError) as caught:
        method(*stages)
    assert said in str(caught.value)


def test_numbers_in_files_reach_the_stages():
    text = HEAD + "stages: [{stage: rows, last: 1, head: 0.5}]\ncompose: {upscale: 3}\npoints: {rule: argmax}\n"
    text += "mask: {cascade: true, whole_share: 0.8, whole_penalty: 0.25, multimask: false}\n"
    parsed = parse_method(text, "n", "n.yaml")
    assert parsed.stages == (Rows(last=1.0, head=0.5),)
    assert (parsed.compose.upscale, parsed.points, parsed.mask.cascade) == (3, ArgMax(), True)
    assert parsed.mask == MaskRule("both", "pearson", True, 0.8, 0.25, False)
    plain = parse_method(HEAD + "stages: []", "n", "n.yaml")
    assert (plain.points, plain.mask) == (SpreadPoints(), MaskRule("both"))


@settings(max_examples=60)
@given(method_stages, rules, masks, st.integers(1, 4), st.none() | st.just("Where is {expression}?"), readouts)
def test_any_method_written_as_yaml_reads_back_equal(stages, points, mask, upscale, prompt, readout):
    composed = Compose(upscale=upscale)
    try:
        made = method(*stages, points=points, mask=mask, compose=composed, prompt=prompt, readout=readout)
    except MethodError:
        assume(False)
    again = parse_method(made.to_yaml(), "m", "m.yaml")
    assert again == made
    assert again.record_spec(12) == made.record_spec(12)


def test_no_stages_is_the_plain_mean():
    maps = made_maps()
    heatmap = run_stages(method(), maps)
    assert heatmap.stages == ()
    assert np.unravel_index(heatmap.values.argmax(), (4, 6)) == np.unravel_index(
        maps.values[..., 4:].mean((0, 1, 2, 3)).argmax(), (4, 6)
    )


def test_words_that_point_at_nothing_are_an_expression_error():
    with pytest.raises(ExpressionError, match="name an object"):
        run_stages(load_method("plain-mean"), made_maps(words=(WORDS[0], WORDS[-1])))


def test_every_stage_and_rule_documents_itself():
    for known in (*map(STAGES.get, STAGES), *map(RULES.get, RULES)):
        assert known.__doc__
        assert not known.__doc__.startswith(f"{known.__name__}(")


def test_methods_load_without_torch():
    code = "import sys, grounding.methods as m; m.load_method('default'); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_stage_that_reads_shares_needs_linear_attention_without_its_sign():
    with pytest.raises(MethodError, match=r"stage 'rows' needs weights >= 0.*put the stage 'unsigned' before it"):
        method(LinearLayers(), Rows(last=1.0))
    fit = method(LinearLayers(), LayerChoice(start=0.5), Unsigned(), HeadMean(), Rows(last=1.0))
    assert fit.record_spec(8) == RecordSpec(layers=(4, 5, 6, 7), attention="linear")  # heads only after the sign
    with pytest.raises(MethodError, match="'unsigned' must come before 'heads-mean'"):
        method(LinearLayers(), HeadMean(), Unsigned())
    with pytest.raises(MethodError, match="but the maps hold weights of softmax attention"):
        run_stages(fit, made_maps(layers=tuple(range(8))))
    with pytest.raises(MethodError, match=r"head_statistics.* are recorded of softmax attention"):
        method(LinearLayers(), Unsigned(), HeadMeanMax()).record_spec(8)


@pytest.mark.parametrize(("how", "removed"), [("absolute", 0.0), ("positive", 0.5)])
def test_weights_lose_their_sign(how, removed):
    maps = made_maps()
    turned = replace(maps, values=np.concatenate([maps.values, -maps.values], axis=2), signed=True)
    result, report = Unsigned(how)(turned)
    size = np.abs(maps.values)
    expected = size if how == "absolute" else np.zeros_like(size)
    np.testing.assert_array_equal(result.values, np.concatenate([size, expected], axis=2))
    assert not result.signed
    assert report.removed == pytest.approx(removed)
