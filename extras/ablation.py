"""The evidence: arms that share warm starts, seeds, prompts and the number of updates, compared.

A command, `python -m extras.ablation --seeds 5 --jobs 2`: trains each arm with train.py in a
process of its own and plays it; all arms together are docs/ablation.json and docs/ablation.png.
extras/study.py does the same with arms of its own.
Changes nothing in how an arm learns or plays: an arm is flags of train.py and a way to play.

What is kept, and found again by a second call, for two arms that play with the same run (--split
dev adds "-dev" to the name of an exam):

    runs/ablate/warmup/                            the warm starts (extras/warm_start.py)
    runs/ablate/tracer1-0.log                      what train.py printed for seed 0
    runs/ablate/tracer1-0/                         its run (extras/run_folder.py)
    runs/ablate/tracer1-0/exam-tracer1.json        how the arm played, and what the run took
    runs/ablate/tracer1-0/exam-without_stage2.json
    runs/ablate/ablation.json                      what extras/ablation_shown.py makes of all exams
"""

import argparse
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import torch
from tqdm import tqdm

from agent import Policy
from benchmarks.common import parse_json
from envs import die, one_line
from eval import evaluate_policy
from extras.ablation_shown import ablation_record, ablation_table, draw_ablation, each_once
from extras.readable_json import readable_json
from extras.run_folder import changes, load_run_policy, memory_or_die, read_run, write
from extras.warm_start import WarmStart, start_folder
from extras.worlds import find_world
from train import Config, parse_config, warm_start_settings

ROOT = Path(__file__).resolve().parent.parent

# ---- the arms -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Arm:
    """A training command and a way to play. Arms with the same training share one run."""

    flags: str = ""  # of train.py; {all}: the updates of both stages, so that no arm has fewer
    updates_times: float = 1.0  # {all} is so many times as much
    start_times: float = 1.0  # its warm start has so many times as many --warmup_steps
    adapter: str | None = "adapter"  # who plays: "adapter", the end; "stage1"; None, the warm start
    choose: str = ""  # among several forecasts, see agent.policy_planner
    # Flags of train.py that are others in the exam than in training, of those that an exam reads:
    # env, horizon, history, carry_forecast, tool_agent.
    playing: str = ""
    splits: tuple[str, ...] = ()  # that it plays; empty: the ABLATION_SPLITS of its world
    most_seeds: int | None = None  # it has no more of them
    # What else is asked of the policy: (policy, config, split, tasks) -> numbers.
    probe: Callable[[Policy, dict, str, int], dict] | None = None

    @property
    def play(self) -> list:
        """How it plays, as an exam remembers it."""
        return [self.adapter, self.choose, self.playing, self.probe is not None]

    @property
    def training(self) -> tuple[str, float, float]:
        """What decides about its run; all else is how it plays."""
        return self.flags, self.updates_times, self.start_times


PART_SEEDS = 3


def part(flags: str = "", choose: str = "") -> Arm:
    """TraceR1 with one part changed: three seeds, and it plays `test` only."""
    return Arm(flags, choose=choose, splits=("test",), most_seeds=PART_SEEDS)


