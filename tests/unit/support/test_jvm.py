"""The options of tests' JVMs, beside those that the environment has."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support import jvm


def test_what_the_environment_has_is_kept_and_comes_last(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(jvm.VARIABLE, "-Dof=theirs -Xmx1g")
    jvm.use()
    once = jvm.with_theirs("")
    assert once.startswith(jvm.SHORT)
    assert once.endswith(" -Dof=theirs -Xmx1g")
    jvm.use()  # a process below
    assert jvm.with_theirs("") == once


def test_a_collector_of_the_environment_is_the_only_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(jvm.VARIABLE, "-XX:+UseZGC")
    jvm.use()
    assert jvm.options().count("GC") == 1


def test_without_spark_there_are_options_still(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(jvm.VARIABLE, raising=False)

    def absent() -> Path:
        raise ModuleNotFoundError("pyspark")

    monkeypatch.setattr(jvm, "spark_home", absent)
    assert jvm.options() == jvm.SHORT


def test_an_archive_that_could_not_be_made_is_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    archive, stamp = tmp_path / "a.jsa", tmp_path / "stamp"
    monkeypatch.setattr(jvm, "archive_of", lambda _: archive)

    def fails(_: Path) -> None:
        raise OSError("no room")

    monkeypatch.setattr(jvm, "make", fails)
    assert jvm.main(stamp) == 0
    assert "no room" in capsys.readouterr().err
    assert not stamp.exists()
    monkeypatch.setattr(jvm, "make", Path.touch)
    assert jvm.main(stamp) == 0
    assert stamp.exists()
