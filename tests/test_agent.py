"""agent.py: parser, prompt, sampler, log-probabilities and adapters, each against an independent
and plainer way to the same numbers. Whatever samples or scores is held to the same promises on
both ways: the reference of agent.py and the shared prompt of extras/."""

import ast
import builtins
import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from helpers import load_hub, nudge, observe, plain_logits, plain_logprobs, some_logprobs
from hypothesis import given, settings
from hypothesis import strategies as st

import agent
from agent import (
    REFERENCE,
    SYSTEM,
    Plan,
    Policy,
    Rollout,
    Sampling,
    build_prompt,
    choose_rollout,
    encode,
    format_forecast,
    make_rollout,
    parse_forecast,
    play,
    policy_planner,
    trainable,
)
from envs import KINDS, MAX_TEXT, SPLITS, TERMINAL, Action, Observation, ToyGUI, with_states
from extras.loading import load_policy
from extras.shared_prompt import SHARED

ROOT = Path(__file__).resolve().parent.parent
A = Action("click", "Account")
B = Action("click", "Name")
C = Action("type", "amber")
DONE = Action("done")


@pytest.fixture(params=["reference", "shared"])
def either(request, policy) -> Policy:
    """The policy without adapters, sampling and scoring in either way."""
    policy.forward = REFERENCE if request.param == "reference" else SHARED
    return policy


@pytest.fixture(params=["reference", "shared"])
def either_tuned(request, tuned) -> Policy:
    """The same with adapters."""
    tuned.forward = REFERENCE if request.param == "reference" else SHARED
    return tuned


def sample(policy: Policy, prompts, how: Sampling, seed: int | None = 0) -> list[list[Rollout]]:
    generator = None if seed is None else torch.Generator().manual_seed(seed)
    return policy.forward.sample(policy, prompts, how, generator)


def allowed_tokens(policy: Policy) -> list[int]:
    vocabulary = range(policy.core.config.text_config.vocab_size)
    return [token for token in vocabulary if token not in policy.suppressed]


# ---- parser -------------------------------------------------------------------------------------

words = st.text(st.characters(codec="utf-8", exclude_characters="\n\r"), max_size=20)
starts = st.sampled_from([*KINDS, "Click", "</think>", "<think>", "```", "{", "scroll up", "done."])
ends = st.sampled_from(
    [
        "",
        "(500, 250)",
        "(1, 2) (3, 4)",
        "(-1, 2)",
        "(1, 2)(-1, 2)",
        "(1e9, nan)",
        "(0,0)",
        "(99999999999, 1)",
        "(٣, ٤)",
    ]
)
lines = st.one_of(words, st.tuples(starts, words, ends).map(" ".join))
answers = st.one_of(
    st.text(),
    st.binary().map(lambda blob: blob.decode("utf-8", "replace")),
    st.lists(lines, max_size=7).map("\n".join),
)


@settings(max_examples=400)
@given(answers, st.integers(1, 6))
def test_parser_reads_anything(text, horizon):
    forecast, error = parse_forecast(text, horizon)
    assert len(forecast) <= horizon
    assert all(isinstance(action, Action) for action in forecast)
    if error is None:
        assert forecast
    else:
        assert error and "\n" not in error and len(error) < 200
    assert not any(action.kind in TERMINAL for action in forecast[:-1])
    # What is written has no points: a text that is empty or ends like a place is read otherwise.
    places = [action for action in forecast if action.point or action.text.endswith(")")]
    if all(action.text and not action.text.endswith(")") for action in places):
        bare = [Action(action.kind, action.text) for action in forecast]
        assert parse_forecast(format_forecast(forecast), horizon)[0] in (bare, forecast)


texts = st.text(
    st.characters(codec="utf-8", categories=("L", "N", "P", "S", "Zs")), min_size=1, max_size=30
)
texts = texts.map(lambda text: " ".join(text.split()))
texts = texts.filter(lambda text: text and not text.endswith(")") and "</think>" not in text)


@st.composite
def legal(draw, kinds) -> Action:
    """An action as it is written: one line, no text where the kind takes none, points left to the
    tool agent."""
    kind = draw(st.sampled_from(sorted(kinds)))
    if kind == "scroll":
        return Action(kind, "down")
    if not KINDS[kind] or kind in ("done", "fail"):
        return Action(kind)
    return Action(kind, draw(texts))


@given(st.lists(legal(set(KINDS) - TERMINAL), max_size=4), legal(KINDS))
def test_format_and_parse_are_inverse(before, last):
    forecast = [*before, last]
    assert parse_forecast(format_forecast(forecast), 5) == (forecast, None)


TOO_LONG = f"line 1: the text of type must be one line of at most {MAX_TEXT} characters"


