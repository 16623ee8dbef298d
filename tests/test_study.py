"""extras/study.py and study_arms.py: that the arms of each study are fair to one another, what is
written when, and what a wrong command ends with."""

import dataclasses
import json
import shlex
from pathlib import Path

import pytest
from made_up_exams import map_exams, plain_exams

from extras import study
from extras.ablation import (
    Settings,
    flags_named,
    list_jobs,
    run_owner,
    tasks_to_play,
    training_flags,
)
from extras.study import main
from extras.study_arms import LESSONS, SHARES, STUDIES
from extras.warm_start import start_folder
from extras.worlds import find_world
from train import Config, parse_config, warm_start_settings


@pytest.fixture(autouse=True)
def docs(tmp_path_factory, monkeypatch) -> Path:
    """What a whole study writes into docs/ is written here."""
    folder = tmp_path_factory.mktemp("docs")
    monkeypatch.setattr(study, "DOCS", folder)
    return folder


def settings_of(name: str, **changed) -> Settings:
    asked = STUDIES[name]
    settings = Settings(
        root=Path("runs/study") / name,
        warmup_dir=Path("runs/study/warmup"),
        seeds=1,
        jobs=1,
        limit=asked.limit,
        split="",
        flags=asked.flags.split(),
        stage1_updates=300,
        stage2_updates=200,
        arms=asked.arms,
        limits=asked.limits,
    )
    return dataclasses.replace(settings, **changed)


def config_of(name: str, arm: str) -> Config:
    return parse_config(training_flags(STUDIES[name].arms[arm], settings_of(name)))


def updates_of(config: Config) -> int:
    stages = config.stages.split(",")
    updates = config.stage1_updates if "stage1" in stages else 0
    return updates + (config.stage2_updates if "stage2" in stages else 0)


def start_of(name: str, arm: str) -> Path:
    return start_folder(warm_start_settings(config_of(name, arm)), "warmup")


EVERY_ARM = [(name, arm) for name, asked in STUDIES.items() for arm in asked.arms]

# ---- what the arms have in common ----------------------------------------------------------------


@pytest.mark.parametrize(("name", "arm"), EVERY_ARM)
def test_every_arm_can_be_trained_and_has_the_same_number_of_updates(name, arm):
    updates = updates_of(config_of(name, arm))
    if (name, arm) in (("map", "warmup"), ("map", "filler_words")):  # imitation only
        assert updates == 0
    elif arm == "reactive_tokens":
        assert updates == 1300  # as many sampled tokens, so more updates
    else:
        assert updates == 500


@pytest.mark.parametrize(("name", "arm"), EVERY_ARM)
def test_every_arm_plays_splits_that_its_world_has(name, arm):
    played = tasks_to_play(STUDIES[name].arms[arm], settings_of(name))
    assert set(played) <= set(find_world(config_of(name, arm).env).splits)
    assert STUDIES[name].split in played
    assert "train" not in played


@pytest.mark.parametrize("name", STUDIES)
def test_pairs_are_of_arms_that_there_are(name):
    asked = STUDIES[name]
    named = {arm for pair in asked.pairs for arm in pair} | set(asked.quick_arms)
    assert named <= set(asked.arms)
    assert len(set(asked.pairs)) == len(asked.pairs)


def test_choices_are_made_on_dev_and_the_dials_on_test():
    assert {name: asked.split for name, asked in STUDIES.items()} == {
        "map": "test",
        "memory": "test",
        "teaching": "test",
        "forms": "dev",
    }
    for arm in STUDIES["forms"].arms.values():
        assert arm.splits == ("dev",)


def test_the_map_plays_two_hundred_tasks_of_each_depth():
    asked = STUDIES["map"]
    assert tasks_to_play(asked.arms["tracer1"], settings_of("map")) == {
        "test": 800,
        "deeper": 200,
        "wider": 400,
        "flaky": 400,
    }
    assert tasks_to_play(asked.arms["filler"], settings_of("map")) == {"test": 800, "deeper": 200}


