"""The fast path: a prompt is computed once for its G completions, and the numbers stay the same.

extras/loading.py puts SHARED into policy.forward, which everybody calls; Qwen3.5, whose layers are
of other kinds, has a file of its own, extras/shared_prompt_qwen35.py, which uses half of this one.
What is computed is not defined here but in agent.py (sample, completion_logprobs): read that first.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import Linear, Module
from torch.nn.functional import linear, rms_norm, scaled_dot_product_attention
from torch.nn.utils.rnn import pad_sequence
from torch.utils.checkpoint import checkpoint

from agent import (
    Forward,
    Policy,
    Prompt,
    Rollout,
    Sampling,
    draw_tokens,
    make_rollouts,
    token_logprobs,
)

# Who sees whom, for a prompt p of three tokens with two completions a and b of two tokens:
#
#            p p p | a a | b b
#       p    x                     A token of the prompt sees the prompt up to itself. A token of a
#       p    x x                   completion sees the whole prompt (not its padding) and its own
#       p    x x x                 completion up to itself.
#       a    x x x   x
#       a    x x x   x x           One mask for all of it would be [S, S] with S = L + G C, most of
#       b    x x x         x       it empty. So it is done in two calls: prompt against prompt,
#       b    x x x         x x     which is plain causal attention, and completions as rows of their
#                                  own against [prompt | own], with a mask of [C, L + C].
#
# The last token of a prompt is not in p: it stands in front of each completion. What the model
# makes of it predicts the first token of the completion, so that nothing is needed of the rest of a
# prompt but its keys and values.
#
# The layers are the model's own weights, called without their wrappers, which on a small model take
# longer than the arithmetic. docs/speed.md says what some of this gains, and what gained nothing.
#
# Letters in shapes. Two are not agent.py's: H is heads here, the hidden size is written `hidden`; L
# leaves out a prompt's last token.
#
#     P  prompts                              H  query heads
#     G  completions of a prompt              K  heads of keys and values
#     B  all completions, P G                 R  query heads that read the same keys, H / K
#     L  tokens of the longest prompt p       d  numbers of a head
#     C  tokens of the longest completion     S  tokens in a row, whatever they are


# ---- attention ----------------------------------------------------------------------------------


def shared_mask(lengths: Tensor, L: int, own: Tensor) -> Tensor:
    """What is added to the scores of queries over [prompt | own], 0 or -inf: [P, 1, Q, L + N].

    Q queries see their prompt of `lengths` [P], not its padding up to L, and of the N keys behind
    it what `own` [Q, N] says.
    """
    Q = len(own)
    on_prompt = torch.arange(L, device=lengths.device) < lengths[:, None, None]  # [P, 1, L]
    on_prompt = on_prompt.expand(-1, Q, -1)  # [P, Q, L]
    on_own = own.to(lengths.device).expand(len(lengths), -1, -1)  # [P, Q, N]
    seen = torch.cat([on_prompt, on_own], 2)[:, None]  # [P, 1, Q, L + N]
    return torch.zeros(seen.shape, device=seen.device).masked_fill(~seen, -math.inf)


def shared_attention(q, k, v, mask: Tensor, L: int, scaling: float) -> Tensor:
    """The picture at the top in two calls: prompt against prompt, completions against both.

    Queries [P, L + G C, H, d], or [P, G C, H, d] where nobody asks for those of the prompt; keys
    and values [P, L + G C, K, d]; mask [P, 1, R C, L + C]. Returns the shape of the queries.
    """
    completion_tokens = k.shape[1] - L  # G C
    prompt_queries = q.shape[1] - completion_tokens  # L or 0
    of_prompt, of_completions = q.tensor_split([prompt_queries], 1)
    completions = completion_attention(of_completions, k, v, mask, L, scaling)
    if prompt_queries == 0:
        return completions
    prompt = causal_attention(of_prompt, k[:, :L], v[:, :L], scaling)
    return torch.cat([prompt, completions], 1)


def completion_attention(q, k, v, mask: Tensor, L: int, scaling: float) -> Tensor:
    """Completions as rows of their own against [prompt | own]: q [P, G C, H, d] -> the same shape.

    The R heads that read the same keys stand under one another as more queries, so that keys and
    values need not be repeated for them.
    """
    P, GC, H, d = q.shape
    K = k.shape[2]
    R = H // K
    C = mask.shape[3] - L
    G = GC // C
    keys = behind_prompt(k, L, G)  # [P, G K, L + C, d]
    values = behind_prompt(v, L, G)
    queries = q.reshape(P, G, C, K, R, d)
    queries = queries.permute(0, 1, 3, 4, 2, 5)  # [P, G, K, R, C, d]
    queries = queries.reshape(P, G * K, R * C, d)
    mixed = scaled_dot_product_attention(queries, keys, values, attn_mask=mask, scale=scaling)
    mixed = mixed.view(P, G, K, R, C, d)
    mixed = mixed.permute(0, 1, 4, 2, 3, 5)  # [P, G, C, K, R, d]
    return mixed.reshape(q.shape)


def behind_prompt(x: Tensor, L: int, G: int) -> Tensor:
    """Keys or values [P, L + G C, K, d] -> each completion behind its prompt [P, G K, L + C, d]."""
    prompt = x[:, None, :L].expand(-1, G, -1, -1, -1)  # [P, G, L, K, d]
    own = x[:, L:].unflatten(1, (G, -1))  # [P, G, C, K, d]
    rows = torch.cat([prompt, own], 2)  # [P, G, L + C, K, d]
    rows = rows.transpose(2, 3)  # [P, G, K, L + C, d]
    return rows.flatten(1, 2)


def causal_attention(q, k, v, scaling: float) -> Tensor:
    """Prompt against prompt: q [P, L, H, d], keys and values [P, L, K, d] -> like q."""
    R = q.shape[2] // k.shape[2]
    queries = q.transpose(1, 2)  # [P, H, L, d]
    keys = k.transpose(1, 2).repeat_interleave(R, 1)
    values = v.transpose(1, 2).repeat_interleave(R, 1)
    mixed = scaled_dot_product_attention(queries, keys, values, scale=scaling, is_causal=True)
    return mixed.transpose(1, 2)


# ---- rotary positions ---------------------------------------------------------------------------


@dataclass
class Rotary:
    """Turns by the positions of S tokens; the first half of sin is negative already, see rotate."""

    cos: Tensor  # [P, S, d]
    sin: Tensor  # [P, S, d]

    def of_token(self, t: int) -> "Rotary":
        """Those of one token, [P, 1, d]."""
        return Rotary(self.cos[:, t, None], self.sin[:, t, None])


def rotary_of(policy: Policy, like: Tensor, positions: Tensor) -> Rotary:
    """Rotary of positions [3, P, S], on the device and in the type of `like`."""
    cos, sin = language_model(policy).rotary_emb(like, positions)
    first_half, second_half = sin.tensor_split(2, -1)
    return Rotary(cos, torch.cat([-first_half, second_half], -1))


def rotate(x: Tensor, rotary: Rotary) -> Tensor:
    """Turn each head's vector by the position of its token: [P, S, heads, d] -> the same shape.

    The library computes x * cos + (-b | a) * sin, where (a | b) are the two halves of x. Here the
    minus stands in sin, once for all layers, so that a roll does: x * cos + (b | a) * (-sin | sin).
    Slicing, negating and joining again in each layer took longer (docs/speed.md).
    """
    cos = rotary.cos[..., None, :]  # [P, S, 1, d]
    sin = rotary.sin[..., None, :]
    swapped = x.roll(x.shape[-1] // 2, -1)
    return torch.addcmul(x * cos, swapped, sin)


# ---- one layer ----------------------------------------------------------------------------------


@dataclass
class Layer:
    """One layer of the model with the adapters as they are now."""

    norm_before: Module  # before the attention
    qkv: Callable[[Tensor], Tensor]  # [.., hidden] -> [.., (H + 2 K) d]
    qk_norm: Tensor | None  # [H + K, d] weights of the norms of q and k; Qwen2-VL and 2.5: none
    out: Callable[[Tensor], Tensor]
    norm_after: Module
    gate_up: Callable[[Tensor], Tensor]  # [.., hidden] -> [.., 2 * intermediate]
    activation: Module
    down: Callable[[Tensor], Tensor]
    query_heads: int  # H
    key_heads: int  # K
    head_size: int  # d
    scaling: float  # of the scores, 1 / sqrt(d)

    @property
    def readers(self) -> int:
        """Query heads that read the same keys, R."""
        return self.query_heads // self.key_heads


def read_layers(policy: Policy) -> list[Layer]:
    """The layers of the language model; read afresh for each call, since adapters change."""
    text = policy.core.config.text_config
    return [read_layer(module, text) for module in language_model(policy).layers]


def read_layer(module: Module, text) -> Layer:
    attention = module.self_attn
    mlp = module.mlp
    return Layer(
        norm_before=module.input_layernorm,
        qkv=join(attention.q_proj, attention.k_proj, attention.v_proj),
        qk_norm=join_head_norms(attention, text),
        out=join(attention.o_proj),
        norm_after=module.post_attention_layernorm,
        gate_up=join(mlp.gate_proj, mlp.up_proj),
        activation=mlp.act_fn,
        down=join(mlp.down_proj),
        query_heads=text.num_attention_heads,
        key_heads=text.num_key_value_heads,
        head_size=attention.head_dim,
        scaling=attention.scaling,
    )


def language_model(policy: Policy) -> Module:
    return policy.core.model.language_model


def run_layer(layer: Layer, x: Tensor, rotary: Rotary, mask: Tensor, L: int, skip: int) -> Tensor:
    """[prompt | c_1 .. c_G] through one layer: [P, S, hidden] -> [P, S - skip, hidden].

    The first `skip` tokens only give keys and values.
    """
    q, k, v = queries_keys_values(layer, x, rotary)
    mixed = shared_attention(q[:, skip:], k, v, mask, L, layer.scaling)
    return after_attention(layer, x[:, skip:], mixed)


def queries_keys_values(layer: Layer, x: Tensor, rotary: Rotary) -> tuple[Tensor, Tensor, Tensor]:
    """x [P, S, hidden] -> queries [P, S, H, d], keys and values [P, S, K, d]."""
    H = layer.query_heads
    K = layer.key_heads
    heads = layer.qkv(normalise(layer.norm_before, x))
    heads = heads.unflatten(-1, (H + K + K, layer.head_size))  # [P, S, H + 2 K, d]
    qk, v = heads.split([H + K, K], -2)
    if layer.qk_norm is not None:
        epsilon = layer.norm_before.variance_epsilon  # a model has one for all its norms
        qk = rms_norm(qk, (layer.head_size,), None, epsilon) * layer.qk_norm
    q, k = rotate(qk, rotary).split([H, K], -2)
    return q, k, v


def after_attention(layer: Layer, x: Tensor, mixed: Tensor) -> Tensor:
    """The rest of a layer: its input [P, S, hidden] and what attention [P, S, H, d] adds."""
    x = x + layer.out(mixed.flatten(-2))
    gate, up = layer.gate_up(normalise(layer.norm_after, x)).chunk(2, -1)
    return x + layer.down(layer.activation(gate) * up)


def normalise(module: Module, x: Tensor) -> Tensor:
    """The model's RMS norm in one kernel; the module itself takes six."""
    return rms_norm(x, x.shape[-1:], module.weight, module.variance_epsilon)


