"""train.py: the school. Warm start, stage 1, stage 2; one GRPO loop serves both stages.

    examples     Example x P        observation + reference actions, the same for the same
                                    (seed, stage, update), but for plans of --carry_forecast
      -> sample  Group x P          G rollouts for each
      -> score   reward terms       stage 1: the whole forecast against the reference
                                    stage 2: what the tool agent made of its first step
      -> compare advantages         each rollout against its group
      -> update  [P, G, C] tensors  log-probabilities, clipped ratio, one optimiser step

P prompts, G completions each, C tokens of the longest completion.

    python train.py                                      # tiny VLM, toy map, CPU
    python train.py --env toy-gui --output_dir runs/gui  # another world
    python train.py --resume                             # go on where a killed run stopped,
                                                         # on a CPU to the same bits
    python train.py --model Qwen/Qwen3-VL-2B-Instruct    # a real model on one GPU; on N of them:
    torchrun --nproc_per_node N train.py --model ...

Written to --output_dir: config.json, metrics.jsonl (a line an update), rollouts.jsonl (what was
sampled), results.json, curves.png, episode.png, stage1/ and stage2/ (adapters after each), adapter/
(the last ones), checkpoint.pt (for --resume), .lock (held while a process writes here), reactive/
(a run of the control, where there is one).
"""

import argparse
import dataclasses
import hashlib
import itertools
import math
import random
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError
from tqdm import tqdm

from agent import (
    THOUGHT,
    Group,
    Policy,
    Prompt,
    Rollout,
    Sampling,
    add_lora,
    encode,
    policy_planner,
    sample_all,
    trainable,
)
from benchmarks.training import parse_data, recorded_examples
from envs import (
    SPLIT_SIZE,
    Action,
    Example,
    ToolAgent,
    WorldError,
    demonstration,
    die,
    one_line,
    own_tool_agent,
)
from eval import oracle_planner, random_planner
from extras import torchrun
from extras.lessons import ANSWERS, FILLERS, is_filler
from extras.loading import FORWARDS, check_budget, let_think, load_policy
from extras.report import (
    Clock,
    Warnings,
    add_control,
    announce,
    announce_control,
    draw_pictures,
    examine,
    last_success,
    tell_by_demand,
    warn,
)
from extras.run_folder import RunFolder, memory_or_die
from extras.tiny_vlm import MOST_STEPS
from extras.vlm_tool_agent import check_world_of_tool_agent, load_tool_agent
from extras.warm_start import WarmStart, carried_plans, keep_pages, start_folder, warm_base
from extras.worlds import find_world, world_or_die
from rewards import grounded_reward, group_advantages, trajectory_reward

# ---- config --------------------------------------------------------------------------------------


def flag(default, why: str, begins: str = ""):
    """A field of Config; `begins`: the title of the group of flags that begins with it."""
    return field(default=default, metadata={"help": why, "begins": begins})


