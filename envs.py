"""envs.py: the world. What an agent can do, what it sees, and who carries it out.

From top to bottom:
  * actions: the table of what an agent can do, and the one coordinate frame;
  * records: Observation and Example, which every other script passes on;
  * the toy GUI: its words and splits, its tasks, the world itself (screens, clicks, oracle) and its
    pictures;
  * the toy GUI's frozen tool agent, which turns "click Save" into a point on the screen or refuses;
  * demonstrations: the oracle's episodes, played when they are asked for and stored in no file.

This file stands on nothing else of the project.
"""

import copy
import dataclasses
import hashlib
import random
import sys
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, lru_cache, partial
from itertools import chain
from typing import NoReturn

from PIL import Image, ImageDraw, ImageFont

# --------------------------------------------------------------------------------------------------
# Actions. One frame everywhere inside: points are floats in 0..1, x to the right, y down, origin
# top left.
# --------------------------------------------------------------------------------------------------

Point = tuple[float, float]
Box = tuple[float, float, float, float]  # x1, y1, x2, y2 in the same frame

# kind -> what its text says
KINDS = {
    "click": "the element",
    "double_click": "the element",
    "right_click": "the element",
    "long_press": "the element",
    "hover": "the element",
    "drag": "what is dragged to what, such as Box to Bin",
    "select": "the option",
    "type": "the text to enter",
    "scroll": "up, down, left or right: the side whose content comes into view",
    "key": "key names joined by +, such as ctrl+c or enter",
    "open_app": "the app's name",
    "back": "",
    "home": "",
    "recent": "",
    "wait": "",
    "call": "a tool's name and its arguments",
    "answer": "the answer; ends the episode",
    "done": "ends the episode: finished",
    "fail": "ends the episode: cannot be done",
}
# The kinds that need a point before they can be carried out: a tool agent has to find it.
POINTING = frozenset(
    {"click", "double_click", "right_click", "long_press", "hover", "drag", "select"}
)
TERMINAL = frozenset({"answer", "done", "fail"})
DIRECTIONS = frozenset({"up", "down", "left", "right"})
MAX_TEXT = 500  # characters


def die(message: str) -> NoReturn:
    """A user's mistake: one line, exit code 2, never a stack trace."""
    print(f"error: {message}", file=sys.stderr)
    raise SystemExit(2)


class WorldError(ValueError):
    """A world that is not there, or that cannot go on (a browser that crashes); one line."""


def one_line(text: str, limit: int | None = MAX_TEXT) -> str:
    """The text on one line of at most `limit` characters (None: of any length).

    By default it is what an Action takes.
    """
    return " ".join(text.splitlines())[:limit]


@dataclass(frozen=True)
class Action:
    """One operation. `text` is a single line; `point`, where there is one, lies in 0..1.

    Of a drag, `point` is where it begins and `end` where it ends; no other kind has an end.
    `expects` says what a forecast expects to see after it (--forecast_states); it is no part of
    what is done, so actions are equal whatever they expect.
    Raises ValueError for an unknown kind, a text that is too long or not one line, a scroll without
    a direction, an end of what is no drag, or a point that is not two finite numbers in 0..1:
    nothing that is not a legal action can exist.
    """

    kind: str
    text: str = ""
    point: Point | None = None
    end: Point | None = None
    expects: str = dataclasses.field(default="", compare=False, repr=False)

    def __post_init__(self):
        if self.kind not in KINDS:
            raise ValueError(f"unknown action kind {self.kind[:40]!r}")
        if not is_short_line(self.text):
            raise ValueError(
                f"the text of {self.kind} must be one line of at most {MAX_TEXT} characters"
            )
        if not is_short_line(self.expects):
            raise ValueError(f"what {self.kind} expects must be one line like its text")
        if self.kind == "scroll" and self.text not in DIRECTIONS:
            directions = ", ".join(sorted(DIRECTIONS))
            raise ValueError(
                f"scroll {self.text[:40]!r}: the direction must be one of {directions}"
            )
        if self.point is not None and not is_point(self.point):
            raise ValueError(f"point {self.point} is not inside 0..1")
        if self.end is not None and self.kind != "drag":
            raise ValueError(f"{self.kind} has no end: only a drag has one")
        if self.end is not None and not is_point(self.end):
            raise ValueError(f"end {self.end} is not inside 0..1")

    def __str__(self) -> str:
        return f"{self.kind} {self.text}".strip()


def is_short_line(text: object) -> bool:
    if not isinstance(text, str) or len(text) > MAX_TEXT:
        return False
    return "\n" not in text and "\r" not in text


def is_point(point: Sequence) -> bool:
    """Whether these are two numbers in 0..1; nan is not inside either."""
    if len(point) != 2:
        return False
    for number in point:
        if not isinstance(number, int | float):
            return False
        if not 0.0 <= number <= 1.0:
            return False
    return True


def split_drag(text: str, labels: Collection[str] = ()) -> tuple[str, str]:
    """The text of a drag -> what is dragged, and where to ("" where that is not said).

    A name may itself hold the word "to": the split counts that makes two of the `labels`, else the
    whole text where it is one, else the split that begins with one, else the last.

    >>> split_drag("Box to Bin"), split_drag("slider")
    (('Box', 'Bin'), ('slider', ''))
    >>> split_drag("Send to Bob to Bin", labels=["Send to Bob", "Bin"])
    ('Send to Bob', 'Bin')
    """
    parts = text.split(" to ")
    splits = []
    for number in range(len(parts) - 1, 0, -1):
        splits.append((" to ".join(parts[:number]), " to ".join(parts[number:])))
    splits.append((text, ""))

    def known(split: tuple[str, str]) -> int:
        dragged, goal = split
        if dragged not in labels:
            return 0
        if goal == "":
            return 2
        return 3 if goal in labels else 1

    return max(splits, key=known)


def inside(point: Point, box: Box) -> bool:
    """Whether a point lies in a box, edges included."""
    x, y = point
    x1, y1, x2, y2 = box
    return x1 <= x <= x2 and y1 <= y <= y2


def centre(box: Box) -> Point:
    x1, y1, x2, y2 = box
    return (x1 + x2) / 2, (y1 + y2) / 2


# --------------------------------------------------------------------------------------------------
# Records
# --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Observation:
    """What the policy sees.

    `screenshot` is a function, so that an image is opened only where it is needed; `history` holds
    the last steps as text, oldest first; `plan` is what was left of the last forecast (only with
    --carry_forecast).
    """

    instruction: str
    screenshot: Callable[[], Image.Image]
    history: tuple[str, ...] = ()
    plan: tuple[Action, ...] = ()


