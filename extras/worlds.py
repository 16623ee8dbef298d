"""The worlds by their names, as --env and --bench say them.

Called by train.py, eval.py and what plays, warms up or draws a world.
It knows no recorded benchmark: those are listed in benchmarks/catalog.py.
"""

from functools import cache

from benchmarks.browser import find_programs
from benchmarks.miniwob import miniwob_world
from benchmarks.miniwob_oracle import SCRIPTS
from envs import ToyGUI, die, with_states
from extras.memory_gui import memory_gui
from extras.toy_map import ToyMap, map_of_depth
from extras.toy_tools import ToyTools

WORLDS = {"toy-gui": ToyGUI, "toy-tools": ToyTools, "toy-map": ToyMap}
# What can be said behind a name.
OPTIONS = "toy-gui:memory=0.5, toy-map:depth=3"
PAGES = "miniwob:click-test-2,click-tab"  # in a browser: docs/online.md


@cache
def find_world(name: str, states: bool = False) -> type:
    """The class of a world: "toy-gui", with its dial "toy-gui:memory=0.5" (memory_gui) or
    "toy-map:depth=3" (map_of_depth), or tasks of MiniWoB++, "miniwob:click-test-2,click-tab".

    `states`: its oracle also says what will be seen (envs.with_states). The same name gives the
    same class. Raises ValueError, in one line, for what is no world, or has no names for screens.
    """
    if states:
        return with_states(find_world(name))
    kind, colon, option = name.partition(":")
    if kind == "miniwob":
        return find_pages(option)
    if kind not in WORLDS:
        raise ValueError(f"{name}: choose one of {', '.join(WORLDS)}, {OPTIONS}, {PAGES}")
    if not colon:
        return WORLDS[kind]
    dial, _, number = option.partition("=")
    if (kind, dial) == ("toy-gui", "memory"):
        return memory_gui(read_number(name, number, float))
    if (kind, dial) == ("toy-map", "depth"):
        return map_of_depth(read_number(name, number, int))
    raise ValueError(f"{name}: what can follow a name is, for example, {OPTIONS}")


def read_number(name: str, text: str, kind: type) -> float:
    """The number of a dial; `kind` is int or float. ValueError, in one line, for another text."""
    try:
        return kind(text)
    except ValueError:
        what = "whole number" if kind is int else "number"
        raise ValueError(f"{name}: {text!r} is not a {what}") from None


def find_pages(tasks: str) -> type:
    """The world of these tasks of MiniWoB++; ValueError, one line, where it cannot be played."""
    if not tasks:
        raise ValueError(f"miniwob: say which tasks, for example {PAGES}")
    find_programs()
    names = list(dict.fromkeys(tasks.split(",")))
    world = miniwob_world(names)
    for name in names:
        if name not in SCRIPTS:
            raise ValueError(f"miniwob: no oracle knows {name}; it knows {', '.join(SCRIPTS)}")
    return world


def world_or_die(name: str, states: bool = False) -> type:
    """The class of the world that --env names; a wrong name ends with one line, exit code 2."""
    try:
        return find_world(name, states)
    except ValueError as error:
        die(f"--env {error}")
