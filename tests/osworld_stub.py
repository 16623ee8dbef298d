"""A double of OSWorld's virtual machine, below the real package: an HTTP server with the machine's
routes, which carries commands out on a keyboard and mouse that only take notes.

Called by test_osworld.py. The real DesktopEnv and PythonController of desktop-env stand on it; the
parts of the package that need its forty other packages (graders, set-up) have stand-ins. The clone
with its tasks, at the end, serves test_osworld_files.py too."""

import importlib
import io
import json
import sys
import threading
from dataclasses import dataclass, field
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import ModuleType, SimpleNamespace

from PIL import Image

SIZE = (1920, 1080)
PREFIX = "import pyautogui; import time; pyautogui.FAILSAFE = False; "  # PythonController's


# ---- carrying a command out ---------------------------------------------------------------------


@dataclass
class Desk:
    """Keyboard, mouse and clipboard; what a text field that has the focus would hold."""

    text: str = ""
    clipboard: str = ""
    calls: list[tuple] = field(default_factory=list)  # of pyautogui: (name, arguments)

    def run(self, code: str) -> None:
        """Run a command as the machine does, but with nothing at hand that it should not need: any
        other name or module is an error."""

        def import_module(name, *_):
            return modules[name]

        modules = {
            "pyautogui": Keyboard(self),
            "pyperclip": SimpleNamespace(copy=self.copy),
            "time": SimpleNamespace(sleep=lambda seconds: None),
            "os": SimpleNamespace(
                devnull="", O_WRONLY=1, open=lambda path, how: 9, dup2=lambda one, other: None
            ),
        }
        exec(code, {"__builtins__": {"__import__": import_module, "bytes": bytes}})

    def copy(self, text: str) -> None:
        text.encode()  # which the real one does
        self.clipboard = text


class Keyboard:
    """pyautogui, as far as texts go; every other call is noted."""

    def __init__(self, desk: Desk):
        self.desk = desk

    def write(self, text: str, interval: float = 0.0) -> None:
        assert text.isascii() and text.isprintable() and "<" not in text  # the real one drops it
        self.desk.text += text

    def hotkey(self, *keys: str) -> None:
        if keys == ("shift", ","):
            self.desk.text += "<"
        elif keys == ("ctrl", "v"):
            self.desk.text += self.desk.clipboard
        self.desk.calls.append(("hotkey", keys))

    def __getattr__(self, name: str):
        return lambda *arguments, **_options: self.desk.calls.append((name, arguments))


def run_command(command: str) -> Desk:
    """A desk after one command."""
    desk = Desk()
    desk.run(PREFIX + command)
    return desk


# ---- the machine --------------------------------------------------------------------------------


@cache
def white_screen() -> bytes:
    png = io.BytesIO()
    Image.new("RGB", SIZE, "white").save(png, "PNG")
    return png.getvalue()


class VirtualMachine:
    """The server inside the machine, and the package's manager and provider of machines."""

    def __init__(self):
        self.commands: list[str] = []  # of PythonController, without their prefix
        self.errors: list[str] = []  # of commands; the package itself does not look at them
        self.events: list[str] = []  # what was asked of the provider
        self.desk = Desk()
        self.screen: bytes | None = white_screen()  # None: it cannot be read
        self.broken = False  # it does not start
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), self.handler())
        serve = self.server.serve_forever
        threading.Thread(target=serve, args=(0.01,), daemon=True).start()  # looks up each 10 ms

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()

    def handler(machine) -> type:
        class Handler(BaseHTTPRequestHandler):
            def log_message(self, *_):
                pass

            def answer(self, content: bytes, kind: str, code: int = 200) -> None:
                self.send_response(code)
                self.send_header("Content-Type", kind)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            def do_GET(self):
                if self.path == "/screenshot" and machine.screen is not None:
                    self.answer(machine.screen, "image/png")
                else:
                    self.answer(b"", "text/plain", 500)

            def do_POST(self):
                body = self.rfile.read(int(self.headers["Content-Length"]))
                output = machine.execute(json.loads(body)["command"])
                reply = json.dumps({"status": "success", "output": output})
                self.answer(reply.encode(), "application/json")

        return Handler

    def execute(self, command: list[str] | str) -> str:
        """A command of the agent, or the one that the stand-in of a grader asks."""
        if command == "cat typed":
            return self.desk.text
        python, option, code = command
        assert (python, option) == ("python", "-c")
        assert code.startswith(PREFIX)
        self.commands.append(code.removeprefix(PREFIX))
        try:
            self.desk.run(code)
        except Exception as error:  # whatever a made-up command may raise
            self.errors.append(f"{type(error).__name__}: {error}")
        return ""

    # -- what the package calls a manager and a provider

    def get_vm_path(self, **_) -> str:
        return "image"

    def start_emulator(self, *_) -> None:
        self.events.append("start")
        self.desk = Desk()
        if self.broken:
            raise RuntimeError("no daemon\nis running")

    def get_ip_address(self, _path: str) -> str:
        return f"127.0.0.1:{self.server.server_port}:9222:8006:8080"

    def revert_to_snapshot(self, *_) -> None:
        self.events.append("revert")

    def stop_emulator(self, *_) -> None:
        self.events.append("stop")


