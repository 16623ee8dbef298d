"""extras/readable_json.py: JSON that a person and a program can both read."""

import json

from hypothesis import given
from hypothesis import strategies as st

from extras.readable_json import readable_json

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=20,
)


@given(json_values)
def test_what_is_written_is_read_back(value):
    assert json.loads(readable_json(value)) == value


def test_three_hundred_numbers_are_one_line():
    text = readable_json({"success": 0.5, "solved": [1, 0] * 150, "shares": [-0.5, 1e-09]})
    lines = text.splitlines()
    assert len(lines) == 5
    assert lines[2].startswith(' "solved": [1, 0, 1, 0')
    assert lines[3] == ' "shares": [-0.5, 1e-09]'


def test_other_lists_have_a_line_for_each_entry():
    assert readable_json(["a", "b"]).splitlines() == ["[", ' "a",', ' "b"', "]"]
    assert len(readable_json([[1, 2], [3, 4]]).splitlines()) == 4


def test_text_that_looks_like_a_list_stays_as_it_is():
    text = "[\n 1,\n 2\n]"
    assert json.loads(readable_json([text, 3])) == [text, 3]
