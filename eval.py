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
import os
import random
import string
import sys
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw
from tqdm import tqdm

from agent import Planner, Play, memory_or_die, play, policy_planner, read_run, run_policy, tool_agent
from envs import (
    SPLITS,
    VALUES,
    Action,
    BadRecord,
    Box,
    Episode,
    Observation,
    Point,
    Report,
    Step,
    ToyGUI,
    _font,
    die,
    execute,
    get,
    inside,
    load_recorded,
    numbers,
    one_line,
    parse_json,
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
                 batch: int = 100, progress=None, pointed: bool = False) -> tuple[dict, list[Play]]:
    """Play seeds 0..n-1 of a toy split; returns the metrics of the module docstring and the plays. `pointed`: the planner has asked a
    tool agent of its own."""
    plays = []
    for start in range(0, n, batch):
        seeds = range(start, min(start + batch, n))
        plays += play(planner, [ToyGUI(split, scale, history) for _ in seeds], seeds, partial(execute, pointed=pointed), horizon, carry)
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
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    stages = [s for s in ("stage1", "stage2") if any(m["stage"] == s for m in metrics)]
    names = [n for n in ("random", "warmup", "stage1", "stage2", "oracle") if n in results]
    panels = len(stages) + bool(names)
    if not panels:
        return
    figure, axes = plt.subplots(1, panels, figsize=(4.2 * panels, 3.4), squeeze=False)
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
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    plt.close(figure)


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


def read_predictions(path: str | Path) -> tuple[dict[str, Action | None], list[str]]:
    """{"<episode_id>/<step>": action} from JSON lines {"id", "action": {"kind", "point": [x, y] or null, "text"}}, and the faults as
    "file:line: why". A line with an id but no valid action counts as a wrong answer (None); of two lines with one id the first counts.
    ValueError when the file cannot be read."""
    actions, faults = {}, []
    try:
        with open(path, "rb") as file:
            for number, line in enumerate(file, 1):
                ident = None
                try:
                    record = parse_json(line, "line")
                    ident = get(record, "id")
                    if ident in actions:
                        raise BadRecord(f"id: {ident} is there twice")
                    actions[ident] = None
                    action = get(record, "action", dict)
                    point, text = action.get("point"), get({"text": "", **action}, "text")
                    point = None if point is None else tuple(numbers(point, 2, "point"))
                    actions[ident] = Action(get(action, "kind"), one_line(text), point)
                except ValueError as error:   # BadRecord, or Action's own
                    faults.append(f"{path}:{number}: {error}")
    except OSError as error:
        raise ValueError(f"{path}: {error.strerror}") from None
    return actions, faults


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
# Command line
# ----------------------------------------------------------------------------------------------------------------------


def exam(run: str, split: str, n: int) -> dict[str, dict]:
    """All policies of a run on one toy split: random, warm start, the end of each stage, oracle."""
    config, found = read_run(run), {}
    shape = (config["horizon"], config["history"])
    stages = [s for s in ("stage1", "stage2") if (Path(run) / s).exists()]
    rows = ["random", "warmup", *stages, "oracle"]
    with tqdm(total=n * len(rows), unit="task", mininterval=1) as bar:
        for name in rows:
            bar.set_description(name)
            tool, scale = None, 1
            if name in ("random", "oracle"):
                planner = random_planner() if name == "random" else oracle_planner(config["horizon"])
            else:
                policy = run_policy(run, config, None if name == "warmup" else name)
                tool, scale = tool_agent(config.get("tool_agent", ""), policy, config.get("max_pixels", 0)), policy.toy_scale
                planner = policy_planner(policy, config["horizon"], tool)
            found[name], _ = evaluate_toy(planner, split, n, *shape, scale, config["carry_forecast"], progress=bar.update, pointed=bool(tool))
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
        tool = tool_agent(config.get("tool_agent", ""), policy, config.get("max_pixels", 0))
        predict = lambda seen, horizon: policy_planner(policy, horizon, tool)([seen], None)[0][0]  # noqa: E731
        shape = {"horizon": config["horizon"], "history": config["history"]}
    found, rows = score_bench(args.bench, args.data, args.split, predict=predict, predictions=args.predictions, protocol=args.protocol,
                              index=args.index, **shape)
    if args.per_step:
        write(Path(args.per_step), "".join(json.dumps(row) + "\n" for row in rows))
    if found["skipped"]:
        print(f"warning: {found['skipped']} records were skipped: {'; '.join(found['why'][:5])}", file=sys.stderr)
    return found


@memory_or_die()
def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Examine a trained policy, or another agent's predictions, on held-out tasks.")
    parser.add_argument("--run", help="folder of a run of train.py")
    parser.add_argument("--bench", default="toy-gui", choices=["toy-gui", *PROTOCOLS], help="what to be examined on")
    parser.add_argument("--split", help=f"toy-gui: {', '.join(SPLITS)} (default test); recorded benchmarks: see docs/data.md")
    parser.add_argument("--limit", type=int, default=300, help="toy-gui: number of tasks")
    parser.add_argument("--data", help="root folder of a recorded benchmark")
    parser.add_argument("--predictions", help="score this file instead of a run: JSON lines {id, action: {kind, point, text}}")
    parser.add_argument("--protocol", help="scoring rule of a recorded benchmark; the first of its rules is the default")
    parser.add_argument("--index", help="androidcontrol: file of steps to count (OS-Atlas's ac_idx.txt); ROOT/ac_idx.txt is found by itself")
    parser.add_argument("--json", help="write the numbers to this file")
    parser.add_argument("--per_step", help="recorded benchmarks: write one JSON line a step to this file")
    args = parser.parse_args(argv)
    if bool(args.run) == bool(args.predictions):
        die("give either --run DIR or --predictions FILE")
    try:
        if args.bench == "toy-gui":
            args.split = args.split or "test"
            if args.split not in SPLITS or args.limit < 1 or not args.run:
                die(f"toy-gui needs --run, --limit of at least 1 and a --split of {', '.join(SPLITS)}")
            rows = exam(args.run, args.split, args.limit)
            found = {"protocol": "toy-gui", "split": args.split, "n": args.limit, "policies": rows}
            print(f"protocol toy-gui, split {args.split}, greedy, n = {args.limit}\n{table(rows)}")
        else:
            args.split = args.split or {"androidcontrol": "test", "gui-odyssey": "random", "mind2web": "test_task"}[args.bench]
            found = bench(args)
            print(json.dumps({k: v for k, v in found.items() if k != "why"}, indent=1))
        if args.json:
            write(Path(args.json), json.dumps(found, indent=1))
    except ValueError as error:
        die(str(error))


def write(path: Path, text: str) -> None:
    """Write under a temporary name and rename, so that nobody ever reads half a file."""
    try:
        path.with_name(path.name + ".tmp").write_text(text)
        os.replace(path.with_name(path.name + ".tmp"), path)
    except OSError as error:
        die(f"cannot write {path}: {error.strerror}")


if __name__ == "__main__":
    main()
