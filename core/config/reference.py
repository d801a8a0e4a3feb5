"""`python -m core.reference FILE`: write docs/configuration.md from the schema."""
from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from core.common.errors import UserError
from core.common.files import write_text
from core.common.guard import guarded
from core.config import Config, grouped_keys, schema
from core.config.flags import OLD_HELP, SPELLINGS, shown_default, shown_value
from core.data.published import DATASETS


def configuration_page() -> str:
    """The page: a table of all keys, and the old flags."""
    lines = [
        "# Configuration", "",
        "Made from the schema in `core/config/schema.py` by `make docs`; a test fails when it is out of date.", "",
        "A key is a YAML key in a `--config` file and a flag of the same name. Defaults < file < flags, wherever",
        "the flags stand. Unknown keys, wrong types and values out of range stop the command with one line.", "",
        "\"Searched\": what `python -m core.search` tries for the key unless it is given, the original's grid.", "",
    ]
    for owners, fields in grouped_keys().items():
        properties = (schema(owners[0]) if owners else Config).model_json_schema()["properties"]
        lines += [f"## {_title(owners)}", "", "| key | type | default | searched | meaning |", "|---|---|---|---|---|"]
        lines += [f"| `{name}` | {kind(properties[name])} | {shown_default(field)} | "
                  f"{searched(name, properties[name])} | {field.description} |" for name, field in fields.items()]
        lines.append("")
    lines += ["## Flags of the published ports", "", "| flag | here |", "|---|---|"]
    lines += [f"| `--{name}` | the same as `--{key}` |" for name, key in SPELLINGS.items()]
    lines += [f"| `--{name}` | {text} |" for name, text in OLD_HELP.items()]
    return "\n".join(lines) + "\n"


def _title(owners: tuple[str, ...]) -> str:
    return f"Keys of {' and '.join(map(str.upper, owners))}" if owners else "Keys of every run"


def searched(name: str, properties: dict[str, Any]) -> str:
    """What a search tries for a key, in words; nothing where it isn't searched."""
    grids = {"": properties.get("search", []),
             **{spec.name: spec.grids[name] for spec in DATASETS.values() if name in spec.grids}}
    return "; ".join(f"{name.upper()} {', '.join(map(_value, grid))}".strip()
                     for name, grid in grids.items() if grid)


def _value(value: Any) -> str:
    """A value as a user would type it."""
    return shown_value(value) if isinstance(value, (bool, str)) else f"{value:g}"


def kind(key: dict[str, Any]) -> str:
    """Type, choices and bounds of a key in words."""
    if "$ref" in key:
        return "mapping"
    if "anyOf" in key:
        return " or ".join(kind(option) for option in key["anyOf"] if option.get("type") != "null")
    if "enum" in key:
        return ", ".join(map(str, key["enum"]))
    if "const" in key:
        return str(key["const"])
    if key.get("type") == "array":
        return f"list of {kind(key['items'])}"
    words = {"minimum": ">=", "exclusiveMinimum": ">", "maximum": "<=", "exclusiveMaximum": "<"}
    bounds = [f"{sign} {key[word]:g}" if abs(key[word]) < 1e6 else f"{sign} 2^63"
              for word, sign in words.items() if word in key]
    return " ".join([str(key.get("format", key["type"])), ", ".join(bounds)]).strip()


def main(argv: Sequence[str] | None = None) -> int:
    """The command. Exit codes as those of every command."""
    arguments = sys.argv[1:] if argv is None else list(argv)

    def run() -> None:
        files = [argument for argument in arguments if argument != "--debug"]
        if len(files) != 1 or files[0].startswith("-"):
            raise UserError(f"expected one file, found {' '.join(files) or 'nothing'}; "
                            "usage: python -m core.reference FILE")
        write_text(Path(files[0]), configuration_page())

    return guarded(arguments, run)
