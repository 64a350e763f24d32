from __future__ import annotations

import numpy as np
import pytest

from perception_r1.stats import interval, paired_difference, resample_counts


def test_counts_are_resamples():
    (block,) = resample_counts(5, 100, seed=1)
    assert block.shape == (100, 5)
    assert (block.sum(axis=1) == 5).all()
    assert (block == np.rint(block)).all()


def test_interval_of_a_proportion_is_near_the_normal_one():
    values = np.r_[np.ones(300), np.zeros(100)]
    value, low, high = interval(values, resamples=4000)
    half = 1.96 * np.sqrt(0.75 * 0.25 / 400)  # 0.0424
    assert value == 0.75
    assert low == pytest.approx(0.75 - half, abs=0.005)
    assert high == pytest.approx(0.75 + half, abs=0.005)


def test_seeded():
    values = np.arange(30.0)
    assert interval(values, seed=3) == interval(values, seed=3)
    assert interval(values, seed=3) != interval(values, seed=4)


def test_ratio_of_means():
    # 3 true positives of 4 predictions over two images: precision 0.75, not the mean of 1/1 and 2/3.
    columns = np.array([[1.0, 1.0], [2.0, 3.0]])
    value, low, high = interval(columns, lambda m: m[..., 0] / m[..., 1])
    assert value == 0.75
    assert low == pytest.approx(2 / 3)
    assert high == 1.0


def test_edges():
    assert all(np.isnan(v) for v in interval(np.zeros(0)))
    assert interval(np.array([0.3])) == (0.3, 0.3, 0.3)


def test_paired_difference_uses_the_same_resamples():
    before = np.random.default_rng(0).random(50)
    assert paired_difference(before, before) == (0.0, 0.0, 0.0)
    value, low, high = paired_difference(before, before + 0.2)
    assert value == pytest.approx(0.2)
    assert high - low < 1e-12  # what is hard for both cancels
    with pytest.raises(ValueError, match="one shape"):
        paired_difference(before, before[:3])
