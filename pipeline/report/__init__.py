"""What a person looks at: the page, views as pictures, what a cache holds.

In: the outputs of all other stages.
Out: work/report, work/views.html, text.
Read ``study`` (what was run), ``summary`` (its numbers), ``write`` (all that is shown), then ``page`` (the HTML) with
``figures`` (lines) and ``pictures`` (views, images), and ``table`` (text). ``inspect_cache`` says what a cache holds,
``card`` is a student's model card.
"""
