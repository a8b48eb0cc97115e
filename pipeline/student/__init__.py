"""The student: a vision transformer that learns from labels and from a teacher's targets.

In: shards, a cache or a live teacher, a config.
Out: model.safetensors and config.json for timm, log.csv.
Read ``config``, ``model`` and ``heads``, ``losses``, ``supervision`` (where targets come from) with ``inputs``, then
``train`` (``scores`` for its log); ``initial`` starts from trained weights, ``export`` writes and reads the result. Its use:
``predict`` on a person's images, ``formats`` for other programs.
"""
