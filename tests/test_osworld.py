"""OSWorld: each action as its command, texts that try to become code, and the real DesktopEnv of
desktop-env 1.0.2 on a double of its virtual machine (osworld_stub.py): the world, the evaluation,
and a machine that is stopped whatever happens."""

import ast
import importlib
import importlib.util
import json
import logging
import os
import re
import signal
import subprocess
import sys
import time
from types import SimpleNamespace

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from osworld_stub import (
    INFEASIBLE,
    SIZE,
    TYPED,
    VirtualMachine,
    load_package,
    make_clone,
    make_task,
    rewrite,
    run_command,
    stand_in,
    white_screen,
)

from agent import Plan
from benchmarks import osworld, osworld_files, osworld_machine
from benchmarks.episodes import Player
from benchmarks.osworld import KEYS, Machine, OSWorld, Pauses, evaluate, native, typed
from envs import KINDS, Action
from extras.run_folder import write

NOW = Pauses(0, 0, 0)

# ---- each action as its command -----------------------------------------------------------------

MIDDLE = (0.5, 0.5)
COMMANDS = [
    (Action("click", "Save", (0.25, 0.5)), "pyautogui.click(480, 540)"),
    (Action("double_click", "Save", MIDDLE), "pyautogui.doubleClick(960, 540)"),
    (Action("right_click", "Save", MIDDLE), "pyautogui.rightClick(960, 540)"),
    (Action("hover", "Save", MIDDLE), "pyautogui.moveTo(960, 540)"),
    (
        Action("long_press", "Save", MIDDLE),
        "pyautogui.moveTo(960, 540); pyautogui.mouseDown(); time.sleep(1); pyautogui.mouseUp()",
    ),
    (
        Action("drag", "Box to Bin", (0.25, 0.25), (0.75, 1.0)),
        "pyautogui.moveTo(480, 270); pyautogui.dragTo(1440, 1079, 1, button='left')",
    ),
    (Action("scroll", "up"), "pyautogui.scroll(5, 960, 540)"),
    (Action("scroll", "down", (0.0, 0.0)), "pyautogui.scroll(-5, 0, 0)"),
    (Action("scroll", "right"), "pyautogui.hscroll(5, 960, 540)"),
    (Action("scroll", "left"), "pyautogui.hscroll(-5, 960, 540)"),
    (Action("type", "amber"), "pyautogui.write('amber', interval=0.02)"),
    (Action("key", "ctrl+c"), "pyautogui.hotkey('ctrl', 'c')"),
    (Action("wait"), "WAIT"),
    (Action("done"), "DONE"),
    (Action("answer", "42"), "DONE"),
    (Action("fail"), "FAIL"),
]
IMPOSSIBLE = [
    Action("select", "Red", MIDDLE),
    Action("open_app", "Files"),
    Action("back"),
    Action("home"),
    Action("recent"),
    Action("call", "add 1 2"),
    Action("click", "Save"),  # nobody has said where
    Action("drag", "Box to Bin", MIDDLE),  # nor where to
    Action("type", ""),
    Action("type", "half a pair \ud800"),
    Action("key", "ctrl+any"),
    Action("key", ""),
    Action("key", "ctrl+"),
]


@pytest.mark.parametrize(("action", "command"), COMMANDS)
def test_an_action_as_a_command(action, command):
    assert native(action, SIZE) == command


@pytest.mark.parametrize("action", IMPOSSIBLE)
def test_what_the_desktop_has_nothing_for(action):
    assert native(action, SIZE) is None


def test_every_kind_of_action_is_in_one_of_the_two_lists():
    possible = {action.kind for action, _command in COMMANDS}
    assert possible | {action.kind for action in IMPOSSIBLE} == set(KINDS)


def test_the_far_edges_are_the_last_pixels():
    assert native(Action("click", "x", (1.0, 1.0)), SIZE) == "pyautogui.click(1919, 1079)"
    assert native(Action("click", "x", (0.0, 0.0)), SIZE) == "pyautogui.click(0, 0)"
    assert native(Action("scroll", "up", (1.0, 1.0)), (10, 20)) == "pyautogui.scroll(5, 9, 19)"


@pytest.mark.parametrize(
    ("text", "keys"),
    [
        ("Enter", "'enter'"),
        ("return", "'enter'"),
        ("Ctrl + Shift + T", "'ctrl', 'shift', 't'"),
        ("cmd+space", "'win', ' '"),
        ("meta", "'win'"),
        ("super+d", "'win', 'd'"),
        ("alt+f4", "'alt', 'f4'"),
        ("ArrowDown", "'down'"),
        ("+", "'+'"),
        ("ctrl++", "'ctrl', '+'"),
        ("ctrl+<", "'ctrl', 'shift', ','"),
        ('"', "'\"'"),
        ("'", '"\'"'),
        ("\\", "'\\\\'"),
    ],
)
def test_names_of_keys(text, keys):
    assert native(Action("key", text), SIZE) == f"pyautogui.hotkey({keys})"


