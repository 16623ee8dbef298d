"""OSWorld and OSWorld-Verified: 369 tasks on a real desktop, in a virtual machine.

eval.py calls evaluate_osworld, for --bench osworld; docs/online.md says what to install.
The package desktop-env 1.0.2 starts the machine, carries actions out and grades; the tasks come
from a clone of github.com/xlang-ai/OSWorld. The package is optional and is imported inside
functions only. The agent sees pixels alone, no accessibility tree; no video is recorded.

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
import json
import logging
import re
import shutil
import signal
import string
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from math import isfinite
from pathlib import Path

from PIL import Image

from agent import Plan, Planner, format_forecast, play
from benchmarks.common import BadRecord, as_dict, get, mean, parse_json, read_lists, reason, within
from envs import POINTING, Action, Box, Observation, Point, ToolAgent, one_line
from extras.run_folder import changes, write

INSTALL = (
    "pip install --no-deps desktop-env==1.0.2 && pip install requests gymnasium, and for its "
    "graders what docs/online.md lists"
)
REPOSITORY = "https://github.com/xlang-ai/OSWorld"
BUDGETS = (15, 50, 100)  # steps, as published

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
        x, y = pixel(action.point or (0.5, 0.5), size)
        return SCROLLED[action.text].format(x=x, y=y)
    if action.kind == "drag":
        return dragged(action, size)
    if action.kind in POINTED and action.point is not None:
        x, y = pixel(action.point, size)
        return POINTED[action.kind].format(x=x, y=y)
    return None


def pixel(point: Point, size: tuple[int, int]) -> tuple[int, int]:
    """The pixel that a point in 0..1 lies on; 1.0 lies on the last one."""
    width, height = size
    x = int(point[0] * width)
    y = int(point[1] * height)
    return min(x, width - 1), min(y, height - 1)


def dragged(action: Action, size: tuple[int, int]) -> str | None:
    """From its point to its end; without both there is nothing to carry out."""
    if action.point is None or action.end is None:
        return None
    x1, y1 = pixel(action.point, size)
    x2, y2 = pixel(action.end, size)
    # A drag without duration is too quick for a window to notice.
    return f"pyautogui.moveTo({x1}, {y1}); pyautogui.dragTo({x2}, {y2}, 1, button='left')"


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


# ---- tasks of a clone ----------------------------------------------------------------------------

# Domains and ids become names of folders.
SAFE_NAME = re.compile(r"[A-Za-z0-9_-]+")


@dataclass(frozen=True)
class Task:
    """One task. In older clones two domains share ids: only both together name it."""

    domain: str
    id: str
    config: dict  # what DesktopEnv.reset takes

    @property
    def name(self) -> str:
        return f"{self.domain}/{self.id}"

    @property
    def instruction(self) -> str:
        return one_line(self.config["instruction"], limit=None)


def read_tasks(clone: str | Path, names: Sequence[str] = ()) -> list[Task]:
    """The tasks of a clone that are named, each once; all of test_all.json without a name.

    A name is a domain, a "domain/id", or one of the clone's own lists: "all" is test_all.json (369
    tasks), "nogdrive" test_nogdrive.json (the 361 that need no account of Google Drive), "small"
    test_small.json. ValueError in one line for a clone of another shape and an unknown name.
    """
    root = Path(clone) / "evaluation_examples"
    lists = {}
    for path in sorted(root.glob("test_*.json")):
        lists[path.stem.removeprefix("test_")] = path
    if "all" not in lists:
        raise ValueError(f"{root / 'test_all.json'} is missing: give a clone of {REPOSITORY}")
    every = read_names(lists["all"])
    domains = dict.fromkeys(name.split("/")[0] for name in every)
    chosen = {}  # in the place of an ordered set
    for wanted in names or ["all"]:
        if wanted in lists:
            matching = read_names(lists[wanted])
        elif wanted in domains:
            matching = [name for name in every if name.startswith(f"{wanted}/")]
        elif wanted in every:
            matching = [wanted]
        else:
            raise ValueError(
                f"unknown task {one_line(wanted, 80)!r}: give domain/id, a domain "
                f"({', '.join(domains)}) or a list of the clone ({', '.join(lists)})"
            )
        chosen |= dict.fromkeys(matching)
    if not chosen:
        raise ValueError(f"{root}: the lists that are asked for are empty")
    return [read_task(root, name) for name in chosen]


def read_names(path: Path) -> list[str]:
    """The "domain/id" of each task of a list: {domain: [ids]}, in its order."""
    names = []
    for domain, ids in read_lists(path).items():
        for ident in map(str, ids):
            if not SAFE_NAME.fullmatch(domain) or not SAFE_NAME.fullmatch(ident):
                raise ValueError(f"{path}: {one_line(f'{domain}/{ident}', 80)!r} names no task")
            names.append(f"{domain}/{ident}")
    return names


def read_task(root: Path, name: str) -> Task:
    domain, ident = name.split("/")
    path = root / "examples" / f"{name}.json"
    try:
        path = within(root / "examples", f"{name}.json")
        config = parse_json(path.read_bytes(), "task")
        if get(config, "id") != ident:
            raise BadRecord(f"id: {one_line(config['id'], 80)!r} in the file of {ident}")
        get(config, "instruction")
        if "func" not in get(config, "evaluator", dict):
            raise BadRecord("evaluator: no func")
    except (OSError, ValueError) as problem:
        raise ValueError(f"{path}: {reason(problem)}")
    return Task(domain, ident, config)


# ---- the virtual machine -------------------------------------------------------------------------

# Provider -> a program that must be in PATH: without it the package asks again and again, for ever.
# Its other providers are clouds, which want a region and an image of their own.
PROVIDERS = {"docker": None, "vmware": "vmrun", "virtualbox": "VBoxManage"}


@dataclass(frozen=True)
class Machine:
    """Which virtual machine; without a path the package takes its own image, or downloads it."""

    provider: str
    path_to_vm: str = ""  # docker: the .qcow2, vmware: the .vmx, virtualbox: the .vbox


@dataclass(frozen=True)
class Pauses:
    """Seconds of waiting, as the official runner waits."""

    after_reset: float = 60.0  # until the desktop has settled
    after_action: float = 2.0
    before_grading: float = 20.0  # until programs have written their files


def check_machine(machine: Machine) -> None:
    """ValueError in one line for what the package itself would not say, or only after long."""
    if machine.provider not in PROVIDERS:
        raise ValueError(
            f"unknown provider {one_line(machine.provider, 80)!r}: one of {', '.join(PROVIDERS)}"
        )
    program = PROVIDERS[machine.provider]
    if program is not None and shutil.which(program) is None:
        raise ValueError(f"provider {machine.provider}: {program} is not in PATH; install it first")
    if machine.path_to_vm and not Path(machine.path_to_vm).is_file():
        # Docker would make a folder of that name, and start without a disk.
        raise ValueError(f"path_to_vm {machine.path_to_vm}: there is no such file")


def desktop_class() -> type:
    """The package's DesktopEnv; ValueError in one line where it cannot be imported."""
    try:
        from desktop_env.desktop_env import DesktopEnv
    except ImportError as problem:
        raise ValueError(f"OSWorld needs desktop-env ({one_line(str(problem), 200)}): {INSTALL}")
    return DesktopEnv


