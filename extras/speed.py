"""Speed, measured and never asserted: reading recorded data, and an iteration beside TRL's.

Run by hand: python -m extras.speed [reading | trl] [--json FILE]; extras/gpu_check.py uses parts.
It trains nothing that is kept, and needs no data set and no download: all that it reads is made up.

reading: AndroidControl shards written here with screens of 1080 x 2400 px (PNG, 0.46 MB: the real
    set's 47 GB are 0.47 MB a step) and accessibility forests of 300 nodes; steps per second on one
    thread, without and with decoding the screenshots.
trl: an iteration (screenshots to optimiser step) of four sides on the same tiny checkpoint with
    LoRA, same screenshots, prompts, G, no end token (so that all completions have the full length),
    no KL (beta 0), the same micro-batches:

        shared                      this project as train.py runs it (extras/shared_prompt.py)
        reference                   the same with --forward reference (agent.py), at two shapes
        trl                         TRL's GRPOTrainer at its defaults, which save memory: gradient
                                    checkpointing, fused head
        trl_without_checkpointing   the same without gradient checkpointing, as this project runs

    Only the faster one of TRL's two is a fair rival for speed: `faster_trl` names it. Each side
    runs in a process of its own, the sides in turns. Sampling is everything before the loss.
    `times_faster` and `share_of_memory` say what shared needs less than each other side. Peak
    memory is ru_maxrss less what was resident after imports, loading and building the trainer.
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
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from agent import Group, Policy, Sampling, add_lora, build_prompt, encode, trainable
from benchmarks.catalog import load_recorded
from benchmarks.common import Report
from envs import Example, Observation, ToyGUI, die
from extras.loading import load_policy
from extras.made_up_android import android_record, forest, node, write_android_control
from extras.tiny_vlm import make_tiny
from train import Config, draw_samples, update_policy

ROOT = Path(__file__).resolve().parent.parent
QUIET = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}

# ---- reading recorded data ----------------------------------------------------------------------

EPISODE_STEPS = 8


def reading(steps: int) -> dict:
    """Steps per second of the AndroidControl reader over so many made-up steps."""
    rng = random.Random(0)
    click = {"action_type": "click", "x": 540, "y": 1200}
    scroll = {"action_type": "scroll", "direction": "down"}
    text = {"action_type": "input_text", "text": "hello"}
    actions = [click] * 5 + [scroll, text, {"action_type": "wait"}]
    screenshot = make_screenshot(np.random.default_rng(0))
    tree = forest(*[random_node(rng) for _ in range(300)])
    episodes = range(steps // EPISODE_STEPS)
    records = []
    for ident in episodes:
        screens = [screenshot] * (EPISODE_STEPS + 1)  # one more: what the last action led to
        trees = [tree] * (EPISODE_STEPS + 1)
        records.append(android_record(ident, actions, screens, trees))
    with tempfile.TemporaryDirectory() as folder:
        root = write_android_control(Path(folder), records, train=episodes)
        return {
            "screenshot_bytes": len(screenshot),
            "load": os.getloadavg()[0],
            "steps_per_second": five_rates(root, steps, decode=False),
            "steps_per_second_decoded": five_rates(root, min(steps, 80), decode=True),
        }


def make_screenshot(rng: np.random.Generator) -> bytes:
    """A PNG as large as a phone's screenshot: flat areas, and photographs that do not compress."""
    pixels = np.full((2400, 1080, 3), 240, dtype=np.uint8)
    pixels[300:440] = rng.integers(0, 255, (140, 1080, 3))
    for y in range(600, 2400, 60):
        pixels[y : y + 4] = 30
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG", compress_level=6)
    return file.getvalue()


def random_node(rng: random.Random) -> bytes:
    left = rng.randrange(900)
    top = rng.randrange(2200)
    return node(left, top, left + 100, top + 80)


def five_rates(root: Path, steps: int, decode: bool) -> dict:
    rates = [read_rate(root, steps, decode) for _ in range(5)]
    runs = [round(rate, 1) for rate in rates]
    return {"median": round(statistics.median(rates), 1), "runs": runs}


