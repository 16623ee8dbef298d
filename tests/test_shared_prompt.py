"""extras/shared_prompt.py: the fast path has the numbers and gradients of the reference in agent.py
and of plain one-row forwards, for each family, and each of its tricks those of what it replaces.
What is special about Qwen3.5 is tested in test_shared_prompt_qwen35.py."""

import math

import pytest
import torch
from helpers import (
    assert_close,
    assert_same_gradients,
    count_forwards,
    gradients,
    hub,
    load_hub,
    make_case,
    observe,
    score_by,
    score_plain,
    wake_adapters,
)
from torch.nn.functional import scaled_dot_product_attention

from agent import REFERENCE, Sampling, encode
from envs import Action
from extras import shared_prompt
from extras.loading import FAMILIES, load_policy
from extras.shared_prompt import (
    SHARED,
    Rotary,
    batch_prompts,
    join,
    read_layers,
    rotary_of,
    rotate,
    shared_attention,
    shared_mask,
)

# ---- the whole of it: numbers and gradients -----------------------------------------------------


@pytest.mark.parametrize("temperature", [1.0, 0.7])
@pytest.mark.parametrize("checkpointing", [False, True])
def test_both_ways_give_the_numbers_and_gradients_of_plain_rows(tuned, checkpointing, temperature):
    observations = [
        observe(0),
        observe(7, steps=4, plan=(Action("back"),)),
        observe(3, scale=2),
    ]
    case = make_case(tuned, observations, [[3, 7, 1], [5, 2, 9], [4, 4, 6]])
    assert len({len(prompt.ids) for prompt in case.prompts}) == 3
    plain = score_plain(tuned, case, temperature)
    expected = gradients(tuned, case, plain)
    assert len(expected) == 4 * 7 * 2  # layers x projections x (A, B)
    calls = count_forwards(tuned)
    for forward, at_least in ((SHARED, 1), (REFERENCE, 3)):
        calls.clear()
        scored = score_by(forward, tuned, case, temperature, checkpointing)
        assert len(calls) == at_least
        assert_close(scored, plain)
        assert_same_gradients(gradients(tuned, case, scored), expected)
        # Checkpointing computes each layer again in the backward.
        assert len(calls) == at_least * (1 + checkpointing)


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("load_in_4bit", [False, True])
@pytest.mark.parametrize("family", FAMILIES)
def test_so_it_is_for_each_family_at_each_precision(family, load_in_4bit, checkpointing):
    policy = load_hub(family, load_in_4bit=load_in_4bit)
    assert policy.forward is FAMILIES[family]
    wake_adapters(policy)
    observations = [observe(0, scale=2), observe(7, scale=3, steps=4)]
    case = make_case(policy, observations, [[3, 7], [5, 2]])
    assert len({len(prompt.ids) for prompt in case.prompts}) == 2
    shared = score_by(policy.forward, policy, case, checkpointing=checkpointing)
    of_shared = gradients(policy, case, shared)
    reference = score_by(REFERENCE, policy, case, checkpointing=checkpointing)
    of_reference = gradients(policy, case, reference)
    plain = score_plain(policy, case)
    assert_close(shared, plain)
    assert_close(reference, plain)
    assert_same_gradients(of_shared, of_reference)
    assert_same_gradients(of_reference, gradients(policy, case, plain))


@pytest.mark.parametrize("family", FAMILIES)
def test_both_ways_draw_the_same_samples_for_each_family(family):
    policy = load_hub(family)
    wake_adapters(policy)
    prompts = encode(policy, [observe(0, scale=2), observe(7, scale=3, steps=4)], 2)
    how = Sampling(horizon=2, group_size=3, temperature=1.0, max_new_tokens=8)
    drawn = []
    for forward in (FAMILIES[family], REFERENCE):
        generator = torch.Generator().manual_seed(0)
        groups = forward.sample(policy, prompts, how, generator)
        drawn.append(groups[0] + groups[1])
    for shared, reference in zip(*drawn, strict=True):
        assert shared.completion_ids == reference.completion_ids
        old = torch.tensor(shared.old_logprobs)
        torch.testing.assert_close(old, torch.tensor(reference.old_logprobs), atol=1e-4, rtol=0)


def test_tokens_that_are_scored_in_chunks_have_the_same_numbers_and_gradients(monkeypatch):
    policy = load_hub()
    wake_adapters(policy)
    case = make_case(policy, [observe(0, scale=2)], [[3, 7, 5]])
    found = []
    for chunk in (2048, 4):
        monkeypatch.setattr(shared_prompt, "CHUNK", chunk)
        scored = score_by(SHARED, policy, case)
        found.append((torch.cat(scored).detach(), gradients(policy, case, scored)))
    torch.testing.assert_close(found[0][0], found[1][0])
    assert_same_gradients(found[0][1], found[1][1])


# ---- attention ----------------------------------------------------------------------------------


def seen_by_definition(lengths: torch.Tensor, L: int, G: int, C: int) -> torch.Tensor:
    """[P, 1, S, S]: each pair of tokens, by the drawing at the top of shared_prompt.py.

    A token of padding sees itself, so that its softmax is not empty.
    """
    owner = [0] * L  # of each token: 0 for the prompt, g + 1 for a completion
    for g in range(G):
        owner += [g + 1] * C
    S = len(owner)
    seen = torch.zeros(len(lengths), 1, S, S, dtype=torch.bool)
    for p, length in enumerate(lengths):
        for i in range(S):
            for j in range(i + 1):
                if owner[j] == 0:
                    seen[p, 0, i, j] = j < length or i == j
                else:
                    seen[p, 0, i, j] = owner[i] == owner[j]
    return seen


