"""agent.py: parser, prompt, sampler, log-probabilities and adapters, each against an independent and plainer way to the same numbers."""

import ast
import builtins
import json
import re
import shutil
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import agent
from agent import (
    Sampling,
    build_prompt,
    completion_logprobs,
    encode,
    format_forecast,
    load_adapter,
    load_policy,
    parse_forecast,
    play,
    sample,
    trainable,
)
from envs import KINDS, MAX_TEXT, SPLITS, TERMINAL, Action, Observation, ToyGUI

ROOT = Path(__file__).resolve().parent.parent


def observe(seed: int, split: str = "test", scale: int = 1, steps: int = 0, plan: tuple = ()) -> Observation:
    env = ToyGUI(split, scale)
    observation, _ = env.reset(seed)
    for _ in range(steps):
        observation = env.step(env.oracle(1)[0])[0]
    return Observation(observation.instruction, observation.screenshot, observation.history, plan)


def nudge(policy: agent.Policy, **bias: float):
    """From now on (or inside a with block) the model's head favours the end token or those that no answer may contain."""
    table = torch.zeros(policy.core.config.text_config.vocab_size)
    for name, value in bias.items():
        table[{"suppressed": policy.suppressed, "eos": policy.tokenizer.eos_token_id}[name]] = value
    return policy.core.lm_head.register_forward_hook(lambda module, args, out: out + table)


def plain_logprobs(policy: agent.Policy, observation: Observation, ids: list[int], completion: list[int], temperature: float = 1.0):
    """One row, one ordinary forward of the whole model from pixels: nothing shared, nothing cached, no positions given."""
    pixels = policy.image_processor(images=[observation.screenshot()], return_tensors="pt")
    row = torch.tensor([ids + completion])
    logits = policy.core(input_ids=row, pixel_values=pixels["pixel_values"], image_grid_thw=pixels["image_grid_thw"],
                         mm_token_type_ids=(row == policy.image_token).int(), use_cache=False).logits[0]
    logits = logits[len(ids) - 1:-1].float() / temperature
    logits = logits.index_fill(1, policy.suppressed, -torch.inf)
    return logits.log_softmax(-1).gather(1, torch.tensor(completion)[:, None])[:, 0]


# ---- parser -------------------------------------------------------------------------------------------------------------------

words = st.text(st.characters(codec="utf-8", exclude_characters="\n\r"), max_size=20)
starts = st.sampled_from([*KINDS, "Click", "</think>", "<think>", "```", "{", "scroll up", "done."])
ends = st.sampled_from(["", "(500, 250)", "(-1, 2)", "(1e9, nan)", "(0,0)", "(99999999999, 1)", "(٣, ٤)"])
lines = st.one_of(words, st.tuples(starts, words, ends).map(" ".join))
answers = st.one_of(st.text(), st.binary().map(lambda b: b.decode("utf-8", "replace")), st.lists(lines, max_size=7).map("\n".join))


@settings(max_examples=400)
@given(answers, st.integers(1, 6))
def test_parser_reads_anything(text, horizon):
    forecast, error = parse_forecast(text, horizon)
    assert len(forecast) <= horizon and all(isinstance(a, Action) for a in forecast)
    assert error is None and forecast or isinstance(error, str) and error and "\n" not in error and len(error) < 200
    assert not any(a.kind in TERMINAL for a in forecast[:-1])
    bare = [Action(a.kind, a.text) for a in forecast]
    if all(a.text or not a.point for a in forecast):
        assert parse_forecast(format_forecast(forecast), horizon)[0] in (bare, forecast)


texts = st.text(st.characters(codec="utf-8", categories=("L", "N", "P", "S", "Zs")), min_size=1, max_size=30)
texts = texts.map(lambda t: " ".join(t.split())).filter(lambda t: t and not t.endswith(")") and "</think>" not in t)


def legal(kinds) -> st.SearchStrategy:
    """Actions as they are written: one line, no text where the kind takes none, points left to the tool agent."""
    without = {kind for kind in KINDS if not KINDS[kind]} | {"done", "fail"}
    return st.sampled_from(sorted(kinds)).flatmap(lambda kind: st.builds(
        Action, st.just(kind), st.just("down") if kind == "scroll" else st.just("") if kind in without else texts))


forecasts = st.tuples(st.lists(legal(set(KINDS) - TERMINAL), max_size=4), legal(KINDS)).map(lambda parts: [*parts[0], parts[1]])


