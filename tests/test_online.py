"""benchmarks/online.py: the door to what is played, and MiniWoB++ by BrowserGym's protocol. Most of
it is shown on a small world in the browser's place; what needs a browser is skipped where there is
none."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from helpers import hub, make_run
from PIL import Image

from agent import Plan
from benchmarks import online
from benchmarks.browser import find_programs
from benchmarks.episodes import LABELS, Player
from benchmarks.miniwob import known_tasks
from benchmarks.online import (
    FLAGS,
    evaluate_miniwob,
    idle_planner,
    moves_planner,
    table,
)
from envs import Action, Observation, find_element
from eval import main, oracle_planner

ROOT = Path(__file__).resolve().parent.parent

# ---- a world in the browser's place -------------------------------------------------------------

SAVE = Action("click", "Save", (0.25, 0.5))
EXIT = Action("click", "Exit", (0.75, 0.5))


class Page:
    """A page with two buttons: Save, pressed as often as the task needs, earns its reward."""

    splits = ("train", "test")
    task = ""
    rewards = {"save-1": 1.0, "save-2": 1.0, "half": 0.5, "crash": 0.0}
    needed = {"save-1": 1, "save-2": 2, "half": 1, "crash": 1}
    opened: list = []
    played: list = []

    def __init__(self, split: str, scale: int, history: int):
        assert split == "test"
        self.scale = scale
        self.oracle_steps = 0
        self.opened.append(self)

    def reset(self, seed: int):
        self.seed = seed
        self.presses = 0
        self.steps = 0
        self.played.append((self.task, seed))
        return self.observe(), {}

    def observe(self) -> Observation:
        picture = Image.new("RGB", (160 * self.scale, 210 * self.scale))
        return Observation("press Save", lambda: picture, ())

    def visible(self):
        return (("Save", (0.0, 0.0, 0.5, 1.0)), ("Exit", (0.5, 0.0, 1.0, 1.0)))

    def key(self) -> str:
        return f"{self.task}/{self.seed}/{self.steps}"

    def moves(self, rng: random.Random):
        return [SAVE, EXIT]

    def oracle(self, horizon: int, exact: bool = False):
        return [SAVE] * min(horizon, self.needed[self.task] - self.presses)

    def ground(self, action: Action):
        return find_element(action, self.visible(), self.key())

    def step(self, action, said=""):
        self.steps += 1
        self.presses += action == SAVE
        crashed = self.task == "crash"
        over = self.presses == self.needed[self.task]
        raw_reward = self.rewards[self.task] if over else 0.0
        info = {
            "result": "failed" if action is None else "ok",
            "success": over and raw_reward == 1.0,
            "success_browsergym": over and raw_reward > 0,
            "raw_reward": raw_reward,
            "reason": "",
            "crashed": crashed,
        }
        return self.observe(), raw_reward, over or crashed, False, info

    def close(self) -> None:
        self.opened.remove(self)


@pytest.fixture
def pages(monkeypatch) -> type[Page]:
    """evaluate_miniwob meets Page in the place of MiniWoB++."""

    def miniwob_world(tasks):
        for task in tasks:
            if task not in Page.needed:
                raise ValueError(f"unknown task {task}")
        return type("OnePage", (Page,), {"task": tasks[0]})

    monkeypatch.setattr(online, "miniwob_world", miniwob_world)
    monkeypatch.setattr(online, "known_tasks", lambda: ("half", "save-1", "save-2"))
    monkeypatch.setattr(online, "find_programs", dict)
    monkeypatch.setattr(online, "version", lambda package: "1.1.0")
    Page.opened.clear()
    Page.played.clear()
    return Page


def the_oracle(**changes) -> Player:
    return Player(**({"planner": oracle_planner(2), "name": "oracle", "horizon": 2} | changes))


def read_lines(file: Path) -> list[dict]:
    return [json.loads(line) for line in file.read_text().splitlines()]


# ---- numbers ------------------------------------------------------------------------------------


def test_two_kinds_of_success_stand_side_by_side(pages, tmp_path):
    """Ours wants all of the reward, BrowserGym's any of it."""
    result = evaluate_miniwob(the_oracle(), tmp_path, ["save-1", "half"], seeds=4)
    assert (result["tasks"], result["seeds"], result["n"]) == (2, 4, 8)
    assert result["success"] == 0.5
    assert result["browsergym"]["success"] == 1.0
    assert result["by_task"]["half"] == {
        "success": 0.0,
        "browsergym": 1.0,
        "steps": 1.0,
        "solved": [0, 0, 0, 0],
    }
    assert result["by_task"]["save-1"]["solved"] == [1, 1, 1, 1]


