"""What the arms of an ablation say: their record, a table and a picture.

Called by extras/ablation.py with the exams of all arms; extras/dials.py counts with it too.
It runs, trains and plays nothing: the same exams and the same command always give the same record.

    exams["tracer1"][0]                  what the run of seed 0 gave (extras/ablation.run_arm)
        ["minutes"], ["commit"], ...     of the whole run
        ["split"]["test"]["success"]     and all other metrics of a split (eval.toy_metrics)
"""

import math
import shlex
import sys
from collections.abc import Hashable, Iterable, Mapping, Sequence
from itertools import chain
from pathlib import Path

import numpy as np

from extras.intervals import over_seeds

# Splits that ask how robust a policy is.
DISTURBED = {"popup", "flaky", "layout"}

# ---- what the numbers say -----------------------------------------------------------------------


def mean_and_ends(values: Sequence[float]) -> dict:
    """The mean over the seeds and its 95 % interval; nan twice for one seed."""
    mean, half = over_seeds(values)
    return {"mean": mean, "ci95": [mean - half, mean + half]}


def ablation_record(
    exams: dict[str, list[dict]], seeds: int, common_flags: list[str], split: str = "test"
) -> dict:
    """What docs/ablation.json holds. `exams`: arm -> its exams, one for each seed.

    Per arm one number a seed; paired differences on `split` over the seeds in common, with the 95 %
    interval by Student's t; `gain`: relative, of TraceR1 over the better reactive arm of each seed.
    """
    arms = {}
    success = {}  # arm -> one number a seed
    for arm, runs in exams.items():
        arms[arm] = arm_record(runs, split)
        success[arm] = arms[arm]["split"][split]["success"]
    record = {
        "arms": arms,
        "seeds": list(range(seeds)),
        "command": shlex.join(["python", "-m", "extras.ablation", *sys.argv[1:]]),
        "common_flags": common_flags,
        "commit": commits(exams),
        "pairs": pairs(success),
    }
    if {"tracer1", "reactive_text", "reactive_grounded"} <= set(arms):
        record["gain"] = mean_and_ends(gains(success))
    return record


def arm_record(runs: list[dict], split: str) -> dict:
    """The numbers of one arm, each a list over the seeds.

    split: success on each split that it played, and the number of tasks; how well an arm
    generalises, the splits say that training never shows (app; composition, tool).
    stability to tokens_per_episode: of `split`, see eval.py. robustness: see the function.
    per_1000_tokens, per_minute: tasks solved on `split` per 1,000 tokens written there, and on all
    splits per minute of playing them. by_kind: of first actions on `split`.
    """
    metrics = [run["split"][split] for run in runs]
    record = {"split": {}}
    for name in runs[0]["split"]:
        success = [run["split"][name]["success"] for run in runs]
        record["split"][name] = {"success": success, "n": runs[0]["split"][name]["n"]}
    for name in ("stability", "repeat", "failed", "accuracy_at_k", "tokens_per_episode"):
        record[name] = [row[name] for row in metrics]
    record["robustness"] = [robustness(run, split) for run in runs]
    record["per_1000_tokens"] = [per_1000_tokens(row) for row in metrics]
    record["per_minute"] = [per_minute(run) for run in runs]
    for name in ("minutes", "exam_minutes", "sampled_tokens", "commit"):
        record[name] = [run.get(name) for run in runs]
    record["flags"] = " ".join(runs[0]["flags"])
    record["by_kind"] = by_kind(metrics)
    return record


def robustness(run: dict, split: str) -> float | None:
    """Mean success on the disturbed splits over success on `split`; None: they were not played."""
    disturbed = []
    for name, row in run["split"].items():
        if name in DISTURBED:
            disturbed.append(row["success"])
    if not disturbed:
        return None
    mean = sum(disturbed) / len(disturbed)
    return mean / max(run["split"][split]["success"], 1e-9)


def per_1000_tokens(metrics: dict) -> float:
    return 1000 * metrics["success"] / max(metrics["tokens_per_episode"], 1e-9)


def per_minute(run: dict) -> float:
    solved = sum(row["success"] * row["n"] for row in run["split"].values())
    return solved / run["exam_minutes"]


def by_kind(metrics: Sequence[Mapping]) -> dict[str, dict]:
    """Kind of the oracle's action -> how often it was met with the right one, one number a seed.

    Policies meet different states, so that n differs too; None for a kind that was not met.

    >>> by_kind([{"by_kind": {"click": {"right": 0.5, "n": 8}}}, {"by_kind": {}}])
    {'click': {'right': [0.5, None], 'n': [8, 0]}}
    """
    over_the_seeds = {}
    for kind in each_once(row["by_kind"] for row in metrics):
        rows = [row["by_kind"].get(kind, {"right": None, "n": 0}) for row in metrics]
        right = [row["right"] for row in rows]
        over_the_seeds[kind] = {"right": right, "n": [row["n"] for row in rows]}
    return over_the_seeds


