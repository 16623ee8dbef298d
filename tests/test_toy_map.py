"""The toy map: tasks, screens, clicks, the oracle, its lessons; depth is the dial."""

import random

import pytest

from agent import play
from envs import CELL, Action, centre, demonstration
from eval import oracle_planner
from extras.toy_map import (
    CHAINS,
    DEEPER,
    FORGIVEN,
    LETTERS,
    LINES,
    MAP_SPLITS,
    NAMES_ALONE,
    OTHER_NAME,
    SLOTS,
    WIDER,
    WORD_OF,
    ToyMap,
    draw_drills,
    draw_silent_drills,
    make_map_task,
    map_of_depth,
)
from extras.worlds import find_world

SEEDS = range(40)


def at_start(seed: int, split: str = "test") -> ToyMap:
    env = ToyMap(split)
    env.reset(seed)
    return env


def button_of(env: ToyMap, page: str) -> Action:
    """A click in the middle of the page's button."""
    return Action("click", page, centre(dict(env.visible())[page]))


def right_click(env: ToyMap) -> Action:
    return button_of(env, env.task.way[env.clicks])


# ---- tasks ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("split", MAP_SPLITS)
def test_all_chains_of_a_task_are_equally_long_and_no_page_is_in_two(split):
    for seed in SEEDS:
        task = make_map_task(split, seed)
        pages = [page for chain in task.chains for page in chain]
        assert len(set(pages)) == len(pages)
        assert {len(chain) for chain in task.chains} == {task.depth + 1}
        assert len(task.entries) == len(task.chains) * task.depth <= len(SLOTS)
        assert len({entry.slot for entry in task.entries}) == len(task.entries)


def test_depth_goes_round_and_two_splits_are_deeper_and_wider_than_training():
    assert [make_map_task("train", seed).depth for seed in range(8)] == [1, 2, 3, 4, 1, 2, 3, 4]
    for seed in SEEDS:
        assert make_map_task("deeper", seed).depth == DEEPER == 5
        assert len(make_map_task("wider", seed).chains) == WIDER == 4
        assert len(make_map_task("test", seed).chains) == CHAINS == 3


@pytest.mark.parametrize("depth", [1, 2, 3, 4])
def test_the_dial_makes_all_tasks_equally_deep(depth):
    world = find_world(f"toy-map:depth={depth}")
    assert world is map_of_depth(depth)
    for split in MAP_SPLITS:
        env = world(split)
        demands = set()
        for seed in range(8):
            env.reset(seed)
            demands.add(env.demand)
        assert demands == ({DEEPER} if split == "deeper" else {depth})
    # A task that has this depth without the dial is the same with it.
    assert make_map_task("test", depth - 1, depth) == make_map_task("test", depth - 1)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("toy-map:depth=0", "the depth must lie in 1..4"),
        ("toy-map:depth=5", "5 is the split deeper"),
        ("toy-map:depth=2.5", "'2.5' is not a whole number"),
        ("toy-map:memory=1", "what can follow a name is, for example"),
    ],
)
def test_a_wrong_depth_is_refused(name, said):
    with pytest.raises(ValueError, match=said):
        find_world(name)


def test_the_same_seed_is_the_same_task_and_other_seeds_and_splits_are_not():
    assert make_map_task("test", 3) == make_map_task("test", 3)
    tasks = [make_map_task(split, seed).chains for split in MAP_SPLITS for seed in SEEDS]
    assert len(set(tasks)) == len(tasks)


@pytest.mark.parametrize("split, seed", [("nowhere", 0), ("test", -1), ("test", 1_000_000)])
def test_a_wrong_split_or_seed_is_refused(split, seed):
    with pytest.raises(ValueError):
        make_map_task(split, seed)


def test_names_go_both_ways_and_annotators_mostly_say_the_word():
    assert OTHER_NAME["K"] == "Kilo" and OTHER_NAME["Kilo"] == "K"
    assert len(LETTERS) == 26
    said = [make_map_task("test", seed).spoken[page] for seed in range(100) for page in LETTERS]
    words = sum(len(name) > 1 for name in said)
    assert 0.66 < words / len(said) < 0.74  # of 2,600 draws at 0.7


# ---- playing -------------------------------------------------------------------------------------


def test_right_clicks_open_the_chain_page_by_page_and_the_goal_ends_the_episode():
    env = at_start(3)
    assert env.task.depth == 4 and env.oracle_steps == 5
    for number in range(5):
        assert env.buttons()[env.task.order[number].index(0)] == env.task.way[number]
        _, reward, terminated, truncated, info = env.step(right_click(env))
        assert info["result"] == "ok"
        assert (reward, terminated, truncated) == (float(number == 4), number == 4, False)
    assert info["success"] and info["steps"] == 5


