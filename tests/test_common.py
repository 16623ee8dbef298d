"""What all benchmarks share: checks of untrusted input, screenshots, the way to the episodes."""

import contextlib
import math
import re
import struct
import zlib
from collections import Counter

import pytest
from benchmark_data import load, write_lines
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.common import (
    BadRecord,
    Report,
    by,
    find_file,
    get,
    image_size,
    inside_any,
    mean,
    numbers,
    on_screen,
    parse_action,
    parse_json,
    parse_python,
    read_image,
    read_lists,
    read_predictions,
    refuse_too_many_bad,
    set_f1,
    unit_box,
    within,
)
from envs import Action
from extras.made_up_android import PNG, png

# ---- Screenshots -------------------------------------------------------------------------------


def test_an_image_is_read_as_rgb_and_its_size_without_decoding():
    picture = read_image(png(6, 4))
    assert (picture.mode, picture.size) == ("RGB", (6, 4))
    assert image_size(png(6, 4)) == (6, 4)
    assert image_size(PNG[:-30]) == (8, 8)  # the pixels are damaged, the header is not


@pytest.mark.parametrize("side", [30_000, 10_000])  # Pillow's limit stops the first, ours the other
def test_a_bomb_is_refused_by_its_header(side):
    header = b"IHDR" + struct.pack(">II5B", side, side, 8, 2, 0, 0, 0)
    checksum = struct.pack(">I", zlib.crc32(header))
    bomb = PNG[:12] + header + checksum + PNG[33:]  # only a few bytes of pixels
    with pytest.raises(BadRecord, match="pixels"):
        read_image(bomb, "here")


@pytest.mark.parametrize("blob", [b"", b"GIF89a", PNG[:40], PNG[:-30]])
def test_a_damaged_or_foreign_image_is_named(blob):
    with pytest.raises(BadRecord, match="^here: screenshot: "):
        read_image(blob, "here")


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=200), st.integers(0, 59))
def test_hostile_images_raise_bad_record_or_nothing(blob, cut):
    for picture in (blob, PNG[:cut] + blob):
        with contextlib.suppress(BadRecord):
            read_image(picture)


# ---- Values ------------------------------------------------------------------------------------


def test_a_field_is_there_and_of_its_type_or_named():
    assert get({"a": "x"}, "a") == "x"
    with pytest.raises(BadRecord, match="^a: missing$"):
        get({}, "a")
    with pytest.raises(BadRecord, match="^a: missing$"):
        get(7, "a")
    with pytest.raises(BadRecord, match="^a: not a str: 7$"):
        get({"a": 7}, "a")


@pytest.mark.parametrize("value", ["1, 2", [1], [1, True], [1, "2"], [1, math.nan], [1, 10**400]])
def test_two_numbers_are_two_numbers(value):
    assert numbers([1, 2.5], 2, "p") == [1, 2.5]
    with pytest.raises(BadRecord, match="^p: 2 numbers expected"):
        numbers(value, 2, "p")


def test_points_and_boxes_become_shares_of_the_screen():
    assert on_screen(50, 200, 100, 200, "p") == (0.5, 1.0)
    with pytest.raises(BadRecord, match=r"^p: \(101, 5\) is outside the screen of 100 x 200"):
        on_screen(101, 5, 100, 200, "p")
    with pytest.raises(BadRecord, match="outside"):
        on_screen(0, 0, 0, 0, "p")
    assert unit_box(-50, 0, 50, 100, 100, 200) == ((0.0, 0.0, 0.5, 0.5),)  # cut at the edge
    assert unit_box(100, 0, 150, 100, 100, 200) == ()  # nothing of it is on the screen


@pytest.mark.parametrize("text", ["{oops", "[" * 100_000, None])
def test_what_is_no_json_is_named(text):
    with pytest.raises(BadRecord, match="^line: not JSON"):
        parse_json(text, "line")


def test_code_is_parsed_up_to_a_length():
    assert len(parse_python("f(1)").body) == 1
    with pytest.raises(SyntaxError):
        parse_python("f(1)\n" * 10_000)


def test_an_action_in_our_own_notation():
    record = {"action": {"kind": "click", "point": [0.5, 1], "text": "two\nlines"}}
    assert parse_action(record) == Action("click", "two lines", (0.5, 1))
    assert parse_action({"action": {"kind": "wait"}}) == Action("wait")
    with pytest.raises(ValueError, match="unknown action kind 'fly'"):
        parse_action({"action": {"kind": "fly"}})
    with pytest.raises(BadRecord, match="point: 2 numbers expected"):
        parse_action({"action": {"kind": "click", "point": "here"}})


def test_a_drag_in_our_own_notation_may_say_where_it_ends():
    drag = {"kind": "drag", "text": "Box to Bin", "point": [0.2, 0.5], "end": [0.8, 1]}
    assert parse_action({"action": drag}) == Action("drag", "Box to Bin", (0.2, 0.5), (0.8, 1))
    without = {"kind": "drag", "text": "Box to Bin", "point": None, "end": None}
    assert parse_action({"action": without}) == Action("drag", "Box to Bin")
    with pytest.raises(BadRecord, match="end: 2 numbers expected"):
        parse_action({"action": {"kind": "drag", "end": [0.5]}})
    with pytest.raises(ValueError, match="click has no end"):
        parse_action({"action": {"kind": "click", "point": [0.5, 0.5], "end": [0.5, 0.5]}})


