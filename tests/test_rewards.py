"""rewards.py: hand-computed numbers, properties, and every known way to be paid for nothing."""

import builtins
import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent import format_forecast, parse_forecast
from envs import Action, Point
from rewards import (
    POINT_RADIUS,
    grounded_reward,
    group_advantages,
    repetitions,
    same_text,
    similarity,
    text_similarity,
    trajectory_reward,
)


def click(label: str) -> Action:
    return Action("click", label)


SAVE = click("Save")
EXIT = click("Exit")
AMBER = Action("type", "amber")
BACK = Action("back")
DOWN = Action("scroll", "down")
DONE = Action("done")
actions = st.sampled_from(
    [SAVE, EXIT, BACK, DOWN, AMBER, DONE, Action("type", "Save"), Action("hover", "Save")]
)
trajectories = st.lists(actions, min_size=1, max_size=5)
gammas = st.floats(0.0, 1.0)
# (lambda_align, lambda_rep) with lambda_rep <= lambda_align / 2
weights = st.tuples(st.floats(0.1, 2.0), st.floats(0.0, 0.5)).map(lambda w: (w[0], w[0] * w[1]))


def R(forecast, reference, horizon, gamma=0.5, align=1.0, rep=0.25, readable=True) -> float:
    return trajectory_reward(forecast, reference, horizon, gamma, align, rep, readable).terms[
        "reward"
    ]


# ---- similarity ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("said", "meant", "value"),
    [
        ("Save", "Save", 1.0),
        ("save", "Save", 1.0),
        ("tap on the Save button", "Save", 1.0),
        ("Save", "click the Save button", 1.0),
        ("the red coat", "coat", 2 / 3),
        ("blue coat", "red coat", 0.5),
        ("coat", "big red winter coat", 0.0),
        ("a", "restaurant", 0.0),
        ("rest", "restaurant", 0.0),
        ("the Exit button", "the Save button", 0.0),
        ("", "Save", 0.0),
        ("Save", "", 0.0),
        ("", "", 0.0),
        ("Save Save Save", "Save", 0.5),
        ("!!!", "???", 0.0),
        ("+", "+", 1.0),  # a label without words
        (" ", " ", 0.0),
    ],
)
def test_text_similarity_by_hand(said, meant, value):
    assert text_similarity(said, meant) == pytest.approx(value)


@given(st.text(max_size=40), st.text(max_size=40))
def test_text_similarity_is_symmetric_and_bounded(a, b):
    assert text_similarity(a, b) == text_similarity(b, a)
    assert text_similarity(a, b) == 0 or 0.5 <= text_similarity(a, b) <= 1


def test_same_text_forgives_case_and_spaces_only():
    assert same_text("  New  York ", "new york")
    assert (
        not same_text("New York!", "New York")
        and not same_text("New", "New York")
        and not same_text("", "New York")
    )


def test_points_are_compared_only_where_no_text_is_known():
    at = lambda x, text="": Action("click", text, (x, 0.5))  # noqa: E731
    assert similarity(at(0.5 + 0.99 * POINT_RADIUS), at(0.5)) == 1.0
    assert similarity(at(0.5 + 1.01 * POINT_RADIUS), at(0.5)) == 0.0
    assert similarity(at(0.5, "Exit"), at(0.5, "Save")) == 0.0
    assert similarity(SAVE, at(0.5)) == 0.0  # no point was said


def drag(text: str = "", point: Point | None = None, end: Point | None = None) -> Action:
    return Action("drag", text, point, end)


HERE = (0.2, 0.5)
THERE = (0.8, 0.5)
NEAR = (0.8, 0.5 + 0.99 * POINT_RADIUS)
FAR = (0.8, 0.5 + 1.01 * POINT_RADIUS)


