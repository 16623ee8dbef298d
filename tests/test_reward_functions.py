"""extras/reward_functions.py: rows of plain values, judged by each engine's function as train.py
judges the examples they were made of."""

import base64
import doctest
import importlib.util
import json
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from helpers import a_label_to_read

from agent import format_forecast, parse_forecast
from envs import Action, Example, Observation, ToyGUI, demonstration
from extras import reward_functions
from extras.ocr import INSTALL, Reader
from extras.reward_functions import (
    easyr1_stage1,
    easyr1_stage2,
    example_of,
    first_step_rewards,
    forecast_terms,
    png,
    to_columns,
    trl_stage1,
    trl_stage2,
    verl_stage1,
    verl_stage2,
)
from extras.toy_tools import ToyTools
from rewards import trajectory_reward
from train import first_step_reward

HORIZON = 3
SAVE = Action("click", "Save", (0.5, 0.25))
RECORDED = Example(
    Observation("Save it", lambda: None),
    reference=(SAVE, Action("click", "", (0.1, 0.9)), Action("type", "click here (3, 4)")),
    boxes=((0.4, 0.2, 0.6, 0.3),),
    elements=(("Save", (0.4, 0.2, 0.6, 0.3)),),
    key="episode/7",
)
ANSWERS = [
    "click Save\nclick Exit\ndone",
    "click Save (500, 250)\nfly",
    "click Exit",
    "click Save\nclick (100, 900)\ntype click here (3, 4)",
    "",
]


def toy_examples(split: str = "test", tasks: int = 3) -> list[Example]:
    examples = []
    for task in range(tasks):
        examples += demonstration(ToyGUI, split, task, HORIZON, 0.2, 4)
    return examples


def tool_rows() -> list[tuple[Example, dict]]:
    """Examples of the tool world with their rows, each of another moment of a demonstration."""
    pairs = []
    for split in ("train", "flaky"):
        for step, example in enumerate(demonstration(ToyTools, split, 5, HORIZON, 0.2, 4)):
            moment = {"env": "toy-tools", "split": split, "task": 5, "noise": 0.2, "step": step}
            pairs.append((example, to_columns(example, step, HORIZON, moment)))
    return pairs


def as_trl(rows: list[dict]) -> dict:
    """The rows as TRL hands them on: a list for each column, and its own state."""
    columns = {name: [row[name] for row in rows] for name in rows[0]}
    return columns | {"trainer_state": object(), "completion_ids": [[1]] * len(rows)}


def as_easyr1(answers: list[str], rows: list[dict]) -> list[dict]:
    inputs = []
    for answer, row in zip(answers, rows, strict=True):
        inputs.append({"response": answer, "response_length": 9, "ground_truth": json.dumps(row)})
    return inputs


def by_verl(judge, answers: list[str], rows: list[dict], **weights) -> list[float]:
    """One call an answer, as verl's reward manager makes it."""
    scores = []
    for answer, row in zip(answers, rows, strict=True):
        record = judge(
            data_source="toy-gui",
            solution_str=answer,
            ground_truth="",
            extra_info=row | {"num_turns": None, "rollout_reward_scores": {}},
            **weights,
        )
        scores.append(record["score"])
    return scores


def test_the_examples_in_the_docstrings_are_true():
    result = doctest.testmod(reward_functions)
    assert result.attempted > 0
    assert result.failed == 0


# ---- rows ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("example", [RECORDED, *toy_examples(tasks=1)])
def test_a_row_holds_all_that_rewards_look_at(example):
    row = to_columns(example, 0, HORIZON)
    assert json.loads(json.dumps(row)) == row  # nothing but plain values
    read_back = example_of(row)
    for name in ("reference", "boxes", "elements", "key", "goals"):
        assert getattr(read_back, name) == getattr(example, name)


def test_rows_that_the_export_did_not_write_are_named():
    with pytest.raises(ValueError, match="not written by extras/export.py"):
        trl_stage1(["done"], reference=["done"])


