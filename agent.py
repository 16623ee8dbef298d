"""agent.py: the mind. Prompt, parser, small VLM, sampler, log-probabilities, plan-act loop.

What the model sees, and the grammar of its answer (the same for the tiny model and for a hub
model):

    system     SYSTEM below (the tiny model's template leaves it out: its warm start has taught it)
    user       task: Account: type amber in Name; finish
               past: click Account; click Title failed
               plan: type amber; click Save                <- only with --carry_forecast
               <screenshot>
               next 5:
    assistant  click Name
               type amber
               click Save
               done

One action a line: `kind text`, and for kinds that point optionally ` (x, y)` at the end, in the
frame of the model family (0..1000 of each side for Qwen3-VL); for a drag `drag Box to Bin (x, y)
(x, y)`, where it begins and where it ends. Kinds and what their text says: envs.KINDS. `done`,
`fail` and `answer` come last. With --order far the prompt ends in `next 5 far to near:` and the
lines come in that order, so that the action which is executed, the last line, is written after the
forecast and can depend on it. With --thinking N the answer begins with a thought that ends in
`</think>`; what is judged, and what is remembered of it, stands behind that. With --forecast_states
the prompt ends in `next 5 with states:`, and a line also says what will be seen after its action:
`click Sound => Sound`.

Sampling and scoring stand here in the plainest form that is right: each completion is a row of its
own, computed by the model's own forward. It is the reference. How the same numbers are computed
several times faster is shown in extras/shared_prompt.py, which is what train.py uses by default.

Letters of shapes: P prompts, G completions of each, B = P * G rows, L tokens of a prompt, C of a
completion, S = L + C, H hidden size, V tokens of the vocabulary.
"""

import itertools
import math
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from types import SimpleNamespace

import torch
from PIL import Image

from envs import KINDS, POINTING, TERMINAL, Action, Example, Observation, Point, ToolAgent
from rewards import meaning_of, same_text, similarity

# ---- prompt and parser --------------------------------------------------------------------------


def action_table() -> str:
    """One line a kind of action, as the system prompt shows it: `click {the element}`, `back`."""
    lines = []
    for kind, text in KINDS.items():
        lines.append(f"{kind} {{{text}}}" if text else kind)
    return "\n".join(lines)


SYSTEM = (
    "You operate a device. Look at the screenshot and forecast the next steps: one action a line, "
    "the nearest first (the farthest first when asked for `far to near`), as many as asked for or "
    "until the task ends, and nothing else. A line is a kind and its text:\n"
    + action_table()
    + "\nElements are named by the words that stand on the screen; "
    "where one stands may follow as (x, y), of a drag also where it ends, as (x, y) (x, y)."
    "\nExample of an answer to `next 4:`\nclick Name\ntype amber\nclick Save\ndone"
)


STATES = (
    "\nWhen asked `with states`, each line but the last one of a task also says what will be seen "
    "after it, in a word or two: click Sound => Sound"
)


def plain(text: str) -> str:
    """Text of others, made safe for a prompt: typing `<|image_pad|>` must not make that token, and
    half a character (a lone surrogate in a JSON record) would stop the tokenizer."""
    whole = text.encode("utf-8", "replace").decode()
    return whole.replace("<|", "< |")


def build_prompt(
    observation: Observation, horizon: int, far_first: bool = False, states: bool = False
) -> list[dict]:
    """The one prompt of training and evaluation, as a chat with a place for the screenshot.

    The screenshot comes after the task, so that under causal attention its tokens know what is
    asked.
    """
    history = "; ".join(observation.history) if observation.history else "none"
    before = f"task: {plain(observation.instruction)}\npast: {plain(history)}\n"
    if observation.plan:
        plan = "; ".join(str(action) for action in observation.plan)
        before += f"plan: {plain(plan)}\n"
    order = " far to near" if far_first else ""
    if states:
        order += " with states"
    user = [
        {"type": "text", "text": before},
        {"type": "image"},
        {"type": "text", "text": f"\nnext {horizon}{order}:"},
    ]
    system = [{"type": "text", "text": SYSTEM + STATES if states else SYSTEM}]
    return [{"role": "system", "content": system}, {"role": "user", "content": user}]


def format_forecast(actions: Sequence[Action], far_first: bool = False) -> str:
    """The text that parse_forecast reads back, without points: those are the tool agent's part."""
    written = reversed(actions) if far_first else actions
    return "\n".join(format_line(action) for action in written)


STATE_SIGN = " => "


def format_line(action: Action) -> str:
    if not action.expects:
        return str(action)
    return f"{action}{STATE_SIGN}{action.expects}"


NUMBER = r"-?\d{1,6}(?:\.\d{1,6})?"  # what is longer is no place on a screen: it stays text
POINT_AT_THE_END = re.compile(rf"\s*\(\s*({NUMBER})\s*,\s*({NUMBER})\s*\)\s*$")
THOUGHT_END = "</think>"  # one token of the models that think


