"""extras/ablation.py: the arms, what their numbers say, and what is run again and what is not."""

import json
from concurrent.futures import Future
from dataclasses import asdict, replace
from pathlib import Path

import pytest
from made_up_exams import exam
from test_browser import in_a_browser

from envs import die
from extras import ablation
from extras.ablation import (
    ABLATION_SPLITS,
    ARMS,
    PART_SEEDS,
    Arm,
    Job,
    Settings,
    exam_file,
    finished_exam,
    flags_named,
    list_jobs,
    main,
    make_settings,
    parse_arguments,
    read_start,
    run_all,
    run_jobs,
    run_owner,
    tasks_to_play,
    training_arguments,
    training_flags,
)
from extras.warm_start import start_folder
from train import parse_config, warm_start_settings

SETTINGS = Settings(
    root=Path("runs"),
    warmup_dir=Path("runs/warmup"),
    seeds=1,
    jobs=1,
    limit=300,
    split="",
    flags=["--env", "toy-gui"],
    stage1_updates=300,
    stage2_updates=200,
)


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


def test_arms_start_from_the_same_warm_start_unless_they_cannot(tmp_path):
    made = {}
    for name, arm in ARMS.items():
        config = parse_config(training_flags(arm, SETTINGS))
        made[name] = start_folder(warm_start_settings(config), tmp_path)
    different = {name for name in made if made[name] != made["tracer1"]}
    assert different == {"history_0", "far_first"}


def test_no_two_jobs_train_the_same_thing():
    jobs = list_jobs(["warmup", "choose_agreement", "gamma_1", "far_first", "history_0"], SETTINGS)
    assert jobs == {
        Job("warmup", 0): None,
        Job("tracer1", 0): Job("warmup", 0),  # whose run choose_agreement plays with
        Job("choose_agreement", 0): Job("tracer1", 0),
        Job("gamma_1", 0): Job("warmup", 0),
        Job("far_first", 0): None,  # these make warm starts of their own
        Job("history_0", 0): None,
    }


def test_arms_that_change_a_part_have_fewer_seeds_and_play_one_split():
    jobs = list_jobs(list(ARMS), replace(SETTINGS, seeds=5))
    for name, arm in ARMS.items():
        seeds = [job.seed for job in jobs if job.arm == name]
        assert seeds == list(range(5 if arm.most_seeds is None else PART_SEEDS))
        splits = list(tasks_to_play(arm, SETTINGS))
        assert splits == list(ABLATION_SPLITS["toy-gui"] if arm.most_seeds is None else ["test"])
    assert [name for name, arm in ARMS.items() if arm.most_seeds is None] == [
        "warmup",
        "reactive_text",
        "reactive_grounded",
        "stage1",
        "stage2",
        "tracer1",
        "without_stage2",
    ]


def test_a_world_with_its_dial_plays_the_splits_of_the_world():
    settings = replace(SETTINGS, flags=["--env", "toy-gui:memory=0.5"], limits={"flaky": 20})
    assert tasks_to_play(Arm(), settings)["flaky"] == 20
    assert tasks_to_play(Arm(), settings)["layout"] == 300
    assert tasks_to_play(Arm(), replace(settings, split="dev")) == {"dev": 300}
    assert tasks_to_play(Arm(splits=("train", "dev")), settings) == {"train": 300, "dev": 300}


def test_an_arm_may_have_more_updates_and_a_longer_warm_start():
    arm = Arm("--horizon 1 --stage2_updates {all}", updates_times=2.6, start_times=2.8)
    config = parse_config(training_flags(arm, SETTINGS))
    assert (config.stage2_updates, config.warmup_steps) == (1300, 3080)
    # What the common flags say is multiplied too.
    short = replace(SETTINGS, flags=["--warmup_steps", "10"])
    assert parse_config(training_flags(arm, short)).warmup_steps == 28


def test_arms_of_the_same_flags_but_another_budget_do_not_share_a_run():
    arms = {"one": Arm("--gamma 1"), "more": Arm("--gamma 1", updates_times=2.0)}
    assert run_owner("more", arms) == "more"
    arms["shown otherwise"] = Arm("--gamma 1", playing="--no-carry_forecast")
    assert run_owner("shown otherwise", arms) == "one"


def test_flags_for_the_exam_alone():
    assert flags_named("") == {}
    assert flags_named("--no-carry_forecast") == {"carry_forecast": False}
    assert flags_named("--carry_forecast") == {"carry_forecast": True}
    assert flags_named("--horizon 5") == {"horizon": 5}  # named, though it is the default


# ---- runs ---------------------------------------------------------------------------------------


