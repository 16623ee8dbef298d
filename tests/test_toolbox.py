"""The calculator, GTA's tools, and calls as text."""

import random
import re
import sys
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from benchmarks.toolbox import GTA_TOOLS, Call, calculate, call_text, read_call, run_tool
from extras.guarded import Outcome
from extras.ocr import INSTALL, Reader

# ---- the calculator ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("3.50+4.25", "7.75"),
        ("2**10", "1024"),
        ("-7 // 2", "-4"),
        ("7 % 4", "3"),
        ("round(2/3, 2)", "0.67"),
        ("sqrt(16)*pi", "12.5663706144"),
        ("0.1+0.2", "0.3"),
        ("max(1, 2.5)", "2.5"),
        ("1_000*2", "2000"),
        (" (1 + 2) ", "3"),
        ("75/(1.72**2)", "25.3515413737"),
        ("+".join("1" * 100), "100"),
        ("2**0.5", "1.41421356237"),
        ("e", "2.71828182846"),
        ("pow(2, 10)", "1024"),
    ],
)
def test_calculate(text, value):
    assert calculate(text) == value


# None of these has a value.
CODE_AND_DEPTH = [
    "__import__('os').system('ls')",
    "open('/etc/passwd').read()",
    "().__class__.__bases__[0].__subclasses__()",
    "9**9**9",
    "9**9**9**9",
    "2**-9**9",
    "(" * 10_000 + ")" * 10_000,
    "-" * 299 + "1",
    "~" * 200 + "1",
    "1" * 1_000_000,
    "'a'*10**9",
]

HOSTILE = [
    "(" * 140 + "1" + ")" * 140,
    "1<<10**9",
    "[0]*10**9",
    "lambda: 1",
    "x:=5",
    "1 if 1 else 2",
    "1if 2else 3",
    "float('nan')",
    "nan",
    "inf",
    "1e999",
    "1e999-1e999",
    "0/0",
    "1%0",
    "0.0**-1",
    "(-1)**0.5",
    "1j",
    "True",
    "None",
    "...",
    "f'{1}'",
    "１+１",
    "1\u00d72",
    "\u202e1+1",
    "𝟏+𝟏",
    "ｓｑｒｔ(4)",
    "1\x00",
    "1\n+1",
    "exp(1000)",
    "10**300*10**300",
    "99999999**99999999",
    "pow(9,9**9)",
    "pow(2,3,5)",
    "pow(10**300,10**300)",
    "round(1,10**10)",
    "round(1e300,-10**9)",
    "round(1.5,-301)",
    "max()",
    "sqrt(-1)",
    "log(0)",
    "abs(-1,2)",
    "sqrt(x=4)",
    "max(*(1,2))",
    "sqrt",
    "sqrt.real",
    "e.real",
    "1.real",
    "0x1f",
    "0777",
    "",
    " ",
    "#",
    "1;2",
    "import os",
    "a=1",
    "\ud800",
    "1,2",
    "await x",
    "yield",
    "eval(1)",
    "exec(1)",
    "factorial(9999)",
    "*".join(["9" * 9] * 29),
    "9" * 300,
    "*".join(["9"] * 150),
    "**".join(["9"] * 90),
]
NO_TEXT = [None, 5, 1.5, True, b"1+1", [1], {"a": 1}, float("nan"), object()]

# Of which random expressions are made.
NUMBERS = ["9", "0", "1e300", "e", "pi"]
SIGNS = ["**", "(", ")", "*", "-", ",", " ", "//", "%", "_", "."]
NAMES = ["sqrt(", "pow(", "round(", "exp(", "__class__"]


def random_expressions(count: int) -> list[str]:
    rng = random.Random(0)
    pieces = NUMBERS + SIGNS + NAMES
    return ["".join(rng.choices(pieces, k=rng.randint(1, 60))) for _ in range(count)]


@pytest.mark.parametrize("expression", CODE_AND_DEPTH)
def test_code_and_endless_work_are_refused(expression):
    assert calculate(expression).startswith("error: ")


