"""The warm start: what the tiny model is taught before RL, so that it begins as a hub model would.

Called by train.py (warm_base) when no --model is given; the ablation compares its settings.
Does not know the worlds (they say themselves how to wander and what a false step is), nor GRPO.

First the vision tower learns to read, then the language model imitates a demonstrator that is
often wrong, then a check on held-out states tells whether the result is fit to be compared.
"""

import dataclasses
import hashlib
import json
import os
import random
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from agent import Policy, Sampling, encode, format_forecast, trainable
from envs import DISMISS, Action, Example, Observation, demonstration
from extras.loading import load_policy
from extras.tiny_vlm import make_tiny
from extras.worlds import find_world
from rewards import similarity


@dataclass(frozen=True)
class WarmStart:
    """The settings of a warm start: flags of train.py, explained there."""

    env: str
    seed: int
    order: str
    history: int
    train_tasks: int
    demo_noise: float
    reading_steps: int
    warmup_steps: int
    warmup_batch: int
    warmup_lr: float
    warmup_horizon: int
    max_grad_norm: float


def warm_base(settings: WarmStart, folder: str | Path) -> Path:
    """Where the model with these settings is, below `folder`; made if it is not there yet."""
    made_by = dataclasses.asdict(settings)
    del made_by["max_grad_norm"]  # a guard against rare bad batches: no reason to start anew
    name = hashlib.sha256(json.dumps(made_by).encode()).hexdigest()[:12]
    finished = Path(folder) / name
    if (finished / "warmup.json").exists():
        return finished
    # Renamed when it is whole: two runs may warm up side by side.
    work = finished.with_name(f"{name}.{os.getpid()}.tmp")
    make_tiny(work, find_world(settings.env).words, settings.seed)
    policy = load_policy(work)
    policy.far_first = settings.order == "far"
    reading = teach_reading(policy, settings)
    loss = imitate(policy, settings)
    check = check_start(policy, settings)
    policy.core.save_pretrained(work)
    learnt = {"made_by": made_by, "reading": reading, "loss": loss, "check": check}
    (work / "warmup.json").write_text(json.dumps(learnt, indent=1))
    if not (finished / "warmup.json").exists():
        os.replace(work, finished)
    return finished


def take_step(optimizers: Sequence, weights: Sequence, loss: torch.Tensor, max_norm: float) -> None:
    """One step of all optimizers against the gradient of the loss."""
    for optimizer in optimizers:
        optimizer.zero_grad()
    loss.backward()
    torch.nn.utils.clip_grad_norm_(weights, max_norm)
    for optimizer in optimizers:
        optimizer.step()


# ---- first lesson: reading -----------------------------------------------------------------------

READING_BATCH = 32  # screens
READING_RATE = 4e-3  # peak learning rate
# Without this factor the features grow thirty times as long as a word's embedding, and the language
# model can add nothing to them.
READING_SCALE = 20.0
EMPTY_WEIGHT = 0.1  # most cells are empty: without it the lesson would be about blanks


def teach_reading(policy: Policy, settings: WarmStart) -> float:
    """Teach the vision tower what stands on a screen; returns the share right, last 20 batches.

    Each vision token, through the tied head, names the icon or word that begins in its cell. The
    tower is frozen afterwards: without this loss, later training would make it forget how to read.
    """
    core = policy.core
    rng = random.Random(f"reading {settings.seed}")
    vocabulary = policy.tokenizer.get_vocab()
    table = core.model.language_model.embed_tokens.weight  # [V, hidden], the head's as well
    table.requires_grad_(True)
    core.model.visual.requires_grad_(True)
    weights = [*core.model.visual.parameters(), table]
    optimizer = torch.optim.AdamW(weights, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, READING_RATE, total_steps=settings.reading_steps, pct_start=0.1
    )
    shares = []
    bar = tqdm(range(settings.reading_steps), desc="reading", unit="batch", mininterval=1)
    for _ in bar:
        screens = [random_screen(rng, settings) for _ in range(READING_BATCH)]
        logits = READING_SCALE * see(policy, screens) @ table.T  # [cells, V]
        wanted, weight = reading_targets(screens, vocabulary)
        losses = torch.nn.functional.cross_entropy(logits, wanted, reduction="none")
        loss = (losses * weight).sum() / weight.sum()
        take_step([optimizer], weights, loss, settings.max_grad_norm)
        schedule.step()
        right = logits.argmax(-1) == wanted.argmax(-1)
        not_empty = weight == 1.0
        shares.append(right[not_empty].float().mean().item())
        recent = shares[-20:]
        bar.set_postfix_str(f"read {sum(recent) / len(recent):.1%}")
    core.requires_grad_(False)
    return sum(recent) / len(recent)


