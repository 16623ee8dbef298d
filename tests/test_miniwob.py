"""miniwob.py: what our actions become in the browser, who has a browser and for how long, and a
world that counts, remembers and ends as the toy GUI does. What a real page does is tested last."""

import gc
import io
import math
import os
import random
import signal
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from test_browser import in_a_browser, processes_of

from benchmarks import miniwob
from benchmarks.browser import BrowserLost, Element, Page, Step, Word, list_tasks
from benchmarks.episodes import NotBegun
from benchmarks.miniwob import MAX_STEPS, Pool, miniwob_world, native, native_key, words_of
from envs import KINDS, Action, Example

# ---- what our actions become ---------------------------------------------------------------------

POINT = (0.25, 0.5)  # of 160 x 210 px
AT = (40.0, 105.0)


POSSIBLE = [
    (Action("click", "Save", POINT), [Step("CLICK_COORDS", AT)]),
    (Action("double_click", "Save", POINT), [Step("DBLCLICK_COORDS", AT)]),
    (Action("hover", "Save", POINT), [Step("MOVE_COORDS", AT)]),
    (
        Action("long_press", "Save", POINT),
        [Step("MOUSEDOWN_COORDS", AT, pause=1.0), Step("MOUSEUP_COORDS", AT)],
    ),
    (
        Action("drag", "a to b", POINT, (0.75, 0.5)),
        [  # past the end by 4 px, and back
            Step("MOUSEDOWN_COORDS", AT),
            Step("MOVE_COORDS", (124.0, 105.0)),
            Step("MOUSEUP_COORDS", (120.0, 105.0)),
        ],
    ),
    (
        Action("select", "Chad", POINT),
        [
            Step("CLICK_COORDS", AT),
            Step("TYPE_TEXT", text="Chad"),
            Step("PRESS_KEY", key="<Enter>"),
        ],
    ),
    (Action("type", "a <b> 漢"), [Step("TYPE_TEXT", text="a <b> 漢")]),
    (Action("scroll", "down"), [Step("SCROLL_DOWN_COORDS", (80.0, 105.0))]),
    (Action("scroll", "up"), [Step("SCROLL_UP_COORDS", (80.0, 105.0))]),
    (Action("key", "ctrl+c"), [Step("PRESS_KEY", key="C-c")]),
    (Action("wait"), [Step("NONE", pause=0.5)]),
    (Action("done"), [Step("NONE")]),
    (Action("fail"), [Step("NONE")]),
    (Action("answer", "7"), [Step("NONE")]),
]

IMPOSSIBLE = [
    Action("click", "Save"),  # nobody has found it
    Action("drag", "a to b", POINT),  # nor where it is to go
    Action("select", "Chad"),
    Action("select", "", POINT),
    Action("type", ""),
    Action("type", "now\ue007"),  # the driver would press Enter
    Action("scroll", "left"),
    Action("scroll", "right"),
    Action("key", "f5"),  # it would load the page anew
    Action("key", "hyper+a"),
    Action("right_click", "Save", POINT),
    Action("open_app", "Mail"),
    Action("back"),
    Action("home"),
    Action("recent"),
    Action("call", "ocr()"),
]


@pytest.mark.parametrize(("action", "expected"), POSSIBLE, ids=str)
def test_each_action_has_its_steps(action, expected):
    assert native(action) == expected


@pytest.mark.parametrize("action", IMPOSSIBLE, ids=str)
def test_what_cannot_be_done_in_a_page_is_impossible(action):
    assert native(action) is None


def test_every_kind_is_listed_as_possible_or_as_impossible():
    possible = {action.kind for action, _steps in POSSIBLE}
    assert possible | {action.kind for action in IMPOSSIBLE} == set(KINDS)


@given(st.floats(0, 1), st.floats(0, 1), st.floats(0, 1), st.floats(0, 1))
def test_all_points_lie_in_the_task(x, y, to_x, to_y):
    """One px further and the page does not hear of it; outside the window it is an error."""
    for step in native(Action("drag", "a to b", (x, y), (to_x, to_y))):
        assert 0 <= step.coords[0] <= 159
        assert 0 <= step.coords[1] <= 209


