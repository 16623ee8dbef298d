"""What AndroidWorld needs around it: its package in a clone, adb, a running emulator.

Called by androidworld.py. It checks that all is there, says in one line what is not, and connects.
It plays nothing, and starts no emulator.
"""

import inspect
import shutil
import socket
import subprocess
import sys
import warnings
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path

from benchmarks.episodes import DIRTY, UNKNOWN, commit_of
from envs import one_line

COMMIT = "d9c569f764b3a5629321858de03ff653d0f24056"  # 24 Feb 2026: what all this was tested with
HOW_TO_INSTALL = "docs/online.md says how to install it"

# ---- the package --------------------------------------------------------------------------------

# What is called of android_world, and the parameters that it must have.
CALLED = {
    "android_world.agents.base_agent.AgentInteractionResult": "done data",
    "android_world.agents.base_agent.EnvironmentInteractingAgent": "env transition_pause",
    "android_world.checkpointer.IncrementalCheckpointer": "directory",
    "android_world.env.adb_utils.get_adb_activity": "app_name",
    "android_world.env.env_launcher.load_and_setup_env": "console_port adb_path grpc_port",
    "android_world.env.json_action.JSONAction": "action_type x y text direction goal_status "
    "app_name",
    "android_world.registry.TaskRegistry": "",
    "android_world.suite_utils.create_suite": "n_task_combinations seed tasks",
    "android_world.suite_utils.run": "suite agent checkpointer process_episodes_fn",
}


def load_package(clone: Path) -> str:
    """Import android_world from its clone, so that what runs is that commit; returns the commit.

    ValueError in one line where there is no clone, a package is missing, or it is at another
    commit. Of a clone whose commit is not known, or whose files were changed, only what is called
    here is looked at: see doubt.
    """
    clone = clone.resolve()
    if not (clone / "android_world" / "suite_utils.py").is_file():
        raise ValueError(f"{clone}: no clone of github.com/google-research/android_world is there")
    commit = commit_of(clone)
    if commit != UNKNOWN and commit.removesuffix(DIRTY) != COMMIT:
        checkout = f"git -C {clone} checkout {COMMIT}"
        raise ValueError(f"{clone}: another version, commit {commit}; type {checkout}")
    sys.path.insert(0, str(clone))
    try:
        with warnings.catch_warnings(action="ignore"):  # of packages that it imports
            for name, parameters in CALLED.items():
                check_called(name, parameters.split())
    except AttributeError as problem:
        raise ValueError(f"{clone}: another version ({problem}); needed: commit {COMMIT}")
    except Exception as problem:  # foreign code is imported: protobuf has errors of its own
        reason = one_line(str(problem), 200)
        raise ValueError(f"{clone}: android_world cannot be imported ({reason}); {HOW_TO_INSTALL}")
    finally:
        sys.path.remove(str(clone))
    imported = Path(import_module("android_world").__file__).resolve()
    if not imported.is_relative_to(clone):
        raise ValueError(f"{clone}: android_world was imported from {imported.parent} before")
    return commit


def check_called(name: str, parameters: Sequence[str]) -> None:
    """AttributeError where a module of theirs lacks this function or class, or a parameter."""
    module_name, _, attribute = name.rpartition(".")
    called = getattr(import_module(module_name), attribute)
    has = inspect.signature(called).parameters
    for parameter in parameters:
        if parameter not in has:
            raise AttributeError(f"{name} has no parameter {parameter}")


def doubt(clone: Path, commit: str) -> list[str]:
    """One line where what runs may be otherwise than what was tested; nothing else.

    `commit`: of the clone, as load_package returns it.
    """
    if commit == COMMIT:
        return []
    if commit == UNKNOWN:
        return [f"{clone}: its commit is not known (no git there); tested was {COMMIT}"]
    return [f"{clone}: files were changed since commit {COMMIT}, which was tested"]


# ---- the phone ----------------------------------------------------------------------------------

CONSOLE_PORT = 5554
GRPC_PORT = 8554
EMULATOR = f"emulator-{CONSOLE_PORT}"
START_IT = f"start it with emulator -avd AndroidWorldAvd -no-snapshot -grpc {GRPC_PORT}"


def find_adb() -> str:
    """The adb in PATH, or where Android's SDK is usually installed."""
    in_path = shutil.which("adb")
    if in_path:
        return in_path
    for sdk in ("Android/Sdk", "Library/Android/sdk"):
        adb = Path.home() / sdk / "platform-tools" / "adb"
        if adb.is_file():
            return str(adb)
    raise ValueError("adb was not found: put Android's platform-tools into PATH")


def check_emulator(adb: str) -> None:
    """ValueError where no emulator runs, or one that does not listen where it must."""
    try:
        done = subprocess.run([adb, "devices"], capture_output=True, text=True, timeout=60)
    except (OSError, subprocess.TimeoutExpired) as problem:
        raise ValueError(f"{adb} does not work: {one_line(str(problem), 200)}")
    lines = [line.split() for line in done.stdout.splitlines()]
    if [EMULATOR, "device"] not in lines:
        raise ValueError(f"no {EMULATOR} in the list of `adb devices`: {START_IT}")
    try:
        heard = greet(GRPC_PORT)
    except OSError:  # silence is one, too
        heard = False
    if not heard:
        raise ValueError(f"no emulator answers on port {GRPC_PORT}: {START_IT}")


SETTINGS_FRAME = bytes([0, 0, 0, 4, 0, 0, 0, 0, 0])  # of HTTP/2, which gRPC speaks; empty
GREETING = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + SETTINGS_FRAME


def greet(port: int) -> bool:
    """Whether a gRPC server listens: it begins with such a frame, too (RFC 9113, 3.4).

    android_env would wait 100 s for it. OSError where nothing listens or answers.
    """
    with socket.create_connection(("localhost", port), timeout=5) as line:
        line.sendall(GREETING)
        answer = line.recv(len(SETTINGS_FRAME), socket.MSG_WAITALL)
    return answer[3:4] == SETTINGS_FRAME[3:4]


def connect(adb: str):
    """Their environment on the running emulator, as their run.py makes it."""
    from absl import logging
    from android_world.env import env_launcher

    logging.set_verbosity(logging.FATAL)  # what goes wrong is said below, in one line
    try:
        env = env_launcher.load_and_setup_env(
            console_port=CONSOLE_PORT, adb_path=adb, grpc_port=GRPC_PORT
        )
    except Exception as problem:  # of gRPC, adb or android_env
        reason = one_line(str(problem.__cause__ or problem), 200)
        raise ValueError(f"{EMULATOR} does not answer ({reason}): {START_IT}")
    logging.set_verbosity(logging.WARNING)
    return env
