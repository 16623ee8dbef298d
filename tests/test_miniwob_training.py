"""Training in MiniWoB++: the way to a page, what is remembered of it, whether a step leads where
the oracle's does, a whole run in a real browser. Episodes themselves: test_miniwob.py."""

import gc
import json
import shutil
from collections.abc import Sequence
from dataclasses import replace
from importlib.util import find_spec

import pytest
from test_miniwob import picture

import train
from agent import Group, Rollout
from benchmarks import miniwob
from benchmarks.browser import BrowserLost, Element, Page, Step, Word
from benchmarks.miniwob import Pool, Tab, leads_right, miniwob_world
from benchmarks.miniwob_pages import Memory, Place
from envs import Action, demonstration
from extras import warm_start
from extras.warm_start import made_with, names_target, screens_to_keep, teach_reading
from extras.worlds import find_world
from train import first_step_reward, parse_config, score, warm_start_settings

MISSING = [name for name in ("chromium", "chromedriver", "setpriv") if shutil.which(name) is None]
if find_spec("miniwob") is None:
    MISSING.append("the package miniwob")
in_a_browser = pytest.mark.skipif(bool(MISSING), reason=f"not installed: {', '.join(MISSING)}")

# ---- a browser that is none: one field, and a button that ends the task --------------------------

FIELD = (0.0, 0.3, 0.5, 0.4)
SUBMIT = (0.0, 0.5, 0.5, 0.6)
IN_FIELD = (0.25, 0.35)
ON_SUBMIT = (0.25, 0.55)
HERE = Place("enter-text", 7, 1)


def form(value: str, focused: bool) -> Page:
    """The page of enter-text as the oracle reads it."""
    field = Element(
        "textbox",
        box=FIELD,
        whole=FIELD,
        tag="input",
        type="text",
        value=value,
        focused=focused,
        operable=True,
    )
    button = Element("Submit", box=SUBMIT, whole=SUBMIT, tag="button", operable=True)
    words = (Word("<field>", FIELD), Word("Submit", SUBMIT))
    return Page('Enter "Ada" into the text field.', (field, button), words, picture())


class Typewriter:
    """Does what is done to it and nothing else; `visits` counts what it had to do."""

    started = 0
    loaded = 0
    performed = 0
    dies_after: int | None = None  # steps

    def __init__(self, task: str):
        Typewriter.started += 1
        self.lost = False

    def load(self, task: str, seed: int, scale: int) -> Page:
        Typewriter.loaded += 1
        self.value = ""
        self.focused = False
        self.status = {}
        return self.look()

    def perform(self, steps: Sequence[Step]) -> None:
        Typewriter.performed += 1
        if Typewriter.dies_after is not None and Typewriter.performed > Typewriter.dies_after:
            self.lost = True
        for step in steps:
            if step.kind == "TYPE_TEXT" and self.focused:
                self.value += step.text
            if step.kind == "CLICK_COORDS":
                self.focused = step.coords[1] < 0.45 * miniwob.HEIGHT
            if step.kind == "CLICK_COORDS" and not self.focused:
                solved = self.value == "Ada"
                self.status = {"done": True, "raw_reward": 1.0 if solved else -1.0}

    def look(self, before: Page | None = None) -> Page:
        if self.lost:
            raise BrowserLost("it has gone")
        if self.status:
            return replace(before, **self.status)
        return form(self.value, self.focused)

    def collect_texts(self, task: str, first: int, pages: int) -> list[str]:
        return ['Enter "Ada" into the text field. Submit'] * 3

    def close(self) -> None:
        pass


@pytest.fixture
def pool(monkeypatch):
    """One browser that is none, and a memory."""
    pool = Pool(limit=1)
    monkeypatch.setattr(miniwob, "Browser", Typewriter)
    monkeypatch.setattr(miniwob, "POOL", pool)
    monkeypatch.setattr(miniwob, "MEMORY", Memory())
    monkeypatch.setattr(miniwob, "known_tasks", lambda: ("enter-text",))
    for name in ("started", "loaded", "performed"):
        monkeypatch.setattr(Typewriter, name, 0)
    forget()
    yield pool
    forget()


def forget() -> None:
    """What other tests' browsers have shown."""
    for cached in (miniwob.make_world, miniwob.collect_words, demonstration, find_world):
        cached.cache_clear()


def world() -> type:
    return miniwob_world(["enter-text"])


CLICK = Action("click", "textbox", IN_FIELD)
TYPE = Action("type", "Ada")
SEND = Action("click", "Submit", ON_SUBMIT)


def steps_of(*actions: Action) -> tuple[tuple[Step, ...], ...]:
    return tuple(tuple(miniwob.native(action)) for action in actions)


