"""extras/shared_prompt_qwen35.py: layers that keep a recurrent state share a prompt as exactly as
layers that keep keys and values, and each part of them does what the library's own module does."""

import pytest
import torch
from helpers import (
    assert_close,
    assert_same_gradients,
    count_forwards,
    gradients,
    load_hub,
    make_case,
    observe,
    plain_logprobs,
    projections,
    score_by,
    score_plain,
    wake_adapters,
)

from agent import REFERENCE, Policy, Sampling, encode, trainable
from envs import Observation
from extras import shared_prompt_qwen35
from extras.shared_prompt import rotary_of
from extras.shared_prompt_qwen35 import (
    SHARED,
    Memory,
    Rows,
    is_linear,
    linear_rows,
    project,
    read_on,
    read_prompts,
)


@pytest.fixture
def policy() -> Policy:
    policy = load_hub("qwen3_5")
    wake_adapters(policy)
    return policy


@pytest.fixture
def module(policy) -> torch.nn.Module:
    """Linear attention of the first layer."""
    return policy.core.model.language_model.layers[0].linear_attn


def unequal_screens() -> list[Observation]:
    return [observe(0, scale=2), observe(7, scale=3, steps=4)]


def noise(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


# ---- the whole of it ----------------------------------------------------------------------------

LENGTHS = [[3, 7, 1, 5], [5, 2, 9, 4]]  # of two prompts' completions, G = 4


def test_a_made_up_checkpoint_has_layers_of_both_kinds(policy):
    layers = policy.core.model.language_model.layers
    assert [is_linear(layer) for layer in layers] == [True, True, True, False]
    assert policy.forward is SHARED


@pytest.mark.parametrize("temperature", [1.0, 0.7])
@pytest.mark.parametrize("checkpointing", [False, True])
def test_both_ways_give_the_numbers_and_gradients_of_plain_rows(policy, checkpointing, temperature):
    case = make_case(policy, unequal_screens(), LENGTHS)
    assert len({len(prompt.ids) for prompt in case.prompts}) == 2
    plain = score_plain(policy, case, temperature)
    expected = gradients(policy, case, plain)
    assert len(expected) == projections("qwen3_5") * 2  # A and B
    calls = count_forwards(policy)
    for forward, times in ((SHARED, 1), (REFERENCE, 2)):  # once, or once a prompt
        calls.clear()
        scored = score_by(forward, policy, case, temperature, checkpointing)
        assert len(calls) == times
        assert_close(scored, plain)
        assert_same_gradients(gradients(policy, case, scored), expected)
        # Checkpointing computes each layer again in the backward.
        assert len(calls) == times * (1 + checkpointing)


@pytest.mark.parametrize("forward", [SHARED, REFERENCE], ids=["shared", "reference"])
def test_decoding_token_by_token_has_the_numbers_of_plain_rows(policy, forward):
    observations = unequal_screens()
    prompts = encode(policy, observations, 2)
    how = Sampling(horizon=2, group_size=4, temperature=1.0, max_new_tokens=12)
    groups = forward.sample(policy, prompts, how, torch.Generator().manual_seed(0))
    for seen, prompt, group in zip(observations, prompts, groups, strict=True):
        assert len({tuple(rollout.completion_ids) for rollout in group}) == 4
        for rollout in group:
            with torch.no_grad():
                plain = plain_logprobs(policy, seen, prompt.ids, rollout.completion_ids)
            old = torch.tensor(rollout.old_logprobs)
            torch.testing.assert_close(old, plain, atol=1e-4, rtol=0)


@pytest.mark.parametrize("forgotten", ["window", "state"])
def test_a_prompt_that_is_not_handed_on_would_show(policy, monkeypatch, forgotten):
    """Else the comparisons above would say nothing about states."""
    case = make_case(policy, unequal_screens(), LENGTHS)
    repeat = Memory.repeat

    def forget(memory: Memory, G: int) -> Memory:
        copies = repeat(memory, G)
        getattr(copies, forgotten).zero_()
        return copies

    with torch.no_grad():
        before = torch.cat(score_by(SHARED, policy, case))
        monkeypatch.setattr(shared_prompt_qwen35.Memory, "repeat", forget)
        after = torch.cat(score_by(SHARED, policy, case))
    assert (before - after).abs().max() > 1e-2


# ---- its parts ----------------------------------------------------------------------------------


@torch.no_grad()
def test_a_prompt_and_its_completion_are_what_the_librarys_layer_makes_of_one_row(module):
    x = noise(1, 90, 64)  # more than one chunk of 64
    lengths = torch.tensor([70])
    rows = Rows(lengths, L=70, G=1, rotary=None, mask=None)
    torch.testing.assert_close(linear_rows(module, x, rows), module(x), atol=1e-5, rtol=1e-4)


@torch.no_grad()
@pytest.mark.parametrize("length", [1, 2, 3, 5, 70])
def test_padding_neither_writes_nor_fades(module, length):
    """A prompt may be shorter than the window of the convolution."""
    L = 80
    x = noise(2, L, 64)
    _, memory = read_prompts(module, x, torch.tensor([L, length]))
    _, alone = read_prompts(module, x[1:, :length], torch.tensor([length]))
    torch.testing.assert_close(memory.window[1:], alone.window)
    torch.testing.assert_close(memory.state[1:], alone.state, atol=1e-5, rtol=1e-4)
    assert memory.state[1].abs().max() > 1e-3


@torch.no_grad()
def test_token_by_token_a_row_is_read_as_at_once(module):
    x = noise(2, 20, 64)
    _, memory = read_prompts(module, x[:, :9], torch.tensor([9, 9]))
    at_once, remembered = read_on(module, x[:, 9:], memory)
    outputs = []
    for t in range(9, 20):
        output, memory = read_on(module, x[:, t : t + 1], memory)
        outputs.append(output)
    torch.testing.assert_close(torch.cat(outputs, 1), at_once, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(memory.window, remembered.window)
    torch.testing.assert_close(memory.state, remembered.state, atol=1e-5, rtol=1e-4)


@torch.no_grad()
def test_each_completion_has_a_memory_of_its_own(module):
    x = noise(2, 9, 64)
    _, memory = read_prompts(module, x, torch.tensor([9, 4]))
    copies = memory.repeat(3)
    assert copies.window.shape == (6, 3, memory.window.shape[2])
    for row in range(6):
        assert torch.equal(copies.window[row], memory.window[row // 3])
        assert torch.equal(copies.state[row], memory.state[row // 3])
    copies.state[0] += 1
    assert not torch.equal(copies.state[0], copies.state[1])


@torch.no_grad()
def test_the_first_quarter_of_a_head_is_turned_as_the_library_does(policy):
    from transformers.models.qwen3_5.modeling_qwen3_5 import apply_rotary_pos_emb

    language_model = policy.core.model.language_model
    attention = language_model.layers[3].self_attn
    x = noise(2, 5, 64)
    positions = torch.arange(30).view(3, 2, 5)
    heads = project(attention, x, rotary_of(policy, like=x, positions=positions))
    q, gate = attention.q_proj(x).view(2, 5, 4, 64).chunk(2, -1)
    k = attention.k_proj(x).view(2, 5, 2, 32)
    cos, sin = language_model.rotary_emb(x, positions)
    assert cos.shape[-1] == 8
    expected = apply_rotary_pos_emb(
        attention.q_norm(q), attention.k_norm(k), cos, sin, unsqueeze_dim=2
    )
    torch.testing.assert_close(heads.q, expected[0])
    torch.testing.assert_close(heads.k, expected[1])
    assert torch.equal(heads.gate, gate.sigmoid())


@pytest.mark.parametrize("how", [{"dtype": "bfloat16"}, {"load_in_4bit": True}])
def test_16_and_4_bits_sample_and_train(how):
    policy = load_hub("qwen3_5", **how)
    wake_adapters(policy)
    prompts = encode(policy, unequal_screens(), 1)
    groups = policy.forward.sample(policy, prompts, Sampling(1, 2, 1.0, 4))
    completions = []
    sampled = []
    for group in groups:
        completions.append([rollout.completion_ids for rollout in group])
        for rollout in group:
            sampled += rollout.old_logprobs
    logprobs, written = policy.forward.completion_logprobs(policy, prompts, completions)
    old = torch.tensor(sampled)
    torch.testing.assert_close(logprobs[written], old, atol=0.1, rtol=0)
    logprobs.sum().backward()
    assert all(weight.grad.norm() > 0 for weight in trainable(policy))