# ---- projections of one input as one product ----------------------------------------------------

MAX_FOLDED = 2**20  # weights of a projection: all of the tiny model's, none of a hub model's


def join(*projections: Module) -> Callable[[Tensor], Tensor]:
    """Several projections of one input as one function, with their outputs side by side.

    In fp32 their adapters are folded into a copy of the weights, which is exact but for rounding,
    gradients included, and is one product in place of three for each projection. Elsewhere the
    modules are called: in bf16 or 4 bits a small adapter would drown in the rounding of a large
    weight, and a large model has no room for copies.
    """
    bases = [getattr(projection, "base_layer", projection) for projection in projections]
    if not all(may_be_folded(base) for base in bases):
        return lambda x: torch.cat([projection(x) for projection in projections], -1)
    weight = torch.cat([folded_weight(projection) for projection in projections])
    bias = None
    if bases[0].bias is not None:
        bias = torch.cat([base.bias for base in bases])
    return lambda x: linear(x, weight, bias)


def may_be_folded(base: Module) -> bool:
    """Whether this is a small fp32 product (and not a 4-bit one, which has a class of its own)."""
    if type(base) is not Linear:
        return False
    return base.weight.dtype == torch.float32 and base.weight.numel() <= MAX_FOLDED


def folded_weight(projection: Module) -> Tensor:
    """W + scaling B A of each adapter that is on; W itself where there is none."""
    if not hasattr(projection, "base_layer"):
        return projection.weight
    weight = projection.base_layer.weight
    if projection.disable_adapters:
        return weight
    for name in projection.active_adapters:
        weight = weight + projection.get_delta_weight(name)
    return weight


