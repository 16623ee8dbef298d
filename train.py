"""train.py: the school. Warm start, stage 1, stage 2; one GRPO loop serves both stages.

    draw_examples    Example x P        observation + reference actions, the same for the same (seed, stage, update)
      -> sample      Group x P          G rollouts each, from one prefill a prompt
      -> score       reward terms       stage 1: whole forecast against the reference; stage 2: what the tool agent made of its first step
                     advantages         each rollout against its group
      -> update      [P, G, C] tensors  log-probabilities with a shared prompt, clipped ratio, one optimiser step

    python train.py                                          # tiny VLM, toy GUI, CPU
    python train.py --horizon 1 --stages warmup,stage2       # the reactive control with the grounded reward
    python train.py --resume                                 # go on where a killed run stopped, on a CPU to the same bits
    python train.py --model Qwen/Qwen3-VL-2B-Instruct        # a real model on one GPU; torchrun --nproc_per_node N train.py ...: on N

Written to --output_dir: config.json, metrics.jsonl (a line an update), rollouts.jsonl (what was sampled), results.json, curves.png,
episode.png, stage1/ (adapters after stage 1), adapter/ (the last ones), checkpoint.pt (for --resume).
"""

import argparse
import dataclasses
import datetime
import hashlib
import itertools
import json
import os
import pickle
import random
import shutil
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
from tqdm import tqdm

from agent import (
    TOY_WORDS,
    Group,
    Policy,
    Prompt,
    Rollout,
    Sampling,
    add_lora,
    completion_logprobs,
    encode,
    format_forecast,
    load_policy,
    make_tiny,
    memory_or_die,
    policy_planner,
    sample,
    sample_all,
    tool_agent,
    torch,
    trainable,
)
from envs import (
    DISMISS,
    ITEMS,
    LOADERS,
    SCREEN_WORDS,
    TOOL_WORDS,
    TOYS,
    VALUES,
    Action,
    BadRecord,
    Example,
    Observation,
    Report,
    ToyGUI,
    ToyTools,
    demonstration,
    die,
    execute_forecasts,
    load_recorded,
    mix,
    stream_shuffled,
)
from eval import draw_curves, draw_episode, evaluate_policy, evaluate_toy, observe, oracle_planner, random_planner, write
from rewards import grounded_reward, group_advantages, similarity, trajectory_reward

# ----------------------------------------------------------------------------------------------------------------------
# Config
# ----------------------------------------------------------------------------------------------------------------------


def flag(default, why: str):
    return field(default=default, metadata={"help": why})


@dataclass(frozen=True)
class Config:
    """Every field is a flag of the same name, and its reason is the flag's help."""

    output_dir: str = flag("runs/toy", "folder of this run; an existing one is refused without --resume")
    seed: int = flag(0, "decides everything drawn at random: tasks, warm start, adapters, samples")
    stages: str = flag("warmup,stage1,stage2", "what to run; leave out a stage for an ablation")
    resume: bool = flag(False, "go on from checkpoint.pt of output_dir; the result is the same as of a run that was never stopped")
    env: str = flag("toy-gui", "toy-gui or toy-tools: the world to train in; its model speaks no other world's words")
    data: str = flag("", "recorded data in place of the toy GUI: name:ROOT, several joined by commas, each with an optional *weight; "
                         "names: androidcontrol, gui-odyssey, mind2web, agentnet (docs/data.md)")
    model: str = flag("", "name or path of a Qwen-VL; empty: the project's tiny one, which the warm start teaches to read and to act")
    max_pixels: int = flag(0, "largest screenshot in pixels that a model is shown; 0 keeps the image processor's own limit")
    load_in_4bit: bool | None = flag(None, "NF4 weights: less memory, half the speed; by default on CUDA if 16 bits would fill more than half of it")
    gradient_checkpointing: bool = flag(False, "compute activations again in the backward: far less memory, a third more time; with --model on")
    tool_agent: str = flag("", "the frozen tool agent of stage 2: base (the same weights without adapters, no extra memory), a name or path "
                               "(UI-TARS, GUI-Owl, Qwen-VL); empty: the toy's own, or the words and boxes of recorded data")

    horizon: int = flag(5, "T, the actions of a forecast; 1 is a reactive agent. The paper's best is about 10, on tasks three times as long")
    history: int = flag(4, "K, past steps in the prompt as text; 0 leaves the agent without memory")
    order: str = flag("near", "near: a forecast begins with the action that is executed (paper); far: it ends with it, so that this action can "
                              "depend on the rest (DEPARTURE)")
    carry_forecast: bool = flag(False, "put what is left of the last forecast into the next prompt (DEPARTURE: the paper forecasts afresh)")

    gamma: float = flag(0.9, "discount per forecast step, below 1 because far steps cannot be known as well as near ones")
    lambda_align: float = flag(1.0, "weight of agreement with the reference; the unit of the other weights")
    lambda_rep: float = flag(0.3, "weight of repetition; at most half of lambda_align, so that the truth stays the best forecast")
    credit: str = flag("step", "step: tokens of step t get the return from t on (same expected gradient, less variance; DEPARTURE); "
                               "own: only the reward of step t; trajectory: one advantage for all tokens (paper)")
    std_normalise: bool = flag(True, "divide advantages by the group's standard deviation (GRPO); --no-std_normalise is Dr. GRPO's choice")

    group_size: int = flag(8, "G, forecasts per prompt: the group is the baseline")
    prompts_per_update: int = flag(16, "P, prompts in one update; more is a steadier gradient at more cost")
    micro_batch: int = flag(16, "prompts in one forward and backward; a knob for memory, the gradient does not depend on it; with --model 1")
    sample_batch: int = flag(0, "prompts that are sampled at once, each part with its own random numbers; 0: as many as make 128 forecasts, 16 "
                                "with --model")
    updates_per_batch: int = flag(1, "optimiser steps on the same rollouts; with 1 the ratio is exactly 1 and the clip never acts")
    clip_low: float = flag(0.2, "the ratio may fall to 1 - clip_low before its gradient stops")
    clip_high: float = flag(0.2, "and rise to 1 + clip_high")
    kl_weight: float = flag(0.0, "weight of the KL term to the policy without adapters; 0 saves a forward (DEPARTURE: the paper leaves it open)")
    temperature: float = flag(1.0, "of sampling and of scoring alike; below 1 groups lose their spread")
    learning_rate: float = flag(2e-3, "of the adapters, falling linearly to 0 in each stage (docs/experiments.md); with --model 2e-5")
    max_grad_norm: float = flag(1.0, "gradients are scaled down to this norm; guards against a rare bad batch")
    lora_rank: int = flag(16, "rank of the adapters")
    lora_alpha: int = flag(32, "adapters are scaled by alpha / rank")
    stage1_updates: int = flag(300, "updates on whole forecasts")
    stage2_updates: int = flag(200, "updates on what the tool agent makes of the first step")

    train_tasks: int = flag(2000, "distinct training tasks; 400 were over-fitted")
    demo_noise: float = flag(0.2, "share of random actions of the demonstrator; they lead to states that an agent meets when it errs")
    reading_steps: int = flag(200, "warm start, first part: batches of 32 screens that teach the vision tower to read")
    warmup_steps: int = flag(1100, "warm start, second part: batches of demonstrations; few enough to leave room for RL")
    warmup_batch: int = flag(16, "demonstrated states per batch")
    warmup_lr: float = flag(4e-3, "peak learning rate of the warm start (all weights but the frozen tower's)")
    warmup_horizon: int = flag(8, "the warm start sees forecasts of 1 to this many steps, so every --horizon up to it starts equally")
    warmup_dir: str = flag("runs/warmup", "warm-started models are kept here and reused by later runs with the same warm-up settings")

    eval_tasks: int = flag(300, "held-out tasks after each phase; 300 give an interval of about +-5 points")
    eval_split: str = flag("test", "split of those tasks; choose settings on dev")
    save_every: int = flag(25, "updates between checkpoints: what a killed run loses at most")
    keep_groups: int = flag(1, "groups of each update that are written to rollouts.jsonl")
    threads: int = flag(0, "CPU threads for torch; 0 leaves torch's own choice")


