"""extras/ocr.py: what was read becomes words with boxes, the words of a step are looked for among
them, nothing is guessed, each picture is read once, and nothing is downloaded or printed."""

import sys
import types
from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageDraw, ImageFont
from test_browser import in_a_browser

from benchmarks.episodes import Player
from benchmarks.miniwob_exam import evaluate
from benchmarks.online import without_points
from envs import Action, Example, Observation, ToyGUI, inside
from eval import oracle_planner
from extras import ocr
from extras.ocr import (
    INSTALL,
    Line,
    Reader,
    find_words,
    load_engine,
    load_reader,
    make_line,
    names_in,
    ocr_tool_agent,
)
from rewards import FILLER

# ---- what was read ------------------------------------------------------------------------------


def read_line(text: str, row: int = 0) -> Line:
    """As if it had been read: each character 0.01 wide and 0.1 high, in the given row of ten."""
    boxes = []
    for column, character in enumerate(text):
        if not character.isspace():
            left = column / 100
            boxes.append((left, row / 10, left + 0.01, row / 10 + 0.1))
    return make_line(text, boxes)


def read_screen(*texts: str) -> tuple[Line, ...]:
    return tuple(read_line(text, row) for row, text in enumerate(texts))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("Save", ["Save"]),
        ("  Log in ", ["Log", "in"]),
        ("User-name:", ["User", "name"]),
        ("①Offer", ["Offer"]),
        ("☑Updates  sync", ["Updates", "sync"]),
        ("口Dark", ["口", "Dark"]),
        ("設定", ["設定"]),
        ("Überblick", ["Überblick"]),
        ("→ |", []),
        ("", []),
    ],
)
def test_letters_and_digits_that_belong_together_are_words(text, words):
    assert [word.text for word in read_line(text).words] == words


def test_a_words_box_is_that_of_its_characters():
    line = read_line("O Dark mode", row=2)
    _icon, dark, mode = line.words
    assert dark.box == pytest.approx((0.02, 0.2, 0.06, 0.3))
    assert mode.box == pytest.approx((0.07, 0.2, 0.11, 0.3))
    assert line.text == "O Dark mode"


@given(st.text(max_size=40))
def test_any_text_can_be_a_line(text):
    assert all(word.text in text for word in read_line(text).words)


# ---- matching -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text", ["Save", "save", "SAVE!", "the Save button", "click on the 'Save' button", "tap save"]
)
def test_a_label_is_found_whatever_stands_around_its_name(text):
    """Row 1, columns 2 to 6."""
    screen = read_screen("O Exit", "O Save", "O Send")
    assert find_words(text, screen) == pytest.approx((0.04, 0.15))


@pytest.mark.parametrize(
    ("read", "said"),
    [
        ("AppIy", "Apply"),
        ("0K", "OK"),
        ("Item 1O", "Item 10"),
        ("Me mo", "Memo"),
        ("sign-in", "Sign in"),
        ("] Beep", "Beep"),
        ("IMute", "Mute"),  # a check box glued to it
        ("OGDK", "GDK"),
        ("Accoumt", "Account"),
    ],
)
def test_what_a_reader_mixes_up_is_forgiven(read, said):
    assert find_words(said, read_screen("Other", read)) is not None


@pytest.mark.parametrize(
    ("text", "screen"),
    [
        ("Save", ["Exit", "Send"]),
        ("Save", ["Saved"]),
        ("lock", ["Clock"]),
        ("K", ["OK"]),
        ("Sound", ["Audio"]),  # another name is nothing that a reader knows
        ("a", ["restaurant"]),
        ("cat", ["concatenate"]),
        ("Name City Phone", ["Name", "City", "Phone"]),
        ("Document 12", ["Document 13", "Document"]),
        ("Document 12", ["Document 112"]),  # a number before which no icon stands
        ("20", ["120"]),
        ("", ["Save"]),
        ("→", ["Save →"]),
        ("Save", []),
        ("Save", [""]),
    ],
)
def test_what_is_not_there_is_refused(text, screen):
    assert find_words(text, read_screen(*screen)) is None


@pytest.mark.parametrize(
    "screen", [["Save", "Exit", "Save"], ["Save Save"], ["Save", "O Save"], ["save", "5 SAVE"]]
)
def test_of_two_that_are_alike_none_is_chosen(screen):
    assert find_words("save", read_screen(*screen)) is None
    assert find_words("the Save button", read_screen(*screen)) is None


