"""Modules whose tests do not stand in test_<module>.py alone, and where they stand:

answering: stages/test_distributed.py, stages/test_pipeline.py
students: stages/test_pipeline.py, training/test_step.py
teachers: stages/test_pipeline.py
write_scores: stages/test_pipeline.py
"""
