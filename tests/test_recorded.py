"""Recorded data sets: real formats written here by hand, conversions with numbers worked out by hand, every quirk, every bad input."""

import contextlib
import gzip
import importlib.util
import io
import itertools
import json
import math
import random
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

import eval as exam
import train
from envs import (
    Action,
    BadRecord,
    Report,
    Step,
    fields,
    load_recorded,
    mix,
    parse_pyautogui,
    read_example,
    read_image,
    smallest_node,
    stream_shuffled,
)
from eval import (
    edit_distance,
    mind2web,
    mind2web_metrics,
    odyssey,
    odyssey_metrics,
    odyssey_os_atlas,
    os_atlas,
    os_atlas_box,
    read_index,
    read_predictions,
    score_bench,
)

# ---- writers of the real formats -----------------------------------------------------------------------------------------------

def png(width: int = 8, height: int = 8) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (width, height), "navy").save(file, "PNG")
    return file.getvalue()


PNG = png()


def varint(value: int) -> bytes:
    value, out = value & (1 << 64) - 1, b""
    while value > 127:
        value, out = value >> 7, out + bytes([value & 127 | 128])
    return out + bytes([value])


def message(*pairs: tuple[int, object]) -> bytes:
    """A protobuf message of (field number, int | bytes | str)."""
    out = b""
    for number, value in pairs:
        value = value.encode() if isinstance(value, str) else value
        out += varint(number << 3) + varint(value) if isinstance(value, int) else varint(number << 3 | 2) + varint(len(value)) + value
    return out


def node(left: int, top: int, right: int, bottom: int, visible: bool = True) -> bytes:
    return message((1, 7), (2, message((1, left), (2, top), (3, right), (4, bottom))), (7, "text"), (23, int(visible)))


def forest(*nodes: bytes) -> bytes:
    return message((1, message((3, 1), (11, message(*((1, n) for n in nodes))))))


def example(packed: bool = True, **features) -> bytes:
    """A tf.train.Example; integer lists packed or one by one."""
    entries = []
    for name, values in features.items():
        if isinstance(values[0], int):
            items = message((1, b"".join(map(varint, values)))) if packed else message(*((1, v) for v in values))
            feature = message((3, items))
        else:
            feature = message((1, message(*((1, v) for v in values))))
        entries.append((1, message((1, name), (2, feature))))
    return message((1, message(*entries)))


def tfrecords(path, records: list[bytes]) -> None:
    with gzip.open(path, "wb", 1) as file:
        for record in records:
            file.write(struct.pack("<QI", len(record), 0) + record + b"\0\0\0\0")


ACTIONS = [{"action_type": "open_app", "app_name": "Notes"}, {"action_type": "click", "x": 540, "y": 1200},
           {"action_type": "input_text", "text": "new york"}, {"action_type": "scroll", "direction": "down"},
           {"action_type": "long_press", "x": 0, "y": 2400}, {"action_type": "navigate_back"}, {"action_type": "navigate_home"},
           {"action_type": "wait"}]
TREE = forest(node(0, 0, 1080, 2400), node(500, 1100, 600, 1300), node(520, 1150, 560, 1250, visible=False), node(-50, 2300, 200, 2400))


def android(ident: int, actions=ACTIONS, screens=None, trees=None, **other) -> bytes:
    n = len(actions)
    screens = [PNG] * (n + 1) if screens is None else screens
    return example(episode_id=[ident], goal=["Do it"], screenshots=screens, screenshot_widths=[1080] * (n + 1),
                   screenshot_heights=[2400] * (n + 1), accessibility_trees=trees or [TREE] * (n + 1),
                   actions=[a if isinstance(a, bytes) else json.dumps(a) for a in actions],
                   step_instructions=[f"step {i}" for i in range(n)], **other)


def android_root(root, records: list[bytes], test=(), subsplits=None):
    tfrecords(root / "android_control-00000-of-00001", records)
    (root / "splits.json").write_text(json.dumps({"train": [1000], "validation": [], "test": list(test)}))
    (root / "test_subsplits.json").write_text(json.dumps(subsplits or {"IDD": list(test)[:1], "app_unseen": list(test)}))
    return root


