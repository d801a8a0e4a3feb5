"""docs/accelerators.md says what core says."""
from __future__ import annotations

import re

from core.models import ALL_KINDS
from core.models.graph import DROPOUT, Node
from core.models.precision import Level
from tests.running import ROOT

PAGE = (ROOT / "docs" / "accelerators.md").read_text(encoding="utf-8")


def test_every_kind_of_block_is_there_with_what_it_computes_in() -> None:
    said: dict[str, tuple[str, str]] = {}
    for line in PAGE.splitlines():
        if found := re.fullmatch(r"\| (`.*`) \| (half|float32) \| (half|float32) \|", line):
            said.update(dict.fromkeys(re.findall(r"`(\w+)`", found[1]), (found[2], found[3])))
    levels: tuple[Level, ...] = ("O1", "O2")
    specs = {kind: spec.half for kind, spec in ALL_KINDS.items()} | {DROPOUT: Node.half}
    assert said == {kind: tuple("half" if half == "O1" or half == level == "O2" else "float32" for level in levels)
                    for kind, half in specs.items()}
