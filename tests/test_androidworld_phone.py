"""What AndroidWorld needs around it: what is not there, or is another version, is one line. It is
shown on made-up clones and a made-up adb."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import androidworld_phone
from benchmarks.androidworld_phone import load_package


def says(f, *args) -> str:
    """The one line of its ValueError."""
    with pytest.raises(ValueError) as error:
        f(*args)
    assert len(str(error.value).splitlines()) == 1
    return str(error.value)


@pytest.fixture
def no_android(monkeypatch):
    """As if android_world had never been imported; afterwards as before."""
    for name in list(sys.modules):
        if name.split(".")[0] == "android_world":
            monkeypatch.delitem(sys.modules, name)
    yield
    for name in list(sys.modules):
        if name.split(".")[0] == "android_world":
            del sys.modules[name]


MADE_UP = {
    "agents/base_agent.py": "class AgentInteractionResult:\n    def __init__(self, done, data): 0\n"
    "class EnvironmentInteractingAgent:\n    def __init__(self, env, name, transition_pause): 0\n",
    "checkpointer.py": "class IncrementalCheckpointer:\n    def __init__(self, directory): 0\n",
    "env/adb_utils.py": "def get_adb_activity(app_name): 0\n",
    "env/env_launcher.py": "def load_and_setup_env(console_port, adb_path, grpc_port): 0\n",
    "env/json_action.py": "def JSONAction(action_type, x, y, text, direction, goal_status, "
    "app_name): 0\n",
    "registry.py": "class TaskRegistry: pass\n",
    "suite_utils.py": "def create_suite(n_task_combinations, seed, tasks): 0\n"
    "def run(suite, agent, checkpointer, process_episodes_fn): 0\n",
}


def make_clone(folder: Path, **changed: str) -> Path:
    """A folder that looks like a clone; `changed`: other contents, by the file's name."""
    for name, text in MADE_UP.items():
        path = folder / "android_world" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(changed.get(path.stem, text))
    for package in ("", "agents", "env"):
        (folder / "android_world" / package / "__init__.py").write_text("")
    return folder


def test_a_clone_of_no_known_commit_says_so(tmp_path, no_android):
    assert load_package(make_clone(tmp_path)) == "unknown"
    assert str(tmp_path) not in sys.path


def test_the_commit_of_a_clone(tmp_path, no_android):
    make_clone(tmp_path)
    git = ["git", "-C", str(tmp_path), "-c", "user.name=a", "-c", "user.email=a@b"]
    for command in (["init", "-q"], ["add", "."], ["commit", "-qm", "all"], ["tag", "v1"]):
        subprocess.run([*git, *command], check=True)
    commit = load_package(tmp_path)
    assert re.fullmatch("[0-9a-f]{40}", commit)
    (tmp_path / "android_world" / "registry.py").write_text("changed = True")
    assert androidworld_phone.commit_of(tmp_path) == f"{commit}-dirty"
    inner = tmp_path / "inner"
    inner.mkdir()
    assert androidworld_phone.commit_of(inner) == "unknown"  # the clone around it is not meant


def test_no_clone_there(tmp_path):
    expected = f"{tmp_path}: no clone of github.com/google-research/android_world is there"
    assert says(load_package, tmp_path) == expected


def test_a_package_that_is_missing(tmp_path, no_android):
    clone = make_clone(tmp_path, registry="import dm_env_is_missing_here")
    assert says(load_package, clone) == (
        f"{tmp_path}: android_world cannot be imported (No module named "
        "'dm_env_is_missing_here'); docs/online.md says how to install it"
    )


@pytest.mark.parametrize(
    ("changed", "why"),
    [
        ({"checkpointer": ""}, "has no attribute 'IncrementalCheckpointer'"),
        (
            {"env_launcher": "def load_and_setup_env(console_port, adb_path): 0"},
            "android_world.env.env_launcher.load_and_setup_env has no parameter grpc_port",
        ),
    ],
)
def test_another_version(tmp_path, no_android, changed, why):
    line = says(load_package, make_clone(tmp_path, **changed))
    assert line.startswith(f"{tmp_path}: another version (")
    assert why in line
    assert line.endswith("needed: commit d9c569f764b3a5629321858de03ff653d0f24056")


def test_two_clones_in_one_process(tmp_path, no_android):
    first = make_clone(tmp_path / "first")
    second = make_clone(tmp_path / "second")
    load_package(first)
    line = says(load_package, second)
    assert line == f"{second}: android_world was imported from {first / 'android_world'} before"


def test_no_adb(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("HOME", str(tmp_path))
    line = says(androidworld_phone.find_adb)
    assert line == "adb was not found: put Android's platform-tools into PATH"


def make_adb(folder: Path, script: str) -> str:
    adb = folder / "adb"
    adb.write_text(f"#!/bin/sh\n{script}\n")
    adb.chmod(0o755)
    return str(adb)


def test_adb_in_path_or_in_the_sdk(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("PATH", str(tmp_path))
    sdk = tmp_path / "Android" / "Sdk" / "platform-tools"
    sdk.mkdir(parents=True)
    in_sdk = make_adb(sdk, "")
    assert androidworld_phone.find_adb() == in_sdk
    in_path = make_adb(tmp_path, "")
    assert androidworld_phone.find_adb() == in_path


START_IT = "start it with emulator -avd AndroidWorldAvd -no-snapshot -grpc 8554"


def test_no_emulator(tmp_path):
    adb = make_adb(tmp_path, "printf 'List of devices attached\\nemulator-5554\\toffline\\n'")
    line = says(androidworld_phone.check_emulator, adb)
    assert line == f"no emulator-5554 in the list of `adb devices`: {START_IT}"
    line = says(androidworld_phone.check_emulator, str(tmp_path / "none"))
    assert line.startswith(f"{tmp_path / 'none'} does not work: ")


def test_an_emulator_without_its_grpc_port(tmp_path, monkeypatch):
    adb = make_adb(tmp_path, "printf 'List of devices attached\\nemulator-5554\\tdevice\\n'")

    def refused(*_args, **_how):
        raise ConnectionRefusedError

    monkeypatch.setattr(androidworld_phone.socket, "create_connection", refused)
    line = says(androidworld_phone.check_emulator, adb)
    assert line == f"emulator-5554 does not listen on port 8554: {START_IT}"
