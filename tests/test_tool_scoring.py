"""GTA and GAIA as an exam: of files of runs, of agents with the toolbox, from the command line."""

import json

import pytest
from PIL import Image
from test_gaia import gaia_root
from test_gta import gta_root

from agent import Plan
from benchmarks.catalog import load_recorded
from benchmarks.common import Report, read_predictions
from benchmarks.tool_scoring import ToolTask, parse_run, score_tools
from benchmarks.toolbox import Run
from benchmarks.training import Source, recorded_examples
from envs import Action
from eval import main

# ---- files of runs ----------------------------------------------------------------------------


def write_lines(file, lines: list[str]):
    file.write_text("\n".join(lines) + "\n")
    return file


def test_runs_are_read_and_faults_are_named(tmp_path):
    """A line with an id and a fault counts as a run that said nothing."""
    lines = [
        '{"id": "a", "answer": "x\\u2028y", "tool_calls": [{"name": "OCR", "arguments": {}}, null],'
        ' "code_ok": true}',
        '{"id": 7, "answer": 7}',
        '{"id": "c"}',
        "{",
        "[]",
        '{"id": "d", "tool_calls": "x"}',
        '{"id": "e", "code_ok": 1}',
        '{"id": "a"}',
        '{"id": "f", "tool_calls": [{"name": 1}]}',
        '{"id": null}',
    ]
    runs, faults = read_predictions(write_lines(tmp_path / "p.jsonl", lines), parse_run)
    assert runs["a"].tool_calls[0].name == "OCR" and runs["a"].code_ok
    assert runs["7"].answer == "7"
    assert runs["c"] == Run()
    assert runs["d"] is runs["e"] is runs["f"] is None
    expected = [
        ":4: line: not JSON",
        ":5: id",
        ":6: tool_calls",
        ":7: code_ok",
        ":8: id: a is there twice",
        ":9: tool_calls",
        ":10: id",
    ]
    for text, fault in zip(expected, faults, strict=True):
        assert text in fault


def test_a_file_of_gaia_runs_is_scored(tmp_path):
    lines = [
        '{"id": "t0", "answer": "7.0"}',
        '{"id": "t1", "answer": "a,c"}',
        '{"id": "zz", "answer": "x"}',
    ]
    root = gaia_root(tmp_path)
    file = write_lines(tmp_path / "said.jsonl", lines)
    found, rows = score_tools("gaia", root, "validation", predictions=file)
    assert rows == [
        {"id": "t0", "correct": True},
        {"id": "t1", "correct": False},
        {"id": "t2", "correct": False},
        {"id": "t3", "correct": None},
    ]
    assert found["ans_acc"] == pytest.approx(100 / 3)
    assert found["missing_predictions"] == 2
    assert found["unknown_predictions"] == 1


def test_a_file_of_gta_runs_is_scored_in_three_ways(tmp_path):
    called = {"name": "Calculator", "arguments": {"expression": "3.50+4.25"}}
    looked = {"name": "OCR", "arguments": {"image": "image/image_1.jpg"}}
    lines = [json.dumps({"id": "0", "answer": "7.75", "tool_calls": [looked, called]})]
    root = gta_root(tmp_path)
    file = write_lines(tmp_path / "said.jsonl", lines)
    found, rows = score_tools("gta", root, "test", predictions=file)
    assert rows == [
        {"id": "0", "correct": True},
        {"id": "1", "correct": False},
        {"id": "2", "correct": None},
        {"id": "3", "correct": None},
    ]
    assert found["end_to_end"]["ans_acc_objective"] == 50
    assert found["step_by_step"]["arg_acc"] == 40  # two of five calls
    assert found["t3_agent"]["tool_acc"] == 25  # all of one question's tools, none of three's
    assert found["missing_predictions"] == 3


def test_no_data_is_one_line(tmp_path):
    file = write_lines(tmp_path / "said.jsonl", [])
    for name, split in [("gta", "test"), ("gaia", "test"), ("mmtraj", "train"), ("x", "")]:
        with pytest.raises(ValueError) as problem:
            score_tools(name, tmp_path, split, predictions=file)
        assert "\n" not in str(problem.value)


# ---- an agent that is run with the toolbox ----------------------------------------------------


@pytest.fixture
def root_with_picture(tmp_path):
    root = gta_root(tmp_path)
    (root / "image").mkdir()
    Image.new("RGB", (40, 40)).save(root / "image" / "image_1.jpg")
    return root


def test_the_prompt_names_files_and_tools(root_with_picture):
    asked = []

    def act(seen):
        asked.append(seen.instruction)
        return Action("answer", "7.75")

    score_tools("gta", root_with_picture, "test", planner=planner_of(act))
    for instruction in asked:
        question, files, tools = instruction.split("\n")
        assert question and files.startswith("files: image/image_1.jpg")
        assert tools.startswith("tools: ") and "OCR(image)" in tools


