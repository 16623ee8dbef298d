"""What the studies gave, for a person: a table of each, and the picture of all dials.

Called by extras/study.py with the records of extras/dials.py.
It computes nothing but means over seeds, and writes no file but the picture.
"""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from eval import TYPE_UNSAID
from extras.ablation_shown import interval, plus_minus
from extras.study_arms import FORM_WORLDS, FORMS, HORIZONS, LESSONS, SHARES

# ---- tables --------------------------------------------------------------------------------------

LEGEND = (
    "% of tasks, mean over the seeds +- half of its 95 % interval (Student's t).\n"
    "Differences in points: +- over the seeds, [95 % interval over the tasks]."
)


def study_table(name: str, record: dict) -> str:
    """The tables of one study, as far as its runs are done."""
    tables = {
        "map": map_tables,
        "memory": memory_tables,
        "teaching": teaching_tables,
        "forms": forms_tables,
    }
    title = f"{name}: {record['asks']} ({record['split']}, commit {record['commit']})"
    parts = [title, LEGEND, *tables[name](record)]
    return "\n\n".join(parts) + "\n"


def map_tables(record: dict) -> list[str]:
    arms = record["arms"]
    depths = demands_in(arms)
    success = [["arm (seeds)", *(f"d = {depth}" for depth in depths), "wider", "flaky", *COSTS]]
    for name, arm in arms.items():
        row = [seeds_label(name, arm)]
        row += [percent(arm["by_demand"].get(depth)) for depth in depths]
        row += [percent(arm["split"].get(split)) for split in ("wider", "flaky")]
        success.append(row + costs(arm))
    pairs = [["difference", *(f"d = {depth}" for depth in depths)]]
    for name, pair in record["pairs"].items():
        parts = pair["by_demand"]
        pairs.append([spaced(name), *(points(parts.get(depth)) for depth in depths)])
    kept = [["kept of TraceR1's gain", *(f"d = {depth}" for depth in depths)]]
    for arm in ("filler", "filler_words", "near"):
        if f"{arm}-reactive" in record["pairs"]:
            cells = [share_kept(arm, depth, record["pairs"]) for depth in depths]
            kept.append([arm, *cells])
    horizons = [["T", *(f"d = {depth}" for depth in depths)]]
    for T in HORIZONS:
        if f"horizon_{T}" in arms:
            arm = arms[f"horizon_{T}"]
            cells = [percent(arm["by_demand"].get(depth)) for depth in depths]
            horizons.append([str(T), *cells])
    return [in_columns(rows) for rows in (success, pairs, kept, horizons) if len(rows) > 1]


def share_kept(arm: str, depth: str, pairs: Mapping[str, dict]) -> str:
    """How much of what TraceR1 has over the reactive agent this arm has as well.

    Nothing is said of a gain whose interval over the tasks holds 0: it would be divided by chance.
    """
    gain = pairs.get("tracer1-reactive", {}).get("by_demand", {}).get(depth)
    own = pairs[f"{arm}-reactive"]["by_demand"].get(depth)
    if gain is None or own is None or gain["ci95_tasks"][0] <= 0:
        return NOTHING
    return f"{own['mean'] / gain['mean']:.0%}"


def memory_tables(record: dict) -> list[str]:
    arms = record["arms"]
    split = record["split"]
    players = ("tracer1", "reactive", "taken_away", "warmup")
    success = [["share", *players, "TraceR1 - reactive", "TraceR1 - taken away"]]
    ceilings = [["share", "plan in the prompt", "first action right", "what was seen early, typed"]]
    for share in SHARES:
        row = [share]
        for player in players:
            arm = arms.get(f"{player}_{share}", {"split": {}})
            row.append(percent(arm["split"].get(split)))
        for other in ("reactive", "taken_away"):
            row.append(points(record["pairs"].get(f"tracer1_{share}-{other}_{share}")))
        if set(row[1:]) != {NOTHING}:
            success.append(row)
        ceilings += ceiling_rows(share, arms.get(f"tracer1_{share}", {}).get("probe", []))
    tables = [in_columns(rows) for rows in (success, ceilings) if len(rows) > 1]
    return [*tables, kinds_table(arms)]


def ceiling_rows(share: str, probes: Sequence[dict]) -> list[list[str]]:
    """A row for each plan in the prompt; none where no task needs memory."""
    asked = [probe for probe in probes if probe]
    if not asked:
        return []
    rows = []
    for plan in ("none", "own", "oracle"):
        right = [probe[plan]["first_action"] for probe in asked]
        typed = [probe[plan]["by_kind"].get(TYPE_UNSAID, {}).get("right") for probe in asked]
        rows.append([share, plan, mean_percent(right), mean_percent(typed)])
    return rows


