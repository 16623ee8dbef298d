"""The rules of the house: imports that point downwards, files that do nothing when imported, and
examples in docstrings that run. What README and docs promise is tested in test_docs.py."""

import ast
import doctest
import importlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
SCRIPTS = ("envs", "rewards", "agent", "eval", "train")  # each stands only on those before it
FOLDERS = ("extras", "benchmarks")


def module_name(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts)


FILES = {module_name(path): path for path in sorted(ROOT.glob("*.py"))}
for folder in FOLDERS:
    FILES |= {module_name(path): path for path in sorted((ROOT / folder).glob("*.py"))}


def tree(name: str) -> ast.Module:
    return ast.parse(FILES[name].read_text())


def imported(name: str) -> set[str]:
    """The files of this project that a file imports anywhere, in functions too."""
    asked = set()
    for node in ast.walk(tree(name)):
        if isinstance(node, ast.Import):
            asked |= {alias.name for alias in node.names}
        if isinstance(node, ast.ImportFrom):
            asked.add(node.module)
            asked |= {f"{node.module}.{alias.name}" for alias in node.names}
    return asked & set(FILES)


def reached(name: str) -> set[str]:
    """All that a file stands on."""
    seen = set()
    waiting = [name]
    while waiting:
        for other in imported(waiting.pop()) - seen:
            seen.add(other)
            waiting.append(other)
    return seen


# ---- where things stand -------------------------------------------------------------------------


def test_nothing_else_stands_at_the_top():
    allowed = {f"{name}.py" for name in SCRIPTS}
    allowed |= {"README.md", "LICENSE", "requirements.txt"}
    allowed |= {"tests", "docs", *FOLDERS}
    command = ["git", "ls-files"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False).stdout
    top = {path.split("/")[0] for path in listed.splitlines()}
    assert {name for name in top if not name.startswith(".")} <= allowed
    assert {path.stem for path in ROOT.glob("*.py")} == set(SCRIPTS)


def test_files_do_not_shadow_the_standard_library():
    names = {path.stem for path in [*FILES.values(), *ROOT.glob("tests/*.py")]}
    assert not names & set(sys.stdlib_module_names)


@pytest.mark.parametrize("name", FILES)
def test_eval_is_never_imported_whole(name):
    """`import eval` would hide the builtin: `from eval import ...`."""
    for node in ast.walk(tree(name)):
        if isinstance(node, ast.Import):
            assert "eval" not in {alias.name for alias in node.names}


@pytest.mark.parametrize("name", [name for name in FILES if "." in name])
def test_each_room_says_what_it_is(name):
    """In at least three lines: what it is, who calls it, what it does not do."""
    assert len(ast.get_docstring(tree(name)).splitlines()) >= 3


# ---- imports point downwards --------------------------------------------------------------------


@pytest.mark.parametrize("name", FILES)
def test_no_file_stands_on_itself(name):
    assert name not in reached(name)


@pytest.mark.parametrize("name", SCRIPTS)
def test_each_script_stands_on_those_before_it(name):
    assert imported(name) & set(SCRIPTS) <= set(SCRIPTS[: SCRIPTS.index(name)])


@pytest.mark.parametrize("name", ["envs", "rewards", "agent"])
def test_the_method_can_be_read_without_its_extras(name):
    assert reached(name) <= set(SCRIPTS)


# ---- what a file may not do ---------------------------------------------------------------------


@pytest.mark.parametrize("name", FILES)
def test_no_bare_except_and_no_executed_text(name):
    called = set()
    for node in ast.walk(tree(name)):
        if isinstance(node, ast.ExceptHandler):
            assert node.type is not None
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            called.add(node.func.id)
    assert not called & {"eval", "exec", "compile", "__import__"}


def test_importing_does_nothing(tmp_path):
    """No file, no output, no connection, no GPU, no process."""
    script = f"""
import socket, subprocess, sys
def refuse(*_, **__): raise SystemExit("not at import")
socket.socket.connect = subprocess.Popen.__init__ = refuse
sys.path.insert(0, {str(ROOT)!r})
import {", ".join(FILES)}
import torch
assert not torch.cuda.is_initialized()
"""
    home = {
        "PATH": os.environ["PATH"],
        "HOME": str(tmp_path),
        "PYTHONDONTWRITEBYTECODE": "1",
        "OMP_NUM_THREADS": "1",
    }
    before = sorted(path.name for path in ROOT.iterdir())
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=tmp_path,
        env=home,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert not list(tmp_path.iterdir())
    assert sorted(path.name for path in ROOT.iterdir()) == before


# ---- examples in docstrings ---------------------------------------------------------------------


@pytest.mark.parametrize("name", [name for name in FILES if ">>>" in FILES[name].read_text()])
def test_doctests(name):
    result = doctest.testmod(importlib.import_module(name))
    assert result.attempted > 0
    assert result.failed == 0
