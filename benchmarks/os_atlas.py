"""How OS-Atlas compares an answer with the reference: what AndroidControl and GUI-Odyssey share.

Called by the rules in androidcontrol.py and gui_odyssey.py.
It decides nothing: which comparison counts for which kind of action is the rules' business.

Source: eval_scripts/ of OS-Copilot/OS-Atlas. Points on the 0-1000 grid are not rounded to whole
numbers. Reference and answer both give the direction of the content. Official labels name the
finger's way, the opposite: two labels are equal exactly when the two directions are.
"""

import math

from benchmarks.common import Step, set_f1
from envs import Action, Point, one_line

# Our kinds of action, in OS-Atlas's words.
WORDS = {
    "click": "CLICK",
    "long_press": "LONG_PRESS",
    "type": "TYPE",
    "scroll": "SCROLL",
    "open_app": "OPEN_APP",
    "wait": "WAIT",
    "back": "PRESS_BACK",
    "home": "PRESS_HOME",
    "recent": "PRESS_RECENT",
    "done": "COMPLETE",
    "fail": "IMPOSSIBLE",
}


def as_string(action: Action, text: str) -> str:
    """The action without its point: "TYPE [hello world]", "SCROLL [UP]", "PRESS_BACK".

    Kinds that OS-Atlas does not know are called something that equals none of its own.
    """
    word = WORDS.get(action.kind, action.kind.upper())
    if action.kind in ("type", "open_app"):
        return f"{word} [{text}]"
    if action.kind == "scroll":
        return f"{word} [{text.upper()}]"
    return word


def gold_text(step: Step) -> str:
    """The reference's text as recorded: on one line, as every Action's, but not cut at 500."""
    text = step.raw.get("text", step.action.text)
    return one_line(text, None)


def grid(point: Point) -> Point:
    """A point in 0..1 on the 0-1000 grid.

    To nine decimals: 0.57 * 1000 is then 570, not 569.9999999999999.
    """
    return round(point[0] * 1000, 9), round(point[1] * 1000, 9)


def near(action: Action, step: Step) -> bool:
    """Whether the points are at most 140 apart on the 0-1000 grid, 14 % of the screen.

    1e-6: exactly 140 is right, whatever the floats do. Without a point the answer is wrong.
    """
    if action.point is None:
        return False
    gold = step.raw.get("grid")  # as GUI-Odyssey recorded it
    if gold is None:
        gold = grid(step.action.point)
    return math.dist(grid(action.point), gold) <= 140 + 1e-6


def words_f1(ours: str, theirs: str) -> float:
    """F1 of the two sets of lower-case words."""
    return set_f1(set(ours.lower().split()), set(theirs.lower().split()))
