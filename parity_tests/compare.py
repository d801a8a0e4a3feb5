from parity.compare import assert_same, first_difference  # noqa: F401
