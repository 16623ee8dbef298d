"""MM-Traj: trajectories in both of its forms, and calls that are read from code."""

import json

import pytest
from PIL import Image

from benchmarks.catalog import load_recorded
from benchmarks.common import BadRecord, Report
from benchmarks.mmtraj import code_calls
from benchmarks.toolbox import Call
from benchmarks.training import Source, recorded_examples

FIRST_CODE = 'total = visualizer("What total?", image_path="f/r.jpg")\nprint(total)'
TALK = [
    ("system", "sys"),
    ("user", "<image_00>\nTask: What is the total?\nAttachment: f/r.jpg;"),
    ("assistant", f"Thought: read.\n\nCode:\n```py\n{FIRST_CODE}\n```"),
    ("user", "[OUTPUT OF STEP 0] Observation:\n18.40"),
    ("assistant", "Code:\n```python\nimport os\nprint(2)\n```"),
    ("user", "2"),
    ("assistant", "Code:\n```py\nfinal_answer(total)\n```"),
]


def minicpm_form(talk) -> list[dict]:
    return [{"role": role, "content": content} for role, content in talk]


def qwen_form(talk) -> list[dict]:
    picture = "Picture 1: <img>r.jpg</img>"
    return [
        {"from": role, "value": content.replace("<image_00>", picture)} for role, content in talk
    ]


def trajectory(ident: str, conversations: list[dict], image=None) -> dict:
    return {
        "id": ident,
        "image": image or {"<image_00>": "r.jpg"},
        "answer": "18.40",
        "correct": "yes",
        "traj_verification": "",
        "conversations": conversations,
    }


def good_trajectories() -> list[dict]:
    return [
        trajectory("d1", minicpm_form(TALK)),
        trajectory("d2", qwen_form(TALK), image="r.jpg"),
    ]


def bad_trajectories() -> list:
    """Six that cannot be read, and one that is odd and can."""
    prose_alone = [*TALK[:2], ("assistant", "It is 18.40.")]
    no_python = [(role, content.replace("print(", "print((")) for role, content in TALK]
    odd_answer = [("assistant", "```py\nfinal_answer({(1, 2): {3}})\n```")]
    return [
        trajectory("d3", minicpm_form(no_python)),
        trajectory("d4", minicpm_form(TALK[:-1])),  # without an end
        {"id": "d5"},
        5,
        trajectory("d7", minicpm_form(TALK), image="../../x"),
        trajectory("d8", minicpm_form(odd_answer)),
        trajectory("d9", minicpm_form(prose_alone)),
    ]


def write_root(folder, trajectories: list):
    (folder / "mat.json").write_text(json.dumps(trajectories))
    Image.new("RGB", (7, 7)).save(folder / "r.jpg")
    return folder


def test_both_forms_give_the_same_steps(tmp_path):
    root = write_root(tmp_path, good_trajectories())
    first, second = load_recorded("mmtraj", root, "train", Report())
    assert first.instruction == second.instruction
    assert first.instruction.startswith("What is the total?")
    assert first.steps[0].action == second.steps[0].action
    assert first.steps[0].screenshot().size == (7, 7)
    assert second.steps[0].screenshot().size == (7, 7)


def test_calls_are_steps_and_final_answer_ends_it(tmp_path):
    root = write_root(tmp_path, good_trajectories())
    episode = next(load_recorded("mmtraj", root, "train", Report()))
    looked, computed, answered = episode.steps
    assert [step.action.kind for step in episode.steps] == ["call", "call", "answer"]
    question = 'visualizer {"question": "What total?", "image_path": "f/r.jpg"}'
    assert looked.action.text == question
    assert "18.40" in looked.raw["observation"]
    assert computed.raw["name"] == "python"
    assert answered.action.text == "18.40"  # of a variable: the answer on record


def test_it_can_be_trained_on(tmp_path):
    root = write_root(tmp_path, good_trajectories())
    batches = recorded_examples(
        [Source("mmtraj", str(root), 1.0)],
        seed=0,
        stage="stage1",
        horizon=5,
        history=4,
        prompts_per_update=16,
        first=0,
    )
    batch = next(batches)
    assert len(batch) == 16
    assert {example.reference[-1].kind for example in batch} == {"answer"}


def test_a_turn_of_prose_is_left_out_and_the_rest_stays(tmp_path):
    prose = [
        ("assistant", "**Final Answer:** it is 18.40."),
        ("user", "[OUTPUT OF STEP 2] Error: Error in code parsing: ..."),
    ]
    talk = [*TALK[:-1], *prose, TALK[-1]]
    root = write_root(tmp_path, [trajectory("d1", qwen_form(talk))])
    report = Report()
    (episode,) = load_recorded("mmtraj", root, "train", report)
    found = [(step.action.kind, step.raw["index"]) for step in episode.steps]
    assert found == [("call", 0), ("call", 1), ("answer", 2)]  # no hole: nothing was done in it
    assert not report.bad
    assert report.texts("note") == [
        "mat.json: record 0: an assistant's turn without a code block is left out"
    ]


def test_a_file_that_is_cut_off_keeps_what_came_before(tmp_path):
    root = write_root(tmp_path, good_trajectories())
    file = root / "mat.json"
    file.write_text(file.read_text()[:-100])
    report = Report()
    episodes = list(load_recorded("mmtraj", root, "train", report))
    assert [episode.id for episode in episodes] == ["d1"]
    assert report.bad == {"files": 1}
    assert report.messages[0].text.startswith("mat.json: not JSON, or cut off (")


@pytest.mark.parametrize("content", ["", "{}", '{"id": "d1"}', "[" * 100_000])
def test_a_file_that_is_no_list_of_records_is_one_line(tmp_path, content):
    (tmp_path / "mat.json").write_text(content)
    with pytest.raises(ValueError, match="'train' of mmtraj is empty: mat.json: ") as problem:
        load_recorded("mmtraj", tmp_path, "train", Report())
    assert "\n" not in str(problem.value)


def test_bad_records_are_named(tmp_path):
    root = write_root(tmp_path, good_trajectories() + bad_trajectories())
    report = Report()
    with pytest.raises(ValueError, match="bad"):
        list(load_recorded("mmtraj", root, "train", report))
    bad = report.texts("episodes")
    assert len(bad) == 6
    assert all("mat.json: record" in message for message in bad)
    assert "not Python" in bad[0]
    assert bad[5] == "mat.json: record 8: conversations: final_answer is never called"


@pytest.mark.parametrize("split", ["train", "test"])
def test_no_data_is_one_line(tmp_path, split):
    with pytest.raises(ValueError) as problem:
        load_recorded("mmtraj", tmp_path, split, Report())
    assert "\n" not in str(problem.value)


def test_inner_calls_come_first():
    inner = Call("visualizer", {"question": "a", "image_path": {"code": "p"}})
    outer = Call("final_answer", {"answer": {"code": "visualizer('a', image_path=p)"}})
    assert code_calls("final_answer(visualizer('a', image_path=p))") == [inner, outer]


def test_other_code_is_one_call_and_is_never_run(tmp_path):
    code = f"open('{tmp_path}/x', 'w')"
    assert code_calls(code) == [Call("python", {"code": code})]
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize("code", ["x = (", "\x00", "(" * 5000, "x" * 30_000])
def test_what_is_not_python_is_a_bad_record(code):
    with pytest.raises(BadRecord):
        code_calls(code)
