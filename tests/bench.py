"""Speed, measured and never asserted: python tests/bench.py [reading | trl] [--json FILE]

reading: AndroidControl shards written here with screens of 1080 x 2400 px (PNG, 0.46 MB: the real set's 47 GB are 0.47 MB a step) and
    accessibility forests of 300 nodes; steps per second on one thread, without and with decoding the screenshots.
trl: an iteration of this project beside one of TRL's GRPOTrainer (pip install 'trl==1.16.*'): same tiny checkpoint with LoRA, same
    screenshots, prompts, G, no end token (so that all completions have the full length), no KL (beta 0), the same micro-batches;
    TRL with its memory options (gradient checkpointing, fused head: its defaults). Each side runs in a process of its own, the two in
    turns. An iteration is images to optimiser step; sampling is everything before the loss. Peak memory is ru_maxrss less what was
    resident after imports, loading and building the trainer.
"""

import argparse
import io
import json
import os
import random
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from importlib.util import find_spec
from pathlib import Path

os.environ.update(HF_HUB_OFFLINE="1", TRANSFORMERS_OFFLINE="1", TOKENIZERS_PARALLELISM="false")
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np  # noqa: E402
from PIL import Image  # noqa: E402

import agent  # noqa: E402
import train  # noqa: E402
from envs import Example, Observation, Report, ToyGUI, die, load_recorded  # noqa: E402

# ---- reading recorded data --------------------------------------------------------------------------------------------------------


def screen(rng: np.random.Generator) -> bytes:
    """A PNG as large as a phone's screenshot: flat areas, and photographs that do not compress."""
    pixels = np.full((2400, 1080, 3), 240, dtype=np.uint8)
    pixels[300:440] = rng.integers(0, 255, (140, 1080, 3))
    for y in range(600, 2400, 60):
        pixels[y:y + 4] = 30
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG", compress_level=6)
    return file.getvalue()


def rate(steps: int, decode: bool, root: Path) -> float:
    """Steps per second over the whole folder."""
    start, seen = time.perf_counter(), 0
    for episode in load_recorded("androidcontrol", root, "train", Report()):
        for step in episode.steps:
            if decode:
                step.screenshot()
            seen += 1
        if seen >= steps:
            break
    return seen / (time.perf_counter() - start)