@given(forecasts)
def test_format_and_parse_are_inverse(forecast):
    assert parse_forecast(format_forecast(forecast), 5) == (forecast, None)


@pytest.mark.parametrize(("text", "horizon", "read", "error"), [
    ("", 5, [], "nothing to read"), (" \n\n ", 5, [], "nothing to read"),
    ("fly away", 5, [], "line 1: unknown action kind 'fly'"), ("Click Save", 5, [], "line 1: unknown action kind 'Click'"),
    ("click", 5, [], "line 1: click without its text"), ("type", 5, [], "line 1: type without its text"),
    ("click Save\nback now", 5, ["click Save"], "line 2: text after back"),
    ("back (1, 2)", 5, [], "line 1: text after back"),
    ("done\nclick Save", 5, ["done"], "line 2: text after done"), ("answer 42\nanswer 43", 5, ["answer 42"], "line 2: text after answer"),
    ("back\nback\nback", 2, ["back", "back"], "line 3: more than the 2 steps asked for"),
    ("scroll sideways", 5, [], "line 1: scroll 'sideways': the direction must be one of down, left, right, up"),
    ("scroll", 5, [], "line 1: scroll without its text"),
    ("back\nclick Save (1500, 2)", 5, ["back"], "line 2: point (1.5, 0.002) is not inside 0..1"),
    ("click Save (-1, 2)", 5, [], "line 1: point (-0.001, 0.002) is not inside 0..1"),
    ("type " + "x" * (MAX_TEXT + 1), 5, [], f"line 1: the text of type must be one line of at most {MAX_TEXT} characters"),
    ("I should click Exit\n</think>\n\nclick Save\ndone", 5, ["click Save", "done"], None),
    ("<think>\nclick Exit", 5, [], "line 1: unknown action kind '<think>'"),
    ("  click   the Save button \n\n done", 5, ["click the Save button", "done"], None),
    ("click Save\n\nfly\nback", 5, ["click Save"], "line 2: unknown action kind 'fly'"),   # nothing behind a bad line counts
])
def test_each_failure_has_a_name(text, horizon, read, error):
    forecast, found = parse_forecast(text, horizon)
    assert ([str(a) for a in forecast], found) == (read, error)


def test_points_come_in_the_models_frame_and_leave_in_0_to_1():
    assert parse_forecast("click Save (500, 250)", 1)[0] == [Action("click", "Save", (0.5, 0.25))]
    assert parse_forecast("click Save (540, 600)", 1, frame=(1080, 2400))[0] == [Action("click", "Save", (0.5, 0.25))]
    assert parse_forecast("click (1000, 0.5)", 1)[0] == [Action("click", "", (1.0, 0.0005))]
    assert parse_forecast("type (500, 250)", 1)[0] == [Action("type", "(500, 250)")]


@pytest.mark.parametrize("text", [
    "__import__('os').system('touch owned')", "click {open('owned', 'w')}", "type $(touch owned)", "type `touch owned`",
    "call exec(\"open('owned', 'w')\")", "click %s%n{0.__class__}", "answer !!python/object/apply:os.system [touch]"])
