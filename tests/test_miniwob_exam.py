"""MiniWoB++ by BrowserGym's protocol: two kinds of success, what is kept, and what a kill costs.
Most of it is shown on a small world in the browser's place (page_world.py); what needs a browser is
skipped where there is none."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from page_world import EXIT, SAVE, Page, play_pages

from agent import Plan
from benchmarks.browser import Browser, find_programs
from benchmarks.episodes import LABELS, NotBegun, Player
from benchmarks.miniwob import known_tasks
from benchmarks.miniwob_exam import evaluate, table
from benchmarks.online import idle_planner, moves_planner
from envs import SPLIT_SIZE, Action
from eval import oracle_planner

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture
def pages(monkeypatch) -> type[Page]:
    return play_pages(monkeypatch)


def the_oracle(**changes) -> Player:
    return Player(**({"planner": oracle_planner(2), "name": "oracle", "horizon": 2} | changes))


def read_lines(file: Path) -> list[dict]:
    return [json.loads(line) for line in file.read_text().splitlines()]


# ---- numbers ------------------------------------------------------------------------------------


def test_two_kinds_of_success_stand_side_by_side(pages, tmp_path):
    """Ours wants all of the reward, BrowserGym's any of it."""
    result = evaluate(the_oracle(), tmp_path, ["save-1", "half"], seeds=4)
    assert (result["tasks"], result["seeds"], result["n"]) == (2, 4, 8)
    assert result["success"] == 0.5
    assert result["browsergym"]["success"] == 1.0
    assert result["by_task"]["half"] == {
        "success": 0.0,
        "ci95": pytest.approx([0.0, 0.4899], abs=1e-4),
        "browsergym": 1.0,
        "browsergym_ci95": pytest.approx([0.5101, 1.0], abs=1e-4),
        "steps": 1.0,
        "solved": [0, 0, 0, 0],
    }
    assert result["by_task"]["save-1"]["solved"] == [1, 1, 1, 1]


def test_one_interval_is_of_the_episodes_and_one_over_the_tasks(pages, tmp_path):
    """Of two tasks, one always solved and one never, nothing is known of other tasks."""
    result = evaluate(the_oracle(), tmp_path, ["save-1", "half"], seeds=4)
    assert result["ci95"] == pytest.approx([0.2152, 0.7848], abs=1e-4)
    assert result["ci95_over_tasks"] == [0.0, 1.0]
    assert result["browsergym"]["ci95_over_tasks"] == [1.0, 1.0]


def test_what_is_said_to_a_person(pages, tmp_path):
    result = evaluate(the_oracle(), tmp_path, ["save-2", "half"], seeds=2)
    header, *rows = table(result).splitlines()
    assert header.split("  ")[-1].strip() == "solved, 95 % (Wilson)"
    assert header.split()[:4] == ["task", "solved", "BrowserGym", "steps"]
    assert rows[0].split() == ["save-2", "100.0%", "100.0%", "2.0", "34.2%", "to", "100.0%"]
    assert rows[1].split() == ["half", "0.0%", "100.0%", "1.0", "0.0%", "to", "65.8%"]
    assert header.index("steps") + len("steps") == rows[0].index("2.0") + len("2.0")
    assert rows[2] == (
        f"oracle: 2 tasks x 2 seeds, at most 10 steps; points by {LABELS}; 0 crashed"
    )
    assert re.match(r"solved \(raw reward 1\) +50.0%   95 % intervals: ", rows[3])
    assert re.match(r"BrowserGym \(raw reward > 0\) +100.0%   95 % intervals: ", rows[4])


def test_shares_of_steps_and_of_forecasts(pages, tmp_path):
    """Of five steps one is refused, one cannot be read."""
    lines = iter([[Action("click", "Nowhere")], [], [SAVE], [SAVE, EXIT]])

    def planner(observations, envs):
        return [Plan(next(lines), tokens=3)]

    result = evaluate(the_oracle(planner=planner), tmp_path, ["save-2"], seeds=1)
    assert result["failed"] == 2 / 4
    assert result["unreadable"] == 1 / 4
    assert result["steps_per_episode"] == 4
    assert result["tokens_per_episode"] == 12


def test_the_budget_of_steps(pages, tmp_path):
    result = evaluate(the_oracle(), tmp_path / "one", ["save-2"], seeds=2, steps=1)
    assert result["success"] == 0.0
    assert result["steps_per_episode"] == 1
    result = evaluate(the_oracle(), tmp_path / "two", ["save-2"], seeds=2, steps=2)
    assert result["success"] == 1.0


def test_floors(pages, tmp_path):
    nothing = Player(idle_planner, "nothing", 5)
    result = evaluate(nothing, tmp_path / "nothing", seeds=3)
    assert result["success"] == result["browsergym"]["success"] == 0.0
    assert result["steps_per_episode"] == 10
    chance = Player(moves_planner(), "random", 5)
    result = evaluate(chance, tmp_path / "random", ["save-1"], seeds=40, steps=1)
    assert 0.25 < result["success"] < 0.75  # one button of two


