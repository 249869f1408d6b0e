"""What the walks need."""

import pytest

from sibyl.store.connection import Store
from tests.store.desk import Desk


@pytest.fixture
def desk(store: Store) -> Desk:
    """A client and a worker."""
    return Desk(store)
