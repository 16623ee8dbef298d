"""envs.py: actions, and the toy GUI with its contract, its pixels, its oracle, its task families
and its frozen tool agent."""

import hashlib
import json
import math
import random
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from functools import cache
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from envs import (
    ALIASES,
    BODY,
    CELL,
    CHECKS,
    COLS,
    FIELDS,
    FLIPPED,
    ICONS,
    KINDS,
    MAX_TEXT,
    NEW_APPS,
    POINTING,
    ROWS,
    SCREEN_WORDS,
    SLACK,
    SPLIT_SIZE,
    SPLITS,
    TERMINAL,
    TRAIN_APPS,
    Action,
    Dialog,
    Example,
    Guide,
    Menu,
    Observation,
    Task,
    ToyGUI,
    app_pages,
    centre,
    demonstration,
    draw_screen,
    find_element,
    inside,
    make_task,
    one_line,
    own_tool_agent,
    with_states,
)

ANY_HORIZON = 60  # longer than any plan


def make(split: str, seed: int, **settings) -> ToyGUI:
    env = ToyGUI(split, **settings)
    env.reset(seed)
    return env


def calm(split: str, seed: int) -> ToyGUI:
    """A task without interruptions."""
    env = make(split, seed)
    env.popups = []
    env.overlay = None
    return env


def state(env: ToyGUI) -> dict:
    return {
        "page": env.page,
        "offset": env.offset,
        "overlay": env.overlay,
        "focus": env.focus,
        "values": dict(env.values),
        "committed": env.committed,
    }


def restore(env: ToyGUI, before: dict) -> None:
    env.page = before["page"]
    env.offset = before["offset"]
    env.overlay = before["overlay"]
    env.focus = before["focus"]
    env.values = dict(before["values"])
    env.committed = before["committed"]


def labels(env: ToyGUI) -> list[str]:
    return [label for label, _box in env.visible()]


def press(env: ToyGUI, label: str) -> None:
    """A click in the middle of the thing that is called so."""
    boxes = dict(env.visible())
    env.step(Action("click", label, centre(boxes[label])))


def forecast(env: ToyGUI, action: Action) -> tuple:
    """A step as the plan-act loop makes it: through the world's own tool agent."""
    return env.step(env.ground(action), said=str(action))


def lead(env: ToyGUI) -> None:
    """Follow the oracle to where only `done` is left."""
    for _ in range(ANY_HORIZON):
        action = env.oracle(1)[0]
        if action.kind == "done":
            return
        reward = env.step(action)[1]
        assert reward == 0.0
    pytest.fail("the oracle does not come to an end")


def pixels(observation: Observation) -> str:
    return hashlib.sha256(observation.screenshot().tobytes()).hexdigest()


@cache
def tasks(split: str, n: int = 400) -> list[Task]:
    return [make_task(split, seed) for seed in range(n)]


# ---- actions -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "bad",
    [
        {"kind": "tap"},
        {"kind": ""},
        {"kind": "__import__('os')"},
        {"kind": "Click"},
        {"kind": "type", "text": "two\nlines"},
        {"kind": "type", "text": "two\rlines"},
        {"kind": "type", "text": "x" * (MAX_TEXT + 1)},
        {"kind": "type", "text": None},
        {"kind": "type", "text": 7},
        {"kind": "scroll"},
        {"kind": "scroll", "text": "sideways"},
        {"kind": "click", "point": (math.nan, 0.5)},
        {"kind": "click", "point": (0.5, math.inf)},
        {"kind": "click", "point": (1.01, 0.5)},
        {"kind": "click", "point": (0.5, -0.01)},
        {"kind": "click", "point": (0.5,)},
        {"kind": "click", "point": (0.5, 0.5, 0.5)},
        {"kind": "click", "point": ("0.5", "0.5")},
        {"kind": "click", "point": (None, 0.5)},
        {"kind": "click", "point": (0.5, 0.5), "end": (0.5, 0.5)},
        {"kind": "type", "end": (0.5, 0.5)},
        {"kind": "drag", "point": (0.5, 0.5), "end": (0.5, 1.01)},
        {"kind": "drag", "point": (0.5, 0.5), "end": (math.nan, 0.5)},
        {"kind": "drag", "point": (0.5, 0.5), "end": (0.5,)},
    ],
    ids=str,
)
def test_nothing_illegal_can_be_an_action(bad):
    with pytest.raises(ValueError) as error:
        Action(**bad)
    message = str(error.value)
    assert "\n" not in message
    assert len(message) < 200


def test_legal_actions_are_accepted_and_print_as_a_line():
    for kind in KINDS:
        text = "down" if kind == "scroll" else "x" * MAX_TEXT
        point = (0.0, 1.0) if kind in POINTING else None
        assert str(Action(kind, text, point)) == f"{kind} {text}"
    assert str(Action("back")) == "back"
    assert str(Action("drag", "Box to Bin", (0.0, 1.0), (1.0, 0.0))) == "drag Box to Bin"


