"""envs.py: the world. What an agent can do, what it sees, and who carries it out.

From top to bottom: the action table and the one coordinate frame; the records (Observation, Example, Step, Episode) that
every other script passes on; the toy GUI with its tasks, its oracle and its splits; the frozen tool agent.

`python envs.py` draws an oracle episode as a film strip.
"""

import ast
import copy
import hashlib
import io
import itertools
import json
import math
import random
import struct
import sys
import warnings
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import cache, lru_cache, partial
from pathlib import Path
from typing import NoReturn

from PIL import Image, ImageDraw, ImageFont

# ----------------------------------------------------------------------------------------------------------------------
# Actions. One frame everywhere inside: points are floats in 0..1, x to the right, y down, origin top left.
# ----------------------------------------------------------------------------------------------------------------------

Point = tuple[float, float]
Box = tuple[float, float, float, float]  # x1, y1, x2, y2 in the same frame

# kind -> what its text says
KINDS = {
    "click": "the element", "double_click": "the element", "right_click": "the element", "long_press": "the element",
    "hover": "the element", "drag": "the element", "select": "the option",
    "type": "the text to enter", "scroll": "up, down, left or right: the side whose content comes into view",
    "key": "key names joined by +, such as ctrl+c or enter", "open_app": "the app's name",
    "back": "", "home": "", "recent": "", "wait": "",
    "call": "a tool's name and its arguments", "answer": "the answer; ends the episode",
    "done": "ends the episode: finished", "fail": "ends the episode: cannot be done",
}
POINTING = frozenset({"click", "double_click", "right_click", "long_press", "hover", "drag", "select"})
TERMINAL = frozenset({"answer", "done", "fail"})
DIRECTIONS = frozenset({"up", "down", "left", "right"})
MAX_TEXT = 500


def die(message: str) -> NoReturn:
    """A user's mistake: one line, exit code 2, never a stack trace."""
    print(f"error: {message}", file=sys.stderr)
    raise SystemExit(2)


class BadRecord(ValueError):
    """A record of a data set that cannot be used; the message names the file, the record and the field."""


@dataclass(frozen=True)
class Action:
    """One operation. `text` is a single line; `point`, where there is one, lies in 0..1.

    Raises ValueError for an unknown kind, a text that is too long or not one line, a scroll without a direction, or a
    point that is not two finite numbers in 0..1: nothing that is not a legal action can exist.
    """

    kind: str
    text: str = ""
    point: Point | None = None

    def __post_init__(self):
        if self.kind not in KINDS:
            raise ValueError(f"unknown action kind {self.kind[:40]!r}")
        if not isinstance(self.text, str) or len(self.text) > MAX_TEXT or "\n" in self.text or "\r" in self.text:
            raise ValueError(f"the text of {self.kind} must be one line of at most {MAX_TEXT} characters")
        if self.kind == "scroll" and self.text not in DIRECTIONS:
            raise ValueError(f"scroll {self.text[:40]!r}: the direction must be one of {', '.join(sorted(DIRECTIONS))}")
        numbers = self.point is None or (len(self.point) == 2 and all(isinstance(v, int | float) for v in self.point))
        if not numbers or (self.point is not None and not all(0.0 <= v <= 1.0 for v in self.point)):  # nan is not inside either
            raise ValueError(f"point {self.point} is not inside 0..1")

    def __str__(self) -> str:
        return f"{self.kind} {self.text}".strip()


def inside(point: Point, box: Box) -> bool:
    """Whether a point lies in a box, edges included."""
    return box[0] <= point[0] <= box[2] and box[1] <= point[1] <= box[3]


def centre(box: Box) -> Point:
    return (box[0] + box[2]) / 2, (box[1] + box[3]) / 2


# ----------------------------------------------------------------------------------------------------------------------
# Records
# ----------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Observation:
    """What the policy sees. `screenshot` is a function, so that an image is opened only where it is needed; `history`
    holds the last steps as text, oldest first; `plan` is what was left of the last forecast (only --carry_forecast)."""

    instruction: str
    screenshot: Callable[[], Image.Image]
    history: tuple[str, ...] = ()
    plan: tuple[Action, ...] = ()


@dataclass(frozen=True)
class Example:
    """An observation with the reference actions from here on (of the oracle, or of the recorded trajectory).

    `boxes`: where a point counts as right for the first reference action (empty: compare texts).
    `elements`: what a frozen tool agent can find on this screen, label -> box; `key` makes its mistakes repeatable.
    """

    observation: Observation
    reference: tuple[Action, ...]
    boxes: tuple[Box, ...] = ()
    elements: tuple[tuple[str, Box], ...] = ()
    key: str = ""


@dataclass(frozen=True)
class Step:
    """One recorded step: the screen and what was done there. `action.text` of a pointing kind is the step instruction;
    `boxes` are where a point counts as right; `raw` keeps what an official metric needs, in the source's own units."""

    screenshot: Callable[[], Image.Image]
    action: Action
    boxes: tuple[Box, ...] = ()
    raw: dict = field(default_factory=dict)


@dataclass(frozen=True)
class Episode:
    """A recorded trajectory."""

    id: str
    instruction: str
    steps: tuple[Step, ...]
    raw: dict = field(default_factory=dict)


# ----------------------------------------------------------------------------------------------------------------------
# The toy GUI: settings apps with pages, check boxes, text fields, menus, dialogs and a commit button
# ----------------------------------------------------------------------------------------------------------------------
# A screen is 8 x 6 cells of 16 x 16 px (times `scale`). Every icon and every word begins in a cell of its own, and no
# word is wider than three cells: a vision tower with 16 px patches can then learn to read with one word per patch.

CELL, COLS, ROWS, BODY = 16, 8, 6, 3  # BODY: rows of a page that fit on the screen
PAGES = ("Settings|Options", "Account|Profile", "Sound|Audio", "Display|Screen", "Privacy|Security", "Network|Wifi")
CHECKS = ("Beep|Tone", "Dark|Night", "Sync|Mirror", "Backup|Archive", "Places|Location", "Updates|Patches", "Logs|Records", "Mute|Silence")
FIELDS = ("Name|Title", "City|Town", "Phone|Mobile", "Memo|Remark")
# Each thing has two names: screens show the first, instructions use the second half of the time.
VALUES = ("amber", "birch", "coral", "delta", "ember", "flint", "grove", "haven")
COMMITS = ("Save", "Apply", "Send", "Submit", "Confirm")
POPUPS = ("Rate", "Upgrade", "Offer", "Survey")
DISMISS = ("Later", "Skip", "Close", "Cancel")
LURES = ("Install", "Accept")
ICONS = ("<blank>", "<on>", "<off>", "<tab>", "<here>", "<field>", "<cursor>", "<button>", "<link>", "<note>", "<alert>", "<more>")
OTHER = ("Menu", "More", "Saved", "Missing", "Guide", "OK")
# Every word that can stand on a screen: what the tiny model's vision tower is taught to read.
SCREEN_WORDS = tuple(w for pair in PAGES + CHECKS + FIELDS for w in pair.split("|")) + VALUES + COMMITS + POPUPS + DISMISS + LURES + OTHER

SPLITS = {"train": 0, "dev": 1, "test": 2, "layout": 3, "app": 4, "popup": 5, "flaky": 6}  # millions of seeds: no overlap
SPLIT_SIZE = 1_000_000
TRAIN_APPS, NEW_APPS = 5, 2
ALIAS_IN_INSTRUCTION = 0.5   # how often an instruction uses the name that is not on the screen
ALIAS_IN_REFERENCE = 0.5     # how often an annotator then repeats the instruction's word instead of the screen's
SLACK = 5                    # steps beyond the oracle's before an episode is truncated


@cache
def app_pages(app: int) -> tuple[tuple[str, tuple[str, ...], tuple[str, ...]], ...]:
    """The fixed make-up of one app: three pages as (page, check boxes, fields). The third is too long for the screen."""
    rng = random.Random(f"app {app}")
    pages, checks, fields = rng.sample(PAGES, 3), rng.sample(CHECKS, 8), rng.sample(FIELDS, 4)
    return ((pages[0], tuple(checks[:2]), (fields[0],)), (pages[1], tuple(checks[2:4]), (fields[1],)),
            (pages[2], tuple(checks[4:]), tuple(fields[2:])))


