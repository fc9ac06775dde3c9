"""Metadata port and its SQL adapters."""
