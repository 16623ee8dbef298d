"""GUI-Odyssey: from its json and PNG files to steps, the official score, and OS-Atlas's.

Called through catalog.py, as BENCHMARK.
`official` is the rule as it is meant; `strict` is the script, with two of its slips.

Sources: introduction.md, data/format_converter.py, src/eval_mm/GUIOdyssey_action_matching.py and
evaluate_GUIOdyssey.py of OpenGVLab/GUI-Odyssey; eval_scripts/odyssey/evaluation_unify.py of
OS-Copilot/OS-Atlas. The old release has neither boxes nor step texts.

    splits: random task device app (their test lists), random:train and so on

| protocol | a step is right when the type agrees and                                              |
|----------|---------------------------------------------------------------------------------------|
| official | the point is in sam2_bbox or within 0.14; text: substring or edit similarity >= 0.5;  |
|          | direction                                                                             |
| strict   | the same with two slips of the official script: an empty bbox is wrong, texts end at  |
|          | their first ":"                                                                       |
| os-atlas | the point is within 14 %; text: token F1 > 0.5, the word TYPE among the tokens;       |
|          | direction                                                                             |
A pointing action without a point has its type only.
"""

from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np

from benchmarks.common import (
    BadRecord,
    Benchmark,
    Entry,
    Protocol,
    Record,
    Report,
    ScoredStep,
    Step,
    StepScore,
    accuracies,
    as_dict,
    by,
    get,
    mean,
    named_file,
    numbers,
    on_screen,
    parse_json,
    read_image,
    read_lists,
    unit_box,
)
from benchmarks.os_atlas import as_string, gold_text, grid, near, words_f1
from envs import Action, Point, one_line

PRESSES = ("CLICK", "LONG_PRESS")
# The other official actions, in our words. A key is a press whose info is the key's name.
KINDS = {
    "KEY_HOME": "home",
    "KEY_BACK": "back",
    "KEY_APPSELECT": "recent",
    "KEY_RECENT": "recent",
    "TEXT": "type",
    "TYPE": "type",
    "COMPLETE": "done",
    "INCOMPLETE": "fail",
    "IMPOSSIBLE": "fail",
}
# Which way the finger goes -> where the content lies that comes into view.
FLIP = {"up": "down", "down": "up", "left": "right", "right": "left"}


# ---- The reader --------------------------------------------------------------------------------


def read(root: Path, split: str, report: Report) -> Iterator[Entry]:
    """The episodes of a split file's list.

    `root` holds annotations/, screenshots/ and splits/, or a folder data/ with them.
    """
    name, _, part = split.partition(":")
    if name not in ("random", "task", "device", "app") or part not in ("", "test", "train"):
        known = "random, task, device, app, or one of them with :train"
        raise ValueError(f"gui-odyssey has no split {split!r}: {known}")
    data = root
    if (root / "data" / "splits").is_dir():
        data = root / "data"
    lists = read_lists(data / "splits" / f"{name}_split.json")
    for listed in lists.get(part or "test", []):
        stem = Path(str(listed)).name.removesuffix(".json")
        yield Entry(f"{stem}.json", partial(read_record, data, stem, report))


def read_record(data: Path, stem: str, report: Report) -> Record:
    """One annotation file; its raw: what the sums need."""
    record = parse_json((data / "annotations" / f"{stem}.json").read_bytes(), "file")
    steps = get(record, "steps", list)
    task = get(record, "task_info", dict)
    raw = {
        "category": str(task.get("category", "")),
        "step_length": record.get("step_length", len(steps)),
    }
    return Record(
        id=str(record.get("episode_id", stem)),
        goal=get(task, "instruction"),
        texts=[step_text(step) for step in steps],
        read_step=partial(read_step, steps, data, stem, report),
        raw=raw,
    )


def step_text(step: object) -> str:
    """What was done, for the history: the step's text, or in the old release the action itself."""
    step = as_dict(step)
    text = step.get("low_level_instruction")
    if not text:
        text = f"{step.get('action', '')} {step.get('info', '')}"
    return str(text)


def read_step(steps: list, data: Path, stem: str, report: Report, index: int) -> list[Step]:
    """step.raw: "text" of what was typed; of a press "grid", its point on 0-1000, and "bbox".

    The box is None in the old release and [] where there is none.
    """
    step = steps[index]
    where = f"{stem}.json: step {index}"
    name = get(step, "action")
    info = step.get("info")
    path = named_file(step, "screenshot", data / "screenshots")
    raw = {"index": index}
    boxes = ()
    if name in PRESSES and isinstance(info, list):
        raw["bbox"] = step.get("sam2_bbox")
        pressed = info[0] if info else []  # info: a list of points, here of one
        raw["grid"] = numbers(pressed, 2, "info")
        point = on_screen(*raw["grid"], 1000, 1000, "info")
        if raw["bbox"]:
            boxes = unit_box(*numbers(raw["bbox"], 4, "sam2_bbox"), 1000, 1000)
        elif raw["bbox"] is not None and name == "CLICK":
            report.note(where, "sam2_bbox of a click is empty: only the distance counts")
        text = str(step.get("low_level_instruction") or "")
        action = Action(name.lower(), one_line(text), point)
    elif name == "SCROLL":
        action = Action("scroll", scroll_direction(step))
    else:
        kind = other_kind(name, info)
        text = ""
        if kind == "type":
            text = get(step, "info")
            raw["text"] = text
        action = Action(kind, one_line(text))
    return [Step(partial(read_image, path, where), action, boxes, raw)]