def test_one_interval_is_of_the_episodes_and_one_over_the_tasks(pages, tmp_path):
    """Of two tasks, one always solved and one never, nothing is known of other tasks."""
    result = evaluate_miniwob(the_oracle(), tmp_path, ["save-1", "half"], seeds=4)
    assert result["ci95"] == pytest.approx([0.2152, 0.7848], abs=1e-4)
    assert result["ci95_over_tasks"] == [0.0, 1.0]
    assert result["browsergym"]["ci95_over_tasks"] == [1.0, 1.0]


def test_what_is_said_to_a_person(pages, tmp_path):
    result = evaluate_miniwob(the_oracle(), tmp_path, ["save-2", "half"], seeds=2)
    header, *rows = table(result).splitlines()
    assert header.split() == ["task", "solved", "BrowserGym", "steps"]
    assert rows[0].split() == ["save-2", "100%", "100%", "2.0"]
    assert rows[1].split() == ["half", "0%", "100%", "1.0"]
    assert rows[2] == (
        f"oracle: 2 tasks x 2 seeds, at most 10 steps; points by {LABELS}; 0 crashed"
    )
    assert rows[3].startswith("solved (raw reward 1)           50.0%   95 % intervals: ")
    assert rows[4].startswith("BrowserGym (raw reward > 0)    100.0%   95 % intervals: ")


def test_shares_of_steps_and_of_forecasts(pages, tmp_path):
    """Of five steps one is refused, one cannot be read."""
    lines = iter([[Action("click", "Nowhere")], [], [SAVE], [SAVE, EXIT]])

    def planner(observations, envs):
        return [Plan(next(lines), tokens=3)]

    result = evaluate_miniwob(the_oracle(planner=planner), tmp_path, ["save-2"], seeds=1)
    assert result["failed"] == 2 / 4
    assert result["unreadable"] == 1 / 4
    assert result["steps_per_episode"] == 4
    assert result["tokens_per_episode"] == 12


def test_the_budget_of_steps(pages, tmp_path):
    result = evaluate_miniwob(the_oracle(), tmp_path / "one", ["save-2"], seeds=2, steps=1)
    assert result["success"] == 0.0
    assert result["steps_per_episode"] == 1
    result = evaluate_miniwob(the_oracle(), tmp_path / "two", ["save-2"], seeds=2, steps=2)
    assert result["success"] == 1.0


def test_floors(pages, tmp_path):
    nothing = Player(idle_planner, "nothing", 5)
    result = evaluate_miniwob(nothing, tmp_path / "nothing", seeds=3)
    assert result["success"] == result["browsergym"]["success"] == 0.0
    assert result["steps_per_episode"] == 10
    chance = Player(moves_planner(), "random", 5)
    result = evaluate_miniwob(chance, tmp_path / "random", ["save-1"], seeds=40, steps=1)
    assert 0.25 < result["success"] < 0.75  # one button of two


def test_all_tasks_are_played_by_default(pages, tmp_path):
    result = evaluate_miniwob(the_oracle(), tmp_path, seeds=1)
    assert list(result["by_task"]) == ["half", "save-1", "save-2"]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"seeds": 0}, "--seeds 0: must lie in 1..1000000"),
        ({"steps": 0}, "--steps 0: must lie in 1..10"),
        ({"steps": 11}, "--steps 11: must lie in 1..10"),
        ({"browsers": 5}, "--browsers 5: must lie in 1..4"),
        ({"tasks": ["save-1", "fly"]}, "unknown task fly"),
    ],
)
def test_what_cannot_be_played_makes_no_folder(given, message, pages, tmp_path):
    with pytest.raises(ValueError, match=message):
        evaluate_miniwob(the_oracle(), tmp_path / "new", **given)
    assert not (tmp_path / "new").exists()


# ---- what is kept -------------------------------------------------------------------------------


class Killed(Exception):
    pass


