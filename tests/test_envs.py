"""envs.py, the toy GUI: its contract, its pixels, its oracle, its task families, and the frozen tool agent."""

import hashlib
import json
import math
import subprocess
import sys
from collections import Counter
from functools import cache
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
    Observation,
    ToyGUI,
    app_pages,
    demonstration,
    draw_screen,
    execute,
    ground,
    inside,
    make_task,
)


def make(split: str, seed: int, **kwargs) -> ToyGUI:
    env = ToyGUI(split, **kwargs)
    env.reset(seed)
    return env


def calm(split: str, seed: int) -> ToyGUI:
    """A task without interruptions."""
    env = make(split, seed)
    env.popups, env.overlay = [], None
    return env


def state(env: ToyGUI) -> tuple:
    return env.page, env.offset, env.overlay, env.focus, dict(env.values), env.committed


def press(env: ToyGUI, label: str) -> tuple:
    box = next(box for name, box in env.visible() if name == label)
    return env.step(Action("click", label, ((box[0] + box[2]) / 2, (box[1] + box[3]) / 2)))


def lead(env: ToyGUI) -> None:
    """Follow the oracle to where only `done` is left."""
    for _ in range(60):
        if (action := env.oracle(1)[0]).kind == "done":
            return
        assert env.step(action)[1] == 0.0
    pytest.fail("the oracle does not come to an end")


def pixels(observation: Observation) -> str:
    return hashlib.sha256(observation.screenshot().tobytes()).hexdigest()


@cache
def tasks(split: str, n: int = 400) -> list:
    return [make_task(split, i) for i in range(n)]


# ---- actions -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bad", [
    {"kind": "tap"}, {"kind": ""}, {"kind": "__import__('os')"}, {"kind": "Click"},
    {"kind": "type", "text": "two\nlines"}, {"kind": "type", "text": "two\rlines"}, {"kind": "type", "text": "x" * (MAX_TEXT + 1)},
    {"kind": "type", "text": None}, {"kind": "type", "text": 7}, {"kind": "scroll"}, {"kind": "scroll", "text": "sideways"},
    {"kind": "click", "point": (math.nan, 0.5)}, {"kind": "click", "point": (0.5, math.inf)}, {"kind": "click", "point": (1.01, 0.5)},
    {"kind": "click", "point": (0.5, -0.01)}, {"kind": "click", "point": (0.5,)}, {"kind": "click", "point": (0.5, 0.5, 0.5)},
    {"kind": "click", "point": ("0.5", "0.5")}, {"kind": "click", "point": (None, 0.5)},
], ids=str)
def test_nothing_illegal_can_be_an_action(bad):
    with pytest.raises(ValueError) as error:
        Action(**bad)
    assert "\n" not in str(error.value) and len(str(error.value)) < 200


def test_legal_actions_are_accepted_and_print_as_a_line():
    for kind in KINDS:
        text = "down" if kind == "scroll" else "x" * MAX_TEXT
        assert str(Action(kind, text, (0.0, 1.0) if kind in POINTING else None)) == f"{kind} {text}"
    assert str(Action("back")) == "back"


@given(st.tuples(st.floats(0, 1), st.floats(0, 1)))
def test_inside_includes_the_edges(p):
    assert inside(p, (p[0], p[1], p[0], p[1])) and inside(p, (0.0, 0.0, 1.0, 1.0))
    assert not inside(p, (p[0] + 0.01, 0.0, 2.0, 1.0)) and not inside(p, (0.0, -1.0, 1.0, p[1] - 0.01))


