"""The warm start: what the tiny model is taught before RL, so that it begins as a hub model would.

Called by train.py: warm_base where no --model is given, carried_plans for --carry_forecast. The
ablation compares its settings, extras/ceiling.py borrows its check.
Does not know the worlds (they say themselves how to wander and what a false step is), nor GRPO.

First the vision tower learns to read. Then come the courses that a world may bring. Then the
language model imitates the oracle, in states that a demonstrator who is often wrong has come to,
and perhaps once more with plans of its own in the prompts. A check on held-out states tells whether
the result is fit to be compared.

    <warmup_dir>/lessons/<name>/    a model after its first lessons, which several warm starts share
    <warmup_dir>/<name>/            a warm start; warmup.json says how it was made
"""

import ast
import dataclasses
import hashlib
import inspect
import json
import os
import platform
import random
import shutil
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from agent import (
    THOUGHT_END,
    Planner,
    Policy,
    encode,
    format_forecast,
    policy_planner,
    token_logprobs,
    trainable,
)
from envs import Action, Example, demonstration, die
from eval import CLOSE, TYPE_UNSAID, kind_of, place_of_kind
from extras.lessons import Course, Drill, Lesson, damage, form_answers, think_back
from extras.loading import let_think, load_policy
from extras.run_folder import changes, write
from extras.shared_prompt import completion_states, pad_completions, written_logprobs
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
    thinking: int
    forecast_states: bool
    train_tasks: int
    demo_noise: float
    reading_steps: int
    warmup_steps: int
    warmup_batch: int
    warmup_lr: float
    warmup_horizon: int
    warmup_lessons: str
    warmup_own_plans: bool
    silent_hops: int
    silent_batches: int

    @property
    def world(self) -> type:
        return find_world(self.env, self.forecast_states)

    @property
    def longest(self) -> int:
        """Steps of the longest forecast that is taught."""
        return 1 if self.warmup_lessons == "next" else self.warmup_horizon

    @property
    def words(self) -> tuple[str, ...]:
        """What the model can say beside the words of all prompts."""
        words = self.world.words
        return (*words, THOUGHT_END) if self.thinking > 0 else words

    def made_by(self) -> dict:
        """What decides about the result."""
        return dataclasses.asdict(self)

    def read_by(self) -> dict:
        """What decides about the reading lesson."""
        return {
            "env": self.env,
            "seed": self.seed,
            "reading_steps": self.reading_steps,
            "train_tasks": self.train_tasks,
            "words": self.words,
        }

    def taught_by(self, courses: Sequence[Course]) -> dict:
        """What decides about the model after the reading lesson and these courses."""
        return self.read_by() | {
            "order": self.order,
            "thinking": self.thinking,
            "forecast_states": self.forecast_states,
            "warmup_lr": self.warmup_lr,
            "courses": [(course.name, course.batches) for course in courses],
        }


def warm_base(settings: WarmStart, folder: str | Path) -> Path:
    """Where the model with these settings is, below `folder`; made if it is not there yet."""
    finished = start_folder(settings, folder)
    if (finished / "warmup.json").exists():
        return finished
    tell_why_anew(settings, folder)
    base = after_courses(settings, folder, courses_of(settings))
    work = unfinished(finished)
    policy = go_on_with(base, work, settings)
    took = read_lessons(base)
    if settings.warmup_steps > 0:  # a start may have courses alone
        took["imitating"] = imitate(policy, settings)
    if settings.warmup_own_plans:
        took["own plans"] = imitate_with_own_plans(policy, settings)
    learnt = {
        "made_by": settings.made_by(),
        "made_with": made_with(settings.env),
        "lessons": took,
        "check": check_start(policy, settings),
    }
    policy.core.save_pretrained(work)
    write(work / "warmup.json", json.dumps(learnt, indent=1))
    put_in_place(work, finished)
    return finished


def go_on_with(base: Path, work: Path, settings: WarmStart) -> Policy:
    """Copies the model in `base` to `work`; returns it as a policy that writes as these settings
    say."""
    leave = shutil.ignore_patterns(LESSONS)  # this file would say that the copy is finished
    shutil.copytree(base, work, ignore=leave, dirs_exist_ok=True)
    policy = load_policy(work)
    policy.far_first = settings.order == "far"
    policy.forecast_states = settings.forecast_states
    let_think(policy, settings.thinking)
    return policy


# ---- folders, named by all that decides about what is in them ------------------------------------

