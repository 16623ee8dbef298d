"""The evidence: arms, statistics, what is run again and what is not; and the ways in which a forecast can reach the action."""

import json
from dataclasses import asdict, replace

import numpy as np
import pytest

import eval as exam
from agent import Play, Rollout, _chosen, _rollout, encode, format_forecast, parse_forecast, policy_planner
from envs import Action, ToyGUI
from rewards import group_advantages
from train import parse_config, warm_base

A, B, C, DONE = Action("click", "Account"), Action("click", "Name"), Action("type", "amber"), Action("done")
BUDGET = {"one": 300, "two": 200, "all": 500}


# ---- statistics ---------------------------------------------------------------------------------------------------------------


def test_interval_by_hand():
    centre, half = exam.interval([0.50, 0.54, 0.55, 0.57, 0.59])   # std 0.03391, times 2.776 / sqrt(5)
    assert (centre, half) == pytest.approx((0.55, 0.04210), abs=1e-5)
    assert np.isnan(exam.interval([0.5])[1])


def test_stability_compares_the_steps_that_two_forecasts_share():
    play = Play(forecasts=[[A, B, C], [B, DONE], [DONE]], references=[[A, B, C, DONE]] * 3, results=["ok"] * 3)
    assert exam.toy_metrics([play], 3)["stability"] == pytest.approx(2 / 3)   # B kept, C replaced by done, done kept
    assert exam.toy_metrics([replace(play, forecasts=[[A], [B], [DONE]])], 1)["stability"] is None


def run(success: float, flags: str = "") -> dict:
    row = {"success": success, "stability": 0.5, "repeat": 0.1, "failed": 0.2, "accuracy_at_k": [0.5, 0.4], "tokens_per_episode": 200.0}
    rows = {s: row | {"success": success / (1 if s in ("test", "app") else 2)} for s in exam.ABLATION_SPLITS["toy-gui"]}
    return {"flags": flags.split(), "limit": 300, "split": rows, "minutes": 2.0, "exam_minutes": 1.0, "sampled_tokens": 1000, "commit": "abc"}


def test_record_pairs_the_same_seeds():
    found = {"tracer1": [run(0.5), run(0.6), run(0.7)], "reactive_grounded": [run(0.4), run(0.5), run(0.6)], "stage1": [run(0.3), run(0.5), run(0.4)]}
    record = exam.ablation_record(found, 3, [])
    assert record["pairs"]["tracer1-reactive_grounded"]["mean"] == pytest.approx(0.1)
    assert record["pairs"]["tracer1-reactive_grounded"]["ci95"] == pytest.approx([0.1, 0.1])    # the seeds vary, the difference does not
    low, high = record["pairs"]["tracer1-stage1"]["ci95"]
    assert low < 0 < high
    tracer1 = record["arms"]["tracer1"]
    assert tracer1["split"]["popup"] == {"success": [0.25, 0.3, 0.35], "n": 300}
    assert tracer1["robustness"] == pytest.approx([0.5] * 3)
    assert tracer1["per_1000_tokens"] == pytest.approx([2.5, 3.0, 3.5])
    assert "60.0 +- 24.8" in exam.ablation_table(record)
    assert record["commit"] == "abc" and "gain" not in record


def test_gain_is_over_the_better_reactive_arm_of_each_seed():
    found = {"tracer1": [run(0.6), run(0.5)], "reactive_text": [run(0.5), run(0.3)], "reactive_grounded": [run(0.4), run(0.4)]}
    record = exam.ablation_record(found, 2, [])
    assert record["gain"]["mean"] == pytest.approx((0.6 / 0.5 + 0.5 / 0.4) / 2 - 1)
    assert record["gain"]["ci95"][1] - record["gain"]["mean"] == pytest.approx(12.706 * 0.025)   # half the difference of two seeds, times t
    assert "of each seed: +22.5% +- 31.8%" in exam.ablation_table(record)


def test_an_arm_with_fewer_seeds_and_one_split_is_paired_on_what_is_common():
    part = [r | {"split": {"test": r["split"]["test"]}} for r in (run(0.4), run(0.5))]
    record = exam.ablation_record({"tracer1": [run(0.5), run(0.6), run(0.9)], "carry": part}, 3, [])
    assert record["pairs"]["tracer1-carry"]["mean"] == pytest.approx(0.1)      # the third seed has no partner
    assert record["arms"]["carry"]["robustness"] == [None, None] and list(record["arms"]["carry"]["split"]) == ["test"]
    assert exam.ablation_table(record).splitlines()[-1].split()[:1] == ["carry"]


