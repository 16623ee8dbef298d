"""Tool use: the toy tool world, the calculator, the toolbox, and the official rules of GAIA and GTA."""

import dataclasses
import json
import random
import re
import time
from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

import agent
import envs
import eval as exam
import train
from agent import Group, load_policy, make_tiny, parse_forecast
from envs import (
    ALIAS_RIGHT,
    CELL,
    GTA_TOOLS,
    HELD_OUT,
    SHAPES,
    TOOL_ALIASES,
    TOOL_WORDS,
    TOOLS,
    TOYS,
    Action,
    BadRecord,
    Report,
    ToolTask,
    ToyTools,
    calculate,
    code_calls,
    demonstration,
    execute,
    execute_forecasts,
    load_recorded,
    run_tool,
)
from eval import evaluate_toy, gta_objective, oracle_planner, question_scorer, random_planner, score_tools
from rewards import grounded_reward
from train import Config, score

SPLITS = ToyTools.splits


def played(env: ToyTools, seed: int, policy) -> list[dict]:
    env.reset(seed)
    over, infos = False, []
    while not over:
        _, reward, terminated, truncated, info = execute(env, policy(env))
        over, infos = terminated or truncated, [*infos, info]
        assert reward == float(info["success"])
    return infos


def best(env: ToyTools) -> Action:
    return env.oracle(1, exact=True)[0]


def call(env: ToyTools, text: str) -> str:
    return env.step(Action("call", text))[4]["result"]


# ---- the toy tool world --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("split", SPLITS)
def test_oracle_solves_every_split_in_two_to_six_calls(split):
    env, lengths, solved = ToyTools(split), set(), 0
    for seed in range(200):
        infos = played(env, seed, best)
        lengths.add(env.oracle_steps - 1)
        solved += infos[-1]["success"]
    assert lengths <= set(range(2, 7)) and max(lengths) >= 5
    assert solved >= 190 if split == "flaky" else solved == 200


def test_tools_fail_at_the_stated_rates():
    for split, low, high in (("flaky", 0.1, 0.2), ("test", 0.005, 0.04)):
        env = ToyTools(split)
        results = Counter(info["result"] for seed in range(300) for info in played(env, seed, best))
        assert low < results["failed"] / results.total() < high and results.keys() == {"ok", "failed"}


def test_aliases_reach_their_tool_at_the_stated_rate_and_always_or_never():
    env, reached = ToyTools("train"), []
    for seed in range(150):
        for alias, tool in TOOL_ALIASES.items():
            if TOOLS[tool] == 2:
                env.reset(seed)
                reached.append("ok" in [call(env, f"{alias} 9 3") for _ in range(2)])
    assert abs(np.mean(reached) - ALIAS_RIGHT) < 0.06


def test_the_reference_uses_an_alias_in_seven_of_ten_cases_until_it_was_refused():
    env, loose = ToyTools("train"), []
    for seed in range(200):
        env.reset(seed)
        first = env.oracle(1)[0].text
        assert env.oracle(1, exact=True)[0].text.split()[0] == TOOL_ALIASES.get(first.split()[0], first.split()[0])
        loose.append(first.split()[0] in TOOL_ALIASES)
        if loose[-1] and call(env, first) == "failed":
            assert env.oracle(1) == env.oracle(1, exact=True)
    assert abs(np.mean(loose) - 0.7) < 0.1


def random_call(rng: random.Random) -> Action:
    tool = rng.choice(list(TOOLS))
    return Action("call", " ".join([tool, *(rng.choice(TOOL_WORDS) for _ in range(TOOLS[tool]))]))


def test_the_oracle_works_from_any_state_and_a_random_policy_from_none():
    rng, env = random.Random(0), ToyTools("dev")
    for seed in range(100):
        assert played(env, seed, lambda env: random_call(rng) if env.steps < 1 and rng.random() < 0.6 else best(env))[-1]["success"]
    assert evaluate_toy(random_planner(), "test", 300, 3, 4, world="toy-tools")[0]["success"] < 0.02
    assert evaluate_toy(oracle_planner(3), "test", 100, 3, 4, world="toy-tools")[0]["success"] == 1.0


def test_a_call_that_is_not_needed_pays_nothing_and_each_way_to_the_answer_pays():
    """The goals of a state are the answers still missing; what a tool says to anything else is none of them."""
    env, rng = ToyTools("test"), random.Random(0)
    for seed in range(100):
        env.reset(seed)
        for _ in range(3):
            example = env.example(8)
            assert example.tools.__self__ is not env  # a copy: the example keeps its moment
            asked = [*env.oracle(8, exact=True), *env.oracle(1), random_call(rng), Action("answer", "1000"), Action("back"),
                     Action("call", "sum 1 2 3"), Action("call", "x" * 500)]
            for action, done in zip(asked, execute_forecasts([(a, example) for a in asked]), strict=True):
                paid = max(grounded_reward(done, goal) for goal in example.goals)
                before, copied = env.missing(env.root), env.example(8).tools.__self__
                _, reward, _, _, info = copied.step(action)
                assert paid == float(reward or len(copied.missing(copied.root)) < len(before)), (action, info)
            env.step(best(env))
        assert (env.steps == 3) and example.goals[-1] == Action("answer", env.answer)