def test_all_tasks_are_played_by_default(pages, tmp_path):
    result = evaluate(the_oracle(), tmp_path, seeds=1)
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
        evaluate(the_oracle(), tmp_path / "new", **given)
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
    whole = evaluate(the_oracle(), tmp_path / "whole", tasks, seeds=4, browsers=browsers)
    pages.played.clear()
    with pytest.raises(Killed):
        evaluate(killed_after(5, the_oracle()), tmp_path / "cut", tasks, seeds=4, browsers=browsers)
    assert not pages.opened  # whatever happens, browsers are given back
    kept = []
    for file in (tmp_path / "cut" / "episodes").iterdir():
        kept += [(line["task"], line["seed"]) for line in read_lines(file)]
    assert len(kept) >= 4
    pages.played.clear()
    cut = evaluate(the_oracle(), tmp_path / "cut", tasks, seeds=4, browsers=browsers)
    everything = {(task, seed) for task in tasks for seed in range(4)}
    assert set(pages.played) == everything - set(kept)
    assert len(pages.played) == len(everything) - len(kept)
    del whole["seconds"], cut["seconds"]
    assert cut == whole


def test_nothing_is_played_twice(pages, tmp_path):
    first = evaluate(the_oracle(), tmp_path, ["save-1"], seeds=2)
    pages.played.clear()
    assert evaluate(the_oracle(), tmp_path, ["save-1"], seeds=2) == first
    assert pages.played == []
    more = evaluate(the_oracle(), tmp_path, ["save-1", "half"], seeds=3)
    assert sorted(pages.played) == [("half", 0), ("half", 1), ("half", 2), ("save-1", 2)]
    assert more["n"] == 6
    fewer = evaluate(the_oracle(), tmp_path, ["half"], seeds=1)
    assert (fewer["n"], fewer["success"]) == (1, 0.0)


def test_chance_draws_the_same_after_a_kill(pages, tmp_path):
    chance = Player(moves_planner(), "random", 5)
    whole = evaluate(chance, tmp_path / "whole", ["save-2"], seeds=6, steps=4)
    evaluate(chance, tmp_path / "parts", ["save-2"], seeds=2, steps=4, browsers=1)
    later = evaluate(chance, tmp_path / "parts", ["save-2"], seeds=6, steps=4, browsers=3)
    assert later["by_task"] == whole["by_task"]


def test_a_crashed_browser_costs_one_episode_and_one_line(pages, tmp_path, capsys):
    result = evaluate(the_oracle(), tmp_path, ["crash", "save-1"], seeds=1)
    assert result["crashed"] == 1
    assert result["success"] == 0.5
    assert result["by_task"]["crash"]["success"] == 0.0
    errors = capsys.readouterr().err
    assert errors.count("crash, seed 0: crashed, not solved") == 1
    assert "; 1 crashed" in table(result)


def test_when_every_browser_crashes_before_a_step_there_is_still_a_result(
    pages, tmp_path, monkeypatch
):
    def crash(self, seed):
        raise NotBegun("chromium crashes")

    monkeypatch.setattr(pages, "reset", crash)
    result = evaluate(the_oracle(), tmp_path, ["save-1"], seeds=3)
    assert (result["crashed"], result["success"], result["browsergym"]["success"]) == (3, 0, 0)
    assert result["by_task"]["save-1"]["ci95"] == pytest.approx([0.0, 0.5615], abs=1e-4)
    assert result["failed"] is None
    assert "; 3 crashed" in table(result)


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
    result = evaluate(who, tmp_path / "out", ["click-link", "click-button"], seeds=2)
    assert result["crashed"] == 1
    assert result["by_task"]["click-link"]["solved"] == [1, 0]
    assert result["by_task"]["click-button"]["solved"] == [1, 1]
    assert capsys.readouterr().err.count("click-link, seed 1: crashed, not solved") == 1


@in_a_browser
def test_two_browsers_that_are_killed_over_a_first_page_cost_its_episode(
    tmp_path, capsys, monkeypatch
):
    load = Browser.load

    def die_over_seed_1(self, task, seed, scale):
        if seed % SPLIT_SIZE == 1:
            self.instance.driver.service.process.kill()
        return load(self, task, seed, scale)

    monkeypatch.setattr(Browser, "load", die_over_seed_1)
    result = evaluate(the_oracle(), tmp_path / "out", ["click-link"], seeds=3, browsers=1)
    assert result["crashed"] == 1
    assert result["by_task"]["click-link"]["solved"] == [1, 0, 1]
    assert capsys.readouterr().err.count("click-link, seed 1: crashed, not solved") == 1


@in_a_browser
def test_the_tasks_are_the_125_of_browsergym():
    """Those of miniwob 1.1.0 without the three of FlightWoB."""
    assert len(known_tasks()) == 125
    assert not [task for task in known_tasks() if task.startswith("flight")]
