"""Memory and speed of real Qwen3-VL shapes on this machine's GPU, run by hand; writes docs/gpu.json.

    python tests/gpu_check.py                               # 2B, 4B and 8B, 16 and 4 bits: sampling, update, tool agent
    python tests/gpu_check.py --trl                         # the same, each beside TRL's GRPOTrainer (pip install 'trl==1.16.*')
    python tests/gpu_check.py --shape tiny --device cpu     # tries the script on a model and numbers that a CPU does in seconds

The weights are random: nothing is downloaded, and memory and time do not depend on what a model knows. Nobody may write the end token,
so that all completions have the full length. After one iteration to warm up come three that are measured (on a CPU one). Seconds are
medians: sampling (screenshots to completions), update (loss to optimiser step, with gradient checkpointing) and tool_agent (stage 2: the
model without adapters finds a point for the first step of each completion). weights_gib is what is allocated before them, adapters
included; peak_gib is the most in sampling and update, tool_agent_peak_gib in the third (on a CPU they are of the whole process so far).
Each side of a case runs in a process of its own, so that its peak is its own, and one that does not fit is a row that says so.

TRL has the same checkpoint, LoRA, prompts, screenshots, G and length, beta 0, and else its defaults: gradient checkpointing, fused head,
adapters of a 4-bit model in bf16. An update has all rows (completions) in one micro-batch; where memory does not hold them, half of them, a
quarter ... (here at least one prompt's): `rows_at_once`.
"""

import argparse
import contextlib
import gc
import json
import os
import subprocess
import sys
import tempfile
from importlib.util import find_spec
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import bench
import numpy as np
import torch
from PIL import Image

import agent
from envs import Action, Example, Observation, die
from eval import write

# text: hidden, intermediate, layers, heads, kv heads, head_dim, vocabulary; vision: hidden, intermediate, depth, heads, deepstack layers.
# From the config.json of Qwen/Qwen3-VL-{2B,4B,8B}-Instruct; `tiny` has their architecture at a size for tests.
SHAPES = {"2b": ((2048, 6144, 28, 16, 8, 128, 151936), (1024, 4096, 24, 16, [5, 11, 17])),
          "4b": ((2560, 9728, 36, 32, 8, 128, 151936), (1024, 4096, 24, 16, [5, 11, 17])),
          "8b": ((4096, 12288, 36, 32, 8, 128, 151936), (1152, 4304, 27, 16, [8, 16, 24])),
          "tiny": ((64, 128, 2, 4, 2, 16, 1056), (32, 64, 2, 2, [0]))}
GIB = 2**30 / 1e9  # in GB
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
    try:
        with torch.device(device):
            model = AutoModelForImageTextToText.from_config(config)
    finally:
        torch.set_default_dtype(before)
    model.save_pretrained(folder)
    old = {"min_pixels": 3136, "max_pixels": 12845056, "patch_size": 14, "image_processor_type": "Qwen2VLImageProcessor"}
    new = {"size": {"shortest_edge": 65536, "longest_edge": 16777216}, "patch_size": 16, "image_processor_type": "Qwen2VLImageProcessorFast"}
    (folder / "preprocessor_config.json").write_text(json.dumps({"merge_size": 2, "temporal_patch_size": 2, "image_mean": [0.5] * 3,
                                                                 "image_std": [0.5] * 3} | (new if family == "qwen3_vl" else old)))
    return folder


def screens(tokens: int, prompts: int) -> list[Observation]:
    """Square screenshots of so many tokens (32 px a side each): noise, the same in each process."""
    rng, side = np.random.default_rng(0), 32 * round(tokens ** 0.5)
    images = [Image.fromarray(rng.integers(0, 256, (side, side, 3), np.uint8)) for _ in range(prompts)]
    return [Observation("Save the form", lambda image=image: image) for image in images]


def checkpoint(args: argparse.Namespace) -> None:
    """Make it where an earlier process has not; on the card, which is much faster, if the card can hold it in 16 bits."""
    folder, cuda = Path(args.folder), args.device == "cuda"
    how = {"shape": args.shape, "dtype": torch.bfloat16 if cuda else torch.float32}
    if (folder / "preprocessor_config.json").exists():  # the last file that make_hub writes
        return
    try:
        make_hub(folder, device=args.device, **how)
    except torch.OutOfMemoryError:
        make_hub(folder, device="cpu", **how)
    gc.collect()
    if cuda:
        torch.cuda.empty_cache()


