"""`python -m backends.mindspore.evaluate --help`"""
import sys

from core.commands import main

if __name__ == "__main__":
    sys.exit(main("evaluate", "mindspore"))
