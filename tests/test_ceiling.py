"""extras/ceiling.py: at which states and with which plans in the prompt first actions are asked."""

import pytest

from envs import Action, Example, Observation
from extras import ceiling as room
from extras.ceiling import ceiling, code_words, out_of_sight

CONFIG = {"env": "toy-gui:memory=1", "horizon": 3, "history": 4}


@pytest.fixture
def asked(monkeypatch, policy) -> dict:
    """What the policy is asked, by plan. Plans of its own say in which state they were made."""

    def mark(_planner, records):
        plans = []
        for n, record in enumerate(records):
            plans.append([(Action("type", f"{n} {i}"),) for i in range(len(record))])
        return plans

    log = []
    monkeypatch.setattr(room, "carried_plans", mark)
    monkeypatch.setattr(room, "check_plans", lambda _policy, *what: log.append(what))
    names = list(ceiling(policy, CONFIG, "dev", 12))
    return dict(zip(names, log, strict=True))


def test_the_same_states_are_asked_with_no_plan_its_own_and_the_oracles(asked):
    assert list(asked) == ["none", "own", "oracle"]
    probes, none, horizon = asked["none"]
    assert horizon == 3
    assert len(probes) > 30
    assert none == [()] * len(probes)
    for states, plans, _ in asked.values():
        assert states == probes
        assert len(plans) == len(probes)


def state(label: str, *reference: Action) -> Example:
    """A screen with one label on it, and what the oracle does there."""
    observation = Observation("type code in City", lambda: None, ())
    return Example(observation, reference, elements=((label, (0.0, 0.0, 1.0, 1.0)),))


def test_only_between_the_last_sight_of_the_word_and_its_use():
    to_wifi = Action("click", "Wifi")
    to_city = Action("click", "City")
    record = [
        state("Later", Action("click", "Later")),  # a popup: not yet seen
        state("coral", to_wifi),
        state("Wifi", to_wifi),  # asked from here on
        state("coral", to_wifi),  # back again, in sight
        state("City", to_city),
        state("City", Action("type", "coral")),  # asked for the last time
        state("City", Action("click", "Save")),  # it has been used
        state("Saved", Action("done")),
    ]
    assert out_of_sight("coral", record) == [2, 4, 5]
    assert out_of_sight("amber", record) == []


def test_the_last_state_asked_of_a_task_is_the_one_in_which_the_code_is_typed(asked):
    """In 11 of these 12: in the other the tool agent takes the annotator's word for another thing,
    over and over."""
    probes, _, _ = asked["none"]
    last = {probe.example.observation.instruction: probe.example for probe in probes}
    due = [example.reference[0] for example in last.values()]
    codes = list(code_words(CONFIG["env"], "dev", 12).values())
    del codes[10]
    assert [(action.kind, action.text) for action in due] == [("type", code) for code in codes]


def test_the_oracles_plan_is_what_is_left_of_the_step_before(asked):
    probes, plans, _ = asked["oracle"]
    for probe, plan in zip(probes, plans, strict=True):
        assert plan == probe.before[-1].reference[1:]
    # Where it has to be typed now, the plan says so.
    typed = 0
    for probe, plan in zip(probes, plans, strict=True):
        due = probe.example.reference[0]
        if due.kind == "type" and plan[0].kind == "type":
            assert plan[0].text == due.text
            typed += 1
    assert typed > 5


def test_its_own_plan_is_the_one_carried_into_that_state(asked):
    probes, plans, _ = asked["own"]
    tasks = []
    for probe, [mark] in zip(probes, plans, strict=True):
        task, state_number = mark.text.split()
        assert state_number == str(len(probe.before))
        tasks.append((int(task), probe.example.observation.instruction))
    assert len({task for task, _ in tasks}) == len(set(tasks)) > 8  # one record, one instruction


def test_tasks_that_need_no_memory_are_not_asked(policy):
    assert code_words("toy-gui:memory=0", "dev", 20) == {}
    some = code_words("toy-gui:memory=0.5", "dev", 40)
    assert 10 < len(some) < 30
    assert some.items() <= code_words("toy-gui:memory=1", "dev", 40).items()
    assert ceiling(policy, CONFIG | {"env": "toy-gui:memory=0"}, "dev", 5) == {}


def test_the_numbers_of_an_untrained_policy(policy):
    found = ceiling(policy, CONFIG, "dev", 2)
    for plan in ("none", "own", "oracle"):
        assert 0 <= found[plan]["first_action"] <= 1
        assert found[plan]["n"] == sum(row["n"] for row in found[plan]["by_kind"].values())
