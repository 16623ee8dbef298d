"""extras/ablation.py: the arms, what their numbers say, and what is run again and what is not."""

import doctest
import json
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest

from envs import die
from extras import ablation
from extras.ablation import (
    ABLATION_SPLITS,
    ARMS,
    MAIN_ARMS,
    PART_SEEDS,
    Job,
    Settings,
    ablation_record,
    ablation_table,
    draw_ablation,
    interval,
    list_jobs,
    main,
    run_arm,
    training_flags,
)
from extras.warm_start import warm_base
from train import parse_config, warm_start_settings

SETTINGS = Settings(
    root=Path("runs"),
    seeds=1,
    jobs=1,
    limit=300,
    split="",
    flags=[],
    stage1_updates=300,
    stage2_updates=200,
)


def test_the_examples_in_docstrings():
    result = doctest.testmod(ablation)
    assert result.attempted > 0
    assert result.failed == 0


# ---- statistics ---------------------------------------------------------------------------------


def test_interval_by_hand():
    # The standard deviation is 0.03391, and the half width 2.776 / sqrt(5) of it.
    mean, half = interval([0.50, 0.54, 0.55, 0.57, 0.59])
    assert (mean, half) == pytest.approx((0.55, 0.04210), abs=1e-5)
    assert np.isnan(interval([0.5])[1])


def exam(success: float, flags: str = "") -> dict:
    """What run_arm returns for an arm that is half as good on disturbed splits."""
    splits = {}
    for split in ABLATION_SPLITS["toy-gui"]:
        splits[split] = {
            "success": success if split in ("test", "app") else success / 2,
            "stability": 0.5,
            "repeat": 0.1,
            "failed": 0.2,
            "accuracy_at_k": [0.5, 0.4],
            "tokens_per_episode": 200.0,
        }
    return {
        "flags": flags.split(),
        "limit": 300,
        "split": splits,
        "minutes": 2.0,
        "exam_minutes": 1.0,
        "sampled_tokens": 1000,
        "commit": "abc",
    }


def exams(*successes: float) -> list[dict]:
    """One exam a seed."""
    return [exam(success) for success in successes]


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
    last_line = ablation_table(record).splitlines()[-1]
    assert last_line.split()[0] == "carry"


def test_one_seed_has_no_interval():
    record = ablation_record({"tracer1": exams(0.5), "stage1": exams(0.4)}, 1, [])
    assert np.isnan(record["pairs"]["tracer1-stage1"]["ci95"]).all()
    assert "nan" not in ablation_table(record)


def test_the_record_has_the_layout_of_docs():
    """docs/ablation.json was written by it and can be drawn again."""
    kept = json.loads((ablation.ROOT / "docs" / "ablation.json").read_text())
    record = ablation_record({"tracer1": exams(0.5, 0.6), "stage1": exams(0.4, 0.4)}, 2, [])
    assert list(record) == [key for key in kept if key != "gain"]
    assert list(record["arms"]["tracer1"]) == list(kept["arms"]["tracer1"])


def test_the_picture_has_a_panel_more_where_several_horizons_are(tmp_path):
    from PIL import Image

    file = tmp_path / "ablation.png"
    arms = {"warmup": exams(0.1, 0.2), "tracer1": exams(0.5, 0.6)}
    draw_ablation(ablation_record(arms, 2, []), file)
    narrow = Image.open(file).width
    draw_ablation(ablation_record(arms | {"horizon_2": exams(0.4)}, 2, []), file)
    assert Image.open(file).width == narrow * 3 / 2


# ---- arms and jobs ------------------------------------------------------------------------------


def test_every_arm_is_a_command_that_train_accepts_and_has_the_same_budget():
    for name, arm in ARMS.items():
        config = parse_config(training_flags(arm, SETTINGS))
        updates = 0
        for stage in ("stage1", "stage2"):
            if stage in config.stages.split(","):
                updates += getattr(config, f"{stage}_updates")
        assert updates == (0 if name == "warmup" else 500), name
        assert arm.adapter in ("adapter", "stage1", None)
        assert arm.choose in ("", "likelihood", "agreement")


def test_arms_start_from_the_same_warm_start_unless_they_cannot(tmp_path, monkeypatch):
    def tell_the_folder(folder, *_):
        raise FileNotFoundError(folder)

    monkeypatch.setattr("extras.warm_start.make_tiny", tell_the_folder)
    made = {}
    for name, arm in ARMS.items():
        config = parse_config(training_flags(arm, SETTINGS))
        with pytest.raises(FileNotFoundError) as wanted:
            warm_base(warm_start_settings(config), tmp_path)
        made[name] = str(wanted.value)
    different = {name for name in made if made[name] != made["tracer1"]}
    assert different == {"history_0", "far_first"}


def test_no_two_jobs_train_the_same_thing():
    jobs = list_jobs(["choose_agreement", "gamma_1"], 1)
    assert jobs == {
        Job("warmup", 0): None,
        Job("tracer1", 0): Job("warmup", 0),  # whose run choose_agreement plays with
        Job("gamma_1", 0): Job("warmup", 0),
        Job("choose_agreement", 0): Job("tracer1", 0),
    }