ARMS = {
    "warmup": Arm("--stages warmup", adapter=None),
    "reactive_text": Arm("--horizon 1 --stages warmup,stage1 --stage1_updates {all}"),
    # Sees the reward that stage 2 sees.
    "reactive_grounded": Arm("--horizon 1 --stages warmup,stage2 --stage2_updates {all}"),
    "stage1": Arm("--stages warmup,stage1 --stage1_updates {all}"),
    "stage2": Arm("--stages warmup,stage2 --stage2_updates {all}"),
    "tracer1": Arm(),
    # The same run, stopped after stage 1: fewer updates.
    "without_stage2": Arm(adapter="stage1"),
    "horizon_1": part("--horizon 1"),
    "horizon_2": part("--horizon 2"),
    "horizon_8": part("--horizon 8"),
    "no_repetition": part("--lambda_rep 0"),
    "gamma_1": part("--gamma 1"),
    "history_0": part("--history 0"),  # has its own warm start
    "credit_trajectory": part("--credit trajectory"),
    "credit_own": part("--credit own"),
    "no_std": part("--no-std_normalise"),
    "kl_0.01": part("--kl_weight 0.01"),
    "kl_0.1": part("--kl_weight 0.1"),
    "carry": part("--carry_forecast"),
    "far_first": part("--order far"),  # has its own warm start
    "choose_likelihood": part(choose="likelihood"),
    "choose_agreement": part(choose="agreement"),
}
QUICK_ARMS = ("warmup", "reactive_grounded", "tracer1", "without_stage2")
# In a world that does not stand here: `test` alone.
ABLATION_SPLITS = {
    "toy-gui": ("test", "popup", "flaky", "layout", "app"),
    "toy-tools": ("test", "flaky", "composition", "tool"),
    "toy-map": ("test", "deeper", "wider", "flaky"),
}


def run_owner(name: str, arms: Mapping[str, Arm] = ARMS) -> str:
    """The arm whose run this arm plays with: the first that is trained in the same way."""
    asked = arms[name].training
    return next(other for other, arm in arms.items() if arm.training == asked)


