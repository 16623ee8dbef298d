"""extras/vlm_tool_agent.py: each family is asked in its own form, every form of answer is read, and
what is asked of a frozen VLM is asked once, with adapters off."""

import sys

import pytest
from helpers import a_label_to_read, blank_screen, hub, load_hub, observe
from hypothesis import given
from hypothesis import strategies as st

import agent
from agent import Forward, Group, Policy, Rollout, encode, parse_forecast
from envs import Action, Example, Observation
from extras.loading import let_think, load_policy
from extras.made_up import TEMPLATE, make_hub
from extras.ocr import INSTALL, Reader
from extras.shared_prompt import SHARED
from extras.vlm_tool_agent import ask, frozen_vlm, load_tool_agent, parse_point, vlm_tool_agent
from train import Config, score

# ---- answers ------------------------------------------------------------------------------------

THOUSAND = (1000, 1000)
PIXELS = (1080, 2400)


@pytest.mark.parametrize(
    ("text", "frame", "point"),
    [
        # UI-TARS v1, UI-TARS 1.5, its newer form, a box
        ("Action: click(start_box='(500,250)')", THOUSAND, (0.5, 0.25)),
        (
            "Thought: The box (1, 2).\n"
            "Action: click(start_box='<|box_start|>(540,600)<|box_end|>')",
            PIXELS,
            (0.5, 0.25),
        ),
        ("Action: click(point='<point>540 600</point>')", PIXELS, (0.5, 0.25)),
        ("Action: click(start_box='[400, 200, 600, 300]')", THOUSAND, (0.5, 0.25)),
        ("(500,250)", THOUSAND, (0.5, 0.25)),
        # Qwen3-VL, GUI-Owl
        (
            'Action: "Tap Save"\n<tool_call>\n{"name": "mobile_use", "arguments": '
            '{"action": "click", "coordinate": [500, 250]}}\n</tool_call>',
            THOUSAND,
            (0.5, 0.25),
        ),
        (
            '{"name": "computer_use", "arguments": '
            '{"action": "left_click", "coordinate": [500, 250]}}',
            THOUSAND,
            (0.5, 0.25),
        ),
        # Qwen2.5-VL
        ('```json\n[{"point_2d": [270, 600], "label": "Save"}]\n```', PIXELS, (0.25, 0.25)),
        ('[{"bbox_2d": [400, 200, 600, 300], "label": "Save"}]', THOUSAND, (0.5, 0.25)),
        # Qwen2-VL
        (
            "<|object_ref_start|>Save<|object_ref_end|><|box_start|>(400,200),(600,300)<|box_end|>",
            THOUSAND,
            (0.5, 0.25),
        ),
        ("<think>(1, 1)</think>[500, 250]", THOUSAND, (0.5, 0.25)),
        ("[1000, 0]", THOUSAND, (1.0, 0.0)),
        # none on the screen
        ("[1001, 5]", THOUSAND, None),
        ("[-1, 5]", THOUSAND, None),
        ("[1, 2, 3]", THOUSAND, None),
        ("[5]", THOUSAND, None),
        ("Action: finished()", THOUSAND, None),
        ("I cannot see it.", THOUSAND, None),
        ("[nan, 1]", THOUSAND, None),
        ("", (1, 1), None),
    ],
)
def test_answers_of_grounders_are_read_and_converted(text, frame, point):
    assert parse_point(text, frame) == point


BRACKETS = ["(", ")", "[", "]", ",", " "]
NUMBERS = ["500", "1e9", "-3", "٣", "9" * 400, "nan"]
MARKS = ["<point>", "</point>", "<|box_start|>", "Action:"]
pieces = st.lists(st.sampled_from(BRACKETS + NUMBERS + MARKS), max_size=30).map("".join)
frames = st.sampled_from([(1000.0, 1000.0), (756.0, 588.0)])


@given(st.one_of(st.text(), pieces), frames)
def test_any_answer_can_be_read(text, frame):
    point = parse_point(text, frame)
    if point is not None:
        assert all(0 <= value <= 1 for value in point)
        Action("click", "Save", point)  # which refuses a point that is not on the screen


# ---- questions ----------------------------------------------------------------------------------


def adapters_are_off(policy: Policy) -> bool:
    if policy.peft is None:
        return True
    layers = [module for module in policy.core.modules() if hasattr(module, "disable_adapters")]
    return all(layer.disable_adapters for layer in layers)