@dataclass(frozen=True)
class Example:
    """An observation with the reference actions from here on (the oracle's or a record's).

    `boxes`: where a point counts as right for the first reference action (empty: near the recorded
    point; kinds that do not point are compared by their texts).
    `elements`: what a frozen tool agent can find on this screen, (label, box) each; `key` makes its
    mistakes repeatable.
    `goals`: what counts as a right first step once the tools have answered (empty: the reference).
    `tools`: asks the tools of a world that has some (None: the tool agent looks for an element).
    `leads_right`: carries out what the tool agent made of a step, and tells whether that leads
    where the reference leads; it returns None where that cannot be told. The field itself is None
    in a world that cannot be put back into this state: there goals and boxes decide.
    """

    observation: Observation
    reference: tuple[Action, ...]
    boxes: tuple[Box, ...] = ()
    elements: tuple[tuple[str, Box], ...] = ()
    key: str = ""
    goals: tuple[Action, ...] = ()
    tools: Callable[[Action], Action] | None = None
    leads_right: Callable[[Action], bool | None] | None = None

    def execute(self, action: Action) -> Action | None:
        """What this world's own frozen tool agent makes of a forecast step; None: it refuses.

        DEPARTURE: a record without elements (no box, or no text to find it by) says nothing of the
        screen; there a step's own point stands.
        """
        if self.tools is not None:
            return self.tools(action)
        if not self.elements and action.point is not None:
            return action
        return find_element(action, self.elements, self.key)


# Forecast steps and the examples that they were written for -> what can be carried out (None: the
# tool agent refuses), as many as there were steps.
ToolAgent = Callable[[Sequence[Action], Sequence[Example]], list[Action | None]]


def own_tool_agent(actions: Sequence[Action], examples: Sequence[Example]) -> list[Action | None]:
    """The tool agents that belong to the examples' worlds."""
    executed = []
    for action, example in zip(actions, examples, strict=True):
        executed.append(example.execute(action))
    return executed


# --------------------------------------------------------------------------------------------------
# The toy GUI: settings apps with pages, check boxes, text fields, menus, dialogs, a commit button
# --------------------------------------------------------------------------------------------------
# A screen is 8 x 6 cells of 16 x 16 px (times `scale`). Every icon and every word begins in a cell
# of its own, and no word is wider than three cells: no cell shows parts of two words, and a vision
# tower with 16 px patches can then learn to read. A page with its parts as they usually lie:
#
#     column  0         1..3       4         5..7
#     row 0   <tab>     Settings   <here>    Sound     navigation: the pages' tabs (or a menu)
#     row 1   <tab>     Network    <link>    Audio                 and perhaps a link
#     row 2   <note>    coral                          body: three rows of the page
#     row 3   <on>      Dark       <off>     Sync
#     row 4   <field>   Name                 amber
#     row 5   <button>  Save       <more>    More      bottom: commit, and whether the page scrolls

CELL = 16  # px
COLS = 8
ROWS = 6
BODY = 3  # rows of a page that fit on the screen

# Each thing has two names, "Sound|Audio" is one concept: screens show the first name, instructions
# use either.
PAGES = (
    "Settings|Options",
    "Account|Profile",
    "Sound|Audio",
    "Display|Screen",
    "Privacy|Security",
    "Network|Wifi",
)
CHECKS = (
    "Beep|Tone",
    "Dark|Night",
    "Sync|Mirror",
    "Backup|Archive",
    "Places|Location",
    "Updates|Patches",
    "Logs|Records",
    "Mute|Silence",
)
FIELDS = ("Name|Title", "City|Town", "Phone|Mobile", "Memo|Remark")
CONCEPTS = PAGES + CHECKS + FIELDS

# What can be typed into a field.
VALUES = ("amber", "birch", "coral", "delta", "ember", "flint", "grove", "haven")
COMMITS = ("Save", "Apply", "Send", "Submit", "Confirm")  # the button at the bottom
POPUPS = ("Rate", "Upgrade", "Offer", "Survey")  # what an interrupting dialog says
DISMISS = ("Later", "Skip", "Close", "Cancel")  # the button that closes it
LURES = ("Install", "Accept")  # a tempting button beside that one
OTHER = ("Menu", "More", "Saved", "Missing", "Guide", "OK")


def both_names(concept: str) -> tuple[str, str]:
    """The name on the screen and the other one.

    >>> both_names("Sound|Audio")
    ('Sound', 'Audio')
    """
    first, second = concept.split("|")
    return first, second


# Every word that can stand on a screen: what the tiny model's vision tower is taught to read.
SCREEN_WORDS = (
    *chain.from_iterable(map(both_names, CONCEPTS)),
    *VALUES,
    *COMMITS,
    *POPUPS,
    *DISMISS,
    *LURES,
    *OTHER,
)

# Each split has a million seeds of its own: no overlap.
SPLITS = {
    "train": 0,
    "dev": 1,
    "test": 2,
    "layout": 3,  # held out: navigation below, content above, strongly tinted backgrounds
    "app": 4,  # held out: apps with other pages
    "popup": 5,  # two interruptions in each episode instead of one in half of them
    "flaky": 6,  # the tool agent fails now and then, whatever the text
}
SPLIT_SIZE = 1_000_000
TRAIN_APPS = 5
NEW_APPS = 2  # of the split `app`

ALIAS_IN_INSTRUCTION = 0.5  # how often an instruction uses the name that is not on the screen
ALIAS_IN_REFERENCE = 0.5  # how often reference texts do too: an imagined annotator words them
MENU_RATE = 0.34  # how often pages are reached through a menu instead of tabs
CODE_RATE = 0.6  # how often a value has to be remembered, where the task allows it
DECOY_RATE = 0.4  # how often a misleading link is shown, where the task allows it
POPUP_RATE = 0.5  # how often an episode is interrupted
SLACK = 5  # steps beyond the oracle's before an episode is truncated
WHOLE_TASK = 60  # a horizon that no plan of the oracle reaches


# ---- what a task is ------------------------------------------------------------------------------
# An instruction: "Audio: switch Tone on; Wifi: type code in City; finish". The screen may call
# these pages Sound and Network, and the switch Beep; the code is a value that the first page shows;
# "finish" means to press the commit button and to say `done`. Between the steps a popup may have to
# be dismissed.


@dataclass(frozen=True)
class AppPage:
    """What a page of an app is made of, the same in all its tasks.

    Pages, check boxes and fields are known by their concepts, here and below: "Sound|Audio".
    """

    title: str
    checks: tuple[str, ...]
    fields: tuple[str, ...]


@dataclass(frozen=True)
class Page:
    """A page as one task shows it."""

    title: str
    rows: tuple[tuple[str, ...], ...]  # widgets from top to bottom; two check boxes share a row

    @property
    def widgets(self) -> list[str]:
        return list(chain.from_iterable(self.rows))


@dataclass(frozen=True)
class Goal:
    page: int  # which of the task's pages the widget is on
    widget: str
    value: str | None  # what to type; None: flip the switch


