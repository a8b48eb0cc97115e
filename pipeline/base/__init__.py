"""Tools whose result counts and that know nothing of images, views or training.

In: paths, plain data, weights.
Out: files that are whole or absent, hashes, timm models, scores, differences between two identities in words.
Read ``files``, ``sums`` and ``constraints`` (rules between numbers), then ``difference``, ``weights``, ``timm_models`` and
``scores``; ``engine`` says what makes pixels here, ``compiled`` compiles functions and keeps them.
"""
