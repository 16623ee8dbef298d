"""train.py: the loss by hand, the update against plain gradients, a task that is learnt in seconds,
scores, flags, whole runs."""

import dataclasses
import json
import math
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from helpers import nudge, observe, plain_logprobs, settings, small, train_stage1
from hypothesis import given
from hypothesis import strategies as st

import agent
import train
from agent import Forward, Group, Policy, Rollout, Sampling, encode, trainable
from envs import Action, Example, ToyGUI, find_element
from extras.loading import load_policy
from extras.run_folder import read_run
from extras.shared_prompt import SHARED
from extras.toy_map import ToyMap
from extras.warm_start import start_folder
from extras.worlds import WORLDS, find_world
from rewards import grounded_reward, group_advantages, trajectory_reward
from train import (
    Config,
    find_base,
    grpo_loss,
    has_signal,
    open_run,
    parse_config,
    run_stage,
    score,
    toy_examples,
    update_policy,
)

# ---- loss ----------------------------------------------------------------------------------------


def row(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64).view(1, 1, -1)


@pytest.mark.parametrize(
    ("ratio", "advantage", "objective", "slope", "outside"),
    [
        (1.0, 2.0, 2.0, 2.0, 0),  # on-policy: A, and the gradient is A grad log pi
        (1.1, 2.0, 2.2, 2.2, 0),  # inside the clip
        (0.9, -1.0, -0.9, -0.9, 0),
        (1.5, 1.0, 1.2, 0.0, 1),  # good and already likelier by more than clip_high: no more
        (1.5, -1.0, -1.5, -1.5, 0),  # bad and likelier: all the way back
        (0.5, 1.0, 0.5, 0.5, 0),  # good and less likely: all the way back
        (0.5, -1.0, -0.8, 0.0, 1),  # bad and already less likely by more than clip_low: no more
        (1.5, 0.0, 0.0, 0.0, 0),  # no advantage, no gradient
    ],
)
def test_clip_cases_by_hand(ratio, advantage, objective, slope, outside):
    old = row(-2.0)
    new = (old + math.log(ratio)).requires_grad_()
    loss, clipped, kl = grpo_loss(new, old, row(advantage), row(1.0).bool(), normaliser=4)
    loss.backward()
    assert loss.item() == pytest.approx(-objective / 4)
    assert new.grad.item() == pytest.approx(-slope / 4)
    assert clipped == outside
    assert kl == 0.0


@pytest.mark.parametrize(
    ("ratio", "advantage", "objective"),
    [(1.25, 1.0, 1.25), (1.35, 1.0, 1.3), (0.85, -1.0, -0.9), (0.92, -1.0, -0.92)],
)
def test_the_two_clips_are_separate(ratio, advantage, objective):
    new = row(math.log(ratio))
    loss, _, _ = grpo_loss(new, row(0.0), row(advantage), row(1.0), 1, clip_low=0.1, clip_high=0.3)
    assert loss.item() == pytest.approx(-objective)


def test_kl_by_hand():
    """d = log ref - log pi = ln 2: exp(d) - d - 1 = 1 - ln 2; its slope in log pi is
    1 - exp(d) = -1."""
    new = row(-1.0).requires_grad_()
    ref = row(-1.0 + math.log(2))
    loss, _, kl = grpo_loss(new, row(-1.0), row(0.0), row(1.0), 2, ref_logprobs=ref, kl_weight=0.5)
    loss.backward()
    assert kl == pytest.approx(1 - math.log(2))
    assert loss.item() == pytest.approx(0.5 * (1 - math.log(2)) / 2)
    assert new.grad.item() == pytest.approx(0.5 * -1.0 / 2)


def test_kl_to_the_same_policy_is_0():
    same = row(-1.0)
    _, _, kl = grpo_loss(same, same, row(3.0), row(1.0), 1, ref_logprobs=same, kl_weight=9.0)
    assert kl == 0.0


logprob = st.floats(-3, 0)
token = st.tuples(logprob, logprob, logprob, st.floats(-2, 2), st.booleans())


@given(
    tokens=st.lists(token, min_size=1, max_size=8),
    weight=st.floats(0, 1),
    low=st.floats(0.01, 0.5),
    high=st.floats(0.01, 0.5),
    normaliser=st.integers(1, 50),
)
def test_loss_is_the_formula_and_masked_tokens_have_no_part(tokens, weight, low, high, normaliser):
    new, old, ref, advantage, mask = (row(*column) for column in zip(*tokens, strict=True))
    new.requires_grad_()
    loss, clipped, kl = grpo_loss(
        new, old, advantage, mask.bool(), normaliser, low, high, ref, weight
    )
    total = outside = divergence = 0.0
    on_the_edge = 0  # rounding decides whether such a token is outside
    for n, o, f, a, written in tokens:
        ratio = math.exp(n - o)
        on_the_edge += abs(ratio - (1 - low)) < 1e-9
        on_the_edge += abs(ratio - (1 + high)) < 1e-9
        if not written:
            continue
        limit = (1 + high if a > 0 else 1 - low) * a
        outside += ratio * a > limit
        d = f - n
        k3 = math.exp(d) - d - 1
        assert k3 >= -1e-12
        divergence += k3
        total += min(ratio * a, limit) - weight * k3
    assert loss.item() == pytest.approx(-total / normaliser, abs=1e-9)
    assert kl == pytest.approx(divergence, abs=1e-9)
    assert kl >= -1e-12
    assert abs(clipped - outside) <= on_the_edge
    loss.backward()
    assert (new.grad[~mask.bool()] == 0).all()


