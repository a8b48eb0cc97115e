"""Modules whose tests do not stand in test_<module>.py alone, and where they stand:

affine: views/test_kernels.py
colour: views/test_kernels.py
packed: views/test_device.py
pillow: views/test_draw.py, views/test_decode.py
tasks: views/test_workers.py, views/test_places.py
validation: teacher/test_fit.py, stages/test_pipeline.py
"""
