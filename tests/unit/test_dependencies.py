"""What is imported is declared, and nothing else: a driver brings what its companion needs."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator, Mapping
from functools import cache
from importlib.metadata import PackageNotFoundError, packages_distributions, requires
from pathlib import Path

ROOT = Path(__file__).parents[2]
OURS = {"phoebe_spark", "phoebe_training"}
OPTIONAL = {"pyspark", "delta-spark", "pulp"}
"""Imported where they are needed, and brought by an extra or by the platform."""


def imports(tree: ast.AST) -> Iterator[str]:
    """The top packages that are imported, wherever it is."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            yield node.module.partition(".")[0]


def at_import(path: Path) -> ast.Module:
    """What runs when the module is imported: neither bodies of functions nor for type checkers."""
    tree = ast.parse(path.read_text())
    kept = [
        node
        for node in tree.body
        if not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef))
        and not (isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING")
    ]
    return ast.Module(kept, [])


def imported(folder: str) -> set[str]:
    """The distributions whose packages are imported under ``folder``."""
    trees = (ast.parse(path.read_text()) for path in (ROOT / folder).rglob("*.py"))
    return distributions({name for tree in trees for name in imports(tree)})


@cache
def _distributions() -> Mapping[str, list[str]]:
    return packages_distributions()  # opens the metadata of all that is installed


def distributions(names: set[str]) -> set[str]:
    known = _distributions()
    outside = names - OURS - set(sys.stdlib_module_names)
    # Of two that bring a package, one brings the other and has the plain name.
    return {min(known[name], key=len).lower().replace("_", "-") for name in outside}


def project() -> dict[str, set[str]]:
    """Names of the declared distributions: of the runtime ("") and of each extra."""
    told = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    lists = {"": told["dependencies"], **told["optional-dependencies"]}
    return {extra: {named(text) for text in texts} for extra, texts in lists.items()}


def named(requirement: str) -> str:
    return re.split(r"[^A-Za-z0-9._-]", requirement, maxsplit=1)[0].lower().replace("_", "-")


def test_the_runtime_declares_what_it_imports_and_nothing_else() -> None:
    assert imported("phoebe_spark") - OPTIONAL == project()[""]


def test_what_is_optional_is_in_an_extra_and_imported_late() -> None:
    declared = project()
    assert declared["spark"] | declared["exact"] == OPTIONAL
    for path in (ROOT / "phoebe_spark").rglob("*.py"):
        early = distributions(set(imports(at_import(path))))
        assert not early & OPTIONAL, path


def test_training_declares_what_it_imports_and_nothing_else() -> None:
    declared = project()
    mine = imported("training") - declared[""] - {"pyspark"}  # with delta-spark, or the platform's
    assert mine == declared["train"]


def closure(names: set[str]) -> set[str]:
    found: set[str] = set()
    ahead = list(names)
    while ahead:
        name = ahead.pop()
        if name in found:
            continue
        try:
            needs = requires(name) or []
        except PackageNotFoundError:
            continue  # for another platform or Python
        found.add(name)
        ahead += [named(need) for need in needs if "extra ==" not in need]
    return found


COMPANION = """
import importlib, pkgutil, sys
import numpy as np

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name in {absent!r}:
            raise ModuleNotFoundError(name + " is not declared", name=name)

sys.meta_path.insert(0, Absent())
import phoebe_spark
for module in pkgutil.walk_packages(phoebe_spark.__path__, "phoebe_spark."):
    if not module.name.endswith("__main__"):
        importlib.import_module(module.name)

import lightgbm
from phoebe_spark.predict.heads import HeadModel
rows = [{{"a": float(n)}} for n in range(60)]
data = lightgbm.Dataset(np.arange(60.0).reshape(-1, 1), np.arange(60.0), feature_name=["a"])
booster = lightgbm.train({{"verbosity": -1, "num_threads": 1}}, data, 3)
text = lightgbm.Booster(model_str=booster.model_to_string())
assert len(HeadModel(("a",), text, 1.0).residuals(rows)) == 60

from datetime import datetime, timezone
from phoebe_spark.tables.deltalake import Tables
from phoebe_spark.tables.records import ApplicationRecord
now = datetime.now(timezone.utc)
row = ApplicationRecord(date=now.date(), app_id="a", app_attempt="", source="live", written_at=now)
tables = Tables({home!r})
tables.append([row])
assert tables.read("applications")["app_id"].to_pylist() == ["a"]
"""


def test_a_companion_runs_on_what_is_declared(tmp_path: Path) -> None:
    there = closure(project()[""])
    absent = {
        name
        for name, owners in _distributions().items()
        if name not in OURS and not any(o.lower().replace("_", "-") in there for o in owners)
    }
    assert {"pandas", "pyspark", "pulp", "mlflow", "matplotlib", "sklearn"} <= absent
    assert not absent & {"deltalake", "lightgbm", "numpy", "pyarrow", "typer"}
    code = COMPANION.format(absent=absent, home=str(tmp_path / "home"))
    ran = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert ran.returncode == 0, ran.stderr