# ---- map -----------------------------------------------------------------------------------------


def test_which_arms_of_the_map_share_a_warm_start():
    planners = start_of("map", "tracer1")
    shared = {arm for arm in STUDIES["map"].arms if start_of("map", arm) == planners}
    horizons = {f"horizon_{T}" for T in range(1, 7)}
    assert shared == {"warmup", "tracer1", "stage1", "stage2", "reactive_plain"} | horizons
    reactive = start_of("map", "reactive")
    assert reactive == start_of("map", "reactive_tokens") == start_of("map", "reactive_start")
    assert len({start_of("map", arm) for arm in STUDIES["map"].arms}) == 7


def test_arms_of_the_map_differ_in_one_thing_from_what_they_are_held_against():
    def differences(one: str, other: str) -> dict:
        mine = dataclasses.asdict(config_of("map", one))
        theirs = dataclasses.asdict(config_of("map", other))
        return {key: value for key, value in mine.items() if value != theirs[key]}

    assert differences("near", "tracer1") == {"order": "near"}
    filler = {"warmup_lessons": "goal", "keep_filler": True}
    assert differences("filler", "stage2") == filler
    assert differences("filler_free", "stage2") == {"warmup_lessons": "goal"}
    assert differences("filler_words", "warmup") == {"warmup_lessons": "stranger"}
    assert differences("horizon_3", "tracer1") == {"horizon": 3}
    assert differences("reactive_tokens", "reactive") == {"stage2_updates": 1300}
    assert differences("reactive_plain", "stage2") == {"horizon": 1}
    assert differences("horizon_5", "tracer1") == {}
    assert differences("silent_2", "reactive") == {"silent_hops": 2}


def test_the_reactive_agent_of_the_map_gets_lessons_for_one_silent_look_up():
    reactive = config_of("map", "reactive")
    assert (reactive.horizon, reactive.warmup_horizon, reactive.silent_hops) == (1, 1, 1)
    assert reactive.order == config_of("map", "tracer1").order
    assert reactive.stages == "warmup,stage2"
    courses = find_world("toy-map").courses(warm_start_settings(reactive))
    assert [course.name for course in courses][-1] == "silent 1"


def test_the_first_runs_say_most():
    """With two runs side by side: the plan's start and the reactive agent's, then TraceR1."""
    jobs = list(list_jobs(list(STUDIES["map"].arms), settings_of("map", seeds=2)))
    assert [job.arm for job in jobs[:3]] == ["warmup", "tracer1", "reactive"]
    assert [job.seed for job in jobs] == [0] * len(STUDIES["map"].arms) + [1] * len(
        STUDIES["map"].arms
    )


# ---- memory --------------------------------------------------------------------------------------


def test_both_agents_have_the_same_start():
    assert start_of("memory", "tracer1_1") == start_of("memory", "reactive_1")
    tracer1 = config_of("memory", "tracer1_1")
    reactive = config_of("memory", "reactive_1")
    assert tracer1.carry_forecast
    assert tracer1.warmup_own_plans
    assert not reactive.carry_forecast
    assert (tracer1.horizon, reactive.horizon) == (5, 1)


@pytest.mark.parametrize("player", ["tracer1", "reactive", "taken_away", "warmup", "stage2"])
def test_one_run_plays_at_all_shares(player):
    arms = STUDIES["memory"].arms
    for share in SHARES:
        arm = arms[f"{player}_{share}"]
        assert arm.training == arms[f"{player}_0"].training
        assert flags_named(arm.playing)["env"] == f"toy-gui:memory={share}"


def test_the_plan_is_taken_away_from_the_same_run():
    arms = STUDIES["memory"].arms
    assert run_owner("taken_away_0.5", arms) == run_owner("tracer1_0.5", arms)
    assert flags_named(arms["taken_away_0.5"].playing)["carry_forecast"] is False
    assert arms["tracer1_0.5"].playing == "--env toy-gui:memory=0.5"  # as it was trained


# ---- teaching ------------------------------------------------------------------------------------


