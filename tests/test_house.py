"""The rules of the house: small files, quiet imports, help that answers at once, and a README that says what is true."""

import ast
import os
import re
import resource
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
SCRIPTS = ("envs", "rewards", "agent", "eval", "train")  # each stands only on those before it
CORE_LINES, ALL_LINES, MAX_FUNCTION = 3200, 4730, 60
# Read when needed: loaders, official rules, tools of other benchmarks, the evidence. All else is the path that explains the method.
ADAPTERS = {"envs": ("Recorded data sets", "The toolbox"), "eval": ("Recorded benchmarks", "Tool use", "Ablations")}


@cache
def source(name: str) -> str:
    return (ROOT / f"{name}.py").read_text()


def nodes(name: str, kind):
    return [n for n in ast.walk(ast.parse(source(name))) if isinstance(n, kind)]


@cache
def readme() -> str:
    return (ROOT / "README.md").read_text()


@cache
def help_of(script: str) -> tuple[str, float]:
    """What `python SCRIPT --help` prints, and the processor seconds that it took (a wall clock would measure the neighbours)."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run([sys.executable, ROOT / script, "--help"], capture_output=True, text=True, timeout=60, check=False)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert done.returncode == 0, done.stderr[-500:]
    return done.stdout, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


# ---- sources ------------------------------------------------------------------------------------------------------------------


def test_line_counts(capsys):
    """The house's ceiling of about 3,200 lines holds for the path that explains the method; with all adapters the scripts are longer."""
    counts, adapters = {name: source(name).count("\n") for name in SCRIPTS}, 0
    for name, titles in ADAPTERS.items():
        sections = re.split(r"^# -{100,}\n(?=# .*\n# -{100,}\n)", source(name), flags=re.M)
        found = [part.count("\n") for part in sections if part.startswith(tuple(f"# {title}" for title in titles))]
        assert len(found) == len(titles)
        adapters += sum(found)
    together = sum(counts.values())
    with capsys.disabled():
        print("\nlines: " + ", ".join(f"{name}.py {n}" for name, n in counts.items()) + f"; together {together} of {ALL_LINES}, "
              f"of which adapters {adapters}, core path {together - adapters} of {CORE_LINES}")
    assert together - adapters <= CORE_LINES and together <= ALL_LINES


@pytest.mark.parametrize("name", SCRIPTS)
def test_functions_fit_a_screen(name):
    lengths = {f"{n.name} (line {n.lineno})": n.end_lineno - n.lineno + 1 for n in nodes(name, (ast.FunctionDef, ast.AsyncFunctionDef))}
    assert {f: n for f, n in lengths.items() if n > MAX_FUNCTION} == {}


def test_files_do_not_shadow_the_standard_library():
    names = {p.stem for p in [*ROOT.glob("*.py"), *ROOT.glob("tests/*.py")]}
    assert not names & set(sys.stdlib_module_names)
    imported = {alias.name for p in ROOT.glob("*.py") for n in nodes(p.stem, ast.Import) for alias in n.names}
    assert "eval" not in imported  # `import eval` would hide the builtin: `from eval import ...`


def test_nothing_else_stands_at_the_top():
    allowed = {*(f"{name}.py" for name in SCRIPTS), "README.md", "LICENSE", "requirements.txt", "tests", "docs", "runs", "__pycache__"}
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False).stdout.split("\n")
    assert not {path.split("/")[0] for path in listed if path and not path.startswith(".")} - allowed
    assert {p.stem for p in ROOT.glob("*.py")} == set(SCRIPTS)


@pytest.mark.parametrize("name", SCRIPTS)
def test_each_script_stands_on_those_before_it(name):
    """At the top of the file: a picture that main() draws may use a later one."""
    top = [n for n in ast.parse(source(name)).body if isinstance(n, (ast.Import, ast.ImportFrom))]
    used = {n.module if isinstance(n, ast.ImportFrom) else alias.name for n in top for alias in n.names} & set(SCRIPTS)
    assert used <= set(SCRIPTS[: SCRIPTS.index(name)])


