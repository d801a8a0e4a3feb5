"""`python -m core.tables.report FOLDER`: the tables of a plan, written again."""
import sys

from core.studies.tables.report import main

if __name__ == "__main__":
    sys.exit(main())
