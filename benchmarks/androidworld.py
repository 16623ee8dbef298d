"""AndroidWorld (google-research/android_world): 116 tasks on a running Android emulator.

online.py calls check and evaluate for --bench androidworld; docs/online.md says what to install.
It brings an agent for *their* runner, which sets tasks up, counts the budget, grades and resumes:
nothing of that is done here, so that the numbers are the official ones. android_world is optional
and is imported inside functions only, from the clone that the user names (androidworld_phone.py).

From top to bottom: each action in their words; what is seen; the agent; their runner; sums.

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

import sys
import unicodedata
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import redirect_stdout
from dataclasses import asdict, dataclass, field
from difflib import get_close_matches
from functools import partial
from pathlib import Path

from PIL import Image
from tqdm import tqdm

from agent import execute_first_steps
from benchmarks.androidworld_phone import check_emulator, connect, doubt, find_adb, load_package
from benchmarks.common import by, mean, unit_box
from benchmarks.episodes import Player, open_folder, percent, table_row, to_pixels
from envs import TERMINAL, Action, Box, Observation, find_element, last_steps, one_line, split_drag
from extras.run_folder import memory_or_die

SEED = 30  # of the tasks' parameters, as in their run.py
FAMILY = "android_world"


# ---- unified actions in AndroidWorld's words ----------------------------------------------------

GESTURES = {"click": "click", "double_click": "double_tap", "long_press": "long_press"}
PLAIN = {
    "back": {"action_type": "navigate_back"},
    "home": {"action_type": "navigate_home"},
    "wait": {"action_type": "wait"},
    "done": {"action_type": "status", "goal_status": "complete"},
    "fail": {"action_type": "status", "goal_status": "infeasible"},
}
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
    if kind in PLAIN:
        return dict(PLAIN[kind])
    if kind == "scroll":
        return {"action_type": "scroll", "direction": text}
    if kind == "type" and typeable(text):
        return {"action_type": "input_text", "text": typeable(text)}
    if kind == "key" and text.lower() in ("enter", "return"):
        return {"action_type": "keyboard_enter"}
    if kind == "open_app" and knows_app(text.lower()):
        return {"action_type": "open_app", "app_name": text.lower()}
    if kind == "answer":
        return {"action_type": "answer", "text": text}
    return None


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
    found = []
    for element in ui_elements:
        label = element.text or element.content_description or element.hint_text
        px = element.bbox_pixels
        if not label or px is None:
            continue
        for box in unit_box(px.x_min, px.y_min, px.x_max, px.y_max, *size):
            found.append((one_line(label), box))
    return tuple(found)


QUARTER_TURNS = {1: Image.Transpose.ROTATE_90, 3: Image.Transpose.ROTATE_270}


def upright(picture: Image.Image, env) -> Image.Image:
    """The screenshot as a person holds the phone: the emulator's own stays in portrait.

    `env`: their AsyncEnv; its orientation, 0 to 3, costs a call of adb.
    """
    width, height = env.logical_screen_size
    lies = (picture.width > picture.height) != (width > height)
    if not lies:
        return picture
    turn = QUARTER_TURNS.get(env.orientation)
    return picture if turn is None else picture.transpose(turn)


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


@dataclass
class Pilot:
    """One episode of agent.play on a phone, a step at a time, in a loop that is not ours."""

    player: Player
    env: object  # their AsyncEnv
    make_action: Callable  # their JSONAction
    knows_app: Callable[[str], bool]  # see native
    past: list[str] = field(default_factory=list)
    plan: tuple[Action, ...] = ()  # what is left of the last forecast, if it is carried along
    size: tuple[int, int] = (0, 0)  # of the screen in px
    elements: tuple[tuple[str, Box], ...] = ()  # (label, box) of what is on it

    def step(self, goal: str, look: Callable) -> Step:
        """Forecast, ground the first action, carry it out. Never raises an Exception.

        `look` waits for the screen and returns their State. An episode in which the agent raises is
        left out of their mean, as if it had never been played: an error of ours or of the phone is
        a failed step instead. A GPU that is full would be full at all others too: that ends all.
        """
        step = Step()
        try:
            with memory_or_die():
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
        picture = upright(Image.fromarray(state.pixels), self.env)
        past = last_steps(self.past, self.player.history)
        return Observation(goal, lambda: picture, past, self.plan)

    def ground(self, action: Action) -> Action | None:
        """The frozen tool agent that reads the element tree: exact labels, nothing near them."""
        names = {action.text}
        if action.kind == "drag":
            names |= set(split_drag(action.text, [label for label, _box in self.elements]))
        exact = [element for element in self.elements if element[0] in names]
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


# ---- their runner -------------------------------------------------------------------------------


def check(clone: Path, tasks: Sequence[str] = (), combinations: int = 1):
    """(the clone's commit, the suite, where adb is); ValueError in one line for what is missing.

    `clone`: of android_world, by git. `tasks`: names of templates (none: all 116). `combinations`:
    how many instances of each.
    """
    commit = load_package(clone)
    suite = make_suite(tasks, combinations)
    adb = find_adb()
    check_emulator(adb)
    return commit, suite, adb


def evaluate(
    player: Player, output: Path, clone: Path, tasks: Sequence[str] = (), combinations: int = 1
) -> dict:
    """Play AndroidWorld by its own runner, on the emulator that runs; see `summary`.

    `output`: the folder of their checkpoints, with which a killed evaluation goes on. The rest: see
    check. ValueError in one line for what is missing or does not fit.
    """
    commit, suite, adb = check(clone, tasks, combinations)
    settings = {"protocol": "androidworld", "commit": commit, "seed": SEED} | player.settings
    warnings = doubt(clone, commit)
    for warning in warnings:
        print(f"warning: {warning}", file=sys.stderr)
    # Their checkpoints name the task only: another player's would be taken for this one's.
    claim = partial(open_folder, output, settings)
    if output.exists():
        claim()  # or refuse it, before the phone is asked for anything
    env = connect(adb)
    try:
        claim()  # not before: a phone that does not answer leaves nothing behind
        records = run_suite(player, env, suite, output)
    finally:
        env.close()
    return settings | {"warnings": warnings} | summary(records)


def make_suite(tasks: Sequence[str], combinations: int):
    """Their suite, with the seed of their run.py; `tasks`: some of its templates (none: all).

    ValueError for a task that they do not have.
    """
    from android_world import registry, suite_utils

    if combinations < 1:
        raise ValueError(f"{combinations} combinations of a task: must be at least 1")
    templates = registry.TaskRegistry().get_registry(FAMILY)
    for name in tasks:
        if name not in templates:
            near = ", ".join(get_close_matches(name, templates, cutoff=0))
            raise ValueError(
                f"AndroidWorld has no task {one_line(name, 80)!r}; the nearest are {near}; "
                "android_world/task_metadata.json of the clone has all"
            )
    suite = suite_utils.create_suite(
        templates, n_task_combinations=combinations, seed=SEED, tasks=list(tasks) or None
    )
    suite.suite_family = FAMILY
    return suite


def run_suite(player: Player, env, suite, output: Path) -> list[dict]:
    """Their records, one for each instance of the suite, those of an earlier run among them.

    What they print goes to runner.log.
    """
    from android_world import checkpointer, suite_utils

    store = checkpointer.IncrementalCheckpointer(str(output))
    finished = [record for record in records_of(suite, store) if not crashed(record)]
    instances = sum(len(tasks) for tasks in suite.values())
    bar = tqdm(total=instances, initial=len(finished), unit="episode", mininterval=1)

    def tell(episodes: list[dict], print_summary: bool) -> None:
        bar.update(1)

    agent = make_agent(player, env)
    with bar, (output / "runner.log").open("a") as log, redirect_stdout(log):
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
    were an error of ours or of the phone, and why: the first few; with_error: how many episodes had
    such a step; tasks: a row a template.
    """
    by_template = by(records, lambda record: record["task_template"])
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
        "success_official": mean(official),
        "episodes": len(records),
        "crashed": sum(row["crashed"] for row in rows),
        "with_error": sum(row["with_error"] for row in rows),
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
    successes = [float(record["is_successful"]) for record in finished]
    with_error = [record for record in finished if any(record["episode_data"]["error"])]
    return {
        "task": template,
        "runs": len(records),
        "success": sum(successes) / len(records),
        "success_official": mean(successes),
        "crashed": len(records) - len(finished),
        "with_error": len(with_error),
        "steps": sum(len(record["episode_data"]["result"]) for record in finished),
    }


def table(result: dict) -> str:
    """One row a template, and all of them together."""
    lines = [table_row("task", "runs", "success", "official", "crashed", "with error", "steps")]
    everything = result | {"task": "all", "runs": result["episodes"]}
    for numbers in [*result["tasks"], everything]:
        shares = percent(numbers["success"]), percent(numbers["success_official"])
        counts = numbers["crashed"], numbers["with_error"], numbers["steps"]
        lines.append(table_row(numbers["task"], numbers["runs"], *shares, *counts))
    lines.append(
        "success: a crashed episode counts 0; official: it is left out; with error: a step of it "
        f"failed by an error ({result['errors']} did). Points by {result['points_by']}"
    )
    lines += [f"warning: {warning}" for warning in result["warnings"]]
    return "\n".join(lines)
