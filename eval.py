"""eval.py: the exam. How often tasks are solved, how good forecasts are, and pictures of both.

Protocol `toy-gui`: seeds 0..n-1 of a split, plan-act loop with greedy forecasts, only the first action of each executed through
the frozen tool agent. success: share of tasks solved within the oracle's steps plus a slack; accuracy@k: share of forecasts
whose k-th action agrees (similarity 1) with the oracle's k-th action from that state; repeat: share of forecast actions that
stood in their forecast before; failed: share of first actions that the tool agent refused; stability: of the steps that two
forecasts in a row have in common, the share that agrees (similarity 1).

    python eval.py --run runs/toy --split test            # one row a policy: random, warm start, stages, oracle
    python eval.py --ablate --seeds 5 --jobs 2            # trains and compares all arms: docs/ablation.json, docs/ablation.png
"""

import argparse
import itertools
import json
import math
import multiprocessing
import os
import random
import re
import shlex
import signal
import string
import subprocess
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw
from tqdm import tqdm

from agent import Planner, Play, Policy, ask, frozen_vlm, memory_or_die, plain, play, policy_planner, read_run, run_policy, tool_agent, torch
from envs import (
    GTA_TOOLS,
    NUMBERS,
    TOYS,
    Action,
    BadRecord,
    Box,
    Episode,
    Observation,
    Point,
    Report,
    Step,
    ToolTask,
    Vlm,
    _font,
    die,
    execute,
    get,
    inside,
    load_recorded,
    numbers,
    one_line,
    parse_json,
    read_call,
)
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
    """The floor: a random visible element, word or gesture; a random call or answer."""
    rng = random.Random(seed)

    def plan(_observations, envs):
        return [([rng.choice([*env.moves(rng), Action("done"), Action("answer", rng.choice(NUMBERS))])], 0) for env in envs]

    return plan


def oracle_planner(horizon: int) -> Planner:
    """The ceiling: the oracle names what stands on the screen, so that the tool agent finds it, and calls tools by their own names."""

    def plan(_observations, envs):
        plans = []
        for env in envs:
            forecast = env.oracle(horizon, exact=True) if isinstance(env, TOYS["toy-tools"]) else env.oracle(horizon)
            if forecast[0].point:
                label = next(label for label, box in env.visible() if inside(forecast[0].point, box))
                forecast[0] = Action("click", label, forecast[0].point)
            plans.append((forecast, 0))
        return plans

    return plan


def evaluate_toy(planner: Planner, split: str, n: int, horizon: int, history: int, scale: int = 1, carry: bool = False,
                 batch: int = 100, progress=None, world: str = "toy-gui", pointed: bool = False) -> tuple[dict, list[Play]]:
    """Play seeds 0..n-1 of a toy split; returns the metrics of the module docstring and the plays. `pointed`: the planner has asked a
    tool agent of its own."""
    plays = []
    for start in range(0, n, batch):
        seeds = range(start, min(start + batch, n))
        plays += play(planner, [TOYS[world](split, scale, history) for _ in seeds], seeds, partial(execute, pointed=pointed), horizon, carry)
        if progress:
            progress(len(seeds))
    return toy_metrics(plays, horizon), plays


def evaluate_policy(policy: Policy, config: dict, split: str, n: int, progress=None, choose: str = "", seed: int = 0) -> tuple[dict, list[Play]]:
    """evaluate_toy for a policy of a run, as the run's config says: its world, tool agent, horizon, size of screens."""
    tool = tool_agent(config.get("tool_agent", ""), policy, config.get("max_pixels", 0))
    planner = policy_planner(policy, config["horizon"], tool, choose=choose, seed=seed)
    return evaluate_toy(planner, split, n, config["horizon"], config["history"], policy.toy_scale, config["carry_forecast"], progress=progress,
                        world=config["env"], pointed=bool(tool))


def toy_metrics(plays: Sequence[Play], horizon: int) -> dict:
    wins, steps = sum(p.success for p in plays), [r for p in plays for r in p.results]
    pairs = [(f, ref) for p in plays for f, ref in zip(p.forecasts, p.references, strict=True)]
    accuracy = []
    for k in range(horizon):
        due = [(f[k] if k < len(f) else None, ref[k]) for f, ref in pairs if k < len(ref)]
        accuracy.append(sum(a is not None and similarity(a, b) == 1.0 for a, b in due) / max(1, len(due)))
    pursued = [similarity(a, b) == 1.0 for p in plays for f, g in itertools.pairwise(p.forecasts) for a, b in zip(f[1:], g, strict=False)]
    low, high = wilson(wins, len(plays))
    said = sum(len(f) for f, _ in pairs)
    return {
        "success": wins / len(plays), "n": len(plays), "ci95": [low, high],
        "accuracy_at_k": accuracy, "stability": sum(pursued) / len(pursued) if pursued else None,
        "repeat": sum(sum(repetitions(f)) for f, _ in pairs) / max(1, said),
        "failed": steps.count("failed") / max(1, len(steps)),
        "unreadable": sum(not f for f, _ in pairs) / max(1, len(pairs)),
        "steps_per_episode": len(steps) / len(plays),
        "tokens_per_episode": sum(p.tokens for p in plays) / len(plays),
    }


# ----------------------------------------------------------------------------------------------------------------------
# Pictures
# ----------------------------------------------------------------------------------------------------------------------


