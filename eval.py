"""eval.py: the exam. How often tasks are solved, and how good the forecasts are.

In a toy world a policy plays seeds 0..n-1 of a split: it forecasts greedily, only the first action
of each forecast is executed, through the frozen tool agent, and it forecasts again. The numbers:

    success         share of tasks solved within the oracle's steps plus a slack; ci95: its interval
    accuracy_at_k   share of forecasts whose k-th action agrees (similarity 1) with the oracle's
                    k-th action from that state, where the oracle has one
    stability       of the steps that two forecasts in a row have in common, the share that agrees;
                    after a step that changed nothing these are all of them
    repeat          share of forecast actions that stood in their forecast before
    failed          share of steps whose action the tool agent refused or a tool failed to answer,
                    or whose forecast could not be read
    unreadable      share of forecasts whose first action could not be read
    surprised       of the steps that said what would be seen after them, how often something else
                    was (only with --forecast_states)
    by_kind         for each kind of the oracle's next action, how often the first action of the
                    forecast agrees with it
    by_demand       success by what the tasks demand, in worlds that say so (`demand`)
    solved          0 or 1 for each seed, so that policies can be compared task by task

Recorded benchmarks are scored by their official rules, and benchmarks that are played by their
protocols or by their own runners; both stand in benchmarks/.

    python eval.py --run runs/toy --split test     # a row each: random, warm start, stages, oracle
    python eval.py --bench androidcontrol --data ROOT --run runs/android
    python eval.py --bench androidcontrol --data ROOT --model NAME   # the base, without a run
    python eval.py --bench miniwob --run DIR       # in a real browser: docs/online.md
    python -m extras.ablation --seeds 5 --jobs 2   # trains and compares all arms
    python -m extras.play --run runs/toy           # plays one episode and draws it
"""

import argparse
import itertools
import json
import random
import sys
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from PIL import Image
from tqdm import tqdm

from agent import Plan, Planner, Play, Policy, plain, play, policy_planner
from benchmarks import online
from benchmarks.catalog import BENCHMARKS, TOOL_BENCHES
from benchmarks.episodes import OWN_POINTS
from benchmarks.gui_scoring import score_bench
from benchmarks.tool_scoring import score_tools
from envs import DISMISS, KINDS, Action, Example, Observation, ToolAgent, die, one_line
from extras.chosen_policy import add_settings, add_who, load_chosen, read_settings, refuse_settings
from extras.intervals import wilson
from extras.readable_json import readable_json
from extras.run_folder import load_run_policy, memory_or_die, write
from extras.toy_tools import NUMBERS
from extras.vlm_tool_agent import OCR, ask, check_world_of_tool_agent, frozen_vlm, load_tool_agent
from extras.worlds import WORLDS, find_world
from rewards import repetitions, similarity

# ---- planners that need no model: the floor and the ceiling -------------------------------------


def random_planner(seed: int = 0) -> Planner:
    """The floor: a random visible element, word or gesture; a random call or answer."""
    rng = random.Random(seed)

    def plan(_observations: list[Observation], envs: list) -> list[Plan]:
        return [Plan([random_action(env, rng)], tokens=0) for env in envs]

    return plan


def random_action(env, rng: random.Random) -> Action:
    """One of the world's own moves, `done`, or a number as the answer to a question."""
    moves = env.moves(rng)  # draws first: the order of the draws decides what is drawn
    answer = Action("answer", rng.choice(NUMBERS))
    return rng.choice([*moves, Action("done"), answer])


def oracle_planner(horizon: int) -> Planner:
    """The ceiling: the oracle, in words that the tool agent is sure to understand."""

    def plan(_observations: list[Observation], envs: list) -> list[Plan]:
        return [Plan(env.oracle(horizon, exact=True), tokens=0) for env in envs]

    return plan


# ---- playing ------------------------------------------------------------------------------------

Progress = Callable[[int], object]  # is told how many more episodes have been played


