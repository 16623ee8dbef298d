"""What a plan in the prompt is worth: the ceiling of carrying a forecast along.

Called through extras/study_arms.py for the memory dial of the settings world.
It trains nothing and plays nothing: it asks for first actions at states of demonstrations.

    state         0        1        2        3        4        of a demonstration
    the code      seen     seen     -        -        -        stands on the first page alone
    asked                           x        x        x        with no plan, its own, the oracle's
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
    Asked at the states of demonstrations, without false steps, where what has to be remembered has
    been seen and can be seen no longer. Its own plan has been carried from the first state on, as
    in play.
    """
    codes = code_words(config["env"], split, n)
    records = [record_of(index, config, split, policy.toy_scale) for index in codes]
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
    """The states in which the word has been seen and is to be seen no longer."""
    states = []
    seen = False
    for i, example in enumerate(record):
        if shows(example, word):
            seen = True
        elif seen:
            states.append(i)
    return states


def shows(example: Example, word: str) -> bool:
    """Whether the word stands on the screen."""
    return word in [label for label, _box in example.elements]
