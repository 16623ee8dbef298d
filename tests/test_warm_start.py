"""extras/warm_start.py: folders and what their names know, targets of the reading lesson, what is
imitated, courses of a world, own plans, thoughts, the check."""

import inspect
import json
import random
from dataclasses import replace

import pytest
import torch
from helpers import observe, plain_logprobs

import agent
from agent import THOUGHT_END, Plan, encode, token_logprobs
from envs import Action, Example, Observation, ToyGUI, demonstration
from extras import warm_start
from extras.lessons import ANSWERS, Course, Drill, Lesson
from extras.loading import let_think, load_policy
from extras.shared_prompt import completion_states, pad_completions
from extras.warm_start import (
    READING_SHARPNESS,
    WarmStart,
    answer_ids,
    are_read,
    carried_plans,
    check_start,
    draw_batch,
    draw_lessons,
    draw_own_lessons,
    draw_probes,
    drill_loss,
    fingerprint,
    imitate,
    imitation_loss,
    kinds_missed,
    made_with,
    names_target,
    one_cycle,
    reading_logits,
    reading_targets,
    start_folder,
    teach_course,
    warm_base,
)
from extras.worlds import WORLDS, find_world
from train import parse_config, warm_start_settings


def settings(**changes) -> WarmStart:
    """A warm start in a moment."""
    flags = ["--reading_steps=2", "--warmup_steps=2", "--warmup_batch=2", "--train_tasks=20"]
    flags += ["--env=toy-gui"]  # the courses of the map are long
    return replace(warm_start_settings(parse_config(flags)), **changes)


@pytest.fixture
def unchecked(monkeypatch):
    """Warm starts are not asked whether they are fit."""
    monkeypatch.setattr(warm_start, "check_start", lambda *_: {"passed": True})


def read_json(file) -> dict:
    return json.loads(file.read_text())


# ---- the folder ----------------------------------------------------------------------------------


def test_a_warm_start_is_made_once_for_its_settings(tmp_path, monkeypatch, unchecked):
    folder = warm_base(settings(), tmp_path)
    assert folder == start_folder(settings(), tmp_path)
    made_by = read_json(folder / "warmup.json")["made_by"]
    assert made_by["reading_steps"] == 2
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {folder.name, "lessons"}  # nothing unfinished

    monkeypatch.setattr(warm_start, "imitate", lambda *_: pytest.fail("made again"))
    assert warm_base(settings(), tmp_path) == folder
    with pytest.raises(pytest.fail.Exception, match="made again"):
        warm_base(settings(seed=1), tmp_path)


def test_it_says_what_each_lesson_took(tmp_path, monkeypatch, unchecked):
    monkeypatch.setattr(warm_start, "OWN_RECORDS", 2)
    folder = warm_base(settings(warmup_steps=6, warmup_own_plans=True), tmp_path)
    lessons = read_json(folder / "warmup.json")["lessons"]
    assert list(lessons) == ["reading", "imitating", "own plans"]
    assert lessons["reading"]["batches"] == 2
    assert 0 <= lessons["reading"]["read"] <= 1
    assert lessons["imitating"]["batches"] == 6 + 2 + 2  # one long cycle and two short ones
    assert lessons["own plans"]["batches"] == 4
    for name in ("imitating", "own plans"):
        batches = lessons[name]["batches"]
        assert lessons[name]["target_tokens"] >= 2 * 2 * batches  # two answers of two tokens
        assert lessons[name]["loss"] > 0
    assert all(lesson["processor_seconds"] > 0 for lesson in lessons.values())


def test_target_tokens_are_those_of_the_answers(policy):
    lesson = Lesson(observe(0), (Action("click", "Save"), Action("done")))
    loss, tokens = imitation_loss(policy, settings(), 2, [lesson, lesson], random.Random(0))
    assert tokens == 2 * 5  # click, Save, line break, done, end
    written = answer_ids(policy, lesson.answer)
    prompt = encode(policy, [lesson.observation], 2)[0]
    by_hand = -plain_logprobs(policy, lesson.observation, prompt.ids, written).mean()
    torch.testing.assert_close(loss, by_hand, atol=1e-4, rtol=0)


