"""Flags from the schema, files before flags, and the names that users of the original know."""
from __future__ import annotations

import argparse
import difflib
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

from pydantic import TypeAdapter, ValidationError
from pydantic.fields import FieldInfo

from core.common.errors import UserError
from core.common.text import shown, warn
from core.config import Config, all_keys, grouped_keys, make_config, run_keys
from core.config.yaml_files import load_mapping

SPELLINGS = {  # old name -> key with the same meaning
    "signiture": "signature", "data_path": "data_dir", "data_url": "data_dir", "train_url": "output_path",
    "train_epochs": "epochs", "pationce": "patience",
}
DEVICE_TARGETS = {"CPU": "cpu", "GPU": "cuda", "Ascend": "npu"}
RUN_HEADER = "# made by a run of the "  # how a configuration begins that a run wrote
MOST_COMPARED = 100  # characters of an unknown name that is compared with all known ones
OLD_HELP = {
    "cuda": "old: BOOL; use --device cuda or --device cpu",
    "device_target": "old: CPU, GPU or Ascend; use --device",
    "num_workers": "old: there are no loader workers; the data is on the device once",
    "para_path": "old: parameters come from --config FILE.yaml",
    "train_time": "old: a command trains once; core.reproduce trains several seeds",
    "train_steps": "old: a run is counted in epochs; use --epochs",
}


class Parser(argparse.ArgumentParser):
    """argparse whose errors are UserErrors of one line, with the nearest flag where one is unknown."""

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message.replace('argument ', '')}; --help lists all flags")

    def parse(self, argv: Sequence[str]) -> dict[str, Any]:
        """Only the flags that were given."""
        namespace, unknown = self.parse_known_args(argv)
        if unknown:
            flags = [option for action in self._actions for option in action.option_strings]
            near = difflib.get_close_matches(unknown[0].split("=")[0][:MOST_COMPARED], flags, 1)
            hint = f"did you mean {near[0]}?" if near else "--help lists all flags"
            raise UserError(f"unknown flag {shown(unknown[0])}; {hint}")
        return {key: value for key, value in vars(namespace).items() if value is not None}


def make_parser(prog: str, description: str, without: Collection[str] = ()) -> Parser:
    """A parser with one flag per key of the schema, and the old flags, but for those in `without`. Values stay text:
    the schema alone validates."""
    parser = Parser(prog=prog, description=description, allow_abbrev=False,
                    formatter_class=lambda prog: argparse.HelpFormatter(prog, max_help_position=32, width=110))
    parser.add_argument("--config", metavar="FILE", help="YAML file of keys; flags win over it, wherever they stand")
    parser.add_argument("--debug", action="store_const", const=True, help="show the traceback of an error")
    add_keys(parser, "configuration", without)
    old = parser.add_argument_group("flags of the published ports")
    for name, key in SPELLINGS.items():
        old.add_argument(f"--{name}", dest=f"old_{name}", metavar=key.upper(), help=f"same as --{key}")
    for name, text in OLD_HELP.items():
        if name not in without:
            old.add_argument(f"--{name}", dest=f"old_{name}", nargs="?", const="true", help=text)
    return parser


def add_keys(parser: Parser, title: str, without: Collection[str] = ()) -> None:
    """A flag per key of the schema, but for those in `without`, in groups: those of all runs, then by models."""
    for owners, fields in grouped_keys().items():
        keys = parser.add_argument_group(f"{title}, {' and '.join(owners)} only" if owners else title)
        for name, field in fields.items():
            if name in without:
                continue
            text = f"{field.description} [{shown_default(field)}]".replace("%", "%%")
            if field.annotation is bool:
                keys.add_argument(f"--{name}", nargs="?", const="true", metavar="BOOL", help=text)
            else:
                keys.add_argument(f"--{name}", metavar=name.upper(), help=text)


def shown_default(field: FieldInfo) -> str:
    """A default as a user would type it; `derived` where other keys decide it, as the description says."""
    if field.is_required():
        return "required"
    return "derived" if field.default_factory else shown_value(field.default)