@dataclass(frozen=True)
class Dialog:
    """Lies over the page until it is dismissed."""

    message: str
    dismiss: str  # the label of the button that closes it
    lure: str | None = None  # the label of a tempting button that leads astray


@dataclass(frozen=True)
class Menu:
    """Lies over the page: the list of all pages, open."""


@dataclass(frozen=True)
class Guide:
    """Lies over the page: where the decoy leads. There is nothing to do but to go back."""


Overlay = Dialog | Menu | Guide


@dataclass(frozen=True)
class Popup:
    """An interruption that the instruction does not mention."""

    step: int  # before which step it comes
    dialog: Dialog


@dataclass(frozen=True)
class Layout:
    """The rows in which the three parts of a screen begin."""

    navigation: int
    body: int
    bottom: int


USUAL = Layout(navigation=0, body=2, bottom=5)
FLIPPED = Layout(navigation=4, body=1, bottom=0)

Colour = tuple[int, int, int]  # red, green, blue in 0..255


@dataclass(frozen=True)
class Colours:
    paper: Colour
    ink: Colour
    accent: Colour


@dataclass(frozen=True)
class Task:
    """All that is decided by a seed before the first step."""

    seed: int
    pages: tuple[Page, ...]
    first_page: int
    menu: bool  # pages are reached through a menu instead of tabs
    goals: tuple[Goal, ...]
    instruction: str
    shown: dict[str, str]  # concept -> its name on the screen
    spoken: dict[str, str]  # concept -> the name that the reference texts use
    start: dict[str, str | bool]  # widget -> what it holds at the start
    code: str | None  # shown on the first page only, needed on another one
    decoy: str | None  # the label of a link: the instruction's word for a page, but it leads astray
    popups: tuple[Popup, ...]
    commit: str  # the label of the button that saves
    layout: Layout
    colours: Colours


# ---- choosing a task -----------------------------------------------------------------------------
# Each choice takes its random numbers from one stream, and in this order: in another order the same
# seed would be another task. Which of its two names a concept has where, three dictionaries say:
# `said` in the instruction, `shown` on the screen, `spoken` in the annotator's reference texts.


def make_task(split: str, index: int, memory: float | None = None) -> Task:
    """The task of one seed.

    `memory`: the dial of extras/memory_gui.py; None: the usual tasks. Raises ValueError for an
    unknown split or an index outside 0..999,999.
    """
    check_split(split)
    if not 0 <= index < SPLIT_SIZE:
        raise ValueError(f"seed {index} is outside 0..{SPLIT_SIZE - 1}")
    seed = SPLITS[split] * SPLIT_SIZE + index
    rng = random.Random(f"task {seed}")

    pages = []
    start = {}
    said = {}
    for app_page in app_pages(choose_app(rng, split)):
        pages.append(choose_page(rng, app_page))
        start |= choose_start(rng, app_page)
        said |= choose_said(rng, app_page)
    shown = {concept: both_names(concept)[0] for concept in said}

    first_page = rng.randrange(len(pages))
    menu = rng.random() < MENU_RATE
    goals = choose_goals(rng, pages, menu)
    code = choose_code(rng, goals, first_page)
    if memory is not None:
        # Draws of its own. Where it moves a goal to another page, the usual draws below this line
        # can be others too (one task in twenty): equally at each share.
        dial = random.Random(f"memory {seed}")
        value = ask_for_value(dial, goals, pages, first_page)
        code = value if dial.random() < memory else None
    misnamed = misnamed_pages(goals, pages, first_page, said=said, shown=shown)
    decoy_title = choose_decoy(rng, misnamed)
    spoken = choose_spoken(rng, decoy_title, said=said, shown=shown)
    popups = choose_popups(rng, split)
    commit = rng.choice(COMMITS)
    new_layout = split == "layout"
    colours = choose_colours(rng, tinted=new_layout)

    return Task(
        seed=seed,
        pages=tuple(pages),
        first_page=first_page,
        menu=menu,
        goals=tuple(goals),
        instruction=describe(goals, pages, said=said, start=start, code=code),
        shown=shown,
        spoken=spoken,
        start=start,
        code=code,
        decoy=None if decoy_title is None else said[decoy_title],
        popups=popups,
        commit=commit,
        layout=FLIPPED if new_layout else USUAL,
        colours=colours,
    )


def check_split(split: str) -> None:
    if split not in SPLITS:
        raise ValueError(f"unknown split {split!r}: choose one of {', '.join(SPLITS)}")


def choose_app(rng: random.Random, split: str) -> int:
    if split == "app":
        return TRAIN_APPS + rng.randrange(NEW_APPS)
    return rng.randrange(TRAIN_APPS)


@cache
def app_pages(app: int) -> tuple[AppPage, AppPage, AppPage]:
    """The fixed make-up of one app: three pages. The third is too long for the screen."""
    rng = random.Random(f"app {app}")
    titles = rng.sample(PAGES, 3)
    checks = rng.sample(CHECKS, 8)
    fields = rng.sample(FIELDS, 4)
    return (
        AppPage(titles[0], tuple(checks[:2]), tuple(fields[:1])),
        AppPage(titles[1], tuple(checks[2:4]), tuple(fields[1:2])),
        AppPage(titles[2], tuple(checks[4:]), tuple(fields[2:])),
    )


def choose_page(rng: random.Random, app_page: AppPage) -> Page:
    """The widgets in this episode's order: a field fills a row, check boxes stand in pairs."""
    checks = rng.sample(app_page.checks, len(app_page.checks))
    pairs = list(zip(checks[::2], checks[1::2], strict=True))
    rows = [(field,) for field in app_page.fields] + pairs
    return Page(app_page.title, tuple(rng.sample(rows, len(rows))))


def choose_start(rng: random.Random, app_page: AppPage) -> dict[str, str | bool]:
    """What each widget of a page holds at the start: a switch anything, a field nothing."""
    start = {}
    for check in app_page.checks:
        start[check] = rng.random() < 0.5
    for field in app_page.fields:
        start[field] = ""
    return start


def choose_said(rng: random.Random, app_page: AppPage) -> dict[str, str]:
    """The name that the instruction uses for a page and for each widget on it."""
    said = {}
    for concept in (app_page.title, *app_page.checks, *app_page.fields):
        on_screen, other = both_names(concept)
        use_other = rng.random() < ALIAS_IN_INSTRUCTION
        said[concept] = other if use_other else on_screen
    return said


def choose_goals(rng: random.Random, pages: Sequence[Page], menu: bool) -> list[Goal]:
    """One to three goals, each on a page of its own.

    A page behind a menu costs two steps: two goals at most, so that no task exceeds 12 steps.
    """
    numbers = (1, 2, 2) if menu else (1, 1, 2, 2, 3)
    number = rng.choice(numbers)
    goals = []
    for page in rng.sample(range(len(pages)), number):
        widget = rng.choice(pages[page].widgets)
        value = rng.choice(VALUES) if widget in FIELDS else None
        goals.append(Goal(page, widget, value))
    return goals


