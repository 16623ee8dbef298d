"""eval.py: the exam. How often tasks are solved, how good forecasts are, and pictures of both.

Protocol `toy-gui`: seeds 0..n-1 of a split, plan-act loop with greedy forecasts, only the first action of each executed through
the frozen tool agent. success: share of tasks solved within the oracle's steps plus a slack; accuracy@k: share of forecasts
whose k-th action agrees (similarity 1) with the oracle's k-th action from that state; repeat: share of forecast actions that
stood in their forecast before; failed: share of first actions that the tool agent refused.

    python eval.py --run runs/toy --split test            # one row a policy: random, warm start, stages, oracle
"""

import argparse
import json
import math
import os
import random
from collections.abc import Sequence
from pathlib import Path

from PIL import Image, ImageDraw

from agent import Planner, Play, load_policy, play, policy_planner, read_run
from envs import SPLITS, VALUES, Action, ToyGUI, _font, die, execute, inside
from rewards import repetitions, similarity


def wilson(successes: int, n: int) -> tuple[float, float]:
    """95 % Wilson score interval of a rate.

    >>> [round(x, 3) for x in wilson(8, 10)]
    [0.49, 0.943]
    """
    if n == 0:
        return 0.0, 1.0
    z, p = 1.959964, successes / n
    centre, half = p + z * z / (2 * n), z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    return max(0.0, (centre - half) / (1 + z * z / n)), min(1.0, (centre + half) / (1 + z * z / n))


def random_planner(seed: int = 0) -> Planner:
    """The floor: a random visible element, word or gesture."""
    rng = random.Random(seed)

    def plan(_observations, envs):
        moves = [[Action("click", label) for label, _ in env.visible()] + [Action("type", rng.choice(VALUES)), Action("scroll", "down"),
                                                                          Action("back"), Action("done")] for env in envs]
        return [([rng.choice(m)], 0) for m in moves]

    return plan


def oracle_planner(horizon: int) -> Planner:
    """The ceiling: the oracle names what stands on the screen, so that the tool agent finds it."""

    def plan(_observations, envs):
        plans = []
        for env in envs:
            forecast = env.oracle(horizon)
            if forecast[0].point:
                label = next(label for label, box in env.visible() if inside(forecast[0].point, box))
                forecast[0] = Action("click", label, forecast[0].point)
            plans.append((forecast, 0))
        return plans

    return plan


def evaluate_toy(planner: Planner, split: str, n: int, horizon: int, history: int, scale: int = 1, carry: bool = False,
                 batch: int = 100, progress=None) -> tuple[dict, list[Play]]:
    """Play seeds 0..n-1 of a toy split; returns the metrics of the module docstring and the plays."""
    plays = []
    for start in range(0, n, batch):
        seeds = range(start, min(start + batch, n))
        plays += play(planner, [ToyGUI(split, scale, history) for _ in seeds], seeds, execute, horizon, carry)
        if progress:
            progress(len(seeds))
    return toy_metrics(plays, horizon), plays


def toy_metrics(plays: Sequence[Play], horizon: int) -> dict:
    wins, steps = sum(p.success for p in plays), [r for p in plays for r in p.results]
    pairs = [(f, ref) for p in plays for f, ref in zip(p.forecasts, p.references, strict=True)]
    accuracy = []
    for k in range(horizon):
        due = [(f[k] if k < len(f) else None, ref[k]) for f, ref in pairs if k < len(ref)]
        accuracy.append(sum(a is not None and similarity(a, b) == 1.0 for a, b in due) / max(1, len(due)))
    low, high = wilson(wins, len(plays))
    said = sum(len(f) for f, _ in pairs)
    return {
        "success": wins / len(plays), "n": len(plays), "ci95": [low, high],
        "accuracy_at_k": accuracy,
        "repeat": sum(sum(repetitions(f)) for f, _ in pairs) / max(1, said),
        "failed": steps.count("failed") / max(1, len(steps)),
        "unreadable": sum(not f for f, _ in pairs) / max(1, len(pairs)),
        "steps_per_episode": len(steps) / len(plays),
        "tokens_per_episode": sum(p.tokens for p in plays) / len(plays),
    }