def test_both_learners_of_a_lesson_stand_on_the_same_start():
    starts = set()
    for lessons in LESSONS:
        start = start_of("teaching", f"reactive_{lessons}")
        assert start == start_of("teaching", f"tracer1_{lessons}")
        assert start == start_of("teaching", f"warmup_{lessons}")
        starts.add(start)
    assert len(starts) == len(LESSONS)


def test_next_actions_have_more_batches_for_as_many_tokens():
    assert config_of("teaching", "reactive_next").warmup_steps == 1100
    assert config_of("teaching", "reactive_next_tokens").warmup_steps == 3080
    steps = config_of("teaching", "reactive_next_seconds").warmup_steps
    assert 1100 < steps < 3080


# ---- forms ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("world", ["gui", "map", "tools"])
def test_two_forms_are_ways_to_play_with_the_same_run(world):
    arms = STUDIES["forms"].arms
    owners = {form: run_owner(f"{form}_{world}", arms) for form in ("agreement", "last_plan")}
    assert set(owners.values()) == {f"near_{world}"}
    assert arms[f"last_plan_{world}"].choose == "last_plan"
    trained = {run_owner(arm, arms) for arm in arms if arm.endswith(world)}
    forms = {"near", "far", "thought", "carried"}
    if world == "gui":
        # The others have no names for what is seen next.
        forms |= {"states", "next_state", "next"}
    assert trained == {f"{form}_{world}" for form in forms}


def test_the_forms_of_the_map_are_in_the_order_that_they_are_named_after():
    for form in ("near", "thought", "carried", "agreement", "last_plan"):
        assert config_of("forms", f"{form}_map").order == "near"
    assert config_of("forms", "far_map").order == "far"


def test_a_world_has_its_own_recipe_wherever_it_is_trained():
    on_map = config_of("forms", "far_map")
    assert on_map.warmup_steps == config_of("map", "tracer1").warmup_steps
    assert start_of("forms", "far_map") == start_of("map", "tracer1")  # made once for both studies
    assert start_of("forms", "near_gui") == start_of("teaching", "tracer1_forecasts")


# ---- what is written when ------------------------------------------------------------------------


def pretend(monkeypatch, steps: list[dict]) -> list:
    """main gets these exams in the place of running something; returns what it asked for."""
    asked = []

    def run_all(arms, settings, beside):
        asked.append((list(arms), settings))
        yield from steps

    monkeypatch.setattr(study, "run_all", run_all)
    return asked


def test_a_stopped_study_shows_what_it_has(tmp_path, monkeypatch, capsys):
    def stop_after_one(_arms, _settings, beside):
        assert beside == STUDIES["map"].arms  # what earlier calls did is told of too
        yield {}
        yield map_exams({"tracer1": 0.9}, seeds=1)
        raise KeyboardInterrupt

    monkeypatch.setattr(study, "run_all", stop_after_one)
    with pytest.raises(SystemExit) as end:
        main(["map", "--output_dir", str(tmp_path)])
    assert end.value.code == 2
    assert "the same command goes on" in capsys.readouterr().err
    dials = json.loads((tmp_path / "dials.json").read_text())
    assert dials["map"]["1"] == {"tracer1": [0.9]}
    assert "tracer1 (1)" in (tmp_path / "map.txt").read_text()
    assert (tmp_path / "dials.png").stat().st_size > 10_000


def test_the_dials_hold_all_studies_of_a_folder(tmp_path, monkeypatch):
    where = ["--output_dir", str(tmp_path)]
    pretend(monkeypatch, [map_exams({"tracer1": 0.9, "reactive": 0.7})])
    main(["map", *where])
    pretend(monkeypatch, [plain_exams("memory", {"tracer1_1": 0.5})])
    main(["memory", *where])
    dials = json.loads((tmp_path / "dials.json").read_text())
    assert dials["map"]["2"]["tracer1"] == [0.8] * 3
    assert dials["memory"] == {"1": {"tracer1": [0.5] * 3}}
    assert len(dials["commands"]) == 2


