"""The error tree. Every message names the key or file, the value, what is allowed and the remedy."""

from __future__ import annotations

from collections.abc import Sequence


class MeowteaError(Exception):
    """A problem the user can act on: the command line prints its message without a traceback."""


class ConfigError(MeowteaError):
    """One or more problems of a config, found before anything expensive starts."""

    def __init__(self, problems: Sequence[str]):
        self.problems = list(problems)
        lines = "\n".join(f"  {problem}" for problem in self.problems)
        super().__init__(f"the config has {len(self.problems)} problem(s):\n{lines}")


class ModelError(MeowteaError):
    """A model or tokenizer that cannot be found, read or used."""


class DataError(MeowteaError):
    """Demonstrations, task sets or game files that are missing, damaged or invalid."""


class CheckpointError(MeowteaError):
    """A checkpoint or run directory that cannot be written, read or resumed."""


class TrainingError(MeowteaError):
    """Training cannot go on: repeated non-finite losses, every episode broken, and the like."""


class BatchError(MeowteaError):
    """A violated invariant of a TokenBatch: training on it would learn something false."""
