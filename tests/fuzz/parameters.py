"""Draws of parameters, valid and invalid, as the Python source of their values."""

import inspect

import sklearn.neural_network

from fastbp.activations import ALIASES, HIDDEN_ACTIVATIONS

SIZES = (1, 2, 3, 5, 7, 8, 9, 15, 16, 17, 31, 33, 65)
ACTIVATIONS = (*HIDDEN_ACTIVATIONS, *ALIASES)
THEIRS = frozenset(inspect.signature(sklearn.neural_network.MLPRegressor).parameters)

# Name -> how often it is given, and its values; a value that comes twice is drawn twice as often.
VALID = {
    "solver": (0.8, ("'sgd'", "'sgd'", "'sgd'", "'adam'", "'adam'", "'adamw'", "'lbfgs'",
                     "'nadam'", "'rmsprop'", "'lion'")),
    "alpha": (0.3, ("0", "0.0", "1e-10", "0.01", "1.0")),
    "batch_size": (0.5, ("1", "2", "3", "7", "8", "16", "32", "200", "10**6", "2**40", "'auto'",
                         "np.int32(5)")),
    "learning_rate": (0.3, ("'constant'", "'invscaling'", "'adaptive'", "np.cos", "'cosine'",
                            "'one_cycle'", "'linear'", "'exponential'",
                            "lambda progress: 1 - progress")),
    "warmup": (0.1, ("0", "0.1", "0.5", "0.999")),
    "dropout": (0.15, ("0", "0.1", "0.5", "0.999")),
    "input_dropout": (0.1, ("0", "0.1", "0.5")),
    "max_grad_norm": (0.1, ("None", "1e-300", "0.01", "1", "1e300")),
    "ema_decay": (0.1, ("None", "0", "0.5", "0.999")),
    "scoring": (0.1, ("None", "'loss'")),
    "learning_rate_init": (0.5, ("1e-8", "0.001", "0.01", "0.05", "0.1", "0.1", "1.0", "1")),
    "power_t": (0.15, ("0", "0.5", "1.0", "50.0")),
    "shuffle": (0.25, ("True", "False", "False")),
    "tol": (0.3, ("0", "0.0", "0.01", "1.0", "np.inf")),
    "momentum": (0.3, ("0", "0.0", "0.5", "0.9", "0.999", "1.0", "1")),
    "nesterovs_momentum": (0.3, ("True", "False")),
    "beta_1": (0.2, ("0", "0.0", "0.5", "0.999999")),
    "beta_2": (0.2, ("0", "0.5", "0.9999999999")),
    "epsilon": (0.2, ("1e-300", "1e-8", "1.0")),
    "n_iter_no_change": (0.3, ("1", "2", "10", "np.inf")),
    "max_fun": (0.1, ("1", "2", "100")),
    "early_stopping": (0.15, ("True", "False")),
    "validation_fraction": (0.2, ("0.1", "0.2", "0.5", "0.9")),
    "warm_start": (0.25, ("True", "True", "False")),
    "weight_decay": (0.2, ("0", "0.01", "1.0")),
    "precision": (0.3, ("'auto'", "'float32'", "'float32'", "'float64'", "'bfloat16'")),
    "n_threads": (0.3, ("None", "1", "2", "3", "8")),
    "input_scale": (0.2, ("1", "1 / 255", "0.5")),
    "verbose": (0.02, ("True", "2")),
}  # fmt: skip
# Valid, too, but hard to compute with.
EXTREME = (
    ("alpha", "1e-300"), ("alpha", "1e4"), ("alpha", "1e30"), ("alpha", "1e300"),
    ("learning_rate", "lambda progress: -progress"), ("learning_rate", "lambda progress: 'x'"),
    ("learning_rate", "lambda progress: progress[:-1]"), ("learning_rate", "lambda: 1"),
    ("learning_rate", "lambda progress: np.nan"), ("learning_rate", "lambda progress: {}['mine']"),
    ("learning_rate_init", "1e3"), ("learning_rate_init", "1e-300"),
    ("learning_rate_init", "1e30"), ("learning_rate_init", "1e300"), ("power_t", "1e5"),
    ("tol", "1e10"), ("epsilon", "1e30"), ("weight_decay", "1e30"), ("weight_decay", "1e300"),
    ("validation_fraction", "0"), ("validation_fraction", "0.999"),
    ("validation_fraction", "1e-9"), ("input_scale", "1e-30"), ("input_scale", "1e-300"),
    ("input_scale", "1e10"), ("input_scale", "1e300"), ("max_iter", "40"),
)  # fmt: skip
OF_CLASSIFIERS = {
    "loss": (0.25, ("'log_loss'", "'squared_error'", "'focal'")),
    "focal_gamma": (0.1, ("0", "0.5", "2.0", "20")),
    "label_smoothing": (0.1, ("0", "0.1", "0.9")),
    "class_weight": (0.1, ("None", "'balanced'", "{}")),
}
OF_REGRESSORS = {
    "loss": (0.4, ("'squared_error'", "'poisson'", "'absolute_error'", "'huber'", "'log_cosh'",
                   "'quantile'", "'gamma'")),
    "huber_delta": (0.1, ("0.1", "1.35", "100")),
    "quantile": (0.1, ("0", "0.25", "1", "[0.1, 0.9, 0.5]", "[0.5]")),
    "scale_targets": (0.15, ("True", "False")),
    "missing_targets": (0.1, ("'raise'", "'ignore'")),
    "out_activation": (0.25, ("'auto'", "'identity'", "'logistic'", "'tanh'", "'relu'", "'exp'",
                              "'sigmoid'", "'softplus'", "'elu'")),
}  # fmt: skip

