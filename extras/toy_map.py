"""The toy map: a world in which looking ahead has to pay, with a dial for how far ahead.

Called through extras/worlds.py (`--env toy-map`) by all that trains, plays or draws a world.
It knows neither models nor rewards; actions, records, icons and tool agent are those of envs.py.

    <button> C     <button> S     <button> K        what can be clicked now

    N > W             Z > R    R > F                the map, in random order: all that lies ahead
    K > H    S > V             X > J
    C > Z             H > T    T > N                "open Whiskey": W is opened from N, N from T, T
    J > L    V > X    F > O                         from H and H from K: so K is to be clicked first

A site is a bundle of chains of pages, and one chain ends in the goal. At the start the first page
of each chain has a button; after a right click the second page of each chain has one, and so on.
What is shown after 0, 1 and 2 right clicks in the task above, depth 4 (in truth in random order):

    clicks   buttons   left on the map
    0        K S C     K > H > T > N > W    S > V > X > J > L    C > Z > R > F > O
    1        H V Z         H > T > N > W        V > X > J > L        Z > R > F > O
    2        T X R             T > N > W            X > J > L            R > F > O

A wrong click ends the episode, unsolved; opening the goal ends it, solved. The *depth* d of a task
is the number of entries of the map between the goal and the button to click first, so it takes
d + 1 clicks. It is the dial: d look-ups, one after the other, are needed before the first click.
All chains of a task are equally long and all names are drawn anew, so that without following
entries a click is right in one case of three, whatever the depth.

A page has two names, a letter and that letter's word in the spelling alphabet. Screens show the
letter; instructions and annotators mostly say the word, which the tool agent seldom understands. So
a plan has to be right *and* has to be said in words that can be carried out: the first is what
stage 1 can teach, the second is what stage 2 can teach.
"""

import copy
import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from itertools import pairwise

from PIL import Image, ImageDraw

from envs import (
    CELL,
    FLAKY,
    SPLIT_SIZE,
    Action,
    Box,
    Colours,
    Example,
    Observation,
    Point,
    centre,
    choose_colours,
    draw_screen,
    find_element,
    inside,
    last_steps,
)
from extras.lessons import Course, Drill

# ---- names ---------------------------------------------------------------------------------------

ALPHABET = (
    "Alfa Bravo Charlie Delta Echo Foxtrot Golf Hotel India Juliett Kilo Lima Mike November Oscar "
    "Papa Quebec Romeo Sierra Tango Uniform Victor Whiskey Xray Yankee Zulu"
)
SPELLING = tuple(ALPHABET.split())
LETTERS = tuple(word[0] for word in SPELLING)
WORD_OF = dict(zip(LETTERS, SPELLING, strict=True))
LETTER_OF = {word: letter for letter, word in WORD_OF.items()}
OTHER_NAME = WORD_OF | LETTER_OF  # both ways

# ---- splits --------------------------------------------------------------------------------------

# Each split has a million seeds of its own: no overlap.
MAP_SPLITS = {
    "train": 0,
    "dev": 1,
    "test": 2,
    "deeper": 3,  # held out: d = 5
    "wider": 4,  # held out: four chains, and four buttons, instead of three
    "flaky": 5,  # the tool agent fails now and then, whatever the text
}
DEPTHS = (1, 2, 3, 4)  # task i has the depth DEPTHS[i % 4], but for the split `deeper`
DEEPER = 5
CHAINS = 3
WIDER = 4
WORD_RATE = 0.7  # how often an annotator calls a page by its word
FORGIVEN = 1  # refusals for each click of the oracle: an episode has so many steps more

# ---- the screen ----------------------------------------------------------------------------------
# 8 x 6 cells, as in the toy GUI. Buttons stand in the first row, two cells each: icon and letter.
# An entry of the map takes two cells as well, a letter each; between them an arrow is drawn. There
# is room for sixteen, and no task has more.

COLS = 8
ROWS = 6
FIRST_ROW = 2  # of the map


def places_on_the_map() -> tuple[tuple[int, int], ...]:
    """Where an entry can stand: column and row of its first cell."""
    places = []
    for row in range(FIRST_ROW, ROWS):
        for column in range(0, COLS, 2):
            places.append((column, row))
    return tuple(places)


