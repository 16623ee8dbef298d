"""AndroidWorld (google-research/android_world): 116 tasks on a running Android emulator.

eval.py calls evaluate_androidworld, for --bench androidworld; docs/online.md says what to install.
It brings an agent for *their* runner, which sets tasks up, counts the budget, grades and resumes:
nothing of that is done here, so that the numbers are the official ones. android_world is optional
and is imported inside functions only, from the clone that the user names.

| unified               | JSONAction            | what the phone gets                             |
|-----------------------|-----------------------|-------------------------------------------------|
| click, long_press     | click, long_press     | a tap, a press of 1 s                           |
| double_click          | double_tap            | two taps                                        |
| type                  | input_text            | the ASCII part word by word, **and then Enter** |
| key enter, key return | keyboard_enter        | Enter; there is no other key                    |
| scroll                | scroll                | a swipe from the middle to an edge              |
| back, home, wait      | navigate_back, ...    | a key; a second                                 |
| open_app              | open_app              | the app, if their table knows its name          |
| answer                | answer                | nothing: the grader reads env.interaction_cache |
| done, fail            | status                | nothing: the episode ends                       |
| drag, hover, select,  | none: "impossible"    | nothing; their swipe goes from edge to edge and |
| right_click, recent,  |                       | cannot carry the two points of a drag           |
| call                  |                       |                                                 |
"""

import inspect
import json
import shutil
import socket
import subprocess
import sys
import unicodedata
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import redirect_stdout
from dataclasses import asdict, dataclass, field
from importlib import import_module
from pathlib import Path
from statistics import mean

from PIL import Image

from agent import Planner, execute_first_steps
from benchmarks.common import as_dict, parse_json
from benchmarks.episodes import SETTINGS, Player
from envs import TERMINAL, Action, Box, Observation, ToolAgent, find_element, one_line
from extras.run_folder import changes, write

COMMIT = "d9c569f764b3a5629321858de03ff653d0f24056"  # 24 Feb 2026: what this file was tested with
SEED = 30  # of the tasks' parameters, as in their run.py
FAMILY = "android_world"
HOW_TO_INSTALL = "docs/online.md says how to install it"


# ---- unified actions in AndroidWorld's words ----------------------------------------------------

GESTURES = {"click": "click", "double_click": "double_tap", "long_press": "long_press"}
BUTTONS = {"back": "navigate_back", "home": "navigate_home", "wait": "wait"}
STATUS = {"done": "complete", "fail": "infeasible"}
ENTER = ("enter", "return")

CONTROL_TO_BLANK = dict.fromkeys([*range(32), 127], " ")


def native(
    action: Action, size: tuple[int, int], knows_app: Callable[[str], bool]
) -> dict[str, str | int] | None:
    """The keyword arguments of their JSONAction, or None where Android has no such action.

    `size`: logical width and height in px (they turn with the phone). `knows_app`: whether their
    table has a lower-case name; an unknown one would reach the phone's shell as it stands.
    `type` is theirs: it presses Enter behind the text, loses what is not ASCII, and the phone's
    shell and `input` have their own mind about `*`, `?`, `[`, `{`, `~` and `%s`. `scroll` has no
    index: they would not look at 0.

    >>> native(Action("click", "Save", (0.5, 1.0)), (1080, 2400), knows_app=bool)
    {'action_type': 'click', 'x': 540, 'y': 2399}
    >>> native(Action("hover", "Save", (0.5, 1.0)), (1080, 2400), knows_app=bool) is None
    True
    """
    kind = action.kind
    text = action.text
    if kind in GESTURES and action.point is not None:
        x, y = to_pixels(action.point, size)
        return {"action_type": GESTURES[kind], "x": x, "y": y}
    if kind in BUTTONS:
        return {"action_type": BUTTONS[kind]}
    if kind in STATUS:
        return {"action_type": "status", "goal_status": STATUS[kind]}
    if kind == "scroll":
        return {"action_type": "scroll", "direction": text}
    if kind == "type" and typeable(text):
        return {"action_type": "input_text", "text": typeable(text)}
    if kind == "key" and text.lower() in ENTER:
        return {"action_type": "keyboard_enter"}
    if kind == "open_app" and knows_app(text.lower()):
        return {"action_type": "open_app", "app_name": text.lower()}
    if kind == "answer":
        return {"action_type": "answer", "text": text}
    return None


