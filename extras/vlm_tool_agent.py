"""A frozen VLM as the tool agent: the text of a step and its screenshot -> the point to act on.

Called by train.py, eval.py, extras/play.py, extras/forecast.py and extras/reward_functions.py where
--tool_agent names one (or the reader of extras/ocr.py), and by extras/gpu_check.py, which measures
it.
It never learns and never executes anything: what comes back is the step with a point, or None.
"""

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import lru_cache
from pathlib import Path

import torch
from PIL import Image

from agent import NUMBER, Policy, Sampling, encode_chats, plain, sample_all
from envs import Action, Example, Point, ToolAgent, die, split_drag
from extras.loading import load_policy
from extras.ocr import lacks_point, load_reader, ocr_tool_agent, with_point

# ---- questions ----------------------------------------------------------------------------------

# A question for each family, by a part of the model's name. UI-TARS and GUI-Owl answer in the form
# that they were trained on, Qwen-VL points in JSON; all others are asked as Qwen-VL.
QUESTIONS = {
    "ui-tars": (
        "You are a GUI agent. You are given a task and a screenshot. You need to perform the next "
        "action to complete the task.\n\n"
        "## Output Format\nAction: ...\n\n"
        "## Action Space\nclick(start_box='<|box_start|>(x1,y1)<|box_end|>')\n\n"
        "## User Instruction\n{}"
    ),
    "gui-owl": (
        "You may call one function:\n<tools>\n"
        '{{"name": "computer_use", "arguments": '
        '{{"action": "left_click", "coordinate": [x, y]}}}}\n'
        "</tools>\n"
        "Return a json object with its name and arguments within <tool_call></tool_call> tags.\n"
        "Do this one step on the screenshot: {}"
    ),
    "qwen": (
        "Find the element that this step acts on: {}\n"
        'Answer with its centre and nothing else, as JSON: {{"point_2d": [x, y]}}'
    ),
}
ANSWER_TOKENS = 96  # room for a thought of one line and a point


def question_for(model_name: str) -> str:
    """The question of the model's family, with {} where the step goes.

    Of a path, the part nearest to its end that names a family counts.

    >>> question_for("/data/ui-tars/Qwen3-VL-2B") == QUESTIONS["qwen"]
    True
    """
    for part in reversed(Path(model_name.lower().replace("_", "-")).parts):
        for family, question in QUESTIONS.items():
            if family in part:
                return question
    return QUESTIONS["qwen"]


# ---- answers ------------------------------------------------------------------------------------

# Two to four numbers in brackets, such as (x, y) or [left top right bottom].
PLACE = re.compile(rf"[(\[]\s*({NUMBER}(?:\s*[,\s]\s*{NUMBER}){{1,3}})\s*[)\]]")


def parse_point(text: str, frame: tuple[float, float]) -> Point | None:
    """The point of a grounder's answer in 0..1; None where it names none on the screen.

    `frame`: what the model takes for the width and height of the screen. A box counts as its
    centre. Never raises.

    >>> parse_point("Action: click(start_box='(540,600)')", (1080, 2400))
    (0.5, 0.25)
    """
    numbers = first_numbers(text)
    if len(numbers) == 2:
        x, y = numbers
    elif len(numbers) == 4:
        left, top, right, bottom = numbers
        x = (left + right) / 2
        y = (top + bottom) / 2
    else:
        return None
    x = x / frame[0]
    y = y / frame[1]
    on_screen = 0 <= x <= 1 and 0 <= y <= 1
    return (x, y) if on_screen else None


def first_numbers(text: str) -> list[float]:
    """What stands in the first brackets of the answer that hold numbers."""
    for mark in ("</think>", "Action:", "<tool_call>"):
        text = text.rsplit(mark, 1)[-1]  # a thought before the answer may name places too
    text = re.sub(r"<\|box_(?:start|end)\|>", "", text)
    text = text.replace("<point>", "(").replace("</point>", ")")
    text = re.sub(r"\)\s*,\s*\(", ",", text)  # Qwen2-VL writes a box as (x1,y1),(x2,y2)
    place = PLACE.search(text)
    if place is None:
        return []
    return [float(number) for number in re.findall(NUMBER, place[1])]


# ---- asking -------------------------------------------------------------------------------------