def odyssey_entry(action, info, **more) -> dict:
    return {"action": action, "info": info, "screenshot": "s.png", "ps": "", **more}


def odyssey_root(root, episodes: dict[str, list[dict]], category="General_Tool"):
    for folder in ("annotations", "screenshots", "splits"):
        (root / folder).mkdir()
    (root / "screenshots" / "s.png").write_bytes(PNG)
    for ident, steps in episodes.items():
        info = {"category": category, "instruction": "Find it"}
        text = json.dumps({"episode_id": ident, "task_info": info, "step_length": len(steps), "steps": steps})
        (root / "annotations" / f"{ident}.json").write_text(text)
    (root / "splits" / "random_split.json").write_text(json.dumps({"train": [], "test": [f"{i}.json" for i in episodes]}))
    return root


def web_row(task: str, index: int, op: str, value="", rects=("100,200,50,20",), reprs=None, blob=PNG, original=None) -> dict:
    boxes = [json.dumps({"attributes": json.dumps({"bounding_box_rect": rect}), "is_original_target": rect == original}) for rect in rects]
    return {"action_uid": "u", "annotation_id": task, "confirmed_task": "Fly", "operation": json.dumps({"op": op, "value": value}),
            "pos_candidates": boxes, "screenshot": {"bytes": blob, "path": None}, "action_reprs": reprs or ["[a] A -> CLICK"] * 3,
            "target_action_index": str(index), "target_action_reprs": "[button] Search -> CLICK", "raw_html": "x" * 1000}


def web_root(root, rows: list[dict], split="test_task"):
    pytest.importorskip("pyarrow")
    import pyarrow
    from pyarrow import parquet
    (root / "data").mkdir()
    parquet.write_table(pyarrow.Table.from_pylist(rows), root / "data" / f"{split}-00000-of-00001-abc.parquet")
    return root


def load(name, root, split):
    report = Report()
    return list(load_recorded(name, root, split, report)), report