@contextmanager
def desktop(machine: Machine, cache: Path) -> Iterator:
    """The package's DesktopEnv with its machine started; stopped at the end, however that comes.

    An end by return, exception, ctrl+c or SIGTERM stops the machine, also while it starts. After
    SIGKILL nothing can: a container goes on (`docker ps --filter ancestor=happysixd/osworld-docker`
    shows it, `docker rm -f` ends it), and so does a machine of vmware or virtualbox.

    `cache`: a folder for what the graders download. ValueError in one line where it does not start.
    """
    kind = desktop_class()
    env = kind.__new__(kind)  # its constructor starts the machine: by then it must be in our hands
    with sigterm_as_exit():
        try:
            start(env, machine, cache)
            yield env
        finally:
            signal.signal(signal.SIGTERM, signal.SIG_IGN)  # a second one must not interrupt this
            stop(env)


def start(env, machine: Machine, cache: Path) -> None:
    try:
        env.__init__(
            provider_name=machine.provider,
            path_to_vm=machine.path_to_vm or None,
            action_space="pyautogui",
            cache_dir=str(cache),
            headless=True,
            require_a11y_tree=False,
        )
    except Exception as problem:  # of docker, of a command, of the network
        raise ValueError(f"provider {machine.provider}: no virtual machine ({told(problem)})")