def test_results_of_calls():
    env = ToyTools("test")
    seed = next(s for s in range(99) if env.reset(s) and env.oracle_steps == 7)   # (none of its tools fails by chance)
    observation, info = env.reset(seed)
    assert observation.history == () and info == {"oracle_steps": 7}
    expected = {"fly 1": "impossible", "add 3 4": "ok", "add 60 60": "impossible", "add 3": "impossible",
                "sub 3 4": "impossible", "read car": "impossible", "compare 3 4": "ok"}
    for text, result in expected.items():
        observation, _, terminated, truncated, info = env.step(Action("call", text))
        assert (info["result"], terminated, truncated) == (result, False, False), text
        assert observation.history[-1].startswith(f"call {text}".strip()) and observation.history[-1].endswith("= error") == (result != "ok")
    assert observation.history[-4:] == ("call add 3 = error", "call sub 3 4 = error", "call read car = error", "call compare 3 4 = less")
    assert env.step(Action("click", "apple"))[4]["result"] == "impossible"
    observation, _, _, truncated, info = execute(env, None)
    assert truncated and info["result"] == "failed" and observation.history[-1] == "unreadable failed"
    for bad in (lambda: ToyTools("x"), lambda: ToyTools(scale=0), lambda: env.reset(-1), lambda: ToyTools(history=-1)):
        with pytest.raises(ValueError):
            bad()


def test_pixels_are_the_seeds_and_observations_keep_their_own():
    a, b = ToyTools("test", 2), ToyTools("test", 2)
    (first, _), (same, _) = a.reset(5), b.reset(5)
    shot = first.screenshot()
    assert first.instruction == same.instruction and shot.tobytes() == same.screenshot().tobytes() and shot.size == (256, 224)
    other = a.reset(6)[0].screenshot()
    assert first.screenshot().tobytes() == shot.tobytes() != other.tobytes()
    assert ToyTools("dev", 2).reset(5)[0].screenshot().tobytes() != shot.tobytes()


