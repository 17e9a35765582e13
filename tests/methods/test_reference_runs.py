"""Every number that is stored of a run is looked at: a little wrong, the comparison fails by its
name."""
import importlib

import pytest
from reference_runs import Runs
from stored import spoiled
from tiny import source_images, tiny

from tta_lab.components.source import prepare as source
from tta_lab.methods import make

# test module, its comparing function -> a run that has everything which is stored of that method
RUNS = {
    ("test_adanpc", "deviations"): "adanpc-official__tinybn__s1",
    ("test_cmf", "deviations"): "cmf-om-fixaug__tinybn__s1",
    ("test_conjugate", "play"): "conjugate-official-ce__tinybn__s1",
    ("test_domain_adaptor", "play"): "domainadaptor-official-gem__tinybn__s1",
    ("test_petal", "deviations"): "petal-official-sres-fixaug-fixedrestore__tinybn__s1",
    ("test_psmt", "deviations"): "psmt-official-fixaug__tinybn__s1",
    ("test_rmt", "deviations"): "rmt-om-fixaug-nosrc__tinybn__s1",
    ("test_rotta", "play"): "rotta-official-fixaug__tinybn__s2",
    ("test_stamp", "deviations"): "stamp-official-1view__tinybn__s1",
    ("test_stream_norms", "iabn"): "iabn-official-k4__tinybn__s1",
    ("test_stream_norms", "unmix"): "unmixtns-tent__tinybn__s1",
    ("test_unient", "play"): "unient-ostta-unient-repo__tinybn__s3",
}
# of these the runs are made: they are no results
TAKEN = ("hparams", "extra/fisher_sum", "extra/projector", "extra/prototypes",
         "extra/initial_random_entry", "extra/features")
GIVEN = {"test_adanpc": "neighbours", "test_psmt": "fisher"}


def given(module):
    """What a comparing function takes as its second argument."""
    name = GIVEN.get(module)
    if not name:
        return ()
    found = source.prepare(tiny("tinybn"), make(module[5:]), *source_images(), device="cpu",
                           **({"limit": 640} if name == "fisher" else {}))
    return (found["neighbours"] if name == "neighbours" else found,)


@pytest.mark.parametrize(("where", "run"), RUNS.items(), ids=lambda v: v
                         if isinstance(v, str) else "")
def test_the_comparison_can_fail_at_each_number(where, run, monkeypatch):
    compare, seen = Runs.deviations, []
    monkeypatch.setattr(
        Runs, "deviations", lambda *args, **settings: seen.append(
            (args, settings)) or compare(*args, **settings))
    module = importlib.import_module(where[0])
    more = (monkeypatch,) if where[0] == "test_unient" else given(where[0])
    getattr(module, where[1])(run, *more)
    ((runs, *args), settings), = seen
    true, missed = runs.stored(run), []
    assert compare(runs, *args, **settings) == []
    for key in true:
        if not key.startswith(TAKEN) and true[key].size:
            monkeypatch.setattr(runs, "stored", lambda run, key=key: spoiled(true, key))
            missed += [] if any(key in text for text in compare(runs, *args, **settings)) else [key]
    assert missed == []