def read_rate(root: Path, steps: int, decode: bool) -> float:
    """Steps per second until so many are read; `decode`: their screenshots too."""
    start = time.perf_counter()
    done = 0
    for episode in load_recorded("androidcontrol", root, "train", Report()):
        for step in episode.steps:
            if decode:
                step.screenshot()
            done += 1
        if done >= steps:
            break
    return done / (time.perf_counter() - start)


# ---- what an iteration is measured on -----------------------------------------------------------

G = 8  # completions of a prompt


@dataclass(frozen=True)
class Shape:
    prompts: int
    # Side of the square screenshots, 16 px of it an image token; 0: the toy's own 128 x 96.
    picture_px: int
    completion: int  # tokens
    micro_batch: int  # prompts in one forward and backward of the update
    with_reference: bool = False  # it is slow: not at all shapes


SHAPES = {
    "toy": Shape(prompts=4, picture_px=0, completion=64, micro_batch=4, with_reference=True),
    "1024": Shape(prompts=2, picture_px=512, completion=128, micro_batch=2, with_reference=True),
    "4x1024": Shape(prompts=4, picture_px=512, completion=128, micro_batch=4),
    "4x1024-halves": Shape(prompts=4, picture_px=512, completion=128, micro_batch=2),
}
SIDES = ("shared", "reference", "trl", "trl_without_checkpointing")


@dataclass
class Measured:
    """What one side did in one process, after one iteration to warm up."""

    prompt_ids: list[list[int]]
    completion_tokens: int  # of one iteration
    seconds: list  # [iterations][sampling, update][wall, processor]
    memory_before: float  # GB in use before the first iteration
    memory_peak: float  # GB


def make_observations(shape: Shape) -> list[Observation]:
    """The toy's first screens; the history makes 105 tokens of a prompt at the toy's shape."""
    observations = []
    for i in range(shape.prompts):
        seen, _ = ToyGUI("train").reset(i)
        image = seen.screenshot()
        if shape.picture_px:
            image = image.resize((shape.picture_px, shape.picture_px))
        history = ("click Account failed",) * 8
        observations.append(observation_of(seen.instruction, image, history))
    return observations


def observation_of(
    instruction: str, image: Image.Image, history: tuple[str, ...] = ()
) -> Observation:
    """A function of its own, since lambdas made in a loop would all show its last image."""
    return Observation(instruction, lambda: image, history)


def load_with_adapters(folder: str | Path, forward: str = "shared", **options) -> Policy:
    """The policy with fresh adapters; nobody may write the end token. `options`: of load_policy."""
    policy = load_policy(folder, forward=forward, **options)
    add_lora(policy, rank=16, alpha=32, seed=0)
    end = torch.tensor([policy.tokenizer.eos_token_id], device=policy.device)
    policy.suppressed = torch.cat([policy.suppressed, end])
    return policy


def made_up_reward(text: str) -> float:
    """A number in 0..1 that differs inside every group, so that each has a gradient."""
    return sum(map(ord, text)) % 97 / 97


def clock() -> np.ndarray:
    """Seconds of the wall and of the processor: on a busy machine only the second can be compared.

    A GPU is waited for.
    """
    if torch.cuda.is_initialized():
        torch.cuda.synchronize()
    return np.array([time.perf_counter(), time.process_time()])


def memory_now(policy: Policy) -> float:
    """GB in use: of the card (whose peak is counted from now on), or of the process."""
    if policy.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
        return torch.cuda.memory_allocated() / 1e9
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 1e9


def memory_peak(policy: Policy) -> float:
    """The most GB: of the card since memory_now, on a CPU of the process since its start."""
    if policy.device.type == "cuda":
        return torch.cuda.max_memory_allocated() / 1e9
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9


# ---- this project's side ------------------------------------------------------------------------


def measure_ours(
    policy: Policy,
    observations: Sequence[Observation],
    length: int,
    iterations: int,
    rows: int = 0,
    checkpointing: bool = False,
) -> Measured:
    """Iterations of this project, with completions of `length` tokens.

    `rows`: completions in one forward and backward of the update; 0: all.
    """
    micro_batch = rows // G if rows else len(observations)
    config = Config(group_size=G, micro_batch=micro_batch, gradient_checkpointing=checkpointing)
    optimizer = torch.optim.AdamW(trainable(policy), lr=1e-6, weight_decay=0.0)
    how = Sampling(horizon=5, group_size=G, temperature=1.0, max_new_tokens=length)
    before = memory_now(policy)
    seconds = []
    for i in range(iterations + 1):
        start = clock()
        groups = sample_and_judge(policy, observations, how, config, f"iteration {i}")
        middle = clock()
        update_policy(policy, groups, config, optimizer)
        end = clock()
        seconds.append([(middle - start).tolist(), (end - middle).tolist()])
    return Measured(
        prompt_ids=[group.prompt.ids for group in groups],
        completion_tokens=sum(count_tokens(group) for group in groups),
        seconds=seconds[1:],
        memory_before=before,
        memory_peak=memory_peak(policy),
    )