# ---- contract --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("split", SPLITS)
def test_environment_contract(split):
    env, rng = ToyGUI(split, history=2), np.random.default_rng(0)
    for seed in range(20):
        observation, info = env.reset(seed)
        assert isinstance(observation, Observation) and set(info) == {"oracle_steps"} and observation.history == ()
        ended, steps = False, 0
        while not ended:
            labels = [Action("click", label, ((b[0] + b[2]) / 2, (b[1] + b[3]) / 2)) for label, b in env.visible()]
            moves = [*labels, None, Action("back"), Action("scroll", "down"), Action("type", "amber"), Action("home"), Action("done")]
            action = moves[rng.integers(len(moves) - (rng.random() < 0.9))]
            observation, reward, terminated, truncated, info = env.step(action)
            steps += 1
            assert isinstance(observation, Observation) and len(observation.history) == min(2, steps)
            assert type(reward) is float and type(terminated) is bool and type(truncated) is bool
            assert set(info) == {"result", "success", "steps", "oracle_steps"} and info["steps"] == steps
            assert info["result"] in ("ok", "impossible", "failed") and (info["result"] == "failed") == (action is None)
            assert reward == float(info["success"]) and not (terminated and truncated)
            assert terminated == (action is not None and action.kind in TERMINAL)
            ended = terminated or truncated
        assert terminated or steps == env.max_steps
        picture = observation.screenshot()
        assert isinstance(picture, Image.Image) and picture.mode == "RGB"


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
    ends = [env.step(Action("wait"))[3] for _ in range(env.max_steps)]
    assert ends == [False] * (env.max_steps - 1) + [True] and env.max_steps >= env.oracle_steps + SLACK


@pytest.mark.parametrize("seed", range(30))
def test_impossible_actions_leave_the_state_alone_and_say_so(seed):
    env = calm("train", seed)
    covered = [box for _, box in env.visible()]
    places = [(x, y) for y in np.linspace(0.05, 0.95, 24) for x in np.linspace(0.05, 0.95, 32)]
    blank = next(p for p in places if not any(inside(p, box) for box in covered))
    more = any(label == "More" for label, _ in env.visible())
    moves = [Action("click", "Save"), Action("click", "", blank), Action("back"), Action("type", "amber"), Action("scroll", "up"),
             Action("scroll", "left"), *([] if more else [Action("scroll", "down")]),
             *(Action(kind, "x", (0.1, 0.1)) for kind in POINTING - {"click"}),
             *map(Action, ("home", "recent", "wait")), *(Action(kind, "x") for kind in ("key", "open_app", "call"))]
    before = state(env)
    for steps, action in enumerate(moves, 1):
        observation, reward, terminated, _, info = env.step(action)
        assert (info["result"], reward, terminated, info["steps"]) == ("impossible", 0.0, False, steps), action
        assert state(env) == before and observation.history[-1] == str(action)
    observation, _, _, _, info = env.step(None, said="click Nowhere")
    assert info["result"] == "failed" and state(env) == before and observation.history[-1] == "click Nowhere failed"


def test_a_dialog_hides_everything_below_it():
    env = calm("train", 0)
    env.overlay, env.focus = ("dialog", "Rate", "Later", "Install"), env.task.pages[0][1][0][0]
    before = state(env)
    assert [label for label, _ in env.visible()] == ["Rate", "Later", "Install"]
    for action in (Action("type", "amber"), Action("scroll", "down"), Action("click", "", (0.01, 0.99))):
        assert env.step(action)[4]["result"] == "impossible" and state(env) == before
    press(env, "Install")
    assert [label for label, _ in env.visible()] == ["Offer", "OK"]  # the tempting button costs a step
    press(env, "OK")
    assert env.overlay is None


def test_history_holds_the_last_k_steps():
    for keep in (0, 1, 4):
        env = make("train", 0, history=keep)
        seen = [env.step(None, said=f"click {i}")[0].history for i in range(6)]
        assert seen[-1] == tuple(f"click {i} failed" for i in range(6))[6 - keep:]


def test_done_counts_only_when_all_is_right_saved_and_nothing_else_changed():
    for seed in range(40):
        env = calm("test", seed)
        assert env.step(Action("done"))[1] == 0.0
        env = calm("test", seed)
        lead(env)
        switch = next((e for e in env.elements() if e.role == "switch"), None)
        if switch:
            env.step(env.point_at(switch))  # one thing too many
            assert not env.solved() and not env.committed
            env.step(env.point_at(switch))  # and back again: right, but not saved
            assert not env.wrong() and not env.solved()
            lead(env)
        assert env.step(Action("done"))[1] == 1.0


