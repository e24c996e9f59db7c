"""Tiny random Idefics3 and SmolVLM2 models; see `grounding.models.tiny`."""

from __future__ import annotations

from typing import Any

from grounding.models.tiny.llava import llama_text
from grounding.models.tiny.parts import WIDE, TinyModel, seeded
from grounding.text.tiny import byte_tokenizer

TILE = 56  # px, 4x4 patches of 14 px, 2x2 cells
MARKS = ("<fake_token_around_image>", "<image>", "<end_of_utterance>", "<global-img>", "<video>")
TILES = tuple(f"<row_{row}_col_{column}>" for row in range(1, 7) for column in range(1, 7))
TEMPLATE = (
    "<|im_start|>{% for message in messages %}{{ message['role'] | capitalize }}"
    "{% if message['content'][0]['type'] == 'image' %}:{% else %}: {% endif %}{% for content in message['content'] %}"
    "{% if content['type'] == 'text' %}{{ content['text'] }}{% else %}<{{ content['type'] }}>{% endif %}{% endfor %}"
    "<end_of_utterance>\n{% endfor %}{% if add_generation_prompt %}Assistant:{% endif %}"
)


def tiny_idefics3(*, seed: int = 0, split: bool = True) -> TinyModel:
    """A random `Idefics3ForConditionalGeneration` with its processor: tiles of 2x2 cells, two along the longer side.

    Args:
        seed: the weights' seed.
        split: cut pictures into tiles.
    """
    from transformers import (
        Idefics3Config,
        Idefics3ForConditionalGeneration,
        Idefics3ImageProcessor,
        Idefics3Processor,
    )

    tokenizer = _tokenizer()
    image_processor = Idefics3ImageProcessor(
        size={"longest_edge": 2 * TILE}, max_image_size={"longest_edge": TILE}, do_image_splitting=split
    )
    processor = Idefics3Processor(image_processor, tokenizer, image_seq_len=4, chat_template=TEMPLATE)
    config = Idefics3Config(**_parts(tokenizer))
    return seeded(Idefics3ForConditionalGeneration, config, seed), processor


def tiny_smolvlm(*, seed: int = 0) -> TinyModel:
    """A random `SmolVLMForConditionalGeneration` with its processor, which needs the package num2words."""
    from transformers import (
        SmolVLMConfig,
        SmolVLMForConditionalGeneration,
        SmolVLMImageProcessor,
        SmolVLMProcessor,
        SmolVLMVideoProcessor,
    )

    tokenizer = _tokenizer()
    sizes = {"size": {"longest_edge": 2 * TILE}, "max_image_size": {"longest_edge": TILE}}
    processor = SmolVLMProcessor(
        SmolVLMImageProcessor(**sizes),
        tokenizer,
        SmolVLMVideoProcessor(**sizes),
        image_seq_len=4,
        chat_template=TEMPLATE,
    )
    config = SmolVLMConfig(**_parts(tokenizer))
    return seeded(SmolVLMForConditionalGeneration, config, seed), processor


def _tokenizer() -> Any:
    return byte_tokenizer(
        ("<|endoftext|>", "<|im_start|>", *MARKS, *TILES), bos=None, eos="<end_of_utterance>", pad="<|endoftext|>"
    )


def _parts(tokenizer: Any) -> dict[str, Any]:
    vision = {
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "image_size": TILE,
        "patch_size": 14,
        "initializer_range": WIDE,
    }
    return {
        "vision_config": vision,
        "text_config": llama_text(tokenizer).to_dict(),
        "image_token_id": tokenizer.convert_tokens_to_ids("<image>"),
        "scale_factor": 2,
    }