def parse_config(argv: list[str] | None = None) -> Config:
    """Command line -> Config; a value that cannot work ends with one line and exit code 2."""
    parser = argparse.ArgumentParser(description="Train TraceR1: warm start, stage 1, stage 2.",
                                     formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    for f in dataclasses.fields(Config):
        kind = {"action": argparse.BooleanOptionalAction} if isinstance(f.default, bool | None) else {"type": type(f.default)}
        parser.add_argument(f"--{f.name}", default=f.default, help=f.metadata["help"], **kind)
    if parser.parse_known_args(argv)[0].model:  # what suits a model that a warm start did not teach; a flag that is given still wins
        parser.set_defaults(learning_rate=2e-5, gradient_checkpointing=True, micro_batch=1)
    config = Config(**vars(parser.parse_args(argv)))
    at_least = {"horizon": 1, "group_size": 2, "prompts_per_update": 1, "micro_batch": 1, "updates_per_batch": 1, "train_tasks": 1,
                "warmup_batch": 1, "warmup_horizon": 1, "reading_steps": 1, "warmup_steps": 1, "eval_tasks": 1, "save_every": 1, "lora_rank": 1}
    for f in dataclasses.fields(Config):  # all other numbers but temperature may be 0; `not >=` refuses nan as well
        if isinstance(f.default, int | float) and not getattr(config, f.name) >= at_least.get(f.name, 0):
            die(f"--{f.name} {getattr(config, f.name)}: must be at least {at_least.get(f.name, 0)}")
    for name in ("temperature", "max_grad_norm", "learning_rate", "warmup_lr"):
        if not 0 < getattr(config, name) < float("inf"):
            die(f"--{name} {getattr(config, name)}: must be above 0 and finite")
    for name in ("gamma", "demo_noise"):
        if not getattr(config, name) <= 1:
            die(f"--{name} {getattr(config, name)}: must be at most 1")
    if config.env not in TOYS:
        die(f"--env {config.env}: choose one of {', '.join(TOYS)}")
    if config.eval_split not in (splits := TOYS[config.env].splits):
        die(f"--eval_split {config.eval_split}: choose one of {', '.join(splits)}")
    for name, choices in (("credit", ("own", "step", "trajectory")), ("order", ("near", "far"))):
        if getattr(config, name) not in choices:
            die(f"--{name} {getattr(config, name)}: choose {' or '.join(choices)}")
    if config.prompts_per_update % world():
        die(f"--prompts_per_update {config.prompts_per_update}: must be a multiple of the {world()} processes of torchrun")
    parse_data(config.data)
    if unknown := set(config.stages.split(",")) - {"warmup", "stage1", "stage2"}:
        die(f"--stages: unknown stage {', '.join(sorted(unknown))}; choose from warmup, stage1, stage2")
    return config


def changes(before: dict, config: Config, free: tuple[str, ...]) -> str:
    """The settings of a config.json that another config has otherwise, but those in `free`: "gamma 0.1, not 0.9"; empty for none."""
    now = dataclasses.asdict(config)
    return ", ".join(f"{n} {before.get(n)!r}, not {now[n]!r}" for n in now if n not in free and before.get(n) != now[n])


def parse_data(text: str) -> list[tuple[str, str, float]]:
    """--data -> (name, root, weight) of each set; one line and exit code 2 for a set or a folder that is not there."""
    sources = []
    for part in filter(None, text.split(",")):
        name, _, rest = part.partition(":")
        root, _, weight = rest.partition("*")
        if name not in LOADERS or not Path(root).is_dir() or not (weight or "1").replace(".", "", 1).isdigit():
            die(f"--data {part}: expected name:ROOT or name:ROOT*weight with a name of {', '.join(LOADERS)} and a folder that exists")
        sources.append((name, root, float(weight or 1)))
    return sources


# ----------------------------------------------------------------------------------------------------------------------
# Warm start: what a hub model brings along. The tiny model learns to read, then imitates a demonstrator that is often wrong
# ----------------------------------------------------------------------------------------------------------------------


def warm_base(config: Config) -> Path:
    """Folder of the warm-started model for these settings, made if it is not there yet."""
    if config.model:
        return Path(config.model)
    names = ("env", "seed", "order", "history", "train_tasks", "demo_noise", "reading_steps", "warmup_steps", "warmup_batch", "warmup_lr",
             "warmup_horizon")
    made_by = {name: getattr(config, name) for name in names}
    folder = Path(config.warmup_dir) / hashlib.sha256(json.dumps(made_by).encode()).hexdigest()[:12]
    if (folder / "warmup.json").exists():
        return folder
    work = folder.with_name(f"{folder.name}.{os.getpid()}.tmp")  # renamed when it is whole: two runs may warm up side by side
    make_tiny(work, TOY_WORDS if config.env == "toy-gui" else TOOL_WORDS, config.seed)
    policy = load_policy(work)
    policy.far_first = config.order == "far"
    reading = teach_reading(policy, config)
    loss, gate = imitate(policy, config)
    policy.core.save_pretrained(work)
    (work / "warmup.json").write_text(json.dumps({"made_by": made_by, "reading": reading, "loss": loss, "gate": gate}, indent=1))
    if not (folder / "warmup.json").exists():
        os.replace(work, folder)
    return folder


# Without this factor the features grow thirty times as long as a word's embedding, and the language model can add nothing to them.
READING_SCALE = 20.0


def teach_reading(policy: Policy, config: Config) -> float:
    """Each vision token, through the tied head, names the icon or word that begins in its cell; returns the share right, last 20
    batches. The tower is frozen afterwards: without this loss, later training would make it forget how to read."""
    core, rng, right = policy.core, random.Random(f"reading {config.seed}"), []
    vocabulary, table = policy.tokenizer.get_vocab(), core.model.language_model.embed_tokens.weight
    weights = [*core.model.visual.requires_grad_(True).parameters(), table.requires_grad_(True)]
    optimizer = torch.optim.AdamW(weights, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 4e-3, total_steps=config.reading_steps, pct_start=0.1)
    for _ in (bar := tqdm(range(config.reading_steps), desc="reading", unit="batch", mininterval=1)):
        screens = [random_screen(rng, config) for _ in range(32)]
        batch = policy.image_processor(images=[s.observe().screenshot() for s in screens], return_tensors="pt")
        seen = core.model.get_image_features(batch["pixel_values"], batch["image_grid_thw"], return_dict=True).pooler_output
        logits = READING_SCALE * torch.cat(seen) @ table.T                                        # [32 x 48, V]
        wanted, weight = reading_targets(screens, vocabulary)
        loss = (torch.nn.functional.cross_entropy(logits, wanted, reduction="none") * weight).sum() / weight.sum()
        _step([optimizer], weights, loss, config.max_grad_norm)
        schedule.step()
        named = weight == 1.0
        right = (right + [(logits.argmax(-1) == wanted.argmax(-1))[named].float().mean().item()])[-20:]
        bar.set_postfix_str(f"read {sum(right) / len(right):.1%}")
    core.requires_grad_(False)
    return sum(right) / len(right)


def reading_targets(screens: list[ToyGUI | ToyTools], vocabulary: dict[str, int]) -> tuple:
    """For each cell of each screen a distribution over words [n, V] and a weight [n]. A cell in which a word begins names that word and,
    with a quarter of the weight, the icon left of it: the language model then finds what a thing is called and what it is in one token."""
    cols, rows = screens[0].grid
    wanted, weight = torch.zeros(len(screens) * rows * cols, len(vocabulary)), torch.ones(len(screens) * rows * cols)
    for s, cells in enumerate(screen.cells() for screen in screens):
        for i in range(rows * cols):
            word, left = cells.get((i % cols, i // cols), "<blank>"), cells.get((i % cols - 1, i // cols), "")
            both = left.startswith("<") and not word.startswith("<")
            wanted[s * rows * cols + i, vocabulary[word]] = 0.75 if both else 1.0
            if both:
                wanted[s * rows * cols + i, vocabulary[left]] = 0.25
            if word == "<blank>":
                weight[s * rows * cols + i] = 0.1  # most cells are empty
    return wanted, weight


def random_screen(rng: random.Random, config: Config) -> ToyGUI | ToyTools:
    """A training task some random clicks later, so that all words and icons are seen on all kinds of screens. Three in ten have
    their bars at the bottom: a hub model's eyes have seen such screens. What to do on them is taught nowhere (split `layout`)."""
    env = TOYS[config.env]("train")
    env.reset(rng.randrange(config.train_tasks))
    if config.env == "toy-tools":  # its picture does not change
        return env
    env.task = dataclasses.replace(env.task, flipped=rng.random() < 0.3)
    for _ in range(rng.randrange(8)):
        env.step(env.oracle(1)[0] if rng.random() < 0.5 else env.point_at(rng.choice(env.elements())))
    for widget, held in env.values.items():
        env.values[widget] = rng.choice(VALUES) if held == "" and rng.random() < 0.3 else held
    return env


def imitate(policy: Policy, config: Config) -> tuple[float, dict]:
    """Supervised steps: given a state of a demonstration, write the reference for its next steps. Half of the prompts carry a
    plan, two in five of those a damaged one, so that the same base can serve runs with and without --carry_forecast; the gate checks
    whether it does. One long cycle of the learning rate and two short ones. Returns the last loss and what the gate saw."""
    core, rng = policy.core, random.Random(f"warm start {config.seed}")
    core.requires_grad_(True)
    core.model.visual.requires_grad_(False)
    weights = trainable(policy)
    # Muon for the matrices of the layers: about twice as fast as AdamW alone, which serves the rest (docs/experiments.md).
    matrices = [p for n, p in core.named_parameters() if p.requires_grad and p.ndim == 2 and ".layers." in n]
    rest = [p for p in weights if not any(p is m for m in matrices)]
    both = [torch.optim.Muon(matrices, lr=config.warmup_lr, weight_decay=0.01, adjust_lr_fn="match_rms_adamw"),
            torch.optim.AdamW(rest, lr=config.warmup_lr, weight_decay=0.01)]
    losses = []
    for steps, peak in ((config.warmup_steps, config.warmup_lr), *[(config.warmup_steps // 6 + 1, config.warmup_lr / 4)] * 2):
        schedules = [torch.optim.lr_scheduler.OneCycleLR(o, peak, total_steps=steps, pct_start=0.1, cycle_momentum=False) for o in both]
        for _ in (bar := tqdm(range(steps), desc="imitating", unit="batch", mininterval=1)):
            losses.append(imitation_step(policy, config, rng, both, weights))
            for schedule in schedules:
                schedule.step()
            bar.set_postfix_str(f"loss {np.mean(losses[-20:]):.3f}")
    core.requires_grad_(False)
    seen = gate(policy, config)
    if not seen["passed"]:
        tqdm.write(f"warning: the warm start acts worse with a plan in its prompt, or misses dialogs: {json.dumps(seen)}", file=sys.stderr)
    return float(np.mean(losses[-20:])), seen


def imitation_step(policy: Policy, config: Config, rng: random.Random, optimizers, weights) -> float:
    """One supervised batch; returns its loss per token."""
    horizon, seen, wanted = rng.randint(1, config.warmup_horizon), [], []
    while len(seen) < config.warmup_batch:
        for observation, acts in demonstrated(config, rng, horizon):
            seen.append(observation)
            wanted.append([policy.tokenizer(format_forecast(acts, policy.far_first) + policy.tokenizer.eos_token)["input_ids"]])
    logprobs, mask = completion_logprobs(policy, encode(policy, seen, horizon), wanted)
    loss = -logprobs.sum() / mask.sum()
    _step(optimizers, weights, loss, config.max_grad_norm)
    return loss.item()


def demonstrated(config: Config, rng: random.Random, horizon: int) -> list[tuple[Observation, tuple[Action, ...]]]:
    """Two states of one demonstration, each with the reference for its next `horizon` steps."""
    record = demonstration("train", rng.randrange(config.train_tasks), config.warmup_horizon, config.demo_noise, config.history, world=config.env)
    found = []
    for i in rng.sample(range(len(record)), 2):
        plan = ()
        if i and rng.random() < 0.5:
            plan = record[i - 1].reference[1:horizon]
            if rng.random() < 0.4:
                other = ("click", SCREEN_WORDS, "") if config.env == "toy-gui" else ("call", ITEMS, "read ")
                plan = tuple(Action(other[0], other[2] + rng.choice(other[1])) if rng.random() < 0.3 else a for a in plan[: rng.randint(0, horizon)])
        found.append((dataclasses.replace(record[i].observation, plan=tuple(plan)), record[i].reference[:horizon]))
    return found


GATE_HORIZON = 5  # of the warm start's check; the warm start does not depend on --horizon


def gate(policy: Policy, config: Config, n: int = 400) -> dict:
    """Is the warm start fit to be compared with and without a carried forecast? Share of right first actions on held-out states
    without a plan in the prompt, with the oracle's of one step before, and with one of another task; and the same for dialogs alone.
    Passed: a plan costs at most 5 points, and 90 % of the dialogs are closed with it."""
    rng, states = random.Random(f"gate {config.seed}"), []
    while len(states) < n:
        record = demonstration("dev", len(states), GATE_HORIZON, config.demo_noise, config.history, world=config.env)
        i = rng.randrange(len(record))
        other = demonstration("dev", len(states) + 1, GATE_HORIZON, 0.0, config.history, world=config.env)[0].reference
        states.append((record[i], record[max(0, i - 1)].reference[1:], other))
    found, how = {}, Sampling(GATE_HORIZON, 1, 0.0, policy.max_new_tokens(GATE_HORIZON))
    for name, plans in (("without", [()] * n), ("with_plan", [s[1] for s in states]), ("misled", [s[2] for s in states])):
        seen = [dataclasses.replace(s[0].observation, plan=tuple(plan)) for s, plan in zip(states, plans, strict=True)]
        groups = sample(policy, encode(policy, seen, GATE_HORIZON), how)
        right = [bool(g[0].forecast) and names_target(g[0].forecast[0], s[0]) for g, s in zip(groups, states, strict=True)]
        dialogs = [r for r, s in zip(right, states, strict=True) if s[0].reference[0].text in (*DISMISS, "OK")]
        found[name] = {"first_action": float(np.mean(right)), "n": n, "dialogs": float(np.mean(dialogs)) if dialogs else None,
                       "n_dialogs": len(dialogs)}
    with_plan = found["with_plan"]
    passed = with_plan["first_action"] >= found["without"]["first_action"] - 0.05 and (with_plan["dialogs"] or 1.0) >= 0.9
    return found | {"passed": passed}


def names_target(action: Action, example: Example) -> bool:
    """Whether an action says what the reference does, by either name of the element."""
    truth = example.reference[0]
    names = [label for label, box in example.elements if box in example.boxes] + [truth.text]
    names += [goal.text.partition(" = ")[0] for goal in example.goals[:1]]  # a tool by its own name
    return any(similarity(action, dataclasses.replace(truth, text=name)) == 1.0 for name in names)


def _step(optimizers, weights, loss, max_norm: float) -> None:
    for optimizer in optimizers:
        optimizer.zero_grad()
    loss.backward()
    torch.nn.utils.clip_grad_norm_(weights, max_norm)
    for optimizer in optimizers:
        optimizer.step()


# ----------------------------------------------------------------------------------------------------------------------
# GRPO: one loop for both stages. Under torchrun each process takes its share of an update's prompts, and the first writes and prints
# ----------------------------------------------------------------------------------------------------------------------


def world() -> int:
    return int(os.environ.get("WORLD_SIZE", 1))


def rank() -> int:
    return int(os.environ.get("RANK", 0))


def summed(tensor):
    if world() > 1:
        torch.distributed.all_reduce(tensor)
    return tensor


def gathered(items: list) -> list:
    found = [items] * world()
    if world() > 1:
        torch.distributed.all_gather_object(found, items)
    return [item for part in found for item in part]


def first_only(f):
    return lambda *args, **named: None if rank() else f(*args, **named)


def toy_examples(policy: Policy, config: Config, stage: str, first: int) -> Iterator[list[Example]]:
    """For each update from `first` on, P states of demonstrations, with the oracle's plan from there as the reference. With
    --carry_forecast each prompt carries what is left of a forecast that the policy itself made one step earlier."""
    for update in itertools.count(first):
        rng, drawn = random.Random(f"draw {config.seed} {stage} {update}"), []
        for _ in range(config.prompts_per_update):
            record = demonstration("train", rng.randrange(config.train_tasks), config.horizon, config.demo_noise, config.history, policy.toy_scale,
                                   config.env)
            i = rng.randrange(len(record))
            drawn.append((record[i], record[i - 1] if i else None, record[i - 2].reference[1:] if i > 1 else ()))
        examples = [example for example, _, _ in drawn]
        if config.carry_forecast and (later := [k for k, d in enumerate(drawn) if d[1]]):
            before = [dataclasses.replace(drawn[k][1].observation, plan=tuple(drawn[k][2])) for k in later]
            for k, (forecast, _) in zip(later, policy_planner(policy, config.horizon)(before, None), strict=True):
                examples[k] = dataclasses.replace(examples[k], observation=dataclasses.replace(examples[k].observation, plan=tuple(forecast[1:])))
        yield examples


def recorded_examples(config: Config, stage: str, first: int) -> Iterator[list[Example]]:
    """The same from recorded trajectories: windows of T reference actions, in random order, data sets mixed by weight. A resumed run
    reads past what it has already used. The tool agent finds an element by the words of the recorded step instruction."""
    def windows(name: str, root: str) -> Iterator[Example]:
        for episode in load_recorded(name, root, "random:train" if name == "gui-odyssey" else "train", report):
            at = [step.raw["index"] for step in episode.steps]
            for i, step in enumerate(episode.steps):
                ahead = [s.action for k, s in enumerate(episode.steps[i:i + config.horizon]) if at[i + k] - at[i] <= k]  # up to a hole
                found = tuple((step.action.text, box) for box in step.boxes)
                yield Example(observe(episode, step, config.history), tuple(ahead), step.boxes, found, f"{episode.id}/{at[i]}")

    sources, report, told = [], Report(), 0
    for name, root, weight in parse_data(config.data):
        rng = random.Random(f"shuffle {config.seed} {stage} {name} {root}")
        sources.append((weight, partial(lambda n, r, g: stream_shuffled(windows(n, r), 256, g), name, root, rng)))
    stream, examples = mix(sources, config.seed), []
    for update in itertools.count():
        while len(examples) < config.prompts_per_update:
            example = next(stream)
            try:
                picture = example.observation.screenshot()
                examples.append(dataclasses.replace(example, observation=dataclasses.replace(example.observation, screenshot=lambda p=picture: p)))
            except BadRecord as error:
                report.skip("steps", str(error))
        for message in report.messages[told:]:
            tqdm.write(f"warning: skipped {message}", file=sys.stderr)
        told = len(report.messages)
        if update >= first:
            yield examples
        examples = []


def score(groups: list[Group], stage: str, config: Config, tool=execute_forecasts) -> int:
    """Fill in reward terms and advantages. Stage 2 asks the frozen tool agent what it makes of the first forecast steps, of all at once;
    returns how many it could not execute."""
    firsts = [(r.forecast[0], g.example) for g in groups for r in g.rollouts if r.forecast] if stage == "stage2" else []
    done = iter(answers := tool(firsts))
    for group in groups:
        truth = group.example
        for r in group.rollouts:
            if stage == "stage1":
                r.reward_terms, r.step_rewards = trajectory_reward(r.forecast, truth.reference, config.horizon, config.gamma, config.lambda_align,
                                                                   config.lambda_rep, r.parse_error is None)
            else:
                executed = next(done) if r.forecast else None
                value = max(grounded_reward(executed, goal, truth.boxes) for goal in truth.goals or truth.reference[:1])
                r.reward_terms, r.step_rewards = {"grounded": value, "reward": value}, [value] + [0.0] * config.horizon
        written = slice(None, None, -1 if config.order == "far" else 1)  # what is written later can depend on what is written earlier
        advantages = group_advantages(np.array([r.step_rewards for r in group.rollouts])[:, written], config.credit, config.std_normalise)[:, written]
        for r, a in zip(group.rollouts, advantages.tolist(), strict=True):
            r.advantages = a
    return sum(answer is None or (answer.kind == "call" and answer.text.endswith("= broken")) for answer in answers)


def grpo_loss(logprobs, old_logprobs, advantages, mask, normaliser: int, clip_low: float = 0.2, clip_high: float = 0.2,
              ref_logprobs=None, kl_weight: float = 0.0):
    """Clipped policy-gradient loss of a micro-batch, all tensors [P, G, C]: the paper's A grad log pi with PPO's ratio.

    `normaliser` is the number of completion tokens of the whole batch, so that adding up micro-batches of any size gives one
    and the same gradient. The KL term is k3 = exp(d) - d - 1 with d = log ref - log pi, which is never negative.
    Returns (loss, sum over tokens of [outside the clip], sum of k3).
    """
    ratio = (logprobs - old_logprobs).exp()
    objective = torch.minimum(ratio * advantages, ratio.clamp(1 - clip_low, 1 + clip_high) * advantages)
    clipped = ((ratio < 1 - clip_low) & (advantages < 0)) | ((ratio > 1 + clip_high) & (advantages > 0))
    kl = torch.zeros_like(logprobs)
    if ref_logprobs is not None:
        kl = (ref_logprobs - logprobs).exp() - (ref_logprobs - logprobs) - 1
    loss = -((objective - kl_weight * kl) * mask).sum() / normaliser
    return loss, (clipped * mask).sum().item(), (kl * mask).sum().item()


def has_signal(group: Group) -> bool:
    return any(a != 0 for r in group.rollouts for a in r.advantages)


def update_policy(policy: Policy, groups: list[Group], config: Config, optimizer) -> dict[str, float]:
    """One optimiser step (or --updates_per_batch of them) on scored groups; returns loss, grad_norm, clip_ratio and kl.

    A group whose rewards are all equal has no gradient (without a KL term): it skips forward and backward but its tokens stay in
    the normaliser.
    """
    weights = trainable(policy)
    live = groups if config.kl_weight else [g for g in groups if has_signal(g)]
    tokens, learning = summed(torch.tensor([sum(len(r.completion_ids) for g in groups for r in g.rollouts), len(live)])).tolist()
    found = {"loss": 0.0, "grad_norm": 0.0, "clip_ratio": 0.0, "kl": 0.0}
    grow = 4096.0 if policy.core.dtype == torch.float16 else 1.0  # the gradients of single tokens would be 0 in float16
    for _ in range(config.updates_per_batch):
        optimizer.zero_grad()
        for start in range(0, len(live), config.micro_batch):
            part = live[start:start + config.micro_batch]
            prompts, written = [g.prompt for g in part], [[r.completion_ids for r in g.rollouts] for g in part]
            logprobs, mask = completion_logprobs(policy, prompts, written, config.temperature, config.gradient_checkpointing)
            reference = None
            if config.kl_weight:
                with torch.no_grad(), policy.peft.disable_adapter():
                    reference, _ = completion_logprobs(policy, prompts, written, config.temperature)
            old, advantages = _padded(part, lambda r: r.old_logprobs, mask), _padded(part, lambda r: [r.advantages[s] for s in r.step_index], mask)
            loss, clipped, kl = grpo_loss(logprobs, old, advantages, mask, tokens, config.clip_low, config.clip_high, reference, config.kl_weight)
            (loss * grow).backward()
            found["loss"] += loss.item() / config.updates_per_batch
            found["clip_ratio"] += clipped / tokens / config.updates_per_batch
            found["kl"] += kl / tokens / config.updates_per_batch
        for w in weights if learning and (world() > 1 or grow > 1) else ():  # the sum over all processes
            w.grad = summed(torch.zeros_like(w) if w.grad is None else w.grad / grow)
        found["grad_norm"] = torch.nn.utils.clip_grad_norm_(weights, config.max_grad_norm).item()
        if np.isfinite(found["grad_norm"]):
            optimizer.step()
        else:
            tqdm.write("warning: the gradient is not finite; this step is skipped", file=sys.stderr)
    parts = ("loss", "clip_ratio", "kl")  # of this process; the norm is of the sum already
    return found | dict(zip(parts, summed(torch.tensor([found[name] for name in parts], dtype=torch.float64)).tolist(), strict=True))


def _padded(groups: list[Group], values, mask):
    """Per-token numbers of each rollout -> [P, G, C] like the mask."""
    table = torch.zeros(mask.shape)
    for p, group in enumerate(groups):
        for g, r in enumerate(group.rollouts):
            table[p, g, : len(r.completion_ids)] = torch.tensor(values(r))
    return table.to(mask.device)


def summary(groups: list[Group]) -> dict[str, float]:
    """What one update saw; each metric is explained in the README."""
    rollouts: list[Rollout] = [r for g in groups for r in g.rollouts]
    terms = {name: float(np.mean([r.reward_terms[name] for r in rollouts])) for name in rollouts[0].reward_terms}
    return terms | {
        "reward_std": float(np.mean([np.std([r.reward for r in g.rollouts]) for g in groups])),
        "first_step": float(np.mean([r.step_rewards[0] > 0 for r in rollouts])),
        "frac_zero_std": float(np.mean([not has_signal(g) for g in groups])),
        "frac_parse_error": float(np.mean([r.parse_error is not None for r in rollouts])),
        "steps": float(np.mean([len(r.forecast) for r in rollouts])),
        "tokens": sum(len(r.completion_ids) for r in rollouts),
        "entropy": float(-np.mean([p for r in rollouts for p in r.old_logprobs])),
    }


def draw_samples(policy: Policy, prompts: list[Prompt], how: Sampling, config: Config, when: str) -> list[list[Rollout]]:
    """The rollouts of one update, --sample_batch prompts at a time."""
    def generator(start: int):
        # Each part has its own: nothing but weights and optimiser state needs to survive a restart.
        at = f" {begin}" if (begin := rank() * len(prompts) + start) else ""
        return torch.Generator(policy.device).manual_seed(int(hashlib.sha256(f"{config.seed} {when}{at}".encode()).hexdigest()[:15], 16))

    return sample_all(policy, prompts, how, generator, config.sample_batch)


def run_stage(policy: Policy, config: Config, stage: str, run: "Run") -> None:
    """All updates of one stage, from where the checkpoint stands."""
    optimizer = torch.optim.AdamW(trainable(policy), lr=config.learning_rate, weight_decay=0.0)
    how = Sampling(config.horizon, config.group_size, config.temperature, policy.max_new_tokens(config.horizon))
    first, total = run.restore(policy, optimizer, stage), getattr(config, f"{stage}_updates")
    batches = recorded_examples(config, stage, first) if config.data else toy_examples(policy, config, stage, first)
    flat = garbled = 0
    tool = tool_agent(config.tool_agent, policy, config.max_pixels) or execute_forecasts
    for update in (bar := tqdm(range(first, total), desc=stage, initial=first, total=total, unit="update", mininterval=1, disable=rank() > 0)):
        try:
            examples = next(batches)
        except ValueError as error:  # a data set that is empty or mostly bad
            die(str(error))
        own = examples[rank() * len(examples) // world():(rank() + 1) * len(examples) // world()]
        prompts = encode(policy, [e.observation for e in own], config.horizon)
        groups = [Group(*parts) for parts in zip(own, prompts, draw_samples(policy, prompts, how, config, f"{stage} {update}"), strict=True)]
        errors = score(groups, stage, config, tool)
        for part in optimizer.param_groups:
            part["lr"] = config.learning_rate * (1 - update / total)
        everyone = [Group(e, None, r) for e, r in zip(examples, gathered([g.rollouts for g in groups]), strict=True)]
        line = {"stage": stage, "update": update} | summary(everyone) | update_policy(policy, groups, config, optimizer)
        line |= {"tool_errors": summed(torch.tensor(errors)).item()} if stage == "stage2" else {}
        flat = flat + 1 if line["frac_zero_std"] > 0.9 else 0
        if flat == 10:
            tqdm.write("warning: for 10 updates more than 90 % of the groups had equal rewards, so there is almost nothing to learn from; "
                       "rollouts.jsonl shows what was sampled (all unreadable? temperature too low? task solved?)", file=sys.stderr)
        garbled = garbled + 1 if line["frac_parse_error"] > 0.5 else 0
        if garbled == 10:
            tqdm.write("warning: for 10 updates more than half of the answers could not be read to the end: see rollouts.jsonl", file=sys.stderr)
        run.log(line, everyone[: config.keep_groups])
        bar.set_postfix_str(f"reward {line['reward']:.2f}, success {run.last_success}")
        if (update + 1) % config.save_every == 0 or update + 1 == total:
            run.save(policy, optimizer, stage, update + 1)


# ----------------------------------------------------------------------------------------------------------------------
# The run folder: logs, checkpoint, results
# ----------------------------------------------------------------------------------------------------------------------


class Run:
    """The files of one run. A checkpoint remembers how long the logs were when it was written: a resumed run cuts them there, so
    that it ends with the same files as a run that was never stopped."""

    def __init__(self, config: Config):
        self.config, self.folder, self.last_success = config, Path(config.output_dir), "-"
        self.results = {"seed": config.seed, "config": dataclasses.asdict(config), "seconds": {}, config.eval_split: {}}
        self.state, self.before = {}, {}
        if rank():
            torch.distributed.barrier()  # the first process looks at the folder and makes the warm start
        if config.resume:
            self._reopen()
        elif self.folder.exists() and not self.folder.is_dir():
            die(f"--output_dir {self.folder}: there is a file of that name")
        elif not rank() and self.folder.exists() and any(self.folder.iterdir()):
            die(f"{self.folder} is not empty: add --resume to go on with it, or choose another --output_dir")
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            die(f"cannot write to {self.folder}: {error.strerror}")
        base = warm_base(config)
        self.policy = load_policy(base, max_pixels=config.max_pixels, load_in_4bit=self.before.get("in_4bit", config.load_in_4bit))
        tool_agent(config.tool_agent, self.policy, config.max_pixels)  # before anything is written: a wrong name leaves no run behind
        self.policy.far_first = config.order == "far"
        written = {"base": str(base), "in_4bit": getattr(self.policy.core, "is_loaded_in_4bit", False)} | dataclasses.asdict(config)
        first_only(write)(self.folder / "config.json", json.dumps(written, indent=1))
        if world() > 1 and rank() == 0:
            torch.distributed.barrier()

    def _reopen(self) -> None:
        path = self.folder / "config.json"
        if not path.exists():
            die(f"--resume: there is no {path}")
        try:
            before = self.before = json.loads(path.read_text())
            if not isinstance(before, dict):
                raise ValueError("not an object")
            before.setdefault("env", "toy-gui")  # older runs know no other world
        except ValueError as error:
            die(f"--resume: {path} is damaged: {error}")
        free = ("resume", "output_dir", "threads", "micro_batch", "save_every", "gradient_checkpointing",  # they do not change the result
                "sample_batch", "load_in_4bit")  # this changes the draws to come only, and this is not asked again
        if changed := changes(before, self.config, free):
            die(f"--resume: {path} was made with other settings: {changed}")
        if (self.folder / "checkpoint.pt").exists():
            try:
                self.state = torch.load(self.folder / "checkpoint.pt", map_location="cpu", weights_only=True)
                self.results = json.loads(self.state["results"])
            except (OSError, RuntimeError, EOFError, KeyError, ValueError, pickle.UnpicklingError) as error:
                die(f"--resume: {self.folder / 'checkpoint.pt'} is damaged: {str(error).splitlines()[0][:120]}")
        for name in ("metrics.jsonl", "rollouts.jsonl"):
            if (self.folder / name).exists() and not rank():
                os.truncate(self.folder / name, self.state.get(name, 0))

    def restore(self, policy: Policy, optimizer, stage: str) -> int:
        """Weights and optimiser as the checkpoint has them; returns the update to go on with."""
        if self.state.get("stage") != stage:
            return 0
        named = dict(policy.core.named_parameters())
        with torch.no_grad():
            for name, value in self.state["weights"].items():
                named[name].copy_(value)
        optimizer.load_state_dict(self.state["optimizer"])
        return self.state["update"]

    @first_only
    def log(self, line: dict, groups: list[Group]) -> None:
        with open(self.folder / "metrics.jsonl", "a") as out:
            out.write(json.dumps(line) + "\n")
        with open(self.folder / "rollouts.jsonl", "a") as out:
            for group in groups:
                for r in group.rollouts:
                    out.write(json.dumps({"stage": line["stage"], "update": line["update"]} | r.record(group.example)) + "\n")

    @first_only
    def save(self, policy: Policy, optimizer, stage: str, update: int) -> None:
        weights = {n: p.detach() for n, p in policy.core.named_parameters() if p.requires_grad}
        self.state = {"stage": stage, "update": update, "weights": weights, "optimizer": optimizer.state_dict(), "results": json.dumps(self.results)}
        self.state |= {name: (self.folder / name).stat().st_size for name in ("metrics.jsonl", "rollouts.jsonl")}
        torch.save(self.state, self.folder / "checkpoint.tmp")
        os.replace(self.folder / "checkpoint.tmp", self.folder / "checkpoint.pt")

    @first_only
    def save_adapter(self, policy: Policy, name: str) -> None:
        policy.peft.save_pretrained(self.folder / f"{name}.tmp")
        shutil.rmtree(self.folder / name, ignore_errors=True)
        os.replace(self.folder / f"{name}.tmp", self.folder / name)

    @first_only
    def draw(self, policy: Policy) -> None:
        """curves.png and episode.png: what a person looks at first."""
        c, split = self.config, self.config.eval_split
        log = self.folder / "metrics.jsonl"
        lines = log.read_text().splitlines() if log.exists() else []
        draw_curves([json.loads(line) for line in lines], self.results[split], split, self.folder / "curves.png")
        if c.data:
            return
        _, plays = evaluate_policy(policy, dataclasses.asdict(c), split, 20)
        solved = [p for p in plays if p.success] or plays
        draw_episode(max(solved, key=lambda p: len(p.results)), self.folder / "episode.png")
        print(f"pictures: {self.folder / 'curves.png'}, {self.folder / 'episode.png'}; numbers: {self.folder / 'results.json'}")

    @first_only
    def examine(self, name: str, planner=None) -> None:
        """Play the held-out tasks once, with this planner or the policy, and keep the result: a resumed run does not play them again."""
        c, split = self.config, self.config.eval_split
        if c.data:
            return  # recorded data have no episodes to play: eval.py --bench scores them
        if name not in self.results[split]:
            with tqdm(total=c.eval_tasks, desc=f"exam: {name}", unit="task", mininterval=1) as bar:
                if planner:
                    found, _ = evaluate_toy(planner, split, c.eval_tasks, c.horizon, c.history, progress=bar.update, world=c.env)
                else:
                    found, _ = evaluate_policy(self.policy, dataclasses.asdict(c), split, c.eval_tasks, bar.update)
            self.results[split][name] = found
            write(self.folder / "results.json", json.dumps(self.results, indent=1))
        found = self.results[split][name]
        self.last_success = f"{found['success']:.1%}"
        low, high = found["ci95"]
        tqdm.write(f"{name:8} {split}: success {self.last_success} (95 % interval {low:.1%} to {high:.1%}, n = {found['n']}), "
                   f"first action right {found['accuracy_at_k'][0]:.1%}, refused by the tool agent {found['failed']:.1%}")


@memory_or_die()
def main(argv: list[str] | None = None) -> None:
    config = parse_config(argv)
    if config.threads:
        torch.set_num_threads(config.threads)
    if world() > 1:
        if int(os.environ["LOCAL_RANK"]) < torch.cuda.device_count():
            torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
        backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"  # without a name only NCCL is made, which cannot add up CPU tensors
        torch.distributed.init_process_group(backend, timeout=datetime.timedelta(days=1))  # the others wait while the first takes an exam
    clock = time.monotonic()
    run = Run(config)
    policy = run.policy

    def lap(name: str) -> None:
        nonlocal clock
        run.results["seconds"].setdefault(name, round(time.monotonic() - clock, 1))
        clock = time.monotonic()

    first_only(print)(f"{(P := config.prompts_per_update)} prompts x {(G := config.group_size)} forecasts = {P * G} rollouts an update, "
          f"{config.updates_per_batch} optimiser step(s) on each batch; T = {config.horizon}, K = {config.history}, seed {config.seed}", flush=True)
    lap("warmup")
    run.examine("random", random_planner(config.seed))
    run.examine("warmup")
    lap("exams")
    add_lora(policy, config.lora_rank, config.lora_alpha, config.seed)
    for stage in ("stage1", "stage2"):
        if stage not in config.stages.split(","):
            continue
        if (run.folder / stage).exists() and run.state.get("stage") != stage:  # finished before the run was stopped
            continue
        run_stage(policy, config, stage, run)
        run.save_adapter(policy, stage)
        lap(stage)
        run.examine(stage)
    run.save_adapter(policy, "adapter")
    run.examine("oracle", oracle_planner(config.horizon))
    lap("exams")
    first_only(write)(run.folder / "results.json", json.dumps(run.results, indent=1))
    run.draw(policy)
    if world() > 1:
        torch.distributed.destroy_process_group()


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        die("interrupted; the same command with --resume goes on from the last checkpoint")
    except OSError as error:  # a full disk, a folder that became read-only
        die(f"cannot write {error.filename or ''}: {error.strerror or error}; --resume goes on from the last checkpoint")
