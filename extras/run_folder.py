"""The folder of a run: its logs, its checkpoint, how it is resumed and how its policy is loaded.

Called by train.py, which fills the folder, and by eval.py and the players, which read it.
Does not train, examine or draw, and does not know Config: settings come as a dictionary.
"""

import io
import json
import os
import pickle
import shutil
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from filelock import FileLock, Timeout

from agent import Group, Policy, Rollout
from envs import Example, die, one_line
from extras import torchrun
from extras.loading import let_think, load_policy
from extras.readable_json import readable_json

# ---- small things that every script needs --------------------------------------------------------


def write(path: Path, text: str) -> None:
    """Write under a temporary name and rename, so that nobody ever reads half a file."""
    unfinished = path.with_name(path.name + ".tmp")
    try:
        unfinished.write_text(text)
        os.replace(unfinished, path)
    except OSError as error:
        die(f"cannot write {path}: {error.strerror}")


@contextmanager
def memory_or_die() -> Iterator[None]:
    """A full GPU ends with one line that names the flags which help. Also a decorator."""
    try:
        yield
    except torch.OutOfMemoryError:
        die(
            "the GPU's memory is full. In training: lower --micro_batch or --sample_batch (and "
            "--resume), or start again with less --max_pixels, less --thinking or --load_in_4bit. "
            "With --model these three help; a --run needs a larger card"
        )


def changes(before: dict, now: dict, free: Collection[str] = ()) -> str:
    """What differs between the settings of a config.json and those of now, but for those in `free`.

    >>> changes({"gamma": 0.1, "seed": 0}, {"gamma": 0.9, "seed": 1}, free=("seed",))
    'gamma 0.1, not 0.9'
    """
    differences = []
    for name, value in now.items():
        old = before.get(name)
        if name not in free and old != value:
            differences.append(f"{name} {old!r}, not {value!r}")
    return ", ".join(differences)


# ---- a finished run, for those who read it -------------------------------------------------------

# What load_run_policy, the exams and the players ask of a config.json.
NEEDED = (
    "base",
    "in_4bit",
    "env",
    "forward",
    "max_pixels",
    "tool_agent",
    "horizon",
    "history",
    "order",
    "carry_forecast",
)


def read_run(folder: str | Path) -> dict:
    """config.json of a finished run of train.py, as a dictionary.

    Ends with one line and exit code 2 for a folder that is missing, half-written or something else.
    """
    folder = Path(folder)
    if not folder.is_dir():
        die(f"--run {folder}: there is no such folder")
    try:
        config = json.loads((folder / "config.json").read_text())
    except FileNotFoundError:
        die(f"--run {folder}: no config.json, this is not a run of train.py")
    except (OSError, ValueError) as error:
        die(f"--run {folder}: config.json cannot be read ({error})")
    if not has_all(config, NEEDED):
        die(f"--run {folder}: config.json was not written by train.py of this version")
    if not (folder / "adapter" / "adapter_model.safetensors").exists():
        die(
            f"--run {folder}: no adapter yet, the run is not finished "
            f"(python train.py --output_dir {folder} --resume goes on with it)"
        )
    return config


def has_all(config: object, names: Collection[str]) -> bool:
    """Whether what stood in a JSON file is an object with all these keys."""
    return isinstance(config, dict) and set(names) <= set(config)


def load_run_policy(folder: str | Path, config: dict, adapter: str | None = "adapter") -> Policy:
    """The policy of a run: its last adapters, those of a stage, or none (the warm start).

    It sees screens as large as in its training, and thinks as much.
    """
    policy = load_policy(
        config["base"],
        adapter=Path(folder) / adapter if adapter else None,
        forward=config["forward"],
        max_pixels=config["max_pixels"],
        load_in_4bit=config["in_4bit"],
    )
    policy.far_first = config["order"] == "far"
    policy.forecast_states = config.get("forecast_states", False)  # older runs have no such key
    let_think(policy, config.get("thinking", 0))  # a run of before this flag did not think
    return policy


# ---- a run that is being made --------------------------------------------------------------------

