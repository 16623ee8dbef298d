"""The evidence: arms that share warm starts, seeds, prompts and the number of updates, compared.

A command, `python -m extras.ablation --seeds 5 --jobs 2`: trains each arm with train.py in a
process of its own and plays it; all arms together are docs/ablation.json and docs/ablation.png.
Changes nothing in how an arm learns or plays: an arm is flags of train.py and a way to play.
"""

import argparse
import json
import math
import multiprocessing
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from benchmarks.common import parse_json
from envs import die, one_line
from eval import evaluate_policy
from extras.run_folder import changes, load_run_policy, memory_or_die, read_run, write
from extras.worlds import find_world
from train import Config, parse_config

ROOT = Path(__file__).resolve().parent.parent

# ---- the arms -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Arm:
    """A training command and a way to play. Arms with the same flags share one run."""

    flags: str = ""  # of train.py; {all}: the updates of both stages, so that no arm has fewer
    adapter: str | None = "adapter"  # who plays: "adapter", the end; "stage1"; None, the warm start
    choose: str = ""  # among several forecasts, see agent.policy_planner


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
    "horizon_1": Arm("--horizon 1"),
    "horizon_2": Arm("--horizon 2"),
    "horizon_8": Arm("--horizon 8"),
    "no_repetition": Arm("--lambda_rep 0"),
    "gamma_1": Arm("--gamma 1"),
    "history_0": Arm("--history 0"),  # has its own warm start
    "credit_trajectory": Arm("--credit trajectory"),
    "credit_own": Arm("--credit own"),
    "no_std": Arm("--no-std_normalise"),
    "kl_0.01": Arm("--kl_weight 0.01"),
    "kl_0.1": Arm("--kl_weight 0.1"),
    "carry": Arm("--carry_forecast"),
    "far_first": Arm("--order far"),  # has its own warm start
    "choose_likelihood": Arm(choose="likelihood"),
    "choose_agreement": Arm(choose="agreement"),
}
MAIN_ARMS = (
    "warmup",
    "reactive_text",
    "reactive_grounded",
    "stage1",
    "stage2",
    "tracer1",
    "without_stage2",
)
PART_SEEDS = 3  # of the other arms, each of which changes a part; they play `test` only
QUICK_ARMS = ("warmup", "reactive_grounded", "tracer1", "without_stage2")
ABLATION_SPLITS = {
    "toy-gui": ("test", "popup", "flaky", "layout", "app"),
    "toy-tools": ("test", "flaky", "composition", "tool"),
}
DISTURBED = {"popup", "flaky", "layout"}  # splits that ask how robust a policy is


def run_owner(name: str) -> str:
    """The arm whose run this arm plays with: the first that has the same flags."""
    same_flags = [other for other, arm in ARMS.items() if arm.flags == ARMS[name].flags]
    return same_flags[0]


