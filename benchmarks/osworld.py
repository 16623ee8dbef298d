"""OSWorld and OSWorld-Verified: 369 tasks on a real desktop, in a virtual machine.

online.py calls check and evaluate, for --bench osworld; docs/online.md says what to install.
The package desktop-env 1.0.2 starts the machine, carries actions out and grades
(osworld_machine.py); the tasks come from a clone of github.com/xlang-ai/OSWorld (osworld_files.py).
The agent sees pixels alone, no accessibility tree; no video is recorded.

From top to bottom: each action as a command; the world; the evaluation; sums.

The package runs each action as `python -c "import pyautogui; import time; ...; <command>"`:

| unified                  | command                                                         |
|--------------------------|-----------------------------------------------------------------|
| click, double_click      | pyautogui.click(x, y), pyautogui.doubleClick(x, y)              |
| right_click, hover       | pyautogui.rightClick(x, y), pyautogui.moveTo(x, y)              |
| long_press               | moveTo, mouseDown, a second, mouseUp                            |
| drag                     | moveTo(where it begins), dragTo(where it ends) in a second      |
| scroll                   | scroll(+5 up, -5 down), hscroll(+5 right, -5 left); at the      |
|                          | point or in the middle                                          |
| type                     | pyautogui.write(...) piece by piece, or the clipboard: `typed`  |
| key                      | pyautogui.hotkey('ctrl', 'c')                                   |
| wait; done, answer; fail | WAIT; DONE; FAIL: strings, which the package knows by themselves |
| select, open_app, back,  | none: "impossible"                                              |
| home, recent, call       |                                                                 |

When the budget of steps is used up the task is graded as it stands: nobody says FAIL for the
policy, which would solve the 30 tasks that cannot be done.
"""

import io
import re
import string
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from math import isfinite
from pathlib import Path

from PIL import Image
from tqdm import tqdm

from agent import Plan, format_forecast, play
from benchmarks.common import by, mean
from benchmarks.episodes import (
    OWN_POINTS,
    Player,
    commit_of,
    noting,
    open_folder,
    percent,
    table_row,
    to_pixels,
)
from benchmarks.osworld_files import (
    HOW_TO_CLONE,
    Task,
    TaskFolder,
    count_results,
    read_scores,
    read_tasks,
)
from benchmarks.osworld_machine import (
    VERSION,
    Machine,
    check_machine,
    desktop,
    desktop_class,
    package_log,
    told,
)
from envs import POINTING, Action, Box, Observation, last_steps

BUDGETS = (15, 50, 100)  # steps, as published; a result with another number stands alone

# ---- unified actions as commands -----------------------------------------------------------------

SPECIAL = {"wait": "WAIT", "done": "DONE", "answer": "DONE", "fail": "FAIL"}
POINTED = {
    "click": "pyautogui.click({x}, {y})",
    "double_click": "pyautogui.doubleClick({x}, {y})",
    "right_click": "pyautogui.rightClick({x}, {y})",
    "hover": "pyautogui.moveTo({x}, {y})",
    "long_press": (
        "pyautogui.moveTo({x}, {y}); pyautogui.mouseDown(); time.sleep(1); pyautogui.mouseUp()"
    ),
}
# A drag without duration is too quick for a window to notice.
DRAGGED = "pyautogui.moveTo({x}, {y}); pyautogui.dragTo({to_x}, {to_y}, 1, button='left')"
SCROLLED = {  # wheel clicks; the side whose content comes into view, as in envs.KINDS
    "up": "pyautogui.scroll(5, {x}, {y})",
    "down": "pyautogui.scroll(-5, {x}, {y})",
    "right": "pyautogui.hscroll(5, {x}, {y})",
    "left": "pyautogui.hscroll(-5, {x}, {y})",
}


