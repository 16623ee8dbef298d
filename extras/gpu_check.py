"""Memory and speed of real shapes (Qwen3-VL, Qwen3.5) on this machine's GPU; writes gpu.json.

Run by hand, as below; the tests run it on a CPU, so that it does not fail on the day of a card.
It downloads nothing and trains nothing that is kept: the weights are random.

    python -m extras.gpu_check          # 16 and 4 bits of Qwen3-VL 2B, 4B, 8B; Qwen3.5 0.8B, 2B, 4B
    python -m extras.gpu_check --trl    # each beside TRL's GRPOTrainer (pip install 'trl==1.16.*')
    python -m extras.gpu_check --family qwen3_5 --shape 2b --bits 4    # one row of the table
    python -m extras.gpu_check --shape tiny --device cpu    # tries the script in seconds

Memory and time do not depend on what a model knows. Nobody may write the end token, so that all
completions have the full length. After one iteration to warm up come three that are measured (on a
CPU one). Seconds are medians: sampling (screenshots to completions), update (loss to optimiser
step, with gradient checkpointing) and tool_agent (stage 2: the model without adapters finds a point
for the first step of each completion). weights_gib is what is allocated before them, adapters
included; peak_gib is the most in sampling and update, tool_agent_peak_gib in the third (on a CPU
they are of the whole process so far). Each side of a case runs in a process of its own, so that its
peak is its own, and one that does not fit is a row that says so. fast_kernels: whether Qwen3.5 had
flash-linear-attention.

TRL has the same checkpoint, LoRA, prompts, screenshots, G and length, beta 0, and else its
defaults: gradient checkpointing, fused head, adapters of a 4-bit model in bf16. An update has all
completions in one micro-batch; where memory does not hold them, half of them, a quarter ... (on our
side never fewer than one prompt's): `rows_at_once` says how many.
"""

import argparse
import gc
import json
import math
import os
import subprocess
import sys
import tempfile
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from agent import Policy
from envs import Action, Example, Observation, die
from extras.made_up import LAST_FILE, SHAPES, TEMPLATE, make_hub
from extras.run_folder import write
from extras.speed import (
    QUIET,
    ROOT,
    G,
    Measured,
    clock,
    difference,
    load_with_adapters,
    measure_ours,
    measure_trl,
    memory_now,
    memory_peak,
    observation_of,
)
from extras.vlm_tool_agent import vlm_tool_agent

GIB = 2**30 / 1e9  # in GB

# ---- one side of one case, in a process of its own ----------------------------------------------


def measure(args: argparse.Namespace) -> dict:
    """The numbers of one side, and what it did, for the comparison with the other."""
    on_card = args.device == "cuda"
    if not on_card:
        torch.set_num_threads(1)  # two threads on two busy cores are many times slower
    make_checkpoint(args)
    # A 4-bit model on "cuda", without a number, is to accelerate on another card than its own.
    device = "cuda:0" if on_card else "cpu"
    policy = load_with_adapters(args.folder, device=device, load_in_4bit=args.bits == 4)
    observations = make_screens(args.tokens, args.prompts)
    iterations = 3 if on_card else 1
    if args.side == "ours":
        measured = measure_ours(
            policy, observations, args.completion, iterations, args.rows, checkpointing=True
        )
    else:
        folder = f"{args.folder}/trl"
        measured = measure_trl(policy, observations, args.completion, iterations, folder, args.rows)
    row = {"device": torch.cuda.get_device_name() if on_card else "cpu"}
    row |= numbers_of(measured, args.prompts)
    if args.side == "ours":
        seconds, peak = time_tool_agent(policy, observations, iterations)
        row["seconds"]["tool_agent"] = round(seconds, 3)
        row["tool_agent_peak_gib"] = round(peak / GIB, 3)
    done = {"prompt_ids": measured.prompt_ids, "completion_tokens": measured.completion_tokens}
    return {"done": done, "row": row}


def make_checkpoint(args: argparse.Namespace) -> None:
    """Write the checkpoint to --folder, unless an earlier process has.

    It is made on the card, which is much faster, if the card can hold it in 16 bits.
    """
    folder = Path(args.folder)
    if (folder / LAST_FILE).exists():
        return
    dtype = torch.bfloat16 if args.device == "cuda" else torch.float32
    # TEMPLATE has no thought: that of Qwen3.5 is closed by us and left open by TRL, a few tokens.
    case = (folder, args.family, args.shape, TEMPLATE, dtype)
    try:
        make_hub(*case, device=args.device)
    except torch.OutOfMemoryError:
        make_hub(*case, device="cpu")
    gc.collect()
    if args.device == "cuda":
        torch.cuda.empty_cache()


