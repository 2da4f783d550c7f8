"""Ten small tables as people have them in files: made up, but with the usual flaws.

Each function gives the columns of one table, as texts or what `str` makes of other values; None is
an empty field. The first column is a label to classify, the second a number to predict.
"""

import csv
import datetime
import io

import numpy as np

N_ROWS = 180


def as_csv(columns, rows=slice(None)):
    """The text of a file with a header, quoted where that is needed."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows([*zip(*columns.values(), strict=True)][rows])
    return file.getvalue()


def gaps(generator, values, share):
    """The values, a share of them missing."""
    missing = generator.random(len(values)) < share
    return [None if gone else value for value, gone in zip(values, missing, strict=True)]


def pick(generator, values, shares=None):
    """A column of values, some more frequent than others."""
    return [values[i] for i in generator.choice(len(values), N_ROWS, p=shares)]


def dates(generator, start, days):
    start = datetime.datetime.fromisoformat(start)
    return [
        start + datetime.timedelta(seconds=int(s))
        for s in generator.integers(0, days * 86400, N_ROWS)
    ]


def customers(g):
    """Ids, rare places in several scripts, a date without times, a mostly empty column."""
    return {
        "churned": pick(g, ["yes", "no"], [0.3, 0.7]),
        "lifetime value": g.lognormal(5, 2, N_ROWS).round(2),
        "customer_id": [f"C-{i:06d}" for i in g.permutation(N_ROWS)],
        "age": gaps(g, g.integers(18, 95, N_ROWS).tolist(), 0.1),
        "city": gaps(
            g, pick(g, ["Zürich", "北京", "São Paulo", "Washington, D.C.", "", "Ål"]), 0.05
        ),
        "signed up": [day.date() for day in dates(g, "2019-01-01", 1500)],
        "newsletter": gaps(g, pick(g, [True, False]), 0.2),
        "fax": gaps(g, g.integers(1000, 9999, N_ROWS).tolist(), 0.97),
    }


def houses(g):
    """Numbers as codes, missing garages in several columns at once, a constant column."""
    garage = g.random(N_ROWS) < 0.8
    year = g.integers(1900, 2010, N_ROWS)
    return {
        "sold": pick(g, ["Normal", "Abnorml", "Partial", "Family"], [0.8, 0.1, 0.06, 0.04]),
        "price": g.lognormal(12, 0.4, N_ROWS).round(-2),
        "MSSubClass": pick(g, [20, 60, 120, 190]),
        "Lot Frontage": gaps(g, g.normal(70, 20, N_ROWS).round(), 0.18),
        "GarageType": [
            v if there else None
            for v, there in zip(pick(g, ["Attchd", "Detchd"]), garage, strict=True)
        ],
        "GarageYrBlt": [int(v) if there else None for v, there in zip(year, garage, strict=True)],
        "Utilities": ["AllPub"] * N_ROWS,
        "PoolQC": gaps(g, pick(g, ["Ex", "Gd", "Fa"]), 0.95),
    }


def ledger(g):
    """Amounts of 1e9, tiny rates, 1e300 as a mark for unknown, and each row twice."""
    half = N_ROWS // 2
    amount = np.where(g.random(half) < 0.02, 1e300, g.lognormal(20, 3, half))
    columns = {
        "flagged": g.choice([0, 1], half),
        "balance": (1e9 * g.normal(size=half)).round(2),
        "amount": amount,
        "rate": 1e-9 * g.random(half),
        "account": g.integers(10**15, 9 * 10**18, half),
        "currency": g.choice(["EUR", "USD", "JPY"], half),
        "zero": np.zeros(half),
    }
    return {name: [*values.tolist(), *values.tolist()] for name, values in columns.items()}


def sensors(g):
    """Times of day and season, a sensor that never works, one that always says the same."""
    times = dates(g, "2022-11-01", 500)
    return {
        "alarm": pick(g, ["none", "low", "high"], [0.9, 0.07, 0.03]),
        "load": [round(20 + 5 * np.sin(t.hour / 24 * 6.28) + g.normal(), 3) for t in times],
        "time": [t.isoformat(" ") for t in times],
        "temperature": gaps(g, g.normal(15, 8, N_ROWS).round(1).tolist(), 0.3),
        "broken": [None] * N_ROWS,
        "stuck": [21.5] * N_ROWS,
        "error count": pick(g, [0, 1, 2], [0.97, 0.02, 0.01]),
    }


def survey(g):
    """Answers as texts, numbers with units, free texts with commas, quotes and line breaks."""
    remarks = ["no, thanks", 'he said "maybe"', "line\nbreak", "🙂", "n/a.", "ok; fine"]
    return {
        "group": pick(g, ["treated", "control"]),
        "score": g.integers(0, 101, N_ROWS),
        "smoker": gaps(g, pick(g, ["yes", "no", "Yes", "NO"]), 0.1),
        "income": gaps(g, pick(g, ["10k-20k", "20k-50k", ">50k", "?"]), 0.1),
        "height": [f"{cm} cm" for cm in g.integers(150, 200, N_ROWS)],
        "remark": [f"{r} {i % 37}" for i, r in enumerate(pick(g, remarks))],
        "agree": gaps(g, g.integers(1, 6, N_ROWS).tolist(), 0.4),
    }


def products(g):
    """Codes that are digits but for some, prices with commas, names in all alphabets."""
    return {
        "returned": pick(g, [False, True], [0.95, 0.05]),
        "sales": g.poisson(40, N_ROWS),
        "code": [
            str(c)
            for c in pick(g, [100, 101, 102, 103, "10X", "S-7"], [0.3, 0.3, 0.2, 0.1, 0.05, 0.05])
        ],
        "price": [f"{p:.2f}".replace(".", ",") for p in g.lognormal(2, 0.2, N_ROWS)],
        "name": pick(g, ["Ωmega", "наборы", "crème brûlée", "naïve, café", "x"]),
        "stock": pick(g, [-1, 0, 5, 10**12]),
        "eco": gaps(g, pick(g, [True, False]), 0.6),
    }


def clinic(g):
    """Half of it missing, a measurement that nearly nobody has, and codes that look like words."""
    return {
        "outcome": pick(g, ["recovered", "ill"], [0.85, 0.15]),
        "days": g.gamma(2, 3, N_ROWS).round(),
        "born": gaps(g, [d.date() for d in dates(g, "1930-01-01", 30000)], 0.15),
        "sex": gaps(g, pick(g, ["m", "f", "d"], [0.5, 0.48, 0.02]), 0.05),
        "bp": [
            f"{high}/{low}"
            for high, low in zip(
                g.integers(100, 180, N_ROWS), g.integers(60, 95, N_ROWS), strict=True
            )
        ],
        "crp": gaps(g, g.lognormal(1, 1.5, N_ROWS).round(1).tolist(), 0.5),
        "icd": pick(g, ["E11", "E10", "I10", "J45", "nil"]),
        "biopsy": gaps(g, g.random(N_ROWS).round(3).tolist(), 0.98),
    }


def flights(g):
    """Moments with zones, times of day as texts, cancelled flights without numbers."""
    planned = dates(g, "2023-06-01", 20)
    gone = g.random(N_ROWS) < 0.05
    delay = g.exponential(20, N_ROWS).round()
    return {
        "late": [
            "cancelled" if g else ("late" if d > 15 else "on time")
            for g, d in zip(gone, delay, strict=True)
        ],
        "minutes": delay,
        "planned": [f"{t.isoformat(timespec='seconds')}Z" for t in planned],
        "day": [t.date().strftime("%a %d %b") for t in planned],
        "gate": pick(g, ["A1", "A2", "B1", "B12", "C3"]),
        "tail": [
            None if x else f"N{n}" for x, n in zip(gone, g.integers(100, 400, N_ROWS), strict=True)
        ],
        "distance": [
            None if x else int(n) for x, n in zip(gone, g.integers(90, 9000, N_ROWS), strict=True)
        ],
    }


def web(g):
    """Addresses, long texts, hashes, numbers of which one is far out."""
    agents = [
        "Mozilla/5.0 (X11; Linux x86_64) " + "Gecko " * 40,
        "curl/8.0",
        "bot (+http://x.y/z?a=1,2)",
    ]
    size = g.lognormal(8, 1, N_ROWS)
    size[3] = 1e15
    return {
        "status": pick(g, [200, 404, 301, 500], [0.9, 0.06, 0.03, 0.01]),
        "milliseconds": g.lognormal(3, 1, N_ROWS).round(3),
        "ip": [".".join(map(str, g.integers(1, 255, 4))) for _ in range(N_ROWS)],
        "agent": pick(g, agents),
        "hash": [f"{h:016x}" for h in g.integers(2**60, 2**63, N_ROWS)],
        "size": size.round(),
        "cached": pick(g, ["HIT", "MISS", "-"]),
        "user": gaps(g, g.integers(1, 10**10, N_ROWS).tolist(), 0.7),
    }


def register(g):
    """Odd names of columns, columns that are copies or nearly constant, a single category."""
    weight = g.normal(70, 12, N_ROWS).round(1)
    return {
        "class": pick(g, [3, 1, 2]),
        "Größe [cm]": (weight + g.normal(100, 5, N_ROWS)).round(1),
        " weight ": weight,
        "weight.1": weight,
        "country": ["CH"] * (N_ROWS - 1) + ["LI"],
        "source": ["import"] * N_ROWS,
        "flag": [1] * (N_ROWS - 2) + [0, None],
        "1": gaps(g, pick(g, ["a", "b"]), 0.5),
        "übrig, sonst": g.integers(0, 2, N_ROWS),
    }


TABLES = (
    customers, houses, ledger, sensors, survey, products, clinic, flights, web, register,
)  # fmt: skip
