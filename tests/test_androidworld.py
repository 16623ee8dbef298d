"""AndroidWorld: each action in its words, nothing a model writes in a shell, an agent that never
raises, the numbers; and their real runner on a phone of which only adb and the screen are made up.

The last part needs android_world and is skipped without it. By hand, with CLONE as docs/online.md
says: PYTHONPATH=CLONE python -m pytest -q tests/test_androidworld.py"""

import hashlib
import re
import subprocess
import unicodedata
from copy import copy
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from xml.sax.saxutils import quoteattr

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import settings as how_often
from hypothesis import strategies as st
from PIL import Image

from agent import Plan
from benchmarks import androidworld, androidworld_phone
from benchmarks.androidworld import (
    Pilot,
    evaluate,
    labelled_boxes,
    native,
    run_suite,
    summary,
    table,
    upright,
)
from benchmarks.androidworld_phone import COMMIT, load_package
from benchmarks.episodes import LABELS, Player
from envs import DIRECTIONS, KINDS, POINTING, TERMINAL, Action

SIZE = (1080, 2400)
APPS = ("settings", "chrome", "calendar")


def knows_app(name: str) -> bool:
    return name in APPS


# ---- each kind of action, row by row ------------------------------------------------------------

MIDDLE = (0.5, 0.125)  # 540, 300 px
ROWS = [
    (Action("click", "Save", MIDDLE), {"action_type": "click", "x": 540, "y": 300}),
    (Action("double_click", "Save", MIDDLE), {"action_type": "double_tap", "x": 540, "y": 300}),
    (Action("long_press", "Save", MIDDLE), {"action_type": "long_press", "x": 540, "y": 300}),
    (Action("click", "Save", (0.0, 0.0)), {"action_type": "click", "x": 0, "y": 0}),
    (Action("click", "Save", (1.0, 1.0)), {"action_type": "click", "x": 1079, "y": 2399}),
    (Action("click", "Save"), None),  # no point: the tool agent did not find one
    (Action("type", "two words"), {"action_type": "input_text", "text": "two words"}),
    (Action("type", "Zoë"), {"action_type": "input_text", "text": "Zoe"}),
    (Action("type", "漢"), None),  # nothing of it can be typed
    (Action("key", "enter"), {"action_type": "keyboard_enter"}),
    (Action("key", "Return"), {"action_type": "keyboard_enter"}),
    (Action("key", "ctrl+c"), None),
    (Action("back"), {"action_type": "navigate_back"}),
    (Action("home"), {"action_type": "navigate_home"}),
    (Action("wait"), {"action_type": "wait"}),
    (Action("open_app", "Settings"), {"action_type": "open_app", "app_name": "settings"}),
    (Action("open_app", "x; reboot"), None),
    (Action("answer", "42"), {"action_type": "answer", "text": "42"}),
    (Action("answer"), {"action_type": "answer", "text": ""}),
    (Action("done"), {"action_type": "status", "goal_status": "complete"}),
    (Action("fail"), {"action_type": "status", "goal_status": "infeasible"}),
    (Action("drag", "Box to Bin", MIDDLE), None),
    (Action("right_click", "Save", MIDDLE), None),
    (Action("hover", "Save", MIDDLE), None),
    (Action("select", "Red", MIDDLE), None),
    (Action("recent"), None),
    (Action("call", "add 1 2"), None),
]
for direction in sorted(DIRECTIONS):
    # The side whose content comes into view, as ours; and without an index.
    ROWS.append((Action("scroll", direction), {"action_type": "scroll", "direction": direction}))


@pytest.mark.parametrize(("action", "expected"), ROWS, ids=lambda value: str(value)[:40])
def test_each_action_in_their_words(action, expected):
    assert native(action, SIZE, knows_app) == expected


def test_no_kind_of_action_was_forgotten():
    assert {action.kind for action, _ in ROWS} == set(KINDS)


def test_points_turn_with_the_phone():
    action = Action("click", "Save", (0.5, 0.125))
    assert native(action, (2400, 1080), knows_app) == {"action_type": "click", "x": 1200, "y": 135}


# ---- whatever the model writes ------------------------------------------------------------------


@dataclass
class JSONAction:
    """Their check of an action (json_action.py), said again."""

    action_type: str | None = None
    index: int | None = None
    x: int | None = None
    y: int | None = None
    text: str | None = None
    direction: str | None = None
    goal_status: str | None = None
    app_name: str | None = None
    keycode: str | None = None
    clear_text: bool | None = None

    def __post_init__(self):
        types = "click double_tap scroll swipe input_text navigate_home navigate_back "
        types += "keyboard_enter open_app status wait long_press answer unknown"
        if self.action_type not in types.split():
            raise ValueError(f"Invalid action type: {self.action_type}")
        if self.index is not None and (self.x is not None or self.y is not None):
            raise ValueError("Either an index or a <x, y> should be provided.")
        if self.direction and self.direction not in ("left", "right", "down", "up"):
            raise ValueError(f"Invalid scroll direction: {self.direction}")
        if self.keycode is not None and not self.keycode.startswith("KEYCODE_"):
            raise ValueError(f"Invalid keycode: {self.keycode}")


