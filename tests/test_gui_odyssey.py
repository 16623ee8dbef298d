"""GUI-Odyssey: annotations written by hand, every quirk of the official rule and of OS-Atlas's."""

import pytest
from benchmark_data import load, odyssey_root, odyssey_step
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.common import ScoredStep, Step, StepScore
from benchmarks.gui_odyssey import edit_distance, official, official_sums, os_atlas
from envs import Action

# ---- Conversions -------------------------------------------------------------------------------


def test_gui_odyssey_by_hand(tmp_path):
    bbox = [380, 880, 445, 925]
    tap = "Tap Firefox"
    steps = [
        odyssey_step("CLICK", [[412, 903]], sam2_bbox=bbox, low_level_instruction=tap),
        odyssey_step("SCROLL", [[500, 800], [510, 200]]),
        odyssey_step("SCROLL", [[800, 500], [200, 490]]),
        odyssey_step("SCROLL", [[0, 0], [5, 5]]),
        odyssey_step("TEXT", "tide times"),
        odyssey_step("TYPE", "a"),
        odyssey_step("LONG_PRESS", [[1000, 0]], sam2_bbox=[]),
        odyssey_step("CLICK", "KEY_HOME"),
        odyssey_step("CLICK", "KEY_BACK"),
        odyssey_step("CLICK", "KEY_APPSELECT"),
        odyssey_step("INCOMPLETE", ""),
        odyssey_step("COMPLETE", ""),
    ]
    (episode,), report = load("gui-odyssey", odyssey_root(tmp_path, {"55": steps}), "random")
    assert [step.action for step in episode.steps] == [
        Action("click", tap, (0.412, 0.903)),
        Action("scroll", "down"),  # the finger went up: what is below comes into view
        Action("scroll", "right"),
        Action("scroll", "up"),  # |dx| = |dy|: vertical, and the finger went down
        Action("type", "tide times"),
        Action("type", "a"),
        Action("long_press", "", (1.0, 0.0)),
        Action("home"),
        Action("back"),
        Action("recent"),
        Action("fail"),
        Action("done"),
    ]
    assert episode.steps[0].boxes == ((0.38, 0.88, 0.445, 0.925),)
    assert episode.steps[6].boxes == ()
    assert not report.bad


# ---- Bad input ---------------------------------------------------------------------------------

FINISH = odyssey_step("COMPLETE", "")


@pytest.mark.parametrize(
    "bad",
    [
        odyssey_step("FLY", ""),
        odyssey_step("CLICK", [[1001, 5]]),
        odyssey_step("CLICK", []),
        odyssey_step("SCROLL", [[1, 2]]),
        odyssey_step("CLICK", "KEY_X"),
        {**FINISH, "screenshot": "../gone.png"},
        7,
    ],
)
def test_a_bad_step_is_named_and_the_rest_stays(tmp_path, bad):
    root = odyssey_root(tmp_path, {"1": [FINISH] * 39 + [bad]})
    (episode,), report = load("gui-odyssey", root, "random")
    assert len(episode.steps) == 39
    assert report.messages[0].text.startswith("1.json: step 39: ")


def test_bad_episodes_are_named_and_more_than_five_per_cent_are_an_error(tmp_path):
    root = odyssey_root(tmp_path, {str(ident): [FINISH] * 39 for ident in range(30)})
    (root / "annotations" / "3.json").unlink()
    episodes, report = load("gui-odyssey", root, "random")
    assert len(episodes) == 29
    assert report.texts() == ["3.json: No such file or directory"]
    for ident in range(4, 9):
        (root / "annotations" / f"{ident}.json").write_text("{")
    with pytest.raises(ValueError, match="6 of 30 episodes are bad"):
        load("gui-odyssey", root, "random")


def test_one_line_for_the_user(tmp_path):
    with pytest.raises(ValueError, match="no split 'no'") as error:
        load("gui-odyssey", tmp_path, "no")
    assert "\n" not in str(error.value)


# ---- The rules ---------------------------------------------------------------------------------


def gold(kind, text="", grid=None, bbox=None) -> Step:
    point = grid and (grid[0] / 1000, grid[1] / 1000)
    raw = {"index": 0, "text": text, "grid": grid, "bbox": bbox}
    return Step(lambda: None, Action(kind, text, point), (), raw)


@pytest.mark.parametrize(
    "ours, step, right, strict, atlas",
    [
        # in the box, far from the point
        (("click", "", (0.9, 0.1)), gold("click", "", (100, 100), [0, 0, 900, 100]), 1, 1, 0),
        # near the point; an empty box raises in the official script
        (("click", "", (0.1, 0.24)), gold("click", "", (100, 100), []), 1, 0, 1),
        # the old release has no box at all
        (("click", "", (0.1, 0.24)), gold("click", "", (100, 100)), 1, 1, 1),
        # an edit similarity of 1 - 1/4
        (("type", "a: b"), gold("type", "a: c"), 1, 1, 1),
        # strict loses what follows ":"
        (("type", "12:30 noon"), gold("type", "12:45 at night"), 0, 1, 0),
        # "" is part of every text
        (("type", ""), gold("type", "tide"), 1, 1, 0),
        # case counts
        (("type", "TIDE"), gold("type", "tide"), 0, 0, 1),
        (("type", "tide"), gold("type", "tide times"), 1, 1, 0),
        (("scroll", "up"), gold("scroll", "up"), 1, 1, 1),
        (("scroll", "up"), gold("scroll", "left"), 0, 0, 0),
        (("recent",), gold("recent"), 1, 1, 1),
        (("fail",), gold("done"), 0, 0, 0),
    ],
)
def test_odyssey(ours, step, right, strict, atlas):
    action = Action(*ours)
    scores = [official(action, step), official(action, step, strict=True), os_atlas(action, step)]
    assert [score.correct for score in scores] == [right, strict, atlas]
    assert len({score.type_match for score in scores}) == 1


@given(st.text("ab", max_size=8), st.text("ab", max_size=8))
def test_edit_distance_is_a_distance(one, two):
    distance = edit_distance(one, two)
    assert distance == edit_distance(two, one) <= max(len(one), len(two))
    assert (distance == 0) == (one == two)


# ---- The sums ----------------------------------------------------------------------------------


def scored(episode: str, category: str, length: int, *correct: bool) -> list[ScoredStep]:
    raw = {"category": category, "step_length": length}
    scores = [StepScore(type_match=True, correct=value) for value in correct]
    return [ScoredStep("", episode, "click", raw, score) for score in scores]


def test_sums_of_the_random_split_are_means_over_categories():
    rows = [
        *scored("1", "A", 2, True, True),
        *scored("2", "A", 1, False),
        *scored("3", "A", 5, True),  # has missing steps: not counted in SR
        *scored("4", "B", 1, True),
    ]
    random = official_sums(rows, "random")
    assert random["AMS"] == pytest.approx((3 / 4 + 1) / 2)
    assert random["SR"] == pytest.approx((1 / 2 + 1) / 2)
    app = official_sums(rows, "app")
    assert (app["AMS"], app["SR"]) == (4 / 5, 2 / 3)
