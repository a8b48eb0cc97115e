"""Composes params.yaml from configs/; runs nothing.

\b
python -m stages.configure                                          the digits demo
python -m stages.configure data=imagenet student=deit_tiny,deit_small training.epochs=100
"""

import os
from pathlib import Path

import click

from pipeline.runtime.config import read_yaml
from pipeline.runtime.progress import say
from pipeline.runtime.stage import stage
from stages import FOLDER


@click.command(help=__doc__)
@click.argument("choices", nargs=-1)
@click.option("--configs", type=FOLDER, default=Path("configs"), show_default=True)
@click.option("--params", type=FOLDER, default=Path("params.yaml"), show_default=True)
@click.option("--check", "only_check", is_flag=True, help="Write nothing: check an edited params.yaml whole.")
@click.option("--weights", type=FOLDER, help="With --check: write hashes of named weights there.")
@click.option("--keys", is_flag=True, help="Write only the tables of keys in the configs' README.md.")
@stage
def main(
    choices: tuple[str, ...], configs: Path, params: Path, only_check: bool, weights: Path | None, keys: bool
) -> None:
    from pipeline.planning.advice import advice
    from pipeline.planning.check import check, refused_by_dvc
    from pipeline.planning.keys import write_tables
    from pipeline.planning.params import compose, freeze, write_params, write_weights

    if keys:
        write_tables(configs / "README.md")
        return
    if only_check:
        pieces = check(read_yaml(params), os.environ)
        for told in [*advice(pieces), *filter(None, [refused_by_dvc(params.absolute().parent)])]:
            say(f"warning: {told}")
        if weights is not None:
            write_weights(pieces, weights)
        counts = [f"{len(getattr(pieces, kind))} {kind}" for kind in ("students", "teachers", "caches")]
        sizes = sorted({of.size for of in pieces.recipes.values()})
        say(f"ok: {', '.join(counts)}, views of {' and '.join(map(str, sizes))} px")
        return
    composed = compose(configs, list(choices))
    freeze(list(choices), Path("work"))
    pieces = check(composed, os.environ, files=False)
    write_params(composed, params, list(choices))
    for told in advice(pieces):
        say(f"warning: {told}")
    say(f"{params}: {composed['data']['source']}, students {', '.join(composed['students'])}; now run: dvc repro")


if __name__ == "__main__":
    main()
