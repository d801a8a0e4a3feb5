"""`python -m backends.mindspore.export --help`"""
import sys

from core.commands import main

if __name__ == "__main__":
    sys.exit(main("export", "mindspore"))
