"""Tiny random pipelines of diffusers' real classes, with tokenizers built in memory, for tests and `doctor`."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import torch

from grounding.diffusion.tiny_parts import (
    SIDE,
    chat_tokenizer,
    clip_encoder,
    clip_tokenizer,
    gemma2,
    picture_vae,
    qwen3,
    t5_encoder,
    t5_tokenizer,
)
from grounding.diffusion.tiny_video import tiny_cogvideox, tiny_ltx, tiny_mochi, tiny_wan
from grounding.text.tiny import byte_tokenizer

_CONVERSATION = (
    "<s>{% for message in messages %}{% if message['role'] == 'user' %}[INST]{{ message['content'][0]['text'] }}[/INST]"
    "{% else %}{{ message['content'][0]['text'] }}{% endif %}{% endfor %}"
)


def tiny_flux(*, guidance: bool = False) -> Any:
    """A random `FluxPipeline` of two double and two single blocks."""
    from diffusers import FlowMatchEulerDiscreteScheduler, FluxPipeline, FluxTransformer2DModel

    t5, clip = t5_tokenizer(), clip_tokenizer()
    transformer = FluxTransformer2DModel(
        in_channels=16,
        num_layers=2,
        num_single_layers=2,
        attention_head_dim=16,
        num_attention_heads=3,
        joint_attention_dim=16,
        pooled_projection_dim=16,
        axes_dims_rope=(4, 6, 6),
        guidance_embeds=guidance,
    )
    return FluxPipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(),
        vae=picture_vae(),
        text_encoder=clip_encoder(clip),
        tokenizer=clip,
        text_encoder_2=t5_encoder(t5),
        tokenizer_2=t5,
        transformer=transformer.eval(),
    )


def tiny_klein() -> Any:
    """A random `Flux2KleinPipeline` of one double and two single blocks."""
    from diffusers import FlowMatchEulerDiscreteScheduler, Flux2KleinPipeline

    tokenizer = chat_tokenizer()
    return Flux2KleinPipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(),
        vae=_flux2_vae(),
        text_encoder=qwen3(tokenizer, layers=30),
        tokenizer=tokenizer,
        transformer=_flux2_transformer(guidance=False),
    )


def tiny_flux2() -> Any:
    """A random `Flux2Pipeline` of one double and two single blocks, padded on the left."""
    from diffusers import FlowMatchEulerDiscreteScheduler, Flux2Pipeline
    from transformers import Mistral3Config, Mistral3ForConditionalGeneration, PixtralImageProcessor, PixtralProcessor

    special = ("<unk>", "<s>", "</s>", "<pad>", "[INST]", "[/INST]", "[IMG]", "[IMG_BREAK]", "[IMG_END]")
    tokenizer = byte_tokenizer(special, bos="<s>", eos="</s>", pad="<pad>")
    text = {
        "model_type": "mistral",
        "vocab_size": len(tokenizer),
        "hidden_size": 16,
        "intermediate_size": 16,
        "num_hidden_layers": 30,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "head_dim": 8,
    }
    vision = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = Mistral3Config(text_config=text, vision_config={"model_type": "pixtral", "image_size": 28, **vision})
    processor = PixtralProcessor(PixtralImageProcessor(), tokenizer, chat_template=_CONVERSATION)
    return Flux2Pipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(),
        vae=_flux2_vae(),
        text_encoder=Mistral3ForConditionalGeneration(config).eval(),
        tokenizer=processor,
        transformer=_flux2_transformer(guidance=True),
    )


def _flux2_vae() -> Any:
    from diffusers import AutoencoderKLFlux2

    return AutoencoderKLFlux2(
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        block_out_channels=(8, 8, 8),
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=4,
        sample_size=SIDE,
    ).eval()


def _flux2_transformer(*, guidance: bool) -> Any:
    from diffusers import Flux2Transformer2DModel

    known = "guidance_embeds" in inspect.signature(Flux2Transformer2DModel.__init__).parameters
    return Flux2Transformer2DModel(
        in_channels=16,
        num_layers=1,
        num_single_layers=2,
        attention_head_dim=16,
        num_attention_heads=3,
        joint_attention_dim=48,
        timestep_guidance_channels=16,
        axes_dims_rope=(4, 4, 4, 4),
        **({"guidance_embeds": guidance} if known else {}),
    ).eval()


def tiny_sd3() -> Any:
    """A random `StableDiffusion3Pipeline` of two joint blocks, one with a second attention on the image alone."""
    from diffusers import FlowMatchEulerDiscreteScheduler, SD3Transformer2DModel, StableDiffusion3Pipeline

    t5, clip = t5_tokenizer(), clip_tokenizer()
    transformer = SD3Transformer2DModel(
        sample_size=8,
        patch_size=2,
        in_channels=4,
        num_layers=3,
        attention_head_dim=8,
        num_attention_heads=4,
        joint_attention_dim=32,
        caption_projection_dim=32,
        pooled_projection_dim=32,
        out_channels=4,
        pos_embed_max_size=12,
        dual_attention_layers=(0,),
        qk_norm="rms_norm",
    )
    return StableDiffusion3Pipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(),
        vae=picture_vae(),
        text_encoder=clip_encoder(clip, projected=True),
        tokenizer=clip,
        text_encoder_2=clip_encoder(clip, projected=True),
        tokenizer_2=clip,
        text_encoder_3=t5_encoder(t5, 32),
        tokenizer_3=t5,
        transformer=transformer.eval(),
    )


def tiny_qwen_image() -> Any:
    """A random `QwenImagePipeline` of two blocks."""
    from diffusers import AutoencoderKLQwenImage, FlowMatchEulerDiscreteScheduler, QwenImagePipeline
    from diffusers import QwenImageTransformer2DModel as Transformer
    from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

    tokenizer = chat_tokenizer()
    text = {
        "vocab_size": len(tokenizer),
        "hidden_size": 16,
        "intermediate_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
        "rope_parameters": {"rope_type": "default", "mrope_section": [1, 1, 2], "rope_theta": 1000.0},
    }
    vision = {"depth": 1, "hidden_size": 16, "intermediate_size": 16, "num_heads": 2, "out_hidden_size": 16}
    vae = AutoencoderKLQwenImage(
        base_dim=8, z_dim=4, dim_mult=[1, 1, 1], num_res_blocks=1, temperal_downsample=[False, True],
        latents_mean=[0.1] * 4, latents_std=[0.9] * 4,
    )  # fmt: skip
    transformer = Transformer(
        in_channels=16,
        out_channels=4,
        num_layers=2,
        attention_head_dim=16,
        num_attention_heads=3,
        joint_attention_dim=16,
        axes_dims_rope=(4, 6, 6),
    )
    pipe = QwenImagePipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(),
        vae=vae.eval(),
        text_encoder=Qwen2_5_VLForConditionalGeneration(
            Qwen2_5_VLConfig(text_config=text, vision_config=vision)
        ).eval(),
        tokenizer=tokenizer,
        transformer=transformer.eval(),
    )
    prefix = pipe.prompt_template_encode.split("{}")[0]
    pipe.prompt_template_encode_start_idx = len(tokenizer(prefix)["input_ids"])
    return pipe


def tiny_z_image() -> Any:
    """A random `ZImagePipeline` of two single-stream blocks behind one refiner of each kind."""
    from diffusers import FlowMatchEulerDiscreteScheduler, ZImagePipeline, ZImageTransformer2DModel

    tokenizer = chat_tokenizer()
    transformer = ZImageTransformer2DModel(
        in_channels=4,
        dim=48,
        n_layers=2,
        n_refiner_layers=1,
        n_heads=3,
        n_kv_heads=3,
        cap_feat_dim=16,
        axes_dims=[4, 6, 6],
        axes_lens=[256, 64, 64],
    )
    with torch.no_grad():
        for pad in (transformer.x_pad_token, transformer.cap_pad_token):
            pad.normal_()
    return ZImagePipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(),
        vae=picture_vae(),
        text_encoder=qwen3(tokenizer, layers=2),
        tokenizer=tokenizer,
        transformer=transformer.eval(),
    )


def tiny_chroma() -> Any:
    """A random `ChromaPipeline` of two double and two single blocks."""
    from diffusers import ChromaPipeline, ChromaTransformer2DModel, FlowMatchEulerDiscreteScheduler

    tokenizer, vae = t5_tokenizer(), picture_vae()
    transformer = ChromaTransformer2DModel(
        in_channels=16,
        num_layers=2,
        num_single_layers=2,
        attention_head_dim=16,
        num_attention_heads=3,
        joint_attention_dim=16,
        axes_dims_rope=(4, 6, 6),
        approximator_num_channels=16,
        approximator_hidden_dim=16,
        approximator_layers=1,
    )
    return ChromaPipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(),
        vae=vae,
        text_encoder=t5_encoder(tokenizer),
        tokenizer=tokenizer,
        transformer=transformer.eval(),
    )


def tiny_lumina2() -> Any:
    """A random `Lumina2Pipeline` of two single-stream blocks behind one refiner of each kind."""
    from diffusers import FlowMatchEulerDiscreteScheduler, Lumina2Pipeline, Lumina2Transformer2DModel

    tokenizer = byte_tokenizer(("<pad>", "<eos>", "<bos>"), bos="<bos>", eos="<eos>", pad="<pad>")
    transformer = Lumina2Transformer2DModel(
        sample_size=8,
        in_channels=4,
        hidden_size=48,
        num_layers=2,
        num_refiner_layers=1,
        num_attention_heads=3,
        num_kv_heads=1,
        multiple_of=16,
        axes_dim_rope=(4, 6, 6),
        axes_lens=(300, 64, 64),
        cap_feat_dim=16,
    )
    return Lumina2Pipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(),
        vae=picture_vae(levels=4),  # the pipeline counts on a factor of 8
        text_encoder=gemma2(tokenizer),
        tokenizer=tokenizer,
        transformer=transformer.eval(),
    )


TINY: dict[str, Callable[[], Any]] = {
    "FluxPipeline": tiny_flux,
    "ChromaPipeline": tiny_chroma,
    "Flux2Pipeline": tiny_flux2,
    "Flux2KleinPipeline": tiny_klein,
    "StableDiffusion3Pipeline": tiny_sd3,
    "QwenImagePipeline": tiny_qwen_image,
    "ZImagePipeline": tiny_z_image,
    "Lumina2Pipeline": tiny_lumina2,
    "WanPipeline": tiny_wan,
    "LTXPipeline": tiny_ltx,
    "MochiPipeline": tiny_mochi,
    "CogVideoXPipeline": tiny_cogvideox,
}
"""Tiny pipelines by class name; see `tiny_pipeline`."""


def tiny_pipeline(class_name: str, seed: int = 0) -> Any:
    """A tiny random pipeline.

    Args:
        class_name: a key of `TINY`.
        seed: the weights' seed; torch's global random state is left as it was.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        pipe = TINY[class_name]()
    pipe.set_progress_bar_config(disable=True)
    return pipe