def test_starts_of_one_world_and_seed_share_the_reading_lesson(tmp_path, monkeypatch, unchecked):
    made = []
    make_tiny = warm_start.make_tiny
    monkeypatch.setattr(
        warm_start, "make_tiny", lambda *what: [made.append(what), make_tiny(*what)]
    )
    first = warm_base(settings(), tmp_path)
    for changes in ({"warmup_lessons": "next"}, {"order": "far"}, {"warmup_steps": 3}):
        other = warm_base(settings(**changes), tmp_path)
        assert other != first
        tower = "model.visual.blocks.0.attn.qkv.weight"
        own = load_policy(other).core.state_dict()[tower]
        assert torch.equal(own, load_policy(first).core.state_dict()[tower])
    assert len(made) == 1
    for changes in ({"reading_steps": 3}, {"seed": 1}, {"train_tasks": 21}, {"thinking": 4}):
        warm_base(settings(**changes), tmp_path)
    assert len(made) == 5
    assert len(list((tmp_path / "lessons").iterdir())) == 5


def test_a_start_of_other_code_or_another_machine_is_made_anew_and_stays(
    tmp_path, monkeypatch, unchecked, capfd
):
    first = warm_base(settings(), tmp_path)
    assert "note:" not in capfd.readouterr().err

    def other_machine(env: str) -> dict:
        made = made_with(env)
        made["machine"]["torch"] = "9.9"
        return made

    monkeypatch.setattr(warm_start, "made_with", other_machine)
    second = warm_base(settings(), tmp_path)
    assert second != first and first.exists()
    notes = [line for line in capfd.readouterr().err.splitlines() if "note:" in line]
    assert len(notes) == 1
    assert str(first) in notes[0] and "another machine (torch" in notes[0]

    def other_code(env: str) -> dict:
        made = made_with(env)
        made["code"]["agent.py"] = "0123"
        return made

    monkeypatch.setattr(warm_start, "made_with", other_code)
    third = warm_base(settings(), tmp_path)
    assert third not in (first, second)
    assert "agent.py has changed" in capfd.readouterr().err
    assert warm_base(settings(), tmp_path) == third
    warm_base(settings(seed=1), tmp_path)  # never made before: nothing to tell
    assert "note:" not in capfd.readouterr().err


@pytest.mark.parametrize(
    "text", ["", "{", "[]", '{"made_by": {}}', '{"made_by": 1, "made_with": 2}']
)
def test_a_damaged_start_beside_it_does_no_harm(text, tmp_path, unchecked):
    (tmp_path / "old").mkdir()
    (tmp_path / "old" / "warmup.json").write_text(text)
    assert (warm_base(settings(), tmp_path) / "warmup.json").exists()


@pytest.mark.parametrize("env", ["toy-gui", "toy-gui:memory=0.5", "toy-tools"])
def test_the_name_knows_the_file_of_the_world(env):
    code = made_with(env)["code"]
    assert {"agent.py", "envs.py", "warm_start.py", "tiny_vlm.py", "shared_prompt.py"} <= set(code)
    assert ("toy_tools.py" in code) == (env == "toy-tools")
    assert ("memory_gui.py" in code) == (env == "toy-gui:memory=0.5")


def test_with_states_it_knows_the_same_file():
    world = find_world("toy-gui:memory=0.5", states=True)
    assert inspect.getsourcefile(world) == inspect.getsourcefile(find_world("toy-gui:memory=0.5"))


@pytest.mark.parametrize("steps", range(1, 61))
def test_a_cycle_can_have_any_number_of_steps(steps):
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    schedule = one_cycle(optimizer, 0.1, steps)
    rates = []
    for _ in range(steps):
        rates.append(schedule.get_last_lr()[0])
        optimizer.step()
        schedule.step()
    assert max(rates) <= 0.1 + 1e-9
    if steps >= 20:  # enough for a rise and a fall
        assert rates[0] < 0.01 and rates[-1] < 0.001 and max(rates) > 0.09