ROOT = Path(__file__).resolve().parent.parent
# What a warm start is made by, beside the file of its world.
CODE = (
    "agent.py",
    "envs.py",
    "extras/lessons.py",
    "extras/loading.py",
    "extras/shared_prompt.py",
    "extras/tiny_vlm.py",
    "extras/warm_start.py",
)


# The last file of a folder of lessons: with it, the folder is whole.
LESSONS = "lessons.json"


def start_folder(settings: WarmStart, folder: str | Path) -> Path:
    """Where the warm start with these settings is, or will be.

    Its name knows the code and the arithmetic of the machine as well: a start that other code or
    another machine made keeps its folder, for the runs whose adapters stand on it.
    """
    return Path(folder) / name_of(settings.made_by(), made_with(settings.env))


def lessons_folder(made_by: dict, settings: WarmStart, folder: str | Path) -> Path:
    return Path(folder) / "lessons" / name_of(made_by, made_with(settings.env))


def name_of(*parts: dict) -> str:
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:12]


def made_with(env: str) -> dict:
    """The code that makes a warm start, and what decides about the rounding of its numbers.

    The same seed on another machine was seen to move by 5 points of success through rounding. The
    number of threads, which moves it too, is left out: one start serves runs with different ones.
    """
    world = find_world(env)
    names = (*CODE, *getattr(world, "code", ()))
    files = {ROOT / name for name in names} | {Path(inspect.getsourcefile(world)).resolve()}
    return {
        "code": {file.name: fingerprint(file) for file in sorted(files)},
        "machine": {
            "torch": torch.__version__,
            "processor": platform.machine(),
            "vectors": torch.backends.cpu.get_cpu_capability(),
        },
    }


HAS_DOCSTRING = ast.Module | ast.ClassDef | ast.FunctionDef


@cache
def fingerprint(file: Path) -> str:
    """Changes when the code in a file does; comments, docstrings and layout do not count."""
    tree = ast.parse(file.read_text())
    for node in ast.walk(tree):
        if isinstance(node, HAS_DOCSTRING) and ast.get_docstring(node):
            del node.body[0]
    return hashlib.sha256(ast.dump(tree).encode()).hexdigest()[:12]


def tell_why_anew(settings: WarmStart, folder: str | Path) -> None:
    """One line where a start with these settings is there, but of other code or another machine.

    Of several, the newest is spoken of.
    """
    starts = Path(folder).glob("*/warmup.json")
    for file in sorted(starts, key=lambda file: file.stat().st_mtime, reverse=True):
        try:
            before = json.loads(file.read_text())
            same_settings = before["made_by"] == settings.made_by()
            why = what_changed(before["made_with"], made_with(settings.env))
        except (OSError, ValueError, KeyError, TypeError):  # of an older version, or damaged
            continue
        if same_settings:
            tqdm.write(
                f"note: the warm start {file.parent} is made anew, because {why}; the old one "
                "stays for the runs that stand on it",
                file=sys.stderr,
            )
            return


def what_changed(before: dict, now: dict) -> str:
    """In words, from two times made_with."""
    reasons = []
    for name, code in now["code"].items():
        if before["code"].get(name) != code:
            reasons.append(f"{name} has changed")
    machine = changes(before["machine"], now["machine"])
    if machine:
        reasons.append(f"it was made on another machine ({machine})")
    return ", ".join(reasons)


def is_taught(folder: Path) -> bool:
    return (folder / LESSONS).exists()


def write_lessons(folder: Path, made_by: dict, took: dict) -> None:
    """What made the model, and what each of its lessons took."""
    write(folder / LESSONS, json.dumps({"made_by": made_by, "lessons": took}, indent=1))


def read_lessons(folder: Path) -> dict:
    """What each of the model's lessons took."""
    return json.loads((folder / LESSONS).read_text())["lessons"]


def keep_pages(env: str, folder: str | Path) -> None:
    """In a world that is slow to look at, what was seen is kept beside the warm starts.

    A line and exit code 2 where that cannot be.
    """
    world = find_world(env)
    if not hasattr(world, "keep_pages"):
        return
    try:
        world.keep_pages(Path(folder))
    except ValueError as error:
        die(f"--env {env}: {error}")


def unfinished(folder: Path) -> Path:
    """Where it is made: renamed when it is whole, so two runs may warm up side by side."""
    return folder.with_name(f"{folder.name}.{os.getpid()}.tmp")


