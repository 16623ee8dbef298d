"""extras/export.py: examples as rows that TRL, verl and EasyR1 read, and folders that are written
whole or not at all."""

import base64
import io
import itertools
import json
import re
import sys
from argparse import Namespace
from pathlib import Path

import pytest
from PIL import Image

import agent
from agent import build_prompt, format_forecast
from envs import Action, Example, Observation
from extras import export, reward_functions
from extras.export import LAYOUTS, ROW_OF, Drawn, draw_recorded, draw_toy, main
from extras.loading import load_policy
from extras.made_up_android import android_record, write_android_control
from extras.reward_functions import example_of, first_step_rewards, trl_stage1, trl_stage2
from rewards import trajectory_reward
from train import first_step_reward

REWARD_FILE = Path(reward_functions.__file__)


def settings(**others) -> Namespace:
    """What main makes of a short command line."""
    usual = {
        "layout": "trl",
        "output_dir": "",
        "env": "toy-gui",
        "data": "",
        "split": "train",
        "examples": 4,
        "horizon": 3,
        "history": 4,
        "seed": 0,
        "scale": 1,
        "tool_agent": "",
    }
    return Namespace(**usual | others)


def some(count: int = 4, **others) -> list[Drawn]:
    return list(itertools.islice(draw_toy(settings(**others)), count))


def make(output: Path, flags: str = "") -> Path:
    """A small export by the command line; returns its parquet file."""
    short = f"--output_dir {output} --horizon 3 --examples 5 {flags}"
    if "--data" not in flags:
        short += " --scale 1"
        if "--env" not in flags:
            short += " --env toy-gui"
    main(short.split())
    [file] = output.glob("*.parquet")
    return file


def read(file: Path):
    """The file as the library `datasets` opens it, which all three engines use."""
    datasets = pytest.importorskip("datasets", reason="needs pip install datasets")
    cache = str(file.parent / "cache")
    return datasets.load_dataset("parquet", data_files=str(file), split="train", cache_dir=cache)


def first_chat(**others) -> tuple[list[dict], Drawn]:
    [drawn] = some(1, **others)
    return build_prompt(drawn.example.observation, 3), drawn


# ---- which examples -----------------------------------------------------------------------------


def test_which_examples_are_drawn_depends_on_seed_and_split_not_on_the_scale():
    def keys(**others):
        return [drawn.example.key for drawn in some(8, **others)]

    assert keys() == keys(scale=2)
    assert keys() != keys(seed=1)
    assert keys() != keys(split="dev")


def test_only_a_world_with_tools_needs_the_moment():
    assert all(drawn.moment is None for drawn in some())
    for drawn in some(env="toy-tools", split="flaky"):
        assert drawn.moment["env"] == "toy-tools"
        assert drawn.moment["split"] == "flaky"
        row = ROW_OF["trl"](drawn, 0, settings(env="toy-tools", split="flaky"))
        for goal in drawn.example.goals:
            call = Action("call", goal.text.partition(" = ")[0])
            assert example_of(row).execute(call) == drawn.example.execute(call)


def test_recorded_steps_come_in_the_order_of_training(tmp_path):
    root = write_android_control(tmp_path, [android_record(1), android_record(2)], train=[1, 2])
    args = settings(env="", data=f"androidcontrol:{root}", horizon=2)
    for index, drawn in enumerate(itertools.islice(draw_recorded(args), 3)):
        row = ROW_OF["trl"](drawn, index, args)
        assert example_of(row).reference == drawn.example.reference
        picture = drawn.example.observation.screenshot()
        assert Image.open(io.BytesIO(row["image"]["bytes"])).tobytes() == picture.tobytes()


# ---- prompts ------------------------------------------------------------------------------------


def test_trl_gets_the_prompt_of_training_in_parts():
    chat, drawn = first_chat()
    row = ROW_OF["trl"](drawn, 0, settings())
    for message in row["prompt"]:
        for part in message["content"]:
            if part["text"] is None:  # parquet has the field in every part
                del part["text"]
    assert row["prompt"] == chat


def as_verl_builds(row: dict) -> list[dict]:
    """What RLHFDataset._build_messages of verl 0.9.1 makes of a row (verl/utils/dataset/
    rl_dataset.py), without the pictures: a part for each <image> and each text between."""
    messages = []
    for message in row["prompt"]:
        parts = []
        for segment in re.split("(<image>|<video>|<audio>)", message["content"]):
            if segment == "<image>":
                parts.append({"type": "image"})
            elif segment:
                parts.append({"type": "text", "text": segment})
        messages.append({"role": message["role"], "content": parts})
    return messages


