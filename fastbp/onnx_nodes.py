"""Networks made of ONNX's operators: layers, activations, embeddings, and what outputs become."""

import numpy as np
from skl2onnx.proto import onnx_proto

from fastbp.embedding import TURN
from fastbp.onnx_formulas import apply_formula, softplus


class Nodes:
    """Adds nodes to a graph: called with an operator and its inputs, it returns the output's name.

    Numbers and arrays among the inputs become constants of the type that is computed in.

    Parameters
    ----------
    scope, container : object
        skl2onnx's.
    dtype : {np.float32, np.float64}
        What is computed in.
    """

    def __init__(self, scope, container, dtype):
        self._scope, self._container = scope, container
        self.dtype, proto = np.dtype(dtype), onnx_proto.TensorProto
        self.type = proto.DOUBLE if self.dtype == np.float64 else proto.FLOAT

    def of_type(self, dtype):
        """The same graph, computing in another type from here on."""
        return Nodes(self._scope, self._container, dtype)

    def name(self, what):
        """A name for a value that nothing else has."""
        return self._scope.get_unique_variable_name(f"fastbp_{what}")

    def cast(self, z):
        """Turn a value into the type that is computed in."""
        return self("Cast", z, to=self.type)

    def __call__(self, operator, *inputs, output=None, **attributes):
        names = [each if isinstance(each, str) else self.constant(each) for each in inputs]
        if output is None:
            output = self.name(operator.lower())
        node = self._scope.get_unique_operator_name(f"fastbp_{operator}")
        self._container.add_node(operator, names, output, name=node, **attributes)
        return output

    def constant(self, value, onnx_type=None):
        """Add an array, or a single number, and return its name."""
        name = self.name("constant")
        if onnx_type is None:
            onnx_type, value = self.type, np.asarray(value).astype(self.dtype)
        self._container.add_initializer(name, onnx_type, np.shape(value), np.ravel(value))
        return name

    def integers(self, values):
        """Add whole numbers, and return their name."""
        return self.constant(values, onnx_proto.TensorProto.INT64)

    def in_float32(self, operator, z):
        """Apply an operator that onnxruntime has for float32 alone."""
        if self.dtype == np.float32:
            return self(operator, z)
        single = self("Cast", z, to=onnx_proto.TensorProto.FLOAT)
        return self("Cast", self(operator, single), to=self.type)


# ---- the network --------------------------------------------------------------------------------


def add_logits(node, h, model, n_layers):
    """Add the layers before the last of `n_layers` whole, and of that one the logits.

    Parameters
    ----------
    node : Nodes
    h : str
        Name of the inputs, of the type that is computed in.
    model : fastbp.model.Model
    n_layers : int

    Returns
    -------
    z : str
    """
    if model.input_scale != 1:
        h = node("Mul", h, model.input_scale)
    network = model.network
    parameters = model.flat(model.parameter_dtype())
    coefs, intercepts = network.views(parameters)
    if network.n_embedded:
        h = _embed(node, h, *network.extras(parameters)["embedding"])
    for layer in range(n_layers):
        if layer > 0:
            h = add_activation(node, model, layer - 1, h)
        h = node("Add", node("MatMul", h, coefs[layer]), intercepts[layer])
    return h


def add_activation(node, model, layer, z):
    """Add a hidden layer's activation and, where its units have slopes, what these make of it."""
    outputs = apply_formula(node, model.network.activations[layer], z)
    slopes = model.extras_of("slopes")
    if slopes is None:
        return outputs
    return node("Add", z, node("Mul", node("Sub", outputs, z), slopes[layer]))


def _embed(node, h, frequencies, phases, weights, biases):
    """Add the numbers of embedded features before all features: see `fastbp.embedding`.

    All features go through one product with a block matrix. Runtimes have the cosine in float32
    alone: its argument is brought into one turn before.
    """
    n_embedded, n_frequencies, n_numbers = weights.shape
    first = node("Slice", h, *(node.integers([each]) for each in (0, n_embedded, 1)))
    spread = np.kron(np.eye(n_embedded), np.ones((1, n_frequencies))) * frequencies.ravel()
    turns = node("Add", node("MatMul", first, spread), phases.ravel() / TURN)
    turns = node("Sub", turns, node("Floor", node("Add", turns, 0.5)))
    waves = node.in_float32("Cos", node("Mul", turns, TURN))
    joined = np.zeros((n_embedded * n_frequencies, n_embedded * n_numbers))
    for feature, block in enumerate(weights):
        rows = slice(feature * n_frequencies, (feature + 1) * n_frequencies)
        joined[rows, feature * n_numbers : (feature + 1) * n_numbers] = block
    numbers = node("Add", node("MatMul", waves, joined), biases.ravel())
    return node("Concat", numbers, h, axis=1)


# ---- outputs ------------------------------------------------------------------------------------


def add_probabilities(node, z, model):
    """Add what a classifier's logits become: a column for each class, or label."""
    kind, activation = model.labels.kind, model.network.output_activation
    if kind == "binary":
        return apply_formula(node, activation, node("Concat", node("Neg", z), z, axis=1))
    if kind == "multiclass" and activation == "logistic":
        # Shares of the outputs, which may all be as good as 0.
        return node("Softmax", node("Neg", softplus(node, node("Neg", z))), axis=1)
    return apply_formula(node, activation, z)


def add_predictions(node, z, model):
    """Add what a regressor's logits become, in the units of its targets."""
    outputs, units = apply_formula(node, model.network.output_activation, z), model.targets
    n_outputs = model.network.layer_sizes[-1]
    if units is not None and units.is_scaled:
        scaled = node("Mul", outputs, np.array(units.deviations))
        outputs = node("Add", scaled, np.array(units.means))
    if units is not None and units.lowest:
        outputs = node("Max", outputs, np.array(units.lowest))
        outputs = node("Min", outputs, np.array(units.highest))
    if units is not None and units.quantiles is not None and n_outputs > 1:
        ranks, values = node.name("ranks"), node.name("sorted")
        count = node.integers([n_outputs])
        node("TopK", outputs, count, output=[values, ranks], axis=1, largest=0, sorted=1)
        places = np.argsort(np.argsort(units.quantiles, kind="stable")).tolist()
        outputs = node("Gather", values, node.integers(places), axis=1)
    return outputs
