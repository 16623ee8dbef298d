"""AndroidControl: conversions worked out by hand, bad input, every quirk of OS-Atlas's rule."""

import contextlib
import gzip
import struct
import subprocess
import sys
from pathlib import Path

import pytest
from benchmark_data import load, write_lines
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.androidcontrol import (
    box,
    fields,
    os_atlas,
    read_example,
    read_index,
    smallest_node,
)
from benchmarks.common import BadRecord, Step, StepScore
from envs import Action
from extras.made_up_android import PNG, android_record, example, write_android_control

WAIT = {"action_type": "wait"}

# ---- Conversions -------------------------------------------------------------------------------


@pytest.mark.parametrize("packed", [True, False])
def test_android_control_by_hand(tmp_path, packed):
    records = [android_record(7, packed=packed), android_record(8)]
    root = write_android_control(tmp_path, records, test=[7])
    (episode,), report = load("androidcontrol", root, "test")
    assert (episode.id, episode.instruction, report.messages) == ("7", "Do it", [])
    assert [step.action for step in episode.steps] == [
        Action("open_app", "Notes"),
        Action("click", "step 1", (0.5, 0.5)),
        Action("type", "new york"),
        Action("scroll", "down"),  # the content's direction
        Action("long_press", "step 4", (0.0, 1.0)),
        Action("back"),
        Action("home"),
        Action("wait"),
    ]
    smallest_visible = (500 / 1080, 1100 / 2400, 600 / 1080, 1300 / 2400)  # not the invisible one
    assert episode.steps[1].boxes == (smallest_visible,)
    cut_at_the_edge = (0.0, 2300 / 2400, 200 / 1080, 1.0)  # its left is -50
    assert episode.steps[4].boxes == (cut_at_the_edge,)
    assert episode.steps[0].boxes == ()
    assert episode.steps[0].screenshot().size == (8, 8)
    assert episode.raw["texts"] == tuple(f"step {number}" for number in range(8))
    assert episode.raw["subsplit"] == "IDD"


# ---- Bad input ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "bad, named",
    [
        ({"action_type": "fly"}, "unknown action_type 'fly'"),
        ({"action_type": "click", "x": 1081, "y": 5}, "outside the screen of 1080 x 2400"),
        ({"action_type": "click", "x": -1, "y": 5}, "outside the screen"),
        ({"action_type": "click", "x": "5", "y": 5}, "actions: x, y"),
        (b"{not json", "actions: not JSON"),
        (b"[1]", "action_type: missing"),
        (b"[" * 100_000, "actions: not JSON"),
        ({"action_type": "scroll", "direction": "sideways"}, "scroll "),
        ({"action_type": "input_text"}, "text: missing"),
    ],
)
def test_a_bad_step_is_named_and_the_rest_stays(tmp_path, bad, named):
    record = android_record(7, [WAIT] * 40 + [bad, WAIT])
    root = write_android_control(tmp_path, [record], test=[7])
    (episode,), report = load("androidcontrol", root, "test")
    assert len(episode.steps) == 41
    assert episode.steps[-1].raw["index"] == 41  # the hole shows
    assert report.bad == {"steps": 1}
    where = "android_control-00000-of-00001: record 0: step 40: "
    assert report.messages[0].text.startswith(where) and named in report.messages[0].text


@pytest.mark.parametrize(
    "feature, named",
    [
        ("goal", "goal: missing or not text"),
        ("actions", "actions: missing or not text"),
        ("step_instructions", "step_instructions: not text"),
    ],
)
def test_numbers_in_the_place_of_text_are_named(tmp_path, feature, named):
    features = {"goal": ["Do it"], "actions": ["{}"], "step_instructions": ["Tap"], feature: [5]}
    root = write_android_control(tmp_path, [example({"episode_id": [7], **features})], test=[7])
    with pytest.raises(ValueError, match=f"00000-of-00001: record 0: {named}$"):
        load("androidcontrol", root, "test")


def test_a_missing_screenshot_costs_its_step(tmp_path):
    record = android_record(7, [WAIT] * 42, screens=[PNG] * 41 + [b""])
    root = write_android_control(tmp_path, [record], test=[7])
    (episode,), report = load("androidcontrol", root, "test")
    assert len(episode.steps) == 41 and report.bad == {"steps": 1}
    assert "step 41: screenshots: missing" in report.messages[0].text


def test_damaged_shards_keep_what_came_before(tmp_path):
    records = [android_record(ident) for ident in range(40)]
    root = write_android_control(tmp_path, records, test=range(45))
    shard = root / "android_control-00000-of-00001"
    whole = shard.read_bytes()
    (root / "android_control-00001-of-00002").write_bytes(b"no gzip at all")

    episodes, report = load("androidcontrol", root, "test")
    no_gzip = "00001-of-00002: gzip: Error -3 while decompressing data: incorrect header check"
    assert len(episodes) == 40 and no_gzip in report.messages[0].text
    assert "5 episodes of split test are in no readable shard" in report.messages[1].text

    shard.write_bytes(whole[:-400])
    episodes, report = load("androidcontrol", root, "test")
    assert 0 < len(episodes) < 40 and report.bad == {"files": 2}
    assert "TFRecord: cut short" in report.messages[0].text

    a_terabyte = struct.pack("<QI", 1 << 40, 0)
    with gzip.open(shard, "wb") as file:
        file.write(gzip.decompress(whole) + a_terabyte)
    _, report = load("androidcontrol", root, "test")
    assert "1,099,511,627,776 bytes" in report.messages[0].text  # named, not believed

    shard.unlink()
    empty = "'test' of androidcontrol is empty: .*incorrect header check"
    with pytest.raises(ValueError, match=empty):
        load("androidcontrol", root, "test")