@dataclass(frozen=True)
class Settings:
    """What all arms of a comparison have in common."""

    root: Path  # where the runs are kept
    warmup_dir: Path  # where the warm starts are kept
    seeds: int
    jobs: int  # runs side by side
    limit: int  # tasks of each split
    split: str  # the one split to play; "": the arm's own
    flags: list[str]  # of train.py, for every arm
    stage1_updates: int
    stage2_updates: int
    arms: Mapping[str, Arm] = field(default_factory=lambda: ARMS)  # all that there are
    limits: Mapping[str, int] = field(default_factory=dict)  # of splits with a limit of their own

    @property
    def threads(self) -> int:
        """Threads of one run: the jobs share the cores."""
        cores = os.cpu_count() or 1
        return max(1, cores // self.jobs)

    @property
    def main_split(self) -> str:
        """What the ablation compares arms on, and what a probe asks about."""
        return self.split or "test"


# ---- one arm with one seed ----------------------------------------------------------------------


@dataclass(frozen=True)
class Job:
    arm: str
    seed: int


def folder_of(job: Job, settings: Settings) -> Path:
    return settings.root / f"{run_owner(job.arm, settings.arms)}-{job.seed}"


def exam_file(job: Job, settings: Settings) -> Path:
    suffix = f"-{settings.split}" if settings.split else ""
    return folder_of(job, settings) / f"exam-{job.arm}{suffix}.json"


def run_arm(job: Job, settings: Settings) -> dict:
    """Train one arm with one seed and play its splits; returns what exam-ARM.json says.

    Raises ValueError for a folder that was made with other settings, or where training failed.
    """
    arm = settings.arms[job.arm]
    folder = folder_of(job, settings)
    train_arm(job, settings)
    exam = {
        "arm": job.arm,
        "seed": job.seed,
        "commit": commit(),
        "flags": training_flags(arm, settings),
        "play": arm.play,
    }
    exam |= play_arm(job, settings)
    exam["minutes"] = training_seconds(folder, arm) / 60
    exam["run_minutes"] = sum(seconds_of(folder).values()) / 60
    exam["sampled_tokens"] = sampled_tokens(folder, arm)
    exam["start"] = read_start(folder)
    write(exam_file(job, settings), readable_json(exam))
    return exam


def training_flags(arm: Arm, settings: Settings) -> list[str]:
    """The common flags, then the arm's, which has the last word; updates where it names none.

    They stand in each exam, and tell whether a finished one is what is asked for.
    """
    updates = settings.stage1_updates + settings.stage2_updates
    own = arm.flags.format(all=round(updates * arm.updates_times))
    flags = [*settings.flags, *own.split()]
    if "--stage1_updates" not in flags:
        flags += ["--stage1_updates", str(settings.stage1_updates)]
    if "--stage2_updates" not in flags:
        flags += ["--stage2_updates", str(settings.stage2_updates)]
    if arm.start_times != 1.0:
        steps = parse_config(flags).warmup_steps
        flags += ["--warmup_steps", str(round(steps * arm.start_times))]
    return flags


def training_arguments(job: Job, settings: Settings) -> list[str]:
    """The whole command line of train.py."""
    return [
        *("--output_dir", str(folder_of(job, settings))),
        *("--seed", str(job.seed)),
        *("--threads", str(settings.threads)),
        *("--warmup_dir", str(settings.warmup_dir)),
        # train.py's own exams are short and on dev: what is compared is played by play_arm.
        *("--eval_split", "dev"),
        *("--eval_tasks", "20"),
        "--no-control",  # of the arms, some are controls
        *training_flags(settings.arms[job.arm], settings),
    ]


def finished_exam(job: Job, settings: Settings) -> dict | None:
    """What an earlier call has left of a job; None: there is something to do.

    Raises ValueError for what was made with other settings.
    """
    file = exam_file(job, settings)
    folder = folder_of(job, settings)
    if (folder / "config.json").exists():
        check_same_settings(folder, parse_config(training_arguments(job, settings)))
    if file.exists():
        return read_exam(file, settings.arms[job.arm], settings)
    return None


def read_exam(file: Path, arm: Arm, settings: Settings) -> dict:
    flags = training_flags(arm, settings)
    asked = tasks_to_play(arm, settings)
    exam = read_json(file)
    if isinstance(exam, dict) and exam.get("flags") == flags and tasks_played(exam) == asked:
        if exam.get("play", arm.play) == arm.play:  # older exams do not say how they were played
            return exam
        raise ValueError(f"{file} was played in another way: delete it, and it is played again")
    played = ", ".join(f"{n} tasks of {split}" for split, n in asked.items())
    raise ValueError(
        f"{file} was made with other settings than {' '.join(flags)} and {played}: "
        "use another --output_dir"
    )


def read_json(file: Path) -> dict:
    """Raises ValueError, which names the file, for what is no JSON."""
    return parse_json(file.read_text(), str(file))


def tasks_to_play(arm: Arm, settings: Settings) -> dict[str, int]:
    """Split -> number of tasks."""
    if settings.split:
        splits = (settings.split,)
    elif arm.splits:
        splits = arm.splits
    else:
        env = parse_config(training_flags(arm, settings)).env
        world, _, _dial = env.partition(":")
        splits = ABLATION_SPLITS.get(world, ("test",))
    return {split: settings.limits.get(split, settings.limit) for split in splits}


def tasks_played(exam: dict) -> dict[str, int]:
    return {split: metrics.get("n") for split, metrics in exam.get("split", {}).items()}


def train_arm(job: Job, settings: Settings) -> None:
    """Train in a process of its own; a finished run stays as it is, a stopped one goes on."""
    folder = folder_of(job, settings)
    arguments = training_arguments(job, settings)
    begun = (folder / "config.json").exists()
    if begun:
        check_same_settings(folder, parse_config(arguments))
    if (folder / "adapter").exists():
        return
    if begun:
        arguments.append("--resume")
    with open(settings.root / f"{folder.name}.log", "a") as log:
        command = [sys.executable, str(ROOT / "train.py"), *arguments]
        status = subprocess.run(command, stdout=log, stderr=log).returncode
    if status != 0:
        raise ValueError(f"training of {folder} failed; the reason is at the end of {log.name}")


def check_same_settings(folder: Path, config: Config) -> None:
    file = folder / "config.json"
    before = read_json(file)
    now = asdict(config)
    if (folder / "adapter").exists():
        # Finished, and maybe before there were all of these flags: at their defaults they ask for
        # what it did.
        now = {n: value for n, value in now.items() if n in before or value != getattr(Config, n)}
    free = ("output_dir", "warmup_dir", "threads", "resume")  # no result but for rounding
    changed = changes(before, now, free)
    if changed:
        raise ValueError(
            f"{folder} was made with other settings ({changed}): use another --output_dir"
        )


def play_arm(job: Job, settings: Settings) -> dict:
    """The metrics of each split that the arm plays, the minutes that it took, and its probe."""
    torch.set_num_threads(settings.threads)
    arm = settings.arms[job.arm]
    folder = folder_of(job, settings)
    config = read_run(folder)
    start = time.monotonic()
    policy = load_run_policy(folder, config, arm.adapter)
    config |= flags_named(arm.playing)
    played = {}
    for split, n in tasks_to_play(arm, settings).items():
        played[split], _ = evaluate_policy(
            policy, config, split, n, choose=arm.choose, seed=job.seed
        )
    exam = {"split": played, "exam_minutes": (time.monotonic() - start) / 60}
    if arm.probe is not None:
        exam["probe"] = arm.probe(policy, config, settings.main_split, settings.limit)
    return exam


def flags_named(flags: str) -> dict:
    """The values of the flags that are named, also of those that are switched off.

    >>> flags_named("--no-carry_forecast --horizon 2")
    {'horizon': 2, 'carry_forecast': False}
    """
    words = flags.split()
    names = names_of(words)
    config = asdict(parse_config(words))
    return {name: value for name, value in config.items() if f"--{name}" in names}


def read_start(folder: Path) -> dict:
    """What its warm start took, lesson by lesson, and how it did in its check; empty for a hub
    model."""
    file = Path(read_run(folder)["base"]) / "warmup.json"
    if not file.exists():
        return {}
    learnt = json.loads(file.read_text())
    return {"lessons": learnt["lessons"], "check": learnt["check"]}


def stages_of(arm: Arm) -> tuple[str, ...]:
    """The stages that made what plays; a run need not have all of them."""
    if arm.adapter is None:
        return ()
    if arm.adapter == "stage1":
        return ("stage1",)
    return ("stage1", "stage2")


def training_seconds(folder: Path, arm: Arm) -> float:
    seconds = seconds_of(folder)
    return sum(seconds.get(stage, 0) for stage in stages_of(arm))


def seconds_of(folder: Path) -> dict[str, float]:
    """Of each part of a run, the warm start among them if this run made it."""
    return json.loads((folder / "results.json").read_text())["seconds"]


def sampled_tokens(folder: Path, arm: Arm) -> int:
    """In all updates that made what plays."""
    log = folder / "metrics.jsonl"
    if not log.exists():
        return 0
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    return sum(line["tokens"] for line in lines if line["stage"] in stages_of(arm))


def commit() -> str:
    """The commit of this code; empty without git."""
    command = ["git", "rev-parse", "--short", "HEAD"]
    try:
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True).stdout.strip()
    except OSError:
        return ""


