"""LMF in Paddle."""
import warnings

# Paddle looks for a compiler cache when imported; nothing is compiled here.
warnings.filterwarnings("ignore", message="No ccache found", category=UserWarning)