def test_a_wrong_click_ends_the_episode_unsolved():
    env = at_start(2)
    wrong = env.task.chains[1][0]
    _, reward, terminated, _, info = env.step(button_of(env, wrong))
    assert terminated and reward == 0.0 and not info["success"]


def test_a_refusal_costs_a_step_and_one_of_each_click_is_forgiven():
    env = at_start(0)
    assert env.task.depth == 1 and env.max_steps == 2 * (1 + FORGIVEN) == 4
    _, _, terminated, truncated, info = env.step(None, said="click Kilo")
    assert info["result"] == "failed" and not terminated and not truncated
    assert env.observe().history == ("click Kilo failed",)
    for _ in range(2):
        _, _, _, truncated, _ = env.step(None, said="click Kilo")
        assert not truncated
    _, _, terminated, truncated, _ = env.step(right_click(env))
    assert not terminated and truncated


@pytest.mark.parametrize(
    "action",
    [Action("back"), Action("type", "K"), Action("click", "K", (0.5, 0.9)), Action("done")],
)
def test_what_is_no_click_on_a_button_does_nothing(action):
    env = at_start(1)
    before = env.cells()
    _, _, terminated, _, info = env.step(action)
    assert info["result"] == "impossible" and not terminated and env.cells() == before


def test_what_lies_behind_leaves_the_map():
    env = at_start(3)
    shown = {(entry.page, entry.leads_to) for entry in env.ahead()}
    env.step(right_click(env))
    left = {(entry.page, entry.leads_to) for entry in env.ahead()}
    gone = {(chain[0], chain[1]) for chain in env.task.chains}
    assert shown - left == gone


@pytest.mark.parametrize("split", MAP_SPLITS)
def test_the_oracle_solves_every_task_in_depth_plus_one_clicks(split):
    envs = [ToyMap(split) for _ in SEEDS]
    for env, episode in zip(envs, play(oracle_planner(6), envs, SEEDS, 6), strict=True):
        if split != "flaky":
            assert episode.success and len(episode.results) == env.task.depth + 1


def test_the_oracle_speaks_like_the_annotator_until_a_word_was_refused():
    env = at_start(3)
    page = env.task.way[0]
    assert env.oracle(1)[0].text == env.task.spoken[page]
    env.step(None, said=f"click {WORD_OF[page]}")
    assert env.oracle(1)[0].text == page
    assert env.oracle(1, exact=True)[0].text == page


def test_the_tool_agent_finds_letters_always_words_seldom_and_other_pages_never():
    found = {"letter": 0, "word": 0, "elsewhere": 0}
    for seed in range(300):
        env = at_start(seed)
        page = env.buttons()[0]
        away = env.ahead()[0].leads_to
        for name, text in (("letter", page), ("word", WORD_OF[page]), ("elsewhere", away)):
            answer = env.ground(Action("click", text))
            found[name] += answer is not None and env.page_at(answer.point) == page
    assert found["letter"] == 300 and found["elsewhere"] == 0
    assert 70 < found["word"] < 120  # 30 % and a little: a word may be taken for its neighbour


def test_on_flaky_a_retry_can_help():
    answers = set()
    for seed in range(60):
        env = at_start(seed, "flaky")
        for _ in range(2):
            answers.add(env.ground(Action("click", env.buttons()[0])) is None)
            env.step(None, said="click nothing")
    assert answers == {True, False}


def test_chance_is_one_in_three_a_click():
    rng = random.Random(0)
    right = 0
    for seed in range(900):
        env = at_start(seed)
        guess = rng.choice(env.buttons())
        right += guess == env.task.way[0]
    assert 0.28 < right / 900 < 0.39


# ---- what is seen --------------------------------------------------------------------------------


def test_the_screen_is_128_by_96_pixels_and_larger_by_its_scale():
    assert at_start(0).observe().screenshot().size == (128, 96)
    env = ToyMap("test", scale=3)
    env.reset(0)
    assert env.observe().screenshot().size == (384, 288)


def test_a_screenshot_shows_its_moment_whenever_it_is_drawn():
    env = at_start(3)
    before = env.observe()
    at_once = before.screenshot().tobytes()
    env.step(right_click(env))
    assert before.screenshot().tobytes() == at_once != env.observe().screenshot().tobytes()


