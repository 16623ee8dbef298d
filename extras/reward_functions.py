"""Both stages' rewards in the forms in which TRL, verl and EasyR1 call a reward function.

Called by those engines, over rows that extras/export.py has written: docs/cluster.md shows how.
It trains nothing and imports nothing of an engine; all that a reward depends on stands in its row.

| engine | functions                    | is called with                              | returns  |
|--------|------------------------------|---------------------------------------------|----------|
| TRL    | trl_stage1, trl_stage2       | many answers, and the columns of their rows | numbers  |
| verl   | verl_stage1, verl_stage2     | one answer, and the row's `extra_info`      | a record |
| EasyR1 | easyr1_stage1, easyr1_stage2 | many answers, each with the row's `answer`  | records  |

A record holds the terms of the reward beside it, so that the engine logs them too. Points are
read in 0..1000 of each side, as all families but Qwen2.5-VL write them.
"""

import base64
import io
import json
import urllib.request
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial

from PIL import Image

from agent import THOUGHT_END, parse_forecast, plain
from envs import Action, Example, Observation, ToolAgent, demonstration, own_tool_agent
from extras.vlm_tool_agent import (
    ANSWER_TOKENS,
    lacks_point,
    load_tool_agent,
    parse_point,
    question_for,
    steps_to_find,
    with_point,
)
from extras.worlds import find_world
from rewards import trajectory_reward
from train import first_step_reward

# EasyR1 reads these two: what its log calls the reward, and that many answers come at once.
REWARD_NAME = "tracer1"
REWARD_TYPE = "batch"

THOUGHT_BEGIN = "<think>"

# ---- what a row holds ---------------------------------------------------------------------------


def to_columns(
    example: Example, index: int, horizon: int, moment: dict | None = None, tool_agent: str = ""
) -> dict:
    """All that a reward depends on, as plain values; example_of reads it back.

    `index`: the row's number in its file. `moment`: where in a world whose examples have `tools`
    (toy-tools, toy-map) the example was drawn (see ask_tools). `tool_agent`: as find_tool_agent
    takes it; empty: the example's own.
    """
    elements = []
    for label, box in example.elements:
        elements.append({"label": label, "box": list(box)})
    return {
        "index": index,
        "horizon": horizon,
        "reference": action_columns(example.reference),
        "goals": action_columns(example.goals),
        "boxes": [list(box) for box in example.boxes],
        "elements": elements,
        "key": example.key,
        "moment": moment,
        "tool_agent": tool_agent,
    }


def action_columns(actions: Sequence[Action]) -> list[dict]:
    column = []
    for action in actions:
        point = None if action.point is None else list(action.point)
        end = None if action.end is None else list(action.end)
        column.append({"kind": action.kind, "text": action.text, "point": point, "end": end})
    return column


def actions_of(column: Sequence[dict]) -> tuple[Action, ...]:
    actions = []
    for written in column:
        point = None if written["point"] is None else tuple(written["point"])
        end = None if written["end"] is None else tuple(written["end"])
        actions.append(Action(written["kind"], written["text"], point, end))
    return tuple(actions)


def example_of(row: dict, screenshot: Callable[[], Image.Image] | None = None) -> Example:
    """The example of a row, as far as rewards and tool agents look at it.

    `screenshot` opens the picture, for a tool agent that looks at it. The instruction and the
    history are in the prompt only.
    """
    elements = []
    for element in row["elements"]:
        elements.append((element["label"], tuple(element["box"])))
    tools = None
    if row["moment"] is not None:
        tools = partial(ask_tools, row["moment"])
    boxes = [tuple(box) for box in row["boxes"]]
    return Example(
        observation=Observation("", screenshot),
        reference=actions_of(row["reference"]),
        boxes=tuple(boxes),
        elements=tuple(elements),
        key=row["key"],
        goals=actions_of(row["goals"]),
        tools=tools,
    )


def ask_tools(moment: dict, action: Action) -> Action:
    """What the tools of a toy world make of an action at a moment of one of its demonstrations.

    The demonstration is played again, which takes milliseconds, and envs.demonstration keeps it.
    What the tools answer depends neither on `horizon` nor on `history`.
    """
    record = demonstration(
        find_world(moment["env"]),
        moment["split"],
        moment["task"],
        horizon=1,
        noise=moment["noise"],
        history=0,
    )
    return record[moment["step"]].tools(action)


# ---- the rewards of rows ------------------------------------------------------------------------