@dataclass(frozen=True)
class Config:
    """Every field is a flag of the same name, and its reason is the flag's help.

    What suits a world or a hub model better than these defaults: suitable_defaults.
    """

    output_dir: str = flag(
        "runs/toy",
        "folder of this run; an existing one is refused without --resume",
        begins="the run",
    )
    seed: int = flag(0, "decides everything drawn at random: tasks, warm start, adapters, samples")
    stages: str = flag(
        "warmup,stage1,stage2",
        "what to run; leave out stage1 or stage2 for an ablation. The warm start is made in any "
        "case, unless --model brings a model",
    )
    resume: bool = flag(
        False,
        "go on from checkpoint.pt of output_dir; the result is the same as of a run that was "
        "never stopped",
    )

    control: bool = flag(
        False,
        "afterwards train the control in the folder reactive/: an agent that does not look ahead "
        "(T = 1), from the same start (with --thinking one that was not taught to think), on the "
        "reward of stage 2, with as many updates; on for the toy map",
    )

    env: str = flag(
        "toy-map",
        "the world to train in: toy-map, toy-gui or toy-tools; with a dial, toy-gui:memory=0.5 or "
        "toy-map:depth=3; or tasks of MiniWoB++ in a browser, miniwob:click-test-2,click-tab; its "
        "model speaks no other world's words. With --data or --model the default is toy-gui; "
        "without them, what suits a world (`suits` in its class) is the default of other flags",
        begins="world and data",
    )
    data: str = flag(
        "",
        "recorded data in place of a world: name:ROOT, several joined by commas, each with an "
        "optional *weight; names: androidcontrol, gui-odyssey, mind2web, agentnet, mmtraj "
        "(docs/data.md)",
    )

    model: str = flag(
        "",
        "name or path of a Qwen-VL (Qwen3.5 too); empty: the project's tiny one, which the warm "
        "start teaches to read and to act",
        begins="model",
    )
    forward: str = flag(
        "shared",
        "shared: a prompt is computed once for its G completions, many times as fast "
        "(extras/shared_prompt.py); reference: each completion by the model's own forward "
        "(agent.py). Both give the same numbers but for rounding",
    )
    max_pixels: int = flag(
        0,
        "largest screenshot in pixels that a model is shown; 0 keeps the image processor's own "
        "limit",
    )
    load_in_4bit: bool | None = flag(
        None,
        "NF4 weights: less memory, up to 1.5 times as long (docs/models.md); by default on CUDA if "
        "16 bits would fill more than half of the memory that is free",
    )
    gradient_checkpointing: bool = flag(
        False,
        "compute activations again in the backward: far less memory, a third more time; with "
        "--model on",
    )
    tool_agent: str = flag(
        "",
        "the frozen tool agent of stage 2: base (the same weights without adapters, no extra "
        "memory), a name or path (UI-TARS, GUI-Owl, Qwen-VL), ocr (reads the words on the picture; "
        "docs/online.md); empty: the toy's own, or the words and boxes of recorded data",
    )

    horizon: int = flag(
        5,
        "T, the actions of a forecast; 1 is a reactive agent. The paper's best is about 10, on "
        "tasks three times as long",
        begins="what the agent forecasts",
    )
    history: int = flag(4, "K, past steps in the prompt as text; 0 leaves the agent without memory")
    order: str = flag(
        "near",
        "near: a forecast begins with the action that is executed (paper); far: it ends with it, "
        "so that this action can depend on the rest (DEPARTURE)",
    )
    thinking: int = flag(
        0,
        "N, tokens to think with before each forecast, as the paper's planner does; 0: it answers "
        "at once (DEPARTURE), for a thought takes many times as long to write as a forecast. Needs "
        "a --model that thinks, or none: the tiny one then learns in its warm start to think back "
        "from the end of its plan",
    )
    forecast_states: bool = flag(
        False,
        "each line of a forecast also says what will be seen after it, such as `click Sound => "
        "Sound`; stage 1 aligns it as it does the action, and a played episode counts surprises",
    )
    carry_forecast: bool = flag(
        False,
        "put what is left of the last forecast into the next prompt (DEPARTURE: the paper "
        "forecasts afresh)",
    )

    gamma: float = flag(
        0.9,
        "discount per forecast step, below 1 because far steps cannot be known as well as near "
        "ones",
        begins="what a forecast is worth",
    )
    lambda_align: float = flag(
        1.0, "weight of agreement with the reference; the unit of the other weights"
    )
    lambda_rep: float = flag(
        0.3,
        "weight of repetition; at most a third of lambda_align, so that the truth stays the best "
        "forecast where elements are named by one word",
    )
    credit: str = flag(
        "step",
        "step: tokens of step t get the return from t on (less variance, and with --order near the "
        "same expected gradient; DEPARTURE); own: only the reward of step t; trajectory: one "
        "advantage for all tokens (paper)",
    )
    std_normalise: bool = flag(
        True,
        "divide advantages by the group's standard deviation (GRPO); --no-std_normalise is "
        "Dr. GRPO's choice",
    )

    group_size: int = flag(8, "G, forecasts per prompt: the group is the baseline", begins="GRPO")
    prompts_per_update: int = flag(
        16, "P, prompts in one update; more is a steadier gradient at more cost"
    )
    micro_batch: int = flag(
        16,
        "prompts in one forward and backward; a knob for memory, the gradient does not depend on "
        "it; with --model 1",
    )
    sample_batch: int = flag(
        0,
        "prompts that are sampled at once, each part with its own random numbers; 0: as many as "
        "make 128 forecasts, 16 with --model (fewer with --thinking)",
    )
    updates_per_batch: int = flag(
        1,
        "optimiser steps on the same rollouts; with 1 the ratio is 1 but for rounding, and the "
        "clip hardly ever acts",
    )
    clip_low: float = flag(0.2, "the ratio may fall to 1 - clip_low before its gradient stops")
    clip_high: float = flag(0.2, "and rise to 1 + clip_high")
    kl_weight: float = flag(
        0.0,
        "weight of the KL term to the policy without adapters: it keeps what the model knew, which "
        "matters where only the one demonstrated action is paid and other right ones are not; 0 "
        "saves a forward (DEPARTURE: the paper leaves it open)",
    )
    temperature: float = flag(
        1.0, "of sampling and of scoring alike; below 1 groups lose their spread"
    )
    learning_rate: float = flag(
        2e-3,
        "of the adapters, falling linearly to 0 in each stage (docs/experiments.md); with --model "
        "2e-5",
    )
    max_grad_norm: float = flag(
        1.0, "gradients are scaled down to this norm; guards against a rare bad batch"
    )
    lora_rank: int = flag(16, "rank of the adapters")
    lora_alpha: int = flag(32, "adapters are scaled by alpha / rank")
    stage1_updates: int = flag(300, "updates on whole forecasts")
    stage2_updates: int = flag(200, "updates on what the tool agent makes of the first step")

    train_tasks: int = flag(
        2000,
        "distinct training tasks; 400 were over-fitted",
        begins="demonstrations and warm start",
    )
    demo_noise: float = flag(
        0.2,
        "share of random actions of the demonstrator; they lead to states that an agent meets "
        "when it errs",
    )
    reading_steps: int = flag(
        200,
        "warm start, reading: batches of 32 screens that teach the vision tower to read",
    )
    warmup_steps: int = flag(
        1100,
        "warm start, imitation: batches of demonstrations, and a third more in two short cycles "
        "at its end; few enough to leave room for RL",
    )
    warmup_batch: int = flag(16, "demonstrated states per batch")
    warmup_lr: float = flag(
        4e-3, "peak learning rate of the warm start (all weights but the frozen tower's)"
    )
    warmup_horizon: int = flag(
        8,
        "the warm start sees forecasts of 1 to this many steps, so every --horizon up to it "
        "starts equally",
    )
    warmup_lessons: str = flag(
        "forecasts",
        "what the warm start imitates; forecasts, or a control that tells why they teach: next "
        "(the next action alone), scrambled (the words of the later steps in random order), "
        "left_out (later steps missing at random), on the toy map also goal and stranger (fillers "
        "in the place of the later steps); see extras/lessons.py",
    )
    warmup_own_plans: bool = flag(
        False,
        "warm start, at the end: half as many batches again, with the model's own plans in a third "
        "of the prompts; for --carry_forecast, where a start that knows the oracle's plans alone "
        "trusts its own too much",
    )
    keep_filler: bool = flag(
        False,
        "for a study, with --warmup_lessons goal: stage 2 pays nothing where the later steps are "
        "anything but the goal. Without it RL makes plans of the fillers",
    )
    silent_hops: int = flag(
        0,
        "toy-map: up to how many look-ups the warm start teaches to do silently, before the first "
        "word of an answer: what a reactive agent needs for tasks of that depth",
    )
    silent_batches: int = flag(
        800,
        "toy-map: batches for each depth of silent look-ups; 1600 teach them better",
    )
    warmup_dir: str = flag(
        "runs/warmup",
        "warm-started models are kept here and reused by later runs with the same warm-up settings",
    )

    eval_tasks: int = flag(
        300,
        "held-out tasks after each phase; 300 give an interval of about +-5 points",
        begins="exams",
    )
    eval_split: str = flag("test", "split of those tasks; choose settings on dev")

    save_every: int = flag(
        25,
        "updates between checkpoints: what a killed run loses at most",
        begins="logs, checkpoints, threads",
    )
    keep_groups: int = flag(1, "groups of each update that are written to rollouts.jsonl")
    threads: int = flag(0, "CPU threads for torch; 0 leaves torch's own choice")


