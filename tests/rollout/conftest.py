import pytest
from tiny_rollout import make_policy, make_tokenizer


@pytest.fixture
def policy():
    return make_policy()


@pytest.fixture(scope="session")
def tokenizer():
    return make_tokenizer()
