"""The command `python -m core.convert`."""
from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from core.common.errors import UserError
from core.common.guard import guarded
from core.common.text import say
from core.config.flags import make_parser, read_values, shown_value
from core.convert import convert
from core.convert.architecture import NETWORKS
from core.training.checkpoint import Checkpoint, save_checkpoint


def main(argv: Sequence[str] | None = None) -> int:
    """Convert one file. Exit codes as those of every command."""
    arguments = sys.argv[1:] if argv is None else list(argv)
    return guarded(arguments, lambda: _run(arguments))


def _run(argv: Sequence[str]) -> None:
    parser = make_parser("python -m core.convert",
                         "Turn a published checkpoint of LMF (Paddle, PyTorch, MindSpore), or one of the course's "
                         "sequence model, into one for every backend. "
                         "Nothing in the file is executed. The architecture is read off the shapes, and dropouts off a "
                         "whole module; flags win over these. What the file doesn't tell is a default or a flag.")
    parser.add_argument("--input", metavar="FILE", help="Paddle .pkl or .pdparams, torch.save file or MindSpore .ckpt")
    parser.add_argument("--output", metavar="FILE", help="checkpoint to write, .safetensors")
    given = parser.parse(argv)
    for name, what in (("input", "the published checkpoint"), ("output", "the .safetensors file to write")):
        if name not in given:
            raise UserError(f"--{name} is required: {what}")
    source, target = Path(given["input"]), Path(given["output"])
    if target.suffix != ".safetensors":
        raise UserError(f"--output {target}: suffix {target.suffix!r}, expected .safetensors")
    values, origin = read_values(given)
    if values.get("model", next(iter(NETWORKS))) not in NETWORKS:
        raise UserError(f"model = {values['model']!r} (from {origin['model']}): only checkpoints of "
                        f"{' and '.join(NETWORKS)} can be converted; leave it out")
    checkpoint = convert(source, values, origin)
    save_checkpoint(target, checkpoint)
    _report(checkpoint, source, target, set(values))


def _report(checkpoint: Checkpoint, source: Path, target: Path, given: set[str]) -> None:
    config = checkpoint.config
    network = NETWORKS[config.model].shown(config, checkpoint.inputs)
    say(f"{source}: {checkpoint.progress['format']}, {config.dataset}, {network}, "
        f"{config.output_dim} outputs, {checkpoint.graph.parameter_count} parameters, {config.precision}")
    told = checkpoint.progress["settings"]
    if told:
        shown = [f"{key} {value:g}" + (f" ({shown_value(getattr(config, key))} was given and wins)"
                                       if getattr(config, key) != value else "") for key, value in told.items()]
        say(f"from the module in the file: {', '.join(shown)}")
    assumed = [f"{key} {shown_value(getattr(config, key))}" for key in _not_in_weights(checkpoint)
               if key not in given and key not in told]
    if assumed:
        say(f"not in the file, so defaults: {', '.join(assumed)}; give them as flags")
    say(f"wrote {target}")


def _not_in_weights(checkpoint: Checkpoint) -> list[str]:
    """Keys that shapes don't tell and that this network has a use for; a whole module has dropouts."""
    data = checkpoint.config.described
    return [*(["emotion"] if data.parts else []), *(["max_len"] if data.steps and checkpoint.config.max_len else []),
            *(key for key, place in NETWORKS[checkpoint.config.model].dropouts.items() if place.input in data.names)]


if __name__ == "__main__":
    sys.exit(main())
