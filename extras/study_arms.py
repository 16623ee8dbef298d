"""The arms of extras/study.py: for each study the runs that answer its question, with its controls.

Called by extras/study.py, which runs them, and by extras/dials.py, which says what they gave.
An arm is flags of train.py and a way to play (extras/ablation.Arm); nothing is run here.

    map       tracer1, reactive, filler, ...: all play tasks of depth 1 to 5
    memory    {tracer1, reactive, taken_away, warmup, stage2} x {0, 0.25, 0.5, 0.75, 1}: all are
              trained at 0.5, and play at every share
    teaching  {tracer1, reactive, warmup} x {forecasts, next, ...}, a warm start for each
    forms     {near, far, thought, ...} x {gui, map, tools}

Names and flags of arms stand in finished runs, and their way to play in exams (but for the older
ones): if an arm changes, what was made before is refused.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from extras.ablation import Arm
from extras.ceiling import ceiling


@dataclass(frozen=True)
class Study:
    """Arms that answer one question. Those that say most stand first, and are run first."""

    asks: str
    arms: Mapping[str, Arm]
    pairs: tuple[tuple[str, str], ...]  # of arms: what the first has over the second
    limit: int  # tasks of a split
    quick_arms: tuple[str, ...]
    quick_flags: str
    flags: str = ""  # of train.py, for every arm; the command line has the last word
    limits: Mapping[str, int] = field(default_factory=dict)  # of the splits that have fewer tasks
    split: str = "test"  # the one that the comparison is about


# For --quick: long enough to show which way a difference goes.
SHORT_ON_GUI = "--warmup_steps 600 --stage1_updates 60 --stage2_updates 40"
SHORT_ON_MAP = "--stage1_updates 180 --stage2_updates 120"

# The reward of stage 2 alone, with the updates of both stages: their number is put in the place of
# {all}, which an f-string writes as {{all}}.
GROUNDED = "--stages warmup,stage2 --stage2_updates {all}"


# ---- the map: a forecast as a scratch pad for more look-ups than one pass makes ------------------

MAP = "--env toy-map"  # with what suits it: ToyMap.suits
# A plan pays where it is written before the action that is executed. ToyMap.suits says so too; here
# it stays, because finished runs are known by their flags.
FAR = f"{MAP} --order far"
FILLER = f"{FAR} --warmup_lessons goal"
FEW = ("test", "deeper")  # splits
HORIZONS = (1, 2, 3, 4, 5, 6)
# Sampled tokens of an update of TraceR1 over those of a reactive agent: 965 over 384, rounded up.
# The records say how many tokens each arm had.
PLAN_TOKENS = 2.6


def silent_reactive(hops: int) -> str:
    """Flags of an agent that writes no plan, from a start that was taught to look up silently.

    `hops`: so many look-ups, one after the other: what it needs for depth `hops`. Its start is
    asked for one action only and imitates nothing after that: among tasks of all depths it would
    unlearn d = 1 (docs/experiments.md).
    """
    taught = f"--warmup_steps 0 --warmup_horizon 1 --silent_hops {hops} --silent_batches 1600"
    return f"{FAR} {taught} --horizon 1 {GROUNDED}"


MAP_ARMS = {
    # TraceR1, the agent that it is held against, and the start of each.
    "warmup": Arm(f"{FAR} --stages warmup", adapter=None),
    "tracer1": Arm(FAR),
    "reactive": Arm(silent_reactive(hops=1)),
    "reactive_start": Arm(silent_reactive(hops=1), adapter=None),
    # As many lines as a plan has, but they say the goal over and over, in RL too (--keep_filler).
    "filler": Arm(f"{FILLER} --keep_filler {GROUNDED}", splits=FEW),
    "filler_start": Arm(f"{FILLER} --keep_filler {GROUNDED}", adapter=None, splits=FEW),
    # A plan that is written after the action that is executed.
    "near": Arm(f"{MAP} --order near", splits=FEW),
    # One stage in the place of two.
    "stage1": Arm(f"{FAR} --stages warmup,stage1 --stage1_updates {{all}}"),
    "stage2": Arm(f"{FAR} {GROUNDED}"),
    # T from 1 to 6, with both stages, against every depth: what a plan that is too short can do.
    "horizon_3": Arm(f"{FAR} --horizon 3", splits=FEW),
    "horizon_2": Arm(f"{FAR} --horizon 2", splits=FEW),
    "horizon_4": Arm(f"{FAR} --horizon 4", splits=FEW),
    "horizon_6": Arm(f"{FAR} --horizon 6", splits=FEW),
    "horizon_1": Arm(f"{FAR} --horizon 1", splits=FEW),
    "horizon_5": Arm(FAR, splits=FEW),  # TraceR1 itself
    # Other reactive agents, all with the reward of stage 2 alone. reactive_plain is the control of
    # `python train.py`: from TraceR1's own start, which was taught nothing silently. The start of
    # the fillers was not either, so they are held against it too. Then one with as many sampled
    # tokens as TraceR1, and two that were given what depth 2 and depth 3 need.
    "reactive_plain": Arm(f"{FAR} --horizon 1 {GROUNDED}", splits=FEW),
    "reactive_tokens": Arm(silent_reactive(hops=1), updates_times=PLAN_TOKENS, splits=FEW),
    "silent_2": Arm(silent_reactive(hops=2), splits=FEW, most_seeds=3),
    "silent_3": Arm(silent_reactive(hops=3), splits=FEW, most_seeds=3),
    # As `filler`, but RL may make plans of the fillers.
    "filler_free": Arm(f"{FILLER} {GROUNDED}", splits=FEW),
    # A start whose fillers are another task's words.
    "filler_words": Arm(
        f"{FAR} --warmup_lessons stranger --stages warmup", adapter=None, splits=FEW
    ),
    "near_start": Arm(f"{MAP} --order near", adapter=None, splits=FEW),
}


def map_pairs() -> tuple[tuple[str, str], ...]:
    """What each arm has over the reactive agent, and TraceR1 over each of its parts; the arms of
    the table of T, and the start of `near`, are in no pair."""
    fillers = ("filler", "filler_start", "filler_words", "filler_free")
    write = ("tracer1", "horizon_6", "warmup", "stage1", "stage2", "near", *fillers)
    write_no_plan = ("reactive_start", "reactive_plain", "reactive_tokens", "silent_2", "silent_3")
    pairs = [(arm, "reactive") for arm in (*write, *write_no_plan)]
    pairs += [(arm, "reactive_plain") for arm in ("tracer1", "stage2", *fillers)]
    pairs += [("tracer1", part) for part in ("warmup", "stage1", "stage2", "near", "filler")]
    return tuple(pairs)


MAP_STUDY = Study(
    asks="does a written plan make more look-ups than one pass?",
    arms=MAP_ARMS,
    pairs=map_pairs(),
    limit=800,  # 200 of each depth
    limits={"deeper": 200, "wider": 400, "flaky": 400},
    quick_arms=("warmup", "tracer1", "reactive"),
    quick_flags=SHORT_ON_MAP,
)


# ---- the memory dial: what was foreseen stands in the next prompt --------------------------------

# The share of tasks in which something seen early is needed late, as names of arms say it.
SHARES = ("0", "0.25", "0.5", "0.75", "1")
TRAINED_AT = "0.5"


def memory_arms() -> dict[str, Arm]:
    """TraceR1 that carries its plan along, a reactive agent, and three controls, at each share.

    Three runs a seed play all of them: arms with the same flags share a run, and differ in the
    world of the exam (`playing`). As on the map, an agent is trained on a mixture, and the exam
    turns the dial: what is needed differs, what was learnt does not. All have the same start, which
    has seen plans of its own in its prompts.

    taken_away   TraceR1 after its training, played without a plan in its prompts
    warmup       the start of all, played with a carried plan
    stage2       as TraceR1, but all updates are grounded, as the reactive agent's are
    """
    start = f"--env toy-gui:memory={TRAINED_AT} --warmup_own_plans"
    carried = f"{start} --carry_forecast"
    no_plan = f"{start} --horizon 1 {GROUNDED}"
    test = ("test",)
    arms = {}
    for share in SHARES:
        env = f"--env toy-gui:memory={share}"
        without = f"{env} --no-carry_forecast"
        arms[f"tracer1_{share}"] = Arm(carried, playing=env, splits=test, probe=ceiling)
        arms[f"reactive_{share}"] = Arm(no_plan, playing=env, splits=test)
        arms[f"taken_away_{share}"] = Arm(carried, playing=without, splits=test)
        arms[f"warmup_{share}"] = Arm(carried, adapter=None, playing=env, splits=test)
        arms[f"stage2_{share}"] = Arm(f"{carried} {GROUNDED}", playing=env, splits=test)
    return arms


def memory_pairs() -> tuple[tuple[str, str], ...]:
    """What TraceR1 has over each of the others; what it has over the reactive agent without its
    plan, and with grounded updates alone: what else its training gave it, or took."""
    pairs = []
    for share in SHARES:
        for other in ("reactive", "taken_away", "warmup", "stage2"):
            pairs.append((f"tracer1_{share}", f"{other}_{share}"))
        for one in ("taken_away", "stage2"):
            pairs.append((f"{one}_{share}", f"reactive_{share}"))
    return tuple(pairs)


MEMORY_STUDY = Study(
    asks="does a plan that is carried along remember what was seen early?",
    arms=memory_arms(),
    pairs=memory_pairs(),
    limit=300,
    quick_arms=("tracer1_1", "reactive_1", "taken_away_1"),
    quick_flags=SHORT_ON_GUI,
)


# ---- teaching: a forecast practises the later steps ----------------------------------------------

# Batches of next actions that have as many target tokens as one batch of forecasts (128 and 46 of
# them in a first count, 135 and 46 over all seeds of the study, so that 5 % are missing), and that
# take as many seconds (0.28 and 0.23 of one processor).
AS_MANY_TOKENS = 2.8
AS_MANY_SECONDS = 1.2


# What a warm start is taught with: see extras/lessons.py.
LESSONS = {
    "forecasts": Arm(),
    "next": Arm("--warmup_lessons next"),
    "next_tokens": Arm("--warmup_lessons next", start_times=AS_MANY_TOKENS),
    "scrambled": Arm("--warmup_lessons scrambled"),
    "next_seconds": Arm("--warmup_lessons next", start_times=AS_MANY_SECONDS, most_seeds=3),
    "left_out": Arm("--warmup_lessons left_out", most_seeds=3),
}


def teaching_arms() -> dict[str, Arm]:
    """Each start x (imitation only, reactive, TraceR1)."""
    arms = {}
    for name, start in LESSONS.items():
        tracer1 = replace(start, splits=("test",))
        reactive_flags = f"{start.flags} --horizon 1 {GROUNDED}"
        arms[f"reactive_{name}"] = replace(tracer1, flags=reactive_flags)
        arms[f"tracer1_{name}"] = tracer1
        # The start of the reactive run: it needs no run of its own.
        arms[f"warmup_{name}"] = replace(tracer1, flags=reactive_flags, adapter=None)
    return arms


def teaching_pairs() -> tuple[tuple[str, str], ...]:
    """What looking ahead adds to each start, and what each start lacks of the usual one."""
    others = [name for name in LESSONS if name != "forecasts"]
    pairs = [(f"tracer1_{name}", f"reactive_{name}") for name in LESSONS]
    # Is what TraceR1 has more than what its start was taught?
    pairs += [("tracer1_forecasts", f"reactive_{name}") for name in others]
    for learner in ("warmup", "reactive", "tracer1"):
        pairs += [(f"{learner}_{name}", f"{learner}_forecasts") for name in others]
    return tuple(pairs)


TEACHING_STUDY = Study(
    asks="does a forecast teach more than the next action does?",
    flags="--env toy-gui",
    arms=teaching_arms(),
    pairs=teaching_pairs(),
    limit=300,
    quick_arms=("reactive_forecasts", "tracer1_forecasts", "reactive_next"),
    quick_flags=SHORT_ON_GUI,
)


# ---- forms of a forecast -------------------------------------------------------------------------

FORM_WORLDS = {
    "gui": "--env toy-gui",
    # The map's own default is far. Here each form begins from near; one that names an order
    # overrules this, because its flags come later.
    "map": f"{MAP} --order near",
    # With four past steps in the prompt the first answer is out of sight when it is needed.
    "tools": "--env toy-tools --history 6",
}
FORMS = {
    "near": Arm(""),
    "far": Arm("--order far"),
    "thought": Arm("--thinking 20"),  # room for the words of the longest plan (tool world: 16)
    "carried": Arm("--carry_forecast --warmup_own_plans"),
    "states": Arm("--forecast_states"),  # what will be seen after each step
    # Controls of it: the next action alone, with what will be seen after it, and without.
    "next_state": Arm(f"--forecast_states --horizon 1 {GROUNDED}"),
    "next": Arm(f"--horizon 1 {GROUNDED}"),
    # Two more ways to play with the run of `near`.
    "agreement": Arm("", choose="agreement"),
    "last_plan": Arm("", choose="last_plan"),
}


# Worlds without names for their screens, where states cannot be forecast.
NOT_THERE = {
    f"{form}_{world}" for form in ("states", "next_state", "next") for world in ("map", "tools")
}


def form_arms() -> dict[str, Arm]:
    """Each form in each world, on the split that choices are made on."""
    arms = {}
    for form, arm in FORMS.items():
        for world, env in FORM_WORLDS.items():
            name = f"{form}_{world}"
            if name not in NOT_THERE:
                flags = f"{env} {arm.flags}".strip()
                arms[name] = replace(arm, flags=flags, splits=("dev",))
    return arms


def form_pairs() -> tuple[tuple[str, str], ...]:
    """What each form has over the paper's text, near to far."""
    pairs = []
    for world in FORM_WORLDS:
        for form in FORMS:
            name = f"{form}_{world}"
            if form != "near" and name not in NOT_THERE:
                pairs.append((name, f"near_{world}"))
    pairs += [("states_gui", "next_state_gui"), ("next_state_gui", "next_gui")]
    return tuple(pairs)


FORMS_STUDY = Study(
    asks="which form of a forecast is the best one over the worlds?",
    arms=form_arms(),
    pairs=form_pairs(),
    limit=400,
    quick_arms=("near_map", "far_map"),
    quick_flags=SHORT_ON_MAP,
    split="dev",
)

STUDIES = {
    "map": MAP_STUDY,
    "memory": MEMORY_STUDY,
    "teaching": TEACHING_STUDY,
    "forms": FORMS_STUDY,
}
