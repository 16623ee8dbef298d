"""eval.py: the planners that need no model, the metrics of a toy world, the exam of a run, and the
door to recorded benchmarks."""

import json
from pathlib import Path

import pytest
from helpers import hub, make_run

import agent
from agent import Plan, Play
from envs import DISMISS, LURES, SPLITS, Action, Observation, ToolAgent, ToyGUI
from eval import (
    CLOSE,
    TYPE_UNSAID,
    Examinee,
    bench,
    evaluate,
    evaluate_planner,
    evaluate_policy,
    exam,
    kind_of,
    main,
    oracle_planner,
    parse_arguments,
    parts_table,
    place_of_kind,
    predictor,
    random_planner,
    table,
    toy_metrics,
)
from extras.intervals import wilson
from extras.loading import load_policy
from extras.made_up_android import android_record, write_android_control
from extras.tiny_vlm import make_tiny
from extras.worlds import WORLDS

A = Action("click", "Account")
B = Action("click", "Name")
C = Action("type", "amber")
DONE = Action("done")

# ---- metrics, by hand ---------------------------------------------------------------------------


SEEN = Observation("Account: type amber in Name; finish", screenshot=lambda: None)


def one_play(forecasts: list[list[Action]], references: list[list[Action]] | None = None) -> Play:
    """An episode with these forecasts whose every step worked."""
    steps = len(forecasts)
    if references is None:
        references = [[A, B, C, DONE]] * steps
    return Play(
        observations=[SEEN] * steps,
        forecasts=forecasts,
        references=references,
        results=["ok"] * steps,
        surprises=[False] * steps,
    )


def test_the_metrics_and_their_order():
    """results.json is compared to the last bit: names and order are part of it."""
    assert list(toy_metrics([one_play([[A]])], 1)) == [
        "success",
        "n",
        "ci95",
        "accuracy_at_k",
        "stability",
        "repeat",
        "failed",
        "unreadable",
        "steps_per_episode",
        "tokens_per_episode",
        "by_kind",
        "solved",
    ]


def test_success_is_a_share_of_the_episodes():
    plays = [Play(success=True), Play(success=False), Play(success=False), Play(success=True)]
    metrics = toy_metrics(plays, 1)
    assert metrics["success"] == 0.5
    assert metrics["n"] == 4
    assert metrics["ci95"] == list(wilson(2, 4))
    assert metrics["solved"] == [1, 0, 0, 1]


def test_accuracy_at_k_counts_the_states_where_a_kth_action_is_due():
    """A forecast that ends too early is wrong; where nothing is due, nothing is asked."""
    short_and_right = one_play([[A]], [[A, DONE]])
    long_and_right = one_play([[DONE, B]], [[DONE]])
    wrong_then_right = one_play([[B, DONE]], [[A, DONE]])
    metrics = toy_metrics([short_and_right, long_and_right, wrong_then_right], 3)
    assert metrics["accuracy_at_k"] == [2 / 3, 1 / 2, 0.0]


def test_stability_compares_the_steps_that_two_forecasts_share():
    # B is kept, C is replaced by done, done is kept.
    metrics = toy_metrics([one_play([[A, B, C], [B, DONE], [DONE]])], 3)
    assert metrics["stability"] == pytest.approx(2 / 3)
    # After a refusal A is still ahead: all three steps are shared, and all are kept.
    refused = one_play([[A, B, C], [A, B, C], [B, C]])
    refused.results = ["failed", "ok", "ok"]
    assert toy_metrics([refused], 3)["stability"] == 1.0
    reactive = toy_metrics([one_play([[A], [B], [DONE]])], 1)
    assert reactive["stability"] is None


def test_repeat_is_a_share_of_the_forecast_actions():
    metrics = toy_metrics([one_play([[A, B, A], [DONE]])], 3)
    assert metrics["repeat"] == 1 / 4


def test_failed_is_a_share_of_the_steps():
    refused = one_play([[A]] * 4, [[A]] * 4)
    refused.results = ["ok", "failed", "impossible", "failed"]
    assert toy_metrics([refused], 1)["failed"] == 0.5