def to_pixels(point: tuple[float, float], size: tuple[int, int]) -> tuple[int, int]:
    """The pixel that a point in 0..1 lies on; 1.0 lies on the last one."""
    x, y = point
    width, height = size
    return min(width - 1, int(x * width)), min(height - 1, int(y * height))


def typeable(text: str) -> str:
    """What AndroidWorld can type of a text: printable ASCII.

    They escape what a shell would read and decompose the characters *then*, so that a full-width
    semicolon becomes a plain one that nothing escapes. Decomposed here, it is escaped by them.

    >>> typeable("Zoë； 漢")
    'Zoe; '
    """
    decomposed = unicodedata.normalize("NFKD", text)
    ascii_only = decomposed.encode("ascii", "ignore").decode()
    return ascii_only.translate(CONTROL_TO_BLANK)


# ---- what is seen -------------------------------------------------------------------------------


def labelled_boxes(ui_elements: Sequence, size: tuple[int, int]) -> tuple[tuple[str, Box], ...]:
    """(label, box in 0..1) of their UIElements, cut to the screen; nothing without either.

    A label is the text, else the description, else the hint, on one line as all texts of actions.
    """
    width, height = size
    found = []
    for element in ui_elements:
        label = element.text or element.content_description or element.hint_text
        pixels = element.bbox_pixels
        if not label or pixels is None:
            continue
        left = max(0.0, pixels.x_min / width)
        top = max(0.0, pixels.y_min / height)
        right = min(1.0, pixels.x_max / width)
        bottom = min(1.0, pixels.y_max / height)
        if left < right and top < bottom:
            found.append((one_line(label), (left, top, right, bottom)))
    return tuple(found)


QUARTER_TURNS = {1: Image.Transpose.ROTATE_90, 3: Image.Transpose.ROTATE_270}


def upright(
    picture: Image.Image, size: tuple[int, int], orientation: Callable[[], int]
) -> Image.Image:
    """The screenshot as a person holds the phone: the emulator's own stays in portrait.

    `orientation`: 0 to 3, as their env.orientation has it; the phone is asked only where needed.
    """
    width, height = size
    lies = (picture.width > picture.height) != (width > height)
    if not lies:
        return picture
    turn = QUARTER_TURNS.get(orientation())
    if turn is None:
        return picture
    return picture.transpose(turn)


# ---- the agent ----------------------------------------------------------------------------------


@dataclass
class Step:
    """What happened in one step; it goes into their records as a dictionary, and is the log."""

    forecast: list[str] = field(default_factory=list)
    executed: dict | None = None  # keyword arguments of their JSONAction
    result: str = "failed"  # "ok"; "failed": no point, nothing to read, an error; "impossible"
    error: str = ""  # of ours or of the phone
    tokens: int = 0  # written for it, thoughts included
    done: bool = False  # the agent ends the episode


