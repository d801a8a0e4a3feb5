"""`python -m backends.torch.train --help`"""
import sys

from core.commands import main

if __name__ == "__main__":
    sys.exit(main("train", "torch"))
