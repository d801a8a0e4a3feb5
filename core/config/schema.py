"""The schema of a run: its own keys and its model's. One door, `make_config`, and the line that a mistake gets."""
from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from pydantic.fields import FieldInfo

from core.common.errors import UserError
from core.common.text import shown
from core.config.keys import Config
from core.config.yaml_files import load_mapping
from core.data.description import Description, read_description
from core.data.published import DATASETS
from core.models import MODELS

DEFAULT_MODEL = str(Config.model_fields["model"].default)
DESCRIPTIONS = (".yaml", ".yml")  # how the name of a data description ends
PLACES = ("data_dir", "store_dir", "run_id", "signature", "output_path")  # no part of what a run is


@cache
def schema(model: str) -> type[Config]:
    """The type of the resolved configurations of `model`, with the keys of all runs and its own."""
    made: type[Config] = type(f"{model.upper()}Config", (MODELS[model].keys, Config), {"__module__": __name__})
    return made


def all_keys() -> dict[str, FieldInfo]:
    """Every key of every model by name: those of all runs first."""
    keys = dict(Config.model_fields)
    for model in MODELS:
        keys.update(schema(model).model_fields)
    return keys


def grouped_keys() -> dict[tuple[str, ...], dict[str, FieldInfo]]:
    """The keys by the models that have them: first those of all runs, under ()."""
    groups: dict[tuple[str, ...], dict[str, FieldInfo]] = {}
    for name, field in all_keys().items():
        owners = () if name in Config.model_fields else models_with(name)
        groups.setdefault(owners, {})[name] = field
    return groups


@cache
def models_with(key: str) -> tuple[str, ...]:
    """The models that have `key`."""
    return tuple(model for model in MODELS if key in schema(model).model_fields)


def model_of(values: Mapping[str, Any]) -> str:
    """The model that `values` ask for; the default for none, and for one that will be refused."""
    model = values.get("model", DEFAULT_MODEL)
    return model if isinstance(model, str) and model in MODELS else DEFAULT_MODEL


def own_keys(values: Mapping[str, Any]) -> dict[str, Any]:
    """`values` without the keys that only other models have.

    What a run wrote before models had keys of their own holds those of all models; they decided nothing.
    """
    fields = schema(model_of(values)).model_fields
    return {key: value for key, value in values.items() if key in fields or not models_with(key)}


def run_keys(values: Mapping[str, Any]) -> dict[str, Any]:
    """The same of what a run wrote. Before there was amp_dtype, O1 on the CPU was bfloat16."""
    found = own_keys(values)
    if "amp_dtype" not in found and (found.get("amp_level"), found.get("device")) == ("O1", "cpu"):
        found["amp_dtype"] = "bfloat16"
    return found


def make_config(values: Mapping[str, Any], origin: Mapping[str, str] | None = None) -> Config:
    """Validate `values` into a configuration with every default filled in.

    `origin` tells where a key came from (`--rank`, `configs/x.yaml`), for the error message. None stands for a key's
    default where that depends on other keys. Raises UserError, one line: key, value, bound, origin.
    """
    origin = origin or {}
    values = _described(values, origin)
    model = model_of(values)
    fields = schema(model).model_fields
    for key in values:
        if key not in fields:
            raise UserError(_foreign(key, values[key], model, origin))
    try:
        return schema(model)(**{key: value for key, value in values.items()
                                if value is not None or fields[key].default_factory is None})
    except ValidationError as error:
        raise UserError("; ".join(_describe(item, origin, fields) for item in _distinct(error))) from error


def _described(values: Mapping[str, Any], origin: Mapping[str, str]) -> Mapping[str, Any]:
    """`values` with the data description that they name or hold, read and checked; with none where they name a
    published data set. Raises UserError naming the file and the key."""
    dataset, given, key = values.get("dataset"), values.get("description"), "description"
    if isinstance(dataset, str) and dataset.endswith(DESCRIPTIONS):
        dataset, given, key = None, dataset, "dataset"
    if isinstance(given, (str, Path)):
        where = f"{origin.get(key, key)} {given}"
        given = read_description(load_mapping(Path(given), where), where)
        if dataset not in (None, given.name):
            raise UserError(f"dataset = {dataset}: {where} describes {given.name}; leave dataset out, or description")
    elif isinstance(given, Mapping) and dataset not in DATASETS:
        given = read_description(given, f"{origin.get('description', 'configuration')}: description")
    if given is None:
        return values
    if dataset in DATASETS:  # a flag won over what a file described
        return {key: value for key, value in values.items() if key != "description"}
    return {**values, "description": given, "dataset": given.name if dataset is None and isinstance(given, Description)
            else dataset}


def changed(config: Config, values: Mapping[str, Any], origin: Mapping[str, str] | None = None) -> Config:
    """`config` with `values` on top. With another model, what only the one before has falls away; without mixed
    precision, its loss scale.
    """
    kept = to_values(config)
    if values.get("amp_level") == "O0":
        del kept["loss_scale"]
    return make_config({**own_keys({**kept, **values}), **values}, origin)


def to_values(config: Config) -> dict[str, Any]:
    """All keys of `config`, JSON-ready; `make_config` makes the same of them."""
    return config.model_dump(mode="json")


def identity(config: Config) -> dict[str, Any]:
    """The keys that a resumed run must share, JSON-ready: those that decide the result or find its checkpoints."""
    return {key: value for key, value in to_values(config).items() if key not in PLACES}


def changes(config: Config, then: Config) -> dict[str, tuple[Any, Any]]:
    """Keys of the identity that differ: what they were in `then`, and what they are here. None: it has no such key."""
    before, now = _flat(identity(then)), _flat(identity(config))
    return {key: (before.get(key), now.get(key)) for key in {**now, **before} if before.get(key) != now.get(key)}


def _flat(values: Mapping[str, Any]) -> dict[str, Any]:
    """With the keys of a mapping as `description.range`."""
    return {name: value for key, found in values.items()
            for name, value in ({f"{key}.{inner}": one for inner, one in found.items()} if isinstance(found, Mapping)
                                else {key: found}).items()}


def _foreign(key: str, value: Any, model: str, origin: Mapping[str, str]) -> str:
    owners = models_with(key)
    if owners:
        came = f" (from {origin[key]})" if key in origin else ""
        said = value if isinstance(value, str) and value.isprintable() else shown(value)
        return f"{key} = {said}: {model} has no {key}; models with it: {', '.join(owners)}{came}; leave it out"
    return (f"{origin.get(key, 'configuration')}: unknown key {shown(key)}; docs/configuration.md lists all keys")


def _distinct(error: ValidationError) -> Iterator[Any]:
    """One message per key: a union reports each of its branches, a default what it depends on."""
    items = {str(item["loc"][:1]): item for item in error.errors() if item["type"] != "default_factory_not_called"}
    yield from items.values()


def _describe(item: Any, origin: Mapping[str, str], fields: Mapping[str, FieldInfo]) -> str:
    message = str(item["msg"]).removeprefix("Value error, ").replace("Input should", "should")
    if not item["loc"]:  # a combination of keys: the message begins with the one to change
        subject, _, reason = message.partition(": ")
        key = subject.split(" = ")[0]
        return f"{subject} (from {origin[key]}): {reason}" if key in origin else message
    key = str(item["loc"][0])
    if item["type"] == "missing":
        return f"--{key} is required: {fields[key].description}"
    came = f" (from {origin[key]})" if key in origin else ""
    return f"{key} = {shown(item['input'])}{came}: {message}"