def test_verl_builds_the_prompt_of_training():
    chat, drawn = first_chat()
    row = ROW_OF["verl"](drawn, 0, settings(layout="verl"))
    assert as_verl_builds(row) == chat
    assert len(row["images"]) == 1


def test_easyr1_gets_one_text_with_what_the_system_says_before_it():
    """RLHFDataset._build_messages of EasyR1 (verl/utils/dataset.py) splits it at <image> and makes
    one message of the user."""
    chat, drawn = first_chat()
    row = ROW_OF["easyr1"](drawn, 0, settings(layout="easyr1"))
    [system] = chat[0]["content"]
    before, _, after = chat[1]["content"]
    assert row["prompt"].split("<image>") == [
        f"{system['text']}\n\n{before['text']}",
        after["text"],
    ]


@pytest.mark.parametrize("layout", ["verl", "easyr1"])
def test_text_of_others_makes_no_place_for_a_picture(layout):
    said = "type <image> and <video>"
    observation = Observation(said, lambda: Image.new("RGB", (8, 8)), (said,))
    example = Example(observation, (Action("done"),))
    row = ROW_OF[layout](Drawn(example), 0, settings(layout=layout))
    text = row["prompt"] if layout == "easyr1" else row["prompt"][1]["content"]
    assert text.count("<image>") == len(row["images"]) == 1
    assert "<video>" not in text


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_reader_goes_with_every_layout(layout):
    """--tool_agent ocr needs no GPU: the reward processes of engines on Ray can have it too."""
    asked = settings(layout=layout, tool_agent="ocr")
    export.check_tool_agent(asked)  # which would end the program
    [drawn] = some(1)
    row = ROW_OF[layout](drawn, 0, asked)
    if layout == "trl":
        assert row["tool_agent"] == "ocr" and row["image"]["bytes"]
        return
    columns = row["extra_info"] if layout == "verl" else json.loads(row["answer"])
    assert columns["tool_agent"] == "ocr" and columns["screenshot"]


def test_a_picture_is_carried_to_a_vlm_only():
    [drawn] = some(1)
    row = ROW_OF["verl"](drawn, 0, settings(layout="verl"))
    assert row["extra_info"]["screenshot"] is None
    assert row["reward_model"]["ground_truth"] == format_forecast(drawn.example.reference)
    asked = settings(layout="verl", tool_agent="some/model")
    row = ROW_OF["verl"](drawn, 0, asked)
    assert row["extra_info"]["screenshot"] == row["images"][0]["bytes"]
    assert row["extra_info"]["tool_agent"] == "some/model"
    answer = json.loads(ROW_OF["easyr1"](drawn, 0, asked)["answer"])
    assert base64.b64decode(answer["screenshot"]) == row["images"][0]["bytes"]
    assert json.loads(ROW_OF["easyr1"](drawn, 0, settings())["answer"])["screenshot"] is None


# ---- files --------------------------------------------------------------------------------------

COLUMNS = {
    "trl": [
        "prompt",
        "image",
        "index",
        "horizon",
        "reference",
        "goals",
        "boxes",
        "elements",
        "key",
        "moment",
        "tool_agent",
    ],
    "verl": ["data_source", "prompt", "images", "ability", "reward_model", "extra_info"],
    "easyr1": ["prompt", "images", "answer"],
}


@pytest.mark.parametrize("layout", COLUMNS)
@pytest.mark.parametrize("env", ["toy-gui", "toy-tools"])
def test_a_file_has_the_columns_of_its_layout_and_gives_back_the_rows(tmp_path, layout, env):
    parquet = pytest.importorskip("pyarrow.parquet", reason="needs pip install pyarrow")
    file = make(tmp_path / "out", f"--layout {layout} --env {env}")
    table = parquet.read_table(file)
    assert table.column_names == COLUMNS[layout]
    args = settings(layout=layout, env=env)
    expected = []
    for index, drawn in enumerate(some(5, env=env)):
        expected.append(ROW_OF[layout](drawn, index, args))
    assert table.to_pylist() == expected
    kept = json.loads(table.schema.metadata[b"export"])
    assert (kept["env"], kept["layout"], kept["seed"], kept["scale"]) == (env, layout, 0, 1)


