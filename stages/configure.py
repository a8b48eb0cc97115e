"""Composes params.yaml from configs/; runs nothing.

python -m stages.configure                                          the digits demo
python -m stages.configure data=imagenet student=deit_tiny,deit_small train.epochs=100
"""

from pathlib import Path

import click

from pipeline import compose
from pipeline.runtime import say, stage


@click.command(help=__doc__)
@click.argument("choices", nargs=-1)
@click.option("--configs", type=click.Path(path_type=Path), default=Path("configs"), show_default=True)
@click.option("--out", type=click.Path(path_type=Path), default=Path("params.yaml"), show_default=True)
@stage
def main(choices: tuple[str, ...], configs: Path, out: Path) -> None:
    params = compose.compose(configs, list(choices))
    compose.write(params, out, list(choices))
    say(f"{out}: {params['data']['source']}, students {', '.join(params['students'])}; now run: dvc repro")


if __name__ == "__main__":
    main()
