"""Robust vision encoders, learned without labels."""

__version__ = "0.1.0"
