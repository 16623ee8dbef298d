"""What the warm start teaches with words: forms of an answer, damaged plans, a world's own courses.

Called by extras/warm_start.py, which trains on them, by worlds that bring courses of their own, and
by train.py, whose stage 2 can insist on fillers. Knows actions and observations: no model, no
gradient, and of a world its `stray` alone.
"""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from envs import Action, Observation, die
from rewards import similarity

# ---- answers: the reference, and controls that tell why it teaches -------------------------------

# The values of --warmup_lessons.
ANSWERS = ("forecasts", "next", "scrambled", "left_out", "goal", "stranger")
# Those with fillers are for the toy map: where a reference ends in `done`, the parser would refuse
# what a filler says after it.
FILLERS = ("goal", "stranger")


@dataclass
class Lesson:
    """A state of a demonstration, and what is to be written there."""

    observation: Observation
    answer: tuple[Action, ...]
    ahead: tuple[Action, ...] = ()  # the reference as far as it is known; `answer` may be shorter


def form_answers(
    lessons: Sequence[Lesson], form: str, rng: random.Random
) -> list[tuple[Action, ...]]:
    """What --warmup_lessons makes of the answers of a batch: as form_answer, or with fillers.

    With fillers an answer has as many lines as a forecast and says nothing of the way. So where
    such a start is worse than one with forecasts, the content was missing, not the length:
    goal        each later step is the last one of the whole reference, however short the answer
    stranger    in the later places stand the steps of another task of the batch, from its first on
    """
    answers = []
    for lesson in lessons:
        if form == "goal":
            whole = lesson.ahead if lesson.ahead else lesson.answer
            answer = fill(lesson.answer, whole[-1:])
        elif form == "stranger":
            answer = fill(lesson.answer, draw_stranger(lesson, lessons, rng).answer)
        else:
            answer = form_answer(lesson.answer, form, rng)
        answers.append(answer)
    return answers


def fill(reference: Sequence[Action], fillers: Sequence[Action]) -> tuple[Action, ...]:
    """The first action, and in the place of each later one a filler, all of them in turn."""
    filled = list(reference[:1])
    for i in range(len(reference) - 1):
        filler = fillers[i % len(fillers)]
        filled.append(Action(filler.kind, filler.text))
    return tuple(filled)


def is_filler(forecast: Sequence[Action], reference: Sequence[Action]) -> bool:
    """Whether a forecast has at least as many steps as the reference, and each but the first says
    the reference's last one.

    That is what `goal` teaches where the reference reaches the goal: --horizon must be as long as
    the way.
    """
    if len(forecast) < len(reference):
        return False
    return all(similarity(step, reference[-1]) == 1.0 for step in forecast[1:])


def draw_stranger(lesson: Lesson, lessons: Sequence[Lesson], rng: random.Random) -> Lesson:
    """A lesson of the batch with another instruction."""
    own = lesson.observation.instruction
    strangers = [other for other in lessons if other.observation.instruction != own]
    if not strangers:
        die(
            f"--warmup_lessons stranger: all {len(lessons)} lessons of a batch are of one task; "
            "raise --warmup_batch"
        )
    return rng.choice(strangers)


def form_answer(reference: Sequence[Action], form: str, rng: random.Random) -> tuple[Action, ...]:
    """What four of --warmup_lessons make of a reference; the first action stays true.

    forecasts   all of it
    next        its first action alone. It differs from `forecasts` in two ways: nothing is said of
                the future, and there is less to learn from (a forecast practises each later step
                from every earlier state). Given as many target tokens (2.8 times the
                --warmup_steps), only the first difference is left
    scrambled   the words of the later steps change places: as many tokens and the same words as a
                forecast, but nothing in them says what comes when. What this start still has over
                `next` is not knowledge of the future
    left_out    each later step is missing in one case of two: a forecast with half of the teaching
                about later steps, in which nothing false is said
    """
    if form == "next":
        return tuple(reference[:1])
    if form == "scrambled":
        return scramble(reference, rng)
    if form == "left_out":
        return leave_out(reference, rng)
    if form == "forecasts":
        return tuple(reference)
    raise ValueError(f"{form} takes more than one answer: form_answers")


def scramble(actions: Sequence[Action], rng: random.Random) -> tuple[Action, ...]:
    """The same kinds in the same places, the words of all but the first action in random order.

    All orders are equally likely, the true one too: an order that is never the true one would tell
    something about it.
    """
    words = []
    for action in actions[1:]:
        if takes_any_words(action):
            words.append((action.text, action.expects))
    rng.shuffle(words)
    scrambled = list(actions[:1])
    for action in actions[1:]:
        if takes_any_words(action):
            text, expects = words.pop()
            action = Action(action.kind, text, expects=expects)
        scrambled.append(action)
    return tuple(scrambled)


def takes_any_words(action: Action) -> bool:
    """Whether the text can be another: `done` has none, and a scroll needs a direction."""
    return action.text != "" and action.kind != "scroll"


def leave_out(actions: Sequence[Action], rng: random.Random) -> tuple[Action, ...]:
    """The first action, and of the others each with probability one half, in their order."""
    kept = list(actions[:1])
    for action in actions[1:]:
        if rng.random() < 0.5:
            kept.append(action)
    return tuple(kept)


def think_back(actions: Sequence[Action]) -> str:
    """The thought that the tiny model learns: the names of the steps from far to near.

    It begins where the plan ends, at what is wanted, and comes back to what is to be done first.

    >>> think_back([Action("click", "Name"), Action("type", "amber"), Action("done")])
    'amber Name'
    """
    return " ".join(action.text for action in reversed(actions) if action.text)


# ---- plans in the prompt -------------------------------------------------------------------------


def damage(plan: Sequence[Action], world, rng: random.Random, horizon: int) -> tuple[Action, ...]:
    """The plan cut at a random step, with three in ten of its steps replaced by false ones."""
    damaged = []
    for action in plan[: rng.randint(0, horizon)]:
        if rng.random() < 0.3:
            action = world.stray(rng)
        damaged.append(action)
    return tuple(damaged)


# ---- courses: lessons that only one world needs --------------------------------------------------


@dataclass(frozen=True)
class Drill:
    """One prompt and some answers to it; of each answer the first part is given, not learnt.

    `inner`: for what is to be worked out silently. Layer 0 is to name inner[0], layer 1 inner[1],
    and so on, at the token from which the answer's last word is predicted. An answer that writes
    each look-up down has a target at each of its words; without these a silent one has none, and
    the loss stays on a plateau (docs/experiments.md).
    """

    observation: Observation
    answers: tuple[tuple[str, str], ...]  # (what is given, perhaps "", what is to be written)
    inner: tuple[str, ...] = ()


@dataclass(frozen=True)
class Course:
    """Drills between the reading lesson and imitation.

    A world that needs some has a static method `courses(settings)`, which returns a sequence of
    them for the settings of a warm start (extras.warm_start.WarmStart).
    """

    name: str  # in the progress bar and in warmup.json
    batches: int
    draw: Callable[[random.Random], list[Drill]]  # a batch; repeatable by its random numbers
    horizon: int = 5  # the number of steps that the prompts ask for
