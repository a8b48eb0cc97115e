"""The teacher cache: Zarr arrays whose every part is proven by a commit record, built by any number of jobs.

In: a teacher's answers, part by part.
Out: targets of whole blocks, each checked against its digest before it is returned.
Read ``codec`` (with ``topk``, and ``fidelity``: what it loses) and ``layout``, then ``arrays`` (zarr), ``records`` and
``commit`` (what is true), ``pool`` and ``publish`` (where it lies), ``adopt`` (the way back), ``graft`` (parts of equal
shards), ``identity`` and ``teacher_answers_canary`` (who made it), ``reader``; ``verify`` reads all of it, ``repair`` changes
it.
"""
