from __future__ import annotations

import pytest

from grounding.errors import MethodError
from grounding.steering.baselines.truncation import Truncation, cut
from grounding.steering.decoding import Decoding, Generated
from grounding.steering.generate import generate
from grounding.steering.method import Steering


def steered(step) -> Steering:
    return Steering("test", "", "", (step,))


def test_a_truncated_text_is_the_beginning_of_the_whole_one(vlm, images, questions) -> None:
    whole = generate(vlm, images, questions, None, Decoding(max_new_tokens=9))
    short = generate(vlm, images, questions, steered(Truncation(4)), Decoding(max_new_tokens=9))
    assert [one.token_ids for one in short] == [one.token_ids[:4] for one in whole]
    kept = generate(vlm, images, questions, steered(Truncation(40)), Decoding(max_new_tokens=9))
    assert kept == whole


def test_whole_words_end_where_a_word_does(vlm) -> None:
    tokenizer = vlm.tokenizer
    ids = tuple(tokenizer("the dog zebra.", add_special_tokens=False)["input_ids"])
    pieces = [tokenizer.decode([token]) for token in ids]
    assert pieces == ["the", " dog", " ", "z", "e", "b", "r", "a", "."]
    expected = {1: "the", 2: "the dog", 4: "the dog", 7: "the dog", 8: "the dog zebra"}
    for limit, text in expected.items():
        found = cut(Generated("", ids[: limit + 1], False), limit, tokenizer)
        assert (found.text, found.finished) == (text, False)
        assert tokenizer.decode(found.token_ids).strip() == text
    done = Generated("the dog zebra.", ids, True)
    assert cut(done, len(ids), tokenizer) is done
    assert cut(Generated("", ids[4:7], False), 2, tokenizer).token_ids == ids[4:6]  # one long word


def test_whole_words_stay_within_the_limit(vlm, images, questions) -> None:
    whole = generate(vlm, images, questions, None, Decoding(max_new_tokens=9))
    cuts = generate(vlm, images, questions, steered(Truncation(5, whole_words=True)), Decoding(max_new_tokens=9))
    for one, long in zip(cuts, whole, strict=True):
        assert 1 <= len(one.token_ids) <= 5
        assert one.token_ids == long.token_ids[: len(one.token_ids)]


def test_no_tokens_are_refused() -> None:
    with pytest.raises(MethodError, match="tokens 0"):
        Truncation(0)