# "warmup" is there so that `--stages warmup` can leave out the other two.
STAGES = ("warmup", "stage1", "stage2")
# The least value of a number. What stands neither here nor in ABOVE_0 may be 0.
AT_LEAST = {
    "horizon": 1,
    "group_size": 2,
    "prompts_per_update": 1,
    "micro_batch": 1,
    "updates_per_batch": 1,
    "train_tasks": 1,
    "warmup_batch": 1,
    "warmup_horizon": 1,
    "reading_steps": 1,
    "silent_batches": 1,
    "eval_tasks": 1,
    "save_every": 1,
    "lora_rank": 1,
}
ABOVE_0 = ("temperature", "max_grad_norm", "learning_rate", "warmup_lr")
AT_MOST = {"gamma": 1, "demo_noise": 1, "train_tasks": SPLIT_SIZE}
# What suits a model that a warm start did not teach.
FOR_A_HUB_MODEL = {"learning_rate": 2e-5, "gradient_checkpointing": True, "micro_batch": 1}


def parse_config(argv: list[str] | None = None) -> Config:
    """Command line -> Config; a value that cannot work ends with one line and exit code 2."""
    parser = make_parser()
    parser.set_defaults(**suitable_defaults(argv))
    config = Config(**vars(parser.parse_args(argv)))
    check_numbers(config)
    world = world_or_die(config.env, config.forecast_states)
    check_choice("eval_split", config.eval_split, world.splits)
    check_choice("credit", config.credit, ("own", "step", "trajectory"))
    check_choice("order", config.order, ("near", "far"))
    check_choice("forward", config.forward, FORWARDS)
    check_choice("warmup_lessons", config.warmup_lessons, ANSWERS)
    # What can be told before a model is loaded; the rest is loading.let_think's.
    check_budget(config.thinking, tiny=not config.model)
    check_steps(config)
    check_own_plans(config)
    check_map_flags(config)
    check_of_warm_start(config)
    check_fillers(config)
    check_control(config)
    check_shares(config)
    check_stages(config)
    check_recorded(config)
    check_base_can_answer(config)
    check_world_of_tool_agent(config.env, config.tool_agent)
    parse_data(config.data)  # a set or folder that is not there ends here
    return config


def suitable_defaults(argv: list[str] | None) -> dict:
    """The defaults that depend on world and model; a flag that is given still wins."""
    first_look = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    for name in ("env", "data", "model"):
        first_look.add_argument(f"--{name}", default="")
    given, _ = first_look.parse_known_args(argv)
    if given.model:
        # What suits the map suits a model that its courses have taught.
        return {"env": "toy-gui"} | FOR_A_HUB_MODEL
    if given.data:
        return {"env": "toy-gui"}
    world = world_or_die(given.env or Config.env)
    return getattr(world, "suits", {})


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description="Train TraceR1: warm start, stage 1, stage 2.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
        allow_abbrev=False,  # suitable_defaults would not see `--en`
    )
    group = parser
    for setting in dataclasses.fields(Config):
        if setting.metadata["begins"]:
            group = parser.add_argument_group(setting.metadata["begins"])
        if isinstance(setting.default, bool | None):  # None: yes or no is decided later
            options = {"action": argparse.BooleanOptionalAction}
        else:
            options = {"type": type(setting.default)}
        why = setting.metadata["help"]
        group.add_argument(f"--{setting.name}", default=setting.default, help=why, **options)
    return parser


def check_numbers(config: Config) -> None:
    numbers = {}
    for name, value in dataclasses.asdict(config).items():
        if isinstance(value, int | float):
            numbers[name] = value
    for name, value in numbers.items():
        least = AT_LEAST.get(name, 0)
        if not value >= least:  # refuses nan as well, which `value < least` does not
            die(f"--{name} {value}: must be at least {least}")
    for name in ABOVE_0:
        if not 0 < numbers[name] < math.inf:
            die(f"--{name} {numbers[name]}: must be above 0 and finite")
    for name, most in AT_MOST.items():
        if numbers[name] > most:
            die(f"--{name} {numbers[name]}: must be at most {most}")


