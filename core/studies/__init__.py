"""What many runs make: tables and searches."""
