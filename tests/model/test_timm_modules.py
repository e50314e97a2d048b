"""timm and modelopt come without torch's compiler, which is whole afterwards for what uses it."""

import subprocess
import sys
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).resolve().parents[2] / "workflow_scripts"
IMPORTED = """
import sys
import torch
from model.timm_modules import levit, timm
assert "huggingface_hub" not in sys.modules
from quantization import backends
assert len(list(backends.add(torch.nn.Sequential(torch.nn.Linear(2, 2)), {}).modules())) == 4, "two quantizers"
step = torch.optim.AdamW([torch.nn.Parameter(torch.ones(1))])
step.step()
assert "torch._dynamo.eval_frame" not in sys.modules, "the compiler is imported"
import torchvision
boxes = torch.tensor([[0.0, 0.0, 0.0, 4.0, 4.0]])
assert torchvision.ops.roi_align(torch.ones(1, 3, 8, 8), boxes, 2).shape == (1, 3, 2, 2)
assert isinstance(timm.create_model("levit_128s"), levit.Levit)
assert torch.compile(lambda value: value + 1, backend="eager")(torch.ones(1)).item() == 2
assert torch._dynamo.__file__
"""


@pytest.mark.slow
@pytest.mark.parametrize("before", ["", "import torch._dynamo.utils as kept\n"])
def test_the_compiler_is_left_out_and_whole_afterwards(before):
    code = (
        IMPORTED
        if not before
        else before + IMPORTED.replace('frame" not in sys.modules, "the', 'frame" in sys.modules, "no')
    )
    subprocess.run([sys.executable, "-c", code], cwd=SCRIPTS, check=True)


@pytest.mark.slow
def test_a_module_of_the_compiler_is_the_one_that_the_compiler_uses():
    code = "from model import timm_modules; import torch._dynamo.exc as one; from torch._dynamo import convert_frame;"
    code += (
        "import sys; assert convert_frame.exc is one is sys.modules['torch._dynamo.exc']; assert one.__spec__.origin"
    )
    subprocess.run([sys.executable, "-c", code], cwd=SCRIPTS, check=True)


@pytest.mark.slow
def test_a_timm_that_needs_more_of_the_compiler_gets_it(tmp_path):
    (tmp_path / "timm").mkdir()
    package = "import torch._dynamo\nRESET = torch._dynamo.reset\n"  # the empty module has none
    (tmp_path / "timm/__init__.py").write_text(package)
    for name in ("data", "layers", "models", "utils"):
        (tmp_path / f"timm/{name}.py").write_text("levit = None\n")
    code = "import sys; sys.path.insert(0, sys.argv[1]); from model.timm_modules import timm; timm.RESET()"
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], cwd=SCRIPTS, check=True)