# ---- Files -------------------------------------------------------------------------------------


def test_a_record_cannot_name_a_file_outside_its_data_set(tmp_path):
    assert within(tmp_path, "a/b.png") == tmp_path.resolve() / "a" / "b.png"
    for name in ("../b.png", "/etc/passwd"):
        with pytest.raises(BadRecord, match="leaves the data set"):
            within(tmp_path, name)


def test_a_file_is_found_under_one_of_its_names(tmp_path):
    (tmp_path / "b").write_text("")
    assert find_file(tmp_path, "a", "b") == tmp_path / "b"
    with pytest.raises(ValueError, match="a is missing"):
        find_file(tmp_path, "a", "c")


@pytest.mark.parametrize("content", ["{", "[]", '{"test": 7}', '{"test": [1.5]}'])
def test_a_split_file_is_an_object_of_lists_of_ids(tmp_path, content):
    file = tmp_path / "splits.json"
    file.write_text('{"test": [1, "b"]}')
    assert read_lists(file) == {"test": [1, "b"]}
    file.write_text(content)
    with pytest.raises(ValueError, match="splits.json: "):
        read_lists(file)


def test_predictions_are_read_by_id_and_their_faults_are_named(tmp_path):
    file = write_lines(
        tmp_path / "p.jsonl", {"id": "a", "x": 1}, {"id": 7}, {"id": "a", "x": 2}, "{oops", {"x": 3}
    )
    answers, faults = read_predictions(file, lambda record: get(record, "x", int))
    assert answers == {"a": 1, "7": None}  # None: there is an answer, but it is wrong
    assert [fault.removeprefix(f"{file}:") for fault in faults][:2] == [
        "2: x: missing",
        "3: id: a is there twice",
    ]
    assert (
        faults[2].startswith(f"{file}:4: line: not JSON") and faults[3] == f"{file}:5: id: missing"
    )
    with pytest.raises(ValueError, match="No such file"):
        read_predictions(tmp_path / "gone.jsonl", parse_action)


# ---- The report --------------------------------------------------------------------------------


def test_a_report_counts_all_and_keeps_messages_short_and_printable():
    report = Report()
    for _ in range(1200):
        report.skip("steps", "bad\n\ud800 " + "x" * 1000)
    assert report.bad == {"steps": 1200} and len(report.messages) == 1000
    assert (
        report.messages[0].text.startswith("bad \\ud800 xxx")
        and len(report.messages[0].text) == 300
    )


def test_a_report_names_ten_of_each_note():
    report = Report()
    for number in range(20):
        report.note(f"file {number}", "no screenshot")
    assert report.notes == {"no screenshot": 20} and not report.bad
    assert len(report.messages) == 10 and report.messages[0].text == "file 0: no screenshot"


def test_what_is_too_bad_is_shown_by_the_first_of_its_own_unit(tmp_path):
    report = Report(seen=Counter(episodes=10, steps=1000))
    report.note("file 0", "no screenshot")
    for number in range(1200):
        report.skip("files", f"file {number} is damaged")
    report.skip("steps", "step 7 is odd")
    report.skip("episodes", "record 3 has no goal")
    said = "1 of 11 episodes are bad (over 5 %), the first: record 3 has no goal"
    with pytest.raises(ValueError, match=re.escape(said)):
        refuse_too_many_bad(tmp_path, report)


# ---- One line for the user ---------------------------------------------------------------------


def test_an_unknown_data_set_is_told_in_one_line(tmp_path):
    with pytest.raises(ValueError, match="unknown data set 'other': androidcontrol") as error:
        load("other", tmp_path, "test")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["androidcontrol", "gui-odyssey", "mind2web", "agentnet"])
def test_a_missing_folder_is_told_in_one_line(tmp_path, name):
    with pytest.raises(ValueError, match="no such folder"):
        load(name, tmp_path / "gone", "test")


# ---- Rules and sums ----------------------------------------------------------------------------


def test_a_point_on_the_edge_of_a_box_is_inside():
    boxes = [(0.0, 0.0, 0.1, 0.1), (0.5, 0.5, 0.9, 0.9)]
    assert inside_any((0.9, 0.5), boxes)
    assert inside_any((0.3, 0.3), boxes) is False
    assert inside_any(None, boxes) is False


def test_f1_of_sets():
    assert set_f1({"a", "b"}, {"a", "c"}) == 0.5
    assert set_f1({"a"}, {"b"}) == set_f1(set(), set()) == 0.0


def test_means_and_groups():
    assert mean([1, 2]) == 1.5 and mean([]) is None
    assert by(["aa", "b", "cc"], len) == {2: ["aa", "cc"], 1: ["b"]}
