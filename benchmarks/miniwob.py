"""MiniWoB++ (PyPI `miniwob` 1.1.0): small web pages in a real browser, as a world like the toy GUI.

Called by extras/worlds.py, for --env, and by miniwob_exam.py, which ask for
`miniwob_world(["click-button", ...])`. Does not start browsers itself (browser.py), does not know
the solutions (miniwob_oracle.py), does not keep pages (miniwob_pages.py), and does not load
selenium before the first browser.

From top to bottom: what our actions become in the browser; the browsers; what is remembered; the
words; the world; the frozen tool agent; whether a step leads where the oracle's does.
"""

import atexit
import hashlib
import io
import math
import random
import re
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from functools import cache, partial
from pathlib import Path

from PIL import Image
from tqdm import tqdm

from benchmarks import miniwob_oracle
from benchmarks.browser import (
    HEIGHT,
    WIDTH,
    Browser,
    BrowserLost,
    Page,
    Step,
    list_tasks,
    version_of_pages,
)
from benchmarks.episodes import NotBegun
from benchmarks.miniwob_pages import Memory, Place
from envs import (
    CELL,
    POINTING,
    SPLIT_SIZE,
    SPLITS,
    TERMINAL,
    Action,
    Box,
    Example,
    Observation,
    Point,
    find_element,
    inside,
    last_steps,
)

MAX_STEPS = 10  # as BrowserGym has it

# ---- what our actions become ---------------------------------------------------------------------

CLICKS = {"click": "CLICK_COORDS", "double_click": "DBLCLICK_COORDS", "hover": "MOVE_COORDS"}
KEYS = {
    "enter": "<Enter>",
    "return": "<Enter>",
    "tab": "<Tab>",
    "esc": "<Escape>",
    "escape": "<Escape>",
    "backspace": "<Backspace>",
    "delete": "<Delete>",
    "del": "<Delete>",
    "insert": "<Insert>",
    "space": "<Space>",
    "up": "<ArrowUp>",
    "down": "<ArrowDown>",
    "left": "<ArrowLeft>",
    "right": "<ArrowRight>",
    "pageup": "<PageUp>",
    "pagedown": "<PageDown>",
    "home": "<Home>",
    "end": "<End>",
}
MODIFIERS = {"alt": "A-", "ctrl": "C-", "cmd": "M-", "meta": "M-", "shift": "S-"}
OVERSHOOT = 4  # px
LONG_PRESS = 1.0  # seconds
WAIT = 0.5  # seconds; the slowest menus of the tasks need 0.3


def native_key(text: str) -> str | None:
    """A key or a combination as the package writes it; None when there is no such key.

    >>> native_key("ctrl+a"), native_key("enter"), native_key("f13")
    ('C-a', '<Enter>', None)
    """
    if text == "+":
        return text
    *held, last = text.replace(" ", "").split("+")
    name = last if len(last) == 1 else KEYS.get(last.lower())
    if name is None or not name.isascii() or not name.isprintable():
        return None
    prefixes = set()
    for modifier in held:
        if modifier.lower() not in MODIFIERS:
            return None
        prefixes.add(MODIFIERS[modifier.lower()])
    # The package writes several in the order of the alphabet: C-S-a.
    return "".join(sorted(prefixes)) + name


def native(action: Action, size: tuple[int, int] = (WIDTH, HEIGHT)) -> list[Step] | None:
    """A grounded action as steps of the package, which are done up to the end of the task.

    None: it is impossible here, since there is no such thing in a browser, or no point, or no text.
    `size`: of the task in px.
    """
    at = None if action.point is None else to_px(action.point, size)
    middle = (size[0] / 2, size[1] / 2)
    kind = action.kind
    if kind == "wait":
        return [Step("NONE", pause=WAIT)]
    if kind in TERMINAL:
        return [Step("NONE")]
    if kind in CLICKS and at is not None:
        return [Step(CLICKS[kind], at)]
    if kind == "long_press" and at is not None:
        return [Step("MOUSEDOWN_COORDS", at, pause=LONG_PRESS), Step("MOUSEUP_COORDS", at)]
    if kind == "drag" and at is not None and action.end is not None:
        end = to_px(action.end, size)
        beyond = to_px(overshoot(action.point, action.end, size), size)
        down = Step("MOUSEDOWN_COORDS", at)
        return [down, Step("MOVE_COORDS", beyond), Step("MOUSEUP_COORDS", end)]
    if kind == "select" and at is not None and can_be_typed(action.text):
        # The browser draws an open list into the picture, but clicks on it hit the page below.
        typing = Step("TYPE_TEXT", text=action.text)
        return [Step("CLICK_COORDS", at), typing, Step("PRESS_KEY", key="<Enter>")]
    if kind == "type" and can_be_typed(action.text):
        return [Step("TYPE_TEXT", text=action.text)]
    if kind == "scroll" and action.text in ("up", "down"):
        return [Step(f"SCROLL_{action.text.upper()}_COORDS", at if at is not None else middle)]
    if kind == "key":
        key = native_key(action.text)
        return None if key is None else [Step("PRESS_KEY", key=key)]
    return None