def read_forecast(answer: str, horizon: int) -> tuple[list[Action], bool]:
    """The forecast in an answer, and whether all of it could be read.

    An answer whose thought never ends is unreadable, all of it: else a model that thinks would be
    paid without ever ending one. A thought that the prompt has opened shows in no answer: see
    docs/cluster.md.

    >>> read_forecast("<think> the button </think> click Save", 5)
    ([Action(kind='click', text='Save', point=None, end=None)], True)
    >>> read_forecast("click Save <think> or not", 5)
    ([], False)
    """
    behind_thought = answer.rsplit(THOUGHT_END, 1)[-1]
    if THOUGHT_BEGIN in behind_thought:
        return [], False
    forecast, error = parse_forecast(answer, horizon)
    return forecast, error is None


def forecast_terms(answer: str, row: dict, **weights: float) -> dict[str, float]:
    """Stage 1: the terms of trajectory_reward, `weights` being its gamma and lambdas.

    An answer that was cut off is judged as far as it goes: an engine does not say that it was.
    """
    horizon = row["horizon"]
    forecast, readable = read_forecast(answer, horizon)
    reference = example_of(row).reference
    earned = trajectory_reward(forecast, reference, horizon, readable=readable, **weights)
    return earned.terms


def first_step_rewards(answers: Sequence[str], rows: Sequence[dict]) -> list[float]:
    """Stage 2: what the frozen tool agent makes of each answer's first step, as in train.py.

    A row whose tool agent is a VLM or reads has `screenshot`, see open_screenshot.
    """
    examples = examples_of(rows)
    first_steps = {}  # number of an answer -> its first step; an unreadable answer has none
    waiting = {}  # name of a tool agent -> numbers of the answers that it has to carry out
    for number, (answer, row) in enumerate(zip(answers, rows, strict=True)):
        forecast, _ = read_forecast(answer, row["horizon"])
        if forecast:
            first_steps[number] = forecast[0]
            waiting.setdefault(row["tool_agent"], []).append(number)
    executed = [None] * len(rows)  # it stays None where an answer is unreadable or refused
    for name, numbers in waiting.items():
        execute = find_tool_agent(name)
        own_steps = [first_steps[number] for number in numbers]
        own_examples = [examples[number] for number in numbers]
        # All of them in one call: a VLM answers in batches.
        for number, action in zip(numbers, execute(own_steps, own_examples), strict=True):
            executed[number] = action
    rewards = []
    for action, example in zip(executed, examples, strict=True):
        rewards.append(first_step_reward(action, example))
    return rewards


def examples_of(rows: Sequence[dict]) -> list[Example]:
    """The rows' examples; a row that comes several times has one function that opens its picture.

    By that function vlm_tool_agent knows that it is asked about the same picture again.
    """
    openers = {}  # index of a row -> opens its screenshot
    examples = []
    for row in rows:
        opener = openers.setdefault(row["index"], partial(open_screenshot, row))
        examples.append(example_of(row, opener))
    return examples


def open_screenshot(row: dict) -> Image.Image:
    """TRL hands on the picture, verl the bytes of its file, EasyR1 these bytes as base64."""
    screenshot = row["screenshot"]
    if isinstance(screenshot, Image.Image):
        return screenshot.convert("RGB")
    if isinstance(screenshot, str):
        screenshot = base64.b64decode(screenshot)
    return Image.open(io.BytesIO(screenshot)).convert("RGB")


# ---- who carries out a first step ---------------------------------------------------------------


def find_tool_agent(name: str) -> ToolAgent:
    """The tool agent of a row.

    Empty: the example's own. URL#NAME: a model behind a server, for engines on Ray, whose reward
    processes have no GPU and whose transformers is too old for extras/loading.py. Else what
    --tool_agent names: "ocr", or a VLM by name or path; it is loaded once in each process that asks
    for rewards.
    """
    if not name:
        return own_tool_agent
    if is_served(name):
        return served_tool_agent(name)
    return load_tool_agent(name, policy=None)


def is_served(name: str) -> bool:
    return name.startswith(("http://", "https://")) and "#" in name


ASKED_AT_ONCE = 16  # of a server, which makes one batch of them


def served_tool_agent(address: str) -> ToolAgent:
    """A frozen VLM behind a server that speaks OpenAI's protocol, such as `vllm serve`.

    `address`: http://HOST:PORT/v1#NAME. The model is asked as extras/vlm_tool_agent.py asks, and
    has to count points in 0..1000. A server that does not answer is an error, not a refusal.
    """
    url, _, model = address.partition("#")

    def execute(actions: Sequence[Action], examples: Sequence[Example]) -> list[Action | None]:
        with ThreadPoolExecutor(ASKED_AT_ONCE) as pool:
            return list(pool.map(partial(find_point, url, model), actions, examples))

    return execute