@pytest.mark.parametrize("name", SCRIPTS)
def test_no_bare_except_and_no_executed_text(name):
    assert all(n.type is not None for n in nodes(name, ast.ExceptHandler))
    called = {n.func.id for n in nodes(name, ast.Call) if isinstance(n.func, ast.Name)}
    assert not called & {"eval", "exec", "compile", "__import__"}


# ---- importing and asking for help ------------------------------------------------------------------------------------------------


def test_importing_does_nothing(tmp_path):
    """No file, no output, no connection, no GPU, no process."""
    script = f"""
import socket, subprocess, sys
def refuse(*_, **__): raise SystemExit("not at import")
socket.socket.connect = subprocess.Popen.__init__ = refuse
sys.path.insert(0, {str(ROOT)!r})
import {", ".join(SCRIPTS)}
import torch
assert not torch.cuda.is_initialized()
"""
    home = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), "PYTHONDONTWRITEBYTECODE": "1", "OMP_NUM_THREADS": "1"}
    before = sorted(p.name for p in ROOT.iterdir())
    done = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, env=home, capture_output=True, text=True, timeout=120, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert not list(tmp_path.iterdir()) and sorted(p.name for p in ROOT.iterdir()) == before


@pytest.mark.parametrize("name", SCRIPTS)
def test_help_answers_at_once(name):
    text, seconds = help_of(f"{name}.py")
    assert text.startswith("usage: ") if "argparse" in source(name) else text
    assert seconds < 5


# ---- README -------------------------------------------------------------------------------------------------------------------


def departures() -> set[str]:
    """Where each DEPARTURE stands in the sources: `script.function`, or `--flag` for a field of the config."""
    found = set()
    for script in SCRIPTS:
        holders = nodes(script, (ast.FunctionDef, ast.ClassDef, ast.AnnAssign))
        for number, line in enumerate(source(script).split("\n"), 1):
            if re.search(r"\bDEPARTURE\b", line):
                inner = max((n for n in holders if n.lineno <= number <= n.end_lineno), key=lambda n: n.lineno, default=None)
                is_field = isinstance(inner, ast.AnnAssign)
                found.add(f"--{ast.unparse(inner.target)}" if is_field else f"{script}.{inner.name if inner else ''}")
    return found


def commands() -> list[tuple[str, list[str]]]:
    """(script, flags) of each `python SCRIPT ...` in the README, in code blocks and in running text."""
    text = readme().replace("\\\n", " ")
    text = re.sub(r'"[^"\n]*"', "", text)  # flags that are handed on in quotes
    return [(script, re.findall(r"(?<=\s)--[\w-]+", rest)) for script, rest in re.findall(r"\bpython3? (\S+\.py)\b([^#&|;`\n]*)", text)]


def test_there_is_something_to_check():
    assert len(departures()) >= 5 and {"rewards.similarity", "--carry_forecast"} <= departures()


def test_readme_lists_the_departures_of_the_sources():
    """The table of the section that speaks of them holds each place in its first column, and no other."""
    section = next(part for part in re.split(r"^#+ ", readme(), flags=re.M) if "`DEPARTURE`" in part)
    listed = {name for row in re.findall(r"^\|([^|]+)\|", section, re.M) for name in re.findall(r"`([^`]+)`", row)}
    assert listed == departures()


def test_readme_commands_exist_as_written():
    assert {"train.py", "eval.py", "agent.py"} <= {script for script, _ in commands()}
    for script, flags in commands():
        assert (ROOT / script).exists(), script
        known = set(re.findall(r"--[\w-]+", help_of(script)[0])) if flags else set()
        assert set(flags) <= known, (script, sorted(set(flags) - known))


@pytest.mark.parametrize("argv", [["envs.py", "--picture"], ["envs.py", "--env", "toy-tools", "--split", "flaky", "--scale", "1", "--picture"]])
def test_the_worlds_show_themselves(argv, tmp_path):
    done = subprocess.run([sys.executable, ROOT / argv[0], *argv[1:], tmp_path / "strip.png"], capture_output=True, text=True, check=False)
    assert (done.returncode, "solved: True" in done.stdout) == (0, True), done.stderr[-500:]
    assert (tmp_path / "strip.png").stat().st_size > 10_000