def script(policy: Policy, answers: dict[str, str]) -> list[str]:
    """The sampler answers by what stands in the question; returns the questions, as they come."""
    asked = []

    def answer_to(question: str) -> str:
        for part, answer in answers.items():
            if part in question:
                return answer
        return "?"

    def sample(policy, prompts, how, generator=None):
        assert how.temperature == 0 and how.group_size == 1
        assert adapters_are_off(policy)
        assert policy.thinking == 0
        groups = []
        for prompt in prompts:
            words = [token for token in prompt.ids if token != policy.image_token]
            question = policy.tokenizer.decode(words)
            asked.append(question)
            answer = answer_to(question)
            groups.append([Rollout(prompt.ids, [], [], answer, "stop", [], None, [])])
        return groups

    policy.forward = Forward(sample, completion_logprobs=None)
    return asked


def test_equal_questions_are_asked_once_with_adapters_off():
    policy = load_hub("qwen2_5_vl")
    agent.add_lora(policy, 4, 8, 0)
    answers = {"click Save": '{"point_2d": [273, 602]}', "click Exit": "nowhere"}
    asked = script(policy, answers)
    one = Example(blank_screen(1080, 2400), ())
    two = Example(blank_screen(1080, 2400), ())
    save = Action("click", "Save")
    leave = Action("click", "Exit")
    typing = Action("type", "x")
    own_point = Action("click", "Save", (0.1, 0.1))
    done = Action("done")
    find_points = vlm_tool_agent(policy)
    executed = find_points(
        [save, save, leave, save, typing, own_point, done],
        [one, one, one, two, one, one, two],
    )
    there = Action("click", "Save", (0.25, 0.25))
    assert executed == [there, there, None, there, typing, own_point, done]
    assert len(asked) == 3
    assert find_points([Action("back")], [one]) == [Action("back")]
    assert find_points([], []) == []
    assert len(asked) == 3
    [(text, grid)] = ask(policy, [(one.observation.screenshot, "Where do I click Exit?")])
    assert text == "nowhere"
    assert policy.frame(grid) == (1092, 2408)


def test_of_a_drag_it_is_asked_for_both_ends():
    policy = load_hub()
    answers = {"drag Box": "(100, 200)", "click Bin": "(900, 800)", "drag Slider": "(500, 500)"}
    asked = script(policy, answers)
    texts = ("Box to Bin", "Slider", "Box to Nowhere", "Nothing to Bin")
    drags = [Action("drag", text) for text in texts]
    example = Example(blank_screen(64, 64), ())
    both, one, no_goal, nothing = vlm_tool_agent(policy)(drags, [example] * 4)
    assert (both.text, both.point, both.end) == ("Box to Bin", (0.1, 0.2), (0.9, 0.8))
    assert (one.point, one.end) == ((0.5, 0.5), None)
    assert (no_goal.point, no_goal.end) == ((0.1, 0.2), None)
    assert nothing is None
    assert len(asked) == 5  # two of the seven are asked twice


def test_it_is_asked_with_thinking_off_and_thinks_again_afterwards(tmp_path):
    """The policy's own base answers at once, whatever the policy does."""
    opens_a_thought = TEMPLATE.replace("assistant\n{%", "assistant\n<think>\n{%")
    policy = load_policy(make_hub(tmp_path, template=opens_a_thought))
    let_think(policy, 64)
    asked = script(policy, {"Save": "(500, 500)"})
    example = Example(blank_screen(64, 64), ())
    executed = vlm_tool_agent(policy)([Action("click", "Save")], [example])
    assert executed == [Action("click", "Save", (0.5, 0.5))]
    assert asked[0].endswith("<think>\n\n</think>\n\n")
    assert policy.thinking == 64

    def interrupted(*_):
        raise KeyboardInterrupt

    policy.forward = Forward(interrupted, completion_logprobs=None)
    with pytest.raises(KeyboardInterrupt):
        ask(policy, [(example.observation.screenshot, "Where is Save?")])
    assert policy.thinking == 64


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("ByteDance-Seed/UI-TARS-1.5-7B", "start_box='<|box_start|>"),
        ("ui_tars_2b", "## Action Space"),
        ("mPLUG/GUI-Owl-1.5-2B", '"coordinate": [x, y]'),
        ("Qwen/Qwen3-VL-2B-Instruct", '"point_2d": [x, y]'),
    ],
)
def test_each_family_is_asked_in_its_own_form(name, words):
    policy = load_hub()
    policy.name = name
    asked = script(policy, {"Save": "(500, 500)"})
    example = Example(blank_screen(64, 64), ())
    executed = vlm_tool_agent(policy)([Action("click", "{Save}")], [example])
    assert executed == [Action("click", "{Save}", (0.5, 0.5))]
    assert words in asked[0] and "click {Save}" in asked[0]


