from __future__ import annotations

import numpy as np
import pytest

from evals.statistics import RatioOfSums, bootstrap, bootstrap_all, bootstrap_difference, mean_of, swap_test


def test_the_interval_of_a_mean_agrees_with_theory():
    values = np.random.default_rng(0).random(400) < 0.7
    interval = bootstrap(mean_of(values, np.arange(400)), resamples=4000)
    error = np.sqrt(values.mean() * (1 - values.mean()) / 400)
    assert interval.value == values.mean()
    assert interval.low == pytest.approx(values.mean() - 1.96 * error, abs=0.006)
    assert interval.high == pytest.approx(values.mean() + 1.96 * error, abs=0.006)


def test_intervals_cover_the_truth_as_often_as_they_say():
    generator = np.random.default_rng(1)
    covered = 0
    for _ in range(200):
        interval = bootstrap(mean_of(generator.normal(size=60), np.arange(60)), resamples=400)
        covered += interval.low <= 0 <= interval.high
    assert 180 <= covered <= 198


def test_values_of_one_image_are_drawn_together():
    values = np.repeat(np.random.default_rng(2).random(30), 10)
    by_image = bootstrap(mean_of(values, np.repeat(np.arange(30), 10)))
    by_value = bootstrap(mean_of(values, np.arange(300)))
    assert (by_image.high - by_image.low) > 2.5 * (by_value.high - by_value.low)


def test_a_ratio_of_sums_is_no_mean_of_ratios():
    ratio = RatioOfSums(np.array([1.0, 90.0]), np.array([10.0, 100.0]), np.array([0, 1]))
    assert ratio.value == pytest.approx(91 / 110)
    interval = bootstrap(ratio)
    assert (interval.low, interval.high) == (pytest.approx(0.1), pytest.approx(0.9))


def test_the_same_seed_gives_the_same_interval_and_images_may_have_any_number():
    values = np.random.default_rng(3).random(20)
    one = bootstrap(mean_of(values, np.arange(20)), seed=5)
    assert one == bootstrap(mean_of(values, np.arange(20) * 7 + 3), seed=5)
    assert one != bootstrap(mean_of(values, np.arange(20)), seed=6)


def test_ratios_drawn_together_have_the_intervals_of_ratios_drawn_alone():
    """One product of matrices gives what gathering every resample gives, image by image."""
    generator = np.random.default_rng(7)
    groups = generator.integers(0, 40, 100)
    tops, bottoms = generator.random((2, 100))
    ratios = {"share": RatioOfSums(tops, bottoms, groups), "mean": mean_of(tops, groups)}
    found = bootstrap_all(ratios, resamples=300, seed=3)
    assert found == {name: bootstrap(ratio, resamples=300, seed=3) for name, ratio in ratios.items()}
    images = np.unique(groups)
    top, bottom = ratios["share"].sums(images)
    drawn = np.random.default_rng(3).integers(0, len(images), (300, len(images)))
    values = [top[row].sum() / bottom[row].sum() for row in drawn]
    low, high = np.percentile(values, [2.5, 97.5])
    assert (found["share"].low, found["share"].high) == (pytest.approx(low), pytest.approx(high))


def test_what_two_variants_share_cancels_in_their_difference():
    shared = np.random.default_rng(4).random(50)
    groups = np.arange(50)
    difference = bootstrap_difference(mean_of(shared + 0.1, groups), mean_of(shared, groups))
    assert (difference.low, difference.value, difference.high) == (pytest.approx(0.1),) * 3


def test_a_single_sample_has_an_interval_without_width():
    interval = bootstrap(mean_of([1.0], [0]))
    assert (interval.low, interval.value, interval.high) == (1, 1, 1)


def test_a_ratio_of_nothing_is_refused():
    with pytest.raises(ValueError, match="at least one"):
        mean_of([], [])


def test_few_images_are_swapped_in_every_way():
    """All of 2^3 swaps: only the observed one and its mirror image are as extreme."""
    one, other = mean_of([1.1, 2.2, 3.3], [4, 7, 9]), mean_of([0.0, 0.0, 0.0], [4, 7, 9])
    assert swap_test(one, other) == 2 / 8
    assert swap_test(mean_of([1.0, 0.0, 0.3], [4, 7, 9]), mean_of([0.0, 1.0, 0.3], [4, 7, 9])) == 1
    assert swap_test(mean_of([1.0], [0]), mean_of([0.0], [0])) == 1


def test_random_swaps_are_seeded_and_never_give_zero():
    groups = np.arange(30)
    one, other = mean_of(np.ones(30), groups), mean_of(np.zeros(30), groups)
    assert swap_test(one, other, resamples=200) == 1 / 201
    noise = np.random.default_rng(0).normal(size=(2, 30))
    assert swap_test(mean_of(noise[0], groups), mean_of(noise[1], groups), seed=1) == swap_test(
        mean_of(noise[0], groups), mean_of(noise[1], groups), seed=1
    )
