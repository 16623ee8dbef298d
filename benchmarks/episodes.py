"""Episodes that are played: who plays them, what all such benchmarks share, and an archive of them.

Called by miniwob_exam.py, androidworld.py and osworld.py; a world of one's own needs no more than
this to be evaluated (docs/online.md). It knows no benchmark, no model and no browser. AndroidWorld
and OSWorld keep their episodes as their own runners do: in files of their own.
"""

import json
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from tqdm import tqdm

from agent import Plan, Planner, format_line, play
from benchmarks.common import as_dict, parse_json
from envs import Action, Observation, Point, ToolAgent, WorldError
from extras.readable_json import readable_json
from extras.run_folder import changes, write

# Who finds the points, where no --tool_agent is named.
LABELS = "exact labels of elements, not pixels"
OWN_POINTS = "none: the policy's own points"

# ---- who plays ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Player:
    """Who plays, and by which settings."""

    planner: Planner
    name: str  # of the run, the model or the planner
    horizon: int  # T, with which the planner was made
    history: int = 4  # K, past steps that it is shown
    scale: int = 1  # how large pictures are, where a world can draw them larger
    carry: bool = False  # the rest of the last forecast stands in the next prompt
    tool_agent: ToolAgent | None = None  # None: exact labels, by the world itself
    tool_agent_name: str = ""
    weights: str = ""  # tells the adapters of a run from those after more training
    how: dict = field(default_factory=dict)  # what else decides how a model answers

    @property
    def points_by(self) -> str:
        """Who turns a step's words into a point: not a matter of pixels where it reads labels."""
        if self.tool_agent is None:
            return LABELS
        return self.tool_agent_name

    @property
    def settings(self) -> dict:
        """All of it that decides how an episode goes, in the types of JSON."""
        return {
            "player": self.name,
            "weights": self.weights,
            "how": self.how,
            "points_by": self.points_by,
            "horizon": self.horizon,
            "history": self.history,
            "scale": self.scale,
            "carry": self.carry,
        }


# ---- what all of them share ---------------------------------------------------------------------

# Of a commit: where there is no git, and behind one whose files were changed.
UNKNOWN = "unknown"
DIRTY = "-dirty"