def check_choice(name: str, value: str, choices: Collection[str]) -> None:
    if value not in choices:
        die(f"--{name} {value}: choose one of {', '.join(choices)}")


def check_steps(config: Config) -> None:
    """The tiny model's vocabulary ends somewhere: "next 13" and "next 14" would be one prompt."""
    if config.model:
        return
    for name in ("horizon", "warmup_horizon"):
        steps = getattr(config, name)
        if steps > MOST_STEPS:
            die(f"--{name} {steps}: the tiny model can be asked for {MOST_STEPS} steps at most")


def check_map_flags(config: Config) -> None:
    """What only the toy map's warm start can do would be ignored, or do harm, in another world."""
    world, _, _dial = config.env.partition(":")
    if world == "toy-map":
        return
    if config.silent_hops > 0:
        die(f"--silent_hops is for the toy map, not for {world}")
    if config.warmup_lessons in FILLERS:
        die(
            f"--warmup_lessons {config.warmup_lessons} is for the toy map: in {world} a plan ends "
            "in `done`, after which nothing may follow"
        )


OF_WARM_START = (
    "reading_steps",
    "warmup_steps",
    "warmup_batch",
    "warmup_lr",
    "warmup_horizon",
    "warmup_lessons",
    "warmup_own_plans",
    "silent_hops",
    "silent_batches",
)


def check_of_warm_start(config: Config) -> None:
    """A model that is brought along has none."""
    for name in OF_WARM_START:
        if config.model and getattr(config, name) != getattr(Config, name):
            die(f"--{name} is for the warm start of the tiny model; --model has none")


def check_base_can_answer(config: Config) -> None:
    """The tiny model has learnt to forecast, and nothing else."""
    if config.tool_agent == "base" and not config.model:
        die("--tool_agent base asks the policy's own base, and the tiny model cannot answer")


def check_fillers(config: Config) -> None:
    """Fillers that cannot be kept or drawn. A small batch may hold one task alone, which would end
    the warm start somewhere in it."""
    if config.keep_filler and config.warmup_lessons != "goal":
        die("--keep_filler is for --warmup_lessons goal: else no forecast would be paid")
    if config.warmup_lessons == "stranger" and config.warmup_batch < 8:
        die(
            f"--warmup_batch {config.warmup_batch}: --warmup_lessons stranger needs at least 8, "
            "for each answer takes steps of another task of its batch"
        )


def check_own_plans(config: Config) -> None:
    """A start that is taught one step writes no plan that could stand in its prompt."""
    if config.warmup_own_plans and warm_start_settings(config).longest == 1:
        die(
            "--warmup_own_plans: a plan is what is left of a forecast of two steps or more; "
            "--warmup_horizon 1 and --warmup_lessons next teach one"
        )


def check_recorded(config: Config) -> None:
    """What recorded steps have not."""
    if not config.data:
        return
    if config.forecast_states:
        die("--forecast_states is for the toy worlds: recorded steps have no names for screens")
    if config.carry_forecast:
        die("--carry_forecast is for the toy worlds: recorded steps are drawn one by one")


def check_control(config: Config) -> None:
    if config.control and (config.model or config.data):
        die(
            "--control is for the tiny model in a toy world: train the control of another model "
            "with --horizon 1 --stages warmup,stage2"
        )


def check_shares(config: Config) -> None:
    """Under torchrun every process takes the same number of prompts."""
    processes = torchrun.processes()
    prompts = config.prompts_per_update
    if prompts % processes != 0:
        die(
            f"--prompts_per_update {prompts}: must be a multiple of the {processes} processes of "
            "torchrun"
        )


def check_stages(config: Config) -> None:
    unknown = set(config.stages.split(",")) - set(STAGES)
    if unknown:
        names = ", ".join(sorted(unknown))
        die(f"--stages: unknown stage {names}; choose from {', '.join(STAGES)}")


def warm_start_settings(config: Config) -> WarmStart:
    """The flags that a warm start depends on."""
    settings = {}
    for setting in dataclasses.fields(WarmStart):
        settings[setting.name] = getattr(config, setting.name)
    return WarmStart(**settings)


# ---- examples ------------------------------------------------------------------------------------


@dataclass
class State:
    """A random state of a demonstration, and those before it, from the first one on."""

    example: Example
    before: list[Example]


def toy_examples(policy: Policy, config: Config, stage: str, first: int) -> Iterator[list[Example]]:
    """For each update from `first` on, P states of demonstrations with the oracle's plan as the
    reference. With --carry_forecast each prompt carries a plan too."""
    scale = policy.scale_of(find_world(config.env))
    for update in itertools.count(first):
        rng = random.Random(f"draw {config.seed} {stage} {update}")
        states = []
        for _ in range(config.prompts_per_update):
            states.append(draw_state(rng, config, scale))
        if config.carry_forecast:
            carry_forecasts(policy, config, states)
        yield [state.example for state in states]


def draw_state(rng: random.Random, config: Config, scale: int) -> State:
    record = demonstration(
        find_world(config.env, config.forecast_states),
        "train",
        index=rng.randrange(config.train_tasks),
        horizon=config.horizon,
        noise=config.demo_noise,
        history=config.history,
        scale=scale,
    )
    i = rng.randrange(len(record))
    return State(example=record[i], before=record[:i])


