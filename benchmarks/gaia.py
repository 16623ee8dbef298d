"""GAIA (gaia-benchmark/GAIA), questions with one short answer: its reader and its rule.

Called through catalog.py, as BENCHMARK; the rule by tool_scoring.py.
It downloads nothing (the set is gated), and reads no attachment but pictures.
"""

import math
import re
import string
from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path

from benchmarks.common import (
    BadRecord,
    Benchmark,
    Entry,
    Episode,
    Record,
    Report,
    find_file,
    get,
    parse_json,
    within,
)
from benchmarks.toolbox import Row, Run, Turn, rate, tool_record
from envs import Action, one_line

# ---- the reader -------------------------------------------------------------------------------


def read(root: Path, split: str, report: Report) -> Iterator[Entry]:
    """GAIA's questions, from 2023/<split>/metadata.jsonl or else metadata.parquet.

    The attachments are beside it; parquet needs pyarrow.
    """
    if split not in ("validation", "test"):
        raise ValueError(f"gaia has the splits validation and test, not {split!r}")
    folders = (f"2023/{split}/", f"{split}/", "")
    jsonl = [f"{folder}metadata.jsonl" for folder in folders]
    parquet = [f"{folder}metadata.parquet" for folder in folders]
    file = find_file(root, *jsonl, *parquet)
    rows = read_parquet(file) if file.suffix == ".parquet" else file.read_bytes().split(b"\n")
    for number, row in enumerate(rows, 1):
        if row and row != b"\r":  # no empty line
            where = f"{file.name}: line {number}"
            yield Entry(where, partial(read_record, row, file.parent, where))


def read_parquet(file: Path) -> list[dict]:
    try:
        from pyarrow import parquet
    except ImportError:
        raise ValueError("gaia's parquet needs pyarrow: pip install pyarrow") from None
    return parquet.read_table(file).to_pylist()


def read_record(row: dict | bytes, folder: Path, where: str) -> Record:
    """One step: the answer.

    raw: level (1, 2, 3), answer (None: private, as in the test split), files {name: path},
    file_missing.
    """
    if isinstance(row, bytes):
        row = parse_json(row, "line")
    level = get(row, "Level", object)  # text in some releases, a number in others
    if str(level) not in ("1", "2", "3"):
        raise BadRecord(f"Level: {str(level)[:40]!r} is not 1, 2 or 3")
    answer = row.get("Final answer")
    answer = None if answer in (None, "?") else str(answer)
    files = {}
    picture = None
    missing = False
    if row.get("file_name"):
        name = get(row, "file_name")
        path = within(folder, name)
        files[name] = path
        missing = not path.is_file()
        if not missing and path.suffix.lower() in (".png", ".jpg", ".jpeg"):
            picture = path
    return tool_record(
        ident=get(row, "task_id"),
        goal=get(row, "Question"),
        picture=picture,
        where=where,
        turns=[Turn(Action("answer", "" if answer is None else one_line(answer)))],
        raw={"level": int(level), "answer": answer, "files": files, "file_missing": missing},
    )


BENCHMARK = Benchmark(read=read, default_split="validation")


# ---- the rule, to the letter of the leaderboard's scorer.py -------------------------------------


def question_scorer(answer, truth) -> bool:
    """GAIA's quasi exact match: a number, else a list, else a string, as the ground truth is.

    None is "None" officially; numbers and lists crash there and are taken as text here.

    >>> question_scorer("$1,234", "1234"), question_scorer("b; a", "a, b")
    (True, False)
    >>> question_scorer("Sea gull.", "seagull")
    True
    """
    answer = str(answer)
    truth = str(truth)
    if to_number(truth) is not None:
        return same_number(answer, truth)
    if "," in truth or ";" in truth:
        return same_list(answer, truth)
    return same_string(answer, truth, without=string.punctuation)


def same_number(answer: str, truth: str) -> bool:
    """What is no number becomes infinity, so that "inf" is matched by any nonsense."""
    number = to_number(re.sub("[$%,]", "", answer))
    if number is None:
        number = math.inf
    return number == to_number(truth)


def same_list(answer: str, truth: str) -> bool:
    """Part by part; inside a list the punctuation counts, outside it does not."""
    ours = re.split("[,;]", answer)
    theirs = re.split("[,;]", truth)
    if len(ours) != len(theirs):
        return False
    return all(map(same_part, ours, theirs))


def same_part(answer: str, truth: str) -> bool:
    if to_number(truth) is not None:
        return same_number(answer, truth)
    return same_string(answer, truth)


def same_string(answer: str, truth: str, without: str = "") -> bool:
    return bare(answer, without) == bare(truth, without)


def bare(text: str, without: str) -> str:
    """The text in small letters, without spaces and without these characters."""
    small = re.sub(r"\s", "", text).lower()
    return small.translate(str.maketrans("", "", without))


def to_number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


# ---- sums -------------------------------------------------------------------------------------


def score_answers(episodes: list[Episode], runs: dict[str, Run]) -> tuple[dict, list[Row]]:
    """AnsAcc overall and per level, in per cent.

    A question without a prediction is wrong; one without a public answer is not scored.
    """
    rows = [answer_row(episode, runs.get(episode.id)) for episode in episodes]
    sums = {
        "answers_private": sum(row.correct is None for row in rows),
        "attachments_missing": sum(episode.raw["file_missing"] for episode in episodes),
    }
    sums |= share_of_right(rows)
    by_level = {}
    for row, episode in zip(rows, episodes, strict=True):
        if row.correct is not None:
            by_level.setdefault(episode.raw["level"], []).append(row)
    for level in sorted(by_level):
        sums[f"level_{level}"] = share_of_right(by_level[level])
    return sums, rows


def answer_row(episode: Episode, run: Run | None) -> Row:
    truth = episode.raw["answer"]
    if truth is None:
        return Row(episode.id, None)
    if run is None:
        return Row(episode.id, False)
    return Row(episode.id, question_scorer(run.answer, truth))


def share_of_right(rows: Iterable[Row]) -> dict:
    scores = [row.correct for row in rows if row.correct is not None]
    right = sum(scores)
    return {"ans_acc": rate(right, len(scores)), "right": right, "n": len(scores)}
