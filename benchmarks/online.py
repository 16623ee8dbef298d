"""The door to what is played: MiniWoB++ in a browser, AndroidWorld on a phone, OSWorld.

eval.py calls main_online for --bench miniwob, androidworld and osworld; evaluate_miniwob is here.
It drives no browser (benchmarks/miniwob.py does), no phone (androidworld.py) and no virtual machine
(osworld.py), and it writes down no episode (episodes.py, and the runners of the other two).

BrowserGym's protocol for MiniWoB++ (ServiceNow/BrowserGym at 9e779f08, its packages miniwob and
experiments): 125 tasks, which are those of miniwob without the three of FlightWoB; 5 seeds a task;
10 steps; success is a raw reward above 0. Ours, which stands beside it, is a raw reward of 1:
nothing that is only partly right. What is not theirs: the seeds of the pages are those of the split
`test`, and the instruction is part of the picture too.
"""

import argparse
import hashlib
import random
from collections.abc import Callable, Sequence
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

from tqdm import tqdm

from agent import Plan, Planner, policy_planner
from benchmarks import androidworld, osworld
from benchmarks.browser import find_programs
from benchmarks.common import mean
from benchmarks.episodes import Archive, Episode, Player, parts, play_missing
from benchmarks.miniwob import MAX_STEPS, POOL, known_tasks, miniwob_world
from envs import SPLIT_SIZE, Action, Observation
from extras.chosen_policy import DEFAULTS, load_chosen, read_settings, refuse_settings
from extras.intervals import over_tasks, wilson
from extras.readable_json import readable_json
from extras.run_folder import write
from extras.vlm_tool_agent import load_tool_agent

# ---- flags of the command line ------------------------------------------------------------------

# The benchmarks that are played, and the flags that are theirs.
FLAGS = {
    "miniwob": ("tasks", "seeds", "steps", "browsers", "output_dir", "planner"),
    "androidworld": ("data", "tasks", "combinations", "output_dir", "planner"),
    "osworld": ("data", "tasks", "steps", "provider", "path_to_vm", "output_dir", "planner"),
}
NEEDED = {"androidworld": ("data",), "osworld": ("data", "provider")}