# ---- pages are remembered ------------------------------------------------------------------------


def test_a_page_is_asked_of_the_browser_once(pool):
    for _ in range(3):
        env = world()("train")
        env.reset(7)
        for action in (CLICK, TYPE, SEND):
            *_, info = env.step(action)
        assert info["success"]
    assert (Typewriter.started, Typewriter.loaded, Typewriter.performed) == (1, 1, 3)
    assert pool.taken == []


def test_a_remembered_episode_is_the_one_that_was_played(pool):
    def play() -> list:
        env = world()("train")
        seen = [env.reset(7)]
        for action in (None, CLICK, Action("back"), TYPE, SEND):
            seen.append(env.step(action))
        for moment in seen:
            moment[0].screenshot().load()
        return [(m[0].instruction, m[0].history, *m[1:]) for m in seen] + [env.key()]

    played = play()
    assert play() == played
    assert Typewriter.loaded == 1


def test_a_browser_catches_up_where_the_memory_ends(pool):
    env = world()("train")
    env.reset(7)
    env.step(CLICK)
    env.close()
    again = world()("train")
    again.reset(7)
    again.step(CLICK)
    assert again.browser is None  # so far nothing is new
    observation, *_ = again.step(TYPE)
    assert again.browser is not None
    assert [element.value for element in again.page.elements] == ["Ada", ""]
    assert (Typewriter.loaded, Typewriter.performed) == (2, 3)
    assert observation.history == ("click textbox", "type Ada")


def test_test_pages_are_always_played(pool):
    for _ in range(2):
        env = world()("test")
        env.reset(7)
        env.step(CLICK)
        env.close()
    assert (Typewriter.loaded, Typewriter.performed) == (2, 2)


def test_without_a_memory_all_pages_are_played(pool, monkeypatch):
    monkeypatch.setattr(miniwob, "MEMORY", None)
    for _ in range(2):
        env = world()("train")
        env.reset(7)
        env.close()
    assert Typewriter.loaded == 2


def test_a_page_that_does_not_come_back_as_it_was_is_a_lost_one(pool):
    miniwob.MEMORY.keep(HERE, form("something else", focused=False))
    tab = Tab(HERE, miniwob.MEMORY)
    tab.do(miniwob.native(CLICK))
    with pytest.raises(BrowserLost, match="did not come back as it was"):
        tab.look()


def test_a_tab_that_nobody_holds_gives_its_browser_back(pool):
    tab = Tab(HERE, None)
    tab.look()
    assert len(pool.taken) == 1
    del tab
    gc.collect()
    assert (len(pool.idle), pool.taken) == (1, [])


# ---- does a step lead where the oracle's does? ---------------------------------------------------


@pytest.mark.parametrize(
    ("before", "reference", "action", "right"),
    [
        ((), CLICK, CLICK, True),
        ((), CLICK, Action("click", "what", (0.4, 0.31)), True),  # the same field
        ((), CLICK, Action("hover", "textbox", IN_FIELD), False),
        ((), CLICK, Action("type", "Ada"), False),  # nothing has the focus
        ((), CLICK, SEND, False),
        ((), CLICK, Action("back"), False),  # impossible: it stays where it is
        ((), CLICK, Action("done"), False),
        ((CLICK,), TYPE, TYPE, True),
        ((CLICK,), TYPE, Action("type", "ada"), False),
        ((CLICK,), TYPE, Action("type", "Ada Ada"), False),
        ((CLICK,), TYPE, Action("wait"), False),
        ((CLICK, TYPE), SEND, SEND, True),
        ((CLICK, TYPE), SEND, CLICK, False),
        ((), Action("wait"), Action("wait"), True),
        ((), Action("wait"), Action("scroll", "left"), True),  # as nothing is to be done
        ((), Action("wait"), Action("done"), False),  # it would end the episode
        ((CLICK,), SEND, SEND, None),  # the reference itself ends the task unsolved
    ],
    ids=str,
)
def test_a_step_is_right_if_it_leads_to_the_same_page(pool, before, reference, action, right):
    place = replace(HERE, done=steps_of(*before))
    assert leads_right(place, reference, action) is right
    assert pool.taken == []


def test_steps_of_a_group_that_are_alike_are_carried_out_once(pool):
    wrong = Action("hover", "textbox", IN_FIELD)
    answers = [leads_right(HERE, CLICK, action) for action in [CLICK, wrong] * 4]
    assert answers == [True, False] * 4
    assert Typewriter.performed == 2
    # The same place on the page under another name is the same step.
    assert leads_right(HERE, CLICK, replace(CLICK, text="field"))
    assert Typewriter.performed == 2


