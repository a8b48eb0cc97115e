"""What a person looks at: the page, views as pictures, what a cache holds.

In: the outputs of all other stages.
Out: work/report, work/views.png, text.
Read ``study`` (what was run), ``summary`` (its numbers) with ``paper`` (the papers'), ``content`` (what else is shown),
then ``write``: ``page`` (the HTML) of ``figures`` (lines) and ``pictures``, and ``table`` (text). ``inspect_views`` (views,
with ``lettering``, names in pictures) and ``inspect_cache`` (a cache) are commands of their own as well;
``card`` is a student's model card.
"""