# ---- stage 1 ------------------------------------------------------------------------------------


@pytest.mark.parametrize("weights", [{}, {"gamma": 0.5, "lambda_align": 2.0, "lambda_rep": 0.25}])
@pytest.mark.parametrize("example", [RECORDED, toy_examples()[0]])
def test_stage_1_is_the_same_reward_in_each_engine(example, weights):
    expected = []
    for answer in ANSWERS:
        forecast, error = parse_forecast(answer, HORIZON)
        readable = error is None
        earned = trajectory_reward(
            forecast, example.reference, HORIZON, readable=readable, **weights
        )
        expected.append(earned.terms["reward"])
    rows = [to_columns(example, 0, HORIZON)] * len(ANSWERS)
    assert trl_stage1(ANSWERS, **weights, **as_trl(rows)) == expected
    chats = [[{"role": "assistant", "content": answer}] for answer in ANSWERS]
    assert trl_stage1(chats, **weights, **as_trl(rows)) == expected
    assert by_verl(verl_stage1, ANSWERS, rows, **weights) == expected
    scores = easyr1_stage1(as_easyr1(ANSWERS, rows), **weights)
    assert [score["overall"] for score in scores] == expected
    assert scores[0].keys() == {"overall", "align", "repeat", "overrun", "reward"}


def test_the_reference_itself_earns_what_it_earns_in_training():
    """Also where a text alone does not say it: a click without a name, a text that ends in ()."""
    for example in toy_examples():
        terms = forecast_terms(format_forecast(example.reference), to_columns(example, 0, HORIZON))
        own = trajectory_reward(example.reference, example.reference, HORIZON)
        assert terms == own.terms
    pointed = "click Save\nclick (100, 900)\ntype click here (3, 4)"
    own = trajectory_reward(RECORDED.reference, RECORDED.reference, HORIZON)
    assert forecast_terms(pointed, to_columns(RECORDED, 0, HORIZON)) == own.terms


def test_a_thought_before_the_answer_is_not_judged():
    row = to_columns(RECORDED, 0, HORIZON)
    thought = "I see a button.\n</think>\n\nclick Save"
    assert forecast_terms(thought, row) == forecast_terms("click Save", row)
    with_both_marks = f"<think>\n{thought}"
    assert forecast_terms(with_both_marks, row) == forecast_terms("click Save", row)
    assert first_step_rewards([thought, with_both_marks], [row, row]) == [1.0, 1.0]


@pytest.mark.parametrize(
    "answer",
    [
        "<think>\nclick Save",
        "<think>click Save",
        "click Save\n<think>\nI see a button.",
        "click Save <think>",
        "<think>\nI see it.\n</think>\nclick Save\n<think>",
    ],
)
def test_a_thought_that_never_ends_costs_what_an_unreadable_answer_costs(answer):
    row = to_columns(RECORDED, 0, HORIZON)
    unreadable = forecast_terms("", row)
    assert unreadable["reward"] < 0.0
    rows = [row]
    stage1 = (
        trl_stage1([answer], **as_trl(rows)),
        by_verl(verl_stage1, [answer], rows),
        [easyr1_stage1(as_easyr1([answer], rows))[0]["overall"]],
    )
    assert stage1 == ([unreadable["reward"]],) * 3
    stage2 = (
        trl_stage2([answer], **as_trl(rows)),
        by_verl(verl_stage2, [answer], rows),
        [easyr1_stage2(as_easyr1([answer], rows))[0]["overall"]],
    )
    assert stage2 == ([0.0],) * 3


# ---- stage 2 ------------------------------------------------------------------------------------


def in_training(answer: str, example: Example) -> float:
    forecast, _ = parse_forecast(answer, HORIZON)
    executed = example.execute(forecast[0]) if forecast else None
    return first_step_reward(executed, example)


