"""Who callers are and what they may do: one module for each way to know it."""
