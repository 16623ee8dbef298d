"""envs.py: the world. What an agent can do, what it sees, and who carries it out.

From top to bottom: the action table and the one coordinate frame; the records (Observation, Example, Step, Episode) that
every other script passes on; the toy GUI with its tasks, its oracle and its splits; the frozen tool agent; the toy tool world; readers
of recorded data sets; the toolbox.

`python envs.py` draws an oracle episode as a film strip.
"""

import ast
import copy
import hashlib
import io
import itertools
import json
import math
import operator
import random
import re
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import threading
import warnings
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
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
    `goals`: what counts as a right first step once the tools have answered (empty: the reference); `tools`: asks them.
    """

    observation: Observation
    reference: tuple[Action, ...]
    boxes: tuple[Box, ...] = ()
    elements: tuple[tuple[str, Box], ...] = ()
    key: str = ""
    goals: tuple[Action, ...] = ()
    tools: Callable[[Action], Action] | None = None


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


def draw_colours(rng: random.Random, tinted: bool) -> tuple[tuple[int, int, int], ...]:
    """Background, ink, accent. Training has pale backgrounds; strongly tinted ones are held out for the split `layout`."""
    paper = [rng.randint(215, 255) for _ in range(3)]
    ink = tuple(rng.randint(0, 70) for _ in range(3))
    accent = tuple(rng.randint(40, 190) for _ in range(3))
    if tinted:
        paper[rng.randrange(3)] = rng.randint(120, 180)
    return tuple(paper), ink, accent


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
    n_popups = 2 if split == "popup" else int(rng.random() < 0.5)
    popups = tuple((step, rng.choice(POPUPS), rng.choice(DISMISS), rng.choice((None, *LURES)))
                   for step in sorted(rng.sample(range(5), n_popups)))
    return Task(seed, menu, tuple(pages), tuple(goals), "; ".join(words + ["finish"]), shown, spoken, start, first_page,
                rng.choice(COMMITS), code, said[decoy_page] if decoy_page else None, popups, split == "layout",
                draw_colours(rng, split == "layout"))


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

    splits, grid = tuple(SPLITS), (COLS, ROWS)

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
        self.refused = frozenset()  # texts that the tool agent did not find
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
        if action is None and said:
            self.refused |= {said.partition(" ")[2]}
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
        are an annotator's: now and then the instruction's word instead of the name on the screen, until that word was refused."""
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
        name = self.task.spoken.get(concept, e.label)
        return Action("click", e.label if name in self.refused else name, centre(self.box(e)))

    def example(self, horizon: int, plan: tuple[Action, ...] = ()) -> Example:
        """The present state as a training example, with the oracle's next `horizon` actions as the reference."""
        reference = tuple(self.oracle(horizon))
        hit = next((e for e in self.elements() if reference[0].point and inside(reference[0].point, self.box(e))), None)
        seen = self.observe()
        return Example(Observation(seen.instruction, seen.screenshot, seen.history, plan), reference, (self.box(hit),) if hit else (),
                       self.visible(), self.key())

    def moves(self, rng: random.Random) -> list[Action]:
        """What an agent might do that sees the screen, or only remembers what the app has, and not the task."""
        names = [label for label, _ in self.visible()] if rng.random() < 0.5 else sorted(self.task.shown.values())
        return [*(Action("click", name) for name in names), Action("back"), Action("scroll", "down"),
                Action("type", rng.choice(VALUES))]

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


# ----------------------------------------------------------------------------------------------------------------------
# The toy tool world: a drawn picture, a question that needs two to six calls of frozen tools, an answer
# ----------------------------------------------------------------------------------------------------------------------
# A price list or a bar chart and, above or below it, a sign (vehicle, city) or shapes to count, in cells as in the toy GUI. "fare of bus", "stock
# of dearer of apple and pear", "add price of apple and count of circle then sub fare of bus". In the history: "call read apple = 7", "= error"
# where no answer came, "= broken" where the tool raised or hung. Stocks (of items) and fares (to cities) are in KNOWLEDGE, the same in every
# episode: a policy that reads and remembers can forecast every argument, one that does neither can copy the tools' answers one by one.

ITEMS = ("apple", "pear", "plum", "bread", "milk", "tea", "salt", "rice")
CITIES = ("berlin", "paris", "rome", "oslo", "lima", "cairo", "delhi", "tokyo")
VEHICLES, SHAPES, ARITHMETIC = ("bus", "train", "ship"), ("circle", "square", "triangle"), ("add", "sub", "mul")
TOOLS = {"read": 1, "count": 1, "lookup": 1, "add": 2, "sub": 2, "mul": 2, "compare": 2, "mean": 2}  # name -> number of arguments
TOOL_ALIASES = {"ocr": "read", "tally": "count", "find": "lookup", "sum": "add", "minus": "sub", "times": "mul", "versus": "compare",
                "average": "mean"}
NUMBERS = tuple(map(str, range(100)))
# All that can stand in a prompt or a picture of this world: the tiny model's vocabulary.
TOOL_WORDS = (*TOOLS, *TOOL_ALIASES, *ITEMS, *CITIES, *VEHICLES, *SHAPES, "price", "stock", "fare", "of", "and", "then", "dearer", "cheaper",
              "more", "less", "equal", "error", "broken", "=", *NUMBERS)
KNOWLEDGE = dict(zip((*ITEMS, *CITIES), map(str, random.Random(7).sample(range(2, 40), 16)), strict=True))
TOOL_FAILS, TOOL_SECONDS = 0.02, 5.0  # how often a tool fails (FLAKY on that split; the next try is drawn afresh); when it is given up
TOOL_ALIAS_RATE = 0.7                  # how often an annotator says "sum" for `add`: people describe, tools want their name
TOOL_SLACK, TOOL_ROWS, MAX_CALLS = 2, 7, 6  # SLACK: steps beyond the oracle's before an episode is truncated
# Only asked for on the split "composition"; `mean` is on "tool", but stands as a title on some pictures, so that it is known as a word.
HELD_OUT = {("sub", "fare"), ("mul", "stock"), ("add", "count")}
Call = tuple[str, tuple[str, ...], tuple]  # a needed call: tool, arguments with their true values, the calls whose answers those are