def choose_code(rng: random.Random, goals: Sequence[Goal], first_page: int) -> str | None:
    """A value that the instruction calls "code": it stands on the first page only.

    The agent has to remember it until it reaches the page where it is needed.
    """
    elsewhere = [goal for goal in goals if goal.value is not None and goal.page != first_page]
    if elsewhere and rng.random() < CODE_RATE:
        return rng.choice(elsewhere).value
    return None


def ask_for_value(
    rng: random.Random, goals: list[Goal], pages: Sequence[Page], first_page: int
) -> str:
    """Make one goal, on another page than the first, a value to type; returns the value."""
    numbers = [number for number, goal in enumerate(goals) if goal.page != first_page]
    if numbers:
        number = rng.choice(numbers)
        page = goals[number].page
    else:
        number = 0
        page = rng.choice([other for other in range(len(pages)) if other != first_page])
    fields = [widget for widget in pages[page].widgets if widget in FIELDS]
    goal = Goal(page, rng.choice(fields), rng.choice(VALUES))
    goals[number] = goal
    return goal.value


def describe(
    goals: Sequence[Goal],
    pages: Sequence[Page],
    *,
    said: dict[str, str],
    start: dict[str, str | bool],
    code: str | None,
) -> str:
    """The instruction, such as "Audio: type code in Title; Network: switch Sync off; finish"."""
    parts = []
    for goal in goals:
        page = said[pages[goal.page].title]
        widget = said[goal.widget]
        if goal.value is None:
            wanted = "off" if start[goal.widget] else "on"
            parts.append(f"{page}: switch {widget} {wanted}")
        else:
            value = "code" if goal.value == code else goal.value
            parts.append(f"{page}: type {value} in {widget}")
    parts.append("finish")
    return "; ".join(parts)


def misnamed_pages(
    goals: Sequence[Goal],
    pages: Sequence[Page],
    first_page: int,
    *,
    said: dict[str, str],
    shown: dict[str, str],
) -> list[str]:
    """Titles of the pages that a goal leads to and that the screen calls differently."""
    misnamed = []
    for goal in goals:
        title = pages[goal.page].title
        if goal.page != first_page and said[title] != shown[title]:
            misnamed.append(title)
    return misnamed


def choose_decoy(rng: random.Random, misnamed: Sequence[str]) -> str | None:
    """The title whose other name a misleading link will bear."""
    if misnamed and rng.random() < DECOY_RATE:
        return misnamed[0]
    return None


def choose_spoken(
    rng: random.Random, decoy_title: str | None, *, said: dict[str, str], shown: dict[str, str]
) -> dict[str, str]:
    """The name that an annotator uses for each thing.

    Half of the time that is the instruction's word, else the one on the screen. The word that the
    decoy bears is never used: it would name the wrong link.
    """
    spoken = {}
    for concept in shown:
        repeats = rng.random() < ALIAS_IN_REFERENCE
        if repeats and concept != decoy_title:
            spoken[concept] = said[concept]
        else:
            spoken[concept] = shown[concept]
    return spoken


def choose_popups(rng: random.Random, split: str) -> tuple[Popup, ...]:
    if split == "popup":
        number = 2
    elif rng.random() < POPUP_RATE:
        number = 1
    else:
        number = 0
    popups = []
    for step in sorted(rng.sample(range(5), number)):
        message = rng.choice(POPUPS)
        dismiss = rng.choice(DISMISS)
        lure = rng.choice((None, *LURES))
        popups.append(Popup(step, Dialog(message, dismiss, lure)))
    return tuple(popups)


def choose_colours(rng: random.Random, tinted: bool) -> Colours:
    """Training has pale backgrounds; strongly tinted ones are held out for the split `layout`."""
    paper = [rng.randint(215, 255) for _ in range(3)]
    ink = [rng.randint(0, 70) for _ in range(3)]
    accent = [rng.randint(40, 190) for _ in range(3)]
    if tinted:
        value = rng.randint(120, 180)
        channel = rng.randrange(3)
        paper[channel] = value
    return Colours(tuple(paper), tuple(ink), tuple(accent))


def wanted_values(task: Task) -> dict[str, str | bool]:
    """Widget -> what it must hold at the end. Fields that no goal names are free."""
    wanted = {widget: held for widget, held in task.start.items() if widget in CHECKS}
    for goal in task.goals:
        if goal.value is None:
            wanted[goal.widget] = not task.start[goal.widget]
        else:
            wanted[goal.widget] = goal.value
    return wanted


# ---- the world -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Element:
    """Something on the screen that has a name."""

    label: str
    icon: str
    cell: tuple[int, int]  # column and row of the icon; the label begins one column further
    role: str = "none"  # what a click on it does: see ToyGUI.press
    page: int | None = None  # of a tab: which page it opens
    widget: str | None = None  # of a switch or a field: which one it is
    width: int = 4  # in cells

    @property
    def box(self) -> Box:
        column, row = self.cell
        return column / COLS, row / ROWS, (column + self.width) / COLS, (row + 1) / ROWS


CODE_NOTE = "code"  # stands in the place of a widget where the code is shown


def last_steps(past: Sequence[str], history: int) -> tuple[str, ...]:
    """The last `history` of the steps so far: what a policy is shown of them.

    >>> last_steps(["click Save", "back"], 1), last_steps(["back"], 0)
    (('back',), ())
    """
    first_shown = max(0, len(past) - history)
    return tuple(past[first_shown:])