def test_unreadable_is_a_share_of_the_forecasts():
    assert toy_metrics([one_play([[], [A], [], []])], 1)["unreadable"] == 0.75


def test_surprised_is_a_share_of_the_steps_that_expected_something():
    """Only what is executed, the first step, says what will be seen next."""
    expects = Action("click", "Sound", expects="Sound")
    episode = one_play([[expects], [expects, A], [A, expects], [], [DONE]])
    episode.surprises = [True, False, False, False, False]
    assert toy_metrics([episode], 2)["surprised"] == 1 / 2
    assert "surprised" not in toy_metrics([one_play([[A, expects]])], 2)


def test_steps_and_tokens_are_means_over_episodes():
    one = one_play([[A], [B], [DONE]])
    other = one_play([[DONE]])
    one.tokens = 30
    other.tokens = 4
    metrics = toy_metrics([one, other], 1)
    assert metrics["steps_per_episode"] == 2.0
    assert metrics["tokens_per_episode"] == 17.0


# ---- the same, by kind and by demand ------------------------------------------------------------

LATER = Action("click", "Later")


def test_first_actions_by_the_kind_of_the_oracles():
    """Where an average would hide something, a kind is two."""
    coral = Action("type", "coral")  # the instruction does not say it
    episode = one_play(
        forecasts=[[LATER], [A], [B, C], [C], [A], []],
        references=[[LATER], [A], [A], [C], [coral], [DONE]],
    )
    assert toy_metrics([episode], 2)["by_kind"] == {
        "click": {"right": 1 / 2, "n": 2},
        CLOSE: {"right": 1.0, "n": 1},
        "type": {"right": 1.0, "n": 1},
        TYPE_UNSAID: {"right": 0.0, "n": 1},
        "done": {"right": 0.0, "n": 1},  # an unreadable answer is wrong
    }


def test_a_step_that_no_oracle_knows_has_no_kind():
    assert toy_metrics([one_play([[A], [B]], [[], [B]])], 1)["by_kind"] == {
        "click": {"right": 1.0, "n": 1}
    }


@pytest.mark.parametrize("name", WORLDS)
def test_the_kinds_together_are_the_first_number_of_accuracy(name):
    planner = random_planner(3)
    metrics, plays = evaluate(planner, WORLDS[name], "dev", 30, 3, 4)
    by_kind = metrics["by_kind"].values()
    right = sum(part["right"] * part["n"] for part in by_kind)
    n = sum(part["n"] for part in by_kind)
    assert n == sum(len(episode.results) for episode in plays)
    assert right / n == pytest.approx(metrics["accuracy_at_k"][0])


def test_what_closes_a_dialog_stands_on_dialogs_only():
    """Of the oracle's clicks in the toy GUI exactly those while a dialog is open."""
    _, plays = evaluate(oracle_planner(1), ToyGUI, "popup", 60, 1, 4)
    closed = 0
    for episode in plays:
        for reference, screen in zip(episode.references, episode.screens, strict=True):
            labels = {label for label, _box in screen}
            dialog = len(labels) <= 3 and bool(labels & {*DISMISS, "OK"})
            is_close = kind_of(reference[0], "") == CLOSE
            assert is_close == dialog, (reference[0], labels)
            closed += is_close
    assert closed >= 60
    assert not any(kind_of(Action("click", lure), "") == CLOSE for lure in LURES)


def test_a_code_word_is_not_said_by_the_instruction():
    """Exactly then the oracle types something that has to be remembered."""
    _, plays = evaluate(oracle_planner(1), ToyGUI, "test", 60, 1, 4)
    for episode in plays:
        instruction = episode.observations[0].instruction
        kinds = {kind_of(reference[0], instruction) for reference in episode.references}
        assert (TYPE_UNSAID in kinds) == ("type code" in instruction)


class Demanding(ToyGUI):
    """A world that says what its tasks demand: here the number of their goals."""

    def reset(self, seed: int):
        seen = super().reset(seed)
        self.demand = len(self.task.goals)
        return seen