@pytest.mark.parametrize(
    ("text", "horizon", "read", "error"),
    [
        ("", 5, [], "nothing to read"),
        (" \n\n ", 5, [], "nothing to read"),
        ("fly away", 5, [], "line 1: unknown action kind 'fly'"),
        ("Click Save", 5, [], "line 1: unknown action kind 'Click'"),
        ("click", 5, [], "line 1: click without its text"),
        ("type", 5, [], "line 1: type without its text"),
        ("click Save\nback now", 5, ["click Save"], "line 2: text after back"),
        ("back (1, 2)", 5, [], "line 1: text after back"),
        ("done\nclick Save", 5, ["done"], "line 2: text after done"),
        ("answer 42\nanswer 43", 5, ["answer 42"], "line 2: text after answer"),
        ("back\nback\nback", 2, ["back", "back"], "line 3: more than the 2 steps asked for"),
        (
            "scroll sideways",
            5,
            [],
            "line 1: scroll 'sideways': the direction must be one of down, left, right, up",
        ),
        ("scroll", 5, [], "line 1: scroll without its text"),
        (
            "back\nclick Save (1500, 2)",
            5,
            ["back"],
            "line 2: point (1.5, 0.002) is not inside 0..1",
        ),
        ("click Save (-1, 2)", 5, [], "line 1: point (-0.001, 0.002) is not inside 0..1"),
        ("type " + "x" * (MAX_TEXT + 1), 5, [], TOO_LONG),
        ("I should click Exit\n</think>\n\nclick Save\ndone", 5, ["click Save", "done"], None),
        ("<think>\nclick Exit", 5, [], "line 1: unknown action kind '<think>'"),
        ("  click   the Save button \n\n done", 5, ["click the Save button", "done"], None),
        # nothing behind a bad line counts
        ("click Save\n\nfly\nback", 5, ["click Save"], "line 2: unknown action kind 'fly'"),
    ],
)
def test_each_failure_has_a_name(text, horizon, read, error):
    forecast, found = parse_forecast(text, horizon)
    assert [str(action) for action in forecast] == read
    assert found == error


def test_points_come_in_the_models_frame_and_leave_in_0_to_1():
    save = Action("click", "Save", (0.5, 0.25))
    assert parse_forecast("click Save (500, 250)", 1)[0] == [save]
    assert parse_forecast("click Save (540, 600)", 1, frame=(1080, 2400))[0] == [save]
    assert parse_forecast("click (1000, 0.5)", 1)[0] == [Action("click", "", (1.0, 0.0005))]
    assert parse_forecast("type (500, 250)", 1)[0] == [Action("type", "(500, 250)")]


START = (0.12, 0.3)
END = (0.8, 0.6)


@pytest.mark.parametrize(
    ("line", "action"),
    [
        ("drag Box to Bin", Action("drag", "Box to Bin")),
        ("drag Box to Bin (120, 300) (800, 600)", Action("drag", "Box to Bin", START, END)),
        ("drag Box to Bin(120,300)(800,600)", Action("drag", "Box to Bin", START, END)),
        ("drag (120, 300) (800, 600)", Action("drag", "", START, END)),
        ("drag Box to Bin (120, 300)", Action("drag", "Box to Bin", START)),  # the end is not said
        ("drag (120, 300)", Action("drag", "", START)),
        # Two points are read and not three; of other kinds one.
        ("drag Box (9, 9) (120, 300) (800, 600)", Action("drag", "Box (9, 9)", START, END)),
        ("click Save (800, 600) (120, 300)", Action("click", "Save (800, 600)", START)),
        # A place that is none stays text.
        ("drag Box (99999999999, 1) (120, 300)", Action("drag", "Box (99999999999, 1)", START)),
    ],
)
def test_of_a_drag_both_ends_are_read(line, action):
    assert parse_forecast(line, 1) == ([action], None)


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("drag", "drag without its text"),
        ("drag Box (120, 300) (1001, 0)", "end (1.001, 0.0) is not inside 0..1"),
        ("drag Box (-1, 300) (800, 600)", "point (-0.001, 0.3) is not inside 0..1"),
    ],
)
def test_a_drag_that_cannot_be_read_says_why(line, why):
    assert parse_forecast(line, 1) == ([], f"line 1: {why}")


def test_a_forecast_is_written_without_points():
    drag = Action("drag", "Box to Bin", START, END)
    assert format_forecast([drag]) == "drag Box to Bin"
    assert "drag {what is dragged to what, such as Box to Bin}" in SYSTEM.split("\n")


