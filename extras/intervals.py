"""95 % intervals of shares: of all episodes as one sample, and over tasks.

Called by eval.py and benchmarks/online.py.
Means over seeds, by Student's t, are extras/ablation.interval.
"""

import math
import random
from collections.abc import Sequence
from statistics import fmean


def wilson(successes: int, n: int) -> tuple[float, float]:
    """95 % Wilson score interval of a rate.

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


DRAWS = 2000


def over_tasks(shares: Sequence[float]) -> tuple[float, float]:
    """95 % interval of the mean of one share a task, as if the tasks too had been drawn by chance.

    The percentile bootstrap: tasks are drawn again, with replacement, the same ones each time. It
    says what other tasks of the kind might have given; wilson says it of other episodes of the
    same tasks. One task says nothing of others.

    >>> over_tasks([0.5, 0.5]), over_tasks([0.0, 1.0])
    ((0.5, 0.5), (0.0, 1.0))
    """
    if len(shares) < 2:
        return 0.0, 1.0
    rng = random.Random(0)
    means = sorted(fmean(rng.choices(shares, k=len(shares))) for _ in range(DRAWS))
    tail = DRAWS // 40  # 2.5 %
    return means[tail], means[-tail - 1]