def test_what_is_expected_is_no_part_of_what_is_done():
    plain = Action("click", "Sound", (0.1, 0.1))
    expecting = Action("click", "Sound", (0.1, 0.1), expects="Sound")
    assert expecting == plain
    assert hash(expecting) == hash(plain)
    assert str(expecting) == "click Sound"
    for bad in ("two\nlines", "x" * (MAX_TEXT + 1), None):
        with pytest.raises(ValueError, match="what click expects must be one line"):
            Action("click", "Sound", expects=bad)


def test_one_line_makes_a_text_that_an_action_takes():
    long = one_line("two\nlines\r\n" * MAX_TEXT)
    assert Action("type", long).text == long
    assert one_line("two\nlines") == "two lines"
    assert len(one_line("x" * 2000, limit=None)) == 2000


@given(st.tuples(st.floats(0, 1), st.floats(0, 1)))
def test_inside_includes_the_edges(point):
    x, y = point
    assert inside(point, (x, y, x, y))
    assert inside(point, (0.0, 0.0, 1.0, 1.0))
    assert not inside(point, (x + 0.01, 0.0, 2.0, 1.0))
    assert not inside(point, (0.0, -1.0, 1.0, y - 0.01))


# ---- contract ------------------------------------------------------------------------------------


def any_step(env: ToyGUI, rng: np.random.Generator) -> Action | None:
    """Anything that an agent may do, a refusal included; `done` in few cases."""
    clicks = [Action("click", label, centre(box)) for label, box in env.visible()]
    others = [Action("back"), Action("scroll", "down"), Action("type", "amber"), Action("home")]
    choices = [*clicks, None, *others]
    if rng.random() < 0.1:
        choices.append(Action("done"))
    return choices[rng.integers(len(choices))]


@pytest.mark.parametrize("split", SPLITS)
def test_environment_contract(split):
    env = ToyGUI(split, history=2)
    rng = np.random.default_rng(0)
    for seed in range(20):
        observation, info = env.reset(seed)
        assert isinstance(observation, Observation)
        assert observation.history == ()
        assert set(info) == {"oracle_steps"}
        ended = False
        steps = 0
        while not ended:
            action = any_step(env, rng)
            observation, reward, terminated, truncated, info = env.step(action)
            steps += 1
            assert isinstance(observation, Observation)
            assert len(observation.history) == min(2, steps)
            assert type(reward) is float
            assert type(terminated) is bool
            assert type(truncated) is bool
            assert set(info) == {"result", "success", "steps", "oracle_steps"}
            assert info["steps"] == steps
            assert info["result"] in ("ok", "impossible", "failed")
            assert (info["result"] == "failed") == (action is None)
            assert reward == float(info["success"])
            assert not (terminated and truncated)
            assert terminated == (action is not None and action.kind in TERMINAL)
            ended = terminated or truncated
        assert terminated or steps == env.max_steps
        picture = observation.screenshot()
        assert isinstance(picture, Image.Image)
        assert picture.mode == "RGB"


def test_bad_arguments_are_named():
    with pytest.raises(ValueError, match="unknown split 'tset'.*train"):
        ToyGUI("tset")
    with pytest.raises(ValueError, match="unknown split"):
        make_task("tset", 0)
    for index in (-1, SPLIT_SIZE):
        with pytest.raises(ValueError, match=str(index)):
            ToyGUI("test").reset(index)
    for bad in ({"scale": 0}, {"history": -1}):
        with pytest.raises(ValueError, match="at least"):
            ToyGUI("test", **bad)


def test_an_episode_is_truncated_after_the_oracles_steps_and_a_slack():
    env = calm("test", 0)
    truncated = [env.step(Action("wait"))[3] for _ in range(env.max_steps)]
    assert truncated == [False] * (env.max_steps - 1) + [True]
    assert env.max_steps >= env.oracle_steps + SLACK


def blank_place(env: ToyGUI) -> tuple[float, float]:
    """A point where nothing stands."""
    for y in np.linspace(0.05, 0.95, 24):
        for x in np.linspace(0.05, 0.95, 32):
            if not any(inside((x, y), box) for _label, box in env.visible()):
                return x, y
    pytest.fail("the screen is full")


def impossible_actions(env: ToyGUI) -> list[Action]:
    """What does nothing at the start of a task."""
    actions = [
        Action("click", "Save"),  # without a point
        Action("click", "", blank_place(env)),
        Action("back"),
        Action("type", "amber"),
        Action("scroll", "up"),
        Action("scroll", "left"),
        Action("home"),
        Action("recent"),
        Action("wait"),
        Action("key", "x"),
        Action("open_app", "x"),
        Action("call", "x"),
    ]
    if "More" not in labels(env):
        actions.append(Action("scroll", "down"))
    for kind in POINTING - {"click"}:
        actions.append(Action(kind, "x", (0.1, 0.1)))
    return actions