def join_head_norms(attention: Module, text) -> Tensor | None:
    """The weights of the norms of q and k, a row a head: [H + K, d]. So one call does both."""
    if not hasattr(attention, "q_norm"):
        return None
    of_queries = [attention.q_norm.weight] * text.num_attention_heads
    of_keys = [attention.k_norm.weight] * text.num_key_value_heads
    return torch.stack(of_queries + of_keys)


# ---- a batch of prompts -------------------------------------------------------------------------


@dataclass
class PromptBatch:
    """Prompts without their last tokens, padded on the right, and these last tokens.

    Padding stands behind a prompt: under causal attention no token of the prompt sees it, so that
    no mask is needed there.
    """

    ids: Tensor  # [P, L]
    lengths: Tensor  # [P] of the ids that are not padding
    positions: Tensor  # [3, P, L] time, height and width of each token
    last_id: Tensor  # [P]
    last_position: Tensor  # [P] the same in time, height and width: it is a word

    def following(self, C: int) -> Tensor:
        """Positions of C tokens from the last one on, [P, C]."""
        return self.last_position[:, None] + torch.arange(C, device=self.ids.device)


def batch_prompts(policy: Policy, prompts: Sequence[Prompt]) -> PromptBatch:
    rows = [torch.tensor(prompt.ids) for prompt in prompts]
    lengths = torch.tensor([len(row) for row in rows])
    pad = policy.tokenizer.pad_token_id
    ids = pad_sequence(rows, batch_first=True, padding_value=pad)  # [P, L + 1]
    mask = torch.arange(ids.shape[1]) < lengths[:, None]
    # Given explicitly for the reason that stands in agent.rope_positions.
    positions, _ = policy.core.model.get_rope_index(
        ids,
        mm_token_type_ids=(ids == policy.image_token).int(),
        image_grid_thw=torch.stack([prompt.grid for prompt in prompts]),
        attention_mask=mask.long(),
    )  # [3, P, L + 1]
    last = lengths[:, None] - 1  # [P, 1]
    last_id = ids.gather(1, last)[:, 0]
    last_position = positions.amax(0).gather(1, last)[:, 0]
    device = policy.device
    return PromptBatch(
        ids=ids[:, :-1].to(device),
        lengths=(lengths - 1).to(device),
        positions=positions[:, :, :-1].to(device),
        last_id=last_id.to(device),
        last_position=last_position.to(device),
    )


