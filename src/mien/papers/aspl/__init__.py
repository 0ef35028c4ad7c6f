"""ASPL: a face-identification system from few labels, by names for free and questions (Lin et al., 2018).

Every person has a linear classifier against all others. In each round, pictures of which exactly one classifier is
confident get that person's name for free, weighted by how confident it is (self-paced learning); those of which none is
sure are shown to a human (active learning); human labels that the classifiers go on contradicting are looked at again;
and classifiers and network are trained anew, at a looser pace. Somebody new in a picture that is asked about gets a
classifier of their own.

    svm.py         one-vs-rest classifiers with LIBLINEAR's squared hinge, all persons at once
    selfpaced.py   closed forms: weights, the exactly-one rule, contradictions, the pace
    loop.py        the state and the rounds
    annotator.py   questions, and who answers them
    network.py     AlexNet with a layer over the persons
    refresh.py     fine-tuning between rounds, features of any network
    files.py       text models of LIBLINEAR, feature files and split lists of the published code

``mien curate label FOLDER`` runs it with a person before a page.

Where this differs from the paper or its code, and why
------------------------------------------------------
- Weights. The paper's v is soft; the published code makes decisions +-1 first, so that its v is always 1. Both are
  here, soft by default. The paper's closed form has C in it (``1 - C loss / lambda``); the code's lambda is in units of
  the margin, so that C is 1 in the selection, and we follow it.
- Loss. The paper writes the hinge, the code trains with the squared hinge and selects by the hinge; so do we.
- acc. The paper's pace grows by acc of each classifier, the code's by a constant. By default acc is one less the share
  of a classifier's candidates that another claims too; "one" is the code's.
- A new person's pace begins at the first lambda, whenever the person comes up. The paper does not say.
- Weights of negatives. A picture with a name for free counts with its v for the person and against everybody else.
- Second looks. The code throws a label out after more than three contradictions in all, and that picture is never asked
  about again, since it counts as asked; so does ``second="return"``. The paper means it to be shown to the expert:
  ``second="ask"``.
- Neighbours of somebody new. The code's text says that unclear pictures whose mean distance is more than three times
  their own are asked too, and that it stops after five hits. We take the mean over the unclear pictures, and five asked
  as five hits.
- Diversity. The code notes it and does not do it. ``diversity=4`` asks, among four times as many candidates, for those
  that lie far from each other; 1, the default, is the code's.
- Random scan. At most 40,000 open pictures are ranked, drawn anew each round, as in the code.
- Features. The code's are AlexNet's fc7 as they are, with C = 1e-3; unit vectors of an embedding network want C of 1
  to 10 and a first pace of 0.3 to 0.5 (`EMBEDDINGS` takes it from the labelled pictures).
- Solver. LIBLINEAR trains one person after another; here Newton's method does all of them by matrix products and comes
  to the same minimum. ``solver="liblinear"`` uses scikit-learn's.
- Accuracy is over all persons. The code leaves out those without a classifier yet, which is optimistic.
- Shares of labels count the initial ones, as in the code.

AlexNet has 56.9 million parameters without its last layer when counted; "about 58" was recalled. Not found: the number
of repeats, the exact accuracies, the rule for acc. The authors released no weights, so `WEIGHTS` is empty and there is
nothing to convert; `start_from` takes the blobs of Caffe's AlexNet, with which they began.
"""

from __future__ import annotations

import torch

from mien.papers.aspl.annotator import REJECT, SKIP, Annotator, Answer, Interactive, Oracle, Question
from mien.papers.aspl.files import (
    read_features,
    read_liblinear,
    read_models,
    read_split,
    write_features,
    write_liblinear,
    write_models,
    write_split,
)
from mien.papers.aspl.loop import (
    CACD,
    EMBEDDINGS,
    RULES,
    SECONDS,
    WEBFACE,
    ActiveSelfPaced,
    Numbers,
    Turn,
)
from mien.papers.aspl.network import MEAN_BGR, AlexNet, Classified, alexnet, caffe_input, start_from
from mien.papers.aspl.refresh import FineTune, Refresh, alexnet_input, embedded, plain_input
from mien.papers.aspl.selfpaced import (
    Selection,
    calibrated_pace,
    contradicted,
    loosened,
    regulariser,
    select,
    self_paced_weights,
)
from mien.papers.aspl.svm import SOLVERS, OneVsRest, fit_one_vs_rest
from mien.papers.card import Network, Paper
from mien.weights import Weights

__all__ = [
    "CACD",
    "EMBEDDINGS",
    "MEAN_BGR",
    "NETWORKS",
    "PAPER",
    "REJECT",
    "RULES",
    "SECONDS",
    "SKIP",
    "SOLVERS",
    "WEBFACE",
    "WEIGHTS",
    "ActiveSelfPaced",
    "AlexNet",
    "Annotator",
    "Answer",
    "Classified",
    "FineTune",
    "Interactive",
    "Numbers",
    "OneVsRest",
    "Oracle",
    "Question",
    "Refresh",
    "Selection",
    "Turn",
    "alexnet",
    "alexnet_input",
    "caffe_input",
    "calibrated_pace",
    "contradicted",
    "embedded",
    "fit_one_vs_rest",
    "loosened",
    "plain_input",
    "read_features",
    "read_liblinear",
    "read_models",
    "read_split",
    "regulariser",
    "select",
    "self_paced_weights",
    "start_from",
    "write_features",
    "write_liblinear",
    "write_models",
    "write_split",
]

PAPER = Paper(
    slug="aspl",
    title="Active Self-Paced Learning for Cost-Effective and Progressive Face Identification",
    authors=("Liang Lin", "Keze Wang", "Deyu Meng", "Wangmeng Zuo", "Lei Zhang"),
    venue="IEEE TPAMI",
    year=2018,
    arxiv="1701.03555",
    code="https://github.com/kezewang/ASPL",
    code_licence="educational and research use only",
    task="data",
    verb="mien curate label",
    published="journal",
)

NETWORKS: dict[str, Network] = {
    "alexnet": Network(
        build=alexnet,
        small={"classes": 5, "width": 0.125, "hidden": 32, "size": 67, "init": "he"},
        inputs=lambda n: (torch.randn(n, 3, 67, 67),),
    ),
}

WEIGHTS: tuple[Weights, ...] = ()
"""None: the authors released no checkpoint."""