class ToyGUI:
    """The toy GUI, in the shape of gymnasium's environments.

    reset(seed) -> (Observation, info);
    step(action) -> (Observation, reward, terminated, truncated, info).

    reward is 1.0 on the step that ends a solved task and 0.0 otherwise. info: "result" is "ok",
    "failed" (the tool agent found nothing: step(None)) or "impossible" (nothing happens there),
    "success", "steps", "oracle_steps".
    A task is solved when every widget of the instruction holds what it asks for, no other switch
    was changed, the commit button was pressed after that, and the agent said `done`.
    Same split and seed: same task and same pixels.

    >>> env = ToyGUI("test")
    >>> observation, info = env.reset(0)
    >>> action = env.oracle(1)[0]
    >>> observation, reward, terminated, truncated, info = env.step(action)
    >>> info["result"]
    'ok'
    """

    splits = tuple(SPLITS)
    grid = (COLS, ROWS)
    memory: float | None = None  # the dial of extras/memory_gui.py
    states = False  # see with_states
    # All that a prompt or a picture can hold beside the kinds of actions and the icons.
    words = (*SCREEN_WORDS, "switch", "on", "off", "in", "code", "finish")

    def __init__(self, split: str = "train", scale: int = 1, history: int = 4):
        """`scale`: of the picture, 1 is 128 x 96 px; `history`: how many past steps are shown."""
        check_split(split)
        if scale < 1 or history < 0:
            raise ValueError(f"scale {scale} must be at least 1 and history {history} at least 0")
        self.split = split
        self.scale = scale
        self.history = history

    def reset(self, seed: int) -> tuple[Observation, dict]:
        self.task = make_task(self.split, seed, self.memory)
        self.wanted = wanted_values(self.task)
        # What the screen shows.
        self.page = self.task.first_page
        self.offset = 0  # 1: scrolled down, to the second half of a long page
        self.overlay: Overlay | None = None  # what lies over the page and hides it
        self.focus: str | None = None  # the field that typing goes to
        self.values = dict(self.task.start)  # widget -> what it holds
        self.committed = False
        # What has happened.
        self.steps = 0
        self.past: list[str] = []
        self.refused: set[str] = set()  # names that the tool agent did not find
        self.popups = list(self.task.popups)  # those still to come
        # What is allowed: each popup costs a step to close, and perhaps one more for its lure.
        self.oracle_steps = len(self.oracle(WHOLE_TASK))
        self.max_steps = self.oracle_steps + SLACK + 2 * len(self.popups)

        self.interrupt()
        return self.observe(), {"oracle_steps": self.oracle_steps}

    def step(
        self, action: Action | None, said: str = ""
    ) -> tuple[Observation, float, bool, bool, dict]:
        """Carry out a grounded action; None stands for a refusal of the tool agent.

        `said` is the policy's own wording, for the history. An action that is impossible here
        leaves the state as it is.
        """
        if action is None:
            result = "failed"
        elif self.apply(action):
            result = "ok"
        else:
            result = "impossible"
        self.remember(action, said)
        self.steps += 1
        terminated = action is not None and action.kind in TERMINAL
        success = terminated and action.kind == "done" and self.solved()
        truncated = not terminated and self.steps >= self.max_steps
        self.interrupt()
        info = {
            "result": result,
            "success": success,
            "steps": self.steps,
            "oracle_steps": self.oracle_steps,
        }
        return self.observe(), float(success), terminated, truncated, info

    def remember(self, action: Action | None, said: str) -> None:
        """Write a step into the history.

        Only a refusal is told to the policy: that a click had no effect, it has to see on the next
        screen.
        """
        line = said if said else str(action)
        if action is None:
            line += " failed"
            if said:
                _kind, _, name = said.partition(" ")
                self.refused.add(name)
        self.past.append(line)

    def interrupt(self) -> None:
        """Show the next popup when its step has come and nothing else lies over the page."""
        if not self.popups or self.overlay is not None:
            return
        if self.steps >= self.popups[0].step:
            self.overlay = self.popups.pop(0).dialog

    def solved(self) -> bool:
        return self.committed and not self.wrong()

    def wrong(self) -> list[str]:
        """The widgets that do not hold what they should.

        Those of the instruction come first and in its order.
        """
        asked = [goal.widget for goal in self.task.goals]
        others = [widget for widget in self.wanted if widget not in asked]
        return [widget for widget in asked + others if self.values[widget] != self.wanted[widget]]

    # ---- what the policy and the tool agent see --------------------------------------------------

    def observe(self) -> Observation:
        # The cells are read now: the picture shows this moment, whenever it will be drawn.
        screenshot = partial(draw_screen, self.task, self.cells(), self.scale)
        past = last_steps(self.past, self.history)
        return Observation(self.task.instruction, screenshot, past)

    def example(self, horizon: int, plan: tuple[Action, ...] = ()) -> Example:
        """The present state as an example; the oracle's next `horizon` actions are the reference.

        `plan`: what the observation shows as left of the last forecast.
        """
        reference = tuple(self.oracle(horizon))
        target = self.element_at(reference[0].point)
        return Example(
            observation=replace(self.observe(), plan=plan),
            reference=reference,
            boxes=() if target is None else (target.box,),
            elements=self.visible(),
            key=self.key(),
        )

    def ground(self, action: Action) -> Action | None:
        """What the world's frozen tool agent makes of a step here; None where it refuses.

        On `flaky` its failures depend on the step too, so that a retry can help.
        """
        if self.split == "flaky":
            key = f"{self.key()}/{self.steps}"
            return find_element(action, self.visible(), key, flaky=FLAKY)
        return find_element(action, self.visible(), self.key())

    def visible(self) -> tuple[tuple[str, Box], ...]:
        """What a tool agent can find: (label, box) of each element."""
        return tuple((element.label, element.box) for element in self.elements())

    def cells(self) -> dict[tuple[int, int], str]:
        """(column, row) -> the icon or word that begins there.

        This is what is drawn, and the truth that teaches a tiny vision tower to read.
        """
        cells = {}
        for element in self.elements():
            column, row = element.cell
            cells[column, row] = element.icon
            cells[column + 1, row] = element.label
            if element.role == "field" and self.values[element.widget]:
                cells[column + 5, row] = self.values[element.widget]
        return cells

    def screen_name(self) -> str:
        """What is seen now, in a word: what lies over the page, the field that is written in, the
        word that all is saved, or else the page."""
        if isinstance(self.overlay, Dialog):
            return self.overlay.message
        if isinstance(self.overlay, Menu):
            return "Menu"
        if isinstance(self.overlay, Guide):
            return "Guide"
        if self.focus is not None:
            return self.task.shown[self.focus]
        if self.committed:
            return "Saved"
        return self.shown_title(self.page)

    def key(self) -> str:
        """Names the screen, so that the tool agent answers the same on the same screen."""
        overlay = name_overlay(self.overlay)
        return f"{self.task.seed}/{self.page}/{self.offset}/{overlay}"

    # ---- what is on the screen -------------------------------------------------------------------

    def elements(self) -> list[Element]:
        """Everything with a name that can be seen now; what lies over the page hides it."""
        if isinstance(self.overlay, Guide):
            return [Element("Guide", "<alert>", cell=(2, 3))]
        if isinstance(self.overlay, Dialog):
            return self.dialog_elements(self.overlay)
        if isinstance(self.overlay, Menu):
            return self.menu_elements()
        return self.navigation_elements() + self.body_elements() + self.bottom_elements()

    def dialog_elements(self, dialog: Dialog) -> list[Element]:
        row = self.task.layout.body
        message = Element(dialog.message, "<alert>", cell=(2, row))
        column = 2 if dialog.lure is None else 0  # alone in the middle, or left of the lure
        dismiss = Element(dialog.dismiss, "<button>", cell=(column, row + 2), role="close")
        elements = [message, dismiss]
        if dialog.lure is not None:
            elements.append(Element(dialog.lure, "<button>", cell=(4, row + 2), role="lure"))
        return elements

    def menu_elements(self) -> list[Element]:
        """The open menu: the pages below each other."""
        row = self.task.layout.body
        elements = []
        for page in range(len(self.task.pages)):
            title = self.shown_title(page)
            elements.append(Element(title, "<tab>", cell=(2, row + page), role="page", page=page))
        return elements

    def navigation_elements(self) -> list[Element]:
        row = self.task.layout.navigation
        elements = self.menu_bar(row) if self.task.menu else self.tabs(row)
        if self.task.decoy is not None:
            elements.append(Element(self.task.decoy, "<link>", cell=(4, row + 1), role="guide"))
        return elements

    def menu_bar(self, row: int) -> list[Element]:
        """The button that opens the menu, and where one is."""
        menu = Element("Menu", "<button>", cell=(0, row), role="menu")
        here = Element(self.shown_title(self.page), "<here>", cell=(4, row))
        return [menu, here]

    def tabs(self, row: int) -> list[Element]:
        """A tab for each page, two in a row."""
        tabs = []
        for page in range(len(self.task.pages)):
            icon = "<here>" if page == self.page else "<tab>"
            cell = (4 * (page % 2), row + page // 2)
            tabs.append(Element(self.shown_title(page), icon, cell=cell, role="page", page=page))
        return tabs

    def body_elements(self) -> list[Element]:
        """The half of the page that is scrolled into view."""
        first = BODY * self.offset
        elements = []
        for below, row in enumerate(self.page_rows()[first : first + BODY]):
            for place, widget in enumerate(row):
                cell = (4 * place, self.task.layout.body + below)
                elements.append(self.widget_element(widget, cell))
        return elements

    def page_rows(self) -> list[tuple[str, ...]]:
        """The rows of the present page; the code stands above those of the first page."""
        rows = list(self.task.pages[self.page].rows)
        if self.task.code is not None and self.page == self.task.first_page:
            rows.insert(0, (CODE_NOTE,))
        return rows

    def widget_element(self, widget: str, cell: tuple[int, int]) -> Element:
        if widget == CODE_NOTE:
            return Element(self.task.code, "<note>", cell=cell)
        name = self.task.shown[widget]
        if widget in FIELDS:
            icon = "<cursor>" if self.focus == widget else "<field>"
            return Element(name, icon, cell=cell, role="field", widget=widget, width=8)
        icon = "<on>" if self.values[widget] else "<off>"
        return Element(name, icon, cell=cell, role="switch", widget=widget)

    def bottom_elements(self) -> list[Element]:
        row = self.task.layout.bottom
        if self.committed:
            elements = [Element("Saved", "<alert>", cell=(0, row))]
        else:
            elements = [Element(self.task.commit, "<button>", cell=(0, row), role="commit")]
        if self.scrollable():
            elements.append(Element("More", "<more>", cell=(4, row)))
        return elements

    def scrollable(self) -> bool:
        return len(self.page_rows()) > BODY

    def shown_title(self, page: int) -> str:
        return self.task.shown[self.task.pages[page].title]

    def element_at(self, point: Point | None) -> Element | None:
        if point is None:
            return None
        for element in self.elements():
            if inside(point, element.box):
                return element
        return None

    # ---- what actions do -------------------------------------------------------------------------

    def apply(self, action: Action) -> bool:
        """Change the state; False when the action can do nothing here."""
        if action.kind in TERMINAL:
            return True
        if action.kind == "back":
            return self.go_back()
        if action.kind == "click":
            return self.click(action.point)
        if self.overlay is not None:  # the page below takes neither text nor gestures
            return False
        if action.kind == "type":
            return self.enter(action.text)
        if action.kind == "scroll":
            return self.scroll(action.text)
        return False

    def go_back(self) -> bool:
        """Close what lies over the page."""
        if self.overlay is None:
            return False
        self.overlay = None
        return True

    def enter(self, text: str) -> bool:
        """Put the text into the field that was clicked before; the field then loses the focus."""
        if self.focus is None or text == "":
            return False
        self.values[self.focus] = text
        self.focus = None
        self.committed = False
        return True

    def scroll(self, direction: str) -> bool:
        """A long page has two halves: down shows the second one, up the first."""
        if not self.scrollable():
            return False
        if direction == "down" and self.offset == 0:
            self.offset = 1
            return True
        if direction == "up" and self.offset == 1:
            self.offset = 0
            return True
        return False

    def click(self, point: Point | None) -> bool:
        element = self.element_at(point)
        if element is None:
            return False
        return self.press(element)

    def press(self, element: Element) -> bool:
        """What a click on an element does, by its role."""
        if element.role == "page":
            self.open_page(element.page)
        elif element.role == "menu":
            self.overlay = Menu()
        elif element.role == "guide":
            self.overlay = Guide()
        elif element.role == "close":
            self.overlay = None
        elif element.role == "lure":  # the tempting button opens another dialog
            self.overlay = Dialog("Offer", "OK")
        elif element.role == "switch":
            self.flip(element.widget)
        elif element.role == "field":
            self.focus = element.widget
        elif element.role == "commit":
            self.try_to_commit()
        return element.role != "none"

    def open_page(self, page: int) -> None:
        self.page = page
        self.offset = 0
        self.overlay = None
        self.focus = None

    def flip(self, switch: str) -> None:
        self.values[switch] = not self.values[switch]
        self.committed = False

    def try_to_commit(self) -> None:
        """Save; pressed too early, it opens a dialog and costs two steps."""
        if self.wrong():
            self.overlay = Dialog("Missing", "OK")
        else:
            self.committed = True

    # ---- the oracle ------------------------------------------------------------------------------

    def oracle(self, horizon: int, exact: bool = False) -> list[Action]:
        """The reference actions from here: at most `horizon`, fewer when the task ends before.

        Their texts are an annotator's: now and then the instruction's word instead of the name on
        the screen, until that word was refused. `exact`: the first one names what stands on the
        screen, so that the tool agent finds it. They say what will be seen in worlds of
        with_states.
        """
        # Played on a copy. No popup comes in it: interruptions cannot be foreseen.
        imagined = copy.copy(self)
        imagined.values = dict(self.values)
        plan = []
        while len(plan) < horizon:
            action = imagined.next_action()
            plan.append(action)
            if action.kind in TERMINAL:
                break
            imagined.apply(action)
            if self.states:
                plan[-1] = replace(action, expects=imagined.screen_name())
        if exact and plan[0].point is not None:
            target = self.element_at(plan[0].point)
            plan[0] = replace(plan[0], text=target.label)
        return plan

    def next_action(self) -> Action:
        """First what lies over the page, then the first thing that is wrong, then the end."""
        if isinstance(self.overlay, Guide):
            return Action("back")
        if isinstance(self.overlay, Dialog):
            return self.point_at(self.find("close"))
        wrong = self.wrong()
        if wrong:
            return self.put_right(wrong[0])
        return self.finish()

    def put_right(self, widget: str) -> Action:
        """The next action towards a widget that holds the right thing."""
        page = self.page_of(widget)
        if page != self.page or isinstance(self.overlay, Menu):
            return self.go_to(page)
        if self.focus == widget:
            return Action("type", self.wanted[widget])
        for element in self.elements():
            if element.widget == widget:
                return self.point_at(element)
        # It is on this page, but in the other half.
        return Action("scroll", "up" if self.offset else "down")

    def page_of(self, widget: str) -> int:
        for number, page in enumerate(self.task.pages):
            if widget in page.widgets:
                return number
        raise ValueError(f"no page has {widget}")

    def go_to(self, page: int) -> Action:
        """A click on the page's tab, or on the menu that hides it."""
        for element in self.elements():
            if element.page == page:
                return self.point_at(element)
        return self.point_at(self.find("menu"))

    def finish(self) -> Action:
        if isinstance(self.overlay, Menu):
            return Action("back")
        if self.committed:
            return Action("done")
        return self.point_at(self.find("commit"))

    def find(self, role: str) -> Element:
        return next(element for element in self.elements() if element.role == role)

    def point_at(self, element: Element) -> Action:
        """A click, called by the annotator's name until the tool agent has refused that name."""
        concept = element.widget
        if element.page is not None:
            concept = self.task.pages[element.page].title
        name = self.task.spoken.get(concept, element.label)  # a button has one name only
        if name in self.refused:
            name = element.label
        return Action("click", name, centre(element.box))

    # ---- random behaviour ------------------------------------------------------------------------

    def moves(self, rng: random.Random) -> list[Action]:
        """What an agent might do that does not know the task.

        Half of the time it sees the screen; else it only remembers what the app has.
        """
        if rng.random() < 0.5:
            names = [label for label, _box in self.visible()]
        else:
            names = sorted(self.task.shown.values())
        clicks = [Action("click", name) for name in names]
        text = rng.choice(VALUES)
        return [*clicks, Action("back"), Action("scroll", "down"), Action("type", text)]

    def wander(self, rng: random.Random) -> None:
        """Some random steps, for the reading lesson: all words and icons on all kinds of screens.

        Three in ten screens have their bars at the bottom: a hub model's eyes have seen such
        screens. What to do on them is taught nowhere (split `layout`).
        """
        flipped = rng.random() < 0.3
        self.task = replace(self.task, layout=FLIPPED if flipped else USUAL)
        for _ in range(rng.randrange(8)):
            if rng.random() < 0.5:
                action = self.oracle(1)[0]
            else:
                action = self.point_at(rng.choice(self.elements()))
            self.step(action)
        for widget, held in self.values.items():
            if held == "" and rng.random() < 0.3:
                self.values[widget] = rng.choice(VALUES)

    @staticmethod
    def stray(rng: random.Random) -> Action:
        """A false step, for damaged plans."""
        return Action("click", rng.choice(SCREEN_WORDS))


@cache
def with_states(world: type) -> type:
    """The same world, whose oracle also says what will be seen after each action but the last one
    of a task: `click Sound => Sound` (--forecast_states).

    The same world gives the same class. Raises ValueError for a world that has no names for its
    screens.
    """
    if not hasattr(world, "screen_name"):
        raise ValueError(f"{world.__name__} has no names for its screens")
    # A tiny model that is asked for states, and writes them, needs these words too.
    words = (*world.words, "with", "states", "=>")
    own = {"states": True, "words": words, "__module__": world.__module__}
    return type(world.__name__, (world,), own)


def name_overlay(overlay: Overlay | None) -> str:
    """What lies over the page, as ToyGUI.key() writes it: "('dialog', 'Rate', 'Later', None)".

    The text must stay as it is, to the letter: it seeds what the frozen tool agent answers, and all
    published tables were measured with these answers.
    """
    if overlay is None:
        return "None"
    if isinstance(overlay, Menu):
        return "('menu',)"
    if isinstance(overlay, Guide):
        return "('guide',)"
    return str(("dialog", overlay.message, overlay.dismiss, overlay.lure))


# ---- pictures ------------------------------------------------------------------------------------


def draw_screen(task: Task, cells: dict[tuple[int, int], str], scale: int = 1) -> Image.Image:
    """The screen as an RGB picture of (128 * scale) x (96 * scale) px.

    `cells`: as of ToyGUI.cells(). Words are drawn at the final size, so they stay crisp.
    """
    unit = CELL * scale
    image = Image.new("RGB", (COLS * unit, ROWS * unit), task.colours.paper)
    canvas = ImageDraw.Draw(image)
    # Each task has its words a little further to the right and down, by 0..2 px (times scale).
    rng = random.Random(f"jitter {task.seed}")
    right = rng.randint(0, 2)
    down = rng.randint(0, 2)
    for (column, row), word in cells.items():
        x = column * unit
        y = row * unit
        if word in DRAW_ICON:
            pen = IconPen(canvas, x + 2 * scale, y + 2 * scale, scale, task.colours)
            DRAW_ICON[word](pen)
        elif not word.startswith("<"):  # <blank>, or a typed "<ok>", is not drawn
            corner = (x + right * scale, y + (1 + down) * scale)
            canvas.text(corner, word, fill=task.colours.ink, font=font(10 * scale))
    return image


@lru_cache(maxsize=8)
def font(size: int) -> ImageFont.FreeTypeFont:
    return ImageFont.load_default(size)  # ships inside Pillow: no font of the system is ever used


@dataclass(frozen=True)
class IconPen:
    """Draws one icon in a frame of its own: 11 x 11 px (times scale), (0, 0) is top left.

    The icons' shapes differ, not only their colours.
    """

    canvas: ImageDraw.ImageDraw
    left: int  # where the icon's frame lies on the canvas, in px
    top: int
    scale: int
    colours: Colours

    def place(self, points: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
        """From the icon's frame to the canvas."""
        return [(self.left + x * self.scale, self.top + y * self.scale) for x, y in points]

    def line(self, *points: tuple[int, int], colour: Colour, width: int) -> None:
        self.canvas.line(self.place(points), fill=colour, width=width * self.scale)

    def polygon(
        self, *points: tuple[int, int], fill: Colour | None, outline: Colour | None = None
    ) -> None:
        self.canvas.polygon(self.place(points), fill=fill, outline=outline)

    def block(self, *corners: tuple[int, int]) -> None:
        """A rectangle full of ink."""
        self.canvas.rectangle(self.place(corners), fill=self.colours.ink)

    def frame(self) -> list[tuple[int, int]]:
        """The corners of the whole icon on the canvas."""
        return self.place([(0, 0), (10, 10)])


def draw_off(pen: IconPen) -> None:
    """An empty check box."""
    pen.canvas.rectangle(pen.frame(), outline=pen.colours.ink, width=pen.scale)


def draw_on(pen: IconPen) -> None:
    """A check box with its mark."""
    draw_off(pen)
    pen.line((2, 5), (4, 8), (8, 2), colour=pen.colours.ink, width=2)


def draw_tab(pen: IconPen) -> None:
    """An empty triangle."""
    pen.polygon((0, 10), (5, 0), (10, 10), fill=None, outline=pen.colours.ink)


def draw_here(pen: IconPen) -> None:
    """A full triangle with a door: a house."""
    pen.polygon((0, 10), (5, 0), (10, 10), fill=pen.colours.accent, outline=pen.colours.ink)
    pen.block((3, 6), (7, 10))


def draw_field(pen: IconPen) -> None:
    """A line to write on."""
    pen.line((0, 10), (10, 10), colour=pen.colours.ink, width=1)


def draw_cursor(pen: IconPen) -> None:
    """The same line with a cursor on it."""
    draw_field(pen)
    pen.block((4, 0), (6, 8))


def draw_button(pen: IconPen) -> None:
    """A full square with round corners."""
    pen.canvas.rounded_rectangle(
        pen.frame(),
        radius=3 * pen.scale,
        fill=pen.colours.accent,
        outline=pen.colours.ink,
        width=pen.scale,
    )


def draw_link(pen: IconPen) -> None:
    """An arrow to the right."""
    pen.line((0, 5), (10, 5), colour=pen.colours.accent, width=2)
    pen.line((6, 1), (10, 5), (6, 9), colour=pen.colours.accent, width=2)


def draw_note(pen: IconPen) -> None:
    """A full diamond."""
    pen.polygon((5, 0), (10, 5), (5, 10), (0, 5), fill=pen.colours.accent, outline=pen.colours.ink)


def draw_alert(pen: IconPen) -> None:
    """A circle with a stroke in it."""
    pen.canvas.ellipse(pen.frame(), outline=pen.colours.ink, width=pen.scale)
    pen.line((5, 2), (5, 8), colour=pen.colours.ink, width=2)


def draw_more(pen: IconPen) -> None:
    """A triangle that points down."""
    pen.polygon((0, 2), (10, 2), (5, 10), fill=pen.colours.ink)


# An icon stands left of a name and says what it is: a switch, a tab, a field.
DRAW_ICON = {
    "<on>": draw_on,
    "<off>": draw_off,
    "<tab>": draw_tab,
    "<here>": draw_here,
    "<field>": draw_field,
    "<cursor>": draw_cursor,
    "<button>": draw_button,
    "<link>": draw_link,
    "<note>": draw_note,
    "<alert>": draw_alert,
    "<more>": draw_more,
}
# <blank> is the empty cell: the tiny model has a word for it, nothing is drawn there.
ICONS = ("<blank>", *DRAW_ICON)


# --------------------------------------------------------------------------------------------------
# The toy GUI's frozen tool agent
# --------------------------------------------------------------------------------------------------

ALIAS_RIGHT = 0.30  # how often it finds an element by its other name
ALIAS_WRONG = 0.10  # how often it takes something else for it; in the rest it refuses
FLAKY = 0.15  # how often it fails on the split `flaky`, whatever the text


def other_names() -> dict[str, str]:
    others = {}
    for concept in CONCEPTS:
        first, second = both_names(concept)
        others[first] = second
        others[second] = first
    return others


ALIASES = other_names()  # name -> the same thing's other name, both ways


def find_element(
    action: Action,
    elements: Sequence[tuple[str, Box]],
    key: str,
    flaky: float = 0.0,
    aliases: Mapping[str, str] = ALIASES,
) -> Action | None:
    """A forecast step -> the same action with a point, or None when the tool agent refuses.

    `elements`: (label, box) of all that is on the screen. An exact label is always found, a label's
    other name in 30 % of cases (and taken for something else in 10 %), any other text never;
    `flaky` is the chance that it fails whatever the text; `aliases`: name -> other name. Like a
    frozen model with greedy decoding it repeats itself: the same text on the same screen (`key`)
    gives the same answer. The action's own point is not looked at. Actions that need no point pass.

    Of a drag, "Box to Bin" (split_drag), both ends are looked for in this way: it is refused where
    the first is not found, and has no `end` where the second is not.
    """
    if action.kind not in POINTING:
        return action
    if action.kind == "drag":
        dragged, goal = split_drag(action.text, [label for label, _box in elements])
        if goal:
            start = find_element(Action("click", dragged), elements, key, flaky, aliases)
            end = find_element(Action("click", goal), elements, key, flaky, aliases)
            if start is None:
                return None
            if end is None:
                return Action("drag", action.text, start.point)
            return Action("drag", action.text, start.point, end.point)
    rng = tool_agent_rng(action, key)
    luck = rng.random()
    if rng.random() < flaky:
        return None

    exact = [box for label, box in elements if label == action.text]
    if exact:
        return Action(action.kind, action.text, centre(rng.choice(exact)))

    other_name = aliases.get(action.text)
    alias = [box for label, box in elements if label == other_name]
    if not alias:
        return None
    if luck < ALIAS_RIGHT:
        return Action(action.kind, action.text, centre(alias[0]))
    if luck < ALIAS_RIGHT + ALIAS_WRONG:
        others = [box for _label, box in elements if box != alias[0]]
        if not others:
            others = alias
        return Action(action.kind, action.text, centre(rng.choice(others)))
    return None


def tool_agent_rng(action: Action, key: str) -> random.Random:
    """The same draws for the same words on the same screen, on every machine."""
    words = f"{key}|{action.kind}|{action.text}"
    return random.Random(hashlib.sha256(words.encode()).digest()[:8])


# --------------------------------------------------------------------------------------------------
# Demonstrations
# --------------------------------------------------------------------------------------------------


@lru_cache(maxsize=4096)
def demonstration(
    world: type,
    split: str,
    index: int,
    horizon: int,
    noise: float,
    history: int,
    scale: int = 1,
) -> list[Example]:
    """One recorded episode, as one example a state.

    `world`: the class, such as ToyGUI. The demonstrator follows the oracle and acts at random in a
    share `noise` of its steps. The random steps lead to states that an agent meets when it
    errs; the reference of each state is the oracle's plan from there, `horizon` actions long.
    Repeatable: the record depends on the arguments alone.
    """
    env = world(split, scale, history)
    rng = random.Random(f"demonstration {split} {index}")
    env.reset(index)
    examples = []
    for _ in range(env.max_steps):
        example = env.example(horizon)
        examples.append(example)
        action = example.reference[0]
        if rng.random() < noise:
            action = rng.choice(env.moves(rng))
        _, _, terminated, _, _ = env.step(env.ground(action), said=str(action))
        if terminated:
            break
    return examples