@pytest.mark.parametrize(
    "text",
    [
        "__import__('os').system('touch owned')",
        "click {open('owned', 'w')}",
        "type $(touch owned)",
        "type `touch owned`",
        "call exec(\"open('owned', 'w')\")",
        "click %s%n{0.__class__}",
        "answer !!python/object/apply:os.system [touch]",
    ],
)
def test_hostile_text_is_only_text(text, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    for name in ("eval", "exec"):
        executed = lambda *_: pytest.fail("model text was executed")  # noqa: E731
        monkeypatch.setattr(builtins, name, executed)
    forecast, error = parse_forecast(text, 5)
    assert error or str(forecast[0]) == text
    assert not list(tmp_path.iterdir())


def test_far_first_is_read_from_the_last_line():
    text = format_forecast([A, B, DONE], far_first=True)
    assert text == "done\nclick Name\nclick Account"
    assert parse_forecast(text, 3, far_first=True) == ([A, B, DONE], None)
    wrong = parse_forecast("nonsense\nclick Account", 3, far_first=True)
    assert wrong == ([A], "line 2: unknown action kind 'nonsense'")
    assert parse_forecast(text, 2, far_first=True)[0] == [A, B]


# ---- prompt -------------------------------------------------------------------------------------


def test_the_prompt_as_the_model_sees_it(policy):
    observation = Observation(
        "Account: type amber in Name; finish",
        observe(0).screenshot,
        ("click Account", "click Title failed"),
        (Action("type", "amber"), Action("click", "Save")),
    )
    prompt = encode(policy, [observation], 5)[0]
    text = policy.tokenizer.decode([t for t in prompt.ids if t != policy.image_token])
    assert " ".join(text.split()) == (
        "task : Account : type amber in Name ; finish "
        "past : click Account ; click Title failed "
        "plan : type amber ; click Save "
        "<|vision_start|> <|vision_end|> next 5 : <|im_start|>"
    )
    assert prompt.ids.count(policy.image_token) == 48 == int(prompt.grid.prod())
    assert prompt.features[0].shape == (48, 128)
    system, user = build_prompt(observation, 5)
    assert all(kind in system["content"][0]["text"] for kind in KINDS)
    assert [part["type"] for part in user["content"]] == ["text", "image", "text"]


def test_prompt_is_the_same_in_training_and_evaluation(policy):
    """The plan-act loop's prompts, caught on their way to the sampler, are those that the training
    loop encodes."""
    seen = []

    def catching(policy, prompts, *rest):
        seen.extend(prompts)
        return REFERENCE.sample(policy, prompts, *rest)

    policy.forward = agent.Forward(catching, REFERENCE.completion_logprobs)
    observations = [observe(i, steps=i, plan=(Action("back"),) * (i % 2)) for i in range(4)]
    policy_planner(policy, 5)(observations, None)
    for prompt, observation in zip(seen, observations, strict=True):
        alone = encode(policy, [observation], 5)[0]
        assert prompt.ids == alone.ids
        torch.testing.assert_close(prompt.features, alone.features, rtol=1e-5, atol=1e-5)


def test_one_function_builds_prompts_and_one_calls_the_chat_template():
    callers = set()
    sources = {*ROOT.glob("*.py"), *ROOT.glob("extras/*.py")}
    sources -= {ROOT / "extras" / name for name in ("speed.py", "export.py")}  # for other trainers
    for path in sources:
        tree = ast.parse(path.read_text())
        for function in [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]:
            for call in [node for node in ast.walk(function) if isinstance(node, ast.Call)]:
                name = ast.unparse(call.func).split(".")[-1]
                if name in ("apply_chat_template", "build_prompt"):
                    callers.add((path.name, function.name, name))
    assert callers == {
        ("agent.py", "chat_text", "apply_chat_template"),
        ("agent.py", "encode", "build_prompt"),
    }


def test_every_word_of_the_toy_world_is_a_token(policy):
    unknown = policy.tokenizer.unk_token_id
    for split in SPLITS:
        for seed in range(30):
            env = ToyGUI(split)
            env.reset(seed)
            plan = format_forecast(env.oracle(20))
            text = "\n".join([env.task.instruction, plan, *env.cells().values()])
            assert unknown not in policy.tokenizer(text)["input_ids"]
            answer = format_forecast(env.oracle(5)) + policy.tokenizer.eos_token
            assert len(policy.tokenizer(answer)["input_ids"]) <= policy.max_new_tokens(5)
            assert env.observe().history == ()
            assert unknown not in encode(policy, [env.observe()], 5)[0].ids


def test_max_pixels_bounds_the_number_of_image_tokens(tiny):
    large = observe(0, scale=4)
    policy = load_policy(tiny)
    assert encode(policy, [large], 5)[0].ids.count(policy.image_token) == 16 * 48
    small = load_policy(tiny, max_pixels=128 * 96)
    assert 0 < encode(small, [large], 5)[0].ids.count(small.image_token) <= 48


# ---- sampler ------------------------------------------------------------------------------------


@pytest.mark.parametrize("temperature", [1.0, 0.6])
def test_sampled_logprobs_are_those_of_plain_forwards(either_tuned, temperature):
    policy = either_tuned
    observations = [observe(0), observe(5, steps=3, plan=(Action("back"),)), observe(2, steps=1)]
    prompts = encode(policy, observations, 5)
    assert len({len(prompt.ids) for prompt in prompts}) == 3
    with nudge(policy, eos=2.0), torch.no_grad():  # so that some stop early
        groups = sample(policy, prompts, Sampling(5, 6, temperature, 12))
        completions = [[rollout.completion_ids for rollout in group] for group in groups]
        lengths = {len(tokens) for group in completions for tokens in group}
        assert min(lengths) < 12 == max(lengths)
        scored, mask = policy.forward.completion_logprobs(policy, prompts, completions, temperature)
        for p, group in enumerate(groups):
            for g, rollout in enumerate(group):
                ids = prompts[p].ids
                written = rollout.completion_ids
                plain = plain_logprobs(policy, observations[p], ids, written, temperature)
                old = torch.tensor(rollout.old_logprobs)
                torch.testing.assert_close(old, plain, atol=1e-4, rtol=0)
                torch.testing.assert_close(scored[p, g][mask[p, g]], plain, atol=1e-4, rtol=0)
                assert rollout.prompt_ids == ids


def test_both_ways_draw_the_same_samples(tuned):
    """The random numbers are used in one order, so that a run can be repeated on the other way."""
    prompts = encode(tuned, [observe(0), observe(5, steps=3)], 5)
    drawn = []
    for forward in (REFERENCE, SHARED):
        tuned.forward = forward
        groups = sample(tuned, prompts, Sampling(5, 4, 1.0, 12), seed=3)
        drawn.append([rollout.completion_ids for group in groups for rollout in group])
    assert drawn[0] == drawn[1]


def test_sampling_is_truly_random(either):
    rollouts = sample(either, encode(either, [observe(0)], 5), Sampling(5, 16))[0]
    assert len({tuple(rollout.completion_ids) for rollout in rollouts}) == 16
    assert len({rollout.completion_ids[0] for rollout in rollouts}) > 8


def test_sampling_follows_the_distribution(either):
    """First tokens of 3,000 samples against the model's own probabilities, by chi-square over the
    twenty likeliest."""
    prompt = encode(either, [observe(0)], 5)
    n = 3000
    rollouts = sample(either, prompt, Sampling(1, n, 0.7, 1))[0]
    firsts = [rollout.completion_ids[0] for rollout in rollouts]
    counts = torch.bincount(
        torch.tensor(firsts), minlength=either.core.config.text_config.vocab_size
    )
    allowed = allowed_tokens(either)
    with torch.no_grad():
        logits = plain_logits(either, observe(0), prompt[0].ids)[-1].float() / 0.7
    expected = logits[allowed].softmax(-1) * n
    assert expected.sum().item() == pytest.approx(n, rel=1e-4)
    assert counts[allowed].sum() == n
    top = expected.topk(20).indices
    chi2 = ((counts[allowed][top] - expected[top]) ** 2 / expected[top]).sum().item()
    assert chi2 < 45.3  # the 99.9 % point of chi-square with 20 degrees of freedom


def test_greedy_is_deterministic_and_takes_the_best_token_each_time(either_tuned):
    policy = either_tuned
    observation = observe(1)
    prompt = encode(policy, [observation], 5)
    first = sample(policy, prompt, Sampling(5, 2, 0.0, 8), seed=None)[0]
    second = sample(policy, prompt, Sampling(5, 2, 0.0, 8), seed=None)[0]
    assert first[0].completion_ids == first[1].completion_ids == second[0].completion_ids
    written = []
    while len(written) < 8 and policy.tokenizer.eos_token_id not in written:
        with torch.no_grad():
            logits = plain_logits(policy, observation, prompt[0].ids + written)[-1]
        written.append(max(allowed_tokens(policy), key=lambda token: logits[token].item()))
    assert written == first[0].completion_ids


def test_the_same_generator_gives_the_same_samples(either):
    prompt = encode(either, [observe(0)], 5)
    drawn = []
    for seed in (3, 3, 4):
        rollouts = sample(either, prompt, Sampling(5, 4), seed=seed)[0]
        drawn.append([rollout.completion_ids for rollout in rollouts])
    assert drawn[0] == drawn[1] != drawn[2]


@pytest.mark.parametrize("temperature", [1.0, 0.0])
def test_suppressed_tokens_are_never_sampled(either, temperature):
    names = ["<|image_pad|>", "<|video_pad|>", "<|vision_start|>", "<|vision_end|>"]
    names += ["<|endoftext|>", "<|im_start|>", "<unk>"]
    suppressed = set(either.tokenizer.convert_tokens_to_ids(names))
    assert either.suppressed.tolist() == sorted(suppressed)
    with nudge(either, suppressed=100.0):
        prompts = encode(either, [observe(0), observe(1)], 5)
        groups = sample(either, prompts, Sampling(5, 32, temperature))
    rollouts = [rollout for group in groups for rollout in group]
    written = {token for rollout in rollouts for token in rollout.completion_ids}
    assert written and not written & suppressed
    # what may be sampled shares all probability
    assert all(logprob > -50 for rollout in rollouts for logprob in rollout.old_logprobs)


def test_an_unrelated_forward_in_between_changes_nothing(either_tuned):
    """The model keeps `rope_deltas` of what it last saw: a continuation that used them was off by 5
    in its logits."""
    policy = either_tuned
    prompt = encode(policy, [observe(0)], 5)
    other = observe(3, scale=3)

    def draw():
        rollouts = sample(policy, prompt, Sampling(5, 4))[0]
        return [(rollout.completion_ids, rollout.old_logprobs) for rollout in rollouts]

    before = draw()
    with torch.no_grad():
        other_prompt = encode(policy, [other], 5)[0]
        plain_logprobs(policy, other, other_prompt.ids, [20, 21])
        assert policy.core.model.rope_deltas is not None
        sample(policy, [other_prompt], Sampling(5, 2), seed=None)
        between = draw()
        policy.core.model.rope_deltas = torch.tensor([[977]])
        after = draw()
    assert before == between == after


def test_a_prompts_samples_do_not_depend_on_its_neighbours(either):
    greedy = Sampling(5, 1, 0.0)
    observations = [observe(i, steps=i) for i in range(4)]
    together = sample(either, encode(either, observations, 5), greedy)
    for observation, (one,) in zip(observations, together, strict=True):
        alone = sample(either, encode(either, [observation], 5), greedy)[0][0]
        assert alone.completion_ids == one.completion_ids
        torch.testing.assert_close(alone.old_logprobs, one.old_logprobs, atol=1e-4, rtol=0)


def test_a_rollout_tells_what_was_written(policy):
    ids = policy.tokenizer("click Save\ndone<|im_end|>")["input_ids"]
    prompt = encode(policy, [observe(0)], 5)[0]
    rollout = make_rollout(policy, prompt, ids + [5, 6], [-0.5] * 7, 5)
    assert rollout.completion_ids == ids
    assert rollout.step_index == [0, 0, 0, 1, 1]
    assert rollout.finish_reason == "stop"
    assert rollout.parse_error is None
    assert [str(action) for action in rollout.forecast] == ["click Save", "done"]
    assert len(rollout.old_logprobs) == 5
    assert "im_end" not in rollout.text

    cut = make_rollout(policy, prompt, ids[:-1], [-0.5] * 4, 5)
    assert cut.finish_reason == "length"
    assert cut.parse_error == "cut off after 4 tokens"
    assert len(cut.forecast) == 2

    # An empty line before the first word would take the credit of the executed action.
    late = policy.tokenizer("\n\nclick Save\ndone")["input_ids"]
    assert make_rollout(policy, prompt, late, [-0.5] * 6, 5).step_index == [0, 0, 0, 0, 0, 1]

    too_many = policy.tokenizer("back\n" * 4)["input_ids"]
    steps = make_rollout(policy, prompt, too_many, [-0.5] * 8, 2).step_index
    assert steps == [0, 0, 1, 1, 2, 2, 2, 2]


def test_far_first_counts_steps_from_the_end(policy):
    policy.far_first = True
    prompt = encode(policy, [observe(0)], 3)[0]
    assert "next 3 far to near :" in policy.tokenizer.decode(prompt.ids)
    written = policy.tokenizer("done\nclick Name\nclick Account")["input_ids"]
    written.append(policy.tokenizer.eos_token_id)
    rollout = make_rollout(policy, prompt, written, [0.0] * len(written), 3)
    assert rollout.forecast == [A, B, DONE]
    # a line break belongs to the line that it ends
    assert rollout.step_index == [2, 2, 1, 1, 1, 0, 0, 0]


def test_sampled_completions_end_with_the_end_token_or_are_cut(either):
    with nudge(either, eos=2.5):
        rollouts = sample(either, encode(either, [observe(0)], 5), Sampling(5, 64))[0]
    end = either.tokenizer.eos_token_id
    newline = either.tokenizer.convert_tokens_to_ids("\n")
    assert {rollout.finish_reason for rollout in rollouts} == {"stop", "length"}
    for rollout in rollouts:
        ids = rollout.completion_ids
        stopped = rollout.finish_reason == "stop"
        assert ids.count(end) == stopped
        assert (ids[-1] == end) == stopped
        assert len(rollout.old_logprobs) == len(rollout.step_index) == len(ids) <= 15
        assert rollout.parse_error is not None or rollout.forecast
        begin = next((i for i, token in enumerate(ids) if token != newline), len(ids))
        lines_before = [min(ids[begin:i].count(newline), 5) for i in range(len(ids))]
        assert rollout.step_index == lines_before


# ---- log-probabilities --------------------------------------------------------------------------


def test_the_end_token_is_in_the_mask_even_where_it_is_also_the_padding(either):
    eos = either.tokenizer.eos_token_id
    prompts = encode(either, [observe(0)], 5)
    completions = [[[20, 21, eos], [eos], [20, 21, 22, 23, eos]]]
    logprobs, mask = either.forward.completion_logprobs(either, prompts, completions)
    assert mask.tolist() == [[[1, 1, 1, 0, 0], [1, 0, 0, 0, 0], [1, 1, 1, 1, 1]]]
    assert (logprobs[mask] < 0).all() and (logprobs[~mask] == 0).all()
    either.tokenizer.pad_token = either.tokenizer.eos_token
    again, mask_again = either.forward.completion_logprobs(either, prompts, completions)
    assert (mask_again == mask).all()
    torch.testing.assert_close(again, logprobs)


@pytest.mark.parametrize(("dtype", "close"), [("float32", 1e-4), ("bfloat16", 0.3)])
@pytest.mark.parametrize("forward", [REFERENCE, SHARED], ids=["reference", "shared"])
def test_sampling_without_adapters_is_sampling_from_the_base(tiny, forward, dtype, close):
    """Adapters, folded into fp32 weights or called in bf16, count where they are on, and only
    there."""
    base = load_policy(tiny, dtype=dtype)
    tuned = load_policy(tiny, dtype=dtype)
    base.forward = tuned.forward = forward
    agent.add_lora(tuned, 4, 8, 0)
    for weight in trainable(tuned):
        torch.nn.init.normal_(weight, std=0.1)
    prompt = encode(base, [observe(0)], 5)

    def draw(policy):
        return sample(policy, prompt, Sampling(5, 4))[0]

    def logprobs(rollouts):
        return [rollout.old_logprobs for rollout in rollouts]

    with torch.no_grad():
        for policy in (tuned, base):
            rollouts = draw(policy)
            completions = [[rollout.completion_ids for rollout in rollouts]]
            scored, mask = forward.completion_logprobs(policy, prompt, completions)
            old = torch.tensor([p for rollout in rollouts for p in rollout.old_logprobs])
            torch.testing.assert_close(scored[mask].float(), old, atol=close, rtol=0)
        with tuned.peft.disable_adapter():
            assert logprobs(draw(tuned)) == logprobs(draw(base))
        assert logprobs(draw(tuned)) != logprobs(draw(base))


# ---- adapters -----------------------------------------------------------------------------------


def test_adapters_are_on_the_language_model_in_fp32_without_dropout(tiny):
    policy = load_policy(tiny, dtype="bfloat16")
    assert not trainable(policy)
    agent.add_lora(policy, 4, 8, 0)
    names = [name for name, p in policy.core.named_parameters() if p.requires_grad]
    assert len(names) == 4 * 7 * 2  # layers x projections x (A, B)
    assert all("language_model" in name and "lora_" in name for name in names)
    assert all(weight.dtype == torch.float32 for weight in trainable(policy))
    assert policy.peft.peft_config["default"].lora_dropout == 0.0


def test_adapters_off_give_the_base(tuned, tiny):
    base = some_logprobs(load_policy(tiny))
    on = some_logprobs(tuned)
    with tuned.peft.disable_adapter():
        assert torch.equal(some_logprobs(tuned), base)
    assert torch.equal(some_logprobs(tuned), on)
    assert not torch.equal(on, base)


# ---- how a forecast can reach the action that is executed ---------------------------------------


def rollout(forecast: list[Action], logprob: float) -> Rollout:
    return Rollout([], [0], [logprob], "", "stop", forecast, None, [0])


def test_choosing_among_forecasts():
    group = [rollout([A, B], -1.0), rollout([B], -3.0), rollout([B, C], -2.0), rollout([], -0.5)]
    assert choose_rollout(group, "likelihood").forecast == []
    # two begin with B; the likelier of them
    assert choose_rollout(group, "agreement").forecast == [B, C]
    # The same element by other words is agreed on; two clicks without words at two places are not.
    left, right = (Action("click", "", (x, 0.5)) for x in (0.1, 0.9))
    other_words = Action("click", f"the {B.text} button")
    points = [rollout([left], -1.0), rollout([right], -1.0)]
    named = [rollout([B], -3.0), rollout([other_words], -2.0)]
    assert choose_rollout([*points, *named], "agreement").forecast == [other_words]


def test_choosing_is_repeatable_and_counts_its_tokens(policy):
    envs = [ToyGUI("test") for _ in range(2)]
    seen = [env.reset(seed)[0] for seed, env in enumerate(envs)]
    plans = []
    for _ in range(2):
        planner = policy_planner(policy, 2, choose="agreement", candidates=4, seed=1)
        plans.append(planner(seen, envs))
    assert plans[0] == plans[1]
    assert all(plan.tokens > 4 for plan in plans[0])


def test_the_forecast_that_keeps_the_last_plan_is_chosen():
    d = Action("click", "City")
    group = [
        rollout([A, B, DONE], -1.0),
        rollout([B, C, d], -2.0),  # keeps two steps
        rollout([B, C], -4.0),  # as many
        rollout([C, B], -0.5),  # the same actions in other places
        rollout([], -0.1),
    ]
    assert choose_rollout(group, "last_plan", (B, C, DONE)).forecast == [B, C, d]
    assert choose_rollout(group, "last_plan", (B,)).forecast == [B, C, d]
    likeliest = group[-1]
    assert choose_rollout(group, "last_plan", (d, d)) is likeliest  # nobody keeps anything
    assert choose_rollout(group, "last_plan") is likeliest  # the first step has no last plan
    # What is said in other words is kept too.
    paraphrase = rollout([Action("click", "the Name field"), C, DONE], -9.0)
    assert choose_rollout([*group, paraphrase], "last_plan", (B, C, DONE)) is paraphrase


def test_the_last_plan_is_chosen_by_and_is_not_in_the_prompt(policy, monkeypatch):
    chosen_by = []
    shown = []

    def choose(group, choose, last_plan):
        chosen_by.append(last_plan)
        return rollout([C, A, B], 0.0)

    def encode_and_look(policy, observations, horizon):
        shown.extend(observation.plan for observation in observations)
        return encode(policy, observations, horizon)

    monkeypatch.setattr(agent, "choose_rollout", choose)
    monkeypatch.setattr(agent, "encode", encode_and_look)
    envs = [ToyGUI("test") for _ in range(2)]
    planner = policy_planner(policy, 3, choose="last_plan", candidates=2)
    for _ in range(2):  # the same environments again: a new episode knows nothing of the last one
        chosen_by.clear()
        plays = play(planner, envs, [0, 1], 3, carry=True)
        assert chosen_by[:2] == [(), ()]
        assert set(chosen_by[2:]) == {(A, B)}
    assert set(shown) == {()}
    assert plays[0].tokens > len(plays[0].results)


# ---- states in the forecast ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "action", "expects"),
    [
        ("click Sound => Sound", Action("click", "Sound"), "Sound"),
        ("click Sound", Action("click", "Sound"), ""),
        ("back => Sound", Action("back"), "Sound"),
        ("done", DONE, ""),
        (
            "click Save (500, 250) => all is saved",
            Action("click", "Save", (0.5, 0.25)),
            "all is saved",
        ),
        # the last sign counts, so a typed one is no trap
        ("type x => y => Name", Action("type", "x => y"), "Name"),
        ("type x=>y", Action("type", "x=>y"), ""),
    ],
)
def test_a_line_may_say_what_will_be_seen(line, action, expects):
    [read], error = parse_forecast(line, 1, states=True)
    assert (read, read.expects, error) == (action, expects, None)


