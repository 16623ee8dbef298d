"""extras/play.py: one episode, of the oracle or of a run's policy, played and drawn."""

import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image
from test_eval import make_run

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
        (["--run", "RUN", "--scale", "3"], "--env and --scale are for the oracle"),
    ],
)
def test_bad_input_ends_with_one_line(flags, message, run, dies):
    flags = [str(run) if flag == "RUN" else flag for flag in flags]
    assert message in dies(main, flags)
