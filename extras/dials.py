"""What the studies gave: the record of each, docs/dials.json of all, the tables and the picture.

Called by extras/study.py after each run, with the exams of all runs so far.
It runs, trains and plays nothing: the same exams always give the same numbers.

    exams["tracer1"][0]                      the run of seed 0 (extras/ablation.run_arm)
        ["start"]["lessons"]["reading"]      what a lesson of its warm start took
        ["split"]["test"]                    the metrics of a split (eval.toy_metrics), among them
            ["success"]                      0.62, a share of the tasks
            ["solved"]                       [1, 0, 1, ...], task by task
            ["by_demand"]["3"]               {"success": 0.41, "n": 200}
            ["by_kind"]["click"]             {"right": 0.55, "n": 310}
"""

import math
from collections.abc import Mapping, Sequence
from functools import cache

import numpy as np

from extras.ablation import run_owner
from extras.ablation_shown import arm_record, by_kind, commits, each_once
from extras.intervals import over_seeds, over_tasks
from extras.study_arms import HORIZONS, SHARES, Study
from extras.worlds import find_world
from train import parse_config

Exams = Mapping[str, Sequence[dict]]  # arm -> one exam a seed

# ---- the record of a study -----------------------------------------------------------------------


def study_record(study: Study, exams: Exams, split: str, command: str) -> dict:
    """All numbers of a study, as docs/memory.json has them.

    arms: see study_arm_record. pairs: the first minus the second, see `paired`. minutes: of all
    runs together, with their warm starts and exams.
    """
    arms = {name: study_arm_record(runs, split) for name, runs in exams.items()}
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


def study_arm_record(runs: Sequence[dict], split: str) -> dict:
    """What arm_record says of an arm, and more; each number is a list over the seeds.

    by_demand: success by what a task demands, from `split` and from `deeper`. start: what the warm
    start took. solved: a digit a task, a string a seed, so that arms can be compared task by task.
    surprised: of the first steps that said what would be seen after them, how often something else
    was. probe: what else was asked (ablation.Arm.probe).
    """
    record = arm_record(list(runs), split)
    record["by_demand"] = by_demand(runs, split)
    record["start"] = start_numbers(runs)
    record["solved"] = {played: solved_digits(runs, played) for played in runs[0]["split"]}
    surprised = [run["split"][split].get("surprised") for run in runs]
    if any(share is not None for share in surprised):
        record["surprised"] = surprised
    if any("probe" in run for run in runs):
        record["probe"] = [run.get("probe") for run in runs]
    return record


def by_demand(runs: Sequence[dict], split: str) -> dict[str, dict]:
    """Demand -> success, one number a seed, and the number of tasks.

    On the map `deeper` has the one demand that `split` lacks, so no row is written twice.
    """
    rows = {}
    for played in (split, "deeper"):
        if played not in runs[0]["split"]:
            continue
        for demand, row in runs[0]["split"][played].get("by_demand", {}).items():
            success = [run["split"][played]["by_demand"][demand]["success"] for run in runs]
            rows[demand] = {"success": success, "n": row["n"]}
    return rows


def start_numbers(runs: Sequence[dict]) -> dict:
    """What the warm starts took and could do, one number a seed; empty without a warm start.

    batches, target_tokens, processor_seconds: of all lessons together, reading among them, which
    has no target tokens. first_action, by_kind: right in the check of the start, without a plan in
    the prompt. passed: that check.
    """
    starts = [run.get("start") for run in runs]
    if not all(starts):
        return {}
    numbers = {}
    for name in ("batches", "target_tokens", "processor_seconds"):
        numbers[name] = [total(start["lessons"], name) for start in starts]
    checks = [start["check"]["without"] for start in starts]
    numbers["first_action"] = [check["first_action"] for check in checks]
    numbers["by_kind"] = by_kind(checks)
    numbers["passed"] = [start["check"]["passed"] for start in starts]
    return numbers


def total(lessons: Mapping[str, Mapping], name: str) -> float:
    # A lesson that lacks it took none: reading has no target tokens.
    return round(sum(lesson.get(name, 0) for lesson in lessons.values()), 1)


def solved(runs: Sequence[dict], split: str) -> list[list[int]]:
    """[seed][task], 0 or 1."""
    return [run["split"][split]["solved"] for run in runs]


def solved_digits(runs: Sequence[dict], split: str) -> list[str]:
    """A string a seed: "1101..."."""
    return ["".join(map(str, digits)) for digits in solved(runs, split)]


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
    pair = paired(solved(one, split), solved(other, split))
    parts = {}
    for played in (split, "deeper"):
        if played in one[0]["split"] and played in other[0]["split"]:
            parts |= compare_by_demand(one, other, played)
    if parts:
        pair["by_demand"] = parts
    return pair