# ---- texts ---------------------------------------------------------------------------------------

# Pieces of which an attack could be made, whatever the package's regular expressions look for.
PIECES = [
    *("<", ">", "'", '"', "(", ")", "\\", ";", "#", "+", ",", " ", "{", "}", "{command}", "\t"),
    *("pyautogui.typewrite(", "pyautogui.press(", "pyautogui.write(", "open('x','w')", "é", "漢😀"),
    *("\\x3c", "\\u003c", "\\74", "\\N{LESS-THAN SIGN}", "'''", "\\n", "\x00", "\x1b", "\u2028"),
]
HOSTILE = st.lists(st.sampled_from(PIECES), max_size=12).map("".join)
TEXTS = HOSTILE | st.text(st.characters(exclude_characters="\n\r"), max_size=60)

# What ran as Python in the machine when a text was only quoted: the second one although the
# command held no `<` at all.
ASCII_ATTACK = "'+str(harm())+'\"<"
PASTED_ATTACK = "é pyautogui.typewrite(\"a'+str(harm())+'<b\")"


def allowed_as_text(text: str) -> bool:
    return all(not "\ud800" <= character <= "\udfff" for character in text)


@given(TEXTS)
@example(ASCII_ATTACK)
@example(PASTED_ATTACK)
@example("a<b<<c")
@example("it's")
@example('say "no"')
@example("C:\\new")
@example("f(x)")
def test_any_text_is_typed_exactly_and_nothing_else_happens(text):
    command = typed(text)
    if not text or not allowed_as_text(text):
        assert command is None
        return
    ast.parse(command)
    assert "<" not in command
    assert run_command(command).text == text


def test_a_harmless_text_can_be_read_in_the_log():
    assert typed("ls -l ~/a | wc; x > y") == (
        "pyautogui.write('ls -l ~/a | wc; x > y', interval=0.02)"
    )


def test_a_less_than_sign_is_two_keys():
    assert typed("a<b") == (
        "pyautogui.write('a', interval=0.02); pyautogui.hotkey('shift', ','); "
        "pyautogui.write('b', interval=0.02)"
    )


@pytest.mark.parametrize("text", ["Zoë 漢", "a\tb", "\x07"])
def test_what_has_no_key_is_pasted(text):
    command = typed(text)
    assert command.startswith("import os, pyperclip; ")
    assert command.endswith("; pyautogui.hotkey('ctrl', 'v')")
    assert run_command(command).text == text


# ---- what the user may have wrong ----------------------------------------------------------------


def no_planner(_observations, _envs):
    raise AssertionError("nothing may be played")


def refused(tmp_path, provider="docker", path_to_vm="", **settings) -> str:
    """The line that evaluate ends with; nothing may be written by then."""
    player = Player(no_planner, "runs/x", 5)
    machine = Machine(provider, path_to_vm)
    with pytest.raises(ValueError) as problem:
        clone = make_clone(tmp_path)
        evaluate(player, tmp_path / "out", clone, machine, pauses=NOW, **settings)
    assert not (tmp_path / "out").exists()
    assert "\n" not in str(problem.value)
    return str(problem.value)


def test_a_missing_package_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "desktop_env", None)
    monkeypatch.setitem(sys.modules, "desktop_env.desktop_env", None)
    assert "pip install --no-deps desktop-env==1.0.2" in refused(tmp_path)


@pytest.mark.parametrize("provider", ["aws", "hyper-v", ""])
def test_an_unknown_provider_is_one_line(tmp_path, provider):
    line = refused(tmp_path, provider=provider)
    assert line == f"unknown provider {provider!r}: one of docker, vmware, virtualbox"


@pytest.mark.parametrize(
    ("provider", "program"), [("vmware", "vmrun"), ("virtualbox", "VBoxManage")]
)
def test_a_provider_without_its_program_is_one_line(tmp_path, monkeypatch, provider, program):
    """The package itself would ask for it again and again, without an end."""
    monkeypatch.setenv("PATH", str(tmp_path))
    line = refused(tmp_path, provider=provider)
    assert line == f"provider {provider}: {program} is not in PATH; install it first"


LISTING = [("vmware", "vmrun -T ws list"), ("virtualbox", "VBoxManage list vms")]


def put_program(tmp_path, monkeypatch, command, script) -> None:
    """The program of a command, as a shell script that is first in PATH."""
    program = tmp_path / command.split()[0]
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")


@pytest.mark.parametrize(("provider", "command"), LISTING)
def test_a_provider_whose_program_fails_is_one_line(tmp_path, monkeypatch, provider, command):
    """The package itself would print its error thousands of times, without an end."""
    script = 'echo "Error: no $*"; echo license >&2; exit 255'
    put_program(tmp_path, monkeypatch, command, script)
    asked = command.split(maxsplit=1)[1]
    assert refused(tmp_path, provider=provider) == (
        f"provider {provider}: `{command}` fails (exit code 255: Error: no {asked} license); "
        "install or start it so that this command works"
    )


