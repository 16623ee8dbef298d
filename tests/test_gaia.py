"""GAIA: its records and its rule."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from benchmarks.catalog import load_recorded
from benchmarks.common import Report
from benchmarks.gaia import question_scorer, score_answers
from benchmarks.toolbox import Row, Run

QUESTIONS = [
    {"Level": 1, "Final answer": "7", "file_name": ""},
    {"Level": 1, "Final answer": "a, b", "file_name": "t1.xlsx"},  # which is not there
    {"Level": "2", "Final answer": "x", "file_name": ""},
    {"Level": 3, "Final answer": "?", "file_name": "p.png"},  # a private answer
]


def gaia_rows() -> list[dict]:
    return [{"task_id": f"t{n}", "Question": "?", **row} for n, row in enumerate(QUESTIONS)]


def gaia_root(tmp_path, bad: bool = False):
    """A data set of four questions, as jsonl; `bad`: four more lines."""
    folder = tmp_path / "2023" / "validation"
    folder.mkdir(parents=True)
    rows = gaia_rows()
    lines = [json.dumps(row) for row in rows]
    if bad:
        lines += [
            "{broken",
            '{"task_id": "t9", "Question": "?"}',
            json.dumps({**rows[0], "file_name": "../../../etc/passwd"}),
            "[1]",
        ]
    (folder / "metadata.jsonl").write_text("\n".join(lines) + "\r\n\n")
    Image.new("RGB", (5, 5)).save(folder / "p.png")
    return tmp_path


def gaia_parquet_root(tmp_path):
    """The same four questions as parquet."""
    from pyarrow import Table, parquet

    folder = tmp_path / "2023" / "validation"
    folder.mkdir(parents=True)
    rows = [{**row, "Level": str(row["Level"])} for row in gaia_rows()]
    parquet.write_table(Table.from_pylist(rows), folder / "metadata.parquet")
    Image.new("RGB", (5, 5)).save(folder / "p.png")
    return tmp_path


# ---- records ----------------------------------------------------------------------------------


@pytest.fixture(params=["jsonl", "parquet"])
def episodes(request, tmp_path):
    if request.param == "jsonl":
        root = gaia_root(tmp_path)
    else:
        pytest.importorskip("pyarrow")
        root = gaia_parquet_root(tmp_path)
    return list(load_recorded("gaia", root, "validation", Report()))


def test_a_question_shows_its_picture_or_a_white_one(episodes):
    assert episodes[3].steps[0].screenshot().size == (5, 5)
    assert episodes[0].steps[0].screenshot().size == (32, 32)


def test_bad_records_are_named(tmp_path):
    report = Report()
    with pytest.raises(ValueError, match="4 of 8 episodes are bad"):
        list(load_recorded("gaia", gaia_root(tmp_path, bad=True), "validation", report))
    expected = ["line 5: line: not JSON", "line 6: Level", "line 7: path", "line 8: Level"]
    for beginning, message in zip(expected, report.texts(), strict=True):
        assert beginning in message


@pytest.mark.parametrize("split", ["test", "train"])
def test_no_data_is_one_line(tmp_path, split):
    with pytest.raises(ValueError) as problem:
        load_recorded("gaia", tmp_path, split, Report())
    assert "\n" not in str(problem.value)


# ---- the rule ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("answer", "truth", "right"),
    [
        ("17", "17", True),
        ("17.0", "17", True),
        ("$1,234.50", "1234.5", True),
        ("45%", "45", True),
        ("17 cm", "17", False),
        ("", "17", False),
        (" 17\n", "17", True),
        ("1e3", "1000", True),
        ("1_000", "1000", True),
        ("nan", "nan", False),
        ("anything", "inf", True),
        ("-0", "0", True),
        ("a, b", "a,b", True),
        ("a;b", "a, b", True),
        ("b, a", "a, b", False),
        ("a, b, c", "a, b", False),
        ("A , B", "a,b", True),
        ("a., b", "a, b", False),
        ("1, two", "1.0,Two", True),
        ("$1, 2%", "1;2", True),
        ("1", "1,000", False),
        ("1,000", "1,000", True),
        ("1,0", "1,000", True),
        ("'a', b", "a, b", False),
        ("Sea gull", "seagull", True),
        ("St. Petersburg", "st petersburg", True),
        ("right-hand", "Right hand.", True),
        ("é", "e", False),
        ("", "?", True),
        ("“x”", "x", False),
        ("x y", "xy", True),
        (None, "None", True),
        (None, "none.", True),
        (None, "3", False),
        (3, "3", True),
        (["a", "b"], "a,b", False),
    ],
)
def test_question_scorer(answer, truth, right):
    assert question_scorer(answer, truth) is right


@given(st.text(max_size=30) | st.none(), st.text(max_size=30))
def test_question_scorer_never_raises_and_knows_its_own_answer(answer, truth):
    assert question_scorer(answer, truth) in (True, False)
    odd = "nan" in truth.lower() or any(sign in truth for sign in "%$,")
    assert question_scorer(truth, truth) or odd


# ---- the rates --------------------------------------------------------------------------------


def test_answers_are_counted_overall_and_by_level(episodes):
    runs = {"t0": Run("7.0"), "t1": Run("a,c"), "zz": Run("x")}
    found, rows = score_answers(episodes, runs)
    assert rows == [Row("t0", True), Row("t1", False), Row("t2", False), Row("t3", None)]
    assert found["ans_acc"] == pytest.approx(100 / 3)
    assert found["level_1"]["ans_acc"] == 50
    assert found["level_2"]["n"] == 1
    assert found["attachments_missing"] == 1
    assert found["answers_private"] == 1