def evaluate(
    planner: Planner,
    world: type,
    split: str,
    n: int,
    horizon: int,
    history: int,
    scale: int = 1,
    carry: bool = False,
    tool_agent: ToolAgent | None = None,
    batch: int = 100,
    progress: Progress | None = None,
) -> tuple[dict, list[Play]]:
    """Play seeds 0..n-1 of a split of a world; returns the metrics and the plays.

    `scale`: how large its screens are drawn. `carry`, `tool_agent` (None: the world's own): see
    agent.play. `batch`: episodes that are played side by side, at most as many as the world can
    (`side_by_side`, where each takes a browser).
    """
    batch = min(batch, getattr(world, "side_by_side", batch))
    plays = []
    demands = []
    for start in range(0, n, batch):
        seeds = range(start, min(start + batch, n))
        envs = [world(split, scale, history) for _ in seeds]
        plays += play(planner, envs, seeds, horizon, tool_agent=tool_agent, carry=carry)
        demands += [env.demand for env in envs if hasattr(env, "demand")]
        if progress:
            progress(len(seeds))
    return toy_metrics(plays, horizon, demands), plays


def evaluate_policy(
    policy: Policy,
    config: dict,
    split: str,
    n: int,
    progress: Progress | None = None,
    choose: str = "",
    seed: int = 0,
) -> tuple[dict, list[Play]]:
    """`evaluate` for a policy of a run: its world, tool agent and horizon are the config's.

    `choose`, `seed`: among several forecasts, see agent.policy_planner.
    """
    horizon = config["horizon"]
    planner = policy_planner(policy, horizon, choose=choose, seed=seed)
    tool_agent = load_tool_agent(config["tool_agent"], policy, config["max_pixels"])
    world = find_world(config["env"])
    return evaluate(
        planner,
        world,
        split,
        n,
        horizon,
        config["history"],
        scale=policy.scale_of(world),
        # Choosing by the last plan needs it, but not in the prompt: see agent.policy_planner.
        carry=config["carry_forecast"] or choose == "last_plan",
        tool_agent=tool_agent,
        progress=progress,
    )


def evaluate_planner(
    planner: Planner, config: dict, split: str, n: int, progress: Progress | None = None
) -> tuple[dict, list[Play]]:
    """`evaluate` for a planner that needs no model, in the world of a run and with the world's own
    tool agent, whatever --tool_agent says."""
    return evaluate(
        planner,
        find_world(config["env"]),
        split,
        n,
        config["horizon"],
        config["history"],
        progress=progress,
    )


# ---- metrics of a toy world ---------------------------------------------------------------------


def toy_metrics(plays: Sequence[Play], horizon: int, demands: Sequence[int] = ()) -> dict:
    """The numbers of the module docstring, and steps and tokens; all shares lie in 0..1.

    Tokens thought are counted among the tokens, and once more for themselves where there are any.
    `demands`: what each task demanded, in worlds that say so.
    """
    solved = sum(episode.success for episode in plays)
    steps = sum(len(episode.results) for episode in plays)
    tokens = sum(episode.tokens for episode in plays)
    thought = sum(episode.thought for episode in plays)
    metrics = {
        "success": solved / len(plays),
        "n": len(plays),
        "ci95": list(wilson(solved, len(plays))),
        "accuracy_at_k": [accuracy_at(k, plays) for k in range(horizon)],
        "stability": stability(plays),
        "repeat": share_repeated(plays),
        "failed": share_failed(plays),
        "unreadable": share_unreadable(plays),
        "steps_per_episode": steps / len(plays),
        "tokens_per_episode": tokens / len(plays),
    }
    if thought > 0:
        metrics["thought_per_episode"] = thought / len(plays)
    surprised = share_surprised(plays)
    if surprised is not None:
        metrics["surprised"] = surprised
    metrics["by_kind"] = right_by_kind(plays)
    if demands:
        metrics["by_demand"] = success_by_demand(plays, demands)
    metrics["solved"] = [int(episode.success) for episode in plays]
    return metrics


