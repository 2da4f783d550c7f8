"""Random estimators, data and sequences of calls, and what must hold of them whatever they are.

`python -m tests.fuzz` draws sequences, runs them in processes of their own, and prints a script of
plain Python for each that ends in a crash, a hang, an error of the wrong type or a wrong result.

A sequence is a `tests.fuzz.scripts.Script`: lines of Python, drawn from (seed, number) alone.

    parameters.py, data.py, calls.py    what is drawn
    scripts.py                          how it becomes a script
    state.py, forward.py                what estimators contain; the network in plain NumPy
    twins.py                            other ways to the same result: copies, threads, scikit-learn
    oracles.py                          what must hold after every call
    runner.py                           runs a script
    workers.py, program.py, shrink.py   processes and their watchdog; the command; the report
"""