# ---- update --------------------------------------------------------------------------------------


def sample(policy: Policy, prompts, how: Sampling, seed: int):
    generator = torch.Generator().manual_seed(seed)
    return policy.forward.sample(policy, prompts, how, generator)


def sampled(policy: Policy, n: int = 5, seed: int = 0) -> tuple[list, list[Group]]:
    """Groups of real samples with advantages of every kind; the group at 1 has none."""
    observations = [observe(i, steps=i % 3) for i in range(n)]
    prompts = encode(policy, observations, 2)
    noise = np.random.default_rng(seed)
    groups = []
    samples = sample(policy, prompts, Sampling(2, 4, 1.0, 6), seed)
    for i, (prompt, rollouts) in enumerate(zip(prompts, samples, strict=True)):
        for rollout in rollouts:
            rollout.advantages = [0.0] * 3 if i == 1 else noise.normal(size=3).tolist()
            # An untrained model hardly ever ends a line.
            places = range(len(rollout.completion_ids))
            rollout.step_index = [min(place // 2, 2) for place in places]
        groups.append(Group(None, prompt, rollouts))
    return observations, groups


def no_step(policy: Policy) -> torch.optim.Optimizer:
    return torch.optim.SGD(trainable(policy), lr=0.0)


def gradients(policy: Policy, groups: list[Group], config: Config):
    """What update_policy leaves in weight.grad, with a step of size 0, and its metrics."""
    metrics = update_policy(policy, groups, config, no_step(policy))
    return [weight.grad.clone() for weight in trainable(policy)], metrics


def same(a, b, relative: float = 1e-4) -> bool:
    pairs = zip(a, b, strict=True)
    return all((x - y).norm() <= relative * y.norm() + 1e-12 for x, y in pairs)


def tokens_in(groups: list[Group]) -> int:
    tokens = 0
    for group in groups:
        tokens += sum(len(rollout.completion_ids) for rollout in group.rollouts)
    return tokens


@pytest.mark.parametrize("kl_weight", [0.0, 0.3])
def test_micro_batch_size_does_not_change_the_gradient(tuned, kl_weight):
    with nudge(tuned, eos=2.0):
        _, groups = sampled(tuned)
        lengths = {tokens_in([group]) for group in groups}
        assert len(lengths) > 1  # a mean per micro-batch would show
        config = settings(micro_batch=16, kl_weight=kl_weight)
        whole, metrics = gradients(tuned, groups, config)
        for size in (1, 2, 3):
            config = settings(micro_batch=size, kl_weight=kl_weight)
            part, others = gradients(tuned, groups, config)
            assert same(part, whole)
            assert others == pytest.approx(metrics, rel=1e-4, abs=1e-6)
    assert metrics["grad_norm"] > 0
    assert (metrics["kl"] > 0) == (kl_weight > 0)


def test_the_gradient_is_that_of_plain_rows(tuned):
    """A grad log pi over all tokens of the batch, from one ordinary forward a rollout; the KL term
    against adapters off."""
    with nudge(tuned, eos=2.0):
        observations, groups = sampled(tuned)
        found, metrics = gradients(tuned, groups, settings(kl_weight=0.2))
        tokens = tokens_in(groups)
        for weight in trainable(tuned):
            weight.grad = None
        divergence = 0.0
        for observation, group in zip(observations, groups, strict=True):
            for rollout in group.rollouts:
                written = (observation, rollout.prompt_ids, rollout.completion_ids)
                logprobs = plain_logprobs(tuned, *written)
                with torch.no_grad(), tuned.peft.disable_adapter():
                    base = plain_logprobs(tuned, *written)
                k3 = (base - logprobs).exp() - (base - logprobs) - 1
                divergence += k3.sum().item()
                advantages = torch.tensor([rollout.advantages[s] for s in rollout.step_index])
                loss = -(advantages * logprobs - 0.2 * k3).sum() / tokens
                loss.backward()
    assert same(found, [weight.grad for weight in trainable(tuned)], 1e-3)
    assert metrics["kl"] == pytest.approx(divergence / tokens, rel=1e-3)


def test_a_group_without_signal_only_counts_in_the_normaliser(tuned):
    _, groups = sampled(tuned)
    seen = []

    def completion_logprobs(policy, prompts, *others):
        seen.extend(prompts)
        return SHARED.completion_logprobs(policy, prompts, *others)

    tuned.forward = Forward(SHARED.sample, completion_logprobs)
    everything, _ = gradients(tuned, groups, settings())
    assert [has_signal(group) for group in groups] == [True, False, True, True, True]
    assert len(seen) == 4  # neither forward nor backward
    assert all(prompt is not groups[1].prompt for prompt in seen)
    live = [group for group in groups if has_signal(group)]
    without, _ = gradients(tuned, live, settings())
    share = tokens_in(live) / tokens_in(groups)
    assert same(everything, [gradient * share for gradient in without])


def test_nothing_moves_when_no_group_has_signal(tuned):
    _, groups = sampled(tuned)
    before = [weight.clone() for weight in trainable(tuned)]
    optimizer = torch.optim.AdamW(trainable(tuned), lr=1.0, weight_decay=0.0)
    metrics = update_policy(tuned, [groups[1]] * 2, settings(), optimizer)
    assert metrics == {"loss": 0.0, "grad_norm": 0.0, "clip_ratio": 0.0, "kl": 0.0}
    assert all(torch.equal(w, b) for w, b in zip(trainable(tuned), before, strict=True))


def test_one_step_moves_the_adapters_and_only_them(tiny):
    """Also with a bf16 base at a learning rate of 1e-6, where bf16 adapters would not move."""
    policy = load_policy(tiny, dtype="bfloat16")
    agent.add_lora(policy, 4, 8, 0)
    _, groups = sampled(policy)
    before = {name: w.detach().clone() for name, w in policy.core.named_parameters()}
    optimizer = torch.optim.AdamW(trainable(policy), lr=1e-6, weight_decay=0.0)
    metrics = update_policy(policy, groups, settings(), optimizer)
    moved = {n for n, w in policy.core.named_parameters() if not torch.equal(w, before[n])}
    assert moved == {n for n in before if "lora_B" in n}  # A follows when B is no longer 0
    assert metrics["grad_norm"] > 0


def test_the_ratio_is_1_on_the_first_update_and_the_clip_acts_on_later_ones(tuned):
    _, groups = sampled(tuned)
    objective = 0.0
    for group in groups:
        for rollout in group.rollouts:
            objective += sum(rollout.advantages[step] for step in rollout.step_index)

    def step(updates: int) -> dict:
        optimizer = torch.optim.SGD(trainable(tuned), lr=5.0)
        return update_policy(tuned, groups, settings(updates_per_batch=updates), optimizer)

    first = step(1)
    assert first["clip_ratio"] == 0.0
    assert first["loss"] == pytest.approx(-objective / tokens_in(groups), abs=1e-4)
    assert step(3)["clip_ratio"] > 0.0


def test_gradients_are_scaled_down_to_the_largest_norm(tuned):
    _, groups = sampled(tuned)
    free, metrics = gradients(tuned, groups, settings())
    held, _ = gradients(tuned, groups, settings(max_grad_norm=metrics["grad_norm"] / 10))
    assert same(held, [gradient / 10 for gradient in free], 1e-3)


def test_the_scale_of_float16_leaves_the_gradient_as_it_is(tuned, monkeypatch):
    _, groups = sampled(tuned)
    plain, metrics = gradients(tuned, groups, settings())
    monkeypatch.setattr(train, "gradient_scale", lambda policy: 4096.0)
    scaled, others = gradients(tuned, groups, settings())
    assert same(scaled, plain)
    assert others == pytest.approx(metrics)


def test_a_gradient_that_is_not_finite_moves_nothing_and_is_told(tuned, capfd):
    _, groups = sampled(tuned)
    groups[0].rollouts[0].advantages = [math.inf] * 3
    before = [weight.clone() for weight in trainable(tuned)]
    update_policy(tuned, groups, settings(), torch.optim.SGD(trainable(tuned), lr=1.0))
    assert all(torch.equal(w, b) for w, b in zip(trainable(tuned), before, strict=True))
    assert "the gradient is not finite" in capfd.readouterr().err


def test_grpo_learns_a_trivial_task_in_seconds(policy):
    """Reward 1 for completions that begin with `back`, which the untrained model writes about once
    in a hundred times."""
    agent.add_lora(policy, 8, 16, 0)
    word = policy.tokenizer.convert_tokens_to_ids("back")
    config = settings(max_grad_norm=1.0, horizon=1)
    prompts = encode(policy, [observe(0), observe(1)], 1)
    optimizer = torch.optim.AdamW(trainable(policy), lr=1e-2, weight_decay=0.0)
    rates = []
    for update in range(30):
        groups = []
        right = []
        samples = sample(policy, prompts, Sampling(1, 64, 1.0, 2), seed=update)
        for prompt, rollouts in zip(prompts, samples, strict=True):
            hits = [float(rollout.completion_ids[0] == word) for rollout in rollouts]
            right += hits
            rewards = np.array([[hit, 0.0] for hit in hits])
            advantages = group_advantages(rewards).tolist()
            for rollout, own in zip(rollouts, advantages, strict=True):
                rollout.advantages = own
            groups.append(Group(None, prompt, rollouts))
        rates.append(np.mean(right))
        update_policy(policy, groups, config, optimizer)
    assert np.mean(rates[:3]) < 0.1, rates
    assert np.mean(rates[-5:]) > 0.9, rates


# ---- examples ------------------------------------------------------------------------------------


def test_examples_are_the_same_for_the_same_update(policy):
    config = settings(prompts_per_update=4, train_tasks=20)
    stream = toy_examples(policy, config, "stage1", first=0)
    next(stream)
    second = next(stream)
    again = next(toy_examples(policy, config, "stage1", first=1))
    other_stage = next(toy_examples(policy, config, "stage2", first=1))
    keys = [example.key for example in second]
    assert len(keys) == 4
    assert keys == [example.key for example in again]
    assert keys != [example.key for example in other_stage]


def test_carried_forecasts_are_rolled_forward_from_the_first_state(policy, monkeypatch):
    """Each says how many states came before it and how long the plan in its own prompt was."""
    horizon = 3

    def policy_planner(policy, horizon):
        def plan(observations, envs):
            plans = []
            for seen in observations:
                line = Action("type", f"{len(seen.history)} {len(seen.plan)}")
                plans.append(agent.Plan([Action("back"), line, Action("home")], tokens=2))
            return plans

        return plan

    monkeypatch.setattr(train, "policy_planner", policy_planner)
    config = settings(horizon=horizon, prompts_per_update=40, train_tasks=20, history=99)
    bare = next(toy_examples(policy, config, "stage1", first=0))
    carrying = dataclasses.replace(config, carry_forecast=True)
    carried = next(toy_examples(policy, carrying, "stage1", first=0))
    steps = [len(example.observation.history) for example in bare]
    assert {0, 1, 2} <= set(steps)
    for one, other, before in zip(bare, carried, steps, strict=True):
        assert one.observation.plan == ()
        assert other.reference == one.reference
        assert other.observation.history == one.observation.history
        expected = ()
        if before == 1:  # what was planned in the first state, which had no plan
            expected = (Action("type", "0 0"), Action("home"))
        if before > 1:
            expected = (Action("type", f"{before - 1} 2"), Action("home"))
        assert other.observation.plan == expected


# ---- scoring -------------------------------------------------------------------------------------


def written(*texts: str) -> list[Rollout]:
    rollouts = []
    for text in texts:
        forecast, error = agent.parse_forecast(text, 3)
        rollouts.append(Rollout([], [], [], text, "stop", forecast, error, []))
    return rollouts


def example(seed: int = 0) -> Example:
    env = ToyGUI("test")
    env.reset(seed)
    return env.example(3)


@pytest.mark.parametrize("credit", ["trajectory", "step"])
def test_stage_1_scores_whole_forecasts(credit):
    truth = example()
    whole = agent.format_forecast(truth.reference)
    first = agent.format_forecast(truth.reference[:1])
    group = Group(truth, None, written(whole, first, "fly", "back\nback\nback"))
    config = settings(horizon=3, credit=credit, gamma=0.9, lambda_align=1.0, lambda_rep=0.3)
    score([group], "stage1", config)
    for rollout in group.rollouts:
        readable = rollout.parse_error is None
        expected = trajectory_reward(rollout.forecast, truth.reference, 3, 0.9, 1.0, 0.3, readable)
        assert rollout.reward_terms == expected.terms
        assert rollout.step_rewards == expected.step_rewards
        assert rollout.reward == pytest.approx(sum(expected.step_rewards))
    rewards = [rollout.reward for rollout in group.rollouts]
    by_hand = [1 + 0.9 + 0.81, 1.0, -0.3 * (1 + 0.9 + 0.81 + 0.729)]
    assert rewards[:3] == pytest.approx(by_hand)
    steps = np.array([rollout.step_rewards for rollout in group.rollouts])
    found = [rollout.advantages for rollout in group.rollouts]
    np.testing.assert_allclose(found, group_advantages(steps, credit))
    if credit == "trajectory":
        best = (rewards[0] - np.mean(rewards)) / (np.std(rewards) + 1e-4)
        assert group.rollouts[0].advantages[0] == pytest.approx(best)


def example_with_a_target() -> Example:
    """The first task whose first step points at an element that is on the screen."""
    for seed in range(50):
        candidate = example(seed)
        if any(box in candidate.boxes for _, box in candidate.elements):
            return candidate
    raise AssertionError("no such task")


def test_stage_2_scores_what_the_tool_agent_makes_of_the_first_step():
    truth = example_with_a_target()
    label = next(label for label, box in truth.elements if box in truth.boxes)
    other = next(label for label, box in truth.elements if box not in truth.boxes)
    group = Group(
        truth,
        None,
        written(
            f"click {label}\nfly",
            f"click {other}\n",
            "click Restaurant",
            "",
            f"click {label} (1, 1)",
            "done",
        ),
    )
    score([group], "stage2", settings(horizon=3))
    assert [rollout.reward for rollout in group.rollouts] == [1.0, 0.0, 0.0, 0.0, 1.0, 0.0]
    for rollout in group.rollouts:
        assert rollout.reward_terms == {"grounded": rollout.reward, "reward": rollout.reward}
        assert rollout.step_rewards == [rollout.reward, 0, 0, 0]
        executed = None
        if rollout.forecast:
            executed = find_element(rollout.forecast[0], truth.elements, truth.key)
        assert rollout.reward == grounded_reward(executed, truth.reference[0], truth.boxes)


def test_what_the_tool_agent_refuses_is_counted():
    truth = example_with_a_target()
    group = Group(truth, None, written("click a", "click b", "fly"))

    def tool_agent(actions, examples):
        assert examples == [truth, truth]
        return [actions[0], None]

    assert score([group], "stage2", settings(horizon=3), tool_agent) == 1
    assert score([group], "stage1", settings(horizon=3), tool_agent) == 0


def test_a_filler_that_becomes_a_plan_is_paid_nothing():
    truth = dataclasses.replace(
        example_with_a_target(),
        reference=(*example_with_a_target().reference[:1], Action("click", "Lima")),
        goals=(),
    )
    label = next(label for label, box in truth.elements if box in truth.boxes)
    texts = (f"click {label}\nclick Lima", f"click {label}\nclick Papa", f"click {label}")
    for keep, rewards in ((True, [1.0, 0.0, 0.0]), (False, [1.0, 1.0, 1.0])):
        group = Group(truth, None, written(*texts))
        score([group], "stage2", settings(horizon=3, keep_filler=keep))
        assert [rollout.reward for rollout in group.rollouts] == rewards


def test_far_first_credits_in_the_order_of_writing():
    """The action that is executed is written last: it gets no credit for what stands before it."""
    truth = example()
    first = agent.format_forecast(truth.reference[:1])
    rollouts = written(agent.format_forecast(truth.reference), first)
    config = settings(horizon=3, credit="step", order="far", std_normalise=False)
    score([Group(truth, None, rollouts)], "stage1", config)
    steps = np.array([rollout.step_rewards for rollout in rollouts])
    expected = group_advantages(steps[:, ::-1], "step", False)[:, ::-1]
    np.testing.assert_allclose([rollout.advantages for rollout in rollouts], expected)


def test_groups_of_equal_rewards_have_no_signal():
    truth = example()
    same_text = Group(truth, None, written(*["back"] * 4))
    right = agent.format_forecast(truth.reference)
    mixed = Group(truth, None, written("back", right, "back", "back"))
    score([same_text, mixed], "stage1", settings(horizon=3))
    assert not has_signal(same_text)
    assert has_signal(mixed)


# ---- a stage -------------------------------------------------------------------------------------


def test_the_same_seed_gives_the_same_metrics(tiny, tmp_path):
    one = train_stage1(small(tmp_path / "one", tiny))
    two = train_stage1(small(tmp_path / "two", tiny))
    for name in ("metrics.jsonl", "rollouts.jsonl"):
        first = (tmp_path / "one" / name).read_bytes()
        assert first == (tmp_path / "two" / name).read_bytes()
        assert first.count(b"\n") >= 4
    assert all(torch.equal(a, b) for a, b in zip(one, two, strict=True))
    text = (tmp_path / "one" / "metrics.jsonl").read_text()
    lines = [json.loads(line) for line in text.splitlines()]
    assert [line["update"] for line in lines] == [0, 1, 2, 3]
    assert all(line["stage"] == "stage1" for line in lines)
    rewards = {"reward", "align", "repeat", "overrun"}
    learning = {"loss", "grad_norm", "clip_ratio", "kl", "frac_zero_std", "entropy"}
    assert rewards | learning <= set(lines[0])


def test_another_seed_gives_other_metrics(tiny, tmp_path):
    for seed in (0, 1):
        train_stage1(small(tmp_path / str(seed), tiny, seed=seed))
    one = (tmp_path / "0" / "metrics.jsonl").read_text()
    assert one != (tmp_path / "1" / "metrics.jsonl").read_text()


def test_the_reference_forward_trains_too(tiny, tmp_path):
    config = small(tmp_path, tiny, forward="reference")
    run, policy = open_run(config)
    assert policy.forward is agent.REFERENCE
    agent.add_lora(policy, config.lora_rank, config.lora_alpha, config.seed)
    run_stage(policy, config, "stage1", run)
    assert len(run.read_metrics()) == 4


def test_many_unreadable_answers_are_warned_about(tiny, tmp_path, capfd, monkeypatch):
    monkeypatch.setattr(agent, "parse_forecast", lambda *_, **__: ([], "nothing to read"))
    config = Config(
        output_dir=str(tmp_path / "run"),
        model=str(tiny),
        prompts_per_update=1,
        group_size=2,
        stage1_updates=12,
        horizon=1,
        lora_rank=4,
    )
    train_stage1(config)
    errors = capfd.readouterr().err
    assert errors.count("more than half of the answers could not be read") == 1
    assert errors.count("almost nothing to learn from") == 1


# ---- flags ---------------------------------------------------------------------------------------


def test_defaults_are_the_config_and_what_suits_the_world():
    assert parse_config([]) == dataclasses.replace(Config(), **ToyMap.suits)
    assert parse_config(["--env", "toy-gui"]) == dataclasses.replace(Config(), env="toy-gui")


def test_a_flag_that_is_given_wins_over_what_suits_the_world():
    config = parse_config(["--order", "near", "--no-control"])
    assert (config.order, config.control) == ("near", False)
    assert config.warmup_steps == ToyMap.suits["warmup_steps"]


def test_a_model_or_data_of_ones_own_is_for_the_settings_world_in_the_papers_order(tmp_path):
    for argv in (["--model", "somewhere"], ["--data", f"androidcontrol:{tmp_path}"]):
        config = parse_config(argv)
        assert (config.env, config.order, config.control) == ("toy-gui", "near", False)


def test_help_says_the_defaults_of_the_world(capsys):
    with pytest.raises(SystemExit):
        parse_config(["--env", "toy-gui", "--help"])
    settings_world = capsys.readouterr().out
    with pytest.raises(SystemExit):
        parse_config(["--help"])
    assert "(default: 600)" in capsys.readouterr().out
    assert "(default: 600)" not in settings_world


def another_value(field: dataclasses.Field, folder):
    """A legal value that is not the default."""
    special = {
        "credit": "trajectory",
        "order": "far",
        "stages": "warmup,stage2",
        "eval_split": "dev",
        "data": f"androidcontrol:{folder}",
        "gamma": 0.5,
        "demo_noise": 0.5,
        "output_dir": "elsewhere",
        "model": "somewhere",
        "warmup_dir": "there",
        "env": "toy-tools",
        "tool_agent": "somewhere",
        "load_in_4bit": True,
        "forward": "reference",
        "thinking": 64,
        "warmup_lessons": "left_out",
    }
    if field.name in special:
        return special[field.name]
    if isinstance(field.default, bool):
        return not field.default
    return field.default + 1


@pytest.mark.parametrize("field", dataclasses.fields(Config), ids=lambda field: field.name)
def test_every_field_is_a_flag_with_its_reason(field, tmp_path):
    value = another_value(field, tmp_path)
    env = "toy-map" if field.name in ("silent_hops", "keep_filler") else "toy-gui"
    suits = getattr(find_world(env), "suits", {})
    argv = ["--env", env]
    if field.name == "keep_filler":  # goes with fillers alone
        suits = suits | {"warmup_lessons": "goal"}
        argv += ["--warmup_lessons", "goal"]
    if value is True:
        argv += [f"--{field.name}"]
    elif value is False:
        argv += [f"--no-{field.name}"]
    else:
        argv += [f"--{field.name}", str(value)]
    expected = dataclasses.replace(Config(), **{"env": env, **suits, field.name: value})
    if expected.model:  # defaults for a hub model
        expected = dataclasses.replace(
            expected, learning_rate=2e-5, gradient_checkpointing=True, micro_batch=1
        )
    assert parse_config(argv) == expected
    assert len(field.metadata["help"]) > 10


def test_a_flag_that_is_given_wins_over_what_suits_a_hub_model():
    config = parse_config(["--model", "somewhere", "--micro_batch", "3"])
    assert config.micro_batch == 3
    assert config.gradient_checkpointing


def test_help_has_its_flags_in_groups():
    parser = train.make_parser()
    titles = [group.title for group in parser._action_groups]
    assert {"the run", "model", "GRPO", "exams"} <= set(titles)
    without_a_group = [action.dest for action in parser._optionals._group_actions]
    assert without_a_group == ["help"]


BAD = {
    "horizon": (0, -1),
    "history": (-1,),
    "group_size": (0, 1),
    "prompts_per_update": (0,),
    "micro_batch": (0,),
    "updates_per_batch": (0,),
    "train_tasks": (0,),
    "warmup_batch": (0,),
    "warmup_horizon": (0,),
    "reading_steps": (0,),
    "silent_batches": (0,),
    "warmup_steps": (-1,),
    "eval_tasks": (0,),
    "save_every": (0,),
    "lora_rank": (0,),
    "stage1_updates": (-1,),
    "stage2_updates": (-1,),
    "keep_groups": (-1,),
    "threads": (-1,),
    "gamma": (-0.1, 1.1, "nan"),
    "temperature": (0, -1, "nan"),
    "demo_noise": (-0.1, 1.1, "nan"),
    "lambda_rep": (-0.1, "nan"),
    "lambda_align": (-0.1, "nan"),
    "kl_weight": (-0.1, "nan"),
    "clip_low": (-0.1, "nan"),
    "clip_high": (-0.1, "nan"),
    "learning_rate": (-1e-3, "nan"),
    "warmup_lr": (-1e-3, "nan"),
    "max_grad_norm": (0, "nan"),
    "max_pixels": (-1,),
    "sample_batch": (-1,),
    "thinking": (-1, 1),
    "credit": ("none",),
    "order": ("middle",),
    "stages": ("stage3", ""),
    "eval_split": ("tset", "tool"),
    "env": ("toy",),
    "data": ("nosuch:/", "androidcontrol:/no/such/folder"),
    "forward": ("fast", ""),
    "warmup_lessons": ("all", ""),
}
BAD_FLAGS = []
for bad_name, bad_values in BAD.items():
    BAD_FLAGS += [(bad_name, bad_value) for bad_value in bad_values]


@pytest.mark.parametrize(("name", "value"), BAD_FLAGS)
def test_a_value_that_cannot_work_is_named_in_one_line(name, value, dies):
    assert f"--{name}" in dies(parse_config, [f"--{name}={value}"])


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--horizon", "13"], "--horizon 13: the tiny model can be asked for 12 steps at most"),
        (["--warmup_horizon", "13"], "--warmup_horizon 13: the tiny model"),
        (["--train_tasks", "1000001"], "--train_tasks 1000001: must be at most 1000000"),
        (["--warmup_lessons", "stranger", "--warmup_batch", "4"], "--warmup_batch 4"),
        (
            ["--model", "x", "--env", "toy-map", "--silent_hops", "1"],
            "--silent_hops is for the warm",
        ),
        (["--model", "x", "--reading_steps", "5"], "--reading_steps is for the warm start"),
        (["--keep_filler"], "--keep_filler is for --warmup_lessons goal"),
        (["--tool_agent", "base"], "the tiny model cannot answer"),
        (["--env", "toy-gui", "--silent_hops", "1"], "--silent_hops is for the toy map"),
        (["--env", "toy-gui", "--warmup_lessons", "goal"], "goal is for the toy map"),
        (["--env", "toy-tools", "--warmup_lessons", "stranger"], "stranger is for the toy map"),
    ],
)
def test_what_the_model_or_the_world_cannot_do_is_told_before_the_warm_start(argv, message, dies):
    assert message in dies(parse_config, argv)


