"""Writes the examples of a world or data set as parquet for TRL, verl or EasyR1.

A command: `python -m extras.export --env toy-gui --layout trl --output_dir exports/toy`. The
rewards that go with the rows are in extras/reward_functions.py; the columns of each layout and the
engines' own commands in docs/cluster.md.
It trains nothing and needs no model; what it does not carry along, docs/cluster.md lists.
"""

import argparse
import base64
import itertools
import json
import os
import random
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

from agent import HUB_SCALE, SYSTEM, build_prompt, format_forecast
from benchmarks.training import parse_data, recorded_examples
from envs import Example, demonstration, die
from extras.reward_functions import is_served, png, to_columns
from extras.vlm_tool_agent import OCR, check_world_of_tool_agent
from extras.worlds import WORLDS, find_world, world_or_die
from train import Config, check_choice

LAYOUTS = ("trl", "verl", "easyr1")
ROWS_AT_ONCE = 32  # that are held in memory; a screenshot of a phone is about a megabyte


# ---- the examples -------------------------------------------------------------------------------


@dataclass(frozen=True)
class Drawn:
    """An example, and what is needed to ask its tools again."""

    example: Example
    moment: dict | None = None  # where its examples have tools: see reward_functions.ask_tools


def draw_toy(args: argparse.Namespace) -> Iterator[Drawn]:
    """Random states of demonstrations, drawn as train.draw_state draws them, from any split."""
    rng = random.Random(f"export {args.seed}")
    while True:
        task = rng.randrange(Config.train_tasks)
        record = demonstration(
            find_world(args.env),
            args.split,
            task,
            horizon=args.horizon,
            noise=Config.demo_noise,
            history=args.history,
            scale=args.scale,
        )
        step = rng.randrange(len(record))
        example = record[step]
        moment = None
        if example.tools is not None:
            moment = {
                "env": args.env,
                "split": args.split,
                "task": task,
                "noise": Config.demo_noise,
                "step": step,
            }
        yield Drawn(example, moment)


def draw_recorded(args: argparse.Namespace) -> Iterator[Drawn]:
    """Recorded steps in the order of stage 1 of train.py; a small set comes round again."""
    batches = recorded_examples(
        parse_data(args.data),
        seed=args.seed,
        stage="stage1",
        horizon=args.horizon,
        history=args.history,
        prompts_per_update=1,
        first=0,
    )
    for batch in batches:
        for example in batch:
            yield Drawn(example)


# ---- prompts ------------------------------------------------------------------------------------


def chat_in_parts(chat: Sequence[dict]) -> list[dict]:
    """For TRL, which puts the row's picture into the part of type "image".

    Parquet gives each part the same fields: the text of that part is None.
    """
    messages = []
    for message in chat:
        content = []
        for part in message["content"]:
            content.append({"type": part["type"], "text": part.get("text")})
        messages.append({"role": message["role"], "content": content})
    return messages


def flat_text(content: Sequence[dict]) -> str:
    """The parts of a message as one text with <image> in the picture's place."""
    text = ""
    for part in content:
        if part["type"] == "image":
            text += "<image>"
        else:
            text += without_marks(part["text"])
    return text


def without_marks(text: str) -> str:
    """Text from a task or data set, in which verl and EasyR1 must not see a picture's place."""
    for mark in ("image", "video", "audio"):
        text = text.replace(f"<{mark}>", f"< {mark}>")
    return text


# ---- the rows of each layout --------------------------------------------------------------------


def trl_row(drawn: Drawn, index: int, args: argparse.Namespace) -> dict:
    chat = build_prompt(drawn.example.observation, args.horizon)
    picture = png(drawn.example.observation.screenshot())
    row = {"prompt": chat_in_parts(chat), "image": image_column(picture, index)}
    return row | reward_columns(drawn, index, args)


def verl_row(drawn: Drawn, index: int, args: argparse.Namespace) -> dict:
    """A reward function of verl sees no `images`: for a tool agent they are in `extra_info` too."""
    chat = build_prompt(drawn.example.observation, args.horizon)
    picture = png(drawn.example.observation.screenshot())
    messages = []
    for message in chat:
        messages.append({"role": message["role"], "content": flat_text(message["content"])})
    screenshot = picture if args.tool_agent else None
    return {
        "data_source": source_name(args),
        "prompt": messages,
        "images": [image_column(picture, index)],
        "ability": "gui",
        "reward_model": {
            "style": "rule",
            "ground_truth": format_forecast(drawn.example.reference),
        },
        "extra_info": reward_columns(drawn, index, args) | {"screenshot": screenshot},
    }


