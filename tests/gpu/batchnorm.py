"""Compare BatchNorm over two processes' shares of a batch with that of one process over all of it.

python3 tests/gpu/batchnorm.py OUT.json [cpu|cuda]

OUT.json has, for each kind of input, the largest error over the norm of what one process computes: of outputs, of the
gradients of inputs, weight and bias, and of running statistics.
"""

import sys
from pathlib import Path

import torch
import torch.distributed as dist
import torch.nn.functional as F

ROOT, PROCESSES, CHANNELS = Path(__file__).resolve().parents[2], 2, 48
sys.path.insert(0, str(ROOT / "workflow_scripts"))

from core.files import write_json  # noqa: E402
from model import parallel, synced_batchnorm  # noqa: E402

SHAPES = {"channels last": (64, CHANNELS, 28, 28), "contiguous": (64, CHANNELS, 28, 28), "tokens": (3136, CHANNELS)}


def computed(inputs, grads, parameters):
    """Return outputs, gradients and running statistics of BatchNorm in training."""
    running = [torch.zeros(CHANNELS, device=inputs.device), torch.ones(CHANNELS, device=inputs.device)]
    inputs = inputs.detach().requires_grad_()
    outputs = F.batch_norm(inputs, *running, *parameters, training=True)
    return [outputs, *torch.autograd.grad(outputs, [inputs, *parameters], grads), *running]


def error(name, kind, rank, device):
    """Return the error of an input's kind."""
    torch.manual_seed(0)
    inputs = torch.randn(SHAPES[name]).add(1)
    inputs, grads = (part.to(device, kind) for part in (inputs, inputs + torch.randn(SHAPES[name])))
    if name == "channels last":
        inputs, grads = (part.contiguous(memory_format=torch.channels_last) for part in (inputs, grads))
    parameters = [torch.rand(CHANNELS).add(0.5).to(device).requires_grad_() for _ in range(2)]
    wanted = computed(inputs, grads, parameters)
    with synced_batchnorm.synced(1, PROCESSES):
        found = computed(inputs.chunk(PROCESSES)[rank], grads.chunk(PROCESSES)[rank], parameters)
    wanted[:2] = (part.chunk(PROCESSES)[rank] for part in wanted[:2])
    for gradient in found[2:4]:  # of the parameters: an optimizer averages them
        dist.all_reduce(gradient)
    return max(norm(a - b) / norm(b) for a, b in zip(found, wanted))


def norm(tensor):
    return float(tensor.detach().double().norm())


def member(out, kind):
    with parallel.group(torch.device(kind), 0) as (rank, processes, device):
        parallel.connect(processes, device)
        kinds = {"float32": torch.float32, "bfloat16": torch.bfloat16}
        found = {f"{name}, {k}": error(name, dtype, rank, device) for name in SHAPES for k, dtype in kinds.items()}
        if rank == 0:
            write_json(out, found)
            print(found)


if __name__ == "__main__":
    parallel.launch(member, PROCESSES, "spawn", sys.argv[1], sys.argv[2] if len(sys.argv) > 2 else "cuda")
