"""Tools whose result counts and that know nothing of images, views or training.

In: paths, plain data, weights.
Out: files that are whole or absent, hashes, timm models, scores, differences between two identities in words.
Read ``files`` and ``constraints`` (which numbers fit which), then ``difference``, ``weights_name``, ``weights``, ``timm_models``
and ``scores``; ``engine`` says what makes pixels here, ``compiled`` compiles functions and keeps them.
"""