@dataclass(frozen=True)
class Settings:
    """What all arms of a comparison have in common."""

    root: Path  # where the runs are kept
    seeds: int
    jobs: int  # runs side by side
    limit: int  # tasks of each split
    split: str  # the one split to play; "": the arm's own
    flags: list[str]  # of train.py, for every arm
    stage1_updates: int
    stage2_updates: int

    @property
    def threads(self) -> int:
        """Threads of one run: the jobs share the cores."""
        cores = os.cpu_count() or 1
        return max(1, cores // self.jobs)

    @property
    def main_split(self) -> str:
        return self.split or "test"


# ---- one arm with one seed ----------------------------------------------------------------------


@dataclass(frozen=True)
class Job:
    arm: str
    seed: int


def run_arm(job: Job, settings: Settings) -> dict:
    """Train one arm with one seed and play its splits, unless that was done before.

    Returns what exam-ARM.json says. Raises ValueError for a folder that was made with other
    settings, or where training failed.
    """
    folder = settings.root / f"{run_owner(job.arm)}-{job.seed}"
    flags = training_flags(ARMS[job.arm], settings)
    suffix = f"-{settings.split}" if settings.split else ""
    file = folder / f"exam-{job.arm}{suffix}.json"
    if file.exists():
        return read_exam(file, flags, settings.limit)
    train_arm(folder, job.seed, flags, settings)
    metrics, seconds = play_arm(folder, job, settings)
    exam = {
        "arm": job.arm,
        "seed": job.seed,
        "commit": commit(),
        "flags": flags,
        "limit": settings.limit,
        "split": metrics,
        "minutes": training_seconds(folder, ARMS[job.arm]) / 60,
        "exam_minutes": seconds / 60,
        "sampled_tokens": sampled_tokens(folder, ARMS[job.arm]),
    }
    write(file, json.dumps(exam, indent=1))
    return exam


def training_flags(arm: Arm, settings: Settings) -> list[str]:
    """The common flags, then the arm's, which has the last word; updates where it names none."""
    both = settings.stage1_updates + settings.stage2_updates
    flags = [*settings.flags, *arm.flags.format(all=both).split()]
    if "--stage1_updates" not in flags:
        flags += ["--stage1_updates", str(settings.stage1_updates)]
    if "--stage2_updates" not in flags:
        flags += ["--stage2_updates", str(settings.stage2_updates)]
    return flags


def read_exam(file: Path, flags: list[str], limit: int) -> dict:
    exam = parse_json(file.read_text(), str(file))
    if isinstance(exam, dict) and exam.get("flags") == flags and exam.get("limit") == limit:
        return exam
    raise ValueError(
        f"{file} was made with other settings than {' '.join(flags)} --limit {limit}: "
        "use another --output_dir"
    )


def train_arm(folder: Path, seed: int, flags: list[str], settings: Settings) -> None:
    """Train in a process of its own; a finished run stays as it is, a stopped one goes on."""
    arguments = [
        *("--output_dir", str(folder)),
        *("--seed", str(seed)),
        *("--threads", str(settings.threads)),
        *("--warmup_dir", str(settings.root / "warmup")),
        # train.py's own exams are short and on dev: what is compared is played by play_arm.
        *("--eval_split", "dev"),
        *("--eval_tasks", "20"),
        *flags,
    ]
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
    before = parse_json(file.read_text(), str(file))
    free = ("output_dir", "warmup_dir", "threads", "resume")  # these change no result
    changed = changes(before, asdict(config), free)
    if changed:
        raise ValueError(
            f"{folder} was made with other settings ({changed}): use another --output_dir"
        )


def play_arm(folder: Path, job: Job, settings: Settings) -> tuple[dict[str, dict], float]:
    """Metrics of each split that the arm plays, and the seconds that it took."""
    torch.set_num_threads(settings.threads)
    arm = ARMS[job.arm]
    config = read_run(folder)
    start = time.monotonic()
    policy = load_run_policy(folder, config, arm.adapter)
    metrics = {}
    for split in splits_of(job.arm, config["env"], settings):
        metrics[split], _ = evaluate_policy(
            policy, config, split, settings.limit, choose=arm.choose, seed=job.seed
        )
    return metrics, time.monotonic() - start


def splits_of(arm: str, world: str, settings: Settings) -> Sequence[str]:
    if settings.split:
        return [settings.split]
    if arm in MAIN_ARMS:
        return ABLATION_SPLITS[world]
    return ["test"]


def stages_of(arm: Arm) -> tuple[str, ...]:
    """The stages that made what plays; a run need not have all of them."""
    if arm.adapter == "stage1":
        return ("stage1",)
    return ("stage1", "stage2")


def training_seconds(folder: Path, arm: Arm) -> float:
    seconds = json.loads((folder / "results.json").read_text())["seconds"]
    return sum(seconds.get(stage, 0) for stage in stages_of(arm))


def sampled_tokens(folder: Path, arm: Arm) -> int:
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
    """All arms with seeds 0 .. seeds-1 (PART_SEEDS at most for those that are not main ones).

    A finished run is not run again. Returns the record of docs/ablation.json.
    """
    settings.root.mkdir(parents=True, exist_ok=True)
    exams = run_jobs(list_jobs(arms, settings.seeds), settings)
    exams_of = {}
    for arm in ARMS:
        done = [exams[Job(arm, seed)] for seed in range(settings.seeds) if Job(arm, seed) in exams]
        if done:
            exams_of[arm] = done
    return ablation_record(exams_of, settings.seeds, settings.flags, settings.main_split)


def list_jobs(arms: Sequence[str], seeds: int) -> dict[Job, Job | None]:
    """What is to be done, in order, and for each job the one that has to be finished before.

    No two jobs may train the same thing: all wait for the warm start of their seed, and those that
    play with another arm's run wait for that arm.
    """
    owners = [run_owner(arm) for arm in arms]
    jobs = {}
    for seed in range(seeds):
        for arm in dict.fromkeys(["warmup", *owners, *arms]):  # each once, in this order
            if arm not in MAIN_ARMS and seed >= PART_SEEDS:
                continue
            owner = run_owner(arm)
            if arm == "warmup":
                jobs[Job(arm, seed)] = None
            elif owner != arm:
                jobs[Job(arm, seed)] = Job(owner, seed)
            else:
                jobs[Job(arm, seed)] = Job("warmup", seed)
    return jobs


def run_jobs(jobs: dict[Job, Job | None], settings: Settings) -> dict[Job, dict]:
    """Do all jobs, `settings.jobs` at a time; the first error ends them all."""
    waiting = dict(jobs)
    running: dict[Future, Job] = {}
    exams: dict[Job, dict] = {}
    with make_pool(settings.jobs) as pool, tqdm(total=len(jobs), unit="run") as bar:
        while waiting or running:
            for job in ready_jobs(waiting, exams):
                del waiting[job]
                running[pool.submit(run_arm, job, settings)] = job
            try:
                future = next(as_completed(running))  # waits for the first that ends
                job = running.pop(future)
                exams[job] = future.result()
            except BaseException:  # SystemExit of a worker included
                pool.shutdown(cancel_futures=True)
                raise
            report(job, exams[job])
            bar.update()
    return exams


def make_pool(jobs: int) -> ProcessPoolExecutor:
    """Workers that Ctrl-C ends without a stack trace."""
    return ProcessPoolExecutor(
        jobs,
        multiprocessing.get_context("spawn"),
        initializer=signal.signal,
        initargs=(signal.SIGINT, signal.SIG_DFL),
    )


def ready_jobs(waiting: dict[Job, Job | None], exams: dict[Job, dict]) -> list[Job]:
    return [job for job, first in waiting.items() if first is None or first in exams]


def report(job: Job, exam: dict) -> None:
    split, metrics = next(iter(exam["split"].items()))
    success = metrics["success"]
    tqdm.write(f"{job.arm:18} seed {job.seed}: success on {split} {success:.1%}")


# ---- what the numbers say -----------------------------------------------------------------------

# Student's t, two-sided 95 %, for 1 to 9 degrees of freedom; with more the last one is used, which
# makes an interval a little too wide.
T_95 = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262)


