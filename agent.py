"""agent.py: the mind. Prompt, parser, small VLM, sampler, log-probabilities, plan-act loop.

What the model sees, and the grammar of its answer (the same for the tiny model and for a hub model):

    system     SYSTEM below (the tiny model's chat template leaves it out: its warm start has taught it the grammar)
    user       task: Account: type amber in Name; finish
               past: click Account; click Title failed
               plan: type amber; click Save                <- only with --carry_forecast
               <screenshot>
               next 5:
    assistant  click Name
               type amber
               click Save
               done

One action a line: `kind text`, and for kinds that point optionally ` (x, y)` at the end, in the frame of the model family
(0..1000 of each side for Qwen3-VL). Kinds and what their text says: envs.KINDS. `done`, `fail` and `answer` come last.
With --order far the prompt ends in `next 5 far to near:` and the lines come in that order, so that the action which is executed,
the last line, is written after the forecast and can depend on it.

`python agent.py --run DIR` plays one episode and draws it.
"""

import argparse
import dataclasses
import itertools
import json
import logging
import math
import re
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import lru_cache, partial
from pathlib import Path
from types import SimpleNamespace

from envs import DIRECTIONS, ICONS, KINDS, POINTING, SCREEN_WORDS, TERMINAL, Action, Example, Observation, die

if "torch" not in sys.modules and {"-h", "--help"} & set(sys.argv):
    torch = None  # --help answers at once: importing torch and transformers takes longer than all the rest
else:
    import torch

# ----------------------------------------------------------------------------------------------------------------------
# Prompt and parser
# ----------------------------------------------------------------------------------------------------------------------

SYSTEM = (
    "You operate a device. Look at the screenshot and forecast the next steps: one action a line, the nearest first (the farthest first "
    "when asked for `far to near`), as many as asked for or until the task ends, and nothing else. A line is a kind and its text:\n"
    + "\n".join(f"{kind} {{{text}}}" if text else kind for kind, text in KINDS.items())
    + "\nElements are named by the words that stand on the screen; where one stands may follow as (x, y)."
    "\nExample of an answer to `next 4:`\nclick Name\ntype amber\nclick Save\ndone"
)


def plain(text: str) -> str:
    """Text of others inside a prompt: an action that types `<|image_pad|>` must not become that token."""
    return text.replace("<|", "< |")


def build_prompt(observation: Observation, horizon: int, far_first: bool = False) -> list[dict]:
    """The one prompt of training and evaluation, as chat messages; the image stands for the screenshot."""
    lines = [f"task: {plain(observation.instruction)}", f"past: {plain('; '.join(observation.history)) or 'none'}"]
    if observation.plan:
        lines.append("plan: " + plain("; ".join(map(str, observation.plan))))
    # The screenshot comes after the task, so that under causal attention its tokens know what is asked of them.
    return [{"role": "system", "content": [{"type": "text", "text": SYSTEM}]},
            {"role": "user", "content": [{"type": "text", "text": "\n".join(lines) + "\n"}, {"type": "image"},
                                         {"type": "text", "text": f"\nnext {horizon}{' far to near' if far_first else ''}:"}]}]


def format_forecast(actions: Sequence[Action], far_first: bool = False) -> str:
    """The text that parse_forecast reads back (points are left to the tool agent)."""
    return "\n".join(map(str, actions[::-1] if far_first else actions))


_POINT = re.compile(r"\s*\(\s*(-?\d{1,6}(?:\.\d{1,6})?)\s*,\s*(-?\d{1,6}(?:\.\d{1,6})?)\s*\)\s*$")


def parse_forecast(text: str, horizon: int, frame: tuple[float, float] = (1000.0, 1000.0),
                   far_first: bool = False) -> tuple[list[Action], str | None]:
    """Model text -> (the actions up to the first line that cannot be read, what was wrong with it or None).

    Never raises and never executes anything. `frame`: what the model takes for the width and height of the screen; points
    come back in 0..1. What stands before `</think>` is not part of the answer. `far_first`: the lines are read from the last one up.

    >>> parse_forecast("click Save (500, 250)\\ndone", 5)
    ([Action(kind='click', text='Save', point=(0.5, 0.25)), Action(kind='done', text='', point=None)], None)
    >>> parse_forecast("click Save\\n__import__('os')", 5)
    ([Action(kind='click', text='Save', point=None)], 'line 2: unknown action kind "__import__(\\'os\\')"')
    """
    lines = [line.strip() for line in text.rsplit("</think>", 1)[-1].split("\n")]
    lines, actions = [line for line in (reversed(lines) if far_first else lines) if line], []
    for number, line in enumerate(lines, 1):
        if len(actions) == horizon:
            return actions, f"line {number}: more than the {horizon} steps asked for"
        if actions and actions[-1].kind in TERMINAL:
            return actions, f"line {number}: text after {actions[-1].kind}"
        kind, _, rest = line.partition(" ")
        rest, point = rest.strip(), None
        if kind in POINTING and (match := _POINT.search(rest)):
            rest, point = rest[: match.start()], (float(match[1]) / frame[0], float(match[2]) / frame[1])
        if KINDS.get(kind) and not rest and point is None and kind not in TERMINAL:
            return actions, f"line {number}: {kind} without its text"
        if kind in KINDS and not KINDS[kind] and rest:
            return actions, f"line {number}: text after {kind}"
        try:
            actions.append(Action(kind, "" if kind in ("done", "fail") else rest, point))
        except ValueError as error:
            return actions, f"line {number}: {error}"
    return actions, None if actions else "nothing to read"


# ----------------------------------------------------------------------------------------------------------------------
# The policy: a Qwen-VL with LoRA on its language model
# ----------------------------------------------------------------------------------------------------------------------

LORA_TARGETS = r".*language_model.*\.(q_proj|k_proj|v_proj|o_proj|gate_proj|up_proj|down_proj)"