def test_a_crash_costs_one_answer_and_a_line(pool, monkeypatch, capsys):
    monkeypatch.setattr(Typewriter, "dies_after", 0)
    assert leads_right(HERE, CLICK, CLICK) is None
    assert pool.taken == []
    [line] = capsys.readouterr().err.splitlines()
    assert line == "warning: enter-text: it has gone; the recorded box decides"
    monkeypatch.setattr(Typewriter, "dies_after", None)
    assert leads_right(HERE, CLICK, CLICK)


def test_where_it_cannot_be_told_the_box_decides(pool, monkeypatch):
    monkeypatch.setattr(Typewriter, "dies_after", 0)
    env = world()("train")
    env.reset(7)
    example = env.example(3)
    env.close()
    assert first_step_reward(example.execute(Action("click", "textbox")), example) == 1.0
    assert first_step_reward(example.execute(Action("click", "Submit")), example) == 0.0
    assert first_step_reward(None, example) == 0.0


def test_the_reward_of_stage_2_is_what_the_browser_says(pool):
    """A point in the recorded box is not paid where it leads elsewhere."""
    env = world()("train")
    env.reset(7)
    example = replace(env.example(3), boxes=((0.0, 0.0, 1.0, 1.0),))
    env.close()
    rollouts = []
    for forecast in ([CLICK], [SEND], [Action("click", "no such thing")], []):
        rollouts.append(Rollout([], [], [], "", "stop", list(forecast), None, []))
    group = Group(example, None, rollouts)
    config = parse_config(["--env=toy-gui", "--horizon=1"])
    refused = score([group], "stage2", config)
    assert [rollout.reward for rollout in rollouts] == [1.0, 0.0, 0.0, 0.0]
    assert refused == 1


def test_examples_know_the_moment_in_which_they_were_made(pool):
    env = world()("train")
    env.reset(7)
    example = env.example(3)
    env.step(CLICK)
    env.close()
    assert example.leads_right(CLICK) is True
    assert example.execute(Action("click", "textbox")).point == pytest.approx(IN_FIELD)
    assert names_target(Action("click", "textbox"), example)
    assert not names_target(Action("click", "Submit"), example)


# ---- the warm start ------------------------------------------------------------------------------


def settings(*flags: str):
    return warm_start_settings(
        parse_config(["--env=miniwob:enter-text", "--train_tasks=5", *flags])
    )


@pytest.fixture
def installed(pool, monkeypatch):
    """Whether or not a browser is installed: none is started."""
    monkeypatch.setattr("extras.worlds.find_programs", dict)


def test_screens_of_the_reading_lesson_are_kept(installed, monkeypatch):
    monkeypatch.setattr(miniwob.MiniWoB, "screens_kept", 40)
    kept = screens_to_keep(settings())
    seen = [(env.task, env.page_seed, env.key()) for env in kept]
    assert len(kept) == 40
    assert {seed for _, seed, _ in seen} <= set(range(5))
    loaded = Typewriter.loaded
    again = screens_to_keep(settings("--seed=1"))  # the same ones for every seed: they are slow
    assert [(env.task, env.page_seed, env.key()) for env in again] == seen
    assert Typewriter.loaded == loaded


def test_other_worlds_draw_fresh_screens():
    assert screens_to_keep(warm_start_settings(parse_config(["--env=toy-gui"]))) == []


def test_the_reading_lesson_looks_at_what_was_kept(installed, monkeypatch, tmp_path):
    monkeypatch.setattr(miniwob.MiniWoB, "screens_kept", 35)
    chosen = settings("--reading_steps=2")
    reading = warm_start.reading_base(chosen, tmp_path)
    performed = Typewriter.performed
    learnt = json.loads((reading / "lessons.json").read_text())
    assert learnt["lessons"]["reading"]["batches"] == 2
    policy = warm_start.load_policy(reading)
    teach_reading(policy, chosen)
    assert Typewriter.performed == performed


def test_a_start_knows_the_code_that_reads_the_pages(installed):
    code = made_with("miniwob:enter-text")["code"]
    assert {"miniwob.py", "browser.py", "miniwob_oracle.py", "miniwob_pages.py"} <= set(code)
    assert "browser.py" not in made_with("toy-gui")["code"]


# ---- what a user can do wrong --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("env", "says"),
    [
        ("miniwob", "say which tasks"),
        ("miniwob:", "say which tasks"),
        ("miniwob:enter-tex", "no task 'enter-tex'; known are enter-text"),
        ("miniwob:enter-text,", "no task ''"),
    ],
)
def test_wrong_tasks_are_one_line(installed, dies, env, says):
    assert says in dies(parse_config, [f"--env={env}"])


