"""How many labels of the toy GUI the reading tool agent finds: a measurement, screen by screen.

A command: `python -m extras.ocr_check --split test --first 1000 --screens 200 --scale 2`; its
numbers stand in docs/online.md.
It trains and plays nothing, and no rule of extras/ocr.py looks at what it prints.
"""

import argparse
import random
import time
from collections import Counter

from envs import SCREEN_WORDS, Action, Example, ToyGUI, die, inside
from extras.ocr import load_reader, ocr_tool_agent
from train import check_choice


def visit(split: str, index: int, scale: int) -> ToyGUI:
    """A task's world after 0 to 8 steps, two in five of them random clicks, the rest the oracle's.

    The same arguments give the same state.
    """
    world = ToyGUI(split, scale)
    world.reset(index)
    rng = random.Random(f"read {split} {index}")
    for _ in range(rng.randrange(9)):
        action = world.oracle(1, exact=True)[0]
        if rng.random() < 0.4:
            action = world.point_at(rng.choice(world.elements()))
        _, _, terminated, truncated, _ = world.step(action)
        if terminated or truncated:
            break
    return world


def check_screen(world: ToyGUI, tool_agent) -> Counter:
    """What becomes of a click on each label, and on each word that stands nowhere on this screen.

    right, wrong: inside the label's box, or elsewhere; refused; a label that stands there twice is
    right to be refused: "twice", else "guessed"; a word that is not there: "absent", else "taken".
    """
    visible = world.visible()
    labels = [label for label, _box in visible]
    drawn = set(world.cells().values())
    absent = [word for word in SCREEN_WORDS if word not in drawn]
    clicks = [Action("click", name) for name in [*labels, *absent]]
    example = Example(world.observe(), reference=())
    executed = tool_agent(clicks, [example] * len(clicks))
    counts = Counter()
    for (label, box), action in zip(visible, executed, strict=False):
        if labels.count(label) > 1:
            counts["twice" if action is None else "guessed"] += 1
        elif action is None:
            counts["refused"] += 1
        else:
            counts["right" if inside(action.point, box) else "wrong"] += 1
    for action in executed[len(labels) :]:
        counts["absent" if action is None else "taken"] += 1
    return counts


def check(split: str, first: int, screens: int, scale: int) -> str:
    """Screens of tasks first, first + 1, ...: a line with the sums."""
    tool_agent = ocr_tool_agent(load_reader().read)
    counts = Counter()
    seconds = 0.0
    for index in range(first, first + screens):
        world = visit(split, index, scale)
        begun = time.process_time()
        counts += check_screen(world, tool_agent)
        seconds += time.process_time() - begun
    labels = counts["right"] + counts["wrong"] + counts["refused"]
    words = counts["absent"] + counts["taken"]
    return (
        f"{split} {first} to {first + screens - 1}, scale {scale}: {labels} labels, "
        f"{counts['right'] / labels:.2%} right, {counts['wrong']} wrong, {counts['refused']} "
        f"refused; of {counts['twice'] + counts['guessed']} that stand there twice "
        f"{counts['guessed']} guessed; of {words} words that are not there {counts['taken']} "
        f"taken for one that is; {seconds / screens:.2f} s a screen"
    )


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m extras.ocr_check", description=__doc__)
    add = parser.add_argument
    add("--split", default="dev", help=f"one of {', '.join(ToyGUI.splits)}; default dev")
    add("--first", type=int, default=0, help="the first task; default 0")
    add("--screens", type=int, default=200, help="how many tasks, a screen of each; default 200")
    add("--scale", type=int, default=1, help="of the picture, 1: 128 px wide; default 1")
    args = parser.parse_args(argv)
    check_choice("split", args.split, ToyGUI.splits)
    for name, least in (("first", 0), ("screens", 1), ("scale", 1)):
        if getattr(args, name) < least:
            die(f"--{name} {getattr(args, name)}: must be at least {least}")
    try:
        print(check(args.split, args.first, args.screens, args.scale))
    except ValueError as problem:  # rapidocr is not installed
        die(str(problem))


if __name__ == "__main__":
    main()