# What a shell reads, its full-width twins, and some text.
NASTY = ";&|<>()$`\\\"'#*?[]{}~!%^=\t\x00\x1b；＄（）｀｜＆＜＞＼＇＂＃\xa0Zoë漢 reboot"
TEXTS = st.text(st.sampled_from(NASTY) | st.characters(exclude_characters="\n\r"), max_size=40)
SHARES = st.floats(0, 1)


@st.composite
def actions(draw) -> Action:
    kind = draw(st.sampled_from(sorted(KINDS)))
    text = draw(TEXTS)
    if kind == "scroll":
        text = draw(st.sampled_from(sorted(DIRECTIONS)))
    point = draw(st.tuples(SHARES, SHARES)) if kind in POINTING else None
    return Action(kind, text, point)


@given(actions(), st.tuples(st.integers(1, 4000), st.integers(1, 4000)))
def test_whatever_is_written_their_check_accepts_it_and_the_screen_holds_it(action, size):
    arguments = native(action, size, knows_app)
    if arguments is None:
        return
    JSONAction(**arguments)
    assert 0 <= arguments.get("x", 0) < size[0]
    assert 0 <= arguments.get("y", 0) < size[1]
    assert arguments.get("app_name", APPS[0]) in APPS
    assert "index" not in arguments


def their_escape(text: str) -> str:
    """adb_utils._adb_text_format: it escapes first and decomposes then."""
    for character in "\\;|`\r '\"&<>()#$":
        text = text.replace(character, "\\" + character)
    return unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode()


def run_in_a_shell(word: str) -> tuple[list[str], str]:
    """`input text <word>` in a real shell where no other command exists: (what `input` was given,
    what the shell complained of)."""
    script = "set -f; PATH=; input() { printf '%s\\n' \"$@\"; }; input text " + their_escape(word)
    done = subprocess.run(["/bin/sh", "-c", script], capture_output=True, text=True, check=False)
    return done.stdout.splitlines(), done.stderr


@how_often(max_examples=150)
@given(TEXTS)
def test_no_typed_text_breaks_out_of_the_phones_shell(text):
    arguments = native(Action("type", text), SIZE, knows_app)
    if arguments is None:
        return
    for word in arguments["text"].split():
        given_to_input, complaint = run_in_a_shell(word)
        assert complaint == ""
        assert given_to_input[0] == "text"
        if not word.startswith("~"):  # the shell puts a home folder there
            assert given_to_input[1:] == [word]


def test_undecomposed_a_full_width_semicolon_would_break_out():
    """Why `typeable` decomposes: their escape alone lets this run a command."""
    _, complaint = run_in_a_shell("x；reboot")
    assert "reboot" in complaint
    assert native(Action("type", "x；reboot"), SIZE, knows_app)["text"] == "x;reboot"


# ---- what is seen -------------------------------------------------------------------------------


def element(text=None, described=None, hint=None, box=(0, 0, 108, 240)) -> SimpleNamespace:
    left, top, right, bottom = box
    pixels = SimpleNamespace(x_min=left, y_min=top, x_max=right, y_max=bottom)
    return SimpleNamespace(
        text=text, content_description=described, hint_text=hint, bbox_pixels=pixels
    )


def test_a_label_is_the_text_else_the_description_else_the_hint():
    elements = [
        element("Save", "button", "press"),
        element("", "button", "press"),
        element(None, None, "press"),
        element(None, None, None),
        element("two\nlines"),
    ]
    labels = [label for label, _ in labelled_boxes(elements, SIZE)]
    assert labels == ["Save", "button", "press", "two lines"]


def test_boxes_are_cut_to_the_screen_and_what_is_outside_is_dropped():
    elements = [
        element("half", box=(-108, 0, 108, 240)),
        element("below", box=(0, 2400, 108, 2500)),
        element("empty", box=(5, 5, 5, 5)),
    ]
    assert labelled_boxes(elements, SIZE) == (("half", (0.0, 0.0, 0.1, 0.1)),)
    unplaced = element("nowhere")
    unplaced.bbox_pixels = None
    assert labelled_boxes([unplaced], SIZE) == ()


@pytest.mark.parametrize(("orientation", "corner"), [(1, (1, 0)), (3, (0, 1))])
def test_a_picture_of_a_turned_phone_is_put_upright(orientation, corner):
    """The emulator's picture stays in portrait; the corner that the person sees at the top left is
    then its top right one (turned to the left, 1) or its bottom left one (3)."""
    portrait = Image.new("L", (2, 2))
    portrait = portrait.resize((4, 6))
    portrait.putpixel((corner[0] * 3, corner[1] * 5), 255)
    phone = SimpleNamespace(logical_screen_size=(6, 4), orientation=orientation)
    landscape = upright(portrait, phone)
    assert landscape.size == (6, 4)
    assert landscape.getpixel((0, 0)) == 255


def test_a_picture_that_is_upright_costs_no_question_to_the_phone():
    picture = Image.new("RGB", (4, 6))
    phone = SimpleNamespace(logical_screen_size=(4, 6))  # which has no answer
    assert upright(picture, phone) is picture


# ---- the agent, without their package -----------------------------------------------------------


class Phone:
    """As much of their environment as the agent touches."""

    logical_screen_size = SIZE
    orientation = 0
    interaction_cache = ""

    def __init__(self):
        self.executed = []

    def execute_action(self, action: JSONAction) -> None:
        self.executed.append(action)