@pytest.mark.parametrize("line", ["=> Sound", "click => Sound", " => ", "fly => Sound"])
def test_a_state_does_not_make_an_action(line):
    assert parse_forecast(line, 1, states=True)[0] == []


def test_where_no_states_are_asked_for_the_sign_is_text():
    assert parse_forecast("type x => y", 1) == ([Action("type", "x => y")], None)
    [read], _ = parse_forecast("click Sound => Sound", 1)
    assert (read.text, read.expects) == ("Sound => Sound", "")


@given(answers, st.integers(1, 6))
def test_the_parser_reads_anything_with_states(text, horizon):
    forecast, error = parse_forecast(text.replace("(", " => "), horizon, states=True)
    assert forecast or error


def test_states_are_written_as_they_are_read():
    forecast = [replace(A, expects="Account"), replace(C, expects="Account"), DONE]
    text = format_forecast(forecast)
    assert text == "click Account => Account\ntype amber => Account\ndone"
    read, error = parse_forecast(text, 3, states=True)
    assert (read, error) == (forecast, None)
    assert [action.expects for action in read] == ["Account", "Account", ""]
    far = format_forecast(forecast, far_first=True)
    assert parse_forecast(far, 3, far_first=True, states=True)[0][0].expects == "Account"


def test_only_the_prompt_that_asks_for_states_speaks_of_them():
    observation = observe(0, plan=(replace(A, expects="Account"),))
    usual, asking = build_prompt(observation, 5), build_prompt(observation, 5, states=True)
    assert usual[1]["content"][-1]["text"] == "\nnext 5:"
    assert asking[1]["content"][-1]["text"] == "\nnext 5 with states:"
    far = build_prompt(observation, 5, far_first=True, states=True)
    assert far[1]["content"][-1]["text"] == "\nnext 5 far to near with states:"
    assert usual[0]["content"][0]["text"] == SYSTEM
    assert asking[0]["content"][0]["text"].startswith(SYSTEM)
    assert "=>" in asking[0]["content"][0]["text"]
    assert "=>" not in asking[1]["content"][0]["text"]  # a plan in the prompt is of actions alone