SLOTS = places_on_the_map()


# ---- tasks ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Entry:
    """`page > leads_to` on the map. Pages are known by their letters, here and below."""

    page: str
    leads_to: str
    click: int  # the number, from 0, of the click that opens `page` and takes this entry away
    slot: tuple[int, int]  # column and row of its first cell


@dataclass(frozen=True)
class MapTask:
    """All that is decided by a seed before the first step."""

    seed: int
    chains: tuple[tuple[str, ...], ...]  # pages from the first button on; chains[0] has the goal
    order: tuple[tuple[int, ...], ...]  # [click][button from left to right] -> which chain
    entries: tuple[Entry, ...]
    spoken: dict[str, str]  # page -> the name that instruction and annotator use for it
    colours: Colours

    @property
    def way(self) -> tuple[str, ...]:
        """The pages to click, one after the other; the last one is the goal."""
        return self.chains[0]

    @property
    def depth(self) -> int:
        return len(self.way) - 1

    @property
    def goal(self) -> str:
        return self.way[-1]


def make_map_task(split: str, index: int, depth: int | None = None) -> MapTask:
    """The task of one seed. None: of the depth that is its turn.

    Raises ValueError for an unknown split or an index outside 0..999,999.
    """
    check_map_split(split)
    if not 0 <= index < SPLIT_SIZE:
        raise ValueError(f"seed {index} is outside 0..{SPLIT_SIZE - 1}")
    seed = MAP_SPLITS[split] * SPLIT_SIZE + index
    rng = random.Random(f"map {seed}")
    if split == "deeper":
        depth = DEEPER
    elif depth is None:
        depth = DEPTHS[index % len(DEPTHS)]
    width = WIDER if split == "wider" else CHAINS
    chains = choose_chains(rng, width, depth)
    order = choose_order(rng, width, depth)
    entries = choose_entries(rng, chains)
    spoken = choose_names(rng)
    colours = choose_colours(rng, tinted=False)
    return MapTask(seed, chains, order, entries, spoken, colours)


def check_map_split(split: str) -> None:
    if split not in MAP_SPLITS:
        raise ValueError(f"unknown split {split!r}: choose one of {', '.join(MAP_SPLITS)}")


def choose_chains(rng: random.Random, width: int, depth: int) -> tuple[tuple[str, ...], ...]:
    """`width` chains of depth + 1 pages each; no page stands twice."""
    length = depth + 1
    pages = rng.sample(LETTERS, width * length)
    chains = []
    for first in range(0, len(pages), length):
        chains.append(tuple(pages[first : first + length]))
    return tuple(chains)


def choose_order(rng: random.Random, width: int, depth: int) -> tuple[tuple[int, ...], ...]:
    """For each click the chains in the order of their buttons: see MapTask.order."""
    orders = []
    for _ in range(depth + 1):
        orders.append(tuple(rng.sample(range(width), width)))
    return tuple(orders)


def choose_entries(rng: random.Random, chains: Sequence[tuple[str, ...]]) -> tuple[Entry, ...]:
    """An entry for each two neighbours of a chain, anywhere on the map."""
    depth = len(chains[0]) - 1
    slots = rng.sample(SLOTS, len(chains) * depth)
    entries = []
    for chain in chains:
        for click, (page, leads_to) in enumerate(pairwise(chain)):
            entries.append(Entry(page, leads_to, click, slots.pop()))
    return tuple(entries)


def choose_names(rng: random.Random) -> dict[str, str]:
    """What the annotator of this task calls each page."""
    spoken = {}
    for letter, word in WORD_OF.items():
        says_word = rng.random() < WORD_RATE
        spoken[letter] = word if says_word else letter
    return spoken


# ---- the world -----------------------------------------------------------------------------------


