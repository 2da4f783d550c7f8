"""The pages: what they name exists, what they show is stored, and links lead somewhere."""

import json
import pkgutil
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), ROOT / "examples" / "README.md"])
REPOSITORY = re.compile(
    r"https://(?:github\.com/fastbp/fastbp/(?:blob|tree)|raw\.githubusercontent\.com/fastbp/fastbp)"
    r"/main/(\S+)"
)
each_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)


def targets_of(text):
    """Where the links and pictures of a page lead, in either of Markdown's two forms."""
    inline = re.findall(r"\]\(([^)\s]+)\)", text)
    return inline + re.findall(r"^\[[\w-]+\]: (\S+)$", text, re.MULTILINE)


@each_page
def test_links_lead_somewhere(page):
    text = page.read_text(encoding="utf-8")
    for target in targets_of(text):
        own = REPOSITORY.fullmatch(target)
        if own:
            assert (ROOT / own[1]).exists(), target
        elif "://" not in target:
            assert (page.parent / target.partition("#")[0]).exists(), target
    used = set(re.findall(r"\]\[([\w-]+)\]", text))
    assert used == set(re.findall(r"^\[([\w-]+)\]: ", text, re.MULTILINE))


def test_the_first_page_is_short_and_its_links_are_absolute():
    """PyPI shows it, too, where no file lies next to it."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    lines = text.splitlines()
    assert len(lines) <= 120
    assert max(map(len, lines)) < 100
    assert all("://" in target for target in targets_of(text))


@each_page
def test_names_and_files_exist(page):
    text = page.read_text(encoding="utf-8")
    for name in re.findall(r"`(fastbp(?:\.\w+)+)[`(]", text):
        pkgutil.resolve_name(name)
    for path in re.findall(r"`((?:fastbp|tests|benchmarks|docs|examples)/[\w/.]*)`", text):
        assert (ROOT / path).exists(), path


@pytest.mark.smoke
def test_every_module_is_on_the_map():
    page = (ROOT / "docs" / "how-it-is-built.md").read_text(encoding="utf-8")
    modules = {path.name for path in (ROOT / "fastbp").glob("[!_]*.py")}
    assert modules == set(re.findall(r"^\| `fastbp/(\w+\.py)`", page, re.MULTILINE))


def test_every_difference_has_its_test():
    page = (ROOT / "docs" / "differences.md").read_text(encoding="utf-8")
    sources = "\n".join(path.read_text() for path in (ROOT / "tests").rglob("test_*.py"))
    written = set(re.findall(r"^def (test_\w+)", sources, re.MULTILINE))
    assert set(re.findall(r"`(test_\w+)`", page)) <= written
    for line in page.splitlines():
        if line.startswith("- "):
            assert re.search(r" `test_\w+`$", line), line


# ---- the table of the first page --------------------------------------------------------------

RESULTS = ROOT / "benchmarks" / "results" / "bench.md"
TABULAR = ROOT / "benchmarks" / "results" / "tabular.json"
COLUMNS = ["fastbp", "scikit-learn", "PyTorch", "JAX"]


def cells_of(line):
    return [cell.strip() for cell in line.strip().strip("|").split("|")]


def table_of(text, heading, column):
    """First cell -> the cell of a column, in the first table after a heading."""
    lines = text[text.index(heading) :].splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith("|"))
    position = cells_of(lines[start]).index(column)
    rows = {}
    for line in lines[start + 2 :]:
        if not line.startswith("|"):
            break
        rows[cells_of(line)[0]] = cells_of(line)[position]
    return rows


def test_measured_errors_on_tables_are_the_stored_ones():
    stored = json.loads(TABULAR.read_text(encoding="utf-8"))["contenders"]
    names = {
        "RealMLP-TD (": "pytabkit TD", '**fastbp**, `preset="full"`': "fastbp full",
        "RealMLP-TD-S (": "pytabkit TD-S", "**fastbp**, the default": "fastbp small",
        "HistGradientBoosting": "HistGradientBoosting", "LightGBM": "LightGBM",
        "scikit-learn's MLP": "scikit-learn MLP",
    }  # fmt: skip
    for page in ("README.md", "docs/tables.md"):
        text = (ROOT / page).read_text(encoding="utf-8")
        for start, name in names.items():
            (line,) = (line for line in text.splitlines() if line.startswith(f"| {start}"))
            error, seconds = map(float, cells_of(line)[1:])
            assert error == round(stored[name]["error_ratio"], 3)
            assert abs(seconds - stored[name]["cpu_seconds"]) < 0.05


def test_measured_lines_are_the_stored_ones():
    results = RESULTS.read_text(encoding="utf-8")
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    first = text[text.index("| time of an epoch") :].partition("\n\n")[0]
    shown = [cells_of(line) for line in first.splitlines()]
    assert shown[0][1:] == COLUMNS
    assert len(shown) == 2 + 5
    for network, *times in shown[2:-1]:
        stored = table_of(results, f"**{network}**", "ms/epoch")
        assert times == [f"{stored[name]} ms" for name in COLUMNS], network
    seconds = table_of(results, "### From nothing to a trained network", "process s")
    names = ["fastbp, warm cache", *COLUMNS[1:3]]
    assert shown[-1][1:4] == [f"{seconds[name]} s" for name in names]
    assert f"{seconds['fastbp, empty cache']} s when" in " ".join(text.split())
    assert results[:10] in text  # the date
    cpu, family = re.match(r"\S+ \S+, ([^,(]+) (\(.*?\)), 2 of 2 cores", results).groups()
    assert f"2 cores of an {cpu} {family}" in " ".join(text.split())