@pytest.mark.parametrize(("provider", "command"), LISTING)
def test_a_provider_whose_program_hangs_is_one_line(tmp_path, monkeypatch, provider, command):
    put_program(tmp_path, monkeypatch, command, "exec sleep 60")
    monkeypatch.setattr(osworld_machine, "ANSWER_LIMIT", 0.2)
    line = refused(tmp_path, provider=provider)
    assert line.startswith(f"provider {provider}: `{command}` fails (no answer in 0.2 s); install")


def test_a_program_that_cannot_be_run_is_one_line(tmp_path, monkeypatch):
    (tmp_path / "vmrun").write_text("#!/nowhere\n")
    (tmp_path / "vmrun").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    line = refused(tmp_path, provider="vmware")
    assert line.startswith("provider vmware: `vmrun -T ws list` fails (FileNotFoundError: ")


def test_a_budget_of_nothing_is_one_line(tmp_path):
    assert refused(tmp_path, budget=0) == "0 steps a task: must be at least 1"


def test_an_image_that_is_not_there_is_one_line(tmp_path):
    """Docker itself would make a folder of that name, and wait 300 s for the machine."""
    missing = str(tmp_path / "Ubuntu.qcow2")
    line = refused(tmp_path, path_to_vm=missing)
    assert line == f"path_to_vm {missing}: there is no such file"


# ---- the real package on the double of its machine -----------------------------------------------


@pytest.fixture
def vm(monkeypatch):
    for name in ("desktop_env", "requests", "gymnasium", "psutil", "filelock"):
        if importlib.util.find_spec(name) is None:
            pytest.skip(f"{name} is not installed: {osworld_machine.INSTALL}")
    machine = VirtualMachine()
    load_package(monkeypatch, machine)
    yield machine
    machine.close()


@pytest.mark.parametrize("installed", ["0.1.22", "1.0.3", None])
def test_another_version_of_the_package_is_one_line(vm, tmp_path, monkeypatch, installed):
    def version(name):
        assert name == "desktop-env"
        if installed is None:
            raise osworld_machine.PackageNotFoundError(name)
        return installed

    monkeypatch.setattr(osworld_machine, "version", version)
    found = installed or "one of unknown version"
    line = refused(tmp_path)
    assert line.startswith(f"OSWorld needs desktop-env 1.0.2, not {found}: pip install --no-deps ")


def test_without_dockers_package_the_line_says_what_to_install(vm, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "docker", None)
    sys.modules.pop("desktop_env.providers.docker.provider", None)
    line = refused(tmp_path)
    assert line.startswith("provider docker (ModuleNotFoundError: ")
    assert line.endswith("): pip install requests tqdm psutil filelock docker")


def no_daemon():
    raise RuntimeError("Error while fetching\nserver API version")


@pytest.mark.parametrize("client", [no_daemon, lambda: SimpleNamespace(ping=no_daemon)])
def test_without_a_docker_daemon_the_line_says_what_to_start(vm, tmp_path, monkeypatch, client):
    monkeypatch.setitem(sys.modules, "docker", stand_in("docker", from_env=client))
    assert refused(tmp_path) == (
        "provider docker: no daemon answers (RuntimeError: Error while fetching server API "
        "version); start it with `sudo systemctl start docker`, and see that `docker info` works "
        "without sudo"
    )


@pytest.mark.parametrize(
    "grader",
    [
        {"func": "check_play_and_exit"},
        {"func": ["is_equal", "check_play_and_exit"]},
        TYPED | {"result": {"type": "appearance"}},
    ],
)
def test_a_clone_of_another_version_is_one_line(vm, tmp_path, grader):
    """Its tasks ask for graders that the package does not have: they would all crash."""
    clone = make_clone(tmp_path)
    rewrite(clone, "os/aaaa-1", make_task("aaaa-1", evaluator=grader))
    with pytest.raises(ValueError) as problem:
        run(tmp_path, no_planner)
    line = str(problem.value)
    assert line.startswith("os/aaaa-1: desktop-env 1.0.2 cannot grade it (AttributeError: ")
    assert line.endswith(
        "; needed: a clone of https://github.com/xlang-ai/OSWorld as it was when desktop-env 1.0.2 "
        "came out; in it, git checkout $(git rev-list -1 --before=2025-10-24 HEAD), or leave the "
        "task out"
    )
    assert vm.events == []
    assert not (tmp_path / "out").exists()
    assert run(tmp_path, follow(*TYPE_AND_END), tasks=["os/cccc-3"])["score"] == 1.0


def repaired(command: str) -> str:
    """What DesktopEnv makes of a command before it sends it."""
    package = importlib.import_module("desktop_env.desktop_env")
    return package._fix_pyautogui_less_than_bug(command)