@pytest.mark.parametrize("seed", range(30))
def test_impossible_actions_leave_the_state_alone_and_say_so(seed):
    env = calm("train", seed)
    before = state(env)
    for steps, action in enumerate(impossible_actions(env), start=1):
        observation, reward, terminated, _, info = env.step(action)
        assert info["result"] == "impossible", action
        assert reward == 0.0
        assert terminated is False
        assert info["steps"] == steps
        assert state(env) == before
        assert observation.history[-1] == str(action)


@pytest.mark.parametrize("seed", range(30))
def test_a_refusal_leaves_the_state_alone_and_is_told_to_the_policy(seed):
    env = calm("train", seed)
    before = state(env)
    observation, _, _, _, info = env.step(None, said="click Nowhere")
    assert info["result"] == "failed"
    assert state(env) == before
    assert observation.history[-1] == "click Nowhere failed"


def test_a_dialog_hides_everything_below_it():
    env = calm("train", 0)
    env.overlay = Dialog("Rate", dismiss="Later", lure="Install")
    env.focus = env.task.pages[0].rows[0][0]
    before = state(env)
    assert labels(env) == ["Rate", "Later", "Install"]
    for action in (
        Action("type", "amber"),
        Action("scroll", "down"),
        Action("click", "", (0.01, 0.99)),
    ):
        info = env.step(action)[4]
        assert info["result"] == "impossible"
        assert state(env) == before
    press(env, "Install")
    assert labels(env) == ["Offer", "OK"]  # the tempting button costs a step
    press(env, "OK")
    assert env.overlay is None


def test_history_holds_the_last_k_steps():
    everything = tuple(f"click {i} failed" for i in range(6))
    for keep in (0, 1, 4):
        env = make("train", 0, history=keep)
        for i in range(6):
            observation = env.step(None, said=f"click {i}")[0]
        assert observation.history == everything[6 - keep :]


def test_done_counts_only_when_all_is_right_saved_and_nothing_else_changed():
    for seed in range(40):
        env = calm("test", seed)
        reward = env.step(Action("done"))[1]
        assert reward == 0.0
        env = calm("test", seed)
        lead(env)
        switches = [element for element in env.elements() if element.role == "switch"]
        if switches:
            env.step(env.point_at(switches[0]))  # one thing too many
            assert not env.solved()
            assert not env.committed
            env.step(env.point_at(switches[0]))  # and back again: right, but not saved
            assert not env.wrong()
            assert not env.solved()
            lead(env)
        reward = env.step(Action("done"))[1]
        assert reward == 1.0


def test_committing_too_early_costs_two_steps():
    plain = [calm("train", seed) for seed in range(50)]
    env = next(env for env in plain if len(env.task.goals) == 2 and not env.task.decoy)
    planned = len(env.oracle(ANY_HORIZON))
    press(env, env.task.commit)
    assert labels(env) == ["Missing", "OK"]
    assert len(env.oracle(ANY_HORIZON)) == planned + 1
    press(env, "OK")
    assert not env.committed
    assert len(env.oracle(ANY_HORIZON)) == planned


# ---- the same on every machine -------------------------------------------------------------------

# sha256 of the RGB bytes of seed 0 at scale 1: a change of tasks, drawing or font shows here
FROZEN_PIXELS = {
    "train": "ddc7f66edbc416b5fa442ca0389150b7afdea13365f196c189586a139902a4f4",
    "dev": "6afd3fdc9323c06e1adf2fe743284ad8599a67751688158f86ae52c300eb914c",
    "test": "01b30718688b6ddb1f39041a5d5c9d4e59b6778538806ac5fd01f3e9588fe0ca",
    "layout": "ccefb64b8596772cc045f0bcaa4de129b02282e08dfd870f1e4ec8a23f170b57",
    "app": "c373347339817f133d7d39e9bee58df2e243b549b19838c8f651b2a5545b9120",
    "popup": "7e0d06294dd809a1ad2b43cee243441ffb8621093671f16aa572ff038d70d134",
    "flaky": "f5eda5e3dde0585792fd60ff30c2daa14216c6a1315efe504bef907000b5ac41",
}

# sha256 of what task_text says of seeds 0..19, computed with the code that measured the published
# tables
FROZEN_TASKS = {
    "train": "80e6b407d64880e7dd65899ddc62a6619491a6f5e67490a1762d561b0f02139d",
    "dev": "9e9ec3e4ce979e731b1f9ad393a61485994e1d63c5176707f83e3e428f83c5c6",
    "test": "e6c34b7644756a315173abd11ab2586336fdd9d1101940a6367e74cba673cf59",
    "layout": "c070614b0fe24068928811e01d47ff2e403b6d25fed36c15680f3c333289119d",
    "app": "d8a0d85b780c4bc0c447856a8d5b5880ebf37ca8193ac79b63e684d6a3325558",
    "popup": "e48c2057bbde10f09cce59fcae7adecbf745d7b04023158d60d3d0ba0081d96e",
    "flaky": "835a86b4d026425b6130d5e380490c997709070c68b0dde399df044d2e1b9d9b",
}