def test_success_by_what_the_tasks_demand():
    refused = evaluate(oracle_planner(2), Demanding, "dev", 20, 2, 4, tool_agent=refuse_two_goals)
    metrics, plays = refused
    demands = [observation_goals(episode) for episode in plays]
    assert set(demands) >= {1, 2}
    assert list(metrics["by_demand"]) == [str(demand) for demand in sorted(set(demands))]
    assert metrics["by_demand"]["1"] == {"success": 1.0, "n": demands.count(1)}
    assert metrics["by_demand"]["2"] == {"success": 0.0, "n": demands.count(2)}
    same_without, _ = evaluate(
        oracle_planner(2), ToyGUI, "dev", 20, 2, 4, tool_agent=refuse_two_goals
    )
    assert "by_demand" not in same_without
    del metrics["by_demand"]
    assert metrics == same_without


def observation_goals(episode: Play) -> int:
    return episode.observations[0].instruction.count(":")


def refuse_two_goals(actions, examples):
    """A tool agent that serves tasks of one goal only."""
    answers = []
    for action, example in zip(actions, examples, strict=True):
        answers.append(action if example.observation.instruction.count(":") == 1 else None)
    return answers


def test_the_tables_of_parts_have_a_column_for_each_part_of_any_policy():
    """In the order of the kinds; a policy that met no such state has a dash."""
    one = toy_metrics([one_play([[A], [B]], [[A], [DONE]])], 1)
    other = toy_metrics([one_play([[A], [A]], [[LATER], [A]])], 1)
    header, *rows = parts_table({"one": one, "other": other}, "by_kind", "right").splitlines()
    assert header.split("  ")[0] == "policy"
    assert header.index("click ") < header.index(CLOSE) < header.index("done")
    assert rows[0].split() == ["one", "100%", "of", "1", "-", "0%", "of", "1"]
    assert rows[1].split() == ["other", "100%", "of", "1", "0%", "of", "1", "-"]
    assert sorted(["done", TYPE_UNSAID, "type", CLOSE, "click"], key=place_of_kind) == [
        "click",
        CLOSE,
        "type",
        TYPE_UNSAID,
        "done",
    ]


# ---- the floor and the ceiling ------------------------------------------------------------------


@pytest.mark.parametrize("name", WORLDS)
def test_the_oracle_solves_every_task_and_a_random_agent_next_to_none(name):
    ceiling, _ = evaluate(oracle_planner(3), WORLDS[name], "test", 40, 3, 4)
    floor, _ = evaluate(random_planner(), WORLDS[name], "test", 100, 3, 4)
    assert ceiling["success"] == 1.0
    assert floor["success"] <= 0.05  # on the map the one right button is one of three
    assert ceiling["tokens_per_episode"] == floor["tokens_per_episode"] == 0.0


def test_a_random_agent_repeats_itself_with_its_seed():
    first, _ = evaluate(random_planner(1), ToyGUI, "dev", 5, 3, 4)
    again, _ = evaluate(random_planner(1), ToyGUI, "dev", 5, 3, 4)
    other, _ = evaluate(random_planner(2), ToyGUI, "dev", 5, 3, 4)
    assert first == again != other


def test_how_many_play_side_by_side_changes_nothing():
    done = []
    together, _ = evaluate(oracle_planner(2), ToyGUI, "popup", 7, 2, 4)
    apart, plays = evaluate(
        oracle_planner(2), ToyGUI, "popup", 7, 2, 4, batch=3, progress=done.append
    )
    assert together == apart
    assert done == [3, 3, 1]
    assert len(plays) == 7


def test_a_world_says_how_many_can_be_played_side_by_side():
    """One whose episodes take a browser each."""
    costly = type("CostlyGUI", (ToyGUI,), {"side_by_side": 2})
    done = []
    metrics, _ = evaluate(oracle_planner(2), costly, "popup", 5, 2, 4, progress=done.append)
    assert done == [2, 2, 1]
    assert metrics == evaluate(oracle_planner(2), ToyGUI, "popup", 5, 2, 4)[0]


def test_a_planner_plays_in_the_world_of_a_run():
    config = {"env": "toy-tools", "horizon": 2, "history": 6}
    metrics, _ = evaluate_planner(oracle_planner(2), config, "composition", 3)
    expected, _ = evaluate(oracle_planner(2), WORLDS["toy-tools"], "composition", 3, 2, 6)
    assert metrics == expected


