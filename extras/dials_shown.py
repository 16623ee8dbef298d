"""What the studies gave, for a person: a table of each, and the picture of all dials.

Called by extras/study.py with the records of extras/dials.py.
It computes nothing but means over seeds, their intervals and shares; it writes the picture alone.
"""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from eval import TYPE_UNSAID
from extras.ablation_shown import (
    NOTHING,
    each_once,
    in_columns,
    kinds_table,
    mean_percent,
    plus_minus,
    seeds_label,
)
from extras.intervals import over_seeds
from extras.study_arms import FORM_WORLDS, FORMS, HORIZONS, LESSONS, SHARES

# ---- tables --------------------------------------------------------------------------------------

LEGEND = (
    "% of tasks, mean over the seeds +- half of its 95 % interval (Student's t).\n"
    "Differences in points: +- over the seeds, [95 % interval over the tasks]."
)
# What an arm took: tokens of an episode, tokens of all training, its warm start, its training.
COSTS = ("tokens", "sampled", "start: batches", "s", "RL: min")

Table = list[list[str]]  # rows of cells, the header first


def study_table(name: str, record: dict) -> str:
    """The tables of one study, as far as its runs are done."""
    tables = {
        "map": map_tables,
        "memory": memory_tables,
        "teaching": teaching_tables,
        "forms": forms_tables,
    }
    title = f"{name}: {record['asks']} ({record['split']}, commit {record['commit']})"
    parts = [title, LEGEND, *tables[name](record), *failed_starts(record)]
    return "\n\n".join(parts) + "\n"


def failed_starts(record: dict) -> list[str]:
    """A line of the arms whose warm start failed its check (warm_start.check_start), if any did."""
    failed = []
    for name, arm in record["arms"].items():
        passed = arm.get("start", {}).get("passed", [])
        seeds = [str(seed) for seed, fit in enumerate(passed) if not fit]
        if seeds:
            failed.append(f"{name} ({', '.join(seeds)})")
    if not failed:
        return []
    return [f"Starts that failed their check, with their seeds: {'; '.join(failed)}."]


def map_tables(record: dict) -> list[str]:
    depths = demands_in(record["arms"])
    tables = (
        success_by_depth(record, depths),
        differences_by_depth(record, depths),
        gains_kept(record, depths, over="reactive"),
        gains_kept(record, depths, over="reactive_plain"),
        success_by_horizon(record, depths),
    )
    return [in_columns(rows) for rows in tables if len(rows) > 1]


def depth_header(first: str, depths: Sequence[str]) -> list[str]:
    return [first, *(f"d = {depth}" for depth in depths)]


def success_by_depth(record: dict, depths: Sequence[str]) -> Table:
    """A row an arm, with two splits that are not told by depth and with what the arm took."""
    rows = [depth_header("arm (seeds)", depths) + ["wider", "flaky", *COSTS]]
    for name, arm in record["arms"].items():
        row = [seeds_label(name, arm)]
        row += [percent(arm["by_demand"].get(depth)) for depth in depths]
        row += [percent(arm["split"].get(split)) for split in ("wider", "flaky")]
        rows.append(row + costs(arm))
    return rows


def differences_by_depth(record: dict, depths: Sequence[str]) -> Table:
    rows = [depth_header("difference", depths)]
    for name, pair in record["pairs"].items():
        cells = [points(pair["by_demand"].get(depth)) for depth in depths]
        rows.append([spaced(name), *cells])
    return rows


def gains_kept(record: dict, depths: Sequence[str], over: str) -> Table:
    """Of the arms that write as many lines as TraceR1 does; `over`: which reactive agent."""
    rows = [depth_header(f"kept of TraceR1's gain over {over}", depths)]
    for arm in ("filler", "filler_free", "near"):
        if f"{arm}-{over}" in record["pairs"]:
            cells = [share_kept(arm, depth, record["pairs"], over) for depth in depths]
            rows.append([arm, *cells])
    return rows


def success_by_horizon(record: dict, depths: Sequence[str]) -> Table:
    rows = [depth_header("T", depths)]
    for T in HORIZONS:
        if f"horizon_{T}" in record["arms"]:
            arm = record["arms"][f"horizon_{T}"]
            cells = [percent(arm["by_demand"].get(depth)) for depth in depths]
            rows.append([str(T), *cells])
    return rows


