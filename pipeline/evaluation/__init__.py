"""How good trained models are: students, teachers and undistilled twins alike.

In: a student or a teacher, test sets.
Out: answers, sample by sample, and from those alone scores, disagreement, calibration.
Read ``predictions`` (the file of answers), ``answering`` (a model over a test set) with ``sets``, ``students`` and
``teachers``; then the pure functions: ``metrics``, ``disagreement``. ``tokens`` and ``attention`` look inside, ``size`` is
how large and fast a model is, ``write_scores`` what stage evaluate leaves.
"""
