"""Pictures: an episode as a film strip, a forecast on one screenshot, and the curves of a run.

train.py draws strip and curves at the end of a run, extras/play.py episodes of other tasks, and
extras/forecast.py a forecast on a screenshot of one's own.
What is drawn stands in the play, in the forecast, or in metrics.jsonl and results.json.
"""

import math
import textwrap
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, ImageDraw

from agent import Play
from envs import POINTING, Action, Box, font, split_drag

# ---- the film strip of an episode ---------------------------------------------------------------

MARGIN = 10  # px around each screen
TITLE = 52  # px above all screens: the instruction and the verdict
HEADER = 24  # px above each screen: which step, and what became of it
LINE = 15  # px for each line of a forecast
DISC = 14  # px, diameter of the disc that bears a step's number

Pen = ImageDraw.ImageDraw
Spot = tuple[int, int]  # x and y in px


@dataclass(frozen=True)
class Strip:
    """Where things stand on the sheet. All numbers are pixels, but `screens` and `columns`."""

    screens: int
    columns: int
    width: int  # of a screen
    height: int
    forecast_height: int  # of the longest one, which stands below its screen

    @property
    def cell_width(self) -> int:
        return self.width + MARGIN

    @property
    def cell_height(self) -> int:
        return HEADER + self.height + self.forecast_height + MARGIN

    @property
    def size(self) -> tuple[int, int]:
        rows = math.ceil(self.screens / self.columns)
        width = MARGIN + self.columns * self.cell_width
        height = TITLE + rows * self.cell_height
        return width, height

    def corner(self, step: int) -> Spot:
        """The top left corner of a step's cell."""
        row, column = divmod(step, self.columns)
        x = MARGIN + column * self.cell_width
        y = TITLE + row * self.cell_height
        return x, y


def draw_episode(episode: Play, path: str | Path, width: int = 256, columns: int = 5) -> None:
    """Film strip of one episode: each screen, and below it the forecast made there.

    The numbers on a screen stand where the steps of the forecast point; 1 is executed.
    Green: executed; red: refused or impossible; grey: forecast only. `width`: px of a screen.
    Raises OSError where `path` cannot be written, ValueError for a file type that Pillow has not.
    """
    screens = [observation.screenshot() for observation in episode.observations]
    longest = max((len(forecast) for forecast in episode.forecasts), default=1)
    strip = Strip(
        screens=len(screens),
        columns=min(columns, len(screens)),
        width=width,
        height=screens[0].height * width // screens[0].width,
        forecast_height=6 + LINE * longest + 12,  # with some white above the lines and below
    )
    sheet = Image.new("RGB", strip.size, "white")
    pen = ImageDraw.Draw(sheet)
    draw_title(pen, episode)
    for step, screen in enumerate(screens):
        x, y = strip.corner(step)
        top = y + HEADER
        bottom = top + strip.height
        result = episode.results[step]
        forecast = episode.forecasts[step]
        colour = "green" if result == "ok" else "firebrick"
        draw_header(pen, (x, y), step, result, colour)
        draw_frame(sheet, pen, screen, (x, top, x + strip.width, bottom))
        draw_forecast(pen, (x, bottom), forecast, colour)
        boxes = find_boxes(forecast, episode.screens[step])
        draw_marks(pen, (x, top), strip, boxes, colour)
    sheet.save(path)


def draw_title(pen: Pen, episode: Play) -> None:
    verdict = "solved" if episode.success else "not solved"
    colour = "green" if episode.success else "firebrick"
    steps = f"in {len(episode.observations)} steps (oracle: {episode.oracle_steps})"
    instruction = episode.observations[0].instruction
    pen.text((MARGIN, 8), instruction, fill="black", font=font(18))
    pen.text((MARGIN, 30), f"{verdict} {steps}", fill=colour, font=font(14))