def test_every_word_is_in_a_cell_of_its_own_and_in_the_vocabulary():
    env = ToyTools()
    for seed in range(200):
        env.reset(seed)
        cells = env.cells()
        assert len(cells) == len(env.visible()) and all(0 <= c < 8 and 0 <= r < 7 for c, r in cells)
        for word, (x1, _, x2, y2) in env.visible():
            column, row = next(at for at, w in cells.items() if w == word and at[0] == int(x1 * 8) and env.cells()[at] == word)
            assert 1 <= x1 * 128 - column * CELL <= 2 and (x2 - x1) * 128 <= 47 and y2 <= 1
            assert not any((c, row) in cells for c in range(column + 1, int((x2 * 128 - 1) // CELL) + 1)) or word in SHAPES, "words overlap"
        for label, value in env.beside.items():  # the tools and the picture agree: the value of a label is the next word of its row
            (column, row), = (at for at, word in cells.items() if word == label)
            assert next(cells[c, row] for c in range(column + 1, 8) if (c, row) in cells) == value
        assert all(sum(word == shape for word in cells.values()) == env.counts.get(shape, 0) for shape in SHAPES)
        words = {w for action in env.oracle(10) for w in action.text.split()} | set(env.instruction.split()) | set(cells.values())
        assert words <= set(TOOL_WORDS)
    assert len(set(TOOL_WORDS)) == len(TOOL_WORDS) <= 170


def test_splits_hold_out_what_they_say():
    def pairs(split):
        env, seen, tools = ToyTools(split), set(), set()
        for seed in range(400):
            env.reset(seed)
            tools |= {a.text.split()[0] for a in env.oracle(10, exact=True)[:-1]}
            last = None
            for word in env.instruction.replace("then ", "").split():
                last = word if word in TOOLS and word != "count" else last
                seen |= {(last, word)} if word in ("price", "stock", "fare", "count") and last else set()
        return seen, tools
    trained, tools = pairs("train")
    assert not trained & HELD_OUT and "mean" not in tools and len(trained) == 9
    assert pairs("composition")[0] >= HELD_OUT and "mean" in pairs("tool")[1]


# ---- one method for both worlds --------------------------------------------------------------------------------------------------


def test_both_worlds_have_the_same_methods():
    names = [{name for name in dir(world) if not name.startswith("_")} for world in TOYS.values()]
    assert {"reset", "step", "oracle", "visible", "cells", "observe", "example", "key", "moves", "splits", "grid"} <= names[0] & names[1]
    for name, world in TOYS.items():
        env = world("train", history=2)
        env.reset(0)
        assert {"oracle_steps", "max_steps", "split", "keep"} <= set(vars(env)) and env.observe().screenshot().size == tuple(16 * n for n in env.grid)
        record = demonstration("train", 3, 4, 0.5, 2, world=name)
        assert len(record) > 1 and all(len(e.observation.history) <= 2 for e in record)
        assert [e.reference for e in record] == [e.reference for e in demonstration.__wrapped__("train", 3, 4, 0.5, 2, world=name)]


@pytest.fixture(scope="module")
def speaker(tmp_path_factory):
    """Folder of an untrained tiny checkpoint that knows this world's words."""
    make_tiny(folder := tmp_path_factory.mktemp("speaker"), TOOL_WORDS, 0)
    return folder


def test_every_prompt_and_answer_of_the_tool_world_tokenizes(speaker):
    policy = load_policy(speaker)
    unknown, env = policy.tokenizer.unk_token_id, ToyTools("tool", history=9)
    for seed in range(40):
        for example in [*demonstration("train", seed, 6, 0.5, 9, world="toy-tools"), env.reset(seed) and env.example(6)]:
            text = "\n".join(part.get("text", "") for part in agent.build_prompt(example.observation, 6)[1]["content"])
            answer = agent.format_forecast(example.reference)
            assert unknown not in policy.tokenizer(text + answer)["input_ids"]
            assert parse_forecast(policy.tokenizer.decode(policy.tokenizer(answer)["input_ids"]), 6) == (list(example.reference), None)
            assert len(policy.tokenizer(answer + "<|im_end|>")["input_ids"]) <= policy.max_new_tokens(len(example.reference))


def groups_of(example, *texts):
    parsed = [parse_forecast(text, 3) for text in texts]
    return [Group(example, None, [agent.Rollout([], [], [], t, "stop", f, e, []) for t, (f, e) in zip(texts, parsed, strict=True)])]


def test_stage_2_pays_answers_and_counts_tools_that_raise_or_hang(monkeypatch):
    env = ToyTools("test")
    env.reset(next(s for s in range(99) if env.reset(s) and env.oracle(1, exact=True)[0].text.startswith("read")))
    example, config = env.example(3), dataclasses.replace(Config(), horizon=3)
    first = best(env).text
    texts = [f"call {first}", f"call {first}\nfly", "call read car", "call", "", f"answer {env.answer}"]
    groups = groups_of(example, *texts)
    assert score(groups, "stage2", config) == 0 and score(groups, "stage1", config) == 0
    score(groups, "stage2", config)
    assert [r.reward for r in groups[0].rollouts] == [1, 1, 0, 0, 0, 1]
    for broken in (lambda *_: 1 / 0, lambda *_: time.sleep(1)):
        monkeypatch.setattr(envs, "toy_tool", broken)
        monkeypatch.setattr(envs, "TOOL_SECONDS", 0.02)
        assert score(groups, "stage2", config) == 3  # what stands after `call` in the fourth is no line
        assert [r.reward for r in groups[0].rollouts] == [0, 0, 0, 0, 0, 1]
        observation, *_, info = dataclasses.replace(example).tools.__self__.step(Action("call", first))
        assert info["result"] == "broken" and observation.history[-1] == f"call {first} = broken"


def test_training_goes_on_with_broken_tools(speaker, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    small = {"horizon": 2, "group_size": 4, "prompts_per_update": 2, "stage1_updates": 1, "stage2_updates": 2, "model": speaker,
             "train_tasks": 20, "eval_tasks": 3, "threads": 1, "env": "toy-tools", "output_dir": "run"}
    monkeypatch.setattr(envs.ToyTools, "serve", lambda self, text: ("broken", "broken", ()))
    monkeypatch.setattr(agent.Policy, "__post_init__", lambda self: setattr(self, "suppressed", torch.tensor(sorted(
        set(range(len(self.tokenizer))) - {self.tokenizer.get_vocab()[w] for w in ("call", "read", "apple", "<|im_end|>")}))))
    train.main([f"--{name}={value}" for name, value in small.items()])
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert len(lines) == 3 and "tool_errors" not in lines[0] and lines[2]["reward"] == 0.0 and lines[1]["tool_errors"] > 0
    assert agent.read_run("run")["env"] == "toy-tools"
    exam.main(["--run", "run", "--split", "composition", "--limit", "2", "--json", "found.json"])
    assert json.loads((tmp_path / "found.json").read_text())["protocol"] == "toy-tools"


# ---- the calculator ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("text", "value"), [
    ("3.50+4.25", "7.75"), ("2**10", "1024"), ("-7 // 2", "-4"), ("7 % 4", "3"), ("round(2/3, 2)", "0.67"), ("sqrt(16)*pi", "12.5663706144"),
    ("0.1+0.2", "0.3"), ("max(1, 2.5)", "2.5"), ("1_000*2", "2000"), (" (1 + 2) ", "3"), ("75/(1.72**2)", "25.3515413737"),
    ("+".join("1" * 100), "100"), ("2**0.5", "1.41421356237"), ("e", "2.71828182846"), ("pow(2, 10)", "1024")])
def test_calculate(text, value):
    assert calculate(text) == value


def hostile() -> list:
    rng = random.Random(0)
    fixed = ["__import__('os').system('ls')", "open('/etc/passwd').read()", "().__class__.__bases__[0].__subclasses__()", "9**9**9",
             "9**9**9**9", "2**-9**9", "(" * 10_000 + ")" * 10_000, "(" * 140 + "1" + ")" * 140, "-" * 299 + "1", "~" * 200 + "1",
             "1" * 1_000_000, "'a'*10**9", "1<<10**9", "[0]*10**9", "lambda: 1", "x:=5", "1 if 1 else 2", "1if 2else 3", "float('nan')",
             "nan", "inf", "1e999", "1e999-1e999", "0/0", "1%0", "0.0**-1", "(-1)**0.5", "1j", "True", "None", "...", "f'{1}'",
             "１+１", "1\u00d72", "\u202e1+1", "𝟏+𝟏", "ｓｑｒｔ(4)", "1\x00", "1\n+1", "exp(1000)", "10**300*10**300", "99999999**99999999",
             "pow(9,9**9)", "pow(2,3,5)", "pow(10**300,10**300)", "round(1,10**10)", "round(1e300,-10**9)", "round(1.5,-301)", "max()",
             "sqrt(-1)", "log(0)", "abs(-1,2)", "sqrt(x=4)", "max(*(1,2))", "sqrt", "sqrt.real", "e.real", "1.real", "0x1f", "0777", "",
             " ", "#", "1;2", "import os", "a=1", "\ud800", "1,2", "await x", "yield", "eval(1)", "exec(1)", "factorial(9999)",
             "*".join(["9" * 9] * 29)]
    odd = [None, 5, 1.5, True, b"1+1", [1], {"a": 1}, float("nan"), object(), "9" * 300, "*".join(["9"] * 150), "**".join(["9"] * 90)]
    pieces = ["9", "**", "(", ")", "1e300", "*", "-", "sqrt(", "e", ",", " ", "//", "%", "pow(", "round(", "0", "_", ".", "pi", "exp(", "__class__"]
    return fixed + odd + ["".join(rng.choices(pieces, k=rng.randint(1, 60))) for _ in range(1000)]


def test_hostile_expressions(monkeypatch):
    def forbidden(*args, **kwargs):
        raise AssertionError("a file was opened")
    expressions = hostile()
    monkeypatch.setattr("builtins.open", forbidden)
    monkeypatch.setattr("os.open", forbidden)
    slowest = 0.0
    for expression in expressions:
        start = time.process_time()
        answer = calculate(expression)
        slowest = max(slowest, time.process_time() - start)
        assert isinstance(answer, str) and "\n" not in answer and len(answer) < 400
        assert answer.startswith("error: ") or -1e300 <= float(answer) <= 1e300
    assert slowest < 0.1
    assert not [e for e in expressions[:12] if not calculate(e).startswith("error: ") and e.count("(") != 140]


@given(st.text(max_size=400) | st.text("0123456789+-*/%(). e", max_size=60))
@settings(max_examples=300)
def test_no_text_breaks_the_calculator(text):
    assert isinstance(calculate(text), str)


@given(st.recursive(st.integers(0, 99).map(str), lambda s: st.tuples(s, st.sampled_from("+-*"), s).map(lambda t: f"({t[0]}{t[1]}{t[2]})"),
                    max_leaves=12))
@settings(max_examples=100)
def test_the_calculator_agrees_with_integers(text):
    def value(s):  # an independent evaluation: reduce the innermost brackets by hand
        while m := re.search(r"\((-?\d+)([+\-*])(-?\d+)\)", s):
            a, b = int(m[1]), int(m[3])
            s = s[:m.start()] + str(a + b if m[2] == "+" else a - b if m[2] == "-" else a * b) + s[m.end():]
        return s
    assert calculate(text) == value(text)


# ---- the toolbox ---------------------------------------------------------------------------------------------------------------


def test_tools_answer_or_say_why_not(tmp_path, monkeypatch):
    Image.new("RGB", (200, 100), "white").save(tmp_path / "a.png")
    (tmp_path / "b.png").write_bytes(b"no picture")
    files = {"a": tmp_path / "a.png", "b": tmp_path / "b.png"}
    asked = []
    vlm = lambda picture, question: asked.append((picture.size, question)) or "I see 3 cups"  # noqa: E731
    run = lambda name, **arguments: run_tool(name, arguments, files, vlm, 5.0)  # noqa: E731
    assert run("Calculator", expression="1+1") == ("ok", "2")
    assert run("CountGivenObject", image="a", text="cup", bbox="(0, 0, 50, 40)") == ("ok", "3") and asked[-1][0] == (50, 40)
    assert run("ImageDescription", image="a") == ("ok", "I see 3 cups")
    assert run("RegionAttributeDescription", image="a", bbox="(0, 0, 9, 9)", attribute="colour")[0] == "ok" and "colour" in asked[-1][1]
    assert run("DrawBox", image="a", bbox="(10, 10, 50, 40)", annotation="x") == ("ok", "picture_1")
    assert files["picture_1"].getpixel((10, 20)) == (255, 0, 0)
    assert run("AddText", image="picture_1", text="hi", position="mt") == ("ok", "picture_2")
    assert run("AddText", image="picture_1", text="hi", position="(5, 50)", color="blue") == ("ok", "picture_3")
    assert run("Crop", image="a", bbox="[0, 0, 20, 10]") == ("ok", "picture_4") and files["picture_4"].size == (20, 10)
    assert run_tool("ImageDescription", {"image": "a"}, files)[0] == "unavailable"
    monkeypatch.setenv("PATH", "")
    for name, arguments in (("Solver", {"command": "import os"}), ("GoogleSearch", {"query": "x"}), ("OCR", {"image": "a"})):
        assert run(name, **arguments)[1].startswith("not available here: ")
    for name, arguments, status in [
            ("rm", {}, "error"), (None, {}, "error"), ("OCR", {}, "error"), ("OCR", None, "error"), ("OCR", "x", "error"),
            ("OCR", {"image": "a", "x": 1}, "error"),
            ("Crop", {"image": "/etc/passwd", "bbox": "1,2,3,4"}, "error"), ("Crop", {"image": "b", "bbox": "1,2,3,4"}, "error"),
            ("Crop", {"image": "a", "bbox": "9,9,1,1"}, "error"), ("Crop", {"image": "a", "bbox": "nan"}, "error"),
            ("AddText", {"image": "a", "text": "x", "position": "mt", "color": "no"}, "error"), ("Crop", {"image": ["a"], "bbox": 1}, "error")]:
        found, text = run_tool(name, arguments, files, vlm)
        assert found == status and text.startswith("error: ") and "\n" not in text


def test_tools_that_raise_or_hang_become_observations():
    files = {"a": Image.new("RGB", (9, 9))}

    def leave(picture, question):
        raise SystemExit(1)
    assert run_tool("ImageDescription", {"image": "a"}, files, lambda p, q: 1 / 0) == ("error", "error: division by zero")
    assert run_tool("ImageDescription", {"image": "a"}, files, leave)[0] == "error"
    start = time.perf_counter()
    assert run_tool("ImageDescription", {"image": "a"}, files, lambda p, q: time.sleep(5), 0.1)[0] == "error"
    assert time.perf_counter() - start < 2


@given(st.sampled_from([*GTA_TOOLS, "x"]), st.dictionaries(st.sampled_from(["image", "text", "bbox", "expression", "position", "query"]),
       st.text(max_size=20) | st.integers() | st.floats() | st.none() | st.lists(st.integers(), max_size=4)))
@settings(max_examples=200)
def test_no_call_raises(name, arguments):
    assert run_tool(name, arguments, {"a": Image.new("RGB", (9, 9))})[1]


# ---- GAIA ------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("answer", "truth", "right"), [
    ("17", "17", True), ("17.0", "17", True), ("$1,234.50", "1234.5", True), ("45%", "45", True), ("17 cm", "17", False), ("", "17", False),
    (" 17\n", "17", True), ("1e3", "1000", True), ("1_000", "1000", True), ("nan", "nan", False), ("anything", "inf", True), ("-0", "0", True),
    ("a, b", "a,b", True), ("a;b", "a, b", True), ("b, a", "a, b", False), ("a, b, c", "a, b", False), ("A , B", "a,b", True),
    ("a., b", "a, b", False), ("1, two", "1.0,Two", True), ("$1, 2%", "1;2", True), ("1", "1,000", False), ("1,000", "1,000", True),
    ("1,0", "1,000", True), ("'a', b", "a, b", False), ("Sea gull", "seagull", True), ("St. Petersburg", "st petersburg", True),
    ("right-hand", "Right hand.", True), ("é", "e", False), ("", "?", True), ("“x”", "x", False), ("x y", "xy", True), (None, "None", True),
    (None, "none.", True), (None, "3", False), (3, "3", True), (["a", "b"], "a,b", False)])