def sample_and_judge(policy, observations, how: Sampling, config: Config, when: str) -> list[Group]:
    """All that stands before the loss: screenshots to advantages."""
    prompts = encode(policy, observations, how.horizon)
    samples = draw_samples(policy, prompts, how, config, when)
    groups = []
    for seen, prompt, rollouts in zip(observations, prompts, samples, strict=True):
        rewards = np.array([made_up_reward(rollout.text) for rollout in rollouts])
        advantages = (rewards - rewards.mean()) / rewards.std()
        for rollout, advantage in zip(rollouts, advantages, strict=True):
            rollout.advantages = [float(advantage)] * (how.horizon + 1)
        groups.append(Group(Example(seen, ()), prompt, rollouts))
    return groups


def count_tokens(group: Group) -> int:
    return sum(len(rollout.completion_ids) for rollout in group.rollouts)


# ---- TRL's side ---------------------------------------------------------------------------------


def measure_trl(
    policy: Policy,
    observations: Sequence[Observation],
    length: int,
    iterations: int,
    folder: str,
    rows: int = 0,
    checkpointing: bool = True,
) -> Measured:
    """The same of TRL's GRPOTrainer, which writes to `folder`; checkpointing is its default."""
    from datasets import Dataset

    all_rows = len(observations) * G
    settings = trl_settings(
        policy,
        folder,
        length=length,
        iterations=iterations,
        rows=rows if rows else all_rows,
        all_rows=all_rows,
        checkpointing=checkpointing,
    )
    data = []
    for seen in observations:
        data.append({"prompt": build_prompt(seen, 5), "images": [seen.screenshot()]})
    watch = Watch()
    trainer_class, clock_callback = watched_trainer(watch)
    trainer = trainer_class(
        policy.peft,
        [judge],
        settings,
        Dataset.from_list(data),
        processing_class=make_processor(policy),
        callbacks=[clock_callback],
    )
    before = memory_now(policy)
    trainer.train()
    seconds = []
    for start, middle, end in watch.times[1:]:
        seconds.append([(middle - start).tolist(), (end - middle).tolist()])
    return Measured(
        prompt_ids=watch.prompt_ids,
        completion_tokens=watch.completion_tokens,
        seconds=seconds,
        memory_before=before,
        memory_peak=memory_peak(policy),
    )


def trl_settings(
    policy: Policy,
    folder: str,
    *,
    length: int,
    iterations: int,
    rows: int,
    all_rows: int,
    checkpointing: bool,
):
    """A GRPOConfig that asks for what measure_ours does, with `rows` of `all_rows` at a time."""
    from trl import GRPOConfig

    return GRPOConfig(
        folder,
        use_cpu=policy.device.type == "cpu",
        bf16=policy.core.dtype == torch.bfloat16,
        fp16=policy.core.dtype == torch.float16,
        gradient_checkpointing=checkpointing,
        num_generations=G,
        per_device_train_batch_size=rows,
        gradient_accumulation_steps=all_rows // rows,
        max_completion_length=length,
        max_steps=iterations + 1,
        beta=0.0,
        temperature=1.0,
        top_p=1.0,
        top_k=0,
        generation_kwargs={"suppress_tokens": policy.suppressed.tolist()},
        learning_rate=1e-6,
        report_to="none",
        save_strategy="no",
        shuffle_dataset=False,
        dataloader_pin_memory=False,
        disable_tqdm=True,
    )


def judge(completions, **_) -> list[float]:
    """made_up_reward in the form that TRL calls."""
    return [made_up_reward(completion[-1]["content"]) for completion in completions]