# ----------------------------------------------------------------------------------------------------------------------
# Pictures
# ----------------------------------------------------------------------------------------------------------------------


def draw_episode(p: Play, path: str | Path, scale: int = 2, columns: int = 5) -> None:
    """Film strip of one episode: each screen with the forecast drawn over it (the numbers stand where its steps point, 1 is
    executed), and the forecast below. Green: executed; red: refused or impossible; grey: forecast only."""
    screens = [o.screenshot() for o in p.observations]
    w, h, foot, gap = screens[0].width * scale, screens[0].height * scale, 12 + 15 * max(map(len, p.forecasts), default=1) + 6, 10
    columns = min(columns, len(screens))
    rows = math.ceil(len(screens) / columns)
    sheet = Image.new("RGB", (columns * (w + gap) + gap, 52 + rows * (h + foot + 24 + gap)), "white")
    pen, text, small = ImageDraw.Draw(sheet), _font(14), _font(12)
    pen.text((gap, 8), p.observations[0].instruction, fill="black", font=_font(18))
    verdict = "solved" if p.success else "not solved"
    pen.text((gap, 30), f"{verdict} in {len(screens)} steps (oracle: {p.oracle_steps})", fill="green" if p.success else "firebrick", font=text)
    for i, screen in enumerate(screens):
        x, y = gap + (i % columns) * (w + gap), 52 + (i // columns) * (h + foot + 24 + gap)
        colour = "green" if p.results[i] == "ok" else "firebrick"
        pen.text((x, y + 4), f"step {i + 1}" + ("" if p.results[i] == "ok" else f": {p.results[i]}"), fill=colour, font=text)
        sheet.paste(screen.resize((w, h), Image.Resampling.NEAREST), (x, y + 24))
        pen.rectangle((x, y + 24, x + w, y + 24 + h), outline="gray")
        for k in reversed(range(len(p.forecasts[i]))):
            shade = colour if k == 0 else "gray"
            pen.text((x + 2, y + 30 + h + 15 * k), f"{k + 1} {p.forecasts[i][k]}", fill=shade, font=small)
            box = next((b for label, b in p.screens[i] if label == p.forecasts[i][k].text), None)
            if box:
                left, top = x + int(box[0] * w), y + 24 + int(box[1] * h)
                pen.rectangle((left, top, x + int(box[2] * w) - 2, y + 24 + int(box[3] * h) - 2), outline=shade, width=3 if k == 0 else 1)
                side = x + int(box[2] * w) - 16 - 16 * (k % 2)
                pen.ellipse((side, top + 2, side + 14, top + 16), fill=shade)
                pen.text((side + 4, top + 2), str(k + 1), fill="white", font=small)
    sheet.save(path)


def draw_curves(metrics: Sequence[dict], results: dict, split: str, path: str | Path) -> None:
    """curves.png: reward of each update (thin) with its running mean (thick), and success on held-out tasks after each phase."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    stages = [s for s in ("stage1", "stage2") if any(m["stage"] == s for m in metrics)]
    figure, axes = plt.subplots(1, len(stages) + 1, figsize=(4.2 * (len(stages) + 1), 3.4), squeeze=False)
    for axis, stage in zip(axes[0], stages, strict=False):
        values = [m["reward"] for m in metrics if m["stage"] == stage]
        mean = [sum(values[max(0, i - 9):i + 1]) / len(values[max(0, i - 9):i + 1]) for i in range(len(values))]
        axis.plot(values, color="tab:blue", alpha=0.3, linewidth=0.8)
        axis.plot(mean, color="tab:blue")
        title = {"stage1": "stage 1: R of whole forecasts", "stage2": "stage 2: first step as executed"}[stage]
        axis.set(title=title, xlabel="update", ylabel="mean reward")
    names = [n for n in ("random", "warmup", "stage1", "stage2", "oracle") if n in results]
    rates = [100 * results[n]["success"] for n in names]
    ends = [[100 * abs(results[n]["ci95"][k] - results[n]["success"]) for n in names] for k in (0, 1)]
    axes[0][-1].bar(names, rates, yerr=ends, capsize=4, color=["silver", "tab:orange", "tab:blue", "tab:green", "silver"][:len(names)])
    axes[0][-1].set(title=f"success on split {split}, n = {results[names[0]]['n']}", ylabel="% of tasks", ylim=(0, 105))
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    plt.close(figure)


# ----------------------------------------------------------------------------------------------------------------------
# Command line
# ----------------------------------------------------------------------------------------------------------------------


def exam(run: str, split: str, n: int) -> dict[str, dict]:
    """All policies of a run on one toy split: random, warm start, the end of each stage, oracle."""
    from tqdm import tqdm

    config, found = read_run(run), {}
    shape = (config["horizon"], config["history"])
    stages = [s for s in ("stage1", "stage2") if (Path(run) / s).exists()]
    rows = ["random", "warmup", *stages, "oracle"]
    with tqdm(total=n * len(rows), unit="task", disable=None) as bar:
        for name in rows:
            bar.set_description(name)
            if name in ("random", "oracle"):
                planner = random_planner() if name == "random" else oracle_planner(config["horizon"])
            else:
                policy = load_policy(config["base"], None if name == "warmup" else Path(run) / name)
                planner = policy_planner(policy, config["horizon"])
            found[name], _ = evaluate_toy(planner, split, n, *shape, carry=config["carry_forecast"], progress=bar.update)
    return found


def table(rows: dict[str, dict]) -> str:
    lines = [f"{'policy':8} {'success':>8} {'95 % interval':>17} {'n':>5}   accuracy@k {'':22} {'repeat':>6} {'failed':>7} {'tokens':>7}"]
    for name, m in rows.items():
        low, high = m["ci95"]
        lines.append(f"{name:8} {m['success']:8.1%} {f'{low:.1%} to {high:.1%}':>17} {m['n']:5}   "
                     f"{' '.join(f'{a:.0%}' for a in m['accuracy_at_k']):33} {m['repeat']:6.1%} {m['failed']:7.1%} {m['tokens_per_episode']:7.1f}")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description="Success of a trained policy and its baselines on held-out tasks.")
    parser.add_argument("--run", required=True, help="folder of a run of train.py")
    parser.add_argument("--bench", default="toy-gui", choices=["toy-gui"], help="what to be examined on")
    parser.add_argument("--split", default="test", help=f"toy-gui: {', '.join(SPLITS)}")
    parser.add_argument("--limit", type=int, default=300, help="number of tasks")
    parser.add_argument("--json", help="write the numbers to this file")
    args = parser.parse_args()
    if args.split not in SPLITS:
        die(f"--split {args.split}: choose one of {', '.join(SPLITS)}")
    if args.limit < 1:
        die(f"--limit {args.limit}: must be at least 1")
    found = exam(args.run, args.split, args.limit)
    print(f"protocol toy-gui, split {args.split}, greedy, n = {args.limit}\n{table(found)}")
    if args.json:
        write(Path(args.json), json.dumps({"protocol": "toy-gui", "split": args.split, "n": args.limit, "policies": found}, indent=1))


def write(path: Path, text: str) -> None:
    """Write under a temporary name and rename, so that nobody ever reads half a file."""
    try:
        path.with_name(path.name + ".tmp").write_text(text)
        os.replace(path.with_name(path.name + ".tmp"), path)
    except OSError as error:
        die(f"cannot write {path}: {error.strerror}")


if __name__ == "__main__":
    main()
