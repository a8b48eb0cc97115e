"""Refusals and their exit codes."""


class PipelineError(Exception):
    """A refusal with an exit code; its text says what was expected, what was found and what to do."""

    exit_code = 1


class UsageError(PipelineError):
    """Usage or configuration (exit 2)."""

    exit_code = 2


class IntegrityError(PipelineError):
    """Damaged data (exit 3)."""

    exit_code = 3


class IdentityError(PipelineError):
    """Whole data of another identity than the one that is asked for (exit 4)."""

    exit_code = 4


class RetryError(PipelineError):
    """Preempted, disk full: nothing is lost, run the same command again (exit 75)."""

    exit_code = 75


class Interrupted(RetryError):
    """Told to stop while waiting for views (exit 75)."""


def first_line(error: Exception) -> str:
    """What another library's error says, short enough for a sentence of ours."""
    return (str(error) or type(error).__name__).splitlines()[0]