def test_question_scorer(answer, truth, right):
    assert question_scorer(answer, truth) is right


@given(st.text(max_size=30) | st.none(), st.text(max_size=30))
def test_question_scorer_never_raises_and_knows_its_own_answer(answer, truth):
    assert question_scorer(answer, truth) in (True, False)
    assert question_scorer(truth, truth) or "nan" in truth.lower() or "%" in truth or "$" in truth or "," in truth


def run_of(answer=None, calls=(), code_ok=None) -> dict:
    return {"answer": answer, "tool_calls": list(calls), "code_ok": code_ok}


def scored(name: str, root, split: str, said: dict[str, dict]):
    """score_tools with these runs as its predictions file."""
    file = root / "said.jsonl"
    lines = [{"id": ident, **run} for ident, run in said.items()]
    file.write_text("\n".join(map(json.dumps, lines)))
    return score_tools(name, root, split, predictions=file)


def gaia_root(tmp_path, parquet: bool = False, bad: bool = False):
    folder = tmp_path / "2023" / "validation"
    folder.mkdir(parents=True)
    rows = [{"task_id": f"t{n}", "Question": "?", "Level": level, "Final answer": truth, "file_name": file}
            for n, (level, truth, file) in enumerate([(1, "7", ""), (1, "a, b", "t1.xlsx"), ("2", "x", ""), (3, "?", "p.png")])]
    if parquet:
        from pyarrow import Table, parquet
        parquet.write_table(Table.from_pylist([{**row, "Level": str(row["Level"])} for row in rows]), folder / "metadata.parquet")
    else:
        faults = ["{broken", '{"task_id": "t9", "Question": "?"}', json.dumps({**rows[0], "file_name": "../../../etc/passwd"}), "[1]"]
        (folder / "metadata.jsonl").write_text("\n".join([*map(json.dumps, rows), *(faults if bad else [])]) + "\r\n\n")
    Image.new("RGB", (5, 5)).save(folder / "p.png")
    return tmp_path