def open_world(vm, tmp_path, evaluator=TYPED, budget=15, history=4):
    """(a world after the reset of its only task, what was seen)"""
    env = osworld_machine.desktop_class()(provider_name="docker", cache_dir=str(tmp_path / "cache"))
    task = osworld_files.Task("os", "cccc-3", make_task("cccc-3", evaluator=evaluator))
    world = OSWorld(env, [task], history=history, budget=budget, pauses=NOW)
    seen, info = world.reset(0)
    assert info == {"oracle_steps": 0}
    return world, seen


def test_our_keys_are_keys_of_the_package(vm):
    names = importlib.import_module("desktop_env.actions").KEYBOARD_KEYS
    assert set(names) >= KEYS


def test_a_text_that_is_only_quoted_runs_as_python_in_the_machine(vm):
    """Why `typed` is as it is: what the package's repair makes of the plain ways to quote."""
    quoted = repaired(f"pyautogui.typewrite({PASTED_ATTACK!r})")
    pasted = repaired(f"pyperclip.copy({ascii(PASTED_ATTACK)})".replace("<", "\\x3c"))
    for command in (quoted, pasted):
        calls = [node for node in ast.walk(ast.parse(command)) if isinstance(node, ast.Call)]
        assert "harm" in {ast.unparse(call.func) for call in calls}


def test_no_text_runs_as_python_behind_the_repair_of_the_package(vm):
    @given(TEXTS.filter(lambda text: text and allowed_as_text(text)))
    @example(ASCII_ATTACK)
    @example(PASTED_ATTACK)
    def check(text):
        command = typed(text)
        assert repaired(command) == command

    check()


@pytest.mark.parametrize("text", [ASCII_ATTACK, PASTED_ATTACK, "a<b'\"\\ {x} (y) Zoë"])
def test_a_hostile_text_arrives_as_it_is(vm, tmp_path, text):
    world, _seen = open_world(vm, tmp_path)
    world.step(Action("type", text))
    assert vm.desk.text == text
    assert vm.errors == []


@pytest.mark.parametrize(("action", "command"), COMMANDS)
def test_what_is_posted_to_the_machine(vm, tmp_path, action, command):
    world, _seen = open_world(vm, tmp_path)
    _, _, terminated, truncated, info = world.step(action)
    assert info["result"] == "ok"
    assert vm.commands == ([] if command in ("WAIT", "DONE", "FAIL") else [command])
    assert vm.errors == []
    assert terminated == (action.kind in ("done", "answer", "fail"))
    assert not truncated


def test_what_is_seen(vm, tmp_path):
    world, seen = open_world(vm, tmp_path, history=2)
    assert seen.instruction == "Type a<b for cccc-3"
    assert seen.screenshot().size == SIZE
    assert seen.screenshot().mode == "RGB"
    assert seen.history == ()
    for word in ("one", "two", "three"):
        seen, *_ = world.step(Action("click", word, MIDDLE), said=f"click {word}")
    assert seen.history == ("click two", "click three")
    assert world.visible() == ()
    assert world.oracle(5) == []
    assert world.key() == "os/cccc-3/3"


def test_the_right_state_and_done_is_the_full_score(vm, tmp_path):
    world, _seen = open_world(vm, tmp_path)
    _, reward, terminated, _, info = world.step(Action("type", "a<b"))
    assert (reward, terminated, info["success"], info["score"]) == (0.0, False, False, None)
    _, reward, terminated, truncated, info = world.step(Action("done"))
    assert (reward, terminated, truncated) == (1.0, True, False)
    assert info == {"result": "ok", "success": True, "score": 1.0, "steps": 2, "oracle_steps": 0}


def test_half_a_score_is_no_success(vm, tmp_path):
    half = TYPED | {"func": "share", "expected": {"type": "rule", "rule": 0.5}}
    world, _seen = open_world(vm, tmp_path, half)
    _, reward, _, _, info = world.step(Action("done"))
    assert (reward, info["success"], info["score"]) == (0.5, False, 0.5)


@pytest.mark.parametrize(
    ("evaluator", "last", "score"),
    [(INFEASIBLE, "fail", 1.0), (INFEASIBLE, "done", 0.0), (TYPED, "fail", 0.0)],
)
def test_a_task_that_cannot_be_done_is_solved_by_fail_alone(vm, tmp_path, evaluator, last, score):
    world, _seen = open_world(vm, tmp_path, evaluator)
    world.step(Action("type", "a<b"))
    _, _, terminated, _, info = world.step(Action(last))
    assert (terminated, info["score"]) == (True, score)


def test_at_the_end_of_the_budget_it_is_graded_as_it_stands(vm, tmp_path):
    world, _seen = open_world(vm, tmp_path, budget=2)
    _, _, terminated, truncated, info = world.step(Action("wait"))
    assert (terminated, truncated, info["score"]) == (False, False, None)
    _, reward, terminated, truncated, info = world.step(Action("type", "a<b"))
    assert (reward, terminated, truncated, info["success"]) == (1.0, False, True, True)