def test_comments_docstrings_and_layout_are_no_other_code(tmp_path):
    def of(text: str) -> str:
        file = tmp_path / f"{len(list(tmp_path.iterdir()))}.py"
        file.write_text(text)
        return fingerprint(file)

    plain = of("def double(x):\n    return 2 * x\n")
    assert (
        of('"""A file."""\n\n\ndef double(x):  # twice\n    "Doc."\n    return (2 * x)\n') == plain
    )
    assert of("def double(x):\n    return 2 + x\n") != plain
    assert of('def double(x):\n    "Doc."\n    return "Doc."\n') != plain


# ---- reading -------------------------------------------------------------------------------------


class Screen:
    """Two rows of three cells: a button called Save, and a word alone."""

    grid = (3, 2)

    def cells(self) -> dict:
        return {(0, 0): "<button>", (1, 0): "Save", (2, 1): "Saved"}


class OwnReadings(Screen):
    """The same screen in a world that says itself how its cells are to be read."""

    def readings(self):
        return {(1, 0): {"Save": 0.5, "Saved": 0.5}}


VOCABULARY = {"<blank>": 0, "<button>": 1, "Save": 2, "Saved": 3}


def test_a_cell_names_its_word_and_the_icon_left_of_it():
    wanted, weight = reading_targets([Screen(), Screen()], VOCABULARY)
    first_screen = [
        [0.0, 1.0, 0.0, 0.0],  # the icon
        [0.0, 0.25, 0.75, 0.0],  # its word, which also says what it is
        [1.0, 0.0, 0.0, 0.0],  # blank cells
        [1.0, 0.0, 0.0, 0.0],
        [1.0, 0.0, 0.0, 0.0],
        [0.0, 0.0, 0.0, 1.0],  # a word without an icon
    ]
    torch.testing.assert_close(wanted, torch.tensor(first_screen * 2))
    weights = [1.0, 2.0, 0.1, 0.1, 0.1, 1.0]  # two words count twice
    torch.testing.assert_close(weight, torch.tensor(weights * 2))


def test_a_world_may_say_itself_how_its_cells_are_read():
    wanted, weight = reading_targets([OwnReadings()], VOCABULARY)
    assert wanted[1].tolist() == [0.0, 0.0, 0.5, 0.5]
    assert wanted[0].tolist() == [1.0, 0.0, 0.0, 0.0]  # of the others it says nothing
    assert weight.tolist() == pytest.approx([0.1, 2.0, 0.1, 0.1, 0.1, 0.1])


def test_features_and_words_are_compared_by_their_directions():
    table = torch.tensor([[2.0, 0.0], [0.0, 0.5]])
    near = reading_logits(torch.tensor([[3.0, 4.0]]), table)
    torch.testing.assert_close(near, READING_SHARPNESS * torch.tensor([[0.6, 0.8]]))
    torch.testing.assert_close(near, reading_logits(torch.tensor([[0.3, 0.4]]), table))


def test_a_cell_is_read_when_its_words_come_before_all_others():
    wanted = torch.tensor([[0.5, 0.5, 0.0], [0.5, 0.5, 0.0], [0.0, 1.0, 0.0], [0.0, 1.0, 0.0]])
    logits = torch.tensor([[1.0, 2.0, 0.0], [1.0, 0.0, 2.0], [0.0, 3.0, 2.0], [1.0, 0.9, 0.0]])
    assert are_read(logits, wanted).tolist() == [True, False, True, False]


# ---- courses: inner words ------------------------------------------------------------------------


def test_inner_words_are_asked_of_the_layers_where_the_last_word_is_due(policy):
    drill = Drill(observe(0), (("", "click Save"),), inner=("Sound",))
    plainly = Drill(observe(0), (("", "click Save"),))
    loss, tokens = drill_loss(policy, [drill], horizon=1)
    alone, _ = drill_loss(policy, [plainly], horizon=1)
    assert tokens == 3  # click, Save, end
    prompt = encode(policy, [observe(0)], 1)[0]
    ids, _ = pad_completions(policy, [[answer_ids(policy, (Action("click", "Save"),))]])
    layers = []
    completion_states(policy, [prompt], ids, False, layers)
    named = token_logprobs(policy, layers[0][0, 0, 1], 1.0)  # behind "click"
    wanted = -named[policy.tokenizer.get_vocab()["Sound"]]
    torch.testing.assert_close(loss - alone, wanted / 3, atol=1e-5, rtol=0)


