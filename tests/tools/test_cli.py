"""The command line: what it prints, and with what status it ends."""

import os
import re
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from fastbp import cli, datasets

REAL_MNIST = Path(
    os.environ.get("FASTBP_DATA") or Path(__file__).parents[3] / "shared" / "data" / "mnist"
)
SMALL = ["mnist", "--epochs", "2", "--hidden", "8"]
FASTBP = [sys.executable, "-c", "import sys; from fastbp.cli import main; sys.exit(main())"]


@pytest.fixture
def no_mnist(monkeypatch):
    """Neither a copy of MNIST nor a network."""

    def fail(path, most_images):
        assert path is None
        raise ConnectionError("the network is unreachable")

    monkeypatch.setattr(datasets, "_read_copy", fail)


def one_line_error(capsys):
    """The error line, which must be all that stderr got."""
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert error.endswith("\n")
    assert "Traceback" not in error
    return error


# ---- mnist ----------------------------------------------------------------------------------


def test_without_mnist_the_digits_are_trained_and_the_first_line_says_so(no_mnist, capsys, recwarn):
    assert cli.main([*SMALL, "--threads", "1"]) == 0
    output, error = capsys.readouterr()
    lines = output.splitlines()
    assert "bundled 8x8 digits" in lines[0]
    assert "the network is unreachable" in lines[0]
    assert "64-8-10 relu, sgd at 0.1, batch 32, float32, threads up to 1, seed 0" in lines
    assert error == ""
    assert not recwarn.list  # that all epochs were used is no news


def test_every_epoch_is_a_line_where_the_output_is_no_terminal(no_mnist, capsys):
    cli.main([*SMALL, "--epochs", "10"])
    output = capsys.readouterr().out
    epochs = re.findall(
        r"^epoch +(\d+)/10  loss +\d\.\d+ +[\d,]+ samples/s +[\d.]+ s$", output, re.M
    )
    assert [int(epoch) for epoch in epochs] == list(range(1, 11))
    assert "\r" not in output


def test_epochs_share_a_line_on_a_terminal(no_mnist, capsys, monkeypatch):
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    cli.main(SMALL)
    first, second, *_ = capsys.readouterr().out.split("\r")[1:]
    assert first.startswith("epoch 1/2")
    assert "\n" not in first
    assert second.partition("\n")[0].startswith("epoch 2/2")
    assert len(second.partition("\n")[0]) == len(first)


def test_times_add_up(no_mnist, capsys):
    started = time.perf_counter()
    cli.main(SMALL)
    elapsed = time.perf_counter() - started
    output = capsys.readouterr().out
    rows = dict(re.findall(r"^  (\w+) +(\d+\.\d\d) s", output, re.M))
    assert list(rows) == ["import", "compile", "load", "train", "predict", "total"]
    parts = [float(seconds) for seconds in rows.values()]
    assert sum(parts[:-1]) == pytest.approx(parts[-1], abs=0.03)
    assert parts[-1] <= elapsed + 0.01
    # The first run may have compiled; this one cannot have.
    cli.main(SMALL)
    assert re.search(r"^  compile .* \(loaded from the cache\)$", capsys.readouterr().out, re.M)


@pytest.mark.smoke
@pytest.mark.parametrize("options", [[], ["--solver", "adam", "--learning-rate", "0.01"]])
@pytest.mark.parametrize("precision", ["float32", "float64"])
def test_digits_are_learnt(no_mnist, capsys, options, precision):
    assert cli.main(["mnist", "--hidden", "32,16", "--precision", precision, *options]) == 0
    accuracy = re.search(r"^Test accuracy ([\d.]+)%$", capsys.readouterr().out, re.M)
    assert float(accuracy[1]) > 93


def test_same_seed_same_run(no_mnist, capsys):
    def losses(seed):
        cli.main([*SMALL, "--seed", seed])
        return re.findall(r"loss +([\d.]+)", capsys.readouterr().out)

    assert losses("3") == losses("3") != losses("4")


def test_data_option_names_the_folder(tmp_path, capsys, monkeypatch):
    rng = np.random.default_rng(0)
    for part in ("train", "t10k"):
        for kind, array in (
            ("images-idx3", rng.integers(0, 256, (90, 28, 28), dtype=np.uint8)),
            ("labels-idx1", rng.integers(0, 10, 90, dtype=np.uint8)),
        ):
            header = np.array([0x0800 + array.ndim, *array.shape], ">u4")
            (tmp_path / f"{part}-{kind}-ubyte").write_bytes(header.tobytes() + array.tobytes())
    assert cli.main([*SMALL, "--data", str(tmp_path)]) == 0
    output = capsys.readouterr().out
    assert output.startswith(f"{tmp_path}: 90 training and 90 test images\n")
    assert "784-8-10" in output

    damaged = tmp_path / "t10k-labels-idx1-ubyte"
    damaged.write_bytes(damaged.read_bytes()[:-1])
    assert cli.main([*SMALL, "--data", str(tmp_path)]) == 2
    assert f"{damaged}: truncated" in one_line_error(capsys)


@pytest.mark.skipif(not REAL_MNIST.is_dir(), reason="MNIST is not at hand: set FASTBP_DATA")
def test_default_recipe_reaches_98_percent(capsys):
    assert cli.main(["mnist", "--data", str(REAL_MNIST), "--seed", "1"]) == 0
    output = capsys.readouterr().out
    assert float(re.search(r"^Test accuracy ([\d.]+)%$", output, re.M)[1]) >= 98.0