def test_the_toys_tool_agent_answers_as_in_training():
    answers = []
    rows = []
    expected = []
    for index, example in enumerate(toy_examples()):
        reference = format_forecast(example.reference)
        for answer in (reference, "click Save", "click Audio\ndone", "fly", ""):
            answers.append(answer)
            rows.append(to_columns(example, index, HORIZON))
            expected.append(in_training(answer, example))
    assert {0.0, 1.0} == set(expected)
    assert first_step_rewards(answers, rows) == expected
    assert trl_stage2(answers, **as_trl(rows)) == expected
    assert by_verl(verl_stage2, answers, rows) == expected
    scores = easyr1_stage2(as_easyr1(answers, rows))
    assert [score["overall"] for score in scores] == expected


def test_each_word_on_the_screen_is_found_where_the_example_finds_it():
    for example in toy_examples():
        read_back = example_of(to_columns(example, 0, HORIZON))
        for label, _ in example.elements:
            action = Action("click", label)
            assert read_back.execute(action) == example.execute(action)


def test_the_tools_of_the_tool_world_answer_as_at_that_moment():
    calls = ["read apple", "count circle", "lookup rice", "sum 3 4", "add 3 4", "fly"]
    answers = set()
    for example, row in tool_rows():
        read_back = example_of(row)
        right_calls = [goal.text.partition(" = ")[0] for goal in example.goals]  # "sum 3 4 = 7"
        for text in [*calls, *right_calls]:
            action = Action("call", text)
            answers.add(read_back.execute(action))
            assert read_back.execute(action) == example.execute(action)
        answer = f"call {right_calls[0]}"
        assert first_step_rewards([answer], [row]) == [in_training(answer, example)]
    assert len(answers) > len(calls)


def test_a_vlm_is_shown_the_screenshot_of_the_row(monkeypatch):
    """Its answers come in batches, and rows that come again open the same picture."""
    example = toy_examples()[0]
    picture = example.observation.screenshot()
    seen = []

    def find_tool_agent(name):
        def execute(actions, examples):
            seen.append((name, [example.observation.screenshot for example in examples]))
            return [SAVE] * len(actions)

        return execute

    monkeypatch.setattr(reward_functions, "find_tool_agent", find_tool_agent)
    row = to_columns(RECORDED, 4, HORIZON, tool_agent="some/model")
    columns = as_trl([row | {"image": picture}] * 3)
    assert trl_stage2(["click Save", "click Exit", "fly"], **columns) == [1.0, 1.0, 0.0]
    file = png(picture)
    assert verl_stage2("", "click Save", "", row | {"screenshot": file})["score"] == 1.0
    text = base64.b64encode(file).decode()
    [score] = easyr1_stage2(as_easyr1(["click Save"], [row | {"screenshot": text}]))
    assert score["overall"] == 1.0
    (name, (first, second)), (_, (of_verl,)), (_, (of_easyr1,)) = seen
    assert name == "some/model"
    assert first is second
    for opened in (first, of_verl, of_easyr1):
        assert opened().tobytes() == picture.tobytes()


def test_a_vlm_is_loaded_by_name_and_asked(tiny):
    """An untrained one: what it answers is no point, so nothing is paid."""
    example = toy_examples()[0]
    row = to_columns(example, 0, HORIZON, tool_agent=str(tiny))
    row["screenshot"] = example.observation.screenshot()
    answer = format_forecast(example.reference)
    assert first_step_rewards([answer, answer], [row, row]) == [0.0, 0.0]
    assert first_step_rewards([answer], [row | {"tool_agent": ""}]) == [
        in_training(answer, example)
    ]


class Server(BaseHTTPRequestHandler):
    """Points at the middle of the screen for Save, and at nothing for all else."""

    asked = []

    def do_POST(self):
        length = int(self.headers["Content-Length"])
        question = json.loads(self.rfile.read(length))
        Server.asked.append((self.path, question))
        text = question["messages"][0]["content"][1]["text"]
        said = '{"point_2d": [500, 250]}' if "click Save" in text else "I see no such thing"
        self.send_response(200)
        self.end_headers()
        reply = {"choices": [{"message": {"role": "assistant", "content": said}}]}
        self.wfile.write(json.dumps(reply).encode())

    def log_message(self, *_):
        """Not into the tests' output."""