def add_flags(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("benchmarks that are played (docs/online.md)").add_argument
    add(
        "--planner",
        choices=("oracle", "random", "nothing"),
        help="in place of --run and --model: the ceiling, or a floor",
    )
    add("--tasks", help="names with commas between them; default: all")
    add("--seeds", type=int, help="miniwob: pages of each task; default 5")
    add("--combinations", type=int, help="androidworld: instances of each task; default 1")
    add("--steps", type=int, help="steps an episode; default: miniwob 10, osworld 15")
    add("--browsers", type=int, help="miniwob: 1 to 4, side by side; default 2")
    add("--provider", help="osworld: who runs the virtual machine, such as docker or vmware")
    add("--path_to_vm", help="osworld: file of the machine; default: the provider's own image")
    add(
        "--output_dir",
        help="where finished episodes are kept: the same command goes on with them; default: "
        "RUN/BENCH, or runs/BENCH-NAME",
    )


def refuse_flags(args: argparse.Namespace) -> None:
    """ValueError for a flag of a played benchmark that would be ignored."""
    own = FLAGS.get(args.bench, ("data",))
    for name in sorted(set().union(*FLAGS.values()).difference(own)):
        if getattr(args, name) is not None:
            benches = [bench for bench, flags in FLAGS.items() if name in flags]
            raise ValueError(f"--{name} goes with --bench {' or '.join(benches)}")


def check_flags(args: argparse.Namespace) -> None:
    """ValueError for what does not go together, and for what is missing."""
    if args.predictions:
        raise ValueError(f"{args.bench} is played: --predictions are for recorded benchmarks")
    if args.planner in ("oracle", "random") and args.bench != "miniwob":
        raise ValueError(f"--planner {args.planner}: {args.bench} has no oracle and no moves")
    for name in NEEDED.get(args.bench, ()):
        if getattr(args, name) is None:
            raise ValueError(f"--bench {args.bench} needs --{name}")


# ---- the three of them --------------------------------------------------------------------------


def main_online(args: argparse.Namespace, oracle_planner: Callable[[int], Planner]) -> dict:
    """Play a benchmark in a browser, on a phone or in a virtual machine; print the numbers.

    `oracle_planner(horizon)`: eval.py's.
    """
    check_flags(args)
    tasks = list(dict.fromkeys(args.tasks.split(","))) if args.tasks else ()
    # What is missing is said before a model is loaded for nothing.
    if args.bench == "miniwob":
        check_miniwob(tasks)
    if args.bench == "osworld":
        machine = osworld.Machine(args.provider, args.path_to_vm or "")
        osworld.check_osworld(args.data, machine, tasks, budget_of(args))
    player = load_player(args, oracle_planner)
    output = Path(args.output_dir) if args.output_dir else default_output(args)
    if args.bench == "miniwob":
        given = flags_given(args, "seeds", "steps", "browsers")
        result = evaluate_miniwob(player, output, tasks, **given)
        print(table(result))
    elif args.bench == "androidworld":
        result = main_androidworld(args, player, output, tasks)
        print(androidworld.table(result))
    else:
        result = main_osworld(args, player, output, tasks)
        print(osworld.table(result))
    print(f"episodes: {output}")
    return result


def flags_given(args: argparse.Namespace, *names: str) -> dict:
    """The flags that were given: for the others, what is called has defaults."""
    given = {name: getattr(args, name) for name in names}
    return {name: value for name, value in given.items() if value is not None}


def budget_of(args: argparse.Namespace) -> int:
    """Steps of an OSWorld task."""
    return osworld.BUDGETS[0] if args.steps is None else args.steps


def main_androidworld(
    args: argparse.Namespace, player: Player, output: Path, tasks: Sequence[str]
) -> dict:
    with tqdm(unit="episode", mininterval=1, delay=1) as bar:
        return androidworld.evaluate_androidworld(
            player.planner,
            args.data,
            output,
            tasks=tasks,
            progress=bar.update,
            **player.arguments,
            **flags_given(args, "combinations"),
        )


def main_osworld(
    args: argparse.Namespace, player: Player, output: Path, tasks: Sequence[str]
) -> dict:
    with tqdm(unit="task", mininterval=1, delay=1) as bar:
        return osworld.evaluate_osworld(
            player.planner,
            args.data,
            output,
            tasks=tasks,
            progress=bar.update,
            budget=budget_of(args),
            **player.arguments,
            **flags_given(args, "provider", "path_to_vm"),
        )


def default_output(args: argparse.Namespace) -> Path:
    """The run's own folder, else one that is named after what is played and who plays."""
    if args.run:
        return Path(args.run) / args.bench
    who = args.planner or Path(args.model).name
    return Path("runs") / f"{args.bench}-{who}"


# What of a run's or model's settings decides how it answers, beside what a Player has itself.
HOW = ("max_pixels", "thinking", "in_4bit", "order", "forecast_states")


def load_player(args: argparse.Namespace, oracle_planner: Callable[[int], Planner]) -> Player:
    """The policy of --run or --model with its tool agent, or the planner of --planner."""
    if args.planner:
        return planner_player(args, oracle_planner)
    settings = read_settings(args)
    policy = load_chosen(args, settings)
    return Player(
        planner=policy_planner(policy, settings["horizon"]),
        name=args.run or args.model,
        horizon=settings["horizon"],
        history=settings["history"],
        scale=1 if policy.tiny else 2,
        carry=settings["carry_forecast"],
        tool_agent=load_tool_agent(settings["tool_agent"], policy, settings["max_pixels"]),
        tool_agent_name=settings["tool_agent"],
        weights=weights_of(args.run) if args.run else "",
        how={name: settings.get(name) for name in HOW},
    )


def weights_of(run: str) -> str:
    """Tells the adapters of a run from those that it has after more training."""
    weights = Path(run) / "adapter" / "adapter_model.safetensors"
    return hashlib.sha256(weights.read_bytes()).hexdigest()[:16]


def planner_player(args: argparse.Namespace, oracle_planner: Callable[[int], Planner]) -> Player:
    """A planner without a model: the oracle of the world, random moves, or doing nothing."""
    refuse_settings(args)
    if args.tool_agent == "base":
        raise ValueError("--tool_agent base goes with --run or --model: a planner has no weights")
    horizon = DEFAULTS["horizon"]
    planners = {
        "oracle": oracle_planner(horizon),
        "random": moves_planner(),
        "nothing": idle_planner,
    }
    return Player(
        planner=without_points(planners[args.planner]),
        name=args.planner,
        horizon=horizon,
        tool_agent=load_tool_agent(args.tool_agent, None),
        tool_agent_name=args.tool_agent,
    )


# ---- planners that need no model ----------------------------------------------------------------


def moves_planner(seed: int = 0) -> Planner:
    """The floor: one of the world's own moves by chance; it never says that it is done.

    What is drawn depends on the screen and the step alone: an evaluation that goes on draws the
    same.
    """

    def plan(_observations: list[Observation], envs: list) -> list[Plan]:
        plans = []
        for env in envs:
            rng = random.Random(f"{seed} {env.key()} {env.steps}")
            plans.append(Plan([rng.choice(env.moves(rng))]))
        return plans

    return plan


def without_points(planner: Planner) -> Planner:
    """The same plans in words alone: an oracle knows where things are, and would need nobody."""

    def plan(observations: list[Observation], envs: list) -> list[Plan]:
        plans = planner(observations, envs)
        for its_plan in plans:
            words = [replace(action, point=None, end=None) for action in its_plan.forecast]
            its_plan.forecast = words
        return plans

    return plan


def idle_planner(observations: list[Observation], _envs: list) -> list[Plan]:
    """Doing nothing: what solves itself, or is solved at the start, is no one's success."""
    return [Plan([Action("wait")]) for _ in observations]


# ---- MiniWoB++ ----------------------------------------------------------------------------------

BROWSERS = 4  # at most: each takes 170 MB, the first 400


def check_miniwob(tasks: Sequence[str]) -> None:
    """ValueError in one line for what is not installed, and for a task that is not there."""
    find_programs()
    miniwob_world(tasks or known_tasks())


def evaluate_miniwob(
    player: Player,
    output: Path,
    tasks: Sequence[str] = (),
    seeds: int = 5,
    steps: int = MAX_STEPS,
    browsers: int = 2,
) -> dict:
    """Play MiniWoB++; a killed evaluation goes on with the same arguments. Returns `summary`.

    `output`: the folder of the episodes; `tasks`: names without "miniwob/" (none: all 125);
    `seeds`: pages a task; `steps`: at most, 1..10; `browsers`: how many run side by side, 1..4.
    ValueError in one line for what is missing or does not fit.
    """
    check_range("seeds", seeds, SPLIT_SIZE)
    check_range("steps", steps, MAX_STEPS)
    check_range("browsers", browsers, BROWSERS)
    check_miniwob(tasks)
    tasks = tasks or known_tasks()
    settings = {"protocol": "miniwob", "steps": steps, "miniwob": version("miniwob")}
    settings |= player.settings
    archive = Archive(Path(output), settings)

    def open_env(task: str):
        return miniwob_world([task])("test", player.scale, player.history)

    try:
        play_missing(player, tasks, seeds, steps, browsers, open_env, archive)
    finally:
        POOL.close()
    result = settings | summary(archive, tasks, seeds)
    write(Path(output) / "result.json", readable_json(result))
    return result


def check_range(flag: str, value: int, most: int) -> None:
    if not 1 <= value <= most:
        raise ValueError(f"--{flag} {value}: must lie in 1..{most}")


def summary(archive: Archive, tasks: Sequence[str], seeds: int) -> dict:
    """Numbers of seeds 0 .. seeds-1 of these tasks; shares lie in 0..1.

    success: raw reward of 1; browsergym: the same numbers for a raw reward above 0. ci95: Wilson's
    interval of all episodes; ci95_over_tasks: see extras/intervals.over_tasks. A crashed episode is
    not solved. failed, impossible: shares of the steps; unreadable: of the forecasts.
    """
    episodes = []
    by_task = {}
    for task in tasks:
        of_task = [archive.episodes[task][seed] for seed in range(seeds)]
        episodes += of_task
        by_task[task] = {
            "success": mean(episode.success for episode in of_task),
            "browsergym": mean(theirs(episode) for episode in of_task),
            "steps": mean(len(episode.steps) for episode in of_task),
            "solved": [int(episode.success) for episode in of_task],
        }
    steps = [step for episode in episodes for step in episode.steps]
    results = [step["result"] for step in steps]
    return {
        "tasks": len(tasks),
        "seeds": seeds,
        "n": len(episodes),
        **success_numbers([episode.success for episode in episodes], tasks),
        "browsergym": success_numbers([theirs(episode) for episode in episodes], tasks),
        "crashed": sum(episode.crashed for episode in episodes),
        "failed": results.count("failed") / len(steps),
        "impossible": results.count("impossible") / len(steps),
        "unreadable": sum(not step["forecast"] for step in steps) / len(steps),
        "steps_per_episode": len(steps) / len(episodes),
        "tokens_per_episode": mean(episode.tokens for episode in episodes),
        "seconds": round(sum(episode.seconds for episode in episodes), 1),
        "by_task": by_task,
    }


def theirs(episode: Episode) -> bool:
    """Success as BrowserGym counts it."""
    return episode.info["success_browsergym"]


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
    lines = [f"{'task':30} {'solved':>7} {'BrowserGym':>11} {'steps':>6}"]
    for task, numbers in result["by_task"].items():
        lines.append(
            f"{task:30} {numbers['success']:7.0%} {numbers['browsergym']:11.0%} "
            f"{numbers['steps']:6.1f}"
        )
    lines.append(
        f"{result['player']}: {result['tasks']} tasks x {result['seeds']} seeds, "
        f"at most {result['steps']} steps; points by {result['points_by']}; "
        f"{result['crashed']} crashed"
    )
    lines.append(f"solved (raw reward 1)          {success_words(result)}")
    lines.append(f"BrowserGym (raw reward > 0)    {success_words(result['browsergym'])}")
    return "\n".join(lines)


def success_words(numbers: dict) -> str:
    low, high = numbers["ci95"]
    low_tasks, high_tasks = numbers["ci95_over_tasks"]
    return (
        f"{numbers['success']:6.1%}   95 % intervals: {low:.1%} to {high:.1%} (Wilson, of all "
        f"episodes), {low_tasks:.1%} to {high_tasks:.1%} (over tasks, bootstrap)"
    )