def task_text(split: str, seed: int) -> list[str]:
    """The instruction, and for each state on the oracle's way its key and the oracle's plan."""
    env = make(split, seed)
    lines = [env.task.instruction]
    for _ in range(ANY_HORIZON):
        plan = env.oracle(5)
        lines.append(f"{env.key()} {'; '.join(map(str, plan))}")
        if plan[0].kind == "done":
            return lines
        env.step(plan[0])
    pytest.fail("the oracle does not come to an end")


@pytest.mark.parametrize("split", SPLITS)
def test_the_tasks_are_those_that_the_published_tables_were_measured_on(split):
    lines = []
    for seed in range(20):
        lines += task_text(split, seed)
    text = "\n".join(lines)
    assert hashlib.sha256(text.encode()).hexdigest() == FROZEN_TASKS[split]


@pytest.mark.parametrize("split", SPLITS)
def test_pixels_are_frozen(split):
    observation, _ = ToyGUI(split).reset(0)
    assert pixels(observation) == FROZEN_PIXELS[split]


def test_the_key_writes_what_lies_over_the_page_as_it_always_did():
    """The key seeds the tool agent's answers, so its text is a part of the published tables."""
    env = calm("train", 0)
    page = f"{env.task.seed}/{env.page}/0"
    texts = {
        None: "None",
        Menu(): "('menu',)",
        Guide(): "('guide',)",
        Dialog("Missing", "OK"): "('dialog', 'Missing', 'OK', None)",
        Dialog("Rate", "Later", "Install"): "('dialog', 'Rate', 'Later', 'Install')",
    }
    for overlay, text in texts.items():
        env.overlay = overlay
        assert env.key() == f"{page}/{text}"


# Run in a process of its own, with the project's folder as argument.
FIRST_TASKS = """
import hashlib, json, sys
sys.path.insert(0, sys.argv[1])
from envs import SPLITS, ToyGUI
found = []
for split in SPLITS:
    for seed in range(5):
        observation, _ = ToyGUI(split).reset(seed)
        pixels = hashlib.sha256(observation.screenshot().tobytes()).hexdigest()
        found.append([observation.instruction, pixels])
print(json.dumps(found))
"""


def first_tasks_elsewhere(hash_seed: str) -> list:
    root = Path(__file__).resolve().parent.parent
    done = subprocess.run(
        [sys.executable, "-c", FIRST_TASKS, str(root)],
        capture_output=True,
        check=True,
        text=True,
        env={"PYTHONHASHSEED": hash_seed, "LC_ALL": "C"},
    )
    return json.loads(done.stdout)


def test_same_seed_same_task_and_pixels_in_another_process():
    here = []
    for split in SPLITS:
        for seed in range(5):
            observation, _ = ToyGUI(split).reset(seed)
            here.append([observation.instruction, pixels(observation)])
    assert first_tasks_elsewhere("1") == here
    assert first_tasks_elsewhere("2") == here


def test_an_observation_keeps_its_own_moment():
    env = calm("train", 0)
    observation = env.observe()
    before = pixels(observation)
    lead(env)
    assert pixels(observation) == before
    assert pixels(env.observe()) != before


def test_reset_forgets_everything():
    def all_of(env: ToyGUI) -> tuple:
        return pixels(env.observe()), state(env), env.max_steps

    env = make("popup", 3)
    fresh = all_of(env)
    for _ in range(4):
        env.step(env.oracle(1)[0])
    env.reset(3)
    assert all_of(env) == fresh
    assert env.steps == 0
    assert env.observe().history == ()


def test_splits_are_disjoint():
    ranges = [(make_task(s, 0).seed, make_task(s, SPLIT_SIZE - 1).seed) for s in SPLITS]
    for (_, last), (following, _) in pairwise(ranges):
        assert last < following
    splits_of = {}  # screen -> the splits that show it
    for split in SPLITS:
        for seed in range(50):
            screen = pixels(make(split, seed).observe())
            splits_of.setdefault(screen, set()).add(split)
    assert max(map(len, splits_of.values())) == 1


def titles(pages) -> tuple[str, ...]:
    return tuple(page.title for page in pages)


def test_held_out_apps_are_never_seen_in_training():
    apps = {}
    for split in SPLITS:
        apps[split] = {titles(task.pages) for task in tasks(split)}
    make_up = [titles(app_pages(app)) for app in range(TRAIN_APPS + NEW_APPS)]
    assert apps["train"] == apps["test"] == set(make_up[:TRAIN_APPS])
    assert apps["app"] == set(make_up[TRAIN_APPS:])
    assert not apps["app"] & apps["train"]