@pytest.mark.parametrize(
    ("said", "meant", "value"),
    [
        # text comes first, and both of its parts must be right
        (drag("Box to Bin"), drag("Box to Bin"), 1.0),
        (drag("the box icon to the bin"), drag("Box to Bin"), 1.0),
        (drag("red Box to Bin"), drag("Box to Bin"), 2 / 3),
        (drag("red Box to big green Bin"), drag("Box to Bin"), 1 / 2),
        (drag("Bin to Box"), drag("Box to Bin"), 0.0),
        (drag("Box to Tray"), drag("Box to Bin"), 0.0),
        (drag("Cup to Bin"), drag("Box to Bin"), 0.0),
        (drag("Box"), drag("Box to Bin"), 0.0),
        (drag("Send to Bob to Bin"), drag("Send to Bob to Bin"), 1.0),
        (click("Box to Bin"), drag("Box to Bin"), 0.0),
        # the points do not matter where there is a text
        (drag("Box to Bin"), drag("Box to Bin", HERE, THERE), 1.0),
        (drag("", HERE, THERE), drag("Box to Bin", HERE, THERE), 0.0),
        # a text that does not say where to is compared as a whole
        (drag("slider"), drag("the slider"), 1.0),
        (drag("slider to right"), drag("slider"), 2 / 3),
        # without a text both points count
        (drag("", HERE, THERE), drag("", HERE, THERE), 1.0),
        (drag("", HERE, NEAR), drag("", HERE, THERE), 1.0),
        (drag("", HERE, FAR), drag("", HERE, THERE), 0.0),
        (drag("", THERE, HERE), drag("", HERE, THERE), 0.0),
        (drag("", HERE), drag("", HERE, THERE), 0.0),
        (drag("", None, THERE), drag("", HERE, THERE), 0.0),
        # the record does not say where it ends
        (drag("", HERE, FAR), drag("", HERE), 1.0),
        (drag("", HERE), drag("", HERE), 1.0),
    ],
)
def test_drags_are_compared_at_both_ends(said, meant, value):
    assert similarity(said, meant) == pytest.approx(value)


def test_a_drag_back_is_no_repetition():
    there_and_back = [drag("Box to Bin"), drag("Bin to Box"), drag("the bin to the box")]
    assert repetitions(there_and_back) == [0, 0, 1]
    pointed = [drag("", HERE, THERE), drag("", HERE, NEAR), drag("", HERE, THERE)]
    assert repetitions(pointed) == [0, 0, 1]
    signs = [drag("★ to ☆"), drag("☆ to ★"), drag("★  to ☆"), click("★"), click("☆"), click("★")]
    assert repetitions(signs) == [0, 0, 1, 0, 0, 1]


# ---- stage 1 ------------------------------------------------------------------------------------

TRUTH = [SAVE, EXIT, DONE]


ONE_BAD_LINE = 0.25 * (0.25 + 0.125)  # the third line and the place behind it, at gamma 0.5


@pytest.mark.parametrize(
    ("forecast", "reference", "horizon", "readable", "reward"),
    [
        (TRUTH, TRUTH, 3, True, 1 + 0.5 + 0.25),
        # too short: the rest pays nothing
        ([SAVE], TRUTH, 3, True, 1.0),
        # right actions in the wrong places pay nothing
        ([EXIT, SAVE, DONE], TRUTH, 3, True, 0.25),
        # a wrong repetition costs lambda_rep
        ([SAVE, SAVE, DONE], TRUTH, 3, True, 1 - 0.5 * 0.25 + 0.25),
        # a right one costs it too, and is worth it
        ([DOWN, DOWN], [DOWN, DOWN], 2, True, 1 + 0.5 * (1 - 0.25)),
        # beyond the reference: once a step, not twice
        ([SAVE, EXIT, SAVE, EXIT], [SAVE], 4, True, 1 - 0.25 * (0.5 + 0.25 + 0.125)),
        # a bad third line costs it and the place behind
        ([SAVE, EXIT], TRUTH, 3, False, 1.5 - ONE_BAD_LINE),
        ([], TRUTH, 3, False, -0.25 * (1 + 0.5 + 0.25 + 0.125)),
        ([], TRUTH, 3, True, 0.0),
        # the horizon ends both
        (TRUTH, TRUTH, 2, True, 1.5),
        # one line more than asked for is unreadable
        (TRUTH[:2], TRUTH, 2, False, 1.5 - 0.25 * 0.25),
        ([click("red coat"), BACK], [click("coat"), BACK], 2, True, 2 / 3 + 0.5),
    ],
)
def test_trajectory_reward_by_hand(forecast, reference, horizon, readable, reward):
    found = trajectory_reward(forecast, reference, horizon, 0.5, 1.0, 0.25, readable)
    terms = found.terms
    assert terms["reward"] == pytest.approx(reward)
    assert terms["align"] + terms["repeat"] + terms["overrun"] == pytest.approx(reward)
    assert sum(found.step_rewards) == pytest.approx(reward)
    assert len(found.step_rewards) == horizon + 1