def test_nobody_says_fail_for_the_policy_at_the_end_of_the_budget(vm, tmp_path):
    world, _seen = open_world(vm, tmp_path, INFEASIBLE, budget=1)
    _, _, _, truncated, info = world.step(Action("wait"))
    assert (truncated, info["score"]) == (True, 0.0)


def test_refused_and_impossible_steps_cost_a_step_and_reach_no_machine(vm, tmp_path):
    world, _seen = open_world(vm, tmp_path)
    seen, _, _, _, info = world.step(None, said="click Save")
    assert (info["result"], seen.history) == ("failed", ("click Save failed",))
    seen, _, _, _, info = world.step(Action("home"))
    assert (info["result"], seen.history) == ("impossible", ("click Save failed", "home"))
    assert info["steps"] == 2
    assert vm.commands == []


def test_without_a_tool_agent_the_policys_own_points_count(vm, tmp_path):
    world, _seen = open_world(vm, tmp_path)
    pointed = Action("click", "Save", MIDDLE)
    assert world.ground(pointed) == pointed
    assert world.ground(Action("click", "Save")) is None
    assert world.ground(Action("type", "amber")) == Action("type", "amber")


@pytest.mark.parametrize("screen", [None, b"\x89PNG\r\n\x1a\n and no picture"])
def test_the_last_picture_stays_when_there_is_no_new_one(vm, tmp_path, screen):
    world, _seen = open_world(vm, tmp_path)
    vm.screen = screen
    seen, _, _, _, info = world.step(Action("click", "Save", MIDDLE))
    assert info["result"] == "ok"
    assert seen.screenshot().size == SIZE


def test_a_machine_that_never_shows_a_picture_is_a_crash(vm, tmp_path):
    vm.screen = None
    with pytest.raises(osworld.Crash, match="reset: OSError: the machine shows no picture"):
        open_world(vm, tmp_path)


# ---- the evaluation ------------------------------------------------------------------------------

TYPE_AND_END = [Action("type", "a<b"), Action("done")]


def follow(*steps):
    """A planner that forecasts what is left of these steps, in each task from the start."""

    def plan(observations, envs):
        return [Plan(list(steps[env.steps :])) for env in envs]

    return plan


def player_of(planner, **settings) -> Player:
    return Player(planner, "runs/x", 5, **settings)


def run(tmp_path, planner, provider="docker", **settings) -> dict:
    """An evaluation without waiting, on the clone that is there or a new one.

    `planner`: or a Player.
    """
    clone = tmp_path / "clone"
    if not clone.exists():
        make_clone(tmp_path)
    player = planner if isinstance(planner, Player) else player_of(planner)
    machine = Machine(provider)
    return evaluate(player, tmp_path / "out", clone, machine, pauses=NOW, **settings)


def results_of(tmp_path):
    return tmp_path / "out" / "pyautogui" / "screenshot" / "runs_x"


def test_results_lie_as_the_official_runner_leaves_them(vm, tmp_path):
    run(tmp_path, follow(*TYPE_AND_END), tasks=["os/cccc-3"])
    folder = results_of(tmp_path) / "os" / "cccc-3"
    first, second = sorted(folder.glob("step_*.png"))
    assert re.fullmatch(r"step_1_\d{8}@\d{6}\.png", first.name)
    assert first.read_bytes() == white_screen()
    lines = [json.loads(line) for line in (folder / "traj.jsonl").read_text().splitlines()]
    assert [line["action"] for line in lines] == [typed("a<b"), "DONE"]
    assert lines[1] == {
        "step_num": 2,
        "action_timestamp": second.stem.removeprefix("step_2_"),
        "action": "DONE",
        "response": "done",
        "reward": 0,
        "done": True,
        "info": {"done": True},
        "result": "ok",
        "screenshot_file": second.name,
    }
    assert lines[0]["response"] == "type a<b\ndone"  # the whole forecast
    assert (folder / "result.txt").read_text() == "1.0\n"
    assert "Setting up environment" in (folder / "runtime.log").read_text()
    args = json.loads((folder.parent.parent / "args.json").read_text())
    assert (args["player"], args["max_steps"], args["provider_name"]) == ("runs/x", 15, "docker")
    assert not list(tmp_path.rglob("*.tmp"))


