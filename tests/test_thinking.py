"""--thinking: the model thinks before it forecasts. Who may, and how long; what counts as the
thought, what it is paid, who never sees it; whole runs. On made-up models that think, and on the
project's tiny one."""

import dataclasses
import json
import math

import numpy as np
import pytest
import torch
from helpers import (
    ALWAYS_THINKS,
    ASSISTANT,
    KNOWS_THE_SWITCH,
    NO_THOUGHT,
    hub,
    observe,
    plain_logprobs,
)

import agent
import train
from agent import (
    LINE_TOKENS,
    REFERENCE,
    THOUGHT,
    THOUGHT_END,
    Forward,
    Group,
    Plan,
    Policy,
    Rollout,
    Sampling,
    choose_rollout,
    encode,
    make_rollout,
    play,
    policy_planner,
    sample_all,
    trainable,
)
from envs import Action, Example, ToyGUI
from eval import evaluate_policy, toy_metrics
from extras import made_up, run_folder
from extras.loading import LEAST_THOUGHT, let_think, load_policy
from extras.made_up import TEMPLATE, make_hub
from extras.run_folder import load_run_policy, read_run, rollout_record
from extras.shared_prompt import SHARED
from extras.tiny_vlm import make_tiny
from rewards import group_advantages
from train import Config, parse_config, score, summary, token_advantages, update_policy

OPENS_OR_CLOSES = TEMPLATE.replace(
    ASSISTANT,
    "assistant\n{% if enable_thinking is defined and not enable_thinking %}"
    + NO_THOUGHT
    + "{% else %}<think>\n{% endif %}{%",
)

# What a template does about a thought where the answer begins.
TEMPLATES = {
    "always opens one": ALWAYS_THINKS,  # Qwen3-VL-Thinking
    "opens or closes one": OPENS_OR_CLOSES,  # Qwen3.5
    "leaves it to the model": KNOWS_THE_SWITCH,  # Qwen3
}


@pytest.fixture(scope="session")
def thinking_hub(tmp_path_factory):
    """The folder of a made-up model like Qwen3-VL-Thinking."""
    folder = tmp_path_factory.mktemp("thinks")
    return make_hub(folder, template=TEMPLATES["always opens one"])


@pytest.fixture
def thinker(thinking_hub) -> Policy:
    """Its policy, which thinks with a budget of 40 tokens."""
    policy = load_policy(thinking_hub)
    let_think(policy, 40)
    return policy


def favour(policy: Policy, thought_end: float = 0.0, eos: float = 0.0, back: float = 0.0):
    """From now on, or inside a with block, the head favours the end of a thought, that of an
    answer, or the shortest of all forecasts: a random model writes none of them by itself."""
    bias = torch.zeros(policy.core.config.text_config.vocab_size)
    bias[policy.thought_end] = thought_end
    bias[policy.tokenizer.eos_token_id] = eos
    bias[policy.tokenizer.convert_tokens_to_ids("back")] = back
    return policy.core.lm_head.register_forward_hook(lambda module, args, out: out + bias)


def read(policy: Policy, text: str, horizon: int = 3) -> Rollout:
    """What is made of a completion with this text."""
    ids = policy.tokenizer(text)["input_ids"]
    prompt = encode(policy, [observe(0)], horizon)[0]
    return make_rollout(policy, prompt, ids, [-0.5] * len(ids), horizon)


def count(policy: Policy, text: str) -> int:
    return len(policy.tokenizer(text)["input_ids"])


# ---- the prompt ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "off", "on"),
    [
        ("always opens one", NO_THOUGHT, "assistant\n<think>\n"),
        ("opens or closes one", NO_THOUGHT, "assistant\n<think>\n"),
        ("leaves it to the model", NO_THOUGHT, "<|im_start|>assistant\n"),
    ],
)
def test_a_thought_is_left_open_or_closed_before_it_begins(tmp_path, name, off, on):
    policy = load_policy(make_hub(tmp_path, template=TEMPLATES[name]))
    for budget, ending in ((0, off), (64, on), (0, off)):
        let_think(policy, budget)
        prompt = encode(policy, [observe(0)], 1)[0]
        assert policy.tokenizer.decode(prompt.ids).endswith(ending)


# ---- who may think, and how long ----------------------------------------------------------------


