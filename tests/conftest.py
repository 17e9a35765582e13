"""Comparisons with reference outputs run on one thread: several threads sum in another order, and
some runs amplify the last digits.

With TTA_LAB_PACKAGES=required a test that would be skipped because a package is missing fails: the
tests' environment must hold all they need.
"""
import os

# stored numbers were made with registers of this width; wider ones add up in another order
os.environ.setdefault("ONEDNN_MAX_CPU_ISA", "AVX2")

import pytest
import torch


def _required(report):
    """The report of a test or a file; a skip for a missing package becomes a failure where all
    packages are required."""
    if os.environ.get(
            "TTA_LAB_PACKAGES") == "required" and report.skipped and "could not import" in str(
                report.longrepr):
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr
        report.outcome = "failed"
        report.longrepr = (f"{reason}\n(TTA_LAB_PACKAGES=required: what the tests need belongs to "
                           f"the group 'test')")
    return report


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    return _required((yield))


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(collector):
    return _required((yield))


@pytest.fixture(autouse=True)
def own_parts_leave():
    """A part that a test lists is in no list of the next."""
    from tta_lab.core import own_parts
    with own_parts.kept():
        yield


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