def ask(
    vlm: Policy, questions: Sequence[tuple[Callable[[], Image.Image], str]]
) -> list[tuple[str, torch.Tensor]]:
    """Greedy answers of a frozen VLM to pairs of (function that opens a picture, question).

    Returns for each (its text, the [3] patches of the picture as the model saw it: see
    Policy.frame). Adapters and thinking are off meanwhile, so that the policy's own base can serve,
    at no extra memory.
    """
    images = [open_picture() for open_picture, _ in questions]
    chats = [question_chat(question) for _, question in questions]
    how = Sampling(horizon=1, group_size=1, temperature=0.0, max_new_tokens=ANSWER_TOKENS)
    with adapters_off(vlm), thinking_off(vlm):
        prompts = encode_chats(vlm, chats, images)
        groups = sample_all(vlm, prompts, how)
    answers = []
    for prompt, [rollout] in zip(prompts, groups, strict=True):
        answers.append((rollout.text, prompt.grid))
    return answers


def question_chat(question: str) -> list[dict]:
    """A chat of one message: the picture first and the question behind it."""
    content = [{"type": "image"}, {"type": "text", "text": question}]
    return [{"role": "user", "content": content}]


def adapters_off(policy: Policy) -> AbstractContextManager:
    """Inside it, the policy is its base."""
    if policy.peft is None:
        return nullcontext()
    return policy.peft.disable_adapter()


@contextmanager
def thinking_off(policy: Policy) -> Iterator[None]:
    """Inside it, the policy answers at once: a point needs no thought, and has no room for one."""
    budget = policy.thinking
    policy.thinking = 0
    try:
        yield
    finally:
        policy.thinking = budget


# ---- the tool agent -----------------------------------------------------------------------------


def vlm_tool_agent(vlm: Policy) -> ToolAgent:
    """A frozen Qwen-VL as the tool agent: each action with the point that it finds for it.

    None where its answer names no point. Of a drag, "Box to Bin", it is asked for both ends. Equal
    questions are asked once, in batches, and answered greedily. Actions that need no point pass.
    DEPARTURE: so do those that bring one along.
    """
    question = question_for(vlm.name)

    def execute(actions: Sequence[Action], examples: Sequence[Example]) -> list[Action | None]:
        screens = [example.observation.screenshot for example in examples]
        questions = {}  # (screenshot, step) -> what is asked: equal ones fall together
        for action, screenshot in zip(actions, screens, strict=True):
            for step in steps_to_find(action):
                questions[screenshot, step] = (screenshot, question.format(plain(step)))
        answers = ask(vlm, list(questions.values()))
        points = {}  # (screenshot, step) -> where it is
        for asked, (answer, grid) in zip(questions, answers, strict=True):
            points[asked] = parse_point(answer, vlm.frame(grid))

        executed = []
        for action, screenshot in zip(actions, screens, strict=True):
            if lacks_point(action):
                found = [points[screenshot, step] for step in steps_to_find(action)]
                executed.append(with_point(action, *found))
            else:
                executed.append(action)
        return executed

    return execute


def steps_to_find(action: Action) -> list[str]:
    """The steps of one place each that an action is made of: two for a drag that has a goal.

    >>> steps_to_find(Action("drag", "Box to Bin"))
    ['drag Box', 'click Bin']
    """
    if not lacks_point(action):
        return []
    if action.kind == "drag":
        dragged, goal = split_drag(action.text)
        if goal:
            return [f"drag {dragged}", f"click {goal}"]
    return [str(action)]


# ---- what --tool_agent names --------------------------------------------------------------------

OCR = "ocr"  # a folder of that name is ./ocr


def check_world_of_tool_agent(env: str, name: str) -> None:
    """Ends with one line for the world whose tools no other tool agent can stand in for."""
    if name and env == "toy-tools":
        die(f"--tool_agent {name}: toy-tools has tools of its own, nothing can stand in for them")


def load_tool_agent(name: str, policy: Policy | None, max_pixels: int = 0) -> ToolAgent | None:
    """The tool agent of --tool_agent; None for an empty name: the world's own.

    `policy`: whose base the name "base" means; None where that is nobody's. Ends with one line
    where what the name needs is not there.
    """
    if not name:
        return None
    if name == OCR:
        return load_ocr()
    return vlm_tool_agent(frozen_vlm(name, policy, max_pixels))


def load_ocr() -> ToolAgent:
    try:
        reader = load_reader()
    except ValueError as problem:
        die(f"--tool_agent {OCR}: {problem}")
    return ocr_tool_agent(reader.read)


def frozen_vlm(name: str, policy: Policy | None, max_pixels: int = 0) -> Policy:
    """The policy's own base for the name "base", else another model by name or path."""
    if name == "base":
        return policy
    return load_frozen(name, max_pixels)


@lru_cache(maxsize=1)
def load_frozen(name: str, max_pixels: int) -> Policy:
    """Loaded once: training, its curves and the exam ask for it by turns."""
    return load_policy(name, max_pixels=max_pixels, load_in_4bit=None)
