"""extras/torchrun.py: several processes do what one does, and one does without any of it."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from extras import torchrun
from train import parse_config

ROOT = Path(__file__).resolve().parent.parent

# ---- one process ---------------------------------------------------------------------------------


def test_nothing_happens_in_a_single_process():
    weight = torch.nn.Parameter(torch.ones(2))
    weight.grad = torch.tensor([1.0, 2.0])
    torchrun.start()
    with torchrun.first_before_others():
        torchrun.add_gradients([weight])
    torchrun.stop()
    assert weight.grad.tolist() == [1.0, 2.0]
    assert (torchrun.processes(), torchrun.rank()) == (1, 0)
    assert torchrun.share([1, 2, 3]) == [1, 2, 3]
    assert torchrun.gather([1, 2, 3]) == [1, 2, 3]
    assert torchrun.total(3) == 3
    assert torchrun.first_only(len)([1, 2]) == 2


def test_shares_follow_each_other_and_only_the_first_process_writes(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "3")
    shares = []
    for rank in range(3):
        monkeypatch.setenv("RANK", str(rank))
        shares.append(torchrun.share(range(6)))
        assert torchrun.first_only(len)([1, 2]) == (2 if rank == 0 else None)
    assert [list(share) for share in shares] == [[0, 1], [2, 3], [4, 5]]


def test_each_process_takes_the_same_number_of_prompts(dies, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "3")
    assert "--prompts_per_update 16" in dies(parse_config, [])
    assert parse_config(["--prompts_per_update", "18"]).prompts_per_update == 18


# ---- two processes -------------------------------------------------------------------------------

TWO = ["-m", "torch.distributed.run", "--nproc_per_node=2", "--master_port=29611"]


def run_script(text: str, folder: Path, flags: list[str], how: list[str]) -> None:
    (folder / "go.py").write_text(text)
    done = subprocess.run(
        [sys.executable, *how, "go.py", *flags],
        cwd=folder,
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-800:]


TOGETHER = """
import torch
from extras import torchrun

torchrun.start()
rank = torchrun.rank()
assert torchrun.total(rank + 1) == 3 and isinstance(torchrun.total(rank), int)
assert torchrun.total(0.5 * rank) == 0.5
assert torchrun.gather([rank, "x"]) == [0, "x", 1, "x"]

weight = torch.nn.Parameter(torch.ones(2))
torchrun.add_gradients([weight])
assert weight.grad is None  # nobody has learnt anything
if rank == 1:
    weight.grad = torch.tensor([1.0, 2.0])
torchrun.add_gradients([weight])
assert weight.grad.tolist() == [1.0, 2.0]
torchrun.add_gradients([weight])
assert weight.grad.tolist() == [2.0, 4.0]
torchrun.stop()
"""


@pytest.mark.slow
def test_what_two_processes_have_is_put_together(tmp_path):
    run_script(TOGETHER, tmp_path, [], TWO)


TRAINING = """
import sys
import train

train.draw_pictures = lambda *_: None  # it plays 20 tasks more
train.main(sys.argv[1:])
"""


def test_two_processes_do_what_one_does(tiny, tmp_path):
    """With gloo: the same samples, metrics and adapters as one process with the same prompts in an
    update; one set of files."""
    flags = [
        *("--model", str(tiny)),
        *("--stage1_updates=3", "--stage2_updates=1", "--horizon=2"),
        *("--prompts_per_update=4", "--group_size=8", "--sample_batch=2", "--updates_per_batch=2"),
        *("--learning_rate=0.0001", "--kl_weight=0.1"),
        *("--keep_groups=3", "--eval_tasks=1", "--threads=1"),
    ]
    run_script(TRAINING, tmp_path, [*flags, "--output_dir=one"], how=[])
    run_script(TRAINING, tmp_path, [*flags, "--output_dir=two"], how=TWO)

    one = read_lines(tmp_path / "one" / "metrics.jsonl")
    two = read_lines(tmp_path / "two" / "metrics.jsonl")
    assert len(one) == len(two) == 4
    assert any(line["grad_norm"] > 0 and line["frac_zero_std"] < 1 for line in one)
    for a, b in zip(one, two, strict=True):
        assert a == about(b)

    first = load_file(tmp_path / "one" / "adapter" / "adapter_model.safetensors")
    second = load_file(tmp_path / "two" / "adapter" / "adapter_model.safetensors")
    # Adam divides by the gradient's own size: where that is all rounding, a step may differ by as
    # much as the learning rate.
    difference = max((first[name] - second[name]).abs().max() for name in first)
    movement = max(weight.abs().max() for name, weight in first.items() if "lora_B" in name)
    assert difference < 5e-5 < 2e-4 < movement
    names_of_one = sorted(path.name for path in (tmp_path / "one").iterdir())
    assert names_of_one == sorted(path.name for path in (tmp_path / "two").iterdir())


def read_lines(file: Path) -> list[dict]:
    return [json.loads(line) for line in file.read_text().splitlines()]


def about(line: dict) -> dict:
    """The same line, in which numbers may differ by rounding."""
    expected = {}
    for name, value in line.items():
        expected[name] = value
        if isinstance(value, float):
            expected[name] = pytest.approx(value, rel=1e-4, abs=1e-5)
    return expected
