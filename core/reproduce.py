"""`python -m core.reproduce --help`: the tables of the papers."""
import sys

from core.studies.reproduce import main

if __name__ == "__main__":
    sys.exit(main())
