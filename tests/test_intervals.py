"""extras/intervals.py: how sure a number is, over episodes, over seeds and over tasks."""

import math
import random
from statistics import mean

import pytest
from hypothesis import given
from hypothesis import strategies as st

from extras.intervals import over_seeds, over_tasks, wilson


def test_wilson_stays_inside_0_to_1_and_says_nothing_of_nothing():
    assert wilson(0, 0) == (0.0, 1.0)
    assert wilson(0, 10) == (0.0, pytest.approx(0.2775, abs=1e-4))
    assert wilson(10, 10) == pytest.approx((0.7225, 1.0), abs=1e-4)
    assert wilson(10, 10)[1] <= 1.0


@given(st.integers(1, 500), st.data())
def test_wilson_holds_the_rate_and_is_a_mirror(n, data):
    solved = data.draw(st.integers(0, n))
    low, high = wilson(solved, n)
    assert 0.0 <= low <= solved / n + 1e-9
    assert solved / n - 1e-9 <= high <= 1.0
    assert wilson(n - solved, n) == pytest.approx((1 - high, 1 - low))


def test_over_seeds_by_hand():
    # The standard deviation is 0.03391, and the half width 2.776 / sqrt(5) of it.
    mean, half = over_seeds([0.50, 0.54, 0.55, 0.57, 0.59])
    assert (mean, half) == pytest.approx((0.55, 0.04210), abs=1e-5)
    assert math.isnan(over_seeds([0.5])[1])


@given(st.lists(st.floats(0, 1), min_size=2, max_size=12))
def test_the_interval_over_tasks_lies_within_the_tasks(shares):
    low, high = over_tasks(shares)
    assert min(shares) - 1e-9 <= low <= high <= max(shares) + 1e-9


def test_tasks_that_are_all_alike_leave_no_doubt_and_unlike_ones_do():
    assert over_tasks([0.4] * 50) == (0.4, 0.4)
    assert over_tasks([0.4]) == (0.0, 1.0)
    low, high = over_tasks([0.0, 1.0] * 25)
    wilson_low, wilson_high = wilson(125, 250)  # the same tasks, five episodes of each
    assert low < wilson_low < wilson_high < high


def test_it_agrees_with_the_normal_interval_of_many_tasks():
    rng = random.Random(0)
    shares = [rng.random() for _ in range(125)]
    half = 1.96 * (1 / 12) ** 0.5 / 125**0.5  # of numbers that are uniform in 0..1
    assert over_tasks(shares) == pytest.approx((mean(shares) - half, mean(shares) + half), abs=0.01)