def teaching_tables(record: dict) -> list[str]:
    arms = record["arms"]
    split = record["split"]
    learners = ("warmup", "reactive", "tracer1")
    success = [["warm start", *learners, "TraceR1 - reactive", "batches", "target tokens", "s"]]
    for lessons in LESSONS:
        row = [lessons]
        for learner in learners:
            arm = arms.get(f"{learner}_{lessons}", {"split": {}})
            row.append(percent(arm["split"].get(split)))
        row.append(points(record["pairs"].get(f"tracer1_{lessons}-reactive_{lessons}")))
        start = arms.get(f"reactive_{lessons}", {}).get("start", {})
        for name in ("batches", "target_tokens", "processor_seconds"):
            row.append(mean_number(start.get(name)))
        if set(row[1:]) != {NOTHING}:
            success.append(row)
    pairs = [["difference", "points"]]
    for name, pair in record["pairs"].items():
        pairs.append([spaced(name), points(pair)])
    return [in_columns(success), in_columns(pairs), kinds_table(arms)]


def kinds_table(arms: Mapping[str, dict]) -> str:
    """First actions right by the kind of the oracle's, and of how many in all seeds."""
    kinds = {}  # in the place of an ordered set
    for arm in arms.values():
        kinds |= dict.fromkeys(arm["by_kind"])
    rows = [["first action right", *kinds]]
    for name, arm in arms.items():
        row = [seeds_label(name, arm)]
        for kind in kinds:
            found = arm["by_kind"].get(kind, {"right": [], "n": [0]})
            row.append(f"{mean_percent(found['right'])} of {sum(found['n'])}")
        rows.append(row)
    return in_columns(rows)


def forms_tables(record: dict) -> list[str]:
    arms = record["arms"]
    rows = [["form"]]
    for world in FORM_WORLDS:
        rows[0] += [f"toy-{world}", "- near", "tokens"]
    for form in FORMS:
        row = [form]
        for world in FORM_WORLDS:
            arm = arms.get(f"{form}_{world}", {"split": {}})
            row.append(percent(arm["split"].get(record["split"])))
            row.append(points(record["pairs"].get(f"{form}_{world}-near_{world}")))
            row.append(mean_number(arm.get("tokens_per_episode")))
        if set(row[1:]) != {NOTHING}:
            rows.append(row)
    return [in_columns(rows), kinds_table(arms)]


# ---- cells ---------------------------------------------------------------------------------------

NOTHING = "-"
COSTS = ("tokens", "sampled", "start: batches", "s", "RL: min")


def costs(arm: dict) -> list[str]:
    """Tokens of an episode and of all training, and what start and training took."""
    return [
        mean_number(arm["tokens_per_episode"]),
        mean_number(arm["sampled_tokens"]),
        mean_number(arm["start"].get("batches")),
        mean_number(arm["start"].get("processor_seconds")),
        mean_number(arm["minutes"]),
    ]


def demands_in(arms: Mapping[str, dict]) -> list[str]:
    demands = {}  # in the place of an ordered set
    for arm in arms.values():
        demands |= dict.fromkeys(arm["by_demand"])
    return sorted(demands)


def seeds_label(name: str, arm: dict) -> str:
    return f"{name} ({len(arm['minutes'])})"


def spaced(pair: str) -> str:
    return pair.replace("-", " - ")


def percent(row: Mapping | None) -> str:
    """ "55.0 +- 4.2" of a row with the success of each seed."""
    if row is None:
        return NOTHING
    mean, half = interval(row["success"])
    return plus_minus(f"{100 * mean:.1f}", 100 * half).strip()


def points(pair: Mapping | None) -> str:
    """ "+12.3 +- 4.5 [8 to 16]": the difference, over the seeds, over the tasks."""
    if pair is None:
        return NOTHING
    half = math.nan
    if pair["ci95"] is not None:
        half = 50 * (pair["ci95"][1] - pair["ci95"][0])
    low, high = pair["ci95_tasks"]
    over_seeds = plus_minus(f"{100 * pair['mean']:+.1f}", half).strip()
    return f"{over_seeds} [{100 * low:.0f} to {100 * high:.0f}]"


def mean_percent(shares: Sequence[float | None]) -> str:
    known = [share for share in shares if share is not None]
    if not known:
        return NOTHING
    return f"{np.mean(known):.0%}"


def mean_number(values: Sequence[float] | None) -> str:
    if not values:
        return NOTHING
    return f"{np.mean(values):,.0f}"


def in_columns(rows: Sequence[Sequence[str]]) -> str:
    """The first column flush left, the others flush right.

    >>> print(in_columns([["arm", "success"], ["tracer1", "5"]]))
    arm      success
    tracer1        5
    """
    widths = [max(len(cell) for cell in column) for column in zip(*rows, strict=True)]
    lines = []
    for first, *others in rows:
        cells = [first.ljust(widths[0])]
        cells += [cell.rjust(width) for cell, width in zip(others, widths[1:], strict=True)]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)


# ---- the picture ---------------------------------------------------------------------------------