def make_screens(tokens: int, prompts: int) -> list[Observation]:
    """Square screenshots of so many image tokens, 32 x 32 px each: noise, the same each time."""
    rng = np.random.default_rng(0)
    side = 32 * math.isqrt(tokens)
    observations = []
    for _ in range(prompts):
        pixels = rng.integers(0, 256, (side, side, 3), np.uint8)
        observations.append(observation_of("Save the form", Image.fromarray(pixels)))
    return observations


def numbers_of(measured: Measured, prompts: int) -> dict:
    """Medians, memory, and tokens of one prompt and one completion.

    Three digits behind the point are enough.
    """
    walls = np.array(measured.seconds)[:, :, 0]  # [iterations, sampling or update]
    sampling, update = np.median(walls, 0).tolist()
    return {
        "prompt_tokens": len(measured.prompt_ids[0]),
        "completion_tokens": measured.completion_tokens // prompts // G,
        "seconds": {"sampling": round(sampling, 3), "update": round(update, 3)},
        "weights_gib": round(measured.memory_before / GIB, 3),
        "peak_gib": round(measured.memory_peak / GIB, 3),
    }


def time_tool_agent(
    policy: Policy, observations: list[Observation], iterations: int
) -> tuple[float, float]:
    """Seconds of finding a point for the first steps of all completions, and the peak in GB.

    The G steps of a screenshot are different, so that each is asked for.
    """
    find_points = vlm_tool_agent(policy)
    actions = []
    examples = []
    for seen in observations:
        for g in range(G):
            actions.append(Action("click", f"Save {g}"))
            examples.append(Example(seen, (Action("click", "Save"),)))
    memory_now(policy)
    seconds = []
    for _ in range(iterations + 1):
        start = clock()
        find_points(actions, examples)
        wall, _processor = clock() - start
        seconds.append(wall)
    return float(np.median(seconds[1:])), memory_peak(policy)


# ---- a row of the table -------------------------------------------------------------------------


def run_side(args: argparse.Namespace, **case) -> dict:
    """measure() in a process of its own; {"failed": why} where it did not end well."""
    flags = {name: getattr(args, name) for name in ("device", "tokens", "prompts", "completion")}
    command = [sys.executable, "-m", "extras.gpu_check"]
    for name, value in (flags | case).items():
        command += [f"--{name}", str(value)]
    # One card: TRL would split its rows over all of them.
    cards = os.environ.get("CUDA_VISIBLE_DEVICES", "0")
    environment = os.environ | QUIET | {"CUDA_VISIBLE_DEVICES": cards.split(",")[0]}
    done = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    if done.returncode == 0:
        return json.loads(done.stdout.splitlines()[-1])
    if "OutOfMemoryError" in done.stderr:
        return {"failed": "out of memory"}
    lines = done.stderr.strip().splitlines()
    return {"failed": lines[-1][:300] if lines else "?"}


def run_largest(args: argparse.Namespace, least: int, **case) -> dict:
    """run_side with as many rows in a micro-batch as memory holds.

    All of them, or half, a quarter ... down to `least`.
    """
    rows = args.prompts * G
    result = run_side(args, rows=rows, **case)
    while "out of memory" in result.get("failed", "") and rows % (2 * least) == 0:
        rows //= 2
        result = run_side(args, rows=rows, **case)
    row = {"rows_at_once": rows, "failed": result.get("failed")} | result.get("row", {})
    return result | {"row": row}


def compare(args: argparse.Namespace, **case) -> dict:
    """One row of the table: a shape at a precision."""
    ours = run_largest(args, least=G, side="ours", **case)
    row = {name: case[name] for name in ("family", "shape", "bits")}
    if case["family"] == "qwen3_5":
        row["fast_kernels"] = find_spec("fla") is not None
    row |= ours["row"]
    if args.trl:
        theirs = run_largest(args, least=1, side="trl", **case)
        row["trl"] = theirs["row"]
        if "done" in ours and "done" in theirs:
            row |= beside_trl(ours, theirs)
    return row


def beside_trl(ours: dict, theirs: dict) -> dict:
    """How many times faster we are, with how much of the memory, and whether both did the same."""
    own = ours["row"]["seconds"]
    other = theirs["row"]["seconds"]
    ratios = {
        "sampling": other["sampling"] / own["sampling"],
        "update": other["update"] / own["update"],
        "iteration": (other["sampling"] + other["update"]) / (own["sampling"] + own["update"]),
    }
    wrong = difference(did(ours), did(theirs))
    return {
        "times_faster": {name: round(ratio, 2) for name, ratio in ratios.items()},
        "share_of_memory": round(ours["row"]["peak_gib"] / theirs["row"]["peak_gib"], 3),
        "failed": wrong if wrong else None,
    }


