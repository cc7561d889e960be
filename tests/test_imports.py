"""Who imports whom: the order that ARCHITECTURE.md states, and what pyproject.toml declares."""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from collections.abc import Iterator
from importlib.metadata import packages_distributions
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parent.parent
LIBRARY = ROOT / "platform" / "heliograph"


def imports(file: Path) -> Iterator[str]:
    """Yield the dotted names that a file imports, also inside functions."""
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def stated_order() -> list[str]:
    """Return the modules of the library as ARCHITECTURE.md lists them."""
    text = (ROOT / "ARCHITECTURE.md").read_text()
    block = text.partition("imports only stages before it")[2].split("```")[1]
    return [re.sub(r"/\*?$", "", name.strip()) for name in re.split("─►|,", block)]


def imported_by(name: str) -> set[str]:
    """Return the modules at the top of the library that a module or package there imports."""
    files = [LIBRARY / f"{name}.py", *(LIBRARY / name).rglob("*.py")]
    found = {imported for file in files if file.is_file() for imported in imports(file)}
    return {path.split(".")[1] for path in found if path.startswith("heliograph.")} - {name}


def reaches(name: str, listed: list[str]) -> set[str]:
    """Return the listed modules that a module imports, itself or through some that are not."""
    reached: set[str] = set()
    waiting = imported_by(name)
    while new := waiting - reached:
        reached |= new
        waiting = set().union(*(imported_by(one) for one in new if one not in listed))
    return reached & set(listed)


def test_a_module_imports_only_those_before_it() -> None:
    order = stated_order()
    assert len(set(order)) == len(order) > 30
    later = [
        f"{name} imports {imported}, which ARCHITECTURE.md lists behind it"
        for place, name in enumerate(order)
        for imported in sorted(reaches(name, order) - set(order[:place]))
    ]
    assert later == []


def test_what_is_listed_is_there() -> None:
    missing = [
        name
        for name in stated_order()
        if not ((LIBRARY / f"{name}.py").is_file() or (LIBRARY / name).is_dir())
    ]
    assert missing == []


def test_every_package_that_is_imported_is_declared() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = (project["optional-dependencies"][extra] for extra in ("cpu", "gpu", "mlflow"))
    stated = [*project["dependencies"], *(pin for pins in extras for pin in pins)]
    declared = {canonicalize_name(Requirement(pin).name) for pin in stated}
    providers = packages_distributions()
    undeclared = {
        f"{top} in {file.relative_to(ROOT)}"
        for source in ("platform", "serve_apps", "tune")
        for file in (ROOT / source).rglob("*.py")
        for top in {imported.partition(".")[0] for imported in imports(file)}
        if top not in sys.stdlib_module_names and not top.startswith("heliograph")
        if declared.isdisjoint(map(canonicalize_name, providers.get(top, [])))
    }
    assert undeclared == set()
