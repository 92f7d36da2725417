"""The rules of the house that no linter knows."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer
from typer.core import TyperGroup

from dialer_engine.cli.application import app
from dialer_engine.core import call
from dialer_engine.daemon import Exit

COMMANDS = typer.main.get_group(app)
COMMAND_NAMED = re.compile(r"(?:^|[`(;&]|bin/) *dialer-engine ([a-z][a-z-]*)(?: ([a-z][a-z-]*))?", re.MULTILINE)
ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "dialer_engine"
MODULES = sorted(PACKAGE.rglob("*.py"))
CORE = sorted((PACKAGE / "core").rglob("*.py"))

LONGEST_MODULE = 600
LONGEST_FUNCTION = 60
MOST_BROAD_EXCEPTS = 3  # the boundaries of an attempt, a root task, a request

CLOCKS = {"now", "utcnow", "today", "time", "monotonic", "perf_counter"}
BANNED_MODULE_NAMES = {"utils", "util", "helpers", "common", "managers", "misc"}
BANNED_WORDS = re.compile(r"\b(hopper|nuisance|dial attempt)\b", re.IGNORECASE)  # what other dialers say


def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


def named(paths: list[Path]) -> list[object]:
    return [pytest.param(path, id=str(path.relative_to(PACKAGE))) for path in paths]


@pytest.mark.parametrize("path", named(CORE))
def test_the_core_neither_waits_nor_looks_at_a_clock(path: Path) -> None:
    for node in ast.walk(tree(path)):
        place = f"{path}:{getattr(node, 'lineno', 0)}"
        assert not isinstance(node, ast.Await | ast.AsyncFunctionDef | ast.AsyncFor | ast.AsyncWith), place
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            called_on = ast.unparse(node.func.value)
            assert not (node.func.attr in CLOCKS and called_on in {"datetime", "date", "time"}), place


@pytest.mark.parametrize("path", named(MODULES))
def test_a_module_has_an_idea_and_stays_small(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert ast.get_docstring(ast.parse(text)), "the module does not say what it is for"
    assert text.count("\n") <= LONGEST_MODULE
    assert path.stem not in BANNED_MODULE_NAMES
    for function in functions(ast.parse(text)):
        length = (function.end_lineno or 0) - function.lineno + 1
        assert length <= LONGEST_FUNCTION, f"{function.name} has {length} lines"


def functions(module: ast.Module) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    return (node for node in ast.walk(module) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))


def test_hardly_anything_is_caught_broadly() -> None:
    broad = [
        f"{path.relative_to(PACKAGE)}:{node.lineno}"
        for path in MODULES
        for node in ast.walk(tree(path))
        if isinstance(node, ast.ExceptHandler)
        and (node.type is None or ast.unparse(node.type) in {"Exception", "BaseException"})
        and not isinstance(node.body[-1], ast.Raise)
    ]
    assert len(broad) <= MOST_BROAD_EXCEPTS, broad


@pytest.mark.parametrize("path", named(MODULES))
def test_one_word_per_thing(path: Path) -> None:
    found = BANNED_WORDS.search(path.read_text(encoding="utf-8"))
    assert found is None, f"{path}: {found and found.group()}"


def test_the_readme_shows_the_chart_of_the_code() -> None:
    _, _, rest = (ROOT / "README.md").read_text(encoding="utf-8").partition("<!-- call-chart -->\n")
    chart, end, _ = rest.partition("<!-- /call-chart -->")
    assert end
    assert chart.strip() == f"```mermaid\n{call.render_chart().strip()}\n```"


DOCUMENTS = [ROOT / "README.md", ROOT / "CHANGELOG.md"]
DOCUMENTS += [
    one for place in ("docs", "config", "systemd") for one in (ROOT / place).rglob("*") if one.is_file()
]


@pytest.mark.parametrize("path", [pytest.param(path, id=str(path.relative_to(ROOT))) for path in DOCUMENTS])
def test_every_command_that_a_document_names_is_there(path: Path) -> None:
    for name, below in COMMAND_NAMED.findall(path.read_text(encoding="utf-8")):
        command = COMMANDS.commands.get(name)
        assert command is not None, f"dialer-engine {name}"
        if isinstance(command, TyperGroup) and below:
            assert below in command.commands, f"dialer-engine {name} {below}"


def test_the_unit_does_not_restart_what_a_restart_cannot_mend() -> None:
    unit = (ROOT / "systemd/dialer-engine.service").read_text(encoding="utf-8")
    (line,) = re.findall(r"^RestartPreventExitStatus=(.*)$", unit, re.MULTILINE)
    assert {int(code) for code in line.split()} == {Exit.CONFIG, Exit.REPLACED}


def test_locks_name_hashes_and_no_index() -> None:
    for lock in ("requirements.lock", "requirements-dev.lock"):
        text = (ROOT / lock).read_text(encoding="utf-8")
        assert "://" not in text
        assert text.count("--hash=sha256:") >= len(re.findall(r"^[a-z0-9].*==", text, re.MULTILINE))