def test_the_states_after_the_last_layer_are_those_of_the_head(policy):
    prompt = encode(policy, [observe(0)], 1)[0]
    ids, _ = pad_completions(policy, [[answer_ids(policy, ANSWER)]])
    layers = []
    last = completion_states(policy, [prompt], ids, False, layers)
    assert len(layers) == policy.core.config.text_config.num_hidden_layers
    torch.testing.assert_close(layers[-1], last)


# ---- imitating -----------------------------------------------------------------------------------


@pytest.mark.parametrize("env", WORLDS)
def test_lessons_have_answers_of_the_length_asked_and_plans_of_one_less(env):
    rng = random.Random(0)
    for _ in range(100):
        pair = draw_lessons(settings(env=env), rng, horizon=4)
        assert len(pair) in (1, 2)
        assert all(1 <= len(lesson.answer) <= 4 for lesson in pair)
        assert all(len(lesson.observation.plan) <= 3 for lesson in pair)


def test_a_demonstration_of_one_state_gives_one_lesson(monkeypatch):
    record = demonstration(ToyGUI, "train", 0, 8, 0.2, 4)
    monkeypatch.setattr(warm_start, "draw_record", lambda *_: record[:1])
    [lesson] = draw_lessons(settings(), random.Random(0), horizon=3)
    assert lesson.answer == record[0].reference[:3]
    monkeypatch.setattr(warm_start, "draw_record", lambda *_: record)
    one, other = draw_lessons(settings(), random.Random(0), horizon=3)
    assert one.observation != other.observation


def share_with_a_plan(**changes) -> float:
    some = settings(train_tasks=300, warmup_batch=16, **changes)
    rng = random.Random(0)
    lessons = []
    for _ in range(150):
        lessons += draw_batch(some, rng)[1]
    return sum(lesson.observation.plan != () for lesson in lessons) / len(lessons)


def test_a_third_of_the_prompts_carry_a_plan():
    assert share_with_a_plan() == pytest.approx(0.34, abs=0.03)
    assert share_with_a_plan(warmup_horizon=1) == 0.0
    assert share_with_a_plan(warmup_lessons="next") == 0.0


def seen_in(lessons_kind: str, policy, monkeypatch) -> tuple[list, list]:
    """Prompts and answers of an imitation: (what was asked, words of the prompt) and texts."""
    prompts = []
    answers = []

    def loss_of(policy, observations, horizon):
        prompts.extend(
            (horizon, seen.instruction, seen.history, seen.plan) for seen in observations
        )
        return observations

    def completion_logprobs(policy, observations, completions):
        answers.extend(policy.tokenizer.decode(written) for [written] in completions)
        value = policy.core.lm_head.weight.sum() * 0 - 1
        return value.expand(len(completions), 1, 1), torch.ones(len(completions), 1, 1)

    monkeypatch.setattr(warm_start, "encode", loss_of)
    policy.forward = agent.Forward(None, completion_logprobs)
    some = settings(warmup_lessons=lessons_kind, warmup_steps=20, warmup_batch=4)
    imitate(policy, some)
    return prompts, answers


def test_controls_see_the_same_prompts_and_other_answers(policy, monkeypatch):
    prompts, forecasts = seen_in("forecasts", policy, monkeypatch)
    assert {horizon for horizon, *_ in prompts} == set(range(1, 9))
    for control in ("scrambled", "left_out"):
        same_prompts, answers = seen_in(control, policy, monkeypatch)
        assert same_prompts == prompts
        assert answers != forecasts
    lengths = [len(text.split()) for text in forecasts]
    scrambled = seen_in("scrambled", policy, monkeypatch)[1]
    assert [len(text.split()) for text in scrambled] == lengths


def test_next_asks_for_one_step_and_has_one_line(policy, monkeypatch):
    prompts, answers = seen_in("next", policy, monkeypatch)
    assert {horizon for horizon, *_ in prompts} == {1}
    assert not any("\n" in text for text in answers)


