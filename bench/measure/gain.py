"""What distillation gains on the demo's digits, over seeds, with all labels and with few.

\b
    python -m bench.measure.gain                             5 seeds; all, 20 and 10 labels per class: an hour on 2 cores
    python -m bench.measure.gain --seeds 10 --labels all     how much a student of the demo depends on chance
    python -m bench.measure.gain --seeds 1 --labels 10 --out OUT training.epochs=1 teacher.fit.epochs=1     a small size

The students are those of ``make demo`` (plain, soft, hard, hard_token), trained as there. A seed decides all that is random
except the views: which images keep their labels, the teacher's fit, initial weights, the order of the data. In the first table
the teacher is fitted on the labels that its students have, in the second on all labels. Every stage runs as a command; a stage
whose output stands in --out is not run again.
"""

import csv
import os
import subprocess
import sys
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import numpy as np

from bench.timing import head, row
from pipeline.base.files import digest, parse_json
from pipeline.planning.params import compose, write_params
from pipeline.planning.studies import merge
from pipeline.runtime.code import code_of
from pipeline.training import loop

KINDS = ("plain", "soft", "hard", "hard_token")
ALL = "all"


@dataclass(frozen=True)
class Trial:
    """A student of one kind, the labels per class that its teacher had and that it has (``all`` or a number), a seed."""

    kind: str
    teacher: str
    labels: str
    seed: int

    @property
    def maker(self) -> str:
        return f"of_{self.teacher}_seed_{self.seed}"

    @property
    def training(self) -> str:
        return f"with_{self.labels}_seed_{self.seed}"

    @property
    def name(self) -> str:
        return f"{self.kind}_{self.training}" + ("" if self.kind == "plain" else f"_{self.maker}")


def trials(seeds: int, labels: Iterable[str]) -> list[Trial]:
    """All students: those of teachers with as many labels, and those with fewer labels than a teacher that had all."""
    found = []
    for seed in range(seeds):
        for count in labels:
            found += [Trial(kind, count, count, seed) for kind in KINDS]
            found += [Trial(kind, ALL, count, seed) for kind in KINDS[1:] if count != ALL]
    return found


def parameters(configs: Path, todo: Iterable[Trial], overrides: tuple[str, ...]) -> dict[str, Any]:
    """``params.yaml`` of all ``todo``: a teacher and a cache for each set of labels and seed, a training likewise."""
    demo = compose(configs, list(overrides))
    params = {**demo, "teachers": {}, "caches": {}, "trainings": {}, "students": {}}
    teacher, cache, training = (next(iter(demo[name].values())) for name in ("teachers", "caches", "trainings"))
    for trial in todo:
        fit = {"seed": trial.seed, **_labelled(trial.teacher, trial.seed)}
        params["teachers"][trial.maker] = merge(teacher, {"fit": fit})
        params["caches"][trial.maker] = {**cache, "teacher": trial.maker}
        params["trainings"][trial.training] = merge(
            training, {"seed": trial.seed, **_labelled(trial.labels, trial.seed)}
        )
        links = {"training": trial.training, "cache": "none" if trial.kind == "plain" else trial.maker}
        params["students"][trial.name] = {**demo["students"][trial.kind], **links}
    return params


def _labelled(labels: str, seed: int) -> dict[str, int]:
    return {} if labels == ALL else {"labelled_per_class": int(labels), "labelled_seed": seed}


def run(work: Path, stage: str, out: str, *arguments: str) -> None:
    """Runs a stage as a command, unless it left ``out`` before."""
    log = work / "logs" / f"{stage}-{Path(out).name}.txt"
    if (work / out).exists():
        return
    command = [sys.executable, "-m", f"stages.{stage}", "--params", str(work / "params.yaml"), *arguments]
    own = {"DISTIL_POOL": str(work / "pool"), "DISTIL_WORKERS": "0", "DISTIL_DEVICE": "cpu"}
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("w") as file:
        if subprocess.run(command, stdout=file, stderr=file, env={**own, **os.environ}).returncode:
            raise click.ClickException(f"{' '.join(command)} failed: {log}")
    print(f"{stage} {Path(out).name}", flush=True)


