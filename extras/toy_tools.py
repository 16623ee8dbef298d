"""The toy tool world: a picture, a question that two to six calls of frozen tools answer.

Called through extras/worlds.py in place of envs.ToyGUI, whose methods it has.
It does not run real tools: those are in benchmarks/toolbox.py.

The picture shows a price list or a bar chart and, above or below it, a sign (vehicle, city) or
shapes to count, in cells as in the toy GUI. Questions read "fare of bus", "stock of dearer of apple
and pear", "add price of apple and count of circle then sub fare of bus". In the history stands
"call read apple = 7", "= error" where no answer came, "= broken" where the tool raised or hung.
Stocks (of items) and fares (to cities) are in KNOWLEDGE, the same in every episode: a policy that
reads and remembers can forecast every argument, one that does neither can copy the tools' answers
one by one.

From top to bottom: the words; the calls; the picture; the frozen tools; the questions; the world.
"""

import copy
import random
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import partial

from PIL import Image, ImageDraw

from envs import (
    ALIAS_RIGHT,
    CELL,
    COLS,
    FLAKY,
    SPLIT_SIZE,
    TERMINAL,
    Action,
    Box,
    Example,
    Observation,
    font,
    last_steps,
)
from extras.guarded import guarded

# ---- words and numbers ---------------------------------------------------------------------------

ITEMS = ("apple", "pear", "plum", "bread", "milk", "tea", "salt", "rice")
CITIES = ("berlin", "paris", "rome", "oslo", "lima", "cairo", "delhi", "tokyo")
VEHICLES = ("bus", "train", "ship")
SHAPES = ("circle", "square", "triangle")
ARITHMETIC = ("add", "sub", "mul")
# A tool's name -> its number of arguments.
TOOLS = {
    "read": 1,
    "count": 1,
    "lookup": 1,
    "add": 2,
    "sub": 2,
    "mul": 2,
    "compare": 2,
    "mean": 2,
}
# What people say -> the tool that they mean.
TOOL_ALIASES = {
    "ocr": "read",
    "tally": "count",
    "find": "lookup",
    "sum": "add",
    "minus": "sub",
    "times": "mul",
    "versus": "compare",
    "average": "mean",
}
ALIAS_OF = {tool: alias for alias, tool in TOOL_ALIASES.items()}
TERMS = ("price", "stock", "fare", "count")  # the kinds of numbers that a question names
NUMBERS = tuple(str(number) for number in range(100))
# All that can stand in a prompt or a picture of this world: the tiny model's vocabulary.
TOOL_WORDS = (
    *TOOLS,
    *TOOL_ALIASES,
    *ITEMS,
    *CITIES,
    *VEHICLES,
    *SHAPES,
    "price",
    "stock",
    "fare",
    "of",
    "and",
    "then",
    "dearer",
    "cheaper",
    "more",
    "less",
    "equal",
    "error",
    "broken",
    "=",
    *NUMBERS,
)


def draw_knowledge() -> dict[str, str]:
    """What `lookup` knows: the stock of each item and the fare to each city, all different."""
    names = (*ITEMS, *CITIES)
    numbers = random.Random(7).sample(range(2, 40), len(names))
    return {name: str(number) for name, number in zip(names, numbers, strict=True)}


KNOWLEDGE = draw_knowledge()

TOOL_FAILS = 0.02  # how often a tool fails (FLAKY on that split); the next try is drawn afresh
TOOL_SECONDS = 5.0  # when a tool is given up
# How often an annotator says "sum" for `add`: people describe, tools want their name.
TOOL_ALIAS_RATE = 0.7
TOOL_SLACK = 2  # steps beyond the oracle's before an episode is truncated
TOOL_ROWS = 7  # of cells in a picture
MAX_CALLS = 6  # that a question may need

# Pairs of a tool and a kind of number that it works on: only the split "composition" asks for them.
# Only "tool" asks for `mean`; a title on some pictures lets the other splits know it as a word.
HELD_OUT = {("sub", "fare"), ("mul", "stock"), ("add", "count")}


# ---- calls ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Call:
    """A call that a question needs, with true arguments and the true answer."""

    tool: str
    arguments: tuple[str, ...]
    needs: tuple["Call", ...]  # the calls whose answers tell the arguments
    answer: str

    @property
    def text(self) -> str:
        return " ".join((self.tool, *self.arguments))


