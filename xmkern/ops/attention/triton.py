"""Launches the Triton kernels."""


def refuses(*args: object) -> str | None:
    return "the Triton kernels of attention are not written yet"
