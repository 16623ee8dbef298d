"""extras/toy_tools.py: the toy tool world, and that it is trained in like the toy GUI."""

import dataclasses
import hashlib
import json
import random
import time
from collections import Counter

import numpy as np
import pytest

import agent
import train
from agent import Group, Rollout, build_prompt, format_forecast, parse_forecast
from envs import ALIAS_RIGHT, CELL, Action, Example, demonstration, own_tool_agent
from eval import evaluate, oracle_planner, random_planner
from eval import main as eval_main
from extras import toy_tools
from extras.loading import load_policy
from extras.run_folder import read_run
from extras.tiny_vlm import make_tiny
from extras.toy_tools import (
    HELD_OUT,
    ITEMS,
    SHAPES,
    TERMS,
    TOOL_ALIASES,
    TOOL_WORDS,
    TOOLS,
    Served,
    ToyTools,
)
from extras.worlds import WORLDS
from rewards import grounded_reward
from train import Config, score


def play_episode(env: ToyTools, seed: int, choose) -> list[dict]:
    """The infos of an episode in which choose(env) is done; checks each reward."""
    env.reset(seed)
    infos = []
    over = False
    while not over:
        action = choose(env)
        _, reward, terminated, truncated, info = env.step(env.ground(action), said=str(action))
        assert reward == float(info["success"])
        infos.append(info)
        over = terminated or truncated
    return infos


def best(env: ToyTools) -> Action:
    return env.oracle(1, exact=True)[0]


def call(env: ToyTools, text: str) -> str:
    """What came of a call."""
    _, _, _, _, info = env.step(Action("call", text))
    return info["result"]


def random_call(rng: random.Random) -> Action:
    tool = rng.choice(list(TOOLS))
    arguments = [rng.choice(TOOL_WORDS) for _ in range(TOOLS[tool])]
    return Action("call", " ".join([tool, *arguments]))


def first_seed(env: ToyTools, wanted) -> int:
    """The first seed after whose reset wanted(env) is true."""
    for seed in range(99):
        env.reset(seed)
        if wanted(env):
            return seed
    raise ValueError("none of 99 seeds")


# ---- questions ----------------------------------------------------------------------------------

# sha256 of the texts of seeds 0..19: a change of the questions or of the oracle shows here.
FROZEN = {
    "train": "8fbc7126bfc3d73ff99f2f2ebf5833601fc2f3f2590e81e0eff1ee91a1a9a089",
    "dev": "69fa779b2821eb3d7adc89aaace627a9faf1791de000bd8abc869356a2522085",
    "test": "0520e1ab72134a1830495ff1da0d90bfab66579ecfbb3f8a3650bbf4dbc8908d",
    "composition": "788402d408bb6719ab249587e1a743f6257ff8902a21880cd7ca88a0a65b930e",
    "tool": "5c0e4eb284598c22b849bd7f42ed8ae1f3c0a03d9f4a9111a0de730f1217f420",
    "flaky": "0c3aeb62943ce6675a5b6d6664b1604cc9dc9d5b36eaf0d62e1c70f2a653c770",
}


@pytest.mark.parametrize("split", ToyTools.splits)
def test_the_questions_stay_as_they_are(split):
    env = ToyTools(split)
    lines = []
    for seed in range(20):
        observation, _ = env.reset(seed)
        plan = [str(action) for action in env.oracle(9)]
        lines.append(json.dumps([observation.instruction, env.answer, plan]))
    assert hashlib.sha256("\n".join(lines).encode()).hexdigest() == FROZEN[split]


@pytest.mark.parametrize("split", ToyTools.splits)
def test_oracle_solves_every_split_in_two_to_six_calls(split):
    env = ToyTools(split)
    lengths = set()
    solved = 0
    for seed in range(200):
        infos = play_episode(env, seed, best)
        lengths.add(env.oracle_steps - 1)
        solved += infos[-1]["success"]
    assert lengths <= set(range(2, 7))
    assert max(lengths) >= 5
    if split == "flaky":
        assert solved >= 190
    else:
        assert solved == 200