@dataclass
class Watch:
    """What is seen of TRL's trainer from outside."""

    # [iterations][begin, sampled, updated], clock() each
    times: list[list[np.ndarray]] = field(default_factory=list)
    prompt_ids: list[list[int]] = field(default_factory=list)
    completion_tokens: int = 0

    def note(self, output: dict) -> None:
        """What an iteration worked on: all rows, G for a prompt."""
        rows = []
        for ids, mask in zip(output["prompt_ids"], output["prompt_mask"], strict=True):
            rows.append(ids[mask.bool()].tolist())
        self.prompt_ids = rows[::G]
        self.completion_tokens = int(output["completion_mask"].sum())


def watched_trainer(watch: Watch):
    """GRPOTrainer and a callback that together look at the clock around sampling and update."""
    from transformers import TrainerCallback
    from trl import GRPOTrainer

    class Timed(GRPOTrainer):
        def _generate_and_score_completions(self, inputs):
            watch.times.append([clock()])
            output = super()._generate_and_score_completions(inputs)
            watch.times[-1].append(clock())
            watch.note(output)
            return output

    class Clock(TrainerCallback):
        def on_step_end(self, *_, **__):
            watch.times[-1].append(clock())

    return Timed, Clock()


def make_processor(policy: Policy):
    """What TRL asks for: tokenizer and image processor in one.

    Without torchvision there is no video processor, and none is needed.
    """
    from transformers.models.qwen3_vl.processing_qwen3_vl import ProcessorMixin, Qwen3VLProcessor

    class Processor(Qwen3VLProcessor):
        @classmethod
        def get_attributes(cls):
            return ["image_processor", "tokenizer"]

        def __init__(self, image_processor, tokenizer):
            self.image_token = "<|image_pad|>"
            self.image_token_id = tokenizer.convert_tokens_to_ids(self.image_token)
            self.video_token = "<|video_pad|>"
            self.video_token_id = tokenizer.convert_tokens_to_ids(self.video_token)
            self.video_processor = None
            template = tokenizer.chat_template
            ProcessorMixin.__init__(self, image_processor, tokenizer, chat_template=template)

    return Processor(policy.image_processor, policy.tokenizer)


# ---- beside each other --------------------------------------------------------------------------


def measure_side(side: str, shape: Shape, iterations: int, folder: str) -> Measured:
    """One side in this process."""
    forward = "reference" if side == "reference" else "shared"
    policy = load_with_adapters(folder, forward, max_pixels=shape.picture_px**2)
    observations = make_observations(shape)
    rows = shape.micro_batch * G
    if side in ("shared", "reference"):
        return measure_ours(policy, observations, shape.completion, iterations, rows)
    return measure_trl(
        policy,
        observations,
        shape.completion,
        iterations,
        folder=f"{folder}/trl",
        rows=rows,
        checkpointing=side == "trl",
    )


def run_side(side: str, name: str, iterations: int, threads: int, folder: str) -> Measured:
    """measure_side in a process of its own, so that its peak of memory is its own."""
    command = [sys.executable, "-m", "extras.speed", "trl", "--side", side, "--shape", name]
    command += ["--iterations", str(iterations), "--threads", str(threads), "--folder", folder]
    environment = os.environ | QUIET
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    if done.returncode != 0:
        die(f"the side {side} failed: {done.stderr.strip()[-2000:]}")
    return Measured(**json.loads(done.stdout.splitlines()[-1]))


def beside_trl(name: str, iterations: int, rounds: int, threads: int) -> dict:
    """All sides at one shape, in turns."""
    sides = [side for side in SIDES if side != "reference" or SHAPES[name].with_reference]
    runs = {side: [] for side in sides}
    with tempfile.TemporaryDirectory() as folder:
        make_tiny(folder, ToyGUI.words, 0)
        for _ in range(rounds):
            for side in sides:
                runs[side].append(run_side(side, name, iterations, threads, folder))
    first = runs["shared"][0]
    for side in sides:
        wrong = difference(first, runs[side][0])
        if wrong:
            die(f"{side}: {wrong}")
    result = {
        "prompt_tokens": [len(ids) for ids in first.prompt_ids],
        "completion_tokens": first.completion_tokens,
        "iterations": rounds * iterations,
        "threads": threads,
        "load": [round(load, 2) for load in os.getloadavg()],
    }
    numbers = {side: summarise(runs[side]) for side in sides}
    return result | numbers | compare(numbers)


