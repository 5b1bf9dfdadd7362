"""Launches the C++ kernels: makes the memory, passes addresses and strides."""


def refuses(*args: object) -> str | None:
    return "the C++ kernels of attention are not built yet"
