"""Names of models and ensembles, and the methods that fit them."""

from __future__ import annotations

import pytest

from grounding.errors import MethodError, ModelError
from grounding.model_files import model_names, source_of
from grounding.sources import load_source, member_methods, method_for

PAIR = "starter+starter-dit"


def write_method(file, stage) -> str:
    file.write_text(f"description: d\nsource: s\nstages:\n  - {{stage: ensemble, {stage}}}\n", encoding="utf-8")
    return str(file)


def test_a_plus_joins_models_but_is_allowed_in_a_folders_name(tmp_path) -> None:
    assert model_names("starter") == ("starter",)
    assert model_names("starter + owner/model") == ("starter", "owner/model")
    folder = tmp_path / "a+b"
    folder.mkdir()
    assert model_names(str(folder)) == (str(folder),)
    for name in ("starter+", "+starter", "a++b", "+"):
        with pytest.raises(ModelError, match=r"lacks a model's name beside a \+"):
            model_names(name)
    with pytest.raises(ModelError, match="are several models, and this needs one"):
        source_of(PAIR)


def test_the_members_methods_are_their_own_unless_the_file_names_others(tmp_path) -> None:
    assert method_for(PAIR).name == "ensemble"
    assert [one.name for one in member_methods(PAIR, method_for(PAIR))] == ["starter", "starter-dit"]
    file = write_method(tmp_path / "mine.yaml", "methods: [plain-mean, auto]")
    assert [one.name for one in member_methods(PAIR, method_for(PAIR, file))] == ["plain-mean", "starter-dit"]
    assert member_methods("starter", method_for("starter")) == ()


@pytest.mark.parametrize(
    ("model", "stage", "said"),
    [
        (PAIR, "weights: [1.0]", "has 1 weights for 2 models"),
        (PAIR, "methods: [auto, auto, auto]", "has 3 methods for 2 models"),
        (PAIR, "methods: [auto, gone]", "method 'gone' is unknown"),
        (PAIR, "methods: [auto, ensemble]", "joins the maps of several models, and starter-dit is one"),
        ("starter", "how: ranks", "joins the maps of several models, and starter is one"),
        (PAIR, "how: sum", "input should be 'product' or 'ranks'"),
    ],
)
def test_a_method_that_does_not_fit_the_models_is_refused(tmp_path, model, stage, said) -> None:
    with pytest.raises(MethodError, match=said):
        method_for(model, write_method(tmp_path / "mine.yaml", stage))


def test_a_method_for_one_model_is_refused_for_several() -> None:
    with pytest.raises(MethodError, match="method 'refam' has no stage 'ensemble': choose --method ensemble"):
        method_for(PAIR, "refam")


def test_a_model_named_twice_is_loaded_once(tmp_path, tiny_model) -> None:
    file = write_method(tmp_path / "mine.yaml", "methods: [plain-mean, relative]")
    name = f"{tiny_model}+{tiny_model}"
    ensemble = load_source(name, "cpu", method=method_for(name, file))
    assert ensemble.members[0].source is ensemble.members[1].source
    assert [member.method.name for member in ensemble.members] == ["plain-mean", "relative"]
