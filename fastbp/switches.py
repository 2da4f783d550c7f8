"""From records to code for a target: formulas bound to its own functions, and switches.

A kernel knows an activation, a loss or an update rule by an integer, and runs one branch of a
switch. The switches are written here from the records, so that no kernel spells their names.
"""

from types import FunctionType


def bind(function, replacements, compile_formula):
    """Copy a formula for a target.

    Parameters
    ----------
    function : function
        A scalar formula.
    replacements : dict
        Names that it uses, such as "exp" -> what replaces them on the target.
    compile_formula : callable
        Compiles a formula that this one calls by name.

    Returns
    -------
    bound : function

    Examples
    --------
    >>> from math import sqrt
    >>> def hypotenuse(a, b):
    ...     return sqrt(a * a + b * b)
    >>> bind(hypotenuse, {"sqrt": lambda x: f"root of {x}"}, None)(3, 4)
    'root of 25'
    """
    names = dict(function.__globals__)
    for name in function.__code__.co_names:
        if name in replacements:
            names[name] = replacements[name]
        elif isinstance(names.get(name), FunctionType):
            names[name] = compile_formula(names[name])
    return FunctionType(function.__code__, names, function.__name__, function.__defaults__)


def make_switch(name, parameters, branches, otherwise=None, common=None):
    """Generate a function that runs one of several pieces of code, chosen by an integer.

    Parameters
    ----------
    name : str
        Name of the function.
    parameters : str
        Its parameters, the integer first.
    branches : iterable of (int, str, dict)
        The integer, the lines to run, and the functions that stand for the names in braces there.
        Integers with the same lines and functions share a branch.
    otherwise : str or None, default=None
        The lines for all other integers; None for none.
    common : dict or None, default=None
        What other names in the lines stand for.

    Returns
    -------
    switch : function

    Examples
    --------
    >>> branches = [(0, "return {f}(x)", {"f": abs}), (1, "return {f}(x)", {"f": float})]
    >>> switch = make_switch("apply", "code, x", branches)
    >>> switch(0, -2), switch(1, -2), switch(2, -2)
    (2, -2.0, None)
    """
    integer = parameters.partition(",")[0]
    shared, names = {}, dict(common or {})
    for code, lines, functions in branches:
        shared.setdefault((lines, tuple(functions.items())), []).append(code)
    source = [f"def {name}({parameters}):"]
    for (lines, functions), codes in shared.items():
        condition = " or ".join(f"{integer} == {code}" for code in codes)
        keyword = "if" if len(source) == 1 else "elif"
        places = {place: f"{place}_{codes[0]}" for place, _ in functions}
        names |= {places[place]: function for place, function in functions}
        source.append(f"    {keyword} {condition}:")
        source += [f"        {line}" for line in lines.format(**places).splitlines()]
    if otherwise is not None:
        source.append("    else:")
        source += [f"        {line}" for line in otherwise.splitlines()]
    # Written from the records, never from what users give.
    exec(compile("\n".join(source), f"<switch:{name}>", "exec"), names)
    return names[name]