@dataclass
class Policy:
    """A model with all that is needed to talk to it. `core` is the transformers model (LoRA layers act inside it once
    `add_lora` or `load_adapter` was called); `peft` is the wrapper that can switch them off and save them."""

    core: "torch.nn.Module"
    tokenizer: object
    image_processor: object
    peft: object = None
    far_first: bool = False   # forecasts are written from far to near (--order far)
    breaks: dict[int, int] = field(default_factory=dict)   # see line_breaks()
    name: str = ""
    suppressed: "torch.Tensor" = field(init=False)   # ids of the tokens that no answer may contain

    def __post_init__(self):
        """All special tokens are suppressed (image pads above all: the next forward would fail), but the end and the marks that
        Qwen2-VL and UI-TARS put around a point."""
        added = self.tokenizer.added_tokens_decoder.items()
        specials = {*self.tokenizer.all_special_ids, *(i for i, t in added if t.special), self.image_token, self.core.config.video_token_id}
        marks = {i for i, t in added if t.content in ("<|box_start|>", "<|box_end|>")}
        unnamed = range(len(self.tokenizer), self.core.config.text_config.vocab_size)  # rows of the head that no token has
        self.suppressed = torch.tensor(sorted({*specials, *unnamed} - marks - {self.tokenizer.eos_token_id}), device=self.device)

    @property
    def device(self) -> "torch.device":
        return self.core.device

    @property
    def image_token(self) -> int:
        return self.core.config.image_token_id

    @property
    def tiny(self) -> bool:
        return self.core.config.text_config.vocab_size < 1000

    @property
    def toy_scale(self) -> int:
        """How large the toy GUI is drawn for this model: 768 x 576 px are 432 tokens of a Qwen3-VL, and its words are as high as on real screens."""
        return 1 if self.tiny else 6

    def line_breaks(self, token: int) -> int:
        if token not in self.breaks:  # asked for at every token: decoded once
            self.breaks[token] = self.tokenizer.decode([token]).count("\n")
        return self.breaks[token]

    def frame(self, grid: "torch.Tensor") -> tuple[float, float]:
        """What the family takes for the width and height of a screen: Qwen2-VL (UI-TARS v1) and Qwen3-VL (GUI-Owl 1.5) count 0..1000,
        Qwen2.5-VL (UI-TARS 1.5, GUI-Owl) the pixels of the screenshot as the image processor resized it."""
        if self.core.config.model_type != "qwen2_5_vl":
            return 1000.0, 1000.0
        return float(grid[2] * self.image_processor.patch_size), float(grid[1] * self.image_processor.patch_size)

    def max_new_tokens(self, horizon: int) -> int:
        """Room for `horizon` lines: three tokens each in the tiny model's whole-word vocabulary, five where it speaks of tools
        ("call add 3 4" and the line's end), 24 in a hub model's."""
        return horizon * (24 if not self.tiny else 5 if "=" in self.tokenizer.get_vocab() else 3)


