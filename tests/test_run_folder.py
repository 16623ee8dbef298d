"""extras/run_folder.py: what a run leaves behind, how it is refused, resumed, and read again."""

import dataclasses
import json
import resource
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from helpers import observe, small, train_stage1

import agent
from agent import add_lora, encode, make_rollout, trainable
from envs import ToyGUI
from extras.ablation import ROOT
from extras.run_folder import (
    RunFolder,
    changes,
    load_run_policy,
    memory_or_die,
    read_run,
    rollout_record,
    write,
)
from train import open_run, parse_config

# ---- small things --------------------------------------------------------------------------------


def test_a_file_is_written_whole_or_not_at_all(tmp_path, monkeypatch, dies):
    file = tmp_path / "a.json"
    write(file, "one")
    assert file.read_text() == "one"

    def full_disk(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.replace", full_disk)
    assert f"cannot write {file}: No space left on device" in dies(write, file, "two")
    assert file.read_text() == "one"


def test_a_disk_that_fills_up_at_a_checkpoint_is_an_os_error(tiny, tmp_path):
    """train.py ends with one line then; torch.save alone would raise a RuntimeError."""
    run, policy = open_run(small(tmp_path, tiny))
    add_lora(policy, rank=4, alpha=8, seed=0)
    for name in ("metrics.jsonl", "rollouts.jsonl"):
        (tmp_path / name).write_text("")
    optimizer = torch.optim.AdamW(trainable(policy))
    run.save(policy, optimizer, "stage1", 1)
    whole = (tmp_path / "checkpoint.pt").read_bytes()
    usual = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(whole) // 2, usual[1]))
    try:
        with pytest.raises(OSError, match="File too large"):
            run.save(policy, optimizer, "stage1", 2)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, usual)
        signal.signal(signal.SIGXFSZ, handler)
    assert (tmp_path / "checkpoint.pt").read_bytes() == whole


def test_a_full_gpu_names_the_flags(dies):
    @memory_or_die()
    def full():
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB\nand so on")

    message = dies(full)
    flags = ("--micro_batch", "--sample_batch", "--max_pixels", "--thinking", "--load_in_4bit")
    for flag in flags:
        assert flag in message


def test_other_errors_pass():
    with pytest.raises(RuntimeError, match="something else"), memory_or_die():
        raise RuntimeError("something else")


def test_changes_names_what_differs_and_is_not_free():
    before = {"gamma": 0.9, "seed": 0, "threads": 1}
    now = {"gamma": 0.5, "seed": 0, "threads": 2, "forward": "shared"}
    expected = "gamma 0.9, not 0.5, forward None, not 'shared'"
    assert changes(before, now, free=("threads",)) == expected
    assert changes(before, before) == ""


# ---- a folder that cannot be used ----------------------------------------------------------------


def folder_of(config) -> RunFolder:
    return RunFolder(dataclasses.asdict(config))


def test_a_folder_in_use_is_refused_and_left_as_it_was(tiny, tmp_path, dies):
    (tmp_path / "metrics.jsonl").write_text("mine\n")
    assert str(tmp_path) in dies(folder_of, small(tmp_path, tiny))
    assert [path.name for path in tmp_path.iterdir()] == ["metrics.jsonl"]
    assert (tmp_path / "metrics.jsonl").read_text() == "mine\n"


@pytest.mark.parametrize("where", ["a file", "below a file"])
def test_a_place_that_cannot_be_a_folder_is_named(tiny, tmp_path, dies, where):
    (tmp_path / "file").write_text("mine")
    place = tmp_path / "file"
    if where == "below a file":
        place = tmp_path / "file" / "run"
    assert str(place) in dies(folder_of, small(place, tiny))
    assert (tmp_path / "file").read_text() == "mine"


TRY = """
from dataclasses import asdict
from sys import argv
from extras.run_folder import RunFolder
from train import parse_config
config = parse_config(["--output_dir", argv[1], "--threads", "1"])
run = RunFolder(asdict(config))
print("opened", flush=True)
input()
"""


def test_two_processes_cannot_write_into_one_folder(tmp_path, dies):
    """The second would cut the logs of the first. Killed, the first one leaves no lock behind."""
    folder = tmp_path / "run"
    command = [sys.executable, "-c", TRY, str(folder)]
    ends = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "cwd": ROOT, "text": True}
    with subprocess.Popen(command, **ends) as first:
        assert first.stdout.readline() == "opened\n"
        config = parse_config(["--output_dir", str(folder)])
        assert f"{folder} is being written by another process" in dies(folder_of, config)
        first.kill()
    run = folder_of(config)  # nothing had been written yet: no --resume is needed
    again = folder_of(config)  # the process that holds the lock may open it again
    assert run.lock is again.lock


# ---- resuming ------------------------------------------------------------------------------------


def test_a_resumed_run_ends_as_one_that_was_never_stopped(tiny, tmp_path, monkeypatch):
    never_stopped = train_stage1(small(tmp_path / "whole", tiny))

    log = RunFolder.log

    def stop_after_update_2(self, line, groups):
        log(self, line, groups)
        if line["update"] == 2:
            raise KeyboardInterrupt

    config = small(tmp_path / "stopped", tiny)
    with monkeypatch.context() as killed, pytest.raises(KeyboardInterrupt):
        killed.setattr(RunFolder, "log", stop_after_update_2)
        train_stage1(config)
    metrics = tmp_path / "stopped" / "metrics.jsonl"
    assert len(metrics.read_text().splitlines()) == 3
    resumed = train_stage1(dataclasses.replace(config, resume=True, micro_batch=5))

    for name in ("metrics.jsonl", "rollouts.jsonl"):
        whole = (tmp_path / "whole" / name).read_bytes()
        assert whole == (tmp_path / "stopped" / name).read_bytes()
        assert whole.count(b"\n") >= 4
    assert all(torch.equal(a, b) for a, b in zip(never_stopped, resumed, strict=True))