def test_every_word_of_a_task_is_in_the_vocabulary_and_every_letter_fits_its_cell():
    for seed in SEEDS:
        env = at_start(seed)
        for word in env.observe().instruction.split():
            assert word in ToyMap.words
        assert all(column < 8 and row < 6 for column, row in env.cells())
    from envs import font

    assert max(font(10).getlength(letter) for letter in LETTERS) + 2 <= CELL


def test_the_cell_in_which_an_entry_ends_names_both_pages_and_every_share_is_one():
    env = at_start(3)
    readings = env.readings()
    for entry in env.ahead():
        column, row = entry.slot
        assert readings[column + 1, row] == {entry.leads_to: 0.5, WORD_OF[entry.page]: 0.5}
    assert all(sum(shares.values()) == 1.0 for shares in readings.values())
    assert set(readings) == set(env.cells())


# ---- examples and lessons ------------------------------------------------------------------------


def test_an_example_is_asked_at_its_own_moment():
    record = demonstration(ToyMap, "train", 3, 5, noise=0.0, history=4)
    for example in record:
        target = Action("click", next(t for t, box in example.elements if box in example.boxes))
        executed = example.execute(target)
        assert executed is not None and executed.point == centre(example.boxes[0])
        assert example.reference[0].point == centre(example.boxes[0])


def test_a_demonstration_goes_on_from_click_to_click():
    record = demonstration(ToyMap, "train", 3, 5, noise=0.0, history=4)
    lengths = [len(example.reference) for example in record]
    assert lengths[0] == 5
    for before, now in zip(lengths, lengths[1:], strict=False):
        assert now in (before, before - 1)  # the same again after a refusal


def test_ways_lead_back_from_every_page_to_its_button():
    env = at_start(3)
    ways = env.ways_back()
    assert len(ways) == CHAINS * (env.task.depth + 1)
    pairs = {(entry.leads_to, entry.page) for entry in env.ahead()}
    for way in ways:
        assert way[-1] in env.buttons()
        assert all(step in pairs for step in zip(way, way[1:], strict=False))


def test_drills_give_the_first_page_and_ask_for_the_rest():
    drills = draw_drills(random.Random(0), tasks=100, form=NAMES_ALONE, word_rate=0.0)
    for drill in drills:
        for given, written in drill.answers:
            assert given in LETTERS
            assert set(written.split()) <= set(LETTERS)
    again = draw_drills(random.Random(0), tasks=100, form=NAMES_ALONE, word_rate=0.0)
    assert [drill.answers for drill in again] == [drill.answers for drill in drills]


def test_walks_are_the_lines_of_a_forecast():
    [drill, *_] = draw_drills(random.Random(1), tasks=100, form=LINES, word_rate=0.7)
    longest = max(drill.answers, key=lambda answer: len(answer[1]))
    lines = (longest[0] + longest[1]).split("\n")
    assert all(line.startswith("click ") for line in lines)


@pytest.mark.parametrize("hops", [1, 3])
def test_a_silent_drill_asks_for_a_click_and_names_what_a_plan_would_say_first(hops):
    for drill in draw_silent_drills(random.Random(0), tasks=100, hops=hops):
        [(given, written)] = drill.answers
        assert given == ""
        kind, name = written.split()
        assert kind == "click"
        said = drill.observation.instruction.removeprefix("open ")
        goal, *back = drill.inner  # letters; a word begins with its letter
        assert goal == said[0]
        assert len(back) < hops
        if hops > 1 and not back:  # the goal has a button
            assert name[0] == goal


def test_most_silent_drills_need_the_look_up_that_they_teach():
    """Where the goal itself has a button there is nothing to look up: 17 % of the states."""
    rng = random.Random(0)
    at_hand = []
    for _ in range(20):
        for drill in draw_silent_drills(rng, tasks=1000, hops=1):
            [(_, written)] = drill.answers
            [goal] = drill.inner
            at_hand.append(written.split()[1][0] == goal)
    assert 0.1 < sum(at_hand) / len(at_hand) < 0.25


def test_moves_and_strays_are_legal_and_wandering_stays_on_the_map():
    rng = random.Random(0)
    for seed in SEEDS:
        env = at_start(seed, "train")
        assert all(action.kind == "click" for action in env.moves(rng))
        assert ToyMap.stray(rng).text in LETTERS
        env.wander(rng)
        assert 0 <= env.clicks <= env.task.depth
        assert env.observe().screenshot().size == (128, 96)
