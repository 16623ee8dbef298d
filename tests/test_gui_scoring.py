"""The exam on recorded screens: files of predictions, agents, and a benchmark of one's own."""

import own_benchmark
import pytest
from benchmark_data import odyssey_root, odyssey_step, write_lines

from benchmarks.catalog import BENCHMARKS
from benchmarks.gui_scoring import score_bench
from benchmarks.training import Source, recorded_examples
from envs import Action
from extras.made_up_android import PNG, android_record, write_android_control


@pytest.fixture
def android(tmp_path):
    """Episode 7 with eight steps, which is in two sub-splits, and episode 9 with one."""
    records = [android_record(7), android_record(9, [{"action_type": "wait"}])]
    return write_android_control(tmp_path, records, test=[7, 9])


@pytest.fixture
def predictions(tmp_path):
    return write_lines(
        tmp_path / "p.jsonl",
        {"id": "7/1", "action": {"kind": "click", "point": [0.5, 0.5]}},
        "{oops",
        {"id": "7/0", "action": {"kind": "fly"}},
        {"id": "7/3", "action": {"kind": "scroll", "text": "down"}},
        {"id": "7/4", "action": {"kind": "long_press", "point": [2, 2]}},
        {"id": "99/0", "action": {"kind": "wait"}},
    )


def test_scoring_a_file(android, predictions):
    result, rows = score_bench("androidcontrol", android, "test", predictions=predictions)
    assert (result["n"], result["step_acc"], result["grounding_acc"]) == (9, 2 / 9, 1.0)
    assert result["missing_predictions"] == 5
    assert result["unknown_predictions_first"] == ["99/0"]
    assert result["bad_predictions"] == 3
    assert "p.jsonl:2: line: not JSON" in result["why_bad"][0]
    assert result["why_bad"][1].split(": ", 1)[1] == "unknown action kind 'fly'"
    assert rows[1] == {"id": "7/1", "type_match": True, "correct": True}
    assert rows[8]["id"] == "9/0"
    # episode 7 is in both lists and counts in the first
    assert result["subsplits"] == {"IDD": 2 / 8, "app_unseen": 0.0}


def test_a_file_may_hold_drags(android, tmp_path):
    """No rule of the benchmarks knows a drag: it is an answer of another kind."""
    drag = {"kind": "drag", "text": "Box to Bin", "point": [0.5, 0.5], "end": [0.9, 0.9]}
    file = write_lines(
        tmp_path / "d.jsonl",
        {"id": "7/1", "action": drag},
        {"id": "7/2", "action": drag | {"kind": "click"}},
    )
    result, rows = score_bench("androidcontrol", android, "test", predictions=file)
    assert result["why_bad"] == [f"{file}:2: click has no end: only a drag has one"]
    assert rows[1] == {"id": "7/1", "type_match": False, "correct": False}


def test_a_list_of_steps_beside_the_data_is_found(android, predictions):
    write_lines(android / "ac_idx.txt", "episode_7_screenshot_1", "episode_7_screenshot_2")
    result, _ = score_bench("androidcontrol", android, "test", predictions=predictions)
    assert (result["n"], result["step_acc"]) == (2, 0.5)
    assert result["steps"] == "2 of the 2 in ac_idx.txt"


def test_an_agent_sees_history_and_looks_ahead(tmp_path):
    steps = [
        odyssey_step("COMPLETE", "", low_level_instruction=f"do {number}") for number in range(4)
    ]
    root = odyssey_root(tmp_path, {"1": steps})
    seen = []

    def predict(observation, horizon):
        seen.append(observation.history)
        return [Action("done"), Action("wait")][:horizon]

    result, _ = score_bench("gui-odyssey", root, "random", predict=predict, horizon=3, history=2)
    assert seen == [(), ("do 0",), ("do 0", "do 1"), ("do 1", "do 2")]
    assert (result["AMS"], result["SR"]) == (1, 1)
    ahead = [(look["k"], look["n"], look["step_acc"]) for look in result["lookahead"]]
    assert ahead == [(1, 4, 1.0), (2, 3, 0.0), (3, 2, 0.0)]


@pytest.mark.parametrize(
    "name, protocol, said",
    [
        ("androidcontrol", "fancy", "androidcontrol has no protocol 'fancy': os-atlas, box"),
        ("agentnet", None, "agentnet has no protocol: it is not scored step by step"),
        ("other", None, "unknown data set 'other'"),
    ],
)
def test_one_line_for_the_user(tmp_path, name, protocol, said):
    with pytest.raises(ValueError, match=said):
        score_bench(name, tmp_path, "test", protocol=protocol)


# ---- The README's example ----------------------------------------------------------------------


def test_a_benchmark_of_ones_own_is_one_file_and_one_line(tmp_path, monkeypatch):
    """It is scored and trained on like the others."""
    monkeypatch.setitem(BENCHMARKS, "tea", own_benchmark.BENCHMARK)
    (tmp_path / "a.png").write_bytes(PNG)
    tea = {"kind": "click", "text": "Tea", "point": [0.5, 0.2]}
    steps = [
        {"screenshot": "a.png", "action": tea},
        {"screenshot": "a.png", "action": {"kind": "done"}},
        {"screenshot": "../a.png", "action": {"kind": "done"}},
    ]
    episodes = [
        {"id": str(number), "goal": "Order tea", "steps": steps[:2]} for number in range(30)
    ]
    episodes.append({"id": "30", "goal": "Order tea", "steps": steps})
    write_lines(tmp_path / "test.jsonl", *episodes)
    write_lines(tmp_path / "train.jsonl", *episodes)
    file = write_lines(tmp_path / "p.jsonl", {"id": "0/0", "action": tea}, {"id": "0/1"})

    result, rows = score_bench("tea", tmp_path, "test", predictions=file)
    assert result["protocol"] == "tea/same-words" and (result["n"], result["skipped"]) == (62, 1)
    assert (result["type_acc"], result["step_acc"]) == (1 / 62, 1 / 62)
    assert rows[0] == {"id": "0/0", "type_match": True, "correct": True}
    assert result["why"][0].startswith("test.jsonl: line 31: step 2: path '../a.png' leaves")

    stream = recorded_examples(
        [Source("tea", str(tmp_path), 1.0)],
        seed=0,
        stage="stage1",
        horizon=2,
        history=4,
        prompts_per_update=3,
        first=0,
    )
    for example in next(stream):
        assert example.reference[-1] == Action("done")
