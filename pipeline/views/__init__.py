"""From encoded images to what a model sees, with all chance as data: choose, draw, finish.

In: a block of samples, a recipe, the numbers of the views.
Out: visits (uint8 pixels, plan, digests) and finished float batches, the same for teacher and student.
Read ``recipe``, ``chance``, ``choose`` with ``policies`` and ``pairs``, then ``draw`` (the door: ``pillow`` by Pillow, or
``kernels`` with ``decode``, ``colour`` and ``affine``), for a GPU ``packed``, ``device`` and ``cuda``, and ``finish``;
``drawn``, ``ring``, ``places``, ``tasks`` and ``workers`` read and draw blocks ahead; ``validation`` runs a model over a split;
``canary`` hashes what this machine draws.
"""