def easyr1_row(drawn: Drawn, index: int, args: argparse.Namespace) -> dict:
    """EasyR1 makes one message of the user out of `prompt`: what the system says stands before.

    A reward function sees `answer` alone: where the tool agent looks, the picture is in it.
    """
    _system, user = build_prompt(drawn.example.observation, args.horizon)
    picture = png(drawn.example.observation.screenshot())
    screenshot = base64.b64encode(picture).decode() if args.tool_agent else None
    answer = reward_columns(drawn, index, args) | {"screenshot": screenshot}
    return {
        "prompt": SYSTEM + "\n\n" + flat_text(user["content"]),
        "images": [image_column(picture, index)],
        "answer": json.dumps(answer),
    }


ROW_OF = {"trl": trl_row, "verl": verl_row, "easyr1": easyr1_row}


def image_column(picture: bytes, index: int) -> dict:
    """A picture as the library `datasets` keeps it."""
    return {"bytes": picture, "path": f"{index:08}.png"}


def reward_columns(drawn: Drawn, index: int, args: argparse.Namespace) -> dict:
    return to_columns(drawn.example, index, args.horizon, drawn.moment, args.tool_agent)


def source_name(args: argparse.Namespace) -> str:
    """The world, or the data sets joined by +."""
    if args.env:
        return args.env
    return "+".join(source.name for source in parse_data(args.data))


# ---- the types of the columns -------------------------------------------------------------------


def schema_of(layout: str):
    """The columns with their types, which pyarrow could not tell from lists that are all empty."""
    import pyarrow as pa

    image = pa.struct({"bytes": pa.binary(), "path": pa.string()})
    numbers = pa.list_(pa.float64())
    fields = {"kind": pa.string(), "text": pa.string(), "point": numbers, "end": numbers}
    action = pa.struct(fields)
    element = pa.struct({"label": pa.string(), "box": numbers})
    moment = {
        "env": pa.string(),
        "split": pa.string(),
        "task": pa.int64(),
        "noise": pa.float64(),
        "step": pa.int64(),
    }
    reward = {
        "index": pa.int64(),
        "horizon": pa.int64(),
        "reference": pa.list_(action),
        "goals": pa.list_(action),
        "boxes": pa.list_(numbers),
        "elements": pa.list_(element),
        "key": pa.string(),
        "moment": pa.struct(moment),
        "tool_agent": pa.string(),
    }
    if layout == "trl":
        part = pa.struct({"type": pa.string(), "text": pa.string()})
        message = pa.struct({"role": pa.string(), "content": pa.list_(part)})
        columns = {"prompt": pa.list_(message), "image": image} | reward
    elif layout == "verl":
        message = pa.struct({"role": pa.string(), "content": pa.string()})
        truth = pa.struct({"style": pa.string(), "ground_truth": pa.string()})
        columns = {
            "data_source": pa.string(),
            "prompt": pa.list_(message),
            "images": pa.list_(image),
            "ability": pa.string(),
            "reward_model": truth,
            "extra_info": pa.struct(reward | {"screenshot": pa.binary()}),
        }
    else:
        columns = {"prompt": pa.string(), "images": pa.list_(image), "answer": pa.string()}
    return pa.schema(list(columns.items()))


def metadata(args: argparse.Namespace) -> dict[str, str]:
    """What is said of the whole file.

    `huggingface` makes the library `datasets` open the pictures, where it would leave bytes;
    `export` holds the settings.
    """
    picture = {"_type": "Image"}
    features = {"image": picture} if args.layout == "trl" else {"images": [picture]}
    info = {"info": {"features": features}}
    return {"huggingface": json.dumps(info), "export": json.dumps(vars(args))}


# ---- writing ------------------------------------------------------------------------------------


def write_export(args: argparse.Namespace, examples: Iterator[Drawn]) -> Path:
    """A folder of one parquet file, named by its split as `datasets` wants it."""
    output = Path(args.output_dir)
    name = f"{args.split}.parquet"
    with whole_or_not_at_all(output) as folder:
        write_rows(folder / name, args, examples)
    return output / name


@contextmanager
def whole_or_not_at_all(output: Path) -> Iterator[Path]:
    """A folder beside `output` that takes its name when all is written, and goes if it is not."""
    output.parent.mkdir(parents=True, exist_ok=True)
    unfinished = output.with_name(f".{output.name}.{os.getpid()}.tmp")
    unfinished.mkdir()
    try:
        yield unfinished
        os.replace(unfinished, output)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def write_rows(path: Path, args: argparse.Namespace, examples: Iterator[Drawn]) -> None:
    import pyarrow as pa
    from pyarrow import parquet

    schema = schema_of(args.layout).with_metadata(metadata(args))
    row_of = ROW_OF[args.layout]
    rows = []
    with parquet.ParquetWriter(path, schema) as writer:
        wanted = itertools.islice(examples, args.examples)
        bar = tqdm(wanted, desc=args.layout, total=args.examples, unit="example", mininterval=1)
        for index, drawn in enumerate(bar):
            rows.append(row_of(drawn, index, args))
            is_last = index + 1 == args.examples
            if len(rows) == ROWS_AT_ONCE or is_last:
                writer.write_table(pa.Table.from_pylist(rows, schema=schema))
                rows = []


