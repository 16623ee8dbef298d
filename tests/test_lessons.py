"""extras/lessons.py: what each kind of --warmup_lessons makes of the answers of a batch, the tiny
model's thought, damaged plans."""

import random
from collections import Counter
from itertools import permutations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from envs import Action, Observation, ToyGUI, demonstration
from extras.lessons import (
    ANSWERS,
    Lesson,
    damage,
    form_answer,
    form_answers,
    is_filler,
    leave_out,
    scramble,
    think_back,
)
from extras.worlds import WORLDS

REFERENCE = (
    Action("click", "Account"),
    Action("scroll", "down"),
    Action("click", "Name", (0.5, 0.5)),
    Action("type", "amber"),
    Action("click", "Save"),
    Action("done"),
)

plans = st.lists(
    st.one_of(
        st.builds(Action, st.sampled_from(["click", "type"]), st.text("abc", min_size=1)),
        st.builds(Action, st.just("scroll"), st.sampled_from(["up", "down"])),
        st.builds(Action, st.sampled_from(["back", "done"])),
    ),
    min_size=1,
    max_size=8,
)
numbers = st.integers(0, 1000).map(random.Random)


def words(actions) -> list[str]:
    return [action.text for action in actions]


def lesson(instruction: str, answer, ahead=()) -> Lesson:
    return Lesson(Observation(instruction, screenshot=None), tuple(answer), tuple(ahead))


# ---- answers -------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ANSWERS)
@given(reference=plans, other=plans, rng=numbers)
def test_the_first_action_is_true_in_every_answer(form, reference, other, rng):
    lessons = [lesson("this", reference), lesson("another", other)]
    answer, _ = form_answers(lessons, form, rng)
    assert answer[0] == reference[0]
    assert len(answer) <= len(reference)
    if form in ("forecasts", "scrambled", "goal", "stranger"):
        assert len(answer) == len(reference)


def test_forecasts_are_the_reference_and_next_is_its_first_action():
    rng = random.Random(0)
    assert form_answer(REFERENCE, "forecasts", rng) == REFERENCE
    assert form_answer(REFERENCE, "next", rng) == REFERENCE[:1]
    assert rng.random() == random.Random(0).random()  # nothing is drawn for them


@given(reference=plans, rng=numbers)
def test_scrambled_has_the_same_kinds_in_their_places_and_the_same_words(reference, rng):
    answer = scramble(reference, rng)
    assert [action.kind for action in answer] == [action.kind for action in reference]
    assert Counter(words(answer)) == Counter(words(reference))
    for action, true in zip(answer, reference, strict=True):
        if true.kind in ("scroll", "back", "done"):  # whose text could not be another
            assert action == true


def test_what_a_word_brings_to_the_screen_goes_with_it():
    """Left where it was, it would say what comes when; left out, there would be less to learn."""
    seen = [Action("click", word, expects=f"page {word}") for word in "abcd"]
    for action in scramble(seen, random.Random(1)):
        assert action.expects == f"page {action.text}"


def test_scrambled_words_are_in_any_order_as_often():
    """The true order as well: an order that is never true would tell what the true one is."""
    counts = Counter()
    rng = random.Random(0)
    for _ in range(1200):
        answer = scramble(REFERENCE, rng)
        counts[answer[2].text, answer[3].text, answer[4].text] += 1
    assert set(counts) == set(permutations(["Name", "amber", "Save"]))
    assert all(150 < count < 250 for count in counts.values())  # 200 each


def test_a_scrambled_word_does_not_keep_the_place_of_another():
    rng = random.Random(0)
    assert all(action.point is None for action in scramble(REFERENCE, rng)[1:])


@given(reference=plans, rng=numbers)
def test_left_out_keeps_the_order_and_says_nothing_false(reference, rng):
    rest = iter(reference)
    for action in leave_out(reference, rng):
        assert any(action is true for true in rest)


def test_left_out_keeps_half_of_the_later_steps():
    rng = random.Random(0)
    kept = sum(len(leave_out(REFERENCE, rng)) - 1 for _ in range(1000))
    assert kept / 5000 == pytest.approx(0.5, abs=0.03)