def guarded(work: Callable[[], object], seconds: float) -> tuple[str, object]:
    """("ok", what work() returns), or "unavailable" (a NotImplementedError) or "error" with a line that says why; nothing is raised. The clock
    is the main thread's alarm, which stops work() for good and costs nothing (a thread costs milliseconds on a busy machine); in another
    thread and on Windows there is none."""
    def late(*_):
        if clock:  # (not when the answer is there already)
            raise TimeoutError(f"no answer within {seconds:g} s")

    clock = threading.current_thread() is threading.main_thread() and hasattr(signal, "setitimer")
    before = clock and (signal.signal(signal.SIGALRM, late), signal.setitimer(signal.ITIMER_REAL, seconds))[0]
    try:
        found = "ok", work()
    except NotImplementedError as problem:
        found = "unavailable", f"not available here: {problem}"
    except (Exception, SystemExit) as problem:  # a tool is foreign code on a model's arguments: each of its errors is an observation
        found = "error", f"error: {one_line(str(problem), 200) or type(problem).__name__}"
    if clock:
        clock = False
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    return found


def toy_tool(tool: str, args: Sequence[str], beside: dict[str, str], counts: dict[str, int]) -> str | None:
    """What a frozen tool answers, or None where it cannot: no such tool, a label that is not there, a result outside 0..99."""
    if len(args) != TOOLS.get(tool):
        return None
    if TOOLS[tool] == 1:
        return {"read": beside, "count": {shape: str(counts.get(shape, 0)) for shape in SHAPES}, "lookup": KNOWLEDGE}[tool].get(args[0])
    if not set(args) <= set(NUMBERS):
        return None
    a, b = map(int, args)
    if tool == "compare":
        return "more" if a > b else "less" if a < b else "equal"
    result = {"add": a + b, "sub": a - b, "mul": a * b, "mean": (a + b) // 2}[tool]
    return str(result) if 0 <= result <= 99 else None


def fact(tool: str, args: Sequence[str]) -> tuple:
    """Names an answer: the order of the arguments counts for a difference alone."""
    return (tool, *(args if tool == "sub" else sorted(args)))


def draw_picture(paper: str, panels: tuple, marks: tuple, scale: int) -> Image.Image:
    """panels ((x1, y1, x2, y2), colour) and marks (word, x, y, colour), in px at scale 1, as a picture of 128 x 112 px times `scale`. The
    word of a shape is drawn as the shape."""
    picture = Image.new("RGB", (COLS * CELL * scale, TOOL_ROWS * CELL * scale), paper)
    pen, far = ImageDraw.Draw(picture), 10 * scale
    for box, colour in panels:
        pen.rectangle([v * scale for v in box], fill=colour)
    for word, x, y, colour in marks:
        x, y = x * scale, y * scale
        if word in ("circle", "square"):
            (pen.ellipse if word == "circle" else pen.rectangle)((x, y, x + far, y + far), fill=colour)
        elif word == "triangle":
            pen.polygon((x, y + far, x + far, y + far, x + far // 2, y), fill=colour)
        else:
            pen.text((x, y), word, fill=colour, font=_font(10 * scale))
    return picture


class ToyTools:
    """The toy tool world, with the toy GUI's methods. A question is solved when the agent answers with the right number (0..99).

    info["result"]: "ok"; "failed" (the tool did not answer this time, or an alias, which does so in 30 % of (episode, call) pairs, did not
    reach it; step(None)); "impossible" (nothing there can be answered, a wrong answer); "broken" (the tool raised or hung).

    >>> env = ToyTools("test"); observation, info = env.reset(0)
    >>> env.step(env.oracle(1, exact=True)[0])[4]["result"]
    'ok'
    """

    splits, grid = ("train", "dev", "test", "composition", "tool", "flaky"), (COLS, TOOL_ROWS)

    def __init__(self, split: str = "train", scale: int = 1, history: int = 4):
        if split not in self.splits or scale < 1 or history < 0:
            raise ValueError(f"split {split!r} must be one of {', '.join(self.splits)}, scale {scale} at least 1, history {history} at least 0")
        self.split, self.scale, self.keep = split, scale, history

    def reset(self, seed: int) -> tuple[Observation, dict]:
        if not 0 <= seed < SPLIT_SIZE:
            raise ValueError(f"seed {seed} is outside 0..{SPLIT_SIZE - 1}")
        self.seed = self.splits.index(self.split) * SPLIT_SIZE + seed
        rng = random.Random(f"tools {self.seed}")
        form = rng.choice({"composition": ("two", "three"), "tool": ("two",)}.get(self.split, ("fare", *["two"] * 3, *["three"] * 2, "pick")))
        tools = ("mean",) if self.split == "tool" else (rng.choice(ARITHMETIC), rng.choice(ARITHMETIC))
        self.paint(rng)
        while not self.ask(rng, form, tools):  # the form is drawn once, the rest until it fits: hard forms stay frequent
            self.paint(rng)
        self.known, self.refused, self.past, self.steps = frozenset(), frozenset(), [], 0
        self.oracle_steps = len(self.oracle(MAX_CALLS + 1))
        self.max_steps = self.oracle_steps + TOOL_SLACK
        return self.observe(), {"oracle_steps": self.oracle_steps}

    def paint(self, rng: random.Random) -> None:
        """Draws the lots for a picture: words and shapes in cells, and what the tools will say of them."""
        marks, panels, self.beside, self.counts = [], [], {}, {}
        put = lambda word, c, r, ink: marks.append((word, c * CELL + rng.randint(1, 2), r * CELL + rng.randint(1, 2), ink))  # noqa: E731
        paper, ink = rng.choice(("#ffffff", "#fff6e0", "#e8f4ff", "#eeeeee")), rng.choice(("#000000", "#202060", "#402010"))
        chart, sign, first = rng.random() < 0.5, rng.random() < 0.5, rng.random() < 0.5
        top, bottom = (0, 4) if first else (3, 0)  # first rows of the two panels: four rows of prices, three of the rest
        if chart:
            put(rng.choice(("price", "mean")), 2, top, ink)
        column = 6 if chart else rng.randint(5, 6)
        for row, item in enumerate(rng.sample(ITEMS, 3 if chart else 4), top + chart):
            self.beside[item] = str(value := rng.randint(1, rng.choice((12, 60))))
            put(item, 0 if chart else rng.randint(0, 1), row, ink)
            put(str(value), column, row, ink)
            panels += [((48, row * CELL + 4, 49 + value * 2 // 3, row * CELL + 12), "#7aa6d8")] if chart else []
        if sign:
            panels.append(((8, bottom * CELL, 119, (bottom + 3) * CELL - 1), rng.choice(("#005030", "#103080"))))
            for row, (vehicle, city) in enumerate(zip(rng.sample(VEHICLES, 3), rng.sample(CITIES, 3), strict=True), bottom):
                self.beside[vehicle] = city
                put(vehicle, 1, row, "#ffffff")
                put(city, 4, row, "#ffffff")
        else:
            for cell in rng.sample(range(3 * COLS), rng.randint(3, 12)):
                shape = rng.choice(SHAPES)
                self.counts[shape] = self.counts.get(shape, 0) + 1
                put(shape, cell % COLS, bottom + cell // COLS, rng.choice(("#d02020", "#208020", "#3050d0", "#c08000")))
        self.marks, self.picture = tuple(marks), partial(draw_picture, paper, tuple(panels), tuple(marks), self.scale)

    def ask(self, rng: random.Random, form: str, tools: tuple[str, ...]) -> bool:
        """Draws a question of this form for the picture; False where it does not fit (range, held-out pairs, length)."""
        if form == "pick":  # its last argument depends on a comparison
            a, b = rng.sample([word for word in self.beside if word in ITEMS], 2)
            prices, wish = (self.beside[a], self.beside[b]), rng.choice(("dearer", "cheaper"))
            winner = a if (int(prices[0]) > int(prices[1])) == (wish == "dearer") else b
            compare = ("compare", prices, (("read", (a,), ()), ("read", (b,), ())))
            words, call = f"stock of {wish} of {a} and {b}", ("lookup", (winner if prices[0] != prices[1] else None,), (compare,))
        else:
            tools = {"fare": (), "two": tools[:1], "three": tools}[form]
            kinds = ["fare"] if form == "fare" else rng.choices(("price", "stock", "fare", "count"), k=len(tools) + 1)
            pairs = {(tools[max(k - 1, 0)], kind) for k, kind in enumerate(kinds) if tools}
            terms = [self.term(rng, kind) for kind in kinds]
            if None in terms or len(dict(terms)) < len(terms) or bool(pairs & HELD_OUT) != (self.split == "composition"):
                return False
            words, call = terms[0]
            for k, (tool, (other_words, other)) in enumerate(zip(tools, terms[1:], strict=True)):
                words = f"{words} then {tool} {other_words}" if k else f"{tool} {words} and {other_words}"
                call = (tool, (self.value(call), self.value(other)), (call, other))
                if self.value(call) is None or (tool == "mean" and sum(map(int, call[1])) % 2):  # means are whole numbers
                    return False
        self.instruction, self.root, self.answer, self.known = words, call, self.value(call), frozenset()
        return self.answer is not None and len(self.missing(call)) <= MAX_CALLS

    def term(self, rng: random.Random, kind: str) -> tuple[str, Call] | None:
        """A number that the question names: (its words, its call), or None where the picture has none of this kind."""
        words = {"price": [w for w in self.beside if w in ITEMS], "stock": ITEMS, "count": sorted(self.counts),
                 "fare": [w for w in self.beside if w in VEHICLES]}[kind]
        word = rng.choice(words or [None])
        tool, arg = {"price": ("read", word), "stock": ("lookup", word), "count": ("count", word), "fare": ("lookup", self.beside.get(word))}[kind]
        return word and (f"{kind} of {word}", (tool, (arg,), (("read", (word,), ()),) if kind == "fare" else ()))

    def value(self, call: Call) -> str | None:
        return toy_tool(*call[:2], self.beside, self.counts)

    def visible(self) -> tuple[tuple[str, Box], ...]:
        """Every word and shape on the picture with its box."""
        width, height = COLS * CELL, TOOL_ROWS * CELL
        return tuple((word, (x / width, y / height, (x + (10 if word in SHAPES else _font(10).getlength(word))) / width, (y + 12) / height))
                     for word, x, y, _ in self.marks)

    def cells(self) -> dict[tuple[int, int], str]:
        """(column, row) -> the word (or shape) that begins there."""
        return {(x // CELL, y // CELL): word for word, x, y, _ in self.marks}

    def observe(self) -> Observation:
        return Observation(self.instruction, self.picture, tuple(self.past[-self.keep:] if self.keep else ()))

    def step(self, action: Action | None, said: str | None = None) -> tuple[Observation, float, bool, bool, dict]:
        """Hand a call to the frozen tools, or take the answer; None stands for a forecast that could not be read."""
        right = action is not None and action.kind == "answer" and action.text.strip().lower() == self.answer
        result, text = ("failed" if action is None else "ok" if right else "impossible"), "error"
        if action and action.kind == "call":
            result, text, key = self.serve(action.text)
            self.known |= {key} if result == "ok" else set()
            self.refused |= set(action.text.split()[:1]) if result == "failed" else set()
        terminated = action is not None and action.kind in TERMINAL
        line = f"{said or action} failed" if action is None else str(action) if terminated else f"{action} = {text}"
        self.past, self.steps = [*self.past, line], self.steps + 1
        info = {"result": result, "success": right, "steps": self.steps, "oracle_steps": self.oracle_steps}
        return self.observe(), float(right), terminated, not terminated and self.steps >= self.max_steps, info

    def serve(self, text: str) -> tuple[str, str, tuple]:
        """(result, answer, the fact it is) of the frozen tools for the text of a call; the state stays as it is. The same call in the same
        state gives the same answer; an alias that did not reach its tool never does in this episode."""
        name, *args = text.split() or [""]
        tool = TOOL_ALIASES.get(name, name)
        deaf = name != tool and random.Random(f"alias {self.seed} {text}").random() >= ALIAS_RIGHT
        if tool in TOOLS and (deaf or random.Random(f"fail {self.key()}").random() < (FLAKY if self.split == "flaky" else TOOL_FAILS)):
            return "failed", "error", fact(tool, args)
        status, answer = guarded(partial(toy_tool, tool, args, self.beside, self.counts), TOOL_SECONDS)
        result = "broken" if status != "ok" else "ok" if answer else "impossible"
        return result, {"ok": answer, "broken": "broken"}.get(result, "error"), fact(tool, args)

    def executed(self, action: Action) -> Action:
        """An action with what the tools answered: "read apple = 7", in the words of the question's own call where it is one (so that neither an
        alias nor the order of a sum shows). All but calls pass. It is right when it equals one of the example's goals."""
        if action.kind != "call":
            return action
        _, answer, key = self.serve(action.text)
        own = next((f"{tool} {' '.join(args)}" for tool, args, _ in self.missing(self.root) if fact(tool, args) == key), action.text[:400])
        return Action("call", f"{own} = {answer}")

    def missing(self, call: Call) -> list[Call]:
        """The calls still to be made for this one's answer, in order. What a known answer was made of is not needed."""
        tool, args, needs = call
        if fact(tool, args) in self.known:
            return []
        return [*dict.fromkeys(c for need in needs for c in self.missing(need)), call]

    def oracle(self, horizon: int, exact: bool = False) -> list[Action]:
        """The reference actions from the present state: the calls whose answers are still missing, with true arguments, then the answer. Unless
        `exact`, they are an annotator's: seven in ten (episode, tool) pairs go by the alias, until the tool agent refused it."""
        loose = {tool: name for name, tool in TOOL_ALIASES.items() if not exact and name not in self.refused
                 and random.Random(f"annotator {self.seed} {tool}").random() < TOOL_ALIAS_RATE}
        calls = [Action("call", " ".join((loose.get(tool, tool), *args))) for tool, args, _ in self.missing(self.root)]
        return [*calls, Action("answer", self.answer)][:horizon]

    def moves(self, rng: random.Random) -> list[Action]:
        """What an agent might do that knows the words and not the question: any call, or one that it has made before."""
        words = {"read": list(self.beside), "count": SHAPES, "lookup": list(KNOWLEDGE)}
        names = [name for name in (*TOOLS, *TOOL_ALIASES) if TOOL_ALIASES.get(name, name) != "mean"]
        calls = [(name, TOOL_ALIASES.get(name, name)) for name in rng.choices(names, k=5)]
        before = [line.removeprefix("call ").partition(" = ")[0] for line in self.past if line.startswith("call ")]
        fresh = [" ".join((name, *rng.choices(words.get(tool, NUMBERS), k=TOOLS[tool]))) for name, tool in calls]
        return [Action("call", text) for text in [*fresh, *before]]

    def example(self, horizon: int, plan: tuple[Action, ...] = ()) -> Example:
        """The present state as a training example. Goals: DEPARTURE: the paper's 1[answer matches] leaves open what a step in between should
        answer. Here it is an answer that the question still needs, from the call that gives it, or the right final answer: a call that is
        not needed pays nothing, whatever comes back, and neither does the same call a second time."""
        goals = [Action("call", f"{call[0]} {' '.join(call[1])} = {self.value(call)}") for call in self.missing(self.root)]
        return Example(replace(self.observe(), plan=plan), tuple(self.oracle(horizon)), key=self.key(),
                       goals=(*goals, Action("answer", self.answer)), tools=copy.copy(self).executed)

    def key(self) -> str:
        return f"{self.seed}/{self.steps}"


TOYS = {"toy-gui": ToyGUI, "toy-tools": ToyTools}


def execute_forecasts(pairs: Sequence[tuple[Action, Example]]) -> list[Action | None]:
    """What the frozen tool agents make of first forecast steps, all at once: the action with the point that was found, or a call with
    the tool's answer; None for a refusal."""
    return [example.tools(action) if example.tools else ground(action, example.elements, example.key) for action, example in pairs]


def execute(env: "ToyGUI | ToyTools | ToolTask", action: Action | None, pointed: bool = False) -> tuple[Observation, float, bool, bool, dict]:
    """Hand one forecast step to the tool agent and what it returns to the environment; None (nothing could be parsed)
    counts as a refusal. On the split `flaky` the tool agent's failures depend on the step, so that a retry can help. `pointed`: another
    tool agent was asked before; it refused a step that should point and does not."""
    if not isinstance(env, ToyGUI):  # the tools act in step
        return env.step(action, "unreadable")
    flaky = FLAKY if env.split == "flaky" else 0.0
    grounded = action and ground(action, env.visible(), env.key() + (f"/{env.steps}" if flaky else ""), flaky)
    if pointed:
        grounded = action if action and (action.point or action.kind not in POINTING) else None
    return env.step(grounded, said=str(action) if action else "unreadable")


@lru_cache(maxsize=4096)
def demonstration(split: str, index: int, horizon: int, noise: float, history: int, scale: int = 1, world: str = "toy-gui") -> list[Example]:
    """One recorded episode of a demonstrator that acts at random in a share `noise` of its steps, as one example a state.

    The random steps lead to states that an agent meets when it errs; the reference of each state is the oracle's plan from there.
    Repeatable: the record depends on the arguments alone.
    """
    env, rng = TOYS[world](split, scale, history), random.Random(f"demonstration {split} {index}")
    env.reset(index)
    examples = []
    for _ in range(env.max_steps):
        examples.append(env.example(horizon))
        action = examples[-1].reference[0]
        if rng.random() < noise:
            action = rng.choice(env.moves(rng))
        if execute(env, action)[2]:
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
# | gta            | dataset.json, image files                  | test                                                             |
# | gaia           | metadata.jsonl or parquet, attachments     | validation test                                                  |
# | mmtraj         | json lists, image files                    | train                                                            |
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
        calls = [statement.value for statement in parse_quietly(code).body]
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


# GTA: open-compass/GTA. GAIA: gaia-benchmark/GAIA. MM-Traj: T3-Agent, PengxiangLi/MAT. One screenshot for all steps: the first picture.

def within(folder: Path, name: str) -> Path:
    """A file of a data set; BadRecord outside its folder: a record may not name any file on the disk."""
    path = (folder / name).resolve()
    if not path.is_relative_to(folder.resolve()):
        raise BadRecord(f"path {name[:80]!r} leaves the data set")
    return path


def find_file(root: Path, *names: str) -> Path:
    if found := next((root / name for name in names if (root / name).is_file()), None):
        return found
    raise ValueError(f"{root}: {names[0]} is missing")


def read_records(path: Path, kind: type):
    """The list or dict in a JSON file; ValueError in one line."""
    if not isinstance(data := parse_json(path.read_bytes(), path.name), kind):
        raise ValueError(f"{path}: a {kind.__name__} of records is expected, not a {type(data).__name__}")
    return data


def tool_episode(ident: str, query: str, picture: Path | None, where: str, turns: list[tuple[Action, str, dict]], raw: dict):
    """What load_recorded wants, from turns (action, observation after it, raw); a small white picture where there is none. Histories show
    observations as the toy tool world does."""
    shot = partial(read_image, picture, where) if picture else partial(Image.new, "RGB", (32, 32), "white")
    texts = [one_line(f"{action} = {seen}" if seen else str(action)) for action, seen, _ in turns]
    return ident, query, texts, lambda index: [Step(shot, turns[index][0], (), {"index": index, **turns[index][2]})], raw


def gta_record(key: str, item: dict, folder: Path, where: str):
    """raw: gt_answer (None: a picture is asked for), files {name: path}, tools [names]. A step an assistant turn; step.raw: "name" and
    "arguments" of its first call (the official scorer looks at no other), or "answer"."""
    files = {get(entry, "path"): within(folder, entry["path"]) for entry in get(item, "files", list)}
    dialogs, turns = [turn if isinstance(turn, dict) else {} for turn in get(item, "dialogs", list)], []
    for turn, after in zip(dialogs, [*dialogs[1:], {}], strict=True):
        if get(turn, "role") == "assistant" and turn.get("tool_calls"):
            call = get(get(turn, "tool_calls", list)[0], "function", dict)
            raw = {"name": get(call, "name"), "arguments": get(call, "arguments", dict)}
            turns.append((Action("call", call_text(**raw)), str(after.get("content", ""))[:300], raw))
        elif turn["role"] == "assistant":
            turns.append((Action("answer", one_line(get(turn, "content"))), "", {"answer": turn["content"]}))
    query, gold = next((get(turn, "content") for turn in dialogs if turn["role"] == "user"), None), item.get("gt_answer", 0)
    groups = [*get(gold, "whitelist", list), *(get(gold, "blacklist", list) if gold.get("blacklist") else ())] if isinstance(gold, dict) else []
    if not turns or query is None or not isinstance(gold, dict | list | None) or not all(isinstance(group, list) for group in groups):
        raise BadRecord("dialogs: no turn of user or assistant; or gt_answer: neither whitelist, list nor null")
    tools = [get(tool, "name") for tool in get(item, "tools", list)]
    return tool_episode(key, query, next(iter(files.values()), None), where, turns, {"gt_answer": gold, "files": files, "tools": tools})


def gta(root: Path, split: str, report: Report) -> Iterator:
    """GTA's queries, from dataset.json with image/ beside it (toolmeta.json is not needed: each record repeats its part)."""
    if split != "test":
        raise ValueError(f"gta has one split, test, and no {split!r}")
    file = find_file(root, "dataset.json", "gta_dataset/dataset.json")
    for key, item in read_records(file, dict).items():
        yield (where := f"{file.name}: record {key}"), partial(gta_record, key, item, file.parent, where)


def gaia_record(row: dict | bytes, folder: Path, where: str):
    """raw: level, answer (None: private, as in the test split), files {name: path}, file_missing. One step: the answer."""
    row = parse_json(row, "line") if isinstance(row, bytes) else row
    if str(level := get(row, "Level", object)) not in ("1", "2", "3"):
        raise BadRecord(f"Level: {str(level)[:40]!r} is not 1, 2 or 3")
    answer, name = row.get("Final answer"), row.get("file_name")
    answer, path = None if answer in (None, "?") else str(answer), within(folder, get(row, "file_name")) if name else None
    raw = {"level": int(level), "answer": answer, "files": {name: path} if path else {}, "file_missing": bool(path and not path.is_file())}
    picture = path if path and path.is_file() and path.suffix.lower() in (".png", ".jpg", ".jpeg") else None
    return tool_episode(get(row, "task_id"), get(row, "Question"), picture, where, [(Action("answer", one_line(answer or "")), "", {})], raw)


def gaia(root: Path, split: str, report: Report) -> Iterator:
    """GAIA's questions, from 2023/<split>/metadata.jsonl or else metadata.parquet (needs pyarrow), with attachments beside it."""
    if split not in ("validation", "test"):
        raise ValueError(f"gaia has the splits validation and test, not {split!r}")
    file = find_file(root, *(f"{folder}{name}" for name in ("metadata.jsonl", "metadata.parquet") for folder in (f"2023/{split}/", f"{split}/", "")))
    if file.suffix == ".parquet":
        try:
            from pyarrow import parquet
        except ImportError:
            raise ValueError("gaia's parquet needs pyarrow: pip install pyarrow") from None
    for number, row in enumerate(file.read_bytes().split(b"\n") if file.suffix == ".jsonl" else parquet.read_table(file).to_pylist(), 1):
        if row and row != b"\r":
            yield (where := f"{file.name}: line {number}"), partial(gaia_record, row, file.parent, where)


MMTRAJ_TOOLS = {  # name -> its arguments by position
    "visualizer": ("question", "image_path"), "facedetection": ("image_path",), "objectlocation": ("object", "image_path"),
    "segmentation": ("image_path", "prompt"), "image_generator": ("prompt",), "image_edit": ("prompt", "image_path"),
    "inspect_file_as_text": ("file_path", "question"), "ask_search_agent": ("query",), "final_answer": ("answer",)}


def code_calls(code: str) -> list[tuple[str, dict]]:
    """The calls of known tools in a code block, inner ones first, as (name, arguments); ("python", {"code": ...}) where there is none. The
    code is parsed and never run; an argument that is no literal becomes {"code": its source}. BadRecord: not Python, or too long."""
    def literal(node: ast.AST):
        try:
            return ast.literal_eval(node)
        except (ValueError, TypeError):
            return {"code": ast.unparse(node)}

    try:
        calls = [n for n in ast.walk(parse_quietly(code)) if isinstance(n, ast.Call) and isinstance(n.func, ast.Name) and n.func.id in MMTRAJ_TOOLS]
        found = []
        for call in sorted(calls, key=lambda n: (n.end_lineno, n.end_col_offset)):  # an inner call ends before the outer one
            given = [*zip(MMTRAJ_TOOLS[call.func.id], call.args, strict=False), *((k.arg, k.value) for k in call.keywords if k.arg)]
            found.append((call.func.id, {name: literal(node) for name, node in given}))
    except (SyntaxError, ValueError, MemoryError, RecursionError):
        raise BadRecord("the code block is not Python") from None
    return found or [("python", {"code": code})]


def mmtraj_record(item: dict, folder: Path, where: str):
    """MiniCPM form (role, content) or Qwen-VL form (from, value). A call of a known tool is a step, other code the call python {"code": ...};
    final_answer is the step `answer` and the end. step.raw: code and observation of its turn."""
    said = [(get({"role": turn.get("from"), **turn}, "role"), get({"content": turn.get("value"), **turn}, "content"))
            for turn in get(item, "conversations", list) if isinstance(turn, dict)]
    images = item.get("image") or {}
    names = [images] if isinstance(images, str) else list(get(item, "image", dict).values()) if images else []
    query = re.sub(r"<image(_\d+)?>|Picture \d+: <img>.*?</img>", "", next((text for role, text in said if role == "user"), ""))
    picture, turns = within(folder, str(names[0])) if names else None, []
    for text, seen in [(text, after[1]) for (role, text), after in zip(said, [*said[1:], ("", "")], strict=True) if role == "assistant"]:
        if not (block := re.search(r"```(?:py|python)?\s*\n(.*?)```", text, re.DOTALL)):
            raise BadRecord("conversations: an assistant's turn without a code block")
        raw = {"code": block.group(1), "observation": seen}
        for name, given in code_calls(block.group(1)):
            if name == "final_answer":  # of a variable: its value is on record
                answer = item.get("answer") if isinstance(given.get("answer"), dict | None) else given["answer"]
                turns.append((Action("answer", one_line(str(answer))), "", raw))
                query = query.strip().removeprefix("Task:").strip()
                return tool_episode(get(item, "id"), query, picture, where, turns, {"answer": item.get("answer")})
            turns.append((Action("call", call_text(name, given)), seen[:300], raw | {"name": name, "arguments": given}))
    raise BadRecord("conversations: final_answer is never called")


def mmtraj(root: Path, split: str, report: Report) -> Iterator:
    """T3-Agent's MM-Traj: ROOT/*.json, lists of trajectories, and the images below ROOT."""
    if split != "train" or not (files := sorted(root.glob("*.json"))):
        raise ValueError(f"{root}: mmtraj has the split train alone, in *.json")
    for file in files:
        for number, item in enumerate(read_records(file, list)):
            yield (where := f"{file.name}: record {number}"), partial(mmtraj_record, item, root, where)


# One way in for all of them. A loader yields (where, read); read() gives (id, goal, texts of all steps, step function, raw).
LOADERS = {"androidcontrol": android_control, "gui-odyssey": gui_odyssey, "mind2web": mind2web, "agentnet": agentnet, "gta": gta, "gaia": gaia,
           "mmtraj": mmtraj}


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


# ----------------------------------------------------------------------------------------------------------------------
# The toolbox: a calculator that executes nothing, and GTA's tools as far as they run without network and large models
# ----------------------------------------------------------------------------------------------------------------------
# No tool executes text that a model wrote: GTA's Solver and Plot, which would have to, answer "not available here".

MAX_EXPRESSION, MAX_DEPTH = 300, 150  # characters: bounds the time and the number of operations; depth of the tree (as long as 1+1+1+...)
MAX_NUMBER, MAX_POWER_BITS = 1e300, 1000  # of each intermediate result: no product grows, no float is infinite; judged before it is computed
OPERATORS = {ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul, ast.Div: operator.truediv, ast.FloorDiv: operator.floordiv,
             ast.Mod: operator.mod, ast.Pow: operator.pow, ast.UAdd: operator.pos, ast.USub: operator.neg}
FUNCTIONS = {"abs": abs, "round": round, "min": min, "max": max, "pow": operator.pow, "sqrt": math.sqrt, "exp": math.exp, "log": math.log,
             "log10": math.log10, "log2": math.log2, "sin": math.sin, "cos": math.cos, "tan": math.tan, "floor": math.floor, "ceil": math.ceil}


def parse_quietly(code: str, mode: str = "exec") -> ast.AST:
    """ast.parse without its warnings about odd literals, which are about a model's text and not about this program."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return ast.parse(code if len(code) <= 20_000 else "(", mode=mode)


def calculate(expression: str) -> str:
    """The value of an arithmetic expression as text, or "error: ..."; never raises, runs no code, takes well under 0.1 s (there is no clock:
    length, depth, size and exponent are bounded, and with them the time).

    >>> calculate("(3.50 + 4.25) * 2"), calculate("9**9**9")
    ('15.5', 'error: the power is too large')
    """
    if not isinstance(expression, str) or len(expression) > MAX_EXPRESSION:
        return f"error: the expression must be text of at most {MAX_EXPRESSION} characters"
    # No quotes, brackets, backslashes or look-alike unicode get as far as the parser.
    if not re.fullmatch(r"[0-9A-Za-z_ .,+\-*/%()]+", expression):
        return "error: only numbers, + - * / // % ** ( ) and functions such as sqrt are understood"
    try:
        value = evaluate(parse_quietly(expression.strip(), "eval").body, 0)
    except (SyntaxError, MemoryError, RecursionError):  # MemoryError: the parser's word for nested too deeply
        return "error: not an expression"
    except (ArithmeticError, ValueError, TypeError) as problem:
        return f"error: {problem}"
    return str(value) if type(value) is int else f"{value:.12g}"  # 12 digits hide 0.1 + 0.2 = 0.30000000000000004


def evaluate(node: ast.AST, depth: int) -> int | float:
    if depth > MAX_DEPTH:
        raise ValueError("the expression is nested too deeply")
    work, args = None, []
    if isinstance(node, ast.Constant):
        result = node.value
    elif isinstance(node, ast.Name) and node.id in ("pi", "e"):
        result = getattr(math, node.id)
    elif isinstance(node, ast.UnaryOp | ast.BinOp) and type(node.op) in OPERATORS:
        work, args = OPERATORS[type(node.op)], [node.operand] if isinstance(node, ast.UnaryOp) else [node.left, node.right]
    elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in FUNCTIONS and not node.keywords:
        work, args = FUNCTIONS[node.func.id], node.args
    else:
        raise ValueError(f"{type(node).__name__} is not understood")
    if work:
        args = [evaluate(arg, depth + 1) for arg in args]
        if work is operator.pow and len(args) == 2 and all(type(a) is int for a in args) and args[0].bit_length() * abs(args[1]) > MAX_POWER_BITS:
            raise ValueError("the power is too large")
        if work is round and len(args) == 2 and abs(args[1]) > 300:
            raise ValueError("round takes at most 300 digits")  # 10**digits is computed inside
        result = work(*args)
    if type(result) not in (int, float):  # text, True, complex
        raise ValueError("not a real number")
    if not abs(result) <= MAX_NUMBER:  # written so that NaN fails too
        raise ValueError("a number is too large")
    return result


# name -> (category, required arguments, optional arguments), as in open-compass/GTA
GTA_TOOLS = {
    "OCR": ("perception", ("image",), ()), "ImageDescription": ("perception", ("image",), ()),
    "RegionAttributeDescription": ("perception", ("image", "bbox", "attribute"), ()), "TextToBbox": ("perception", ("image", "text"), ("top1",)),
    "DrawBox": ("operation", ("image", "bbox"), ("annotation",)), "AddText": ("operation", ("image", "text", "position"), ("color",)),
    "GoogleSearch": ("operation", ("query",), ("k",)), "Calculator": ("logic", ("expression",), ()), "Solver": ("logic", ("command",), ()),
    "Plot": ("logic", ("command",), ()), "MathOCR": ("logic", ("image",), ()), "CountGivenObject": ("logic", ("image", "text"), ("bbox",)),
    "TextToImage": ("creativity", ("keywords",), ()), "ImageStylization": ("creativity", ("image", "instruction"), ()),
    "Crop": ("none", ("image", "bbox"), ())}  # not one of the 14: it hands a part of a picture to the others
Vlm = Callable[[Image.Image, str], str]  # (picture, question) -> answer: agent.ask


def run_tool(name: str, arguments: dict, files: dict[str, Path | Image.Image], vlm: Vlm | None = None, seconds: float = 30.0) -> tuple[str, str]:
    """Calls a tool: (status, observation), with status ok, error or unavailable; nothing is raised.

    `files`: the names that arguments may use ("image/image_1.jpg") -> paths or pictures; nothing else can be opened. A picture that a
    tool makes is added as "picture_1", ... A tool that hangs for `seconds` is given up."""
    status, made = guarded(partial(use_tool, name, arguments, files, vlm, seconds), seconds)
    if isinstance(made, Image.Image):
        files[key := f"picture_{1 + sum(key.startswith('picture_') for key in files)}"] = made
        made = key
    return status, made


def use_tool(name: str, given: dict, files: dict, vlm: Vlm | None, seconds: float) -> str | Image.Image:
    """The work of one tool. NotImplementedError: not here; any other error: an unknown tool, arguments that do not fit."""
    _, required, optional = GTA_TOOLS.get(name, ((), (), ())) if isinstance(name, str) else ((), (), ())
    if not required:
        raise ValueError(f"there is no tool {str(name)[:40]!r}")
    if not isinstance(given, dict) or set(required) - set(given) or set(given) - {*required, *optional}:
        raise ValueError(f"{name} takes {', '.join((*required, *optional))}, not {list(given)[:8] if isinstance(given, dict) else given}")
    if name == "Calculator":
        return calculate(given["expression"])
    if name in ("Solver", "Plot", "GoogleSearch", "TextToBbox", "MathOCR", "TextToImage", "ImageStylization"):
        raise NotImplementedError(name + (" would execute a model's code" if name in ("Solver", "Plot") else " needs the network or a large model"))
    if not isinstance(given["image"], str) or given["image"] not in files:
        raise ValueError(f"there is no file {str(given['image'])[:80]!r}; files: {', '.join(list(files)[:8]) or 'none'}")
    picture = files[given["image"]]
    picture = picture.convert("RGB") if isinstance(picture, Image.Image) else read_image(picture, given["image"])
    pen, font = ImageDraw.Draw(picture), ImageFont.load_default(size=max(8, picture.height // 19))
    if name == "OCR":
        if not shutil.which("tesseract"):
            raise NotImplementedError("OCR needs tesseract (apt install tesseract-ocr)")
        with tempfile.TemporaryDirectory() as folder:  # it gets a file and no shell
            picture.save(path := Path(folder) / "picture.png")
            done = subprocess.run(["tesseract", str(path), "stdout"], capture_output=True, text=True, timeout=seconds, check=True)
        return done.stdout.strip() or "no text found"
    if name == "AddText":
        anchor, places = str(given["position"]), [(m := picture.width // 20, side // 2, side - m) for side in picture.size]
        if re.fullmatch(r"[lmr][tmb]", anchor):  # lt, mm, rb, ...; else "(x, y)" of the text's lower left corner in px
            xy = places[0]["lmr".index(anchor[0])], places[1]["tmb".index(anchor[1])]
        else:
            xy, anchor = read_numbers(anchor, 2), "lb"
        pen.text(xy, one_line(str(given["text"]), 200), str(given.get("color") or "red")[:20], font, anchor)
        return picture
    if given.get("bbox") is not None:
        x1, y1, x2, y2 = box = [int(min(max(v, 0), side)) for v, side in zip(read_numbers(given["bbox"], 4), picture.size * 2, strict=True)]
        if x1 >= x2 or y1 >= y2:
            raise ValueError(f"the box {str(given['bbox'])[:40]!r} is empty on this picture")
        if name == "DrawBox":
            pen.rectangle(box, outline="red", width=2)
            pen.text((x1, y1), one_line(str(given.get("annotation") or ""), 200), fill="red", anchor="lb", font=font)
            return picture
        picture = picture.crop(box)
    if name == "Crop":
        return picture
    if vlm is None:
        raise NotImplementedError(f"{name} needs a vision-language model (--tool_agent)")
    if name == "CountGivenObject":
        found = re.search(r"\d+", str(vlm(picture, f"How many {str(given['text'])[:200]} are in the image? Answer with a number.")))
        return found.group() if found else "0"  # as GTA's own tool
    what = "image in detail" if name == "ImageDescription" else f"{str(given['attribute'])[:200]} of this part of an image"
    return str(vlm(picture, f"Describe the {what}."))


def read_numbers(text: object, count: int) -> list[float]:
    """The numbers in a text such as "(10, 20, 30, 40)"; ValueError unless there are `count`."""
    found = re.findall(r"-?\d{1,6}(?:\.\d{1,6})?", str(text)[:200])
    if len(found) != count:
        raise ValueError(f"{count} numbers are needed, got {str(text)[:40]!r}")
    return [float(number) for number in found]


class ToolTask:
    """A question of GTA or GAIA with the toy worlds' methods: calls go to the toolbox, an answer ends it. `said` is what a predictions
    file would hold (a call with "error" where its tool gave none)."""

    oracle_steps, max_steps = 0, 10  # nobody knows the oracle's

    def __init__(self, episode: Episode, history: int, vlm: Vlm | None = None):
        self.episode, self.keep, self.vlm = episode, history, vlm

    def reset(self, seed: int) -> tuple[Observation, dict]:
        self.past, self.files, self.said = [], dict(self.episode.raw["files"]), {"answer": None, "tool_calls": []}
        return self.observe(), {}

    def observe(self) -> Observation:
        return Observation(self.episode.instruction, self.episode.steps[0].screenshot, tuple(self.past[-self.keep:] if self.keep else ()))

    def oracle(self, *_) -> list:
        return []

    visible = oracle

    def step(self, action: Action | None, said: str | None = None) -> tuple[Observation, float, bool, bool, dict]:
        status, text = "impossible", "error: a tool call or an answer is expected"
        if action and action.kind == "call":
            call = read_call(action.text)
            status, text = run_tool(call["name"], call["arguments"], self.files, self.vlm)
            self.said["tool_calls"].append(call | ({} if status == "ok" else {"error": text}))
        elif action and action.kind == "answer":
            status, self.said["answer"] = "ok", action.text
        self.past.append(one_line(f"{action or said} = {text}"))
        over = action is not None and action.kind in TERMINAL
        return self.observe(), 0.0, over, len(self.past) >= self.max_steps, {"result": status, "success": False}


def call_text(name: str, arguments: dict) -> str:
    """The text of a call: 'Calculator {"expression": "3+4"}'."""
    try:
        return one_line(f"{name} {json.dumps(arguments, ensure_ascii=False, default=str)}")
    except TypeError:  # keys that JSON does not have
        return one_line(f"{name} {arguments}")


def read_call(text: str) -> dict:
    """The reverse; "arguments" is what stands there when it is not JSON, and the tool then says what it takes."""
    name, _, arguments = text.partition(" ")
    with suppress(BadRecord):
        arguments = parse_json(arguments, "arguments")
    return {"name": name, "arguments": arguments}


def main() -> None:
    """Draw an oracle episode as a film strip."""
    import argparse

    parser = argparse.ArgumentParser(description="Draw an oracle episode of a toy world as a film strip.")
    parser.add_argument("--env", default="toy-gui", choices=("toy-gui", "toy-tools"))
    parser.add_argument("--split", default="train", help=f"toy-gui: {', '.join(SPLITS)}; toy-tools: {', '.join(ToyTools.splits)}")
    parser.add_argument("--seed", type=int, default=0, help="which task of the split")
    parser.add_argument("--scale", type=int, default=3, help="1: 128 x 96 px, as the tiny model sees it")
    parser.add_argument("--picture", default="oracle.png", help="where the film strip goes")
    args = parser.parse_args()
    from agent import play
    from envs import TOYS, execute  # this file once more, as the module that the others know
    from eval import draw_episode, oracle_planner
    try:
        p = play(oracle_planner(5), [TOYS[args.env](args.split, args.scale)], [args.seed], execute, 5)[0]
        draw_episode(p, args.picture, width=128 * args.scale)
    except (OSError, ValueError) as error:
        die(f"cannot draw {args.picture}: {error}")
    print(f"task: {p.observations[0].instruction}\noracle: {'; '.join(str(plan[0]) for plan in p.forecasts)}\n"
          f"solved: {p.success}, {len(p.results)} steps; picture in {args.picture}")


if __name__ == "__main__":
    main()
