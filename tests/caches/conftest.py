"""One decoder of each kind of cache."""

import pytest
from caching import cached_models


@pytest.fixture(scope="session")
def models(llama):
    return cached_models(llama)


@pytest.fixture(params=["full", "sliding", "gemma2", "gemma3"])
def model(request, models):
    return models[request.param]
