"""Made-up hub checkpoints: models of all four families with random weights, in the hub's layout.

Called by the tests and by extras/gpu_check.py, so that neither has to download anything.
They measure memory and time and try file formats; of what a trained model can do they say nothing.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch

from agent import SYSTEM
from envs import ToyGUI


@dataclass(frozen=True)
class VisionShape:
    hidden: int
    intermediate: int
    depth: int
    heads: int
    deepstack: list[int]  # layers whose features go to the language model, Qwen3-VL only


@dataclass(frozen=True)
class LinearShape:
    """The linear attention of three in four layers, Qwen3.5 only."""

    key_heads: int
    value_heads: int
    head_size: int


@dataclass(frozen=True)
class Shape:
    hidden: int
    intermediate: int
    layers: int
    heads: int
    key_value_heads: int
    head_size: int
    vocabulary: int
    vision: VisionShape
    tied: bool = True  # whether the head has the weights of the embedding
    linear: LinearShape | None = None


# The numbers stand in the order of the fields above; `tiny` has a family's architecture at a size
# for tests. Those of Qwen3-VL are from the config.json of Qwen/Qwen3-VL-{2B,4B,8B}-Instruct.
_SMALL_EYE = VisionShape(1024, 4096, 24, 16, [5, 11, 17])
_LARGE_EYE = VisionShape(1152, 4304, 27, 16, [8, 16, 24])
QWEN3_VL_SHAPES = {
    "2b": Shape(2048, 6144, 28, 16, 8, 128, 151936, _SMALL_EYE),
    "4b": Shape(2560, 9728, 36, 32, 8, 128, 151936, _SMALL_EYE),
    "8b": Shape(4096, 12288, 36, 32, 8, 128, 151936, _LARGE_EYE, tied=False),
    "tiny": Shape(64, 128, 2, 4, 2, 16, 1056, VisionShape(32, 64, 2, 2, [0])),
}
# Those of Qwen3.5 are not from the hub itself, which was not at hand, but from public code and
# tests that quote config.json of Qwen/Qwen3.5-{0.8B,2B,4B}, vision tower included; what was found
# in several places agreed, THUDM/slime's scripts/models/qwen3.5-0.8B.sh among them.
_EYE_08B = VisionShape(768, 3072, 12, 12, [])
_EYE_2B = VisionShape(1024, 4096, 24, 16, [])
_LINEAR_2B = LinearShape(16, 16, 128)
_LINEAR_4B = LinearShape(16, 32, 128)
_LINEAR_TINY = LinearShape(2, 4, 16)
QWEN3_5_SHAPES = {
    "0.8b": Shape(1024, 3584, 24, 8, 2, 256, 248320, _EYE_08B, linear=_LINEAR_2B),
    "2b": Shape(2048, 6144, 24, 8, 2, 256, 248320, _EYE_2B, linear=_LINEAR_2B),
    "4b": Shape(2560, 9216, 32, 16, 4, 256, 248320, _EYE_2B, linear=_LINEAR_4B),
    "tiny": Shape(64, 128, 4, 4, 2, 32, 1056, VisionShape(32, 64, 2, 2, []), linear=_LINEAR_TINY),
}
SHAPES = {"qwen3_vl": QWEN3_VL_SHAPES, "qwen3_5": QWEN3_5_SHAPES}
LAST_FILE = "preprocessor_config.json"  # where it stands, make_hub was not interrupted


def make_hub(
    folder: Path,
    family: str = "qwen3_vl",
    shape: str = "tiny",
    template: str | None = None,
    dtype: torch.dtype = torch.float32,
    device: str = "cpu",
) -> Path:
    """Write a model of one of SHAPES with random weights to `folder`; returns the folder.

    family: "qwen2_vl", "qwen2_5_vl" (at Qwen3-VL's shapes), "qwen3_vl" or "qwen3_5". template: a
    chat template; None: one that begins an answer as the family's own does.
    """
    from transformers import AutoModelForImageTextToText

    folder.mkdir(parents=True, exist_ok=True)
    size = SHAPES.get(family, QWEN3_VL_SHAPES)[shape]
    if template is None:
        template = THINKING_TEMPLATE if family == "qwen3_5" else TEMPLATE
    special_ids = make_tokenizer(folder, size.vocabulary, template)
    config = make_config(family, size, special_ids)
    torch.manual_seed(0)
    with default_dtype(dtype), torch.device(device):
        model = AutoModelForImageTextToText.from_config(config)
    if family == "qwen3_5":
        make_memorable(model)
    model.save_pretrained(folder)
    processor = image_processor_config(family)
    (folder / LAST_FILE).write_text(json.dumps(processor))
    return folder


def make_memorable(model: torch.nn.Module) -> None:
    """Linear attention that remembers, and norms that are not all alike.

    With fresh weights most heads forget a token at once, and norms weigh by 1 + 0: a mistake in how
    a state or a norm is computed would not show.
    """
    for name, weight in model.model.language_model.named_parameters():
        if name.endswith("A_log"):
            weight.data.uniform_(-5, 0)
        if name.endswith("norm.weight"):
            weight.data += 0.2 * torch.randn_like(weight)


@contextmanager
def default_dtype(dtype: torch.dtype) -> Iterator[None]:
    """New weights have this type."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


# ---- configuration ------------------------------------------------------------------------------


def make_config(family: str, size: Shape, special_ids: dict[str, int]):
    """The transformers config of a family at a size."""
    from transformers import AutoConfig

    return AutoConfig.for_model(
        family,
        text_config=text_config(family, size) | {"pad_token_id": special_ids["<|endoftext|>"]},
        vision_config=vision_config(family, size),
        image_token_id=special_ids["<|image_pad|>"],
        video_token_id=special_ids["<|video_pad|>"],
        vision_start_token_id=special_ids["<|vision_start|>"],
        vision_end_token_id=special_ids["<|vision_end|>"],
        tie_word_embeddings=size.tied,
    )


def text_config(family: str, size: Shape) -> dict:
    """The language model. Qwen2-VL and 2.5 have hidden / heads numbers in a head."""
    # How many pairs of a head's rotated numbers stand for time, height and width: together half of
    # what is rotated. Qwen3.5 rotates a quarter of a head, the others all of it.
    sections = {128: [24, 20, 20], 16: [4, 2, 2], 256: [11, 11, 10], 32: [2, 1, 1]}
    rotary = {"rope_type": "default", "mrope_section": sections[size.head_size]}
    config = {
        "hidden_size": size.hidden,
        "intermediate_size": size.intermediate,
        "num_hidden_layers": size.layers,
        "num_attention_heads": size.heads,
        "num_key_value_heads": size.key_value_heads,
        "vocab_size": size.vocabulary,
        "tie_word_embeddings": size.tied,
    }
    if family == "qwen3_vl":
        rotary |= {"rope_theta": 5e6, "mrope_interleaved": True}
        config |= {"head_dim": size.head_size}
    elif family == "qwen3_5":
        rotary |= {"rope_theta": 1e7, "mrope_interleaved": True, "partial_rotary_factor": 0.25}
        config |= {
            "head_dim": size.head_size,
            "linear_num_key_heads": size.linear.key_heads,
            "linear_num_value_heads": size.linear.value_heads,
            "linear_key_head_dim": size.linear.head_size,
            "linear_value_head_dim": size.linear.head_size,
        }
    else:
        rotary |= {"rope_theta": 1e6}
    return config | {"rope_parameters": rotary}


def vision_config(family: str, size: Shape) -> dict:
    """The vision tower; each family names its parts in its own way."""
    vision = size.vision
    config = {
        "depth": vision.depth,
        "num_heads": vision.heads,
        "spatial_merge_size": 2,
        "temporal_patch_size": 2,
    }
    if family == "qwen2_vl":
        return config | {
            "embed_dim": vision.hidden,
            "hidden_size": size.hidden,
            "mlp_ratio": 2,
            "patch_size": 14,
        }
    config |= {
        "hidden_size": vision.hidden,
        "intermediate_size": vision.intermediate,
        "out_hidden_size": size.hidden,
    }
    if family == "qwen2_5_vl":
        return config | {
            "patch_size": 14,
            "window_size": 112,
            "fullatt_block_indexes": [vision.depth - 1],
        }
    config |= {"patch_size": 16, "num_position_embeddings": 2304}
    if family == "qwen3_vl":
        config |= {"deepstack_visual_indexes": vision.deepstack}
    return config


def image_processor_config(family: str) -> dict:
    """preprocessor_config.json in the old and in the new form of the hub."""
    config = {
        "merge_size": 2,
        "temporal_patch_size": 2,
        "image_mean": [0.5] * 3,
        "image_std": [0.5] * 3,
    }
    if family in ("qwen3_vl", "qwen3_5"):
        return config | {
            "size": {"shortest_edge": 65536, "longest_edge": 16777216},
            "patch_size": 16,
            "image_processor_type": "Qwen2VLImageProcessorFast",
        }
    return config | {
        "min_pixels": 3136,
        "max_pixels": 12845056,
        "patch_size": 14,
        "image_processor_type": "Qwen2VLImageProcessor",
    }


# ---- tokenizer ----------------------------------------------------------------------------------

SPECIAL = [
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|object_ref_start|>",
    "<|object_ref_end|>",
    "<|box_start|>",
    "<|box_end|>",
    "<|quad_start|>",
    "<|quad_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|vision_pad|>",
    "<|image_pad|>",
    "<|video_pad|>",
]
PLAIN = [  # added, but not special
    "<tool_call>",
    "</tool_call>",
    "<tool_response>",
    "</tool_response>",
    "<think>",
    "</think>",
]
FIRST_SPECIAL = {151936: 151643, 248320: 248044}  # its id in a real vocabulary of so many
TEMPLATE = (
    "{% if messages[0].role != 'system' %}"
    "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
    "{% endif %}"
    "{% for m in messages %}"
    "<|im_start|>{{ m.role }}\n"
    "{% if m.content is string %}{{ m.content }}"
    "{% else %}{% for c in m.content %}"
    "{% if c.type == 'image' %}<|vision_start|><|image_pad|><|vision_end|>"
    "{% else %}{{ c.text }}{% endif %}"
    "{% endfor %}{% endif %}"
    "<|im_end|>\n"
    "{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
# The larger Qwen3.5 open a thought unless they are told not to, and then close it at once.
THINKING_TEMPLATE = TEMPLATE.replace(
    "assistant\n{%",
    "assistant\n{{ '<think>\n' }}"
    "{% if enable_thinking is defined and enable_thinking is false %}"
    "{{ '\n</think>\n\n' }}"
    "{% endif %}{%",
)
# How Qwen's tokenizer splits text into words, before the words are split into tokens.
WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def make_tokenizer(folder: Path, vocabulary_size: int, template: str = TEMPLATE) -> dict[str, int]:
    """A byte-level BPE with the real special tokens; returns their ids.

    They stand at the real ids where the vocabulary is as large as the real one, else near its end.
    """
    from tokenizers import decoders, models

    raw = trained_tokenizer()
    # Behind the special ones some ids are no token, as in the hub.
    first = FIRST_SPECIAL.get(vocabulary_size, vocabulary_size - 56)
    model = json.loads(raw.to_str())["model"]
    vocabulary = dict(model["vocab"])
    for i in range(len(vocabulary), first):
        vocabulary[f"unused{i}"] = i
    raw.model = models.BPE(vocabulary, [tuple(pair) for pair in model["merges"]])
    raw.decoder = decoders.ByteLevel()
    raw.add_special_tokens(SPECIAL)
    raw.add_tokens(PLAIN)
    raw.save(str(folder / "tokenizer.json"))
    ids = {token: raw.token_to_id(token) for token in SPECIAL + PLAIN}
    config = {
        "tokenizer_class": "Qwen2Tokenizer",
        "eos_token": "<|im_end|>",
        "pad_token": "<|endoftext|>",
        "added_tokens_decoder": {str(i): added_token(token) for token, i in ids.items()},
        "additional_special_tokens": SPECIAL[1:],
        "clean_up_tokenization_spaces": False,
        "chat_template": template,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return ids


def trained_tokenizer():
    """700 tokens that the system prompt and the toy GUI's words are made of."""
    from tokenizers import Regex, Tokenizer, models, pre_tokenizers, trainers

    raw = Tokenizer(models.BPE())
    words = pre_tokenizers.Split(Regex(WORDS), "isolated")
    letters = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    raw.pre_tokenizer = pre_tokenizers.Sequence([words, letters])
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=700, initial_alphabet=alphabet)
    raw.train_from_iterator([SYSTEM, " ".join(ToyGUI.words)] * 3, trainer)
    return raw


def added_token(token: str) -> dict:
    return {
        "content": token,
        "special": token in SPECIAL,
        "lstrip": False,
        "rstrip": False,
        "normalized": False,
        "single_word": False,
    }