def random_screen(rng: random.Random, settings: WarmStart):
    """The world some random steps into a training task: all words and icons on all screens."""
    env = find_world(settings.env)("train")
    env.reset(rng.randrange(settings.train_tasks))
    env.wander(rng)
    return env


def see(policy: Policy, screens: Sequence) -> torch.Tensor:
    """What the vision tower makes of the screens, [cells of all screens, hidden]: agent.see with a
    gradient."""
    pictures = [screen.observe().screenshot() for screen in screens]
    batch = policy.image_processor(images=pictures, return_tensors="pt")
    features = policy.core.model.get_image_features(
        batch["pixel_values"], batch["image_grid_thw"], return_dict=True
    )
    return torch.cat(features.pooler_output)


def reading_targets(
    screens: Sequence, vocabulary: dict[str, int]
) -> tuple[torch.Tensor, torch.Tensor]:
    """For each cell of each screen a distribution over words [n, V] and a weight [n].

    A cell in which a word begins names that word and, with a quarter of the weight, the icon left
    of it: the language model then finds what a thing is called and what it is in one token.
    """
    columns, rows = screens[0].grid
    n = len(screens) * rows * columns
    wanted = torch.zeros(n, len(vocabulary))
    weight = torch.ones(n)
    i = 0
    for screen in screens:
        cells = screen.cells()
        for row in range(rows):
            for column in range(columns):
                word = cells.get((column, row), "<blank>")
                left = cells.get((column - 1, row), "")
                if is_icon(left) and not is_icon(word):
                    wanted[i, vocabulary[word]] = 0.75
                    wanted[i, vocabulary[left]] = 0.25
                else:
                    wanted[i, vocabulary[word]] = 1.0
                if word == "<blank>":
                    weight[i] = EMPTY_WEIGHT
                i += 1
    return wanted, weight


def is_icon(word: str) -> bool:
    """Icons are called `<button>`, `<link>` and so on; an empty cell, `<blank>`, counts as one."""
    return word.startswith("<")


# ---- second lesson: imitating --------------------------------------------------------------------


@dataclass
class Lesson:
    """A state of a demonstration, and what is to be written there."""

    observation: Observation
    answer: tuple[Action, ...]