def reading(steps: int) -> dict:
    from test_recorded import android, android_root, forest, node

    rng, clicks = random.Random(0), [{"action_type": "click", "x": 540, "y": 1200}] * 5
    acts = [*clicks, {"action_type": "scroll", "direction": "down"}, {"action_type": "input_text", "text": "hello"}, {"action_type": "wait"}]
    shot = screen(np.random.default_rng(0))
    nodes = [node(x := rng.randrange(900), y := rng.randrange(2200), x + 100, y + 80) for _ in range(300)]
    records = [android(i, acts, [shot] * 9, [forest(*nodes)] * 9) for i in range(steps // 8)]
    with tempfile.TemporaryDirectory() as folder:
        root = android_root(Path(folder), records)
        (root / "splits.json").write_text(json.dumps({"train": list(range(steps // 8)), "validation": [], "test": []}))
        found = {"screenshot_bytes": len(shot), "load": os.getloadavg()[0]}
        for name, decode in (("steps_per_second", False), ("steps_per_second_decoded", True)):
            rates = [rate(steps if not decode else min(steps, 80), decode, root) for _ in range(5)]
            found[name] = {"median": round(statistics.median(rates), 1), "runs": [round(r, 1) for r in rates]}
    return found


# ---- beside TRL -------------------------------------------------------------------------------------------------------------------

G = 8
SHAPES = {  # prompts, side of the square screenshot in px (0: the toy's own 128 x 96), completion tokens, prompts in a micro-batch
    "toy": (4, 0, 64, 4),
    "1024": (2, 512, 128, 2),
    "4x1024": (4, 512, 128, 4),
    "4x1024-halves": (4, 512, 128, 2),
}


def observations(shape: str) -> list[Observation]:
    prompts, side, *_ = SHAPES[shape]
    seen = []
    for i in range(prompts):
        o = ToyGUI("train").reset(i)[0]
        image = o.screenshot().resize((side, side)) if side else o.screenshot()
        seen.append(Observation(o.instruction, lambda image=image: image, ("click Account failed",) * 8))  # 110 tokens at the toy's shape
    return seen


def clock() -> np.ndarray:
    """Seconds of the wall and of the processor: on a busy machine only the second can be compared. A GPU is waited for."""
    import torch

    if torch.cuda.is_initialized():
        torch.cuda.synchronize()
    return np.array([time.perf_counter(), time.process_time()])


def memory(policy: agent.Policy) -> tuple[float, float]:
    """GB in use now, and the most: of the card since the last call, on the CPU of the whole process since its start."""
    import torch

    if policy.device.type == "cuda":
        peak = torch.cuda.max_memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        return torch.cuda.memory_allocated() / 1e9, peak / 1e9
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 1e9, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9


def signal(text: str) -> float:
    """A reward that differs inside every group."""
    return sum(map(ord, text)) % 97 / 97


def loaded(folder: str | Path, **how) -> agent.Policy:
    """The policy with fresh adapters; nobody may write the end token."""
    import torch

    policy = agent.load_policy(folder, **how)
    agent.add_lora(policy, 16, 32, 0)
    policy.suppressed = torch.cat([policy.suppressed, torch.tensor([policy.tokenizer.eos_token_id], device=policy.device)])
    return policy


def ours(policy: agent.Policy, seen: list[Observation], length: int, iterations: int, rows: int = 0, checkpointing: bool = False) -> dict:
    """Iterations of this project, after one to warm up: what was done, [iterations, sampling or update, wall or processor] seconds, and the
    memory in GB before the first and at most. `rows`: completions in one forward and backward of the update; 0: all."""
    import torch

    config = train.Config(group_size=G, micro_batch=rows // G or len(seen), gradient_checkpointing=checkpointing)
    optimizer = torch.optim.AdamW(agent.trainable(policy), lr=1e-6, weight_decay=0.0)
    how, found, base = agent.Sampling(5, G, 1.0, length), [], memory(policy)[0]
    for i in range(iterations + 1):
        start = clock()
        encoded = agent.encode(policy, seen, 5)
        sampled = train.draw_samples(policy, encoded, how, config, f"iteration {i}")
        groups = [agent.Group(Example(o, ()), p, rows) for o, p, rows in zip(seen, encoded, sampled, strict=True)]
        for group in groups:
            rewards = np.array([signal(r.text) for r in group.rollouts])
            for r, advantage in zip(group.rollouts, (rewards - rewards.mean()) / rewards.std(), strict=True):
                r.advantages = [float(advantage)] * 6
        middle = clock()
        train.update_policy(policy, groups, config, optimizer)
        found.append([(middle - start).tolist(), (clock() - middle).tolist()])
    return {"prompt_ids": [p.ids for p in encoded], "completion_tokens": sum(len(r.completion_ids) for row in sampled for r in row),
            "seconds": found[1:], "memory": [base, memory(policy)[1]]}


def processor(policy: agent.Policy):
    """What TRL asks for: tokenizer and image processor in one. Without torchvision there is no video processor, and none is needed."""
    from transformers.models.qwen3_vl.processing_qwen3_vl import ProcessorMixin, Qwen3VLProcessor

    class Processor(Qwen3VLProcessor):
        @classmethod
        def get_attributes(cls):
            return ["image_processor", "tokenizer"]

        def __init__(self, image_processor, tokenizer):
            self.image_token, self.video_token, self.video_processor = "<|image_pad|>", "<|video_pad|>", None
            self.image_token_id, self.video_token_id = map(tokenizer.convert_tokens_to_ids, (self.image_token, self.video_token))
            ProcessorMixin.__init__(self, image_processor, tokenizer, chat_template=tokenizer.chat_template)

    return Processor(policy.image_processor, policy.tokenizer)


def theirs(policy: agent.Policy, seen: list[Observation], length: int, iterations: int, folder: str, rows: int = 0) -> dict:
    """The same of TRL's GRPOTrainer."""
    import torch
    from datasets import Dataset
    from transformers import TrainerCallback
    from trl import GRPOConfig, GRPOTrainer

    times, tokens = [], {}

    class Timed(GRPOTrainer):
        def _generate_and_score_completions(self, inputs):
            times.append([clock()])
            output = super()._generate_and_score_completions(inputs)
            times[-1].append(clock())
            ids = [row[mask.bool()].tolist() for row, mask in zip(output["prompt_ids"], output["prompt_mask"], strict=True)]
            tokens.update(prompt_ids=ids[::G], completion_tokens=int(output["completion_mask"].sum()))
            return output

    class Clock(TrainerCallback):
        def on_step_end(self, *_, **__):
            times[-1].append(clock())

    every, dtype = len(seen) * G, policy.core.dtype
    data = Dataset.from_list([{"prompt": agent.build_prompt(o, 5), "images": [o.screenshot()]} for o in seen])
    settings = GRPOConfig(
        folder, use_cpu=policy.device.type == "cpu", bf16=dtype == torch.bfloat16, fp16=dtype == torch.float16, num_generations=G,
        per_device_train_batch_size=rows or every, gradient_accumulation_steps=every // (rows or every), max_completion_length=length,
        max_steps=iterations + 1, beta=0.0, temperature=1.0, top_p=1.0, top_k=0, generation_kwargs={"suppress_tokens": policy.suppressed.tolist()},
        learning_rate=1e-6, report_to="none", save_strategy="no", shuffle_dataset=False, dataloader_pin_memory=False, disable_tqdm=True)
    trainer = Timed(policy.peft, [lambda completions, **_: [signal(c[-1]["content"]) for c in completions]], settings, data,
                    processing_class=processor(policy), callbacks=[Clock()])
    base = memory(policy)[0]
    trainer.train()
    return {**tokens, "seconds": [[(b - a).tolist(), (c - b).tolist()] for a, b, c in times[1:]], "memory": [base, memory(policy)[1]]}


def difference(a: dict, b: dict) -> str:
    """What two sides did not do alike; empty if all."""
    if (a["prompt_ids"], a["completion_tokens"]) == (b["prompt_ids"], b["completion_tokens"]):
        return ""
    return (f"the sides did not do the same: {a['completion_tokens']} and {b['completion_tokens']} completion tokens, prompts "
            f"{'equal' if a['prompt_ids'] == b['prompt_ids'] else 'different'}")


def side(name: str, shape: str, iterations: int, threads: int, folder: str) -> None:
    """Runs in a process of its own and prints one line of numbers."""
    import torch

    torch.set_num_threads(threads)
    _, pixels, length, prompts = SHAPES[shape]
    how = loaded(folder, max_pixels=pixels**2), observations(shape), length, iterations
    print(json.dumps(ours(*how, prompts * G) if name == "ours" else theirs(*how, folder + "/trl", prompts * G)))


def beside_trl(shape: str, iterations: int, rounds: int, threads: int) -> dict:
    runs = {"ours": [], "trl": []}
    with tempfile.TemporaryDirectory() as folder:
        agent.make_tiny(folder, agent.TOY_WORDS, 0)
        for _ in range(rounds):
            for name in runs:
                command = [sys.executable, __file__, "trl", "--side", name, "--shape", shape, "--iterations", str(iterations),
                           "--threads", str(threads), "--folder", folder]
                done = subprocess.run(command, capture_output=True, text=True)
                if done.returncode:
                    die(f"the side {name} failed: {done.stderr.strip()[-2000:]}")
                runs[name].append(json.loads(done.stdout.splitlines()[-1]))
    a, b = runs["ours"][0], runs["trl"][0]
    if wrong := difference(a, b):
        die(wrong)
    found = {"prompt_tokens": [len(ids) for ids in a["prompt_ids"]], "completion_tokens": a["completion_tokens"], "iterations": rounds * iterations,
             "threads": threads, "load": [round(x, 2) for x in os.getloadavg()]}
    for name, parts in runs.items():
        spent = np.array([pair for part in parts for pair in part["seconds"]])                       # [iterations, sampling or update, wall or CPU]
        sampling, update = np.median(spent, 0).round(3).tolist()
        wall, cpu = np.median(spent.sum(1), 0).round(3).tolist()
        found[name] = {"seconds": wall, "sampling": sampling[0], "update": update[0], "tokens_per_second": round(a["completion_tokens"] / wall, 1),
                       "cpu_seconds": cpu, "cpu_sampling": sampling[1], "cpu_update": update[1],
                       "peak_gb": round(statistics.median(p["memory"][1] - p["memory"][0] for p in parts), 3)}
    ratio = {k: round(found["trl"][k] / found["ours"][k], 2) for k in found["ours"] if "token" not in k and "gb" not in k}
    return found | {"times_faster": ratio, "share_of_memory": round(found["ours"]["peak_gb"] / found["trl"]["peak_gb"], 3)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", nargs="?", choices=("reading", "trl"), help="one part only; without it both")
    parser.add_argument("--steps", type=int, default=400, help="reading: steps to read, a multiple of 8")
    parser.add_argument("--shape", choices=SHAPES, help="trl: one shape only")
    parser.add_argument("--iterations", type=int, default=3, help="trl: measured iterations of a process, after one to warm up")
    parser.add_argument("--rounds", type=int, default=2, help="trl: processes of each side, in turns")
    parser.add_argument("--threads", type=int, default=2, help="trl: torch threads")
    parser.add_argument("--json", help="write the numbers to this file")
    parser.add_argument("--side", choices=("ours", "trl"), help=argparse.SUPPRESS)
    parser.add_argument("--folder", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.side:
        return side(args.side, args.shape, args.iterations, args.threads, args.folder)
    if args.what != "reading" and not find_spec("trl"):
        die("the part beside TRL needs it: pip install 'trl==1.16.*' (or only the other part: python tests/bench.py reading)")
    found = {}
    if args.what != "trl":
        found["reading"] = reading(args.steps)
    if args.what != "reading":
        found["trl"] = {shape: beside_trl(shape, args.iterations, args.rounds, args.threads) for shape in ([args.shape] if args.shape else SHAPES)}
    print(json.dumps(found, indent=1))
    if args.json:
        Path(args.json).write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
