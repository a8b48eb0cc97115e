"""What a person looks at: the page, views as pictures, what a cache holds.

In: the outputs of all other stages.
Out: work/report, work/views.png, text.
Read ``summary`` (the numbers), ``page`` (the HTML), ``gallery`` (views as pictures) with ``lettering`` (names in them),
``inspection`` (a cache).
Nothing here computes a number that another room has.
"""
