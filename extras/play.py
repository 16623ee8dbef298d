"""Plays one episode of a toy world and draws it as a film strip.

A command: `python -m extras.play --run DIR` for the policy of a run, `--model NAME` for a model
without a run, `python -m extras.play --env toy-tools --split flaky` for the oracle.
Many episodes, and all numbers, are eval.py's.
"""

import argparse

from agent import Play, Policy, play, policy_planner
from envs import die
from eval import oracle_planner
from extras.chosen_policy import (
    DEFAULTS,
    add_settings,
    add_who,
    load_chosen,
    read_settings,
    refuse_settings,
)
from extras.pictures import draw_episode
from extras.run_folder import memory_or_die
from extras.vlm_tool_agent import check_world_of_tool_agent, load_tool_agent
from extras.worlds import WORLDS, find_world, world_or_die


def parse_arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m extras.play",
        description="Play one episode of a toy world, with the policy of a run, a model by name or "
        "else the oracle, and draw it as a film strip.",
    )
    splits = [f"{name}: {' '.join(world.splits)}" for name, world in WORLDS.items()]
    who = parser.add_argument_group("who plays (without --run and --model: the oracle)")
    add_who(who)
    add_settings(parser)
    parser.add_argument(
        "--env",
        help="world of the oracle or of --model; default toy-gui; a run plays its own",
    )
    parser.add_argument(
        "--scale",
        type=int,
        help="size of the oracle's screens; 1: 128 x 96 px, as the tiny model sees them; default 3",
    )
    parser.add_argument("--seed", type=int, default=0, help="which task of the split")
    parser.add_argument(
        "--split",
        help=f"where the task is taken from ({'; '.join(splits)}); default: test, or train for "
        "the oracle",
    )
    parser.add_argument(
        "--picture",
        help="where the film strip goes; default: episode.png, or oracle.png for the oracle",
    )
    return parser.parse_args(argv)


@memory_or_die()
def main(argv: list[str] | None = None) -> None:
    args = parse_arguments(argv)
    if args.run or args.model:
        main_policy(args)
    else:
        main_oracle(args)


def main_policy(args: argparse.Namespace) -> None:
    if args.scale is not None:
        die("--scale is for the oracle: a policy sees screens of one size")
    if args.env and not args.model:
        die("--env is for the oracle and --model: a run plays in its own world")
    if args.env:
        world_or_die(args.env)
    split = args.split or "test"
    picture = args.picture or "episode.png"
    settings = read_settings(args, world=args.env or "toy-gui")
    check_world_of_tool_agent(settings["env"], settings["tool_agent"])
    policy = load_chosen(args, settings)
    try:
        episode = play_policy(policy, settings, split, args.seed)
        draw_episode(episode, picture)
    except ValueError as error:
        die(str(error))
    except OSError as error:
        die(f"cannot write {picture}: {error.strerror}")
    print(f"task: {episode.observations[0].instruction}")
    steps = zip(episode.forecasts, episode.results, strict=True)
    for number, (forecast, result) in enumerate(steps, 1):
        text = "; ".join(str(action) for action in forecast)
        if not forecast:
            text = "(nothing readable)"
        print(f"{number:3} {text}   [{result}]")
    verdict = "solved" if episode.success else "not solved"
    taken = len(episode.results)
    print(
        f"{verdict} in {taken} steps, the oracle needs {episode.oracle_steps}; picture in {picture}"
    )


def play_policy(policy: Policy, settings: dict, split: str, seed: int) -> Play:
    """One episode of a policy, with the world, tool agent and horizon of its settings."""
    tool_agent = load_tool_agent(settings["tool_agent"], policy, settings["max_pixels"])
    horizon = settings["horizon"]
    planner = policy_planner(policy, horizon)
    world = find_world(settings["env"])
    env = world(split, policy.scale_of(world), settings["history"])
    [episode] = play(
        planner, [env], [seed], horizon, tool_agent=tool_agent, carry=settings["carry_forecast"]
    )
    return episode


def main_oracle(args: argparse.Namespace) -> None:
    refuse_settings(args)
    if args.tool_agent:
        die("--tool_agent goes with --run or --model: the oracle's world has its own")
    world = world_or_die(args.env or "toy-gui")
    split = args.split or "train"
    picture = args.picture or "oracle.png"
    scale = 3 if args.scale is None else args.scale
    horizon = DEFAULTS["horizon"]
    try:
        env = world(split, scale)
        planner = oracle_planner(horizon)
        [episode] = play(planner, [env], [args.seed], horizon)
        draw_episode(episode, picture, width=128 * scale)
    except (OSError, ValueError) as error:
        die(f"cannot draw {picture}: {error}")
    actions = [str(forecast[0]) for forecast in episode.forecasts]
    print(f"task: {episode.observations[0].instruction}")
    print(f"oracle: {'; '.join(actions)}")
    print(f"solved: {episode.success}, {len(episode.results)} steps; picture in {picture}")


if __name__ == "__main__":
    main()
