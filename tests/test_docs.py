"""README.md and the pages in docs/ say what is true: commands, links, names and departures."""

import ast
import re
import subprocess
import sys
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
SOURCES = [*ROOT.glob("*.py"), *ROOT.glob("extras/*.py"), *ROOT.glob("benchmarks/*.py")]
# Modules that `python -m` may run and that are no files of ours.
NOT_OURS = ("venv", "pytest", "grpc_tools.protoc")
MODULE = r"(?:rewards|envs|agent|train|eval|extras\.\w+|benchmarks\.\w+)"


def page_name(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


every_page = pytest.mark.parametrize("page", PAGES, ids=page_name)


def module_of(source: Path) -> str:
    """extras/toy_tools.py -> extras.toy_tools"""
    return ".".join(source.relative_to(ROOT).with_suffix("").parts)


@cache
def tree(source: Path) -> ast.Module:
    return ast.parse(source.read_text())


@cache
def code_spans(page: Path) -> list[str]:
    """What stands between backticks in running text, code blocks left out."""
    blocks_out = re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.M | re.S)
    return re.findall(r"`([^`\n]+)`", blocks_out)


# ---- commands -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Command:
    program: str  # "train.py" or "extras.play"
    rest: str  # all that follows it

    @property
    def flags(self) -> set[str]:
        return set(re.findall(r"(?<=\s)--[\w-]+", self.rest))

    @property
    def file(self) -> Path:
        if self.program.endswith(".py"):
            return ROOT / self.program
        return ROOT / f"{self.program.replace('.', '/')}.py"


@cache
def commands(page: Path) -> list[Command]:
    """Each `python SCRIPT`, `python -m MODULE` and `torchrun ... SCRIPT`, in text as in blocks."""
    text = page.read_text().replace("\\\n", " ")
    text = re.sub(r'"[^"\n]*"', "", text)  # flags that are handed on in quotes
    scripts = re.findall(r"\bpython3? (\S+\.py)\b([^#&|;`\n]*)", text)
    modules = re.findall(r"\bpython3? -m ([\w.]+)([^#&|;`\n]*)", text)
    several = re.findall(r"\btorchrun [^`\n]*?(\w+\.py)\b([^#&|;`\n]*)", text)
    return [Command(program, rest) for program, rest in [*scripts, *modules, *several]]


