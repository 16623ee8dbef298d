"""Multimodal-Mind2Web: from its parquet files, a row a step, to steps, and the official score.

Called through catalog.py, as BENCHMARK.
It needs pyarrow (pip install pyarrow) and reads no html, which is most of the files.

Sources: card of osunlp/Multimodal-Mind2Web; offline_evaluation/Multimodal-Mind2Web of UGround:
sample.py for the hazards of the data, eval.py for the rule.

    splits: train test_task test_website test_domain

| protocol | a step is right when                                                                  |
|----------|---------------------------------------------------------------------------------------|
| official | the point is in a positive box and Op.F1 is 1                                         |
| strict   | the same, with tokens such as "()" dropped too (the script tests for a piece of       |
|          | string.punctuation)                                                                   |
"""

import itertools
import string
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path

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
    by,
    get,
    image_size,
    inside_any,
    mean,
    numbers,
    parse_json,
    read_image,
    set_f1,
    unit_box,
)
from envs import Action, Box, centre, one_line

SPLITS = ("train", "test_task", "test_website", "test_domain")
COLUMNS = [
    "annotation_id",
    "confirmed_task",
    "operation",
    "pos_candidates",
    "screenshot",
    "action_reprs",
    "target_action_index",
    "target_action_reprs",
]
# The data's operations in our words, and back. HOVER and ENTER are stored as CLICK.
KINDS = {"CLICK": "click", "TYPE": "type", "SELECT": "select"}
OPS = {"click": "CLICK", "hover": "CLICK", "type": "TYPE", "select": "SELECT"}


# ---- The reader --------------------------------------------------------------------------------


def read(root: Path, split: str, report: Report) -> Iterator[Entry]:
    """The tasks of a split; a task is a run of rows with one annotation_id."""
    try:
        import pyarrow  # noqa: F401
    except ImportError:
        raise ValueError("mind2web needs pyarrow: pip install pyarrow") from None
    pattern = f"{split}-*.parquet"
    files = sorted([*root.glob(pattern), *(root / "data").glob(pattern)])
    if split not in SPLITS or not files:
        known = "train, test_task, test_website and test_domain"
        raise ValueError(f"{root}: no {pattern}; the splits are {known}")
    rows = read_rows(files, report)
    for task, run in itertools.groupby(rows, key=lambda row: row["annotation_id"]):
        rows_of_task = list(run)
        where = f"{rows_of_task[0]['file']}: {task}"
        yield Entry(where, partial(read_record, rows_of_task, where, report))


def read_rows(files: list[Path], report: Report) -> Iterator[dict]:
    """All rows, with the name of their file; four are read at a time: a page is megabytes."""
    import pyarrow
    from pyarrow import parquet

    for path in files:
        empty = {"file": path.name} | dict.fromkeys(COLUMNS)
        try:
            # pre_buffer, on by default, keeps every row group it has read: in the end the file
            with parquet.ParquetFile(path, pre_buffer=False, buffer_size=1 << 20) as file:
                for batch in file.iter_batches(batch_size=4, columns=COLUMNS, use_threads=False):
                    for row in batch.to_pylist():
                        yield empty | row
        except (pyarrow.ArrowException, OSError) as error:
            report.skip("files", f"{path.name}: parquet: {error}")


def read_record(rows: list[dict], where: str, report: Report) -> Record:
    """The rows of one task."""
    texts = step_texts(rows)
    row_of_step = {}
    for row in rows:
        number = str(row["target_action_index"])
        if number.isdecimal():
            row_of_step[int(number)] = row
    if len(row_of_step) < len(rows) or max(row_of_step) >= len(texts):
        found = [row["target_action_index"] for row in rows]
        raise BadRecord(f"target_action_index: {found} for {len(texts)} action_reprs")
    return Record(
        id=str(rows[0]["annotation_id"]),
        goal=get(rows[0], "confirmed_task"),
        texts=texts,
        read_step=partial(read_step, row_of_step, where, report),
    )


def step_texts(rows: list[dict]) -> list[str]:
    """What each step of the task does; each row repeats the list, and the longest one is taken."""
    longest = []
    for row in rows:
        listed = row["action_reprs"]
        if not isinstance(listed, list):
            listed = [listed]
        if len(listed) > len(longest):
            longest = listed
    texts = [str(text) for text in longest]
    if len(texts) == 1:  # some tasks have one string with line breaks
        return texts[0].split("\n")
    return texts


def read_step(row_of_step: dict[int, dict], where: str, report: Report, index: int) -> list[Step]:
    """A typed or selected step is one action with text and point, as the metric has it.

    step.raw: "op", "value", "element"; "size" and "rects" (x, y, width, height) in pixels of the
    page. Without a box on the page no answer can be right: the step stays, as it does officially.
    """
    where = f"{where}: step {index}"
    row = row_of_step.get(index)
    page = screenshot_bytes(row)
    if page is None:  # the release has such rows; the metric counts them as 0
        report.note(where, "no row or no screenshot")
        return []
    operation = parse_json(row["operation"], "operation")
    op = get(operation, "op")
    if op not in KINDS:
        raise BadRecord(f"operation: unknown op {op[:40]!r}")
    kind = KINDS[op]
    value = str(operation.get("value") or "")
    size = image_size(page)
    rects = positive_rects(row)
    boxes = page_boxes(rects, size)
    if not boxes:
        report.note(where, "pos_candidates: no box on the page, no element can be right")
    point = centre(boxes[0]) if boxes else None
    element = str(row["target_action_reprs"] or "").split(" -> ")[0]
    text = element if kind == "click" else value
    raw = {
        "index": index,
        "op": op,
        "value": value,
        "size": size,
        "rects": rects,
        "element": element,
    }
    action = Action(kind, one_line(text), point)
    return [Step(partial(read_image, page, where), action, boxes, raw)]


