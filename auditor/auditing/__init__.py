"""The audit: its spec, its plan, checks, corruptions, and its result."""