def planner_of(act):
    """A planner that forecasts one step, act(observation)."""

    def planner(observations, envs):
        return [Plan([act(observation)], tokens=1) for observation in observations]

    return planner


def test_an_agent_sees_its_own_tools_end_to_end_and_true_turns_step_by_step(root_with_picture):
    def act(seen):
        if not seen.history:
            return Action("call", 'OCR {"image": "image/image_1.jpg"}')
        if len(seen.history) == 1:
            return Action("call", 'Calculator {"expression": "3.50+4.25"}')
        return Action("answer", seen.history[-1])

    planner = planner_of(act)
    found, rows = score_tools("gta", root_with_picture, "test", planner=planner, history=4)
    assert rows[0]["correct"] is True  # the calculator's answer
    assert found["step_by_step"]["tool_acc"] == 40
    assert found["missing_predictions"] == 0


def test_the_toolbox_asks_the_model_that_looks_at_pictures(root_with_picture):
    def act(seen):
        if not seen.history:
            return Action("call", 'CountGivenObject {"image": "image/image_1.jpg", "text": "cup"}')
        return Action("answer", seen.history[-1])

    looked = []

    def vlm(picture, question):
        looked.append((picture.size, question))
        return "3 cups"

    score_tools("gta", root_with_picture, "test", planner=planner_of(act), vlm=vlm)
    assert set(looked) == {((40, 40), "How many cup are in the image? Answer with a number.")}


@pytest.fixture
def task(root_with_picture):
    episode = next(load_recorded("gta", root_with_picture, "test", Report()))
    task = ToolTask(episode, history=2)
    task.reset(0)
    return task


HOSTILE_CALLS = [
    "",
    "rm -rf",
    "OCR {",
    "Calculator [1]",
    'Calculator {"expression": "9**9**9"}',
    "Solver " + "x" * 400,
]


def test_hostile_calls_become_one_line_of_history(task):
    for text in HOSTILE_CALLS:
        action = Action("call", text)
        observation, *_ = task.step(task.ground(action), said=str(action))
        line = observation.history[-1]
        assert len(line) <= 500 and "= " in line and "\n" not in line
    assert len(task.run.tool_calls) == 6


def test_an_answer_ends_a_task_and_an_unreadable_forecast_does_not(task):
    _, _, terminated, truncated, info = task.step(None, said="unreadable")
    assert not terminated and not truncated
    assert info["result"] == "impossible"
    assert task.observe().history == ("unreadable = error: a tool call or an answer is expected",)
    _, _, terminated, *_ = task.step(Action("answer", "x"), said="answer x")
    assert terminated
    assert task.run.answer == "x"


def test_a_task_is_truncated_after_ten_steps(task):
    ends = [task.step(None, said="unreadable")[3] for _ in range(10)]
    assert ends == [False] * 9 + [True]


# ---- the command line -------------------------------------------------------------------------


@pytest.fixture
def flags(tmp_path):
    root = str(gaia_root(tmp_path))
    mine = str(tmp_path / "mine.jsonl")
    return ["--bench", "gaia", "--data", root, "--predictions", mine]


def test_from_the_command_line(tmp_path, flags):
    lines = ['{"id": "t0", "answer": 7}', '{"id": "t1", "answer": null}']
    write_lines(tmp_path / "mine.jsonl", lines)
    json_file, item_file = tmp_path / "found.json", tmp_path / "items.jsonl"
    main([*flags, "--json", str(json_file), "--per_item", str(item_file)])
    assert json.loads(json_file.read_text())["level_1"]["right"] == 1
    rows = [json.loads(line) for line in item_file.read_text().splitlines()]
    assert rows[0] == {"id": "t0", "correct": True}
    assert [row["correct"] for row in rows] == [True, False, False, None]


def test_faults_are_counted_on_the_command_line(tmp_path, flags):
    (tmp_path / "mine.jsonl").write_text("[]")
    main([*flags, "--json", str(tmp_path / "found.json")])
    found = json.loads((tmp_path / "found.json").read_text())
    assert found["bad_predictions"] == 1 and "mine.jsonl:1: id" in found["why_bad"][0]
    assert found["right"] == 0


def test_wrong_flags_end_with_one_line(tmp_path, flags, dies):
    (tmp_path / "mine.jsonl").write_text("")
    assert "splits validation and test" in dies(main, [*flags, "--split", "train"])
    no_data = ["--bench", "androidcontrol", "--predictions", "x"]
    assert "androidcontrol needs --data" in dies(main, no_data)
    no_run = ["--bench", "toy-tools", "--predictions", "x"]
    assert "toy-tools needs --run" in dies(main, no_run)


def test_an_exam_is_no_school(tmp_path):
    batches = recorded_examples(
        [Source("gta", str(gta_root(tmp_path)), 1.0)],
        seed=0,
        stage="stage1",
        horizon=5,
        history=4,
        prompts_per_update=16,
        first=0,
    )
    with pytest.raises(ValueError, match="gta has one split"):
        next(batches)