def parse_forecast(
    text: str,
    horizon: int,
    frame: tuple[float, float] = (1000.0, 1000.0),
    far_first: bool = False,
    states: bool = False,
) -> tuple[list[Action], str | None]:
    """Model text -> (the actions up to the first line that cannot be read, what was wrong or None).

    Never raises and never executes anything. What stands before `</think>` is not part of the
    answer. `frame`: what the model takes for the width and height of the screen; points come back
    in 0..1. `far_first`: the lines are read, and counted, from the last one up. `states`: what
    stands behind the last ` => ` of a line is what its action expects; else it is part of the text.

    >>> parse_forecast("click Save (500, 250)", 5)[0]
    [Action(kind='click', text='Save', point=(0.5, 0.25), end=None)]
    >>> parse_forecast("click Save\\n__import__('os')", 5)[1]
    'line 2: unknown action kind "__import__(\\'os\\')"'
    """
    answer = text.rsplit(THOUGHT_END, 1)[-1]
    lines = [line.strip() for line in answer.split("\n")]
    lines = [line for line in lines if line]
    if far_first:
        lines.reverse()
    actions = []
    for number, line in enumerate(lines, 1):
        if len(actions) == horizon:
            return actions, f"line {number}: more than the {horizon} steps asked for"
        if actions and actions[-1].kind in TERMINAL:
            return actions, f"line {number}: text after {actions[-1].kind}"
        try:
            actions.append(parse_line(line, frame, states))
        except ValueError as error:
            return actions, f"line {number}: {error}"
    if not actions:
        return [], "nothing to read"
    return actions, None


def parse_line(line: str, frame: tuple[float, float], states: bool = False) -> Action:
    """One line -> one action; ValueError says why it is none."""
    expects = ""
    if states and STATE_SIGN in line:
        line, _, expects = line.rpartition(STATE_SIGN)
    kind, _, text = line.partition(" ")
    text = text.strip()
    point = None
    end = None
    if kind in POINTING:
        text, point = cut_point(text, frame)
    if kind == "drag":
        text, start = cut_point(text, frame)
        if start is not None:
            end = point
            point = start
    may_have_text = bool(KINDS.get(kind))
    must_have_text = may_have_text and kind not in TERMINAL and point is None
    if must_have_text and not text:
        raise ValueError(f"{kind} without its text")
    if kind in KINDS and not may_have_text and text:
        raise ValueError(f"text after {kind}")
    if kind in ("done", "fail"):  # a model may add why; nobody reads it
        text = ""
    # Action refuses unknown kinds and points beside the screen.
    return Action(kind, text, point, end, expects.strip())


def cut_point(text: str, frame: tuple[float, float]) -> tuple[str, Point | None]:
    """The text without the (x, y) at its end, and that in 0..1; None where there is none."""
    place = POINT_AT_THE_END.search(text)
    if place is None:
        return text, None
    width, height = frame
    return text[: place.start()], (float(place[1]) / width, float(place[2]) / height)


# ---- the policy: a Qwen-VL with LoRA on its language model --------------------------------------

# Of the language model: attention, linear attention (only Qwen3.5 has it; its short convolution and
# its decays stay as they are) and MLP.
LORA_TARGETS = (
    r".*language_model.*\.(q_proj|k_proj|v_proj|o_proj"
    r"|in_proj_qkv|in_proj_z|in_proj_a|in_proj_b|out_proj"
    r"|gate_proj|up_proj|down_proj)"
)


HUB_SCALE = 6  # how large a hub model sees a world that does not say so itself: Policy.scale_of
LINE_TOKENS = 24  # of a hub model: some words, and a point with a token for each digit


@dataclass(frozen=True)
class Forward:
    """A way to compute: how completions are sampled, and how their log-probabilities are scored.

    REFERENCE (below) goes through the model's own forward. SHARED of extras/shared_prompt.py, and
    that of extras/shared_prompt_qwen35.py for Qwen3.5, computes a prompt once for all its
    completions. All have the signatures of `sample` and `completion_logprobs`.
    """

    sample: Callable
    completion_logprobs: Callable


