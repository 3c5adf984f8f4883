"""Percentile bootstrap intervals by scipy, resampled by prompt: writes bootstrap.json beside this file.

Needs numpy and scipy (scipy.stats.bootstrap, method "percentile").
"""

import json
import pathlib

import numpy as np
from scipy.stats import bootstrap

RESAMPLES = 200_000


def interval(columns, statistic, seed):
    result = bootstrap(
        columns,
        statistic,
        n_resamples=RESAMPLES,
        method="percentile",
        confidence_level=0.95,
        vectorized=True,
        paired=True,
        batch=2000,
        rng=np.random.default_rng(seed),
    )
    return float(result.confidence_interval.low), float(result.confidence_interval.high), float(result.standard_error)


def mean(x, axis=-1):
    return np.mean(x, axis=axis)


def ratio(part, whole, axis=-1):
    return np.sum(part, axis=axis) / np.sum(whole, axis=axis)


def difference(one, other, axis=-1):
    return np.mean(one, axis=axis) - np.mean(other, axis=axis)


def case(kind, columns, statistic, seed):
    low, high, deviation = interval(columns, statistic, seed)
    rows = np.stack(columns, axis=1).tolist()
    value = float(statistic(*columns))
    return {"kind": kind, "rows": rows, "value": value, "low": low, "high": high, "deviation": deviation}


def main():
    rng = np.random.default_rng(11)
    utilities = rng.integers(0, 9, 60) / 8
    skewed = rng.exponential(1.0, 40)
    whole = rng.integers(1, 9, 50).astype(float)
    part = np.floor(whole * rng.random(50))
    better = np.clip(utilities + rng.normal(0.1, 0.2, 60), 0, 1)
    cases = [
        case("mean", (utilities,), mean, 1),
        case("mean", (skewed,), mean, 2),
        case("ratio", (part, whole), ratio, 3),
        case("difference", (better, utilities), difference, 4),
    ]
    path = pathlib.Path(__file__).parent / "bootstrap.json"
    path.write_text(json.dumps(cases) + "\n")


if __name__ == "__main__":
    main()