def test_a_drag_goes_beyond_its_end_in_its_own_direction():
    _down, beyond, up = native(Action("drag", "a to b", (0.5, 0.5), (0.5, 0.25)))
    assert math.dist(beyond.coords, up.coords) == pytest.approx(4)
    assert beyond.coords[1] < up.coords[1]
    still = native(Action("drag", "a to a", POINT, POINT))
    assert [step.coords for step in still] == [AT, AT, AT]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("enter", "<Enter>"),
        ("Return", "<Enter>"),
        ("esc", "<Escape>"),
        ("pagedown", "<PageDown>"),
        ("left", "<ArrowLeft>"),
        ("home", "<Home>"),
        ("space", "<Space>"),
        ("a", "a"),
        ("+", "+"),
        ("ctrl+a", "C-a"),
        ("ctrl + a", "C-a"),  # as a tokenizer of whole words writes it
        ("Shift+Tab", "S-<Tab>"),
        ("shift+ctrl+alt+x", "A-C-S-x"),  # in the package's order
        ("cmd+v", "M-v"),
        ("", None),
        ("f1", None),
        ("ctrl+", None),
        ("ctrl++", None),
        ("a+b", None),
        ("é", None),
        ("\ue007", None),
    ],
)
def test_key_names(text, expected):
    assert native_key(text) == expected


def test_all_keys_are_keys_of_the_package():
    constants = pytest.importorskip("miniwob.constants")
    for name in [*miniwob.KEYS, "a", "Z", "0", "~"]:
        for held in ("", "ctrl+", "shift+", "alt+ctrl+", "ctrl+shift+cmd+", "shift+meta+alt+ctrl+"):
            assert native_key(held + name) in constants.ALL_POSSIBLE_KEYS


# ---- a browser that is none ----------------------------------------------------------------------


def picture(colour: str = "white", scale: int = 1) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (500 * scale, 320 * scale), colour).save(file, "png")
    return file.getvalue()


def element(label: str, left: float, tag: str = "button", operable: bool = True, **more) -> Element:
    box = (left, 0.5, left + 0.1, 0.6)
    return Element(label, box=box, whole=box, tag=tag, operable=operable, **more)


PAGE = Page(
    instruction='Click on the "Save" button.',
    elements=(element("Save", 0.0), element("Tab #1", 0.2, "a"), element("", 0.4, "span")),
    words=(
        Word("Save", (0.0, 0.5, 0.1, 0.56)),  # column 0, row 6
        Word("#1", (0.2, 0.5, 0.3, 0.56)),
        Word("<field>", (0.55, 0.0, 0.9, 0.05)),
        Word("zyx", (0.99, 0.95, 1.0, 1.0)),
    ),
    picture=picture(),
)


class NoBrowser:
    """Takes steps and shows pages as it is told."""

    def __init__(self, task: str):
        self.pages = [PAGE]  # the first, then one a look; the last stays
        self.done: list[Step] = []
        self.loaded: list[tuple] = []
        self.closed = False
        self.lost = False

    def load(self, task: str, seed: int, scale: int) -> Page:
        self.loaded.append((task, seed, scale))
        return self.look()

    def perform(self, steps: Sequence[Step]) -> None:
        self.done += steps

    def look(self, before: Page | None = None) -> Page:
        if self.lost:
            raise BrowserLost("it has gone")
        if len(self.pages) > 1:
            return self.pages.pop(0)
        return self.pages[0]

    def collect_texts(self, task: str, first: int, pages: int) -> list[str]:
        return ['Click on the "Save" button.\nTab #1'] * 3 + ["x9Q"] * 2

    def close(self) -> None:
        self.closed = True