def find_point(url: str, model: str, action: Action, example: Example) -> Action | None:
    """The action with the point that the server's model names; None where it names none.

    Of a drag it is asked for both ends.
    """
    if not lacks_point(action):
        return action
    picture = example.observation.screenshot()
    points = []
    for step in steps_to_find(action):
        question = question_for(model).format(plain(step))
        answer = ask_server(url, model, question, picture)
        points.append(parse_point(answer, (1000.0, 1000.0)))
    return with_point(action, *points)


def ask_server(url: str, model: str, question: str, picture: Image.Image) -> str:
    """The greedy answer to a question about a picture."""
    data = base64.b64encode(png(picture)).decode()
    content = [
        {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{data}"}},
        {"type": "text", "text": question},
    ]
    body = {
        "model": model,
        "messages": [{"role": "user", "content": content}],
        "temperature": 0,
        "max_tokens": ANSWER_TOKENS,
    }
    request = urllib.request.Request(
        f"{url.rstrip('/')}/chat/completions",
        data=json.dumps(body).encode(),
        headers={"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=300) as response:  # seconds: others wait too
        reply = json.load(response)
    return reply["choices"][0]["message"]["content"]


def png(picture: Image.Image) -> bytes:
    """The picture as a file, without loss."""
    file = io.BytesIO()
    picture.save(file, "PNG")
    return file.getvalue()


# ---- TRL: completions and lists of columns ------------------------------------------------------


def trl_stage1(
    completions: Sequence,
    gamma: float = 0.9,
    lambda_align: float = 1.0,
    lambda_rep: float = 0.3,
    **columns,
) -> list[float]:
    """reward_funcs=[trl_stage1]; other weights: a function of your own that passes them on.

    The weights are named, with the defaults of trajectory_reward, because TRL hands on all columns
    by name and `columns` takes them.
    """
    rewards = []
    for completion, row in zip(completions, rows_of(columns, len(completions)), strict=True):
        terms = forecast_terms(
            text_of(completion),
            row,
            gamma=gamma,
            lambda_align=lambda_align,
            lambda_rep=lambda_rep,
        )
        rewards.append(terms["reward"])
    return rewards


def trl_stage2(completions: Sequence, **columns) -> list[float]:
    """reward_funcs=[trl_stage2]"""
    answers = [text_of(completion) for completion in completions]
    return first_step_rewards(answers, rows_of(columns, len(completions)))


def rows_of(columns: dict, count: int) -> list[dict]:
    """The columns that TRL hands on, as a dictionary for each answer; `image` is the screenshot."""
    if "reference" not in columns or "horizon" not in columns:
        raise ValueError("these rows were not written by extras/export.py with --layout trl")
    rows = []
    for number in range(count):
        row = {}
        for name, values in columns.items():
            if isinstance(values, list):  # TRL also hands on its trainer's state
                row[name] = values[number]
        row["screenshot"] = row.get("image")
        rows.append(row)
    return rows


def text_of(completion: str | list[dict]) -> str:
    """TRL hands on plain text, or a chat whose last message is the answer."""
    if isinstance(completion, str):
        return completion
    return completion[-1]["content"]


# ---- verl: one answer and its row's extra_info --------------------------------------------------


def verl_stage1(
    data_source: str, solution_str: str, ground_truth: str, extra_info: dict, **weights: float
) -> dict[str, float]:
    """`ground_truth` is the reference as text, for verl's logs; the row stands in `extra_info`."""
    terms = forecast_terms(solution_str, extra_info, **weights)
    return {"score": terms["reward"]} | terms


def verl_stage2(
    data_source: str, solution_str: str, ground_truth: str, extra_info: dict
) -> dict[str, float]:
    [reward] = first_step_rewards([solution_str], [extra_info])
    return {"score": reward, "grounded": reward}


# ---- EasyR1: answers with their rows as JSON ----------------------------------------------------


def easyr1_stage1(reward_inputs: Sequence[dict], **weights: float) -> list[dict[str, float]]:
    scores = []
    for reward_input in reward_inputs:
        row = json.loads(reward_input["ground_truth"])
        terms = forecast_terms(reward_input["response"], row, **weights)
        scores.append({"overall": terms["reward"]} | terms)
    return scores


def easyr1_stage2(reward_inputs: Sequence[dict]) -> list[dict[str, float]]:
    answers = [reward_input["response"] for reward_input in reward_inputs]
    rows = [json.loads(reward_input["ground_truth"]) for reward_input in reward_inputs]
    scores = []
    for reward in first_step_rewards(answers, rows):
        scores.append({"overall": reward, "grounded": reward})
    return scores
