"""The operators of attention.py as functions of standard ONNX operators, for runtimes without the plugin."""

import functools

import onnx
import onnx_graphsurgeon as gs

DOMAIN = "levit"
OPS = ("LevitAttention", "LevitAttentionDownsample")
IMAGE = "Image"  # suffix of an operator that works on images
# {suffix behind it: (inputs are codes of INT8, the result is codes)}
CODES = {"Int8In": (True, False), "Int8Out": (False, True), "Int8": (True, True), "": (False, False)}
HEADS_FIRST, KEYS_LAST = [0, 2, 1, 3], [0, 2, 3, 1]  # permutations of [B, N, heads, D]

BODY = """
<opset_import: ["": 13], domain: "levit">
{op} <heads, key_dim, val_dim, queries, keys, bias{scales}> ({inputs}) => (result)
{{
    one = Constant <value_ints = [1]> ()
    kept = Constant <value_ints = [0]> ()
    rest = Constant <value_ints = [-1]> ()
    h0 = Constant <value_int: int = @heads> ()
    k0 = Constant <value_int: int = @key_dim> ()
    d0 = Constant <value_int: int = @val_dim> ()
    h = Reshape (h0, one)
    k = Reshape (k0, one)
    d = Reshape (d0, one)
    {taken}
    {heads}
    {split}
    {scaled}
    qt = Transpose <perm = {rows}> ({q})
    kt = Transpose <perm = {columns}> ({k})
    vt = Transpose <perm = {rows}> ({v})
    products = MatMul (qt, kt)
    b = Constant <value: tensor = @bias> ()
    scores = Add (products, b)
    weights = Softmax <axis = -1> (scores)
    sums = MatMul (weights, vt)
    joined = Transpose <perm = {rows}> (sums)
    {join}
    x = Reshape (joined, whole)
    gate = HardSigmoid <alpha = 0.16666667, beta = 0.5> (x)
    {end} = Mul (x, gate)
    {given}
}}
"""
TAKEN = """
    {name}_zero = Constant <value: tensor = int8 {{0}}> ()
    {name}_unit = Constant <value_float = 1.0> ()
    {name} = DequantizeLinear ({name}_codes, {name}_unit, {name}_zero)"""
SCALED = """
    {part}_worth = Constant <value_float: float = @{part}_scale> ()
    {part}x = Mul ({part}s, {part}_worth)"""
GIVEN = """
    result_zero = Constant <value: tensor = int8 {0}> ()
    result_worth = Constant <value_float: float = @result_scale> ()
    result = QuantizeLinear (y, result_worth, result_zero)"""
INPUTS = {"LevitAttention": ["qkv"], "LevitAttentionDownsample": ["kv", "q"]}
SPLIT = {
    "LevitAttention": """
    parts = Concat <axis = 0> (k, k, d)
    qs, ks, vs = Split <axis = {axis}> (qkv4, parts)""",
    "LevitAttentionDownsample": """
    parts = Concat <axis = 0> (k, d)
    ks, vs = Split <axis = {axis}> (kv4, parts)
    qs = Identity (q4)""",
}
DEPTH = {  # elements of a head in an input
    "qkv": """
    kk = Add (k, k)
    qkv_d = Add (kk, d)""",
    "kv": "kv_d = Add (k, d)",
    "q": "q_d = Identity (k)",
}
TOKENS = {  # heads are [B, N, heads, D]
    "rows": HEADS_FIRST,
    "columns": KEYS_LAST,
    "axis": 3,
    "heads": """
    {name}_s = Concat <axis = 0> (kept, kept, h, rest)
    {name}4 = Reshape ({name}, {name}_s)""",
    "join": "whole = Concat <axis = 0> (kept, kept, rest)",
}
IMAGES = {  # heads are [B, heads, D, N]
    "rows": [0, 1, 3, 2],
    "columns": [0, 1, 2, 3],
    "axis": 2,
    "heads": """
    {depth}
    {name}_s = Concat <axis = 0> (kept, h, {name}_d, rest)
    {name}4 = Reshape ({name}, {name}_s)""",
    "join": """
    sides = Shape ({name})
    begin = Constant <value_ints = [2]> ()
    end = Constant <value_ints = [4]> ()
    places = Slice (sides, begin, end)
    channels = Mul (h, d)
    whole = Concat <axis = 0> (kept, channels, places)""",
}


@functools.cache
def function(op: str) -> gs.Function:
    """Return the definition of an operator."""
    model = onnx.helper.make_model(onnx.GraphProto(name="empty"), functions=[onnx.parser.parse_function(_text(op))])
    return gs.import_onnx(model).functions[0]


def codes_suffix(takes: bool, gives: bool) -> str:
    """Return the suffix of an operator whose inputs are codes of INT8, whose result is, or both."""
    return next(suffix for suffix, both in CODES.items() if both == (takes, gives))


def _text(op):
    suffix = next(suffix for suffix in CODES if op.endswith(suffix))
    takes, gives = CODES[suffix]
    floating = op.removesuffix(suffix)
    kind = floating.removesuffix(IMAGE)
    layout: dict = TOKENS if kind == floating else IMAGES
    names, scaled = INPUTS[kind], "qkv" if takes else ""
    parts = {
        "inputs": ", ".join(f"{name}_codes" if takes else name for name in names),
        "scales": "".join(f", {part}_scale" for part in [*scaled, *(["result"] if gives else [])]),
        "taken": "".join(TAKEN.format(name=name) for name in names if takes),
        "heads": "\n".join(layout["heads"].format(name=name, depth=DEPTH[name]) for name in names),
        "split": SPLIT[kind].format(axis=layout["axis"]),
        "scaled": "".join(SCALED.format(part=part) for part in scaled),
        **{part: f"{part}x" if takes else f"{part}s" for part in "qkv"},
        "join": layout["join"].format(name=names[-1]),
        "end": "y" if gives else "result",
        "given": GIVEN if gives else "",
    }
    return BODY.format(op=op, rows=layout["rows"], columns=layout["columns"], **parts)