def screen(*elements) -> SimpleNamespace:
    return SimpleNamespace(pixels=np.zeros((24, 11, 3), np.uint8), ui_elements=list(elements))


SAVE = screen(element("Save"))


@dataclass
class Script:
    """A planner that says its lines, one forecast a step, and keeps what it was shown."""

    forecasts: list
    seen: list = field(default_factory=list)

    def __call__(self, observations, envs):
        self.seen += observations
        forecast = self.forecasts[min(len(self.seen), len(self.forecasts)) - 1]
        if isinstance(forecast, Exception):
            raise forecast
        return [Plan(list(forecast), tokens=3)]


def player_of(planner, **settings) -> Player:
    return Player(planner, "policy", horizon=2, **settings)


def pilot(*forecasts, phone=None, **settings) -> Pilot:
    player = player_of(Script(forecasts), **settings)
    return Pilot(player, phone or Phone(), JSONAction, knows_app)


def test_a_step_is_carried_out_and_written_down():
    flown = pilot([Action("click", "Save"), Action("done")])
    step = flown.step("save it", lambda: SAVE)
    assert flown.env.executed == [JSONAction("click", x=54, y=120)]
    assert step.forecast == ["click Save", "done"]
    assert step.executed == {"action_type": "click", "x": 54, "y": 120}
    assert (step.result, step.error, step.tokens, step.done) == ("ok", "", 3, False)
    [observation] = flown.player.planner.seen
    assert observation.instruction == "save it"
    assert observation.screenshot().size == (11, 24)


def test_the_last_steps_are_shown_with_the_refused_ones_marked():
    flown = pilot(
        [Action("click", "Save")], [Action("click", "Nowhere")], [], [Action("back")], history=2
    )
    for _ in range(4):
        flown.step("save it", lambda: SAVE)
    histories = [observation.history for observation in flown.player.planner.seen]
    assert histories == [
        (),
        ("click Save",),
        ("click Save", "click Nowhere failed"),
        ("click Nowhere failed", "unreadable failed"),
    ]


def test_no_history_is_none_at_all():
    flown = pilot([Action("back")], history=0)
    flown.step("go", lambda: SAVE)
    flown.step("go", lambda: SAVE)
    assert flown.player.planner.seen[1].history == ()


@pytest.mark.parametrize("carry", [True, False])
def test_the_rest_of_the_forecast_is_carried_along_where_asked(carry):
    flown = pilot([Action("click", "Save"), Action("done")], carry=carry)
    flown.step("save it", lambda: SAVE)
    flown.step("save it", lambda: SAVE)
    assert flown.player.planner.seen[1].plan == ((Action("done"),) if carry else ())


def test_labels_are_found_exactly_or_not_at_all():
    """The toy's tool agent takes Audio for Sound in three of ten cases: on a phone never."""
    for number in range(100):
        seen = screen(element("Sound"), element(f"row {number}"))
        flown = pilot([Action("click", "Audio")])
        step = flown.step("go", partial(copy, seen))
        assert step.result == "failed"
        assert not flown.env.executed


def test_the_same_words_on_the_same_screen_find_the_same_of_two_elements():
    twins = screen(element("OK"), element("OK", box=(540, 0, 1080, 240)))
    places = set()
    for _ in range(20):
        step = pilot([Action("click", "OK")]).step("go", lambda: twins)
        places.add(step.executed["x"])
    assert len(places) == 1


def test_a_foreign_tool_agent_sees_pixels_only():
    asked = []

    def tool_agent(actions, examples):
        asked.extend(examples)
        return [Action("click", "Save", (0.5, 0.5))]

    flown = pilot([Action("click", "Save")], tool_agent=tool_agent)
    assert flown.step("go", lambda: SAVE).executed == {"action_type": "click", "x": 540, "y": 1200}
    [example] = asked
    assert (example.elements, example.reference, example.boxes) == ((), (), ())


def test_what_android_does_not_have_is_impossible_and_reaches_nothing():
    flown = pilot([Action("hover", "Save")])
    step = flown.step("go", lambda: SAVE)
    assert (step.result, step.executed, flown.env.executed) == ("impossible", None, [])
    flown.step("go", lambda: SAVE)
    assert flown.player.planner.seen[1].history == ("hover Save",)


def test_a_drag_of_what_is_there_is_impossible_and_of_what_is_not_it_fails():
    both = screen(element("Box"), element("Bin", box=(540, 0, 1080, 240)))
    for text, result in [("Box to Bin", "impossible"), ("Cat to Bin", "failed")]:
        flown = pilot([Action("drag", text)])
        assert flown.step("go", lambda: both).result == result
        assert flown.env.executed == []


def test_an_answer_goes_to_the_grader_and_not_through_the_shell():
    flown = pilot([Action("answer", '"; reboot; echo "')])
    step = flown.step("what is it?", lambda: SAVE)
    assert flown.env.interaction_cache == '"; reboot; echo "'
    assert flown.env.executed == []
    assert (step.result, step.done) == ("ok", True)


@pytest.mark.parametrize("kind", sorted(TERMINAL))
def test_the_episode_ends_where_the_agent_says_so(kind):
    assert pilot([Action(kind)]).step("go", lambda: SAVE).done