def interval(values: Sequence[float]) -> tuple[float, float]:
    """Mean and half width of its 95 % interval by Student's t (nan for a single value).

    >>> [round(x, 3) for x in interval([1.0, 2.0, 3.0])]
    [2.0, 2.484]
    """
    n = len(values)
    mean = float(np.mean(values))
    if n < 2:
        return mean, math.nan
    t = T_95[min(n - 2, len(T_95) - 1)]
    return mean, t * float(np.std(values, ddof=1)) / math.sqrt(n)


def spread(values: Sequence[float]) -> dict:
    mean, half = interval(values)
    return {"mean": mean, "ci95": [mean - half, mean + half]}


def ablation_record(
    exams: dict[str, list[dict]], seeds: int, common_flags: list[str], split: str = "test"
) -> dict:
    """docs/ablation.json from the exams of each arm, a seed each.

    Per arm one number a seed; paired differences on `split` over the seeds in common, with the 95 %
    interval by Student's t; `gain`: relative, of TraceR1 over the better reactive arm of each seed.
    """
    arms = {arm: arm_record(runs, split) for arm, runs in exams.items()}
    success = {arm: record["split"][split]["success"] for arm, record in arms.items()}
    record = {
        "arms": arms,
        "seeds": list(range(seeds)),
        "command": shlex.join(["python", "-m", "extras.ablation", *sys.argv[1:]]),
        "common_flags": common_flags,
        "commit": commits(exams),
        "pairs": pairs(success),
    }
    if {"tracer1", "reactive_text", "reactive_grounded"} <= set(arms):
        record["gain"] = spread(gains(success))
    return record


