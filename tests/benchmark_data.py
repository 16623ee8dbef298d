"""Small recorded data sets in their real formats: what the tests of the benchmarks share.

AndroidControl's are written by extras/made_up_android.py.
"""

import json
from pathlib import Path

import pytest

from benchmarks.catalog import load_recorded
from benchmarks.common import Episode, Report
from extras.made_up_android import PNG


def load(name: str, root: Path, split: str) -> tuple[list[Episode], Report]:
    """All episodes, and what was left out."""
    report = Report()
    episodes = list(load_recorded(name, root, split, report))
    return episodes, report


def write_lines(path: Path, *lines: str | dict) -> str:
    """A file of these lines, or of these objects as JSON; returns its path."""
    texts = [line if isinstance(line, str) else json.dumps(line) for line in lines]
    path.write_text("\n".join(texts))
    return str(path)


# ---- GUI-Odyssey -------------------------------------------------------------------------------


def odyssey_step(action: str, info: object, **more) -> dict:
    return {"action": action, "info": info, "screenshot": "s.png", "ps": "", **more}


def odyssey_root(
    root: Path, episodes: dict[str, list], category: str = "General_Tool", part: str = "test"
) -> Path:
    """A folder whose episodes are all in one list of the random split, "test" or "train"."""
    for folder in ("annotations", "screenshots", "splits"):
        (root / folder).mkdir()
    (root / "screenshots" / "s.png").write_bytes(PNG)
    for ident, steps in episodes.items():
        annotation = {
            "episode_id": ident,
            "task_info": {"category": category, "instruction": "Find it"},
            "step_length": len(steps),
            "steps": steps,
        }
        (root / "annotations" / f"{ident}.json").write_text(json.dumps(annotation))
    split = {"train": [], "test": []}
    split[part] = [f"{ident}.json" for ident in episodes]
    (root / "splits" / "random_split.json").write_text(json.dumps(split))
    return root


# ---- Multimodal-Mind2Web -----------------------------------------------------------------------


def web_row(
    task: str,
    index: int,
    op: str,
    value: str = "",
    *,
    rects: tuple[str, ...] = ("100,200,50,20",),
    original: str | None = None,
    texts: list[str] | None = None,
    page: bytes | None = PNG,
) -> dict:
    """One step. `original`: which of the boxes is the recorded element's."""
    candidates = []
    for rect in rects:
        attributes = json.dumps({"bounding_box_rect": rect})
        candidate = {"attributes": attributes, "is_original_target": rect == original}
        candidates.append(json.dumps(candidate))
    return {
        "action_uid": "u",
        "annotation_id": task,
        "confirmed_task": "Fly",
        "operation": json.dumps({"op": op, "value": value}),
        "pos_candidates": candidates,
        "screenshot": {"bytes": page, "path": None},
        "action_reprs": texts or ["[a] A -> CLICK"] * 3,
        "target_action_index": str(index),
        "target_action_reprs": "[button] Search -> CLICK",
        "raw_html": "x" * 1000,
    }


def web_root(root: Path, rows: list[dict], split: str = "test_task") -> Path:
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    (root / "data").mkdir(parents=True)
    file = root / "data" / f"{split}-00000-of-00001-abc.parquet"
    parquet.write_table(pyarrow.Table.from_pylist(rows), file)
    return root


# ---- AgentNet ----------------------------------------------------------------------------------


def agentnet_step(code: str, correct: bool = True, redundant: bool = False) -> dict:
    value = {
        "action": "Do",
        "code": code,
        "last_step_correct": correct,
        "last_step_redundant": redundant,
    }
    return {"image": "a.png", "value": value}


def agentnet_root(root: Path, steps: list) -> Path:
    """A folder with one task of Ubuntu."""
    (root / "ubuntu_images").mkdir()
    (root / "ubuntu_images" / "a.png").write_bytes(PNG)
    task = {"task_id": "t", "instruction": "Go", "traj": steps}
    write_lines(root / "agentnet_ubuntu_5k.jsonl", task)
    return root