def test_a_model_that_does_not_think_is_refused(policy, tmp_path, monkeypatch, dies):
    assert "no token </think>" in dies(let_think, policy, 64)  # the tiny one
    instruct = load_policy(hub())
    message = dies(let_think, instruct, 64)
    assert "--thinking 64 needs a model that thinks" in message
    assert str(hub()) in message and "chat template" in message
    without = [token for token in made_up.PLAIN if token != "</think>"]
    monkeypatch.setattr(made_up, "PLAIN", without)
    folder = make_hub(tmp_path, template=TEMPLATES["always opens one"])
    assert "no token </think>" in dies(let_think, load_policy(folder), 64)
    for one in (policy, instruct):
        assert one.thinking == 0
        let_think(one, 0)


def test_a_budget_must_hold_a_line(thinker, dies):
    for budget in (1, LEAST_THOUGHT - 1):
        message = dies(let_think, thinker, budget)
        assert f"--thinking {budget}" in message and f"{LEAST_THOUGHT} tokens" in message
    let_think(thinker, LEAST_THOUGHT)
    assert thinker.thinking == LEAST_THOUGHT


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["--thinking", "1"], "one word and its </think> take up to 2 tokens"),
        (["--thinking", "-1"], "must be at least 0"),
        (["--model", "somewhere", "--thinking", "3"], "too small a budget"),
    ],
)
def test_flags_that_cannot_work_are_refused_before_anything_is_loaded(argv, words, dies):
    assert words in dies(parse_config, argv)


def test_a_run_of_a_model_that_does_not_think_leaves_nothing_behind(tiny, tmp_path, dies):
    folder = tmp_path / "run"
    argv = ["--model", str(tiny), "--thinking", "64", "--output_dir", str(folder), "--threads=1"]
    assert "needs a model that thinks" in dies(train.main, argv)
    assert [path.name for path in folder.iterdir()] == [".lock"]


def test_thought_and_forecast_share_one_limit(thinker):
    """What a thought leaves of its budget is the forecast's."""
    assert thinker.max_new_tokens(2) == 40 + 2 * LINE_TOKENS
    how = Sampling(2, 8, 1.0, thinker.max_new_tokens(2))
    with favour(thinker, thought_end=5.0, eos=-100.0):
        [group] = sample_all(thinker, encode(thinker, [observe(0)], 2), how)
    for rollout in group:
        assert len(rollout.completion_ids) == how.max_new_tokens
        assert rollout.finish_reason == "length"


def test_the_marks_of_a_thought_may_be_sampled(thinker, tmp_path, monkeypatch):
    """Also with a tokenizer that calls them special."""
    marks = ["<think>", "</think>"]
    monkeypatch.setattr(made_up, "SPECIAL", made_up.SPECIAL + marks)
    monkeypatch.setattr(made_up, "PLAIN", [t for t in made_up.PLAIN if t not in marks])
    special = load_policy(make_hub(tmp_path, template=TEMPLATES["always opens one"]))
    assert set(marks) <= set(special.tokenizer.all_special_tokens)
    for policy in (thinker, special):
        ids = policy.tokenizer.convert_tokens_to_ids(marks)
        assert not set(ids) & set(policy.suppressed.tolist())


def test_fewer_completions_are_sampled_at_once_where_thoughts_are_long(thinker):
    parts = []

    def sample(policy, prompts, how, generator=None):
        parts.append(len(prompts))
        return [[] for _ in prompts]

    thinker.forward = Forward(sample, completion_logprobs=None)
    sizes = {}
    for budget in (0, 1024, 4096):
        parts.clear()
        thinker.thinking = budget
        sample_all(thinker, [None] * 8, Sampling(5, 2))
        sizes[budget] = parts[0]
    assert sizes == {0: 8, 1024: 4, 4096: 1}


# ---- what is the thought ------------------------------------------------------------------------

THINKS = "I see Name.\n\nclick Exit\nis wrong\n</think>\n\n"
ANSWER = "click Name\ntype amber\ndone"


def test_the_forecast_stands_behind_the_thought(thinker):
    rollout = read(thinker, f"{THINKS}{ANSWER}<|im_end|>")
    assert [str(action) for action in rollout.forecast] == ["click Name", "type amber", "done"]
    assert rollout.parse_error is None
    assert rollout.thought_tokens == count(thinker, THINKS)
    assert rollout.text == THINKS + ANSWER
    assert len(rollout.step_index) == len(rollout.completion_ids) == len(rollout.old_logprobs)