def test_hostile_text_is_only_text(text, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    for name in ("eval", "exec"):
        monkeypatch.setattr(builtins, name, lambda *_: pytest.fail("model text was executed"))
    forecast, error = parse_forecast(text, 5)
    assert error or str(forecast[0]) == text
    assert not list(tmp_path.iterdir())


# ---- prompt -------------------------------------------------------------------------------------------------------------------


def test_the_prompt_as_the_model_sees_it(policy):
    observation = Observation("Account: type amber in Name; finish", observe(0).screenshot, ("click Account", "click Title failed"),
                              (Action("type", "amber"), Action("click", "Save")))
    prompt = encode(policy, [observation], 5)[0]
    text = policy.tokenizer.decode([t for t in prompt.ids if t != policy.image_token])
    assert " ".join(text.split()) == ("task : Account : type amber in Name ; finish past : click Account ; click Title failed "
                                      "plan : type amber ; click Save <|vision_start|> <|vision_end|> next 5 : <|im_start|>")
    assert prompt.ids.count(policy.image_token) == 48 == int(prompt.grid.prod()) and prompt.features[0].shape == (48, 128)
    system, user = build_prompt(observation, 5)
    assert all(kind in system["content"][0]["text"] for kind in KINDS) and [c["type"] for c in user["content"]] == ["text", "image", "text"]


def test_prompt_is_the_same_in_training_and_evaluation(policy, monkeypatch):
    """The plan-act loop's prompts, caught on their way to the sampler, are those that the training loop encodes."""
    seen, real = [], agent.sample
    monkeypatch.setattr(agent, "sample", lambda p, prompts, *rest: seen.extend(prompts) or real(p, prompts, *rest))
    observations = [observe(i, steps=i, plan=(Action("back"),) * (i % 2)) for i in range(4)]
    agent.policy_planner(policy, 5)(observations, None)
    for prompt, observation in zip(seen, observations, strict=True):
        alone = encode(policy, [observation], 5)[0]
        assert prompt.ids == alone.ids
        torch.testing.assert_close(prompt.features, alone.features, rtol=1e-5, atol=1e-5)


def test_one_function_builds_prompts_and_one_calls_the_chat_template():
    callers = []
    for path in ROOT.glob("*.py"):
        for function in (n for n in ast.walk(ast.parse(path.read_text())) if isinstance(n, ast.FunctionDef)):
            for call in (n for n in ast.walk(function) if isinstance(n, ast.Call)):
                name = call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")
                if name in ("apply_chat_template", "build_prompt"):
                    callers.append((path.name, function.name, name))
    assert sorted(callers) == [("agent.py", "encode", "apply_chat_template"), ("agent.py", "encode", "build_prompt")]


def test_every_word_of_the_toy_world_is_a_token(policy):
    unknown = policy.tokenizer.unk_token_id
    for split in SPLITS:
        for seed in range(30):
            env = ToyGUI(split)
            env.reset(seed)
            text = "\n".join([env.task.instruction, format_forecast(env.oracle(20)), *env.cells().values()])
            ids = policy.tokenizer(text)["input_ids"]
            assert unknown not in ids
            answer = format_forecast(env.oracle(5)) + policy.tokenizer.eos_token
            assert len(policy.tokenizer(answer)["input_ids"]) <= policy.max_new_tokens(5)
            assert env.observe().history == () and unknown not in encode(policy, [env.observe()], 5)[0].ids


def test_max_pixels_bounds_the_number_of_image_tokens(tiny):
    observation = observe(0, scale=4)
    assert encode(load_policy(tiny), [observation], 5)[0].ids.count(agent.load_policy(tiny).image_token) == 16 * 48
    small = load_policy(tiny, max_pixels=128 * 96)
    assert 0 < encode(small, [observation], 5)[0].ids.count(small.image_token) <= 48


# ---- sampler ------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("temperature", [1.0, 0.6])
def test_sampled_logprobs_are_those_of_plain_forwards(tuned, temperature):
    observations = [observe(0), observe(5, steps=3, plan=(Action("back"),)), observe(2, steps=1)]
    prompts = encode(tuned, observations, 5)
    assert len({len(p.ids) for p in prompts}) == 3
    with nudge(tuned, eos=2.0):  # so that some stop early
        groups = sample(tuned, prompts, Sampling(5, 6, temperature, 12), torch.Generator().manual_seed(0))
        lengths = {len(r.completion_ids) for g in groups for r in g}
        assert min(lengths) < 12 == max(lengths)
        with torch.no_grad():
            shared, mask = completion_logprobs(tuned, prompts, [[r.completion_ids for r in g] for g in groups], temperature)
            for p, group in enumerate(groups):
                for g, r in enumerate(group):
                    plain = plain_logprobs(tuned, observations[p], prompts[p].ids, r.completion_ids, temperature)
                    torch.testing.assert_close(torch.tensor(r.old_logprobs), plain, atol=1e-4, rtol=0)
                    torch.testing.assert_close(shared[p, g][mask[p, g]], plain, atol=1e-4, rtol=0)
                    assert r.prompt_ids == prompts[p].ids


def test_sampling_is_truly_random(policy):
    rollouts = sample(policy, encode(policy, [observe(0)], 5), Sampling(5, 16), torch.Generator().manual_seed(0))[0]
    assert len({tuple(r.completion_ids) for r in rollouts}) == 16
    assert len({r.completion_ids[0] for r in rollouts}) > 8


def test_sampling_follows_the_distribution(policy):
    """First tokens of 3,000 samples against the model's own probabilities, by chi-square over the twenty likeliest."""
    prompt = encode(policy, [observe(0)], 5)
    n = 3000
    rollouts = sample(policy, prompt, Sampling(1, n, 0.7, 1), torch.Generator().manual_seed(0))[0]
    counts = torch.bincount(torch.tensor([r.completion_ids[0] for r in rollouts]), minlength=policy.core.config.text_config.vocab_size)
    with torch.no_grad():
        allowed = [i for i in range(len(counts)) if i not in policy.suppressed]
        logprobs = torch.stack([plain_logprobs(policy, observe(0), prompt[0].ids, [i], 0.7)[0] for i in allowed])
    expected = logprobs.exp() * n
    assert expected.sum().item() == pytest.approx(n, rel=1e-4) and counts[allowed].sum() == n
    top = expected.topk(20).indices
    chi2 = ((counts[allowed][top] - expected[top]) ** 2 / expected[top]).sum().item()
    assert chi2 < 45.3  # the 99.9 % point of chi-square with 20 degrees of freedom


def test_greedy_is_deterministic_and_takes_the_best_token_each_time(tuned):
    observation = observe(1)
    prompt = encode(tuned, [observation], 5)
    first, second = (sample(tuned, prompt, Sampling(5, 2, 0.0, 8))[0] for _ in range(2))
    assert first[0].completion_ids == first[1].completion_ids == second[0].completion_ids
    written = []
    allowed = [i for i in range(tuned.core.config.text_config.vocab_size) if i not in tuned.suppressed]
    with torch.no_grad():
        pixels = tuned.image_processor(images=[observation.screenshot()], return_tensors="pt")
        while len(written) < 8 and tuned.tokenizer.eos_token_id not in written:
            row = torch.tensor([prompt[0].ids + written])
            logits = tuned.core(input_ids=row, pixel_values=pixels["pixel_values"], image_grid_thw=pixels["image_grid_thw"],
                                mm_token_type_ids=(row == tuned.image_token).int()).logits[0, -1]
            written.append(max(allowed, key=lambda i: logits[i].item()))
    assert written == first[0].completion_ids


def test_the_same_generator_gives_the_same_samples(policy):
    prompt = encode(policy, [observe(0)], 5)
    first, second, other = ([r.completion_ids for r in sample(policy, prompt, Sampling(5, 4), torch.Generator().manual_seed(seed))[0]]
                            for seed in (3, 3, 4))
    assert first == second != other


@pytest.mark.parametrize("temperature", [1.0, 0.0])
def test_suppressed_tokens_are_never_sampled(policy, temperature):
    names = ["<|image_pad|>", "<|video_pad|>", "<|vision_start|>", "<|vision_end|>", "<|endoftext|>", "<|im_start|>", "<unk>"]
    assert policy.suppressed.tolist() == sorted(policy.tokenizer.convert_tokens_to_ids(names))
    with nudge(policy, suppressed=100.0):
        prompts = encode(policy, [observe(0), observe(1)], 5)
        rollouts = sample(policy, prompts, Sampling(5, 32, temperature), torch.Generator().manual_seed(0))
    written = {t for group in rollouts for r in group for t in r.completion_ids}
    assert written and not written & set(policy.suppressed.tolist())
    assert all(p > -50 for group in rollouts for r in group for p in r.old_logprobs)  # what may be sampled shares all probability


def test_an_unrelated_forward_in_between_changes_nothing(tuned):
    """The model keeps `rope_deltas` of what it last saw: a continuation that used them was off by 5 in its logits."""
    prompt, other = encode(tuned, [observe(0)], 5), observe(3, scale=3)
    draw = lambda: sample(tuned, prompt, Sampling(5, 4), torch.Generator().manual_seed(0))[0]  # noqa: E731
    before = draw()
    with torch.no_grad():
        other_prompt = encode(tuned, [other], 5)[0]
        plain_logprobs(tuned, other, other_prompt.ids, [20, 21])
        assert tuned.core.model.rope_deltas is not None
        sample(tuned, [other_prompt], Sampling(5, 2))
        between = draw()
        tuned.core.model.rope_deltas = torch.tensor([[977]])
        after = draw()
    for r, s, t in zip(before, between, after, strict=True):
        assert r.completion_ids == s.completion_ids == t.completion_ids and r.old_logprobs == s.old_logprobs == t.old_logprobs


def test_a_prompts_samples_do_not_depend_on_its_neighbours(policy):
    alone = [sample(policy, encode(policy, [observe(i, steps=i)], 5), Sampling(5, 1, 0.0))[0][0] for i in range(4)]
    together = sample(policy, encode(policy, [observe(i, steps=i) for i in range(4)], 5), Sampling(5, 1, 0.0))
    for a, (b,) in zip(alone, together, strict=True):
        assert a.completion_ids == b.completion_ids
        torch.testing.assert_close(a.old_logprobs, b.old_logprobs, atol=1e-4, rtol=0)


def test_a_rollout_tells_what_was_written(policy):
    ids = policy.tokenizer("click Save\ndone<|im_end|>")["input_ids"]
    prompt = encode(policy, [observe(0)], 5)[0]
    r = agent._rollout(policy, prompt, ids + [5, 6], [-0.5] * 7, 5)
    assert (r.completion_ids, r.step_index, r.finish_reason, r.parse_error) == (ids, [0, 0, 0, 1, 1], "stop", None)
    assert [str(a) for a in r.forecast] == ["click Save", "done"] and len(r.old_logprobs) == 5 and "im_end" not in r.text
    cut = agent._rollout(policy, prompt, ids[:-1], [-0.5] * 4, 5)
    assert cut.finish_reason == "length" and cut.parse_error == "cut off after 4 tokens" and len(cut.forecast) == 2
    assert agent._rollout(policy, prompt, policy.tokenizer("back\n" * 4)["input_ids"], [-0.5] * 8, 2).step_index == [0, 0, 1, 1, 2, 2, 2, 2]
    r.reward_terms, example = {"align": 1.0, "reward": 1.0}, ToyGUI("test")
    example.reset(0)
    line = json.loads(json.dumps(r.record(example.example(5))))
    assert line["completion_ids"] == ids and line["reward"] == 1.0 and line["forecast"] == ["click Save", "done"]
    assert {"observation", "prompt_ids", "text", "finish_reason", "parse_error", "reward_terms", "advantages", "old_logprobs"} <= set(line)


# ---- log-probabilities with a shared prompt ---------------------------------------------------------------------------------------


def shared_and_plain(policy: agent.Policy, temperature: float, checkpointing: bool):
    """(value, gradients, layer forwards) of one weighted sum of log-probabilities, by completion_logprobs and by plain one-row forwards."""
    observations = [observe(0), observe(7, steps=4, plan=(Action("back"),)), observe(3, scale=2)]
    prompts, generator = encode(policy, observations, 5), torch.Generator().manual_seed(0)
    allowed = torch.tensor([i for i in range(100) if i not in policy.suppressed])
    completions = [[allowed[torch.randint(len(allowed), (n,), generator=generator)].tolist() for n in row]
                   for row in ((3, 7, 1), (5, 2, 9), (4, 4, 6))]
    weight = torch.randn(3, 3, 9, generator=generator)
    calls = []
    policy.core.model.language_model.layers[0].mlp.act_fn.register_forward_pre_hook(lambda *_: calls.append(1))

    def both(loss):
        calls.clear()
        for p in trainable(policy):
            p.grad = None
        value = loss()
        value.backward()
        return value.item(), [p.grad.clone() for p in trainable(policy)], len(calls)

    def shared():
        logprobs, mask = completion_logprobs(policy, prompts, completions, temperature, checkpointing)
        assert mask.sum(-1).tolist() == [[len(c) for c in row] for row in completions]
        return (logprobs * mask * weight).sum()

    def plain():
        return sum((plain_logprobs(policy, observations[p], prompts[p].ids, c, temperature) * weight[p, g, : len(c)]).sum()
                   for p, row in enumerate(completions) for g, c in enumerate(row))

    return both(shared), both(plain)


@pytest.mark.parametrize("temperature", [1.0, 0.7])
@pytest.mark.parametrize("checkpointing", [False, True])
def test_shared_prefix_gives_the_numbers_and_gradients_of_plain_rows(tuned, checkpointing, temperature):
    (value, gradients, forwards), (plain, expected, _) = shared_and_plain(tuned, temperature, checkpointing)
    assert forwards == 1 + checkpointing  # checkpointing computes each layer again in the backward
    assert value == pytest.approx(plain, rel=1e-4)
    assert len(gradients) == 4 * 7 * 2  # layers x projections x (A, B)
    for g, e in zip(gradients, expected, strict=True):
        assert e.norm() > 0 and (g - e).norm() <= 1e-4 * e.norm()


@pytest.mark.parametrize("P, K, R, L, G, C", [(1, 1, 1, 1, 1, 1), (3, 2, 2, 7, 4, 5), (2, 3, 1, 5, 3, 2)])
def test_two_calls_give_what_one_square_mask_gives(P, K, R, L, G, C):
    """Attention with a shared prompt against the definition: each pair of tokens is seen or not, by the drawing in agent.py."""
    generator = torch.Generator().manual_seed(0)
    S, lengths = L + G * C, torch.arange(L, L - P, -1)
    owner = torch.cat([torch.zeros(L), torch.arange(1, G + 1).repeat_interleave(C)])
    allowed = torch.zeros(P, 1, S, S, dtype=torch.bool)
    for p in range(P):
        for i in range(S):
            for j in range(i + 1):
                allowed[p, 0, i, j] = j < lengths[p] or i == j if owner[j] == 0 else owner[i] == owner[j]
    q, k, v, weight = (torch.randn(P, n, S, 4, generator=generator).requires_grad_() for n in (K * R, K, K, K * R))
    real = ((torch.arange(S) < lengths[:, None]) | (owner > 0))[:, None, :, None]  # what padding computes is nobody's business
    found = []
    rows, mask = [x.transpose(1, 2) for x in (q, k, v)], agent.shared_mask(lengths, L, torch.ones(C, C).tril().bool().repeat(R, 1))
    for out in (agent.shared_attention(*rows, mask, L, 0.3).transpose(1, 2),
                torch.nn.functional.scaled_dot_product_attention(q, k.repeat_interleave(R, 1), v.repeat_interleave(R, 1), allowed, scale=0.3)):
        found.append([out * real, *torch.autograd.grad((out * real * weight).sum(), (q, k, v))])
    own = agent.shared_attention(rows[0][:, L:], *rows[1:], mask, L, 0.3).transpose(1, 2)  # the prompt's own queries may be left out
    torch.testing.assert_close(own, found[0][0][:, :, L:], atol=1e-5, rtol=1e-4)
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("dtype, close", [("float32", 1e-4), ("bfloat16", 0.3)])
def test_sampling_without_adapters_is_sampling_from_the_base(tiny, dtype, close):
    """Folded into fp32 weights or called in bf16: adapters count where they are on, and only there."""
    base, tuned = load_policy(tiny, dtype=dtype), load_policy(tiny, dtype=dtype)
    agent.add_lora(tuned, 4, 8, 0)
    for p in trainable(tuned):
        torch.nn.init.normal_(p, std=0.1)
    prompt = encode(base, [observe(0)], 5)
    draw = lambda policy: sample(policy, prompt, Sampling(5, 4), torch.Generator().manual_seed(0))[0]  # noqa: E731
    with torch.no_grad():
        for policy, rollouts in ((tuned, draw(tuned)), (base, draw(base))):
            shared, mask = completion_logprobs(policy, prompt, [[r.completion_ids for r in rollouts]])
            old = torch.tensor([p for r in rollouts for p in r.old_logprobs])
            torch.testing.assert_close(shared[mask].float(), old, atol=close, rtol=0)
        with tuned.peft.disable_adapter():
            assert [r.old_logprobs for r in draw(tuned)] == [r.old_logprobs for r in draw(base)]
        assert draw(tuned)[0].old_logprobs != draw(base)[0].old_logprobs


def test_the_end_token_is_in_the_mask_even_where_it_is_also_the_padding(policy):
    eos = policy.tokenizer.eos_token_id
    prompts = encode(policy, [observe(0)], 5)
    completions = [[[20, 21, eos], [eos], [20, 21, 22, 23, eos]]]
    logprobs, mask = completion_logprobs(policy, prompts, completions)
    assert mask.tolist() == [[[1, 1, 1, 0, 0], [1, 0, 0, 0, 0], [1, 1, 1, 1, 1]]]
    assert (logprobs[mask] < 0).all() and (logprobs[~mask] == 0).all()
    policy.tokenizer.pad_token = policy.tokenizer.eos_token
    again, mask_again = completion_logprobs(policy, prompts, completions)
    assert (mask_again == mask).all()
    torch.testing.assert_close(again, logprobs)


def test_sampled_completions_end_with_the_end_token_or_are_cut(policy):
    with nudge(policy, eos=2.5):
        rollouts = sample(policy, encode(policy, [observe(0)], 5), Sampling(5, 64), torch.Generator().manual_seed(0))[0]
    eos = policy.tokenizer.eos_token_id
    assert {r.finish_reason for r in rollouts} == {"stop", "length"}
    for r in rollouts:
        assert r.completion_ids.count(eos) == (r.finish_reason == "stop") and (r.completion_ids[-1] == eos) == (r.finish_reason == "stop")
        assert len(r.old_logprobs) == len(r.step_index) == len(r.completion_ids) <= 15 and r.parse_error is not None or r.forecast
        newline = policy.tokenizer.convert_tokens_to_ids("\n")
        assert r.step_index == [min(r.completion_ids[:i].count(newline), 5) for i in range(len(r.completion_ids))]


# ---- adapters -----------------------------------------------------------------------------------------------------------------


def logits(policy: agent.Policy) -> torch.Tensor:
    prompt = encode(policy, [observe(0)], 5)[0]
    with torch.no_grad():
        return plain_logprobs(policy, observe(0), prompt.ids, list(range(20, 40)))


def test_adapters_are_on_the_language_model_in_fp32_without_dropout(tiny):
    policy = load_policy(tiny, dtype="bfloat16")
    assert not trainable(policy)
    agent.add_lora(policy, 4, 8, 0)
    names = [n for n, p in policy.core.named_parameters() if p.requires_grad]
    assert len(names) == 4 * 7 * 2 and all("language_model" in n and "lora_" in n for n in names)
    assert all(p.dtype == torch.float32 for p in trainable(policy))
    assert policy.peft.peft_config["default"].lora_dropout == 0.0


def test_saved_adapters_give_the_same_logits_in_a_fresh_model(tuned, tiny, tmp_path):
    tuned.peft.save_pretrained(tmp_path)
    assert {p.name for p in tmp_path.iterdir()} >= {"adapter_config.json", "adapter_model.safetensors"}
    fresh = load_policy(tiny, tmp_path)
    assert torch.equal(logits(fresh), logits(tuned))
    assert (logits(fresh) - logits(load_policy(tiny))).abs().max() > 0.1
    assert not trainable(fresh)
    again = load_policy(tiny)
    load_adapter(again, tmp_path, is_trainable=True)
    assert len(trainable(again)) == 4 * 7 * 2


def test_adapters_off_give_the_base(tuned, tiny):
    base, on = logits(load_policy(tiny)), logits(tuned)
    with tuned.peft.disable_adapter():
        assert torch.equal(logits(tuned), base)
    assert torch.equal(logits(tuned), on) and not torch.equal(on, base)


def shallow(tiny: Path, folder: Path) -> Path:
    """The tiny model with two layers instead of four."""
    shutil.copytree(tiny, folder)
    config = json.loads((folder / "config.json").read_text())
    config["text_config"]["num_hidden_layers"] = 2
    config["text_config"].pop("layer_types", None)
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def test_an_adapter_of_another_model_ends_with_one_line(tuned, tiny, tmp_path, dies):
    tuned.peft.save_pretrained(tmp_path / "good")
    other = load_policy(shallow(tiny, tmp_path / "shallow"))
    agent.add_lora(other, 4, 8, 0)
    other.peft.save_pretrained(tmp_path / "two_layers")
    assert str(tmp_path / "two_layers") in dies(load_policy, tiny, tmp_path / "two_layers")
    assert str(tmp_path / "good") in dies(load_policy, tmp_path / "shallow", tmp_path / "good")
    rank = shutil.copytree(tmp_path / "good", tmp_path / "rank") / "adapter_config.json"
    rank.write_text(json.dumps(json.loads(rank.read_text()) | {"r": 8}))
    assert str(tmp_path / "rank") in dies(load_policy, tiny, tmp_path / "rank")


@pytest.mark.parametrize("damage", ["missing", "empty", "cut", "no config", "bad config"])
def test_a_damaged_adapter_ends_with_one_line(tuned, tiny, tmp_path, dies, damage):
    folder = tmp_path / "adapter"
    if damage != "missing":
        folder.mkdir()
    if damage not in ("missing", "empty"):
        tuned.peft.save_pretrained(folder)
    if damage == "cut":
        whole = (folder / "adapter_model.safetensors").read_bytes()
        (folder / "adapter_model.safetensors").write_bytes(whole[: len(whole) // 2])
    if damage == "no config":
        (folder / "adapter_config.json").unlink()
    if damage == "bad config":
        (folder / "adapter_config.json").write_text('{"r": ')
    assert str(folder) in dies(load_policy, tiny, folder)


@pytest.mark.parametrize("damage", ["missing", "empty", "cut", "no tokenizer", "other family"])
def test_a_damaged_model_ends_with_one_line(tiny, tmp_path, dies, damage):
    folder = tmp_path / "model"
    if damage not in ("missing", "empty"):
        shutil.copytree(tiny, folder)
    if damage == "empty":
        folder.mkdir()
    if damage == "cut":
        whole = (folder / "model.safetensors").read_bytes()
        (folder / "model.safetensors").write_bytes(whole[: len(whole) // 2])
    if damage == "no tokenizer":
        for name in ("tokenizer.json", "tokenizer_config.json"):
            (folder / name).unlink()
    if damage == "other family":
        (folder / "config.json").write_text('{"model_type": "bert"}')
    assert str(folder) in dies(load_policy, folder)


def test_the_tiny_model_has_the_hub_models_shape(tiny, policy, tmp_path):
    assert policy.core.config.model_type == "qwen3_vl" and policy.tiny
    assert 0.8e6 < sum(p.numel() for p in policy.core.parameters()) < 1.5e6
    agent.make_tiny(tmp_path / "again", agent.TOY_WORDS, 0)
    agent.make_tiny(tmp_path / "other", agent.TOY_WORDS, 1)
    weights = [(folder / "model.safetensors").read_bytes() for folder in (tiny, tmp_path / "again", tmp_path / "other")]
    assert weights[0] == weights[1] != weights[2]


# ---- plan-act loop ------------------------------------------------------------------------------------------------------------


def test_plan_act_executes_only_the_first_action_and_plans_again():
    def planner(observations, envs):
        return [(env.oracle(3), 7) for env in envs]

    def act(env, action):
        return env.step(action)

    seeds = [0, 1, 2, 3, 4]
    plays = play(planner, [ToyGUI("dev") for _ in seeds], seeds, act, 3)
    alone = [play(planner, [ToyGUI("dev")], [s], act, 3)[0] for s in seeds]
    assert len({len(p.results) for p in plays}) > 1  # they end at different times
    for p, single in zip(plays, alone, strict=True):
        assert p.success and p.results == single.results == ["ok"] * len(p.results)
        assert p.forecasts == single.forecasts == p.references and p.tokens == 7 * len(p.results)
        assert [f[0] for f in p.forecasts][-1] == Action("done") and all(len(f) <= 3 for f in p.forecasts)
        assert all(not o.plan for o in p.observations)
        executed = [str(f[0]) for f in p.forecasts]
        assert p.observations[-1].history == tuple(executed[:-1][-4:])


def test_a_carried_forecast_stands_in_the_next_prompt():
    carried = play(lambda o, envs: [(env.oracle(3), 0) for env in envs], [ToyGUI("dev")], [0], lambda env, a: env.step(a), 3, carry=True)[0]
    assert carried.observations[0].plan == ()
    assert [o.plan for o in carried.observations[1:]] == [tuple(f[1:]) for f in carried.forecasts[:-1]]


def test_an_unreadable_forecast_is_a_refusal():
    seen = []
    play(lambda o, envs: [([], 0) for _ in envs], [ToyGUI("dev")], [0], lambda env, a: seen.append(a) or env.step(a), 3)
    assert seen and set(seen) == {None}


# ---- the sources --------------------------------------------------------------------------------------------------------------


def test_model_text_cannot_reach_an_interpreter():
    for name in ("envs.py", "rewards.py", "agent.py"):
        source = (ROOT / name).read_text()
        called = {n.func.id for n in ast.walk(ast.parse(source)) if isinstance(n, ast.Call) and isinstance(n.func, ast.Name)}
        assert not called & {"eval", "exec", "compile", "__import__"}
        assert not re.search(r"\b(os\.system|pickle|marshal|shell=)", source)
        # The one other program is a text recogniser, found by a fixed name, without a shell.
        assert re.findall(r"subprocess\.\w+\(.*", source) == [c for c in re.findall(r"subprocess\.\w+\(.*", source) if '(["tesseract", ' in c]
