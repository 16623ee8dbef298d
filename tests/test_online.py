"""benchmarks/online.py, the door to what is played: who plays, which flags go with what, and that
what is missing is one line. Shown on a small world in the browser's place (page_world.py)."""

import json
from argparse import ArgumentParser
from pathlib import Path

import pytest
from helpers import hub, make_run
from page_world import EXIT, Page, play_pages

from benchmarks import online
from benchmarks.episodes import LABELS
from benchmarks.miniwob_exam import table
from benchmarks.online import FLAGS
from eval import main


@pytest.fixture
def pages(monkeypatch) -> type[Page]:
    return play_pages(monkeypatch)


# ---- the door -----------------------------------------------------------------------------------


def test_a_planner_plays_by_command_line(pages, tmp_path, capsys):
    numbers = tmp_path / "numbers.json"
    flags = ["--bench", "miniwob", "--planner", "oracle", "--tasks", "save-2,half,save-2"]
    folder = ["--output_dir", str(tmp_path / "out"), "--json", str(numbers)]
    main([*flags, "--seeds", "2", "--browsers", "3", *folder])
    written = json.loads(numbers.read_text())
    assert written == json.loads((tmp_path / "out" / "result.json").read_text())
    assert list(written["by_task"]) == ["save-2", "half"]
    assert (written["player"], written["n"], written["success"]) == ("oracle", 4, 0.5)
    printed = capsys.readouterr().out
    assert table(written) in printed
    assert f"episodes: {tmp_path / 'out'}" in printed


def test_a_run_plays_with_its_own_settings_in_a_folder_of_its_own(
    pages, tuned, tiny, tmp_path, capsys
):
    run = make_run(tmp_path / "run", tuned, tiny)
    flags = ["--bench", "miniwob", "--run", str(run), "--tasks", "save-1", "--seeds", "1"]
    main([*flags, "--steps", "2"])
    settings = json.loads((run / "miniwob" / "settings.json").read_text())
    assert settings["player"] == str(run)
    assert settings["horizon"] == 2
    assert settings["scale"] == 1
    assert settings["points_by"] == LABELS
    assert len(settings["weights"]) == 16


def test_after_more_training_a_run_is_another_player(pages, tuned, tiny, tmp_path, dies):
    run = make_run(tmp_path / "run", tuned, tiny)
    flags = ["--bench", "miniwob", "--run", str(run), "--tasks", "save-1", "--seeds", "1"]
    main(flags)
    for name, weight in tuned.peft.named_parameters():
        if "lora" in name:
            weight.data += 1
    tuned.peft.save_pretrained(run / "adapter")
    assert "was made with other settings: weights" in dies(main, flags)


def test_a_hub_model_sees_pages_at_twice_their_size(pages, tmp_path, capsys):
    flags = ["--bench", "miniwob", "--model", str(hub()), "--horizon", "1", "--history", "0"]
    folder = ["--output_dir", str(tmp_path / "out")]
    main([*flags, "--tasks", "save-1", "--seeds", "1", "--steps", "1", *folder])
    settings = json.loads((tmp_path / "out" / "settings.json").read_text())
    assert settings["scale"] == 2
    assert (settings["horizon"], settings["history"]) == (1, 0)


def test_a_named_tool_agent_finds_the_points_and_the_result_says_so(pages, tmp_path, monkeypatch):
    """The oracle's own, which are right, are not handed to it."""

    def point_at_exit(actions, examples):
        assert {action.point for action in actions} == {None}
        return [EXIT for _ in actions]

    def load_tool_agent(name, policy, max_pixels=0):
        assert name == "ocr"
        return point_at_exit

    monkeypatch.setattr(online, "load_tool_agent", load_tool_agent)
    flags = ["--bench", "miniwob", "--planner", "oracle", "--tool_agent", "ocr", "--seeds", "1"]
    main([*flags, "--tasks", "save-1", "--output_dir", str(tmp_path / "out")])
    result = json.loads((tmp_path / "out" / "result.json").read_text())
    assert result["points_by"] == "ocr"
    assert result["success"] == 0.0