def expecting(*states: str) -> list[Action]:
    """The truth, with what each action expects to be seen."""
    return [replace(action, expects=state) for action, state in zip(TRUTH, states, strict=True)]


@pytest.mark.parametrize(
    ("forecast", "state", "reward"),
    [
        # TRUTH is worth 1 + 0.5 + 0.25; its two states are worth as much as their actions.
        (expecting("Sound", "Menu", ""), 1 + 0.5, 1.75 + 1.5),
        (expecting("the sound page", "Offer", ""), 1.0, 1.75 + 1.0),
        (expecting("Sound Audio", "Menu", "Menu"), 2 / 3 + 0.5, 1.75 + 2 / 3 + 0.5),
        (expecting("", "", ""), 0.0, 1.75),
        # A state is paid whether or not the action is right, and only in its place.
        ([replace(BACK, expects="Sound")], 1.0, 1.0),
        ([replace(SAVE, expects="Menu"), replace(EXIT, expects="Sound")], 0.0, 1.5),
    ],
)
def test_states_are_aligned_as_actions_are(forecast, state, reward):
    reference = expecting("Sound", "Menu", "")
    found = trajectory_reward(forecast, reference, 3, 0.5, 1.0, 0.25, states=True)
    assert found.terms["state"] == pytest.approx(state)
    assert found.terms["reward"] == pytest.approx(reward)
    assert sum(found.step_rewards) == pytest.approx(reward)


def test_without_states_there_is_no_such_term_and_nothing_is_paid_for_them():
    with_them = trajectory_reward(expecting("Sound", "Menu", ""), expecting("Sound", "", ""), 3)
    without = trajectory_reward(TRUTH, TRUTH, 3)
    assert with_them == without
    assert list(without.terms) == ["align", "repeat", "overrun", "reward"]
    # The names are the same for each forecast, also for one that has no state: they are averaged.
    assert "state" in trajectory_reward([DONE], [DONE], 3, states=True).terms


@given(trajectories, trajectories, st.integers(1, 5), gammas, weights)
def test_trajectory_reward_is_the_formula(forecast, reference, horizon, gamma, w):
    align, rep = w
    expected = 0.0
    for t, action in enumerate(forecast[:horizon], 1):
        repeated = action in forecast[: t - 1]
        if t <= len(reference):
            r = align * similarity(action, reference[t - 1]) - rep * repeated
        else:
            r = -rep
        expected += gamma ** (t - 1) * r
    assert R(forecast, reference, horizon, gamma, align, rep) == pytest.approx(expected)


@given(trajectories, trajectories, st.integers(1, 5), gammas, weights, st.booleans())
def test_reward_is_bounded_and_unreadable_is_the_minimum(
    forecast, reference, horizon, gamma, w, readable
):
    discounts = [gamma**t for t in range(horizon + 1)]
    worst = R([], reference, horizon, gamma, *w, readable=False)
    assert worst == pytest.approx(-w[1] * sum(discounts))
    best = w[0] * sum(discounts[:-1])
    reward = R(forecast, reference, horizon, gamma, *w, readable)
    assert worst - 1e-9 <= reward <= best + 1e-9


@given(trajectories, trajectories, st.integers(1, 5), gammas, weights, st.booleans())
def test_no_forecast_beats_the_truth(forecast, reference, horizon, gamma, w, readable):
    """The truth may repeat actions; with lambda_rep <= lambda_align / 2 it is the best forecast
    all the same."""
    assert (
        R(forecast, reference, horizon, gamma, *w, readable)
        <= R(reference, reference, horizon, gamma, *w) + 1e-9
    )


def test_a_paraphrase_is_a_repetition():
    """Otherwise `the Save button` after `Save` is paid like Save and costs nothing: better than a
    truth that repeats itself."""
    for other in ("the Save button", "SAVE", "tap save"):
        assert repetitions([SAVE, click(other)]) == [0, 1]
        assert R([SAVE, click(other)], [SAVE, SAVE], 2) <= R([SAVE, SAVE], [SAVE, SAVE], 2)
    assert repetitions([click("red coat"), click("coat red")]) == [0, 1]
    assert (
        repetitions([SAVE, EXIT, BACK, Action("type", "Save"), Action("hover", "Save")]) == [0] * 5
    )


