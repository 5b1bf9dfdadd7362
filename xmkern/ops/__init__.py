"""Registered operators, one folder a family. Public calls are in ``xmkern.functional``."""
