"""Draws of sequences of calls: training, predictions, and what users do in between."""

from tests.fuzz import features
from tests.fuzz.parameters import draw_invalid, draw_valid
from tests.fuzz.scripts import Call

# Twins by kind of call: see `tests.fuzz.twins`.
TRAINING_TWINS = ("deepcopy", "pickle", "shallow", "threads", "threads", "saved", "sklearn",
                  "sklearn", "from_sklearn")  # fmt: skip
FIT_TWINS = (*TRAINING_TWINS, "clone", "many", "many", "many of three", "rows", "their fit",
             "their fit", "their fit", "resumed", "resumed")  # fmt: skip
PREDICTING_TWINS = ("deepcopy", "pickle", "threads", "threads", "saved", "sklearn", "from_sklearn")

SUBSETS = ("[:1]", "[:1]", "[-1:]", "[::-1]", "[::2]", "[:9]", "")

WATCHING = (
    "seen, query = [], X{0}\n"
    "model.set_params(callback=lambda report: seen.append(model.{1}(query)))"
)
CALLBACKS = (
    "lambda report: True", "lambda report: report.loss", "lambda report: np.ones(3)",
    "lambda report: 'text'", "lambda report: {}['mine']", "lambda report: next(iter(()))",
    "lambda report: {}[report.n_iter - 2]", "lambda: None", "print",
    "lambda report: report.nothing",
    "lambda report: (_ for _ in ()).throw(KeyboardInterrupt)", "None",
    "lambda report: model.set_params(learning_rate_init=9.0, batch_size=1, alpha=-1)",
    "lambda report: vars(model).pop('coefs_', None)",
    "lambda report: seen.append(1) or len(seen) == 2 and clone(model).set_params(callback=None)"
    ".fit(X0, y0)",
)  # fmt: skip
STOPPING = ("lambda report: report.stop()", "lambda report: report.n_iter < 2 or report.stop()")

# Assignments that keep a model sound, and others.
ASSIGNMENTS = (
    "model.coefs_[0] = model.coefs_[0].astype('f4')",
    "model.coefs_ = [c.astype('f4') for c in model.coefs_]\n"
    "model.intercepts_ = [b.astype('f4') for b in model.intercepts_]",
    "model.coefs_ = [np.asfortranarray(c) for c in model.coefs_]",
    "model.coefs_ = tuple(model.coefs_)",
    "model.coefs_[-1] *= 1e4", "model.coefs_[0] *= 0", "model.coefs_[0][:] = 0.25",
    "model.coefs_[0] = np.broadcast_to(0.5, model.coefs_[0].shape)",
    "model.coefs_[0] = np.repeat(model.coefs_[0], 2, 0)[::-2]",
    "model.coefs_[0] = model.coefs_[0].tolist()", "model.coefs_[0] = model.coefs_[0].astype('>f8')",
    "model.coefs_[0] = (4 * model.coefs_[0]).astype(int)",
    "model.coefs_[0] = (9 * abs(model.coefs_[0])).astype('u1').view(bool)",
    "model.coefs_[0] = model.coefs_[0].astype(np.longdouble)",
    "for c in model.coefs_: c.flags.writeable = False",
    "model.intercepts_ = [b + 1 for b in model.intercepts_]",
    "model.classes_ = model.classes_[::-1]", "model.classes_[:] = model.classes_[::-1].copy()",
    "model.classes_ = np.array(list('abcdefgh'))[:len(model.classes_)]",
    "model.n_features_in_ = model.n_features_in_",
    "model.feature_names_in_ = np.array([f'f{i}' for i in range(model.n_features_in_)], object)",
)  # fmt: skip
DAMAGE = (
    "model.coefs_[0] = model.coefs_[0].T", "model.coefs_[0] = model.coefs_[0][:-1]",
    "model.coefs_[0] = np.zeros((5, 7))", "model.coefs_[0] = model.coefs_[0] * 1j",
    "model.coefs_[0] = model.coefs_[0].astype(object)", "model.coefs_[0] = None",
    "model.coefs_[0] = np.ma.masked_greater(model.coefs_[0], 0)",
    "model.coefs_[0][0] = np.nan", "model.coefs_[-1][:] = np.inf",
    "model.coefs_ = []", "model.coefs_ = None", "model.coefs_ = 'text'",
    "model.coefs_ = [[1], [2]]",
    "model.coefs_.append(model.coefs_[-1])", "model.coefs_.pop()",
    "model.intercepts_.pop()", "model.intercepts_[0] = 3.0", "model.intercepts_ = None",
    "model.intercepts_[0] = model.intercepts_[0][None]", "del model.coefs_",
    "model.n_features_in_ = 3", "model.n_features_in_ = 10**6", "model.n_features_in_ = 'x'",
    "model.classes_ = model.classes_[:-1]", "model.classes_ = np.arange(99)",
    "model.classes_ = None", "model.classes_ = 'text'", "model.classes_ = model.classes_[:, None]",
    "model.classes_[:] = model.classes_[0]",
    "model.loss_curve_ = None", "model.t_ = 'x'", "model.best_loss_ = 'x'", "model.t_ = -5",
    "del model.loss_curve_", "model.feature_names_in_ = np.array(['a'], object)",
    "model.out_activation_ = 'exp'", "model.n_layers_ = 9", "model.n_outputs_ = 9",
    "model.validation_scores_ = 3", "model.best_validation_score_ = 'x'", "model.n_iter_ = None",
)  # fmt: skip
REPLACEMENTS = (
    "model = clone(model)", "model = copy.deepcopy(model)",
    "model = pickle.loads(pickle.dumps(model))", "model = copy.copy(model)",
    "model = type(model).from_sklearn(model.to_sklearn())",
)  # fmt: skip