# ---- the policy of a run ------------------------------------------------------------------------


@pytest.fixture
def run(tmp_path, tuned, tiny) -> Path:
    return make_run(tmp_path / "run", tuned, tiny)


def points_at_once(actions, examples):
    """A tool agent that takes every step as it is."""
    return list(actions)


def refuses(actions, examples):
    """A tool agent that finds nothing."""
    return [None for _ in actions]


@pytest.mark.parametrize(("tool_agent", "solved"), [(points_at_once, 1.0), (refuses, 0.0)])
def test_the_first_steps_go_to_the_tool_agent_of_the_config(
    tool_agent: ToolAgent, solved, policy, run, monkeypatch
):
    """Here an oracle plans, whose actions point already."""
    asked = []

    def load_tool_agent(name: str, policy: agent.Policy, max_pixels: int):
        asked.append((name, max_pixels))
        return tool_agent

    monkeypatch.setattr("eval.load_tool_agent", load_tool_agent)
    monkeypatch.setattr("eval.policy_planner", lambda policy, horizon, **_: oracle_planner(horizon))
    config = agent_config(run) | {"tool_agent": "base", "max_pixels": 5000}
    metrics, _ = evaluate_policy(policy, config, "test", 4)
    assert metrics["success"] == solved
    assert asked == [("base", 5000)]


def agent_config(run: Path) -> dict:
    return json.loads((run / "config.json").read_text())


def test_the_exam_has_a_row_for_each_policy_of_the_run(run, capsys):
    metrics = exam(str(run), agent_config(run), "test", 2)
    assert list(metrics) == ["random", "warmup", "stage1", "oracle"]  # stage 2 was left out
    assert metrics["oracle"]["success"] == 1.0
    assert metrics["random"]["n"] == metrics["stage1"]["n"] == 2
    assert len(metrics["stage1"]["accuracy_at_k"]) == 2
    lines = table(metrics).splitlines()
    assert [line.split()[0] for line in lines] == ["policy", *metrics]


def test_the_exam_from_the_command_line(run, tmp_path, capsys):
    file = tmp_path / "numbers.json"
    main(["--run", str(run), "--split", "popup", "--limit", "2", "--json", str(file)])
    written = json.loads(file.read_text())
    assert list(written) == ["protocol", "split", "n", "policies"]
    assert (written["protocol"], written["split"], written["n"]) == ("toy-gui", "popup", 2)
    again = exam(str(run), agent_config(run), "popup", 2)
    assert written["policies"] == json.loads(json.dumps(again))
    assert '"solved": [1, 1]' in file.read_text()  # on one line, however many they are
    printed = capsys.readouterr().out
    assert "protocol toy-gui, split popup, greedy, n = 2" in printed
    assert "first action right, by the kind of the oracle's" in printed
    assert CLOSE in printed


def test_a_run_is_examined_in_its_own_world(tmp_path, capsys):
    base = tmp_path / "base"
    make_tiny(base, WORLDS["toy-tools"].words, 0)
    policy = load_policy(base)
    agent.add_lora(policy, 4, 8, 0)
    run = make_run(tmp_path / "run", policy, base, "toy-tools")
    file = tmp_path / "numbers.json"
    main(["--run", str(run), "--split", "composition", "--limit", "2", "--json", str(file)])
    assert json.loads(file.read_text())["protocol"] == "toy-tools"


def examine(tmp_path: Path, *flags: str) -> dict:
    """The numbers that a command line writes."""
    file = tmp_path / "numbers.json"
    main([*flags, "--json", str(file)])
    return json.loads(file.read_text())


def test_a_model_without_a_run_has_a_row_between_floor_and_ceiling(run, tiny, tmp_path, capsys):
    """Its figures are those that a run's own base has."""
    limit = ["--limit", "3"]
    alone = examine(tmp_path, "--model", str(tiny), "--horizon", "2", *limit)
    of_run = examine(tmp_path, "--run", str(run), *limit)
    assert (alone["protocol"], alone["split"]) == ("toy-gui", "test")
    assert list(alone["policies"]) == ["random", "base", "oracle"]
    assert alone["policies"]["base"] == of_run["policies"]["warmup"]
    assert alone["policies"]["oracle"] == of_run["policies"]["oracle"]