def embed(policy: Policy, ids: Tensor, prompts: Sequence[Prompt]) -> tuple[Tensor, list[Tensor]]:
    """ids [P, S] -> what goes into the first layer [P, S, hidden], and what is added after layers.

    The second is Qwen3-VL's deepstack: features of the screenshot from inside the vision tower, one
    [P, S, hidden] for each of the first layers, 0 where no image is.
    """
    words = language_model(policy).embed_tokens(ids)
    is_image = (ids == policy.image_token)[..., None]  # [P, S, 1]
    pooled, *deeper = zip(*[prompt.features for prompt in prompts], strict=True)
    x = words.masked_scatter(is_image, torch.cat(pooled).to(words.dtype))
    deepstack = []
    for features in deeper:
        features = torch.cat(features).to(words.dtype)
        deepstack.append(torch.zeros_like(words).masked_scatter(is_image, features))
    return x, deepstack


# ---- log-probabilities --------------------------------------------------------------------------

# Tokens that are scored at once: [2048, 151,936] logits in fp32 are 1.2 GB, Qwen3.5's 2 GB.
CHUNK = 2048


def completion_logprobs(
    policy: Policy,
    prompts: Sequence[Prompt],
    completions: Sequence[Sequence[list[int]]],
    temperature: float = 1.0,
    checkpointing: bool = False,
) -> tuple[Tensor, Tensor]:
    """[P][G] lists of ids -> (log-probabilities [P, G, C], mask [P, G, C] of what was written).

    Each row is [prompt | c_1 .. c_G]: a completion sees its prompt and itself, by the attention
    mask, and its positions go on where the prompt ends. This gives the numbers and gradients of
    G separate rows (tests/test_shared_prompt.py), with gradient `checkpointing` too, at a fraction
    of the tokens. The mask is 1 up to and including the end token, by position: the pad token may
    be the end token of some models.
    """
    tokens, written = pad_completions(policy, completions)  # [P, G, C] each
    states = completion_states(policy, prompts, tokens, checkpointing)  # [P, G, C, hidden]
    return written_logprobs(policy, states, tokens, written, temperature), written