def test_only_next_and_a_horizon_of_1_teach_one_step():
    assert settings().longest == 8
    assert settings(warmup_horizon=1).longest == 1
    for form in ANSWERS:
        assert (settings(warmup_lessons=form).longest == 1) == (form == "next")


# ---- courses of a world --------------------------------------------------------------------------


def drills(rng: random.Random) -> list[Drill]:
    """Two prompts, of which one has an answer more."""
    first = Drill(observe(rng.randrange(5)), (("click Save", "\nclick Name"), ("", "back")))
    second = Drill(observe(7), (("click", "Audio\ndone"),))
    return [first, second]


def test_of_a_drill_only_what_is_not_given_is_learnt(policy):
    batch = drills(random.Random(0))
    loss, tokens = drill_loss(policy, batch, 5)
    by_hand = []
    for drill in batch:
        prompt = encode(policy, [drill.observation], 5)[0]
        for given, written in drill.answers:
            before = policy.tokenizer(given)["input_ids"] if given else []
            ids = policy.tokenizer(f"{given} {written}<|im_end|>")["input_ids"]
            logprobs = plain_logprobs(policy, drill.observation, prompt.ids, ids)
            by_hand.append(logprobs[len(before) :])
    by_hand = torch.cat(by_hand)
    assert tokens == len(by_hand) == 4 + 2 + 4
    torch.testing.assert_close(loss, -by_hand.mean(), atol=1e-4, rtol=0)


def test_a_course_is_learnt(policy):
    course = Course("names", batches=30, draw=drills)
    before = drill_loss(policy, drills(random.Random(0)), 5)[0].item()
    took = teach_course(policy, settings(), course)
    assert took["batches"] == 30
    assert took["target_tokens"] == 30 * 10
    assert took["loss"] < before / 2
    assert not any(weight.requires_grad for weight in policy.core.parameters())


def test_a_world_brings_its_courses_between_reading_and_imitating(tmp_path, monkeypatch, unchecked):
    class Taught(ToyGUI):
        @staticmethod
        def courses(settings: WarmStart) -> list[Course]:
            return [Course(f"names {settings.order}", batches=2, draw=drills)]

    monkeypatch.setattr(warm_start, "find_world", lambda name, states=False: Taught)
    folder = warm_base(settings(), tmp_path)
    lessons = read_json(folder / "warmup.json")["lessons"]
    assert list(lessons) == ["reading", "names near", "imitating"]
    assert lessons["names near"]["batches"] == 2


def test_starts_share_the_courses_that_they_begin_with(tmp_path, monkeypatch, unchecked):
    """And are then what each would be by itself, to the bit."""

    class Taught(ToyGUI):
        @staticmethod
        def courses(settings: WarmStart) -> list[Course]:
            courses = [Course("names", batches=2, draw=drills)]
            if settings.silent_hops > 0:
                courses.append(Course("silent", batches=2, draw=drills))
            return courses

    taught = []
    teach = warm_start.teach_course

    def note(policy, settings, course):
        taught.append(course.name)
        return teach(policy, settings, course)

    monkeypatch.setattr(warm_start, "find_world", lambda name, states=False: Taught)
    monkeypatch.setattr(warm_start, "teach_course", note)
    warm_base(settings(), tmp_path / "shared")
    silent = settings(silent_hops=1, warmup_steps=0)
    shared = warm_base(silent, tmp_path / "shared")
    assert taught == ["names", "silent"]
    alone = warm_base(silent, tmp_path / "alone")
    assert taught == ["names", "silent", "names", "silent"]
    weights = load_policy(alone).core.state_dict()
    for name, weight in load_policy(shared).core.state_dict().items():
        assert torch.equal(weight, weights[name])
    warm_base(settings(order="far"), tmp_path / "shared")  # its prompts are others
    assert taught[4:] == ["names"]


# ---- own plans -----------------------------------------------------------------------------------


