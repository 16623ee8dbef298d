"""AgentNet: desktop tasks with pyautogui code, from jsonl and image files to steps.

Called through catalog.py, as BENCHMARK.
It runs no code, and has no rule: the set is for training only.

Source: README of xlang-ai/OpenCUA.

    splits: train (both systems) ubuntu win_mac
"""

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from benchmarks.common import (
    BadRecord,
    Benchmark,
    Entry,
    Record,
    Report,
    Step,
    as_dict,
    get,
    named_file,
    numbers,
    on_screen,
    parse_json,
    parse_python,
    read_image,
)
from envs import Action, one_line

# Calls that point, in our words. Those we have no word for become the nearest one.
POINTERS = {
    "click": "click",
    "doubleClick": "double_click",
    "tripleClick": "double_click",
    "rightClick": "right_click",
    "middleClick": "click",
    "moveTo": "hover",
    "dragTo": "drag",
}
# What a positive and a negative amount brings into view.
SCROLLS = {"scroll": ("up", "down"), "hscroll": ("right", "left")}


# ---- The reader --------------------------------------------------------------------------------


def read(root: Path, split: str, report: Report) -> Iterator[Entry]:
    """The lines of agentnet_ubuntu*.jsonl and agentnet_win_mac*.jsonl, a task each.

    Their screenshots are in ubuntu_images/ and win_mac_images/.
    """
    if split not in ("train", "ubuntu", "win_mac"):
        known = "train (both systems), ubuntu or win_mac"
        raise ValueError(f"agentnet has no split {split!r}: {known}")
    systems = ("ubuntu", "win_mac") if split == "train" else (split,)
    for system in systems:
        images = root / f"{system}_images"
        for path in sorted(root.glob(f"agentnet_{system}*.jsonl")):
            with open(path, "rb") as file:
                for number, line in enumerate(file, 1):
                    where = f"{path.name}: line {number}"
                    yield Entry(where, partial(read_record, line, images, where))


def read_record(line: bytes, images: Path, where: str) -> Record:
    record = parse_json(line, "line")
    steps = [as_dict(step) for step in get(record, "traj", list)]
    texts = [str(as_dict(step.get("value")).get("action", "")) for step in steps]
    return Record(
        id=get(record, "task_id"),
        goal=get(record, "instruction"),
        texts=texts,
        read_step=partial(read_step, steps, images, where),
    )


def read_step(steps: list[dict], images: Path, where: str, index: int) -> list[Step]:
    """The actions of a step; none when it was judged wrong or redundant.

    Code of several calls gives several steps, which share the screenshot before the first of them.
    """
    step = steps[index]
    value = as_dict(step.get("value"))
    if value.get("last_step_correct") is False or value.get("last_step_redundant") is True:
        return []
    path = named_file(step, "image", images)
    actions = parse_pyautogui(get(value, "code"), str(value.get("action") or ""))
    screenshot = partial(read_image, path, f"{where}: step {index}")
    return [Step(screenshot, action, (), {"index": index}) for action in actions]


# ---- Code --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Call:
    """A call such as pyautogui.click(0.1, y=0.2): name "click", args [0.1], named {"y": 0.2}."""

    name: str
    args: list
    named: dict

    def values(self) -> list:
        """All arguments, those in lists one by one."""
        flat = []
        for value in [*self.args, *self.named.values()]:
            if isinstance(value, list | tuple):
                flat.extend(value)
            else:
                flat.append(value)
        return flat


def parse_pyautogui(code: str, text: str = "") -> list[Action]:
    """The actions of a step's code, which is read with ast and never run.

    `text` says what the step does and becomes the grounding text. Points are 0..1 as stored. A drag
    begins where the call before it left the pointer; one that comes first has its end alone.
    BadRecord for all but known calls with literal arguments.

    >>> parse_pyautogui("pyautogui.moveTo(0.1, 0.2)\\npyautogui.dragTo(0.5, 0.2)", "the slider")
    [Action(kind='drag', text='the slider', point=(0.1, 0.2), end=(0.5, 0.2))]
    """
    text = one_line(text)
    actions = []
    pointer = None  # where it is
    for call in read_calls(code):
        if call.name == "press":
            actions += press_keys(call)
            continue
        action = read_call(call, text)
        goes_to = action.point
        if call.name == "dragTo":
            action = Action("drag", text, pointer, end=goes_to)
            if actions and actions[-1].kind == "hover":
                actions.pop()  # it only went where the drag begins
        if goes_to is not None:
            pointer = goes_to
        actions.append(action)
    return actions


def read_calls(code: str) -> list[Call]:
    try:
        return [read_statement(statement) for statement in parse_python(code).body]
    except (SyntaxError, ValueError, AttributeError, TypeError, RecursionError, MemoryError):
        message = f"code: not a list of calls with literal arguments: {code[:60]!r}"
        raise BadRecord(message) from None


def read_statement(statement: ast.stmt) -> Call:
    """One call.

    A statement that is none lacks an attribute that is read here (AttributeError); an argument that
    is no literal is one of the other errors that read_calls expects.
    """
    call = statement.value
    args = [ast.literal_eval(value) for value in call.args]
    named = {keyword.arg: ast.literal_eval(keyword.value) for keyword in call.keywords}
    return Call(call.func.attr, args, named)


def read_call(call: Call, text: str) -> Action:
    if call.name in POINTERS:
        return read_pointer(call, text)
    if call.name in SCROLLS:
        amount = numbers(call.values()[:1], 1, "code: scroll")[0]
        positive, negative = SCROLLS[call.name]
        return Action("scroll", negative if amount < 0 else positive)
    if call.name in ("write", "typewrite"):
        message = call.args[0] if call.args else call.named.get("message")
        return Action("type", one_line(get({"message": message}, "message")))
    if call.name == "hotkey":
        return Action("key", one_line("+".join(key_names(call))))
    if call.name == "wait":
        return Action("wait")
    if call.name == "terminate":
        return Action("done" if call.values() == ["success"] else "fail")
    raise BadRecord(f"code: unknown call {call.name[:40]!r}")


def press_keys(call: Call) -> list[Action]:
    """The keys of one press come one after the other, and are no chord.

    Several presses of a key in one call are one action here.
    """
    return [Action("key", one_line(key)) for key in key_names(call)]


def key_names(call: Call) -> list[str]:
    keys = [key.lower() for key in call.values() if isinstance(key, str)]
    if not keys:
        raise BadRecord(f"code: {call.name} without a key")
    return keys


def read_pointer(call: Call, text: str) -> Action:
    order = ("x", "y", "clicks", "interval", "button")  # click's; x and y come first in all
    given = dict(zip(order, call.args, strict=False)) | call.named
    kind = POINTERS[call.name]
    if call.name == "click" and given.get("button") == "right":
        kind = "right_click"
    elif call.name == "click" and given.get("clicks") in (2, 3):
        kind = "double_click"
    x, y = numbers([given.get("x"), given.get("y")], 2, "code: x, y")
    return Action(kind, text, on_screen(x, y, 1, 1, "code: x, y"))


BENCHMARK = Benchmark(read=read, default_split="train")
