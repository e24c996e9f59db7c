"""Make variants of a method on equal terms: every contrast in the place of its own, every refinement at its end."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Literal

from grounding.errors import MethodError
from grounding.maps.base import Stage
from grounding.maps.contrast import Difference, LeastSquares, OtherWords, Ratio
from grounding.maps.contrast.background import BackgroundContrast, Behind
from grounding.maps.refine import BiasedCut, Propagate
from grounding.maps.smooth import SmoothRanks
from grounding.methods import Method, load_method, method_names

Vary = Literal["contrasts", "refinements"]

GENERIC = "Describe the image."
_BACKGROUNDS: dict[str, tuple[Behind, Literal["mean", "least"]]] = {
    "a generic prompt": ("prompt", "mean"),
    "no query": ("no-query", "mean"),
    "a blank picture": ("blank", "mean"),
    "moved pictures": ("shifted", "mean"),
    "the least of moved pictures": ("shifted", "least"),
}
_ROWS = ("rows", "combine")


def contrasts(method: Method, prompt: str = GENERIC) -> dict[str, Method]:
    """The method with no contrast, and with each way of contrast against each background in its place.

    A method without a contrast gets it in front of its smoothing and refinement, or else at its end. Contrast with the
    other words of the text stands in front of the stage that mixes the rows.

    Args:
        method: the method.
        prompt: generic prompt, where the method has none of its own.
    """
    own = [stage for stage in method.stages if isinstance(stage, BackgroundContrast)]
    plain = tuple(stage for stage in method.stages if not isinstance(stage, BackgroundContrast | OtherWords))
    if own:
        place = method.stages.index(own[0])
        place -= sum(isinstance(stage, OtherWords) for stage in method.stages[:place])
    else:
        late = [i for i, stage in enumerate(plain) if stage.name.startswith(("smooth", "refine"))]
        place = late[0] if late else len(plain)
    asked = next((stage.prompt for stage in own if stage.background == "prompt"), prompt)
    found = {"no contrast": _with_stages(method, plain)}
    for name, (background, over) in _BACKGROUNDS.items():
        said = asked if background == "prompt" else ""
        for way, stage in (
            ("ratio to", Ratio(said, background, over)),
            ("difference from", Difference(said, background, over)),
            ("least squares on", LeastSquares(said, background, over)),
        ):
            found[f"{way} {name}"] = _with_stages(method, (*plain[:place], stage, *plain[place:]))
    rows = next((i for i, stage in enumerate(plain) if stage.name in _ROWS), None)
    if rows is not None:
        for which in ("earlier", "other"):
            words = OtherWords(which)
            found[f"least squares on {which} words"] = _with_stages(method, (*plain[:rows], words, *plain[rows:]))
    return {name: variant for name, variant in found.items() if variant.stages != method.stages}


def refinements(method: Method) -> dict[str, Method]:
    """The method with one refinement by features, or TAM's filter, at its end."""
    stages: dict[str, Stage] = {
        "+ propagation": Propagate(),
        "+ sharp propagation": Propagate(power=8.0, share=0.7),
        "+ biased cut": BiasedCut(),
        "+ biased cut as the map": BiasedCut(keep="cut"),
        "+ plain cut": BiasedCut(vectors=1),
        "+ filter by rank": SmoothRanks(),
    }
    kept = tuple(stage for stage in method.stages if not stage.name.startswith("refine"))
    return {
        name: _with_stages(method, (*(one for one in kept if one.name != stage.name), stage))
        for name, stage in stages.items()
    }


def compared(method: Method, names: Iterable[str], vary: Iterable[Vary], prompt: str = GENERIC) -> dict[str, Method]:
    """The methods to compare with another.

    Args:
        method: the method that they are compared with.
        names: shipped methods or YAML files; `all` is every shipped one.
        vary: kinds of variants of the method.
        prompt: see `contrasts`.

    Raises:
        MethodError: a method is unknown, or two have one name.
    """
    found: dict[str, Method] = {}
    for name in names:
        for one in method_names() if name == "all" else (name,):
            loaded = load_method(one)
            if found.get(loaded.name, loaded) != loaded:
                raise MethodError(f"two of the methods are named {loaded.name!r}: rename one file")
            found[loaded.name] = loaded
    if "contrasts" in vary:
        found |= contrasts(method, prompt)
    if "refinements" in vary:
        found |= refinements(method)
    return found


def _with_stages(method: Method, stages: tuple[Stage, ...]) -> Method:
    return replace(method, name=f"{method.name}-variant", stages=stages)