def test_the_numbers(vm, tmp_path, capsys):
    """Four tasks: one solved, one half, one for nothing, one whose grader breaks."""
    clone = make_clone(tmp_path)
    half = TYPED | {"func": "share", "expected": {"type": "rule", "rule": 0.5}}
    rewrite(clone, "chrome/bbbb-2", make_task("bbbb-2", evaluator=half))
    rewrite(clone, "os/aaaa-1", make_task("aaaa-1", evaluator=INFEASIBLE))
    rewrite(clone, "os/cccc-3", make_task("cccc-3", evaluator=TYPED | {"func": "broken"}))
    result = run(tmp_path, follow(Action("home"), *TYPE_AND_END))
    assert result["score"] == (1 + 0.5 + 0 + 0) / 4
    assert result["score_official"] == (1 + 0.5 + 0) / 3
    assert (result["n"], result["finished"], result["solved"]) == (4, 3, 1)
    assert result["crashed"] == {"os/cccc-3": "grading: KeyError: 'page'"}
    assert result["results"] == {"impossible": 3, "ok": 6}
    assert result["domains"]["chrome"] == {
        "score": 0.75,
        "score_official": 0.75,
        "n": 2,
        "finished": 2,
        "solved": 1,
    }
    assert result["domains"]["os"]["score"] == 0.0
    said = capsys.readouterr().err
    assert "4/4" in said  # the bar
    assert said.count("warning: ") == 1
    assert "warning: os/cccc-3 crashed: grading: KeyError: 'page'\n" in said
    *rows, rule, crash = osworld.table(result).splitlines()
    assert [line.split() for line in rows] == [
        ["domain", "tasks", "finished", "solved", "score", "official"],
        ["chrome", "2", "2", "1", "75.0%", "75.0%"],
        ["os", "2", "1", "0", "0.0%", "0.0%"],
        ["all", "4", "3", "1", "37.5%", "50.0%"],
    ]
    assert len({len(line) for line in rows}) == 1
    assert rule == (
        "score: a crashed task counts 0; official: over the finished ones. At most 15 steps "
        "a task. Points by none: the policy's own points"
    )
    assert crash == "crashed: os/cccc-3: grading: KeyError: 'page'"


def test_a_finished_task_is_not_played_again_and_a_crashed_one_is(vm, tmp_path):
    clone = make_clone(tmp_path)
    rewrite(clone, "os/aaaa-1", make_task("aaaa-1", config=[{"type": "break"}]))
    run(tmp_path, follow(*TYPE_AND_END), tasks=["os"])
    folder = results_of(tmp_path) / "os"
    assert not (folder / "aaaa-1" / "result.txt").exists()
    error = json.loads((folder / "aaaa-1" / "traj.jsonl").read_text())
    assert error == {"Error": "reset: Exception: Setup step 1 failed: _break_setup"}

    rewrite(clone, "os/aaaa-1", make_task("aaaa-1"))
    vm.commands.clear()
    result = run(tmp_path, follow(*TYPE_AND_END), tasks=["os"])
    assert vm.commands == [typed("a<b")]  # one task
    assert (result["finished"], result["crashed"]) == (2, {})


def test_a_half_finished_task_is_played_anew(vm, tmp_path):
    run(tmp_path, follow(*TYPE_AND_END), tasks=["os/cccc-3"])
    left = results_of(tmp_path) / "os" / "cccc-3"
    (left / "result.txt").unlink()
    (left / "traj.jsonl").write_text('{"step_num": 1}\n{"step_')
    (left / "step_1_x.png").write_bytes(b"half")
    result = run(tmp_path, follow(*TYPE_AND_END), tasks=["os/cccc-3"])
    assert result["score"] == 1.0
    assert not (left / "step_1_x.png").exists()
    assert len((left / "traj.jsonl").read_text().splitlines()) == 2


def test_when_all_is_finished_no_machine_is_started(vm, tmp_path):
    run(tmp_path, follow(*TYPE_AND_END), tasks=["os"])
    vm.events.clear()
    result = run(tmp_path, no_planner, tasks=["os/cccc-3"])
    assert result["score"] == 1.0
    assert vm.events == []


def test_after_a_crash_the_next_task_meets_a_fresh_machine(vm, tmp_path):
    """The package takes a machine whose set-up broke in the middle for an unused one."""
    clone = make_clone(tmp_path)
    rewrite(clone, "os/aaaa-1", make_task("aaaa-1", config=[{"type": "break"}]))
    run(tmp_path, follow(*TYPE_AND_END), tasks=["os"])
    assert vm.events == ["start", "revert", "start", "stop"]


def test_results_of_other_settings_are_not_mixed_in(vm, tmp_path):
    run(tmp_path, follow(*TYPE_AND_END), tasks=["os"], budget=50)
    with pytest.raises(ValueError) as problem:
        run(tmp_path, no_planner, budget=15)
    assert str(problem.value) == (
        f"{results_of(tmp_path)} was made with other settings: max_steps 50, not 15"
    )


def commit(clone) -> str:
    """Commit all of a clone, as it is now; the hash."""
    who = ["-c", "user.name=x", "-c", "user.email=x@x"]
    for command in (["init"], ["add", "."], [*who, "commit", "--allow-empty", "-m", "x"]):
        subprocess.run(["git", "-C", clone, *command], check=True, capture_output=True)
    told = subprocess.run(["git", "-C", clone, "rev-parse", "HEAD"], capture_output=True, text=True)
    return told.stdout.strip()


