"""What programs write around weights, and what they call them: wrappers, prefixes, the original LeViT's names."""

import collections

from core.command import log
from core.files import UserError

# Where training programs keep the weights, the preferred first: an average of the weights is what was judged and
# published where there is one, so it goes before the weights of the last step. None of them: the file is the weights.
WRAPPERS = ("state_dict_ema", "model_ema", "model", "state_dict")
INSIDE = ("_orig_mod.", "_fsdp_wrapped_module.", "_checkpoint_wrapped_module.")  # what torch.compile and others add
COUNTER = "n_averaged"  # that torch's AveragedModel saves beside its weights
INDICES = (
    "attention_bias_idxs"  # which entry of a LeViT's table of biases each pair of tokens has: follows from its size
)


def parts(content, is_state):
    """Return {key: state dict} of a file's content, the preferred first; a key of two levels has a dot."""
    found = {}
    for name, value in content.items() if isinstance(content, dict) else ():
        if is_state(value):
            found[str(name)] = value
        elif isinstance(value, dict):
            found.update({f"{name}.{inner}": state for inner, state in value.items() if is_state(state)})
    order = {name: place for place, name in enumerate(WRAPPERS)}
    return dict(sorted(found.items(), key=lambda item: order.get(item[0].partition(".")[0], len(order))))


def choose(found, key, path):
    """Return the key of the part of a file that is taken: `key`, or else the preferred; found: as `parts` gives it.

    Raises UserError where the file has no such part, or several and none that is known.
    """
    if key:
        if key not in found:
            has = f"it has {', '.join(found)}" if found else "it is one state dict, without parts: take the key out"
            raise UserError(f"checkpoint_key: {key}: {path} has no such state dict: {has}")
        return key
    first, *others = found
    if others and first.partition(".")[0] not in WRAPPERS:
        raise UserError(f"{path} holds several state dicts ({', '.join(found)}): say which as `checkpoint_key`")
    if others:
        log.info("weights: %s is taken, not %s (checkpoint_key chooses)", first, " or ".join(others))
    return first


def without_prefixes(state, wanted):
    """Return a state dict without what programs put before names, and the prefix that went, {name: tensor}, text.

    wanted: names of which some are in the file; as long as none is, the first part that all names have goes.
    """
    found = {_without_wrappers(name): value for name, value in state.items()}
    found = found if len(found) == len(state) else dict(state)
    if any(name.startswith("module.") for name in found):
        found.pop(COUNTER, None)
    prefix = ""
    while found and not found.keys() & wanted:
        first = next(iter(found)).partition(".")[0] + "."
        if not all(name.startswith(first) for name in found):
            return dict(state), ""
        prefix, found = prefix + first, {name[len(first) :]: value for name, value in found.items()}
    return found, prefix


def beside(state, wanted):
    """Return (prefix, names without it) where most of what is wanted has a prefix and others stand beside it."""
    tally = collections.Counter(
        name[: -len(inner)] for name in state for inner in _tails(name) if inner in wanted and inner != name
    )
    prefix, count = tally.most_common(1)[0] if tally else ("", 0)
    return (prefix, [name for name in state if not name.startswith(prefix)]) if 2 * count > len(wanted) else ("", [])


def _tails(name):
    parts = name.split(".")
    return [".".join(parts[start:]) for start in range(1, min(len(parts), 4))]


def _without_wrappers(name):
    for inner in INSIDE:
        name = name.replace(inner, "")
    return name


def expected(state, model):
    """Return ({name in the file: name in the model}, {name in the file: tensor that tells shape and type}).

    The names are the original LeViT's where the file has those, else the model's own. A LeViT's indices of biases are
    expected where the file has any: the original saves them, they are no weights and have no name in the model.
    """
    own = model.state_dict()
    originals = original_names(model)
    original = bool(originals) and any(name.startswith("patch_embed.") for name in state)
    names = originals if original else {name: name for name in own}
    shapes = {name: own[target] for name, target in names.items()}
    if any(name.endswith(INDICES) for name in state):
        shapes.update(_indices(model, original))
    return names, shapes


def original_names(model):
    """Return {name in the original LeViT's state dict: name in timm's} for a timm LeViT, nothing for other networks.

    The original is one flat sequence of blocks; timm groups it by stage, a downsampling pair first in each.
    """
    from timm.models import levit

    return {_original(name, model): name for name in model.state_dict()} if isinstance(model, levit.Levit) else {}


def _indices(model, original):
    found = {name: value for name, value in model.named_buffers() if name.endswith(INDICES)}
    return {_original(name, model): value for name, value in found.items()} if original else found


def _original(name, model):
    """Return the original's name of a tensor of a timm LeViT."""
    inner = {prefix: original for original, prefix in _prefixes(model)}
    prefix = max((p for p in inner if name.startswith(p + ".")), key=len)
    return inner[prefix] + name[len(prefix) :].replace(".linear.", ".l." if prefix.startswith("head") else ".c.")


def _prefixes(model):
    """Yield (original prefix, timm prefix) of every part that holds tensors."""
    for index in range(sum(name.startswith("conv") for name, _ in model.stem.named_children())):
        yield f"patch_embed.{2 * index}", f"stem.conv{index + 1}"
    position = 0
    for number, stage in enumerate(model.stages):
        if any(True for _ in stage.downsample.parameters()):
            yield from _attention(f"blocks.{position}", f"stages.{number}.downsample.attn_downsample")
            yield from _mlp(f"blocks.{position + 1}.m", f"stages.{number}.downsample.mlp")
            position += 2
        for block in range(len(stage.blocks)):
            yield from _attention(f"blocks.{position}.m", f"stages.{number}.blocks.{block}.attn")
            yield from _mlp(f"blocks.{position + 1}.m", f"stages.{number}.blocks.{block}.mlp")
            position += 2
    yield "head", "head"
    yield "head_dist", "head_dist"


def _attention(original, name):
    yield original, name
    yield f"{original}.q.1", f"{name}.q.ln"
    yield f"{original}.proj.1", f"{name}.proj.ln"


def _mlp(original, name):
    yield f"{original}.0", f"{name}.ln1"
    yield f"{original}.2", f"{name}.ln2"
