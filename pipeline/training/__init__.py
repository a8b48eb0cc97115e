"""The training loop and the order of training, for teacher and student alike.

In: shards, a recipe, a config, a loss as a function.
Out: a trained model, its average, a log; checkpoints from which a killed run goes on bit by bit.
Read ``config``, ``schedule`` (every rule of order), ``batches``, then ``loop`` with ``optimizer`` and ``checkpoint``.
"""