def tool_agent(policy: agent.Policy, seen: list[Observation], iterations: int) -> tuple[float, float]:
    """Seconds of finding a point for the first steps of all completions (G different ones a screenshot), and the peak in GB."""
    tool, times = agent.vlm_tool_agent(policy), []
    pairs = [(Action("click", f"Save {i}"), Example(o, (Action("click", "Save"),))) for o in seen for i in range(bench.G)]
    bench.memory(policy)
    for _ in range(iterations + 1):
        begin = bench.clock()
        tool(pairs)
        times.append((bench.clock() - begin)[0])
    return float(np.median(times[1:])), bench.memory(policy)[1]


def measure(args: argparse.Namespace) -> dict:
    """One side of one case."""
    cuda = args.device == "cuda"
    if not cuda:
        torch.set_num_threads(1)  # two threads on two busy cores are many times slower
    checkpoint(args)
    device = "cuda:0" if cuda else "cpu"  # a 4-bit model on "cuda", without a number, is to accelerate on another card than its own
    policy = bench.loaded(args.folder, device=device, load_in_4bit=args.bits == 4)
    how = [policy, seen := screens(args.tokens, args.prompts), args.completion, 3 if cuda else 1]
    found = bench.ours(*how, args.rows, checkpointing=True) if args.side == "ours" else bench.theirs(*how, args.folder + "/trl", args.rows)
    sampling, update = np.median(np.array(found["seconds"])[:, :, 0], 0).tolist()
    weights, peak = found["memory"]
    row = {"prompt_tokens": len(found["prompt_ids"][0]), "completion_tokens": found["completion_tokens"] // len(seen) // bench.G,
           "seconds": {"sampling": sampling, "update": update}, "weights_gib": weights / GIB, "peak_gib": peak / GIB}
    if args.side == "ours":
        row["seconds"]["tool_agent"], peak = tool_agent(policy, seen, how[-1])
        row["tool_agent_peak_gib"] = peak / GIB
    done = {name: found[name] for name in ("prompt_ids", "completion_tokens")}
    return {"done": done, "row": {"device": torch.cuda.get_device_name() if cuda else "cpu"} | rounded(row)}


def rounded(found):
    """Three digits behind the point are enough."""
    return {name: rounded(x) for name, x in found.items()} if isinstance(found, dict) else round(found, 3)


def run_side(args: argparse.Namespace, **case) -> dict:
    """measure() in a process of its own; {"failed": why} where it did not end well."""
    case = {name: getattr(args, name) for name in ("device", "tokens", "prompts", "completion")} | case
    flags = [text for name, value in case.items() for text in (f"--{name}", str(value))]
    card = {"CUDA_VISIBLE_DEVICES": os.environ.get("CUDA_VISIBLE_DEVICES", "0").split(",")[0]}  # TRL would split its rows over all of them
    done = subprocess.run([sys.executable, __file__, *flags], capture_output=True, text=True, check=False, env=os.environ | card)
    with contextlib.suppress(ValueError, IndexError):
        if not done.returncode:
            return json.loads(done.stdout.splitlines()[-1])
    last = (done.stderr.strip().splitlines() or ["?"])[-1][:300]
    return {"failed": "out of memory" if "OutOfMemoryError" in done.stderr else last}


def fitted(args: argparse.Namespace, least: int, **case) -> dict:
    """run_side() with all rows in one micro-batch, or half of them, a quarter ... down to `least` where memory does not hold them."""
    rows = args.prompts * bench.G
    while "out of memory" in (found := run_side(args, rows=rows, **case)).get("failed", "") and rows % (2 * least) == 0:
        rows //= 2
    return {**found, "row": {"rows_at_once": rows, "failed": found.get("failed"), **found.get("row", {})}}


