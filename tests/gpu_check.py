"""Memory and speed of real Qwen3-VL shapes on this machine's GPU, run by hand; writes docs/gpu.json.

    python tests/gpu_check.py                               # 2B, 4B and 8B, 16 and 4 bits, both stages; TRL too where it is installed
    python tests/gpu_check.py --shape tiny --device cpu     # the same code on a model that a CPU runs in a minute

The weights are random: nothing is downloaded, and memory and time do not depend on what a model knows. Each case runs in a process of its own,
so that its peak is its own, and a case that does not fit is a row that says so.
"""

import argparse
import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch

import agent
import train
from envs import Action, Example, Observation

# text: hidden, intermediate, layers, heads, kv heads, head_dim, vocabulary; vision: hidden, intermediate, depth, heads, deepstack layers.
# From the config.json of Qwen/Qwen3-VL-{2B,4B,8B}-Instruct; `tiny` has their architecture at a size for tests.
SHAPES = {"2b": ((2048, 6144, 28, 16, 8, 128, 151936), (1024, 4096, 24, 16, [5, 11, 17])),
          "4b": ((2560, 9728, 36, 32, 8, 128, 151936), (1024, 4096, 24, 16, [5, 11, 17])),
          "8b": ((4096, 12288, 36, 32, 8, 128, 151936), (1152, 4304, 27, 16, [8, 16, 24])),
          "tiny": ((64, 128, 2, 4, 2, 16, 1056), (32, 64, 2, 2, [0]))}
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|object_ref_start|>", "<|object_ref_end|>", "<|box_start|>", "<|box_end|>",
           "<|quad_start|>", "<|quad_end|>", "<|vision_start|>", "<|vision_end|>", "<|vision_pad|>", "<|image_pad|>", "<|video_pad|>"]
PLAIN = ["<tool_call>", "</tool_call>", "<tool_response>", "</tool_response>", "<think>", "</think>"]   # added, but not special
TEMPLATE = (
    "{% if messages[0].role != 'system' %}<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n{% endif %}{% for m in messages %}"
    "<|im_start|>{{ m.role }}\n{% if m.content is string %}{{ m.content }}{% else %}{% for c in m.content %}{% if c.type == 'image' %}"
    "<|vision_start|><|image_pad|><|vision_end|>{% else %}{{ c.text }}{% endif %}{% endfor %}{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}")


def make_tokenizer(folder: Path, size: int, template: str = TEMPLATE) -> dict[str, int]:
    """A byte-level BPE with the real special tokens, at the real ids where the vocabulary is the real one; returns their ids."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

    first = 151643 if size > 151643 else size - 56
    split = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
    raw = Tokenizer(models.BPE())
    raw.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(split), "isolated"), pre_tokenizers.ByteLevel(False, use_regex=False)])
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    raw.train_from_iterator([agent.SYSTEM, " ".join(agent.TOY_WORDS)] * 3, trainers.BpeTrainer(vocab_size=700, initial_alphabet=alphabet))
    model = json.loads(raw.to_str())["model"]
    vocabulary = model["vocab"] | {f"unused{i}": i for i in range(len(model["vocab"]), first)}
    raw.model = models.BPE(vocabulary, [tuple(pair) for pair in model["merges"]])
    raw.decoder = decoders.ByteLevel()
    raw.add_special_tokens(SPECIAL)
    raw.add_tokens(PLAIN)
    raw.save(str(folder / "tokenizer.json"))
    ids = {token: raw.token_to_id(token) for token in SPECIAL + PLAIN}
    added = {str(i): {"content": t, "special": t in SPECIAL, "lstrip": False, "rstrip": False, "normalized": False, "single_word": False}
             for t, i in ids.items()}
    (folder / "tokenizer_config.json").write_text(json.dumps(
        {"tokenizer_class": "Qwen2Tokenizer", "eos_token": "<|im_end|>", "pad_token": "<|endoftext|>", "added_tokens_decoder": added,
         "additional_special_tokens": SPECIAL[1:], "clean_up_tokenization_spaces": False, "chat_template": template}))
    return ids


def make_hub(folder: Path, family: str = "qwen3_vl", shape: str = "tiny", template: str = TEMPLATE, dtype=torch.float32, device: str = "cpu") -> Path:
    """A Qwen-VL of one of SHAPES with random weights, in the layout of the hub."""
    from transformers import AutoConfig, AutoModelForImageTextToText

    folder.mkdir(parents=True, exist_ok=True)
    (hidden, inner, layers, heads, kv, head, words), (wide, wide_inner, depth, wide_heads, deepstack) = SHAPES[shape]
    ids = make_tokenizer(folder, words, template)
    section = {128: [24, 20, 20], 16: [4, 2, 2]}[head]
    text = {"hidden_size": hidden, "intermediate_size": inner, "num_hidden_layers": layers, "num_attention_heads": heads, "vocab_size": words,
            "num_key_value_heads": kv, "pad_token_id": ids["<|endoftext|>"], "tie_word_embeddings": shape != "8b"}
    rope = {"rope_type": "default", "rope_theta": 5e6 if family == "qwen3_vl" else 1e6, "mrope_section": section}
    vision = {"depth": depth, "num_heads": wide_heads, "spatial_merge_size": 2, "temporal_patch_size": 2}
    if family == "qwen3_vl":
        text |= {"head_dim": head, "rope_parameters": rope | {"mrope_interleaved": True}}
        vision |= {"hidden_size": wide, "intermediate_size": wide_inner, "patch_size": 16, "out_hidden_size": hidden,
                   "deepstack_visual_indexes": deepstack, "num_position_embeddings": 2304}
    elif family == "qwen2_5_vl":
        text |= {"rope_parameters": rope}
        vision |= {"hidden_size": wide, "intermediate_size": wide_inner, "patch_size": 14, "out_hidden_size": hidden, "window_size": 112,
                   "fullatt_block_indexes": [depth - 1]}
    else:
        text |= {"rope_parameters": rope}
        vision |= {"embed_dim": wide, "hidden_size": hidden, "mlp_ratio": 2, "patch_size": 14}
    config = AutoConfig.for_model(family, text_config=text, vision_config=vision, image_token_id=ids["<|image_pad|>"],
                                  video_token_id=ids["<|video_pad|>"], vision_start_token_id=ids["<|vision_start|>"],
                                  vision_end_token_id=ids["<|vision_end|>"], tie_word_embeddings=shape != "8b")
    torch.manual_seed(0)
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    with torch.device(device):
        model = AutoModelForImageTextToText.from_config(config)
    torch.set_default_dtype(before)
    model.save_pretrained(folder)
    old = {"min_pixels": 3136, "max_pixels": 12845056, "patch_size": 14, "image_processor_type": "Qwen2VLImageProcessor"}
    new = {"size": {"shortest_edge": 65536, "longest_edge": 16777216}, "patch_size": 16, "image_processor_type": "Qwen2VLImageProcessorFast"}
    (folder / "preprocessor_config.json").write_text(json.dumps({"merge_size": 2, "temporal_patch_size": 2, "image_mean": [0.5] * 3,
                                                                 "image_std": [0.5] * 3} | (new if family == "qwen3_vl" else old)))
    return folder