def test_a_model_without_a_run_is_examined_in_the_world_that_is_named(tmp_path, capsys):
    base = tmp_path / "base"
    make_tiny(base, WORLDS["toy-tools"].words, 0)
    flags = ["--bench", "toy-tools", "--split", "composition", "--limit", "1", "--history", "6"]
    numbers = examine(tmp_path, "--model", str(base), *flags)
    assert (numbers["protocol"], numbers["split"]) == ("toy-tools", "composition")
    assert len(numbers["policies"]["base"]["accuracy_at_k"]) == 5


def test_a_world_with_its_dial_is_named_as_in_training(run, tiny, tmp_path, capsys):
    name = "toy-gui:memory=1"
    numbers = examine(tmp_path, "--model", str(tiny), "--bench", name, "--limit", "4")
    assert numbers["protocol"] == name
    assert TYPE_UNSAID in numbers["policies"]["oracle"]["by_kind"]


@pytest.mark.parametrize("who", ["--run", "--model"])
def test_a_named_tool_agent_serves_in_a_toy_world_too(who, run, tiny, tmp_path, monkeypatch):
    asked = []

    def load_tool_agent(name: str, policy: agent.Policy, max_pixels: int):
        asked.append(name)
        return refuses

    monkeypatch.setattr("eval.load_tool_agent", load_tool_agent)
    value = {"--run": run, "--model": tiny}[who]
    examine(tmp_path, who, str(value), "--tool_agent", "base", "--limit", "1")
    assert set(asked) == {"base"}


# ---- recorded benchmarks ------------------------------------------------------------------------


def examinee_of(policy: agent.Policy) -> Examinee:
    return Examinee(policy, horizon=2, history=4, max_pixels=0, tool_agent="base")


def test_a_recorded_step_is_scored_with_the_point_that_the_tool_agent_found(policy, monkeypatch):
    save, leave = Action("click", "Save"), Action("click", "Exit", (0.9, 0.9))
    forecasts = iter([[save, DONE], [leave], []])
    answers = iter([Action("click", "Save", (0.5, 0.5)), None])
    seen = []

    def scripted_planner(policy: agent.Policy, horizon: int):
        return lambda observations, envs: [Plan(next(forecasts), 1) for _ in observations]

    def tool_agent(actions, examples):
        seen.extend(example.observation for example in examples)
        return [next(answers) for _ in actions]

    monkeypatch.setattr("eval.policy_planner", scripted_planner)
    monkeypatch.setattr("eval.load_tool_agent", lambda *_: tool_agent)
    predict = predictor(examinee_of(policy))
    observation, _ = ToyGUI("test").reset(0)
    found = [Action("click", "Save", (0.5, 0.5)), DONE]
    refused = [Action("click", "Exit")]  # its type may still be right
    assert [predict(observation, 2) for _ in range(3)] == [found, refused, []]
    assert seen == [observation, observation]  # nobody is asked about an answer without actions


@pytest.fixture
def android(tmp_path) -> Path:
    """Two test episodes of three steps each."""
    actions = [
        {"action_type": "click", "x": 540, "y": 1200},
        {"action_type": "scroll", "direction": "down"},
        {"action_type": "wait"},
    ]
    folder = tmp_path / "android"
    folder.mkdir()
    records = [android_record(ident, actions) for ident in (6, 7)]
    return write_android_control(folder, records, test=[6, 7])


def test_a_policy_sits_a_recorded_benchmark(run, android, tmp_path, capsys):
    numbers, steps = tmp_path / "numbers.json", tmp_path / "steps.jsonl"
    flags = ["--bench", "androidcontrol", "--data", str(android), "--run", str(run)]
    main([*flags, "--json", str(numbers), "--per_step", str(steps)])
    written = json.loads(numbers.read_text())
    assert written["protocol"] == "androidcontrol/os-atlas"
    assert written["split"] == "test"
    assert written["n"] == len(steps.read_text().splitlines()) == 6
    assert [ahead["k"] for ahead in written["lookahead"]] == [1, 2]
    assert "why" not in json.loads(capsys.readouterr().out)


