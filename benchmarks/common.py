"""What the benchmarks share: the records that readers yield, checks of untrusted input, the engine.

Called by the readers of recorded data, by what scores them, and for its checks by what is played;
catalog.py runs its engine, read_episodes.
It knows no data set, no official rule and no model.
"""

import ast
import io
import json
import struct
import warnings
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from PIL import Image

from envs import Action, Box, Observation, Point, inside, one_line

# ---- What a reader yields ----------------------------------------------------------------------
# Pixels, the 0-1000 grid, xywh boxes and finger directions become 0..1 and content directions in
# the readers, and nowhere else.


class BadRecord(ValueError):
    """A record that cannot be used; the message names the file, the record and the field."""


@dataclass(frozen=True)
class Step:
    """One recorded step: the screen and what was done there."""

    screenshot: Callable[[], Image.Image]  # opens it; raises BadRecord where it cannot be read
    action: Action  # its text, for a pointing kind, says what is pointed at, or what is to be done
    boxes: tuple[Box, ...] = ()  # where a point counts as right, in 0..1
    # "index": the step's place in the source, from 0; besides it what an official metric needs, in
    # the source's own units
    raw: dict = field(default_factory=dict)


@dataclass(frozen=True)
class Episode:
    """A recorded trajectory.

    `raw`: "n_steps" and "texts" of the source, with the steps that were left out, and all of its
    Record's raw.
    """

    id: str
    instruction: str
    steps: tuple[Step, ...]
    raw: dict = field(default_factory=dict)


@dataclass(frozen=True)
class Record:
    """One episode as a reader found it, its steps still unread.

    `read_step(index)` gives the step of that place in the source: usually a list of one, an empty
    list for a step that is left out on purpose, several where one recorded step is several actions.
    """

    id: str
    goal: str
    texts: Sequence[str]  # what was done, a text for each step of the source: the history
    read_step: Callable[[int], list[Step]]
    raw: dict = field(default_factory=dict)  # what the sums of an official metric need


@dataclass(frozen=True)
class Entry:
    """A place in the files, and how to read its record: None when that belongs to another split."""

    where: str  # "file: record 3", the beginning of every message about it
    read: Callable[[], Record | None]


@dataclass(frozen=True)
class ReportLine:
    """One message of a report."""

    about: str  # the unit that was skipped, "episodes", "steps" or "files"; or "note"
    text: str  # where and why


@dataclass
class Report:
    """What was read and what was left out.

    Episodes and steps are counted apart, and so are damaged files, whose content nobody knows.
    `notes` counts what the release itself lacks (Mind2Web rows without screenshot) or holds in vain
    (MM-Traj's turns of prose): named, but no sign of a broken copy.
    """

    seen: Counter = field(default_factory=Counter)  # "episodes", "steps"
    bad: Counter = field(default_factory=Counter)  # "episodes", "steps", "files"
    notes: Counter = field(default_factory=Counter)
    messages: list[ReportLine] = field(default_factory=list)  # 1,000 of each unit, ten of each note

    def skip(self, unit: str, message: str) -> None:
        self.bad[unit] += 1
        if self.bad[unit] <= 1000:
            self.messages.append(ReportLine(unit, printable(message)))

    def note(self, where: str, what: str) -> None:
        self.notes[what] += 1
        if self.notes[what] <= 10:
            self.messages.append(ReportLine("note", printable(f"{where}: {what}")))

    def texts(self, about: str | None = None) -> list[str]:
        """The messages as text, all of them or those about one unit, the first one first."""
        return [message.text for message in self.messages if about in (None, message.about)]


def printable(message: str) -> str:
    """The message on one line that every terminal can show, whatever a hostile record holds."""
    words = " ".join(message.split())
    return words.encode("utf-8", "backslashreplace").decode()[:300]


# ---- What a benchmark is -----------------------------------------------------------------------


@dataclass(frozen=True)
class StepScore:
    """What an official rule says of one answer."""

    type_match: bool
    correct: bool
    element: bool = False  # Mind2Web: the point is on a right element
    op_f1: float = 0.0  # Mind2Web: F1 of operation and value


# (answer, recorded step) -> how right it is. The answer is None where there is none or it is no
# legal action.
Rule = Callable[[Action | None, Step], StepScore]