def put_in_place(work: Path, finished: Path) -> None:
    if finished.exists():  # another run was faster
        shutil.rmtree(work)
    else:
        os.replace(work, finished)


# ---- first lesson: reading -----------------------------------------------------------------------

READING_BATCH = 32  # screens
READING_RATE = 4e-3  # peak learning rate
# Features and words are compared by their directions: a feature then points where its words point,
# and the language model finds them there. (By inner products most of a feature was something else,
# and looking things up on the toy map was learnt several times more slowly.) At 14 the right word
# of some 150 can have nearly all of the probability.
READING_SHARPNESS = 14.0
# After the lesson the features are made so many times as long as a word's embedding. As the lesson
# leaves them, ten times as long, the language model could add nothing to them.
FEATURE_LENGTH = 1.5
EMPTY_WEIGHT = 0.1  # most cells are empty: without it the lesson would be about blanks


def reading_base(settings: WarmStart, folder: str | Path) -> Path:
    """Where the model is that has learnt to read and nothing else; taught if it is not there yet.

    All warm starts with the same read_by() begin with it.
    """
    finished = lessons_folder(settings.read_by(), settings, folder)
    if is_taught(finished):
        return finished
    work = unfinished(finished)
    make_tiny(work, settings.words, settings.seed)
    policy = load_policy(work)
    took = {"reading": teach_reading(policy, settings)}
    policy.core.save_pretrained(work)
    write_lessons(work, settings.read_by(), took)
    put_in_place(work, finished)
    return finished


