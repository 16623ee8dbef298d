"""extras/speed.py: its sides do the same work on a CPU, and its sums are right. Nothing here says
how fast anything is."""

import json
from importlib.util import find_spec

import pytest

from extras import speed
from extras.made_up_android import android_record, write_android_control
from extras.speed import SHAPES, SIDES, Measured, Shape, measure_side

SMALL = Shape(prompts=2, picture_px=0, completion=4, micro_batch=1)


def test_both_ways_of_ours_do_the_same_work(tiny):
    shared = measure_side("shared", SMALL, 1, str(tiny))
    reference = measure_side("reference", SMALL, 1, str(tiny))
    assert speed.difference(shared, reference) == ""
    assert shared.completion_tokens == 2 * speed.G * 4  # nobody wrote the end token
    assert [len(ids) for ids in shared.prompt_ids] == [105, 105]
    assert len(shared.seconds) == 1
    assert shared.memory_peak >= shared.memory_before > 0


@pytest.mark.skipif(not find_spec("trl"), reason="TRL is not installed")
@pytest.mark.parametrize("side", ["trl", "trl_without_checkpointing"])
def test_trl_does_the_same_work(tiny, tmp_path, side):
    shared = measure_side("shared", SMALL, 1, str(tiny))
    trl = measure_side(side, SMALL, 1, str(tiny))
    assert speed.difference(shared, trl) == ""


def measured(wall: float, peak: float, prompt_ids=((1, 2),), tokens: int = 10) -> Measured:
    """Three iterations; sampling takes a third of `wall`, the processor twice as long."""
    walls = [wall, wall * 5, wall / 5]  # its median is `wall`
    seconds = []
    for spent in walls:
        seconds.append([[spent / 3, spent * 2 / 3], [spent * 2 / 3, spent * 4 / 3]])
    return Measured([list(ids) for ids in prompt_ids], tokens, seconds, 1.0, 1.0 + peak)


def test_numbers_are_medians_and_ratios_are_against_each_other_side(monkeypatch):
    seconds = {"shared": 3.0, "reference": 30.0, "trl": 18.0, "trl_without_checkpointing": 12.0}
    peaks = {"shared": 0.5, "reference": 1.0, "trl": 2.0, "trl_without_checkpointing": 4.0}

    def run_side(side, *_):
        return measured(seconds[side], peaks[side])

    monkeypatch.setattr(speed, "run_side", run_side)
    result = speed.beside_trl("toy", iterations=3, rounds=2, threads=1)
    assert result["prompt_tokens"] == [2] and result["completion_tokens"] == 10
    assert result["iterations"] == 6
    assert result["shared"] == {
        "seconds": 3.0,
        "sampling": 1.0,
        "update": 2.0,
        "tokens_per_second": 3.3,
        "cpu_seconds": 6.0,
        "cpu_sampling": 2.0,
        "cpu_update": 4.0,
        "peak_gb": 0.5,
    }
    assert result["faster_trl"] == "trl_without_checkpointing"
    ratios = {side: numbers["seconds"] for side, numbers in result["times_faster"].items()}
    assert ratios == {"reference": 10, "trl": 6, "trl_without_checkpointing": 4}
    assert result["share_of_memory"] == {
        "reference": 0.5,
        "trl": 0.25,
        "trl_without_checkpointing": 0.125,
    }


def test_the_reference_is_left_out_where_it_takes_too_long(monkeypatch):
    monkeypatch.setattr(speed, "run_side", lambda *_: measured(1.0, 1.0))
    for name in SHAPES:
        result = speed.beside_trl(name, iterations=3, rounds=1, threads=1)
        sides = [side for side in SIDES if side in result]
        assert ("reference" in sides) == (name in ("toy", "1024"))
        assert {"shared", "trl", "trl_without_checkpointing"} <= set(sides)


def test_sides_that_do_not_do_the_same_are_not_compared(monkeypatch, dies):
    def run_side(side, *_):
        return measured(1.0, 1.0, tokens=9 if side == "trl" else 10)

    monkeypatch.setattr(speed, "run_side", run_side)
    message = dies(speed.beside_trl, "toy", iterations=3, rounds=1, threads=1)
    assert (
        "trl: the sides did not do the same: 10 and 9 completion tokens, prompts equal" in message
    )
    other = measured(1.0, 1.0, prompt_ids=((1, 3),))
    assert "prompts different" in speed.difference(measured(1.0, 1.0), other)


def test_reading_counts_steps(tmp_path):
    root = write_android_control(tmp_path, [android_record(0), android_record(1)], train=[0, 1])
    assert speed.read_rate(root, steps=16, decode=True) > 0


def test_the_command_writes_what_it_prints(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(speed, "reading", lambda steps: {"steps": steps})
    file = tmp_path / "bench.json"
    speed.main(["reading", "--steps", "16", "--json", str(file)])
    assert json.loads(file.read_text()) == json.loads(capsys.readouterr().out)
    assert json.loads(file.read_text()) == {"reading": {"steps": 16}}


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["reading", "--steps", "4"], "--steps 4: must be a multiple of 8"),
        (["trl", "--rounds", "0"], "--rounds 0: must be at least 1"),
        (["trl", "--iterations", "0"], "--iterations 0: must be at least 1"),
        (["reading", "--json", "nowhere/x.json"], "there is no folder nowhere"),
    ],
)
def test_what_cannot_work_is_said_before_anything_is_measured(flags, message, dies):
    assert message in dies(speed.main, flags)


def test_without_trl_one_line_says_how_to_get_it(monkeypatch, dies):
    monkeypatch.setattr(speed, "find_spec", lambda _: None)
    assert "pip install 'trl==1.16.*'" in dies(speed.main, ["trl"])