def test_what_recorded_data_or_other_tools_have_not_is_refused(tmp_path, dies):
    data = ["--data", f"agentnet:{tmp_path}"]
    for flag in ("--carry_forecast", "--forecast_states"):
        assert flag in dies(parse_config, [*data, flag])
    tools = ["--env", "toy-tools", "--tool_agent", "ocr"]
    assert "--tool_agent ocr: toy-tools has tools of its own" in dies(parse_config, tools)


def test_a_hub_model_can_be_asked_for_more_steps():
    assert parse_config(["--model", "somewhere", "--horizon", "20"]).horizon == 20


@pytest.mark.parametrize(
    "argv",
    [
        ["--horizon", "five"],
        ["--gamma", "x"],
        ["--no_such_flag", "1"],
        ["--horizon"],
        ["--resume", "yes"],
    ],
)
def test_what_is_no_value_at_all_ends_with_code_2(argv, capsys):
    with pytest.raises(SystemExit) as end:
        parse_config(argv)
    assert end.value.code == 2
    last_line = capsys.readouterr().err.splitlines()[-1]
    assert argv[0] in last_line or argv == ["--resume", "yes"]


@pytest.mark.parametrize("flag", ["--warmup_lessons=next", "--warmup_horizon=1"])
def test_own_plans_need_a_start_that_writes_some(flag, dies):
    assert "--warmup_own_plans" in dies(parse_config, [flag, "--warmup_own_plans"])


