"""The recorded benchmarks by name, and the one way to their episodes.

Called by gui_scoring.py, tool_scoring.py, training.py and extras/speed.py, and by eval.py for the
names.
It reads nothing itself: each benchmark's file has its reader and its official rule.

| name           | on disk                                   | for              |
|----------------|-------------------------------------------|------------------|
| androidcontrol | gzip TFRecord, one tf.train.Example each  | training, exam   |
| gui-odyssey    | a json file an episode, PNG files         | training, exam   |
| mind2web       | parquet, a row a step                     | training, exam   |
| agentnet       | jsonl, a line an episode, image files     | training         |
| gta            | dataset.json, image files                 | exam with tools  |
| gaia           | metadata.jsonl or parquet, attachments    | exam with tools  |
| mmtraj         | json lists, image files                   | training         |
"""

import itertools
from collections.abc import Iterator
from pathlib import Path

from benchmarks import agentnet, androidcontrol, gaia, gta, gui_odyssey, mind2web, mmtraj
from benchmarks.common import Benchmark, Episode, Report, read_episodes

BENCHMARKS = {
    "androidcontrol": androidcontrol.BENCHMARK,
    "gui-odyssey": gui_odyssey.BENCHMARK,
    "mind2web": mind2web.BENCHMARK,
    "agentnet": agentnet.BENCHMARK,
    "gta": gta.BENCHMARK,
    "gaia": gaia.BENCHMARK,
    "mmtraj": mmtraj.BENCHMARK,
}
TOOL_BENCHES = ("gta", "gaia")  # scored by tool_scoring.py, all others by gui_scoring.py


def find_benchmark(name: str) -> Benchmark:
    if name not in BENCHMARKS:
        raise ValueError(f"unknown data set {name!r}: {', '.join(BENCHMARKS)}")
    return BENCHMARKS[name]


def load_recorded(name: str, root: str | Path, split: str, report: Report) -> Iterator[Episode]:
    """Episodes of a recorded data set, one at a time; `report` fills as they are read.

    ValueError (one line) at once for an unknown set or split, a missing root, an empty split; at
    the end when more than 5 % were bad.
    """
    benchmark = find_benchmark(name)
    root = Path(root)
    if not root.is_dir():
        raise ValueError(f"{root}: no such folder")
    episodes = read_episodes(benchmark.read(root, split, report), root, report)
    # The first is read now, so that a wrong name is told before a model is loaded.
    first = next(episodes, None)
    if first is None:
        message = f"{root}: split {split!r} of {name} is empty"
        if report.messages:
            message += f": {report.messages[0].text}"
        raise ValueError(message)
    return itertools.chain([first], episodes)
