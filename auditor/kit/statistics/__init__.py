"""Means, correlations and counts, with their intervals."""