@dataclass
class Policy:
    """A model with all that is needed to talk to it.

    `core` is the transformers model. `add_lora` (or extras/loading.load_adapter) puts LoRA layers
    inside it; `peft` is then the wrapper that can switch them off and save them, else None.
    """

    core: torch.nn.Module
    tokenizer: object
    image_processor: object
    forward: Forward
    name: str = ""
    peft: object = None
    far_first: bool = False  # forecasts are written from far to near (--order far)
    thinking: int = 0  # tokens to think with before the forecast (--thinking)
    forecast_states: bool = False  # forecasts say what will be seen (--forecast_states)
    suppressed: torch.Tensor = field(init=False)  # ids that are never sampled: forbidden_tokens
    texts: dict[int, str] = field(default_factory=dict)  # what text_of has decoded so far

    def __post_init__(self):
        self.suppressed = torch.tensor(forbidden_tokens(self), device=self.device)

    @property
    def device(self) -> torch.device:
        return self.core.device

    @property
    def image_token(self) -> int:
        return self.core.config.image_token_id

    @property
    def thought_end(self) -> int:
        """The id of `</think>`; only a model that thinks has one."""
        return self.tokenizer.convert_tokens_to_ids(THOUGHT_END)

    @property
    def tiny(self) -> bool:
        return is_tiny(self.core.config)

    def scale_of(self, world: type) -> int:
        """The scale at which a world is drawn for this model; 1 for the tiny one.

        For a hub model 6, or what the world says as its `hub_scale`. At 6 a screen of the toy GUI
        is 432 tokens of a Qwen3-VL, and its words are as high as on real screens.
        """
        return 1 if self.tiny else getattr(world, "hub_scale", HUB_SCALE)

    def text_of(self, token: int) -> str:
        """The text of a token; asked for at every token, so decoded once."""
        if token not in self.texts:
            self.texts[token] = self.tokenizer.decode([token])
        return self.texts[token]

    def frame(self, grid: torch.Tensor) -> tuple[float, float]:
        """What the family takes for the width and height of a screen; `grid`: see Prompt.

        Qwen2-VL (UI-TARS v1), Qwen3-VL (GUI-Owl 1.5) and Qwen3.5 count 0..1000; Qwen2.5-VL (UI-TARS
        1.5, GUI-Owl) counts the pixels of the screenshot as the image processor resized it.
        """
        if self.core.config.model_type != "qwen2_5_vl":
            return 1000.0, 1000.0
        patch = self.image_processor.patch_size  # px
        _, rows, columns = grid
        return float(columns * patch), float(rows * patch)

    def max_new_tokens(self, horizon: int) -> int:
        """Room for `horizon` lines, and for the thought before them.

        It is one limit for both: what the thought leaves of its budget is the forecast's, and a
        thought beyond its budget takes the forecast's room.
        """
        if not self.tiny:
            return self.thinking + horizon * LINE_TOKENS
        # Words are whole tokens.
        if self.forecast_states:
            return self.thinking + horizon * 5  # "click Sound => Sound" and the line's end
        # The tool world and MiniWoB++ have this sign: their lines are longer.
        has_long_lines = "=" in self.tokenizer.get_vocab()
        if has_long_lines:
            return self.thinking + horizon * 5  # "call add 3 4" and the line's end
        return self.thinking + horizon * 3  # "click Save" and the line's end


def is_tiny(config) -> bool:
    """Whether this is the project's own model (extras/tiny_vlm.py), of a few hundred words."""
    return config.text_config.vocab_size < 1000


def forbidden_tokens(policy: Policy) -> list[int]:
    """Ids of the tokens that no answer may contain.

    Special tokens (an image pad would make the next forward fail) and rows of the head that no
    token has; but not the end, not the marks that Qwen2-VL puts around a point, and not those of a
    thought (which are plain tokens in Qwen's own tokenizers).
    """
    tokenizer = policy.tokenizer
    config = policy.core.config
    forbidden = set(tokenizer.all_special_ids)
    forbidden |= {config.image_token_id, config.video_token_id}
    forbidden |= set(range(len(tokenizer), config.text_config.vocab_size))
    allowed = {tokenizer.eos_token_id}
    for token_id, token in tokenizer.added_tokens_decoder.items():
        if token.special:
            forbidden.add(token_id)
        if token.content in ("<|box_start|>", "<|box_end|>", "<think>", THOUGHT_END):
            allowed.add(token_id)
    return sorted(forbidden - allowed)


def add_lora(policy: Policy, rank: int, alpha: int, seed: int) -> None:
    """Put fresh adapters on the language model.

    They are in fp32 (bf16 weights do not move at small learning rates) and without dropout (the
    ratio of GRPO would compare two different networks).
    """
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(seed)
    config = LoraConfig(r=rank, lora_alpha=alpha, lora_dropout=0.0, target_modules=LORA_TARGETS)
    policy.peft = get_peft_model(policy.core, config)
    for weight in trainable(policy):
        weight.data = weight.data.float()


def trainable(policy: Policy) -> list[torch.nn.Parameter]:
    return [weight for weight in policy.core.parameters() if weight.requires_grad]


# ---- records ------------------------------------------------------------------------------------


@dataclass
class Prompt:
    """An encoded observation.

    The frozen vision tower looks at a screenshot once; its features serve sampling and training.
    """

    ids: list[int]  # L of them
    features: tuple[torch.Tensor, ...]  # pooled, then deepstack levels: [image tokens, H] each
    grid: torch.Tensor  # [3] patches of the image in time (1), height and width


THOUGHT = -1  # in Rollout.step_index: the token belongs to no step, but to the thought before all


