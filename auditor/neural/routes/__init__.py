"""Influence between neighbouring layers, and the critical attacking routes that follow from it (Li et al. 2021)."""