def write_lines(path, *lines) -> str:
    path.write_text("\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines))
    return str(path)


# ---- conversions ---------------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("packed", [True, False])
def test_android_control_by_hand(tmp_path, packed):
    (episode,), report = load("androidcontrol", android_root(tmp_path, [android(7, packed=packed), android(8)], [7]), "test")
    assert (episode.id, episode.instruction, report.messages) == ("7", "Do it", [])
    assert [step.action for step in episode.steps] == [
        Action("open_app", "Notes"), Action("click", "step 1", (0.5, 0.5)), Action("type", "new york"), Action("scroll", "down"),
        Action("long_press", "step 4", (0.0, 1.0)), Action("back"), Action("home"), Action("wait")]   # scroll: the content's direction
    assert episode.steps[1].boxes == ((500 / 1080, 1100 / 2400, 600 / 1080, 1300 / 2400),)   # smallest visible; not the invisible one
    assert episode.steps[4].boxes == ((0.0, 2300 / 2400, 200 / 1080, 1.0),)                  # left -50 is cut at the edge
    assert episode.steps[0].boxes == () and episode.steps[0].screenshot().size == (8, 8)
    assert episode.raw["texts"] == tuple(f"step {i}" for i in range(8)) and episode.raw["subsplit"] == "IDD"


def test_gui_odyssey_by_hand(tmp_path):
    steps = [odyssey_entry("CLICK", [[412, 903]], sam2_bbox=[380, 880, 445, 925], low_level_instruction="Tap Firefox"),
             odyssey_entry("SCROLL", [[500, 800], [510, 200]]), odyssey_entry("SCROLL", [[800, 500], [200, 490]]),
             odyssey_entry("SCROLL", [[0, 0], [5, 5]]), odyssey_entry("TEXT", "tide times"), odyssey_entry("TYPE", "a"),
             odyssey_entry("LONG_PRESS", [[1000, 0]], sam2_bbox=[]), odyssey_entry("CLICK", "KEY_HOME"),
             odyssey_entry("CLICK", "KEY_BACK"), odyssey_entry("CLICK", "KEY_APPSELECT"), odyssey_entry("INCOMPLETE", ""),
             odyssey_entry("COMPLETE", "")]
    (episode,), report = load("gui-odyssey", odyssey_root(tmp_path, {"55": steps}), "random")
    assert [step.action for step in episode.steps] == [
        Action("click", "Tap Firefox", (0.412, 0.903)), Action("scroll", "down"), Action("scroll", "right"),   # finger up: content down
        Action("scroll", "up"),   # |dx| = |dy|: vertical, and the finger went down
        Action("type", "tide times"), Action("type", "a"), Action("long_press", "", (1.0, 0.0)), Action("home"), Action("back"),
        Action("recent"), Action("fail"), Action("done")]
    assert episode.steps[0].boxes == ((0.38, 0.88, 0.445, 0.925),) and episode.steps[6].boxes == () and not report.bad


def test_mind2web_by_hand(tmp_path):
    reprs = ["[textbox] From -> TYPE: Oslo\n[button] Search -> CLICK\n[select] Seat -> SELECT: aisle"]   # one string: a known hazard
    rects = ("0,0,10,10", "120.5,310,280,44")
    page = png(1000, 500)
    rows = [web_row("t", 2, "SELECT", "aisle", reprs=reprs, blob=page), web_row("t", 0, "TYPE", "Oslo", rects, reprs, page, rects[1]),
            web_row("t", 1, "CLICK", reprs=reprs, blob=None)]
    (episode,), report = load("mind2web", web_root(tmp_path, rows), "test_task")
    first, last = episode.steps
    assert first.action.kind == "type" and first.action.text == "Oslo" and episode.raw["n_steps"] == 3
    assert first.action.point == pytest.approx(((120.5 + 140) / 1000, (310 + 22) / 500))   # centre of the original target's xywh box
    assert first.boxes[0] == pytest.approx((0.1205, 0.62, 0.4005, 0.708)) and len(first.boxes) == 2
    assert (last.action.kind, last.action.text, last.raw["index"]) == ("select", "aisle", 2)
    assert report.notes == {"no row or no screenshot": 1} and not report.bad


@pytest.mark.parametrize("code, action", [
    ("pyautogui.click(x=0.25, y=0.5)", Action("click", "T", (0.25, 0.5))),
    ("pyautogui.rightClick(0.1, 1)", Action("right_click", "T", (0.1, 1))),
    ("pyautogui.click(0.1, 0.2, button='right')", Action("right_click", "T", (0.1, 0.2))),
    ("pyautogui.click(0.1, 0.2, clicks=2)", Action("double_click", "T", (0.1, 0.2))),
    ("pyautogui.moveTo(0.1, 0.2)", Action("hover", "T", (0.1, 0.2))),
    ("pyautogui.moveTo(0.1, 0.2)\npyautogui.dragTo(0.3, 0.4, button='left')", Action("drag", "T", (0.1, 0.2))),
    ("pyautogui.scroll(-5)", Action("scroll", "down")), ("pyautogui.scroll(clicks=5)", Action("scroll", "up")),
    ("pyautogui.write(message='a b')", Action("type", "a b")), ("pyautogui.press('Enter')", Action("key", "enter")),
    ("pyautogui.hotkey(['ctrl', 'c'])", Action("key", "ctrl+c")), ("pyautogui.hotkey('ctrl', 'c')", Action("key", "ctrl+c")),
    ("pyautogui.hotkey(keys=['ctrl', 'c'])", Action("key", "ctrl+c")), ("computer.wait()", Action("wait")),
    ("computer.tripleClick(0.1, 0.2)", Action("double_click", "T", (0.1, 0.2))),
    ("computer.terminate(status='success')", Action("done")), ("computer.terminate(status='failure')", Action("fail"))])
def test_agentnet_code(code, action):
    assert parse_pyautogui(code, "T") == [action]


def test_agentnet_filters_and_splits(tmp_path):
    (tmp_path / "ubuntu_images").mkdir()
    (tmp_path / "ubuntu_images" / "a.png").write_bytes(PNG)

    def step(code, correct=True, redundant=False):
        return {"image": "a.png", "value": {"action": "Do", "code": code, "last_step_correct": correct, "last_step_redundant": redundant}}
    traj = [step("pyautogui.click(0.1, 0.2)\npyautogui.write('hi')"), step("pyautogui.scroll(1)", correct=False),
            step("pyautogui.scroll(1)", redundant=True), step("computer.terminate(status='success')")]
    write_lines(tmp_path / "agentnet_ubuntu_5k.jsonl", {"task_id": "t", "instruction": "Go", "traj": traj})
    (episode,), _ = load("agentnet", tmp_path, "train")
    assert [(s.action.kind, s.raw["index"]) for s in episode.steps] == [("click", 0), ("type", 0), ("done", 3)]
    with pytest.raises(ValueError, match="split 'win_mac' of agentnet is empty"):
        load("agentnet", tmp_path, "win_mac")


# ---- bad input -----------------------------------------------------------------------------------------------------------------

def good_steps(n=40):
    return [{"action_type": "wait"}] * n


@pytest.mark.parametrize("bad, named", [
    ({"action_type": "fly"}, "unknown action_type 'fly'"),
    ({"action_type": "click", "x": 1081, "y": 5}, "outside the screen of 1080 x 2400"),
    ({"action_type": "click", "x": -1, "y": 5}, "outside the screen"), ({"action_type": "click", "x": "5", "y": 5}, "actions: x, y"),
    (b"{not json", "actions: not JSON"), (b"[1]", "action_type: missing"), (b"[" * 100_000, "actions: not JSON"),
    ({"action_type": "scroll", "direction": "sideways"}, "scroll "), ({"action_type": "input_text"}, "text: missing")])
def test_bad_android_step_is_named_and_the_rest_stays(tmp_path, bad, named):
    root = android_root(tmp_path, [android(7, [*good_steps(), bad, {"action_type": "wait"}])], [7])
    (episode,), report = load("androidcontrol", root, "test")
    assert len(episode.steps) == 41 and episode.steps[-1].raw["index"] == 41 and report.bad == {"steps": 1}
    assert report.messages[0].startswith("android_control-00000-of-00001: record 0: step 40: ") and named in report.messages[0]


def test_damaged_shards_keep_what_came_before(tmp_path):
    root = android_root(tmp_path, [android(i) for i in range(40)], range(45))
    shard = root / "android_control-00000-of-00001"
    whole = shard.read_bytes()
    (root / "android_control-00001-of-00002").write_bytes(b"no gzip at all")
    episodes, report = load("androidcontrol", root, "test")
    assert len(episodes) == 40 and "00001-of-00002: gzip: Error -3 while decompressing data: incorrect header check" in report.messages[0]
    assert "5 episodes of split test are in no readable shard" in report.messages[1]
    shard.write_bytes(whole[:-400])
    episodes, report = load("androidcontrol", root, "test")
    assert 0 < len(episodes) < 40 and report.bad == {"files": 2} and "TFRecord: cut short" in report.messages[0]
    with gzip.open(shard, "wb") as file:   # a length that claims a terabyte is not believed
        file.write(gzip.decompress(whole) + struct.pack("<QI", 1 << 40, 0))
    assert "1,099,511,627,776 bytes" in load("androidcontrol", root, "test")[1].messages[0]
    shard.unlink()
    with pytest.raises(ValueError, match="'test' of androidcontrol is empty: .*incorrect header check"):
        load("androidcontrol", root, "test")


def test_missing_screenshots_bombs_and_files(tmp_path):
    screens = [PNG] * 41 + [b""]
    (episode,), report = load("androidcontrol", android_root(tmp_path, [android(7, good_steps(42), screens)], [7]), "test")
    assert len(episode.steps) == 40 + 1 and report.bad == {"steps": 1} and "step 41: screenshots: missing" in report.messages[0]
    for side in (30_000, 10_000):   # PIL's own limit stops the first, ours the second; both have a few bytes of pixels
        header = b"IHDR" + struct.pack(">II5B", side, side, 8, 2, 0, 0, 0)
        bomb = PNG[:12] + header + struct.pack(">I", zlib.crc32(header)) + PNG[33:]
        with pytest.raises(BadRecord, match="pixels"):
            read_image(bomb, "here")
    for blob in (b"", b"GIF89a", PNG[:40], PNG[:-30]):
        with pytest.raises(BadRecord, match="^here: screenshot: "):
            read_image(blob, "here")


def test_odyssey_bad_files(tmp_path):
    steps = [odyssey_entry("COMPLETE", "")] * 39
    bad = [odyssey_entry("FLY", ""), odyssey_entry("CLICK", [[1001, 5]]), odyssey_entry("CLICK", []), odyssey_entry("SCROLL", [[1, 2]]),
           odyssey_entry("CLICK", "KEY_X"), {**odyssey_entry("COMPLETE", ""), "screenshot": "../gone.png"}, 7]
    for number, entry in enumerate(bad):
        (tmp_path / str(number)).mkdir()
        (episode,), report = load("gui-odyssey", odyssey_root(tmp_path / str(number), {"1": [*steps, entry]}), "random")
        assert len(episode.steps) == 39 and report.messages[0].startswith("1.json: step 39: "), report.messages
    root = odyssey_root(tmp_path, {str(i): steps for i in range(30)})
    (root / "annotations" / "3.json").unlink()
    episodes, report = load("gui-odyssey", root, "random")
    assert len(episodes) == 29 and report.messages == ["3.json: No such file or directory"]
    for i in range(4, 9):
        (root / "annotations" / f"{i}.json").write_text("{")
    with pytest.raises(ValueError, match="6 of 30 episodes are bad"):
        load("gui-odyssey", root, "random")


@pytest.mark.parametrize("name, split, said", [
    ("androidcontrol", "test", "splits.json: No such file"), ("gui-odyssey", "no", "no split 'no'"),
    ("mind2web", "test_task", r"no test_task-\*.parquet"), ("other", "test", "unknown data set")])
def test_one_line_for_the_user(tmp_path, name, split, said):
    said = said if name != "mind2web" or importlib.util.find_spec("pyarrow") else "mind2web needs pyarrow: pip install pyarrow"
    with pytest.raises(ValueError, match=said) as error:
        load(name, tmp_path, split)
    assert "\n" not in str(error.value)
    if name != "other":
        with pytest.raises(ValueError, match="no such folder"):
            load(name, tmp_path / "gone", split)


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=200), st.integers(0, 10_000), st.integers(0, 255))
def test_hostile_bytes_raise_bad_record_or_nothing(blob, at, byte):
    whole = bytearray(android(7))
    whole[at % len(whole)] = byte
    for read in (lambda: list(fields(memoryview(blob))), lambda: read_example(memoryview(bytes(whole))),
                 lambda: smallest_node(memoryview(blob), 1, 1), lambda: read_image(blob), lambda: read_image(PNG[:at % 60] + blob)):
        with contextlib.suppress(BadRecord):
            read()