def counting_planner(asked: list):
    """Forecasts that say at which state they were made, and how many steps the plan there had."""

    def plan(observations, _envs):
        asked.append(len(observations))
        plans = []
        for seen in observations:
            line = f"{len(seen.history)} {len(seen.plan)}"
            plans.append(Plan([Action("type", line), Action("back"), Action("type", line)]))
        return plans

    return plan


def test_a_plan_is_carried_from_state_to_state():
    record = demonstration(ToyGUI, "train", 0, 3, 0.0, history=20)
    assert len(record) > 3
    asked = []
    [plans] = carried_plans(counting_planner(asked), [record])
    assert len(plans) == len(record)
    assert plans[0] == ()
    assert plans[1] == (Action("back"), Action("type", "0 0"))  # nothing stood in the first prompt
    for i in range(2, len(record)):
        assert plans[i] == (Action("back"), Action("type", f"{i - 1} 2"))
    assert asked == [1] * (len(record) - 1)  # the last state is not asked: nothing follows


def test_demonstrations_of_unequal_length_go_side_by_side():
    records = [demonstration(ToyGUI, "train", i, 3, 0.0, history=20) for i in range(6)]
    records[2] = records[2][:1]
    asked = []
    carried = carried_plans(counting_planner(asked), records)
    assert [len(plans) for plans in carried] == [len(record) for record in records]
    assert carried[2] == [()]
    alone = [carried_plans(counting_planner([]), [record])[0] for record in records]
    assert carried == alone
    assert asked[0] == 5 and asked == sorted(asked, reverse=True)


def test_what_is_seen_first_reaches_later_prompts_through_all_forecasts_in_between():
    """A planner that forgets in one state has nothing to give to the next ones."""
    record = demonstration(find_world("toy-gui:memory=1"), "train", 0, 5, 0.0, history=20)

    def plan(observations, _envs):
        [seen] = observations
        if len(seen.history) == 2:
            return [Plan([])]
        kept = seen.plan if seen.history else (Action("type", "code"),)
        return [Plan([Action("back"), *kept])]

    [plans] = carried_plans(plan, [record])
    assert len(plans) > 4
    has_it = [Action("type", "code") in known for known in plans]
    assert has_it == [False, True, True] + [False] * (len(plans) - 3)


def test_own_plans_stand_in_half_of_the_prompts(policy, monkeypatch):
    mark = Action("type", "own")

    def marking_planner(policy, horizon):
        return lambda observations, envs: [Plan([mark] * horizon) for _ in observations]

    monkeypatch.setattr(warm_start, "policy_planner", marking_planner)
    monkeypatch.setattr(warm_start, "OWN_RECORDS", 10)
    some = settings(warmup_batch=16)
    own = draw_own_lessons(policy, some, random.Random(0))
    assert list(own) == [2, 3, 4, 5, 6, 7, 8]
    for horizon, lessons in own.items():
        plans = [lesson.observation.plan for lesson in lessons]
        assert plans.count(()) == 10  # the first states
        assert set(plans) == {(), (mark,) * (horizon - 1)}
        assert all(1 <= len(lesson.answer) <= horizon for lesson in lessons)
    rng = random.Random(0)
    from_own = {id(lesson) for lessons in own.values() for lesson in lessons}
    shares = []
    for _ in range(200):
        horizon, lessons = draw_batch(some, rng, own)
        share = sum(id(lesson) in from_own for lesson in lessons) / len(lessons)
        if horizon == 1:
            assert share == 0  # a forecast of one step leaves no plan
        else:
            shares.append(share)
    assert sum(shares) / len(shares) == pytest.approx(0.5, abs=0.05)


# ---- thoughts ------------------------------------------------------------------------------------

ANSWER = (Action("click", "Name"), Action("type", "amber"), Action("done"))


@pytest.fixture
def thinker(tmp_path):
    """An untrained tiny model that is to learn to think."""
    warm_start.make_tiny(tmp_path / "thinks", settings(thinking=20).words, 0)
    policy = load_policy(tmp_path / "thinks")
    let_think(policy, 20)
    return policy


