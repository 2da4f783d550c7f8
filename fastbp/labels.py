"""Class labels: encoding them as targets, and decoding outputs to labels."""

import reprlib
from dataclasses import dataclass

import numpy as np
from scipy.sparse import csr_matrix, issparse
from sklearn.utils.multiclass import type_of_target, unique_labels

from fastbp.validation import check_labels, with_plain_booleans


@dataclass(frozen=True)
class Labels:
    """The labels of a classifier.

    Parameters
    ----------
    kind : {"binary", "multiclass", "multilabel"}
        The outputs: one logistic unit, one unit per class, or one logistic unit per label.
    classes : ndarray of shape (n_classes,)
        Sorted, and the column numbers where labels are indicators; users may rename them. The
        array is made read-only: targets are found by it.
    sparse : bool, default=False
        Whether indicators came, and are given back, as a sparse matrix.

    Examples
    --------
    >>> labels = Labels.of(np.array(["cat", "dog", "cat"]))
    >>> labels.kind, labels.n_outputs
    ('binary', 1)
    >>> labels.encode(np.array(["dog", "cat"]), np.float32)
    array([[1.],
           [0.]], dtype=float32)
    >>> labels.decode(np.array([[0.8], [0.1]]))
    array(['dog', 'cat'], dtype='<U3')
    """

    kind: str
    classes: np.ndarray
    sparse: bool = False

    def __post_init__(self):
        if isinstance(self.classes, np.ndarray):
            self.classes.flags.writeable = False

    def __setstate__(self, state):
        vars(self).update(state)
        self.__post_init__()  # a copied array can be written to

    def check(self, network):
        """See that the labels belong to the outputs of a network.

        Raises
        ------
        ValueError
            It names the field, as in a damaged pickle.
        """
        if self.kind not in ("binary", "multiclass", "multilabel"):
            raise ValueError(f"The kind of labels is not known: {self.kind!r}.")
        classes, n_outputs = self.classes, network.layer_sizes[-1]
        if not isinstance(classes, np.ndarray) or classes.ndim != 1:
            raise ValueError(f"classes_ must be an array of labels, got {reprlib.repr(classes)}.")
        counts = (1, 2) if self.kind == "binary" else (n_outputs,)
        if len(classes) not in counts or self.n_outputs != n_outputs:
            raise ValueError(
                f"classes_ must have {' or '.join(map(str, counts))} labels for {n_outputs} "
                f"output(s) of a {self.kind} classifier, got {len(classes)}: "
                f"{reprlib.repr(classes.tolist())}."
            )
        if classes.dtype.kind == "f" and not np.isfinite(classes).all():
            raise ValueError(
                "classes_ must be finite numbers or other labels, got "
                f"{reprlib.repr(classes.tolist())}."
            )
        if len(set(classes.tolist())) < len(classes):
            raise ValueError(
                f"classes_ must be different labels, got {reprlib.repr(classes.tolist())}."
            )
        if not isinstance(self.sparse, bool):
            raise ValueError(f"Whether labels are sparse must be a bool, got {self.sparse!r}.")
        expected = ("softmax", "logistic") if self.kind == "multiclass" else ("logistic",)
        if network.output_activation not in expected:
            raise ValueError(
                f"A {self.kind} classifier has outputs of {' or '.join(expected)}, got "
                f"{network.output_activation!r}."
            )

    @classmethod
    def of(cls, y, classes=None):
        """Find the labels in y, or use the given classes, of which y may have only some."""
        if _is_indicators(y):
            classes = np.arange(y.shape[1]) if classes is None else classes
            return cls("multilabel", classes, issparse(y))
        if classes is None:
            # A list first, so that objects become strings, as in scikit-learn.
            classes = np.array(list(np.unique(y)))
        return cls("multiclass" if len(classes) > 2 else "binary", classes)

    @property
    def n_outputs(self):
        """Units of the output layer."""
        return 1 if self.kind == "binary" else len(self.classes)

    def encode(self, y, dtype):
        """Turn labels into targets.

        Parameters
        ----------
        y : ndarray of shape (n_samples,), or indicators of shape (n_samples, n_classes)
        dtype : numpy dtype
            Dtype of targets that are not class indices.

        Returns
        -------
        targets : ndarray
            Class indices of shape (n_samples,) and dtype int64 if multiclass, else zeros and ones
            of shape (n_samples, n_outputs).

        Raises
        ------
        ValueError
            If labels are of another kind, or not among the classes.
        """
        if _is_indicators(y) != (self.kind == "multilabel"):
            raise ValueError(f"y must hold {self.kind} labels, as when training began.")
        if self.kind == "multilabel":
            if y.shape[1] != self.n_outputs:
                raise ValueError(
                    f"y must have {self.n_outputs} columns, one for each of the classes "
                    f"{self.classes}; it has {y.shape[1]}."
                )
            return ((y.toarray() if issparse(y) else y) > 0).astype(dtype)
        present, indices = np.unique(y, return_inverse=True)
        unseen = np.setdiff1d(present, self.classes)
        if len(unseen):
            raise ValueError(f"y has labels {unseen} that are not among classes_ {self.classes}.")
        order = np.argsort(self.classes, kind="stable")  # users may have renamed classes
        indices = order[np.searchsorted(self.classes, present, sorter=order)[indices]]
        if self.kind == "multiclass":
            return indices.astype(np.int64, copy=False)
        return (indices == 1).astype(dtype)[:, None]

    def decide(self, outputs):
        """Choose the likeliest target: class indices, or zeros and ones as booleans."""
        return outputs.argmax(axis=1) if self.kind == "multiclass" else outputs > 0.5

    def decode(self, outputs):
        """Turn outputs of shape (n_samples, n_outputs) into labels."""
        decided = self.decide(outputs)
        if self.kind == "multilabel":
            return csr_matrix(decided, dtype=int) if self.sparse else decided.astype(int)
        # A single class is the answer whatever the output.
        return self.classes.take(decided.ravel().astype(int), mode="clip")

    def accuracy(self, outputs, targets, sample_weight=None):
        """Weighted fraction of the rows for which all targets are predicted right."""
        correct = self.decide(outputs) == targets
        if correct.ndim == 2:
            correct = correct.all(axis=1)
        return np.average(correct, weights=sample_weight)

    def to_stratify(self, targets):
        """The class of each row, for a stratified split of two classes; None for all others.

        scikit-learn stratifies where there is one output. The class is whether it is the second:
        scikit-learn's error message then tells which.
        """
        return targets.ravel() == 1 if self.kind == "binary" else None


