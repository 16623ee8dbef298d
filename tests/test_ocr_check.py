"""extras/ocr_check.py: what is counted, on a tool agent whose answers are known."""

import re

import pytest

from envs import SCREEN_WORDS, Action, centre
from extras.ocr import INSTALL
from extras.ocr_check import check_screen, main, visit


def test_the_same_task_is_visited_in_the_same_state():
    assert visit("test", 7, 1).key() == visit("test", 7, 2).key()
    states = {visit("test", index, 1).key().split("/", 1)[1] for index in range(30)}
    assert len(states) > 3  # not only first screens


def answer_with(place):
    """A tool agent: what `place` says of an action's text, None being a refusal."""

    def tool_agent(actions, examples):
        assert len(actions) == len(examples)
        assert not any(example.elements for example in examples)
        executed = []
        for action in actions:
            point = place(action.text)
            executed.append(None if point is None else Action("click", action.text, point))
        return executed

    return tool_agent


def test_what_is_counted():
    world = visit("test", 0, 1)
    places = {label: centre(box) for label, box in world.visible()}
    labels = len(world.visible())
    assert labels == len(places) > 3  # none stands there twice
    drawn = set(world.cells().values())
    absent = sum(word not in drawn for word in SCREEN_WORDS)

    counts = check_screen(world, answer_with(places.get))
    assert counts == {"right": labels, "absent": absent}
    counts = check_screen(world, answer_with(lambda text: None))
    assert counts == {"refused": labels, "absent": absent}
    neighbours = dict(zip(places, [*list(places.values())[1:], (0.0, 0.0)], strict=True))
    counts = check_screen(world, answer_with(lambda text: neighbours.get(text, (0.5, 0.5))))
    assert counts == {"wrong": labels, "taken": absent}


def test_of_a_label_that_stands_there_twice_a_refusal_is_right(monkeypatch):
    world = visit("test", 0, 1)
    box = (0.0, 0.0, 0.1, 0.1)
    monkeypatch.setattr(world, "visible", lambda: (("Save", box), ("Save", box), ("Dark", box)))
    counts = check_screen(world, answer_with(lambda text: None))
    assert (counts["twice"], counts["refused"]) == (2, 1)
    counts = check_screen(world, answer_with(lambda text: (0.0, 0.0)))
    assert (counts["guessed"], counts["right"]) == (2, 1)


def test_the_line_that_is_printed(capsys):
    for package in ("rapidocr", "onnxruntime"):
        pytest.importorskip(package, reason=f"OCR is optional: {INSTALL}")
    main(["--split", "dev", "--first", "3", "--screens", "2", "--scale", "2"])
    line = capsys.readouterr().out
    assert re.match(r"dev 3 to 4, scale 2: \d+ labels, \d+\.\d\d% right, \d wrong, ", line)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--split", "moon"], "--split moon: choose one of"),
        (["--screens", "0"], "--screens 0: must be at least 1"),
        (["--first", "-1"], "--first -1: must be at least 0"),
        (["--scale", "0"], "--scale 0: must be at least 1"),
    ],
)
def test_bad_input_is_one_line(flags, message, dies):
    assert message in dies(main, flags)