def fact(tool: str, arguments: Sequence[str]) -> tuple[str, ...]:
    """Names an answer: the order of the arguments does not count for a sum, a product, a mean."""
    if tool in ("sub", "compare"):
        return (tool, *arguments)
    return (tool, *sorted(arguments))


def missing_calls(call: Call, known: frozenset = frozenset()) -> list[Call]:
    """The calls still to be made for this one's answer, in order; `known`: facts.

    What a known answer was made of is not needed.
    """
    if fact(call.tool, call.arguments) in known:
        return []
    missing = []
    for need in call.needs:
        for other in missing_calls(need, known):
            if other not in missing:
                missing.append(other)
    return [*missing, call]


# ---- drawing the lots for a picture: the order of the draws is part of the world -----------------

PAPERS = ("#ffffff", "#fff6e0", "#e8f4ff", "#eeeeee")
INKS = ("#000000", "#202060", "#402010")
BAR_COLOUR = "#7aa6d8"
SIGN_COLOURS = ("#005030", "#103080")
SIGN_INK = "#ffffff"
SHAPE_COLOURS = ("#d02020", "#208020", "#3050d0", "#c08000")
SHAPE_SIZE = 10  # px at scale 1
PRICE_ROWS = 4
OTHER_ROWS = 3  # of a sign, or of shapes


@dataclass(frozen=True)
class Panel:
    """A coloured rectangle behind the marks."""

    box: tuple[int, int, int, int]  # left, top, right, bottom in px at scale 1
    colour: str


@dataclass(frozen=True)
class Mark:
    """A word, or a shape that is called by its word."""

    word: str
    x: int  # px at scale 1, of the left edge
    y: int  # of the top edge
    colour: str


@dataclass(frozen=True)
class Picture:
    """What stands on a picture, and what the tools will say of it."""

    paper: str
    panels: list[Panel] = field(default_factory=list)
    marks: list[Mark] = field(default_factory=list)
    beside: dict[str, str] = field(default_factory=dict)  # a label -> the word beside it
    counts: dict[str, int] = field(default_factory=dict)  # a shape -> how many there are

    def put(self, rng: random.Random, word: str, column: int, row: int, colour: str) -> None:
        """A word or a shape in a cell, a pixel or two from the cell's corner."""
        x = column * CELL + rng.randint(1, 2)
        y = row * CELL + rng.randint(1, 2)
        self.marks.append(Mark(word, x, y, colour))

    def labels(self, words: tuple[str, ...]) -> list[str]:
        """Which of these words stand on the picture with something beside them."""
        return [label for label in self.beside if label in words]


def draw_picture(rng: random.Random) -> Picture:
    """Prices in four rows; a sign or shapes in the other three, above or below."""
    picture = Picture(paper=rng.choice(PAPERS))
    ink = rng.choice(INKS)
    has_chart = rng.random() < 0.5
    has_sign = rng.random() < 0.5
    prices_first = rng.random() < 0.5
    if prices_first:
        prices_row, other_row = 0, PRICE_ROWS
    else:
        prices_row, other_row = OTHER_ROWS, 0
    if has_chart:
        put_bar_chart(rng, picture, prices_row, ink)
    else:
        put_price_list(rng, picture, prices_row, ink)
    if has_sign:
        put_sign(rng, picture, other_row)
    else:
        put_shapes(rng, picture, other_row)
    return picture


def put_price_list(rng: random.Random, picture: Picture, top: int, ink: str) -> None:
    """Four items, each with its price in the same column."""
    price_column = rng.randint(5, 6)
    items = rng.sample(ITEMS, 4)
    for row, item in enumerate(items, start=top):
        price = draw_price(rng)
        picture.beside[item] = str(price)
        item_column = rng.randint(0, 1)
        picture.put(rng, item, item_column, row, ink)
        picture.put(rng, str(price), price_column, row, ink)


def put_bar_chart(rng: random.Random, picture: Picture, top: int, ink: str) -> None:
    """A title and three items, each with a bar and, to the right of it, its price."""
    title = rng.choice(("price", "mean"))
    picture.put(rng, title, 2, top, ink)
    items = rng.sample(ITEMS, 3)
    for row, item in enumerate(items, start=top + 1):
        price = draw_price(rng)
        picture.beside[item] = str(price)
        picture.put(rng, item, 0, row, ink)
        picture.put(rng, str(price), 6, row, ink)
        picture.panels.append(bar(row, price))