def test_committing_too_early_costs_two_steps():
    env = next(e for e in (calm("train", i) for i in range(50)) if len(e.task.goals) == 2 and not e.task.decoy)
    planned = len(env.oracle(60))
    press(env, env.task.commit)
    assert [label for label, _ in env.visible()] == ["Missing", "OK"] and len(env.oracle(60)) == planned + 1
    press(env, "OK")
    assert not env.committed and len(env.oracle(60)) == planned


# ---- the same on every machine -------------------------------------------------------------------------------------------------

FROZEN = {  # sha256 of the RGB bytes of seed 0 at scale 1: a change of tasks, drawing or font shows here
    "train": "ddc7f66edbc416b5fa442ca0389150b7afdea13365f196c189586a139902a4f4",
    "dev": "6afd3fdc9323c06e1adf2fe743284ad8599a67751688158f86ae52c300eb914c",
    "test": "01b30718688b6ddb1f39041a5d5c9d4e59b6778538806ac5fd01f3e9588fe0ca",
    "layout": "ccefb64b8596772cc045f0bcaa4de129b02282e08dfd870f1e4ec8a23f170b57",
    "app": "c373347339817f133d7d39e9bee58df2e243b549b19838c8f651b2a5545b9120",
    "popup": "7e0d06294dd809a1ad2b43cee243441ffb8621093671f16aa572ff038d70d134",
    "flaky": "f5eda5e3dde0585792fd60ff30c2daa14216c6a1315efe504bef907000b5ac41",
}


@pytest.mark.parametrize("split", SPLITS)
def test_pixels_are_frozen(split):
    assert pixels(ToyGUI(split).reset(0)[0]) == FROZEN[split]


def test_same_seed_same_task_and_pixels_in_another_process():
    script = ("import sys, json; sys.path.insert(0, sys.argv[1]); import hashlib, envs\n"
              "print(json.dumps([[o.instruction, hashlib.sha256(o.screenshot().tobytes()).hexdigest()]"
              " for s in envs.SPLITS for i in range(5) for o in [envs.ToyGUI(s).reset(i)[0]]]))")
    root = str(Path(__file__).resolve().parent.parent)
    outputs = [json.loads(subprocess.run([sys.executable, "-c", script, root], capture_output=True, check=True, text=True,
                                         env={"PYTHONHASHSEED": seed, "LC_ALL": "C"}).stdout) for seed in ("1", "2")]
    here = [[o.instruction, pixels(o)] for s in SPLITS for i in range(5) for o in [ToyGUI(s).reset(i)[0]]]
    assert outputs[0] == outputs[1] == here


def test_an_observation_keeps_its_own_moment():
    env = calm("train", 0)
    observation = env.observe()
    before = pixels(observation)
    lead(env)
    assert pixels(observation) == before != pixels(env.observe())


def test_reset_forgets_everything():
    env = make("popup", 3)
    fresh = (pixels(env.observe()), state(env), env.max_steps)
    for _ in range(4):
        env.step(env.oracle(1)[0])
    env.reset(3)
    assert (pixels(env.observe()), state(env), env.max_steps) == fresh and env.steps == 0 and env.observe().history == ()


def test_splits_are_disjoint():
    ranges = [(make_task(s, 0).seed, make_task(s, SPLIT_SIZE - 1).seed) for s in SPLITS]
    assert all(a[1] < b[0] for a, b in zip(ranges, ranges[1:], strict=False))
    screens = [{pixels(ToyGUI(s).reset(i)[0]) for i in range(50)} for s in SPLITS]
    assert sum(map(len, screens)) == len(set().union(*screens))


