"""Text embeddings by a transformers model: a dual encoder such as CLIP, or an encoder whose tokens are averaged."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from grounding import hub
from grounding.errors import ModelError
from grounding.files import user_path
from grounding.types import FloatArray

_BATCH = 256  # texts of one pass


class TextEmbedding:
    """Turn texts into unit vectors.

    Args:
        model: a transformers model with `get_text_features`, else one with token states, which are averaged.
        tokenizer: its tokenizer.
    """

    def __init__(self, model: Any, tokenizer: Any) -> None:
        self._model = model.eval()
        self._tokenizer = tokenizer

    @classmethod
    def from_pretrained(cls, name: str, device: str = "cpu") -> TextEmbedding:
        """Load a model by hub id or folder.

        Raises:
            ModelError: it cannot be found or read.
        """
        from transformers import AutoModel, AutoTokenizer

        source = str(user_path(name)) if user_path(name).is_dir() else name
        try:
            with hub.without_waiting(source):
                tokenizer = AutoTokenizer.from_pretrained(source)
                model = AutoModel.from_pretrained(source)
        except (OSError, ValueError, KeyError) as wrong:
            from huggingface_hub import is_offline_mode

            away = not user_path(name).exists() and (is_offline_mode() or not hub.is_reachable())
            reason = hub.unreachable(name) if away else (str(wrong).strip().splitlines() or [type(wrong).__name__])[0]
            raise ModelError(
                f"the text embedding model {name!r} could not be loaded ({reason}): give a hub id such as "
                "openai/clip-vit-large-patch14-336 or a folder, or leave it out, and names are matched by their words"
            ) from wrong
        return cls(model.to(device), tokenizer)

    def __call__(self, texts: Sequence[str]) -> FloatArray:
        """Embed texts; see `grounding.text.categories.Embed`. A text longer than the model's limit is cut."""
        import torch

        device = self._model.device
        limit = min(int(self._tokenizer.model_max_length), int(_text_config(self._model).max_position_embeddings))
        parts = []
        with torch.inference_mode():
            for start in range(0, len(texts), _BATCH):
                batch = self._tokenizer(
                    list(texts[start : start + _BATCH]),
                    padding=True,
                    truncation=True,
                    max_length=limit,
                    return_tensors="pt",
                ).to(device)
                parts.append(torch.nn.functional.normalize(self._vectors(batch).float(), dim=-1).cpu())
        return torch.cat(parts).numpy()

    def _vectors(self, batch: Any) -> Any:
        if hasattr(self._model, "get_text_features"):
            found = self._model.get_text_features(**batch)
            return getattr(found, "pooler_output", found)
        states = self._model(**batch).last_hidden_state
        real = batch["attention_mask"][..., None].to(states.dtype)
        return (states * real).sum(dim=1) / real.sum(dim=1)


def _text_config(model: Any) -> Any:
    return getattr(model.config, "text_config", model.config)