def test_errors_of_ours_are_failed_steps(capsys):
    flown = pilot(RuntimeError("no memory"), [Action("back")])
    step = flown.step("go", lambda: SAVE)
    assert (step.result, step.error, step.done) == ("failed", "RuntimeError: no memory", False)
    assert capsys.readouterr().err == "warning: a step failed: RuntimeError: no memory\n"
    assert flown.step("go", lambda: SAVE).result == "ok"
    assert flown.player.planner.seen[1].history == ("unreadable failed",)


def test_a_full_gpu_ends_it_with_one_line(dies):
    """It would be full at every other step too: no task is to be counted as failed."""
    flown = pilot(torch.OutOfMemoryError("CUDA out of memory"))
    assert "the GPU's memory is full" in dies(flown.step, "go", lambda: SAVE)


def test_errors_of_the_phone_are_failed_steps(monkeypatch):
    flown = pilot([Action("done")])
    monkeypatch.setattr(flown.env, "execute_action", lambda action: 1 / 0)
    step = flown.step("go", lambda: SAVE)
    assert (step.result, step.error) == ("failed", "ZeroDivisionError: division by zero")
    assert not step.done  # it was not said
    step = flown.step("go", lambda: 1 / 0)
    assert step.result == "failed"


def test_the_user_can_still_stop_it():
    flown = pilot([])

    def interrupted():
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        flown.step("go", interrupted)


# ---- the numbers --------------------------------------------------------------------------------


def finished(task: str, number: int, success: float, results: list[str], error="") -> dict:
    return {
        "task_template": task,
        "instance_id": number,
        "is_successful": success,
        "exception_info": None,
        "episode_data": {
            "result": results,
            "error": [error] * len(results),
            "tokens": [2] * len(results),
        },
    }


def crashed(task: str, number: int) -> dict:
    nothing = float("nan")
    return {
        "task_template": task,
        "instance_id": number,
        "is_successful": nothing,
        "exception_info": "Traceback ...",
        "episode_data": nothing,
    }


def test_a_crashed_episode_is_left_out_officially_and_counted_as_0_beside_it():
    result = summary(
        [
            finished("Wifi", 0, 1.0, ["ok", "ok"]),
            crashed("Wifi", 1),
            finished("Alarm", 0, 0.5, ["failed", "impossible", "ok"]),
            finished("Alarm", 1, 0.0, ["failed"], error="RuntimeError: no memory"),
        ]
    )
    assert result["success"] == pytest.approx((0.5 + 0.25) / 2)
    assert result["success_official"] == pytest.approx((1 + 0.25) / 2)
    assert (result["episodes"], result["crashed"], result["steps"]) == (4, 1, 6)
    assert result["results"] == {"ok": 3, "failed": 2, "impossible": 1}
    assert (result["errors"], result["why"]) == (1, ["RuntimeError: no memory"])
    assert result["with_error"] == 1
    assert result["tokens"] == 12
    alarm, wifi = result["tasks"]
    assert alarm == {
        "task": "Alarm",
        "runs": 2,
        "success": 0.25,
        "success_official": 0.25,
        "crashed": 0,
        "with_error": 1,
        "steps": 4,
    }
    assert (wifi["success"], wifi["success_official"], wifi["crashed"]) == (0.5, 1.0, 1)
    assert wifi["with_error"] == 0


def test_episodes_with_an_error_are_counted_and_not_their_steps():
    """Three steps in one episode, a failed one without an error, a crash: one of them."""
    worse = finished("Wifi", 0, 0.0, ["failed"] * 3, error="RuntimeError: no memory")
    result = summary([worse, finished("Wifi", 1, 0.0, ["failed"]), crashed("Wifi", 2)])
    [wifi] = result["tasks"]
    assert (wifi["with_error"], result["with_error"], result["errors"]) == (1, 1, 3)
    row = table(result | {"points_by": LABELS, "warnings": []}).splitlines()[1]
    assert row.split() == ["Wifi", "3", "0.0%", "0.0%", "1", "1", "4"]


def test_the_table_has_a_row_a_task_and_one_for_all():
    result = summary([finished("Wifi", 0, 1.0, ["ok"]), crashed("Alarm", 0)])
    lines = table(result | {"points_by": LABELS, "warnings": ["another commit"]}).splitlines()
    assert [line.split() for line in lines[:4]] == [
        ["task", "runs", "success", "official", "crashed", "with", "error", "steps"],
        ["Alarm", "1", "0.0%", "none", "1", "0", "0"],
        ["Wifi", "1", "100.0%", "100.0%", "0", "0", "1"],
        ["all", "2", "50.0%", "100.0%", "1", "0", "1"],
    ]
    assert lines[4].endswith(f"failed by an error (0 did). Points by {LABELS}")
    assert lines[5] == "warning: another commit"


def test_where_all_crashed_there_is_no_official_number():
    result = summary([crashed("Wifi", 0)])
    assert (result["success"], result["success_official"]) == (0.0, None)


# ---- the evaluation, without their package ---------------------------------------------------


def says(f, *args, **settings) -> str:
    """The one line of its ValueError."""
    with pytest.raises(ValueError) as error:
        f(*args, **settings)
    assert len(str(error.value).splitlines()) == 1
    return str(error.value)


