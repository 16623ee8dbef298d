"""What a run tells a person: exams on held-out tasks, pictures, warnings, and where time went.

Called by train.py, which decides when; the numbers are eval.py's, the files the run folder's.
It trains nothing, and what is learnt does not depend on it.
"""

import sys
import time
from collections.abc import Sequence

from tqdm import tqdm

from agent import Planner, Play, Policy
from eval import evaluate_planner, evaluate_policy, parts_table
from extras import torchrun
from extras.pictures import PHASES, draw_curves, draw_episode
from extras.run_folder import RunFolder


@torchrun.first_only
def announce(run: RunFolder) -> None:
    """The sizes that decide how long an update takes, before the first one."""
    prompts = run.config["prompts_per_update"]
    forecasts = run.config["group_size"]
    thinking = ""
    if run.config["thinking"] > 0:
        thinking = f", up to {run.config['thinking']} tokens of thought before each forecast"
    print(
        f"{prompts} prompts x {forecasts} forecasts = {prompts * forecasts} rollouts an update, "
        f"{run.config['updates_per_batch']} optimiser step(s) on each batch; "
        f"T = {run.config['horizon']}, K = {run.config['history']}, seed {run.config['seed']}"
        f"{thinking}",
        flush=True,
    )


@torchrun.first_only
def announce_control(run: RunFolder) -> None:
    print(
        "the control: an agent that does not look ahead (T = 1), trained with as many updates; "
        f"{run.path / 'reactive'}",
        flush=True,
    )


# ---- exams and pictures -------------------------------------------------------------------------


@torchrun.first_only
def examine(run: RunFolder, name: str, policy: Policy, planner: Planner | None = None) -> None:
    """Play the held-out tasks with the policy, or with a planner, and keep the result.

    A resumed run plays again only those that came after its checkpoint.
    """
    if run.config["data"]:
        return  # recorded data have no episodes to play: eval.py --bench scores them
    split = run.config["eval_split"]
    results = run.results[split]
    if name not in results:
        results[name] = play_exam(run, name, policy, planner)
        run.write_results()
    tqdm.write(f"{name:8} {split}: {in_words(results[name])}")


def play_exam(run: RunFolder, name: str, policy: Policy, planner: Planner | None) -> dict:
    config = run.config
    split = config["eval_split"]
    n = config["eval_tasks"]
    with tqdm(total=n, desc=f"exam: {name}", unit="task", mininterval=1) as bar:
        if planner is None:
            metrics, _ = evaluate_policy(policy, config, split, n, bar.update)
        else:
            metrics, _ = evaluate_planner(planner, config, split, n, bar.update)
    return metrics


def in_words(result: dict) -> str:
    low, high = result["ci95"]
    return (
        f"success {result['success']:.1%} "
        f"(95 % interval {low:.1%} to {high:.1%}, n = {result['n']}), "
        f"first action right {result['accuracy_at_k'][0]:.1%}, "
        f"refused by the tool agent {result['failed']:.1%}"
    )


def last_success(run: RunFolder) -> str:
    """Success in the last exam, for the progress bar."""
    results = list(run.results[run.config["eval_split"]].values())
    if not results:
        return "-"
    return f"{results[-1]['success']:.1%}"


@torchrun.first_only
def add_control(run: RunFolder, control: RunFolder) -> None:
    """Write the exam of the trained control into the run's results, beside its phases."""
    split = run.config["eval_split"]
    run.results[split]["reactive"] = control.results[split]["stage2"]
    run.write_results()


@torchrun.first_only
def tell_by_demand(run: RunFolder) -> None:
    """Success by what the tasks demand, in worlds that say so: a line for each who was examined."""
    results = run.results[run.config["eval_split"]]
    by_phase = {}
    for phase in PHASES:
        if "by_demand" in results.get(phase, {}):
            by_phase[phase] = results[phase]
    if by_phase:
        print("success by what a task demands (on the toy map, the look-ups of its first click):")
        print(parts_table(by_phase, "by_demand", "success"))


@torchrun.first_only
def draw_pictures(run: RunFolder, policy: Policy) -> None:
    """curves.png and episode.png: what a person looks at first.

    The plays of the exam are not kept: a few of its tasks are played again, to choose one of them.
    """
    split = run.config["eval_split"]
    curves = run.path / "curves.png"
    draw_curves(run.read_metrics(), run.results[split], split, curves)
    if run.config["data"]:
        return
    _, plays = evaluate_policy(policy, run.config, split, 20)
    episode = run.path / "episode.png"
    draw_episode(longest_solved(plays), episode)
    print(f"pictures: {curves}, {episode}; numbers: {run.path / 'results.json'}")


def longest_solved(plays: Sequence[Play]) -> Play:
    """The longest of the solved episodes; of all, where none was solved."""
    solved = [play for play in plays if play.success]
    if not solved:
        solved = plays
    return max(solved, key=lambda play: len(play.results))


# ---- warnings ------------------------------------------------------------------------------------


def warn(text: str) -> None:
    tqdm.write(f"warning: {text}", file=sys.stderr)


class Streak:
    """Warns when something has gone wrong in ten updates in a row, once for each such streak."""

    def __init__(self, text: str):
        self.text = text
        self.length = 0

    def look(self, wrong: bool) -> None:
        if wrong:
            self.length += 1
        else:
            self.length = 0
        if self.length == 10:
            warn(self.text)


class Warnings:
    """Looks at the metrics of each update for runs that do not learn."""

    def __init__(self):
        self.flat = Streak(
            "for 10 updates more than 90 % of the groups had equal returns, so there is almost "
            "nothing to learn from; rollouts.jsonl shows what was sampled (all unreadable? "
            "temperature too low? task solved?)"
        )
        self.unreadable = Streak(
            "for 10 updates more than half of the answers could not be read to the end: see "
            "rollouts.jsonl (where its thoughts are cut off, a model needs more --thinking)"
        )

    def look(self, line: dict) -> None:
        self.flat.look(line["frac_zero_std"] > 0.9)
        self.unreadable.look(line["frac_parse_error"] > 0.5)


# ---- where the time went ------------------------------------------------------------------------


class Clock:
    """Seconds of each part of a run, for results.json."""

    def __init__(self):
        self.last_lap = time.monotonic()

    def lap(self, run: RunFolder, name: str) -> None:
        """The seconds since the last lap belong to `name` (exams have several)."""
        now = time.monotonic()
        before = run.results["seconds"].get(name, 0.0)
        run.results["seconds"][name] = round(before + now - self.last_lap, 1)
        self.last_lap = now
