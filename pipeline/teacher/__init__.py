"""The teacher: loaded, fitted, and run over views.

In: weights or a training split; visits.
Out: model.safetensors, and a cache of the teacher's logits and hard labels.
Read ``config``, ``model``, ``label`` (the one function that labels), then ``precompute``; ``fit`` trains a teacher or takes
weights from elsewhere, of which ``outputs`` are the data's classes and whose ``class_order`` is checked; ``audit`` asks it
again, ``canary`` tells arithmetics apart.
"""
