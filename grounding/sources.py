"""Load a source of attention maps by name, whatever its kind, and find its method."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from grounding.errors import MethodError, ModelError
from grounding.maps.ensemble import JoinModels
from grounding.methods import Method, load_method, method_names
from grounding.model_files import STARTERS, is_pipeline, model_names

if TYPE_CHECKING:
    import torch

    from grounding.source import MapSource
    from grounding.text.parse import NounFinder


def load_source(
    name: str,
    device: str | torch.device = "auto",
    dtype: str | torch.dtype = "auto",
    device_map: str | dict[str, Any] | None = None,
    finder: NounFinder | None = None,
    method: Method | None = None,
    family: str | None = None,
) -> MapSource:
    """Load a vision-language model, a diffusion pipeline where `model_index.json` says that it is one, or an ensemble.

    Args:
        name: a starter's name, a folder written by `save_pretrained`, or a hub id; several of them, joined by `+`, for
            an ensemble.
        device: `auto`, `cpu`, `cuda`, `cuda:1` or `mps`.
        dtype: `auto`, `float32`, `bfloat16` or `float16`.
        device_map: accelerate's placement of a vision-language model over several devices; None uses `device` alone.
        finder: finds the head noun of an expression; None uses the built-in rules.
        method: an ensemble's, whose stage `ensemble` names its members' methods; each model's own where None.
        family: of a vision-language model, where not its own; see `grounding.models.load.load`.

    Raises:
        ModelError: the model cannot be loaded, or a diffusion pipeline was to be spread over devices or has a family
            named.
        MethodError: the method is not for this ensemble, or names an unknown one.
        MissingExtraError: a diffusion pipeline, without the extra `diffusion`.
    """
    names = model_names(name)
    if len(names) == 1:
        return _load_one(name, device, dtype, device_map, finder, family)
    from grounding.ensemble import Ensemble, Member

    methods = member_methods(name, method or method_for(name))
    load = cache(lambda one: _load_one(one, device, dtype, device_map, finder, family))
    return Ensemble([Member(load(one), own) for one, own in zip(names, methods, strict=True)])


def method_for(model: str, method: str | Path = "auto") -> Method:
    """The method for a model.

    Args:
        model: the model's name; see `load_source`.
        method: a shipped method's name or a YAML file; `auto` is the method named after a starter, else `ensemble` for
            several models, `diffusion` for a diffusers pipeline and `default` for a vision-language model.

    Raises:
        MethodError: no such method, its file is wrong, or it is for one model where several are named, or the other way
            round.
    """
    several = len(model_names(model)) > 1
    if method == "auto":
        named = model in STARTERS and model in method_names()
        one = "ensemble" if several else "diffusion" if is_pipeline(model) else "default"
        method = model if named else one
    chosen = load_method(method)
    if several:
        member_methods(model, chosen)
    elif _join(chosen) is not None:
        raise MethodError(
            f"method {chosen.name!r} joins the maps of several models, and {model} is one: name several, joined by +, "
            "such as starter+starter-dit"
        )
    return chosen


def member_methods(model: str, method: Method) -> tuple[Method, ...]:
    """The methods of an ensemble's members; empty for a single model.

    Args:
        model: the model's name; see `load_source`.
        method: the ensemble's.

    Raises:
        MethodError: the method has no stage `ensemble`, or it has not one weight and method per model.
    """
    names = model_names(model)
    if len(names) == 1:
        return ()
    join = _join(method)
    if join is None:
        raise MethodError(
            f"{model} is an ensemble, and method {method.name!r} has no stage 'ensemble': choose --method ensemble, or "
            "name this method among that stage's methods"
        )
    join.check_models(len(names))
    return tuple(method_for(name, own) for name, own in zip(names, join.methods or ("auto",) * len(names), strict=True))


def _join(method: Method) -> JoinModels | None:
    return next((stage for stage in method.stages if isinstance(stage, JoinModels)), None)


def _load_one(
    name: str,
    device: str | torch.device,
    dtype: str | torch.dtype,
    device_map: str | dict[str, Any] | None,
    finder: NounFinder | None,
    family: str | None,
) -> MapSource:
    if not is_pipeline(name):
        from grounding.models.load import load

        return load(name, device, dtype, device_map, finder, family)
    if family is not None:
        raise ModelError(
            f"--family was given, but {name} is a diffusion pipeline, whose class says its family: leave it out"
        )
    if device_map is not None:
        raise ModelError(
            f"--device-map was given, but {name} is a diffusion pipeline, whose transformer must stand on one device "
            "to be recorded: leave it out, or choose --dtype bfloat16"
        )
    from grounding.diffusion.load import load_diffusion

    return load_diffusion(name, device, dtype, finder)