def stop(env) -> None:
    if not hasattr(env, "path_to_vm"):  # it ended before anything was started
        return
    try:
        env.close()
    except Exception as problem:
        print(f"warning: the machine may still run ({told(problem)})", file=sys.stderr)


def told(problem: Exception) -> str:
    return f"{type(problem).__name__}: {one_line(str(problem), 200)}"


@contextmanager
def sigterm_as_exit() -> Iterator[None]:
    """Inside it, SIGTERM is an exception that passes through all `finally`; main thread only.

    The package has bare `except:` in its loops, which can swallow one; the next one works.
    """

    def leave(number: int, _frame) -> None:
        raise SystemExit(128 + number)

    before = signal.signal(signal.SIGTERM, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


# ---- the world -----------------------------------------------------------------------------------


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

    `env`: the package's DesktopEnv. Steps are written to `folder` where there is one, with
    `response` as the policy's answer.
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
        self.response = ""

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
        command = None
        if action is None:
            result = "failed"
            self.past.append(f"{line} failed")
        else:
            command = native(action, self.size)
            result = "ok" if command else "impossible"
            self.past.append(line)
        self.steps += 1
        terminated, facts = self.carry_out(command)
        truncated = not terminated and self.steps >= self.max_steps
        if self.folder is not None:
            record = {
                "action": command,
                "response": self.response or line,
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
        first_shown = max(0, len(self.past) - self.history)
        return Observation(self.task.instruction, screenshot, tuple(self.past[first_shown:]))

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

    def close(self) -> None:
        """Stop the machine; `desktop` does it too."""
        self.env.close()


def open_picture(png: bytes) -> Image.Image:
    return Image.open(io.BytesIO(png)).convert("RGB")


# ---- results, in the official runner's layout ----------------------------------------------------
#
#     OUTPUT/pyautogui/screenshot/<model>/args.json
#     OUTPUT/pyautogui/screenshot/<model>/<domain>/<id>/
#         step_<n>_<time>.png    the screen after the step
#         traj.jsonl             a line a step
#         result.txt             the score: with it the task is finished
#         runtime.log            what the package said


@dataclass
class TaskFolder:
    """The files of one task; whatever lay there before is an unfinished attempt and goes."""

    path: Path
    lines: list[str] = field(default_factory=list)  # of traj.jsonl

    def __post_init__(self):
        if self.path.exists():
            shutil.rmtree(self.path)
        self.path.mkdir(parents=True)

    def add_step(self, record: dict, png: bytes) -> None:
        number = len(self.lines) + 1
        now = time.strftime("%Y%m%d@%H%M%S")
        picture = f"step_{number}_{now}.png"
        (self.path / picture).write_bytes(png)
        self.add_line(
            {
                "step_num": number,
                "action_timestamp": now,
                **record,
                "screenshot_file": picture,
            }
        )

    def add_line(self, record: dict) -> None:
        self.lines.append(json.dumps(record) + "\n")
        write(self.path / "traj.jsonl", "".join(self.lines))

    def finish(self, score: float) -> None:
        write(self.path / "result.txt", f"{score}\n")


def read_scores(tasks: Sequence[Task], results: Path) -> dict[str, float]:
    """The scores of the tasks that are finished, by name."""
    scores = {}
    for task in tasks:
        try:
            score = float((results / task.name / "result.txt").read_text())
        except (OSError, ValueError):
            continue
        if isfinite(score):
            scores[task.name] = score
    return scores


@contextmanager
def package_log(path: Path) -> Iterator[None]:
    """Inside it, what the package logs goes to this file and not to the terminal."""
    logger = logging.getLogger("desktopenv")
    handler = logging.FileHandler(path)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s %(message)s"))
    before = (logger.level, logger.propagate)
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    logger.propagate = False
    try:
        yield
    finally:
        logger.removeHandler(handler)
        handler.close()
        logger.level, logger.propagate = before


# ---- the evaluation ------------------------------------------------------------------------------

OWN_POINTS = "none: the policy's own points"
# What a resumed evaluation may have otherwise: its tasks' results stay as they are.
FREE_TO_CHANGE = ("path_to_vm", "tasks")


def check_osworld(
    clone: str | Path, machine: Machine, tasks: Sequence[str] = (), budget: int = BUDGETS[0]
) -> list[Task]:
    """The tasks; ValueError in one line for all that can be wrong before the machine starts."""
    if budget < 1:
        raise ValueError(f"{budget} steps a task: must be at least 1")
    check_machine(machine)
    chosen = read_tasks(clone, tasks)
    desktop_class()
    return chosen


def evaluate_osworld(
    planner: Planner,
    clone: str | Path,
    output: str | Path,
    *,
    provider: str,
    path_to_vm: str = "",
    tasks: Sequence[str] = (),
    budget: int = BUDGETS[0],
    horizon: int = 5,
    history: int = 4,
    tool_agent: ToolAgent | None = None,
    tool_agent_name: str = "",
    carry: bool = False,
    model_name: str = "policy",
    pauses: Pauses = Pauses(),
    progress: Callable[[int], object] = lambda more: None,
) -> dict:
    """Play tasks of OSWorld, one after the other, on one virtual machine; see `summary`.

    `clone`, `tasks`: see read_tasks. `output`: the folder of the results; a task that has its
    result.txt there is not played again, any other is played anew. `budget`: steps a task.
    `tool_agent`: finds points by pixels (None: the policy's own points, else the step fails).
    `progress` is told how many more tasks have been played. ValueError in one line for what is
    missing or does not fit; a Crash of the machine costs one task and a line.
    """
    machine = Machine(provider, path_to_vm)
    chosen = check_osworld(clone, machine, tasks, budget)
    settings = {
        "model": model_name,
        "action_space": "pyautogui",
        "observation_type": "screenshot",
        "provider_name": provider,
        "path_to_vm": path_to_vm,
        "desktop_env": package_version(),
        "tasks": list(tasks),
        "max_steps": budget,
        "sleep_after_execution": pauses.after_action,
        "horizon": horizon,
        "history": history,
        "carry": carry,
        "tool_agent": name_tool_agent(tool_agent, tool_agent_name),
    }
    results = open_results(Path(output), settings)
    scores = read_scores(chosen, results)
    progress(len(scores))
    waiting = [number for number, task in enumerate(chosen) if task.name not in scores]
    crashes = {}
    if waiting:
        with desktop(machine, Path(output) / "cache") as env:
            world = OSWorld(env, chosen, history=history, budget=budget, pauses=pauses)
            for number in waiting:
                name = chosen[number].name
                world.folder = TaskFolder(results / name)
                try:
                    play_task(planner, world, number, horizon, tool_agent, carry)
                    scores[name] = world.score
                except Crash as crash:
                    crashes[name] = str(crash)
                    print(f"warning: {name} crashed: {crash}", file=sys.stderr)
                progress(1)
    return {"protocol": "osworld", **settings, **summary(chosen, scores, crashes, results)}


def package_version() -> str:
    try:
        return version("desktop-env")
    except PackageNotFoundError:  # it was not installed but put into the path
        return "unknown"


def name_tool_agent(tool_agent: ToolAgent | None, name: str) -> str:
    if tool_agent is None:
        return OWN_POINTS
    return name or "unnamed"


def open_results(output: Path, settings: dict) -> Path:
    """The model's folder, made, or checked: what lies there was played with the same settings."""
    model = re.sub(r"[^\w.-]+", "_", settings["model"]).strip("_.") or "policy"
    folder = output / settings["action_space"] / settings["observation_type"] / model
    path = folder / "args.json"
    if path.exists():
        before = as_dict(parse_json(path.read_text(), str(path)))
        different = changes(before, settings, FREE_TO_CHANGE)
        if different:
            raise ValueError(f"{folder} holds results of another evaluation: {different}")
    folder.mkdir(parents=True, exist_ok=True)
    write(path, json.dumps(settings, indent=1))
    return folder


def play_task(
    planner: Planner,
    world: OSWorld,
    number: int,
    horizon: int,
    tool_agent: ToolAgent | None,
    carry: bool,
) -> None:
    """One task from reset to grade, written to the world's folder. Crash: its line is there."""

    def plan(observations: list[Observation], envs: list) -> list[Plan]:
        plans = planner(observations, envs)
        world.response = format_forecast(plans[0].forecast)  # the whole of it, for the log
        return plans

    try:
        with package_log(world.folder.path / "runtime.log"):
            play(plan, [world], [number], horizon, tool_agent=tool_agent, carry=carry)
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
    by_domain = {}
    for task in tasks:
        by_domain.setdefault(task.domain, []).append(task.name)
    domains = {domain: row(names, scores) for domain, names in by_domain.items()}
    return {
        **row([task.name for task in tasks], scores),
        "crashed": crashes,
        "results": count_results(results / name for name in scores),
        "domains": domains,
    }


def row(names: Sequence[str], scores: dict[str, float]) -> dict:
    """The numbers of some tasks."""
    finished = [scores[name] for name in names if name in scores]
    return {
        "score": sum(finished) / len(names),
        "score_official": mean(finished),
        "n": len(names),
        "finished": len(finished),
        "solved": finished.count(1.0),
    }


def count_results(folders: Iterable[Path]) -> dict[str, int]:
    """How often each result stands in the logs of finished tasks; another program's have none."""
    counts = Counter()
    for folder in folders:
        log = folder / "traj.jsonl"
        if not log.exists():
            continue
        for line in log.read_text().splitlines():
            result = as_dict(parse_json(line, str(log))).get("result")
            if isinstance(result, str):
                counts[result] += 1
    return dict(counts)


def table(result: dict) -> str:
    """One row a domain, and all of them together."""
    lines = [
        f"{'domain':20} {'tasks':>6} {'finished':>9} {'solved':>7} {'score':>7} {'official':>9}"
    ]
    for domain, numbers in result["domains"].items():
        lines.append(table_row(domain, numbers))
    lines.append(table_row("all", result))
    lines.append(
        f"score: a crashed task counts 0; official: over the finished ones. At most "
        f"{result['max_steps']} steps a task. Tool agent: {result['tool_agent']}"
    )
    for name, why in result["crashed"].items():
        lines.append(f"crashed: {name}: {why}")
    return "\n".join(lines)


def table_row(name: str, numbers: dict) -> str:
    official = "none"
    if numbers["score_official"] is not None:
        official = f"{numbers['score_official']:.1%}"
    cells = [
        f"{name:20}",
        f"{numbers['n']:6}",
        f"{numbers['finished']:9}",
        f"{numbers['solved']:7}",
        f"{numbers['score']:7.1%}",
        f"{official:>9}",
    ]
    return " ".join(cells)
