"""Exams as extras/ablation.py writes them, made up: for the tests of what is made of them."""

from extras.ablation import ABLATION_SPLITS, Settings, training_flags
from extras.study_arms import STUDIES
from extras.toy_map import DEPTHS

# ---- of the ablation -----------------------------------------------------------------------------


def exam(success: float, flags: str = "") -> dict:
    """What run_arm returns for an arm that is half as good on disturbed splits."""
    splits = {}
    for split in ABLATION_SPLITS["toy-gui"]:
        splits[split] = {
            "success": success if split in ("test", "app") else success / 2,
            "n": 300,
            "stability": 0.5,
            "repeat": 0.1,
            "failed": 0.2,
            "accuracy_at_k": [0.5, 0.4],
            "tokens_per_episode": 200.0,
            "by_kind": {"click": {"right": 0.5, "n": 10}},
        }
    return {
        "flags": flags.split(),
        "split": splits,
        "minutes": 2.0,
        "exam_minutes": 1.0,
        "sampled_tokens": 1000,
        "commit": "abc",
    }


def exams(*successes: float) -> list[dict]:
    """One exam a seed."""
    return [exam(success) for success in successes]


# ---- of the studies ------------------------------------------------------------------------------


def metrics_of(solved: list[int], demands: list[int]) -> dict:
    """What eval.toy_metrics says of these tasks."""
    metrics = {
        "success": sum(solved) / len(solved),
        "n": len(solved),
        "stability": None,
        "repeat": 0.0,
        "failed": 0.1,
        "accuracy_at_k": [0.5],
        "tokens_per_episode": 30.0,
        "by_kind": {"click": {"right": 0.5, "n": 10}},
        "solved": solved,
    }
    by_demand = {}
    for demand in sorted(set(demands)):
        part = [digit for digit, of in zip(solved, demands, strict=True) if of == demand]
        by_demand[str(demand)] = {"success": sum(part) / len(part), "n": len(part)}
    if by_demand:
        metrics["by_demand"] = by_demand
    return metrics


def exam_of(arm: str, seed: int, split: dict, flags: str) -> dict:
    return {
        "arm": arm,
        "seed": seed,
        "commit": "abc",
        "flags": flags.split(),
        "split": split,
        "minutes": 2.0,
        "run_minutes": 5.0,
        "exam_minutes": 1.0,
        "sampled_tokens": 1000,
        "start": {
            "lessons": {
                "reading": {"batches": 200, "processor_seconds": 30.0},
                "imitating": {"batches": 300, "target_tokens": 9000, "processor_seconds": 60.5},
            },
            "check": {
                "passed": seed > 0,
                "without": {"first_action": 0.8, "by_kind": {"click": {"right": 0.9, "n": 50}}},
            },
        },
    }


def map_exam(arm: str, seed: int, by_depth: dict[int, list[int]], flags: str) -> dict:
    """`by_depth`: depth -> solved or not of its tasks; depth 5 is the split `deeper`."""
    n = len(by_depth[1])
    solved = []
    demands = []
    for i in range(n):
        for depth in DEPTHS:  # task i has the depth DEPTHS[i % 4]
            solved.append(by_depth[depth][i])
            demands.append(depth)
    deeper = by_depth[5]
    split = {"test": metrics_of(solved, demands), "deeper": metrics_of(deeper, [5] * len(deeper))}
    return exam_of(arm, seed, split, flags)


def flags_of(study: str, arm: str) -> str:
    settings = Settings(
        root=None,
        warmup_dir=None,
        seeds=1,
        jobs=1,
        limit=300,
        split="",
        flags=[],
        stage1_updates=300,
        stage2_updates=200,
    )
    return " ".join(training_flags(STUDIES[study].arms[arm], settings))


def map_exams(shares: dict[str, float], seeds: int = 3, n: int = 20) -> dict[str, list[dict]]:
    """Arms that solve this share of the tasks of depth 1, and of each depth a tenth less."""
    exams = {}
    for arm, share in shares.items():
        runs = []
        for seed in range(seeds):
            by_depth = {}
            for depth in (*DEPTHS, 5):
                right = round((share - 0.1 * (depth - 1)) * n)
                by_depth[depth] = [1] * right + [0] * (n - right)
            runs.append(map_exam(arm, seed, by_depth, flags_of("map", arm)))
        exams[arm] = runs
    return exams


def plain_exams(study: str, shares: dict[str, float], split: str = "test") -> dict:
    exams = {}
    for arm, share in shares.items():
        right = round(share * 20)
        exams[arm] = []
        for seed in range(3):
            metrics = metrics_of([1] * right + [0] * (20 - right), [])
            exams[arm].append(exam_of(arm, seed, {split: metrics}, flags_of(study, arm)))
    return exams