@given(trajectories, trajectories, trajectories, gammas, weights)
def test_padding_never_gains(forecast, reference, padding, gamma, w):
    at_least = max(len(reference), len(forecast))
    forecast = (forecast + reference)[:at_least]
    before = R(forecast, reference, 12, gamma, *w)
    after = R(forecast + padding, reference, 12, gamma, *w)
    assert after <= before + 1e-9
    if gamma > 0.1 and w[1] > 0.01:
        assert after < before


@given(
    st.lists(actions.filter(lambda a: a != DONE), min_size=5, max_size=8),
    st.integers(1, 5),
    trajectories,
)
def test_lines_beyond_the_horizon_cost(reference, horizon, more):
    asked = reference[:horizon]
    forecast, error = parse_forecast(format_forecast(asked), horizon)
    longer, too_long = parse_forecast(format_forecast(asked + more), horizon)
    assert error is None
    assert too_long is not None
    assert R(longer, reference, horizon, readable=False) < R(forecast, reference, horizon)


@given(st.lists(actions, min_size=2, max_size=5), trajectories, gammas, weights, st.data())
def test_repeating_an_earlier_step_never_gains_unless_it_is_right(
    forecast, reference, gamma, w, data
):
    t = data.draw(st.integers(1, len(forecast) - 1))
    copied = forecast[data.draw(st.integers(0, t - 1))]
    if t < len(reference) and similarity(copied, reference[t]) > 0:
        return
    repeated = [*forecast[:t], copied, *forecast[t + 1 :]]
    assert R(repeated, reference, 5, gamma, *w) <= R(forecast, reference, 5, gamma, *w) + 1e-9


@given(st.lists(st.integers(0, 4), max_size=12))
def test_any_cycle_is_made_of_repetitions(names):
    forecast = [click(f"w{n}") for n in names]
    assert repetitions(forecast) == [int(n in names[:t]) for t, n in enumerate(names)]
    assert sum(repetitions(forecast)) == len(names) - len(set(names))


# ---- holes that were found in other code --------------------------------------------------------

HOLES = {
    "another app": (Action("open_app", "Clock"), Action("open_app", "Calendar")),
    "an app named in part": (Action("open_app", "Google"), Action("open_app", "Google Maps")),
    "a letter of the typed word": (Action("type", "a"), Action("type", "restaurant")),
    "a letter of the element": (click("a"), click("restaurant")),
    "more than the typed word": (
        Action("type", "restaurant and more"),
        Action("type", "restaurant"),
    ),
    "an empty answer": (Action("answer", ""), Action("answer", "42")),
    "a part of the answer": (Action("answer", "4"), Action("answer", "42")),
    "an answer that contains it": (Action("answer", "1 2 3 42"), Action("answer", "42")),
    "an expression of the answer": (Action("answer", "6 * 7"), Action("answer", "42")),
    "an empty text": (Action("type", ""), Action("type", "restaurant")),
    "an element without a name": (Action("click"), SAVE),
    "all elements at once": (click("Account Name Save City Phone"), SAVE),
    "the right text of another kind": (Action("type", "Save"), SAVE),
    "the right name of another kind": (Action("long_press", "Save"), SAVE),
    "the other direction": (Action("scroll", "up"), DOWN),
    "another end": (Action("fail"), DONE),
    "a tool call in part": (Action("call", "search"), Action("call", "search(query)")),
}


@pytest.mark.parametrize(("said", "meant"), HOLES.values(), ids=HOLES)
def test_holes_pay_nothing(said, meant):
    assert similarity(said, meant) == 0.0
    assert R([said], [meant], 1) == 0.0
    assert grounded_reward(said, meant, [(0.0, 0.0, 1.0, 1.0)]) == 0.0