def imitate(policy: Policy, settings: WarmStart) -> float:
    """Supervised steps: given a state of a demonstration, write the reference for its next steps.

    One long cycle of the learning rate and two short ones. Returns the loss of the last 20 steps.
    """
    core = policy.core
    rng = random.Random(f"warm start {settings.seed}")
    core.requires_grad_(True)
    core.model.visual.requires_grad_(False)
    weights = trainable(policy)
    optimizers = make_optimizers(policy, settings.warmup_lr)
    short = (settings.warmup_steps // 6 + 1, settings.warmup_lr / 4)
    losses = []
    for steps, peak in [(settings.warmup_steps, settings.warmup_lr), short, short]:
        schedules = [one_cycle(optimizer, peak, steps) for optimizer in optimizers]
        bar = tqdm(range(steps), desc="imitating", unit="batch", mininterval=1)
        for _ in bar:
            loss = imitation_loss(policy, settings, rng)
            take_step(optimizers, weights, loss, settings.max_grad_norm)
            losses.append(loss.item())
            for schedule in schedules:
                schedule.step()
            bar.set_postfix_str(f"loss {np.mean(losses[-20:]):.3f}")
    core.requires_grad_(False)
    return float(np.mean(losses[-20:]))


def make_optimizers(policy: Policy, rate: float) -> list[torch.optim.Optimizer]:
    """Muon for the matrices of the layers, AdamW for the rest.

    About twice as fast as AdamW alone (docs/experiments.md).
    """
    matrices = []
    rest = []
    for name, weight in policy.core.named_parameters():
        if not weight.requires_grad:
            continue
        if weight.ndim == 2 and ".layers." in name:
            matrices.append(weight)
        else:
            rest.append(weight)
    muon = torch.optim.Muon(matrices, lr=rate, weight_decay=0.01, adjust_lr_fn="match_rms_adamw")
    adam = torch.optim.AdamW(rest, lr=rate, weight_decay=0.01)
    return [muon, adam]


def one_cycle(
    optimizer: torch.optim.Optimizer, peak: float, steps: int
) -> torch.optim.lr_scheduler.OneCycleLR:
    """The learning rate rises to its peak in a tenth of the steps, then falls.

    Unlike in the reading lesson the momentum stays as it is.
    """
    return torch.optim.lr_scheduler.OneCycleLR(
        optimizer, peak, total_steps=steps, pct_start=0.1, cycle_momentum=False
    )


def imitation_loss(policy: Policy, settings: WarmStart, rng: random.Random) -> torch.Tensor:
    """The loss per token of a batch of lessons, all with forecasts of one random length."""
    horizon = rng.randint(1, settings.warmup_horizon)
    lessons = []
    while len(lessons) < settings.warmup_batch:
        lessons += draw_lessons(settings, rng, horizon)
    observations = [lesson.observation for lesson in lessons]
    answers = [[answer_ids(policy, lesson.answer)] for lesson in lessons]  # one for each prompt
    prompts = encode(policy, observations, horizon)
    logprobs, mask = policy.forward.completion_logprobs(policy, prompts, answers)
    return -logprobs.sum() / mask.sum()


def answer_ids(policy: Policy, actions: Sequence[Action]) -> list[int]:
    """The tokens of an answer, the end among them."""
    text = format_forecast(actions, policy.far_first) + policy.tokenizer.eos_token
    return policy.tokenizer(text)["input_ids"]


def draw_lessons(settings: WarmStart, rng: random.Random, horizon: int) -> list[Lesson]:
    """Two states of one demonstration, each with the reference for its next `horizon` steps.

    Half of the prompts carry a plan, two in five of those a damaged one, so that the same base can
    serve runs with and without --carry_forecast; check_start looks whether it does.
    """
    world = find_world(settings.env)
    record = demonstration(
        world,
        "train",
        index=rng.randrange(settings.train_tasks),
        horizon=settings.warmup_horizon,
        noise=settings.demo_noise,
        history=settings.history,
    )
    lessons = []
    for i in rng.sample(range(len(record)), 2):
        plan = ()
        if i > 0 and rng.random() < 0.5:
            plan = record[i - 1].reference[1:horizon]
            if rng.random() < 0.4:
                plan = damage(plan, world, rng, horizon)
        observation = replace(record[i].observation, plan=plan)
        lessons.append(Lesson(observation, record[i].reference[:horizon]))
    return lessons


def damage(plan: Sequence[Action], world, rng: random.Random, horizon: int) -> tuple[Action, ...]:
    """The plan cut at a random step, with three in ten of its steps replaced by false ones."""
    damaged = []
    for action in plan[: rng.randint(0, horizon)]:
        if rng.random() < 0.3:
            action = world.stray(rng)
        damaged.append(action)
    return tuple(damaged)


# ---- is it fit? ----------------------------------------------------------------------------------

CHECK_HORIZON = 5  # of the check; the warm start does not depend on --horizon


@dataclass
class Probe:
    """A held-out state, and the plans that the check puts into its prompt."""

    example: Example
    plan: tuple[Action, ...]  # what is left of the oracle's of one step before
    other_plan: tuple[Action, ...]  # of another task

    @property
    def is_dialog(self) -> bool:
        return self.example.reference[0].text in (*DISMISS, "OK")


def check_start(policy: Policy, settings: WarmStart, n: int = 400) -> dict:
    """Is the warm start fit to be compared with and without a carried forecast?

    The share of right first actions on n held-out states without a plan in the prompt, with the
    oracle's of one step before, and with one of another task; and the same for dialogs alone.
    Passed: a plan costs at most 5 points, and 90 % of the dialogs are closed with it.
    """
    probes = draw_probes(settings, n)
    without = check_plans(policy, probes, [()] * n)
    with_plan = check_plans(policy, probes, [probe.plan for probe in probes])
    misled = check_plans(policy, probes, [probe.other_plan for probe in probes])
    plan_is_harmless = with_plan["first_action"] >= without["first_action"] - 0.05
    dialogs = with_plan["dialogs"]
    dialogs_are_closed = dialogs is None or dialogs >= 0.9
    check = {
        "without": without,
        "with_plan": with_plan,
        "misled": misled,
        "passed": plan_is_harmless and dialogs_are_closed,
    }
    if not check["passed"]:
        tqdm.write(
            "warning: the warm start acts worse with a plan in its prompt, or misses dialogs: "
            + json.dumps(check),
            file=sys.stderr,
        )
    return check


def draw_probes(settings: WarmStart, n: int) -> list[Probe]:
    """A random state of each of n demonstrations on the split `dev`."""
    world = find_world(settings.env)
    rng = random.Random(f"gate {settings.seed}")
    probes = []
    for index in range(n):
        record = demonstration(
            world,
            "dev",
            index=index,
            horizon=CHECK_HORIZON,
            noise=settings.demo_noise,
            history=settings.history,
        )
        another = demonstration(
            world,
            "dev",
            index=index + 1,
            horizon=CHECK_HORIZON,
            noise=0.0,
            history=settings.history,
        )
        i = rng.randrange(len(record))
        before = record[max(0, i - 1)]
        probes.append(Probe(record[i], before.reference[1:], another[0].reference))
    return probes


def check_plans(policy: Policy, probes: Sequence[Probe], plans: Sequence) -> dict:
    """Greedy forecasts with a plan in each prompt: how often the first action is right."""
    observations = []
    for probe, plan in zip(probes, plans, strict=True):
        observations.append(replace(probe.example.observation, plan=tuple(plan)))
    prompts = encode(policy, observations, CHECK_HORIZON)
    how = Sampling(
        horizon=CHECK_HORIZON,
        group_size=1,
        temperature=0.0,
        max_new_tokens=policy.max_new_tokens(CHECK_HORIZON),
    )
    samples = policy.forward.sample(policy, prompts, how)
    right = []
    dialogs = []
    for probe, [rollout] in zip(probes, samples, strict=True):
        first_is_right = False
        if rollout.forecast:
            first_is_right = names_target(rollout.forecast[0], probe.example)
        right.append(first_is_right)
        if probe.is_dialog:
            dialogs.append(first_is_right)
    return {
        "first_action": float(np.mean(right)),
        "n": len(probes),
        "dialogs": float(np.mean(dialogs)) if dialogs else None,
        "n_dialogs": len(dialogs),
    }


def names_target(action: Action, example: Example) -> bool:
    """Whether an action says what the reference does, by either name of the element."""
    truth = example.reference[0]
    names = [label for label, box in example.elements if box in example.boxes]
    names.append(truth.text)
    for goal in example.goals[:1]:
        call, _, _ = goal.text.partition(" = ")  # a tool by its own name, without the answer
        names.append(call)
    return any(similarity(action, replace(truth, text=name)) == 1.0 for name in names)
