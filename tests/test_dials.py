"""extras/dials.py and dials_shown.py: pairs of arms task by task, the record of a study,
docs/dials.json, the tables and the picture. All from made-up exams: nothing is trained."""

import json

import numpy as np
import pytest
from made_up_exams import map_exams, plain_exams
from PIL import Image

from eval import TYPE_UNSAID
from extras.ablation import ROOT
from extras.ablation_shown import in_columns
from extras.dials import dials, paired, start_numbers, study_record
from extras.dials_shown import (
    draw_dials,
    failed_starts,
    interval_drawn,
    percent,
    points,
    share_kept,
    study_table,
)
from extras.readable_json import readable_json
from extras.study_arms import STUDIES


def record_of(study: str, exams: dict, split: str = "test") -> dict:
    return study_record(STUDIES[study], exams, split, f"python -m extras.study {study}")


# ---- pairs ---------------------------------------------------------------------------------------


def test_a_pair_by_hand():
    """Two seeds, four tasks. Success 3/4 and 1 against 1/4 and 3/4: differences 1/2 and 1/4."""
    mine = [[1, 1, 0, 1], [1, 1, 1, 1]]
    theirs = [[0, 1, 0, 0], [0, 1, 1, 1]]
    pair = paired(mine, theirs)
    assert pair["mean"] == 0.375
    # The standard deviation is 0.17678, and Student's t for two seeds 12.706.
    assert pair["ci95"] == pytest.approx([0.375 - 1.58825, 0.375 + 1.58825], abs=1e-4)
    assert (pair["only_first"], pair["only_second"], pair["seeds"]) == (3, 0, 2)


def test_the_interval_over_tasks_is_that_of_the_mean_of_each_task():
    """With one seed it is that of a mean of -1, 0 and 1, to which the normal one is near."""
    rng = np.random.default_rng(0)
    mine = (rng.random(400) < 0.7).astype(int).tolist()
    theirs = (rng.random(400) < 0.5).astype(int).tolist()
    pair = paired([mine], [theirs])
    assert pair["ci95"] is None  # one seed says nothing of others
    difference = np.array(mine) - np.array(theirs)
    half = 1.96 * difference.std(ddof=1) / 20
    low, high = pair["ci95_tasks"]
    assert [low, high] == pytest.approx([pair["mean"] - half, pair["mean"] + half], abs=0.01)


def test_tasks_are_compared_with_themselves():
    """Two arms that solve the same tasks differ in nothing, and no task is in doubt."""
    same = [[1, 0] * 50, [0, 1] * 50]
    pair = paired(same, same)
    assert (pair["mean"], pair["ci95"], pair["ci95_tasks"]) == (0.0, [0.0, 0.0], [0.0, 0.0])
    # As many are solved, but others: the interval over the tasks is wide.
    low, high = paired([[1, 0] * 50], [[0, 1] * 50])["ci95_tasks"]
    assert low < -0.15
    assert high > 0.15


def test_a_seed_without_a_partner_does_not_count():
    pair = paired([[1, 1], [1, 1], [0, 0]], [[0, 0], [0, 0]])
    assert (pair["mean"], pair["seeds"], pair["only_first"]) == (1.0, 2, 4)


# ---- the record ----------------------------------------------------------------------------------


def test_the_map_is_told_by_depth_with_the_deeper_split():
    record = record_of("map", map_exams({"tracer1": 0.9, "reactive": 0.6}))
    tracer1 = record["arms"]["tracer1"]["by_demand"]
    assert list(tracer1) == ["1", "2", "3", "4", "5"]
    assert tracer1["2"] == {"success": [0.8, 0.8, 0.8], "n": 20}
    assert tracer1["5"]["success"] == [0.5, 0.5, 0.5]
    pair = record["pairs"]["tracer1-reactive"]
    assert pair["mean"] == pytest.approx(0.3)
    by_demand = pair["by_demand"]
    assert [by_demand[d]["mean"] for d in "12345"] == pytest.approx([0.3] * 5)
    assert by_demand["1"]["ci95"] == pytest.approx([0.3, 0.3])
    assert by_demand["1"]["only_first"] == 3 * 6


def test_each_task_is_kept():
    exams = map_exams({"tracer1": 0.9}, seeds=2, n=2)
    solved = record_of("map", exams)["arms"]["tracer1"]["solved"]
    assert solved == {"test": ["11111100", "11111100"], "deeper": ["10", "10"]}


def test_what_a_start_took_is_the_sum_of_its_lessons():
    [run] = map_exams({"tracer1": 0.9}, seeds=1)["tracer1"]
    assert start_numbers([run]) == {
        "batches": [500],
        "target_tokens": [9000],
        "processor_seconds": [90.5],
        "first_action": [0.8],
        "by_kind": {"click": {"right": [0.9], "n": [50]}},
        "passed": [False],
    }
    assert start_numbers([run | {"start": {}}]) == {}  # a model of the hub


