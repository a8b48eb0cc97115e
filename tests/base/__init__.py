"""Modules whose tests do not stand in test_<module>.py alone, and where they stand:

constraints: planning/test_params.py, training/test_schedule.py
"""
