"""Classifiers and data sets: architectures, layers, neurons, what is known of a model before it is attacked."""