@pytest.fixture
def pool(monkeypatch):
    """Two browsers that are none, and tasks whether or not the package is installed."""
    pool = Pool(limit=2)
    monkeypatch.setattr(miniwob, "Browser", NoBrowser)
    monkeypatch.setattr(miniwob, "POOL", pool)
    monkeypatch.setattr(miniwob, "known_tasks", lambda: ("click-button", "click-x", "no-script"))
    miniwob.make_world.cache_clear()
    miniwob.collect_words.cache_clear()
    yield pool
    miniwob.make_world.cache_clear()
    miniwob.collect_words.cache_clear()


@pytest.fixture
def env(pool):
    """An episode of a task with a script, just begun."""
    env = miniwob_world(["click-button"])("test", history=2)
    env.reset(5)
    return env


# ---- which task ----------------------------------------------------------------------------------


def test_a_world_of_the_same_tasks_is_the_same_class(pool):
    assert miniwob_world(["click-button"]) is miniwob_world(("click-button",))
    assert miniwob_world(["click-button"]) is not miniwob_world(["click-button", "click-x"])


@pytest.mark.parametrize(
    ("tasks", "message"),
    [
        ([], "at least one task"),
        (["click-buton"], "no task 'click-buton'; known are click-button, click-x"),
        (["click-button", "a" * 100], f"no task '{'a' * 40}'"),
    ],
)
def test_unknown_tasks_are_one_line(pool, tasks, message):
    with pytest.raises(ValueError, match=message) as error:
        miniwob_world(tasks)
    assert "\n" not in str(error.value)


def test_seeds_go_round_the_tasks_and_splits_have_pages_of_their_own(pool):
    world = miniwob_world(["click-button", "click-x", "no-script"])
    loaded = []
    for split, seed in [("train", 0), ("train", 1), ("dev", 5), ("test", 2_999_999)]:
        env = world(split)
        env.reset(seed)
        loaded.append(env.browser.loaded[-1])
        env.close()
    assert loaded == [
        ("click-button", 0, 1),
        ("click-x", 0, 1),
        ("no-script", 1_000_001, 1),
        ("no-script", 2_999_999, 1),
    ]


@pytest.mark.parametrize("seed", [-1, 1_000_000])
def test_seeds_beyond_the_split_are_refused(pool, seed):
    with pytest.raises(ValueError, match="outside 0..999999"):
        miniwob_world(["click-button"])().reset(seed)
    assert pool.taken == []


@pytest.mark.parametrize("wrong", [{"split": "app"}, {"scale": 0}, {"history": -1}])
def test_wrong_settings_are_refused(pool, wrong):
    with pytest.raises(ValueError, match="must be one of train, dev, test"):
        miniwob_world(["click-button"])(**wrong)


# ---- who has a browser ---------------------------------------------------------------------------


def test_an_episode_has_a_browser_from_reset_to_its_end(pool):
    world = miniwob_world(["click-button"])
    env = world()
    assert pool.taken == []
    env.reset(0)
    [browser] = pool.taken
    env.reset(1)  # the old episode is given up, the same browser goes on
    assert pool.taken == [browser]
    env.step(Action("done"))
    assert (pool.taken, pool.idle) == ([], [browser])
    other = world()
    other.reset(2)
    assert pool.taken == [browser]


def test_a_browser_comes_back_when_its_world_is_closed_or_forgotten(pool):
    env = miniwob_world(["click-button"])()
    env.reset(0)
    env.close()
    env.close()
    assert len(pool.idle) == 1
    env.reset(1)
    del env
    gc.collect()
    assert (len(pool.idle), pool.taken) == (1, [])


def test_more_episodes_than_browsers_are_an_error_and_not_a_wait(pool):
    world = miniwob_world(["click-button"])
    envs = [world() for _ in range(3)]
    envs[0].reset(0)
    envs[1].reset(1)
    with pytest.raises(RuntimeError, match="3 episodes .* only 2 browsers"):
        envs[2].reset(2)
    envs[0].step(Action("done"))
    envs[2].reset(2)


