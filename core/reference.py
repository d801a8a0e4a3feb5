"""`python -m core.reference FILE`: write docs/configuration.md from the schema."""
from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from core.config import Config
from core.errors import UserError
from core.files import write_text
from core.flags import OLD_HELP, SPELLINGS, shown_default
from core.guard import guarded


def configuration_page() -> str:
    """The page: a table of all keys, and the old flags."""
    schema = Config.model_json_schema()["properties"]
    lines = [
        "# Configuration", "",
        "Made from the schema in `core/config.py` by `make docs`; a test fails when it is out of date.", "",
        "A key is a YAML key in a `--config` file and a flag of the same name. Defaults < file < flags, wherever",
        "the flags stand. Unknown keys, wrong types and values out of range stop the command with one line.", "",
        "\"Searched\": what `python -m core.search` tries for the key unless it is given, the original's grid.", "",
        "| key | type | default | searched | meaning |", "|---|---|---|---|---|",
    ]
    for name, field in Config.model_fields.items():
        lines.append(f"| `{name}` | {kind(schema[name])} | {shown_default(field.default)} | {searched(schema[name])} | "
                     f"{field.description} |")
    lines += ["", "## Flags of the published ports", "", "| flag | here |", "|---|---|"]
    lines += [f"| `--{name}` | the same as `--{key}` |" for name, key in SPELLINGS.items()]
    lines += [f"| `--{name}` | {text} |" for name, text in OLD_HELP.items()]
    return "\n".join(lines) + "\n"


def searched(schema: dict[str, Any]) -> str:
    """What a search tries for a key, in words; nothing where it isn't searched."""
    grids = {"": schema.get("search", []), **schema.get("search_by_dataset", {})}
    return "; ".join(f"{name.upper()} {', '.join(f'{value:g}' for value in grid)}".strip()
                     for name, grid in grids.items() if grid)


def kind(schema: dict[str, Any]) -> str:
    """Type, choices and bounds of a key in words."""
    if "anyOf" in schema:
        return " or ".join(kind(option) for option in schema["anyOf"] if option.get("type") != "null")
    if "enum" in schema:
        return ", ".join(map(str, schema["enum"]))
    if "const" in schema:
        return str(schema["const"])
    if schema.get("type") == "array":
        return f"list of {kind(schema['items'])}"
    words = {"minimum": ">=", "exclusiveMinimum": ">", "maximum": "<=", "exclusiveMaximum": "<"}
    bounds = [f"{sign} {schema[word]:g}" if abs(schema[word]) < 1e6 else f"{sign} 2^63"
              for word, sign in words.items() if word in schema]
    return " ".join([str(schema.get("format", schema["type"])), ", ".join(bounds)]).strip()


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


if __name__ == "__main__":
    sys.exit(main())