def test_without_its_name_the_warm_start_is_made_all_the_same():
    """As the help says: only --model does without one."""
    why = Config.__dataclass_fields__["stages"].metadata["help"]
    assert "The warm start is made in any case" in why
    without = parse_config(["--stages", "stage1"])
    assert train.warm_start_settings(without) == train.warm_start_settings(parse_config([]))


# ---- the model that the adapters stand on --------------------------------------------------------


def test_a_resumed_run_keeps_its_own_warm_start(tmp_path, monkeypatch, dies):
    """Whatever code or machine made it: its adapters mean nothing on another one."""
    flags = ["--output_dir", str(tmp_path / "run"), "--warmup_dir", str(tmp_path / "warm")]
    config = parse_config(flags)
    resumed = dataclasses.replace(config, resume=True)
    old = tmp_path / "warm" / "of_older_code"
    run = SimpleNamespace(before={"base": str(old)})
    made = []

    def make(settings, folder):
        made.append(folder)
        return tmp_path / "warm" / "new"

    monkeypatch.setattr(train, "warm_base", make)
    assert find_base(config, run) == tmp_path / "warm" / "new"
    made.clear()
    message = dies(find_base, resumed, run)
    assert str(old) in message and "is gone" in message
    old.mkdir(parents=True)
    assert find_base(resumed, run) == old
    assert made == []
    # One that is gone is made again where that gives the same.
    same = start_folder(train.warm_start_settings(config), config.warmup_dir)
    run.before["base"] = str(same)
    find_base(resumed, run)
    assert made == [config.warmup_dir]
    named = dataclasses.replace(resumed, model="somewhere")
    assert find_base(named, run) == Path("somewhere")


