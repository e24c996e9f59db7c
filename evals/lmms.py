"""A model class for `lmms_eval`: models of this project, steered or not, under the tasks of lmms-eval.

`lmms_eval --model grounding --model_args pretrained=llava-hf/llava-1.5-7b-hf,steer=headwise --tasks pope ...`. The
entry point in `pyproject.toml` registers the class. Needs the extra `lmms`.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from accelerate import Accelerator
from lmms_eval.api.instance import GenerationResult, Instance, TokenCounts
from lmms_eval.api.model import lmms
from lmms_eval.models.registry_v2 import ModelManifest
from PIL import Image

from grounding.errors import GroundingError, ImageError, MethodError
from grounding.images import as_rgb
from grounding.models.load import load
from grounding.runs.attempts import attempt
from grounding.runs.provenance import short_hash
from grounding.steering.decoding import Decoding, Generated
from grounding.steering.generate import check_steering, generate
from grounding.steering.method import load_steering

log = logging.getLogger(__name__)

LIMIT = 1024  # new tokens if the task sets no limit; as in lmms_eval's own models


def manifest() -> ModelManifest:
    """Return the manifest for `lmms_eval`'s registry."""
    return ModelManifest(model_id="grounding", simple_class_path=f"{__name__}.SteeredModel")


class SteeredModel(lmms):
    """A model of `grounding.models` that generates through `grounding.steering`.

    Args:
        pretrained: `starter`, a folder written by save_pretrained, or a hub id.
        steer: a shipped steering method's name, or a YAML file; unsteered if empty.
        device: see `grounding.models.load.load`; each of several processes uses its own GPU.
        dtype: see `load`.
        device_map: see `load`; empty for none.
        family: see `load`; empty for the model's own.
        batch_size: requests per batch.
        seed: of sampling.

    Raises:
        GroundingError: the model or the steering method cannot be used.
    """

    is_simple = True

    def __init__(
        self,
        pretrained: str = "starter",
        steer: str = "",
        device: str = "auto",
        dtype: str = "auto",
        device_map: str = "",
        family: str = "",
        batch_size: int | str = 1,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.accelerator = Accelerator()
        self._rank, self._world_size = self.accelerator.process_index, self.accelerator.num_processes
        self.batch_size = int(batch_size)
        self.seed = int(seed)
        self.steering = load_steering(steer) if steer else None
        target = self.accelerator.device if self._world_size > 1 else device
        self.vlm = load(pretrained, target, dtype, device_map or None, family=family or None)
        if self.steering is not None:
            check_steering(self.steering, self.vlm, Decoding())

    @property
    def device(self) -> Any:
        """The device of the inputs."""
        return self.vlm.device

    def generate_until(self, requests: Sequence[Instance]) -> list[GenerationResult]:
        """Answer every request, in order; requests with equal generation settings share batches.

        A request that fails has the empty answer, which a task scores as wrong; it is logged as a warning, and so is
        their number.

        Raises:
            GroundingError: no request could be answered, or one met an error that every other would meet too.
        """
        found: dict[int, GenerationResult] = {}
        failed: list[GroundingError] = []
        for places in _batches([request.args[1] for request in requests], self.batch_size):
            chosen = [requests[place].args for place in places]
            settings = chosen[0][1]
            for place, text in zip(places, attempt(chosen, self._answers), strict=True):
                if isinstance(text, GroundingError):
                    failed.append(text)
                    log.warning("document %s of %s is not answered: %s", *requests[place].args[3:5], text)
                    found[place] = GenerationResult("", TokenCounts(output_tokens=0))
                    continue
                answer = cut_at_stop(text.text, settings.get("until"))
                found[place] = GenerationResult(answer, TokenCounts(output_tokens=len(text.token_ids)))
                self.cache_hook.add_partial("generate_until", (requests[place].args[0], settings), answer)
        if failed and len(failed) == len(requests):
            raise failed[0]
        if failed:
            log.warning("%d of %d requests are not answered and count as wrong", len(failed), len(requests))
        return [found[place] for place in range(len(requests))]

    def _answers(self, requests: Sequence[tuple[Any, ...]]) -> list[Generated]:
        """Answer requests with equal settings together."""
        questions = [args[0].replace(self.vlm.image_token, "").strip() for args in requests]
        images = [self._picture(*args[2:]) for args in requests]
        decoding = decoding_of(requests[0][1], int(short_hash([self.seed, questions], 8), 16))
        return generate(self.vlm, images, questions, self.steering, decoding)

    def generate_until_multi_round(self, requests: Sequence[Instance]) -> list[str]:
        """Refuse tasks of several rounds."""
        raise MethodError("the model 'grounding' answers single questions: choose tasks without rounds")

    def loglikelihood(self, requests: Sequence[Instance]) -> list[tuple[float, bool]]:
        """Refuse tasks of likelihoods; steering applies to generated texts only."""
        raise MethodError("the model 'grounding' generates texts and gives no likelihoods: choose tasks that generate")

    def _picture(self, visuals_of: Any, document: Any, task: str, split: str) -> Image.Image:
        visuals = visuals_of(self.task_dict[task][split][document])
        if len(visuals) != 1 or not isinstance(visuals[0], Image.Image):
            raise ImageError(
                f"document {document} of {task} shows {len(visuals)} pictures or videos, but the model 'grounding' "
                "takes one picture a question: choose another task"
            )
        return as_rgb(visuals[0])


def decoding_of(settings: Mapping[str, Any], seed: int) -> Decoding:
    """Convert a task's generation settings; at temperature 0 decoding is greedy, whatever `do_sample` says.

    Raises:
        GroundingError: a setting is out of range or of the wrong type.
    """
    temperature = settings.get("temperature") or 0.0
    try:
        return Decoding(
            max_new_tokens=int(settings.get("max_new_tokens") or LIMIT),
            num_beams=int(settings.get("num_beams") or 1),
            do_sample=bool(settings.get("do_sample", temperature > 0)) and temperature > 0,
            temperature=temperature or 1.0,
            top_p=settings.get("top_p") or 1.0,
            seed=seed,
        )
    except (TypeError, ValueError) as wrong:
        raise GroundingError(f"the task's generation settings {dict(settings)} cannot be read: {wrong}") from wrong


def cut_at_stop(text: str, until: Any) -> str:
    """Cut the text before the first of its stop strings."""
    ends = [until] if isinstance(until, str) else [end for end in until or () if end]
    return text[: min((text.find(end) for end in ends if end in text), default=len(text))].strip()


def _batches(settings: Sequence[Mapping[str, Any]], size: int) -> Iterator[list[int]]:
    """Group the indices of requests with equal settings into batches."""
    alike: dict[str, list[int]] = {}
    for place, one in enumerate(settings):
        alike.setdefault(short_hash({key: str(value) for key, value in one.items()}, 16), []).append(place)
    for places in alike.values():
        yield from (places[start : start + size] for start in range(0, len(places), size))
