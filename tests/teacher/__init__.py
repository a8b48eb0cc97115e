"""Modules whose tests do not stand in test_<module>.py alone, and where they stand:

canary: cache/test_adopt.py
label: teacher/test_precompute.py, student/test_supervision.py
"""