def commit_of(clone: Path) -> str:
    """The commit of a clone, with DIRTY behind it where a file was changed; or UNKNOWN."""
    # Its own .git: git would look for one in the folders above it, too.
    git = ["git", f"--git-dir={clone / '.git'}", f"--work-tree={clone}"]
    # No tag, but the hash itself.
    command = [*git, "describe", "--always", f"--dirty={DIRTY}", "--abbrev=40", "--exclude=*"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return UNKNOWN
    return done.stdout.strip()


SETTINGS = "settings.json"  # in the output folder: what an evaluation that goes on must share


def open_folder(
    folder: Path, settings: dict, file_name: str = SETTINGS, free: Collection[str] = ()
) -> None:
    """Make the folder of an evaluation, or open one that lies there to go on with it.

    `settings`: all that decides how an episode goes; `free`: those which may be otherwise now.
    ValueError where the folder holds what was played with other settings, or something else.
    """
    file = folder / file_name
    if file.exists():
        before = as_dict(parse_json(file.read_text(), str(file)))
        different = changes(before, settings, free)
        if different:
            raise ValueError(f"{folder} was made with other settings: {different}")
    elif folder.exists() and any(folder.iterdir()):
        raise ValueError(f"{folder} is not empty, and has no {file_name}: choose another folder")
    folder.mkdir(parents=True, exist_ok=True)
    write(file, readable_json(settings))


def to_pixels(point: Point, size: tuple[int, int]) -> tuple[int, int]:
    """The pixel that a point in 0..1 lies on; 1.0 lies on the last one.

    >>> to_pixels((0.5, 1.0), (1080, 2400))
    (540, 2399)
    """
    x, y = point
    width, height = size
    return min(int(x * width), width - 1), min(int(y * height), height - 1)


def table_row(name: str, *cells: object) -> str:
    """A line of a table: cells of one width behind a name."""
    return f"{name:32}" + "".join(f"{cell:>11}" for cell in cells)


def percent(share: float | None) -> str:
    """A share in 0..1 for a person; None is the share of nothing."""
    return "none" if share is None else f"{share:.1%}"


# ---- episodes that are kept ---------------------------------------------------------------------


class NotBegun(WorldError):
    """What reset raises where a world crashes over its first screen: it costs this episode only."""


@dataclass
class Episode:
    """A finished episode: one line of its task's file."""

    task: str
    seed: int
    success: bool
    crashed: bool
    tokens: int  # written in it, thoughts included
    seconds: float
    info: dict  # what else the environment said at the end, such as a reward
    steps: list[dict]  # the audit: {"forecast", "executed", "result"} each


class Archive:
    """The finished episodes of an evaluation: in its folder a file a task, a JSON line an episode.

    A file is written whole or not at all: whenever the evaluation is killed, what was finished is
    there, and only that.
    """

    def __init__(self, folder: Path, settings: dict):
        """ValueError for a folder that open_folder refuses, and for a damaged episode in it."""
        self.folder = folder
        self.episodes: dict[str, dict[int, Episode]] = defaultdict(dict)
        open_folder(folder, settings)
        (folder / "episodes").mkdir(exist_ok=True)
        self.read()

    def read(self) -> None:
        for file in sorted((self.folder / "episodes").glob("*.jsonl")):
            for number, line in enumerate(file.read_text().splitlines(), 1):
                where = f"{file}: line {number}"
                try:
                    episode = Episode(**as_dict(parse_json(line, where)))
                except TypeError:
                    raise ValueError(f"{where}: not an episode of this version")
                self.episodes[episode.task][episode.seed] = episode

    def keep(self, episode: Episode) -> None:
        of_task = self.episodes[episode.task]
        of_task[episode.seed] = episode
        lines = [json.dumps(asdict(of_task[seed])) + "\n" for seed in sorted(of_task)]
        write(self.folder / "episodes" / f"{episode.task}.jsonl", "".join(lines))

    def has(self, task: str, seed: int) -> bool:
        return seed in self.episodes[task]


# Keys of info that Episode.info leaves out: an episode has them as fields, or in its steps.
IN_EPISODE = ("result", "success", "crashed", "steps", "task")


@dataclass
class Recorded:
    """An environment whose episode is written down, and kept at the moment in which it ends.

    begin() comes before all else. All that is not said here is the environment's own.
    """

    env: object
    task: str
    seed: int
    budget: int  # steps, after which an episode ends
    keep: Callable[[Episode], None]
    audit: list[dict] = field(default_factory=list)
    plan: Plan | None = None  # the planner's last one: see noting
    tokens: int = 0

    def __getattr__(self, name: str):
        return getattr(self.env, name)

    def begin(self) -> bool:
        """Reset the environment; where it crashes over that, the episode is kept as crashed."""
        self.started = time.monotonic()
        try:
            self.first = self.env.reset(self.seed)
        except NotBegun as error:
            info = {"success": False, "crashed": True, "reason": str(error)}
            self.keep(self.finished(info))
            return False
        return True

    def reset(self, seed: int):
        """What begin() saw, for play."""
        return self.first

    def step(self, action: Action | None, said: str = ""):
        observation, reward, terminated, truncated, info = self.env.step(action, said=said)
        self.audit.append(
            {
                "forecast": [format_line(step) for step in self.plan.forecast],
                "executed": executed_text(action),
                "result": info["result"],
            }
        )
        self.tokens += self.plan.tokens
        if not terminated and len(self.audit) >= self.budget:
            truncated = True
        if terminated or truncated:
            self.keep(self.finished(info))
        return observation, reward, terminated, truncated, info

    def finished(self, info: dict) -> Episode:
        return Episode(
            task=self.task,
            seed=self.seed,
            success=info["success"],
            crashed=info.get("crashed", False),
            tokens=self.tokens,
            seconds=round(time.monotonic() - self.started, 3),
            info={name: value for name, value in info.items() if name not in IN_EPISODE},
            steps=self.audit,
        )


def executed_text(action: Action | None) -> str | None:
    """What went to the environment, with its point: "click Save (0.310, 0.500)".

    None where the tool agent refused, or nothing could be read.
    """
    if action is None:
        return None
    places = [place for place in (action.point, action.end) if place is not None]
    return " ".join([str(action), *(f"({x:.3f}, {y:.3f})" for x, y in places)])


def noting(planner: Planner) -> Planner:
    """The planner, whose plans the environments are told, to write them down."""

    def plan(observations: list[Observation], envs: list) -> list[Plan]:
        plans = planner(observations, envs)
        for env, its_plan in zip(envs, plans, strict=True):
            env.plan = its_plan
        return plans

    return plan


def play_missing(
    player: Player,
    tasks: Sequence[str],
    seeds: int,
    steps: int,
    side_by_side: int,
    open_env: Callable[[str], object],
    archive: Archive,
) -> None:
    """Play seeds 0 .. seeds-1 of each task, but for those that the archive has.

    `open_env(task)`: an environment, which is closed again.
    """
    todo = []
    for task in tasks:
        todo += [(task, seed) for seed in range(seeds) if not archive.has(task, seed)]
    total = len(tasks) * seeds

    with tqdm(total=total, initial=total - len(todo), unit="episode", mininterval=1) as bar:

        def keep(episode: Episode) -> None:
            archive.keep(episode)
            if episode.crashed:
                line = f"{episode.task}, seed {episode.seed}: crashed, not solved"
                tqdm.write(line, file=sys.stderr)
            bar.set_description(episode.task)
            bar.update(1)

        for part in parts(todo, side_by_side):
            envs = [Recorded(open_env(task), task, seed, steps, keep) for task, seed in part]
            try:
                begun = [env for env in envs if env.begin()]
                play(
                    noting(player.planner),
                    begun,
                    [env.seed for env in begun],
                    player.horizon,
                    tool_agent=player.tool_agent,
                    carry=player.carry,
                )
            finally:
                for env in envs:
                    env.close()


def parts(entries: Sequence, size: int) -> Iterator[Sequence]:
    """The entries, `size` at a time."""
    for start in range(0, len(entries), size):
        yield entries[start : start + size]
