"""What users see: the names, their signatures, their docstrings; and the order of the house."""

import ast
import inspect
import re
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import jaxbp
from jaxbp import layers

PACKAGE = Path(jaxbp.__file__).parent

# The contract, as `inspect` prints it without annotations; "…" is what it leaves open.
SIGNATURES = {
    "dense": "(x, w, b=None)",
    "dense_input_grad": "(dy, w)",
    "dense_weight_grad": "(x, dy)",
    "dense_bias_grad": "(dy)",
    "sigmoid": "(x)",
    "tanh": "(x)",
    "relu": "(x)",
    "leaky_relu": "(x, slope=0.01)",
    "elu": "(x)",
    "gelu": "(x, approximate=True)",
    "silu": "(x)",
    "softplus": "(x)",
    "softmax": "(x, axis=-1)",
    "log_softmax": "(x, axis=-1)",
    "half_squared_error": "(y, t)",
    "softmax_cross_entropy": "(logits, labels)",
    "sigmoid_cross_entropy": "(logits, labels)",
    "conv": "(x, w, b=None, *, stride=1, padding='SAME', dilation=1, groups=1)",
    "conv_transpose": "(x, w, b=None, *, stride=1, padding='SAME', dilation=1, groups=1)",
    "conv_input_grad": "(dy, w, input_shape, *, stride=1, padding='SAME', dilation=1, groups=1)",
    "conv_kernel_grad": "(x, dy, kernel_shape, *, stride=1, padding='SAME', dilation=1, groups=1)",
    "conv_bias_grad": "(dy)",
    "avg_pool": "(x, window, *, stride=None, padding='VALID', count_include_pad=True)",
    "max_pool": "(x, window, *, stride=None, padding='VALID', dilation=1, ties='first')",
    "avg_pool_grad": (
        "(dy, input_shape, window, *, stride=None, padding='VALID', count_include_pad=True)"
    ),
    "max_pool_grad": (
        "(dy, winner, input_shape, window, *, stride=None, padding='VALID', dilation=1, "
        "ties='first')"
    ),
    "global_avg_pool": "(x)",
    "global_max_pool": "(x)",
    "subsample": "(x, beta, b, window)",
    "combine_maps": "(x, c)",
    "conv_relu_max_pool": (
        "(x, w, b=None, *, stride=1, padding='SAME', dilation=1, groups=1, window=2, "
        "pool_stride=None)"
    ),
    "accelerate": "(fn)",
    "check_vjp": "(fn, *args, reference=None, …)",
    "assert_vjp": "(fn, *args, …)",
    "sequential": "(*layers)",
    "backprop": "(network, loss, params, x, t)",
}
# What is no formula: tools that work on anybody's function.
TOOLS = {"accelerate", "assert_vjp", "check_vjp", "explain", "plain"}
FUNCTIONS = [
    name for name in jaxbp.__all__ if inspect.isfunction(getattr(jaxbp, name)) and name not in TOOLS
]
LAYERS = [name for name, value in vars(layers).items() if inspect.isfunction(value)]
LAYERS = [
    name
    for name in LAYERS
    if not name.startswith("_") and getattr(layers, name).__module__ == layers.__name__
]


@pytest.mark.parametrize("name", SIGNATURES)
def test_signature(name):
    function = getattr(jaxbp, name)
    signature = inspect.signature(function)
    bare = signature.replace(
        parameters=[p.replace(annotation=p.empty) for p in signature.parameters.values()],
        return_annotation=signature.empty,
    )
    promised, left_open, _ = SIGNATURES[name].partition("…")
    assert str(bare) == promised or (left_open and str(bare).startswith(promised))


def test_the_results_of_the_sweep_are_named():
    assert jaxbp.Sweep._fields == ("loss", "grads", "sensitivities", "outputs")
    assert jaxbp.Layer._fields == ("init", "apply", "forward", "backward")


def test_every_name_is_exported_and_every_export_is_a_name():
    assert set(SIGNATURES) <= set(jaxbp.__all__)
    assert len(set(jaxbp.__all__)) == len(jaxbp.__all__)
    for name in jaxbp.__all__:
        assert getattr(jaxbp, name) is not None


def test_all_is_written_out():
    tree = ast.parse((PACKAGE / "__init__.py").read_text())
    (names,) = [
        node.value
        for node in tree.body
        if isinstance(node, ast.Assign) and node.targets[0].id == "__all__"
    ]
    assert sorted(ast.literal_eval(names)) == sorted(jaxbp.__all__)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_docstring_has_every_part(name):
    doc = inspect.getdoc(getattr(jaxbp, name))
    first, *rest = doc.split("\n\n")
    assert "\n" not in first
    assert first.endswith(".")
    assert "``" in first + "".join(rest[:3]), "no formula"
    for part in ("Source:", "Args:", "Returns:", "Raises:", "Example:", "See also:"):
        assert f"\n{part}" in doc, f"no {part}"
    assert re.search(r"\(\d\.\d+\)", doc.split("Source:")[1].split("\n\n")[0])
    assert ">>> " in doc.split("Example:")[1].split("See also:")[0]
    arguments = doc.split("Args:")[1].split("Returns:")[0]
    for parameter in inspect.signature(getattr(jaxbp, name)).parameters:
        assert re.search(rf"\b{parameter}\b.*?:", arguments), f"{parameter} is not described"