def test_one_line_for_the_user(tmp_path):
    with pytest.raises(ValueError, match="splits.json: No such file") as error:
        load("androidcontrol", tmp_path, "test")
    assert "\n" not in str(error.value)
    root = write_android_control(tmp_path, [android_record(7)], test=[7])
    with pytest.raises(ValueError, match="no split 'no'; there are train, validation, test, IDD"):
        load("androidcontrol", root, "no")


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=200), st.integers(0, 10_000), st.integers(0, 255))
def test_hostile_bytes_raise_bad_record_or_nothing(blob, at, byte):
    damaged = bytearray(android_record(7))
    damaged[at % len(damaged)] = byte
    with contextlib.suppress(BadRecord):
        list(fields(memoryview(blob)))
    with contextlib.suppress(BadRecord):
        read_example(memoryview(bytes(damaged)))
    with contextlib.suppress(BadRecord):
        smallest_node(memoryview(blob), 1, 1)


# ---- Memory ------------------------------------------------------------------------------------

# VmHWM: ru_maxrss would count the parent's memory.
READ = """
import sys
sys.path.insert(0, sys.argv[1])
from benchmarks.catalog import load_recorded
from benchmarks.common import Report
episodes = load_recorded("androidcontrol", sys.argv[2], "test", Report())
steps = sum(len(episode.steps) for episode in episodes)
peak = next(line for line in open("/proc/self/status") if line.startswith("VmHWM"))
print(steps, int(peak.split()[1]) // 1024)
"""


@pytest.mark.parametrize("episodes", [300, pytest.param(20_000, marks=pytest.mark.slow)])
def test_memory_stays_flat_however_many_episodes(tmp_path, episodes):
    records = (android_record(ident, screens=[PNG] * 9) for ident in range(episodes))
    root = write_android_control(tmp_path, records, test=range(episodes))
    project = Path(__file__).resolve().parent.parent
    script = [sys.executable, "-c", READ, str(project), str(root)]
    done = subprocess.run(script, capture_output=True, check=True, text=True)
    steps, megabytes = map(int, done.stdout.split())
    print(f"{steps} steps read with a peak of {megabytes} MB")
    assert steps == 8 * episodes and megabytes < 400


# ---- The rules ---------------------------------------------------------------------------------


def gold(action: Action, boxes=()) -> Step:
    return Step(lambda: None, action, boxes, {"index": 0})


@pytest.mark.parametrize(
    "ours, theirs, type_match, correct",
    [
        (("click", "", (0.64, 0.5)), ("click", "", (0.5, 0.5)), True, True),  # exactly 140 apart
        (("click", "", (0.641, 0.5)), ("click", "", (0.5, 0.5)), True, False),
        (("click", "", None), ("click", "", (0.5, 0.5)), True, False),
        (("long_press", "", (0.5, 0.5)), ("click", "", (0.5, 0.5)), False, False),
        (("type", "new york"), ("type", "New jersey"), True, True),  # only the first word counts
        (("type", "new"), ("type", "new york"), True, False),  # "[new]" is not "[new"
        (("type", ""), ("type", ""), True, True),
        (("type", "a"), ("type", ""), True, False),
        (("open_app", "notes"), ("open_app", "Notes"), True, True),
        (("open_app", "notes"), ("type", "notes"), False, False),
        (("scroll", "up"), ("scroll", "up"), True, True),
        (("scroll", "up"), ("scroll", "down"), True, False),
        (("wait",), ("wait",), True, True),
        (("done",), ("wait",), False, False),
    ],
)
def test_os_atlas(ours, theirs, type_match, correct):
    score = os_atlas(Action(*ours), gold(Action(*theirs)))
    assert score == StepScore(type_match=type_match, correct=correct)


def test_no_answer_is_wrong():
    assert os_atlas(None, gold(Action("wait"))) == StepScore(type_match=False, correct=False)
    assert box(None, gold(Action("wait"))) == StepScore(type_match=False, correct=False)


def test_box_variant():
    wide_element = (0.0, 0.0, 1.0, 0.3)
    step = gold(Action("click", "", (0.1, 0.1)), (wide_element,))
    assert box(Action("click", "", (1.0, 0.3)), step).correct  # on its edge, far from the point
    assert box(Action("click", "", (0.1, 0.31)), step).correct is False
    without_box = gold(step.action)
    assert box(Action("click", "", (0.1, 0.2)), without_box).correct  # the 14 % rule


# ---- OS-Atlas's list of steps ------------------------------------------------------------------


def test_the_list_of_steps(tmp_path):
    index = tmp_path / "ac_idx.txt"
    write_lines(index, "episode_7_screenshot_1", "", "episode_7_screenshot_2")
    assert read_index(index) == {"7/1", "7/2"}
    index.write_text("episode 7")
    with pytest.raises(ValueError, match="not a list of episode_<id>_screenshot_<k>"):
        read_index(index)
