"""A calculator that executes nothing, GTA's tools, and what the tool benchmarks share.

Called by gta.py, gaia.py, mmtraj.py (records) and tool_scoring.py (an agent that uses the tools).
It executes no text that a model wrote, needs no network and brings no large model of its own.
"""

import ast
import json
import math
import operator
import re
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from benchmarks.common import BadRecord, Record, Step, parse_json, parse_python, read_image
from envs import Action, one_line
from extras.guarded import Outcome, guarded
from extras.ocr import load_reader

# ---- the calculator ---------------------------------------------------------------------------

MAX_EXPRESSION = 300  # characters: bounds the time and the number of operations
MAX_DEPTH = 150  # of the tree: as deep as 1+1+1+... of that length gets
MAX_NUMBER = 1e300  # of each intermediate result: no product grows, no float is infinite
MAX_POWER_BITS = 1000  # of an integer power, judged before it is computed
MAX_DIGITS = 300  # that round may be asked for: it computes 10**digits inside

# No quotes, brackets, backslashes or look-alike unicode get as far as the parser.
ARITHMETIC = r"[0-9A-Za-z_ .,+\-*/%()]+"

CONSTANTS = {"pi": math.pi, "e": math.e}
SIGNS = {ast.UAdd: operator.pos, ast.USub: operator.neg}
OPERATORS = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
    ast.Pow: operator.pow,
}
FUNCTIONS = {
    "abs": abs,
    "round": round,
    "min": min,
    "max": max,
    "pow": operator.pow,
    "sqrt": math.sqrt,
    "exp": math.exp,
    "log": math.log,
    "log10": math.log10,
    "log2": math.log2,
    "sin": math.sin,
    "cos": math.cos,
    "tan": math.tan,
    "floor": math.floor,
    "ceil": math.ceil,
}


def calculate(expression: str) -> str:
    """The value of an arithmetic expression as text, or "error: ..."; never raises, runs no code.

    It takes well under 0.1 s. There is no clock: length, depth, size and exponent are bounded, and
    with them the time.

    >>> calculate("(3.50 + 4.25) * 2"), calculate("9**9**9")
    ('15.5', 'error: the power is too large')
    """
    try:
        return compute(expression)
    except ValueError as problem:
        return f"error: {problem}"


def compute(expression: str) -> str:
    """As calculate; ValueError where there is no value."""
    if not isinstance(expression, str) or len(expression) > MAX_EXPRESSION:
        raise ValueError(f"the expression must be text of at most {MAX_EXPRESSION} characters")
    if not re.fullmatch(ARITHMETIC, expression):
        raise ValueError(
            "only numbers, + - * / // % ** ( ) and functions such as sqrt are understood"
        )
    try:
        tree = parse_python(expression.strip(), "eval")
        value = evaluate(tree.body)
    except (SyntaxError, MemoryError, RecursionError):
        # MemoryError is the parser's word for nested too deeply.
        raise ValueError("not an expression") from None
    except (ArithmeticError, TypeError) as problem:
        raise ValueError(str(problem)) from None
    if type(value) is int:
        return str(value)
    return f"{value:.12g}"  # 12 digits hide 0.1 + 0.2 = 0.30000000000000004


def evaluate(node: ast.AST, depth: int = 0) -> int | float:
    """The value of a node. ValueError, TypeError or ArithmeticError where it has none."""
    if depth > MAX_DEPTH:
        raise ValueError("the expression is nested too deeply")
    if isinstance(node, ast.Constant):
        return real_number(node.value)
    if isinstance(node, ast.Name) and node.id in CONSTANTS:
        return CONSTANTS[node.id]
    operation = find_operation(node)
    values = [evaluate(operand, depth + 1) for operand in operands(node)]
    check_bounds(operation, values)
    return real_number(operation(*values))


def find_operation(node: ast.AST) -> Callable:
    """What a node does with its operands. ValueError where it is nothing that is known here."""
    if isinstance(node, ast.UnaryOp) and type(node.op) in SIGNS:
        return SIGNS[type(node.op)]
    if isinstance(node, ast.BinOp) and type(node.op) in OPERATORS:
        return OPERATORS[type(node.op)]
    if is_plain_call(node) and node.func.id in FUNCTIONS:
        return FUNCTIONS[node.func.id]
    raise ValueError(f"{type(node).__name__} is not understood")


