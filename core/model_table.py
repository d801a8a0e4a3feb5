"""`python -m core.models lmf --dataset pom`: a model as a table of its blocks."""
from __future__ import annotations

import math
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace

from rich.measure import Measurement
from rich.table import Table

from core.common.errors import UserError
from core.common.guard import guarded
from core.config import Config, build_graph, make_config
from core.config.flags import Parser, make_parser, read_values
from core.console import PlainConsole, console
from core.data.specs import InputSpec
from core.models import MODELS
from core.models.graph import DROPOUT, FROZEN, OUTPUT, STATISTICS, Graph, Node, ParameterSpec

FIRST = "the first argument"
WIDEST = 10_000  # columns
SEEN_ELSEWHERE = ("out", "group", "factors", "weights", "bias")  # options that other columns of a block's row show


def _parser() -> Parser:
    parser = make_parser("python -m core.models", "Show a model as a table of its blocks: what each takes, gives and "
                                                  "owns. Widths are those of the published data.")
    parser.add_argument("called", nargs="?", metavar="MODEL", help=f"{', '.join(MODELS)} [lmf]")
    return parser


def read(argv: Sequence[str]) -> Config:
    """The configuration of a call. Raises UserError, also where the name of the model is said twice, differently."""
    given = _parser().parse(argv)
    values, origin = read_values(given)
    called = given.get("called")
    if called is not None and values.setdefault("model", called) != called:
        raise UserError(f"model = {values['model']!r} (from {origin['model']}): {FIRST} says {called!r}; give one")
    return make_config(values, {"model": FIRST, **origin})


def show(config: Config, graph: Graph) -> None:
    """Print the table, and totals below it. It is as wide as it has to be: a row that wraps can't be read."""
    table = Table("block", "kind", "takes", "gives", "parameters", title_justify="left",
                  title=f"{graph.model.upper()} on {config.dataset}: {MODELS[graph.model].about}")
    table.add_column("scalars", justify="right")
    table.add_column("group")
    table.add_column("half from")
    for column in table.columns:
        column.no_wrap = True
    for one in graph.inputs:
        table.add_row(one.name, "input", "", _shape(one.shape))
    table.add_section()
    called = {place: one.name for place, one in enumerate(graph.inputs)}
    for node in graph.nodes:
        called[node.output.index] = node.name
        table.add_row(node.name, _kind(node), _lines(called[place] for place in node.inputs),
                      _shape(node.output.shape) + (f" {OUTPUT}" if node is graph.nodes[-1] else ""),
                      _lines(f"{node.local(p.name)} {_shape(p.shape)}" for p in node.parameters),
                      _lines(str(_count([p])) for p in node.parameters), _lines(p.group for p in node.parameters),
                      node.half)
    width = Measurement.get(console, console.options.update(max_width=WIDEST), table).maximum
    PlainConsole(highlight=False, soft_wrap=True, width=width).print(table)
    for line in totals(graph):
        console.print(line)


def totals(graph: Graph) -> Iterator[str]:
    """What all blocks have together."""
    counts = f"{graph.parameter_count} trained scalars, {_count(graph.group(FROZEN))} frozen"
    yield f"{counts}, {_count(graph.group(STATISTICS))} of statistics"
    for group in graph.groups:
        yield (f"group {group.name}: {_count(graph.group(group.name))} scalars, learning rate {group.rate:g}, weight "
               f"decay {group.decay:g}")
    sites = ", ".join(f"{site.name} {site.rate:g} of {_shape(site.shape)}" for site in graph.dropout_sites)
    yield f"dropout: {sites or 'none'}"


def published_inputs(config: Config) -> tuple[InputSpec, ...]:
    """The inputs of the configuration at published widths, with as many steps as it keeps."""
    return tuple(replace(one, shape=(min(one.shape[0], config.max_len or one.shape[0]), *one.shape[1:]))
                 if one.layout == "sequence" else one for one in config.described.inputs)


def _kind(node: Node) -> str:
    """`linear (activation relu)`."""
    options = {"rate": f"{node['site'].rate:g}"} if node.kind == DROPOUT else {
        name: value for name, value in node.options.items() if name not in SEEN_ELSEWHERE}
    said = ", ".join(f"{name} {value}" for name, value in options.items())
    return f"{node.kind} ({said})" if said else node.kind


def _count(parameters: Sequence[ParameterSpec]) -> int:
    return sum(math.prod(p.shape) for p in parameters)


def _shape(shape: Sequence[int]) -> str:
    return " x ".join(map(str, shape))


def _lines(texts: Iterator[str]) -> str:
    return "\n".join(texts)


def main(argv: Sequence[str] | None = None) -> int:
    """The command. Exit codes as those of every command."""
    arguments = sys.argv[1:] if argv is None else list(argv)

    def run() -> None:
        config = read(arguments)
        show(config, build_graph(config, published_inputs(config)))

    return guarded(arguments, run)


if __name__ == "__main__":
    sys.exit(main())
