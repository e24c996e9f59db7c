"""Record once what many methods need: the words once per prompt, list of magnets and flow, each background once."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial, reduce
from operator import or_

from PIL import Image

from grounding.errors import GroundingError
from grounding.methods import Method
from grounding.record_spec import RecordSpec
from grounding.runs.attempts import attempt
from grounding.types import AttentionMaps
from pipelines.referring import ReferringSegmentation

Pairs = Sequence[tuple[Image.Image, str]]


@dataclass(frozen=True)
class SharedRecording:
    """Methods that run on one recording of the words.

    Attributes:
        methods: by name; they share the prompt, and magnets where they have any.
        spec: what is recorded of the words, without a background.
        backgrounds: per method the spec of its background; methods without one are left out.
    """

    methods: Mapping[str, Method]
    spec: RecordSpec
    backgrounds: Mapping[str, RecordSpec]

    def record(
        self, pipe: ReferringSegmentation, pairs: Pairs, names: Iterable[str] | None = None
    ) -> list[dict[str, AttentionMaps | GroundingError]]:
        """Record one batch.

        Args:
            pipe: the pipeline.
            pairs: (RGB picture, expression).
            names: of the methods that are wanted; all where None.

        Returns:
            Per pair and method its maps, with its background, or the error of either.
        """
        wanted = list(self.methods) if names is None else list(names)
        asked = next(iter(self.methods.values()))
        words = attempt(pairs, partial(pipe.record_maps, spec=self.spec, method=asked))
        behind = {
            spec: attempt(pairs, partial(pipe.record_backgrounds, spec=spec, method=asked))
            for spec in {self.backgrounds[name]: None for name in wanted if name in self.backgrounds}
        }
        found = []
        for index, maps in enumerate(words):
            own: dict[str, AttentionMaps | GroundingError] = {}
            for name in wanted:
                spec = self.backgrounds.get(name)
                other = None if spec is None else behind[spec][index]
                failed = next((one for one in (maps, other) if isinstance(one, GroundingError)), None)
                if failed is not None:
                    own[name] = failed
                elif isinstance(maps, AttentionMaps):
                    own[name] = maps if not isinstance(other, AttentionMaps) else replace(maps, background=other)
            found.append(own)
        return found


def shared_recordings(methods: Mapping[str, Method], layer_count: int) -> tuple[SharedRecording, ...]:
    """The least recordings that serve all methods; that of the first method comes first.

    The kind of attention, magnets, an edit of sinks, a readout, a flow and the prompt change every weight, so that each
    has a recording of its own. A contrast needs both sides recorded to one spec, so all backgrounds are recorded to
    that of the words.

    Args:
        methods: by name, at least one.
        layer_count: the model's layers.
    """
    groups: dict[object, dict[str, Method]] = {}
    for name, method in methods.items():
        spec = method.record_spec(layer_count)
        # A flow's layers are a part of it, whereas single layers are left out again by the methods that need fewer.
        through = None if spec.flow is None else (spec.flow, spec.layers)
        groups.setdefault((method.prompt, spec.attention, spec.magnets, spec.sinks, spec.readout, through), {})[
            name
        ] = method
    return tuple(_shared(group, layer_count) for group in groups.values())


def _shared(methods: Mapping[str, Method], layer_count: int) -> SharedRecording:
    specs = {name: method.record_spec(layer_count) for name, method in methods.items()}
    union = reduce(or_, (spec.without_background() for spec in specs.values()))
    behind = {
        name: replace(union, background_prompt=spec.background_prompt, background_kind=spec.background_kind)
        for name, spec in specs.items()
        if spec.has_background
    }
    return SharedRecording(methods, union, behind)
