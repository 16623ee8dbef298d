"""The project's own model: a Qwen3-VL of about a million parameters with random weights, on disk.

Called by extras/warm_start.py, which then teaches it to read and to act, by train.py (how many
steps can be asked for), extras/speed.py and the tests. It does not train anything: it writes a
checkpoint that loading.load_policy reads like a hub model's.
"""

from collections.abc import Sequence
from pathlib import Path

import torch

from envs import DIRECTIONS, ICONS, KINDS

SPECIAL_TOKENS = (
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|image_pad|>",
    "<|video_pad|>",
    "<unk>",
)
MOST_STEPS = 12  # that a forecast can be asked for: the numbers are words
PROMPT_WORDS = (
    *("\n", ":", ";", "(", ")", "-"),
    *("task", "past", "plan", "next", "far", "to", "near", "none", "failed", "unreadable"),
    *(str(number) for number in range(1, MOST_STEPS + 1)),
)
# One message after the other, without the system prompt: the warm start teaches the grammar.
CHAT_TEMPLATE = (
    "{% for m in messages %}{% if m.role != 'system' %}{% for c in m.content %}"
    "{% if c.type == 'image' %}<|vision_start|><|image_pad|><|vision_end|>"
    "{% else %}{{ c.text }}{% endif %}{% endfor %}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>{% endif %}"
)
HIDDEN = 128
PATCH = 16  # px, the side of a cell of the toy worlds' screens


def make_tiny(folder: str | Path, words: Sequence[str], seed: int) -> None:
    """Write model, tokenizer and image processor to `folder`; `words`: what the world speaks of.

    It has the architecture of the hub models. Whole words are tokens; patches of 16 px are not
    merged, so that one vision token looks at one cell of the toy's screen."""
    vocabulary = make_vocabulary(words)
    make_model(vocabulary, seed).save_pretrained(folder)
    make_tokenizer(vocabulary).save_pretrained(folder)
    make_image_processor().save_pretrained(folder)


def make_vocabulary(words: Sequence[str]) -> dict[str, int]:
    every = [*SPECIAL_TOKENS, *PROMPT_WORDS, *KINDS, *sorted(DIRECTIONS), *ICONS, *words]
    once = dict.fromkeys(every)  # a world's word may be a prompt's word too; the first place stays
    return {word: number for number, word in enumerate(once)}


def make_tokenizer(vocabulary: dict[str, int]):
    """A token for each whole word, sign and line break; spaces only separate."""
    from tokenizers import Regex, Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    backend = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    word_or_sign = Regex(r"<[^<>\s]+>|=>|\w+|[^\w\s]|\n")
    # Inverted: what stands between the words and signs is removed.
    backend.pre_tokenizer = pre_tokenizers.Split(word_or_sign, "removed", invert=True)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        unk_token="<unk>",
        additional_special_tokens=list(SPECIAL_TOKENS[:-1]),
        clean_up_tokenization_spaces=False,
    )
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer


def make_model(vocabulary: dict[str, int], seed: int) -> torch.nn.Module:
    from transformers import Qwen3VLConfig, Qwen3VLForConditionalGeneration

    text = {
        "vocab_size": len(vocabulary),
        "hidden_size": HIDDEN,
        "intermediate_size": 3 * HIDDEN,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 32,
        # With the library's 0.02 so small a model learns several times more slowly.
        "initializer_range": 0.08,
        "pad_token_id": 0,  # <|endoftext|>
        "max_position_embeddings": 4096,
        "rope_parameters": {
            "rope_type": "default",
            "rope_theta": 10000.0,
            "mrope_section": [8, 4, 4],  # time, height, width: half of head_dim together
            "mrope_interleaved": True,
        },
    }
    vision = {
        "depth": 2,
        "hidden_size": 96,
        "intermediate_size": 192,
        "num_heads": 4,
        "patch_size": PATCH,
        "spatial_merge_size": 1,
        "out_hidden_size": HIDDEN,
        "num_position_embeddings": 64,
        "deepstack_visual_indexes": [0],
        "initializer_range": 0.08,
    }
    config = Qwen3VLConfig(
        text_config=text,
        vision_config=vision,
        image_token_id=vocabulary["<|image_pad|>"],
        video_token_id=vocabulary["<|video_pad|>"],
        vision_start_token_id=vocabulary["<|vision_start|>"],
        vision_end_token_id=vocabulary["<|vision_end|>"],
        tie_word_embeddings=True,
    )
    torch.manual_seed(seed)
    model = Qwen3VLForConditionalGeneration(config)
    for merger in model.model.visual.deepstack_merger_list:
        # Deepstack (features of the tower that are added after the first layers) starts at 0: the
        # reading lesson does not train it.
        torch.nn.init.zeros_(merger.linear_fc2.weight)
    return model


def make_image_processor():
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

    # The library calls them edges; they are the least and the largest number of pixels.
    pixels = {"shortest_edge": 1024, "longest_edge": 2**20}
    return Qwen2VLImageProcessorPil(
        patch_size=PATCH, merge_size=1, temporal_patch_size=2, size=pixels
    )
