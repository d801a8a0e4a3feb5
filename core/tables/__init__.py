"""A place for the command `python -m core.tables.report`; its room is core.studies.tables."""
