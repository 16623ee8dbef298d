"""Multimodal-Mind2Web: rows written by hand, and the official rule with its sums."""

import importlib.util

import pytest
from benchmark_data import load, web_root, web_row

from benchmarks.common import ScoredStep, Step, StepScore
from benchmarks.mind2web import official, sums
from envs import Action
from extras.made_up_android import png


def test_mind2web_by_hand(tmp_path):
    # one string with line breaks: a known hazard
    texts = [
        "[textbox] From -> TYPE: Oslo\n[button] Search -> CLICK\n[select] Seat -> SELECT: aisle"
    ]
    rects = ("0,0,10,10", "120.5,310,280,44")
    page = png(1000, 500)
    rows = [
        web_row("t", 2, "SELECT", "aisle", texts=texts, page=page),
        web_row("t", 0, "TYPE", "Oslo", rects=rects, original=rects[1], texts=texts, page=page),
        web_row("t", 1, "CLICK", texts=texts, page=None),
    ]
    (episode,), report = load("mind2web", web_root(tmp_path, rows), "test_task")
    first, last = episode.steps
    assert (first.action.kind, first.action.text) == ("type", "Oslo")
    assert episode.raw["n_steps"] == 3
    centre_of_the_original_target = ((120.5 + 140) / 1000, (310 + 22) / 500)
    assert first.action.point == pytest.approx(centre_of_the_original_target)
    assert first.boxes[0] == pytest.approx((0.1205, 0.62, 0.4005, 0.708))
    assert len(first.boxes) == 2
    assert (last.action.kind, last.action.text, last.raw["index"]) == ("select", "aisle", 2)
    assert report.notes == {"no row or no screenshot": 1} and not report.bad


def test_a_task_may_begin_in_one_file_and_end_in_the_next(tmp_path):
    """As tasks of the release do."""
    rows = [web_row("t", index, "CLICK") for index in range(3)]
    web_root(tmp_path / "begin", rows[:2])
    web_root(tmp_path / "end", rows[2:])
    for number, part in enumerate(("begin", "end")):
        (file,) = (tmp_path / part / "data").iterdir()
        file.rename(tmp_path / f"test_task-0000{number}-of-00002.parquet")
    (episode,), _ = load("mind2web", tmp_path, "test_task")
    assert [step.raw["index"] for step in episode.steps] == [0, 1, 2]


@pytest.mark.parametrize(
    "column, value, said",
    [
        ("screenshot", "text", "screenshot: not bytes"),
        ("pos_candidates", 7, "pos_candidates: not a list"),
        ("operation", 7, "operation: not JSON"),
    ],
)
def test_a_column_of_another_type_is_named(tmp_path, column, value, said):
    """Parquet can hold any type in any column."""
    row = web_row("t", 0, "CLICK", texts=["a"]) | {column: value}
    with pytest.raises(ValueError, match=f"1 of 1 steps are bad .*: t: step 0: {said}"):
        load("mind2web", web_root(tmp_path, [row]), "test_task")


def test_one_line_for_the_user(tmp_path):
    said = r"no test_task-\*.parquet"
    if not importlib.util.find_spec("pyarrow"):
        said = "mind2web needs pyarrow: pip install pyarrow"
    with pytest.raises(ValueError, match=said) as error:
        load("mind2web", tmp_path, "test_task")
    assert "\n" not in str(error.value)


# ---- The rule ----------------------------------------------------------------------------------

LOWER_RIGHT_CORNER = (0.15, 0.44)  # 150, 220 of the box below


def gold(op, value="", boxes=((100, 200, 50, 20),)) -> Step:
    raw = {"index": 0, "op": op, "value": value, "size": (1000, 500), "rects": list(boxes)}
    return Step(lambda: None, Action("click"), (), raw)


def test_the_point_is_in_a_positive_box_and_the_operation_is_right():
    click = Action("click", "x", LOWER_RIGHT_CORNER)
    right = StepScore(type_match=True, correct=True, element=True, op_f1=1.0)
    assert official(click, gold("CLICK")) == right
    assert official(click, gold("CLICK", boxes=())).correct is False
    assert official(None, gold("CLICK")).op_f1 == 0


def test_op_f1_is_of_operation_and_value():
    at = LOWER_RIGHT_CORNER
    step = gold("TYPE", "Oslo")
    assert official(Action("type", "oslo !", at), step).op_f1 == 1  # case, lone punctuation
    assert official(Action("click", "", at), step).op_f1 == 0
    assert official(Action("type", "rome", at), step).op_f1 == 0.5


def test_strict_drops_a_piece_of_the_punctuation_too():
    answer = Action("type", "oslo ()")
    step = gold("TYPE", "Oslo")
    assert official(answer, step).op_f1 == pytest.approx(0.8)
    assert official(answer, step, strict=True).op_f1 == 1


def test_missing_steps_of_a_task_count_as_zero():
    right = StepScore(type_match=True, correct=True, element=True, op_f1=1.0)
    rows = [
        ScoredStep("a/0", "a", "click", {"n_steps": 1}, right),
        ScoredStep("b/0", "b", "click", {"n_steps": 4}, right),
    ]
    result = sums(rows, "test_task")
    assert result["step_sr"] == pytest.approx((1 + 1 / 4) / 2)
    assert result["step_sr_micro"] == 2 / 5