def test_the_commit_of_the_clone_stands_in_the_result_and_another_is_refused(vm, tmp_path):
    clone = make_clone(tmp_path)
    first = commit(clone)
    result = run(tmp_path, follow(*TYPE_AND_END), tasks=["os/cccc-3"])
    assert (result["commit"], result["desktop_env"]) == (first, "1.0.2")
    second = commit(clone)
    vm.events.clear()
    with pytest.raises(ValueError) as problem:
        run(tmp_path, no_planner, tasks=["os"])
    assert str(problem.value) == (
        f"{results_of(tmp_path)} was made with other settings: commit {first!r}, not {second!r}"
    )
    assert vm.events == []  # that is said before a machine starts


def test_results_of_something_else_are_left_alone(vm, tmp_path):
    results_of(tmp_path).mkdir(parents=True)
    (results_of(tmp_path) / "thesis.tex").write_text("mine")
    with pytest.raises(ValueError, match="is not empty, and has no args.json"):
        run(tmp_path, no_planner)


def test_after_more_training_a_run_has_another_folder(vm, tmp_path):
    run(tmp_path, follow(*TYPE_AND_END), tasks=["os/cccc-3"])
    trained = player_of(follow(*TYPE_AND_END), weights="abc")
    run(tmp_path, trained, tasks=["os/cccc-3"])
    folders = [path.name for path in results_of(tmp_path).parent.iterdir()]
    assert sorted(folders) == ["runs_x", "runs_x_abc"]


def test_a_tool_agent_sees_pixels_only_and_is_named_in_the_result(vm, tmp_path):
    shown = []

    def upper_left(actions, examples):
        shown.extend(examples)
        return [Action(action.kind, action.text, (0.0, 0.0)) for action in actions]

    clicks = follow(Action("click", "Save", MIDDLE), Action("done"))
    reader = player_of(clicks, tool_agent=upper_left, tool_agent_name="ocr")
    result = run(tmp_path, reader, tasks=["os/cccc-3"], budget=1)
    assert result["points_by"] == "ocr"
    assert vm.commands == ["pyautogui.click(0, 0)"]
    [example_shown] = shown
    assert (example_shown.reference, example_shown.elements) == ((), ())
    assert example_shown.observation.screenshot().size == SIZE


def test_what_cannot_be_read_or_pointed_at_is_a_failed_step(vm, tmp_path):
    result = run(tmp_path, follow(Action("click", "Save")), tasks=["os/cccc-3"], budget=2)
    assert result["results"] == {"failed": 2}  # no point, then no forecast
    assert result["points_by"] == osworld.OWN_POINTS
    assert vm.commands == []


def test_the_rest_of_a_forecast_is_carried_along(vm, tmp_path):
    plans = []

    def plan(observations, envs):
        plans.append([str(action) for action in observations[0].plan])
        return follow(*TYPE_AND_END)(observations, envs)

    run(tmp_path, player_of(plan, carry=True), tasks=["os/cccc-3"])
    assert plans == [[], ["done"]]


# ---- whatever way of dying -----------------------------------------------------------------------


def test_a_machine_that_does_not_start_is_one_line(vm, tmp_path):
    vm.broken = True
    with pytest.raises(ValueError) as problem:
        run(tmp_path, no_planner)
    assert str(problem.value) == (
        "provider docker: no virtual machine (RuntimeError: no daemon is running)"
    )
    assert not (tmp_path / "out").exists()  # with other settings the folder can still be used


@pytest.fixture
def vmware(vm, tmp_path, monkeypatch):
    """The package's own provider of vmware, on a vmrun that lists machines and starts none."""
    script = "if [ $3 = list ]; then echo Total running VMs: 0; fi"
    put_program(tmp_path, monkeypatch, "vmrun", script)
    provider = importlib.import_module("desktop_env.providers.vmware.provider")
    monkeypatch.setattr(provider, "WAIT_TIME", 0.01)
    monkeypatch.setattr(osworld_machine, "START_LIMIT", 0.5)
    package = importlib.import_module("desktop_env.desktop_env")
    parts = (vm, provider.VMwareProvider(None))
    monkeypatch.setattr(package, "create_vm_manager_and_provider", lambda *_, **__: parts)
    return parts[1]


def test_a_machine_that_is_never_up_is_one_line(vmware, tmp_path):
    """The package's loop would start it again and again, for ever."""
    before = signal.getsignal(signal.SIGALRM)
    with pytest.raises(ValueError) as problem:
        run(tmp_path, no_planner, provider="vmware")
    assert str(problem.value) == (
        "provider vmware: no virtual machine (TimeoutError: not up after 0.5 s; start it by hand "
        "to see why)"
    )
    assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)
    assert signal.getsignal(signal.SIGALRM) is before


