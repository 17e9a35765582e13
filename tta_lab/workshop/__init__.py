"""The workshop for students and instructors: checks that name a mistake, what they say, helpers of
its notebooks, commands for the day.

The names of `tta_lab.workshop.checks` are imported on first use: the commands (`day`) must start
where torch is not installed yet.
"""
import importlib

__all__ = [
    "EXERCISES", "MODULES", "NotYet", "Verdict", "check_effective_classes", "check_entropy",
    "check_filter", "check_filtered_step", "check_resets", "check_step", "check_vote", "judge"
]


def __getattr__(name):
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}; it has: "
                             f"{', '.join(__all__)}")
    return getattr(importlib.import_module(".checks", __name__), name)
