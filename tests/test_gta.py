"""GTA: its records, and the official rules and T3-Agent's."""

import json

import pytest

from benchmarks.catalog import load_recorded
from benchmarks.common import BadRecord, Report, observe
from benchmarks.gta import gta_objective, score_end_to_end, score_step_by_step, score_t3
from benchmarks.toolbox import Call, Row, Run


def gta_root(tmp_path, bad: bool = False):
    """Four questions: two objective, one subjective, one picture; `bad`: five bad ones more."""
    data = {
        "0": question(
            {"whitelist": [["7.75"]], "blacklist": None},
            turn("OCR", image="image/image_1.jpg"),
            {"role": "tool", "name": "OCR", "content": "x"},
            turn("Calculator", expression="3.50+4.25"),
            END,
        ),
        "1": question(
            {"whitelist": [["cat"]], "blacklist": [["dog"]]},
            turn("CountGivenObject", image="a", text="cat"),
            END,
        ),
        "2": question(["a fine day"], turn("ImageDescription", image="a"), END),
        "3": question(None, turn("DrawBox", image="a", bbox="1"), END),
    }
    faults = {
        "4": {"tools": []},
        "5": question(3, END),
        "6": question(None),
        "7": 5,
        "8": question({"whitelist": [3]}, END),
    }
    if bad:
        data |= faults
    (tmp_path / "dataset.json").write_text(json.dumps(data))
    return tmp_path


END = {"role": "assistant", "content": "done"}


def question(gold, *turns) -> dict:
    return {
        "tools": [{"name": "OCR"}],
        "files": [{"type": "image", "path": "image/image_1.jpg"}],
        "gt_answer": gold,
        "dialogs": [{"role": "user", "content": "How much?"}, *turns],
    }


def turn(name: str, **arguments) -> dict:
    call = {"type": "function", "function": {"name": name, "arguments": arguments}}
    return {"role": "assistant", "tool_calls": [call]}


# ---- records ----------------------------------------------------------------------------------


def test_records(tmp_path):
    episodes = list(load_recorded("gta", gta_root(tmp_path), "test", Report()))
    assert [episode.id for episode in episodes] == ["0", "1", "2", "3"]
    first = episodes[0]
    assert first.instruction == "How much?"
    assert [step.action.kind for step in first.steps] == ["call", "call", "answer"]
    assert first.steps[1].action.text == 'Calculator {"expression": "3.50+4.25"}'
    seen = observe(first, first.steps[1], history=4)
    assert seen.history == ('call OCR {"image": "image/image_1.jpg"} = x',)
    with pytest.raises(BadRecord, match="record 0"):  # there is no such picture
        first.steps[0].screenshot()


def test_bad_records_are_named(tmp_path):
    report = Report()
    with pytest.raises(ValueError, match="5 of 9 episodes are bad"):
        list(load_recorded("gta", gta_root(tmp_path, bad=True), "test", report))
    assert "record 4: files" in report.messages[0].text
    assert "gt_answer" in report.messages[1].text
    assert "gt_answer" in report.messages[4].text


@pytest.mark.parametrize("split", ["test", "train"])
def test_no_data_is_one_line(tmp_path, split):
    with pytest.raises(ValueError) as problem:
        load_recorded("gta", tmp_path, split, Report())
    assert "\n" not in str(problem.value)


def test_a_list_is_no_data(tmp_path):
    (tmp_path / "dataset.json").write_text("[1]")
    with pytest.raises(ValueError, match="dict of records"):
        load_recorded("gta", tmp_path, "test", Report())


# ---- the rule for an answer -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("answer", "whitelist", "blacklist", "right"),
    [
        ("It is 7.75.", [["7.75"]], None, True),
        ("7175", [["7.75"]], None, False),
        ("77.75", [["7.75"]], None, False),
        ("7.755", [["7.75"]], None, False),
        ("Red and BLUE", [["red", "crimson"], ["blue"]], None, True),
        ("red", [["red"], ["blue"]], None, False),
        ("redder", [["red"]], None, False),
        ("red, not green", [["red"]], [["green", "grey"]], False),
        ("red", [["red"]], [["green"], ["grey"]], True),
        ("red", [["red"]], [], True),
        ("50%", [["50%"]], None, False),
        ("50%a", [["50%"]], None, True),
        ("a+b", [["a+b"]], None, True),
        ("aab", [["a+b"]], None, False),
        ("C++ rocks", [["C++"]], None, False),
        ("", [["x"]], None, False),
        (None, [["none"]], None, False),
        ("x", [], None, True),
        ("$5", [["$5"]], None, False),
        ("red", [["red"]], [[]], False),
        ("new\nyork", [["new york"]], None, False),
        ("a_b", [["a"]], None, False),
        ("ÉTÉ", [["été"]], None, True),
    ],
)
def test_gta_objective(answer, whitelist, blacklist, right):
    assert gta_objective(answer, {"whitelist": whitelist, "blacklist": blacklist}) is right


# ---- the rates --------------------------------------------------------------------------------

RUNS = {
    "0": Run(
        "It is 7.75",
        [Call("OCR", {"image": "image/image_1.jpg"}), Call("Calculator", {"expression": "8"})],
        code_ok=True,
    ),
    "1": Run(
        "a cat and a dog",
        [Call("visualizer", {"question": "?"}), Call("OCR", {"image": "a"})],
        code_ok=False,
    ),
    "2": Run("a day", [None]),
    "3": Run("here", [Call("DrawBox", {"image": "a", "bbox": "1"}, error="x")], code_ok=True),
}


@pytest.fixture
def episodes(tmp_path):
    return list(load_recorded("gta", gta_root(tmp_path), "test", Report()))


def test_step_by_step(episodes):
    found = score_step_by_step(episodes, RUNS)
    # Turns: five calls; references: three. Kinds agree at OCR, Calculator, visualizer and at the
    # four answers, not at null and the error.
    assert found["inst_acc"] == pytest.approx(100 * 7 / 8)
    assert found["tool_acc"] == 60
    assert found["arg_acc"] == 40
    assert found["summ_acc_objective"] == 50


def test_answers_end_to_end(episodes):
    found, rows = score_end_to_end(episodes, RUNS)
    assert rows == [Row("0", True), Row("1", False), Row("2", None), Row("3", None)]
    assert found["ans_acc_objective"] == 50
    assert [found[f"n_{kind}"] for kind in ("objective", "subjective", "image")] == [2, 1, 1]
    nothing_said, _ = score_end_to_end(episodes, {})
    assert nothing_said["ans_acc_objective"] == 0


def test_tool_choice_end_to_end(episodes):
    found, _ = score_end_to_end(episodes, RUNS)
    # Perception: gold OCR, ImageDescription; called OCR twice (visualizer has no category):
    # precision 1/2, recall 1/2.
    assert found["f1_perception"] == pytest.approx(50, abs=0.01)
    assert found["f1_logic"] == pytest.approx(200 / 3, abs=0.01)
    assert found["f1_operation"] == pytest.approx(100, abs=0.01)
    assert found["f1_creativity"] is None


def test_t3_agents_variant(episodes):
    # Substrings, no blacklist: both objective ones. Tools: all of 0, none of 1 (nor is visualizer
    # CountGivenObject), none of 2, all of 3.
    assert score_t3(episodes, RUNS) == {
        "ans_acc": 100,
        "ans_acc_over_all": 50,
        "n": 2,
        "tool_acc": 50,
        "tool_acc_strict": 50,
        "code_exec": pytest.approx(200 / 3),
        "n_code": 3,
    }