def test_a_run_that_two_arms_play_with_is_counted_once():
    """horizon_5 is TraceR1, asked for the table of horizons: its run took 5 minutes, its exam 1."""
    alone = record_of("map", map_exams({"tracer1": 0.9}))
    both = record_of("map", map_exams({"tracer1": 0.9, "horizon_5": 0.9}))
    assert alone["minutes"] == 3 * (5 + 1)
    assert both["minutes"] == alone["minutes"] + 3 * 1


def test_a_kind_that_one_seed_did_not_meet():
    exams = plain_exams("teaching", {"reactive_next": 0.5})
    exams["reactive_next"][1]["split"]["test"]["by_kind"] = {"type": {"right": 0.25, "n": 4}}
    by_kind = record_of("teaching", exams)["arms"]["reactive_next"]["by_kind"]
    assert by_kind["click"] == {"right": [0.5, None, 0.5], "n": [10, 0, 10]}
    assert by_kind["type"] == {"right": [None, 0.25, None], "n": [0, 4, 0]}


def test_a_record_is_json_with_one_seed_too():
    record = record_of("map", map_exams({"tracer1": 0.9, "reactive": 0.6}, seeds=1))
    again = json.loads(readable_json(record), parse_constant=pytest.fail)
    assert again["pairs"]["tracer1-reactive"]["ci95"] is None


# ---- docs/dials.json -----------------------------------------------------------------------------


def all_records() -> dict[str, dict]:
    map_shares = {arm: 0.7 for arm in STUDIES["map"].arms}
    memory_shares = {arm: 0.5 for arm in STUDIES["memory"].arms}
    teaching_shares = {arm: 0.5 for arm in STUDIES["teaching"].arms}
    return {
        "map": record_of("map", map_exams(map_shares | {"tracer1": 0.9})),
        "memory": record_of("memory", plain_exams("memory", memory_shares | {"tracer1_1": 0.75})),
        "teaching": record_of("teaching", plain_exams("teaching", teaching_shares)),
    }


def test_the_layout_of_the_dials():
    found = dials(all_records())
    assert list(found) == ["map", "horizon", "memory", "settings", "commit", "commands", "minutes"]
    assert list(found["map"]) == ["1", "2", "3", "4", "5"]
    for depth in found["map"].values():
        assert set(depth) == {"tracer1", "reactive", "stage1", "stage2", "filler", "near"}
    assert list(found["horizon"]) == ["1", "2", "3", "4", "5"]
    for depth in found["horizon"].values():
        assert list(depth) == ["1", "2", "3", "4", "5", "6"]
    assert list(found["memory"]) == ["0", "0.25", "0.5", "0.75", "1"]
    for share in found["memory"].values():
        assert set(share) == {"tracer1", "reactive"}
    assert set(found["settings"]) == {
        "tracer1",
        "reactive_forecasts",
        "reactive_next",
        "reactive_next_tokens",
        "scrambled",
    }
    assert found["map"]["1"]["tracer1"] == [0.9, 0.9, 0.9]  # one number a seed
    assert found["memory"]["1"]["tracer1"] == [0.75, 0.75, 0.75]
    assert found["commit"] == "abc"
    assert found["commands"] == [
        "python -m extras.study map",
        "python -m extras.study memory",
        "python -m extras.study teaching",
    ]


def test_dials_of_what_has_been_run_so_far():
    part = {"map": record_of("map", map_exams({"warmup": 0.5, "tracer1": 0.9}, seeds=1))}
    found = dials(part)
    assert found["map"]["3"] == {"tracer1": [0.7]}
    assert found["horizon"] == {}
    assert "memory" not in found
    assert found["minutes"] == part["map"]["minutes"]


def test_commits_of_several_studies_are_each_named_once():
    records = all_records()
    records["map"]["commit"] = "abc, def"
    assert dials(records)["commit"] == "abc, def"


# ---- tables --------------------------------------------------------------------------------------


def test_cells():
    assert percent({"success": [0.50, 0.54, 0.55, 0.57, 0.59]}) == "55.0 +- 4.2"
    assert percent({"success": [0.5]}) == "50.0"
    assert percent(None) == "-"
    pair = {"mean": 0.123, "ci95": [0.1, 0.146], "ci95_tasks": (0.08, 0.16)}
    assert points(pair) == "+12.3 +- 2.3 [8 to 16]"
    assert points(pair | {"ci95": None}) == "+12.3 [8 to 16]"
    assert in_columns([["a", "bb"], ["ccc", "d"]]) == "a    bb\nccc   d"


def test_the_tables_of_a_whole_study_have_a_row_for_each_arm():
    for name, record in all_records().items():
        table = study_table(name, record)
        assert "nan" not in table
        assert STUDIES[name].asks in table
    map_table = study_table("map", all_records()["map"])
    for arm in STUDIES["map"].arms:
        assert f"\n{arm} (3)" in map_table
    forms = record_of(
        "forms", plain_exams("forms", {arm: 0.5 for arm in STUDIES["forms"].arms}, "dev"), "dev"
    )
    assert "last_plan" in study_table("forms", forms)