class ToyMap:
    """The toy map, with the methods of envs.ToyGUI.

    reset(seed) -> (Observation, info);
    step(action) -> (Observation, reward, terminated, truncated, info).

    reward is 1.0 on the step that opens the goal and 0.0 otherwise. info: "result" is "ok" (a page
    was opened, the right one or not), "failed" (the tool agent found nothing: step(None)) or
    "impossible" (no button there), "success", "steps", "oracle_steps".
    Same split and seed: same task and same pixels.

    A task of depth 2 and the oracle's clicks, in an annotator's words:

    >>> env = ToyMap("test")
    >>> observation, info = env.reset(1)
    >>> observation.instruction, env.demand, info["oracle_steps"]
    ('open India', 2, 3)
    >>> env.buttons()
    ['J', 'G', 'D']
    >>> [str(action) for action in env.oracle(horizon=5)]
    ['click D', 'click Q', 'click India']
    """

    depth: int | None = None  # of all tasks, see map_of_depth; None: all depths in turn
    splits = tuple(MAP_SPLITS)
    grid = (COLS, ROWS)
    words = (*LETTERS, *SPELLING, "open")
    # Flags of train.py that suit this world: docs/experiments.md has what else was tried.
    suits = {
        "order": "far",  # a plan pays where it is written before the action that is executed
        "reading_steps": 600,  # what is misread now and then cannot be looked up
        "warmup_steps": 400,
        "train_tasks": 20_000,
        "demo_noise": 0.1,
        "control": True,
    }

    def __init__(self, split: str = "train", scale: int = 1, history: int = 4):
        """`scale`: of the picture, 1 is 128 x 96 px; `history`: how many past steps are shown."""
        check_map_split(split)
        if scale < 1 or history < 0:
            raise ValueError(f"scale {scale} must be at least 1 and history {history} at least 0")
        self.split = split
        self.scale = scale
        self.history = history

    def reset(self, seed: int) -> tuple[Observation, dict]:
        self.task = make_map_task(self.split, seed, self.depth)
        self.clicks = 0  # right ones so far
        self.astray = False
        self.steps = 0
        # Replaced, never changed: copies of the world (see `example`) share them.
        self.past: tuple[str, ...] = ()
        self.refused: frozenset[str] = frozenset()  # names that the tool agent did not find
        self.demand = self.task.depth  # for tables by demand
        self.oracle_steps = self.task.depth + 1
        self.max_steps = self.oracle_steps * (1 + FORGIVEN)
        return self.observe(), {"oracle_steps": self.oracle_steps}

    def step(
        self, action: Action | None, said: str = ""
    ) -> tuple[Observation, float, bool, bool, dict]:
        """Carry out a grounded action; None stands for a refusal of the tool agent.

        `said` is the policy's own wording, for the history.
        """
        result = self.carry_out(action)
        self.remember(action, said)
        self.steps += 1
        success = self.clicks > self.task.depth
        terminated = success or self.astray
        truncated = not terminated and self.steps >= self.max_steps
        info = {
            "result": result,
            "success": success,
            "steps": self.steps,
            "oracle_steps": self.oracle_steps,
        }
        return self.observe(), float(success), terminated, truncated, info

    def carry_out(self, action: Action | None) -> str:
        """Open the page that was clicked; returns info["result"]."""
        if action is None:
            return "failed"
        if action.kind != "click":
            return "impossible"
        page = self.page_at(action.point)
        if page is None:
            return "impossible"
        if page == self.task.way[self.clicks]:
            self.clicks += 1
        else:
            self.astray = True
        return "ok"

    def remember(self, action: Action | None, said: str) -> None:
        """Write a step into the history, where a refusal is told."""
        line = said if said else str(action)
        if action is None:
            line += " failed"
            _kind, _, name = said.partition(" ")
            self.refused |= {name}
        self.past = (*self.past, line)

    # ---- what the policy and the tool agent see --------------------------------------------------

    @property
    def due(self) -> int:
        """The number of the click that is due, from 0; of a solved task the last one's."""
        return min(self.clicks, self.task.depth)

    def observe(self) -> Observation:
        # What is on the screen is read now: the picture shows this moment, whenever it is drawn.
        screenshot = partial(draw_map, self.task, self.cells(), self.ahead(), self.scale)
        goal = self.task.spoken[self.task.goal]
        return Observation(f"open {goal}", screenshot, last_steps(self.past, self.history))

    def buttons(self) -> list[str]:
        """The pages that can be clicked, from left to right."""
        order = self.task.order[self.due]
        return [self.task.chains[chain][self.due] for chain in order]

    def ahead(self) -> list[Entry]:
        """The entries that are still shown.

        Those that lie behind are gone: a task that is partly done looks like a less deep one.
        (With all of them kept on the screen, policies did not learn where to stop on the way back.)
        """
        return [entry for entry in self.task.entries if entry.click >= self.clicks]

    def visible(self) -> tuple[tuple[str, Box], ...]:
        """What the tool agent can find: (label, box) of each button. The map cannot be clicked."""
        found = []
        for place, page in enumerate(self.buttons()):
            left = 2 * place / COLS
            found.append((page, (left, 0.0, left + 2 / COLS, 1 / ROWS)))
        return tuple(found)

    def page_at(self, point: Point | None) -> str | None:
        """The page whose button lies there; None where there is none."""
        if point is None:
            return None
        for page, box in self.visible():
            if inside(point, box):
                return page
        return None

    def cells(self) -> dict[tuple[int, int], str]:
        """(column, row) -> the icon or letter that is drawn there."""
        cells = {}
        for place, page in enumerate(self.buttons()):
            cells[2 * place, 0] = "<button>"
            cells[2 * place + 1, 0] = page
        for entry in self.ahead():
            column, row = entry.slot
            cells[column, row] = entry.page
            cells[column + 1, row] = entry.leads_to
        return cells

    def key(self) -> str:
        """Names the screen, so that the tool agent answers the same on the same screen."""
        return f"map {self.task.seed}/{self.clicks}"

    def ground(self, action: Action) -> Action | None:
        """What the frozen tool agent makes of a step here; None where it refuses.

        On `flaky` its failures depend on the step too, so that a retry can help.
        """
        key = self.key()
        flaky = 0.0
        if self.split == "flaky":
            key = f"{key}/{self.steps}"
            flaky = FLAKY
        return find_element(action, self.visible(), key, flaky=flaky, aliases=OTHER_NAME)

    # ---- the oracle ------------------------------------------------------------------------------

    def oracle(self, horizon: int, exact: bool = False) -> list[Action]:
        """The clicks that are left, at most `horizon`, in an annotator's words.

        A word that the tool agent has refused is not said again. `exact`: the first one is called
        by its letter, so that the tool agent finds it. Only the first one has a point: the others
        have no button yet. At the end of a solved task the last one stays.
        """
        first, *later = self.task.way[self.due :][:horizon]
        text = first if exact else self.annotators_name(first)
        plan = [Action("click", text, centre(self.box_of(first)))]
        for page in later:
            plan.append(Action("click", self.annotators_name(page)))
        return plan

    def box_of(self, page: str) -> Box:
        """Of the page's button, which must be on the screen."""
        return dict(self.visible())[page]

    def annotators_name(self, page: str) -> str:
        name = self.task.spoken[page]
        return page if name in self.refused else name

    def example(self, horizon: int, plan: tuple[Action, ...] = ()) -> Example:
        """The present state as an example; `plan`: what is left of the last forecast.

        `tools`, because the tool agent by default knows the names of the toy GUI only. It may be
        asked when this world has gone on, so a copy of it answers.
        """
        target = self.task.way[self.due]
        this_moment = copy.copy(self)
        return Example(
            observation=replace(self.observe(), plan=plan),
            reference=tuple(self.oracle(horizon)),
            boxes=(self.box_of(target),),
            elements=self.visible(),
            key=self.key(),
            tools=this_moment.ground,
        )

    # ---- random behaviour ------------------------------------------------------------------------

    def moves(self, rng: random.Random) -> list[Action]:
        """What an agent might do that does not know the task: click what can be read."""
        names = self.buttons() + [entry.leads_to for entry in self.ahead()]
        return [Action("click", name) for name in names]

    def wander(self, rng: random.Random) -> None:
        """Go some right clicks into the task, for lessons."""
        self.clicks = rng.randrange(self.task.depth + 1)

    @staticmethod
    def stray(rng: random.Random) -> Action:
        """A false step, for damaged plans."""
        return Action("click", rng.choice(LETTERS))

    # ---- lessons ---------------------------------------------------------------------------------

    def readings(self) -> dict[tuple[int, int], dict[str, float]]:
        """(column, row) -> the words that its vision token is to name, with their shares.

        The cell in which an entry ends names both of its pages, so that one token holds the whole
        entry: the page that it leads to by its letter and the page that it starts from by its word.
        By their names the two can be told apart; with two letters the direction of an entry is
        hard to see, and with the first page left in its own cell nothing binds the two.

            K > H         {"Kilo": 1.0}      {"H": 0.5, "Kilo": 0.5}
            <button> K    {"<button>": 1.0}  {"K": 0.75, "<button>": 0.25}
        """
        readings = {}
        for place, page in enumerate(self.buttons()):
            readings[2 * place, 0] = {"<button>": 1.0}
            readings[2 * place + 1, 0] = {page: 0.75, "<button>": 0.25}
        for entry in self.ahead():
            column, row = entry.slot
            start = WORD_OF[entry.page]
            readings[column, row] = {start: 1.0}
            readings[column + 1, row] = {entry.leads_to: 0.5, start: 0.5}
        return readings

    @staticmethod
    def courses(settings) -> list[Course]:
        """What is taught between reading and imitation: to look things up on the map.

        The written ones go from a page back to its button, from all pages of a screen at once.
        First in letters alone, where the page to look up is the last token; then in the lines of a
        forecast; then with either name of a page. In the other order, or with both names at once,
        the loss stood on a plateau for hundreds of batches (docs/experiments.md, the batches of
        each course too). At last, if --silent_hops asks for it, what is not written down.

        `settings`: an extras.warm_start.WarmStart, which cannot be imported here.
        """
        tasks = settings.train_tasks
        look_ups = partial(draw_drills, tasks=tasks, form=NAMES_ALONE, word_rate=0.0)
        walks = partial(draw_drills, tasks=tasks, form=LINES, word_rate=0.0)
        courses = [Course("look-ups", 250, look_ups)]
        form = LINES
        if settings.thinking > 0:
            form = NAMES_ALONE  # as in a thought
        else:
            courses.append(Course("walks", 125, walks))
        names = partial(draw_drills, tasks=tasks, form=form, word_rate=WORD_RATE)
        courses.append(Course("names", 200, names))
        for hops in range(1, settings.silent_hops + 1):
            silent = partial(draw_silent_drills, tasks=tasks, hops=hops)
            courses.append(Course(f"silent {hops}", settings.silent_batches, silent, horizon=1))
        return courses

    def ways_back(self) -> list[list[str]]:
        """From each page that is still ahead the way back to its button.

        Of a chain whose button is K, with H and T behind it: [K], [H, K] and [T, H, K].
        """
        ways = []
        for chain in self.task.chains:
            pages = chain[self.clicks :]
            for end in range(len(pages)):
                ways.append(list(reversed(pages[: end + 1])))
        return ways


