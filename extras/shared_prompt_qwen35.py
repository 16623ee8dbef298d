"""The fast path of Qwen3.5, three of whose four layers have a recurrent state in place of keys.

extras/loading.py puts SHARED into policy.forward for this family. What is computed is defined in
agent.py; how a prompt is shared, and all that has to do with keys and values, stands in
extras/shared_prompt.py. Read these first: here is only what is different.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import Module
from torch.nn.functional import conv1d, silu, softplus
from torch.utils.checkpoint import checkpoint

from agent import Forward, Policy, Prompt, Rollout, Sampling
from extras.shared_prompt import (
    KeyValueRows,
    Rotary,
    batch_prompts,
    causal_attention,
    draw_completions,
    embed,
    language_model,
    one_row_mask,
    pad_completions,
    rotary_of,
    rotate,
    rows_mask,
    shared_attention,
    with_completions,
    written_logprobs,
)

# A layer of linear attention (a gated delta net) knows of the tokens before only what stands in two
# tensors, whose size does not depend on how many there were:
#
#     window   the last W = 3 inputs of a convolution over four tokens
#     state    for each head a matrix M, which a token t first fades, then corrects, then reads:
#
#                  M  <-  exp(decay_t) M
#                  M  <-  M + key_t (beta_t (value_t - M^T key_t))^T
#                  read_t = M^T query_t
#
# So a prompt is shared by running it once and giving a copy of both to each of its completions.
# Nothing can be masked afterwards, as keys can: padding must not get in. Where decay = 0 and
# beta = 0 a token leaves M as it is, and the window is cut out before the padding begins.
#
# Every fourth layer is attention over keys and values with two things of its own: only the first
# quarter of a head is turned by positions, and each output passes a gate. Norms weigh by 1 + w. In
# this family nothing of the vision tower is added between the layers.
#
# The layers' own modules are called. Tricks for a small model (one product for many projections,
# one kernel for a norm) would gain nothing here: there is no tiny model of this family.
#
# Letters in shapes as in extras/shared_prompt.py, and
#
#     N  rows of any kind, P or B              W  inputs in a window
#     D  channels: queries, keys, values of all heads side by side
#     h  heads of values, each with a state [k_size, v_size]


# ---- linear attention ---------------------------------------------------------------------------


@dataclass
class Memory:
    """What a layer of linear attention knows of all tokens so far."""

    window: Tensor  # [N, W, D]
    state: Tensor  # [N, h, k_size, v_size], in fp32

    def repeat(self, G: int) -> "Memory":
        """G copies of each row."""
        window = self.window.repeat_interleave(G, 0)
        state = self.state.repeat_interleave(G, 0)
        return Memory(window, state)


def read_prompts(module: Module, x: Tensor, lengths: Tensor) -> tuple[Tensor, Memory]:
    """Prompts [P, L, hidden] of `lengths` [P] -> the layer's output, and what it remembers."""
    P, L, _ = x.shape
    W = module.conv_kernel_size - 1
    projected = module.in_proj_qkv(x)  # [P, L, D]
    nothing = projected.new_zeros(P, W, projected.shape[2])
    inputs = torch.cat([nothing, projected], 1)  # [P, W + L, D]
    decay, beta = decay_and_beta(module, x)
    is_prompt = torch.arange(L, device=x.device) < lengths[:, None]  # [P, L]
    decay = decay * is_prompt[..., None]
    beta = beta * is_prompt[..., None]
    read, state = delta_rule(module, inputs, decay, beta, None)
    # The prompt's last input is number W + length - 1 here.
    at = lengths[:, None] + torch.arange(W, device=x.device)  # [P, W]
    at = at[..., None].expand(-1, -1, inputs.shape[2])  # [P, W, D]
    window = inputs.gather(1, at)
    return linear_output(module, x, read), Memory(window, state)