def teach_reading(policy: Policy, settings: WarmStart) -> dict:
    """Teach the vision tower what stands on a screen; returns what it took, and the share read
    right in the last 20 batches.

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
        optimizer,
        READING_RATE,
        total_steps=settings.reading_steps,
        pct_start=rising_share(settings.reading_steps),
    )
    begun = time.process_time()
    shares = []
    kept = screens_to_keep(settings)
    bar = tqdm(range(settings.reading_steps), desc="reading", unit="batch", mininterval=1)
    for _ in bar:
        if kept:
            screens = rng.sample(kept, READING_BATCH)
        else:
            screens = [random_screen(rng, settings) for _ in range(READING_BATCH)]
        logits = reading_logits(see(policy, screens), table)
        wanted, weight = reading_targets(screens, vocabulary)
        losses = torch.nn.functional.cross_entropy(logits, wanted, reduction="none")
        loss = (losses * weight).sum() / weight.sum()
        take_step([optimizer], weights, loss)
        schedule.step()
        not_empty = weight > EMPTY_WEIGHT
        right = are_read(logits[not_empty], wanted[not_empty])
        shares.append(right.float().mean().item())
        recent = shares[-20:]
        bar.set_postfix_str(f"read {sum(recent) / len(recent):.1%}")
    core.requires_grad_(False)
    shorten_features(policy, screens)
    return {
        "batches": len(shares),
        "processor_seconds": round(time.process_time() - begun, 1),
        "read": sum(recent) / len(recent),
    }


def reading_logits(features: torch.Tensor, table: torch.Tensor) -> torch.Tensor:
    """What each cell names: features [cells, hidden], words [V, hidden] -> [cells, V]."""
    directions = torch.nn.functional.normalize(features, dim=-1)
    words = torch.nn.functional.normalize(table, dim=-1)
    return READING_SHARPNESS * directions @ words.T


def are_read(logits: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
    """Which cells name all of their words, one or two, before any other: both [n, V] -> [n]."""
    likeliest = logits.topk(2).indices  # [n, 2]
    named = (wanted > 0).gather(1, likeliest)
    has_one_word = (wanted > 0).sum(1) == 1
    return named[:, 0] & (named[:, 1] | has_one_word)


@torch.no_grad()
def shorten_features(policy: Policy, screens: Sequence) -> None:
    """Scale the tower's last layer so that its features have FEATURE_LENGTH times a word's."""
    core = policy.core
    words = core.model.language_model.embed_tokens.weight.norm(dim=-1).mean()
    features = see(policy, screens).norm(dim=-1).mean()
    last = core.model.visual.merger.linear_fc2
    factor = FEATURE_LENGTH * words / features
    last.weight.mul_(factor)
    last.bias.mul_(factor)


def screens_to_keep(settings: WarmStart) -> list:
    """Screens that the whole lesson is drawn from, in a world in which each takes long to come by.

    Their number is the world's `screens_kept`; they are the same for every seed. In a world without
    it the list is empty, and each batch has fresh ones.
    """
    number = getattr(settings.world, "screens_kept", 0)
    rng = random.Random("screens to keep")
    bar = tqdm(range(number), desc="screens", unit="screen", mininterval=1, disable=number == 0)
    return [random_screen(rng, settings) for _ in bar]


def random_screen(rng: random.Random, settings: WarmStart):
    """A world, some random steps into a training task: so that all its screens are read."""
    env = settings.world("train")
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
    """For each cell of each screen a distribution over words [n, V] and a weight [n]."""
    columns, rows = screens[0].grid
    n = len(screens) * rows * columns
    wanted = torch.zeros(n, len(vocabulary))
    weight = torch.full((n,), EMPTY_WEIGHT)
    i = 0
    for screen in screens:
        readings = read_cells(screen)
        for row in range(rows):
            for column in range(columns):
                shares = readings.get((column, row), {"<blank>": 1.0})
                for word, share in shares.items():
                    wanted[i, vocabulary[word]] = share
                if "<blank>" not in shares:
                    weight[i] = len(shares)  # each word counts, or the second is hardly learnt
                i += 1
    return wanted, weight


def read_cells(screen) -> dict[tuple[int, int], dict[str, float]]:
    """(column, row) -> the words that the cell's vision token is to name, with their shares.

    A world may have a method of its own for it, `readings()`. By default a cell names what begins
    there, and a word, with a quarter of the weight, the icon left of it: the language model then
    finds what a thing is called and what it is in one token.
    """
    if hasattr(screen, "readings"):
        return screen.readings()
    cells = screen.cells()
    readings = {}
    for (column, row), word in cells.items():
        left = cells.get((column - 1, row), "")
        if is_icon(left) and not is_icon(word):
            readings[column, row] = {word: 0.75, left: 0.25}
        else:
            readings[column, row] = {word: 1.0}
    return readings


def is_icon(word: str) -> bool:
    """Icons are called `<button>`, `<link>` and so on; an empty cell, `<blank>`, counts as one."""
    return word.startswith("<")


# ---- the other lessons: what to write ------------------------------------------------------------

# Draws a fresh batch; returns its loss per token, and the number of these tokens.
BatchLoss = Callable[[], tuple[torch.Tensor, int]]


def supervise(
    policy: Policy,
    settings: WarmStart,
    name: str,
    cycles: Sequence[tuple[int, float]],
    batch_loss: BatchLoss,
) -> dict:
    """Supervised steps for all weights but those of the tower; returns what they took.

    `cycles` of the learning rate: (steps, peak) of each. The loss returned is that of the last 20.
    """
    core = policy.core
    core.requires_grad_(True)
    core.model.visual.requires_grad_(False)
    weights = trainable(policy)
    optimizers = make_optimizers(policy, settings.warmup_lr)
    begun = time.process_time()
    losses = []
    target_tokens = 0
    for steps, peak in cycles:
        schedules = [one_cycle(optimizer, peak, steps) for optimizer in optimizers]
        bar = tqdm(range(steps), desc=name, unit="batch", mininterval=1)
        for _ in bar:
            loss, tokens = batch_loss()
            take_step(optimizers, weights, loss)
            losses.append(loss.item())
            target_tokens += tokens
            for schedule in schedules:
                schedule.step()
            bar.set_postfix_str(f"loss {np.mean(losses[-20:]):.3f}")
    core.requires_grad_(False)
    return {
        "batches": len(losses),
        "target_tokens": target_tokens,
        "processor_seconds": round(time.process_time() - begun, 1),
        "loss": float(np.mean(losses[-20:])),
    }


MAX_GRAD_NORM = 1.0  # guards against a rare bad batch


def take_step(optimizers: Sequence, weights: Sequence, loss: torch.Tensor) -> None:
    """One step of all optimizers against the gradient of the loss."""
    for optimizer in optimizers:
        optimizer.zero_grad()
    loss.backward()
    torch.nn.utils.clip_grad_norm_(weights, MAX_GRAD_NORM)
    for optimizer in optimizers:
        optimizer.step()


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
        optimizer, peak, total_steps=steps, pct_start=rising_share(steps), cycle_momentum=False
    )


def rising_share(steps: int) -> float:
    """The share of a cycle in which the learning rate rises: a tenth.

    Of ten steps two: with one, OneCycleLR would divide by 0.
    """
    return 0.2 if steps == 10 else 0.1


# ---- courses of a world --------------------------------------------------------------------------


def courses_of(settings: WarmStart) -> Sequence[Course]:
    """What the world wants to be taught before imitation: see lessons.Course; mostly nothing."""
    world = settings.world
    if not hasattr(world, "courses"):
        return ()
    return world.courses(settings)


def after_courses(settings: WarmStart, folder: str | Path, courses: Sequence[Course]) -> Path:
    """Where the model is that was taught to read, and then these courses in their order.

    What is not there yet is taught. Starts that begin with the same courses share them.
    """
    if not courses:
        return reading_base(settings, folder)
    *earlier, course = courses
    finished = lessons_folder(settings.taught_by(courses), settings, folder)
    if is_taught(finished):
        return finished
    base = after_courses(settings, folder, earlier)
    work = unfinished(finished)
    policy = go_on_with(base, work, settings)
    took = read_lessons(base)
    took[course.name] = teach_course(policy, settings, course)
    policy.core.save_pretrained(work)
    write_lessons(work, settings.taught_by(courses), took)
    put_in_place(work, finished)
    return finished


def teach_course(policy: Policy, settings: WarmStart, course: Course) -> dict:
    rng = random.Random(f"{course.name} {settings.seed}")
    cycles = [(course.batches, settings.warmup_lr)]

    def batch_loss() -> tuple[torch.Tensor, int]:
        return drill_loss(policy, course.draw(rng), course.horizon)

    return supervise(policy, settings, course.name, cycles, batch_loss)


def drill_loss(policy: Policy, drills: Sequence[Drill], horizon: int) -> tuple[torch.Tensor, int]:
    """The loss per token of what is to be written, and the number of these tokens."""
    prompts = encode(policy, [drill.observation for drill in drills], horizon)
    most = max(len(drill.answers) for drill in drills)
    completions = []  # [P][G] ids
    to_learn = []  # [P][G] which of these tokens
    for drill in drills:
        group = []
        learnt = []
        for given, written in drill.answers:
            given_ids = policy.tokenizer(given)["input_ids"]
            ids = given_ids + policy.tokenizer(written + policy.tokenizer.eos_token)["input_ids"]
            group.append(ids)
            learnt.append(range(len(given_ids), len(ids)))
        missing = most - len(group)  # all prompts must have as many answers: these do not count
        completions.append(group + [group[0]] * missing)
        to_learn.append(learnt)
    ids, mask = pad_completions(policy, completions)
    after_layers = []
    states = completion_states(policy, prompts, ids, False, after_layers)
    logprobs = written_logprobs(policy, states, ids, mask, temperature=1.0)
    wanted = torch.zeros_like(mask)
    for p, learnt in enumerate(to_learn):
        for g, places in enumerate(learnt):
            wanted[p, g, places.start : places.stop] = True
    loss = -logprobs[wanted].sum() + inner_loss(policy, drills, completions, after_layers)
    tokens = int(wanted.sum())
    return loss / tokens, tokens


def inner_loss(
    policy: Policy,
    drills: Sequence[Drill],
    completions: Sequence[Sequence[list[int]]],
    after_layers: Sequence[torch.Tensor],
) -> torch.Tensor:
    """How far the first layers are from naming what Drill.inner says, summed over all of it.

    `after_layers`: the states after each layer, [P, G, C, hidden].
    """
    vocabulary = policy.tokenizer.get_vocab()
    loss = torch.zeros(())
    for p, drill in enumerate(drills):
        for g in range(len(drill.answers)):
            due = len(completions[p][g]) - 2  # the end token comes last
            for states, word in zip(after_layers, drill.inner, strict=False):
                named = token_logprobs(policy, states[p, g, due], temperature=1.0)
                loss = loss - named[vocabulary[word]]
    return loss


# ---- imitating -----------------------------------------------------------------------------------


def imitate(policy: Policy, settings: WarmStart) -> dict:
    """Given a state of a demonstration, write the reference for its next steps.

    One long cycle of the learning rate and two short ones.
    """
    rng = random.Random(f"warm start {settings.seed}")
    # Other random numbers for the answers: all kinds of --warmup_lessons see the same prompts.
    forms = random.Random(f"answers {settings.seed}")
    short = (settings.warmup_steps // 6 + 1, settings.warmup_lr / 4)
    cycles = [(settings.warmup_steps, settings.warmup_lr), short, short]

    def batch_loss() -> tuple[torch.Tensor, int]:
        horizon, lessons = draw_batch(settings, rng)
        return imitation_loss(policy, settings, horizon, lessons, forms)

    return supervise(policy, settings, "imitating", cycles, batch_loss)


def imitation_loss(
    policy: Policy,
    settings: WarmStart,
    horizon: int,
    lessons: Sequence[Lesson],
    forms: random.Random,
) -> tuple[torch.Tensor, int]:
    """The loss per token of a batch of lessons, and the number of tokens."""
    formed = form_answers(lessons, settings.warmup_lessons, forms)
    answers = []  # one for each prompt
    for lesson, answer in zip(lessons, formed, strict=True):
        answers.append([answer_ids(policy, answer, lesson.ahead)])
    prompts = encode(policy, [lesson.observation for lesson in lessons], horizon)
    logprobs, mask = policy.forward.completion_logprobs(policy, prompts, answers)
    return -logprobs.sum() / mask.sum(), int(mask.sum())


def answer_ids(
    policy: Policy, actions: Sequence[Action], ahead: Sequence[Action] = ()
) -> list[int]:
    """The tokens of an answer, the end among them; of a policy that thinks, its thought first.

    `ahead`: what the thought is about, as far as the reference is known, however short the forecast
    (empty: the forecast itself). Of a thought that is longer than its budget the part that is
    nearest to the answer is taught.
    """
    if not ahead:
        ahead = actions
    text = format_forecast(actions, policy.far_first) + policy.tokenizer.eos_token
    ids = policy.tokenizer(text)["input_ids"]
    if policy.thinking == 0:
        return ids
    thought = policy.tokenizer(think_back(ahead) + THOUGHT_END)["input_ids"]
    return thought[-policy.thinking :] + ids


def draw_batch(
    settings: WarmStart, rng: random.Random, own: dict[int, list[Lesson]] | None = None
) -> tuple[int, list[Lesson]]:
    """Lessons with answers of one random length, and that length.

    `own`: lessons with the model's own plans in their prompts, by the length of their forecasts;
    half of the batch is taken from them (none where the forecast is one step long).
    """
    horizon = rng.randint(1, settings.longest)
    with_own_plans = [] if own is None else own.get(horizon, [])
    lessons = []
    while len(lessons) < settings.warmup_batch:
        if with_own_plans and rng.random() < 0.5:
            lessons += rng.sample(with_own_plans, 2)
        else:
            lessons += draw_lessons(settings, rng, horizon)
    return horizon, lessons


def draw_lessons(settings: WarmStart, rng: random.Random, horizon: int) -> list[Lesson]:
    """Two states of one demonstration, each with the reference for its next `horizon` steps.

    Half of the prompts that can have a plan carry the oracle's, two in five of those a damaged one,
    so that the same base can serve runs with and without --carry_forecast; check_start looks
    whether it does. A first state and a forecast of one step leave no plan, and some are damaged
    until nothing is left: in the toy GUI a third of all prompts carry one, and none with
    --warmup_horizon 1.
    """
    record = draw_record(settings, rng)
    lessons = []
    # Where a wrong step ends an episode, a record may be one state long.
    for i in rng.sample(range(len(record)), min(2, len(record))):
        plan = ()
        if i > 0 and rng.random() < 0.5:
            plan = record[i - 1].reference[1:horizon]
            if rng.random() < 0.4:
                plan = damage(plan, settings.world, rng, horizon)
        observation = replace(record[i].observation, plan=plan)
        reference = record[i].reference
        lessons.append(Lesson(observation, reference[:horizon], ahead=reference))
    return lessons


def draw_record(settings: WarmStart, rng: random.Random) -> list[Example]:
    """A demonstration of a random training task."""
    return demonstration(
        settings.world,
        "train",
        index=rng.randrange(settings.train_tasks),
        horizon=settings.warmup_horizon,
        noise=settings.demo_noise,
        history=settings.history,
    )


# ---- imitating once more, with own plans in the prompts ------------------------------------------
# A policy that has only seen the oracle's plans trusts those in its prompt too much, and its own
# are often wrong. In a world where something must be remembered, its own are also all it has.

OWN_RECORDS = 96  # demonstrations along which plans are written, for each length of forecast


def imitate_with_own_plans(policy: Policy, settings: WarmStart) -> dict:
    """Imitate for half as many batches, with the policy's own plans in a third of the prompts.

    Half of the lessons are drawn for them, but first states and forecasts of one step have none.
    """
    rng = random.Random(f"own plans {settings.seed}")
    forms = random.Random(f"answers to own plans {settings.seed}")
    own = draw_own_lessons(policy, settings, rng)
    cycles = [(settings.warmup_steps // 2 + 1, settings.warmup_lr / 2)]

    def batch_loss() -> tuple[torch.Tensor, int]:
        horizon, lessons = draw_batch(settings, rng, own)
        return imitation_loss(policy, settings, horizon, lessons, forms)

    return supervise(policy, settings, "own plans", cycles, batch_loss)


def draw_own_lessons(
    policy: Policy, settings: WarmStart, rng: random.Random
) -> dict[int, list[Lesson]]:
    """States of demonstrations with the policy's own carried plans, for each length of forecast.

    A forecast of one step leaves no plan.
    """
    own = {}
    for horizon in tqdm(range(2, settings.longest + 1), desc="writing plans", unit="length"):
        records = [draw_record(settings, rng) for _ in range(OWN_RECORDS)]
        carried = carried_plans(policy_planner(policy, horizon), records)
        own[horizon] = []
        for record, plans in zip(records, carried, strict=True):
            for example, plan in zip(record, plans, strict=True):
                observation = replace(example.observation, plan=plan)
                reference = example.reference
                lesson = Lesson(observation, reference[:horizon], ahead=reference)
                own[horizon].append(lesson)
    return own


def carried_plans(
    planner: Planner, records: Sequence[Sequence[Example]]
) -> list[list[tuple[Action, ...]]]:
    """For each state of some demonstrations, the plan that a planner would carry into it.

    As in agent.play: what is left of its forecast in the state before, which itself had such a plan
    in its prompt. The first states have none. So whatever a later plan knows of an earlier screen
    has gone through all forecasts in between.
    """
    plans = [[()] for _ in records]
    longest = max(len(record) for record in records)
    for i in range(longest - 1):
        going_on = [n for n, record in enumerate(records) if len(record) > i + 1]
        observations = []
        for n in going_on:
            observations.append(replace(records[n][i].observation, plan=plans[n][i]))
        forecasts = planner(observations, [])  # no environments: a policy looks at observations
        for n, made in zip(going_on, forecasts, strict=True):
            plans[n].append(tuple(made.forecast[1:]))  # its first step has been executed
    return plans


# ---- is it fit? ----------------------------------------------------------------------------------

CHECK_HORIZON = 5  # of the check, at most; the warm start does not depend on --horizon
# The start cannot do a kind of action that it got right in less than HARDLY_EVER of its states, if
# these were at least ENOUGH_STATES.
ENOUGH_STATES = 10
HARDLY_EVER = 0.25


@dataclass
class Probe:
    """A held-out state, the states before it, and the plan of another task."""

    example: Example
    before: list[Example]
    other_plan: tuple[Action, ...]

    @property
    def plan(self) -> tuple[Action, ...]:
        """The oracle's, as it would have been carried here: that of the step before, without its
        first step. A first state has none before it: its own plan without the first step."""
        last = self.before[-1] if self.before else self.example
        return last.reference[1:]

    @property
    def kind(self) -> str:
        return kind_of(self.example.reference[0], self.example.observation.instruction)


def check_start(policy: Policy, settings: WarmStart, n: int = 400) -> dict:
    """Is the warm start fit to be compared with and without a carried forecast?

    The share of right first actions on n held-out states without a plan in the prompt, with the
    oracle's of one step before, and with one of another task; for all states, and for each kind of
    action (one average hid a start that could not type at all). A start that was taught with its
    own plans is also asked with one that it has carried along. It is asked for five steps, or for
    as many as it was taught to write; one step leaves no plan.
    Passed: a plan costs at most 5 points, and 90 % of the dialogs are closed with it.
    """
    horizon = min(CHECK_HORIZON, settings.longest)
    probes = draw_probes(settings, n, horizon)
    plans = {"without": [()] * n}
    if horizon > 1:
        plans["with_plan"] = [probe.plan for probe in probes]
        plans["misled"] = [probe.other_plan for probe in probes]
    if settings.warmup_own_plans:
        records = [[*probe.before, probe.example] for probe in probes]
        carried = carried_plans(policy_planner(policy, horizon), records)
        plans["own_plan"] = [along[-1] for along in carried]
    check = {"horizon": horizon}
    for name, shown in plans.items():
        check[name] = check_plans(policy, probes, shown, horizon)
    check["passed"] = has_passed(check)
    if not check["passed"]:
        warn_of(f"acts worse with a plan in its prompt, or misses dialogs: {in_words(check)}")
    cannot = kinds_missed(check["without"]["by_kind"])
    if cannot:
        warn_of(f"hardly ever gets these first actions right: {', '.join(cannot)}")
    return check


def warn_of(text: str) -> None:
    tqdm.write(f"warning: the warm start {text}", file=sys.stderr)


def has_passed(check: dict) -> bool:
    without = check["without"]["first_action"]
    for name in ("with_plan", "own_plan"):
        if name in check and check[name]["first_action"] < without - 0.05:
            return False
    dialogs = dialogs_closed(check)
    return dialogs is None or dialogs >= 0.9


def dialogs_closed(check: dict) -> float | None:
    """The share of dialogs that are closed, with a plan in the prompt if there is one; None where
    a world has none."""
    usual = check.get("with_plan", check["without"])
    dialogs = usual["by_kind"].get(CLOSE)
    return None if dialogs is None else dialogs["right"]


def in_words(check: dict) -> str:
    shares = []
    for name, part in check.items():
        if isinstance(part, dict):
            shares.append(f"{name.replace('_', ' ')} {part['first_action']:.1%}")
    text = "first action right: " + ", ".join(shares)
    dialogs = dialogs_closed(check)
    if dialogs is not None:
        text += f"; dialogs closed: {dialogs:.1%}"
    return text


def kinds_missed(by_kind: dict[str, dict]) -> list[str]:
    """The kinds that a start cannot do, such as "type (9 of 58)".

    A text that the instruction does not say is no matter of what was learnt: without a plan in the
    prompt nothing knows it.
    """
    missed = []
    for kind, row in by_kind.items():
        hardly_ever = row["n"] >= ENOUGH_STATES and row["right"] < HARDLY_EVER
        if hardly_ever and kind != TYPE_UNSAID:
            missed.append(f"{kind} ({round(row['right'] * row['n'])} of {row['n']})")
    return missed


def draw_probes(settings: WarmStart, n: int, horizon: int) -> list[Probe]:
    """A random state of each of n demonstrations on the split `dev`."""
    world = settings.world
    rng = random.Random(f"gate {settings.seed}")  # an older name of the check: same states
    probes = []
    for index in range(n):
        record = demonstration(
            world,
            "dev",
            index=index,
            horizon=horizon,
            noise=settings.demo_noise,
            history=settings.history,
        )
        another = demonstration(
            world,
            "dev",
            index=index + 1,
            horizon=horizon,
            noise=0.0,
            history=settings.history,
        )
        i = rng.randrange(len(record))
        probes.append(Probe(record[i], record[:i], another[0].reference))
    return probes


def check_plans(policy: Policy, probes: Sequence[Probe], plans: Sequence, horizon: int) -> dict:
    """Greedy forecasts with a plan in each prompt: how often the first action is right."""
    observations = []
    for probe, plan in zip(probes, plans, strict=True):
        observations.append(replace(probe.example.observation, plan=tuple(plan)))
    forecasts = policy_planner(policy, horizon)(observations, [])
    right = []
    of_kind = defaultdict(list)
    for probe, made in zip(probes, forecasts, strict=True):
        first_is_right = False
        if made.forecast:
            first_is_right = names_target(made.forecast[0], probe.example)
        right.append(first_is_right)
        of_kind[probe.kind].append(first_is_right)
    by_kind = {}
    for kind in sorted(of_kind, key=place_of_kind):
        by_kind[kind] = {"right": float(np.mean(of_kind[kind])), "n": len(of_kind[kind])}
    return {"first_action": float(np.mean(right)), "n": len(probes), "by_kind": by_kind}


def names_target(action: Action, example: Example) -> bool:
    """Whether an action says what the reference does, by either name of the element."""
    truth = example.reference[0]
    names = [label for label, box in example.elements if box in example.boxes]
    names.append(truth.text)
    for goal in example.goals[:1]:
        call, _, _ = goal.text.partition(" = ")  # a tool by its own name, without the answer
        names.append(call)
    return any(similarity(action, replace(truth, text=name)) == 1.0 for name in names)