@pytest.mark.parametrize("parquet", [False, True])
def test_gaia(tmp_path, parquet):
    if parquet:
        pytest.importorskip("pyarrow")
    root = gaia_root(tmp_path, parquet)
    found, rows = scored("gaia", root, "validation", {"t0": run_of("7.0"), "t1": run_of("a,c"), "zz": run_of("x")})
    assert rows == [{"id": "t0", "correct": True}, {"id": "t1", "correct": False}, {"id": "t2", "correct": False}, {"id": "t3", "correct": None}]
    assert found["ans_acc"] == pytest.approx(100 / 3) and found["level_1"]["ans_acc"] == 50 and found["level_2"]["n"] == 1
    assert [found[key] for key in ("attachments_missing", "answers_private", "missing_predictions", "unknown_predictions")] == [1, 1, 2, 1]
    episodes = list(load_recorded("gaia", root, "validation", Report()))
    assert episodes[3].steps[0].screenshot().size == (5, 5) and episodes[0].steps[0].screenshot().size == (32, 32)


def test_bad_records_of_gaia_are_named(tmp_path):
    root, report = gaia_root(tmp_path, bad=True), Report()
    with pytest.raises(ValueError, match="4 of 8 episodes are bad"):
        list(load_recorded("gaia", root, "validation", report))
    assert [f"line {n}: {what}" in message for n, what, message in zip((5, 6, 7, 8), ("line: not JSON", "Level", "path", "Level"),
            report.messages, strict=True)] == [True] * 4