@pytest.mark.parametrize(
    ("text", "screen", "row"),
    [
        # a label, and a sentence that names it
        ("okay", ['Click on the "okay" button.', "Okay", "Cancel"], 1),
        ("Submit", ["Enter it and press", "Submit.", "Submit"], 2),
        # all letters, and nearly all
        ("Save", ["Saved", "Save"], 1),
        ("settings", ["Setting", "Settings"], 1),
        # all words, and a part of them
        ("Log in", ["Log out", "Log in"], 1),
        ("Log in button", ["Log out", "Log in"], 1),
        ("Dark mode", ["Dark", "Dark mode"], 1),
        ("Dark", ["Dark", "Dark mode"], 0),
        ("Plan", ["Plan B", "O Plan"], 1),
        # a label, and what looks like one behind an icon
        ("Pen", ["Open", "Pen"], 1),
        # look-alikes, on a keyboard
        ("O", ["0", "O"], 1),
        ("1", ["1", "l", "I"], 0),
        # words that are fillers elsewhere
        ("Open", ["Menu", "Open"], 1),
        ("open the menu", ["Menu", "Exit"], 0),
    ],
)
def test_the_better_of_two_is_chosen(text, screen, row):
    x, y = find_words(text, read_screen(*screen))
    assert int(10 * y) == row


def test_the_point_is_the_centre_of_the_words_not_of_their_line():
    """Columns 24 to 29 of 40."""
    screen = read_screen("I accept the terms and   other rules here")
    assert find_words("other", screen) == pytest.approx((0.275, 0.05))


def test_words_of_two_lines_are_no_label():
    assert find_words("Dark mode", read_screen("Dark", "mode")) is None


def test_fillers_are_left_out_one_by_one():
    names = names_in("the Log in button")
    assert sorted(names, key=len, reverse=True) == [
        ("the", "log", "in", "button"),
        ("the", "log", "in"),
        ("log", "in", "button"),
        ("the", "log"),
        ("log", "in"),
        ("log",),
    ]


FILLERS = st.sampled_from(sorted(FILLER))
LETTERS = st.text("abcdefghiXYZ0123456789äß", min_size=1, max_size=10) | st.text("設定", min_size=1)


@given(st.lists(LETTERS, min_size=1, max_size=9, unique_by=ocr.fold), st.data())
def test_an_exact_single_label_is_always_chosen(labels, data):
    label = data.draw(st.sampled_from(labels))
    _x, y = find_words(label, read_screen(*labels))
    assert int(10 * y) == labels.index(label)


@given(
    st.text(max_size=500) | st.lists(FILLERS | LETTERS, max_size=60).map(" ".join),
    st.lists(st.text(max_size=60) | st.lists(FILLERS | LETTERS).map(" ".join), max_size=9),
)
def test_no_text_on_no_screen_raises(text, lines):
    found = find_words(text, read_screen(*[line[:99] for line in lines]))
    assert found is None or inside(found, (0, 0, 1, 1))


# ---- the tool agent -----------------------------------------------------------------------------


def ask(actions: list[Action], *texts: str) -> list[Action | None]:
    """What becomes of actions on a screen of these lines."""
    screen = Observation("", lambda: Image.new("RGB", (9, 9)))
    find_points = ocr_tool_agent(lambda picture: read_screen(*texts))
    return find_points(actions, [Example(screen, ())] * len(actions))


def test_an_action_gets_the_point_or_is_refused():
    save, audio = ask([Action("click", "Save"), Action("hover", "Audio")], "Exit", "Save")
    assert (save.kind, save.text, audio) == ("click", "Save", None)
    assert save.point == pytest.approx((0.02, 0.15))


def test_what_needs_no_point_or_brings_one_passes():
    actions = [Action("type", "Save"), Action("done"), Action("click", "Save", (0.9, 0.9))]
    assert ask(actions, "Save") == actions