def test_closing_the_pool_ends_every_browser(pool):
    world = miniwob_world(["click-button"])
    envs = [world(), world()]
    for env in envs:
        env.reset(0)
    browsers = [env.browser for env in envs]
    envs[0].close()
    pool.close()
    assert all(browser.closed for browser in browsers)
    assert (pool.idle, pool.taken) == ([], [])


def test_a_world_that_is_over_can_be_looked_at_but_not_played(env):
    before = env.visible(), env.key(), env.oracle(3)
    env.step(Action("done"))
    assert (env.visible(), env.key(), env.oracle(3)) == before
    with pytest.raises(RuntimeError, match="reset the world first"):
        env.step(Action("wait"))


# ---- a step --------------------------------------------------------------------------------------


def test_a_click_goes_to_the_browser_and_the_next_page_is_seen(env):
    env.browser.pages = [replace(PAGE, instruction="Next.")]
    action = env.ground(Action("click", "Save"))
    observation, reward, terminated, truncated, info = env.step(action, said="click Save")
    [step] = env.browser.done
    assert (step.kind, step.coords) == ("CLICK_COORDS", pytest.approx((8.0, 115.5)))
    assert observation.instruction == "Next."
    assert observation.history == ("click Save",)
    assert (reward, terminated, truncated, info["result"]) == (0.0, False, False, "ok")


def test_refused_and_impossible_actions_do_nothing_but_take_a_step(env):
    *_, info = env.step(None, said="click Nothing")
    assert (info["result"], info["steps"]) == ("failed", 1)
    *_, info = env.step(Action("back"))
    assert (info["result"], info["steps"]) == ("impossible", 2)
    assert env.browser.done == []
    assert env.observe().history == ("click Nothing failed", "back")


@pytest.mark.parametrize(
    ("raw_reward", "ours", "theirs"),
    [(1, True, True), (0.5, False, True), (0, False, False), (-1, False, False)],
)
def test_ours_is_the_whole_reward_and_browsergyms_is_any(env, raw_reward, ours, theirs):
    env.browser.pages = [replace(PAGE, done=True, raw_reward=raw_reward, reason="so")]
    _, reward, terminated, truncated, info = env.step(Action("wait"))
    assert (terminated, truncated, reward) == (True, False, float(ours))
    assert (info["success"], info["success_browsergym"]) == (ours, theirs)
    assert (info["raw_reward"], info["reason"], info["crashed"]) == (raw_reward, "so", False)


@pytest.mark.parametrize("said", [Action("done"), Action("fail"), Action("answer", "7")])
def test_saying_that_it_is_done_ends_a_task_that_the_page_does_not_end(env, said):
    _, reward, terminated, truncated, info = env.step(said)
    assert (reward, terminated, truncated, info["success"]) == (0.0, True, False, False)


def test_an_episode_is_cut_off_after_ten_steps(env, pool):
    for number in range(1, MAX_STEPS + 1):
        _, _, terminated, truncated, info = env.step(Action("wait"))
        assert (terminated, truncated, info["steps"]) == (False, number == 10, number)
    assert pool.taken == []


def test_a_solution_in_the_tenth_step_counts(env):
    for _ in range(9):
        env.step(Action("wait"))
    env.browser.pages = [replace(PAGE, done=True, raw_reward=1)]
    _, reward, terminated, truncated, _info = env.step(Action("wait"))
    assert (reward, terminated, truncated) == (1.0, True, False)


def test_a_crash_costs_its_episode_and_the_next_has_a_new_browser(env, pool):
    lost = env.browser
    lost.lost = True
    _, reward, terminated, truncated, info = env.step(Action("click", "Save", POINT))
    assert (reward, terminated, truncated) == (0.0, False, True)
    assert (info["crashed"], info["success"], info["result"]) == (True, False, "broken")
    assert lost.closed
    assert (pool.taken, pool.idle) == ([], [])
    env.reset(6)
    assert env.browser is not lost
    assert not env.step(Action("wait"))[4]["crashed"]