def test_line_breaks_of_the_thought_are_no_steps(thinker):
    """Those of the empty lines behind it neither: the forecast begins with step 0."""
    thought = count(thinker, THINKS)
    rollout = read(thinker, f"{THINKS}{ANSWER}<|im_end|>")
    assert rollout.step_index[:thought] == [THOUGHT] * thought
    let_think(thinker, 0)
    alone = read(thinker, f"{ANSWER}<|im_end|>")
    assert rollout.step_index[thought:] == alone.step_index
    assert set(alone.step_index) == {0, 1, 2}


def test_from_far_to_near_the_last_line_is_step_0_all_the_same(thinker):
    thinker.far_first = True
    rollout = read(thinker, f"{THINKS}done\ntype amber\nclick Name<|im_end|>")
    assert [str(action) for action in rollout.forecast] == ["click Name", "type amber", "done"]
    thought = rollout.thought_tokens
    assert thought == count(thinker, THINKS)
    assert rollout.step_index[thought] == 2 and rollout.step_index[-1] == 0


def test_the_last_end_counts(thinker):
    twice = f"wait </think>\nclick Exit\n{THINKS}"
    rollout = read(thinker, f"{twice}{ANSWER}<|im_end|>")
    assert str(rollout.forecast[0]) == "click Name"
    assert rollout.thought_tokens == count(thinker, twice)


def test_without_thinking_nothing_is_a_thought(thinker):
    """As it was before there was a switch: what stands before `</think>` is not read, no more."""
    let_think(thinker, 0)
    rollout = read(thinker, f"{THINKS}{ANSWER}<|im_end|>")
    assert len(rollout.forecast) == 3
    assert rollout.thought_tokens == 0
    assert THOUGHT not in rollout.step_index


@pytest.mark.parametrize("ending", ["", "<|im_end|>"])
def test_a_thought_without_its_end_has_no_forecast(thinker, ending):
    """However much like one its lines look."""
    rollout = read(thinker, f"click Name\ndone{ending}")
    tokens = len(rollout.completion_ids)
    assert rollout.forecast == []
    assert rollout.parse_error == f"the thought was cut off after {tokens} tokens"
    assert rollout.thought_tokens == tokens
    assert rollout.step_index == [THOUGHT] * tokens


def test_an_end_in_pieces_is_none(thinker):
    """What ends a thought is the token, not other tokens that spell it."""
    pieces = []
    for piece in ("</", "think", ">"):
        pieces += thinker.tokenizer(piece)["input_ids"]
    assert thinker.thought_end not in pieces
    prompt = encode(thinker, [observe(0)], 3)[0]
    ids = pieces + thinker.tokenizer("\nclick Name<|im_end|>")["input_ids"]
    rollout = make_rollout(thinker, prompt, ids, [-0.5] * len(ids), 3)
    assert "</think>" in rollout.text
    assert rollout.forecast == []


def test_a_thought_with_nothing_behind_it_cannot_be_read(thinker):
    rollout = read(thinker, THINKS)
    assert rollout.parse_error == "nothing to read"
    assert rollout.thought_tokens == len(rollout.completion_ids)


def test_a_forecast_that_is_cut_off_is_told_as_ever(thinker):
    rollout = read(thinker, THINKS + ANSWER)
    assert rollout.parse_error == f"cut off after {len(rollout.completion_ids)} tokens"
    assert len(rollout.forecast) == 3


# ---- what it is paid ----------------------------------------------------------------------------


def example(horizon: int = 3) -> Example:
    env = ToyGUI("test")
    env.reset(0)
    return env.example(horizon)


def scored(thinker: Policy, stage: str = "stage1", **changes) -> list[Rollout]:
    """The truth, its first step alone, nonsense, and a thought without an end."""
    truth = example()
    whole = agent.format_forecast(truth.reference)
    first = agent.format_forecast(truth.reference[:1])
    texts = [THINKS + whole, THINKS + first, THINKS + "fly", "click Name"]
    rollouts = [read(thinker, f"{text}<|im_end|>") for text in texts]
    score([Group(truth, None, rollouts)], stage, Config(horizon=3, **changes))
    return rollouts


@pytest.mark.parametrize("stage", ["stage1", "stage2"])
def test_a_thought_that_is_cut_off_costs_what_an_unreadable_answer_costs(thinker, stage):
    _, _, unreadable, cut_off = scored(thinker, stage)
    assert cut_off.reward_terms == unreadable.reward_terms
    assert cut_off.step_rewards == unreadable.step_rewards