def as_text(labels):
    """Turn an array of bytes into strings in the same order, for scikit-learn, which refuses bytes.

    Other arrays are returned unchanged.
    """
    return np.char.decode(labels, "latin-1") if labels.dtype.kind == "S" else labels


def pack_bytes(labels):
    """Turn an array of bytes objects into one of bytes; return other arrays unchanged."""
    is_bytes = labels.dtype == object and labels.size
    is_bytes = is_bytes and all(isinstance(label, bytes) for label in labels.flat)
    return labels.astype("S") if is_bytes else labels


def plain_accuracy(y, predicted):
    """The share of labels that are predicted right, where scikit-learn has nothing more to say.

    Its checks take twice as long as to predict a few hundred rows. It refuses labels of several
    kinds, and some versions warn where more than half of them are different: what may be so is left
    to it.

    Parameters
    ----------
    y : object
        The true labels, as a user gives them.
    predicted : ndarray or CSR matrix

    Returns
    -------
    accuracy : float or None

    Examples
    --------
    >>> plain_accuracy(np.array([3, 4] * 4), np.array([3, 3] * 4)), plain_accuracy([3], [3])
    (0.5, None)
    """
    if not (_are_plain(y) and _are_plain(predicted) and len(y) == len(predicted)):
        return None
    if (y.dtype.kind == "U") != (predicted.dtype.kind == "U"):
        return None
    right = y == predicted
    n_right, n_predicted = int(np.count_nonzero(right)), len(np.unique(predicted))
    most = len(y) // 2  # of them are different, at most the predicted and all that are wrong
    if n_predicted + len(y) - n_right > most and n_predicted + len(np.unique(y[~right])) > most:
        return None
    return n_right / len(y)


def sorted_classes(classes):
    """Return the distinct classes that a user lists, sorted, of shape (n_classes,)."""
    check_labels(classes, "classes")
    labels = with_plain_booleans(pack_bytes(np.asarray(classes)))
    return np.unique(labels) if labels.dtype.kind in "Sb" else unique_labels(classes)


def _are_plain(labels):
    """Whether labels are a vector of whole numbers, of booleans or of strings.

    scikit-learn takes such for classes, but some versions warn if more than half are different.
    """
    is_vector = type(labels) is np.ndarray and labels.ndim == 1
    return is_vector and labels.size > 0 and labels.dtype.kind in "biuU"


def _is_indicators(y):
    """Whether y is a matrix of label indicators rather than a vector of class labels."""
    if _are_plain(y) and 2 * len(np.unique(y)) <= len(y):
        return False
    found = type_of_target(as_text(y), input_name="y")
    if found not in ("binary", "multiclass", "multilabel-indicator"):
        raise ValueError(
            f"Unknown label type: {found}. y must be a vector of class labels or a matrix of zeros "
            "and ones with a column for each label; to predict numbers use a regressor, such as "
            "MLPRegressor. Booleans or whole numbers in an array of objects need a dtype of their "
            "own: y.astype(bool), y.astype(int)."
        )
    return found == "multilabel-indicator"
