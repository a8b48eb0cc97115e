"""Where and how a stage runs: it never changes a byte of any output, so no stage depends on it.

In: the environment, the command line, params.yaml.
Out: config models, the device, progress, one sentence and an exit code for each refusal.
Read ``errors`` and ``config`` first, then ``machine`` (ranks, device, cores, pool) with ``ranks`` (how the end of one ends
the others), ``control_groups`` and ``memory`` (what a container leaves of the machine), ``text`` (what is safe to print),
``units`` (numbers for people), ``progress``, ``watchdog`` (ends a loop that hangs), ``stage`` (the frame of every command)
with ``interrupt`` (Ctrl-C before it) and ``system_errors`` (what it says where the system refuses a path or a disk), ``work``
(where everything lies), ``libraries`` (what is installed), and ``code`` (which modules a stage reaches).
"""
