"""While a tower is probed, a change stays at its place; what a processor adds to prompts is read from its tokens."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from grounding.models.chat import Rendered
from grounding.models.probing.additions import Additions
from grounding.models.probing.own_place import OwnPlace
from grounding.text.tiny import byte_tokenizer


def moved(run: nn.Module, place: tuple[int, int], side: int = 8) -> set[tuple[int, int]]:
    """The places of an output that move with one place of the input."""
    torch.manual_seed(0)
    plain = torch.randn(1, 2, side, side)
    changed = plain.clone()
    changed[..., place[0], place[1]] += 1
    with torch.no_grad(), OwnPlace():
        found = (run(changed) - run(plain)).abs().sum(dim=1)[0]
    return {(int(y), int(x)) for y, x in found.nonzero()}


@pytest.mark.parametrize(
    ("kernel", "stride", "padding", "expected"),
    [(3, 1, 1, (5, 2)), (5, 1, 2, (5, 2)), (3, 2, 1, (2, 1)), (4, 2, 1, (2, 1)), (2, 2, 0, (2, 1)), (4, 4, 0, (1, 0))],
)
def test_windows_tile_the_picture(kernel: int, stride: int, padding: int, expected: tuple[int, int]) -> None:
    run = nn.Conv2d(2, 3, kernel, stride, padding)
    assert moved(run, (5, 2)) == {expected}
    named = nn.Conv2d(2, 2, kernel, padding="same", groups=2)
    assert len(moved(named, (5, 2))) == 1


class Enlarged(nn.Module):
    def forward(self, features: Tensor) -> Tensor:
        return F.interpolate(features, size=(16, 16), mode="bilinear", align_corners=False)


class Attention(nn.Module):
    def forward(self, features: Tensor) -> Tensor:
        tokens = features.flatten(2).transpose(1, 2)[:, None]  # [1, 1, N, 2]
        mixed = F.scaled_dot_product_attention(tokens, tokens, tokens) + (tokens @ tokens.mT).softmax(-1) @ tokens
        return mixed[:, 0].transpose(1, 2).unflatten(2, features.shape[-2:])


def test_enlarged_features_are_repeated_and_attention_stays_at_its_place() -> None:
    assert moved(Enlarged(), (5, 2)) == {(10, 4), (10, 5), (11, 4), (11, 5)}
    assert moved(Attention(), (5, 2)) == {(5, 2)}


def test_outside_the_mode_a_convolution_is_whole() -> None:
    run = nn.Conv2d(1, 1, 3, padding=1)
    picture = torch.zeros(1, 1, 8, 8)
    picture[..., 5, 2] = 1
    with torch.no_grad():
        whole = run(picture)
        with OwnPlace():
            part = run(picture)
        assert torch.equal(run(picture), whole)
    assert ((whole - run.bias) != 0).sum() == 9
    assert ((part - run.bias) != 0).sum() == 1


TOKENIZER = byte_tokenizer(("<bos>", "<image>", "<pad>"), bos="<bos>", eos=None, pad="<pad>")


@pytest.mark.parametrize("added", [Additions(), Additions("<bos>"), Additions("", "<bos>", "\n"), Additions("a", "b")])
def test_what_a_processor_adds_is_read_from_its_tokens(added: Additions) -> None:
    given = Rendered("look: <image> it", (14, 16))
    put = added.put(given, "<image>")
    assert put.text[slice(*put.span)] == "it"
    ids = TOKENIZER(put.text.replace("<image>", "<image>" * 4), add_special_tokens=False)["input_ids"]
    assert Additions.found(ids, given.text, "<image>", "<image>" * 4, TOKENIZER) == added
    assert added.taken(put.text, "<image>") == given.text
    unknown = [*ids[:2], *ids[3:]]
    assert not Additions.found(unknown, given.text, "<image>", "<image>" * 4, TOKENIZER)
