"""Recorded trajectories as training examples: windows of reference actions in random order.

Called by train.py when --data is given, and by extras/export.py.
It knows no reward and no policy; which step belongs to which update depends on the seed alone.
"""

import itertools
import random
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from tqdm import tqdm

from benchmarks.catalog import BENCHMARKS, TOOL_BENCHES, load_recorded
from benchmarks.common import BadRecord, Episode, Report, ReportLine, Step, observe
from envs import Action, Box, Example, die

# Windows that are held in memory to be shuffled; an AndroidControl episode is about 3 MB.
SHUFFLE_BUFFER = 256


@dataclass(frozen=True)
class Source:
    """A data set to train on."""

    name: str
    root: str
    weight: float  # how often it is drawn from, beside the others' weights


@dataclass(frozen=True)
class Stream:
    """Items that can be read again and again."""

    weight: float
    open: Callable[[], Iterable]


FOR_TRAINING = tuple(name for name in BENCHMARKS if name not in TOOL_BENCHES)


def parse_data(text: str) -> list[Source]:
    """--data -> its sources.

    One line and exit code 2 for a set that is unknown or for exams only, a folder that is not
    there, a weight that is no number above 0.
    """
    sources = []
    for part in text.split(","):
        if not part:
            continue
        name, _, rest = part.partition(":")
        root, _, weight = rest.partition("*")
        if not weight:
            weight = "1"
        is_weight = weight.replace(".", "", 1).isdecimal() and float(weight) > 0
        if name not in FOR_TRAINING or not Path(root).is_dir() or not is_weight:
            form = "expected name:ROOT or, with a weight above 0, name:ROOT*weight"
            known = ", ".join(FOR_TRAINING)
            die(f"--data {part}: {form} with a name of {known} and a folder that exists")
        sources.append(Source(name, root, float(weight)))
    return sources


def recorded_examples(
    sources: list[Source],
    *,
    seed: int,
    stage: str,
    horizon: int,
    history: int,
    prompts_per_update: int,
    first: int,
) -> Iterator[list[Example]]:
    """The examples of each update from `first` on, `prompts_per_update` of them, without an end.

    A resumed run reads past what it has already used. An example whose screenshot cannot be read is
    replaced by the next one, with a warning. ValueError for a set that is empty or over 5 % bad.
    """
    reports = []
    streams = []
    for source in sources:
        report = Report()  # each set has its own: a small bad one must not hide behind a large one
        rng = random.Random(f"shuffle {seed} {stage} {source.name} {source.root}")
        read = partial(shuffled_windows, source, horizon, history, rng, report)
        reports.append(report)
        streams.append(Stream(source.weight, read))
    stream = mix(streams, seed)
    told = [0] * len(reports)
    for update in itertools.count():
        examples = take(stream, prompts_per_update)
        for i, report in enumerate(reports):
            tell(report.messages[told[i] :])
            told[i] = len(report.messages)
        if update >= first:
            yield examples


def tell(messages: Sequence[ReportLine]) -> None:
    for message in messages:
        beginning = "note:" if message.about == "note" else "warning: skipped"
        tqdm.write(f"{beginning} {message.text}", file=sys.stderr)


def take(stream: Iterator[tuple[Example, Report]], count: int) -> list[Example]:
    """The next `count` examples whose screenshots can be read."""
    examples = []
    while len(examples) < count:
        example, report = next(stream)
        try:
            examples.append(with_open_screenshot(example))
        except BadRecord as error:
            report.skip("steps", str(error))
            report.seen["steps"] -= 1  # it was counted when its record was read
    return examples


def with_open_screenshot(example: Example) -> Example:
    """The example with its screenshot in memory; BadRecord where it cannot be read."""
    picture = example.observation.screenshot()
    observation = replace(example.observation, screenshot=lambda: picture)
    return replace(example, observation=observation)


def shuffled_windows(
    source: Source, horizon: int, history: int, rng: random.Random, report: Report
) -> Iterator[tuple[Example, Report]]:
    """One pass over a source's training split; each example with the report of its set."""
    examples = windows(source, horizon, history, report)
    for example in stream_shuffled(examples, SHUFFLE_BUFFER, rng):
        yield example, report


def windows(source: Source, horizon: int, history: int, report: Report) -> Iterator[Example]:
    """An example for each recorded step.

    Its tool agent finds the step's boxes by the text of the recorded action. Where one step is
    several actions, which share a screenshot and a history (AgentNet), the example begins with the
    first: the others would ask the same prompt for something else.
    """
    split = BENCHMARKS[source.name].train_split
    for episode in load_recorded(source.name, source.root, split, report):
        last_index = None
        for place, step in enumerate(episode.steps):
            if step.raw["index"] == last_index:
                continue
            last_index = step.raw["index"]
            yield Example(
                observation=observe(episode, step, history),
                reference=reference(episode, place, horizon),
                boxes=step.boxes,
                elements=elements(step),
                key=f"{episode.id}/{step.raw['index']}",
            )


def elements(step: Step) -> tuple[tuple[str, Box], ...]:
    """What the default tool agent can find: the recorded boxes, under the text of the step.

    A step without a text has none to be found by: a policy's own point is then judged.
    """
    if not step.action.text:
        return ()
    return tuple((step.action.text, box) for box in step.boxes)


def reference(episode: Episode, place: int, horizon: int) -> tuple[Action, ...]:
    """The recorded actions from a step on, at most `horizon`, and none from beyond a hole.

    At a hole the index goes up by more than 1; AgentNet's actions of one step share theirs.
    """
    window = episode.steps[place : place + horizon]
    actions = []
    last_index = window[0].raw["index"]
    for step in window:
        index = step.raw["index"]
        if index > last_index + 1:
            break
        actions.append(step.action)
        last_index = index
    return tuple(actions)


# ---- Random order ------------------------------------------------------------------------------


def stream_shuffled(items: Iterable, buffer: int, rng: random.Random) -> Iterator:
    """The items in random order, with at most `buffer` of them in memory."""
    held = []
    for item in items:
        held.append(item)
        if len(held) >= buffer:
            at = rng.randrange(len(held))
            # To the end first: taken from the middle, all that stand behind it would move.
            held[at], held[-1] = held[-1], held[at]
            yield held.pop()
    rng.shuffle(held)
    yield from held


def mix(streams: list[Stream], seed: int) -> Iterator:
    """Endless draws from several streams by weight; the same seed gives the same order.

    ValueError for a weight that is not positive and for a stream without items.
    """
    weights = [stream.weight for stream in streams]
    if not weights or min(weights) <= 0:
        raise ValueError(f"weights must be positive: {weights}")
    endless = [forever(stream) for stream in streams]
    rng = random.Random(seed)
    while True:
        drawn = rng.choices(endless, weights)[0]
        yield next(drawn)


def forever(stream: Stream) -> Iterator:
    """The stream's items; when it ends it is opened again."""
    while True:
        empty = True
        for item in stream.open():
            empty = False
            yield item
        if empty:
            raise ValueError("a data stream has no items")