# ---- drills: the batches of the courses ----------------------------------------------------------


@dataclass(frozen=True)
class Form:
    """How a way is written down."""

    verb: str  # before each name
    between: str  # between two names


NAMES_ALONE = Form(verb="", between=" ")
LINES = Form(verb="click ", between="\n")  # of a forecast

DRILLS = 8  # screens of a batch, each with 3 to 15 ways, 7 on average
SILENT_DRILLS = 32  # screens of a batch, each with one answer
# The share of states that is drawn from anywhere on the way. A third of these (with one hop) are
# too far from the goal for `hops` look-ups: there it learns to guess a page that has a button. An
# agent that had never seen such states names a page without a button, and is refused until its
# steps are used up (docs/experiments.md). With this share at 1 it would unlearn d = 1.
FROM_ANYWHERE = 0.25
# Of the others this share is a random distance from the goal, 0 to `hops`. The rest is `hops` away,
# or at the start of a task whose way is shorter. When all were at a random distance, half of them
# taught no look-up (with one hop), and one seed of two did not learn it.
NEARER = 0.25


def draw_drills(rng: random.Random, tasks: int, form: Form, word_rate: float) -> list[Drill]:
    """A batch of screens, each with all the ways back of its pages.

    `tasks`: of training, the first so many; `word_rate`: how often a page is called by its word.
    """
    drills = []
    for _ in range(DRILLS):
        env = ToyMap("train")
        env.reset(rng.randrange(tasks))
        env.wander(rng)
        answers = [write_way(rng, way, form, word_rate) for way in env.ways_back()]
        drills.append(Drill(env.observe(), tuple(answers)))
    return drills


