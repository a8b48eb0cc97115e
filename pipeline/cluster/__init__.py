"""A run as a chain of Slurm's jobs: from a login node to the report.

In: params.yaml, dvc.yaml, cluster.yaml, and what Slurm says.
Out: submitted jobs, what they leave in ``work/jobs``, DVC's record of what they made.
Read ``config`` (cluster.yaml), ``graph`` (dvc.yaml: what waits for what, and the key of each stage), ``script`` (a job as
text; ``job.sh`` is what it does with an exit code), ``slurm`` (its commands and answers), then ``submit``;
``status`` says how far it is, ``doctor`` (with ``machine_checks``) what a machine lacks.
Nothing here is reached by a stage that computes.
"""