def carry_forecasts(policy: Policy, config: Config, states: Sequence[State]) -> None:
    """Put into each prompt the plan that the policy would have brought there, had it forecast in
    each state before, from the first one on.

    Nothing less will do where something is seen early and needed late: an oracle's plan in between
    would hand over what the policy itself has to keep.
    """
    records = [[*state.before, state.example] for state in states]
    carried = carried_plans(policy_planner(policy, config.horizon), records)
    for state, plans in zip(states, carried, strict=True):
        observation = replace(state.example.observation, plan=plans[-1])
        state.example = replace(state.example, observation=observation)


def open_examples(
    policy: Policy, config: Config, stage: str, first: int
) -> Iterator[list[Example]]:
    """The examples of one update after the other, from update `first` on."""
    if not config.data:
        return toy_examples(policy, config, stage, first)
    return recorded_examples(
        parse_data(config.data),
        seed=config.seed,
        stage=stage,
        horizon=config.horizon,
        history=config.history,
        prompts_per_update=config.prompts_per_update,
        first=first,
    )


def draw_examples(batches: Iterator[list[Example]]) -> list[Example]:
    try:
        return next(batches)
    except WorldError:
        raise  # told by whoever started the run
    except ValueError as error:  # a data set that is empty or mostly bad
        die(str(error))


# ---- sample --------------------------------------------------------------------------------------


def draw_samples(
    policy: Policy, prompts: Sequence[Prompt], how: Sampling, config: Config, when: str
) -> list[list[Rollout]]:
    """The rollouts of one update, --sample_batch prompts at a time; `when` names the update."""

    def generator_at(start: int) -> torch.Generator:
        # Each part has random numbers of its own: their seed is made of the run's seed, the update
        # and the part's place among the prompts of all processes (no place for the first part). So
        # no generator has to survive a restart, only weights and optimiser state.
        place = torchrun.rank() * len(prompts) + start
        name = f"{config.seed} {when} {place}" if place > 0 else f"{config.seed} {when}"
        digest = hashlib.sha256(name.encode()).hexdigest()
        seed = int(digest[:15], 16)  # 60 bits
        return torch.Generator(policy.device).manual_seed(seed)

    return sample_all(policy, prompts, how, generator_at, config.sample_batch)


def sample_groups(
    policy: Policy, examples: Sequence[Example], how: Sampling, config: Config, when: str
) -> list[Group]:
    prompts = encode(policy, [example.observation for example in examples], how.horizon)
    samples = draw_samples(policy, prompts, how, config, when)
    groups = []
    for example, prompt, rollouts in zip(examples, prompts, samples, strict=True):
        groups.append(Group(example, prompt, rollouts))
    return groups


# ---- score: the only thing in which the stages differ --------------------------------------------


def score(
    groups: Sequence[Group],
    stage: str,
    config: Config,
    tool_agent: ToolAgent = own_tool_agent,
) -> int:
    """Fill in rewards and advantages; returns how many first steps the tool agent refused."""
    refused = 0
    if stage == "stage1":
        score_forecasts(groups, config)
    else:
        refused = score_first_steps(groups, config, tool_agent)
    for group in groups:
        compare(group, config)
    return refused


def score_forecasts(groups: Sequence[Group], config: Config) -> None:
    """Stage 1: the whole forecast against the reference."""
    for group in groups:
        for rollout in group.rollouts:
            reward = trajectory_reward(
                rollout.forecast,
                group.example.reference,
                config.horizon,
                gamma=config.gamma,
                lambda_align=config.lambda_align,
                lambda_rep=config.lambda_rep,
                readable=rollout.parse_error is None,
                states=config.forecast_states,
            )
            rollout.reward_terms = reward.terms
            rollout.step_rewards = reward.step_rewards


def score_first_steps(groups: Sequence[Group], config: Config, tool_agent: ToolAgent) -> int:
    """Stage 2: what the frozen tool agent makes of the first step; the rest earns nothing."""
    actions = []
    examples = []
    for group in groups:
        for rollout in group.rollouts:
            if rollout.forecast:
                actions.append(rollout.forecast[0])
                examples.append(group.example)
    answers = tool_agent(actions, examples)  # all at once: a VLM answers in batches
    in_order = iter(answers)
    for group in groups:
        for rollout in group.rollouts:
            executed = next(in_order) if rollout.forecast else None
            value = first_step_reward(executed, group.example)
            # For a study: RL would make plans of fillers (docs/experiments.md).
            if config.keep_filler and not is_filler(rollout.forecast, group.example.reference):
                value = 0.0
            rollout.reward_terms = {"grounded": value, "reward": value}
            rollout.step_rewards = [value] + [0.0] * config.horizon  # [T + 1], as in stage 1
    return sum(was_refused(answer) for answer in answers)


def first_step_reward(executed: Action | None, example: Example) -> float:
    """1 where the executed step does what the reference does, else 0.

    DEPARTURE: in a world that can carry the step out, where it leads decides. Elsewhere, or where
    that cannot be told, it is compared with `example.goals`, or without any with the first
    reference action, and the best match counts.
    """
    if executed is not None and example.leads_right is not None:
        right = example.leads_right(executed)
        if right is not None:
            return float(right)
    goals = example.goals
    if not goals:
        goals = example.reference[:1]
    return max(grounded_reward(executed, goal, example.boxes) for goal in goals)


def was_refused(answer: Action | None) -> bool:
    """Whether the tool agent found nothing to act on, or its tool raised or hung."""
    if answer is None:
        return True
    # How extras/toy_tools.py writes down a call whose tool raised or hung.
    return answer.kind == "call" and answer.text.endswith("= broken")


