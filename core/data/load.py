"""The one door to the data: `load_dataset(config)`."""
from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path

from core.common.errors import UserError
from core.data.cleaning import sentences
from core.data.findings import findings
from core.data.keys import DataKeys
from core.data.manifest import SCHEMA
from core.data.provenance import caveats
from core.data.published import REPAIR
from core.data.ranges import ranges_of
from core.data.readers import missing_modality
from core.data.record import Dataset, Split
from core.data.sequences import fit, padding_of, pooled_note, sequence_notes
from core.data.store import read_store
from core.data.synthetic import synthetic


def load_dataset(config: DataKeys) -> Dataset:
    """The data set of `config`: generated, or read from its file in DATA_DIR through the store.

    Only the chosen modalities (and emotion) are read; a sequence keeps `max_len` steps. Raises UserError, one line,
    when the file is missing, damaged or of another schema, or when a chosen modality can't be learned from.
    """
    dataset = synthetic(config) if config.data == "synthetic" else _published(config)
    ranges = ranges_of(dataset.splits["train"].inputs)
    found = findings(dataset.splits, dataset.described, ranges)
    return replace(dataset, ranges=ranges, notes=dataset.notes + found)


def source_path(config: DataKeys) -> Path:
    """The file that `config` names: data_dir may be its folder or the file itself.

    Raises UserError where there is none, and where a folder holds several and none can be said to be meant.
    """
    names = config.known.file_names
    places = [config.data_dir] if config.data_dir.is_file() else [config.data_dir / name for name in names]
    found = [path for path in places if path.is_file()]
    if not found:
        missing = f"{places[0]}: no such file" if len(names) == 1 else f"{config.data_dir}: no {' or '.join(names)}"
        raise UserError(f"{missing}; put {config.known.file} there, give its place with --data_dir, or use --data "
                        "synthetic")
    if len(found) > 1:
        raise UserError(f"{config.data_dir}: holds {' and '.join(path.name for path in found)}, each of which may be "
                        f"{config.dataset}; name one, --data_dir {found[0]}")
    return found[0]


def _published(config: DataKeys) -> Dataset:
    source, known = source_path(config), config.known
    folder = config.store_dir or source.parent / "store"
    store, stored = read_store(source, known, folder, config.emotion, config.modalities)
    part = store.part(config.emotion)
    where = f"{source}: {config.emotion}" if config.emotion else str(source)
    if part is None:
        raise UserError(f"{where}: no such emotion in the file, found "
                        f"{', '.join(store.manifest['parts'])}; choose one of these with --emotion")
    _check_useful(config, where, part["modalities"], part["useless"])
    padding = padding_of([array for array in stored["train"].values() if array.ndim == 3], known.padding)
    arrays = fit(stored, config.described.inputs, config.max_len, padding)
    train = arrays["train"]
    described = config.described.measured(train)
    cleaning: dict[str, dict[str, dict[str, int]]] = {
        split: {m: counts[m] for m in config.modalities} for split, counts in part["cleaning"].items()}
    digest = store.manifest["source"]["sha256"]
    notes = sentences(cleaning) + caveats(described, train, known.names)
    if known.padding:
        notes += sequence_notes(stored, known, padding) + pooled_note(described.inputs)
    if known.published.sha256 and digest != known.published.sha256:
        notes += (f"{source.name} is not the published file (sha256 {digest}, published {known.published.sha256})",)
    made_of = [SCHEMA, digest, config.dataset, config.emotion, config.modalities, described.steps]
    if known.padding:  # several sequences, each of its own length or pooled
        made_of += [[one.shape for one in described.inputs], known.description]
    return Dataset(described, config.emotion, {name: Split(a) for name, a in arrays.items()}, False,
                   hashlib.sha256(json.dumps(made_of).encode()).hexdigest(), cleaning, str(source), notes)


def _check_useful(config: DataKeys, where: str, present: list[str], useless: dict[str, str]) -> None:
    good = [m for m in present if m not in useless]
    for modality in config.modalities:
        if modality not in present:
            raise UserError(missing_modality(where, config.known.of(modality), tuple(good)))
        if modality in useless:
            way_out = f"leave {modality} out with --modalities {','.join(good)}" if good else REPAIR
            raise UserError(f"{useless[modality]}, expected features that differ between rows; {way_out}")