def native(action: Action, size: tuple[int, int]) -> str | None:
    """What DesktopEnv.step takes for it in its action space "pyautogui"; None: nothing like it.

    `size`: width and height of the screen in px.

    >>> native(Action("click", "Save", (0.5, 1.0)), (1920, 1080))
    'pyautogui.click(960, 1079)'
    >>> native(Action("type", "a<b"), (1920, 1080)).split("; ")[1]
    "pyautogui.hotkey('shift', ',')"
    """
    if action.kind in SPECIAL:
        return SPECIAL[action.kind]
    if action.kind == "type":
        return typed(action.text)
    if action.kind == "key":
        return pressed(action.text)
    if action.kind == "scroll":
        x, y = to_pixels(action.point or (0.5, 0.5), size)
        return SCROLLED[action.text].format(x=x, y=y)
    if action.kind in POINTED and action.point is not None:
        x, y = to_pixels(action.point, size)
        return POINTED[action.kind].format(x=x, y=y)
    if action.kind == "drag" and action.point is not None and action.end is not None:
        x, y = to_pixels(action.point, size)
        to_x, to_y = to_pixels(action.end, size)
        return DRAGGED.format(x=x, y=y, to_x=to_x, to_y=to_y)
    return None


# -- typing. A policy's text is hostile input, and the package itself is the danger: it searches
# commands by regular expression for pyautogui.typewrite('...') with a `<` in it, also a `<` written
# as \x3c, and puts other source in its place. Where a text can bring such a call along, its quotes
# become quotes of the command, and the rest of it runs as Python in the machine.

LESS_THAN = "pyautogui.hotkey('shift', ',')"  # pyautogui writes > for < on Linux
HARMLESS = re.compile(r"[^'\"\\()<]*")
# xclip stays behind to serve the clipboard and keeps the pipes of its parent open: the machine's
# server would wait 120 s for their end (measured: the same command takes 0.1 s with them closed).
LEAVE_THE_PIPES = (
    "import os, pyperclip; null = os.open(os.devnull, os.O_WRONLY); "
    "os.dup2(null, 1); os.dup2(null, 2)"
)


def typed(text: str) -> str | None:
    """The command that enters a text exactly; None for an empty one, or one that is no text.

    By keys, in pieces, so that no command ever holds `<`. pyautogui drops what is not ASCII and
    makes a tab move the focus: such a text is pasted instead, with ctrl+v, which a terminal does
    not take.
    """
    try:
        text.encode()
    except UnicodeEncodeError:  # half of a surrogate pair
        return None
    if not text:
        return None
    if not by_keys(text):
        paste = f"pyperclip.copy({inert(text)}); pyautogui.hotkey('ctrl', 'v')"
        return f"{LEAVE_THE_PIPES}; {paste}"
    commands = []
    for piece in re.split("(<)", text):
        if piece == "<":
            commands.append(LESS_THAN)
        elif piece:
            commands.append(f"pyautogui.write({inert(piece)}, interval=0.02)")
    return "; ".join(commands)


def by_keys(text: str) -> bool:
    """Whether each character has a key of its own: printable ASCII."""
    return text.isascii() and text.isprintable()


def inert(text: str) -> str:
    """The text as a Python expression in which no part of it can act.

    A text without quotes, backslashes and brackets stands as it is, so that logs can be read; of
    any other only hexadecimal digits.

    >>> inert("amber"), inert("it's")
    ("'amber'", "bytes.fromhex('69742773').decode()")
    """
    if by_keys(text) and HARMLESS.fullmatch(text):
        return f"'{text}'"
    return f"bytes.fromhex('{text.encode().hex()}').decode()"


# -- keys. The names of the package's KEYBOARD_KEYS that do something on Linux; pyautogui ignores
# all others without a word. Upper-case letters are the same keys, and `<` is shift and comma.

NAMED_KEYS = """
    add alt altleft altright apps backspace capslock ctrl ctrlleft ctrlright decimal del delete
    divide down end enter esc escape f1 f2 f3 f4 f5 f6 f7 f8 f9 f10 f11 f12 help home insert left
    multiply num0 num1 num2 num3 num4 num5 num6 num7 num8 num9 numlock pagedown pageup pause pgdn
    pgup print printscreen prntscrn prtsc prtscr right scrolllock shift shiftleft shiftright
    subtract tab up win winleft winright
"""
CHARACTER_KEYS = string.ascii_lowercase + string.digits + string.punctuation + " "
KEYS = (frozenset(NAMED_KEYS.split()) | frozenset(CHARACTER_KEYS)) - {"<"}
SAME_KEY = {
    "return": "enter",
    "control": "ctrl",
    "option": "alt",
    "cmd": "win",
    "command": "win",
    "meta": "win",
    "super": "win",
    "arrowup": "up",
    "arrowdown": "down",
    "arrowleft": "left",
    "arrowright": "right",
    "space": " ",
    "plus": "+",
}