@settings(max_examples=300, deadline=None)
@given(st.one_of(st.text(), st.from_regex(r"(pyautogui|computer)\.(click|write|press|scroll|dragTo)\([^#]{0,20}\)", fullmatch=True),
                 st.sampled_from(["-" * 19_000, "(" * 30_000, "f(x)(y)", "pyautogui.click(1e999, 0)", "__import__('os').abort()"])))
def test_hostile_code_raises_bad_record_or_nothing(code):
    with contextlib.suppress(ValueError):   # BadRecord, or Action's own
        assert all(isinstance(action, Action) for action in parse_pyautogui(code))


# ---- protocols -----------------------------------------------------------------------------------------------------------------

def android_gold(action: Action, boxes=()) -> Step:
    return Step(lambda: None, action, boxes, {"index": 0})


@pytest.mark.parametrize("ours, gold, kind_ok, right", [
    (("click", "", (0.64, 0.5)), ("click", "", (0.5, 0.5)), True, True),         # exactly 140 on the grid
    (("click", "", (0.641, 0.5)), ("click", "", (0.5, 0.5)), True, False),
    (("click", "", None), ("click", "", (0.5, 0.5)), True, False),
    (("long_press", "", (0.5, 0.5)), ("click", "", (0.5, 0.5)), False, False),
    (("type", "new york"), ("type", "New jersey"), True, True),                  # the quirk: only the first word counts
    (("type", "new"), ("type", "new york"), True, False),                        # "[new]" is not "[new"
    (("type", ""), ("type", ""), True, True), (("type", "a"), ("type", ""), True, False),
    (("open_app", "notes"), ("open_app", "Notes"), True, True), (("open_app", "notes"), ("type", "notes"), False, False),
    (("scroll", "up"), ("scroll", "up"), True, True), (("scroll", "up"), ("scroll", "down"), True, False),
    (("wait",), ("wait",), True, True), (("done",), ("wait",), False, False)])