def draw_price(rng: random.Random) -> int:
    """1..12 or 1..60, as a coin falls: small prices are frequent."""
    largest = rng.choice((12, 60))
    return rng.randint(1, largest)


def bar(row: int, price: int) -> Panel:
    """The bar of a price: it begins in the fourth cell of its row and ends before the seventh."""
    left = 3 * CELL
    right = left + 1 + price * 2 // 3
    return Panel((left, row * CELL + 4, right, row * CELL + 12), BAR_COLOUR)


def put_sign(rng: random.Random, picture: Picture, top: int) -> None:
    """Three vehicles and the cities that they go to, in white on a dark board."""
    margin = CELL // 2
    right = COLS * CELL - margin - 1
    bottom = (top + OTHER_ROWS) * CELL - 1
    picture.panels.append(Panel((margin, top * CELL, right, bottom), rng.choice(SIGN_COLOURS)))
    vehicles = rng.sample(VEHICLES, OTHER_ROWS)
    cities = rng.sample(CITIES, OTHER_ROWS)
    for i in range(OTHER_ROWS):
        picture.beside[vehicles[i]] = cities[i]
        picture.put(rng, vehicles[i], 1, top + i, SIGN_INK)
        picture.put(rng, cities[i], 4, top + i, SIGN_INK)