@pytest.mark.parametrize("bench", ["androidworld", "osworld"])
def test_the_other_two_are_played_by_their_own_files(bench, monkeypatch, tmp_path, capsys):
    """What is missing is asked for before anything is played, with the same flags."""
    calls = []

    def check(**flags):
        calls.append(flags)

    def evaluate(player, output, **flags):
        assert (player.name, output) == ("nothing", tmp_path)
        assert str(player.planner([None], [None])[0].forecast[0]) == "wait"
        calls.append(flags)
        return {"protocol": bench}

    module = getattr(online, bench)
    monkeypatch.setattr(module, "check", check)
    monkeypatch.setattr(module, "evaluate", evaluate)
    monkeypatch.setattr(module, "table", lambda result: f"the table of {result['protocol']}")
    own = {
        "androidworld": ["--combinations", "3"],
        "osworld": ["--provider", "docker", "--path_to_vm", "vm.qcow2", "--steps", "50"],
    }
    meant = {
        "androidworld": {"combinations": 3},
        "osworld": {"machine": online.osworld.Machine("docker", "vm.qcow2"), "budget": 50},
    }
    flags = ["--bench", bench, "--planner", "nothing", "--data", "clone", "--tasks", "a,b,a"]
    main([*flags, *own[bench], "--output_dir", str(tmp_path)])
    asked = {"clone": Path("clone"), "tasks": ["a", "b"], **meant[bench]}
    assert calls == [asked, asked]
    assert f"the table of {bench}" in capsys.readouterr().out


@pytest.mark.parametrize("bench", ["androidworld", "osworld"])
def test_flags_that_are_not_given_are_left_to_the_defaults(bench):
    parser = ArgumentParser()
    online.add_flags(parser)
    parser.add_argument("--data")
    given = parser.parse_args(["--data", "clone", "--provider", "docker"])
    flags = online.phone_flags(given) if bench == "androidworld" else online.desktop_flags(given)
    assert flags["tasks"] == []
    assert not {"combinations", "budget"} & set(flags)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["miniwob"], "give one of --run DIR, --model NAME, --predictions FILE and --planner"),
        (["miniwob", "--planner", "oracle", "--run", "x"], "give one of --run DIR"),
        (["miniwob", "--predictions", "x"], "--predictions are for recorded benchmarks"),
        (["miniwob", "--run", "nowhere"], "--run nowhere: there is no such folder"),
        (["miniwob", "--planner", "oracle", "--tasks", "fly"], "unknown task fly"),
        (["miniwob", "--planner", "oracle", "--seeds", "0"], "--seeds 0: must lie in 1.."),
        (
            ["miniwob", "--planner", "oracle", "--data", "x"],
            "--data goes with --bench androidworld or osworld",
        ),
        (
            ["miniwob", "--planner", "oracle", "--provider", "x"],
            "--provider goes with --bench osworld",
        ),
        (["miniwob", "--planner", "oracle", "--horizon", "2"], "--horizon goes with --model only"),
        (["miniwob", "--planner", "oracle", "--tool_agent", "base"], "a planner has no weights"),
        (["androidworld", "--planner", "nothing"], "--bench androidworld needs --data"),
        (["androidworld", "--planner", "oracle", "--data", "x"], "has no oracle"),
        (["androidworld", "--planner", "nothing", "--data", "nowhere"], "nowhere"),
        (["osworld", "--planner", "nothing", "--data", "x"], "--bench osworld needs --provider"),
        (
            ["osworld", "--planner", "nothing", "--data", "x", "--provider", "cloud9"],
            "unknown provider 'cloud9'",
        ),
        # before a model is loaded: there is none here
        (["androidworld", "--model", "nowhere", "--data", "x"], "x: no clone of github.com"),
        (
            ["osworld", "--model", "nowhere", "--data", "x", "--provider", "cloud9"],
            "unknown provider 'cloud9'",
        ),
        (["toy-gui", "--planner", "oracle"], "--planner goes with --bench miniwob or"),
        (["gta", "--run", "x", "--seeds", "3"], "--seeds goes with --bench miniwob"),
    ],
)
def test_bad_input_ends_with_one_line(flags, message, pages, tmp_path, monkeypatch, dies):
    monkeypatch.chdir(tmp_path)
    assert message in dies(main, ["--bench", *flags])
    assert not list(tmp_path.iterdir())


def test_what_is_not_installed_is_said_in_one_line(tmp_path, monkeypatch, dies):
    """Before a model is loaded: there is none here."""
    flags = ["--bench", "miniwob", "--model", "nowhere"]
    monkeypatch.setenv("MINIWOB_CHROME_BINARY", "/usr/bin/chromium")
    monkeypatch.delenv("MINIWOB_CHROMEDRIVER", raising=False)
    message = dies(main, flags)
    assert "set both of MINIWOB_CHROME_BINARY and MINIWOB_CHROMEDRIVER" in message
    monkeypatch.delenv("MINIWOB_CHROME_BINARY")
    monkeypatch.setenv("PATH", str(tmp_path))
    assert "apt-get install chromium chromium-driver" in dies(main, flags)


def test_every_flag_of_the_door_belongs_to_a_benchmark():
    """A flag that goes with none would be refused everywhere."""
    parser = ArgumentParser()
    online.add_flags(parser)
    given = vars(parser.parse_args([]))
    assert set(given.values()) == {None}
    assert set(given) | {"data"} == set().union(*FLAGS.values())
