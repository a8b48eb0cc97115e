"""Modules whose tests do not stand in test_<module>.py alone, and where they stand:

card: stages/test_pipeline.py
pictures: report/test_page.py, stages/test_pipeline.py
study: stages/test_pipeline.py
summary: report/test_page.py, stages/test_pipeline.py
write: stages/test_pipeline.py
"""