LOGS = ("metrics.jsonl", "rollouts.jsonl")
LOCK = ".lock"
# What a resumed run may have otherwise, because the result stays the same but for rounding.
FREE_TO_CHANGE = (
    "resume",
    "output_dir",
    "threads",
    "warmup_dir",  # a resumed run keeps its own start, wherever that stands
    "control",  # a run of its own, beside this one
    "micro_batch",
    "save_every",
    "gradient_checkpointing",
    "sample_batch",  # the exception: other forecasts are drawn from here on, just as likely ones
    "load_in_4bit",  # not asked again: `in_4bit` has what was decided when the run began
)


def rollout_record(rollout: Rollout, example: Example) -> dict:
    """A rollout as one line of rollouts.jsonl."""
    observation = example.observation
    return {
        "observation": {
            "instruction": observation.instruction,
            "history": observation.history,
            "plan": [str(action) for action in observation.plan],
        },
        "reference": [str(action) for action in example.reference],
        "text": rollout.text,
        "forecast": [str(action) for action in rollout.forecast],
        "finish_reason": rollout.finish_reason,
        "parse_error": rollout.parse_error,
        "thought_tokens": rollout.thought_tokens,
        "reward_terms": rollout.reward_terms,
        "reward": rollout.reward,
        "advantages": rollout.advantages,
        "prompt_ids": rollout.prompt_ids,
        "completion_ids": rollout.completion_ids,
        "old_logprobs": rollout.old_logprobs,
    }


