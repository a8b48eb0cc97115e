"""Modules whose tests do not stand in test_<module>.py alone, and where they stand:

machine_checks: cluster/test_doctor.py
script: cluster/test_chain.py, cluster/test_submit.py, cluster/test_faults.py
slurm: cluster/test_slurm.py, cluster/test_faults.py
"""