def test_arms_that_change_a_part_have_fewer_seeds():
    jobs = list_jobs(list(ARMS), 5)
    for name in ARMS:
        seeds = [job.seed for job in jobs if job.arm == name]
        assert seeds == list(range(5 if name in MAIN_ARMS else PART_SEEDS))


# ---- runs ---------------------------------------------------------------------------------------


def test_a_finished_run_is_not_run_again(tmp_path, monkeypatch):
    monkeypatch.setattr(ablation.subprocess, "run", lambda *_, **__: pytest.fail("trained again"))
    folder = tmp_path / "tracer1-0"
    folder.mkdir()
    file = folder / "exam-tracer1.json"
    job = Job("tracer1", 0)
    settings = replace(SETTINGS, root=tmp_path, flags=["--gamma", "0.8"])
    done = exam(0.5, "--gamma 0.8 --stage1_updates 300 --stage2_updates 200")
    file.write_text(json.dumps(done))
    assert run_arm(job, settings)["split"]["test"]["success"] == 0.5
    with pytest.raises(ValueError, match="made with other settings"):
        run_arm(job, replace(settings, flags=[]))
    with pytest.raises(ValueError, match="made with other settings"):
        run_arm(job, replace(settings, limit=100))
    file.write_text('{"arm": "trac')
    with pytest.raises(ValueError, match="exam-tracer1.json: not JSON"):
        run_arm(job, settings)


def test_a_folder_of_another_configuration_is_not_played(tmp_path):
    folder = tmp_path / "tracer1-0"
    (folder / "adapter").mkdir(parents=True)
    config = parse_config(["--eval_tasks", "20", "--eval_split", "dev", "--gamma", "0.1"])
    (folder / "config.json").write_text(json.dumps(asdict(config)))
    settings = replace(SETTINGS, root=tmp_path, split="dev")
    with pytest.raises(ValueError, match=r"other settings \(gamma 0.1, not 0.9\)"):
        run_arm(Job("tracer1", 0), settings)


@pytest.mark.parametrize(
    ("flags", "budget"),
    [
        ([], (300, 200)),
        (["--flags", "--stage1_updates 3 --stage2_updates=2"], (3, 2)),
        (["--quick"], (60, 40)),
        (["--quick", "--flags", "--stage1_updates 3"], (3, 200)),
    ],
)
def test_budgets_come_from_the_flags(flags, budget, tmp_path, monkeypatch):
    asked = []

    def note(arms, settings):
        asked.append((settings.stage1_updates, settings.stage2_updates))
        die("enough")

    monkeypatch.setattr(ablation, "ablate", note)
    with pytest.raises(SystemExit):
        main(["--output_dir", str(tmp_path), *flags])
    assert asked == [budget]


@pytest.mark.parametrize(
    "argv",
    [
        ["--arms", "tracer2"],
        ["--seeds", "0"],
        ["--jobs", "0"],
        ["--limit", "0"],
        ["--split", "composition"],
        ["--flags", "--gamma 0.5 --seed 3"],
        ["--flags", "--group_size 0"],
    ],
)
def test_bad_input_ends_with_one_line(argv, dies):
    line = dies(main, argv)
    flag, value = argv
    assert flag in line or value.split()[0] in line


def test_a_place_that_cannot_be_written_ends_with_one_line(tmp_path, dies):
    file = tmp_path / "file"
    file.write_text("")
    assert str(file) in dies(main, ["--output_dir", str(file)])


@pytest.mark.slow
def test_the_ablation_from_end_to_end(tmp_path, dies):
    runs = tmp_path / "runs"
    train_flags = (
        "--reading_steps 2 --warmup_steps 3 --eval_tasks 2 --prompts_per_update 2 "
        "--stage1_updates 1 --stage2_updates 1"
    )
    # fmt: off
    argv = [
        "--arms", "warmup,tracer1,without_stage2,choose_agreement", "--seeds", "1", "--limit", "3",
        "--jobs", "2", "--output_dir", str(runs),
    ]
    # fmt: on
    main([*argv, "--flags", train_flags])
    text = (runs / "ablation.json").read_text()
    record = json.loads(text, parse_constant=pytest.fail)
    assert record["pairs"]["tracer1-without_stage2"]["ci95"] == [None, None]  # one seed
    assert set(record["arms"]) == {"warmup", "tracer1", "without_stage2", "choose_agreement"}
    assert (runs / "ablation.png").stat().st_size > 10_000
    before = adapter_times(runs)
    main([*argv, "--flags", train_flags])
    assert adapter_times(runs) == before  # nothing is trained again
    assert "other settings" in dies(main, [*argv, "--flags", f"{train_flags} --gamma 0.5"])


def adapter_times(folder: Path) -> dict[Path, int]:
    files = folder.rglob("adapter_model.safetensors")
    return {file: file.stat().st_mtime_ns for file in files}
