"""fastbp train, predict and evaluate, against scikit-learn and pandas."""

import csv
import io
import re
import sys
from pathlib import Path

import numpy as np
import pytest
from sklearn import metrics
from sklearn.model_selection import train_test_split

import fastbp
from fastbp import cli

pandas = pytest.importorskip("pandas")

QUICK = ["--epochs", "12", "--threads", "1"]


def make_frame(n=240):
    """A price, a class and a truth that depend on the first columns; some values are missing."""
    rng = np.random.default_rng(0)
    frame = pandas.DataFrame(
        {
            "size": rng.normal(50, 12, n).round(2),
            "town": rng.choice(["Ulm", "Bonn", "Köln, Deutz"], n),
            "built": pandas.to_datetime("2000-01-01")
            + pandas.to_timedelta(rng.integers(9000, size=n), "D"),
            "noise": rng.integers(100, size=n),
            "garden": rng.choice([True, False], n),
        }
    )
    frame["built"] = frame["built"].dt.strftime("%Y-%m-%d")
    price = 3 * frame["size"] + 40 * (frame["town"] == "Ulm") + rng.normal(size=n)
    frame["price"] = price.round(2)
    frame["dear"] = np.where(price > price.median(), "yes", "no")
    frame["rooms"] = np.digitize(price, price.quantile([0.3, 0.7]))
    frame["is_dear"] = price > price.median()
    frame.loc[[3, 17], "size"] = np.nan
    frame.loc[[5, 8], "town"] = None
    return frame


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The present folder, with houses.csv."""
    monkeypatch.chdir(tmp_path)
    make_frame().to_csv("houses.csv", index=False)
    return tmp_path


def run(capsys, *arguments, status=0):
    """What a command prints; of one that fails, the line on stderr."""
    found = cli.main([*map(str, arguments)])
    output, error = capsys.readouterr()
    assert found == status, error
    if status:
        assert error.count("\n") == 1
        assert "Traceback" not in error
        return error.strip()
    assert error == ""
    return output


def train(capsys, target, *options):
    drop = [name for name in ("price", "dear", "rooms", "is_dear") if name != target]
    return run(
        capsys,
        "train",
        "houses.csv",
        "--target",
        target,
        "--drop",
        ",".join(drop),
        *QUICK,
        *options,
    )


def shown_scores(output):
    """Score -> (the model's, the trivial one's)."""
    rows = re.findall(r"^  (\S.*?) +(-?[\d.e+-]+) +(-?[\d.e+-]+)$", output, re.M)
    return {name: (float(own), float(trivial)) for name, own, trivial in rows}


# ---- train ------------------------------------------------------------------------------------


@pytest.mark.smoke
def test_regression_from_file_to_scores(folder, capsys):
    output = train(capsys, "price", "--seed", "3")
    lines = output.splitlines()
    assert lines[0] == "houses.csv: 240 rows, 5 columns to learn from"
    assert re.match(r"price: regression, as it has \d+ different numbers$", lines[1])
    assert lines[2] == "Training on 192 rows; 48 are held out"
    model = fastbp.load("model.fastbp")
    assert isinstance(model, fastbp.TabularMLPRegressor)
    # The scores are those of the saved model on rows that it has not seen.
    frame = pandas.read_csv("houses.csv")
    rows, held_out = map(np.sort, train_test_split(np.arange(240), test_size=48, random_state=3))
    y, mean = frame["price"][held_out], np.full(48, frame["price"][rows].mean())
    predicted = model.predict(frame.iloc[held_out][[*model.feature_names_in_]])
    expected = {
        "R2": (metrics.r2_score(y, predicted), metrics.r2_score(y, mean)),
        "RMSE": tuple(metrics.mean_squared_error(y, each) ** 0.5 for each in (predicted, mean)),
        "MAE": tuple(metrics.mean_absolute_error(y, each) for each in (predicted, mean)),
    }
    found = shown_scores(output)
    assert found.keys() == expected.keys()
    for name, scores in expected.items():
        assert found[name] == pytest.approx(scores, abs=1e-4, rel=1e-4)
    assert found["R2"][0] > 0.8
    importances = re.findall(r"^  (\w+) +-?\d\.\d{4} ± \d\.\d{4}$", output, re.M)
    assert importances[:2] == ["size", "town"]
    assert sorted(importances) == sorted(model.feature_names_in_)


def test_classification_beside_the_frequencies(folder, capsys):
    output = train(capsys, "dear", "--holdout", "0.25")
    assert "dear: classification, as its values are no numbers\n" in output
    assert "Training on 180 rows; 60 are held out" in output
    model, frame = fastbp.load("model.fastbp"), pandas.read_csv("houses.csv")
    _, held_out = train_test_split(
        np.arange(240), test_size=60, random_state=0, stratify=frame["dear"]
    )
    X, y = frame.iloc[held_out][[*model.feature_names_in_]], frame["dear"][held_out]
    probabilities = model.predict_proba(X)
    expected = {
        "accuracy": (metrics.accuracy_score(y, model.predict(X)), 0.5),
        "log loss": (metrics.log_loss(y, probabilities), np.log(2)),
        "ROC AUC": (metrics.roc_auc_score(y == "yes", probabilities[:, 1]), 0.5),
    }
    found = shown_scores(output)
    assert found.keys() == expected.keys()
    for name, scores in expected.items():
        assert found[name] == pytest.approx(scores, abs=1e-4)
    assert "ROC AUC lost when a column is shuffled (5 times, 60 rows)" in output


def test_few_whole_numbers_are_classes_unless_told_otherwise(folder, capsys):
    output = train(capsys, "rooms")
    expected = "as it has 3 different whole numbers (--task regression changes that)"
    assert f"rooms: classification, {expected}\n" in output
    assert fastbp.load("model.fastbp").classes_.tolist() == [0, 1, 2]
    assert [*shown_scores(output)] == ["accuracy", "log loss"]
    output = train(capsys, "rooms", "--task", "regression")
    assert "rooms: regression, as --task says\n" in output
    assert isinstance(fastbp.load("model.fastbp"), fastbp.TabularMLPRegressor)


def test_final_model_is_that_of_all_rows(folder, capsys):
    options = ["--preset", "small", "--selection", "log_loss", "--n-ensemble", "2", "--seed", "4"]
    output = train(capsys, "dear", "--final", "--model", "all.fastbp", *options)
    assert "Training again, on all 240 rows\n" in output
    assert output.endswith(
        "Model in all.fastbp, trained on all rows; the scores are of the one before\n"
    )
    model, frame = fastbp.load("all.fastbp"), pandas.read_csv("houses.csv")
    expected = fastbp.TabularMLPClassifier(
        selection="log_loss", n_ensemble=2, max_iter=12, random_state=4, n_threads=1
    )
    X = frame[[*model.feature_names_in_]]
    expected.fit(X, frame["dear"])
    np.testing.assert_array_equal(model.predict_proba(X), expected.predict_proba(X))
    train(capsys, "dear", *options)
    other = fastbp.load("model.fastbp").predict_proba(X)
    assert not np.array_equal(other, model.predict_proba(X))


def test_rows_without_a_target_are_left_out(folder, capsys):
    frame = make_frame()
    frame.loc[[2, 9], "rooms"] = np.nan
    frame.to_csv("houses.csv", index=False)
    output = train(capsys, "rooms")
    assert "2 rows without 'rooms' are left out, first houses.csv, line 4\n" in output
    assert "Training on 190 rows; 48 are held out\n" in output
    assert fastbp.load("model.fastbp").classes_.tolist() == [0, 1, 2]
    output = run(capsys, "evaluate", "model.fastbp", "houses.csv")
    assert output.startswith("2 rows without 'rooms' are left out\n238 rows")


def test_numbers_as_categories_and_notes(folder, capsys):
    frame = make_frame()
    frame["noise"] = frame["noise"] % 3
    frame["mixed"] = ["?", *map(str, frame.index[1:])]
    frame["id"] = frame.index
    frame.to_csv("houses.csv", index=False)
    output = train(capsys, "price", "--categorical", "noise")
    encodings = fastbp.load("model.fastbp").preprocessing_[0].encodings_
    assert encodings[3].categories == ("0", "1", "2")
    assert encodings[5].kind == "categorical"
    assert "Note: houses.csv, line 2, column 'mixed': '?' is no number, so" in output
    assert "Note: column 'id' only numbers the rows: --drop 'id' leaves it out" in output
    output = train(capsys, "price", "--drop", "id", "--missing", "?")
    assert "Note" not in output
    assert fastbp.load("model.fastbp").preprocessing_[0].encodings_[5].kind == "numerical"


def test_picture(folder, capsys):
    pytest.importorskip("matplotlib")
    assert "Picture in plot.png\n" in train(capsys, "price", "--plot", "plot.png")
    assert Path("plot.png").read_bytes().startswith(b"\x89PNG")
    train(capsys, "dear", "--plot", "plot.svg")
    assert b"<svg" in Path("plot.svg").read_bytes()


def test_time_decides_the_epochs(folder, capsys):
    output = train(capsys, "price", "--epochs", "100000", "--time", "0.5")
    epochs = int(re.search(r"^(\d+) epochs in ", output, re.M)[1])
    assert 1 <= epochs < 100_000


def test_interrupted_training_leaves_no_model(folder, capsys, monkeypatch):
    def interrupted(self, X, y):
        raise KeyboardInterrupt

    monkeypatch.setattr(fastbp.TabularMLPRegressor, "fit", interrupted)
    arguments = ["train", "houses.csv", "--target", "price", *QUICK]
    assert run(capsys, *arguments, status=130) == "fastbp: interrupted"
    assert not Path("model.fastbp").exists()


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["none.csv", "--target", "price"], "No such file"),
        (["houses.csv", "--target", "prize"], "no column 'prize'; did you mean 'price'"),
        (["houses.csv", "--target", "price", "--drop", "twon"], "did you mean 'town'"),
        (["houses.csv", "--target", "price", "--drop", "price"], "--drop names the target"),
        (["houses.csv", "--target", "town", "--task", "regression"],
         "houses.csv, line 2, column 'town': 'Bonn' is no number"),
        (["houses.csv", "--target", "price", "--task", "classification"],
         "is no class but a number with a fraction"),
        (["houses.csv", "--target", "price", "--selection", "log_loss"], "this is a regression"),
        (["houses.csv", "--target", "price", "--holdout", "0.001"], "leaves too few"),
        (["houses.csv", "--target", "price", "--holdout", "1"], "not a number between 0 and 1"),
        (["houses.csv", "--target", "price", "--model", "houses.csv"], "would overwrite"),
        (["houses.csv", "--target", "price", "--model", "no/m"], "the folder no does not exist"),
        (["houses.csv", "--target", "price", "--model", "."], "is a folder"),
        (["houses.csv", "--target", "price", "--plot", "model.fastbp"], "would overwrite"),
        (["houses.csv", "--target", "price", "--plot", "plot.doc"], "'.doc' is no kind of picture"),
        (["houses.csv", "--target", "price", "--delimiter", "ab"], "neither a single character"),
        (["houses.csv", "--target", "price", "--encoding", "klingon"], "'klingon' is no encoding"),
        (["houses.csv"], "the following arguments are required: --target"),
    ],
)  # fmt: skip
def test_errors_of_train(folder, capsys, arguments, expected):
    before = Path("houses.csv").read_bytes()
    assert expected in run(capsys, "train", *arguments, status=2)
    assert Path("houses.csv").read_bytes() == before
    assert sorted(path.name for path in folder.iterdir()) == ["houses.csv"]


def test_without_packages(folder, capsys, monkeypatch):
    from fastbp.late import imported

    for package, extra in (("pandas", "tables"), ("matplotlib", "plot")):
        imported.cache_clear()
        with monkeypatch.context() as patch:
            for name in [each for each in sys.modules if each.partition(".")[0] == package]:
                patch.setitem(sys.modules, name, None)
            arguments = ["train", "houses.csv", "--target", "price", "--plot", "plot.png"]
            if package == "pandas":
                arguments = arguments[:4]
            error = run(capsys, *arguments, status=2)
        assert error.endswith(f"not installed: pip install 'fastbp[{extra}]'")
    imported.cache_clear()


# ---- predict ----------------------------------------------------------------------------------


def test_predictions_stand_beside_the_rows(folder, capsys):
    train(capsys, "dear")
    lines = Path("houses.csv").read_text().splitlines(keepends=True)
    Path("new.csv").write_text("".join([lines[0], lines[9], "\n", lines[4], lines[1]]))
    output = run(capsys, "predict", "model.fastbp", "new.csv")
    model, frame = fastbp.load("model.fastbp"), pandas.read_csv("houses.csv")
    X = frame.iloc[[8, 3, 0]][[*model.feature_names_in_]]
    written = pandas.read_csv(io.StringIO(output))
    names = ["prediction", "probability_no", "probability_yes"]
    assert written.columns.tolist() == [*frame.columns, *names]
    assert written["prediction"].tolist() == model.predict(X).tolist()
    np.testing.assert_allclose(written[names[1:]], model.predict_proba(X), rtol=1e-6)
    pandas.testing.assert_frame_equal(
        written[frame.columns], frame.iloc[[8, 3, 0]].reset_index(drop=True)
    )
    # Values stand as they stood.
    assert output.splitlines()[1].startswith(lines[9].strip() + ",")
    assert run(capsys, "predict", "model.fastbp", "new.csv", "-o", "out.csv").startswith(
        "out.csv: 3 rows with 'prediction', 'probability_no', 'probability_yes'"
    )
    assert Path("out.csv").read_text() == output


def test_regression_predicts_every_digit(folder, capsys):
    train(capsys, "price")
    model, frame = fastbp.load("model.fastbp"), pandas.read_csv("houses.csv")
    run(capsys, "predict", "model.fastbp", "houses.csv", "-o", "out.csv")
    with open("out.csv", newline="") as file:
        written = [float(row["prediction"]) for row in csv.DictReader(file)]
    np.testing.assert_array_equal(written, model.predict(frame[[*model.feature_names_in_]]))
    # A second time, the name is taken.
    run(capsys, "predict", "model.fastbp", "out.csv", "-o", "again.csv")
    again = pandas.read_csv("again.csv")
    np.testing.assert_array_equal(again["prediction_2"], again["prediction"])


def test_columns_may_be_more_and_in_another_order(folder, capsys):
    train(capsys, "price")
    frame = make_frame()[["town", "garden", "noise", "size", "built", "dear"]]
    frame.to_csv("other.csv", index=False, sep=";", decimal=",")
    run(capsys, "predict", "model.fastbp", "houses.csv", "-o", "out.csv")
    run(capsys, "predict", "model.fastbp", "other.csv", "--decimal", ",", "-o", "out2.csv")
    expected = pandas.read_csv("out.csv")["prediction"]
    found = pandas.read_csv("out2.csv", sep=";", decimal=",")["prediction"]
    np.testing.assert_allclose(found, expected)


def test_parquet_in_and_out(folder, capsys):
    pytest.importorskip("pyarrow")
    frame = make_frame().astype({"town": "category"})
    frame["built"] = pandas.to_datetime(frame["built"])
    frame.to_parquet("houses.parquet")
    arguments = ["--target", "price", "--drop", "dear,rooms,is_dear", *QUICK]
    run(capsys, "train", "houses.parquet", *arguments)
    run(capsys, "predict", "model.fastbp", "houses.parquet", "-o", "out.parquet")
    run(capsys, "predict", "model.fastbp", "houses.csv", "-o", "out.csv")
    written = pandas.read_parquet("out.parquet")
    pandas.testing.assert_frame_equal(written[frame.columns], frame)
    np.testing.assert_allclose(written["prediction"], pandas.read_csv("out.csv")["prediction"])


def test_errors_of_predict(folder, capsys):
    train(capsys, "price")
    model = Path("model.fastbp").read_bytes()
    text = Path("houses.csv").read_text()
    for name, content, expected in [
        ("text.csv", re.sub(r"^([^,]*,)", "big,", text, count=3, flags=re.M),
         "text.csv has no column 'size'; there are 'big', 'town'"),
        ("text.csv", text.replace("\n", "\nbig", 3).replace("\nbig", "\n", 1),
         "text.csv, line 3, column 'size': 'big"),
        ("short.csv", text.replace(",", "", 3), "short.csv, line 2: 9 fields, where line 1"),
    ]:  # fmt: skip
        Path(name).write_text(content)
        assert expected in run(capsys, "predict", "model.fastbp", name, status=2)
    for output in ("houses.csv", "./houses.csv", folder / "houses.csv", "model.fastbp"):
        error = run(capsys, "predict", "model.fastbp", "houses.csv", "-o", output, status=2)
        assert "would overwrite" in error
    assert Path("houses.csv").read_text() == text
    assert Path("model.fastbp").read_bytes() == model
    assert "not a safetensors file" in run(capsys, "predict", "houses.csv", "houses.csv", status=2)


def test_models_that_are_not_for_tables(folder, capsys):
    X, y = np.zeros((20, 2)), np.arange(20) % 2
    fastbp.MLPClassifier((2,), max_iter=1).partial_fit(X, y, classes=[0, 1]).save("plain.fastbp")
    error = run(capsys, "predict", "plain.fastbp", "houses.csv", status=2)
    assert "plain.fastbp is a MLPClassifier, where a TabularMLPClassifier" in error
    X = np.random.default_rng(0).normal(size=(40, 2))
    fastbp.TabularMLPRegressor(max_iter=1).fit(X, X[:, 0]).save("array.fastbp")
    error = run(capsys, "predict", "array.fastbp", "houses.csv", status=2)
    assert error.endswith("array.fastbp was trained on an array, whose columns have no names")


# ---- evaluate ---------------------------------------------------------------------------------


@pytest.mark.parametrize("target", ["price", "dear", "rooms", "is_dear"])
def test_evaluation_remembers_the_target(folder, capsys, target):
    train(capsys, target)
    output = run(capsys, "evaluate", "model.fastbp", "houses.csv")
    assert output.startswith("240 rows ")
    found = shown_scores(output)
    model, frame = fastbp.load("model.fastbp"), pandas.read_csv("houses.csv")
    X, y = frame[[*model.feature_names_in_]], frame[target]
    y = y.astype(str) if target == "is_dear" else y
    key = "R2" if target == "price" else "accuracy"
    assert found[key][0] == pytest.approx(model.score(X, y), abs=1e-4)
    trivial = 0 if target == "price" else y.value_counts().max() / 240
    assert found[key][1] == pytest.approx(trivial, abs=1e-4)


def test_evaluation_of_another_column(folder, capsys):
    train(capsys, "price")
    frame = make_frame().rename(columns={"price": "paid"})
    frame.to_csv("new.csv", index=False)
    error = run(capsys, "evaluate", "model.fastbp", "new.csv", status=2)
    assert "new.csv has no column 'price'" in error
    expected = run(capsys, "evaluate", "model.fastbp", "houses.csv")
    assert run(capsys, "evaluate", "model.fastbp", "new.csv", "--target", "paid") == expected


def test_unknown_classes_count_as_wrong(folder, capsys):
    train(capsys, "dear")
    before = shown_scores(run(capsys, "evaluate", "model.fastbp", "houses.csv"))
    frame = make_frame()
    frame = pandas.concat([frame, frame.head(60).assign(dear="maybe")])
    frame.to_csv("new.csv", index=False)
    output = run(capsys, "evaluate", "model.fastbp", "new.csv")
    assert (
        "60 rows have a dear that the model does not know, first new.csv, line 242: 'maybe'"
        in output
    )
    after = shown_scores(output)
    assert after["log loss"] == before["log loss"]
    assert after["accuracy"] == pytest.approx([0.8 * each for each in before["accuracy"]], abs=1e-4)


def test_spellings_of_truth_and_numbers_as_classes(folder, capsys):
    train(capsys, "is_dear")
    expected = run(capsys, "evaluate", "model.fastbp", "houses.csv")
    text = Path("houses.csv").read_text()
    Path("new.csv").write_text(re.sub("True$", "TRUE", text, flags=re.M))
    assert run(capsys, "evaluate", "model.fastbp", "new.csv") == expected
    train(capsys, "rooms")
    Path("new.csv").write_text(re.sub(r",(\d),(True|False)$", r",\1.0,\2", text, flags=re.M))
    expected = run(capsys, "evaluate", "model.fastbp", "houses.csv")
    assert run(capsys, "evaluate", "model.fastbp", "new.csv") == expected
    Path("new.csv").write_text(re.sub(r",\d,(True|False)$", r",many,\1", text, flags=re.M))
    error = run(capsys, "evaluate", "model.fastbp", "new.csv", status=2)
    assert "line 2, column 'rooms': 'many' is no number (and 239 more such values)" in error


def test_models_of_python_do_not_know_their_target(folder, capsys):
    frame = pandas.read_csv("houses.csv")
    fastbp.TabularMLPRegressor(max_iter=2).fit(frame[["size"]], frame["price"]).save("own.fastbp")
    error = run(capsys, "evaluate", "own.fastbp", "houses.csv", status=2)
    assert error.endswith("own.fastbp does not say what its target is called: give --target")
    output = run(capsys, "evaluate", "own.fastbp", "houses.csv", "--target", "price")
    assert [*shown_scores(output)] == ["R2", "RMSE", "MAE"]
