"""What the training loop and the hardening methods are made of: the network in training, its batches, its checkpoints."""