def test_a_vlm_can_stand_behind_a_server():
    picture = toy_examples()[0].observation.screenshot()
    with ThreadingHTTPServer(("127.0.0.1", 0), Server) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_port}/v1#Qwen/Qwen3-VL-2B-Instruct"
        row = to_columns(RECORDED, 0, HORIZON, tool_agent=address)
        row["screenshot"] = picture
        answers = ["click Save", "click Exit", "type Save"]
        assert first_step_rewards(answers, [row] * 3) == [1.0, 0.0, 0.0]
        server.shutdown()
    assert len(Server.asked) == 2  # typing needs no point
    path, question = Server.asked[0]
    assert path == "/v1/chat/completions"
    assert question["model"] == "Qwen/Qwen3-VL-2B-Instruct"
    assert question["temperature"] == 0
    url = question["messages"][0]["content"][0]["image_url"]["url"]
    file = base64.b64decode(url.removeprefix("data:image/png;base64,"))
    assert file == png(picture)


def test_of_a_drag_a_server_is_asked_for_both_ends(monkeypatch):
    places = {"drag Box": "(100, 200)", "click Bin": "(900, 800)"}

    def ask_server(url, model, question, picture):
        for words, place in places.items():
            if words in question:
                return place
        return "nowhere"

    monkeypatch.setattr(reward_functions, "ask_server", ask_server)
    find_points = reward_functions.find_tool_agent("http://host/v1#some/model")
    texts = ("Box to Bin", "Box to Nowhere", "Nothing to Bin")
    drags = [Action("drag", text) for text in texts]
    both, no_goal, nothing = find_points(drags, [toy_examples()[0]] * 3)
    assert both == Action("drag", "Box to Bin", (0.1, 0.2), (0.9, 0.8))
    assert no_goal == Action("drag", "Box to Nowhere", (0.1, 0.2))
    assert nothing is None


def test_the_reader_goes_by_its_name_as_in_training():
    """It reads the picture of the row, in whatever form an engine hands it on."""
    example, label = a_label_to_read()
    picture = example.observation.screenshot()
    row = to_columns(example, 0, HORIZON, tool_agent="ocr")
    answers = [f"click {label}", f"click the {label.upper()} button", "click Nowhere"]
    for screenshot in (picture, png(picture), base64.b64encode(png(picture)).decode()):
        seen = row | {"screenshot": screenshot}
        assert first_step_rewards(answers, [seen] * 3) == [1.0, 1.0, 0.0]


def test_a_reader_that_is_not_installed_is_one_line(monkeypatch, dies):
    monkeypatch.setattr("extras.vlm_tool_agent.load_reader", Reader)
    monkeypatch.setitem(sys.modules, "rapidocr", None)
    row = to_columns(RECORDED, 0, HORIZON, tool_agent="ocr") | {"screenshot": None}
    assert INSTALL in dies(first_step_rewards, ["click Save"], [row])


def test_a_server_that_is_gone_is_no_refusal():
    row = to_columns(RECORDED, 0, HORIZON, tool_agent="http://127.0.0.1:9/v1#some/model")
    row["screenshot"] = toy_examples()[0].observation.screenshot()
    with pytest.raises(OSError):
        first_step_rewards(["click Save"], [row])


# ---- as engines load it -------------------------------------------------------------------------


def test_the_file_can_be_loaded_by_its_path():
    """verl and EasyR1 do so; the folder above it must be on the path, by PYTHONPATH."""
    path = Path(reward_functions.__file__)
    spec = importlib.util.spec_from_file_location("custom_reward_fn", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert module.REWARD_TYPE == "batch"  # else EasyR1 would hand over one answer at a time
    row = to_columns(RECORDED, 0, HORIZON)
    assert by_verl(module.verl_stage1, ["click Exit"], [row]) == [0.0]
