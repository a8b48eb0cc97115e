"""The student: a timm classifier that learns from labels and from a teacher's targets.

In: shards, a cache or a live teacher, a config.
Out: model.safetensors and config.json for timm, log.csv.
Read ``config``, ``model``, ``losses``, ``supervision`` (where targets come from) with ``inputs``, then ``train``;
``initial`` starts from trained weights, ``export`` writes and reads the result;
``own_loop`` opens all of it for a training loop of one's own. Its use: ``predict`` classifies a user's
images, ``formats`` writes it for other programs.
"""