def test_only_a_whole_study_is_written_into_docs(tmp_path, monkeypatch, docs):
    where = ["--output_dir", str(tmp_path / "runs")]
    pretend(monkeypatch, [map_exams({"tracer1": 0.9})])
    changed = (
        ["--quick"],
        ["--arms", "tracer1"],
        ["--seeds", "3"],
        ["--limit", "8"],
        ["--split", "dev"],
        ["--flags", "--gamma 0.8"],
    )
    for flags in changed:
        monkeypatch.setattr(study, "study_record", no_record)
        main(["map", *where, *flags])
        assert not list(docs.iterdir())
    main(["map", *where])
    assert {file.name for file in docs.iterdir()} == {"map.json", "dials.json", "dials.png"}


def no_record(*_) -> dict:
    return {"asks": "", "split": "test", "commit": "", "command": "", "minutes": 0.0} | {
        "arms": {},
        "pairs": {},
    }


def test_a_record_names_its_command_without_what_changes_no_result(tmp_path, monkeypatch):
    pretend(monkeypatch, [map_exams({"tracer1": 0.9})])
    where = ["--output_dir", str(tmp_path / "runs"), "--jobs", "1"]  # jobs share the cores
    main(["map", *where, "--arms", "tracer1", "--flags", "--gamma 0.8 --lambda_rep 0"])
    record = json.loads((tmp_path / "runs" / "map.json").read_text())
    assert record["command"] == (
        "python -m extras.study map --arms tracer1 --seeds 5 "
        "'--flags=--gamma 0.8 --lambda_rep 0' --jobs 1"
    )
    again = study.parse_arguments(shlex.split(record["command"])[3:])
    assert again.flags == "--gamma 0.8 --lambda_rep 0"


def test_the_flags_of_the_command_line_have_the_last_word(tmp_path, monkeypatch):
    asked = pretend(monkeypatch, [map_exams({"tracer1": 0.9})])
    main(["map", "--output_dir", str(tmp_path), "--flags", "--reading_steps 7"])
    [(_, settings)] = asked
    config = parse_config(training_flags(STUDIES["map"].arms["tracer1"], settings))
    assert (config.reading_steps, config.train_tasks) == (7, 20000)


def test_a_study_on_dev_stands_beside_the_one_on_test(tmp_path, monkeypatch):
    monkeypatch.setattr(study, "study_record", no_record)
    pretend(monkeypatch, [map_exams({"tracer1": 0.9})])
    main(["map", "--output_dir", str(tmp_path), "--split", "dev"])
    assert (tmp_path / "map-dev.json").exists()
    assert not (tmp_path / "map.json").exists()


def test_the_forms_are_compared_on_dev(tmp_path, monkeypatch):
    pretend(monkeypatch, [plain_exams("forms", {"near_gui": 0.4, "far_gui": 0.5}, "dev")])
    main(["forms", "--output_dir", str(tmp_path)])
    record = json.loads((tmp_path / "forms.json").read_text())
    assert record["split"] == "dev"
    assert record["pairs"]["far_gui-near_gui"]["mean"] == pytest.approx(0.1)
    assert "far_gui" not in (tmp_path / "dials.json").read_text()


def test_what_the_command_line_makes_of_a_study(tmp_path, monkeypatch):
    asked = pretend(monkeypatch, [map_exams({"tracer1": 0.9})])
    where = ["--output_dir", str(tmp_path / "runs")]
    main(["map", *where, "--seeds", "2", "--flags", "--stage1_updates 30 --stage2_updates 20"])
    main(["map", *where, "--quick"])
    (all_arms, settings), (quick_arms, quick) = asked
    assert all_arms == list(STUDIES["map"].arms)
    assert settings.root == tmp_path / "runs" / "map"
    assert settings.warmup_dir == tmp_path / "runs" / "warmup"  # shared by all studies
    assert (settings.seeds, settings.limit, settings.limits["deeper"]) == (2, 800, 200)
    assert (settings.stage1_updates, settings.stage2_updates) == (30, 20)
    assert quick_arms == ["warmup", "tracer1", "reactive"]
    assert quick.root == tmp_path / "runs-quick" / "map"
    assert quick.seeds == 1
    assert quick.stage1_updates < parse_config([]).stage1_updates
    assert max(quick.limits.values()) <= quick.limit < settings.limit
    main(["map", *where, "--quick", "--seeds", "2"])
    assert asked[2][1].seeds == 2


