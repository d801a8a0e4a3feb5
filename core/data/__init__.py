"""Data sets: read once, checked, cleaned, stored, and handed to every backend as the same arrays."""
from __future__ import annotations

from core.data.load import load_dataset
from core.data.record import Dataset, Split

__all__ = ["Dataset", "Split", "load_dataset"]
