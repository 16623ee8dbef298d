"""GTA and GAIA as an exam: of a file of runs, or of an agent that is run with the toolbox.

eval.py calls score_tools; ToolTask is the world that agent.play plays in.
It decides nothing about what is right: the rules are in gta.py and gaia.py.
"""

from dataclasses import asdict, replace
from pathlib import Path

from agent import Planner, play
from benchmarks import gaia, gta
from benchmarks.catalog import load_recorded
from benchmarks.common import BadRecord, Episode, Report, Step, observe, read_predictions
from benchmarks.toolbox import GTA_TOOLS, Call, Run, Vlm, read_call, run_tool
from envs import TERMINAL, Action, Observation, one_line
from extras.guarded import Outcome

TASKS_AT_ONCE = 8  # that an agent plays side by side: a policy's batch


def score_tools(
    name: str,
    root: str | Path,
    split: str,
    *,
    predictions: str | Path | None = None,
    planner: Planner | None = None,
    vlm: Vlm | None = None,
    horizon: int = 1,
    history: int = 4,
) -> tuple[dict, list[dict]]:
    """What --json writes, and the rows {"id", "correct"} of --per_item.

    Of a predictions file, or of a planner that is run with the toolbox; for GTA's step-by-step
    numbers the planner is also asked at each recorded turn, with the recorded turns before it.
    `correct` is None where there is no answer to compare with (image generation, subjective or
    private answers). ValueError in one line for data that are not there.
    """
    report = Report()
    episodes = list(load_recorded(name, root, split, report))
    runs = {}
    faults = []
    if predictions:
        runs, faults = read_runs(predictions)
    on_true_turns = runs
    if planner:
        runs = play_tasks(planner, episodes, vlm=vlm, horizon=horizon, history=history)
        if name == "gta":
            on_true_turns = {
                episode.id: say_on_true_turns(planner, episode, history) for episode in episodes
            }
    if name == "gaia":
        sums, rows = gaia.score_answers(episodes, runs)
    else:
        end_to_end, rows = gta.score_end_to_end(episodes, runs)
        sums = {
            "end_to_end": end_to_end,
            "step_by_step": gta.score_step_by_step(episodes, on_true_turns),
            "t3_agent": gta.score_t3(episodes, runs),
        }
    known = {episode.id for episode in episodes}
    result = {
        "protocol": name,
        "split": split,
        **sums,
        "records": len(known),
        "missing_predictions": len(known - runs.keys()),
        "unknown_predictions": len(runs.keys() - known),
        "skipped": sum(report.bad.values()),
        "why": report.texts()[:50],
        "bad_predictions": len(faults),
        "why_bad": faults[:50],
    }
    return result, [asdict(row) for row in rows]


# ---- a file of runs ---------------------------------------------------------------------------


def read_runs(path: str | Path) -> tuple[dict[str, Run], list[str]]:
    """{id: run} and the faults; a run that cannot be parsed counts as one that said nothing."""
    parsed, faults = read_predictions(path, parse_run)
    runs = {}
    for ident, run in parsed.items():
        runs[ident] = Run() if run is None else run
    return runs, faults


def parse_run(record: dict) -> Run:
    """One run from {"id", "answer", "tool_calls", "code_ok"}; only "id" must be there.

    tool_calls: [{"name", "arguments", optional "error"} or null]. An answer that is no text is
    taken as str(answer). BadRecord for anything else.
    """
    calls = record.get("tool_calls")
    if not calls:
        calls = []
    if not isinstance(calls, list):
        raise BadRecord("tool_calls: not a list of {name, arguments}")
    calls = [parse_call(call) for call in calls]
    code_ok = record.get("code_ok")
    if not isinstance(code_ok, bool | None):
        raise BadRecord("code_ok: not true or false")
    answer = record.get("answer")
    if answer is not None:
        answer = str(answer)
    return Run(answer, calls, code_ok)


def parse_call(call: object) -> Call | None:
    if call is None:
        return None
    if not isinstance(call, dict) or not isinstance(call.get("name"), str):
        raise BadRecord("tool_calls: not a list of {name, arguments}")
    return Call(call["name"], call.get("arguments"), call.get("error"))


