"""envs.py: the world. What an agent can do, what it sees, and who carries it out.

From top to bottom: the action table and the one coordinate frame; the records (Observation, Example, Step, Episode) that
every other script passes on; the toy GUI with its tasks, its oracle and its splits; the frozen tool agent.

`python envs.py` draws an oracle episode as a film strip.
"""

import copy
import hashlib
import math
import random
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache, lru_cache
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
        if self.point is not None:
            if len(self.point) != 2 or not all(math.isfinite(v) and 0.0 <= v <= 1.0 for v in self.point):
                raise ValueError(f"point {self.point} is not inside 0..1")

    def __str__(self) -> str:
        return f"{self.kind} {self.text}".strip()


def inside(point: Point, box: Box) -> bool:
    """Whether a point lies in a box, edges included."""
    return box[0] <= point[0] <= box[2] and box[1] <= point[1] <= box[3]


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
# Each thing has two names; a screen shows one of them, an instruction may use the other.
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
            shown[concept] = rng.choice(names)
            said[concept] = names[1 - names.index(shown[concept])] if rng.random() < ALIAS_IN_INSTRUCTION else shown[concept]
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
    n_popups = 2 if split == "popup" else int(rng.random() < 0.2)
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
        x1, y1, x2, y2 = self.box(e)
        return Action("click", self.task.spoken.get(concept, e.label), ((x1 + x2) / 2, (y1 + y2) / 2))

    def example(self, horizon: int, plan: tuple[Action, ...] = ()) -> Example:
        """The present state as a training example, with the oracle's next `horizon` actions as the reference."""
        reference = tuple(self.oracle(horizon))
        hit = next((e for e in self.elements() if reference[0].point and inside(reference[0].point, self.box(e))), None)
        seen = self.observe()
        return Example(Observation(seen.instruction, seen.screenshot, seen.history, plan), reference, (self.box(hit),) if hit else (),
                       self.visible(), f"{self.task.seed}/{self.page}/{self.offset}/{self.overlay}")


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

EXACT, ALIAS_RIGHT, ALIAS_WRONG, FLAKY = 0.98, 0.30, 0.10, 0.15
ALIASES = {a: b for pair in PAGES + CHECKS + FIELDS for a, b in (pair.split("|"), pair.split("|")[::-1])}


def ground(action: Action, elements: tuple[tuple[str, Box], ...], key: str, flaky: float = 0.0) -> Action | None:
    """The toy's frozen tool agent: step instruction -> executable action with a point, or None when it refuses.

    An exact label is found in 98 % of cases, a label's other name in 30 % (and taken for something else in 10 %), any other
    text never; `flaky` is the chance that it fails whatever the text. Like a frozen model with greedy decoding it
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
    if exact and chance < EXACT:
        box = draw.choice(exact)
    elif not exact and alias and chance < ALIAS_RIGHT:
        box = alias[0]
    elif not exact and alias and chance < ALIAS_RIGHT + ALIAS_WRONG:
        box = draw.choice(elements)[1]
    return box and Action(action.kind, action.text, ((box[0] + box[2]) / 2, (box[1] + box[3]) / 2))


def execute(env: ToyGUI, action: Action | None) -> tuple[Observation, float, bool, bool, dict]:
    """Hand one forecast step to the tool agent and what it returns to the environment; None (nothing could be parsed)
    counts as a refusal. On the split `flaky` the tool agent's failures depend on the step, so that a retry can help."""
    flaky = FLAKY if env.split == "flaky" else 0.0
    key = f"{env.task.seed}/{env.page}/{env.offset}/{env.overlay}" + (f"/{env.steps}" if flaky else "")
    grounded = action and ground(action, env.visible(), key, flaky)
    return env.step(grounded, said=str(action) if action else "unreadable")


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
