"""Composes params.yaml from configs/; runs nothing.

\b
python -m stages.configure                                          the digits demo
python -m stages.configure data=imagenet student=deit_tiny,deit_small train.epochs=100
"""

import os
from pathlib import Path

import click

from pipeline.planning import params as rules
from pipeline.planning.params import check_files, compose, write, write_weights
from pipeline.runtime.config import read_yaml
from pipeline.runtime.progress import say
from pipeline.runtime.stage import stage


@click.command(help=__doc__)
@click.argument("choices", nargs=-1)
@click.option("--configs", type=click.Path(path_type=Path), default=Path("configs"), show_default=True)
@click.option("--params", "--out", "out", type=click.Path(path_type=Path), default="params.yaml", show_default=True)
@click.option("--check", is_flag=True, help="Write nothing: check every section and key of an edited params.yaml.")
@click.option("--weights", type=click.Path(path_type=Path), help="With --check: write hashes of named weights there.")
@stage
def main(choices: tuple[str, ...], configs: Path, out: Path, check: bool, weights: Path | None) -> None:
    if check:
        params = read_yaml(out)
        rules.check(params)
        check_files(params, os.environ)
        if weights is not None:
            write_weights(params, weights)
        return
    params = compose(configs, list(choices))
    write(params, out, list(choices))
    say(f"{out}: {params['data']['source']}, students {', '.join(params['students'])}; now run: dvc repro")


if __name__ == "__main__":
    main()
