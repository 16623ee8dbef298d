"""extras/chosen_policy.py: `--run DIR` or `--model NAME`, and which settings go with which."""

import argparse
import json
from pathlib import Path

import pytest
import torch
from helpers import ALWAYS_THINKS, hub, make_run

from extras.chosen_policy import DEFAULTS, add_settings, add_who, load_chosen, read_settings
from extras.made_up import make_hub
from extras.run_folder import NEEDED
from train import parse_config


def parse(flags: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    add_who(parser)
    add_settings(parser)
    return parser.parse_args(flags)


def settings_of(*flags: str) -> dict:
    return read_settings(parse(list(flags)))


@pytest.fixture
def run(tmp_path, tuned, tiny) -> Path:
    return make_run(tmp_path / "run", tuned, tiny)


# ---- settings -----------------------------------------------------------------------------------


def test_a_model_without_a_run_has_the_defaults_of_training():
    training = parse_config(["--model", "x"])
    for name, default in DEFAULTS.items():
        assert getattr(training, name) == default
    settings = settings_of("--model", "x")
    for name in set(NEEDED) - {"base", "in_4bit"}:
        assert settings[name] == getattr(training, name), name


def test_its_settings_are_those_of_a_run_that_has_just_begun():
    flags = ["--horizon", "3", "--history", "0", "--max_pixels", "5000", "--forward", "reference"]
    more = ["--thinking", "64", "--no-load_in_4bit", "--tool_agent", "base"]
    settings = read_settings(parse(["--model", "x", *flags, *more]), world="toy-tools")
    assert set(NEEDED) <= set(settings)
    assert settings == {
        "base": "x",
        "in_4bit": False,
        "env": "toy-tools",
        "forward": "reference",
        "max_pixels": 5000,
        "tool_agent": "base",
        "horizon": 3,
        "history": 0,
        "order": "near",
        "carry_forecast": False,
        "thinking": 64,
    }


def test_a_run_brings_its_own_settings_but_for_the_tool_agent(run):
    written = json.loads((run / "config.json").read_text())
    assert settings_of("--run", str(run)) == written
    named = settings_of("--run", str(run), "--tool_agent", "base")
    assert named == written | {"tool_agent": "base"}


def test_an_empty_name_is_the_worlds_own_tool_agent_whoever_it_was_in_training(run):
    config = json.loads((run / "config.json").read_text()) | {"tool_agent": "ocr"}
    (run / "config.json").write_text(json.dumps(config))
    assert settings_of("--run", str(run))["tool_agent"] == "ocr"
    assert settings_of("--run", str(run), "--tool_agent", "")["tool_agent"] == ""


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ([], "give either --run DIR or --model NAME"),
        (["--run", "x", "--model", "x"], "give either --run DIR or --model NAME"),
        (["--run", "nowhere"], "--run nowhere: there is no such folder"),
        (["--run", "RUN", "--horizon", "5"], "--horizon goes with --model only"),
        (["--run", "RUN", "--history", "0"], "--history goes with --model only"),
        (["--run", "RUN", "--no-load_in_4bit"], "--load_in_4bit goes with --model only"),
        (["--run", "RUN", "--thinking", "0"], "--thinking goes with --model only"),
        (["--model", "x", "--horizon", "0"], "--horizon 0: must be at least 1"),
        (["--model", "x", "--history", "-1"], "--history -1: must be at least 0"),
        (["--model", "x", "--max_pixels", "-1"], "--max_pixels -1: must be at least 0"),
        (["--model", "x", "--thinking", "-1"], "--thinking -1: must be at least 0"),
        (["--model", "x", "--thinking", "1"], "--thinking 1: too small a budget"),
    ],
)
def test_what_does_not_go_together_ends_with_one_line(flags, message, run, dies):
    flags = [str(run) if flag == "RUN" else flag for flag in flags]
    assert message in dies(settings_of, *flags)


# ---- policies -----------------------------------------------------------------------------------


def load(*flags: str):
    args = parse(list(flags))
    return load_chosen(args, read_settings(args))


def test_the_policy_of_a_run_has_its_adapters_and_a_model_has_none(run, tiny, tuned):
    trained = load("--run", str(run))
    base = load("--model", str(tiny))
    assert base.peft is None
    saved = trained.peft.state_dict()
    for name, weight in tuned.peft.state_dict().items():
        assert torch.equal(saved[name], weight), name


def test_a_hub_model_is_loaded_with_the_settings_of_the_flags(tmp_path):
    thinker = make_hub(tmp_path, template=ALWAYS_THINKS)
    flags = ["--max_pixels", "50000", "--forward", "reference", "--thinking", "64"]
    policy = load("--model", str(thinker), *flags)
    assert policy.image_processor.size["longest_edge"] == 50_000
    assert policy.forward.sample.__module__ == "agent"
    assert policy.thinking == 64
    assert load("--model", str(hub())).thinking == 0


def test_a_model_that_is_not_there_or_does_not_think_ends_with_one_line(tiny, dies):
    assert "cannot load a vision-language model" in dies(load, "--model", "nowhere")
    assert "needs a model that thinks" in dies(load, "--model", str(tiny), "--thinking", "64")