def arm_record(runs: list[dict], split: str) -> dict:
    """The numbers of one arm, each a list over the seeds.

    stability and accuracy_at_k: planning stability. robustness: see there. generalisation: the
    other splits themselves (app; composition, tool). per_1000_tokens, per_minute: tasks solved on
    `split` per 1,000 tokens written there, and on all splits per minute of playing them.
    """
    metrics = [run["split"][split] for run in runs]
    record = {"split": {}}
    for name in runs[0]["split"]:
        success = [run["split"][name]["success"] for run in runs]
        record["split"][name] = {"success": success, "n": runs[0]["limit"]}
    for name in ("stability", "repeat", "failed", "accuracy_at_k", "tokens_per_episode"):
        record[name] = [row[name] for row in metrics]
    record["robustness"] = [robustness(run, split) for run in runs]
    record["per_1000_tokens"] = [per_1000_tokens(row) for row in metrics]
    record["per_minute"] = [per_minute(run) for run in runs]
    for name in ("minutes", "exam_minutes", "sampled_tokens", "commit"):
        record[name] = [run.get(name) for run in runs]
    record["flags"] = " ".join(runs[0]["flags"])
    return record


def robustness(run: dict, split: str) -> float | None:
    """Mean success on the disturbed splits over success on `split`; None: they were not played."""
    disturbed = []
    for name, row in run["split"].items():
        if name in DISTURBED:
            disturbed.append(row["success"])
    if not disturbed:
        return None
    mean = sum(disturbed) / len(disturbed)
    return mean / max(run["split"][split]["success"], 1e-9)


def per_1000_tokens(metrics: dict) -> float:
    return 1000 * metrics["success"] / max(metrics["tokens_per_episode"], 1e-9)


def per_minute(run: dict) -> float:
    rates = sum(row["success"] for row in run["split"].values())
    return run["limit"] * rates / run["exam_minutes"]


def commits(exams: dict[str, list[dict]]) -> str:
    """All commits that made the exams, in the order in which they appear."""
    seen = {}
    for runs in exams.values():
        for run in runs:
            if "commit" in run:
                seen[run["commit"]] = True
    return ", ".join(seen)


def pairs(success: dict[str, list[float]]) -> dict[str, dict]:
    """TraceR1 and stage 1 minus each other arm, seed by seed; a seed needs both of a pair."""
    differences = {}
    for one in ("tracer1", "stage1"):
        for other in success:
            if one in success and one != other:
                both = zip(success[one], success[other], strict=False)
                differences[f"{one}-{other}"] = spread([mine - theirs for mine, theirs in both])
    return differences


def gains(success: dict[str, list[float]]) -> list[float]:
    better = map(max, success["reactive_text"], success["reactive_grounded"])
    both = zip(success["tracer1"], better, strict=True)
    return [mine / max(theirs, 1e-9) - 1 for mine, theirs in both]


# ---- the table ----------------------------------------------------------------------------------


def ablation_table(record: dict) -> str:
    """One row an arm: success on the first split, the others that it plays, and what it cost."""
    played = [list(arm["split"]) for arm in record["arms"].values()]
    splits = max(played, key=len)
    rows = [table_header(splits)]
    for arm in record["arms"]:
        rows.append(table_row(arm, record, splits))
    if "gain" in record:
        gain = record["gain"]
        half = gain["ci95"][1] - gain["mean"]
        uncertain = "" if math.isnan(half) else f" +- {half:.1%}"
        text = f"{gain['mean']:+.1%}{uncertain}"
        rows.append(f"TraceR1 over the better reactive arm of each seed: {text}")
    return "\n".join(rows)


def table_header(splits: Sequence[str]) -> str:
    first, *others = splits
    cells = [f"{'arm (seeds)':22}", f"{first:>12}", f"{'TraceR1 minus it':>17}"]
    cells += [f"{split[:7]:>7}" for split in others]
    cells += [f"{name:>7}" for name in ("stable", "repeat", "failed", "tokens", "per 1k")]
    cells.append(f"{'minutes':>8}")
    return " ".join(cells)