def killed_after(episodes: int, player: Player) -> Player:
    """The same player, stopped when it is asked about one more episode."""

    def planner(observations, envs):
        finished = len(set(Page.played)) - len(envs)
        if finished >= episodes:
            raise Killed
        return player.planner(observations, envs)

    return the_oracle(planner=planner, name=player.name, horizon=player.horizon)


@pytest.mark.parametrize("browsers", [1, 2, 3])
def test_after_a_kill_the_same_command_plays_what_is_missing(browsers, pages, tmp_path):
    tasks = ["save-1", "save-2", "half"]
    whole = evaluate_miniwob(the_oracle(), tmp_path / "whole", tasks, seeds=4, browsers=browsers)
    pages.played.clear()
    with pytest.raises(Killed):
        evaluate_miniwob(
            killed_after(5, the_oracle()), tmp_path / "cut", tasks, seeds=4, browsers=browsers
        )
    assert not pages.opened  # whatever happens, browsers are given back
    kept = []
    for file in (tmp_path / "cut" / "episodes").iterdir():
        kept += [(line["task"], line["seed"]) for line in read_lines(file)]
    assert len(kept) >= 4
    pages.played.clear()
    cut = evaluate_miniwob(the_oracle(), tmp_path / "cut", tasks, seeds=4, browsers=browsers)
    everything = {(task, seed) for task in tasks for seed in range(4)}
    assert set(pages.played) == everything - set(kept)
    assert len(pages.played) == len(everything) - len(kept)
    del whole["seconds"], cut["seconds"]
    assert cut == whole


def test_nothing_is_played_twice(pages, tmp_path):
    first = evaluate_miniwob(the_oracle(), tmp_path, ["save-1"], seeds=2)
    pages.played.clear()
    assert evaluate_miniwob(the_oracle(), tmp_path, ["save-1"], seeds=2) == first
    assert pages.played == []
    more = evaluate_miniwob(the_oracle(), tmp_path, ["save-1", "half"], seeds=3)
    assert sorted(pages.played) == [("half", 0), ("half", 1), ("half", 2), ("save-1", 2)]
    assert more["n"] == 6
    fewer = evaluate_miniwob(the_oracle(), tmp_path, ["half"], seeds=1)
    assert (fewer["n"], fewer["success"]) == (1, 0.0)


def test_chance_draws_the_same_after_a_kill(pages, tmp_path):
    chance = Player(moves_planner(), "random", 5)
    whole = evaluate_miniwob(chance, tmp_path / "whole", ["save-2"], seeds=6, steps=4)
    evaluate_miniwob(chance, tmp_path / "parts", ["save-2"], seeds=2, steps=4, browsers=1)
    later = evaluate_miniwob(chance, tmp_path / "parts", ["save-2"], seeds=6, steps=4, browsers=3)
    assert later["by_task"] == whole["by_task"]


def test_a_crashed_browser_costs_one_episode_and_one_line(pages, tmp_path, capsys):
    result = evaluate_miniwob(the_oracle(), tmp_path, ["crash", "save-1"], seeds=1)
    assert result["crashed"] == 1
    assert result["success"] == 0.5
    assert result["by_task"]["crash"]["success"] == 0.0
    errors = capsys.readouterr().err
    assert errors.count("crash, seed 0: crashed, not solved") == 1
    assert "; 1 crashed" in table(result)


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
    asked = {}

    def evaluate(planner, clone, output, **settings):
        assert str(planner([None], [None])[0].forecast[0]) == "wait"
        settings.pop("progress")(1)
        asked.update(settings, clone=clone, output=output)
        return {"protocol": bench}

    module = getattr(online, bench)
    monkeypatch.setattr(module, f"evaluate_{bench}", evaluate)
    monkeypatch.setattr(module, "table", lambda result: f"the table of {result['protocol']}")
    monkeypatch.setattr(online.osworld, "check_osworld", lambda *_: [])
    own = {
        "androidworld": ["--combinations", "3"],
        "osworld": ["--provider", "docker", "--path_to_vm", "vm.qcow2", "--steps", "50"],
    }
    flags = ["--bench", bench, "--planner", "nothing", "--data", "clone", "--tasks", "a,b"]
    main([*flags, *own[bench], "--output_dir", str(tmp_path)])
    assert asked["model_name"] == "nothing"
    assert asked["tasks"] == ["a", "b"]
    assert (asked["clone"], asked["output"]) == ("clone", tmp_path)
    if bench == "androidworld":
        assert asked["combinations"] == 3
    else:
        assert asked["provider"] == "docker"
        assert asked["path_to_vm"] == "vm.qcow2"
        assert asked["budget"] == 50
    assert f"the table of {bench}" in capsys.readouterr().out


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
    from argparse import ArgumentParser

    parser = ArgumentParser()
    online.add_flags(parser)
    given = vars(parser.parse_args([]))
    assert set(given.values()) == {None}
    assert set(given) | {"data"} == set().union(*FLAGS.values())


