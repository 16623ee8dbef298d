"""train.py: the loss by hand, the update against plain gradients, a task that is learnt in seconds, resuming, flags."""

import dataclasses
import json
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from test_agent import nudge, observe, plain_logprobs

import agent
import train
from agent import Group, Policy, Rollout, Sampling, encode, load_policy, sample, trainable
from envs import TOYS, Example, ToyGUI, ground
from rewards import grounded_reward, group_advantages, trajectory_reward
from train import Config, Run, grpo_loss, has_signal, parse_config, run_stage, score, update_policy

# ---- loss ----------------------------------------------------------------------------------------------------------------------


def row(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64).view(1, 1, -1)


@pytest.mark.parametrize(("ratio", "advantage", "objective", "slope", "outside"), [
    (1.0, 2.0, 2.0, 2.0, 0),        # on-policy: A, and the gradient is A grad log pi
    (1.1, 2.0, 2.2, 2.2, 0),        # inside the clip
    (0.9, -1.0, -0.9, -0.9, 0),
    (1.5, 1.0, 1.2, 0.0, 1),        # good and already likelier by more than clip_high: no more
    (1.5, -1.0, -1.5, -1.5, 0),     # bad and likelier: all the way back
    (0.5, 1.0, 0.5, 0.5, 0),        # good and less likely: all the way back
    (0.5, -1.0, -0.8, 0.0, 1),      # bad and already less likely by more than clip_low: no more
    (1.5, 0.0, 0.0, 0.0, 0),        # no advantage, no gradient
])
def test_clip_cases_by_hand(ratio, advantage, objective, slope, outside):
    old = row(-2.0)
    new = (old + math.log(ratio)).requires_grad_()
    loss, clipped, kl = grpo_loss(new, old, row(advantage), row(1.0).bool(), normaliser=4)
    loss.backward()
    assert loss.item() == pytest.approx(-objective / 4) and new.grad.item() == pytest.approx(-slope / 4)
    assert (clipped, kl) == (outside, 0.0)


@pytest.mark.parametrize(("ratio", "advantage", "objective"), [
    (1.25, 1.0, 1.25), (1.35, 1.0, 1.3), (0.85, -1.0, -0.9), (0.92, -1.0, -0.92)])
def test_the_two_clips_are_separate(ratio, advantage, objective):
    loss, _, _ = grpo_loss(row(math.log(ratio)), row(0.0), row(advantage), row(1.0), 1, clip_low=0.1, clip_high=0.3)
    assert loss.item() == pytest.approx(-objective)


def test_kl_by_hand():
    """d = log ref - log pi = ln 2: exp(d) - d - 1 = 1 - ln 2; its slope in log pi is 1 - exp(d) = -1."""
    new = row(-1.0).requires_grad_()
    loss, _, kl = grpo_loss(new, row(-1.0), row(0.0), row(1.0), 2, ref_logprobs=row(-1.0 + math.log(2)), kl_weight=0.5)
    loss.backward()
    assert kl == pytest.approx(1 - math.log(2)) and loss.item() == pytest.approx(0.5 * (1 - math.log(2)) / 2)
    assert new.grad.item() == pytest.approx(0.5 * -1.0 / 2)
    assert grpo_loss(row(-1.0), row(-1.0), row(3.0), row(1.0), 1, ref_logprobs=row(-1.0), kl_weight=9.0)[2] == 0.0


numbers = st.lists(st.tuples(*[st.floats(-3, 0)] * 3, st.floats(-2, 2), st.booleans()), min_size=1, max_size=8)


@given(numbers, st.floats(0, 1), st.floats(0.01, 0.5), st.floats(0.01, 0.5), st.integers(1, 50))
def test_loss_is_the_formula_and_masked_tokens_have_no_part(rows, weight, low, high, normaliser):
    new, old, ref, advantage, mask = (row(*column) for column in zip(*rows, strict=True))
    new.requires_grad_()
    loss, clipped, kl = grpo_loss(new, old, advantage, mask.bool(), normaliser, low, high, ref, weight)
    total = outside = divergence = 0.0
    for n, o, f, a, m in rows:
        if m:
            ratio, d = math.exp(n - o), f - n
            limit = (1 + high if a > 0 else 1 - low) * a
            outside += ratio * a > limit
            k3 = math.exp(d) - d - 1
            assert k3 >= -1e-12
            divergence += k3
            total += min(ratio * a, limit) - weight * k3
    assert loss.item() == pytest.approx(-total / normaliser, abs=1e-9) and kl == pytest.approx(divergence, abs=1e-9) and kl >= -1e-12
    assert abs(clipped - outside) <= sum(abs(math.exp(n - o) - edge) < 1e-9 for n, o, *_ in rows for edge in (1 - low, 1 + high))
    loss.backward()
    assert (new.grad[~mask.bool()] == 0).all()


