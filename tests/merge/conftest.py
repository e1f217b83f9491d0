import pytest

from tests.merge.folders import save, weights


@pytest.fixture(scope="session")
def student(tmp_path_factory):
    return save(tmp_path_factory.mktemp("models") / "student", weights())


@pytest.fixture(scope="session")
def experts(student, tmp_path_factory):
    """Three experts near one student: name → folder."""
    root = tmp_path_factory.mktemp("experts")
    return {n: save(root / n, weights(i, weights())) for i, n in enumerate(("math", "science", "coding"), 1)}
