"""What AndroidWorld needs around it: what is not there, or is another version, is one line. It is
shown on made-up clones and a made-up adb."""

import subprocess
import sys
import threading
import warnings
from concurrent import futures
from pathlib import Path
from socket import create_server

import pytest

from benchmarks import androidworld_phone
from benchmarks.androidworld_phone import COMMIT, doubt, load_package
from benchmarks.episodes import commit_of


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


def run_git(folder: Path, *command: str) -> str:
    git = ["git", "-C", str(folder), "-c", "user.name=a", "-c", "user.email=a@b"]
    done = subprocess.run([*git, *command], check=True, capture_output=True, text=True)
    return done.stdout.strip()


def make_commit(folder: Path) -> str:
    """The hash of a commit of all that is there."""
    for command in (["init", "-q"], ["add", "."], ["commit", "-qm", "all"], ["tag", "v1"]):
        run_git(folder, *command)
    return run_git(folder, "rev-parse", "HEAD")


def test_a_clone_of_no_known_commit_is_played_with_a_warning(tmp_path, no_android):
    assert load_package(make_clone(tmp_path)) == "unknown"
    assert str(tmp_path) not in sys.path
    assert doubt(tmp_path, "unknown") == [
        f"{tmp_path}: its commit is not known (no git there); tested was {COMMIT}"
    ]


def test_another_commit_is_refused_though_nothing_that_is_called_changed(tmp_path, no_android):
    commit = make_commit(make_clone(tmp_path))
    refused = f"{tmp_path}: another version, commit %s; type git -C {tmp_path} checkout {COMMIT}"
    assert says(load_package, tmp_path) == refused % commit
    (tmp_path / "android_world" / "registry.py").write_text("class TaskRegistry: 0")
    assert says(load_package, tmp_path) == refused % f"{commit}-dirty"
    assert "android_world" not in sys.modules  # refused before anything of it runs


def test_the_tested_commit_is_taken_and_with_a_warning_if_files_were_changed(
    tmp_path, no_android, monkeypatch
):
    commit = make_commit(make_clone(tmp_path))
    monkeypatch.setattr(androidworld_phone, "COMMIT", commit)
    assert load_package(tmp_path) == commit
    assert doubt(tmp_path, commit) == []
    (tmp_path / "compiled_pb2.py").write_text("")  # the installation adds such files
    assert load_package(tmp_path) == commit
    (tmp_path / "android_world" / "registry.py").write_text("class TaskRegistry: 0")
    assert load_package(tmp_path) == f"{commit}-dirty"
    assert doubt(tmp_path, f"{commit}-dirty") == [
        f"{tmp_path}: files were changed since commit {commit}, which was tested"
    ]


def test_the_clone_around_a_folder_is_not_meant(tmp_path):
    make_commit(make_clone(tmp_path))
    inner = tmp_path / "inner"
    inner.mkdir()
    assert commit_of(inner) == "unknown"


def test_what_its_packages_warn_of_is_not_said(tmp_path, no_android):
    """pydub misses ffmpeg, and has an escape in a string that Python does not know."""
    noisy = "import warnings\nwarnings.warn('no ffmpeg', RuntimeWarning)\npattern = '\\d'\n"
    clone = make_clone(tmp_path, registry=noisy + MADE_UP["registry.py"])
    with warnings.catch_warnings(record=True, action="always") as said:
        load_package(clone)
        assert said == []
        warnings.warn("of our own", stacklevel=1)
        assert len(said) == 1  # it is silent for the import only


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


ONE_DEVICE = "printf 'List of devices attached\\nemulator-5554\\tdevice\\n'"


@pytest.fixture
def listener(monkeypatch):
    """A socket in the place of the emulator's."""
    with create_server(("localhost", 0)) as found:
        monkeypatch.setattr(androidworld_phone, "GRPC_PORT", found.getsockname()[1])
        yield found


def answer_once(listener, text: bytes) -> threading.Thread:
    """Take one caller, read what it says, say this and hang up."""

    def answer():
        caller, _ = listener.accept()
        with caller:
            caller.recv(100)
            caller.sendall(text)

    thread = threading.Thread(target=answer)
    thread.start()
    return thread


def test_an_emulator_without_its_grpc_port(tmp_path, listener):
    listener.close()
    line = says(androidworld_phone.check_emulator, make_adb(tmp_path, ONE_DEVICE))
    assert line == f"no emulator answers on port {androidworld_phone.GRPC_PORT}: {START_IT}"


@pytest.mark.parametrize("text", [b"", b"HTTP/1.1 400 Bad Request\r\n\r\n", b"SSH-2.0-x\r\n"])
def test_a_port_that_answers_but_is_no_emulator(text, tmp_path, listener):
    thread = answer_once(listener, text)
    line = says(androidworld_phone.check_emulator, make_adb(tmp_path, ONE_DEVICE))
    thread.join()
    assert line == f"no emulator answers on port {androidworld_phone.GRPC_PORT}: {START_IT}"


def test_a_port_that_is_silent(tmp_path, listener, monkeypatch):
    """It is not waited for as long as android_env would: 100 s."""
    waited = []
    connect = androidworld_phone.socket.create_connection

    def impatient(address, timeout):
        waited.append(timeout)
        return connect(address, 0.1)

    monkeypatch.setattr(androidworld_phone.socket, "create_connection", impatient)
    line = says(androidworld_phone.check_emulator, make_adb(tmp_path, ONE_DEVICE))
    assert line == f"no emulator answers on port {androidworld_phone.GRPC_PORT}: {START_IT}"
    assert waited == [5]


def test_a_port_that_speaks_as_an_emulators_is_taken(tmp_path, listener):
    """A frame of HTTP/2: length 6, type 4 (settings), no flags, stream 0; one setting."""
    frame = bytes([0, 0, 6, 4, 0, 0, 0, 0, 0]) + bytes([0, 3, 0, 0, 0, 100])
    thread = answer_once(listener, frame)
    androidworld_phone.check_emulator(make_adb(tmp_path, ONE_DEVICE))
    thread.join()


def test_a_real_grpc_server_is_taken():
    grpc = pytest.importorskip("grpc", reason="grpcio comes with android-env, docs/online.md")
    server = grpc.server(futures.ThreadPoolExecutor(1))
    port = server.add_insecure_port("localhost:0")
    server.start()
    assert androidworld_phone.greet(port)
    server.stop(None)
