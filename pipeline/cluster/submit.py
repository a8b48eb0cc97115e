"""One chain of jobs from the login node to the report, and the record job that tells DVC what they made."""

import fcntl
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from pipeline.base.constraints import Misfit, require_world_size
from pipeline.base.files import digest
from pipeline.cluster import slurm
from pipeline.cluster.config import ClusterConfig, JobKind
from pipeline.cluster.graph import LISTS, Graph, load_graph
from pipeline.cluster.script import JOBS, Job, comment, sbatch_text
from pipeline.planning.pieces import Pieces, parse_pieces
from pipeline.runtime.config import is_hub, read_yaml
from pipeline.runtime.errors import RetryError, UsageError
from pipeline.runtime.progress import say

_KINDS = {"precompute": "label", "train": "train", "answers": "evaluate", "evaluate": "evaluate"}  # others: cpu
RECORD = "record"


@dataclass(frozen=True)
class Chain:
    """What is to be made: these ``stages`` of the graph for these ``students``, none for all of params.yaml."""

    graph: Graph
    pieces: Pieces
    students: tuple[str, ...]
    stages: tuple[str, ...]

    @classmethod
    def load(cls, root: Path, students: Sequence[str]) -> "Chain":
        """Raises UsageError for what is wrong in params.yaml and for unknown students."""
        params = read_yaml(root / "params.yaml")
        pieces, graph = parse_pieces(params), load_graph(root, params)
        unknown = [name for name in students if name not in pieces.students]
        if unknown:
            raise UsageError(
                f"no student {', '.join(map(repr, unknown))}; params.yaml has {', '.join(pieces.students)}"
            )
        needed = graph.with_all_needed([f"evaluate@{name}" for name in students] or graph.stages)
        answers = [f"answers@{of.piece}" for of in map(graph.stages.__getitem__, needed) if of.base == "teacher"]
        return cls(graph, pieces, tuple(students), tuple(graph.with_all_needed([*needed, *answers])))

    def keys(self) -> dict[str, str]:
        """By stage; none of the listing stage, which runs before any job."""
        return self.graph.keys(self.stages)

    def whole(self) -> set[str]:
        """The stages whose outputs are there as these parameters and this code make them: by a job's stamp that is younger
        than they are, or by DVC."""
        keys, recorded = self.keys(), _unchanged(self.graph.root)
        return {name for name in keys if name in recorded or self.stamped(name, keys[name])}

    def stamped(self, name: str, key: str) -> bool:
        """Whether a job with this key ended well and nobody has replaced its outputs since."""
        root, made = self.graph.root, _stamp(self.graph.root, name)
        with suppress(OSError):
            last = max((root / out).stat().st_mtime for out in self.graph.stages[name].outs)
            return made.read_text().strip() == key and last <= made.stat().st_mtime
        return False


def _stamp(root: Path, stage: str) -> Path:
    return root / JOBS / f"{stage}.done"


def _unchanged(root: Path) -> set[str]:
    """The stages that DVC has recorded and finds as they were; none without ``dvc.lock``."""
    if not (root / "dvc.lock").is_file():
        return set()
    done = _dvc(root, "status", "--json", quiet=True)
    with suppress(ValueError):
        changed = json.loads(done.stdout[done.stdout.find("{") :])
        return set(read_yaml(root / "dvc.lock").get("stages", {})) - set(changed)
    return set()


def _dvc(root: Path, *command: str, quiet: bool = False) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "dvc", *command], cwd=root, capture_output=quiet, text=True)


def jobs(chain: Chain, cluster: ClusterConfig, copy: Path) -> list[Job]:
    """The jobs of what is not whole, in an order in which each waits for earlier ones only, and the record job. ``copy``: of
    params.yaml, which they read."""
    keys, whole, made = chain.keys(), chain.whole(), list[Job]()
    for name in keys:
        stage, there = chain.graph.stages[name], {job.name for job in made}
        needed = [other for other in chain.graph.needs(name) if other in there]
        if name in whole and not needed:
            continue
        kind, after = _KINDS.get(stage.base, "cpu"), tuple(("afterok", other) for other in needed)
        alone = kind in ("cpu", "label")
        if stage.base == "teacher":
            fitted = chain.pieces.teachers[stage.piece].fitted_here
            kind, alone = ("train", False) if fitted else ("evaluate", True)
        job = Job(name, name, kind, f"{stage.command} --params {copy}", keys[name], after, alone=alone)
        if kind == "label":  # publishing labels what a share that ended badly has left
            share = f"{job.command} --share $SLURM_ARRAY_TASK_ID/$SLURM_ARRAY_TASK_COUNT"
            label = replace(job, name=f"label@{stage.piece}", command=share, width=cluster.label.array, alone=False)
            made.append(label)
            job = replace(job, after=(*after, ("afterany", label.name)))
        made.append(job)
    if made:
        command = " ".join(["python -m stages.submit --record", *chain.students])
        after = tuple(("afterany", job.name) for job in made)
        made.append(Job(RECORD, "", "cpu", command, digest(keys), after, alone=True))
    return made


