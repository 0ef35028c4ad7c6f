"""One experiment a paper: the baseline, the paper's idea, and a verdict that is computed and never asserted.

`claims/<slug>.py` defines ``CLAIMS``, a tuple of `mien.claims.harness.Claim`; ``mien reproduce <slug>`` runs them.
"""

from __future__ import annotations
