"""The GPU check tries itself on a CPU, so that it does not fail on the day when a card is lent."""

import json
from argparse import Namespace

import gpu_check
import pytest
import torch


def test_it_runs_on_a_cpu(tmp_path):
    gpu_check.main(["--shape", "tiny", "--device", "cpu", "--completion", "4", "--json", str(tmp_path / "gpu.json")])
    found = json.loads((tmp_path / "gpu.json").read_text())
    row, = found["rows"]
    assert (row["shape"], row["bits"], row["failed"], row["completion_tokens"]) == ("tiny", 16, None, 4)
    assert row["prompt_tokens"] > found["image_tokens"] == 64 and row["peak_gib"] >= row["weights_gib"] > 0
    assert set(row["seconds"]) == {"sampling", "update", "tool_agent"} and all(s > 0 for s in row["seconds"].values())


@pytest.mark.parametrize("held,rows,other", [(4, [16, 8, 4], [[1, 2]]), (4, [16, 8, 4], [[1, 3]]), (0, [16, 8, 4, 2, 1], [[1, 2]])])
def test_beside_trl(monkeypatch, held, rows, other):
    """A side gets fewer rows at once until they fit, ours at least one prompt's; a row says where the sides did not do the same."""
    tried = []

    def run_side(args, side, rows, **_):
        ours = side == "ours"
        tried.append(rows)
        if rows > (8 if ours else held):
            return {"failed": "out of memory"}
        return {"done": {"prompt_ids": [[1, 2]] if ours else other, "completion_tokens": 9},
                "row": {"seconds": {"sampling": 2 if ours else 6, "update": 2 if ours else 14}, "peak_gib": 3 if ours else 12}}

    monkeypatch.setattr(gpu_check, "run_side", run_side)
    row = gpu_check.compare(Namespace(trl=True, prompts=2), shape="2b", bits=4)
    assert tried == [16, 8, *rows] and row["rows_at_once"] == 8 and row["trl"]["rows_at_once"] == rows[-1]
    assert row["trl"]["failed"] == (None if held else "out of memory") and ("times_faster" in row) == bool(held)
    if held:
        assert row["times_faster"] == {"sampling": 3, "update": 7, "iteration": 5} and row["share_of_memory"] == 0.25
        same = other == [[1, 2]]
        assert row["failed"] == (None if same else "the sides did not do the same: 9 and 9 completion tokens, prompts different")


def test_mistakes_end_in_one_line(dies, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(gpu_check, "find_spec", lambda _: None)
    wrong = {"": "no CUDA device here", "--shape 3b": "invalid choice: '3b'", "--device cpu --trl": "pip install 'trl==1.16.*'",
             "--device cpu --tokens 60": "--tokens", "--device cpu --prompts 0": "--prompts",
             "--device cpu --json /nowhere/x.json": "--json: no folder /nowhere"}
    for flags, said in wrong.items():
        assert said in dies(gpu_check.main, flags.split())