@pytest.mark.parametrize(
    ("text", "point", "end"),
    [
        ("Box to Bin", (0.015, 0.05), (0.015, 0.15)),
        ("the box to the bin", (0.015, 0.05), (0.015, 0.15)),
        ("Send to Bob to Bin", (0.055, 0.25), (0.015, 0.15)),
        ("Box to Nowhere", (0.015, 0.05), None),
        ("Box", (0.015, 0.05), None),
        ("Send to Bob", (0.055, 0.25), None),
    ],
)
def test_both_ends_of_a_drag_are_looked_for(text, point, end):
    [dragged] = ask([Action("drag", text)], "Box", "Bin", "Send to Bob")
    assert dragged.point == pytest.approx(point)
    assert dragged.end == (end and pytest.approx(end))


def test_a_drag_of_what_is_not_there_is_refused():
    assert ask([Action("drag", "Nothing to Bin")], "Box", "Bin") == [None]


class CountedEngine:
    """Stands in for the OCR engine: reads "Save" in the middle of each picture, and counts."""

    calls = 0

    def __call__(self, pixels):
        self.calls += 1
        height, width, _colours = pixels.shape
        corners = [(width / 4, height / 4), (width / 2, height / 2)]
        characters = tuple((character, 1.0, corners) for character in "Save")
        return types.SimpleNamespace(txts=("Save",), word_results=(characters,))


@pytest.fixture
def counted(monkeypatch) -> Reader:
    monkeypatch.setattr(ocr, "load_engine", CountedEngine)
    return Reader()


def test_a_screen_is_opened_and_read_once_for_all_its_forecasts(counted):
    opened = []

    def screenshot():
        opened.append(1)
        return Image.new("RGB", (160, 200))

    examples = [Example(Observation("", screenshot), ())] * 8
    find_points = ocr_tool_agent(counted.read)
    actions = [Action("click", "Save"), Action("click", "Exit")] * 4
    answers = find_points(actions, examples)
    assert answers == [Action("click", "Save", (0.375, 0.375)), None] * 4
    assert len(opened) == counted.engine.calls == 1
    find_points(actions, examples)
    assert counted.engine.calls == 1


def test_pictures_are_told_apart_by_pixels_and_size_and_in_no_other_way(counted):
    for colour, size in product(("white", "black"), ((200, 300), (300, 200))):
        counted.read(Image.new("RGB", size, colour))
        counted.read(Image.new("RGB", size, colour).convert("RGBA"))
    assert counted.engine.calls == 4


def test_the_longest_unused_reading_is_forgotten(counted, monkeypatch):
    monkeypatch.setattr(ocr, "MAX_READINGS", 2)
    white, grey, black = [Image.new("RGB", (200, 200), name) for name in ("white", "grey", "black")]
    for picture in (white, grey, white, black, white):
        counted.read(picture)
    assert counted.engine.calls == 3 and len(counted.readings) == 2
    counted.read(grey)
    assert counted.engine.calls == 4


# ---- the reader itself --------------------------------------------------------------------------


@pytest.fixture(scope="module")
def reader() -> Reader:
    for package in ("rapidocr", "onnxruntime"):
        pytest.importorskip(package, reason=f"OCR is optional: {INSTALL}")
    return load_reader()


def write(texts: dict[tuple[int, int], str], size=(320, 240), paper="white", ink="black"):
    """A picture with texts at their left upper corners, in letters of 16 px."""
    picture = Image.new("RGB", size, paper)
    pen = ImageDraw.Draw(picture)
    for corner, text in texts.items():
        pen.text(corner, text, fill=ink, font=ImageFont.load_default(16))
    return picture


@pytest.mark.parametrize(
    ("paper", "ink"), [("white", "black"), ("black", "white"), ("#d8c8f0", "#204060")]
)
def test_known_words_are_read_where_they_stand(reader, paper, ink):
    texts = {(20, 20): "Account", (180, 20): "Log out", (20, 120): "Dark mode", (180, 200): "Save"}
    reading = reader.read(write(texts, paper=paper, ink=ink))
    assert [line.text for line in reading] == list(texts.values())
    for (left, top), text in texts.items():
        x, y = find_words(text, reading)
        width = ImageFont.load_default(16).getlength(text)
        assert 320 * x == pytest.approx(left + width / 2, abs=6)
        assert 240 * y == pytest.approx(top + 10, abs=6)