# ---- all arms with all seeds --------------------------------------------------------------------


def ablate(arms: Sequence[str], settings: Settings) -> dict:
    """All arms with all their seeds; returns the record of docs/ablation.json."""
    for done in run_all(["warmup", *arms], settings):
        exams = done  # at last those of all arms
    return ablation_record(exams, settings.seeds, settings.flags, settings.main_split)


def run_all(
    arms: Sequence[str], settings: Settings, beside: Collection[str] = ()
) -> Iterator[dict[str, list[dict]]]:
    """Do what is not finished yet. Yields the exams of each arm, a seed each: first those of
    earlier calls, then again after each run.

    `beside`: arms that are not run, but whose exams of earlier calls are told of as well.
    Raises ValueError for what was made with other settings, before anything is run.
    """
    settings.root.mkdir(parents=True, exist_ok=True)
    jobs = list_jobs(arms, settings)
    finished = {}
    for job in jobs | list_jobs(beside, settings):
        exam = finished_exam(job, settings)
        if exam is not None:
            finished[job] = exam
    yield by_arm(finished, settings)
    if any(job not in finished for job in jobs):
        tell_of_other_starts(finished, settings)
    done_before = sum(job in finished for job in jobs)
    with tqdm(total=len(jobs), initial=done_before, unit="run") as bar:
        for job, exam in run_jobs(jobs, finished, settings):
            finished[job] = exam
            bar.update()
            report(job, exam, bar)
            yield by_arm(finished, settings)