# ---- the package --------------------------------------------------------------------------------


def stand_in(name: str, **attributes) -> ModuleType:
    module = ModuleType(name)
    vars(module).update(attributes)
    return module


class SetupController:
    """A stand-in that prepares nothing; a task may ask it to fail."""

    def __init__(self, **_):
        pass

    def reset_cache_dir(self, _folder: str) -> None:
        pass

    def setup(self, config: list, _use_proxy: bool = False) -> bool:
        if {"type": "break"} in config:
            raise Exception("Setup step 1 failed: _break_setup")
        return True


def typed_text(env, _how: dict) -> str:
    import requests  # with the package

    url = f"http://{env.vm_ip}:{env.server_port}/execute"
    return requests.post(url, json={"command": "cat typed"}).json()["output"]


def broken_grader(_result: str, _rule: str) -> float:
    raise KeyError("page")


def load_package(monkeypatch, machine: VirtualMachine) -> ModuleType:
    """The real desktop_env.desktop_env, whose machines are this one."""
    metrics = stand_in(
        "desktop_env.evaluators.metrics",
        infeasible=lambda: None,
        is_equal=lambda result, rule: float(result == rule),
        share=lambda result, rule: rule,
        broken=broken_grader,
    )
    getters = stand_in(
        "desktop_env.evaluators.getters",
        get_typed=typed_text,
        get_rule=lambda _env, how: how["rule"],
    )
    evaluators = stand_in("desktop_env.evaluators", metrics=metrics, getters=getters)
    setup = stand_in("desktop_env.controllers.setup", SetupController=SetupController)
    for module in (metrics, getters, evaluators, setup):
        monkeypatch.setitem(sys.modules, module.__name__, module)
    daemon = SimpleNamespace(ping=lambda: True)
    monkeypatch.setitem(sys.modules, "docker", stand_in("docker", from_env=lambda: daemon))
    sys.modules.pop("desktop_env.desktop_env", None)
    package = importlib.import_module("desktop_env.desktop_env")
    monkeypatch.setattr(
        package, "create_vm_manager_and_provider", lambda *_, **__: (machine, machine)
    )
    # It waits 5 s before it asks a machine again that did not answer.
    patient = importlib.import_module("desktop_env.controllers.python")
    monkeypatch.setattr(patient, "time", SimpleNamespace(sleep=lambda seconds: None))
    return package


# ---- a clone ------------------------------------------------------------------------------------

TASKS = {
    "chrome": ["aaaa-1", "bbbb-2"],
    "os": ["aaaa-1", "cccc-3"],  # an id of another domain: older clones have such
}
INFEASIBLE = {"func": "infeasible"}
TYPED = {
    "func": "is_equal",
    "result": {"type": "typed"},
    "expected": {"type": "rule", "rule": "a<b"},
}


def make_task(ident: str, **changes) -> dict:
    task = {"id": ident, "instruction": f"Type\na<b for {ident}", "config": [], "evaluator": TYPED}
    return task | changes


def make_clone(folder, **lists):
    """A clone with the four tasks above; of each changes can be written later (rewrite)."""
    root = folder / "clone" / "evaluation_examples"
    for domain, ids in TASKS.items():
        (root / "examples" / domain).mkdir(parents=True)
        for ident in ids:
            rewrite(folder / "clone", f"{domain}/{ident}", make_task(ident))
    lists = {"all": TASKS, "nogdrive": {"os": ["cccc-3"]}} | lists
    for name, content in lists.items():
        (root / f"test_{name}.json").write_text(json.dumps(content))
    return folder / "clone"


def rewrite(clone, name: str, task) -> None:
    path = clone / "evaluation_examples" / "examples" / f"{name}.json"
    path.write_text(json.dumps(task))
