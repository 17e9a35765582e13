"""Comparisons with reference outputs run on one thread: several threads sum in another order, and some runs amplify the last digits."""
import pytest
import torch


@pytest.fixture(scope="module", autouse=True)
def one_thread_for_references(request):
    path = request.path
    if path.parent.name != "methods" and path.stem != "test_golden":
        yield
        return
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
