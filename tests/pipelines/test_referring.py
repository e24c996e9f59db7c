from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from grounding.errors import ExpressionError, ImageError, MethodError, OutputError
from grounding.files import slug
from grounding.images import open_image
from grounding.io import decode_mask, load_heatmap
from pipelines.referring import ReferringSegmentation, method_for


@pytest.fixture
def images(pictures):
    return {name: open_image(pictures / f"{name}.png") for name in "abc"}


@pytest.fixture
def counted(loaded, monkeypatch):
    """How often the segmenter's encoder ran, and what every forward pass was asked."""
    vlm, segmenter = loaded
    seen = {"encoded": [], "asked": []}
    encode, prepare = segmenter.set_image, vlm.prepare

    def set_image(image):
        seen["encoded"].append(image.size)
        encode(image)

    def prepared(pictures, expressions, prompt=None):
        seen["asked"].append((tuple(expressions), prompt))
        return prepare(pictures, expressions, prompt)

    monkeypatch.setattr(segmenter, "set_image", set_image)
    monkeypatch.setattr(vlm, "prepare", prepared)
    return seen


def test_one_pair_gives_one_whole_result(make_pipe, images):
    result = make_pipe("relative")(images["a"], "the red dog")
    assert result.expression == "the red dog"
    assert [one.mask.shape for one in result.segments] == [(90, 130)]
    assert result.segments[0].label == "the red dog"
    assert result.segments[0].agreement is not None
    assert result.map.image_size == (130, 90)
    assert [report.stage for report in result.stages][-1] == "smooth"
    assert result.points.label[0] == 1
    timings = result.timings
    assert min(timings.attention, timings.stages, timings.encode, timings.mask) > 0
    assert timings.total == pytest.approx(timings.attention + timings.stages + timings.encode + timings.mask)


def test_many_pairs_keep_their_order_and_share_the_work(make_pipe, images, counted):
    pairs = [
        (images[name], words) for name, words in (("a", "dog"), ("b", "dog"), ("a", "the red image"), ("a", "left"))
    ]
    results = make_pipe("relative", batch_size=3)(pairs)
    assert [result.expression for result in results] == ["dog", "dog", "the red image", "left"]
    assert [result.map.image_size for result in results] == [image.size for image, _ in pairs]
    assert counted["encoded"] == [images["a"].size, images["b"].size]
    generic = [words for words, prompt in counted["asked"] if "{expression}" not in (prompt or "{expression}")]
    assert generic == [("",), ("",)]


def test_a_method_without_contrast_asks_no_generic_prompt(make_pipe, images, counted):
    make_pipe("plain-mean")(images["a"], "dog")
    assert counted["asked"] == [(("dog",), None)]


def test_the_image_that_the_segmenter_has_is_not_encoded_again(make_pipe, images, counted):
    pipe = make_pipe()
    pipe(images["a"], "dog")
    pipe(images["a"].copy(), "red")
    assert len(counted["encoded"]) == 1
    changed = images["a"].copy()
    changed.putpixel((0, 0), (1, 2, 3))
    pipe(changed, "red")
    assert len(counted["encoded"]) == 2


@pytest.mark.parametrize("method", ["plain-mean", "relative"])
def test_a_batch_answers_as_its_single_pairs_do(method, make_pipe, images):
    pairs = [(images["a"], "the red dog left of the image"), (images["b"], "dog"), (images["b"], "red")]
    together = make_pipe(method, batch_size=3)(pairs)
    alone = make_pipe(method, batch_size=1)(pairs)
    for one, other in zip(together, alone, strict=True):
        np.testing.assert_allclose(one.map.values, other.map.values, atol=2e-3)
        np.testing.assert_array_equal(one.points.xy, other.points.xy)
        assert (one.segments[0].mask == other.segments[0].mask).mean() > 0.99


def test_paths_and_odd_pictures_are_read(make_pipe, pictures):
    grey = Image.new("L", (40, 30), 90)
    grey.paste(200, (5, 5, 20, 20))
    results = make_pipe()([(pictures / "c.png", "dog"), (str(pictures / "c.png"), "red"), (grey, "dog")])
    assert [result.image.size for result in results] == [(64, 64), (64, 64), (40, 30)]
    assert all(result.image.mode == "RGB" for result in results)


def test_what_cannot_be_answered_is_refused(make_pipe, pictures, images):
    pipe = make_pipe()
    with pytest.raises(ImageError):
        pipe(pictures / "none.png", "dog")
    with pytest.raises(ExpressionError):
        pipe(images["a"], " ")
    with pytest.raises(TypeError, match=r"pipe\(picture, expression\)"):
        pipe(images["a"])
    assert pipe([]) == []


def test_the_method_goes_with_the_model():
    assert method_for("starter").name == "starter"
    assert method_for("owner/model").name == "default"
    assert method_for("starter", "relative").name == "relative"
    with pytest.raises(MethodError, match="'nonsense' is unknown"):
        ReferringSegmentation.from_pretrained("no-such-model", method="nonsense")


def test_the_mask_and_the_object_alone_are_pictures_of_the_images_size(make_pipe, images, tmp_path):
    result = make_pipe()(images["a"], "the red dog")
    mask, cutout = result.save(tmp_path, formats=("mask", "cutout"))
    assert (mask.name, cutout.name) == ("the-red-dog.mask.png", "the-red-dog.cutout.png")
    on = result.segments[0].mask
    assert on.any()
    assert not on.all()
    with Image.open(mask) as picture:
        assert picture.mode == "L"
        np.testing.assert_array_equal(np.asarray(picture), on * 255)
    with Image.open(cutout) as picture:
        assert picture.mode == "RGBA"
        pixels = np.asarray(picture)
    np.testing.assert_array_equal(pixels[..., 3], on * 255)
    np.testing.assert_array_equal(pixels[on][:, :3], np.asarray(images["a"].convert("RGB"))[on])
    assert not pixels[~on].any()