def tell_of_other_starts(finished: Iterable[Job], settings: Settings) -> None:
    """A line where arms will be compared that do not stand on the same warm start, because the code
    or the machine has changed since some of them were trained."""
    others = set()
    for job in finished:
        folder = folder_of(job, settings)
        config = parse_config(training_arguments(job, settings))
        if config.model or not (folder / "config.json").exists():
            continue  # it has no warm start, or its exam alone was kept
        base = Path(read_json(folder / "config.json").get("base", ""))
        if base.name != start_folder(warm_start_settings(config), settings.warmup_dir).name:
            others.add(folder.name)
    if others:
        tqdm.write(
            "what is trained now stands on other warm starts than these finished runs, which other "
            f"code or another machine made: {', '.join(sorted(others))}"
        )


def list_jobs(arms: Iterable[str], settings: Settings) -> dict[Job, Job | None]:
    """What is to be done, in order, and for each job the one that has to be finished before.

    No two jobs may write the same run or warm start: those that play with another arm's run wait
    for that arm, and all others for the first one with the same warm start. (Two warm starts that
    begin with the same lessons may both teach them; the one that ends later is thrown away.)
    """
    with_owners = each_once((run_owner(arm, settings.arms), arm) for arm in arms)
    jobs = {}
    for seed in range(settings.seeds):
        makers: dict[WarmStart, Job] = {}  # of the warm starts
        for name in with_owners:
            most = settings.arms[name].most_seeds
            if most is not None and seed >= most:
                continue
            job = Job(name, seed)
            owner = Job(run_owner(name, settings.arms), seed)
            if owner != job:
                if owner in jobs:  # an owner may have fewer seeds
                    jobs[job] = owner
                continue
            start = warm_start_settings(parse_config(training_arguments(job, settings)))
            maker = makers.setdefault(start, job)
            if maker != job:
                jobs[job] = maker
            else:
                jobs[job] = None
    return jobs


def run_jobs(
    jobs: Mapping[Job, Job | None], finished: Collection[Job], settings: Settings
) -> Iterator[tuple[Job, dict]]:
    """Do the jobs that are not finished, `settings.jobs` at a time; yields each with its exam.

    After the first error no other is begun; those that run are waited for.
    """
    finished = set(finished)
    waiting = [job for job in jobs if job not in finished]
    running: dict[Future, Job] = {}
    with make_pool(settings.jobs) as pool:
        while waiting or running:
            # No more than can run: what becomes ready later may stand earlier in the order.
            free = settings.jobs - len(running)
            for job in ready_jobs(waiting, jobs, finished)[:free]:
                waiting.remove(job)
                running[pool.submit(run_arm, job, settings)] = job
            try:
                future = next(as_completed(running))  # waits for the first that ends
                job = running.pop(future)
                exam = future.result()
            except BaseException:  # SystemExit of a worker included
                pool.shutdown(cancel_futures=True)
                raise
            finished.add(job)
            yield job, exam


def make_pool(jobs: int) -> ProcessPoolExecutor:
    """Workers that Ctrl-C ends without a stack trace."""
    return ProcessPoolExecutor(
        jobs,
        multiprocessing.get_context("spawn"),
        initializer=signal.signal,
        initargs=(signal.SIGINT, signal.SIG_DFL),
    )


