r"""The memory dial: the toy GUI in which something seen early is needed late.

Called by extras/worlds.py for --env toy-gui:memory=SHARE. The tasks are chosen in envs.make_task;
here stands what the tiny model has to be taught before a plan in its prompt is of any use to it: to
copy from it, which a pretrained model is expected to bring along.
It knows no model and trains nothing: extras/warm_start.py does.

    prompt        instruction, screen, ..., plan: click Wifi; type coral; click Save
    drill         given "click Wifi", to be written "\ntype coral\nclick Save"
"""

import random
from dataclasses import replace
from functools import cache, partial

from agent import format_forecast
from envs import VALUES, Action, ToyGUI
from extras.lessons import Course, Drill

DRILLS = 16  # screens of a batch, each with a plan
PLAN_STEPS = 4  # what is left of a forecast of five
TYPED = 0.5  # the share of steps that type


@cache
def memory_gui(share: float) -> type[ToyGUI]:
    """The toy GUI with a dial: the share of tasks in which something seen early is needed late.

    In every task a value has to be typed on another page than the first. In `share` of them the
    instruction calls it "code", and it stands on the first page alone; in the others the
    instruction says it. A task that needs no memory at one share needs none at a lower one, and
    nothing else differs, but that the code pushes the rows of its page down by one, which costs the
    oracle a step in 4 % of tasks. The same share gives the same class. Raises ValueError outside
    0..1.
    """
    if not 0.0 <= share <= 1.0:
        raise ValueError(f"memory={share}: the share must lie in 0..1")
    return type("MemoryGUI", (MemoryGUI,), {"memory": share})


class MemoryGUI(ToyGUI):
    """What the worlds of all shares have in common."""

    @staticmethod
    def courses(settings) -> list[Course]:
        """What is taught between reading and imitation: to go on in a plan of the prompt.

        `settings`: an extras.warm_start.WarmStart, which cannot be imported here.
        """
        copying = partial(draw_copying, tasks=settings.train_tasks, order=settings.order)
        return [Course("copying", 150, copying, horizon=PLAN_STEPS + 1)]


def draw_copying(rng: random.Random, tasks: int, order: str) -> list[Drill]:
    """A batch of screens, each with a random plan in its prompt.

    The plan is nothing that the screen asks for: what to write can only be copied. Where a line
    stands in it twice, it is gone on with from either.
    """
    drills = []
    for _ in range(DRILLS):
        env = ToyGUI("train")
        env.reset(rng.randrange(tasks))
        env.wander(rng)
        plan = tuple(random_step(rng) for _ in range(PLAN_STEPS))
        observation = replace(env.observe(), plan=plan)
        drills.append(Drill(observation, continuations(plan, order)))
    return drills


def random_step(rng: random.Random) -> Action:
    if rng.random() < TYPED:
        return Action("type", rng.choice(VALUES))
    return ToyGUI.stray(rng)


def continuations(plan: tuple[Action, ...], order: str) -> tuple[tuple[str, str], ...]:
    """For each line of a written plan but the last: (that line, which is given; those after it)."""
    lines = format_forecast(plan, far_first=order == "far").split("\n")
    answers = []
    for i, line in enumerate(lines[:-1]):
        rest = "\n".join(lines[i + 1 :])
        answers.append((line, f"\n{rest}"))
    return tuple(answers)
