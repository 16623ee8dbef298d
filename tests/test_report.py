"""extras/report.py: what a run tells a person."""

import dataclasses
import time

import pytest
from helpers import small

from extras.report import Clock, Streak, announce, last_success
from extras.run_folder import RunFolder


def open_folder(tiny, tmp_path) -> RunFolder:
    return RunFolder(dataclasses.asdict(small(tmp_path / "run", tiny)))


def test_the_last_success_is_that_of_the_last_exam(tiny, tmp_path):
    run = open_folder(tiny, tmp_path)
    assert last_success(run) == "-"
    run.results["test"] = {"random": {"success": 0.0}, "warmup": {"success": 0.25}}
    assert last_success(run) == "25.0%"


def test_a_streak_is_told_once_at_its_tenth_update(capfd):
    streak = Streak("too bad")
    for wrong in [True] * 9 + [False] + [True] * 9:
        streak.look(wrong)
    assert capfd.readouterr().err == ""
    for _ in range(5):
        streak.look(True)
    assert capfd.readouterr().err == "warning: too bad\n"


def test_each_lap_is_added_to_its_name(tiny, tmp_path, monkeypatch):
    run = open_folder(tiny, tmp_path)
    now = iter([0.0, 2.0, 5.0, 6.0])
    monkeypatch.setattr(time, "monotonic", lambda: next(now))
    clock = Clock()
    clock.lap(run, "stage1")
    clock.lap(run, "exams")
    clock.lap(run, "stage1")
    assert run.results["seconds"] == {"stage1": 3.0, "exams": 3.0}


@pytest.mark.parametrize(("budget", "told"), [(0, False), (512, True)])
def test_the_first_line_tells_of_thoughts_where_there_are_any(tiny, tmp_path, capsys, budget, told):
    run = open_folder(tiny, tmp_path)
    run.config["thinking"] = budget
    announce(run)
    line = capsys.readouterr().out
    assert "3 prompts x 4 forecasts = 12 rollouts an update" in line
    assert ("up to 512 tokens of thought" in line) == told
    assert line.count("\n") == 1