def compare(group: Group, config: Config) -> None:
    """Each rollout against its group: GRPO's advantage, for each step of the forecast.

    A thought comes before all steps and is for all of them: it has the advantage of the whole.
    """
    rewards = np.array([rollout.step_rewards for rollout in group.rollouts])  # [G, T + 1]
    if config.order == "far":
        # In the order of writing: what is written later can depend on what is written earlier.
        rewards = rewards[:, ::-1]
    advantages = group_advantages(rewards, config.credit, config.std_normalise)
    of_the_whole = group_advantages(rewards, "trajectory", config.std_normalise)[:, 0]
    if config.order == "far":
        advantages = advantages[:, ::-1]
    for g, rollout in enumerate(group.rollouts):
        rollout.advantages = advantages[g].tolist()
        rollout.thought_advantage = of_the_whole[g].item()


def has_signal(group: Group) -> bool:
    """Whether any rollout was better or worse than its group."""
    for rollout in group.rollouts:
        if any(advantage != 0 for advantage in rollout.advantages):
            return True
    return False


# ---- loss ----------------------------------------------------------------------------------------


def grpo_loss(
    logprobs: torch.Tensor,
    old_logprobs: torch.Tensor,
    advantages: torch.Tensor,
    mask: torch.Tensor,
    normaliser: int,
    clip_low: float = 0.2,
    clip_high: float = 0.2,
    ref_logprobs: torch.Tensor | None = None,
    kl_weight: float = 0.0,
) -> tuple[torch.Tensor, float, float]:
    """Clipped policy-gradient loss of a micro-batch, all tensors [P, G, C]: the paper's
    A grad log pi with PPO's ratio. `mask` is 1 on the tokens that were sampled.

    `normaliser` is the number of completion tokens of the whole batch, so that adding up
    micro-batches of any size gives one and the same gradient. The KL term is
    k3 = exp(d) - d - 1 with d = log ref - log pi, which is never negative.
    Returns (loss, number of tokens outside the clip, sum of k3).
    """
    # pi / pi_old: 1 in the first update on a batch, but for rounding. In bf16 the sampler, token by
    # token, and this forward were seen to differ by up to 0.3 in a log-probability.
    ratio = (logprobs - old_logprobs).exp()
    clipped_ratio = ratio.clamp(1 - clip_low, 1 + clip_high)
    objective = torch.minimum(ratio * advantages, clipped_ratio * advantages)
    kl = torch.zeros_like(logprobs)
    if ref_logprobs is not None:
        d = ref_logprobs - logprobs
        kl = d.exp() - d - 1
    loss = -((objective - kl_weight * kl) * mask).sum() / normaliser

    # Where the clipped branch is the smaller one, the token has no gradient.
    too_unlikely = (ratio < 1 - clip_low) & (advantages < 0)
    too_likely = (ratio > 1 + clip_high) & (advantages > 0)
    outside = too_unlikely | too_likely
    return loss, (outside * mask).sum().item(), (kl * mask).sum().item()


def micro_batch_loss(
    policy: Policy, groups: Sequence[Group], config: Config, normaliser: int
) -> tuple[torch.Tensor, float, float]:
    """grpo_loss of these groups in one forward (two with a KL term)."""
    prompts = [group.prompt for group in groups]
    completions = [completions_of(group) for group in groups]
    logprobs, mask = policy.forward.completion_logprobs(
        policy, prompts, completions, config.temperature, config.gradient_checkpointing
    )
    ref_logprobs = None
    if config.kl_weight > 0:
        ref_logprobs = reference_logprobs(policy, prompts, completions, config.temperature)
    # Filled on the CPU and moved once: a GPU would be asked P * G times.
    old_logprobs = torch.zeros(mask.shape)
    advantages = torch.zeros(mask.shape)
    for p, group in enumerate(groups):
        for g, rollout in enumerate(group.rollouts):
            length = len(rollout.completion_ids)
            old_logprobs[p, g, :length] = torch.tensor(rollout.old_logprobs)
            advantages[p, g, :length] = torch.tensor(token_advantages(rollout))
    return grpo_loss(
        logprobs,
        old_logprobs.to(mask.device),
        advantages.to(mask.device),
        mask,
        normaliser,
        clip_low=config.clip_low,
        clip_high=config.clip_high,
        ref_logprobs=ref_logprobs,
        kl_weight=config.kl_weight,
    )


def completions_of(group: Group) -> list[list[int]]:
    return [rollout.completion_ids for rollout in group.rollouts]


def token_advantages(rollout: Rollout) -> list[float]:
    """Each token has the advantage of the forecast step that it belongs to, or of the whole."""
    advantages = []
    for step in rollout.step_index:
        if step == THOUGHT:
            advantages.append(rollout.thought_advantage)
        else:
            advantages.append(rollout.advantages[step])
    return advantages


@torch.no_grad()
def reference_logprobs(
    policy: Policy,
    prompts: Sequence[Prompt],
    completions: Sequence[Sequence[list[int]]],
    temperature: float,
) -> torch.Tensor:
    """What the policy without its adapters says of the completions, [P, G, C]."""
    with policy.peft.disable_adapter():
        logprobs, _ = policy.forward.completion_logprobs(policy, prompts, completions, temperature)
    return logprobs


# ---- update --------------------------------------------------------------------------------------