def test_a_model_without_a_run_sits_a_recorded_benchmark(android, tmp_path, capsys):
    flags = ["--bench", "androidcontrol", "--data", str(android), "--model", str(hub())]
    numbers = examine(tmp_path, *flags, "--horizon", "2", "--max_pixels", "50000")
    assert numbers["n"] == 6
    assert [ahead["k"] for ahead in numbers["lookahead"]] == [1, 2]


def write_lines(file: Path, lines: list[dict]) -> str:
    file.write_text("\n".join(json.dumps(line) for line in lines))
    return str(file)


def test_predictions_of_others_are_scored_by_the_same_rule(android, tmp_path):
    numbers = tmp_path / "numbers.json"
    click = {"kind": "click", "point": [0.5, 0.5], "text": ""}
    answers = [{"id": f"{episode}/0", "action": click} for episode in (6, 7)]
    predictions = write_lines(tmp_path / "mine.jsonl", answers)
    flags = ["--bench", "androidcontrol", "--data", str(android), "--predictions", predictions]
    main([*flags, "--json", str(numbers)])
    written = json.loads(numbers.read_text())
    assert written["step_acc"] == pytest.approx(2 / 6)
    assert written["missing_predictions"] == 4


@pytest.fixture
def gaia(tmp_path) -> Path:
    """Four questions: two of level 1, one of level 2, one whose answer is private."""
    folder = tmp_path / "2023" / "validation"
    folder.mkdir(parents=True)
    rows = []
    for number, (level, answer) in enumerate([(1, "7"), (1, "a, b"), ("2", "x"), (3, "?")]):
        row = {"task_id": f"t{number}", "Question": "?", "Level": level, "Final answer": answer}
        rows.append(row | {"file_name": ""})
    write_lines(folder / "metadata.jsonl", rows)
    return tmp_path


def test_questions_with_tools_are_scored_from_the_command_line(gaia, tmp_path, dies):
    answers = [{"id": "t0", "answer": 7}, {"id": "t1", "answer": None}]
    predictions = write_lines(tmp_path / "mine.jsonl", answers)
    numbers, items = tmp_path / "numbers.json", tmp_path / "items.jsonl"
    flags = ["--bench", "gaia", "--data", str(gaia), "--predictions", predictions]
    main([*flags, "--json", str(numbers), "--per_item", str(items)])
    assert json.loads(numbers.read_text())["level_1"]["right"] == 1
    rows = [json.loads(line) for line in items.read_text().splitlines()]
    assert rows[0] == {"id": "t0", "correct": True}
    assert [row["correct"] for row in rows] == [True, False, False, None]
    assert "splits validation and test" in dies(main, [*flags, "--split", "train"])


def test_a_fault_in_the_predictions_is_told_and_counts_as_no_answer(gaia, tmp_path, capsys):
    predictions, numbers = tmp_path / "mine.jsonl", tmp_path / "numbers.json"
    predictions.write_text("[]")
    flags = ["--bench", "gaia", "--data", str(gaia), "--predictions", str(predictions)]
    main([*flags, "--json", str(numbers)])
    written = json.loads(numbers.read_text())
    assert (written["skipped"], written["bad_predictions"]) == (0, 1)
    assert "mine.jsonl:1: id" in written["why_bad"][0]
    assert written["right"] == 0
    assert "warning: 1 lines of predictions could not be used: " in capsys.readouterr().err