def screenshot_bytes(row: dict | None) -> bytes | None:
    if row is None:
        return None
    page = row["screenshot"]
    if isinstance(page, dict):
        page = page.get("bytes")
    if not isinstance(page, bytes | None):
        raise BadRecord("screenshot: not bytes")
    return page


def positive_rects(row: dict) -> list[tuple[float, ...]]:
    """(x, y, width, height) of each right element, the original target's first."""
    texts = row["pos_candidates"] or []
    if not isinstance(texts, list):
        raise BadRecord("pos_candidates: not a list")
    candidates = [parse_json(text, "pos_candidates") for text in texts]
    rects = []
    for candidate in sorted(candidates, key=is_stand_in):
        attributes = parse_json(get(candidate, "attributes"), "attributes")
        sides = get(attributes, "bounding_box_rect")  # "10,20,300,40"
        rect = parse_json(f"[{sides}]", "bounding_box_rect")
        rects.append(tuple(numbers(rect, 4, "bounding_box_rect")))
    return rects


def is_stand_in(candidate: object) -> bool:
    """Whether it counts as right without being the element that was recorded."""
    return isinstance(candidate, dict) and not candidate.get("is_original_target")


def page_boxes(rects: Iterable[tuple[float, ...]], size: tuple[int, int]) -> tuple[Box, ...]:
    boxes = ()
    for x, y, width, height in rects:
        boxes += unit_box(x, y, x + width, y + height, *size)
    return boxes


# ---- The rule ----------------------------------------------------------------------------------


def official(action: Action | None, step: Step, strict: bool = False) -> StepScore:
    """Right element and right operation; `strict`: see the table above.

    Our typed step is click and text in one, as the data has it; a hover is a CLICK there; other
    kinds are their own name, without a value. A forecast's `type` has no point (agent.parse_line),
    so that of a policy's typed steps no element is right: a line of predictions can have one.
    """
    op = ""
    point = None
    if action is not None:
        op = OPS.get(action.kind, action.kind.upper())
        point = action.point
    ours = f"{op} {action.text}" if op in ("TYPE", "SELECT") else op
    gold = f"{step.raw['op']} {step.raw['value']}"
    op_f1 = tokens_f1(tokens(ours, strict), tokens(gold, strict))
    element = inside_any(point, whole_boxes(step))
    return StepScore(
        type_match=op == step.raw["op"],
        correct=element and op_f1 == 1,
        element=element,
        op_f1=op_f1,
    )


def tokens(text: str, strict: bool) -> set[str]:
    """The lower-case words without punctuation that stands alone."""
    return {token for token in text.lower().split() if not is_punctuation(token, strict)}


def is_punctuation(token: str, strict: bool) -> bool:
    piece = token in string.punctuation
    return piece and (strict or len(token) == 1)


def tokens_f1(ours: set[str], theirs: set[str]) -> float:
    if not ours and not theirs:
        return 1.0
    return set_f1(ours, theirs)


def whole_boxes(step: Step) -> Iterator[Box]:
    """The positive boxes in units of the page, not cut at its edges."""
    page_width, page_height = step.raw["size"]
    for x, y, width, height in step.raw["rects"]:
        yield (
            x / page_width,
            y / page_height,
            (x + width) / page_width,
            (y + height) / page_height,
        )


# ---- The sums ----------------------------------------------------------------------------------


def sums(rows: list[ScoredStep], split: str) -> dict:
    """Ele.Acc, Op.F1 and Step SR, macro and micro. A task's missing steps count as 0.

    n_padded: all steps, the missing ones included.
    """
    tasks = list(by(rows, lambda row: row.episode).values())
    ele_acc = macro(tasks, lambda score: score.element)
    ele_acc_micro = micro(tasks, lambda score: score.element)
    op_f1 = macro(tasks, lambda score: score.op_f1)
    op_f1_micro = micro(tasks, lambda score: score.op_f1)
    step_sr = macro(tasks, lambda score: score.correct)
    step_sr_micro = micro(tasks, lambda score: score.correct)
    return {
        "n_padded": sum(task_length(task) for task in tasks),
        "ele_acc": ele_acc,
        "ele_acc_micro": ele_acc_micro,
        "op_f1": op_f1,
        "op_f1_micro": op_f1_micro,
        "step_sr": step_sr,
        "step_sr_micro": step_sr_micro,
    }


Measure = Callable[[StepScore], float]


def macro(tasks: list[list[ScoredStep]], measure: Measure) -> float | None:
    """The mean over tasks of the task's mean."""
    return mean(task_sum(task, measure) / task_length(task) for task in tasks)


def micro(tasks: list[list[ScoredStep]], measure: Measure) -> float:
    """The mean over steps."""
    total = sum(task_sum(task, measure) for task in tasks)
    return total / sum(task_length(task) for task in tasks)


def task_sum(task: list[ScoredStep], measure: Measure) -> float:
    return sum(measure(row.score) for row in task)


def task_length(task: list[ScoredStep]) -> int:
    """The task's steps in the source, those left out included."""
    return max(len(task), task[0].episode_raw["n_steps"])


BENCHMARK = Benchmark(
    read=read,
    protocols={
        "official": Protocol(official, sums),
        "strict": Protocol(partial(official, strict=True), sums),
    },
    default_split="test_task",
)