def compare_by_demand(one: Sequence[dict], other: Sequence[dict], split: str) -> dict[str, dict]:
    """Demand -> the first minus the second on the tasks that demand it."""
    mine = solved(one, split)
    theirs = solved(other, split)
    env = parse_config(one[0]["flags"]).env
    demands = demands_of(env, split, n=len(mine[0]))
    parts = {}
    for demand in sorted(set(demands)):
        tasks = [task for task, demanded in enumerate(demands) if demanded == demand]
        parts[str(demand)] = paired(only(tasks, mine), only(tasks, theirs))
    return parts


def only(tasks: Sequence[int], seeds: Sequence[Sequence[int]]) -> list[list[int]]:
    """Some tasks of [seed][task].

    >>> only([0, 2], [[1, 0, 1], [0, 0, 1]])
    [[1, 1], [0, 1]]
    """
    picked = []
    for digits in seeds:
        picked.append([digits[task] for task in tasks])
    return picked


@cache
def demands_of(env: str, split: str, n: int) -> tuple[int, ...]:
    """What each of the tasks 0..n-1 demands; empty for a world that does not say.

    Remembered: to ask, each task has to be made.
    """
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
    of_seeds = difference.mean(axis=1).tolist()
    of_tasks = difference.mean(axis=0).tolist()
    mean, half = over_seeds(of_seeds)
    return {
        "mean": mean,
        "ci95": None if math.isnan(half) else [mean - half, mean + half],
        "ci95_tasks": list(task_interval(tuple(of_tasks))),
        "seeds": seeds,
        "only_first": int((difference > 0).sum()),
        "only_second": int((difference < 0).sum()),
    }


@cache
def task_interval(shares: tuple[float, ...]) -> tuple[float, float]:
    """Remembered: after each run most pairs are as they were before it. A difference lies in -1..1,
    and one task says nothing of others."""
    if len(shares) < 2:
        return -1.0, 1.0
    return over_tasks(shares)


# ---- docs/dials.json -----------------------------------------------------------------------------

DIAL_ARMS = ("tracer1", "reactive", "stage1", "stage2", "filler", "near")  # of the map
# "settings" in docs/dials.json is the toy GUI, whose apps are settings: names there -> arms of the
# study `teaching`.
SETTINGS_ARMS = {
    "tracer1": "tracer1_forecasts",
    "reactive_forecasts": "reactive_forecasts",
    "reactive_next": "reactive_next",
    "reactive_next_tokens": "reactive_next_tokens",
    "scrambled": "reactive_scrambled",
}


def dials(records: Mapping[str, dict]) -> dict:
    """Success of each seed by what a world demands, from the records of the studies that were run.

    {"map":      {"1": {"tracer1": [0.99, ...], "reactive": [0.97, ...], ...}, "2": ..., "5"},
     "horizon":  {"1": {"1": [...], "2": [...], ...}, ..., "5"},     depth, then T
     "memory":   {"0": {"tracer1": [...], "reactive": [...]}, "0.25": ..., "1"},
     "settings": {"tracer1": [...], "reactive_next": [...], ...},
     "commit": "abc, def", "commands": [...], "minutes": 612.0}
    """
    success = {}
    if "map" in records:
        arms = records["map"]["arms"]
        success["map"] = success_by_demand(arms, {name: name for name in DIAL_ARMS})
        success["horizon"] = success_by_demand(arms, {str(T): f"horizon_{T}" for T in HORIZONS})
    if "memory" in records:
        success["memory"] = memory_dial(records["memory"])
    if "teaching" in records:
        success["settings"] = successes_of(records["teaching"], SETTINGS_ARMS)
    used = [records[name] for name in ("map", "memory", "teaching") if name in records]
    made_by = each_once(record["commit"].split(", ") for record in used)
    minutes = sum(record["minutes"] for record in used)
    return success | {
        "commit": ", ".join(made_by),
        "commands": [record["command"] for record in used],
        "minutes": round(minutes, 1),
    }


def success_by_demand(arms: Mapping[str, dict], names: Mapping[str, str]) -> dict[str, dict]:
    """Demand -> name -> success of each seed; `names`: name -> arm."""
    success = {}
    for name, arm in names.items():
        if arm in arms:
            for demand, row in arms[arm]["by_demand"].items():
                success.setdefault(demand, {})[name] = row["success"]
    return dict(sorted(success.items()))


def memory_dial(record: dict) -> dict[str, dict]:
    """Share of the tasks that need memory -> name -> success of each seed."""
    by_share = {}
    for share in SHARES:
        names = {name: f"{name}_{share}" for name in ("tracer1", "reactive")}
        success = successes_of(record, names)
        if success:
            by_share[share] = success
    return by_share


def successes_of(record: dict, names: Mapping[str, str]) -> dict[str, list[float]]:
    """Name -> success of each seed; `names`: name -> arm. Arms that were not run are left out."""
    success = {}
    for name, arm in names.items():
        if arm in record["arms"]:
            success[name] = record["arms"][arm]["split"][record["split"]]["success"]
    return success
