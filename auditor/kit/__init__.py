"""What every wing uses: errors, flags, progress, randomness, devices, provenance, statistics."""