def to_px(point: Point, size: tuple[int, int]) -> tuple[float, float]:
    """Inside of the task: a px further the page does not hear of it."""
    return min(point[0] * size[0], size[0] - 1), min(point[1] * size[1], size[1] - 1)


def overshoot(start: Point, end: Point, size: tuple[int, int]) -> Point:
    """A little further than the end of a drag, as a hand does it before it lets go.

    An item of a list changes places only when the mouse was beyond the middle of its neighbour.
    """
    width, height = size
    right = (end[0] - start[0]) * width
    down = (end[1] - start[1]) * height
    distance = math.hypot(right, down)
    if distance == 0:
        return end
    x = end[0] + OVERSHOOT * right / distance / width
    y = end[1] + OVERSHOOT * down / distance / height
    return max(0.0, x), max(0.0, y)


def can_be_typed(text: str) -> bool:
    """The driver takes private characters for special keys: a text with one would press Enter."""
    private = [letter for letter in text if "\ue000" <= letter <= "\uf8ff"]
    return bool(text) and not private


# ---- the browsers --------------------------------------------------------------------------------


class Pool:
    """The browsers of this process: made when they are asked for, used one episode after another.

    `limit`: how many there may be at most (170 MB each, 400 for the first), and so how many
    episodes can be played side by side.
    """

    def __init__(self, limit: int):
        self.limit = limit
        self.idle: list[Browser] = []
        self.taken: list[Browser] = []

    def take(self, task: str) -> Browser:
        """Raises RuntimeError when all are in use: nobody else could ever give one back."""
        if len(self.taken) >= self.limit:
            raise RuntimeError(
                f"{self.limit + 1} episodes of MiniWoB++ side by side, but only {self.limit} "
                "browsers: play fewer at once, or raise benchmarks.miniwob.POOL.limit"
            )
        if self.idle:
            browser = self.idle.pop()
        else:
            browser = Browser(task)
            close_at_exit(self)
        self.taken.append(browser)
        return browser

    def give_back(self, browser: Browser) -> None:
        if browser in self.taken:
            self.taken.remove(browser)
            self.idle.append(browser)

    def drop(self, browser: Browser) -> None:
        """A browser that has crashed."""
        if browser in self.taken:
            self.taken.remove(browser)
        browser.close()

    def close(self) -> None:
        """End them all; the next episode starts new ones."""
        for browser in [*self.idle, *self.taken]:
            browser.close()
        self.idle.clear()
        self.taken.clear()


@cache
def close_at_exit(pool: Pool) -> None:
    atexit.register(pool.close)


POOL = Pool(limit=4)

# ---- what is remembered, and an episode's way through the pages ----------------------------------

# What was seen in training; None: nothing is remembered.
MEMORY: Memory | None = None


def remember_pages(folder: Path) -> None:
    """From now on keep the pages of training in a file of this folder, and use those in it.

    Its name knows what decides how a page looks and what is read of it. Raises ValueError, one
    line, where the file cannot be used, or no browser is there.
    """
    global MEMORY
    folder.mkdir(parents=True, exist_ok=True)
    MEMORY = Memory(folder / f"miniwob-{version_of_pages()}.sqlite")


