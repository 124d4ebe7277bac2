"""Attacks: threats, criteria, the harness that judges them, the catalogue, what is recorded of a run."""