# ---- runs ---------------------------------------------------------------------------------------------------------------------


def test_every_arm_is_a_command_that_train_accepts_and_has_the_same_budget():
    for arm, (flags, how) in exam.ARMS.items():
        config = parse_config(flags.format(**BUDGET).split())
        stages = config.stages.split(",")
        updates = sum(getattr(config, f"{s}_updates") for s in ("stage1", "stage2") if s in stages)
        assert updates == (0 if arm == "warmup" else 500), arm
        assert set(how) <= {"adapter", "choose"}


def test_arms_start_from_the_same_warm_start_unless_they_cannot(tmp_path, monkeypatch):
    monkeypatch.setattr("train.make_tiny", lambda folder, *_: (_ for _ in ()).throw(FileNotFoundError(folder)))
    made = {}
    for arm, (flags, _) in exam.ARMS.items():
        with pytest.raises(FileNotFoundError) as wanted:
            warm_base(parse_config([*flags.format(**BUDGET).split(), "--warmup_dir", str(tmp_path)]))
        made[arm] = str(wanted.value)
    assert {arm for arm in made if made[arm] != made["tracer1"]} == {"history_0", "far_first"}


def test_a_finished_run_is_not_run_again(tmp_path, monkeypatch):
    monkeypatch.setattr(exam.subprocess, "run", lambda *_, **__: pytest.fail("trained again"))
    folder = tmp_path / "tracer1-0"
    folder.mkdir()
    flags = ["--gamma", "0.8", "--stage1_updates", "300", "--stage2_updates", "200"]
    (folder / "exam-tracer1.json").write_text(json.dumps(run(0.5) | {"flags": flags, "limit": 300}))
    ask = (tmp_path, BUDGET, ["--gamma", "0.8"], 300, 1)
    assert exam.run_arm("tracer1", 0, *ask)["split"]["test"]["success"] == 0.5
    with pytest.raises(ValueError, match="made with other settings"):
        exam.run_arm("tracer1", 0, tmp_path, BUDGET, [], 300, 1)
    (folder / "exam-tracer1.json").write_text('{"arm": "trac')
    with pytest.raises(ValueError, match="exam-tracer1.json: not JSON"):
        exam.run_arm("tracer1", 0, *ask)


def test_one_seed_has_no_interval():
    record = exam.ablation_record({"tracer1": [run(0.5)], "stage1": [run(0.4)]}, 1, [])
    assert np.isnan(record["pairs"]["tracer1-stage1"]["ci95"]).all() and "nan" not in exam.ablation_table(record)


def test_a_folder_of_another_configuration_is_not_played(tmp_path):
    folder = tmp_path / "tracer1-0"
    (folder / "adapter").mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(asdict(parse_config(["--eval_tasks", "20", "--eval_split", "dev", "--gamma", "0.1"]))))
    with pytest.raises(ValueError, match=r"other settings \(gamma 0.1, not 0.9\)"):
        exam.run_arm("tracer1", 0, tmp_path, BUDGET, [], 300, 1, "dev")


