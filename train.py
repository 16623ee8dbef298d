"""train.py: the school. Warm start, stage 1, stage 2, checkpoints.

    draw_examples -> Example x P -> sample -> Rollout x G = Group -> rewards -> advantages -> (P, G, C) tensors -> grpo_loss -> update
"""

import argparse
import dataclasses
import hashlib
import json
import os
import random
import shutil
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

HELP = bool({"-h", "--help"} & set(sys.argv))

import numpy as np  # noqa: E402
from tqdm import tqdm  # noqa: E402

if not HELP:
    import torch
    import torch.nn.functional as F

from agent import (TOY_WORDS, Group, Prompt, Policy, Rollout, Sampling, add_lora, completion_logprobs, encode, format_forecast,  # noqa: E402
                   load_adapter, load_policy, make_tiny, policy_planner, sample, trainable)
from envs import POINTING, SCREEN_WORDS, VALUES, Action, Example, Observation, ToyGUI, demonstrations, ground, ICONS, COLS, ROWS  # noqa: E402
from eval import evaluate_toy, oracle_planner, random_planner  # noqa: E402
from rewards import group_advantages, grounded_reward, trajectory_reward  # noqa: E402


def flag(default, why: str):
    return field(default=default, metadata={"help": why})


@dataclass(frozen=True)
class Config:
    output_dir: str = flag("runs/toy", "where everything of this run goes")
    seed: int = flag(0, "decides tasks, warm start, adapters and samples")
    stages: str = flag("warmup,stage1,stage2", "what to run, in this order")
    model: str = flag("", "name or path of a Qwen-VL; empty: the tiny one, which a warm start teaches to read")
    horizon: int = flag(5, "T, actions in a forecast")
    history: int = flag(4, "K, past steps in the prompt")
    carry_forecast: bool = flag(False, "put what is left of the last forecast into the next prompt")
    group_size: int = flag(8, "G, forecasts sampled per prompt")
    prompts_per_update: int = flag(16, "prompts in a batch")
    micro_batch: int = flag(16, "prompts in one forward; memory only, never the result")
    gamma: float = flag(0.9, "discount of later steps")
    lambda_align: float = flag(1.0, "weight of agreement with the reference")
    lambda_rep: float = flag(0.3, "weight of repetition")
    credit: str = flag("step", "trajectory: one advantage for all tokens (paper); step: the return from a token's own step on")
    std_normalise: bool = flag(True, "divide advantages by the group's std")
    clip_low: float = flag(0.2, "")
    clip_high: float = flag(0.2, "")
    kl_weight: float = flag(0.0, "weight of KL to reference")
    temperature: float = flag(1.0, "of sampling and scoring")
    learning_rate: float = flag(1e-3, "of the adapters")
    max_grad_norm: float = flag(1.0, "")
    lora_rank: int = flag(16, "")
    lora_alpha: int = flag(32, "")
    stage1_updates: int = flag(150, "")
    stage2_updates: int = flag(150, "")
    demo_noise: float = flag(0.3, "share of random actions of the demonstrator")
    train_tasks: int = flag(2000, "")
    reading_steps: int = flag(200, "")
    warmup_steps: int = flag(300, "")
    warmup_batch: int = flag(32, "")
    warmup_lr: float = flag(2e-3, "")
    warmup_horizon: int = flag(8, "")
    warmup_dir: str = flag("runs/warmup", "")
    eval_tasks: int = flag(300, "")
    threads: int = flag(0, "")


def demos(c, index, horizon):
    return demonstrations("train", index, horizon, c.demo_noise, c.history)


