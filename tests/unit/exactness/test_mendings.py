"""Each mending can be taken back from the sources as they are."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.exactness.mendings import Mending, MendingError, Replace, read, taken_back
from tests.support.places import ROOT

_TEXT = """says = "what goes wrong"
[[replace]]
file = "a.scala"
old = '''one'''
new = '''two'''
"""


def test_a_mending_is_read_and_taken_back(tmp_path: Path) -> None:
    (tmp_path / "short.toml").write_text(_TEXT)
    (tmp_path / "a.scala").write_text("val one = 1\n")
    mending = read(tmp_path)[0]
    assert mending == Mending("short", "what goes wrong", (Replace("a.scala", "one", "two"),))
    taken_back(mending, tmp_path)
    assert (tmp_path / "a.scala").read_text() == "val two = 1\n"
    with pytest.raises(MendingError, match="0 times"):
        taken_back(mending, tmp_path)


def test_a_file_without_its_keys_is_refused(tmp_path: Path) -> None:
    (tmp_path / "bad.toml").write_text('says = "no edits"\n')
    with pytest.raises(MendingError, match=r"bad\.toml"):
        read(tmp_path)


@pytest.mark.parametrize("mending", read(), ids=lambda m: m.name)
def test_every_mending_applies_to_the_sources(mending: Mending, tmp_path: Path) -> None:
    for file in {it.file for it in mending.replaces}:
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / file, tmp_path / file)
    taken_back(mending, tmp_path)
    assert mending.says
