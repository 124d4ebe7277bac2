"""Layers from which networks are built: specs, their notation, residual blocks."""