def write_way(
    rng: random.Random, way: Sequence[str], form: Form, word_rate: float
) -> tuple[str, str]:
    """(the first page, which is given; the others, which are to be written).

    >>> write_way(random.Random(0), ["T", "H", "K"], NAMES_ALONE, word_rate=0.0)
    ('T', ' H K')
    >>> write_way(random.Random(0), ["T", "H", "K"], LINES, word_rate=1.0)
    ('click Tango', '\\nclick Hotel\\nclick Kilo')
    """
    lines = []
    for page in way:
        says_word = rng.random() < word_rate
        name = WORD_OF[page] if says_word else page
        lines.append(form.verb + name)
    given, *rest = lines
    written = "".join(form.between + line for line in rest)
    return given, written


def draw_silent_drills(rng: random.Random, tasks: int, hops: int) -> list[Drill]:
    """A batch of states, `hops` look-ups from their goals where that can be: the next click is
    asked.

    What a plan would write down first, the goal and the pages on the way back, is to be named by
    the layers, one look-up a layer. On the way T > N > W, two hops:

        answer    "click T"
        inner     W by the first layer, N by the second
    """
    drills = []
    for _ in range(SILENT_DRILLS):
        env = ToyMap("train")
        env.reset(rng.randrange(tasks))
        if rng.random() < FROM_ANYWHERE:
            env.wander(rng)
        else:
            away = rng.randint(0, hops) if rng.random() < NEARER else hops
            env.clicks = max(0, env.task.depth - away)
        way_back = list(reversed(env.task.way[env.clicks :]))
        inner = tuple(way_back[:hops])
        [click] = env.oracle(1)
        drills.append(Drill(env.observe(), (("", str(click)),), inner))
    return drills