def test_os_atlas(ours, gold, kind_ok, right):
    assert os_atlas(Action(*ours), android_gold(Action(*gold))) == {"type_match": kind_ok, "correct": right}


def test_box_variant():
    gold = android_gold(Action("click", "", (0.1, 0.1)), ((0.0, 0.0, 1.0, 0.3),))
    assert os_atlas_box(Action("click", "", (1.0, 0.3)), gold)["correct"]          # the edge of a wide element, far away
    assert os_atlas_box(Action("click", "", (0.1, 0.31)), gold)["correct"] is False
    assert os_atlas_box(Action("click", "", (0.1, 0.2)), android_gold(gold.action))["correct"]   # no box: the 14 % rule


def odyssey_gold(kind, text="", grid=None, bbox=None) -> Step:
    point = grid and (grid[0] / 1000, grid[1] / 1000)
    return Step(lambda: None, Action(kind, text, point), (), {"index": 0, "text": text, "grid": grid, "bbox": bbox})


@pytest.mark.parametrize("ours, gold, right, strict, atlas", [
    (("click", "", (0.9, 0.1)), odyssey_gold("click", "", (100, 100), [0, 0, 900, 100]), True, True, False),
    (("click", "", (0.1, 0.24)), odyssey_gold("click", "", (100, 100), []), True, False, True),   # [] raises in the official script
    (("click", "", (0.1, 0.24)), odyssey_gold("click", "", (100, 100)), True, True, True),         # the old release has no box at all
    (("type", "a: b"), odyssey_gold("type", "a: c"), True, True, True),                            # 1 - 1/4
    (("type", "12:30 noon"), odyssey_gold("type", "12:45 at night"), False, True, False),          # strict loses what follows ":"
    (("type", ""), odyssey_gold("type", "tide"), True, True, False),                               # "" is part of every text
    (("type", "TIDE"), odyssey_gold("type", "tide"), False, False, True),
    (("type", "tide"), odyssey_gold("type", "tide times"), True, True, False),
    (("scroll", "up"), odyssey_gold("scroll", "up"), True, True, True),
    (("scroll", "up"), odyssey_gold("scroll", "left"), False, False, False),
    (("recent",), odyssey_gold("recent"), True, True, True), (("fail",), odyssey_gold("done"), False, False, False)])
