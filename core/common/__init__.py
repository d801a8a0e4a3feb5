"""What every room uses: errors, files, arrays, text, signals."""
