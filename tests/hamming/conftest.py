from tests import capabilities

capability = capabilities.fixture(without="avx512_bf16")
