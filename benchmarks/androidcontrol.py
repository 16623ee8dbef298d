"""AndroidControl: from its gzip TFRecord shards to steps, OS-Atlas's score and one of ours.

Called through catalog.py, as BENCHMARK; read_index also by gui_scoring.py.
It needs neither TensorFlow nor protobuf, and decodes no screenshot before somebody asks for it.

Sources: README of google-research/android_control; protobuf.dev/programming-guides/encoding;
eval_scripts/android_control/evaluation_unify.py of OS-Copilot/OS-Atlas.

    splits: train validation test, and of test IDD app_unseen task_unseen category_unseen

| protocol | a step is right when the type agrees and                                              |
|----------|---------------------------------------------------------------------------------------|
| os-atlas | of a press: the point is within 14 % of the screen; of a text or app: the first word  |
|          | agrees; of all other kinds: all is equal                                              |
| box      | the same, or the point is in the smallest visible accessibility node around the       |
|          | reference (ours: no official rule)                                                    |
A pointing action without a point has its type only.
"""

import zlib
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import BinaryIO

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
    inside_any,
    mean,
    numbers,
    on_screen,
    parse_json,
    read_image,
    read_lists,
    unit_box,
)
from benchmarks.os_atlas import as_string, gold_text, near, words_f1
from envs import POINTING, Action, Box, one_line

# The official action types, in our words. "type" is an older README's name for text that is entered
# after a click: one step here too.
KINDS = {
    "click": "click",
    "long_press": "long_press",
    "input_text": "type",
    "type": "type",
    "scroll": "scroll",
    "open_app": "open_app",
    "wait": "wait",
    "navigate_back": "back",
    "navigate_home": "home",
}
# Which field of an action has the text of our kind.
TEXT_FIELDS = {"type": "text", "scroll": "direction", "open_app": "app_name"}


# ---- The reader --------------------------------------------------------------------------------


def read(root: Path, split: str, report: Report) -> Iterator[Entry]:
    """The records of all shards, in their order: nothing says which shard holds which episode."""
    splits = read_lists(root / "splits.json")
    subsplits = {}
    if (root / "test_subsplits.json").exists():
        subsplits = read_lists(root / "test_subsplits.json")
    if split not in splits and split not in subsplits:
        known = ", ".join([*splits, *subsplits])
        raise ValueError(f"{root}: no split {split!r}; there are {known}")
    wanted = set(splits[split] if split in splits else subsplits[split])
    subsplit_of = first_list_of_each(subsplits)
    for shard in sorted(root.glob("android_control-*")):
        if not shard.is_file():
            continue
        try:
            for number, payload in enumerate(read_tfrecords(shard)):
                where = f"{shard.name}: record {number}"
                yield Entry(where, partial(read_record, payload, wanted, subsplit_of, where))
        except BadRecord as error:  # what comes after it in the shard is lost
            report.skip("files", f"{shard.name}: {error}")
    if wanted:
        missing = f"{len(wanted)} episodes of split {split} are in no readable shard"
        report.note(str(root), missing)


def first_list_of_each(lists: dict[str, list]) -> dict[object, str]:
    """{id: the name of the first list that has it}."""
    names = {}
    for name, ids in lists.items():
        for ident in ids:
            names.setdefault(ident, name)
    return names


def read_record(
    payload: memoryview, wanted: set[int], subsplit_of: dict[int, str], where: str
) -> Record | None:
    """One episode, which is then no longer wanted; None when it belongs to another split."""
    features = read_example(payload)
    ident = numbers(values_at(features, "episode_id", 0), 1, "episode_id")[0]
    if ident not in wanted:
        return None
    wanted.discard(ident)
    goals = features.get("goal", [])
    actions = features.get("actions", [])
    lines = features.get("step_instructions", [])
    if not goals or not are_text(goals):
        raise BadRecord("goal: missing or not text")
    if not actions or not are_text(actions):
        raise BadRecord("actions: missing or not text")
    if not are_text(lines):
        raise BadRecord("step_instructions: not text")
    texts = [decode(line) for line in lines[: len(actions)]]
    texts += [""] * (len(actions) - len(texts))
    return Record(
        id=str(ident),
        goal=decode(goals[0]),
        texts=texts,
        read_step=partial(read_step, features, texts, where),
        raw={"subsplit": subsplit_of.get(ident)},
    )


