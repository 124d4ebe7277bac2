"""Neuron influence on the confidence in a class (Chen et al. 2021, arXiv 2112.13060): front and tail, and what attacks change."""