def test_held_out_splits_hold_out_what_they_say():
    apps = {split: {tuple(page for page, _ in t.pages) for t in tasks(split)} for split in SPLITS}
    make_up = [tuple(page for page, _, _ in app_pages(a)) for a in range(TRAIN_APPS + NEW_APPS)]
    assert apps["train"] == apps["test"] == set(make_up[:TRAIN_APPS]) and apps["app"] == set(make_up[TRAIN_APPS:])
    assert not apps["app"] & apps["train"]
    for split in SPLITS:
        assert all(t.flipped == (split == "layout") for t in tasks(split))
        pale = [min(t.colours[0]) >= 215 for t in tasks(split)]
        assert not any(pale) if split == "layout" else all(pale)
        popups = [len(t.popups) for t in tasks(split)]
        assert set(popups) == {2} if split == "popup" else 0.4 < np.mean(popups) < 0.6


# ---- the oracle ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("split", SPLITS)
def test_oracle_solves_every_task(split):
    for seed in range(200):
        env = make(split, seed)
        ended = False
        while not ended:
            _, reward, terminated, truncated, info = env.step(env.oracle(1)[0])
            ended = terminated or truncated
            assert info["result"] == "ok"
        assert reward == 1.0 and info["success"]
        extra = info["steps"] - info["oracle_steps"]
        assert 0 <= extra <= len(env.task.popups)  # an interruption costs the step that closes it


@pytest.mark.parametrize("split", SPLITS)
def test_the_whole_plan_of_the_oracle_is_right_when_nothing_interrupts(split):
    for seed in range(60):
        env = calm(split, seed)
        plan = env.oracle(60)
        assert env.oracle(3) == plan[:3] and state(env) == state(calm(split, seed))  # planning changes nothing
        results = [env.step(action) for action in plan]
        assert [r[4]["result"] for r in results] == ["ok"] * len(plan) and results[-1][1] == 1.0


def test_the_oracle_recovers_from_any_state():
    rng = np.random.default_rng(1)
    for seed in range(100):
        env = make("test", seed)
        for _ in range(rng.integers(1, 12)):
            elements = env.elements()
            env.step(env.point_at(elements[rng.integers(len(elements))]) if rng.random() < 0.8 else Action("type", "amber"))
        for _ in range(60):
            if env.step(env.oracle(1)[0])[1] == 1.0:
                break
        assert env.solved()


@pytest.mark.parametrize("split", SPLITS)
def test_tasks_take_3_to_12_steps(split):
    lengths = Counter(make(split, i).oracle_steps for i in range(400))
    assert min(lengths) >= 3 and max(lengths) <= 12 and len(lengths) >= 8


def test_demonstrations_are_repeatable_and_end_with_the_budget():
    for seed in range(20):
        first, again = demonstration("train", seed, 5, 0.3, 4), demonstration("train", seed, 5, 0.3, 4)
        assert [(e.reference, e.boxes, e.observation.history, e.key) for e in first] == \
               [(e.reference, e.boxes, e.observation.history, e.key) for e in again]
        assert len(first) <= make("train", seed).max_steps
        for e in first:
            assert 1 <= len(e.reference) <= 5
            assert bool(e.boxes) == (e.reference[0].kind in POINTING)
            assert all(inside(e.reference[0].point, box) and box in [b for _, b in e.elements] for box in e.boxes)
    ends = [demonstration("train", seed, 5, 0.0, 4)[-1].reference == (Action("done"),) for seed in range(100)]
    assert np.mean(ends) > 0.8  # without noise only the tool agent's mistakes can use up the budget


# ---- screens -------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scale", [1, 2, 5])
def test_scale_k_gives_k_times_the_size(scale):
    assert make("test", 0, scale=scale).observe().screenshot().size == (scale * 128, scale * 96)
    assert (COLS * CELL, ROWS * CELL) == (128, 96)


@pytest.mark.parametrize("scale", [1, 3])
def test_every_word_stays_in_its_three_cells(scale):
    unit = CELL * scale
    jitters = {}
    for task in tasks("train"):  # one task for each place that the jitter can put a word
        jitters.setdefault(pixels_at(task, "Save", scale), task)
    assert len(jitters) == 9
    for task in jitters.values():
        for word in SCREEN_WORDS:
            left, top, right, bottom = pixels_at(task, word, scale)
            assert 2 * unit <= left and right <= 5 * unit and 3 * unit <= top and bottom <= 4 * unit, word


