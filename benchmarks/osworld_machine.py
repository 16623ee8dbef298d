"""The virtual machine of OSWorld: what must be there, how it starts, and that it is stopped.

Called by osworld.py, around the package desktop-env, which is imported inside functions only.
It carries nothing out and grades nothing: the package's DesktopEnv, which `desktop` gives, does.
"""

import logging
import shutil
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from envs import one_line

INSTALL = (
    "pip install --no-deps desktop-env==1.0.2 && pip install requests gymnasium, and for its "
    "graders what docs/online.md lists"
)

# Provider -> a program that must be in PATH: without it the package asks again and again, for ever.
# Its other providers are clouds, which want a region and an image of their own.
PROVIDERS = {"docker": None, "vmware": "vmrun", "virtualbox": "VBoxManage"}


@dataclass(frozen=True)
class Machine:
    """Which virtual machine; without a path the package takes its own image, or downloads it."""

    provider: str
    path_to_vm: str = ""  # docker: the .qcow2, vmware: the .vmx, virtualbox: the .vbox


def check_machine(machine: Machine) -> None:
    """ValueError in one line for what the package itself would not say, or only after long."""
    if machine.provider not in PROVIDERS:
        raise ValueError(
            f"unknown provider {one_line(machine.provider, 80)!r}: one of {', '.join(PROVIDERS)}"
        )
    program = PROVIDERS[machine.provider]
    if program is not None and shutil.which(program) is None:
        raise ValueError(f"provider {machine.provider}: {program} is not in PATH; install it first")
    if machine.path_to_vm and not Path(machine.path_to_vm).is_file():
        # Docker would make a folder of that name, and start without a disk.
        raise ValueError(f"path_to_vm {machine.path_to_vm}: there is no such file")
    desktop_class()


def desktop_class() -> type:
    """The package's DesktopEnv; ValueError in one line where it cannot be imported."""
    try:
        from desktop_env.desktop_env import DesktopEnv
    except ImportError as problem:
        raise ValueError(f"OSWorld needs desktop-env ({one_line(str(problem), 200)}): {INSTALL}")
    return DesktopEnv


@contextmanager
def desktop(machine: Machine, cache: Path) -> Iterator:
    """The package's DesktopEnv with its machine started; stopped at the end, however that comes.

    An end by return, exception, ctrl+c or SIGTERM stops the machine, also while it starts. After
    SIGKILL nothing can: a container goes on (`docker ps --filter ancestor=happysixd/osworld-docker`
    shows it, `docker rm -f` ends it), and so does a machine of vmware or virtualbox.

    `cache`: a folder for what the graders download. ValueError in one line where it does not start.
    """
    kind = desktop_class()
    env = kind.__new__(kind)  # its constructor starts the machine: by then it must be in our hands
    with sigterm_as_exit():
        try:
            start(env, machine, cache)
            yield env
        finally:
            signal.signal(signal.SIGTERM, signal.SIG_IGN)  # a second one must not interrupt this
            stop(env)


def start(env, machine: Machine, cache: Path) -> None:
    try:
        env.__init__(
            provider_name=machine.provider,
            path_to_vm=machine.path_to_vm or None,
            action_space="pyautogui",
            cache_dir=str(cache),
            headless=True,
            require_a11y_tree=False,
        )
    except Exception as problem:  # of docker, of a command, of the network
        raise ValueError(f"provider {machine.provider}: no virtual machine ({told(problem)})")


def stop(env) -> None:
    if not hasattr(env, "path_to_vm"):  # it ended before anything was started
        return
    try:
        env.close()
    except Exception as problem:
        print(f"warning: the machine may still run ({told(problem)})", file=sys.stderr)


def told(problem: Exception) -> str:
    return f"{type(problem).__name__}: {one_line(str(problem), 200)}"


@contextmanager
def sigterm_as_exit() -> Iterator[None]:
    """Inside it, SIGTERM is an exception that passes through all `finally`; main thread only.

    The package has bare `except:` in its loops, which can swallow one; the next one works.
    """

    def leave(number: int, _frame) -> None:
        raise SystemExit(128 + number)

    before = signal.signal(signal.SIGTERM, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextmanager
def package_log(path: Path) -> Iterator[None]:
    """Inside it, what the package logs goes to this file and not to the terminal."""
    logger = logging.getLogger("desktopenv")
    handler = logging.FileHandler(path)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s %(message)s"))
    before = (logger.level, logger.propagate)
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    logger.propagate = False
    try:
        yield
    finally:
        logger.removeHandler(handler)
        handler.close()
        logger.level, logger.propagate = before