# What is drawn on the map: arm -> (name, colour).
MAP_CURVES = {
    "tracer1": ("TraceR1, far to near", "tab:green"),
    "stage1": ("stage 1 alone", "tab:olive"),
    "stage2": ("stage 2 alone", "tab:cyan"),
    "near": ("near to far", "tab:blue"),
    "filler": ("fillers in the place of the plan", "tab:red"),
}
# Whose start the reactive agent has in the settings world.
STARTS = {
    "forecasts": "forecasts",
    "next": "next\nactions",
    "next_tokens": "next,\nequal tokens",
    "next_seconds": "next,\nequal seconds",
}


def draw_dials(records: Mapping[str, dict], older: dict, path: Path) -> None:
    """Gain over the reactive agent against what the world demands, a panel a world.

    `older`: docs/ablation.json, whose pair TraceR1 - reactive_grounded is the null of before. Bars
    are 95 % intervals, over the seeds where there are three or more of them, else over the tasks.
    """
    from matplotlib.figure import Figure  # here, because importing it writes a cache of fonts

    figure = Figure((14, 4.6), layout="constrained")
    on_map, on_memory, on_settings = figure.subplots(1, 3, sharey=True, width_ratios=(1.2, 1, 1))
    draw_map_dial(on_map, records.get("map", {}).get("pairs", {}))
    draw_memory_dial(on_memory, records.get("memory", {}).get("pairs", {}))
    draw_settings(on_settings, records.get("teaching", {}).get("pairs", {}), older)
    for axis in (on_map, on_memory, on_settings):
        axis.axhline(0, color="black", linewidth=0.8)
        axis.grid(axis="y", alpha=0.3)
    on_map.set_ylabel("success minus the reactive agent's, points")
    figure.savefig(path, dpi=110)


def draw_map_dial(axis, pairs: Mapping[str, dict]) -> None:
    for arm, (name, colour) in MAP_CURVES.items():
        by_demand = pairs.get(f"{arm}-reactive", {}).get("by_demand", {})
        drawn = {int(depth): pair for depth, pair in by_demand.items()}
        draw_gains(axis, drawn, name, colour)
    axis.set(title="map: look-ups before the first click", xlabel="d", xticks=range(1, 6))
    add_legend(axis)


def draw_memory_dial(axis, pairs: Mapping[str, dict]) -> None:
    carried = {}
    taken = {}
    for share in SHARES:
        x = float(share)
        if f"tracer1_{share}-reactive_{share}" in pairs:
            carried[x] = pairs[f"tracer1_{share}-reactive_{share}"]
        if f"taken_away_{share}-reactive_{share}" in pairs:
            taken[x] = pairs[f"taken_away_{share}-reactive_{share}"]
    draw_gains(axis, carried, "TraceR1, its plan carried along", "tab:green")
    draw_gains(axis, taken, "the same policy, plan taken away", "tab:red")
    ticks = [float(share) for share in SHARES]
    axis.set(title="settings: seen early, needed late", xlabel="share of tasks", xticks=ticks)
    add_legend(axis)


def draw_settings(axis, pairs: Mapping[str, dict], older: dict) -> None:
    """No demand: by what the reactive agent's start was taught; the older table first."""
    labels = ["forecasts\n(older table)"]
    null = older.get("pairs", {}).get("tracer1-reactive_grounded")
    if null is not None:
        draw_gains(axis, {0: null | {"seeds": len(older["seeds"])}}, "", "black")
    for lessons, label in STARTS.items():
        pair = pairs.get(f"tracer1_forecasts-reactive_{lessons}")
        if pair is not None:
            draw_gains(axis, {len(labels): pair}, "", "tab:green")
            labels.append(label)
    axis.set(title="settings: nothing needed from afar", xlabel="the reactive agent's start")
    axis.set_xticks(range(len(labels)), labels, fontsize=8)
    axis.set_xlim(-0.5, len(labels) - 0.5)


def draw_gains(axis, pairs: Mapping[float, dict], name: str, colour: str) -> None:
    """`pairs`: place on the axis -> a difference."""
    if not pairs:
        return
    means = np.array([100 * pair["mean"] for pair in pairs.values()])
    ends = np.array([interval_drawn(pair) for pair in pairs.values()]) * 100  # [n, 2]
    bars = np.abs(ends.T - means)
    places = list(pairs)
    axis.errorbar(places, means, bars, marker="o", capsize=3, label=name, color=colour)


def interval_drawn(pair: Mapping) -> Sequence[float]:
    """With two seeds Student's t says nothing: their interval is wider than the axis."""
    if pair["seeds"] >= 3:
        return pair["ci95"]
    return pair["ci95_tasks"]


def add_legend(axis) -> None:
    if axis.get_legend_handles_labels()[1]:
        axis.legend(fontsize=8, loc="best")
    else:
        axis.text(0.5, 0.5, "not run yet", transform=axis.transAxes, ha="center")
