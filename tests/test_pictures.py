"""extras/pictures.py: the film strip of an episode and the curves of a run."""

import doctest
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from agent import Play, play
from envs import Action, Observation, ToyGUI
from eval import oracle_planner
from extras import pictures
from extras.pictures import draw_curves, draw_episode, find_boxes, running_mean

GREEN = (0, 128, 0)
RED = (178, 34, 34)  # "firebrick"
GRAY = (128, 128, 128)


def test_the_examples_in_docstrings():
    result = doctest.testmod(pictures)
    assert result.attempted > 0
    assert result.failed == 0


# ---- film strips --------------------------------------------------------------------------------


def episode_of(results: list[str], forecast: list[Action]) -> Play:
    """A made-up episode: black screens of 100 x 50 px, with one element in the right half."""
    steps = len(results)
    seen = Observation("Do it", lambda: Image.new("RGB", (100, 50)))
    return Play(
        observations=[seen] * steps,
        forecasts=[forecast] * steps,
        references=[forecast] * steps,
        screens=[(("Save", (0.5, 0.0, 1.0, 1.0)),)] * steps,
        results=results,
    )


def draw(episode: Play, folder: Path, **how) -> np.ndarray:
    file = folder / "strip.png"
    draw_episode(episode, file, **how)
    return np.asarray(Image.open(file))


def count(picture: np.ndarray, colour: tuple[int, int, int]) -> int:
    """How many pixels have exactly this colour."""
    return int((picture == np.array(colour)).all(axis=2).sum())


def test_an_oracle_episode_fills_rows_of_screens(tmp_path):
    [episode] = play(oracle_planner(5), [ToyGUI("train", 3)], [0], 5)
    file = tmp_path / "strip.png"
    draw_episode(episode, file, width=384)
    assert file.stat().st_size > 10_000
    columns = min(5, len(episode.results))
    assert Image.open(file).width == columns * (384 + 10) + 10


def test_more_steps_than_columns_begin_a_new_row(tmp_path):
    forecast = [Action("done")]
    one_row = draw(episode_of(["ok"] * 3, forecast), tmp_path, columns=3)
    two_rows = draw(episode_of(["ok"] * 4, forecast), tmp_path, columns=3)
    assert one_row.shape[1] == two_rows.shape[1]
    assert one_row.shape[0] - 52 == (two_rows.shape[0] - 52) / 2


def test_green_was_executed_and_red_was_not(tmp_path):
    forecast = [Action("click", "Save")]
    done = draw(episode_of(["ok"], forecast), tmp_path)
    refused = draw(episode_of(["failed"], forecast), tmp_path)
    assert count(done, GREEN) > 500 > 0
    assert count(refused, GREEN) == 0
    assert count(refused, RED) > count(done, RED)  # "not solved" above both is red


def test_what_is_only_forecast_is_grey_and_the_step_itself_lies_on_top(tmp_path):
    """Two steps at one element: the frame has the colour of the nearer one."""
    once = draw(episode_of(["ok"], [Action("click", "Save")]), tmp_path)
    twice = draw(episode_of(["ok"], [Action("click", "Save")] * 2), tmp_path)
    later = draw(episode_of(["ok"], [Action("back"), Action("click", "Save")]), tmp_path)
    assert count(once, GREEN) == count(twice, GREEN)
    assert count(twice, GRAY) > count(once, GRAY)
    assert count(later, GREEN) < count(once, GREEN)


def test_a_step_is_marked_where_the_element_that_it_names_is():
    box, other = (0.0, 0.0, 0.5, 0.5), (0.5, 0.5, 1.0, 1.0)
    elements = (("Save", box), ("Save", other), ("Exit", other))
    forecast = [Action("click", "Save"), Action("click", "Nowhere"), Action("click", "Exit")]
    assert find_boxes(forecast, elements) == [box, None, other]


def test_an_answer_that_could_not_be_read_is_an_empty_forecast(tmp_path):
    assert count(draw(episode_of(["failed"], []), tmp_path), RED) > 0


def test_a_place_that_cannot_be_written_is_an_os_error(tmp_path):
    with pytest.raises(OSError):
        draw_episode(episode_of(["ok"], [Action("done")]), tmp_path / "nowhere" / "strip.png")


# ---- curves -------------------------------------------------------------------------------------

METRICS = [{"stage": "stage1", "reward": 1.0}, {"stage": "stage2", "reward": 0.5}]
RESULT = {"success": 0.5, "ci95": [0.4, 0.6], "n": 300}


def test_the_running_mean_looks_back_ten_updates():
    means = running_mean([float(i) for i in range(12)])
    assert means[:3] == [0.0, 0.5, 1.0]
    assert means[11] == sum(range(2, 12)) / 10


def test_a_panel_for_each_stage_and_one_for_success(tmp_path):
    file = tmp_path / "curves.png"
    widths = []
    for metrics, results in [
        (METRICS[:1], {}),
        (METRICS, {}),
        (METRICS, {"random": RESULT, "oracle": RESULT}),
    ]:
        draw_curves(metrics, results, "test", file)
        widths.append(Image.open(file).width)
    assert widths == [462, 924, 1386]


def test_nothing_to_draw_leaves_no_picture(tmp_path):
    draw_curves([], {}, "test", tmp_path / "curves.png")
    assert not list(tmp_path.iterdir())
