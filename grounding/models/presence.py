"""Ask a vision-language model a yes-no question and read how sure it is, without generating a text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from PIL import Image

from grounding.errors import ModelError
from grounding.memory import explain_out_of_memory
from grounding.numerics import refuse_overflow

if TYPE_CHECKING:
    from grounding.models.base import VLM

_YES, _NO = (tuple(lead + form for form in forms for lead in ("", " ")) for forms in (("yes", "Yes"), ("no", "No")))
_REMEDY = "use fewer pictures per batch, smaller pictures, --dtype bfloat16, or a smaller model"


def yes_shares(vlm: VLM, images: Sequence[Image.Image], questions: Sequence[str]) -> list[float]:
    """Measure how much more a model would answer yes than no.

    Args:
        vlm: the model.
        images: RGB pictures, one per question.
        questions: yes-no questions.

    Returns:
        Per question, probability of yes / (probability of yes + probability of no) for the first token of the answer,
        in [0, 1]. Upper and lower case and a leading blank are counted together.

    Raises:
        ExpressionError: a question has words outside a closed vocabulary.
        ModelError: the tokenizer begins yes and no with the same tokens, or the model is out of memory.
    """
    yes, no = (_first_tokens(vlm, forms) for forms in (_YES, _NO))
    yes, no = yes - no, no - yes  # some tokenizers begin both with a blank of its own
    if not yes or not no:
        raise ModelError(
            f"the tokenizer of {vlm.name} does not tell yes from no by the first token: leave --verify out"
        )
    prepared = vlm.prepare_questions(images, questions)
    with torch.inference_mode(), explain_out_of_memory(f"running {vlm.name}", _REMEDY):
        logits = vlm.model(**prepared.inputs, use_cache=False, logits_to_keep=1).logits
    refuse_overflow(logits, vlm.name)
    odds = logits[:, -1].float()
    masses = [odds[:, sorted(tokens)].logsumexp(dim=-1) for tokens in (yes, no)]
    return [float(share) for share in torch.sigmoid(masses[0] - masses[1])]


def _first_tokens(vlm: VLM, forms: Sequence[str]) -> set[int]:
    """The first tokens of the forms that the tokenizer knows."""
    found = (vlm.tokenizer(form, add_special_tokens=False)["input_ids"] for form in forms)
    return {ids[0] for ids in found if ids} - {vlm.tokenizer.unk_token_id}