def update_policy(
    policy: Policy, groups: Sequence[Group], config: Config, optimizer: torch.optim.Optimizer
) -> dict[str, float]:
    """One optimiser step (or --updates_per_batch of them) on scored groups.

    A group whose returns are equal at every step has no gradient (without a KL term): it skips
    forward and backward but its tokens stay in the normaliser. Returns loss, clip_ratio and kl,
    means over the optimiser steps, and grad_norm, of the last one.
    """
    weights = trainable(policy)
    live = [group for group in groups if has_signal(group) or config.kl_weight > 0]
    tokens = torchrun.total(count_tokens(groups))
    scale = gradient_scale(policy)
    metrics = {"loss": 0.0, "grad_norm": 0.0, "clip_ratio": 0.0, "kl": 0.0}
    for _ in range(config.updates_per_batch):
        optimizer.zero_grad()
        for start in range(0, len(live), config.micro_batch):
            part = live[start : start + config.micro_batch]
            loss, outside, kl = micro_batch_loss(policy, part, config, normaliser=tokens)
            (loss * scale).backward()
            metrics["loss"] += loss.item() / config.updates_per_batch
            metrics["clip_ratio"] += outside / tokens / config.updates_per_batch
            metrics["kl"] += kl / tokens / config.updates_per_batch
        unscale(weights, scale)
        torchrun.add_gradients(weights)
        norm = torch.nn.utils.clip_grad_norm_(weights, config.max_grad_norm).item()
        metrics["grad_norm"] = norm
        if math.isfinite(norm):
            optimizer.step()
        else:
            warn("the gradient is not finite; this step is skipped")
    for name in ("loss", "clip_ratio", "kl"):  # the norm is that of the sum already
        metrics[name] = torchrun.total(metrics[name])
    return metrics


def count_tokens(groups: Sequence[Group]) -> int:
    return sum(len(rollout.completion_ids) for rollout in rollouts_of(groups))


def rollouts_of(groups: Sequence[Group]) -> list[Rollout]:
    rollouts = []
    for group in groups:
        rollouts += group.rollouts
    return rollouts


def gradient_scale(policy: Policy) -> float:
    """What the loss is multiplied by for the backward: in float16 (on cards without bfloat16) the
    gradients of single tokens are so small that they would be rounded to 0."""
    return 4096.0 if policy.core.dtype == torch.float16 else 1.0


def unscale(weights: Sequence[torch.nn.Parameter], scale: float) -> None:
    for weight in weights:
        if weight.grad is not None:
            weight.grad /= scale


# ---- one loop for both stages --------------------------------------------------------------------


def run_stage(policy: Policy, config: Config, stage: str, run: RunFolder) -> None:
    """All updates of one stage, from where the checkpoint stands."""
    optimizer = torch.optim.AdamW(trainable(policy), lr=config.learning_rate, weight_decay=0.0)
    how = Sampling(
        horizon=config.horizon,
        group_size=config.group_size,
        temperature=config.temperature,
        max_new_tokens=policy.max_new_tokens(config.horizon),
    )
    tool_agent = load_tool_agent(config.tool_agent, policy, config.max_pixels)
    if tool_agent is None:
        tool_agent = own_tool_agent
    first = run.restore(policy, optimizer, stage)
    updates = config.stage1_updates if stage == "stage1" else config.stage2_updates
    batches = open_examples(policy, config, stage, first)
    warnings = Warnings()
    bar = tqdm(
        range(first, updates),
        desc=stage,
        initial=first,
        total=updates,
        unit="update",
        mininterval=1,
        disable=torchrun.rank() > 0,
    )
    for update in bar:
        examples = draw_examples(batches)
        share = torchrun.share(examples)
        groups = sample_groups(policy, share, how, config, when=f"{stage} {update}")
        refused = score(groups, stage, config, tool_agent)
        all_groups = gather_groups(examples, groups)
        set_learning_rate(optimizer, config.learning_rate * (1 - update / updates))
        line = {"stage": stage, "update": update}
        line |= summary(all_groups)
        line |= update_policy(policy, groups, config, optimizer)
        if stage == "stage2":
            line["tool_errors"] = torchrun.total(refused)
        warnings.look(line)
        run.log(line, all_groups[: config.keep_groups])
        bar.set_postfix_str(f"reward {line['reward']:.2f}, success {last_success(run)}")
        if (update + 1) % config.save_every == 0 or update + 1 == updates:
            run.save(policy, optimizer, stage, update + 1)


def gather_groups(examples: Sequence[Example], groups: Sequence[Group]) -> list[Group]:
    """The groups of all processes, for the logs: without prompts, whose tensors need not travel."""
    rollouts = torchrun.gather([group.rollouts for group in groups])  # a list for each example
    gathered = []
    for example, own in zip(examples, rollouts, strict=True):
        gathered.append(Group(example, None, own))
    return gathered


def set_learning_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    for part in optimizer.param_groups:
        part["lr"] = rate


def summary(groups: Sequence[Group]) -> dict[str, float]:
    """What one update saw; each metric is explained in docs/questions.md."""
    rollouts = rollouts_of(groups)
    metrics = {}
    for name in rollouts[0].reward_terms:
        metrics[name] = mean([rollout.reward_terms[name] for rollout in rollouts])
    metrics["reward_std"] = mean([reward_spread(group) for group in groups])
    metrics["first_step"] = mean([rollout.step_rewards[0] > 0 for rollout in rollouts])
    metrics["frac_zero_std"] = mean([not has_signal(group) for group in groups])
    metrics["frac_parse_error"] = mean([rollout.parse_error is not None for rollout in rollouts])
    metrics["steps"] = mean([len(rollout.forecast) for rollout in rollouts])
    metrics["tokens"] = count_tokens(groups)
    thought = mean([rollout.thought_tokens for rollout in rollouts])
    if thought > 0:  # a policy that thinks; the others have no such column
        metrics["thought"] = thought
    logprobs = []
    for rollout in rollouts:
        logprobs += rollout.old_logprobs
    metrics["entropy"] = -mean(logprobs)
    return metrics