# ---- the control ---------------------------------------------------------------------------------


def test_the_control_differs_in_looking_ahead_alone():
    config = parse_config(["--env", "toy-gui", "--control", "--output_dir", "runs/a"])
    control = train.reactive_control(config)
    expected = dataclasses.replace(
        config,
        output_dir="runs/a/reactive",
        control=False,
        horizon=1,
        stages="warmup,stage2",
        stage2_updates=config.stage1_updates + config.stage2_updates,
    )
    assert control == expected
    assert train.warm_start_settings(control) == train.warm_start_settings(config)


def test_a_shortened_flag_is_none(capsys):
    with pytest.raises(SystemExit):
        parse_config(["--en", "toy-gui"])
    assert "--en" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("stages", "updates"), [("warmup,stage1", 300), ("stage2", 200), ("stage1,stage2", 500)]
)
def test_the_control_has_as_many_updates(stages, updates):
    control = train.reactive_control(parse_config(["--stages", stages]))
    assert control.stage2_updates == updates


@pytest.mark.parametrize(
    ("argv", "has"),
    [
        ([], True),
        (["--no-control"], False),
        (["--stages", "warmup"], False),  # nothing is trained
        (["--horizon", "1"], False),  # it is one itself
        (["--env", "toy-gui"], False),
        (["--env", "toy-gui", "--control"], True),
    ],
)
def test_which_runs_have_a_control(argv, has):
    assert train.has_control(parse_config(argv)) == has


