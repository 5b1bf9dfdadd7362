"""The numbers of DPM-Solver (Lu et al., 2022): a prediction as a polynomial of lambda, integrated over a step h.

The polynomial is D0 + D1 s + D2 s^2 of the share s of the step, by divided differences of this and earlier predictions.
"""

import math


def integrals_of_x0(h: float, order: int, sde: bool, midpoint: bool) -> list[float]:
    """The weights of D0, D1 and D2 where x0 is predicted (DPM-Solver++), but for alpha at the step's end.

    Args:
        sde: whether it is the stochastic equation, in which noise fades twice as fast.
        midpoint: of the second order, whether D1 is taken in the middle of the step.
    """
    k = 2 * h if sde else h
    whole = -math.expm1(-k)
    # Of the SDE the third would be 1/2 + ...; diffusers has -1/2, and what stands in for it has its numbers.
    third = (whole - k) / k**2 + (-0.5 if sde else 0.5) if order > 2 else 0.0
    return [whole, whole / 2 if midpoint else 1 - whole / k if order > 1 else 0.0, third][:order]


def integrals_of_eps(h: float, order: int, sde: bool, midpoint: bool) -> list[float]:
    """The same where eps is predicted (DPM-Solver), but for sigma at the step's end."""
    whole = -math.expm1(h)
    third = 0.5 + (whole + h) / h**2 if order > 2 else 0.0
    weights = [whole, whole / 2 if midpoint else 1 + whole / h if order > 1 else 0.0, third][:order]
    return [2 * w for w in weights] if sde else weights


def weights_of_predictions(integrals: list[float], lambdas: list[float]) -> list[float]:
    """Differences multiplied out: the weights of this prediction and of earlier ones.

    Args:
        lambdas: where the step ends, where it begins, and where earlier ones began.
    """
    if len(integrals) == 1:
        return integrals
    h = lambdas[0] - lambdas[1]
    r0 = (lambdas[1] - lambdas[2]) / h
    if len(integrals) == 2:
        first = integrals[1] / r0
        return [integrals[0] + first, -first]
    r1 = (lambdas[2] - lambdas[3]) / h
    # D1 = a + r0 / (r0 + r1) (a - b), D2 = (a - b) / (r0 + r1), with a = (m0 - m1) / r0 and b = (m1 - m2) / r1
    rest = (integrals[1] * r0 + integrals[2]) / (r0 + r1)
    a, b = (integrals[1] + rest) / r0, -rest / r1
    return [integrals[0] + a, b - a, -b]
