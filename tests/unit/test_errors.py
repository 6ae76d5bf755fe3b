"""One tree of errors, drawn where they are."""

from __future__ import annotations

import importlib
import pkgutil
import re

import phoebe_training

import phoebe_spark
from phoebe_spark import errors
from phoebe_spark.errors import PhoebeError


def ours() -> set[type[BaseException]]:
    """All exceptions that the modules of both packages define."""
    found: set[type[BaseException]] = set()
    for package in (phoebe_spark, phoebe_training):
        for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            if module.name.endswith("__main__"):
                continue
            for value in vars(importlib.import_module(module.name)).values():
                if isinstance(value, type) and issubclass(value, BaseException):
                    found.add(value)
    return {error for error in found if error.__module__.startswith("phoebe_")}


def drawn() -> dict[str, str]:
    """Parents by child, as the tree in the module's docstring has them."""
    path: list[str] = []
    parents: dict[str, str] = {}
    for line in (errors.__doc__ or "").splitlines():
        if found := re.match(r"([│├└─ ]*)([A-Z]\w+)\b", line):
            depth = len(found[1]) // 4
            del path[depth:]
            if path:
                parents[found[2]] = path[-1]
            path.append(found[2])
    return parents


def test_every_error_is_in_the_tree_and_the_tree_has_no_other() -> None:
    known = ours()
    named = {
        error.__name__: next(base.__name__ for base in error.__bases__ if base in known)
        for error in known - {PhoebeError}
    }
    assert named == drawn()
