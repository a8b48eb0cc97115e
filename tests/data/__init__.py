"""Modules whose tests do not stand in test_<module>.py alone, and where they stand:

images: data/test_images.py, data/test_image_kinds.py
index_file: data/test_listing.py, data/test_growth.py
manifest: data/test_shards.py
pack_notes: data/test_splits.py, data/test_image_kinds.py
"""