def draw_episode(p: Play, path: str | Path, width: int = 256, columns: int = 5) -> None:
    """Film strip of one episode: each screen with the forecast drawn over it (the numbers stand where its steps point, 1 is
    executed), and the forecast below. Green: executed; red: refused or impossible; grey: forecast only."""
    screens = [o.screenshot() for o in p.observations]
    w, h, foot, gap = width, screens[0].height * width // screens[0].width, 12 + 15 * max(map(len, p.forecasts), default=1) + 6, 10
    columns = min(columns, len(screens))
    rows = math.ceil(len(screens) / columns)
    sheet = Image.new("RGB", (columns * (w + gap) + gap, 52 + rows * (h + foot + 24 + gap)), "white")
    pen, text, small = ImageDraw.Draw(sheet), _font(14), _font(12)
    pen.text((gap, 8), p.observations[0].instruction, fill="black", font=_font(18))
    verdict = "solved" if p.success else "not solved"
    pen.text((gap, 30), f"{verdict} in {len(screens)} steps (oracle: {p.oracle_steps})", fill="green" if p.success else "firebrick", font=text)
    for i, screen in enumerate(screens):
        x, y = gap + (i % columns) * (w + gap), 52 + (i // columns) * (h + foot + 24 + gap)
        colour = "green" if p.results[i] == "ok" else "firebrick"
        pen.text((x, y + 4), f"step {i + 1}" + ("" if p.results[i] == "ok" else f": {p.results[i]}"), fill=colour, font=text)
        sheet.paste(screen.resize((w, h), Image.Resampling.NEAREST if screen.width <= w else Image.Resampling.BOX), (x, y + 24))
        pen.rectangle((x, y + 24, x + w, y + 24 + h), outline="gray")
        for k in reversed(range(len(p.forecasts[i]))):
            shade = colour if k == 0 else "gray"
            pen.text((x + 2, y + 30 + h + 15 * k), f"{k + 1} {p.forecasts[i][k]}", fill=shade, font=small)
            box = next((b for label, b in p.screens[i] if label == p.forecasts[i][k].text), None)
            if box:
                left, top = x + int(box[0] * w), y + 24 + int(box[1] * h)
                pen.rectangle((left, top, x + int(box[2] * w) - 2, y + 24 + int(box[3] * h) - 2), outline=shade, width=3 if k == 0 else 1)
                side = x + int(box[2] * w) - 16 - 16 * (k % 2)
                pen.ellipse((side, top + 2, side + 14, top + 16), fill=shade)
                pen.text((side + 4, top + 2), str(k + 1), fill="white", font=small)
    sheet.save(path)


def draw_curves(metrics: Sequence[dict], results: dict, split: str, path: str | Path) -> None:
    """curves.png: reward of each update (thin) with its running mean (thick), and success on held-out tasks after each phase."""
    from matplotlib.figure import Figure

    stages = [s for s in ("stage1", "stage2") if any(m["stage"] == s for m in metrics)]
    names = [n for n in ("random", "warmup", "stage1", "stage2", "oracle") if n in results]
    panels = len(stages) + bool(names)
    if not panels:
        return
    figure = Figure((4.2 * panels, 3.4), layout="tight")
    axes = figure.subplots(1, panels, squeeze=False)
    for axis, stage in zip(axes[0], stages, strict=False):
        values = [m["reward"] for m in metrics if m["stage"] == stage]
        mean = [sum(values[max(0, i - 9):i + 1]) / len(values[max(0, i - 9):i + 1]) for i in range(len(values))]
        axis.plot(values, color="tab:blue", alpha=0.3, linewidth=0.8)
        axis.plot(mean, color="tab:blue")
        title = {"stage1": "stage 1: R of whole forecasts", "stage2": "stage 2: first step as executed"}[stage]
        axis.set(title=title, xlabel="update", ylabel="mean reward")
    if names:  # recorded data have no episodes to play
        rates = [100 * results[n]["success"] for n in names]
        ends = [[100 * abs(results[n]["ci95"][k] - results[n]["success"]) for n in names] for k in (0, 1)]
        colours = {"warmup": "tab:orange", "stage1": "tab:blue", "stage2": "tab:green"}
        axes[0][-1].bar(names, rates, yerr=ends, capsize=4, color=[colours.get(n, "silver") for n in names])
        axes[0][-1].set(title=f"success on split {split}, n = {results[names[0]]['n']}", ylabel="% of tasks", ylim=(0, 105))
    figure.savefig(path, dpi=110)


# ----------------------------------------------------------------------------------------------------------------------
# Recorded benchmarks: the official rules, by protocol
# ----------------------------------------------------------------------------------------------------------------------
# | data set       | protocol | a step is right when the type agrees and                                                           |
# |----------------|----------|----------------------------------------------------------------------------------------------------|
# | androidcontrol | os-atlas | the point is within 14 % of the screen; the first word of a text or app agrees; else all is equal  |
# | androidcontrol | box      | the same, or the point is in the smallest visible accessibility node around the reference          |
# | gui-odyssey    | official | the point is in sam2_bbox or within 0.14; text: substring or edit similarity >= 0.5; direction     |
# | gui-odyssey    | strict   | the same with two slips of the official script: an empty bbox is wrong, texts end at their first ":" |
# | gui-odyssey    | os-atlas | the point is within 14 %; text: token F1 > 0.5, the word TYPE among the tokens; direction          |
# | mind2web       | official | the point is in a positive box and Op.F1 is 1                                                      |
# | mind2web       | strict   | the same, with tokens such as "()" dropped too (the script tests for a piece of string.punctuation) |
# Points keep their fractions on the grids. A pointing action without a point has its type only. Scroll directions are the
# content's on both sides: official labels that name the finger's way agree exactly when these do.

WORDS = {"click": "CLICK", "long_press": "LONG_PRESS", "type": "TYPE", "scroll": "SCROLL", "open_app": "OPEN_APP", "wait": "WAIT",
         "back": "PRESS_BACK", "home": "PRESS_HOME", "recent": "PRESS_RECENT", "done": "COMPLETE", "fail": "IMPOSSIBLE"}


def word(action: Action) -> str:
    """The type as OS-Atlas and GUI-Odyssey write it; kinds that they do not know equal none of theirs."""
    return WORDS.get(action.kind, action.kind.upper())


def gold_text(step: Step) -> str:
    """The reference's text as recorded: on one line, as every Action is, but not cut at 500 characters."""
    return one_line(step.raw.get("text", step.action.text), None)


def grid(point: Point) -> Point:
    """A point in 0..1 on the 0-1000 grid. To nine decimals: 0.57 * 1000 is 570, not 569.9999999999999."""
    return round(point[0] * 1000, 9), round(point[1] * 1000, 9)


def near(action: Action, step: Step) -> bool:
    """OS-Atlas's rule for points: at most 140 apart on the 0-1000 grid (1e-6: exactly 140 is right, whatever the floats do)."""
    return action.point is not None and math.dist(grid(action.point), step.raw.get("grid") or grid(step.action.point)) <= 140 + 1e-6


def inside_any(point: Point | None, boxes: Iterable[Box]) -> bool:
    """Whether the point is in one of the boxes, edges included (1e-9 for the division by the screen's size)."""
    return point is not None and any(inside(point, (x1 - 1e-9, y1 - 1e-9, x2 + 1e-9, y2 + 1e-9)) for x1, y1, x2, y2 in boxes)


def set_f1(ours: set[str], theirs: set[str]) -> float:
    """F1 of two sets of tokens, 0 when they share none; rounded as the official scripts round (it matters at exactly 0.5)."""
    if not ours & theirs:
        return 0.0
    precision, recall = len(ours & theirs) / len(ours), len(ours & theirs) / len(theirs)
    return 2 * (precision * recall) / (precision + recall)


def words_f1(ours: str, theirs: str) -> float:
    """set_f1 of the lower-case words."""
    return set_f1(set(ours.lower().split()), set(theirs.lower().split()))


def os_atlas_string(action: Action, text: str) -> str:
    """The action as OS-Atlas writes it, without its point: "TYPE [hello world]", "SCROLL [UP]", "PRESS_BACK"."""
    bracket = {"type": f" [{text}]", "open_app": f" [{text}]", "scroll": f" [{text.upper()}]"}
    return word(action) + bracket.get(action.kind, "")


def os_atlas(action: Action | None, step: Step) -> dict:
    """AndroidControl, protocol A: OS-Atlas eval_scripts/android_control/evaluation_unify.py. Its quirk is kept: of a text only the second
    token of the string counts, so "TYPE [new york]" is right for "TYPE [new jersey]" and wrong for "TYPE [new]"."""
    if action is None or word(action) != word(step.action):
        return {"type_match": False, "correct": False}
    ours, gold = os_atlas_string(action, action.text), os_atlas_string(step.action, gold_text(step))
    if action.kind in ("click", "long_press"):
        return {"type_match": True, "correct": near(action, step)}
    first_words = action.kind in ("type", "open_app") and words_f1(ours.split()[1], gold.split()[1]) > 0.5
    return {"type_match": True, "correct": ours == gold or first_words}


def os_atlas_box(action: Action | None, step: Step) -> dict:
    """Protocol A, and a point inside the element's box is right too."""
    row = os_atlas(action, step)
    return row | {"correct": row["correct"] or (row["type_match"] and inside_any(action.point, step.boxes))}


def edit_distance(one: str, two: str) -> int:
    """Levenshtein distance, one row of the table at a time."""
    row = list(range(len(one) + 1))
    for i, b in enumerate(two, 1):
        last, row[0] = row[0], i
        for j, a in enumerate(one, 1):
            last, row[j] = row[j], last if a == b else 1 + min(last, row[j], row[j - 1])
    return row[-1]


def odyssey(action: Action | None, step: Step, strict: bool = False) -> dict:
    """GUI-Odyssey: src/eval_mm/GUIOdyssey_action_matching.py and evaluate_GUIOdyssey.py. An empty text is part of every text and so right;
    case counts. strict: see the table; there both texts pass through the script's split(":")[1]."""
    if action is None or word(action) != word(step.action):
        return {"type_match": False, "correct": False}
    correct = True
    if action.kind in ("click", "long_press"):
        bbox, correct = step.raw.get("bbox"), False
        if action.point is not None and not (strict and bbox == []):
            (x, y), gold = grid(action.point), step.raw["grid"]
            correct = bool(bbox) and bbox[0] <= x <= bbox[2] and bbox[1] <= y <= bbox[3]
            correct = correct or bool(np.linalg.norm(np.asarray((x, y)) / 1000 - np.asarray(gold) / 1000) <= 0.14)
    elif action.kind == "type":
        ours, gold = (text.split(":")[0].strip() if strict else text.strip() for text in (action.text, gold_text(step)))
        correct = ours in gold or gold in ours or 1 - edit_distance(ours, gold) / max(len(ours), len(gold)) >= 0.5
    elif action.kind == "scroll":
        correct = action.text == step.action.text
    return {"type_match": True, "correct": correct}


def odyssey_os_atlas(action: Action | None, step: Step) -> dict:
    """GUI-Odyssey in OS-Atlas eval_scripts/odyssey/evaluation_unify.py."""
    if action is None or word(action) != word(step.action):
        return {"type_match": False, "correct": False}
    ours, gold = os_atlas_string(action, action.text), os_atlas_string(step.action, gold_text(step))
    if action.kind in ("click", "long_press"):
        return {"type_match": True, "correct": near(action, step)}
    return {"type_match": True, "correct": words_f1(ours, gold) > 0.5 if action.kind == "type" else ours == gold}


def mind2web(action: Action | None, step: Step, strict: bool = False) -> dict:
    """Multimodal-Mind2Web: eval.py in UGround's offline_evaluation. A row also has "element" and "op_f1". Our typed step is click and text
    in one, as the data has it; a hover is a CLICK there; other kinds are their own name, without a value."""
    ops = {"click": "CLICK", "hover": "CLICK", "type": "TYPE", "select": "SELECT"}
    op = ops.get(action.kind, action.kind.upper()) if action else ""
    ours = f"{op} {action.text}" if op in ("TYPE", "SELECT") else op
    both = [{token for token in text.lower().split() if not (token in string.punctuation and (strict or len(token) == 1))}
            for text in (ours, f"{step.raw['op']} {step.raw['value']}")]
    (width, height), boxes = step.raw["size"], step.raw["boxes"]
    element = inside_any(action and action.point, ((x / width, y / height, (x + w) / width, (y + h) / height) for x, y, w, h in boxes))
    op_f1 = set_f1(*both) if any(both) else 1.0
    return {"type_match": op == step.raw["op"], "correct": element and op_f1 == 1, "element": element, "op_f1": op_f1}


PROTOCOLS = {"androidcontrol": {"os-atlas": os_atlas, "box": os_atlas_box},   # the first of a set is its default
             "gui-odyssey": {"official": odyssey, "strict": partial(odyssey, strict=True), "os-atlas": odyssey_os_atlas},
             "mind2web": {"official": mind2web, "strict": partial(mind2web, strict=True)}}


# Sums. A row is what a rule says of one step, with "id", "episode", "word" (the reference's type) and the episode's raw. Shares are 0..1.

def mean(values: Iterable[float]) -> float | None:
    """The mean, None of nothing."""
    values = list(values)
    return sum(values) / len(values) if values else None


def by(rows: list[dict], key: str) -> dict[str, list[dict]]:
    """Rows that share row[key], in order of appearance."""
    groups = defaultdict(list)
    for row in rows:
        groups[row[key]].append(row)
    return groups


def android_control_metrics(rows: list[dict], split: str) -> dict:
    """Type, Grounding (right CLICK / CLICK of right type; no LONG_PRESS) and Step accuracy; Step also by an episode's first sub-split."""
    clicks = [row["correct"] for row in rows if row["word"] == "CLICK" and row["type_match"]]
    subs = by([{**row, "subsplit": row["raw"].get("subsplit")} for row in rows], "subsplit")
    return {"type_acc": mean(row["type_match"] for row in rows), "grounding_acc": mean(clicks),
            "step_acc": mean(row["correct"] for row in rows),
            "subsplits": {str(name): mean(row["correct"] for row in group) for name, group in subs.items()}}


def odyssey_metrics(rows: list[dict], split: str) -> dict:
    """AMS (right steps / steps) and SR (episodes all right / complete episodes); the random split's are the means over categories."""
    def ams_sr(group: list[dict]) -> tuple[float, float]:
        complete = [steps for steps in by(group, "episode").values() if len(steps) == steps[0]["raw"]["step_length"]]
        return mean(row["correct"] for row in group), mean(all(row["correct"] for row in steps) for steps in complete) or 0.0
    groups = by([{**row, "category": row["raw"]["category"]} for row in rows], "category")
    shares = {name: ams_sr(group) for name, group in groups.items()} if split.startswith("random") else {"all": ams_sr(rows)}
    found = {"AMS": mean(ams for ams, _ in shares.values()), "SR": mean(sr for _, sr in shares.values())}
    return found | {"type_acc": mean(row["type_match"] for row in rows), "categories": {k: ams for k, (ams, _) in shares.items()}}


def odyssey_os_atlas_metrics(rows: list[dict], split: str) -> dict:
    """Type, Grounding (right CLICK / CLICK and LONG_PRESS of right type) and Step accuracy over the split's file."""
    points = [row for row in rows if row["word"] in ("CLICK", "LONG_PRESS") and row["type_match"]]
    return {"type_acc": mean(row["type_match"] for row in rows), "step_acc": mean(row["correct"] for row in rows),
            "grounding_acc": mean(row["correct"] and row["word"] == "CLICK" for row in points)}


def mind2web_metrics(rows: list[dict], split: str) -> dict:
    """Ele.Acc, Op.F1 and Step SR: macro (mean over tasks of the task's mean) and micro (over steps). A task's missing steps count as 0."""
    tasks = by(rows, "episode")
    lengths = {task: max(len(group), group[0]["raw"]["n_steps"]) for task, group in tasks.items()}
    found = {"n_padded": sum(lengths.values())}
    for name, key in (("ele_acc", "element"), ("op_f1", "op_f1"), ("step_sr", "correct")):
        sums = {task: sum(row[key] for row in group) for task, group in tasks.items()}
        found[name] = mean(sums[task] / lengths[task] for task in tasks)
        found[f"{name}_micro"] = sum(sums.values()) / found["n_padded"]
    return found


def metrics(name: str, protocol: str) -> Callable[[list[dict], str], dict]:
    """The sums that belong to a protocol."""
    odyssey_sums = odyssey_os_atlas_metrics if protocol == "os-atlas" else odyssey_metrics
    return {"androidcontrol": android_control_metrics, "gui-odyssey": odyssey_sums, "mind2web": mind2web_metrics}[name]


def parse_action(record: dict) -> Action:
    """A line {"id", "action": {"kind", "point": [x, y] or null, "text"}}."""
    action = get(record, "action", dict)
    point, text = action.get("point"), get({"text": "", **action}, "text")
    return Action(get(action, "kind"), one_line(text), None if point is None else tuple(numbers(point, 2, "point")))


def read_predictions(path: str | Path, parse: Callable = parse_action) -> tuple[dict[str, object], list[str]]:
    """{id: parse(line)} from JSON lines with an "id", and the faults as "file:line: why". A line with an id that cannot be parsed counts as a
    wrong answer (None); of two lines with one id the first counts. ValueError when the file cannot be read."""
    found, faults = {}, []
    try:
        with open(path, "rb") as file:
            for number, line in enumerate(file, 1):
                try:
                    record = parse_json(line, "line")
                    ident = str(record["id"]) if isinstance(record, dict) and type(record.get("id")) is int else get(record, "id")
                    if ident in found:
                        raise BadRecord(f"id: {ident} is there twice")
                    found[ident] = None
                    found[ident] = parse(record)
                except ValueError as error:   # BadRecord, or Action's own
                    faults.append(f"{path}:{number}: {error}")
    except OSError as error:
        raise ValueError(f"{path}: {error.strerror}") from None
    return found, faults


def read_index(path: Path) -> set[str]:
    """Step ids from OS-Atlas's ac_idx.txt, whose lines are episode_{id}_screenshot_{k} (7,708 of them). ValueError for another line."""
    try:
        lines = [line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
        return {"{1}/{3}".format(*line.split("_")) for line in lines}
    except (OSError, IndexError, UnicodeDecodeError):
        raise ValueError(f"{path}: not a list of episode_<id>_screenshot_<k>") from None


def observe(episode: Episode, step: Step, history: int) -> Observation:
    """What the policy sees at a recorded step: the last `history` steps of the source as text, those left out included."""
    index = step.raw["index"]
    return Observation(episode.instruction, step.screenshot, episode.raw["texts"][max(0, index - history):index])


def score_bench(name: str, root: str | Path, split: str, *, predict: Callable | None = None, predictions: str | Path | None = None,
                protocol: str | None = None, index: str | Path | None = None, horizon: int = 1, history: int = 4) -> tuple[dict, list]:
    """Scores an agent, predict(Observation, T) -> forecast of T actions (the first is scored), or a file of predictions. Returns what
    --json writes and the rows of --per_step. `index` (AndroidControl) limits the steps to those of ac_idx.txt; ROOT/ac_idx.txt is found
    by itself. With predict, lookahead[k-1] compares the k-th forecast action with the reference k-1 steps on. ValueError in one line."""
    if protocol not in {None, *PROTOCOLS.get(name, ())}:
        raise ValueError(f"{name} has no protocol {protocol!r}: {', '.join(PROTOCOLS.get(name, ()))}")
    given, faults = read_predictions(predictions) if predictions else ({}, [])
    index = index or (Path(root, "ac_idx.txt") if name == "androidcontrol" and Path(root, "ac_idx.txt").exists() else None)
    only, report, rows = index and read_index(Path(index)), Report(), []
    ahead = defaultdict(list)
    episodes = load_recorded(name, root, split, report)
    protocol = protocol or next(iter(PROTOCOLS[name]))
    rule = PROTOCOLS[name][protocol]
    for episode in episodes:
        steps = {step.raw["index"]: step for step in episode.steps}
        for at, step in steps.items():
            ident = f"{episode.id}/{at}"
            if only is not None and ident not in only:
                continue
            try:
                forecast = predict(observe(episode, step, history), horizon) if predict else [given.get(ident)]
            except BadRecord as error:   # its screenshot cannot be read
                report.skip("steps", str(error))
                continue
            for k in range(horizon if predict else 0):
                if at + k in steps:
                    ahead[k].append(rule(forecast[k] if k < len(forecast) else None, steps[at + k]))
            row = rule(forecast[0] if forecast else None, step)
            rows.append({"id": ident, "episode": episode.id, "word": word(step.action), "raw": episode.raw, **row})
    if not rows:
        raise ValueError(f"{root}: split {split!r} has no step to score")
    result = {"protocol": f"{name}/{protocol}", "split": split, "steps": f"{len(only)} of {Path(index).name}" if index else "all",
              "n": len(rows), "skipped": sum(report.bad.values()), "why": report.messages[:50] + faults[:50], "notes": dict(report.notes)}
    if predictions:
        scored = {row["id"] for row in rows}
        for key, ids in (("missing_predictions", [i for i in scored if i not in given]), ("unknown_predictions", given.keys() - scored)):
            result |= {key: len(ids), f"{key}_first": sorted(ids)[:10]}
    if predict:
        result["lookahead"] = [{"k": k + 1, "n": len(found), "type_acc": mean(row["type_match"] for row in found),
                                "step_acc": mean(row["correct"] for row in found)} for k, found in sorted(ahead.items())]
    result |= metrics(name, protocol)(rows, split)
    return result, [{key: row[key] for key in ("id", "type_match", "correct")} for row in rows]


# ----------------------------------------------------------------------------------------------------------------------
# Tool use: GAIA and GTA. Every rate is in per cent, None where there is nothing to divide by
# ----------------------------------------------------------------------------------------------------------------------
# | gaia              | question_scorer, overall and per level                | scorer.py of GAIA's leaderboard                        |
# | gta, step by step | InstAcc, ToolAcc, ArgAcc, SummAcc over recorded turns | gta_bench.py, every_with_gt                            |
# | gta, end to end   | AnsAcc and the F1 of tool choice (P, O, L, C)         | gta_bench.py, every                                    |
# | gta, t3_agent     | AnsAcc by substring, ToolAcc, CodeExec                | MAT-Agent; no source defines the last two, see gta_t3  |
# Step by step the i-th of tool_calls is what the model said at the record's i-th call after the true turns (null: no call). The officials also
# score GTA's subjective answers and made pictures, by a sentence model; here only objective answers (a whitelist) are scored.

TOOL_BENCHES, SILENT = ("gta", "gaia"), {"answer": None, "tool_calls": [], "code_ok": None}


def parse_run(record: dict) -> dict:
    """One run from {"id", "answer", "tool_calls": [{"name", "arguments", optional "error"} or null], "code_ok"}; only "id" must be there. An
    answer that is no text is taken as str(answer)."""
    answer, calls, ran = record.get("answer"), record.get("tool_calls") or [], record.get("code_ok")
    named = isinstance(calls, list) and all(c is None or (isinstance(c, dict) and isinstance(c.get("name"), str)) for c in calls)
    if not named or not isinstance(ran, bool | None):
        raise BadRecord("code_ok: not true or false" if named else "tool_calls: not a list of {name, arguments}")
    return {"answer": answer if answer is None else str(answer), "tool_calls": calls, "code_ok": ran}


def rate(part: float, whole: int) -> float | None:
    return 100 * part / whole if whole else None


def question_scorer(answer, truth) -> bool:
    """GAIA's quasi exact match, to the letter: a number, else a list, else a string, as the ground truth is.

    >>> question_scorer("$1,234", "1234"), question_scorer("b; a", "a, b"), question_scorer("Sea gull.", "seagull")
    (True, False, True)
    """
    def number(text: str, default=None) -> float | None:
        try:
            return float(text)
        except ValueError:
            return default

    def same(ours: str, theirs: str, drop: str = "") -> bool:  # what is no number becomes infinity, so "inf" is matched by any nonsense
        if (value := number(theirs)) is not None:
            return number(re.sub("[$%,]", "", ours), math.inf) == value
        ours, theirs = (re.sub(r"\s", "", text).lower().translate(str.maketrans("", "", drop)) for text in (ours, theirs))
        return ours == theirs

    answer, truth = str(answer), str(truth)  # None is "None" officially; numbers and lists crash there
    if number(truth) is None and ("," in truth or ";" in truth):  # inside a list the punctuation counts, outside it does not
        ours, theirs = re.split("[,;]", answer), re.split("[,;]", truth)
        return len(ours) == len(theirs) and all(map(same, ours, theirs))
    return same(answer, truth, string.punctuation)


def score_gaia(episodes: list[Episode], said: dict[str, dict]) -> tuple[dict, list[dict]]:
    """AnsAcc overall and per level; a question without a prediction is wrong, one without a public answer is not scored."""
    truths = [(e.id, e.raw["level"], e.raw["answer"]) for e in episodes]
    rows = [{"id": i, "correct": None if truth is None else i in said and question_scorer(said[i]["answer"], truth)} for i, _, truth in truths]
    found = {"answers_private": sum(truth is None for *_, truth in truths), "attachments_missing": sum(e.raw["file_missing"] for e in episodes)}
    for level in ("", *sorted({level for _, level, truth in truths if truth is not None})):
        right = [row["correct"] for row, (_, own, truth) in zip(rows, truths, strict=True) if truth is not None and level in ("", own)]
        scores = {"ans_acc": rate(sum(right), len(right)), "right": sum(right), "n": len(right)}
        found |= {f"level_{level}": scores} if level else scores
    return found, rows


def gta_objective(answer: str | None, truth: dict) -> bool:
    r"""GTA's rule: of each whitelist group one alias stands in the answer between word boundaries, and no blacklisted one.

    Aliases are escaped: "3.5" does not match "385". One that begins or ends with a sign, such as "50%", needs a letter or digit on the
    sign's other side (\b), and a blacklist [[]] forbids any word: quirks of the official rule, kept. An empty answer is wrong.
    >>> gta_objective("It is 7.75.", {"whitelist": [["7.75", "7.8"]], "blacklist": None})
    True
    """
    def found(aliases) -> bool:
        return re.search(r"\b(?:" + "|".join(re.escape(str(alias)) for alias in aliases) + r")\b", str(answer), re.IGNORECASE) is not None

    if not answer or not all(found(group) for group in truth["whitelist"]):
        return False
    return not (truth.get("blacklist") and found([alias for group in truth["blacklist"] for alias in group]))


def gta_steps(episodes: list[Episode], said: dict[str, dict]) -> dict:
    """InstAcc, ToolAcc, ArgAcc, SummAcc. The denominator of InstAcc leaves out the closing turn of image generation while its numerator does
    not: so does the official one. `arguments` must be equal as written."""
    count, summaries = Counter(), []
    for episode in episodes:
        ours, gold = said.get(episode.id, SILENT), episode.raw["gt_answer"]
        count["referenced"] += bool(gold)
        calls = iter(ours["tool_calls"])
        for step in episode.steps:
            if step.action.kind == "answer":
                count["inst"] += ours["answer"] is not None
                summaries += [gta_objective(ours["answer"], gold)] if isinstance(gold, dict) else []
            else:
                call = next(calls, None) or {"name": None, "error": "none"}
                same = call["name"] == step.raw["name"]
                count.update(turns=1, inst=not call.get("error"), tool=same, arg=same and call.get("arguments") == step.raw["arguments"])
    return {"inst_acc": rate(count["inst"], count["turns"] + count["referenced"]), "tool_acc": rate(count["tool"], count["turns"]),
            "arg_acc": rate(count["arg"], count["turns"]), "summ_acc_objective": rate(sum(summaries), len(summaries)), "tool_turns": count["turns"]}


def gta_end(episodes: list[Episode], said: dict[str, dict]) -> tuple[dict, list[dict]]:
    """AnsAcc over objective answers, and the F1 of tool choice by category; 1e-5 as in the official script."""
    rows, gold, made, hits = [], Counter(), Counter(), Counter()
    for episode in episodes:
        ours, truth = said.get(episode.id, SILENT), episode.raw["gt_answer"]
        rows.append({"id": episode.id, "correct": gta_objective(ours["answer"], truth) if isinstance(truth, dict) else None})
        asked, called = [s.raw["name"] for s in episode.steps if s.action.kind == "call"], [call["name"] for call in ours["tool_calls"] if call]
        for counter, names in ((made, called), (gold, asked), (hits, [name for name in asked if name in called])):
            counter.update(GTA_TOOLS[name][0] for name in names if name in GTA_TOOLS)
    scores = [row["correct"] for row in rows if row["correct"] is not None]
    found = {"ans_acc_objective": rate(sum(scores), len(scores)), "n_objective": len(scores),
             "n_subjective": sum(isinstance(e.raw["gt_answer"], list) for e in episodes), "n_image": sum(not e.raw["gt_answer"] for e in episodes)}
    for name in ("perception", "operation", "logic", "creativity"):  # officially a division by zero where no record asks for one
        precision, recall = hits[name] / (made[name] + 1e-5), hits[name] / (gold[name] or 1)
        found[f"f1_{name}"] = 100 * 2 * precision * recall / (precision + recall + 1e-5) if gold[name] else None
    return found, rows


# T3-Agent's own tools, and what of GTA's each can stand for (our proposal: no source gives a mapping).
T3_TOOLS = {"visualizer": {"ImageDescription", "OCR", "RegionAttributeDescription", "MathOCR"},
            "objectlocation": {"TextToBbox", "CountGivenObject"}, "ask_search_agent": {"GoogleSearch"}, "image_generator": {"TextToImage"},
            "image_edit": {"ImageStylization", "DrawBox", "AddText"}, "python": {"Calculator", "Solver", "Plot"}}


def gta_t3(episodes: list[Episode], said: dict[str, dict]) -> dict:
    """T3-Agent's variant. AnsAcc: of each whitelist group some alias is a substring of the answer, lower-cased; no blacklist; records without
    a whitelist are left out. DEPARTURE: ToolAcc and CodeExec are defined in no source. ToolAcc: the mean share of a record's tools that were
    called; strict: neither one missing nor one too many. CodeExec: runs whose code ran / runs that say so."""
    right, shares, strict = [], [], []
    for episode in episodes:
        ours, truth = said.get(episode.id, SILENT), episode.raw["gt_answer"]
        if isinstance(truth, dict):
            right.append(all(any(str(alias).lower() in (ours["answer"] or "").lower() for alias in group) for group in truth["whitelist"]))
        called = [{c["name"]} | T3_TOOLS.get(c["name"], set()) for c in ours["tool_calls"] if c]
        if gold := {step.raw["name"] for step in episode.steps if step.action.kind == "call"}:
            shares.append(len(gold & set().union(*called)) / len(gold))
            strict.append(shares[-1] == 1.0 and all(tools & gold for tools in called))
    ran = [run["code_ok"] for ident, run in said.items() if run.get("code_ok") is not None and any(e.id == ident for e in episodes)]
    return {"ans_acc": rate(sum(right), len(right)), "ans_acc_over_all": rate(sum(right), len(episodes)), "n": len(right),
            "tool_acc": rate(sum(shares), len(shares)), "tool_acc_strict": rate(sum(strict), len(strict)),
            "code_exec": rate(sum(ran), len(ran)), "n_code": len(ran)}


def score_tools(name: str, root: str | Path, split: str, *, predictions: str | Path | None = None, planner: Planner | None = None,
                vlm: Vlm | None = None, horizon: int = 1, history: int = 4) -> tuple[dict, list[dict]]:
    """(what --json writes, the rows {"id", "correct"} of --per_item) of a predictions file, or of a planner that is run with the toolbox (for
    GTA's step-by-step numbers on the true turns as well). `correct` is null where there is no answer to compare with (image generation,
    subjective or private answers)."""
    episodes = list(load_recorded(name, root, split, report := Report()))
    said, faults = read_predictions(predictions, parse_run) if predictions else ({}, [])
    on_turns = said = {ident: run or SILENT for ident, run in said.items()}
    if planner:
        tasks, on_turns = [ToolTask(episode, history, vlm) for episode in episodes], {}
        for at in range(0, len(tasks), 8):
            play(planner, tasks[at:at + 8], range(len(tasks[at:at + 8])), execute, horizon)
        said = {task.episode.id: task.said for task in tasks}
        for episode in episodes if name == "gta" else ():
            firsts = [(planner([observe(episode, step, history)], None)[0][0] or [step.action])[0] for step in episode.steps]
            turns = [(step.action.kind, first.text if first.kind == step.action.kind and first is not step.action else None)
                     for step, first in zip(episode.steps, firsts, strict=True)]
            on_turns[episode.id] = {"answer": next((text for kind, text in turns[::-1] if kind == "answer"), None),
                                    "tool_calls": [text and read_call(text) for kind, text in turns if kind == "call"]}
    found, rows = score_gaia(episodes, said) if name == "gaia" else gta_end(episodes, said)
    if name == "gta":
        found = {"end_to_end": found, "step_by_step": gta_steps(episodes, on_turns), "t3_agent": gta_t3(episodes, said)}
    known = {episode.id for episode in episodes}
    return {"protocol": name, "split": split, **found, "records": len(known), "missing_predictions": len(known - said.keys()),
            "unknown_predictions": len(said.keys() - known), "skipped": sum(report.bad.values()) + len(faults),
            "why": report.messages[:50] + faults[:50]}, rows


# ----------------------------------------------------------------------------------------------------------------------
# Ablations: arms that share warm starts, seeds, prompts and the number of updates
# ----------------------------------------------------------------------------------------------------------------------
# An arm is a training command and a way to play. Arms with the same command share one run. {one}, {two}, {all}: the updates of stage 1, of
# stage 2, and their sum, so that each arm has as many updates as the two stages together.

ARMS: dict[str, tuple[str, dict]] = {
    "warmup": ("--stages warmup", {}),
    "reactive_text": ("--horizon 1 --stages warmup,stage1 --stage1_updates {all}", {}),
    "reactive_grounded": ("--horizon 1 --stages warmup,stage2 --stage2_updates {all}", {}),   # sees the reward that stage 2 sees
    "stage1": ("--stages warmup,stage1 --stage1_updates {all}", {}),
    "stage2": ("--stages warmup,stage2 --stage2_updates {all}", {}),
    "tracer1": ("", {}),
    "without_stage2": ("", {"adapter": "stage1"}),            # the same run, stopped after stage 1: fewer updates
    "horizon_1": ("--horizon 1", {}),
    "horizon_2": ("--horizon 2", {}),
    "horizon_8": ("--horizon 8", {}),
    "no_repetition": ("--lambda_rep 0", {}),
    "gamma_1": ("--gamma 1", {}),
    "history_0": ("--history 0", {}),                         # its own warm start
    "credit_trajectory": ("--credit trajectory", {}),
    "credit_own": ("--credit own", {}),
    "no_std": ("--no-std_normalise", {}),
    "carry": ("--carry_forecast", {}),
    "far_first": ("--order far", {}),                         # its own warm start
    "choose_likelihood": ("", {"choose": "likelihood"}),
    "choose_agreement": ("", {"choose": "agreement"}),
}
MAIN_ARMS = ("warmup", "reactive_text", "reactive_grounded", "stage1", "stage2", "tracer1", "without_stage2")
PART_SEEDS = 3            # of the other arms, which play `test` only
QUICK_ARMS = ("warmup", "reactive_grounded", "tracer1", "without_stage2")
ABLATION_SPLITS = {"toy-gui": ("test", "popup", "flaky", "layout", "app"), "toy-tools": ("test", "flaky", "composition", "tool")}
DISTURBED = {"popup", "flaky", "layout"}
T_95 = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262)   # Student's t, two-sided 95 %, 1 to 9 degrees of freedom


def interval(values: Sequence[float]) -> tuple[float, float]:
    """Mean and half width of its 95 % interval by Student's t (nan for a single value).

    >>> [round(x, 3) for x in interval([1.0, 2.0, 3.0])]
    [2.0, 2.484]
    """
    n = len(values)
    half = T_95[min(n - 2, 8)] * float(np.std(values, ddof=1)) / math.sqrt(n) if n > 1 else math.nan
    return float(np.mean(values)), half


def commit() -> str:
    """The commit of this code; empty without git."""
    try:
        return subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=Path(__file__).parent, capture_output=True, text=True).stdout.strip()
    except OSError:
        return ""