def load_policy(path: str | Path, adapter: str | Path | None = None, dtype: str = "", device: str = "", max_pixels: int = 0,
                load_in_4bit: bool | None = False) -> Policy:
    """Load a Qwen-VL by name or path, the project's own tiny checkpoint and a hub model by the same lines.

    `adapter`: a folder in peft's format. `max_pixels`: the largest screenshot that the image processor may keep, in pixels.
    `device`: CUDA where there is one, but the CPU for the tiny model. `dtype`: float32 on a CPU, else bfloat16, or float16 where the card
    lacks that. `load_in_4bit`: NF4; None: where the weights would fill more than half of the memory else.
    Raises SystemExit with one line for a folder without model or tokenizer, a model of another family, an adapter of another base.
    """
    from safetensors import SafetensorError
    from transformers import AutoConfig, AutoImageProcessor, AutoModelForImageTextToText, AutoTokenizer, BitsAndBytesConfig
    from transformers.utils import cached_file

    logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)  # tells of a kernel for 4 bits that is not used here
    warnings.filterwarnings("ignore", "`is_gradient_checkpointing` is deprecated")  # a matter between peft and transformers
    try:
        config = AutoConfig.from_pretrained(path)
        if config.model_type not in ("qwen2_vl", "qwen2_5_vl", "qwen3_vl"):
            die(f"{path} is a {config.model_type}; only the Qwen-VL family (2, 2.5, 3) is supported")
        tokenizer, image_processor = AutoTokenizer.from_pretrained(path), AutoImageProcessor.from_pretrained(path)
        if not tokenizer.chat_template and (file := cached_file(path, "chat_template.json", _raise_exceptions_for_missing_entries=False)):
            tokenizer.chat_template = json.loads(Path(file).read_text())["chat_template"]
        if not tokenizer.chat_template or len(tokenizer) <= config.image_token_id:  # without files transformers makes an empty one
            die(f"{path} has no tokenizer that fits the model")
        device = device or ("cuda" if torch.cuda.is_available() and config.text_config.vocab_size >= 1000 else "cpu")
        if device != "cpu":  # cuDNN's attention was seen to give NaN gradients with masks (pytorch issue 196678), and plans anew for each length
            torch.backends.cuda.enable_cudnn_sdp(False)
        half = "bfloat16" if device != "cpu" and torch.cuda.is_bf16_supported(including_emulation=False) else "float16"
        kind = getattr(torch, dtype or ("float32" if device == "cpu" else half))
        if load_in_4bit is None and (load_in_4bit := device != "cpu"):
            with torch.device("meta"):  # half of the memory for weights leaves room for caches and activations
                weights = sum(p.numel() for p in AutoModelForImageTextToText.from_config(config).parameters())
            load_in_4bit = 2 * weights > torch.cuda.mem_get_info()[0] / 2
        how = {} if not load_in_4bit else {"device_map": {"": device}, "quantization_config": BitsAndBytesConfig(
            load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True, bnb_4bit_compute_dtype=kind,
            llm_int8_skip_modules=["model.visual", "lm_head"])}  # matched from the start of a module's name: "visual" alone would not match
        core = AutoModelForImageTextToText.from_pretrained(path, dtype=kind, **how)
    except ImportError as error:  # bitsandbytes, where there is no build of it for this machine
        die(f"--load_in_4bit does not work here: {str(error).strip().splitlines()[0][:200]}; --no-load_in_4bit goes without")
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        die(f"cannot load a vision-language model from {path}: {str(error).splitlines()[0][:200]}")
    if max_pixels:
        low = min(image_processor.size["shortest_edge"], max_pixels // 4)  # small screens are enlarged to it and rounded up: not beyond the limit
        image_processor.size = {"shortest_edge": low, "longest_edge": max_pixels}
    for module in core.modules() if load_in_4bit else ():  # a CPU with AVX512-BF16 would pack the weights in the first eval forward and
        module.support_avx512bf16_for_cpu = False          # give no gradient from then on, with no more than a warning
    core = (core if load_in_4bit else core.to(device)).requires_grad_(False).eval()
    patches = core.model.visual.patch_embed.proj  # a convolution whose windows do not overlap is one product, many times as fast
    patches.forward = lambda x: torch.nn.functional.linear(x.flatten(1), patches.weight.flatten(1), patches.bias)
    policy = Policy(core, tokenizer, image_processor, name=str(path))
    if adapter:
        load_adapter(policy, adapter)
    return policy


def add_lora(policy: Policy, rank: int, alpha: int, seed: int) -> None:
    """Put fresh adapters on the language model: in fp32 (bf16 weights do not move at small learning rates), without dropout
    (the ratio of GRPO would compare two different networks)."""
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(seed)
    config = LoraConfig(r=rank, lora_alpha=alpha, lora_dropout=0.0, target_modules=LORA_TARGETS)
    policy.peft = get_peft_model(policy.core, config)
    for p in trainable(policy):
        p.data = p.data.float()


def load_adapter(policy: Policy, folder: str | Path, is_trainable: bool = False) -> None:
    """Load adapters that `policy.peft.save_pretrained` (or plain peft) wrote. peft loads what fits and only warns about the
    rest, so a file of another base would leave the model as it was: that is an error here."""
    from peft import PeftModel
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(Path(folder) / "adapter_model.safetensors", "pt") as saved:
            names = set(saved.keys())
        policy.peft = PeftModel.from_pretrained(policy.core, str(folder), is_trainable=is_trainable)
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        die(f"no adapter for this model in {folder}: {str(error).splitlines()[0][:200]}")
    own = {n.replace(".default", "") for n, _ in policy.peft.named_parameters() if "lora_" in n}
    if names != own:
        die(f"the adapter in {folder} was made for another model ({len(names ^ own)} of its weights do not fit)")


def trainable(policy: Policy) -> list["torch.nn.Parameter"]:
    return [p for p in policy.core.parameters() if p.requires_grad]


def make_tiny(folder: str | Path, words: Sequence[str], seed: int) -> None:
    """Write a Qwen3-VL of about a million parameters with random weights, its tokenizer and image processor, to `folder`.

    It has the architecture of the hub models and is read back by load_policy like one of them. Whole words are tokens; patches
    of 16 px are not merged, so that one vision token looks at one cell of the toy's screen.
    """
    from tokenizers import Regex, Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast, Qwen3VLConfig, Qwen3VLForConditionalGeneration
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>", "<unk>"]
    prompt_words = ["\n", *":;()-", "task", "past", "plan", "next", "far", "to", "near", "none", "failed", "unreadable", *map(str, range(1, 13))]
    vocabulary = {w: i for i, w in enumerate(dict.fromkeys([*special, *prompt_words, *KINDS, *sorted(DIRECTIONS), *ICONS, *words]))}
    raw = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    raw.pre_tokenizer = pre_tokenizers.Split(Regex(r"<[^<>\s]+>|\w+|[^\w\s]|\n"), "removed", invert=True)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=raw, eos_token="<|im_end|>", pad_token="<|endoftext|>", unk_token="<unk>",
                                        additional_special_tokens=special[:-1], clean_up_tokenization_spaces=False)
    tokenizer.chat_template = (
        "{% for m in messages %}{% if m.role != 'system' %}{% for c in m.content %}{% if c.type == 'image' %}"
        "<|vision_start|><|image_pad|><|vision_end|>{% else %}{{ c.text }}{% endif %}{% endfor %}{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>{% endif %}")
    config = Qwen3VLConfig(
        text_config=dict(vocab_size=len(vocabulary), hidden_size=128, intermediate_size=384, num_hidden_layers=4, num_attention_heads=4,
                         num_key_value_heads=2, head_dim=32, initializer_range=0.08, pad_token_id=0, max_position_embeddings=4096,
                         rope_parameters={"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [8, 4, 4], "mrope_interleaved": True}),
        vision_config=dict(depth=2, hidden_size=96, intermediate_size=192, num_heads=4, patch_size=16, spatial_merge_size=1,
                           out_hidden_size=128, num_position_embeddings=64, deepstack_visual_indexes=[0], initializer_range=0.08),
        image_token_id=vocabulary["<|image_pad|>"], video_token_id=vocabulary["<|video_pad|>"],
        vision_start_token_id=vocabulary["<|vision_start|>"], vision_end_token_id=vocabulary["<|vision_end|>"], tie_word_embeddings=True)
    torch.manual_seed(seed)
    model = Qwen3VLForConditionalGeneration(config)
    for merger in model.model.visual.deepstack_merger_list:  # deepstack starts silent: the reading lesson does not train it
        torch.nn.init.zeros_(merger.linear_fc2.weight)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    pixels = {"shortest_edge": 1024, "longest_edge": 2**20}
    Qwen2VLImageProcessorPil(patch_size=16, merge_size=1, temporal_patch_size=2, size=pixels).save_pretrained(folder)


TOY_WORDS = (*SCREEN_WORDS, "switch", "on", "off", "in", "code", "finish")  # what the toy GUI's instructions use beside the words on its screens

# ----------------------------------------------------------------------------------------------------------------------
# Encoding: prompts to ids, screenshots to features
# ----------------------------------------------------------------------------------------------------------------------


@dataclass
class Rollout:
    """One completion for one observation and all that is known of it."""

    prompt_ids: list[int]
    completion_ids: list[int]           # up to and including the end token
    old_logprobs: list[float]           # at the sampling temperature, over the tokens that may be sampled
    text: str
    finish_reason: str                  # "stop" or "length"
    forecast: list[Action]
    parse_error: str | None
    step_index: list[int]               # for each completion token, the forecast step (line) it belongs to
    reward_terms: dict[str, float] = field(default_factory=dict)
    step_rewards: list[float] = field(default_factory=list)
    advantages: list[float] = field(default_factory=list)   # for each forecast step

    @property
    def reward(self) -> float:
        return self.reward_terms["reward"]

    def record(self, example: Example) -> dict:
        """This rollout as one line of rollouts.jsonl."""
        seen = example.observation
        return {"observation": {"instruction": seen.instruction, "history": seen.history, "plan": [str(a) for a in seen.plan]},
                "reference": [str(a) for a in example.reference], "text": self.text, "forecast": [str(a) for a in self.forecast],
                "finish_reason": self.finish_reason, "parse_error": self.parse_error, "reward_terms": self.reward_terms, "reward": self.reward,
                "advantages": self.advantages, "prompt_ids": self.prompt_ids, "completion_ids": self.completion_ids,
                "old_logprobs": self.old_logprobs}


@dataclass
class Prompt:
    """An encoded observation. The vision tower is frozen, so its features are computed once and serve sampling, scoring and training."""

    ids: list[int]
    features: tuple["torch.Tensor", ...]   # what each image token becomes, and the deepstack features: [tokens, hidden] each
    grid: "torch.Tensor"                   # [3] patches of the image in time, height, width


@dataclass
class Group:
    """The G rollouts of one observation."""

    example: Example
    prompt: Prompt
    rollouts: list[Rollout]


def encode(policy: Policy, observations: Sequence[Observation], horizon: int, asked: Sequence[list[dict]] | None = None) -> list[Prompt]:
    """Observations -> prompts: images through the frozen tower, <|image_pad|> repeated to the number of their tokens.
    `asked`: other messages, for a tool agent. DEPARTURE: a model that thinks first is kept from it, there is only room for the lines."""
    if len(observations) > 1 and not policy.tiny:  # one screenshot fills a GPU; all of them at once would fill its memory
        return [encode(policy, [o], horizon, asked and [asked[i]])[0] for i, o in enumerate(observations)]
    images = [o.screenshot() for o in observations]
    batch = policy.image_processor(images=images, return_tensors="pt")
    grids = batch["image_grid_thw"]
    with torch.no_grad():
        found = policy.core.model.get_image_features(batch["pixel_values"].to(policy.device), grids.to(policy.device), return_dict=True)
    deepstack = getattr(found, "deepstack_features", None) or []  # Qwen2-VL and 2.5 have none
    merge, prompts = policy.image_processor.merge_size**2, []
    for i, observation in enumerate(observations):
        messages = asked[i] if asked else build_prompt(observation, horizon, policy.far_first)
        text = policy.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True, enable_thinking=False)
        text += "\n</think>\n\n" if text.endswith("<think>\n") else ""
        ids = policy.tokenizer(text, add_special_tokens=False)["input_ids"]
        at, n = ids.index(policy.image_token), int(grids[i].prod()) // merge
        prompts.append(Prompt(ids[:at] + [policy.image_token] * n + ids[at + 1:], (found.pooler_output[i], *(d[i] for d in deepstack)), grids[i]))
    return prompts


def _batch_prompts(policy: Policy, prompts: Sequence[Prompt]) -> tuple["torch.Tensor", "torch.Tensor", "torch.Tensor", "torch.Tensor"]:
    """Right-padded ids [P, L] of prompts without their last tokens, the lengths [P] of these, their positions [3, P, L], and the position
    [P] of the last tokens. A prompt's last token stands in front of each completion instead: what the model makes of it
    predicts the first token, so that nothing has to be computed of a prompt but its keys and values.

    Padding stands behind the prompt: under causal attention no token of the prompt sees it, so that no mask is needed there."""
    lengths = torch.tensor([len(p.ids) for p in prompts])
    ids = torch.tensor([p.ids + [policy.tokenizer.pad_token_id] * (int(lengths.max()) - len(p.ids)) for p in prompts])
    mask = (torch.arange(ids.shape[1]) < lengths[:, None]).long()
    # Explicit positions: the model would otherwise keep rope_deltas of whatever it last saw and continue wrongly.
    positions, _ = policy.core.model.get_rope_index(
        ids, mm_token_type_ids=(ids == policy.image_token).int(), image_grid_thw=torch.stack([p.grid for p in prompts]), attention_mask=mask)
    last = positions.amax(0).gather(1, lengths[:, None] - 1)[:, 0]
    return tuple(x.to(policy.device) for x in (ids[:, :-1], lengths - 1, positions[:, :, :-1], last))


def _score(policy: Policy, hidden: "torch.Tensor", temperature: float) -> "torch.Tensor":
    """Last hidden states -> log-probabilities over the tokens that may be sampled, at the sampling temperature, in fp32.
    Sampler and loss both come here: scoring at another temperature than was sampled at is the classical wrong ratio."""
    logits = policy.core.lm_head(hidden).float() / (temperature or 1.0)
    return logits.index_fill_(-1, policy.suppressed, -math.inf).log_softmax(-1)


# ----------------------------------------------------------------------------------------------------------------------
# The forward pass with a shared prompt
#
#                p p p | a a | b b       A row is [prompt | c_1 .. c_G]. A token of the prompt sees the prompt up to itself, a token of
#           p    x                       a completion sees the whole prompt (not its padding) and its own completion up to itself.
#           p    x x                     One mask for all of it would be [S, S] with S = L + G C, most of it empty. So this is done
#           p    x x x                   in two calls: prompt against prompt, which is plain causal attention, and completions as
#           a    x x x   x               rows of their own against [prompt | own], with a mask of [C, L + C].
#           a    x x x   x x
#           b    x x x         x
#           b    x x x         x x
#
# The layers are the model's own, called without their wrappers, which on a small model take longer than the arithmetic: one product for
# q, k and v, one for gate and up, and nothing of a prompt in the last layer but its keys and values.
# ----------------------------------------------------------------------------------------------------------------------


def _norm(module, x: "torch.Tensor") -> "torch.Tensor":
    return torch.nn.functional.rms_norm(x, x.shape[-1:], module.weight, module.variance_epsilon)  # one kernel; the module takes six


def _rotated(x: "torch.Tensor", cos: "torch.Tensor", sin: "torch.Tensor") -> "torch.Tensor":
    """Rotary positions: x [.., S, heads, d], cos and sin [.., S, d] of _rotary."""
    return torch.addcmul(x * cos[..., None, :], x.roll(x.shape[-1] // 2, -1), sin[..., None, :])


def _rotary(policy: Policy, x: "torch.Tensor", positions: "torch.Tensor") -> tuple["torch.Tensor", "torch.Tensor"]:
    """cos and sin of positions [3, P, S], [P, S, d] each; sin is negative in its first half, which meets the second half of x."""
    cos, sin = policy.core.model.language_model.rotary_emb(x, positions)
    return cos, torch.cat([-sin[..., : sin.shape[-1] // 2], sin[..., sin.shape[-1] // 2:]], -1)


def _joined(*modules) -> Callable:
    """Several projections of one input as one. In fp32 their adapters are folded into a copy of the weights, which is exact but for
    rounding, gradients included. Elsewhere the modules are called: in bf16 or 4 bits a small adapter would drown in the rounding of a
    large weight, and a large model has no room for copies."""
    bases = [getattr(m, "base_layer", m) for m in modules]
    if any(type(b) is not torch.nn.Linear or b.weight.dtype != torch.float32 or b.weight.numel() > 2**20 for b in bases):
        return lambda x: torch.cat([m(x) for m in modules], -1)
    weights = [b.weight if m is b or m.disable_adapters else sum(map(m.get_delta_weight, m.active_adapters), b.weight)
               for m, b in zip(modules, bases, strict=True)]
    weight, bias = torch.cat(weights), None if bases[0].bias is None else torch.cat([b.bias for b in bases])
    return lambda x: torch.nn.functional.linear(x, weight, bias)


def _layers(policy: Policy) -> list["SimpleNamespace"]:
    """The layers as _layer takes them, with the adapters as they are now."""
    text = policy.core.config.text_config
    heads = H, K = text.num_attention_heads, text.num_key_value_heads

    def norms(a):  # of q and k, a row a head: [H + K, d]; Qwen2-VL and 2.5 have none
        return torch.stack([a.q_norm.weight] * H + [a.k_norm.weight] * K) if hasattr(a, "q_norm") else None

    return [SimpleNamespace(before=layer.input_layernorm, qkv=_joined(a.q_proj, a.k_proj, a.v_proj), norms=norms(a), head=a.head_dim,
                            heads=heads, scaling=a.scaling, out=_joined(a.o_proj), after=layer.post_attention_layernorm,
                            gate_up=_joined(m.gate_proj, m.up_proj), act=m.act_fn, down=_joined(m.down_proj))
            for layer in policy.core.model.language_model.layers for a, m in [(layer.self_attn, layer.mlp)]]


def _layer(layer, x: "torch.Tensor", cos, sin, attend: Callable, first: int = 0) -> "torch.Tensor":
    """One layer of the model: [P, S, hidden] -> [P, S - first, hidden]; the tokens before `first` only give keys and values.
    `attend`: queries [P, S - first, H, d], keys and values [P, S, K, d] -> like the queries."""
    H, K = layer.heads
    qk, v = layer.qkv(_norm(layer.before, x)).unflatten(-1, (-1, layer.head)).split([H + K, K], -2)
    qk = qk if layer.norms is None else torch.nn.functional.rms_norm(qk, (layer.head,), None, layer.before.variance_epsilon) * layer.norms
    q, k = _rotated(qk, cos, sin).split([H, K], -2)
    x = x[:, first:] + layer.out(attend(q[:, first:], k, v, scaling=layer.scaling).flatten(-2))
    gate, up = layer.gate_up(_norm(layer.after, x)).chunk(2, -1)
    return x + layer.down(layer.act(gate) * up)


def _embedded(policy: Policy, ids: "torch.Tensor", prompts: Sequence[Prompt]) -> list["torch.Tensor"]:
    """What goes into the first layer, and what is added after the first layers (deepstack), [P, S, hidden] each."""
    x, image = policy.core.model.language_model.embed_tokens(ids), (ids == policy.image_token)[..., None]
    pooled, *deepstack = (torch.cat(level).to(x.dtype) for level in zip(*[p.features for p in prompts], strict=True))
    return [x.masked_scatter(image, pooled), *(torch.zeros_like(x).masked_scatter(image, d) for d in deepstack)]


def shared_mask(lengths: "torch.Tensor", L: int, own: "torch.Tensor") -> "torch.Tensor":
    """What is added to the scores of queries that see their prompt of `lengths` [P], not its padding up to L, and what `own` [Q, N] says of
    the N keys behind it: 0 or -inf, [P, 1, Q, L + N]."""
    prompt = (torch.arange(L, device=lengths.device) < lengths[:, None, None]).expand(-1, len(own), -1)   # [P, Q, L]
    seen = torch.cat([prompt, own.to(lengths.device).expand(len(lengths), -1, -1)], 2)[:, None]
    return torch.zeros(seen.shape, device=seen.device).masked_fill(~seen, -math.inf)


def shared_attention(q, k, v, mask: "torch.Tensor", L: int, scaling: float) -> "torch.Tensor":
    """Queries [P, S, H, d], or [P, S - L, H, d] where nobody asks for those of the prompt; keys and values [P, S, K, d] -> like the queries."""
    (P, S, K, d), (H, C), attend = k.shape, (q.shape[2], mask.shape[3] - L), torch.nn.functional.scaled_dot_product_attention
    G, R, n = (S - L) // C, H // K, q.shape[1] - (S - L)
    both = [torch.cat([x[:, None, :L].expand(-1, G, -1, -1, -1), x[:, L:].unflatten(1, (G, C))], 2).transpose(2, 3).flatten(1, 2)
            for x in (k, v)]                                                                              # [P, G K, L + C, d]
    own = q[:, n:].reshape(P, G, C, K, R, d).permute(0, 1, 3, 4, 2, 5).reshape(P, G * K, R * C, d)
    own = attend(own, *both, attn_mask=mask, scale=scaling).view(P, G, K, R, C, d).permute(0, 1, 4, 2, 3, 5).reshape(P, G * C, H, d)
    return torch.cat([causal_attention(q[:, :n], k[:, :L], v[:, :L], scaling), own], 1) if n else own


def causal_attention(q, k, v, scaling: float) -> "torch.Tensor":
    q, k, v = q.transpose(1, 2), *(x.transpose(1, 2).repeat_interleave(q.shape[2] // k.shape[2], 1) for x in (k, v))
    return torch.nn.functional.scaled_dot_product_attention(q, k, v, scale=scaling, is_causal=True).transpose(1, 2)


def _forward(policy: Policy, layers: list, x: list["torch.Tensor"], positions: "torch.Tensor", attend: Callable, first: int,
             checkpointing: bool = False) -> "torch.Tensor":
    """All layers: embeddings [P, S, hidden] at positions [3, P, S] -> last hidden states from token `first` on."""
    model, (x, *deepstack) = policy.core.model.language_model, x
    cos, sin = _rotary(policy, x, positions)
    run = partial(torch.utils.checkpoint.checkpoint, use_reentrant=False) if checkpointing and torch.is_grad_enabled() else lambda f, *xs: f(*xs)
    for i, layer in enumerate(layers):
        skip = first if i + 1 == len(layers) else 0
        x = run(_layer, layer, x, cos, sin, attend, skip)
        x = x + deepstack[i][:, skip:] if i < len(deepstack) else x
    return _norm(model.norm, x)


# ----------------------------------------------------------------------------------------------------------------------
# Sampling
# ----------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Sampling:
    """How completions are drawn; nothing is left to the model's generation_config (Qwen-VL's makes sampling almost greedy).
    No top-k and no top-p: the loss would score another distribution than was sampled."""

    horizon: int = 5
    group_size: int = 8
    temperature: float = 1.0     # 0: greedy
    max_new_tokens: int = 15


def sample(policy: Policy, prompts: Sequence[Prompt], how: Sampling, generator: "torch.Generator | None" = None) -> list[list[Rollout]]:
    """G completions for each prompt: one prefill a prompt, whose keys and values all G read. Returns P lists of G rollouts."""
    P, G, device = len(prompts), how.group_size, policy.device
    with torch.inference_mode():  # a few per cent quicker than no_grad; its tensors cannot be trained with, so none stays on the policy
        step = _decoder(policy, prompts, G, how.max_new_tokens)
        token = torch.tensor([p.ids[-1] for p in prompts], device=device).repeat_interleave(G)                      # [B], B = P G
        tokens, logprobs, ended = [], [], torch.zeros(P * G, dtype=torch.bool, device=device)
        for t in range(how.max_new_tokens):
            scores = _score(policy, step(token, t), how.temperature)                                    # [B, V]
            token = scores.argmax(-1) if how.temperature == 0 else torch.multinomial(scores.exp(), 1, generator=generator)[:, 0]
            tokens.append(token)
            logprobs.append(scores.gather(1, token[:, None])[:, 0])
            ended = ended | (token == policy.tokenizer.eos_token_id)
            if ended.all():
                break
    rows, probs = torch.stack(tokens, 1).tolist(), torch.stack(logprobs, 1).tolist()
    return [[_rollout(policy, prompts[p], rows[p * G + g], probs[p * G + g], how.horizon) for g in range(G)] for p in range(P)]


def _decoder(policy: Policy, prompts: Sequence[Prompt], G: int, C: int) -> Callable:
    """Prefill, then the function (tokens [B], t) -> last hidden states [B, H]: token t of each completion, of at most C, and what follows
    from it; token 0 is the last one of the prompt. Keys and values of a prompt and its G completions stand in one row, made once and filled
    in place: [prompt | token 0 of all G | token 1 of all G ..]. The prompt is read once for all G; a mask keeps the completions apart."""
    model, (ids, lengths, positions, last) = policy.core.model.language_model, _batch_prompts(policy, prompts)
    layers, kept, (P, L), text = _layers(policy), [], ids.shape, policy.core.config.text_config
    K, R = text.num_key_value_heads, text.num_attention_heads // text.num_key_value_heads

    def prefill(q, k, v, scaling):
        kept.append(k.new_empty(2, P, K, L + C * G, k.shape[-1]))                                       # keys and values of a layer
        kept[-1][:, :, :, :L] = torch.stack([k, v]).transpose(2, 3)
        return causal_attention(q, k, v, scaling) if q.shape[1] else q

    _forward(policy, layers, _embedded(policy, ids, prompts), positions, prefill, L)
    cos, sin = _rotary(policy, kept[0], (last[:, None] + torch.arange(C, device=last.device)).expand(3, -1, -1))       # [P, C, d]
    own = torch.eye(G).bool().repeat_interleave(R, 0).repeat(1, C)                                      # [G R, C G]
    mask = shared_mask(lengths, L, own).to(cos.dtype)                                                   # [P, 1, G R, L + C G]

    def attend(q, k, v, t, row, scaling):                                                               # q [P, G, H, d], k and v [P, G, K, d]
        new = L + t * G + G
        row[0, :, :, new - G:new], row[1, :, :, new - G:new] = k.transpose(1, 2), v.transpose(1, 2)
        q = q.view(P, G, K, R, -1).transpose(1, 2).flatten(2, 3)                                        # [P, K, G R, d]
        mixed = torch.nn.functional.scaled_dot_product_attention(q, *row[:, :, :, :new], attn_mask=mask[..., :new], scale=scaling)
        return mixed.view(P, K, G, R, -1).transpose(1, 2).flatten(2, 3)

    def step(tokens, t):
        x, at = model.embed_tokens(tokens).view(P, G, -1), (cos[:, t, None], sin[:, t, None])
        for layer, row in zip(layers, kept, strict=True):
            x = _layer(layer, x, *at, partial(attend, t=t, row=row))
        return _norm(model.norm, x).flatten(0, 1)

    return step


def sample_all(policy: Policy, prompts: Sequence[Prompt], how: Sampling, draw: Callable = lambda start: None, size: int = 0) -> list[list[Rollout]]:
    """sample() for as many prompts as there are, `size` at a time; by default so many as make 128 completions of the tiny model (more would
    leave a CPU's caches) or 16 of a hub model (2 GB of keys and values at 1,024 image tokens and 28 layers, if each has its own prompt).
    `draw` gives the generator of the part that begins at a prompt."""
    n = size or max(1, (128 if policy.tiny else 16) // how.group_size)
    return [group for start in range(0, len(prompts), n) for group in sample(policy, prompts[start:start + n], how, draw(start))]


def _rollout(policy: Policy, prompt: Prompt, tokens: list[int], logprobs: list[float], horizon: int) -> Rollout:
    finished = (eos := policy.tokenizer.eos_token_id) in tokens
    tokens = tokens[: tokens.index(eos) + 1] if finished else tokens
    text = policy.tokenizer.decode([t for t in tokens if t != eos])
    forecast, error = parse_forecast(text, horizon, policy.frame(prompt.grid), policy.far_first)
    if not finished and error is None:
        error = f"cut off after {len(tokens)} tokens"
    lines = [policy.line_breaks(t) for t in tokens]
    before = list(itertools.accumulate(lines, initial=0))
    step_index = [min(before[-1] - before[i] if policy.far_first else before[i], horizon) for i in range(len(tokens))]
    return Rollout(prompt.ids, tokens, logprobs[: len(tokens)], text, "stop" if finished else "length", forecast, error, step_index)


# ----------------------------------------------------------------------------------------------------------------------
# Log-probabilities for training: the prompt is computed once for its G completions
# ----------------------------------------------------------------------------------------------------------------------


def completion_logprobs(policy: Policy, prompts: Sequence[Prompt], completions: Sequence[Sequence[list[int]]],
                        temperature: float = 1.0, checkpointing: bool = False) -> tuple["torch.Tensor", "torch.Tensor"]:
    """Log-probabilities of completions: [P][G] lists of ids -> (log-probs [P, G, C], completion mask [P, G, C]).

    Each row is [prompt | c_1 .. c_G]: a completion sees its prompt and itself, by the attention mask, and its positions go on
    where the prompt ends. This gives the same numbers and gradients as G separate rows (tests/test_agent.py), with gradient
    `checkpointing` too, at a fraction of the tokens. The shift by one happens here and nowhere else. The mask is 1 up to
    and including the end token, by position: the pad token may be the end token of some models.
    """
    P, G = len(completions), max(len(row) for row in completions)
    C = max(len(c) for row in completions for c in row)
    ids, lengths, positions, last = _batch_prompts(policy, prompts)
    L, device, text = ids.shape[1], policy.device, policy.core.config.text_config
    tokens = torch.full((P, G, C), policy.tokenizer.pad_token_id, device=device)
    valid = torch.zeros((P, G, C), dtype=torch.bool, device=device)
    for p, row in enumerate(completions):
        for g, c in enumerate(row):
            tokens[p, g, : len(c)] = torch.tensor(c, device=device)
            valid[p, g, : len(c)] = True
    ends = torch.tensor([p.ids[-1] for p in prompts], device=device)[:, None, None].expand(-1, G, -1)
    written = torch.cat([ends, tokens[:, :, :-1]], 2).flatten(1)                                          # each token before the one it predicts
    follow = (last[:, None] + torch.arange(C, device=device)).repeat(1, G).expand(3, -1, -1)              # [3, P, G C]
    x = _embedded(policy, torch.cat([ids, written], 1), prompts)
    own = torch.ones(C, C).tril().bool().repeat(text.num_attention_heads // text.num_key_value_heads, 1)  # a row for each that reads the same keys
    mask = shared_mask(lengths, L, own).to(x[0].dtype)                                                    # [P, 1, R C, L + C]
    hidden = _forward(policy, _layers(policy), x, torch.cat([positions, follow], 2), partial(shared_attention, mask=mask, L=L), L, checkpointing)
    states, targets = hidden.view(P, G, C, -1)[valid], tokens[valid]
    picked = torch.cat([_picked(policy, s, t, temperature) for s, t in zip(states.split(2048), targets.split(2048), strict=True)])
    return torch.zeros((P, G, C), device=device).masked_scatter(valid, picked), valid


def _picked(policy: Policy, states: "torch.Tensor", targets: "torch.Tensor", temperature: float) -> "torch.Tensor":
    """Log-probability of each target; recomputed in the backward, so that never more than one chunk of [n, V] logits is alive."""
    def score(s):
        return _score(policy, s, temperature).gather(1, targets[:, None])[:, 0]

    if policy.tiny or not torch.is_grad_enabled():
        return score(states)
    return torch.utils.checkpoint.checkpoint(score, states, use_reentrant=False)


# ----------------------------------------------------------------------------------------------------------------------
# A frozen VLM as the tool agent: the text of a step and its screenshot -> a point
# ----------------------------------------------------------------------------------------------------------------------

ToolAgent = Callable[[list[tuple[Action, Example]]], list[Action | None]]
# A question for each family, by a part of the model's name. UI-TARS and GUI-Owl answer in the form that they were trained on; Qwen-VL points in JSON.
QUESTIONS = {
    "ui-tars": "You are a GUI agent. You are given a task and a screenshot. You need to perform the next action to complete the task.\n\n"
               "## Output Format\nAction: ...\n\n## Action Space\nclick(start_box='<|box_start|>(x1,y1)<|box_end|>')\n\n## User Instruction\n{}",
    "gui-owl": "You may call one function:\n<tools>\n"
               '{{"name": "computer_use", "arguments": {{"action": "left_click", "coordinate": [x, y]}}}}\n</tools>\n'
               "Return a json object with its name and arguments within <tool_call></tool_call> tags.\nDo this one step on the screenshot: {}",
    "": 'Find the element that this step acts on: {}\nAnswer with its centre and nothing else, as JSON: {{"point_2d": [x, y]}}',
}
_NUMBER = r"-?\d{1,6}(?:\.\d{1,6})?"
_PLACE = re.compile(rf"[(\[]\s*({_NUMBER}(?:\s*[,\s]\s*{_NUMBER}){{1,3}})\s*[)\]]")


def parse_point(text: str, frame: tuple[float, float]) -> tuple[float, float] | None:
    """The point of a grounder's answer, in 0..1; None where there is none on the screen. Never raises. A box counts as its centre.

    >>> parse_point("Action: click(start_box='(540,600)')", (1080, 2400))
    (0.5, 0.25)
    """
    for mark in ("</think>", "Action:", "<tool_call>"):
        text = text.rsplit(mark, 1)[-1]
    text = re.sub(r"<\|box_(?:start|end)\|>", "", text).replace("<point>", "(").replace("</point>", ")")
    place = _PLACE.search(re.sub(r"\)\s*,\s*\(", ",", text))  # Qwen2-VL writes a box as (x1,y1),(x2,y2)
    numbers = [float(n) for n in re.findall(_NUMBER, place[1])] if place else []
    if len(numbers) not in (2, 4):
        return None
    x, y = (numbers[0] + numbers[-2]) / 2 / frame[0], (numbers[1] + numbers[-1]) / 2 / frame[1]
    return (x, y) if 0 <= x <= 1 and 0 <= y <= 1 else None


def ask(policy: Policy, questions: Sequence[tuple[Callable, str]]) -> list[tuple[str, "torch.Tensor"]]:
    """Greedy answers of a frozen VLM to (function that opens a picture, question): its text, and the patches of the picture as it saw
    it. Adapters are off meanwhile, so that the policy's own base can serve, at no extra memory."""
    messages = [[{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": question}]}] for _, question in questions]
    with policy.peft.disable_adapter() if policy.peft else nullcontext():
        prompts = encode(policy, [Observation("", picture) for picture, _ in questions], 1, messages) if questions else []
        answers = sample_all(policy, prompts, Sampling(1, 1, 0.0, 96))
    return [(group[0].text, prompt.grid) for group, prompt in zip(answers, prompts, strict=True)]


def vlm_tool_agent(vlm: Policy) -> ToolAgent:
    """A frozen Qwen-VL as the tool agent: for each (action, example) the action with the point that it finds on the screenshot, or None
    when its answer names none. Equal questions are asked once, all in one greedy generation. Actions that need no point pass, and so do
    those that bring one along (DEPARTURE)."""
    question = next(text for name, text in QUESTIONS.items() if name in vlm.name.lower().replace("_", "-"))

    def execute(pairs: list[tuple[Action, Example]]) -> list[Action | None]:
        asked = dict.fromkeys((e.observation.screenshot, str(a)) for a, e in pairs if a.kind in POINTING and a.point is None)
        answers = ask(vlm, [(screenshot, question.format(plain(said))) for screenshot, said in asked])
        points = {key: parse_point(text, vlm.frame(grid)) for key, (text, grid) in zip(asked, answers, strict=True)}
        found = [a.point or points.get((e.observation.screenshot, str(a))) for a, e in pairs]
        return [dataclasses.replace(a, point=p) if p or a.kind not in POINTING else None for (a, _), p in zip(pairs, found, strict=True)]

    return execute


_frozen = lru_cache(maxsize=1)(load_policy)


def frozen_vlm(name: str, policy: Policy, max_pixels: int = 0) -> Policy:
    """What --tool_agent names: the policy's base, or another model by name or path."""
    return policy if name == "base" else _frozen(name, max_pixels=max_pixels, load_in_4bit=None)


def tool_agent(name: str, policy: Policy, max_pixels: int = 0) -> ToolAgent | None:
    """The tool agent of --tool_agent; None for an empty name: the world's own."""
    return vlm_tool_agent(frozen_vlm(name, policy, max_pixels)) if name else None


# ----------------------------------------------------------------------------------------------------------------------
# Plan-act loop
# ----------------------------------------------------------------------------------------------------------------------


@dataclass
class Play:
    """One played episode: for each step the observation, the forecast, the oracle's plan and what became of the first action."""

    observations: list[Observation] = field(default_factory=list)
    forecasts: list[list[Action]] = field(default_factory=list)
    references: list[list[Action]] = field(default_factory=list)
    screens: list[tuple] = field(default_factory=list)      # (label, box) of each element, for pictures
    results: list[str] = field(default_factory=list)
    success: bool = False
    tokens: int = 0
    oracle_steps: int = 0


Planner = Callable[[list[Observation], list], list[tuple[list[Action], int]]]


def policy_planner(policy: Policy, horizon: int, tool: "ToolAgent | None" = None, choose: str = "", candidates: int = 8, seed: int = 0) -> Planner:
    """Forecasts of a policy: a function of (observations, environments) -> (forecast, tokens written) for each. With `tool` the
    first step, the one that is executed, has the point that this tool agent finds, or none where it refuses.

    Greedy, or with `choose` the best of `candidates` forecasts sampled at temperature 1 (DEPARTURE: not in the paper), the ways in
    which a whole forecast can decide about its first action: "likelihood", the one with the largest joint probability;
    "agreement", the likeliest of those that begin as most of them do.
    """
    how = Sampling(horizon, candidates if choose else 1, float(bool(choose)), policy.max_new_tokens(horizon))
    generator = torch.Generator(policy.device).manual_seed(seed)

    def plan(observations, _envs):
        groups = sample_all(policy, encode(policy, observations, horizon), how, lambda start: generator)
        chosen = [_chosen(group, choose) for group in groups]
        if tool:  # asked for the first steps of all at once
            pairs = [(r.forecast[0], Example(o, ())) for r, o in zip(chosen, observations, strict=True) if r.forecast]
            for r, found in zip([r for r in chosen if r.forecast], tool(pairs), strict=True):
                r.forecast[0] = found or dataclasses.replace(r.forecast[0], point=None)
        return [(r.forecast, sum(len(each.completion_ids) for each in group)) for r, group in zip(chosen, groups, strict=True)]

    return plan


def _chosen(group: Sequence[Rollout], choose: str) -> Rollout:
    first = [str(r.forecast[0]) if r.forecast else "" for r in group]
    votes = [first.count(action) if choose == "agreement" else 0 for action in first]
    return max(zip(group, votes, strict=True), key=lambda pair: (pair[1], sum(pair[0].old_logprobs)))[0]


def play(planner: Planner, envs: Sequence, seeds: Sequence[int], execute: Callable, horizon: int, carry: bool = False) -> list[Play]:
    """Plan-act loop over several environments at once: forecast T steps, execute the first, observe, forecast again.

    `execute` hands an action to the frozen tool agent and the result to the environment. With `carry`, what was left of
    the last forecast stands in the next prompt (DEPARTURE: not in the paper).
    """
    seen = [env.reset(seed)[0] for env, seed in zip(envs, seeds, strict=True)]
    plays, running = [Play(oracle_steps=env.oracle_steps) for env in envs], list(range(len(envs)))
    while running:
        for i, (forecast, tokens) in zip(running, planner([seen[i] for i in running], [envs[i] for i in running]), strict=True):
            p = plays[i]
            p.observations.append(seen[i])
            p.forecasts.append(forecast)
            p.references.append(envs[i].oracle(horizon))
            p.screens.append(envs[i].visible())
            p.tokens += tokens
            seen[i], _, terminated, truncated, info = execute(envs[i], forecast[0] if forecast else None)
            if carry:
                seen[i] = Observation(seen[i].instruction, seen[i].screenshot, seen[i].history, tuple(forecast[1:]))
            p.results.append(info["result"])
            p.success = info["success"]
            if terminated or truncated:
                running = [j for j in running if j != i]
    return plays


# ----------------------------------------------------------------------------------------------------------------------
# Runs on disk
# ----------------------------------------------------------------------------------------------------------------------


def read_run(folder: str | Path) -> dict:
    """config.json of a run of train.py; a folder that is missing, half-written or something else ends with one line."""
    folder = Path(folder)
    if not folder.is_dir():
        die(f"--run {folder}: there is no such folder")
    try:
        config = json.loads((folder / "config.json").read_text())
        if not isinstance(config, dict) or not {"base", "horizon", "history", "carry_forecast"} <= set(config):
            die(f"--run {folder}: config.json was not written by train.py of this version")
        config.setdefault("env", "toy-gui")  # older runs know no other world
    except FileNotFoundError:
        die(f"--run {folder}: no config.json, this is not a run of train.py")
    except (OSError, ValueError) as error:
        die(f"--run {folder}: config.json cannot be read ({error})")
    if not (folder / "adapter" / "adapter_model.safetensors").exists():
        die(f"--run {folder}: no adapter yet, the run is not finished (python train.py --output_dir {folder} --resume goes on with it)")
    return config


def run_policy(folder: str | Path, config: dict, name: str | None = "adapter") -> Policy:
    """The policy of a run: its last adapters, those of a stage, or none (the warm start); screens as large as in its training."""
    policy = load_policy(config["base"], name and Path(folder) / name, max_pixels=config.get("max_pixels", 0),
                         load_in_4bit=config.get("in_4bit", False))
    policy.far_first = config.get("order") == "far"
    return policy


@contextmanager
def memory_or_die() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:
        if not isinstance(error, torch.OutOfMemoryError):
            raise
        die("the GPU's memory is full: lower --micro_batch or --sample_batch (and --resume), or start again with less --max_pixels or --load_in_4bit")


@memory_or_die()
def main() -> None:
    from envs import TOYS, execute
    from eval import draw_episode

    parser = argparse.ArgumentParser(description="Play one episode of a run's toy world with its policy and draw it.")
    parser.add_argument("--run", required=True, help="folder of a run of train.py")
    parser.add_argument("--seed", type=int, default=0, help="which task of the split")
    parser.add_argument("--split", default="test", help="where the task is taken from")
    parser.add_argument("--picture", default="episode.png", help="where the film strip goes")
    args = parser.parse_args()
    config = read_run(args.run)
    policy = run_policy(args.run, config)
    tool, T = tool_agent(config.get("tool_agent", ""), policy, config.get("max_pixels", 0)), config["horizon"]
    try:
        env = TOYS[config["env"]](args.split, policy.toy_scale, config["history"])
        p = play(policy_planner(policy, T, tool), [env], [args.seed], partial(execute, pointed=bool(tool)), T, config["carry_forecast"])[0]
        draw_episode(p, args.picture)
    except ValueError as error:
        die(str(error))
    except OSError as error:
        die(f"cannot write {args.picture}: {error.strerror}")
    print(f"task: {p.observations[0].instruction}")
    for i, (forecast, result) in enumerate(zip(p.forecasts, p.results, strict=True), 1):
        print(f"{i:3} {'; '.join(map(str, forecast)) or '(nothing readable)'}   [{result}]")
    print(f"{'solved' if p.success else 'not solved'} in {len(p.results)} steps, the oracle needs {p.oracle_steps}; picture in {args.picture}")


if __name__ == "__main__":
    main()
