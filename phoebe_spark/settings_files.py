"""The files generated from the settings' declarations: the JVM side's resource, the reference page.

``python -m phoebe_spark.settings_files`` in a source tree writes both.
"""

from __future__ import annotations

import json
from pathlib import Path

from phoebe_spark.settings import SETTINGS


def to_json() -> str:
    """The JVM side's resource: the declarations, without anything that Python alone needs."""
    rows = [
        {
            "name": s.name,
            "key": s.key,
            "kind": s.kind,
            "default": None if s.default is None else str(s.default),
            "choices": list(s.choices),
            "minimum": s.minimum,
            "maximum": s.maximum,
            "pattern": s.pattern,
            "accepts": s.accepts,
            "session": s.session,
        }
        for s in SETTINGS
    ]
    return json.dumps({"settings": rows}, indent=2) + "\n"


def to_markdown() -> str:
    """The reference page."""
    lines = [
        "# Settings",
        "",
        "<!-- Generated from phoebe_spark/settings.py: python -m phoebe_spark.settings_files -->",
        "",
        "Given as Spark configuration (`--conf`, `spark-defaults.conf`, a session builder). A bad",
        "value is one error line that names the setting and what it accepts; the plugin turns",
        "itself off and the job runs. Settings marked *per query* are also read from the session's",
        "configuration when a query is planned.",
        "",
    ]
    for s in SETTINGS:
        default = f"`{s.default}`" if s.default is not None else s.derived
        lines += [
            f"## `{s.key}`",
            "",
            s.doc,
            "",
            f"- Default: {default}",
            f"- Accepts: {s.accepts}",
            *(["- Per query"] if s.session else []),
            "",
        ]
    return "\n".join(lines[:-1]) + "\n"


def generated(root: Path) -> dict[Path, str]:
    """The generated files of a source tree at ``root``, with what they should hold."""
    return {
        root / "listeners/src/main/resources/phoebe/settings.json": to_json(),
        root / "docs/settings.md": to_markdown(),
    }


if __name__ == "__main__":
    for path, text in generated(Path(__file__).resolve().parent.parent).items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        print(path)