@pytest.fixture
def no_phone(monkeypatch):
    """Their package and the phone are left out: one episode, played at once."""
    phone = SimpleNamespace(close=lambda: None)
    monkeypatch.setattr(androidworld, "check", lambda *_: (COMMIT, {}, "adb"))
    monkeypatch.setattr(androidworld, "connect", lambda adb: phone)
    monkeypatch.setattr(androidworld, "run_suite", lambda *_: [finished("Wifi", 0, 1.0, ["ok"])])


@pytest.mark.parametrize(
    ("changed", "why"),
    [
        ({"name": "runs/b"}, "player 'runs/a', not 'runs/b'"),
        ({"weights": "abc"}, "weights '', not 'abc'"),
        ({"history": 2}, "history 4, not 2"),
        ({"carry": True}, "carry False, not True"),
        ({"how": {"thinking": 64}}, "how {}, not {'thinking': 64}"),
        ({"tool_agent": print, "tool_agent_name": "ocr"}, f"points_by {LABELS!r}, not 'ocr'"),
    ],
)
def test_another_players_episodes_are_not_taken_for_this_ones(changed, why, no_phone, tmp_path):
    """Their checkpoints name the task only."""
    player = Player(Script([]), "runs/a", 2)
    evaluate(player, tmp_path, Path("clone"))
    assert evaluate(player, tmp_path, Path("clone"))["success"] == 1.0  # a resumed one
    line = says(evaluate, replace(player, **changed), tmp_path, Path("clone"))
    assert line == f"{tmp_path} was made with other settings: {why}"


def test_another_commits_episodes_are_not_taken_for_this_ones(no_phone, tmp_path, monkeypatch):
    player = Player(Script([]), "runs/a", 2)
    evaluate(player, tmp_path, Path("clone"))
    monkeypatch.setattr(androidworld, "check", lambda *_: ("unknown", {}, "adb"))
    monkeypatch.setattr(androidworld, "connect", lambda _: pytest.fail("the phone was asked"))
    line = says(evaluate, player, tmp_path, Path("clone"))
    assert line.endswith(f"was made with other settings: commit {COMMIT!r}, not 'unknown'")


def test_a_doubtful_clone_is_named_before_play_and_in_the_result(
    no_phone, tmp_path, monkeypatch, capsys
):
    said = []

    def played(*_):
        said.append(capsys.readouterr().err)
        return [finished("Wifi", 0, 1.0, ["ok"])]

    monkeypatch.setattr(androidworld, "check", lambda *_: ("unknown", {}, "adb"))
    monkeypatch.setattr(androidworld, "run_suite", played)
    result = evaluate(Player(Script([]), "runs/a", 2), tmp_path, Path("clone"))
    [warning] = result["warnings"]
    assert warning.startswith("clone: its commit is not known")
    assert said == [f"warning: {warning}\n"]
    assert result["commit"] == "unknown"


def test_a_start_that_fails_leaves_the_folder_to_others(no_phone, tmp_path, monkeypatch):
    def silent(adb):
        raise ValueError("emulator-5554 does not answer")

    folder = tmp_path / "out"
    with monkeypatch.context() as broken:
        broken.setattr(androidworld, "connect", silent)
        line = says(evaluate, Player(Script([]), "runs/a", 2), folder, Path("clone"))
    assert line == "emulator-5554 does not answer"
    assert not folder.exists()
    assert evaluate(Player(Script([]), "runs/b", 2), folder, Path("clone"))["success"] == 1.0


def test_a_folder_of_another_program(no_phone, tmp_path):
    (tmp_path / "Wifi_0.pkl.gz").write_bytes(b"")
    line = says(evaluate, Player(Script([]), "runs/a", 2), tmp_path, Path("clone"))
    assert line.startswith(f"{tmp_path} is not empty, and has no settings.json")


# ---- their real package, above a made-up adb ----------------------------------------------------

WHY = "android_world is in no package index: a clone in PYTHONPATH, docs/online.md"
WIDTH, HEIGHT = SIZE
TREE = """<?xml version='1.0'?><hierarchy rotation="0">
<node text="" class="Frame" bounds="[0,0][1080,2400]" package="a">
<node text="Wi-Fi" class="Switch" checked="{wifi}" clickable="true" bounds="[0,200][1080,400]"/>
<node text={text} content-desc="Name" class="EditText" bounds="[0,400][1080,650]"/>
</node></hierarchy>"""


