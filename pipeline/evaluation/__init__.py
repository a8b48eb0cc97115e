"""How good trained models are: students, teachers and undistilled twins alike.

In: a student or a teacher, test sets.
Out: answers, sample by sample, and from those alone scores, disagreement, calibration.
Read ``answers`` (their file), ``answering`` (a model over a test set) with ``sets``, ``students`` and ``teachers``, and
``inside`` (size, speed, tokens, attention); then what follows from answers alone: ``scores`` of one model,
``disagreement`` of two. ``write_scores`` writes what stage evaluate leaves, and reads it.
"""
