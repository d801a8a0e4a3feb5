"""`python -m core.reference --help`: docs/configuration.md from the schema."""
import sys

from core.config.reference import main

if __name__ == "__main__":
    sys.exit(main())