def test_no_data_is_one_line(tmp_path):
    for name, split in (("gta", "test"), ("gta", "train"), ("gaia", "test"), ("gaia", "train"), ("mmtraj", "train"), ("mmtraj", "test"), ("x", "")):
        with pytest.raises(ValueError) as problem:
            scored(name, tmp_path, split, {})
        assert "\n" not in str(problem.value)
    (tmp_path / "dataset.json").write_text("[1]")
    with pytest.raises(ValueError, match="dict of records"):
        scored("gta", tmp_path, "test", {})


# ---- GTA -------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("answer", "whitelist", "blacklist", "right"), [
    ("It is 7.75.", [["7.75"]], None, True), ("7175", [["7.75"]], None, False), ("77.75", [["7.75"]], None, False),
    ("7.755", [["7.75"]], None, False), ("Red and BLUE", [["red", "crimson"], ["blue"]], None, True), ("red", [["red"], ["blue"]], None, False),
    ("redder", [["red"]], None, False), ("red, not green", [["red"]], [["green", "grey"]], False), ("red", [["red"]], [["green"], ["grey"]], True),
    ("red", [["red"]], [], True), ("50%", [["50%"]], None, False), ("50%a", [["50%"]], None, True), ("a+b", [["a+b"]], None, True),
    ("aab", [["a+b"]], None, False), ("C++ rocks", [["C++"]], None, False), ("", [["x"]], None, False), (None, [["none"]], None, False),
    ("x", [], None, True), ("$5", [["$5"]], None, False), ("red", [["red"]], [[]], False), ("new\nyork", [["new york"]], None, False),
    ("a_b", [["a"]], None, False), ("ÉTÉ", [["été"]], None, True)])
def test_gta_objective(answer, whitelist, blacklist, right):
    assert gta_objective(answer, {"whitelist": whitelist, "blacklist": blacklist}) is right


def turn(name: str, **arguments) -> dict:
    return {"role": "assistant", "tool_calls": [{"type": "function", "function": {"name": name, "arguments": arguments}}]}


def gta_root(tmp_path, bad: bool = False):
    def item(gold, *turns):
        return {"tools": [{"name": "OCR"}], "files": [{"type": "image", "path": "image/image_1.jpg"}], "gt_answer": gold,
                "dialogs": [{"role": "user", "content": "How much?"}, *turns]}
    end = {"role": "assistant", "content": "done"}
    data = {"0": item({"whitelist": [["7.75"]], "blacklist": None}, turn("OCR", image="image/image_1.jpg"),
                      {"role": "tool", "name": "OCR", "content": "x"}, turn("Calculator", expression="3.50+4.25"), end),
            "1": item({"whitelist": [["cat"]], "blacklist": [["dog"]]}, turn("CountGivenObject", image="a", text="cat"), end),
            "2": item(["a fine day"], turn("ImageDescription", image="a"), end), "3": item(None, turn("DrawBox", image="a", bbox="1"), end)}
    faults = {"4": {"tools": []}, "5": item(3, end), "6": item(None), "7": 5, "8": item({"whitelist": [3]}, end)}
    (tmp_path / "dataset.json").write_text(json.dumps(data | (faults if bad else {})))
    return tmp_path


def test_gta_records(tmp_path):
    episodes = list(load_recorded("gta", gta_root(tmp_path), "test", Report()))
    assert [e.id for e in episodes] == ["0", "1", "2", "3"] and [s.action.kind for s in episodes[0].steps] == ["call", "call", "answer"]
    assert episodes[0].instruction == "How much?" and episodes[0].steps[1].action.text == 'Calculator {"expression": "3.50+4.25"}'
    assert exam.observe(episodes[0], episodes[0].steps[1], 4).history == ('call OCR {"image": "image/image_1.jpg"} = x',)
    with pytest.raises(BadRecord, match="record 0"):
        episodes[0].steps[0].screenshot()
    with pytest.raises(ValueError, match="5 of 9 episodes are bad"):
        list(load_recorded("gta", gta_root(tmp_path, bad=True), "test", report := Report()))
    assert "record 4: files" in report.messages[0] and "gt_answer" in report.messages[1] and "gt_answer" in report.messages[4]