def test_hostile_expressions(monkeypatch):
    """Each has a short answer on one line, at once, and no file is opened for it."""

    def forbidden(*args, **kwargs):
        raise AssertionError("a file was opened")

    expressions = [*CODE_AND_DEPTH, *HOSTILE, *NO_TEXT, *random_expressions(1000)]
    monkeypatch.setattr("builtins.open", forbidden)
    monkeypatch.setattr("os.open", forbidden)
    slowest = 0.0
    for expression in expressions:
        start = time.process_time()
        answer = calculate(expression)
        slowest = max(slowest, time.process_time() - start)
        assert isinstance(answer, str)
        assert "\n" not in answer and len(answer) < 400
        assert answer.startswith("error: ") or -1e300 <= float(answer) <= 1e300
    assert slowest < 0.1


@given(st.text(max_size=400) | st.text("0123456789+-*/%(). e", max_size=60))
@settings(max_examples=300)
def test_no_text_breaks_the_calculator(text):
    assert isinstance(calculate(text), str)


def in_brackets(part):
    return st.tuples(part, st.sampled_from("+-*"), part).map(lambda three: f"({''.join(three)})")


@given(st.recursive(st.integers(0, 99).map(str), in_brackets, max_leaves=12))
@settings(max_examples=100)
def test_the_calculator_agrees_with_integers(text):
    assert calculate(text) == reduced_by_hand(text)


def reduced_by_hand(text: str) -> str:
    """An independent evaluation: the innermost brackets first."""
    work = {"+": int.__add__, "-": int.__sub__, "*": int.__mul__}
    while "(" in text:
        inner = re.search(r"\((-?\d+)([+\-*])(-?\d+)\)", text)
        value = work[inner[2]](int(inner[1]), int(inner[3]))
        text = text[: inner.start()] + str(value) + text[inner.end() :]
    return text


# ---- the tools --------------------------------------------------------------------------------


class Watcher:
    """A vision-language model that always sees the same, and remembers what it was asked."""

    def __call__(self, picture, question):
        self.size = picture.size
        self.question = question
        return "I see 3 cups"


@pytest.fixture
def files(tmp_path):
    Image.new("RGB", (200, 100), "white").save(tmp_path / "a.png")
    (tmp_path / "b.png").write_bytes(b"no picture")
    return {"a": tmp_path / "a.png", "b": tmp_path / "b.png"}


def test_the_calculator_is_a_tool(files):
    assert run_tool("Calculator", {"expression": "1+1"}, files) == Outcome("ok", "2")
    wrong = run_tool("Calculator", {"expression": "1+"}, files)
    assert wrong == Outcome("error", "error: not an expression")


def test_tools_that_look_ask_the_model(files):
    vlm = Watcher()

    def run(name, **arguments):
        return run_tool(name, arguments, files, vlm, 5.0)

    counted = run("CountGivenObject", image="a", text="cup", bbox="(0, 0, 50, 40)")
    assert counted == Outcome("ok", "3") and vlm.size == (50, 40)
    assert run("ImageDescription", image="a") == Outcome("ok", "I see 3 cups")
    box = "(0, 0, 9, 9)"
    described = run("RegionAttributeDescription", image="a", bbox=box, attribute="colour")
    assert described.status == "ok" and "colour" in vlm.question
    assert run_tool("ImageDescription", {"image": "a"}, files).status == "unavailable"


def test_ocr_reads_a_picture_line_by_line(files):
    for package in ("rapidocr", "onnxruntime"):
        pytest.importorskip(package, reason=f"OCR is optional: {INSTALL}")
    assert run_tool("OCR", {"image": "a"}, files) == Outcome("ok", "no text found")
    written = {"text": "Total: 12.50", "position": "(20, 40)", "color": "black"}
    run_tool("AddText", {"image": "a", **written}, files)
    run_tool("AddText", {"image": "picture_1", **written, "position": "(20, 80)"}, files)
    assert run_tool("OCR", {"image": "picture_2"}, files).value == "Total: 12.50\nTotal: 12.50"


