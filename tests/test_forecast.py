"""extras/forecast.py: the forecast for one screenshot of one's own, printed and drawn."""

from argparse import Namespace
from pathlib import Path

import pytest
from helpers import ALWAYS_THINKS, hub, load_hub, make_run, observe
from PIL import Image

from agent import Forward, Policy, make_rollout
from envs import MAX_TEXT, Action
from extras.forecast import describe, main, point_all, read_observation
from extras.loading import load_policy
from extras.made_up import make_hub

SIZE = (1080, 2400)


@pytest.fixture(autouse=True)
def somewhere(tmp_path, monkeypatch):
    """Pictures without a name go to the folder where the command is given."""
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def image(tmp_path) -> str:
    file = tmp_path / "screen.png"
    Image.new("RGB", SIZE, "white").save(file)
    return str(file)


@pytest.fixture
def run(tmp_path, tuned, tiny) -> Path:
    return make_run(tmp_path / "run", tuned, tiny)


def say(policy: Policy, monkeypatch, answers: dict[str, str]) -> list[str]:
    """The command gets this policy, which answers by what stands in the prompt; returns the
    prompts, as they come."""
    prompts_seen = []

    def sample(policy, prompts, how, generator=None):
        assert how.temperature == 0
        groups = []
        for prompt in prompts:
            words = [token for token in prompt.ids if token != policy.image_token]
            text = policy.tokenizer.decode(words)
            prompts_seen.append(text)
            [answer] = [answer for part, answer in answers.items() if part in text]
            ids = policy.tokenizer(answer + "<|im_end|>")["input_ids"]
            groups.append([make_rollout(policy, prompt, ids, [0.0] * len(ids), how.horizon)])
        return groups

    policy.forward = Forward(sample, completion_logprobs=None)
    monkeypatch.setattr("extras.forecast.load_chosen", lambda args, settings: policy)
    return prompts_seen


def task(image: str, *more: str) -> list[str]:
    return ["--image", image, "--instruction", "Save it", *more]


FORECAST = "\nnext "  # stands in the prompt for a forecast
POINT = "point_2d"  # stands in the question for a point


# ---- what is printed ----------------------------------------------------------------------------


def test_a_numbered_line_a_step_with_its_point_in_px(image, monkeypatch, capsys):
    say(load_hub(), monkeypatch, {FORECAST: "click File (500, 250)\nclick Save\ndone"})
    main(["--model", "x", *task(image)])
    assert capsys.readouterr().out.splitlines() == [
        "  1 click File   at (540, 600)",
        "  2 click Save",
        "  3 done",
        "picture in forecast.png",
    ]
    assert Image.open("forecast.png").width == SIZE[0]


def test_the_policy_reads_the_task_and_the_steps_so_far(image, monkeypatch):
    prompts = say(load_hub(), monkeypatch, {FORECAST: "done"})
    flags = ["--history", "click File", "click Exit failed", "--horizon", "3"]
    main(["--model", "x", *task(image), *flags])
    [prompt] = prompts
    assert "task: Save it\npast: click File; click Exit failed\n" in prompt
    assert "\nnext 3:<|im_end|>" in prompt


def test_an_answer_that_cannot_be_read_is_shown_as_it_was_written(image, monkeypatch, capsys):
    say(load_hub(), monkeypatch, {FORECAST: "click File\nI would then click Save.\ndone"})
    main(["--model", "x", *task(image)])
    assert capsys.readouterr().out.splitlines() == [
        "  1 click File",
        "could not be read to the end: line 2: unknown action kind 'I'; this was written:",
        "    click File",
        "    I would then click Save.",
        "    done",
        "picture in forecast.png",
    ]


def test_an_empty_answer_says_so(image, monkeypatch, capsys):
    say(load_hub(), monkeypatch, {FORECAST: "\n"})
    main(["--model", "x", *task(image)])
    assert capsys.readouterr().out.splitlines() == [
        "could not be read to the end: nothing to read; this was written:",
        "    (nothing)",
        "picture in forecast.png",
    ]


def test_a_thought_is_shown_before_the_forecast(image, tmp_path, monkeypatch, capsys):
    policy = load_policy(make_hub(tmp_path / "thinker", template=ALWAYS_THINKS))
    policy.thinking = 64
    say(policy, monkeypatch, {FORECAST: "Is there\na menu?\n</think>\n\ndone"})
    main(["--model", "x", *task(image)])
    thought, *lines = capsys.readouterr().out.splitlines()
    assert thought == "thought, 4 words:"
    assert lines == ["    Is there", "    a menu?", "  1 done", "picture in forecast.png"]