@pytest.mark.parametrize("name", sorted(TOOLS & set(jaxbp.__all__)))
def test_a_tool_has_a_docstring_with_an_example(name):
    doc = inspect.getdoc(getattr(jaxbp, name))
    result = "Raises:" if name == "assert_vjp" else "Returns:"  # which is all that it is for
    for part in ("Args:", result, "Example:"):
        assert f"\n{part}" in doc, f"no {part}"


@pytest.mark.parametrize("name", sorted({*LAYERS} - {"flatten"}))  # which applies no rule
def test_a_layer_says_what_it_applies_and_cites_what_that_cites(name):
    layer, rule = (inspect.getdoc(getattr(place, name)) for place in (layers, jaxbp))
    assert f"`jaxbp.{name}`" in layer.partition("\n")[0]
    assert source(layer) == source(rule)
    arguments = layer.partition("Args:")[2]
    for parameter in inspect.signature(getattr(layers, name)).parameters:
        assert re.search(rf"\b{parameter}\b.*?:", arguments), f"{parameter} is not described"


def source(doc):
    return doc.split("\nSource: ")[1].partition("\n\n")[0]


def test_every_module_and_public_function_has_a_docstring():
    for path in PACKAGE.rglob("*.py"):
        tree = ast.parse(path.read_text())
        if path.name == "__init__.py" and not tree.body:
            continue
        assert ast.get_docstring(tree), f"{path} has no docstring"
        for node in tree.body:
            if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_"):
                assert ast.get_docstring(node), f"{path}: {node.name} has no docstring"


# Lower rooms first. A module may import what stands in its own room or in a lower one.
ROOMS = [
    {"arguments", "precision", "window"},
    {"lowering"},
    {"rules"},
    {"network", "layers"},
    {"backprop"},
]
# A room apart, and what it may see of the house.
APART = {"verify": {"verify"}}
# The rooms of the checker, lower ones first: those of one line know nothing of each other.
CHECKER = [
    {"report", "subject"},
    {"compare"},
    {"trial"},
    {"diagnose"},
    {"checks"},
    {"check"},
    {"", "case"},  # what the checker is to others
    {"cli"},
]
BARE = {"jax", "numpy", "jaxbp"}  # all that the library imports beside the standard library


def imported(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: a relative import"
            yield node.module
            if node.module == "jaxbp":
                yield from (f"jaxbp.{alias.name}" for alias in node.names)


def room(module):
    return module.split(".")[1] if module.startswith("jaxbp.") else ""


def modules():
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        yield pytest.param(path, parts[0], id="/".join(parts))


MODULES = list(modules())


@pytest.mark.parametrize(("path", "name"), MODULES)
def test_lower_rooms_never_import_higher_ones(path, name):
    rooms = {room(module) for module in imported(path)} - {""}
    if name in APART:
        assert rooms <= APART[name]
    for height, here in enumerate(ROOMS):
        if name in here:
            assert rooms <= set().union(*ROOMS[: height + 1])


IN_CHECKER = [p for p in MODULES if p.values[1] == "verify"]


def checker_room(module):
    """The room of `jaxbp.verify.room.file`; "" is the package itself."""
    return module.removeprefix("jaxbp.verify").partition(".")[2].partition(".")[0]


@pytest.mark.parametrize("path", [p.values[0] for p in IN_CHECKER], ids=[p.id for p in IN_CHECKER])
def test_the_checker_s_lower_rooms_never_import_higher_ones(path):
    here = path.relative_to(PACKAGE / "verify").with_suffix("").parts[0]
    here = "" if here == "__init__" else here
    (height,) = [k for k, room in enumerate(CHECKER) if here in room]
    rooms = {checker_room(m) for m in imported(path) if m.startswith("jaxbp.verify")}
    assert rooms <= set().union({here}, *CHECKER[:height])
    if here == "report":
        assert not {"jax", "numpy"} & {module.split(".")[0] for module in imported(path)}


@pytest.mark.parametrize(("path", "name"), MODULES)
def test_the_library_needs_jax_alone(path, name):
    if name == "interop":  # an adapter imports its framework when it is used
        return
    outside = {module.split(".")[0] for module in imported(path)}
    assert outside - set(sys.stdlib_module_names) <= BARE


def uses(path, modules):
    """The modules among these that a file imports, for its types only or not."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            for alias in node.names:
                inside = f"{node.module}.{alias.name}"
                yield inside if inside in modules else node.module


@pytest.mark.parametrize("folder", ["jaxbp", "experiments"])
def test_no_files_import_each_other(folder):
    root = PACKAGE.parent if folder == "jaxbp" else PACKAGE.parent / "experiments"
    modules = {
        ".".join(path.relative_to(root).with_suffix("").parts).removesuffix(".__init__"): path
        for path in sorted((PACKAGE.parent / folder).rglob("*.py"))
    }
    graph = {name: {*uses(path, modules)} & modules.keys() for name, path in modules.items()}
    TopologicalSorter(graph).prepare()  # raises CycleError, which names the files
