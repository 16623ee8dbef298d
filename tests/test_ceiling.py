"""extras/ceiling.py: at which states and with which plans in the prompt first actions are asked."""

import pytest

from envs import Action
from extras import ceiling as room
from extras.ceiling import ceiling, code_words, record_of, shows

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


def test_only_where_what_is_to_be_remembered_was_seen_and_is_out_of_sight(asked):
    codes = code_words(CONFIG["env"], "dev", 12)
    records = [record_of(index, CONFIG, "dev", 1) for index in codes]
    expected = []
    for code, record in zip(codes.values(), records, strict=True):
        for i in range(len(record)):
            if any(shows(example, code) for example in record[:i]) and not shows(record[i], code):
                expected.append((record[i].key, i))
    probes, _, _ = asked["none"]
    assert [(probe.example.key, len(probe.before)) for probe in probes] == expected


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
    for probe, [mark] in zip(probes, plans, strict=True):
        assert mark.text.split()[1] == str(len(probe.before))


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
