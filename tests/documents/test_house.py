"""The house rules that a tool can see: rooms, sizes, names, what the project says of itself."""

from __future__ import annotations

import ast
import importlib
import inspect
import pkgutil
import re
import subprocess
import textwrap
from collections.abc import Callable, Iterator

import ffcompletion
from tests import ROOT

IMPORTED_FROM = (
    "ffcompletion",
    "ffcompletion.backends.memory",
    "ffcompletion.backends.postgres",
    "ffcompletion.backends.valkey",
    "ffcompletion.embedded",
    "ffcompletion.otel",
    "ffcompletion.sync",
    "ffcompletion.testing",
    "ffcompletion.web",
)
MODULES = sorted(
    name
    for _, name, _ in pkgutil.walk_packages(ffcompletion.__path__, "ffcompletion.")
    if not name.endswith("__main__")
)


def test_every_public_module_has_a_right_all() -> None:
    """Sorted, complete, and everything in it exists and has a docstring."""
    assert len(MODULES) >= 150
    for name in MODULES:
        module = importlib.import_module(name)
        assert module.__doc__, f"{name}: a module says what lives there"
        names = getattr(module, "__all__", None)
        if names is None:
            assert module.__file__ is not None
            assert module.__file__.endswith("__init__.py"), name
            continue
        constants_first = sorted(names, key=lambda n: (not n.isupper(), not n[0].isupper(), n))
        assert list(names) in (constants_first, sorted(names)), name
        for item in names:
            thing = getattr(module, item)
            if isinstance(thing, type) and thing.__module__ == name:
                assert thing.__doc__, f"{name}.{item} has no docstring"


def test_no_module_outgrows_its_room() -> None:
    """About 300 lines, no assert at run time, no blanket ignore."""
    paths = sorted((ROOT / "ffcompletion").rglob("*.py"))
    assert len(paths) >= 150
    for path in paths:
        text = path.read_text(encoding="utf-8")
        assert len(text.splitlines()) <= 320, path
        if "testing" not in path.parts:
            assert not [node.lineno for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Assert)], path
        assert not re.search(r"(type|pyright): ignore(?!\[)", text), path


_DECIDES = (
    ast.If, ast.IfExp, ast.BoolOp, ast.For, ast.AsyncFor, ast.While, ast.Try, ast.comprehension, ast.match_case,
)  # fmt: skip


def test_a_module_s_tests_bear_its_name() -> None:
    """Of each that decides ten times or more; but for the kit's checks: a broken backend of the gallery fails each."""
    package, tests = ROOT / "ffcompletion", ROOT / "tests"
    named = {(path.parent.name, path.stem) for path in tests.rglob("test_*.py")}
    checks = package / "testing"
    missing: list[str] = []
    for path in sorted(package.rglob("*.py")):
        decisions = sum(isinstance(node, _DECIDES) for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))))
        name = path.parent.name if path.stem == "__init__" else path.stem
        folders = {folder for folder, stem in named if stem == f"test_{name}"}
        there = bool(folders) if path.parent == package else path.parent.name in folders
        if decisions >= 10 and not there and path.parent != checks:
            missing.append(str(path.relative_to(package)))
    assert not missing


def test_what_a_type_checker_is_told_to_overlook_has_a_reason() -> None:
    """In tests, examples and documents a code and why; and no cast, which a user would have to write as well."""
    shown = [*(ROOT / "examples").rglob("*.py"), *(ROOT / "docs").rglob("*.md"), ROOT / "README.md"]
    for path in [*(ROOT / "tests").rglob("*.py"), *shown]:
        for line in path.read_text(encoding="utf-8").splitlines():
            if re.search(r"#\s*(type|pyright): ignore", line):
                assert re.search(r"#\s*(type|pyright): ignore\[[^]]+\]\s+# \S", line), f"{path}: {line}"
            assert not re.search(r"\bcast\(", line) or path.name == "test_house.py", f"{path}: {line}"


def test_public_methods_are_documented() -> None:
    """Whatever `import ffcompletion` offers explains itself."""
    for name in ffcompletion.__all__:
        thing = getattr(ffcompletion, name)
        if isinstance(thing, type):
            for member, value in vars(thing).items():
                if not member.startswith("_") and callable(value):
                    assert value.__doc__, f"{name}.{member}"


def _public_callables() -> Iterator[tuple[str, Callable[..., object], str]]:
    """Functions, and methods with what their class says of itself, of every module that users import from."""
    for module in map(importlib.import_module, IMPORTED_FROM):
        for name in module.__all__:
            thing = getattr(module, name)
            if inspect.isfunction(thing):
                yield f"{module.__name__}.{name}", thing, ""
            elif inspect.isclass(thing):
                for member, value in vars(thing).items():
                    function = getattr(value, "__func__", value)
                    ours = inspect.isfunction(function) and function.__module__.startswith("ffcompletion")
                    if ours and member in ("__init__", "__post_init__"):
                        yield f"{module.__name__}.{name}.{member}", function, thing.__doc__ or ""
                    elif ours and not member.startswith("_"):
                        yield f"{module.__name__}.{name}.{member}", function, ""


def test_what_raises_says_so() -> None:
    """A public callable with a ``raise`` of its own tells of it."""
    silent: list[str] = []
    for name, function, of_its_class in _public_callables():
        tree = ast.parse(textwrap.dedent(inspect.getsource(function)))
        raised = {
            ast.unparse(node.exc).partition("(")[0]
            for node in ast.walk(tree)
            if isinstance(node, ast.Raise) and node.exc
        }
        # The end of an iteration is none, and a variable holds what another has raised.
        raised = {each for each in raised if each[0].isupper() and not each.startswith("Stop")}
        told = f"{function.__doc__} {of_its_class}".lower()
        if raised and not re.search("raise|errors of", told):
            silent.append(f"{name}: {raised}")
    assert not silent


def test_nothing_names_a_particular_machine() -> None:
    """No path of anybody's home or work folder in any tracked file."""
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False).stdout.split()
    pattern = re.compile(r"/(root|home|Users|work)/\w")
    for name in tracked:
        if (ROOT / name).exists() and not name.endswith("test_house.py"):
            assert not pattern.search((ROOT / name).read_text(encoding="utf-8", errors="replace")), name


def test_rooms_are_where_the_architecture_says() -> None:
    """Both adapters have those of the same job under the same names, and all that the page names are there."""
    page = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    both = re.search(r"Both adapters have the same rooms[^:]*:(.*?)What only one", page, re.DOTALL)
    assert both is not None
    names = re.findall(r"`(\w+)`", both[1])
    assert len(names) >= 15
    for name in names:
        for adapter in ("valkey", "postgres"):
            assert f"ffcompletion.backends.{adapter}.{name}" in MODULES, (adapter, name)
    ways = page[page.index("## An announcement's way") : page.index("## What is held")]
    for adapter, way in zip(("valkey", "postgres"), ways.split("On Postgres"), strict=True):
        for name in re.findall(r"`([a-z]+)`", way):
            assert f"ffcompletion.backends.{adapter}.{name}" in MODULES, (adapter, name)
    for room in re.findall(r"`((?:backends|delivery|foreign|consumers)/[\w/*]+)`", page):
        paths = [*(ROOT / "ffcompletion").glob(f"{room}.py"), *(ROOT / "ffcompletion").glob(room)]
        assert paths, room
