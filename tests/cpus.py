"""The numerical tests as other CPUs run them, and on a busy machine: `python -m tests.cpus [--short] [NAME ...]`.

A test that passes on one CPU alone asserts a rounding; one that passes on a quiet machine alone depends on being fast.
Every library has a variable that keeps it from what this CPU could do. It is read at import: so each environment is a
pytest of its own, whose workers and commands inherit it.
"""
from __future__ import annotations

import argparse
import contextlib
import multiprocessing
import os
import platform
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from multiprocessing.context import SpawnProcess
from pathlib import Path

from numpy.core._multiarray_umath import __cpu_dispatch__, __cpu_features__  # NumPy 1.26 has no public name for them

ROOT = Path(__file__).resolve().parents[1]
LEVELS = {  # MKL_DEBUG_CPU_TYPE is for the MKL of 2019 that Paddle has, and GLIBC_TUNABLES for exp and log of libm
    "avx2": {"ONEDNN_MAX_CPU_ISA": "AVX2", "ATEN_CPU_CAPABILITY": "avx2", "MKL_ENABLE_INSTRUCTIONS": "AVX2",
             "MKL_DEBUG_CPU_TYPE": "5", "OPENBLAS_CORETYPE": "Haswell"},
    "lowest": {"ONEDNN_MAX_CPU_ISA": "SSE41", "ATEN_CPU_CAPABILITY": "default", "MKL_ENABLE_INSTRUCTIONS": "SSE4_2",
               "MKL_DEBUG_CPU_TYPE": "3", "OPENBLAS_CORETYPE": "Prescott",
               "GLIBC_TUNABLES": "glibc.cpu.hwcaps=-AVX512F,-AVX2,-FMA,-FMA4"},
}
NAMES = (*LEVELS, "busy")
# What is left out: files whose tests neither compute with a framework or a sum, nor wait for another process.
OTHERS = ("config", "configs", "convert_refused", "data_store", "data_unpickle", "files", "graph", "keys",
          "model_table", "old_flags", "published", "setup", "tables_files", "tables_figures")
SHORT = (
    "tests/test_randomness.py::test_pinned_weights",
    "tests/test_data_synthetic.py::test_same_bytes_everywhere[pom]",
    "tests/test_oracle.py",
    "tests/test_precision.py::test_an_overflow_skips_its_step_and_nothing_else",
    "parity_tests/test_rungs.py::test_forward",
    "parity_tests/test_rungs.py::test_gradients",
    "parity_tests/test_divergences_frameworks.py::test_torch_threads",
)


def variables(name: str) -> dict[str, str]:
    """What an environment sets. Of NumPy's features, those that this CPU has are named."""
    if name == "busy":
        return {}
    unwanted = [feature for feature in __cpu_dispatch__
                if __cpu_features__[feature] and (name == "lowest" or feature.startswith("AVX512"))]
    return {**LEVELS[name], **({"NPY_DISABLE_CPU_FEATURES": " ".join(unwanted)} if unwanted else {})}


def missing(name: str) -> str | None:
    """Why this machine can't run an environment; None where it can."""
    if name in LEVELS and platform.machine() not in ("x86_64", "AMD64"):
        return f"its variables mean nothing to a CPU of kind {platform.machine()}"
    if name == "avx2" and not __cpu_features__["AVX2"]:
        return "this CPU has no AVX2"
    return None


def spin(core: int | None, parent: int) -> None:
    """Keep `core` busy for as long as `parent` lives; it ends this process, and Ctrl-C is for the parent alone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if core is not None:
        os.sched_setaffinity(0, {core})
    while os.getppid() == parent:
        for _ in range(1_000_000):
            pass


@contextlib.contextmanager
def busy_cores() -> Iterator[list[SpawnProcess]]:
    """Within the block, every core that this process may use has another process that never rests."""
    cores: Sequence[int | None] = (sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity")
                                   else [None] * (os.cpu_count() or 1))
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=spin, args=(core, os.getpid()), daemon=True) for core in cores]
    try:
        for process in processes:
            process.start()
        yield processes
    finally:
        for process in processes:
            if process.pid is not None:
                process.kill()
                process.join()


def pytest_run(chosen: Sequence[str], changes: dict[str, str]) -> tuple[bool, str]:
    """Run the tests, showing what pytest prints. Returns whether all passed, and pytest's last line."""
    last = "pytest printed nothing"
    with subprocess.Popen([sys.executable, "-m", "pytest", "-q", *chosen], cwd=ROOT, env={**os.environ, **changes},
                          stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            print(line, end="", flush=True)
            last = line.strip() or last
    return process.returncode == 0, last if process.returncode in (0, 1) else f"{last} (exit {process.returncode})"


def run(name: str, chosen: Sequence[str]) -> tuple[bool, str]:
    """One environment: whether it passed, and what there is to say of it."""
    reason = missing(name)
    if reason:
        return True, f"not run: {reason}"
    changes = variables(name)
    said = " ".join(f"{key}='{value}'" for key, value in changes.items())
    if name != "busy":
        print(f"\n== {name}: {said}", flush=True)
        return pytest_run(chosen, changes)
    with busy_cores() as processes:
        print(f"\n== {name}: {len(processes)} cores, a process on each that never rests", flush=True)
        passed, line = pytest_run(chosen, changes)
        rested = sum(not process.is_alive() for process in processes)
    return passed and not rested, f"{line}; {rested} of these processes ended before the tests" if rested else line


def selection(short: bool) -> list[str]:
    """The tests to run, as pytest takes them."""
    if short:
        return list(SHORT)
    return ["parity_tests", "tests", *(f"--ignore=tests/test_{name}.py" for name in OTHERS)]


def main(arguments: Sequence[str]) -> int:
    """Exit code 0 when the tests pass in every environment, 1 when they fail in one."""
    parser = argparse.ArgumentParser(prog="python -m tests.cpus",
                                     description="The numerical tests as other CPUs run them, and on a busy machine.")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"{', '.join(NAMES)}; all of them if none is named")
    parser.add_argument("--short", action="store_true", help="a small selection, as CI runs it")
    flags = parser.parse_args(arguments)
    unknown = sorted(set(flags.names) - set(NAMES))
    if unknown:
        parser.error(f"unknown environment {unknown[0]!r}; expected {', '.join(NAMES)}")
    found = {name: run(name, selection(flags.short)) for name in flags.names or NAMES}
    print()
    for name, (passed, line) in found.items():
        print(f"{name:8}{'passed' if passed else 'FAILED':8}{line}")
    return 0 if all(passed for passed, _ in found.values()) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