def test_a_policy_that_forecasts_states_asks_for_them_and_reads_them():
    policy = load_hub()
    text = "click Save (500, 250) => all is saved"
    tokens = policy.tokenizer(text)["input_ids"]
    for states in (False, True):
        policy.forecast_states = states
        [prompt] = encode(policy, [observe(0)], 3)
        assert policy.tokenizer.decode(prompt.ids).count("next 3 with states:") == int(states)
        [action] = make_rollout(policy, prompt, tokens, [0.0] * len(tokens), 3).forecast
        assert action.expects == ("all is saved" if states else "")


def test_the_tiny_model_has_room_for_states(policy):
    assert policy.max_new_tokens(3) == 9
    policy.forecast_states = True
    assert policy.max_new_tokens(3) == 15  # "click Sound => Sound" and the line's end


def test_play_compares_what_was_expected_with_what_came():
    """The oracle is surprised by interruptions alone."""
    surprises = 0
    for seed in range(20):
        env = with_states(Dutiful)("dev")
        [episode] = play(oracle, [env], [seed], 3)
        assert episode.success
        assert len(episode.surprises) == len(episode.results)
        assert episode.surprises[-1] is False  # after `done` nothing is expected
        assert sum(episode.surprises) <= len(env.task.popups)
        surprises += sum(episode.surprises)
    assert surprises > 0


