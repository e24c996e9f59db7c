from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evals.chair.curve import curve_point, truncation_curve
from evals.chair.lexicon import make_lexicon
from evals.chair.score import ImageCaption, chair, cut, ratios, read_captions, score_caption, with_words
from evals.chair.words import by_rules
from evals.textquality import text_quality

NO_QUALITY = text_quality("", ())
LEXICON = make_lexicon("dog, puppy\ncat, kitten\nbench, pew\n")


@pytest.fixture
def scores(resources, files):
    return resources.score(read_captions(files / "captions.jsonl"), "here")


def test_the_figures_by_hand(scores):
    # mentions: person dog dog bench | cat cat | dog table | none; wrong: bench, table.
    found = chair(scores)
    assert (found.n, found.empty) == (4, 0)
    assert found.chair_s.value == 2 / 4
    assert found.chair_i.value == 2 / 8
    assert found.recall.value == (2 + 1 + 1 + 0) / (2 + 1 + 2 + 0)
    assert found.precision.value == 4 / (3 + 1 + 2)
    assert found.chair_i_distinct.value == pytest.approx(1 - found.precision.value)
    assert found.distinct_objects.value == 6 / 4
    assert found.distinct_rate.value == 6 / 8
    assert found.length.value == (13 + 6 + 7 + 6) / 4
    assert found.repeated_sentences.value == 1 / 4
    assert found.cut_off.value == 1 / 4
    assert found.chair_s.low <= found.chair_s.value <= found.chair_s.high


def test_f1_is_the_harmonic_mean_of_the_distinct_precision_and_recall(scores):
    found = chair(scores)
    p, r = found.precision.value, found.recall.value
    assert found.f1.value == pytest.approx(2 * p * r / (p + r))


def test_an_empty_caption_counts_and_names_nothing(resources):
    (score,) = resources.score([ImageCaption(1, "  ")], "here")
    found = chair([score])
    assert (found.n, found.empty, found.chair_s.value, found.recall.value, found.length.value) == (1, 1, 0, 0, 0)
    assert found.cut_off.value == 0


def test_repetition_lowers_chair_i_and_not_its_distinct_form():
    truth = {1: frozenset({"dog"})}
    once = score_caption(ImageCaption(1, "A dog and a cat."), truth, LEXICON, by_rules)
    often = score_caption(ImageCaption(1, "A dog and a cat. A dog. A dog. A dog."), truth, LEXICON, by_rules)
    one, other = ratios([once]), ratios([often])
    assert other["chair_i"].value < one["chair_i"].value
    assert other["chair_i_distinct"].value == one["chair_i_distinct"].value
    assert other["distinct_rate"].value < one["distinct_rate"].value


WORDS = st.lists(st.sampled_from(["dog", "cat", "bench", "a", "."]), max_size=12)
CLASSES = st.frozensets(st.sampled_from(["dog", "cat", "bench"]))


@given(st.lists(st.tuples(WORDS, CLASSES), min_size=1, max_size=6), st.integers(1, 12))
def test_figures_stay_in_range_and_a_longer_cut_finds_no_less(rows, k):
    scores = [with_words(i, words, truth, LEXICON, NO_QUALITY) for i, (words, truth) in enumerate(rows)]
    for name, ratio in ratios(scores).items():
        if name not in ("length", "distinct_objects"):
            assert 0 <= ratio.value <= 1
    shorter, longer = (curve_point(scores, at, LEXICON) for at in (k, k + 1))
    assert shorter.recall <= longer.recall
    assert shorter.chair_s <= longer.chair_s
    assert shorter.length <= min(k, longer.length)


def test_a_cut_beyond_the_end_changes_nothing(scores, resources):
    (point,) = truncation_curve(scores, resources.lexicon, (1000,))
    found = chair(scores)
    assert point.chair_s == found.chair_s.value
    assert point.recall == found.recall.value
    assert cut(scores[0], 1000, resources.lexicon) == scores[0]


@given(st.lists(st.tuples(st.lists(st.sampled_from(["toilet", "seat", "dog", "x"])), CLASSES), min_size=1, max_size=5))
def test_the_curve_is_that_of_captions_cut_one_by_one(rows):
    """Also where a cut drops the toilet that kept a seat from being a chair."""
    lexicon = make_lexicon("dog\ntoilet\nchair, seat\n")
    scores = [with_words(i, words, truth, lexicon, NO_QUALITY) for i, (words, truth) in enumerate(rows)]
    for point in truncation_curve(scores, lexicon, (1, 2, 4, 50)):
        found = ratios([cut(one, point.k, lexicon) for one in scores])
        for name in ("chair_s", "chair_i", "chair_i_distinct", "recall", "f1", "length"):
            assert getattr(point, name) == pytest.approx(found[name].value)


def test_a_cut_drops_what_stands_behind_it(scores, resources):
    assert cut(scores[0], 5, resources.lexicon).mentions == ("person", "dog")


@pytest.mark.parametrize(
    ("text", "distinct", "grams", "repeats", "cut_off"),
    [
        ("A dog sits here.", 2, 2, False, False),
        ("a a a a a a", 1, 3, False, True),
        ("It is a dog. it is a dog.", 5, 7, True, False),
        ("A dog\n\nA dog", 1, 1, True, True),
        ('He said "go."', 3, 3, False, False),
        ("", 0, 0, False, False),
    ],
)
def test_signs_of_degeneration(text, distinct, grams, repeats, cut_off):
    found = text_quality(text, by_rules(text))
    assert (found.repeats, found.cut_off) == (repeats, cut_off)
    assert (found.distinct_grams, found.grams) == (distinct, grams)