def commits(exams: dict[str, list[dict]]) -> str:
    """All commits that made the exams, joined by commas."""
    made_by = []
    for runs in exams.values():
        made_by.append([run["commit"] for run in runs if "commit" in run])
    return ", ".join(each_once(made_by))


def each_once(groups: Iterable[Iterable[Hashable]]) -> list:
    """What stands in any of the groups, in the order in which it first appears.

    >>> each_once([["tracer1", "stage1"], ["stage1", "near"]])
    ['tracer1', 'stage1', 'near']
    """
    return list(dict.fromkeys(chain.from_iterable(groups)))


def pairs(success: dict[str, list[float]]) -> dict[str, dict]:
    """TraceR1 and stage 1 minus each other arm, seed by seed; a seed needs both of a pair."""
    differences = {}
    for one in ("tracer1", "stage1"):
        for other in success:
            if one in success and one != other:
                minus = difference(success[one], success[other])
                differences[f"{one}-{other}"] = mean_and_ends(minus)
    return differences


def difference(mine: Sequence[float], theirs: Sequence[float]) -> list[float]:
    both = zip(mine, theirs, strict=False)  # one of them may have fewer seeds
    return [one - other for one, other in both]


def gains(success: dict[str, list[float]]) -> list[float]:
    """TraceR1 over the better reactive arm, relative, for each seed: 0.1 is ten per cent more."""
    better = map(max, success["reactive_text"], success["reactive_grounded"])
    both = zip(success["tracer1"], better, strict=True)
    return [mine / max(theirs, 1e-9) - 1 for mine, theirs in both]


# ---- the table ----------------------------------------------------------------------------------

NOTHING = "-"  # in a cell whose arm, split or pair has not been run


def ablation_table(record: dict) -> str:
    """One row an arm: success on the first split, the others that it plays, and what it cost; then
    its first actions by kind, for an average hid a start that could not type at all."""
    played = [list(arm["split"]) for arm in record["arms"].values()]
    splits = max(played, key=len)
    rows = [table_header(splits)]
    for arm in record["arms"]:
        rows.append(table_row(arm, record, splits))
    if "gain" in record:
        gain = record["gain"]
        half = gain["ci95"][1] - gain["mean"]
        text = f"TraceR1 over the better reactive arm of each seed: {gain['mean']:+.1%}"
        if not math.isnan(half):  # as it is with one seed
            text += f" +- {half:.1%}"
        rows.append(text)
    return "\n".join([*rows, "", kinds_table(record["arms"])])


def table_header(splits: Sequence[str]) -> str:
    first, *others = splits
    cells = [f"{'arm (seeds)':22}", f"{first:>12}", f"{'TraceR1 minus it':>17}"]
    cells += [f"{split[:7]:>7}" for split in others]
    cells += [f"{name:>7}" for name in ("stable", "repeat", "failed", "tokens", "per 1k")]
    cells.append(f"{'minutes':>8}")
    return " ".join(cells)


def table_row(name: str, record: dict, splits: Sequence[str]) -> str:
    arm = record["arms"][name]
    first, *others = splits
    label = seeds_label(name, arm)
    mean, half = over_seeds(arm["split"][first]["success"])
    on_first = plus_minus(f"{100 * mean:.1f}", 100 * half)
    cells = [f"{label:22}", f"{on_first:>12}", f"{against_tracer1(name, record):>17}"]
    for split in others:
        played = arm["split"].get(split, {"success": None})
        cells.append(mean_cell(played["success"], "7.1%"))
    cells += [
        mean_cell(arm["stability"], "7.1%"),
        mean_cell(arm["repeat"], "7.1%"),
        mean_cell(arm["failed"], "7.1%"),
        mean_cell(arm["tokens_per_episode"], "7.1f"),
        mean_cell(arm["per_1000_tokens"], "7.2f"),
        mean_cell(arm["minutes"], "8.1f"),
    ]
    return " ".join(cells)


def against_tracer1(name: str, record: dict) -> str:
    """TraceR1's lead over this arm in points, with its interval."""
    pair = record["pairs"].get(f"tracer1-{name}")
    if pair is None:
        return ""
    low, high = pair["ci95"]
    return plus_minus(f"{100 * pair['mean']:+.1f}", 50 * (high - low))


def plus_minus(mean: str, half: float) -> str:
    """A cell; one seed has no interval, and blanks keep its mean in the column.

    >>> plus_minus("55.0", 4.21)
    '55.0 +- 4.2'
    """
    if math.isnan(half):
        return mean + " " * len(" +- 4.2")
    return f"{mean} +- {half:.1f}"


def mean_cell(values: Sequence[float | None] | None, style: str) -> str:
    """The mean over the seeds; a dash where there is none."""
    if values is None or None in values:
        return f"{NOTHING:>7}"
    return format(np.mean(values), style)


