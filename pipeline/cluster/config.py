"""The settings of a cluster, one section per kind of job: ``cluster.yaml``, which belongs to a machine and not to the project."""

import os
from pathlib import Path
from typing import Annotated

from pydantic import Field, model_validator

from pipeline.runtime.config import Config, read_yaml, validate
from pipeline.runtime.errors import UsageError

EXAMPLE = Path("configs/slurm/cluster.yaml")
_NAME = r"^[\w.,-]+$"
_LINE = r"^[^\n\r\x00]+$"
Line = Annotated[str, Field(pattern=_LINE)]


class JobKind(Config):
    """What one kind of job asks Slurm for."""

    partition: str = Field(pattern=_NAME)
    """Name of the partition, as ``sinfo`` shows it."""
    account: str | None = Field(default=None, pattern=_NAME)
    """Who pays; null where Slurm knows it."""
    qos: str | None = Field(default=None, pattern=_NAME)
    """Quality of service; null is the partition's."""
    gpus: int = Field(default=0, ge=0, le=64)
    """GPUs of each node. A job has one rank per GPU, and one rank on a node without."""
    cpus: int = Field(ge=1, le=4096)
    """Cores of each rank."""
    memory: str | None = Field(default=None, pattern=r"^\d+[KMGT]?$")
    """Memory of each node, such as ``64G``; ``0`` is all of it, null what Slurm gives."""
    time: str = Field(pattern=r"^(\d+-)?\d{1,3}:\d\d:\d\d$")
    """Limit of one start, ``days-hours:minutes:seconds`` or ``hours:minutes:seconds``, in quotes. The job is told two minutes
    before, saves, and goes on after it has waited in the queue again."""
    nodes: int = Field(default=1, ge=1, le=1024)
    """Nodes of one job; ``nodes`` x ``gpus`` ranks of a training divide its ``lanes``."""
    array: int = Field(default=1, ge=1, le=100_000)
    """Of ``label`` only: how many jobs share the parts of a cache."""
    setup: tuple[Line, ...] = ()
    """Shell lines that make ``python`` the project's (``module load ...``, ``conda activate ...``); none is ``.venv``."""
    sbatch: tuple[Annotated[str, Field(pattern=r"^--?[^\n\r\x00]+$")], ...] = ()
    """Further flags of ``sbatch``, such as ``--constraint=a100``."""

    @property
    def ranks(self) -> int:
        """Ranks on each node."""
        return max(1, self.gpus)


class ClusterConfig(Config):
    """A kind of job per section."""

    cpu: JobKind
    """Packs images, writes the report, records with DVC: one process."""
    label: JobKind
    """Labels views with a teacher, and publishes the cache."""
    train: JobKind
    """Trains students, fits teachers."""
    evaluate: JobKind
    """Asks students and teachers about the test sets; brings a teacher's weights."""

    @model_validator(mode="after")
    def _one_process(self) -> "ClusterConfig":
        if self.cpu.nodes > 1 or self.cpu.gpus:
            raise ValueError("cpu: its jobs are one process without a GPU; remove nodes and gpus")
        for kind in ("cpu", "train", "evaluate"):
            if getattr(self, kind).array > 1:
                raise ValueError(f"{kind}.array: only label is an array; remove the key")
        return self


def load_cluster(path: Path | None = None) -> tuple[Path, ClusterConfig]:
    """``path``, else the file that DISTIL_CLUSTER names, else ``cluster.yaml``, and its content. Raises UsageError."""
    path = path or Path(os.environ.get("DISTIL_CLUSTER") or "cluster.yaml").expanduser()
    if not path.is_file():
        raise UsageError(f"{path}: no such file; copy {EXAMPLE}, and fill in the partitions of this cluster")
    return path, validate(ClusterConfig, read_yaml(path), str(path))
