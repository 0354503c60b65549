"""A simulation of the writer and its store for months, with one seed for everything that happens.

Clocks jump and stop, stores become full, slow, damaged or older, processes end at any write, outages last
hours, and backlogs come in any order. After each step the exported counts are those of a plain model. Only
damage, or a Redis that goes back to older data, may change them, and then the exporter has reported it.

`python -m tests.chaos.simulation [--store sqlite] [--seed 1] [--steps 100000] [--seeds 1]`.
"""