# ---- bad input -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("argv", "named"),
    [
        (["maps"], "maps"),
        (["map", "--arms", "tracer1,tracer2"], "tracer2"),
        (["memory", "--arms", "tracer1_1.5"], "tracer1_1.5"),  # a share that there is not
        (["map", "--seeds", "0"], "--seeds"),
        (["map", "--jobs", "0"], "--jobs"),
        (["map", "--limit", "0"], "--limit"),
        (["map", "--split", "popup"], "popup"),
        (["forms", "--split", "popup"], "popup"),  # one of its three worlds has such a split
        (["map", "--flags", "--horizon 0"], "--horizon"),
        (["map", "--flags", "--env toy-gui"], "--env"),
        (["map", "--flags", "--horizon 3"], "--horizon"),  # "T = 5" would be 3
        (["forms", "--flags", "--order far"], "--order"),
        (["map", "--flags", "--seed 3"], "--seed"),
        (["memory", "--flags=--no-warmup_own_plans"], "--warmup_own_plans"),
        (["teaching", "--flags", "--env toy-gui:memory=2"], "memory=2"),
        (["teaching", "--flags", "--env toy-map:depth=9"], "depth=9"),
    ],
)
def test_bad_input_ends_with_one_line(argv, named, dies, tmp_path):
    assert named in dies(main, [*argv, "--output_dir", str(tmp_path)])
    assert not list(tmp_path.iterdir())


def test_runs_of_another_configuration_are_left_as_they_are(tmp_path, dies):
    folder = tmp_path / "teaching" / "reactive_next-0"
    (folder / "adapter").mkdir(parents=True)
    config = dataclasses.asdict(parse_config(["--gamma", "0.1"]))
    (folder / "config.json").write_text(json.dumps(config))
    before = {file: file.stat().st_mtime_ns for file in tmp_path.rglob("*")}
    argv = ["teaching", "--arms", "reactive_next", "--output_dir", str(tmp_path)]
    assert "gamma 0.1, not 0.9" in dies(main, argv)
    assert {file: file.stat().st_mtime_ns for file in tmp_path.rglob("*")} == before


# ---- end to end ----------------------------------------------------------------------------------

TINY = (
    "--reading_steps 2 --warmup_steps 3 --prompts_per_update 2 --stage1_updates 1 "
    "--stage2_updates 1 --demo_noise 0"
)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "arms"),
    [
        ("memory", "tracer1_1,taken_away_1,reactive_1"),
        ("teaching", "reactive_next_tokens,warmup_next_tokens"),
        ("forms", "thought_gui,last_plan_gui"),
    ],
)
def test_a_study_from_end_to_end(name, arms, tmp_path, dies):
    argv = [name, "--arms", arms, "--seeds", "1", "--limit", "4", "--output_dir", str(tmp_path)]
    main([*argv, "--flags", TINY])
    record = json.loads((tmp_path / f"{name}.json").read_text(), parse_constant=pytest.fail)
    assert set(arms.split(",")) <= set(record["arms"])
    assert (tmp_path / "dials.png").stat().st_size > 10_000
    if name == "memory":
        assert set(record["arms"]["tracer1_1"]["probe"][0]) == {"none", "own", "oracle"}
    before = {file: file.stat().st_mtime_ns for file in tmp_path.rglob("exam-*.json")}
    assert before
    main([*argv, "--flags", TINY])  # nothing is run again
    assert {file: file.stat().st_mtime_ns for file in tmp_path.rglob("exam-*.json")} == before
    assert "other settings" in dies(main, [*argv, "--flags", f"{TINY} --lambda_rep 0.1"])