def is_plain_call(node: ast.AST) -> bool:
    """f(x, y): of a plain name, without keywords."""
    if not isinstance(node, ast.Call) or node.keywords:
        return False
    return isinstance(node.func, ast.Name)


def operands(node: ast.UnaryOp | ast.BinOp | ast.Call) -> list[ast.AST]:
    if isinstance(node, ast.UnaryOp):
        return [node.operand]
    if isinstance(node, ast.BinOp):
        return [node.left, node.right]
    return node.args


def check_bounds(operation: Callable, values: list[int | float]) -> None:
    """ValueError where the operation itself would take long, before it is done."""
    if len(values) != 2:
        return
    first, second = values
    integers = type(first) is int and type(second) is int
    if operation is operator.pow and integers:
        bits = first.bit_length() * abs(second)
        if bits > MAX_POWER_BITS:
            raise ValueError("the power is too large")
    if operation is round and abs(second) > MAX_DIGITS:
        raise ValueError(f"round takes at most {MAX_DIGITS} digits")


def real_number(value: object) -> int | float:
    """The value itself. ValueError for text, True, a complex number, nan and what is too large."""
    if type(value) not in (int, float):
        raise ValueError("not a real number")
    if not abs(value) <= MAX_NUMBER:  # written so that nan fails too
        raise ValueError("a number is too large")
    return value


# ---- what a tool is given ---------------------------------------------------------------------

Vlm = Callable[[Image.Image, str], str]  # (picture, question) -> answer
Files = dict[str, Path | Image.Image]  # the names that arguments may use, such as image/image_1.jpg

MAX_LABEL = 200  # characters that are drawn, or asked for


@dataclass(frozen=True)
class Request:
    """One call of a tool, and what the tool may use for it."""

    name: str
    arguments: dict
    files: Files  # nothing else can be opened
    vlm: Vlm | None  # looks at pictures; None: there is none
    seconds: float

    def picture(self) -> Image.Image:
        """The picture that the argument `image` names, as RGB, to be drawn on."""
        name = self.arguments["image"]
        if not isinstance(name, str) or name not in self.files:
            known = ", ".join(list(self.files)[:8]) if self.files else "none"
            raise ValueError(f"there is no file {str(name)[:80]!r}; files: {known}")
        source = self.files[name]
        if isinstance(source, Image.Image):
            return source.convert("RGB")  # a copy
        return read_image(source, name)

    def label(self, name: str) -> str:
        """An argument as a short line of text; "" where it is not given."""
        value = self.arguments.get(name)
        if not value:
            return ""
        return one_line(str(value), MAX_LABEL)

    def look(self, picture: Image.Image, question: str) -> str:
        """What the vision-language model answers."""
        if self.vlm is None:
            raise NotImplementedError(f"{self.name} needs a vision-language model (--tool_agent)")
        return str(self.vlm(picture, question))


def read_numbers(text: object, count: int) -> list[float]:
    """The numbers in a text such as "(10, 20, 30, 40)"; ValueError unless there are `count`."""
    found = re.findall(r"-?\d{1,6}(?:\.\d{1,6})?", str(text)[:200])
    if len(found) != count:
        raise ValueError(f"{count} numbers are needed, got {str(text)[:40]!r}")
    return [float(number) for number in found]


def read_box(text: object, picture: Image.Image) -> tuple[int, ...]:
    """x1, y1, x2, y2 in pixels, cut at the picture's edges; ValueError where nothing is left."""
    sides = picture.size * 2
    box = []
    for number, side in zip(read_numbers(text, 4), sides, strict=True):
        box.append(int(min(max(number, 0), side)))
    x1, y1, x2, y2 = box
    if x1 >= x2 or y1 >= y2:
        raise ValueError(f"the box {str(text)[:40]!r} is empty on this picture")
    return x1, y1, x2, y2


