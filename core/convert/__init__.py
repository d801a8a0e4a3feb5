"""Published weights: checkpoints of the ports, read without executing anything in them, as our checkpoints.

    python -m core.convert --input FILE.pkl --output FILE.safetensors
"""
from __future__ import annotations

from core.convert.architecture import convert

__all__ = ["convert"]
