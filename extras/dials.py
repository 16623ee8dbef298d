"""What the studies gave: the record of each, docs/dials.json of all, the tables and the picture.

Called by extras/study.py after each run, with the exams of all runs so far.
It runs, trains and plays nothing: the same exams always give the same numbers.
"""

import math
from collections.abc import Mapping, Sequence
from functools import cache

import numpy as np

from extras.ablation import run_owner
from extras.ablation_shown import arm_record, commits, interval
from extras.intervals import over_tasks
from extras.study_arms import HORIZONS, SHARES, Study
from extras.worlds import find_world
from train import parse_config

Exams = Mapping[str, Sequence[dict]]  # arm -> one exam a seed

# ---- the record of a study -----------------------------------------------------------------------


def study_record(study: Study, exams: Exams, split: str, command: str) -> dict:
    """All numbers of a study, each a list over the seeds; docs/map.json and its like.

    by_demand: success by what a task demands, from `split` and from `deeper`. solved: a digit a
    task, a string a seed, so that arms can be compared task by task. start: what the warm start
    took. pairs: see `paired`. minutes: of all runs together, with their warm starts and exams.
    """
    arms = {}
    for name, runs in exams.items():
        arm = arm_record(list(runs), split)
        arm["by_demand"] = by_demand(runs, split)
        arm["by_kind"] = by_kind([run["split"][split] for run in runs])
        arm["start"] = start_numbers(runs)
        arm["solved"] = {name: solved_digits(runs, name) for name in runs[0]["split"]}
        if any("probe" in run for run in runs):
            arm["probe"] = [run.get("probe") for run in runs]
        arms[name] = arm
    pairs = {}
    for one, other in study.pairs:
        if one in exams and other in exams:
            pairs[f"{one}-{other}"] = compare(exams[one], exams[other], split)
    return {
        "asks": study.asks,
        "split": split,
        "command": command,
        "commit": commits(exams),
        "minutes": round(total_minutes(study, exams), 1),
        "arms": arms,
        "pairs": pairs,
    }


def by_demand(runs: Sequence[dict], split: str) -> dict[str, dict]:
    """Demand -> success, one number a seed, and the number of tasks."""
    found = {}
    for name in (split, "deeper"):
        if name not in runs[0]["split"]:
            continue
        for demand, row in runs[0]["split"][name].get("by_demand", {}).items():
            success = [run["split"][name]["by_demand"][demand]["success"] for run in runs]
            found[demand] = {"success": success, "n": row["n"]}
    return found


def by_kind(metrics: Sequence[Mapping]) -> dict[str, dict]:
    """Kind of the oracle's action -> how often it was met with the right one, one number a seed.

    Policies meet different states, so that n differs too; None for a kind that was not met.
    """
    kinds = {}  # in the place of an ordered set
    for row in metrics:
        kinds |= dict.fromkeys(row["by_kind"])
    found = {}
    for kind in kinds:
        rows = [row["by_kind"].get(kind, {"right": None, "n": 0}) for row in metrics]
        found[kind] = {"right": [row["right"] for row in rows], "n": [row["n"] for row in rows]}
    return found


def start_numbers(runs: Sequence[dict]) -> dict:
    """Batches, target tokens and seconds of a processor of all lessons together, and what was right
    in the check, one number a seed; the check's kinds of actions; empty without a warm start."""
    starts = [run.get("start") for run in runs]
    if not all(starts):
        return {}
    numbers = {}
    for name in ("batches", "target_tokens", "processor_seconds"):
        numbers[name] = [total(start["lessons"], name) for start in starts]
    checks = [start["check"]["without"] for start in starts]
    numbers["first_action"] = [check["first_action"] for check in checks]
    numbers["by_kind"] = by_kind(checks)
    return numbers


def total(lessons: Mapping[str, Mapping], name: str) -> float:
    """The reading lesson has no target tokens."""
    return round(sum(lesson.get(name, 0) for lesson in lessons.values()), 1)


def solved_digits(runs: Sequence[dict], split: str) -> list[str]:
    return ["".join(str(digit) for digit in run["split"][split]["solved"]) for run in runs]


def total_minutes(study: Study, exams: Exams) -> float:
    """A run that several arms play with counts once."""
    minutes = 0.0
    for name, runs in exams.items():
        minutes += sum(run["exam_minutes"] for run in runs)
        if run_owner(name, study.arms) == name:
            minutes += sum(run["run_minutes"] for run in runs)
    return minutes


# ---- pairs ---------------------------------------------------------------------------------------


def compare(one: Sequence[dict], other: Sequence[dict], split: str) -> dict:
    """The first minus the second on `split`, and for each demand: see `paired`."""
    mine = [run["split"][split]["solved"] for run in one]
    theirs = [run["split"][split]["solved"] for run in other]
    pair = paired(mine, theirs)
    parts = {}
    for name in (split, "deeper"):
        if name in one[0]["split"] and name in other[0]["split"]:
            parts |= compare_by_demand(one, other, name)
    if parts:
        pair["by_demand"] = parts
    return pair