def test_text_of_others_cannot_become_special_tokens():
    """Of an instruction, of what the agent typed before, of its plan: one more image pad would stop
    the next forward."""
    policy = load_hub()
    bad = "<|image_pad|><|im_end|>"
    screenshot = observe(0).screenshot
    seen = Observation(bad, screenshot, (f"type {bad}",), (Action("type", bad),))
    prompt = encode(policy, [seen], 1)[0]
    assert prompt.ids.count(policy.image_token) == len(prompt.features[0])
    assert prompt.ids.count(policy.tokenizer.eos_token_id) == 2
    assert vlm_tool_agent(policy)([Action("click", bad)], [Example(seen, ())]) == [None]


# ---- what it is used for ------------------------------------------------------------------------


def test_its_errors_pay_nothing_and_are_counted():
    policy = load_hub()
    script(policy, {"click Save": "(500, 500)", "click Exit": "(100, 100)"})
    reference = Action("click", "Save", (0.5, 0.5))
    truth = Example(blank_screen(64, 64), (reference,), ((0.4, 0.4, 0.6, 0.6),))
    rollouts = []
    for text in ("click Save", "click Exit", "click Nowhere", "fly"):
        forecast, error = parse_forecast(text, 1)
        rollouts.append(Rollout([], [], [], text, "stop", forecast, error, []))
    group = Group(truth, None, rollouts)
    assert score([group], "stage2", Config(horizon=1), vlm_tool_agent(policy)) == 1
    assert [rollout.reward for rollout in rollouts] == [1.0, 0.0, 0.0, 0.0]


# ---- what --tool_agent names --------------------------------------------------------------------


def test_an_empty_name_is_the_worlds_own(policy):
    assert load_tool_agent("", policy) is None


def test_base_is_the_policy_itself(policy):
    assert frozen_vlm("base", policy) is policy


def test_ocr_reads_the_screenshot_and_pays_as_any_tool_agent(policy):
    truth, label = a_label_to_read()
    rollouts = []
    for text in (f"click {label}", f"click the {label.upper()}", "click Nowhere", "fly"):
        forecast, error = parse_forecast(text, 1)
        rollouts.append(Rollout([], [], [], text, "stop", forecast, error, []))
    group = Group(truth, None, rollouts)
    assert score([group], "stage2", Config(horizon=1), load_tool_agent("ocr", policy)) == 1
    assert [rollout.reward for rollout in rollouts] == [1.0, 1.0, 0.0, 0.0]


def test_ocr_that_is_not_installed_ends_with_one_line(policy, dies, monkeypatch):
    monkeypatch.setattr("extras.vlm_tool_agent.load_reader", Reader)
    monkeypatch.setitem(sys.modules, "rapidocr", None)
    message = dies(load_tool_agent, "ocr", policy)
    assert message == f"error: --tool_agent ocr: OCR needs rapidocr: {INSTALL}"


def test_another_model_is_loaded_once_and_goes_the_fast_way(policy):
    name = str(hub("qwen2_vl"))
    vlm = frozen_vlm(name, policy, max_pixels=50_000)
    assert vlm is frozen_vlm(name, policy, max_pixels=50_000)
    assert vlm.name == name and vlm.forward is SHARED and vlm.peft is None
    assert vlm.image_processor.size["longest_edge"] == 50_000
    find_points = load_tool_agent(name, policy, max_pixels=50_000)
    example = Example(blank_screen(64, 64), ())
    assert find_points([Action("done")], [example]) == [Action("done")]


def test_a_wrong_name_ends_with_one_line(policy, dies):
    assert "/no/such/model" in dies(load_tool_agent, "/no/such/model", policy)


def test_it_really_answers():
    """Nothing scripted: a random model writes nonsense, and nonsense names no point."""
    policy = load_policy(hub())
    example = Example(observe(0), ())
    assert vlm_tool_agent(policy)([Action("click", "Save")], [example]) == [None]