def written_logprobs(
    policy: Policy, states: Tensor, tokens: Tensor, written: Tensor, temperature: float
) -> Tensor:
    """Log-probabilities of tokens [P, G, C] by the states before them, [P, G, C]; 0 in padding."""
    states = states[written]  # [N, hidden], N tokens in all
    targets = tokens[written]  # [N]
    picked = []
    for part, wanted in zip(states.split(CHUNK), targets.split(CHUNK), strict=True):
        picked.append(logprobs_of(policy, part, wanted, temperature))
    logprobs = torch.zeros(tokens.shape, device=policy.device)
    return logprobs.masked_scatter(written, torch.cat(picked))


def pad_completions(policy: Policy, completions) -> tuple[Tensor, Tensor]:
    """[P][G] lists of ids -> ids [P, G, C] padded on the right, and where they are not padding."""
    P = len(completions)
    G = max(len(group) for group in completions)
    C = max(longest(group) for group in completions)
    pad = policy.tokenizer.pad_token_id
    tokens = torch.full((P, G, C), pad, device=policy.device)
    written = torch.zeros((P, G, C), dtype=torch.bool, device=policy.device)
    for p, group in enumerate(completions):
        for g, completion in enumerate(group):
            n = len(completion)
            tokens[p, g, :n] = torch.tensor(completion, device=policy.device)
            written[p, g, :n] = True
    return tokens, written


def longest(rows: Sequence[list[int]]) -> int:
    return max(len(row) for row in rows)


def completion_states(
    policy, prompts, tokens: Tensor, checkpointing: bool, after_layers: list | None = None
) -> Tensor:
    """Last hidden states [P, G, C, hidden] that predict the completions' tokens [P, G, C].

    `after_layers`: a list to which the states after each layer are added, of the same shape and
    normalised like the last ones: what a layer already knows (extras/warm_start.py teaches it).
    """
    C = tokens.shape[2]
    batch = batch_prompts(policy, prompts)
    L = batch.ids.shape[1]
    layers = read_layers(policy)
    ids, positions = with_completions(batch, tokens)
    x, deepstack = embed(policy, ids, prompts)  # [P, L + G C, hidden]
    rotary = rotary_of(policy, like=x, positions=positions)
    mask = rows_mask(batch, C, layers[0].readers).to(x.dtype)
    for depth, layer in enumerate(layers):
        # Of a prompt in the last layer nobody reads more than keys and values.
        skip = L if layer is layers[-1] else 0
        if checkpointing and torch.is_grad_enabled():
            x = checkpoint(run_layer, layer, x, rotary, mask, L, skip, use_reentrant=False)
        else:
            x = run_layer(layer, x, rotary, mask, L, skip)
        if depth < len(deepstack):
            x = x + deepstack[depth][:, skip:]
        if after_layers is not None:
            own = x[:, L - skip :]  # of the completions
            after_layers.append(predicting_states(policy, own, C))
    return predicting_states(policy, x, C)


def predicting_states(policy: Policy, x: Tensor, C: int) -> Tensor:
    """What the head would be shown: [P, G C, hidden] -> [P, G, C, hidden]."""
    states = normalise(language_model(policy).norm, x)
    return states.unflatten(1, (-1, C))


def rows_mask(batch: PromptBatch, C: int, R: int) -> Tensor:
    """For completions as rows of C tokens, R times under one another: [P, 1, R C, L + C]."""
    own = torch.ones(C, C).tril().bool()
    own = own.repeat(R, 1)  # [R C, C]
    return shared_mask(batch.lengths, batch.ids.shape[1], own)


