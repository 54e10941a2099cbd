"""Decision trees and random forests on features: as a rule against the network's answer, and as a two-class detector.

Source: Breiman et al. 1984, "Classification and regression trees"; Breiman 2001, "Random forests",
https://doi.org/10.1023/A:1010933404324; both as scikit-learn has them.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy import sparse
from sklearn.ensemble import RandomForestClassifier
from sklearn.tree import DecisionTreeClassifier

from lib.detectors import arrays

KINDS: dict[str, Any] = {"tree": DecisionTreeClassifier, "forest": RandomForestClassifier}


class TreeRule:
    """Flags an input where a tree, trained on clean features, names another class than the network does.

    Args:
        kind: "tree" or "forest".
        seed: of the tree: the order in which equally good splits are tried (and a forest's draws).
        settings: to scikit-learn's classifier, as max_depth; its defaults otherwise.
    """

    def __init__(self, kind: str = "tree", seed: int = 3, **settings: Any) -> None:
        if kind not in KINDS:
            raise ValueError(f"kind is {kind!r}: one of {', '.join(KINDS)}")
        self.kind = kind
        self.model = KINDS[kind](random_state=seed, **settings)

    def fit(self, features: Any, labels: Any) -> TreeRule:
        """Train on clean inputs.

        Args:
            features: (N, F); sparse in CSC form is fastest, any integer type.
            labels: (N,) whole numbers: the network's answers, which on correctly classified inputs are the classes.
        """
        found = arrays.rows(features)
        self.model.fit(_for_trees(found, "csc"), arrays.classes_of(labels, found.shape[0]))
        return self

    def predict(self, features: Any) -> np.ndarray:
        """The tree's own answers, int64 (N,)."""
        return self.model.predict(self._known(features)).astype(np.int64)

    def flags(self, features: Any, predicted: Any) -> np.ndarray:
        """Whether each input is flagged, bool (N,).

        Args:
            features: (N, F).
            predicted: (N,) whole numbers: the network's answers.
        """
        found = self.predict(features)
        return found != arrays.classes_of(predicted, len(found), "predicted")

    def score(self, features: Any, predicted: Any) -> np.ndarray:
        """How suspicious each input is, float64 (N,): 1 - the share of the tree's votes for the network's answer.

        A tree grown to its end, as scikit-learn's default, has one vote: its score is the flag.
        """
        shares = self.model.predict_proba(self._known(features))
        classes = arrays.classes_of(predicted, len(shares), "predicted")
        place = np.searchsorted(self.model.classes_, classes)
        place = np.minimum(place, len(self.model.classes_) - 1)
        known = self.model.classes_[place] == classes
        return 1.0 - np.where(known, shares[np.arange(len(shares)), place], 0.0)

    def _known(self, features: Any) -> Any:
        if not hasattr(self.model, "classes_"):
            raise ValueError("the tree is not trained: call fit with clean inputs first")
        found = arrays.rows(features)
        arrays.same_width(found, self.model.n_features_in_)
        return _for_trees(found, "csr")


class BinaryForest:
    """A random forest that tells clean from adversarial features; it has to be shown both.

    Args:
        seed: of the forest.
        trees: how many.
        settings: to scikit-learn's classifier.
    """

    def __init__(self, seed: int = 0, trees: int = 300, **settings: Any) -> None:
        self.model = RandomForestClassifier(trees, random_state=seed, **settings)

    def fit(self, normal: Any, adversarial: Any) -> BinaryForest:
        """Train on inputs of both kinds.

        Args:
            normal, adversarial: (N, F) and (M, F).
        """
        both = [arrays.rows(normal, "normal"), arrays.rows(adversarial, "adversarial")]
        arrays.same_width(both[1], both[0].shape[1], "adversarial")
        scattered = any(sparse.issparse(part) for part in both)
        stacked = sparse.vstack([sparse.csr_array(part) for part in both]) if scattered else np.concatenate(both)
        labels = np.repeat([0, 1], [part.shape[0] for part in both])
        self.model.fit(_for_trees(stacked, "csc"), labels)
        return self

    def score(self, features: Any) -> np.ndarray:
        """How suspicious each input is, float64 (N,): the forest's probability that it is adversarial."""
        if not hasattr(self.model, "classes_"):
            raise ValueError("the forest is not trained: call fit with inputs of both kinds first")
        found = arrays.rows(features)
        arrays.same_width(found, self.model.n_features_in_)
        return self.model.predict_proba(_for_trees(found, "csr"))[:, 1]


def _for_trees(found: Any, form: str) -> Any:
    """Float32 as scikit-learn's trees hold features, sparse with 32-bit indices, as they ask for."""
    if not sparse.issparse(found):
        return found.astype(np.float32)
    changed = found.asformat(form).astype(np.float32)
    if changed.indices.dtype != np.int32 or changed.indptr.dtype != np.int32:
        if changed.nnz >= 2**31:
            raise ValueError(f"{changed.nnz:,} non-zero features: fewer than 2^31 are wanted")
        changed.indices, changed.indptr = changed.indices.astype(np.int32), changed.indptr.astype(np.int32)
    return changed