@dataclass
class Rollout:
    """One completion for one observation and all that is known of it."""

    prompt_ids: list[int]
    completion_ids: list[int]  # up to and including the end token
    old_logprobs: list[float]  # at the sampling temperature, over the tokens that may be sampled
    text: str
    finish_reason: str  # "stop" or "length"
    forecast: list[Action]
    parse_error: str | None
    # For each completion token the forecast step, or THOUGHT; 0 is the executed one, in either
    # order. Line breaks are counted, so that empty lines move the numbers: see forecast_steps.
    step_index: list[int]
    thought_tokens: int = 0  # how many of the completion's tokens, its first ones, are the thought
    # Filled in by train.score; the lists have a number for each forecast step, and one for what is
    # written beyond the horizon: [T + 1].
    reward_terms: dict[str, float] = field(default_factory=dict)  # named parts and their sum
    step_rewards: list[float] = field(default_factory=list)
    advantages: list[float] = field(default_factory=list)
    thought_advantage: float = 0.0  # of the whole forecast, which is what a thought is for

    @property
    def reward(self) -> float:
        return self.reward_terms["reward"]


@dataclass
class Group:
    """The G rollouts of one observation."""

    example: Example
    prompt: Prompt
    rollouts: list[Rollout]


# ---- encoding: prompts to ids, screenshots to features ------------------------------------------


def encode(policy: Policy, observations: Sequence[Observation], horizon: int) -> list[Prompt]:
    """Observations -> prompts that ask for a forecast of `horizon` steps."""
    order = policy.far_first
    states = policy.forecast_states
    chats = [build_prompt(observation, horizon, order, states) for observation in observations]
    images = [observation.screenshot() for observation in observations]
    return encode_chats(policy, chats, images)


def encode_chats(
    policy: Policy, chats: Sequence[list[dict]], images: Sequence[Image.Image]
) -> list[Prompt]:
    """Chats with one image each -> prompts."""
    if not images:  # a tool agent may have nothing to ask
        return []
    # One screenshot keeps a GPU busy; all of them at once would fill its memory.
    at_once = len(images) if policy.tiny else 1
    views = []
    for start in range(0, len(images), at_once):
        views += see(policy, images[start : start + at_once])
    prompts = []
    for chat, (features, grid) in zip(chats, views, strict=True):
        ids = policy.tokenizer(chat_text(policy, chat), add_special_tokens=False)["input_ids"]
        # The template wrote one <|image_pad|>; each token of the image needs its own.
        at = ids.index(policy.image_token)
        image_tokens = [policy.image_token] * len(features[0])
        prompts.append(Prompt(ids[:at] + image_tokens + ids[at + 1 :], features, grid))
    return prompts


def see(policy: Policy, images: Sequence[Image.Image]) -> list[tuple[tuple, torch.Tensor]]:
    """What the frozen tower makes of each image: (features, grid) as in Prompt."""
    batch = policy.image_processor(images=images, return_tensors="pt")
    grids = batch["image_grid_thw"]
    pixels = batch["pixel_values"].to(policy.device)
    with torch.no_grad():
        tower = policy.core.model.get_image_features(
            pixels, grids.to(policy.device), return_dict=True
        )
    levels = [tower.pooler_output]  # [level][image]
    if getattr(tower, "deepstack_features", None):  # only Qwen3-VL has them
        levels += tower.deepstack_features
    features = zip(*levels, strict=True)  # [image][level]
    return list(zip(features, grids, strict=True))


def chat_text(policy: Policy, chat: list[dict]) -> str:
    """The chat as the family's template writes it, up to where the answer begins.

    A policy that thinks (--thinking) goes on behind `<think>` where the template opens a thought,
    else it opens one itself. DEPARTURE: the paper's planner always thinks. By default a model that
    could think is kept from it: its thought is closed before it begins.
    """
    thinks = policy.thinking > 0
    text = policy.tokenizer.apply_chat_template(
        chat, tokenize=False, add_generation_prompt=True, enable_thinking=thinks
    )
    if not thinks and text.endswith("<think>\n"):  # a template that always opens a thought
        text += f"\n{THOUGHT_END}\n\n"
    return text


# ---- the model's own forward --------------------------------------------------------------------


def run_model(policy: Policy, ids: torch.Tensor, positions: torch.Tensor, **options):
    """Last hidden states [B, S, H] (and a cache) of token ids [B, S] at positions [3, B, S].

    No attention mask is needed: rows have one length, or their padding stands behind all that
    counts, and under causal attention nothing sees what stands behind it.
    """
    ids = ids.to(policy.device)
    return policy.core.model(input_ids=ids, position_ids=positions.to(policy.device), **options)


def rope_positions(policy: Policy, prompt: Prompt, ids: torch.Tensor) -> torch.Tensor:
    """Where each token of a row stands in time, height and width: ids [B, S] -> [3, B, S].

    They are given explicitly: the model would otherwise go on from whatever image it saw last (it
    keeps `rope_deltas` as state), and logits were seen to be off by 5.
    """
    ids = ids.cpu()  # the library walks through them token by token
    positions, _ = policy.core.model.get_rope_index(
        ids,
        mm_token_type_ids=(ids == policy.image_token).int(),
        image_grid_thw=prompt.grid.expand(len(ids), -1),
        attention_mask=torch.ones_like(ids),
    )
    return positions