# Some of these are valid with other parameters or data; none may do more than raise an error.
INVALID = (
    ("alpha", "-1"), ("alpha", "np.nan"), ("alpha", "'x'"), ("alpha", "np.inf"), ("alpha", "None"),
    ("batch_size", "0"), ("batch_size", "-3"), ("batch_size", "2.5"), ("batch_size", "None"),
    ("learning_rate_init", "0"), ("learning_rate_init", "-1.0"), ("learning_rate_init", "np.nan"),
    ("learning_rate_init", "np.inf"), ("learning_rate_init", "'fast'"),
    ("momentum", "1.5"), ("momentum", "np.nan"), ("momentum", "-0.1"), ("momentum", "5"),
    ("tol", "-1"), ("tol", "np.nan"), ("tol", "None"),
    ("hidden_layer_sizes", "(0,)"), ("hidden_layer_sizes", "(-1, 3)"),
    ("hidden_layer_sizes", "(3.5,)"), ("hidden_layer_sizes", "'abc'"),
    ("hidden_layer_sizes", "None"), ("hidden_layer_sizes", "[[3, 4]]"),
    ("hidden_layer_sizes", "(2**31,)"), ("hidden_layer_sizes", "10**30"),
    ("hidden_layer_sizes", "np.array([3, 4])"), ("hidden_layer_sizes", "(True,)"),
    ("hidden_layer_sizes", "(2**31 - 1,) * 3"), ("hidden_layer_sizes", "{3}"),
    ("activation", "'softmax'"), ("activation", "()"), ("activation", "('relu', 3)"),
    ("activation", "(['relu'],)"), ("activation", "None"), ("activation", "('relu',) * 9"),
    ("solver", "'sag'"), ("solver", "None"), ("learning_rate", "'x'"), ("learning_rate", "3"),
    ("max_iter", "0"), ("max_iter", "-1"), ("max_iter", "2.0"), ("max_iter", "None"),
    ("shuffle", "'yes'"), ("shuffle", "1"),
    ("random_state", "'x'"), ("random_state", "-1"), ("random_state", "2**40"),
    ("beta_1", "1.0"), ("beta_2", "1.0"), ("beta_1", "np.nan"), ("beta_2", "2"),
    ("epsilon", "0"), ("epsilon", "-1"), ("epsilon", "np.inf"),
    ("n_iter_no_change", "0"), ("n_iter_no_change", "2.5"), ("max_fun", "0"),
    ("precision", "'float16'"), ("precision", "np.float32"), ("precision", "'tf32'"),
    ("precision", "None"),
    ("n_threads", "0"), ("n_threads", "-1"), ("n_threads", "1.5"), ("n_threads", "'all'"),
    ("n_threads", "10**9"), ("n_threads", "True"),
    ("input_scale", "0"), ("input_scale", "-1"), ("input_scale", "np.nan"),
    ("input_scale", "np.inf"), ("input_scale", "'x'"),
    ("device", "'gpu'"), ("device", "None"), ("callback", "3"), ("loss", "'hinge'"),
    ("loss", "None"), ("power_t", "-1"), ("power_t", "np.nan"), ("power_t", "np.inf"),
    ("validation_fraction", "1.0"), ("validation_fraction", "-0.5"),
    ("validation_fraction", "np.nan"), ("verbose", "'x'"), ("warm_start", "2"),
    ("dropout", "1.0"), ("dropout", "(0.1,) * 9"), ("dropout", "np.nan"), ("dropout", "'x'"),
    ("input_dropout", "1"), ("max_grad_norm", "0"), ("max_grad_norm", "np.nan"),
    ("ema_decay", "1.0"), ("ema_decay", "-0.1"), ("warmup", "1.0"), ("warmup", "np.nan"),
    ("scoring", "'x'"), ("scoring", "[]"), ("scoring", "3"), ("quantile", "[0.5, 2]"),
    ("quantile", "[]"), ("huber_delta", "np.inf"), ("label_smoothing", "1.0"),
    ("focal_gamma", "-1"), ("class_weight", "{'x': 2}"), ("class_weight", "[{}]"),
    ("scale_targets", "'x'"), ("missing_targets", "None"), ("verbose", "'bar'"),
    ("early_stopping", "'x'"), ("weight_decay", "-1"), ("weight_decay", "np.nan"),
    ("weight_decay", "np.inf"), ("nesterovs_momentum", "None"),
)  # fmt: skip


