"""Fused attention, forward and backward (see README.md beside this file)."""
