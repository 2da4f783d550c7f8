"""Draws of parameters, valid and invalid, as the Python source of their values."""

SIZES = (1, 2, 3, 5, 7, 8, 9, 15, 16, 17, 31, 33, 65)
ACTIVATIONS = ("identity", "logistic", "sigmoid", "tanh", "relu", "gelu")

# Name -> how often it is given, and its values; a value that comes twice is drawn twice as often.
VALID = {
    "solver": (0.8, ("'sgd'", "'sgd'", "'adam'", "'adam'", "'adamw'", "'lbfgs'")),
    "alpha": (0.3, ("0", "0.0", "1e-300", "1e-10", "0.01", "1.0", "1e4", "1e30", "1e300")),
    "batch_size": (0.5, ("1", "2", "3", "7", "8", "16", "32", "200", "10**6", "2**40", "'auto'",
                         "np.int32(5)")),
    "learning_rate": (0.3, ("'constant'", "'invscaling'", "'adaptive'", "np.cos",
                            "lambda progress: 1 - progress", "lambda progress: -progress",
                            "lambda progress: 'x'", "lambda progress: progress[:-1]",
                            "lambda progress: np.nan", "lambda progress: {}['mine']")),
    "learning_rate_init": (0.5, ("1e-8", "0.001", "0.01", "0.05", "0.1", "0.1", "1.0", "1", "1e3",
                                 "1e-300", "1e30", "1e300")),
    "power_t": (0.15, ("0", "0.5", "1.0", "50.0", "1e5")),
    "shuffle": (0.25, ("True", "False", "False")),
    "tol": (0.3, ("0", "0.0", "0.01", "1.0", "1e10", "np.inf")),
    "momentum": (0.3, ("0", "0.0", "0.5", "0.9", "0.999", "1.0", "1")),
    "nesterovs_momentum": (0.3, ("True", "False")),
    "beta_1": (0.2, ("0", "0.0", "0.5", "0.999999")),
    "beta_2": (0.2, ("0", "0.5", "0.9999999999")),
    "epsilon": (0.2, ("1e-300", "1e-8", "1.0", "1e30")),
    "n_iter_no_change": (0.3, ("1", "2", "10", "np.inf")),
    "max_fun": (0.1, ("1", "2", "100")),
    "early_stopping": (0.2, ("True", "False")),
    "validation_fraction": (0.2, ("0", "0.1", "0.2", "0.5", "0.9", "0.999", "1e-9")),
    "warm_start": (0.25, ("True", "True", "False")),
    "weight_decay": (0.2, ("0", "0.01", "1.0", "1e30")),
    "precision": (0.3, ("'auto'", "'float32'", "'float32'", "'float64'")),
    "n_threads": (0.3, ("None", "1", "2", "3", "8")),
    "input_scale": (0.2, ("1", "1 / 255", "0.5", "1e-30", "1e-300", "1e10", "1e300")),
    "verbose": (0.02, ("True", "2")),
}  # fmt: skip
OF_CLASSIFIERS = {"loss": (0.25, ("'log_loss'", "'squared_error'", "'squared_error'"))}
OF_REGRESSORS = {
    "loss": (0.25, ("'squared_error'", "'poisson'")),
    "out_activation": (0.25, ("'auto'", "'identity'", "'logistic'", "'tanh'", "'relu'", "'exp'",
                              "'sigmoid'")),
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
    ("early_stopping", "'x'"), ("weight_decay", "-1"), ("weight_decay", "np.nan"),
    ("weight_decay", "np.inf"), ("nesterovs_momentum", "None"),
)  # fmt: skip


def draw_parameters(random, classifies):
    """An estimator's parameters, name -> source; one in ten has an invalid one."""
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
    if random.random() < 0.1:
        name, value = draw_invalid(random)
        parameters[name] = value
    return parameters


def _as_theirs(parameters):
    """Only what scikit-learn has, too, so that results can be compared."""
    for name in ("out_activation", "precision", "input_scale", "warm_start", "weight_decay"):
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
    """The name and an invalid value of one parameter."""
    return random.choice(INVALID)