def with_completions(batch: PromptBatch, tokens: Tensor) -> tuple[Tensor, Tensor]:
    """Rows [prompt | c_1 .. c_G] of ids [P, L + G C] and their positions [3, P, L + G C].

    The shift by one: at the place of each token [P, G, C] stands the one before it, whose state
    predicts it. Before the first one that is the last token of the prompt.
    """
    _, G, C = tokens.shape
    ends = batch.last_id[:, None, None].expand(-1, G, -1)  # [P, G, 1]
    before = torch.cat([ends, tokens[:, :, :-1]], 2)  # [P, G, C]
    ids = torch.cat([batch.ids, before.flatten(1)], 1)
    # Each completion goes on where the prompt ends.
    follow = batch.following(C).repeat(1, G)  # [P, G C]
    positions = torch.cat([batch.positions, follow.expand(3, -1, -1)], 2)
    return ids, positions


def logprobs_of(policy: Policy, states: Tensor, targets: Tensor, temperature: float) -> Tensor:
    """Log-probability of each target [N] by the states [N, hidden] before them -> [N].

    A hub model's logits [N, V] are forgotten and computed again in the backward, so that never more
    than one chunk of them is alive.
    """

    def pick(states: Tensor) -> Tensor:
        return token_logprobs(policy, states, temperature).gather(1, targets[:, None])[:, 0]

    if policy.tiny or not torch.is_grad_enabled():
        return pick(states)
    return checkpoint(pick, states, use_reentrant=False)


# ---- sampling -----------------------------------------------------------------------------------


# inference_mode took 0.94 to 0.98 of the time of no_grad (docs/speed.md). Its tensors cannot be
# trained with: only numbers leave this function, and nothing stays on the policy.
@torch.inference_mode()
def sample(
    policy: Policy,
    prompts: Sequence[Prompt],
    how: Sampling,
    generator: torch.Generator | None = None,
) -> list[list[Rollout]]:
    """G completions for each prompt: one prefill a prompt, whose keys and values all G read.

    Returns P lists of G rollouts. The draws come in the order of the reference: one for each token,
    for all B completions at once.
    """
    decoding = start_decoding(policy, prompts, how.group_size, how.max_new_tokens)

    def next_states(token: Tensor) -> Tensor:
        return decode(policy, decoding, token)

    return draw_completions(policy, prompts, how, generator, next_states)


def draw_completions(
    policy: Policy,
    prompts: Sequence[Prompt],
    how: Sampling,
    generator: torch.Generator | None,
    next_states: Callable[[Tensor], Tensor],
) -> list[list[Rollout]]:
    """Token by token, until all have ended.

    `next_states` takes the token of each completion [B], first the last one of its prompt, and
    gives the states that predict the next one [B, hidden].
    """
    last_ids = torch.tensor([prompt.ids[-1] for prompt in prompts], device=policy.device)  # [P]
    token = last_ids.repeat_interleave(how.group_size)  # [B]
    ended = torch.zeros_like(token, dtype=torch.bool)
    tokens = []  # C times [B]
    logprobs = []  # of these tokens
    for _ in range(how.max_new_tokens):
        hidden = next_states(token)  # [B, hidden]
        all_logprobs = token_logprobs(policy, hidden, how.temperature)  # [B, V]
        token = draw_tokens(all_logprobs, how.temperature, generator)
        tokens.append(token)
        logprobs.append(all_logprobs.gather(1, token[:, None])[:, 0])
        ended = ended | (token == policy.tokenizer.eos_token_id)
        if ended.all():
            break
    return make_rollouts(policy, prompts, tokens, logprobs, how)