def test_a_provider_that_fails_later_says_so_once(vmware, tmp_path, caplog):
    """The package's loop would log each failure, hundreds a second."""
    (tmp_path / "vmrun").write_text(
        "#!/bin/sh\n"
        f"if [ -e {tmp_path}/asked ]; then echo Error: no license; exit 255; fi\n"
        f"touch {tmp_path}/asked\n"
    )
    with pytest.raises(ValueError, match="TimeoutError: not up after 0.5 s"):
        run(tmp_path, no_planner, provider="vmware")
    assert [record for record in caplog.records if record.levelname == "ERROR"] == []


def test_a_machine_that_never_has_an_address_is_one_line(vmware, tmp_path, monkeypatch):
    """The package's loop there catches every Exception, a TimeoutError too."""

    def address(*_, **__):
        time.sleep(1)  # within it, the time is up
        return "127.0.0.1"

    monkeypatch.setattr(vmware, "start_emulator", lambda *_: None)
    monkeypatch.setattr(vmware, "stop_emulator", lambda *_: None)
    monkeypatch.setattr(type(vmware), "_execute_command", address)
    with pytest.raises(ValueError, match="TimeoutError: not up after 0.5 s"):
        run(tmp_path, no_planner, provider="vmware")


def test_a_machine_that_is_up_in_time_is_not_disturbed_later(vmware, vm, tmp_path, monkeypatch):
    package = importlib.import_module("desktop_env.desktop_env")
    monkeypatch.setattr(package, "create_vm_manager_and_provider", lambda *_, **__: (vm, vm))
    task_planner = follow(*TYPE_AND_END)

    def slow(observations, envs):
        time.sleep(0.4)  # twice in the task: longer than the limit
        return task_planner(observations, envs)

    assert run(tmp_path, slow, provider="vmware", tasks=["os/cccc-3"])["score"] == 1.0


def test_the_machine_is_stopped_at_the_end(vm, tmp_path):
    run(tmp_path, follow(*TYPE_AND_END), tasks=["os/cccc-3"])
    assert vm.events == ["start", "stop"]


@pytest.mark.parametrize("death", [ZeroDivisionError, KeyboardInterrupt])
def test_the_machine_is_stopped_by_an_error_of_ours(vm, tmp_path, death):
    def plan(_observations, _envs):
        raise death

    with pytest.raises(death):
        run(tmp_path, plan)
    assert vm.events == ["start", "stop"]


def test_sigterm_stops_the_machine(vm, tmp_path):
    before = signal.getsignal(signal.SIGTERM)

    def plan(_observations, _envs):
        os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(SystemExit) as end:
        run(tmp_path, plan)
    assert end.value.code == 143
    assert vm.events == ["start", "stop"]
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_second_sigterm_does_not_interrupt_the_stopping(vm, tmp_path, monkeypatch):
    def stop(*_):
        os.kill(os.getpid(), signal.SIGTERM)
        vm.events.append("stop")

    def plan(_observations, _envs):
        os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(vm, "stop_emulator", stop)
    with pytest.raises(SystemExit):
        run(tmp_path, plan)
    assert vm.events == ["start", "stop"]


def test_sigterm_while_the_machine_starts_stops_it_too(vm, tmp_path, monkeypatch):
    """The package's own constructor would leave it running."""

    def wait(*_):
        vm.events.append("start")
        os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(vm, "start_emulator", wait)
    with pytest.raises(SystemExit):
        run(tmp_path, no_planner)
    assert vm.events == ["start", "stop"]


def test_a_machine_that_cannot_be_stopped_is_a_warning(vm, tmp_path, monkeypatch, capsys):
    def refuse(*_):
        raise OSError("gone")

    monkeypatch.setattr(vm, "stop_emulator", refuse)
    result = run(tmp_path, follow(*TYPE_AND_END), tasks=["os/cccc-3"])
    assert result["score"] == 1.0
    said = capsys.readouterr().err
    assert said.endswith("warning: the machine may still run (OSError: gone)\n")
    assert said.count("warning: ") == 1


def test_the_packages_log_is_left_as_it_was(vm, tmp_path):
    logger = logging.getLogger("desktopenv")
    before = (logger.level, logger.propagate, list(logger.handlers))
    run(tmp_path, follow(*TYPE_AND_END), tasks=["os/cccc-3"])
    assert (logger.level, logger.propagate, logger.handlers) == before


def test_a_full_disk_is_no_result(vm, tmp_path, monkeypatch):
    """A score that cannot be written is an error, not a crash of the machine that counts 0."""

    def full(path, text):
        if path.name == "result.txt":
            raise OSError("No space left on device")
        write(path, text)

    monkeypatch.setattr(osworld_files, "write", full)
    with pytest.raises(OSError, match="No space left"):
        run(tmp_path, follow(*TYPE_AND_END), tasks=["os/cccc-3"])
    assert vm.events == ["start", "stop"]
