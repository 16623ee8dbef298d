"""Recorded trajectories as training examples: windows, random order, a run from file to score."""

import itertools
import json
import math
import random
from dataclasses import replace

import pytest
from benchmark_data import (
    agentnet_root,
    agentnet_step,
    load,
    odyssey_root,
    odyssey_step,
    write_lines,
)

import train
from benchmarks.common import Step
from benchmarks.training import (
    Source,
    Stream,
    elements,
    mix,
    parse_data,
    recorded_examples,
    reference,
    stream_shuffled,
)
from envs import Action
from eval import main as examine
from extras.made_up_android import PNG, android_record, png, write_android_control

# ---- Random order ------------------------------------------------------------------------------


def test_shuffling_keeps_all_items_and_is_repeatable():
    def shuffled():
        return list(stream_shuffled(range(50), 8, random.Random(1)))

    assert sorted(shuffled()) == list(range(50))
    assert shuffled() == shuffled() != list(range(50))


def test_mixing_draws_by_weight_and_is_repeatable():
    streams = [Stream(3, lambda: "abc"), Stream(1, lambda: "XY")]

    def drawn():
        return "".join(itertools.islice(mix(streams, 5), 4000))

    text = drawn()
    assert text == drawn()
    assert 2850 < sum(letter.islower() for letter in text) < 3150
    lower = "".join(letter for letter in text if letter.islower())
    assert lower.startswith("abcabc")  # a stream that ends is opened again


def test_mixing_needs_items_and_positive_weights():
    with pytest.raises(ValueError, match="no items"):
        next(mix([Stream(1, list)], 0))
    with pytest.raises(ValueError, match="weights must be positive"):
        next(mix([Stream(0, lambda: "abc")], 0))


# ---- --data ------------------------------------------------------------------------------------


def test_data_names_sets_folders_and_weights(tmp_path):
    text = f"androidcontrol:{tmp_path},gui-odyssey:{tmp_path}*0.5"
    assert parse_data(text) == [
        Source("androidcontrol", str(tmp_path), 1.0),
        Source("gui-odyssey", str(tmp_path), 0.5),
    ]
    assert parse_data("") == []


@pytest.mark.parametrize(
    "text",
    ["other:{}", "androidcontrol:{}/gone", "androidcontrol:{}*x", "androidcontrol:{}*0", "gta:{}"],
)
def test_data_that_is_not_there_ends_with_one_line(tmp_path, text, capsys):
    part = text.format(tmp_path)
    with pytest.raises(SystemExit) as end:
        parse_data(part)
    assert end.value.code == 2
    form = f"error: --data {part}: expected name:ROOT or, with a weight above 0, name:ROOT*weight "
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(form) and line.endswith(" and a folder that exists")


# ---- Windows -----------------------------------------------------------------------------------


def first_batch(root, count: int, horizon: int = 3, name: str = "androidcontrol"):
    stream = recorded_examples(
        [Source(name, str(root), 1.0)],
        seed=0,
        stage="stage1",
        horizon=horizon,
        history=2,
        prompts_per_update=count,
        first=0,
    )
    return next(stream)


def test_a_window_has_the_next_actions_up_to_a_hole(tmp_path):
    wait = {"action_type": "wait"}
    back = {"action_type": "navigate_back"}
    gone = [PNG, PNG, b"", PNG, PNG, PNG]  # step 2 cannot be used
    records = [android_record(1, [wait, back, wait, back, wait], screens=gone)]
    records += [android_record(ident, [back] * 30) for ident in range(2, 4)]
    root = write_android_control(tmp_path, records, train=[1, 2, 3])
    examples = {example.key: example for example in first_batch(root, 64)}
    assert examples["1/0"].reference == (Action("wait"), Action("back"))
    assert examples["1/1"].reference == (Action("back"),)
    assert examples["1/3"].reference == (Action("back"), Action("wait"))
    assert examples["2/0"].reference == (Action("back"),) * 3
    assert examples["1/4"].observation.history == ("step 2", "step 3")  # the hole is told