def ready_jobs(
    waiting: Sequence[Job], jobs: Mapping[Job, Job | None], finished: Collection[Job]
) -> list[Job]:
    return [job for job in waiting if jobs[job] is None or jobs[job] in finished]


def by_arm(exams: Mapping[Job, dict], settings: Settings) -> dict[str, list[dict]]:
    """The exams of each arm from seed 0 on, up to the first that is missing.

    A seed counts once those before it are there: pairs of arms need the same seeds.
    """
    exams_of = {}
    for name in settings.arms:
        runs = []
        while Job(name, len(runs)) in exams:
            runs.append(exams[Job(name, len(runs))])
        if runs:
            exams_of[name] = runs
    return exams_of


def report(job: Job, exam: dict, bar: tqdm) -> None:
    """A line for a person: the success of what has just ended, and how long the others take."""
    split, metrics = next(iter(exam["split"].items()))
    left = bar.total - bar.n
    done_now = bar.n - bar.initial
    hours = bar.format_dict["elapsed"] / done_now * left / 3600
    tqdm.write(
        f"{job.arm:18} seed {job.seed}: success on {split} {metrics['success']:.1%}; "
        f"{left} runs left, about {hours:.1f} hours"
    )


# ---- command line -------------------------------------------------------------------------------


def parse_arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m extras.ablation",
        allow_abbrev=False,  # --seed is no short form of --seeds
        description="Train and compare arms on a toy world; all of them together make "
        "docs/ablation.json and docs/ablation.png.",
    )
    what = parser.add_argument_group("what is compared")
    what.add_argument(
        "--arms", default="", help=f"joined by commas; default: all of {', '.join(ARMS)}"
    )
    what.add_argument(
        "--seeds",
        type=int,
        help=f"seeds 0 .. seeds-1; default 5 (2 with --quick); at most {PART_SEEDS} for arms that "
        "change a part",
    )
    what.add_argument(
        "--flags",
        default="",
        help='more flags of train.py for every arm, such as "--learning_rate 5e-4"',
    )
    what.add_argument(
        "--quick",
        action="store_true",
        help="a first answer in minutes: four arms, short runs, fewer seeds and tasks",
    )
    how = parser.add_argument_group("how it is played and kept")
    how.add_argument(
        "--limit", type=int, help="number of tasks of each split; default 300 (100 with --quick)"
    )
    how.add_argument(
        "--split", default="", help="this split only, `dev` to choose settings; default: all"
    )
    how.add_argument("--jobs", type=int, default=1, help="runs side by side, sharing the cores")
    how.add_argument("--output_dir", default="runs/ablate", help="where the runs are kept")
    how.add_argument("--json", help="write the numbers to this file, and the picture beside it")
    args = parser.parse_args(argv)
    if args.seeds is None:
        args.seeds = 2 if args.quick else 5
    if args.limit is None:
        args.limit = 100 if args.quick else 300
    return args


@memory_or_die()
def main(argv: list[str] | None = None) -> None:
    args = parse_arguments(argv)
    arms = choose_arms(args, ARMS, QUICK_ARMS)
    settings = make_settings(args)
    with runs_or_die():
        record = ablate(arms, settings)
        print(ablation_table(record))
        file = record_file(args, settings)
        file.parent.mkdir(parents=True, exist_ok=True)
        # A single seed has no interval, and JSON has no NaN.
        write(file, json.dumps(record, indent=1).replace("NaN", "null"))
        picture = file.with_suffix(".png")
        draw_ablation(record, picture)
        print(f"numbers: {file}; picture: {picture}")


@contextmanager
def runs_or_die() -> Iterator[None]:
    """What ends a comparison ends with one line, and finished runs stay."""
    try:
        yield
    except (ValueError, OSError) as error:
        die(one_line(str(error)))
    except (KeyboardInterrupt, BrokenProcessPool):  # Ctrl-C, or a lack of memory, ended a worker
        die("interrupted; finished runs are kept, and the same command goes on with the others")