@pytest.mark.parametrize("split", SPLITS)
def test_held_out_splits_hold_out_what_they_say(split):
    for task in tasks(split):
        assert (task.layout == FLIPPED) == (split == "layout")
        pale = min(task.colours.paper) >= 215
        assert pale == (split != "layout")
    popups = [len(task.popups) for task in tasks(split)]
    if split == "popup":
        assert set(popups) == {2}
    else:
        assert 0.4 < np.mean(popups) < 0.6


# ---- the oracle ----------------------------------------------------------------------------------


@pytest.mark.parametrize("split", SPLITS)
def test_oracle_solves_every_task(split):
    for seed in range(200):
        env = make(split, seed)
        ended = False
        while not ended:
            _, reward, terminated, truncated, info = env.step(env.oracle(1)[0])
            ended = terminated or truncated
            assert info["result"] == "ok"
        assert reward == 1.0
        assert info["success"]
        extra = info["steps"] - info["oracle_steps"]
        assert 0 <= extra <= len(env.task.popups)  # an interruption costs the step that closes it


@pytest.mark.parametrize("split", SPLITS)
def test_the_whole_plan_of_the_oracle_is_right_when_nothing_interrupts(split):
    for seed in range(60):
        env = calm(split, seed)
        plan = env.oracle(ANY_HORIZON)
        assert env.oracle(3) == plan[:3]
        assert state(env) == state(calm(split, seed))  # planning changes nothing
        for action in plan:
            _, reward, _, _, info = env.step(action)
            assert info["result"] == "ok"
        assert reward == 1.0


def test_the_oracle_recovers_from_any_state():
    rng = np.random.default_rng(1)
    for seed in range(100):
        env = make("test", seed)
        for _ in range(rng.integers(1, 12)):
            elements = env.elements()
            action = Action("type", "amber")
            if rng.random() < 0.8:
                action = env.point_at(elements[rng.integers(len(elements))])
            env.step(action)
        for _ in range(ANY_HORIZON):
            reward = env.step(env.oracle(1)[0])[1]
            if reward == 1.0:
                break
        assert env.solved()


@pytest.mark.parametrize("split", SPLITS)
def test_an_exact_oracle_is_understood_by_the_tool_agent(split):
    for seed in range(60):
        env = make(split, seed)
        plan = env.oracle(5)
        exact = env.oracle(5, exact=True)
        assert exact[1:] == plan[1:]
        assert exact[0].point == plan[0].point
        found = find_element(exact[0], env.visible(), env.key())
        assert found == exact[0]


@pytest.mark.parametrize("split", SPLITS)
def test_tasks_take_3_to_12_steps(split):
    lengths = Counter(make(split, seed).oracle_steps for seed in range(400))
    assert min(lengths) >= 3
    assert max(lengths) <= 12
    assert len(lengths) >= 8


# ---- demonstrations and random behaviour ---------------------------------------------------------


def record(seed: int, noise: float) -> list[Example]:
    return demonstration(ToyGUI, "train", seed, 5, noise, 4)


def test_demonstrations_are_repeatable():
    def comparable(example: Example) -> tuple:
        return example.reference, example.boxes, example.observation.history, example.key

    for seed in range(20):
        first = [comparable(example) for example in record(seed, noise=0.3)]
        demonstration.cache_clear()
        again = [comparable(example) for example in record(seed, noise=0.3)]
        assert first == again


def test_demonstrations_end_with_the_budget():
    for seed in range(20):
        assert len(record(seed, noise=0.3)) <= make("train", seed).max_steps
    ends = [record(seed, noise=0.0)[-1].reference == (Action("done"),) for seed in range(100)]
    assert np.mean(ends) > 0.8  # without noise only the tool agent's mistakes can use up the budget


def test_demonstrations_say_where_the_first_action_has_to_point():
    for seed in range(20):
        for example in record(seed, noise=0.3):
            first = example.reference[0]
            assert 1 <= len(example.reference) <= 5
            assert bool(example.boxes) == (first.kind in POINTING)
            for box in example.boxes:
                assert inside(first.point, box)
                assert box in [box for _label, box in example.elements]


def test_wandering_is_repeatable_and_shows_bars_at_either_end():
    layouts = Counter()
    for seed in range(100):
        env = make("train", seed)
        again = make("train", seed)
        env.wander(random.Random(seed))
        again.wander(random.Random(seed))
        assert pixels(env.observe()) == pixels(again.observe())
        layouts[env.task.layout == FLIPPED] += 1
    assert 15 < layouts[True] < 45


def test_false_steps_for_damaged_plans_use_the_screens_words():
    rng = random.Random(0)
    for _ in range(50):
        stray = ToyGUI.stray(rng)
        assert stray.kind == "click"
        assert stray.text in SCREEN_WORDS


# ---- screens -------------------------------------------------------------------------------------


@pytest.mark.parametrize("scale", [1, 2, 5])
def test_scale_k_gives_k_times_the_size(scale):
    picture = make("test", 0, scale=scale).observe().screenshot()
    assert picture.size == (scale * 128, scale * 96)
    assert (COLS * CELL, ROWS * CELL) == (128, 96)


