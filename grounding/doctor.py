"""Checks of recording on the installed versions, with tiny random models of the real classes.

For each family: rows recorded under the fast kernel equal the weights of eager attention, for a left-padded batch and
for every step of a generation; logits and generated tokens are the same with and without recording; a batch equals its
single elements; each cell moves with the part of the picture that its family claims.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from grounding.doctor_cells import cells_lie

if TYPE_CHECKING:
    from grounding.models.base import VLM, Prepared

BATCH_TOLERANCE = 1e-5
"""Largest difference between a batch and its single elements, whose rounding differs with the length; our choice."""
GENERATED_TOKENS = 5
OLDEST_TRANSFORMERS = (5, 2)
EXPRESSIONS = ("the red elephant left of the dog", "dog")


@dataclass(frozen=True)
class Check:
    """One check and its result.

    Attributes:
        name: family and property, such as "llava: rows equal eager attention".
        passed: whether the property holds; None where the check was skipped.
        detail: what was measured, what differs, or why the check was skipped.
    """

    name: str
    passed: bool | None
    detail: str


def check(model: VLM | str | None = None) -> list[Check]:
    """Check the installed versions.

    Args:
        model: a loaded model, or a model's name (`starter`, folder or hub id; only its config is read), to check its
            model type; every known family if None.

    Returns:
        The checks in order, one for the versions and seven per family, eight of hybrids with linear attention. A check
        that cannot run fails with the reason. A family of another distribution is skipped, in one check, where
        `grounding.models.tiny.TINY` has no model of it.

    Raises:
        ModelError: the named model cannot be found, or its type has no family.
    """
    from grounding.models.registry import FAMILIES, family_class

    if model is None:
        model_types = sorted(FAMILIES)
    elif isinstance(model, str):
        from grounding.models.load import load_config

        model_types = [load_config(model).model_type]
        family_class(model_types[0], model)
    else:
        model_types = [model.model.config.model_type]
    return [check_versions(), *(one for model_type in model_types for one in check_family(model_type))]


def check_family(model_type: str) -> list[Check]:
    """Run the checks of one family on its tiny model; see `check`."""
    from grounding.models.registry import family_class
    from grounding.models.tiny import TINY

    if model_type not in TINY:
        return [Check(f"{model_type}: all checks", None, "skipped: there is no tiny model of this family to check")]
    try:
        vlm = family_class(model_type)(*TINY[model_type](), f"tiny {model_type}")
        prepared = vlm.prepare(_pictures(), EXPRESSIONS)
    except ImportError as missing:  # a package that transformers needs for this family's processor
        return [Check(f"{model_type}: all checks", None, f"skipped: {one_line(missing)}")]
    except Exception as error:
        return [Check(f"{model_type}: words and cells are found", False, one_line(error))]
    cells = sum(len(grid.positions) for layout in prepared.layouts for grid in layout.grids)
    words = sum(len(words) for words in prepared.words)
    checks = [Check(f"{model_type}: words and cells are found", True, f"{words} words, {cells} cells in a batch of 2")]
    properties: tuple[tuple[str, Callable[[VLM, Prepared], tuple[bool | None, str]]], ...] = (
        ("rows equal eager attention", rows_equal_eager),
        ("rows of generated tokens equal eager attention", _generated_rows_equal_eager),
        ("logits are unchanged by recording", logits_unchanged),
        ("generation is unchanged by recording", generation_unchanged),
        ("a left-padded batch equals its single elements", _batch_equals_single),
        ("cells lie where the picture is seen", cells_lie),
    )
    if vlm.linear_layers:
        properties = (*properties, ("rows of linear attention give the layers' outputs", _linear_rows))
    for name, holds in properties:
        try:
            passed, detail = holds(vlm, prepared)
        except Exception as error:  # a broken installation can raise anything
            passed, detail = False, one_line(error)
        checks.append(Check(f"{model_type}: {name}", passed, detail))
    return checks


def check_versions() -> Check:
    """Check the versions of transformers and torch."""
    import torch
    import transformers

    found = tuple(int(part) for part in transformers.__version__.split(".")[:2])
    detail = f"transformers {transformers.__version__}, torch {torch.__version__}"
    oldest = ".".join(map(str, OLDEST_TRANSFORMERS))
    if found < OLDEST_TRANSFORMERS:
        return Check("versions", False, f"{detail}: expected transformers {oldest} or newer")
    return Check("versions", True, detail)


def rows_equal_eager(vlm: VLM, prepared: Prepared, allowed: float | None = None) -> tuple[bool, str]:
    """Whether rows under the model's own kernel equal those of eager attention, and what was seen.

    Args:
        vlm: the model.
        prepared: a batch.
        allowed: largest difference; that of one layer in float32 where None.
    """
    import torch

    from grounding.attention.rows import TOLERANCE
    from grounding.compat import decoder_attentions

    allowed = allowed or TOLERANCE[torch.float32]
    recording = _recorded(vlm, prepared)
    with eager(vlm.model), torch.inference_mode():
        output = vlm.model(**prepared.inputs, output_attentions=True, use_cache=False)
    attentions = _of_map_layers(vlm, decoder_attentions(output))
    if len(attentions) != len(vlm.map_layers):
        return False, f"eager attention gave {len(attentions)} layers, expected {len(vlm.map_layers)}"
    full = torch.stack(attentions, dim=1).float()  # [B, L, H, N, N]
    worst = 0.0
    for index, queries in enumerate(queries_of(prepared)):
        expected = full[index][:, :, list(queries)]
        worst = max(worst, float((recording.prefill[index] - expected).abs().max()))
    kind = "softmax attention" if vlm.map_attention == "softmax" else "cross-attention"
    without = f"; layers {list(vlm.skipped_layers)} have no {kind}" if vlm.skipped_layers else ""
    return worst <= allowed, f"largest difference {worst:.1e}, allowed {allowed:.0e}{without}"


def _linear_rows(vlm: VLM, prepared: Prepared) -> tuple[bool, str]:
    import torch

    from grounding.attention.recorder import record
    from grounding.attention.request import RowRequest
    from grounding.record_spec import RecordSpec

    request = RowRequest(queries=queries_of(prepared), spec=RecordSpec(attention="linear"))
    with torch.inference_mode(), record(vlm.model, request, verify=True) as recording:
        vlm.model(**prepared.inputs, use_cache=False)  # the recording compares rows @ values with the outputs
    below = float((recording.prefill[0] < 0).float().mean())
    return True, f"layers {list(recording.layers)}, {below:.0%} of the weights below 0, outputs unchanged"


def _generated_rows_equal_eager(vlm: VLM, prepared: Prepared) -> tuple[bool, str]:
    import torch

    from grounding.attention.rows import TOLERANCE

    allowed = TOLERANCE[torch.float32]
    with _recording(vlm, prepared) as recording:
        _generate(vlm, prepared)
    with eager(vlm.model):
        slow = _generate(vlm, prepared, output_attentions=True)
    worst, steps = 0.0, slow.attentions[1:]  # the first entry is the prompt's
    for index in range(len(prepared)):
        recorded = recording.decode[index]  # [steps, L, H, 1, C]
        if len(recorded) != len(steps):
            return False, f"{len(recorded)} steps were recorded, eager attention gave {len(steps)}"
        for step, layers in enumerate(steps):
            for layer, weights in enumerate(_of_map_layers(vlm, layers)):
                expected = weights[index].float()  # [H, 1, K]
                got = recorded[step, layer, :, :, : expected.shape[-1]]
                worst = max(worst, float((got - expected).abs().max()))
    detail = f"{len(steps)} steps, largest difference {worst:.1e}, allowed {allowed:.0e}"
    return bool(steps) and worst <= allowed, detail


def logits_unchanged(vlm: VLM, prepared: Prepared) -> tuple[bool, str]:
    """Whether logits have the same bits with and without recording, and what was seen."""
    import torch

    with torch.inference_mode():
        plain = vlm.model(**prepared.inputs, use_cache=False).logits
        with _recording(vlm, prepared):
            recorded = vlm.model(**prepared.inputs, use_cache=False).logits
        after = vlm.model(**prepared.inputs, use_cache=False).logits
    if not torch.equal(plain, recorded):
        return False, f"they differ by up to {float((plain - recorded).abs().max()):.1e}, expected equal bits"
    if not torch.equal(plain, after):
        return False, "the model is not restored after recording: a later run differs"
    return True, "equal bits during and after recording"


def generation_unchanged(vlm: VLM, prepared: Prepared) -> tuple[bool, str]:
    """Whether generated tokens and scores have the same bits with and without recording, and what was seen."""
    import torch

    plain = _generate(vlm, prepared)
    with _recording(vlm, prepared):
        recorded = _generate(vlm, prepared)
    same = torch.equal(plain.sequences, recorded.sequences)
    exact = same and all(torch.equal(a, b) for a, b in zip(plain.scores, recorded.scores, strict=True))
    if not exact:
        return False, "the scores differ" if same else "other tokens are generated"
    return True, f"{len(plain.scores)} tokens with equal bits in their scores"


def _batch_equals_single(vlm: VLM, prepared: Prepared) -> tuple[bool, str]:
    from grounding.models.maps import record_maps
    from grounding.record_spec import RecordSpec

    together = record_maps(vlm, prepared, RecordSpec())
    worst = 0.0
    for index, picture in enumerate(_pictures()):
        alone = record_maps(vlm, vlm.prepare([picture], [EXPRESSIONS[index]]), RecordSpec())[0]
        if alone.values.shape != together[index].values.shape:
            return False, f"shapes {alone.values.shape} alone and {together[index].values.shape} in a batch"
        worst = max(worst, float(abs(alone.values - together[index].values).max()))
    padding = max(layout.padding for layout in prepared.layouts)
    passed = worst <= BATCH_TOLERANCE and padding > 0
    return passed, f"{padding} padding tokens, largest difference {worst:.1e}, allowed {BATCH_TOLERANCE:.0e}"


def _of_map_layers(vlm: VLM, attentions: Sequence[Any]) -> list[Any]:
    """Those of the layers whose rows are maps; models return those of all layers, or of these alone."""
    every = len(attentions) == vlm.layer_count
    return [attentions[layer] for layer in vlm.map_layers] if every else list(attentions)


def queries_of(prepared: Prepared) -> tuple[tuple[int, ...], ...]:
    """Per element the positions of its words."""
    return tuple(
        tuple(dict.fromkeys(position for word in words for position in word.positions)) for words in prepared.words
    )


def _recorded(vlm: VLM, prepared: Prepared) -> Any:
    import torch

    with torch.inference_mode(), _recording(vlm, prepared) as recording:
        vlm.model(**prepared.inputs, use_cache=False)
    return recording


def _recording(vlm: VLM, prepared: Prepared) -> Any:
    from grounding.attention.recorder import record
    from grounding.attention.request import RowRequest
    from grounding.record_spec import RecordSpec

    spec = RecordSpec(layers=vlm.map_layers, attention=vlm.map_attention)
    return record(vlm.model, RowRequest(queries=queries_of(prepared), decode=True, spec=spec))


def _generate(vlm: VLM, prepared: Prepared, **options: Any) -> Any:
    """Call the model's `generate` for its scores and attentions, which `steering.generate` does not return."""
    import torch

    from grounding.compat import last_logits_option

    with torch.inference_mode():
        return vlm.model.generate(
            **prepared.inputs,
            max_new_tokens=GENERATED_TOKENS,
            min_new_tokens=GENERATED_TOKENS,
            do_sample=False,
            return_dict_in_generate=True,
            output_scores=True,
            **last_logits_option(vlm.model),
            **options,
        )


@contextmanager
def eager(model: Any) -> Iterator[None]:
    """Run eager attention inside the block."""
    before = model.config._attn_implementation
    model.set_attn_implementation("eager")
    try:
        yield
    finally:
        model.set_attn_implementation(before)


def _pictures() -> list[Any]:
    import numpy as np
    from PIL import Image

    generator = np.random.default_rng(0)
    return [
        Image.fromarray(generator.integers(0, 256, (height, width, 3), dtype=np.uint8))
        for height, width in ((90, 130), (100, 60))
    ]


def one_line(error: Exception) -> str:
    """An error as one line."""
    return f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
