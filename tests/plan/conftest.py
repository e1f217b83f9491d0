"""The student and the traces that trainings are tested with."""

from tests.branch.conftest import student, traces

__all__ = ["student", "traces"]