def pixels_at(task, word: str, scale: int) -> tuple[int, int, int, int]:
    """Left, top, right and bottom of the ink of a word that is drawn in column 2 of row 3."""
    picture = np.asarray(draw_screen(task, {(2, 3): word}, scale)).astype(int)
    rows, columns = np.nonzero((picture != np.array(task.colours[0])).any(axis=2))
    return columns.min(), rows.min(), columns.max() + 1, rows.max() + 1


@pytest.mark.parametrize("split", SPLITS)
def test_nothing_overlaps(split):
    rng = np.random.default_rng(2)
    for seed in range(60):
        env = make(split, seed)
        for _ in range(8):
            taken = Counter()
            for (c, r), word in env.cells().items():
                taken.update((c + i, r) for i in range(1 if word.startswith("<") else 3))
            assert max(taken.values()) == 1 and all(0 <= c < COLS and 0 <= r < ROWS for c, r in taken)
            boxes = [box for _, box in env.visible()]
            assert all(0 <= b[0] < b[2] <= 1 and 0 <= b[1] < b[3] <= 1 for b in boxes)
            middles = [((b[0] + b[2]) / 2, (b[1] + b[3]) / 2) for b in boxes]
            assert all(sum(inside(m, b) for b in boxes) == 1 for m in middles)  # a click in the middle means one thing
            elements = env.elements()
            env.step(env.point_at(elements[rng.integers(len(elements))]) if rng.random() < 0.7 else env.oracle(1)[0])


def test_all_words_of_the_screens_are_listed():
    seen = {w for split in SPLITS for i in range(150) for w in make(split, i).cells().values() if not w.startswith("<")}
    assert seen <= set(SCREEN_WORDS) and len(SCREEN_WORDS) == len(set(SCREEN_WORDS))


# ---- families of tasks -----------------------------------------------------------------------------------------------------------


def test_a_code_is_shown_on_the_first_page_only_and_needed_on_another():
    coded = [(s, i) for s in ("train", "test", "app") for i, t in enumerate(tasks(s)) if t.code]
    assert len(coded) > 50
    for split, seed in coded:
        env = calm(split, seed)
        code, first = env.task.code, env.task.first_page
        assert code not in env.task.instruction and "type code in" in env.task.instruction
        assert any(p != first and value == code for p, _, value in env.task.goals)
        for page in range(3):
            env.page, env.offset = page, 0
            shown = [label for label, _ in env.visible()]
            env.offset = int("More" in shown)
            shown += [label for label, _ in env.visible()]
            assert (code in shown) == (page == first)


def test_decoys_bear_the_instructions_word_and_lead_astray():
    found = [(i, t) for i, t in enumerate(tasks("train")) if t.decoy]
    assert 0.03 < len(found) / len(tasks("train")) < 0.5
    for seed, task in found:
        env = calm("train", seed)
        assert f"{task.decoy}:" in task.instruction and task.decoy not in [task.shown[p] for p, _ in task.pages]
        before = len(env.oracle(60))
        press(env, task.decoy)
        assert [label for label, _ in env.visible()] == ["Guide"] and len(env.oracle(60)) == before + 1
        assert env.oracle(1) == [Action("back")]
        env.step(Action("back"))
        assert len(env.oracle(60)) == before


def test_instructions_often_use_the_name_that_is_not_on_the_screen():
    other = [t.shown[w] not in t.instruction for t in tasks("train") for _, w, _ in t.goals]
    assert 0.35 < np.mean(other) < 0.65
    said = [t.spoken[w] != t.shown[w] for t in tasks("train") for _, w, _ in t.goals]
    assert 0.1 < np.mean(said) < 0.4  # and so do the reference texts, less often


def test_there_are_menus_and_pages_that_scroll():
    assert 0.2 < np.mean([t.menu for t in tasks("train")]) < 0.5
    plans = [a.kind for i in range(200) for a in make("train", i).oracle(60)]
    assert plans.count("scroll") > 10 and plans.count("type") > 20 and BODY == 3


# ---- the frozen tool agent ---------------------------------------------------------------------------------------------------------

