"""Modules whose tests do not stand in test_<module>.py alone, and where they stand:

code: test_architecture.py, student/test_inputs.py
errors: runtime/test_stage.py
work: stages/test_pipeline.py
"""
