"""MM-Traj (T3-Agent; PengxiangLi/MAT), trajectories of an agent that calls tools in code.

Called through catalog.py, as BENCHMARK; the data are for training, so there is no rule.
It runs none of the code: the calls are read from its syntax tree.
"""

import ast
import json
import re
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
    get,
    parse_python,
    reason,
    within,
)
from benchmarks.toolbox import Call, Turn, call_text, tool_record
from envs import Action, one_line

TOOL_ARGUMENTS = {  # name of a known tool -> its arguments by position
    "visualizer": ("question", "image_path"),
    "facedetection": ("image_path",),
    "objectlocation": ("object", "image_path"),
    "segmentation": ("image_path", "prompt"),
    "image_generator": ("prompt",),
    "image_edit": ("prompt", "image_path"),
    "inspect_file_as_text": ("file_path", "question"),
    "ask_search_agent": ("query",),
    "final_answer": ("answer",),
}

SEEN = 300  # characters of what code printed that a history shows, as in gta.py

BETWEEN_ITEMS = re.compile(r"[\s,]*")


def read(root: Path, split: str, report: Report) -> Iterator[Entry]:
    """ROOT/*.json, each a list of trajectories, and the images below ROOT."""
    files = sorted(root.glob("*.json"))
    if split != "train" or not files:
        raise ValueError(f"{root}: mmtraj has the split train alone, in *.json")
    for file in files:
        try:
            for number, item in enumerate(list_items(file.read_bytes())):
                where = f"{file.name}: record {number}"
                yield Entry(where, partial(read_record, item, root, where, report))
        except (BadRecord, OSError) as error:  # what comes after it in the file is lost
            report.skip("files", f"{file.name}: {reason(error)}")


def list_items(content: bytes) -> Iterator[object]:
    """The items of a JSON list one by one; BadRecord at the first damage.

    One by one, because a file may be cut off: one of the release is, inside its 95th record.
    """
    text = content.decode("utf-8-sig", "replace")
    decoder = json.JSONDecoder()
    at = next_mark(text, 0)
    if text[at : at + 1] != "[":
        raise BadRecord("a list of records is expected")
    at = next_mark(text, at + 1)
    while text[at : at + 1] != "]":
        try:
            item, at = decoder.raw_decode(text, at)
        except (ValueError, RecursionError) as error:
            raise BadRecord(f"not JSON, or cut off ({str(error)[:80]})") from None
        yield item
        at = next_mark(text, at)


def next_mark(text: str, at: int) -> int:
    """The place of the next character that is neither blank nor a comma."""
    return BETWEEN_ITEMS.match(text, at).end()


# ---- a record ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class Message:
    role: str  # "system", "user" (the question, and what the code printed) or "assistant"
    content: str


NOBODY = Message("", "")


def read_record(item: dict, folder: Path, where: str, report: Report) -> Record:
    """A trajectory in MiniCPM form (role, content) or Qwen-VL form (from, value).

    A call of a known tool is a step, other code the call python {"code": ...}; final_answer is the
    step `answer` and the end. step.raw: code and observation of its turn; of a call also name and
    arguments.
    """
    messages = read_messages(get(item, "conversations", list))
    name = first_image(item)
    picture = None if name is None else within(folder, name)
    turns = read_turns(messages, item.get("answer"), where, report)
    return tool_record(
        ident=get(item, "id"),
        goal=question(messages),
        picture=picture,
        where=where,
        turns=turns,
        raw={"answer": item.get("answer")},
    )


def read_messages(conversation: list) -> list[Message]:
    messages = []
    for turn in conversation:
        if isinstance(turn, dict):
            # Qwen-VL's names become MiniCPM's; a turn that has MiniCPM's keeps them.
            minicpm_form = {"role": turn.get("from"), "content": turn.get("value")} | turn
            messages.append(Message(get(minicpm_form, "role"), get(minicpm_form, "content")))
    return messages


def first_image(item: dict) -> str | None:
    """The name in `image`: a text, or the first of a dict; None where there is none."""
    images = item.get("image")
    if not images:
        return None
    if isinstance(images, str):
        return images
    names = list(get(item, "image", dict).values())
    return str(names[0])


def question(messages: list[Message]) -> str:
    """The first thing that the user says, without marks of pictures."""
    for message in messages:
        if message.role == "user":
            text = re.sub(r"<image(_\d+)?>|Picture \d+: <img>.*?</img>", "", message.content)
            return text.strip().removeprefix("Task:").strip()
    return ""


def read_turns(messages: list[Message], answer: object, where: str, report: Report) -> list[Turn]:
    """The calls in the assistant's code, up to final_answer; `answer` is the record's own.

    A turn of prose is left out, and leaves no hole in the indices: nothing was done in it, the
    environment complained, and the agent went on.
    """
    turns = []
    for message, reply in zip(messages, [*messages[1:], NOBODY], strict=True):
        if message.role != "assistant":
            continue
        block = re.search(r"```(?:py|python)?\s*\n(.*?)```", message.content, re.DOTALL)
        if not block:
            report.note(where, "an assistant's turn without a code block is left out")
            continue
        code = block.group(1)
        raw = {"code": code, "observation": reply.content}
        for call in code_calls(code):
            if call.name == "final_answer":
                said = final_answer(call, answer)
                turns.append(Turn(Action("answer", one_line(str(said))), raw=raw))
                return turns
            action = Action("call", call_text(call.name, call.arguments))
            raw_of_call = raw | {"name": call.name, "arguments": call.arguments}
            turns.append(Turn(action, reply.content[:SEEN], raw_of_call))
    raise BadRecord("conversations: final_answer is never called")


def final_answer(call: Call, on_record: object) -> object:
    """What final_answer was given; of a variable the value is on record."""
    given = call.arguments.get("answer")
    if given is None or isinstance(given, dict):
        return on_record
    return given


# ---- calls in code ----------------------------------------------------------------------------


def code_calls(code: str) -> list[Call]:
    """The calls of known tools in a code block, inner ones first; python {"code"} if there is none.

    The code is parsed and never run; an argument that is no literal becomes {"code": its source}.
    BadRecord: not Python, or too long.
    """
    try:
        calls = [read_node(node) for node in known_calls(parse_python(code))]
    except (SyntaxError, ValueError, MemoryError, RecursionError):
        raise BadRecord("the code block is not Python") from None
    if not calls:
        return [Call("python", {"code": code})]
    return calls


def known_calls(tree: ast.AST) -> list[ast.Call]:
    """Calls of known tools by where they end: an inner call ends before the outer one."""
    nodes = [node for node in ast.walk(tree) if is_known_call(node)]
    return sorted(nodes, key=lambda node: (node.end_lineno, node.end_col_offset))


def is_known_call(node: ast.AST) -> bool:
    if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Name):
        return False
    return node.func.id in TOOL_ARGUMENTS


def read_node(node: ast.Call) -> Call:
    name = node.func.id
    arguments = {}
    for argument, value in zip(TOOL_ARGUMENTS[name], node.args, strict=False):
        arguments[argument] = literal(value)
    for keyword in node.keywords:
        if keyword.arg:  # not **more
            arguments[keyword.arg] = literal(keyword.value)
    return Call(name, arguments)


def literal(node: ast.AST) -> object:
    try:
        return ast.literal_eval(node)
    except (ValueError, TypeError):
        return {"code": ast.unparse(node)}


BENCHMARK = Benchmark(read=read, default_split="train")
