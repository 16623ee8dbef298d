"""benchmarks/episodes.py: episodes are written down as they end, kept whole, and played once. Shown
on own_world.py, the shortest world."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from own_world import LampWorld

from agent import Plan, play
from benchmarks.episodes import (
    LABELS,
    Archive,
    Episode,
    NotBegun,
    Player,
    executed_text,
    open_folder,
    parts,
    percent,
    play_missing,
    table_row,
    to_pixels,
)
from envs import Action, inside, last_steps

SWITCH = Action("click", "Switch")
DONE = Action("done")
ROOT = Path(__file__).resolve().parent.parent


def read_lines(file: Path) -> list[dict]:
    return [json.loads(line) for line in file.read_text().splitlines()]


def knows_the_lamp(observations, envs) -> list[Plan]:
    """Presses the switch, then says that it is done."""
    plans = []
    for observation in observations:
        plan = [DONE] if observation.history else [SWITCH, DONE]
        plans.append(Plan(plan, tokens=2 * len(plan)))
    return plans


def player(planner=knows_the_lamp, **settings) -> Player:
    return Player(**({"planner": planner, "name": "lamp lighter", "horizon": 2} | settings))


def play_lamps(folder: Path, who: Player, tasks=("hall",), seeds=2, steps=5, side_by_side=1):
    archive = Archive(folder, who.settings)
    play_missing(
        who,
        tasks,
        seeds=seeds,
        steps=steps,
        side_by_side=side_by_side,
        open_env=lambda task: LampWorld(),
        archive=archive,
    )
    return archive


# ---- the shortest world -------------------------------------------------------------------------


def test_it_plays_in_the_plan_act_loop():
    [episode] = play(knows_the_lamp, [LampWorld()], [0], 2)
    assert episode.success
    assert episode.results == ["ok", "ok"]
    assert episode.observations[0].instruction == "switch the lamp off"
    assert episode.observations[0].screenshot().getpixel((0, 0)) == (255, 255, 0)
    assert episode.observations[1].screenshot().getpixel((0, 0)) == (0, 0, 0)


def test_its_failures_have_the_names_that_all_worlds_use():
    """A name that nobody finds is "failed", what a lamp cannot do is "impossible"."""
    forecasts = iter([[Action("click", "Nowhere")], [Action("back")], [], [SWITCH], [DONE]])
    [episode] = play(lambda *_: [Plan(next(forecasts))], [LampWorld()], [1], 2)
    assert episode.results == ["failed", "impossible", "failed", "ok", "ok"]
    assert episode.success
    assert episode.observations[-1].history == (
        "click Nowhere failed",
        "back",
        "unreadable failed",
        "click Switch",
    )


def test_it_is_quoted_whole():
    """docs/online.md shows tests/own_world.py, the file that the tests run, as it is."""
    text = (ROOT / "tests" / "own_world.py").read_text()
    assert f"```python\n{text}```\n" in (ROOT / "docs" / "online.md").read_text()


# ---- what all of them share ---------------------------------------------------------------------

SHARES = st.floats(0, 1)
SIDES = st.integers(1, 4000)


def test_a_point_lies_on_its_pixel():
    assert to_pixels((0.0, 0.0), (1080, 2400)) == (0, 0)
    assert to_pixels((0.5, 0.125), (1080, 2400)) == (540, 300)
    assert to_pixels((1.0, 1.0), (1080, 2400)) == (1079, 2399)  # 1.0 on the last one
    assert to_pixels((0.9999, 0.4999), (10, 10)) == (9, 4)


@given(st.tuples(SHARES, SHARES), st.tuples(SIDES, SIDES))
def test_every_point_lies_in_a_pixel_of_the_screen(point, size):
    x, y = to_pixels(point, size)
    width, height = size
    assert 0 <= x < width and 0 <= y < height
    pixel = (x / width - 1e-9, y / height - 1e-9, (x + 1) / width + 1e-9, (y + 1) / height + 1e-9)
    assert inside(point, pixel)


@pytest.mark.parametrize(
    ("history", "shown"),
    [(0, ()), (1, ("c",)), (2, ("b", "c")), (3, ("a", "b", "c")), (9, ("a", "b", "c"))],
)
def test_the_last_steps_are_shown(history, shown):
    assert last_steps(["a", "b", "c"], history) == shown


def test_rows_of_a_table_stand_below_each_other():
    rows = [table_row("task", "solved", "steps"), table_row("click-button", percent(1 / 3), 12)]
    assert rows[1].split() == ["click-button", "33.3%", "12"]
    assert len(rows[0]) == len(rows[1])
    assert percent(None) == "none"


def test_what_is_free_may_be_otherwise(tmp_path):
    folder = tmp_path / "deep" / "out"
    open_folder(folder, {"steps": 15, "tasks": ["a"]}, "args.json")
    open_folder(folder, {"steps": 15, "tasks": ["b"]}, "args.json", free=("tasks",))
    with pytest.raises(ValueError, match="out was made with other settings: steps 15, not 50$"):
        open_folder(folder, {"steps": 50, "tasks": []}, "args.json", free=("tasks",))
    assert json.loads((folder / "args.json").read_text()) == {"steps": 15, "tasks": ["b"]}


@pytest.mark.parametrize("text", ["{", "[]"])
def test_damaged_settings_are_one_line_with_their_folder(text, tmp_path):
    (tmp_path / "settings.json").write_text(text)
    with pytest.raises(ValueError, match=str(tmp_path)) as problem:
        open_folder(tmp_path, {"steps": 15})
    assert "\n" not in str(problem.value)


# ---- what is written down -----------------------------------------------------------------------


def test_a_file_a_task_a_line_an_episode(tmp_path):
    play_lamps(tmp_path, player(), tasks=["hall", "loft"], seeds=3, side_by_side=2)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["episodes", "settings.json"]
    files = sorted((tmp_path / "episodes").iterdir())
    assert [file.name for file in files] == ["hall.jsonl", "loft.jsonl"]
    for file in files:
        lines = read_lines(file)
        assert [line["seed"] for line in lines] == [0, 1, 2]
        assert {line["task"] for line in lines} == {file.stem}
        assert all(line["success"] for line in lines)


def test_the_audit_has_a_line_a_step(tmp_path):
    """What was forecast, what was carried out, and what came of it."""
    forecasts = iter([[Action("click", "Nowhere"), DONE], [], [SWITCH, DONE], [DONE]])
    scripted = player(lambda *_: [Plan(next(forecasts), tokens=7)])
    play_lamps(tmp_path, scripted, seeds=1)
    [line] = read_lines(tmp_path / "episodes" / "hall.jsonl")
    assert line["steps"] == [
        {"forecast": ["click Nowhere", "done"], "executed": None, "result": "failed"},
        {"forecast": [], "executed": None, "result": "failed"},
        {
            "forecast": ["click Switch", "done"],
            "executed": "click Switch (0.750, 0.500)",
            "result": "ok",
        },
        {"forecast": ["done"], "executed": "done", "result": "ok"},
    ]
    assert line["tokens"] == 28
    assert line["success"] is True
    assert line["crashed"] is False
    assert line["seconds"] >= 0


def test_a_drag_is_written_with_both_its_ends():
    drag = Action("drag", "Box to Bin", (0.1, 0.2), (0.3, 0.4))
    assert executed_text(drag) == "drag Box to Bin (0.100, 0.200) (0.300, 0.400)"
    assert executed_text(Action("wait")) == "wait"
    assert executed_text(None) is None


def test_after_the_budget_an_episode_ends(tmp_path):
    """The lamp is as it should be, but nobody had said so."""
    archive = play_lamps(tmp_path, player(), seeds=1, steps=1)
    assert not archive.episodes["hall"][0].success
    assert len(archive.episodes["hall"][0].steps) == 1


# ---- what is kept -------------------------------------------------------------------------------


class Killed(Exception):
    pass


def test_an_episode_that_has_ended_is_kept_while_others_beside_it_go_on(tmp_path):
    """The first says that it is done at once; the second step of the other one never comes."""

    def planner(observations, envs):
        if observations[0].history:
            raise Killed
        return [Plan([DONE]), Plan([SWITCH])]

    with pytest.raises(Killed):
        play_lamps(tmp_path, player(planner), tasks=["hall", "loft"], seeds=1, side_by_side=2)
    assert [file.name for file in (tmp_path / "episodes").iterdir()] == ["hall.jsonl"]


def test_an_archive_is_read_as_it_was_written(tmp_path):
    episode = Episode("a", 3, True, False, 5, 0.5, {"raw_reward": 1.0}, [])
    other = Episode("a", 1, False, True, 5, 0.5, {}, [{"result": "ok"}])
    archive = Archive(tmp_path / "new", {"x": 1})
    archive.keep(episode)
    archive.keep(other)
    again = Archive(tmp_path / "new", {"x": 1})
    assert again.episodes == {"a": {1: other, 3: episode}}
    assert again.has("a", 1)
    assert not again.has("a", 2)
    assert not again.has("b", 1)


def test_what_else_the_world_said_at_the_end_is_kept(tmp_path, monkeypatch):
    """And a crash counts as one where the world says so."""

    def step(self, action, said=""):
        info = {"result": "ok", "success": False, "crashed": True, "battery": 3}
        return self.observe(), 0.0, False, True, info

    monkeypatch.setattr(LampWorld, "step", step)
    archive = play_lamps(tmp_path, player(), seeds=1)
    assert archive.episodes["hall"][0].info == {"battery": 3}
    assert archive.episodes["hall"][0].crashed


def test_a_crash_costs_one_line(tmp_path, monkeypatch, capsys):
    def step(self, action, said=""):
        info = {"result": "broken", "success": False, "crashed": self.wanted}
        return self.observe(), 0.0, False, True, info

    monkeypatch.setattr(LampWorld, "step", step)
    play_lamps(tmp_path, player(), seeds=4)
    lines = capsys.readouterr().err
    assert lines.count("crashed, not solved") == 2
    assert "hall, seed 1: crashed, not solved" in lines
    assert "hall, seed 3: crashed, not solved" in lines


@pytest.mark.parametrize("side_by_side", [1, 3])
def test_a_world_that_crashes_before_its_first_screen_costs_that_episode(
    side_by_side, tmp_path, monkeypatch, capsys
):
    reset = LampWorld.reset
    asked = []

    def crash_over_seed_1(self, seed):
        asked.append(seed)
        if seed == 1:
            raise NotBegun("the bulb is broken")
        return reset(self, seed)

    monkeypatch.setattr(LampWorld, "reset", crash_over_seed_1)
    play_lamps(tmp_path, player(), seeds=3, side_by_side=side_by_side)
    archive = play_lamps(tmp_path, player(), seeds=3)  # the same command plays nothing again
    assert asked == [0, 1, 2]
    episodes = archive.episodes["hall"]
    assert [episodes[seed].success for seed in range(3)] == [True, False, True]
    assert [episodes[seed].crashed for seed in range(3)] == [False, True, False]
    assert (episodes[1].steps, episodes[1].info) == ([], {"reason": "the bulb is broken"})
    assert capsys.readouterr().err.count("hall, seed 1: crashed, not solved") == 1


def test_what_else_goes_wrong_at_reset_ends_the_evaluation(tmp_path, monkeypatch):
    """Such as a browser that cannot be started: it would be so for all episodes."""

    def refuse(self, seed):
        raise ValueError("there is no lamp")

    monkeypatch.setattr(LampWorld, "reset", refuse)
    with pytest.raises(ValueError, match="there is no lamp"):
        play_lamps(tmp_path, player())
    assert list((tmp_path / "episodes").iterdir()) == []


def refuse_all(actions, examples):
    return [None for _ in actions]


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"horizon": 3}, "horizon 2, not 3"),
        ({"history": 0}, "history 4, not 0"),
        ({"carry": True}, "carry False, not True"),
        ({"name": "runs/other"}, "player 'lamp lighter', not 'runs/other'"),
        ({"weights": "abc"}, "weights '', not 'abc'"),
        ({"how": {"thinking": 64}}, "how {}, not {'thinking': 64}"),
        (
            {"tool_agent": refuse_all, "tool_agent_name": "ocr"},
            f"points_by {LABELS!r}, not 'ocr'",
        ),
    ],
)
def test_a_folder_of_other_settings_is_refused(changed, message, tmp_path):
    play_lamps(tmp_path, player(), seeds=1)
    before = (tmp_path / "episodes" / "hall.jsonl").read_text()
    with pytest.raises(ValueError, match="was made with other settings") as refusal:
        play_lamps(tmp_path, player(**changed), seeds=1)
    assert message in str(refusal.value)
    assert (tmp_path / "episodes" / "hall.jsonl").read_text() == before


def test_a_folder_of_something_else_is_left_alone(tmp_path):
    (tmp_path / "thesis.tex").write_text("mine")
    with pytest.raises(ValueError, match="is not empty"):
        Archive(tmp_path, {})
    assert [file.name for file in tmp_path.iterdir()] == ["thesis.tex"]


@pytest.mark.parametrize("line", ["{", "[]", '{"task": "hall"}'])
def test_a_damaged_episode_is_named(line, tmp_path):
    play_lamps(tmp_path, player(), seeds=1)
    file = tmp_path / "episodes" / "hall.jsonl"
    file.write_text(file.read_text() + line)
    with pytest.raises(ValueError, match=r"hall.jsonl: line 2"):
        Archive(tmp_path, player().settings)


def test_parts_are_all_entries_in_their_order():
    assert list(parts([1, 2, 3, 4, 5], 2)) == [[1, 2], [3, 4], [5]]
    assert list(parts([], 2)) == []


def test_who_points_is_the_world_unless_another_is_named():
    assert player().points_by == LABELS
    assert player(tool_agent=refuse_all, tool_agent_name="ocr").points_by == "ocr"