def test_a_model_of_ones_own_has_no_control(dies, tmp_path):
    assert "--horizon 1" in dies(parse_config, ["--control", "--model", "somewhere"])
    data = f"androidcontrol:{tmp_path}"
    assert "--horizon 1" in dies(parse_config, ["--control", "--data", data])


# ---- more mistakes -------------------------------------------------------------------------------


def test_a_full_gpu_names_the_flags(dies, monkeypatch):
    def full(*_):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB\nand so on")

    monkeypatch.setattr(train, "parse_config", full)
    message = dies(train.main)
    flags = ("--micro_batch", "--sample_batch", "--max_pixels", "--thinking", "--load_in_4bit")
    for flag in flags:
        assert flag in message


def test_a_wrong_tool_agent_leaves_no_run_behind(tiny, tmp_path, dies):
    argv = ["--model", str(tiny), "--output_dir", str(tmp_path / "run"), "--threads=1"]
    assert "/no/such/model" in dies(train.main, [*argv, "--tool_agent", "/no/such/model"])
    assert [path.name for path in (tmp_path / "run").iterdir()] == [".lock"]


def test_it_is_told_before_the_warm_start_is_made(tmp_path, dies):
    argv = ["--output_dir", str(tmp_path / "run"), "--warmup_dir", str(tmp_path / "warmup")]
    assert "/no/such/model" in dies(train.main, [*argv, "--tool_agent", "/no/such/model"])
    assert not (tmp_path / "warmup").exists()