def agree(one: Action, other: Action) -> bool:
    return similarity(one, other) == 1.0


def all_forecasts(plays: Sequence[Play]) -> list[list[Action]]:
    return list(itertools.chain.from_iterable(episode.forecasts for episode in plays))


def accuracy_at(k: int, plays: Sequence[Play]) -> float:
    """How often the k-th action of a forecast (from 0) agrees, where the oracle has one."""
    right = []
    for episode in plays:
        for forecast, reference in zip(episode.forecasts, episode.references, strict=True):
            if k >= len(reference):
                continue
            if k < len(forecast):
                right.append(agree(forecast[k], reference[k]))
            else:
                right.append(False)
    return sum(right) / max(1, len(right))


# The tool agent refused the first step, or nothing happens where it pointed: it is still ahead.
NOTHING_DONE = ("failed", "impossible")


def stability(plays: Sequence[Play]) -> float | None:
    """How often a forecast keeps what the one before said of the same step; None: no such step."""
    kept = []
    for episode in plays:
        pairs = itertools.pairwise(episode.forecasts)
        for (before, now), result in zip(pairs, episode.results, strict=False):
            still_ahead = before if result in NOTHING_DONE else before[1:]
            kept += [agree(old, new) for old, new in zip(still_ahead, now, strict=False)]
    if not kept:
        return None
    return sum(kept) / len(kept)


def share_repeated(plays: Sequence[Play]) -> float:
    forecasts = all_forecasts(plays)
    actions = sum(len(forecast) for forecast in forecasts)
    repeats = sum(sum(repetitions(forecast)) for forecast in forecasts)
    return repeats / max(1, actions)


def share_failed(plays: Sequence[Play]) -> float:
    steps = sum(len(episode.results) for episode in plays)
    failures = sum(episode.results.count("failed") for episode in plays)
    return failures / max(1, steps)


def share_unreadable(plays: Sequence[Play]) -> float:
    forecasts = all_forecasts(plays)
    empty = sum(len(forecast) == 0 for forecast in forecasts)
    return empty / max(1, len(forecasts))


def share_surprised(plays: Sequence[Play]) -> float | None:
    """How often an expectation was wrong; None where no first step expected anything."""
    surprised = []
    for episode in plays:
        for forecast, was_surprised in zip(episode.forecasts, episode.surprises, strict=True):
            if forecast and forecast[0].expects:
                surprised.append(was_surprised)
    if not surprised:
        return None
    return sum(surprised) / len(surprised)


# What stands on the buttons that close a dialog.
CLOSING = frozenset({*DISMISS, "OK"})
CLOSE = "click to close"
TYPE_UNSAID = "type unsaid"


def kind_of(action: Action, instruction: str) -> str:
    """The kind of an action, in two parts where one average would hide something.

    A click that closes a dialog needs the screen alone; a text that the instruction does not say
    has to be remembered from an earlier screen, or read on this one.
    """
    if action.kind == "click" and action.text in CLOSING:
        return CLOSE
    if action.kind == "type" and action.text not in instruction:
        return TYPE_UNSAID
    return action.kind


def right_by_kind(plays: Sequence[Play]) -> dict[str, dict]:
    """How often the first action of a forecast agrees with the oracle's, by the latter's kind."""
    right = defaultdict(list)
    for episode in plays:
        steps = zip(episode.observations, episode.forecasts, episode.references, strict=True)
        for observation, forecast, reference in steps:
            if not reference:
                continue  # a world without an oracle for this task
            kind = kind_of(reference[0], observation.instruction)
            right[kind].append(bool(forecast) and agree(forecast[0], reference[0]))
    by_kind = {}
    for kind in sorted(right, key=place_of_kind):
        by_kind[kind] = {"right": sum(right[kind]) / len(right[kind]), "n": len(right[kind])}
    return by_kind


def place_of_kind(kind: str) -> tuple[int, str]:
    """Where a kind stands in a table: as in envs.KINDS, its parts behind it."""
    return list(KINDS).index(kind.split()[0]), kind