def test_odyssey(ours, gold, right, strict, atlas):
    action = Action(*ours)
    found = (odyssey(action, gold), odyssey(action, gold, strict=True), odyssey_os_atlas(action, gold))
    assert tuple(row["correct"] for row in found) == (right, strict, atlas)
    assert len({row["type_match"] for row in found}) == 1


def test_odyssey_sums_are_means_over_categories():
    def rows(episode, category, length, *correct):
        raw = {"category": category, "step_length": length}
        return [{"episode": episode, "raw": raw, "type_match": True, "correct": value} for value in correct]
    found = rows("1", "A", 2, True, True) + rows("2", "A", 1, False) + rows("3", "A", 5, True) + rows("4", "B", 1, True)
    assert odyssey_metrics(found, "random")["AMS"] == pytest.approx((3 / 4 + 1) / 2)
    assert odyssey_metrics(found, "random")["SR"] == pytest.approx((1 / 2 + 1) / 2)   # episode 3 has missing steps: not counted
    assert (odyssey_metrics(found, "app")["AMS"], odyssey_metrics(found, "app")["SR"]) == (4 / 5, 2 / 3)


def test_mind2web_rule_and_sums():
    def gold(op, value="", boxes=((100, 200, 50, 20),)):
        return Step(lambda: None, Action("click"), (), {"index": 0, "op": op, "value": value, "size": (1000, 500), "boxes": list(boxes)})
    edge = (0.15, 0.44)   # the lower right corner: 150, 220
    assert mind2web(Action("click", "x", edge), gold("CLICK")) == {"type_match": True, "correct": True, "element": True, "op_f1": 1.0}
    assert mind2web(Action("click", "x", edge), gold("CLICK", boxes=()))["correct"] is False
    assert mind2web(Action("type", "oslo !", edge), gold("TYPE", "Oslo"))["op_f1"] == 1     # case and lone punctuation do not count
    assert mind2web(Action("click", "", edge), gold("TYPE", "Oslo"))["op_f1"] == 0
    assert mind2web(Action("type", "rome", edge), gold("TYPE", "Oslo"))["op_f1"] == 0.5
    assert mind2web(Action("type", "oslo ()"), gold("TYPE", "Oslo"))["op_f1"] == pytest.approx(0.8)
    assert mind2web(Action("type", "oslo ()"), gold("TYPE", "Oslo"), strict=True)["op_f1"] == 1
    assert mind2web(None, gold("CLICK"))["op_f1"] == 0
    row = {"element": True, "op_f1": 1.0, "correct": True}
    sums = mind2web_metrics([{**row, "episode": "a", "raw": {"n_steps": 1}}, {**row, "episode": "b", "raw": {"n_steps": 4}}], "test_task")
    assert (sums["step_sr"], sums["step_sr_micro"]) == (pytest.approx((1 + 1 / 4) / 2), 2 / 5)