@dataclass(frozen=True)
class ScoredStep:
    """One row of an exam: a step and its score."""

    id: str  # <episode>/<index>
    episode: str
    kind: str  # of the reference action
    episode_raw: dict
    score: StepScore


def accuracies(rows: list[ScoredStep], split: str) -> dict:
    """The plainest sums: the share of steps of the right type, and of right steps."""
    type_acc = mean(row.score.type_match for row in rows)
    step_acc = mean(row.score.correct for row in rows)
    return {"type_acc": type_acc, "step_acc": step_acc}


@dataclass(frozen=True)
class Protocol:
    """An official way to score: a rule for one step, and the sums over all of them.

    The sums get all rows and the name of the split; what they give is written as it is, shares in
    0..1.
    """

    rule: Rule
    sums: Callable[[list[ScoredStep], str], dict] = accuracies


@dataclass(frozen=True)
class Benchmark:
    """All that the project knows of a recorded data set.

    `read(root, split, report)` lists the entries of a split; ValueError in one line where there is
    no such split. The first protocol is the default one; a set without any has no exam step by
    step.
    """

    read: Callable[[Path, str, Report], Iterator[Entry]]
    protocols: dict[str, Protocol] = field(default_factory=dict)
    default_split: str = "test"
    train_split: str = "train"


# ---- The engine --------------------------------------------------------------------------------


def read_episodes(entries: Iterable[Entry], root: Path, report: Report) -> Iterator[Episode]:
    """Episodes, one in memory at a time; what cannot be used goes to the report.

    A step that cannot be used is left out and the rest of its episode stays: step.raw["index"] is
    its place in the source, so that a hole shows. ValueError at the end for more than 5 % bad.
    """
    for entry in entries:
        try:
            record = entry.read()
        except (ValueError, OSError) as error:
            report.skip("episodes", f"{entry.where}: {reason(error)}")
            continue
        if record is None:
            continue
        steps = read_steps(record, entry.where, report)
        if not steps:
            continue
        report.seen.update(episodes=1, steps=len(steps))
        texts = tuple(one_line(text) for text in record.texts)
        raw = {"n_steps": len(texts), "texts": texts, **record.raw}
        yield Episode(record.id, record.goal, tuple(steps), raw)
    refuse_too_many_bad(root, report)


def read_steps(record: Record, where: str, report: Report) -> list[Step]:
    steps = []
    for index in range(len(record.texts)):
        try:
            steps += record.read_step(index)
        except (ValueError, OSError) as error:  # BadRecord, Action's own, an impossible file name
            report.skip("steps", f"{where}: step {index}: {error}")
    return steps


def refuse_too_many_bad(root: Path, report: Report) -> None:
    for unit in ("episodes", "steps"):
        bad = report.bad[unit]
        total = bad + report.seen[unit]
        if bad > 0.05 * total:
            first = report.texts(unit)[0]
            raise ValueError(
                f"{root}: {bad} of {total} {unit} are bad (over 5 %), the first: {first}"
            )


def reason(error: Exception) -> str:
    """Why it failed; of a system's error without the path, which the message names already."""
    return getattr(error, "strerror", None) or str(error)


def observe(episode: Episode, step: Step, history: int) -> Observation:
    """What the policy sees at a recorded step.

    The history is the last `history` steps of the source as text, those left out included.
    """
    index = step.raw["index"]
    past = episode.raw["texts"][max(0, index - history) : index]
    return Observation(episode.instruction, step.screenshot, past)


# ---- Checks of untrusted input: BadRecord, where the docstring names no other error -------------


def get(record: object, name: str, kind: type = str):
    """record[name] when it is of that type; BadRecord, which names the field, otherwise."""
    value = record.get(name) if isinstance(record, dict) else None
    if isinstance(value, kind):
        return value
    if value is None:
        raise BadRecord(f"{name}: missing")
    raise BadRecord(f"{name}: not a {kind.__name__}: {str(value)[:40]}")


def as_dict(value: object) -> dict:
    """The value itself, or an empty dict in the place of anything else: its fields are missing."""
    return value if isinstance(value, dict) else {}