class Tab:
    """One episode's way through the pages.

    Pages come from the memory where it knows them, else from a browser, which first catches up with
    all that was done and then stays with the tab until it is closed. A browser that crashes is a
    BrowserLost, and so is one in which a remembered page does not come back as it was.
    """

    def __init__(self, place: Place, memory: Memory | None):
        self.place = place
        self.memory = memory
        self.browser: Browser | None = None
        self.driven = 0  # how much of place.done the browser has done

    def do(self, steps: Sequence[Step]) -> None:
        """Only noted: the browser does it when look() needs it."""
        self.place = self.place.after(tuple(steps))

    def look(self) -> Page:
        known = self.recall(self.place)
        if known is not None:
            return known
        page = self.drive()
        if self.memory is not None:
            self.memory.keep(self.place, page)
        return page

    def recall(self, place: Place) -> Page | None:
        return None if self.memory is None else self.memory.find(place)

    def drive(self) -> Page:
        """Let the browser catch up, and look; at the end of a task at the last moment before it."""
        if self.browser is None:
            self.seen = self.load()
        elif self.driven == len(self.place.done):
            self.seen = self.browser.look(before=self.seen)  # nothing new was done
        for steps in self.place.done[self.driven :]:
            self.compare_with_memory()
            self.browser.perform(steps)
            self.seen = self.browser.look(before=self.seen)
            self.driven += 1
        return self.seen

    def compare_with_memory(self) -> None:
        """Is the page on the way that which was seen there before?"""
        known = self.recall(replace(self.place, done=self.place.done[: self.driven]))
        if known is not None and state_of(known) != state_of(self.seen):
            raise BrowserLost("a page did not come back as it was")

    def load(self) -> Page:
        """The first page; a browser that crashes over it is replaced once, then it is NotBegun."""
        task = self.place.task
        for attempt in range(2):
            self.browser = POOL.take(task)
            try:
                return self.browser.load(task, self.place.seed, self.place.scale)
            except BrowserLost as error:
                self.drop()
                if attempt == 1:
                    raise NotBegun(f"chromium crashes over {task}: {error}") from error

    def drop(self) -> None:
        """End a browser that has crashed."""
        if self.browser is not None:
            POOL.drop(self.browser)
            self.browser = None

    def close(self) -> None:
        """Give the browser back."""
        if self.browser is not None:
            POOL.give_back(self.browser)
            self.browser = None

    def __del__(self):
        self.close()


def state_of(page: Page) -> tuple:
    """What tells a page from another: its elements, what they hold, the focus; at the end of a task
    the reward alone. The picture plays no role."""
    if page.done:
        return (page.raw_reward,)
    return page.elements


# ---- words ---------------------------------------------------------------------------------------

WORD = re.compile(r"\w+|[^\w\s]")  # as extras/tiny_vlm.py cuts a text into tokens
SCANNED = 500  # pages of each task whose words are collected
SELDOM = 3  # pages: what is on fewer is a string of random letters
# What the pages do not say: names of fields without a name, and what is typed to operate them.
OWN_WORDS = (
    *("textbox", "textarea", "list", "radio", "checkbox", "x"),
    *("1", "2", "3", "4", "5", "6"),
    *("ctrl", "+", "a", "tab", "to"),
    "=",  # a model with this word may write five tokens a line (agent.Policy.max_new_tokens)
)


def words_of(text: str) -> list[str]:
    """The text in the tokens of the tiny model.

    >>> words_of('Click on Tab #1.')
    ['Click', 'on', 'Tab', '#', '1', '.']
    """
    return WORD.findall(text)


@cache
def collect_words(tasks: tuple[str, ...]) -> tuple[str, ...]:
    """Words on SELDOM or more of a task's first SCANNED training pages, and OWN_WORDS; sorted.

    It takes some seconds a task, in a browser of its own, unless they are remembered. The same on
    every machine: a page depends on its seed alone. What only dev or test have, and random strings,
    stay unknown.
    """
    if MEMORY is not None:
        remembered = MEMORY.find_words(tasks)
        if remembered is not None:
            return remembered
    found = set(OWN_WORDS)
    browser = Browser(tasks[0])
    try:
        for task in tqdm(tasks, desc="collecting words", unit="task", delay=5):
            pages = Counter()
            for text in browser.collect_texts(task, SPLITS["train"] * SPLIT_SIZE, SCANNED):
                pages.update(set(words_of(text)))
            found |= {word for word, number in pages.items() if number >= SELDOM}
    except BrowserLost as error:
        raise NotBegun(f"chromium crashes over {task}: {error}") from error
    finally:
        browser.close()
    words = tuple(sorted(found))
    if MEMORY is not None:
        MEMORY.keep_words(tasks, words)
    return words


class CollectedWords:
    """`world.words`, collected when it is first asked for: only the tiny model needs it."""

    def __get__(self, world: object, owner: type) -> tuple[str, ...]:
        return collect_words(owner.tasks)


# ---- the world -----------------------------------------------------------------------------------


@cache
def known_tasks() -> tuple[str, ...]:
    return list_tasks()