class Pilot:
    """One episode of agent.play on a phone, a step at a time, in a loop that is not ours."""

    def __init__(
        self,
        player: Player,
        env,
        make_action: Callable,
        knows_app: Callable[[str], bool],
    ):
        """`env`: their AsyncEnv; `make_action`: their JSONAction; `knows_app`: see native."""
        self.player = player
        self.env = env
        self.make_action = make_action
        self.knows_app = knows_app
        self.past: list[str] = []
        self.plan: tuple[Action, ...] = ()
        self.size = (0, 0)
        self.elements: tuple[tuple[str, Box], ...] = ()

    def step(self, goal: str, look: Callable) -> Step:
        """Forecast, ground the first action, carry it out. Never raises.

        `look` waits for the screen and returns their State. An episode in which the agent raises is
        left out of their mean, as if it had never been played: an error of ours or of the phone is
        a failed step instead.
        """
        step = Step()
        try:
            self.take(step, goal, look())
        except Exception as problem:  # the result stays "failed"
            step.error = one_line(f"{type(problem).__name__}: {problem}", 200)
            print(f"warning: a step failed: {step.error}", file=sys.stderr)
        said = step.forecast[0] if step.forecast else "unreadable"
        if step.result == "failed":
            said += " failed"
        self.past.append(said)
        return step

    def take(self, step: Step, goal: str, state) -> None:
        """One round of agent.play; `step` is filled in as far as it comes."""
        observation = self.observe(goal, state)
        [plan] = self.player.planner([observation], [self])
        step.forecast = [str(action) for action in plan.forecast]
        step.tokens = plan.tokens
        if self.player.carry:
            self.plan = tuple(plan.forecast[1:])
        [action] = execute_first_steps([plan], [observation], [self], self.player.tool_agent)
        if action is None:
            return
        step.executed = native(action, self.size, self.knows_app)
        if step.executed is None:
            step.result = "impossible"
            return
        self.execute(step.executed)
        step.result = "ok"
        step.done = action.kind in TERMINAL

    def observe(self, goal: str, state) -> Observation:
        self.size = self.env.logical_screen_size
        self.elements = labelled_boxes(state.ui_elements, self.size)
        picture = Image.fromarray(state.pixels)
        picture = upright(picture, self.size, lambda: self.env.orientation)
        first_shown = max(0, len(self.past) - self.player.history)
        past = tuple(self.past[first_shown:])
        return Observation(goal, lambda: picture, past, self.plan)

    def visible(self) -> tuple[tuple[str, Box], ...]:
        return self.elements

    def ground(self, action: Action) -> Action | None:
        """The frozen tool agent that reads the element tree: exact labels, nothing near them."""
        exact = [element for element in self.elements if element[0] == action.text]
        return find_element(action, exact, key=str(self.elements))

    def execute(self, arguments: dict) -> None:
        """Hand an action to the phone.

        An answer goes where the grader looks for it and no further: execute_action would also show
        it on the screen, by way of the phone's shell and unescaped.
        """
        if arguments["action_type"] == "answer":
            self.env.interaction_cache = arguments["text"]
            return
        self.env.execute_action(self.make_action(**arguments))


def make_agent(player: Player, env):
    """The agent for their runner; it waits for a still screen, as with their run.py."""
    from android_world.agents import base_agent
    from android_world.env import json_action

    class Agent(base_agent.EnvironmentInteractingAgent):
        def __init__(self):
            super().__init__(env, player.name, transition_pause=None)

        def reset(self, go_home: bool = False) -> None:
            super().reset(go_home)
            self.env.hide_automation_ui()
            self.pilot = Pilot(player, self.env, json_action.JSONAction, knows_app)

        def step(self, goal: str) -> base_agent.AgentInteractionResult:
            step = self.pilot.step(goal, self.get_post_transition_state)
            return base_agent.AgentInteractionResult(step.done, asdict(step))

    return Agent()


def knows_app(name: str) -> bool:
    """Whether they start an app of this name by a table, so that the name reaches no shell."""
    from android_world.env import adb_utils

    return name in adb_utils._DEFAULT_URIS or adb_utils.get_adb_activity(name) is not None


# ---- the package and the phone ------------------------------------------------------------------

