"""Settings: what is accepted, what is said otherwise, and that the generated files are current."""

from __future__ import annotations

from pathlib import Path

import pytest

from phoebe_spark.errors import SettingError
from phoebe_spark.settings import BY_NAME, SETTINGS, resolve
from phoebe_spark.settings_files import generated

ROOT = Path(__file__).resolve().parents[2]


def test_generated_files_are_current() -> None:
    for path, text in generated(ROOT).items():
        assert path.read_text(encoding="utf-8") == text, (
            f"run python -m phoebe_spark.settings_files: {path}"
        )


def test_defaults_are_accepted_by_their_own_setting() -> None:
    for setting in SETTINGS:
        if setting.default is not None:
            assert setting.parse(str(setting.default)) == setting.default


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("mode", "aply"),
        ("mode", ""),
        ("advice.timeout_ms", "0"),
        ("advice.timeout_ms", "0.5s"),
        ("budget_fraction", "1.5"),
        ("budget_fraction", "nan"),
        ("max_cuts", "many"),
        ("force", "e1,,e2"),
        ("home", "  "),
    ],
)
def test_bad_values_name_the_setting_and_what_it_accepts(name: str, text: str) -> None:
    setting = BY_NAME[name]
    with pytest.raises(SettingError) as caught:
        setting.parse(text)
    assert setting.key in str(caught.value)
    assert setting.accepts in str(caught.value)


def test_resolve_takes_full_keys_and_fills_defaults() -> None:
    values = resolve({"spark.phoebe.mode": "apply", "spark.phoebe.force": "e1, abc-2"})
    assert values["mode"] == "apply"
    assert values["force"] == "e1, abc-2"
    assert values["advice.timeout_ms"] == 500
    assert values["checkpoint.dir"] is None


def test_resolve_refuses_a_misspelt_setting() -> None:
    with pytest.raises(SettingError, match=r"spark\.phoebe\.hom is not a setting"):
        resolve({"spark.phoebe.hom": "/data"})
