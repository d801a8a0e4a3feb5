"""ModelZoo's entry for a short training: python modelarts_entry_perf.py --data_url=DIR --train_url=DIR; or --help"""
import os
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
os.execv(sys.executable, [sys.executable, "-m", "core.modelzoo", "perf", "--settings",
                          str(ROOT / "configs" / "iemocap" / "ascend"), *sys.argv[1:]])