# ---- in a browser -------------------------------------------------------------------------------


def missing() -> str:
    """What is not installed; empty where all is."""
    try:
        find_programs()
        known_tasks()
    except ValueError as problem:
        return str(problem)
    return ""


in_a_browser = pytest.mark.skipif(bool(missing()), reason=missing())


def command(folder: Path, *flags: str) -> list[str]:
    base = [sys.executable, str(ROOT / "eval.py"), "--bench", "miniwob", "--planner", "oracle"]
    return [*base, "--output_dir", str(folder), *flags]


def processes_of(folder: Path) -> list[str]:
    """The command lines of all processes that have to do with a folder."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            line = (process / "cmdline").read_bytes() + (process / "environ").read_bytes()
        except OSError:
            continue  # it has just ended
        is_us = process.name == str(os.getpid())
        if str(folder).encode() in line and not is_us:
            found.append(line.replace(b"\0", b" ").decode(errors="replace")[:200])
    return found


@pytest.fixture
def nest():
    """A folder for temporary files with a short name: chromium opens a socket in it."""
    with TemporaryDirectory(prefix="nest-") as folder:
        yield Path(folder)


@in_a_browser
def test_after_kill_9_no_browser_lives_and_the_same_command_ends_it(nest, tmp_path):
    folder = tmp_path / "out"
    line = command(folder, "--tasks", "click-button,click-link", "--seeds", "3")
    surroundings = os.environ | {"TMPDIR": str(nest)}

    first = subprocess.Popen(line, env=surroundings, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 300
    while not list(folder.glob("episodes/*.jsonl")) and time.monotonic() < deadline:
        assert first.poll() is None
        time.sleep(0.05)
    browsers = [process for process in processes_of(nest) if "chrom" in process]
    first.send_signal(signal.SIGKILL)
    first.wait()
    assert browsers
    time.sleep(2)
    assert [process for process in processes_of(nest) if "chrom" in process] == []

    kept = {}
    for file in folder.glob("episodes/*.jsonl"):
        for text in file.read_text().splitlines():
            kept[file.name, json.loads(text)["seed"]] = text
    assert 0 < len(kept) < 6
    subprocess.run(line, env=surroundings, check=True, timeout=600, capture_output=True)
    result = json.loads((folder / "result.json").read_text())
    assert (result["n"], result["success"], result["crashed"]) == (6, 1.0, 0)
    for (name, _seed), text in kept.items():
        assert text in (folder / "episodes" / name).read_text().splitlines()
    deadline = time.monotonic() + 20  # a script removes the folder after the browser's end
    while (processes_of(nest) or list(nest.iterdir())) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert processes_of(nest) == []
    assert list(nest.iterdir()) == []


@in_a_browser
def test_a_browser_that_is_killed_costs_its_episode(tmp_path, capsys):
    """Seed 1 of the first task loses its browser; all others are solved."""

    def planner(observations, envs):
        for env in envs:
            if (env.task, env.seed) == ("click-link", 1):
                env.browser.instance.driver.service.process.kill()
        return oracle_planner(2)(observations, envs)

    who = Player(planner, "oracle with an accident", 2)
    result = evaluate_miniwob(who, tmp_path / "out", ["click-link", "click-button"], seeds=2)
    assert result["crashed"] == 1
    assert result["by_task"]["click-link"]["solved"] == [1, 0]
    assert result["by_task"]["click-button"]["solved"] == [1, 1]
    assert capsys.readouterr().err.count("click-link, seed 1: crashed, not solved") == 1


@in_a_browser
def test_the_tasks_are_the_125_of_browsergym():
    """Those of miniwob 1.1.0 without the three of FlightWoB."""
    assert len(known_tasks()) == 125
    assert not [task for task in known_tasks() if task.startswith("flight")]