def asked(split: str) -> tuple[set[tuple[str, str]], set[str]]:
    """What 400 questions of a split ask for: (tool, kind of a number) pairs, and tools."""
    env = ToyTools(split)
    pairs = set()
    tools = set()
    for seed in range(400):
        observation, _ = env.reset(seed)
        for action in env.oracle(10, exact=True)[:-1]:
            tools.add(action.text.split()[0])
        tool = None
        for word in observation.instruction.split():
            if word in TERMS:  # "count" is a tool, too, but in a question it names a number
                if tool is not None:
                    pairs.add((tool, word))
            elif word in TOOLS:
                tool = word
    return pairs, tools


def test_splits_hold_out_what_they_say():
    trained_pairs, trained_tools = asked("train")
    assert not trained_pairs & HELD_OUT
    assert "mean" not in trained_tools
    assert len(trained_pairs) == 9
    composition_pairs, _ = asked("composition")
    assert composition_pairs >= HELD_OUT
    _, tools = asked("tool")
    assert "mean" in tools


# ---- pictures -----------------------------------------------------------------------------------


def test_pixels_are_the_seeds_and_observations_keep_their_own():
    env = ToyTools("test", 2)
    first, _ = env.reset(5)
    same, _ = ToyTools("test", 2).reset(5)
    pixels = first.screenshot().tobytes()
    assert first.screenshot().size == (256, 224)
    assert first.instruction == same.instruction
    assert same.screenshot().tobytes() == pixels
    other, _ = env.reset(6)
    assert other.screenshot().tobytes() != pixels
    assert first.screenshot().tobytes() == pixels
    of_another_split, _ = ToyTools("dev", 2).reset(5)
    assert of_another_split.screenshot().tobytes() != pixels