# ---- an agent that is run with the toolbox ----------------------------------------------------


def play_tasks(
    planner: Planner, episodes: list[Episode], *, vlm: Vlm | None, horizon: int, history: int
) -> dict[str, Run]:
    """End to end: the agent sees what its own calls brought."""
    tasks = [ToolTask(episode, history, vlm) for episode in episodes]
    for first in range(0, len(tasks), TASKS_AT_ONCE):
        batch = tasks[first : first + TASKS_AT_ONCE]
        play(planner, batch, range(len(batch)), horizon)
    return {task.episode.id: task.run for task in tasks}


def say_on_true_turns(planner: Planner, episode: Episode, history: int) -> Run:
    """Step by step: what the agent says at each recorded turn, after the true turns before it."""
    run = Run()
    for step in episode.steps:
        text = say(planner, episode, step, history)
        if step.action.kind == "call":
            run.tool_calls.append(read_call(text) if text else None)
        else:
            run.answer = text
    return run


def say(planner: Planner, episode: Episode, step: Step, history: int) -> str | None:
    """The text of the agent's first action; None where it is not of the recorded turn's kind."""
    observation = replace(observe(episode, step, history), instruction=task_of(episode))
    plan = planner([observation], [None])[0]
    if not plan.forecast or plan.forecast[0].kind != step.action.kind:
        return None
    return plan.forecast[0].text


def task_of(episode: Episode) -> str:
    """The question with the names of its files and tools, as the official loaders hand them on.

    GAIA's records name no tools: all of the toolbox.
    """
    files = ", ".join(episode.raw["files"]) or "none"
    tools = []
    for name in episode.raw.get("tools", GTA_TOOLS):
        tool = GTA_TOOLS.get(name)
        arguments = () if tool is None else (*tool.required, *tool.optional)
        tools.append(f"{name}({', '.join(arguments)})")
    return f"{episode.instruction}\nfiles: {files}\ntools: {', '.join(tools)}"


NO_ACTION = Outcome("impossible", "error: a tool call or an answer is expected")


class ToolTask:
    """A question of GTA or GAIA as a world for agent.play.

    Calls go to the toolbox, an answer ends it. `run` is what a predictions file would hold: a call
    has "error" where its tool gave no answer.
    """

    oracle_steps = 0  # nobody knows the oracle's
    max_steps = 10

    def __init__(self, episode: Episode, history: int, vlm: Vlm | None = None):
        self.episode = episode
        self.history = history  # steps that an observation shows
        self.vlm = vlm

    def reset(self, seed: int) -> tuple[Observation, dict]:
        self.past = []
        self.files = dict(self.episode.raw["files"])
        self.run = Run()
        return self.observe(), {}

    def observe(self) -> Observation:
        shown = self.past[-self.history :] if self.history else []
        screenshot = self.episode.steps[0].screenshot
        return Observation(task_of(self.episode), screenshot, tuple(shown))

    def ground(self, action: Action) -> Action:
        """The action itself: the tools act in step."""
        return action

    def step(
        self, action: Action | None, said: str = ""
    ) -> tuple[Observation, float, bool, bool, dict]:
        """Do what the action says; `said` stands in the history where there is none."""
        outcome = self.carry_out(action)
        words = said if action is None else str(action)
        self.past.append(one_line(f"{words} = {outcome.value}"))
        terminated = action is not None and action.kind in TERMINAL
        truncated = len(self.past) >= self.max_steps
        info = {"result": outcome.status, "success": False}
        return self.observe(), 0.0, terminated, truncated, info

    def carry_out(self, action: Action | None) -> Outcome:
        if action is None:
            return NO_ACTION
        if action.kind == "answer":
            self.run.answer = action.text
            return Outcome("ok", "the end")
        if action.kind != "call":
            return NO_ACTION
        call = read_call(action.text)
        outcome = run_tool(call.name, call.arguments, self.files, self.vlm)
        if outcome.status != "ok":
            call = replace(call, error=outcome.value)
        self.run.tool_calls.append(call)
        return outcome

    def oracle(self, horizon: int) -> list[Action]:
        """Nothing: nobody knows what an oracle would do."""
        return []

    def visible(self) -> tuple:
        return ()