def finish(job: Job, settings: Settings, success: float = 0.5) -> Path:
    """Leave behind what a finished job leaves."""
    done = exam(success) | {"arm": job.arm, "seed": job.seed}
    arm = settings.arms[job.arm]
    done["flags"] = training_flags(arm, settings)
    done["split"] = {split: done["split"]["test"] for split in tasks_to_play(arm, settings)}
    file = exam_file(job, settings)
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(done))
    return file


def test_a_finished_run_is_not_run_again(tmp_path, monkeypatch):
    monkeypatch.setattr(ablation, "run_jobs", lambda jobs, finished, _: iter(()))
    settings = replace(SETTINGS, root=tmp_path, flags=["--gamma", "0.8"])
    job = Job("tracer1", 0)
    file = finish(job, settings)
    assert finished_exam(job, settings)["split"]["test"]["success"] == 0.5
    assert finished_exam(Job("stage1", 0), settings) is None
    [exams] = run_all(["tracer1"], settings)
    assert list(exams) == ["tracer1"]
    [exams] = run_all(["stage1"], settings, beside=["tracer1"])
    assert list(exams) == ["tracer1"]  # it is told of, though it was not asked for
    for others in (replace(settings, flags=[]), replace(settings, limit=100)):
        with pytest.raises(ValueError, match="made with other settings"):
            next(run_all(["stage1", "tracer1"], others))
    for damaged in ('{"arm": "trac', "[]", '{"split": {"test": {}}}'):
        file.write_text(damaged)
        with pytest.raises(ValueError, match="exam-tracer1.json"):
            finished_exam(job, settings)


def test_a_folder_of_another_configuration_is_told_before_anything_is_run(tmp_path, monkeypatch):
    monkeypatch.setattr(ablation, "run_jobs", lambda *_: pytest.fail("something was run"))
    folder = tmp_path / "tracer1-0"
    (folder / "adapter").mkdir(parents=True)
    config = parse_config(
        ["--env", "toy-gui", "--eval_tasks", "20", "--eval_split", "dev", "--gamma", "0.1"]
    )
    (folder / "config.json").write_text(json.dumps(asdict(config)))
    settings = replace(SETTINGS, root=tmp_path, split="dev")
    with pytest.raises(ValueError, match=r"other settings \(gamma 0.1, not 0.9\)"):
        list(run_all(["warmup", "tracer1"], settings))


def test_after_each_run_there_are_the_exams_so_far(tmp_path, monkeypatch):
    """A seed counts once those before it are there: pairs need the same seeds."""
    settings = replace(SETTINGS, root=tmp_path, seeds=2)
    finish(Job("stage1", 0), settings, success=0.4)

    def run_backwards(jobs, finished, _settings):
        for job in reversed(jobs):
            if job not in finished:
                yield job, exam(0.5 + job.seed / 10)

    monkeypatch.setattr(ablation, "run_jobs", run_backwards)
    seen = []
    for exams in run_all(["stage1", "stage2"], settings):
        seen.append({arm: [run["split"]["test"]["success"] for run in exams[arm]] for arm in exams})
    assert seen == [
        {"stage1": [0.4]},
        {"stage1": [0.4]},  # stage2 of seed 1
        {"stage1": [0.4, 0.6]},
        {"stage1": [0.4, 0.6], "stage2": [0.5, 0.6]},
    ]


def leave_run(job: Job, settings: Settings, base: Path, **changed) -> Path:
    """Leave behind what the training of a job leaves, with a setting or two of another kind."""
    folder = settings.root / f"{job.arm}-{job.seed}"
    (folder / "adapter").mkdir(parents=True)
    (folder / "adapter" / "adapter_model.safetensors").write_text("")
    config = asdict(parse_config(training_arguments(job, settings)))
    config |= {"base": str(base), "in_4bit": False} | changed
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def test_a_finished_run_whose_default_has_changed_since_is_refused(tmp_path):
    """Its exam names only the flags that were said."""
    settings = replace(SETTINGS, root=tmp_path)
    job = Job("tracer1", 0)
    finish(job, settings)
    folder = leave_run(job, settings, tmp_path, history=3)
    with pytest.raises(ValueError, match=r"other settings \(history 3, not 4\)"):
        finished_exam(job, settings)
    config = json.loads((folder / "config.json").read_text()) | {"history": 4}
    del config["credit"]  # made before there was such a flag
    (folder / "config.json").write_text(json.dumps(config))
    assert finished_exam(job, settings) is not None
    arms = {"tracer1": Arm("--credit own")}
    with pytest.raises(ValueError, match="credit None, not 'own'"):
        finished_exam(job, replace(settings, arms=arms))