def success_by_demand(plays: Sequence[Play], demands: Sequence[int]) -> dict[str, dict]:
    solved = defaultdict(list)
    for episode, demand in zip(plays, demands, strict=True):
        solved[demand].append(episode.success)
    by_demand = {}
    for demand in sorted(solved):
        share = sum(solved[demand]) / len(solved[demand])
        by_demand[str(demand)] = {"success": share, "n": len(solved[demand])}
    return by_demand


# ---- the exam of a whole run, or of a model without one -----------------------------------------


def exam(run: str, config: dict, split: str, n: int) -> dict[str, dict]:
    """Metrics on one split of the run's world, by name: a row each of the table.

    The floor, the policies, the ceiling. `run`: its folder; empty for a model by name, of which
    `config` says what it would say of a run (extras/chosen_policy.py).
    """
    names = ["random", *policies_of(run), "oracle"]
    return {name: examine_by_name(name, run, config, split, n) for name in names}


def policies_of(run: str) -> list[str]:
    """The warm start and the stages that the run has; of a model without a run, the base."""
    if not run:
        return ["base"]
    stages = [stage for stage in ("stage1", "stage2") if (Path(run) / stage).exists()]
    return ["warmup", *stages]


def examine_by_name(name: str, run: str, config: dict, split: str, n: int) -> dict:
    """Metrics of "random", "oracle", or a policy: "base", "warmup", "stage1" or "stage2"."""
    policy = None
    if name not in ("random", "oracle"):
        adapter = None if name in ("base", "warmup") else name
        policy = load_run_policy(run, config, adapter)
    # After loading: what is wrong with a model is said in a line of its own, not behind the bar.
    with tqdm(total=n, desc=name, unit="task", mininterval=1) as bar:
        if name == "random":
            planner = random_planner(config.get("seed", 0))  # --model has no seed
            metrics, _ = evaluate_planner(planner, config, split, n, bar.update)
        elif name == "oracle":
            oracle = oracle_planner(config["horizon"])
            metrics, _ = evaluate_planner(oracle, config, split, n, bar.update)
        else:
            metrics, _ = evaluate_policy(policy, config, split, n, bar.update)
    return metrics


def table(exam_metrics: dict[str, dict]) -> str:
    """One row a policy."""
    header = (
        f"{'policy':8} {'success':>8} {'95 % interval':>17} {'n':>5}   accuracy@k {'':22} "
        f"{'repeat':>6} {'failed':>7} {'tokens':>7}"
    )
    rows = [table_row(name, metrics) for name, metrics in exam_metrics.items()]
    return "\n".join([header, *rows])


def table_row(name: str, metrics: dict) -> str:
    low, high = metrics["ci95"]
    interval = f"{low:.1%} to {high:.1%}"
    accuracy = " ".join(f"{share:.0%}" for share in metrics["accuracy_at_k"])
    cells = [
        f"{name:8}",
        f"{metrics['success']:8.1%}",
        f"{interval:>17}",
        f"{metrics['n']:5}",
        f"  {accuracy:33}",
        f"{metrics['repeat']:6.1%}",
        f"{metrics['failed']:7.1%}",
        f"{metrics['tokens_per_episode']:7.1f}",
    ]
    return " ".join(cells)


def parts_table(exam_metrics: dict[str, dict], part: str, share: str) -> str:
    """A small table of `by_kind` or `by_demand`: one row a policy, "52% of 310" in a cell.

    Policies meet different states, so the numbers behind "of" differ.
    """
    columns = {}  # in the place of an ordered set
    for metrics in exam_metrics.values():
        columns |= dict.fromkeys(metrics[part])
    names = sorted(columns, key=place_of_kind) if part == "by_kind" else list(columns)
    rows = [" ".join([f"{'policy':8}", *(f"{name:>14}" for name in names)])]
    for policy, metrics in exam_metrics.items():
        cells = [f"{policy:8}"]
        for name in names:
            cells.append(f"{part_cell(metrics[part].get(name), share):>14}")
        rows.append(" ".join(cells))
    return "\n".join(rows)