def test_a_world_without_names_for_its_screens_surprises_nobody():
    """A run with --forecast_states may be examined in one."""
    assert agent.is_surprised([Action("click", "Sound", expects="Sound")], object()) is False


def test_half_a_character_of_a_record_stops_no_tokenizer(policy):
    observation = replace(observe(0), instruction="cut \ud83d", history=("click \ud83d",))
    assert encode(policy, [observation], 5)[0].ids


def test_a_wrong_expectation_is_a_surprise_and_none_is_none():
    forecasts = {
        "wrong": [replace(A, expects="the moon")],
        "none": [A],
        "unreadable": [],
    }
    for name, forecast in forecasts.items():
        planner = lambda observations, envs, said=forecast: [Plan(said) for _ in envs]  # noqa: E731
        [episode] = play(planner, [ToyGUI("dev")], [0], 3)
        assert set(episode.surprises) == {name == "wrong"}


# ---- plan-act loop ------------------------------------------------------------------------------


def oracle(observations, envs) -> list[Plan]:
    return [Plan(env.oracle(3), tokens=7) for env in envs]


class Dutiful(ToyGUI):
    """A toy GUI whose tool agent does as it is told: actions keep the oracle's points."""

    def ground(self, action):
        return action


def test_plan_act_executes_only_the_first_action_and_plans_again():
    seeds = [0, 1, 2, 3, 4]
    plays = play(oracle, [Dutiful("dev") for _ in seeds], seeds, 3)
    assert len({len(played.results) for played in plays}) > 1  # they end at different times
    for seed, played in zip(seeds, plays, strict=True):
        alone = play(oracle, [Dutiful("dev")], [seed], 3)[0]
        assert played.success
        assert played.results == alone.results == ["ok"] * len(played.results)
        assert played.forecasts == alone.forecasts == played.references
        assert played.tokens == 7 * len(played.results)
        assert played.forecasts[-1][0] == Action("done")
        assert all(len(forecast) <= 3 for forecast in played.forecasts)
        assert all(not observation.plan for observation in played.observations)
        executed = [str(forecast[0]) for forecast in played.forecasts]
        assert played.observations[-1].history == tuple(executed[:-1][-4:])


