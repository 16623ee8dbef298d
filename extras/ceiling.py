"""What a plan in the prompt is worth: the ceiling of carrying a forecast along.

Called by extras/ablation.py, as the probe of arms of extras/study_arms.py (the memory dial).
It trains nothing and plays nothing: it asks for first actions at states of demonstrations, with no
plan in the prompt, with the policy's own, and with the oracle's.

    state of a demonstration       0      1      2      3      4      5
    the code, on the first page    seen   seen   -      -      typed  -
    asked                                        x      x      x
"""

from collections.abc import Sequence

from agent import Policy, policy_planner
from envs import Example, demonstration
from extras.warm_start import Probe, carried_plans, check_plans
from extras.worlds import find_world


def ceiling(policy: Policy, config: dict, split: str, n: int) -> dict:
    """First actions right with the oracle's plan in the prompt, with the policy's own, with none.

    {"none": {"first_action": 0.41, "n": 310, "by_kind": {...}}, "own": ..., "oracle": ...}, as
    warm_start.check_plans says it; empty where none of the tasks 0..n-1 of the split needs memory.
    Asked at the states of demonstrations, without false steps, in which the code has been seen, can
    be seen no longer and is still to be typed; where it is to be typed right now, its kind is
    eval.TYPE_UNSAID. Its own plan has been carried along the demonstration
    (warm_start.carried_plans). `config`: env, horizon, history.
    """
    codes = code_words(config["env"], split, n)
    scale = policy.scale_of(find_world(config["env"]))
    records = [record_of(index, config, split, scale) for index in codes]
    if not records:
        return {}
    carried = carried_plans(policy_planner(policy, config["horizon"]), records)
    probes = []
    own = []  # the plan that the policy has carried into each of them
    for code, record, plans in zip(codes.values(), records, carried, strict=True):
        for i in out_of_sight(code, record):
            probes.append(Probe(record[i], record[:i], other_plan=()))
            own.append(plans[i])
    shown = {
        "none": [()] * len(probes),
        "own": own,
        "oracle": [probe.plan for probe in probes],
    }
    shares = {}
    for name, plans in shown.items():
        shares[name] = check_plans(policy, probes, plans, config["horizon"])
    return shares


def code_words(env: str, split: str, n: int) -> dict[int, str]:
    """Task -> the word that has to be remembered in it; tasks that need no memory are left out."""
    world = find_world(env)(split)
    words = {}
    for index in range(n):
        world.reset(index)
        if world.task.code is not None:
            words[index] = world.task.code
    return words


def record_of(index: int, config: dict, split: str, scale: int) -> list[Example]:
    """A demonstration of one task, state by state; `scale`: how large its screens are drawn."""
    return demonstration(
        find_world(config["env"]),
        split,
        index=index,
        horizon=config["horizon"],
        noise=0.0,
        history=config["history"],
        scale=scale,
    )


def out_of_sight(word: str, record: Sequence[Example]) -> list[int]:
    """Where the word has been seen, can be seen no longer and is still to be typed."""
    states = []
    seen = False
    for i, example in enumerate(record):
        if shows(example, word):
            seen = True
        elif seen:
            states.append(i)
            due = example.reference[0]
            if due.kind == "type" and due.text == word:
                break  # it is done now, and nothing is left to be remembered
    return states


def shows(example: Example, word: str) -> bool:
    """Whether the word stands on the screen as a label; what a field holds is none."""
    return word in [label for label, _box in example.elements]