def test_scoring_a_file(tmp_path):
    root = android_root(tmp_path, [android(7), android(9, [{"action_type": "wait"}])], [7, 9])
    file = write_lines(tmp_path / "p.jsonl", {"id": "7/1", "action": {"kind": "click", "point": [0.5, 0.5]}}, "{oops",
                       {"id": "7/0", "action": {"kind": "fly"}}, {"id": "7/3", "action": {"kind": "scroll", "text": "down"}},
                       {"id": "7/4", "action": {"kind": "long_press", "point": [2, 2]}}, {"id": "99/0", "action": {"kind": "wait"}})
    result, rows = score_bench("androidcontrol", root, "test", predictions=file)
    assert (result["n"], result["step_acc"], result["grounding_acc"]) == (9, 2 / 9, 1.0)
    assert result["missing_predictions"] == 5 and result["unknown_predictions_first"] == ["99/0"]
    assert [w.split(": ", 1)[1] for w in result["why"]][1] == "unknown action kind 'fly'" and "p.jsonl:2: line: not JSON" in result["why"][0]
    assert rows[1] == {"id": "7/1", "type_match": True, "correct": True} and rows[8]["id"] == "9/0"
    assert result["subsplits"] == {"IDD": 2 / 8, "app_unseen": 0.0}   # episode 7 is in both lists and counts in the first
    index = tmp_path / "ac_idx.txt"
    write_lines(index, "episode_7_screenshot_1", "episode_7_screenshot_2")
    result, _ = score_bench("androidcontrol", root, "test", predictions=file)
    assert read_index(index) == {"7/1", "7/2"} and (result["n"], result["step_acc"]) == (2, 0.5)
    with pytest.raises(ValueError, match="No such file"):
        read_predictions(tmp_path / "gone.jsonl")


def test_scoring_an_agent_sees_history_and_looks_ahead(tmp_path):
    steps = [odyssey_entry("COMPLETE", "", low_level_instruction=f"do {i}") for i in range(4)]
    seen = []

    def predict(observation, horizon):
        seen.append(observation.history)
        return [Action("done"), Action("wait")][:horizon]
    result, _ = score_bench("gui-odyssey", odyssey_root(tmp_path, {"1": steps}), "random", predict=predict, horizon=3, history=2)
    assert seen == [(), ("do 0",), ("do 0", "do 1"), ("do 1", "do 2")] and (result["AMS"], result["SR"]) == (1, 1)
    assert [(look["k"], look["n"], look["step_acc"]) for look in result["lookahead"]] == [(1, 4, 1.0), (2, 3, 0.0), (3, 2, 0.0)]


@given(st.text("ab", max_size=8), st.text("ab", max_size=8))
def test_edit_distance_is_a_distance(one, two):
    assert edit_distance(one, two) == edit_distance(two, one) <= max(len(one), len(two))
    assert (edit_distance(one, two) == 0) == (one == two)


# ---- streams -------------------------------------------------------------------------------------------------------------------

