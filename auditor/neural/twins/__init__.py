"""Clean images and their perturbed twins, as analyses read them."""
