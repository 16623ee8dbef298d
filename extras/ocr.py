"""A frozen tool agent that reads: the words of a step -> where they stand on the screenshot.

Called by extras/vlm_tool_agent.py for --tool_agent ocr, by benchmarks/toolbox.py for its OCR tool
and by extras/ocr_check.py, which measures it. It needs rapidocr and onnxruntime; their weights come
with the package.
It knows nothing that has no words on it, neither learns nor executes, and uses no network.
"""

import dataclasses
import hashlib
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks.gui_odyssey import edit_distance
from envs import POINTING, Action, Box, Example, Point, ToolAgent, centre, split_drag
from rewards import FILLER, naming_words, words_of

# ---- what was read ------------------------------------------------------------------------------


@dataclass(frozen=True)
class Word:
    text: str
    box: Box


@dataclass(frozen=True)
class Line:
    """A line of text, as it was read and as its words."""

    text: str
    words: tuple[Word, ...]


Reading = tuple[Line, ...]  # from the top of a picture to its bottom

# Letters and digits that belong together. An icon is often read as a sign of another script or in a
# circle, and glued to its label: "口Dark" is two words, "①Offer" and "☑Dark" are one.
EAST_ASIAN = "\u2e80-\ud7ff"
WORD = re.compile(rf"[{EAST_ASIAN}]+|[^\W_\u2460-\u24ff{EAST_ASIAN}]+")


def make_line(text: str, boxes: Sequence[Box]) -> Line:
    """A line from its text and a box for each character that is no space."""
    words = []
    for found in WORD.finditer(text):
        before = len("".join(text[: found.start()].split()))
        box = around(boxes[before : before + len(found.group())])
        words.append(Word(found.group(), box))
    return Line(text.strip(), tuple(words))


def around(boxes: Sequence[Box]) -> Box:
    """The smallest box that holds them all."""
    lefts, tops, rights, bottoms = zip(*boxes, strict=True)
    return min(lefts), min(tops), max(rights), max(bottoms)


# ---- reading ------------------------------------------------------------------------------------

INSTALL = "pip install rapidocr==3.10.0 onnxruntime==1.32.0"
DETECTOR = "PP-OCRv6_det_small.onnx"
RECOGNISER = "PP-OCRv6_rec_small.onnx"
# px: the detector sees a picture with a shorter side enlarged to it. With 320 the labels of the toy
# are found at every scale; 736, its own default, finds no more and takes 0.24 s more a toy screen.
DETECTOR_SIDE = 320
# px: the recogniser fills short lines up to it; its own 320 takes 0.30 s a toy screen, this 0.15.
LINE_WIDTH = 96
HUGE = 2000  # px: a longer side is made as short as this (the engine would do it by itself)
MAX_READINGS = 10_000  # remembered; one of a toy screen takes 2 kB, one of a phone's about 20


class Reader:
    """Reads pictures, each of them once: G forecasts and several exams ask about one screen."""

    def __init__(self):
        """Raises ValueError with a line that says what to install."""
        self.engine = load_engine()
        self.readings: dict[bytes, Reading] = {}  # the last MAX_READINGS, by the pixels

    def read(self, picture: Image.Image) -> Reading:
        picture = picture.convert("RGB")
        key = fingerprint(picture)
        if key in self.readings:
            reading = self.readings.pop(key)
        else:
            reading = recognise(self.engine, picture)
        self.readings[key] = reading  # the last in order: the first is forgotten first
        if len(self.readings) > MAX_READINGS:
            del self.readings[next(iter(self.readings))]
        return reading


@cache
def load_reader() -> Reader:
    """The one reader of this process: training, its exams and the toolbox share what was read."""
    return Reader()


def load_engine() -> Callable:
    """The OCR engine, on one thread and silent. ValueError where it is not installed.

    It is told where its weights are: left to look for them itself, it would download them.
    """
    try:
        import onnxruntime  # noqa: F401  (rapidocr asks for it only at the first picture)
        import rapidocr
    except ImportError:
        raise ValueError(f"OCR needs rapidocr: {INSTALL}") from None
    weights = Path(rapidocr.__file__).parent / "models"
    for name in (DETECTOR, RECOGNISER):
        if not (weights / name).is_file():
            raise ValueError(f"OCR needs the rapidocr that brings {name}: {INSTALL}")
    settings = {
        "Global.log_level": "critical",
        "Global.use_cls": False,  # screens are not upside down
        "Global.return_word_box": True,
        "Global.return_single_char_box": True,
        "EngineConfig.onnxruntime.intra_op_num_threads": 1,
        "Det.model_path": str(weights / DETECTOR),
        "Det.limit_type": "min",
        "Det.limit_side_len": DETECTOR_SIDE,
        "Rec.model_path": str(weights / RECOGNISER),
        "Rec.rec_img_shape": [3, 48, LINE_WIDTH],
    }
    return rapidocr.RapidOCR(params=settings)