def did(result: dict) -> Measured:
    """What a side did, as difference() takes it."""
    return Measured(**result["done"], seconds=[], memory_before=0.0, memory_peak=0.0)


# ---- command line -------------------------------------------------------------------------------


def parse(argv: list[str] | None) -> argparse.Namespace:
    """Flags, with the defaults of the device; what cannot work ends here, in one line."""
    args = make_parser().parse_args(argv)
    on_card = args.device == "cuda"
    if args.tokens is None:
        args.tokens = 1024 if on_card else 64
    if args.prompts is None:
        args.prompts = 2 if on_card else 1
    if args.completion is None:
        args.completion = 120 if on_card else 16
    if args.json is None and on_card:
        args.json = "gpu.json"
    check(args)
    return args


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.error = die
    add = parser.add_argument
    add("--family", choices=SHAPES, help="only this one (default: all)")
    shapes = {}  # each once, in order
    for sizes in SHAPES.values():
        shapes |= sizes
    add("--shape", choices=shapes, help="only this one (default: all but tiny; on a CPU tiny)")
    add("--bits", type=int, choices=(4, 16), help="only this one (default: both; on a CPU 16)")
    add(
        "--trl",
        action="store_true",
        help="beside TRL's GRPOTrainer, which must be installed: pip install 'trl==1.16.*'",
    )
    add(
        "--device",
        default="cuda",
        choices=("cuda", "cpu"),
        help="cpu: to try the script itself (default: cuda)",
    )
    add(
        "--tokens",
        type=int,
        help="image tokens of a prompt, a square of at least 64 (default: 1024; on a CPU 64)",
    )
    add(
        "--prompts",
        type=int,
        help="prompts of an update; G is 8 (default: 2; on a CPU 1)",
    )
    add(
        "--completion",
        type=int,
        help="tokens of a completion (default: 120, the room for T = 5 lines; on a CPU 16)",
    )
    add(
        "--scratch",
        help="folder for the random checkpoints, up to 17 GB (default: the system's)",
    )
    add("--json", help="where the numbers go (default: gpu.json; on a CPU nowhere)")
    add("--side", choices=("ours", "trl"), help=argparse.SUPPRESS)
    add("--folder", help=argparse.SUPPRESS)
    add("--rows", type=int, default=0, help=argparse.SUPPRESS)
    return parser


def check(args: argparse.Namespace) -> None:
    if args.device == "cuda" and not torch.cuda.is_available():
        die("no CUDA device here; --shape tiny --device cpu tries the script")
    if args.family and args.shape and args.shape not in SHAPES[args.family]:
        die(f"--shape: {args.family} has {', '.join(SHAPES[args.family])}")
    if args.trl and not find_spec("trl"):
        die("--trl needs it: pip install 'trl==1.16.*'")
    is_square = args.tokens >= 64 and math.isqrt(args.tokens) ** 2 == args.tokens
    if not is_square or args.prompts < 1 or args.completion < 1:
        die(
            "--tokens must be a square of at least 64 (64, 256, 1024 ...), "
            "--prompts and --completion at least 1"
        )
    if args.scratch and not Path(args.scratch).is_dir():
        die(f"--scratch: no folder {args.scratch}")
    if args.json and not Path(args.json).parent.is_dir():
        die(f"--json: no folder {Path(args.json).parent}")


def main(argv: list[str] | None = None) -> None:
    args = parse(argv)
    if args.side:
        print(json.dumps(measure(args)))
        return
    precisions = [16, 4] if args.device == "cuda" else [16]
    if args.bits:
        precisions = [args.bits]
    rows = []
    for family, shape in chosen_shapes(args):
        with tempfile.TemporaryDirectory(dir=args.scratch) as folder:
            for bits in precisions:
                row = compare(args, family=family, shape=shape, bits=bits, folder=folder)
                print(json.dumps(row), flush=True)
                rows.append(row)
                save(args, rows)


def chosen_shapes(args: argparse.Namespace) -> list[tuple[str, str]]:
    """(family, shape) of each case that the flags ask for."""
    chosen = []
    for family, sizes in SHAPES.items():
        if args.family and family != args.family:
            continue
        for shape in sizes:
            wanted = args.shape
            if wanted is None and args.device == "cpu":
                wanted = "tiny"
            if shape == wanted or (wanted is None and shape != "tiny"):
                chosen.append((family, shape))
    return chosen


def save(args: argparse.Namespace, rows: list[dict]) -> None:
    """All rows so far, where --json says."""
    if not args.json:
        return
    head = {
        "torch": torch.__version__,
        "group_size": G,
        "prompts": args.prompts,
        "image_tokens": args.tokens,
    }
    write(Path(args.json), json.dumps(head | {"rows": rows}, indent=1))


if __name__ == "__main__":
    main()
