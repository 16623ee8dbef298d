"""extras/gpu_check.py tries itself on a CPU, so that it does not fail on the day of a card."""

import json
from argparse import Namespace

import pytest
import torch

from extras import gpu_check
from extras.made_up import SHAPES, SPECIAL, make_config


def test_it_runs_on_a_cpu(tmp_path):
    file = tmp_path / "gpu.json"
    flags = ["--shape", "tiny", "--device", "cpu", "--completion", "4", "--json", str(file)]
    gpu_check.main(flags)
    found = json.loads(file.read_text())
    assert found["image_tokens"] == 64 and found["group_size"] == 8
    assert [row["family"] for row in found["rows"]] == ["qwen3_vl", "qwen3_5"]
    for row in found["rows"]:
        assert (row["shape"], row["bits"], row["failed"]) == ("tiny", 16, None)
        assert row["completion_tokens"] == 4
        assert row["prompt_tokens"] > found["image_tokens"]
        assert row["peak_gib"] >= row["weights_gib"] > 0
        assert set(row["seconds"]) == {"sampling", "update", "tool_agent"}
        assert all(seconds > 0 for seconds in row["seconds"].values())
        assert ("fast_kernels" in row) == (row["family"] == "qwen3_5")


@pytest.mark.parametrize(
    ("flags", "cases"),
    [
        ("", "qwen3_vl:2b qwen3_vl:4b qwen3_vl:8b qwen3_5:0.8b qwen3_5:2b qwen3_5:4b"),
        ("--shape 4b", "qwen3_vl:4b qwen3_5:4b"),
        ("--family qwen3_5", "qwen3_5:0.8b qwen3_5:2b qwen3_5:4b"),
        ("--family qwen3_5 --shape 2b", "qwen3_5:2b"),
        ("--device cpu", "qwen3_vl:tiny qwen3_5:tiny"),
        ("--device cpu --family qwen3_vl", "qwen3_vl:tiny"),
    ],
)
def test_which_shapes_are_measured(monkeypatch, flags, cases):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    chosen = gpu_check.chosen_shapes(gpu_check.parse(flags.split()))
    assert [f"{family}:{shape}" for family, shape in chosen] == cases.split()


# In 10^9, vision tower included.
PARAMETERS = {
    ("qwen3_vl", "2b"): 2.13,
    ("qwen3_vl", "4b"): 4.44,
    ("qwen3_vl", "8b"): 8.77,
    ("qwen3_5", "0.8b"): 0.85,
    ("qwen3_5", "2b"): 2.2,
    ("qwen3_5", "4b"): 4.5,
}


@pytest.mark.parametrize(("family", "shape"), PARAMETERS)
def test_a_shape_has_as_many_weights_as_its_name_says(family, shape):
    from transformers import AutoModelForImageTextToText

    ids = dict.fromkeys(SPECIAL, 0)
    config = make_config(family, SHAPES[family][shape], ids)
    with torch.device("meta"):
        model = AutoModelForImageTextToText.from_config(config)
    weights = sum(weight.numel() for weight in model.parameters())
    assert weights / 1e9 == pytest.approx(PARAMETERS[family, shape], rel=0.02)


PROMPTS = [[1, 2]]
OTHER_PROMPTS = [[1, 3]]


@pytest.mark.parametrize(
    ("held", "tried_by_trl", "prompts_of_trl"),
    [
        (4, [16, 8, 4], PROMPTS),
        (4, [16, 8, 4], OTHER_PROMPTS),
        (0, [16, 8, 4, 2, 1], PROMPTS),
    ],
    ids=["same work", "other prompts", "never fits"],
)
def test_beside_trl(monkeypatch, held, tried_by_trl, prompts_of_trl):
    """A side gets fewer rows at once until they fit, ours at least one prompt's; a row says where
    the sides did not do the same."""
    ours = {
        "done": {"prompt_ids": PROMPTS, "completion_tokens": 9},
        "row": {"seconds": {"sampling": 2, "update": 2}, "peak_gib": 3},
    }
    theirs = {
        "done": {"prompt_ids": prompts_of_trl, "completion_tokens": 9},
        "row": {"seconds": {"sampling": 6, "update": 14}, "peak_gib": 12},
    }
    tried = []

    def run_side(args, side, rows, **_):
        tried.append(rows)
        fits = rows <= 8 if side == "ours" else rows <= held
        if not fits:
            return {"failed": "out of memory"}
        return ours if side == "ours" else theirs

    monkeypatch.setattr(gpu_check, "run_side", run_side)
    args = Namespace(trl=True, prompts=2)
    row = gpu_check.compare(args, family="qwen3_vl", shape="2b", bits=4)
    assert tried == [16, 8, *tried_by_trl]
    assert row["rows_at_once"] == 8
    assert row["trl"]["rows_at_once"] == tried_by_trl[-1]
    if held == 0:
        assert row["trl"]["failed"] == "out of memory"
        assert "times_faster" not in row
        return
    assert row["trl"]["failed"] is None
    assert row["times_faster"] == {"sampling": 3, "update": 7, "iteration": 5}
    assert row["share_of_memory"] == 0.25
    if prompts_of_trl == PROMPTS:
        assert row["failed"] is None
    else:
        wrong = "the sides did not do the same: 9 and 9 completion tokens, prompts different"
        assert row["failed"] == wrong


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ("", "no CUDA device here"),
        ("--shape 3b", "invalid choice: '3b'"),
        ("--device cpu --family qwen3_vl --shape 0.8b", "--shape: qwen3_vl has 2b, 4b, 8b, tiny"),
        ("--device cpu --trl", "pip install 'trl==1.16.*'"),
        ("--device cpu --tokens 60", "--tokens"),
        ("--device cpu --tokens 80", "--tokens"),
        ("--device cpu --prompts 0", "--prompts"),
        ("--device cpu --json /nowhere/x.json", "--json: no folder /nowhere"),
        ("--device cpu --scratch /nowhere", "--scratch: no folder /nowhere"),
    ],
)
def test_mistakes_end_in_one_line(flags, said, dies, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(gpu_check, "find_spec", lambda _: None)
    assert said in dies(gpu_check.main, flags.split())