def test_a_browser_that_crashes_at_reset_is_replaced_once(pool):
    env = miniwob_world(["click-button"])()
    for number_lost in (1, 2):
        pool.idle = [NoBrowser("click-button") for _ in range(2)]
        for browser in pool.idle[-number_lost:]:
            browser.lost = True
        if number_lost == 1:
            env.reset(0)
            assert not env.browser.lost
            env.close()
        else:
            with pytest.raises(NotBegun, match="chromium crashes over click-button: it has gone"):
                env.reset(0)
    assert (pool.idle, pool.taken) == ([], [])


# ---- what is seen --------------------------------------------------------------------------------


def test_only_the_last_steps_are_shown(env):
    for number in range(4):
        env.step(Action("type", str(number)))
    assert env.observe().history == ("type 2", "type 3")


def test_a_picture_shows_its_own_moment_and_the_task_alone(env):
    observation = env.observe()
    env.browser.pages = [replace(PAGE, picture=picture("red"))]
    later = env.step(Action("wait"))[0]
    assert observation.screenshot().size == (160, 210)
    assert observation.screenshot().getpixel((0, 0)) == (255, 255, 255)
    assert later.screenshot().getpixel((159, 209)) == (255, 0, 0)


def test_a_larger_scale_is_a_larger_picture(pool):
    env = miniwob_world(["click-button"])(scale=3)
    env.reset(0)
    assert env.browser.loaded == [("click-button", 0, 3)]
    env.page = replace(PAGE, picture=picture(scale=3))
    assert env.observe().screenshot().size == (480, 630)


def test_the_tool_agent_finds_exact_labels_and_refuses_the_rest(env):
    assert env.ground(Action("click", "Save")).point == pytest.approx((0.05, 0.55))
    assert env.ground(Action("hover", "Tab #1")).point == pytest.approx((0.25, 0.55))
    assert env.ground(Action("click", "Tab # 1")) == Action("click", "Tab # 1", (0.25, 0.55))
    for text in ("save", "Sav", "Save as", "", "Tab", "#1"):
        assert env.ground(Action("click", text)) is None
    assert env.ground(Action("type", "Save")) == Action("type", "Save")


def test_the_tool_agent_finds_both_ends_of_a_drag(env):
    found = env.ground(Action("drag", "Save to Tab #1"))
    assert (found.point, found.end) == (pytest.approx((0.05, 0.55)), pytest.approx((0.25, 0.55)))
    assert found.text == "Save to Tab #1"
    assert env.ground(Action("drag", "Nothing to Save")) is None


def test_the_toys_other_names_are_no_names_here(env):
    """In the toy GUI a tool agent finds "Title" for "Name" now and then."""
    env.page = replace(PAGE, elements=(element("Title", 0.0), element("Name", 0.5)))
    assert env.ground(Action("click", "Name")).point[0] > 0.5
    env.page = replace(PAGE, elements=(element("Title", 0.0),))
    for seed in range(50):
        env.page_seed = seed
        assert env.ground(Action("click", "Name")) is None


def test_of_two_things_with_one_label_that_which_can_be_operated_is_meant(env):
    text = element("Save", 0.0, "text", operable=False)
    button = element("Save", 0.5)
    env.page = replace(PAGE, elements=(text, button, element("Menu", 0.7, "p", operable=False)))
    assert env.visible() == (("Save", button.box), ("Menu", (0.7, 0.5, 0.1 + 0.7, 0.6)))


def test_of_two_buttons_with_one_label_either_is_taken_but_always_the_same(env):
    env.page = replace(PAGE, elements=(element("ok", 0.0), element("ok", 0.5)))
    points = set()
    for seed in range(30):
        env.page_seed = seed
        found = {env.ground(Action("click", "ok")).point for _ in range(3)}
        assert len(found) == 1
        points |= found
    assert len(points) == 2


def test_the_key_names_what_is_seen(env):
    key = env.key()
    assert key.startswith("click-button/2000005/")
    focused = replace(PAGE.elements[0], focused=True)
    env.page = replace(PAGE, elements=(focused, *PAGE.elements[1:]))
    assert env.key() != key
    env.page = replace(PAGE, picture=picture("red"))
    assert env.key() == key