def test_the_tiny_model_learns_to_think_back_before_it_answers(thinker, policy):
    text = thinker.tokenizer.decode(answer_ids(thinker, ANSWER))
    assert " ".join(text.split()) == "amber Name </think> click Name type amber done <|im_end|>"
    silent = policy.tokenizer.decode(answer_ids(policy, ANSWER))
    assert " ".join(silent.split()) == "click Name type amber done <|im_end|>"


def test_of_a_long_thought_the_part_nearest_to_the_answer_is_learnt(thinker):
    let_think(thinker, 2)
    text = thinker.tokenizer.decode(answer_ids(thinker, ANSWER))
    assert text.startswith("Name </think>")


def test_a_taught_answer_is_read_back(thinker):
    for far_first in (False, True):
        thinker.far_first = far_first
        ids = answer_ids(thinker, ANSWER)
        prompt = encode(thinker, [observe(0)], 3)[0]
        rollout = agent.make_rollout(thinker, prompt, ids, [-0.5] * len(ids), 3)
        assert rollout.forecast == list(ANSWER)
        assert rollout.parse_error is None
        assert rollout.thought_tokens == 3


def test_only_a_model_that_is_to_think_has_the_word_for_it(thinker, policy):
    assert settings().words == ToyGUI.words
    assert THOUGHT_END not in policy.tokenizer.get_vocab()
    assert thinker.thought_end not in thinker.suppressed
    with_it = thinker.tokenizer.get_vocab()
    assert {word: i for word, i in with_it.items() if word != THOUGHT_END} == (
        policy.tokenizer.get_vocab()
    )


# ---- the check -----------------------------------------------------------------------------------


def example(**parts) -> Example:
    return Example(Observation("", lambda: None), **parts)


def test_an_action_may_say_either_name_of_the_element():
    save = (0.0, 0.0, 0.5, 0.5)
    exit_ = (0.5, 0.5, 1.0, 1.0)
    truth = example(
        reference=(Action("click", "Keep"),),
        boxes=(save,),
        elements=(("Save", save), ("Exit", exit_)),
    )
    assert names_target(Action("click", "Keep"), truth)
    assert names_target(Action("click", "Save"), truth)
    assert not names_target(Action("click", "Exit"), truth)
    assert not names_target(Action("type", "Save"), truth)


def test_a_tool_may_be_called_by_its_own_name():
    truth = example(reference=(Action("call", "sum 1 2"),), goals=(Action("call", "add 1 2 = 3"),))
    assert names_target(Action("call", "sum 1 2"), truth)
    assert names_target(Action("call", "add 1 2"), truth)
    assert not names_target(Action("call", "sub 1 2"), truth)


def shares(first_action: float, **kinds: tuple[float, int]) -> dict:
    """What check_plans returns, with (share right, states) of each kind."""
    by_kind = {}
    for kind, (right, n) in kinds.items():
        by_kind[kind.replace("_", " ")] = {"right": right, "n": n}
    return {"first_action": first_action, "n": 3, "by_kind": by_kind}


def checked(monkeypatch, answers: list[dict], **changes) -> dict:
    """The check of a start whose shares are these, in the order in which it is asked."""
    in_order = iter(answers)
    monkeypatch.setattr(warm_start, "check_plans", lambda *_: next(in_order))
    check = check_start(None, settings(**changes), n=3)
    assert not list(in_order)
    return check


@pytest.mark.parametrize(
    ("with_plan", "dialogs", "passed"),
    [
        (0.80, 0.95, True),
        (0.76, 0.95, True),  # a plan may cost five points
        (0.74, 0.95, False),
        (0.80, 0.85, False),  # nine in ten dialogs are closed
        (0.80, 0.0, False),
        (0.80, None, True),  # a world without dialogs
    ],
)
def test_the_check_passes_where_a_plan_does_no_harm(with_plan, dialogs, passed, monkeypatch, capfd):
    kinds = {} if dialogs is None else {"click_to_close": (dialogs, 5)}
    answers = [shares(0.80), shares(with_plan, **kinds), shares(0.10)]
    check = checked(monkeypatch, answers)
    assert list(check) == ["horizon", "without", "with_plan", "misled", "passed"]
    assert check["horizon"] == 5
    assert check["passed"] == passed
    assert ("warning: the warm start acts worse" in capfd.readouterr().err) != passed