def test_a_step_without_a_text_offers_the_tool_agent_no_element():
    """An empty name would be found by any forecast without one, wherever it points."""
    box = (0.1, 0.1, 0.2, 0.2)
    step = Step(screenshot=None, action=Action("click", "", (0.15, 0.15)), boxes=(box,))
    assert elements(step) == ()
    named = replace(step, action=Action("click", "Save", (0.15, 0.15)))
    assert elements(named) == (("Save", box),)


def test_no_window_reaches_beyond_a_hole_where_a_step_is_several_actions(tmp_path):
    two = "pyautogui.click(0.1, 0.2)\npyautogui.write('hi')"
    steps = [
        agentnet_step(two),
        agentnet_step("pyautogui.scroll(1)", correct=False),  # left out: the hole
        agentnet_step(two),
        agentnet_step("computer.terminate(status='success')"),
    ]
    (episode,), _ = load("agentnet", agentnet_root(tmp_path, steps), "train")
    windows = [reference(episode, place, horizon=4) for place in range(len(episode.steps))]
    kinds = [[action.kind for action in window] for window in windows]
    assert kinds == [
        ["click", "type"],
        ["type"],
        ["click", "type", "done"],
        ["type", "done"],
        ["done"],
    ]


def test_a_step_that_is_several_actions_is_one_example(tmp_path):
    """All of them were seen on one screenshot: others would ask the same prompt for the second."""
    steps = [
        agentnet_step("pyautogui.click(0.1, 0.2)\npyautogui.write('hi')"),
        agentnet_step("computer.terminate(status='success')"),
    ]
    examples = first_batch(agentnet_root(tmp_path, steps), 64, name="agentnet")
    kinds = {tuple(action.kind for action in example.reference) for example in examples}
    assert kinds == {("click", "type", "done"), ("done",)}


def test_where_no_box_is_on_record_a_step_is_carried_out_at_its_own_point(tmp_path):
    steps = [agentnet_step("pyautogui.click(0.1, 0.2)")]
    (example,) = first_batch(agentnet_root(tmp_path, steps), 1, name="agentnet")
    near, far = Action("click", "it", (0.15, 0.2)), Action("click", "it", (0.9, 0.2))
    assert [train.first_step_reward(example.execute(step), example) for step in (near, far)] == [
        1.0,
        0.0,
    ]
    assert example.execute(Action("click", "it")) is None


def test_each_set_is_judged_by_itself_and_named(tmp_path):
    """A small bad one does not hide behind a large good one."""
    wait = {"action_type": "wait"}
    for name in ("good", "bad"):
        (tmp_path / name).mkdir()
    good = write_android_control(tmp_path / "good", [android_record(1, [wait] * 90)], train=[1])
    screens = [b""] * 3 + [PNG] * 10
    record = android_record(1, [wait] * 12, screens=screens)
    bad = write_android_control(tmp_path / "bad", [record], train=[1])
    sources = [Source("androidcontrol", str(root), 1.0) for root in (good, bad)]
    settings = {"seed": 0, "stage": "stage1", "horizon": 1, "history": 0, "first": 0}
    stream = recorded_examples(sources, prompts_per_update=64, **settings)
    with pytest.raises(ValueError, match=f"{bad}: .* steps are bad"):
        list(itertools.islice(stream, 9))


def test_the_tool_agent_finds_an_element_by_the_words_of_its_step(tmp_path):
    click = {"action_type": "click", "x": 540, "y": 1200}
    root = write_android_control(tmp_path, [android_record(1, [click])], train=[1])
    (example,) = first_batch(root, 1)
    assert example.elements == (("step 0", example.boxes[0]),)
    assert example.execute(Action("click", "step 0")).point == pytest.approx((550 / 1080, 0.5))