def pressed(text: str) -> str | None:
    """The command for key names joined by +; None where one of them is no key of the machine.

    >>> pressed("Ctrl+C"), pressed("ctrl++"), pressed("ctrl+any")
    ("pyautogui.hotkey('ctrl', 'c')", "pyautogui.hotkey('ctrl', '+')", None)
    """
    names = text.lower().split("+")
    if names[-2:] == ["", ""]:  # of "ctrl++", or of "+" alone: the plus key itself
        names[-2:] = ["plus"]
    keys = []
    for name in names:
        name = name.strip()
        key = SAME_KEY.get(name, name)
        if key == "<":
            keys += ["shift", ","]
        elif key in KEYS:
            keys.append(key)
        else:
            return None
    return f"pyautogui.hotkey({', '.join(map(repr, keys))})"


# ---- the world -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Pauses:
    """Seconds of waiting, as the official runner waits."""

    after_reset: float = 60.0  # until the desktop has settled
    after_action: float = 2.0
    before_grading: float = 20.0  # until programs have written their files


class Crash(Exception):
    """The machine, its package or a grader failed: it costs this task."""


@contextmanager
def as_crash(doing: str) -> Iterator[None]:
    """Whatever the package raises inside, of which there is no list, becomes a Crash."""
    try:
        yield
    except Exception as problem:
        raise Crash(f"{doing}: {told(problem)}") from problem


class OSWorld:
    """Tasks on a DesktopEnv, with the interface of envs.ToyGUI; there is no oracle.

    `env`: the package's DesktopEnv. Steps are written to `folder` where there is one, with `plan`,
    the planner's last one (episodes.noting), as the policy's answer.
    """

    oracle_steps = 0  # nobody knows how many are needed

    def __init__(
        self,
        env,
        tasks: Sequence[Task],
        *,
        history: int = 4,
        budget: int = BUDGETS[0],
        pauses: Pauses = Pauses(),
    ):
        self.env = env
        self.tasks = tasks
        self.history = history
        self.max_steps = budget
        self.pauses = pauses
        self.folder: TaskFolder | None = None
        self.plan = Plan([])

    def reset(self, seed: int) -> tuple[Observation, dict]:
        """Begin the task of this number. Crash where the machine cannot be set up for it."""
        self.task = self.tasks[seed]
        self.steps = 0
        self.past: list[str] = []
        self.png = b""  # the last picture of the screen
        self.score: float | None = None  # what the grader gave
        with as_crash("reset"):
            self.env.reset(task_config=self.task.config)
            time.sleep(self.pauses.after_reset)
            self.look(self.env._get_obs())
            if not self.png:
                raise OSError("the machine shows no picture")
        return self.observe(), {"oracle_steps": 0}

    def step(
        self, action: Action | None, said: str = ""
    ) -> tuple[Observation, float, bool, bool, dict]:
        """Carry out a grounded action; None stands for a refusal of the tool agent.

        `said` is the policy's own wording. What is refused or impossible costs a step, and the
        machine is only looked at. At the end of the task the grader's score, in 0..1, is the
        reward. Crash where the machine or the grader fails.
        """
        line = said if said else str(action)
        command = None if action is None else native(action, self.size)
        if action is None:
            result = "failed"
        elif command is None:
            result = "impossible"
        else:
            result = "ok"
        self.past.append(f"{line} failed" if result == "failed" else line)
        self.steps += 1
        terminated, facts = self.carry_out(command)
        truncated = not terminated and self.steps >= self.max_steps
        if self.folder is not None:
            record = {
                "action": command,
                "response": format_forecast(self.plan.forecast) or line,
                "reward": 0,  # as the package has it in each step
                "done": terminated,
                "info": facts,
                "result": result,
            }
            self.folder.add_step(record, self.png)
        if terminated or truncated:
            self.score = self.grade()
        info = {
            "result": result,
            "success": self.score == 1.0,
            "score": self.score,
            "steps": self.steps,
            "oracle_steps": 0,
        }
        return self.observe(), self.score or 0.0, terminated, truncated, info

    def carry_out(self, command: str | None) -> tuple[bool, dict]:
        """(whether that ends the task, what the package says of the step)"""
        with as_crash(f"step {self.steps}"):
            if command is None:
                self.look(self.env._get_obs())
                return False, {}
            seen, _reward, terminated, facts = self.env.step(command, self.pauses.after_action)
            self.look(seen)
            return terminated, facts

    def look(self, seen: dict) -> None:
        """Keep the new picture; the last one stays where the package got none in three tries."""
        try:
            picture = open_picture(seen["screenshot"] or b"")
        except (OSError, SyntaxError, ValueError):  # as Pillow says that it is none
            return
        self.png = seen["screenshot"]
        self.size = picture.size

    def grade(self) -> float:
        with as_crash("grading"):
            time.sleep(self.pauses.before_grading)
            score = float(self.env.evaluate())
            if not isfinite(score):
                raise ValueError(f"the grader gave {score}")
            return score

    def observe(self) -> Observation:
        screenshot = partial(open_picture, self.png)  # of this moment, whenever it is opened
        past = last_steps(self.past, self.history)
        return Observation(self.task.instruction, screenshot, past)

    def ground(self, action: Action) -> Action | None:
        """Without a tool agent that is named: the policy's own point; a refusal without one.

        DEPARTURE: in the paper a frozen tool agent finds each point.
        """
        if action.kind in POINTING and action.point is None:
            return None
        return action

    def visible(self) -> tuple[tuple[str, Box], ...]:
        return ()  # pixels only: nothing is known by name

    def oracle(self, horizon: int, exact: bool = False) -> list[Action]:
        return []

    def key(self) -> str:
        return f"{self.task.name}/{self.steps}"


