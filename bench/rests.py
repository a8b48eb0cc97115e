"""What could stand for the classes that topK does not name, and how many classes its bits could name instead: KL at
temperatures 1, 3 and 10, K = 16.

    python -m bench.rests                      simulated logits of 1,000 classes, peaked and smoothed
    python -m bench.rests logits.npy           float32 (rows, C) of a teacher, for example one that bench.codecs saved

The rest's one value has the rest's mass at a temperature, or is its mean; a spread gives the rest's classes values of that
mean and spread in an arbitrary order, since their own order is not stored; a codebook gives them the mean logits of rows
with the same hard label, fitted on five sixths of the rows, with a scale per row by least squares.
"""

from collections.abc import Iterator
from pathlib import Path

import click
import numpy as np

from bench.codecs import TAUS, divergence, peaked, smoothed, variation
from pipeline.cache.topk import REST_TAU

K, NAMED, BITS = 16, 28, 6


def of_named(logits: np.ndarray, n: int, bits: int) -> tuple[np.ndarray, np.ndarray]:
    """Which n classes are named, bool (m, C), and logits float64 with those on topK's scale of that many bits."""
    named = logits >= np.partition(logits, -n, -1)[:, -n, None]
    top, levels = logits.max(-1, keepdims=True).astype(np.float64), 2**bits - 1
    step = (top - np.where(named, logits, np.inf).min(-1, keepdims=True)) / levels**2
    level = np.rint(np.sqrt(np.maximum((top - logits) / step - 0.25, 0)))
    return named, np.where(named, top - step * level**2, logits)


def with_mass(logits: np.ndarray, named: np.ndarray, shape: np.ndarray | float, tau: float) -> np.ndarray:
    """``shape`` for the rest, moved so that its mass at ``tau`` is the rest's."""

    def mass(values: np.ndarray) -> np.ndarray:
        rest = np.where(named, -np.inf, values) / tau
        top = rest.max(-1, keepdims=True)
        return tau * (top + np.log(np.exp(rest - top).sum(-1, keepdims=True)))

    full = np.broadcast_to(np.asarray(shape, np.float64), logits.shape)
    return full + mass(logits.astype(np.float64)) - mass(full)


def codebook(fit: np.ndarray, logits: np.ndarray, named: np.ndarray) -> np.ndarray:
    """The rest as the mean logits of the hard label's rows in ``fit``, scaled per row; zero mean over the rest."""
    book, label = np.zeros((fit.shape[-1], fit.shape[-1])), fit.argmax(-1)
    np.add.at(book, label, fit - fit.mean(-1, keepdims=True))
    book /= np.maximum(np.bincount(label, minlength=len(book)), 1)[:, None]
    count = (~named).sum(-1, keepdims=True)
    centred = [
        np.where(named, 0, values - np.where(named, 0, values).sum(-1, keepdims=True) / count)
        for values in (book[logits.argmax(-1)], logits.astype(np.float64))
    ]
    spread = np.maximum((centred[0] ** 2).sum(-1, keepdims=True), 1e-12)
    return centred[0] * (centred[0] * centred[1]).sum(-1, keepdims=True) / spread


def trials(fit: np.ndarray, logits: np.ndarray) -> Iterator[tuple[str, np.ndarray]]:
    named, kept = of_named(logits, NAMED, BITS)
    for tau, name in ((1.0, "1"), (REST_TAU, "1.44 (topK)"), (2.0, "2"), (3.0, "3")):
        yield f"mass at {name}", np.where(named, kept, with_mass(logits, named, 0.0, tau))
    rest = np.where(named, np.nan, logits.astype(np.float64))
    mean, spread = np.nanmean(rest, -1, keepdims=True), np.nanstd(rest, -1, keepdims=True)
    yield "mean", np.where(named, kept, mean)
    noise = np.random.default_rng(0).normal(size=logits.shape)
    yield "mean and spread", np.where(named, kept, mean + spread * noise)
    shape = codebook(fit, logits, named)
    for tau, name in ((1.0, "1"), (REST_TAU, "1.44")):
        yield f"codebook, mass at {name}", np.where(named, kept, with_mass(logits, named, shape, tau))
    for n, bits in ((16, 8), (24, 7), (28, 6), (32, 5), (40, 4)):
        if n < logits.shape[-1]:
            named, kept = of_named(logits, n, bits)
            yield f"{n} named at {bits} bits", np.where(named, kept, with_mass(logits, named, 0.0, REST_TAU))


def table(name: str, logits: np.ndarray) -> None:
    cut = len(logits) * 5 // 6
    print(f"\n**{name}** ({len(logits) - cut} rows)\n")
    print("| rest | KL tau 1 | 3 | 10 | TV tau 1 | 3 | 10 |\n|---|---|---|---|---|---|---|")
    for kind, other in trials(logits[:cut], logits[cut:]):
        cells = [
            f"{measure(logits[cut:], other, tau).mean():.4f}" for measure in (divergence, variation) for tau in TAUS
        ]
        print(f"| {kind} | {' | '.join(cells)} |")


@click.command(help=__doc__)
@click.argument("source", required=False, type=click.Path(exists=True, path_type=Path))
@click.option("--rows", default=18_000, show_default=True)
def main(source: Path | None, rows: int) -> None:
    if source is not None:
        logits = np.load(source, allow_pickle=False).astype(np.float32)[:rows]
        if logits.shape[-1] <= NAMED:
            raise SystemExit(
                f"{source}: expected more than {NAMED} classes, found {logits.shape[-1]}: nothing is a rest"
            )
        table(source.stem, logits)
        return
    table("simulated, peaked, 1,000 classes", peaked(rows))
    table("simulated, smoothed, 1,000 classes", smoothed(peaked(rows)))


if __name__ == "__main__":
    main()