def run_arm(arm: str, seed: int, root: Path, budget: dict, common: list[str], limit: int, threads: int, split: str = "") -> dict:
    """Train one arm with one seed, unless that was done before, and play `split`, or the arm's splits; returns what exam.json says.
    Raises ValueError for a folder made with other settings, or where training failed."""
    flags, how = ARMS[arm]
    owner = next(name for name in ARMS if ARMS[name][0] == flags)
    folder, asked = root / f"{owner}-{seed}", [*common, *flags.format(**budget).split()]  # the arm has the last word
    for stage, updates in (("stage1", budget["one"]), ("stage2", budget["two"])):
        asked += [] if f"--{stage}_updates" in asked else [f"--{stage}_updates", str(updates)]
    exam = folder / f"exam-{arm}{split and '-' + split}.json"
    if exam.exists():
        found = parse_json(exam.read_text(), str(exam))
        if not isinstance(found, dict) or (found.get("flags"), found.get("limit")) != (asked, limit):
            raise ValueError(f"{exam} was made with other settings than {' '.join(asked)} --limit {limit}: use another --output_dir")
        return found
    command = [sys.executable, str(Path(__file__).with_name("train.py")), "--output_dir", str(folder), "--seed", str(seed), "--threads", str(threads),
               "--warmup_dir", str(root / "warmup"), "--eval_split", "dev", "--eval_tasks", "20", *asked]
    if (folder / "config.json").exists():
        from train import changes, parse_config

        made = parse_json((folder / "config.json").read_text(), str(folder / "config.json"))
        if changed := changes(made, parse_config(command[2:]), ("output_dir", "warmup_dir", "threads", "resume")):
            raise ValueError(f"{folder} was made with other settings ({changed}): use another --output_dir")
    if not (folder / "adapter").exists():
        with open(root / f"{owner}-{seed}.log", "a") as log:
            if subprocess.run([*command, *(["--resume"] if (folder / "config.json").exists() else [])], stdout=log, stderr=log).returncode:
                raise ValueError(f"training of {folder} failed; the reason is at the end of {log.name}")
    torch.set_num_threads(threads)
    config, start = read_run(folder), time.monotonic()
    policy = run_policy(folder, config, None if arm == "warmup" else how.get("adapter", "adapter"))
    splits = [split] if split else ABLATION_SPLITS[config["env"]] if arm in MAIN_ARMS else ["test"]
    rows = {name: evaluate_policy(policy, config, name, limit, choose=how.get("choose", ""), seed=seed)[0] for name in splits}
    seconds, log = json.loads((folder / "results.json").read_text())["seconds"], folder / "metrics.jsonl"
    stages = ("stage1",) if "adapter" in how else ("stage1", "stage2")
    lines = [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []
    found = {"arm": arm, "seed": seed, "commit": commit(), "flags": asked, "limit": limit, "split": rows,
             "minutes": sum(seconds.get(s, 0) for s in stages) / 60, "exam_minutes": (time.monotonic() - start) / 60,
             "sampled_tokens": sum(line["tokens"] for line in lines if line["stage"] in stages)}
    write(exam, json.dumps(found, indent=1))
    return found


def ablate(arms: Sequence[str], seeds: int, jobs: int, root: Path, budget: dict, common: list[str], limit: int, split: str = "") -> dict:
    """All arms with seeds 0 .. seeds-1 (at most PART_SEEDS for those that are not main ones), `jobs` at a time; a finished run is not
    run again. Returns the record of docs/ablation.json."""
    root.mkdir(parents=True, exist_ok=True)
    threads, found, running = max(1, (os.cpu_count() or 1) // jobs), {}, {}
    shared = {arm: next(a for a in ARMS if ARMS[a][0] == ARMS[arm][0]) for arm in arms}         # whose run an arm plays with
    wanted = dict.fromkeys(["warmup", *shared.values(), *arms])
    waiting = {(arm, seed): None if arm == "warmup" else (shared[arm] if ARMS[arm][1] else "warmup", seed)
               for seed in range(seeds) for arm in wanted if arm in MAIN_ARMS or seed < PART_SEEDS}
    quiet = {"initializer": signal.signal, "initargs": (signal.SIGINT, signal.SIG_DFL)}  # Ctrl-C ends a worker without a stack trace
    with ProcessPoolExecutor(jobs, multiprocessing.get_context("spawn"), **quiet) as pool, tqdm(total=len(waiting), unit="run") as bar:
        while waiting or running:
            for job in [j for j, first in waiting.items() if first is None or first in found]:  # no two jobs train the same thing
                del waiting[job]
                running[pool.submit(run_arm, *job, root, budget, common, limit, threads, split)] = job
            try:
                done = next(as_completed(running))
                arm, seed = job = running.pop(done)
                found[job] = done.result()
            except BaseException:  # the first error ends all, SystemExit of a worker included
                pool.shutdown(cancel_futures=True)
                raise
            name, row = next(iter(found[job]["split"].items()))
            tqdm.write(f"{arm:18} seed {seed}: success on {name} {row['success']:.1%}")
            bar.update()
    runs = {arm: [found[arm, seed] for seed in range(seeds) if (arm, seed) in found] for arm in ARMS if arm in wanted}
    return ablation_record(runs, seeds, common, split or "test")


def ablation_record(found: dict[str, list[dict]], seeds: int, common: list[str], main: str = "test") -> dict:
    """docs/ablation.json: per arm one number a seed, and paired differences on the split `main` (common seeds, 95 % interval by Student's t);
    `gain`: relative, of TraceR1 over the better reactive arm of each seed.

    stability and accuracy_at_k: planning stability. robustness: mean success on the disturbed splits over success on `main`, None
    where an arm does not play them. generalisation: the other splits themselves (app; composition, tool). per_1000_tokens, per_minute:
    tasks solved on `main` per 1,000 tokens written there, and on all its splits per minute of playing them.
    """
    arms = {}
    for arm, runs in found.items():
        test = [run["split"][main] for run in runs]
        arms[arm] = {"split": {s: {"success": [run["split"][s]["success"] for run in runs], "n": runs[0]["limit"]} for s in runs[0]["split"]}}
        arms[arm] |= {name: [m[name] for m in test] for name in ("stability", "repeat", "failed", "accuracy_at_k", "tokens_per_episode")}
        disturbed = [mean(row["success"] for s, row in run["split"].items() if s in DISTURBED) for run in runs]
        arms[arm]["robustness"] = [None if d is None else d / max(m["success"], 1e-9) for d, m in zip(disturbed, test, strict=True)]
        arms[arm]["per_1000_tokens"] = [1000 * m["success"] / max(m["tokens_per_episode"], 1e-9) for m in test]
        arms[arm]["per_minute"] = [run["limit"] * sum(row["success"] for row in run["split"].values()) / run["exam_minutes"] for run in runs]
        arms[arm] |= {name: [run.get(name) for run in runs] for name in ("minutes", "exam_minutes", "sampled_tokens", "commit")}
        arms[arm]["flags"] = " ".join(runs[0]["flags"])
    won, spread = {arm: arms[arm]["split"][main]["success"] for arm in arms}, lambda m, half: {"mean": m, "ci95": [m - half, m + half]}
    record = {"arms": arms, "seeds": list(range(seeds)), "command": shlex.join(["python", "eval.py", *sys.argv[1:]]), "common_flags": common,
              "commit": ", ".join(dict.fromkeys(run["commit"] for runs in found.values() for run in runs if "commit" in run)),
              "pairs": {f"{one}-{other}": spread(*interval([a - b for a, b in zip(won[one], won[other], strict=False)]))
                        for one in ("tracer1", "stage1") for other in arms if one in arms and one != other}}
    if {"tracer1", "reactive_text", "reactive_grounded"} <= set(arms):
        better = map(max, won["reactive_text"], won["reactive_grounded"])
        record["gain"] = spread(*interval([t / max(r, 1e-9) - 1 for t, r in zip(won["tracer1"], better, strict=True)]))
    return record


def ablation_table(record: dict) -> str:
    """One row an arm: mean and 95 % interval over the seeds on the first split, the others that it plays, and what it cost."""
    first, *splits = max((list(found["split"]) for found in record["arms"].values()), key=len)
    lines = [f"{'arm (seeds)':22} {first:>12} {'TraceR1 minus it':>17} " + " ".join(f"{s[:7]:>7}" for s in splits)
             + f" {'stable':>7} {'repeat':>7} {'failed':>7} {'tokens':>7} {'per 1k':>7} {'minutes':>8}"]
    for arm, found in record["arms"].items():
        label, (centre, half) = f"{arm} ({len(found['minutes'])})", interval(found["split"][first]["success"])
        pair = record["pairs"].get(f"tracer1-{arm}")
        against = f"{100 * pair['mean']:+.1f} +- {50 * (pair['ci95'][1] - pair['ci95'][0]):.1f}" if pair else ""
        others = " ".join(f"{np.mean(found['split'][s]['success']):7.1%}" if s in found["split"] else f"{'-':>7}" for s in splits)
        stable = f"{np.mean(found['stability']):7.1%}" if None not in found["stability"] else f"{'-':>7}"
        lines.append(f"{label:22} {f'{100 * centre:.1f} +- {100 * half:.1f}':>12} {against:>17} {others} {stable} {np.mean(found['repeat']):7.1%} "
                     f"{np.mean(found['failed']):7.1%} {np.mean(found['tokens_per_episode']):7.1f} {np.mean(found['per_1000_tokens']):7.2f} "
                     f"{np.mean(found['minutes']):8.1f}")
    if gain := record.get("gain"):
        lines.append(f"TraceR1 over the better reactive arm of each seed: {gain['mean']:+.1%} +- {gain['ci95'][1] - gain['mean']:.1%}")
    return "\n".join(lines).replace(" +- nan%", "").replace(" +- nan", "       ")


def draw_ablation(record: dict, path: Path) -> None:
    """Arms with intervals; forecast accuracy against k; success against T, where there are several."""
    from matplotlib.figure import Figure

    arms = record["arms"]
    first = next(iter(next(iter(arms.values()))["split"]))
    success = {arm: 100 * np.array(found["split"][first]["success"]) for arm, found in arms.items()}
    horizons = sorted([(int(a.split("_")[1]), a) for a in arms if a.startswith("horizon_")] + [(5, a) for a in arms if a == "tracer1"])
    panels = 3 if len(horizons) > 1 else 2
    figure = Figure((5 * panels, 0.28 * len(arms) + 2.2), layout="tight")
    axes = figure.subplots(1, panels, width_ratios=(2, 1.2, 1)[:panels])
    means, halves = zip(*map(interval, success.values()), strict=True)
    labels = [f"{arm} ({len(values)})" for arm, values in success.items()]
    axes[0].barh(labels, means, xerr=halves, capsize=3, color=["tab:green" if a == "tracer1" else "silver" for a in arms])
    axes[0].invert_yaxis()
    for i, values in enumerate(success.values()):
        axes[0].plot(values, [i] * len(values), "k.", markersize=4)
    axes[0].set(title=f"success on {first}: mean, 95 % interval, seeds (dots)", xlabel="% of tasks", xlim=(0, 100))
    for arm in [a for a in ("warmup", "stage1", "stage2", "tracer1") if a in arms]:
        curve = 100 * np.mean(arms[arm]["accuracy_at_k"], axis=0)
        axes[1].plot(range(1, len(curve) + 1), curve, marker="o", label=arm)
    axes[1].set(title="forecast accuracy k steps ahead", xlabel="k", ylabel="% right")
    axes[1].legend()
    if panels == 3:
        steps, curves = [t for t, _ in horizons], np.array(list(zip(*(success[arm] for _, arm in horizons), strict=False)))  # seeds in common
        axes[2].plot(steps, curves.T, color="silver", marker=".")
        axes[2].plot(steps, curves.mean(0), marker="o")
        axes[2].set(title="success against T (grey: seeds)", xlabel="T", ylabel="% of tasks", xticks=steps, ylim=(0, 100))
    figure.savefig(path, dpi=110)


# ----------------------------------------------------------------------------------------------------------------------
# Command line
# ----------------------------------------------------------------------------------------------------------------------


def exam(run: str, split: str, n: int) -> dict[str, dict]:
    """All policies of a run on one toy split: random, warm start, the end of each stage, oracle."""
    config, found = read_run(run), {}
    rows = ["random", "warmup", *(s for s in ("stage1", "stage2") if (Path(run) / s).exists()), "oracle"]
    with tqdm(total=n * len(rows), unit="task", mininterval=1) as bar:
        for name in rows:
            bar.set_description(name)
            if name in ("random", "oracle"):
                planner = random_planner() if name == "random" else oracle_planner(config["horizon"])
                found[name], _ = evaluate_toy(planner, split, n, config["horizon"], config["history"], progress=bar.update, world=config["env"])
            else:
                policy = run_policy(run, config, None if name == "warmup" else name)
                found[name], _ = evaluate_policy(policy, config, split, n, bar.update)
    return found


def table(rows: dict[str, dict]) -> str:
    lines = [f"{'policy':8} {'success':>8} {'95 % interval':>17} {'n':>5}   accuracy@k {'':22} {'repeat':>6} {'failed':>7} {'tokens':>7}"]
    for name, m in rows.items():
        low, high = m["ci95"]
        lines.append(f"{name:8} {m['success']:8.1%} {f'{low:.1%} to {high:.1%}':>17} {m['n']:5}   "
                     f"{' '.join(f'{a:.0%}' for a in m['accuracy_at_k']):33} {m['repeat']:6.1%} {m['failed']:7.1%} {m['tokens_per_episode']:7.1f}")
    return "\n".join(lines)


def bench(args: argparse.Namespace) -> dict:
    """A recorded benchmark: the policy of a run, or another agent's predictions, scored by the official rule."""
    predict, shape = None, {}
    if not args.data:
        die(f"--bench {args.bench} needs --data ROOT")
    if args.run:
        config = read_run(args.run)
        policy = run_policy(args.run, config)
        name = args.tool_agent or config.get("tool_agent", "")
        tool = tool_agent(name, policy, config.get("max_pixels", 0))
        predict = lambda seen, horizon: policy_planner(policy, horizon, tool)([seen], None)[0][0]  # noqa: E731
        shape = {"horizon": config["horizon"], "history": config["history"]}
    if args.bench in TOOL_BENCHES:
        planner = policy_planner(policy, config["horizon"]) if args.run else None
        vlm = frozen_vlm(name, policy, config.get("max_pixels", 0)) if args.run and name else None
        look = vlm and (lambda picture, question: ask(vlm, [(lambda: picture, plain(question))])[0][0])
        found, rows = score_tools(args.bench, args.data, args.split, predictions=args.predictions, planner=planner, vlm=look, **shape)
    else:
        found, rows = score_bench(args.bench, args.data, args.split, predict=predict, predictions=args.predictions, protocol=args.protocol,
                                  index=args.index, **shape)
    for path in filter(None, (args.per_step, args.per_item)):
        write(Path(path), "".join(json.dumps(row) + "\n" for row in rows))
    if found["skipped"]:
        print(f"warning: {found['skipped']} records were skipped: {'; '.join(found['why'][:5])}", file=sys.stderr)
    return found


@memory_or_die()
def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Examine a trained policy, or another agent's predictions, on held-out tasks.")
    parser.add_argument("--run", help="folder of a run of train.py")
    parser.add_argument("--bench", choices=[*TOYS, *PROTOCOLS, *TOOL_BENCHES], help="what to be examined on; default: the toy world of the run")
    parser.add_argument("--split", default="", help=f"{'; '.join(f'{w}: {chr(32).join(toy.splits)}' for w, toy in TOYS.items())} (default test); "
                                        "recorded benchmarks: see docs/data.md; with --ablate: this one only, `dev` to choose settings")
    parser.add_argument("--limit", type=int, default=300, help="toy worlds: number of tasks")
    parser.add_argument("--data", help="root folder of a recorded benchmark")
    parser.add_argument("--tool_agent", default="", help="recorded benchmarks: base, or the name or path of a VLM that finds points (gta, gaia: "
                                                          "looks at pictures for the toolbox); default: as in training")
    parser.add_argument("--predictions", help="score this file instead of a run: JSON lines {id, action: {kind, point, text}}, of gta and "
                                              "gaia {id, answer, tool_calls: [{name, arguments}], code_ok}")
    parser.add_argument("--protocol", help="scoring rule of a recorded benchmark; the first of its rules is the default")
    parser.add_argument("--index", help="androidcontrol: file of steps to count (OS-Atlas's ac_idx.txt); ROOT/ac_idx.txt is found by itself")
    parser.add_argument("--json", help="write the numbers to this file")
    parser.add_argument("--per_step", help="recorded benchmarks: write one JSON line a step to this file")
    parser.add_argument("--per_item", help="gta, gaia: write one JSON line {id, correct} a question to this file")
    parser.add_argument("--ablate", action="store_true", help="train and compare arms on the toy world; writes docs/ablation.json and .png")
    parser.add_argument("--arms", default="", help=f"with --ablate, joined by commas; default: all of {', '.join(ARMS)}")
    parser.add_argument("--seeds", type=int, default=5, help=f"with --ablate: seeds 0 .. seeds-1; at most {PART_SEEDS} for arms that change a part")
    parser.add_argument("--jobs", type=int, default=1, help="with --ablate: runs side by side, sharing the cores")
    parser.add_argument("--output_dir", default="runs/ablate", help="with --ablate: where the runs are kept")
    parser.add_argument("--quick", action="store_true", help="with --ablate: a first answer in minutes: two seeds, four arms, short runs")
    parser.add_argument("--flags", default="", help="with --ablate: more flags of train.py for every arm, such as \"--learning_rate 5e-4\"")
    args = parser.parse_args(argv)
    if args.ablate:
        return main_ablate(args)
    if bool(args.run) == bool(args.predictions):
        die("give either --run DIR or --predictions FILE")
    try:
        if args.bench in (None, *TOYS):
            world, args.split = read_run(args.run)["env"] if args.run else "toy-gui", args.split or "test"
            if args.split not in TOYS[world].splits or args.limit < 1 or not args.run or args.bench not in (None, world):
                die(f"{args.bench or world} needs --run of that world, --limit of at least 1 and a --split of {', '.join(TOYS[world].splits)}")
            rows = exam(args.run, args.split, args.limit)
            found = {"protocol": world, "split": args.split, "n": args.limit, "policies": rows}
            print(f"protocol {world}, split {args.split}, greedy, n = {args.limit}\n{table(rows)}")
        else:
            args.split = args.split or {"gui-odyssey": "random", "mind2web": "test_task", "gaia": "validation"}.get(args.bench, "test")
            found = bench(args)
            print(json.dumps({k: v for k, v in found.items() if k != "why"}, indent=1))
        if args.json:
            write(Path(args.json), json.dumps(found, indent=1))
    except (ValueError, OSError) as error:
        die(one_line(str(error)))


def main_ablate(args: argparse.Namespace) -> None:
    arms = tuple(filter(None, args.arms.split(","))) or (QUICK_ARMS if args.quick else tuple(ARMS))
    if unknown := set(arms) - set(ARMS):
        die(f"--arms: unknown arm {', '.join(sorted(unknown))}; choose from {', '.join(ARMS)}")
    if args.seeds < 1 or args.jobs < 1 or args.limit < 1:
        die(f"--seeds {args.seeds}, --jobs {args.jobs} and --limit {args.limit} must be at least 1")
    from train import parse_config

    config, names = parse_config(args.flags.split()), {part.split("=")[0] for part in args.flags.split()}
    if taken := names & {"--seed", "--output_dir", "--warmup_dir", "--threads", "--stages", "--resume", "--eval_split"}:
        die(f"--flags: {', '.join(sorted(taken))} is what --ablate sets itself")
    limit, seeds, more = (100, 2, ["--warmup_steps", "600"]) if args.quick else (args.limit, args.seeds, [])
    short = args.quick and not names & {"--stage1_updates", "--stage2_updates"}
    one, two = (60, 40) if short else (config.stage1_updates, config.stage2_updates)
    if args.split and args.split not in TOYS[config.env].splits:
        die(f"--split {args.split}: choose one of {', '.join(TOYS[config.env].splits)}")
    root = Path(args.output_dir + ("-quick" if args.quick else ""))
    try:
        record = ablate(arms, seeds, args.jobs, root, {"one": one, "two": two, "all": one + two}, [*more, *args.flags.split()], limit, args.split)
        print(ablation_table(record))
        whole = not (args.quick or args.arms or args.flags or args.split) and args.seeds > 4 and args.limit >= 300
        where = Path(args.json) if args.json else Path("docs" if whole else root) / "ablation.json"
        where.parent.mkdir(parents=True, exist_ok=True)
        write(where, json.dumps(record, indent=1).replace("NaN", "null"))  # a single seed has no interval
        draw_ablation(record, where.with_suffix(".png"))
        print(f"numbers: {where}; picture: {where.with_suffix('.png')}")
    except (ValueError, OSError) as error:
        die(one_line(str(error)))
    except (KeyboardInterrupt, BrokenProcessPool):  # a worker that Ctrl-C, or a lack of memory, has ended
        die("interrupted; finished runs are kept, and the same command goes on with the others")


def write(path: Path, text: str) -> None:
    """Write under a temporary name and rename, so that nobody ever reads half a file."""
    try:
        path.with_name(path.name + ".tmp").write_text(text)
        os.replace(path.with_name(path.name + ".tmp"), path)
    except OSError as error:
        die(f"cannot write {path}: {error.strerror}")


if __name__ == "__main__":
    main()
