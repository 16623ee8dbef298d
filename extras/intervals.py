"""95 % intervals: what else a number might have been, had chance fallen otherwise.

    wilson       one rate: with other episodes of the same kind
    over_seeds   a mean over runs: with other seeds in training
    over_tasks   a mean over tasks: with other tasks

Called by eval.py, benchmarks/miniwob_exam.py and by what compares arms.
It says nothing of two arms: their differences, task by task, are made in extras/dials.py.
"""

import math
import random
from collections.abc import Sequence
from statistics import fmean

import numpy as np


def wilson(successes: int, n: int) -> tuple[float, float]:
    """(low, high) of a rate p = successes / n: Wilson's score interval, inside 0..1.

    All rates q for which p is not further from q than z standard deviations sqrt(q (1 - q) / n);
    p +- z sqrt(p (1 - p) / n) would be a single point for p = 0 and p = 1. Nothing counted: 0..1.
    Source: Wilson, Journal of the American Statistical Association 22 (1927).

    >>> [round(x, 3) for x in wilson(8, 10)]
    [0.49, 0.943]
    """
    if n == 0:
        return 0.0, 1.0
    z = 1.959964  # of the normal distribution, 95 % lie within z standard deviations
    rate = successes / n
    middle = rate + z * z / (2 * n)
    variance = rate * (1 - rate)
    half = z * math.sqrt(variance / n + z * z / (4 * n * n))
    scale = 1 + z * z / n
    low = (middle - half) / scale
    high = (middle + half) / scale
    return max(0.0, low), min(1.0, high)


# Student's t, two-sided 95 %, for 1 to 9 degrees of freedom; with more the last one is used, which
# makes an interval a little too wide.
T_95 = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262)


def over_seeds(values: Sequence[float]) -> tuple[float, float]:
    """(mean, half width) by Student's t, one value a seed; half is nan for a single one.

    >>> [round(x, 3) for x in over_seeds([1.0, 2.0, 3.0])]
    [2.0, 2.484]
    """
    n = len(values)
    mean = float(np.mean(values))
    if n < 2:
        return mean, math.nan
    t = T_95[min(n - 2, len(T_95) - 1)]
    deviation = float(np.std(values, ddof=1))
    return mean, t * deviation / math.sqrt(n)


DRAWS = 2000


def over_tasks(shares: Sequence[float]) -> tuple[float, float]:
    """(low, high) of the mean of one share a task, as if the tasks had been drawn by chance.

    The percentile bootstrap: as many tasks are drawn from them, with replacement, DRAWS times (with
    the same random numbers in each call), and of the means the middle 95 % are kept. It says what
    other tasks of the kind might have given; wilson says it of other episodes of the same tasks.
    One task says nothing of others: 0..1.

    >>> over_tasks([0.5, 0.5]), over_tasks([0.0, 1.0])
    ((0.5, 0.5), (0.0, 1.0))
    """
    if len(shares) < 2:
        return 0.0, 1.0
    rng = random.Random(0)
    means = sorted(fmean(rng.choices(shares, k=len(shares))) for _ in range(DRAWS))
    tail = DRAWS // 40  # 2.5 %
    return means[tail], means[-tail - 1]