def letters_for(picture: Image.Image) -> ImageFont.FreeTypeFont:
    return ImageFont.load_default(size=max(8, picture.height // 19))


# ---- the tools: a function each. NotImplementedError: not here; other errors: a bad call --------


def use_calculator(request: Request) -> str:
    return compute(request.arguments["expression"])


def read_text(request: Request) -> str:
    picture = request.picture()
    try:
        reader = load_reader()
    except ValueError as problem:  # it is not installed
        raise NotImplementedError(str(problem)) from None
    lines = [line.text for line in reader.read(picture)]
    return "\n".join(lines) if lines else "no text found"


def describe_image(request: Request) -> str:
    return request.look(request.picture(), "Describe the image in detail.")


def describe_region(request: Request) -> str:
    attribute = str(request.arguments["attribute"])[:MAX_LABEL]
    return request.look(crop(request), f"Describe the {attribute} of this part of an image.")


def count_objects(request: Request) -> str:
    things = str(request.arguments["text"])[:MAX_LABEL]
    question = f"How many {things} are in the image? Answer with a number."
    number = re.search(r"\d+", request.look(crop(request), question))
    if number is None:
        return "0"  # as GTA's own tool
    return number.group()


def crop(request: Request) -> Image.Image:
    """The part of the picture in `bbox`, or the whole one where there is none."""
    picture = request.picture()
    bbox = request.arguments.get("bbox")
    if bbox is None:
        return picture
    return picture.crop(read_box(bbox, picture))


def draw_box(request: Request) -> Image.Image:
    picture = request.picture()
    box = read_box(request.arguments["bbox"], picture)
    pen = ImageDraw.Draw(picture)
    pen.rectangle(box, outline="red", width=2)
    pen.text(
        box[:2],
        request.label("annotation"),
        fill="red",
        anchor="lb",
        font=letters_for(picture),
    )
    return picture


def add_text(request: Request) -> Image.Image:
    picture = request.picture()
    position = str(request.arguments["position"])
    if re.fullmatch(r"[lmr][tmb]", position):  # lt, mm, rb: the text's own anchor as well
        anchor = position
        xy = named_place(position, picture)
    else:  # "(x, y)" of the text's lower left corner in pixels
        anchor = "lb"
        xy = tuple(read_numbers(position, 2))
    colour = "red"
    if request.arguments.get("color"):
        colour = str(request.arguments["color"])[:20]
    text = one_line(str(request.arguments["text"]), MAX_LABEL)
    pen = ImageDraw.Draw(picture)
    pen.text(xy, text, fill=colour, font=letters_for(picture), anchor=anchor)
    return picture


def named_place(position: str, picture: Image.Image) -> tuple[int, int]:
    """Pixels of a place such as "lt" (left, top), "mm" or "rb"; all edges have one margin."""
    width, height = picture.size
    margin = width // 20
    columns = {"l": margin, "m": width // 2, "r": width - margin}
    rows = {"t": margin, "m": height // 2, "b": height - margin}
    return columns[position[0]], rows[position[1]]


def would_run_code(request: Request):
    raise NotImplementedError(f"{request.name} would execute a model's code")


def needs_more(request: Request):
    raise NotImplementedError(f"{request.name} needs the network or a large model")


@dataclass(frozen=True)
class Tool:
    category: str  # "perception", "operation", "logic" or "creativity": GTA counts them apart
    required: tuple[str, ...]  # names of arguments
    optional: tuple[str, ...]
    work: Callable[[Request], str | Image.Image]


# Names, categories and arguments as in open-compass/GTA.
GTA_TOOLS = {
    "OCR": Tool("perception", ("image",), (), read_text),
    "ImageDescription": Tool("perception", ("image",), (), describe_image),
    "RegionAttributeDescription": Tool(
        "perception", ("image", "bbox", "attribute"), (), describe_region
    ),
    "TextToBbox": Tool("perception", ("image", "text"), ("top1",), needs_more),
    "DrawBox": Tool("operation", ("image", "bbox"), ("annotation",), draw_box),
    "AddText": Tool("operation", ("image", "text", "position"), ("color",), add_text),
    "GoogleSearch": Tool("operation", ("query",), ("k",), needs_more),
    "Calculator": Tool("logic", ("expression",), (), use_calculator),
    "Solver": Tool("logic", ("command",), (), would_run_code),
    "Plot": Tool("logic", ("command",), (), would_run_code),
    "MathOCR": Tool("logic", ("image",), (), needs_more),
    "CountGivenObject": Tool("logic", ("image", "text"), ("bbox",), count_objects),
    "TextToImage": Tool("creativity", ("keywords",), (), needs_more),
    "ImageStylization": Tool("creativity", ("image", "instruction"), (), needs_more),
    # Not one of the 14: it hands a part of a picture to the others.
    "Crop": Tool("none", ("image", "bbox"), (), crop),
}


def run_tool(
    name: str, arguments: dict, files: Files, vlm: Vlm | None = None, seconds: float = 30.0
) -> Outcome:
    """Calls a tool: status ok, error or unavailable, and the observation as text; raises nothing.

    A picture that a tool makes is added to `files` as "picture_1", ..., and that name is the
    observation. A tool that hangs for `seconds` is given up.
    """
    request = Request(name, arguments, files, vlm, seconds)
    outcome = guarded(partial(use_tool, request), seconds)
    if not isinstance(outcome.value, Image.Image):
        return outcome
    made_before = sum(key.startswith("picture_") for key in files)
    key = f"picture_{made_before + 1}"
    files[key] = outcome.value
    return Outcome(outcome.status, key)


def use_tool(request: Request) -> str | Image.Image:
    """The work of one tool. NotImplementedError: not here; any other error: a call that is bad."""
    name = request.name
    if not isinstance(name, str) or name not in GTA_TOOLS:
        raise ValueError(f"there is no tool {str(name)[:40]!r}")
    tool = GTA_TOOLS[name]
    check_arguments(name, tool, request.arguments)
    return tool.work(request)


def check_arguments(name: str, tool: Tool, arguments: object) -> None:
    """ValueError unless all required arguments are there and no unknown ones."""
    takes = ", ".join((*tool.required, *tool.optional))
    if not isinstance(arguments, dict):
        raise ValueError(f"{name} takes {takes}, not {arguments}")
    missing = set(tool.required) - set(arguments)
    unknown = set(arguments) - {*tool.required, *tool.optional}
    if missing or unknown:
        raise ValueError(f"{name} takes {takes}, not {list(arguments)[:8]}")


# ---- runs: what an agent said to a question ---------------------------------------------------


@dataclass(frozen=True)
class Call:
    name: str
    arguments: object = None  # a dict, or whatever else was written in its place
    error: object = None  # why the tool gave no answer; empty where it did


@dataclass
class Run:
    """One question's run; None in `tool_calls` is a turn without a call.

    End to end these are the calls that the agent made; step by step the i-th is what it said in the
    place of the record's i-th call, with the true turns before it.
    """

    answer: str | None = None
    tool_calls: list[Call | None] = field(default_factory=list)
    code_ok: bool | None = None  # whether the run's code ran; None: it does not say

    def called(self) -> list[str]:
        """The names of the tools that were called, in order."""
        return [call.name for call in self.tool_calls if call]


@dataclass(frozen=True)
class Row:
    """Whether a question's answer is right; None where there is nothing to compare it with."""

    id: str
    correct: bool | None


def rate(part: float, whole: int) -> float | None:
    """A share in per cent; None of nothing."""
    if not whole:
        return None
    return 100 * part / whole


def call_text(name: str, arguments: dict) -> str:
    """The text of a call: 'Calculator {"expression": "3+4"}'."""
    try:
        return one_line(f"{name} {json.dumps(arguments, ensure_ascii=False, default=str)}")
    except TypeError:  # keys that JSON does not have
        return one_line(f"{name} {arguments}")


def read_call(text: str) -> Call:
    """The call in such a text. Arguments that are no JSON stay text, which every tool refuses."""
    name, _, arguments = text.partition(" ")
    with suppress(BadRecord):
        arguments = parse_json(arguments, "arguments")
    return Call(name, arguments)


# ---- records ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Turn:
    """One recorded step: what was done, what was seen after it, what the official rule needs."""

    action: Action
    seen: str = ""
    raw: dict = field(default_factory=dict)

    def __str__(self) -> str:
        """As a history shows it, in the manner of the toy tool world."""
        if self.seen:
            return one_line(f"{self.action} = {self.seen}")
        return one_line(str(self.action))


def tool_record(
    *, ident: str, goal: str, picture: Path | None, where: str, turns: list[Turn], raw: dict
) -> Record:
    """A record from its turns. One screenshot for all steps: the first picture, or a white one."""
    if picture:
        screenshot = partial(read_image, picture, where)
    else:
        screenshot = partial(Image.new, "RGB", (32, 32), "white")

    def read_step(index: int) -> list[Step]:
        turn = turns[index]
        return [Step(screenshot, turn.action, raw={"index": index, **turn.raw})]

    return Record(ident, goal, [str(turn) for turn in turns], read_step, raw)