LEAST_GAIN = 0.1  # of a smaller one no share is told: it would be divided by chance


def share_kept(arm: str, depth: str, pairs: Mapping[str, dict], over: str) -> str:
    """How much of what TraceR1 has over this reactive agent `arm` has as well."""
    gain = pairs.get(f"tracer1-{over}", {}).get("by_demand", {}).get(depth)
    own = pairs[f"{arm}-{over}"]["by_demand"].get(depth)
    if gain is None or own is None or gain["mean"] < LEAST_GAIN:
        return NOTHING
    return f"{own['mean'] / gain['mean']:.0%}"


def memory_tables(record: dict) -> list[str]:
    tables = (success_by_share(record), ceilings(record))
    shown = [in_columns(rows) for rows in tables if len(rows) > 1]
    return [*shown, kinds_table(record["arms"])]


def success_by_share(record: dict) -> Table:
    """A row for each share of tasks that need memory."""
    players = ("tracer1", "reactive", "taken_away", "warmup", "stage2")
    differences = ("TraceR1 - reactive", "TraceR1 - taken away", "stage 2 - reactive")
    rows = [["share", *players, *differences]]
    for share in SHARES:
        cells = [success_cell(f"{player}_{share}", record) for player in players]
        for other in ("reactive", "taken_away"):
            cells.append(gain_cell(f"tracer1_{share}", f"{other}_{share}", record))
        cells.append(gain_cell(f"stage2_{share}", f"reactive_{share}", record))
        if any_run(cells):
            rows.append([share, *cells])
    return rows


def ceilings(record: dict) -> Table:
    """What a plan in the prompt is worth: extras/ceiling.py."""
    rows = [["share", "plan in the prompt", "first action right", "what was seen early, typed"]]
    for share in SHARES:
        arm = record["arms"].get(f"tracer1_{share}", {})
        rows += ceiling_rows(share, arm.get("probe", []))
    return rows


def ceiling_rows(share: str, probes: Sequence[dict]) -> Table:
    """A row for each plan in the prompt; none where no task needs memory."""
    asked = [probe for probe in probes if probe]
    if not asked:
        return []
    rows = []
    for plan in ("none", "own", "oracle"):
        right = [probe[plan]["first_action"] for probe in asked]
        typed = []
        for probe in asked:
            of_kind = probe[plan]["by_kind"].get(TYPE_UNSAID, {"right": None})
            typed.append(of_kind["right"])
        rows.append([share, plan, mean_percent(right), mean_percent(typed)])
    return rows


def teaching_tables(record: dict) -> list[str]:
    pairs = [["difference", "points"]]
    for name, pair in record["pairs"].items():
        pairs.append([spaced(name), points(pair)])
    return [in_columns(success_by_start(record)), in_columns(pairs), kinds_table(record["arms"])]


def success_by_start(record: dict) -> Table:
    """A row for each kind of lessons that a warm start was taught with; what it took, its reading
    lesson among them."""
    learners = ("warmup", "reactive", "tracer1")
    rows = [["warm start", *learners, "TraceR1 - reactive", "batches", "target tokens", "s"]]
    for lessons in LESSONS:
        cells = [success_cell(f"{learner}_{lessons}", record) for learner in learners]
        cells.append(gain_cell(f"tracer1_{lessons}", f"reactive_{lessons}", record))
        start = record["arms"].get(f"reactive_{lessons}", {}).get("start", {})
        for name in ("batches", "target_tokens", "processor_seconds"):
            cells.append(mean_number(start.get(name)))
        if any_run(cells):
            rows.append([lessons, *cells])
    return rows


def forms_tables(record: dict) -> list[str]:
    tables = [in_columns(success_by_form(record)), kinds_table(record["arms"])]
    surprised = surprises(record)
    if len(surprised) > 1:
        tables.append(in_columns(surprised))
    return tables


def surprises(record: dict) -> Table:
    """Of the first steps that said what would be seen after them, how often something else was."""
    rows = [["what was foreseen", "did not come"]]
    for name, arm in record["arms"].items():
        if "surprised" in arm:
            rows.append([seeds_label(name, arm), mean_percent(arm["surprised"])])
    return rows