def shown_value(value: Any) -> str:
    """A value as a user would type it."""
    if value is None:
        return "none"
    return ",".join(value) or "none" if isinstance(value, tuple) else str(value)


def read_values(given: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, str]]:
    """Merge `--config` and flags. Returns the values and where each came from, for error messages."""
    values: dict[str, Any] = {}
    origin: dict[str, str] = {}
    if "config" in given:
        values.update(read_yaml(Path(given["config"])))
        origin.update({key: str(given["config"]) for key in values})
    flags = {key: given[key] for key in all_keys() if key in given}
    for key, value in _old_values(given).items():
        if key in flags and flags[key] != value:
            raise UserError(f"--{key} {flags[key]} and its old spelling say different things ({value}); give one")
        flags[key] = value
    values.update({key: None if value == "none" else value for key, value in flags.items()})
    origin.update({key: f"--{key}" for key in flags})
    return values, origin


def read_yaml(path: Path) -> dict[str, Any]:
    """A YAML mapping of known keys. Raises UserError naming the file and the key."""
    loaded, known = load_mapping(path, f"--config {path}"), all_keys()
    for key in loaded:
        if key not in known:
            near = difflib.get_close_matches(str(key)[:MOST_COMPARED], list(known), 1)
            hint = f"did you mean {near[0]!r}?" if near else "docs/configuration.md lists all keys"
            raise UserError(f"{path}: unknown key {shown(key)}; {hint}")
    return run_keys(loaded) if written_by_a_run(path) else loaded


def written_by_a_run(path: Path) -> bool:
    """Whether the file says so in its first line. Those of earlier versions hold the keys of all models."""
    with open(path, "rb") as file:
        return file.readline(200).startswith(RUN_HEADER.encode())


def read_saved(folder: Path) -> Config:
    """The configuration of a run, from its folder. Raises UserError naming the file and the key."""
    path = folder / "config.yaml"
    saved = read_yaml(path)
    return make_config(saved, dict.fromkeys(saved, str(path)))


def read_count(text: str, key: str, least: int = 1) -> int:
    """A whole number from `least` on, as the flag `key` says it. Raises UserError."""
    number = whole(text)
    if number is None or number < least:
        raise UserError(f"--{key} {text}: expected a whole number, at least {least}")
    return number


def whole(text: str) -> int | None:
    """The whole number that `text` says, of at most 19 digits, as 2**63 has; None for anything else."""
    return int(text) if text.isdecimal() and len(text) <= 19 else None


def _old_values(given: Mapping[str, Any]) -> dict[str, Any]:
    """Old flags as values of today's keys; one warning line for each that has no meaning any more."""
    values = {key: given[f"old_{name}"] for name, key in SPELLINGS.items() if f"old_{name}" in given}
    if "old_cuda" in given:
        values["device"] = "cuda" if _boolean("cuda", given["old_cuda"]) else "cpu"
        warn(f"--cuda is old; use --device {values['device']}")
    if "old_device_target" in given:
        target = given["old_device_target"]
        if target not in DEVICE_TARGETS:
            raise UserError(f"--device_target {target}: expected CPU, GPU or Ascend; or use --device cpu, cuda, npu")
        values["device"] = DEVICE_TARGETS[target]
        warn(f"--device_target is old; use --device {values['device']}")
    if "old_num_workers" in given:
        warn("--num_workers has no effect: the data is put on the device once; leave it out")
    if "old_para_path" in given:
        warn("--para_path has no effect: give parameters as YAML with --config FILE.yaml")
    if "old_train_time" in given:
        warn("--train_time has no effect: a command trains once, and nothing is chosen by its test score")
    if "old_train_steps" in given:
        warn("--train_steps has no effect: a run is counted in epochs; use --epochs")
    return values


def _boolean(name: str, text: str) -> bool:
    try:
        return TypeAdapter(bool).validate_python(text)
    except ValidationError as error:
        raise UserError(f"--{name} {text}: expected true or false") from error
