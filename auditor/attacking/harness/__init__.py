"""The harness that runs attacks and judges them, and what attacks share: optimizers, losses, starting points."""