@pytest.mark.parametrize("changes", [{"warmup_horizon": 1}, {"warmup_lessons": "next"}])
def test_a_start_that_writes_one_step_is_asked_for_one_and_shown_no_plan(changes, monkeypatch):
    good = shares(0.80, click_to_close=(0.95, 5))
    check = checked(monkeypatch, [good], **changes)
    assert list(check) == ["horizon", "without", "passed"]
    assert check["horizon"] == 1
    assert check["passed"]
    bad = shares(0.80, click_to_close=(0.85, 5))
    assert not checked(monkeypatch, [bad], **changes)["passed"]


def test_a_start_of_short_forecasts_is_asked_for_short_ones(monkeypatch):
    check = checked(monkeypatch, [shares(0.8)] * 3, warmup_horizon=3)
    assert check["horizon"] == 3
    probes = draw_probes(settings(), 50, horizon=3)
    assert max(len(probe.plan) for probe in probes) == 2


@pytest.mark.parametrize(("own", "passed"), [(0.76, True), (0.74, False)])
def test_a_start_taught_with_its_own_plans_must_bear_them(own, passed, monkeypatch):
    def planner(policy, horizon):
        return lambda observations, envs: [Plan([]) for _ in observations]

    monkeypatch.setattr(warm_start, "policy_planner", planner)
    answers = [shares(0.80), shares(0.80), shares(0.80), shares(own)]
    check = checked(monkeypatch, answers, warmup_own_plans=True)
    assert check["own_plan"]["first_action"] == own
    assert check["passed"] == passed


def test_a_kind_of_action_that_is_hardly_ever_right_is_said(monkeypatch, capfd):
    kinds = {"click": (0.9, 50), "type": (0.15, 60), "scroll": (0.0, 9), "type_unsaid": (0.0, 60)}
    checked(monkeypatch, [shares(0.8, **kinds)] * 3)
    errors = capfd.readouterr().err
    assert "hardly ever gets these first actions right: type (9 of 60)" in errors
    assert "scroll" not in errors  # nine states tell nothing
    assert kinds_missed(shares(0.8, type=(0.25, 60))["by_kind"]) == []


def test_the_check_counts_right_first_actions_of_each_kind(policy, monkeypatch):
    """A start that closes every dialog, clicks wrongly, and types one word of eight."""
    some = settings()
    probes = draw_probes(some, 120, horizon=5)

    def planner(policy, horizon):
        def plan(observations, envs):
            plans = []
            for probe in probes:
                truth = probe.example.reference[0]
                said = truth
                if probe.kind == "click":
                    said = Action("click", "Nowhere")
                if truth.kind == "type":
                    said = Action("type", "amber")
                plans.append(Plan([said]))
            return plans

        return plan

    monkeypatch.setattr(warm_start, "policy_planner", planner)
    monkeypatch.setattr(warm_start, "draw_probes", lambda *_: probes)
    check = check_start(policy, some, n=120)
    by_kind = check["without"]["by_kind"]
    assert sum(row["n"] for row in by_kind.values()) == 120
    assert by_kind["click to close"]["right"] == 1.0
    assert by_kind["click"]["right"] == 0.0
    types = [probe for probe in probes if probe.kind == "type"]
    amber = [probe for probe in types if probe.example.reference[0].text == "amber"]
    assert by_kind["type"] == {"right": len(amber) / len(types), "n": len(types)}
    right = sum(row["right"] * row["n"] for row in by_kind.values())
    assert check["without"]["first_action"] == pytest.approx(right / 120)


def test_a_probe_knows_the_way_to_its_state():
    for probe in draw_probes(settings(), 40, horizon=5):
        assert len(probe.before) == len(probe.example.observation.history) or len(probe.before) > 4
        last = probe.before[-1] if probe.before else probe.example
        assert probe.plan == last.reference[1:]


def test_the_check_of_a_real_model(policy):
    check = check_start(policy, settings(), n=20)
    for name in ("without", "with_plan", "misled"):
        assert check[name]["n"] == 20
        assert 0 <= check[name]["first_action"] <= 1