def test_a_task_without_an_oracle_cannot_be_trained(installed, dies, monkeypatch):
    monkeypatch.setattr(miniwob, "known_tasks", lambda: ("enter-text", "click-pie"))
    assert "no oracle knows click-pie" in dies(parse_config, ["--env=miniwob:click-pie"])


def test_without_a_browser_nothing_begins(pool, dies, monkeypatch):
    monkeypatch.setenv("PATH", "/nowhere")
    assert "apt-get install chromium" in dies(parse_config, ["--env=miniwob:enter-text"])
    monkeypatch.setenv("MINIWOB_CHROMEDRIVER", "/usr/bin/chromedriver")
    assert "set both" in dies(parse_config, ["--env=miniwob:enter-text"])


def test_pages_that_cannot_be_kept_are_one_line(installed, dies, monkeypatch, tmp_path):
    monkeypatch.setattr(miniwob, "version_of_pages", lambda: "now")
    (tmp_path / "miniwob-now.sqlite").write_text("not a database" * 200)
    line = dies(warm_start.keep_pages, "miniwob:enter-text", tmp_path)
    assert "miniwob-now.sqlite, where pages are kept" in line


# ---- a whole run in a real browser ---------------------------------------------------------------

TASKS = "miniwob:click-test-2,focus-text-2"
SHORT = (
    f"--env={TASKS}",
    "--train_tasks=6",
    "--reading_steps=3",
    "--warmup_steps=3",
    "--warmup_batch=4",
    "--prompts_per_update=2",
    "--group_size=4",
    "--stage1_updates=1",
    "--stage2_updates=2",
    "--save_every=1",
    "--eval_tasks=2",
    "--keep_groups=2",
)


@pytest.fixture
def real(monkeypatch):
    """Real browsers that are gone afterwards, few words and screens, short episodes."""
    forget()
    monkeypatch.setattr(miniwob, "SCANNED", 25)
    monkeypatch.setattr(miniwob.MiniWoB, "screens_kept", 32)
    monkeypatch.setattr(miniwob, "MEMORY", None)  # and put back afterwards
    monkeypatch.setattr(miniwob.MiniWoB, "max_steps", 2)  # these tasks take one
    short_check = warm_start.check_start
    monkeypatch.setattr(warm_start, "check_start", lambda *of: short_check(*of, n=3))
    yield
    miniwob.POOL.close()
    forget()


def lines_of(folder) -> list[dict]:
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in line.items() if name != "seconds"} for line in lines]


@in_a_browser
def test_a_whole_run_and_one_that_was_resumed_end_alike(real, tmp_path, monkeypatch):
    def run(folder: str, *flags: str) -> list[dict]:
        output = tmp_path / folder
        warm = f"--warmup_dir={tmp_path / 'warm'}"
        train.main([*SHORT, f"--output_dir={output}", warm, *flags])
        return lines_of(output)

    whole = run("whole")
    assert [line["stage"] for line in whole] == ["stage1", "stage2", "stage2"]
    results = json.loads((tmp_path / "whole" / "results.json").read_text())["test"]
    assert results["oracle"]["success"] == 1.0
    assert set(results["oracle"]["by_demand"]) == {"click-test-2", "focus-text-2"}
    assert list(tmp_path.glob("warm/miniwob-*.sqlite"))

    class Killed(Exception):
        pass

    save = train.RunFolder.save

    def die_in_stage_2(run, policy, optimizer, stage, update) -> None:
        save(run, policy, optimizer, stage, update)
        if (stage, update) == ("stage2", 1):
            raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(train.RunFolder, "save", die_in_stage_2)
        with pytest.raises(Killed):
            run("resumed")
    demonstration.cache_clear()
    monkeypatch.setattr(train, "draw_pictures", lambda *_: None)  # once is enough
    assert run("resumed", "--resume") == whole


@in_a_browser
def test_the_oracles_steps_lead_right_in_the_browser_and_others_do_not(real, monkeypatch):
    """A page of each of some tasks that docs/online.md trains in, without a memory."""
    monkeypatch.setattr(miniwob.MiniWoB, "max_steps", 5)
    world = find_world(f"{TASKS},click-button-sequence,enter-text,drag-box")
    for seed in range(5):
        env = world("train")
        env.reset(seed)
        while not env.over:
            example = env.example(3)
            action = example.execute(replace(example.reference[0], point=None, end=None))
            assert example.leads_right(action) is True, str(action)
            assert example.leads_right(Action("long_press", "far away", (0.99, 0.99))) is False
            env.step(action)
        assert env.page.raw_reward == 1
