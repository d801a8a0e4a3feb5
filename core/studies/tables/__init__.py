"""Tables of results beside published numbers: what others report, as data."""
