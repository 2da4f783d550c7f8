"""From the options to the report."""

from importlib.util import find_spec

from benchmarks.tabular import openml, sets
from benchmarks.tabular.contenders import BY_DEFAULT, CONTENDERS, ENSEMBLE
from benchmarks.tabular.measuring import ResultsFile, make_header, run
from benchmarks.tabular.report import as_json, markdown
from benchmarks.tabular.summary import Summary


def run_program(options):
    """Do what the options of the command say; end with SystemExit where they cannot be.

    Parameters
    ----------
    options : Namespace
        Of `benchmarks.tabular.__main__.parse`.
    """
    folder = options.data or sets.default_folder()
    if options.download:
        sets.download(folder)
        print(f"The data are in {folder}.")
        return
    tables = all_tables(options.openml)
    chosen = choose("--sets", options.sets or list(tables), tables)
    default = ENSEMBLE if options.ensemble else BY_DEFAULT
    contenders = choose("--models", options.models or default, CONTENDERS)
    absent = {each.name: each.missing() for each in contenders if each.missing()}
    contenders = [each for each in contenders if each.name not in absent]
    if not contenders:
        raise SystemExit("nobody can take part: " + "; ".join(map(": ".join, absent.items())))
    need_wheels(chosen, folder)
    for name, why in absent.items():
        print(f"{name} takes no part: {why}")
    try:
        file = ResultsFile(options.results, make_header(options.threads))
    except ValueError as error:
        raise SystemExit(str(error)) from None
    run(file, chosen, range(options.splits), contenders, folder)
    names = {table.name for table in chosen}
    records = [each for each in file.records
               if each["table"] in names and each["split"] < options.splits]  # fmt: skip
    try:
        summary = Summary(records, [each.name for each in contenders], options.reference)
    except ValueError as error:
        raise SystemExit(str(error)) from None
    text = markdown(file.header, summary, tables, absent)
    print(f"\n{text}")
    if options.output is not None:
        write(options.output, text, file.header, summary, absent)


def all_tables(with_openml):
    """The tables by name, OpenML's only if they are wanted."""
    return sets.TABLES | (openml.openml_tables() if with_openml else {})


def choose(option, names, there):
    """Those of the names, in the order of `there`; a name that is not there ends the program."""
    for name in names:
        if name not in there:
            raise SystemExit(f"{option}: no {name!r}; there are {', '.join(there)}")
    return [each for name, each in there.items() if name in names]


def need_wheels(tables, folder):
    """End the program where data are not downloaded."""
    for package in {table.package for table in tables} & set(sets.DOWNLOADED):
        if not sorted(folder.glob(package.pattern)):
            raise SystemExit(
                f"{package.name} {package.version} is not in {folder}: fetch it with "
                "`python -m benchmarks.tabular --download`, or name other data with --sets"
            )


def write(folder, text, header, summary, absent):
    """Write the report's files."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "tabular.md").write_text(f"# Tables\n\n{text}")
    (folder / "tabular.json").write_text(as_json(header, summary, absent))
    if find_spec("matplotlib"):
        from benchmarks.tabular.plots import draw

        draw(summary, header).savefig(folder / "tabular.png", dpi=120)
    print(f"Written to {folder}.")