def test_starts_that_failed_their_check_are_named():
    exams = plain_exams("teaching", {"tracer1_forecasts": 0.5, "reactive_forecasts": 0.5})
    arms = record_of("teaching", exams)["arms"]
    arms["tracer1_forecasts"]["start"] = {"passed": [True, False, False]}
    arms["reactive_forecasts"]["start"] = {"passed": [True, True, True]}
    [line] = failed_starts({"arms": arms})
    assert line.endswith("failed their check, with their seeds: tracer1_forecasts (1, 2).")
    del arms["tracer1_forecasts"]
    assert failed_starts({"arms": arms}) == []


def test_one_task_says_nothing_of_others():
    assert paired([[0]], [[1]])["ci95_tasks"] == [-1.0, 1.0]


def test_how_much_of_the_gain_fillers_keep():
    """TraceR1 is 30 points above the reactive agent, fillers are 6 above it: a fifth."""
    exams = map_exams({"tracer1": 0.9, "reactive": 0.6, "filler": 0.66, "near": 0.5}, n=100)
    lines = study_table("map", record_of("map", exams)).splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith("kept of"))
    assert lines[start + 1].split() == ["filler", *["20%"] * 5]
    assert lines[start + 2].split() == ["near", *["-33%"] * 5]
    # Where TraceR1 gains little there is little to keep: 6 points over 9 say nothing.
    none = record_of("map", map_exams({"tracer1": 0.69, "reactive": 0.6, "filler": 0.66}, n=100))
    assert share_kept("filler", "1", none["pairs"], over="reactive") == "-"


def test_fillers_are_held_against_a_reactive_agent_with_their_own_lessons_too():
    """Over one that was taught silent look-ups they lose 10 points; over the other they gain 10."""
    shares = {"tracer1": 0.9, "reactive": 0.6, "reactive_plain": 0.4, "filler": 0.5}
    lines = study_table("map", record_of("map", map_exams(shares, n=100))).splitlines()
    rows = [line.split() for line in lines if line.startswith("filler  ")]
    assert ["filler", *["-33%"] * 5] in rows
    assert ["filler", *["20%"] * 5] in rows


@pytest.mark.parametrize("study", STUDIES)
def test_a_table_after_the_first_run(study):
    split = STUDIES[study].split
    first = next(iter(STUDIES[study].arms))
    if study == "map":
        exams = map_exams({first: 0.5}, seeds=1)
    else:
        exams = plain_exams(study, {first: 0.5}, split)
    table = study_table(study, record_of(study, exams, split))
    assert "50.0" in table
    assert "nan" not in table


def test_what_was_foreseen_and_did_not_come():
    exams = plain_exams("forms", {"states_gui": 0.5, "near_gui": 0.5}, "dev")
    for run in exams["states_gui"][1:]:
        run["split"]["dev"]["surprised"] = 0.25
    record = record_of("forms", exams, "dev")
    # The policy of seed 0 said nothing of what would be seen.
    assert record["arms"]["states_gui"]["surprised"] == [None, 0.25, 0.25]
    assert "surprised" not in record["arms"]["near_gui"]
    rows = [line.split() for line in study_table("forms", record).splitlines()]
    assert ["states_gui", "(3)", "25%"] in rows


def test_the_ceiling_stands_in_the_memory_table():
    exams = plain_exams("memory", {"tracer1_1": 0.5, "tracer1_0": 0.5})
    for run in exams["tracer1_1"]:
        run["probe"] = {}
        for plan, right in (("none", 0.125), ("own", 0.5), ("oracle", 0.75)):
            kinds = {TYPE_UNSAID: {"right": right, "n": 8}}
            run["probe"][plan] = {"first_action": right / 2, "n": 80, "by_kind": kinds}
    for run in exams["tracer1_0"]:
        run["probe"] = {}  # no task needs memory
    lines = study_table("memory", record_of("memory", exams)).splitlines()
    assert [line.split() for line in lines if " own " in line] == [["1", "own", "25%", "50%"]]
    assert [line.split() for line in lines if " oracle " in line] == [["1", "oracle", "38%", "75%"]]


# ---- the picture ---------------------------------------------------------------------------------


def older_table() -> dict:
    return json.loads((ROOT / "docs" / "ablation.json").read_text())


def test_the_picture_has_the_older_null_before_anything_was_run(tmp_path):
    draw_dials({}, older_table(), tmp_path / "none.png")
    draw_dials({}, {}, tmp_path / "nothing.png")
    draw_dials(all_records(), older_table(), tmp_path / "all.png")
    none, nothing, everything = (
        np.asarray(Image.open(tmp_path / f"{name}.png").convert("L"))
        for name in ("none", "nothing", "all")
    )
    assert none.shape == nothing.shape == everything.shape
    assert (none != nothing).any()  # the null
    assert (everything < 255).sum() > (none < 255).sum()


def test_two_seeds_are_drawn_with_the_interval_over_tasks():
    """Student's t for two seeds is 12.7: such a bar would hide the picture."""
    pair = {"mean": 0.1, "ci95": [-1.0, 1.2], "ci95_tasks": [0.05, 0.15]}
    assert interval_drawn(pair | {"seeds": 2}) == [0.05, 0.15]
    assert interval_drawn(pair | {"seeds": 3}) == [-1.0, 1.2]
