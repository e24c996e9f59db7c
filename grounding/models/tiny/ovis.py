"""A tiny random Ovis2; see `grounding.models.tiny`."""

from __future__ import annotations

from grounding.models.tiny.parts import WIDE, TinyModel, seeded
from grounding.models.tiny.qwen import SPECIAL, qwen2_text
from grounding.text.tiny import byte_tokenizer

TILE = 56  # px, 4x4 patches of 14 px, 2x2 cells
MARKS = ("<IMG_START>", "<IMG_GRID>", "<IMG_COL>", "<IMG_ROW>", "<IMG_END>")
TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{% for content in message['content'] %}"
    "{% if content['type'] == 'image' %}<image>\n{% else %}{{ content['text'] }}{% endif %}{% endfor %}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def tiny_ovis2(*, seed: int = 0, split: bool = True) -> TinyModel:
    """A random `Ovis2ForConditionalGeneration` with its processor: at most four tiles of 2x2 cells.

    Args:
        seed: the weights' seed.
        split: cut pictures into tiles.
    """
    from transformers import Ovis2Config, Ovis2ForConditionalGeneration, Ovis2ImageProcessor, Ovis2Processor
    from transformers.models.ovis2.configuration_ovis2 import Ovis2VisionConfig

    tokenizer = byte_tokenizer(
        (*SPECIAL, "<image>", "<IMG_ATOM>", *MARKS), bos=None, eos="<|im_end|>", pad="<|endoftext|>"
    )
    processor = Ovis2Processor(
        image_processor=Ovis2ImageProcessor(
            size={"height": TILE, "width": TILE},
            crop_to_patches=split,
            max_patches=4,
            use_covering_area_grid=False,
        ),
        tokenizer=tokenizer,
        image_seq_length=4,
        chat_template=TEMPLATE,
    )
    text = qwen2_text(tokenizer)
    config = Ovis2Config(
        vision_config=Ovis2VisionConfig(
            hidden_size=16,
            intermediate_size=32,
            num_hidden_layers=2,
            num_attention_heads=2,
            image_size=TILE,
            patch_size=14,
            vocab_size=64,
            hidden_stride=2,
            initializer_range=WIDE,
        ),
        text_config=text,
        image_token_id=tokenizer.convert_tokens_to_ids("<IMG_ATOM>"),
        visual_indicator_token_ids=tokenizer.convert_tokens_to_ids(list(MARKS)),
        vocab_size=len(tokenizer),
        hidden_size=text.hidden_size,
    )
    return seeded(Ovis2ForConditionalGeneration, config, seed), processor