@pytest.mark.parametrize("layout", COLUMNS)
def test_pictures_come_back_as_pictures(tmp_path, layout):
    pytest.importorskip("pyarrow", reason="needs pip install pyarrow")
    rows = read(make(tmp_path / "out", f"--layout {layout}"))
    for drawn, row in zip(some(5), rows, strict=True):
        picture = row["image"] if layout == "trl" else row["images"][0]
        assert isinstance(picture, Image.Image)
        assert picture.tobytes() == drawn.example.observation.screenshot().tobytes()


def test_the_rewards_of_a_file_are_those_of_the_examples(tmp_path):
    pytest.importorskip("pyarrow", reason="needs pip install pyarrow")
    rows = list(read(make(tmp_path / "out")))
    examples = [drawn.example for drawn in some(5)]
    answers = [format_forecast(example.reference) for example in examples]
    expected = []
    for example in examples:
        expected.append(first_step_reward(example.execute(example.reference[0]), example))
    assert first_step_rewards(answers, rows) == expected


def test_a_recorded_set_is_exported(tmp_path):
    pytest.importorskip("pyarrow", reason="needs pip install pyarrow")
    root = tmp_path / "data"
    root.mkdir()
    click = {"action_type": "click", "x": 540, "y": 1200}
    write_android_control(root, [android_record(1, [click, click])], train=[1])
    file = make(tmp_path / "out", f"--layout trl --data androidcontrol:{root}")
    row = list(read(file))[0]
    step = row["elements"][0]["label"]  # the words of its step
    assert first_step_rewards([f"click {step}", "click another"], [row, row]) == [1.0, 0.0]


# ---- folders ------------------------------------------------------------------------------------


def test_an_empty_folder_is_filled(tmp_path):
    pytest.importorskip("pyarrow", reason="needs pip install pyarrow")
    output = tmp_path / "out"
    output.mkdir()
    make(output)
    assert [path.name for path in output.iterdir()] == ["train.parquet"]


def test_a_folder_with_something_in_it_is_left_alone(tmp_path, dies):
    (tmp_path / "notes.txt").write_text("mine")
    line = dies(make, tmp_path)
    assert line == f"error: {tmp_path} exists and is not empty; nothing was written"
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]
    assert "is a file" in dies(make, tmp_path / "notes.txt")


def test_an_export_that_fails_leaves_nothing_behind(tmp_path, monkeypatch, dies):
    pytest.importorskip("pyarrow", reason="needs pip install pyarrow")

    def two_and_no_more(args):
        yield from some(2)
        raise ValueError("over 5 % of the records are bad")

    monkeypatch.setattr(export, "draw_toy", two_and_no_more)
    assert dies(make, tmp_path / "out") == "error: over 5 % of the records are bad"
    assert list(tmp_path.iterdir()) == []


# ---- bad input ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "flags, says",
    [
        ("--layout csv", "--layout csv: choose one of trl, verl, easyr1"),
        ("--env moon", "--env moon: choose one of toy-gui, toy-tools"),
        ("--split moon", "--split moon: choose one of train, dev, test, layout, app, popup, flaky"),
        ("--examples 0", "--examples 0: must be at least 1"),
        ("--horizon 0", "--horizon 0: must be at least 1"),
        ("--history -1", "--history -1: must be at least 0"),
        ("--scale 0", "--scale 0: must be at least 1"),
        ("--env toy-gui --data gta:.", "give either --env NAME or --data name:ROOT"),
        ("--data moon:.", "--data moon:.: expected name:ROOT"),
        ("--data mind2web:. --split test", "the training split is exported, no other"),
        ("--data mind2web:. --scale 2", "--scale is for the toy worlds"),
        ("--tool_agent base", "--tool_agent base: the policy is the engine's"),
        ("--env toy-tools --tool_agent x", "nothing can stand in for them"),
        ("--env miniwob:click-test-2", "its stage 2 is carried out in the browser"),
        ("--layout easyr1 --tool_agent x", "it must stand behind a server"),
        ("--layout verl --tool_agent http://x/v1", "it must stand behind a server"),
    ],
)
def test_what_cannot_be_exported_ends_with_one_line(tmp_path, dies, flags, says):
    given = flags.split()
    if "--env" not in given and "--data" not in given:
        given += ["--env", "toy-gui"]
    line = dies(main, [*given, "--output_dir", str(tmp_path / "out")])
    assert says in line
    assert list(tmp_path.iterdir()) == []


def test_one_of_world_and_data_is_needed(tmp_path, dies):
    line = dies(main, ["--output_dir", str(tmp_path / "out")])
    assert line == "error: give either --env NAME or --data name:ROOT"


