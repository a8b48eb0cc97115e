"""Command-line stages: each parses names and paths, loads its config and makes one library call.

A stage imports what it needs inside its function, so that --help and light stages start without torch.
"""

from pipeline.runtime.interrupt import end_quietly_at_once

end_quietly_at_once()

from pathlib import Path  # noqa: E402 - an import takes a while, and Ctrl-C may come meanwhile

import click  # noqa: E402 - as above

FOLDER = click.Path(path_type=Path)
params_option = click.option("--params", type=FOLDER, default=Path("params.yaml"), show_default=True)
work_option = click.option(
    "--work", type=FOLDER, default=Path("work"), show_default=True, help="Where all stages read and write."
)
shards_option = click.option("--shards", help="Default: shards in --work; another folder, or s3://bucket/prefix.")