def difference(a: Measured, b: Measured) -> str:
    """What two sides did not do alike; empty if all."""
    same_prompts = a.prompt_ids == b.prompt_ids
    if same_prompts and a.completion_tokens == b.completion_tokens:
        return ""
    prompts = "equal" if same_prompts else "different"
    return (
        f"the sides did not do the same: {a.completion_tokens} and {b.completion_tokens} "
        f"completion tokens, prompts {prompts}"
    )


def summarise(runs: Sequence[Measured]) -> dict[str, float]:
    """Medians over all iterations of all processes of one side."""
    seconds = np.concatenate([run.seconds for run in runs])  # [iterations, 2 parts, 2 clocks]
    sampling, update = np.median(seconds, 0).round(3).tolist()
    wall, processor = np.median(seconds.sum(1), 0).round(3).tolist()
    peaks = [run.memory_peak - run.memory_before for run in runs]
    return {
        "seconds": wall,
        "sampling": sampling[0],
        "update": update[0],
        "tokens_per_second": round(runs[0].completion_tokens / wall, 1),
        "cpu_seconds": processor,
        "cpu_sampling": sampling[1],
        "cpu_update": update[1],
        "peak_gb": round(statistics.median(peaks), 3),
    }


def compare(numbers: dict[str, dict[str, float]]) -> dict:
    """How much less shared needs than each other side."""
    shared = numbers["shared"]
    times_faster = {}
    share_of_memory = {}
    for side, other in numbers.items():
        if side == "shared":
            continue
        times_faster[side] = {}
        for name in shared:
            if name not in ("tokens_per_second", "peak_gb"):
                times_faster[side][name] = round(other[name] / shared[name], 2)
        share_of_memory[side] = round(shared["peak_gb"] / other["peak_gb"], 3)
    rivals = ("trl", "trl_without_checkpointing")
    return {
        "faster_trl": min(rivals, key=lambda side: numbers[side]["seconds"]),
        "times_faster": times_faster,
        "share_of_memory": share_of_memory,
    }


# ---- command line -------------------------------------------------------------------------------


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("what", nargs="?", choices=("reading", "trl"), help="one part only; without it both")
    add("--steps", type=int, default=400, help="reading: steps to read, a multiple of 8")
    add("--shape", choices=SHAPES, help="trl: one shape only")
    add("--iterations", type=int, default=3, help="trl: measured iterations of a process")
    add("--rounds", type=int, default=2, help="trl: processes of each side, in turns")
    add("--threads", type=int, default=2, help="trl: torch threads")
    add("--json", help="write the numbers to this file")
    add("--side", choices=SIDES, help=argparse.SUPPRESS)
    add("--folder", help=argparse.SUPPRESS)
    return parser.parse_args(argv)


def check(args: argparse.Namespace) -> None:
    """What cannot work ends with one line, before anything is measured."""
    if args.steps < 8 or args.steps % 8 != 0:
        die(f"--steps {args.steps}: must be a multiple of 8")
    for name in ("iterations", "rounds", "threads"):
        number = getattr(args, name)
        if number < 1:
            die(f"--{name} {number}: must be at least 1")
    if args.json and not Path(args.json).parent.is_dir():
        die(f"--json {args.json}: there is no folder {Path(args.json).parent}")


def main(argv: list[str] | None = None) -> None:
    args = parse(argv)
    check(args)
    if args.side:
        torch.set_num_threads(args.threads)
        measured = measure_side(args.side, SHAPES[args.shape], args.iterations, args.folder)
        print(json.dumps(asdict(measured)))
        return
    if args.what != "reading" and not find_spec("trl"):
        die(
            "the part beside TRL needs it: pip install 'trl==1.16.*' "
            "(or only the other part: python -m extras.speed reading)"
        )
    result = {}
    if args.what != "trl":
        result["reading"] = reading(args.steps)
    if args.what != "reading":
        shapes = [args.shape] if args.shape else list(SHAPES)
        result["trl"] = {}
        for name in shapes:
            result["trl"][name] = beside_trl(name, args.iterations, args.rounds, args.threads)
    print(json.dumps(result, indent=1))
    if args.json:
        Path(args.json).write_text(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
