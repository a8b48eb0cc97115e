"""The training loop and the order of training, for teacher and student alike.

In: shards, a recipe, a config, a loss as a function.
Out: a trained model, its average, a log; checkpoints from which a killed run goes on bit by bit.
Read ``config``, ``schedule`` (every rule of order), ``batches`` and ``labelled`` (which labels are known), then ``loop``
with ``step`` and ``optimizer``, ``state`` and ``checkpoint`` (what is kept), ``run_libraries`` (which libraries made a run),
``journal`` (what a person watches).
"""