def ink_of_a_word(task: Task, word: str, scale: int) -> tuple[int, int, int, int]:
    """Left, top, right and bottom of the ink of a word that is drawn in column 2 of row 3."""
    picture = np.asarray(draw_screen(task, {(2, 3): word}, scale)).astype(int)
    ink = (picture != np.array(task.colours.paper)).any(axis=2)
    rows, columns = np.nonzero(ink)
    return columns.min(), rows.min(), columns.max() + 1, rows.max() + 1


@pytest.mark.parametrize("scale", [1, 3])
def test_every_word_stays_in_its_three_cells(scale):
    unit = CELL * scale
    jitters = {}
    for task in tasks("train"):  # one task for each place that the jitter can put a word
        jitters.setdefault(ink_of_a_word(task, "Save", scale), task)
    assert len(jitters) == 9
    for task in jitters.values():
        for word in SCREEN_WORDS:
            left, top, right, bottom = ink_of_a_word(task, word, scale)
            assert 2 * unit <= left, word
            assert right <= 5 * unit, word
            assert 3 * unit <= top, word
            assert bottom <= 4 * unit, word


def test_every_icon_can_be_drawn_and_looks_like_no_other():
    task = make_task("train", 0)
    pictures = {draw_screen(task, {(2, 3): icon}).tobytes() for icon in ICONS}
    assert len(pictures) == len(ICONS)


def occupied_cells(env: ToyGUI) -> Counter:
    """How many things lie in each cell: an icon takes one, a word three."""
    occupied = Counter()
    for (column, row), word in env.cells().items():
        width = 1 if word.startswith("<") else 3
        occupied.update((column + i, row) for i in range(width))
    return occupied


@pytest.mark.parametrize("split", SPLITS)
def test_nothing_overlaps(split):
    rng = np.random.default_rng(2)
    for seed in range(60):
        env = make(split, seed)
        for _ in range(8):
            occupied = occupied_cells(env)
            assert max(occupied.values()) == 1
            for column, row in occupied:
                assert 0 <= column < COLS
                assert 0 <= row < ROWS
            boxes = [box for _label, box in env.visible()]
            for x1, y1, x2, y2 in boxes:
                assert 0 <= x1 < x2 <= 1
                assert 0 <= y1 < y2 <= 1
            for middle in map(centre, boxes):  # a click in the middle means one thing
                assert sum(inside(middle, box) for box in boxes) == 1
            elements = env.elements()
            action = env.oracle(1)[0]
            if rng.random() < 0.7:
                action = env.point_at(elements[rng.integers(len(elements))])
            env.step(action)


def test_all_words_of_the_screens_are_listed():
    seen = set()
    for split in SPLITS:
        for seed in range(150):
            words = make(split, seed).cells().values()
            seen |= {word for word in words if not word.startswith("<")}
    assert seen <= set(SCREEN_WORDS)
    assert len(SCREEN_WORDS) == len(set(SCREEN_WORDS))


# ---- families of tasks ---------------------------------------------------------------------------


def labels_of_page(env: ToyGUI, page: int) -> list[str]:
    """Both halves of a page, where it has two."""
    env.page = page
    env.offset = 0
    found = labels(env)
    if "More" in found:
        env.offset = 1
        found += labels(env)
    return found


def test_a_code_is_shown_on_the_first_page_only_and_needed_on_another():
    coded = 0
    for split in ("train", "test", "app"):
        for seed, task in enumerate(tasks(split)):
            if task.code is None:
                continue
            coded += 1
            assert task.code not in task.instruction
            assert "type code in" in task.instruction
            needing = [goal.page for goal in task.goals if goal.value == task.code]
            assert any(page != task.first_page for page in needing)
            env = calm(split, seed)
            for page in range(3):
                shown = task.code in labels_of_page(env, page)
                assert shown == (page == task.first_page)
    assert coded > 50


def test_decoys_bear_the_instructions_word_and_lead_astray():
    found = [(seed, task) for seed, task in enumerate(tasks("train")) if task.decoy]
    assert 0.03 < len(found) / len(tasks("train")) < 0.5
    for seed, task in found:
        assert f"{task.decoy}:" in task.instruction
        assert task.decoy not in [task.shown[page.title] for page in task.pages]
        env = calm("train", seed)
        before = len(env.oracle(ANY_HORIZON))
        press(env, task.decoy)
        assert labels(env) == ["Guide"]
        assert len(env.oracle(ANY_HORIZON)) == before + 1
        assert env.oracle(1) == [Action("back")]
        env.step(Action("back"))
        assert len(env.oracle(ANY_HORIZON)) == before


def test_instructions_often_use_the_name_that_is_not_on_the_screen():
    in_instruction = []
    in_reference = []
    for task in tasks("train"):
        for goal in task.goals:
            name = task.shown[goal.widget]
            in_instruction.append(name not in task.instruction)
            in_reference.append(name != task.spoken[goal.widget])
    assert 0.35 < np.mean(in_instruction) < 0.65
    assert 0.1 < np.mean(in_reference) < 0.4  # and so do the reference texts, less often