def success_by_form(record: dict) -> Table:
    """A row a form; of each world success, what it is over `near`, tokens of an episode, and the
    batches of the warm start, which some forms need more of."""
    header = ["form"]
    for world in FORM_WORLDS:
        header += [f"toy-{world}", "- near", "tokens", "batches"]
    rows = [header]
    for form in FORMS:
        cells = []
        for world in FORM_WORLDS:
            name = f"{form}_{world}"
            arm = record["arms"].get(name, {})
            cells.append(success_cell(name, record))
            cells.append(gain_cell(name, f"near_{world}", record))
            cells.append(mean_number(arm.get("tokens_per_episode")))
            cells.append(mean_number(arm.get("start", {}).get("batches")))
        if any_run(cells):
            rows.append([form, *cells])
    return rows


# ---- cells ---------------------------------------------------------------------------------------


def success_cell(name: str, record: dict) -> str:
    """Of an arm on the split that the study is about."""
    arm = record["arms"].get(name, {"split": {}})
    return percent(arm["split"].get(record["split"]))


def gain_cell(one: str, other: str, record: dict) -> str:
    return points(record["pairs"].get(f"{one}-{other}"))


def any_run(cells: Sequence[str]) -> bool:
    return set(cells) != {NOTHING}


def costs(arm: dict) -> list[str]:
    """The cells of COSTS."""
    return [
        mean_number(arm["tokens_per_episode"]),
        mean_number(arm["sampled_tokens"]),
        mean_number(arm["start"].get("batches")),
        mean_number(arm["start"].get("processor_seconds")),
        mean_number(arm["minutes"]),
    ]


def demands_in(arms: Mapping[str, dict]) -> list[str]:
    return sorted(each_once(arm["by_demand"] for arm in arms.values()))


def spaced(pair: str) -> str:
    return pair.replace("-", " - ")


def percent(row: Mapping | None) -> str:
    """The mean of the seeds with its interval, in per cent; one seed has no interval.

    >>> percent({"success": [0.50, 0.54, 0.55, 0.57, 0.59]}), percent({"success": [0.5]})
    ('55.0 +- 4.2', '50.0')
    """
    if row is None:
        return NOTHING
    mean, half = over_seeds(row["success"])
    return plus_minus(f"{100 * mean:.1f}", 100 * half).strip()


def points(pair: Mapping | None) -> str:
    """A difference (extras/dials.paired) in points, its interval over seeds and that over tasks.

    >>> points({"mean": 0.123, "ci95": [0.1, 0.146], "ci95_tasks": [0.08, 0.16]})
    '+12.3 +- 2.3 [8 to 16]'
    """
    if pair is None:
        return NOTHING
    half = math.nan
    if pair["ci95"] is not None:
        low, high = pair["ci95"]
        half = 50 * (high - low)  # of the whole width, in points
    low, high = pair["ci95_tasks"]
    with_half = plus_minus(f"{100 * pair['mean']:+.1f}", half).strip()
    return f"{with_half} [{100 * low:.0f} to {100 * high:.0f}]"


def mean_number(values: Sequence[float] | None) -> str:
    if not values:
        return NOTHING
    return f"{np.mean(values):,.0f}"


# ---- the picture ---------------------------------------------------------------------------------

# What is drawn on the map: arm -> (name, colour).
MAP_CURVES = {
    "tracer1": ("TraceR1, far to near, T = 5", "tab:green"),
    "horizon_6": ("the same with T = 6", "limegreen"),
    "stage1": ("stage 1 alone", "tab:olive"),
    "stage2": ("stage 2 alone", "tab:cyan"),
    "near": ("near to far", "tab:blue"),
    "filler": ("fillers in the place of the plan", "tab:red"),
}
BESIDE = 0.04  # of a depth, from one curve of the map to the next
# What the start of the reactive agent was taught with (study_arms.LESSONS) -> its label.
STARTS = {
    "forecasts": "forecasts",
    "next": "next\nactions",
    "next_tokens": "next,\nequal tokens",
    "next_seconds": "next,\nequal seconds",
}