# ---- update ------------------------------------------------------------------------------------------------------------------


def settings(**changes) -> Config:
    return dataclasses.replace(Config(horizon=2, group_size=4, max_grad_norm=1e9), **changes)


def sampled(policy: Policy, n: int = 5, seed: int = 0) -> tuple[list, list[Group]]:
    """Groups of real samples with advantages of every kind; the group at 1 has none."""
    observations = [observe(i, steps=i % 3) for i in range(n)]
    prompts, noise = encode(policy, observations, 2), np.random.default_rng(seed)
    found = sample(policy, prompts, Sampling(2, 4, 1.0, 6), torch.Generator().manual_seed(seed))
    for i, rollouts in enumerate(found):
        for r in rollouts:
            r.advantages = [0.0] * 3 if i == 1 else noise.normal(size=3).tolist()
            r.step_index = [min(t // 2, 2) for t in range(len(r.completion_ids))]  # an untrained model hardly ever ends a line
    return observations, [Group(None, prompt, rollouts) for prompt, rollouts in zip(prompts, found, strict=True)]


def gradients(policy: Policy, groups: list[Group], config: Config) -> tuple[list[torch.Tensor], dict]:
    """What update_policy leaves in p.grad, with a step of size 0."""
    found = update_policy(policy, groups, config, torch.optim.SGD(trainable(policy), lr=0.0))
    return [p.grad.clone() for p in trainable(policy)], found


def same(a, b, relative: float = 1e-4) -> bool:
    return all((x - y).norm() <= relative * y.norm() + 1e-12 for x, y in zip(a, b, strict=True))


@pytest.mark.parametrize("kl_weight", [0.0, 0.3])
def test_micro_batch_size_does_not_change_the_gradient(tuned, kl_weight):
    with nudge(tuned, eos=2.0):
        _, groups = sampled(tuned)
        assert len({sum(len(r.completion_ids) for r in g.rollouts) for g in groups}) > 1  # a mean per micro-batch would show
        whole, numbers = gradients(tuned, groups, settings(micro_batch=16, kl_weight=kl_weight))
        for size in (1, 2, 3):
            part, others = gradients(tuned, groups, settings(micro_batch=size, kl_weight=kl_weight))
            assert same(part, whole) and others == pytest.approx(numbers, rel=1e-4, abs=1e-6)
    assert numbers["grad_norm"] > 0 and (numbers["kl"] > 0) == (kl_weight > 0)


def test_the_gradient_is_that_of_plain_rows(tuned):
    """A grad log pi over all tokens of the batch, from one ordinary forward a rollout; the KL term against adapters off."""
    with nudge(tuned, eos=2.0):
        observations, groups = sampled(tuned)
        found, numbers = gradients(tuned, groups, settings(kl_weight=0.2))
        tokens = sum(len(r.completion_ids) for g in groups for r in g.rollouts)
        for p in trainable(tuned):
            p.grad = None
        divergence = 0.0
        for observation, group in zip(observations, groups, strict=True):
            for r in group.rollouts:
                logprobs = plain_logprobs(tuned, observation, r.prompt_ids, r.completion_ids)
                with torch.no_grad(), tuned.peft.disable_adapter():
                    base = plain_logprobs(tuned, observation, r.prompt_ids, r.completion_ids)
                k3 = (base - logprobs).exp() - (base - logprobs) - 1
                divergence += k3.sum().item()
                (-(torch.tensor([r.advantages[s] for s in r.step_index]) * logprobs - 0.2 * k3).sum() / tokens).backward()
    assert same(found, [p.grad for p in trainable(tuned)], 1e-3)
    assert numbers["kl"] == pytest.approx(divergence / tokens, rel=1e-3)


def test_a_group_without_signal_only_counts_in_the_normaliser(tuned, monkeypatch):
    _, groups = sampled(tuned)
    seen, real = [], train.completion_logprobs
    monkeypatch.setattr(train, "completion_logprobs", lambda policy, prompts, *rest: seen.extend(prompts) or real(policy, prompts, *rest))
    everything, _ = gradients(tuned, groups, settings())
    assert [has_signal(g) for g in groups] == [True, False, True, True, True]
    assert len(seen) == 4 and all(p is not groups[1].prompt for p in seen)  # neither forward nor backward
    live = [g for g in groups if has_signal(g)]
    without, _ = gradients(tuned, live, settings())
    count = lambda some: sum(len(r.completion_ids) for g in some for r in g.rollouts)  # noqa: E731
    assert same(everything, [g * count(live) / count(groups) for g in without])


def test_nothing_moves_when_no_group_has_signal(tuned):
    _, groups = sampled(tuned)
    before = [p.clone() for p in trainable(tuned)]
    found = update_policy(tuned, [groups[1]] * 2, settings(), torch.optim.AdamW(trainable(tuned), lr=1.0, weight_decay=0.0))
    assert found == {"loss": 0.0, "grad_norm": 0.0, "clip_ratio": 0.0, "kl": 0.0}
    assert all(torch.equal(p, b) for p, b in zip(trainable(tuned), before, strict=True))


def test_one_step_moves_the_adapters_and_only_them(tiny):
    """Also with a bf16 base at a learning rate of 1e-6, where bf16 adapters would not move at all."""
    policy = load_policy(tiny, dtype="bfloat16")
    agent.add_lora(policy, 4, 8, 0)
    _, groups = sampled(policy)
    before = {n: p.detach().clone() for n, p in policy.core.named_parameters()}
    found = update_policy(policy, groups, settings(), torch.optim.AdamW(trainable(policy), lr=1e-6, weight_decay=0.0))
    moved = {n for n, p in policy.core.named_parameters() if not torch.equal(p, before[n])}
    assert moved == {n for n in before if "lora_B" in n} and found["grad_norm"] > 0  # A follows when B is no longer 0


def test_the_ratio_is_1_on_the_first_update_and_the_clip_acts_on_later_ones(tuned):
    _, groups = sampled(tuned)
    tokens = sum(len(r.completion_ids) for g in groups for r in g.rollouts)
    step = lambda k: update_policy(tuned, groups, settings(updates_per_batch=k), torch.optim.SGD(trainable(tuned), lr=5.0))  # noqa: E731
    total = sum(r.advantages[s] for g in groups for r in g.rollouts for s in r.step_index)
    first = step(1)
    assert first["clip_ratio"] == 0.0 and first["loss"] == pytest.approx(-total / tokens, abs=1e-4)
    assert step(3)["clip_ratio"] > 0.0


def test_gradients_are_scaled_down_to_the_largest_norm(tuned):
    _, groups = sampled(tuned)
    free, numbers = gradients(tuned, groups, settings())
    held, _ = gradients(tuned, groups, settings(max_grad_norm=numbers["grad_norm"] / 10))
    assert same(held, [g / 10 for g in free], 1e-3)


def test_grpo_learns_a_trivial_task_in_seconds(tiny):
    """Reward 1 for completions that begin with `back`, which the untrained model writes about once in a hundred times."""
    policy = load_policy(tiny)
    agent.add_lora(policy, 8, 16, 0)
    word, config = policy.tokenizer.convert_tokens_to_ids("back"), settings(max_grad_norm=1.0, horizon=1)
    prompts = encode(policy, [observe(0), observe(1)], 1)
    optimizer = torch.optim.AdamW(trainable(policy), lr=1e-2, weight_decay=0.0)
    rates = []
    for update in range(30):
        groups = [Group(None, prompt, rollouts) for prompt, rollouts in
                  zip(prompts, sample(policy, prompts, Sampling(1, 64, 1.0, 2), torch.Generator().manual_seed(update)), strict=True)]
        for group in groups:
            rewards = np.array([[float(r.completion_ids[0] == word), 0.0] for r in group.rollouts])
            for r, a in zip(group.rollouts, group_advantages(rewards).tolist(), strict=True):
                r.advantages = a
        rates.append(np.mean([r.completion_ids[0] == word for g in groups for r in g.rollouts]))
        update_policy(policy, groups, config, optimizer)
    assert np.mean(rates[:3]) < 0.1 and np.mean(rates[-5:]) > 0.9, rates


# ---- scoring -----------------------------------------------------------------------------------------------------------------


def written(*texts: str) -> list[Rollout]:
    parsed = [agent.parse_forecast(text, 3) for text in texts]
    return [Rollout([], [], [], text, "stop", forecast, error, []) for text, (forecast, error) in zip(texts, parsed, strict=True)]


def example(seed: int = 0) -> Example:
    env = ToyGUI("test")
    env.reset(seed)
    return env.example(3)


@pytest.mark.parametrize("credit", ["trajectory", "step"])
def test_stage_1_scores_whole_forecasts(credit):
    truth = example()
    texts = [agent.format_forecast(truth.reference), agent.format_forecast(truth.reference[:1]), "fly", "back\nback\nback"]
    group, config = Group(truth, None, written(*texts)), settings(horizon=3, credit=credit, gamma=0.9, lambda_align=1.0, lambda_rep=0.3)
    score([group], "stage1", config)
    for r in group.rollouts:
        terms, steps = trajectory_reward(r.forecast, truth.reference, 3, 0.9, 1.0, 0.3, r.parse_error is None)
        assert r.reward_terms == terms and r.step_rewards == steps and r.reward == pytest.approx(sum(steps))
    rewards = [r.reward for r in group.rollouts]
    assert rewards[:3] == pytest.approx([1 + 0.9 + 0.81, 1.0, -0.3 * (1 + 0.9 + 0.81 + 0.729)])
    expected = group_advantages(np.array([r.step_rewards for r in group.rollouts]), credit)
    np.testing.assert_allclose([r.advantages for r in group.rollouts], expected)
    if credit == "trajectory":
        assert group.rollouts[0].advantages[0] == pytest.approx((rewards[0] - np.mean(rewards)) / (np.std(rewards) + 1e-4))


def test_stage_2_scores_what_the_tool_agent_makes_of_the_first_step():
    truth = next(e for e in map(example, range(50)) if e.boxes and any(box in e.boxes for _, box in e.elements))
    label = next(label for label, box in truth.elements if box in truth.boxes)
    other = next(label for label, box in truth.elements if box not in truth.boxes)
    group = Group(truth, None, written(f"click {label}\nfly", f"click {other}\n", "click Restaurant", "", f"click {label} (1, 1)", "done"))
    score([group], "stage2", settings(horizon=3))
    assert [r.reward for r in group.rollouts] == [1.0, 0.0, 0.0, 0.0, 1.0, 0.0]
    for r in group.rollouts:
        assert r.reward_terms == {"grounded": r.reward, "reward": r.reward} and r.step_rewards == [r.reward, 0, 0, 0]
        executed = ground(r.forecast[0], truth.elements, truth.key) if r.forecast else None
        assert r.reward == grounded_reward(executed, truth.reference[0], truth.boxes)


def test_groups_of_equal_rewards_have_no_signal():
    truth = example()
    same_text = Group(truth, None, written(*["back"] * 4))
    mixed = Group(truth, None, written("back", agent.format_forecast(truth.reference), "back", "back"))
    score([same_text, mixed], "stage1", settings(horizon=3))
    assert not has_signal(same_text) and has_signal(mixed)


# ---- a stage, twice and interrupted ---------------------------------------------------------------------------------------------


def small(folder, tiny, **changes) -> Config:
    return settings(output_dir=str(folder), model=str(tiny), prompts_per_update=3, stage1_updates=4, save_every=2, train_tasks=20,
                    max_grad_norm=1.0, lora_rank=4, **changes)


def student(config: Config) -> Policy:
    policy = load_policy(config.model)
    agent.add_lora(policy, config.lora_rank, config.lora_alpha, config.seed)
    return policy


def test_the_same_seed_gives_the_same_metrics_and_a_resumed_run_too(tiny, tmp_path, monkeypatch):
    ends = []
    for name in ("first", "second"):
        policy, run = student(small(tmp_path / name, tiny)), Run(small(tmp_path / name, tiny))
        run_stage(policy, run.config, "stage1", run)
        ends.append([p.detach().clone() for p in trainable(policy)])

    config, log = small(tmp_path / "third", tiny), Run.log

    def stop(self, line, groups):
        log(self, line, groups)
        if line["update"] == 2:
            raise KeyboardInterrupt

    with monkeypatch.context() as killed, pytest.raises(KeyboardInterrupt):
        killed.setattr(Run, "log", stop)
        run_stage(student(config), config, "stage1", Run(config))
    assert len((tmp_path / "third" / "metrics.jsonl").read_text().splitlines()) == 3
    again = dataclasses.replace(config, resume=True, micro_batch=5)
    policy, run = student(again), Run(again)
    run_stage(policy, again, "stage1", run)
    ends.append([p.detach().clone() for p in trainable(policy)])

    for name in ("metrics.jsonl", "rollouts.jsonl"):
        files = [(tmp_path / run / name).read_bytes() for run in ("first", "second", "third")]
        assert files[0] == files[1] == files[2] and files[0].count(b"\n") >= 4
    assert all(torch.equal(a, b) and torch.equal(a, c) for a, b, c in zip(*ends, strict=True))
    lines = [json.loads(line) for line in (tmp_path / "first" / "metrics.jsonl").read_text().splitlines()]
    assert [line["update"] for line in lines] == [0, 1, 2, 3] and all(line["stage"] == "stage1" for line in lines)
    assert {"reward", "align", "repeat", "overrun", "loss", "grad_norm", "clip_ratio", "kl", "frac_zero_std", "entropy"} <= set(lines[0])


def test_another_seed_gives_other_metrics(tiny, tmp_path):
    for seed in (0, 1):
        config = small(tmp_path / str(seed), tiny, seed=seed)
        run_stage(student(config), config, "stage1", Run(config))
    assert (tmp_path / "0" / "metrics.jsonl").read_text() != (tmp_path / "1" / "metrics.jsonl").read_text()


def test_a_folder_in_use_is_refused_and_left_as_it_was(tiny, tmp_path, dies):
    (tmp_path / "metrics.jsonl").write_text("mine\n")
    assert str(tmp_path) in dies(Run, small(tmp_path, tiny))
    assert [p.name for p in tmp_path.iterdir()] == ["metrics.jsonl"] and (tmp_path / "metrics.jsonl").read_text() == "mine\n"


@pytest.mark.parametrize("where", ["a file", "below a file"])
def test_a_place_that_cannot_be_a_folder_is_named(tiny, tmp_path, dies, where):
    (tmp_path / "file").write_text("mine")
    place = tmp_path / "file" if where == "a file" else tmp_path / "file" / "run"
    assert str(place) in dies(Run, small(place, tiny))
    assert (tmp_path / "file").read_text() == "mine"


@pytest.mark.parametrize("damage", ["no folder", "no config", "cut config", "a list", "other settings", "cut checkpoint"])
def test_resuming_a_damaged_run_ends_with_one_line_and_changes_nothing(tiny, tmp_path, dies, damage):
    config, folder = small(tmp_path / "run", tiny), tmp_path / "run"
    if damage != "no folder":
        run_stage(student(config), config, "stage1", Run(config))
    path, changes = folder / "config.json", {}
    if damage == "no config":
        path.unlink()
    elif damage == "cut config":
        path.write_text(path.read_text()[:40])
    elif damage == "a list":
        path.write_text("[]")
    elif damage == "other settings":
        changes = {"gamma": 0.5}
    elif damage == "cut checkpoint":
        whole = (folder / "checkpoint.pt").read_bytes()
        (folder / "checkpoint.pt").write_bytes(whole[: len(whole) // 2])
    before = {p.name: p.read_bytes() for p in folder.glob("*.json*")}
    message = dies(Run, dataclasses.replace(config, resume=True, **changes))
    assert str(folder) in message and ("gamma 0.9, not 0.5" in message or damage != "other settings")
    assert {p.name: p.read_bytes() for p in folder.glob("*.json*")} == before


# ---- flags -------------------------------------------------------------------------------------------------------------------


def test_defaults_are_the_config():
    assert parse_config([]) == Config()


@pytest.mark.parametrize("field", dataclasses.fields(Config), ids=lambda f: f.name)
def test_every_field_is_a_flag_with_its_reason(field, tmp_path):
    special = {"credit": "trajectory", "order": "far", "stages": "warmup,stage2", "eval_split": "dev", "data": f"androidcontrol:{tmp_path}",
               "gamma": 0.5, "demo_noise": 0.5, "output_dir": "elsewhere", "model": "somewhere", "warmup_dir": "there",
               "env": "toy-tools", "tool_agent": "base", "load_in_4bit": True}
    value = special[field.name] if field.name in special else not field.default if isinstance(field.default, bool) else field.default + 1
    name = f"--{'no-' if value is False else ''}{field.name}"
    suits = {"learning_rate": 2e-5, "gradient_checkpointing": True, "micro_batch": 1} if field.name == "model" else {}  # defaults for a hub model
    assert parse_config([name] if isinstance(value, bool) else [name, str(value)]) == dataclasses.replace(Config(), **suits, **{field.name: value})
    assert len(field.metadata["help"]) > 10


BAD = {"horizon": (0, -1), "history": (-1,), "group_size": (0, 1), "prompts_per_update": (0,), "micro_batch": (0,),
       "updates_per_batch": (0,), "train_tasks": (0,), "warmup_batch": (0,), "warmup_horizon": (0,),
       "reading_steps": (0,), "warmup_steps": (0,), "eval_tasks": (0,),
       "save_every": (0,), "lora_rank": (0,), "stage1_updates": (-1,), "stage2_updates": (-1,), "keep_groups": (-1,), "threads": (-1,),
       "gamma": (-0.1, 1.1, "nan"), "temperature": (0, -1, "nan"), "demo_noise": (-0.1, 1.1, "nan"), "lambda_rep": (-0.1, "nan"),
       "lambda_align": (-0.1, "nan"), "kl_weight": (-0.1, "nan"), "clip_low": (-0.1, "nan"), "clip_high": (-0.1, "nan"),
       "learning_rate": (-1e-3, "nan"), "warmup_lr": (-1e-3, "nan"), "max_grad_norm": (0, "nan"), "max_pixels": (-1,), "sample_batch": (-1,),
       "credit": ("none",), "order": ("middle",), "stages": ("stage3", ""), "eval_split": ("tset", "tool"), "env": ("toy",),
       "data": ("nosuch:/", "androidcontrol:/no/such/folder")}


@pytest.mark.parametrize(("name", "value"), [(n, v) for n, values in BAD.items() for v in values])
def test_a_value_that_cannot_work_is_named_in_one_line(name, value, dies):
    assert f"--{name}" in dies(parse_config, [f"--{name}={value}"])


@pytest.mark.parametrize("argv", [["--horizon", "five"], ["--gamma", "x"], ["--no_such_flag", "1"], ["--horizon"], ["--resume", "yes"]])
def test_what_is_no_value_at_all_ends_with_code_2(argv, capsys):
    with pytest.raises(SystemExit) as end:
        parse_config(argv)
    assert end.value.code == 2 and (argv[0] in capsys.readouterr().err.splitlines()[-1] or argv == ["--resume", "yes"])


# ---- from end to end -----------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("env", TOYS)
def test_a_whole_small_run_twice(env, tmp_path, monkeypatch, dies):
    monkeypatch.chdir(tmp_path)
    tiny = {"horizon": 2, "group_size": 4, "prompts_per_update": 2, "stage1_updates": 2, "stage2_updates": 2, "reading_steps": 2,
            "warmup_steps": 2, "warmup_batch": 2, "train_tasks": 20, "eval_tasks": 3, "warmup_dir": "warmup", "threads": 1, "env": env}
    flags = [f"--{name}={value}" for name, value in tiny.items()]
    for name in ("one", "two"):
        train.main([*flags, "--output_dir", name])
    assert (tmp_path / "one" / "metrics.jsonl").read_bytes() == (tmp_path / "two" / "metrics.jsonl").read_bytes()
    names = {p.name for p in (tmp_path / "one").iterdir()}
    assert {"config.json", "metrics.jsonl", "rollouts.jsonl", "results.json", "curves.png", "episode.png", "adapter", "stage1"} <= names
    results = json.loads((tmp_path / "one" / "results.json").read_text())
    assert list(results["test"]) == ["random", "warmup", "stage1", "stage2", "oracle"] and results["seed"] == 0 and results["seconds"]
    assert all(r["n"] == 3 and 0 <= r["ci95"][0] <= r["success"] <= r["ci95"][1] <= 1 for r in results["test"].values())
    assert agent.read_run("one")["horizon"] == 2 and len(list((tmp_path / "warmup").iterdir())) == 1  # the warm start was reused
    assert "one" in dies(train.main, [*flags, "--output_dir", "one"])
    train.main([*flags, "--output_dir", "one", "--resume"])
    assert (tmp_path / "one" / "metrics.jsonl").read_bytes() == (tmp_path / "two" / "metrics.jsonl").read_bytes()
    train.main([*flags, "--output_dir", "only_warm", "--stages", "warmup"])
    assert list(json.loads((tmp_path / "only_warm" / "results.json").read_text())["test"]) == ["random", "warmup", "oracle"]