def test_there_are_menus_and_pages_that_scroll():
    assert 0.2 < np.mean([task.menu for task in tasks("train")]) < 0.5
    kinds = Counter()
    for seed in range(200):
        kinds.update(action.kind for action in make("train", seed).oracle(ANY_HORIZON))
    assert kinds["scroll"] > 10
    assert kinds["type"] > 20
    assert BODY == 3


# ---- states in the forecast ----------------------------------------------------------------------


def expected(env: ToyGUI) -> list[str]:
    return [action.expects for action in env.oracle(ANY_HORIZON)]


def test_only_a_world_with_states_says_what_will_be_seen():
    world = with_states(ToyGUI)
    assert with_states(ToyGUI) is world  # one class, so that demonstrations are cached
    assert world.words[: len(ToyGUI.words)] == ToyGUI.words
    assert {"with", "states", "=>"} <= set(world.words) - set(ToyGUI.words)
    for seed in range(50):
        usual = make("train", seed)
        env = world("train")
        env.reset(seed)
        assert env.oracle(ANY_HORIZON) == usual.oracle(ANY_HORIZON)
        assert set(expected(usual)) == {""}
        *states, last = expected(env)
        assert last == ""  # after `done` nothing is seen
        assert all(state in SCREEN_WORDS for state in states)  # the tiny model's words
        assert env.example(2).reference[0].expects == states[0]
    with pytest.raises(ValueError, match="object has no names for its screens"):
        with_states(object)


def test_what_the_oracle_expects_is_what_comes():
    """But where it is interrupted: no popup is foreseen."""
    surprises = 0
    for seed in range(100):
        env = with_states(ToyGUI)("train")
        env.reset(seed)
        for _ in range(env.max_steps):
            action = env.oracle(1)[0]
            popups = len(env.popups)
            env.step(action)
            if action.kind == "done":
                break
            interrupted = len(env.popups) < popups
            assert (env.screen_name() == action.expects) != interrupted
            surprises += interrupted
    assert surprises > 20


def test_a_screen_is_named_by_what_lies_on_top():
    env = make("train", next(seed for seed in range(99) if make("train", seed).task.menu))
    env.overlay = None
    page = env.shown_title(env.page)
    assert env.screen_name() == page
    env.focus = "Name|Title"
    env.task = replace(env.task, shown=env.task.shown | {"Name|Title": "Name"})
    assert env.screen_name() == "Name"
    env.focus = None
    env.committed = True
    assert env.screen_name() == "Saved"
    for overlay, name in [
        (Menu(), "Menu"),
        (Guide(), "Guide"),
        (Dialog("Rate", dismiss="Later"), "Rate"),
    ]:
        env.overlay = overlay
        assert env.screen_name() == name
        assert name in SCREEN_WORDS


# ---- the frozen tool agent -----------------------------------------------------------------------

NAMES = ("Save", "Name", "Beep", "Wifi", "Menu", "Dark")
ELEMENTS = tuple((name, (0.0, i / 6, 0.5, (i + 1) / 6)) for i, name in enumerate(NAMES))
BOX_OF_NAME = ELEMENTS[1][1]
N = 20_000


def hits(text: str, flaky: float = 0.0) -> tuple[float, float, float]:
    """Shares of (element 'Name', another element, refused) over many screens."""
    counts = Counter()
    for i in range(N):
        found = find_element(Action("click", text), ELEMENTS, f"screen {i}", flaky)
        if found is None:
            counts["refused"] += 1
        elif inside(found.point, BOX_OF_NAME):
            counts["right"] += 1
        else:
            counts["wrong"] += 1
    return counts["right"] / N, counts["wrong"] / N, counts["refused"] / N


def near(share: float, rate: float) -> bool:
    """Within four standard deviations of a binomial count."""
    return abs(share - rate) <= 4 * math.sqrt(rate * (1 - rate) / N) + 1e-12


def test_tool_agent_always_finds_exact_labels():
    assert hits("Name") == (1.0, 0.0, 0.0)
    twice = (*ELEMENTS, ("Name", (0.5, 0.0, 1.0, 0.5)))  # of two with one name it takes either
    answers = [find_element(Action("click", "Name"), twice, str(i)) for i in range(100)]
    assert len({answer.point for answer in answers}) == 2


def test_tool_agent_finds_other_names_in_30_percent_and_mistakes_them_in_10():
    right, wrong, refused = hits("Title")
    assert near(right, 0.30)
    assert near(wrong, 0.10)
    assert near(refused, 0.60)


def test_aliases_lead_from_either_name_to_the_other():
    assert ALIASES["Title"] == "Name"
    for name, other in ALIASES.items():
        assert ALIASES[other] == name
    assert len(ALIASES) == 2 * len(CHECKS + FIELDS) + 12


