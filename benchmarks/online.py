"""The door to what is played: MiniWoB++ in a browser, AndroidWorld on a phone, OSWorld.

eval.py calls main_online for --bench miniwob, androidworld and osworld. Who plays is said here, and
which flags go with what; each benchmark is played in a file of its own (miniwob_exam.py,
androidworld.py, osworld.py).
"""

import argparse
import hashlib
import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from agent import Plan, Planner, policy_planner
from benchmarks import androidworld, miniwob_exam, osworld
from benchmarks.episodes import Player
from benchmarks.miniwob import MiniWoB
from envs import Action, Observation
from extras.chosen_policy import DEFAULTS, load_chosen, read_settings, refuse_settings
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
    add(
        "--steps",
        type=int,
        help="steps an episode; default: miniwob 10, osworld 15 (published: 15, 50, 100; other "
        "numbers compare with nothing)",
    )
    add("--browsers", type=int, help="miniwob: 1 to 4, side by side; default 2")
    add("--provider", help="osworld: who runs the virtual machine, such as docker or vmware")
    add("--path_to_vm", help="osworld: file of the machine; default: the provider's own image")
    add(
        "--output_dir",
        help="where finished episodes are kept: the same command goes on with them; default: "
        "RUN/BENCH, or runs/BENCH-NAME",
    )


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
    if args.bench == "miniwob":
        bench = miniwob_exam
        what = web_flags(args)
    elif args.bench == "androidworld":
        bench = androidworld
        what = phone_flags(args)
    else:
        bench = osworld
        what = desktop_flags(args)
    bench.check(**what)  # what is missing is said before a model is loaded for nothing
    player = load_player(args, oracle_planner)
    output = Path(args.output_dir) if args.output_dir else default_output(args)
    result = bench.evaluate(player, output, **what)
    print(bench.table(result))
    print(f"episodes: {output}")
    return result


def task_names(args: argparse.Namespace) -> list[str]:
    """What --tasks names, each once; nothing stands for all."""
    if not args.tasks:
        return []
    return list(dict.fromkeys(args.tasks.split(",")))


def flags_given(args: argparse.Namespace, *names: str) -> dict:
    """The flags that were given: for the others, what is called has defaults."""
    given = {name: getattr(args, name) for name in names}
    return {name: value for name, value in given.items() if value is not None}


def web_flags(args: argparse.Namespace) -> dict:
    """What MiniWoB++ takes of the flags."""
    return {"tasks": task_names(args)} | flags_given(args, "seeds", "steps", "browsers")


def phone_flags(args: argparse.Namespace) -> dict:
    """What AndroidWorld takes of the flags."""
    what = {"clone": Path(args.data), "tasks": task_names(args)}
    return what | flags_given(args, "combinations")


def desktop_flags(args: argparse.Namespace) -> dict:
    """What OSWorld takes of the flags."""
    machine = osworld.Machine(args.provider, args.path_to_vm or "")
    what = {"clone": Path(args.data), "machine": machine, "tasks": task_names(args)}
    if args.steps is not None:
        what["budget"] = args.steps
    return what


def default_output(args: argparse.Namespace) -> Path:
    """The run's own folder, else one that is named after what is played and who plays."""
    if args.run:
        return Path(args.run) / args.bench
    who = args.planner or Path(args.model).name
    return Path("runs") / f"{args.bench}-{who}"


# ---- who plays ----------------------------------------------------------------------------------

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
        scale=policy.scale_of(MiniWoB),
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
    tool_agent = args.tool_agent or ""
    planners = {
        "oracle": oracle_planner(horizon),
        "random": moves_planner(),
        "nothing": idle_planner,
    }
    return Player(
        planner=without_points(planners[args.planner]),
        name=args.planner,
        horizon=horizon,
        tool_agent=load_tool_agent(tool_agent, None),
        tool_agent_name=tool_agent,
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