def image_of(prompt: Prompt, rows: int) -> dict:
    """The features of the screenshot for each of so many rows, in the form that run_model takes."""
    pooled, *deepstack = prompt.features
    repeated = [[level] * rows for level in deepstack]
    tower = SimpleNamespace(pooler_output=[pooled] * rows, deepstack_features=repeated)
    return {"image": tower}


def token_logprobs(policy: Policy, hidden: torch.Tensor, temperature: float) -> torch.Tensor:
    """Last hidden states [.., H] -> log-probabilities [.., V], in fp32.

    They are over the tokens that may be sampled; the others have none (-inf). Sampler and loss both
    come here: scoring at another temperature than was sampled at is the classical wrong ratio.
    """
    if temperature == 0:  # greedy: nothing to divide by
        temperature = 1.0
    logits = policy.core.lm_head(hidden).float() / temperature
    return logits.index_fill_(-1, policy.suppressed, -math.inf).log_softmax(-1)


# ---- sampling -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Sampling:
    """How completions are drawn.

    Nothing is left to the model's generation_config (Qwen-VL's makes sampling almost greedy). No
    top-k and no top-p: the loss would score another distribution than was sampled.
    """

    horizon: int = 5  # T, steps of a forecast
    group_size: int = 8  # G
    temperature: float = 1.0  # 0: greedy
    max_new_tokens: int = 15  # room for T lines, see Policy.max_new_tokens


@dataclass
class Decoding:
    """One prompt and its G completions in the making."""

    hidden: torch.Tensor  # [G, H] the state that predicts the next token
    positions: torch.Tensor  # [3, G, 1] of the last token
    cache: object  # keys and values (or a state) of all that was read and written


@torch.no_grad()
def sample(
    policy: Policy,
    prompts: Sequence[Prompt],
    how: Sampling,
    generator: torch.Generator | None = None,
) -> list[list[Rollout]]:
    """G completions for each prompt; returns P lists of G rollouts."""
    G = how.group_size
    decodings = [read_prompt(policy, prompt, G) for prompt in prompts]
    tokens = []  # C times [B]
    logprobs = []  # of these tokens
    ended = torch.zeros(len(prompts) * G, dtype=torch.bool, device=policy.device)
    for t in range(how.max_new_tokens):
        hidden = torch.cat([decoding.hidden for decoding in decodings])  # [B, H]
        all_logprobs = token_logprobs(policy, hidden, how.temperature)  # [B, V]
        drawn = draw_tokens(all_logprobs, how.temperature, generator)  # [B]
        tokens.append(drawn)
        logprobs.append(all_logprobs.gather(1, drawn[:, None])[:, 0])
        ended |= drawn == policy.tokenizer.eos_token_id
        is_last = t + 1 == how.max_new_tokens  # nobody would read what the model makes of it
        if ended.all() or is_last:
            break
        for decoding, own in zip(decodings, drawn.split(G), strict=True):
            write_token(policy, decoding, own)
    return make_rollouts(policy, prompts, tokens, logprobs, how)


def read_prompt(policy: Policy, prompt: Prompt, group_size: int) -> Decoding:
    """Run the model over the prompt, once: its completions begin with copies of its cache."""
    ids = torch.tensor([prompt.ids])  # [1, L]
    positions = rope_positions(policy, prompt, ids)
    images = image_of(prompt, rows=1)
    output = run_model(policy, ids, positions, mm_encoder_outputs=images, use_cache=True)
    cache = output.past_key_values
    repeat_row(cache, group_size)
    hidden = output.last_hidden_state[:, -1].expand(group_size, -1)
    last_position = positions[:, :, -1:].expand(-1, group_size, -1)
    return Decoding(hidden, last_position, cache)


def repeat_row(cache, times: int) -> None:
    """Make so many rows of a cache that has one.

    The library's own word for it, batch_repeat_interleave, is missing where a layer keeps a
    recurrent state in place of keys and values (Qwen3.5). Beam search chooses rows of every kind of
    cache: here it chooses the first one, again and again.
    """
    cache.reorder_cache(torch.zeros(times, dtype=torch.long))


def write_token(policy: Policy, decoding: Decoding, tokens: torch.Tensor) -> None:
    """Run the model over one more token of each completion, [G]; `decoding` goes on by it."""
    decoding.positions = decoding.positions + 1
    output = run_model(
        policy,
        tokens[:, None],
        decoding.positions,
        past_key_values=decoding.cache,
        use_cache=True,
    )
    decoding.hidden = output.last_hidden_state[:, -1]


def draw_tokens(
    all_logprobs: torch.Tensor, temperature: float, generator: torch.Generator | None
) -> torch.Tensor:
    """Log-probabilities [B, V] -> one token a row [B]."""
    if temperature == 0:
        return all_logprobs.argmax(-1)
    return torch.multinomial(all_logprobs.exp(), 1, generator=generator)[:, 0]


