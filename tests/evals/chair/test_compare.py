from __future__ import annotations

import json

import numpy as np
import pytest
from chair_files import CAPTIONS, write_captions

from evals.chair.compare import compare, match_length, match_recall
from evals.chair.lexicon import make_lexicon
from evals.chair.score import with_words
from evals.commands.compare import EvalCompareCommand
from evals.statistics import mean_of, sign_test, swap_test
from evals.textquality import text_quality
from grounding.errors import EvalDataError

LEXICON = make_lexicon("dog, puppy\ncat, kitten\nbench, pew\n")
DOG = frozenset({"dog"})
QUALITY = text_quality("", ())


def run(*texts, truth=DOG):
    return [with_words(i, text.split(), truth, LEXICON, QUALITY) for i, text in enumerate(texts)]


def test_a_run_against_itself_differs_nowhere():
    one = run("a dog and a cat", "a dog", "a cat")
    found = compare(one, one, LEXICON)
    assert found.recall_matched.cut_run is None
    for figures in (found.figures, found.recall_matched.figures, found.length_matched.figures):
        for difference in figures.values():
            assert (difference.difference.low, difference.difference.value, difference.difference.high) == (0, 0, 0)
            assert difference.p == 1
    assert found.chair_s_exact_p == 1


def test_the_difference_is_the_second_less_the_first():
    found = compare(run("a dog and a cat", "a dog"), run("a dog", "a dog"), LEXICON)
    assert found.figures["chair_s"].difference.value == -0.5
    assert (found.a_alone, found.b_alone) == (1, 0)


def test_images_of_one_run_alone_are_left_out():
    found = compare(run("a dog", "a cat", "a dog"), run("a dog"), LEXICON)
    assert (found.n, found.only_a, found.only_b) == (1, 2, 0)
    assert found.figures["chair_s"].a == 0
    with pytest.raises(EvalDataError, match="share none of their 1 and 1 images"):
        compare(run("a dog"), [with_words(9, ["dog"], DOG, LEXICON, QUALITY)], LEXICON)


def test_saying_less_gains_nothing_at_equal_recall_and_length():
    """The second run is the first without its ends: what looks like a gain goes away."""
    first = ["a dog is here and a cat", "a dog and one more cat", "here lies a dog near a bench"]
    second = [text[: text.index("dog") + 3] for text in first]
    found = compare(run(*first), run(*second), LEXICON)
    assert found.figures["chair_s"].difference.value == -1
    assert found.recall_matched.cut_run is None  # recall is equal as they are
    assert found.length_matched.figures["chair_s"].difference.value == 0
    assert found.length_matched.figures["length"].difference.value == 0


@pytest.mark.parametrize("turned", [False, True])
def test_the_run_that_finds_more_is_cut_to_just_as_much(turned):
    both = frozenset({"dog", "cat"})
    more = run("a dog . a cat . a bench", "a dog . a cat . a bench", truth=both)
    less = run("a dog", "a dog", truth=both)
    found = match_recall(*((less, more) if turned else (more, less)), LEXICON)
    assert (found.cut_run, found.k) == ("b" if turned else "a", 2)
    assert found.figures["recall"].a == found.figures["recall"].b == 0.5
    assert found.figures["chair_s"].difference.value == 0


def test_lengths_are_matched_image_by_image():
    found = match_length(run("a dog and a cat", "a dog"), run("a dog", "a dog and a cat"), LEXICON)
    assert found.figures["length"].a == found.figures["length"].b == 2


def test_the_swap_test_keeps_its_level_and_finds_what_is_there():
    generator = np.random.default_rng(0)
    groups = np.arange(40)
    false_alarms = 0
    for seed in range(100):
        base = generator.normal(size=40)
        one, other = (mean_of(base + generator.normal(size=40), groups) for _ in range(2))
        false_alarms += swap_test(one, other, resamples=300, seed=seed) <= 0.05
    assert false_alarms <= 12
    assert swap_test(mean_of(base + 1, groups), mean_of(base, groups)) < 0.01


def test_the_exact_test_agrees_with_the_binomial_by_hand():
    assert sign_test(0, 5) == pytest.approx(2 / 32)
    assert sign_test(3, 3) == 1
    assert sign_test(0, 0) == 1


def test_the_command(files, capsys):
    shorter = [{**row, "caption": row["caption"].split(".")[0] + "."} for row in CAPTIONS[:3]]
    write_captions(files / "other.jsonl", shorter)
    options = {
        "a": files / "captions.jsonl",
        "b": files / "other.jsonl",
        "ground_truth": str(files / "truth.json"),
        "synonyms": str(files / "synonyms.txt"),
    }
    assert EvalCompareCommand(**options, json=True).run() == 0
    out, err = capsys.readouterr()
    found = json.loads(out)
    assert (found["n"], found["only_a"]) == (3, 1)
    assert found["differences"]["length"]["difference"] < 0
    assert found["length_matched"]["differences"]["length"]["difference"] == 0
    assert "1 only in captions.jsonl and 0 only in other.jsonl are left out" in err
    assert EvalCompareCommand(**options).run() == 0
    assert "at equal recall" in capsys.readouterr().out