def test_coco_results_of_one_picture_have_the_number_that_the_caller_gives(make_pipe, images, tmp_path):
    result = make_pipe()(images["a"], "the red dog")
    for given, expected in (({}, 1), ({"image_id": 139}, 139)):
        (file,) = result.save(tmp_path, formats=("coco",), **given)
        assert [entry["image_id"] for entry in json.loads(file.read_text())] == [expected]


def test_saving_writes_every_format(make_pipe, images, tmp_path):
    result = make_pipe()(images["a"], "The red dog!")
    png, coco, npz = result.save(tmp_path / "deep" / "out")
    assert (png.name, coco.name, npz.name) == ("the-red-dog.png", "the-red-dog.coco.json", "the-red-dog.npz")
    assert Image.open(png).width > Image.open(png).height
    entry = json.loads(coco.read_text())[0]
    np.testing.assert_array_equal(decode_mask(entry["segmentation"]), result.segments[0].mask)
    np.testing.assert_array_equal(load_heatmap(npz).values, result.map.values)
    assert result.save(tmp_path, "named", ("npz",)) == (tmp_path / "named.npz",)
    with pytest.raises(OutputError, match="format 'gif' is not known"):
        result.save(tmp_path, formats=("gif",))
    with pytest.raises(OutputError, match="a file is where a folder is needed"):
        result.save(png / "below")


@pytest.mark.parametrize(
    ("text", "name"),
    [("Red dog / left", "red-dog-left"), ("../..", "result"), ("Größe 3", "größe-3"), ("a" * 99, "a" * 60)],
)
def test_names_of_files_hold_letters_and_digits_only(text, name):
    assert slug(text) == name


def test_the_class_is_found_at_the_top_of_the_package():
    import pipelines

    assert pipelines.ReferringSegmentation is ReferringSegmentation
    with pytest.raises(AttributeError, match="no attribute 'Nonsense'"):
        pipelines.Nonsense  # noqa: B018


def test_maps_of_the_generic_prompt_are_kept_per_request_and_prompt(make_pipe, images):
    pipe = make_pipe("relative")
    pair = (images["a"], "the red dog")
    plain = replace(pipe.spec, background_prompt="Describe the image.", reduce="heads")
    first = pipe.record_maps([pair], plain)[0].background
    every_head = pipe.record_maps([pair], replace(plain, reduce="none"))[0].background
    other = pipe.record_maps([pair], replace(plain, background_prompt="Where is it?"))[0].background
    assert first.values.shape[2] == 1
    assert every_head.values.shape[2] == pipe.source.head_count
    assert [word.text for word in first.words] != [word.text for word in other.words]


def test_one_picture_takes_several_expressions_and_several_pictures_one(make_pipe, images, counted):
    pipe = make_pipe()
    results = pipe(images["a"], ["dog", "the red image"])
    assert [one.expression for one in results] == ["dog", "the red image"]
    assert len(counted["encoded"]) == 1
    assert [one.image.size for one in pipe([images["a"], images["b"]], "dog")] == [(130, 90), (60, 100)]
    assert pipe(images["a"], []) == []
    assert pipe(image=images["a"], expression="dog").expression == "dog"
    assert pipe(image=[(images["a"], "dog")])[0].expression == "dog"


def test_pictures_as_arrays_tensors_and_bytes(make_pipe, images, pictures):
    import torch

    array = np.asarray(images["a"])
    tensor = torch.from_numpy(array.copy()).permute(2, 0, 1)
    forms = [images["a"], array, tensor, (pictures / "a.png").read_bytes(), str(pictures / "a.png")]
    results = [make_pipe()(form, "dog") for form in forms]
    assert all(one == results[0] for one in results)
    with pytest.raises(ImageError, match="is a URL: download the picture"):
        make_pipe()("https://example.org/a.png", "dog")
    with pytest.raises(ImageError, match="a picture was given as int"):
        make_pipe()(3, "dog")


@pytest.mark.parametrize(
    ("image", "expression", "said"),
    [
        ("a", None, "a picture needs an expression, and none was given"),
        ("a", 3, "a picture needs an expression, and 3 was given"),
        ("a", ["dog", 3], "a picture needs an expression"),
        (["a", "b"], ["dog", "red"], "several pictures go with one expression"),
        (["a", "b"], None, "element 0 is str, expected a pair"),
        (("a", "dog"), None, "element 0 is str, expected a pair"),
        ([("a", "dog", 1)], None, "element 0 is tuple, expected a pair"),
    ],
)
def test_calls_of_another_form_say_how_to_call(image, expression, said, make_pipe):
    with pytest.raises(TypeError, match=said) as caught:
        make_pipe()(image, expression)
    assert "pipe([(picture, expression), ...])" in str(caught.value)


def test_results_compare_by_value_and_save_one_format_by_name(make_pipe, images, tmp_path):
    one, again, other = (make_pipe()(images[name], "dog") for name in "aab")
    assert one == one
    assert one == again
    assert one != other
    assert one != replace(one, expression="cat")
    assert one.save(tmp_path, formats="png") == (tmp_path / "dog.png",)
    with pytest.raises(OutputError, match="format 'gif' is not known"):
        one.save(tmp_path, formats="gif")


def test_names_of_saved_files_stay_apart(make_pipe, images, tmp_path):
    results = make_pipe()(images["a"], ["dog " * 30, "dog " * 29 + "red"])
    assert len({file for one in results for file in one.save(tmp_path, formats="npz")}) == 2
