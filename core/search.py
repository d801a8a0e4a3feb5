"""`python -m core.search --help`: hyperparameters by validation loss."""
import sys

from core.studies.search import main

if __name__ == "__main__":
    sys.exit(main())
