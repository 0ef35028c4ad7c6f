"""How fast mien is, beside its peers and beside what the machine could do at most: ``python -m benchmarks``.

    limits.py     what bounds a stage: GEMM rate, memory bandwidth, decode rate, measured first
    pictures.py   what is looked at: LFW, scenes, a portrait, a photo of 12 megapixels
    systems.py    mien, dlib, facenet-pytorch's MTCNN: the same stages, each through its own public or shipped code
    timing.py     interleaved repeats, medians and spreads
    accuracy.py   recall, false faces and LFW accuracy, to stand beside the speed
    worker.py     the process that measures: fresh, with its threads and cores set before anything is imported
    loading.py    batches of aligned pictures from every format, beside the decode rate
    streaming.py  all pairs of a set, counted as they come, beside the matrix of all scores
    rows.py       one long-form row a number, kept in results/bench.csv
    report.py     the same tables for the terminal and for the page

A number without its accuracy, its limit and its peer in the same run says nothing; so every ratio is computed inside
one run, and a system that cannot be loaded is a row with the reason.
"""

from __future__ import annotations