def draw_header(pen: Pen, corner: Spot, step: int, result: str, colour: str) -> None:
    x, y = corner
    text = f"step {step + 1}"
    if result != "ok":
        text += f": {result}"
    pen.text((x, y + 4), text, fill=colour, font=font(14))


def draw_frame(
    sheet: Image.Image, pen: Pen, screen: Image.Image, box: tuple[int, int, int, int]
) -> None:
    left, top, right, bottom = box
    width = right - left
    height = bottom - top
    if screen.width <= width:
        resampling = Image.Resampling.NEAREST  # an enlarged screen keeps its sharp pixels
    else:
        resampling = Image.Resampling.BOX
    resized = screen.resize((width, height), resampling)
    sheet.paste(resized, (left, top))
    pen.rectangle(box, outline="gray")


def draw_forecast(pen: Pen, corner: Spot, forecast: Sequence[Action], colour: str) -> None:
    x, y = corner
    for k, action in enumerate(forecast):
        shade = colour if k == 0 else "gray"
        text = f"{k + 1} {action}"
        top = y + 6 + LINE * k
        pen.text((x + 2, top), text, fill=shade, font=font(12))


Elements = Sequence[tuple[str, Box]]  # label and place of all that has a name on a screen


def find_boxes(forecast: Sequence[Action], elements: Elements) -> list[Box | None]:
    """For each action the box of the first element that it names; None where there is none.

    Of a drag it is what is dragged.
    """
    labels = [label for label, _box in elements]
    boxes = []
    for action in forecast:
        name = action.text
        if action.kind == "drag":
            name, _goal = split_drag(action.text, labels)
        named = [box for label, box in elements if label == name]
        boxes.append(named[0] if named else None)
    return boxes


def draw_marks(
    pen: Pen, corner: Spot, strip: Strip, boxes: Sequence[Box | None], colour: str
) -> None:
    """The steps on the screen, from the farthest to the nearest: the nearest lies on top."""
    x, y = corner
    for k in reversed(range(len(boxes))):
        if boxes[k] is None:
            continue
        x1, y1, x2, y2 = boxes[k]
        left = x + int(x1 * strip.width)
        top = y + int(y1 * strip.height)
        right = x + int(x2 * strip.width)
        bottom = y + int(y2 * strip.height)
        shade = colour if k == 0 else "gray"
        thickness = 3 if k == 0 else 1
        pen.rectangle((left, top, right - 2, bottom - 2), outline=shade, width=thickness)
        # The numbers of two steps in a row stand side by side, so that both can be read.
        disc_left = right - 16
        if k % 2 == 1:
            disc_left -= 16
        draw_disc(pen, (disc_left, top + 2), str(k + 1), shade)


def draw_disc(pen: Pen, corner: Spot, number: str, colour: str) -> None:
    x, y = corner
    pen.ellipse((x, y, x + DISC, y + DISC), fill=colour)
    pen.text((x + 4, y), number, fill="white", font=font(12))


# ---- a forecast on one screenshot ---------------------------------------------------------------

SMALLEST = 480  # px, the larger side of a screenshot: smaller ones are enlarged
DISCS_A_SIDE = 24  # a disc is 1/24 of the smaller side: large enough to be read


