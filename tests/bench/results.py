"""Writes the results: a JSON document for programs, a Markdown page for people, side by side."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

DEFAULT = Path(__file__).parents[2] / "docs" / "benchmarks"


def write(out: Path, name: str, document: Mapping[str, Any], text: str) -> None:
    """`out/name.json` and `out/name.md`."""
    out.mkdir(parents=True, exist_ok=True)
    (out / f"{name}.json").write_text(json.dumps(document, indent=1, ensure_ascii=False) + "\n")
    (out / f"{name}.md").write_text(text)