def run_all(work: Path, todo: list[Trial], jobs: int) -> None:
    """All stages of ``todo``, ``jobs`` at a time: one chain for each teacher, its cache and its students."""
    makers = {trial.maker: [other for other in todo if other.maker == trial.maker] for trial in todo}
    print(f"{2 + 2 * len(makers) + len(todo)} stages", flush=True)
    run(work, "index", "index.tsv", "--out", str(work / "index.tsv"))
    run(work, "shard", "shards", "--index", str(work / "index.tsv"), "--out", str(work / "shards"))

    def chain(maker: str) -> None:
        run(work, "fit_teacher", f"teachers/{maker}", "--work", str(work), "--teacher", maker)
        run(work, "precompute", f"caches/{maker}", "--work", str(work), "--cache", maker)
        for trial in makers[maker]:
            run(work, "train", f"students/{trial.name}", "--work", str(work), "--student", trial.name)

    with ThreadPoolExecutor(jobs) as pool:
        list(pool.map(chain, makers))


def top1(work: Path, trial: Trial) -> float:
    """Of the student's result, in percent, on the validation split."""
    with (work / "students" / trial.name / "log.csv").open() as file:
        return 100 * float(list(csv.DictReader(file))[-1]["val_top1"])


def table(work: Path, todo: list[Trial], seeds: int, own: bool) -> Iterator[str]:
    """Rows of a Markdown table, where the teacher had its students' labels (``own``) or all: mean top-1 over the seeds with its
    standard error, the standard deviation, and the mean difference from the plain student of the same seed and labels."""
    yield from head("labels per class", "teacher %", "student", "top-1 %", "deviation", "gain over plain").splitlines()
    for labels in dict.fromkeys(trial.labels for trial in todo if own or trial.labels != ALL):
        teacher = labels if own else ALL
        taught = np.array([teacher_top1(work, Trial("soft", teacher, labels, seed)) for seed in range(seeds)])
        plain = np.array([top1(work, Trial("plain", labels, labels, seed)) for seed in range(seeds)])
        for kind in KINDS:
            same = plain if kind == "plain" else None
            values = [top1(work, Trial(kind, teacher, labels, seed)) for seed in range(seeds)] if same is None else same
            deviation = f"{np.std(values, ddof=1):.2f}" if seeds > 1 else ""
            gain = _mean(values - plain, sign="+") if same is None else ""
            yield row(labels, _mean(taught), kind, _mean(np.array(values)), deviation, gain)


def teacher_top1(work: Path, trial: Trial) -> float:
    """Of the student's teacher, in percent, on the validation split."""
    return float(parse_json((work / "teachers" / trial.maker / "teacher.json").read_bytes())["top1"])


def _mean(values: np.ndarray, sign: str = "") -> str:
    error = f" ± {values.std(ddof=1) / np.sqrt(len(values)):.2f}" if len(values) > 1 else ""
    return f"{values.mean():{sign}.2f}{error}"


@click.command(help=__doc__)
@click.argument("overrides", nargs=-1)
@click.option("--seeds", default=5, show_default=True)
@click.option("--labels", default="all,20,10", show_default=True, help="Labels per class, each 'all' or a number.")
@click.option("--jobs", default=2, show_default=True, help="Stages at a time.")
@click.option("--out", type=click.Path(path_type=Path), default=Path("work/gain"), show_default=True)
def main(overrides: tuple[str, ...], seeds: int, labels: str, jobs: int, out: Path) -> None:
    counts = labels.split(",")
    for count in counts:
        if count != ALL and not (count.isdecimal() and int(count) > 0):
            raise click.UsageError(f"--labels: expected 'all' or numbers above 0, found {count!r}")
    if without := [override for override in overrides if "." not in override.partition("=")[0]]:
        raise click.UsageError(
            f"{', '.join(without)}: expected overrides such as training.epochs=1; the pieces are the demo's"
        )
    todo = trials(seeds, counts)
    params = parameters(Path("configs"), todo, overrides)
    comparison = digest([params, loop.code_hashes(code_of("fit_teacher") + code_of("precompute") + code_of("train"))])
    out.mkdir(parents=True, exist_ok=True)
    mark = out / "comparison"
    if mark.is_file() and mark.read_text() != comparison:
        raise click.UsageError(
            f"{out}: holds another comparison, or one of other code; name another --out, or remove it"
        )
    mark.write_text(comparison)
    write_params(params, out / "params.yaml", [])
    run_all(out, todo, jobs)
    print(
        f"\n{seeds} seeds; mean ± standard error of top-1 in percent on the validation images. Teacher on the same labels:\n"
    )
    print("\n".join(table(out, todo, seeds, own=True)))
    if any(trial.labels != trial.teacher for trial in todo):
        print("\nTeacher on all labels:\n")
        print("\n".join(table(out, todo, seeds, own=False)))


if __name__ == "__main__":
    main()
