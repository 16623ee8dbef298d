"""miniwob_oracle.py: a script asks for what is still to be done, from any page of its task; and in
a real browser that solves the task, by the labels alone, as a model would have to."""

import pytest
from test_browser import in_a_browser

from agent import Plan, play
from benchmarks.browser import Element, Page
from benchmarks.miniwob import miniwob_world
from benchmarks.miniwob_oracle import SCRIPTS, plan
from envs import Action


def page(instruction: str, *elements: Element) -> Page:
    return Page(instruction, elements, words=(), picture=b"")


def thing(label: str, tag: str = "button", **more) -> Element:
    """Somewhere on the page: the middle of its box is (0.5, 0.5)."""
    return Element(label, box=(0.4, 0.4, 0.6, 0.6), whole=(0.4, 0.4, 0.6, 0.6), tag=tag, **more)


def field(label: str, **more) -> Element:
    return thing(label, "input", **({"type": "text"} | more))


def said(task: str, now: Page) -> list[str]:
    return [str(action) for action in plan(task, now)]


# ---- from any page -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("state", "expected"),
    [
        ({}, ["click textbox", "type Ann", "click Submit"]),
        ({"focused": True}, ["type Ann", "click Submit"]),
        ({"focused": True, "value": "Bob"}, ["key ctrl+a", "type Ann", "click Submit"]),
        ({"focused": True, "value": "Bob", "selected": True}, ["type Ann", "click Submit"]),
        ({"value": "Bob"}, ["click textbox", "key ctrl+a", "type Ann", "click Submit"]),
        ({"value": "Ann"}, ["click Submit"]),
    ],
)
def test_a_text_is_entered_whatever_is_in_the_field(state, expected):
    now = page('Enter "Ann" into the text field.', field("textbox", **state), thing("Submit"))
    assert said("enter-text", now) == expected


def test_points_are_the_middles_of_what_is_named():
    now = page('Enter "Ann" into the text field.', field("textbox"), thing("Submit"))
    assert [action.point for action in plan("enter-text", now)] == [(0.5, 0.5), None, (0.5, 0.5)]


@pytest.mark.parametrize(
    ("ticked", "expected"),
    [
        ("", ["click ab", "click ef", "click Submit"]),
        ("ab", ["click ef", "click Submit"]),
        ("cd", ["click ab", "click cd", "click ef", "click Submit"]),  # a wrong one is taken back
        ("ab ef", ["click Submit"]),
    ],
)
def test_boxes_are_ticked_until_they_are_right(ticked, expected):
    boxes = [field(name, type="checkbox", on=name in ticked) for name in ("ab", "cd", "ef")]
    now = page("Select ab, ef and click Submit.", *boxes, thing("Submit"))
    assert said("click-checkboxes", now) == expected


def test_of_two_options_only_the_wanted_one_is_clicked():
    options = [field("ab", type="radio", on=True), field("cd", type="radio")]
    now = page("Select cd and click Submit.", *options, thing("Submit"))
    assert said("click-option", now) == ["click cd", "click Submit"]


def test_tabs_are_searched_one_after_the_other():
    def tabs(active: int) -> list[Element]:
        css = [f"ui-tabs-anchor {'ui-tabs-active' if n == active else ''}" for n in (1, 2, 3)]
        return [thing(f"Tab #{n}", "a", classes=css[n - 1]) for n in (1, 2, 3)]

    instruction = 'Switch between the tabs to find and click on the link "sit".'
    for active, following in [(1, 2), (2, 3), (3, 1)]:
        now = page(instruction, *tabs(active))
        assert said("click-tab-2", now) == [f"click Tab #{following}", "click sit"]
        assert plan("click-tab-2", now)[1].point is None  # nobody can see it yet
    link = thing("sit", "span", classes="alink")
    assert said("click-tab-2", page(instruction, *tabs(1), link)) == ["click sit"]
    plain = thing("sit", "span")
    assert said("click-tab-2", page(instruction, *tabs(1), plain))[0] == "click Tab #2"


