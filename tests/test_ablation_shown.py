"""extras/ablation_shown.py: pairs of arms, the record, table and picture."""

import json

import numpy as np
import pytest
from made_up_exams import exams
from PIL import Image

from extras import ablation
from extras.ablation_shown import ablation_record, ablation_table, draw_ablation


def test_record_pairs_the_same_seeds():
    arms = {
        "tracer1": exams(0.5, 0.6, 0.7),
        "reactive_grounded": exams(0.4, 0.5, 0.6),
        "stage1": exams(0.3, 0.5, 0.4),
    }
    record = ablation_record(arms, 3, [])
    steady = record["pairs"]["tracer1-reactive_grounded"]
    assert steady["mean"] == pytest.approx(0.1)
    assert steady["ci95"] == pytest.approx([0.1, 0.1])  # the seeds vary, the difference does not
    low, high = record["pairs"]["tracer1-stage1"]["ci95"]
    assert low < 0 < high
    tracer1 = record["arms"]["tracer1"]
    assert tracer1["split"]["popup"] == {"success": [0.25, 0.3, 0.35], "n": 300}
    assert tracer1["robustness"] == pytest.approx([0.5] * 3)
    assert tracer1["per_1000_tokens"] == pytest.approx([2.5, 3.0, 3.5])
    assert "60.0 +- 24.8" in ablation_table(record)
    assert record["commit"] == "abc"
    assert "gain" not in record


def test_gain_is_over_the_better_reactive_arm_of_each_seed():
    arms = {
        "tracer1": exams(0.6, 0.5),
        "reactive_text": exams(0.5, 0.3),
        "reactive_grounded": exams(0.4, 0.4),
    }
    record = ablation_record(arms, 2, [])
    gain = record["gain"]
    assert gain["mean"] == pytest.approx((0.6 / 0.5 + 0.5 / 0.4) / 2 - 1)
    half = gain["ci95"][1] - gain["mean"]
    assert half == pytest.approx(12.706 * 0.025)  # half the difference of two seeds, times t
    assert "of each seed: +22.5% +- 31.8%" in ablation_table(record)


def test_an_arm_with_fewer_seeds_and_one_split_is_paired_on_what_is_common():
    part = exams(0.4, 0.5)
    for run in part:
        run["split"] = {"test": run["split"]["test"]}
    record = ablation_record({"tracer1": exams(0.5, 0.6, 0.9), "carry": part}, 3, [])
    pair = record["pairs"]["tracer1-carry"]
    assert pair["mean"] == pytest.approx(0.1)  # the third seed has no partner
    carry = record["arms"]["carry"]
    assert carry["robustness"] == [None, None]
    assert list(carry["split"]) == ["test"]
    labels = [line.split()[0] for line in ablation_table(record).splitlines() if line]
    assert labels[:3] == ["arm", "tracer1", "carry"]


def test_first_actions_are_told_by_kind():
    """An average hid a start that could not type at all."""
    arms = {"tracer1": exams(0.5, 0.6), "warmup": exams(0.4, 0.5)}
    for seed, run in enumerate(arms["warmup"]):
        run["split"]["test"]["by_kind"] = {"type": {"right": 0.1 * seed, "n": 20}}
    record = ablation_record(arms, 2, [])
    assert record["arms"]["warmup"]["by_kind"] == {"type": {"right": [0.0, 0.1], "n": [20, 20]}}
    _, kinds = ablation_table(record).split("\n\n")
    assert [line.split() for line in kinds.splitlines()] == [
        ["first", "action", "right", "click", "type"],
        ["tracer1", "(2)", "50%", "of", "20", "-", "of", "0"],
        ["warmup", "(2)", "-", "of", "0", "5%", "of", "40"],
    ]


def test_one_seed_has_no_interval():
    record = ablation_record({"tracer1": exams(0.5), "stage1": exams(0.4)}, 1, [])
    assert np.isnan(record["pairs"]["tracer1-stage1"]["ci95"]).all()
    assert "nan" not in ablation_table(record)


def test_the_record_has_the_layout_of_docs():
    """docs/ablation.json was written by it and can be drawn again."""
    kept = json.loads((ablation.ROOT / "docs" / "ablation.json").read_text())
    record = ablation_record({"tracer1": exams(0.5, 0.6), "stage1": exams(0.4, 0.4)}, 2, [])
    assert list(record) == [key for key in kept if key != "gain"]
    # Kinds of actions are told since later.
    assert list(record["arms"]["tracer1"]) == [*kept["arms"]["tracer1"], "by_kind"]


def test_the_picture_has_a_panel_more_where_several_horizons_are(tmp_path):
    file = tmp_path / "ablation.png"
    arms = {"warmup": exams(0.1, 0.2), "tracer1": exams(0.5, 0.6)}
    draw_ablation(ablation_record(arms, 2, []), file)
    narrow = Image.open(file).width
    draw_ablation(ablation_record(arms | {"horizon_2": exams(0.4)}, 2, []), file)
    assert Image.open(file).width == narrow * 3 / 2