@cache
def known_flags(program: str) -> set[str]:
    """The flags in what `--help` prints; each program is asked once."""
    how = [program] if program.endswith(".py") else ["-m", program]
    done = subprocess.run(
        [sys.executable, *how, "--help"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-500:]
    return set(re.findall(r"--[\w-]+", done.stdout))


def test_there_are_commands_to_check():
    readme = {command.program for command in commands(ROOT / "README.md")}
    assert {"train.py", "rewards.py", "extras.ablation", "pytest"} <= readme
    everywhere = {command.program for page in PAGES for command in commands(page)}
    assert {"eval.py", "extras.play", "extras.speed", "extras.gpu_check"} <= everywhere


@every_page
def test_commands_exist_as_written(page):
    for command in commands(page):
        if command.program in NOT_OURS:
            continue
        assert command.file.exists(), command.program
        if command.flags:
            unknown = command.flags - known_flags(command.program)
            assert not unknown, (command.program, sorted(unknown))


@every_page
def test_commands_for_pytest_find_their_tests(page):
    """A path is there, and the word after -k is part of the name of a test in it."""
    for command in commands(page):
        if command.program != "pytest":
            continue
        paths = re.findall(r"\btests\S*", command.rest)
        assert paths, command.rest
        for path in paths:
            assert (ROOT / path).exists(), path
        for word in re.findall(r"-k (\w+)", command.rest):
            names = re.findall(r"^def (test_\w+)", (ROOT / paths[0]).read_text(), re.M)
            assert any(word in name for name in names), command.rest


def test_flags_in_the_text_are_known():
    """`--flag` between backticks is a flag of some script."""
    known = set()
    for program in sorted({c.program for page in PAGES for c in commands(page) if c.flags}):
        if program not in NOT_OURS:
            known |= known_flags(program)
    for page in PAGES:
        for span in code_spans(page):
            flag = re.match(r"--\w+", span)
            if flag is not None and span != "--help":
                assert flag.group() in known or span == "--name", (page_name(page), span)


# ---- links and names ----------------------------------------------------------------------------


def anchors(page: Path) -> set[str]:
    """The names under which a page's headings can be linked to, as GitHub makes them."""
    found = set()
    for heading in re.findall(r"^#+ (.*)$", page.read_text(), re.M):
        words = re.sub(r"[^\w\- ]", "", heading.lower())
        found.add(words.strip().replace(" ", "-"))
    return found


@every_page
def test_links_and_pictures_exist(page):
    for link in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        if link.startswith(("https://", "http://")):
            continue
        path, _, anchor = link.partition("#")
        target = page.parent / path if path else page
        assert target.exists(), link
        if anchor:
            assert anchor in anchors(target), link


def test_the_readme_leads_to_every_page():
    readme = (ROOT / "README.md").read_text()
    for page in PAGES[1:]:
        assert f"]({page_name(page)})" in readme, page_name(page)


@cache
def defined_names(source: Path) -> set[str]:
    """Functions, methods, classes and constants of a file."""
    names = set()
    for node in ast.walk(tree(source)):
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            names |= {target.id for target in targets if isinstance(target, ast.Name)}
    return names


@every_page
def test_names_in_the_text_exist(page):
    """`module.name` and `extras/file.py` between backticks are there."""
    for span in code_spans(page):
        path = re.fullmatch(r"(?:extras|benchmarks)/\w+\.py", span)
        if path is not None:
            assert (ROOT / span).exists(), span
        name = re.match(rf"({MODULE})\.(\w+)", span)
        if name is not None and not span.startswith(f"{name.group(1)}.py"):
            source = ROOT / f"{name.group(1).replace('.', '/')}.py"
            assert source.exists(), span
            assert name.group(2) in defined_names(source), span


def test_the_spine_of_the_reading_path_exists():
    """Each row of the README's table: a script, and functions of that script."""
    readme = (ROOT / "README.md").read_text()
    section = readme.split("## Reading path")[1].split("\n## ")[0]
    rows = re.findall(r"^\| `(\w+\.py)` \|[^|]*\|([^|]*)\|", section, re.M)
    scripts = [script for script, _ in rows]
    assert scripts == ["rewards.py", "envs.py", "agent.py", "train.py", "eval.py"]
    for script, functions in rows:
        assert set(re.findall(r"`(\w+)`", functions)) <= defined_names(ROOT / script), script


def test_the_shortest_benchmark_is_quoted_whole():
    """docs/data.md shows tests/own_benchmark.py, the file that the tests run, as it is."""
    text = (ROOT / "tests" / "own_benchmark.py").read_text()
    assert f"```python\n{text}```\n" in (ROOT / "docs" / "data.md").read_text()


# ---- departures from the paper ------------------------------------------------------------------


def innermost(source: Path, line: int) -> ast.AST | None:
    """The function, class or annotated field of a file that a line stands in."""
    around = []
    for node in ast.walk(tree(source)):
        may_hold = isinstance(node, ast.FunctionDef | ast.ClassDef | ast.AnnAssign)
        if may_hold and node.lineno <= line <= node.end_lineno:
            around.append(node)
    return max(around, key=lambda node: node.lineno, default=None)


def departures() -> set[str]:
    """Where each DEPARTURE stands: `module.function`, or `--flag` for a field of the config."""
    found = set()
    for source in SOURCES:
        for number, line in enumerate(source.read_text().split("\n"), 1):
            if not re.search(r"\bDEPARTURE\b", line):
                continue
            holder = innermost(source, number)
            if holder is None:
                found.add(module_of(source))
            elif isinstance(holder, ast.AnnAssign):
                found.add(f"--{ast.unparse(holder.target)}")
            else:
                found.add(f"{module_of(source)}.{holder.name}")
    return found


def test_there_are_departures_to_check():
    assert len(departures()) >= 5
    assert {"rewards.similarity", "--carry_forecast"} <= departures()


def test_the_table_lists_the_departures_of_the_sources():
    """The first column of docs/departures.md holds each place, and no other."""
    table = re.findall(r"^\|([^|]+)\|", (ROOT / "docs" / "departures.md").read_text(), re.M)
    listed = {name for cell in table for name in re.findall(r"`([^`]+)`", cell)}
    assert listed == departures()