def test_cells_say_which_word_begins_where(env):
    assert env.cells() == {(0, 6): "Save", (2, 6): "1", (5, 0): "<field>", (9, 12): "<unk>"}


def test_words_are_those_of_more_pages_than_one_or_two(pool):
    words = miniwob_world(["click-button"]).words
    assert {"Click", "on", '"', "Save", ".", "Tab", "#", "1", "textbox"} <= set(words)
    assert "x9Q" not in words
    assert list(words) == sorted(set(words))
    assert pool.taken == []


def test_words_are_cut_as_the_tiny_tokenizer_cuts_them(env):
    from extras.tiny_vlm import make_tokenizer, make_vocabulary

    tokenizer = make_tokenizer(make_vocabulary(env.words))
    for text in ('Click on the "Save" button.', "click Tab #1"):
        assert tokenizer.tokenize(text) == words_of(text)
    written = tokenizer.decode(tokenizer("click Tab #1")["input_ids"])
    assert env.ground(Action("click", written.partition(" ")[2])) is not None


# ---- oracle, examples, random behaviour ----------------------------------------------------------


def test_an_example_has_the_scripts_plan_and_the_targets_box(env):
    plan = (Action("click", "Save"),)
    example = env.example(5, plan)
    assert example.reference == (Action("click", "Save", (0.05, 0.55)),)
    assert example.boxes == (PAGE.elements[0].box,)
    assert example.elements == env.visible()
    assert (example.key, example.observation.plan) == (env.key(), plan)
    assert example.execute(Action("click", "Save")) == example.reference[0]


def test_all_that_bears_the_targets_label_is_right(env):
    env.page = replace(PAGE, elements=(element("Save", 0.0), element("Save", 0.5)))
    assert len(env.example(1).boxes) == 2


def test_without_a_script_there_is_no_plan_and_no_example(pool):
    env = miniwob_world(["no-script"])()
    _, info = env.reset(0)
    assert (info["oracle_steps"], env.oracle_steps, env.oracle(5)) == (0, 0, [])
    with pytest.raises(ValueError, match="no script for no-script"):
        env.example(5)


def test_wandering_ends_with_the_browser_given_back(pool):
    env = miniwob_world(["click-button"])()
    rng = random.Random(0)
    steps = set()
    for seed in range(30):
        env.reset(seed)
        env.wander(rng)
        steps.add(env.steps)
        assert pool.taken == []
        assert isinstance(env.example(2), Example)
    assert steps == {0, 1, 2, 3}


def test_moves_are_things_that_can_be_tried(env):
    moves = env.moves(random.Random(0))
    assert {str(move) for move in moves} >= {"click Save", "click Tab #1", "scroll down", "wait"}
    assert any(move.kind == "type" for move in moves)
    assert all(env.ground(move) is not None for move in moves)
    assert env.stray(random.Random(0)).text in env.words


# ---- real pages ----------------------------------------------------------------------------------


@pytest.fixture
def real():
    """Worlds in real browsers; they are kept for the next test."""
    yield miniwob_world
    for browser in list(miniwob.POOL.taken):
        miniwob.POOL.give_back(browser)


def begin(task: str, seed: int = 7, split: str = "train", scale: int = 1):
    env = miniwob_world([task])(split, scale)
    env.reset(seed)
    return env


def pixels(env) -> np.ndarray:
    return np.asarray(env.observe().screenshot())


@in_a_browser
def test_125_tasks_are_known():
    assert len(list_tasks()) == 125
    assert "click-button" in list_tasks()