def test_a_point_is_said_in_px_of_the_screenshot():
    assert describe(Action("click", "Save", (1.0, 0.0)), (10, 20)) == "click Save   at (10, 0)"
    assert describe(Action("click", "", (0.5, 0.5)), (10, 20)) == "click   at (5, 10)"
    assert describe(Action("back"), (10, 20)) == "back"


# ---- points of a tool agent ---------------------------------------------------------------------


def test_with_a_tool_agent_every_point_is_its_own(image, monkeypatch, capsys):
    answers = {
        FORECAST: "click File (500, 250)\nclick Save\ntype x\nclick Exit (1, 1)",
        "acts on: click File": "[100, 100]",
        "acts on: click Save": "[1000, 1000]",
        "acts on: click Exit": "I cannot see it.",
    }
    prompts = say(load_hub(), monkeypatch, answers)
    main(["--model", "x", *task(image), "--tool_agent", "base"])
    assert capsys.readouterr().out.splitlines() == [
        "  1 click File   at (108, 240)",
        "  2 click Save   at (1080, 2400)",
        "  3 type x",
        "  4 click Exit",
        "picture in forecast.png",
    ]
    assert [POINT in prompt for prompt in prompts] == [False, True, True, True]


def test_a_step_without_words_keeps_its_point():
    asked = []

    def tool_agent(actions, examples):
        asked.extend(actions)
        return list(actions)

    nameless = Action("click", "", (0.5, 0.5))
    named = Action("click", "Save", (0.5, 0.5))
    pointed = point_all([nameless, named], observe(0), tool_agent)
    assert pointed == asked == [nameless, Action("click", "Save")]


# ---- models and runs as they are loaded ---------------------------------------------------------


def test_a_hub_model_with_random_weights(image, capsys):
    main(["--model", str(hub()), *task(image), "--horizon", "2", "--max_pixels", "100000"])
    assert "could not be read to the end" in capsys.readouterr().out
    assert Path("forecast.png").exists()


def test_the_policy_of_a_run(run, tmp_path, capsys):
    screen = tmp_path / "toy.png"
    observation = observe(0)
    observation.screenshot().save(screen)
    flags = ["--run", str(run), "--image", str(screen), "--instruction", observation.instruction]
    main([*flags, "--picture", "mine.jpg"])
    assert capsys.readouterr().out.splitlines()[-1] == "picture in mine.jpg"
    assert Image.open("mine.jpg").width == 4 * 128  # enlarged


@pytest.mark.parametrize(("run_of", "seen"), [("runs/x", ("b", "c")), ("", ("a", "b", "c"))])
def test_a_run_sees_as_many_past_steps_as_in_its_training(image, run_of, seen):
    given = Namespace(run=run_of, image=image, instruction="Save it", past=["a", "b", "c"])
    assert read_observation(given, {"history": 2}).history == seen


# ---- bad input ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--image", "nowhere.png"], "--image nowhere.png: there is no such file"),
        (["--image", "."], "--image .: there is no such file"),
        (["--image", "words.png"], "--image words.png cannot be read as PNG, JPEG or WebP"),
        (["--image", "half.png"], "--image half.png cannot be read"),
        (["--instruction", " "], "--instruction: it is empty"),
        (["--history", "click A", "x" * (MAX_TEXT + 1)], "--history: step 2 must be one line"),
        (["--history", ""], "--history: step 1 must be one line of 1 to 500 characters"),
        (["--picture", "./screen.png"], "this is the screenshot itself"),
        (["--run", "runs/x"], "give either --run DIR or --model NAME"),
        (["--horizon", "0"], "--horizon 0"),
        (["--model", "nowhere"], "cannot load a vision-language model from nowhere"),
        (["--tool_agent", "nowhere"], "cannot load a vision-language model from nowhere"),
        (["--image", "thread.png"], "--image thread.png: "),
        (["--picture", "nowhere/x.png"], "--picture nowhere/x.png: there is no folder nowhere"),
        (["--picture", "x.psd"], "--picture x.psd: the name must end in"),
        (["--picture", "x.nothing"], "--picture x.nothing: the name must end in"),
    ],
)
def test_bad_input_ends_with_one_line(flags, message, image, dies):
    whole = Path(image).read_bytes()
    Path("half.png").write_bytes(whole[: len(whole) // 2])
    Path("words.png").write_text("not a picture")
    Image.new("RGB", (1, 2000)).save("thread.png")
    short = ["--horizon", "1", "--max_pixels", "50000"]
    assert message in dies(main, ["--model", str(hub()), *task(image), *short, *flags])
    assert Path(image).read_bytes() == whole


def test_help_can_be_read(capsys):
    with pytest.raises(SystemExit) as end:
        main(["--help"])
    assert end.value.code == 0
    assert "--instruction" in capsys.readouterr().out