@pytest.mark.parametrize(
    "text",
    [
        "",
        "Phone",
        "the Name",
        "name",
        "Name Save",
        "Na",
        "restaurant",
        "Name\tSave",
        "(0.5, 0.5)",
    ],
)
def test_tool_agent_refuses_what_it_does_not_know(text):
    for i in range(300):
        assert find_element(Action("click", text), ELEMENTS, f"screen {i}") is None
    assert find_element(Action("click", "Name"), (), "an empty screen") is None


def test_tool_agent_fails_now_and_then_when_flaky():
    right, wrong, refused = hits("Name", flaky=0.15)
    assert near(right, 0.85)
    assert wrong == 0.0
    assert near(refused, 0.15)
    for i in range(50):  # what needs no point passes
        assert find_element(Action("type", "x"), ELEMENTS, str(i), flaky=1.0)


@pytest.mark.parametrize(
    ("text", "dragged", "goal"),
    [
        ("Name to Save", "Name", "Save"),
        ("Save to Name", "Save", "Name"),
        ("Back to Top to Save", "Back to Top", "Save"),
        ("Save to Back to Top", "Save", "Back to Top"),
        ("Back to Top to Back to Top", "Back to Top", "Back to Top"),
        ("Name to nowhere", "Name", None),
        ("Back to Top", "Back to Top", None),  # the whole text is a label, and "Back" is none
        ("Name", "Name", None),
    ],
)
def test_tool_agent_finds_both_ends_of_a_drag(text, dragged, goal):
    """Labels may themselves hold the word; an end that is not on the screen is left out."""
    elements = (*ELEMENTS, ("Back to Top", (0.5, 0.0, 1.0, 0.5)))
    places = {label: centre(box) for label, box in elements}
    end = None if goal is None else places[goal]
    found = find_element(Action("drag", text, (0.9, 0.9)), elements, "screen")
    assert found == Action("drag", text, places[dragged], end)


@pytest.mark.parametrize("text", ["nothing to Name", "nothing to Bin", " to Name", "Name to ", ""])
def test_tool_agent_refuses_a_drag_of_what_it_does_not_know(text):
    for i in range(100):
        assert find_element(Action("drag", text), ELEMENTS, str(i)) is None


def test_a_drag_without_a_goal_is_found_as_before_there_were_ends():
    """The draws are those of the whole text, so that no number of the toy worlds moves."""
    found = [find_element(Action("drag", "Title"), ELEMENTS, str(i)) for i in range(300)]
    rights = [action for action in found if action is not None]
    assert 60 < len(rights) < 180  # by its other name it is found, or mistaken, in 40 %
    assert all(action.end is None for action in rights)
    refused = [i for i in range(300) if found[i] is None]
    assert refused[:5] == [1, 5, 7, 8, 9]


def test_tool_agent_repeats_itself_and_ignores_the_policys_point():
    for i in range(300):
        for text in ("Name", "Title", "Phone"):
            first = find_element(Action("click", text), ELEMENTS, str(i))
            assert find_element(Action("click", text), ELEMENTS, str(i)) == first
            assert find_element(Action("click", text, (0.9, 0.9)), ELEMENTS, str(i)) == first
            if first is not None:
                assert (first.kind, first.text) == ("click", text)


def test_actions_without_a_point_pass_unchanged():
    for kind in sorted(set(KINDS) - POINTING):
        action = Action(kind, "down" if kind == "scroll" else "")
        assert find_element(action, (), "anywhere") is action


def test_the_tool_agent_of_an_example_is_that_of_its_world():
    for seed in range(30):
        env = make("test", seed)
        example = env.example(5)
        for text in ("Sound", "Audio", "Save", env.elements()[0].label):
            action = Action("click", text)
            assert example.execute(action) == env.ground(action)
            assert own_tool_agent([action], [example]) == [env.ground(action)]


def test_environment_only_sees_what_the_tool_agent_returns():
    """The policy's own point is not used: a wrong name with a right point is refused."""
    env = calm("test", 0)
    target = env.oracle(1)[0]
    info = forecast(env, Action("click", "restaurant", target.point))[4]
    assert info["result"] == "failed"
    observation = env.step(None, said="unreadable")[0]
    assert observation.history[-1] == "unreadable failed"


def share_of_same_answers(split: str) -> float:
    """How often four tries at the same thing on the same screen end in the same way."""
    same = []
    for seed in range(150):
        env = calm(split, seed)
        action = Action("click", env.elements()[-1].label)
        before = state(env)
        answers = set()
        for _ in range(4):
            info = forecast(env, action)[4]
            answers.add(info["result"] == "failed")
            restore(env, before)
        same.append(len(answers) == 1)
    return float(np.mean(same))


def test_a_retry_can_help_on_flaky_and_only_there():
    assert share_of_same_answers("test") == 1.0
    assert share_of_same_answers("flaky") < 0.8