def test_every_word_is_in_a_cell_of_its_own_and_in_the_vocabulary():
    env = ToyTools()
    for seed in range(200):
        observation, _ = env.reset(seed)
        cells = env.cells()
        assert len(cells) == len(env.visible())
        for ((column, row), word), (label, box) in zip(cells.items(), env.visible(), strict=True):
            left, _, right, bottom = box
            last_column = int((right * 128 - 1) // CELL)
            below = [(c, row) for c in range(column + 1, last_column + 1) if (c, row) in cells]
            assert label == word
            assert 0 <= column < 8 and 0 <= row < 7
            assert 1 <= left * 128 - column * CELL <= 2
            assert (right - left) * 128 <= 47
            assert bottom <= 1
            assert not below or word in SHAPES, "words overlap"
        plan = " ".join(action.text for action in env.oracle(10))
        words = {*plan.split(), *observation.instruction.split(), *cells.values()}
        assert words <= set(TOOL_WORDS)
    assert len(set(TOOL_WORDS)) == len(TOOL_WORDS) <= 170


def test_the_tools_and_the_picture_agree():
    """The value of a label is the next word of its row; shapes are as many as are counted."""
    env = ToyTools()
    for seed in range(200):
        env.reset(seed)
        cells = env.cells()
        for label, value in env.picture.beside.items():
            places = [cell for cell, word in cells.items() if word == label]
            assert len(places) == 1
            column, row = places[0]
            to_the_right = [cells[c, row] for c in range(column + 1, 8) if (c, row) in cells]
            assert to_the_right[0] == value
        for shape in SHAPES:
            assert list(cells.values()).count(shape) == env.picture.counts.get(shape, 0)


# ---- calls --------------------------------------------------------------------------------------


def test_tools_fail_at_the_stated_rates():
    for split, low, high in (("flaky", 0.1, 0.2), ("test", 0.005, 0.04)):
        env = ToyTools(split)
        results = Counter()
        for seed in range(300):
            results.update(info["result"] for info in play_episode(env, seed, best))
        assert low < results["failed"] / results.total() < high
        assert results.keys() == {"ok", "failed"}


def test_aliases_reach_their_tool_at_the_stated_rate_and_always_or_never():
    env = ToyTools("train")
    reached = []
    for seed in range(150):
        for alias, tool in TOOL_ALIASES.items():
            if TOOLS[tool] == 2:
                env.reset(seed)
                reached.append("ok" in [call(env, f"{alias} 9 3") for _ in range(2)])
    assert abs(np.mean(reached) - ALIAS_RIGHT) < 0.06


def test_the_reference_uses_an_alias_in_seven_of_ten_cases_until_it_was_refused():
    env = ToyTools("train")
    aliased = []
    for seed in range(200):
        env.reset(seed)
        spoken = env.oracle(1)[0].text
        name = spoken.split()[0]
        assert best(env).text.split()[0] == TOOL_ALIASES.get(name, name)
        aliased.append(name in TOOL_ALIASES)
        if name in TOOL_ALIASES and call(env, spoken) == "failed":
            assert env.oracle(1) == env.oracle(1, exact=True)
    assert abs(np.mean(aliased) - 0.7) < 0.1


def test_the_oracle_works_from_any_state_and_a_random_policy_from_none():
    rng = random.Random(0)

    def stumble_once(env: ToyTools) -> Action:
        if env.steps < 1 and rng.random() < 0.6:
            return random_call(rng)
        return best(env)

    env = ToyTools("dev")
    for seed in range(100):
        assert play_episode(env, seed, stumble_once)[-1]["success"]
    metrics, _ = evaluate(random_planner(), ToyTools, "test", 300, 3, 4)
    assert metrics["success"] < 0.02
    metrics, _ = evaluate(oracle_planner(3), ToyTools, "test", 100, 3, 4)
    assert metrics["success"] == 1.0


def test_results_of_calls():
    env = ToyTools("test")
    seed = first_seed(env, lambda env: env.oracle_steps == 7)  # none of its tools fails by chance
    observation, info = env.reset(seed)
    assert observation.history == ()
    assert info == {"oracle_steps": 7}
    expected = {
        "fly 1": "impossible",
        "add 3 4": "ok",
        "add 60 60": "impossible",
        "add 3": "impossible",
        "sub 3 4": "impossible",
        "read car": "impossible",
        "compare 3 4": "ok",
    }
    for text, result in expected.items():
        observation, _, terminated, truncated, info = env.step(Action("call", text))
        line = observation.history[-1]
        assert (info["result"], terminated, truncated) == (result, False, False), text
        assert line.startswith(f"call {text}")
        assert line.endswith("= error") == (result != "ok")
    assert observation.history[-4:] == (
        "call add 3 = error",
        "call sub 3 4 = error",
        "call read car = error",
        "call compare 3 4 = less",
    )
    _, _, _, _, info = env.step(Action("click", "apple"))
    assert info["result"] == "impossible"
    observation, _, _, truncated, info = env.step(None, said="unreadable")
    assert truncated
    assert info["result"] == "failed"
    assert observation.history[-1] == "unreadable failed"


def test_which_is_more_depends_on_the_order():
    """A sum does not; a comparison the other way round is true, but brings another answer."""
    env = ToyTools("test")
    seed = first_seed(env, lambda env: "compare" in [call.tool for call in env.missing()])
    env.reset(seed)
    while env.missing()[0].tool != "compare":
        env.step(Action("call", env.missing()[0].text))
    compare = env.missing()[0]
    one, other = compare.arguments
    turned = env.executed(Action("call", f"compare {other} {one}"))
    assert turned.text.startswith(f"compare {other} {one} = ")
    assert turned.text.rpartition(" = ")[2] != compare.answer
    env.step(Action("call", f"compare {other} {one}"))
    assert compare in env.missing()
    env.step(Action("call", compare.text))
    assert compare not in env.missing()


def test_arguments_outside_their_range_are_refused():
    env = ToyTools("test")
    for wrong in ({"split": "x"}, {"scale": 0}, {"history": -1}):
        with pytest.raises(ValueError):
            ToyTools(**wrong)
    with pytest.raises(ValueError):
        env.reset(-1)


# ---- what is paid -------------------------------------------------------------------------------


def test_a_call_that_is_not_needed_pays_nothing_and_each_way_to_the_answer_pays():
    """The goals of a state are the answers still missing; what a tool says to anything else is
    none of them."""
    env = ToyTools("test")
    rng = random.Random(0)
    for seed in range(100):
        env.reset(seed)
        for _ in range(3):
            example = env.example(8)
            assert example.tools.__self__ is not env  # a copy: the example keeps its moment
            actions = [
                *env.oracle(8, exact=True),
                *env.oracle(1),
                random_call(rng),
                Action("answer", "1000"),
                Action("back"),
                Action("call", "sum 1 2 3"),
                Action("call", "x" * 500),
            ]
            executed = own_tool_agent(actions, [example] * len(actions))
            for action, done in zip(actions, executed, strict=True):
                paid = max(grounded_reward(done, goal) for goal in example.goals)
                moment = env.example(8).tools.__self__
                _, reward, _, _, info = moment.step(action)
                helped = len(moment.missing()) < len(env.missing())
                assert paid == float(reward or helped), (action, info)
            env.step(best(env))
        assert env.steps == 3
        assert example.goals[-1] == Action("answer", env.answer)


def group_of(example: Example, texts: list[str]) -> Group:
    """The group of a policy that wrote these texts."""
    rollouts = []
    for text in texts:
        forecast, parse_error = parse_forecast(text, 3)
        rollout = Rollout(
            prompt_ids=[],
            completion_ids=[],
            old_logprobs=[],
            text=text,
            finish_reason="stop",
            forecast=forecast,
            parse_error=parse_error,
            step_index=[],
        )
        rollouts.append(rollout)
    return Group(example, None, rollouts)


def rewards_of(group: Group) -> list[float]:
    return [rollout.reward for rollout in group.rollouts]


def divide_by_zero(*_):
    return 1 / 0


def hang(*_):
    time.sleep(1)


def test_stage_2_pays_answers_and_counts_tools_that_raise_or_hang(monkeypatch):
    env = ToyTools("test")
    env.reset(first_seed(env, lambda env: best(env).text.startswith("read")))
    example = env.example(3)
    config = dataclasses.replace(Config(), horizon=3)
    first = best(env).text
    texts = [
        f"call {first}",
        f"call {first}\nfly",
        "call read car",
        "call",
        "",
        f"answer {env.answer}",
    ]
    group = group_of(example, texts)
    assert score([group], "stage1", config, own_tool_agent) == 0
    assert score([group], "stage2", config, own_tool_agent) == 0
    assert rewards_of(group) == [1, 1, 0, 0, 0, 1]
    for broken in (divide_by_zero, hang):
        monkeypatch.setattr(toy_tools, "toy_tool", broken)
        monkeypatch.setattr(toy_tools, "TOOL_SECONDS", 0.02)
        # The first three ask a tool; "call" without a tool is no line.
        assert score([group], "stage2", config, own_tool_agent) == 3
        assert rewards_of(group) == [0, 0, 0, 0, 0, 1]
        moment = example.tools.__self__
        observation, _, _, _, info = moment.step(Action("call", first))
        assert info["result"] == "broken"
        assert observation.history[-1] == f"call {first} = broken"


# ---- one method for both worlds -----------------------------------------------------------------


def public_names(world: type) -> set[str]:
    return {name for name in dir(world) if not name.startswith("_")}


def test_both_worlds_have_the_same_methods():
    shared = {"splits", "grid", "words", "reset", "step", "ground", "oracle", "visible", "cells"}
    shared |= {"observe", "example", "key", "moves", "wander", "stray"}
    for world in WORLDS.values():
        assert shared <= public_names(world)
        env = world("train", history=2)
        env.reset(0)
        assert {"oracle_steps", "max_steps", "split", "history"} <= set(vars(env))
        columns, rows = env.grid
        assert env.observe().screenshot().size == (16 * columns, 16 * rows)
        record = demonstration(world, "train", 3, 4, 0.5, 2)
        again = demonstration.__wrapped__(world, "train", 3, 4, 0.5, 2)
        assert len(record) > 1
        assert all(len(example.observation.history) <= 2 for example in record)
        assert [e.reference for e in record] == [e.reference for e in again]


def test_calls_need_no_grounding_and_there_is_nowhere_to_wander():
    env = ToyTools()
    env.reset(0)
    for action in [*env.oracle(9), *env.moves(random.Random(0))]:
        assert env.ground(action) is action
    before = env.observe()
    env.wander(random.Random(0))
    assert env.observe() == before
    stray = ToyTools.stray(random.Random(0))
    assert stray.kind == "call"
    assert stray.text in [f"read {item}" for item in ITEMS]


# ---- with a model -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def speaker(tmp_path_factory):
    """Folder of an untrained tiny checkpoint that knows this world's words."""
    folder = tmp_path_factory.mktemp("speaker")
    make_tiny(folder, ToyTools.words, 0)
    return folder


def prompt_text(example: Example) -> str:
    content = build_prompt(example.observation, 6)[1]["content"]
    return "\n".join(part.get("text", "") for part in content)


def test_every_prompt_and_answer_of_the_tool_world_tokenizes(speaker):
    policy = load_policy(speaker)
    tokenizer = policy.tokenizer
    env = ToyTools("tool", history=9)
    for seed in range(40):
        env.reset(seed)
        for example in [*demonstration(ToyTools, "train", seed, 6, 0.5, 9), env.example(6)]:
            answer = format_forecast(example.reference)
            written = tokenizer(answer)["input_ids"]
            room = policy.max_new_tokens(len(example.reference))
            whole = tokenizer(prompt_text(example) + answer)["input_ids"]
            assert tokenizer.unk_token_id not in whole
            assert parse_forecast(tokenizer.decode(written), 6) == (list(example.reference), None)
            assert len(tokenizer(answer + "<|im_end|>")["input_ids"]) <= room


def test_training_goes_on_with_broken_tools(speaker, tmp_path, monkeypatch):
    """A policy that can only call, and tools that never answer: the run ends and counts them."""
    speakable = ("call", "read", "apple", "<|im_end|>")

    def all_but_speakable(policy) -> list[int]:
        vocabulary = policy.tokenizer.get_vocab()
        allowed = {vocabulary[word] for word in speakable}
        return sorted(set(range(len(policy.tokenizer))) - allowed)

    def never_answers(self, text: str) -> Served:
        return Served("broken", "broken", ())

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(ToyTools, "serve", never_answers)
    monkeypatch.setattr(agent, "forbidden_tokens", all_but_speakable)
    flags = {
        "env": "toy-tools",
        "model": speaker,
        "horizon": 2,
        "group_size": 4,
        "prompts_per_update": 2,
        "stage1_updates": 1,
        "stage2_updates": 2,
        "train_tasks": 20,
        "eval_tasks": 3,
        "threads": 1,
        "output_dir": "run",
    }
    train.main([f"--{name}={value}" for name, value in flags.items()])
    metrics = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    lines = [json.loads(line) for line in metrics]
    assert len(lines) == 3
    assert "tool_errors" not in lines[0]
    assert lines[1]["tool_errors"] > 0
    assert lines[2]["reward"] == 0.0
    assert read_run("run")["env"] == "toy-tools"

    eval_main(["--run", "run", "--split", "composition", "--limit", "2", "--json", "found.json"])
    found = json.loads((tmp_path / "found.json").read_text())
    assert found["protocol"] == "toy-tools"
