"""Configuration files: one flat YAML mapping, read within limits. A file's work is bounded before any of it is done."""
from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml
from yaml.events import AliasEvent, CollectionEndEvent, CollectionStartEvent, NodeEvent, ScalarEvent

from core.common.errors import UserError, one_line
from core.common.text import shown

MOST_BYTES = 100_000  # the longest file of this project has 3,000
MOST_NODES = 1000  # keys and values; the schema has 40 keys
MOST_DEPTH = 5  # of a configuration, a description in it, its inputs, one of these, its shape
MOST_DIGITS = 40  # characters of a number

INT, FLOAT = "tag:yaml.org,2002:int", "tag:yaml.org,2002:float"


class Loader(yaml.SafeLoader):
    """SafeLoader without numbers that take forever, and with dates as the text that stands there: no key is a date."""

    def number(self, node: yaml.ScalarNode) -> Any:
        if len(node.value) > MOST_DIGITS:
            raise yaml.constructor.ConstructorError(
                None, None, f"a number of {len(node.value)} characters, at most {MOST_DIGITS}", node.start_mark)
        try:
            return self.construct_yaml_int(node) if node.tag == INT else self.construct_yaml_float(node)
        except (ValueError, OverflowError) as error:  # `!!int four`, `1:1:...:1.0`
            raise yaml.constructor.ConstructorError(None, None, f"{node.value!r} is no number", node.start_mark
                                                    ) from error

    def text(self, node: yaml.ScalarNode) -> str:
        return str(node.value)


Loader.add_constructor(INT, Loader.number)
Loader.add_constructor(FLOAT, Loader.number)
Loader.add_constructor("tag:yaml.org,2002:timestamp", Loader.text)


def load_mapping(path: Path, called: str) -> dict[Any, Any]:
    """The mapping in `path`, which a message calls `called`.

    Raises UserError naming the file for one that can't be read, is no YAML, holds anything but one mapping, names a
    key twice, or is larger or deeper than a configuration can be.
    """
    try:
        with open(path, "rb") as file:
            raw = file.read(MOST_BYTES + 1)
        if len(raw) > MOST_BYTES:
            raise UserError(f"{called}: has more than {MOST_BYTES} bytes; give a configuration file")
        text = raw.decode("utf-8")
        _bound(text)
        loader = Loader(text)
        node = loader.get_single_node()
        _refuse_twice(node)
        loaded = loader.construct_document(node) if node else None
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"{called}: can't be read ({reason}); give a YAML file") from error
    except yaml.YAMLError as error:
        raise UserError(f"{called}: is not YAML: {one_line(error)}; correct the file") from error
    except (ValueError, TypeError, AttributeError, LookupError) as error:  # PyYAML on tags that don't fit their values
        raise UserError(f"{called}: is not YAML: {type(error).__name__} {one_line(error)}; correct the file") from error
    except _TooMuchError as error:
        raise UserError(f"{called}: {error}, expected a mapping of keys such as 'rank: 4'; correct the file") from error
    if not isinstance(loaded, dict):
        raise UserError(f"{called}: holds a {type(loaded).__name__}, "
                        "expected a mapping of keys such as 'rank: 4'")
    return loaded


class _TooMuchError(Exception):
    """What a configuration never is."""


def _bound(text: str) -> None:
    """Walk the events, of which nothing is built: depth, count and aliases, before anything is made of them."""
    depth = nodes = 0
    scalars: set[str] = set()  # anchors that stand for a single value; any other could double itself at will
    for event in yaml.parse(text, Loader=Loader):
        nodes += isinstance(event, NodeEvent)
        depth += isinstance(event, CollectionStartEvent) - isinstance(event, CollectionEndEvent)
        line = event.start_mark.line + 1 if event.start_mark else 0
        if depth > MOST_DEPTH:
            raise _TooMuchError(f"line {line} is the {depth}th level of lists and mappings, at most {MOST_DEPTH}")
        if nodes > MOST_NODES:
            raise _TooMuchError(f"has more than {MOST_NODES} keys and values, in line {line}")
        if isinstance(event, ScalarEvent) and event.anchor:
            scalars.add(event.anchor)
        if isinstance(event, AliasEvent) and event.anchor not in scalars:
            raise _TooMuchError(f"line {line} repeats a list or mapping by the alias *{event.anchor}")


def _refuse_twice(node: yaml.Node | None) -> None:
    """YAML's own rule, which PyYAML doesn't keep: it takes the last of two equal keys without a word."""
    if isinstance(node, yaml.SequenceNode):
        for one in node.value:
            _refuse_twice(one)
    if not isinstance(node, yaml.MappingNode):
        return
    lines: dict[str, int] = {}
    for key, value in node.value:
        _refuse_twice(value)
        line = key.start_mark.line + 1
        if isinstance(key, yaml.ScalarNode) and lines.setdefault(key.value, line) != line:
            raise _TooMuchError(f"names the key {shown(key.value)} twice, in lines {lines[key.value]} and {line}")