@dataclass(frozen=True)
class Task:
    """All that is drawn by a seed before the first step. `goals`: (page index, widget, wanted text or None for a switch).
    `shown`: concept -> name on the screen; `spoken`: concept -> name that the reference texts use."""

    seed: int
    menu: bool                                    # pages are reached through a menu instead of tabs
    pages: tuple[tuple[str, tuple, tuple], ...]   # (page, rows, offsets): rows of widgets, in this episode's order
    goals: tuple[tuple[int, str, str | None], ...]
    instruction: str
    shown: dict[str, str]
    spoken: dict[str, str]
    start: dict[str, str | bool]                  # widget -> what it holds at the start
    first_page: int
    commit: str
    code: str | None                              # shown on the first page only, needed on another one
    decoy: str | None                             # a link that bears the instruction's word and leads astray
    popups: tuple[tuple[int, str, str, str | None], ...]  # (before which step, message, dismiss label, tempting label)
    flipped: bool                                 # navigation below, content above (split `layout`)
    colours: tuple[tuple[int, int, int], ...]     # background, ink, accent


def _colours(rng: random.Random, dark: bool) -> tuple[tuple[int, int, int], ...]:
    """Light screens for training; dark ones are held out for the split `layout`."""
    paper = tuple(rng.randint(215, 255) for _ in range(3))
    ink = tuple(rng.randint(0, 70) for _ in range(3))
    accent = tuple(rng.randint(40, 190) for _ in range(3))
    if dark:
        paper, ink = tuple(255 - v for v in paper), tuple(255 - v for v in ink)
    return paper, ink, accent


def make_task(split: str, index: int) -> Task:
    """The task of one seed. Raises ValueError for an unknown split or an index outside 0..999,999."""
    if split not in SPLITS:
        raise ValueError(f"unknown split {split!r}: choose one of {', '.join(SPLITS)}")
    if not 0 <= index < SPLIT_SIZE:
        raise ValueError(f"seed {index} is outside 0..{SPLIT_SIZE - 1}")
    seed = SPLITS[split] * SPLIT_SIZE + index
    rng = random.Random(f"task {seed}")
    app = TRAIN_APPS + rng.randrange(NEW_APPS) if split == "app" else rng.randrange(TRAIN_APPS)
    shown, said, start, pages = {}, {}, {}, []
    for page, checks, fields in app_pages(app):
        widgets = [(c,) for c in fields] + list(zip(*[iter(rng.sample(checks, len(checks)))] * 2, strict=True))
        pages.append((page, tuple(rng.sample(widgets, len(widgets)))))
        start |= {c: rng.random() < 0.5 for c in checks} | {f: "" for f in fields}
        for concept in (page, *checks, *fields):
            names = concept.split("|")
            shown[concept], said[concept] = names[0], names[rng.random() < ALIAS_IN_INSTRUCTION]
    goals, code = [], None
    first_page = rng.randrange(3)
    menu = rng.random() < 0.34  # a page behind a menu costs two steps: two goals at most, so that no task exceeds 12 steps
    for page in rng.sample(range(3), rng.choice((1, 2, 2) if menu else (1, 1, 2, 2, 3))):
        widget = rng.choice([w for row in pages[page][1] for w in row])
        goals.append((page, widget, rng.choice(VALUES) if widget in FIELDS else None))
    needs_code = [i for i, (page, widget, _) in enumerate(goals) if widget in FIELDS and page != first_page]
    if needs_code and rng.random() < 0.6:
        i = rng.choice(needs_code)
        code = goals[i][2]
    words = [f"{said[pages[p][0]]}: " + (f"type {'code' if value == code else value} in {said[w]}" if value else
                                         f"switch {said[w]} {'off' if start[w] else 'on'}") for p, w, value in goals]
    # The decoy stands where a page of the task is called differently on the screen than in the instruction.
    misnamed = [pages[p][0] for p, _, _ in goals if p != first_page and said[pages[p][0]] != shown[pages[p][0]]]
    decoy_page = misnamed[0] if misnamed and rng.random() < 0.4 else None
    spoken = {c: said[c] if rng.random() < ALIAS_IN_REFERENCE and c != decoy_page else shown[c] for c in shown}
    n_popups = 2 if split == "popup" else int(rng.random() < 0.35)
    popups = tuple((step, rng.choice(POPUPS), rng.choice(DISMISS), rng.choice((None, *LURES)))
                   for step in sorted(rng.sample(range(5), n_popups)))
    return Task(seed, menu, tuple(pages), tuple(goals), "; ".join(words + ["finish"]), shown, spoken, start, first_page,
                rng.choice(COMMITS), code, said[decoy_page] if decoy_page else None, popups, split == "layout",
                _colours(rng, split == "layout"))


@dataclass(frozen=True)
class Element:
    """Something on the screen that has a name. `role` says what a click on it does, `target` to what."""

    label: str
    icon: str
    role: str
    target: str | int
    cell: tuple[int, int]     # column and row of the icon; the label begins one column further
    width: int = 4            # in cells


