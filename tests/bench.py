"""Speed, measured and never asserted: python tests/bench.py [--steps 400] [--json FILE]

Reading recorded data: AndroidControl shards written here with screens of 1080 x 2400 px (PNG, 0.46 MB: the real set's 47 GB are
0.47 MB a step) and accessibility forests of 300 nodes; steps per second on one thread, without and with decoding the screenshots.
"""

import argparse
import io
import json
import os
import random
import statistics
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np  # noqa: E402
from PIL import Image  # noqa: E402
from test_recorded import android, android_root, forest, node  # noqa: E402

from envs import Report, load_recorded  # noqa: E402


def screen(rng: np.random.Generator) -> bytes:
    """A PNG as large as a phone's screenshot: flat areas, and photographs that do not compress."""
    pixels = np.full((2400, 1080, 3), 240, dtype=np.uint8)
    pixels[300:440] = rng.integers(0, 255, (140, 1080, 3))
    for y in range(600, 2400, 60):
        pixels[y:y + 4] = 30
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG", compress_level=6)
    return file.getvalue()


def reading(steps: int, decode: bool, root: Path) -> float:
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=400, help="steps to read, a multiple of 8")
    parser.add_argument("--json", help="write the numbers to this file")
    args = parser.parse_args()
    rng, clicks = random.Random(0), [{"action_type": "click", "x": 540, "y": 1200}] * 5
    acts = [*clicks, {"action_type": "scroll", "direction": "down"}, {"action_type": "input_text", "text": "hello"}, {"action_type": "wait"}]
    shot = screen(np.random.default_rng(0))
    nodes = [node(x := rng.randrange(900), y := rng.randrange(2200), x + 100, y + 80) for _ in range(300)]
    records = [android(i, acts, [shot] * 9, [forest(*nodes)] * 9) for i in range(args.steps // 8)]
    with tempfile.TemporaryDirectory() as folder:
        root = android_root(Path(folder), records)
        (root / "splits.json").write_text(json.dumps({"train": list(range(args.steps // 8)), "validation": [], "test": []}))
        found = {"screenshot_bytes": len(shot), "load": os.getloadavg()[0]}
        for name, decode in (("steps_per_second", False), ("steps_per_second_decoded", True)):
            rates = [reading(args.steps if not decode else min(args.steps, 80), decode, root) for _ in range(5)]
            found[name] = {"median": round(statistics.median(rates), 1), "runs": [round(r, 1) for r in rates]}
    print(json.dumps(found, indent=1))
    if args.json:
        Path(args.json).write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