def table_row(name: str, record: dict, splits: Sequence[str]) -> str:
    arm = record["arms"][name]
    first, *others = splits
    label = f"{name} ({len(arm['minutes'])})"
    mean, half = interval(arm["split"][first]["success"])
    on_first = plus_minus(f"{100 * mean:.1f}", 100 * half)
    cells = [f"{label:22}", f"{on_first:>12}", f"{against_tracer1(name, record):>17}"]
    for split in others:
        success = arm["split"][split]["success"] if split in arm["split"] else None
        cells.append(mean_cell(success, "7.1%"))
    cells += [
        mean_cell(arm["stability"], "7.1%"),
        mean_cell(arm["repeat"], "7.1%"),
        mean_cell(arm["failed"], "7.1%"),
        mean_cell(arm["tokens_per_episode"], "7.1f"),
        mean_cell(arm["per_1000_tokens"], "7.2f"),
        mean_cell(arm["minutes"], "8.1f"),
    ]
    return " ".join(cells)


def against_tracer1(name: str, record: dict) -> str:
    """TraceR1's lead over this arm in points, with its interval."""
    pair = record["pairs"].get(f"tracer1-{name}")
    if pair is None:
        return ""
    low, high = pair["ci95"]
    return plus_minus(f"{100 * pair['mean']:+.1f}", 50 * (high - low))


def plus_minus(mean: str, half: float) -> str:
    """ "55.0 +- 4.2"; one seed has no interval, and blanks keep its mean in the column."""
    if math.isnan(half):
        return mean + " " * len(" +- 4.2")
    return f"{mean} +- {half:.1f}"


def mean_cell(values: Sequence[float | None] | None, style: str) -> str:
    """The mean over the seeds; a dash where there is none."""
    if values is None or None in values:
        return f"{'-':>7}"
    return format(np.mean(values), style)


# ---- the picture --------------------------------------------------------------------------------


def draw_ablation(record: dict, path: Path) -> None:
    """Arms with intervals; forecast accuracy against k; success against T, if there are several."""
    from matplotlib.figure import Figure  # here, because importing it writes a cache of fonts

    arms = record["arms"]
    first = next(iter(arms.values()))
    split = next(iter(first["split"]))
    success = {name: 100 * np.array(arm["split"][split]["success"]) for name, arm in arms.items()}
    horizons = horizon_arms(arms)
    several_horizons = len(horizons) > 1
    panels = 3 if several_horizons else 2
    figure = Figure((5 * panels, 0.28 * len(arms) + 2.2), layout="tight")
    axes = figure.subplots(1, panels, width_ratios=(2, 1.2, 1)[:panels])
    draw_arms(axes[0], success, split)
    draw_accuracy(axes[1], arms)
    if several_horizons:
        draw_horizons(axes[2], {T: success[name] for T, name in horizons.items()})
    figure.savefig(path, dpi=110)


def horizon_arms(arms: dict[str, dict]) -> dict[int, str]:
    """T -> the arm that differs from TraceR1 in nothing else; TraceR1 itself has T = 5."""
    horizons = {}
    for name in arms:
        if name == "tracer1":
            horizons[5] = name
        elif name.startswith("horizon_"):
            horizons[int(name.removeprefix("horizon_"))] = name
    return dict(sorted(horizons.items()))


def draw_arms(axis, success: dict[str, np.ndarray], split: str) -> None:
    """A bar an arm, a dot a seed. `success`: arm -> per cent, one for each seed."""
    labels = []
    means = []
    halves = []
    for name, values in success.items():
        mean, half = interval(values)
        labels.append(f"{name} ({len(values)})")
        means.append(mean)
        halves.append(half)
    colours = ["tab:green" if name == "tracer1" else "silver" for name in success]
    axis.barh(labels, means, xerr=halves, capsize=3, color=colours)
    axis.invert_yaxis()
    for row, values in enumerate(success.values()):
        axis.plot(values, [row] * len(values), "k.", markersize=4)
    title = f"success on {split}: mean, 95 % interval, seeds (dots)"
    axis.set(title=title, xlabel="% of tasks", xlim=(0, 100))


def draw_accuracy(axis, arms: dict[str, dict]) -> None:
    for name in ("warmup", "stage1", "stage2", "tracer1"):
        if name in arms:
            curve = 100 * np.mean(arms[name]["accuracy_at_k"], axis=0)
            axis.plot(range(1, len(curve) + 1), curve, marker="o", label=name)
    axis.set(title="forecast accuracy k steps ahead", xlabel="k", ylabel="% right")
    axis.legend()