@dataclass
class Handset:
    """A phone behind the adb command line: a switch for Wi-Fi and a text field; keeps each call."""

    wifi: bool = False
    text: str = ""
    calls: list = field(default_factory=list)
    broken: bool = False  # the screen cannot be read any more

    def answer(self, line: str) -> str:
        """What adb prints for a command; the switch is what a tap at 200 to 400 px flips."""
        self.calls.append(line)
        if line == "shell cat /sdcard/window_dump.xml":
            if self.broken:
                raise RuntimeError("the phone fell down")
            return TREE.format(wifi=str(self.wifi).lower(), text=quoteattr(self.text))
        tap = re.match(r"shell input tap \d+ (\d+)", line)
        if tap and 200 <= int(tap[1]) < 400:
            self.wifi = not self.wifi
        if line.startswith("shell input text "):
            self.text += line.removeprefix("shell input text ")
        if line.startswith("shell svc wifi"):
            self.wifi = line.endswith("enable")
        return self.constant(line)

    def touched(self) -> list[str]:
        """The calls that do not only look."""
        done = []
        for line in self.calls:
            if "window_dump" not in line and "logicalFrame" not in line:
                done.append(" ".join(line.split()))
        return done

    def constant(self, line: str) -> str:
        if line.startswith("shell service check"):
            return f"Service {line.split()[-1]}: found"
        if "wm size" in line:
            return f"Physical size: {WIDTH}x{HEIGHT}"
        if "logicalFrame" in line:
            return f"logicalFrame=[0, 0, {WIDTH}, {HEIGHT}]"
        if "mCurrentRotation" in line:
            return "mCurrentRotation=ROTATION_0"
        if line.startswith("shell dumpsys input"):
            return " SurfaceOrientation: 0"
        if "Exists" in line:
            return "Does not exist"
        if "settings get global wifi_on" in line:
            return "1" if self.wifi else "0"
        return "ok"


def connect_handset(handset: Handset):
    """Their environment, and android_env's, on the handset."""
    from android_env import environment
    from android_env.components import (
        adb_controller,
        config_classes,
        coordinator,
        device_settings,
        log_stream,
        task_manager,
    )
    from android_env.components.simulators.fake import fake_simulator
    from android_env.proto import task_pb2
    from android_world.env import android_world_controller, interface

    class Adb(adb_controller.AdbController):
        def execute_command(self, args, timeout=None, device_specific=True):
            return handset.answer(" ".join(args)).encode()

    class NoLog(log_stream.LogStream):
        def _get_stream_output(self):
            return iter(())

        def stop_stream(self):
            pass

    class Simulator(fake_simulator.FakeSimulator):
        def create_adb_controller(self):
            return Adb(config_classes.AdbControllerConfig())

        def create_log_stream(self):
            return NoLog(verbose=False)

        def _get_screenshot_impl(self):
            return np.zeros((HEIGHT, WIDTH, 3), np.uint8)

    simulator = Simulator(config_classes.FakeSimulatorConfig(screen_dimensions=(HEIGHT, WIDTH)))
    task = task_pb2.Task(id="default", name="default", max_episode_sec=7200)
    manager = task_manager.TaskManager(task)
    settings = device_settings.DeviceSettings(simulator)
    device = environment.AndroidEnv(
        simulator=simulator,
        coordinator=coordinator.Coordinator(simulator, manager, settings),
        task_manager=manager,
    )
    # This way the element tree is a file that adb prints.
    method = android_world_controller.A11yMethod.UIAUTOMATOR
    controller = android_world_controller.AndroidWorldController(device, a11y_method=method)
    return interface.AsyncAndroidEnv(controller)


@pytest.fixture
def clone() -> Path:
    """The folder that their real package is imported from."""
    pytest.importorskip("android_world.suite_utils", reason=WHY, exc_type=ImportError)
    import android_world

    return Path(android_world.__file__).parent.parent


@pytest.fixture
def handset(clone, monkeypatch) -> Handset:
    """A phone that evaluate finds; nobody sleeps."""
    found = Handset()
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    monkeypatch.setattr(androidworld, "find_adb", lambda: "adb")
    monkeypatch.setattr(androidworld, "check_emulator", lambda adb: None)
    monkeypatch.setattr(androidworld, "connect", lambda adb: connect_handset(found))
    return found


WIFI = ["SystemWifiTurnOff", "SystemWifiTurnOn"]


def wifi_planner(handset: Handset):
    """Solves both tasks, like an oracle: it knows the state of the phone."""

    def plan(observations, _envs):
        [observation] = observations
        wanted = "on" in observation.instruction.split()[-1]
        if handset.wifi == wanted:
            return [Plan([Action("done")], tokens=1)]
        return [Plan([Action("click", "Wi-Fi"), Action("done")], tokens=3)]

    return plan


def test_their_package_is_accepted(clone):
    assert re.fullmatch("unknown|[0-9a-f]{40}(-dirty)?", load_package(clone))


def test_the_double_of_their_check_is_theirs(clone):
    from android_world.env import json_action

    for action, _ in ROWS:
        arguments = native(action, SIZE, knows_app)
        if arguments is not None:
            theirs = json_action.JSONAction(**arguments).as_dict()
            assert theirs == arguments
    for wrong in (
        {"action_type": "drag"},
        {"action_type": "drag_and_drop"},
        {"action_type": "scroll", "direction": "north"},
        {"action_type": "click", "index": 1, "x": 2, "y": 3},
        {"action_type": "wait", "keycode": "TAB"},
    ):
        with pytest.raises(ValueError):
            json_action.JSONAction(**wrong)
        with pytest.raises(ValueError):
            JSONAction(**wrong)


@given(TEXTS)
def test_the_double_of_their_escape_is_theirs(text):
    adb_utils = pytest.importorskip("android_world.env.adb_utils", reason=WHY, exc_type=ImportError)
    assert their_escape(text) == adb_utils._adb_text_format(text)