def scroll_direction(step: dict) -> str:
    """Where the content lies that comes into view: opposite to the finger's way.

    The official label is horizontal only where |dx| > |dy|.
    """
    ends = get(step, "info", list)
    if len(ends) < 2:
        raise BadRecord("info: two points expected")
    x1, y1 = numbers(ends[0], 2, "info")
    x2, y2 = numbers(ends[1], 2, "info")
    dx = x2 - x1
    dy = y2 - y1
    if abs(dx) > abs(dy):
        finger = "left" if dx < 0 else "right"
    else:
        finger = "up" if dy < 0 else "down"
    return FLIP[finger]


def other_kind(name: str, info: object) -> str:
    """The kind of all that is neither a press on the screen nor a scroll."""
    pressed_key = name in PRESSES and isinstance(info, str)
    kind = KINDS.get(info if pressed_key else name)
    if kind is None:
        raise BadRecord(f"action: unknown {name[:40]!r} with info {str(info)[:40]!r}")
    return kind


# ---- The rules ---------------------------------------------------------------------------------


def official(action: Action | None, step: Step, strict: bool = False) -> StepScore:
    """GUI-Odyssey's rule; `strict`: see the table above."""
    if action is None or action.kind != step.action.kind:
        return StepScore(type_match=False, correct=False)
    if action.kind in ("click", "long_press"):
        correct = right_point(action.point, step, strict)
    elif action.kind == "type":
        correct = right_text(action.text, gold_text(step), strict)
    elif action.kind == "scroll":
        correct = action.text == step.action.text
    else:
        correct = True
    return StepScore(type_match=True, correct=correct)


def right_point(point: Point | None, step: Step, strict: bool) -> bool:
    """In the element's box, or within 0.14 of the recorded point.

    The distance is numpy's, as in the official script: at exactly 0.14 the last bit decides.
    """
    box = step.raw.get("bbox")
    if point is None:
        return False
    if strict and box == []:
        return False
    x, y = grid(point)
    if box and box[0] <= x <= box[2] and box[1] <= y <= box[3]:
        return True
    ours = np.asarray((x, y)) / 1000
    gold = np.asarray(step.raw["grid"]) / 1000
    return bool(np.linalg.norm(ours - gold) <= 0.14)


def right_text(ours: str, gold: str, strict: bool) -> bool:
    """One is part of the other, or they are half alike. Case counts.

    An empty text is part of every text, and so right. strict: both pass through the script's
    split(":")[1], which loses what follows a colon in the text itself.
    """
    if strict:
        ours = ours.split(":")[0]
        gold = gold.split(":")[0]
    ours = ours.strip()
    gold = gold.strip()
    if ours in gold or gold in ours:
        return True
    return 1 - edit_distance(ours, gold) / max(len(ours), len(gold)) >= 0.5


def edit_distance(one: str, two: str) -> int:
    """Levenshtein distance, one row of the table at a time."""
    row = list(range(len(one) + 1))
    for i, b in enumerate(two, 1):
        diagonal = row[0]
        row[0] = i
        for j, a in enumerate(one, 1):
            above = row[j]
            if a == b:
                row[j] = diagonal
            else:
                row[j] = 1 + min(diagonal, above, row[j - 1])
            diagonal = above
    return row[-1]


def os_atlas(action: Action | None, step: Step) -> StepScore:
    """GUI-Odyssey as OS-Atlas scores it."""
    if action is None or action.kind != step.action.kind:
        return StepScore(type_match=False, correct=False)
    if action.kind in ("click", "long_press"):
        return StepScore(type_match=True, correct=near(action, step))
    ours = as_string(action, action.text)
    gold = as_string(step.action, gold_text(step))
    if action.kind == "type":
        return StepScore(type_match=True, correct=words_f1(ours, gold) > 0.5)
    return StepScore(type_match=True, correct=ours == gold)


# ---- The sums ----------------------------------------------------------------------------------


def official_sums(rows: list[ScoredStep], split: str) -> dict:
    """AMS (right steps / steps) and SR (episodes all right / complete episodes).

    Of the random split they are the means over its categories.
    """
    groups = {"all": rows}
    if split.startswith("random"):
        groups = by(rows, lambda row: row.episode_raw["category"])
    ams = {name: action_matching(group) for name, group in groups.items()}
    sr = {name: success_rate(group) for name, group in groups.items()}
    type_acc = mean(row.score.type_match for row in rows)
    return {
        "AMS": mean(ams.values()),
        "SR": mean(sr.values()),
        "type_acc": type_acc,
        "categories": ams,
    }


def action_matching(rows: list[ScoredStep]) -> float:
    return mean(row.score.correct for row in rows)


def success_rate(rows: list[ScoredStep]) -> float:
    """Episodes with steps that could not be read do not count."""
    successes = []
    for steps in by(rows, lambda row: row.episode).values():
        if len(steps) == steps[0].episode_raw["step_length"]:
            successes.append(all(row.score.correct for row in steps))
    return mean(successes) or 0.0


def os_atlas_sums(rows: list[ScoredStep], split: str) -> dict:
    """Type, step and grounding accuracy over the split's file.

    Grounding is right clicks / clicks and long presses of the right type.
    """
    presses = [row for row in rows if row.kind in ("click", "long_press") and row.score.type_match]
    grounding_acc = mean(row.score.correct and row.kind == "click" for row in presses)
    return {**accuracies(rows, split), "grounding_acc": grounding_acc}


BENCHMARK = Benchmark(
    read=read,
    protocols={
        "official": Protocol(official, official_sums),
        "strict": Protocol(partial(official, strict=True), official_sums),
        "os-atlas": Protocol(os_atlas, os_atlas_sums),
    },
    default_split="random",
    train_split="random:train",
)