def parse_json(text: str | bytes, name: str):
    """json.loads with BadRecord for an error.

    RecursionError is among them: a megabyte of opening brackets must not stop the reader.
    """
    try:
        return json.loads(text)
    except (ValueError, TypeError, RecursionError) as error:
        raise BadRecord(f"{name}: not JSON ({str(error)[:80]})") from None


def parse_action(record: dict) -> Action:
    """An action in our own notation: {"action": {"kind", "text", "point": [x, y] or null, "end"}}.

    Only the kind must be there; `end`, as `point`, is where a drag ends. BadRecord, or Action's own
    ValueError.
    """
    action = get(record, "action", dict)
    text = ""
    if "text" in action:
        text = get(action, "text")
    point = parse_place(action, "point")
    end = parse_place(action, "end")
    return Action(get(action, "kind"), one_line(text), point, end)


def parse_place(action: dict, name: str) -> Point | None:
    """action[name], two numbers, where it is there and not null."""
    place = action.get(name)
    if place is None:
        return None
    return tuple(numbers(place, 2, name))


MAX_CODE = 20_000  # characters


def parse_python(code: str, mode: str = "exec") -> ast.AST:
    """The syntax tree of code that is never run; SyntaxError also for code that is too long.

    Without ast.parse's warnings about odd literals, which are about a model's text and not about
    this program.
    """
    if len(code) > MAX_CODE:
        raise SyntaxError(f"more than {MAX_CODE:,} characters")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return ast.parse(code, mode=mode)


def numbers(value: object, count: int, name: str) -> list[float]:
    """A list of `count` numbers; BadRecord for anything else."""
    if isinstance(value, list) and len(value) == count and all(map(is_number, value)):
        return value
    raise BadRecord(f"{name}: {count} numbers expected, found {str(value)[:60]}")


def is_number(value: object) -> bool:
    """Whether it is a number of a sensible size: not True, not 10**400, not nan."""
    return type(value) in (int, float) and abs(value) < 1e12


def on_screen(x: float, y: float, width: float, height: float, name: str) -> Point:
    """A point in 0..1 from one in the source's units; BadRecord outside the screen."""
    if width > 0 and height > 0 and 0 <= x <= width and 0 <= y <= height:
        return x / width, y / height
    raise BadRecord(f"{name}: ({x}, {y}) is outside the screen of {width} x {height}")


def unit_box(
    x1: float, y1: float, x2: float, y2: float, width: float, height: float
) -> tuple[Box, ...]:
    """The box in 0..1, cut at the edges, as Step.boxes wants it: alone in a tuple.

    The tuple is empty when nothing of the box is on the screen.
    """
    left = max(0.0, x1 / width)
    top = max(0.0, y1 / height)
    right = min(1.0, x2 / width)
    bottom = min(1.0, y2 / height)
    if left < right and top < bottom:
        return ((left, top, right, bottom),)
    return ()


# ---- Files of a data set -----------------------------------------------------------------------


def within(folder: Path, name: str) -> Path:
    """A file of a data set; BadRecord outside its folder: no record may reach the whole disk."""
    path = (folder / name).resolve()
    if path.is_relative_to(folder.resolve()):
        return path
    raise BadRecord(f"path {name[:80]!r} leaves the data set")


def named_file(record: object, name: str, folder: Path) -> Path:
    """The file in `folder` that record[name] names; BadRecord where there is none.

    Of a path only the last part counts: no way out of the folder.
    """
    file = Path(get(record, name)).name
    path = folder / file
    if not path.is_file():
        raise BadRecord(f"{name}: {file} is missing")
    return path


def find_file(root: Path, *names: str) -> Path:
    """The first of these files that exists; ValueError in one line where none does."""
    for name in names:
        path = root / name
        if path.is_file():
            return path
    raise ValueError(f"{root}: {names[0]} is missing")


def read_lists(path: Path) -> dict[str, list]:
    """A split file, an object of lists of ids; ValueError in one line when it is not that."""
    try:
        content = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise ValueError(f"{path}: {reason(error)}") from None
    if isinstance(content, dict) and all(map(is_list_of_ids, content.values())):
        return content
    raise ValueError(f"{path}: an object of lists of episode ids expected")


def is_list_of_ids(value: object) -> bool:
    return isinstance(value, list) and all(type(ident) in (int, str) for ident in value)


