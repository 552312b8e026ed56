import pytest


@pytest.fixture(autouse=True, scope="module")
def _quick(quick_compilation):
    """All of the attacks' tests compile for longer than they run."""
