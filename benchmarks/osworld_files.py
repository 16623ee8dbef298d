"""Files of OSWorld: the tasks of a clone, and results as the official runner leaves them.

Called by osworld.py. It plays nothing and computes no score.
"""

import json
import re
import shutil
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from math import isfinite
from pathlib import Path

from benchmarks.common import BadRecord, as_dict, get, parse_json, read_lists, reason, within
from envs import one_line
from extras.run_folder import write

REPOSITORY = "https://github.com/xlang-ai/OSWorld"
# desktop-env 1.0.2 is of 23 October 2025; later tasks ask for graders that it does not have.
HOW_TO_CLONE = (
    f"needed: a clone of {REPOSITORY} as it was when desktop-env 1.0.2 came out; in it, "
    "git checkout $(git rev-list -1 --before=2025-10-24 HEAD)"
)

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


def read_tasks(clone: Path, names: Sequence[str] = ()) -> list[Task]:
    """The tasks of a clone that are named, each once; all of test_all.json without a name.

    A name is a domain, a "domain/id", or one of the clone's own lists: "all" is test_all.json (369
    tasks), "nogdrive" test_nogdrive.json (the 361 that need no account of Google Drive), "small"
    test_small.json. ValueError in one line for a clone of another shape and an unknown name.
    """
    root = clone / "evaluation_examples"
    lists = {}
    for path in sorted(root.glob("test_*.json")):
        lists[path.stem.removeprefix("test_")] = path
    if "all" not in lists:
        raise ValueError(f"{root / 'test_all.json'} is missing; {HOW_TO_CLONE}")
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
        raise ValueError(f"{path}: {reason(problem)}; {HOW_TO_CLONE}")
    return Task(domain, ident, config)


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