def fingerprint(picture: Image.Image) -> bytes:
    pixels = hashlib.sha256(picture.tobytes())
    pixels.update(str(picture.size).encode())
    return pixels.digest()


def recognise(engine: Callable, picture: Image.Image) -> Reading:
    """All lines of an RGB picture. A small one is enlarged by the engine itself."""
    picture = picture.copy()
    picture.thumbnail((HUGE, HUGE))
    blue_first = np.asarray(picture)[:, :, ::-1]
    result = engine(np.ascontiguousarray(fill_up(blue_first)))
    if result.txts is None:
        return ()
    lines = []
    for text, characters in zip(result.txts, result.word_results, strict=True):
        boxes = [to_box(corners, picture.size) for _character, _score, corners in characters]
        lines.append(make_line(text, boxes))
    return tuple(lines)


def fill_up(pixels: np.ndarray) -> np.ndarray:
    """A narrow picture, [height, width, 3], continued beyond its right or lower edge.

    The engine enlarges a picture until its shorter side suits the detector: one of 1 x 1000 px took
    10 GB.
    """
    height, width, _colours = pixels.shape
    below = max(0, width // 4 - height)
    beside = max(0, height // 4 - width)
    return np.pad(pixels, ((0, below), (0, beside), (0, 0)), mode="edge")


def to_box(corners: Sequence[Sequence[float]], size: tuple[int, int]) -> Box:
    """The box around corners in px, as shares of the picture."""
    width, height = size
    xs = [share_of(x, width) for x, _y in corners]
    ys = [share_of(y, height) for _x, y in corners]
    return min(xs), min(ys), max(xs), max(ys)


def share_of(px: float, side: int) -> float:
    """The engine's boxes may reach a px beyond the picture, and into what fill_up has added."""
    return min(max(px / side, 0.0), 1.0)


# ---- matching -----------------------------------------------------------------------------------

# Words are the same if more than this share of their letters is: a letter that is wrong, missing or
# too many is let pass from six letters on, so that "Saved" is not taken for "Save".
SIMILAR = 0.8
# After lower(), i and 1 become l, and 0 becomes o: no reader tells I, l, 1 or O, 0 apart.
LOOK_ALIKE = str.maketrans("i10", "llo")
# What a check box or a round button is read as, and now and then glued to its label: "IMute".
ICON_LETTERS = "OoIl10"
BEHIND_AN_ICON = 0.9  # the similarity of such a label: below that of the same words elsewhere
MAX_NAMES = 12  # words of a text that are tried in all ways; a longer one is no label


@dataclass(frozen=True)
class Match:
    """Some neighbouring words of a line that may be what a step means."""

    words: tuple[Word, ...]
    similarity: float  # of the letters, 0..1
    answered: int  # how many words of the step they stand for
    alone: bool  # their line says nothing else: a label, and no word of a sentence
    literal: bool  # letter by letter what the step says

    @property
    def rank(self) -> tuple:
        """The higher the better; matches of one rank in two places are alike."""
        return self.similarity, self.answered, self.alone, self.literal


def find_words(text: str, reading: Reading) -> Point | None:
    """The centre of the words on the screen that a step's text names, in 0..1.

    None where nothing on the screen is similar enough, or where two places are alike.

    >>> save = make_line("O Save", [(0, 0, 0.1, 0.2), *[(0.2, 0, 0.6, 0.2)] * 4])
    >>> find_words("click the save button", (save,)), find_words("Send", (save,))
    ((0.4, 0.1), None)
    """
    matches = []
    for name in names_in(text):
        for line in reading:
            matches.extend(matches_in(line, name))
    if not matches:
        return None
    best = max(matches, key=lambda match: match.rank)
    for other in matches:
        elsewhere = not set(other.words) & set(best.words)
        if elsewhere and other.rank == best.rank:
            return None
    return centre(around([word.box for word in best.words]))


def names_in(text: str) -> list[tuple[str, ...]]:
    """What a step's text may call the element: its words, with more and more fillers left out.

    >>> names_in("the Save button")
    [('the', 'save', 'button'), ('save',), ('the', 'save'), ('save', 'button')]
    """
    words = words_of(text)
    names = [tuple(words), tuple(naming_words(text))]
    if len(words) <= MAX_NAMES:
        needed = set(words) - FILLER
        for first in range(len(words)):
            for last in range(len(words), first, -1):
                part = words[first:last]
                if needed <= set(part):
                    names.append(tuple(part))
    return [name for name in dict.fromkeys(names) if name]


def matches_in(line: Line, name: tuple[str, ...]) -> Iterator[Match]:
    """The neighbouring words of a line that are similar to a name.

    Spaces do not count: the reader now and then makes one ("Me mo").
    """
    wanted = "".join(name)
    for first in range(len(line.words)):
        read = ""
        for last in range(first, len(line.words)):
            read += line.words[last].text
            if len(read) > 2 * len(wanted):
                break
            similarity = letter_similarity(read, wanted)
            if similarity > SIMILAR:
                yield Match(
                    words=line.words[first : last + 1],
                    similarity=similarity,
                    answered=len(name),
                    alone=is_label(line, first, last),
                    literal=read.lower() == wanted,
                )


def is_label(line: Line, first: int, last: int) -> bool:
    """Whether these words are all that their line says, but for what its icon is read as.

    "Submit." is no label, but the end of a sentence.
    """
    if line.text.endswith((".", ",", ";")):
        return False
    if last + 1 < len(line.words):
        return False
    return all(len(word.text) == 1 for word in line.words[:first])


def letter_similarity(read: str, wanted: str) -> float:
    """1 for the same letters, up to case and look-alikes; less by the share that is not.

    Digits have to be the same: an item 12 is no item 13.

    >>> letter_similarity("AppIy", "apply"), letter_similarity("Saved", "save")
    (1.0, 0.8)
    >>> letter_similarity("IMute", "mute"), letter_similarity("textbox2", "textbox1")
    (0.9, 0.0)
    """
    letters = fold(read)
    meant = fold(wanted)
    if letters == meant:
        return 1.0
    behind_an_icon = letters[1:] == meant and read[0] in ICON_LETTERS
    # Before a digit it would be another number: "112" is no 12.
    if behind_an_icon and len(meant) > 1 and not wanted[0].isdecimal():
        return BEHIND_AN_ICON
    if digits_of(read) != digits_of(wanted):
        return 0.0
    shorter, longer = sorted((len(letters), len(meant)))
    if shorter < longer * SIMILAR:
        return 0.0  # too unlike to be compared letter by letter
    return 1 - edit_distance(letters, meant) / longer


def digits_of(text: str) -> list[str]:
    return [character for character in text if character.isdecimal()]


def fold(text: str) -> str:
    return text.lower().translate(LOOK_ALIKE)


# ---- the tool agent -----------------------------------------------------------------------------


def ocr_tool_agent(read: Callable[[Image.Image], Reading]) -> ToolAgent:
    """A reader as the tool agent: each action with the point where its words stand.

    None where they stand nowhere or in two places. Of a drag, "Box to Bin", both ends are looked
    for; it is refused where the first is not found, and has no `end` where the second is not.
    Actions that need no point pass. DEPARTURE: so do those that bring one along.
    """

    def execute(actions: Sequence[Action], examples: Sequence[Example]) -> list[Action | None]:
        readings = {}  # by screenshot: a group's forecasts are about one, which is opened once
        executed = []
        for action, example in zip(actions, examples, strict=True):
            if not lacks_point(action):
                executed.append(action)
                continue
            screenshot = example.observation.screenshot
            if screenshot not in readings:
                readings[screenshot] = read(screenshot())
            executed.append(find_action(action, readings[screenshot]))
        return executed

    return execute


def find_action(action: Action, reading: Reading) -> Action | None:
    """A pointing action with what it points at, or None."""
    if action.kind != "drag":
        return with_point(action, find_words(action.text, reading))
    dragged, goal = split_drag(action.text, [line.text for line in reading])
    return with_point(action, find_words(dragged, reading), end=find_words(goal, reading))


def lacks_point(action: Action) -> bool:
    return action.kind in POINTING and action.point is None


def with_point(action: Action, point: Point | None, end: Point | None = None) -> Action | None:
    """The action there, a drag to that end; a refusal where no point was found."""
    if point is None:
        return None
    return dataclasses.replace(action, point=point, end=end)
