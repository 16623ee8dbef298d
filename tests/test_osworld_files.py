"""The tasks of a clone of OSWorld, by name; what is damaged is one line with its file."""

import pytest
from osworld_stub import make_clone, make_task, rewrite

from benchmarks.osworld_files import read_tasks


def names_of(tasks) -> list[str]:
    return [task.name for task in tasks]


def test_all_tasks_in_the_order_of_the_clone(tmp_path):
    tasks = read_tasks(make_clone(tmp_path))
    assert names_of(tasks) == ["chrome/aaaa-1", "chrome/bbbb-2", "os/aaaa-1", "os/cccc-3"]
    assert tasks[0].instruction == "Type a<b for aaaa-1"  # on one line, as prompts are
    assert tasks[0].config == make_task("aaaa-1")


@pytest.mark.parametrize(
    ("names", "found"),
    [
        (["chrome"], ["chrome/aaaa-1", "chrome/bbbb-2"]),
        (["os/aaaa-1"], ["os/aaaa-1"]),
        (["os/cccc-3", "os"], ["os/cccc-3", "os/aaaa-1"]),  # each once
        (["nogdrive"], ["os/cccc-3"]),  # the clone's own list of those without Google Drive
    ],
)
def test_tasks_by_name(tmp_path, names, found):
    assert names_of(read_tasks(make_clone(tmp_path), names)) == found


def test_an_unknown_task_is_one_line_that_says_what_there_is(tmp_path):
    with pytest.raises(ValueError) as problem:
        read_tasks(make_clone(tmp_path), ["gimp\n"])
    assert str(problem.value) == (
        "unknown task 'gimp': give domain/id, a domain (chrome, os) or a list of the clone "
        "(all, nogdrive)"
    )


def test_a_folder_that_is_no_clone_is_one_line(tmp_path):
    with pytest.raises(ValueError, match=r"test_all.json is missing; needed: a clone of https"):
        read_tasks(tmp_path)


@pytest.mark.parametrize("listed", [[], {"os": "cccc-3"}, {"..": ["x"]}, {"os": ["../cccc-3"]}])
def test_a_list_of_another_shape_is_one_line(tmp_path, listed):
    with pytest.raises(ValueError, match=r"test_all\.json: ") as problem:
        read_tasks(make_clone(tmp_path, all=listed))
    assert "\n" not in str(problem.value)


@pytest.mark.parametrize(
    ("task", "why"),
    [
        ([], "id: missing"),
        (make_task("dddd-4"), "id: 'dddd-4' in the file of cccc-3"),
        (make_task("cccc-3", instruction=5), "instruction: not a str: 5"),
        (make_task("cccc-3", evaluator={}), "evaluator: no func"),
    ],
)
def test_a_damaged_task_is_one_line_with_its_file(tmp_path, task, why):
    clone = make_clone(tmp_path)
    rewrite(clone, "os/cccc-3", task)
    with pytest.raises(ValueError) as problem:
        read_tasks(clone, ["os"])
    assert f"examples/os/cccc-3.json: {why}; needed: a clone of https" in str(problem.value)


def test_an_empty_list_is_one_line(tmp_path):
    with pytest.raises(ValueError, match="the lists that are asked for are empty"):
        read_tasks(make_clone(tmp_path, small={"os": []}), ["small"])


def test_a_missing_task_is_one_line(tmp_path):
    clone = make_clone(tmp_path, all={"os": ["eeee-5"]})
    with pytest.raises(ValueError, match=r"os/eeee-5\.json: No such file"):
        read_tasks(clone)