def test_shuffle_and_mix_are_deterministic():
    assert sorted(stream_shuffled(range(50), 8, random.Random(1))) == list(range(50))
    assert list(stream_shuffled(range(50), 8, random.Random(1))) == list(stream_shuffled(range(50), 8, random.Random(1))) != list(range(50))
    sources = [(3, lambda: "abc"), (1, lambda: "XY")]
    drawn = "".join(itertools.islice(mix(sources, 5), 4000))
    assert drawn == "".join(itertools.islice(mix(sources, 5), 4000)) and 2850 < sum(c.islower() for c in drawn) < 3150
    assert "".join(c for c in drawn if c.islower()).startswith("abcabc")   # a stream that ends is opened again
    with pytest.raises(ValueError, match="no items"):
        next(mix([(1, list)], 0))


READ = """
import sys
sys.path.insert(0, sys.argv[1])
from envs import Report, load_recorded
steps = sum(len(episode.steps) for episode in load_recorded("androidcontrol", sys.argv[2], "test", Report()))
peak = next(line for line in open("/proc/self/status") if line.startswith("VmHWM"))  # ru_maxrss would count the parent's memory
print(steps, int(peak.split()[1]) // 1024)
"""


@pytest.mark.parametrize("episodes", [300, pytest.param(20_000, marks=pytest.mark.slow)])
def test_memory_stays_flat_however_many_episodes(tmp_path, episodes):
    root = android_root(tmp_path, (android(i, screens=[PNG] * 9) for i in range(episodes)), range(episodes))
    script = [sys.executable, "-c", READ, str(Path(__file__).resolve().parent.parent), str(root)]
    steps, megabytes = map(int, subprocess.run(script, capture_output=True, check=True, text=True).stdout.split())
    print(f"{steps} steps read with a peak of {megabytes} MB")
    assert steps == 8 * episodes and megabytes < 400


# ---- from the files to a trained policy and its score --------------------------------------------------------------------------


def test_both_stages_train_on_recorded_steps_and_are_scored(tmp_path, tiny, capsys):
    data = tmp_path / "data"
    data.mkdir()
    actions = [{"action_type": "click", "x": 540, "y": 1200}, {"action_type": "scroll", "direction": "down"}, {"action_type": "wait"}]
    android_root(data, [android(i, actions, [png(64, 48)] * 4) for i in range(8)], test=[6, 7])
    (data / "splits.json").write_text(json.dumps({"train": list(range(6)), "validation": [], "test": [6, 7]}))
    run = tmp_path / "run"
    train.main(["--data", f"androidcontrol:{data}", "--model", str(tiny), "--output_dir", str(run), "--horizon", "3", "--group_size", "4",
                "--prompts_per_update", "4", "--stage1_updates", "2", "--stage2_updates", "2", "--stages", "stage1,stage2"])
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [(line["stage"], line["update"]) for line in lines] == [("stage1", 0), ("stage1", 1), ("stage2", 0), ("stage2", 1)]
    assert all(math.isfinite(line["reward"]) and math.isfinite(line["grad_norm"]) for line in lines)
    rollout = json.loads((run / "rollouts.jsonl").read_text().splitlines()[0])
    assert rollout["observation"]["instruction"] == "Do it" and rollout["reference"][0] in ("click step 0", "scroll down", "wait")
    args = ["--bench", "androidcontrol", "--data", str(data), "--split", "test", "--json", str(tmp_path / "a.json")]
    exam.main([*args, "--run", str(run), "--per_step", str(tmp_path / "steps.jsonl")])
    found, steps = json.loads((tmp_path / "a.json").read_text()), (tmp_path / "steps.jsonl").read_text().splitlines()
    assert found["n"] == len(steps) == 6 and found["protocol"] == "androidcontrol/os-atlas" and [a["k"] for a in found["lookahead"]] == [1, 2, 3]
    answers = [{"id": f"{i}/0", "action": {"kind": "click", "point": [0.5, 0.5], "text": ""}} for i in (6, 7)]
    exam.main([*args, "--predictions", write_lines(tmp_path / "p.jsonl", *map(json.dumps, answers))])
    found = json.loads((tmp_path / "a.json").read_text())
    assert (found["step_acc"], found["missing_predictions"]) == (pytest.approx(2 / 6), 4)