def kinds_table(arms: Mapping[str, dict]) -> str:
    """First actions right by the kind of the oracle's, and of how many in all seeds."""
    kinds = each_once(arm["by_kind"] for arm in arms.values())
    rows = [["first action right", *kinds]]
    for name, arm in arms.items():
        row = [seeds_label(name, arm)]
        for kind in kinds:
            of_kind = arm["by_kind"].get(kind, {"right": [], "n": [0]})
            row.append(f"{mean_percent(of_kind['right'])} of {sum(of_kind['n'])}")
        rows.append(row)
    return in_columns(rows)


def seeds_label(name: str, arm: dict) -> str:
    return f"{name} ({len(arm['minutes'])})"


def mean_percent(shares: Sequence[float | None]) -> str:
    known = [share for share in shares if share is not None]
    if not known:
        return NOTHING
    return f"{np.mean(known):.0%}"


def in_columns(rows: Sequence[Sequence[str]]) -> str:
    """The first column flush left, the others flush right.

    >>> print(in_columns([["arm", "success"], ["tracer1", "5"]]))
    arm      success
    tracer1        5
    """
    columns = zip(*rows, strict=True)
    widths = [max(map(len, column)) for column in columns]
    lines = []
    for first, *others in rows:
        cells = [first.ljust(widths[0])]
        cells += [cell.rjust(width) for cell, width in zip(others, widths[1:], strict=True)]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)


# ---- the picture --------------------------------------------------------------------------------


def draw_ablation(record: dict, path: Path) -> None:
    """Arms with intervals; forecast accuracy against k; success against T, if there are several."""
    from matplotlib.figure import Figure  # here, because importing it writes a cache of fonts

    arms = record["arms"]
    first = next(iter(arms.values()))
    split = next(iter(first["split"]))
    success = {}  # arm -> per cent, one for each seed
    for name, arm in arms.items():
        success[name] = 100 * np.array(arm["split"][split]["success"])
    horizons = horizon_arms(arms)
    several_horizons = len(horizons) > 1
    panels = 3 if several_horizons else 2
    figure = Figure((5 * panels, 0.28 * len(arms) + 2.2), layout="tight")
    axes = figure.subplots(1, panels, width_ratios=(2, 1.2, 1)[:panels])
    draw_arms(axes[0], success, split)
    draw_accuracy(axes[1], arms)
    if several_horizons:
        curves = {T: success[name] for T, name in horizons.items()}
        draw_horizons(axes[2], curves)
    figure.savefig(path, dpi=110)


def horizon_arms(arms: dict[str, dict]) -> dict[int, str]:
    """T -> the arm that differs from TraceR1 in nothing else; TraceR1 itself has T = 5."""
    horizons = {}
    for name in arms:
        if name == "tracer1":
            horizons[5] = name
        elif name.startswith("horizon_"):
            horizons[int(name.removeprefix("horizon_"))] = name
    return dict(sorted(horizons.items()))


def draw_arms(axis, success: dict[str, np.ndarray], split: str) -> None:
    """A bar an arm, a dot a seed. `success`: arm -> per cent, one for each seed."""
    labels = []
    means = []
    halves = []
    for name, values in success.items():
        mean, half = over_seeds(values)
        labels.append(f"{name} ({len(values)})")
        means.append(mean)
        halves.append(half)
    colours = ["tab:green" if name == "tracer1" else "silver" for name in success]
    axis.barh(labels, means, xerr=halves, capsize=3, color=colours)
    axis.invert_yaxis()
    for row, values in enumerate(success.values()):
        axis.plot(values, [row] * len(values), "k.", markersize=4)
    title = f"success on {split}: mean, 95 % interval, seeds (dots)"
    axis.set(title=title, xlabel="% of tasks", xlim=(0, 100))


def draw_accuracy(axis, arms: dict[str, dict]) -> None:
    for name in ("warmup", "stage1", "stage2", "tracer1"):
        if name in arms:
            curve = 100 * np.mean(arms[name]["accuracy_at_k"], axis=0)
            axis.plot(range(1, len(curve) + 1), curve, marker="o", label=name)
    axis.set(title="forecast accuracy k steps ahead", xlabel="k", ylabel="% right")
    axis.legend()


def draw_horizons(axis, success: dict[int, np.ndarray]) -> None:
    """A grey line a seed, over the seeds that all horizons have in common, and their mean."""
    horizons = list(success)
    seeds = min(len(values) for values in success.values())
    curves = np.array([values[:seeds] for values in success.values()])  # [horizons, seeds]
    axis.plot(horizons, curves, color="silver", marker=".")
    axis.plot(horizons, curves.mean(1), marker="o")
    axis.set(title="success against T (grey: seeds)", xlabel="T", ylabel="% of tasks")
    axis.set(xticks=horizons, ylim=(0, 100))