def compare_by_demand(one: Sequence[dict], other: Sequence[dict], split: str) -> dict[str, dict]:
    env = parse_config(one[0]["flags"]).env
    n = len(one[0]["split"][split]["solved"])
    demands = demands_of(env, split, n)
    parts = {}
    for demand in sorted(set(demands)):
        tasks = [i for i in range(n) if demands[i] == demand]
        mine = [[run["split"][split]["solved"][i] for i in tasks] for run in one]
        theirs = [[run["split"][split]["solved"][i] for i in tasks] for run in other]
        parts[str(demand)] = paired(mine, theirs)
    return parts


@cache
def demands_of(env: str, split: str, n: int) -> tuple[int, ...]:
    """What each task demands; empty for a world that does not say."""
    world = find_world(env)(split)
    demands = []
    for index in range(n):
        world.reset(index)
        if hasattr(world, "demand"):
            demands.append(world.demand)
    return tuple(demands)


def paired(mine: Sequence[Sequence[int]], theirs: Sequence[Sequence[int]]) -> dict:
    """Two arms on the same tasks: solved or not, [seed][task]. Seeds that one lacks do not count.

    mean: difference of success. ci95: its interval if other seeds had been drawn (Student's t over
    the seeds; None for one seed). ci95_tasks: if other tasks had been drawn (over_tasks, of each
    task's difference over the seeds). only_first, only_second: how many times one arm solved what
    the other with the same seed did not.

    >>> pair = paired([[1, 1, 0, 1], [1, 1, 1, 1]], [[0, 1, 0, 0], [0, 1, 1, 1]])
    >>> pair["mean"], pair["only_first"], pair["only_second"]
    (0.375, 3, 0)
    """
    seeds = min(len(mine), len(theirs))
    difference = np.array(mine[:seeds]) - np.array(theirs[:seeds])  # [seeds, tasks]
    mean, half = interval(difference.mean(axis=1).tolist())
    over_seeds = None if math.isnan(half) else [mean - half, mean + half]
    return {
        "mean": mean,
        "ci95": over_seeds,
        "ci95_tasks": list(task_interval(tuple(difference.mean(axis=0).tolist()))),
        "seeds": seeds,
        "only_first": int((difference > 0).sum()),
        "only_second": int((difference < 0).sum()),
    }


@cache
def task_interval(shares: tuple[float, ...]) -> tuple[float, float]:
    """Remembered: after each run most pairs are as they were before it."""
    return over_tasks(shares)


# ---- docs/dials.json -----------------------------------------------------------------------------

# Names in docs/dials.json -> arms.
DIAL_ARMS = ("tracer1", "reactive", "stage1", "stage2", "filler", "near")
SETTINGS_ARMS = {
    "tracer1": "tracer1_forecasts",
    "reactive_forecasts": "reactive_forecasts",
    "reactive_next": "reactive_next",
    "reactive_next_tokens": "reactive_next_tokens",
    "scrambled": "reactive_scrambled",
}


def dials(records: Mapping[str, dict]) -> dict:
    """Success of each seed by what a world demands, from the records of the studies that were run.

    {"map": {depth: {arm: [..]}}, "horizon": {depth: {T: [..]}}, "memory": {share: {arm: [..]}},
    "settings": {arm: [..]}, "commit", "commands", "minutes"}
    """
    found = {}
    if "map" in records:
        arms = records["map"]["arms"]
        found["map"] = of_demand(arms, {name: name for name in DIAL_ARMS})
        found["horizon"] = of_demand(arms, {str(T): f"horizon_{T}" for T in HORIZONS})
    if "memory" in records:
        found["memory"] = memory_dial(records["memory"])
    if "teaching" in records:
        found["settings"] = success_of(records["teaching"], SETTINGS_ARMS)
    asked = [records[name] for name in ("map", "memory", "teaching") if name in records]
    made_by = {}  # in the place of an ordered set
    for record in asked:
        made_by |= dict.fromkeys(record["commit"].split(", "))
    found["commit"] = ", ".join(made_by)
    found["commands"] = [record["command"] for record in asked]
    found["minutes"] = round(sum(record["minutes"] for record in asked), 1)
    return found


def of_demand(arms: Mapping[str, dict], names: Mapping[str, str]) -> dict[str, dict]:
    """Demand -> name -> success of each seed; `names`: name -> arm."""
    found = {}
    for name, arm in names.items():
        if arm in arms:
            for demand, row in arms[arm]["by_demand"].items():
                found.setdefault(demand, {})[name] = row["success"]
    return dict(sorted(found.items()))


def memory_dial(record: dict) -> dict[str, dict]:
    found = {}
    for share in SHARES:
        names = {name: f"{name}_{share}" for name in ("tracer1", "reactive")}
        success = success_of(record, names)
        if success:
            found[share] = success
    return found


def success_of(record: dict, names: Mapping[str, str]) -> dict[str, list[float]]:
    found = {}
    for name, arm in names.items():
        if arm in record["arms"]:
            found[name] = record["arms"][arm]["split"][record["split"]]["success"]
    return found