def require_cluster(chain: Chain, cluster: ClusterConfig, where: Path) -> None:
    """Refuses what would only come to light in the queue, with the key to change: ranks that do not divide lanes, a
    partition, time or account that Slurm does not know. Raises UsageError."""
    ranks, problems = cluster.train.nodes * cluster.train.ranks, list[str]()
    stages, pieces = [chain.graph.stages[name] for name in chain.stages], chain.pieces
    used = {pieces.students[of.piece].training for of in stages if of.base == "train"}
    lanes = {f"trainings.{name}.lanes": pieces.trainings[name].lanes for name in used}
    fits = [of.piece for of in stages if of.base == "teacher" and pieces.teachers[of.piece].fitted_here]
    lanes |= {f"teachers.{name}.fit.lanes": (pieces.teachers[name].fit or {}).get("lanes", 8) for name in fits}
    for key, count in lanes.items():
        try:
            require_world_size(ranks, count, key)
        except Misfit as error:
            problems.append(f"train.nodes x train.gpus: {error}")
    problems += misfits(cluster)
    if problems:
        raise UsageError("\n".join(f"{where}: {problem}" for problem in problems))


def misfits(cluster: ClusterConfig) -> Iterator[str]:
    """Partitions, times and accounts that Slurm does not know, with the key to change. Raises UsageError, RetryError."""
    longest, accounts = slurm.limits(), slurm.accounts()
    for name in ClusterConfig.model_fields:
        kind: JobKind = getattr(cluster, name)
        for partition in kind.partition.split(","):
            if partition not in longest:
                yield f"{name}.partition: no {partition!r} here; sinfo shows {', '.join(longest)}"
            elif slurm.seconds(kind.time) > longest[partition]:
                yield f"{name}.time: {kind.time} is above the limit of partition {partition}; lower it"
        if accounts is not None and kind.account is not None and kind.account not in accounts:
            yield f"{name}.account: {kind.account!r} is none of yours; sacctmgr shows {', '.join(accounts)}"


def prepare(chain: Chain) -> None:
    """What needs a network or the images' listing, here on the login node: checks params.yaml, lists the images, brings a
    hub's weights into its cache. Raises UsageError."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    command = chain.graph.stages[LISTS].command
    done = subprocess.run(command, shell=True, cwd=chain.graph.root, env={**os.environ, "PATH": path})
    if done.returncode:
        raise UsageError(f"{command}: exit code {done.returncode}; nothing was submitted")
    for key, weights in chain.pieces.named_weights().items():
        section, name, _ = key.split(".")
        stage = f"{'teacher' if section == 'teachers' else 'train'}@{name}"
        if weights is not None and is_hub(weights) and stage in chain.stages:
            from pipeline.base.timm_models import from_hub  # here, since timm takes seconds

            from_hub(getattr(chain.pieces, section)[name].arch, {}, weights)


def require_taken(cluster: ClusterConfig, pool: Path, root: Path) -> None:
    """Asks Slurm about a job of each kind without submitting it. Raises UsageError with its words."""
    for name in ClusterConfig.model_fields:
        kind: JobKind = getattr(cluster, name)
        width = kind.array if name == "label" else 0
        script = sbatch_text(Job(name, "", name, "true", "", (), width, alone=name == "cpu"), kind, pool, root)
        try:
            slurm.ask("sbatch", "--test-only", text=script)
        except UsageError as error:
            raise UsageError(f"cluster.yaml: {name}: {error}; correct what it names") from None


def submit(made: list[Job], cluster: ClusterConfig, pool: Path, root: Path) -> Iterator[str]:
    """Submits the jobs that are not in the queue yet; a line about each. What an earlier call has submitted is found by its
    comment. Two calls at once take turns."""
    ids = dict[str, str]()
    with (root / JOBS / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        waiting = slurm.queue()
        for job in made:
            there = waiting.get(comment(job, root))
            depends = ",".join(f"{how}:{ids[name]}" for how, name in job.after)
            script = sbatch_text(job, getattr(cluster, job.kind), pool, root)
            ids[job.name] = there[0] if there else slurm.submit(script, depends)
            state = (
                f"is {there[1]} already" if there else f"after {', '.join(name for _, name in job.after) or 'nothing'}"
            )
            yield f"{job.kind:9}{job.name:32} {ids[job.name]:>8}  {state}"


def record(chain: Chain) -> None:
    """Tells DVC what jobs made, then lets it look at everything; nothing is computed. Raises UsageError if parameters or code
    have changed since (a commit would bless the mixture) or stages are missing, RetryError if DVC is busy."""
    root, keys = chain.graph.root, chain.keys()
    with (root / JOBS / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        recorded, ended = _unchanged(root), [name for name in keys if chain.stamped(name, keys[name])]
        absent = [name for name in keys if name not in recorded and name not in ended]
        changed = [name for name in absent if _stamp(root, name).is_file()]
        if changed:
            raise UsageError(
                f"{', '.join(changed)}: params.yaml, code, images or outputs have changed since these jobs were submitted; "
                f"nothing was recorded: undo the change, or submit again"
            )
        if ended and _dvc(root, "commit", "--force", *ended).returncode:
            raise RetryError("dvc commit failed: its words are above; run the same command again")
        say(f"recorded: {', '.join(ended) or 'nothing'}")
        if absent:
            raise UsageError(f"{', '.join(absent)}: no job ended well; see its log in {JOBS}, then submit again")
        if _dvc(root, "repro", *(keys if chain.students else ())).returncode:
            raise UsageError("dvc repro failed: its words are above")