def open_picture(png: bytes) -> Image.Image:
    return Image.open(io.BytesIO(png)).convert("RGB")


# ---- the evaluation ------------------------------------------------------------------------------

# What a resumed evaluation may have otherwise: its tasks' results stay as they are.
FREE_TO_CHANGE = ("path_to_vm", "tasks")


def check(
    clone: Path, machine: Machine, tasks: Sequence[str] = (), budget: int = BUDGETS[0]
) -> list[Task]:
    """The tasks; ValueError in one line for all that can be wrong before the machine starts.

    `clone`, `tasks`: see read_tasks. `budget`: steps a task.
    """
    if budget < 1:
        raise ValueError(f"{budget} steps a task: must be at least 1")
    check_machine(machine)
    chosen = read_tasks(clone, tasks)
    check_graders(chosen)
    return chosen


def check_graders(tasks: Sequence[Task]) -> None:
    """ValueError for a task whose grader the package lacks: the clone is of another version."""
    kind = desktop_class()
    env = kind.__new__(kind)  # without its constructor, which starts the machine
    for task in tasks:
        try:
            env._set_evaluator_info(task.config)
        except Exception as problem:  # whatever it raises at a task that it does not know
            raise ValueError(
                f"{task.name}: desktop-env {VERSION} cannot grade it ({told(problem)}); "
                f"{HOW_TO_CLONE}, or leave the task out"
            )