# ---- command line -------------------------------------------------------------------------------


def parse_arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m extras.export",
        description="Write examples as parquet for TRL, verl or EasyR1 (docs/cluster.md).",
    )
    splits = [f"{name}: {' '.join(world.splits)}" for name, world in WORLDS.items()]
    add = parser.add_argument
    add("--layout", default="trl", help=f"who will read it: {', '.join(LAYOUTS)}; default trl")
    add("--output_dir", required=True, help="a new folder, or an empty one")
    add("--env", default="", help=f"a toy world: {', '.join(WORLDS)}")
    add("--data", default="", help="or recorded data, as train.py takes them: name:ROOT")
    add("--split", default="train", help=f"of a toy world ({'; '.join(splits)}); default train")
    add(
        "--examples",
        type=int,
        default=2000,
        help="rows to write, default 2000; a recorded set with fewer steps is gone through again",
    )
    add("--horizon", type=int, default=5, help="T, the actions of a forecast; default 5")
    add("--history", type=int, default=4, help="K, past steps in the prompt as text; default 4")
    add("--seed", type=int, default=0, help="which examples are drawn; default 0")
    add(
        "--scale",
        type=int,
        help=f"of toy screens, 1: 128 px wide; default {HUB_SCALE}, as for a real model",
    )
    add(
        "--tool_agent",
        default="",
        help="the frozen tool agent of stage 2: a VLM by name or path (only with trl), "
        "http://HOST:PORT/v1#NAME behind a server, or ocr, which reads the screenshot; default: "
        "the toy's own, or the words and boxes of recorded data",
    )
    return parser.parse_args(argv)


def check(args: argparse.Namespace) -> None:
    """One line for each thing that cannot work; nothing is written before."""
    check_choice("layout", args.layout, LAYOUTS)
    for name, least in (("examples", 1), ("horizon", 1), ("history", 0)):
        value = getattr(args, name)
        if value < least:
            die(f"--{name} {value}: must be at least {least}")
    if bool(args.env) == bool(args.data):
        die("give either --env NAME or --data name:ROOT")
    if args.env:
        check_toy(args)
    else:
        check_recorded(args)
    check_tool_agent(args)
    check_folder(Path(args.output_dir))
    try:
        import pyarrow  # noqa: F401
    except ImportError:
        die("the export needs pyarrow: pip install pyarrow")


def check_toy(args: argparse.Namespace) -> None:
    if args.env.startswith("miniwob"):
        die(f"--env {args.env}: its stage 2 is carried out in the browser, which no row can hold")
    check_choice("split", args.split, world_or_die(args.env).splits)
    if args.scale is not None and args.scale < 1:
        die(f"--scale {args.scale}: must be at least 1")


def check_recorded(args: argparse.Namespace) -> None:
    parse_data(args.data)  # a set or folder that is not there ends here
    if args.scale is not None:
        die("--scale is for the toy worlds: recorded screenshots are as they are")
    if args.split != "train":
        die(f"--split {args.split}: of recorded data the training split is exported, no other")


def check_tool_agent(args: argparse.Namespace) -> None:
    if not args.tool_agent:
        return
    if args.tool_agent == "base":
        die("--tool_agent base: the policy is the engine's; name the model")
    check_world_of_tool_agent(args.env, args.tool_agent)
    runs_anywhere = args.tool_agent == OCR or is_served(args.tool_agent)
    if args.layout != "trl" and not runs_anywhere:
        die(
            f"--tool_agent {args.tool_agent}: with --layout {args.layout} it must stand behind a "
            "server, http://HOST:PORT/v1#NAME (docs/cluster.md)"
        )


def check_folder(output: Path) -> None:
    if output.is_dir():
        if any(output.iterdir()):
            die(f"{output} exists and is not empty; nothing was written")
    elif output.exists():
        die(f"{output} is a file, not a folder")


def main(argv: list[str] | None = None) -> None:
    args = parse_arguments(argv)
    check(args)
    if args.env:
        if args.scale is None:
            args.scale = HUB_SCALE
        examples = draw_toy(args)
    else:
        examples = draw_recorded(args)
    try:
        path = write_export(args, examples)
    except ValueError as error:  # a data set that is empty or mostly bad
        die(str(error))
    except OSError as error:
        why = error.strerror or error
        die(f"cannot write {args.output_dir}: {why}")
    except KeyboardInterrupt:
        die("interrupted; nothing was written")
    print(f"{args.examples} examples in {path}")


if __name__ == "__main__":
    main()