@pytest.mark.parametrize(
    ("P", "K", "R", "L", "G", "C"),
    [(1, 1, 1, 1, 1, 1), (3, 2, 2, 7, 4, 5), (2, 3, 1, 5, 3, 2)],
)
def test_two_calls_give_what_one_square_mask_gives(P, K, R, L, G, C):
    generator = torch.Generator().manual_seed(0)
    S = L + G * C
    lengths = torch.arange(L, L - P, -1)

    def heads(count):
        return torch.randn(P, S, count, 4, generator=generator).requires_grad_()

    q = heads(K * R)
    k = heads(K)
    v = heads(K)
    weight = heads(K * R)
    in_prompt = torch.arange(S) < lengths[:, None]  # [P, S]
    in_completion = torch.arange(S) >= L
    # What padding computes is nobody's business.
    real = (in_prompt | in_completion)[:, :, None, None]

    mask = shared_mask(lengths, L, torch.ones(C, C).tril().bool().repeat(R, 1))
    shared = shared_attention(q, k, v, mask, L, 0.3)
    definition = scaled_dot_product_attention(
        q.transpose(1, 2),
        k.transpose(1, 2).repeat_interleave(R, 1),
        v.transpose(1, 2).repeat_interleave(R, 1),
        seen_by_definition(lengths, L, G, C),
        scale=0.3,
    ).transpose(1, 2)
    torch.testing.assert_close(shared * real, definition * real, atol=1e-5, rtol=1e-4)

    def gradients_of(mixed):
        return torch.autograd.grad((mixed * real * weight).sum(), (q, k, v))

    for found, expected in zip(gradients_of(shared), gradients_of(definition), strict=True):
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)

    # The prompt's own queries may be left out.
    own = shared_attention(q[:, L:], k, v, mask, L, 0.3)
    torch.testing.assert_close(own, shared[:, L:], atol=1e-5, rtol=1e-4)


def test_a_mask_hides_padding_and_what_is_not_own():
    own = torch.tensor([[True, False]])
    mask = shared_mask(torch.tensor([3, 1]), 3, own)
    hidden = -math.inf
    assert mask.tolist() == [[[[0, 0, 0, 0, hidden]]], [[[0, hidden, hidden, 0, hidden]]]]


# ---- the other tricks ---------------------------------------------------------------------------


def test_a_batch_of_prompts_keeps_their_last_tokens_apart(policy):
    prompts = encode(policy, [observe(0), observe(7, steps=4)], 5)
    batch = batch_prompts(policy, prompts)
    lengths = [len(prompt.ids) - 1 for prompt in prompts]
    assert batch.lengths.tolist() == lengths
    assert lengths[0] != lengths[1]
    assert batch.ids.shape == (2, max(lengths)) and batch.positions.shape == (3, 2, max(lengths))
    for p, prompt in enumerate(prompts):
        assert batch.ids[p, : lengths[p]].tolist() == prompt.ids[:-1]
        assert batch.last_id[p] == prompt.ids[-1]
        before = batch.positions[:, p, lengths[p] - 1]
        assert batch.last_position[p] == before.max() + 1


def test_folded_adapters_give_what_the_modules_give(tuned):
    attention = tuned.core.model.language_model.layers[0].self_attn
    projections = (attention.q_proj, attention.k_proj, attention.v_proj)
    x = torch.randn(3, 128, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        with_adapters = join(*projections)(x)
        called = torch.cat([projection(x) for projection in projections], -1)
        torch.testing.assert_close(with_adapters, called, atol=1e-5, rtol=1e-5)
        with tuned.peft.disable_adapter():
            without = join(*projections)(x)
            base = torch.cat([projection.base_layer(x) for projection in projections], -1)
        torch.testing.assert_close(without, base, atol=1e-5, rtol=1e-5)
    assert (with_adapters - without).abs().max() > 0.1


@pytest.mark.parametrize("how", [{"dtype": "bfloat16"}, {"load_in_4bit": True}])
def test_adapters_of_16_and_4_bit_models_are_not_folded(how):
    """A small adapter would drown in the rounding of a large weight."""
    policy = load_policy(hub(), **how)
    wake_adapters(policy)
    called = []
    for name, module in policy.core.named_modules():
        if name.endswith("q_proj"):
            module.register_forward_pre_hook(lambda *_: called.append(1))
    layer = read_layers(policy)[0]
    layer.qkv(torch.zeros(1, 64, dtype=policy.core.dtype))
    assert len(called) == 1


def test_a_roll_turns_as_the_library_does(policy):
    from transformers.models.qwen3_vl.modeling_qwen3_vl import apply_rotary_pos_emb

    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, 5, 3, 32, generator=generator)  # [P, S, heads, d]
    positions = torch.randint(0, 50, (3, 2, 5), generator=generator)
    cos, sin = policy.core.model.language_model.rotary_emb(x, positions)
    expected, _ = apply_rotary_pos_emb(x, x, cos, sin, unsqueeze_dim=2)
    rotary = rotary_of(policy, like=x, positions=positions)
    torch.testing.assert_close(rotate(x, rotary), expected)
    of_third = Rotary(rotary.cos[:, 2:3], rotary.sin[:, 2:3])
    torch.testing.assert_close(rotate(x[:, 2:3], rotary.of_token(2)), expected[:, 2:3])
    assert torch.equal(of_third.cos, rotary.of_token(2).cos)
