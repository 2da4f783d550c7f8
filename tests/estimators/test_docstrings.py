"""The public docstrings say what the code does: names, order, defaults, choices and attributes."""

import ast
import inspect
import re

import pytest
from conftest import TASKS, small
from sklearn.utils._param_validation import StrOptions

import fastbp

ESTIMATORS = [
    fastbp.MLPClassifier,
    fastbp.MLPRegressor,
    fastbp.TabularMLPClassifier,
    fastbp.TabularMLPRegressor,
]
PUBLIC = [*ESTIMATORS, fastbp.fit_many]


def section_of(documented, title):
    """Name -> (type, description) of the entries of a section of a numpydoc docstring."""
    text = inspect.getdoc(documented)
    body = re.search(rf"^{title}\n-+\n(.*?)(?=^\S[^\n]*\n---|\Z)", text, re.DOTALL | re.MULTILINE)
    entries = re.split(r"^(\w+)(?: : (.+))?\n", body[1], flags=re.MULTILINE)[1:]
    names, types, descriptions = entries[::3], entries[1::3], entries[2::3]
    return dict(zip(names, zip(types, descriptions, strict=True), strict=True))


@pytest.mark.parametrize("public", PUBLIC, ids=lambda public: public.__name__)
def test_parameters_are_those_of_the_signature(public):
    parameters = inspect.signature(public).parameters
    documented = section_of(public, "Parameters")
    assert list(documented) == list(parameters)
    for name, (kind, description) in documented.items():
        assert description.strip() or kind, name
        default = re.search(r"default=(.+)", kind)
        if default is None:
            assert parameters[name].default is inspect.Parameter.empty, name
        else:
            assert ast.literal_eval(default[1]) == parameters[name].default, name


@pytest.mark.parametrize("estimator", ESTIMATORS, ids=lambda estimator: estimator.__name__)
def test_every_choice_is_named(estimator):
    documented = section_of(estimator, "Parameters")
    for name, constraints in estimator._parameter_constraints.items():
        choices = [c.options for c in constraints if isinstance(c, StrOptions)]
        named = re.findall(r"'(\w+)'", " ".join(documented[name]))
        assert set().union(*choices) <= set(named), name


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_attributes_are_those_of_a_fitted_model(task):
    extended = {"scaling_layer": True, "parametric_activation": True, "numerical_embedding": "pbld"}
    model, X, y = small(task, **extended)  # without these some attributes are missing
    model.fit(X, y)
    names = [name for name in dir(model) if name.endswith("_") and not name.startswith("_")]
    learned = {name for name in names if hasattr(model, name)}
    documented = section_of(type(model), "Attributes")
    assert learned == set(documented) - {"feature_names_in_"}  # X has no names here


@pytest.mark.parametrize("estimator", ESTIMATORS[2:], ids=lambda estimator: estimator.__name__)
def test_attributes_are_those_of_a_fitted_estimator_for_tables(estimator):
    model = estimator(max_iter=1).fit([[0, "a"], [1, "b"]], [0, 1])
    names = [name for name in dir(model) if name.endswith("_") and not name.startswith("_")]
    learned = {name for name in names if hasattr(model, name)}
    assert learned == set(section_of(estimator, "Attributes")) - {"feature_names_in_"}


def test_docstrings_stand_in_the_source():
    """Editors show a docstring only where it is a literal under the class line."""
    for estimator in ESTIMATORS:
        tree = ast.parse(inspect.getsource(inspect.getmodule(estimator)))
        classes = {node.name: node for node in tree.body if isinstance(node, ast.ClassDef)}
        literal = ast.get_docstring(classes[estimator.__name__])
        assert literal == inspect.getdoc(estimator)