@pytest.mark.parametrize(
    "text",
    [
        "__import__('os').system('touch owned')",
        "{'action': 'click', 'point': [1, 2]}",
        "eval('1')",
        "exec(\"open('owned', 'w')\")",
        "[x for x in ().__class__.__base__.__subclasses__()]",
    ],
)
def test_code_is_never_run_and_earns_the_minimum(text, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    for name in ("eval", "exec"):
        monkeypatch.setattr(builtins, name, lambda *_: pytest.fail("model text was executed"))
    forecast, error = parse_forecast(text, 5)
    assert forecast == [] and error
    assert R(forecast, TRUTH, 5, readable=False) == pytest.approx(
        -0.25 * sum(0.5**t for t in range(6))
    )
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("width", "height"), [(128, 96), (1080, 2400), (3840, 2160)])
def test_a_click_is_judged_by_its_box_at_every_resolution(width, height):
    """A fixed radius in pixels would pay a click beside a small button: one pixel off pays
    nothing, on any screen."""
    box = (10 / width, 10 / height, 42 / width, 26 / height)

    def hit(x: int, y: int) -> float:
        return grounded_reward(at(x / width, y / height), SAVE, [box])

    assert hit(10, 10) == hit(42, 26) == hit(26, 18) == 1.0
    assert hit(9, 18) == hit(43, 18) == hit(26, 9) == hit(26, 27) == 0.0


# ---- stage 2 ------------------------------------------------------------------------------------

BOX = (0.25, 0.5, 0.5, 0.75)


def at(x: float, y: float, kind: str = "click", text: str = "Save") -> Action:
    return Action(kind, text, (x, y))


@pytest.mark.parametrize(
    ("executed", "reference", "boxes", "reward"),
    [
        (at(0.3, 0.6), SAVE, [BOX], 1.0),
        # what counts is where the tool agent went
        (at(0.3, 0.6, text="other words"), SAVE, [BOX], 1.0),
        # corners belong to the box
        (at(0.25, 0.5), SAVE, [BOX], 1.0),
        (at(0.5, 0.75), SAVE, [BOX], 1.0),
        (at(0.5001, 0.6), SAVE, [BOX], 0.0),
        (at(0.3, 0.4999), SAVE, [BOX], 0.0),
        # any of several boxes
        (at(0.9, 0.9), SAVE, [BOX, (0.8, 0.8, 1.0, 1.0)], 1.0),
        # another kind
        (at(0.3, 0.6, kind="long_press"), SAVE, [BOX], 0.0),
        # a click that goes nowhere
        (SAVE, SAVE, [BOX], 0.0),
        # refused
        (None, SAVE, [BOX], 0.0),
        (None, DONE, [], 0.0),
        # no box: a share of the screen
        (at(0.5, 0.5, text=""), at(0.5, 0.6, text=""), [], 1.0),
        (at(0.5, 0.5, text=""), at(0.5, 0.65, text=""), [], 0.0),
        # neither box nor point: nothing to agree with
        (at(0.5, 0.5, text=""), SAVE, [], 0.0),
        # a drag: where it begins as every point, and where it ends
        (drag("", (0.3, 0.6), NEAR), drag("", (0.3, 0.6), THERE), [BOX], 1.0),
        (drag("", (0.3, 0.6), FAR), drag("", (0.3, 0.6), THERE), [BOX], 0.0),
        (drag("", (0.6, 0.6), THERE), drag("", (0.3, 0.6), THERE), [BOX], 0.0),
        (drag("", (0.3, 0.6)), drag("", (0.3, 0.6), THERE), [BOX], 0.0),
        (drag("", (0.3, 0.6)), drag("", (0.3, 0.6)), [BOX], 1.0),
        (drag("", HERE, NEAR), drag("", HERE, THERE), [], 1.0),
        (drag("", THERE, THERE), drag("", HERE, THERE), [], 0.0),
        (drag("Box to Bin", HERE, FAR), drag("Box to Bin", HERE, THERE), [], 0.0),
        # a select: the menu and its option
        (at(0.3, 0.6, "select", "red"), at(0.3, 0.6, "select", "Red"), [BOX], 1.0),
        (at(0.3, 0.6, "select", "Blue"), at(0.3, 0.6, "select", "Red"), [BOX], 0.0),
        (at(0.3, 0.6, "select", "Red"), at(0.3, 0.6, "select", ""), [BOX], 1.0),  # none recorded
        (at(0.9, 0.6, "select", "Red"), at(0.3, 0.6, "select", "Red"), [BOX], 0.0),
        (Action("type", "Amber "), AMBER, [], 1.0),
        (Action("type", "birch"), AMBER, [], 0.0),
        (DONE, DONE, [], 1.0),
        (BACK, DONE, [], 0.0),
    ],
)
def test_grounded_reward_by_hand(executed, reference, boxes, reward):
    value = grounded_reward(executed, reference, boxes)
    assert value == reward and isinstance(value, float)


