"""A TFLite graph is matched by its structure: other spellings are read, other networks refused."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from movinet_convert.checkpoint import open_checkpoint
from movinet_convert.errors import CheckpointError
from scripts.tflite_damage import with_tiny
from scripts.tflite_writer import TINY, StreamWriter
from tests.checkpoint.folding import folded

if TYPE_CHECKING:
    from pathlib import Path

    from movinet_convert.variants import BlockSpec


@pytest.fixture(autouse=True)
def tiny() -> Iterator[None]:
    with with_tiny():
        yield


def read(writer: StreamWriter, folder: Path) -> Any:
    path = folder / "movinet.tflite"
    path.write_bytes(writer.file())
    return open_checkpoint(path)


# --- other spellings of the same network ----------------------------------------------------------


class ExplicitGate(StreamWriter):
    """The gate's constants as operators of their own, as in front of a converter's optimizer."""

    def gate(self, x: int) -> int:
        x = self.convolution(x, self.shape(self.last_features)[-1])
        shape = self.shape(x)
        if self.gating == "keras":
            x = self.add("MUL", (self.constant(0.2), x), shape)
            x = self.add("ADD", (x, self.constant(0.5)), shape)
            return self.add("RELU_0_TO_1", (x,), shape)
        x = self.add("ADD", (self.constant(3.0), x), shape)
        x = self.add("RELU6", (x,), shape)
        return self.add("MUL", (self.constant(0.16667), x), shape)


class ScaleAndShift(StreamWriter):
    """Normalisation behind the convolutions."""

    def convolution(self, x: int, outputs: int, *window: int, **options: int) -> int:
        x = super().convolution(x, outputs, *window, **options)
        if "FusedActivationFunction" in options:
            return x
        scaled = self.add("MUL", (self.constant(np.full(outputs, 2.0)), x), self.shape(x))
        return self.add("ADD", (scaled, self.constant(np.full(outputs, 0.25))), self.shape(x))


class ExplicitPadding(StreamWriter):
    def depthwise(self, x: int, kernel: int, stride: int) -> int:
        _, height, width, channels = self.shape(x)
        total = max((-(-height // stride) - 1) * stride + kernel - height, 0)
        pad = [0, 0], [total // 2, total - total // 2], [total // 2, total - total // 2], [0, 0]
        padded = (1, height + total, width + total, channels)
        inner = self.add("PAD", (x, self.constant(pad, np.int32)), padded)
        weights = self.weights((1, kernel, kernel, channels), 3)
        shape = (1, -(-height // stride), -(-width // stride), channels)
        window = {"StrideH": stride, "StrideW": stride, "Padding": 1}
        return self.add("DEPTHWISE_CONV_2D", (inner, weights, self.bias(channels)), shape, **window)


class SwappedOperands(StreamWriter):
    def add(self, kind: str, inputs: Any, *rest: Any, **options: Any) -> int:
        return super().add(
            kind, inputs[::-1] if kind in ("ADD", "MUL") else inputs, *rest, **options
        )


class PlainOperators(StreamWriter):
    """Without the operators that newer converters have for a clip, a hard swish and a mean."""

    def gate(self, x: int) -> int:
        if self.gating != "keras":
            return super().gate(x)
        x = self.convolution(x, self.shape(self.last_features)[-1])
        x = self.add("MINIMUM", (x, self.constant(1.0)), self.shape(x))
        return self.add("MAXIMUM", (x, self.constant(0.0)), self.shape(x))

    def hard_swish(self, x: int) -> int:
        shape = self.shape(x)
        shifted = self.add("ADD", (x, self.constant(3.0)), shape, FusedActivationFunction=3)
        product = self.add("MUL", (x, shifted), shape)
        return self.add("MUL", (product, self.constant(1 / 6)), shape)

    def mean(self, x: int) -> int:
        self.last_features = x
        _, height, width, channels = self.shape(x)
        total = self.add("SUM", (x, self.constant([1, 2], np.int32)), (1, 1, 1, channels))
        return self.add("DIV", (total, self.constant(height * width)), (1, 1, 1, channels))

    def mean_so_far(self, mean: int) -> int:
        shape, time = self.shape(mean), self.constant(1, np.int32)
        total = self.add("CUMSUM", (mean, time), shape, Exclusive=0)
        total = self.add("ADD", (total, self.input(*shape)), shape)
        frames = self.add("ADD", (self.constant([0], np.int32), self.input(1, type="INT32")), (1,))
        count = self.add("ADD", (frames, self.constant(1, np.int32)), (1,), "INT32")
        return self.add("DIV", (total, self.add("CAST", (count,), (1,))), shape)


class FoldedRezero(StreamWriter):
    def rezero(self, x: int) -> int:
        return x


@pytest.mark.parametrize("gating", ["keras", "model-garden"])
@pytest.mark.parametrize(
    "spelling", [ExplicitGate, ExplicitPadding, SwappedOperands, PlainOperators]
)
def test_other_spelling_gives_the_same_network(
    spelling: type[StreamWriter], gating: Any, tmp_path: Path
) -> None:
    usual = read(StreamWriter(gating=gating, eight_bits=False), tmp_path)
    other = read(spelling(gating=gating, eight_bits=False), tmp_path)
    assert usual.graph == other.graph
    assert usual.graph.gating == gating
    expected, found = folded(dict(usual.variables)), folded(dict(other.variables))
    assert expected.keys() == found.keys()
    unfolded_gate = spelling is ExplicitGate  # in which the same draws are other weights
    for name, value in expected.items():
        if not (unfolded_gate and "_se_expand" in name):
            np.testing.assert_array_equal(found[name], value, name)


def test_explicit_gate_is_taken_off_the_weights_in_front_of_it(tmp_path: Path) -> None:
    usual = read(StreamWriter(eight_bits=False), tmp_path).variables
    explicit = read(ExplicitGate(eight_bits=False), tmp_path).variables
    layer = "block1_layer1/_attention/_se_expand/_conv/_conv"
    np.testing.assert_allclose(0.2 * usual[f"{layer}/kernel"], explicit[f"{layer}/kernel"], 1e-6)
    np.testing.assert_allclose(
        0.2 * usual[f"{layer}/bias"] + 0.5, explicit[f"{layer}/bias"], rtol=1e-5, atol=1e-6
    )


def test_scale_and_shift_become_gamma_and_beta(tmp_path: Path) -> None:
    usual = read(StreamWriter(eight_bits=False), tmp_path).variables
    opened = read(ScaleAndShift(eight_bits=False), tmp_path)
    found = opened.variables
    norm = "block1_layer0/_projection/_batch_norm"
    np.testing.assert_array_equal(found[f"{norm}/gamma"], np.full(16, 2.0))
    np.testing.assert_allclose(found[f"{norm}/beta"], 2.0 * usual[f"{norm}/beta"] + 0.25, 1e-6)
    classifier = "classifier_head/_classifier/_conv/_conv/kernel"
    np.testing.assert_allclose(found[classifier], 2.0 * usual[classifier], 1e-6)
    assert "a scale and a shift are left" in opened.notes[1]


def test_rezero_that_was_folded_is_one(tmp_path: Path) -> None:
    scale = "block1_layer1/_mobile_bottleneck/_rezero/scale"
    usual, found = read(StreamWriter(), tmp_path), read(FoldedRezero(), tmp_path)
    assert (usual.variables[scale], found.variables[scale]) == (1.5, 1.0)
    assert any("ReZero was folded" in note for note in found.notes)
    assert not any("ReZero" in note for note in usual.notes)


# --- other networks -------------------------------------------------------------------------------


def changed(kind: str, at: int, **options: int) -> Callable[[StreamWriter], None]:
    """Change options of the operator number ``at`` among those of a kind."""

    def change(writer: StreamWriter) -> None:
        found = [operator for operator in writer.operators if operator["kind"] == kind]
        found[at]["options"].update(options)

    return change


def swapped(kind: str) -> Callable[[StreamWriter], None]:
    def change(writer: StreamWriter) -> None:
        for operator in writer.operators:
            if operator["kind"] == kind and operator["options"].get("Axis") == -1:
                operator["inputs"].reverse()

    return change


def weight(number: int, **values: Any) -> Callable[[StreamWriter], None]:
    """Change a constant, counted in the order of the layers."""

    def change(writer: StreamWriter) -> None:
        kernels = [tensor for tensor in writer.tensors if "quantization" in tensor]
        kernels[number].update(values)

    return change


def spare_constant(writer: StreamWriter) -> None:
    writer.constant(np.ones(5))


def second_gating(writer: StreamWriter) -> None:
    limit, positive = (
        next(found for found in reversed(writer.operators) if found["kind"] == kind)
        for kind in ("MINIMUM", "RELU")
    )
    limit["kind"] = "MUL"
    writer.tensors[limit["inputs"][1]]["data"] = np.float32(1 / 6).tobytes()
    positive["kind"] = "RESHAPE"
    convolution = [found for found in writer.operators if found["outputs"] == limit["inputs"][:1]]
    convolution[0]["options"]["FusedActivationFunction"] = 3


def cycle(writer: StreamWriter) -> None:
    writer.operators[3]["inputs"][0] = writer.operators[8]["outputs"][0]


def unknown_operator(writer: StreamWriter) -> None:
    writer.operators[4]["kind"] = "WHILE"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (changed("CONV_2D", 0, StrideH=1), r"the stem has the strides \(1, 1, 2\)"),
        (changed("CONV_2D", 1, StrideH=2), "the expansion of a block, which is pointwise"),
        (changed("CONV_2D", 0, DilationHFactor=2), r"CONV_2D\) is where the stem was expected"),
        (changed("DEPTHWISE_CONV_2D", 0, Padding=1), r"depthwise convolution in block0.* pads by"),
        (changed("CONV_2D", 0, Padding=-3), r"operator 1 \(CONV_2D\) has the padding -3"),
        (changed("AVERAGE_POOL_2D", 0, FilterHeight=2), "pooled 3 x 3 with stride 2"),
        (changed("CONCATENATION", 0, FusedActivationFunction=1), "where the mean of what the gate"),
        (swapped("CONCATENATION"), "where the mean of the frames so far was expected"),
        (spare_constant, r"constant FLOAT32 of shape \(5,\).* in no layer"),
        (second_gating, "has keras and model-garden gates"),
        (weight(3, sparse=True), "a constant that is sparse, which is not read"),
        (weight(3, type="INT4", data=b"1"), "a constant that is of type INT4"),
        (cycle, "uses a result that comes later"),
        (unknown_operator, r"operator 4 \(WHILE\) is where swish or hard_swish was expected"),
    ],
)
def test_other_network_is_refused(
    change: Callable[[StreamWriter], None], said: str, tmp_path: Path
) -> None:
    class Changed(StreamWriter):
        def build(self) -> list[int]:
            outputs = super().build()
            change(self)
            return outputs

    with pytest.raises(CheckpointError, match=rf"^[^\n]*{said}[^\n]*$"):
        read(Changed(), tmp_path)


class Relu6(StreamWriter):
    """As the int8 files on Kaggle: relu6 fused into the convolutions, no squeeze-excitation."""

    def hard_swish(self, x: int) -> int:
        self.operators[-1]["options"]["FusedActivationFunction"] = 3
        return x

    def attended(self, features: int, _: BlockSpec) -> int:
        return features


def test_names_the_architecture_of_the_int8_files_on_kaggle(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="relu6 .* no squeeze-excitation.* on Kaggle"):
        read(Relu6(), tmp_path)


def test_other_widths_are_named(tmp_path: Path) -> None:
    wider = replace(TINY, head=32)
    with pytest.raises(CheckpointError, match=r"the head has a kernel of shape .*32\), and .*24\)"):
        read(StreamWriter(wider), tmp_path)


def test_file_of_another_program_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.tflite"
    path.write_bytes(b"\x10\0\0\0TFL3" + bytes(64))
    with pytest.raises(CheckpointError, match="cannot be read as TFLite"):
        open_checkpoint(path)