def draw_horizons(axis, success: dict[int, np.ndarray]) -> None:
    """A grey line a seed, over the seeds that all horizons have in common, and their mean."""
    horizons = list(success)
    seeds = min(len(values) for values in success.values())
    curves = np.array([values[:seeds] for values in success.values()])  # [horizons, seeds]
    axis.plot(horizons, curves, color="silver", marker=".")
    axis.plot(horizons, curves.mean(1), marker="o")
    axis.set(title="success against T (grey: seeds)", xlabel="T", ylabel="% of tasks")
    axis.set(xticks=horizons, ylim=(0, 100))


# ---- command line -------------------------------------------------------------------------------


def parse_arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m extras.ablation",
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
        default=5,
        help=f"seeds 0 .. seeds-1; at most {PART_SEEDS} for arms that change a part",
    )
    what.add_argument(
        "--flags",
        default="",
        help='more flags of train.py for every arm, such as "--learning_rate 5e-4"',
    )
    what.add_argument(
        "--quick",
        action="store_true",
        help="a first answer in minutes: two seeds, four arms, short runs",
    )
    how = parser.add_argument_group("how it is played and kept")
    how.add_argument("--limit", type=int, default=300, help="number of tasks of each split")
    how.add_argument(
        "--split", default="", help="this split only, `dev` to choose settings; default: all"
    )
    how.add_argument("--jobs", type=int, default=1, help="runs side by side, sharing the cores")
    how.add_argument("--output_dir", default="runs/ablate", help="where the runs are kept")
    how.add_argument("--json", help="write the numbers to this file, and the picture beside it")
    return parser.parse_args(argv)


@memory_or_die()
def main(argv: list[str] | None = None) -> None:
    args = parse_arguments(argv)
    arms = choose_arms(args)
    settings = make_settings(args)
    try:
        record = ablate(arms, settings)
        print(ablation_table(record))
        file = record_file(args, settings)
        file.parent.mkdir(parents=True, exist_ok=True)
        # A single seed has no interval, and JSON has no NaN.
        write(file, json.dumps(record, indent=1).replace("NaN", "null"))
        picture = file.with_suffix(".png")
        draw_ablation(record, picture)
        print(f"numbers: {file}; picture: {picture}")
    except (ValueError, OSError) as error:
        die(one_line(str(error)))
    except (KeyboardInterrupt, BrokenProcessPool):  # Ctrl-C, or a lack of memory, ended a worker
        die("interrupted; finished runs are kept, and the same command goes on with the others")


def choose_arms(args: argparse.Namespace) -> Sequence[str]:
    named = [arm for arm in args.arms.split(",") if arm]
    unknown = set(named) - set(ARMS)
    if unknown:
        die(f"--arms: unknown arm {', '.join(sorted(unknown))}; choose from {', '.join(ARMS)}")
    if named:
        return named
    if args.quick:
        return QUICK_ARMS
    return tuple(ARMS)


# What the comparison decides itself.
TAKEN = {
    "--seed",
    "--output_dir",
    "--warmup_dir",
    "--threads",
    "--stages",
    "--resume",
    "--eval_split",
}


def make_settings(args: argparse.Namespace) -> Settings:
    """The settings of the command line; what cannot work ends with one line and exit code 2."""
    for name in ("seeds", "jobs", "limit"):
        if getattr(args, name) < 1:
            die(f"--{name} {getattr(args, name)}: must be at least 1")
    flags = args.flags.split()
    config = parse_config(flags)
    names = {flag.split("=")[0] for flag in flags}
    taken = names & TAKEN
    if taken:
        die(f"--flags: {', '.join(sorted(taken))} is what the ablation sets itself")
    splits = find_world(config.env).splits
    if args.split and args.split not in splits:
        die(f"--split {args.split}: choose one of {', '.join(splits)}")
    settings = Settings(
        root=Path(args.output_dir),
        seeds=args.seeds,
        jobs=args.jobs,
        limit=args.limit,
        split=args.split,
        flags=flags,
        stage1_updates=config.stage1_updates,
        stage2_updates=config.stage2_updates,
    )
    if args.quick:
        return shorten(settings, names)
    return settings


def shorten(settings: Settings, named: set[str]) -> Settings:
    """--quick: two seeds, fewer tasks, a shorter warm start, and a fifth of the updates unless a
    flag names them."""
    short = replace(
        settings,
        root=Path(f"{settings.root}-quick"),
        seeds=2,
        limit=100,
        flags=["--warmup_steps", "600", *settings.flags],
    )
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
