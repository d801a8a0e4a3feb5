"""A stand-in for an Ascend NPU on host memory: built, and checked, by tests/test_standin.py."""