def draw_parameters(random, classifies):
    """An estimator's parameters, name -> source; a few are extreme or invalid."""
    n_hidden = random.choice((0, 1, 1, 1, 1, 2, 2, 3))
    sizes = tuple(random.choice(SIZES) for _ in range(n_hidden))
    names = tuple(random.choice(ACTIVATIONS) for _ in range(n_hidden))
    parameters = {
        "hidden_layer_sizes": repr(sizes if random.random() < 0.9 else list(sizes)),
        "max_iter": str(random.choice((1, 2, 3, 3, 5))),
        "random_state": random.choice(
            (str(random.randrange(1000)),) * 9 + ("np.random.RandomState(1)",)
        ),
    }
    if random.random() < 0.7:
        single = random.choice(ACTIVATIONS)
        parameters["activation"] = repr(single if random.random() < 0.7 else names)
    parameters |= draw_valid(random, classifies)
    if random.random() < 0.3:
        return _as_theirs(parameters)
    if random.random() < 0.2:
        name, value = draw_invalid(random)
        parameters[name] = value
    return parameters


def _as_theirs(parameters):
    """Only what scikit-learn has, too, so that results can be compared."""
    for name in ("warm_start", *(parameters.keys() - THEIRS)):
        parameters.pop(name, None)
    for name, choices in (
        ("activation", ("'identity'", "'logistic'", "'tanh'", "'relu'")),
        ("solver", ("'sgd'", "'adam'", "'lbfgs'")),
        ("learning_rate", ("'constant'", "'invscaling'", "'adaptive'")),
        ("loss", ("'poisson'",)),
    ):
        if parameters.get(name) not in choices:
            parameters.pop(name, None)
    return parameters


def draw_valid(random, classifies, share=1.0):
    """Some of the other parameters with valid values; `share` lowers how many."""
    drawn = {}
    for table in (VALID, OF_CLASSIFIERS if classifies else OF_REGRESSORS):
        for name, (frequency, values) in table.items():
            if random.random() < frequency * share:
                drawn[name] = random.choice(values)
    return drawn


def draw_invalid(random):
    """The name and an invalid or extreme value of one parameter."""
    return random.choice(INVALID if random.random() < 0.6 else EXTREME)