ELEMENTS = tuple((label, (0.0, i / 6, 0.5, (i + 1) / 6)) for i, label in enumerate(("Save", "Name", "Beep", "Wifi", "Menu", "Dark")))
N = 20_000


def hits(text: str, flaky: float = 0.0) -> tuple[float, float, float]:
    """Shares of (element 'Name', another element, refused) over many screens."""
    counts = Counter()
    for i in range(N):
        found = ground(Action("click", text), ELEMENTS, f"screen {i}", flaky)
        counts["refused" if found is None else "right" if inside(found.point, ELEMENTS[1][1]) else "wrong"] += 1
    return counts["right"] / N, counts["wrong"] / N, counts["refused"] / N


def near(share: float, rate: float) -> bool:
    """Within four standard deviations of a binomial count."""
    return abs(share - rate) <= 4 * math.sqrt(rate * (1 - rate) / N) + 1e-12


def test_tool_agent_always_finds_exact_labels():
    assert hits("Name") == (1.0, 0.0, 0.0)
    twice = (*ELEMENTS, ("Name", (0.5, 0.0, 1.0, 0.5)))  # of two with one name it takes either
    assert len({ground(Action("click", "Name"), twice, str(i)).point for i in range(100)}) == 2


def test_tool_agent_finds_other_names_in_30_percent_and_mistakes_them_in_10():
    assert ALIASES["Title"] == "Name" and all(ALIASES[ALIASES[a]] == a for a in ALIASES)
    assert len(ALIASES) == 2 * len(CHECKS + FIELDS) + 12
    right, wrong, refused = hits("Title")
    assert near(right, 0.30) and near(wrong, 0.10) and near(refused, 0.60)


@pytest.mark.parametrize("text", ["", "Phone", "the Name", "name", "Name Save", "Na", "restaurant", "Name\tSave", "(0.5, 0.5)"])
def test_tool_agent_refuses_what_it_does_not_know(text):
    assert all(ground(Action("click", text), ELEMENTS, f"screen {i}") is None for i in range(300))
    assert ground(Action("click", "Name"), (), "an empty screen") is None


def test_tool_agent_fails_now_and_then_when_flaky():
    right, wrong, refused = hits("Name", flaky=0.15)
    assert near(right, 0.85) and wrong == 0.0 and near(refused, 0.15)
    assert all(ground(Action("type", "x"), ELEMENTS, str(i), flaky=1.0) for i in range(50))  # what needs no point passes


def test_tool_agent_repeats_itself_and_ignores_the_policys_point():
    for i in range(300):
        for text in ("Name", "Title", "Phone"):
            first = ground(Action("click", text), ELEMENTS, str(i))
            assert first == ground(Action("click", text), ELEMENTS, str(i)) == ground(Action("click", text, (0.9, 0.9)), ELEMENTS, str(i))
            assert first is None or (first.kind, first.text) == ("click", text)


def test_actions_without_a_point_pass_unchanged():
    for kind in sorted(set(KINDS) - POINTING):
        action = Action(kind, "down" if kind == "scroll" else "")
        assert ground(action, (), "anywhere") is action


def test_environment_only_sees_what_the_tool_agent_returns():
    """The policy's own point is not used: a wrong name with a right point is refused."""
    env = calm("test", 0)
    target = env.oracle(1)[0]
    assert execute(env, Action("click", "restaurant", target.point))[4]["result"] == "failed"
    assert execute(env, None)[0].history[-1] == "unreadable failed"


def test_a_retry_can_help_on_flaky_and_only_there():
    def same_answer_each_time(split: str) -> float:
        same = []
        for seed in range(150):
            env = calm(split, seed)
            label = env.elements()[-1].label
            before = state(env)
            answers = set()
            for _ in range(4):
                answers.add(execute(env, Action("click", label))[4]["result"] == "failed")
                env.page, env.offset, env.overlay, env.focus, env.values, env.committed = *before[:4], dict(before[4]), before[5]
            same.append(len(answers) == 1)
        return np.mean(same)

    assert same_answer_each_time("test") == 1.0
    assert same_answer_each_time("flaky") < 0.8