# What is called of android_world, and the parameters that it must have.
CALLED = {
    "android_world.agents.base_agent.AgentInteractionResult": ("done", "data"),
    "android_world.agents.base_agent.EnvironmentInteractingAgent": ("env", "transition_pause"),
    "android_world.checkpointer.IncrementalCheckpointer": ("directory",),
    "android_world.env.adb_utils.get_adb_activity": ("app_name",),
    "android_world.env.env_launcher.load_and_setup_env": ("console_port", "adb_path", "grpc_port"),
    "android_world.env.json_action.JSONAction": (
        "action_type",
        "x",
        "y",
        "text",
        "direction",
        "goal_status",
        "app_name",
    ),
    "android_world.registry.TaskRegistry": (),
    "android_world.suite_utils.create_suite": ("n_task_combinations", "seed", "tasks"),
    "android_world.suite_utils.run": ("suite", "agent", "checkpointer", "process_episodes_fn"),
}


def load_package(clone: Path) -> str:
    """Import android_world from its clone, so that what runs is that commit; returns the commit.

    ValueError in one line where there is no clone, a package is missing, or another version lacks
    what is called here.
    """
    clone = clone.resolve()
    if not (clone / "android_world" / "suite_utils.py").is_file():
        raise ValueError(f"{clone}: no clone of github.com/google-research/android_world is there")
    sys.path.insert(0, str(clone))
    try:
        for name, parameters in CALLED.items():
            check_called(name, parameters)
    except AttributeError as problem:
        raise ValueError(f"{clone}: another version ({problem}); needed: commit {COMMIT}")
    except Exception as problem:  # foreign code is imported: protobuf has errors of its own
        reason = one_line(str(problem), 200)
        raise ValueError(f"{clone}: android_world cannot be imported ({reason}); {HOW_TO_INSTALL}")
    finally:
        sys.path.remove(str(clone))
    imported = Path(import_module("android_world").__file__).resolve()
    if not imported.is_relative_to(clone):
        raise ValueError(f"{clone}: android_world was imported from {imported.parent} before")
    return commit_of(clone)


def check_called(name: str, parameters: Sequence[str]) -> None:
    """AttributeError where a module of theirs lacks this function or class, or a parameter."""
    module_name, _, attribute = name.rpartition(".")
    called = getattr(import_module(module_name), attribute)
    has = inspect.signature(called).parameters
    for parameter in parameters:
        if parameter not in has:
            raise AttributeError(f"{name} has no parameter {parameter}")


