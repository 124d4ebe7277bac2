"""Delta-values: how far one neuron must move to change a prediction (Suri and Evans 2020, arXiv 2003.09372)."""