def draw_on_screenshot(screen: Image.Image, forecast: Sequence[Action], path: str | Path) -> None:
    """The screenshot with a numbered disc where each step points, and below it all steps.

    Those that point nowhere are found only there. Green: the step that would be executed; grey:
    forecast only. Discs and letters grow with the screenshot. Raises what draw_episode raises.
    """
    screen = enlarged(screen)
    diameter = max(DISC, min(screen.size) // DISCS_A_SIDE)
    letter_height = diameter
    letter_width = letter_height / 2  # about, on average
    lines = forecast_lines(forecast, columns=int(screen.width / letter_width))
    line_height = letter_height * 4 // 3
    below = MARGIN + line_height * len(lines) + MARGIN
    sheet = Image.new("RGB", (screen.width, screen.height + below), "white")
    sheet.paste(screen)
    pen = ImageDraw.Draw(sheet)
    for number, (text, colour) in enumerate(lines):
        top = screen.height + MARGIN + line_height * number
        pen.text((MARGIN, top), text, fill=colour, font=font(letter_height))
    draw_points(pen, forecast, screen.size, diameter)
    sheet.save(path)


def enlarged(screen: Image.Image) -> Image.Image:
    """A small screenshot, of a toy world say, by a whole factor, which keeps its pixels sharp."""
    factor = math.ceil(SMALLEST / max(screen.size))
    if factor == 1:
        return screen
    size = (screen.width * factor, screen.height * factor)
    return screen.resize(size, Image.Resampling.NEAREST)


def forecast_lines(forecast: Sequence[Action], columns: int) -> list[tuple[str, str]]:
    """(text, colour) of each line below a screenshot, which is `columns` letters wide.

    >>> forecast_lines([Action("click", "Save"), Action("done")], columns=40)
    [('1 click Save (no point)', 'green'), ('2 done', 'gray')]
    """
    if not forecast:
        return [("nothing could be read", "firebrick")]
    lines = []
    for k, action in enumerate(forecast):
        text = f"{k + 1} {action}"
        if action.kind in POINTING and action.point is None:
            text += " (no point)"
        colour = "green" if k == 0 else "gray"
        for part in textwrap.wrap(text, max(columns, 10), subsequent_indent="   "):
            lines.append((part, colour))
    return lines


def draw_points(pen: Pen, forecast: Sequence[Action], size: tuple[int, int], diameter: int) -> None:
    """A disc for each step that has a point; `size`: width and height of the screenshot in px.

    The nearest step comes first. A disc that would lie on another is moved towards the middle of
    the screen, and a line leads from it to its point. From the point of a drag a line with a dot at
    its end leads to where the drag ends.
    """
    width, height = size
    radius = diameter // 2
    centres = {}  # step -> where its disc is
    for k, action in enumerate(forecast):
        if action.point is None:
            continue
        x = int(action.point[0] * width)
        y = int(action.point[1] * height)
        # whole inside the picture, also at its edge
        inner_x = min(max(x, radius), width - radius - 1)
        inner_y = min(max(y, radius), height - radius - 1)
        sideways = diameter if x < width / 2 else -diameter
        centres[k] = free_spot((inner_x, inner_y), centres.values(), diameter, sideways)
        pen.line((x, y, *centres[k]), fill="gray", width=max(1, diameter // 8))
        if action.end is not None:
            end = (int(action.end[0] * width), int(action.end[1] * height))
            draw_way(pen, (x, y), end, diameter=diameter, colour="green" if k == 0 else "gray")
    for k, centre in centres.items():  # after all lines, so that no line crosses a number
        colour = "green" if k == 0 else "gray"
        draw_rimmed_disc(pen, centre, radius, str(k + 1), colour)


def draw_way(pen: Pen, start: Spot, end: Spot, diameter: int, colour: str) -> None:
    """A line with a dot at its end; `diameter`: of the disc at its start, in px."""
    pen.line((*start, *end), fill=colour, width=max(1, diameter // 8))
    pen.circle(end, radius=diameter // 4, fill=colour)


def free_spot(wanted: Spot, taken: Collection[Spot], diameter: int, sideways: int) -> Spot:
    """The spot that is wanted, or the next one beside it where a disc lies on no other."""
    x, y = wanted
    while any(overlap((x, y), other, diameter) for other in taken):
        x += sideways
    return x, y


def overlap(one: Spot, other: Spot, diameter: int) -> bool:
    return math.dist(one, other) < diameter


def draw_rimmed_disc(pen: Pen, centre: Spot, radius: int, number: str, colour: str) -> None:
    """A disc with a white rim, which stands out from any screenshot."""
    x, y = centre
    box = (x - radius, y - radius, x + radius, y + radius)
    pen.ellipse(box, fill=colour, outline="white", width=max(1, radius // 6))
    pen.text(centre, number, fill="white", font=font(radius * 4 // 3), anchor="mm")


# ---- the curves of a run ------------------------------------------------------------------------

STAGE_TITLES = {
    "stage1": "stage 1: R of whole forecasts",
    "stage2": "stage 2: first step as executed",
}
# What an exam was of, in the order of the bars -> what stands below its bar.
PHASES = {
    "random": "random",
    "reactive": "control\n(T = 1)",
    "warmup": "warm\nstart",
    "stage1": "stage 1",
    "stage2": "stage 2",
    "oracle": "oracle",
}
COLOURS = {
    "reactive": "tab:purple",
    "warmup": "tab:orange",
    "stage1": "tab:blue",
    "stage2": "tab:green",
}


def draw_curves(metrics: Sequence[dict], results: dict, split: str, path: str | Path) -> None:
    """curves.png: the reward of each update, a panel a stage, and success after each phase.

    `metrics`: the lines of metrics.jsonl. `results`: phase -> metrics of the exam on `split`; empty
    for recorded data, which have no episodes to play. No picture where there is nothing to draw.
    """
    from matplotlib.figure import Figure  # here, because importing it writes a cache of fonts

    rewards = {stage: stage_rewards(metrics, stage) for stage in STAGE_TITLES}
    stages = [stage for stage in STAGE_TITLES if rewards[stage]]
    phases = [phase for phase in PHASES if phase in results]
    panels = len(stages)
    if phases:
        panels += 1
    if panels == 0:
        return
    figure = Figure((4.2 * panels, 3.4), layout="tight")
    axes = figure.subplots(1, panels, squeeze=False)[0]
    for axis, stage in zip(axes, stages, strict=False):  # the last panel is for success
        draw_rewards(axis, rewards[stage], STAGE_TITLES[stage])
    if phases:
        played = {phase: results[phase] for phase in phases}
        draw_success(axes[-1], played, split)
    figure.savefig(path, dpi=110)


def stage_rewards(metrics: Sequence[dict], stage: str) -> list[float]:
    return [line["reward"] for line in metrics if line["stage"] == stage]


def draw_rewards(axis, rewards: Sequence[float], title: str) -> None:
    """Each update thin, the running mean thick."""
    axis.plot(rewards, color="tab:blue", alpha=0.3, linewidth=0.8)
    axis.plot(running_mean(rewards), color="tab:blue")
    axis.set(title=title, xlabel="update", ylabel="mean reward")


def running_mean(values: Sequence[float], window: int = 10) -> list[float]:
    """The mean of each value and those before it, `window` of them at most.

    >>> running_mean([1.0, 2.0, 3.0], window=2)
    [1.0, 1.5, 2.5]
    """
    means = []
    for i in range(len(values)):
        first = max(0, i - window + 1)
        last = values[first : i + 1]
        means.append(sum(last) / len(last))
    return means


def draw_success(axis, results: dict[str, dict], split: str) -> None:
    """A bar a phase with its 95 % interval."""
    n = next(iter(results.values()))["n"]
    rates = []
    below = []
    above = []
    for metrics in results.values():
        success = metrics["success"]
        low, high = metrics["ci95"]
        rates.append(100 * success)
        # abs: at 100 % rounding may make a length negative, which matplotlib refuses.
        below.append(100 * abs(low - success))
        above.append(100 * abs(high - success))
    colours = [COLOURS.get(phase, "silver") for phase in results]
    names = [PHASES[phase] for phase in results]
    axis.bar(names, rates, yerr=[below, above], capsize=4, color=colours)
    axis.tick_params(axis="x", labelsize=8)  # up to six names side by side
    title = f"success on split {split}, n = {n}"
    axis.set(title=title, ylabel="% of tasks", ylim=(0, 105))