def test_gta(tmp_path):
    root, made = gta_root(tmp_path), lambda name, **arguments: {"name": name, "arguments": arguments}
    said = {"0": run_of("It is 7.75", (made("OCR", image="image/image_1.jpg"), made("Calculator", expression="8")), True),
            "1": run_of("a cat and a dog", (made("visualizer", question="?"), made("OCR", image="a")), False), "2": run_of("a day", (None,)),
            "3": run_of("here", (made("DrawBox", image="a", bbox="1") | {"error": "x"},), True)}
    found, rows = scored("gta", root, "test", said)
    assert rows == [{"id": "0", "correct": True}, {"id": "1", "correct": False}, {"id": "2", "correct": None}, {"id": "3", "correct": None}]
    steps, end = found["step_by_step"], found["end_to_end"]
    # Turns: five calls; references: three. Kinds agree at OCR, Calculator, visualizer and at the four answers, not at null and the error.
    assert [steps[key] for key in ("inst_acc", "tool_acc", "arg_acc", "summ_acc_objective")] == [pytest.approx(100 * 7 / 8), 60, 40, 50]
    # Perception: gold OCR, ImageDescription; called OCR twice (visualizer has no category): precision 1/2, recall 1/2.
    assert [end[f"n_{kind}"] for kind in ("objective", "subjective", "image")] == [2, 1, 1]
    assert end["ans_acc_objective"] == 50 and end["f1_perception"] == pytest.approx(50, abs=0.01)
    assert [end[f"f1_{key}"] for key in ("logic", "operation")] == [pytest.approx(v, abs=0.01) for v in (200 / 3, 100)]
    assert end["f1_creativity"] is None
    # Substrings, no blacklist: both objective ones. Tools: all of 0, none of 1 (nor is visualizer CountGivenObject), none of 2, all of 3.
    assert found["t3_agent"] == {"ans_acc": 100, "ans_acc_over_all": 50, "n": 2, "tool_acc": 50, "tool_acc_strict": 50,
                                 "code_exec": pytest.approx(200 / 3), "n_code": 3}
    assert scored("gta", root, "test", {})[0]["end_to_end"]["ans_acc_objective"] == 0


def test_an_agent_is_run_with_the_toolbox(tmp_path):
    """End to end it sees its own tools' answers, step by step the recorded turns."""
    root = gta_root(tmp_path)
    (root / "image").mkdir()
    Image.new("RGB", (40, 40)).save(root / "image" / "image_1.jpg")

    def planner(observations, _envs):
        def act(seen):
            if not seen.history:
                return Action("call", 'OCR {"image": "image/image_1.jpg"}')
            return Action("call", 'Calculator {"expression": "3.50+4.25"}') if len(seen.history) == 1 else Action("answer", seen.history[-1])
        return [([act(seen)], 1) for seen in observations]
    found, rows = score_tools("gta", root, "test", planner=planner, history=4)
    assert rows[0]["correct"] is True and found["step_by_step"]["tool_acc"] == 40 and found["missing_predictions"] == 0
    count = lambda observations, _envs: [([Action("call", 'CountGivenObject {"image": "image/image_1.jpg", "text": "cup"}')  # noqa: E731
                                          if not o.history else Action("answer", o.history[-1])], 1) for o in observations]
    looked = []
    score_tools("gta", root, "test", planner=count, vlm=lambda picture, question: looked.append((picture.size, question)) or "3 cups")
    assert set(looked) == {((40, 40), "How many cup are in the image? Answer with a number.")}
    task = ToolTask(next(load_recorded("gta", root, "test", Report())), 2)
    task.reset(0)
    for hostile_call in ("", "rm -rf", "OCR {", "Calculator [1]", 'Calculator {"expression": "9**9**9"}', "Solver " + "x" * 400):
        observation, *_, info = execute(task, Action("call", hostile_call))
        assert len(observation.history[-1]) <= 500 and "= " in observation.history[-1] and "\n" not in observation.history[-1]
    assert execute(task, None)[3] is False and len(task.said["tool_calls"]) == 6 and execute(task, Action("answer", "x"))[2]


def test_tool_benchmarks_from_the_command_line(tmp_path, dies):
    (tmp_path / "mine.jsonl").write_text('{"id": "t0", "answer": 7}\n{"id": "t1", "answer": null}\n')
    flags = ["--bench", "gaia", "--data", str(gaia_root(tmp_path)), "--predictions", str(tmp_path / "mine.jsonl")]
    exam.main([*flags, "--json", str(tmp_path / "found.json"), "--per_item", str(tmp_path / "items.jsonl")])
    assert json.loads((tmp_path / "found.json").read_text())["level_1"]["right"] == 1
    rows = [json.loads(line) for line in (tmp_path / "items.jsonl").read_text().splitlines()]
    assert rows[0] == {"id": "t0", "correct": True} and [row["correct"] for row in rows] == [True, False, False, None]
    assert "splits validation and test" in dies(exam.main, [*flags, "--split", "train"])
    (tmp_path / "mine.jsonl").write_text("[]")
    exam.main([*flags, "--json", str(tmp_path / "found.json")])
    found = json.loads((tmp_path / "found.json").read_text())
    assert found["skipped"] == 1 and "mine.jsonl:1: id" in found["why"][0] and found["right"] == 0
    assert "androidcontrol needs --data" in dies(exam.main, ["--bench", "androidcontrol", "--predictions", "x"])
    assert "toy-tools needs --run" in dies(exam.main, ["--bench", "toy-tools", "--predictions", "x"])
    with pytest.raises(ValueError, match="gta has one split"):  # an exam is no school
        next(train.recorded_examples(dataclasses.replace(Config(), data=f"gta:{gta_root(tmp_path)}"), "stage1", 0))