def test_what_cannot_be_seen_is_waited_for():
    assert said("click-button", page('Click on the "OK" button.')) == ["wait"]
    hidden = page("Select ab and click Submit.", field("ab", type="radio", on=True))
    assert said("click-option", hidden) == ["wait", "click Submit"]


@pytest.mark.parametrize(
    ("task", "label", "answer"),
    [
        ("simple-arithmetic", "3 + 9 =", "12"),
        ("simple-arithmetic", "3 - 9 =", "-6"),
        ("simple-arithmetic", "3 x 9 =", "27"),
        ("simple-algebra", "x + 3 = 57", "54"),
        ("simple-algebra", "3 + x = 57", "54"),
        ("simple-algebra", "x - 3 = 57", "60"),
        ("simple-algebra", "3 - x = 57", "-54"),
    ],
)
def test_sums(task, label, answer):
    problem = thing(label, "div", id="math-problem")
    now = page("Solve it.", problem, field(label, focused=True), thing("Submit"))
    assert said(task, now) == [f"type {answer}", "click Submit"]


@pytest.mark.parametrize(
    ("clock", "keys", "value"),
    [
        ("9:05 AM", "0905a", "09:05"),
        ("12:00 AM", "1200a", "00:00"),
        ("12:30 PM", "1230p", "12:30"),
        ("3:07 PM", "0307p", "15:07"),
    ],
)
def test_times(clock, keys, value):
    instruction = f"Enter {clock} as the time and press submit."
    start = page(instruction, field("time", type="time"), thing("Submit"))
    assert said("enter-time", start) == ["key tab", f"type {keys}", "click Submit"]
    right = page(instruction, field("time", type="time", value=value), thing("Submit"))
    assert said("enter-time", right) == ["click Submit"]


@pytest.mark.parametrize(
    ("where", "expected"),
    [
        ("to the top.", "drag b to a"),
        ("to the bottom.", "drag b to c"),
        ("down by one position.", "drag b to c"),
        ("up by one position.", "drag b to a"),
        ("to the 3rd position.", "drag b to c"),
    ],
)
def test_items_are_dragged_where_they_are_asked_for(where, expected):
    items = [thing(label, "li", classes="ui-sortable-handle") for label in "abc"]
    assert said("drag-items", page(f"Drag b {where}", *items)) == [expected]


def test_a_task_without_a_script_is_a_key_error():
    with pytest.raises(KeyError):
        plan("terminal", page(""))


# ---- in a browser --------------------------------------------------------------------------------

PLAYED = (
    "click-button",
    "click-checkboxes",
    "click-collapsible",
    "choose-list",
    "drag-box",
    "enter-date",
    "login-user-popup",
    "search-engine",
)


def script_planner(observations, envs) -> list[Plan]:
    return [Plan(env.oracle(5)) for env in envs]


@in_a_browser
@pytest.mark.parametrize("task", PLAYED)
def test_scripts_solve_their_tasks_through_the_models_own_path(task):
    """Forecast, tool agent by labels, step: two pages of the split `test`, one after the other."""
    env = miniwob_world([task])("test")
    for seed in (0, 1):
        [played] = play(script_planner, [env], [seed], horizon=5)
        assert played.success, (played.observations[0].instruction, played.forecasts)
        assert played.oracle_steps <= len(played.results) <= 10


@in_a_browser
def test_a_script_goes_on_after_wrong_steps():
    env = miniwob_world(["login-user"])("test")
    env.reset(3)
    for wrong in (Action("click", "Password"), Action("type", "nonsense"), Action("key", "tab")):
        env.step(env.ground(wrong))
    while env.browser is not None:
        info = env.step(env.ground(env.oracle(1)[0]))[4]
    assert info["success"]


@in_a_browser
def test_every_script_belongs_to_a_task():
    assert issubclass(miniwob_world(list(SCRIPTS)), object)
