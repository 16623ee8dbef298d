"""Which policy a program looks at: that of a run of train.py, or a model by name, without a run.

Called by eval.py, benchmarks/online.py, extras/play.py and extras/forecast.py: `--run DIR` or
`--model NAME`.
It reads the flags and loads the policy; what is then asked of it, the callers know.
"""

import argparse

from agent import Policy
from envs import die
from extras.loading import FORWARDS, check_budget
from extras.run_folder import load_run_policy, read_run

# What a run brings along and a model by name does not: each is a flag, and has the default that it
# has in train.py.
DEFAULTS = {
    "horizon": 5,
    "history": 4,
    "max_pixels": 0,
    "load_in_4bit": None,
    "forward": "shared",
    "thinking": 0,
}
AT_LEAST = {"horizon": 1, "history": 0, "max_pixels": 0, "thinking": 0}


def add_who(parser) -> None:
    """--run, --model and --tool_agent, to a parser or to a group of its flags."""
    parser.add_argument("--run", default="", help="folder of a run of train.py")
    parser.add_argument(
        "--model",
        default="",
        help="name or path of a Qwen-VL (Qwen3.5 too), in place of a run: without adapters",
    )
    parser.add_argument(
        "--tool_agent",
        help="who finds the points (of gta and gaia: who looks at pictures for the toolbox): base "
        "(the same weights without adapters), ocr (reads the words on the screen; "
        "docs/online.md), the name or path of a VLM, or '' for the world's own; default: as in "
        "training; for --model the world's own, or none",
    )


def add_settings(parser: argparse.ArgumentParser, history: bool = True) -> None:
    """What a run would have brought along; `history`: whether the number of past steps is asked."""
    group = parser.add_argument_group("settings of --model (a run has its own)")
    group.add_argument(
        "--horizon", type=int, help=f"T, the actions of a forecast; default {DEFAULTS['horizon']}"
    )
    if history:
        group.add_argument(
            "--history",
            type=int,
            help=f"K, past steps in the prompt as text; default {DEFAULTS['history']}",
        )
    group.add_argument(
        "--max_pixels",
        type=int,
        help="largest screenshot in pixels that the model is shown; default: the image "
        "processor's own limit",
    )
    group.add_argument(
        "--load_in_4bit",
        action=argparse.BooleanOptionalAction,
        help="NF4 weights; by default on CUDA if 16 bits would fill more than half of its free "
        "memory",
    )
    group.add_argument(
        "--forward",
        choices=FORWARDS,
        help="shared: by extras/shared_prompt.py, faster; reference: by the model's own forward; "
        f"default {DEFAULTS['forward']}",
    )
    group.add_argument(
        "--thinking",
        type=int,
        help="N, tokens to think with before each forecast, for models that think; default "
        f"{DEFAULTS['thinking']}",
    )


def read_settings(args: argparse.Namespace, world: str = "toy-gui") -> dict:
    """The settings of the run, or of the model: in both cases with the keys of a config.json.

    `world`: where a model without a run plays. Ends with one line for flags that do not go
    together, values that cannot work, and what is no run.
    """
    if bool(args.run) == bool(args.model):
        die("give either --run DIR or --model NAME")
    if args.run:
        refuse_settings(args)
        settings = read_run(args.run)
    else:
        settings = settings_of_model(args, world)
    if args.tool_agent is not None:
        settings["tool_agent"] = args.tool_agent
    return settings


def refuse_settings(args: argparse.Namespace) -> None:
    """Where no model is named, its settings would be ignored: one line says so instead."""
    for name in DEFAULTS:
        if getattr(args, name, None) is not None:
            die(f"--{name} goes with --model only: a run has its own")


def settings_of_model(args: argparse.Namespace, world: str) -> dict:
    """As if a run of train.py with these flags had just begun."""
    values = {}
    for name, default in DEFAULTS.items():
        given = getattr(args, name, None)
        values[name] = default if given is None else given
    for name, least in AT_LEAST.items():
        if values[name] < least:
            die(f"--{name} {values[name]}: must be at least {least}")
    check_budget(values["thinking"], tiny=True)  # it may be; the rest is loading.let_think's
    in_4bit = values.pop("load_in_4bit")
    return values | {
        "base": args.model,
        "in_4bit": in_4bit,
        "env": world,
        "tool_agent": "",
        "order": "near",
        "carry_forecast": False,
    }


def load_chosen(args: argparse.Namespace, settings: dict) -> Policy:
    """The policy that `read_settings` has described: a run's with its last adapters."""
    if args.run:
        return load_run_policy(args.run, settings)
    return load_run_policy("", settings, adapter=None)  # no adapter: no folder is looked into
