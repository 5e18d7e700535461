"""What an evaluation that cannot be trusted raises."""


class EvaluationError(RuntimeError):
    """A failed evaluation, as opposed to a low score. The message names what failed, how often, with examples."""