def test_the_answers_of_real_demonstrations_are_legal():
    rng = random.Random(0)
    for index in range(30):
        for example in demonstration(ToyGUI, "train", index, 8, 0.2, 4):
            for form in ("forecasts", "next", "scrambled", "left_out"):
                assert form_answer(example.reference, form, rng)


# ---- fillers -------------------------------------------------------------------------------------


def clicks(text: str) -> list[Action]:
    return [Action("click", word) for word in text.split()]


def test_the_goal_is_the_last_step_of_all_however_short_the_answer():
    """Cut to two steps, the reference itself ends with a step on the way, not with the goal."""
    way = clicks("A B C D")
    lessons = [lesson("open D", way[:horizon], ahead=way) for horizon in (4, 3, 2, 1)]
    lessons.append(lesson("open D", way))  # nothing is known beyond the answer
    answers = form_answers(lessons, "goal", random.Random(0))
    wanted = ("A D D D", "A D D", "A D", "A", "A D D D")
    assert answers == [tuple(clicks(text)) for text in wanted]


def test_a_stranger_is_another_task_of_the_batch_in_turn():
    lessons = [
        lesson("open D", clicks("A B C D")),
        lesson("open D", clicks("B C D")),  # another state of the same task
        lesson("open Y", clicks("X Y")),
    ]
    first, second, third = form_answers(lessons, "stranger", random.Random(0))
    assert first == tuple(clicks("A X Y X"))
    assert second == tuple(clicks("B X Y"))
    assert third in (tuple(clicks("X A")), tuple(clicks("X B")))


def test_each_other_task_is_drawn():
    lessons = [lesson("open B", clicks("A B")), lesson("1", clicks("C")), lesson("2", clicks("D"))]
    rng = random.Random(0)
    drawn = Counter(form_answers(lessons, "stranger", rng)[0][1].text for _ in range(300))
    assert set(drawn) == {"C", "D"}
    assert all(120 < count < 180 for count in drawn.values())


def test_a_filler_does_not_keep_the_place_of_a_step():
    pointed = [Action("click", "A", (0.1, 0.1)), Action("click", "B", (0.9, 0.9))]
    lessons = [lesson("this", pointed), lesson("another", pointed)]
    for form in ("goal", "stranger"):
        for answer in form_answers(lessons, form, random.Random(0)):
            assert answer[0].point == (0.1, 0.1)
            assert answer[1].point is None


def test_a_batch_of_one_task_has_no_stranger(dies):
    lessons = [lesson("open B", clicks("A B")), lesson("open B", clicks("B"))]
    assert "--warmup_batch" in dies(form_answers, lessons, "stranger", random.Random(0))


def test_fillers_are_not_made_of_one_answer_alone():
    with pytest.raises(ValueError, match="form_answers"):
        form_answer(REFERENCE, "goal", random.Random(0))


# ---- thoughts ------------------------------------------------------------------------------------


def test_a_thought_says_the_names_from_far_to_near():
    assert think_back(REFERENCE) == "Save amber Name down Account"
    assert think_back(REFERENCE[-1:]) == ""


# ---- plans in the prompt -------------------------------------------------------------------------


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


# ---- fillers in stage 2 --------------------------------------------------------------------------

WAY = [Action("click", "K"), Action("click", "H"), Action("click", "Whiskey")]


@pytest.mark.parametrize(
    ("later", "fills"),
    [
        (["Whiskey", "Whiskey"], True),
        (["whiskey", "Whiskey", "Whiskey"], True),  # longer
        (["H", "Whiskey"], False),  # the way itself
        (["T", "T"], False),
        (["Whiskey"], False),  # shorter than the reference
        ([], False),
    ],
)
def test_a_filler_says_the_goal_alone_and_is_as_long_as_the_way(later, fills):
    forecast = [Action("click", "S"), *(Action("click", name) for name in later)]
    assert is_filler(forecast, WAY) == fills
