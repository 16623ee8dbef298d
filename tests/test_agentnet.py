"""AgentNet: pyautogui code becomes actions without being run."""

import contextlib

import pytest
from benchmark_data import agentnet_root, agentnet_step, load
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.agentnet import parse_pyautogui
from benchmarks.common import BadRecord
from envs import Action


@pytest.mark.parametrize(
    "code, action",
    [
        ("pyautogui.click(x=0.25, y=0.5)", Action("click", "T", (0.25, 0.5))),
        ("pyautogui.rightClick(0.1, 1)", Action("right_click", "T", (0.1, 1))),
        ("pyautogui.click(0.1, 0.2, button='right')", Action("right_click", "T", (0.1, 0.2))),
        ("pyautogui.click(0.1, 0.2, clicks=2)", Action("double_click", "T", (0.1, 0.2))),
        ("pyautogui.moveTo(0.1, 0.2)", Action("hover", "T", (0.1, 0.2))),
        (
            "pyautogui.moveTo(0.1, 0.2)\npyautogui.dragTo(0.3, 0.4, button='left')",
            Action("drag", "T", (0.1, 0.2), (0.3, 0.4)),
        ),
        ("pyautogui.dragTo(0.3, 0.4)", Action("drag", "T", None, (0.3, 0.4))),
        ("pyautogui.scroll(-5)", Action("scroll", "down")),
        ("pyautogui.scroll(clicks=5)", Action("scroll", "up")),
        ("pyautogui.write(message='a b')", Action("type", "a b")),
        ("pyautogui.press('Enter')", Action("key", "enter")),
        ("pyautogui.hotkey(['ctrl', 'c'])", Action("key", "ctrl+c")),
        ("pyautogui.hotkey('ctrl', 'c')", Action("key", "ctrl+c")),
        ("pyautogui.hotkey(keys=['ctrl', 'c'])", Action("key", "ctrl+c")),
        ("computer.wait()", Action("wait")),
        ("computer.tripleClick(0.1, 0.2)", Action("double_click", "T", (0.1, 0.2))),
        ("computer.terminate(status='success')", Action("done")),
        ("computer.terminate(status='failure')", Action("fail")),
    ],
)
def test_agentnet_code(code, action):
    assert parse_pyautogui(code, "T") == [action]


def test_a_drag_begins_where_the_pointer_is():
    """That is where the call before left it; a hover that only leads there is no step."""
    code = """pyautogui.click(0.1, 0.2)
pyautogui.dragTo(0.3, 0.4)
pyautogui.scroll(-1)
pyautogui.dragTo(0.5, 0.6)
pyautogui.moveTo(0.7, 0.8)
pyautogui.dragTo(0.9, 1.0, duration=0.5)
"""
    assert parse_pyautogui(code, "T") == [
        Action("click", "T", (0.1, 0.2)),
        Action("drag", "T", (0.1, 0.2), (0.3, 0.4)),
        Action("scroll", "down"),
        Action("drag", "T", (0.3, 0.4), (0.5, 0.6)),
        Action("drag", "T", (0.7, 0.8), (0.9, 1.0)),
    ]


@pytest.mark.parametrize("call", ["dragTo(0.3, 1.4)", "dragTo(0.3)", "dragTo('a', 'b')"])
def test_a_drag_beside_the_screen_is_refused(call):
    with pytest.raises(BadRecord, match="code: x, y"):
        parse_pyautogui(f"pyautogui.moveTo(0.1, 0.2)\npyautogui.{call}")


def test_keys_of_one_press_come_one_after_the_other():
    """Only hotkey holds them down together; several presses of a key stay one action."""
    code = "pyautogui.press(keys=['Down', 'enter'])\npyautogui.press('tab', presses=3)"
    keys = [Action("key", "down"), Action("key", "enter"), Action("key", "tab")]
    assert parse_pyautogui(code, "T") == keys


@pytest.mark.parametrize("call", ["press([])", "press()", "hotkey()"])
def test_keys_without_a_key_are_named(call):
    with pytest.raises(BadRecord, match="without a key"):
        parse_pyautogui(f"pyautogui.{call}")


def test_steps_judged_wrong_or_redundant_are_left_out(tmp_path):
    steps = [
        agentnet_step("pyautogui.click(0.1, 0.2)\npyautogui.write('hi')"),
        agentnet_step("pyautogui.scroll(1)", correct=False),
        agentnet_step("pyautogui.scroll(1)", redundant=True),
        agentnet_step("computer.terminate(status='success')"),
    ]
    (episode,), _ = load("agentnet", agentnet_root(tmp_path, steps), "train")
    found = [(step.action.kind, step.raw["index"]) for step in episode.steps]
    assert found == [("click", 0), ("type", 0), ("done", 3)]


def test_one_line_for_the_user(tmp_path):
    root = agentnet_root(tmp_path, [agentnet_step("computer.wait()")])
    with pytest.raises(ValueError, match="split 'win_mac' of agentnet is empty"):
        load("agentnet", root, "win_mac")
    with pytest.raises(ValueError, match="agentnet has no split 'test'"):
        load("agentnet", root, "test")


KNOWN_CALLS = r"(pyautogui|computer)\.(click|write|press|scroll|dragTo)\([^#]{0,20}\)"
HOSTILE = [
    "-" * 19_000,
    "(" * 30_000,
    "f(x)(y)",
    "pyautogui.click(1e999, 0)",
    "__import__('os').abort()",
]


@settings(max_examples=300, deadline=None)
@given(st.one_of(st.text(), st.from_regex(KNOWN_CALLS, fullmatch=True), st.sampled_from(HOSTILE)))
def test_hostile_code_raises_bad_record_or_nothing(code):
    with contextlib.suppress(ValueError):  # BadRecord, or Action's own
        assert all(isinstance(action, Action) for action in parse_pyautogui(code))
