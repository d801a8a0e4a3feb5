"""LMF in PyTorch."""