def compare(args: argparse.Namespace, **case) -> dict:
    """One row of the table."""
    mine = fitted(args, bench.G, side="ours", **case)
    row = {"shape": case["shape"], "bits": case["bits"], **mine["row"]}
    if args.trl:
        other = fitted(args, 1, side="trl", **case)
        row["trl"] = other["row"]
        if "done" in mine and "done" in other:
            (s, u), (s_trl, u_trl) = ((r["row"]["seconds"]["sampling"], r["row"]["seconds"]["update"]) for r in (mine, other))
            ratios = {"sampling": s_trl / s, "update": u_trl / u, "iteration": (s_trl + u_trl) / (s + u)}
            row["times_faster"] = {name: round(x, 2) for name, x in ratios.items()}
            row["share_of_memory"] = round(row["peak_gib"] / row["trl"]["peak_gib"], 3)
            row["failed"] = bench.difference(mine["done"], other["done"]) or None
    return row


def parse(argv: list[str] | None) -> argparse.Namespace:
    """Flags, with the defaults of the device; what cannot work ends here, in one line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.error = die
    parser.add_argument("--shape", choices=SHAPES, help="only this one (default: 2b, 4b and 8b; on a CPU tiny)")
    parser.add_argument("--bits", type=int, choices=(4, 16), help="only this one (default: both; on a CPU 16)")
    parser.add_argument("--trl", action="store_true", help="beside TRL's GRPOTrainer, which must be installed: pip install 'trl==1.16.*'")
    parser.add_argument("--device", default="cuda", choices=("cuda", "cpu"), help="cpu: to try the script itself (default: cuda)")
    parser.add_argument("--tokens", type=int, help="image tokens of a prompt, a square of at least 64 (default: 1024; on a CPU 64)")
    parser.add_argument("--prompts", type=int, help="prompts of an update; G is 8 (default: 2; on a CPU 1)")
    parser.add_argument("--completion", type=int, help="tokens of a completion (default: 120, the room for T = 5 lines; on a CPU 16)")
    parser.add_argument("--scratch", help="folder for the random checkpoints, up to 17 GB (default: the system's)")
    parser.add_argument("--json", help="where the numbers go (default: docs/gpu.json; on a CPU nowhere)")
    parser.add_argument("--side", choices=("ours", "trl"), help=argparse.SUPPRESS)
    parser.add_argument("--folder", help=argparse.SUPPRESS)
    parser.add_argument("--rows", type=int, default=0, help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    small = args.device == "cpu"
    for name, value in {"tokens": (1024, 64), "prompts": (2, 1), "completion": (120, 16)}.items():
        setattr(args, name, value[small] if getattr(args, name) is None else getattr(args, name))
    if args.json is None and not small:
        args.json = str(Path(__file__).resolve().parent.parent / "docs" / "gpu.json")
    if args.device == "cuda" and not torch.cuda.is_available():
        die("no CUDA device here; --shape tiny --device cpu tries the script")
    if args.trl and not find_spec("trl"):
        die("--trl needs it: pip install 'trl==1.16.*'")
    if args.tokens < 64 or round(args.tokens ** 0.5) ** 2 != args.tokens or min(args.prompts, args.completion) < 1:
        die("--tokens must be a square of at least 64 (64, 256, 1024 ...), --prompts and --completion at least 1")
    for name, folder in (("--scratch", args.scratch), ("--json", args.json and Path(args.json).parent)):
        if folder and not Path(folder).is_dir():
            die(f"{name}: no folder {folder}")
    return args


def main(argv: list[str] | None = None) -> None:
    args = parse(argv)
    if args.side:
        return print(json.dumps(measure(args)))
    cuda, rows = args.device == "cuda", []
    for shape in [args.shape] if args.shape else ["2b", "4b", "8b"] if cuda else ["tiny"]:
        with tempfile.TemporaryDirectory(dir=args.scratch) as folder:
            for bits in [args.bits] if args.bits else [16, 4] if cuda else [16]:
                rows.append(compare(args, shape=shape, bits=bits, folder=folder))
                print(json.dumps(rows[-1]), flush=True)
                if args.json:
                    found = {"torch": torch.__version__, "group_size": bench.G, "prompts": args.prompts, "image_tokens": args.tokens}
                    write(Path(args.json), json.dumps(found | {"rows": rows}, indent=1))


if __name__ == "__main__":
    main()
