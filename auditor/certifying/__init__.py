"""Proofs that no perturbation within a threat model changes an answer: bounds, and the catalogue of certificates."""
