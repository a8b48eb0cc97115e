"""Modules whose tests do not stand in test_<module>.py alone, and where they stand:

formats: stages/test_pipeline.py
model: student/test_model.py, student/test_families.py
predict: student/test_predict.py, stages/test_pipeline.py
"""