ENTER = "shell input keyevent KEYCODE_ENTER"
MIDDLE_TO = "shell input swipe 540 1200"
COMMANDS = [
    (Action("click", "Wi-Fi"), ["shell input tap 540 300"]),
    (Action("double_click", "Wi-Fi"), ["shell input tap 540 300"] * 2),
    (Action("long_press", "Name"), ["shell input swipe 540 525 540 525 1000"]),
    (
        Action("type", "it's Zoë"),
        ["shell input text it\\'s", "shell input text %s", "shell input text Zoe", ENTER],
    ),
    (Action("type", "x；reboot"), ["shell input text x\\;reboot", ENTER]),
    (Action("key", "enter"), [ENTER]),
    (Action("back"), ["shell input keyevent KEYCODE_BACK"]),
    (Action("home"), ["shell input keyevent KEYCODE_HOME"]),
    (Action("scroll", "down"), [f"{MIDDLE_TO} 540 0"]),
    (Action("scroll", "up"), [f"{MIDDLE_TO} 540 2400"]),
    (Action("scroll", "right"), [f"{MIDDLE_TO} 0 1200"]),
    (Action("scroll", "left"), [f"{MIDDLE_TO} 1080 1200"]),
    (
        Action("open_app", "Settings; reboot"),  # their table looks at the beginning only
        ["shell am start -W -n com.android.settings/.Settings"],
    ),
    (
        Action("open_app", "Calendar"),
        ["shell am start -a android.intent.action.VIEW -d content://com.android.calendar"],
    ),
    (Action("open_app", "x; reboot"), []),
    (Action("wait"), []),
    (Action("answer", '"; reboot; echo "'), []),
    (Action("done"), []),
    (Action("fail"), []),
    (Action("drag", "Wi-Fi to Name"), []),
    (Action("hover", "Wi-Fi"), []),
]


@pytest.mark.parametrize(("action", "expected"), COMMANDS, ids=lambda value: str(value)[:40])
def test_each_action_as_it_reaches_the_phone(handset, action, expected):
    env = connect_handset(handset)
    player = player_of(lambda observations, envs: [Plan([action])])
    agent = androidworld.make_agent(player, env)
    agent.reset(go_home=True)
    handset.calls.clear()
    agent.step("go")
    assert handset.touched() == expected
    if action.kind == "answer":
        assert env.interaction_cache == action.text


def test_a_phone_that_does_not_answer_says_what_to_start(clone, monkeypatch):
    """android_env's own text sends the reader to logs that nobody sees."""
    from android_world.env import env_launcher

    def fails(**_):
        raise RuntimeError("see the simulator logs above") from OSError("no boot")

    monkeypatch.setattr(env_launcher, "load_and_setup_env", fails)
    line = says(androidworld_phone.connect, "adb")
    start_it = "start it with emulator -avd AndroidWorldAvd -no-snapshot -grpc 8554"
    assert line == f"emulator-5554 does not answer (no boot): {start_it}"


def test_the_agent_begins_as_theirs_do(handset):
    """It goes home, hides what automation draws on the screen, and waits for still screens."""
    agent = androidworld.make_agent(player_of(Script([])), connect_handset(handset))
    assert agent.transition_pause is None
    handset.calls.clear()
    agent.reset(go_home=True)
    assert "shell input keyevent KEYCODE_HOME" in handset.calls
    assert "shell settings put system pointer_location 0" in handset.calls


def play(planner, folder: Path, clone: Path, tasks=WIFI[:1], **settings) -> dict:
    """The result of a player with this planner."""
    return evaluate(player_of(planner, **settings), folder, clone, tasks)


def test_two_tasks_are_played_to_success_by_their_runner(handset, clone, tmp_path, capsys):
    result = play(wifi_planner(handset), tmp_path, clone, WIFI)
    assert [row["task"] for row in result["tasks"]] == WIFI
    assert (result["success"], result["success_official"]) == (1.0, 1.0)
    assert (result["episodes"], result["crashed"], result["steps"]) == (2, 0, 4)
    assert result["results"] == {"ok": 4}
    assert (result["points_by"], result["player"]) == (LABELS, "policy")
    assert "2/2" in capsys.readouterr().err  # the bar
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "SystemWifiTurnOff_0.pkl.gz",
        "SystemWifiTurnOn_0.pkl.gz",
        "runner.log",
        "settings.json",
    ]
    assert "Running task: SystemWifiTurnOff" in (tmp_path / "runner.log").read_text()


def test_their_records_hold_the_log_of_each_step(handset, clone, tmp_path):
    [record] = play_wifi(handset, tmp_path, tasks=["SystemWifiTurnOn"])
    assert record["agent_name"] == "policy"
    assert record["episode_data"] == {
        "forecast": [["click Wi-Fi", "done"], ["done"]],
        "executed": [
            {"action_type": "click", "x": 540, "y": 300},
            {"action_type": "status", "goal_status": "complete"},
        ],
        "result": ["ok", "ok"],
        "error": ["", ""],
        "tokens": [3, 1],
        "done": [False, True],
        "step_number": [0, 1],
    }


def test_the_connection_is_closed_even_when_the_user_stops_it(
    handset, clone, tmp_path, monkeypatch
):
    env = connect_handset(handset)
    closed = []
    monkeypatch.setattr(env, "close", lambda: closed.append(True))
    monkeypatch.setattr(androidworld, "connect", lambda adb: env)

    def stopped(observations, envs):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        play(stopped, tmp_path, clone)
    assert closed == [True]