def test_a_missing_pyarrow_is_named(tmp_path, monkeypatch, dies):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    line = dies(make, tmp_path / "out")
    assert line == "error: the export needs pyarrow: pip install pyarrow"
    assert list(tmp_path.iterdir()) == []


def test_an_empty_set_is_named(tmp_path, dies):
    pytest.importorskip("pyarrow", reason="needs pip install pyarrow")
    (tmp_path / "data").mkdir()
    line = dies(make, tmp_path / "out", f"--data gui-odyssey:{tmp_path / 'data'}")
    assert str(tmp_path / "data") in line
    assert [path.name for path in tmp_path.iterdir()] == ["data"]


# ---- the engines themselves ---------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("judge", [trl_stage1, trl_stage2], ids=["stage1", "stage2"])
def test_trl_trains_two_steps_from_the_file(tmp_path, tiny, judge):
    """pip install 'trl==1.16.*' pyarrow; each reward is that of the example in this process."""
    trl = pytest.importorskip("trl", reason="needs pip install 'trl==1.16.*'")
    from extras import speed

    policy = load_policy(tiny)
    agent.add_lora(policy, 4, 8, 0)
    rows = read(make(tmp_path / "out"))
    examples = [drawn.example for drawn in some(5)]
    seen = []

    def watched(completions, index, **columns):
        rewards = judge(completions, index=index, **columns)
        for completion, row, reward in zip(completions, index, rewards, strict=True):
            forecast, error = agent.parse_forecast(completion[-1]["content"], 3)
            if judge is trl_stage1:
                readable = error is None
                earned = trajectory_reward(forecast, examples[row].reference, 3, readable=readable)
                own = earned.terms["reward"]
            else:
                executed = examples[row].execute(forecast[0]) if forecast else None
                own = first_step_reward(executed, examples[row])
            assert reward == own
        seen.extend(rewards)
        return rewards

    how = trl.GRPOConfig(
        str(tmp_path / "trl"),
        use_cpu=True,
        bf16=False,
        per_device_train_batch_size=4,
        num_generations=4,
        max_completion_length=9,
        max_steps=2,
        beta=0.0,
        generation_kwargs={"suppress_tokens": policy.suppressed.tolist()},
        report_to="none",
        save_strategy="no",
        dataloader_pin_memory=False,
        disable_tqdm=True,
    )
    trainer = trl.GRPOTrainer(
        policy.peft, [watched], how, rows, processing_class=speed.make_processor(policy)
    )
    trainer.train()
    assert trainer.state.global_step == 2
    assert len(seen) == 8


@pytest.mark.slow
def test_verl_reads_the_file_and_loads_the_rewards(tmp_path):
    """pip install 'verl==0.9.1': its data set class and its reward loader, without a GPU."""
    pytest.importorskip("verl", reason="needs pip install 'verl==0.9.1'")
    from omegaconf import OmegaConf
    from verl.trainer.ppo.reward import get_custom_reward_fn
    from verl.utils.dataset.rl_dataset import RLHFDataset, collate_fn

    file = make(tmp_path / "out", "--layout verl")
    options = {"filter_overlong_prompts": False, "cache_dir": str(tmp_path / "cache")}
    rows = RLHFDataset(str(file), None, OmegaConf.create(options), processor=object())
    examples = [drawn.example for drawn in some(5)]
    for example, row in zip(examples, rows, strict=True):
        observation = example.observation
        chat = build_prompt(observation, 3)
        picture = row["raw_prompt"][1]["content"][1].pop("image")
        assert row["raw_prompt"] == chat
        assert picture.tobytes() == observation.screenshot().tobytes()
    batch = collate_fn([rows[i] for i in range(5)])
    for name in ("verl_stage1", "verl_stage2"):
        settings_of_verl = {
            "reward": {"custom_reward_function": {"path": str(REWARD_FILE), "name": name}}
        }
        judge = get_custom_reward_fn(OmegaConf.create(settings_of_verl))
        for i, example in enumerate(examples):
            score = judge(
                data_source=batch["data_source"][i],
                solution_str=format_forecast(example.reference),
                ground_truth=batch["reward_model"][i]["ground_truth"],
                extra_info=batch["extra_info"][i],
            )
            if name == "verl_stage2":
                expected = first_step_reward(example.execute(example.reference[0]), example)
            else:
                earned = trajectory_reward(example.reference, example.reference, 3)
                expected = earned.terms["reward"]
            assert score["score"] == expected
