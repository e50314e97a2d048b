"""Quantization-aware training: it repairs what clipping broke, goes on after a kill, and shares its batches."""

import json
import subprocess
import time
from pathlib import Path

import pytest
import torch
from test_graph import CLASS_PASSES, CLASSES, EVERYTHING
from timm.models import efficientformer

import forks
from core.files import UserError, write_json
from graph import onnx_io
from model import checkpoint
from quantization import amax, calibration_images, calibrator, qat
from quantization.distillation import divergence
from quantization.lsq import LearnedScale, LearnedScales
from quantizing import VISION, Digits, calibrated, quantized, random_images
from workflow import REPOSITORY

AUGMENTATION = {"crop_scale": [0.8, 1.0], "crop_ratio": [0.9, 1.1], "flip": 0.0}
FROZEN = {"scales": "frozen", "scale_learning_rate": 3e-4, "features": 0.0, "ema": 0.0}
QAT = {"epochs": 1, "batch": 32, "learning_rate": 3e-4, "temperature": 1.0, **FROZEN}
SHORT = {"epochs": 2, "batch": 300, "ema": 0.9, "scales": "learned", "features": 1.0}  # 4 steps an epoch
CLIPPED = 0.3  # of the calibrated range: a start that quantization-aware training has something to repair in


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    """Digits with ranges that clip, of a network that was scaled and corrected too."""
    made = Digits(tmp_path_factory.mktemp("digits"))
    found = made.calibrate("c.json", equalize=True, bias_correction=True)
    clipped = {n: a if n.endswith("weight_quantizer") else CLIPPED * a for n, a in found["amax"].items()}
    write_json(made["clipped.json"], {**found, "amax": clipped})
    return made


def options(digits, name, **changes):
    return {
        **{"checkpoint": digits["m.pth"], "calibration": digits["clipped.json"], "index": digits["index.json"]},
        **{"images": digits["calib.u8"]},
        **{"model": digits.model, "classes": CLASSES, "seed": 0, "augmentation": AUGMENTATION},
        **{"recipe": {**QAT, **changes}, "qat": digits[name], "device": "cpu", "processes": "1", "threads": "1"},
    }


def trained(digits, name, **changes):
    digits.run("train_qat", **options(digits, name, **changes))
    return digits.folder / name


@pytest.fixture(scope="module")
def short(digits):
    """The bytes of a short training."""
    return trained(digits, "short.pth", **SHORT).read_bytes()


def loss_on_calibration(digits, weights, ranges):
    student = quantized(checkpoint.load_state(digits.folded(), weights, "qat.pth"))
    amax.load(student, ranges)
    inputs = calibration_images.CalibrationImages(digits["calib.u8"], 64, VISION)[:]
    with torch.no_grad():
        return divergence(student(inputs), digits.folded()(inputs)).item()


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({}, id="plain", marks=pytest.mark.slow),
        pytest.param({"scales": "learned", "features": 0.5, "ema": 0.9}, id="all"),
    ],
)
def test_qat_brings_the_quantized_network_nearer_to_fp32(digits, changes):
    calibration = json.loads((digits.folder / "clipped.json").read_text())
    start = calibrator.adjust(digits.folded(), calibration).state_dict()
    before = loss_on_calibration(digits, start, calibration["amax"])
    after = loss_on_calibration(digits, *amax.split_state(checkpoint.read(trained(digits, "qat.pth", **changes))))
    assert after < 0.7 * before


def test_qat_gives_the_same_bytes_twice(digits, short):
    assert trained(digits, "again.pth", **SHORT).read_bytes() == short


def test_steps_end_a_long_training_early(digits):
    one = trained(digits, "one.pth", batch=300, steps=1).read_bytes()
    assert one == trained(digits, "ten.pth", batch=300, epochs=10, steps=1).read_bytes()
    assert one != trained(digits, "two.pth", batch=300, epochs=10, steps=2).read_bytes()


def test_frozen_scales_stay_and_learned_ones_move_together(digits):
    calibration = json.loads((digits.folder / "clipped.json").read_text())["amax"]
    frozen, learned = (
        amax.split_state(checkpoint.read(trained(digits, f"{scales}.pth", batch=300, scales=scales)))[1]
        for scales in ("frozen", "learned")
    )
    assert all(frozen[name] == pytest.approx(calibration[name], rel=1e-6) for name in calibration)
    assert learned.keys() == frozen.keys()
    assert sum(learned[name] != frozen[name] for name in frozen) > 0.75 * len(frozen)
    shared = [f"stages.0.blocks.0.{name}" for name in ("attn.qkv.input_quantizer", "add1.skipped_quantizer")]
    assert len({learned[name] for name in shared}) == 1, "one tensor has one Q/DQ pair"


