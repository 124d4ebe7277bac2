"""The harness that runs attacks and judges them, and what attacks share: optimisers, losses, starting points."""
