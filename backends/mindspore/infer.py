"""`python -m backends.mindspore.infer --help`"""
import sys

from core.commands import main

if __name__ == "__main__":
    sys.exit(main("infer", "mindspore"))