DAMAGES = [
    "no folder",
    "no config",
    "cut config",
    "a list",
    "a run of another version",
    "other settings",
    "cut checkpoint",
    "empty checkpoint",
]


def damage_config(file: Path, damage: str) -> None:
    """Do this to a config.json; nothing for any other damage."""
    if damage == "no config":
        file.unlink()
    elif damage == "cut config":
        file.write_text(file.read_text()[:40])
    elif damage == "a list":
        file.write_text("[]")
    elif damage == "a run of another version":
        config = json.loads(file.read_text())
        del config["forward"]
        file.write_text(json.dumps(config))


@pytest.mark.parametrize("damage", DAMAGES)
def test_resuming_a_damaged_run_ends_with_one_line_and_changes_nothing(
    tiny, tmp_path, dies, damage
):
    folder = tmp_path / "run"
    config = small(folder, tiny)
    again = dataclasses.replace(config, resume=True)
    if damage != "no folder":
        train_stage1(config)
    file = folder / "config.json"
    checkpoint = folder / "checkpoint.pt"
    damage_config(file, damage)
    if damage == "other settings":
        again = dataclasses.replace(again, gamma=0.5)
    elif damage == "cut checkpoint":
        whole = checkpoint.read_bytes()
        checkpoint.write_bytes(whole[: len(whole) // 2])
    elif damage == "empty checkpoint":
        checkpoint.write_bytes(b"")
    before = {path.name: path.read_bytes() for path in folder.glob("*.json*")}
    message = dies(folder_of, again)
    assert str(folder) in message
    if damage == "other settings":
        assert "gamma 0.9, not 0.5" in message
    assert {path.name: path.read_bytes() for path in folder.glob("*.json*")} == before


def test_a_stage_is_finished_when_the_checkpoint_is_of_the_next(tiny, tmp_path):
    run = folder_of(small(tmp_path / "run", tiny))
    assert not run.has_finished("stage1")
    (tmp_path / "run" / "stage2").mkdir()
    run.checkpoint = {}
    assert not run.has_finished("stage2")  # it had no updates, and its exam may be missing
    (tmp_path / "run" / "stage2").rmdir()
    run.checkpoint = {"stage": "stage1"}
    (tmp_path / "run" / "stage1").mkdir()
    assert not run.has_finished("stage1")  # its exam may be missing
    run.checkpoint = {"stage": "stage2"}
    assert run.has_finished("stage1")
    assert not run.has_finished("stage2")


# ---- reading a run -------------------------------------------------------------------------------


def finished_run(folder, tiny, **changes) -> list[torch.Tensor]:
    """A run whose adapters have just been drawn; returns them."""
    config = small(folder, tiny, **changes)
    run, policy = open_run(config)
    agent.add_lora(policy, config.lora_rank, config.lora_alpha, config.seed)
    run.save_adapter(policy, "adapter")
    return [weight.detach().clone() for weight in trainable(policy)]


def test_a_run_can_be_loaded_again(tiny, tmp_path):
    adapters = finished_run(tmp_path, tiny, order="far", forward="reference")
    config = read_run(tmp_path)
    assert config["base"] == str(tiny)
    assert config["horizon"] == 2
    policy = load_run_policy(tmp_path, config)
    assert policy.far_first
    assert policy.forward is agent.REFERENCE
    loaded = [w for name, w in policy.core.named_parameters() if "lora_" in name]
    assert all(torch.equal(a, b) for a, b in zip(adapters, loaded, strict=True))
    assert load_run_policy(tmp_path, config, adapter=None).peft is None


def test_a_finished_adapter_is_replaced(tiny, tmp_path):
    config = small(tmp_path, tiny)
    run, policy = open_run(config)
    agent.add_lora(policy, 4, 8, 0)
    for _ in range(2):
        run.save_adapter(policy, "adapter")
    names = {path.name for path in tmp_path.iterdir()}
    assert "adapter" in names
    assert "adapter.tmp" not in names


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        ("no folder", "there is no such folder"),
        ("no config", "this is not a run of train.py"),
        ("cut config", "config.json cannot be read"),
        ("a list", "was not written by train.py of this version"),
        ("a run of another version", "was not written by train.py of this version"),
        ("no adapter", "the run is not finished"),
    ],
)
def test_what_is_no_finished_run_is_told_in_one_line(tiny, tmp_path, dies, damage, words):
    folder = tmp_path / "run"
    finished_run(folder, tiny)
    file = folder / "config.json"
    if damage == "no folder":
        folder = tmp_path / "elsewhere"
    damage_config(file, damage)
    if damage == "no adapter":
        (folder / "adapter" / "adapter_model.safetensors").unlink()
    message = dies(read_run, folder)
    assert f"--run {folder}" in message
    assert words in message


def test_a_rollout_is_a_line_of_the_log(policy):
    ids = policy.tokenizer("click Save\ndone<|im_end|>")["input_ids"]
    rollout = make_rollout(policy, encode(policy, [observe(0)], 5)[0], ids, [-0.5] * 5, 5)
    rollout.reward_terms = {"align": 1.0, "reward": 1.0}
    env = ToyGUI("test")
    env.reset(0)
    line = json.loads(json.dumps(rollout_record(rollout, env.example(5))))
    assert line["completion_ids"] == ids
    assert line["reward"] == 1.0
    assert line["forecast"] == ["click Save", "done"]
    assert line["thought_tokens"] == 0
    others = {"observation", "prompt_ids", "text", "finish_reason", "parse_error"}
    others |= {"reward_terms", "advantages", "old_logprobs"}
    assert others <= set(line)