def draw_calls(random, classifies):
    """A sequence of calls that begins with training."""
    calls = [_train(random, classifies, first=True)]
    for _ in range(random.choice((1, 2, 3, 4, 6))):
        draw = random.choices(
            (_train, _predict, _set_parameters, _set_callback, _assign, _replace),
            (5, 4, 3, 2, 2, 1),
        )[0]
        calls.append(draw(random, classifies))
        if calls[-1].kind == "change" and random.random() < 0.5:
            calls.append(_train(random, classifies))
    if calls[-1].kind in ("change", "replace"):  # whose effect only shows in further calls
        calls += [_predict(random, classifies), _train(random, classifies)]
    return tuple(calls)


def _data(random):
    return random.choice((0, 0, 0, 1))


def _twin(random, names):
    return random.choice(names) if random.random() < 0.85 else None


def _train(random, classifies, first=False):
    index = _data(random)
    weight = f", w{index}" if random.random() < 0.25 else ""
    if random.random() < (0.75 if first else 0.5):
        if features.CAN_RESUME and not first and random.random() < 0.1:
            return Call("train", f"model.fit(X{index}, y{index}{weight}, resume=True)", index)
        twin = _twin(random, FIT_TWINS)
        return Call("train", f"model.fit(X{index}, y{index}{weight})", index, twin)
    listed = ""
    if classifies and random.random() < (0.9 if first else 0.15):
        usual = f"np.unique(y{index})"
        listed = random.choice((usual,) * 7 + ("[0, 1]", "np.arange(4)", "[]", "['a']", "None"))
        listed = f", classes={listed}"
    # With several rows they may come in parts, as in a stream.
    part = random.choice(("", "", "[:9]", "[::2]"))
    source = (
        f"model.partial_fit(X{index}{part}, y{index}{part}{weight}{part * bool(weight)}{listed})"
    )
    return Call("train", source, index, _twin(random, TRAINING_TWINS))


def _predict(random, classifies):
    index, part = _data(random), random.choice(SUBSETS)
    if random.random() < 0.15:
        return Call("predict", f"result = model.score(X{index}, y{index})", index)
    methods = ("predict", "predict_proba", "predict_log_proba") if classifies else ("predict",)
    source = f"result = model.{random.choice(methods)}(X{index}{part})"
    return Call("predict", source, index, _twin(random, PREDICTING_TWINS))


def _set_parameters(random, classifies):
    given = draw_valid(random, classifies, share=0.3)
    if random.random() < 0.35:
        name, value = draw_invalid(random)
        given[name] = value
    if len(given) == 1 and random.random() < 0.3:
        ((name, value),) = given.items()
        return Call("change", f"model.{name} = {value}")
    return Call("change", f"model.set_params({', '.join(f'{k}={v}' for k, v in given.items())})")


def _set_callback(random, classifies):
    """Set a callback, or have checkpoints written."""
    if random.random() < 0.4:
        method = random.choice(("predict", "predict_proba")) if classifies else "predict"
        return Call("change", WATCHING.format(_data(random), method))
    if features.CAN_RESUME and random.random() < 0.2:
        every = random.choice(("", "", ", checkpoint_every=2", ", checkpoint_every=0"))
        return Call("change", f"model.set_params(checkpoint=folder + '/c'{every})")
    options = CALLBACKS + STOPPING * features.CAN_STOP
    return Call("change", f"seen = []\nmodel.set_params(callback={random.choice(options)})")


def _assign(random, classifies):
    table = DAMAGE if random.random() < 0.4 else ASSIGNMENTS
    return Call("change", random.choice([s for s in table if classifies or "classes_" not in s]))


def _replace(random, classifies):
    options = list(REPLACEMENTS)
    if features.CAN_SAVE:
        options.append(features.SAVE_AND_LOAD.format(name="model", new="model"))
    return Call("replace", random.choice(options))
