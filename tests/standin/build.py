"""`python tests/standin/build.py FOLDER` makes the package torch_npu in FOLDER: a stand-in, see npu.cpp.

It compiles one file, with torch's own headers. Exit code 1 and a line when there is no compiler.
"""
from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

from torch.utils.cpp_extension import get_cxx_compiler, include_paths, library_paths

HERE = Path(__file__).resolve().parent


def build(folder: Path) -> None:
    """Raises SystemExit with what the compiler said."""
    package = folder / "torch_npu"
    shutil.copytree(HERE / "torch_npu", package, ignore=shutil.ignore_patterns("__pycache__"))
    command = [get_cxx_compiler(), "-shared", "-fPIC", "-std=c++20", "-O0", "-w",
               *(f"-I{path}" for path in include_paths()), str(HERE / "npu.cpp"), "-o", str(package / "standin.so"),
               *(f"-L{path}" for path in library_paths()), "-ltorch_cpu", "-lc10"]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)}\n{done.stderr}")


if __name__ == "__main__":
    build(Path(sys.argv[1]))