# ---- errors ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "arguments are required: command"),
        (["brew"], "invalid choice: 'brew'"),
        (["mnist", "--hidden", "64,x"], "--hidden: 'x' is not a whole number from 1"),
        (["mnist", "--hidden", ""], "--hidden: '' is not a whole number from 1"),
        (["mnist", "--hidden", "0"], "--hidden: '0' is not a whole number from 1"),
        (["mnist", "--epochs", "-1"], "--epochs: '-1' is not a whole number from 1"),
        (["mnist", "--batch-size", "1.5"], "--batch-size: '1.5' is not a whole number"),
        (["mnist", "--learning-rate", "nan"], "--learning-rate: 'nan' is not a number above 0"),
        (["mnist", "--learning-rate", "fast"], "--learning-rate: 'fast' is not a number above 0"),
        (["mnist", "--seed", "4294967296"], "--seed: '4294967296' is not a whole number from 0"),
        (["mnist", "--activation", "softmax"], "--activation: invalid choice: 'softmax'"),
        (["mnist", "--precision", "float16"], "--precision: invalid choice: 'float16'"),
        (["mnist", "--hidden", "9" * 5000], "is not a whole number from 1 to 2147483647"),
        (["mnist", "--hidden", "2147483648"], "'2147483648' is not a whole number from 1"),
        (["mnist", "--data", "no/such/folder"], "--data: 'no/such/folder' does not exist"),
        (["mnist", "--data", __file__], f"--data: {__file__!r} is not a folder"),
    ],
)
def test_bad_arguments_are_one_line_and_status_2(capsys, arguments, message):
    assert cli.main(arguments) == 2
    assert message in one_line_error(capsys)


def test_folder_from_the_environment_that_is_a_file(capsys, monkeypatch):
    monkeypatch.setenv("FASTBP_DATA", __file__)
    assert cli.main(SMALL) == 2
    assert f"FASTBP_DATA: {__file__} is not a folder" in one_line_error(capsys)


@pytest.mark.parametrize("error", [MemoryError, OverflowError])
def test_exhausted_memory_is_one_line_and_status_2(no_mnist, capsys, monkeypatch, error):
    def fail(*arguments):
        raise error

    monkeypatch.setattr(cli, "fit", fail)
    assert cli.main(SMALL) == 2
    assert one_line_error(capsys) == f"fastbp: error: {error.__name__}\n"


def test_diverged_training_is_one_line_and_status_2(no_mnist, capsys):
    assert cli.main([*SMALL, "--learning-rate", "1e30"]) == 2
    assert "lower learning_rate_init" in one_line_error(capsys)


@pytest.mark.parametrize("terminal", [True, False])
def test_interrupted_training_ends_with_130(no_mnist, capsys, monkeypatch, terminal):
    def interrupt(self, report):
        raise KeyboardInterrupt

    monkeypatch.setattr(cli.ProgressLine, "__call__", interrupt)
    monkeypatch.setattr(sys.stdout, "isatty", lambda: terminal)
    assert cli.main(SMALL) == 130
    output, error = capsys.readouterr()
    assert error == "fastbp: interrupted\n"
    assert output.endswith("seed 0\n" + "\n" * terminal)
    assert "Test accuracy" not in output


def test_reader_that_leaves_is_no_error():
    process = subprocess.Popen([*FASTBP, "info"], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    process.stdout.close()
    assert process.stderr.read() == b""
    process.stderr.close()
    assert process.wait() == 141


@pytest.mark.parametrize("arguments", [["--help"], ["mnist", "--help"], ["--version"]])
def test_help_and_version_succeed(capsys, arguments):
    assert cli.main(arguments) == 0
    assert "fastbp" in capsys.readouterr().out


# ---- warmup, info ---------------------------------------------------------------------------


def test_warmup_says_where_the_kernels_are(capsys):
    from fastbp.cpu import code

    assert cli.main(["warmup"]) == 0
    assert capsys.readouterr().out.rstrip().endswith(code.describe()["cache_folder"])
    assert cli.main(["warmup"]) == 0
    assert "already compiled" in capsys.readouterr().out


def test_warmup_that_keeps_nothing_is_an_error(capsys, monkeypatch):
    from fastbp.cpu import code

    monkeypatch.setattr(code, "warm_up", lambda dtypes, everything: None)
    assert cli.main(["warmup"]) == 2
    assert "FASTBP_CACHE_DIR" in one_line_error(capsys)


def test_info_describes_the_machine(capsys):
    import numba

    assert cli.main(["info"]) == 0
    rows = dict(line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines())
    assert rows["numpy"] == np.__version__
    assert rows["numba"] == numba.__version__
    assert re.fullmatch(r"\d+ bits \(\d+ float32 or \d+ float64\)", rows["vectors"])
    assert 1 <= int(rows["threads"]) <= os.cpu_count()
    assert rows["GPU"].startswith("none, device='auto' is the CPU: ")
    assert {"fastbp", "Python", "scikit-learn", "llvmlite", "CPU", "cache"} <= set(rows)


def test_time_counts_from_the_process_start_or_else_its_cpu_time(monkeypatch):
    elapsed = cli.seconds_since_process_start()
    assert elapsed > time.process_time() / os.cpu_count()

    def unknown(path):
        raise FileNotFoundError(path)

    monkeypatch.setattr(cli.Path, "read_text", unknown)
    before = time.process_time()
    assert before <= cli.seconds_since_process_start() <= time.process_time()
