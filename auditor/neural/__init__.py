"""Neuron-level evidence: analyses and what they are made of."""
