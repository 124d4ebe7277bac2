"""Hardening: methods that change the weights, their training and its result."""