def part_cell(numbers: dict | None, share: str) -> str:
    if numbers is None:
        return "-"
    return f"{numbers[share]:.0%} of {numbers['n']}"


# ---- the door to recorded benchmarks ------------------------------------------------------------


def exam_benchmarks() -> list[str]:
    """The recorded benchmarks that have an official rule; the others are for training only."""
    step_by_step = [name for name, benchmark in BENCHMARKS.items() if benchmark.protocols]
    return [*step_by_step, *TOOL_BENCHES]


@dataclass(frozen=True)
class Examinee:
    """The policy that sits a recorded benchmark, with the settings of its run or of --model."""

    policy: Policy
    horizon: int
    history: int
    max_pixels: int
    tool_agent: str  # "base", or the name or path of a VLM; empty: none


def load_examinee(args: argparse.Namespace) -> Examinee:
    settings = read_settings(args)
    return Examinee(
        policy=load_chosen(args, settings),
        horizon=settings["horizon"],
        history=settings["history"],
        max_pixels=settings["max_pixels"],
        tool_agent=settings["tool_agent"],
    )


def bench(args: argparse.Namespace) -> dict:
    """A recorded benchmark, by the official rule: a policy, or predictions from a file.

    Writes the rows of --per_step or --per_item; returns what --json writes.
    """
    if not args.data:
        die(f"--bench {args.bench} needs --data ROOT")
    if args.bench in TOOL_BENCHES:
        result, rows = bench_tools(args)
    else:
        result, rows = bench_gui(args)
    lines = [json.dumps(row) + "\n" for row in rows]
    for path in (args.per_step, args.per_item):
        if path:
            write(Path(path), "".join(lines))
    warn_of(result["skipped"], "records were skipped", result["why"])
    warn_of(result["bad_predictions"], "lines of predictions could not be used", result["why_bad"])
    return result


def warn_of(count: int, what: str, why: list[str]) -> None:
    if count > 0:
        print(f"warning: {count} {what}: {'; '.join(why[:5])}", file=sys.stderr)


def bench_gui(args: argparse.Namespace) -> tuple[dict, list[dict]]:
    """Recorded steps of a GUI; of each forecast the first action counts.

    The result says who finds its point: without --tool_agent, the policy itself.
    """
    if args.predictions:
        return score_bench(
            args.bench,
            args.data,
            args.split,
            predictions=args.predictions,
            protocol=args.protocol,
            index=args.index,
        )
    examinee = load_examinee(args)
    result, rows = score_bench(
        args.bench,
        args.data,
        args.split,
        predict=predictor(examinee),
        horizon=examinee.horizon,
        history=examinee.history,
        protocol=args.protocol,
        index=args.index,
    )
    return {"points_by": examinee.tool_agent or OWN_POINTS} | result, rows


def predictor(examinee: Examinee) -> Callable[[Observation, int], list[Action]]:
    """(observation, T) -> the examinee's forecast, its first action grounded by the tool agent.

    The scorer passes a T. It is not used: the planner was made with the examinee's, which is the
    same.
    """
    planner = policy_planner(examinee.policy, examinee.horizon)
    tool_agent = load_tool_agent(examinee.tool_agent, examinee.policy, examinee.max_pixels)

    def predict(observation: Observation, _horizon: int) -> list[Action]:
        [plan] = planner([observation], [None])  # a policy looks at no environment
        if tool_agent is None or not plan.forecast:
            return plan.forecast
        first, *later = plan.forecast
        return [pointed(first, observation, tool_agent), *later]

    return predict


def pointed(action: Action, observation: Observation, tool_agent: ToolAgent) -> Action:
    """The action with the point that the tool agent finds, or without one where it refuses.

    Without a point its type may still be right.
    """
    [executed] = tool_agent([action], [Example(observation, ())])
    if executed is None:
        return replace(action, point=None)
    return executed


