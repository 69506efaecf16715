"""Every error Meshwright raises on purpose.

    MeshwrightError
    +-- InputError         a file, a field or an option is wrong            exit status 2
    |   +-- ModelError     a model description
    |   +-- ClusterError   a cluster description
    |   +-- ProfileError   a hardware profile
    |   +-- PlanError      a plan file
    |   +-- StrategyError  a choice that contradicts the model, the cluster or another choice
    +-- InfeasibleError    legal input, but no plan fits                    exit status 1

The message of an `InputError` is one line: the file or option, the field, the value, what was expected.
"""

from __future__ import annotations


class MeshwrightError(Exception):
    """Base class. `exit_status` is what the command line returns."""

    exit_status = 1


class InputError(MeshwrightError):
    """Bad input: names where (file or option), which field, what was found and what was expected."""

    exit_status = 2

    def __init__(self, where: str, field: str, problem: str) -> None:
        self.where = where
        self.field = field
        self.problem = problem
        location = f"{where}: {field}" if field else where
        super().__init__(f"{location}: {problem}")


class ModelError(InputError):
    """A model description is missing a field, or a field is absurd."""


class ClusterError(InputError):
    """A cluster description has an unknown key, a wrong unit or an impossible figure."""


class ProfileError(InputError):
    """A hardware profile has a missing, negative or contradictory figure."""


class PlanError(InputError):
    """A plan file is of another schema, was edited into nonsense, or does not match its model."""


class StrategyError(InputError):
    """A choice contradicts the model, the cluster or another choice."""


class InfeasibleError(MeshwrightError):
    """No legal plan fits: the message says which limit binds, by how much, and what would make it fit."""
