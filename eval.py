"""eval.py: the exam. How often tasks are solved, how good forecasts are, and pictures of both.

Protocol `toy-gui`: seeds 0..n-1 of a split, plan-act loop with greedy forecasts, only the first action of each executed through
the frozen tool agent. success: share of tasks solved within the oracle's steps plus a slack; accuracy@k: share of forecasts
whose k-th action agrees (similarity 1) with the oracle's k-th action from that state; repeat: share of forecast actions that
stood in their forecast before; failed: share of first actions that the tool agent refused.

    python eval.py --run runs/toy --split test            # one row a policy: random, warm start, stages, oracle
"""

import argparse
import json
import math
import random
from collections.abc import Sequence
from pathlib import Path

from PIL import Image, ImageDraw

from agent import Planner, Play, Policy, load_adapter, load_policy, play, policy_planner
from envs import SPLITS, VALUES, Action, ToyGUI, _font, execute, inside
from rewards import repetitions, similarity


def wilson(successes: int, n: int) -> tuple[float, float]:
    """95 % Wilson score interval of a rate.

    >>> [round(x, 3) for x in wilson(8, 10)]
    [0.49, 0.943]
    """
    if n == 0:
        return 0.0, 1.0
    z, p = 1.959964, successes / n
    centre, half = p + z * z / (2 * n), z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    return max(0.0, (centre - half) / (1 + z * z / n)), min(1.0, (centre + half) / (1 + z * z / n))


def random_planner(seed: int = 0) -> Planner:
    """The floor: a random visible element, word or gesture."""
    rng = random.Random(seed)

    def plan(_observations, envs):
        moves = [[Action("click", label) for label, _ in env.visible()] + [Action("type", rng.choice(VALUES)), Action("scroll", "down"),
                                                                          Action("back"), Action("done")] for env in envs]
        return [([rng.choice(m)], 0) for m in moves]

    return plan


def oracle_planner(horizon: int) -> Planner:
    """The ceiling: the oracle names what stands on the screen, so that the tool agent finds it."""

    def plan(_observations, envs):
        plans = []
        for env in envs:
            forecast = env.oracle(horizon)
            if forecast[0].point:
                label = next(label for label, box in env.visible() if inside(forecast[0].point, box))
                forecast[0] = Action("click", label, forecast[0].point)
            plans.append((forecast, 0))
        return plans

    return plan


def evaluate_toy(planner: Planner, split: str, n: int, horizon: int, history: int, scale: int = 1, carry: bool = False,
                 batch: int = 100, progress=None) -> tuple[dict, list[Play]]:
    """Play seeds 0..n-1 of a toy split; returns the metrics of the module docstring and the plays."""
    plays = []
    for start in range(0, n, batch):
        seeds = range(start, min(start + batch, n))
        plays += play(planner, [ToyGUI(split, scale, history) for _ in seeds], seeds, execute, horizon, carry)
        if progress:
            progress(len(seeds))
    return toy_metrics(plays, horizon), plays


def toy_metrics(plays: Sequence[Play], horizon: int) -> dict:
    wins, steps = sum(p.success for p in plays), [r for p in plays for r in p.results]
    pairs = [(f, ref) for p in plays for f, ref in zip(p.forecasts, p.references, strict=True)]
    accuracy = []
    for k in range(horizon):
        due = [(f[k] if k < len(f) else None, ref[k]) for f, ref in pairs if k < len(ref)]
        accuracy.append(sum(a is not None and similarity(a, b) == 1.0 for a, b in due) / max(1, len(due)))
    low, high = wilson(wins, len(plays))
    said = sum(len(f) for f, _ in pairs)
    return {
        "success": wins / len(plays), "n": len(plays), "ci95": [low, high],
        "accuracy_at_k": accuracy,
        "repeat": sum(sum(repetitions(f)) for f, _ in pairs) / max(1, said),
        "failed": steps.count("failed") / max(1, len(steps)),
        "unreadable": sum(not f for f, _ in pairs) / max(1, len(pairs)),
        "steps_per_episode": len(steps) / len(plays),
        "tokens_per_episode": sum(p.tokens for p in plays) / len(plays),
    }