def teach_reading(policy, c):
    """Each vision token, through the tied head, names what begins in its cell."""
    core, rng = policy.core, random.Random(f"read {c.seed}")
    core.requires_grad_(True)
    params = [*core.model.visual.parameters(), core.model.language_model.embed_tokens.weight]
    opt = torch.optim.AdamW(params, lr=2e-3, weight_decay=0.0)
    sched = torch.optim.lr_scheduler.OneCycleLR(opt, 4e-3, total_steps=c.reading_steps, pct_start=0.1)
    vocab = policy.tokenizer.get_vocab()
    for step in tqdm(range(c.reading_steps), desc="reading", disable=None):
        images, labels = [], []
        while len(images) < 32:
            env = ToyGUI("train"); env.reset(rng.randrange(c.train_tasks))
            for _ in range(rng.randrange(7)):
                if rng.random() < 0.5:
                    env._apply(env.oracle(1)[0])
                else:
                    el = rng.choice(env.elements()); env._click(el)
            if rng.random() < .3:
                for w in env.values:
                    if env.values[w] == "" and rng.random() < .5:
                        env.values[w] = rng.choice(VALUES)
            images.append(env.observe().screenshot()); cells = env.cells()
            labels.append([vocab[cells.get((x, y), "<blank>")] for y in range(ROWS) for x in range(COLS)])
        batch = policy.image_processor(images=images, return_tensors="pt")
        out = core.model.get_image_features(batch["pixel_values"], batch["image_grid_thw"], return_dict=True)
        logits = 20.0 * torch.cat(out.pooler_output) @ core.model.language_model.embed_tokens.weight.T
        y = torch.tensor(labels).flatten()
        w = torch.ones(logits.shape[1]); w[vocab["<blank>"]] = 0.1
        loss = F.cross_entropy(logits, y, weight=w)
        opt.zero_grad(); loss.backward(); opt.step(); sched.step()
        seen = y != vocab["<blank>"]
        acc = (logits.argmax(-1) == y)[seen].float().mean().item()
        if step % 20 == 0 or step == c.reading_steps - 1: print("reading", step, round(loss.item(), 3), round(acc, 4), flush=True)
    return acc


def corrupt(plan, rng):
    plan = list(plan)[: rng.randint(0, len(plan))] if rng.random() < .3 else list(plan)
    return tuple(Action("click", rng.choice(SCREEN_WORDS)) if rng.random() < .3 else a for a in plan)


def warm_start(policy, c):
    core, rng = policy.core, random.Random(f"warm {c.seed}")
    core.requires_grad_(True); core.model.visual.requires_grad_(False)
    params = [p for p in core.parameters() if p.requires_grad]
    opt = torch.optim.AdamW(params, lr=c.warmup_lr, weight_decay=0.01)
    sched = torch.optim.lr_scheduler.OneCycleLR(opt, c.warmup_lr, total_steps=c.warmup_steps, pct_start=0.1)
    eos = policy.tokenizer.eos_token
    bar = tqdm(range(c.warmup_steps), desc="warm start", disable=None)
    for step in bar:
        obs, targets, hs = [], [], []
        T = rng.randint(1, c.warmup_horizon)
        while len(obs) < c.warmup_batch:
            d = demos(c, rng.randrange(c.train_tasks), c.warmup_horizon)
            for i in rng.sample(range(len(d)), min(2, len(d))):
                e, acts = d[i]
                if len(acts) < T and acts[-1].kind != "done":
                    continue
                plan = ()
                if i and rng.random() < .5:
                    plan = d[i - 1][0].reference[1:c.horizon]
                    if rng.random() < .5: plan = corrupt(plan, rng)
                o = e.observation
                obs.append(Observation(o.instruction, o.screenshot, o.history, tuple(plan)))
                targets.append([policy.tokenizer(format_forecast(acts[:T]) + eos)["input_ids"]])
        lp, mask = completion_logprobs(policy, encode(policy, obs, T), targets)
        loss = -lp.sum() / mask.sum()
        opt.zero_grad(); loss.backward(); torch.nn.utils.clip_grad_norm_(params, 1.0); opt.step(); sched.step()
        bar.set_postfix(loss=round(loss.item(), 3))
        if step % 50 == 0 or step == c.warmup_steps - 1: print("warm", step, round(loss.item(), 3), flush=True)


def draw_examples(c, stage, update):
    rng = random.Random(f"draw {c.seed} {stage} {update}")
    out = []
    for _ in range(c.prompts_per_update):
        d = demos(c, rng.randrange(c.train_tasks), c.horizon)
        out.append(rng.choice(d)[0])
    return out


def score(groups, stage, c):
    for group in groups:
        e = group.example
        for r in group.rollouts:
            if stage == "stage1":
                r.reward_terms, r.step_rewards = trajectory_reward(r.forecast, e.reference, c.horizon, c.gamma, c.lambda_align, c.lambda_rep, r.parse_error is None)
            else:
                ex = ground(r.forecast[0], e.elements, e.key) if r.forecast else None
                v = grounded_reward(ex, e.reference[0], e.boxes)
                r.reward_terms, r.step_rewards = {"grounded": v, "reward": v}, [v] + [0.0] * c.horizon
        adv = group_advantages(np.array([r.step_rewards for r in group.rollouts]), c.credit, c.std_normalise)
        for r, a in zip(group.rollouts, adv):
            r.advantages = a.tolist()


def grpo_loss(logprobs, old, advantages, mask, normaliser, clip_low, clip_high):
    ratio = (logprobs - old).exp()
    clipped = ratio.clamp(1 - clip_low, 1 + clip_high)
    return -(torch.minimum(ratio * advantages, clipped * advantages) * mask).sum() / normaliser


