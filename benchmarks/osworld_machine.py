"""The virtual machine of OSWorld: what must be there, how it starts, and that it is stopped.

Called by osworld.py, around the package desktop-env, which is imported inside functions only.
It carries nothing out and grades nothing: the package's DesktopEnv, which `desktop` gives, does.
"""

import logging
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from envs import one_line

VERSION = "1.0.2"
INSTALL = (
    f"pip install --no-deps desktop-env=={VERSION} && pip install requests gymnasium, and for its "
    "graders what docs/online.md lists"
)

# Provider -> a command that must work: where it fails, the package asks again and again, for ever.
# Its other providers are clouds, which want a region and an image of their own.
VMWARE = "fusion" if sys.platform == "darwin" else "ws"  # as the package has it
PROVIDERS = {
    "docker": (),  # asked by its Python package: `check_docker`
    "vmware": ("vmrun", "-T", VMWARE, "list"),
    "virtualbox": ("VBoxManage", "list", "vms"),
}
ANSWER_LIMIT = 60.0  # seconds for that command
START_LIMIT = 900.0  # seconds for a machine to be up


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
    if machine.path_to_vm and not Path(machine.path_to_vm).is_file():
        # Docker would make a folder of that name, and start without a disk.
        raise ValueError(f"path_to_vm {machine.path_to_vm}: there is no such file")
    if machine.provider != "docker":
        check_program(machine.provider, PROVIDERS[machine.provider])
    desktop_class()
    check_imports(machine.provider)
    if machine.provider == "docker":
        check_docker()


def check_program(provider: str, command: Sequence[str]) -> None:
    """ValueError where the provider's program is missing, fails or does not answer."""
    program = command[0]
    if shutil.which(program) is None:
        raise ValueError(f"provider {provider}: {program} is not in PATH; install it first")
    how = {"stdin": subprocess.DEVNULL, "capture_output": True, "errors": "replace", "check": True}
    try:
        subprocess.run(command, timeout=ANSWER_LIMIT, **how)
        return
    except subprocess.CalledProcessError as error:
        output = one_line(error.stdout + error.stderr, 200)
        problem = f"exit code {error.returncode}: {output}"
    except subprocess.TimeoutExpired:
        problem = f"no answer in {ANSWER_LIMIT:g} s"
    except OSError as error:
        problem = told(error)
    raise ValueError(
        f"provider {provider}: `{' '.join(command)}` fails ({problem}); "
        "install or start it so that this command works"
    )


def check_imports(provider: str) -> None:
    """ValueError where what the package imports for a provider is not installed."""
    try:
        for module in ("manager", "provider"):
            import_module(f"desktop_env.providers.{provider}.{module}")
    except ImportError as problem:
        needed = "requests tqdm psutil filelock"
        if provider == "docker":
            needed += " docker"
        raise ValueError(f"provider {provider} ({told(problem)}): pip install {needed}")


def check_docker() -> None:
    """ValueError where no daemon answers."""
    import docker

    try:
        docker.from_env().ping()
    except Exception as problem:  # of docker, of requests, of the socket
        raise ValueError(
            f"provider docker: no daemon answers ({told(problem)}); start it with `sudo systemctl "
            "start docker`, and see that `docker info` works without sudo"
        )


def desktop_class() -> type:
    """The package's DesktopEnv; ValueError in one line where it is missing, or another version."""
    try:
        from desktop_env.desktop_env import DesktopEnv
    except ImportError as problem:
        raise ValueError(f"OSWorld needs desktop-env ({one_line(str(problem), 200)}): {INSTALL}")
    installed = package_version()
    if installed != VERSION:
        raise ValueError(f"OSWorld needs desktop-env {VERSION}, not {installed}: {INSTALL}")
    return DesktopEnv


def package_version() -> str:
    try:
        return version("desktop-env")
    except PackageNotFoundError:  # it was not installed but put into the path
        return "one of unknown version"


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
    if machine.provider != "docker":  # whose start has an end, and may load an image before
        env._start_emulator = limited(env._start_emulator)  # called at each return to the snapshot
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


def limited(start_emulator: Callable) -> Callable:
    """The package's own one would ask a dead machine for ever, and log each failure."""

    def start_in_time() -> None:
        with time_limit(START_LIMIT), package_log(Path(os.devnull)):
            start_emulator()

    return start_in_time


def stop(env) -> None:
    if not hasattr(env, "path_to_vm"):  # it ended before anything was started
        return
    try:
        env.close()
    except Exception as problem:
        print(f"warning: the machine may still run ({told(problem)})", file=sys.stderr)


def told(problem: Exception) -> str:
    return f"{type(problem).__name__}: {one_line(str(problem), 200)}"


class TimeIsUp(BaseException):
    """No Exception, which the package's loops would catch and try again."""


@contextmanager
def time_limit(seconds: float) -> Iterator[None]:
    """TimeoutError when what is inside takes longer; main thread only."""

    def leave(_number: int, _frame) -> None:
        raise TimeIsUp

    before = signal.signal(signal.SIGALRM, leave)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    except TimeIsUp:
        raise TimeoutError(f"not up after {seconds:g} s; start it by hand to see why") from None
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


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