def test_a_carried_forecast_stands_in_the_next_prompt():
    carried = play(oracle, [Dutiful("dev")], [0], 3, carry=True)[0]
    assert carried.observations[0].plan == ()
    plans = [observation.plan for observation in carried.observations[1:]]
    assert plans == [tuple(forecast[1:]) for forecast in carried.forecasts[:-1]]


def test_an_unreadable_forecast_is_a_refusal():
    executed = []

    class Watched(ToyGUI):
        def step(self, action, said=""):
            executed.append((action, said))
            return super().step(action, said)

    play(lambda observations, envs: [Plan([]) for _ in envs], [Watched("dev")], [0], 3)
    assert executed and set(executed) == {(None, "unreadable")}


def test_a_foreign_tool_agent_is_asked_for_all_first_steps_at_once():
    asked = []

    def refusing(actions, examples):
        asked.append([str(action) for action in actions])
        assert len(examples) == len(actions)
        return [None] * len(actions)

    plays = play(oracle, [ToyGUI("dev"), ToyGUI("dev")], [0, 1], 3, tool_agent=refusing)
    firsts = [str(played.forecasts[0][0]) for played in plays]
    assert asked[0] == firsts
    assert plays[0].results[0] == plays[1].results[0] == "failed"
    assert plays[0].observations[1].history == (f"{firsts[0]} failed",)


# ---- the sources --------------------------------------------------------------------------------


def test_model_text_cannot_reach_an_interpreter():
    sources = [*ROOT.glob("*.py"), *ROOT.glob("extras/*.py"), *ROOT.glob("benchmarks/*.py")]
    measuring = {"ablation.py", "speed.py", "gpu_check.py"}  # start this project's own programs
    # Other programs are found by fixed names and get no word of a model, and no shell: git, adb,
    # Chromium and the programs of virtual machines, asked for a commit, for devices, for a version
    # and for machines.
    others = {
        "episodes.py": 1,
        "androidworld_phone.py": 1,
        "browser.py": 1,
        "osworld_machine.py": 1,
    }
    for path in sources:
        source = path.read_text()
        called = set()
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
                called.add(node.func.id)
        assert not called & {"eval", "exec", "compile", "__import__"}, path
        assert not re.search(r"\b(os\.system|pickle\.load|marshal|shell=)", source), path
        if path.name not in measuring:
            assert source.count("subprocess.run(") == others.get(path.name, 0), path