def put_shapes(rng: random.Random, picture: Picture, top: int) -> None:
    """Three to twelve shapes to count, each in a cell of its own."""
    how_many = rng.randint(3, 12)
    for cell in rng.sample(range(OTHER_ROWS * COLS), how_many):
        shape = rng.choice(SHAPES)
        colour = rng.choice(SHAPE_COLOURS)
        picture.counts[shape] = picture.counts.get(shape, 0) + 1
        picture.put(rng, shape, cell % COLS, top + cell // COLS, colour)


# ---- painting it ---------------------------------------------------------------------------------


def paint(picture: Picture, scale: int) -> Image.Image:
    """The picture as RGB, of (128 * scale) x (112 * scale) px."""
    size = (COLS * CELL * scale, TOOL_ROWS * CELL * scale)
    image = Image.new("RGB", size, picture.paper)
    pen = ImageDraw.Draw(image)
    for panel in picture.panels:
        pen.rectangle([edge * scale for edge in panel.box], fill=panel.colour)
    for mark in picture.marks:
        paint_mark(pen, mark, scale)
    return image


def paint_mark(pen: ImageDraw.ImageDraw, mark: Mark, scale: int) -> None:
    """A word as text; the word of a shape as the shape."""
    left = mark.x * scale
    top = mark.y * scale
    right = left + SHAPE_SIZE * scale
    bottom = top + SHAPE_SIZE * scale
    if mark.word == "circle":
        pen.ellipse((left, top, right, bottom), fill=mark.colour)
    elif mark.word == "square":
        pen.rectangle((left, top, right, bottom), fill=mark.colour)
    elif mark.word == "triangle":
        middle = left + SHAPE_SIZE * scale // 2
        pen.polygon((left, bottom, right, bottom, middle, top), fill=mark.colour)
    else:
        pen.text((left, top), mark.word, fill=mark.colour, font=font(10 * scale))


# ---- the frozen tools ----------------------------------------------------------------------------


def read(picture: Picture, label: str) -> str | None:
    """The word beside a label."""
    return picture.beside.get(label)


def count(picture: Picture, shape: str) -> str | None:
    if shape not in SHAPES:
        return None
    return str(picture.counts.get(shape, 0))


def lookup(picture: Picture, name: str) -> str | None:
    """The stock of an item, the fare to a city."""
    return KNOWLEDGE.get(name)


def add(a: int, b: int) -> str | None:
    return in_range(a + b)


def sub(a: int, b: int) -> str | None:
    return in_range(a - b)


def mul(a: int, b: int) -> str | None:
    return in_range(a * b)


def mean(a: int, b: int) -> str | None:
    return in_range((a + b) // 2)


def compare(a: int, b: int) -> str:
    if a > b:
        return "more"
    if a < b:
        return "less"
    return "equal"


def in_range(number: int) -> str | None:
    """The number as a word, or None where this world has no word for it."""
    if 0 <= number <= 99:
        return str(number)
    return None


LOOKING = {"read": read, "count": count, "lookup": lookup}
CALCULATING = {"add": add, "sub": sub, "mul": mul, "compare": compare, "mean": mean}


def toy_tool(tool: str, arguments: Sequence[str], picture: Picture) -> str | None:
    """What a frozen tool answers, or None where it cannot.

    It cannot where there is no such tool, no such label, or the result is outside 0..99.
    """
    if len(arguments) != TOOLS.get(tool):
        return None
    if tool in LOOKING:
        return LOOKING[tool](picture, arguments[0])
    first, second = arguments
    if first not in NUMBERS or second not in NUMBERS:
        return None
    return CALCULATING[tool](int(first), int(second))


# ---- drawing a question: the order of the draws is part of the world -----------------------------

# Forms are drawn from these: how often one stands here is how frequent it is.
FORMS = ("fare", "two", "two", "two", "three", "three", "pick")
FORMS_OF_SPLIT = {"composition": ("two", "three"), "tool": ("two",)}


@dataclass(frozen=True)
class Question:
    """A question, or a number that one names: its words and the call that answers it."""

    words: str
    call: Call


def draw_task(split: str, seed: int) -> tuple[Picture, Question]:
    """The picture and the question of one seed; the seeds of two splits do not overlap.

    The form and its tools are drawn once, the rest until it fits: hard forms stay frequent.
    """
    rng = random.Random(f"tools {seed}")
    form = rng.choice(FORMS_OF_SPLIT.get(split, FORMS))
    tools = draw_tools(rng, split)
    while True:
        picture = draw_picture(rng)
        question = draw_question(rng, picture, form, tools, held_out=split == "composition")
        if question is not None and len(missing_calls(question.call)) <= MAX_CALLS:
            return picture, question


def draw_tools(rng: random.Random, split: str) -> list[str]:
    """What to calculate with: the form "two" takes the first one, "three" both."""
    if split == "tool":
        return ["mean"]
    return [rng.choice(ARITHMETIC), rng.choice(ARITHMETIC)]


def draw_question(
    rng: random.Random, picture: Picture, form: str, tools: list[str], held_out: bool
) -> Question | None:
    """A question of this form for the picture; None where it does not fit.

    `held_out`: whether it must hold one of the pairs in HELD_OUT, or none.
    """
    if form == "fare":
        return draw_term(rng, picture, "fare")
    if form == "pick":
        return ask_pick(rng, picture)
    if form == "two":
        return ask_two(rng, picture, tools[0], held_out)
    return ask_three(rng, picture, tools, held_out)


def ask_two(rng: random.Random, picture: Picture, tool: str, held_out: bool) -> Question | None:
    """Two numbers: "add price of apple and count of circle"."""
    kinds = rng.choices(TERMS, k=2)
    pairs = {(tool, kind) for kind in kinds}
    terms = draw_terms(rng, picture, kinds)
    if terms is None or has_held_out(pairs) != held_out:
        return None
    return join_two(picture, tool, terms[0], terms[1])


def ask_three(
    rng: random.Random, picture: Picture, tools: list[str], held_out: bool
) -> Question | None:
    """Three numbers: "add price of apple and count of circle then sub fare of bus"."""
    tool, last_tool = tools
    kinds = rng.choices(TERMS, k=3)
    pairs = {(tool, kinds[0]), (tool, kinds[1]), (last_tool, kinds[2])}
    terms = draw_terms(rng, picture, kinds)
    if terms is None or has_held_out(pairs) != held_out:
        return None
    both = join_two(picture, tool, terms[0], terms[1])
    if both is None:
        return None
    words = f"{both.words} then {last_tool} {terms[2].words}"
    return calculation(picture, words, last_tool, both, terms[2])


def ask_pick(rng: random.Random, picture: Picture) -> Question | None:
    """A comparison decides the last argument: "stock of dearer of apple and pear"."""
    first, second = rng.sample(picture.labels(ITEMS), 2)
    wish = rng.choice(("dearer", "cheaper"))
    first_read = make_call(picture, "read", (first,))
    second_read = make_call(picture, "read", (second,))
    prices = (first_read.answer, second_read.answer)
    compared = make_call(picture, "compare", prices, (first_read, second_read))
    if compared.answer == "equal":
        return None
    first_is_dearer = compared.answer == "more"
    if first_is_dearer == (wish == "dearer"):
        winner = first
    else:
        winner = second
    stock = make_call(picture, "lookup", (winner,), (compared,))
    return Question(f"stock of {wish} of {first} and {second}", stock)


def has_held_out(pairs: set[tuple[str, str]]) -> bool:
    return bool(pairs & HELD_OUT)


def draw_terms(rng: random.Random, picture: Picture, kinds: list[str]) -> list[Question] | None:
    """A number of each kind; None where one is not there or the same one comes twice.

    All are drawn before any is judged.
    """
    terms = [draw_term(rng, picture, kind) for kind in kinds]
    if None in terms:
        return None
    different = {term.words for term in terms}
    if len(different) < len(terms):
        return None
    return terms


def draw_term(rng: random.Random, picture: Picture, kind: str) -> Question | None:
    """A number of this kind, "price of apple", or None where the picture has none."""
    candidates = {
        "price": picture.labels(ITEMS),
        "stock": ITEMS,
        "count": sorted(picture.counts),
        "fare": picture.labels(VEHICLES),
    }[kind]
    if not candidates:
        rng.choice([None])  # a draw all the same: those that follow depend on it
        return None
    word = rng.choice(candidates)
    return Question(f"{kind} of {word}", term_call(picture, kind, word))


def term_call(picture: Picture, kind: str, word: str) -> Call:
    if kind == "price":
        return make_call(picture, "read", (word,))
    if kind == "stock":
        return make_call(picture, "lookup", (word,))
    if kind == "count":
        return make_call(picture, "count", (word,))
    city = make_call(picture, "read", (word,))
    return make_call(picture, "lookup", (city.answer,), (city,))


def join_two(picture: Picture, tool: str, first: Question, second: Question) -> Question | None:
    words = f"{tool} {first.words} and {second.words}"
    return calculation(picture, words, tool, first, second)


def calculation(
    picture: Picture, words: str, tool: str, first: Question, second: Question
) -> Question | None:
    """What a tool makes of two numbers; None where that is no whole number in 0..99."""
    numbers = (first.call.answer, second.call.answer)
    if tool == "mean" and (int(numbers[0]) + int(numbers[1])) % 2 == 1:
        return None
    call = make_call(picture, tool, numbers, (first.call, second.call))
    if call is None:
        return None
    return Question(words, call)


def make_call(
    picture: Picture, tool: str, arguments: tuple[str, ...], needs: tuple[Call, ...] = ()
) -> Call | None:
    """The call with its true answer, or None where the tool has none."""
    answer = toy_tool(tool, arguments, picture)
    if answer is None:
        return None
    return Call(tool, arguments, needs, answer)


# ---- the world -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Served:
    """What came of a call.

    result "ok": the tool answered; "failed": it did not answer this time, or was not reached;
    "impossible": there is no answer to this call; "broken": the tool raised or hung.
    """

    result: str
    answer: str  # what the history says: the answer, or "error" or "broken"
    fact: tuple[str, ...]


class ToyTools:
    """The toy tool world, with the toy GUI's methods.

    A question is solved when the agent answers with the right number (0..99).
    info["result"] of a call: see Served. A right answer is "ok", step(None) is "failed", everything
    else is "impossible".

    >>> env = ToyTools("test")
    >>> observation, info = env.reset(0)
    >>> env.step(env.oracle(1, exact=True)[0])[4]["result"]
    'ok'
    """

    splits = ("train", "dev", "test", "composition", "tool", "flaky")
    grid = (COLS, TOOL_ROWS)
    words = TOOL_WORDS

    def __init__(self, split: str = "train", scale: int = 1, history: int = 4):
        """`scale`: of the picture, 1 is 128 x 112 px; `history`: how many past steps are shown."""
        if split not in self.splits or scale < 1 or history < 0:
            raise ValueError(
                f"split {split!r} must be one of {', '.join(self.splits)}, "
                f"scale {scale} at least 1, history {history} at least 0"
            )
        self.split = split
        self.scale = scale
        self.history = history

    def reset(self, seed: int) -> tuple[Observation, dict]:
        if not 0 <= seed < SPLIT_SIZE:
            raise ValueError(f"seed {seed} is outside 0..{SPLIT_SIZE - 1}")
        self.seed = self.splits.index(self.split) * SPLIT_SIZE + seed
        self.picture, self.question = draw_task(self.split, self.seed)
        self.screenshot = partial(paint, self.picture, self.scale)
        # Never changed in place: an example's copy of the world keeps its moment.
        self.known: frozenset[tuple[str, ...]] = frozenset()  # facts that the tools have told
        self.refused: frozenset[str] = frozenset()  # names of tools that did not answer
        self.past: tuple[str, ...] = ()
        self.steps = 0
        self.oracle_steps = len(self.oracle(MAX_CALLS + 1))
        self.max_steps = self.oracle_steps + TOOL_SLACK
        return self.observe(), {"oracle_steps": self.oracle_steps}

    @property
    def answer(self) -> str:
        return self.question.call.answer

    def key(self) -> str:
        """Names the moment: the same call at the same moment gets the same answer."""
        return f"{self.seed}/{self.steps}"

    # ---- what is on the picture ------------------------------------------------------------------

    def visible(self) -> tuple[tuple[str, Box], ...]:
        """Every word and shape on the picture with its box in 0..1."""
        width = COLS * CELL
        height = TOOL_ROWS * CELL
        found = []
        for mark in self.picture.marks:
            if mark.word in SHAPES:
                right = mark.x + SHAPE_SIZE
            else:
                right = mark.x + font(10).getlength(mark.word)
            bottom = mark.y + 12
            box = (mark.x / width, mark.y / height, right / width, bottom / height)
            found.append((mark.word, box))
        return tuple(found)

    def cells(self) -> dict[tuple[int, int], str]:
        """(column, row) -> the word (or shape) that begins there."""
        return {(mark.x // CELL, mark.y // CELL): mark.word for mark in self.picture.marks}

    def observe(self) -> Observation:
        past = last_steps(self.past, self.history)
        return Observation(self.question.words, self.screenshot, past)

    # ---- what actions do -------------------------------------------------------------------------

    def ground(self, action: Action) -> Action:
        """The action itself: the tools of this world act in step."""
        return action

    def step(
        self, action: Action | None, said: str = ""
    ) -> tuple[Observation, float, bool, bool, dict]:
        """Hand a call to the frozen tools, or take the answer.

        None stands for a forecast that could not be read; `said` is then what the history shows.
        """
        terminated = action is not None and action.kind in TERMINAL
        success = self.is_right(action)
        if action is None:
            result = "failed"
            spoken = said if said else str(action)
            line = f"{spoken} failed"
        elif action.kind == "call":
            served = self.serve(action.text)
            self.remember(action.text, served)
            result = served.result
            line = f"{action} = {served.answer}"
        elif terminated:
            result = "ok" if success else "impossible"
            line = str(action)
        else:
            result = "impossible"
            line = f"{action} = error"
        self.past = (*self.past, line)
        self.steps += 1
        truncated = not terminated and self.steps >= self.max_steps
        info = {
            "result": result,
            "success": success,
            "steps": self.steps,
            "oracle_steps": self.oracle_steps,
        }
        return self.observe(), float(success), terminated, truncated, info

    def is_right(self, action: Action | None) -> bool:
        if action is None or action.kind != "answer":
            return False
        return action.text.strip().lower() == self.answer

    def remember(self, text: str, served: Served) -> None:
        if served.result == "ok":
            self.known |= {served.fact}
        if served.result == "failed":
            name = text.split()[0]
            self.refused |= {name}

    def serve(self, text: str) -> Served:
        """What the frozen tools make of the text of a call; the state stays as it is."""
        words = text.split()
        name = words[0] if words else ""
        arguments = words[1:]
        tool = TOOL_ALIASES.get(name, name)
        named = fact(tool, arguments)
        if tool in TOOLS and (self.is_deaf(name, text) or self.fails_now()):
            return Served("failed", "error", named)
        outcome = guarded(partial(toy_tool, tool, arguments, self.picture), TOOL_SECONDS)
        if outcome.status != "ok":
            return Served("broken", "broken", named)
        if outcome.value is None:
            return Served("impossible", "error", named)
        return Served("ok", outcome.value, named)

    def is_deaf(self, name: str, text: str) -> bool:
        """Whether an alias does not reach its tool with this call, now and later in the episode.

        An alias reaches its tool in 30 % of (episode, call) pairs.
        """
        if name not in TOOL_ALIASES:
            return False
        return random.Random(f"alias {self.seed} {text}").random() >= ALIAS_RIGHT

    def fails_now(self) -> bool:
        """Whether the tools fail at this moment, whatever they are asked."""
        rate = FLAKY if self.split == "flaky" else TOOL_FAILS
        return random.Random(f"fail {self.key()}").random() < rate

    def executed(self, action: Action) -> Action:
        """An action with what the tools answered: "read apple = 7". All but calls pass.

        It is told in the words of the question's own call where it is one, so that neither an alias
        nor the order of a sum shows. It is right when it equals one of the example's goals.
        """
        if action.kind != "call":
            return action
        served = self.serve(action.text)
        for call in self.missing():
            if fact(call.tool, call.arguments) == served.fact:
                return Action("call", f"{call.text} = {served.answer}")
        asked = action.text[:400]  # leaves room for the answer: an action's text is short
        return Action("call", f"{asked} = {served.answer}")

    # ---- the oracle ------------------------------------------------------------------------------

    def missing(self) -> list[Call]:
        """The calls that the question still needs, in order."""
        return missing_calls(self.question.call, self.known)

    def oracle(self, horizon: int, exact: bool = False) -> list[Action]:
        """The reference actions from the present state: at most `horizon`.

        They are the calls whose answers are still missing, with true arguments, then the answer.
        Unless `exact`, they are an annotator's, with aliases.
        """
        plan = []
        for call in self.missing():
            name = call.tool if exact else self.spoken_name(call.tool)
            plan.append(Action("call", " ".join((name, *call.arguments))))
        plan.append(Action("answer", self.answer))
        return plan[:horizon]

    def spoken_name(self, tool: str) -> str:
        """How an annotator calls a tool in this episode.

        Seven in ten (episode, tool) pairs go by the alias, until the tool agent refused it.
        """
        alias = ALIAS_OF[tool]
        if alias in self.refused:
            return tool
        draw = random.Random(f"annotator {self.seed} {tool}").random()
        return alias if draw < TOOL_ALIAS_RATE else tool

    def example(self, horizon: int, plan: tuple[Action, ...] = ()) -> Example:
        """The present state as a training example.

        DEPARTURE: the paper's 1[answer matches] leaves open what a step in between should answer.
        Here the goals are the answers that the question still needs, each from the call that gives
        it, and the right final answer: a call that is not needed pays nothing, whatever comes back,
        and neither does the same call a second time.
        """
        goals = [Action("call", f"{call.text} = {call.answer}") for call in self.missing()]
        goals.append(Action("answer", self.answer))
        this_moment = copy.copy(self)
        return Example(
            observation=replace(self.observe(), plan=plan),
            reference=tuple(self.oracle(horizon)),
            key=self.key(),
            goals=tuple(goals),
            tools=this_moment.executed,
        )

    # ---- what else an agent might do -------------------------------------------------------------

    def moves(self, rng: random.Random) -> list[Action]:
        """What an agent might do that knows the words and not the question.

        Any call, or one that it has made before.
        """
        names = [*TOOLS, *TOOL_ALIASES]
        for name in ("mean", "average"):  # held out for the split "tool"
            names.remove(name)
        texts = [self.random_call(rng, name) for name in rng.choices(names, k=5)]
        for line in self.past:
            if line.startswith("call "):
                asked, _, _ = line.removeprefix("call ").partition(" = ")
                texts.append(asked)
        return [Action("call", text) for text in texts]

    def random_call(self, rng: random.Random, name: str) -> str:
        """A call of the tool or alias, with arguments of the right sort and number."""
        tool = TOOL_ALIASES.get(name, name)
        sorts = {"read": list(self.picture.beside), "count": SHAPES, "lookup": list(KNOWLEDGE)}
        arguments = rng.choices(sorts.get(tool, NUMBERS), k=TOOLS[tool])
        return " ".join((name, *arguments))

    def wander(self, rng: random.Random) -> None:
        """Nothing: the picture of an episode does not change."""

    @staticmethod
    def stray(rng: random.Random) -> Action:
        """A false step, for damaged plans."""
        return Action("call", f"read {rng.choice(ITEMS)}")