@pytest.mark.parametrize("credit", ["step", "own", "trajectory"])
@pytest.mark.parametrize("order", ["near", "far"])
def test_a_thought_has_the_advantage_of_the_whole(thinker, credit, order):
    thinker.far_first = order == "far"
    rollouts = scored(thinker, credit=credit, order=order)
    steps = np.array([rollout.step_rewards for rollout in rollouts])
    whole = group_advantages(steps, "trajectory")[:, 0]
    np.testing.assert_allclose([r.thought_advantage for r in rollouts], whole, atol=1e-12)
    rewards = np.array([rollout.reward for rollout in rollouts])
    by_hand = (rewards - rewards.mean()) / (rewards.std() + 1e-4)
    np.testing.assert_allclose(whole, by_hand)
    if credit == "trajectory":
        np.testing.assert_allclose([r.advantages[0] for r in rollouts], whole, atol=1e-12)


def test_each_token_has_the_advantage_of_its_part(thinker):
    truth, *_ = scored(thinker, credit="own")
    advantages = token_advantages(truth)
    thought = truth.thought_tokens
    assert advantages[:thought] == [truth.thought_advantage] * thought
    behind = truth.step_index[thought:]
    assert advantages[thought:] == [truth.advantages[step] for step in behind]
    assert truth.thought_advantage not in truth.advantages


@pytest.mark.parametrize("forward", [REFERENCE, SHARED], ids=["reference", "shared"])
def test_the_gradient_is_that_of_plain_rows(thinker, forward):
    """A grad log pi over all tokens, those of the thought with the advantage of the whole."""
    thinker.forward = forward
    agent.add_lora(thinker, 4, 8, 0)
    for weight in trainable(thinker):
        weight.data = torch.randn(weight.shape, generator=torch.Generator().manual_seed(1)) * 0.1
    generator = torch.Generator().manual_seed(0)
    noise = np.random.default_rng(0)
    with favour(thinker, thought_end=5.0, eos=4.0):
        prompts = encode(thinker, [observe(0), observe(1)], 2)
        samples = thinker.forward.sample(thinker, prompts, Sampling(2, 3, 1.0, 30), generator)
        groups = []
        for prompt, rollouts in zip(prompts, samples, strict=True):
            for rollout in rollouts:
                rollout.advantages = noise.normal(size=3).tolist()
                rollout.thought_advantage = noise.normal()
            groups.append(Group(None, prompt, rollouts))
        optimizer = torch.optim.SGD(trainable(thinker), lr=0.0)
        config = Config(horizon=2, max_grad_norm=1e9, micro_batch=1, kl_weight=0.0)
        update_policy(thinker, groups, config, optimizer)
        found = [weight.grad.clone() for weight in trainable(thinker)]

        optimizer.zero_grad()
        rollouts = train.rollouts_of(groups)
        tokens = train.count_tokens(groups)
        for i, group in enumerate(groups):
            for rollout in group.rollouts:
                written = (rollout.prompt_ids, rollout.completion_ids)
                logprobs = plain_logprobs(thinker, observe(i), *written)
                thought = rollout.thought_tokens
                expected = torch.full((len(logprobs),), rollout.thought_advantage)
                for place, step in enumerate(rollout.step_index[thought:], thought):
                    expected[place] = rollout.advantages[step]
                (-(expected * logprobs).sum() / tokens).backward()
    thoughts = {rollout.thought_tokens for rollout in rollouts}
    assert len(thoughts) > 2  # of several lengths
    assert any(rollout.thought_tokens < len(rollout.completion_ids) for rollout in rollouts)
    for gradient, weight in zip(found, trainable(thinker), strict=True):
        assert (gradient - weight.grad).norm() <= 1e-3 * weight.grad.norm() + 1e-12


# ---- logs and metrics ---------------------------------------------------------------------------


def test_a_line_of_metrics_tells_how_much_was_thought(thinker):
    group = Group(example(), None, scored(thinker))
    thought = [rollout.thought_tokens for rollout in group.rollouts]
    assert summary([group])["thought"] == np.mean(thought) > 0
    for rollout in group.rollouts:
        rollout.thought_tokens = 0
    assert "thought" not in summary([group])


