"""Networks that are exported here are traced once."""

import pytest


@pytest.fixture(scope="session", autouse=True)
def _shared_traces(shared_traces: None) -> None:
    """Whatever exports here."""