def draw_dials(records: Mapping[str, dict], older: dict, path: Path) -> None:
    """Gain over the reactive agent against what the world demands, a panel a world.

    `older`: docs/ablation.json; its TraceR1 - reactive_grounded, no gain, is drawn as well. Bars
    are 95 % intervals, over the seeds where there are three or more of them, else over the tasks.
    """
    from matplotlib.figure import Figure  # here, because importing it writes a cache of fonts

    figure = Figure((14, 4.6), layout="constrained")
    on_map, on_memory, on_settings = figure.subplots(1, 3, sharey=True, width_ratios=(1.2, 1, 1))
    pairs = {study: record["pairs"] for study, record in records.items()}
    draw_map_dial(on_map, pairs.get("map", {}))
    draw_memory_dial(on_memory, pairs.get("memory", {}))
    draw_settings(on_settings, pairs.get("teaching", {}), older)
    for axis in (on_map, on_memory, on_settings):
        axis.axhline(0, color="black", linewidth=0.8)
        axis.grid(axis="y", alpha=0.3)
    on_map.set_ylabel("success minus the reactive agent's, points")
    figure.savefig(path, dpi=110)


def draw_map_dial(axis, pairs: Mapping[str, dict]) -> None:
    """Curves stand a little beside one another, for TraceR1 and stage 2 alone can be equal."""
    axis.axvspan(4.5, 5.5, color="whitesmoke")
    why = "deeper than\ntrained, and\nT = 5 is\ntoo short"
    axis.text(5, 0.62, why, ha="center", fontsize=8, transform=axis.get_xaxis_transform())
    for number, (arm, (name, colour)) in enumerate(MAP_CURVES.items()):
        shift = BESIDE * (number - len(MAP_CURVES) / 2)
        by_demand = pairs.get(f"{arm}-reactive", {}).get("by_demand", {})
        drawn = {int(depth) + shift: pair for depth, pair in by_demand.items()}
        draw_gains(axis, drawn, name, colour)
    axis.set(title="map: look-ups before the first click", xlabel="d", xticks=range(1, 6))
    axis.set_xlim(0.5, 5.5)
    add_legend(axis)


def draw_memory_dial(axis, pairs: Mapping[str, dict]) -> None:
    draw_gains(axis, by_share("tracer1", pairs), "TraceR1, its plan carried along", "tab:green")
    draw_gains(axis, by_share("taken_away", pairs), "the same policy, plan taken away", "tab:red")
    ticks = [float(share) for share in SHARES]
    axis.set(title="toy GUI: seen early, needed late", xlabel="share of such tasks", xticks=ticks)
    add_legend(axis)


def by_share(player: str, pairs: Mapping[str, dict]) -> dict[float, dict]:
    """Share of tasks that need memory -> what this player has over the reactive agent."""
    gains = {}
    for share in SHARES:
        name = f"{player}_{share}-reactive_{share}"
        if name in pairs:
            gains[float(share)] = pairs[name]
    return gains


def draw_settings(axis, pairs: Mapping[str, dict], older: dict) -> None:
    """No demand: by what the reactive agent's start was taught; the older table's gain first."""
    labels = ["forecasts\n(older table)"]
    of_before = older.get("pairs", {}).get("tracer1-reactive_grounded")
    if of_before is not None:
        seeds = len(older["seeds"])
        draw_gains(axis, {0: of_before | {"seeds": seeds}}, "", "black")
    for lessons, label in STARTS.items():
        pair = pairs.get(f"tracer1_forecasts-reactive_{lessons}")
        if pair is not None:
            draw_gains(axis, {len(labels): pair}, "", "tab:green")
            labels.append(label)
    axis.set(title="toy GUI: nothing carried", xlabel="the reactive agent's start")
    axis.set_xticks(range(len(labels)), labels, fontsize=8)
    axis.set_xlim(-0.5, len(labels) - 0.5)


def draw_gains(axis, pairs: Mapping[float, dict], name: str, colour: str) -> None:
    """`pairs`: place on the axis -> a difference."""
    if not pairs:
        return
    means = np.array([100 * pair["mean"] for pair in pairs.values()])
    ends = np.array([interval_drawn(pair) for pair in pairs.values()]) * 100  # [n, 2]
    bars = np.abs(ends.T - means)  # [2, n], how far they are from the mean, as matplotlib wants it
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
