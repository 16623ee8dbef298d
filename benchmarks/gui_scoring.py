"""The exam on recorded screens: an agent, or a file of predictions, scored step by step.

Called by eval.py for all benchmarks but those with tools.
It knows no official rule: the benchmarks' files have them, and name the sums that belong to them.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from benchmarks.androidcontrol import INDEX_FILE, read_index
from benchmarks.catalog import find_benchmark, load_recorded
from benchmarks.common import (
    BadRecord,
    Benchmark,
    Episode,
    Report,
    Rule,
    ScoredStep,
    Step,
    StepScore,
    mean,
    observe,
    parse_action,
    read_predictions,
)
from envs import Action, Observation

Predict = Callable[[Observation, int], list[Action]]  # (what it sees, T) -> T actions or fewer


@dataclass(frozen=True)
class Question:
    """A step to be scored, and its episode's steps by their place in the source."""

    episode: Episode
    steps: dict[int, Step]
    index: int

    @property
    def id(self) -> str:
        return f"{self.episode.id}/{self.index}"

    @property
    def step(self) -> Step:
        return self.steps[self.index]


def score_bench(
    name: str,
    root: str | Path,
    split: str,
    *,
    predict: Predict | None = None,
    predictions: str | Path | None = None,
    protocol: str | None = None,
    index: str | Path | None = None,
    horizon: int = 1,
    history: int = 4,
) -> tuple[dict, list[dict]]:
    """Scores an agent, of whose forecasts the first action counts, or a file of predictions.

    Returns what --json writes and the rows of --per_step. `protocol`: its name, by default the
    benchmark's first one. `index`: a file, OS-Atlas's list of the steps that count. With an agent,
    lookahead[k-1] compares the k-th forecast action with the reference k-1 steps on; a tool agent
    points for the first action only, later ones have the policy's own points or none, so that from
    k = 2 on type_acc is the number to look at. ValueError in one line.
    """
    benchmark = find_benchmark(name)
    protocol = choose_protocol(name, benchmark, protocol)
    chosen = benchmark.protocols[protocol]
    answers = {}
    faults = []
    if predictions:
        answers, faults = read_predictions(predictions, parse_action)
    list_file = find_index(name, root, index)
    listed = read_index(Path(list_file)) if list_file else None
    report = Report()
    rows = []
    lookahead = defaultdict(list)
    for question in ask(load_recorded(name, root, split, report), listed):
        if predict:
            try:
                forecast = predict(observe(question.episode, question.step, history), horizon)
            except BadRecord as error:  # its screenshot cannot be read
                report.skip("steps", str(error))
                continue
            look_ahead(question, forecast, horizon, chosen.rule, lookahead)
        else:
            forecast = [answers.get(question.id)]
        rows.append(score_first(question, forecast, chosen.rule))
    if not rows:
        raise ValueError(f"{root}: split {split!r} has no step to score")
    counted = "all"
    if list_file:
        counted = f"{len(rows)} of the {len(listed)} in {Path(list_file).name}"
    result = {
        "protocol": f"{name}/{protocol}",
        "split": split,
        "steps": counted,
        "n": len(rows),
        "skipped": sum(report.bad.values()),
        "why": report.texts()[:50],
        "bad_predictions": len(faults),
        "why_bad": faults[:50],
        "notes": dict(report.notes),
    }
    if predictions:
        scored = {row.id for row in rows}
        result |= compare_ids(scored, answers.keys())
    if predict:
        result["lookahead"] = [sum_up(k, scores) for k, scores in sorted(lookahead.items())]
    result |= chosen.sums(rows, split)
    return result, [per_step(row) for row in rows]


def choose_protocol(name: str, benchmark: Benchmark, wanted: str | None) -> str:
    if not benchmark.protocols:
        raise ValueError(f"{name} has no protocol: it is not scored step by step")
    if wanted is None:
        return next(iter(benchmark.protocols))
    if wanted not in benchmark.protocols:
        known = ", ".join(benchmark.protocols)
        raise ValueError(f"{name} has no protocol {wanted!r}: {known}")
    return wanted


def find_index(name: str, root: str | Path, given: str | Path | None) -> str | Path | None:
    """The list of steps to count: the given one, or OS-Atlas's where it lies in the data."""
    beside_the_data = Path(root, INDEX_FILE)
    if not given and name == "androidcontrol" and beside_the_data.exists():
        return beside_the_data
    return given


def ask(episodes: Iterable[Episode], listed: set[str] | None) -> Iterator[Question]:
    """All steps, or those that are on the list."""
    for episode in episodes:
        steps = {step.raw["index"]: step for step in episode.steps}
        for index in steps:
            question = Question(episode, steps, index)
            if listed is None or question.id in listed:
                yield question


def score_first(question: Question, forecast: list[Action | None], rule: Rule) -> ScoredStep:
    step = question.step
    return ScoredStep(
        id=question.id,
        episode=question.episode.id,
        kind=step.action.kind,
        episode_raw=question.episode.raw,
        score=rule(forecast[0] if forecast else None, step),
    )


def look_ahead(
    question: Question,
    forecast: list[Action],
    horizon: int,
    rule: Rule,
    lookahead: dict[int, list[StepScore]],
) -> None:
    """Add the score of each forecast action whose step is on record; k counts from 1."""
    for ahead in range(horizon):
        step = question.steps.get(question.index + ahead)
        if step is not None:
            action = forecast[ahead] if ahead < len(forecast) else None
            lookahead[ahead + 1].append(rule(action, step))


def sum_up(k: int, scores: list[StepScore]) -> dict:
    type_acc = mean(score.type_match for score in scores)
    step_acc = mean(score.correct for score in scores)
    return {"k": k, "n": len(scores), "type_acc": type_acc, "step_acc": step_acc}


def compare_ids(scored: set[str], predicted: Iterable[str]) -> dict:
    """How many steps have no prediction and how many predictions no step, with the first ten."""
    missing = sorted(scored - set(predicted))
    unknown = sorted(set(predicted) - scored)
    return {
        "missing_predictions": len(missing),
        "missing_predictions_first": missing[:10],
        "unknown_predictions": len(unknown),
        "unknown_predictions_first": unknown[:10],
    }


def per_step(row: ScoredStep) -> dict:
    return {"id": row.id, "type_match": row.score.type_match, "correct": row.score.correct}