def bench_tools(args: argparse.Namespace) -> tuple[dict, list[dict]]:
    """Questions that are answered with the toolbox; a frozen VLM looks at pictures for it."""
    if args.predictions:
        return score_tools(args.bench, args.data, args.split, predictions=args.predictions)
    examinee = load_examinee(args)
    return score_tools(
        args.bench,
        args.data,
        args.split,
        planner=policy_planner(examinee.policy, examinee.horizon),
        vlm=looker(examinee),
        horizon=examinee.horizon,
        history=examinee.history,
    )


def looker(examinee: Examinee) -> Callable[[Image.Image, str], str] | None:
    """(picture, question) -> what the frozen VLM says; None where no VLM is named."""
    if examinee.tool_agent in ("", OCR):  # the toolbox reads by itself
        return None
    vlm = frozen_vlm(examinee.tool_agent, examinee.policy, examinee.max_pixels)

    def look(picture: Image.Image, question: str) -> str:
        safe_question = plain(question)
        [(text, _grid)] = ask(vlm, [(lambda: picture, safe_question)])
        return text

    return look


# ---- command line -------------------------------------------------------------------------------

TASKS = 300  # of an exam in a world: an interval of about +-5 points
# The flags that not every exam reads; those of what is played stand in online.FLAGS.
OF_STEPS = ("split", "data", "protocol", "index", "per_step")  # of recorded screens
OF_TOOLS = ("split", "data", "per_item")
OF_WORLDS = ("split", "limit")


def parse_arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description="Examine a trained policy, a model as it is, or another agent's predictions, "
        "on held-out tasks."
    )
    splits = [f"{name}: {' '.join(world.splits)}" for name, world in WORLDS.items()]

    who = parser.add_argument_group("who is examined")
    add_who(who)
    who.add_argument(
        "--predictions",
        help="score this file, not a policy: JSON lines {id, action: {kind, point, text}}, of "
        "gta and gaia {id, answer, tool_calls: [{name, arguments}], code_ok}",
    )
    add_settings(parser)

    what = parser.add_argument_group("on what")
    what.add_argument(
        "--bench",
        help="what to be examined on; default: the world of the run, toy-gui for --model. Worlds, "
        f"as of train.py --env: {', '.join(WORLDS)}; recorded: {', '.join(exam_benchmarks())}; "
        f"played: {', '.join(online.FLAGS)}",
    )
    what.add_argument(
        "--split",
        default="",
        help=f"{'; '.join(splits)} (default test); recorded benchmarks: see docs/data.md",
    )
    what.add_argument("--limit", type=int, help=f"worlds: number of tasks; default {TASKS}")
    what.add_argument(
        "--data",
        help="root folder of a recorded benchmark; androidworld, osworld: the git clone",
    )
    what.add_argument(
        "--protocol",
        help="scoring rule of a recorded benchmark; the first of its rules is the default",
    )
    what.add_argument(
        "--index",
        help="androidcontrol: file of steps to count (OS-Atlas's ac_idx.txt); ROOT/ac_idx.txt is "
        "found by itself",
    )
    online.add_flags(parser)

    out = parser.add_argument_group("where the numbers go")
    out.add_argument("--json", help="write the numbers to this file")
    out.add_argument(
        "--per_step", help="recorded benchmarks: write one JSON line a step to this file"
    )
    out.add_argument(
        "--per_item", help="gta, gaia: write one JSON line {id, correct} a question to this file"
    )
    return parser.parse_args(argv)


@memory_or_die()
def main(argv: list[str] | None = None) -> None:
    args = parse_arguments(argv)
    check_bench(args.bench)
    given = [who for who in (args.run, args.model, args.predictions, args.planner) if who]
    if len(given) != 1:
        die("give one of --run DIR, --model NAME, --predictions FILE and --planner NAME")
    if args.predictions:
        refuse_settings(args)
    try:
        refuse_flags(args)
        check_places(args)
        if args.bench in online.FLAGS:
            result = online.main_online(args, oracle_planner)
        elif args.bench in BENCHMARKS:
            result = main_recorded(args)
        else:
            result = main_toy(args)
        if args.json:
            write(Path(args.json), readable_json(result))
    except (ValueError, OSError) as error:
        die(one_line(str(error)))