def test_a_model_finds_the_memory_free_of_its_tool_agent(tiny, tmp_path, monkeypatch):
    """How it is loaded depends on that."""
    loaded = []

    def load_noted(*what, **how):
        loaded.append("policy")
        return load_policy(*what, **how)

    def load_tool_agent(*_):
        loaded.append("tool agent")
        raise SystemExit

    monkeypatch.setattr(train, "load_policy", load_noted)
    monkeypatch.setattr(train, "load_tool_agent", load_tool_agent)
    with pytest.raises(SystemExit):
        train.main(["--model", str(tiny), "--tool_agent", "x", "--output_dir", str(tmp_path)])
    assert loaded == ["policy", "tool agent"]


# ---- from end to end -----------------------------------------------------------------------------


def shorten_courses(world: type, monkeypatch) -> None:
    """What the world wants to be taught before imitation is taught for two batches."""
    if not hasattr(world, "courses"):
        return
    courses = world.courses

    def short(settings):
        return [dataclasses.replace(course, batches=2) for course in courses(settings)]

    monkeypatch.setattr(world, "courses", staticmethod(short))


def check_control(run: Path) -> None:
    """A run of its own, with as many updates, whose result stands beside the phases."""
    control = run / "reactive"
    lines = [json.loads(line) for line in (control / "metrics.jsonl").read_text().splitlines()]
    assert [line["stage"] for line in lines] == ["stage2"] * 4
    own = json.loads((control / "results.json").read_text())["test"]["stage2"]
    assert json.loads((run / "results.json").read_text())["test"]["reactive"] == own
    assert (control / "adapter").exists()