def test_tools_that_draw_hand_on_a_picture(files):
    def run(name, **arguments):
        return run_tool(name, arguments, files, None, 5.0)

    boxed = run("DrawBox", image="a", bbox="(10, 10, 50, 40)", annotation="x")
    assert boxed == Outcome("ok", "picture_1")
    assert files["picture_1"].getpixel((10, 20)) == (255, 0, 0)
    named = run("AddText", image="picture_1", text="hi", position="mt")
    assert named == Outcome("ok", "picture_2")
    measured = run("AddText", image="picture_1", text="hi", position="(5, 50)", color="blue")
    assert measured == Outcome("ok", "picture_3")
    assert run("Crop", image="a", bbox="[0, 0, 20, 10]") == Outcome("ok", "picture_4")
    assert files["picture_4"].size == (20, 10)


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("Solver", {"command": "import os"}),
        ("GoogleSearch", {"query": "x"}),
        ("OCR", {"image": "a"}),
    ],
)
def test_what_cannot_be_done_here_says_why(name, arguments, files, monkeypatch):
    monkeypatch.setattr("benchmarks.toolbox.load_reader", Reader)
    monkeypatch.setitem(sys.modules, "rapidocr", None)
    assert run_tool(name, arguments, files).value.startswith("not available here: ")


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("rm", {}),
        (None, {}),
        ("OCR", {}),
        ("OCR", None),
        ("OCR", "x"),
        ("OCR", {"image": "a", "x": 1}),
        ("Crop", {"image": "/etc/passwd", "bbox": "1,2,3,4"}),
        ("Crop", {"image": "b", "bbox": "1,2,3,4"}),
        ("Crop", {"image": "a", "bbox": "9,9,1,1"}),
        ("Crop", {"image": "a", "bbox": "nan"}),
        ("Crop", {"image": ["a"], "bbox": 1}),
        ("DrawBox", {"image": "a", "bbox": None}),
        ("AddText", {"image": "a", "text": "x", "position": "mt", "color": "no"}),
    ],
)
def test_a_bad_call_is_told_in_one_line(name, arguments, files):
    outcome = run_tool(name, arguments, files, Watcher())
    assert outcome.status == "error"
    assert outcome.value.startswith("error: ") and "\n" not in outcome.value


def test_tools_that_raise_or_hang_become_observations():
    def run(vlm, seconds=30.0):
        files = {"a": Image.new("RGB", (9, 9))}
        return run_tool("ImageDescription", {"image": "a"}, files, vlm, seconds)

    def leave(picture, question):
        raise SystemExit(1)

    def hang(picture, question):
        time.sleep(5)

    def divide(picture, question):
        return 1 / 0

    assert run(divide) == Outcome("error", "error: division by zero")
    assert run(leave).status == "error"
    start = time.perf_counter()
    assert run(hang, seconds=0.1).status == "error"
    assert time.perf_counter() - start < 2


ARGUMENTS = st.sampled_from(["image", "text", "bbox", "expression", "position", "query"])
VALUES = (
    st.text(max_size=20)
    | st.integers()
    | st.floats()
    | st.none()
    | st.lists(st.integers(), max_size=4)
)


@given(st.sampled_from([*GTA_TOOLS, "x"]), st.dictionaries(ARGUMENTS, VALUES))
@settings(max_examples=200)
def test_no_call_raises(name, arguments):
    assert run_tool(name, arguments, {"a": Image.new("RGB", (9, 9))}).value


# ---- calls as text ----------------------------------------------------------------------------


def test_a_call_is_a_line_of_text_and_can_be_read_back():
    text = call_text("Calculator", {"expression": "3+4"})
    assert text == 'Calculator {"expression": "3+4"}'
    assert read_call(text) == Call("Calculator", {"expression": "3+4"})
    assert read_call("rm -rf") == Call("rm", "-rf")
    assert call_text("x", {(1, 2): {3}}) == "x {(1, 2): {3}}"