def evaluate(
    player: Player,
    output: Path,
    clone: Path,
    machine: Machine,
    tasks: Sequence[str] = (),
    budget: int = BUDGETS[0],
    pauses: Pauses = Pauses(),
) -> dict:
    """Play tasks of OSWorld, one after the other, on one virtual machine; see `summary`.

    `output`: the folder of the results; a task that has its result.txt there is not played again,
    any other is played anew. `clone`, `machine`, `tasks`, `budget`: see check. Without a
    tool agent the player's own points count. ValueError in one line for what is missing or does not
    fit; a Crash of the machine costs one task and a line.
    """
    chosen = check(clone, machine, tasks, budget)
    settings = {
        "protocol": "osworld",
        "action_space": "pyautogui",
        "observation_type": "screenshot",
        "provider_name": machine.provider,
        "path_to_vm": machine.path_to_vm,
        "desktop_env": VERSION,
        "commit": commit_of(clone),
        "tasks": list(tasks),
        "max_steps": budget,
        "sleep_after_execution": pauses.after_action,
    }
    settings |= player.settings
    if player.tool_agent is None:
        settings["points_by"] = OWN_POINTS  # there are no labels here
    results = output / "pyautogui" / "screenshot" / folder_name(player)
    claim = partial(open_folder, results, settings, "args.json", FREE_TO_CHANGE)
    if results.exists():
        claim()  # or refuse it, before the machine starts
    scores = read_scores(chosen, results)
    waiting = [number for number, task in enumerate(chosen) if task.name not in scores]
    crashes = {}
    bar = partial(tqdm, total=len(chosen), initial=len(scores), unit="task", mininterval=1)
    if waiting:
        with desktop(machine, output / "cache") as env:
            claim()  # not before: a machine that does not start leaves nothing behind
            world = OSWorld(env, chosen, history=player.history, budget=budget, pauses=pauses)
            for number in bar(waiting):
                name = chosen[number].name
                world.folder = TaskFolder(results / name)
                try:
                    play_task(player, world, number)
                    scores[name] = world.score
                except Crash as crash:
                    crashes[name] = str(crash)
                    tqdm.write(f"warning: {name} crashed: {crash}", file=sys.stderr)
    return settings | summary(chosen, scores, crashes, results)


def folder_name(player: Player) -> str:
    """The model's folder; after more training a run is another model."""
    name = f"{player.name} {player.weights}"
    return re.sub(r"[^\w.-]+", "_", name).strip("_.") or "policy"


def play_task(player: Player, world: OSWorld, number: int) -> None:
    """One task from reset to grade, written to the world's folder. Crash: its line is there."""
    planner = noting(player.planner)
    how = {"tool_agent": player.tool_agent, "carry": player.carry}
    try:
        with package_log(world.folder.path / "runtime.log"):
            play(planner, [world], [number], player.horizon, **how)
    except Crash as crash:
        world.folder.add_line({"Error": str(crash)})  # as the official runner does
        world.env.is_environment_used = True  # else the next task would meet what this one left
        raise
    world.folder.finish(world.score)


# ---- sums ----------------------------------------------------------------------------------------


def summary(
    tasks: Sequence[Task], scores: dict[str, float], crashes: dict[str, str], results: Path
) -> dict:
    """Numbers of an evaluation; `scores` and `crashes` by the tasks' names.

    score: the mean over all tasks that were asked for, with 0 for a crashed one;
    score_official: the official one, the mean over the finished ones (None: there are none);
    solved: how many had the full score; crashed: why, by task; domains: the same, a row a domain;
    results: how many steps were "ok", "failed" or "impossible".
    """
    domains = {}
    for domain, of_domain in by(tasks, lambda task: task.domain).items():
        domains[domain] = row(of_domain, scores)
    return {
        **row(tasks, scores),
        "crashed": crashes,
        "results": count_results(results / name for name in scores),
        "domains": domains,
    }


def row(tasks: Sequence[Task], scores: dict[str, float]) -> dict:
    """The numbers of some tasks."""
    finished = [scores[task.name] for task in tasks if task.name in scores]
    return {
        "score": sum(finished) / len(tasks),
        "score_official": mean(finished),
        "n": len(tasks),
        "finished": len(finished),
        "solved": finished.count(1.0),
    }


def table(result: dict) -> str:
    """One row a domain, and all of them together."""
    lines = [table_row("domain", "tasks", "finished", "solved", "score", "official")]
    for domain, numbers in [*result["domains"].items(), ("all", result)]:
        counts = numbers["n"], numbers["finished"], numbers["solved"]
        shares = percent(numbers["score"]), percent(numbers["score_official"])
        lines.append(table_row(domain, *counts, *shares))
    lines.append(
        f"score: a crashed task counts 0; official: over the finished ones. At most "
        f"{result['max_steps']} steps a task. Points by {result['points_by']}"
    )
    lines += [f"crashed: {name}: {why}" for name, why in result["crashed"].items()]
    return "\n".join(lines)