def test_the_graph_has_the_pairs_of_the_calibrated_one(digits):
    given = {
        "checkpoint": digits["m.pth"],
        "calibration": digits["clipped.json"],
        "model": digits.model,
        "classes": CLASSES,
    }
    given.update(passes=CLASS_PASSES["gpu"], placement=EVERYTHING, quantized=digits["q.onnx"])
    given["images"] = digits["calib.u8"]
    pairs, trained_state = [], trained(digits, "pairs.pth", batch=300, scales="learned")
    for qat_state in ("", str(trained_state)):
        digits.run("quantize_onnx", **given, qat=qat_state)
        graph = onnx_io.load(digits["q.onnx"])
        pairs.append(sorted(node.name for node in graph.nodes if node.op == "QuantizeLinear"))
        images = {onnx_io.INPUT: onnx_io.random_batch(graph, 2)}
        assert onnx_io.runner(onnx_io.to_model(graph)).run(None, images)[0].shape == (2, CLASSES)
    assert len(pairs[0]) > 50 and pairs[0] == pairs[1]


def test_a_batch_larger_than_the_training_split_is_refused(digits):
    with pytest.raises(UserError, match="qat.batch 2000 is more than the 1337 training images"):
        trained(digits, "c.pth", batch=2000)


def test_a_batch_that_processes_cannot_share_is_refused(digits):
    with pytest.raises(UserError, match="--processes 3: they cannot share batch 32 evenly: set LEVIT_PROCESSES=2"):
        digits.run("train_qat", **{**options(digits, "d.pth"), "processes": "3"})


# The parts


def test_learned_scales_compute_like_the_quantizers_and_have_lsqs_gradient():
    values = torch.tensor([[-3.0, 0.24, 0.26, 1.0]], requires_grad=True)
    scale = LearnedScale(torch.tensor(127 / 64))  # a step of 1/64
    quantized = scale(values)
    assert torch.allclose(quantized, torch.tensor([[-2.0, 15 / 64, 17 / 64, 1.0]]))  # -128 steps at most
    quantized.sum().backward()
    assert torch.equal(values.grad, torch.tensor([[0.0, 1.0, 1.0, 1.0]]))
    steps = torch.tensor([-128.0, 15 - 0.24 * 64, 17 - 0.26 * 64, 0.0])  # rounded minus exact; the bound where clipped
    expected = steps.sum() * (4 * 127) ** -0.5 * (127 / 64) / 127
    assert scale.ratio.grad.item() == pytest.approx(expected.item(), rel=1e-4)


def test_fake_quantization_under_autocast_has_the_same_codes_and_gradients():
    values = torch.linspace(-2.2, 2.2, 301).view(1, 7, 43)
    exact, fast = LearnedScale(torch.tensor(127 / 64)), LearnedScale(torch.tensor(127 / 64))
    inputs = [values.clone().requires_grad_() for _ in range(2)]
    expected = exact(inputs[0])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        quantized = fast(inputs[1])
    assert quantized.dtype == torch.bfloat16 and torch.equal(quantized, expected.bfloat16())
    for output in (expected, quantized):
        (output.float() * values.sign()).sum().backward()
    assert torch.equal(inputs[0].grad, inputs[1].grad) and (inputs[0].grad == 0).any()
    assert fast.ratio.grad.item() == pytest.approx(exact.ratio.grad.item(), rel=0.01)


def test_a_tensor_that_several_quantizers_read_is_quantized_once_in_each_pass():
    scale, values = LearnedScale(torch.tensor(1.0), readers=2), torch.randn(2, 8)
    first, second, next_pass = (scale(values) for _ in range(3))
    assert first is second and next_pass is not first


def test_images_are_not_rounded_by_autocast(digits):
    network, images = qat.keep_images_exact(digits.folded()), torch.full((1, 3, 64, 64), -2.1179)
    first = next(module for module in network.modules() if isinstance(module, torch.nn.Conv2d))
    exact = first(images)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(first(images), exact)


def test_learned_scales_start_from_the_calibrated_network_and_leave_it_usable(digits):
    batch = random_images(4)
    _, network = calibrated(digits.folded(), batch)
    with torch.no_grad():
        before = network(batch)
        scales = LearnedScales(network, batch[:2])
        assert torch.allclose(network(batch), before, atol=1e-5)
        for scale in scales:
            scale.ratio.mul_(1.5)
        halfway = network(batch)
        scales.release()
        assert not torch.equal(halfway, before) and torch.allclose(network(batch), halfway, atol=1e-5)


def test_biases_that_a_network_keeps_in_eval_mode_learn_in_each_step():
    attention = efficientformer.Attention(dim=16, key_dim=4, num_heads=2, resolution=2)
    observed = qat.Observed(torch.nn.Sequential(attention).eval())
    tokens = torch.randn(2, 4, 16, generator=torch.Generator().manual_seed(0))
    gradients = []
    for _ in range(2):
        observed(tokens)[0].square().sum().backward()
        gradients.append(attention.attention_biases.grad.clone())
    assert gradients[0].abs().sum() > 0 and torch.allclose(gradients[1], 2 * gradients[0])