def test_an_exam_that_was_played_in_another_way_is_refused(tmp_path):
    settings = replace(SETTINGS, root=tmp_path)
    job = Job("tracer1", 0)
    file = finish(job, settings)
    done = json.loads(file.read_text())
    file.write_text(json.dumps(done | {"play": ARMS["tracer1"].play}))
    assert finished_exam(job, settings) is not None
    file.write_text(json.dumps(done | {"play": ["adapter", "likelihood", "", False]}))
    with pytest.raises(ValueError, match="in another way"):
        finished_exam(job, settings)


def test_runs_on_another_warm_start_are_named_before_others_are_trained(
    tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr(ablation, "run_jobs", lambda jobs, finished, _: iter(()))
    settings = replace(SETTINGS, root=tmp_path)
    for name in ("stage1", "stage2"):
        job = Job(name, 0)
        finish(job, settings)
        base = tmp_path / "abc"
        if name == "stage2":
            start = warm_start_settings(parse_config(training_arguments(job, settings)))
            base = start_folder(start, settings.warmup_dir)
        leave_run(job, settings, base)
    list(run_all(["stage1", "stage2"], settings))
    assert capsys.readouterr().out == ""  # all are finished
    list(run_all(["stage1", "stage2", "tracer1"], settings))
    assert "another machine made: stage1-0\n" in capsys.readouterr().out


def test_an_arm_whose_run_has_fewer_seeds_has_no_more_than_it(tmp_path):
    arms = {
        "gamma_1": ARMS["gamma_1"],
        "chosen": Arm("--gamma 1", choose="agreement"),
        "tracer1": Arm(),
    }
    jobs = list_jobs(["chosen", "tracer1"], replace(SETTINGS, seeds=5, arms=arms))
    assert [job.seed for job in jobs if job.arm == "chosen"] == list(range(PART_SEEDS))
    assert jobs[Job("tracer1", 4)] is None  # nobody else makes its warm start


class PoolInOneProcess:
    """A job is done as soon as it is handed in."""

    def __init__(self, log: list):
        self.log = log

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def submit(self, work, job, settings):
        self.log.append(job)
        future = Future()
        future.set_result(exam(0.5))
        return future


def test_jobs_are_done_in_their_order_as_soon_as_they_can_be(monkeypatch):
    """All arms of a seed before the next seed, though the next seed's warm start waits for none."""
    log = []
    monkeypatch.setattr(ablation, "make_pool", lambda _: PoolInOneProcess(log))
    settings = replace(SETTINGS, seeds=2)
    jobs = list_jobs(["warmup", "stage1", "stage2"], settings)
    done = [job for job, _ in run_jobs(jobs, {Job("warmup", 0)}, settings)]
    assert done == log == list(jobs)[1:]


def test_what_a_warm_start_took_stands_in_the_exam(tmp_path):
    base = tmp_path / "warm"
    base.mkdir()
    folder = tmp_path / "run"
    (folder / "adapter").mkdir(parents=True)
    (folder / "adapter" / "adapter_model.safetensors").write_text("")
    config = asdict(parse_config([])) | {"base": str(base), "in_4bit": False}
    (folder / "config.json").write_text(json.dumps(config))
    assert read_start(folder) == {}  # a model of the hub has none
    learnt = {"lessons": {"imitating": {"batches": 3}}, "check": {"passed": True}, "made_by": {}}
    (base / "warmup.json").write_text(json.dumps(learnt))
    assert read_start(folder) == {"lessons": learnt["lessons"], "check": {"passed": True}}


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
    ("flags", "asked"),
    [
        ([], (5, 300, 1100)),
        (["--quick"], (2, 100, 600)),
        (["--quick", "--seeds", "3", "--limit", "7"], (3, 7, 600)),
        (["--quick", "--flags", "--warmup_steps 9"], (2, 100, 9)),
        (["--quick", "--flags", "--model somewhere"], (2, 100, 1100)),  # it has no warm start
        (["--quick", "--flags", "--env toy-map"], (2, 100, 400)),  # the map's own, not more
    ],
)
def test_quick_is_smaller_where_nothing_is_said(flags, asked):
    settings = make_settings(parse_arguments(flags))
    config = parse_config(settings.flags)
    assert (settings.seeds, settings.limit, config.warmup_steps) == asked


def test_there_are_no_short_forms_of_flags():
    with pytest.raises(SystemExit):
        parse_arguments(["--seed", "3"])  # not --seeds


@in_a_browser
def test_a_world_without_splits_of_its_own_plays_test():
    settings = make_settings(parse_arguments(["--flags", "--env miniwob:click-test-2"]))
    assert tasks_to_play(ARMS["tracer1"], settings) == {"test": 300}


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
        ["--flags", "--gamma 1 --control"],
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