class KeyValueRows:
    """Keys and values of one layer: a prompt and its G completions in one row, filled in place.

        [prompt | token 0 of all G | token 1 of all G | ...]

    A row a completion, as the library keeps them, would repeat the prompt G times; a tensor that
    grows would be copied at each token. This one is made once, at its full size. The prompt is read
    once for all G in one call of attention; a mask keeps the completions apart. It took 0.97 and
    0.92 of the time of attention in two calls (docs/speed.md).
    """

    def __init__(self, k: Tensor, v: Tensor, room: int):
        """Begin with those of the prompts, [P, L, K, d] each; `room` for so many tokens behind."""
        P, L, K, d = k.shape
        self.both = k.new_empty(2, P, K, L + room, d)
        prompt = torch.stack([k, v])  # [2, P, L, K, d]
        self.both[:, :, :, :L] = prompt.transpose(2, 3)
        self.filled = L

    def append(self, k: Tensor, v: Tensor) -> None:
        """Those of the next token of all completions, [P, G, K, d] each."""
        start = self.filled
        self.filled += k.shape[1]
        self.both[0, :, :, start : self.filled] = k.transpose(1, 2)
        self.both[1, :, :, start : self.filled] = v.transpose(1, 2)

    def attend(self, q: Tensor, mask: Tensor, scaling: float) -> Tensor:
        """Queries of the token that was appended last, [P, G, H, d] -> the same shape."""
        P, G, H, d = q.shape
        K = self.both.shape[2]
        R = H // K
        keys, values = self.both[:, :, :, : self.filled]  # [P, K, filled, d] each
        queries = q.view(P, G, K, R, d)
        queries = queries.transpose(1, 2)  # [P, K, G, R, d]
        queries = queries.flatten(2, 3)  # [P, K, G R, d]
        mixed = scaled_dot_product_attention(
            queries, keys, values, attn_mask=mask[..., : self.filled], scale=scaling
        )
        mixed = mixed.view(P, K, G, R, d)
        mixed = mixed.transpose(1, 2)  # [P, G, K, R, d]
        return mixed.flatten(2, 3)  # [P, G, H, d]


@dataclass
class Decoding:
    """What sampling carries from token to token."""

    layers: list[Layer]
    kept: list[KeyValueRows]  # of each layer
    rotary: Rotary  # of the C tokens of a completion, [P, C, d]
    mask: Tensor  # [P, 1, G R, L + C G]: which of a row of keys a completion sees
    done: int = 0  # tokens that were decoded


def start_decoding(policy: Policy, prompts: Sequence[Prompt], G: int, C: int) -> Decoding:
    """Prefill: keys and values of the prompts, with room for G completions of C tokens each."""
    batch = batch_prompts(policy, prompts)
    layers = read_layers(policy)
    kept = prefill(policy, layers, batch, prompts, room=C * G)
    positions = batch.following(C).expand(3, -1, -1)  # [3, P, C]
    rotary = rotary_of(policy, like=kept[0].both, positions=positions)
    mask = one_row_mask(batch, G, C, layers[0].readers).to(rotary.cos.dtype)
    return Decoding(layers, kept, rotary, mask)


def one_row_mask(batch: PromptBatch, G: int, C: int, R: int) -> Tensor:
    """For queries of all G over one row of KeyValueRows: [P, 1, G R, L + C G].

    Behind the prompt come the first tokens of all G, then the second ones: completion g owns each
    G-th key. A row for each of the R heads that read the same keys.
    """
    own = torch.eye(G).bool().repeat_interleave(R, 0)  # [G R, G]
    own = own.repeat(1, C)  # [G R, C G]
    return shared_mask(batch.lengths, batch.ids.shape[1], own)


def prefill(policy, layers, batch, prompts, room: int) -> list[KeyValueRows]:
    """The prompts through all layers; returns what the completions will read of each layer."""
    x, deepstack = embed(policy, batch.ids, prompts)  # [P, L, hidden]
    rotary = rotary_of(policy, like=x, positions=batch.positions)
    kept = []
    for depth, layer in enumerate(layers):
        q, k, v = queries_keys_values(layer, x, rotary)
        kept.append(KeyValueRows(k, v, room))
        if layer is layers[-1]:
            break  # of a prompt in the last layer nobody reads more than keys and values
        x = after_attention(layer, x, causal_attention(q, k, v, layer.scaling))
        if depth < len(deepstack):
            x = x + deepstack[depth]
    return kept


def decode(policy: Policy, decoding: Decoding, token: Tensor) -> Tensor:
    """One token [B] of each completion -> the states [B, hidden] that predict the next one.

    The first token is the last one of the prompt.
    """
    t = decoding.done
    decoding.done += 1
    x = language_model(policy).embed_tokens(token)  # [B, hidden]
    x = x.unflatten(0, (len(decoding.mask), -1))  # [P, G, hidden]
    here = decoding.rotary.of_token(t)
    for layer, rows in zip(decoding.layers, decoding.kept, strict=True):
        q, k, v = queries_keys_values(layer, x, here)
        rows.append(k, v)
        x = after_attention(layer, x, rows.attend(q, decoding.mask, layer.scaling))
    return normalise(language_model(policy).norm, x).flatten(0, 1)


# ---- the two functions as one thing -------------------------------------------------------------

SHARED = Forward(sample, completion_logprobs)
