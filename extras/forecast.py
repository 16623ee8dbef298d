"""One screenshot of your own: what a policy forecasts for it, in lines and as marks on the picture.

A command: `python -m extras.forecast --model NAME --image FILE --instruction TEXT`, or `--run DIR`.
Nothing is carried out here, and nothing says whether a forecast is right: exams are eval.py's.
"""

import argparse
import dataclasses
from pathlib import Path

from PIL import Image

from agent import THOUGHT_END, Policy, Prompt, Rollout, Sampling, encode, sample_all
from benchmarks.common import BadRecord, read_image
from envs import (
    MAX_TEXT,
    POINTING,
    Action,
    Example,
    Observation,
    ToolAgent,
    die,
    is_short_line,
    last_steps,
)
from extras.chosen_policy import add_settings, add_who, load_chosen, read_settings
from extras.pictures import draw_on_screenshot
from extras.run_folder import memory_or_die
from extras.vlm_tool_agent import OCR, load_ocr, load_tool_agent


def parse_arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m extras.forecast",
        description="Forecast the next steps on one screenshot, print them and mark them on it.",
    )
    who = parser.add_argument_group("who forecasts")
    add_who(who)

    what = parser.add_argument_group("what it sees")
    what.add_argument("--image", required=True, help="the screenshot: PNG, JPEG or WebP")
    what.add_argument("--instruction", required=True, help="the task, in a sentence")
    what.add_argument(
        "--history",
        dest="past",
        metavar="STEP",
        nargs="*",
        default=[],
        help='the steps so far, oldest first: "click Settings" "click Sound failed"; a run sees as '
        "many of the last ones as in its training",
    )

    add_settings(parser, history=False)

    out = parser.add_argument_group("where the picture goes")
    out.add_argument("--picture", default="forecast.png", help="default: %(default)s")
    return parser.parse_args(argv)


@memory_or_die()
def main(argv: list[str] | None = None) -> None:
    args = parse_arguments(argv)
    settings = read_settings(args)
    # What can be wrong with the flags is said before a large model is loaded.
    observation = read_observation(args, settings)
    check_picture(args.image, args.picture)
    if settings["tool_agent"] == OCR:
        load_ocr()
    policy = load_chosen(args, settings)
    tool_agent = load_tool_agent(settings["tool_agent"], policy, settings["max_pixels"])
    try:
        [prompt] = encode(policy, [observation], settings["horizon"])
    except ValueError as error:  # of the image processor, for a picture as thin as a thread
        die(f"--image {args.image}: {error}")
    rollout = forecast_greedily(policy, prompt, settings["horizon"])
    steps = rollout.forecast
    if tool_agent is not None:
        steps = point_all(steps, observation, tool_agent)
    screen = observation.screenshot()
    print_forecast(steps, rollout, screen.size)
    try:
        draw_on_screenshot(screen, steps, args.picture)
    except ValueError as error:
        die(str(error))
    except OSError as error:
        die(f"cannot write {args.picture}: {error.strerror}")
    print(f"picture in {args.picture}")


# ---- what the policy sees -----------------------------------------------------------------------


def read_observation(args: argparse.Namespace, settings: dict) -> Observation:
    """Instruction, screenshot and past steps; ends with one line where one of them cannot be."""
    if not args.instruction.strip():
        die("--instruction: it is empty")
    for number, step in enumerate(args.past, 1):
        if not step.strip() or not is_short_line(step):
            die(f"--history: step {number} must be one line of 1 to {MAX_TEXT} characters")
    past = args.past
    if args.run:
        past = last_steps(past, settings["history"])
    screen = read_screenshot(args.image)
    return Observation(args.instruction, lambda: screen, tuple(past))


def read_screenshot(name: str) -> Image.Image:
    file = Path(name)
    if not file.is_file():
        die(f"--image {name}: there is no such file")
    try:
        return read_image(file)
    except BadRecord as error:
        die(f"--image {name} cannot be read as PNG, JPEG or WebP ({error})")


def check_picture(image: str, picture: str) -> None:
    """Ends with one line where the picture cannot be drawn."""
    file = Path(picture)
    if Path(image).resolve() == file.resolve():
        die(f"--picture {picture}: this is the screenshot itself, which is not overwritten")
    kind = Image.registered_extensions().get(file.suffix.lower())
    if kind not in Image.SAVE:  # some kinds can only be read
        die(f"--picture {picture}: the name must end in that of a kind of picture, such as .png")
    if not file.parent.is_dir():
        die(f"--picture {picture}: there is no folder {file.parent}")


# ---- what it forecasts --------------------------------------------------------------------------


def forecast_greedily(policy: Policy, prompt: Prompt, horizon: int) -> Rollout:
    """The likeliest token each time, as in the exams."""
    how = Sampling(
        horizon=horizon,
        group_size=1,
        temperature=0.0,
        max_new_tokens=policy.max_new_tokens(horizon),
    )
    [[rollout]] = sample_all(policy, [prompt], how)
    return rollout


def point_all(steps: list[Action], observation: Observation, tool_agent: ToolAgent) -> list[Action]:
    """The same steps, with the tool agent's points in place of the policy's own.

    Where it finds no point, the step has none. A step with a point but without text keeps its own:
    there are no words to ask for. All steps are looked for on this one screenshot, though the later
    ones may belong to other screens.
    """
    asked = []
    for step in steps:
        if step.kind in POINTING and step.text:
            step = dataclasses.replace(step, point=None, end=None)
        asked.append(step)
    examples = [Example(observation, reference=())] * len(asked)
    answers = tool_agent(asked, examples)
    pointed = []
    for step, answer in zip(asked, answers, strict=True):
        pointed.append(step if answer is None else answer)
    return pointed


# ---- what is printed ----------------------------------------------------------------------------


def print_forecast(steps: list[Action], rollout: Rollout, size: tuple[int, int]) -> None:
    """The thought, if there is one, and a numbered line a step.

    Then, if not all could be read, why and what was written.
    """
    # A thought that was cut off has no end: all of the text is the answer, which cannot be read.
    thought, end, answer = rollout.text.rpartition(THOUGHT_END)
    if end:
        print(f"thought, {len(thought.split())} words:")
        print_indented(thought)
    for number, step in enumerate(steps, 1):
        print(f"{number:3} {describe(step, size)}")
    if rollout.parse_error is None:
        return
    print(f"could not be read to the end: {rollout.parse_error}; this was written:")
    print_indented(answer)


def print_indented(text: str) -> None:
    lines = text.strip().splitlines()
    if not lines:
        lines = ["(nothing)"]
    for line in lines:
        print(f"    {line}")


def describe(step: Action, size: tuple[int, int]) -> str:
    """The step, and where it points in px of the screenshot.

    >>> describe(Action("click", "Save", (0.5, 0.25)), (1080, 2400))
    'click Save   at (540, 600)'
    """
    if step.point is None:
        return str(step)
    x, y = step.point
    width, height = size
    return f"{step}   at ({round(x * width)}, {round(y * height)})"


if __name__ == "__main__":
    main()