@in_a_browser
@pytest.mark.parametrize("task", ["click-dialog-2", "login-user", "drag-items"])
def test_a_seed_gives_the_same_page_whatever_was_played_before(real, task):
    first = begin(task)
    seen, key, instruction = pixels(first), first.key(), first.observe().instruction
    while first.browser is not None:
        first.step(first.ground(first.oracle(1)[0]))
    other = begin("enter-text", seed=3)
    other.step(other.ground(Action("click", "textbox")))  # the mouse and the focus stay there
    other.close()
    again = begin(task)
    assert (again.key(), again.observe().instruction) == (key, instruction)
    assert np.array_equal(pixels(again), seen)
    again.close()
    assert begin(task, seed=8).key() != key


@in_a_browser
@pytest.mark.parametrize("task", ["email-inbox-nl-turk", "click-button"])
def test_an_instruction_is_a_sentence(real, task):
    """Some pages say it as an object with the sentence in it."""
    env = begin(task)
    assert isinstance(env.observe().instruction, str)
    assert len(env.observe().instruction.split()) > 2
    env.close()


@in_a_browser
def test_nothing_has_the_focus_at_the_start(real):
    env = begin("enter-text")
    env.step(env.ground(Action("click", "textbox")))
    assert [element.label for element in env.page.elements if element.focused] == ["textbox"]
    env.reset(8)
    assert not any(element.focused for element in env.page.elements)
    env.step(Action("type", "lost"))
    assert [element.value for element in env.page.elements if element.label == "textbox"] == [""]


@in_a_browser
def test_pictures_at_scale_two_are_drawn_and_not_blown_up(real):
    small = begin("click-link").observe().screenshot()
    large = begin("click-link", scale=2).observe().screenshot()
    assert (small.size, large.size) == ((160, 210), (320, 420))
    blown_up = np.asarray(small.resize((320, 420), Image.Resampling.BILINEAR)).astype(int)
    edges = np.abs(np.diff(np.asarray(large).astype(int), axis=1)).max()
    assert edges > np.abs(np.diff(blown_up, axis=1)).max()


@in_a_browser
def test_a_native_list_and_a_drag_do_what_they_say(real):
    env = begin("choose-list")
    options = [element for element in env.page.elements if element.tag == "option"]
    other = next(option for option in options if not option.on)
    *_, info = env.step(env.ground(Action("select", other.label)))
    assert info["result"] == "ok"
    chosen = [
        element.label for element in env.page.elements if element.tag == "option" and element.on
    ]
    assert chosen == [other.label]
    env = begin("drag-sort-numbers")
    items = [e.label for e in env.page.elements if "ui-sortable-handle" in e.classes and e.label]
    env.step(env.ground(Action("drag", f"{items[0]} to {items[2]}")))
    after = [e.label for e in env.page.elements if "ui-sortable-handle" in e.classes and e.label]
    assert after == [items[1], items[2], items[0], items[3]]


@in_a_browser
def test_hostile_texts_are_typed_and_nothing_else(real):
    env = begin("enter-text")
    env.step(env.ground(Action("click", "textbox")))
    text = "'+alert(1)+\" <b>é漢😀</b> \\n ${x}"
    env.step(Action("type", text))
    assert [element.value for element in env.page.elements if element.label == "textbox"] == [text]
    *_, info = env.step(Action("key", "ctrl+w"))
    assert not info["crashed"]


@in_a_browser
def test_words_of_real_pages_are_known(real):
    world = miniwob_world(["click-test-2"])
    assert {"ONE", "TWO", "Click", "button", "."} <= set(world.words)
    env = world("dev")
    env.reset(4)
    assert {word for word in env.cells().values()} == {"ONE", "TWO"}


@in_a_browser
def test_a_real_crash_costs_one_episode(real):
    env = begin("click-test-2")
    folder = str(env.browser.nest.folder)
    for number, command in processes_of(folder).items():
        if f"--user-data-dir={folder}" in command:
            os.kill(number, signal.SIGKILL)
    _, _, terminated, truncated, info = env.step(env.ground(Action("click", "ONE")))
    assert (terminated, truncated, info["crashed"], info["success"]) == (False, True, True, False)
    assert not os.path.exists(folder)
    env.reset(9)
    *_, info = env.step(env.ground(Action("click", "ONE")))
    assert info["success"]