# ---- advantages ---------------------------------------------------------------------------------


@st.composite
def tables(draw) -> np.ndarray:
    """[G, T] step rewards."""
    group_size = draw(st.integers(2, 8))
    horizon = draw(st.integers(1, 5))
    row = st.lists(st.floats(-2, 2), min_size=horizon, max_size=horizon)
    return np.array(draw(st.lists(row, min_size=group_size, max_size=group_size)))


def test_group_advantages_by_hand():
    steps = np.array([[1.0, 1.0], [1.0, 0.0], [0.0, 1.0], [0.0, 0.0]])  # R = 2, 1, 1, 0
    z = 1 / (math.sqrt(0.5) + 1e-4)  # the std of R is sqrt(1/2)
    whole = np.array([[z, z], [0, 0], [0, 0], [-z, -z]])
    from_here_on = np.array([[1, 0.5], [0, -0.5], [0, 0.5], [-1, -0.5]])
    np.testing.assert_allclose(group_advantages(steps, "trajectory"), whole, atol=1e-12)
    centred = group_advantages(steps, "trajectory", std_normalise=False)
    np.testing.assert_allclose(centred[:, 0], [1, 0, 0, -1])
    centred = group_advantages(steps, "step", std_normalise=False)
    np.testing.assert_allclose(centred, from_here_on)
    np.testing.assert_allclose(group_advantages(steps, "step"), z * from_here_on)


def test_far_first_credit_is_what_is_still_to_be_written():
    steps = np.array([[1.0, 0.0], [0.0, 0.0], [0.0, 1.0], [0.0, 0.0]])
    near = group_advantages(steps, "step", False)
    far = group_advantages(steps[:, ::-1], "step", False)[:, ::-1]
    # near: the tokens of step 2 can only change step 2
    assert near[:, 1].tolist() == [-0.25, -0.25, 0.75, -0.25]
    # far: those of step 1, written last, only step 1
    assert far[:, 0].tolist() == [0.75, -0.25, -0.25, -0.25]


@pytest.mark.parametrize("credit", ["trajectory", "step", "own"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("normalise", [True, False])
def test_a_group_of_equal_rewards_has_no_advantage(credit, dtype, normalise):
    """The fp32 std of eight times 0.3 is 3e-8 and not 0; neither it nor noise of 1e-8 may become
    an advantage."""
    steps = np.full((8, 3), 0.3, dtype)
    steps[0, 0] += 1e-8
    assert (group_advantages(steps, credit, normalise) == 0).all()


@given(tables(), st.booleans())
def test_advantages_are_centred_and_have_a_column_a_step(steps, normalise):
    for credit in ("trajectory", "step", "own"):
        found = group_advantages(steps, credit, normalise)
        assert found.shape == steps.shape and np.abs(found.sum(axis=0)).max() < 1e-3
        if normalise:
            assert found.std(axis=0).max() <= 1 + 1e-9


@given(tables())
def test_step_credit_telescopes(steps):
    """What a step's tokens get beyond the next step's is that step's own reward against its group:
    returns are sums of it."""
    found = group_advantages(steps, "step", False)
    if not found.any():
        return
    own = steps - steps.mean(axis=0)
    alone = group_advantages(steps, "own", False)
    np.testing.assert_allclose(alone, own if alone.any() else 0 * own, atol=1e-5)
    np.testing.assert_allclose(
        found - np.hstack([found[:, 1:], np.zeros((len(steps), 1))]), own, atol=1e-9
    )
    np.testing.assert_allclose(found[:, 0], own.sum(axis=1), atol=1e-9)
    if np.ptp(steps.sum(axis=1)) > 1e-5:
        np.testing.assert_allclose(
            found[:, 0], group_advantages(steps, "trajectory", False)[:, 0], atol=1e-9
        )


@given(tables(), st.sampled_from(["trajectory", "step", "own"]))
def test_normalising_only_scales(steps, credit):
    plain, scaled = group_advantages(steps, credit, False), group_advantages(steps, credit, True)
    factor = np.abs(scaled).max() / np.abs(plain).max() if plain.any() else 0.0
    np.testing.assert_allclose(scaled, plain * factor, atol=1e-9)