def test_a_word_in_a_sentence_is_found_at_its_place(reader):
    sentence = "I have read all the terms of use"
    x, _y = find_words("terms", reader.read(write({(10, 100): sentence})))
    letters = ImageFont.load_default(16)
    begins = 10 + letters.getlength("I have read all the ")
    assert begins < 320 * x < begins + letters.getlength("terms")


@pytest.mark.parametrize(("split", "scale"), [("test", 1), ("test", 2), ("layout", 2)])
def test_the_toys_labels_are_found_in_their_boxes(reader, split, scale):
    """At least 95 of 100; those that stand there twice are refused."""
    right = 0
    asked = 0
    for seed in range(10):
        env = ToyGUI(split, scale)
        observation, _ = env.reset(seed)
        for _ in range(seed % 4):
            observation = env.step(env.oracle(1, exact=True)[0])[0]
        reading = reader.read(observation.screenshot())
        labels = [label for label, _box in env.visible()]
        for label, box in env.visible():
            point = find_words(label, reading)
            if labels.count(label) > 1:
                assert point is None
                continue
            asked += 1
            right += point is not None and inside(point, box)
    assert asked > 50
    assert right >= 0.95 * asked


def test_a_word_in_a_narrow_picture_is_found_at_its_place(reader):
    """Of a strip of 600 x 24 px, which is read with more paper below it."""
    strip = write({(20, 2): "Account", (480, 2): "Save"}, size=(600, 24))
    x, y = find_words("Save", reader.read(strip))
    assert 480 < 600 * x < 520
    assert 6 < 24 * y < 20


def test_a_word_in_a_huge_picture_is_found_at_its_place(reader):
    """Of 2400 x 600 px, which are read as 2000 x 500."""
    texts = {(100, 100): "Account", (900, 300): "Log out", (2000, 400): "Save"}
    x, y = find_words("Save", reader.read(write(texts, size=(2400, 600))))
    assert 2000 < 2400 * x < 2040
    assert 400 < 600 * y < 420


@in_a_browser
def test_steps_in_words_are_found_on_real_pages_and_solve_them(reader, tmp_path):
    """The oracle's words alone: what is clicked was read on the picture of a browser's page."""
    who = Player(
        planner=without_points(oracle_planner(2)),
        name="oracle",
        horizon=2,
        tool_agent=ocr_tool_agent(reader.read),
        tool_agent_name="ocr",
    )
    result = evaluate(who, tmp_path, ["click-tab", "click-test-2"], seeds=1)
    assert (result["points_by"], result["crashed"]) == ("ocr", 0)
    assert result["success"] == 1.0


@pytest.mark.parametrize("size", [(1, 1), (1, 300), (300, 1), (3, 2100), (31, 30)])
def test_odd_pictures_are_read_too(reader, size):
    assert reader.read(Image.new("RGB", size, "white")) == ()


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGBA", "LA"])
def test_pictures_of_every_mode_are_read(reader, mode):
    picture = write({(20, 20): "Account"}).convert(mode)
    assert find_words("Account", reader.read(picture)) is not None


def test_nothing_is_downloaded_and_nothing_printed(reader, monkeypatch, capfd):
    def refuse(*_args, **_kwargs):
        raise AssertionError("it asked for the network")

    monkeypatch.setattr("socket.socket.connect", refuse)
    monkeypatch.setattr("socket.getaddrinfo", refuse)
    capfd.readouterr()
    engine = load_engine()
    for picture in (write({(20, 20): "Account"}), Image.new("RGB", (90, 90))):
        ocr.recognise(engine, picture)
    assert capfd.readouterr() == ("", "")


# ---- where it is not installed ------------------------------------------------------------------


@pytest.mark.parametrize("package", ["rapidocr", "onnxruntime"])
def test_without_its_packages_a_line_says_what_to_install(monkeypatch, package):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ValueError, match="pip install rapidocr") as problem:
        Reader()
    assert "\n" not in str(problem.value)


def test_a_rapidocr_with_other_weights_is_refused_before_it_downloads_them(monkeypatch, tmp_path):
    other = types.SimpleNamespace(__file__=str(tmp_path / "__init__.py"))
    monkeypatch.setitem(sys.modules, "rapidocr", other)
    monkeypatch.setitem(sys.modules, "onnxruntime", other)
    with pytest.raises(ValueError, match=r"PP-OCRv6_det_small.onnx: pip install rapidocr"):
        Reader()
