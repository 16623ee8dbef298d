"""extras/play.py: one episode, of the oracle, of a run's policy or of a model by name, played and
drawn."""

import subprocess
import sys
from pathlib import Path

import pytest
from helpers import make_run
from PIL import Image

from agent import add_lora
from extras.play import main

ROOT = Path(__file__).resolve().parent.parent


@pytest.mark.parametrize(
    "flags", [[], ["--env", "toy-tools", "--split", "flaky", "--scale", "1"]], ids=["gui", "tools"]
)
def test_the_worlds_show_themselves(flags, tmp_path):
    """As the README has it: from the root, as a module."""
    picture = tmp_path / "strip.png"
    command = [sys.executable, "-m", "extras.play", *flags, "--picture", str(picture)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-500:]
    assert "solved: True" in done.stdout
    assert picture.stat().st_size > 10_000


@pytest.fixture
def run(tmp_path, tuned, tiny) -> Path:
    return make_run(tmp_path / "run", tuned, tiny)


def test_the_policy_of_a_run_plays_its_world(run, tmp_path, capsys):
    picture = tmp_path / "strip.png"
    main(["--run", str(run), "--seed", "3", "--picture", str(picture)])
    task, *steps, verdict = capsys.readouterr().out.splitlines()
    assert task.startswith("task: ")
    assert [int(line.split()[0]) for line in steps] == list(range(1, len(steps) + 1))
    assert f"solved in {len(steps)} steps, the oracle needs " in verdict
    assert Image.open(picture).width == 5 * (256 + 10) + 10


def test_a_model_without_a_run_plays_in_the_world_that_is_named(tiny, tmp_path, capsys):
    flags = ["--model", str(tiny), "--env", "toy-tools", "--horizon", "2"]
    main([*flags, "--picture", str(tmp_path / "strip.png")])
    task, *steps, verdict = capsys.readouterr().out.splitlines()
    assert task.startswith("task: ")
    assert "the oracle needs " in verdict


def test_the_base_plays_as_a_run_that_has_learnt_nothing(tmp_path, tiny, policy, capsys):
    """The same settings and fresh adapters, which change nothing."""
    add_lora(policy, 4, 8, 0)
    run = make_run(tmp_path / "run", policy, tiny)
    flags = ["--picture", str(tmp_path / "strip.png")]
    main(["--run", str(run), *flags])
    of_run = capsys.readouterr().out
    main(["--model", str(tiny), "--horizon", "2", *flags])
    assert capsys.readouterr().out == of_run


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--split", "composition"], "unknown split 'composition'"),
        (["--seed", "-1"], "seed -1"),
        (["--picture", "nowhere/strip.png"], "nowhere/strip.png"),
        (["--picture", "strip.nothing"], "strip.nothing"),
        (["--run", "nowhere"], "--run nowhere: there is no such folder"),
        (["--run", "RUN", "--split", "composition"], "unknown split 'composition'"),
        (["--run", "RUN", "--picture", "nowhere/strip.png"], "cannot write nowhere/strip.png"),
        (["--run", "RUN", "--scale", "3"], "--scale is for the oracle"),
        (["--run", "RUN", "--env", "toy-gui"], "--env is for the oracle and --model"),
        (["--run", "RUN", "--model", "x"], "give either --run DIR or --model NAME"),
        (["--run", "RUN", "--history", "2"], "--history goes with --model only"),
        (["--horizon", "2"], "--horizon goes with --model only"),
        (["--tool_agent", "base"], "--tool_agent goes with --run or --model"),
        (["--model", "nowhere"], "cannot load a vision-language model from nowhere"),
        (["--model", "x", "--scale", "3"], "--scale is for the oracle"),
        (["--model", "x", "--horizon", "0"], "--horizon 0: must be at least 1"),
    ],
)
def test_bad_input_ends_with_one_line(flags, message, run, dies):
    flags = [str(run) if flag == "RUN" else flag for flag in flags]
    assert message in dies(main, flags)
