"""What programs write around weights, and what they call them: wrappers, prefixes, the original LeViT's names."""

from cli import log

# Where training programs keep the weights, the preferred first: an average of the weights is what was judged and
# published where there is one, so it goes before the weights of the last step. None of them: the file is the weights.
WRAPPERS = ("state_dict_ema", "model_ema", "model", "state_dict")
PREFIXES = ("module.", "_orig_mod.")  # of DistributedDataParallel and of torch.compile, in any order
INDICES = (
    "attention_bias_idxs"  # which entry of a LeViT's table of biases each pair of tokens has: follows from its size
)


def unwrapped(content, is_state):
    """Return the weights in a file's content: what is under the first of WRAPPERS that is a state dict, or all."""
    found = [name for name in WRAPPERS if isinstance(content, dict) and is_state(content.get(name))]
    if found[1:]:
        log.info("weights: %s is taken, not %s", found[0], " or ".join(found[1:]))
    return content[found[0]] if found else content


def without_prefixes(state):
    """Return a state dict without the prefixes that all of its names have."""
    while True:
        prefix = next((p for p in PREFIXES if state and all(name.startswith(p) for name in state)), None)
        if prefix is None:
            return state
        state = {name[len(prefix) :]: value for name, value in state.items()}


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