def make_rollouts(
    policy: Policy,
    prompts: Sequence[Prompt],
    tokens: list[torch.Tensor],
    logprobs: list[torch.Tensor],
    how: Sampling,
) -> list[list[Rollout]]:
    """Drawn tokens and their log-probabilities, C times [B] each -> P lists of G rollouts."""
    token_rows = torch.stack(tokens, 1).tolist()  # [B][C]
    logprob_rows = torch.stack(logprobs, 1).tolist()
    G = how.group_size
    groups = []
    for p, prompt in enumerate(prompts):
        group = []
        for row in range(p * G, (p + 1) * G):
            written = token_rows[row]
            group.append(make_rollout(policy, prompt, written, logprob_rows[row], how.horizon))
        groups.append(group)
    return groups


def make_rollout(
    policy: Policy, prompt: Prompt, tokens: list[int], logprobs: list[float], horizon: int
) -> Rollout:
    """One completion [C], cut behind its end token and read.

    Of a policy that thinks only what stands behind the thought is a forecast: without `</think>`
    there is none.
    """
    end = policy.tokenizer.eos_token_id
    finished = end in tokens
    if finished:
        tokens = tokens[: tokens.index(end) + 1]
    text = policy.tokenizer.decode([token for token in tokens if token != end])
    frame = policy.frame(prompt.grid)
    forecast, error = parse_forecast(
        text, horizon, frame, far_first=policy.far_first, states=policy.forecast_states
    )
    if not finished and error is None:
        error = f"cut off after {len(tokens)} tokens"
    thought = 0
    if policy.thinking > 0:
        thought = thought_length(policy, tokens)
        if policy.thought_end not in tokens:
            forecast = []
            error = f"the thought was cut off after {thought} tokens"
    # Line breaks of the thought are no steps: they are counted from its end.
    steps = forecast_steps(policy, tokens[thought:], horizon)
    return Rollout(
        prompt_ids=prompt.ids,
        completion_ids=tokens,
        old_logprobs=logprobs[: len(tokens)],
        text=text,
        finish_reason="stop" if finished else "length",
        forecast=forecast,
        parse_error=error,
        step_index=[THOUGHT] * thought + steps,
        thought_tokens=thought,
    )


def thought_length(policy: Policy, tokens: list[int]) -> int:
    """How many tokens are the thought: all up to the last `</think>`, and white space behind it.

    Without `</think>` it is all of them.
    """
    if policy.thought_end not in tokens:
        return len(tokens)
    length = len(tokens) - tokens[::-1].index(policy.thought_end)
    for token in tokens[length:]:
        if policy.text_of(token).strip():
            break
        length += 1
    return length


def forecast_steps(policy: Policy, tokens: list[int], horizon: int) -> list[int]:
    """The forecast step that each token belongs to, 0 .. horizon (horizon: lines too many).

    A line break belongs to the line that it ends; from far to near, the last line is step 0. Empty
    lines count here, though the parser skips them, but for those before the first word: they would
    take the credit of the executed action. (From far to near one behind the last line still does.)
    """
    lines = []
    breaks = 0  # before this token
    begun = False
    for token in tokens:
        lines.append(breaks)
        text = policy.text_of(token)
        begun = begun or text.strip() != ""
        if begun:
            breaks += text.count("\n")
    if policy.far_first:
        lines = [breaks - line for line in lines]
    return [min(line, horizon) for line in lines]