# ---- the dial ------------------------------------------------------------------------------------


@cache
def map_of_depth(depth: int) -> type[ToyMap]:
    """The toy map with tasks of one depth only; those of the split `deeper` stay deeper.

    The same depth gives the same class. Raises ValueError outside 1..4.
    """
    if depth not in DEPTHS:
        raise ValueError(
            f"depth={depth}: the depth must lie in {DEPTHS[0]}..{DEPTHS[-1]}; "
            f"{DEEPER} is the split deeper"
        )
    return type("MapOfDepth", (ToyMap,), {"depth": depth})


# ---- the picture ---------------------------------------------------------------------------------


def draw_map(
    task: MapTask, cells: dict[tuple[int, int], str], entries: Sequence[Entry], scale: int
) -> Image.Image:
    """The screen as an RGB picture of (128 * scale) x (96 * scale) px."""
    # Of a task it needs seed and colours alone, and a MapTask has both.
    image = draw_screen(task, cells, scale)
    canvas = ImageDraw.Draw(image)
    for entry in entries:
        column, row = entry.slot
        right_edge = (column + 1) * CELL - 1
        middle = row * CELL + CELL // 2
        draw_arrow(canvas, (right_edge, middle), scale, task.colours)
    return image


def draw_arrow(
    canvas: ImageDraw.ImageDraw, tip: tuple[int, int], scale: int, colours: Colours
) -> None:
    """A small arrow that ends at `tip`, in px of the smallest scale."""
    x, y = tip
    head = [(x - 2, y - 2), (x, y), (x - 2, y + 2)]
    shaft = [(x - 3, y), (x, y)]
    for line in (head, shaft):
        points = [(a * scale, b * scale) for a, b in line]
        canvas.line(points, fill=colours.accent, width=scale)
