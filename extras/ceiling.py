"""What a plan in the prompt is worth: the ceiling of carrying a forecast along.

Called through extras/study_arms.py for the memory dial of the settings world.
It trains nothing and plays nothing: it asks for first actions at states of demonstrations.
"""

from agent import Policy, policy_planner
from envs import Example, demonstration
from extras.warm_start import Probe, carried_plans, check_plans
from extras.worlds import find_world


def ceiling(policy: Policy, config: dict, split: str, n: int) -> dict:
    """First actions right with the oracle's plan in the prompt, with the policy's own, with none.

    Asked at the states of demonstrations, without false steps, where what has to be remembered has
    been seen and can be seen no longer. Its own plan has been carried from the first state on, as
    in play. Of the tasks 0..n-1 of a split those count that need memory; empty: none of them does.
    """
    probes = []
    own = []
    codes = code_words(config["env"], split, n)
    records = [record_of(index, config, split, policy.toy_scale) for index in codes]
    if not records:
        return {}
    carried = carried_plans(policy_planner(policy, config["horizon"]), records)
    for code, record, plans in zip(codes.values(), records, carried, strict=True):
        seen = False
        for i, example in enumerate(record):
            on_screen = shows(example, code)
            if seen and not on_screen:
                probes.append(Probe(example, record[:i], other_plan=()))
                own.append(plans[i])
            seen = seen or on_screen
    shown = {
        "none": [()] * len(probes),
        "own": own,
        "oracle": [probe.plan for probe in probes],
    }
    return {
        name: check_plans(policy, probes, plans, config["horizon"]) for name, plans in shown.items()
    }


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
    return demonstration(
        find_world(config["env"]),
        split,
        index=index,
        horizon=config["horizon"],
        noise=0.0,
        history=config["history"],
        scale=scale,
    )


def shows(example: Example, word: str) -> bool:
    """Whether the word stands on the screen."""
    return word in [label for label, _box in example.elements]
