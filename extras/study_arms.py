"""The arms of extras/study.py: for each study the runs that answer its question, with its controls.

Called by extras/study.py, which runs them, and by extras/dials.py, which says what they gave.
An arm is flags of train.py and a way to play (extras/ablation.Arm); nothing is run here.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from extras.ablation import Arm
from extras.ceiling import ceiling


@dataclass(frozen=True)
class Study:
    """Arms that answer one question. Those that say most stand first, and are run first."""

    asks: str
    flags: str  # of train.py, for every arm; the command line has the last word
    arms: Mapping[str, Arm]
    pairs: tuple[tuple[str, str], ...]  # the first minus the second
    limit: int  # tasks of a split
    limits: Mapping[str, int]  # of the splits that have fewer
    quick_arms: tuple[str, ...]
    quick_flags: str
    split: str = "test"  # the one that the comparison is about


# The reward of stage 2 alone, with the updates of both stages.
GROUNDED = "--stages warmup,stage2 --stage2_updates {all}"


# ---- the map: a forecast as a scratch pad for more look-ups than one pass makes ------------------

# What made the map learnable (docs/experiments.md); on it a plan is taught in three minutes.
MAP_RECIPE = "--reading_steps 600 --warmup_steps 400 --train_tasks 20000 --demo_noise 0.1"
MAP = "--env toy-map"
# A plan pays where it is written before the action that is executed.
PLAN = f"{MAP} --order far"
FEW = ("test", "deeper")
HORIZONS = (1, 2, 3, 4, 5, 6)
# The reactive agent's start is asked for one action only, and taught to look up silently, so many
# entries deep. It imitates nothing after that: with tasks of all depths among its lessons it
# unlearns d = 1 (on dev, seed 0, 300 updates: 53 % of them solved, without imitation 89 %).
SILENT = f"{MAP} --warmup_steps 0 --warmup_horizon 1 --horizon 1 --silent_hops"
# Sampled tokens of an update of TraceR1 over those of a reactive agent: 965 over 384, rounded up.
# The records say how many tokens each arm had.
PLAN_TOKENS = 2.6

MAP_ARMS = {
    "warmup": Arm(f"{PLAN} --stages warmup", adapter=None),
    "tracer1": Arm(PLAN),
    # It was given what it needs for d = 1.
    "reactive": Arm(f"{SILENT} 1 {GROUNDED}"),
    "reactive_start": Arm(f"{SILENT} 1 {GROUNDED}", adapter=None),
    # As many lines as a plan has, but nothing about the way stands in them.
    "filler": Arm(f"{PLAN} --warmup_lessons goal {GROUNDED}", splits=FEW),
    "near": Arm(f"{MAP} --order near", splits=FEW),
    "stage1": Arm(f"{PLAN} --stages warmup,stage1 --stage1_updates {{all}}"),
    "stage2": Arm(f"{PLAN} {GROUNDED}"),
    "horizon_3": Arm(f"{PLAN} --horizon 3", splits=FEW),
    "horizon_2": Arm(f"{PLAN} --horizon 2", splits=FEW),
    "horizon_4": Arm(f"{PLAN} --horizon 4", splits=FEW),
    "horizon_6": Arm(f"{PLAN} --horizon 6", splits=FEW),
    "horizon_1": Arm(f"{PLAN} --horizon 1", splits=FEW),
    "horizon_5": Arm(PLAN, splits=FEW),  # TraceR1 itself
    "reactive_plain": Arm(f"{PLAN} --horizon 1 {GROUNDED}", splits=FEW),
    "reactive_tokens": Arm(f"{SILENT} 1 {GROUNDED}", updates_times=PLAN_TOKENS, splits=FEW),
    # Given what it needs for d = 2, and for d = 3.
    "silent_2": Arm(f"{SILENT} 2 {GROUNDED}", splits=FEW),
    "silent_3": Arm(f"{SILENT} 3 {GROUNDED}", splits=FEW),
    "filler_words": Arm(f"{PLAN} --warmup_lessons stranger {GROUNDED}", splits=FEW),
    "near_start": Arm(f"{MAP} --order near", adapter=None, splits=FEW),
}


def map_pairs() -> tuple[tuple[str, str], ...]:
    """What each arm has over the reactive agent, and TraceR1 over each of its parts."""
    gains = ("tracer1", "warmup", "stage1", "stage2", "near", "filler", "filler_words")
    reactive = ("reactive_start", "reactive_plain", "reactive_tokens", "silent_2", "silent_3")
    pairs = [(arm, "reactive") for arm in (*gains, *reactive)]
    pairs += [("tracer1", part) for part in ("warmup", "stage1", "stage2", "near", "filler")]
    return tuple(pairs)


MAP_STUDY = Study(
    asks="does a written plan make more look-ups than one pass?",
    flags=MAP_RECIPE,
    arms=MAP_ARMS,
    pairs=map_pairs(),
    limit=800,  # 200 of each depth
    limits={"deeper": 200, "wider": 400, "flaky": 400},
    quick_arms=("warmup", "tracer1", "reactive"),
    quick_flags="--stage1_updates 180 --stage2_updates 120",
)


# ---- the memory dial: what was foreseen stands in the next prompt --------------------------------

SHARES = ("0", "0.25", "0.5", "0.75", "1")
SHARES_FIRST = ("1", "0", "0.5", "0.25", "0.75")  # the ends say most


def memory_arms() -> dict[str, Arm]:
    """All arms of a share have the same start, which has seen plans of its own in its prompts: so
    what the start was taught does not differ, and what is left is the plan that is carried."""
    arms = {}
    for share in SHARES_FIRST:
        start = f"--env toy-gui:memory={share} --warmup_own_plans"
        test = ("test",)
        carried = Arm(f"{start} --carry_forecast", splits=test, probe=ceiling)
        taken = Arm(carried.flags, playing="--no-carry_forecast", splits=test)
        arms[f"tracer1_{share}"] = carried
        arms[f"reactive_{share}"] = Arm(f"{start} --horizon 1 {GROUNDED}", splits=test)
        arms[f"taken_away_{share}"] = taken
        arms[f"warmup_{share}"] = Arm(carried.flags, adapter=None, splits=test)
    return arms


def memory_pairs() -> tuple[tuple[str, str], ...]:
    pairs = []
    for share in SHARES:
        for other in ("reactive", "taken_away", "warmup"):
            pairs.append((f"tracer1_{share}", f"{other}_{share}"))
        pairs.append((f"taken_away_{share}", f"reactive_{share}"))
    return tuple(pairs)


MEMORY_STUDY = Study(
    asks="does a plan that is carried along remember what was seen early?",
    flags="",
    arms=memory_arms(),
    pairs=memory_pairs(),
    limit=300,
    limits={},
    quick_arms=("tracer1_1", "reactive_1", "taken_away_1"),
    quick_flags="--warmup_steps 600 --stage1_updates 60 --stage2_updates 40",
)


# ---- teaching: a forecast practises the later steps ----------------------------------------------

# Batches of next actions that have as many target tokens as one batch of forecasts (128 and 46 of
# them, seeds 0 and 1), and that take as many seconds (0.28 and 0.23 of one processor).
AS_MANY_TOKENS = 2.8
AS_MANY_SECONDS = 1.2


@dataclass(frozen=True)
class Lessons:
    """What a warm start is taught with."""

    flags: str
    times: float = 1.0  # as many batches as usual


LESSONS = {
    "forecasts": Lessons(""),
    "next": Lessons("--warmup_lessons next"),
    "next_tokens": Lessons("--warmup_lessons next", AS_MANY_TOKENS),
    "next_seconds": Lessons("--warmup_lessons next", AS_MANY_SECONDS),
    "scrambled": Lessons("--warmup_lessons scrambled"),
    "left_out": Lessons("--warmup_lessons left_out"),
}


def teaching_arms() -> dict[str, Arm]:
    """Each start x (imitation only, reactive, TraceR1)."""
    arms = {}
    for name, lessons in LESSONS.items():
        reactive = f"{lessons.flags} --horizon 1 {GROUNDED}"
        tracer1 = lessons.flags
        arms[f"reactive_{name}"] = Arm(reactive, start_times=lessons.times, splits=("test",))
        arms[f"tracer1_{name}"] = Arm(tracer1, start_times=lessons.times, splits=("test",))
        arms[f"warmup_{name}"] = Arm(
            reactive, start_times=lessons.times, adapter=None, splits=("test",)
        )
    return arms


def teaching_pairs() -> tuple[tuple[str, str], ...]:
    """TraceR1 minus the reactive agent from the same start, and TraceR1 from the usual start minus
    the reactive agent from each other; each start minus the usual one, for all learners."""
    pairs = [(f"tracer1_{name}", f"reactive_{name}") for name in LESSONS]
    others = [name for name in LESSONS if name != "forecasts"]
    pairs += [("tracer1_forecasts", f"reactive_{name}") for name in others]
    for learner in ("warmup", "reactive", "tracer1"):
        pairs += [(f"{learner}_{name}", f"{learner}_forecasts") for name in others]
    return tuple(pairs)


TEACHING_STUDY = Study(
    asks="does a forecast teach more than the next action does?",
    flags="",
    arms=teaching_arms(),
    pairs=teaching_pairs(),
    limit=300,
    limits={},
    quick_arms=("reactive_forecasts", "tracer1_forecasts", "reactive_next"),
    quick_flags="--warmup_steps 600 --stage1_updates 60 --stage2_updates 40",
)


# ---- forms of a forecast -------------------------------------------------------------------------

FORM_WORLDS = {"gui": "--env toy-gui", "map": f"{MAP} {MAP_RECIPE}"}
FORMS = {
    "near": Arm(""),
    "far": Arm("--order far"),
    "thought": Arm("--thinking 12"),  # a name for each step of the longest plan, and the end
    "carried": Arm("--carry_forecast --warmup_own_plans"),
    "states": Arm("--forecast_states"),  # what will be seen after each step; the map has no names
    # Two more ways to play with the run of `near`.
    "agreement": Arm("", choose="agreement"),
    "last_plan": Arm("", choose="last_plan", playing="--carry_forecast"),
}


def form_arms() -> dict[str, Arm]:
    """Each form in each world, on the split that choices are made on."""
    arms = {}
    for form, arm in FORMS.items():
        for world, env in FORM_WORLDS.items():
            flags = f"{env} {arm.flags}".strip()
            arms[f"{form}_{world}"] = replace(arm, flags=flags, splits=("dev",))
    del arms["states_map"]
    return arms


def form_pairs() -> tuple[tuple[str, str], ...]:
    pairs = []
    for world in FORM_WORLDS:
        for form in FORMS:
            if form != "near":
                pairs.append((f"{form}_{world}", f"near_{world}"))
    pairs.remove(("states_map", "near_map"))
    return tuple(pairs)


FORMS_STUDY = Study(
    asks="which form of a forecast is the best one over the worlds?",
    flags="",
    arms=form_arms(),
    pairs=form_pairs(),
    limit=400,
    limits={},
    quick_arms=("near_map", "far_map"),
    quick_flags="--stage1_updates 180 --stage2_updates 120",
    split="dev",
)

STUDIES = {
    "map": MAP_STUDY,
    "memory": MEMORY_STUDY,
    "teaching": TEACHING_STUDY,
    "forms": FORMS_STUDY,
}
