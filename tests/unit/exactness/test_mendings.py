"""Each mending can be taken back from the sources as they are."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.exactness.mendings import Mending, MendingError, Replace, edited, read
from tests.support.places import ROOT

_FILE = "listeners/src/main/scala/a.scala"
_TEXT = f"""says = "what goes wrong"
[[replace]]
file = "{_FILE}"
old = '''one'''
new = '''two'''
"""


def test_a_mending_is_read_and_taken_back(tmp_path: Path) -> None:
    (tmp_path / "short.toml").write_text(_TEXT)
    file = tmp_path / _FILE
    file.parent.mkdir(parents=True)
    file.write_text("val one = 1\n")
    mending = read(tmp_path)[0]
    assert mending == Mending("short", "what goes wrong", (Replace(_FILE, "one", "two"),))
    assert edited(tmp_path, mending) == {_FILE: "val two = 1\n"}
    assert file.read_text() == "val one = 1\n"
    file.write_text("val one = one\n")
    with pytest.raises(MendingError, match="2 times"):
        edited(tmp_path, mending)


def test_a_file_without_its_keys_is_refused(tmp_path: Path) -> None:
    (tmp_path / "bad.toml").write_text('says = "no edits"\n')
    with pytest.raises(MendingError, match=r"bad\.toml"):
        read(tmp_path)


@pytest.mark.parametrize("mending", read(), ids=lambda m: m.name)
def test_every_mending_applies_to_the_sources(mending: Mending) -> None:
    found = edited(ROOT, mending)
    assert all(text != (ROOT / file).read_text() for file, text in found.items())
    assert found
    assert mending.says