def choose_arms(
    args: argparse.Namespace, arms: Collection[str], quick_arms: Sequence[str]
) -> Sequence[str]:
    """What --arms names; if it names none, those of --quick, or all. A wrong name ends with one
    line."""
    named = [arm for arm in args.arms.split(",") if arm]
    unknown = set(named) - set(arms)
    if unknown:
        die(f"--arms: unknown arm {', '.join(sorted(unknown))}; choose from {', '.join(arms)}")
    if named:
        return named
    if args.quick:
        return quick_arms
    return tuple(arms)


# What the comparison decides itself.
TAKEN = {
    "--seed",
    "--output_dir",
    "--warmup_dir",
    "--threads",
    "--stages",
    "--resume",
    "--eval_split",
    "--control",
}


def make_settings(args: argparse.Namespace) -> Settings:
    """The settings of the command line; what cannot work ends with one line and exit code 2."""
    check_counts(args)
    flags = args.flags.split()
    names = names_of(flags)
    refuse_taken(names)
    if "--env" not in names:
        flags = ["--env", "toy-gui", *flags]
    config = parse_config(flags)
    splits = find_world(config.env).splits
    if args.split and args.split not in splits:
        die(f"--split {args.split}: choose one of {', '.join(splits)}")
    settings = Settings(
        root=Path(args.output_dir),
        warmup_dir=Path(args.output_dir) / "warmup",
        seeds=args.seeds,
        jobs=args.jobs,
        limit=args.limit,
        split=args.split,
        flags=flags,
        stage1_updates=config.stage1_updates,
        stage2_updates=config.stage2_updates,
    )
    if args.quick:
        return shorten(settings, names, config.warmup_steps)
    return settings


def check_counts(args: argparse.Namespace) -> None:
    for name in ("seeds", "jobs", "limit"):
        number = getattr(args, name)
        if number is not None and number < 1:  # None: the comparison's own
            die(f"--{name} {number}: must be at least 1")


def names_of(flags: Sequence[str]) -> set[str]:
    """The flags among the words of a command line; a negated one by its own name.

    >>> sorted(names_of(["--seed", "3", "--gamma=1", "--no-carry_forecast"]))
    ['--carry_forecast', '--gamma', '--seed']
    """
    names = set()
    for word in flags:
        if word.startswith("--"):
            name, _, _value = word.partition("=")
            names.add(name.replace("--no-", "--"))
    return names


def refuse_taken(names: Collection[str]) -> None:
    """One line for a flag in --flags that the comparison sets itself."""
    taken = TAKEN.intersection(names)
    if taken:
        die(f"--flags: {', '.join(sorted(taken))} is what the comparison sets itself")


def shorten(settings: Settings, named: set[str], warmup_steps: int) -> Settings:
    """--quick: a warm start of 600 batches, or as few as the world has anyway, and a fifth of the
    updates; a flag that names these has the last word."""
    root = Path(f"{settings.root}-quick")
    short = replace(settings, root=root, warmup_dir=root / "warmup")
    if "--model" not in named:  # which has no warm start
        steps = str(min(600, warmup_steps))
        short = replace(short, flags=["--warmup_steps", steps, *settings.flags])
    if named & {"--stage1_updates", "--stage2_updates"}:
        return short
    return replace(short, stage1_updates=60, stage2_updates=40)


def record_file(args: argparse.Namespace, settings: Settings) -> Path:
    """Where the record goes: the whole comparison into docs/, any other beside its runs."""
    if args.json:
        return Path(args.json)
    changed = args.quick or args.arms or args.flags or args.split
    if changed or args.seeds < 5 or args.limit < 300:
        return settings.root / "ablation.json"
    return Path("docs") / "ablation.json"


if __name__ == "__main__":
    main()
