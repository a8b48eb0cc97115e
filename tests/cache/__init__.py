"""Modules whose tests do not stand in test_<module>.py alone, and where they stand:

arrays: cache/test_reader.py, cache/test_pool.py
layout: cache/test_pool.py
teacher_answers_canary: cache/test_adopt.py
"""
