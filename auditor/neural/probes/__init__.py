"""Looking into a network while it runs, and changing what it computes."""