def are_text(values: list[int | memoryview]) -> bool:
    return all(isinstance(value, memoryview) for value in values)


def decode(text: memoryview) -> str:
    return bytes(text).decode("utf-8", "replace")


def read_step(features: dict[str, list], texts: list[str], where: str, index: int) -> list[Step]:
    """step.raw: "text" as recorded, and "size" of the screen in pixels for a pointing kind."""
    action = parse_json(bytes(features["actions"][index]), "actions")
    kind = KINDS.get(get(action, "action_type"))
    if kind is None:
        raise BadRecord(f"actions: unknown action_type {action['action_type']!r}")
    picture = screenshot_bytes(features, index)
    text = ""
    if kind in TEXT_FIELDS:
        text = get(action, TEXT_FIELDS[kind])
    elif kind in POINTING:
        text = texts[index]
    raw = {"index": index, "text": text}
    point = None
    boxes = ()
    if kind in POINTING:
        raw["size"] = screen_size(features, index)
        x, y = numbers([action.get("x"), action.get("y")], 2, "actions: x, y")
        point = on_screen(x, y, *raw["size"], "actions: x, y")
        boxes = element_box(features, index, x, y, raw["size"])
    if kind == "scroll":
        text = text.lower()  # the stored direction is the content's already: nothing to flip
    screenshot = partial(read_image, picture, f"{where}: step {index}")
    return [Step(screenshot, Action(kind, one_line(text), point), boxes, raw)]


def values_at(features: dict[str, list], name: str, index: int) -> list:
    """A feature's value at one step: a list of one, or an empty one where it is missing."""
    return features.get(name, [])[index : index + 1]


def screenshot_bytes(features: dict[str, list], index: int) -> memoryview:
    for picture in values_at(features, "screenshots", index):
        if isinstance(picture, memoryview) and len(picture):
            return picture
    raise BadRecord("screenshots: missing")


def screen_size(features: dict[str, list], index: int) -> list[float]:
    """[width, height] of the screen in pixels."""
    width = values_at(features, "screenshot_widths", index)
    height = values_at(features, "screenshot_heights", index)
    return numbers(width + height, 2, "screenshot_widths, screenshot_heights")


def element_box(
    features: dict[str, list], index: int, x: float, y: float, size: list[float]
) -> tuple[Box, ...]:
    """Where a point counts as right: the smallest visible element around the recorded point."""
    for forest in values_at(features, "accessibility_trees", index):
        bounds = smallest_node(forest, x, y) if isinstance(forest, memoryview) else None
        if bounds:
            return unit_box(*bounds, *size)
    return ()


# ---- Protocol buffers --------------------------------------------------------------------------
# A message is a row of fields. A field begins with a number that says two things: which field it is
# (its upper bits) and how its value is stored (the lowest three, the wire type). There are no names
# and no nesting marks: a sub-message, a string and a packed list of numbers all look the same, and
# only the reader knows which it is. The docstrings below write a message as
# Name {field number: what is in that field}.

NUMBER, EIGHT_BYTES, LENGTH, FOUR_BYTES = 0, 1, 2, 5  # the wire types; LENGTH: a size, then bytes
FIXED_SIZES = {EIGHT_BYTES: 8, FOUR_BYTES: 4}


def varint(buffer: memoryview, at: int) -> tuple[int, int]:
    """The number that begins there, and the place after it; BadRecord where there is none.

    Seven bits a byte, the low ones first; the top bit of a byte says that more follow. Negative
    numbers come as 64-bit two's complement.
    """
    value = 0
    for shift in range(0, 70, 7):
        if at >= len(buffer):
            break
        byte = buffer[at]
        at += 1
        value |= (byte & 127) << shift
        if byte < 128:
            if value >> 63:
                value -= 1 << 64
            return value, at
    raise BadRecord("protobuf: broken number")


