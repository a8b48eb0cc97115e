"""How good a trained student is.

In: an exported student, the validation split, the teacher's answers on it.
Out: metrics.json.
Read ``metrics`` (counts that add up over ranks), then ``evaluate``.
A metric of its own is a function in ``metrics``.
"""
