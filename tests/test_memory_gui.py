"""The memory dial (extras/memory_gui.py): its tasks, and what a plan in the prompt has to teach."""

import random
from dataclasses import replace

import pytest

from agent import format_forecast
from envs import Action, ToyGUI
from extras.memory_gui import PLAN_STEPS, continuations, draw_copying, memory_gui
from extras.worlds import find_world
from train import parse_config, warm_start_settings

PLAN = (Action("click", "Wifi"), Action("type", "coral"), Action("click", "Save"))


def tasks_of(share: float, n: int) -> list:
    env = memory_gui(share)("dev")
    tasks = []
    for index in range(n):
        env.reset(index)
        tasks.append(env.task)
    return tasks


# ---- the tasks -----------------------------------------------------------------------------------


def test_the_share_is_the_share_of_tasks_with_a_code():
    for share, least, most in ((0.0, 0, 0), (0.5, 70, 130), (1.0, 200, 200)):
        with_code = sum(task.code is not None for task in tasks_of(share, 200))
        assert least <= with_code <= most


def test_turning_the_dial_up_hides_more_values_and_changes_nothing_else():
    for less, more in zip(tasks_of(0.25, 60), tasks_of(0.75, 60), strict=True):
        assert replace(less, code=more.code, instruction=more.instruction) == more
        if less.code is not None:
            assert more == less


def test_a_code_is_shown_on_the_first_page_alone():
    env = memory_gui(1.0)("dev")
    for index in range(60):
        env.reset(index)
        for page in range(len(env.task.pages)):
            env.open_page(page)
            shown = [label for label, _box in env.visible()]
            assert (env.task.code in shown) == (page == env.task.first_page)


def test_it_is_typed_on_another_page_and_the_instruction_does_not_say_it():
    for with_code, plain in zip(tasks_of(1.0, 60), tasks_of(0.0, 60), strict=True):
        pages = [goal.page for goal in with_code.goals if goal.value == with_code.code]
        assert any(page != with_code.first_page for page in pages)
        assert "type code in" in with_code.instruction
        assert f"type {with_code.code} in" in plain.instruction
        assert "code" not in plain.instruction


@pytest.mark.parametrize("share", [-0.1, 1.1, float("nan")])
def test_a_share_is_a_share(share):
    with pytest.raises(ValueError, match="the share must lie in 0..1"):
        memory_gui(share)


def test_the_usual_toy_has_no_dial():
    assert ToyGUI.memory is None


def test_the_dial_has_a_name_for_the_command_line():
    assert find_world("toy-gui:memory=0.5") is memory_gui(0.5)


# ---- copying -------------------------------------------------------------------------------------


def test_a_plan_is_gone_on_with_from_each_step_but_the_last():
    assert continuations(PLAN, "near") == (
        ("click Wifi", "\ntype coral\nclick Save"),
        ("type coral", "\nclick Save"),
    )


def test_from_far_to_near_it_is_gone_on_with_towards_its_first_step():
    assert continuations(PLAN, "far") == (
        ("click Save", "\ntype coral\nclick Wifi"),
        ("type coral", "\nclick Wifi"),
    )


@pytest.mark.parametrize("order", ["near", "far"])
def test_all_that_is_to_be_written_stands_in_the_prompt(order):
    for drill in draw_copying(random.Random(0), tasks=100, order=order):
        plan = drill.observation.plan
        assert len(plan) == PLAN_STEPS
        given, written = drill.answers[0]
        assert given + written == format_forecast(plan, far_first=order == "far")


def test_the_same_random_numbers_draw_the_same_drills():
    def prompts() -> list:
        drills = draw_copying(random.Random(3), tasks=100, order="near")
        return [(drill.observation.instruction, drill.answers) for drill in drills]

    assert prompts() == prompts()


def test_the_world_of_the_dial_brings_one_course_and_the_usual_one_none():
    settings = warm_start_settings(parse_config(["--env", "toy-gui:memory=1"]))
    [course] = settings.world.courses(settings)
    assert course.name == "copying"
    usual = warm_start_settings(parse_config(["--env", "toy-gui"]))
    assert not hasattr(usual.world, "courses")