class RunFolder:
    """The files of one run of train.py.

    A checkpoint remembers how long the logs were when it was written: a resumed run cuts them
    there, so that it ends with the same files as a run that was never stopped. While a process
    writes into the folder, it holds the lock there; when it dies, the system lets go of it.

    path         the folder
    config       the settings of now: one key for each flag of train.py
    before       with --resume: config.json as the run wrote it when it began; else empty
    checkpoint   what the last checkpoint holds; empty before the first
    results      what becomes results.json; a checkpoint keeps it too
    """

    def __init__(self, config: dict):
        """Open the folder of these settings; ends with one line where that cannot be done."""
        self.path = Path(config["output_dir"])
        self.config = config
        self.before = {}
        self.checkpoint = {}
        self.results = {
            "seed": config["seed"],
            "config": config,
            "seconds": {},
            config["eval_split"]: {},
        }
        if config["resume"]:
            self._read_config()
            self._lock()
            self._read_checkpoint()
            self._cut_logs()
        else:
            self._refuse_a_place_in_use()
            self._make()
            self._lock()

    # -- opening

    def _refuse_a_place_in_use(self) -> None:
        if self.path.exists() and not self.path.is_dir():
            die(f"--output_dir {self.path}: there is a file of that name")
        if torchrun.rank() > 0:
            return  # the first process has looked, and has made the first file since
        # A run that was stopped before it had written anything has left its lock alone.
        if self.path.exists() and any(file.name != LOCK for file in self.path.iterdir()):
            die(
                f"{self.path} is not empty: add --resume to go on with it, "
                "or choose another --output_dir"
            )

    def _make(self) -> None:
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            die(f"cannot write to {self.path}: {error.strerror}")

    @torchrun.first_only
    def _lock(self) -> None:
        """Two processes would cut and write each other's logs: the second one ends here."""
        # A singleton: the process that has the lock may open its folder again.
        self.lock = FileLock(self.path / LOCK, is_singleton=True, fallback_to_soft=False)
        try:
            self.lock.acquire(blocking=False)
        except Timeout:
            die(f"{self.path} is being written by another process: wait for it, or stop it")
        except (OSError, NotImplementedError):
            pass  # a file system without locks: nobody is kept out

    def _read_config(self) -> None:
        file = self.path / "config.json"
        if not file.exists():
            die(f"--resume: there is no {file}")
        try:
            before = json.loads(file.read_text())
        except ValueError as error:
            die(f"--resume: {file} is damaged: {error}")
        if not isinstance(before, dict):
            die(f"--resume: {file} is damaged: not an object")
        if not has_all(before, {"base", "in_4bit", *self.config}):
            die(f"--resume: {file} was not written by train.py of this version")
        changed = changes(before, self.config, FREE_TO_CHANGE)
        if changed:
            die(f"--resume: {file} was made with other settings: {changed}")
        self.before = before

    def _read_checkpoint(self) -> None:
        file = self.path / "checkpoint.pt"
        if not file.exists():
            return
        damages = (OSError, RuntimeError, EOFError, KeyError, ValueError, pickle.UnpicklingError)
        try:
            self.checkpoint = torch.load(file, map_location="cpu", weights_only=True)
            self.results = json.loads(self.checkpoint["results"])
        except damages as error:
            die(f"--resume: {file} is damaged: {one_line(str(error), 120)}")

    @torchrun.first_only
    def _cut_logs(self) -> None:
        """Back to their length at the checkpoint, in bytes; to 0 where there is none yet."""
        for name in LOGS:
            if (self.path / name).exists():
                os.truncate(self.path / name, self.checkpoint.get(name, 0))

    # -- writing

    @torchrun.first_only
    def write_config(self, base: Path, in_4bit: bool) -> None:
        """config.json: the settings, the model that the adapters stand on, and its precision."""
        written = {"base": str(base), "in_4bit": in_4bit} | self.config
        write(self.path / "config.json", json.dumps(written, indent=1))

    @torchrun.first_only
    def write_results(self) -> None:
        write(self.path / "results.json", readable_json(self.results))

    @torchrun.first_only
    def log(self, line: dict, groups: Sequence[Group]) -> None:
        """Append the metrics of an update, and the rollouts of these groups."""
        with open(self.path / "metrics.jsonl", "a") as metrics:
            metrics.write(json.dumps(line) + "\n")
        when = {"stage": line["stage"], "update": line["update"]}
        with open(self.path / "rollouts.jsonl", "a") as rollouts:
            for group in groups:
                for rollout in group.rollouts:
                    record = when | rollout_record(rollout, group.example)
                    rollouts.write(json.dumps(record) + "\n")

    def read_metrics(self) -> list[dict]:
        """The lines of metrics.jsonl; none before the first update."""
        file = self.path / "metrics.jsonl"
        if not file.exists():
            return []
        return [json.loads(line) for line in file.read_text().splitlines()]

    # -- checkpoints and adapters

    @torchrun.first_only
    def save(
        self, policy: Policy, optimizer: torch.optim.Optimizer, stage: str, update: int
    ) -> None:
        """Write checkpoint.pt: all that a resumed run needs to go on with `update`."""
        weights = {}
        for name, weight in policy.core.named_parameters():
            if weight.requires_grad:
                weights[name] = weight.detach()
        self.checkpoint = {
            "stage": stage,
            "update": update,
            "weights": weights,
            "optimizer": optimizer.state_dict(),
            "results": json.dumps(self.results),
        }
        for name in LOGS:
            self.checkpoint[name] = (self.path / name).stat().st_size  # see _cut_logs
        # Through memory: on a full disk torch.save would raise a RuntimeError, this an OSError.
        as_bytes = io.BytesIO()
        torch.save(self.checkpoint, as_bytes)
        unfinished = self.path / "checkpoint.tmp"
        unfinished.write_bytes(as_bytes.getbuffer())
        os.replace(unfinished, self.path / "checkpoint.pt")

    def restore(self, policy: Policy, optimizer: torch.optim.Optimizer, stage: str) -> int:
        """Weights and optimiser as the checkpoint has them; returns the update to go on with.

        A checkpoint of another stage changes nothing: the stage begins with update 0.
        """
        if self.checkpoint.get("stage") != stage:
            return 0
        weights = dict(policy.core.named_parameters())
        with torch.no_grad():
            for name, value in self.checkpoint["weights"].items():
                weights[name].copy_(value)
        optimizer.load_state_dict(self.checkpoint["optimizer"])
        return self.checkpoint["update"]

    def has_finished(self, stage: str) -> bool:
        """Whether the run, before it was stopped, had ended stage 1 and begun stage 2.

        Of the last stage, and of one that no checkpoint follows, the exam may be missing: it is
        entered again, has nothing left to train, and is examined.
        """
        return stage == "stage1" and self.checkpoint.get("stage") == "stage2"

    @torchrun.first_only
    def save_adapter(self, policy: Policy, name: str) -> None:
        """Write the adapters to a folder of this name in peft's format, whole or not at all."""
        unfinished = self.path / f"{name}.tmp"
        policy.peft.save_pretrained(unfinished)
        shutil.rmtree(self.path / name, ignore_errors=True)
        os.replace(unfinished, self.path / name)