def check_places(args: argparse.Namespace) -> None:
    """Before an exam of hours: can its numbers be written?"""
    for name in ("json", "per_step", "per_item"):
        path = getattr(args, name)
        if path and not Path(path).parent.is_dir():
            die(f"--{name} {path}: there is no folder {Path(path).parent}")


def refuse_flags(args: argparse.Namespace) -> None:
    """One line for a flag that this exam would ignore."""
    if args.bench in online.FLAGS:
        own = online.FLAGS[args.bench]
    elif args.bench in TOOL_BENCHES:
        own = OF_TOOLS
    elif args.bench in BENCHMARKS:
        own = OF_STEPS
    else:
        own = OF_WORLDS
    every = set().union(*online.FLAGS.values(), OF_STEPS, OF_TOOLS, OF_WORLDS)
    for name in sorted(every.difference(own)):
        if getattr(args, name) not in (None, ""):
            die(f"--{name} goes with --bench {' or '.join(exams_with(name))}")
    if args.predictions and args.tool_agent is not None:
        die("--tool_agent goes with --run and --model: predictions bring their points along")


def exams_with(flag: str) -> list[str]:
    """What --bench has to name for an exam that reads this flag."""
    exams = [bench for bench, flags in online.FLAGS.items() if flag in flags]
    if flag in OF_STEPS:
        exams.append("recorded screens")
    if flag in OF_TOOLS:
        exams += TOOL_BENCHES
    if flag in OF_WORLDS:
        exams.append("a world")
    return exams


def check_bench(name: str | None) -> None:
    """What is neither a benchmark nor a world ends with one line."""
    benchmarks = [*exam_benchmarks(), *online.FLAGS]
    if name is None or name in benchmarks:
        return
    try:
        find_world(name)
    except ValueError as error:
        die(f"--bench {one_line(str(error))}; or of the benchmarks {', '.join(benchmarks)}")


def main_toy(args: argparse.Namespace) -> dict:
    """Examine the policies of a run in its world, or a model in one, and print the table."""
    if args.bench is None and args.predictions:
        die("--predictions needs --bench: the recorded benchmark whose rule is to score them")
    if args.predictions:
        die(f"{args.bench} needs --run of that world: predictions are for recorded benchmarks")
    settings = read_settings(args, world=args.bench or "toy-gui")
    name = settings["env"]
    check_world_of_tool_agent(name, settings["tool_agent"])
    if args.bench not in (None, name):
        die(f"{args.bench} needs --run of that world; {args.run} is of {name}")
    limit = TASKS if args.limit is None else args.limit
    if limit < 1:
        die(f"--limit {limit}: must be at least 1")
    split = args.split or "test"
    splits = find_world(name).splits
    if split not in splits:
        die(f"--split {split}: {name} has {', '.join(splits)}")
    metrics = exam(args.run, settings, split, limit)
    print(f"protocol {name}, split {split}, greedy, n = {limit}\n{table(metrics)}")
    print("\nfirst action right, by the kind of the oracle's")
    print(parts_table(metrics, "by_kind", "right"))
    if "by_demand" in metrics["oracle"]:
        print("\nsuccess, by what the task demands")
        print(parts_table(metrics, "by_demand", "success"))
    return {"protocol": name, "split": split, "n": limit, "policies": metrics}


def main_recorded(args: argparse.Namespace) -> dict:
    """Score a recorded benchmark and print the numbers."""
    args.split = args.split or BENCHMARKS[args.bench].default_split
    result = bench(args)
    shown = {key: value for key, value in result.items() if key not in ("why", "why_bad")}
    print(json.dumps(shown, indent=1))
    return result


if __name__ == "__main__":
    main()
