"""Rankings of neurons, how alike they are, and what says that they mean anything."""
