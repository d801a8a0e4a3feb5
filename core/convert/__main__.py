"""The command `python -m core.convert`."""
from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from core.checkpoint import Checkpoint, save_checkpoint
from core.config import Config
from core.convert import convert
from core.errors import UserError
from core.flags import make_parser, read_values, shown_default
from core.guard import guarded
from core.text import say

NOT_IN_WEIGHTS = ("emotion", "max_len", "audio_dropout", "video_dropout", "text_dropout")  # a whole module has dropouts


def main(argv: Sequence[str] | None = None) -> int:
    """Convert one file. Exit codes as those of every command."""
    arguments = sys.argv[1:] if argv is None else list(argv)
    return guarded(arguments, lambda: _run(arguments))


def _run(argv: Sequence[str]) -> None:
    parser = make_parser("python -m core.convert",
                         "Turn a published checkpoint (Paddle, PyTorch, MindSpore) into one for every backend. "
                         "Nothing in the file is executed. The architecture is read off the shapes, and dropouts off a "
                         "whole module; flags win over these. What the file doesn't tell is a default or a flag.")
    parser.add_argument("--input", metavar="FILE", help="Paddle .pkl, torch.save file or MindSpore .ckpt")
    parser.add_argument("--output", metavar="FILE", help="checkpoint to write, .safetensors")
    given = parser.parse(argv)
    for name, what in (("input", "the published checkpoint"), ("output", "the .safetensors file to write")):
        if name not in given:
            raise UserError(f"--{name} is required: {what}")
    source, target = Path(given["input"]), Path(given["output"])
    if target.suffix != ".safetensors":
        raise UserError(f"--output {target}: suffix {target.suffix!r}, expected .safetensors")
    values, origin = read_values(given)
    if values.get("model", "lmf") != "lmf":
        raise UserError(f"model = {values['model']!r} (from {origin['model']}): only lmf's were published; "
                        "leave it out")
    checkpoint = convert(source, values, origin)
    save_checkpoint(target, checkpoint)
    _report(checkpoint, source, target, set(values))


def _report(checkpoint: Checkpoint, source: Path, target: Path, given: set[str]) -> None:
    config, dims = checkpoint.config, checkpoint.dims
    widths = {"audio": f"audio {dims.audio} -> {config.audio_hidden}", "video": f"video {dims.video} -> "
              f"{config.video_hidden}", "text": f"text {dims.text} -> {config.text_hidden} -> {config.text_out}"}
    shape = ", ".join(widths[modality] for modality in config.modalities)
    say(f"{source}: {checkpoint.progress['format']}, {config.dataset}, {shape}, rank {config.rank}, "
        f"{config.output_dim} outputs, {checkpoint.spec.parameter_count} parameters, {config.precision}")
    told = checkpoint.progress["settings"]
    if told:
        shown = [f"{key} {value:g}" + (f" ({shown_default(getattr(config, key))} was given and wins)"
                                       if getattr(config, key) != value else "") for key, value in told.items()]
        say(f"from the module in the file: {', '.join(shown)}")
    assumed = [f"{key} {shown_default(getattr(config, key))}" for key in NOT_IN_WEIGHTS
               if key not in given and key not in told and _matters(key, config)]
    if assumed:
        say(f"not in the file, so defaults: {', '.join(assumed)}; give them as flags")
    say(f"wrote {target}")


def _matters(key: str, config: Config) -> bool:
    modality = {"max_len": "text"}.get(key, key.split("_")[0])
    return config.dataset == "iemocap" if key == "emotion" else modality in config.modalities


if __name__ == "__main__":
    sys.exit(main())
