"""The zoo at work: real tasks, recipes that train each system on one, and a report of what they reached.

``python -m xmkern zoo list``, ``card NAME``, ``train NAME`` and ``report``.
"""