def test_predictions_of_tool_runs(tmp_path):
    """A line with an id and a fault counts as a run that said nothing; the fault is named."""
    file = tmp_path / "p.jsonl"
    lines = ['{"id": "a", "answer": "x\\u2028y", "tool_calls": [{"name": "OCR", "arguments": {}}, null], "code_ok": true}',
             '{"id": 7, "answer": 7}', '{"id": "c"}', "{", "[]", '{"id": "d", "tool_calls": "x"}', '{"id": "e", "code_ok": 1}', '{"id": "a"}',
             '{"id": "f", "tool_calls": [{"name": 1}]}', '{"id": null}']
    file.write_text("\n".join(lines) + "\n")
    read, faults = exam.read_predictions(file, exam.parse_run)
    assert read["a"]["tool_calls"][0]["name"] == "OCR" and read["a"]["code_ok"] and read["7"]["answer"] == "7" and read["c"] == run_of()
    assert read["d"] is read["e"] is read["f"] is None
    expected = (":4: line: not JSON", ":5: id", ":6: tool_calls", ":7: code_ok", ":8: id: a is there twice", ":9: tool_calls", ":10: id")
    assert [text in fault for text, fault in zip(expected, faults, strict=True)] == [True] * 7


# ---- MM-Traj ---------------------------------------------------------------------------------------------------------------------


def test_mmtraj_in_both_forms(tmp_path):
    said = ["system", "sys", "user", "<image_00>\nTask: What is the total?\nAttachment: f/r.jpg;",
            "assistant", 'Thought: read.\n\nCode:\n```py\ntotal = visualizer("What total?", image_path="f/r.jpg")\nprint(total)\n```',
            "user", "[OUTPUT OF STEP 0] Observation:\n18.40", "assistant", "Code:\n```python\nimport os\nprint(2)\n```", "user", "2",
            "assistant", "Code:\n```py\nfinal_answer(total)\n```"]
    pairs = list(zip(said[::2], said[1::2], strict=True))
    base = {"id": "d1", "image": {"<image_00>": "r.jpg"}, "answer": "18.40", "correct": "yes", "traj_verification": ""}
    qwen = [(r, c.replace("<image_00>", "Picture 1: <img>r.jpg</img>")) for r, c in pairs]
    good = [{**base, "conversations": [{"role": r, "content": c} for r, c in pairs]},
            {**base, "id": "d2", "image": "r.jpg", "conversations": [{"from": r, "value": c} for r, c in qwen]}]
    (tmp_path / "mat.json").write_text(json.dumps(good))
    Image.new("RGB", (7, 7)).save(tmp_path / "r.jpg")
    first, second = load_recorded("mmtraj", tmp_path, "train", Report())
    assert first.steps[0].action == second.steps[0].action and first.instruction == second.instruction
    assert first.steps[0].screenshot().size == second.steps[0].screenshot().size == (7, 7)
    assert [s.action.kind for s in first.steps] == ["call", "call", "answer"] and first.steps[2].action.text == "18.40"
    assert first.steps[0].action.text == 'visualizer {"question": "What total?", "image_path": "f/r.jpg"}'
    assert "18.40" in first.steps[0].raw["observation"] and first.steps[1].raw["name"] == "python"
    assert first.instruction.startswith("What is the total?")
    batch = next(train.recorded_examples(dataclasses.replace(Config(), data=f"mmtraj:{tmp_path}"), "stage1", 0))  # it can be trained on
    assert len(batch) == 16 and {e.reference[-1].kind for e in batch} == {"answer"}
    bad = [{**base, "id": "d3", "conversations": [{"role": r, "content": c.replace("print(", "print((")} for r, c in pairs]},
           {**base, "id": "d4", "conversations": [{"role": r, "content": c} for r, c in pairs[:-1]]}, {"id": "d5"}, 5,
           {**base, "id": "d7", "image": "../../x", "conversations": [{"role": r, "content": c} for r, c in pairs]},
           {**base, "id": "d8", "conversations": [{"role": "assistant", "content": "```py\nfinal_answer({(1, 2): {3}})\n```"}]}]
    (tmp_path / "mat.json").write_text(json.dumps(good + bad))
    with pytest.raises(ValueError, match="bad"):
        list(load_recorded("mmtraj", tmp_path, "train", report := Report()))
    assert len(report.messages) == 5 and all("mat.json: record" in message for message in report.messages) and "not Python" in report.messages[0]


def test_code_is_parsed_inner_calls_first_and_never_run():
    assert code_calls("final_answer(visualizer('a', image_path=p))") == [
        ("visualizer", {"question": "a", "image_path": {"code": "p"}}),
        ("final_answer", {"answer": {"code": "visualizer('a', image_path=p)"}})]
    assert code_calls("open('/tmp/x', 'w')") == [("python", {"code": "open('/tmp/x', 'w')"})]
    assert envs.call_text("x", {(1, 2): {3}}) == "x {(1, 2): {3}}"
    for code in ("x = (", "\x00", "(" * 5000, "x" * 30_000):
        with pytest.raises(BadRecord):
            code_calls(code)