def miniwob_world(tasks: Sequence[str]) -> type:
    """A world class of these tasks, which take turns: seed s is task s % len(tasks).

    Raises ValueError, one line, for a name that is not one of the package's 125 tasks.
    """
    return make_world(tuple(tasks))


@cache
def make_world(tasks: tuple[str, ...]) -> type:
    if not tasks:
        raise ValueError("miniwob needs at least one task, such as click-button")
    for task in tasks:
        if task not in known_tasks():
            close = [name for name in known_tasks() if name.startswith(task.split("-")[0])]
            hint = ", ".join(close) if close else "those of miniwob.farama.org"
            raise ValueError(f"MiniWoB++ has no task {task[:40]!r}; known are {hint}")
    return type("MiniWoBTasks", (MiniWoB,), {"tasks": tasks})


class MiniWoB:
    """Tasks of MiniWoB++, with the toy GUI's methods.

    A class for certain tasks comes from miniwob_world. An instance has a browser only while an
    episode runs: it takes one at reset and gives it back when the episode ends, at close() and
    when nobody holds the instance any more. Where pages are remembered (remember_pages), those of
    `train` and `dev` need a browser only at the first visit; those of `test` are always played.

    A task is solved when the page says that it is done and gives its full reward of 1 (in any
    time). info: "result" is "ok", "failed" (the tool agent found nothing: step(None)), "impossible"
    (there is no such action here) or "broken" (the browser crashed: "crashed" is true, the episode
    is truncated); "success"; "success_browsergym" (BrowserGym's rule: any reward above 0); "task",
    "steps", "oracle_steps" (of the plan on the first page, too short where it has to search; 0:
    there is no script), "raw_reward" and the page's "reason".
    """

    side_by_side = POOL.limit  # so many episodes can be played at once
    tasks: tuple[str, ...] = ()
    splits = ("train", "dev", "test")
    grid = (WIDTH // CELL, HEIGHT // CELL)
    hub_scale = 2  # hub models see a page at this scale
    words = CollectedWords()
    max_steps = MAX_STEPS
    # Flags of train.py that suit this world: docs/online.md has what they lead to.
    suits = {
        "train_tasks": 400,  # each page takes a browser a third of a second, once
        "reading_steps": 300,
        "warmup_steps": 30,  # half of these tasks are imitated in no time: room is left for RL
        "prompts_per_update": 8,
        "stage1_updates": 150,
        "stage2_updates": 300,
    }
    keep_pages = staticmethod(remember_pages)
    screens_kept = 1000  # so many are looked at for the reading lesson, again and again
    # Files that decide what is learnt here, beside this one.
    code = (
        "benchmarks/browser.py",
        "benchmarks/miniwob_oracle.py",
        "benchmarks/miniwob_pages.py",
    )

    def __init__(self, split: str = "train", scale: int = 1, history: int = 4):
        """`scale`: of the picture, 1 is 160 x 210 px; `history`: how many past steps are shown."""
        if split not in self.splits or scale < 1 or history < 0:
            raise ValueError(
                f"split {split!r} must be one of {', '.join(self.splits)}, "
                f"scale {scale} at least 1, history {history} at least 0"
            )
        self.split = split
        self.scale = scale
        self.history = history
        self.tab: Tab | None = None

    @property
    def browser(self) -> Browser | None:
        return None if self.tab is None else self.tab.browser

    def reset(self, seed: int) -> tuple[Observation, dict]:
        """Raises ValueError for a seed below 0 or beyond the split's million pages of each task,
        and NotBegun when browsers crash over the page."""
        page_seed, number = divmod(seed, len(self.tasks))
        if not 0 <= page_seed < SPLIT_SIZE:
            raise ValueError(f"seed {seed} is outside 0..{SPLIT_SIZE * len(self.tasks) - 1}")
        self.close()
        self.task = self.tasks[number]
        self.page_seed = SPLITS[self.split] * SPLIT_SIZE + page_seed
        self.demand = self.task  # exams tell success by it
        self.past: list[str] = []
        self.steps = 0
        self.over = False
        place = Place(self.task, self.page_seed, self.scale)
        self.tab = Tab(place, None if self.split == "test" else MEMORY)
        self.page = self.tab.look()
        self.oracle_steps = 0
        if self.task in miniwob_oracle.SCRIPTS:
            self.oracle_steps = len(self.oracle(MAX_STEPS))
        return self.observe(), {"oracle_steps": self.oracle_steps, "task": self.task}

    def step(
        self, action: Action | None, said: str = ""
    ) -> tuple[Observation, float, bool, bool, dict]:
        """Carry out a grounded action; None stands for a refusal of the tool agent.

        `said` is the policy's own wording, for the history.
        """
        if self.over:
            raise RuntimeError("the episode is over: reset the world first")
        steps = None if action is None else native(action)
        if action is None:
            result = "failed"
        elif steps is None:
            result = "impossible"
        else:
            result = "ok"
        self.remember(action, said)
        self.steps += 1
        if steps is not None:
            self.tab.do(steps)
        try:
            self.page = self.tab.look()
        except BrowserLost:
            self.tab.drop()
            result = "broken"
        return self.outcome(action, result)

    def outcome(
        self, action: Action | None, result: str
    ) -> tuple[Observation, float, bool, bool, dict]:
        """What step returns; the browser is given back when the episode ends here."""
        crashed = result == "broken"
        success = self.page.done and self.page.raw_reward == 1 and not crashed
        said_end = action is not None and action.kind in TERMINAL
        terminated = not crashed and (self.page.done or said_end)
        truncated = crashed or (not terminated and self.steps >= self.max_steps)
        info = {
            "result": result,
            "success": success,
            "success_browsergym": self.page.done and self.page.raw_reward > 0 and not crashed,
            "crashed": crashed,
            "task": self.task,
            "steps": self.steps,
            "oracle_steps": self.oracle_steps,
            "raw_reward": self.page.raw_reward,
            "reason": self.page.reason,
        }
        if terminated or truncated:
            self.close()
        return self.observe(), float(success), terminated, truncated, info

    def remember(self, action: Action | None, said: str) -> None:
        """Write a step into the history; that a click had no effect is to be seen on the screen."""
        line = said if said else str(action)
        if action is None:
            line += " failed"
        self.past.append(line)

    def close(self) -> None:
        """Give the browser back. What was seen last can still be looked at."""
        self.over = True
        if self.tab is not None:
            self.tab.close()

    # ---- what the policy and the tool agent see --------------------------------------------------

    def observe(self) -> Observation:
        screenshot = partial(open_picture, self.page.picture, self.scale)
        past = last_steps(self.past, self.history)
        return Observation(self.page.instruction, screenshot, past)

    def visible(self) -> tuple[tuple[str, Box], ...]:
        """What a tool agent can find: (label, box) of each element with a name.

        Where a text and something that can be operated bear the same label, the latter is meant.
        """
        named = [element for element in self.page.elements if element.label]
        operable = {element.label for element in named if element.operable}
        found = []
        for element in named:
            if element.operable or element.label not in operable:
                found.append((element.label, element.box))
        return tuple(dict.fromkeys(found))

    def ground(self, action: Action) -> Action | None:
        """The frozen tool agent of this world: by the labels of the page's elements, no pixels."""
        return find_label(self.visible(), self.key(), action)

    def cells(self) -> dict[tuple[int, int], str]:
        """(column, row) -> the word that begins there, or <field>, <cursor>, <on>, <off>, <more>.

        Of each word that part which tells most: `1` of `#1`, `amet` of `amet,`. What the vocabulary
        does not have is <unk>. The instruction's yellow strip counts as empty.
        """
        columns, rows = self.grid
        known = set(self.words)
        cells = {}
        for word in self.page.words:
            left, top, _right, bottom = word.box
            # A letter begins a px or two right of its box.
            column = int(min(columns - 1, (left * WIDTH + 2) // CELL))
            row = int(min(rows - 1, (top + bottom) / 2 * rows))
            text = word.text
            if not text.startswith("<"):
                text = max(words_of(text), key=lambda part: (part.isalnum(), len(part)))
                if text not in known:
                    text = "<unk>"
            cells.setdefault((column, row), text)
        return cells

    def key(self) -> str:
        """Names the screen: equal when all elements, what they hold and the focus are equal."""
        seen = hashlib.sha256(repr(self.page.elements).encode()).hexdigest()[:16]
        return f"{self.task}/{self.page_seed}/{seen}"

    # ---- the oracle ------------------------------------------------------------------------------

    def oracle(self, horizon: int, exact: bool = False) -> list[Action]:
        """The script's next `horizon` actions; none for a task without a script.

        They name what stands on the screen (`exact` changes nothing), and those whose element
        cannot be seen yet have no point.
        """
        if self.task not in miniwob_oracle.SCRIPTS:
            return []
        return miniwob_oracle.plan(self.task, self.page)[:horizon]

    def example(self, horizon: int, plan: tuple[Action, ...] = ()) -> Example:
        """The present state as an example; the oracle's next `horizon` actions are the reference.

        Raises ValueError for a task without a script.
        """
        reference = tuple(self.oracle(horizon))
        if not reference:
            raise ValueError(f"there is no script for {self.task}, and so no reference")
        return Example(
            observation=replace(self.observe(), plan=plan),
            reference=reference,
            boxes=self.target_boxes(reference[0]),
            elements=self.visible(),
            key=self.key(),
            # What happens to this world later does not count: they know this moment.
            tools=partial(find_label, self.visible(), self.key()),
            leads_right=partial(leads_right, self.tab.place, reference[0]),
        )

    def target_boxes(self, action: Action) -> tuple[Box, ...]:
        """Where a point is right: all that bears the target's label, else what is at its point."""
        if action.kind not in POINTING or action.point is None:
            return ()
        same = tuple(box for label, box in self.visible() if label == action.text)
        if same:
            return same
        boxes = [box for _label, box in self.visible() if inside(action.point, box)]
        return tuple(boxes[:1])

    # ---- random behaviour ------------------------------------------------------------------------

    def moves(self, rng: random.Random) -> list[Action]:
        """What an agent might do that does not know the task."""
        clicks = [Action("click", label) for label, _box in self.visible() if len(label) <= 100]
        word = rng.choice(words_of(self.page.instruction))
        return [*clicks, Action("type", word), Action("scroll", "down"), Action("wait")]

    def wander(self, rng: random.Random) -> None:
        """Some random steps, for the reading lesson, and the end of the episode.

        The browser is given back, so that many screens can be looked at side by side.
        """
        for _ in range(rng.randrange(4)):
            if self.over:
                break
            plan = self.oracle(1)
            if plan and rng.random() < 0.5:
                action = plan[0]
            else:
                action = rng.choice(self.moves(rng))
            self.step(self.ground(action), said=str(action))
        self.close()

    @classmethod
    def stray(cls, rng: random.Random) -> Action:
        """A false step, for damaged plans."""
        return Action("click", rng.choice(cls.words))


# ---- the frozen tool agent -----------------------------------------------------------------------


def find_label(visible: Sequence[tuple[str, Box]], key: str, action: Action) -> Action | None:
    """The action with its point; None where it is refused.

    An exact label is found, of several one, always the same for the same screen (`key`); any other
    is refused; what needs no point passes. Spaces do not count: a tokenizer of whole words writes
    "Tab # 1" for "Tab #1".
    """
    elements = [(spaced(label), box) for label, box in visible]
    # The other names of the toy GUI are nobody's names here.
    found = find_element(replace(action, text=spaced(action.text)), elements, key, aliases={})
    return None if found is None else replace(found, text=action.text)


def spaced(text: str) -> str:
    """Its words and signs with one space between."""
    return " ".join(words_of(text))


def open_picture(png: bytes, scale: int) -> Image.Image:
    """The task's part of the window, RGB, (160 * scale) x (210 * scale) px."""
    window = Image.open(io.BytesIO(png)).convert("RGB")
    return window.crop((0, 0, WIDTH * scale, HEIGHT * scale))


# ---- does a step lead where the oracle's does? ---------------------------------------------------


def leads_right(place: Place, reference: Action, action: Action) -> bool | None:
    """Whether a grounded action leads from this place to the page to which the reference leads.

    Both are carried out in the browser, from the first page on, and remembered: the forecasts of a
    group often begin alike. None where it cannot be told: the browser crashed, the place could not
    be reached again, or the reference itself ended the task without solving it.
    """
    if (action.kind in TERMINAL) != (reference.kind in TERMINAL):
        return False  # to say that it is done changes no page
    try:
        wanted = page_after(place, reference)
        if wanted.done and wanted.raw_reward != 1:
            return None
        return state_of(page_after(place, action)) == state_of(wanted)
    except (BrowserLost, ValueError) as error:
        tqdm.write(f"warning: {place.task}: {error}; the recorded box decides", file=sys.stderr)
        return None


def page_after(place: Place, action: Action) -> Page:
    """What is seen after an action; what is impossible changes nothing. Raises BrowserLost."""
    tab = Tab(place, MEMORY)
    steps = native(action)
    if steps is not None:
        tab.do(steps)
    try:
        return tab.look()
    except BrowserLost:
        tab.drop()
        raise
    finally:
        tab.close()