def read_on(module: Module, x: Tensor, memory: Memory) -> tuple[Tensor, Memory]:
    """Rows [N, S, hidden] that go on where `memory` ends -> the layer's output, the new memory."""
    inputs = torch.cat([memory.window, module.in_proj_qkv(x)], 1)  # [N, W + S, D]
    decay, beta = decay_and_beta(module, x)
    read, state = delta_rule(module, inputs, decay, beta, memory.state)
    window = inputs[:, x.shape[1] :]  # the last W
    return linear_output(module, x, read), Memory(window, state)


def decay_and_beta(module: Module, x: Tensor) -> tuple[Tensor, Tensor]:
    """How far each token lets each head's state fade, and how strongly it writes: [N, S, h] each.

    decay is the logarithm of a factor in 0..1, in fp32; beta is in 0..1.
    """
    speed = module.A_log.float().exp()
    decay = -speed * softplus(module.in_proj_a(x).float() + module.dt_bias)
    beta = module.in_proj_b(x).sigmoid()
    return decay, beta


def delta_rule(
    module: Module, inputs: Tensor, decay: Tensor, beta: Tensor, state: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Convolution and recurrence over S tokens, whose W inputs before stand in front.

    inputs [N, W + S, D], decay and beta [N, S, h] -> what the heads read [N, S, h, v_size], and the
    state after the last token.
    """
    # With flash-linear-attention installed these two names of the library are its kernels.
    from transformers.models.qwen3_5.modeling_qwen3_5 import (
        torch_chunk_gated_delta_rule,
        torch_recurrent_gated_delta_rule,
    )

    D = inputs.shape[2]
    convolved = conv1d(inputs.transpose(1, 2), module.conv1d.weight, module.conv1d.bias, groups=D)
    convolved = silu(convolved.transpose(1, 2))  # [N, S, D]
    parts = [module.key_dim, module.key_dim, module.value_dim]
    query, key, value = convolved.split(parts, -1)
    # Token by token where there is one, else in chunks of tokens; the numbers are the same.
    one_token = decay.shape[1] == 1
    rule = torch_recurrent_gated_delta_rule if one_token else torch_chunk_gated_delta_rule
    return rule(
        query.unflatten(-1, (-1, module.head_k_dim)),
        key.unflatten(-1, (-1, module.head_k_dim)),
        value.unflatten(-1, (-1, module.head_v_dim)),
        g=decay,
        beta=beta,
        initial_state=state,
        output_final_state=True,
        use_qk_l2norm_in_kernel=True,
    )


def linear_output(module: Module, x: Tensor, read: Tensor) -> Tensor:
    """What the heads read [N, S, h, v_size] -> what the layer adds [N, S, hidden]."""
    gate = module.in_proj_z(x).unflatten(-1, (-1, module.head_v_dim))
    return module.out_proj(module.norm(read, gate).flatten(-2))


# ---- attention ----------------------------------------------------------------------------------


@dataclass
class Heads:
    """Projections of S tokens for attention."""

    q: Tensor  # [N, S, H, d]
    k: Tensor  # [N, S, K, d]
    v: Tensor  # [N, S, K, d]
    gate: Tensor  # [N, S, H, d] of the output, in 0..1


def project(module: Module, x: Tensor, rotary: Rotary) -> Heads:
    d = module.head_dim
    q_and_gate = module.q_proj(x).unflatten(-1, (-1, 2 * d))
    q, gate = q_and_gate.chunk(2, -1)
    k = module.k_proj(x).unflatten(-1, (-1, d))
    v = module.v_proj(x).unflatten(-1, (-1, d))
    q = rotate_part(module.q_norm(q), rotary)
    k = rotate_part(module.k_norm(k), rotary)
    return Heads(q, k, v, gate.sigmoid())


def rotate_part(x: Tensor, rotary: Rotary) -> Tensor:
    """Turn the first numbers of each head, [N, S, heads, d], as many as `rotary` has turns for."""
    turning = rotary.cos.shape[-1]
    turned = rotate(x[..., :turning], rotary)
    return torch.cat([turned, x[..., turning:]], -1)


def attention_output(module: Module, read: Tensor, gate: Tensor) -> Tensor:
    """What the heads read [N, S, H, d] -> what the layer adds [N, S, hidden]."""
    return module.o_proj((read * gate).flatten(-2))


# ---- one layer of [prompt | c_1 .. c_G] ---------------------------------------------------------


@dataclass
class Rows:
    """What all layers need to know of rows [prompt | c_1 .. c_G]."""

    lengths: Tensor  # [P] of the prompts
    L: int  # where the completions begin
    G: int
    rotary: Rotary  # [P, L + G C, d / 4]
    mask: Tensor  # [P, 1, R C, L + C]


def run_layer(layer: Module, x: Tensor, rows: Rows, skip: int) -> Tensor:
    """[P, L + G C, hidden] -> [P, L + G C - skip, hidden]; nobody reads the first `skip` tokens."""
    normed = layer.input_layernorm(x)
    if is_linear(layer):
        mixed = linear_rows(layer.linear_attn, normed, rows)[:, skip:]
    else:
        mixed = attention_rows(layer.self_attn, normed, rows, skip)
    return after_mixing(layer, x[:, skip:], mixed)


def is_linear(layer: Module) -> bool:
    return hasattr(layer, "linear_attn")


def linear_rows(module: Module, x: Tensor, rows: Rows) -> Tensor:
    """Prompts first; then each completion as a row of its own, with a copy of its prompt's memory.

    Gradients of all G completions flow back into the prompt through these copies.
    """
    of_prompts, of_completions = x.tensor_split([rows.L], 1)
    prompts, memory = read_prompts(module, of_prompts, rows.lengths)
    own_rows = of_completions.unflatten(1, (rows.G, -1))  # [P, G, C, hidden]
    own_rows = own_rows.flatten(0, 1)  # [B, C, hidden]
    completions, _ = read_on(module, own_rows, memory.repeat(rows.G))
    completions = completions.unflatten(0, (-1, rows.G))  # [P, G, C, hidden]
    return torch.cat([prompts, completions.flatten(1, 2)], 1)


def attention_rows(module: Module, x: Tensor, rows: Rows, skip: int) -> Tensor:
    heads = project(module, x, rows.rotary)
    q = heads.q[:, skip:]
    read = shared_attention(q, heads.k, heads.v, rows.mask, rows.L, module.scaling)
    return attention_output(module, read, heads.gate[:, skip:])


def after_mixing(layer: Module, x: Tensor, mixed: Tensor) -> Tensor:
    """The rest of a layer: its input and what attention of either kind adds to it."""
    x = x + mixed
    return x + layer.mlp(layer.post_attention_layernorm(x))


def readers(policy: Policy) -> int:
    """Query heads that read the same keys, R."""
    text = policy.core.config.text_config
    return text.num_attention_heads // text.num_key_value_heads


# ---- log-probabilities --------------------------------------------------------------------------


def completion_logprobs(
    policy: Policy,
    prompts: Sequence[Prompt],
    completions: Sequence[Sequence[list[int]]],
    temperature: float = 1.0,
    checkpointing: bool = False,
) -> tuple[Tensor, Tensor]:
    """As shared_prompt.completion_logprobs: ([P, G, C] log-probabilities, [P, G, C] mask)."""
    tokens, written = pad_completions(policy, completions)  # [P, G, C] each
    states = completion_states(policy, prompts, tokens, checkpointing)  # [P, G, C, hidden]
    return written_logprobs(policy, states, tokens, written, temperature), written


def completion_states(policy, prompts, tokens: Tensor, checkpointing: bool) -> Tensor:
    """Last hidden states [P, G, C, hidden] that predict the completions' tokens [P, G, C]."""
    _, G, C = tokens.shape
    batch = batch_prompts(policy, prompts)
    L = batch.ids.shape[1]
    ids, positions = with_completions(batch, tokens)
    x, _ = embed(policy, ids, prompts)  # [P, L + G C, hidden]
    rotary = rotary_of(policy, like=x, positions=positions)
    mask = rows_mask(batch, C, readers(policy)).to(x.dtype)
    rows = Rows(batch.lengths, L, G, rotary, mask)
    model = language_model(policy)
    for layer in model.layers:
        # Of a prompt in the last layer nobody reads more than keys and values, or the state.
        skip = L if layer is model.layers[-1] else 0
        if checkpointing and torch.is_grad_enabled():
            x = checkpoint(run_layer, layer, x, rows, skip, use_reentrant=False)
        else:
            x = run_layer(layer, x, rows, skip)
    return model.norm(x).unflatten(1, (G, C))


# ---- sampling -----------------------------------------------------------------------------------


@torch.inference_mode()  # for the reason that stands at shared_prompt.sample
def sample(
    policy: Policy,
    prompts: Sequence[Prompt],
    how: Sampling,
    generator: torch.Generator | None = None,
) -> list[list[Rollout]]:
    """As shared_prompt.sample: P lists of G rollouts."""
    decoding = start_decoding(policy, prompts, how.group_size, how.max_new_tokens)

    def next_states(token: Tensor) -> Tensor:
        return decode(policy, decoding, token)

    return draw_completions(policy, prompts, how, generator, next_states)


@dataclass
class Decoding:
    """What sampling carries from token to token."""

    kept: list[KeyValueRows | Memory]  # of each layer; a Memory has B rows
    rotary: Rotary  # of the C tokens of a completion, [P, C, d / 4]
    mask: Tensor  # [P, 1, G R, L + C G]: which of a row of keys a completion sees
    done: int = 0  # tokens that were decoded


def start_decoding(policy: Policy, prompts: Sequence[Prompt], G: int, C: int) -> Decoding:
    """Prefill: what each layer keeps of the prompts, for G completions of up to C tokens."""
    batch = batch_prompts(policy, prompts)
    x, _ = embed(policy, batch.ids, prompts)  # [P, L, hidden]
    of_prompts = rotary_of(policy, like=x, positions=batch.positions)
    kept = []
    for layer in language_model(policy).layers:
        normed = layer.input_layernorm(x)
        if is_linear(layer):
            mixed, memory = read_prompts(layer.linear_attn, normed, batch.lengths)
            kept.append(memory.repeat(G))
        else:
            module = layer.self_attn
            heads = project(module, normed, of_prompts)
            kept.append(KeyValueRows(heads.k, heads.v, room=C * G))
            read = causal_attention(heads.q, heads.k, heads.v, module.scaling)
            mixed = attention_output(module, read, heads.gate)
        x = after_mixing(layer, x, mixed)
    positions = batch.following(C).expand(3, -1, -1)  # [3, P, C]
    of_completions = rotary_of(policy, like=x, positions=positions)
    mask = one_row_mask(batch, G, C, readers(policy)).to(x.dtype)
    return Decoding(kept, of_completions, mask)


def decode(policy: Policy, decoding: Decoding, token: Tensor) -> Tensor:
    """One token [B] of each completion -> the states [B, hidden] that predict the next one."""
    model = language_model(policy)
    P = len(decoding.mask)
    here = decoding.rotary.of_token(decoding.done)
    decoding.done += 1
    x = model.embed_tokens(token)  # [B, hidden]
    for i, layer in enumerate(model.layers):
        normed = layer.input_layernorm(x)
        kept = decoding.kept[i]
        if is_linear(layer):
            mixed, memory = read_on(layer.linear_attn, normed[:, None], kept)
            mixed = mixed[:, 0]
            decoding.kept[i] = memory
        else:
            module = layer.self_attn
            heads = project(module, normed.unflatten(0, (P, -1)), here)  # of [P, G] tokens
            kept.append(heads.k, heads.v)
            read = kept.attend(heads.q, decoding.mask, module.scaling)
            mixed = attention_output(module, read, heads.gate).flatten(0, 1)
        x = after_mixing(layer, x, mixed)
    return model.norm(x)


SHARED = Forward(sample, completion_logprobs)