@pytest.mark.parametrize("who", ["--run", "--model"])
@pytest.mark.parametrize("named", ["", "base", "ocr"])
def test_a_frozen_vlm_looks_at_pictures_for_the_toolbox(named, who, run, tiny, monkeypatch):
    """With the words of --tool_agent, and none where neither the run nor the flag names a VLM.

    With ocr nobody looks: the toolbox itself reads.
    """
    looks = []
    flags = ["--run", str(run)]
    if who == "--model":
        flags = ["--model", str(tiny), "--horizon", "2"]

    def score_tools(name, root, split, *, planner, vlm, horizon, history):
        assert (horizon, history) == (2, 4)
        looks.append(vlm and vlm("a picture", "<|image_pad|> What is there?"))
        return {"skipped": 0, "why": [], "bad_predictions": 0, "why_bad": []}, []

    def ask(vlm, questions):
        [(picture, question)] = questions
        return [(f"{picture()}: {question}", None)]

    monkeypatch.setattr("eval.score_tools", score_tools)
    monkeypatch.setattr("eval.ask", ask)
    bench(parse_arguments(["--bench", "gta", "--data", "x", *flags, "--tool_agent", named]))
    expected = "a picture: < |image_pad|> What is there?" if named == "base" else None
    assert looks == [expected]


# ---- bad input ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ([], "give one of --run DIR, --model NAME, --predictions FILE and --planner NAME"),
        (["--run", "RUN", "--bench", "nonsense"], "--bench nonsense: choose one of toy-gui"),
        (["--run", "RUN", "--bench", "toy-gui:memory=2"], "the share must lie in 0..1"),
        (["--run", "RUN", "--bench", "toy-gui:memory=0.5"], "needs --run of that world"),
        (["--run", "RUN", "--predictions", "x"], "give one of --run DIR, --model NAME"),
        (["--run", "RUN", "--model", "x"], "give one of --run DIR, --model NAME"),
        (["--model", "x", "--predictions", "x"], "give one of --run DIR, --model NAME"),
        (["--run", "RUN", "--horizon", "2"], "--horizon goes with --model only"),
        (["--predictions", "x", "--horizon", "2"], "--horizon goes with --model only"),
        (["--model", "x", "--split", "composition"], ", ".join(SPLITS)),
        (["--model", "nowhere", "--limit", "1"], "cannot load a vision-language model"),
        (["--model", "nowhere", "--bench", "androidcontrol"], "androidcontrol needs --data"),
        (["--run", "nowhere"], "--run nowhere: there is no such folder"),
        (["--run", "RUN", "--limit", "0"], "--limit 0"),
        (["--run", "RUN", "--json", "nowhere/a.json"], "--json nowhere/a.json: there is no folder"),
        (["--run", "RUN", "--data", "x"], "--data goes with --bench androidworld or osworld or"),
        (["--run", "RUN", "--per_step", "x"], "--per_step goes with --bench recorded screens"),
        (["--run", "x", "--bench", "gta", "--protocol", "x"], "--protocol goes with --bench rec"),
        (["--run", "x", "--bench", "gta", "--per_step", "x"], "--per_step goes with --bench rec"),
        (["--run", "x", "--bench", "mind2web", "--per_item", "x"], "--per_item goes with --bench"),
        (["--predictions", "x", "--bench", "gta", "--tool_agent", "ocr"], "--tool_agent goes with"),
        (["--model", "x", "--bench", "toy-tools", "--tool_agent", "ocr"], "has tools of its own"),
        (["--run", "x", "--bench", "gta", "--limit", "5"], "--limit goes with --bench a world"),
        (["--run", "x", "--bench", "miniwob", "--split", "dev"], "--split goes with --bench rec"),
        (["--run", "RUN", "--split", "composition"], ", ".join(SPLITS)),
        (["--run", "RUN", "--bench", "toy-tools"], "toy-tools needs --run of that world"),
        (["--predictions", "x"], "--predictions needs --bench"),
        (["--predictions", "x", "--bench", "toy-tools"], "toy-tools needs --run"),
        (["--predictions", "x", "--bench", "androidcontrol"], "androidcontrol needs --data"),
        (["--predictions", "x", "--bench", "gta", "--data", "nowhere"], "nowhere"),
    ],
)
def test_bad_input_ends_with_one_line(flags, message, run, dies):
    flags = [str(run) if flag == "RUN" else flag for flag in flags]
    assert message in dies(main, flags)


def test_only_what_has_an_official_rule_is_an_exam(dies):
    for name in ("agentnet", "mmtraj"):
        assert "of the benchmarks" in dies(main, ["--bench", name, "--run", "x"])
    assert "needs --data ROOT" in dies(main, ["--bench", "mind2web", "--run", "x"])
