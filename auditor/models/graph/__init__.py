"""Networks that are graphs: their steps as data, the modules of these, and the network that runs them."""
