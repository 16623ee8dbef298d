"""extras/warm_start.py: targets of the reading lesson, damaged plans, the check, the folder."""

import json
import random
from dataclasses import replace

import pytest
import torch

from envs import Action, Example, Observation
from extras import warm_start
from extras.warm_start import (
    WarmStart,
    check_start,
    damage,
    draw_lessons,
    names_target,
    reading_targets,
    warm_base,
)
from extras.worlds import WORLDS
from train import parse_config, warm_start_settings


def settings(**changes) -> WarmStart:
    """A warm start in a moment."""
    flags = ["--reading_steps=2", "--warmup_steps=2", "--warmup_batch=2", "--train_tasks=20"]
    return replace(warm_start_settings(parse_config(flags)), **changes)


# ---- the folder ----------------------------------------------------------------------------------


def test_a_warm_start_is_made_once_for_its_settings(tmp_path, monkeypatch):
    monkeypatch.setattr(warm_start, "check_start", lambda *_: {"passed": True})
    folder = warm_base(settings(), tmp_path)
    learnt = json.loads((folder / "warmup.json").read_text())
    assert learnt["made_by"]["reading_steps"] == 2
    assert "max_grad_norm" not in learnt["made_by"]
    assert 0 <= learnt["reading"] <= 1
    assert learnt["loss"] > 0
    assert [path.name for path in tmp_path.iterdir()] == [folder.name]  # nothing unfinished

    monkeypatch.setattr(warm_start, "make_tiny", lambda *_: pytest.fail("made again"))
    assert warm_base(settings(), tmp_path) == folder
    assert warm_base(settings(max_grad_norm=2.0), tmp_path) == folder
    with pytest.raises(pytest.fail.Exception, match="made again"):
        warm_base(settings(seed=1), tmp_path)


# ---- reading -------------------------------------------------------------------------------------


class Screen:
    """Two rows of three cells: a button called Save, and a word alone."""

    grid = (3, 2)

    def cells(self) -> dict:
        return {(0, 0): "<button>", (1, 0): "Save", (2, 1): "Saved"}


def test_a_cell_names_its_word_and_the_icon_left_of_it():
    vocabulary = {"<blank>": 0, "<button>": 1, "Save": 2, "Saved": 3}
    wanted, weight = reading_targets([Screen(), Screen()], vocabulary)
    first_screen = [
        [0.0, 1.0, 0.0, 0.0],  # the icon
        [0.0, 0.25, 0.75, 0.0],  # its word, which also says what it is
        [1.0, 0.0, 0.0, 0.0],  # blank cells
        [1.0, 0.0, 0.0, 0.0],
        [1.0, 0.0, 0.0, 0.0],
        [0.0, 0.0, 0.0, 1.0],  # a word without an icon
    ]
    torch.testing.assert_close(wanted, torch.tensor(first_screen * 2))
    weights = [1.0, 1.0, 0.1, 0.1, 0.1, 1.0]
    torch.testing.assert_close(weight, torch.tensor(weights * 2))


# ---- imitating -----------------------------------------------------------------------------------


@pytest.mark.parametrize("env", WORLDS)
def test_half_of_the_lessons_after_the_first_state_carry_a_plan(env):
    rng = random.Random(0)
    lessons = []
    for _ in range(100):
        pair = draw_lessons(settings(env=env), rng, horizon=4)
        assert len(pair) == 2
        lessons += pair
    with_plan = [lesson for lesson in lessons if lesson.observation.plan]
    assert 0.2 < len(with_plan) / len(lessons) < 0.5  # some are first states, some plans are empty
    assert all(1 <= len(lesson.answer) <= 4 for lesson in lessons)
    assert all(len(lesson.observation.plan) <= 3 for lesson in with_plan)


@pytest.mark.parametrize("env", WORLDS)
def test_a_damaged_plan_is_cut_and_has_false_steps(env):
    plan = tuple(Action("type", str(i)) for i in range(5))
    rng = random.Random(0)
    lengths = set()
    kept = 0
    for _ in range(200):
        damaged = damage(plan, WORLDS[env], rng, horizon=5)
        lengths.add(len(damaged))
        kept += sum(action in plan for action in damaged)
    assert lengths == {0, 1, 2, 3, 4, 5}
    assert kept / 500 == pytest.approx(0.7, abs=0.07)  # of 200 plans with 2.5 steps on average


# ---- the check -----------------------------------------------------------------------------------


def example(**parts) -> Example:
    return Example(Observation("", lambda: None), **parts)


def test_an_action_may_say_either_name_of_the_element():
    save = (0.0, 0.0, 0.5, 0.5)
    exit_ = (0.5, 0.5, 1.0, 1.0)
    truth = example(
        reference=(Action("click", "Keep"),),
        boxes=(save,),
        elements=(("Save", save), ("Exit", exit_)),
    )
    assert names_target(Action("click", "Keep"), truth)
    assert names_target(Action("click", "Save"), truth)
    assert not names_target(Action("click", "Exit"), truth)
    assert not names_target(Action("type", "Save"), truth)


def test_a_tool_may_be_called_by_its_own_name():
    truth = example(reference=(Action("call", "sum 1 2"),), goals=(Action("call", "add 1 2 = 3"),))
    assert names_target(Action("call", "sum 1 2"), truth)
    assert names_target(Action("call", "add 1 2"), truth)
    assert not names_target(Action("call", "sub 1 2"), truth)


@pytest.mark.parametrize(
    ("with_plan", "dialogs", "passed"),
    [
        (0.80, 0.95, True),
        (0.76, 0.95, True),  # a plan may cost five points
        (0.74, 0.95, False),
        (0.80, 0.85, False),  # nine in ten dialogs are closed
        (0.80, 0.0, False),
        (0.80, None, True),  # a world without dialogs
    ],
)
def test_the_check_passes_where_a_plan_does_no_harm(with_plan, dialogs, passed, monkeypatch, capfd):
    shares = iter([0.80, with_plan, 0.10])

    def check_plans(policy, probes, plans):
        assert len(probes) == len(plans) == 3
        return {"first_action": next(shares), "dialogs": dialogs}

    monkeypatch.setattr(warm_start, "check_plans", check_plans)
    check = check_start(None, settings(), n=3)
    assert list(check) == ["without", "with_plan", "misled", "passed"]
    assert check["passed"] == passed
    assert ("warning: the warm start acts worse" in capfd.readouterr().err) != passed


def test_the_check_counts_right_first_actions_and_dialogs(policy):
    check = check_start(policy, settings(), n=20)
    for name in ("without", "with_plan", "misled"):
        assert check[name]["n"] == 20
        assert 0 <= check[name]["first_action"] <= 1
        assert 0 <= check[name]["n_dialogs"] <= 20