def fields(buffer: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    """(field number, value) of a message: an int, or the bytes of any other wire type.

    BadRecord when it is no message.
    """
    at = 0
    end = len(buffer)
    while at < end:
        key = buffer[at]
        at += 1
        if key > 127:  # most keys are one byte: a call only for the others reads 15 % more steps
            key, at = varint(buffer, at - 1)
        wire_type = key & 7
        if wire_type == NUMBER:
            value, at = varint(buffer, at)
        else:
            if wire_type == LENGTH:
                size, at = varint(buffer, at)
            else:
                size = FIXED_SIZES.get(wire_type, -1)
            if not 0 <= size <= end - at:
                raise BadRecord("protobuf: message cut short or corrupt")
            value = buffer[at : at + size]
            at += size
        yield key >> 3, value


def parts(buffer: memoryview, number: int) -> Iterator[memoryview]:
    """What one field of a message holds, each time it occurs: sub-messages, strings or lists."""
    for field, value in fields(buffer):
        if field == number and isinstance(value, memoryview):
            yield value


def read_example(payload: memoryview) -> dict[str, list]:
    """A tf.train.Example as {feature: its values}, memoryviews or ints.

    Example {1: Features {1: entry of a map {1: name, 2: Feature}}}.
    """
    values = {}
    for features in parts(payload, 1):
        for entry in parts(features, 1):
            name = decode(next(parts(entry, 1), b""))
            values[name] = feature_values(entry)
    return values


def feature_values(entry: memoryview) -> list:
    """Feature {1: BytesList {1: bytes}, 3: Int64List {1: numbers}}."""
    values = []
    for feature in parts(entry, 2):
        for bytes_list in parts(feature, 1):
            values.extend(parts(bytes_list, 1))
        for int64_list in parts(feature, 3):
            values.extend(integers(int64_list))
    return values


def integers(int64_list: memoryview) -> Iterator[int]:
    """The numbers of an Int64List, a field each or packed into one."""
    for _, value in fields(int64_list):
        if isinstance(value, int):
            yield value
            continue
        at = 0
        while at < len(value):
            number, at = varint(value, at)
            yield number


def smallest_node(forest: memoryview, x: float, y: float) -> list[int] | None:
    """[left, top, right, bottom] in pixels of the smallest visible node that contains the point.

    Edges included; of equal areas the first. Forest {1: window {11: tree {1: node}}}.
    """
    smallest = None
    smallest_area = float("inf")
    for window in parts(forest, 1):
        for tree in parts(window, 11):
            for node in parts(tree, 1):
                bounds = bounds_around(node, x, y)
                if bounds is None:
                    continue
                left, top, right, bottom = bounds
                area = (right - left) * (bottom - top)
                if 0 < area < smallest_area:
                    smallest = bounds
                    smallest_area = area
    return smallest


def bounds_around(node: memoryview, x: float, y: float) -> list[int] | None:
    """The bounds of a visible node that contains the point; None for any other node.

    Node {2: bounds {1..4: left, top, right, bottom}, 23: is it visible to the user}. Most nodes end
    at their bounds, with some 25 fields unread: that keeps the reader fast.
    """
    bounds = [0, 0, 0, 0]  # an edge of 0 is not stored
    visible = False
    for number, value in fields(node):
        if number == 2 and isinstance(value, memoryview):
            for side, edge in fields(value):
                # & 3: no field number, however odd, is an index out of range
                bounds[(side - 1) & 3] = edge if isinstance(edge, int) else 0
            left, top, right, bottom = bounds
            if not (left <= x <= right and top <= y <= bottom):
                return None
        elif number == 23:
            visible = bool(value)
    return bounds if visible else None


# ---- TFRecord ----------------------------------------------------------------------------------

MAX_RECORD = 1 << 28  # bytes; a broken length field claims anything


def read_tfrecords(path: Path) -> Iterator[memoryview]:
    """The payloads of a gzip TFRecord file; BadRecord at the first damage."""
    try:
        with open(path, "rb") as file:
            stream = Inflated(file)
            yield from payloads(stream)
            if not stream.ended_well():
                raise BadRecord("gzip: the file ends too early, or goes on after its end")
    except (OSError, zlib.error) as error:
        raise BadRecord(f"gzip: {error}") from None


def payloads(stream: "Inflated") -> Iterator[memoryview]:
    """{uint64 length, uint32 CRC, payload, uint32 CRC} again and again, little endian.

    The CRC-32C stay unread: gzip's own CRC covers the same bytes, and a second one in Python would
    cost more than all the rest.
    """
    header = stream.take(12)
    while header:
        size = int.from_bytes(header[:8], "little")
        payload = b""
        if len(header) == 12 and size <= MAX_RECORD:
            payload = stream.take(size + 4)
        if len(payload) < size + 4:
            raise BadRecord(f"TFRecord: cut short or corrupt at a record of {size:,} bytes")
        yield memoryview(payload)[:size]
        header = stream.take(12)


class Inflated:
    """A gzip file, unpacked piece by piece: twice as fast as the module gzip, which reads 8 kB."""

    def __init__(self, file: BinaryIO):
        self.file = file
        self.inflate = zlib.decompressobj(wbits=31)  # 31: gzip
        self.held = bytearray()

    def take(self, size: int) -> bytes:
        """The next `size` bytes, fewer at the end of the file."""
        while len(self.held) < size and not self.inflate.eof:
            chunk = self.inflate.unconsumed_tail or self.file.read(1 << 18)
            if not chunk:
                break
            # at most 16 MB at once: zeros pack 1000 to 1
            self.held.extend(self.inflate.decompress(chunk, 1 << 24))
        taken = bytes(self.held[:size])
        del self.held[:size]
        return taken

    def ended_well(self) -> bool:
        return self.inflate.eof and not self.inflate.unused_data


# ---- The rules ---------------------------------------------------------------------------------


def os_atlas(action: Action | None, step: Step) -> StepScore:
    """OS-Atlas's rule. Its quirk is kept: of a text only the second token of the string counts.

    So "TYPE [new york]" is right for "TYPE [new jersey]" and wrong for "TYPE [new]".
    """
    if action is None or action.kind != step.action.kind:
        return StepScore(type_match=False, correct=False)
    if action.kind in ("click", "long_press"):
        return StepScore(type_match=True, correct=near(action, step))
    ours = as_string(action, action.text)
    gold = as_string(step.action, gold_text(step))
    correct = ours == gold
    if action.kind in ("type", "open_app") and not correct:
        correct = words_f1(ours.split()[1], gold.split()[1]) > 0.5
    return StepScore(type_match=True, correct=correct)


def box(action: Action | None, step: Step) -> StepScore:
    """OS-Atlas's rule, and a point inside the element's box is right too."""
    score = os_atlas(action, step)
    if score.type_match and inside_any(action.point, step.boxes):
        return StepScore(type_match=True, correct=True)
    return score


# ---- The sums ----------------------------------------------------------------------------------


def sums(rows: list[ScoredStep], split: str) -> dict:
    """Type, grounding and step accuracy; the last also by the first sub-split of an episode.

    Grounding is right clicks / clicks of the right type; long presses do not count.
    """
    clicks = [row for row in rows if row.kind == "click" and row.score.type_match]
    type_acc = mean(row.score.type_match for row in rows)
    grounding_acc = mean(row.score.correct for row in clicks)
    step_acc = mean(row.score.correct for row in rows)
    subsplits = {}
    for name, group in by(rows, lambda row: row.episode_raw.get("subsplit")).items():
        subsplits[str(name)] = mean(row.score.correct for row in group)
    return {
        "type_acc": type_acc,
        "grounding_acc": grounding_acc,
        "step_acc": step_acc,
        "subsplits": subsplits,
    }


# ---- OS-Atlas's list of the steps that count ---------------------------------------------------

INDEX_FILE = "ac_idx.txt"  # where it lies in the data; gui_scoring.py looks for it there


def read_index(path: Path) -> set[str]:
    """The step ids in OS-Atlas's list of 7,708 lines episode_{id}_screenshot_{k}.

    ValueError in one line for anything else.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
        return {step_id(line) for line in lines if line.strip()}
    except (OSError, IndexError, UnicodeDecodeError):
        raise ValueError(f"{path}: not a list of episode_<id>_screenshot_<k>") from None


def step_id(line: str) -> str:
    """episode_12_screenshot_3 -> 12/3, as gui_scoring.Question.id has it."""
    words = line.strip().split("_")
    return f"{words[1]}/{words[3]}"


BENCHMARK = Benchmark(
    read=read,
    protocols={"os-atlas": Protocol(os_atlas, sums), "box": Protocol(box, sums)},
)