def test_a_rollouts_record_has_its_thought(thinker):
    truth, *_ = scored(thinker)
    record = rollout_record(truth, example())
    assert record["thought_tokens"] == truth.thought_tokens > 0
    assert record["text"].startswith("I see Name.")


def test_an_exam_tells_how_much_was_thought():
    played = play(
        lambda observations, envs: [Plan(env.oracle(2), tokens=9, thought=5) for env in envs],
        [ToyGUI("dev"), ToyGUI("dev")],
        [0, 1],
        2,
    )
    steps = sum(len(episode.results) for episode in played)
    metrics = toy_metrics(played, 2)
    assert metrics["thought_per_episode"] == 5 * steps / 2
    assert metrics["tokens_per_episode"] == 9 * steps / 2
    silent = play(
        lambda observations, envs: [Plan(env.oracle(2), tokens=9) for env in envs],
        [ToyGUI("dev")],
        [0],
        2,
    )
    assert "thought_per_episode" not in toy_metrics(silent, 2)


# ---- the plan-act loop --------------------------------------------------------------------------


def scripted(policy: Policy, text: str) -> None:
    """Whatever is asked, the sampler writes this."""
    ids = policy.tokenizer(f"{text}<|im_end|>")["input_ids"]

    def sample(policy, prompts, how, generator=None):
        groups = []
        for prompt in prompts:
            rollout = make_rollout(policy, prompt, ids, [-0.5] * len(ids), how.horizon)
            groups.append([rollout] * how.group_size)
        return groups

    policy.forward = Forward(sample, completion_logprobs=None)


def test_a_plan_counts_the_tokens_of_all_its_thoughts(thinker):
    scripted(thinker, THINKS + ANSWER)
    planner = policy_planner(thinker, 3, choose="agreement", candidates=4)
    [plan] = planner([observe(0)], [None])
    assert [str(action) for action in plan.forecast] == ["click Name", "type amber", "done"]
    assert plan.thought == 4 * count(thinker, THINKS)
    assert plan.tokens == 4 * count(thinker, f"{THINKS}{ANSWER}<|im_end|>")


def test_history_and_carried_plans_hold_no_thought(thinker):
    scripted(thinker, THINKS + "click Account\nclick Name")
    [episode] = play(policy_planner(thinker, 3), [ToyGUI("dev")], [0], 3, carry=True)
    assert len(episode.results) > 1
    assert episode.thought == len(episode.results) * count(thinker, THINKS)
    for observation in episode.observations[1:]:
        assert observation.plan == (Action("click", "Name"),)
        assert all(line.startswith("click Account") for line in observation.history)


def test_choosing_compares_forecasts_and_not_thoughts(thinker):
    """The thought of the better one is longer, and so less likely as a whole."""
    short = read(thinker, f"x</think>\n{ANSWER}<|im_end|>")
    long = read(thinker, f"{THINKS}{ANSWER}<|im_end|>")
    behind = len(long.completion_ids) - long.thought_tokens
    long.old_logprobs = [-0.5] * long.thought_tokens + [-0.1] * behind
    assert sum(long.old_logprobs) < sum(short.old_logprobs)
    cut_off = read(thinker, "hm")
    assert agent.likelihood(cut_off) == -math.inf
    assert choose_rollout([short, long, cut_off], "likelihood") is long


# ---- from end to end ----------------------------------------------------------------------------


@pytest.fixture
def models_think_and_forecast(monkeypatch):
    """All models that are loaded write thoughts with an end, and forecasts, now and then."""

    def load(*args, **how):
        policy = load_policy(*args, **how)
        favour(policy, thought_end=9.5, eos=9.8, back=9.5)
        return policy

    monkeypatch.setattr(train, "load_policy", load)
    monkeypatch.setattr(run_folder, "load_policy", load)


@pytest.fixture(scope="session")
def tiny_thinker(tmp_path_factory):
    """The folder of an untrained tiny model that has the word for the end of a thought."""
    folder = tmp_path_factory.mktemp("tiny_thinker")
    make_tiny(folder, (*ToyGUI.words, THOUGHT_END), 0)
    return folder