def test_the_result_names_the_tool_agent(handset, clone, tmp_path):
    def tool_agent(actions, examples):
        return [Action("click", "", (0.5, 0.125)) for _ in actions]

    def plan(observations, envs):
        return [Plan([Action("click", "the switch")])]

    result = play(plan, tmp_path, clone, tool_agent=tool_agent, tool_agent_name="ocr")
    assert result["points_by"] == "ocr"
    assert handset.calls.count("shell input tap 540 300") == 10


def play_wifi(handset: Handset, folder: Path, tasks=WIFI, combinations=1) -> list[dict]:
    """Their records of a player that solves the tasks."""
    suite = androidworld.make_suite(tasks, combinations)
    player = player_of(wifi_planner(handset))
    return run_suite(player, connect_handset(handset), suite, folder)


def test_finished_episodes_are_not_played_again(handset, clone, tmp_path, capsys):
    first = play_wifi(handset, tmp_path, combinations=2)
    assert len(first) == 4
    suite = androidworld.make_suite(WIFI, 2)
    env = connect_handset(handset)
    handset.calls.clear()
    capsys.readouterr()
    again = run_suite(player_of(wifi_planner(handset)), env, suite, tmp_path)
    assert handset.calls == []
    assert "4/4" in capsys.readouterr().err
    assert summary(again) == summary(first)
    fewer = play_wifi(handset, tmp_path, WIFI[:1])
    assert len(fewer) == 1  # of what lies there, what was asked for


def test_half_a_checkpoint_is_played_again(handset, clone, tmp_path):
    play_wifi(handset, tmp_path)
    path = tmp_path / "SystemWifiTurnOn_0.pkl.gz"
    path.write_bytes(path.read_bytes()[:100])
    handset.calls.clear()
    assert summary(play_wifi(handset, tmp_path))["success"] == 1.0
    assert handset.calls.count("shell input tap 540 300") == 1


def test_a_planner_that_raises_fails_its_steps_and_keeps_its_episodes(handset, clone, tmp_path):
    def raises(observations, envs):
        raise RuntimeError("no memory")

    result = play(raises, tmp_path, clone, WIFI)
    assert (result["success_official"], result["crashed"]) == (0.0, 0)  # not NaN, not left out
    assert (result["steps"], result["errors"]) == (20, 20)  # the budget: 10 x complexity 1
    assert result["why"] == ["RuntimeError: no memory"]


def test_a_phone_that_falls_down_in_the_middle_fails_the_steps(handset, clone, tmp_path):
    def plan(observations, envs):
        handset.broken = True
        return [Plan([Action("back")])]

    result = play(plan, tmp_path, clone)
    assert (result["success_official"], result["crashed"], result["errors"]) == (0.0, 0, 10)


def test_who_never_says_done_has_not_solved_it(handset, clone, tmp_path):
    def plan(observations, envs):
        return [Plan([Action("wait") if handset.wifi else Action("click", "Wi-Fi")])]

    result = play(plan, tmp_path, clone, ["SystemWifiTurnOn"])
    assert handset.wifi
    assert (result["success"], result["steps"]) == (0.0, 10)


def test_an_episode_that_crashes_is_left_out_officially_and_played_again_later(
    handset, clone, tmp_path, monkeypatch
):
    from android_world import suite_utils
    from android_world.task_evals.single import system

    with monkeypatch.context() as broken:
        broken.setattr(system.SystemWifiTurnOn, "initialize_task", lambda task, env: 1 / 0)
        records = play_wifi(handset, tmp_path)
    result = summary(records)
    assert (result["success"], result["success_official"], result["crashed"]) == (0.5, 1.0, 1)
    official = suite_utils.process_episodes(records)["mean_success_rate"].mean()
    assert result["success_official"] == official
    mended = summary(play_wifi(handset, tmp_path))
    assert (mended["success"], mended["episodes"], mended["crashed"]) == (1.0, 2, 0)


def test_a_task_that_they_do_not_have(clone):
    line = says(androidworld.make_suite, ["SystemWifiTurnOm"], 1)
    assert line.startswith("AndroidWorld has no task 'SystemWifiTurnOm'; the nearest are SystemWi")
    assert "SystemWifiTurnOn, " in line
    line = says(androidworld.make_suite, ["NoSuchTask"], 1)
    assert line.endswith("; android_world/task_metadata.json of the clone has all")
    named = line.split("; ")[1].removeprefix("the nearest are ").split(", ")
    assert len(named) == 3
    assert len(androidworld.make_suite(named, 1)) == 3  # they can be typed
    assert (clone / "android_world" / "task_metadata.json").read_text().count('"task_name"') == 116
    assert says(androidworld.make_suite, WIFI, 0) == "0 combinations of a task: must be at least 1"


def test_the_suite_is_that_of_their_run(clone):
    """All 116 templates, and the parameters of their default seed, 30."""
    suite = androidworld.make_suite((), 1)
    assert (len(suite), suite.suite_family) == (116, "android_world")
    digest = hashlib.sha256(b"30_SystemWifiTurnOn_0").hexdigest()
    assert suite["SystemWifiTurnOn"][0].params["seed"] == int(digest, 16) % 2**32