def mean(values: Sequence[float]) -> float:
    return float(np.mean(values))


def reward_spread(group: Group) -> float:
    return np.std([rollout.reward for rollout in group.rollouts])


# ---- main ----------------------------------------------------------------------------------------


@memory_or_die()
def main(argv: list[str] | None = None) -> None:
    """A whole run, from the command line to the pictures."""
    config = parse_config(argv)
    if config.threads > 0:
        torch.set_num_threads(config.threads)
    torchrun.start()
    run, policy = train(config)
    examine(run, "random", policy, random_planner(config.seed))
    examine(run, "oracle", policy, oracle_planner(config.horizon))
    if has_control(config):
        announce_control(run)
        control, _ = train(reactive_control(config))
        add_control(run, control)
    draw_pictures(run, policy)
    tell_by_demand(run)
    torchrun.stop()


def train(config: Config) -> tuple[RunFolder, Policy]:
    """The warm start and the stages, each with its exam; the policy has the last adapters."""
    clock = Clock()
    with torchrun.first_before_others():  # the first process makes the warm start
        run, policy = open_run(config)
    announce(run)
    clock.lap(run, "warmup")
    examine(run, "warmup", policy)
    clock.lap(run, "exams")
    add_lora(policy, config.lora_rank, config.lora_alpha, config.seed)
    for stage in ("stage1", "stage2"):
        if stage not in config.stages.split(","):
            continue
        if run.has_finished(stage):
            continue
        run_stage(policy, config, stage, run)
        run.save_adapter(policy, stage)
        clock.lap(run, stage)
        examine(run, stage, policy)
        clock.lap(run, "exams")
    run.save_adapter(policy, "adapter")
    run.write_results()
    return run, policy


def has_control(config: Config) -> bool:
    """A run that does not look ahead, or trains nothing, needs none."""
    return config.control and config.horizon > 1 and config.stages != "warmup"


def reactive_control(config: Config) -> Config:
    """The settings of the control: the reward of stage 2 alone, with the updates of both stages.

    Its warm start is that of the run, which has seen forecasts of one step too. It does not think,
    for a thought would look ahead: the control of a run that thinks has a warm start of its own.
    """
    folder = Path(config.output_dir) / "reactive"
    updates = 0
    stages = config.stages.split(",")
    if "stage1" in stages:
        updates += config.stage1_updates
    if "stage2" in stages:
        updates += config.stage2_updates
    return replace(
        config,
        output_dir=str(folder),
        resume=(folder / "config.json").exists(),
        stages="warmup,stage2",
        horizon=1,
        thinking=0,
        stage2_updates=updates,
        carry_forecast=False,
        control=False,
    )


def open_run(config: Config) -> tuple[RunFolder, Policy]:
    """The run folder, and the policy before it has adapters."""
    run = RunFolder(dataclasses.asdict(config))
    if not config.model:
        # What is missing is told before the minutes of a warm start. A model comes before its tool
        # agent: how it is loaded depends on the memory that it finds free.
        load_tool_agent(config.tool_agent, None, config.max_pixels)
    keep_pages(config.env, config.warmup_dir)
    base = find_base(config, run)
    load_in_4bit = config.load_in_4bit
    if config.resume:
        load_in_4bit = run.before["in_4bit"]  # as it was decided when the run began
    policy = load_policy(
        base,
        forward=config.forward,
        max_pixels=config.max_pixels,
        load_in_4bit=load_in_4bit,
    )
    policy.far_first = config.order == "far"
    policy.forecast_states = config.forecast_states
    let_think(policy, config.thinking)
    # Before anything is written: a wrong name leaves no run behind.
    load_tool_agent(config.tool_agent, policy, config.max_pixels)
    in_4bit = getattr(policy.core, "is_loaded_in_4bit", False)
    run.write_config(base, in_4bit)
    return run, policy


def find_base(config: Config, run: RunFolder) -> Path:
    """The model that the adapters stand on: --model, or a warm start.

    A resumed run keeps its own, whatever code or machine has made that: with another one under
    them its adapters would mean something else.
    """
    if config.model:
        return Path(config.model)
    settings = warm_start_settings(config)
    if config.resume:
        base = Path(run.before["base"])
        if base.exists():
            return base
        if base.name != start_folder(settings, config.warmup_dir).name:
            die(
                f"--resume: {base}, the warm start of this run, is gone, and this code on this "
                "machine would make another one"
            )
    return warm_base(settings, config.warmup_dir)


GO_ON = (
    "the same command with --resume goes on from the last checkpoint (without it, where the warm "
    "start was not finished: its finished lessons are kept)"
)

if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        die(f"interrupted; {GO_ON}")
    except WorldError as error:
        die(f"{error}; {GO_ON}")
    except (OSError, SafetensorError) as error:  # a full disk, a folder that became read-only
        file = getattr(error, "filename", None) or "a file of the run"
        why = getattr(error, "strerror", None) or one_line(str(error))
        die(f"cannot read or write {file}: {why}; {GO_ON}")