def commit_of(clone: Path) -> str:
    """The commit of a clone, with "-dirty" behind it where a file was changed; or "unknown"."""
    # Its own .git: git would look for one in the folders above it, too.
    git = ["git", f"--git-dir={clone / '.git'}", f"--work-tree={clone}"]
    # No tag, but the hash itself.
    command = [*git, "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return done.stdout.strip()


def make_suite(tasks: Sequence[str], combinations: int):
    """Their suite, with the seed of their run.py; `tasks`: some of its templates (none: all).

    ValueError for a task that they do not have.
    """
    from android_world import registry, suite_utils

    if combinations < 1:
        raise ValueError(f"{combinations} combinations of a task: must be at least 1")
    templates = registry.TaskRegistry().get_registry(FAMILY)
    suite = suite_utils.create_suite(
        templates, n_task_combinations=combinations, seed=SEED, tasks=list(tasks) or None
    )
    suite.suite_family = FAMILY
    return suite


CONSOLE_PORT = 5554
GRPC_PORT = 8554
EMULATOR = f"emulator-{CONSOLE_PORT}"
START_IT = f"start it with emulator -avd AndroidWorldAvd -no-snapshot -grpc {GRPC_PORT}"


def find_adb() -> str:
    """The adb in PATH, or where Android's SDK is usually installed."""
    in_path = shutil.which("adb")
    if in_path:
        return in_path
    for sdk in ("Android/Sdk", "Library/Android/sdk"):
        adb = Path.home() / sdk / "platform-tools" / "adb"
        if adb.is_file():
            return str(adb)
    raise ValueError("adb was not found: put Android's platform-tools into PATH")


def check_emulator(adb: str) -> None:
    """ValueError where no emulator runs, or one that does not listen where it must."""
    try:
        done = subprocess.run([adb, "devices"], capture_output=True, text=True, timeout=60)
    except (OSError, subprocess.TimeoutExpired) as problem:
        raise ValueError(f"{adb} does not work: {one_line(str(problem), 200)}")
    lines = [line.split() for line in done.stdout.splitlines()]
    if [EMULATOR, "device"] not in lines:
        raise ValueError(f"no {EMULATOR} in the list of `adb devices`: {START_IT}")
    try:
        socket.create_connection(("localhost", GRPC_PORT), timeout=10).close()
    except OSError:
        raise ValueError(f"{EMULATOR} does not listen on port {GRPC_PORT}: {START_IT}")


def connect(adb: str):
    """Their environment on the running emulator, as their run.py makes it."""
    from absl import logging
    from android_world.env import env_launcher

    logging.set_verbosity(logging.FATAL)  # what goes wrong is said below, in one line
    try:
        env = env_launcher.load_and_setup_env(
            console_port=CONSOLE_PORT, adb_path=adb, grpc_port=GRPC_PORT
        )
    except Exception as problem:  # of gRPC, adb or android_env
        raise ValueError(f"{EMULATOR} does not answer: {one_line(str(problem), 200)}")
    logging.set_verbosity(logging.WARNING)
    return env


# ---- the evaluation -----------------------------------------------------------------------------


def evaluate_androidworld(
    planner: Planner,
    clone: str | Path,
    output: str | Path,
    *,
    tasks: Sequence[str] = (),
    combinations: int = 1,
    horizon: int = 5,
    history: int = 4,
    tool_agent: ToolAgent | None = None,
    tool_agent_name: str = "",
    carry: bool = False,
    model_name: str = "policy",
    progress: Callable[[int], object] = lambda more: None,
) -> dict:
    """Play AndroidWorld by its own runner, on the emulator that runs; see `summary`.

    `clone`: of android_world, by git. `output`: the folder of their checkpoints, with which a
    killed evaluation goes on. `tasks`: names of templates (none: all 116). `combinations`: how many
    instances of each. `tool_agent`: finds points by pixels (None: exact labels of the element
    tree). `progress` is told how many more episodes have been played. ValueError in one line for
    what is missing or does not fit.
    """
    player = Player(
        planner=planner,
        name=model_name,
        horizon=horizon,
        history=history,
        carry=carry,
        tool_agent=tool_agent,
        tool_agent_name=tool_agent_name,
    )
    clone = Path(clone)
    output = Path(output)
    commit = load_package(clone)
    suite = make_suite(tasks, combinations)
    settings = {
        "model": model_name,
        "horizon": horizon,
        "history": history,
        "carry": carry,
        "tool_agent": player.points_by,
        "commit": commit,
        "seed": SEED,
    }
    open_output(output, settings)
    adb = find_adb()
    check_emulator(adb)
    env = connect(adb)
    try:
        records = run_suite(player, env, suite, output, progress)
    finally:
        env.close()
    warnings = []
    if commit != COMMIT:
        warnings.append(f"android_world is at commit {commit}; tested was {COMMIT}")
    return {"protocol": "androidworld", **settings, "warnings": warnings, **summary(records)}


def open_output(folder: Path, settings: dict) -> None:
    """Make the folder, or check that what lies there was played in the same way.

    Their checkpoints name the task only: another player's episodes would be taken for this one's.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / SETTINGS
    if path.exists():
        before = as_dict(parse_json(path.read_text(), str(path)))
        different = changes(before, settings)
        if different:
            raise ValueError(f"{folder} holds episodes of another evaluation: {different}")
    elif list(folder.glob("*.pkl.gz")):
        raise ValueError(f"{folder} holds episodes of another program: no {SETTINGS} beside them")
    write(path, json.dumps(settings, indent=1))


def run_suite(
    player: Player,
    env,
    suite,
    output: Path,
    progress: Callable[[int], object] = lambda more: None,
) -> list[dict]:
    """Their records, one for each instance of the suite, those of an earlier run among them.

    What they print goes to runner.log.
    """
    from android_world import checkpointer, suite_utils

    def tell(episodes: list[dict], print_summary: bool) -> None:
        progress(1)

    store = checkpointer.IncrementalCheckpointer(str(output))
    before = records_of(suite, store)
    progress(sum(not crashed(record) for record in before))
    agent = make_agent(player, env)
    with (output / "runner.log").open("a") as log, redirect_stdout(log):
        suite_utils.run(suite, agent, checkpointer=store, process_episodes_fn=tell)
    return records_of(suite, store)


def records_of(suite, store) -> list[dict]:
    """What lies in their checkpoints of the suite's instances.

    In what their runner returns, an instance that was played again stands twice.
    """
    instances = set()
    for tasks in suite.values():
        for number, task in enumerate(tasks):
            instances.add((task.name, number))
    found = []
    for record in store.load():
        if (record["task_template"], record["instance_id"]) in instances:
            found.append(record)
    return found


def crashed(record: dict) -> bool:
    """Whether the episode ended in an exception: theirs or the phone's, for our steps raise none.

    When the evaluation goes on, it is played again.
    """
    return record["exception_info"] is not None


# ---- sums ---------------------------------------------------------------------------------------


def summary(records: Sequence[dict]) -> dict:
    """Numbers of an evaluation from their records; shares lie in 0..1.

    success: the mean over templates of the mean over their episodes, a crashed one counts 0;
    success_official: the same without the crashed ones (None: there is nothing else);
    results: how many steps were "ok", "failed" or "impossible"; errors: how many of the failed ones
    were an error of ours or of the phone, and why: the first few; tasks: a row a template.
    """
    by_template = {}
    for record in records:
        by_template.setdefault(record["task_template"], []).append(record)
    rows = [row(name, by_template[name]) for name in sorted(by_template)]
    official = [row["success_official"] for row in rows if row["success_official"] is not None]
    results = Counter()
    errors = []
    tokens = 0
    for record in records:
        if not crashed(record):
            steps = record["episode_data"]
            results.update(steps["result"])
            errors += [error for error in steps["error"] if error]
            tokens += sum(steps["tokens"])
    return {
        "success": mean(row["success"] for row in rows),
        "success_official": mean(official) if official else None,
        "episodes": len(records),
        "crashed": sum(row["crashed"] for row in rows),
        "steps": results.total(),
        "tokens": tokens,
        "results": dict(results),
        "errors": len(errors),
        "why": list(dict.fromkeys(errors))[:5],
        "tasks": rows,
    }


def row(template: str, records: Sequence[dict]) -> dict:
    """The numbers of one template; its success may be a part of a point."""
    finished = [record for record in records if not crashed(record)]
    solved = sum(float(record["is_successful"]) for record in finished)
    return {
        "task": template,
        "runs": len(records),
        "success": solved / len(records),
        "success_official": solved / len(finished) if finished else None,
        "crashed": len(records) - len(finished),
        "steps": sum(len(record["episode_data"]["result"]) for record in finished),
    }


def table(result: dict) -> str:
    """One row a template, and all of them together."""
    header = ("task", "runs", "success", "official", "crashed", "steps")
    everything = {"task": "all", "runs": result["episodes"]}
    lines = [table_row(header)]
    for numbers in [*result["tasks"], result | everything]:
        shares = [share(numbers["success"]), share(numbers["success_official"])]
        counts = [numbers["crashed"], numbers["steps"]]
        lines.append(table_row([numbers["task"], numbers["runs"], *shares, *counts]))
    lines.append(
        f"success: a crashed episode counts 0; official: it is left out. {result['errors']} steps "
        f"failed by an error. Tool agent: {result['tool_agent']}"
    )
    lines += [f"warning: {warning}" for warning in result["warnings"]]
    return "\n".join(lines)


def table_row(cells: Sequence) -> str:
    name, *numbers = cells
    return f"{name:40}" + "".join(f"{number:>9}" for number in numbers)


def share(value: float | None) -> str:
    return "none" if value is None else f"{value:.1%}"