def test_the_tiny_model_thinks_where_it_has_the_word_for_it(tiny_thinker, dies):
    policy = load_policy(tiny_thinker)
    prompt = encode(policy, [observe(0)], 3)[0]
    assert "one word and its </think>" in dies(let_think, policy, 1)
    let_think(policy, 6)
    # Its template opens no thought: it has learnt to begin with one.
    assert encode(policy, [observe(0)], 3)[0].ids == prompt.ids
    rollout = read(policy, "amber Name</think>click Name\ntype amber\ndone<|im_end|>")
    assert [str(action) for action in rollout.forecast] == ["click Name", "type amber", "done"]
    assert rollout.thought_tokens == 3
    assert rollout.step_index == [THOUGHT] * 3 + [0, 0, 0, 1, 1, 1, 2, 2]


def test_the_tiny_model_has_room_for_a_thought_and_all_lines(tiny_thinker):
    policy = load_policy(tiny_thinker)
    silent = policy.max_new_tokens(5)
    let_think(policy, 6)
    assert policy.max_new_tokens(5) == 6 + silent


@pytest.mark.slow
@pytest.mark.parametrize("env", ["toy-gui", "toy-tools"])
def test_a_whole_run_of_the_tiny_model_that_thinks(env, tmp_path):
    settings = {
        "env": env,
        "thinking": 6,
        "horizon": 2,
        "group_size": 4,
        "prompts_per_update": 4,
        "reading_steps": 2,
        "warmup_steps": 60,
        "warmup_batch": 4,
        "warmup_horizon": 2,
        "train_tasks": 5,
        "stage1_updates": 2,
        "stage2_updates": 1,
        "eval_tasks": 2,
        "lora_rank": 4,
        "threads": 1,
        "warmup_dir": tmp_path / "warm",
    }
    flags = [f"--{name}={value}" for name, value in settings.items()]
    folder = tmp_path / "run"
    train.main([*flags, "--output_dir", str(folder)])
    records = [json.loads(line) for line in (folder / "rollouts.jsonl").read_text().splitlines()]
    thoughts = [record["text"].split("</think>") for record in records]
    assert any(len(parts) == 2 for parts in thoughts)  # it has learnt the form
    assert any(record["forecast"] for record in records)
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert all(line["thought"] > 0 for line in lines)
    config = read_run(folder)
    policy = load_run_policy(folder, config)
    assert policy.tiny and policy.thinking == 6
    results = json.loads((folder / "results.json").read_text())["test"]
    metrics, _ = evaluate_policy(policy, config, "test", 2)
    assert metrics == results["stage2"]


@pytest.mark.slow
def test_a_whole_run_that_thinks(thinking_hub, tmp_path, models_think_and_forecast, dies):
    settings = {
        "model": thinking_hub,
        "thinking": 30,
        "tool_agent": "base",
        "order": "far",
        "horizon": 1,
        "group_size": 8,
        "prompts_per_update": 2,
        "stage1_updates": 2,
        "stage2_updates": 1,
        "train_tasks": 10,
        "eval_tasks": 1,
        "lora_rank": 4,
        "threads": 1,
    }
    flags = [f"--{name}={value}" for name, value in settings.items()]
    flags.append("--carry_forecast")
    folder = tmp_path / "run"
    train.main([*flags, "--output_dir", str(folder)])

    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [line["stage"] for line in lines] == ["stage1", "stage1", "stage2"]
    assert all(1 <= line["thought"] <= 30 + LINE_TOKENS for line in lines)
    assert all(line["thought"] * 16 <= line["tokens"] for line in lines)
    assert any(line["frac_parse_error"] < 1 and line["grad_norm"] > 0 for line in lines)
    records = [json.loads(line) for line in (folder / "rollouts.jsonl").read_text().splitlines()]
    assert all(record["thought_tokens"] > 0 for record in records)
    results = json.loads((folder / "results.json").read_text())["test"]
    assert results["stage2"]["thought_per_episode"] > 0
    assert "thought_per_episode" not in results["oracle"]

    config = read_run(folder)
    policy = load_run_policy(folder, config)
    assert policy.thinking == 30
    metrics, _ = evaluate_policy(policy, config, "test", 1)
    assert metrics == results["stage2"]
    assert policy.thinking == 30  # the tool agent, its own base, has left it as it was
    other = [flag.replace("--thinking=30", "--thinking=40") for flag in flags]
    message = dies(train.main, [*other, "--output_dir", str(folder), "--resume"])
    assert "thinking 30, not 40" in message


def test_a_run_of_before_the_flag_does_not_think(tiny):
    config = dataclasses.asdict(Config()) | {"base": str(tiny), "in_4bit": False}
    del config["thinking"]
    assert load_run_policy("", config, adapter=None).thinking == 0