def read_predictions(
    path: str | Path, parse: Callable[[dict], object]
) -> tuple[dict[str, object], list[str]]:
    """{id: parse(line)} from JSON lines with an "id", and the faults as "file:line: why".

    A line with an id that cannot be parsed counts as a wrong answer (None); of two lines with one
    id the first counts. ValueError when the file cannot be read.
    """
    answers, faults = {}, []
    try:
        with open(path, "rb") as file:
            for number, line in enumerate(file, 1):
                try:
                    read_prediction(line, parse, answers)
                except ValueError as error:  # BadRecord, or Action's own
                    faults.append(f"{path}:{number}: {error}")
    except OSError as error:
        raise ValueError(f"{path}: {error.strerror}") from None
    return answers, faults


def read_prediction(line: bytes, parse: Callable[[dict], object], answers: dict) -> None:
    """Put one line's answer into `answers`: None first, which stays where it cannot be parsed."""
    record = parse_json(line, "line")
    if isinstance(record, dict) and type(record.get("id")) is int:
        ident = str(record["id"])
    else:
        ident = get(record, "id")
    if ident in answers:
        raise BadRecord(f"id: {ident} is there twice")
    answers[ident] = None
    answers[ident] = parse(record)


# ---- Screenshots -------------------------------------------------------------------------------

# A Mind2Web page has up to about 22 million; 50 million are 150 MB as RGB, which a laptop can hold.
MAX_PIXELS = 50_000_000

# All that Pillow has been seen to raise for damaged files.
DAMAGE = (
    OSError,
    ValueError,
    SyntaxError,
    EOFError,
    struct.error,
    zlib.error,
    Image.DecompressionBombError,
)


def read_image(source: bytes | memoryview | Path, where: str = "") -> Image.Image:
    """The image as RGB; BadRecord for a damaged or too large one, or none of PNG, JPEG, WebP."""
    try:
        with open_image(source) as image:
            image.load()
            return image if image.mode == "RGB" else image.convert("RGB")
    except DAMAGE as error:
        raise bad_screenshot(error, where) from None


def image_size(source: bytes | memoryview | Path, where: str = "") -> tuple[int, int]:
    """Width and height in pixels, from the header alone; BadRecord as read_image."""
    try:
        with open_image(source) as image:
            return image.size
    except DAMAGE as error:
        raise bad_screenshot(error, where) from None


def open_image(source: bytes | memoryview | Path) -> Image.Image:
    """An image of which only the header was read: its size decides before any pixel is decoded."""
    file = source if isinstance(source, Path) else io.BytesIO(source)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # our limit is stricter
        image = Image.open(file, formats=("PNG", "JPEG", "WEBP"))
    if image.width * image.height > MAX_PIXELS:
        image.close()
        size = f"{image.width}x{image.height}"
        raise BadRecord(f"{size} is more than {MAX_PIXELS:,} pixels")
    return image


def bad_screenshot(error: Exception, where: str) -> BadRecord:
    message = f"screenshot: {error}"
    return BadRecord(f"{where}: {message}" if where else message)


# ---- What several official rules and sums share ------------------------------------------------


def inside_any(point: Point | None, boxes: Iterable[Box]) -> bool:
    """Whether the point is in one of the boxes, edges included.

    Boxes are 1e-9 wider on each side: the division by the screen's size may have moved the edge.
    """
    if point is None:
        return False
    for x1, y1, x2, y2 in boxes:
        if inside(point, (x1 - 1e-9, y1 - 1e-9, x2 + 1e-9, y2 + 1e-9)):
            return True
    return False


def set_f1(ours: set[str], theirs: set[str]) -> float:
    """F1 of two sets of tokens, 0 when they share none.

    Rounded as the official scripts round, by the same order of operations: it matters at 0.5.
    """
    shared = ours & theirs
    if not shared:
        return 0.0
    precision = len(shared) / len(ours)
    recall = len(shared) / len(theirs)
    return 2 * (precision * recall) / (precision + recall)


def mean(values: Iterable[float]) -> float | None:
    """The mean, None of nothing."""
    values = list(values)
    return sum(values) / len(values) if values else None


def by(items: Iterable, key: Callable) -> dict[object, list]:
    """Items that have the same key, together, in order of appearance."""
    groups = {}
    for item in items:
        groups.setdefault(key(item), []).append(item)
    return groups