class ToyGUI:
    """The toy GUI, in the shape of gymnasium's environments.

    reset(seed) -> (Observation, info); step(action) -> (Observation, reward, terminated, truncated, info).
    reward is 1.0 on the step that ends a solved task and 0.0 otherwise. info: "result" is "ok", "failed" (the tool agent
    found nothing: step(None)) or "impossible" (nothing happens there), "success", "steps", "oracle_steps".
    A task is solved when every widget holds what the instruction asks for and nothing else was changed, the commit
    button was pressed after that, and the agent said `done`. Same split and seed: same task and same pixels.

    >>> env = ToyGUI("test"); observation, info = env.reset(0)
    >>> env.step(env.oracle(1)[0])[4]["result"]
    'ok'
    """

    def __init__(self, split: str = "train", scale: int = 1, history: int = 4):
        if split not in SPLITS:
            raise ValueError(f"unknown split {split!r}: choose one of {', '.join(SPLITS)}")
        if scale < 1 or history < 0:
            raise ValueError(f"scale {scale} must be at least 1 and history {history} at least 0")
        self.split, self.scale, self.keep = split, scale, history

    def reset(self, seed: int) -> tuple[Observation, dict]:
        self.task = make_task(self.split, seed)
        self.page, self.offset, self.overlay, self.focus = self.task.first_page, 0, None, None
        self.values = dict(self.task.start)
        self.wanted = {w: held for w, held in self.task.start.items() if w in CHECKS}  # fields that no goal names are free
        self.wanted |= {w: value if value else not self.task.start[w] for _, w, value in self.task.goals}
        self.committed, self.steps, self.past, self.popups = False, 0, [], list(self.task.popups)
        self.oracle_steps = len(self.oracle(60))
        self.max_steps = self.oracle_steps + SLACK + 2 * len(self.popups)
        self._interrupt()
        return self.observe(), {"oracle_steps": self.oracle_steps}

    # ---- what is on the screen ---------------------------------------------------------------------------------------

    def elements(self) -> list[Element]:
        """Everything with a name that is on the screen and not hidden below a dialog."""
        t, top, body, bottom = self.task, 0, 2, 5
        if t.flipped:
            top, body, bottom = 4, 1, 0
        if self.overlay and self.overlay[0] == "guide":
            return [Element("Guide", "<alert>", "none", "", (2, 3))]
        if self.overlay and self.overlay[0] == "dialog":
            _, message, dismiss, lure = self.overlay
            found = [Element(message, "<alert>", "none", "", (2, body)), Element(dismiss, "<button>", "close", "", (0 if lure else 2, body + 2))]
            return found + ([Element(lure, "<button>", "lure", "", (4, body + 2))] if lure else [])
        names = [t.shown[p] for p, _ in t.pages]
        if self.overlay:  # the open menu
            return [Element(n, "<tab>", "page", i, (2, body + i)) for i, n in enumerate(names)]
        if t.menu:
            found = [Element("Menu", "<button>", "menu", "", (0, top)), Element(names[self.page], "<here>", "none", "", (4, top))]
        else:
            found = [Element(n, "<here>" if i == self.page else "<tab>", "page", i, (4 * (i % 2), top + i // 2)) for i, n in enumerate(names)]
        if t.decoy:
            found.append(Element(t.decoy, "<link>", "guide", "", (4, top + 1)))
        rows = ([("code",)] if t.code and self.page == t.first_page else []) + list(t.pages[self.page][1])
        for r, row in enumerate(rows[BODY * self.offset:][:BODY]):
            for c, widget in enumerate(row):
                if widget == "code":
                    found.append(Element(t.code, "<note>", "none", "", (0, body + r)))
                elif widget in FIELDS:
                    found.append(Element(t.shown[widget], "<cursor>" if self.focus == widget else "<field>", "field", widget, (0, body + r), 8))
                else:
                    found.append(Element(t.shown[widget], "<on>" if self.values[widget] else "<off>", "switch", widget, (4 * c, body + r)))
        found.append(Element("Saved", "<alert>", "none", "", (0, bottom)) if self.committed else
                     Element(t.commit, "<button>", "commit", "", (0, bottom)))
        return found + ([Element("More", "<more>", "none", "", (4, bottom))] if len(rows) > BODY else [])

    @staticmethod
    def box(element: Element) -> Box:
        (c, r), w = element.cell, element.width
        return c / COLS, r / ROWS, (c + w) / COLS, (r + 1) / ROWS

    def visible(self) -> tuple[tuple[str, Box], ...]:
        """What a tool agent can find: (label, box) of each element."""
        return tuple((e.label, self.box(e)) for e in self.elements())

    def cells(self) -> dict[tuple[int, int], str]:
        """(column, row) -> the icon or word that begins there: the truth that teaches a tiny vision tower to read."""
        found = {}
        for e in self.elements():
            found[e.cell] = e.icon
            found[e.cell[0] + 1, e.cell[1]] = e.label
            if e.role == "field" and self.values[e.target]:
                found[e.cell[0] + 5, e.cell[1]] = self.values[e.target]
        return found

    def observe(self) -> Observation:
        frozen = (self.task, self.cells(), self.scale)
        return Observation(self.task.instruction, lambda: draw_screen(*frozen), tuple(self.past[-self.keep:] if self.keep else ()))

    # ---- what actions do ---------------------------------------------------------------------------------------------

    def step(self, action: Action | None, said: str | None = None) -> tuple[Observation, float, bool, bool, dict]:
        """Carry out a grounded action; None stands for a refusal of the tool agent. `said` is the policy's own wording,
        for the history. An action that is impossible here leaves the state as it is."""
        result = "failed" if action is None else "ok" if self._apply(action) else "impossible"
        # Only a refusal is told to the policy: that a click had no effect, it has to see on the next screen.
        self.past.append((said or str(action)) + (" failed" if result == "failed" else ""))
        self.steps += 1
        terminated = action is not None and action.kind in TERMINAL
        success = terminated and action.kind == "done" and self.solved()
        self._interrupt()
        info = {"result": result, "success": success, "steps": self.steps, "oracle_steps": self.oracle_steps}
        return self.observe(), float(success), terminated, not terminated and self.steps >= self.max_steps, info

    def solved(self) -> bool:
        return self.committed and not self.wrong()

    def wrong(self) -> list[str]:
        """The widgets that do not hold what they should, those of the instruction first and in its order."""
        order = [w for _, w, _ in self.task.goals]
        return sorted((w for w in self.wanted if self.values[w] != self.wanted[w]), key=lambda w: order.index(w) if w in order else 99)

    def _interrupt(self) -> None:
        if self.popups and self.steps >= self.popups[0][0] and self.overlay is None:
            self.overlay = ("dialog", *self.popups.pop(0)[1:])

    def _apply(self, action: Action) -> bool:
        """Change the state; False when the action can do nothing here."""
        if action.kind in TERMINAL:
            return True
        if action.kind == "back":
            closable = self.overlay is not None
            self.overlay = None
            return closable
        if action.kind == "click":
            hit = next((e for e in self.elements() if action.point and inside(action.point, self.box(e))), None)
            return hit is not None and self._click(hit)
        if self.overlay:
            return False
        if action.kind == "type" and self.focus and action.text:
            self.values[self.focus], self.focus, self.committed = action.text, None, False
            return True
        if action.kind == "scroll" and any(e.icon == "<more>" for e in self.elements()):
            offset = {"down": 1, "up": 0}.get(action.text, self.offset)
            moved, self.offset = offset != self.offset, offset
            return moved
        return False

    def _click(self, e: Element) -> bool:
        if e.role == "page":
            self.page, self.offset, self.overlay, self.focus = e.target, 0, None, None
        elif e.role in ("menu", "guide"):
            self.overlay = (e.role,)
        elif e.role == "close":
            self.overlay = None
        elif e.role == "lure":  # the tempting button opens another dialog
            self.overlay = ("dialog", "Offer", "OK", None)
        elif e.role == "switch":
            self.values[e.target], self.committed = not self.values[e.target], False
        elif e.role == "field":
            self.focus = e.target
        elif e.role == "commit":  # pressing it too early costs two steps
            self.committed = not self.wrong()
            self.overlay = None if self.committed else ("dialog", "Missing", "OK", None)
        return e.role != "none"

    # ---- the oracle --------------------------------------------------------------------------------------------------

    def oracle(self, horizon: int) -> list[Action]:
        """The reference actions from the present state: at most `horizon`, fewer when the task ends before. Their texts
        are an annotator's: now and then the instruction's word instead of the name on the screen."""
        world = copy.copy(self)
        world.values, world.past, world.popups, plan = dict(self.values), [], [], []  # interruptions cannot be foreseen
        while len(plan) < horizon:
            plan.append(world._next())
            if plan[-1].kind in TERMINAL:
                break
            world._apply(plan[-1])
        return plan

    def _next(self) -> Action:
        found = self.elements()
        if self.overlay and self.overlay[0] == "guide":
            return Action("back")
        if self.overlay and self.overlay[0] == "dialog":
            return self.point_at(next(e for e in found if e.role == "close"))
        wrong = self.wrong()
        if not wrong and self.overlay is None:
            return Action("done") if self.committed else self.point_at(next(e for e in found if e.role == "commit"))
        if not wrong:
            return Action("back")
        page = next(i for i, (_, rows) in enumerate(self.task.pages) if any(wrong[0] in row for row in rows))
        if self.overlay or page != self.page:
            return self.point_at(next((e for e in found if e.role == "page" and e.target == page), None)
                                  or next(e for e in found if e.role == "menu"))
        if self.focus == wrong[0]:
            return Action("type", self.wanted[wrong[0]])
        seen = next((e for e in found if e.target == wrong[0]), None)
        return self.point_at(seen) if seen else Action("scroll", "up" if self.offset else "down")

    def point_at(self, e: Element) -> Action:
        concept = self.task.pages[e.target][0] if e.role == "page" else e.target
        return Action("click", self.task.spoken.get(concept, e.label), centre(self.box(e)))

    def example(self, horizon: int, plan: tuple[Action, ...] = ()) -> Example:
        """The present state as a training example, with the oracle's next `horizon` actions as the reference."""
        reference = tuple(self.oracle(horizon))
        hit = next((e for e in self.elements() if reference[0].point and inside(reference[0].point, self.box(e))), None)
        seen = self.observe()
        return Example(Observation(seen.instruction, seen.screenshot, seen.history, plan), reference, (self.box(hit),) if hit else (),
                       self.visible(), self.key())

    def key(self) -> str:
        """Names the screen, so that the tool agent answers the same on the same screen."""
        return f"{self.task.seed}/{self.page}/{self.offset}/{self.overlay}"


@lru_cache(maxsize=8)
def _font(size: int) -> ImageFont.FreeTypeFont:
    return ImageFont.load_default(size)  # ships inside Pillow: no font of the system is ever used


def draw_screen(task: Task, cells: dict[tuple[int, int], str], scale: int = 1) -> Image.Image:
    """The screen as an RGB picture of (128 * scale) x (96 * scale) px; words are drawn at the final size, so they stay crisp."""
    paper, ink, accent = task.colours
    image = Image.new("RGB", (COLS * CELL * scale, ROWS * CELL * scale), paper)
    pen, font = ImageDraw.Draw(image), _font(10 * scale)
    rng = random.Random(f"jitter {task.seed}")
    dx, dy = rng.randint(0, 2), rng.randint(0, 2)
    for (c, r), word in cells.items():
        x, y = c * CELL * scale, r * CELL * scale
        if word.startswith("<"):
            _icon(pen, word, x + 2 * scale, y + 2 * scale, scale, ink, accent)
        else:
            pen.text((x + dx * scale, y + (1 + dy) * scale), word, fill=ink, font=font)
    return image


def _icon(pen: ImageDraw.ImageDraw, name: str, x: int, y: int, s: int, ink: tuple, accent: tuple) -> None:
    """One icon of 11 x 11 px (times s) with its top left corner at x, y. Their shapes differ, not only their colours."""
    box, w = (x, y, x + 10 * s, y + 10 * s), max(1, s)
    if name in ("<on>", "<off>"):
        pen.rectangle(box, outline=ink, width=w)
        if name == "<on>":
            pen.line((x + 2 * s, y + 5 * s, x + 4 * s, y + 8 * s, x + 8 * s, y + 2 * s), fill=ink, width=2 * w)
    elif name in ("<tab>", "<here>"):
        pen.polygon((x, y + 10 * s, x + 5 * s, y, x + 10 * s, y + 10 * s), outline=ink, fill=accent if name == "<here>" else None)
        if name == "<here>":
            pen.rectangle((x + 3 * s, y + 6 * s, x + 7 * s, y + 10 * s), fill=ink)
    elif name in ("<field>", "<cursor>"):
        pen.line((x, y + 10 * s, x + 10 * s, y + 10 * s), fill=ink, width=w)
        if name == "<cursor>":
            pen.rectangle((x + 4 * s, y, x + 6 * s, y + 8 * s), fill=ink)
    elif name == "<button>":
        pen.rounded_rectangle(box, radius=3 * s, fill=accent, outline=ink, width=w)
    elif name == "<link>":
        pen.line((x, y + 5 * s, x + 10 * s, y + 5 * s), fill=accent, width=2 * w)
        pen.line((x + 6 * s, y + s, x + 10 * s, y + 5 * s, x + 6 * s, y + 9 * s), fill=accent, width=2 * w)
    elif name == "<note>":
        pen.polygon((x + 5 * s, y, x + 10 * s, y + 5 * s, x + 5 * s, y + 10 * s, x, y + 5 * s), fill=accent, outline=ink)
    elif name == "<alert>":
        pen.ellipse(box, outline=ink, width=w)
        pen.line((x + 5 * s, y + 2 * s, x + 5 * s, y + 8 * s), fill=ink, width=2 * w)
    elif name == "<more>":
        pen.polygon((x, y + 2 * s, x + 10 * s, y + 2 * s, x + 5 * s, y + 10 * s), fill=ink)


# ----------------------------------------------------------------------------------------------------------------------
# The frozen tool agent
# ----------------------------------------------------------------------------------------------------------------------

ALIAS_RIGHT, ALIAS_WRONG, FLAKY = 0.30, 0.10, 0.15
ALIASES = {a: b for pair in PAGES + CHECKS + FIELDS for a, b in (pair.split("|"), pair.split("|")[::-1])}


def ground(action: Action, elements: tuple[tuple[str, Box], ...], key: str, flaky: float = 0.0) -> Action | None:
    """The toy's frozen tool agent: step instruction -> executable action with a point, or None when it refuses.

    An exact label is always found, a label's other name in 30 % of cases (and taken for something else in 10 %), any other text
    never; `flaky` is the chance that it fails whatever the text. Like a frozen model with greedy decoding it
    repeats itself: the same text on the same screen (`key`) gives the same answer. Actions that need no point pass.
    """
    if action.kind not in POINTING:
        return action
    draw = random.Random(hashlib.sha256(f"{key}|{action.kind}|{action.text}".encode()).digest()[:8])
    exact = [box for label, box in elements if label == action.text]
    alias = [box for label, box in elements if label == ALIASES.get(action.text)]
    chance = draw.random()
    if draw.random() < flaky:
        return None
    box = None
    if exact:
        box = draw.choice(exact)
    elif alias and chance < ALIAS_RIGHT:
        box = alias[0]
    elif alias and chance < ALIAS_RIGHT + ALIAS_WRONG:
        box = draw.choice([b for _, b in elements if b != alias[0]] or alias)
    return box and Action(action.kind, action.text, centre(box))


def execute(env: ToyGUI, action: Action | None, pointed: bool = False) -> tuple[Observation, float, bool, bool, dict]:
    """Hand one forecast step to the tool agent and what it returns to the environment; None (nothing could be parsed)
    counts as a refusal. On the split `flaky` the tool agent's failures depend on the step, so that a retry can help. `pointed`: another
    tool agent was asked before; it refused a step that should point and does not."""
    flaky = FLAKY if env.split == "flaky" else 0.0
    grounded = action and ground(action, env.visible(), env.key() + (f"/{env.steps}" if flaky else ""), flaky)
    if pointed:
        grounded = action if action and (action.point or action.kind not in POINTING) else None
    return env.step(grounded, said=str(action) if action else "unreadable")


@lru_cache(maxsize=4096)
def demonstration(split: str, index: int, horizon: int, noise: float, history: int, scale: int = 1) -> list[Example]:
    """One recorded episode of a demonstrator that acts at random in a share `noise` of its steps, as one example a state.

    The random steps lead to states that an agent meets when it errs; the reference of each state is the oracle's plan from there.
    Repeatable: the record depends on the arguments alone.
    """
    env, rng = ToyGUI(split, scale, history), random.Random(f"demonstration {split} {index}")
    env.reset(index)
    examples, refused = [], set()
    for _ in range(env.max_steps):
        examples.append(env.example(horizon))
        action = examples[-1].reference[0]
        here = next((label for label, box in examples[-1].elements if box in examples[-1].boxes), None)
        if rng.random() < noise:
            action = rng.choice([*(Action("click", label) for label, _ in examples[-1].elements), Action("back"), Action("scroll", "down"),
                                 Action("type", rng.choice(VALUES))])
        elif here and action.text in refused:
            action = Action("click", here)  # a name that was refused is replaced by what stands on the screen
        _, _, terminated, _, info = execute(env, action)
        refused = refused | {action.text} if info["result"] == "failed" else set()
        if terminated:
            break
    return examples


# ----------------------------------------------------------------------------------------------------------------------
# Recorded data sets: a short reader each, from the real files to Episode, one record in memory at a time
# ----------------------------------------------------------------------------------------------------------------------
# | name           | on disk                                    | splits                                                           |
# |----------------|--------------------------------------------|------------------------------------------------------------------|
# | androidcontrol | gzip TFRecord, one tf.train.Example each   | train validation test IDD app_unseen task_unseen category_unseen |
# | gui-odyssey    | a json file an episode, PNG files          | random task device app (its test list), random:train and so on   |
# | mind2web       | parquet, a row a step                      | train test_task test_website test_domain                         |
# | agentnet       | jsonl, a line an episode, image files      | train ubuntu win_mac                                             |
# Pixels, the 0-1000 grid, xywh boxes and finger directions become 0..1 and content directions here, and nowhere else. A step that
# cannot be used is left out, the rest of its episode stays: step.raw["index"] is its place in the source, so that a hole shows.

MAX_PIXELS = 50_000_000   # a Mind2Web page has up to about 22 million; 50 million are 150 MB as RGB, which a laptop can hold
MAX_RECORD = 1 << 28      # bytes of one TFRecord; a broken length field claims anything
FLIP = {"up": "down", "down": "up", "left": "right", "right": "left"}   # finger direction <-> content direction


@dataclass
class Report:
    """What a reader saw and left out. Episodes and steps are counted apart, and so are damaged shards, whose content nobody knows.
    `notes` counts what the release itself lacks (Mind2Web rows without screenshot): named, but no sign of a broken copy."""
    seen: Counter = field(default_factory=Counter)      # "episodes", "steps"
    bad: Counter = field(default_factory=Counter)       # "episodes", "steps", "files"
    notes: Counter = field(default_factory=Counter)
    messages: list[str] = field(default_factory=list)   # "file: record: field: why"; the first 1,000, ten of each note

    def skip(self, unit: str, message: str) -> None:
        self.bad[unit] += 1
        if len(self.messages) < 1000:   # on one line and printable, whatever a hostile record holds
            self.messages.append(" ".join(message.split()).encode("utf-8", "backslashreplace").decode()[:300])

    def note(self, where: str, what: str) -> None:
        self.notes[what] += 1
        if self.notes[what] <= 10:
            self.messages.append(f"{where}: {what}"[:300])


def one_line(text: str, limit: int | None = 500) -> str:
    """The text on one line of at most 500 characters, as an Action wants it."""
    return " ".join(text.splitlines())[:limit]


def get(record: object, name: str, kind: type = str):
    """record[name] when it is of that type; raises BadRecord, which names the field, otherwise."""
    value = record.get(name) if isinstance(record, dict) else None
    if not isinstance(value, kind):
        raise BadRecord(f"{name}: {'missing' if value is None else f'not a {kind.__name__}: {str(value)[:40]}'}")
    return value


def parse_json(text: str | bytes, name: str):
    """json.loads with BadRecord for an error; RecursionError: a megabyte of opening brackets must not stop the reader."""
    try:
        return json.loads(text)
    except (ValueError, TypeError, RecursionError) as error:
        raise BadRecord(f"{name}: not JSON ({str(error)[:80]})") from None


def numbers(value: object, count: int, name: str) -> list[float]:
    """A list of `count` numbers; BadRecord for anything else (True and 10**400 are no numbers, nan fails the comparison)."""
    if not isinstance(value, list) or len(value) != count or not all(type(v) in (int, float) and abs(v) < 1e12 for v in value):
        raise BadRecord(f"{name}: {count} numbers expected, found {str(value)[:60]}")
    return value


def on_screen(x: float, y: float, width: float, height: float, name: str) -> tuple[float, float]:
    """A point in 0..1 from one in the source's units; BadRecord outside the screen."""
    if not (width > 0 and height > 0 and 0 <= x <= width and 0 <= y <= height):
        raise BadRecord(f"{name}: ({x}, {y}) is outside the screen of {width} x {height}")
    return x / width, y / height


def unit_box(x1: float, y1: float, x2: float, y2: float, width: float, height: float) -> tuple[Box, ...]:
    """A tuple of the box in 0..1, cut at the edges of the screen; empty when nothing of it is on the screen."""
    box = max(0.0, x1 / width), max(0.0, y1 / height), min(1.0, x2 / width), min(1.0, y2 / height)
    return (box,) if box[0] < box[2] and box[1] < box[3] else ()


def read_image(source: bytes | memoryview | Path, where: str = "", decode: bool = True) -> Image.Image:
    """The image as RGB, or (decode=False) an image of which only the header was read. The header decides before any pixel is decoded:
    BadRecord for too many pixels, for another format than PNG, JPEG, WebP and for a damaged file."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)   # the limit below is the stricter one
            image = Image.open(source if isinstance(source, Path) else io.BytesIO(source), formats=("PNG", "JPEG", "WEBP"))
        with image:
            if image.width * image.height > MAX_PIXELS:
                raise BadRecord(f"{image.width}x{image.height} is more than {MAX_PIXELS:,} pixels")
            if decode:
                image.load()
            return image.convert("RGB") if decode and image.mode != "RGB" else image
    except (OSError, ValueError, SyntaxError, EOFError, struct.error, zlib.error, Image.DecompressionBombError) as error:
        raise BadRecord(f"{where}: screenshot: {error}".removeprefix(": ")) from None


# AndroidControl: README of google-research/android_control; protobuf.dev/programming-guides/encoding

def varint(buffer: memoryview, at: int) -> tuple[int, int]:
    """A protobuf number (7 bits a byte, low first; the top bit says that more follow) and the place after it."""
    value = 0
    for shift in range(0, 70, 7):
        if at >= len(buffer):
            break
        value |= (buffer[at] & 127) << shift
        at += 1
        if buffer[at - 1] < 128:
            return value - (1 << 64) if value >> 63 else value, at   # negative numbers come as 64-bit two's complement
    raise BadRecord("protobuf: broken number")


def fields(buffer: memoryview) -> Iterator[tuple[int, object]]:
    """(field number, value) of a protobuf message: an int for wire type 0, a memoryview for the others; BadRecord if it is none."""
    at, end = 0, len(buffer)
    while at < end:
        key, at = (buffer[at], at + 1) if buffer[at] < 128 else varint(buffer, at)   # inline: most numbers are one byte
        kind = key & 7
        if kind in (0, 2):   # a number, or a length and as many bytes
            value, at = (buffer[at], at + 1) if at < end and buffer[at] < 128 else varint(buffer, at)
        if kind:
            size = value if kind == 2 else {1: 8, 5: 4}.get(kind, -1)
            value, at = buffer[at:at + size], at + size
            if not 0 <= size <= end or at > end:
                raise BadRecord("protobuf: message cut short or corrupt")
        yield key >> 3, value


def parts(buffer: memoryview, number: int) -> Iterator[memoryview]:
    """The sub-messages, strings or packed lists in one field of a message."""
    return (value for found, value in fields(buffer) if found == number and isinstance(value, memoryview))


def read_example(payload: memoryview) -> dict[str, list]:
    """tf.train.Example as {feature: list of memoryview or int}: Example {1: Features {1: map {1: name, 2: Feature}}}, Feature
    {1: BytesList, 3: Int64List}, a list {1: values}; integers are packed or not."""
    record = {}
    for entry in (entry for features in parts(payload, 1) for entry in parts(features, 1)):
        name = bytes(next(parts(entry, 1), b"")).decode("utf-8", "replace")
        values = record[name] = []
        for feature in parts(entry, 2):
            values.extend(value for items in parts(feature, 1) for value in parts(items, 1))
            for _, value in (pair for items in parts(feature, 3) for pair in fields(items)):
                at = 0
                while isinstance(value, memoryview) and at < len(value):
                    number, at = varint(value, at)
                    values.append(number)
                values.extend([value] if isinstance(value, int) else [])
    return record


def read_tfrecords(path: Path) -> Iterator[memoryview]:
    """Payloads of a gzip TFRecord file: {uint64 length, uint32 CRC, payload, uint32 CRC}, little endian. BadRecord at the first damage.
    The CRC-32C stay unread: gzip's own CRC covers the same bytes, and a second one in Python would cost more than all the rest."""
    inflate, held = zlib.decompressobj(wbits=31), bytearray()   # 31: gzip. Twice as fast as the module gzip with its 8 kB reads

    def take(size: int) -> bytes:
        while len(held) < size and not inflate.eof and (chunk := inflate.unconsumed_tail or file.read(1 << 18)):
            held.extend(inflate.decompress(chunk, 1 << 24))   # at most 16 MB at once: zeros pack 1000 to 1
        taken = bytes(held[:size])
        del held[:size]
        return taken
    try:
        with open(path, "rb") as file:
            while header := take(12):
                size = int.from_bytes(header[:8], "little")
                payload = take(size + 4) if len(header) == 12 and size <= MAX_RECORD else b""
                if len(payload) < size + 4:
                    raise BadRecord(f"TFRecord: cut short or corrupt at a record of {size:,} bytes")
                yield memoryview(payload)[:size]
        if not inflate.eof or inflate.unused_data:
            raise BadRecord("gzip: the file ends too early, or goes on after its end")
    except (OSError, zlib.error) as error:
        raise BadRecord(f"gzip: {error}") from None


def smallest_node(forest: memoryview, x: float, y: float) -> list[int] | None:
    """[left, top, right, bottom] in pixels of the smallest visible accessibility node that contains the point, edges included; of equal
    areas the first. Forest {1: window {11: tree {1: node {2: bounds {1..4: left, top, right, bottom}, 23: is_visible_to_user}}}}."""
    best, best_area = None, float("inf")
    for node in (node for window in parts(forest, 1) for tree in parts(window, 11) for node in parts(tree, 1)):
        rect, visible = [0, 0, 0, 0], False
        for number, value in fields(node):
            if number == 2 and isinstance(value, memoryview):
                for side, edge in fields(value):
                    rect[side - 1 & 3] = edge if isinstance(edge, int) else 0
                if not (rect[0] <= x <= rect[2] and rect[1] <= y <= rect[3]):
                    break   # most nodes end here, with some 25 fields unread: that keeps the reader fast
            visible = bool(value) if number == 23 else visible
        area = (rect[2] - rect[0]) * (rect[3] - rect[1])
        if visible and 0 < area < best_area and rect[0] <= x <= rect[2] and rect[1] <= y <= rect[3]:
            best, best_area = rect, area
    return best


# official type -> (ours, where its text is). "type" is an older README's name for text entered after a click: one step here too.
ANDROID_KINDS = {"click": ("click", ""), "long_press": ("long_press", ""), "input_text": ("type", "text"), "type": ("type", "text"),
                 "scroll": ("scroll", "direction"), "open_app": ("open_app", "app_name"), "wait": ("wait", ""),
                 "navigate_back": ("back", ""), "navigate_home": ("home", "")}


def android_record(payload: memoryview, wanted: set[int], subsplit: dict[int, str], where: str):
    """One Example: (id, goal, texts, step function, raw), or None when it is in another split."""
    record = read_example(payload)
    ident = numbers(record.get("episode_id", [])[:1], 1, "episode_id")[0]
    if ident not in wanted:
        return None
    wanted.discard(ident)
    goals, actions, lines = (record.get(name, []) for name in ("goal", "actions", "step_instructions"))
    if not goals or not actions or not all(isinstance(blob, memoryview) for blob in goals + actions + lines):
        raise BadRecord(f"{'actions' if goals else 'goal'}: missing or not text")
    texts = [bytes(lines[i]).decode("utf-8", "replace") if i < len(lines) else "" for i in range(len(actions))]

    def step(index: int) -> list[Step]:
        action, raw, point, boxes = parse_json(bytes(actions[index]), "actions"), {"index": index}, None, ()
        kind, source = ANDROID_KINDS.get(get(action, "action_type"), ("", ""))
        if not kind:
            raise BadRecord(f"actions: unknown action_type {action['action_type']!r}")
        screens = record.get("screenshots", [])[index:index + 1]
        if not screens or not isinstance(screens[0], memoryview) or not len(screens[0]):
            raise BadRecord("screenshots: missing")
        text = raw["text"] = get(action, source) if source else texts[index] if kind in POINTING else ""
        if kind in POINTING:
            sizes = [record.get(f"screenshot_{side}", [])[index:index + 1] for side in ("widths", "heights")]
            raw["size"] = width, height = numbers(sum(sizes, []), 2, "screenshot_widths, screenshot_heights")
            x, y = numbers([action.get("x"), action.get("y")], 2, "actions: x, y")
            point = on_screen(x, y, width, height, "actions: x, y")
            tree = record.get("accessibility_trees", [])[index:index + 1]
            node = smallest_node(tree[0], x, y) if tree and isinstance(tree[0], memoryview) else None
            boxes = unit_box(*node, width, height) if node else ()
        elif kind == "scroll":
            text = text.lower()   # the stored direction is the content's: nothing to flip
        return [Step(partial(read_image, screens[0], f"{where}: step {index}"), Action(kind, one_line(text), point), boxes, raw)]
    return str(ident), bytes(goals[0]).decode("utf-8", "replace"), texts, step, {"subsplit": subsplit.get(ident)}


def android_control(root: Path, split: str, report: Report) -> Iterator:
    """The episodes of a split or test sub-split, in the order of the shards: nothing says which shard holds which episode."""
    splits = read_lists(root / "splits.json")
    subsplits = read_lists(root / "test_subsplits.json") if (root / "test_subsplits.json").exists() else {}
    if split not in splits and split not in subsplits:
        raise ValueError(f"{root}: no split {split!r}; there are {', '.join([*splits, *subsplits])}")
    wanted = set(splits[split] if split in splits else subsplits[split])
    subsplit = {ident: name for name, ids in reversed(subsplits.items()) for ident in ids}   # the first list that has it wins
    for shard in sorted(path for path in root.glob("android_control-*") if path.is_file()):
        try:
            for number, payload in enumerate(read_tfrecords(shard)):
                where = f"{shard.name}: record {number}"
                yield where, partial(android_record, payload, wanted, subsplit, where)
        except BadRecord as error:
            report.skip("files", f"{shard.name}: {error}")   # what comes after it in the shard is lost
    if wanted:
        report.note(str(root), f"{len(wanted)} episodes of split {split} are in no readable shard")


def read_lists(path: Path) -> dict[str, list]:
    """A split file, an object of lists; ValueError in one line when it is not there or not that."""
    try:
        content = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise ValueError(f"{path}: {getattr(error, 'strerror', None) or error}") from None
    if not isinstance(content, dict) or not all(isinstance(v, list) and all(type(i) in (int, str) for i in v) for v in content.values()):
        raise ValueError(f"{path}: an object of lists of episode ids expected")
    return content


# GUI-Odyssey: introduction.md and data/format_converter.py of OpenGVLab/GUI-Odyssey. The old release has neither boxes nor step texts.
ODYSSEY_KINDS = {"KEY_HOME": "home", "KEY_BACK": "back", "KEY_APPSELECT": "recent", "KEY_RECENT": "recent", "TEXT": "type",
                 "TYPE": "type", "COMPLETE": "done", "INCOMPLETE": "fail", "IMPOSSIBLE": "fail"}


def odyssey_record(data: Path, stem: str, report: Report):
    """One annotation file. step.raw: "grid" (the point on 0-1000), "bbox" (None in the old release, [] where there is none), "text"."""
    record = parse_json((data / "annotations" / f"{stem}.json").read_bytes(), "file")
    steps, info = get(record, "steps", list), get(record, "task_info", dict)

    def step(index: int) -> list[Step]:
        entry, where, point, boxes, raw, text = steps[index], f"{stem}.json: step {index}", None, (), {"index": index}, ""
        name = get(entry, "action")
        value, path = entry.get("info"), data / "screenshots" / Path(get(entry, "screenshot")).name   # .name: no way out of the folder
        if not path.is_file():
            raise BadRecord(f"screenshot: {path.name} is missing")
        kind = ODYSSEY_KINDS.get(value if name in ("CLICK", "LONG_PRESS") and isinstance(value, str) else name, "")
        if name in ("CLICK", "LONG_PRESS") and isinstance(value, list):
            kind, text, raw["bbox"] = name.lower(), str(entry.get("low_level_instruction") or ""), entry.get("sam2_bbox")
            raw["grid"] = numbers(value[0] if value else value, 2, "info")
            point = on_screen(*raw["grid"], 1000, 1000, "info")
            boxes = unit_box(*numbers(raw["bbox"], 4, "sam2_bbox"), 1000, 1000) if raw["bbox"] else ()
            if kind == "click" and raw["bbox"] is not None and not raw["bbox"]:
                report.note(where, "sam2_bbox of a click is empty: only the distance counts")
        elif name == "SCROLL":
            if len(get(entry, "info", list)) < 2:
                raise BadRecord("info: two points expected")
            (x1, y1), (x2, y2) = (numbers(point, 2, "info") for point in value[:2])
            dx, dy = x2 - x1, y2 - y1   # the finger's way; the official label is horizontal only where |dx| > |dy|
            kind, text = "scroll", FLIP[("left" if dx < 0 else "right") if abs(dx) > abs(dy) else "up" if dy < 0 else "down"]
        elif kind == "type":
            text = raw["text"] = get(entry, "info")
        if not kind:
            raise BadRecord(f"action: unknown {name[:40]!r} with info {str(value)[:40]!r}")
        return [Step(partial(read_image, path, where), Action(kind, one_line(text), point), boxes, raw)]
    lines = [entry if isinstance(entry, dict) else {} for entry in steps]
    texts = [str(line.get("low_level_instruction") or f"{line.get('action', '')} {line.get('info', '')}") for line in lines]
    raw = {"category": str(info.get("category", "")), "step_length": record.get("step_length", len(steps))}
    return str(record.get("episode_id", stem)), get(info, "instruction"), texts, step, raw


def gui_odyssey(root: Path, split: str, report: Report) -> Iterator:
    """The episodes of a split file's list. `root` holds annotations/, screenshots/ and splits/, or a folder data/ with them."""
    name, _, part = split.partition(":")
    if name not in ("random", "task", "device", "app") or part not in ("", "test", "train"):
        raise ValueError(f"gui-odyssey has no split {split!r}: random, task, device, app, or one of them with :train")
    data = root / "data" if (root / "data" / "splits").is_dir() else root
    for entry in read_lists(data / "splits" / f"{name}_split.json").get(part or "test", []):
        stem = Path(str(entry)).name.removesuffix(".json")
        yield f"{stem}.json", partial(odyssey_record, data, stem, report)


# Multimodal-Mind2Web: card of osunlp/Multimodal-Mind2Web; hazards from offline_evaluation/Multimodal-Mind2Web/sample.py of UGround
MIND2WEB_COLUMNS = ["annotation_id", "confirmed_task", "operation", "pos_candidates", "screenshot", "action_reprs",
                    "target_action_index", "target_action_reprs"]   # not the html, which is most of the file
MIND2WEB_KINDS = {"CLICK": "click", "TYPE": "type", "SELECT": "select"}   # HOVER and ENTER are stored with op CLICK


def mind2web_record(rows: list[dict], where: str, report: Report):
    """The rows of one task. A typed or selected step is one action with text and point, as the metric has it. step.raw: "op", "value",
    "size" and "boxes" (xywh) in page pixels. Without a box on the page no answer can be right: the step stays, as it does officially."""
    lists = [row["action_reprs"] if isinstance(row["action_reprs"], list) else [row["action_reprs"]] for row in rows]
    texts = [str(line) for line in max(lists, key=len)]
    texts = texts[0].split("\n") if len(texts) == 1 else texts   # some tasks have one string with line breaks
    by_index = {int(row["target_action_index"]): row for row in rows if str(row["target_action_index"]).isdecimal()}
    if len(by_index) < len(rows) or max(by_index) >= len(texts):
        raise BadRecord(f"target_action_index: {[row['target_action_index'] for row in rows]} for {len(texts)} action_reprs")

    def step(index: int) -> list[Step]:
        blob = by_index[index]["screenshot"] if index in by_index else None
        blob = blob.get("bytes") if isinstance(blob, dict) else blob
        if blob is None:   # the release has such rows; the metric counts them as 0
            report.note(f"{where}: step {index}", "no row or no screenshot")
            return []
        row, rects, boxes = by_index[index], [], ()
        operation = parse_json(row["operation"], "operation")
        kind, value = MIND2WEB_KINDS.get(get(operation, "op"), ""), str(operation.get("value") or "")
        if not kind:
            raise BadRecord(f"operation: unknown op {operation['op'][:40]!r}")
        width, height = read_image(blob, decode=False).size
        candidates = [parse_json(text, "pos_candidates") for text in row["pos_candidates"] or []]
        for candidate in sorted(candidates, key=lambda c: isinstance(c, dict) and not c.get("is_original_target")):   # that one first
            rect = get(parse_json(get(candidate, "attributes"), "attributes"), "bounding_box_rect")
            x, y, w, h = numbers(parse_json(f"[{rect}]", "bounding_box_rect"), 4, "bounding_box_rect")
            rects.append((x, y, w, h))
            boxes += unit_box(x, y, x + w, y + h, width, height)
        if not boxes:
            report.note(f"{where}: step {index}", "pos_candidates: no box on the page, no element can be right")
        point = centre(boxes[0]) if boxes else None
        element = str(row["target_action_reprs"] or "").split(" -> ")[0]
        raw = {"index": index, "op": operation["op"], "value": value, "size": (width, height), "boxes": rects, "element": element}
        action = Action(kind, one_line(element if kind == "click" else value), point)
        return [Step(partial(read_image, blob, f"{where}: step {index}"), action, boxes, raw)]
    return str(rows[0]["annotation_id"]), str(rows[0]["confirmed_task"]), texts, step, {}


def mind2web(root: Path, split: str, report: Report) -> Iterator:
    """The tasks of a split; a task is a run of rows with one annotation_id. Rows are read four at a time: a page is megabytes."""
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError:
        raise ValueError("mind2web needs pyarrow: pip install pyarrow") from None
    files = sorted(path for folder in (root, root / "data") for path in folder.glob(f"{split}-*.parquet"))
    if split not in ("train", "test_task", "test_website", "test_domain") or not files:
        raise ValueError(f"{root}: no {split}-*.parquet; the splits are train, test_task, test_website and test_domain")

    def rows() -> Iterator[dict]:
        for path in files:
            try:   # pre_buffer, on by default, keeps every row group it has read: the whole file in the end
                with parquet.ParquetFile(path, pre_buffer=False, buffer_size=1 << 20) as file:
                    for batch in file.iter_batches(batch_size=4, columns=MIND2WEB_COLUMNS, use_threads=False):
                        yield from ({"file": path.name, **dict.fromkeys(MIND2WEB_COLUMNS), **row} for row in batch.to_pylist())
            except (pyarrow.ArrowException, OSError) as error:
                report.skip("files", f"{path.name}: parquet: {error}")
    for task, group in itertools.groupby(rows(), key=lambda row: row["annotation_id"]):
        group = list(group)
        where = f"{group[0]['file']}: {task}"
        yield where, partial(mind2web_record, group, where, report)


# AgentNet: README of xlang-ai/OpenCUA. Kinds we have no word for become the nearest one: triple click, middle click.
AGENTNET_CLICKS = {"click": "click", "doubleClick": "double_click", "tripleClick": "double_click", "rightClick": "right_click",
                   "middleClick": "click", "moveTo": "hover", "dragTo": "drag"}


def parse_pyautogui(code: str, text: str = "") -> list[Action]:
    """The actions of a step's code, read with ast and never run; `text` says what the step does and becomes the grounding text. Points
    are 0..1 as stored; a drag has the point where it starts. BadRecord for all but known calls with literal arguments.

    >>> parse_pyautogui("pyautogui.moveTo(0.1, 0.2)\\npyautogui.dragTo(0.5, 0.2)", "the slider")
    [Action(kind='drag', text='the slider', point=(0.1, 0.2))]
    """
    actions, text = [], one_line(text)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")   # an odd escape in a typed text is no news
            calls = [statement.value for statement in ast.parse(code if len(code) < 20_000 else "(").body]
        calls = [(call.func.attr, [ast.literal_eval(value) for value in call.args],
                  {named.arg: ast.literal_eval(named.value) for named in call.keywords}) for call in calls]
    except (SyntaxError, ValueError, AttributeError, TypeError, RecursionError, MemoryError):
        raise BadRecord(f"code: not a list of calls with literal arguments: {code[:60]!r}") from None
    for name, args, named in calls:
        given = dict(zip(("x", "y", "clicks", "interval", "button"), args, strict=False)) | named
        flat = [value for item in [*args, *named.values()] for value in (item if isinstance(item, list | tuple) else [item])]
        if name in AGENTNET_CLICKS:
            kind, point = AGENTNET_CLICKS[name], numbers([given.get("x"), given.get("y")], 2, "code: x, y")
            if name == "click":
                kind = "right_click" if given.get("button") == "right" else "double_click" if given.get("clicks") in (2, 3) else kind
            point = on_screen(*point, 1, 1, "code: x, y")
            if name == "dragTo" and actions and actions[-1].kind == "hover":
                point = actions.pop().point
            actions.append(Action(kind, text, point))
        elif name in ("scroll", "hscroll"):
            amount = numbers(flat[:1], 1, "code: scroll")[0]
            actions.append(Action("scroll", {"scroll": ("up", "down"), "hscroll": ("right", "left")}[name][amount < 0]))
        elif name in ("write", "typewrite"):
            actions.append(Action("type", one_line(get(named | dict(zip(("message",), args, strict=False)), "message"))))
        elif name in ("press", "hotkey") and (keys := [key.lower() for key in flat if isinstance(key, str)]):
            actions.append(Action("key", one_line("+".join(keys))))
        elif name in ("wait", "terminate"):
            actions.append(Action("wait" if name == "wait" else "done" if flat == ["success"] else "fail"))
        else:
            raise BadRecord(f"code: unknown call {name[:40]!r}")
    return actions


def agentnet_record(line: bytes, folder: Path, where: str):
    """One line of the jsonl. Steps judged wrong or redundant are left out; code of several calls gives several steps, which share the
    screenshot before the first of them."""
    record = parse_json(line, "line")
    steps = [entry if isinstance(entry, dict) else {} for entry in get(record, "traj", list)]
    values = [entry["value"] if isinstance(entry.get("value"), dict) else {} for entry in steps]

    def step(index: int) -> list[Step]:
        if values[index].get("last_step_correct") is False or values[index].get("last_step_redundant") is True:
            return []
        path = folder / Path(get(steps[index], "image")).name
        if not path.is_file():
            raise BadRecord(f"image: {path.name} is missing")
        actions = parse_pyautogui(get(values[index], "code"), str(values[index].get("action") or ""))
        return [Step(partial(read_image, path, f"{where}: step {index}"), action, (), {"index": index}) for action in actions]
    return get(record, "task_id"), get(record, "instruction"), [str(value.get("action", "")) for value in values], step, {}


def agentnet(root: Path, split: str, report: Report) -> Iterator:
    """The tasks of agentnet_ubuntu*.jsonl and agentnet_win_mac*.jsonl, with screenshots in ubuntu_images/ and win_mac_images/."""
    if split not in ("train", "ubuntu", "win_mac"):
        raise ValueError(f"agentnet has no split {split!r}: train (both systems), ubuntu or win_mac")
    for system in ("ubuntu", "win_mac") if split == "train" else (split,):
        for path in sorted(root.glob(f"agentnet_{system}*.jsonl")):
            with open(path, "rb") as file:
                for number, line in enumerate(file, 1):
                    where = f"{path.name}: line {number}"
                    yield where, partial(agentnet_record, line, root / f"{system}_images", where)


# One way in for all of them. A loader yields (where, read); read() gives (id, goal, texts of all steps, step function, raw).
LOADERS = {"androidcontrol": android_control, "gui-odyssey": gui_odyssey, "mind2web": mind2web, "agentnet": agentnet}


def load_recorded(name: str, root: str | Path, split: str, report: Report) -> Iterator[Episode]:
    """Episodes of a recorded data set, one at a time; `report` fills as they are read. raw has "n_steps" and "texts" of the source, holes
    included. ValueError (one line) at once for an unknown set or split, a missing root, an empty split; at the end for > 5 % bad."""
    if name not in LOADERS or not Path(root).is_dir():
        raise ValueError(f"{root}: no such folder" if name in LOADERS else f"unknown data set {name!r}: {', '.join(LOADERS)}")

    def episodes() -> Iterator[Episode]:
        for where, read in LOADERS[name](Path(root), split, report):
            try:
                record = read()
            except (ValueError, OSError) as error:
                report.skip("episodes", f"{where}: {getattr(error, 'strerror', None) or error}")
                continue
            steps = []
            for index in range(len(record[2])) if record else ():
                try:
                    steps += record[3](index)
                except (ValueError, OSError) as error:   # BadRecord, Action's own, a file name that is none
                    report.skip("steps", f"{where}: step {index}: {error}")
            if steps:
                report.seen.update(episodes=1, steps=len(steps))
                texts = tuple(one_line(text) for text in record[2])
                yield Episode(record[0], record[1], tuple(steps), {"n_steps": len(texts), "texts": texts, **record[4]})
        for unit in ("episodes", "steps"):
            if report.bad[unit] > 0.05 * (total := report.bad[unit] + report.seen[unit]):
                raise ValueError(f"{root}: {report.bad[unit]} of {total} {unit} are bad (over 5 %), the first: {report.messages[0]}")
    stream = episodes()
    first = next(stream, None)   # read now, so that a wrong name is told before a model is loaded
    if first is None:
        raise ValueError(f"{root}: split {split!r} of {name} is empty{': '.join(['', *report.messages[:1]])}")
    return itertools.chain([first], stream)


def stream_shuffled(items: Iterable, buffer: int, rng: random.Random) -> Iterator:
    """The items in random order, with at most `buffer` of them in memory (an AndroidControl episode is about 3 MB)."""
    held = []
    for item in items:
        held.append(item)
        if len(held) >= buffer:
            at = rng.randrange(len(held))
            held[at], held[-1] = held[-1], held[at]
            yield held.pop()
    rng.shuffle(held)
    yield from held


def mix(sources: list[tuple[float, Callable[[], Iterable]]], seed: int) -> Iterator:
    """Endless draws from several streams by weight; a stream that ends is opened again. The same seed gives the same order. ValueError
    for a weight that is not positive and for a stream without items."""
    def forever(opens: Callable[[], Iterable]) -> Iterator:
        while True:
            item = None
            for item in opens():
                yield item
            if item is None:
                raise ValueError("a data stream has no items")
    weights, streams, rng = [weight for weight, _ in sources], [forever(opens) for _, opens in sources], random.Random(seed)
    if not weights or min(weights) <= 0:
        raise ValueError(f"weights must be positive: {weights}")
    while True:
        yield next(rng.choices(streams, weights)[0])


def main() -> None:
    """Draw an oracle episode as a film strip."""
    import argparse

    parser = argparse.ArgumentParser(description="Draw an oracle episode of the toy GUI as a film strip.")
    parser.add_argument("--split", default="train", choices=SPLITS)
    parser.add_argument("--seed", type=int, default=0, help="which task of the split")
    parser.add_argument("--scale", type=int, default=3, help="1: 128 x 96 px, as the tiny model sees it")
    parser.add_argument("--picture", default="oracle.png", help="where the film strip goes")
    args = parser.parse_args()
    try:
        env = ToyGUI(args.split, args.scale)
        observation, _ = env.reset(args.seed)
    except ValueError as error:
        die(str(error))
    screens, said = [observation.screenshot()], []
    while not said or said[-1] != "done":
        action = env.oracle(1)[0]
        said.append(str(action))
        screens.append(env.step(action)[0].screenshot())
    w, h = screens[0].size
    strip = Image.new("RGB", (4 * (w + 8) + 8, 24 + math.ceil(len(said) / 4) * (h + 26)), "white")
    pen = ImageDraw.Draw(strip)
    pen.text((8, 4), observation.instruction, fill="black", font=_font(15))
    for i, (screen, text) in enumerate(zip(screens, said, strict=False)):
        x, y = 8 + (i % 4) * (w + 8), 24 + (i // 4) * (h + 26)
        strip.paste(screen, (x, y))
        pen.text((x, y + h + 3), f"{i + 1} {text}", fill="black", font=_font(14))
    try:
        strip.save(args.picture)
    except (OSError, ValueError) as error:
        die(f"cannot write {args.picture}: {error}")
    print(f"task: {observation.instruction}\noracle: {'; '.join(said)}\nsolved: {env.solved()}, {len(said)} steps; picture in {args.picture}")


if __name__ == "__main__":
    main()