def test_an_unreadable_screenshot_is_replaced_by_the_next_with_a_warning(tmp_path, capsys):
    wait = {"action_type": "wait"}
    records = [android_record(1, [wait] * 40, screens=[b"no picture"] + [PNG] * 40)]
    root = write_android_control(tmp_path, records, train=[1])
    examples = first_batch(root, 40)  # one more than can be read in one pass
    assert len(examples) == 40
    assert {example.key for example in examples} == {f"1/{index}" for index in range(1, 40)}
    warning = "warning: skipped android_control-00000-of-00001: record 0: step 0: screenshot: "
    assert capsys.readouterr().err.startswith(warning)


def test_a_note_is_told_as_a_note(tmp_path, capsys):
    """Nothing is skipped: the click has a point, only no box around it."""
    steps = [odyssey_step("CLICK", [[500, 500]], sam2_bbox=[]), odyssey_step("COMPLETE", "")]
    root = odyssey_root(tmp_path, {"1": steps}, part="train")
    assert len(first_batch(root, 2, name="gui-odyssey")) == 2
    assert capsys.readouterr().err.splitlines() == [
        "note: 1.json: step 0: sam2_bbox of a click is empty: only the distance counts"
    ]


def test_a_resumed_run_goes_on_where_it_was(tmp_path):
    records = [android_record(ident) for ident in range(4)]
    root = write_android_control(tmp_path, records, train=range(4))
    settings = {"seed": 3, "stage": "stage2", "horizon": 2, "history": 1, "prompts_per_update": 5}

    def keys(first: int, updates: int) -> list[list[str]]:
        sources = [Source("androidcontrol", str(root), 1.0)]
        stream = recorded_examples(sources, first=first, **settings)
        return [[example.key for example in batch] for batch in itertools.islice(stream, updates)]

    assert keys(first=2, updates=3) == keys(first=0, updates=5)[2:]


# ---- From the files to a trained policy and its score ------------------------------------------


def test_both_stages_train_on_recorded_steps_and_are_scored(tmp_path, tiny, capsys):
    actions = [
        {"action_type": "click", "x": 540, "y": 1200},
        {"action_type": "scroll", "direction": "down"},
        {"action_type": "wait"},
    ]
    data = tmp_path / "data"
    data.mkdir()
    records = [android_record(ident, actions, [png(64, 48)] * 4) for ident in range(8)]
    write_android_control(data, records, test=[6, 7], train=range(6))

    run = tmp_path / "run"
    flags = f"--data androidcontrol:{data} --model {tiny} --output_dir {run} --horizon 3"
    flags += " --group_size 4 --prompts_per_update 4 --stage1_updates 2 --stage2_updates 2"
    train.main([*flags.split(), "--stages", "stage1,stage2"])
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    updates = [(line["stage"], line["update"]) for line in lines]
    assert updates == [("stage1", 0), ("stage1", 1), ("stage2", 0), ("stage2", 1)]
    for line in lines:
        assert math.isfinite(line["reward"]) and math.isfinite(line["grad_norm"])
    rollout = json.loads((run / "rollouts.jsonl").read_text().splitlines()[0])
    assert rollout["observation"]["instruction"] == "Do it"
    assert rollout["reference"][0] in ("click step 0", "scroll down", "wait")

    score = tmp_path / "score.json"
    per_step = tmp_path / "steps.jsonl"
    exam = f"--bench androidcontrol --data {data} --split test --json {score}".split()
    examine([*exam, "--run", str(run), "--per_step", str(per_step)])
    result = json.loads(score.read_text())
    assert result["n"] == len(per_step.read_text().splitlines()) == 6
    assert result["protocol"] == "androidcontrol/os-atlas"
    assert [look["k"] for look in result["lookahead"]] == [1, 2, 3]

    click = {"kind": "click", "point": [0.5, 0.5], "text": ""}
    answers = [{"id": f"{ident}/0", "action": click} for ident in (6, 7)]
    examine([*exam, "--predictions", write_lines(tmp_path / "p.jsonl", *answers)])
    result = json.loads(score.read_text())
    assert result["step_acc"] == pytest.approx(2 / 6)
    assert result["missing_predictions"] == 4
