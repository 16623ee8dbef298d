"""extras/pictures.py: the film strip of an episode, a forecast on one screenshot and the curves of
a run."""

import doctest
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from agent import Play, play
from envs import Action, Observation, ToyGUI
from eval import oracle_planner
from extras import pictures
from extras.pictures import (
    draw_curves,
    draw_episode,
    draw_on_screenshot,
    find_boxes,
    forecast_lines,
    running_mean,
)

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
    drags = [Action("drag", "Exit to Save"), Action("drag", "Nowhere to Save")]
    assert find_boxes(drags, elements) == [other, None]


def test_an_answer_that_could_not_be_read_is_an_empty_forecast(tmp_path):
    assert count(draw(episode_of(["failed"], []), tmp_path), RED) > 0


def test_a_place_that_cannot_be_written_is_an_os_error(tmp_path):
    with pytest.raises(OSError):
        draw_episode(episode_of(["ok"], [Action("done")]), tmp_path / "nowhere" / "strip.png")


# ---- a forecast on one screenshot ---------------------------------------------------------------


def draw_forecast(
    folder: Path, forecast: list[Action], size: tuple[int, int] = (600, 900)
) -> np.ndarray:
    """The picture of a forecast on a black screenshot."""
    file = folder / "forecast.png"
    draw_on_screenshot(Image.new("RGB", size), forecast, file)
    return np.asarray(Image.open(file))


def middle(picture: np.ndarray, colour: tuple[int, int, int], height: int) -> tuple[float, float]:
    """(x, y) in px, the middle of all that has this colour on the screenshot itself."""
    rows, columns = np.nonzero((picture[:height] == np.array(colour)).all(axis=2))
    return float(columns.mean()), float(rows.mean())


def test_a_disc_stands_where_a_step_points(tmp_path):
    forecast = [Action("click", "Save", (0.25, 0.5)), Action("click", "Exit", (0.75, 0.1))]
    picture = draw_forecast(tmp_path, forecast)
    assert middle(picture, GREEN, 900) == pytest.approx((150, 450), abs=2)
    assert middle(picture, GRAY, 900) == pytest.approx((450, 90), abs=2)


def test_a_line_leads_to_where_a_drag_ends(tmp_path):
    start = Action("drag", "Box to Bin", (0.25, 0.5))
    alone = draw_forecast(tmp_path, [start])
    dragged = draw_forecast(tmp_path, [replace(start, end=(0.75, 0.5))])
    assert (dragged[450, 170:450] == np.array(GREEN)).all()  # from 150 px, beside the disc, to 450
    assert (dragged[450 + 5, 450] == np.array(GREEN)).all()  # the dot is higher than the line
    assert not alone[450, 170:460].any()
    later = draw_forecast(tmp_path, [Action("done"), replace(start, end=(0.75, 0.5))])
    assert (later[450, 170:450] == np.array(GRAY)).all()


def test_all_steps_are_listed_below_the_screenshot(tmp_path):
    steps = [Action("click", "Save", (0.5, 0.5)), Action("type", "x"), Action("done")]
    heights = [draw_forecast(tmp_path, steps[:n]).shape[0] for n in (1, 2, 3)]
    assert heights[0] > 900
    assert heights[2] - heights[1] == heights[1] - heights[0] > 20  # a line a step


def test_a_step_without_a_point_is_in_the_list_only(tmp_path):
    forecast = [Action("type", "x"), Action("click", "Save")]
    picture = draw_forecast(tmp_path, forecast)
    assert not picture[:900].any()
    assert count(picture, GREEN) > 0
    assert forecast_lines(forecast, 40)[1] == ("2 click Save (no point)", "gray")


def test_steps_at_one_place_stand_side_by_side(tmp_path):
    """The first on its point; the others towards the middle, so that none leaves the picture."""
    corner = Action("click", "Save", (1.0, 1.0))
    once = draw_forecast(tmp_path, [corner])
    thrice = draw_forecast(tmp_path, [corner] * 3)
    diameter = 600 // 24
    first = (599 - diameter // 2, 899 - diameter // 2)
    assert middle(once, GREEN, 900) == pytest.approx(first, abs=2)
    assert count(thrice[:900], GREEN) == count(once[:900], GREEN) > 100
    beside = (first[0] - 1.5 * diameter, first[1])
    assert middle(thrice, GRAY, 900) == pytest.approx(beside, abs=3)


def test_discs_and_letters_grow_with_the_screenshot(tmp_path):
    step = [Action("click", "Save", (0.5, 0.5))]
    small = draw_forecast(tmp_path, step, (480, 480))
    large = draw_forecast(tmp_path, step, (1920, 1920))
    assert count(large[:1920], GREEN) > 9 * count(small[:480], GREEN)
    assert large.shape[0] - 1920 > 2 * (small.shape[0] - 480)


def test_a_screenshot_of_a_toy_world_is_enlarged(tmp_path):
    assert draw_forecast(tmp_path, [Action("done")], (128, 96)).shape[1] == 4 * 128


def test_a_long_line_goes_on_below(tmp_path):
    lines = forecast_lines([Action("type", "word " * 20)], columns=40)
    assert len(lines) > 2
    assert all(len(text) <= 40 for text, _ in lines)
    assert lines[0][0].startswith("1 type word") and lines[1][0].startswith("   word")


def test_a_forecast_that_could_not_be_read_says_so(tmp_path):
    assert count(draw_forecast(tmp_path, []), RED) > 0


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
