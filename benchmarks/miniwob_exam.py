"""The exam of MiniWoB++: its pages played by a Player, one by one, and the numbers.

online.py calls check and evaluate, for --bench miniwob. It drives no browser: benchmarks/miniwob.py
does, as a world; episodes.py plays it and keeps the episodes.

BrowserGym's protocol (ServiceNow/BrowserGym at 9e779f08, its packages miniwob and experiments): 125
tasks, which are those of miniwob without the three of FlightWoB; 5 seeds a task; 10 steps; success
is a raw reward above 0. Ours, which stands beside it, is a raw reward of 1: nothing that is only
partly right. What is not theirs: the seeds of the pages are those of the split `test`, and the
instruction is part of the picture too.
"""

from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

from benchmarks.browser import find_programs
from benchmarks.common import mean
from benchmarks.episodes import (
    Archive,
    Episode,
    Player,
    parts,
    percent,
    play_missing,
    table_row,
)
from benchmarks.miniwob import MAX_STEPS, POOL, known_tasks, miniwob_world
from envs import SPLIT_SIZE
from extras.intervals import over_tasks, wilson
from extras.readable_json import readable_json
from extras.run_folder import write


def check(
    tasks: Sequence[str] = (), seeds: int = 5, steps: int = MAX_STEPS, browsers: int = 2
) -> None:
    """ValueError in one line for what is not installed, and for what does not fit.

    `tasks`: names without "miniwob/" (none: all 125); `seeds`: pages a task; `steps`: at most,
    1..10; `browsers`: how many run side by side, 1..4.
    """
    check_range("seeds", seeds, SPLIT_SIZE)
    check_range("steps", steps, MAX_STEPS)
    check_range("browsers", browsers, POOL.limit)
    find_programs()
    miniwob_world(tasks or known_tasks())


def check_range(flag: str, value: int, most: int) -> None:
    if not 1 <= value <= most:
        raise ValueError(f"--{flag} {value}: must lie in 1..{most}")


def evaluate(
    player: Player,
    output: Path,
    tasks: Sequence[str] = (),
    seeds: int = 5,
    steps: int = MAX_STEPS,
    browsers: int = 2,
) -> dict:
    """Play MiniWoB++; a killed evaluation goes on with the same arguments.

    Returns the settings and `summary`.

    `output`: the folder of the episodes; the rest: see check, whose ValueErrors it has too.
    """
    check(tasks, seeds, steps, browsers)
    tasks = tasks or known_tasks()
    settings = {"protocol": "miniwob", "steps": steps, "miniwob": version("miniwob")}
    settings |= player.settings
    archive = Archive(output, settings)

    def open_env(task: str):
        return miniwob_world([task])("test", player.scale, player.history)

    try:
        play_missing(player, tasks, seeds, steps, browsers, open_env, archive)
    finally:
        POOL.close()
    result = settings | summary(archive, tasks, seeds)
    write(output / "result.json", readable_json(result))
    return result


def summary(archive: Archive, tasks: Sequence[str], seeds: int) -> dict:
    """Numbers of seeds 0 .. seeds-1 of these tasks; shares lie in 0..1.

    success: raw reward of 1; browsergym: the same numbers for a raw reward above 0. ci95: Wilson's
    interval of all episodes; ci95_over_tasks: see extras/intervals.over_tasks. A crashed episode is
    not solved. failed, impossible: shares of the steps; unreadable: of the forecasts; None where
    every browser crashed before a first step.
    """
    episodes = []
    by_task = {}
    for task in tasks:
        of_task = [archive.episodes[task][seed] for seed in range(seeds)]
        by_task[task] = task_numbers(of_task)
        episodes += of_task
    solved = [episode.success for episode in episodes]
    for_browsergym = [solved_for_browsergym(episode) for episode in episodes]
    steps = [step for episode in episodes for step in episode.steps]
    return {
        "tasks": len(tasks),
        "seeds": seeds,
        "n": len(episodes),
        **success_numbers(solved, tasks),
        "browsergym": success_numbers(for_browsergym, tasks),
        "crashed": sum(episode.crashed for episode in episodes),
        **step_shares(steps),
        "steps_per_episode": len(steps) / len(episodes),
        "tokens_per_episode": mean(episode.tokens for episode in episodes),
        "seconds": round(sum(episode.seconds for episode in episodes), 1),
        "by_task": by_task,
    }


def step_shares(steps: Sequence[dict]) -> dict:
    return {
        "failed": mean(step["result"] == "failed" for step in steps),
        "impossible": mean(step["result"] == "impossible" for step in steps),
        "unreadable": mean(not step["forecast"] for step in steps),
    }


def task_numbers(episodes: Sequence[Episode]) -> dict:
    """The numbers of one task; ci95 and browsergym_ci95 are Wilson's."""
    solved = [int(episode.success) for episode in episodes]
    for_browsergym = [solved_for_browsergym(episode) for episode in episodes]
    return {
        "success": mean(solved),
        "ci95": list(wilson(sum(solved), len(solved))),
        "browsergym": mean(for_browsergym),
        "browsergym_ci95": list(wilson(sum(for_browsergym), len(for_browsergym))),
        "steps": mean(len(episode.steps) for episode in episodes),
        "solved": solved,
    }


def solved_for_browsergym(episode: Episode) -> bool:
    """Success as BrowserGym counts it; a crashed episode has none."""
    return not episode.crashed and episode.info["success_browsergym"]


def success_numbers(solved: Sequence[bool], tasks: Sequence[str]) -> dict:
    """`solved`: an entry an episode, task after task, as many of each."""
    of_each = len(solved) // len(tasks)
    shares = [mean(part) for part in parts(solved, of_each)]
    return {
        "success": mean(solved),
        "ci95": list(wilson(sum(solved), len(solved))),
        "ci95_over_tasks": list(over_tasks(shares)),
    }


def table(result: dict) -> str:
    """One row a task, then the whole."""
    lines = [table_row("task", "solved", "BrowserGym", "steps") + "   solved, 95 % (Wilson)"]
    for task, numbers in result["by_task"].items():
        shares = percent(numbers["success"]), percent(numbers["browsergym"])
        row = table_row(task, *shares, f"{numbers['steps']:.1f}")
        lines.append(f"{row}   {interval(numbers['ci95'])}")
    lines.append(
        f"{result['player']}: {result['tasks']} tasks x {result['seeds']} seeds, "
        f"at most {result['steps']} steps; points by {result['points_by']}; "
        f"{result['crashed']} crashed"
    )
    lines.append(success_line("solved (raw reward 1)", result))
    lines.append(success_line("BrowserGym (raw reward > 0)", result["browsergym"]))
    return "\n".join(lines)


def success_line(rule: str, numbers: dict) -> str:
    success = table_row(rule, percent(numbers["success"]))
    of_episodes = interval(numbers["ci95"])
    of_tasks = interval(numbers["ci95_over_tasks"])
    return (
        f"{success}   95 % intervals: {of_episodes} (Wilson, of all episodes), "
        f"{of_tasks} (over tasks, bootstrap)"
    )


def interval(ends: Sequence[float]) -> str:
    low, high = ends
    return f"{percent(low)} to {percent(high)}"
