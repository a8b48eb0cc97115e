"""Modules whose tests do not stand in test_<module>.py alone, and where they stand:

config: training/test_step.py, planning/test_params.py
run_libraries: student/test_train.py
state: student/test_train.py, training/test_step.py
"""