def test_budgets_come_from_the_flags(tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(exam, "ablate", lambda *a: asked.append(a[4]) or exam.die("enough"))
    for flags in ("", "--stage1_updates 3 --stage2_updates=2"):
        with pytest.raises(SystemExit):
            exam.main(["--ablate", "--output_dir", str(tmp_path), "--flags", flags])
    assert asked == [{"one": 300, "two": 200, "all": 500}, {"one": 3, "two": 2, "all": 5}]


@pytest.mark.parametrize("argv", [["--arms", "tracer2"], ["--seeds", "0"], ["--jobs", "0"], ["--limit", "0"],
                                  ["--split", "composition"], ["--flags", "--gamma 0.5 --seed 3"], ["--flags", "--group_size 0"]])
def test_bad_input_ends_with_one_line(argv, dies):
    line = dies(exam.main, ["--ablate", *argv])
    assert argv[0] in line or argv[1].split()[0] in line


def test_a_place_that_cannot_be_written_ends_with_one_line(tmp_path, dies):
    (tmp_path / "file").write_text("")
    assert str(tmp_path / "file") in dies(exam.main, ["--ablate", "--output_dir", str(tmp_path / "file")])


@pytest.mark.slow
def test_ablate_end_to_end(tmp_path, dies):
    argv = ["--ablate", "--arms", "warmup,tracer1,without_stage2,choose_agreement", "--seeds", "1", "--limit", "3",
            "--output_dir", str(tmp_path / "runs"), "--flags",
            "--reading_steps 2 --warmup_steps 3 --eval_tasks 2 --prompts_per_update 2 --stage1_updates 1 --stage2_updates 1"]
    exam.main(argv)
    record = json.loads((tmp_path / "runs" / "ablation.json").read_text(), parse_constant=pytest.fail)
    assert record["pairs"]["tracer1-without_stage2"]["ci95"] == [None, None]   # one seed
    assert set(record["arms"]) == {"warmup", "tracer1", "without_stage2", "choose_agreement"}
    assert (tmp_path / "runs" / "ablation.png").stat().st_size > 10_000
    before = {p: p.stat().st_mtime_ns for p in (tmp_path / "runs").rglob("adapter_model.safetensors")}
    exam.main(argv)                                                                    # nothing is trained again
    assert before == {p: p.stat().st_mtime_ns for p in before}
    assert "other settings" in dies(exam.main, [*argv[:-1], argv[-1] + " --gamma 0.5"])


# ---- how a forecast can reach the action that is executed ---------------------------------------------------------------------


def test_far_first_is_read_from_the_last_line():
    text = format_forecast([A, B, DONE], far_first=True)
    assert text == "done\nclick Name\nclick Account"
    assert parse_forecast(text, 3, far_first=True) == ([A, B, DONE], None)
    assert parse_forecast("nonsense\nclick Account", 3, far_first=True) == ([A], 'line 2: unknown action kind \'nonsense\'')
    assert parse_forecast(text, 2, far_first=True)[0] == [A, B]


def test_far_first_counts_steps_from_the_end(policy):
    policy.far_first = True
    env = ToyGUI("test")
    prompt = encode(policy, [env.reset(0)[0]], 3)[0]
    assert "next 3 far to near :" in policy.tokenizer.decode(prompt.ids)
    written = policy.tokenizer("done\nclick Name\nclick Account")["input_ids"] + [policy.tokenizer.eos_token_id]
    rollout = _rollout(policy, prompt, written, [0.0] * len(written), 3)
    assert rollout.forecast == [A, B, DONE]
    assert rollout.step_index == [2, 2, 1, 1, 1, 0, 0, 0]    # a line break belongs to the line that it ends


def test_far_first_credit_is_what_is_still_to_be_written():
    steps = np.array([[1.0, 0.0], [0.0, 0.0], [0.0, 1.0], [0.0, 0.0]])
    near, far = group_advantages(steps, "step", False), group_advantages(steps[:, ::-1], "step", False)[:, ::-1]
    assert near[:, 1].tolist() == [-0.25, -0.25, 0.75, -0.25]     # near: the tokens of step 2 can only change step 2
    assert far[:, 0].tolist() == [0.75, -0.25, -0.25, -0.25]      # far: those of step 1, written last, only step 1


def rollout(forecast: list[Action], logprob: float) -> Rollout:
    return Rollout([], [0], [logprob], "", "stop", forecast, None, [0])


def test_choosing_among_forecasts():
    group = [rollout([A, B], -1.0), rollout([B], -3.0), rollout([B, C], -2.0), rollout([], -0.5)]
    assert _chosen(group, "likelihood").forecast == []
    assert _chosen(group, "agreement").forecast == [B, C]          # two begin with B; the likelier of them


def test_choosing_is_repeatable_and_counts_its_tokens(policy):
    envs = [ToyGUI("test") for _ in range(2)]
    seen = [env.reset(i)[0] for i, env in enumerate(envs)]
    one, two = (policy_planner(policy, 2, choose="agreement", candidates=4, seed=1)(seen, envs) for _ in range(2))
    assert one == two
    assert all(tokens > 4 for _, tokens in one)