def sample_all(
    policy: Policy,
    prompts: Sequence[Prompt],
    how: Sampling,
    generator_at: Callable[[int], torch.Generator | None] = lambda start: None,
    size: int = 0,
) -> list[list[Rollout]]:
    """Sample for as many prompts as there are, `size` at a time.

    By default so many as make 128 completions of the tiny model (more would leave a CPU's caches)
    or 16 of a hub model (2 GB of keys and values at 1,024 image tokens and 28 layers, if each has
    its own prompt), and fewer where each has room to think: a thought of 1,024 tokens takes as much
    as an image. `generator_at(start)` gives the random numbers of the part that begins with prompt
    number `start`.
    """
    if size == 0:
        completions = 128 if policy.tiny else 16 * 1024 // (1024 + policy.thinking)
        size = max(1, completions // how.group_size)
    groups = []
    for start in range(0, len(prompts), size):
        part = prompts[start : start + size]
        groups += policy.forward.sample(policy, part, how, generator_at(start))
    return groups


# ---- log-probabilities for training -------------------------------------------------------------


def completion_logprobs(
    policy: Policy,
    prompts: Sequence[Prompt],
    completions: Sequence[Sequence[list[int]]],
    temperature: float = 1.0,
    checkpointing: bool = False,
) -> tuple[torch.Tensor, torch.Tensor]:
    """[P][G] lists of ids -> (log-probabilities [P, G, C], mask [P, G, C] of what was written).

    The mask is 1 up to and including the end token, by position: the pad token may be the end
    token of some models. `checkpointing`: activations are computed again in the backward.
    """
    all_completions = itertools.chain.from_iterable(completions)
    C = max(len(completion) for completion in all_completions)
    logprobs = []
    masks = []
    with gradient_checkpointing(policy.core, checkpointing):
        for prompt, group in zip(prompts, completions, strict=True):
            tokens, mask = pad(policy, group, C)  # [G, C] each
            own = group_logprobs(policy, prompt, tokens, temperature)  # [G, C]
            logprobs.append(own.masked_fill(~mask, 0.0))
            masks.append(mask)
    return torch.stack(logprobs), torch.stack(masks)


def pad(policy: Policy, group: Sequence[list[int]], C: int) -> tuple[torch.Tensor, torch.Tensor]:
    """G lists of ids -> (ids [G, C] padded on the right, mask [G, C] of what was written)."""
    G = len(group)
    ids = torch.full((G, C), policy.tokenizer.pad_token_id, device=policy.device)
    mask = torch.zeros((G, C), dtype=torch.bool, device=policy.device)
    for g, completion in enumerate(group):
        ids[g, : len(completion)] = torch.tensor(completion)
        mask[g, : len(completion)] = True
    return ids, mask


def group_logprobs(
    policy: Policy, prompt: Prompt, tokens: torch.Tensor, temperature: float
) -> torch.Tensor:
    """Log-probability of each token [G, C] after the prompt and the tokens before it."""
    G, C = tokens.shape
    before = torch.tensor([prompt.ids] * G, device=tokens.device)
    rows = torch.cat([before, tokens], dim=1)  # [G, S]
    positions = rope_positions(policy, prompt, rows)
    images = image_of(prompt, rows=G)
    output = run_model(policy, rows, positions, mm_encoder_outputs=images, use_cache=False)
    # The state before a token predicts it: the shift by one, here and nowhere else in this file.
    predicting = output.last_hidden_state[:, -C - 1 : -1]  # [G, C, H]
    all_logprobs = token_logprobs(policy, predicting, temperature)  # [G, C, V]
    return all_logprobs.gather(-1, tokens[:, :, None])[:, :, 0]


@contextmanager
def gradient_checkpointing(core: torch.nn.Module, wanted: bool) -> Iterator[None]:
    """The library's own checkpointing, layer by layer.

    It works in training mode only, which changes nothing else here: there is no dropout.
    """
    if not wanted:
        yield
        return
    core.activation_checkpointing_enable({"use_reentrant": False})
    core.train()
    try:
        yield
    finally:
        core.eval()
        core.activation_checkpointing_disable()


REFERENCE = Forward(sample, completion_logprobs)


# ---- plan-act loop ------------------------------------------------------------------------------


@dataclass
class Plan:
    """What a planner answers to one observation."""

    forecast: list[Action]
    tokens: int = 0  # written for it, thoughts included
    thought: int = 0  # how many of them were thought


# (observations, their environments) -> plans. A policy looks at the observations only; the oracle
# and the random planner of eval.py ask the environments.
Planner = Callable[[list[Observation], list], list[Plan]]


def policy_planner(
    policy: Policy, horizon: int, choose: str = "", candidates: int = 8, seed: int = 0
) -> Planner:
    """Forecasts of a policy: greedy, or with `choose` one of several sampled at temperature 1.

    DEPARTURE: choosing is not in the paper. It is the way in which a whole forecast can decide
    about its first action: of `candidates` forecasts, "likelihood" takes the one with the largest
    joint probability (behind its thought, if it has one); "agreement" the likeliest of those that
    begin as most of them do; "last_plan" the one that keeps most of what was left of the last
    forecast, which play hands over with `carry` (backward coherence, arXiv 2408.17355). That plan
    does not stand in the prompt then. Among equals the likeliest wins: so also at the first step of
    an episode, where there is no last plan.
    """
    how = Sampling(
        horizon=horizon,
        group_size=candidates if choose else 1,
        temperature=1.0 if choose else 0.0,
        max_new_tokens=policy.max_new_tokens(horizon),
    )
    generator = torch.Generator(policy.device).manual_seed(seed)

    def plan(observations: list[Observation], _envs: list) -> list[Plan]:
        seen = observations
        if choose == "last_plan":
            seen = [replace(observation, plan=()) for observation in observations]
        prompts = encode(policy, seen, horizon)
        groups = sample_all(policy, prompts, how, lambda start: generator)
        plans = []
        for observation, group in zip(observations, groups, strict=True):
            chosen = choose_rollout(group, choose, observation.plan)
            tokens = sum(len(rollout.completion_ids) for rollout in group)
            thought = sum(rollout.thought_tokens for rollout in group)
            plans.append(Plan(chosen.forecast, tokens, thought))
        return plans

    return plan


def choose_rollout(
    group: Sequence[Rollout], choose: str, last_plan: Sequence[Action] = ()
) -> Rollout:
    """The likeliest rollout, with "agreement" among those with the commonest first action, with
    "last_plan" among those that keep most of it."""
    if choose == "last_plan":
        kept = [steps_kept(rollout.forecast, last_plan) for rollout in group]
        most = max(kept)
        group = [rollout for rollout, steps in zip(group, kept, strict=True) if steps == most]
    if choose == "agreement":
        counts = Counter(first_meaning(rollout) for rollout in group)
        most = max(counts.values())
        group = [rollout for rollout in group if counts[first_meaning(rollout)] == most]
    return max(group, key=likelihood)


def steps_kept(forecast: Sequence[Action], last_plan: Sequence[Action]) -> float:
    """How many steps of the last plan a forecast keeps in their places, by similarity."""
    return sum(map(similarity, forecast, last_plan))


def likelihood(rollout: Rollout) -> float:
    """The log-probability of a forecast behind its thought; -inf where nothing stands behind it.

    The thought itself does not count: the shortest one would nearly always be the likeliest.
    """
    thought = rollout.thought_tokens
    if thought == len(rollout.completion_ids):
        return -math.inf
    return sum(rollout.old_logprobs[thought:])


def first_meaning(rollout: Rollout) -> tuple | None:
    """Of its first action; None where nothing could be read."""
    return meaning_of(rollout.forecast[0]) if rollout.forecast else None


@dataclass
class Play:
    """One played episode; each list has an entry a step."""

    observations: list[Observation] = field(default_factory=list)
    forecasts: list[list[Action]] = field(default_factory=list)
    references: list[list[Action]] = field(default_factory=list)  # the oracle's plans
    screens: list[tuple] = field(default_factory=list)  # (label, box) of each element, for pictures
    results: list[str] = field(default_factory=list)  # info["result"] of the environment
    surprises: list[bool] = field(default_factory=list)  # something else was seen than expected
    success: bool = False
    tokens: int = 0  # written in the whole episode, thoughts included
    thought: int = 0  # how many of them were thought
    oracle_steps: int = 0  # that the oracle needs from the start


def play(
    planner: Planner,
    envs: Sequence,
    seeds: Sequence[int],
    horizon: int,
    tool_agent: ToolAgent | None = None,
    carry: bool = False,
) -> list[Play]:
    """Plan-act loop: forecast T steps, execute the first, look, forecast again.

    Several episodes go side by side, so that the planner and the tool agent are asked for all of
    them at once. The first step goes to the frozen tool agent (None: the world's own), and what it
    returns goes to the environment. With `carry`, what is left of the last forecast stands in the
    next prompt. DEPARTURE: carrying a forecast along is not in the paper, which forecasts afresh;
    it is off by default.
    """
    seen = [env.reset(seed)[0] for env, seed in zip(envs, seeds, strict=True)]  # last, of each
    plays = [Play(oracle_steps=env.oracle_steps) for env in envs]
    running = list(range(len(envs)))
    while running:
        observations = [seen[i] for i in running]
        running_envs = [envs[i] for i in running]
        plans = planner(observations, running_envs)
        executed = execute_first_steps(plans, observations, running_envs, tool_agent)
        still_running = []
        for i, plan, action in zip(running, plans, executed, strict=True):
            forecast = plan.forecast
            remember(plays[i], seen[i], plan, envs[i], horizon)
            said = str(forecast[0]) if forecast else "unreadable"
            seen[i], _, terminated, truncated, info = envs[i].step(action, said=said)
            if carry:
                seen[i] = replace(seen[i], plan=tuple(forecast[1:]))
            plays[i].results.append(info["result"])
            plays[i].surprises.append(is_surprised(forecast, envs[i]))
            plays[i].success = info["success"]
            if not terminated and not truncated:
                still_running.append(i)
        running = still_running
    return plays


def execute_first_steps(
    plans: Sequence[Plan],
    observations: Sequence[Observation],
    envs: Sequence,
    tool_agent: ToolAgent | None,
) -> list[Action | None]:
    """What the frozen tool agent makes of each plan's first step.

    None where it refuses, or where nothing could be read.
    """
    executed = [None] * len(plans)
    readable = [i for i, plan in enumerate(plans) if plan.forecast]
    firsts = [plans[i].forecast[0] for i in readable]
    if tool_agent is None:
        answers = [envs[i].ground(first) for i, first in zip(readable, firsts, strict=True)]
    else:
        # A foreign one knows the screen only, and no reference.
        examples = [Example(observations[i], reference=()) for i in readable]
        answers = tool_agent(firsts, examples)
    for i, action in zip(readable, answers, strict=True):
        executed[i] = action
    return executed


def is_surprised(forecast: Sequence[Action], env) -> bool:
    """Whether the screen is not what the step that led to it expected.

    Never where it expected nothing, or where the world has no names for its screens.
    """
    if not forecast or not forecast[0].expects or not hasattr(env, "screen_name"):
        return False
    return not same_text(forecast[0].expects, env.screen_name())


def remember(record: Play, observation: Observation, plan: Plan, env, horizon: int) -> None:
    """Write down one step, before its action is carried out and changes screen and oracle."""
    record.observations.append(observation)
    record.forecasts.append(plan.forecast)
    record.references.append(env.oracle(horizon))
    record.screens.append(env.visible())
    record.tokens += plan.tokens
    record.thought += plan.thought