def test_features_weigh_in_the_loss():
    logits, features = torch.zeros(2, 3), (torch.ones(2, 4, 5), 2 * torch.ones(2, 4, 5))
    off = tuple(1.1 * feature for feature in features)
    row = {"temperature": 1.0, "features": 0.0}
    assert qat.loss_of((logits, off), (logits, features), row) == 0
    assert qat.loss_of((logits, off), (logits, features), {**row, "features": 3.0}).item() == pytest.approx(
        0.03, rel=1e-4
    )


def test_the_average_of_weights_follows_them():
    weight = torch.nn.Parameter(torch.zeros(3))
    average = qat.EMA([weight], 0.5)
    for step, value in enumerate((1.0, 1.0, 4.0)):
        weight.data.fill_(value)
        average.update(step)
    average.apply()
    after_two = 1 - (1 / 10) * (2 / 11)  # the shares of what was there before: 1/10, 2/11, then 3/12
    assert weight[0].item() == pytest.approx(after_two * 3 / 12 + 4 * 9 / 12, rel=1e-5)


def test_distillation_is_zero_for_equal_logits_and_grows():
    logits = torch.randn(4, 10, generator=torch.Generator().manual_seed(0))
    assert divergence(logits, logits, 2.0).item() == pytest.approx(0, abs=1e-6)
    far, near = (divergence(logits + d * torch.arange(10.0), logits, 2.0).item() for d in (1.0, 0.1))
    assert far > near > 0


# Going on after a kill, and several processes


def command_of(given):
    texts = {name: value if isinstance(value, str) else json.dumps(value) for name, value in given.items()}
    script = str(REPOSITORY / "workflow_scripts/train_qat.py")
    return [forks.python_with_torch(), script, *(f"--{name}={text}" for name, text in texts.items())]


@pytest.mark.slow  # test_finetune.py kills the other training, which goes on by the same state
def test_a_killed_training_goes_on_to_the_same_bytes(digits, short):
    assert not Path(digits["short.pth.resume"]).exists()
    given = options(digits, "killed.pth", **SHORT)
    state = Path(digits["killed.pth.resume"])
    process = subprocess.Popen(command_of(given), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 240
    while not state.exists():
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.02)
    process.kill()
    process.wait()
    assert not Path(digits["killed.pth"]).exists()
    kept = torch.load(state, weights_only=True)["state"]["step"]
    assert 0 < kept < 8 and kept % 4 == 0
    seen = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            qat.QatTrainer,
            "restore",
            lambda job, saved, old=qat.QatTrainer.restore: (seen.append(saved["step"]), old(job, saved)),
        )
        digits.run("train_qat", **given)
    assert seen == [kept]
    assert Path(digits["killed.pth"]).read_bytes() == short
    assert not state.exists()


@pytest.mark.parametrize("damage", ["another recipe", pytest.param("half a file", marks=pytest.mark.slow)])
def test_a_state_that_is_not_this_jobs_is_not_used(digits, damage):
    own = trained(digits, "own.pth", batch=400).read_bytes()
    state = Path(digits["other.pth.resume"])
    torch.save({"key": "another", "state": {"step": 2}}, state)
    if damage == "half a file":
        state.write_bytes(state.read_bytes()[:100])
    assert trained(digits, "other.pth", batch=400).read_bytes() == own
    assert not state.exists()


def test_two_processes_average_their_gradients(digits):
    epoch = {**SHORT, "epochs": 1}
    alone = checkpoint.read(trained(digits, "alone.pth", **epoch))
    given = {**options(digits, "shared.pth", **epoch), "processes": "2"}
    done = subprocess.run(command_of(given), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    shared = checkpoint.read(digits["shared.pth"])
    calibration = json.loads((digits.folder / "clipped.json").read_text())
    before = calibrator.adjust(digits.folded(), calibration).state_dict()
    moved, apart = (distance(alone, other) for other in (before, shared))
    lone_share = checkpoint.read(trained(digits, "half.pth", **{**epoch, "batch": 150, "steps": 4}))
    assert apart < 0.02 * moved and apart < 0.5 * distance(alone, lone_share)  # bfloat16 rounds each share differently


def distance(one, other):
    """Return the mean of absolute differences between the weights of two state dicts."""
    weights = [name for name in other if "_quantizer" not in name]
    return torch.cat([(one[name] - other[name]).abs().flatten() for name in weights]).mean().item()


def test_what_goes_wrong_in_a_process_is_one_line(digits):
    given = {**options(digits, "bad.pth", temperature=1e-40, batch=300), "processes": "2"}
    done = subprocess.run(command_of(given), capture_output=True, text=True)
    assert done.returncode == 1
    assert "error: one of 2 processes failed: QAT diverged in epoch" in done.stderr.splitlines()[-1]
