"""Build the starter diffusion transformer: FLUX's pipeline classes at a size that trains in hours on two cores.

Pictures of 128 px become 32 x 32 latents and, packed two by two, 16 x 16 image tokens of 8 px. Everything is built from
code and a seed; nothing is downloaded.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from grounding.starter.dit.words import MAX_TOKENS, build_clip_tokenizer, build_t5_tokenizer

if TYPE_CHECKING:
    from diffusers import AutoencoderKL, FluxPipeline, FluxTransformer2DModel
    from transformers import CLIPTextModel, CLIPTokenizer, T5EncoderModel

IMAGE_SIZE = 128
SCALE = 4  # pixels per latent along each side
PACKED = 2  # latents per image token along each side
LATENTS = IMAGE_SIZE // SCALE
CELLS = LATENTS // PACKED
_SHIFT = 2.0  # of the sampling schedule towards high noise levels


@dataclass(frozen=True)
class DitShape:
    """Size of the networks.

    Attributes:
        double_blocks: transformer blocks with separate weights for text and image.
        single_blocks: transformer blocks with shared weights.
        heads: attention heads.
        head_width: channels of a head, divisible by 4; the rotary embedding uses `head_width // 4` for an axis that is
            zero everywhere, as FLUX does, and the rest for rows and columns.
        text_width: width of the T5 encoder.
        text_layers: layers of the T5 encoder.
        pooled_width: width of the CLIP text model and its pooled vector.
        pooled_layers: layers of the CLIP text model.
        vae_channels: channels per resolution of the autoencoder.
        latent_channels: channels of a latent.
    """

    double_blocks: int = 2
    single_blocks: int = 7
    heads: int = 6
    head_width: int = 32
    text_width: int = 192
    text_layers: int = 2
    pooled_width: int = 64
    pooled_layers: int = 2
    vae_channels: tuple[int, int, int] = (32, 64, 96)
    latent_channels: int = 4


def build(seed: int = 0, shape: DitShape | None = None) -> FluxPipeline:
    """Build the pipeline with random weights, float32, in evaluation mode.

    Args:
        seed: seed of the weights; the global random state is left as it is.
        shape: size of the networks.
    """
    import torch
    from diffusers import FlowMatchEulerDiscreteScheduler, FluxPipeline

    shape = shape or DitShape()
    clip = build_clip_tokenizer()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return FluxPipeline(
            scheduler=FlowMatchEulerDiscreteScheduler(shift=_SHIFT),
            vae=_vae(shape).eval(),
            text_encoder=_clip(shape, clip).eval(),
            tokenizer=clip,
            text_encoder_2=_t5(shape).eval(),
            tokenizer_2=build_t5_tokenizer(),
            transformer=_transformer(shape).eval(),
        )


def _vae(shape: DitShape) -> AutoencoderKL:
    from diffusers import AutoencoderKL

    levels = len(shape.vae_channels)
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * levels,
        up_block_types=("UpDecoderBlock2D",) * levels,
        block_out_channels=shape.vae_channels,
        layers_per_block=1,
        latent_channels=shape.latent_channels,
        norm_num_groups=8,
        sample_size=IMAGE_SIZE,
        scaling_factor=1.0,
        shift_factor=0.0,
        force_upcast=False,
        use_quant_conv=False,
        use_post_quant_conv=False,
        mid_block_add_attention=False,
    )


def _t5(shape: DitShape) -> T5EncoderModel:
    from transformers import T5Config, T5EncoderModel

    tokenizer = build_t5_tokenizer()
    heads = max(1, shape.text_width // 32)
    return T5EncoderModel(
        T5Config(
            vocab_size=len(tokenizer),
            d_model=shape.text_width,
            d_kv=shape.text_width // heads,
            d_ff=2 * shape.text_width,
            num_layers=shape.text_layers,
            num_heads=heads,
            relative_attention_num_buckets=32,
            relative_attention_max_distance=MAX_TOKENS,
            feed_forward_proj="gated-gelu",
            dropout_rate=0.0,
            pad_token_id=tokenizer.pad_token_id,
            eos_token_id=tokenizer.eos_token_id,
        )
    )


def _clip(shape: DitShape, tokenizer: CLIPTokenizer) -> CLIPTextModel:
    from transformers import CLIPTextConfig, CLIPTextModel

    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=shape.pooled_width,
            intermediate_size=2 * shape.pooled_width,
            projection_dim=shape.pooled_width,
            num_hidden_layers=shape.pooled_layers,
            num_attention_heads=max(1, shape.pooled_width // 32),
            max_position_embeddings=MAX_TOKENS,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )


def _transformer(shape: DitShape) -> FluxTransformer2DModel:
    from diffusers import FluxTransformer2DModel
    from torch import nn

    quarter = shape.head_width // 4
    along = (shape.head_width - quarter) // 2
    model = FluxTransformer2DModel(
        in_channels=shape.latent_channels * PACKED**2,
        num_layers=shape.double_blocks,
        num_single_layers=shape.single_blocks,
        attention_head_dim=shape.head_width,
        num_attention_heads=shape.heads,
        joint_attention_dim=shape.text_width,
        pooled_projection_dim=shape.pooled_width,
        guidance_embeds=False,
        axes_dims_rope=(quarter, along, along),
    )
    # Modulations and the output start at zero: every block is the identity at first ("adaLN-Zero", Peebles & Xie, 2023,
    # "Scalable Diffusion Models with Transformers"). diffusers leaves them random.
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear) and (name == "proj_out" or ("norm" in name and name.endswith("linear"))):
            nn.init.zeros_(module.weight)
            nn.init.zeros_(module.bias)
    return model
