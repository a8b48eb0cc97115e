"""From a source of images to WebDataset shards, and reading them back.

In: folders, archives or tars of images; params.yaml's section data.
Out: work/index.tsv, and per split a manifest, tars and their indices; blocks of encoded samples.
Read ``sources`` (the door to all sources) with ``listing`` and ``index_file``, ``label_lists`` (people's text files) and
``splits`` (what is true of all) and ``growth`` (the order, kept); one source each: ``digits``, ``folders``, ``cifar``,
``webdataset_tars`` with ``tars``; then ``images`` (bytes to RGB) with ``resize``, ``pack`` with ``pack_notes`` (what it
says), ``manifest`` and ``shards`` (reading, also from an ``object_store``). ``test_sets`` are more images to score on.
"""
