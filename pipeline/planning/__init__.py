"""Before a run: composing and checking params.yaml, and what a run will cost.

In: choices and the files of configs/; shards.
Out: params.yaml, refusals of what does not fit together, hours and bytes.
Read ``params`` (composing) with ``studies`` (the pieces of one question), ``pieces`` (which pieces go together), ``check``
with ``models`` (models and files) and ``advice`` (what is allowed and should be known), then ``cost`` with ``speed`` (what
limits a training), ``codecs`` (what a cache's codec costs and loses) and ``total`` (all stages together).
``keys`` writes the tables of configs/README.md.
Nothing here is reached by a stage that computes.
"""