def rl(policy, c, stage, n, log):
    opt = torch.optim.AdamW(trainable(policy), lr=c.learning_rate, weight_decay=0.0)
    how = Sampling(c.horizon, c.group_size, c.temperature, policy.max_new_tokens(c.horizon))
    bar = tqdm(range(n), desc=stage, disable=None)
    for update in bar:
        gen = torch.Generator().manual_seed(int.from_bytes(hashlib.sha256(f"{c.seed} {stage} {update}".encode()).digest()[:7]))
        for gr in opt.param_groups: gr["lr"] = c.learning_rate * min(1, (update + 1) / 10)
        examples = draw_examples(c, stage, update)
        t0 = time.time()
        prompts = encode(policy, [e.observation for e in examples], c.horizon)
        groups = [Group(e, p, r) for e, p, r in zip(examples, prompts, sample(policy, prompts, how, gen))]
        score(groups, stage, c)
        t1 = time.time()
        total = sum(len(r.completion_ids) for g in groups for r in g.rollouts)
        live = [g for g in groups if any(any(r.advantages) for r in g.rollouts)]
        opt.zero_grad()
        for i in range(0, len(live), c.micro_batch):
            part = live[i:i + c.micro_batch]
            lp, mask = completion_logprobs(policy, [g.prompt for g in part], [[r.completion_ids for r in g.rollouts] for g in part], c.temperature)
            old, adv = torch.zeros_like(lp), torch.zeros_like(lp)
            for p, g in enumerate(part):
                for q, r in enumerate(g.rollouts):
                    old[p, q, :len(r.old_logprobs)] = torch.tensor(r.old_logprobs)
                    adv[p, q, :len(r.completion_ids)] = torch.tensor([r.advantages[s] for s in r.step_index])
            grpo_loss(lp, old, adv, mask, total, c.clip_low, c.clip_high).backward()
        gn = torch.nn.utils.clip_grad_norm_(trainable(policy), c.max_grad_norm).item()
        opt.step()
        rs = [r for g in groups for r in g.rollouts]
        m = dict(stage=stage, update=update, reward=np.mean([r.reward for r in rs]), parse_error=np.mean([r.parse_error is not None for r in rs]),
                 zero=1 - len(live) / len(groups), grad_norm=gn, first=np.mean([r.step_rewards[0] for r in rs]), nll=-np.mean([sum(r.old_logprobs) for r in rs]), ts=round(t1 - t0, 2), tu=round(time.time() - t1, 2))
        bar.set_postfix(reward=m["reward"])
        if update % 10 == 0: print({k: (round(v, 3) if isinstance(v, float) else v) for k, v in m.items()}, flush=True)


def main():
    p = argparse.ArgumentParser()
    for f in dataclasses.fields(Config):
        kind = argparse.BooleanOptionalAction if isinstance(f.default, bool) else None
        p.add_argument(f"--{f.name}", default=f.default, help=f.metadata["help"], **({"action": kind} if kind else {"type": type(f.default)}))
    c = Config(**vars(p.parse_args()))
    if c.threads: torch.set_num_threads(c.threads)
    out = Path(c.output_dir); out.mkdir(parents=True, exist_ok=True)
    base = Path(c.warmup_dir) / f"seed{c.seed}"
    T = {}
    if not base.exists():
        t = time.time()
        make_tiny(base.with_suffix(".tmp"), TOY_WORDS, c.seed)
        policy = load_policy(base.with_suffix(".tmp"))
        print("read", teach_reading(policy, c), time.time() - t); t = time.time()
        warm_start(policy, c); print("warm", time.time() - t)
        base.mkdir(parents=True)
        policy.core.save_pretrained(base); policy.tokenizer.save_pretrained(base); policy.image_processor.save_pretrained(base)
    policy = load_policy(base)
    def report(name, split="test", n=c.eval_tasks, carry=c.carry_forecast):
        t = time.time()
        m, _ = evaluate_toy(policy_planner(policy, c.horizon), split, n, c.horizon, c.history, carry=carry)
        print(name, split, {k: (np.round(v, 3).tolist()) for k, v in m.items()}, round(time.time() - t, 1), flush=True)
    if "warmup" in c.stages:
        report("warm", "dev")
        report("warm carry", "dev", 200, True)
    add_lora(policy, c.lora_rank, c.lora_alpha, c.seed)
    for stage, n in (("stage1", c.stage1_updates), ("stage2", c.stage2_updates)):
        if stage in c.stages:
            t = time.time(); rl(policy, c, stage, n, None); print(stage, time.time() - t)
            report(stage, "dev")


if __name__ == "__main__":
    main()
