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


def screenshot(tokens: int) -> Observation:
    """A square screenshot of so many tokens (32 px a side each)."""
    from PIL import Image

    side = 32 * round(tokens ** 0.5)
    return Observation("Save the form", lambda: Image.effect_noise((side, side), 60).convert("RGB"))


def measure(args: argparse.Namespace) -> dict:
    """Seconds of sampling, stage 1's update and stage 2's tool agent, and peak memory, of one shape: one warm-up round, then the median of three."""
    cuda = args.device == "cuda"
    config = train.Config(load_in_4bit=args.bits == 4, gradient_checkpointing=True, prompts_per_update=args.prompts)
    with tempfile.TemporaryDirectory(dir=args.scratch) as folder:
        make_hub(Path(folder), shape=args.shape, dtype=torch.bfloat16 if cuda else torch.float32, device=args.device)
        policy = agent.load_policy(folder, device=args.device, load_in_4bit=args.bits == 4)
    weights = torch.cuda.memory_allocated() / 2**30 if cuda else None
    agent.add_lora(policy, config.lora_rank, config.lora_alpha, 0)
    optimizer = torch.optim.AdamW(agent.trainable(policy), lr=1e-5)
    how = agent.Sampling(config.horizon, config.group_size, 1.0, policy.max_new_tokens(config.horizon))
    tool, rounds = agent.vlm_tool_agent(policy), []
    for number in range(4 if cuda else 2):
        times = {}

        def lap(name: str, start: float, times=times) -> None:
            if cuda:
                torch.cuda.synchronize()
            times[name] = time.perf_counter() - start

        begin = time.perf_counter()
        examples = [Example(screenshot(args.tokens), (Action("click", "Save"),)) for _ in range(args.prompts)]
        prompts = agent.encode(policy, [e.observation for e in examples], config.horizon)
        rollouts = train.draw_samples(policy, prompts, how, config, f"check {number}")
        lap("sampling", begin)
        groups = [agent.Group(*parts) for parts in zip(examples, prompts, rollouts, strict=True)]
        for group in groups:
            for i, r in enumerate(group.rollouts):  # random weights write nothing readable: rewards are made up so that every group has a gradient
                r.advantages = [(-1.0) ** i] * (config.horizon + 1)
        begin = time.perf_counter()
        train.update_policy(policy, groups, config, optimizer)
        lap("update", begin)
        begin = time.perf_counter()
        tool([(Action("click", f"Save {i}"), e) for e in examples for i in range(config.group_size)])
        lap("tool_agent", begin)
        rounds.append(times)
    middle = {name: round(sorted(r[name] for r in rounds[1:])[len(rounds[1:]) // 2], 3) for name in rounds[0]}
    memory = {"weights_gib": round(weights, 2), "peak_gib": round(torch.cuda.max_memory_allocated() / 2**30, 2)} if cuda else {}
    return {"prompt_tokens": len(prompts[0].ids), "completion_tokens": how.max_new_tokens, "seconds": middle, **memory}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--shape", choices=SHAPES, help="only this one; by default 2b, 4b and 8b")
    parser.add_argument("--bits", type=int, choices=(4, 16), help="only this one; by default both")
    parser.add_argument("--device", default="cuda", choices=("cuda", "cpu"), help="cpu: to try the script itself")
    parser.add_argument("--tokens", type=int, default=1024, help="image tokens of a prompt")
    parser.add_argument("--prompts", type=int, default=2, help="prompts of an update; G is 8 and T 5")
    parser.add_argument("--scratch", help="folder for the random checkpoints (up to 17 GB)")
    parser.add_argument("--json", default="docs/gpu.json", help="where the numbers go")
    parser.add_argument("--case", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.device == "cuda" and not torch.cuda.is_available():
        raise SystemExit("error: no CUDA device here; --shape tiny --device cpu tries the script")
    if args.case:
        print(json.dumps(measure(args)))
        return
    rows = []
    for shape in [args.shape] if args.shape else ["2b", "4b", "8b"]:
        for bits in [args.bits] if args.bits else [16, 4]:
            flags = ["--shape", shape, "--bits", str(bits), "--device", args.device, "--tokens", str(args.tokens), "--prompts", str(args.prompts)]
            command = [sys.executable, __file__, "--case", *flags, *(["--scratch", args.scratch] if args.scratch else [])]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            row = {"shape": shape, "bits": bits}
            with contextlib.suppress(ValueError, IndexError):
                row |= json.loads(done.stdout.splitlines()[-1])
            if done.returncode:
                row["failed"] = "out of memory" if "OutOfMemoryError" in done.stderr else (done.stderr.strip().splitlines() or ["?"])[-1][:300]
            print(json.dumps(row), flush=True)
            rows.append(row)
    device = torch.cuda.get_device_name() if args.device == "cuda" else "cpu"
    found = {"device": device, "torch": torch.__version__, "group_size": 8, "horizon": 5, "prompts": args.prompts,
             "image_tokens": args.tokens, "rows": rows}
    Path(args.json + ".tmp").write_text(json.dumps(found, indent=1))
    os.replace(args.json + ".tmp", args.json)


if __name__ == "__main__":
    main()