@pytest.mark.slow
@pytest.mark.parametrize("env", WORLDS)
def test_a_whole_small_run_twice(env, tmp_path, monkeypatch, dies):
    monkeypatch.chdir(tmp_path)
    shorten_courses(WORLDS[env], monkeypatch)
    tiny_settings = {
        "horizon": 2,
        "group_size": 4,
        "prompts_per_update": 2,
        "stage1_updates": 2,
        "stage2_updates": 2,
        "reading_steps": 2,
        "warmup_steps": 2,
        "warmup_batch": 2,
        "train_tasks": 20,
        "eval_tasks": 3,
        "warmup_dir": "warmup",
        "threads": 1,
        "env": env,
    }
    flags = [f"--{name}={value}" for name, value in tiny_settings.items()]
    for name in ("one", "two"):
        train.main([*flags, "--output_dir", name])
    one = tmp_path / "one"
    metrics = (one / "metrics.jsonl").read_bytes()
    assert metrics == (tmp_path / "two" / "metrics.jsonl").read_bytes()
    names = {path.name for path in one.iterdir()}
    assert {"config.json", "metrics.jsonl", "rollouts.jsonl", "results.json"} <= names
    assert {"curves.png", "episode.png", "adapter", "stage1"} <= names
    results = json.loads((one / "results.json").read_text())
    phases = ["warmup", "stage1", "stage2", "random", "oracle"]
    if env == "toy-map":
        phases.append("reactive")
        check_control(one)
    assert list(results["test"]) == phases
    assert results["seed"] == 0
    assert results["seconds"]
    for result in results["test"].values():
        low, high = result["ci95"]
        assert result["n"] == 3
        assert 0 <= low <= result["success"] <= high <= 1
    assert read_run("one")["horizon"] == 2
    names = {path.name for path in (tmp_path / "warmup").iterdir()}
    assert len(names) == 2 and "lessons" in names  # the warm start was reused

    assert "one" in dies(train.main, [*flags, "--output_dir", "one"])
    train.main([*flags, "--output_dir", "one", "--resume"])
    assert (one / "metrics.jsonl").read_bytes() == metrics

    train.main([*flags, "--output_dir", "only_warm", "--stages", "warmup"])
    results = json.loads((tmp_path / "only_warm" / "results.json").read_text())
    assert list(results["test"]) == ["warmup", "random", "oracle"]
